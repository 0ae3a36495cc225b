"""metrics.csv, psnr_per_frame.csv and config.json."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from modules import runlog
from modules.runtime.errors import UserError


def row(epoch: int, **values: float) -> dict[str, float]:
    return {**dict.fromkeys(runlog.METRIC_COLUMNS, 0.5), "epoch": epoch, **values}


def test_columns_are_the_contract_s() -> None:
    assert ",".join(runlog.METRIC_COLUMNS) == (
        "epoch,train_loss,train_mse,train_kl,train_psnr,val_loss,val_psnr,beta,tfr,tf_active,lr,"
        "skipped,frames_per_second,seconds,val_ssim,active_dims,sigma,"
        "val_psnr_inside,val_psnr_outside,val_drift,val_flicker"
    )


def test_rows_are_appended_and_read_back_exactly(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    runlog.append_metrics(path, row(0, train_loss=1 / 3, val_loss=math.nan))
    first = path.read_text()
    runlog.append_metrics(path, row(1, train_loss=1e-17))
    assert path.read_text().startswith(first)
    assert path.read_text().count("epoch") == 1
    found = runlog.read_metrics(path)
    assert found["epoch"].tolist() == [0, 1]
    assert found["train_loss"].tolist() == [1 / 3, 1e-17]
    assert math.isnan(found["val_loss"][0])
    with pytest.raises(ValueError, match="columns"):
        runlog.append_metrics(path, {"epoch": 2})


def test_resume_drops_later_rows_and_half_lines(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    for epoch in range(12):
        runlog.append_metrics(path, row(epoch))
    whole = path.read_text()
    path.write_text(whole + "12,0.5,0.")  # killed while writing
    assert len(runlog.read_metrics(path)["epoch"]) == 12
    runlog.truncate_metrics(path, 11)
    assert path.read_text() == whole
    runlog.truncate_metrics(path, 9)
    assert runlog.read_metrics(path)["epoch"].tolist() == list(range(10))
    runlog.append_metrics(path, row(10))
    assert runlog.read_metrics(path)["epoch"].tolist() == list(range(11))
    runlog.truncate_metrics(tmp_path / "none.csv", 3)  # nothing to do


@pytest.mark.parametrize("columns", [14, 17])  # of the contract, and of the version before
def test_a_table_of_an_earlier_version_is_taken_over(tmp_path: Path, columns: int) -> None:
    path = tmp_path / "metrics.csv"
    for epoch in range(3):
        runlog.append_metrics(path, row(epoch, val_psnr=20.0 + epoch))
    new = path.read_text()
    old = "".join(",".join(line.split(",")[:columns]) + "\n" for line in new.splitlines())
    path.write_text(old + "3,0.5,0.")
    assert runlog.read_metrics(path)["val_psnr"].tolist() == [20.0, 21.0, 22.0]
    runlog.truncate_metrics(path, 1)
    runlog.append_metrics(path, row(2))
    found = runlog.read_metrics(path)
    assert tuple(found) == runlog.METRIC_COLUMNS
    assert found["val_psnr"].tolist() == [20.0, 21.0, 0.5]
    assert np.isnan(found["val_flicker"]).tolist() == [True, True, False]
    # Controls: too few columns, others, and others in their place.
    header = runlog.METRIC_COLUMNS
    for wrong in (header[:13], (*header[:14], "mood"), (*header, "mood"), header[1:]):
        path.write_text(",".join(wrong) + "\n")
        with pytest.raises(UserError, match=r"metrics\.csv: not a table of this run's epochs"):
            runlog.truncate_metrics(path, 1)
        assert path.read_text() == ",".join(wrong) + "\n"


def test_an_empty_table_gets_its_header(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.touch()
    runlog.truncate_metrics(path, 3)
    runlog.append_metrics(path, row(4))
    assert runlog.read_metrics(path)["epoch"].tolist() == [4]


def test_psnr_per_frame_counts_from_1(tmp_path: Path) -> None:
    path = tmp_path / "psnr_per_frame.csv"
    psnr, inside, outside = np.array([[20.25, 30.5], [math.nan, 24.5], [21.5, 36.0]])
    runlog.write_psnr_per_frame(path, psnr, inside, outside)
    text = "frame,psnr,inside,outside\n1,20.25,nan,21.5\n2,30.5,24.5,36.0\n"
    assert path.read_text() == text
    table = runlog.read_psnr_per_frame(path)
    assert (table.frame.tolist(), table.psnr.tolist()) == ([1, 2], [20.25, 30.5])
    np.testing.assert_array_equal(table.inside, inside)
    assert table.outside.tolist() == [21.5, 36.0]
    path.write_text("frame,psnr\n1,20.25\n2,30.5\n")  # of an earlier version
    table = runlog.read_psnr_per_frame(path)
    assert (table.frame.tolist(), table.psnr.tolist()) == ([1, 2], [20.25, 30.5])
    assert np.isnan([table.inside, table.outside]).all()


def test_config(tmp_path: Path) -> None:
    assert runlog.read_config(tmp_path) == {}
    runlog.write_config(tmp_path / "config.json", {"options": {"lr": 0.1}, "versions": {}})
    assert json.loads((tmp_path / "config.json").read_text())["options"]["lr"] == 0.1
    assert runlog.read_config(tmp_path)["options"] == {"lr": 0.1}
    assert [p.name for p in tmp_path.iterdir()] == ["config.json"]


def test_a_row_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").mkdir()
    with pytest.raises(UserError, match=r"metrics\.csv"):
        runlog.append_metrics(tmp_path / "metrics.csv" / "metrics.csv" / "x", row(0))
