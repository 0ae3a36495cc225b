"""The device and the precision that the networks run in, and CUDA graphs."""

import ctypes
import gc
import os
import sys
from pathlib import Path

import torch

from modules.runtime import distributed
from modules.runtime.errors import UserError

# mallopt()'s parameters, from glibc's malloc.h.
MALLOC_TRIM_THRESHOLD, MALLOC_TOP_PAD, MALLOC_MMAP_MAX, MALLOC_ARENA_MAX = -1, -2, -4, -8


def choose_device(name: str, gpus: int = 1) -> torch.device:
    """The device for --device and --gpu. Raises UserError when there is no such device."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "cuda" and count == 0:
        raise UserError("--device cuda: there is no CUDA device here; use --device cpu")
    use_cuda = name == "cuda" or (name == "auto" and count > 0)
    if gpus > count > 0 or (gpus > 1 and count == 0):
        raise UserError(f"--gpu {gpus}: there are {count} GPUs here")
    if gpus > 1 and not use_cuda:
        raise UserError(f"--gpu {gpus}: needs CUDA; leave out --device cpu")
    if not use_cuda:
        return torch.device("cpu")
    # Each process of a parallel run takes the GPU of its number.
    if (number := distributed.local_rank()) >= count:
        raise UserError(f"process {number} of this machine has no GPU: there are {count} here")
    return torch.device("cuda", number)


def keep_freed_memory() -> None:
    """Let this process keep freed memory for itself instead of giving it back to the system.

    A step on a CPU allocates and frees the same large tensors again and again. glibc maps each of
    them again, and the system fills every page with zeros first: a third of a step's time. After
    this call they come from the heap, which does not shrink. Elsewhere than on Linux with glibc it
    does nothing.
    """
    if sys.platform != "linux":
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # another C library
        return
    mallopt(MALLOC_ARENA_MAX, 1)  # one heap for the backward pass's thread too
    mallopt(MALLOC_MMAP_MAX, 0)
    mallopt(MALLOC_TRIM_THRESHOLD, 2**31 - 1)
    mallopt(MALLOC_TOP_PAD, 2**26)


def free_memory() -> int:
    """Give back what PyTorch keeps of the current GPU's memory; bytes that are free then."""
    gc.collect()
    torch.cuda.empty_cache()
    return torch.cuda.mem_get_info()[0]


def set_up(device: torch.device, precision: str, deterministic: bool = False) -> None:
    """Process-wide switches for training, of --precision and --deterministic."""
    if device.type == "cpu":
        keep_freed_memory()
    set_float32(device, precision)
    # Shapes repeat for hours: timing the kernels once pays. Which one wins differs between runs.
    torch.backends.cudnn.benchmark = device.type == "cuda" and not deterministic
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


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """The networks' arithmetic for --precision; auto takes bfloat16 where the hardware has it."""
    if name == "float32":
        return torch.float32
    if name == "bfloat16" or _has_bfloat16(device):
        return torch.bfloat16
    return torch.float32


def _has_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 natively; emulated it is slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text(encoding="utf-8") if cpuinfo.exists() else ""
    return "avx512_bf16" in flags or "amx_bf16" in flags


def autocast(device: torch.device, precision: torch.dtype) -> torch.autocast:
    """The context in which networks run; weights, loss and optimiser stay float32 outside it."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == torch.bfloat16)


def describe(device: torch.device, precision: torch.dtype) -> str:
    """Device and precision in words, for the first lines of a run."""
    name = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"CPU, {torch.get_num_threads()} threads"
    )
    return f"{name}, {str(precision).removeprefix('torch.')}"
