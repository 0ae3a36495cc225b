"""Trainer.py through its command line, tiny."""

import re
import time
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch

from modules import evaluation, runlog
from modules.schedules import teacher_forcing_drawn
from tests.support.comparing import same
from tests.support.scripts import done, resume, train
from tests.support.small_run import at_step

pytestmark = pytest.mark.usefixtures("no_figures")


def state(path: Path) -> dict:
    return torch.load(path, weights_only=True)


def test_files_and_metrics_of_a_run(trained: Path) -> None:
    files = {p.name for p in trained.iterdir()}
    assert files == {
        *("best.ckpt", "best_loss.ckpt", "best_both.ckpt", "last.ckpt", "last.prev.ckpt"),
        *("config.json", "metrics.csv", "curves.png", "latent.png", "regions.png"),
        *("psnr_per_frame.csv", "psnr_per_frame.png", "val.gif", "val_sheet.png"),
        *files & {"warnings.txt"},
    }
    config = runlog.read_config(trained)
    assert config["options"]["F_dim"] == 8
    assert {"torch", "numpy", "python"} <= set(config["versions"])
    metrics = runlog.read_metrics(trained / "metrics.csv")
    assert metrics["epoch"].tolist() == [0, 1, 2]
    for name, column in metrics.items():
        assert np.isfinite(column).all(), name
    total = metrics["train_mse"] + metrics["beta"] * metrics["train_kl"]
    np.testing.assert_allclose(metrics["train_loss"], total, rtol=1e-6)
    assert metrics["tf_active"].tolist() == metrics["tfr"].tolist() == [1, 1, 1]
    assert (metrics["lr"] == 0.001).all()
    # A mean of logarithms is no less than the logarithm of the mean, and clamping helps.
    assert (metrics["train_psnr"] > -10 * np.log10(metrics["train_mse"])).all()
    assert not set(metrics["train_psnr"]) & set(metrics["val_psnr"])
    np.testing.assert_allclose(metrics["sigma"], np.sqrt(metrics["beta"] * 3 * 256 / 2))
    table = runlog.read_psnr_per_frame(trained / "psnr_per_frame.csv")
    assert table.frame.tolist() == list(range(1, 10))  # val has 10 frames, the first is given
    best = metrics["val_psnr"].argmax()
    columns = ("val_psnr", "val_psnr_inside", "val_psnr_outside")
    for name, values in zip(columns, table[1:], strict=True):
        assert metrics[name][best] == pytest.approx(values.mean(), abs=1e-9)


def test_it_learns(dataset: Path, tmp_path: Path) -> None:
    text = train(dataset, tmp_path, "--num_epoch", "12", "--tfr", "0", "--kl_beta", "0")
    metrics = runlog.read_metrics(tmp_path / "metrics.csv")
    assert metrics["train_mse"][-1] < 0.5 * metrics["train_mse"][0]
    assert state(tmp_path / "last.ckpt")["tfr"] == metrics["tfr"][-1] == 0
    assert metrics["tf_active"].sum() == metrics["beta"].sum() == 0
    known = runlog.read_config(tmp_path)["baselines"]
    assert (
        f"; baselines: copy-first-frame {known['first_frame']:.2f} dB, mean-frame "
        f"{known['mean_train_frame']:.2f} dB, nearest-pose {known['nearest_pose']:.2f} dB\n"
    ) in text


def test_lines_checkpoints_and_draws_of_each_epoch(dataset: Path, tmp_path: Path) -> None:
    """Frames per second are those of training: 3 clips of 4 frames, without the validation."""
    whole = evaluation.validate

    def slow(*arguments: Any, **options: Any) -> Any:
        time.sleep(0.6)
        return whole(*arguments, **options)

    typed = ("--num_epoch", "3", "--per_save", "2", "--partial", "0.5", "--seed", "1")
    slow_step = at_step(1, lambda: time.sleep(0.4))
    with mock.patch.object(evaluation, "validate", slow), slow_step:
        text = train(dataset, tmp_path, *typed, "--tfr", "0.5")
    assert sum(line.startswith("epoch ") for line in text.splitlines()) == 3
    assert "\r" not in text  # no progress bars outside a terminal
    named = {"epoch=0.ckpt", "epoch=2.ckpt", "best.ckpt", "last.ckpt", "last.prev.ckpt"}
    assert {p.name for p in tmp_path.glob("*.ckpt")} == named
    for epoch in (0, 2):
        assert state(tmp_path / f"epoch={epoch}.ckpt")["last_epoch"] == epoch
    metrics = runlog.read_metrics(tmp_path / "metrics.csv")
    drawn = [teacher_forcing_drawn(1, epoch, 0.5) for epoch in range(3)]
    assert metrics["tf_active"].tolist() == drawn == [0, 0, 0]  # not whether they might have been
    training = 3 * 3 / metrics["frames_per_second"][0]
    assert training > 0.4
    assert metrics["seconds"][0] > training + 0.6


