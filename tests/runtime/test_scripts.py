"""Scripts end as users expect: exit statuses, one line for a mistake, no traceback."""

import io
import signal
import subprocess
import sys

import pytest
import torch

from modules.runtime.errors import Stopped, UserError
from modules.runtime.scripts import run_as_script
from tests.support.scripts import REPOSITORY


def end_of(outcome: object) -> int:
    """The exit status of a script whose main returns this, or raises it."""

    def main() -> int | None:
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome  # type: ignore[return-value]

    with pytest.raises(SystemExit) as caught:
        run_as_script(main)
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
    assert printed.count("\n") == stderr.count("\n") or "--resume" in printed


@pytest.mark.parametrize("error", [ZeroDivisionError(), RuntimeError("shapes do not fit")])
def test_faults_of_the_program_keep_their_traceback(error: Exception) -> None:
    with pytest.raises(type(error)):
        end_of(error)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 3 GiB"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3 GiB\nand much advice"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 3 GiB"),
        MemoryError(),
    ],
)
def test_too_little_memory_is_one_line(
    error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    assert end_of(error) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: not enough memory (")
    assert "3 GiB" in line or not error.args
    assert "and much advice" not in line


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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("guarded", [True, False])
def test_a_signal_while_the_interpreter_shuts_down(number: signal.Signals, guarded: bool) -> None:
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
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    quiet = process.returncode == 143 and "KeyboardInterrupt" not in errors
    assert quiet is guarded, (process.returncode, errors)


def test_names_that_the_terminal_cannot_show(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(raw, encoding="ascii"))
    assert end_of(UserError("舞.png: the file is empty")) == 2
    assert raw.getvalue() == b"error: \\u821e.png: the file is empty\n"
    with pytest.raises(UnicodeEncodeError):  # the control: as a terminal does by itself
        io.TextIOWrapper(io.BytesIO(), encoding="ascii").write("舞")
