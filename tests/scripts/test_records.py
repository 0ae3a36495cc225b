"""What a run writes besides checkpoints, through the command line: when it is drawn, of which
epoch, and that only what loses work may end a run."""

import errno
import math
import os
import signal
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from modules import runlog
from modules.checkpoint import load_checkpoint
from modules.evaluation import Score
from modules.figures import curves, frames, media, records
from modules.figures.compare import best_frames, compare, summary_rows
from modules.figures.runs import load_run
from modules.runtime import files
from tests.support.disks import held
from tests.support.scripts import REPOSITORY, TINY_RUN, assert_refused, resume, run_script, train
from tests.support.stepping import at_step

FIGURES = (
    *("curves.png", "latent.png", "regions.png"),
    *("psnr_per_frame.csv", "psnr_per_frame.png", "val.gif", "val_sheet.png"),
)
VISUAL = "--store_visualization"


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "WAITS", (0.0, 0.0))


def warnings(text: str) -> list[str]:
    """Of files; a tiny run has others, of its results."""
    return [line for line in text.splitlines() if line.startswith("warning: ") and "tried" in line]


# ---------------------------------------------------------------- when, and of which epoch


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """Each figure that is drawn, with its title or the number of epochs that it shows."""
    found: list[tuple[str, Any]] = []

    def note(name: str, real: Callable[..., Any], *given: Any, **more: Any) -> Any:
        found.append((name, more.get("title") or len(given[0].epochs)))
        return real(*given, **more)

    for module, name in (
        *((curves, "save_curves"), (frames, "draw_psnr_per_frame")),
        *((media, "write_comparison_gif"), (media, "write_sheet")),
    ):
        monkeypatch.setattr(module, name, partial(note, name, getattr(module, name)))
    return found


def scores(monkeypatch: pytest.MonkeyPatch, *levels: float) -> list[Score]:
    """Let the epochs of a run have such PSNR, one after another; their scores."""
    from modules import evaluation

    real, left, found = evaluation.validate, iter(levels), []

    def validate(*given: Any, **more: Any) -> Any:
        result, made = real(*given, **more)
        psnr = result.psnr - result.psnr.mean() + next(left)
        found.append(result._replace(psnr=psnr))
        return found[-1], made

    monkeypatch.setattr(evaluation, "validate", validate)
    return found


