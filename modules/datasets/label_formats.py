"""Joints as other tools write them → one table of people with the frames that they are in.

    table = read_table([Path("dance_0_keypoints.json"), …])    # OpenPose: a file for each frame
    table = read_table([Path("results.json")])                 # COCO, AlphaPose: all frames in one

What a file states is taken as stated: the names of its joints (`categories` of COCO, `meta_info` of
MMPose), the size of the picture that they were found in (`width` and `height`, `canvas_width`, …),
the number or name of each frame, who is who (`track_id`). K joints of a person.
"""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from modules.datasets.pose import BODY_25_JOINTS, COCO_JOINTS, JOINTS, MPI_JOINTS
from modules.runtime.errors import UserError, named

KNOWN = "skeleton images and the JSON of OpenPose, AlphaPose, COCO and MMPose are read"
CONVERT = (
    'convert it to COCO results, a JSON list of {"image_id": frame number from 0, "keypoints":'
    " [x, y, confidence of COCO's 17 joints, in pixels]}; docs/inputs.md shows how"
)
# The first 17 joints are COCO's in COCO-WholeBody (133) and Halpe (26, 136), too.
LAYOUTS: dict[int, Sequence[int | None]] = dict.fromkeys((17, 26, 133, 136), COCO_JOINTS)
OPENPOSE_LAYOUTS = {25: BODY_25_JOINTS, 18: tuple(range(len(JOINTS))), 15: MPI_JOINTS, **LAYOUTS}
# What holds the people of a frame, and of which kind it is.
PEOPLE = {"people": "OpenPose JSON", "bodies": "AlphaPose JSON", "instances": "MMPose JSON"}
POINTS = ("pose_keypoints_2d", "pose_keypoints", "body_parts", "joints", "keypoints")
NUMBER = ("frame_id", "frame", "frame_index", "frame_idx", "frame_number", "frame_num", "index")
FRAME = ("image_id", *NUMBER, "file_name", "filename", "image_name", "image")
TRACK = ("track_id", "person_id", "instance_id", "idx")
ALL_FRAMES = ("instance_info", "frames", "results", "predictions", "data")
LANDMARKS = ("pose_landmarks", "poseLandmarks", "landmarks", "landmark", "pose_world_landmarks")
PARTS = "shoulder|elbow|wrist|hip|knee|ankle|eye|ear|sho|elb|wri|kne|ank"
JOINT_NAME = re.compile(rf"(left|right|l|r)({PARTS})|({PARTS})(left|right|l|r)")
# width, canvas_width, imageWidth, …; image_size, resolution; shape is height first, as in numpy.
SIZE_NAME = re.compile(r"\w*?([wW]idth)|(?:\w+_)?(?:size|shape|resolution)")

# By a file's suffix: what it is, and the next step where that is not to convert it.
OTHER_KINDS = {
    ".txt": "a text file, as YOLO writes it",
    ".csv .tsv .xlsx .parquet": "a table, as DeepLabCut and SLEAP write it",
    ".h5 .hdf5 .slp": "an HDF5 file, as DeepLabCut and SLEAP write it",
    ".npy .npz": "an array of numpy",
    ".pkl .pickle .p .joblib": "a pickle, which may run code when it is opened",
    ".pt .pth .safetensors": "a file of tensors",
    ".mat": "a file of MATLAB",
    ".bvh .c3d .trc .fbx": "motion capture in space, without a camera",
    ".jsonl .ndjson": "a file of JSON lines; make it one JSON list",
    ".xml .yml .yaml": (
        "a file of XML or YAML; let OpenPose write JSON (--write_json), or CVAT export COCO"
        " Keypoints"
    ),
    ".zip .gz .tgz .tar .7z .rar .xz .bz2 .zst": "an archive; unpack it and give what is inside",
    ".mp4 .mov .avi .mkv .webm .gif": (
        "a film; extract its skeletons as images, one for each frame: ffmpeg -i FILM"
        " skeletons/%d.png"
    ),
}

Array = NDArray[np.float64]
Size = tuple[float, float]  # width, height


