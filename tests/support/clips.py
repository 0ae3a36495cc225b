"""A small clip of a moving person: frames, places, and joints in OpenPose files."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from modules.datasets.pose import JOINTS
from tests.support.data import write_images

WIDTH, HEIGHT = 96, 48  # of the clips of these tests
FRAMES = 60
# A person 30 pixels high, arms stretched out, around its middle.
BODY = {
    **{"nose": (0, -12), "neck": (0, -9), "right_shoulder": (-3, -9), "left_shoulder": (3, -9)},
    **{"right_elbow": (-7, -9), "left_elbow": (7, -9), "right_wrist": (-11, -9)},
    **{"left_wrist": (11, -9), "right_hip": (-2, 2), "left_hip": (2, 2), "right_knee": (-3, 8)},
    **{"left_knee": (3, 8), "right_ankle": (-3, 15), "left_ankle": (3, 15)},
    **{"right_eye": (-1, -13), "left_eye": (1, -13), "right_ear": (-2, -12), "left_ear": (2, -12)},
}
BODY_POINTS = np.array([BODY[name] for name in JOINTS], float)


def middle(t: int) -> tuple[float, float]:
    """Where the person is in frame t."""
    return 48 + 20 * np.sin(t / 5), 26.0


def draw(t: int) -> np.ndarray:
    """Frame t: a person-sized box whose red is 100 + t, on a ground that never repeats."""
    rng = np.random.default_rng(t)
    frame = np.full((HEIGHT, WIDTH, 3), 60, np.uint8)
    frame += rng.integers(0, 3, frame.shape, dtype=np.uint8)
    x, y = (round(v) for v in middle(t))
    frame[y - 13 : y + 16, x - 3 : x + 4] = (100 + t, 20, 20)
    return frame


def make_folder(folder: Path, frames: int = FRAMES, picture: Callable = draw) -> Path:
    return write_images(folder, map(picture, range(frames)))


def write_openpose(
    folder: Path, frames: int = FRAMES, missing: Sequence[int] = (), scale: float = 1
) -> Path:
    folder.mkdir()
    for t in range(frames):
        rows = np.column_stack([scale * (BODY_POINTS + middle(t)), np.full(18, 0.9)])
        people = [] if t in missing else [{"pose_keypoints_2d": rows.ravel().tolist()}]
        (folder / f"dance_{t}_keypoints.json").write_text(json.dumps({"people": people}))
    return folder
