"""Errors that a user can mend, told apart from faults of the program, and how scripts end."""

import argparse
import io
import os
import re
import signal
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NoReturn

MAX_NAMED = 5  # of the things that have one fault


class UserError(Exception):
    """A mistake in the command line, the data or a file.

    The scripts print it as one line ``error: <message>`` and exit with status 2, so the message
    names the file or option and says what to do. A message may have further lines only where it
    lists several faults of one data set.
    """


class Stopped(Exception):
    """The run was asked to stop by a signal, and has saved what it needs to go on."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal.Signals(signal_number).name)
        self.signal_number = signal_number


def named(names: Iterable[object], total: int | None = None) -> str:
    """The first few names, and how many more there are; total: how many, if more than given."""
    every = list(names)
    more = (total or len(every)) - MAX_NAMED
    return ", ".join(map(str, every[:MAX_NAMED])) + (f" and {more} more" if more > 0 else "")


class ArgumentParser(argparse.ArgumentParser):
    """An argparse parser whose errors are UserErrors, and which takes no abbreviated options.

    An abbreviation would be a misspelt option that is silently taken for another.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (--help lists what there is)")


def path_argument(text: str) -> Path:
    """The type of a positional path: Path, but "" is refused, which Path takes for the current one.

    It is what a shell makes of "$ROOT" when the variable was never set.
    """
    if not text:
        raise argparse.ArgumentTypeError("is empty")
    return Path(text)


def in_one_line(message: str) -> str:
    """The message with control characters of names in it escaped, so that it stays one line.

    The lines of a list of faults, which begin with "  - ", stay lines.
    """
    return re.sub(
        r"\n(?!  - )|[\x00-\x09\x0b-\x1f\x7f]", lambda found: repr(found[0])[1:-1], message
    )


def out_of_memory(error: BaseException) -> bool:
    """Whether memory was refused, by Python, numpy, or PyTorch on a GPU or the CPU."""
    # By name: this module is imported before, and without, PyTorch.
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error))
    )


def run_as_script(main: Callable[[], int | None]) -> NoReturn:
    """Run `main` and leave the interpreter with its exit status (None is 0).

    UserError: ``error: <message>`` on stderr, status 2. Ctrl-C: a plain line, status 130. A run
    that was asked to stop: likewise, 128 + the signal's number. A reader that closed the pipe
    (``| head``): nothing, status 141. Too little memory: an ``error:`` too. Everything else is a
    fault of the program and keeps its traceback.
    """
    if signal.getsignal(signal.SIGINT) == signal.SIG_DFL:  # as the scripts begin
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for stream in (sys.stdout, sys.stderr):
        # A file name that the terminal's encoding lacks must not turn a message into a traceback.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        try:
            status = main() or 0
        except UserError as error:
            print(f"error: {in_one_line(str(error))}", file=sys.stderr, flush=True)
            status = 2
        except Stopped as stop:
            print(f"stopped by {stop}; --resume goes on from here", file=sys.stderr, flush=True)
            status = 128 + stop.signal_number
        except Exception as error:
            if not out_of_memory(error):
                raise
            what = (str(error).strip().splitlines() or ["no more could be had"])[0]
            print(
                f"error: not enough memory ({what:.200}); fewer or smaller frames, a shorter clip, "
                "a smaller batch or a smaller model need less",
                file=sys.stderr,
                flush=True,
            )
            status = 2
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr, flush=True)
            status = 130
        # Here, and not at the interpreter's exit, so that a closed pipe is noticed while it can be.
        sys.stdout.flush()
    except BrokenPipeError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        status = 141  # 128 + SIGPIPE, as a shell reports it
    except KeyboardInterrupt:  # a second signal, while the end was being told of
        status = 130
    sys.exit(status)
