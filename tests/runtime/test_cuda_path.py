"""The CUDA path, on a device that computes nothing: captured, few kernels, one launch, one memory.

Numbers need a real GPU: the last tests, which run wherever there is one.
"""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.programs import kernels
from tests.programs.kernels import CONFIGURATIONS, TINY
from tests.support.data import make_dataset
from tests.support.scripts import TINY_RUN, python, train


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if why := kernels.why_not():
        pytest.skip(f"no stand-in for CUDA: {why}")
    return kernels.build(tmp_path_factory.mktemp("nullcuda"))


def run(library: Path, *arguments: str | Path, status: int = 0, **more: str) -> str:
    """What Python prints in a process that sees the device, which must end with this status."""
    seeing = kernels.environment(library, **more)
    done = python(*arguments, env=seeing, stderr=subprocess.STDOUT)
    assert done.returncode == status, done.stdout
    return done.stdout


def counts_of(library: Path, *arguments: str) -> dict[str, Any]:
    """What the program counts."""
    return json.loads(run(library, "tests/programs/kernels.py", *arguments).splitlines()[-1])


@pytest.fixture(scope="module")
def counted(library: Path) -> dict[str, Any]:
    return counts_of(library, "--tiny")


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_a_step_is_one_launch_of_few_kernels(name: str, counted: dict[str, Any]) -> None:
    row, limit = counted["configurations"][name], CONFIGURATIONS[name][2]
    assert (row["eager"], row["violations"], row["launches"]) == (None, 0, 2)
    assert 0.5 * limit < row["kernels"] <= limit


def test_muon_is_few_kernels_at_full_size(counted: dict[str, Any]) -> None:
    assert 100 < counted["optimiser"] <= 400


def test_a_frame_of_a_validation_is_one_launch(counted: dict[str, Any]) -> None:
    """With averaged weights too, which autocast casts once and not for every frame."""
    averaged, frozen = counted["rollout"]["averaged"], counted["rollout"]["frozen"]
    assert averaged["launches"] == 64
    assert averaged["kernels"] <= 250
    assert frozen["kernels"] > 350  # the control: weights that autocast does not keep


def test_stored_rollouts_are_a_launch_for_each_frame_of_a_group(counted: dict[str, Any]) -> None:
    """And a few kernels around it; the eager ones are the control."""
    eager, graph = counted["refresh"]["eager"], counted["refresh"]["graph"]
    assert graph["violations"] == 0
    assert 64 < graph["launches"] < 0.2 * eager["launches"]


@pytest.mark.parametrize(
    ("name", "words"), [("item", "capturing"), ("copy", "pin"), ("failure", "on purpose")]
)
def test_what_a_graph_cannot_hold_is_noticed(
    name: str, words: str, counted: dict[str, Any]
) -> None:
    spoilt = counted["controls"][name]
    assert words in spoilt["eager"] and spoilt["launches"] == 0


def test_both_modes_and_a_smaller_batch_share_one_memory(library: Path) -> None:
    """Full size, batch 16: the second mode's graph takes little more than the first's."""
    row = counts_of(library, "--both")
    assert (row["eager"], row["violations"], row["launches"]) == (None, 0, 4)
    assert row["graphs"] == 2
    one, both = row["peaks_mib"]
    assert one < 12.5 * 1024 and both < 15.0 * 1024


def test_a_step_of_two_processes_is_one_launch_too(library: Path, counted: dict[str, Any]) -> None:
    rows = counts_of(library, "--tiny", "--ranks", "2")
    assert len(rows) >= 4
    for name, row in rows.items():
        assert (row["eager"], row["violations"], row["launches"]) == (None, 0, 2)
        # Sums of the batch norm, the loss and the gradients, and what goes with them.
        alone = counted["configurations"][name]["kernels"]
        assert alone < row["kernels"] < alone + 100


# ---------------------------------------------------------------- the scripts


@pytest.mark.slow
def test_the_program_for_a_real_gpu_runs(library: Path) -> None:
    """Its numbers mean nothing here."""
    out = run(library, "tests/programs/gpu.py", "--tiny")
    for words in ("agreement after", " ms a step", "an epoch of", "validation of"):
        assert words in out
    assert "without CUDA graphs" not in out


UNCOLLECTED = """
import gc, torch
from modules.runtime import graphs
x, seen = torch.zeros(4, device="cuda"), []
graphs.capture(lambda: seen.append(gc.isenabled()) or x.add_(1), graphs.GraphMemory())
print(seen, gc.isenabled())
"""


