"""Labels of other tools: what a file states is believed, every fault names its file."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from modules.datasets.label_files import Labels, match, open_labels, shrink_label
from modules.datasets.label_formats import joint_named
from modules.datasets.pose import COCO_JOINTS, JOINTS
from modules.datasets.source import Clip
from modules.ink import Ink
from modules.runtime.errors import UserError
from tests.support.clips import BODY_POINTS, HEIGHT, WIDTH, make_folder, middle
from tests.support.scripts import assert_refused, run_script

SIZE = (WIDTH, HEIGHT)
COUNT = 6
EVERY = range(COUNT)
NAMES = [JOINTS[place] for place in COCO_JOINTS]
LEFT_WRIST = NAMES.index("left_wrist")


def joints(t: int) -> np.ndarray:
    """The person's 17 joints of COCO in frame t, (17, 3)."""
    return np.column_stack([(BODY_POINTS + middle(t))[list(COCO_JOINTS)], np.full(17, 0.9)])


def result(t: int, rows: np.ndarray | None = None, **more: Any) -> dict[str, Any]:
    values = joints(t) if rows is None else rows
    return {"image_id": t, "keypoints": values.ravel().tolist(), **more}


def write(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def clip_of(names: list[str], frames: int = 0) -> Clip:
    """A clip: a folder of these files, or a video of so many frames."""
    return Clip(Path("clip"), SIZE, frames or len(names), files=[Path(n) for n in names])


def read(path: Path, content: Any = None, frames: int = COUNT) -> Labels:
    return open_labels(write(path / "l.json", content) if content else path, clip_of([], frames))


def off(labels: Labels, frame: int, other: int | None = None) -> float:
    """How far a person's joints lie from where they are in a frame, pixels; 99: nobody."""
    if not labels.people[frame]:
        return 99
    (person,) = labels.people[frame]
    there = joints(frame if other is None else other)[:, :2]
    found = person.known[list(COCO_JOINTS)]
    return float(np.abs(person.points[list(COCO_JOINTS)] - there)[found].max())


def openpose(t: int, count: int = 18, key: str = "pose_keypoints_2d") -> dict[str, Any]:
    rows = np.column_stack([BODY_POINTS + middle(t), np.full(18, 0.9)])
    if count == 25:
        rows = np.concatenate([rows[:8], np.ones((1, 3)), rows[8:], np.ones((6, 3))])
    if count == 15:
        rows = np.concatenate([rows[:14], np.ones((1, 3))])
    return {"version": 1.3, "people": [{key: rows.ravel().tolist()}]}


def results(name: Callable[[int], Any], count: int = 17) -> list[dict[str, Any]]:
    """COCO's; hands, feet and face follow the first 17 joints, and are not drawn."""
    rows = [np.concatenate([joints(t), np.ones((count - 17, 3))]) for t in EVERY]
    return [result(t, rows[t], category_id=1, score=2.9) | {"image_id": name(t)} for t in EVERY]


IMAGES = [{"id": 100 + t, "file_name": f"x/{t}.png"} for t in reversed(EVERY)]
# id → files and what is in them
KINDS: dict[str, dict[str, Any]] = {
    "openpose-1.3-body25": {f"d_{t:012}_keypoints.json": openpose(t, 25) for t in EVERY},
    "openpose-1.2-coco18": {f"d_{t}_keypoints.json": openpose(t) for t in EVERY},
    "openpose-1.0": {f"d_{t}_keypoints.json": openpose(t, 18, "pose_keypoints") for t in EVERY},
    "openpose-0.1": {f"d_{t}_pose.json": openpose(t, 18, "body_parts") for t in EVERY},
    "openpose-mpi15": {f"{t}.json": openpose(t, 15) for t in EVERY},
    "openpose-list": {"l.json": [openpose(t) | {"canvas_width": 96} for t in EVERY]},
    "alphapose-list": {"l.json": results(lambda t: f"{t}.jpg")},
    "alphapose-halpe26": {"l.json": results(lambda t: f"{t}.jpg", 26)},
    "alphapose-halpe136": {"l.json": results(lambda t: f"{t}.jpg", 136)},
    "coco-annotations": {"l.json": {"images": IMAGES, "annotations": results(lambda t: 100 + t)}},
    "coco-results": {"l.json": results(lambda t: t)},
    "coco-wholebody-133": {"l.json": results(lambda t: t, 133)},
}


def written(folder: Path, files: dict[str, Any]) -> Path:
    paths = [write(folder / name, content) for name, content in files.items()]
    return folder if len(paths) > 1 else paths[0]


@pytest.mark.parametrize("frames", [[], [f"{t}.jpg" for t in EVERY]], ids=["video", "folder"])
@pytest.mark.parametrize("kind", KINDS)
def test_labels_give_the_joints_of_each_frame(kind: str, frames: list[str], tmp_path: Path) -> None:
    labels = open_labels(written(tmp_path, KINDS[kind]), clip_of(frames, COUNT))
    assert labels.kind == ("OpenPose JSON" if "openpose" in kind else "COCO JSON")
    for t in EVERY:
        assert off(labels, t) < 0.01 and labels.people[t][0].known.sum() >= 13
        assert off(labels, t, other=t + 1) > 1  # the control


LANDMARK = {"x": 0.1, "y": 0.2, "z": 0.1, "visibility": 0.9}
MMPOSE = [{"keypoints": [[1, 2]] * 17, "keypoint_scores": [0.9] * 17}]
OTHER_FORM = ("is a form of AlphaPose's --format", "leave that out")
CONVERT = "convert it to COCO results"
# id → files and what is in them, what it is said to be, and the next step
REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "yolo-txt": ({"0.txt": "0", "1.txt": "0"}, "0.txt: is a text file, as YOLO writes it", CONVERT),
    "yolo-json": ({"l.json": [{"name": "person", "box": {}, "keypoints": {"x": [1], "y": [1]}}]}, "is YOLO's JSON", CONVERT),
    "mmpose-video": ({"l.json": {"meta_info": {}, "instance_info": [{"frame_id": 1, "instances": MMPOSE}]}}, "is a file of MMPose's own", CONVERT),
    "mmpose-list": ({"l.json": [{"frame_id": 1, "instances": MMPOSE}]}, "is a file of MMPose's own", CONVERT),
    "mmpose-per-image": ({"0.json": MMPOSE, "1.json": MMPOSE}, "is a file of MMPose's own", CONVERT),
    "alphapose-dict-cmu": ({"l.json": {"0.jpg": {"bodies": [{"joints": []}]}}}, *OTHER_FORM),
    "alphapose-dict-open": ({"l.json": {"0.jpg": openpose(0)}}, *OTHER_FORM),
    "alphapose-separate": ({"0.json": {"bodies": []}, "1.json": {"bodies": []}}, *OTHER_FORM),
    "mediapipe": ({"l.json": [{"pose_landmarks": [[LANDMARK] * 33]}]}, "is a file of MediaPipe's landmarks", "leave --labels out"),
    "mediapipe-list": ({"l.json": [[LANDMARK] * 33]}, "is a file of MediaPipe's landmarks", "leave --labels out"),
    "csv": ({"a.csv": "scorer,net"}, "is a table or HDF5, as DeepLabCut and SLEAP", CONVERT),
    "hdf5": ({"a.h5": ""}, "is a table or HDF5, as DeepLabCut and SLEAP", CONVERT),
    "labels-npz": ({"a.npz": ""}, "is an array, a pickle or tensors", CONVERT),
    "labels-pickle": ({"a.pkl": ""}, "is an array, a pickle or tensors", CONVERT),
    "tensors": ({"a.pt": ""}, "is an array, a pickle or tensors", CONVERT),
    "motion-capture": ({"a.bvh": ""}, "is motion capture in space", CONVERT),
    "labelme": ({"0.json": {"shapes": []}, "1.json": {"shapes": []}}, "is labelme's JSON", CONVERT),
    "other-json": ({"l.json": {"fps": 30, "skeletons": []}}, "is of an unknown kind (a dictionary of fps, skeletons)", CONVERT),
    "json-lines": ({"a.jsonl": ""}, "is a file of JSON lines", "make it one JSON list"),
    "xml": ({"0.xml": "", "1.xml": ""}, "0.xml: is a file of XML or YAML", "let OpenPose write JSON (--write_json)"),
    "archive": ({"a.zip": ""}, "is an archive", "unpack it"),
    "film-of-skeletons": ({"a.mp4": ""}, "is a film", "ffmpeg -i FILM skeletons/%d.png"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_labels_are_refused_with_the_next_step(kind: str, tmp_path: Path) -> None:
    files, *words = REFUSED[kind]
    with pytest.raises(UserError) as caught:
        read(written(tmp_path, files))
    assert all(word in str(caught.value) for word in words) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "stated",
    [
        lambda w, h: {"images": [{"id": t, "width": w, "height": h} for t in EVERY]},
        lambda w, h: {"info": {"canvas_width": str(w), "canvas_height": str(h)}},
    ],
)
def test_joints_of_a_smaller_copy_are_scaled(
    stated: Callable[[int, int], dict[str, Any]], tmp_path: Path
) -> None:
    rows = [result(t, joints(t) * [0.5, 0.5, 1]) for t in EVERY]
    labels = read(tmp_path, {**stated(WIDTH // 2, HEIGHT // 2), "annotations": rows})
    assert max(off(labels, t) for t in EVERY) < 0.01
    assert off(read(tmp_path, rows), 0) > 10  # the control: as they are
    with pytest.raises(UserError, match="labels of 48 x 48 pixels, but the clip's 96 x 48 have"):
        read(tmp_path, {**stated(48, 48), "annotations": rows})


def test_joints_in_an_order_that_the_file_names(tmp_path: Path) -> None:
    order = np.random.default_rng(0).permutation(17)
    names = [NAMES[i] for i in order]
    results = [result(t, joints(t)[order], category_id=3) for t in EVERY]
    thing = {"image_id": 2, "category_id": 1, "bbox": [1, 1, 2, 2]}
    categories = [{"id": 1}, {"id": 3, "keypoints": names}]
    labels = read(tmp_path, {"categories": categories, "annotations": [*results, thing]})
    assert max(off(labels, t) for t in EVERY) < 0.01
    by_name = [dict(zip(names, joints(t)[order].tolist(), strict=True)) for t in EVERY]
    rows = [{"frame": t, "keypoints": by_name[t]} for t in EVERY]
    assert off(read(tmp_path, rows), 3) < 0.01
    del results[0]["category_id"]
    meta = {"keypoint_id2name": dict(enumerate(names))}
    for content in (
        {"keypoint_names": names, "annotations": results},
        {"meta_info": meta, "annotations": results},
        [row | {"joints": names} for row in results],
    ):
        assert off(read(tmp_path, content), 3) < 0.01
    assert off(read(tmp_path, results), 0) > 10  # the control: COCO's own order


def test_names_of_joints() -> None:
    left = ["left_elbow", "LeftElbow", "lElbow", "L_Elbow", "elbow.L", "LElb", "LEFT ELBOW"]
    left += ["elbow-left", "body_left_elbow", "07_left_elbow"]
    assert {joint_named(name) for name in left} == {JOINTS.index("left_elbow")}
    assert joint_named("RHip") == JOINTS.index("right_hip") and joint_named("Nose") == 0
    assert {joint_named(name) for name in ("left_eye_inner", "hip", "left_hand", "x")} == {None}


@pytest.mark.parametrize(
    "lost", [(0, 0, 0.3), (0, 0, 1), (-1, -1, 0.9), (-3, 20, 0.9), (9, 9, 0), (None, None, 0.9)]
)
def test_joints_that_were_not_found(lost: tuple[Any, Any, Any], tmp_path: Path) -> None:
    rows = [result(t) for t in EVERY]
    rows[0]["keypoints"][3 * LEFT_WRIST : 3 * LEFT_WRIST + 3] = lost
    labels = read(tmp_path, rows)
    missing = {JOINTS[place] for place in np.flatnonzero(~labels.people[0][0].known)}
    assert missing == {"left_wrist"} and labels.people[1][0].known.all()
    assert off(labels, 0) < 0.01


def test_confidence_of_many_kinds(tmp_path: Path) -> None:
    for kind in (
        lambda t: np.where(np.arange(51) % 3 == 2, None, joints(t).ravel()).tolist(),
        lambda t: joints(t)[:, :2].ravel().tolist(),
        lambda t: list(map(str, joints(t).ravel())),
        lambda t: joints(t).tolist(),
    ):
        labels = read(tmp_path, [{"image_id": t, "keypoints": kind(t)} for t in EVERY])
        assert all(off(labels, t) < 0.01 and labels.people[t][0].known.all() for t in EVERY)


def test_most_joints_tell_whether_they_are_in_parts_of_the_picture(tmp_path: Path) -> None:
    parts = [joints(t) / [*SIZE, 1] for t in EVERY]
    for t in EVERY:
        parts[t][LEFT_WRIST, 0] = 1.11
    labels = read(tmp_path, [result(t, rows) for t, rows in enumerate(parts)])
    for t in EVERY:
        points = labels.people[t][0].points[list(COCO_JOINTS)] - joints(t)[:, :2]
        assert np.abs(np.delete(points, LEFT_WRIST, axis=0)).max() < 0.01
    centred = [result(t, joints(t) / [*SIZE, 1] * [2, 2, 1] - [1, 1, 0]) for t in EVERY]
    with pytest.raises(UserError, match="between -1 and 1"):
        read(tmp_path, centred)


def test_the_file_says_who_is_who(tmp_path: Path) -> None:
    rows = []
    for t in EVERY:
        rows.append(result(t, track_id=1, score=0.5))
        # The same place, more certain.
        passer_by = joints(0) * [0.9, 0.9, 1] if t < 2 else joints(t)
        rows.append(result(t, passer_by, track_id=2, score=0.6 if t > 3 else 0.01))
    assert all(len(people) == 1 for people in read(tmp_path, rows).people.values())
    for row in rows:
        del row["track_id"]
    assert len(read(tmp_path, rows).people[0]) == 2  # the control


def test_rows_that_are_missing_are_frames_without_a_person(tmp_path: Path) -> None:
    some = [0, 1, 4]
    labels = read(tmp_path, [result(t) for t in some])
    assert sorted(labels.people) == some and max(off(labels, t) for t in some) < 0.01
    labels = read(tmp_path, [{**result(t), "image_id": t + 1} for t in (1, 5)])
    assert off(labels, 1) < 0.01 and off(labels, 5) < 0.01
    with pytest.raises(UserError, match="frames 1 to 4 of 6 may be counted from 0 or counted from"):
        read(tmp_path, [result(1), result(4)])
    labels = read(tmp_path, [{"image_id": 0, "keypoints": []}, result(1), result(4)])
    assert labels.people[0] == [] and off(labels, 4) < 0.01
    with pytest.raises(UserError, match="it has frame 7"):
        read(tmp_path, [result(0), result(7)])
    for t in (0, 1, 3, 5):  # a file for each frame
        write(tmp_path / f"files/a_{t}_keypoints.json", openpose(t))
    labels = read(tmp_path / "files")
    assert off(labels, 3) < 0.01 and 2 not in labels.people


def test_images_have_names_numbers_and_ids(tmp_path: Path) -> None:
    images: list[dict[str, Any]] = [{"id": 20 - t, "file_name": f"x/frame_{t:03}"} for t in EVERY]
    rows = [{**result(t), "image_id": 20 - t} for t in EVERY]
    path = write(tmp_path / "coco.json", {"images": images, "annotations": rows})
    labels = open_labels(path, clip_of([f"Frame_{t:03}.png" for t in EVERY]))
    assert labels.matched == "matched to the frames by file name"
    assert max(off(labels, t) for t in EVERY) < 0.01
    assert off(read(path), 3) < 0.01  # a film has no file names; the folder's numbers count
    for t, image in enumerate(images):
        image.update(file_name="dance.mp4", frame_id=t)
    assert off(read(tmp_path, {"images": images, "annotations": rows}), 3) < 0.01


def test_a_list_of_frames_in_one_file(tmp_path: Path) -> None:
    frames = [openpose(t) for t in EVERY]
    with pytest.raises(UserError, match="OpenPose JSON for 6 frames, but clip has 8"):
        read(tmp_path, frames, frames=8)
    numbered = [frame | {"frame": t + 2} for t, frame in enumerate(frames)]
    labels = read(tmp_path, [{"frame": 0, "people": []}, *numbered], frames=9)
    assert labels.people[0] == [] and off(labels, 4, other=2) < 0.01


FRAMES = [f"{i:03}.png" for i in (1, 2, 3, 14, 15)]  # a gap of ten in the numbering


@pytest.mark.parametrize(
    ("labels", "frames", "places", "by"),
    [
        ([f"a/{f[:3]}_keypoints.json" for f in FRAMES], FRAMES, [0, 1, 2, 3, 4], "by file name"),
        (["c\\B_2.JPG.json", "B_01.jpg"], ["b_01.png", "b_2_pose.png"], [1, 0], "by file name"),
        (["vis_015.json", "vis_001.json"], FRAMES, [4, 0], "by file name"),
        ([f"pose-{i}.json" for i in (1, 2, 3, 14, 15)], FRAMES, [0, 1, 2, 3, 4], "by number"),
        ([f"x_{i}.json" for i in range(5)], FRAMES, [0, 1, 2, 3, 4], "by order"),
        (["1.png", "2.png", "3.png"], ["0.png", "1.png", "2.png"], [0, 1, 2], "by order"),
        (["x_2", "x_10", "x_1"], ["0.png", "1.png", "2.png"], None, "there must be one for every"),
        (["001.json", "004.json"], FRAMES, None, "no frame has the name of 004.json"),
        (["a.json", "b.json"], FRAMES, None, "neither frame numbers nor names"),
        (["x_2.json", "x_02.json"], FRAMES, None, "have the same number"),
    ],
)
def test_files_and_frames(
    labels: list[str], frames: list[str], places: list[int] | None, by: str
) -> None:
    if places is None:
        with pytest.raises(UserError, match=by):
            match(labels, clip_of(frames), "labels")
    else:
        found, how = match(labels, clip_of(frames), "labels")
        assert ([place for (place,) in found], how.endswith(by)) == (places, True)


def test_every_frame_has_its_skeleton_image(tmp_path: Path) -> None:
    for number in (2, 10, 1):
        Image.new("RGB", SIZE).save(tmp_path / f"{number}_rendered.png")
    labels = open_labels(tmp_path, clip_of(["1.png", "2.png", "10.png"]))
    assert labels.kind == "skeleton images"
    assert [path.name[:-13] for path in labels.images] == ["1", "2", "10"]
    with pytest.raises(UserError, match=r"without a label: 3\.png"):
        open_labels(tmp_path, clip_of(["1.png", "2.png", "3.png", "10.png"]))
    Image.effect_noise(SIZE, 90).save(tmp_path / "1_rendered.png")
    labels.images[1:] = labels.images[:1]
    with pytest.raises(UserError, match="more than half of an image is drawn on"):
        print(labels.ink)
    Image.new("RGB", (96, 96)).save(tmp_path / "1_rendered.png")
    with pytest.raises(UserError, match="have another shape"):
        open_labels(tmp_path, clip_of(["1.png", "2.png", "10.png"]))


def test_images_of_the_right_size_stay_as_they_are() -> None:
    ink, whole = Ink((0, 0, 0), 255), np.array([0, 0, 1, 1.0])
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 16, 3), np.uint8))
    assert np.array_equal(shrink_label(image, whole, (16, 8), 3.0, ink), np.asarray(image))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\xff\xfe\x00", "cannot be read as JSON"),
        ("[" * 100_000, "cannot be read as JSON"),
        ([{"people": 3}], "write it (TypeError: 'int' object is not iterable); export it again"),
        ('{"frame": 0}\n{"frame": 1}', "is a file of JSON lines; make it one JSON list"),
        ({"frames": [{"bodies": [{"joint_positions": []}]}]}, "is Kinect's JSON, in space"),
        ({"frame": 0, "people": []}, "is of one frame; give the folder"),
        ([{"people": [3]}], "person 0 of frame 0 has no pose_keypoints_2d or keypoints"),
        ([{"people": [{"pose_keypoints_2d": [1, 2]}]}], "confidence of 25 or 18 or 15"),
        ([{"people": None}], "no person in any frame"),
        ([{"image_id": 0, "keypoints": [1] * 54}], "other joints need names (categories)"),
        ([{"image_id": -1, "keypoints": [9] * 51}], "-1 … are neither frame numbers nor names"),
        ([result(0), {"frame": 0.5, "keypoints": [9] * 51}], "annotation 1 has no image_id"),
        ({"images": [{"id": 1}, {"id": 1}], "annotations": []}, "must have an id of its own"),
        (
            {"images": [{"id": 1}], "annotations": [result(2)]},
            "is of image 2, which is not in images",
        ),
        (
            {"categories": [{"keypoints": ["paw", "tail"]}], "annotations": [result(0)]},
            "its joints (paw, tail) are not those of a person",
        ),
        ([result(0, joints(0) * [30, 30, 1])], "of the joints lie outside of the clip's 96 x 48"),
    ],
)
def test_faults_name_the_file(tmp_path: Path, content: Any, words: str) -> None:
    path = tmp_path / "l.json"
    path.write_bytes(content) if isinstance(content, bytes) else write(path, content)
    with pytest.raises(UserError) as caught:
        read(path, frames=1)
    assert words in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_folders_that_hold_no_labels(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        read(tmp_path / "nowhere")
    (tmp_path / "predictions").mkdir()
    with pytest.raises(UserError, match=r"holds predictions, neither .* deeper, in predictions"):
        read(tmp_path)
    write(tmp_path / "0.json", {"people": [{"pose_keypoints_2d": [9] * 54}]})
    for other, words in (
        ({"people": 3}, r"1\.json: is not as"),  # not only the first file is looked at
        ([result(0)], r"1\.json: holds all frames"),
    ):
        write(tmp_path / "1.json", other)
        with pytest.raises(UserError, match=words):
            read(tmp_path)
    Image.new("RGB", (8, 8)).save(tmp_path / "0.png")
    with pytest.raises(UserError, match="images and JSON"):
        read(tmp_path)


def bar(t: int) -> np.ndarray:
    """A skeleton image of another movement."""
    label = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    label[10:20, 2 + t : 8 + t] = (0, 255, 0)
    return label


def late(folder: Path) -> None:
    for t in range(60):
        content = openpose(t - 3) if t > 2 else {"people": []}
        write(folder / f"dance_{t}_keypoints.json", content)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (late, "labels are 3 frame(s) late: label t + 3 fits frame t best"),
        (lambda folder: make_folder(folder, picture=bar), "do not change in the same places"),
    ],
)
def test_labels_that_do_not_move_with_the_frames_are_refused_with_a_picture(
    make: Callable[[Path], object], words: str, tmp_path: Path
) -> None:
    clip, labels = make_folder(tmp_path / "clip"), tmp_path / "labels"
    make(labels)
    command = ("dataloader.py", "video", clip, "--labels", labels, "--out", tmp_path / "data")
    assert_refused(run_script(*command), words, str(tmp_path / "data_labels.png"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip", "data_labels.png", "labels"]
    assert Image.open(tmp_path / "data_labels.png").size == (4 * WIDTH, 2 * HEIGHT)
