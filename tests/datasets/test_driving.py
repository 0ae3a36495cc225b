"""Another person's motion: proportions, place and floor line become the trained person's."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import dataloader
from modules.datasets.person import (
    floor_line,
    frames_per_second,
    measure,
    retarget,
    without_the_person,
)
from modules.datasets.pose import JOINTS, LIMBS
from modules.ink import find_ink
from modules.runtime.errors import UserError
from tests.support.clips import BODY_POINTS, draw, make_folder, write_openpose
from tests.support.redrawn import redraw
from tests.support.scripts import TINY_RUN, assert_refused, run_script

FPS = 15.0
T = 90
ANKLES = [JOINTS.index("right_ankle"), JOINTS.index("left_ankle")]


def body(size: float, x: np.ndarray, floor: np.ndarray, arms: float = 1.0) -> np.ndarray:
    """A person (T, 18, 2) of `size` times BODY_POINTS, its feet on `floor`, arms made longer."""
    points = BODY_POINTS.copy()
    for side in ("left", "right"):
        shoulder = points[JOINTS.index(f"{side}_shoulder")].copy()
        for joint in ("elbow", "wrist"):
            index = JOINTS.index(f"{side}_{joint}")
            points[index] = shoulder + arms * (points[index] - shoulder)
    points = points - [0, BODY_POINTS[ANKLES, 1].max()]
    return size * points[None] + np.stack([x, floor], axis=1)[:, None]


def lengths(points: np.ndarray) -> np.ndarray:
    a, b = np.array(LIMBS).T
    return np.hypot(*np.moveaxis(points[:, b] - points[:, a], -1, 0))


def still(value: float) -> np.ndarray:
    return np.full(T, value)


EVERY = np.ones((T, 18), bool)


def test_the_target_s_body_makes_the_motion() -> None:
    t = np.arange(T)
    own = body(2.0, 300 + 40 * np.sin(t / 7), still(400))
    other = body(5.0, 700 + 60 * np.sin(t / 9), still(900), arms=1.5)
    source, target = measure(own, EVERY, FPS), measure(other, EVERY, FPS)
    assert source.stature == pytest.approx(lengths(own)[0][[6, 7, 8]].sum())
    made, known = retarget(own, EVERY, source, target, FPS)
    assert known.all()
    np.testing.assert_allclose(lengths(made), lengths(other), rtol=1e-6)  # arms too
    np.testing.assert_allclose(made[:, ANKLES, 1].max(axis=1), 900, atol=1e-6)  # on its floor line
    neck = made[:, 1, 0]
    assert neck.min() >= target.left - 1e-6 and neck.max() <= target.right + 1e-6
    assert np.corrcoef(neck, own[:, 1, 0])[0, 1] > 0.98  # it walks as the source does


def test_a_jump_stays_a_jump() -> None:
    jump = np.zeros(T)
    jump[40:46] = [10, 18, 22, 22, 18, 10]
    own = body(2.0, still(300), 400 - jump)
    target = measure(body(4.0, still(500), still(800)), EVERY, FPS)
    source = measure(body(2.0, still(300), still(400)), EVERY, FPS)
    made, _ = retarget(own, EVERY, source, target, FPS)
    lifted = 800 - made[:, ANKLES, 1].max(axis=1)
    np.testing.assert_allclose(lifted, 2 * jump, atol=1.0)
    np.testing.assert_allclose(floor_line(own, EVERY, FPS), 400, atol=1.0)


def test_nearer_is_larger_in_the_target_s_range() -> None:
    """Far to near is mapped from the source's range of floor lines to the target's (Chan et al.)"""
    near, slow = np.linspace(0, 1, T), 3.0  # half a minute for the walk
    own = np.stack([body(1 + n, still(300), still(300 + 100 * n))[0] for n in near])
    other = np.stack([body(3 + n, still(500), still(600 + 40 * n))[0] for n in near])
    source, target = measure(own, EVERY, slow), measure(other, EVERY, slow)
    made, _ = retarget(own, EVERY, source, target, slow)
    ground = made[:, ANKLES, 1].max(axis=1)
    assert ground[:9].mean() == pytest.approx(602, abs=6)
    assert ground[-9:].mean() == pytest.approx(638, abs=6)
    size = lengths(made)[:, 6:9].sum(axis=1)
    grown = size[-1] / size[0]
    assert grown == pytest.approx(4 / 3, rel=0.2)  # the source itself doubles


def test_unknown_joints_stay_unknown() -> None:
    own = body(2.0, still(300), still(400))
    known = EVERY.copy()
    known[10:20, JOINTS.index("left_elbow")] = False
    target = measure(body(4.0, still(500), still(800)), EVERY, FPS)
    made, have = retarget(own, known, measure(own, known, FPS), target, FPS)
    gone = [JOINTS.index("left_elbow"), JOINTS.index("left_wrist")]  # and what hangs on it
    assert not have[10:20, gone].any() and (made[10:20, gone] == 0).all()
    assert have.sum() == known.sum() - 10
    no_feet = EVERY.copy()
    no_feet[:, ANKLES] = False
    with pytest.raises(UserError, match="legs are never seen"):
        measure(own, no_feet, FPS)


@pytest.fixture(scope="module")
def trained_on(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of a small clip; not to be changed."""
    folder = tmp_path_factory.mktemp("like")
    clip, labels = make_folder(folder / "dance"), write_openpose(folder / "openpose")
    command = ("dataloader.py", "video", clip, "--labels", labels, "--out", folder / "data")
    result = run_script(*command, "--smooth", "0")
    assert result.returncode == 0, result.stderr
    train = "train: python Trainer.py --preset video --DR "
    assert result.stdout.splitlines()[-1].startswith(train)
    return folder / "data"


