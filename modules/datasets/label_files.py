"""Labels of a clip from another tool: skeleton images, or joints as JSON.

    labels = open_labels(Path("openpose_output"), frame_names, frame_size)
    labels.kind                    # "skeleton images", "OpenPose JSON" or "COCO JSON"

    a folder of images             one skeleton image per frame, of the frame's view
    a folder of OpenPose's JSON    a file per frame, {"people": [{"pose_keypoints_2d": …}]}, with
                                   x, y, confidence of 25 (BODY_25) or 18 (COCO) joints
    a COCO keypoint file           {"images": …, "annotations": [{"image_id", "keypoints"}]} with
                                   17 joints, or only the list, as results files have it

Files belong to the clip's frames in the order of the numbers in their names.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from modules.datasets.images import IMAGE_SUFFIXES, list_files, natural_order
from modules.datasets.pose import BODY_25_JOINTS, COCO_JOINTS, JOINTS, Person, person_from
from modules.runtime.errors import UserError

JOINT_CONFIDENCE = 0.05  # joints below it were not found; OpenPose draws from this value on
OPENPOSE_LAYOUTS: dict[int, Sequence[int | None]] = {
    25: BODY_25_JOINTS,
    18: tuple(range(len(JOINTS))),
}


@dataclass(frozen=True)
class Labels:
    """The content of one --labels argument: images, or people for each frame."""

    path: Path
    kind: str
    images: list[Path] = field(default_factory=list)  # one per source frame
    people: dict[int, list[Person]] = field(default_factory=dict)  # by source frame
    frames: int | None = None  # source frames that it covers; None: unknown

    def check_count(self, clip: Path, frames: int) -> None:
        """Raise UserError unless the labels fit the clip's number of frames."""
        if self.frames is not None and self.frames != frames:
            raise UserError(
                f"--labels {self.path}: {self.kind} for {self.frames} frames, but {clip} has"
                f" {frames}; there must be one for every frame of the clip"
            )
        if self.people and max(self.people) >= frames:
            raise UserError(
                f"--labels {self.path}: has frame {max(self.people)}, but {clip} has only"
                f" {frames} frames (0 to {frames - 1})"
            )


def open_labels(path: Path, frame_names: Sequence[str], frame_size: tuple[int, int]) -> Labels:
    """Read one --labels argument; images are only listed.

    frame_names: names of the clip's files if it is a folder, to find images of a COCO file by
    frame_size:  (width, height) of the clip, in which JSON joints must lie

    Raises UserError that names the file: missing, malformed, of an unknown kind.
    """
    if not path.exists():
        raise UserError(f"--labels {path}: there is no such folder or file")
    if path.is_dir():
        images, tables = list_files(path, IMAGE_SUFFIXES), list_files(path, (".json",))
        if images and tables:
            raise UserError(f"--labels {path}: holds images and JSON; keep only the labels")
        if images:
            return Labels(path, "skeleton images", images=images, frames=len(images))
        if not tables:
            raise UserError(f"--labels {path}: the folder has neither images nor .json files")
    else:
        tables = [path]
    first = _read_json(tables[0])
    if isinstance(first, dict) and "people" in first:
        contents = [first, *map(_read_json, tables[1:])]
        people = {t: _openpose(f, c) for t, (f, c) in enumerate(zip(tables, contents, strict=True))}
        labels = Labels(path, "OpenPose JSON", people=people, frames=len(tables))
    elif len(tables) > 1:
        if isinstance(first, dict) and "annotations" not in first:
            raise UserError(f'--labels {tables[0]}: is not OpenPose output (it has no "people")')
        names = f"{tables[0].name}, {tables[1].name}"
        raise UserError(f"--labels {path}: several COCO files ({names}, …); give one of them")
    else:
        labels = _coco(tables[0], first, frame_names)
    _check_inside(labels, frame_size)
    return labels


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"--labels {path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"--labels {path}: is not valid JSON ({error})") from error


def _rows(where: str, values: Any, joints: Sequence[int]) -> np.ndarray:
    """Flat x, y, c, x, y, c, … as an array (joints, 3). Raises UserError."""
    try:
        array = np.array(values, dtype=np.float64)
    except (TypeError, ValueError):
        array = np.array(np.nan)
    if array.ndim != 1 or not np.isfinite(array).all() or len(array) not in {3 * n for n in joints}:
        wanted = " or ".join(str(3 * n) for n in joints)
        raise UserError(f"{where} is not a list of {wanted} numbers x, y, confidence, …")
    return array.reshape(-1, 3)


