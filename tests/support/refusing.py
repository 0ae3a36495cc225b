"""Files that cannot be written for a while, as where a spreadsheet or a viewer holds them."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock


@contextlib.contextmanager
def held(*names: str, code: int = errno.EACCES, times: int = 10**9) -> Iterator[list[str]]:
    """Let opening files of these names for writing, and renaming to them, fail so many times.

    Yields the names that were refused so far.
    """
    really_open, really_replace = Path.open, os.replace
    refused: list[str] = []

    def refuse(path: Any) -> None:
        name = Path(path).name
        if name in names and len(refused) < times:
            refused.append(name)
            raise OSError(code, os.strerror(code), str(path))

    def opening(self: Path, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        if set(mode) & set("wa+x"):
            refuse(self)
        return really_open(self, mode, *arguments, **options)

    def replacing(source: Any, target: Any, **options: Any) -> None:
        refuse(target)
        really_replace(source, target, **options)

    with mock.patch.object(Path, "open", opening), mock.patch.object(os, "replace", replacing):
        yield refused
