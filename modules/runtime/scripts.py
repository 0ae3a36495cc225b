"""How a script ends: its exit status and its last line."""

import atexit
import io
import os
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

from modules.runtime.errors import Stopped, UserError, in_one_line
from modules.runtime.gpu_errors import explained
from modules.runtime.text import ERRORS


def run_as_script(main: Callable[[], int | None]) -> NoReturn:
    """Run `main` and leave the interpreter with its exit status (None is 0).

    UserError: ``error: <message>`` on stderr, status 2. Ctrl-C: a plain line, status 130. A run
    that was asked to stop: likewise, 128 + the signal's number. A reader that closed the pipe
    (``| head``): nothing, status 141. Too little memory, or a GPU that cannot be used: an
    ``error:`` too. Everything else is a fault of the program and keeps its traceback.
    """
    for stream in (sys.stdout, sys.stderr):
        # A file name that the terminal's encoding lacks must not turn a message into a traceback.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=ERRORS)
    try:
        try:
            status = main() or 0
        except UserError as error:
            print(f"error: {in_one_line(str(error))}", file=sys.stderr, flush=True)
            status = 2
        except Stopped as stop:
            print(f"stopped by {stop}; --resume continues from here", file=sys.stderr, flush=True)
            status = 128 + stop.signal_number
        except Exception as error:
            if not (message := explained(error)):
                raise
            print(f"error: {message}", file=sys.stderr, flush=True)
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
    except KeyboardInterrupt:  # a second signal, during shutdown
        status = 130
    # The status is decided: a signal while the interpreter shuts down must not become another one.
    for number in (signal.SIGINT, signal.SIGTERM):
        atexit.register(signal.signal, number, signal.SIG_IGN)
    sys.exit(status)
