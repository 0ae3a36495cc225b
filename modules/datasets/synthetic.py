"""A procedural data set: a small figure that exercises in a room, and its skeleton labels.

    make_demo(Path("data/demo"))    # 1,200 + 300 frames, 3 test sequences; about ten seconds

Nothing is downloaded: a 3-D skeleton is moved by key-framed exercises, dressed in capsules and
ellipsoids, lit from the side and painted with a depth buffer. Room, clothes and light depend on
the seed alone, so that they can be learned; each sequence draws its own exercises.

Shapes: T frames, J joints, N body parts, H × W pixels. World axes: x to the right of the picture,
y up, z towards the camera; lengths in statures (a standing person is 1 high), angles in degrees.
Camera axes: column, row and nearness, all in pixels.
"""

import colorsys
import inspect
import json
import shutil
import uuid
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from modules.datasets.canvas import TILT, Camera, Canvas, shrink, to_bytes
from modules.runtime.errors import UserError

FORMAT_VERSION = 1  # raise it when the same arguments give other pictures: old folders differ then
MARKER = "demo.json"  # tells what made the folder

Array = NDArray[np.float64]
Vector = tuple[float, float, float]
SIDES = {"left": 1.0, "right": -1.0}  # sign of x on that side of a person who faces the camera
SOLE = 0.045  # height of the ankle above the ground


# --- Skeleton and forward kinematics --------------------------------------------------------------


def _skeleton() -> dict[str, tuple[str, Vector]]:
    """Return joint → (parent, offset in the parent's axes); parents first, the pelvis first."""
    joints: dict[str, tuple[str, Vector]] = {
        "pelvis": ("", (0, 0, 0)),
        "waist": ("pelvis", (0, 0.03, 0)),
        "neck": ("waist", (0, 0.275, 0)),
        "nose": ("neck", (0, 0.085, 0.07)),
        "crown": ("neck", (0, 0.165, 0)),
    }
    for side, sign in SIDES.items():
        joints |= {
            f"{side}_eye": ("neck", (0.022 * sign, 0.105, 0.055)),
            f"{side}_ear": ("neck", (0.052 * sign, 0.095, 0)),
            f"{side}_shoulder": ("waist", (0.108 * sign, 0.25, 0)),
            f"{side}_elbow": (f"{side}_shoulder", (0, -0.17, 0)),
            f"{side}_wrist": (f"{side}_elbow", (0, -0.145, 0)),
            f"{side}_fingers": (f"{side}_wrist", (0, -0.075, 0)),
            f"{side}_hip": ("pelvis", (0.055 * sign, 0, 0)),
            f"{side}_knee": (f"{side}_hip", (0, -0.245, 0)),
            f"{side}_ankle": (f"{side}_knee", (0, -0.24, 0)),
            f"{side}_heel": (f"{side}_ankle", (0, -SOLE, -0.05)),
            f"{side}_toe": (f"{side}_ankle", (0.025 * sign, -SOLE, 0.1)),
        }
    return joints


SKELETON = _skeleton()
JOINTS = {name: index for index, name in enumerate(SKELETON)}

# What moves. flex, raise, roll: upper arm forward, outward, about its own axis (90 turns a bent
# elbow inward when the arm is up); thigh, splay: leg forward, outward; elbow, knee: bending.
LIMB_ANGLES = ("flex", "raise", "roll", "elbow", "thigh", "splay", "knee")
ANGLES = ["yaw", "bow", "lean", "twist", "nod", "look"]
ANGLES += [f"{side}_{name}" for side in SIDES for name in LIMB_ANGLES]
REST = {"raise": 9.0, "elbow": 14.0, "splay": 3.0}  # relaxed arms hang a little away and bent


class Pose(NamedTuple):
    """A moving skeleton."""

    joints: Array  # (T, J, 3), where each joint is in the world, in statures
    axes: Array  # (T, J, 3, 3), columns: the axes that turn with each joint


