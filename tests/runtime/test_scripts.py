"""Scripts read, speak and end as users expect: one line for a mistake, exit statuses, names in any
bytes, output that nobody reads."""

import errno
import io
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from modules.figures.style import drawable
from modules.runtime.errors import (
    MAX_NAMED,
    Stopped,
    UserError,
    in_one_line,
    named,
    shown,
    why,
)
from modules.runtime.scripts import ArgumentParser, Output, path_argument, run_as_script
from tests.support.drawn import make_run
from tests.support.scripts import REPOSITORY, TINY_RUN, python, run_script

# ---------------------------------------------------------------- the command line


def test_the_parser_guesses_nothing() -> None:
    parser = ArgumentParser()
    parser.add_argument("--tfr_d_step", type=float)
    parser.add_argument("--DR")
    parser.add_argument("ROOT", nargs="?", type=path_argument)
    found = parser.parse_args(["data/a", "--tfr_d_step", "0.1", "--DR=-data"])
    assert (found.ROOT, found.tfr_d_step, found.DR) == (Path("data/a"), 0.1, "-data")
    for words, message in (
        (["--tfr_d", "0.1"], "--tfr_d"),  # an abbreviation
        ([""], "ROOT: is empty"),  # Path would take it for the current folder
        (["--DR", "-data"], r"expected one argument; .* --DR=-value"),
    ):
        with pytest.raises(UserError, match=message):
            parser.parse_args(words)


# ---------------------------------------------------------------- messages


def test_the_first_few_names() -> None:
    assert MAX_NAMED == 5
    assert named(range(5)) == "0, 1, 2, 3, 4"
    assert named(f"{i}.png" for i in range(8)) == "0.png, 1.png, 2.png, 3.png, 4.png and 3 more"
    # Where only a few of many are given, as of a gap of 10¹⁹ numbers.
    assert named([7, 8], total=12) == "7, 8 and 7 more"
    assert named([7, 8], total=2) == "7, 8"


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("two\nlines.png: is empty", "two\\nlines.png: is empty"),
        ("a\r\x1b[31mred\x7f\0", "a\\r\\x1b[31mred\\x7f\\x00"),
        ("a\x85b\u2028c", "a\\x85b\\u2028c"),
        ("舞 é → β", "舞 é → β"),
        # A list of faults keeps its lines; a name with a newline among them does not make one.
        ("2 faults\n  - a\n  - b\nc", "2 faults\n  - a\n  - b\\nc"),
        ("a\n - b", "a\\n - b"),
    ],
)
def test_control_characters_make_no_lines(message: str, line: str) -> None:
    assert in_one_line(message) == line
    assert in_one_line(line) == line


def disk_refuses() -> UserError:
    error = UserError("a.ckpt: cannot be written (No space left on device); make room")
    error.__cause__ = OSError(28, "No space left on device")
    return error


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (PermissionError(13, "Permission denied", "x.png"), "Permission denied"),
        (disk_refuses(), "No space left on device"),
        (UserError("run/metrics.csv: has no rows"), "run/metrics.csv: has no rows"),
        (MemoryError(), "MemoryError"),
        (ValueError("a\nb"), "ValueError: a\\nb"),
    ],
)
def test_reasons(error: Exception, text: str) -> None:
    assert why(error) == text


# ---------------------------------------------------------------- the end


def end_of(outcome: object) -> int:
    """The exit status of a script whose main returns this, or raises it."""

    def main() -> int | None:
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome  # type: ignore[return-value]

    streams = sys.stdout, sys.stderr
    with pytest.raises(SystemExit) as caught:
        run_as_script(main)
    assert (sys.stdout, sys.stderr) == streams
    assert isinstance(caught.value.code, int)
    return caught.value.code