class Row(NamedTuple):
    """A person in a frame."""

    frame: str | int  # name or number of the frame, as the file has it
    joints: Array  # (K, 3) x, y, confidence of those that are drawn; NaN where the file has none
    layout: Sequence[int | None]  # place in JOINTS of each joint
    size: Size | None  # of the picture that x and y refer to, where the file states it
    score: float | None  # of the person
    track: int | str | None  # who it is


@dataclass
class Table:
    """All people of a file or of a folder of files."""

    kind: str = ""
    rows: list[Row] = field(default_factory=list)
    frames: dict[str | int, None] = field(default_factory=dict)  # those without people, too
    numbered: bool = False  # whether frames have numbers or names of their own, so some may lack
    named: bool = False  # whether joints are told apart by names


class Frame(NamedTuple):
    """What a file has on a frame."""

    key: str | int | None  # its name or number; None: the file has none for it
    people: list[Any]
    about: Any


def refuse_other_kind(where: str, path: Path) -> None:
    """Raise UserError for a file whose suffix tells that it is not read."""
    for suffixes, kind in OTHER_KINDS.items():
        if path.suffix.lower() in suffixes.split():
            raise UserError(f"{where}: is {kind}{'' if ';' in kind else f'; {CONVERT}'}")


def read_table(files: Sequence[Path]) -> Table:
    """All people of JSON files. Raises UserError: of another kind, numbers that are none."""
    table = Table()
    for file in files:
        where = f"--labels {file}"
        refuse_other_kind(where, file)
        content = _read_json(where, file)
        kind, frames = _frames(where, content)
        if len(files) > 1 and (len(frames) > 1 or (frames and kind == "COCO JSON")):
            raise UserError(f"{where}: holds all frames, as others beside it may; give one of them")
        if table.kind and kind and kind != table.kind:
            raise UserError(f"{where}: is not {table.kind}, as the files before it are")
        if len(files) == len(frames) == 1 and frames[0].key is None:
            raise UserError(
                f"{where}: is of one frame, or its rows do not say of which they are; give the"
                " folder with a file for each frame, or add image_id to each row"
            )
        table.kind = table.kind or kind
        layouts, stated = _layouts(where, content), _stated_size(content)
        table.named |= bool(layouts)
        table.numbered |= len(files) == 1 and all(frame.key is not None for frame in frames)
        for place, frame in enumerate(frames):
            key = frame.key
            if len(files) > 1 or key is None:
                key = file.name if len(frames) == 1 else place
            table.frames[key] = None
            size = _stated_size(frame.about) or stated
            for index, person in enumerate(frame.people):
                at = f"{where}: person {index} of frame {key}"
                row = _row(at, key, person, size, layouts)
                table.rows += [row] if row else []
    return table