def _rotation(axis: int, degrees: Array) -> Array:
    """Return the rotations (T, 3, 3) about axis 0 (x), 1 (y) or 2 (z) by angles (T,)."""
    i, j = (axis + 1) % 3, (axis + 2) % 3
    radians = np.deg2rad(degrees)
    matrices = np.zeros((len(radians), 3, 3))
    matrices[:, axis, axis] = 1
    matrices[:, i, i] = matrices[:, j, j] = np.cos(radians)
    matrices[:, j, i] = np.sin(radians)
    matrices[:, i, j] = -matrices[:, j, i]
    return matrices


def forward_kinematics(angles: dict[str, Array]) -> Pose:
    """Place all joints, the pelvis at the origin.

    Args:
        angles: for each name of ANGLES, an array (T,) in degrees.
    """
    x, y, z = 0, 1, 2
    turn = {"waist": _rotation(y, angles["twist"]) @ _rotation(z, -angles["lean"])}
    turn["waist"] = turn["waist"] @ _rotation(x, angles["bow"])
    turn["neck"] = _rotation(y, angles["look"]) @ _rotation(x, angles["nod"])
    for side, sign in SIDES.items():
        angle = {name: angles[f"{side}_{name}"] for name in LIMB_ANGLES}
        arm = _rotation(z, sign * angle["raise"]) @ _rotation(x, -angle["flex"])
        turn[f"{side}_shoulder"] = arm @ _rotation(y, sign * angle["roll"])
        turn[f"{side}_elbow"] = _rotation(x, -angle["elbow"])
        turn[f"{side}_hip"] = _rotation(z, sign * angle["splay"]) @ _rotation(x, -angle["thigh"])
        turn[f"{side}_knee"] = _rotation(x, angle["knee"])

    joints = np.zeros((len(angles["yaw"]), len(JOINTS), 3))
    axes = np.zeros((*joints.shape, 3))
    axes[:, 0] = _rotation(y, angles["yaw"])
    for name, (parent_name, offset) in list(SKELETON.items())[1:]:
        index, parent = JOINTS[name], JOINTS[parent_name]
        joints[:, index] = joints[:, parent] + axes[:, parent] @ np.array(offset)
        axes[:, index] = axes[:, parent] @ turn[name] if name in turn else axes[:, parent]
        if name.endswith("ankle"):
            axes[:, index] = axes[:, 0]  # soles stay level, whatever the leg does
    return Pose(joints, axes)


def stand_on_floor(pose: Pose) -> Array:
    """Return where the pelvis is, (T, 3) in statures, so that the feet carry the person.

    The lowest heel or toe touches the floor (y = 0), and the foot that carries the weight does not
    slide: the pelvis moves against it. That is what makes steps travel and legs swing freely.
    """
    soles = [[JOINTS[f"{side}_heel"], JOINTS[f"{side}_toe"]] for side in SIDES]
    lowest = pose.joints[:, soles, 1].min(axis=2)  # (T, 2 feet)
    height = -lowest.min(axis=1)
    weight = np.exp(-(lowest + height[:, None]) / 0.008)
    weight /= weight.sum(axis=1, keepdims=True)
    ankles = pose.joints[:, [JOINTS[f"{side}_ankle"] for side in SIDES]]
    carried = np.diff(ankles, axis=0) * ((weight[1:] + weight[:-1]) / 2)[..., None]
    path = np.zeros((len(height), 3))
    path[1:] = -np.cumsum(carried.sum(axis=1), axis=0)
    path[:, 1] = height
    return path


# --- Exercises ------------------------------------------------------------------------------------

