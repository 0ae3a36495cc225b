"""What `check` warns of: jumps, blank labels, frames in two splits; and when it keeps quiet."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from modules.datasets.inspection import (
    differences,
    find_copies,
    find_cuts,
)
from tests.support.data import make_dataset
from tests.support.scripts import assert_refused, run_script


def moving(frames: int, seed: int = 0, speed: float = 1.0) -> np.ndarray:
    """A bright square on a noisy ground, (T, 32, 64, 3)."""
    rng = np.random.default_rng(seed)
    video = np.full((frames, 32, 64, 3), 90, np.uint8)
    video += rng.integers(0, 4, video.shape, dtype=np.uint8)
    for t in range(frames):
        x = int(24 + 20 * np.sin(speed * t / 6))
        video[t, 8:20, x : x + 10] = (230, 180, 60)
    return video


def test_differences_by_hand() -> None:
    video = np.zeros((3, 2, 2, 3), np.uint8)
    video[1] = 255
    video[2] = 255
    video[2, 0, 0, 0] = 243  # 12 of 255 in one of 12 values
    assert differences(video).tolist() == [255, 1]


SHOTS = [moving(30, 1), 255 - moving(25, 2), moving(3, 3), 255 - moving(20, 4)]
FLASH = moving(30)
FLASH[12] = 250  # a single foreign frame


@pytest.mark.parametrize(
    ("video", "cuts"),
    [
        (np.concatenate(SHOTS), [30, 55, 58]),
        (FLASH, [12, 13]),
        (moving(60, speed=0), []),
        (moving(60, speed=5), []),
        (np.concatenate([moving(30, speed=0), moving(30, speed=3)]), []),
        (moving(2), []),
        (moving(1), []),
    ],
)
def test_cuts_are_found_where_they_are(video: np.ndarray, cuts: list[int]) -> None:
    assert find_cuts(differences(video)) == cuts


def test_a_frame_that_is_held_makes_no_cut() -> None:
    """As clips of 10 frames/s at 15, and as a screen recorder writes them."""
    video = moving(60, speed=2)
    shots = np.concatenate([video[:30], 255 - video[30:]])  # the control: a cut
    for pattern in ((1, 2), (1, 1, 11), (1, 15)):
        times = np.resize(pattern, 60)
        assert find_cuts(differences(video.repeat(times, axis=0))) == [], pattern
        assert find_cuts(differences(shots.repeat(times, axis=0))) == [times[:30].sum()], pattern
    stills = np.concatenate([moving(1, seed).repeat(20, axis=0) for seed in range(3)])
    stills[20:40] = 255 - stills[20:40]  # pictures that are each shown for longer than that
    assert find_cuts(differences(stills)) == [20, 40]


def test_cuts_of_the_real_data_are_the_recordings(shared: Path) -> None:
    for name in ("mocap_dance", "real_motion"):
        folder = shared / name / "train"
        files = sorted((folder / "train_img").iterdir(), key=lambda path: int(path.stem))
        video = np.stack([np.asarray(Image.open(path).convert("RGB")) for path in files])
        with (folder / "clips.csv").open() as stream:
            starts = [int(row["start"]) for row in csv.DictReader(stream)]
        assert find_cuts(differences(video)) == starts[1:], name


def test_copies_exact_and_near_but_not_neighbours() -> None:
    video = moving(60, speed=0.9)
    train, val = video[:40], video[40:]
    found = find_copies(val[:6], train)
    assert found.identical == []
    noise = np.random.default_rng(0).integers(0, 3, train[7].shape, dtype=np.uint8)
    found = find_copies(np.stack([*val[:6], train[3], train[7] + noise]), train)
    assert found.identical == [(6, 3)]
    assert (7, 7) in found.near
    assert all(a != 6 for a, _ in found.near)
    assert find_copies(train[:0], train) == ([], [])
    assert find_copies(val, train[:0]) == ([], [])
    # Neighbours in time are a whole step apart.
    wave = 128 + 100 * np.sin(np.arange(64) / 9 + np.arange(15)[:, None] / 3)
    frames = np.tile(wave[:, None, :, None], (1, 32, 1, 3)).astype(np.uint8)
    assert find_copies(frames[8:], frames[:8]) == ([], [])


# ----------------------------------------------------------------------------------------
# The command


def test_check_warns_of_everything_at_once(tmp_path: Path) -> None:
    root = make_dataset(tmp_path / "data", train=40)
    black = Image.new("RGB", (16, 16))
    for t in (3, 9):
        black.save(root / f"train/train_label/{t}.png")
    for t in range(4, 9):
        black.save(root / f"test/test_label/1/{t}.png")
    for t in range(20, 40):  # another place, from frame 20 on
        path = root / f"train/train_img/{t}.png"
        Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    shutil.copy(root / "train/train_img/30.png", root / "val/val_img/2.png")
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}

    result = run_script("dataloader.py", "check", root, "--picture", tmp_path / "data.png")
    assert result.returncode == 0, result.stderr
    warnings = [line for line in result.stdout.splitlines() if line.startswith("warning: ")]
    for words in (
        "train: the picture jumps before frame(s) 20; no row of clips.csv starts there",
        "val: 10 of 10 frames are identical to training frames",
        "test 1: 5 of 9 labels (55.6%) are blank: 4, 5, 6, 7, 8",
        "2 = train 30",
    ):
        assert any(words in line for line in warnings), (words, result.stdout)
    # A person may be out of the picture for a while.
    assert "train  blank labels: 2 of 40" in result.stdout
    assert not any(line.startswith("warning: train: 2 of 40") for line in warnings)
    assert result.stdout.endswith("complete and readable; see the warnings above\n")
    # Vermillion of the jump's caption and mark: what is warned of is also to be seen.
    pixels = np.asarray(Image.open(tmp_path / "data.png").convert("RGB"))
    assert (pixels == (0xD5, 0x5E, 0x00)).all(axis=2).sum() > 50
    assert before == {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}

    (root / "train/clips.csv").write_text("start,stop\n0,20\n20,40\n")
    result = run_script("dataloader.py", "check", root)
    assert "train: the picture jumps" not in result.stdout


def test_check_keeps_quiet_about_sound_real_data(shared: Path, tmp_path: Path) -> None:
    root = shared / "real_motion"
    result = run_script("dataloader.py", "check", root, "--picture", tmp_path / "real.png")
    assert result.returncode == 0
    assert "warning" not in result.stdout
    assert "blank labels: 0 of 280" in result.stdout
    assert (tmp_path / "real.png").stat().st_size > 50_000


def test_picture_of_a_data_set_without_test(tmp_path: Path) -> None:
    root = make_dataset(tmp_path / "data", train=3, val=2, tests=())
    result = run_script("dataloader.py", "check", root, "--picture", tmp_path / "a.png")
    assert result.returncode == 0, result.stderr
    assert Image.open(tmp_path / "a.png").size[0] > 100


@pytest.mark.parametrize(("name", "words"), [("a.jpg", ".png"), ("no/a.png", "no folder")])
def test_picture_must_be_a_png_in_a_folder(name: str, words: str, tmp_path: Path) -> None:
    refused = run_script("dataloader.py", "check", tmp_path, "--picture", tmp_path / name)
    assert_refused(refused, "--picture", words)
