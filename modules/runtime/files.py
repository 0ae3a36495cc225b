"""Files that are whole at any moment: atomic writing, and checking archives."""

import contextlib
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

from modules.runtime.errors import UserError


def write_atomically(path: Path, data: bytes, before: Callable[[], None] | None = None) -> None:
    """Write a file so that a reader finds the old content or the new, never a part.

    Temporary file in the same folder, flush, fsync, rename, fsync of the folder. Raises UserError
    when the disk is full or the folder unwritable; an earlier file of that name is then intact.
    before: called when the new content is safely on the disk, just before it takes its name.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if before is not None:
            before()
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror}); what was there before is intact"
        ) from error
    finally:
        # On a file system that has become read-only, unlinking fails even where nothing is.
        with contextlib.suppress(OSError):
            temporary.unlink()


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of processes that were killed while they wrote here."""
    for path in folder.glob(".*.tmp"):
        path.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make a rename in this folder durable (where the system can fsync a folder)."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


FOLDER_ATTRIBUTE = 0x10  # of a record in a ZIP archive, as MS-DOS had it


def verify_archive(path: Path | IO[bytes]) -> None:
    """Read all records of an archive; zipfile.BadZipFile, or another error, if one is corrupted.

    torch.load does not look at the checksums: a flipped byte would be a wrong weight. And one bit
    that they do not cover, among a record's attributes, makes it take a tensor for a folder and
    leave its memory as it was.
    """
    with zipfile.ZipFile(path) as archive:
        if (name := archive.testzip()) is not None:
            raise zipfile.BadZipFile(f"wrong checksum in {name}")
        if any(record.external_attr & FOLDER_ATTRIBUTE for record in archive.infolist()):
            raise zipfile.BadZipFile("a record is marked as a folder")
