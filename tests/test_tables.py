"""Tables that a spreadsheet has saved again are read, and written as they were."""

import codecs
import csv
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from modules import runlog
from modules.runtime.errors import UserError
from modules.tables import read_table
from tests.test_runlog import row


def cells(text: str, separator: str, change: Callable[[str], str] = str) -> str:
    """The text with another separator, each cell changed."""
    lines = [separator.join(map(change, line.split(","))) for line in text.splitlines()]
    return "\n".join(lines) + "\n"


def comma(cell: str) -> str:
    return cell.replace(".", ",")


SAVED: dict[str, Callable[[str], bytes]] = {
    "byte-order mark": lambda t: codecs.BOM_UTF8 + t.encode(),
    "CR LF": lambda t: t.replace("\n", "\r\n").encode(),
    "CR": lambda t: t.replace("\n", "\r").encode(),
    "semicolons": lambda t: cells(t, ";").encode(),
    "tabs": lambda t: cells(t, "\t").encode(),
    "UTF-16": lambda t: cells(t, "\t").encode("utf-16"),
    "decimal commas": lambda t: cells(t, ";", comma).encode(),
    "decimal commas, quoted": lambda t: cells(t, ",", lambda c: f'"{comma(c)}"').encode(),
    "quotes": lambda t: "".join(f'"{line}"\n' for line in t.splitlines()).encode(),
    "sep=": lambda t: ("sep=;\n" + cells(t, ";", comma)).encode(),
    "everything": lambda t: (
        codecs.BOM_UTF8 + cells(t, ";", comma).replace("\n", ";;\r\n").encode() + b";;;\r\n;;;\r\n"
    ),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "metrics.csv"
    for epoch in range(4):
        runlog.append_metrics(
            path, row(epoch, val_psnr=20.25 + epoch, lr=3e-5, val_loss=math.nan, seconds=1234.5)
        )
    assert read_table(path).changes == []  # the control
    return path


@pytest.mark.parametrize("form", SAVED)
def test_the_numbers_are_read_and_the_file_restored(
    form: str, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = path.read_text(encoding="utf-8")
    before = runlog.read_metrics(path)
    saved = SAVED[form](plain)
    path.write_bytes(saved)
    assert path.read_text(encoding="utf-8", errors="replace") != plain or form in ("CR", "CR LF")
    found = runlog.read_metrics(path)
    assert list(found) == list(before)
    for name, values in before.items():
        assert found[name].tolist() == pytest.approx(values.tolist(), nan_ok=True, rel=0)
    # A resumed run: as if nothing had happened, but for the digits that a spreadsheet wrote.
    runlog.truncate_metrics(path, 3)
    assert path.read_bytes() == plain.encode()
    assert "was saved by another program (" in capsys.readouterr().out
    # A run that goes on: its next row fits the others.
    path.write_bytes(saved)
    runlog.append_metrics(path, row(4, lr=3e-5))
    assert path.read_bytes().startswith(plain.encode())
    assert runlog.read_metrics(path)["epoch"].tolist() == [0, 1, 2, 3, 4]


def test_a_plain_file_is_not_rewritten(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inode = path.stat().st_ino
    runlog.append_metrics(path, row(4))
    assert path.stat().st_ino == inode
    runlog.truncate_metrics(path, 4)
    assert capsys.readouterr().out == ""


def test_numbers_of_either_form(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    for text, expected in (
        ("a;b\n1.234,5;-0,25\n", ["1234.5", "-0.25"]),
        ("a;b\n1,5e-05;\N{MINUS SIGN}2\n", ["1.5e-05", "-2"]),
        ("a,b\n1.5,nan\n", ["1.5", "nan"]),
        ("a;b\n,5;x,y\n", [".5", "x,y"]),
    ):
        path.write_text(text, encoding="utf-8")
        assert read_table(path).rows[1] == (2, expected)
    for text in ("", "\n\n", ";;\n"):
        path.write_text(text)
        assert read_table(path).rows == []
    path.write_bytes(b"a\x00b\n\xff")
    with pytest.raises((ValueError, csv.Error)):
        read_table(path)


def test_what_a_spreadsheet_destroyed_is_named_by_line_and_column(path: Path) -> None:
    text = path.read_text(encoding="utf-8").replace("22.25", "22. Feb")
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"line 4, val_psnr: '22. Feb' is not a number"):
        runlog.read_metrics(path)


def test_another_table_is_left_alone(path: Path) -> None:
    path.write_text("mine;not yours\n1;2\n", encoding="utf-8")
    before = path.read_text(encoding="utf-8")
    with pytest.raises(UserError, match="not a table of this run's epochs"):
        runlog.truncate_metrics(path, 3)
    assert path.read_text(encoding="utf-8") == before
    runlog.append_metrics(path, row(0))
    assert path.read_text(encoding="utf-8").startswith(before)


def test_config_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(codecs.BOM_UTF8 + b'{"options": {"lr": 0.5}}')
    assert runlog.read_config(tmp_path) == {"options": {"lr": 0.5}}
