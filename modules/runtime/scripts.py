"""How a script ends: its exit status and its last line."""

import atexit
import errno
import io
import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from modules.runtime import platforms, signals
from modules.runtime.errors import Stopped, UserError, in_one_line
from modules.runtime.text import ERRORS

# What a write to a terminal gives that is no longer there.
GONE = (errno.EIO, errno.ENXIO, errno.ENODEV, errno.EBADF)


def run_as_script(main: Callable[[], int | None]) -> NoReturn:
    """Run `main` and leave the interpreter with its exit status (None is 0).

    UserError: ``error: <message>`` on stderr, status 2. Ctrl-C: a plain line, status 130. A run
    that was asked to stop: likewise, 128 + the signal's number. A reader that closed the pipe
    (``| head``): nothing, status 141 unless there is another. A terminal that is gone: nothing.
    Too little memory, or a GPU that cannot be used: an ``error:`` too. Everything else is a fault
    of the program and keeps its traceback.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        # A file name that the terminal's encoding lacks must not turn a message into a traceback.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=ERRORS)
            # Consoles of Windows are written to in another way, and raise no such error.
            if stream.isatty() and not platforms.WINDOWS:
                setattr(sys, name, terminal_that_may_go(stream))
    status = 0
    try:
        try:
            status = main() or 0
        except UserError as error:
            status = 2
            print(f"error: {in_one_line(str(error))}", file=sys.stderr, flush=True)
        except Stopped as stop:
            status = 128 + stop.signal_number
            print(f"stopped by {stop}; --resume continues from here", file=sys.stderr, flush=True)
        except Exception as error:
            from modules.runtime.device import explained  # PyTorch, which not all scripts import

            if not (message := explained(error)):
                raise
            status = 2
            print(f"error: {message}", file=sys.stderr, flush=True)
        except KeyboardInterrupt:
            status = 130
            print("interrupted", file=sys.stderr, flush=True)
        # Here, and not at the interpreter's exit, so that a closed pipe is noticed while it can be.
        sys.stdout.flush()
    except OSError as error:
        if not closed_pipe(error):
            raise
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        # Where it was decided before, it stands: Ctrl-C ends the reader of the pipe as well.
        status = status or 141  # 128 + SIGPIPE, as a shell reports it
    except KeyboardInterrupt:  # a second signal, during shutdown
        status = 130
    # The status is decided: a signal while the interpreter shuts down must not become another one.
    atexit.register(signals.ignore)
    sys.exit(status)


def closed_pipe(error: OSError) -> bool:
    """Whether the reader of our output is gone: EPIPE, or on Windows EINVAL."""
    if isinstance(error, BrokenPipeError):
        return True
    if not platforms.WINDOWS or error.errno != errno.EINVAL or error.filename is not None:
        return False
    # EINVAL has other causes there too, so the streams are asked: what is in them still cannot go.
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            return True
    return False


class _Terminal(io.RawIOBase):
    """A terminal; when it is gone, what is written to it is lost, and nothing else.

    After a lost connection a write gives EIO: no reason to lose a run that goes on (nohup), or the
    steps that it is about to save (SIGHUP).
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def write(self, data: Any) -> int:
        try:
            return os.write(self._descriptor, data)
        except OSError as error:
            if error.errno not in GONE:
                raise
            return len(data)

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor


def terminal_that_may_go(stream: io.TextIOWrapper) -> io.TextIOWrapper:
    """The same terminal, but for what is written when it is gone."""
    return io.TextIOWrapper(
        io.BufferedWriter(_Terminal(stream.fileno())),
        encoding=stream.encoding,
        errors="backslashreplace",
        line_buffering=True,
    )
