"""The smaller programs: each does what it says, and its control shows that the test can fail."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

import dataloader
from modules.cvae import CVAE, ModelConfig
from modules.datasets.canvas import shrink
from tests.programs import moving_camera
from tests.programs.batch_norm import settled
from tests.programs.enlarged import psnr_enlarged
from tests.support.data import make_dataset, write_images
from tests.support.scripts import assert_refused, done, python, run_script

SIZE = {"height": 32, "width": 64, "train_vi_len": 2, "val_vi_len": 630}

# ---------------------------------------------------------------- campaign.py

CAMPAIGN = ("tests/programs/campaign.py", "--kills", "12")
# A resumed run that forgets what the optimiser knew.
FORGETFUL = """
import sys
from tests.programs import campaign
from modules import checkpoint
checkpoint.load_optimizer_state = lambda *arguments: None
sys.argv[1:] = ["--kills", "5"]
sys.exit(campaign.main())
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "status", "last"),
    [
        (CAMPAIGN, 0, r"12 kills: (\d+) of \1 runs .*"),
        (("-c", FORGETFUL), 1, r"5 kills: 0 of \d runs .*"),
    ],
)
def test_short_campaign(command: tuple[str, ...], status: int, last: str) -> None:
    ended = python(*command, timeout=900)
    assert re.fullmatch(last, ended.stdout.splitlines()[-1]), ended.stdout + ended.stderr
    assert (ended.returncode, ended.stderr) == (status, "")


# ---------------------------------------------------------------- moving_camera.py


def written(root: Path) -> dict[str, bytes]:
    """The files of a tiny data set that the program has written."""
    tiny = ("--train", "9", "--val", "5", "--test_length", "4")
    done("tests/programs/moving_camera.py", root, *tiny)
    return {str(f.relative_to(root)): f.read_bytes() for f in root.rglob("*") if f.is_file()}


def test_the_data_set_is_sound_and_always_the_same(tmp_path: Path) -> None:
    files = written(tmp_path / "new/data")
    checked = done("dataloader.py", "check", tmp_path / "new/data")
    assert "3 recording(s) of 3, 3, 3 frames" in checked
    assert "2 sequence(s) of 4, 4 frames" in checked
    assert files == written(tmp_path / "again")
    assert len(set(files.values())) == len(files)  # each recording has a seed of its own


def mask(take: moving_camera.Take, t: int) -> np.ndarray:
    """Where the person covers most of a pixel, (H, W)."""
    canvas = moving_camera.person_canvas(take, t)
    inside = np.zeros((moving_camera.HEIGHT, moving_camera.WIDTH), bool)
    covered = shrink((canvas.paint >= 0)[..., None].astype(float), canvas.fineness)[..., 0]
    inside[canvas.top : canvas.bottom, canvas.left : canvas.right] = covered > 0.5
    return inside


def test_labels_lie_on_the_person() -> None:
    take = moving_camera.record([0, 1, 0], 60)
    on, off = [], []
    for t, label in list(enumerate(moving_camera.labels(take)))[::6]:
        drawn, person = label.max(axis=2) > 128, mask(take, t)
        on.append(person[drawn].mean())
        off.append(person[np.roll(drawn, 14, axis=1)].mean())
        assert 100 < person.sum() < 400  # of 2,048 pixels
    assert np.mean(on) > 0.85
    assert np.mean(off) < 0.3  # the control: labels 14 columns off


# ---------------------------------------------------------------- leave_out.py, enlarged.py


def test_each_recording_loses_its_end_once(tmp_path: Path) -> None:
    root = make_dataset(tmp_path / "data", train=24)
    (root / "train/clips.csv").write_text("start,stop\n0,10\n10,24\n")
    whole, _ = dataloader.load_train_val(root, **SIZE)
    assert whole is not None
    arguments = ("tests/programs/leave_out.py", root, tmp_path / "out", "--frames", "4")
    done(*arguments)
    for held, (kept, lost, rows) in enumerate(
        (
            ([*range(6), *range(10, 24)], range(6, 10), [(0, 6), (6, 20)]),
            (range(20), range(20, 24), [(0, 10), (10, 20)]),
        )
    ):
        train, val = dataloader.load_train_val(tmp_path / "out" / str(held), **SIZE)
        assert train is not None
        for name in ("frames", "labels"):
            pixels = getattr(whole, name)
            assert torch.equal(getattr(train, name), pixels[list(kept)])
            assert torch.equal(getattr(val, name), pixels[list(lost)])
        assert [(r.start, r.stop) for r in train.recordings] == rows
    assert_refused(run_script(*arguments), "out", "not empty")
    done(*arguments[:2], tmp_path / "alone", "--alone", "--frames", "4")
    train, _ = dataloader.load_train_val(tmp_path / "alone/1", **SIZE)
    assert train is not None and torch.equal(train.frames, whole.frames[10:20])
    arguments = ("tests/programs/leave_out.py", root, tmp_path / "other", "--frames", "9")
    assert_refused(run_script(*arguments), "--frames 9")
    assert not (tmp_path / "other").exists()


def test_psnr_of_enlarged_frames(tmp_path: Path) -> None:
    made = [np.full((4, 4, 3), value, np.uint8) for value in (0, 100, 100)]
    truth = [np.full((16, 16, 3), 110, np.uint8)] * 3
    folders = write_images(tmp_path / "made", made), write_images(tmp_path / "truth", truth)
    expected = 10 * np.log10(255**2 / 10**2)  # the first frame, which is given, does not count
    assert psnr_enlarged(*folders, (8, 8)) == pytest.approx(expected)


# ---------------------------------------------------------------- batch_norm.py


def test_the_same_weights_with_both_kinds_of_statistics() -> None:
    torch.manual_seed(0)
    model, source = (
        CVAE(ModelConfig(F_dim=8, L_dim=4, N_dim=4, D_out_dim=8, frame_H=8, frame_W=8))
        for _ in range(2)
    )
    model.label_transformation.measure(torch.randint(0, 256, (5, 8, 8, 3), dtype=torch.uint8))
    source.label_transformation.norm.running_mean.fill_(7.0)
    kept, exact = (settled(model, source, exact=e) for e in (False, True))
    assert (kept.label_transformation.norm.running_mean == 7.0).all()
    mean, variance = model.label_transformation.statistics()
    assert torch.equal(exact.label_transformation.norm.running_mean, mean)
    assert torch.equal(exact.label_transformation.norm.running_var, variance)
    for weights in (kept, exact):
        assert torch.equal(weights.Generator[7].weight, model.Generator[7].weight)


@pytest.mark.slow
def test_a_line_for_each_data_set_and_epoch(dataset: Path, tmp_path: Path) -> None:
    line = ("tests/programs/batch_norm.py", dataset, "--epochs", "1", "--out", tmp_path / "a.png")
    (text,) = done(*line).splitlines()
    assert text.startswith(f"{dataset.name} epoch 0:")
    assert text.count("exact") == text.count("running") == 2
    assert (tmp_path / "a.png").exists()
