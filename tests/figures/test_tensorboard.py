"""The optional TensorBoard log: what its files hold, after a resume too; its package missing."""

import math
import sys
from pathlib import Path

import numpy as np
import pytest

from modules import runlog
from modules.figures.tensorboard import SCALARS, TensorBoardLog
from modules.options import TrainerOptions
from tests.support.scripts import TINY_RUN, assert_refused, run_script


def read_events(run: Path) -> dict[str, list[tuple[int, float]]]:
    """(epoch, value) of every scalar in a run's event files, as TensorBoard would show them."""
    reason = "the optional package tensorboard is not installed"
    pytest.importorskip("tensorboard", reason=reason)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run), size_guidance={"scalars": 0})
    events.Reload()
    return {
        name: [(each.step, each.value) for each in events.Scalars(name)]
        for name in events.Tags()["scalars"]
    }


def row(epoch: int, value: float) -> dict[str, float]:
    return {**dict.fromkeys(runlog.METRIC_COLUMNS, value), "epoch": epoch}


def test_a_resumed_log_shows_no_epoch_twice(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the optional package tensorboard is not installed")
    o, path = TrainerOptions(tensorboard=True), tmp_path / "metrics.csv"
    log = TensorBoardLog(tmp_path, o)
    for epoch in range(4):
        runlog.append_metrics(path, row(epoch, 1.0))
        log.add(row(epoch, 1.0))
    # Negative control: what the resumed run has to make TensorBoard forget is there.
    assert read_events(tmp_path)["val_psnr"] == [(0, 1.0), (1, 1.0), (2, 1.0), (3, 1.0)]
    runlog.truncate_metrics(path, 1)  # the newest whole checkpoint was that of epoch 1
    log = TensorBoardLog(tmp_path, o)
    log.add(row(2, math.nan))
    events = read_events(tmp_path)
    assert sorted(events) == sorted(SCALARS)
    for values in events.values():
        assert [epoch for epoch, _ in values] == [0, 1, 2]
        assert math.isnan(values[2][1])


def test_a_run_logs_its_metrics(dataset: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the optional package tensorboard is not installed")
    run = tmp_path / "run"
    first = ["Trainer.py", "--DR", dataset, "--save_root", run, "--num_epoch", "1", *TINY_RUN]
    assert run_script(*first).returncode == 0
    assert not list(run.glob("events.*"))  # nobody asked for it
    longer = ["--resume", "--num_epoch", "3", "--tensorboard"]
    done = run_script("Trainer.py", "--save_root", run, *longer)
    assert done.returncode == 0, done.stderr
    events, metrics = read_events(run), runlog.read_metrics(run / "metrics.csv")
    assert sorted(events) == sorted(SCALARS)
    for name, values in events.items():
        assert [epoch for epoch, _ in values] == [0, 1, 2]
        np.testing.assert_allclose([value for _, value in values], metrics[name], rtol=1e-6)


def test_without_the_package(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [n for n in sys.modules if n.split(".")[0] == "tensorboard"]:
        monkeypatch.delitem(sys.modules, name)
    for name in [n for n in sys.modules if n.startswith("torch.utils.tensorboard")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)  # an import of it fails from here on
    run = tmp_path / "run"
    command = ["Trainer.py", "--DR", dataset, "--save_root", run, "--num_epoch", "1", *TINY_RUN]
    result = run_script(*command, "--tensorboard")
    assert_refused(result, "--tensorboard", "pip install tensorboard")
    assert result.stderr.count("\n") == 1
    assert not run.exists()  # refused before anything was begun
    # Negative control: the same run without the option needs no such package.
    assert run_script(*command).returncode == 0
