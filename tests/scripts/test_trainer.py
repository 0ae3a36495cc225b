"""The real scripts through their command lines, tiny."""

import csv
import json
import shutil
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from PIL import Image

from modules import runlog
from modules.cvae import CVAE, ModelConfig
from modules.runtime.device import choose_device
from modules.runtime.errors import UserError
from modules.training import TrainingStep
from tests.support.data import make_dataset
from tests.support.scripts import TINY, TINY_RUN, assert_refused, run_script

# A line as it stands in many a report.
USUAL = (
    *("--batch_size", "1", "--lr", "0.001", "--device", "cuda", "--optim", "Adam", "--gpu", "1"),
    *("--save_root", ".", "--num_epoch", "100", "--train_vi_len", "32"),
    *("--tfr", "1.0", "--tfr_sde", "10", "--tfr_d_step", "0.1", "--kl_anneal_type", "Cyclical"),
    *("--kl_anneal_cycle", "10", "--kl_anneal_ratio", "1", "--auto_save"),
)
CHECKPOINTS = {
    *("best.ckpt", "best_psnr.ckpt", "best_loss.ckpt"),
    *("last.ckpt", "last.prev.ckpt"),
}


def train(dataset: Path, run: Path, *more: str) -> str:
    """A tiny run that must succeed; what it printed."""
    result = run_script("Trainer.py", "--DR", dataset, "--save_root", run, *TINY_RUN, *more)
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def trained(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of three epochs; not to be changed."""
    run = tmp_path_factory.mktemp("runs") / "trained"
    train(dataset, run, "--num_epoch", "3", "--auto_save", "--store_visualization")
    return run


def state(path: Path) -> dict:
    return torch.load(path, weights_only=True)


def same(a: object, b: object) -> bool:
    """Whether two nested structures of plain values and tensors are equal, bit for bit."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


# ---------------------------------------------------------------- Trainer


class TestTrainer:
    def test_files_of_a_run(self, trained: Path) -> None:
        files = {p.name for p in trained.iterdir()}
        assert files >= CHECKPOINTS | {
            *("config.json", "metrics.csv", "curves.png", "psnr_per_frame.csv"),
            *("psnr_per_frame.png", "val.gif"),
        }
        assert not [name for name in files if "tmp" in name or name.startswith("epoch=")]
        config = json.loads((trained / "config.json").read_text())
        assert config["options"]["F_dim"] == 8
        assert {"torch", "numpy", "python"} <= set(config["versions"])

    def test_metrics(self, trained: Path) -> None:
        metrics = runlog.read_metrics(trained / "metrics.csv")
        assert metrics["epoch"].tolist() == [0, 1, 2]
        for name, column in metrics.items():
            assert np.isfinite(column).all(), name
        total = metrics["train_mse"] + metrics["beta"] * metrics["train_kl"]
        np.testing.assert_allclose(metrics["train_loss"], total, rtol=1e-6)
        assert metrics["tf_active"].tolist() == [1, 1, 1]
        frames, psnr = runlog.read_psnr_per_frame(trained / "psnr_per_frame.csv")
        assert frames.tolist() == list(range(1, 10))  # val has 10 frames, the first is given
        assert metrics["val_psnr"][-1] == pytest.approx(psnr.mean(), abs=1e-9)

    def test_it_learns(self, dataset: Path, tmp_path: Path) -> None:
        text = train(dataset, tmp_path / "a", "--num_epoch", "12", "--tfr", "0", "--kl_beta", "0")
        metrics = runlog.read_metrics(tmp_path / "a" / "metrics.csv")
        assert metrics["train_mse"][-1] < 0.5 * metrics["train_mse"][0]
        assert metrics["tf_active"].sum() == 0
        assert (metrics["beta"] == 0).all()
        assert "repeating the first frame" in text
        assert "mean training frame" in text

    @pytest.mark.slow
    def test_real_footage(self, shared: Path, tmp_path: Path) -> None:
        result = run_script(
            *("Trainer.py", "--DR", shared / "real_motion", "--save_root", tmp_path / "a", *TINY),
            *("--num_epoch", "2", "--tfr", "0", "--detach", "--device", "cpu"),
        )
        assert result.returncode == 0, result.stderr
        assert "280 training frames in 4 recording(s), 30 validation frames" in result.stdout
        frames, _ = runlog.read_psnr_per_frame(tmp_path / "a" / "psnr_per_frame.csv")
        assert frames[-1] == 29  # a validation video shorter than 630 is used whole
        tested = run_script("Tester.py", "--ckpt_path", tmp_path / "a" / "last.ckpt")
        assert tested.returncode == 0, tested.stderr
        rows = (tmp_path / "a" / "test" / "submission.csv").read_text().count("\n") - 1
        assert rows == 3 * 30

    def test_one_plain_line_per_epoch(self, dataset: Path, tmp_path: Path) -> None:
        text = train(dataset, tmp_path / "a", "--num_epoch", "3")
        assert sum(line.startswith("epoch ") for line in text.splitlines()) == 3
        assert "\r" not in text

    def test_checkpoint_is_a_superset_of_the_older_one(self, trained: Path) -> None:
        content = state(trained / "last.ckpt")
        assert content["last_epoch"] == 2
        assert content["lr"] == 0.001
        assert content["tfr"] == 1.0
        assert content["optimizer"]["param_groups"]
        CVAE(ModelConfig(8, 4, 4, 8)).load_state_dict(content["state_dict"])

    def test_best_checkpoints_are_of_the_best_epochs(self, trained: Path) -> None:
        metrics = runlog.read_metrics(trained / "metrics.csv")
        assert state(trained / "best_psnr.ckpt")["last_epoch"] == np.argmax(metrics["val_psnr"])
        assert state(trained / "best_loss.ckpt")["last_epoch"] == np.argmin(metrics["val_loss"])

    def test_per_save(self, dataset: Path, tmp_path: Path) -> None:
        train(dataset, tmp_path / "a", "--num_epoch", "5", "--per_save", "2")
        found = {p.name for p in (tmp_path / "a").glob("*.ckpt")}
        assert found == {
            *("epoch=0.ckpt", "epoch=2.ckpt", "epoch=4.ckpt"),
            *("last.ckpt", "last.prev.ckpt"),
        }
        for epoch in (0, 2, 4):
            assert state(tmp_path / "a" / f"epoch={epoch}.ckpt")["last_epoch"] == epoch

    def test_same_seed_same_numbers_whatever_the_workers(
        self, dataset: Path, trained: Path, tmp_path: Path
    ) -> None:
        train(dataset, tmp_path / "a", "--num_epoch", "3", "--num_workers", "1")
        weights = state(trained / "last.ckpt")["state_dict"]
        assert same(state(tmp_path / "a" / "last.ckpt")["state_dict"], weights)
        train(dataset, tmp_path / "b", "--num_epoch", "3", "--seed", "1")
        assert not same(state(tmp_path / "b" / "last.ckpt")["state_dict"], weights)

    @pytest.mark.parametrize(
        "more",
        [
            ("--tfr", "0.5", "--tfr_sde", "1", "--lr_scheduler", "cosine", "--batch_size", "3"),
            ("--detector_patience", "2", "--detector_threshold", "50", "--tfr", "0"),
        ],
        ids=["schedules", "detector"],
    )
    def test_resumed_equals_uninterrupted(
        self, dataset: Path, tmp_path: Path, more: tuple[str, ...]
    ) -> None:
        whole, parts = tmp_path / "whole", tmp_path / "parts"
        more = (*more, "--kl_anneal_cycle", "2", "--auto_save")
        train(dataset, whole, "--num_epoch", "5", *more)
        # The interruption: as if killed after epoch 2, with a later row already in metrics.csv.
        stop_after(dataset, parts, 2, *more)
        result = run_script("Trainer.py", "--save_root", parts, "--resume")
        assert result.returncode == 0, result.stderr
        a, b = state(whole / "last.ckpt"), state(parts / "last.ckpt")
        for key in ("state_dict", "optimizer", "lr", "tfr", "last_epoch", "training"):
            assert same(a[key], b[key]), key
        timing = ("frames_per_second", "seconds")
        one, two = (runlog.read_metrics(r / "metrics.csv") for r in (whole, parts))
        for name in set(one) - set(timing):
            assert one[name].tolist() == two[name].tolist(), name
        assert json.loads((parts / "config.json").read_text())["resumed_at"] == [3]

    def test_resume_can_prolong(self, dataset: Path, trained: Path, tmp_path: Path) -> None:
        run = tmp_path / "longer"
        shutil.copytree(trained, run)
        result = run_script("Trainer.py", "--save_root", run, "--resume", "--num_epoch", "4")
        assert result.returncode == 0, result.stderr
        assert runlog.read_metrics(run / "metrics.csv")["epoch"].tolist() == [0, 1, 2, 3]
        assert state(run / "last.ckpt")["last_epoch"] == 3

    def test_resume_refuses_what_would_be_another_run(
        self, dataset: Path, trained: Path, tmp_path: Path
    ) -> None:
        def resume(run: Path, *more: str | Path):
            return run_script("Trainer.py", "--save_root", run, "--resume", *more)

        assert_refused(resume(trained, "--lr", "0.5"), "--lr 0.001 → 0.5")
        assert_refused(
            resume(trained, "--seed", "3", "--batch_size", "9"), "--seed", "--batch_size"
        )
        assert_refused(resume(tmp_path / "none"), "no run to continue", "last.ckpt")
        other = make_dataset(tmp_path / "other", train=25)
        assert_refused(resume(trained, "--DR", other, "--num_epoch", "4"), "is not what this run")
        assert len(runlog.read_metrics(trained / "metrics.csv")["epoch"]) == 3

    def test_a_folder_with_a_run_is_never_overwritten(self, dataset: Path, trained: Path) -> None:
        before = {p.name: p.read_bytes() for p in trained.iterdir() if p.is_file()}
        result = run_script("Trainer.py", "--DR", dataset, "--save_root", trained, *TINY_RUN)
        assert_refused(result, str(trained), "--resume")
        assert before == {p.name: p.read_bytes() for p in trained.iterdir() if p.is_file()}

    def test_fine_tuning(self, dataset: Path, trained: Path, tmp_path: Path) -> None:
        run = tmp_path / "tuned"
        result = run_script(
            *("Trainer.py", "--ckpt_path", trained / "best.ckpt", "--save_root", run),
            *("--lr", "1e-12", "--num_epoch", "1", "--train_vi_len", "4", "--device", "cpu"),
        )  # dimensions, frame size and data come from the checkpoint
        assert result.returncode == 0, result.stderr
        content = state(run / "last.ckpt")
        assert content["last_epoch"] == 0  # a new run
        before = state(trained / "best.ckpt")["state_dict"]["Generator.7.weight"]
        torch.testing.assert_close(content["state_dict"]["Generator.7.weight"], before)
        parent = json.loads((run / "config.json").read_text())["parent"]
        assert Path(parent["run"]) == trained.resolve()
        assert parent["epoch"] == state(trained / "best.ckpt")["last_epoch"]

        more = ("--save_root", run, "--resume", "--num_epoch", "2")
        assert run_script("Trainer.py", *more).returncode == 0  # a fine-tuned run resumes too
        assert json.loads((run / "config.json").read_text())["parent"] == parent
        done = run_script("Trainer.py", *more)
        assert "nothing to do" in done.stdout

    def test_older_checkpoints_in_both_scripts(self, dataset: Path, tmp_path: Path) -> None:
        config = ModelConfig(F_dim=16, L_dim=6, N_dim=8, D_out_dim=24)
        weights = CVAE(config).state_dict()
        old = {"state_dict": weights, "optimizer": weights, "lr": 1e-3, "tfr": 0.1, "last_epoch": 9}
        path = tmp_path / "old.ckpt"
        torch.save(old, path)
        shared_options = ["--ckpt_path", path, "--DR", dataset, "--device", "cpu"]
        tuned = run_script(
            *("Trainer.py", *shared_options, "--save_root", tmp_path / "tuned"),
            *("--num_epoch", "1", "--train_vi_len", "12"),
        )
        assert tuned.returncode == 0, tuned.stderr
        assert state(tmp_path / "tuned" / "last.ckpt")["config"]["D_out_dim"] == 24
        tested = run_script("Tester.py", *shared_options, "--save_root", tmp_path / "tested")
        assert tested.returncode == 0, tested.stderr
        size = Image.open(tmp_path / "tested/frames/0/0.png").size
        assert size == (64, 32)  # the default for a checkpoint without a frame size
        small = run_script(
            *("Tester.py", *shared_options, "--save_root", tmp_path / "small"),
            *("--frame_H", "16", "--frame_W", "16"),
        )
        assert small.returncode == 0, small.stderr
        assert Image.open(tmp_path / "small/frames/0/3.png").size == (16, 16)

    def test_test_mode_gives_the_run_s_own_number(self, trained: Path, tmp_path: Path) -> None:
        result = run_script(
            *("Trainer.py", "--test", "--ckpt_path", trained / "last.ckpt", "--device", "cpu"),
            *("--save_root", tmp_path / "t"),
        )
        assert result.returncode == 0, result.stderr
        metrics = runlog.read_metrics(trained / "metrics.csv")
        assert f"PSNR {metrics['val_psnr'][-1]:.4f} dB" in result.stdout
        assert {p.name for p in (tmp_path / "t").iterdir()} == {
            "psnr_per_frame.csv",
            "psnr_per_frame.png",
        }

    def test_dry_run_writes_nothing(self, dataset: Path, tmp_path: Path) -> None:
        result = run_script(
            *("Trainer.py", "--DR", dataset, "--save_root", tmp_path / "a", *TINY_RUN, "--dry_run")
        )
        assert result.returncode == 0, result.stderr
        assert "F_dim=8" in result.stdout
        assert "parameters" in result.stdout
        assert list(tmp_path.iterdir()) == []

    def test_fast_train_and_partial(self, dataset: Path, tmp_path: Path) -> None:
        def predicted_frames(*more: str) -> list[int]:
            run = tmp_path / "-".join(more).replace(" ", "")
            train(dataset, run, "--num_epoch", "3", *more)
            metrics = runlog.read_metrics(run / "metrics.csv")
            # frames/s times the training seconds is the number of frames, but seconds include
            # validation, so the number comes from the optimiser's steps instead.
            steps = state(run / "last.ckpt")["optimizer"]["state"][0]["step"].item()
            return [int(steps), len(metrics["epoch"])]

        assert predicted_frames() == [9, 3]  # 24 frames: 6 clips of 4, batches of 2
        fast = ("--fast_train", "--fast_partial", "0.4", "--fast_train_epoch", "2")
        assert predicted_frames(*fast) == [1 + 1 + 3, 3]  # 2 of 6 clips in two epochs
        assert predicted_frames("--partial", "0.5") == [6, 3]  # 3 clips: 2 steps an epoch

    def test_non_finite_sequences_change_nothing_and_are_counted(
        self, dataset: Path, tmp_path: Path
    ) -> None:
        run = tmp_path / "a"
        train(dataset, run, "--num_epoch", "1", "--lr", "1e-3")
        # Weights so large that the loss overflows, but one would train on: nothing may move.
        content = state(run / "last.ckpt")
        content["state_dict"]["Generator.7.weight"].fill_(1e38)
        torch.save(content, tmp_path / "huge.ckpt")
        result = run_script(
            *("Trainer.py", "--ckpt_path", tmp_path / "huge.ckpt", "--save_root", tmp_path / "b"),
            *("--num_epoch", "2", "--train_vi_len", "4", "--device", "cpu", "--auto_save"),
        )
        assert result.returncode == 0, result.stderr
        metrics = runlog.read_metrics(tmp_path / "b" / "metrics.csv")
        assert metrics["skipped"].tolist() == [6, 6]
        assert np.isnan(metrics["train_loss"]).all()
        after = state(tmp_path / "b" / "last.ckpt")["state_dict"]
        assert same(after, content["state_dict"])  # batch-norm statistics included
        assert "12 sequences" in result.stdout or "6 sequences skipped" in result.stdout

    def test_too_many_non_finite_steps_stop_the_run(self, dataset: Path, tmp_path: Path) -> None:
        run = tmp_path / "a"
        train(dataset, run, "--num_epoch", "1")
        content = state(run / "last.ckpt")
        content["state_dict"]["Generator.7.bias"].fill_(float("nan"))
        torch.save(content, tmp_path / "nan.ckpt")
        result = run_script(
            *("Trainer.py", "--ckpt_path", tmp_path / "nan.ckpt", "--save_root", tmp_path / "b"),
            *("--num_epoch", "40", "--train_vi_len", "4", "--device", "cpu", "--auto_save"),
        )
        assert result.returncode == 2
        assert "50 training steps in a row" in result.stderr
        assert "Traceback" not in result.stderr
        files = {p.name for p in (tmp_path / "b").iterdir()}
        assert not files & {"best.ckpt", "best_psnr.ckpt", "best_loss.ckpt"}  # NaN is never best


def stop_after(dataset: Path, run: Path, epoch: int, *more: str) -> None:
    """A run of five epochs that is ended, unsaved, in the second step after `epoch` was saved."""
    whole_step = TrainingStep.run_share

    def step_or_end(self: TrainingStep, *arguments: Any) -> None:
        if state(run / "last.ckpt")["last_epoch"] == epoch and self.read_counts().trained:
            sys.exit(99)
        whole_step(self, *arguments)

    with mock.patch.object(TrainingStep, "run_share", step_or_end):
        arguments = ["--DR", dataset, "--save_root", run, *TINY_RUN, "--num_epoch", "5", *more]
        result = run_script("Trainer.py", *arguments)
    assert result.returncode == 99, result.stderr
    row = (run / "metrics.csv").read_text().splitlines()[-1]
    with (run / "metrics.csv").open("a") as file:
        file.write(f"{epoch + 1}{row[1:]}\n{epoch + 2},0.1,0.")  # a row too many and a half one


# ---------------------------------------------------------------- Tester


@pytest.fixture(scope="module")
def tested(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tested")
    result = run_script(
        *("Tester.py", "--ckpt_path", trained / "best.ckpt", "--save_root", out / "a")
    )
    assert result.returncode == 0, result.stderr
    return out / "a"


class TestTester:
    def test_outputs(self, tested: Path, dataset: Path) -> None:
        assert {p.name for p in tested.iterdir()} == {
            *("frames", "submission.csv", "pred_seq0.gif", "pred_seq1.gif"),
        }
        assert len(list((tested / "frames/0").iterdir())) == 6
        assert len(list((tested / "frames/1").iterdir())) == 9
        for i in (0, 1):
            given = np.asarray(Image.open(dataset / f"test/test_img/{i}/0.png"))
            assert np.array_equal(np.asarray(Image.open(tested / f"frames/{i}/0.png")), given)

    def test_submission_is_the_frames(self, tested: Path) -> None:
        with (tested / "submission.csv").open(newline="") as file:
            header, *rows = csv.reader(file)
        assert header == ["id", *map(str, range(3 * 16 * 16))]
        assert [row[0] for row in rows] == [str(i) for i in range(6 + 9)]
        order = [(i, t) for i, count in ((0, 6), (1, 9)) for t in range(count)]
        for (i, t), row in zip(order, rows, strict=True):
            frame = np.asarray(Image.open(tested / f"frames/{i}/{t}.png"))
            assert [int(v) for v in row[1:]] == frame.transpose(2, 0, 1).ravel().tolist()

    def test_identical_whatever_the_batch_but_not_the_seed(
        self, tested: Path, trained: Path, tmp_path: Path
    ) -> None:
        def submission(*more: str) -> bytes:
            out = tmp_path / "-".join(more)
            result = run_script(
                *("Tester.py", "--ckpt_path", trained / "best.ckpt", "--save_root", out, *more)
            )
            assert result.returncode == 0, result.stderr
            for gif in out.glob("*.gif"):
                if more[0] != "--seed":
                    assert gif.read_bytes() == (tested / gif.name).read_bytes()
            return (out / "submission.csv").read_bytes()

        reference = (tested / "submission.csv").read_bytes()
        assert submission("--batch_size", "1") == reference
        assert submission("--batch_size", "2", "--num_workers", "1") == reference
        assert submission("--seed", "5") != reference

    def test_val_split_agrees_with_the_trainer(self, trained: Path, tmp_path: Path) -> None:
        result = run_script(
            *("Tester.py", "--ckpt_path", trained / "last.ckpt", "--split", "val"),
            *("--save_root", tmp_path),
        )
        assert result.returncode == 0, result.stderr
        frames, psnr = runlog.read_psnr_per_frame(tmp_path / "psnr_per_frame.csv")
        expected = runlog.read_psnr_per_frame(trained / "psnr_per_frame.csv")[1]
        np.testing.assert_array_equal(psnr, expected)
        assert f"PSNR {psnr.mean():.4f} dB" in result.stdout
        assert (tmp_path / "psnr_per_frame.png").exists()
        assert "rounded to integers" in result.stdout
        assert frames[0] == 1

    def test_several_futures(self, trained: Path, tmp_path: Path) -> None:
        def table(*more: str) -> tuple[str, list[list[float]]]:
            out = tmp_path / "-".join(more)
            result = run_script(
                *("Tester.py", "--ckpt_path", trained / "last.ckpt", "--split", "val"),
                *("--save_root", out, *more),
            )
            assert result.returncode == 0, result.stderr
            if not (out / "samples.csv").exists():
                return result.stdout, []
            header, *lines = (out / "samples.csv").read_text().splitlines()
            assert header == "sample,psnr,ssim"
            return result.stdout, [[float(cell) for cell in line.split(",")] for line in lines]

        said, rows = table("--n_samples", "5")
        assert [row[0] for row in rows] == [0, 1, 2, 3, 4]
        scores = np.array([row[1] for row in rows])
        assert f"PSNR {scores[0]:.4f} dB" in said  # the first is the one that is written
        assert len(set(scores)) == 5
        assert (
            f"5 samples, PSNR: best {scores.max():.4f} dB, mean {scores.mean():.4f} dB, "
            f"standard deviation {scores.std(ddof=1):.4f} dB"
        ) in said
        assert table("--n_samples", "5", "--batch_size", "2")[1] == rows
        still = np.array(table("--n_samples", "3", "--latent_scale", "0")[1])
        assert (still[:, 1:] == still[0, 1:]).all()  # the control: the prior's mean, three times
        assert table("--n_samples", "1")[1] == []

    def test_futures_need_a_truth(self, trained: Path) -> None:
        arguments = ("--ckpt_path", trained / "last.ckpt", "--n_samples", "2")
        assert_refused(run_script("Tester.py", *arguments), "--n_samples 2", "--split val")

    def test_model_of_another_kind_comes_from_its_checkpoint(
        self, dataset: Path, tmp_path: Path
    ) -> None:
        run = tmp_path / "run"
        result = run_script(
            *("Trainer.py", "--DR", dataset, "--save_root", run, *TINY_RUN, "--num_epoch", "1"),
            *("--prior", "learned", "--output", "sigmoid", "--auto_save"),
        )
        assert result.returncode == 0, result.stderr
        for split in ("val", "test"):
            result = run_script("Tester.py", "--ckpt_path", run / "best.ckpt", "--split", split)
            assert result.returncode == 0, result.stderr
        psnr = runlog.read_psnr_per_frame(run / "val/psnr_per_frame.csv")[1]
        assert psnr.tolist() == runlog.read_psnr_per_frame(run / "psnr_per_frame.csv")[1].tolist()
        wrong = ("--ckpt_path", run / "best.ckpt", "--prior", "standard", "--DR", dataset)
        assert_refused(run_script("Trainer.py", *wrong), "--prior standard", "learned")

    def test_latent_scale(self, trained: Path, tmp_path: Path) -> None:
        def frame(*more: str) -> bytes:
            out = tmp_path / "-".join(more)
            arguments = ("--ckpt_path", trained / "best.ckpt", "--save_root", out, *more)
            assert run_script("Tester.py", *arguments).returncode == 0
            return (out / "frames/1/5.png").read_bytes()

        mean = frame("--latent_scale", "0")
        assert mean == frame("--latent_scale", "0", "--seed", "9")  # no latent, no seed
        assert mean != frame("--latent_scale", "3")

    def test_default_folder_is_beside_the_checkpoint(self, trained: Path, tmp_path: Path) -> None:
        shutil.copy(trained / "best.ckpt", tmp_path)
        assert run_script("Tester.py", "--ckpt_path", tmp_path / "best.ckpt").returncode == 0
        assert (tmp_path / "test/submission.csv").exists()

    def test_frames_of_a_longer_video_do_not_stay(self, trained: Path, tmp_path: Path) -> None:
        folder = tmp_path / "frames/0"
        folder.mkdir(parents=True)
        for name in ("3.png", "700.png", "mine.png"):
            (folder / name).write_bytes(b"")
        arguments = ("--ckpt_path", trained / "best.ckpt", "--save_root", tmp_path)
        assert run_script("Tester.py", *arguments).returncode == 0
        names = {p.name for p in folder.iterdir()}
        assert "700.png" not in names
        assert "mine.png" in names


# ---------------------------------------------------------------- bad input


class TestBadInput:
    def test_no_cuda(self, dataset: Path, trained: Path, tmp_path: Path) -> None:
        hidden = {"CUDA_VISIBLE_DEVICES": ""}
        result = run_script("Trainer.py", "--DR", dataset, *USUAL, cwd=tmp_path, env=hidden)
        assert_refused(result, "--device cuda", "--device cpu")
        assert len(result.stderr.strip().splitlines()) == 1
        assert list(tmp_path.iterdir()) == []
        result = run_script(
            *("Tester.py", "--ckpt_path", trained / "best.ckpt", "--device", "cuda"), env=hidden
        )
        assert_refused(result, "--device cuda")

    def test_too_many_gpus(self, dataset: Path) -> None:
        result = run_script("Trainer.py", "--DR", dataset, "--gpu", "99", "--device", "cpu")
        assert_refused(result, "--gpu 99")

    def test_gpus_that_are_there(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        assert choose_device("auto", 2) == torch.device("cuda", 0)
        assert choose_device("cpu") == torch.device("cpu")
        with pytest.raises(UserError, match="--gpu 2: needs CUDA; leave out --device cpu"):
            choose_device("cpu", 2)
        with pytest.raises(UserError, match="--gpu 3: there are 2 GPUs here"):
            choose_device("auto", 3)
        # As torchrun starts the third process of a machine with two GPUs.
        monkeypatch.setenv("LOCAL_RANK", "2")
        with pytest.raises(UserError, match="process 2 of this machine has no GPU"):
            choose_device("auto")

    def test_unusable_save_root(self, dataset: Path, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        for root in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/nothing")):
            result = run_script("Trainer.py", "--DR", dataset, "--save_root", root, *TINY_RUN)
            assert_refused(result, str(root))

    def test_data_faults_before_anything_is_made(self, tmp_path: Path) -> None:
        root = make_dataset(tmp_path / "data")
        (root / "train/train_img/7.png").unlink()
        (root / "val/val_label/3.png").write_bytes(b"no image")
        run = tmp_path / "run"
        result = run_script("Trainer.py", "--DR", root, "--save_root", run, *TINY_RUN)
        assert_refused(result, "train_img", "7", "val_label", "3.png")
        result = run_script("Trainer.py", "--DR", tmp_path / "none", "--save_root", run, *TINY_RUN)
        assert_refused(result, str(tmp_path / "none"))

    def test_clip_longer_than_every_recording(self, dataset: Path, tmp_path: Path) -> None:
        arguments = ["--DR", dataset, "--save_root", tmp_path / "a", *TINY, "--train_vi_len", "25"]
        assert_refused(run_script("Trainer.py", *arguments), "--train_vi_len 25", "24")

    def test_checkpoints(self, dataset: Path, trained: Path, tmp_path: Path) -> None:
        missing = tmp_path / "missing.ckpt"
        torn = tmp_path / "torn.ckpt"
        torn.write_bytes((trained / "best.ckpt").read_bytes()[:5000])
        for script in ("Trainer.py", "Tester.py"):
            for path in (missing, torn):
                arguments = ("--ckpt_path", path, "--DR", dataset, "--save_root", tmp_path / "a")
                assert_refused(run_script(script, *arguments), str(path))
        contradicting = run_script(
            *("Trainer.py", "--ckpt_path", trained / "best.ckpt", "--F_dim", "16"),
            *("--save_root", tmp_path / "a"),
        )
        assert_refused(contradicting, "--F_dim 16", "has 8")
        assert_refused(run_script("Tester.py"), "--ckpt_path")

    def test_options_of_both_scripts(self, trained: Path) -> None:
        assert_refused(run_script("Trainer.py"), "--DR", "--preset demo")
        assert_refused(run_script("Trainer.py", "--DR", ".", "--lerning_rate", "1"), "--lerning")
        best = trained / "best.ckpt"
        assert_refused(run_script("Tester.py", "--ckpt_path", best, "--sed", "1"), "--sed")
        assert_refused(
            run_script("Tester.py", "--ckpt_path", best, "--latent_scale", "-1"), "--latent_scale"
        )
