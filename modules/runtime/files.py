"""Files that are whole at any moment: atomic writing, and checking archives."""

import contextlib
import errno
import hashlib
import os
import tempfile
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import IO

from modules.runtime import platforms
from modules.runtime.errors import UserError, why
from modules.runtime.patience import held, patiently, rename

# What a system says that cannot fsync a folder, or not even open one: CIFS, VirtualBox's and some
# FUSE mounts, Windows. Of a file the same answers are errors.
NO_FOLDER_SYNC = frozenset(
    getattr(errno, name)
    for name in (
        *("EINVAL", "ENOTSUP", "EOPNOTSUPP", "ENOSYS", "EBADF", "ENOTTY"),
        *("EACCES", "EPERM", "EISDIR"),
    )
    if hasattr(errno, name)
)
F_FULLFSYNC = 51  # of Darwin's fcntl.h
NO_ROOM = frozenset(
    getattr(errno, name) for name in ("ENOSPC", "EDQUOT", "EFBIG") if hasattr(errno, name)
)
LONG_NAME = 100  # bytes; a temporary name has some more, and the shortest limit is 143 (eCryptfs)


def write_atomically(path: Path, data: bytes, before: Callable[[], None] | None = None) -> None:
    """Write a file so that a reader finds the old content or the new, never a part.

    Temporary file in the same folder, flush, fsync, rename, fsync of the folder. What passes is
    waited for (see patience). Raises UserError when the disk is full or the folder unwritable; an
    earlier file of that name is then intact.
    before: called when the new content is safely on the disk, just before it takes its name.
    """
    temporary, written = temporary_name(path), False
    try:
        patiently(partial(write_synced, temporary, data))
        written = True
        if before is not None:
            before()
        rename(temporary, path)
    except OSError as error:
        advice = ""
        if error.errno in NO_ROOM:
            advice = "; make room there"
        elif written and held(error):
            advice = "; another program may hold it open: close it there"
        kept = "; what was there before is intact" if os.path.lexists(path) else ""
        raise UserError(f"{path}: cannot be written ({why(error, path)}){advice}{kept}") from error
    finally:
        # On a file system that has become read-only, unlinking fails even where nothing is.
        with contextlib.suppress(OSError):
            temporary.unlink()
    try:
        patiently(partial(sync_folder, path.parent))
    except OSError as error:
        raise UserError(
            f"{path}: has its new content, but the disk does not confirm that it is kept "
            f"({why(error)}); check the disk"
        ) from error


def temporary_name(path: Path) -> Path:
    """Where a file's new content is written before it takes the name; hidden, ending in .tmp."""
    name = os.fsencode(path.name)
    shown = path.name if len(name) <= LONG_NAME else hashlib.sha256(name).hexdigest()[:16]
    return path.with_name(f".{shown}.{os.getpid()}.tmp")


def write_synced(path: Path, data: bytes) -> None:
    """Write a file anew; it is on the disk when this returns. Raises OSError.

    After an fsync that failed another one may succeed although data are lost, so whoever tries
    again must come here again.
    """
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        sync_file(file.fileno())


def try_folder(folder: Path) -> None:
    """Do there what writing a run's files takes. Raises OSError, with the folder as it was."""
    with contextlib.suppress(OSError), tempfile.TemporaryFile(dir=folder):
        return  # a file without a name: not even the folder's time changes
    # Some mounts have no such files, nor let go of one that is open; the rest says what is wrong.
    # As long as any name that a run writes.
    trial = folder / f".last.prev.ckpt.trial.{os.getpid()}"
    temporary, before = temporary_name(trial), folder.stat()
    try:
        patiently(partial(write_synced, temporary, b"trial"))
        rename(temporary, trial)
    finally:
        for path in (temporary, trial):
            with contextlib.suppress(OSError):
                path.unlink()
        with contextlib.suppress(OSError):
            os.utime(folder, ns=(before.st_atime_ns, before.st_mtime_ns))


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of processes that were killed while they wrote here."""
    for path in folder.glob(".*.tmp"):
        # One that another program holds does no harm.
        with contextlib.suppress(PermissionError):
            path.unlink(missing_ok=True)


def sync_file(descriptor: int) -> None:
    """Have an open file, or folder, written from all caches to the disk. Raises OSError."""
    if platforms.MACOS:
        # There fsync ends at the disk's own cache (fsync(2)); not every disk can do more.
        import fcntl

        with contextlib.suppress(OSError):
            fcntl.fcntl(descriptor, F_FULLFSYNC)
            return
    os.fsync(descriptor)


def sync_folder(folder: Path) -> None:
    """Make a rename in this folder durable, where the system can fsync a folder."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            sync_file(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in NO_FOLDER_SYNC:
            raise


FOLDER_ATTRIBUTE = 0x10  # of a record in a ZIP archive, as MS-DOS had it


def verify_archive(archived: Path | IO[bytes]) -> None:
    """Read all records of an archive; zipfile.BadZipFile, or another error, if one is corrupted.

    torch.load does not look at the checksums: a flipped byte would be a wrong weight. And one bit
    that they do not cover, among a record's attributes, makes it take a tensor for a folder and
    leave its memory as it was.
    """
    with zipfile.ZipFile(archived) as archive:
        if (name := archive.testzip()) is not None:
            raise zipfile.BadZipFile(f"wrong checksum in {name}")
        if any(record.external_attr & FOLDER_ATTRIBUTE for record in archive.infolist()):
            raise zipfile.BadZipFile("a record is marked as a folder")
