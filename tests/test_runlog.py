"""metrics.csv, psnr_per_frame.csv and config.json: no row is lost, none is there twice."""

import codecs
import contextlib
import csv
import errno
import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modules import runlog
from modules.runlog import METRIC_COLUMNS, MetricsTable, read_metrics
from modules.runtime.errors import UserError
from tests.support.disks import held, named, refusing

NAME = "metrics.csv"


def row(epoch: int, **values: float) -> dict[str, Any]:
    return dict.fromkeys(METRIC_COLUMNS, 0.5) | {"epoch": epoch, **values}


def put(table: MetricsTable, row: dict[str, Any]) -> bool:
    """Add a row and write it; whether it could be written."""
    table.add(row)
    with contextlib.suppress(OSError, UserError):
        table.write()
    return not table.unwritten


def epochs(folder: Path) -> list[int]:
    return [int(line.split(",")[0]) for line in (folder / NAME).read_text().splitlines()[1:]]


@pytest.fixture
def table(tmp_path: Path) -> MetricsTable:
    """With the rows of epochs 0, 1 and 2."""
    table = MetricsTable(tmp_path / NAME, [])
    for epoch in range(3):
        put(table, row(epoch, val_psnr=20.25 + epoch, lr=3e-5, val_loss=math.nan, seconds=1234.5))
    return table


def resumed(path: Path, last_epoch: int, *unwritten: dict[str, Any]) -> MetricsTable:
    table = MetricsTable(path, list(unwritten))
    table.resume(last_epoch)
    table.write()
    return table


def test_rows_are_appended_and_read_back_exactly(table: MetricsTable) -> None:
    path = table.path
    before, inode = path.read_text(), path.stat().st_ino
    assert before.startswith(
        "epoch,train_loss,train_mse,train_kl,train_psnr,val_loss,val_psnr,beta,tfr,tf_active,lr,"
        "skipped,frames_per_second,seconds,val_ssim,active_dims,sigma,"
        "val_psnr_inside,val_psnr_outside,val_drift,val_flicker\n0,0.5,"
    )
    assert put(table, row(3, train_loss=1 / 3, train_mse=1e-17))
    assert path.read_text().startswith(before)
    assert path.stat().st_ino == inode  # the same file, a line longer
    found = read_metrics(path)
    assert tuple(found) == METRIC_COLUMNS
    assert found["epoch"].tolist() == [0, 1, 2, 3]
    assert found["train_loss"][3] == 1 / 3 and found["train_mse"][3] == 1e-17
    assert np.isnan(found["val_loss"]).tolist() == [True, True, True, False]


@pytest.mark.parametrize("last", [-1, 1, 2, 9])
def test_resuming_drops_later_rows_and_half_lines(table: MetricsTable, last: int) -> None:
    path, whole = table.path, table.path.read_text()
    path.write_text(whole + "3,0.5,0.")  # killed while writing
    assert read_metrics(path)["epoch"].tolist() == [0, 1, 2]
    again = resumed(path, last)
    kept = min(last + 2, 4)  # lines, with the header
    assert path.read_text() == "".join(whole.splitlines(keepends=True)[:kept])
    assert put(again, row(last + 1))
    assert read_metrics(path)["epoch"].tolist() == [*range(kept - 1), last + 1]


def test_a_table_of_an_earlier_version_is_taken_over(table: MetricsTable) -> None:
    path, columns = table.path, 14  # the contract's
    lines = path.read_text().splitlines()
    old = "".join(",".join(line.split(",")[:columns]) + "\n" for line in lines)
    path.write_text(old + "3,0.5,0.")
    kept = dict.fromkeys(METRIC_COLUMNS[:columns], 0.5) | {"epoch": 2}  # in its checkpoint
    assert put(resumed(path, 2, kept), row(3))
    found = read_metrics(path)
    assert tuple(found) == METRIC_COLUMNS
    assert found["val_psnr"].tolist() == [20.25, 21.25, 0.5, 0.5]
    assert np.isnan(found["val_flicker"]).tolist() == [True, True, True, False]


@pytest.mark.parametrize("header", [METRIC_COLUMNS[:13], (*METRIC_COLUMNS, "mood"), ("a", "b")])
def test_another_table_is_left_alone(table: MetricsTable, header: tuple[str, ...]) -> None:
    text = ";".join(header) + "\n"
    table.path.write_text(text)
    with pytest.raises(UserError, match=r"metrics\.csv: not a table of this run's epochs"):
        table.resume(1)
    assert not put(table, row(3))  # a run that goes on keeps its rows
    assert (table.path.read_text(), len(table.unwritten)) == (text, 1)