# One repetition each: for every angle that moves, keys phase:value with the phase in per cent of
# the repetition and degrees from rest, where it starts and ends. "lead" and "trail" become left
# and right or the reverse; lean, twist and look count towards the lead side. Values are the widest
# amplitude. Arms overhead stay a little bent, because the picture ends there.
EXERCISES = {
    "jumping jack": "both raise 50:150; both roll 50:90; both elbow 50:35; both splay 50:17",
    "arms forward and up": "both flex 40:150 60:150; both elbow 40:8 60:8; nod 50:-8",
    "arms out": "both raise 35:82 65:82; both elbow 35:-8 65:-8",
    "arm circles": "both raise 30:75 55:140 80:70; both flex 25:50 80:-25; both elbow 50:15",
    "press": """both raise 25:72 50:138 75:72; both roll 25:90 75:90;
                both elbow 25:90 50:32 75:90""",
    "curls": """lead elbow 25:118 50:0; lead flex 25:15 50:0;
                trail elbow 50:0 75:118; trail flex 50:0 75:15""",
    "punches": """lead flex 15:30 35:84 55:30 88:30; lead elbow 15:105 35:0 55:105 88:105;
                  trail flex 12:30 45:30 65:84 85:30; trail elbow 12:105 45:105 65:0 85:105;
                  twist 35:-22 65:22""",
    "wave": """lead raise 20:100 80:100; lead roll 20:90 80:90;
               lead elbow 20:70 35:15 50:80 65:15 80:70; look 30:20 70:20""",
    "bow": "bow 42:65 58:65; both flex 42:58 58:58; both thigh 42:10 58:10; nod 50:12",
    "side bend": """lean 42:28 58:28; trail raise 42:145 58:145; trail roll 42:90 58:90;
                    trail elbow 42:58 58:58; both splay 30:9 70:9""",
    "twists": "twist 30:48 70:-48; both raise 18:72 82:72; both elbow 18:80 82:80",
    "squat": """both thigh 45:75 55:75; both knee 45:108 55:108; both splay 30:5 70:5;
                bow 45:28 55:28; both flex 45:80 55:80""",
    "march": """lead thigh 25:82 50:0; lead knee 25:92 50:0; lead flex 25:-28 75:45;
                trail thigh 50:0 75:82; trail knee 50:0 75:92; trail flex 25:45 75:-28;
                both elbow 20:60 80:60""",
    "leg out": """lead splay 42:40 58:40; trail splay 25:-6 75:-6; lean 50:-9;
                  both raise 42:50 58:50""",
    "kick": """lead thigh 10:8 25:-14 50:72 90:12; lead knee 10:40 25:55 50:4 90:30;
               trail splay 25:-5 75:-5; lead flex 20:20 50:-35; trail flex 20:-15 50:65""",
    "lunge": """lead thigh 25:62 45:62 58:62 75:50; lead knee 25:75 45:62 58:62 75:75;
                trail thigh 45:-22 58:-22; trail knee 45:38 58:38;
                both raise 35:38 65:38; both roll 35:-60 65:-60; both elbow 35:85 65:85""",
}
LONGER = {"wave": 1.5, "lunge": 1.5, "march": 1.3, "punches": 1.4}  # × the common duration

# Small steps on the spot while the whole body turns.
TURN = """lead thigh 20:28 40:0 60:28 80:0; lead knee 20:48 40:0 60:48 80:0;
          trail thigh 20:0 40:28 60:0 80:28; trail knee 20:0 40:48 60:0 80:48;
          both elbow 30:35 70:35"""
FACINGS = (0, 0, 0, 0, 35, -35, 65, -65, 90, -90, 180)  # degrees; mostly towards the camera

# Lift the foot, land wide on a bent standing leg, shift the weight, close.
SIDE_STEP = """lead splay 12:1 30:26 50:14 70:-2; trail splay 30:-2 50:14 70:26 88:1;
               lead thigh 15:24 30:0 50:0 70:24; lead knee 15:48 30:0 50:0 70:48;
               trail thigh 30:24 50:0 70:0 85:24; trail knee 30:48 50:0 70:0 85:48;
               both raise 50:40"""
STEP_LENGTH = 0.18  # statures that stand_on_floor makes of it

Keys = list[tuple[float, float]]


def _parse(exercise: str, lead: str) -> dict[str, Keys]:
    """Return names of ANGLES → keys (phase in ]0, 1[, degrees) of an exercise led by one side."""
    trail = "right" if lead == "left" else "left"
    sides = {"lead": [lead], "trail": [trail], "both": [lead, trail]}
    curves: dict[str, Keys] = {}
    for line in exercise.split(";"):
        words = line.split()
        pairs = [word.split(":") for word in words if ":" in word]
        keys = [(float(phase) / 100, float(value)) for phase, value in pairs]
        if words[0] in sides:
            curves |= {f"{side}_{words[1]}": keys for side in sides[words[0]]}
        else:
            sign = SIDES[lead] if words[0] in ("lean", "twist", "look") else 1.0
            curves[words[0]] = [(phase, sign * value) for phase, value in keys]
    return curves


