"""Disks that refuse a call: simulated, so that a test needs none of them."""

import builtins
import contextlib
import errno
import io
import math
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock


@contextlib.contextmanager
def refusing(
    call: str,
    number: int,
    *,
    times: float = math.inf,
    when: Callable[[Path], bool] = lambda _: True,
) -> Iterator[list[Path]]:
    """While inside, a call of the system raises OSError(number); yields the paths refused so far.

    call: its name in os, or "open" for opening files
    times: how often it is refused; afterwards it works
    when: of the first path that the call is given, whether it may be refused
    """
    refused: list[Path] = []
    module, name = (io, "open") if call == "open" else (os, call)
    original = getattr(module, name)

    def maybe(argument: Any, *rest: Any, **options: Any) -> Any:
        if isinstance(argument, int):  # a descriptor, which Linux has the path of
            path = Path(f"/proc/self/fd/{argument}").readlink()
        else:
            path = Path(os.fsdecode(argument))
        if len(refused) < times and when(path):
            refused.append(path)
            raise OSError(number, os.strerror(number), str(path))
        return original(argument, *rest, **options)

    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(module, name, maybe))
        if call == "open":
            stack.enter_context(mock.patch.object(builtins, name, maybe))
        yield refused


def is_folder(path: Path) -> bool:
    """Of an open one: its name may be gone by then."""
    with contextlib.suppress(OSError):
        return stat.S_ISDIR(path.stat().st_mode)
    return False


def named(*ends: str) -> Callable[[Path], bool]:
    """Whether a path's name ends so."""
    return lambda path: path.name.endswith(ends)


@contextlib.contextmanager
def held(*names: str, code: int = errno.EACCES, times: float = math.inf) -> Iterator[list[str]]:
    """Files that cannot be written for a while, as where a spreadsheet or a viewer holds them.

    Opening them for writing, and renaming to them, fails so many times; yields the names that were
    refused so far.
    """
    really_open, really_replace = Path.open, os.replace
    refused: list[str] = []

    def refuse(path: Any) -> None:
        name = Path(path).name
        if name in names and len(refused) < times:
            refused.append(name)
            raise OSError(code, os.strerror(code), str(path))

    def opening(path: Path, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        if mode[0] in "wax" or "+" in mode:
            refuse(path)
        return really_open(path, mode, *arguments, **options)

    def replacing(source: Any, target: Any) -> None:
        refuse(target)
        really_replace(source, target)

    with mock.patch.object(Path, "open", opening), mock.patch.object(os, "replace", replacing):
        yield refused
