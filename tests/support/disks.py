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
    call: str, number: int, *, times: float = math.inf, when: Callable = lambda _: True
) -> Iterator[list[Path]]:
    """While inside, a call of the system raises OSError(number); yields the paths refused so far.

    call: its name in os; "open" for opening files, "write" for opening them to write and for
        renaming others to them
    times: how often it is refused; afterwards it works
    when: of the path (of two the first, but for "write"), whether it may be refused
    """
    refused: list[Path] = []
    functions = {
        "open": [(io, "open"), (builtins, "open")],
        "write": [(io, "open"), (os, "replace")],
    }

    def patched(module: Any, name: str) -> Any:
        original, renames = getattr(module, name), call == "write" and name == "replace"

        def maybe(*given: Any, **options: Any) -> Any:
            if isinstance(given[0], int):  # a descriptor, which Linux has the path of
                path = Path(f"/proc/self/fd/{given[0]}").readlink()
            else:
                path = Path(os.fsdecode(given[renames]))
            reads = call == "write" and not renames and given[1:2] in [(), ("r",), ("rb",)]
            if len(refused) < times and not reads and when(path):
                refused.append(path)
                raise OSError(number, os.strerror(number), str(path))
            return original(*given, **options)

        return mock.patch.object(module, name, maybe)

    with contextlib.ExitStack() as stack:
        for function in functions.get(call, [(os, call)]):
            stack.enter_context(patched(*function))
        yield refused


def held(*names: str, code: int = errno.EACCES, times: float = math.inf) -> Any:
    """While inside, files that cannot be written, as where a spreadsheet or a viewer holds them."""
    return refusing("write", code, times=times, when=named(*names))


def is_folder(path: Path) -> bool:
    """Of an open one: its name may be gone by then."""
    with contextlib.suppress(OSError):
        return stat.S_ISDIR(path.stat().st_mode)
    return False


def named(*ends: str) -> Callable[[Path], bool]:
    """Whether a path's name ends so."""
    return lambda path: path.name.endswith(ends)
