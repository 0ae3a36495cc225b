"""Stopping a run on request: by a signal (see signals), or a launcher that died.

The first request is noted; training finishes its step, saves, and then ends with status 128 + the
signal's number (SIGTERM 143, SIGINT 130, SIGHUP 129). A second one ends the process at once:
everything on the disk is whole at any moment.
"""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from modules.runtime import distributed, signals
from modules.runtime.errors import Stopped

# Ctrl-C under torchrun arrives twice, from the terminal and from torchrun: within this many seconds
# it is one request.
ONE_REQUEST = 0.5
# In mid-epoch last.ckpt is written when the last save is so long ago.
SAVE_MINUTES = 10.0


class Watch:
    """Knows whether the run was asked to stop, and whether a save in mid-epoch is due."""

    def __init__(self, save_minutes: float = SAVE_MINUTES) -> None:
        self._asked = 0  # number of the signal that came
        self._asked_at = 0.0
        self._save_seconds = save_minutes * 60.0
        self._saved_at = time.monotonic()
        # One of several ranks stops when the process that started them is gone: nobody else would
        # end it. (On Windows this number never changes.)
        self._launcher = os.getppid() if distributed.world_size() > 1 else 0

    @contextmanager
    def watching(self) -> Iterator["Watch"]:
        """While inside, signals are noted; the handlers from before come back at the end."""
        before = {number: signal.signal(number, self._note) for number in signals.heeded()}
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
        # Written without the print machinery, which the signal may have interrupted. After a SIGHUP
        # there is no terminal to write to.
        with contextlib.suppress(OSError):
            os.write(2, b"\nstopping after this step; a second signal stops at once\n")

    @property
    def asked(self) -> bool:
        """Whether this process was asked to stop."""
        return self._asked != 0

    def raise_if_asked(self) -> None:
        """Raise Stopped if this process was asked to stop."""
        if self._asked:
            raise Stopped(self._asked)

    def after_step(self) -> tuple[int, bool]:
        """(signal number or 0, whether a save in mid-epoch is due), the same on all ranks."""
        if self._launcher and not self._asked and os.getppid() != self._launcher:
            self._note(signal.SIGTERM, None)
        due = 0 < self._save_seconds <= time.monotonic() - self._saved_at
        asked, save = distributed.maximum(self._asked, int(due and distributed.is_main()))
        return asked, bool(save)

    def saved(self) -> None:
        """A checkpoint was written: count SAVE_MINUTES from now."""
        self._saved_at = time.monotonic()


def stop(number: int) -> NoReturn:
    """Raise Stopped, on every rank, once rank 0 is here: once it has saved.

    The first rank that ends makes the launcher end the others, which would be in the midst of it.
    """
    distributed.maximum(0)
    raise Stopped(number)
