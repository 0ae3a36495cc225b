"""A procedural data set: a small figure that exercises in a room, and its skeleton labels.

A 3-D skeleton is moved by key-framed exercises (`motion`), dressed in capsules and ellipsoids, lit
from the side and painted with a depth buffer (`canvas`). Room, clothes and light depend on the seed
alone. Shapes: T frames, N body parts, H × W pixels. Axes and units are those of `canvas`.
"""

import colorsys
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from modules.datasets.canvas import TILT, Array, Camera, Canvas, Pixels, shrink, to_bytes
from modules.datasets.motion import JOINTS, SIDES, SOLE, Pose, Vector, perform
from modules.runtime.errors import UserError

FORMAT_VERSION = 1  # raise it when the same arguments give other images
MARKER = "demo.json"  # tells which arguments made the folder


class Rod(NamedTuple):
    """A tapered capsule, fixed to the axes of a joint; lengths in statures."""

    joint: str
    start: Vector
    end: Vector
    start_radius: float
    end_radius: float
    paint: str


class Ball(NamedTuple):
    """An ellipsoid, fixed to the axes of a joint; lengths in statures."""

    joint: str
    centre: Vector
    radii: Vector
    paint: str


RODS = [
    Rod("waist", (-0.085, 0.245, 0), (0.085, 0.245, 0), 0.043, 0.043, "shirt"),
    Rod("waist", (0, 0.25, 0), (0, 0.32, 0.005), 0.033, 0.03, "skin"),
]
BALLS = [
    Ball("waist", (0, 0.165, 0), (0.112, 0.135, 0.07), "shirt"),
    Ball("waist", (0, 0.04, 0), (0.1, 0.11, 0.066), "shirt"),
    Ball("waist", (0, 0.17, 0.045), (0.055, 0.04, 0.032), "print"),  # tells front from back
    Ball("pelvis", (0, 0, 0), (0.1, 0.075, 0.06), "trousers"),
    Ball("neck", (0, 0.09, 0.01), (0.05, 0.075, 0.06), "skin"),
    Ball("neck", (0, 0.116, -0.008), (0.055, 0.06, 0.06), "hair"),
    Ball("neck", (0, 0.082, 0.068), (0.008, 0.014, 0.013), "skin"),
]
for side, sign in SIDES.items():
    toe = (0.02 * sign, -0.025, 0.08)
    RODS += [
        Rod(f"{side}_shoulder", (0, 0, 0), (0, -0.1, 0), 0.044, 0.042, "shirt"),
        Rod(f"{side}_shoulder", (0, -0.02, 0), (0, -0.17, 0), 0.036, 0.03, "skin"),
        Rod(f"{side}_elbow", (0, 0, 0), (0, -0.145, 0), 0.03, 0.021, "skin"),
        Rod(f"{side}_wrist", (0, -0.01, 0), (0, -0.055, 0), 0.024, 0.02, "skin"),
        Rod(f"{side}_hip", (0, -0.015, 0), (0, -0.245, 0), 0.059, 0.045, "trousers"),
        Rod(f"{side}_knee", (0, 0, 0), (0, -0.225, 0), 0.045, 0.033, "trousers"),
        Rod(f"{side}_ankle", (0, -0.02, -0.028), toe, 0.028, 0.023, "shoe"),
    ]
    BALLS.append(Ball("neck", (0.02 * sign, 0.1, 0.063), (0.008, 0.007, 0.008), "hair"))
PAINTS = {  # colours to draw from, 0 … 255
    "shirt": [(205, 52, 46), (226, 108, 30), (24, 132, 138), (168, 44, 112)],
    "print": [(244, 236, 214), (250, 214, 90)],
    "trousers": [(42, 54, 104), (52, 54, 62), (30, 74, 66)],
    "skin": [(232, 184, 150), (205, 150, 112), (142, 94, 66)],
    "hair": [(44, 30, 24), (28, 26, 30), (94, 52, 28)],
    "shoe": [(236, 236, 234), (214, 218, 226)],
    "wall": [(206, 200, 188), (190, 202, 210), (198, 206, 188)],
    "floor": [(142, 108, 78), (118, 106, 98), (160, 132, 98)],
    "carpet": [(58, 110, 122), (86, 78, 124), (72, 112, 78)],
}
PAINT_INDEX = {name: index for index, name in enumerate(PAINTS)}
WALL = -0.9  # z of the wall, in statures


class Scene(NamedTuple):
    """What is the same in all sequences of one seed."""

    camera: Camera
    room: Array  # (H, W, 3) in [0, 1], without the person
    palette: Array  # (P, 3) in [0, 1], the colours of PAINTS


