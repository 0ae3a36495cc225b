"""The procedural data set: its files, its repeatability, its figure and its refusals."""

import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from modules.datasets import motion
from modules.datasets.canvas import Camera
from modules.datasets.motion import (
    JOINTS,
    perform,
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
from tests.support.scripts import assert_refused, run_script

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
        ("frame_H", 7),
        ("frame_W", 7),
    ],
)
def test_options_out_of_range_are_refused(tmp_path: Path, name: str, value: int) -> None:
    result = run_script("dataloader.py", "demo", tmp_path / "data", f"--{name}", str(value))
    assert_refused(result, f"--{name} {value}: must be at least")
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
