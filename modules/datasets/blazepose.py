"""BlazePose of the package mediapipe: finds one person and its joints, fast.

Bazarevsky et al. 2020, "BlazePose: On-device Real-time Body Pose tracking". Every frame is searched
by itself: the package's own smoothing would lag behind the movement. The detector sees a picture
shrunk to 224 × 224 pixels, in which a small person drowns, so parts of it are searched too.
"""

import atexit
import contextlib
import importlib.util
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from modules.datasets.canvas import Array, Pixels
from modules.datasets.pose import Detections, KeypointModel
from modules.runtime.errors import UserError

VISIBLE = 0.3  # visibility from which a joint counts as found
NEAR_SIDE = 1.8  # side of the square around the last place, in the person's larger side
NEAR_LEAST = 64  # pixels
# Of the 33 landmarks those of COCO's 17 joints: nose, eyes, ears, shoulders, elbows, wrists, hips,
# knees, ankles; left before right.
LANDMARKS = [0, 2, 5, 7, 8, 11, 12, 13, 14, 15, 16, 23, 24, 25, 26, 27, 28]


def why_missing(pose_model: Path | None = None) -> str | None:
    """Why BlazePose cannot be used here, and what to do; None: it can."""
    spec = importlib.util.find_spec("mediapipe")
    if spec is None or spec.origin is None:
        return "the package mediapipe is missing; run: pip install -r requirements-video.txt"
    model = Path(spec.origin).parent / "modules/pose_landmark/pose_landmark_full.tflite"
    if pose_model is None and not model.exists():
        return (
            "this mediapipe carries no model; download pose_landmarker_full.task (Pose Landmarker,"
            ' "full", in the MediaPipe guide on ai.google.dev) and give it with --pose_model'
        )
    return None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what mediapipe's C++ code and an outdated call inside it write to stderr."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with Path(os.devnull).open("w", encoding="utf-8") as nowhere, warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of its call of protobuf's GetPrototype
            os.dup2(nowhere.fileno(), 2)
            yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def load_blazepose(pose_model: Path | None = None) -> KeypointModel:
    """A function from frames (H, W, 3) uint8 RGB to what is found in each. Raises UserError."""
    with _quiet():
        look = _from_file(pose_model) if pose_model else _from_package()
        look(np.zeros((64, 64, 3), np.uint8))  # prints its notices

    def landmarks(part: Pixels) -> Array | None:
        marks = look(np.ascontiguousarray(part))
        return np.array([(m.x, m.y, m.visibility) for m in marks]) if marks else None

    def find(frames: Sequence[Pixels], near: Array | None = None) -> list[Detections]:
        with _quiet():
            return [search(landmarks, frame, near) for frame in frames]

    return find


def _from_package() -> Callable[[Pixels], Any]:
    from mediapipe.python.solutions.pose import Pose

    model = Pose(static_image_mode=True, model_complexity=1)

    def look(part: Pixels) -> Any:
        found = model.process(part).pose_landmarks
        return found.landmark if found else None

    return look


def _from_file(path: Path) -> Callable[[Pixels], Any]:
    import mediapipe
    from mediapipe.tasks.python import BaseOptions, vision

    try:
        options = vision.PoseLandmarkerOptions(BaseOptions(model_asset_buffer=path.read_bytes()))
        model = vision.PoseLandmarker.create_from_options(options)
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"--pose_model {path}: is no model of the Pose Landmarker, such as"
            " pose_landmarker_full.task"
        ) from error
    atexit.register(model.close)  # it complains of being deleted at the very end

    def look(part: Pixels) -> Any:
        found = model.detect(mediapipe.Image(mediapipe.ImageFormat.SRGB, part)).pose_landmarks
        return found[0] if found else None

    return look


def parts(width: int, height: int, near: Array | None) -> list[tuple[int, int, int, int]]:
    """The parts (left, top, width, height) to search, in order. near: the last box (4,), pixels"""
    found, side = [(0, 0, width, height)], min(width, height)
    for share in (0.5, 0.0, 1.0):
        found.append((round(share * (width - side)), round(share * (height - side)), side, side))
    if near is not None:
        size = min(max(round(NEAR_SIDE * float(max(near[2:] - near[:2]))), NEAR_LEAST), side)
        left, top = (round(float(m) - size / 2) for m in (near[:2] + near[2:]) / 2)
        place = min(max(left, 0), width - size), min(max(top, 0), height - size)
        found.insert(0, (*place, size, size))
    return list(dict.fromkeys(found))


def search(find: Callable[[Pixels], Array | None], frame: Pixels, near: Array | None) -> Detections:
    """The person of a frame: around its last place, else in the picture, else in squares of it.

    find: pixels (H, W, 3) → (33, 3) x, y in parts of the picture, visibility; None: nobody
    """
    height, width = frame.shape[:2]
    seen = []
    for index, (left, top, wide, high) in enumerate(parts(width, height, near)):
        found = find(frame[top : top + high, left : left + wide])
        if found is not None:
            seen.append(found * [wide, high, 1] + [left, top, 0])
            if index <= (near is not None):  # in the squares the best one counts
                break
    if not seen:
        return Detections(np.zeros((0, 4)), np.zeros(0), np.zeros((0, 17, 3)))
    joints = max(seen, key=lambda found: found[:, 2].mean())[LANDMARKS]
    inside = ((joints[:, :2] >= 0) & (joints[:, :2] <= [width, height])).all(axis=1)
    joints[:, 2] *= inside  # joints beyond the picture's edge are guesses
    sure = joints[joints[:, 2] > VISIBLE] if (joints[:, 2] > VISIBLE).any() else joints
    box = np.concatenate([sure[:, :2].min(axis=0), sure[:, :2].max(axis=0)])
    return Detections(box[None], np.clip(joints[:, 2].mean(), 0, 1)[None], joints[None])
