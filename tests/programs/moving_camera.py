"""A rendered data set with the difficulties of hand-held footage: a person who dances outdoors.

    python tests/programs/moving_camera.py ROOT     # 2,400 + 630 frames, 2 test sequences of 300
    python tests/programs/moving_camera.py ROOT --train 300 --val 60 --seed 1

What the demo lacks: a camera that pans, zooms and trembles; exposure and white balance that drift;
sensor noise; grass, trees and sky that are fixed in the world; loose white clothes that lag behind
the joints and move in a wind, so that the skeleton of the same frame does not determine them.
Three training recordings and the validation video show the same person in the same place; each has
its own dance, camera path and light. Labels are seen by the same camera and drawn like those of a
user's own video. Prints the PSNR of predictions that need no model; amplitudes are such that these
are about those of real footage of one dancing person outdoors (copy-first-frame 18 to 21 dB,
copy-previous-true-frame 29 to 32 dB), with the larger share of the error on the person.

Units: lengths in statures; angles in degrees; periods in frames, of 30 per second. The camera
turns the world into a plane (column to the right, row downwards, nearness; statures, the ground at
row 0), and the window of a frame shows a part of that plane. Shapes: T frames, N parts.
"""

import sys
from argparse import ArgumentDefaultsHelpFormatter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from modules.data import VideoData, to_unit
from modules.datasets import pose as openpose
from modules.datasets.canvas import Camera, Canvas, to_bytes
from modules.datasets.motion import (
    JOINTS,
    SIDES,
    Pose,
    choreograph,
    forward_kinematics,
    stand_on_floor,
)
from modules.datasets.synthetic import BALLS, RODS
from modules.evaluation import baselines
from modules.losses import psnr
from modules.runtime.errors import UserError
from modules.runtime.scripts import ArgumentParser, path_argument, run_as_script

Array = NDArray[np.float64]

RECORDINGS = 3
SLOWER = 0.66  # the choreography is written for about 20 frames per second
REACH = 1.0  # how far from the middle the person dances
LEAD_IN = 45  # frames before the first one, in which the clothes begin to swing
PERSON = 0.62  # share of the frame's height that the standing person takes, at mean zoom
HORIZON = -0.74  # row; the camera is held at the height of the chest
PLACE = (-3.4, -1.9, 3.4, 0.75)  # left, top, right, bottom of the background
FINENESS = 4  # background samples per pixel and axis, at mean zoom

LEG = (("hip", "knee"), ("knee", "ankle"))
PALETTE = {
    "shirt": (222, 218, 210),
    "print": (206, 198, 186),
    "trousers": (214, 212, 206),
    "skin": (178, 122, 88),
    "hair": (38, 28, 24),
    "shoe": (74, 52, 40),
    "cloth": (228, 224, 216),
    "fold": (212, 210, 206),
    "sash": (170, 46, 52),
}
VIEW = Camera(100, 100).axes / Camera(100, 100).scale  # world → (column, row, nearness), statures
PAINT = {name: index for index, name in enumerate(PALETTE)}
COLOURS = np.array(list(PALETTE.values())) / 255


def bell(sigma: float) -> Array:
    """Gaussian weights with the sum 1, up to three sigma away."""
    reach = int(np.ceil(3 * sigma))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    return np.asarray(kernel / kernel.sum())


def convolve(curves: Array, kernel: Array) -> Array:
    """Each column of (T + len(kernel) - 1, N) convolved: (T, N)."""
    return np.stack([np.convolve(curve, kernel, mode="valid") for curve in curves.T], axis=1)


def drift(rng: np.random.Generator, frames: int, period: float, curves: int = 1) -> Array:
    """Smooth random curves (T, curves) with mean 0 and deviation 1 over a long time.

    period: about the time from one maximum to the next.
    """
    kernel = bell(period / 5)
    noise = rng.standard_normal((curves, frames + len(kernel) - 1))
    return convolve(noise.T, kernel / np.sqrt((kernel**2).sum()))


# ----------------------------------------------------------------------------------------
# Place


