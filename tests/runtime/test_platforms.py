"""Windows and macOS, where nobody has run this yet: what Python lacks there is not used."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.scripts import REPOSITORY

PRODUCT = [*REPOSITORY.glob("*.py"), *(REPOSITORY / "modules").rglob("*.py")]
# Of the documentation's "Availability: Unix" and "not Windows".
UNIX = {
    *("fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "syslog"),
    *("os.fork", "os.sched_getaffinity", "os.sysconf", "os.killpg", "os.getuid", "os.geteuid"),
    *("os.setsid", "os.nice", "os.uname", "os.mkfifo", "os.statvfs", "os.getpgid", "os.wait"),
    *("os.pread", "os.pwrite", "os.O_DIRECTORY", "os.fdatasync", "os.fchmod", "os.posix_fadvise"),
    *("signal.SIGKILL", "signal.SIGHUP", "signal.SIGUSR1", "signal.SIGUSR2", "signal.SIGCHLD"),
    *("signal.SIGQUIT", "signal.SIGALRM", "signal.SIGPIPE", "signal.alarm", "signal.pause"),
    *("signal.setitimer", "signal.pthread_sigmask", "signal.sigwait"),
    *("fork", "preexec_fn", "pass_fds"),
}


def only_on_unix(source: str) -> Iterator[str]:
    """What a file takes from its system that Windows lacks; inside functions modules may be."""
    tree = ast.parse(source)
    used: list[str | None] = []
    for node in tree.body:
        if isinstance(node, ast.Import):
            used += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            used.append(node.module)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            used.append(f"{node.value.id}.{node.attr}")
        elif isinstance(node, ast.keyword):
            used.append(node.arg)
        elif isinstance(node, ast.Constant):
            used.append(str(node.value))  # a way to start processes
    return (name for name in used if name in UNIX)


@pytest.mark.parametrize("path", PRODUCT, ids=lambda path: path.stem)
def test_nothing_is_taken_that_windows_lacks(path: Path) -> None:
    assert list(only_on_unix(path.read_text(encoding="utf-8"))) == []


def test_it_would_be_noticed() -> None:
    """The control."""
    source = "import fcntl, os, signal\nos.fork()\nx = signal.SIGKILL\nrun('fork', preexec_fn=f)\n"
    assert sorted(only_on_unix(source)) == [
        *("fcntl", "fork", "os.fork", "preexec_fn", "signal.SIGKILL")
    ]
    assert list(only_on_unix("def f():\n    import fcntl\n")) == []