def smooth_curve(times: Array, values: Array, at: Array) -> Array:
    """Interpolate keys by cubic pieces that do not overshoot and come to rest where they turn.

    Slopes at the keys: harmonic means, Fritsch & Butland 1984, "A method for constructing local
    monotone piecewise cubic interpolants".

    Args:
        times, values: (K,), times strictly increasing.
        at: (T,), within the keys or constant beyond them.
    """
    span = np.diff(times)
    slope = np.diff(values) / span
    before, after = slope[:-1], slope[1:]
    same_way = before * after > 0
    tangent = np.zeros_like(values)
    np.divide(2 * before * after, before + after, out=tangent[1:-1], where=same_way)
    piece = np.clip(np.searchsorted(times, at, side="right") - 1, 0, len(span) - 1)
    u = np.clip((at - times[piece]) / span[piece], 0, 1)
    rise = u * u * (3 - 2 * u)
    bend = u * (1 - u) * (tangent[piece] * (1 - u) - tangent[piece + 1] * u) * span[piece]
    return np.asarray(values[piece] * (1 - rise) + values[piece + 1] * rise + bend)


def choreograph(
    rng: np.random.Generator, frames: int, spot: float, reach: float
) -> dict[str, Array]:
    """Draw exercises in random order, speed, width and number until the frames are filled.

    Args:
        frames: length T at some 20 frames/s.
        spot: x where the person starts, the middle being 0, in statures.
        reach: how far from the middle side steps lead, in statures.

    Returns:
        For each name of ANGLES, an array (T,) in degrees.
    """
    keys: dict[str, Keys] = {name: [(-1.0, 0.0)] for name in ANGLES}
    clock, facing = float(rng.uniform(0, 6)), 0.0  # frames, degrees
    deck: list[str] = []

    def draw_side() -> str:
        return "left" if rng.random() < 0.5 else "right"

    def repeat(curves: dict[str, Keys], duration: float, amount: float = 1.0) -> float:
        for name, curve in curves.items():
            keys[name].append((clock, 0.0))
            keys[name] += [(clock + phase * duration, amount * value) for phase, value in curve]
            keys[name].append((clock + duration, 0.0))
        return clock + duration

    while clock < frames:
        # A shuffled deck, so that even a short sequence shows many different exercises.
        deck = deck or [str(name) for name in rng.permutation(list(EXERCISES))]
        name = deck.pop()
        curves = _parse(EXERCISES[name], draw_side())
        others = [_parse(other, draw_side()) for other in EXERCISES.values()]
        others = [other for other in others if not curves.keys() & other.keys()]
        if others and rng.random() < 0.6:  # two at once, say arms out while marching
            curves |= others[rng.integers(len(others))]
        duration = LONGER.get(name, 1.0) * rng.uniform(14, 24)  # frames
        amount = rng.uniform(0.75, 1.0)
        for _ in range(rng.integers(1, 4)):
            clock = repeat(curves, duration, amount * rng.uniform(0.92, 1.0))
        clock += rng.uniform(0, 4)

        if rng.random() < 0.5:
            target = float(rng.choice(FACINGS)) + rng.uniform(-12, 12)
            turn = (target - facing + 180) % 360 - 180  # the shorter way round
            keys["yaw"].append((clock, facing))
            clock = repeat(_parse(TURN, "left" if turn > 0 else "right"), 10 + 0.14 * abs(turn))
            facing += turn
            keys["yaw"].append((clock, facing))
        across = np.cos(np.deg2rad(facing))  # how much of a side step the camera sees
        if rng.random() < 0.85 and abs(across) > 0.6:
            steps = round((rng.uniform(-reach, reach) - spot) / (STEP_LENGTH * across))
            curves = _parse(SIDE_STEP, "left" if steps > 0 else "right")
            duration = rng.uniform(13, 20)
            for _ in range(abs(steps)):
                clock = repeat(curves, duration)
            spot += steps * STEP_LENGTH * across

    return _play(keys, frames, rng)


