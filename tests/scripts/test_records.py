"""What a run writes besides checkpoints, through the command line: when it is drawn, of which
epoch, and that only what loses work may end a run."""

import errno
import math
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modules import evaluation, runlog
from modules.checkpoint import load_checkpoint
from modules.evaluation import Score
from modules.figures import curves, media, records
from tests.support.disks import held
from tests.support.scripts import (
    REPOSITORY,
    TINY_RUN,
    assert_refused,
    done,
    figures_left_empty,
    resume,
    run_script,
    train,
)
from tests.support.small_run import at_step

CURVES = ("curves.png", "latent.png", "regions.png")
BEST = ("psnr_per_frame.png", "val.gif", "val_sheet.png")
FIGURES = {*CURVES, *BEST, "psnr_per_frame.csv"}
pytestmark = pytest.mark.usefixtures("no_waiting")
VISUAL = "--store_visualization"


@pytest.fixture
def drawn() -> Iterator[list[tuple[str, Any]]]:
    """Each figure that would be drawn, with its title or the number of epochs that it shows."""
    with figures_left_empty() as found:
        yield found


def warnings(text: str) -> list[str]:
    """Of files; a tiny run has others, of its results."""
    return [line for line in text.splitlines() if line.startswith("warning: ") and "tried" in line]


def scores(monkeypatch: pytest.MonkeyPatch, *levels: float) -> list[Score]:
    """Let the epochs of a run have such PSNR, one after another; their scores."""
    real, left, found = evaluation.validate, iter(levels), []

    def validate(*given: Any, **more: Any) -> Any:
        result, made = real(*given, **more)
        psnr = result.psnr - result.psnr.mean() + next(left)
        found.append(result._replace(psnr=psnr))
        return found[-1], made

    monkeypatch.setattr(evaluation, "validate", validate)
    return found


# ---------------------------------------------------------------- when, and of which epoch