def make_scene(seed: int, height: int, width: int) -> Scene:
    """Draw the room and the clothes of a seed, for frames of height × width pixels."""
    rng = np.random.default_rng([seed, 0])
    camera = Camera(height, width)
    drawn = [np.array(colours[rng.integers(len(colours))]) for colours in PAINTS.values()]
    palette = (np.stack(drawn) + rng.uniform(-8, 8, (len(PAINTS), 3))) / 255
    wall, floor, carpet = palette[[PAINT_INDEX[name] for name in ("wall", "floor", "carpet")]]

    # Per sample: place in the picture, then the point of the wall and of the floor seen there.
    f = camera.fineness
    rows, columns = (np.indices((height * f, width * f)) + 0.5) / f
    x = (columns - camera.origin[0]) / camera.scale
    up = (camera.origin[1] - rows) / camera.scale
    y = (up + WALL * np.sin(TILT)) / np.cos(TILT)
    z = -up / np.sin(TILT)

    mottle = np.zeros_like(x)
    for across, upward, phase in rng.uniform([-9, -9, 0], [9, 9, 2 * np.pi], size=(6, 3)):
        mottle += np.sin(across * x + upward * up + phase) / 6
    lamp = np.exp(-((x + 0.8) ** 2 + (up - 0.95) ** 2) / 1.1)  # on the side that LIGHT comes from
    picture = wall * (0.82 + 0.3 * lamp + 0.03 * mottle)[..., None]
    picture[y < 0.055] *= 0.6  # skirting board

    boards = rng.uniform(0.9, 1.06, size=16)[np.floor(z / 0.14).astype(int) % 16]
    # Nothing stands in one place only: a small model would first have to learn to keep it still.
    on_carpet = np.abs(z + 0.03) < 0.42
    ground = np.where(on_carpet[..., None], carpet, floor * boards[..., None])
    ground *= (0.8 + 0.28 * np.exp(-((x + 0.5) ** 2) / 1.2))[..., None]
    picture = np.where((z > WALL)[..., None], ground, picture)
    return Scene(camera, np.clip(shrink(picture, f), 0, 1), palette)


def _cast_shadow(picture: Array, camera: Camera, feet: Array, pelvis: Array) -> None:
    """Darken the floor in place: narrowly under a foot that is down, widely under the body.

    feet: (2, 3) ankles, and pelvis: (3,), in the world
    """
    wall_row = camera.origin[1] + camera.scale * WALL * np.sin(TILT)
    top = max(int(np.ceil(wall_row)), 0)
    x = (np.arange(camera.width)[None] + 0.5 - camera.origin[0]) / camera.scale
    row = np.arange(top, camera.height)[:, None] + 0.5
    z = (row - camera.origin[1]) / camera.scale / np.sin(TILT)
    far = ((x - pelvis[0] - 0.1) / 0.2) ** 2 + ((z - pelvis[2] + 0.1) / 0.28) ** 2
    light = 1 - 0.36 * np.exp(-far)
    for foot in feet:
        spread = 1 + 4 * (foot[1] - SOLE)  # wider and fainter under a lifted foot
        far = ((x - foot[0] - 0.02) / 0.08) ** 2 + ((z - foot[2]) / 0.16) ** 2
        light *= 1 - 0.5 / spread**2 * np.exp(-far / spread**2)
    picture[top:] *= light[..., None]


def render_frames(pose: Pose, scene: Scene) -> Iterator[Pixels]:
    """Yield the frames (H, W, 3): the person in the room."""
    camera = scene.camera

    def place(joint: str, offset: Vector) -> Array:
        index = JOINTS[joint]
        return camera.project(pose.joints[:, index] + pose.axes[:, index] @ np.array(offset))

    starts = np.stack([place(rod.joint, rod.start) for rod in RODS], axis=1)  # (T, N, 3)
    ends = np.stack([place(rod.joint, rod.end) for rod in RODS], axis=1)
    centres = np.stack([place(ball.joint, ball.centre) for ball in BALLS], axis=1)
    turned = camera.axes @ pose.axes[:, [JOINTS[ball.joint] for ball in BALLS]]
    half_axes = turned * np.array([ball.radii for ball in BALLS])[:, None]  # (T, N, 3, 3)
    ankles = pose.joints[:, [JOINTS[f"{side}_ankle"] for side in SIDES]]

    for t in range(len(pose.joints)):
        picture = scene.room.copy()
        _cast_shadow(picture, camera, ankles[t], pose.joints[t, 0])
        points = np.concatenate([starts[t], ends[t], centres[t]])
        canvas = Canvas(points, 0.15 * camera.scale, camera)  # no part is thicker
        for rod, start, end in zip(RODS, starts[t], ends[t], strict=True):
            radii = camera.scale * rod.start_radius, camera.scale * rod.end_radius
            canvas.rod(start, end, *radii, PAINT_INDEX[rod.paint])
        for ball, centre, axes in zip(BALLS, centres[t], half_axes[t], strict=True):
            canvas.ball(centre, axes, PAINT_INDEX[ball.paint])
        canvas.lay_over(picture, scene.palette, lit=True)
        yield to_bytes(picture)