def test_figures_are_of_the_best_epoch(
    dataset: Path,
    tmp_path: Path,
    drawn: list[tuple[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of a run that is worse at its end; figures wait where drawing has taken long."""
    run = tmp_path / "run"
    scores(monkeypatch, 20.0, 25.0, 27.0, 26.0, 22.0)
    monkeypatch.setattr(records, "SHARE", 0.0)  # nothing but the first epoch and the end
    train(dataset, run, "--num_epoch", "5", VISUAL)
    assert [shown for name, shown in drawn if name == "save_curves"] == [1] * 3 + [5] * 3
    for name in ("draw_psnr_per_frame", "write_comparison_gif", "write_sheet"):
        titles = [shown for each, shown in drawn if each == name]
        assert len(titles) == 2 and "epoch 0" in titles[0] and "epoch 2" in titles[1], titles
        # One computes its own average.
        assert titles[1].endswith("average 27.00 dB") == (name != "draw_psnr_per_frame")
    # The table of a comparison, its curves and its figure of frames are of one epoch.
    found = load_run(run)
    assert found.best() == 2
    shown = best_frames(found)
    assert shown is not None and shown[1].mean() == pytest.approx(27.0)
    (row,) = summary_rows({"run": found})
    assert (row["average PSNR (dB)"], row["best epoch"]) == (pytest.approx(27.0), 2)
    assert load_checkpoint(run / "best.ckpt").last_epoch == 2


def test_figures_are_drawn_as_long_as_they_take_little_time(
    dataset: Path,
    tmp_path: Path,
    drawn: list[tuple[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = scores(monkeypatch, 20.0, 19.0, 27.0)
    monkeypatch.setattr(records, "SHARE", math.inf)
    train(dataset, tmp_path / "run", "--num_epoch", "3")
    # Each score is in its column.
    metrics = runlog.read_metrics(tmp_path / "run/metrics.csv")
    for name, values in (
        ("val_psnr", [20.0, 19.0, 27.0]),
        ("val_loss", [result.loss for result in found]),
        ("val_ssim", [result.mean_ssim for result in found]),
        ("val_drift", [result.drift for result in found]),
        ("val_flicker", [result.mean_flicker for result in found]),
    ):
        assert metrics[name].tolist() == pytest.approx(values, nan_ok=True), name
    shown = [count for name, count in drawn if name == "save_curves"]
    assert shown == [1] * 3 + [2] * 3 + [3] * 3
    titles = [title for name, title in drawn if name == "draw_psnr_per_frame"]
    assert titles == ["Best validation, epoch 0", "Best validation, epoch 2"]  # not of epoch 1


def test_a_run_that_is_stopped_draws_what_is_due(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"

    def stop() -> None:
        for name in FIGURES[:2]:
            (run / name).unlink()  # those of the first epoch
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(records, "SHARE", 0.0)
    arguments = ("--DR", dataset, "--save_root", run, *TINY_RUN, "--num_epoch", "4")
    with at_step(6, stop):  # the first of epoch 2
        result = run_script("Trainer.py", *arguments, VISUAL)
    assert result.returncode == 143, result.stderr
    assert runlog.read_metrics(run / "metrics.csv")["epoch"].tolist() == [0, 1]
    assert {path.name for path in run.iterdir()} >= set(FIGURES)
    assert not [path for path in run.iterdir() if "tmp" in path.name]


def test_a_run_in_the_clone_itself_leaves_nothing_that_git_shows(
    dataset: Path, tmp_path: Path
) -> None:
    def git(*arguments: str) -> str:
        command = ["git", "-C", str(tmp_path), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    git("init", "--quiet")
    (tmp_path / ".gitignore").write_text((REPOSITORY / ".gitignore").read_text())
    train(dataset, tmp_path, "--num_epoch", "1", VISUAL, "--auto_save")
    for split in ("test", "val"):
        made = run_script("Tester.py", "--ckpt_path", tmp_path / "best.ckpt", "--split", split)
        assert made.returncode == 0, made.stderr
    compare([tmp_path], tmp_path)
    assert git("status", "--porcelain").splitlines() == ["?? .gitignore"]


def test_warnings_are_kept_and_end_with_what_to_try(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores(monkeypatch, 3.0, 2.0, 101.0)  # a nearest pose has 100 here
    text = train(dataset, tmp_path, "--num_epoch", "2")
    kept = (tmp_path / "warnings.txt").read_text()
    assert kept in text and kept.startswith("warning: even the best epoch (0), 3.00 dB, is below")
    assert kept.splitlines()[-1].startswith("likeliest cause: ")
    assert resume(tmp_path, "--num_epoch", "3").returncode == 0
    assert not (tmp_path / "warnings.txt").exists()  # it came out well


def test_what_cannot_be_drawn_costs_no_frames(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError(errno.EIO, "no GIF today")

    train(dataset, tmp_path, "--num_epoch", "1")
    monkeypatch.setattr(media, "write_gif", fail)
    assert_refused(run_script("Tester.py", "--ckpt_path", tmp_path / "best.ckpt"), "no GIF today")
    assert (tmp_path / "test/submission.csv").exists() and any(tmp_path.glob("test/frames/0/1.png"))


# ---------------------------------------------------------------- what cannot be written


def test_figures_that_cannot_be_written(dataset: Path, tmp_path: Path) -> None:
    """At all, and for a while."""
    run, sound, late = (tmp_path / name / "run" for name in ("a", "b", "c"))  # as figures say
    with held(*FIGURES, code=errno.ENOSPC):
        text = train(dataset, run, "--num_epoch", "2", VISUAL)
    for name in FIGURES:  # each once, though tried several times
        assert len([line for line in warnings(text) if f"{run / name}: " in line]) == 1
    assert load_checkpoint(run / "last.ckpt").last_epoch == 1
    names = {path.name for path in run.iterdir()}
    assert not names & set(FIGURES) and not [name for name in names if "tmp" in name]
    assert resume(run).returncode == 0  # nothing to train: the curves are made up for
    assert (run / "curves.png").exists()
    train(dataset, sound, "--num_epoch", "2", VISUAL)
    with held("val.gif", "curves.png", times=2) as refused:
        text = train(dataset, late, "--num_epoch", "2", VISUAL)
    assert sorted(refused) == ["curves.png", "val.gif"] and len(warnings(text)) == 2
    for name in FIGURES:
        assert (sound / name).read_bytes() == (late / name).read_bytes(), name


def test_drawing_that_crashes(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise MemoryError

    monkeypatch.setitem(curves.FIGURES, "curves.png", (fail, "epoch"))
    monkeypatch.setattr(frames, "psnr_per_frame_figure", fail)
    text = train(dataset, tmp_path / "run", "--num_epoch", "1")
    assert len(warnings(text)) == 2 and "MemoryError" in warnings(text)[0]
    # The others are written, and the run is whole.
    assert (tmp_path / "run/latent.png").exists() and (tmp_path / "run/metrics.csv").exists()
    assert load_checkpoint(tmp_path / "run/last.ckpt").last_epoch == 0


def test_a_request_to_end_is_no_failure_of_drawing(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: not everything is swallowed."""

    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setitem(curves.FIGURES, "curves.png", (interrupt, "epoch"))
    arguments = ("--DR", dataset, "--save_root", tmp_path / "run", *TINY_RUN, "--num_epoch", "1")
    assert run_script("Trainer.py", *arguments).returncode == 130


def test_metrics_that_are_open_elsewhere(dataset: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with held("metrics.csv"):
        text = train(dataset, run, "--num_epoch", "2")
    assert len([line for line in warnings(text) if "metrics.csv: cannot be written" in line]) == 1
    assert "the last rows are in last.ckpt" in text
    assert (run / "curves.png").exists()  # drawn with the rows that the file lacks
    result = resume(run, "--num_epoch", "3")
    assert result.returncode == 0, result.stderr
    assert runlog.read_metrics(run / "metrics.csv")["epoch"].tolist() == [0, 1, 2]


def test_config_that_is_open_elsewhere(dataset: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    arguments = ("--DR", dataset, "--save_root", run, *TINY_RUN, "--num_epoch", "1")
    with held("config.json"):
        assert_refused(run_script("Trainer.py", *arguments), "config.json")
    with held("config.json", times=1) as refused:  # a moment is waited for
        result = run_script("Trainer.py", *arguments)
    assert result.returncode == 0, result.stderr
    assert refused == ["config.json"]
