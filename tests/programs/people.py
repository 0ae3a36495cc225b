"""A data set of many random people in random rooms, from which modules/people.ckpt is trained.

    python tests/programs/people.py data/people              # 240 people, 24 frames each
    python Trainer.py --preset video --DR data/people --save_root runs/people --frame_H 64 \\
      --frame_W 128 --num_epoch 8
    python tests/programs/people.py modules/people.ckpt --weights runs/people/last.ckpt

Every recording has a person with clothes, skin, girth and room of their own, drawn by the demo's
renderer and seen through a window that crops and stretches the picture. Labels are drawn as the
import of a video draws them. The validation video is of one more person.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from modules.datasets import pose, synthetic
from modules.datasets.motion import JOINTS, perform
from modules.runtime.errors import UserError
from modules.runtime.scripts import ArgumentParser, path_argument, run_as_script

HEIGHT, WIDTH = 64, 128  # pixels of the images; they are rendered twice as large
STEP = 3  # frames of the choreography from one image to the next: more poses for each person
JITTER = 0.004  # of the frame's width: how far a pose detector's joints are off
FACE = [
    pose.JOINTS.index(f"{side}_{part}") for side in ("right", "left") for part in ("eye", "ear")
]

Array = NDArray[np.float64]


def random_scene(rng: np.random.Generator) -> synthetic.Scene:
    """A person of random colours and girth in a random room."""
    scene = synthetic.make_scene(int(rng.integers(2**31)), 2 * HEIGHT, 2 * WIDTH)
    height, width, _ = scene.room.shape
    palette = rng.uniform(0, 1, scene.palette.shape)
    skin, shirt = synthetic.PAINT_INDEX["skin"], synthetic.PAINT_INDEX["shirt"]
    palette[skin] = scene.palette[skin] * rng.uniform(0.7, 1.1)
    for part in ("print", "trousers"):  # of one colour with the shirt, now and then
        if rng.random() < 0.3:
            palette[synthetic.PAINT_INDEX[part]] = palette[shirt]
    room = scene.room * rng.uniform(0.3, 1.15) + rng.uniform(-0.1, 0.2, 3)
    for _ in range(rng.integers(8)):  # furniture
        top, left = rng.integers(height), rng.integers(width)
        bottom = top + rng.integers(height // 16, height // 2)
        right = left + rng.integers(width // 32, width // 2)
        share = rng.uniform(0.3, 1)
        part = room[top:bottom, left:right]
        room[top:bottom, left:right] = (1 - share) * part + share * rng.uniform(0, 1, 3)
    coarse = rng.normal(0, rng.uniform(0, 0.06), (3, height // 8, width // 8)).astype(np.float32)
    texture = [np.asarray(Image.fromarray(x).resize((width, height))) for x in coarse]
    room = np.clip(room + np.stack(texture, axis=-1), 0, 1)
    girth = rng.uniform(0.8, 1.35)
    return synthetic.Scene(
        scene.camera,
        room,
        np.clip(palette, 0, 1),
        [
            rod._replace(start_radius=rod.start_radius * girth, end_radius=rod.end_radius * girth)
            for rod in synthetic.RODS
        ],
        [
            ball._replace(radii=tuple(girth * radius for radius in ball.radii))
            if ball.joint in ("waist", "pelvis")
            else ball
            for ball in synthetic.BALLS
        ],
    )


def openpose_joints(posed: synthetic.Pose) -> Array:
    """The joints of OpenPose in the world, (T, 18, 3)."""
    return posed.joints[:, [JOINTS[name] for name in pose.JOINTS]]


def write_recording(root: Path, split: str, first: int, frames: int, seed: list[int]) -> None:
    """Write the images of one random person, numbered from `first`."""
    rng = np.random.default_rng(seed)
    scene = random_scene(rng)
    moved = perform(rng, STEP * frames, scene.camera)
    posed = synthetic.Pose(moved.joints[::STEP], moved.axes[::STEP])
    share = rng.uniform(0.6, 1)  # of the picture's height; of its width, less: stretched sideways
    size = np.array([share * rng.uniform(0.6, 1) * 2 * WIDTH, share * 2 * HEIGHT])
    corner = rng.uniform(0, 1, 2) * ((2 * WIDTH, 2 * HEIGHT) - size)
    points = scene.camera.project(openpose_joints(posed))[..., :2]
    points = (points - corner) / size * (WIDTH, HEIGHT)
    points += rng.normal(0, JITTER * WIDTH, points.shape)
    known = np.ones(points.shape[:2], dtype=bool)
    # No detector finds eyes and ears from behind.
    facing = posed.axes[:, JOINTS["neck"], :, 2] @ scene.camera.axes[2] / scene.camera.scale  # (T,)
    known[:, FACE] = (facing > -0.4)[:, None]
    labels = pose.draw_labels(points, known, height=HEIGHT, width=WIDTH)
    box = (*corner, *(corner + size))
    for kind in ("img", "label"):
        (root / split / f"{split}_{kind}").mkdir(parents=True, exist_ok=True)
    for t, (frame, label) in enumerate(
        zip(synthetic.render_frames(posed, scene), labels, strict=True), start=first
    ):
        small = Image.fromarray(frame).resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR, box=box)
        small.save(root / split / f"{split}_img/{t}.png")
        Image.fromarray(label).save(root / split / f"{split}_label/{t}.png")


def write_weights(run: Path, out: Path) -> None:
    """What fine-tuning takes from a checkpoint, in half precision: 0.5 MB, not 3."""
    saved = torch.load(run, map_location="cpu", weights_only=True)
    weights = {name: value.half() for name, value in saved["state_dict"].items()}
    options = {name: saved["options"][name] for name in ("frame_H", "frame_W")}
    kept = {name: saved[name] for name in ("config", "labels")}
    torch.save({"state_dict": weights, "options": options, **kept}, out)


def main() -> None:
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=path_argument, metavar="OUT", help="folder or file to write")
    parser.add_argument("--weights", type=path_argument, help="write OUT from this checkpoint")
    parser.add_argument("--people", type=int, default=240, help="training recordings (240)")
    parser.add_argument("--frames", type=int, default=24, help="frames of each (24)")
    given = parser.parse_args()
    if given.weights:
        write_weights(given.weights, given.out)
        return
    if given.out.exists() and any(given.out.iterdir()):
        raise UserError(f"{given.out}: is not empty; name another folder")
    rows = ["start,stop"]
    for person in range(given.people):
        start = person * given.frames
        write_recording(given.out, "train", start, given.frames, [0, person])
        rows.append(f"{start},{start + given.frames}")
    (given.out / "train/clips.csv").write_text("\n".join(rows) + "\n")
    write_recording(given.out, "val", 0, given.frames, [1])
    print(f"{given.out}: {given.people} people, {given.frames} frames each")


if __name__ == "__main__":
    run_as_script(main)
