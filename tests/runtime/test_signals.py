"""Signals, lost terminals and closed pipes: a run is saved, ends as documented, resumes exactly."""

import os
import pty
import runpy
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from modules.cvae import CVAE
from modules.runlog import MetricsTable
from modules.runtime import signals
from modules.runtime.signals import Watch
from tests.support.comparing import contents_of_run, same
from tests.support.scripts import REPOSITORY, TINY_RUN, resume, run_script
from tests.support.small_run import at_step, signal_at

pytestmark = pytest.mark.usefixtures("no_figures")

# ---------------------------------------------------------------- through the real Trainer

# All that has a state; test_resume_if_any.py has the defaults, campaign.py other sets.
EVERYTHING = (
    *("--tfr", "0.6", "--tfr_sde", "2", "--kl_anneal_cycle", "2", "--rollout_every", "1"),
    *("--augment", "shift", "colour", "--ema", "0.9", "--frame_noise", "0.1"),
    *("--optim", "Muon", "--lr_scheduler", "cosine", "--prior", "learned", "--output", "sigmoid"),
    *("--jump", "0.4", "--reference", "first", "--num_epoch", "3", "--auto_save"),
)


def train(dataset: Path, run: Path) -> subprocess.CompletedProcess[str]:
    """Three epochs of three steps: 24 frames, clips of 4, batches of 2."""
    where = ("--DR", dataset, "--save_root", run)
    return run_script("Trainer.py", *where, *TINY_RUN, *EVERYTHING)


