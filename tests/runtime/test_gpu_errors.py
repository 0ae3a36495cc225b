"""What is said of an error of a GPU, and that a fault of the program keeps its traceback."""

import subprocess
import sys

import pytest
import torch

from modules.runtime.gpu_errors import ADVICE, explained, out_of_memory
from tests.support.scripts import REPOSITORY


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "an allocation failed"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nMore"), "2 GiB"),
        (RuntimeError("CUDA error: out of memory\nCompile with TORCH_USE_CUDA_DSA"), "smaller"),
        (RuntimeError("MPS backend out of memory (MPS allocated: 8 GB)"), "smaller batch"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"), "smaller model"),
        (
            RuntimeError(
                "CUDA error: no kernel image is available for execution on the device\nCUDA kernel"
            ),
            "not built for the card",
        ),
        (
            RuntimeError("The NVIDIA driver on your system is too old (found version 11040)."),
            "update the NVIDIA driver",
        ),
        (
            RuntimeError("CUDA error: all CUDA-capable devices are busy or unavailable"),
            "CUDA_VISIBLE_DEVICES",
        ),
        (
            RuntimeError("GET was unable to find an engine to execute this computation"),
            "--precision float32",
        ),
        (RuntimeError("NCCL error in: x.cpp:1, unhandled system error"), "--gpu 1"),
        (
            NotImplementedError(
                "The operator 'aten::example' is not currently implemented for the MPS device. If"
            ),
            "lacks aten::example on Apple GPUs; run it with PYTORCH_ENABLE_MPS_FALLBACK=1",
        ),
    ],
)
def test_one_line_with_what_to_do(error: Exception, words: str) -> None:
    message = explained(error)
    assert message is not None
    assert words in message
    assert "\n" not in message


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: an illegal memory access was encountered"),  # our own fault
        RuntimeError("shape '[2]' is invalid for input of size 3"),
        TypeError("Cannot convert a MPS Tensor to float64 dtype"),
        ValueError(next(iter(ADVICE))),  # not PyTorch's
    ],
)
def test_faults_of_the_program_stay_faults(error: Exception) -> None:
    assert explained(error) is None
    assert not out_of_memory(error)


@pytest.mark.parametrize(("words", "status"), [("busy or unavailable", 2), ("illegal access", 1)])
def test_a_script_ends_so(words: str, status: int) -> None:
    code = (
        "from modules.runtime.scripts import run_as_script\n"
        f"def main():\n    raise RuntimeError('CUDA error: {words}')\n"
        "run_as_script(main)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.returncode == status
    assert done.stderr.startswith("error: ") == (status == 2)
    assert ("Traceback" in done.stderr) == (status == 1)
