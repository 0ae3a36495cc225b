"""Reading a run back: its files, the runs that it was fine-tuned from, settings in words."""

import math
from pathlib import Path

import pytest

from modules.figures.curves import draw_curves
from modules.figures.runs import lineage, load_run
from tests.support.drawn import (
    make_run,
    set_parent,
)


def test_lineage_that_cannot_be_followed(tmp_path: Path) -> None:
    a, b = make_run(tmp_path / "a", 4), make_run(tmp_path / "b", 4)
    set_parent(b, tmp_path / "gone", 2)
    assert [part.shift for part in lineage(load_run(b))] == [0]
    set_parent(b, a, -1)  # the parent had not finished an epoch
    assert len(lineage(load_run(b))) == 1
    set_parent(b, None, 2)
    assert len(lineage(load_run(b))) == 1
    set_parent(b, Path("/elsewhere/a"), 2)  # both were moved: found beside it
    assert [part.shift for part in lineage(load_run(b))] == [0, 3]
    set_parent(a, b, 1)
    set_parent(b, a, 2)  # each is the other's parent
    assert [part.run.name for part in lineage(load_run(a))] == ["b", "a"]
    set_parent(a, a, 1)
    assert len(lineage(load_run(a))) == 1


def test_runs_of_earlier_versions_have_no_diagnostics(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    table = [row.split(",") for row in (folder / "metrics.csv").read_text().splitlines()]
    (folder / "metrics.csv").write_text("".join(",".join(row[:14]) + "\n" for row in table))
    assert load_run(folder).metrics["val_ssim"].tolist() == pytest.approx(
        [math.nan] * 10, nan_ok=True
    )
    draw_curves(folder)
    assert not (folder / "latent.png").exists()