@pytest.fixture(scope="module")
def whole(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Of a run without an interruption."""
    run = tmp_path_factory.mktemp("whole") / "run"
    assert train(dataset, run).returncode == 0
    return contents_of_run(run)


def position_of(run: Path) -> tuple[int, int]:
    """Epoch and step in which a run goes on."""
    content = torch.load(run / "last.ckpt", weights_only=True)
    position = content["training"]["position"]
    assert content["last_epoch"] == position["epoch"] - 1
    return position["epoch"], position["step"]


@pytest.mark.parametrize(
    ("number", "step"),
    [(signal.SIGTERM, 5), (signal.SIGINT, 0)],  # 5: the end of an epoch, after a stored rollout
)
def test_a_signal_saves_and_the_resumed_run_is_the_same(
    dataset: Path, tmp_path: Path, whole: dict[str, Any], number: signal.Signals, step: int
) -> None:
    run = tmp_path / "parts"
    with signal_at(step, number):
        stopped = train(dataset, run)
    assert stopped.returncode == 128 + number, stopped.stderr
    assert f"stopped by {number.name}" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    # The step in which the signal came is finished, and no further one is started.
    assert position_of(run) == (step // 3, step % 3 + 1)
    with signal_at(1):  # and once more
        assert resume(run).returncode == 143
    done = resume(run)
    assert done.returncode == 0, done.stderr
    assert same(contents_of_run(run), whole)


def test_a_stop_in_validation_and_then_in_a_stored_rollout(
    dataset: Path, tmp_path: Path, whole: dict[str, Any]
) -> None:
    run, whole_step = tmp_path / "parts", CVAE._rollout_step
    # A validation makes 9 frames; the rollouts that are stored before epoch 1 follow it.
    for frame, position in ((4, (0, 3)), (10, (1, 0))):
        calls = iter(range(10**6))

        def step(self: CVAE, *inputs: torch.Tensor, calls: Any = calls, at: int = frame) -> Any:
            if next(calls) == at:
                os.kill(os.getpid(), signal.SIGTERM)
            return whole_step(self, *inputs)

        with mock.patch.object(CVAE, "_rollout_step", step):
            stopped = resume(run) if run.exists() else train(dataset, run)
        assert stopped.returncode == 143, stopped.stderr
        assert position_of(run) == position  # no finished step is run again
    assert resume(run).returncode == 0
    assert same(contents_of_run(run), whole)


def killed(*_: Any) -> None:
    """As by SIGKILL: nothing is saved."""
    sys.exit(99)


@pytest.mark.parametrize(
    ("kill", "position"),
    [
        (at_step(0, killed), (0, 0)),  # from its first moment on
        (at_step(5, killed), (1, 2)),  # from the last SAVE_MINUTES
        # The checkpoint comes after the epoch's row: it can drop a row, but not make one up.
        (mock.patch.object(MetricsTable, "write", killed), (0, 3)),
    ],
)
def test_killed_without_warning(
    dataset: Path, tmp_path: Path, whole: dict[str, Any], kill: Any, position: tuple[int, int]
) -> None:
    run = tmp_path / "parts"
    with kill, mock.patch.object(signals, "SAVE_MINUTES", 1e-9):
        assert train(dataset, run).returncode == 99
    assert position_of(run) == position
    assert resume(run).returncode == 0
    assert contents_of_run(run)["metrics"] == whole["metrics"]


# ---------------------------------------------------------------- which signals


def test_what_stops_a_run_here_and_on_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [number.name for number in signals.STOPPING]
    assert names == ["SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1"]
    for name in ("SIGHUP", "SIGUSR1"):
        monkeypatch.delattr(signal, name)
    monkeypatch.setattr(signal, "SIGBREAK", 21, raising=False)
    windows = runpy.run_path(str(signals.__file__))
    assert [int(number) for number in windows["handled"]()] == [15, 2, 21]


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1])
@pytest.mark.parametrize("ignored", [False, True])
def test_a_signal_is_noted_but_a_hangup_that_nohup_ignores(
    number: signal.Signals, ignored: bool
) -> None:
    before = signal.signal(number, signal.SIG_IGN if ignored else signal.SIG_DFL)
    try:
        with Watch().watching() as watch:
            os.kill(os.getpid(), number)
            noted = 0 if ignored and number == signal.SIGHUP else number
            assert watch.requests() == (noted, 0)
            os.kill(os.getpid(), signal.SIGTERM)  # which is handled all the same
            assert watch.requests() == (noted or signal.SIGTERM, 0)
        assert signal.getsignal(number) is (signal.SIG_IGN if ignored else signal.SIG_DFL)
    finally:
        signal.signal(number, before)


def test_signals_within_half_a_second_are_one_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C reaches each rank of torchrun twice: from the terminal, and passed on.

    A later one ends the process at once, whatever it is in the midst of.
    """
    now, ended = [100.0], []
    monkeypatch.setattr(signals.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(os, "_exit", ended.append)
    with Watch().watching() as watch:
        for after, number, expected in ((0.0, 15, []), (0.4, 2, []), (0.6, 2, [130])):
            now[0] = 100.0 + after
            os.kill(os.getpid(), number)
            assert ended == expected
    assert watch.requests()[0] == signal.SIGTERM


# ---------------------------------------------------------------- terminals and pipes


LOST = """
import fcntl, os, signal, sys, termios, time
from pathlib import Path
from modules.runtime.scripts import run_as_script
from modules.runtime.signals import Watch
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
def main():
    with Watch().watching() as watch:
        print("begun", flush=True)
        while not watch.requests()[0]:
            time.sleep(0.05)
        print("x" * 9999, flush=True)
        print("y", file=sys.stderr, flush=True)
        Path(sys.argv[1]).touch()
        watch.raise_if_asked()
"""


@pytest.mark.parametrize(("end", "saved"), [("run_as_script(main)", True), ("main()", False)])
def test_a_lost_connection_saves(tmp_path: Path, end: str, saved: bool) -> None:
    """The terminal goes and SIGHUP comes, as sshd does it; the control: without run_as_script."""
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", LOST + end, tmp_path / "saved"],
        cwd=REPOSITORY,
        stdin=follower,
        stdout=follower,
        stderr=follower,
        start_new_session=True,
    )
    os.close(follower)
    os.read(leader, 100)
    os.close(leader)
    assert (process.wait(timeout=60) == 129) == saved
    assert (tmp_path / "saved").exists() == saved