def _openpose(path: Path, content: Any) -> list[Person]:
    """The people of one frame's file of OpenPose."""
    if not isinstance(content, dict) or not isinstance(content.get("people"), list):
        raise UserError(f'--labels {path}: is not OpenPose output (it has no list "people")')
    found = []
    for index, entry in enumerate(content["people"]):
        where = f"--labels {path}: pose_keypoints_2d of person {index}"
        values = entry.get("pose_keypoints_2d") if isinstance(entry, dict) else None
        rows = _rows(where, values, tuple(OPENPOSE_LAYOUTS))
        person = person_from(rows, OPENPOSE_LAYOUTS[len(rows)], JOINT_CONFIDENCE)
        if person:
            found.append(person)
    return found


def _coco(path: Path, content: Any, frame_names: Sequence[str]) -> Labels:
    """The people of all frames of a COCO file."""
    whole = isinstance(content, dict)
    entries = content.get("annotations") if whole else content
    if not isinstance(entries, list):
        raise UserError(
            f'--labels {path}: is neither OpenPose output ("people") nor COCO keypoints'
            ' ("annotations", or a list of them)'
        )
    images = content.get("images") if whole else None
    numbers = _image_numbers(path, images, frame_names) if images else None
    people: dict[int, list[Person]] = {}
    ids: set[int] = set()
    for index, entry in enumerate(entries):
        where = f"--labels {path}: annotation {index}"
        if not isinstance(entry, dict) or "image_id" not in entry or "keypoints" not in entry:
            raise UserError(f"{where} has no image_id or no keypoints")
        rows = _rows(f"{where}, keypoints", entry["keypoints"], (17,))
        image = entry["image_id"]
        if numbers is None:
            frame = _frame_number(where, image)
        elif (isinstance(image, int | str)) and image in numbers:
            frame = numbers[image]
        else:
            raise UserError(f"{where}: image_id {image!r:.40} is not among the images")
        ids.add(frame)
        score = entry.get("score")
        certain = min(float(score), 1.0) if isinstance(score, int | float) and score > 0 else None
        person = person_from(rows, COCO_JOINTS, JOINT_CONFIDENCE, score=certain)
        people.setdefault(frame, [])
        if person:
            people[frame].append(person)
    if numbers is None and ids and min(ids) > 0:
        # Labels off by one frame would train and look almost right, so do not guess.
        raise UserError(
            f"--labels {path}: no annotation has image_id 0, so frames may count"
            ' from 0 or from 1; add the list "images" (id, file_name), or count from 0'
        )
    return Labels(path, "COCO JSON", people=people, frames=len(numbers) if numbers else None)


def _image_numbers(path: Path, images: Any, frame_names: Sequence[str]) -> dict[int | str, int]:
    """COCO's image ids → frame numbers: by the clip's file names, else in numeric order."""
    names: dict[int | str, str] = {}
    entries = images if isinstance(images, list) else [images]
    for entry in entries:
        about = entry if isinstance(entry, dict) else {}
        key, name = about.get("id"), about.get("file_name")
        if not isinstance(key, int | str) or not isinstance(name, str) or key in names:
            raise UserError(f"--labels {path}: every image must have a unique id and a file_name")
        names[key] = Path(name).name
    known = {name: number for number, name in enumerate(frame_names)}
    if known and set(names.values()) == set(known):
        return {key: known[name] for key, name in names.items()}
    ordered = sorted(names, key=lambda key: natural_order(Path(names[key])))
    return {key: number for number, key in enumerate(ordered)}


def _frame_number(where: str, image: Any) -> int:
    """The frame of a result's image_id: a number, or a file name that ends in one."""
    if isinstance(image, str) and (digits := re.findall(r"[0-9]+", Path(image).stem)):
        return int(digits[-1])
    if isinstance(image, int) and not isinstance(image, bool) and image >= 0:
        return image
    raise UserError(f"{where}: image_id {image!r:.40} is not a frame number")


def _check_inside(labels: Labels, frame_size: tuple[int, int]) -> None:
    """Raise UserError for joints that are not in the clip's pixels.

    They would be drawn as a dot, or not at all.
    """
    found = [person for people in labels.people.values() for person in people]
    if not found:
        raise UserError(f"--labels {labels.path}: no person in any frame")
    points = np.concatenate([person.points[person.known] for person in found])
    if (points <= 1).all() and min(frame_size) > 2:
        raise UserError(
            f"--labels {labels.path}: all joints lie between 0 and 1; they must be in pixels"
        )
    outside = ((points < 0) | (points > np.array(frame_size))).any(axis=1).mean()
    if outside > 0.5:
        width, height = frame_size
        raise UserError(
            f"--labels {labels.path}: {outside:.0%} of the joints lie outside of the clip's"
            f" {width} x {height} pixels; were they found in a video of another size?"
        )