def _read_json(where: str, path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{where}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        lines = "JSON lines? make them one list; " if "Extra data" in str(error) else ""
        raise UserError(f"{where}: is not valid JSON ({error}); {lines}{KNOWN}") from error


def _first(about: Any, keys: Iterable[str]) -> Any:
    """The value of the first of these keys that a dictionary has; None: it has none."""
    if not isinstance(about, dict):
        return None
    return next((about[key] for key in keys if about.get(key) is not None), None)


def _key(about: Any, keys: Iterable[str] = FRAME) -> str | int | None:
    """The name or number that a dictionary gives its frame; None: neither."""
    key = _first(about, keys)
    key = int(key) if isinstance(key, float) and key.is_integer() else key
    return key if isinstance(key, int | str) and not isinstance(key, bool) else None


def _frames(where: str, content: Any) -> tuple[str, list[Frame]]:
    """The kind of a file and its frames. Raises UserError: of a kind that is not read."""
    if isinstance(content, dict):
        if "annotations" in content:
            return "COCO JSON", _coco_frames(where, content)
        if kind := next((PEOPLE[key] for key in PEOPLE if key in content), None):
            if not isinstance(people := _first(content, PEOPLE), list):
                raise UserError(f"{where}: its people are not a list")
            return kind, [Frame(_key(content), people, content)]
        if isinstance(several := _first(content, ALL_FRAMES), list):
            return _frames(where, several)
        if content and all(_first(value, PEOPLE) is not None for value in content.values()):
            frames = [_frames(f"{where}: {name}", value)[1][0] for name, value in content.items()]
            names = list(map(str, content))
            pairs = zip(frames, names, strict=True)
            return "AlphaPose JSON", [frame._replace(key=name) for frame, name in pairs]
    if content == []:
        return "", [Frame(None, [], {})]
    if isinstance(content, list) and all(isinstance(entry, dict) for entry in content):
        if any(key in content[0] for key in PEOPLE):  # a list of frames
            found = [_frames(f"{where}: frame {t}", entry) for t, entry in enumerate(content)]
            return found[0][0], [frame for _, frames in found for frame in frames]
        if "keypoints" in content[0] and _key(content[0]) is not None:
            return "COCO JSON", _coco_frames(where, {"annotations": content})
        if isinstance(content[0].get("keypoints"), list):
            return "MMPose JSON", [Frame(None, content, {})]
    raise UserError(f"{where}: is {_other_content(content)}")


def _other_content(content: Any) -> str:
    """What the content of a JSON file is that is not read, in words, and the next step."""
    first = content
    while isinstance(first, list) and first:
        first = first[0]
    if not isinstance(first, dict):
        return f"of an unknown kind ({type(content).__name__} of {type(first).__name__}); {KNOWN}"
    if isinstance(points := first.get("keypoints"), dict) and "x" in points:
        return f"YOLO's JSON; {CONVERT}"
    if any(key in first for key in LANDMARKS) or {"x", "y", "z"} <= first.keys():
        return (
            "a file of MediaPipe's landmarks; leave --labels out, since --detector blazepose finds"
            " the same ones"
        )
    keys = "a dictionary of " + (", ".join(map(str, list(first)[:5])) or "nothing")
    return f"of an unknown kind ({keys}); {KNOWN}; {CONVERT}"


def _coco_frames(where: str, content: dict[str, Any]) -> list[Frame]:
    """COCO's annotations or results, and AlphaPose's list, by frame."""
    images, annotations = content.get("images") or [], content["annotations"]
    for name, entries in (("images", images), ("annotations", annotations)):
        if not isinstance(entries, list) or not all(isinstance(e, dict) for e in entries):
            raise UserError(f'{where}: "{name}" is not a list of dictionaries')
    unique = len({str(image.get("file_name")) for image in images}) == len(images)
    keys = ("file_name", *NUMBER, "id") if unique else (*NUMBER, "id")
    frames = {_key(image, ("id",)): Frame(_key(image, keys), [], image) for image in images}
    if len(frames) < len(images) or None in frames:
        raise UserError(f"{where}: every image must have an id of its own")
    for index, entry in enumerate(annotations):
        if (key := _key(entry)) is None:
            raise UserError(f"{where}: annotation {index} has no image_id")
        if images and key not in frames:
            raise UserError(
                f"{where}: annotation {index}: image_id {key!r:.40} is not among the images"
            )
        frame = frames.setdefault(key, Frame(key, [], {}))
        if "keypoints" in entry or not content.get("categories"):
            frame.people.append(entry)
    return list(frames.values())


# ----------------------------------------------------------------------------------------
# What a file states


def _stated_size(about: Any) -> Size | None:
    """Width and height that a dictionary states, itself or in one inside it; None: neither."""
    inside = about.values() if isinstance(about, dict) else ()
    for level in (about, *inside):
        for name in level if isinstance(level, dict) else ():
            found = SIZE_NAME.fullmatch(str(name))
            if found and found[1]:
                height = "Height" if found[1] == "Width" else "height"
                values = [level[name], level.get(name.removesuffix(found[1]) + height)]
            elif found and isinstance(level[name], list):
                values = level[name][1::-1] if name.endswith("shape") else level[name][:2]
            else:
                continue
            try:
                size = float(values[0]), float(values[1])
            except (TypeError, ValueError, IndexError):
                continue
            if min(size) > 0:
                return size
    return None


def joint_named(name: str) -> int | None:
    """The place in JOINTS of a joint's name in the usual spellings; None: not one of them.

    left_elbow, LeftElbow, lElbow, L_Elbow, elbow.L, LElb, body_left_elbow, …
    """
    words = re.findall(r"[a-z]+", name.lower())
    for start in range(len(words)):
        letters = "".join(words[start:])
        if letters in JOINTS:
            return JOINTS.index(letters)
        if found := JOINT_NAME.fullmatch(letters):
            side, part = found[1] or found[4], found[2] or found[3]
            return next(
                place
                for place, joint in enumerate(JOINTS)
                if joint[0] == side[0] and joint.partition("_")[2].startswith(part)
            )
    return None


def _layouts(where: str, content: Any) -> dict[Any, Sequence[int | None]]:
    """Where joints lie in JOINTS, by category, as their names say; empty: none are named.

    None stands for people without a category.
    """
    if not isinstance(content, dict):
        return {}
    given: dict[Any, Any] = {
        entry.get("id"): entry["keypoints"]
        for entry in content.get("categories") or []
        if isinstance(entry, dict) and entry.get("keypoints")
    }
    about = _first(content, ("meta_info", "dataset_meta")) or content
    by_place = _first(about, ("keypoint_id2name", "keypoint_names", "joint_names"))
    if isinstance(by_place, dict):
        by_place = [by_place[place] for place in sorted(by_place, key=int)]
    if by_name := _first(about, ("keypoint_name2id",)):
        by_place = sorted(by_name, key=by_name.__getitem__)
    if by_place:
        given[None] = by_place
    layouts = {key: _layout(where, list(map(str, names))) for key, names in given.items()}
    return {None: next(iter(layouts.values())), **layouts} if layouts else {}


def _layout(where: str, names: Sequence[str]) -> Sequence[int | None]:
    places = list(map(joint_named, names))
    if len({place for place in places if place is not None}) < 4:
        raise UserError(
            f"{where}: its joints ({named(names)}) are not those of a person; at least 4 must have"
            " names such as left_elbow or RightKnee"
        )
    return places


def _row(
    where: str, key: str | int, person: Any, size: Size | None, layouts: dict[Any, Any]
) -> Row | None:
    """One person of the table; None: the file has no joints of its body. Raises UserError."""
    about = person if isinstance(person, dict) else {}
    if not (name := next((name for name in POINTS if name in about), None)):
        raise UserError(f"{where} has no {POINTS[0]} or keypoints")
    if not (values := about[name]):
        return None
    layout = layouts.get(about.get("category_id"), layouts.get(None))
    if isinstance(values, dict):
        layout, values = _layout(where, list(values)), list(values.values())
    known = OPENPOSE_LAYOUTS if name != "keypoints" else LAYOUTS
    counts = [len(layout)] if layout else list(known)
    try:
        joints = np.array(values, np.float64)
        flat = joints.ndim == 1
        joints = joints.reshape(
            -1, (3 if len(joints) in [3 * n for n in counts] else 2) if flat else joints.shape[-1]
        )
        if joints.shape[1] == 2:
            scores = np.array(about.get("keypoint_scores", np.ones(len(joints))), np.float64)
            joints = np.column_stack([joints, scores.reshape(-1)])
        if joints.shape[1] != 3 or len(joints) not in counts:
            raise ValueError
    except (TypeError, ValueError, IndexError) as error:
        what = " or ".join(map(str, counts))
        raise UserError(
            f"{where}: {name} are not x, y, confidence of {what} joints"
            f"{'' if layout else '; other joints need names (categories)'}"
        ) from error
    layout = layout or known[len(joints)]
    drawn = [index for index, place in enumerate(layout) if place is not None]
    track = _first(about, TRACK)
    track = track[0] if isinstance(track, list) and track else track
    is_track = isinstance(track, str) or (isinstance(track, int) and track >= 0)
    score = _first(about, ("score", "bbox_score"))
    certain = isinstance(score, int | float) and score > 0
    return Row(
        key,
        joints[drawn],
        [layout[index] for index in drawn],
        size,
        min(float(score), 1.0) if certain else None,
        track if is_track else None,
    )