def test_fine_tuning_takes_what_is_not_typed(dataset: Path, tmp_path: Path) -> None:
    """Data, batch, clip length and schedules from the run; a preset's, and counters, anew."""
    parent, run = tmp_path / "parent", tmp_path / "a"
    own = ("--batch_size", "3", "--tfr", "0.25", "--kl_anneal_type", "None", "--lr", "0.002")
    train(dataset, parent, "--num_epoch", "2", "--val_vi_len", "7", *own, "--seed", "3")
    taken = {"batch_size": 3, "train_vi_len": 4, "val_vi_len": 7, "tfr": 0.25, "lr": 0.002}
    taken |= {"kl_anneal_type": "None", "num_epoch": 2, "seed": 0}  # no setting of these
    preset = {"batch_size": 8, "train_vi_len": 2, "tfr": 0.5, "lr": 0.003, "num_epoch": 10}
    for name, more, others in (
        ("a", ("--lr", "1e-12", "--num_epoch", "1"), {"lr": "1e-12", "num_epoch": 1}),
        ("b", ("--dry_run",), {}),
        ("c", ("--preset", "demo", "--DR", dataset, "--dry_run"), preset),
    ):
        place = ("--ckpt_path", parent / "best.ckpt", "--save_root", tmp_path / name)
        said = done("Trainer.py", *place, *more, "--device", "cpu")
        (line,) = [s for s in said.splitlines() if s.startswith("inherited from its run")]
        assert "val_vi_len=7" in line and ("lr=" in line) == (name == "b"), line
        for option, value in {**taken, **others}.items():
            assert re.search(rf"\b{option}={value}\b", said), (name, option)
    content, before = state(run / "last.ckpt"), state(parent / "best.ckpt")
    assert content["last_epoch"] == 0  # a new run
    name = "Generator.7.weight"
    torch.testing.assert_close(content["state_dict"][name], before["state_dict"][name])
    origin = runlog.read_config(run)["parent"]
    assert (Path(origin["run"]), origin["epoch"]) == (parent.resolve(), before["last_epoch"])
    assert resume(run, "--num_epoch", "2").returncode == 0  # a fine-tuned run resumes too
    assert runlog.read_config(run)["parent"] == origin


def test_validating_gives_one_number_in_both_scripts(dataset: Path, tmp_path: Path) -> None:
    """For the length that the run validated on, and for one that is typed."""
    run = tmp_path / "run"
    train(dataset, run, "--num_epoch", "1", "--val_vi_len", "7", "--ema", "0.9")
    own = runlog.read_metrics(run / "metrics.csv")["val_psnr"][-1]
    found = []
    for frames, more in ((7, ()), (5, ("--val_vi_len", "5"))):
        for name, how in (
            ("a", ("Trainer.py", "--test")),
            ("b", ("Tester.py", "--split", "val", "--batch_size", "5")),
        ):
            out = tmp_path / f"{name}{frames}"
            where = ("--ckpt_path", run / "last.ckpt", "--save_root", out, "--device", "cpu")
            found += re.findall(r"PSNR ([\d.]+) dB, SSIM", done(*how, *where, *more))
            table = runlog.read_psnr_per_frame(out / "psnr_per_frame.csv")
            assert table.frame.tolist() == list(range(1, frames))
    assert found[0] == found[1] == f"{own:.4f}" != found[2] == found[3]
    files = {path.name for path in (tmp_path / "a7").iterdir()}
    assert files == {"psnr_per_frame.csv", "psnr_per_frame.png"}


def test_a_copying_start(dataset: Path, tmp_path: Path) -> None:
    """With Muon, where there is room; the control is a model that is too narrow."""
    options = ("--optim", "Muon", "--num_epoch", "1", "--lr", "1e-9", "--F_dim", "32")
    for width, near in (("48", True), ("16", False)):
        train(dataset, tmp_path / width, *options, "--D_out_dim", width)
        psnr = runlog.read_metrics(tmp_path / width / "metrics.csv")["val_psnr"][0]
        known = runlog.read_config(tmp_path / width)["baselines"]["first_frame"]
        assert (abs(psnr - known) < 1.5) == near


def test_non_finite_sequences_change_nothing_and_are_counted(
    dataset: Path, trained: Path, tmp_path: Path
) -> None:
    # Weights so large that the loss overflows, but one would train on: nothing may move.
    content = state(trained / "last.ckpt")
    content["state_dict"]["Generator.7.weight"].fill_(1e38)
    torch.save(content, tmp_path / "huge.ckpt")
    weights = ("--ckpt_path", str(tmp_path / "huge.ckpt"))
    train(dataset, tmp_path / "b", *weights, "--num_epoch", "2")
    metrics = runlog.read_metrics(tmp_path / "b" / "metrics.csv")
    assert metrics["skipped"].tolist() == [6, 6]
    assert np.isnan(metrics["train_loss"]).all()
    after = state(tmp_path / "b" / "last.ckpt")["state_dict"]
    assert same(after, content["state_dict"])  # batch-norm statistics included
