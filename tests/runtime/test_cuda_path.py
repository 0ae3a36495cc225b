"""The CUDA path, on a device that computes nothing: captured, few kernels, one launch, one memory.

Numbers need a real GPU: the last tests, which run wherever there is one.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.programs.kernels import CONFIGURATIONS
from tests.support import nullcuda
from tests.support.data import make_dataset
from tests.support.scripts import REPOSITORY, TINY_RUN

PROGRAM = REPOSITORY / "tests" / "programs" / "kernels.py"
# Kernels of a step of the small model (T 4, B 2), about a twentieth more than there are with
# PyTorch 2.14. The count is exact, so a larger one is a change of the code, or of PyTorch.
KERNELS = {
    "teacher forcing": 1390,
    "free running": 2800,
    "--detach": 2350,
    "--tf_draw step": 2800,
    "--tf_draw step --detach": 2350,
    "--frame_noise": 1630,
    "--frame_noise, free running": 2820,
    "--jump": 1640,
    "--jump --detach": 2360,
    "--augment": 1450,
    "--reference": 1750,
    "--reference, free running": 3250,
    "--recompute": 1740,
    "--recompute, free running": 4600,
    "--recompute --detach": 4550,
    "--recompute --reference": 2280,
    "--ema": 1400,
    "--optim Muon": 1770,
    "--optim AdamW": 1390,
    "--rollout_every": 1640,
    "--rollout_every --tf_draw step": 1700,
    "--prior learned": 3070,
    "--output sigmoid": 2810,
    "--output clamp": 1390,
    "--recon sigma": 1400,
    "--precision float32": 950,
    "--precision float32, free running": 2240,
    "--grad_clip 0": 1390,
    "--deterministic": 2800,
    "as --preset best": 2020,
}


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if why := nullcuda.why_not():
        pytest.skip(f"no stand-in for CUDA: {why}")
    return nullcuda.build(tmp_path_factory.mktemp("nullcuda"))


def run_program(library: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(PROGRAM), *arguments],
        env=nullcuda.environment(library, **more),
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture(scope="module")
def counted(library: Path) -> dict[str, Any]:
    """What the program counts."""
    done = run_program(library, "--tiny", "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_a_step_is_one_launch_of_few_kernels(name: str, counted: dict[str, Any]) -> None:
    row = counted["configurations"][name]
    assert row["eager"] is None
    assert row["violations"] == 0
    assert row["launches"] == row["steps"]
    assert 0.5 * KERNELS[name] < row["kernels"] <= KERNELS[name]


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
    spoilt, sound = counted["controls"][name], counted["controls"]["none"]
    assert words in spoilt["eager"]
    assert spoilt["launches"] == 0
    assert sound["eager"] is None
    assert sound["launches"] == 2


def test_both_modes_and_a_smaller_batch_share_one_memory(library: Path) -> None:
    """Full size, batch 16: the second mode's graph takes little more than the first's."""
    row = json.loads(run_program(library, "--both").stdout.splitlines()[-1])
    assert row["eager"] is None
    assert row["violations"] == 0
    assert row["graphs"] == 2
    assert row["launches"] == row["steps"] == 4
    one, both = row["peaks_mib"]
    assert one < 12.0 * 1024
    assert both < 14.0 * 1024


def test_a_training_that_does_not_fit_says_what_would(library: Path) -> None:
    """6 GiB, where 10 are needed; PyTorch's own warnings go before it."""
    done = run_program(library, "--both", NULLCUDA_MEM="6144")
    assert "note: training without CUDA graphs (CUDA out of memory" in done.stdout
    line = done.stderr.splitlines()[-1]
    start = "UserError: --batch_size 16 with --train_vi_len 16: a step takes about "
    assert 8 < float(line.split(start)[1].split()[0]) < 13
    assert "--recompute takes about 0." in line
    size = int(line.split("GPU memory; --batch_size ")[1].split()[0])
    assert 4 <= size <= 10


# ---------------------------------------------------------------- the scripts