def speckle(rng: np.random.Generator, u: Array, v: Array) -> Array:
    """Random values, deviation about 1, at the integer points of (u, v); smooth between them."""
    lattice = rng.standard_normal((128, 128))
    column, row = np.floor(u).astype(int), np.floor(v).astype(int)
    x, y = u - column, v - row
    x, y = x * x * (3 - 2 * x), y * y * (3 - 2 * y)

    def at(down: int, right: int) -> Array:
        return np.asarray(lattice[(row + down) % 128, (column + right) % 128])

    upper = at(0, 0) * (1 - x) + at(0, 1) * x
    lower = at(1, 0) * (1 - x) + at(1, 1) * x
    return np.asarray(1.5 * (upper * (1 - y) + lower * y))


def paint_place(rng: np.random.Generator, pixels: float) -> Array:
    """The background (rows, columns, 3) in [0, 1]; pixels: samples per stature."""
    left, top, right, bottom = PLACE
    x = left + (np.arange(round((right - left) * pixels)) + 0.5) / pixels
    y = top + (np.arange(round((bottom - top) * pixels)) + 0.5) / pixels
    x, y = np.meshgrid(x, y)

    def noise(cell: float, stretch: float = 1.0) -> Array:
        return speckle(rng, x / cell, y / (cell * stretch))

    # Sky: paler towards the horizon, with clouds.
    height = np.clip((HORIZON - y) / (HORIZON - top), 0, 1)[..., None]
    picture = np.array((0.78, 0.82, 0.84)) * (1 - height) + np.array((0.58, 0.69, 0.82)) * height
    clouds = np.clip(0.5 * noise(0.7, 0.4) + 0.3 * noise(0.25, 0.5), 0, 1)[..., None]
    picture = picture * (1 - 0.8 * clouds) + 0.88 * 0.8 * clouds

    # Trees in four rows, the farther ones smaller, paler and bluer.
    leaves = 0.6 * noise(0.05) + 0.5 * noise(0.12)
    for distance in (1.0, 0.65, 0.3, 0.0):
        count = round(13 + 12 * distance)
        for _ in range(count):
            size = rng.uniform(0.6, 1.3) * (0.34 - 0.16 * distance)
            cx = rng.uniform(left, right)
            cy = HORIZON - rng.uniform(0.1, 0.75) * (1 - 0.65 * distance)
            trunk = (np.abs(x - cx) < 0.09 * size) & (y > cy) & (y < HORIZON + 0.03)
            picture[trunk] = (0.30, 0.26, 0.22)
            round_ = ((x - cx) / size) ** 2 + ((y - cy) / (size * 0.85)) ** 2 + 0.22 * leaves
            cover = np.clip((1 - round_) * 6, 0, 1)[..., None]
            green = np.array((0.29, 0.40, 0.21)) * rng.uniform(0.75, 1.2)
            green = green * np.array((rng.uniform(0.8, 1.5), 1, rng.uniform(0.7, 1.2)))
            lit = 1.05 - 0.35 * ((x - cx) + (y - cy)) / size + 0.3 * leaves
            colour = green * np.clip(lit, 0.3, 1.9)[..., None]
            colour = colour * (0.78 - 0.45 * distance) + np.array((0.58, 0.64, 0.66)) * (
                0.22 + 0.45 * distance
            )
            picture = picture * (1 - cover) + colour * cover
    hedge = y > HORIZON - 0.1 - 0.05 * noise(0.4) - 0.02 * leaves
    picture[hedge] = (np.array((0.26, 0.32, 0.21)) * (1 + 0.35 * leaves)[..., None])[hedge]

    # Grass, in perspective: the ground's own coordinates, 1 apart is 1 stature.
    far = 1 / np.maximum(y - HORIZON, 0.02)
    along, across = 3.4 * -HORIZON * far, x * -HORIZON * far

    def ground(cell: float) -> Array:
        return speckle(rng, across / cell, along / (2.5 * cell))

    tufts = 0.55 * ground(0.045) + 0.5 * ground(0.11) + 0.4 * ground(0.3)
    dry = np.clip(0.4 + 0.25 * ground(0.9) + 0.15 * ground(0.3), 0, 1)[..., None]
    grass = np.array((0.40, 0.50, 0.25)) * (1 - dry) + np.array((0.62, 0.59, 0.38)) * dry
    grass = grass * np.clip(1 + 0.15 * tufts, 0.2, 2)[..., None]
    shade = np.clip(0.5 + 0.9 * ground(2.0) - 0.05 * along, 0, 1)  # of trees behind the camera
    grass = grass * (0.86 + 0.14 * shade)[..., None]
    picture = np.where((y > HORIZON)[..., None], grass, picture)
    haze = np.array((0.40, 0.44, 0.38))
    return np.asarray(np.clip(haze + 0.52 * (0.85 * picture - haze), 0, 1))


