"""Which GPUs this process can use, and in plain words why not one that a user expects."""

import os
import re
import warnings

import torch

Capability = tuple[int, int]  # (major, minor) of a CUDA card


def count_cuda() -> tuple[int, str]:
    """How many CUDA devices there are, and where there are none why, as far as is known.

    What PyTorch only warns of, over several lines, becomes the reason: a driver that is too old,
    above all. "" where the machine simply has none.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count:
        return count, ""
    said = " ".join(str(warning.message) for warning in caught)
    if old := re.search(r"driver on your system is too old( \(found version \d+\))?", said):
        return 0, (
            f"the NVIDIA {old.group()}: update the driver, or install a PyTorch for a CUDA older "
            f"than {torch.version.cuda}"
        )
    if "CUDA initialization" in said:
        first = re.split(r"\. | - ", said.partition("CUDA initialization: ")[2])[0]
        return 0, f"CUDA does not start ({first:.150}): see that nvidia-smi works, then try again"
    return 0, ""


def why_no_cuda() -> str:
    """The most likely reason that there is no CUDA device, where none was said."""
    if torch.version.cuda is None and torch.version.hip is None:
        return "this PyTorch is built without CUDA (pytorch.org has builds with it)"
    if (hidden := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return f"there is no CUDA device here that CUDA_VISIBLE_DEVICES={hidden} shows"
    return "there is no CUDA device here"


def has_kernels(card: Capability, architectures: list[str]) -> bool:
    """Whether a PyTorch that was built for these architectures runs on a card.

    architectures: as torch.cuda.get_arch_list() gives them. A kernel for sm_XY runs on cards of the
    same X from Y on (with the suffix a: on X.Y alone); code for compute_XY on all later ones.
    """
    known = [re.fullmatch(r"(sm|compute)_(\d+)(\d)([af]?)", name) for name in architectures]
    for kind, major, minor, suffix in (found.groups() for found in known if found):
        built = int(major), int(minor)
        if kind == "compute" and not suffix:
            fits = card >= built
        elif suffix == "a":
            fits = card == built
        else:
            fits = card[0] == built[0] and card >= built
        if fits:
            return True
    return not any(known)  # of other names nothing is known


def why_unusable(number: int) -> str:
    """Why this PyTorch cannot run on a CUDA device; "" where it can."""
    with warnings.catch_warnings(record=True):  # PyTorch says the same, over several lines
        warnings.simplefilter("always")
        card = torch.cuda.get_device_capability(number)
        architectures = torch.cuda.get_arch_list()
    if has_kernels(card, architectures):
        return ""
    shown = ", ".join(architectures)
    return (
        f"{torch.cuda.get_device_name(number)} has compute capability {card[0]}.{card[1]}, and "
        f"PyTorch {torch.__version__} is built for {shown}: install a PyTorch that is built for "
        "this card"
    )


def why_no_mps() -> str:
    """Why PyTorch cannot use an Apple GPU here; "" where it can."""
    if torch.backends.mps.is_available():
        return ""
    if not torch.backends.mps.is_built():
        return "this PyTorch is built without it, as all but those for Macs are"
    return "it needs a Mac with an Apple GPU and a recent macOS"
