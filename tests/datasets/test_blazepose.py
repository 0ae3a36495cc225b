"""BlazePose: where it looks, what it makes of landmarks, and the real model on a known figure."""

import importlib.util
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from modules.datasets import blazepose, motion, synthetic
from modules.datasets.pose import COCO_JOINTS, JOINTS, person_from
from modules.runtime.errors import UserError
from tests.support.clips import make_folder
from tests.support.scripts import assert_refused, run_script

needs_model = pytest.mark.skipif(
    blazepose.why_missing() is not None, reason=f"no BlazePose here: {blazepose.why_missing()}"
)


def marks(visibility: float = 0.9) -> np.ndarray:
    """33 landmarks within a picture."""
    x = np.linspace(0.3, 0.7, 33)
    return np.column_stack([x, x[::-1] * 0.5 + 0.2, np.full(33, visibility)])


def figure(frames: int) -> tuple[motion.Pose, synthetic.Scene]:
    """The demo's figure in pictures of 512 x 256 pixels."""
    scene = synthetic.make_scene(0, 256, 512)
    return motion.perform(np.random.default_rng([0, 1, 0]), frames, scene.camera), scene


def test_parts_by_hand() -> None:
    assert blazepose.parts(100, 300, None)[1:] == [(0, y, 100, 100) for y in (100, 0, 200)]
    assert blazepose.parts(200, 200, None) == [(0, 0, 200, 200)]
    # The last place is within the picture, too.
    assert blazepose.parts(512, 256, np.array([0.0, 0, 10, 10]))[0] == (0, 0, 64, 64)
    assert blazepose.parts(512, 256, np.array([0.0, 0, 500, 250]))[0][2] == 256


def test_the_last_place_comes_first_then_the_whole_picture_then_all_squares() -> None:
    frame = np.zeros((256, 512, 3), np.uint8)
    frame[..., 0] = np.arange(512) // 2  # so that a part tells where it is
    seen: list[tuple[int, int]] = []

    def finder(hit: int | None):  # type: ignore[no-untyped-def]
        def find(part: np.ndarray) -> np.ndarray | None:
            seen.append((int(part[0, 0, 0]) * 2, part.shape[1]))
            return marks() if len(seen) - 1 == hit else None

        return find

    near = np.array([300.0, 50, 340, 150])
    for hit, calls in ((0, 1), (1, 2), (2, 5), (None, 5)):
        seen.clear()
        found = blazepose.search(finder(hit), frame, near)
        assert len(seen) == calls
        assert len(found.boxes) == (hit is not None)
        if hit:  # the nose lies in the whole picture: in that one, or in the square in the middle
            left, scale = [(0, [512, 256]), (128, 256)][hit - 1]
            np.testing.assert_allclose(found.joints[0, 0, :2], marks()[0, :2] * scale + [left, 0])
            assert found.scores[0] == pytest.approx(0.9)
    assert seen == [(230, 180), (0, 512), (128, 256), (0, 256), (256, 256)]


def test_joints_beyond_the_edge_do_not_count() -> None:
    rows = marks()
    rows[27, 1] = 1.2  # the left ankle is below the picture
    found = blazepose.search(lambda _: rows, np.zeros((100, 100, 3), np.uint8), None)
    person = person_from(found.joints[0], COCO_JOINTS, blazepose.VISIBLE)
    assert person is not None
    assert not person.known[JOINTS.index("left_ankle")]
    assert person.known[JOINTS.index("right_ankle")]
    seen = [row for row in blazepose.LANDMARKS if row != 27]  # the box ends at those within
    assert found.boxes[0][3] == pytest.approx(100 * rows[seen, 1].max())


def test_what_to_do_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "pip install -r requirements-video.txt" in str(blazepose.why_missing())
    newer = SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: newer)
    why = str(blazepose.why_missing())
    assert "download pose_landmarker_full.task" in why and "give it with --pose_model" in why
    assert blazepose.why_missing(tmp_path / "a.task") is None


