"""CSV files as they are written here, and as spreadsheets save them again.

A spreadsheet may put a byte-order mark in front, write UTF-16, separate cells by semicolons or tabs
(`sep=;` in a line of its own), end lines with CR LF, write 0,5 for 0.5, quote cells or whole lines,
and add empty cells and rows. The numbers are still there.
"""

import codecs
import csv
import re
from pathlib import Path
from typing import NamedTuple

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}


class Table(NamedTuple):
    """The cells of a file, and what tells that it is not as it was written here."""

    rows: list[tuple[int, list[str]]]  # with the line's number, from 1; no empty ones
    changes: list[str]  # in words; empty for a file as it was written here


def read_table(path: Path) -> Table:
    """A CSV file's rows, with decimal points. OSError, ValueError, csv.Error: it is not one."""
    text, changes = _decoded(path.read_bytes())
    if "\r" in text:
        changes.append("CR LF" if "\r\n" in text else "CR")
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    lines = text.split("\n")
    first, skipped = lines[0], 0
    if found := re.fullmatch(r'"?sep=(.)"?', first):
        separator, skipped = found[1], 1
    else:
        separator = max(SEPARATORS, key=first.count)  # the comma, where there is none
    rows = list(csv.reader(lines[skipped:], delimiter=separator))
    if rows and len(rows[0]) == 1 and "," in rows[0][0]:  # lines that were taken for one cell each
        rows, changes = (
            list(csv.reader(row[0] if row else "" for row in rows)),
            [*changes, "quotes"],
        )
    if separator != ",":
        changes.append(SEPARATORS.get(separator, f"separator {separator!r}"))
    width = len(rows[0]) if rows else 0
    while width and not rows[0][width - 1].strip():
        width -= 1
    numbered: list[tuple[int, list[str]]] = []
    plain = True
    for number, row in enumerate(rows, 1 + skipped):
        if len(row) > width and not any(cell.strip() for cell in row[width:]):
            row = row[:width]
        if not any(cell.strip() for cell in row):
            continue
        cells = (
            [_with_point(cell.strip()) for cell in row] if numbered else [c.strip() for c in row]
        )
        plain = plain and all(
            "," not in cell or cell == new for cell, new in zip(row, cells, strict=True)
        )
        numbered.append((number, cells))
    if not plain:
        changes.append("decimal commas")
    return Table(numbered, changes)


def _decoded(data: bytes) -> tuple[str, list[str]]:
    """The text, and what is said by a byte-order mark. ValueError: not text."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16"), ["UTF-16"]
    if data.startswith(codecs.BOM_UTF8):
        return data.decode("utf-8-sig"), ["byte-order mark"]
    return data.decode("utf-8"), []


def _with_point(cell: str) -> str:
    """1.234,5 and 0,5 as 1234.5 and 0.5; other cells as they are."""
    text = cell.replace("\N{MINUS SIGN}", "-").replace("\N{NO-BREAK SPACE}", "")
    if re.fullmatch(r"[-+]?\d*,\d+([eE][-+]?\d+)?", text):
        return text.replace(",", ".")
    if re.fullmatch(r"[-+]?\d{1,3}(\.\d{3})+,\d+", text):
        return text.replace(".", "").replace(",", ".")
    return text
