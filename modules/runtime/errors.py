"""Errors that a user can correct, as opposed to faults of the program."""

import os
import re
import signal
from collections.abc import Iterable
from pathlib import Path

from modules.runtime import platforms

MAX_NAMED = 5  # of the things that have one fault


class UserError(Exception):
    """A mistake in the command line, the data or a file.

    The scripts print it as one line ``error: <message>`` and exit with status 2, so the message
    names the file or option and says what to do. A message may have further lines only where it
    lists several faults of one data set.

    about: the option whose value is at fault, where the message does not show it as `--name value`
    """

    def __init__(self, message: str, *, about: str | None = None) -> None:
        super().__init__(message)
        self.about = about


class Stopped(Exception):
    """The run was asked to stop by a signal, and has saved what it needs to resume."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal.Signals(signal_number).name)
        self.signal_number = signal_number


def named(names: Iterable[object], total: int | None = None) -> str:
    """The first few names, and how many more there are; total: how many, if more than given."""
    every = list(names)
    more = (total or len(every)) - MAX_NAMED
    return ", ".join(map(str, every[:MAX_NAMED])) + (f" and {more} more" if more > 0 else "")


def why(error: OSError, path: Path | None = None) -> str:
    """What the system said, in a few words; path: what it was said of."""
    # One that a library raised may have a text alone, or none.
    text = error.strerror or str(error) or type(error).__name__
    absolute = os.path.abspath(path) if platforms.WINDOWS and path else ""  # noqa: PTH100
    if len(absolute) > platforms.WINDOWS_PATH:
        most = platforms.WINDOWS_PATH
        text += (
            f"; the path has {len(absolute)} characters, and Windows takes {most} unless its long "
            "paths are enabled: enable them, or give a shorter folder"
        )
    return text


def in_one_line(message: str) -> str:
    """The message with control characters of names in it escaped, so that it stays one line.

    The lines of a list of faults, which start with "  - ", stay lines.
    """
    return re.sub(
        r"\n(?!  - )|[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029]",
        lambda found: repr(found[0])[1:-1],
        message,
    )