@pytest.fixture
def other(tmp_path: Path) -> tuple[Path, Path]:
    """A clip of somebody twice as large in a picture twice as large, and its labels."""

    clip = make_folder(tmp_path / "other", 30, lambda t: draw(t).repeat(2, 0).repeat(2, 1))
    return clip, write_openpose(tmp_path / "labels", 30, scale=2)


def test_another_clip_drives_the_trained_person(
    trained_on: Path, other: tuple[Path, Path], tmp_path: Path
) -> None:
    clip, labels = other
    out = tmp_path / "driven"
    options = ["--labels_only", "--like", trained_on, "--labels", labels, "--smooth", "0"]
    result = run_script("dataloader.py", "video", clip, "--out", out, *options)
    assert result.returncode == 0, result.stderr
    assert "30 frames → test sequence 0" in result.stdout
    assert result.stdout.splitlines()[-1].startswith(
        "render: python Tester.py --ckpt_path runs/data"
    )
    (sequence,) = dataloader.load_test(out, height=32, width=64)
    assert len(sequence.labels) == 30
    # The same motion by a body of the same proportions: the labels of the trained person itself.
    train, _ = dataloader.load_train_val(
        trained_on, height=32, width=64, train_vi_len=4, val_vi_len=9
    )
    assert train is not None
    apart = [
        (sequence.labels[t].int() - train.labels[t].int()).abs().float().mean() for t in (0, 9, 20)
    ]
    assert max(apart) < 4
    assert (sequence.first_frame == train.frames[0]).all()  # of the nearest pose
    assert (sequence.labels[0] == train.labels[0]).all()  # its own label, to the pixel
    # The background behind the first frame's person is the room, and its label says so.
    assert sequence.reference is not None
    empty, blank = (x.numpy().astype(int) for x in sequence.reference)
    assert sequence.first_frame[..., 0].max() >= 95 > 66 > empty.max() and not blank.any()
    assert frames_per_second(out) == frames_per_second(trained_on) == 15
    again = run_script("dataloader.py", "video", clip, "--out", out, *options)
    assert "already finished" in again.stdout

    run = tmp_path / "run"
    made = run_script("Trainer.py", "--DR", trained_on, "--save_root", run, *TINY_RUN, "--num_epoch", "1")  # fmt: skip # noqa: E501
    assert made.returncode == 0, made.stderr
    tested = run_script(
        "Tester.py", "--ckpt_path", run / "last.ckpt", "--DR", out, "--save_root", tmp_path / "t"
    )
    assert tested.returncode == 0, tested.stderr
    assert len(list((tmp_path / "t/frames/0").iterdir())) == 30


