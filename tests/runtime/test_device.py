"""Which device and precision a run gets, and in what words."""

import re
import warnings
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from modules.cvae import CVAE, ModelConfig
from modules.networks import DepthConv
from modules.runtime import device as device_module
from modules.runtime.errors import UserError
from tests.support.scripts import python

CPU = torch.device("cpu")


def gpus(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """As if the machine had so many GPUs."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a card")
    monkeypatch.setattr(device_module, "_why_unusable", lambda card: "")


def apple(monkeypatch: pytest.MonkeyPatch, there: bool = True) -> None:
    """As if the machine had an Apple GPU."""
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: there)


@pytest.mark.parametrize(
    ("there", "wanted", "count", "found"),
    [  # there: GPUs, "apple" GPU, "rank N" of torchrun's; found: a device, or words of the error
        ("0", "auto", 1, "cpu"),
        ("2", "cuda", 1, "cuda:0"),
        ("2", "cpu", 1, "cpu"),
        ("2", "auto", 2, "cuda:0"),
        ("2 rank 1", "auto", 1, "cuda:1"),
        ("0 apple", "auto", 1, "mps:0"),
        ("0 apple", "mps", 1, "mps:0"),
        ("1 apple", "auto", 1, "cuda:0"),
        ("0 apple several", "auto", 1, "cpu"),  # processes talk to each other on CPUs
        ("0", "cuda", 1, "--device cuda: there is no CUDA device here, or use --device cpu"),
        ("0 unbuilt", "cuda", 1, "this PyTorch is built without CUDA, or use --device cpu"),
        ("2", "auto", 3, "--gpu 3: there are 2 GPUs here"),
        ("2", "cpu", 2, r"--gpu 2: needs CUDA.*--device cpu"),
        ("2 rank 2", "auto", 1, "process 2 of this machine has no GPU"),
        ("0 apple several", "mps", 1, "--device mps: runs in one process"),
        ("0", "mps", 1, r"--device mps: needs a Mac.*use --device cpu"),
    ],
)
def test_which_device(
    there: str, wanted: str, count: int, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cards, *rest = there.split()
    gpus(monkeypatch, int(cards))
    apple(monkeypatch, "apple" in rest)
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: "unbuilt" not in rest)
    if "rank" in rest:
        monkeypatch.setenv("LOCAL_RANK", rest[-1])
    if "several" in rest:
        monkeypatch.setattr(device_module.distributed, "world_size", lambda: 2)
    if " " in found or "-" in found:
        with pytest.raises(UserError, match=found):
            device_module.choose_device(wanted, count)
    else:
        assert device_module.choose_device(wanted, count) == torch.device(found)


def test_a_card_that_pytorch_was_not_built_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Found by running a kernel; the process that only starts ranks leaves the cards alone."""
    gpus(monkeypatch, 2)
    monkeypatch.setattr(device_module, "_why_unusable", lambda card: "not built for it")
    assert device_module.choose_device("auto", 2) == torch.device("cuda", 0)
    with pytest.raises(UserError, match="--device cuda: not built for it, or use --device cpu"):
        device_module.choose_device("cuda")
    assert capsys.readouterr().out == ""
    assert device_module.choose_device("auto") == CPU
    assert capsys.readouterr().out == "note: CUDA is not used: not built for it\n"
    apple(monkeypatch)
    assert device_module.choose_device("auto").type == "mps"
    monkeypatch.setattr(device_module.distributed, "world_size", lambda: 2)
    with pytest.raises(UserError, match="not built for it"):  # a rank of --gpu 2
        device_module.choose_device("auto", 2)


def test_a_driver_that_is_too_old(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def is_available() -> bool:
        said = "The NVIDIA driver on your system is too old (found version 11040). Please"
        warnings.warn(f"CUDA initialization: {said}. More.", stacklevel=1)
        return False

    gpus(monkeypatch, 0)
    monkeypatch.setattr(torch.cuda, "is_available", is_available)
    reason = (
        "CUDA does not start (The NVIDIA driver on your system is too old (found version 11040)):"
        " see that nvidia-smi works; update the NVIDIA driver"
    )
    with pytest.raises(UserError, match=re.escape(reason)):
        device_module.choose_device("cuda")
    assert device_module.choose_device("cpu") == CPU
    assert capsys.readouterr().out == ""  # nobody asked
    assert device_module.choose_device("auto") == CPU
    printed = capsys.readouterr().out
    assert printed.startswith(f"note: CUDA is not used: {reason}") and printed.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "capability", "chosen"),
    [
        ("Tesla T4", (7, 5), torch.float16),
        ("Tesla V100-SXM2-16GB", (7, 0), torch.float16),
        ("NVIDIA GeForce GTX 1660 Ti", (7, 5), torch.float32),  # gives NaN in float16
        ("NVIDIA GeForce GTX 1080", (6, 1), torch.float32),  # slower in float16 than in float32
        ("NVIDIA GeForce RTX 3060", (8, 6), torch.bfloat16),
        ("a CPU with bfloat16", None, torch.bfloat16),
        ("another CPU", None, torch.float32),
    ],
)
def test_which_precision(
    name: str, capability: Any, chosen: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the hardware is fast in: emulated bfloat16 is slower than float32."""

    def is_supported(including_emulation: bool) -> bool:
        assert not including_emulation
        return capability is not None and capability >= (8, 0)

    device = torch.device("cuda", 0) if capability else CPU
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", is_supported)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    if capability is None:
        monkeypatch.setattr(device_module, "_has_bfloat16", lambda _: chosen == torch.bfloat16)
    assert device_module.choose_precision("auto", device) == chosen
    for typed in ("float32", "bfloat16", "float16"):  # whatever the hardware
        assert device_module.choose_precision(typed, device) == getattr(torch, typed)


def test_an_apple_gpu_computes_in_float32_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    mps = torch.device("mps")
    monkeypatch.setattr(torch.backends.mps, "is_macos_or_newer", lambda *_: True)
    for name, found in (("auto", "float32"), ("float16", "float16"), ("bfloat16", "bfloat16")):
        assert device_module.choose_precision(name, mps) == getattr(torch, found)
    monkeypatch.setattr(torch.backends.mps, "is_macos_or_newer", lambda *_: False)
    with pytest.raises(UserError, match=r"--precision bfloat16: .* macOS 14"):
        device_module.choose_precision("bfloat16", mps)


def test_switches_of_a_process() -> None:
    """In a process of its own, as they hold for all of it."""
    code = """
import os, torch
from modules.runtime.device import set_up

def shown(kind, *settings):
    set_up(torch.device(kind), *settings)
    backends = torch.backends
    tf32 = backends.cuda.matmul.allow_tf32, backends.cudnn.allow_tf32
    print(torch.are_deterministic_algorithms_enabled(), backends.cudnn.benchmark, *tf32)

shown("cpu", "float32", True)
print(os.environ["CUBLAS_WORKSPACE_CONFIG"])
shown("cuda", "float32")
shown("cuda", "auto", True)
os.environ["CVAE_AUTOTUNE"] = "1"
shown("cuda", "bfloat16")
shown("cuda", "bfloat16", True)
shown("cpu", "bfloat16")
"""
    done = python("-c", code)
    assert done.stdout.splitlines() == [
        "True False False True",  # TF32 is left alone on the CPU
        ":4096:8",
        "False False False False",  # exact float32 only where it was asked for
        "True False True True",
        "False True True True",
        "True False True True",
        "False False True True",
    ], done.stderr


def test_exact_convolutions_are_exact_only_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    for allowed in (True, False):
        monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", allowed)
        with device_module.exact_convolutions():
            assert not torch.backends.cudnn.allow_tf32
        assert torch.backends.cudnn.allow_tf32 == allowed


def test_description_names_device_and_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = f"CPU, {torch.get_num_threads()} threads"
    assert device_module.describe(CPU, torch.bfloat16) == f"{threads}, bfloat16"
    assert device_module.describe(torch.device("mps"), torch.float32) == "Apple GPU, float32"
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU {device.index}")
    assert device_module.describe(torch.device("cuda", 1), torch.float32) == "GPU 1, float32"


# ---------------------------------------------------------------- the model's memory format


@pytest.mark.parametrize(
    ("kind", "capability", "depthwise", "others"),
    [
        ("cuda", (7, 5), "contiguous", "channels last"),  # cuDNN may lack engines
        ("cuda", (8, 0), "channels last", "channels last"),
        ("cpu", None, "channels last", "channels last"),
        ("mps", None, "contiguous", "contiguous"),
    ],
)
def test_memory_formats(
    kind: str, capability: Any, depthwise: str, others: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What layers compute in is decided by their weights."""
    model = CVAE(ModelConfig(F_dim=32, L_dim=4, N_dim=8, D_out_dim=32, frame_H=8, frame_W=12))
    to = torch.nn.Module.to
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(CVAE, "to", lambda self, *a, **k: self if a else to(self, **k))
    card: Any = SimpleNamespace(type=kind)  # a CPU that says it is another device
    assert device_module.place(model, card) is model
    weight = model.Generator[1].conv1.weight
    assert weight.is_contiguous(memory_format=torch.channels_last) == (others == "channels last")
    seen: list[torch.Tensor] = []
    for layer in model.modules():
        if isinstance(layer, DepthConv):
            # As PyTorch asks when it chooses: a kernel for one channel is both.
            strides = layer.depth_conv.weight.stride()
            assert (strides[1] == strides[0]) == (depthwise == "contiguous")
            layer.depth_conv.register_forward_hook(lambda _, given, out: seen.append(given[0]))
    model.Generator(torch.rand(2, 8, 12, 32).permute(0, 3, 1, 2))
    if kind == "cuda":
        assert {x.is_contiguous() for x in seen} == {depthwise == "contiguous"}


# ---------------------------------------------------------------- errors of a GPU


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (MemoryError(), "an allocation failed"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nMore"), "2 GiB"),
        (RuntimeError("CUDA error: out of memory\nCompile with TORCH_USE_CUDA_DSA"), "smaller"),
        (RuntimeError("MPS backend out of memory (MPS allocated: 8 GB)"), "smaller batch"),
        (RuntimeError("CUDA error: no kernel image is available for it\nCUDA"), "for the card"),
        (RuntimeError("The NVIDIA driver on your system is too old (11040)"), "update the NVIDIA"),
        (RuntimeError("CUDA error: all devices are busy or unavailable"), "CUDA_VISIBLE_DEVICES"),
        (RuntimeError("GET was unable to find an engine to execute this"), "--precision float32"),
        (RuntimeError("NCCL error in: x.cpp:1, unhandled system error"), "--gpu 1"),
        (
            NotImplementedError("'aten::x' is not currently implemented for the MPS device. If"),
            "PYTORCH_ENABLE_MPS_FALLBACK=1",
        ),
        (
            FileNotFoundError(2, "No usable temporary directory found in ['/tmp']"),
            "set TMPDIR to one that can",
        ),
        # Faults of the program, and what is not PyTorch's.
        (RuntimeError("CUDA error: an illegal memory access was encountered"), None),
        (RuntimeError("shape '[2]' is invalid for input of size 3"), None),
        (TypeError("Cannot convert a MPS Tensor to float64 dtype"), None),
        (ValueError(next(iter(device_module.ADVICE))), None),
    ],
)
def test_one_line_with_what_to_do(error: Exception, advice: str | None) -> None:
    message = device_module.explained(error)
    assert (message is None) == (advice is None)
    assert advice is None or (advice in message and "\n" not in message)