def _play(keys: dict[str, Keys], frames: int, rng: np.random.Generator) -> dict[str, Array]:
    """Turn keys (frame, degrees from rest) into angles (T,), with some sway added."""
    at = np.arange(frames, dtype=np.float64)
    angles = {}
    for name, points in keys.items():
        # Where one repetition ends and the next begins the same key is there twice.
        unique = dict([*points, (points[-1][0] + 1, points[-1][1])])
        angles[name] = smooth_curve(np.array(list(unique)), np.array(list(unique.values())), at)
        angles[name] += REST.get(name.partition("_")[2], 0.0)
    sway = {"yaw": 2.5, "bow": 1.2, "lean": 1.2, "look": 5.0, "nod": 3.0}  # nobody is ever still
    sway |= {f"{side}_{name}": 2.5 for side in SIDES for name in ("raise", "flex")}
    for name, width in sway.items():
        periods, phases = rng.uniform(30, 120, size=3), rng.uniform(0, 2 * np.pi, size=3)
        waves = np.sin(2 * np.pi * at[:, None] / periods + phases)
        angles[name] += 1.5 * width * waves.mean(axis=1)
    return angles


# --- Performance ----------------------------------------------------------------------------------


def perform(rng: np.random.Generator, frames: int, camera: Camera) -> Pose:
    """Return a person who exercises on the floor, in the camera's view, for `frames` frames."""
    half = camera.width / camera.scale / 2
    reach = max(half - 0.58, 0.02)  # half the span of the arms is 0.5
    start = rng.uniform(-0.9, 0.9) * reach
    pose = forward_kinematics(choreograph(rng, frames, start, 0.9 * reach))
    path = stand_on_floor(pose)
    path[:, 0] += start
    # Drift is bent back softly; where arms would still leave the picture, the person is moved.
    for axis, limit in ((0, reach), (2, 0.06)):
        path[:, axis] = limit * np.tanh(path[:, axis] / limit)
    x, margin = pose.joints[..., 0], half - 0.03
    path[:, 0] = np.clip(path[:, 0], -margin - x.min(axis=1), margin - x.max(axis=1))
    return Pose(pose.joints + path[:, None], pose.axes)


# --- Person and room ------------------------------------------------------------------------------


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


