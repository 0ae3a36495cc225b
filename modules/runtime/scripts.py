"""How a script reads its command line, what it prints through, and how it ends."""

import argparse
import atexit
import contextlib
import io
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from modules.runtime import signals
from modules.runtime.errors import Stopped, UserError, in_one_line, shown, why

# ---------------------------------------------------------------- the command line


class ArgumentParser(argparse.ArgumentParser):
    """An argparse parser whose errors are UserErrors, and which takes no abbreviated options."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})

    def error(self, message: str) -> NoReturn:
        if found := re.fullmatch(
            r"argument (--\w+).*: expected (?:one|at least one) argument", message
        ):
            message += f"; one that starts with a dash is given as {found[1]}=-value"
        if re.search("--local[-_]rank", message):
            message += "; torch.distributed.launch passes it: start with torchrun, which does not"
        if found := re.search(r"--(?:device|gpu): invalid .*?'(?:cuda:?)?([\d,]+)'", message):
            count = len(found[1].split(","))
            message += f"; CUDA_VISIBLE_DEVICES={found[1]} chooses which, with --gpu {count}"
        raise UserError(f"{message} (--help lists what there is)")


def path_argument(text: str) -> Path:
    """The type of a positional path: Path, but without "", which Path takes for the current one."""
    if not text:  # what a shell makes of "$ROOT" when the variable was never set
        raise argparse.ArgumentTypeError("is empty")
    return Path(text)


# ---------------------------------------------------------------- output


class Output:
    """Standard output or error: what the system does not take (full disk, lost terminal) is lost.

    A pipe whose reader is gone is an error unless `unread` is true.
    """

    def __init__(self, stream: Any, *, unread: bool) -> None:
        self._stream, self._unread, self._refused = stream, unread, False

    def write(self, text: str) -> int:
        self._try(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        self._try(self._stream.flush)

    def _try(self, action: Callable[[], object]) -> None:
        try:
            action()
        except OSError as error:
            if isinstance(error, BrokenPipeError) and not self._unread:
                raise
            if self is sys.stdout and not self._refused:
                text = f"warning: standard output cannot be written ({why(error)}); going on"
                print(text, file=sys.stderr, flush=True)
            self._refused = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _leave_nothing(stream: Any) -> None:
    """Flush; what a stream cannot write is dropped, or the interpreter's end would fail over it."""
    try:
        stream.flush()
    except OSError:
        with contextlib.suppress(OSError):  # a stream without a descriptor
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)


# ---------------------------------------------------------------- the end


def run_as_script(main: Callable[[], int | None], *, unread: bool = False) -> NoReturn:
    """Run `main` and leave the interpreter with its exit status (None is 0).

    UserError, too little memory, a GPU that cannot be used: ``error: <message>`` on stderr, status
    2. Ctrl-C, or a run that was asked to stop: a plain line, 128 + the signal's number. Everything
    else is a fault of the program and keeps its traceback. A reader that closed the pipe
    (``| head``): status 141; unread: it goes on without one, as a training should.
    """
    before = sys.stdout, sys.stderr
    for stream in before:
        # A file name that the terminal's encoding lacks must not turn a message into a traceback.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    output: Any = Output(sys.stdout, unread=unread)
    errors: Any = Output(sys.stderr, unread=unread)
    sys.stdout, sys.stderr, status, message = output, errors, 0, ""
    try:
        try:
            status = main() or 0
        except UserError as error:
            status, message = 2, f"error: {in_one_line(shown(str(error)))}"
        except Stopped as stop:
            status = 128 + stop.signal_number
            message = f"stopped by {stop}; --resume continues from here"
        except Exception as error:
            from modules.runtime.device import explained  # PyTorch, which not all scripts import

            if not (advice := explained(error)):
                raise
            status, message = 2, f"error: {advice}"
        except KeyboardInterrupt:
            status, message = 130, "interrupted"
        if message:
            print(message, file=sys.stderr, flush=True)
        # Here, and not at the interpreter's exit, so that a closed pipe is noticed while it can be.
        sys.stdout.flush()
    except BrokenPipeError:
        # Where it was decided before, it stands: Ctrl-C ends the reader of the pipe as well.
        status = status or 141  # 128 + SIGPIPE, as a shell reports it
    except KeyboardInterrupt:  # a second signal, during shutdown
        status = 130
    finally:
        sys.stdout, sys.stderr = before
        for stream in before:
            _leave_nothing(stream)
    # The status is decided: a signal while the interpreter shuts down must not become another one.
    atexit.register(signals.ignore)
    sys.exit(status)
