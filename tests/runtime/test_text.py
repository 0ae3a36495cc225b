"""Names in any bytes can be printed, drawn and stored."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from modules.figures.style import drawable
from modules.runtime.errors import in_one_line
from modules.runtime.text import ERRORS, shown
from tests.support.scripts import REPOSITORY, run_script, train

NAME = os.fsdecode(b"caf\xe9 \xff")


def test_bytes_that_are_no_utf_8_are_shown_as_they_are() -> None:
    assert shown(NAME) == r"caf\xe9 \xff"
    assert shown("café \ud834") == r"café \ud834"
    with pytest.raises(UnicodeEncodeError):
        NAME.encode()  # the control
    assert NAME.encode(errors=ERRORS) == rb"caf\xe9 \xff"
    assert f"é{NAME}".encode("ascii", errors=ERRORS) == rb"\xe9caf\xe9 \xff"
    assert shown("plain é\n") == "plain é\n"
    assert drawable(NAME) == r"caf\xe9 \xff"


def test_no_character_of_a_name_starts_a_line() -> None:
    assert in_one_line("a\x1b[2Jb\x85c\u2028d") == r"a\x1b[2Jb\x85c\u2028d"
    assert in_one_line("é 名") == "é 名"


@pytest.fixture(scope="module")
def run(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, its data and its folder all with names that are no UTF-8."""
    world = tmp_path_factory.mktemp("bytes") / NAME
    try:
        shutil.copytree(dataset, world / "data")
    except OSError:
        pytest.skip("this file system takes only UTF-8")
    train(world / "data", world / "run", "--num_epoch", "1", "--auto_save")
    return world / "run"


def test_every_command_takes_them(run: Path, tmp_path: Path) -> None:
    other, out = tmp_path / os.fsdecode(b"r\xfen"), tmp_path / os.fsdecode(b"out\xfe")
    shutil.copytree(run, other)
    for arguments in (
        ["Trainer.py", "--save_root", other, "--resume", "--num_epoch", "2"],
        ["Trainer.py", "--test", "--ckpt_path", run / "best.ckpt"],
        ["Tester.py", "--ckpt_path", run / "best.ckpt", "--save_root", out],
        ["Tester.py", "--ckpt_path", run / "best.ckpt", "--export", out / "x.pth"],
        ["dataloader.py", "check", run.parent / "data", "--picture", out / "sheet.png"],
        ["modules/plots.py", "curves", run],
        ["modules/plots.py", "frames", run],
        ["modules/plots.py", "compare", run, other, "--out", out],
        ["modules/plots.py", "compare", run, other, "--out", out, "--by_name"],
    ):
        result = run_script(*arguments)
        assert (result.returncode, result.stderr) == (0, ""), arguments
    assert r"r\xfen" in (out / "summary.md").read_text(encoding="utf-8")
    assert r"r\xfen" in (out / "summary.csv").read_text(encoding="utf-8")


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "cp1252"])
def test_messages_print_in_any_encoding(encoding: str, run: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "modules.plots", "curves", run.parent / "none"],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONIOENCODING": encoding},
        capture_output=True,
        check=False,
    )
    assert result.returncode == 2
    lines = result.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith(b"error: ")
    assert rb"caf\xe9 \xff" in lines[0]
