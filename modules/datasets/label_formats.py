"""Joints as other tools write them → one table of people with the frames that they are in.

What a file states is taken as stated: the names of its joints, the size of the picture that they
were found in, the number or name of each frame, who is who. J joints of a skeleton.
"""

import contextlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from modules.datasets.canvas import Array
from modules.datasets.pose import BODY_25_JOINTS, COCO_JOINTS, JOINTS, LEAST_JOINTS, MPI_JOINTS
from modules.runtime.errors import UserError, named

KNOWN = "skeleton images and the JSON of OpenPose, COCO and AlphaPose (a list) are read"
CONVERT = (
    'convert it to COCO results, a JSON list of {"image_id": frame number from 0, "keypoints":'
    " [x, y, confidence of COCO's 17 joints, in pixels]}; docs/inputs.md shows how"
)
# By a file's suffix or a key of its JSON: what it is, and the next step if not to convert it.
OTHER_KINDS = {
    ".txt": "a text file, as YOLO writes it",
    ".csv .tsv .xlsx .parquet .h5 .hdf5 .slp": "a table or HDF5, as DeepLabCut and SLEAP write it",
    ".npy .npz .mat .pkl .pickle .p .joblib .pt .pth .safetensors": "an array, a pickle or tensors",
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
    "instance_info instances keypoint_scores": "a file of MMPose's own predictions",
    "joint_positions": "Kinect's JSON, in space",
    "bodies people": "a form of AlphaPose's --format; leave that out, so that it writes a list",
    "pose_landmarks poseLandmarks landmarks landmark pose_world_landmarks z": (
        "a file of MediaPipe's landmarks; leave --labels out, since --detector blazepose finds the"
        " same ones"
    ),
    "shapes": "labelme's JSON",
    "box boxes": "YOLO's JSON",
}
# The first 17 joints are COCO's in COCO-WholeBody (133) and Halpe (26, 136), too.
LAYOUTS: dict[int, Sequence[int | None]] = dict.fromkeys((17, 26, 133, 136), COCO_JOINTS)
OPENPOSE_LAYOUTS = {25: BODY_25_JOINTS, 18: tuple(range(len(JOINTS))), 15: MPI_JOINTS, **LAYOUTS}
POINTS = ("pose_keypoints_2d", "pose_keypoints", "body_parts", "keypoints")
NUMBER = ("frame_id", "frame", "frame_index", "frame_idx", "frame_number", "frame_num", "index")
FRAME = ("image_id", *NUMBER, "file_name", "filename", "image_name", "image")
PARTS = "shoulder|elbow|wrist|hip|knee|ankle|eye|ear|sho|elb|wri|kne|ank"
JOINT_NAME = re.compile(
    rf"(?:.*_)?(?:(left|right|l|r)_?({PARTS})|({PARTS})_?(left|right|l|r)|(nose|neck))"
)

Size = tuple[float, float]  # width, height
# A frame's name or number if it has one, its people, and what states a size.
Frame = tuple[str | int | None, list[Any], Any]


class Row(NamedTuple):
    """A person in a frame."""

    frame: str | int  # name or number of the frame, as the file has it
    joints: Array  # (J, 3) x, y, confidence of JOINTS; NaN where the file has none
    layout: list[int]  # which of JOINTS the file has
    size: Size | None  # of the picture that x and y refer to, where the file states it
    score: float | None  # of the person
    track: int | str | None  # who it is


@dataclass
class Table:
    """All people of a file or of a folder of files."""

    kind: str = "COCO JSON"
    rows: list[Row] = field(default_factory=list)
    frames: dict[str | int, None] = field(default_factory=dict)  # those without people, too
    numbered: bool = False  # whether frames have numbers or names of their own, so some may lack


def refuse_other_kind(where: str, marks: Iterable[str]) -> None:
    """Raise UserError for what is not read, as a file's suffix or the keys in its JSON tell."""
    for known, kind in OTHER_KINDS.items():
        if not set(known.split()).isdisjoint(marks):
            raise UserError(f"{where}: is {kind}{'' if ';' in kind else f'; {CONVERT}'}")


