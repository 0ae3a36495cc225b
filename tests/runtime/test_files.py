"""Files that are whole at any moment, one retry, a lock."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from modules.runtime import files
from modules.runtime.errors import UserError
from modules.runtime.files import (
    LOCK,
    lock_folder,
    retried,
    unlock_folders,
    write_atomically,
)
from tests.support.disks import is_folder, refusing
from tests.support.scripts import REPOSITORY


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# ---------------------------------------------------------------- atomic writing


def test_a_reader_finds_the_old_content_or_the_new(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    write_atomically(path, b"old")
    seen: list[bytes] = []

    def look() -> None:
        seen.append(path.read_bytes())
        (temporary,) = [p for p in tmp_path.iterdir() if p != path]
        assert temporary.read_bytes() == b"new"  # all of it is there before it takes the name
        assert temporary.name.endswith(".tmp") and temporary.name.startswith(".")

    write_atomically(path, b"new", before=look)
    assert (seen, path.read_bytes()) == ([b"old"], b"new")
    assert names(tmp_path) == ["a.bin"]


def test_synced_before_the_rename_and_the_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a folder cannot be synced (Windows, CIFS), it is written all the same."""
    calls: list[str] = []
    fsync, rename = os.fsync, Path.replace

    def sync(file: int) -> None:
        calls.append("folder" if is_folder(Path(f"/proc/self/fd/{file}")) else "file")
        if calls[-1] == "folder":
            raise OSError(errno.EINVAL, "a folder")
        fsync(file)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(Path, "replace", lambda a, b: (calls.append("rename"), rename(a, b)))
    write_atomically(tmp_path / "a", b"x", before=lambda: calls.append("before"))
    assert calls == ["file", "before", "rename", "folder"]
    assert (tmp_path / "a").read_bytes() == b"x"


@pytest.mark.parametrize(
    ("number", "advice"),
    [(errno.ENOSPC, "; make room there"), (errno.EACCES, "; another program"), (errno.EROFS, "")],
)
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, number: int, advice: str, call: str
) -> None:
    path = tmp_path / "last.ckpt"
    write_atomically(path, b"old")
    with refusing(call, number), pytest.raises(UserError) as caught:
        write_atomically(path, b"new")
    message = str(caught.value)
    assert message.startswith(f"{path}: cannot be written ({os.strerror(number)})")
    assert message.endswith("; what was there before is intact")
    assert advice in message or call == "fsync"
    assert (path.read_bytes(), names(tmp_path)) == (b"old", ["last.ckpt"])


def test_what_stops_a_write_is_not_swallowed(tmp_path: Path) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    path = tmp_path / "a"
    write_atomically(path, b"old")
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, b"new", before=stop)
    assert (path.read_bytes(), names(tmp_path)) == (b"old", ["a"])
    with pytest.raises(UserError, match="none/a: cannot be written"):
        write_atomically(tmp_path / "none/a", b"x")


# ---------------------------------------------------------------- one retry


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize(
    ("number", "temporary"),
    [(errno.EACCES, True), (errno.EIO, True), (errno.ENOSPC, False), (None, False)],
)
def test_what_may_soon_work_is_tried_again(
    number: int | None, temporary: bool, wrapped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For 6 s, and no longer; a mistake (None) is not."""
    slept: list[float] = []
    monkeypatch.setattr(files.time, "sleep", slept.append)
    calls: list[int] = []

    def refused(times: int) -> int:
        calls.append(1)
        if len(calls) > times:
            return 7
        if number is None:
            raise UserError("--lr: must be positive")
        error = OSError(number, os.strerror(number))
        if wrapped:
            raise UserError("a.ckpt: cannot be written") from error
        raise error

    if temporary:
        assert retried(lambda: refused(4)) == 7
        assert (len(calls), sum(slept)) == (5, pytest.approx(6.0))
        calls.clear()
    with pytest.raises((UserError, OSError)):
        retried(lambda: refused(9))
    assert len(calls) == (5 if temporary else 1)


# ---------------------------------------------------------------- one run in a folder

HOLDER = """
import os, sys
from pathlib import Path
from modules.runtime.files import lock_folder, unlock_folders
lock_folder(Path(sys.argv[1]))
print("locked", flush=True)
if sys.stdin.readline() == "unlock":
    unlock_folders()
os._exit(0)
"""


def holder(folder: Path) -> "subprocess.Popen[str]":
    """A process that has locked a folder, and ends when it is told something."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, folder],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "locked\n"
    return process


def test_a_folder_is_for_one_process(tmp_path: Path) -> None:
    other = holder(tmp_path)
    before = (tmp_path / LOCK).read_bytes()
    host = json.loads(before)["host"]
    with pytest.raises(UserError, match=rf"run\.lock: process {other.pid} on {host} is a run"):
        lock_folder(tmp_path)
    unlock_folders()  # which is not ours
    assert (tmp_path / LOCK).read_bytes() == before
    other.communicate("unlock")
    assert names(tmp_path) == []  # removed at the end


def test_the_lock_of_a_process_that_has_ended_is_taken_over(tmp_path: Path) -> None:
    other = holder(tmp_path)
    other.kill()
    # Until somebody asks for its status it has ended, but its number is still its own.
    os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)
    lock_folder(tmp_path)
    other.wait()
    assert json.loads((tmp_path / LOCK).read_text())["process"] == os.getpid()
    unlock_folders()
    assert names(tmp_path) == []


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc")
def test_a_number_that_is_another_program_s_by_now(tmp_path: Path) -> None:
    other = holder(tmp_path)
    lock = json.loads((tmp_path / LOCK).read_text())
    (tmp_path / LOCK).write_text(json.dumps({**lock, "started": str(int(lock["started"]) - 1)}))
    lock_folder(tmp_path)
    other.communicate("")
    unlock_folders()


def test_a_lock_that_nobody_here_can_judge_is_left(tmp_path: Path) -> None:
    path = tmp_path / LOCK
    for text, words in (
        ('{"host": "elsewhere", "process": 1, "started": "5"}', "process 1 on elsewhere is a run"),
        ("", "cannot be read"),
        ("[1]", "cannot be read"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=words) as caught:
            lock_folder(tmp_path)
        assert "remove" in str(caught.value) and str(path) in str(caught.value)
        assert path.read_text() == text