@pytest.mark.parametrize(
    ("share", "counts"),
    [(0.0, [1, 4]), (math.inf, [1, 2, 3, 4])],  # 0: drawing takes long: the first and the last
)
def test_figures_are_of_the_best_epoch(
    share: float,
    counts: list[int],
    dataset: Path,
    tmp_path: Path,
    drawn: list[tuple[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of a run that is worse at its end."""
    found = scores(monkeypatch, 20.0, 19.0, 27.0, 22.0)
    monkeypatch.setattr(records, "SHARE", share)
    train(dataset, tmp_path, "--num_epoch", "4", VISUAL)
    for name in CURVES:
        assert [shown for each, shown in drawn if each == name] == counts
    for name in BEST:
        titles = [title for each, title in drawn if each == name]
        for title, epoch in zip(titles, (0, 2), strict=True):  # epoch 1 is no better
            average = f", average {found[epoch].mean_psnr:.2f} dB"
            # It computes the average itself.
            own = "" if name == "psnr_per_frame.png" else average
            assert title == f"Best validation, epoch {epoch}{own}"
    shown = runlog.best_frames(runlog.load_run(tmp_path))
    assert shown is not None and shown[1].mean() == pytest.approx(27.0)
    assert load_checkpoint(tmp_path / "best.ckpt").last_epoch == 2
    # Each score is in its column.
    metrics = runlog.read_metrics(tmp_path / "metrics.csv")
    for column, values in (
        ("val_psnr", [20.0, 19.0, 27.0, 22.0]),
        ("val_loss", [result.loss for result in found]),
        ("val_ssim", [result.mean_ssim for result in found]),
        ("val_drift", [result.drift for result in found]),
        ("val_flicker", [result.mean_flicker for result in found]),
    ):
        assert metrics[column].tolist() == pytest.approx(values, nan_ok=True), column


def test_a_run_that_is_stopped_draws_what_is_due(
    dataset: Path, tmp_path: Path, drawn: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop() -> None:
        for name in FIGURES:
            (tmp_path / name).unlink()  # those of the first epoch
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(records, "SHARE", 0.0)
    scores(monkeypatch, 20.0, 21.0)
    typed = ("--DR", dataset, "--save_root", tmp_path, *TINY_RUN, "--num_epoch", "4", VISUAL)
    with at_step(6, stop):  # the first of epoch 2
        result = run_script("Trainer.py", *typed)
    assert result.returncode == 143, result.stderr
    assert runlog.read_metrics(tmp_path / "metrics.csv")["epoch"].tolist() == [0, 1]
    names = {path.name for path in tmp_path.iterdir()}
    assert names >= {*CURVES, *BEST} and not [name for name in names if "tmp" in name]


def test_a_run_in_the_clone_itself_leaves_nothing_that_git_shows(
    dataset: Path, tmp_path: Path, drawn: list[Any]
) -> None:
    def git(*arguments: str) -> str:
        command = ["git", "-C", str(tmp_path), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    git("init", "--quiet")
    (tmp_path / ".gitignore").write_text((REPOSITORY / ".gitignore").read_text())
    train(dataset, tmp_path, "--num_epoch", "1", VISUAL, "--auto_save")
    for split in ("test", "val"):
        done("Tester.py", "--ckpt_path", tmp_path / "best.ckpt", "--split", split)
    done("modules/plots.py", "compare", tmp_path, "--out", tmp_path)
    assert git("status", "--porcelain").splitlines() == ["?? .gitignore"]


def test_warnings_are_kept_and_end_with_what_to_try(
    dataset: Path, tmp_path: Path, drawn: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    scores(monkeypatch, 3.0, 2.0, 101.0)  # a nearest pose has 100 here
    text = train(dataset, tmp_path, "--num_epoch", "2")
    kept = (tmp_path / "warnings.txt").read_text()
    assert kept in text and kept.startswith("warning: even the best epoch (0), 3.00 dB, is below")
    assert kept.splitlines()[-1].startswith("likeliest cause: ")
    assert resume(tmp_path, "--num_epoch", "3").returncode == 0
    assert not (tmp_path / "warnings.txt").exists()  # it came out well


# ---------------------------------------------------------------- what cannot be written


def fail(*_: Any, **__: Any) -> None:
    raise MemoryError("no figure today")


def test_what_cannot_be_drawn_costs_no_frames(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EIO, "no GIF today")

    monkeypatch.setattr(media, "write_gif", refuse)
    where = ("--ckpt_path", trained / "best.ckpt", "--save_root", tmp_path)
    assert_refused(run_script("Tester.py", *where), "no GIF today")
    assert (tmp_path / "submission.csv").exists() and any(tmp_path.glob("frames/0/1.png"))


def test_files_that_cannot_be_written(dataset: Path, tmp_path: Path, drawn: list[Any]) -> None:
    """All of them at all, and some for a while."""
    run, late = tmp_path / "a", tmp_path / "b"
    with held(*FIGURES, "metrics.csv", code=errno.ENOSPC):
        text = train(dataset, run, "--num_epoch", "2", VISUAL)
    for name in (*FIGURES, "metrics.csv"):  # each once, though tried several times
        assert len([line for line in warnings(text) if f"{run / name}: cannot be " in line]) == 1
    assert "the last rows are in last.ckpt" in text
    assert {shown for name, shown in drawn if name in CURVES} == {1, 2}  # rows that the file lacks
    assert load_checkpoint(run / "last.ckpt").last_epoch == 1
    names = {path.name for path in run.iterdir()}
    assert not names & FIGURES and not [name for name in names if "tmp" in name]
    assert resume(run).returncode == 0  # nothing to train: the curves are made up for
    assert (run / "curves.png").exists()
    assert resume(run, "--num_epoch", "3").returncode == 0
    assert runlog.read_metrics(run / "metrics.csv")["epoch"].tolist() == [0, 1, 2]
    with held("val.gif", "curves.png", times=2) as refused:
        text = train(dataset, late, "--num_epoch", "2", VISUAL)
    assert {path.name for path in refused} == {"curves.png", "val.gif"} and len(warnings(text)) == 2
    assert {path.name for path in late.iterdir()} >= FIGURES


def test_drawing_that_crashes_and_a_request_to_end(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(curves.FIGURES, "curves.png", (fail, "epoch"))
    monkeypatch.setattr(curves, "psnr_per_frame_figure", fail)
    text = train(dataset, tmp_path / "a", "--num_epoch", "1")
    assert len(warnings(text)) == 2 and "MemoryError" in warnings(text)[0]
    # The others are written, and the run is whole.
    assert (tmp_path / "a/latent.png").exists() and (tmp_path / "a/metrics.csv").exists()
    assert load_checkpoint(tmp_path / "a/last.ckpt").last_epoch == 0

    def interrupt(*_: Any, **__: Any) -> None:  # the control: not everything is swallowed
        raise KeyboardInterrupt

    monkeypatch.setitem(curves.FIGURES, "curves.png", (interrupt, "epoch"))
    typed = ("--DR", dataset, "--save_root", tmp_path / "b", *TINY_RUN, "--num_epoch", "1")
    assert run_script("Trainer.py", *typed).returncode == 130


def test_config_that_is_open_elsewhere(dataset: Path, tmp_path: Path, drawn: list[Any]) -> None:
    typed = ("--DR", dataset, "--save_root", tmp_path / "run", *TINY_RUN, "--num_epoch", "1")
    with held("config.json"):
        assert_refused(run_script("Trainer.py", *typed), "config.json")
    with held("config.json", times=1) as refused:  # a moment is waited for
        done("Trainer.py", *typed)
    assert len(refused) == 1