@pytest.mark.parametrize(
    ("form", "decimal", "more"),
    [
        ({}, ".", ""),  # a byte-order mark alone
        ({"delimiter": "\t"}, ".", ""),
        ({"quoting": csv.QUOTE_ALL}, ",", ""),
        ({"delimiter": ";", "lineterminator": "\r\n"}, ",", ";;;\r\n"),  # empty cells below
    ],
)
def test_the_numbers_are_read_and_the_file_restored(
    form: dict[str, Any], decimal: str, more: str, table: MetricsTable
) -> None:
    path, plain, before = table.path, table.path.read_text(), read_metrics(table.path)
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        rows = [[c.replace(".", decimal) for c in line.split(",")] for line in plain.splitlines()]
        csv.writer(file, **{"lineterminator": "\n", **form}).writerows(rows)
        file.write(more)
    text = path.read_bytes()
    np.testing.assert_equal(read_metrics(path), before)
    resumed(path, 2)
    assert path.read_bytes() == plain.encode()
    path.write_bytes(text)
    assert put(table, row(3))  # the next row of a run fits the others
    assert path.read_text().startswith(plain) and epochs(path.parent) == [0, 1, 2, 3]


@pytest.mark.parametrize("part", [20, None])
def test_half_a_line_goes_before_the_next(table: MetricsTable, part: int | None) -> None:
    """A disk that fills up within a line; None: the line is there, its sync failed."""
    before = table.path.read_text()
    with refusing("fsync", errno.ENOSPC, when=named(NAME)):
        assert not put(table, row(3, val_flicker=0.123456))
    whole = table.path.read_text().removeprefix(before)
    table.path.write_text(before + whole[:part])
    assert put(table, row(4))
    assert epochs(table.path.parent) == [0, 1, 2, 3, 4]
    assert read_metrics(table.path)["val_flicker"][3] == 0.123456


@pytest.mark.parametrize("saved", [False, True])
@pytest.mark.parametrize("killed", range(3))
def test_killed_at_any_moment(tmp_path: Path, killed: int, saved: bool) -> None:
    """A run of three epochs, the file held in any of them, killed before or after any save.

    A checkpoint is what --resume finds: the last epoch, and the rows that were not written then.
    """
    for case, (kept_from, kept_until) in enumerate(itertools.product(range(3), range(4))):
        path = tmp_path / str(case) / NAME
        path.parent.mkdir()
        checkpoint: tuple[int, list[dict[str, Any]]] = (-1, [])
        table, epoch, kills = MetricsTable(path, []), 0, 0
        while epoch < 3:
            with held(*[NAME] * (kept_from <= epoch < kept_until)):
                put(table, row(epoch, seconds=float(kills)))
            dies = epoch == killed and not kills
            if saved or not dies:
                checkpoint = (epoch, [dict(one) for one in table.unwritten])
            epoch += 1
            if dies:
                kills, epoch = 1, checkpoint[0] + 1
                with held(*[NAME] * (kept_from <= epoch < kept_until)):
                    table = MetricsTable(path, list(checkpoint[1]))
                    table.resume(checkpoint[0])
        table.write()
        assert epochs(path.parent) == list(range(3)), (kept_from, kept_until)
        # Rows after the kill are those of the run that went on.
        first = killed + saved
        assert read_metrics(path)["seconds"].tolist() == [0.0] * first + [1.0] * (3 - first)


def test_psnr_per_frame_counts_from_1(tmp_path: Path) -> None:
    path = tmp_path / "psnr_per_frame.csv"
    columns = np.array([[20.25, 30.5], [math.nan, 24.5], [21.5, 36.0]])
    runlog.write_psnr_per_frame(path, *columns)
    assert path.read_text() == "frame,psnr,inside,outside\n1,20.25,nan,21.5\n2,30.5,24.5,36.0\n"
    np.testing.assert_array_equal(runlog.read_psnr_per_frame(path), [[1, 2], *columns])


def test_the_line_of_an_epoch_has_each_number_in_its_place() -> None:
    terms = {"train_loss": 1.0, "train_mse": 2.0, "train_kl": 3.0, "train_psnr": 4.0}
    more = {"val_loss": 5.0, "val_psnr": 6.0, "val_ssim": 0.7, "beta": 8.0, "tfr": 0.9, "lr": 10.0}
    line = runlog.epoch_line(row(7, **terms, **more, tf_active=0, skipped=2, seconds=11.0), 9, True)
    assert line == (
        "epoch   7/9 | train loss 1.00000 mse 2.00000 kl 3 psnr 4.00 dB | val loss 5.00000 psnr "
        "6.00 dB * ssim 0.700 | beta 8 tfr 0.90 off lr 1.00e+01 | 0 frames/s 11.0 s"
        " | 2 sequences skipped"
    )


def test_config(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    assert runlog.read_config(tmp_path) == {}
    runlog.write_config(path, {"options": {"lr": 0.1}})
    path.write_bytes(codecs.BOM_UTF8 + path.read_bytes())  # as an editor saves it
    assert runlog.read_config(tmp_path) == {"options": {"lr": 0.1}}
    for damaged in (b"", b'{"options": {', b"\xff\xfe", b"[1]"):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"config\.json: cannot be read"):
            runlog.read_config(tmp_path)
