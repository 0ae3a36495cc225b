"""The device and the precision that networks run in, and advice on a GPU's errors."""

import ctypes
import os
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from modules.runtime import distributed
from modules.runtime.errors import UserError

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# Kinds of device without float64, on which no optimiser can leave out a step by itself.
LIMITED = {"mps"}
# From this compute capability on cuDNN computes depthwise convolutions in channels-last.
AMPERE = (8, 0)
NO_KERNELS = "no kernel image is available"  # PyTorch's message where it is not built for a card
# mallopt()'s parameters, from glibc's malloc.h.
MALLOC_TRIM_THRESHOLD, MALLOC_TOP_PAD, MALLOC_MMAP_MAX, MALLOC_ARENA_MAX = -1, -2, -4, -8

Model = TypeVar("Model", bound=nn.Module)

# ---------------------------------------------------------------- which device


def choose_device(name: str, gpus: int = 1) -> torch.device:
    """The device for --device and --gpu: auto takes CUDA, then an Apple GPU, then the CPU.

    Raises UserError when there is no such device. A CUDA device that auto cannot use is noted.
    """
    count, trouble = _count_cuda()
    several = distributed.world_size() > 1
    if gpus > max(count, 1):
        raise UserError(
            f"--gpu {gpus}: there are {count} GPUs here" + (trouble and f" ({trouble})")
        )
    if gpus > 1 and name not in ("auto", "cuda"):
        raise UserError(f"--gpu {gpus}: needs CUDA; leave out --device {name}")
    if name in ("auto", "cuda") and count:
        # Each process of a machine takes the GPU of its number.
        number = int(os.environ.get("LOCAL_RANK", 0))
        if number >= count:
            raise UserError(f"process {number} of this machine has no GPU: there are {count} here")
        card = torch.device("cuda", number)
        # What starts the ranks leaves the cards to them: some let in a single process.
        trouble = "" if gpus > 1 and not several else _why_unusable(card)
        if not trouble:
            return card
    if name == "cuda" or gpus > 1:
        built = torch.backends.cuda.is_built()
        none = "there is no CUDA device here" if built else "this PyTorch is built without CUDA"
        raise UserError(f"--device cuda: {trouble or none}, or use --device cpu")
    if trouble and name == "auto":
        print(f"note: CUDA is not used: {trouble}", flush=True)
    if name == "mps" and several:
        raise UserError("--device mps: runs in one process; leave out torchrun, or --device mps")
    if name != "cpu" and not several and torch.backends.mps.is_available():
        return torch.device("mps", 0)
    if name == "mps":
        raise UserError("--device mps: needs a Mac with an Apple GPU; use --device cpu")
    return torch.device("cpu")


def _count_cuda() -> tuple[int, str]:
    """The number of CUDA devices, and why there is none where PyTorch warns that CUDA cannot start,
    as with a driver that is too old; "" where the machine simply has none."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if torch.cuda.is_available():
            return torch.cuda.device_count(), ""
    text = " ".join(str(warning.message) for warning in caught)
    _, found, reason = text.partition("CUDA initialization: ")
    if not found:
        return 0, ""
    return 0, (
        f"CUDA does not start ({re.split(r'[.] | - ', reason)[0]:.150}): see that nvidia-smi "
        "works; update the NVIDIA driver, or install a PyTorch for a CUDA older than "
        f"{torch.version.cuda}"
    )


def _why_unusable(card: torch.device) -> str:
    """That this PyTorch is not built for a card, found by running a kernel; "" where it is.

    Raises other errors: a card that is busy is no reason to train on the CPU.
    """
    with warnings.catch_warnings():  # PyTorch says the same before, over several lines
        warnings.simplefilter("ignore")
        try:
            torch.ones(1, device=card).item()
        except RuntimeError as error:
            if NO_KERNELS not in str(error):
                raise
            name = torch.cuda.get_device_name(card)
            return f"PyTorch {torch.__version__} is not built for {name}: install one that is"
    return ""


def widest_float(device: torch.device) -> torch.dtype:
    """What sums are kept in: float64, which an Apple GPU does not have."""
    return torch.float32 if device.type in LIMITED else torch.float64


def waits_to_decide(device: torch.device) -> bool:
    """Whether the host decides if a step is applied: an Apple GPU's optimisers cannot."""
    return device.type in LIMITED


# ---------------------------------------------------------------- precision


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """The networks' arithmetic for --precision.

    auto takes bfloat16 where the hardware multiplies it (emulated it is slower than float32), else
    float16 where that is fast, else float32. UserError for bfloat16 on a Mac whose system lacks it.
    """
    on_old_mac = device.type == "mps" and not torch.backends.mps.is_macos_or_newer(14, 0)
    if name == "bfloat16" and on_old_mac:
        raise UserError("--precision bfloat16: an Apple GPU needs macOS 14; use float16 or float32")
    if name != "auto":
        return PRECISIONS[name]
    if _has_bfloat16(device):
        return torch.bfloat16
    # Compute capability 7.x (V100, T4, RTX 20) multiplies float16 several times as fast as
    # float32; but the float16 convolutions of the GTX 16 cards are known to give NaN.
    if device.type == "cuda" and torch.cuda.get_device_capability(device)[0] == 7:
        gtx = "GTX 16" in torch.cuda.get_device_name(device)
        return torch.float32 if gtx else torch.float16
    return torch.float32


