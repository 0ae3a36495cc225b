"""Trying again what is refused for a moment: a scanner, a viewer, a network mount."""

import time
from collections.abc import Callable
from typing import TypeVar

from modules.runtime.errors import UserError, in_one_line
from modules.runtime.patience import impatient

T = TypeVar("T")

WAITS = (0.1, 0.3, 0.6, 1.0)  # seconds between one attempt and the next: two in all


def retried(action: Callable[[], T]) -> T:
    """What the action returns, tried up to five times in two seconds.

    Files alone are worth it: OSError, and UserError where it stands for one. Raises what the last
    attempt raised. For what a run can do without; what it cannot is waited for longer (patience).
    """
    with impatient():
        for wait in WAITS:
            try:
                return action()
            except (OSError, UserError) as error:
                if isinstance(error, UserError) and not isinstance(error.__cause__, OSError):
                    raise
            time.sleep(wait)
        return action()


def reason_of(error: BaseException) -> str:
    """Why something could not be done, in a few words: the system's, where it was a file."""
    cause = error.__cause__ if isinstance(error, UserError) and error.__cause__ else error
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror
    lines = in_one_line(str(error)).splitlines()
    text = f"{lines[0]:.200}" if lines else ""
    if isinstance(error, UserError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
