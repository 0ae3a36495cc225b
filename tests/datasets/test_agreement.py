"""Labels that are early or late, and a camera that moves, are told from pixels alone."""

import shutil
from pathlib import Path

import numpy as np
import pytest

import dataloader
from modules.datasets.agreement import camera_motion, label_offset
from modules.datasets.synthetic import make_demo
from modules.ink import Ink
from tests.support.scripts import run_script

ON_BLACK = Ink((0, 0, 0), 255)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small demo; not to be changed."""
    folder = tmp_path_factory.mktemp("demo") / "demo"
    make_demo(folder, train=120, val=40, test=0)
    return folder


@pytest.fixture(scope="module")
def train(root: Path) -> tuple[np.ndarray, np.ndarray]:
    data, _ = dataloader.load_train_val(root, height=32, width=64, train_vi_len=4, val_vi_len=4)
    assert data is not None
    return data.frames.numpy(), data.labels.numpy()


@pytest.mark.parametrize("shift", [-3, -1, 0, 1, 3])
def test_the_offset_of_labels(train: tuple[np.ndarray, np.ndarray], shift: int) -> None:
    frames, labels = train
    moved = np.roll(labels, shift, axis=0)  # label t shows frame t - shift
    inside = slice(4, -4)
    offset = label_offset(frames[inside], moved[inside], [0], ON_BLACK)
    assert offset is not None
    assert offset.frames == shift
    assert offset.is_certain == (shift != 0)


def test_steps_between_recordings_do_not_count(train: tuple[np.ndarray, np.ndarray]) -> None:
    frames, labels = train
    parts = [(f[30 * i : 30 * i + 30], f) for f in (frames, labels) for i in range(4)]
    joined = [np.concatenate([part[0] for part in parts[k : k + 4][::-1]]) for k in (0, 4)]
    offset = label_offset(joined[0], joined[1], [0, 30, 60, 90], ON_BLACK)
    assert offset is not None and offset.frames == 0


def test_too_little_says_nothing(train: tuple[np.ndarray, np.ndarray]) -> None:
    frames, labels = train
    assert label_offset(frames[:20], labels[:20], [0], ON_BLACK) is None
    still = np.repeat(frames[:1], 60, axis=0)
    offset = label_offset(still, labels[:60], [0], ON_BLACK)
    assert offset is not None and not offset.is_certain
    assert camera_motion(frames[:2], labels[:2], [0], ON_BLACK) is None
    # Labels of quite another movement fit nowhere.
    other = label_offset(frames[:60], labels[60:120][::-1], [0], ON_BLACK)
    assert other is not None and other.best < 0.7


def moved(frames: np.ndarray, path: np.ndarray) -> np.ndarray:
    """The frames as a camera sees them that moves right and down along `path`, pixels (N, 2)."""
    height, width = frames.shape[1:3]
    result = []
    for frame, (right, down) in zip(frames.astype(float), path, strict=True):
        x = np.clip(np.arange(width) + right, 0, width - 1.001)
        y = np.clip(np.arange(height) + down, 0, height - 1.001)
        left, top = x.astype(int), y.astype(int)
        fx, fy = (x - left)[None, :, None], (y - top)[:, None, None]
        rows = frame[top] * (1 - fy) + frame[top + 1] * fy
        result.append(rows[:, left] * (1 - fx) + rows[:, left + 1] * fx)
    return np.rint(result).astype(np.uint8)


def test_a_fixed_camera_and_moving_ones(train: tuple[np.ndarray, np.ndarray]) -> None:
    frames, labels = train
    count = np.arange(len(frames))
    pan = camera_motion(
        moved(frames, np.stack([0.1 * count - 6, 0 * count], 1)), labels, [0], ON_BLACK
    )
    assert pan is not None and not pan.is_fixed
    assert pan.drift * 64 == pytest.approx(0.1 * 119, rel=0.25)
    shake = np.random.default_rng(0).normal(0, 0.3, (len(frames), 2))
    held = camera_motion(moved(frames, shake), labels, [0], ON_BLACK)
    assert held is not None and not held.is_fixed
    # The median distance of two such places: 0.3 · √2 · 1.177.
    assert held.step * 64 == pytest.approx(0.3 * np.sqrt(2) * 1.177, rel=0.3)


def test_brighter_and_darker_frames_are_no_movement(train: tuple[np.ndarray, np.ndarray]) -> None:
    frames, labels = train
    light = np.random.default_rng(0).normal(0, 4, (len(frames), 1, 1, 1))
    flicker = np.clip(frames + light, 0, 255).astype(np.uint8)
    found = camera_motion(flicker, labels, [0], ON_BLACK)
    assert found is not None and found.is_fixed
    offset = label_offset(flicker, labels, [0], ON_BLACK)
    assert offset is not None and offset.frames == 0 and offset.at_zero > 0.5


def test_check_says_it(root: Path, tmp_path: Path) -> None:
    sound = run_script("dataloader.py", "check", root)
    assert "labels fit frames in time" in sound.stdout
    assert "the camera stands still" in sound.stdout
    assert "late" not in sound.stdout and "the camera moves" not in sound.stdout
    late = Path(shutil.copytree(root, tmp_path / "late"))
    folder = late / "train/train_label"
    for number in reversed(range(118)):
        shutil.copy(folder / f"{number}.png", folder / f"{number + 2}.png")
    make_demo(tmp_path / "other", train=2, val=40, test=0, seed=5)
    shutil.rmtree(late / "val/val_label")
    (tmp_path / "other/val/val_label").rename(late / "val/val_label")
    result = run_script("dataloader.py", "check", late)
    assert result.returncode == 0
    assert "warning: train: labels are 2 frame(s) late: label t + 2 fits frame t" in result.stdout
    assert "val: labels and frames do not change in the same places" in result.stdout
