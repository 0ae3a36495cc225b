"""Windows and macOS: what the code does there, with the system simulated; nobody ran it there."""

import ast
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from modules.figures.runs import load_run, parent_of
from modules.runlog import read_config, write_config
from modules.runtime import files, patience, platforms
from modules.runtime.errors import UserError, why
from modules.runtime.files import sync_file, write_atomically
from tests.support.scripts import REPOSITORY, train

PRODUCT = [*REPOSITORY.glob("*.py"), *(REPOSITORY / "modules").rglob("*.py")]

# ---------------------------------------------------------------- what only some systems have

# Of the documentation's "Availability: Unix" and "not Windows".
UNIX_MODULES = {"fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "syslog"}
UNIX_NAMES = {
    "os": {
        *(
            "fork",
            "sched_getaffinity",
            "sched_setaffinity",
            "sysconf",
            "killpg",
            "getuid",
            "geteuid",
        ),
        *(
            "setsid",
            "nice",
            "uname",
            "mkfifo",
            "statvfs",
            "getpgid",
            "wait",
            "O_DIRECTORY",
            "pread",
        ),
        *("posix_fallocate", "posix_fadvise", "fdatasync", "pwrite", "fchmod"),
    },
    "signal": {
        *("SIGKILL", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXFSZ", "SIGXCPU", "SIGCHLD", "SIGQUIT"),
        *("SIGALRM", "SIGPIPE", "alarm", "pause", "pthread_sigmask", "setitimer", "sigwait"),
    },
}


def only_on_unix(source: str) -> Iterator[str]:
    """What a file takes from its system that Windows lacks; inside functions modules may be."""
    tree = ast.parse(source)
    for node in tree.body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in UNIX_MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module in UNIX_MODULES:
            yield str(node.module)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.attr in UNIX_NAMES.get(node.value.id, ()):
                yield f"{node.value.id}.{node.attr}"
        elif isinstance(node, ast.keyword) and node.arg in ("preexec_fn", "pass_fds"):
            yield str(node.arg)


@pytest.mark.parametrize("path", PRODUCT, ids=lambda path: path.stem)
def test_nothing_is_taken_that_windows_lacks(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert list(only_on_unix(source)) == []
    # Nor colours, which an old console shows as signs, nor another way to start processes.
    assert "\\x1b[" not in source and "\\033[" not in source
    assert "fork" not in [getattr(node, "value", "") for node in ast.walk(ast.parse(source))]


def test_it_would_be_noticed() -> None:
    """The control."""
    source = "import fcntl, os, signal\nos.fork()\nx = signal.SIGKILL\nrun(preexec_fn=f)\n"
    assert sorted(only_on_unix(source)) == ["fcntl", "os.fork", "preexec_fn", "signal.SIGKILL"]
    assert list(only_on_unix("def f():\n    import fcntl\n")) == []


# ---------------------------------------------------------------- macOS


@pytest.mark.parametrize("refused", [False, True])
def test_macos_syncs_through_the_disk_s_own_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: bool
) -> None:
    calls: list[str] = []
    fcntl = ModuleType("fcntl")

    def call(_file: int, command: int) -> int:
        calls.append(f"fcntl {command}")
        if refused:  # as of a disk that cannot: ENOTSUP
            raise OSError(45, "Operation not supported")
        return 0

    fcntl.fcntl = call  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "fcntl", fcntl)
    monkeypatch.setattr(os, "fsync", lambda _: calls.append("fsync"))
    with (tmp_path / "a").open("wb") as file:
        sync_file(file.fileno())
        assert calls == ["fsync"]  # the control: elsewhere
        calls.clear()
        monkeypatch.setattr(platforms, "MACOS", True)
        sync_file(file.fileno())
    assert calls == ["fcntl 51", *(["fsync"] if refused else [])]


# ---------------------------------------------------------------- Windows


def windows_error(code: int) -> OSError:
    """What Python raises there for an error code of Windows."""
    error = PermissionError(13, "The process cannot access the file")
    error.winerror = code  # type: ignore[attr-defined]
    return error


@pytest.mark.parametrize("code", [5, 32, 33])
def test_windows_names_what_another_program_holds(code: int) -> None:
    """Access denied, sharing violation, lock violation."""
    assert patience.held(windows_error(code))
    assert not patience.held(FileNotFoundError(2, "no such file"))


def test_a_file_that_windows_holds_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "DELAYS", (0.0,) * 3)
    for windows, attempts in ((True, 3), (False, 1)):
        monkeypatch.setattr(platforms, "WINDOWS", windows)
        left = [2]

        def opened(left: list[int] = left) -> str:
            if left[0]:
                left[0] -= 1
                raise PermissionError(13, "Permission denied")
            return "open"

        if windows:
            assert patience.patiently(opened) == "open"
        else:  # there it is the user's mistake, and said at once
            with pytest.raises(PermissionError):
                patience.patiently(opened)
        assert 2 - left[0] == min(attempts, 2)


def test_a_path_that_is_too_long_for_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    error = FileNotFoundError(2, "No such file or directory")
    long = Path("/") / "/".join(["x" * 60] * 5)
    assert why(error, long) == "No such file or directory"
    monkeypatch.setattr(platforms, "WINDOWS", True)
    assert "305 characters" in why(error, long)
    assert why(error, Path("/short")) == "No such file or directory"
    assert "\n" not in why(error, long)
    assert why(OSError("a text alone")) == "a text alone"
    assert why(OSError()) == "OSError"


def test_a_write_there_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platforms, "WINDOWS", True)
    monkeypatch.setattr(patience, "DELAYS", ())
    deep = tmp_path.joinpath(*["x" * 60] * 5, "a.png")
    with pytest.raises(UserError, match="long paths are enabled"):
        write_atomically(deep, b"x")


def test_temporary_names_are_short_on_every_disk() -> None:
    for name in ("last.ckpt", "x" * 255, "舞" * 85):
        temporary = files.temporary_name(Path("run") / name)
        assert len(os.fsencode(temporary.name)) <= 143
        assert temporary.parent == Path("run")
        assert temporary.name.startswith(".") and temporary.name.endswith(".tmp")
    one, two = (files.temporary_name(Path("x" * 200 + end)) for end in "ab")
    assert one != two


def test_a_parent_that_was_noted_on_windows(dataset: Path, tmp_path: Path) -> None:
    """Runs that were moved together from there are found next to each other."""
    parent, child = tmp_path / "parent", tmp_path / "child"
    train(dataset, parent, "--num_epoch", "1")
    train(dataset, child, "--num_epoch", "1", "--ckpt_path", str(parent / "last.ckpt"))
    config = read_config(child)
    config["parent"]["run"] = "C:\\Users\\me\\runs\\parent"
    write_config(child / "config.json", config)
    found = parent_of(load_run(child))
    assert found is not None and found[0].folder == parent
    config["parent"]["run"] = "C:\\Users\\me\\runs\\other"
    write_config(child / "config.json", config)
    assert parent_of(load_run(child)) is None  # the control
