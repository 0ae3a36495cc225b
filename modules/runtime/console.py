"""The console of Windows: closing its window, logging off and shutting down end a process.

They come by no signal that leaves time to save: the system calls a function of the process, in a
thread of its own, and ends the process when that returns, or after some seconds (Microsoft:
"HandlerRoutine callback function").
"""

import ctypes
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from modules.runtime import platforms

CLOSE_EVENT, LOGOFF_EVENT, SHUTDOWN_EVENT = 2, 5, 6
# The signal that stands for them; its number on Windows, where alone it is used.
CLOSED: int = getattr(signal, "SIGBREAK", 21)


@contextmanager
def closing(act: Callable[[], None]) -> Iterator[None]:
    """While inside, act() is called when the console goes; elsewhere than on Windows never.

    The process lives on until act() returns, for a few seconds at most.
    """
    if not platforms.WINDOWS:
        yield
        return
    kernel = _kernel()

    def handle(event: int) -> bool:
        if event not in (CLOSE_EVENT, LOGOFF_EVENT, SHUTDOWN_EVENT):
            return False  # Ctrl-C and Ctrl-Break, which Python makes signals
        act()
        return True

    # Kept in a name: the system has only its address.
    routine = getattr(ctypes, "WINFUNCTYPE", ctypes.CFUNCTYPE)(ctypes.c_int, ctypes.c_uint)(handle)
    kernel.SetConsoleCtrlHandler(routine, 1)
    try:
        yield
    finally:
        kernel.SetConsoleCtrlHandler(routine, 0)


def _kernel() -> Any:
    """kernel32.dll."""
    return ctypes.windll.kernel32  # type: ignore[attr-defined]
