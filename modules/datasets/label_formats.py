"""Joints as other tools write them: which format a file has, and its people.

    people_of(content)          # the people of one frame's file, or None: not such a file
    entries_of(content)         # of a file of all frames: (frame's id, person) rows

OpenPose 1.0 to 1.7, AlphaPose (list, dictionary), COCO, COCO-WholeBody, Halpe-26 and -136, MMPose,
MediaPipe's landmarks. Of each, the 17 or 18 joints that labels draw are taken.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from modules.datasets.pose import (
    BLAZEPOSE_JOINTS,
    BODY_25_JOINTS,
    COCO_JOINTS,
    JOINTS,
    MPI_JOINTS,
    Person,
    person_from,
)
from modules.runtime.errors import UserError

JOINT_CONFIDENCE = 0.05  # joints below it were not found; OpenPose draws from this value on
LANDMARK_CONFIDENCE = 0.3  # visibility of a MediaPipe landmark
KNOWN = (
    "OpenPose, AlphaPose, COCO, COCO-WholeBody, Halpe, MMPose, MediaPipe landmarks, or tables of"
    " DeepLabCut and SLEAP"
)
OPENPOSE_LAYOUTS: dict[int, Sequence[int | None]] = {
    25: BODY_25_JOINTS,
    18: tuple(range(len(JOINTS))),
    15: MPI_JOINTS,
}
# The first 17 joints are COCO's in all of them: COCO, Halpe-26, COCO-WholeBody, Halpe-136.
COCO_LENGTHS = {17: "COCO", 26: "Halpe-26", 133: "COCO-WholeBody", 136: "Halpe-136"}
OPENPOSE_KEYS = ("pose_keypoints_2d", "pose_keypoints", "body_parts", "joints")


@dataclass
class Found:
    """The people of a file: a row for each, with the frame that it is in."""

    kind: str
    rows: list[tuple[Any, Person | None]] = field(default_factory=list)  # frame's id, person
    # Ids of frames, in order, where the file names all of them, those without people too.
    ids: list[Any] | None = None


def table(where: str, values: Any, joints: Sequence[int]) -> np.ndarray:
    """Flat x, y, c, x, y, c, … as an array (joints, 3). Raises UserError."""
    try:
        array = np.array(values, dtype=np.float64)
    except (TypeError, ValueError):
        array = np.array(np.nan)
    if array.ndim != 1 or not np.isfinite(array).all() or len(array) not in {3 * n for n in joints}:
        wanted = " or ".join(str(3 * n) for n in joints)
        raise UserError(f"{where} is not a list of {wanted} numbers x, y, confidence, …")
    return array.reshape(-1, 3)


# ----------------------------------------------------------------------------------------
# One frame


def openpose_people(where: str, people: Any) -> list[Person]:
    """The people of one frame as OpenPose writes them. Raises UserError."""
    if not isinstance(people, list):
        raise UserError(f'{where}: is not OpenPose output (it has no list "people")')
    found = []
    for index, entry in enumerate(people):
        about = entry if isinstance(entry, dict) else {}
        key = next((key for key in OPENPOSE_KEYS if key in about), OPENPOSE_KEYS[0])
        rows = table(f"{where}: {key} of person {index}", about.get(key), tuple(OPENPOSE_LAYOUTS))
        person = person_from(rows, OPENPOSE_LAYOUTS[len(rows)], JOINT_CONFIDENCE)
        if person:
            found.append(person)
    return found


def mmpose_people(where: str, instances: Any) -> list[Person]:
    """The people of one frame as MMPose writes them ("instances"). Raises UserError."""
    found = []
    for index, entry in enumerate(instances if isinstance(instances, list) else [instances]):
        about = entry if isinstance(entry, dict) else {}
        try:
            points = np.array(about.get("keypoints"), np.float64).reshape(-1, 2)
            scores = np.array(about.get("keypoint_scores", np.ones(len(points))), np.float64)
            rows = np.column_stack([points, scores.reshape(-1)])
        except (TypeError, ValueError) as error:
            raise UserError(f"{where}: instance {index} has no keypoints (x, y)") from error
        if len(rows) not in COCO_LENGTHS or not np.isfinite(rows).all():
            raise UserError(
                f"{where}: instance {index} has {len(rows)} keypoints; those of COCO (17, 133) and"
                " Halpe (26, 136) are known"
            )
        person = person_from(rows, COCO_JOINTS, JOINT_CONFIDENCE)
        if person:
            found.append(person)
    return found


def landmark_people(where: str, frame: Any, size: tuple[int, int]) -> list[Person]:
    """The people of one frame as dumps of MediaPipe have them. Raises UserError.

    frame: None, 33 landmarks {x, y, visibility} with x and y in parts of the picture, or several
           lists of them; also as "landmarks", "pose_landmarks" or "landmark" of a dictionary
    """
    while isinstance(frame, dict):
        frame = next((frame[key] for key in LANDMARK_KEYS if key in frame), None)
    if not frame:
        return []
    several = frame if isinstance(frame[0], list) else [frame]
    if several and several[0] and not isinstance(several[0][0], dict):
        several = [frame]  # rows x, y, z, visibility
    found = []
    for landmarks in several:
        try:
            rows = np.array([_landmark(entry) for entry in landmarks], np.float64)
        except (TypeError, ValueError, KeyError, IndexError) as error:
            raise UserError(f"{where}: a landmark has no x and y") from error
        if len(rows) != len(BLAZEPOSE_JOINTS) or not np.isfinite(rows).all():
            raise UserError(f"{where}: {len(rows)} landmarks; MediaPipe's pose has 33")
        person = landmarks_to_person(rows, size, LANDMARK_CONFIDENCE)
        if person:
            found.append(person)
    return found


LANDMARK_KEYS = ("pose_landmarks", "poseLandmarks", "landmarks", "landmark", "pose")


def _landmark(entry: Any) -> tuple[float, float, float]:
    if isinstance(entry, dict):
        return float(entry["x"]), float(entry["y"]), float(entry.get("visibility", 1.0))
    return float(entry[0]), float(entry[1]), float(entry[3] if len(entry) > 3 else 1.0)


def landmarks_to_person(rows: np.ndarray, size: tuple[int, int], threshold: float) -> Person | None:
    """A person from MediaPipe's 33 landmarks, (33, 3) x, y in parts of the picture, visibility.

    Landmarks outside of the picture are guesses and do not count.
    """
    inside = ((rows[:, :2] >= 0) & (rows[:, :2] <= 1)).all(axis=1)
    places = np.column_stack([rows[:, :2] * np.array(size), np.where(inside, rows[:, 2], 0)])
    return person_from(places, BLAZEPOSE_JOINTS, threshold)


def people_of(where: str, content: Any, size: tuple[int, int]) -> tuple[str, list[Person]] | None:
    """The format and the people of one frame's file; None: it is not of one frame.

    Raises UserError: its numbers are wrong.
    """
    if isinstance(content, dict):
        for key in ("people", "bodies"):
            if key in content:
                kind = "OpenPose JSON" if key == "people" else "AlphaPose JSON"
                return kind, openpose_people(where, content[key])
        if isinstance(content.get("instances"), list):
            return "MMPose JSON", mmpose_people(where, content["instances"])
        if any(key in content for key in LANDMARK_KEYS):
            return "MediaPipe JSON", landmark_people(where, content, size)
    if isinstance(content, list) and content and isinstance(content[0], dict):
        if "keypoint_scores" in content[0]:
            return "MMPose JSON", mmpose_people(where, content)
        if len(content) == len(BLAZEPOSE_JOINTS) and "x" in content[0]:
            return "MediaPipe JSON", landmark_people(where, content, size)
    return None


# ----------------------------------------------------------------------------------------
# All frames in one file


def entries_of(where: str, content: Any, size: tuple[int, int]) -> Found:
    """The people of a file that holds all frames. Raises UserError: unknown, or wrong numbers."""
    if isinstance(content, dict) and isinstance(content.get("instance_info"), list):
        content = content["instance_info"]
    if isinstance(content, dict) and "annotations" in content:
        return _annotations(where, content["annotations"])
    if isinstance(content, dict) and content and all(_is_frame(v) for v in content.values()):
        found = Found("AlphaPose JSON", ids=list(content))
        for name, frame in content.items():
            key = "people" if "people" in frame else "bodies"
            for person in openpose_people(f"{where}: {name}", frame[key]):
                found.rows.append((name, person))
        return found
    if isinstance(content, list):
        first = next((entry for entry in content if entry), None)
        if isinstance(first, dict) and "instances" in first:
            return _mmpose_frames(where, content)
        if isinstance(first, list) or (
            isinstance(first, dict) and any(key in first for key in LANDMARK_KEYS)
        ):
            found = Found("MediaPipe JSON", ids=list(range(len(content))))
            for t, frame in enumerate(content):
                people = landmark_people(f"{where}: frame {t}", frame, size)
                found.rows += [(t, person) for person in people]
            return found
        return _annotations(where, content)
    keys = ", ".join(map(str, list(content)[:5])) if isinstance(content, dict) else ""
    holds = f"a dictionary of {keys}" if keys else f"{type(content).__name__}"
    raise UserError(
        f"{where}: unknown kind of labels ({holds}): neither OpenPose output nor COCO keypoints;"
        f" known are {KNOWN}"
    )


def _is_frame(value: Any) -> bool:
    return isinstance(value, dict) and ("bodies" in value or "people" in value)


def _mmpose_frames(where: str, content: list[Any]) -> Found:
    found = Found("MMPose JSON", ids=[])
    assert found.ids is not None
    for t, entry in enumerate(content):
        if not isinstance(entry, dict) or "instances" not in entry:
            raise UserError(f'{where}: frame {t} has no "instances"')
        found.ids.append(entry.get("frame_id", t))
        for person in mmpose_people(f"{where}: frame {t}", entry["instances"]):
            found.rows.append((found.ids[-1], person))
    return found


def _annotations(where: str, entries: Any) -> Found:
    """COCO's annotations or results, and AlphaPose's list, which has the same form."""
    if not isinstance(entries, list):
        raise UserError(f'{where}: "annotations" is not a list')
    found = Found("COCO JSON")
    for index, entry in enumerate(entries):
        at = f"{where}: annotation {index}"
        if not isinstance(entry, dict) or "image_id" not in entry or "keypoints" not in entry:
            raise UserError(f"{at} has no image_id or no keypoints")
        rows = table(f"{at}, keypoints", entry["keypoints"], tuple(COCO_LENGTHS))
        if len(rows) != 17:
            found.kind = f"{COCO_LENGTHS[len(rows)]} JSON"
        image, score = entry["image_id"], entry.get("score")
        negative = isinstance(image, int) and image < 0
        if isinstance(image, bool) or not isinstance(image, int | str) or negative:
            raise UserError(f"{at}: image_id {image!r:.40} is not a frame number")
        certain = min(float(score), 1.0) if isinstance(score, int | float) and score > 0 else None
        person = person_from(rows, COCO_JOINTS, JOINT_CONFIDENCE, score=certain)
        found.rows.append((image, person))
    return found