def _body() -> tuple[list[Rod], list[Ball]]:
    rods = [
        Rod("waist", (-0.085, 0.245, 0), (0.085, 0.245, 0), 0.043, 0.043, "shirt"),
        Rod("waist", (0, 0.25, 0), (0, 0.32, 0.005), 0.033, 0.03, "skin"),
    ]
    balls = [
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
        rods += [
            Rod(f"{side}_shoulder", (0, 0, 0), (0, -0.1, 0), 0.044, 0.042, "shirt"),
            Rod(f"{side}_shoulder", (0, -0.02, 0), (0, -0.17, 0), 0.036, 0.03, "skin"),
            Rod(f"{side}_elbow", (0, 0, 0), (0, -0.145, 0), 0.03, 0.021, "skin"),
            Rod(f"{side}_wrist", (0, -0.01, 0), (0, -0.055, 0), 0.024, 0.02, "skin"),
            Rod(f"{side}_hip", (0, -0.015, 0), (0, -0.245, 0), 0.059, 0.045, "trousers"),
            Rod(f"{side}_knee", (0, 0, 0), (0, -0.225, 0), 0.045, 0.033, "trousers"),
            Rod(f"{side}_ankle", (0, -0.02, -0.028), toe, 0.028, 0.023, "shoe"),
        ]
        balls.append(Ball("neck", (0.02 * sign, 0.1, 0.063), (0.008, 0.007, 0.008), "hair"))
    return rods, balls


RODS, BALLS = _body()
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
    """What stays the same in all sequences of one seed."""

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
    # A carpet along the whole room. Nothing in the room stands at one place only: a small model
    # that feeds its own frames back would first have to learn to hold such a thing still.
    on_carpet = np.abs(z + 0.03) < 0.42
    ground = np.where(on_carpet[..., None], carpet, floor * boards[..., None])
    ground *= (0.8 + 0.28 * np.exp(-((x + 0.5) ** 2) / 1.2))[..., None]
    picture = np.where((z > WALL)[..., None], ground, picture)
    return Scene(camera, np.clip(shrink(picture, f), 0, 1), palette)


def _cast_shadow(picture: Array, camera: Camera, feet: Array, pelvis: Array) -> None:
    """Darken the floor in place: narrowly under a foot that is down, widely under the body.

    Args:
        feet: (2, 3) ankles and pelvis: (3,), in the world.
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


def render_frames(pose: Pose, scene: Scene) -> Iterator[NDArray[np.uint8]]:
    """Yield the pictures (H, W, 3) of the person in the room."""
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


# --- Labels ---------------------------------------------------------------------------------------


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


def render_labels(pose: Pose, camera: Camera) -> Iterator[NDArray[np.uint8]]:
    """Yield the skeleton images (H, W, 3): coloured limbs on black, nearer ones in front."""
    points = camera.project(pose.joints)
    radius = max(0.7, 0.018 * camera.scale)  # pixels; thinner lines would lose their colour
    # Nobody finds eyes and ears in a head seen from behind: their limbs grow thin and go.
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


# --- Data set -------------------------------------------------------------------------------------


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
    """Write the data set into a new folder; the same arguments give the same bytes.

    Args:
        root: the folder to make; it may exist if it is empty.
        train, val: frames of the training and of the validation video, each with its label.
        test: number of test sequences; 0 leaves the folder `test` out.
        test_length: labels of each test sequence, of which only the first frame is written.
        seed: draws room, clothes and all motion.
        height, width: of the pictures, in pixels.

    Raises:
        UserError: an argument is out of range, the folder is not empty or cannot be written.
    """
    arguments = {"train": train, "val": val, "test": test, "test_length": test_length}
    arguments |= {"seed": seed, "height": height, "width": width}
    least = {"train": 2, "val": 2, "test": 0, "test_length": 2, "seed": 0, "height": 8, "width": 8}
    for name, value in arguments.items():
        if value < least[name]:
            raise UserError(f"--{name} must be at least {least[name]}, not {value}")
    target = root.resolve()  # where a link leads to, so that the link stays
    partial = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        if target.exists() and not (target.is_dir() and not any(target.iterdir())):
            raise UserError(f"{root} already exists and is not empty; give another folder")
        partial.mkdir(parents=True)
        try:
            scene = make_scene(seed, height, width)
            _write_video(partial, scene, "train", train, [seed, 1, 0])
            _write_video(partial, scene, "val", val, [seed, 2, 0])
            for index in range(test):
                _write_video(partial, scene, "test", test_length, [seed, 3, index], str(index))
            text = json.dumps({"format": FORMAT_VERSION, "arguments": arguments}, indent=2)
            (partial / MARKER).write_text(text + "\n")
            if target.exists():
                target.rmdir()
            partial.rename(target)
        except BaseException:  # Ctrl-C too: nothing half-written stays
            shutil.rmtree(partial, ignore_errors=True)
            raise
    except OSError as error:
        raise UserError(f"cannot write {root}: {error.strerror or error}") from error


def demo_matches(root: Path, **arguments: int) -> bool:
    """Tell whether `root` is a finished demo that make_demo(root, **arguments) would write again.

    Arguments that are left out have make_demo's defaults.
    """
    call = inspect.signature(make_demo).bind(root, **arguments)
    call.apply_defaults()
    wanted = {name: value for name, value in call.arguments.items() if name != "root"}
    try:
        found = json.loads((root / MARKER).read_text())
    except (OSError, ValueError):
        return False
    return bool(found == {"format": FORMAT_VERSION, "arguments": wanted})


def _write_video(
    root: Path, scene: Scene, split: str, frames: int, seeds: list[int], sequence: str = ""
) -> None:
    pose = perform(np.random.default_rng(seeds), frames, scene.camera)
    # Of a test sequence only the first frame is given.
    shown = Pose(pose.joints[:1], pose.axes[:1]) if sequence else pose
    kinds = {"img": render_frames(shown, scene), "label": render_labels(pose, scene.camera)}
    for kind, pictures in kinds.items():
        folder = root / split / f"{split}_{kind}" / sequence
        folder.mkdir(parents=True)
        for index, picture in enumerate(pictures):
            Image.fromarray(picture).save(folder / f"{index}.png")
