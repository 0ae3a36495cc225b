"""Only what loses work may end a run: what becomes of the rest, through the command line."""

import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modules import runlog
from modules.checkpoint import load_checkpoint
from modules.figures import beside, curves, drawing, frames
from modules.runtime import files
from modules.runtime.errors import UserError
from tests.support.disks import held
from tests.support.scripts import TINY_RUN, assert_refused, resume, run_script, train

FIGURES = ("curves.png", "latent.png", "psnr_per_frame.csv", "psnr_per_frame.png", "val.gif")


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "WAITS", (0.0, 0.0))
    monkeypatch.setattr(drawing, "WAITS", (0.0,))


def warnings(text: str) -> list[str]:
    """Of files; a tiny run has others, of its results."""
    return [line for line in text.splitlines() if line.startswith("warning: ") and "tried" in line]


@pytest.mark.parametrize("code", [errno.EACCES, errno.ENOSPC, errno.EROFS, errno.EIO])
def test_figures_that_cannot_be_written(dataset: Path, tmp_path: Path, code: int) -> None:
    run = tmp_path / "run"
    with held(*FIGURES, "val_sheet.png", code=code):
        text = train(dataset, run, "--num_epoch", "2", "--store_visualization")
    assert len(warnings(text)) == 1  # for all, and not again after the second epoch
    assert all(str(run / name) in warnings(text)[0] for name in FIGURES)
    assert load_checkpoint(run / "last.ckpt").last_epoch == 1
    names = {path.name for path in run.iterdir()}
    assert not names & set(FIGURES) and not [name for name in names if "tmp" in name]
    assert "not drawn to the end" in text
    assert resume(run).returncode == 0  # nothing to train: the curves are made up for
    assert (run / "curves.png").exists()


