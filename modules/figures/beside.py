"""A process that draws a run's figures beside its training.

The run hands over what is to be drawn and goes on. A thread of it passes that to the process
through a pipe; what has come in while the process draws replaces what waits there, so memory holds
one validation, and the latest is always drawn. The process has one thread and a low priority,
imports no PyTorch and sees no GPU. It ends when its pipe does, so at once when the run is killed.

A process that dies is started again once. If it cannot be started at all, the thread draws.
"""

import contextlib
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from modules.figures.drawing import Artist, Job

# Drawing is left to a process of its own if it takes longer in all than the start of one.
SECONDS_OF_CURVES, SECONDS_OF_FRAME, SECONDS_OF_START = 0.5, 0.005, 2.0
DRAWING_LIMIT = 120.0  # seconds that the end of a run waits for its last figures
STOPPING_LIMIT = 5.0  # … of a run that was asked to stop
PRIORITY = 5  # nice value: it takes a quarter of a core that a training thread wants too
ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
# Of the process: this project's modules come first, and nothing from the folder it is started in.
CODE = (
    "import sys; sys.path[:] = [{!r}, *filter(None, sys.path)]; "
    "from modules.figures import beside; beside.main()"
)


def worth_a_process(epochs: int, frames: int, *, visualize: bool, gpu: bool) -> bool:
    """Whether a process that draws saves time.

    epochs: to be drawn while another is trained; frames: of the validation; gpu: trained there
    """
    seconds = SECONDS_OF_CURVES + SECONDS_OF_FRAME * frames * visualize
    return (gpu or usable_cpus() > 1) and epochs * seconds > SECONDS_OF_START


def usable_cpus() -> int:
    """The number of CPUs that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # Windows and macOS have none
    return len(affinity(0)) if affinity else os.cpu_count() or 1


class Died(Exception):
    """The process is gone; `status` as subprocess gives it, `started` whether it had begun."""

    def __init__(self, status: int | None, started: bool) -> None:
        super().__init__(f"status {status}")
        self.status, self.started = status, started

    @property
    def crashed(self) -> bool:
        """Whether it was ended from outside of Python: a signal, or on Windows an exception."""
        return self.status is None or self.status < 0 or self.status >= 0xC0000000

    def words(self) -> str:
        """What happened to it."""
        if self.status is not None and self.status < 0:
            with contextlib.suppress(ValueError):
                return f"the drawing process was ended by {signal.Signals(-self.status).name}"
        return f"the drawing process ended with status {self.status}"


class DrawingProcess:
    """The process, and what is said through its pipes. Raises Died, OSError."""

    def __init__(self, root: Path) -> None:
        """root: the run's folder."""
        hidden: dict[str, Any] = {"start_new_session": True}  # from the terminal's signals
        if sys.platform == "win32":
            flags = subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW
            hidden = {"creationflags": flags | subprocess.BELOW_NORMAL_PRIORITY_CLASS}
        one_thread = dict.fromkeys(ONE_THREAD, "1")
        self.popen = subprocess.Popen(
            [sys.executable, "-c", CODE.format(str(Path(__file__).resolve().parents[2]))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **one_thread, "CUDA_VISIBLE_DEVICES": ""},
            **hidden,
        )
        self.started = False
        self.exchange(root)
        self.started = True

    def exchange(self, message: Any) -> Any:
        """Its answer to a message."""
        assert self.popen.stdin is not None and self.popen.stdout is not None
        try:
            pickle.dump(message, self.popen.stdin, protocol=pickle.HIGHEST_PROTOCOL)
            self.popen.stdin.flush()
            return pickle.load(self.popen.stdout)
        except (OSError, EOFError, pickle.UnpicklingError) as error:
            raise Died(self.end(), self.started) from error

    def kill(self) -> None:
        """End it at once, in the midst of whatever it does."""
        self.popen.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.popen.wait(1.0)

    def end(self, patience: float = 5.0) -> int | None:
        """Close its pipe, which ends it, and wait; its exit status, or None if it was stuck."""
        assert self.popen.stdin is not None and self.popen.stdout is not None
        with contextlib.suppress(OSError):
            self.popen.stdin.close()
        try:
            return self.popen.wait(patience)
        except subprocess.TimeoutExpired:
            self.kill()
            return None
        finally:
            self.popen.stdout.close()