def test_driven_labels_are_drawn_as_the_training_labels_are(
    trained_on: Path, other: tuple[Path, Path], tmp_path: Path
) -> None:
    clip, labels = other
    made = []
    for like in (trained_on, redraw(trained_on, tmp_path / "white")):
        out = like.with_name(f"{like.name}_other")  # where it goes by default
        options = ["--labels_only", "--like", like, "--labels", labels, "--smooth", "0"]
        result = run_script("dataloader.py", "video", clip, *options)
        assert result.returncode == 0, result.stderr
        (sequence,) = dataloader.load_test(out, height=32, width=64)
        made.append((out, sequence.labels.numpy()))
    (plain, on_black), (_, on_white) = made
    assert sequence.reference is not None and (sequence.reference[1] == 255).all()
    # The same as another drawing of the same data set, but for the rounding of its black pixels.
    expected = dataloader.load_test(redraw(plain, tmp_path / "expected"), height=32, width=64)
    difference = np.abs(on_white.astype(int) - expected[0].labels.numpy())
    whole = on_black.max(axis=-1) == 255  # a mixture of two limbs covers a pixel whole as well
    assert difference[whole].max() <= 2 and difference.mean() < 0.3


def test_the_room_behind_a_person_comes_from_frames_without_him() -> None:
    rng = np.random.default_rng(0)
    room = rng.integers(60, 90, (20, 40, 3)).astype(np.uint8)
    frames, labels = np.tile(room, (12, 1, 1, 1)), np.zeros((12, 20, 40, 3), np.uint8)
    for t in range(12):  # most of the time in one place
        x = 20 if t < 9 else 6
        frames[t, 4:16, x - 2 : x + 3], labels[t, 6:14, x] = 250, (255, 0, 0)
    ink = find_ink(labels)
    empty = without_the_person(frames, labels, ink, frames[0], labels[0])
    assert (empty == room).all()
    always = without_the_person(frames[:9], labels[:9], ink, frames[0], labels[0])
    assert (always[5:15, 20] == 250).all()  # nothing else is known


def test_motion_under_a_second_is_left_out(
    trained_on: Path, other: tuple[Path, Path], tmp_path: Path
) -> None:
    clip, _ = other
    command = ["dataloader.py", "video", clip, "--out", tmp_path / "a", "--labels_only"]
    command += ["--like", trained_on, "--max_gap", "0", "--labels"]
    missing = [0, 1, 2, *range(10, 20)]  # seven frames are left before the second half
    few = write_openpose(tmp_path / "few", 30, missing, scale=2)
    assert_refused(run_script(*command, few), "nobody was found in it for a second")
    more = write_openpose(tmp_path / "more", 30, missing[:-1], scale=2)
    result = run_script(*command, more, "--source_fps", "10")
    assert "left out: 1 piece(s) of motion" in result.stdout
    assert len(list((tmp_path / "a/test/test_label/0").iterdir())) == 11


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--labels_only"], "--labels_only needs --like ROOT"),
        (["--like", "LIKE", "--out", "o"], "needs --labels_only"),
        ([], "--out is missing"),
        (["--labels_only", "--like", "nowhere"], "(not in its import.json)"),
        (["--labels_only", "--like", "LIKE", "--size", "32x32"], "--size has no effect with"),
    ],
)
def test_mistakes(
    trained_on: Path, other: tuple[Path, Path], options: list[str], words: str, tmp_path: Path
) -> None:
    clip, labels = other
    typed = [str(trained_on) if word == "LIKE" else word for word in options]
    result = run_script("dataloader.py", "video", clip, "--labels", labels, *typed, cwd=tmp_path)
    assert_refused(result, words)
    assert result.stderr.count("\n") == 1
    assert not list(tmp_path.glob("o"))


def test_without_joints_there_is_no_build(other: tuple[Path, Path], tmp_path: Path) -> None:
    clip, joints = other
    labels, data = shutil.copytree(clip, tmp_path / "skeletons"), tmp_path / "data"
    options = ["--out", data]
    assert run_script("dataloader.py", "video", clip, "--labels", labels, *options).returncode == 0
    command = ["dataloader.py", "video", clip, "--labels_only", "--like", data]
    assert_refused(run_script(*command, "--labels", joints), "with joints of legs and feet")
    assert Image.open(data / "train/train_img/0.png").size == (128, 64)
