"""Which device and precision a run gets, and in what words."""

import subprocess
import sys
import warnings

import pytest
import torch

from modules.runtime import device as device_module
from modules.runtime.device import autocast, choose_device, choose_precision, describe
from modules.runtime.errors import UserError
from modules.runtime.gpus import has_kernels
from tests.support.scripts import REPOSITORY

CPU = torch.device("cpu")


def gpus(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """As if the machine had so many GPUs."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 6))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a card")
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75", "sm_80", "sm_90"])


def apple(monkeypatch: pytest.MonkeyPatch, there: bool = True) -> None:
    """As if the machine had an Apple GPU."""
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: there)
    monkeypatch.setattr(torch.backends.mps, "is_built", lambda: there)


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
    assert choose_device("auto") == choose_device("auto", 2) == torch.device("cuda", 1)
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(UserError, match="process 2 of this machine has no GPU"):
        choose_device("auto")


def test_an_apple_gpu_comes_after_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    mps = torch.device("mps", 0)
    gpus(monkeypatch, 0)
    apple(monkeypatch)
    assert choose_device("auto") == choose_device("mps") == mps
    assert choose_device("cpu") == CPU
    with pytest.raises(UserError, match=r"--gpu 2: there are 0 GPUs here"):
        choose_device("mps", 2)
    gpus(monkeypatch, 1)
    assert choose_device("auto") == torch.device("cuda", 0)
    assert choose_device("mps") == mps
    monkeypatch.setattr(device_module.distributed, "world_size", lambda: 2)
    gpus(monkeypatch, 0)
    assert choose_device("auto") == CPU  # several processes talk to each other on CPUs
    with pytest.raises(UserError, match=r"--device mps: runs in one process"):
        choose_device("mps")


def test_no_apple_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, 0)
    apple(monkeypatch, there=False)
    assert choose_device("auto") == CPU
    with pytest.raises(UserError, match=r"--device mps: this PyTorch is built without.*cpu"):
        choose_device("mps")
    monkeypatch.setattr(torch.backends.mps, "is_built", lambda: True)
    with pytest.raises(UserError, match=r"--device mps: it needs a Mac.*use --device cpu"):
        choose_device("mps")


def test_a_card_that_pytorch_was_not_built_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gpus(monkeypatch, 2)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (6, 0))
    with pytest.raises(UserError, match=r"a card has compute capability 6\.0.*sm_75.*--device cpu"):
        choose_device("cuda")
    with pytest.raises(UserError, match=r"capability 6\.0"):
        choose_device("auto", 2)
    assert capsys.readouterr().out == ""
    assert choose_device("auto") == CPU
    assert "note: CUDA is not used: a card has compute capability 6.0" in capsys.readouterr().out
    apple(monkeypatch)
    assert choose_device("auto").type == "mps"


@pytest.mark.parametrize(
    ("warning", "words"),
    [
        (
            "CUDA initialization: The NVIDIA driver on your system is too old (found version "
            "11040). Please update your GPU driver. More.",
            "driver on your system is too old \\(found version 11040\\): update the driver",
        ),
        (
            "CUDA initialization: CUDA unknown error - this may be due to an environment. More.",
            "CUDA does not start \\(CUDA unknown error.*nvidia-smi",
        ),
    ],
)
def test_why_there_is_no_cuda(
    warning: str, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gpus(monkeypatch, 0)
    monkeypatch.setattr(
        torch.cuda, "is_available", lambda: bool(warnings.warn(warning, stacklevel=1))
    )
    with pytest.raises(UserError, match=words):
        choose_device("cuda")
    with pytest.raises(UserError, match=words):
        choose_device("cuda", 2)
    assert choose_device("auto") == CPU
    out = capsys.readouterr().out
    assert out.startswith("note: CUDA is not used: ")
    assert out.count("\n") == 1
    assert choose_device("cpu") == CPU
    assert capsys.readouterr().out == ""  # nobody asked


def test_no_cuda_without_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, 0)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    with pytest.raises(UserError, match="CUDA_VISIBLE_DEVICES=7 shows"):
        choose_device("cuda")
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(UserError, match="built without CUDA"):
        choose_device("cuda")


@pytest.mark.parametrize(
    ("card", "runs"),
    [
        ((7, 5), True),
        ((7, 0), False),  # older than its kernels
        ((8, 6), True),  # kernels for 8.0 run on 8.6
        ((9, 0), True),
        ((12, 0), True),  # compute_90 is compiled for later cards when it is loaded
        ((6, 1), False),
    ],
)
def test_kernels_for_a_card(card: tuple[int, int], runs: bool) -> None:
    assert has_kernels(card, ["sm_75", "sm_80", "sm_90", "compute_90"]) == runs
    assert has_kernels(card, []) and has_kernels(card, ["gfx90a"])  # nothing is known


def test_kernels_with_a_suffix() -> None:
    assert has_kernels((9, 0), ["sm_90a"])
    assert not has_kernels((9, 1), ["sm_90a"])
    assert has_kernels((12, 1), ["sm_120f"])
    assert not has_kernels((12, 0), ["sm_75", "sm_90"])  # a card that is too new


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
os.environ["CVAE_AUTOTUNE"] = "1"
set_up(cuda, "bfloat16"), shown()
set_up(cuda, "bfloat16", deterministic=True), shown()
set_up(cpu, "bfloat16"), shown()
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.stdout.splitlines() == [
        "False False False True",  # PyTorch's own
        "True False False True",  # TF32 is left alone on the CPU
        ":4096:8",
        "False False False False",  # exact float32 only where it was asked for
        "True False True True",
        "False False True True",
        "False True True True",
        "True False True True",
        "False False True True",
    ], done.stderr


def test_description_names_device_and_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = f"CPU, {torch.get_num_threads()} threads"
    assert describe(CPU, torch.bfloat16) == f"{threads}, bfloat16"
    assert describe(torch.device("mps"), torch.float32) == "Apple GPU, float32"
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU {device.index}")
    assert describe(torch.device("cuda", 1), torch.float32) == "GPU 1, float32"