class BesideArtist:
    """Draws like Artist, but beside the run; what could not be drawn is heard of later."""

    def __init__(self, root: Path, start: Callable[[Path], DrawingProcess] | None = None) -> None:
        """root: the run's folder; start: of the process, DrawingProcess unless a test says so."""
        self.root, self.start = root, start or DrawingProcess
        self.process: DrawingProcess | None = None
        self.in_place: Artist | None = None  # once no process can be started
        self.crashed = False  # the process has died twice
        self.waiting: dict[type, Job] = {}  # by kind
        self.unsettled: dict[type, Job] = {}  # handed to the process, and not wholly drawn yet
        self.again = False  # what is owed is to be tried again
        self.busy = self.closed = False
        self.owed: dict[str, str] = {}  # files that are not up to date, and why
        self.changed = threading.Condition()
        self.thread = threading.Thread(target=self._work, name="figures", daemon=True)
        self.thread.start()

    def draw(self, *jobs: Job) -> dict[str, str]:
        """Hand them over; by file name why not, what by now could not be drawn."""
        with self.changed:
            for job in jobs:
                self.waiting.pop(type(job), None)  # the order is that of the calls
                self.waiting[type(job)] = job
            self.changed.notify_all()
            return dict(self.owed)

    def wait(self, limit: Callable[[], float]) -> bool:
        """Wait until all that was handed over is drawn, or could not be; False: out of time.

        limit: seconds that it may take, asked again and again
        """
        began = time.monotonic()
        with self.changed:
            while self.waiting or self.again or self.busy:
                left = limit() - (time.monotonic() - began)
                if left <= 0:
                    return False
                self.changed.wait(min(left, 0.1))
        return True

    def finish(self, limit: Callable[[], float]) -> dict[str, str]:
        """wait(), and try again what could not be drawn; by file name why not, what is not."""
        began = time.monotonic()
        if self.wait(limit) and self.owed:
            with self.changed:
                self.again = True
                self.changed.notify_all()
        if not self.wait(lambda: limit() - (time.monotonic() - began)):
            return {**self.owed, "the latest figures": "drawing took too long"}
        return self.owed

    def close(self) -> None:
        """End the process, whatever it does, and take away what it has half-written."""
        with self.changed:
            self.closed = True
            self.changed.notify_all()
            busy = self.busy
        process, self.process = self.process, None
        if process is not None:
            process.kill() if busy else process.end()
            for path in self.root.glob(f".*.{process.popen.pid}.tmp"):
                with contextlib.suppress(OSError):
                    path.unlink()

    # -------------------------------------------------------- the thread

    def _work(self) -> None:
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self.waiting or self.again or self.closed)
                if self.closed:
                    return
                jobs, self.waiting, self.again = self.waiting, {}, False
                self.busy = True
            self.unsettled.update(jobs)
            faults = self._draw(list(jobs.values()))
            settled = [
                kind
                for kind, job in self.unsettled.items()
                if not job.pictures(self.root).keys() & faults.keys()
            ]
            for kind in settled:
                del self.unsettled[kind]
            with self.changed:
                self.owed, self.busy = faults, False
                self.changed.notify_all()

    def _draw(self, jobs: list[Job]) -> dict[str, str]:
        """The process's answer; it is started where there is none, again if it dies."""
        died = "the run ends"
        for _ in range(1 if self.crashed else 2):
            if self.in_place is not None or self.closed:
                break
            try:
                if self.process is None:
                    self.process = self.start(self.root)
                    jobs = list(self.unsettled.values())  # what the one before did not get done
                faults: dict[str, str] = self.process.exchange(jobs)
            except Died as error:
                self.process, died = None, error.words()
                if not error.started and not error.crashed:
                    self._draw_in_place()
            except Exception:  # it cannot even be started, or be told what to draw
                self._draw_in_place()
            else:
                self.crashed = False
                return faults
        if self.in_place is not None:
            return self.in_place.draw(*jobs)
        self.crashed = True
        jobs = list(self.unsettled.values())
        return {name: died for job in jobs for name in job.pictures(self.root)}

    def _draw_in_place(self) -> None:
        process, self.process = self.process, None
        if process is not None:
            process.kill()
        self.in_place = Artist(self.root)


# ---------------------------------------------------------------- the process


def _read(stream: IO[bytes], messages: "queue.SimpleQueue[Any]") -> None:
    """Pass on what the run says; when it says no more, end this process, whatever it does."""
    with contextlib.suppress(Exception):
        while True:
            messages.put(pickle.load(stream))
    os._exit(0)


def main() -> None:
    """What the process does: draw what it is sent, and answer what could not be drawn."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1"):  # they are for the run to heed
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    if nice := getattr(os, "nice", None):  # Windows has none
        nice(PRIORITY)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # nothing that is printed may get among them
    messages: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(sys.stdin.buffer, messages), daemon=True).start()
    artist: Artist | None = None
    while True:
        message = messages.get()
        answer: dict[str, str] = {}
        if artist is None:
            artist = Artist(message)
        else:
            answer = artist.draw(*message)
        pickle.dump(answer, answers)
        answers.flush()