def areas(start: float, size: float, pixels: int, samples: int) -> tuple[slice, Array]:
    """How much of each sample lies in each of `pixels` pixels of `size`, the first at `start`.

    All in samples. Returns the samples in question and weights (pixels, samples of the slice).
    """
    edges = start + size * np.arange(pixels + 1)
    first, last = max(int(edges[0]), 0), min(int(np.ceil(edges[-1])), samples)
    at = np.arange(first, last)
    upper = np.minimum(edges[1:, None], at + 1)
    lower = np.maximum(edges[:-1, None], at)
    return slice(first, last), np.clip(upper - lower, 0, None) / size


# ----------------------------------------------------------------------------------------
# Person


def dance(rng: np.random.Generator, frames: int, reach: float) -> Pose:
    """Exercises in a dancer's tempo: the choreography of the demo, slower, and turning."""
    start = rng.uniform(-0.8, 0.8) * reach
    steps = int(np.ceil(frames * SLOWER)) + 1
    angles = choreograph(rng, steps, start, reach)
    at = np.arange(frames) * SLOWER
    angles = {name: np.interp(at, np.arange(steps), curve) for name, curve in angles.items()}
    angles["yaw"] = angles["yaw"] + 25 * drift(rng, frames, 120)[:, 0]
    pose = forward_kinematics(angles)
    path = stand_on_floor(pose)
    path[:, 0] += start
    for axis, limit in ((0, reach), (2, 0.06)):
        path[:, axis] = limit * np.tanh(path[:, axis] / limit)
    return Pose(pose.joints + path[:, None], pose.axes)


def hang(
    anchors: Array,
    rest: Array,
    gust: Array,
    *,
    hertz: float,
    damping: float,
    legs: Array | None = None,
) -> Array:
    """Chains of cloth that swing: each node is drawn by a spring to its place below the one above.

    Args:
        anchors: (T, N, 3), where the chains are sewn on, in the world.
        rest: (T, N, S, 3), from each node to the next where nothing moves.
        gust: (T, 3), the same for all, in lengths of a segment.
        hertz, damping: natural frequency of a spring; 1 is critical damping.
        legs: (T, L, 2, 3), ends of the bones that the cloth lies around.

    Returns:
        (T, N, S + 1, 3), the anchors first.
    """
    omega, pieces = 2 * np.pi * hertz, 2
    step = 1 / (30 * pieces)
    length = np.linalg.norm(rest, axis=-1)  # (T, N, S)
    nodes = anchors[0][:, None] + np.cumsum(rest[0], axis=1)
    speed = np.zeros_like(nodes)
    chains = np.empty((*rest.shape[:2], rest.shape[2] + 1, 3))
    for t in range(len(anchors)):
        before = anchors[max(t - 1, 0)]
        for piece in range(1, pieces + 1):
            anchor = before + (anchors[t] - before) * piece / pieces
            above = np.concatenate([anchor[:, None], nodes[:, :-1]], axis=1)
            aim = above + rest[t] + length[t][..., None] * gust[t]
            speed += step * omega**2 * (aim - nodes)
            speed *= np.exp(-2 * damping * omega * step)
            old, nodes = nodes, nodes + step * speed
            if legs is not None:
                nodes = _outside(nodes, legs[t], 0.085)
            parent = anchor
            for s in range(nodes.shape[1]):  # cloth does not stretch
                apart = nodes[:, s] - parent
                distance = np.sqrt((apart**2).sum(axis=-1)) + 1e-9
                apart *= np.minimum(1.05 * length[t, :, s] / distance, 1)[:, None]
                parent = nodes[:, s] = parent + apart
            speed = (nodes - old) / step
        chains[t, :, 0], chains[t, :, 1:] = anchors[t], nodes
    return chains