def script(library: Path, *arguments: str | Path, **more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        cwd=REPOSITORY,
        env=nullcuda.environment(library, **more),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finished(process: subprocess.Popen[str], status: int = 0) -> str:
    out, _ = process.communicate(timeout=300)
    assert process.returncode == status, out
    return out


@pytest.mark.slow
def test_a_run_moves_from_cpu_to_cuda_and_back(library: Path, tmp_path: Path) -> None:
    data, run = make_dataset(tmp_path / "data", train=40), tmp_path / "run"
    tiny = ("Trainer.py", "--DR", data, "--save_root", run, *TINY_RUN, "--num_epoch", "1")
    finished(script(library, *tiny, "--device", "cpu", "--tfr", "0.5", "--tfr_sde", "1"))
    resume = ("Trainer.py", "--save_root", run, "--resume", "--num_epoch")
    on_gpu = finished(script(library, *resume, "3", "--device", "cuda"))
    assert "Null GPU" in on_gpu
    assert "without CUDA graphs" not in on_gpu
    assert "Traceback" not in on_gpu
    finished(script(library, *resume, "4", "--device", "cpu"))
    assert len((run / "metrics.csv").read_text().splitlines()) == 5
    made = finished(script(library, "Tester.py", "--ckpt_path", run / "last.ckpt"))
    assert "Null GPU" in made
    assert "without CUDA graphs" not in made


@pytest.mark.slow
def test_sigterm_in_training_on_cuda_is_resumed(library: Path, tmp_path: Path) -> None:
    data, run = make_dataset(tmp_path / "data", train=40), tmp_path / "run"
    tiny = ("Trainer.py", "--DR", data, "--save_root", run, *TINY_RUN, "--num_epoch", "200")
    process = script(library, *tiny, "--device", "cuda")
    deadline = time.monotonic() + 120
    while not (run / "metrics.csv").exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    finished(process, 143)
    done = len((run / "metrics.csv").read_text().splitlines())
    out = finished(
        script(library, "Trainer.py", "--save_root", run, "--resume", "--num_epoch", str(done + 1))
    )
    assert "resuming in epoch" in out


# ---------------------------------------------------------------- a real GPU

REAL = torch.cuda.is_available() and "NULLCUDA" not in os.environ
on_a_gpu = pytest.mark.skipif(not REAL, reason="no GPU")


def trained(*more: str, steps: int = 4) -> tuple[list[torch.Tensor], list[float]]:
    """The weights of a small model after a few steps on the GPU, and the sums."""
    from modules.cvae import CVAE
    from modules.options import model_config, parse_trainer
    from modules.plan import Plan
    from modules.runstate import RunState
    from modules.runtime.device import set_up
    from modules.sequences import Recording, VideoData
    from modules.training import TrainingStep

    sizes = "--F_dim 16 --L_dim 8 --N_dim 4 --D_out_dim 16 --frame_H 16 --frame_W 16"
    o, _ = parse_trainer("", ["--DR", "d", *sizes.split(), "--train_vi_len", "4", *more])
    device = torch.device("cuda", 0)
    set_up(device, o.precision, o.deterministic)
    torch.manual_seed(0)
    model = CVAE(model_config(o)).to(device).to(memory_format=torch.channels_last).train()
    g = torch.Generator().manual_seed(0)
    shape = (40, 16, 16, 3)
    stacks = [torch.randint(0, 256, shape, generator=g, dtype=torch.uint8) for _ in range(2)]
    data = VideoData(*stacks, (Recording(0, 40),)).to(device)
    state = RunState(o, Path("unused"), model, data, data_root="", data_fingerprint="")
    step = TrainingStep(state, data)
    for number in range(steps):
        starts = torch.tensor([3 * number, 20], device=device)
        step(starts, Plan(0.01, 0.5, number % 2 == 0, 1e-3), epoch=0, number=number)
    assert (step.why_eager is None) == (not o.no_graph)
    return [p.detach().cpu() for p in model.parameters()], list(state.sums.read())


@on_a_gpu
@pytest.mark.parametrize("optimiser", ["Adam", "Muon"])
def test_a_graph_trains_as_eager_steps_do(optimiser: str) -> None:
    same = ("--precision", "float32", "--deterministic", "--optim", optimiser)
    graph, eager = trained(*same), trained(*same, "--no_graph")
    assert graph[1] == pytest.approx(eager[1], rel=1e-5)
    for a, b in zip(graph[0], eager[0], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@on_a_gpu
def test_bfloat16_is_near_float32() -> None:
    exact, coarse = trained("--precision", "float32"), trained("--precision", "bfloat16")
    assert coarse[1] == pytest.approx(exact[1], rel=0.05)
