"""The device and the precision that the networks run in, and CUDA graphs."""

import ctypes
import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from modules.runtime import distributed
from modules.runtime.errors import UserError
from modules.runtime.gpus import count_cuda, why_no_cuda, why_no_mps, why_unusable

PRECISIONS = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
# Kinds of device without float64, on which no optimiser can leave out a step by itself.
LIMITED = {"mps"}
# mallopt()'s parameters, from glibc's malloc.h.
MALLOC_TRIM_THRESHOLD, MALLOC_TOP_PAD, MALLOC_MMAP_MAX, MALLOC_ARENA_MAX = -1, -2, -4, -8


def choose_device(name: str, gpus: int = 1) -> torch.device:
    """The device for --device and --gpu: auto takes CUDA, then an Apple GPU, then the CPU.

    Raises UserError when there is no such device. A CUDA device that auto cannot use is noted.
    """
    count, trouble = count_cuda()
    if name == "cuda" and count == 0:
        raise UserError(
            f"--device cuda: {trouble}, or use --device cpu"
            if trouble
            else f"--device cuda: {why_no_cuda()}; use --device cpu"
        )
    use_cuda = name == "cuda" or (name == "auto" and count > 0)
    if gpus > count > 0 or (gpus > 1 and count == 0):
        raise UserError(
            f"--gpu {gpus}: there are {count} GPUs here" + f" ({trouble})" * bool(trouble)
        )
    if gpus > 1 and not use_cuda:
        raise UserError(f"--gpu {gpus}: needs CUDA; leave out --device {name}")
    # Each process of a parallel run takes the GPU of its number.
    number = distributed.local_rank()
    if use_cuda and number >= count:
        raise UserError(f"process {number} of this machine has no GPU: there are {count} here")
    if use_cuda:
        cards = range(number, max(number + 1, gpus))
        trouble = next(filter(None, map(why_unusable, cards)), "")
        if not trouble:
            return torch.device("cuda", number)
        if name == "cuda" or gpus > 1:
            raise UserError(f"--device cuda: {trouble}, or use --device cpu")
    if trouble and name == "auto":
        print(f"note: CUDA is not used: {trouble}", flush=True)
    if name == "mps" and (why := why_no_mps()):
        raise UserError(f"--device mps: {why}; use --device cpu")
    several = distributed.world_size() > 1
    if name == "mps" and several:
        raise UserError("--device mps: runs in one process; leave out torchrun, or --device mps")
    if name == "mps" or (name == "auto" and not several and not why_no_mps()):
        return torch.device("mps", 0)
    return torch.device("cpu")


def widest_float(device: torch.device) -> torch.dtype:
    """What sums are kept in: float64, which an Apple GPU does not have."""
    return torch.float32 if device.type in LIMITED else torch.float64


def waits_to_decide(device: torch.device) -> bool:
    """Whether the host decides if a step is applied: an Apple GPU's optimisers cannot."""
    return device.type in LIMITED


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
    # Not by default: a model has over a hundred kinds of layers and passes, and cuDNN builds every
    # candidate of each, also where few are timed (docs/gpu.md). Which one wins varies with the run.
    tuned = bool(os.environ.get("CVAE_AUTOTUNE"))  # minutes before the first step
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


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """The networks' arithmetic for --precision.

    auto takes bfloat16 where the hardware has it, else float16 where that is fast, else float32.
    UserError for bfloat16 on a Mac whose system lacks it.
    """
    on_old_mac = device.type == "mps" and not torch.backends.mps.is_macos_or_newer(14, 0)
    if name == "bfloat16" and on_old_mac:
        raise UserError("--precision bfloat16: an Apple GPU needs macOS 14; use float16 or float32")
    if name != "auto":
        return PRECISIONS[name]
    if _has_bfloat16(device):
        return torch.bfloat16
    return torch.float16 if _has_fast_float16(device) else torch.float32


def _has_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 natively; emulated it is slower than float32."""
    if device.type != "cpu":
        return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text(encoding="utf-8") if cpuinfo.exists() else ""
    return "avx512_bf16" in flags or "amx_bf16" in flags


def _has_fast_float16(device: torch.device) -> bool:
    """Whether it is a CUDA card that multiplies float16 several times as fast as float32.

    Compute capability 7.x (V100, T4, RTX 20), but not the GTX 16 cards, whose float16 convolutions
    are known to give NaN. Later cards have bfloat16.
    """
    if device.type != "cuda" or torch.cuda.get_device_capability(device)[0] != 7:
        return False
    return "GTX 16" not in torch.cuda.get_device_name(device)


def autocast(device: torch.device, precision: torch.dtype) -> torch.autocast:
    """The context in which networks run; weights, loss and optimiser stay float32 outside it."""
    half = precision != torch.float32
    return torch.autocast(device.type, precision if half else torch.bfloat16, enabled=half)


def describe(device: torch.device, precision: torch.dtype) -> str:
    """Device and precision in words, for the first lines of a run."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = "Apple GPU" if device.type == "mps" else f"CPU, {torch.get_num_threads()} threads"
    return f"{name}, {str(precision).removeprefix('torch.')}"