def _outside(nodes: Array, bones: Array, radius: float) -> Array:
    """The nodes (N, S, 3), those inside a capsule around a bone (L, 2, 3) pushed to its surface."""
    for start, end in bones:
        bone = end - start
        along = np.clip((nodes - start) @ bone / (bone @ bone), 0, 1)
        away = nodes - start - along[..., None] * bone
        distance = np.sqrt((away**2).sum(axis=-1)) + 1e-9
        nodes = nodes + away * np.maximum(radius / distance - 1, 0)[..., None]
    return nodes


class Figure(NamedTuple):
    """All parts of the person in the plane of the picture, in statures."""

    starts: Array  # (T, N, 3) of the rods
    ends: Array  # (T, N, 3)
    radii: Array  # (N, 2) at start and end
    rod_paint: list[int]
    centres: Array  # (T, M, 3) of the ellipsoids
    half_axes: Array  # (T, M, 3, 3), as columns
    ball_paint: list[int]


def dress(rng: np.random.Generator, pose: Pose) -> Figure:
    """The person with all that swings: skirt, sleeves, hair and sash."""
    frames = len(pose.joints)

    def at(joint: str, *offset: float) -> Array:
        index = JOINTS[joint]
        return np.asarray(pose.joints[:, index] + pose.axes[:, index] @ np.array(offset))

    gust = np.zeros((frames, 3))
    gust[:, [0, 2]] = 0.1 * drift(rng, frames, 60, 2) + 0.05 * drift(rng, frames, 20, 2)
    gust[:, 0] += 0.04
    chains: list[tuple[Array, Array, str]] = []  # points (T, N, S + 1, 3), radii (S + 1,), paint

    # A wide skirt down to the calves: twelve strips around the hips, two whites.
    angle = 2 * np.pi * np.arange(12) / 12
    ring = np.stack([np.sin(angle), np.zeros(12), np.cos(angle)], axis=1)
    turned = np.einsum("tij,nj->tni", pose.axes[:, 0], ring)
    hips = pose.joints[:, :1] + turned * np.array([0.095, 0, 0.095])
    rest = turned[:, :, None] * np.array([0.034, 0.026, 0.018, 0.014])[:, None]
    rest = rest + np.array([0, -0.095, 0])
    bones = [(f"{side}_{a}", f"{side}_{b}") for side in SIDES for a, b in LEG]
    legs = pose.joints[:, [[JOINTS[joint] for joint in bone] for bone in bones]]  # (T, 4, 2, 3)
    skirt = hang(hips, rest, gust, hertz=1.7, damping=0.3, legs=legs)
    width = np.array([0.045, 0.048, 0.05, 0.052, 0.052])
    chains += [(skirt[:, 0::2], width, "cloth"), (skirt[:, 1::2], width, "fold")]

    # Wide sleeves hang from the forearms; the longest strip at the wrist.
    for side in SIDES:
        elbow, wrist = (pose.joints[:, JOINTS[f"{side}_{name}"]] for name in ("elbow", "wrist"))
        shares = np.linspace(-0.1, 1, 5)
        sewn = elbow[:, None] + (wrist - elbow)[:, None] * shares[:, None]
        drop = np.array([0.026, 0.034, 0.043, 0.052, 0.058])
        rest = np.zeros((frames, 5, 3, 3))
        rest[..., 1] = -drop[:, None]
        sleeve = hang(sewn, rest, gust, hertz=2.0, damping=0.28)
        width = np.array([0.038, 0.034, 0.03, 0.028])
        chains += [(sleeve[:, 0::2], width, "cloth"), (sleeve[:, 1::2], width, "fold")]

    rest = np.broadcast_to([0, -0.055, 0], (frames, 1, 4, 3)).copy()
    hair = hang(at("neck", 0, 0.1, -0.06)[:, None], rest, gust, hertz=1.8, damping=0.15)
    chains.append((hair, np.array([0.04, 0.036, 0.032, 0.026, 0.02]), "hair"))
    rest = np.broadcast_to([0, -0.085, 0], (frames, 1, 4, 3)).copy()
    knot = at("waist", 0.1, 0.02, 0.05)[:, None]
    sash = hang(knot, rest, 1.3 * gust, hertz=1.5, damping=0.15, legs=legs)
    chains.append((sash, np.array([0.025, 0.026, 0.026, 0.026, 0.026]), "sash"))

    starts = [at(rod.joint, *rod.start) for rod in RODS]
    ends = [at(rod.joint, *rod.end) for rod in RODS]
    radii = [(rod.start_radius, rod.end_radius) for rod in RODS]
    paint = [PAINT[rod.paint] for rod in RODS]
    for points, wide, name in chains:
        for strip in range(points.shape[1]):
            for s in range(points.shape[2] - 1):
                starts.append(points[:, strip, s])
                ends.append(points[:, strip, s + 1])
                radii.append((wide[s], wide[s + 1]))
                paint.append(PAINT[name])
    axes = [VIEW @ pose.axes[:, JOINTS[ball.joint]] * np.array(ball.radii) for ball in BALLS]
    return Figure(
        np.stack(starts, axis=1) @ VIEW.T,
        np.stack(ends, axis=1) @ VIEW.T,
        np.array(radii),
        paint,
        np.stack([at(ball.joint, *ball.centre) for ball in BALLS], axis=1) @ VIEW.T,
        np.stack(axes, axis=1),
        [PAINT[ball.paint] for ball in BALLS],
    )