def _has_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 natively."""
    if device.type != "cpu":
        return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text(encoding="utf-8") if cpuinfo.exists() else ""
    return "avx512_bf16" in flags or "amx_bf16" in flags


def autocast(device: torch.device, precision: torch.dtype) -> torch.autocast:
    """The context in which networks run; weights, loss and optimiser stay float32 outside it."""
    half = precision != torch.float32
    return torch.autocast(device.type, precision if half else torch.bfloat16, enabled=half)


def describe(device: torch.device, precision: torch.dtype) -> str:
    """Device and precision by name, for the first lines of a run."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = "Apple GPU" if device.type == "mps" else f"CPU, {torch.get_num_threads()} threads"
    return f"{name}, {str(precision).removeprefix('torch.')}"


# ---------------------------------------------------------------- settings of a process


def set_up(device: torch.device, precision: str, deterministic: bool = False) -> None:
    """Process-wide settings for training, of --precision and CVAE_DETERMINISTIC."""
    if device.type == "cpu":
        keep_freed_memory()
    set_float32(device, precision)
    # Not by default: a model has over a hundred kinds of layers and passes, and cuDNN builds every
    # candidate of each (docs/gpu.md): minutes before the first step.
    tuned = bool(os.environ.get("CVAE_AUTOTUNE"))
    torch.backends.cudnn.benchmark = tuned and device.type == "cuda" and not deterministic
    if deterministic:
        # Read by cuBLAS when it is first used.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # It imports PyTorch's compiler: seconds, whatever the value.
    if deterministic != torch.are_deterministic_algorithms_enabled():
        torch.use_deterministic_algorithms(deterministic)
    # Filling each new tensor finds code that reads it before it is written; it costs a kernel each.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def set_float32(device: torch.device, precision: str) -> None:
    """What float32 means on CUDA: exact for --precision float32, else TF32, with 10 bits."""
    if device.type == "cuda":
        allowed = precision != "float32"
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed


@contextmanager
def exact_convolutions() -> Iterator[None]:
    """While inside, convolutions of float32 on CUDA are in float32, whatever set_float32 said.

    SSIM takes differences of blurred squares, of which 10 bits would leave nothing.
    """
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def keep_freed_memory() -> None:
    """Let this process keep freed memory for itself: a third of the time of a step on a CPU.

    A step frees and allocates the same large tensors again and again, and Linux fills every page
    that glibc maps anew with zeros. After this call they come from the heap, which does not shrink.
    """
    if sys.platform == "linux":
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(MALLOC_ARENA_MAX, 1)  # one heap for the backward pass's thread too
        mallopt(MALLOC_MMAP_MAX, 0)
        mallopt(MALLOC_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(MALLOC_TOP_PAD, 2**26)


def place(model: Model, device: torch.device) -> Model:
    """The model on its device, in the memory format that computes fastest; the same object.

    That is channels-last. On CUDA cards before Ampere (T4, V100) recent versions of cuDNN lack
    engines for depthwise convolutions in it, so these layers are contiguous. On an Apple GPU all
    are, since PyTorch has been wrong there with channels-last.
    """
    model = model.to(device)
    if device.type == "mps":
        return model
    model = model.to(memory_format=torch.channels_last)
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < AMPERE:
        for layer in model.modules():
            if compute_contiguously := getattr(layer, "compute_contiguously", None):
                compute_contiguously()
    return model


# ---------------------------------------------------------------- errors of a GPU

OUT_OF_MEMORY = (
    *("CUDA error: out of memory", "MPS backend out of memory", "DefaultCPUAllocator"),
    *("CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED"),
)
# What an error's message contains: what to do.
ADVICE = {
    NO_KERNELS: "install a PyTorch that is built for the card",
    "driver on your system is too old": "update the NVIDIA driver",
    "driver version is insufficient": "update the NVIDIA driver",
    "busy or unavailable": "another process has it for itself: wait, or choose another GPU with "
    "CUDA_VISIBLE_DEVICES",
    "unable to find an engine": "try --precision float32 or another version of PyTorch",
    "uncorrectable ECC error": "its memory is faulty: restart the machine; --resume continues",
    "GPU is lost": "restart the machine; --resume continues the run",
    "NCCL error": "the GPUs cannot reach each other: NCCL_DEBUG=INFO shows why; --gpu 1 works",
    "not currently implemented for the MPS device": "put PYTORCH_ENABLE_MPS_FALLBACK=1 into the "
    "environment",
}


def explained(error: BaseException) -> str | None:
    """What happened and what to do, in one line; None where the program itself is at fault."""
    text = str(error).strip()
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(part in text for part in OUT_OF_MEMORY)
    ):
        what = (text.splitlines() or ["an allocation failed"])[0]
        return (
            f"not enough memory ({what:.200}); fewer or smaller frames, a shorter clip, a smaller "
            "batch or a smaller model need less"
        )
    if isinstance(error, RuntimeError):  # also PyTorch's own kinds, and NotImplementedError
        for line in text.splitlines():
            for part, advice in ADVICE.items():
                if part in line:
                    return f"the GPU cannot be used ({line:.200}): {advice}, or use --device cpu"
    if isinstance(error, FileNotFoundError) and "temporary directory" in text:  # as PyTorch starts
        return "no temporary folder can be written: set TMPDIR to one that can, or free disk space"
    return None
