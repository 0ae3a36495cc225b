"""The device and the precision that the networks run in."""

from pathlib import Path

import torch

from modules.errors import UserError


def choose_device(name: str, gpus: int = 1) -> torch.device:
    """The device for --device and --gpu. Raises UserError when there is no such device."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "cuda" and count == 0:
        raise UserError("--device cuda: there is no CUDA device here; use --device cpu")
    use_cuda = name == "cuda" or (name == "auto" and count > 0)
    if gpus > 1:
        if not use_cuda or gpus > count:
            raise UserError(f"--gpu {gpus}: there are {count} GPUs here")
        raise UserError(f"--gpu {gpus}: training on several GPUs is not supported yet; use --gpu 1")
    return torch.device("cuda" if use_cuda else "cpu")


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
    flags = cpuinfo.read_text() if cpuinfo.exists() else ""
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