# ----------------------------------------------------------------------------------------
# Camera


class Window(NamedTuple):
    """The part of the plane that each frame shows."""

    corner: Array  # (T, 2) column and row of the frame's upper left corner, statures
    zoom: Array  # (T,) pixels per stature


def film(rng: np.random.Generator, points: Array, height: int, width: int) -> Window:
    """Follow the person by hand: late, not quite, with a zoom and a slight tremble.

    points: (T, J, 2), the joints in the plane; all of them stay in view.
    """
    frames, mean_zoom = len(points), PERSON * height
    size = np.array([width, height])
    zoom = mean_zoom * np.exp(0.04 * np.tanh(drift(rng, frames, 260)[:, 0]))
    sight = size / zoom[:, None]
    late = np.ones(61) / 61
    person = points[..., 0].mean(axis=1)
    person = np.convolve(np.pad(person, (60, 0), mode="edge"), late, mode="valid")
    aim = np.stack([0.1 * person, np.full(frames, -0.57)], axis=1)
    aim += np.array([0.045, 0.007]) * drift(rng, frames, 240, 2)
    aim += np.array([0.012, 0.006]) * drift(rng, frames, 40, 2)
    tremble = np.array([0.006, 0.005]) * drift(rng, frames, 8, 2)
    corner = aim - sight / 2
    margin = 0.06
    for sigma in (6.0, 2.0, 0.0):  # the last time, nothing is smoothed away from the limits
        low = points.max(axis=1) + margin - sight
        high = points.min(axis=1) - margin
        corner = np.clip(corner, np.minimum(low, high), np.maximum(low, high))
        if sigma:
            reach = int(3 * sigma)
            corner = convolve(np.pad(corner, ((reach, reach), (0, 0)), mode="edge"), bell(sigma))
    corner = np.clip(corner + tremble, PLACE[:2], np.array(PLACE[2:]) - sight)
    return Window(corner, zoom)


def light(rng: np.random.Generator, frames: int) -> Array:
    """Gains of the three channels (T, 3): exposure and white balance, which drift over seconds."""
    exposure = 0.03 * rng.standard_normal() + 0.016 * drift(rng, frames, 110)
    balance = 0.01 * rng.standard_normal(3) + 0.01 * drift(rng, frames, 160, 3)
    return np.asarray(np.exp(exposure + balance))


# ----------------------------------------------------------------------------------------
# Take


class Take(NamedTuple):
    """A recording: the person, the camera and the light of all its frames."""

    pose: Pose
    figure: Figure
    window: Window
    gains: Array  # (T, 3)
    seed: list[int]
    height: int
    width: int


def record(seed: list[int], frames: int, height: int, width: int) -> Take:
    """A take of its own; the seed decides everything in it."""
    rng = np.random.default_rng(seed)
    pose = dance(rng, frames + LEAD_IN, REACH)
    figure = dress(rng, pose)
    pose = Pose(pose.joints[LEAD_IN:], pose.axes[LEAD_IN:])
    moving = ("starts", "ends", "centres", "half_axes")
    figure = figure._replace(**{name: getattr(figure, name)[LEAD_IN:] for name in moving})
    window = film(rng, (pose.joints @ VIEW.T)[..., :2], height, width)
    return Take(pose, figure, window, light(rng, frames), seed, height, width)


