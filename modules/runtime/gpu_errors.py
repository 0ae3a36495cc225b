"""What a user can do about an error of the GPU, its driver or its libraries.

By names and words alone, since PyTorch may not be imported where a script ends.
"""

import re

OUT_OF_MEMORY = (
    *("CUDA error: out of memory", "MPS backend out of memory", "DefaultCPUAllocator"),
    *("CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED"),
)
# Words of the error: what to do.
ADVICE = {
    "no kernel image is available": "this PyTorch is not built for the card: install one that is, "
    "or use --device cpu",
    "driver on your system is too old": "update the NVIDIA driver, install a PyTorch for an older "
    "CUDA, or use --device cpu",
    "driver version is insufficient": "update the NVIDIA driver, install a PyTorch for an older "
    "CUDA, or use --device cpu",
    "busy or unavailable": "another process has the GPU for itself: wait for it, choose another "
    "with CUDA_VISIBLE_DEVICES, or use --device cpu",
    "unable to find an engine": "cuDNN cannot compute a layer of the model on this card: try "
    "--precision float32, another version of PyTorch, or --device cpu",
    "CUDNN_STATUS_NOT_SUPPORTED": "cuDNN cannot compute a layer of the model on this card: try "
    "--precision float32, another version of PyTorch, or --device cpu",
    "uncorrectable ECC error": "the GPU's memory is faulty: restart the machine, or use another "
    "GPU; --resume continues the run",
    "GPU is lost": "the GPU no longer answers: restart the machine; --resume continues the run",
    "NCCL error": "the GPUs cannot reach each other: NCCL_DEBUG=INFO shows why; --gpu 1 does "
    "without",
}


def out_of_memory(error: BaseException) -> bool:
    """Whether memory was refused, by Python, numpy, or PyTorch on a GPU or the CPU."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and any(words in str(error) for words in OUT_OF_MEMORY))
    )


def explained(error: BaseException) -> str | None:
    """What happened and what to do, in one line; None where the program itself is at fault."""
    text = str(error).strip()
    what = f"{(text.splitlines() or ['an allocation failed'])[0]:.200}"
    if out_of_memory(error):
        return (
            f"not enough memory ({what}); fewer or smaller frames, a shorter clip, a smaller batch "
            "or a smaller model need less"
        )
    if not isinstance(error, RuntimeError):  # also PyTorch's own kinds, and NotImplementedError
        return None
    if lacking := re.search(r"'(\S+)' is not currently implemented for the MPS device", text):
        return (
            f"--device mps: this PyTorch lacks {lacking.group(1)} on Apple GPUs; run it with "
            "PYTORCH_ENABLE_MPS_FALLBACK=1 in the environment, or use --device cpu"
        )
    for words, advice in ADVICE.items():
        if words in text:
            line = next(line for line in text.splitlines() if words in line)
            return f"the GPU cannot be used ({line.strip():.200}): {advice}"
    return None