@pytest.mark.parametrize(
    ("outcome", "status", "stderr"),
    [
        (None, 0, ""),
        (3, 3, ""),
        (UserError("no such option"), 2, "error: no such option\n"),
        (UserError("a\nb: missing\n  - c\td"), 2, "error: a\\nb: missing\n  - c\\td\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (MemoryError("Unable to allocate 3 GiB"), 2, "error: not enough memory (Unable to"),
        (RuntimeError("CUDA error: all devices are busy or unavailable"), 2, "error: "),
        (Stopped(signal.SIGTERM), 143, "stopped by SIGTERM; "),
        (Stopped(signal.SIGINT), 130, "stopped by SIGINT; "),
    ],
)
def test_status_and_last_line(
    outcome: object, status: int, stderr: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert end_of(outcome) == status
    printed = capsys.readouterr().err
    assert printed.startswith(stderr)
    assert printed.count("\n") == max(1, stderr.count("\n")) * bool(stderr) or "--resume" in printed


@pytest.mark.parametrize("error", [ZeroDivisionError(), RuntimeError("CUDA error: illegal access")])
def test_faults_of_the_program_keep_their_traceback(error: Exception) -> None:
    with pytest.raises(type(error)):
        end_of(error)


@pytest.mark.parametrize("first", [Stopped(signal.SIGTERM), KeyboardInterrupt()])
def test_a_second_signal_during_shutdown(
    first: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When training has ended its handlers are gone, and Ctrl-C is an exception again."""

    class Interrupted(io.StringIO):
        def write(self, text: str) -> int:
            if text.startswith(("stopped", "interrupted")):
                raise KeyboardInterrupt
            return super().write(text)

    monkeypatch.setattr(sys, "stderr", Interrupted())
    assert end_of(first) == 130


@pytest.mark.parametrize("guarded", [True, False])
def test_a_signal_while_the_interpreter_shuts_down(guarded: bool) -> None:
    """The status that was decided stands. Without run_as_script it does not: the control."""
    end = "run_as_script(main)" if guarded else "sys.exit(143)"
    program = (
        "import atexit, sys, time\n"
        "from modules.runtime.errors import Stopped\n"
        "from modules.runtime.scripts import run_as_script\n"
        "def main():\n    raise Stopped(15)\n"
        "def slow():\n    print('ending', flush=True)\n    time.sleep(1.0)\n"
        f"atexit.register(slow)\n{end}\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ending\n"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    quiet = process.returncode == 143 and "KeyboardInterrupt" not in errors
    assert quiet is guarded, (process.returncode, errors)


# ---------------------------------------------------------------- output that is refused


class Refusing(io.StringIO):
    """A stream whose writing fails while `code` is set."""

    code = 0

    def write(self, text: str) -> int:
        if self.code:
            raise OSError(self.code, os.strerror(self.code))
        return super().write(text)


def test_it_goes_on_and_says_so_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stream = Refusing()
    output = Output(stream, unread=False)
    monkeypatch.setattr(sys, "stdout", output)
    for text, code in (("one", 0), ("two", errno.ENOSPC), ("three", errno.EIO), ("four", 0)):
        stream.code = code
        print(text, flush=True)
    assert stream.getvalue() == "one\nfour\n"
    warning = "warning: standard output cannot be written (No space left on device); going on\n"
    assert capsys.readouterr().err == warning
    assert output.isatty() is False
    stream.code = errno.EPIPE
    with pytest.raises(BrokenPipeError):  # unless nobody needs to read it
        print("five")
    print("five", file=Output(stream, unread=True))


PROGRAM = """
import sys
from modules.runtime.scripts import run_as_script

def main():
    for number in range(3):
        print("epoch", number, "x" * 9999, flush=True)
    return 7

sys.exit(main()) if sys.argv[1] == "plain" else run_as_script(main)
"""


@pytest.fixture
def unread() -> Iterator[int]:
    """The end of a pipe whose reader has gone."""
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


@pytest.mark.parametrize(("mode", "status"), [("read", 141), ("plain", 1)])
def test_a_reader_that_has_gone(mode: str, status: int, unread: int) -> None:
    done = python("-c", PROGRAM, mode, stdout=unread)
    assert done.returncode == status
    assert ("Traceback" in done.stderr) == (mode == "plain")  # the control


def test_the_trainer_does_not_need_its_reader(dataset: Path, tmp_path: Path, unread: int) -> None:
    words = ["--DR", dataset, "--save_root", tmp_path / "run", *TINY_RUN, "--dry_run"]
    done = python("Trainer.py", *words, stdout=unread)
    assert done.returncode == 0, done.stderr
    assert "warning: standard output cannot be written (Broken pipe); going on" in done.stderr


# ---------------------------------------------------------------- names in any bytes

LATIN = os.fsdecode(b"caf\xe9 \xff")
# A dash, no UTF-8, quotes, what shells and formats take, a newline, dots, an ending.
NAME = os.fsdecode(b"-r\xfcn 'it\"s' $x_i^2$ [1]*?%d{0}\n\xe8\x88\x9e.v1.ckpt")


def test_bytes_that_are_no_utf_8_are_shown_as_they_are() -> None:
    assert shown(LATIN) == drawable(LATIN) == r"caf\xe9 \xff"
    assert shown("plain é\n") == "plain é\n"
    with pytest.raises(UnicodeEncodeError):
        LATIN.encode()  # the control


def test_names_that_the_terminal_cannot_show(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(raw, encoding="ascii"))
    assert end_of(UserError(f"舞 {LATIN}.png: the file is empty")) == 2
    assert raw.getvalue() == rb"error: \u821e caf\xe9 \xff.png: the file is empty" + b"\n"
    with pytest.raises(UnicodeEncodeError):  # the control: as a terminal does by itself
        io.TextIOWrapper(io.BytesIO(), encoding="ascii").write("舞")


def test_every_command_takes_folders_of_any_name(dataset: Path, tmp_path: Path) -> None:
    """Data, run and results in such folders, by every command."""
    name, place = NAME, tmp_path / NAME
    other = make_run(tmp_path / "other")
    try:
        shutil.copytree(dataset, place / "data")
    except OSError:
        pytest.skip("this file system takes only UTF-8")
    here, epoch = f"{name}/{name}", ("--num_epoch", "1", "--store_visualization")
    for command in (
        ("Trainer.py", f"--DR={name}/data", f"--save_root={here}", *TINY_RUN, *epoch),
        ("Trainer.py", f"--save_root={here}", "--resume", "--num_epoch", "2"),
        ("Trainer.py", "--test", f"--ckpt_path={here}/last.ckpt"),
        ("Tester.py", f"--ckpt_path={here}/last.ckpt"),
        ("Tester.py", f"--ckpt_path={here}/last.ckpt", f"--export={name}/x.pth"),
        ("dataloader.py", "check", f"--picture={name}/sheet.png", "--", f"{name}/data"),
        ("modules/plots.py", "curves", "--", here),
        ("modules/plots.py", "compare", f"--out={name}/report", "--", here, str(other)),
    ):
        result = run_script(*command, cwd=tmp_path)
        assert (result.returncode, result.stderr) == (0, ""), command
    assert (place / name / "test/submission.csv").exists()
    assert r"r\xfcn" in (place / "report/summary.md").read_text(encoding="utf-8")
