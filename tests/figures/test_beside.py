"""The process that draws: the same pictures, nothing lost, nothing waited for."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modules.figures import beside, drawing
from modules.figures.beside import BesideArtist, Died, DrawingProcess, worth_a_process
from modules.figures.drawing import Artist, Curves, Validation
from tests.support.disks import held
from tests.support.drawn import make_run, video
from tests.support.scripts import REPOSITORY

posix = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")


def patiently() -> float:
    return 120.0


def validation(frames: int = 12, value: float = 20.0) -> Validation:
    psnr = np.linspace(value, value + 5, frames - 1)
    images = {name: video(frames, seed=i) for i, name in enumerate(("labels", "truth"))}
    images["prediction"] = video(frames, seed=2)
    return Validation(psnr, psnr - 4, psnr + 3, images, visualize=True)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "here" / "run", 4)


@pytest.fixture
def artist(run: Path) -> Iterator[BesideArtist]:
    artist = BesideArtist(run)
    yield artist
    artist.close()


def pictures(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in run.iterdir() if path.name != "config.json"}


def test_the_same_bits_as_in_place(run: Path, artist: BesideArtist, tmp_path: Path) -> None:
    other = make_run(tmp_path / "there" / "run", 4)
    Artist(other).draw(validation(), Curves())
    assert artist.draw(validation(), Curves()) == {}
    assert artist.finish(patiently) == {}
    assert pictures(run) == pictures(other)
    assert len(pictures(run)) == 7  # the six drawn, and metrics.csv
    # The control: another validation is another picture.
    artist.draw(validation(value=21.0))
    artist.finish(patiently)
    assert pictures(run) != pictures(other)


def test_it_imports_neither_pytorch_nor_matplotlib_at_once() -> None:
    code = "import sys; import {}; print('torch' in sys.modules, 'matplotlib' in sys.modules)"
    found = [
        subprocess.run(
            [sys.executable, "-c", code.format(name)],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        for name in ("modules.figures.beside", "modules.figures.frames", "modules.losses")
    ]
    assert found[0] == ["False", "False"]
    assert found[1] == ["False", "True"]  # the controls
    assert found[2][0] == "True"


class Slow:
    """In the place of the process: takes as long as it is told, and remembers its messages."""

    def __init__(self, answers: Callable[[], dict[str, str]] = dict) -> None:
        self.said: list[list[Any]] = []
        self.go = threading.Semaphore(0)
        self.answers = answers
        self.popen = type("Popen", (), {"pid": 0})

    def __call__(self, _root: Path) -> Any:
        return self

    def exchange(self, jobs: list[Any]) -> dict[str, str]:
        self.said.append(jobs)
        self.go.acquire()
        return self.answers()

    def end(self, patience: float = 0.0) -> None:
        """There is nothing to end."""

    def kill(self) -> None:
        self.go.release(9)


def test_nobody_waits_and_only_the_latest_is_drawn(run: Path) -> None:
    process = Slow()
    artist = BesideArtist(run, process)
    jobs = [validation(value=float(value)) for value in range(20, 24)]
    began = time.monotonic()
    artist.draw(jobs[0], Curves())
    while not process.said:
        time.sleep(0.01)
    for job in jobs[1:]:
        artist.draw(job, Curves())
    assert time.monotonic() - began < 60.0  # the process has not answered at all
    assert not artist.wait(lambda: 0.05)
    process.go.release(2)
    assert artist.finish(patiently) == {}
    assert [said[0] for said in process.said] == [jobs[0], jobs[3]]
    assert all(isinstance(said[1], Curves) for said in process.said)
    artist.close()


def test_what_cannot_be_written_is_drawn_later(run: Path, artist: BesideArtist) -> None:
    folder = run / "val.gif"  # nothing is renamed to a folder
    folder.mkdir()
    artist.draw(validation())
    artist.wait(patiently)
    assert artist.owed.keys() == {"val.gif"}
    folder.rmdir()
    assert artist.finish(patiently) == {}
    assert folder.is_file()


@posix
def test_a_process_that_dies_is_started_again(run: Path, artist: BesideArtist) -> None:
    artist.draw(Curves())
    artist.wait(patiently)
    (run / "curves.png").unlink()
    assert artist.process is not None
    os.kill(artist.process.popen.pid, signal.SIGKILL)
    artist.draw(Curves(), validation())
    assert artist.finish(patiently) == {}
    assert {"curves.png", "val.gif"} <= pictures(run).keys()


def test_one_that_always_dies_costs_its_pictures_only(run: Path) -> None:
    starts: list[int] = []
    sound = Slow()
    sound.go.release(9)

    def start(_root: Path) -> Any:
        starts.append(1)
        if len(starts) <= 4:
            raise Died(-int(signal.SIGSEGV), started=False)
        return sound

    artist = BesideArtist(run, start)
    artist.draw(Curves())
    artist.wait(patiently)
    assert len(starts) == 2
    assert "SIGSEGV" in artist.owed["curves.png"]
    artist.draw(validation())  # the next epoch: once, not twice
    artist.wait(patiently)
    assert len(starts) == 3
    assert {"curves.png", "val.gif"} <= artist.owed.keys()
    assert artist.finish(patiently).keys() == artist.owed.keys()
    assert len(starts) == 4
    assert artist.finish(patiently) == {}  # a fifth one lives, and is told what the others missed
    assert {type(job) for job in sound.said[0]} == {Curves, Validation}
    artist.close()


@pytest.mark.parametrize("how", ["no process", "a Python that ends"])
def test_without_a_process_the_thread_draws(
    run: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_root: Path) -> DrawingProcess:
        raise OSError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(beside, "CODE", "raise SystemExit(3)  # {!r}")
    artist = BesideArtist(run, refuse if how == "no process" else None)
    artist.draw(validation(), Curves())
    assert artist.finish(patiently) == {}
    assert artist.in_place is not None
    assert {"curves.png", "val.gif"} <= pictures(run).keys()
    artist.close()


@posix
def test_one_that_hangs_is_given_up(run: Path) -> None:
    artist = BesideArtist(run)
    artist.draw(Curves())
    artist.wait(patiently)
    assert artist.process is not None
    process = artist.process.popen
    os.kill(process.pid, signal.SIGSTOP)
    left = run / f".val.gif.{process.pid}.tmp"
    left.touch()
    artist.draw(validation())
    began = time.monotonic()
    assert "too long" in artist.finish(lambda: 0.3)["the latest figures"]
    artist.close()
    assert time.monotonic() - began < 30.0
    assert process.poll() is not None
    assert not left.exists()


PARENT = """
import sys, time
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from modules.figures.beside import BesideArtist
from tests.figures.test_beside import validation
artist = BesideArtist(Path(sys.argv[1]))
artist.draw()
artist.process = artist.start(artist.root)
print(artist.process.popen.pid, flush=True)
artist.draw(validation(400))
time.sleep(600)
"""


def alive(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status")
    return status.exists() and "State:\tZ" not in status.read_text(encoding="utf-8")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="/proc of Linux")
def test_it_ends_when_its_run_is_killed(run: Path) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(run), str(REPOSITORY)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    time.sleep(0.3)
    assert alive(pid)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    until = time.monotonic() + 30.0
    while alive(pid) and time.monotonic() < until:
        time.sleep(0.05)
    assert not alive(pid)


def test_when_a_process_is_worth_its_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beside, "usable_cpus", lambda: 2)
    assert worth_a_process(69, 10, visualize=False, gpu=False)
    assert worth_a_process(2, 300, visualize=True, gpu=False)
    assert not worth_a_process(2, 300, visualize=False, gpu=False)
    assert not worth_a_process(0, 630, visualize=True, gpu=True)  # nothing is trained meanwhile
    monkeypatch.setattr(beside, "usable_cpus", lambda: 1)
    assert not worth_a_process(69, 630, visualize=True, gpu=False)
    assert worth_a_process(69, 630, visualize=True, gpu=True)


def test_an_artist_tries_what_is_new_again_and_what_is_known_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drawing, "WAITS", (0.0, 0.0))
    run = make_run(tmp_path / "run", 2)
    artist = Artist(run)
    with held("curves.png") as refused:
        assert artist.draw(Curves()) == {"curves.png": "Permission denied"}
        assert len(refused) == 3
        assert artist.draw(Curves()) == {"curves.png": "Permission denied"}
        assert len(refused) == 4
    assert artist.finish(patiently) == {}
    assert (run / "curves.png").exists()