# The 17 limbs of the 18 joints of OpenPose: 8 right, 8 left, then neck to nose.
CHAINS = ("neck shoulder elbow wrist", "neck hip knee ankle", "nose eye ear")
LIMBS = [
    tuple(joint if joint in JOINTS else f"{side}_{joint}" for joint in limb)
    for side in ("right", "left")
    for chain in CHAINS
    for limb in pairwise(chain.split())
] + [("neck", "nose")]
# Evenly spaced hues: red to green on the right side, cyan to magenta on the left.
LIMB_COLOURS = np.array([colorsys.hsv_to_rgb(i / len(LIMBS), 1, 1) for i in range(len(LIMBS))])


def render_labels(pose: Pose, camera: Camera) -> Iterator[Pixels]:
    """Yield the skeleton images (H, W, 3): coloured limbs on black, nearer ones in front."""
    points = camera.project(pose.joints)
    radius = max(0.7, 0.018 * camera.scale)  # pixels; thinner lines lose their colour
    # A pose estimator finds no eyes or ears from behind: their limbs become thin and vanish.
    towards = pose.axes[:, JOINTS["neck"], :, 2] @ camera.axes[2] / camera.scale  # (T,)
    face_radius = 0.7 * radius * np.clip(0.6 + towards, 0, 1)
    for t in range(len(points)):
        canvas = Canvas(points[t], radius + 1, camera)
        for index, (a, b) in enumerate(LIMBS):
            thickness = face_radius[t] if b.endswith(("eye", "ear")) else radius
            if thickness > 0:
                canvas.rod(points[t, JOINTS[a]], points[t, JOINTS[b]], thickness, thickness, index)
        picture = np.zeros((camera.height, camera.width, 3))
        canvas.lay_over(picture, LIMB_COLOURS, lit=False)
        yield to_bytes(picture)


def make_demo(
    root: Path,
    *,
    train: int = 1200,
    val: int = 300,
    test: int = 3,
    test_length: int = 120,
    seed: int = 0,
    height: int = 32,
    width: int = 64,
) -> None:
    """Write the data set into a new or empty folder; the same arguments give the same bytes.

    train, val: frames; test: number of test sequences, of which only the first frame is written;
    test_length: labels of each. Raises UserError: the folder is not empty or cannot be written.
    """
    arguments = {"train": train, "val": val, "test": test, "test_length": test_length}
    arguments |= {"seed": seed, "height": height, "width": width}
    target = root.resolve()  # the target of a link, so that the link stays
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        if target.exists() and not (target.is_dir() and not any(target.iterdir())):
            raise UserError(f"{root} already exists and is not empty; give another folder")
        partial.mkdir(parents=True)
        scene = make_scene(seed, height, width)
        videos = [("train/train_{}", train, [seed, 1, 0]), ("val/val_{}", val, [seed, 2, 0])]
        videos += [(f"test/test_{{}}/{i}", test_length, [seed, 3, i]) for i in range(test)]
        for name, frames, seeds in videos:
            pose = perform(np.random.default_rng(seeds), frames, scene.camera)
            # Of a test sequence only the first frame is given.
            shown = Pose(pose.joints[:1], pose.axes[:1]) if "test" in name else pose
            kinds = {"img": render_frames(shown, scene), "label": render_labels(pose, scene.camera)}
            for kind, pictures in kinds.items():
                folder = partial / name.format(kind)
                folder.mkdir(parents=True)
                for index, picture in enumerate(pictures):
                    Image.fromarray(picture).save(folder / f"{index}.png")
        text = json.dumps({"format": FORMAT_VERSION, "arguments": arguments}, indent=2)
        (partial / MARKER).write_text(text + "\n", encoding="utf-8")
        if target.exists():
            target.rmdir()
        partial.rename(target)
    except OSError as error:
        raise UserError(f"cannot write {root}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)  # after Ctrl-C, too, nothing half-written stays


@contextmanager
def demo_data(root: Path, *, height: int, width: int, keep: bool) -> Iterator[Path]:
    """A folder with the data set of --preset demo: `root`, where it is made if it is not there yet.

    keep: False makes it for the time of the block alone. Raises UserError: another is there.
    """
    size = {"height": height, "width": width}
    wanted = {"format": FORMAT_VERSION, "arguments": {**(make_demo.__kwdefaults__ or {}), **size}}
    try:
        found = json.loads((root / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    if found == wanted:
        yield root
    elif root.exists():
        raise UserError(
            f"{root} is not the demo's data of {width} x {height} pixels: "
            "move it away, or name data with --DR"
        )
    elif keep:
        print(f"writing the demo's data set to {root}", flush=True)
        make_demo(root, **size)
        yield root
    else:
        with tempfile.TemporaryDirectory() as folder:
            make_demo(Path(folder) / "demo_data", **size)
            yield Path(folder) / "demo_data"
