"""Lines for a reader, on a disk that may be full: what a training prints must not end it."""

import functools
import os
import sys
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Lenient:
    """A stream that goes on where the system refuses what is written to it, and says so once.

    A reader that has closed the pipe is another matter: that ends a script, as everywhere.
    """

    def __init__(self, stream: Any, say: Callable[[str], object] = lambda _: None) -> None:
        """say: called with the reason, the first time"""
        self._stream, self._say, self._refused = stream, say, False

    def write(self, text: str) -> int:
        """Write it, or not."""
        self._try(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        """What cannot be written now may be later."""
        self._try(self._stream.flush)

    def _try(self, action: Callable[[], object]) -> None:
        try:
            action()
        except BrokenPipeError:
            raise
        except OSError as error:
            if not self._refused:
                self._refused = True
                self._say(error.strerror or str(error))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def going_on_without_output(main: Callable[P, T]) -> Callable[P, T]:
    """The same, with standard output and error of which a full disk is no reason to end."""

    @functools.wraps(main)
    def lenient(*arguments: P.args, **options: P.kwargs) -> T:
        errors = Lenient(sys.stderr)

        def say(reason: str) -> None:
            errors.write(f"warning: standard output cannot be written ({reason}); going on\n")
            errors.flush()

        before = sys.stdout, sys.stderr
        output: Any = Lenient(sys.stdout, say)
        sys.stdout, sys.stderr = output, errors
        try:
            return main(*arguments, **options)
        finally:
            sys.stdout, sys.stderr = before
            for stream in before:
                _leave_nothing(stream)

    return lenient


def _leave_nothing(stream: Any) -> None:
    """Flush a stream; what it holds and cannot write is dropped, as the interpreter's end would
    try again and fail."""
    try:
        stream.flush()
    except BrokenPipeError:
        pass  # dealt with by whoever ends the script
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
