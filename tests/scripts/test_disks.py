"""Disks and files as users have them, through the real command lines: full, away for a moment,
corrupted, in use by another run. Nothing is lost.

Each refusal is simulated, where it cannot be had, by the call that the system would refuse.
"""

import errno
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from modules import runlog
from modules.checkpoint import load_checkpoint, load_last, save_checkpoints
from modules.runtime import files
from tests.support.disks import named, refusing
from tests.support.scripts import REPOSITORY, TINY_RUN, assert_refused, resume, run_script

pytestmark = pytest.mark.usefixtures("no_figures", "no_waiting")


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of a finished run of three epochs."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def one_more(run: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """The run's fourth epoch."""
    return resume(run, "--num_epoch", "4", *more)


def assert_done(result: subprocess.CompletedProcess[str], run: Path, epochs: int = 4) -> None:
    """It came to its end, with nothing missing and nothing left over."""
    assert result.returncode == 0, result.stderr
    assert runlog.read_metrics(run / "metrics.csv")["epoch"].tolist() == list(range(epochs))
    assert load_checkpoint(run / "last.ckpt").last_epoch == epochs - 1
    assert not [path for path in run.iterdir() if path.name.endswith(("tmp", ".lock"))]


@pytest.mark.parametrize(
    ("call", "number", "end", "previous"),
    [
        ("link", errno.EPERM, "", 2),  # a disk without hard links
        # A backup reads last.prev.ckpt on Windows: it keeps its earlier content.
        ("replace", errno.EACCES, ".last.prev.ckpt.tmp", 1),
    ],
)
def test_a_previous_checkpoint_that_cannot_be_kept_as_usual(
    run: Path, call: str, number: int, end: str, previous: int
) -> None:
    content = {**torch.load(run / "last.ckpt", weights_only=True), "last_epoch": 7}
    with refusing(call, number, when=named(end)) as refused:
        save_checkpoints([run / "best.ckpt", run / "last.ckpt"], content)
    assert refused
    for name, epoch in (("best", 7), ("last", 7), ("last.prev", previous)):
        assert load_checkpoint(run / f"{name}.ckpt").last_epoch == epoch
    assert not [path for path in run.iterdir() if path.name.endswith(".tmp")]


@pytest.mark.parametrize(
    ("call", "number", "advice", "attempts"),
    [
        ("replace", errno.EACCES, "close it there", len(files.WAITS) + 1),
        ("fsync", errno.ENOSPC, "make room", 1),  # no waiting mends it
    ],
)
def test_a_checkpoint_that_cannot_be_written(
    run: Path, call: str, number: int, advice: str, attempts: int
) -> None:
    before = (run / "last.ckpt").read_bytes()
    with refusing(call, number, when=named(f"last.ckpt.{os.getpid()}.tmp")) as refused:
        result = one_more(run)
    words = f"last.ckpt: cannot be written ({os.strerror(number)})"
    assert_refused(result, words, advice, "intact")
    assert len(refused) == attempts
    assert (run / "last.ckpt").read_bytes() == before
    assert_done(one_more(run), run)


def die_after(number: int) -> None:
    """End this process at once after so many calls to the disk."""
    left = [number]

    def counted(call: Callable[..., object], *words: object, **more: object) -> object:
        if left[0] == 0:
            os._exit(9)
        left[0] -= 1
        return call(*words, **more)

    for name in ("open", "fsync", "replace", "link", "unlink"):
        setattr(os, name, partial(counted, getattr(os, name)))


def test_killed_between_any_two_calls(run: Path) -> None:
    """A process that dies before its n-th call to the disk leaves the old checkpoint or the new."""
    content = {**torch.load(run / "last.ckpt", weights_only=True), "last_epoch": 7}
    found = []
    for last_call in range(99):
        place = Path(shutil.copytree(run, run.with_name(f"killed{last_call}")))
        pid = os.fork()
        if pid == 0:
            die_after(last_call)
            save_checkpoints([place / "last.ckpt"], content)
            os._exit(0)
        ended = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        loaded = load_last(place)
        assert loaded.path.name == "last.ckpt"
        load_checkpoint(place / "last.prev.ckpt")
        found.append(loaded.last_epoch)
        if ended == 0:
            break
    assert ended == 0 and len(found) > 6
    assert found == sorted(found) and set(found) == {2, 7}
    assert_done(one_more(place.with_name("killed5")), place.with_name("killed5"))


def test_a_drive_that_is_away_when_a_run_is_resumed(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with refusing("open", errno.ESTALE, times=3, when=named("last.ckpt")) as refused:
        loaded = load_last(run)
    assert len(refused) == 3
    assert (loaded.path.name, capsys.readouterr().out) == ("last.ckpt", "")  # it is not given up


def test_leftovers_go_with_the_next_start(run: Path) -> None:
    left = [run / ".last.ckpt.4711.tmp", run / ".last.prev.ckpt.tmp", run / ".curves.png.1.tmp"]
    for path in left:
        path.write_bytes(b"half of it")
    (run / ".notes").touch()
    assert_refused(one_more(run, "--lr", "0.5"), "--lr")
    assert all(path.exists() for path in left)  # a refused start touches nothing
    assert_done(one_more(run), run)
    assert (run / ".notes").exists()
    # They are never taken for a checkpoint.
    (run / "last.ckpt").rename(left[0])
    (run / "last.prev.ckpt").unlink()
    assert_refused(one_more(run), "no run to continue")


def test_a_second_run_in_the_folder_is_refused(dataset: Path, tmp_path: Path) -> None:
    """Until the first is killed: then the same command goes on from what it has saved."""
    run = tmp_path / "run"
    started = ["--DR", str(dataset), "--save_root", str(run), *TINY_RUN, "--num_epoch", "9999"]
    command = [sys.executable, str(REPOSITORY / "Trainer.py"), *started]
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    for _ in range(600):
        if first.poll() is not None or len(list(run.glob("last*.ckpt"))) > 1:
            break
        time.sleep(0.1)
    (run / ".last.ckpt.4711.tmp").touch()
    for words in (
        ["--save_root", str(run), "--resume"],
        [*started, "--resume", "if_any"],
        [*started],
    ):
        lock = json.loads((run / "run.lock").read_text())
        assert lock["process"] == first.pid
        assert_refused(
            run_script("Trainer.py", *words),
            f"run.lock: process {first.pid} on {lock['host']} is a run in this folder",
        )
    assert (run / ".last.ckpt.4711.tmp").exists()  # it may be what the first is writing
    first.kill()
    assert first.communicate()[1] == "" and first.returncode == -9  # nothing disturbed it
    assert (run / "run.lock").exists()
    done = load_last(run).last_epoch + 3
    resumed = run_script("Trainer.py", *started[:-1], str(done), "--resume", "if_any")
    assert_done(resumed, run, done)
