"""Files that are whole at any moment, one retry, a lock."""

import errno
import json
import os
import socket
import subprocess
from pathlib import Path

import pytest

from modules.runtime import files
from modules.runtime.errors import UserError
from tests.support.disks import is_folder, refusing


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_reader_finds_the_old_content_or_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Synced before the rename, and the folder after it, where one can be (not on CIFS)."""
    path, calls = tmp_path / "a.bin", list[object]()
    files.write_atomically(path, b"old")
    fsync, rename = os.fsync, Path.replace

    def sync(file: int) -> None:
        calls.append("folder" if is_folder(Path(f"/proc/self/fd/{file}")) else "file")
        if calls[-1] == "folder":
            raise OSError(errno.EINVAL, "a folder")
        fsync(file)

    def before() -> None:
        (temporary,) = tmp_path.glob(".*.tmp")
        calls.append((path.read_bytes(), temporary.read_bytes()))

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(Path, "replace", lambda a, b: (calls.append("rename"), rename(a, b)))
    files.write_atomically(path, b"new", before=before)
    assert calls == ["file", (b"old", b"new"), "rename", "folder"]
    assert (path.read_bytes(), names(tmp_path)) == (b"new", ["a.bin"])


@pytest.mark.parametrize(
    ("call", "number", "advice"),
    [
        ("fsync", errno.ENOSPC, "; make room there"),
        ("replace", errno.EACCES, "; another program may hold it open: close it there"),
        ("fsync", errno.EACCES, ""),
        ("replace", errno.EROFS, ""),
    ],
)
def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, call: str, number: int, advice: str
) -> None:
    path = tmp_path / "last.ckpt"
    files.write_atomically(path, b"old")
    with refusing(call, number), pytest.raises(UserError) as caught:
        files.write_atomically(path, b"new")
    why = f"{path}: cannot be written ({os.strerror(number)}){advice}"
    assert str(caught.value) == f"{why}; what was there before is intact"
    assert (path.read_bytes(), names(tmp_path)) == (b"old", ["last.ckpt"])
    with pytest.raises(UserError, match=r"none/a: cannot be written \([^()]+\)$"):
        files.write_atomically(tmp_path / "none/a", b"x")


def test_what_stops_a_write_is_not_swallowed(tmp_path: Path) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        files.write_atomically(tmp_path / "a", b"new", before=stop)
    assert names(tmp_path) == []


def caused_by(cause: Exception) -> UserError:
    error = UserError("cannot be written")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "attempts"),
    [
        (OSError(errno.EACCES, ""), 5),
        (caused_by(OSError(errno.EIO, "")), 5),
        (OSError(errno.ENOSPC, ""), 1),
        (caused_by(OSError(errno.ENOSPC, "")), 1),
        (caused_by(ValueError()), 1),  # a mistake
    ],
)
def test_what_may_soon_work_is_tried_again(
    error: Exception, attempts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For 6 s, and no longer."""
    slept: list[float] = []
    monkeypatch.setattr(files.time, "sleep", slept.append)

    def refused(times: int) -> int:
        if len(slept) < times:
            raise error
        return 7

    with pytest.raises(type(error)):
        files.retried(lambda: refused(9))
    assert len(slept) == attempts - 1
    if slept:
        assert sum(slept) == pytest.approx(6.0)
        slept.clear()
        assert files.retried(lambda: refused(4)) == 7


def lock_of(process: int, **other: object) -> str:
    """The lock of a process of this machine."""
    started = files._started(process)
    return json.dumps(
        {"host": socket.gethostname(), "process": process, "started": started} | other
    )


def test_the_lock_of_a_run_that_may_be_at_work_is_left(tmp_path: Path) -> None:
    path, parent = tmp_path / files.LOCK, os.getppid()
    for text, words in (
        (lock_of(parent), f"process {parent} on {socket.gethostname()} is a run in this folder"),
        (lock_of(1, host="elsewhere", started="5"), "process 1 on elsewhere is a run"),
        ("", "cannot be read"),
        ("[1]", "cannot be read"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=words) as caught:
            files.lock_folder(tmp_path)
        assert "remove" in str(caught.value) and str(path) in str(caught.value)
        files.unlock_folders()  # which is not ours
        assert path.read_text() == text


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc")
def test_the_lock_of_a_process_that_has_ended_is_taken_over(tmp_path: Path) -> None:
    killed = [subprocess.Popen(["sleep", "60"]) for _ in range(2)]
    locks = [lock_of(process.pid) for process in killed]
    for process in killed:
        process.kill()
    killed[0].wait()
    # Until somebody asks for its status it has ended, but its number is still its own.
    os.waitid(os.P_PID, killed[1].pid, os.WEXITED | os.WNOWAIT)
    for lock in (
        *locks,
        lock_of(os.getppid(), started="1"),  # a number that is another program's by now
        lock_of(os.getpid()),
    ):
        (tmp_path / files.LOCK).write_text(lock)
        files.lock_folder(tmp_path)
        assert (tmp_path / files.LOCK).read_text() == lock_of(os.getpid())
        files.unlock_folders()
        assert names(tmp_path) == []
    killed[1].wait()
