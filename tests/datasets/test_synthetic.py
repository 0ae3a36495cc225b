"""The procedural data set: its files, its repeatability, its figure and its refusals."""

import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from modules.datasets import motion
from modules.datasets.canvas import Camera, Canvas
from modules.datasets.motion import (
    ANGLES,
    EXERCISES,
    JOINTS,
    SIDE_STEP,
    SIDES,
    SKELETON,
    TURN,
    perform,
    smooth_curve,
)
from modules.datasets.synthetic import (
    LIMB_COLOURS,
    LIMBS,
    demo_matches,
    make_demo,
    make_scene,
    render_frames,
    render_labels,
)
from modules.runtime.errors import UserError

SMALL = {"train": 12, "val": 11, "test": 2, "test_length": 3, "height": 16, "width": 32}


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("demo") / "new" / "data"  # "new" does not exist yet
    make_demo(root, **SMALL)
    return root


def contents(root: Path) -> dict[str, bytes]:
    files = (path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


def read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def read_video(folder: Path) -> np.ndarray:
    return np.stack([read(folder / f"{index}.png") for index in range(len(list(folder.iterdir())))])


def pose_of(seed: int, frames: int, camera: Camera) -> motion.Pose:
    return perform(np.random.default_rng([seed, 1, 0]), frames, camera)


# --- Files ------------------------------------------------------------------------------------


def test_layout_and_counts(demo: Path) -> None:
    expected = {f"train/train_{kind}/{i}.png" for kind in ("img", "label") for i in range(12)}
    expected |= {f"val/val_{kind}/{i}.png" for kind in ("img", "label") for i in range(11)}
    expected |= {f"test/test_img/{sequence}/0.png" for sequence in range(2)}
    expected |= {f"test/test_label/{s}/{i}.png" for s in range(2) for i in range(3)}
    assert set(contents(demo)) == expected | {"demo.json"}
    assert [path.name for path in demo.parent.iterdir()] == ["data"]  # no temporary folder stays
    for name in expected:
        with Image.open(demo / name) as picture:
            assert (picture.mode, picture.size) == ("RGB", (32, 16))


def test_same_seed_gives_the_same_bytes_and_another_does_not(demo: Path, tmp_path: Path) -> None:
    make_demo(tmp_path / "again", **SMALL)
    assert contents(tmp_path / "again") == contents(demo)
    make_demo(tmp_path / "other", seed=1, **SMALL)
    other, same = contents(tmp_path / "other"), contents(demo)
    assert other.keys() == same.keys()
    assert all(other[name] != same[name] for name in same)


def test_splits_share_the_room_but_not_the_motion(demo: Path) -> None:
    train, val = read_video(demo / "train/train_img"), read_video(demo / "val/val_img")
    tests = [read_video(demo / f"test/test_img/{sequence}") for sequence in range(2)]
    room = make_scene(0, 16, 32).room
    for video in (train, val, *tests):
        np.testing.assert_array_equal(
            video[:, 0], np.rint(255 * room[0])[None].repeat(len(video), 0)
        )
    labels = [read_video(demo / f"{split}/{split}_label")[:3] for split in ("train", "val")]
    labels += [read_video(demo / f"test/test_label/{sequence}") for sequence in range(2)]
    for one, two in combinations(labels, 2):
        assert not np.array_equal(one, two)


def test_empty_folder_and_no_test_sequences(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    make_demo(tmp_path / "empty", train=2, val=2, test=0, height=8, width=8)
    assert sorted(path.name for path in (tmp_path / "empty").iterdir()) == [
        "demo.json",
        "train",
        "val",
    ]


def test_demo_matches(demo: Path, tmp_path: Path) -> None:
    assert demo_matches(demo, **SMALL)
    assert demo_matches(demo, seed=0, **SMALL)
    assert not demo_matches(demo, seed=1, **SMALL)
    assert not demo_matches(demo)  # the defaults are not SMALL
    assert not demo_matches(tmp_path / "missing", **SMALL)
    with pytest.raises(TypeError):
        demo_matches(demo, hight=16)
    (tmp_path / "demo.json").write_text("{")
    assert not demo_matches(tmp_path, **SMALL)
    description = json.loads((demo / "demo.json").read_text())
    description["format"] += 1
    (tmp_path / "demo.json").write_text(json.dumps(description))
    assert not demo_matches(tmp_path, **SMALL)


# --- Refusals ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("train", 1),
        ("val", 1),
        ("test", -1),
        ("test_length", 1),
        ("seed", -1),
        ("height", 7),
        ("width", 7),
    ],
)
def test_arguments_out_of_range_are_refused(tmp_path: Path, name: str, value: int) -> None:
    with pytest.raises(UserError, match=f"^--{name} must be at least"):
        make_demo(tmp_path / "data", **{**SMALL, name: value})
    assert not list(tmp_path.iterdir())


