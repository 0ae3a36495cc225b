"""Files that are whole at any moment: atomic writing, one retry, a lock, and checked archives."""

import contextlib
import errno
import json
import os
import socket
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, TypeVar

from modules.runtime.errors import UserError, why

T = TypeVar("T")

NO_ROOM = ("ENOSPC", "EFBIG", "EDQUOT")  # names in errno: Windows lacks the last
# Another program holds the file (a scanner, a backup, a spreadsheet), or a network drive is away.
TEMPORARY = ("EACCES", "EPERM", "EBUSY", "EIO", "ETIMEDOUT", "ESTALE", "EAGAIN")
WAITS = (0.1, 0.4, 1.5, 4.0)  # seconds before each further try


def retried(action: Callable[[], T]) -> T:
    """What the action returns, tried again for 6 s while the system refuses what may soon work.

    Raises the last OSError, or the UserError that it caused. For checkpoints, metrics.csv and
    config.json alone: a run does not wait for what it can do without.
    """
    for wait in WAITS:
        try:
            return action()
        except (OSError, UserError) as error:
            cause = error.__cause__ if isinstance(error, UserError) else error
            if not isinstance(cause, OSError) or _name(cause) not in TEMPORARY:
                raise
        time.sleep(wait)
    return action()


def _name(error: OSError) -> str:
    """Its number's name, such as ENOSPC."""
    return errno.errorcode.get(error.errno or 0, "")


def write_atomically(path: Path, data: bytes, before: Callable[[], None] | None = None) -> None:
    """Write a file so that a reader finds the old content or the new, never a part.

    Raises UserError when the disk is full or the folder unwritable; an earlier file of that name is
    then intact. before: called when the new content is on the disk, just before it takes its name.
    """
    temporary = path.with_name(f".{path.name[:40]}.{os.getpid()}.tmp")  # not too long
    written = False
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        written = True
        if before is not None:
            before()
        temporary.replace(path)
    except OSError as error:
        advice = ""
        if _name(error) in NO_ROOM:
            advice = "; make room there"
        elif written and isinstance(error, PermissionError):
            advice = "; another program may hold it open: close it there"
        kept = "; what was there before is intact" if os.path.lexists(path) else ""
        raise UserError(f"{path}: cannot be written ({why(error)}){advice}{kept}") from error
    finally:
        with contextlib.suppress(OSError):  # it has its name, or the disk is read-only by now
            temporary.unlink()
    # Where this cannot be (Windows, CIFS), a power failure may leave the earlier content.
    with contextlib.suppress(OSError):
        descriptor = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of processes that were killed while they wrote here."""
    for path in folder.glob(".*.tmp"):
        # One that another program holds does no harm.
        with contextlib.suppress(PermissionError):
            path.unlink(missing_ok=True)


# ---------------------------------------------------------------- one run in a folder

LOCK = "run.lock"  # host, process and when it started, as JSON
_locks: list[Path] = []  # of this process


def lock_folder(folder: Path) -> None:
    """Keep other runs out of a folder until unlock_folders(). UserError: a run is there.

    The lock of a process of this machine that was killed is taken over. OSError: not writable.
    """
    path, pid = folder / LOCK, os.getpid()
    holder = {"host": socket.gethostname(), "process": pid, "started": _started(pid)}
    try:
        with path.open("x", encoding="utf-8") as file:
            _locks.append(path)
            json.dump(holder, file)
    except FileExistsError:
        _refuse_unless_stale(path, holder["host"])
        path.unlink(missing_ok=True)
        lock_folder(folder)


def _refuse_unless_stale(path: Path, host: object) -> None:
    """Raise UserError if the process that made a lock is at work, or may be."""
    try:
        holder = json.loads(path.read_text(encoding="utf-8"))
        other, pid, started = holder["host"], int(holder["process"]), holder["started"]
    except FileNotFoundError:  # it has just ended
        return
    except (ValueError, TypeError, KeyError):
        raise UserError(f"{path}: cannot be read; remove it if no run is at work there") from None
    here = other == host and os.name != "nt"  # where os.kill would end the process
    if not here or (pid != os.getpid() and _at_work(pid, started)):
        raise UserError(
            f"{path}: process {pid} on {other} is a run in this folder; wait for it or stop it, or "
            "remove this file if that run is gone"
        )


def _at_work(pid: int, started: str) -> bool:
    """Whether a process of this machine lives, and is not another program with its number."""
    with contextlib.suppress(PermissionError):  # another user's
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
    return _started(pid) == started


def _started(pid: int) -> str:
    """When a process started, in ticks; "" for one that has ended, and where there is no /proc."""
    try:  # proc(5): state is field 3, starttime field 22; field 2 is a name in parentheses
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in (b"Z", b"X") else fields[19].decode()


def unlock_folders() -> None:
    """Let other runs into the folders that this process has locked."""
    while _locks:
        with contextlib.suppress(OSError):
            _locks.pop().unlink()


# ---------------------------------------------------------------- archives

FOLDER_ATTRIBUTE = 0x10  # of a record in a ZIP archive, as MS-DOS had it


def verify_archive(archived: Path | IO[bytes]) -> None:
    """Read all records of an archive; zipfile.BadZipFile, or another error, if one is corrupted.

    torch.load does not look at the checksums, and takes a tensor whose record is marked as a folder
    (one bit, which they do not cover) for one without content.
    """
    with zipfile.ZipFile(archived) as archive:
        if (name := archive.testzip()) is not None:
            raise zipfile.BadZipFile(f"wrong checksum in {name}")
        if any(record.external_attr & FOLDER_ATTRIBUTE for record in archive.infolist()):
            raise zipfile.BadZipFile("a record is marked as a folder")
