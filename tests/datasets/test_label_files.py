"""Labels of other tools: every kind is told apart and read, every fault names its file."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from modules.datasets.label_files import Labels, open_labels
from modules.datasets.pose import JOINTS
from modules.datasets.source import Clip
from modules.runtime.errors import UserError

SIZE = (100, 80)
NAMES = ["1.png", "2.png", "10.png"]  # the clip's own files


def coco_row(x: float, joints: int = 17) -> list[float]:
    return [value for i in range(joints) for value in (x + i, 30 + i, 2)]


def write(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def clip_of(names: list[str], frames: int = 0) -> Clip:
    """A clip: a folder of these files, or a video of so many frames."""
    kind = "folder" if names else "video"
    return Clip(Path("clip"), kind, [Path(n) for n in names], None, SIZE, frames or len(names), "")


def read(path: Path, frames: int = 0) -> Labels:
    return open_labels(path, clip_of([], frames) if frames else clip_of(NAMES))


def nose(labels: Labels, frame: int) -> float:
    return float(labels.people[frame][0].points[JOINTS.index("nose"), 0])


@pytest.mark.parametrize("joints", [18, 25])
def test_openpose_files_in_numeric_order(tmp_path: Path, joints: int) -> None:
    for number in (9, 10, 100):  # by name alone, 10 and 100 would come before 9
        people = [{"pose_keypoints_2d": coco_row(number % 50, joints), "face_keypoints_2d": []}]
        write(tmp_path / f"dance_{number}_keypoints.json", {"version": 1.3, "people": people})
    names = ["9.png", "10.png", "100.png"]
    labels = open_labels(tmp_path, clip_of(names))
    assert (labels.kind, labels.matched) == ("OpenPose JSON", "matched to the frames by number")
    assert [nose(labels, t) for t in range(3)] == [9, 10, 0]
    with pytest.raises(UserError, match=r"3 frames, but clip has 4"):
        read(tmp_path, 4)


def test_openpose_frames_without_people_and_joints_not_found(tmp_path: Path) -> None:
    rows = coco_row(5, 18)
    rows[3 * JOINTS.index("left_knee") + 2] = 0
    write(tmp_path / "0.json", {"people": []})
    write(tmp_path / "1.json", {"people": [{"pose_keypoints_2d": rows}]})
    labels = read(tmp_path, 2)
    assert labels.people[0] == []
    assert np.flatnonzero(~labels.people[1][0].known).tolist() == [JOINTS.index("left_knee")]


def test_coco_by_the_clip_s_file_names_else_in_numeric_order(tmp_path: Path) -> None:
    def annotation(image: int) -> dict[str, Any]:
        return {"image_id": image, "keypoints": coco_row(image), "num_keypoints": 17}

    annotations = [annotation(image) for image in (7, 5, 3)]
    images = [{"id": 7, "file_name": "x/2.png"}, {"id": 5, "file_name": "10.png"}]
    images.append({"id": 3, "file_name": "1.png"})
    path = write(tmp_path / "coco.json", {"images": images, "annotations": annotations})
    labels = read(path)
    assert (labels.kind, labels.matched) == ("COCO JSON", "matched to the frames by file name")
    assert [nose(labels, t) for t in range(3)] == [3, 7, 5]
    labels = read(path, 3)  # a video has no file names
    assert [nose(labels, t) for t in range(3)] == [3, 7, 5]
    assert [nose(read(tmp_path), t) for t in range(3)] == [3, 7, 5]  # the folder that holds it


def test_results_without_images(tmp_path: Path) -> None:
    results = [
        {"image_id": 2, "keypoints": coco_row(2), "score": 3.1},
        {"image_id": 0, "keypoints": coco_row(9), "score": 0.4},
        {"image_id": 0, "keypoints": coco_row(4), "score": 0.9},
    ]
    path = write(tmp_path / "results.json", results)
    labels = read(path, 3)
    assert [person.score for person in labels.people[0]] == [0.4, 0.9]
    assert labels.people[2][0].score == 1
    with pytest.raises(UserError, match="has frame 2, but the clip has only 2"):
        read(path, 2)
    # From 0 or from 1? Off by one would look almost right.
    write(path, [{"image_id": 1, "keypoints": coco_row(2)}])
    with pytest.raises(UserError, match="may count from 0 or from 1"):
        read(path, 3)
    # The last number is the number of frames: from 1.
    write(path, [{"image_id": 3, "keypoints": coco_row(2)}])
    assert nose(read(path, 3), 2) == 2


def test_skeleton_images_in_numeric_order(tmp_path: Path) -> None:
    for number in (2, 10, 1):
        Image.new("RGB", (8, 8)).save(tmp_path / f"render_{number}.png")
    labels = read(tmp_path)  # by number
    assert labels.kind == "skeleton images"
    assert [path.name for path in labels.images] == [f"render_{i}.png" for i in (1, 2, 10)]
    with pytest.raises(UserError, match="skeleton images for 3 frames, but clip has 5"):
        read(tmp_path, 5)


GOOD = {"people": [{"pose_keypoints_2d": coco_row(4, 18)}]}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "is not valid JSON"),
        ("{", "is not valid JSON"),
        (b"\xff\xfe\x00", "is not valid JSON"),
        ("[" * 100_000, "is not valid JSON"),
        ("3", "neither OpenPose output"),
        ({"frames": []}, "neither OpenPose output"),
        ({"people": 3}, 'no list "people"'),
        ({"people": [3]}, "person 0 is not a list of 75 or 54 or 45 numbers"),
        ({"people": [{"pose_keypoints_2d": [1, 2]}]}, "person 0 is not a list"),
        ({"people": [{"pose_keypoints_2d": ["a"] * 54}]}, "person 0 is not a list"),
        ({"people": [{"pose_keypoints_2d": [float("nan")] * 54}]}, "person 0 is not a list"),
        ({"people": []}, "no person in any frame"),
        ([3], "annotation 0 has no image_id"),
        ([{"image_id": 0, "keypoints": [1] * 54}], "annotation 0, keypoints is not a list of 51"),
        ([{"image_id": -1, "keypoints": coco_row(3)}], "image_id -1 is not a frame number"),
        ([{"image_id": None, "keypoints": coco_row(3)}], "image_id None is not a frame number"),
        ({"images": [{"id": 1}], "annotations": []}, "a unique id and a file_name"),
        (
            {
                "images": [{"id": 1, "file_name": "1.png"}],
                "annotations": [{"image_id": 2, "keypoints": coco_row(3)}],
            },
            "image_id 2 is not among the images",
        ),
        ([{"image_id": 0, "keypoints": coco_row(3000)}], "another size"),
        ([{"image_id": 0, "keypoints": [0.5, 0.25, 0.9] * 17}], "must be in pixels"),
    ],
)
def test_faults_name_the_file(tmp_path: Path, content: Any, words: str) -> None:
    path = tmp_path / "labels.json"
    path.write_bytes(content) if isinstance(content, bytes) else write(path, content)
    with pytest.raises(UserError) as caught:
        read(path, 1)
    assert words in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_folders_that_hold_no_labels(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        read(tmp_path / "nowhere")
    with pytest.raises(UserError, match="has neither images nor"):
        read(tmp_path)
    write(tmp_path / "0.json", GOOD)
    write(tmp_path / "1.json", {"people": None})
    with pytest.raises(UserError, match=r"1\.json"):  # not only the first file is looked at
        read(tmp_path)
    for name in ("0.json", "1.json"):
        write(tmp_path / name, [{"image_id": 0, "keypoints": coco_row(4)}])
    with pytest.raises(UserError, match="several COCO files"):
        read(tmp_path)
    Image.new("RGB", (8, 8)).save(tmp_path / "0.png")
    with pytest.raises(UserError, match="images and JSON"):
        read(tmp_path)