def test_a_folder_with_files_is_left_alone(tmp_path: Path) -> None:
    root = tmp_path / "data"
    root.mkdir()
    (root / "precious.txt").write_text("mine")
    with pytest.raises(UserError) as caught:
        make_demo(root, **SMALL)
    assert str(caught.value) == f"{root} already exists and is not empty; give another folder"
    assert contents(tmp_path) == {"data/precious.txt": b"mine"}


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*file/data: "):
        make_demo(tmp_path / "file" / "data", **SMALL)


@pytest.mark.parametrize(
    ("fault", "seen"),
    [(OSError(28, "No space left"), UserError), (KeyboardInterrupt(), KeyboardInterrupt)],
)
def test_nothing_is_left_behind_after_a_failure(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fault: BaseException,
    seen: type[BaseException],
) -> None:
    save, saved = Image.Image.save, []

    def failing_save(self: Image.Image, path: Path) -> None:
        if len(saved) == 30:  # in the middle of the validation video
            raise fault
        saved.append(path)
        save(self, path)

    monkeypatch.setattr(Image.Image, "save", failing_save)
    with pytest.raises(seen):
        make_demo(tmp_path / "data", **SMALL)
    assert len(saved) == 30
    assert not list(tmp_path.iterdir())


# --- Motion -----------------------------------------------------------------------------------


def test_limbs_keep_their_lengths() -> None:
    pose = pose_of(0, 400, Camera(32, 64))
    for name, (parent, offset) in list(SKELETON.items())[1:]:
        bones = pose.joints[:, JOINTS[name]] - pose.joints[:, JOINTS[parent]]
        lengths = np.linalg.norm(bones, axis=1)
        np.testing.assert_allclose(lengths, np.linalg.norm(offset), atol=1e-12)
    hands = pose.joints[:, [JOINTS[f"{side}_fingers"] for side in SIDES]]
    assert np.ptp(hands[..., 1], axis=0).min() > 0.5  # but they do move, by half a stature


def test_motion_is_smooth_and_feet_stand_on_the_floor() -> None:
    pose = pose_of(1, 600, Camera(32, 64))
    speed = np.linalg.norm(np.diff(pose.joints, axis=0), axis=2)  # statures per frame
    assert speed.max() < 0.25
    feet = [JOINTS[f"{side}_{part}"] for side in SIDES for part in ("heel", "toe")]
    np.testing.assert_allclose(pose.joints[:, feet, 1].min(axis=1), 0, atol=1e-12)
    lowest = pose.joints[:, feet, 1].argmin(axis=1)[:-1]
    slip = speed[:, feet][np.arange(len(lowest)), lowest]
    assert np.median(slip) < 0.003


@pytest.mark.parametrize("size", [(32, 64), (64, 64), (64, 32), (16, 32)])
def test_joints_stay_inside_the_frame(size: tuple[int, int]) -> None:
    camera = Camera(*size)
    for seed in range(6):
        points = camera.project(pose_of(seed, 600, camera).joints)
        assert points[..., :2].min() > 0
        assert points[..., 0].max() < camera.width
        assert points[..., 1].max() < camera.height
    standing = np.ptp(points[0, :, 1]) / min(size)
    assert 0.75 < standing < 0.85


def test_exercises_name_angles_that_exist() -> None:
    for exercise in [*EXERCISES.values(), TURN, SIDE_STEP]:
        for lead in SIDES:
            curves = motion._parse(exercise, lead)
            assert curves.keys() <= set(ANGLES)
            for keys in curves.values():
                phases = [0, *(phase for phase, _ in keys), 1]
                assert phases == sorted(set(phases))


