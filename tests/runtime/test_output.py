"""Output that a full disk refuses, and a reader that has gone."""

import errno
import io
import subprocess
import sys
from pathlib import Path

import pytest

from modules.runtime.output import Lenient, going_on_without_output
from tests.support.scripts import REPOSITORY

PROGRAM = """
import sys
sys.path.insert(0, sys.argv[1])
from modules.runtime.output import going_on_without_output
from modules.runtime.scripts import run_as_script

def main():
    for number in range(3):
        print("epoch", number, flush=True)
    return 7

run_as_script(going_on_without_output(main) if sys.argv[2] == "on" else main)
"""
full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")


class Refusing(io.StringIO):
    """A stream whose writing fails while `code` is set."""

    code = 0

    def write(self, text: str) -> int:
        if self.code:
            raise OSError(self.code, "No space left on device")
        return super().write(text)


def test_it_goes_on_and_says_so_once() -> None:
    stream, reasons = Refusing(), []
    lenient = Lenient(stream, reasons.append)
    print("one", file=lenient)
    stream.code = errno.ENOSPC
    print("two", file=lenient, flush=True)
    print("three", file=lenient)
    stream.code = 0
    print("four", file=lenient)
    assert stream.getvalue() == "one\nfour\n"
    assert reasons == ["No space left on device"]
    assert lenient.isatty() is False


def test_a_closed_pipe_is_still_heard_of() -> None:
    stream = Refusing()
    stream.code = errno.EPIPE
    with pytest.raises(BrokenPipeError):
        print("one", file=Lenient(stream))


def test_streams_come_back() -> None:
    before = sys.stdout, sys.stderr

    def fail() -> None:
        assert sys.stdout is not before[0]
        raise ValueError("x")

    with pytest.raises(ValueError, match="x"):
        going_on_without_output(fail)()
    assert (sys.stdout, sys.stderr) == before


@full
def test_a_log_on_a_full_disk() -> None:
    found = []
    for mode in ("on", "off"):
        with Path("/dev/full").open("w", encoding="utf-8") as log:
            command = [sys.executable, "-c", PROGRAM, str(REPOSITORY), mode]
            done = subprocess.run(command, stdout=log, stderr=subprocess.PIPE, text=True)
        found.append((done.returncode, done.stderr))
    status, errors = found[0]
    assert status == 7
    assert errors.startswith("warning: standard output cannot be written (No space left")
    assert errors.count("\n") == 1
    assert found[1][0] != 7  # the control


@full
def test_a_log_and_errors_on_a_full_disk() -> None:
    command = [sys.executable, "-c", PROGRAM, str(REPOSITORY), "on"]
    with Path("/dev/full").open("w", encoding="utf-8") as log:
        assert subprocess.run(command, stdout=log, stderr=log).returncode == 7


@pytest.mark.skipif(sys.platform == "win32", reason="pipes of POSIX")
def test_a_reader_that_has_gone() -> None:
    command = f"{sys.executable} -c '{PROGRAM}' {REPOSITORY} on | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.stdout in ("141\n", "7\n")  # or it was done before the reader went
    assert "Traceback" not in done.stderr
