"""Errors that a user can correct, and their words, in one line."""

import re
import signal
from collections.abc import Iterable

MAX_NAMED = 5  # of the things that have one fault


class UserError(Exception):
    """A mistake in the command line, the data or a file; printed as ``error: <message>``, status 2.

    message: names the file or option and says what to do, in one line, or a list of faults
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


def why(error: BaseException) -> str:
    """Why something could not be done, in a few words: the system's, where it refused it."""
    cause = error.__cause__ if isinstance(error, UserError) and error.__cause__ else error
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror
    text, kind = in_one_line(str(error))[:200], type(error).__name__
    return text if isinstance(error, UserError) else f"{kind}: {text}" if text else kind


def in_one_line(message: str) -> str:
    """The message with control characters of names in it escaped, so that it stays one line.

    The lines of a list of faults, which start with "  - ", stay lines.
    """
    return re.sub(
        r"\n(?!  - )|[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029]",
        lambda found: repr(found[0])[1:-1],
        message,
    )


def shown(text: str) -> str:
    """The text with bytes of file names that are no UTF-8 (PEP 383) as `\\xe9`."""
    return text.encode(errors="surrogateescape").decode(errors="backslashreplace")