def test_a_figure_comes_back_with_the_next_epoch(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(dataset, tmp_path / "sound", "--num_epoch", "2", "--store_visualization")
    with held("val.gif", "psnr_per_frame.csv", times=4) as refused:
        text = train(dataset, tmp_path / "run", "--num_epoch", "2", "--store_visualization")
    assert len(refused) == 4
    assert len(warnings(text)) == 1
    for name in ("val.gif", "psnr_per_frame.csv", "psnr_per_frame.png", "val_sheet.png"):
        one, two = (tmp_path / run / name for run in ("sound", "run"))
        assert one.read_bytes() == two.read_bytes(), name


def raising(error: BaseException) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    return fail


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("usetex"),
        ImportError("no font"),
        RecursionError(),
        KeyError("x"),
    ],
)
def test_drawing_that_crashes(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(curves, "curves_figure", raising(error))
    monkeypatch.setattr(frames, "draw_psnr_per_frame", raising(error))
    text = train(dataset, tmp_path / "run", "--num_epoch", "1")
    assert type(error).__name__ in warnings(text)[0]
    assert (tmp_path / "run/latent.png").exists()  # the others are drawn
    assert load_checkpoint(tmp_path / "run/last.ckpt").last_epoch == 0


def test_a_request_to_end_is_no_failure_of_drawing(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: not everything is swallowed."""
    monkeypatch.setattr(curves, "curves_figure", raising(KeyboardInterrupt()))
    arguments = ("--DR", dataset, "--save_root", tmp_path / "run", *TINY_RUN, "--num_epoch", "1")
    assert run_script("Trainer.py", *arguments).returncode == 130


def test_metrics_that_are_open_elsewhere(dataset: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with held("metrics.csv"):
        text = train(dataset, run, "--num_epoch", "2")
    assert text.count("metrics.csv: cannot be written (Permission denied)") == 1
    assert "--resume writes them" in text
    assert (run / "curves.png").exists()  # drawn with the rows that the file lacks
    result = resume(run, "--num_epoch", "3")
    assert result.returncode == 0, result.stderr
    assert runlog.read_metrics(run / "metrics.csv")["epoch"].tolist() == [0, 1, 2]


def test_config_that_is_open_elsewhere(dataset: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with held("config.json"):
        arguments = ("--DR", dataset, "--save_root", run, *TINY_RUN, "--num_epoch", "1")
        assert_refused(run_script("Trainer.py", *arguments), "config.json")  # of a new run
    train(dataset, tmp_path / "again", "--num_epoch", "1")
    run = tmp_path / "again"
    with held("config.json", times=5):
        result = resume(run, "--num_epoch", "2")
    assert result.returncode == 0, result.stderr
    assert len(warnings(result.stdout)) == 1
    assert runlog.read_config(run)["resumed_at"] == [1]


class TestCheckpoints:
    def test_a_moment_is_waited_for(self, dataset: Path, tmp_path: Path) -> None:
        with held("last.ckpt", times=2) as refused:
            train(dataset, tmp_path / "run", "--num_epoch", "1")
        assert refused == ["last.ckpt"] * 2
        assert load_checkpoint(tmp_path / "run/last.ckpt").last_epoch == 0

    def test_then_the_run_ends_with_the_earlier_one_intact(
        self, dataset: Path, tmp_path: Path
    ) -> None:
        run = tmp_path / "run"
        train(dataset, run, "--num_epoch", "1")
        before = (run / "last.ckpt").read_bytes()
        with held("last.ckpt") as refused:
            assert_refused(resume(run, "--num_epoch", "2"), "last.ckpt: cannot be written")
        assert len(refused) == 3
        assert (run / "last.ckpt").read_bytes() == before
        assert resume(run, "--num_epoch", "2").returncode == 0


def test_space_is_kept_for_the_next_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[int] = []
    artist = drawing.Artist(tmp_path)
    artist.owed["val.gif"] = lambda: drawn.append(1)
    (tmp_path / "last.ckpt").write_bytes(bytes(1000))
    (tmp_path / "val.gif").write_bytes(bytes(100))
    usage = drawing.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(drawing.shutil, "disk_usage", lambda _: usage._replace(free=1099))
    assert "next checkpoint" in artist.draw()["val.gif"]
    assert drawn == []
    monkeypatch.setattr(drawing.shutil, "disk_usage", lambda _: usage._replace(free=1100))
    assert artist.draw() == {}
    assert drawn == [1]


# ---------------------------------------------------------------- drawn beside the training


@pytest.fixture
def always_beside(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Whatever the size of the run; the numbers of the processes that drew."""
    monkeypatch.setattr(beside, "worth_a_process", lambda *_, **__: True)
    monkeypatch.setattr("modules.figures.records.worth_a_process", lambda *_, **__: True)
    numbers: list[int] = []
    start = beside.DrawingProcess.__init__

    def noting(self: beside.DrawingProcess, root: Path) -> None:
        start(self, root)
        numbers.append(self.popen.pid)

    monkeypatch.setattr(beside.DrawingProcess, "__init__", noting)
    return numbers


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_beside_the_training_the_same_files_come_out(
    dataset: Path, tmp_path: Path, always_beside: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("--num_epoch", "2", "--store_visualization")
    text = train(dataset, tmp_path / "beside" / "run", *options)
    assert len(always_beside) == 1
    assert gone(always_beside[0])
    assert warnings(text) == []
    with monkeypatch.context() as patch:
        patch.setattr("modules.figures.records.worth_a_process", lambda *_, **__: False)
        train(dataset, tmp_path / "in_place" / "run", *options)
    assert len(always_beside) == 1  # the control
    one, two = (tmp_path / name / "run" for name in ("beside", "in_place"))
    assert {path.name for path in one.iterdir()} == {path.name for path in two.iterdir()}
    for name in (*FIGURES, "val_sheet.png"):
        assert (one / name).read_bytes() == (two / name).read_bytes(), name


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_a_run_that_is_stopped_has_drawn_its_last_validation(
    dataset: Path, tmp_path: Path, always_beside: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    from modules.training import TrainingStep

    monkeypatch.setattr("modules.figures.records.STOPPING_LIMIT", 120.0)  # of a busy machine
    step = TrainingStep.__call__

    def stopping(self: TrainingStep, *arguments: Any, epoch: int, number: int) -> None:
        if epoch == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        step(self, *arguments, epoch=epoch, number=number)

    run = tmp_path / "run"
    arguments = ("--DR", dataset, "--save_root", run, *TINY_RUN, "--num_epoch", "3")
    with monkeypatch.context() as patch:
        patch.setattr(TrainingStep, "__call__", stopping)
        result = run_script("Trainer.py", *arguments, "--store_visualization")
    assert result.returncode == 143, result.stderr
    assert runlog.read_metrics(run / "metrics.csv")["epoch"].tolist() == [0]
    assert {path.name for path in run.iterdir()} >= {*FIGURES, "val_sheet.png"}
    assert not [path for path in run.iterdir() if "tmp" in path.name]
    assert gone(always_beside[0])
    assert resume(run).returncode == 0


def test_a_process_that_crashes_costs_the_figures_only(
    dataset: Path, tmp_path: Path, always_beside: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(beside, "CODE", "import os; os.kill(os.getpid(), 11)  # {!r}")
    run = tmp_path / "run"
    text = train(dataset, run, "--num_epoch", "3")
    assert always_beside == []
    assert len(warnings(text)) == 1
    assert "SIGSEGV" in warnings(text)[0]
    assert not (run / "curves.png").exists()
    assert runlog.read_metrics(run / "metrics.csv")["epoch"].tolist() == [0, 1, 2]
    assert resume(run).returncode == 0
    assert (run / "curves.png").exists()


def test_a_tensorboard_log_that_cannot_be_written(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Board:
        def __init__(self, *_: Any) -> None:
            """Opened without a fault."""

        def add(self, _row: dict[str, Any]) -> None:
            raise UserError("event file cannot be written") from OSError(28, "No space left")

    monkeypatch.setattr("modules.figures.tensorboard.check_tensorboard", lambda _: None)
    monkeypatch.setattr("modules.figures.records.TensorBoardLog", Board)
    text = train(dataset, tmp_path / "run", "--num_epoch", "2", "--tensorboard")
    assert len(warnings(text)) == 1
    assert "TensorBoard's log" in warnings(text)[0]
    assert load_checkpoint(tmp_path / "run/last.ckpt").last_epoch == 1
