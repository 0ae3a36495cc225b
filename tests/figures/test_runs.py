"""Reading a run back: its files, its best epoch, the runs that it was fine-tuned from."""

import math
from pathlib import Path

import numpy as np
import pytest

from modules.figures.curves import draw_curves
from modules.figures.frames import redraw_frames
from modules.figures.runs import frames_of, lineage, load_run
from modules.runlog import METRIC_COLUMNS, read_psnr_per_frame
from modules.runtime.errors import UserError
from tests.support.drawn import make_run, set_parent

HEADER = ",".join(METRIC_COLUMNS) + "\n"


def test_a_run_is_what_it_wrote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {2: {"val_psnr": 31.5}, 5: {"val_psnr": 33.25}, 6: {"val_psnr": math.nan}}
    folder = make_run(tmp_path / "dance", 8, rows=rows, options={"tfr": 0.5})
    run = load_run(folder)
    assert (run.name, run.options["tfr"]) == ("dance", 0.5)
    assert run.epochs.tolist() == list(range(8))
    assert run.metrics["val_psnr"][[2, 5]].tolist() == [31.5, 33.25]
    assert (run.best(), run.best(within=5), run.best(within=3)) == (5, 2, 2)
    monkeypatch.chdir(folder)
    assert load_run(Path()).name == "dance"
    (folder / "config.json").unlink()
    assert load_run(folder).options == {}
    table, found = read_psnr_per_frame(folder / "psnr_per_frame.csv"), frames_of(folder)
    assert found is not None
    for one, two in zip(table, found, strict=True):
        assert one.tolist() == two.tolist()
    (folder / "psnr_per_frame.csv").unlink()
    assert frames_of(folder) is None


def test_no_epoch_is_best_without_numbers(tmp_path: Path) -> None:
    never = {epoch: {"val_psnr": math.nan} for epoch in range(3)}
    assert load_run(make_run(tmp_path / "nan", 3, rows=never)).best() is None
    infinite = {1: {"val_psnr": math.inf}}
    assert load_run(make_run(tmp_path / "infinite", 3, rows=infinite)).best() != 1
    later = never | {2: {"val_psnr": 20.0}}
    run = load_run(make_run(tmp_path / "later", 3, rows=later))
    assert (run.best(), run.best(within=2)) == (2, None)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "missing"),
        ("", "is empty"),
        ("epoch,val_psnr\n0,20\n", "lacks the columns train_loss, "),
        (HEADER, "has no rows"),
        (HEADER + ",".join(["x"] * len(METRIC_COLUMNS)) + "\n", "not a valid CSV file"),
        (HEADER + "," * (len(METRIC_COLUMNS) - 1) + "1\n", "without an epoch number"),
        (HEADER + "," * (len(METRIC_COLUMNS) - 1) + "\n", "has no rows"),  # a spreadsheet's
        (HEADER + "0.5" + ",1" * (len(METRIC_COLUMNS) - 1) + "\n", "not an integer from 0 on"),
        (HEADER + "-1" + ",1" * (len(METRIC_COLUMNS) - 1) + "\n", "not an integer from 0 on"),
        (b"\xff\xfe\x00binary", ""),
    ],
)
def test_faults_of_metrics_are_named(
    tmp_path: Path, content: str | bytes | None, said: str
) -> None:
    folder = make_run(tmp_path / "run")
    load_run(folder)  # the control
    path = folder / "metrics.csv"
    path.unlink()
    if content is not None:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(UserError, match=rf"metrics\.csv: .*{said}"):
        load_run(folder)


def test_other_files_and_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="none: there is no such folder"):
        load_run(tmp_path / "none")
    folder = make_run(tmp_path / "run")
    for content in ("x\ny\n", "frame,psnr\n1,x\n", "frame,psnr\n"):
        (folder / "psnr_per_frame.csv").write_text(content)
        with pytest.raises(UserError, match=r"psnr_per_frame\.csv: "):
            frames_of(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json"):
        load_run(folder)


def test_lineage_that_cannot_be_followed(tmp_path: Path) -> None:
    a, b = make_run(tmp_path / "a", 4), make_run(tmp_path / "b", 4)
    set_parent(b, tmp_path / "gone", 2)
    assert [part.shift for part in lineage(load_run(b))] == [0]
    set_parent(b, a, -1)  # the parent had not finished an epoch
    assert len(lineage(load_run(b))) == 1
    set_parent(b, None, 2)
    assert len(lineage(load_run(b))) == 1
    set_parent(b, Path("/elsewhere/a"), 2)  # both were moved: found next to it
    assert [part.shift for part in lineage(load_run(b))] == [0, 3]
    set_parent(a, b, 1)
    set_parent(b, a, 2)  # each is the other's parent
    assert [part.run.name for part in lineage(load_run(a))] == ["b", "a"]
    set_parent(a, a, 1)
    assert len(lineage(load_run(a))) == 1


def test_runs_of_earlier_versions_lack_diagnostics(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    table = [row.split(",") for row in (folder / "metrics.csv").read_text().splitlines()]
    for columns, has_latent in ((17, True), (14, False)):
        (folder / "metrics.csv").write_text("".join(f"{','.join(r[:columns])}\n" for r in table))
        metrics = load_run(folder).metrics
        assert np.isnan(metrics["val_psnr_inside"]).all() and len(metrics["val_flicker"]) == 10
        assert np.isnan(metrics["val_ssim"]).all() != has_latent
        draw_curves(folder)
        assert (folder / "latent.png").exists() == has_latent
        (folder / "latent.png").unlink(missing_ok=True)
    (folder / "psnr_per_frame.csv").write_text("frame,psnr\n1,20.5\n2,21.5\n")
    found = frames_of(folder)
    assert found is not None and found.psnr.tolist() == [20.5, 21.5]
    redraw_frames(folder)


def test_findings_come_from_the_run_s_files(tmp_path: Path) -> None:
    falling = {e: {"val_psnr": 26.0 - e, "train_psnr": 22.0 + e} for e in range(10)}
    run = load_run(make_run(tmp_path / "a", rows=falling, options={"auto_save": True}))
    assert [finding.name for finding in run.findings()] == [
        *("falling", "last below baselines", "ends below best"),
    ]
    assert "best.ckpt" in run.findings()[-1].advice
    assert [finding.name for finding in run.findings(latest=True)] == ["ends below best"]
    assert load_run(make_run(tmp_path / "b")).findings() == []
    running = load_run(make_run(tmp_path / "c", rows=falling, options={"num_epoch": 30}))
    assert [finding.name for finding in running.findings()] == ["falling"]
