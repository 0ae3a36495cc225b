"""Signals, saving in mid-epoch and exact resumption, through the real Trainer."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from modules.runtime.stopping import Watch
from modules.training import TrainingStep
from tests.support.comparing import comparable, metrics_without_time, same
from tests.support.scripts import REPOSITORY, TINY_RUN, resume, run_script

RUN = (
    *("--num_epoch", "3", "--tfr", "0.5", "--tfr_sde", "1", "--kl_anneal_cycle", "2"),
    *("--ema", "0.9", "--frame_noise", "0.1"),
)


def train(dataset: Path, run: Path, *more: str) -> subprocess.CompletedProcess[str]:
    arguments = ("--DR", dataset, "--save_root", run, *TINY_RUN, *RUN, "--auto_save", *more)
    return run_script("Trainer.py", *arguments)


def at_call(number: int, act: Callable[[], Any]) -> Any:
    """A patch that acts before the number-th training step (from 0) of this process."""
    whole_step, calls = TrainingStep.__call__, iter(range(10**6))

    def step(self: TrainingStep, *arguments: Any, **options: Any) -> None:
        if next(calls) == number:
            act()
        whole_step(self, *arguments, **options)

    return mock.patch.object(TrainingStep, "__call__", step)


def contents(run: Path) -> dict[str, Any]:
    """Everything in a run's folder that must not depend on interruptions."""
    # last.prev.ckpt is of one save earlier, which may be one in mid-epoch.
    named = [path for path in run.glob("*.ckpt") if path.name != "last.prev.ckpt"]
    found: dict[str, Any] = {path.name: comparable(path) for path in named}
    found["metrics"] = metrics_without_time(run / "metrics.csv")
    found["psnr"] = (run / "psnr_per_frame.csv").read_text()
    return found


