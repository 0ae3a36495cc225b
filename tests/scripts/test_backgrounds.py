"""Labels on black, grey and white: the same data set gives the same numbers and warnings."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import dataloader
from modules import runlog
from modules.evaluation import score
from modules.ink import Ink
from tests.support.data import make_dataset
from tests.support.redrawn import redraw
from tests.support.scripts import assert_refused, done, run_script, train

pytestmark = pytest.mark.usefixtures("no_figures")


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A demo whose training labels come two frames late; not to be changed."""
    root = tmp_path_factory.mktemp("demo") / "demo"
    done("dataloader.py", "demo", root, "--train", "60", "--val", "30", "--test", "1")
    for t in reversed(range(58)):
        shutil.copy(root / f"train/train_label/{t}.png", root / f"train/train_label/{t + 2}.png")
    return root


def findings(root: Path, ink: Ink | None = None) -> tuple[list[float], list[str]]:
    """Scores of a prediction, and words of `check`.

    ink: what is taken for the labels' (None: what they are drawn with)
    """
    size = {"height": 32, "width": 64, "train_vi_len": 4, "val_vi_len": 630}
    train, val = dataloader.load_train_val(root, **size)  # type: ignore[arg-type]
    assert train is not None and val.ink == train.ink
    ink = ink or val.ink
    noise = torch.rand(val.frames.shape, generator=torch.Generator().manual_seed(0))
    ramp = torch.linspace(0.05, 0.2, len(noise))[:, None, None, None]
    made = (val.frames / 255 + ramp * (noise - 0.5)).clamp(0, 1).permute(0, 3, 1, 2)
    made[:, :, :, :32] *= 0.9  # so that it matters where the person is
    result = score(made, val.frames, val.labels, ink)
    scores = [result.mean_inside, result.mean_outside, result.drift, result.mean_flicker]
    checked = done("dataloader.py", "check", root)
    lines = [line for line in checked.splitlines() if line.startswith("warning: ")]
    return scores, [re.sub(r"[-0-9.]+", "#", line) for line in lines]


@pytest.mark.parametrize(("ground", "opacity"), [(255, 0.5625), (128, 0.9)])
def test_the_background_changes_neither_numbers_nor_warnings(
    demo: Path, tmp_path: Path, ground: int, opacity: float
) -> None:
    expected, warned = findings(demo)
    root = redraw(demo, tmp_path / "data", ground, opacity)
    found, also_warned = findings(root)
    assert found == pytest.approx(expected, rel=1e-3)
    assert also_warned == warned and any("labels are # frame(s) late" in line for line in warned)
    # The control: black taken for granted.
    wrong, _ = findings(root, Ink((0, 0, 0), 255))
    assert not np.allclose(wrong, expected, rtol=1e-3, equal_nan=False)


def test_splits_on_different_backgrounds_are_a_fault(tmp_path: Path) -> None:
    root = make_dataset(tmp_path / "data")
    white = redraw(root, tmp_path / "white")
    for split in ("val", "test"):
        shutil.rmtree(root / split)
        shutil.copytree(white / split, root / split)
        assert_refused(
            run_script("dataloader.py", "check", root),
            *(f"{split}/{split}_label", "on white (255, 255, 255)"),
            *("train/train_label", "on black (0, 0, 0)"),
        )


def test_a_checkpoint_keeps_the_ink_of_its_training_labels(tmp_path: Path) -> None:
    """Another background is refused; paler validation labels are scored as in training."""
    root = make_dataset(tmp_path / "data")
    white = redraw(root, tmp_path / "white")
    shutil.rmtree(white / "val")
    shutil.copytree(redraw(root, tmp_path / "pale", opacity=0.2) / "val", white / "val")
    train(white, tmp_path / "run", "--num_epoch", "1")
    path = tmp_path / "run/last.ckpt"
    saved = torch.load(path, weights_only=True)
    assert saved["labels"] == {"background": [255, 255, 255], "contrast": 143}
    given = ("--ckpt_path", path, "--save_root", tmp_path / "out", "--DR")
    words = ("data: labels are drawn on black (0, 0, 0)", "labels on white (255, 255, 255)")
    test = ("Tester.py", "--split", "test")
    for command in (test, ("Trainer.py", "--test"), ("Tester.py", "--split", "val")):
        tested = done(*command, *given, white)
        assert_refused(run_script(*command, *given, root), *words, "train on these first")
    inside = runlog.read_metrics(tmp_path / "run/metrics.csv")["val_psnr_inside"][0]
    assert f"near the skeleton {inside:.2f} dB" in tested
    tuned = done("Trainer.py", *given, root, "--dry_run", "--train_vi_len", "4")
    assert f"note: {root}: labels are drawn on black" in tuned
    del saved["labels"]  # an older checkpoint does not say
    torch.save(saved, path)
    done(*test, *given, root)
