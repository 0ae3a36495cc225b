"""Files that are whole at any moment, and archives that are what their checksums say."""

import errno
import os
import tempfile
import zipfile
from pathlib import Path

import pytest

from modules.runtime import patience
from modules.runtime.errors import UserError
from modules.runtime.files import (
    remove_leftovers,
    sync_folder,
    try_folder,
    verify_archive,
    write_atomically,
)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many attempts as ever, without the time between them."""
    monkeypatch.setattr(patience, "DELAYS", (0.0,) * len(patience.DELAYS))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


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
    calls: list[str] = []
    fsync, rename = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda f: (calls.append("fsync"), fsync(f)))
    monkeypatch.setattr(Path, "replace", lambda a, b: (calls.append("rename"), rename(a, b)))
    write_atomically(tmp_path / "a", b"x", before=lambda: calls.append("before"))
    assert calls == ["fsync", "before", "rename", "fsync"]
    sync_folder(tmp_path)
    assert calls[4:] == ["fsync"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS])
@pytest.mark.parametrize("where", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, where: str
) -> None:
    path = tmp_path / "last.ckpt"
    write_atomically(path, b"old")

    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(*(os, "fsync") if where == "fsync" else (Path, "replace"), fail)
    with pytest.raises(UserError) as caught:
        write_atomically(path, b"new")
    assert f"{path}: cannot be written ({os.strerror(number)})" in str(caught.value)
    assert "intact" in str(caught.value)
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["last.ckpt"]


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


def test_leftovers_are_what_killed_processes_left(tmp_path: Path) -> None:
    """A process that is killed in `before` leaves just such a file."""
    pid = os.fork()
    if pid == 0:
        write_atomically(tmp_path / "last.ckpt", b"x", before=lambda: os._exit(9))
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9
    (left,) = names(tmp_path)
    assert left == f".last.ckpt.{pid}.tmp"
    kept = [".notes", "a.tmp", "last.ckpt"]
    for name in kept:
        (tmp_path / name).touch()
    remove_leftovers(tmp_path)
    assert names(tmp_path) == kept


def archive(path: Path) -> bytes:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("data/0", bytes(range(200)))
        file.writestr("data/1", b"abc")
    return path.read_bytes()


def test_every_byte_of_an_archive_s_records_is_verified(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    data = archive(path)
    verify_archive(path)  # the control
    begin = data.index(bytes(range(200)))
    for place in (begin, begin + 100, begin + 199, data.index(b"abc")):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        with pytest.raises(zipfile.BadZipFile, match="wrong checksum in data/"):
            verify_archive(path)
        with zipfile.ZipFile(path) as file:
            assert len(file.namelist()) == 2  # the control: it opens all the same


def test_a_record_that_became_a_folder_is_refused(tmp_path: Path) -> None:
    """No checksum covers its attributes; PyTorch would leave its tensor as memory was."""
    path = tmp_path / "a.zip"
    data = archive(path)
    entry = data.rindex(b"PK\x01\x02")
    path.write_bytes(data[: entry + 38] + bytes([data[entry + 38] | 0x10]) + data[entry + 39 :])
    with zipfile.ZipFile(path) as file:
        assert file.testzip() is None  # the control
    with pytest.raises(zipfile.BadZipFile, match="folder"):
        verify_archive(path)


def test_a_folder_is_tried_without_a_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = tmp_path.stat().st_mtime_ns
    try_folder(tmp_path)
    assert (names(tmp_path), tmp_path.stat().st_mtime_ns) == ([], before)

    def refuse(**_: object) -> None:  # as of mounts that do not remove a file that is open
        raise OSError(errno.ETXTBSY, os.strerror(errno.ETXTBSY))

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    try_folder(tmp_path)
    assert names(tmp_path) == []
    with pytest.raises(FileNotFoundError):  # the control
        try_folder(tmp_path / "none")