@pytest.fixture(scope="module")
def uninterrupted(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    run = tmp_path_factory.mktemp("stopping") / "whole"
    assert train(dataset, run).returncode == 0
    return contents(run)


@pytest.mark.parametrize(
    ("number", "status", "step"),
    [
        (signal.SIGTERM, 143, 0),
        (signal.SIGTERM, 143, 4),
        (signal.SIGINT, 130, 0),
        (signal.SIGINT, 130, 4),
        (signal.SIGHUP, 129, 4),
        (signal.SIGUSR1, 128 + signal.SIGUSR1, 0),
    ],
)
def test_a_signal_saves_and_the_resumed_run_is_the_same(
    dataset: Path,
    tmp_path: Path,
    uninterrupted: dict[str, Any],
    number: signal.Signals,
    status: int,
    step: int,
) -> None:
    run = tmp_path / "parts"
    with at_call(step, lambda: os.kill(os.getpid(), number)):
        stopped = train(dataset, run)
    assert stopped.returncode == status, stopped.stderr
    assert f"stopped by {number.name}" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    saved = torch.load(run / "last.ckpt", weights_only=True)
    position = saved["training"]["position"]
    # The step in which the signal came is finished, and no further one is started. An epoch has
    # three: 24 frames, clips of 4, batches of 2.
    assert position["epoch"] * 3 + position["step"] == step + 1
    assert saved["last_epoch"] == position["epoch"] - 1
    with at_call(1, lambda: os.kill(os.getpid(), signal.SIGTERM)):  # and once more
        assert resume(run).returncode == 143
    done = resume(run)
    assert done.returncode == 0, done.stderr
    assert same(contents(run), uninterrupted)


EVERYTHING = (
    *("--tfr", "0.6", "--tfr_sde", "2", "--rollout_every", "1"),
    *("--augment", "shift", "colour"),
    *("--optim", "Muon", "--lr_scheduler", "cosine"),
    *("--prior", "learned", "--output", "sigmoid"),
    *("--jump", "0.4", "--reference", "first", "--fold", "2"),
)


@pytest.mark.parametrize("options", [EVERYTHING, ("--optim", "AdamW", "--detach")])
def test_other_options_resume_exactly_too(
    dataset: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    assert train(dataset, tmp_path / "whole", *options).returncode == 0
    run = tmp_path / "parts"
    with at_call(5, lambda: os.kill(os.getpid(), signal.SIGTERM)):  # in an epoch after a rollout
        assert train(dataset, run, *options).returncode == 143
    saved = torch.load(run / "last.ckpt", weights_only=True)["training"]
    assert saved["position"]["step"] > 0
    assert ("rollouts" in saved) == ("--rollout_every" in options)
    done = resume(run)
    assert done.returncode == 0, done.stderr
    assert same(contents(run), contents(tmp_path / "whole"))
    named = torch.load(run / "best_psnr.ckpt", weights_only=True)["training"]
    assert "rollouts" not in named  # only what is resumed carries them


def test_stored_rollouts_are_part_of_what_is_resumed(dataset: Path, tmp_path: Path) -> None:
    """The control: with other stored frames the resumed run is another one."""
    free = (*EVERYTHING, "--tfr", "0")  # every step that does not jump starts from one
    assert train(dataset, tmp_path / "whole", *free).returncode == 0
    run = tmp_path / "parts"
    with at_call(5, lambda: os.kill(os.getpid(), signal.SIGTERM)):
        assert train(dataset, run, *free).returncode == 143
    content = torch.load(run / "last.ckpt", weights_only=True)
    content["training"]["rollouts"] ^= 255
    torch.save(content, run / "last.ckpt")
    assert resume(run).returncode == 0
    assert contents(run)["metrics"] != contents(tmp_path / "whole")["metrics"]


def test_the_comparison_notices_one_lost_step(
    dataset: Path, tmp_path: Path, uninterrupted: dict[str, Any]
) -> None:
    """The control: a resumed run that left out one step would not pass for the whole one."""
    run = tmp_path / "parts"
    with at_call(3, lambda: os.kill(os.getpid(), signal.SIGTERM)):
        assert train(dataset, run).returncode == 143
    content = torch.load(run / "last.ckpt", weights_only=True)
    content["training"]["position"]["step"] += 1
    torch.save(content, run / "last.ckpt")
    assert resume(run).returncode == 0
    assert not same(contents(run), uninterrupted)


def test_a_signal_in_validation(
    dataset: Path, tmp_path: Path, uninterrupted: dict[str, Any]
) -> None:
    run = tmp_path / "parts"
    from modules.cvae import CVAE

    whole_step, calls = CVAE._rollout_step, iter(range(10**6))

    def step(self: CVAE, *arguments: torch.Tensor) -> torch.Tensor:
        if next(calls) == 12:  # 9 frames a validation: in the second
            os.kill(os.getpid(), signal.SIGTERM)
        return whole_step(self, *arguments)

    with mock.patch.object(CVAE, "_rollout_step", step):
        assert train(dataset, run).returncode == 143
    saved = torch.load(run / "last.ckpt", weights_only=True)
    assert (saved["training"]["position"]["epoch"], saved["last_epoch"]) == (1, 0)
    assert saved["training"]["position"]["step"] == 3  # all steps of the epoch: none is run again
    assert resume(run).returncode == 0
    assert same(contents(run), uninterrupted)


def test_killed_without_warning_after_a_save_in_mid_epoch(
    dataset: Path, tmp_path: Path, uninterrupted: dict[str, Any]
) -> None:
    run = tmp_path / "parts"
    often = mock.patch.object(Watch.__init__, "__defaults__", (1e-9,))
    with often, at_call(5, lambda: sys.exit(99)):  # as SIGKILL: nothing is saved
        assert train(dataset, run).returncode == 99
    position = torch.load(run / "last.ckpt", weights_only=True)["training"]["position"]
    assert (position["epoch"], position["step"]) == (1, 2)
    assert resume(run).returncode == 0
    assert contents(run)["metrics"] == uninterrupted["metrics"]
    run = tmp_path / "no-saves"
    with at_call(5, lambda: sys.exit(99)):
        assert train(dataset, run).returncode == 99
    position = torch.load(run / "last.ckpt", weights_only=True)["training"]["position"]
    assert (position["epoch"], position["step"]) == (1, 0)


def test_a_run_can_be_resumed_from_its_first_moment(
    dataset: Path, tmp_path: Path, uninterrupted: dict[str, Any]
) -> None:
    run = tmp_path / "parts"
    with at_call(0, lambda: sys.exit(99)):
        assert train(dataset, run).returncode == 99
    assert resume(run).returncode == 0
    assert same(contents(run), uninterrupted)


def test_a_corrupted_newest_checkpoint_gives_way_to_the_previous_one(
    dataset: Path, tmp_path: Path, uninterrupted: dict[str, Any]
) -> None:
    run = tmp_path / "parts"
    with at_call(7, lambda: os.kill(os.getpid(), signal.SIGTERM)):
        assert train(dataset, run).returncode == 143
    last = run / "last.ckpt"
    last.write_bytes(last.read_bytes()[:-100])
    result = resume(run)
    assert result.returncode == 0, result.stderr
    assert "last.ckpt: corrupted" in result.stdout
    assert "last.prev.ckpt" in result.stdout
    assert same(contents(run), uninterrupted)

    last.unlink()  # removed by hand: likewise
    assert "last.prev.ckpt" in resume(run).stdout
    last.write_bytes(b"")
    (run / "last.prev.ckpt").write_bytes(b"")
    both = resume(run)
    assert both.returncode == 2
    assert both.stderr.startswith("error: ")


@pytest.mark.slow
def test_a_second_signal_stops_at_once(dataset: Path, tmp_path: Path) -> None:
    """A real process whose step does not end."""
    script = tmp_path / "endless.py"
    script.write_text(
        f"import sys, time\nsys.path.insert(0, {str(REPOSITORY)!r})\n"
        "from modules.training import TrainingStep\n"
        "def endless(self, *arguments, **options):\n"
        "    print('in the step', flush=True)\n"
        "    while True: time.sleep(0.05)\n"
        "TrainingStep.__call__ = endless\n"
        "import Trainer\nTrainer.start()\n"
    )
    process = subprocess.Popen(
        [sys.executable, script, "--DR", dataset, "--save_root", tmp_path / "run", *TINY_RUN],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    while "in the step" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    time.sleep(1.0)
    assert process.poll() is None  # the first one waits for the step
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=10) == 143
    _, errors = process.communicate()
    assert "Traceback" not in errors
    assert (tmp_path / "run" / "last.ckpt").exists()
