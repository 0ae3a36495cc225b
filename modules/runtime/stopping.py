"""Stopping a run on request: SIGTERM (a cluster takes its machine back) and SIGINT (Ctrl-C).

The first signal is noted; training finishes its step, saves, and then ends with status 128 + number
(143, 130). A second one ends the process at once: everything on the disk is whole at any moment.
"""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from modules.runtime import distributed
from modules.runtime.errors import Stopped

SIGNALS = (signal.SIGTERM, signal.SIGINT)
# Ctrl-C under torchrun arrives twice, from the terminal and from torchrun: within this many seconds
# it is one request.
ONE_REQUEST = 0.5


class Watch:
    """Knows whether the run was asked to stop, and whether a save in mid-epoch is due."""

    def __init__(self, save_minutes: float = 0.0) -> None:
        self._asked = 0  # number of the signal that came
        self._asked_at = 0.0
        self._save_seconds = save_minutes * 60.0
        self._saved_at = time.monotonic()

    @contextmanager
    def watching(self) -> Iterator["Watch"]:
        """While inside, signals are noted; the handlers from before come back at the end."""
        before = {number: signal.signal(number, self._note) for number in SIGNALS}
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
        # Written without the print machinery, which the signal may have interrupted.
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
        due = 0 < self._save_seconds <= time.monotonic() - self._saved_at
        asked, save = distributed.maximum(self._asked, int(due and distributed.is_main()))
        return asked, bool(save)

    def saved(self) -> None:
        """A checkpoint was written: count save_minutes from now."""
        self._saved_at = time.monotonic()