def person_canvas(take: Take, t: int) -> Canvas:
    """The person of one frame, without the background."""
    figure, zoom = take.figure, float(take.window.zoom[t])
    origin = np.append(take.window.corner[t], 0)
    starts, ends, centres = (
        (points[t] - origin) * zoom for points in (figure.starts, figure.ends, figure.centres)
    )
    points = np.concatenate([starts, ends, centres])
    canvas = Canvas(points, 0.15 * zoom, Camera(take.height, take.width))
    for start, end, radii, paint in zip(
        starts, ends, figure.radii * zoom, figure.rod_paint, strict=True
    ):
        canvas.rod(start, end, radii[0], radii[1], paint)
    for centre, axes, paint in zip(
        centres, figure.half_axes[t] * zoom, figure.ball_paint, strict=True
    ):
        canvas.ball(centre, axes, paint)
    return canvas


def background(take: Take, place: Array, pixels: float, t: int) -> Array:
    """What frame t sees of the place, (H, W, 3) in [0, 1]; pixels: samples per stature."""
    (x, y), zoom = take.window.corner[t], take.window.zoom[t]
    rows, columns = place.shape[:2]
    down, by_row = areas((y - PLACE[1]) * pixels, pixels / zoom, take.height, rows)
    along, by_column = areas((x - PLACE[0]) * pixels, pixels / zoom, take.width, columns)
    seen = np.tensordot(by_row, place[down, along], axes=1)  # (H, samples, 3)
    return np.einsum("hsc,ws->hwc", seen, by_column, optimize=True)


def render(take: Take, place: Array, pixels: float, frames: int) -> Iterator[Array]:
    """Yield the first frames (H, W, 3), about [0, 1]: the person in the place."""
    rng = np.random.default_rng([*take.seed, 1])
    for t in range(frames):
        picture = background(take, place, pixels, t)
        _cast_shadow(picture, take, t)
        person_canvas(take, t).lay_over(picture, COLOURS, lit=True)
        yield picture * take.gains[t] + 0.009 * rng.standard_normal(picture.shape)


def _cast_shadow(picture: Array, take: Take, t: int) -> None:
    """Darken the grass in place: under the feet, and on the side away from the sun."""
    (x, y), zoom = take.window.corner[t], take.window.zoom[t]
    column = x + (np.arange(take.width) + 0.5)[None] / zoom
    row = y + (np.arange(take.height) + 0.5)[:, None] / zoom
    joints = take.pose.joints[t] @ VIEW.T
    far = ((column - joints[0, 0] - 0.22) / 0.34) ** 2 + ((row + 0.02) / 0.07) ** 2
    shade = 1 - 0.4 * np.exp(-(far**2))
    for side in SIDES:
        foot = joints[JOINTS[f"{side}_ankle"]]
        far = ((column - foot[0] - 0.02) / 0.09) ** 2 + ((row - foot[1] - 0.04) / 0.05) ** 2
        shade *= 1 - 0.35 * np.exp(-far)
    picture *= np.where(row > HORIZON, shade, 1)[..., None]


def joints_seen(take: Take) -> tuple[Array, NDArray[np.bool_]]:
    """What a pose estimator finds: points (T, 18, 2) in pixels, with jitter; which are known."""
    rng = np.random.default_rng([*take.seed, 2])
    index = [JOINTS[name] for name in openpose.JOINTS]
    plane = take.pose.joints[:, index] @ VIEW.T
    points = (plane[..., :2] - take.window.corner[:, None]) * take.window.zoom[:, None, None]
    noise = drift(rng, len(points), 4, 36).reshape(points.shape)
    points = points + 0.006 * take.window.zoom[:, None, None] * noise
    # Nose and eyes are not found from behind, nor the ear on the far side of the head.
    known = np.ones(points.shape[:2], bool)
    head = (take.pose.joints[:, JOINTS["neck"]] @ VIEW.T)[:, None, 2]
    near = plane[..., 2] - head
    for name, least in (("nose", -0.03), ("eye", -0.02), ("ear", -0.04)):
        for place, joint in enumerate(openpose.JOINTS):
            if joint.endswith(name):
                known[:, place] = near[:, place] > least
    return points, known


# ----------------------------------------------------------------------------------------
# Data set