def test_smooth_curve_meets_its_keys_and_does_not_overshoot() -> None:
    times, values = np.array([0.0, 4, 5, 9]), np.array([0.0, 10, 12, 3])
    np.testing.assert_allclose(smooth_curve(times, values, times), values)
    between = smooth_curve(times, values, np.linspace(-2, 12, 500))
    assert between.min() == 0
    assert between.max() <= 12
    # By hand: slopes 2.5 and 2 give 2·2.5·2/4.5 at t = 4; Hermite's cubic over [0, 4] at its half.
    tangent = 2 * 2.5 * 2 / 4.5
    expected = 0.5 * 10 - 4 * tangent / 8
    np.testing.assert_allclose(smooth_curve(times, values, np.array([2.0])), expected)


# --- Pictures ---------------------------------------------------------------------------------


def test_person_differs_from_the_room_where_the_label_is() -> None:
    scene = make_scene(0, 32, 64)
    pose = pose_of(0, 4, scene.camera)
    for frame, label in zip(
        render_frames(pose, scene), render_labels(pose, scene.camera), strict=True
    ):
        assert frame.shape == label.shape == (32, 64, 3)
        changed = np.abs(frame - 255 * scene.room).max(axis=2) > 20
        assert 0.03 < changed.mean() < 0.3
        assert changed[label.max(axis=2) > 200].mean() > 0.85
        assert (label[0] == 0).all()  # black above the person


def test_limbs_have_their_own_colours_and_show_them() -> None:
    assert len(LIMBS) == len(LIMB_COLOURS) == 17
    assert len({joint for limb in LIMBS for joint in limb}) == 18
    for one, two in combinations(LIMB_COLOURS, 2):
        # Hues are a 17th of the circle apart, 6/17 of a channel's ramp; where the step turns a
        # corner of the colour hexagon, two channels share it.
        assert np.abs(one - two).max() >= 3 / 17 - 1e-9
    camera = Camera(128, 256)
    pose = pose_of(0, 1, camera)
    label = next(render_labels(pose, camera))
    for (a, b), colour in zip(LIMBS, LIMB_COLOURS, strict=True):
        if b.endswith(("eye", "ear")):
            continue  # a few pixels, partly behind the others
        middle = camera.project(pose.joints[0, [JOINTS[a], JOINTS[b]]].mean(axis=0))
        np.testing.assert_allclose(label[int(middle[1]), int(middle[0])], 255 * colour, atol=60)


def test_label_limbs_survive_at_32_by_64() -> None:
    camera = Camera(32, 64)
    label = next(render_labels(pose_of(0, 1, camera), camera)).astype(float).reshape(-1, 3)
    bright = label[label.max(axis=1) > 150] / 255
    for (_, b), colour in zip(LIMBS, LIMB_COLOURS, strict=True):
        if b.endswith(("elbow", "wrist", "knee", "ankle")):
            assert np.abs(bright - colour).max(axis=1).min() < 0.25, b


@pytest.mark.parametrize("order", [1, -1])
def test_the_nearer_surface_hides_the_farther(order: int) -> None:
    camera = Camera(16, 16)
    rods = [
        (np.array([2.0, 8, -5]), np.array([14.0, 8, -5]), 0),
        (np.array([8.0, 2, 5]), np.array([8.0, 14, 5]), 1),
    ]
    canvas = Canvas(np.array([[0, 0], [16, 16]]), 0, camera)
    for a, b, paint in rods[::order]:
        canvas.rod(a, b, 2, 2, paint)
    picture = np.zeros((16, 16, 3))
    canvas.lay_over(picture, np.eye(3), lit=False)
    np.testing.assert_allclose(picture[8, 8], [0, 1, 0])
    np.testing.assert_allclose(picture[8, 3], [1, 0, 0])


def test_a_ball_is_a_circle_lit_from_the_side() -> None:
    camera = Camera(32, 32)
    canvas = Canvas(np.array([[0, 0], [32, 32]]), 0, camera)
    canvas.ball(np.array([16.0, 16, 0]), 10 * np.eye(3), 0)
    picture = np.zeros((32, 32, 3))
    canvas.lay_over(picture, np.ones((1, 3)), lit=True)
    covered = (canvas.paint == 0).sum() / camera.fineness**2
    assert covered == pytest.approx(np.pi * 100, rel=0.01)
    assert canvas.depth.max() == pytest.approx(10, abs=0.1)
    assert picture[16, 8, 0] > 1.5 * picture[16, 24, 0]  # the light comes from the left