def read_table(files: Sequence[Path]) -> Table:
    """All people of JSON files. Raises UserError: of another kind, numbers that are none."""
    table = Table()
    for file in files:
        where = f"--labels {file}"
        refuse_other_kind(where, [file.suffix.lower()])
        try:
            content = json.loads(file.read_bytes())
        except (OSError, ValueError, RecursionError) as error:
            if str(error).startswith("Extra data"):
                refuse_other_kind(where, [".jsonl"])
            raise UserError(f"{where}: cannot be read as JSON ({error}); {KNOWN}") from error
        try:
            _add(table, file, content, alone=len(files) == 1)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{where}: is not as OpenPose, COCO or AlphaPose write it"
                f" ({type(error).__name__}: {error}); export it again, or {CONVERT}"
            ) from error
    return table


def _add(table: Table, file: Path, content: Any, alone: bool) -> None:
    """Add the people of a file's JSON. alone: whether the file is the only one"""
    where = f"--labels {file}"
    entries = content if isinstance(content, list) else [content]
    openpose = any(isinstance(entry, dict) and "people" in entry for entry in entries[:1])
    table.kind = "OpenPose JSON" if openpose else "COCO JSON"
    of_one_frame = openpose and isinstance(content, dict)
    frames: list[Frame] = [
        (_key(entry), entry["people"] or [], entry) for entry in entries if openpose
    ]
    frames = frames or _coco_frames(where, content)
    if not alone and not of_one_frame:
        raise UserError(f"{where}: holds all frames, as others beside it may; give one of them")
    if alone and of_one_frame:
        raise UserError(f"{where}: is of one frame; give the folder with a file for each frame")
    table.numbered = not of_one_frame and all(key is not None for key, *_ in frames)
    layouts, stated = _layouts(where, content), _stated_size(content)
    for place, (name, people, about) in enumerate(frames):
        key = file.name if of_one_frame else place if name is None else name
        table.frames[key] = None
        size = _stated_size(about) or stated
        for index, person in enumerate(people):
            at = f"{where}: person {index} of frame {key}"
            row = _row(at, key, person, size, layouts)
            table.rows += [row] if row else []


def _first(about: Any, keys: Iterable[str]) -> Any:
    """The value of the first of these keys that a dictionary has; None: it has none."""
    return next((about[key] for key in keys if about.get(key) is not None), None)


def _key(about: dict[str, Any], keys: Iterable[str] = FRAME) -> str | int | None:
    """The name or number that a dictionary gives its frame; None: neither."""
    key = _first(about, keys)
    key = int(key) if isinstance(key, float) and key.is_integer() else key
    return key if isinstance(key, int | str) and not isinstance(key, bool) else None


def _keys(content: Any) -> list[str]:
    """All keys of dictionaries in JSON; of a list, those in its first entry."""
    if isinstance(content, list):
        return _keys(content[0]) if content else []
    inside = content.values() if isinstance(content, dict) else ()
    return [*(content if inside else ()), *(key for value in inside for key in _keys(value))]


def _coco_frames(where: str, content: Any) -> list[Frame]:
    """COCO's annotations or results, and AlphaPose's list, by frame. Raises UserError."""
    first = content[0] if isinstance(content, list) and content else None
    if content == [] or (isinstance(first, dict) and "keypoints" in first):
        content = {"annotations": content}
    if not isinstance(content, dict) or "annotations" not in content:
        marks = list(dict.fromkeys(_keys(content)))
        refuse_other_kind(where, marks)
        what = f"a dictionary of {named(marks)}" if marks else type(content).__name__
        raise UserError(f"{where}: is of an unknown kind ({what}); {KNOWN}; {CONVERT}")
    images, annotations = content.get("images") or [], content["annotations"]
    unique = len({str(image.get("file_name")) for image in images}) == len(images)
    keys = ("file_name", *NUMBER, "id") if unique else (*NUMBER, "id")
    frames: dict[str | int | None, Frame] = {
        _key(image, ("id",)): (_key(image, keys), [], image) for image in images
    }
    if len(frames) < len(images) or None in frames:
        raise UserError(f"{where}: every image must have an id of its own")
    for index, entry in enumerate(annotations):
        if (key := _key(entry)) is None:
            refuse_other_kind(where, entry)
            raise UserError(f"{where}: annotation {index} has no image_id; {CONVERT}")
        if images and key not in frames:
            raise UserError(
                f"{where}: annotation {index} is of image {key}, which is not in images"
            )
        _, people, _ = frames.setdefault(key, (key, [], {}))
        if "keypoints" in entry or not content.get("categories"):
            people.append(entry)
    return list(frames.values())


