"""Calls to the file system that are tried again, since what refused them soon passes.

Another program holds the file for a moment (a scanner, a backup, a spreadsheet on Windows), or the
server of a network mount is away for a while. What lasts is an error after about 13 s.
"""

import errno
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TypeVar

from modules.runtime import platforms

T = TypeVar("T")

# Seconds between the attempts. A mount that is away often takes a minute over each of them.
DELAYS = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4)
# After a wait in vain, other calls do not wait too: a data set has thousands of files.
WEARY_SECONDS = 60.0


def _numbers(*names: str) -> frozenset[int]:
    """Those of the error numbers that this system has."""
    return frozenset(getattr(errno, name) for name in names if hasattr(errno, name))


AWAY = _numbers(
    *("EIO", "ETIMEDOUT", "ESTALE", "EAGAIN", "EINTR", "EREMOTEIO", "ENOLINK", "ENOTCONN"),
    *("ECONNRESET", "ECONNABORTED", "ECONNREFUSED", "EHOSTDOWN", "EHOSTUNREACH"),
    *("ENETDOWN", "ENETUNREACH", "ENETRESET", "ETIME"),
)
HELD = _numbers("EBUSY", "ETXTBSY", "EDEADLK")
# What Windows says of a file that another program has open: access denied, sharing violation,
# lock violation, and a file that is mapped into memory.
HELD_ON_WINDOWS = frozenset({5, 32, 33, 1224})
NO_PERMISSION = _numbers("EACCES", "EPERM")

_impatient = ContextVar("impatient", default=False)
_gave_up_at = -WEARY_SECONDS  # when read_bytes() last waited in vain


def passes(error: OSError, *, renaming: bool = False) -> bool:
    """Whether what refused a call may have gone a moment later.

    renaming: a file that was just written takes another name in the same folder. A permission that
    is missing then is none of the user's: another program holds one of the two.
    """
    if error.errno in NO_PERMISSION and not (renaming or platforms.WINDOWS):
        return False
    return error.errno in AWAY or held(error)


def held(error: OSError) -> bool:
    """Whether it is what a system says of a file that another program has open."""
    code = getattr(error, "winerror", None)
    return error.errno in HELD or error.errno in NO_PERMISSION or code in HELD_ON_WINDOWS


@contextmanager
def impatient() -> Iterator[None]:
    """While inside, nothing is waited for here: the caller tries again by itself."""
    token = _impatient.set(True)
    try:
        yield
    finally:
        _impatient.reset(token)


def patiently(
    call: Callable[[], T], *, renaming: bool = False, delays: Sequence[float] | None = None
) -> T:
    """call(), tried again while what refuses it may pass. Raises its last OSError.

    delays: seconds between the attempts; None: DELAYS
    """
    if delays is None:
        delays = () if _impatient.get() else DELAYS
    for delay in delays:
        try:
            return call()
        except OSError as error:
            if not passes(error, renaming=renaming):
                raise
        time.sleep(delay)
    return call()


def read_bytes(path: Path) -> bytes:
    """A file's content. Raises OSError."""
    global _gave_up_at
    weary = time.monotonic() - _gave_up_at < WEARY_SECONDS
    try:
        return patiently(path.read_bytes, delays=() if weary else None)
    except OSError as error:
        if passes(error):
            _gave_up_at = time.monotonic()
        raise


def rename(source: Path, target: Path) -> None:
    """Give a file, or a folder, a name that another file may have. Raises OSError."""
    try:
        before = source.stat()
    except OSError:
        before = None
    tried = False

    def once() -> None:
        nonlocal tried
        try:
            source.replace(target)
        except FileNotFoundError:
            # The server may have done it, and its answer been lost on the way.
            if not (tried and before and os.path.samestat(target.stat(), before)):
                raise
        except OSError:
            tried = True
            raise

    patiently(once, renaming=True)


def remove(path: Path) -> None:
    """Remove a file if there is one. Raises OSError."""
    patiently(lambda: path.unlink(missing_ok=True), renaming=True)
