"""The procedural data set: its files, its repeatability, its figure's motion, its refusals."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from modules.datasets.canvas import Camera, Canvas
from modules.datasets.motion import JOINTS, SIDES, SKELETON, Pose, perform, smooth_curve
from modules.datasets.synthetic import (
    LIMB_COLOURS,
    LIMBS,
    demo_data,
    make_demo,
    make_scene,
    render_frames,
    render_labels,
)
from modules.runtime.errors import UserError
from tests.support.scripts import run_script

SMALL = {"train": 12, "val": 11, "test": 2, "test_length": 3, "height": 16, "width": 32}


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("demo") / "new" / "data"  # "new" does not exist yet
    options = [word for name, value in SMALL.items() for word in (f"--{name}", str(value))]
    options = [{"--height": "--frame_H", "--width": "--frame_W"}.get(o, o) for o in options]
    result = run_script("dataloader.py", "demo", root, *options)
    assert (result.returncode, result.stdout.count("\n")) == (0, 1)
    return root


def contents(root: Path) -> dict[str, bytes]:
    files = (path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


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
    (tmp_path / "again").mkdir()  # an empty folder will do
    make_demo(tmp_path / "again", **SMALL)
    assert contents(tmp_path / "again") == contents(demo)
    make_demo(tmp_path / "other", seed=1, **SMALL)
    other, same = contents(tmp_path / "other"), contents(demo)
    assert other.keys() == same.keys()
    assert all(other[name] != same[name] for name in same)


def test_splits_share_the_room_but_not_the_motion(demo: Path) -> None:
    names = ("train/train_{}", "val/val_{}", "test/test_{}/0", "test/test_{}/1")
    top = np.rint(255 * make_scene(0, 16, 32).room[0])
    for name in names:
        assert (np.asarray(Image.open(demo / name.format("img") / "0.png"))[0] == top).all()
    assert len({(demo / name.format("label") / "2.png").read_bytes() for name in names}) == 4


def test_other_files_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/precious.txt").write_text("mine")
    with pytest.raises(UserError, match="already exists and is not empty; give another folder"):
        make_demo(tmp_path / "data", **SMALL)
    with pytest.raises(UserError, match=r"cannot write .*precious.txt/data: "):
        make_demo(tmp_path / "data/precious.txt/data", **SMALL)
    assert contents(tmp_path) == {"data/precious.txt": b"mine"}


@pytest.mark.parametrize("fault", [OSError(28, "No space left"), KeyboardInterrupt()])
def test_nothing_is_left_behind_after_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: BaseException
) -> None:
    save, saved = Image.Image.save, []

    def failing_save(self: Image.Image, path: Path) -> None:
        if len(saved) == 30:  # in the middle of the validation video
            raise fault
        saved.append(path)
        save(self, path)

    monkeypatch.setattr(Image.Image, "save", failing_save)
    with pytest.raises(UserError if isinstance(fault, OSError) else KeyboardInterrupt):
        make_demo(tmp_path / "data", **SMALL)
    assert len(saved) == 30
    assert not list(tmp_path.iterdir())


SIZE = {"height": 16, "width": 16}


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """By default a few frames in the place of thousands."""
    small = {**SMALL, "seed": 0, "height": 32, "width": 64}
    monkeypatch.setattr(make_demo, "__kwdefaults__", small)


@pytest.mark.usefixtures("few")
def test_preset_data_are_made_once_and_then_used_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "demo"
    for _ in range(2):
        with demo_data(root, **SIZE, keep=True) as found:
            assert found == root
            assert (root / "train/train_img/0.png").exists()
    assert capsys.readouterr().out.count(str(root)) == 1
    # Other data stay as they are: of another size, of another version, damaged.
    about = json.loads((root / "demo.json").read_text())
    for width, text in (
        (24, json.dumps(about)),
        (16, json.dumps(about | {"format": 0})),
        (16, "{"),
    ):
        (root / "demo.json").write_text(text)
        before = contents(tmp_path)
        with (
            pytest.raises(UserError, match=f"{root} is not the demo's data.*--DR"),
            demo_data(root, height=16, width=width, keep=True),
        ):
            pass
        assert contents(tmp_path) == before


@pytest.mark.usefixtures("few")
def test_a_dry_run_of_preset_demo_leaves_nothing(tmp_path: Path) -> None:
    """Through Trainer.py: nothing else needs to be typed."""
    options = "--frame_H 16 --frame_W 16 --train_vi_len 2 --val_vi_len 2 --device cpu --dry_run"
    result = run_script("Trainer.py", "--preset", "demo", *options.split(), cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "runs/demo" in result.stdout
    assert list(tmp_path.iterdir()) == []


def test_person_differs_from_the_room_where_the_label_is() -> None:
    scene = make_scene(0, 32, 64)
    pose = perform(np.random.default_rng(0), 4, scene.camera)
    pairs = zip(render_frames(pose, scene), render_labels(pose, scene.camera), strict=True)
    for frame, label in pairs:
        assert frame.shape == label.shape == (32, 64, 3)
        changed = np.abs(frame - 255 * scene.room).max(axis=2) > 20
        assert 0.03 < changed.mean() < 0.3
        assert changed[label.max(axis=2) > 200].mean() > 0.85
        assert (label[0] == 0).all()  # black above the person


def test_limbs_have_their_own_colours_and_show_them() -> None:
    assert len({joint for limb in LIMBS for joint in limb}) == 18
    camera = Camera(128, 256)
    pose = perform(np.random.default_rng([0, 1, 0]), 1, camera)
    label = next(render_labels(pose, camera))
    for (a, b), colour in zip(LIMBS, LIMB_COLOURS, strict=True):
        if b.endswith(("eye", "ear")):
            continue  # a few pixels, partly behind the others
        middle = camera.project(pose.joints[0, [JOINTS[a], JOINTS[b]]].mean(axis=0))
        np.testing.assert_allclose(label[int(middle[1]), int(middle[0])], 255 * colour, atol=60)


def pose_of(seed: int, frames: int, camera: Camera) -> Pose:
    return perform(np.random.default_rng([seed, 1, 0]), frames, camera)


def test_limbs_keep_their_lengths_and_feet_stand_on_the_floor() -> None:
    pose = pose_of(1, 600, Camera(32, 64))
    for name, (parent, offset) in list(SKELETON.items())[1:]:
        bones = pose.joints[:, JOINTS[name]] - pose.joints[:, JOINTS[parent]]
        lengths = np.linalg.norm(bones, axis=1)
        np.testing.assert_allclose(lengths, np.linalg.norm(offset), atol=1e-12)
    hands = pose.joints[:, [JOINTS[f"{side}_fingers"] for side in SIDES]]
    assert np.ptp(hands[..., 1], axis=0).min() > 0.5  # but they do move, by half a stature
    speed = np.linalg.norm(np.diff(pose.joints, axis=0), axis=2)  # statures per frame
    assert speed.max() < 0.25
    feet = [JOINTS[f"{side}_{part}"] for side in SIDES for part in ("heel", "toe")]
    np.testing.assert_allclose(pose.joints[:, feet, 1].min(axis=1), 0, atol=1e-12)
    lowest = pose.joints[:, feet, 1].argmin(axis=1)[:-1]
    slip = speed[:, feet][np.arange(len(lowest)), lowest]
    assert np.median(slip) < 0.003


@pytest.mark.parametrize("size", [(32, 64), (64, 32)])
def test_joints_stay_inside_the_frame(size: tuple[int, int]) -> None:
    camera = Camera(*size)
    for seed in range(6):
        points = camera.project(pose_of(seed, 600, camera).joints)
        assert points[..., :2].min() > 0
        assert points[..., 0].max() < camera.width
        assert points[..., 1].max() < camera.height
    standing = np.ptp(points[0, :, 1]) / min(size)
    assert 0.75 < standing < 0.85


def test_smooth_curve_meets_its_keys_and_does_not_overshoot() -> None:
    times, values = np.array([0.0, 4, 5, 9]), np.array([0.0, 10, 12, 3])
    np.testing.assert_allclose(smooth_curve(times, values, times), values)
    between = smooth_curve(times, values, np.linspace(-2, 12, 500))
    assert between.min() == 0 and between.max() <= 12
    # By hand: slopes 2.5 and 2 give 2·2.5·2/4.5 at t = 4; Hermite's cubic over [0, 4] at its half.
    tangent = 2 * 2.5 * 2 / 4.5
    expected = 0.5 * 10 - 4 * tangent / 8
    np.testing.assert_allclose(smooth_curve(times, values, np.array([2.0])), expected)


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