def _stated_size(about: Any) -> Size | None:
    """Width and height that a dictionary states, itself or in one inside it; None: neither."""
    for level in (about, *about.values()) if isinstance(about, dict) else ():
        stated = {str(k).lower(): v for k, v in level.items()} if isinstance(level, dict) else {}
        for name, value in stated.items():
            pair: list[Any] = []
            if name.endswith("width"):
                pair = [value, stated.get(f"{name.removesuffix('width')}height")]
            elif isinstance(value, list) and name.endswith(("size", "shape", "resolution")):
                # image_size and the like; a shape is height first, as in numpy.
                pair = value[1::-1] if name.endswith("shape") else value[:2]
            with contextlib.suppress(TypeError, ValueError):
                width, height = map(float, pair)
                if min(width, height) > 0:
                    return width, height
    return None


def joint_named(name: str) -> int | None:
    """The place in JOINTS of a joint's name: left_elbow, LeftElbow, lElbow, elbow.L, …; or None."""
    found = JOINT_NAME.fullmatch(re.sub("[^a-z]+", "_", name.lower()).strip("_"))
    if not found:
        return None
    side, part = found[1] or found[4] or "", found[2] or found[3] or found[5]
    return next(
        i for i, joint in enumerate(JOINTS) if re.match(f"{side[:1]}.*_{part}|{part}", joint)
    )


def _layouts(where: str, content: Any) -> dict[Any, Sequence[int | None]]:
    """Where joints lie in JOINTS as their names say, by category or None; empty: none are named."""
    categories = content.get("categories") if isinstance(content, dict) else None
    layouts: dict[Any, Sequence[int | None]] = {
        entry.get("id"): _layout(where, entry["keypoints"])
        for entry in categories or []
        if isinstance(entry, dict) and entry.get("keypoints")
    }
    first = next(iter(layouts.values()), _stated_layout(content))
    return {None: first, **layouts} if first else {}


def _stated_layout(about: Any) -> list[int | None] | None:
    """Where joints lie as a list of names in a dictionary says, or in one inside it; None: none."""
    for level in (about, *about.values()) if isinstance(about, dict) else ():
        for value in level.values() if isinstance(level, dict) else ():
            names = list(value.values()) if isinstance(value, dict) else value
            if isinstance(names, list) and all(isinstance(name, str) for name in names):
                places = [joint_named(name) for name in names]
                if len(set(places) - {None}) >= LEAST_JOINTS:
                    return places
    return None


def _layout(where: str, names: Iterable[Any]) -> Sequence[int | None]:
    places = [joint_named(str(name)) for name in names]
    if len(set(places) - {None}) < LEAST_JOINTS:
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
    layout = layouts.get(about.get("category_id"), layouts.get(None)) or _stated_layout(about)
    if isinstance(values, dict):
        layout, values = _layout(where, values), list(values.values())
    known = {len(layout): layout} if layout else LAYOUTS if name == POINTS[-1] else OPENPOSE_LAYOUTS
    try:
        flat = np.array(values, np.float64).ravel()
        count, columns = next((n, of) for of in (3, 2) for n in known if n * of == len(flat))
    except (TypeError, ValueError, StopIteration) as error:
        raise UserError(
            f"{where}: {name} are not x, y, confidence of {' or '.join(map(str, known))} joints"
            f"{'' if layout else '; other joints need names (categories)'}, or {CONVERT}"
        ) from error
    drawn = {place: index for index, place in enumerate(known[count]) if place is not None}
    joints = np.full((len(JOINTS), 3), np.nan)
    joints[list(drawn), :columns] = flat.reshape(count, columns)[list(drawn.values())]
    if columns == 2:  # of no joint it is said how certain it is
        joints[:, 2] = 1
    track = _first(about, ("track_id", "person_id", "instance_id", "idx"))
    track = track[0] if isinstance(track, list) and track else track
    is_track = isinstance(track, str) or (isinstance(track, int) and track >= 0)
    score = about.get("score")
    score = min(float(score), 1.0) if isinstance(score, int | float) and score > 0 else None
    return Row(key, joints, list(drawn), size, score, track if is_track else None)
