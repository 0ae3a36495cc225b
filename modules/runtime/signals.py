"""Stopping a run on request: by a signal, or since the launcher died.

The first request is noted; training finishes its step, saves, and ends with status 128 + the
signal's number. A second one ends the process at once: what is on the disk is whole at any moment.
"""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from modules.runtime.errors import Stopped

# SIGTERM: a cluster takes its machine back. SIGINT: Ctrl-C. SIGHUP: the terminal is gone (lost
# ssh). SIGUSR1: a warning before the time limit (Slurm's --signal). SIGBREAK: Ctrl-Break on
# Windows, which has none of the last two. By name, since no system has them all.
STOPPING = tuple(
    signal.Signals(getattr(signal, name))
    for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGBREAK")
    if hasattr(signal, name)
)
# A cluster may tell all processes of a job, and torchrun its ranks once more: within this many
# seconds it is one request.
ONE_REQUEST = 0.5
# In mid-epoch last.ckpt is written when the last save is so long ago.
SAVE_MINUTES = 10.0


def handled() -> tuple[signal.Signals, ...]:
    """Those of them that stop this process: not a SIGHUP that it was started to ignore (nohup)."""
    return tuple(
        number
        for number in STOPPING
        if number.name != "SIGHUP" or signal.getsignal(number) is not signal.SIG_IGN
    )


def ignore() -> None:
    """Let none of them stop this process any more."""
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)


class Watch:
    """Knows whether this process was asked to stop, and whether a save in mid-epoch is due."""

    def __init__(self, *, launched: bool = False) -> None:
        """launched: stop also when the process that started this one is gone, as a rank must."""
        self._asked = 0  # number of the signal that came
        self._asked_at = 0.0
        self._saved_at = time.monotonic()
        self._launcher = os.getppid() if launched else 0

    @contextmanager
    def watching(self) -> Iterator["Watch"]:
        """While inside, signals are noted; the handlers from before come back at the end."""
        before = {number: signal.signal(number, self._note) for number in handled()}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if self._asked:
            if time.monotonic() - self._asked_at > ONE_REQUEST:
                os._exit(128 + number)
            return
        self._asked, self._asked_at = number, time.monotonic()
        # Without the print machinery, which the signal may have interrupted.
        with contextlib.suppress(OSError):  # after a SIGHUP there is no terminal
            os.write(2, b"\nstopping after this step; a second signal stops at once\n")

    def raise_if_asked(self) -> None:
        """Raise Stopped if this process was asked to stop."""
        if self._asked:
            raise Stopped(self._asked)

    def requests(self) -> tuple[int, int]:
        """(signal that came or 0, 1 if a save in mid-epoch is due), of this process alone."""
        if self._launcher and not self._asked and os.getppid() != self._launcher:
            self._note(signal.SIGTERM, None)
        due = time.monotonic() - self._saved_at >= SAVE_MINUTES * 60.0
        return self._asked, int(due)

    def saved(self) -> None:
        """A checkpoint was written: count from now."""
        self._saved_at = time.monotonic()
