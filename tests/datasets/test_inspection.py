"""What `check` warns of, told from pixels alone; and when it keeps quiet."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import dataloader
from modules.datasets.inspection import Offset, differences, find_copies, find_cuts, label_offset
from modules.datasets.synthetic import make_demo
from modules.ink import Ink
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


SHOTS = [moving(30, 1), 255 - moving(25, 2), moving(3, 3), 255 - moving(20, 4)]
FLASH = moving(30)
FLASH[12] = 250  # a single foreign frame


@pytest.mark.parametrize(
    ("video", "cuts"),
    [
        (np.concatenate(SHOTS), [30, 55, 58]),
        (FLASH, [12, 13]),
        (moving(60, speed=0), []),
        (np.concatenate([moving(30, speed=0), moving(30, speed=5)]), []),
        (moving(1), []),
    ],
)
def test_cuts_are_found_where_they_are(video: np.ndarray, cuts: list[int]) -> None:
    assert find_cuts(differences(video)) == cuts


def test_a_fast_arm_is_no_cut() -> None:
    steps = np.array([0.1, 0.5, 0.7, 1.8, 1.2, 2.1, 1.0, 3.0, 1.3, 1.4, 0.4, 0.6, 0.6, 0.1, 0.6])
    assert find_cuts(steps) == []
    assert find_cuts(np.where(steps == 3.0, 4.5, steps)) == [8]


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


def test_copies() -> None:
    video = moving(60, speed=0.9)
    assert find_copies(np.stack([*video[40:46], video[3], video[7] + 1]), video[:40]) == [(6, 3)]


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


def offset_of(frames: np.ndarray, labels: np.ndarray, *starts: int) -> Offset | None:
    return label_offset(frames, labels, [0, *starts], Ink((0, 0, 0), 255))


@pytest.mark.parametrize("shift", [-3, 0, 1])
def test_the_offset_of_labels(train: tuple[np.ndarray, np.ndarray], shift: int) -> None:
    frames, labels = train
    light = np.random.default_rng(0).normal(0, 4, (len(frames), 1, 1, 1))  # is no movement
    flicker = np.clip(frames + light, 0, 255).astype(np.uint8)
    moved = np.roll(labels, shift, axis=0)  # label t shows frame t - shift
    for seen in (frames, flicker):
        offset = offset_of(seen[4:-4], moved[4:-4])
        assert offset and (offset.frames, "frame(s)" in offset.fault) == (shift, shift != 0)
        assert offset.best > 0.5
        assert not shift or f"label t {'+' if shift > 0 else '-'} {abs(shift)} fits" in offset.fault
    # Steps between recordings do not count, and too few or still frames tell nothing.
    parts = (np.concatenate(np.split(part, 4)[::-1]) for part in train)
    assert offset_of(*parts, 30, 60, 90).frames == 0  # type: ignore[union-attr]
    assert offset_of(frames[:20], labels[:20]) is None
    still = offset_of(np.repeat(frames[:1], 60, axis=0), labels[:60])
    assert still and not still.fault


def test_labels_beside_what_moves(train: tuple[np.ndarray, np.ndarray]) -> None:
    frames, labels = train
    for columns, rows, aside in (
        (8, 0, "-12% of the width and +0%"),
        (0, -8, "+25% of the height"),
    ):
        offset = offset_of(frames, np.roll(labels, (rows, columns), axis=(1, 2)))
        assert offset and offset.fault.startswith("labels lie beside what moves")
        assert aside in offset.fault
    sound = offset_of(frames, labels)
    assert sound and not sound.fault and sound.place == (0, 0)


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
    for path in (root / "val/val_label").iterdir():
        shutil.copy(root / "val/val_img" / path.name, path)
    result = run_script("dataloader.py", "check", root)
    assert "train: the picture jumps" not in result.stdout
    assert "val: 100% of a label is drawn on" in result.stdout


def test_check_keeps_quiet_about_sound_real_data(shared: Path, tmp_path: Path) -> None:
    picture = tmp_path / "real.png"
    result = run_script("dataloader.py", "check", shared / "real_motion", "--picture", picture)
    assert result.returncode == 0
    assert "warning" not in result.stdout and "labels fit frames in time" in result.stdout
    assert "blank labels: 0 of 280" in result.stdout
    assert picture.stat().st_size > 50_000


@pytest.mark.parametrize("name", ["a.jpg", "no/a.png"])
def test_picture_must_be_a_png_in_a_folder(name: str, tmp_path: Path) -> None:
    refused = run_script("dataloader.py", "check", tmp_path, "--picture", tmp_path / name)
    assert_refused(refused, "--picture", "must end in .png, in a folder that exists")


def test_check_tells_late_labels_and_those_of_another_clip(root: Path, tmp_path: Path) -> None:
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
