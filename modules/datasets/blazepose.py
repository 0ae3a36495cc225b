"""BlazePose of the package mediapipe: finds one person and its joints, fast, without a download.

    find_people = load_blazepose()
    (found,) = find_people([frame], near=None)

Bazarevsky et al. 2020, "BlazePose: On-device Real-time Body Pose tracking". The package carries the
weights (detector 3 MB, landmarks 6.4 MB) up to version 0.10.14, and takes tens of milliseconds a
frame on one core. Every frame is searched by itself: the package's own smoothing would lag behind
the movement.

The detector sees a picture shrunk to 224 × 224 pixels, in which a small person drowns. Where it
finds nobody, it is shown square parts: around the last place, then three that cover the picture.
"""

import contextlib
import importlib.util
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modules.datasets.pose import (
    BLAZEPOSE_JOINTS,
    COCO_JOINTS,
    Detections,
    KeypointModel,
)
from modules.runtime.errors import UserError

Pixels = NDArray[np.uint8]
Array = NDArray[np.float64]

VERSION = "0.10.14"  # the last release of mediapipe that carries the model
INSTALL = "pip install -r requirements-video.txt"
VISIBLE = 0.3  # visibility from which a joint counts as found
NEAR_SIDE = 1.8  # side of the square around the last place, in the person's larger side
NEAR_LEAST = 64  # pixels
# For each of COCO's 17 joints its landmark.
LANDMARKS = [BLAZEPOSE_JOINTS.index(place) for place in COCO_JOINTS]


def why_missing() -> str | None:
    """Why BlazePose cannot be used here, and what to do; None: it can."""
    spec = importlib.util.find_spec("mediapipe")
    if spec is None or spec.origin is None:
        if sys.version_info >= (3, 13):
            python = ".".join(map(str, sys.version_info[:2]))
            return (
                f"mediapipe {VERSION} exists for Python 3.10 to 3.12, and this is {python}; import"
                " the video in an environment of Python 3.12 (the data set works everywhere), or"
                " use --detector rcnn or --labels"
            )
        return f"the package mediapipe is missing; run: {INSTALL}"
    model = Path(spec.origin).parent / "modules/pose_landmark/pose_landmark_full.tflite"
    if not model.exists():
        return f"this mediapipe no longer carries the model; run: pip install mediapipe=={VERSION}"
    return None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what mediapipe's C++ code and an outdated call inside it write to stderr."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with Path(os.devnull).open("w", encoding="utf-8") as nowhere, warnings.catch_warnings():
            # Its own call of protobuf's deprecated GetPrototype; a user can do nothing about it.
            warnings.simplefilter("ignore", UserWarning)
            os.dup2(nowhere.fileno(), 2)
            yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def load_blazepose() -> KeypointModel:
    """A function from frames (H, W, 3) uint8 RGB to what is found in each.

    Raises UserError: the package is missing, or of a version without the model.
    """
    if why := why_missing():
        raise UserError(f"--detector blazepose: {why}")
    with _quiet():
        from mediapipe.python.solutions.pose import (  # type: ignore[import-not-found,import-untyped,unused-ignore]
            Pose,
        )

        model = Pose(static_image_mode=True, model_complexity=1)
        _landmarks(model, np.zeros((64, 64, 3), np.uint8))  # prints its notices

    def find(frames: Sequence[Pixels], near: Array | None = None) -> list[Detections]:
        with _quiet():
            return [search(lambda part: _landmarks(model, part), f, near) for f in frames]

    return find


def _landmarks(model: Any, part: Pixels) -> Array | None:
    """(33, 3) x, y in parts of the picture, visibility; None: nobody."""
    found = model.process(np.ascontiguousarray(part)).pose_landmarks
    if found is None:
        return None
    return np.array([(mark.x, mark.y, mark.visibility) for mark in found.landmark])


def squares(width: int, height: int, near: Array | None) -> list[tuple[int, int, int]]:
    """The square parts (left, top, side) in which a person is looked for, in groups of their own.

    near: (4,) the person's last box, pixels
    """
    parts = []
    side = min(width, height)
    if near is not None:
        larger = max(near[2] - near[0], near[3] - near[1])
        size = min(max(round(NEAR_SIDE * float(larger)), NEAR_LEAST), side)
        middle = (near[:2] + near[2:]) / 2
        left, top = (round(float(m) - size / 2) for m in middle)
        parts.append((min(max(left, 0), width - size), min(max(top, 0), height - size), size))
    for share in (0.5, 0.0, 1.0):
        parts.append((round(share * (width - side)), round(share * (height - side)), side))
    return list(dict.fromkeys(parts))


def search(find: Any, frame: Pixels, near: Array | None) -> Detections:
    """The person of a frame: in the whole picture, else in square parts of it.

    find: pixels → (33, 3) landmarks or None
    """
    height, width = frame.shape[:2]
    best: Array | None = find(frame)
    if best is None:
        parts = squares(width, height, near)
        for index, (left, top, side) in enumerate(parts):
            found = find(frame[top : top + side, left : left + side])
            if found is not None:
                scale = np.array([side / width, side / height, 1.0])
                found = found * scale + np.array([left / width, top / height, 0.0])
                if best is None or found[:, 2].mean() > best[:, 2].mean():
                    best = found
                if index == 0 and near is not None:
                    break
    if best is None:
        return Detections(np.zeros((0, 4)), np.zeros(0), np.zeros((0, 17, 3)))
    inside = np.logical_and(best[:, :2] >= 0, best[:, :2] <= 1).all(axis=1)
    joints = best[LANDMARKS] * np.array([width, height, 1.0])
    joints[:, 2] *= inside.take(LANDMARKS)  # joints beyond the picture's edge are guesses
    seen = joints[joints[:, 2] > VISIBLE] if (joints[:, 2] > VISIBLE).any() else joints
    box = np.concatenate([seen[:, :2].min(axis=0), seen[:, :2].max(axis=0)])
    return Detections(box[None], np.clip(joints[:, 2].mean(), 0, 1)[None], joints[None])
