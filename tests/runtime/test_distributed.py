"""Several processes (gloo, on CPUs): the same run as one process with the whole batch."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from modules import runlog
from modules.runtime import distributed, launch
from modules.runtime.errors import UserError
from tests.support.data import make_dataset
from tests.support.scripts import REPOSITORY, TINY_RUN, run_script

pytestmark = pytest.mark.slow
# 20 frames in clips of 4, two a step: the last step has one clip, so the second rank has none.
RUN = ("--num_epoch", "2", "--batch_size", "2", "--precision", "float32")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("parallel") / "data", train=20)


@pytest.fixture(scope="module")
def alone(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process."""
    run = tmp_path_factory.mktemp("parallel") / "alone"
    result = run_script("Trainer.py", "--DR", data, "--save_root", run, *TINY_RUN, *RUN)
    assert result.returncode == 0, result.stderr
    return run


def torchrun(script: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """A script in two processes on this machine, as a user starts it."""
    return subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc_per_node", "2", script, *arguments),
        ],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )


def hooked(path: Path, body: str) -> Path:
    """A Trainer in which `at_step(number, rank)` is called before each training step."""
    path.write_text(
        f"import os, signal, sys\nsys.path.insert(0, {str(REPOSITORY)!r})\n"
        "import Trainer\nfrom modules.runtime import distributed\n"
        "from modules.training import TrainingStep\n"
        "whole_step, calls = TrainingStep.__call__, iter(range(10**6))\n"
        f"def at_step(number, rank):\n    {body}\n"
        "def step(self, *arguments, **options):\n"
        "    at_step(next(calls), distributed.rank())\n"
        "    whole_step(self, *arguments, **options)\n"
        "TrainingStep.__call__ = step\n"
        "if __name__ == '__main__':\n    Trainer.start()\n",
        encoding="utf-8",
    )
    return path


def weights(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(run / "last.ckpt", weights_only=True)["state_dict"]


def assert_same_run(a: Path, b: Path) -> None:
    """Weights, batch-norm statistics and metrics equal to rounding."""
    for name, value in weights(a).items():
        torch.testing.assert_close(weights(b)[name], value, rtol=1e-3, atol=2e-5, msg=name)
    one, two = (runlog.read_metrics(run / "metrics.csv") for run in (a, b))
    for name in set(one) - {"frames_per_second", "seconds"}:
        assert one[name].tolist() == pytest.approx(two[name].tolist(), rel=1e-3), name


def test_two_processes_train_what_one_does(data: Path, alone: Path, tmp_path: Path) -> None:
    run = tmp_path / "two"
    result = torchrun(REPOSITORY / "Trainer.py", "--DR", data, "--save_root", run, *TINY_RUN, *RUN)
    assert result.returncode == 0, result.stderr
    assert_same_run(alone, run)
    assert result.stdout.count("best validation PSNR") == 1  # rank 0 speaks for all
    # The control: the weights moved by far more than the tolerance.
    torch.manual_seed(0)
    other = run_script(
        *("Trainer.py", "--DR", data, "--save_root", tmp_path / "other", *TINY_RUN, *RUN),
        *("--seed", "1"),
    )
    assert other.returncode == 0
    with pytest.raises(AssertionError):
        assert_same_run(alone, tmp_path / "other")


def test_gradients_added_up_in_one_call_give_the_same(
    data: Path, alone: Path, tmp_path: Path
) -> None:
    """As on GPUs, where it is part of a graph, in place of DistributedDataParallel."""
    script = hooked(tmp_path / "by_hand.py", "pass")
    text = script.read_text()
    for name, line in (
        ("by_hand", "distributed.adds_gradients = lambda device: True\n"),
        ("not_at_all", "distributed.add_up_gradients = lambda parameters: None\n"),
    ):
        text = text.replace("whole_step, calls", f"{line}whole_step, calls")
        script.write_text(text)
        run = tmp_path / name
        result = torchrun(script, "--DR", data, "--save_root", run, *TINY_RUN, *RUN)
        assert result.returncode == 0, result.stderr
    assert_same_run(alone, tmp_path / "by_hand")
    with pytest.raises(AssertionError):  # the control: each rank by itself
        assert_same_run(alone, tmp_path / "not_at_all")


def test_a_signal_to_one_rank_stops_all_after_the_same_step_and_one_process_goes_on(
    data: Path, alone: Path, tmp_path: Path
) -> None:
    body = "if (number, rank) == (1, 1): os.kill(os.getpid(), signal.SIGTERM)"
    run = tmp_path / "stopped"
    script = hooked(tmp_path / "signalled.py", body)
    result = torchrun(script, "--DR", data, "--save_root", run, *TINY_RUN, *RUN)
    assert result.returncode != 0
    saved = torch.load(run / "last.ckpt", weights_only=True)
    assert saved["training"]["position"]["step"] == 2
    assert result.stderr.count("stopped by SIGTERM") == 2
    resumed = run_script("Trainer.py", "--save_root", run, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert_same_run(alone, run)


def test_a_rank_that_dies_ends_all(data: Path, tmp_path: Path) -> None:
    script = hooked(tmp_path / "dying.py", "if (number, rank) == (1, 1): os._exit(7)")
    result = torchrun(script, "--DR", data, "--save_root", tmp_path / "run", *TINY_RUN, *RUN)
    assert result.returncode != 0  # and not a time-out
    assert "exitcode  : 7" in result.stderr


def test_a_mistake_is_one_line(data: Path, tmp_path: Path) -> None:
    arguments = ("--DR", tmp_path / "none", "--save_root", tmp_path / "run", *TINY_RUN, *RUN)
    result = torchrun(REPOSITORY / "Trainer.py", *arguments)
    assert result.returncode != 0
    assert result.stderr.count("error: ") == 1
    assert str(tmp_path / "none") in result.stderr


# ---------------------------------------------------------------- the parts, in launched processes


def check_words() -> None:
    """What two ranks tell each other, in each of them."""
    launch.connect()
    rank = dist.get_rank()
    assert distributed.maximum(rank, 5 - rank) == [1, 5]
    assert distributed.from_main(rank + 0.5) == [0.5]
    try:
        launch.check_batch(3)
    except UserError as error:
        assert "multiple of the 2 processes" in str(error)
    else:
        raise AssertionError("3 clips cannot be shared by 2")
    launch.disconnect()


def fail() -> None:
    launch.connect()
    if dist.get_rank() == 1:
        sys.exit(2)
    dist.barrier()


def wait_for_signal() -> None:
    from modules.runtime.stopping import Watch

    launch.connect()
    with Watch().watching() as watch:
        if dist.get_rank() == 0:
            os.kill(os.getppid(), signal.SIGTERM)
        while not watch.after_step()[0]:
            pass
    launch.exit_with(143)


@pytest.mark.parametrize(
    ("function", "status"), [("check_words", 0), ("fail", 2), ("wait_for_signal", 143)]
)
def test_launched_processes(function: str, status: int, tmp_path: Path) -> None:
    """By launch(), which --gpu N uses; in a process of its own, as it takes over the signals."""
    script = tmp_path / "launch.py"
    script.write_text(
        f"import sys\nsys.path.insert(0, {str(REPOSITORY)!r})\n"
        "from modules.runtime import launch\nfrom tests.runtime import test_distributed\n"
        "if __name__ == '__main__':\n"
        f"    sys.exit(launch.launch(test_distributed.{function}, 2))\n"
    )
    env: dict[str, Any] = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=120, env=env
    )
    assert result.returncode == status, result.stderr