def test_no_earlier_graph_is_collected_in_a_capture(library: Path) -> None:
    """Up to PyTorch 2.11 that ends the process with an internal error of the allocator."""
    out = run(library, "-c", UNCOLLECTED)
    assert out == "[False, False, False, False] True\n"


# A run as on a device without float64, on which the host decides whether a step is applied. The
# device computes nothing, so that every step is said to be sound.
WITHOUT_FLOAT64 = """
import sys
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
import {script}
from modules.runtime import device
from modules.runtime.scripts import run_as_script

class Refuse(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        made = function(*arguments, **(options or {{}}))
        for x in tree_leaves((arguments, options, made)):
            if isinstance(x, torch.Tensor) and x.is_cuda and x.dtype == torch.float64:
                raise RuntimeError(f"{{function}}: no float64 here")
        return made

device.LIMITED |= {limited}
item, truth, steps = torch.Tensor.item, torch.Tensor.__bool__, []
# No comparison is computed on the device.
torch.Tensor.item = lambda x: True if x.dtype == torch.bool else item(x)
torch.Tensor.__bool__ = lambda x: x.is_cuda or truth(x)
whole = torch.optim.Adam.step
torch.optim.Adam.step = lambda self: (steps.append(1), whole(self))

def main():
    with Refuse(), torch.autograd.set_multithreading_enabled(False):
        {script}.main()
    print("steps of the optimiser:", len(steps))

run_as_script(main)
"""


@pytest.mark.slow
def test_training_testing_and_resuming_without_float64(library: Path, tmp_path: Path) -> None:
    data, root = make_dataset(tmp_path / "data", train=40), tmp_path / "run"

    def refusing(name: str, *arguments: str | Path, limited: str = "{'cuda'}") -> str:
        code = WITHOUT_FLOAT64.format(script=name, limited=limited)
        status = int(limited == "set()")
        return run(library, "-c", code, *arguments, status=status, CVAE_NO_GRAPH="1")

    options = ("--DR", data, *TINY_RUN, "--device", "cuda", "--num_epoch", "2", "--optim", "Muon")
    usual = ("--precision", "float16", "--ema", "0.9", "--rollout_every", "1", "--tfr", "0.5")
    out = refusing("Trainer", *options, *usual, "--tfr_sde", "1", "--save_root", root)
    assert "on Null GPU" in out
    assert int(out.split("steps of the optimiser: ")[1]) >= 10
    resumed = refusing("Trainer", "--save_root", root, "--resume", "--num_epoch", "3")
    assert "resuming in epoch 2" in resumed
    assert len((root / "metrics.csv").read_text().splitlines()) == 4
    assert "Null GPU" in refusing("Tester", "--ckpt_path", root / "last.ckpt", "--DR", data)
    # The control: as on another device.
    out = refusing("Trainer", *options, "--save_root", tmp_path / "other", limited="set()")
    assert "no float64 here" in out


@pytest.mark.slow
def test_a_run_moves_between_devices(library: Path, tmp_path: Path) -> None:
    data, root = make_dataset(tmp_path / "data", train=40), tmp_path / "run"
    where = ("Trainer.py", "--save_root", root)
    modes = ("--tfr", "0.5", "--tfr_sde", "1", "--ema", "0.9", "--optim", "Muon")
    train(data, root, "--num_epoch", "1", *modes)
    for epochs, gpus in ((3, 2), (4, 1)):
        more = ("--num_epoch", str(epochs), "--device", "cuda", "--gpu", str(gpus))
        out = run(library, *where, "--resume", *more, NULLCUDA_COUNT=str(gpus))
        assert "Null GPU" in out
        assert "without CUDA graphs" not in out and "Traceback" not in out
    out = run(library, *where, "--resume", "--num_epoch", "5", "--device", "cpu")
    assert "Null GPU" not in out and "Traceback" not in out
    assert len((root / "metrics.csv").read_text().splitlines()) == 6
    made = run(library, "Tester.py", "--ckpt_path", root / "last.ckpt")
    assert "Null GPU" in made and "without CUDA graphs" not in made


# ---------------------------------------------------------------- a real GPU

REAL = torch.cuda.is_available() and "NULLCUDA" not in os.environ


@pytest.mark.skipif(not REAL, reason="no GPU")
def test_graphs_and_precisions_agree_on_a_real_gpu() -> None:
    from tests.programs.gpu import agreement

    for name, apart in agreement(TINY).items():
        assert apart < (0.5 if "bfloat16" in name or "float16" in name else 0.01), name