def test_options_of_the_other_detector_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = make_folder(tmp_path / "clip", 9)
    command = ("dataloader.py", "video", clip, "--out", tmp_path / "o", "--detector", "blazepose")
    monkeypatch.setattr(blazepose, "why_missing", lambda *_: None)
    assert_refused(run_script(*command, "--device", "cuda"), "--device cuda is for --detector rcnn")
    assert_refused(run_script(*command, "--weights", clip), "--weights is for --detector rcnn")
    monkeypatch.setattr(blazepose, "why_missing", lambda *_: "it is missing; do this")
    assert_refused(run_script(*command), "--detector blazepose: it is missing; do this")
    model = (*command[:-2], "--pose_model", clip)
    assert_refused(run_script(*model), f"--pose_model {clip}: it is missing; do this")
    assert not (tmp_path / "o").exists()


@needs_model
def test_the_demo_s_figure_is_found_within_two_per_cent_of_its_height(
    capfd: pytest.CaptureFixture[str],
) -> None:
    pose, scene = figure(240)
    some = motion.Pose(pose.joints[::12], pose.axes[::12])
    true = scene.camera.project(some.joints)[..., :2]
    find = blazepose.load_blazepose()
    errors, seen = [], 0
    for frame, joints in zip(synthetic.render_frames(some, scene), true, strict=True):
        (found,) = find([frame])
        seen += len(found.boxes)
        for row, place in zip(found.joints[0], COCO_JOINTS, strict=True):
            errors.append(np.hypot(*(row[:2] - joints[synthetic.JOINTS[JOINTS[place]]])))
    assert seen == 20
    assert np.median(errors) <= 0.02 * scene.camera.scale
    # The control: left and right exchanged would be far off.
    assert np.quantile(errors, 0.9) < 0.06 * scene.camera.scale
    assert capfd.readouterr().err == ""  # none of mediapipe's notices


@needs_model
def test_a_small_person_is_found_in_a_square_part() -> None:
    frame = next(synthetic.render_frames(*figure(2)))
    small = np.full((256, 512, 3), frame[:20].mean(axis=(0, 1)).astype(np.uint8), np.uint8)
    small[-90:, :180] = np.asarray(Image.fromarray(frame).resize((180, 90)))
    find = blazepose.load_blazepose()
    (found,) = find([small])
    assert len(found.boxes) == 1 and found.boxes[0][2] < 180
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blazepose, "parts", lambda width, height, _: [(0, 0, width, height)])
        assert len(find([small])[0].boxes) == 0  # the control: whole, it is too small
    assert len(find([np.full((256, 512, 3), 90, np.uint8)])[0].boxes) == 0  # nobody is there


@needs_model
def test_a_model_file_finds_what_the_package_s_own_model_finds(tmp_path: Path) -> None:
    """A bundle of the two networks inside the old package, with the metadata that bundles have."""
    tasks = pytest.importorskip("mediapipe.tasks.python.metadata.metadata_writers.metadata_writer")
    folder = Path(str(importlib.util.find_spec("mediapipe").origin)).parent / "modules"  # type: ignore[union-attr]
    parts = {
        "pose_detector.tflite": ("pose_detection/pose_detection.tflite", 127.5, 127.5),
        "pose_landmarks_detector.tflite": ("pose_landmark/pose_landmark_full.tflite", 0.0, 255.0),
    }
    model = tmp_path / "pose_landmarker_full.task"
    with zipfile.ZipFile(model, "w") as bundle:
        for name, (path, mean, deviation) in parts.items():
            network = tasks.MetadataWriter.create(bytearray((folder / path).read_bytes()))
            network.add_general_info(name, "").add_image_input([mean], [deviation])
            bundle.writestr(name, bytes(network.populate()[0]))
    pose, scene = figure(3)
    frames = list(synthetic.render_frames(pose, scene))
    own, given = blazepose.load_blazepose()(frames), blazepose.load_blazepose(model)(frames)
    for a, b in zip(own, given, strict=True):
        apart = np.hypot(*(a.joints[0, :, :2] - b.joints[0, :, :2]).T)
        assert np.median(apart) < 0.02 * scene.camera.scale
    (nobody,) = blazepose.load_blazepose(model)([np.full((256, 512, 3), 90, np.uint8)])
    assert not len(nobody.boxes)
    model.write_bytes(b"PK")
    with pytest.raises(UserError, match="is no model of the Pose Landmarker"):
        blazepose.load_blazepose(model)