def write(
    root: Path,
    *,
    train: int = 2400,
    val: int = 630,
    test: int = 2,
    test_length: int = 300,
    seed: int = 0,
    height: int = 32,
    width: int = 64,
) -> tuple[VideoData, VideoData]:
    """Write the data set into a new folder; the same arguments give the same pixels.

    Returns the training and the validation video. Raises UserError if the folder is not empty or an
    argument is out of range.
    """
    if train < 2 * RECORDINGS or min(val, test_length) < 2 or min(height, width) < 16:
        raise UserError("--train must be at least 6, --val and --test_length 2, a side 16")
    if not 1.5 * height <= width <= 3.5 * height:
        raise UserError("--frame_W must be between 1.5 and 3.5 times --frame_H")
    pixels = FINENESS * PERSON * height
    place = paint_place(np.random.default_rng([seed, 0]), pixels)

    def take(kind: int, index: int, frames: int) -> Take:
        return record([seed, kind, index], frames, height, width)

    def video(folder: Path, name: str, takes: list[Take]) -> VideoData:
        frames = [to_bytes(f) for one in takes for f in render(one, place, pixels, len(one.gains))]
        labels = [label for one in takes for label in draw(one)]
        save(folder / f"{name}_img", frames)
        save(folder / f"{name}_label", labels)
        return VideoData(torch.from_numpy(np.stack(frames)), torch.from_numpy(np.stack(labels)), ())

    def draw(one: Take) -> Iterator[NDArray[np.uint8]]:
        return openpose.draw_labels(*joints_seen(one), height=height, width=width)

    if root.exists() and any(root.iterdir()):
        raise UserError(f"{root} already exists and is not empty; give another folder")
    bounds = [train * i // RECORDINGS for i in range(RECORDINGS + 1)]
    spans = list(pairwise(bounds))
    takes = [take(1, i, stop - start) for i, (start, stop) in enumerate(spans)]
    training = video(root / "train", "train", takes)
    rows = "".join(f"{start},{stop}\n" for start, stop in spans)
    (root / "train/clips.csv").write_text(f"start,stop\n{rows}")
    validation = video(root / "val", "val", [take(2, 0, val)])
    for index in range(test):
        one = take(3, index, test_length)
        first = [to_bytes(frame) for frame in render(one, place, pixels, 1)]
        save(root / f"test/test_img/{index}", first)
        save(root / f"test/test_label/{index}", list(draw(one)))
    return training, validation


def save(folder: Path, pictures: list[NDArray[np.uint8]]) -> None:
    folder.mkdir(parents=True)
    for index, picture in enumerate(pictures):
        Image.fromarray(picture).save(folder / f"{index}.png")


def describe(training: VideoData, validation: VideoData) -> dict[str, float]:
    """PSNR in dB, mean over validation frames 1 … T − 1, of predictions that need no model."""
    truth = to_unit(validation.frames).permute(0, 3, 1, 2)
    known = baselines(training, validation)
    return {
        "copy-first-frame": known["first_frame"],
        "mean-frame": known["mean_train_frame"],
        "mean of the validation frames": psnr(truth.mean(0, keepdim=True), truth[1:]).mean().item(),
        "copy-previous-true-frame": psnr(truth[:-1], truth[1:]).mean().item(),
    }


def main(arguments: list[str] | None = None) -> None:
    assert __doc__
    parser = ArgumentParser(
        description=__doc__.partition("\n")[0], formatter_class=ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("root", type=path_argument, metavar="ROOT", help="the new folder")
    for name, default, text in (
        ("train", 2400, "training frames, in three recordings of equal length"),
        ("val", 630, "frames of the validation video"),
        ("test", 2, "test sequences"),
        ("test_length", 300, "labels of each test sequence"),
        ("seed", 0, "draws the place, the dances, the camera paths and the light"),
        ("frame_H", 32, "height of the images, pixels"),
        ("frame_W", 64, "width of the images, pixels"),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, metavar="N", help=text)
    given = vars(parser.parse_args(arguments))
    given["height"], given["width"] = given.pop("frame_H"), given.pop("frame_W")
    for name, value in describe(*write(given.pop("root"), **given)).items():
        print(f"{name}: {value:.2f} dB")


if __name__ == "__main__":
    run_as_script(main)
