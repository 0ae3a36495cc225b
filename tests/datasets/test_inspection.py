"""What `check` warns of, told from pixels alone; and when it keeps quiet."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import dataloader
from modules.datasets.inspection import (
    CameraMotion,
    Offset,
    camera_motion,
    differences,
    find_copies,
    find_cuts,
    label_offset,
)
from modules.datasets.synthetic import make_demo
from modules.ink import Ink
from tests.support.data import make_dataset
from tests.support.scripts import assert_refused, run_script

ON_BLACK = Ink((0, 0, 0), 255)


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


# ---------------------------------------------------------------- timing and camera


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


def offset_of(frames: np.ndarray, labels: np.ndarray, *starts: int) -> Offset:
    offset = label_offset(frames, labels, [0, *starts], ON_BLACK)
    assert offset is not None
    return offset


def camera_of(frames: np.ndarray, labels: np.ndarray) -> CameraMotion:
    motion = camera_motion(frames, labels, [0], ON_BLACK)
    assert motion is not None
    return motion


@pytest.mark.parametrize("shift", [-3, -1, 0, 1, 3])
def test_the_offset_of_labels(train: tuple[np.ndarray, np.ndarray], shift: int) -> None:
    frames, labels = train
    moved = np.roll(labels, shift, axis=0)  # label t shows frame t - shift
    offset = offset_of(frames[4:-4], moved[4:-4])
    assert (offset.frames, offset.is_certain) == (shift, shift != 0)


def test_steps_between_recordings_do_not_count(train: tuple[np.ndarray, np.ndarray]) -> None:
    frames, labels = (np.concatenate(np.split(part, 4)[::-1]) for part in train)
    assert offset_of(frames, labels, 30, 60, 90).frames == 0


def test_too_little_says_nothing(train: tuple[np.ndarray, np.ndarray]) -> None:
    frames, labels = train
    assert label_offset(frames[:20], labels[:20], [0], ON_BLACK) is None
    assert camera_motion(frames[:2], labels[:2], [0], ON_BLACK) is None
    assert not offset_of(np.repeat(frames[:1], 60, axis=0), labels[:60]).is_certain
    # Labels of quite another movement fit nowhere.
    assert offset_of(frames[:60], labels[60:120][::-1]).best < 0.7


def moved(frames: np.ndarray, path: np.ndarray) -> np.ndarray:
    """The frames as a camera sees them that moves right and down along `path`, pixels (N, 2)."""
    result = []
    for frame, (right, down) in zip(frames, path + 9, strict=True):
        padded = Image.fromarray(np.pad(frame, ((9, 9), (9, 9), (0, 0)), "edge"))
        box = (right, down, right + 64, down + 32)
        result.append(np.asarray(padded.resize((64, 32), Image.Resampling.BILINEAR, box)))
    return np.stack(result)


def test_a_fixed_camera_and_moving_ones(train: tuple[np.ndarray, np.ndarray]) -> None:
    frames, labels = train
    count = np.arange(len(frames))
    pan = camera_of(moved(frames, np.stack([0.1 * count - 6, 0 * count], 1)), labels)
    assert not pan.is_fixed and pan.drift * 64 == pytest.approx(0.1 * 119, rel=0.25)
    shake = np.random.default_rng(0).normal(0, 0.3, (len(frames), 2))
    held = camera_of(moved(frames, shake), labels)
    # The median distance of two such places: 0.3 · √2 · 1.177.
    assert not held.is_fixed
    assert held.step * 64 == pytest.approx(0.3 * np.sqrt(2) * 1.177, rel=0.3)


def test_brighter_and_darker_frames_are_no_movement(train: tuple[np.ndarray, np.ndarray]) -> None:
    frames, labels = train
    light = np.random.default_rng(0).normal(0, 4, (len(frames), 1, 1, 1))
    flicker = np.clip(frames + light, 0, 255).astype(np.uint8)
    assert camera_of(flicker, labels).is_fixed
    offset = offset_of(flicker, labels)
    assert offset.frames == 0 and offset.at_zero > 0.5


# ---------------------------------------------------------------- the command


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
