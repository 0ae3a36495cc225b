"""Which device and precision a run gets, and in what words."""

import subprocess
import sys

import pytest
import torch

from modules.runtime import device as device_module
from modules.runtime.device import autocast, choose_device, choose_precision, describe
from modules.runtime.errors import UserError
from tests.support.scripts import REPOSITORY

CPU = torch.device("cpu")


def gpus(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """As if the machine had so many GPUs."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)


def test_auto_takes_a_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, 0)
    assert choose_device("auto") == choose_device("cpu") == CPU
    with pytest.raises(UserError, match=r"--device cuda.*use --device cpu"):
        choose_device("cuda")
    gpus(monkeypatch, 2)
    assert choose_device("auto") == choose_device("cuda") == torch.device("cuda", 0)
    assert choose_device("cpu") == CPU


def test_several_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, 0)
    with pytest.raises(UserError, match="--gpu 2: there are 0 GPUs here"):
        choose_device("auto", 2)
    gpus(monkeypatch, 2)
    assert choose_device("auto", 2) == torch.device("cuda", 0)
    with pytest.raises(UserError, match=r"--gpu 2: needs CUDA.*--device cpu"):
        choose_device("cpu", 2)
    with pytest.raises(UserError, match="--gpu 3: there are 2 GPUs here"):
        choose_device("auto", 3)
    # As torchrun starts the second and the third process of a machine.
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert choose_device("auto") == torch.device("cuda", 1)
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(UserError, match="process 2 of this machine has no GPU"):
        choose_device("auto")


@pytest.mark.parametrize("native", [True, False])
def test_bfloat16_where_the_hardware_multiplies_it(
    native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_module, "_has_bfloat16", lambda device: native)
    assert choose_precision("auto", CPU) == (torch.bfloat16 if native else torch.float32)
    assert choose_precision("float32", CPU) == torch.float32  # whatever the hardware
    assert choose_precision("bfloat16", CPU) == torch.bfloat16
    monkeypatch.undo()
    emulated: list[bool] = []

    def is_supported(including_emulation: bool) -> bool:
        emulated.append(including_emulation)
        return native

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", is_supported)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (6, 1))
    chosen = choose_precision("auto", torch.device("cuda"))
    assert chosen == (torch.bfloat16 if native else torch.float32)
    assert emulated == [False]  # emulated bfloat16 is slower than float32


@pytest.mark.parametrize(
    ("name", "capability", "chosen"),
    [
        ("Tesla T4", (7, 5), torch.float16),
        ("Tesla V100-SXM2-16GB", (7, 0), torch.float16),
        ("NVIDIA GeForce GTX 1660 Ti", (7, 5), torch.float32),  # gives NaN in float16
        ("NVIDIA GeForce GTX 1080", (6, 1), torch.float32),  # slower in float16 than in float32
        ("NVIDIA GeForce RTX 3060", (8, 6), torch.bfloat16),
    ],
)
def test_float16_where_that_alone_is_fast(
    name: str, capability: tuple[int, int], chosen: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    native = capability >= (8, 0)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    card = torch.device("cuda", 0)
    assert choose_precision("auto", card) == chosen
    assert choose_precision("float16", card) == torch.float16  # whatever the card
    assert choose_precision("float32", card) == torch.float32


def test_an_apple_gpu_computes_in_float32_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    mps = torch.device("mps")
    for new in (True, False):
        monkeypatch.setattr(torch.backends.mps, "is_macos_or_newer", lambda *_, new=new: new)
        assert choose_precision("auto", mps) == torch.float32
        assert choose_precision("float16", mps) == torch.float16
        if new:
            assert choose_precision("bfloat16", mps) == torch.bfloat16
        else:
            with pytest.raises(UserError, match=r"--precision bfloat16: .* macOS 14"):
                choose_precision("bfloat16", mps)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16, torch.float16])
def test_autocast_runs_networks_in_the_precision(precision: torch.dtype) -> None:
    layer = torch.nn.Conv2d(3, 4, 1)
    with autocast(CPU, precision):
        assert layer(torch.zeros(1, 3, 2, 2)).dtype == precision
    assert layer(torch.zeros(1, 3, 2, 2)).dtype == torch.float32  # the control: outside


def test_switches_of_a_process() -> None:
    """In a process of its own, as they hold for all of it."""
    code = """
import os, torch
from modules.runtime.device import set_up

def shown():
    backends = torch.backends
    tf32 = backends.cuda.matmul.allow_tf32, backends.cudnn.allow_tf32
    print(torch.are_deterministic_algorithms_enabled(), backends.cudnn.benchmark, *tf32)

cpu, cuda = torch.device("cpu"), torch.device("cuda")
shown()
set_up(cpu, "float32", deterministic=True), shown()
print(os.environ["CUBLAS_WORKSPACE_CONFIG"])
set_up(cuda, "float32"), shown()
set_up(cuda, "auto", deterministic=True), shown()
set_up(cuda, "bfloat16"), shown()
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.stdout.splitlines() == [
        "False False False True",  # PyTorch's own
        "True False False True",  # TF32 is left alone on the CPU
        ":4096:8",
        "False True False False",  # exact float32 only where it was asked for
        "True False True True",
        "False True True True",
    ], done.stderr


def test_description_names_device_and_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = f"CPU, {torch.get_num_threads()} threads"
    assert describe(CPU, torch.bfloat16) == f"{threads}, bfloat16"
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU {device.index}")
    assert describe(torch.device("cuda", 1), torch.float32) == "GPU 1, float32"
