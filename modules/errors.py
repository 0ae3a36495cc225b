"""Errors that a user can mend, told apart from faults of the program, and how scripts end."""

import argparse
import io
import os
import signal
import sys
from collections.abc import Callable
from typing import Any, NoReturn


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


class ArgumentParser(argparse.ArgumentParser):
    """An argparse parser whose errors are UserErrors, and which takes no abbreviated options.

    An abbreviation would be a misspelt option that is silently taken for another.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (--help lists what there is)")


def run_as_script(main: Callable[[], int | None]) -> NoReturn:
    """Run `main` and leave the interpreter with its exit status (None is 0).

    UserError: ``error: <message>`` on stderr, status 2. Ctrl-C: a plain line, status 130. A run
    that was asked to stop: likewise, 128 + the signal's number. A reader that closed the pipe
    (``| head``): nothing, status 141. Everything else is a fault of the program and keeps its
    traceback.
    """
    for stream in (sys.stdout, sys.stderr):
        # A file name that the terminal's encoding lacks must not turn a message into a traceback.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        try:
            status = main() or 0
        except UserError as error:
            print(f"error: {error}", file=sys.stderr, flush=True)
            status = 2
        except Stopped as stop:
            print(f"stopped by {stop}; --resume goes on from here", file=sys.stderr, flush=True)
            status = 128 + stop.signal_number
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
    sys.exit(status)
