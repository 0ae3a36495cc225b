"""A rendered data set with the difficulties of hand-held footage: a person who dances outdoors.

    python tests/programs/moving_camera.py ROOT     # 2,400 + 630 frames, 2 test sequences of 300
    python tests/programs/moving_camera.py ROOT --train 300 --val 60 --test_length 20

What the demo lacks: a camera that pans, zooms and trembles; light that drifts; sensor noise; a
background that is fixed in the world; loose white clothes that lag behind the joints and move in a
wind, so that the skeleton of the same frame does not determine them. All recordings show the same
person in the same place; each has its own dance, camera path and light. Amplitudes are such that
copy-first-frame and copy-previous-true-frame score about as on real footage of one dancing person
outdoors (18 to 21 dB, and 29 to 32 dB).

Units: lengths in statures; angles in degrees; periods in frames, of 30 per second. The camera
turns the world into a plane (column to the right, row downwards, nearness; statures, the ground at
row 0), and the window of a frame shows a part of that plane. Shapes: T frames, N parts.
"""

import sys
from collections.abc import Iterable, Iterator
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

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
from modules.runtime.errors import UserError
from modules.runtime.scripts import ArgumentParser, path_argument, run_as_script
from tests.support.data import write_images

Array = NDArray[np.float64]
Pixels = NDArray[np.uint8]

HEIGHT, WIDTH = 32, 64
RECORDINGS, TEST_SEQUENCES = 3, 2
SLOWER = 0.66  # the choreography is written for about 20 frames per second
REACH = 1.0  # how far from the middle the person dances
LEAD_IN = 45  # frames before the first one, in which the clothes begin to swing
MEAN_ZOOM = 0.62 * HEIGHT  # pixels per stature
HORIZON = -0.74  # row; the camera is held at the height of the chest
LEFT, TOP, RIGHT, BOTTOM = (-3.4, -1.9, 3.4, 0.75)  # of the background
SAMPLES = 4 * MEAN_ZOOM  # of the background, per stature

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
PAINT = {name: index for index, name in enumerate(PALETTE)}
COLOURS = np.array(list(PALETTE.values())) / 255
WHITES = "cloth", "fold"
LEG = ("hip", "knee"), ("knee", "ankle")
VIEW = Camera(100, 100).axes / Camera(100, 100).scale  # world → (column, row, nearness), statures


def convolve(curves: Array, kernel: Array) -> Array:
    """Each column of (T + len(kernel) - 1, N) convolved: (T, N)."""
    return np.stack([np.convolve(curve, kernel, mode="valid") for curve in curves.T], axis=1)


def bell(sigma: float) -> Array:
    """Gaussian weights with the sum 1, up to three sigma away."""
    reach = int(np.ceil(3 * sigma))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    return np.asarray(kernel / kernel.sum())


def drift(rng: np.random.Generator, frames: int, period: float, curves: int = 1) -> Array:
    """Smooth random curves (T, curves) with mean 0 and deviation 1 over a long time.

    period: about the time from one maximum to the next.
    """
    kernel = bell(period / 5)
    noise = rng.standard_normal((curves, frames + len(kernel) - 1))
    return convolve(noise.T, kernel / np.sqrt((kernel**2).sum()))


# ---------------------------------------------------------------- place


def speckle(rng: np.random.Generator, u: Array, v: Array) -> Array:
    """Random values, deviation about 1, at the integer points of (u, v); smooth between them."""
    lattice = rng.standard_normal((128, 128))
    column, row = np.floor(u).astype(int), np.floor(v).astype(int)
    x, y = (part * part * (3 - 2 * part) for part in (u - column, v - row))
    upper, lower = (
        lattice[down % 128, column % 128] * (1 - x) + lattice[down % 128, (column + 1) % 128] * x
        for down in (row, row + 1)
    )
    return np.asarray(1.5 * (upper * (1 - y) + lower * y))


def paint_place(rng: np.random.Generator) -> Array:
    """The background (rows, columns, 3) in [0, 1]."""
    x = LEFT + (np.arange(round((RIGHT - LEFT) * SAMPLES)) + 0.5) / SAMPLES
    y = TOP + (np.arange(round((BOTTOM - TOP) * SAMPLES)) + 0.5) / SAMPLES
    x, y = np.meshgrid(x, y)

    def noise(cell: float, stretch: float = 1.0) -> Array:
        return speckle(rng, x / cell, y / (cell * stretch))

    def mix(share: Array, one: Iterable[float], other: Iterable[float]) -> Array:
        share = share[..., None]
        return np.asarray(np.array(one) * (1 - share) + np.array(other) * share)

    # Sky: paler towards the horizon, with clouds.
    height = np.clip((HORIZON - y) / (HORIZON - TOP), 0, 1)
    picture = mix(height, (0.78, 0.82, 0.84), (0.58, 0.69, 0.82))
    clouds = np.clip(0.5 * noise(0.7, 0.4) + 0.3 * noise(0.25, 0.5), 0, 1)
    picture = mix(0.8 * clouds, picture, (0.88, 0.88, 0.88))

    # Trees in four rows, the farther ones smaller, paler and bluer.
    leaves = 0.6 * noise(0.05) + 0.5 * noise(0.12)
    for distance in (1.0, 0.65, 0.3, 0.0):
        for _ in range(round(13 + 12 * distance)):
            size = rng.uniform(0.6, 1.3) * (0.34 - 0.16 * distance)
            cx = rng.uniform(LEFT, RIGHT)
            cy = HORIZON - rng.uniform(0.1, 0.75) * (1 - 0.65 * distance)
            trunk = (np.abs(x - cx) < 0.09 * size) & (y > cy) & (y < HORIZON + 0.03)
            picture[trunk] = (0.30, 0.26, 0.22)
            round_ = ((x - cx) / size) ** 2 + ((y - cy) / (size * 0.85)) ** 2 + 0.22 * leaves
            green = np.array((0.29, 0.40, 0.21)) * rng.uniform(0.75, 1.2)
            green = green * np.array((rng.uniform(0.8, 1.5), 1, rng.uniform(0.7, 1.2)))
            lit = 1.05 - 0.35 * ((x - cx) + (y - cy)) / size + 0.3 * leaves
            air = np.array((0.58, 0.64, 0.66)) * (0.22 + 0.45 * distance)
            colour = green * np.clip(lit, 0.3, 1.9)[..., None] * (0.78 - 0.45 * distance) + air
            picture = mix(np.clip((1 - round_) * 6, 0, 1), picture, colour)
    hedge = y > HORIZON - 0.1 - 0.05 * noise(0.4) - 0.02 * leaves
    picture[hedge] = (np.array((0.26, 0.32, 0.21)) * (1 + 0.35 * leaves)[..., None])[hedge]

    # Grass, in perspective: the ground's own coordinates, 1 apart is 1 stature.
    far = 1 / np.maximum(y - HORIZON, 0.02)
    along, across = 3.4 * -HORIZON * far, x * -HORIZON * far

    def ground(cell: float) -> Array:
        return speckle(rng, across / cell, along / (2.5 * cell))

    tufts = 0.55 * ground(0.045) + 0.5 * ground(0.11) + 0.4 * ground(0.3)
    dry = np.clip(0.4 + 0.25 * ground(0.9) + 0.15 * ground(0.3), 0, 1)
    shade = np.clip(0.5 + 0.9 * ground(2.0) - 0.05 * along, 0, 1)  # of trees behind the camera
    light = np.clip(1 + 0.15 * tufts, 0.2, 2) * (0.86 + 0.14 * shade)
    grass = mix(dry, (0.40, 0.50, 0.25), (0.62, 0.59, 0.38)) * light[..., None]
    picture = np.where((y > HORIZON)[..., None], grass, picture)
    haze = np.array((0.40, 0.44, 0.38))
    return np.asarray(np.clip(haze + 0.52 * (0.85 * picture - haze), 0, 1))


# ---------------------------------------------------------------- person


def dance(rng: np.random.Generator, frames: int) -> Pose:
    """Exercises in a dancer's tempo: the choreography of the demo, slower, and turning."""
    start = rng.uniform(-0.8, 0.8) * REACH
    steps = int(np.ceil(frames * SLOWER)) + 1
    angles = choreograph(rng, steps, start, REACH)
    at = np.arange(frames) * SLOWER
    angles = {name: np.interp(at, np.arange(steps), curve) for name, curve in angles.items()}
    angles["yaw"] = angles["yaw"] + 25 * drift(rng, frames, 120)[:, 0]
    pose = forward_kinematics(angles)
    path = stand_on_floor(pose)
    path[:, 0] += start
    for axis, limit in ((0, REACH), (2, 0.06)):
        path[:, axis] = limit * np.tanh(path[:, axis] / limit)
    return Pose(pose.joints + path[:, None], pose.axes)


def hang(
    anchors: Array, rest: Array, hertz: float, damping: float, gust: Array, legs: Any = None
) -> Array:
    """Chains of cloth that swing: each node is drawn by a spring to its place below the one above.

    anchors: (T, N, 3), where the chains are sewn on, in the world
    rest: (T, N, S, 3), from each node to the next where nothing moves
    gust: (T, 3), the same for all, in lengths of a segment
    hertz, damping: of a spring; 1 is critical damping
    legs: (T, L, 2, 3), ends of the bones that the cloth lies around

    Returns (T, N, S + 1, 3), the anchors first.
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


Rod = tuple[Array, Array, float, float, str]  # (T, 3) start and end, their radii, paint
Ball = tuple[Array, Array, str]  # (T, 3) centre; (T, 3, 3) half-axes, as columns; paint


def dress(rng: np.random.Generator, pose: Pose) -> tuple[list[Rod], list[Ball]]:
    """The person in the plane, with all that swings: skirt, sleeves, hair and sash."""
    frames, rods = len(pose.joints), list[Rod]()

    def at(joint: str, *offset: float) -> Array:
        index = JOINTS[joint]
        return np.asarray(pose.joints[:, index] + pose.axes[:, index] @ np.array(offset))

    def rod(start: Array, end: Array, radius: float, end_radius: float, paint: str) -> None:
        ends = start[LEAD_IN:] @ VIEW.T, end[LEAD_IN:] @ VIEW.T
        rods.append((*ends, radius, end_radius, paint))

    for joint, start, end, *look in RODS:
        rod(at(joint, *start), at(joint, *end), *look)

    gust = np.zeros((frames, 3))
    gust[:, [0, 2]] = 0.1 * drift(rng, frames, 60, 2) + 0.05 * drift(rng, frames, 20, 2)
    gust[:, 0] += 0.04
    down = np.array([0.0, -1.0, 0.0])
    bones = [[JOINTS[f"{side}_{end}"] for end in bone] for side in SIDES for bone in LEG]
    legs = pose.joints[:, bones]  # (T, 4, 2, 3)

    def sew(
        anchors: Array, rest: Array, radii: tuple, paints: tuple, *swing: float, **around: Array
    ) -> None:
        """Hang chains of rods on anchors (T, N, 3); rest as of hang(), or one for all."""
        rest = np.broadcast_to(rest, (frames, anchors.shape[1], len(radii) - 1, 3))
        chains = hang(anchors, rest, *swing, **{"gust": gust, **around})
        for strip in range(anchors.shape[1]):
            for s in range(len(radii) - 1):
                start, end = chains[:, strip, s], chains[:, strip, s + 1]
                rod(start, end, radii[s], radii[s + 1], paints[strip % len(paints)])

    # A wide skirt down to the calves: twelve strips around the hips, two whites.
    angle = 2 * np.pi * np.arange(12) / 12
    ring = np.stack([np.sin(angle), np.zeros(12), np.cos(angle)], axis=1)
    turned = np.einsum("tij,nj->tni", pose.axes[:, 0], ring)
    hips = pose.joints[:, :1] + turned * np.array([0.095, 0, 0.095])
    rest = turned[:, :, None] * np.array([0.034, 0.026, 0.018, 0.014])[:, None] + 0.095 * down
    sew(hips, rest, (0.045, 0.048, 0.05, 0.052, 0.052), WHITES, 1.7, 0.3, legs=legs)

    # Wide sleeves hang from the forearms; the longest strip at the wrist.
    drop = np.array([0.026, 0.034, 0.043, 0.052, 0.058])
    for side in SIDES:
        elbow, wrist = (pose.joints[:, JOINTS[f"{side}_{name}"]] for name in ("elbow", "wrist"))
        sewn = elbow[:, None] + (wrist - elbow)[:, None] * np.linspace(-0.1, 1, 5)[:, None]
        sew(sewn, drop[:, None, None] * down, (0.038, 0.034, 0.03, 0.028), WHITES, 2.0, 0.28)

    nape, knot = at("neck", 0, 0.1, -0.06)[:, None], at("waist", 0.1, 0.02, 0.05)[:, None]
    sew(nape, 0.055 * down, (0.04, 0.036, 0.032, 0.026, 0.02), ("hair",), 1.8, 0.15)
    radii = (0.025, 0.026, 0.026, 0.026, 0.026)
    sew(knot, 0.085 * down, radii, ("sash",), 1.5, 0.15, legs=legs, gust=1.3 * gust)

    balls = [
        (
            at(ball.joint, *ball.centre)[LEAD_IN:] @ VIEW.T,
            VIEW @ pose.axes[LEAD_IN:, JOINTS[ball.joint]] * np.array(ball.radii),
            ball.paint,
        )
        for ball in BALLS
    ]
    return rods, balls


# ---------------------------------------------------------------- camera


def film(rng: np.random.Generator, points: Array) -> tuple[Array, Array]:
    """Follow the person by hand: late, not quite, with a zoom and a slight tremble.

    points: (T, J, 2), the joints in the plane; all of them stay in view. Returns (T, 2) column and
    row of each frame's upper left corner, in statures, and (T,) pixels per stature.
    """
    frames = len(points)
    zoom = MEAN_ZOOM * np.exp(0.04 * np.tanh(drift(rng, frames, 260)[:, 0]))
    sight = np.array([WIDTH, HEIGHT]) / zoom[:, None]
    person = np.pad(points[..., 0].mean(axis=1), (60, 0), mode="edge")
    late = np.convolve(person, np.ones(61) / 61, mode="valid")
    aim = np.stack([0.1 * late, np.full(frames, -0.57)], axis=1)
    aim += np.array([0.045, 0.007]) * drift(rng, frames, 240, 2)
    aim += np.array([0.012, 0.006]) * drift(rng, frames, 40, 2)
    tremble = np.array([0.006, 0.005]) * drift(rng, frames, 8, 2)
    corner, margin = aim - sight / 2, 0.06
    low, high = points.max(axis=1) + margin - sight, points.min(axis=1) - margin
    low, high = np.minimum(low, high), np.maximum(low, high)
    for sigma in (6, 2):
        ends = ((3 * sigma, 3 * sigma), (0, 0))
        corner = convolve(np.pad(np.clip(corner, low, high), ends, mode="edge"), bell(sigma))
    corner = np.clip(corner, low, high) + tremble
    return np.clip(corner, (LEFT, TOP), np.array((RIGHT, BOTTOM)) - sight), zoom


# ---------------------------------------------------------------- take


class Take(NamedTuple):
    """A recording: the person, the camera and the light of all its frames."""

    joints: Array  # (T, J, 3) in the plane
    rods: list[Rod]
    balls: list[Ball]
    corner: Array  # (T, 2), as film() gives it
    zoom: Array  # (T,)
    gains: Array  # (T, 3) of the channels: exposure and white balance, which drift over seconds
    seed: list[int]


def record(seed: list[int], frames: int) -> Take:
    """A take of its own; the seed decides everything in it."""
    rng = np.random.default_rng(seed)
    pose = dance(rng, frames + LEAD_IN)
    rods, balls = dress(rng, pose)
    joints = pose.joints[LEAD_IN:] @ VIEW.T
    corner, zoom = film(rng, joints[..., :2])
    exposure = 0.03 * rng.standard_normal() + 0.016 * drift(rng, frames, 110)
    balance = 0.01 * rng.standard_normal(3) + 0.01 * drift(rng, frames, 160, 3)
    return Take(joints, rods, balls, corner, zoom, np.exp(exposure + balance), seed)


def person_canvas(take: Take, t: int) -> Canvas:
    """The person of one frame, without the background."""
    origin, zoom = np.append(take.corner[t], 0), float(take.zoom[t])
    rods = [((a[t] - origin) * zoom, (b[t] - origin) * zoom, *more) for a, b, *more in take.rods]
    balls = [((centre[t] - origin) * zoom, axes, paint) for centre, axes, paint in take.balls]
    points = [*(end for rod in rods for end in rod[:2]), *(ball[0] for ball in balls)]
    canvas = Canvas(np.stack(points), 0.15 * zoom, Camera(HEIGHT, WIDTH))
    for start, end, start_radius, end_radius, paint in rods:
        canvas.rod(start, end, start_radius * zoom, end_radius * zoom, PAINT[paint])
    for centre, axes, paint in balls:
        canvas.ball(centre, axes[t] * zoom, PAINT[paint])
    return canvas


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


def background(take: Take, place: Array, t: int) -> Array:
    """What frame t sees of the place, (H, W, 3) in [0, 1]."""
    (x, y), size = take.corner[t], SAMPLES / take.zoom[t]
    down, by_row = areas((y - TOP) * SAMPLES, size, HEIGHT, place.shape[0])
    along, by_column = areas((x - LEFT) * SAMPLES, size, WIDTH, place.shape[1])
    seen = np.tensordot(by_row, place[down, along], axes=1)  # (H, samples, 3)
    return np.einsum("hsc,ws->hwc", seen, by_column, optimize=True)


def render(take: Take, place: Array) -> Iterator[Pixels]:
    """Yield the frames (H, W, 3): the person in the place."""
    rng = np.random.default_rng([*take.seed, 1])
    for t, gains in enumerate(take.gains):
        picture = background(take, place, t)
        _cast_shadow(picture, take, t)
        person_canvas(take, t).lay_over(picture, COLOURS, lit=True)
        yield to_bytes(picture * gains + 0.009 * rng.standard_normal(picture.shape))


def _cast_shadow(picture: Array, take: Take, t: int) -> None:
    """Darken the grass in place: under the feet, and on the side away from the sun."""
    (x, y), zoom, joints = take.corner[t], take.zoom[t], take.joints[t]
    column = x + (np.arange(WIDTH) + 0.5)[None] / zoom
    row = y + (np.arange(HEIGHT) + 0.5)[:, None] / zoom
    far = ((column - joints[0, 0] - 0.22) / 0.34) ** 2 + ((row + 0.02) / 0.07) ** 2
    shade = 1 - 0.4 * np.exp(-(far**2))
    for side in SIDES:
        foot = joints[JOINTS[f"{side}_ankle"]]
        far = ((column - foot[0] - 0.02) / 0.09) ** 2 + ((row - foot[1] - 0.04) / 0.05) ** 2
        shade *= 1 - 0.35 * np.exp(-far)
    picture *= np.where(row > HORIZON, shade, 1)[..., None]


def labels(take: Take) -> Iterator[Pixels]:
    """Yield the labels (H, W, 3), of joints as a pose estimator finds them: with jitter."""
    rng = np.random.default_rng([*take.seed, 2])
    joints = take.joints[:, [JOINTS[name] for name in openpose.JOINTS]]
    zoom = take.zoom[:, None, None]
    points = (joints[..., :2] - take.corner[:, None]) * zoom
    points += 0.006 * zoom * drift(rng, len(points), 4, 36).reshape(points.shape)
    # Nose and eyes are not found from behind, nor the ear on the far side of the head.
    near = joints[..., 2] - take.joints[:, JOINTS["neck"], None, 2]
    least = {"nose": -0.03, "eye": -0.02, "ear": -0.04}
    limits = [least.get(name.split("_")[-1], -np.inf) for name in openpose.JOINTS]
    return openpose.draw_labels(points, near > limits, height=HEIGHT, width=WIDTH)


# ---------------------------------------------------------------- data set


def write(root: Path, train: int, val: int, test_length: int) -> None:
    """Write the data set into a new folder; UserError if the folder is not empty."""
    if root.exists() and any(root.iterdir()):
        raise UserError(f"{root} already exists and is not empty; give another folder")
    place = paint_place(np.random.default_rng([0, 0]))
    bounds = [train * i // RECORDINGS for i in range(RECORDINGS + 1)]
    spans = list(pairwise(bounds))
    takes = [record([0, 1, i], stop - start) for i, (start, stop) in enumerate(spans)]
    for split, recorded in (("train", takes), ("val", [record([0, 2, 0], val)])):
        frames = chain.from_iterable(render(take, place) for take in recorded)
        write_images(root / split / f"{split}_img", frames)
        write_images(root / split / f"{split}_label", chain.from_iterable(map(labels, recorded)))
    rows = "".join(f"{start},{stop}\n" for start, stop in spans)
    (root / "train/clips.csv").write_text(f"start,stop\n{rows}")
    for index in range(TEST_SEQUENCES):
        take = record([0, 3, index], test_length)
        write_images(root / f"test/test_img/{index}", [next(render(take, place))])
        write_images(root / f"test/test_label/{index}", labels(take))


def main() -> None:
    parser = ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("root", type=path_argument, metavar="ROOT", help="the new folder")
    parser.add_argument("--train", type=int, default=2400, help="frames, in 3 recordings (2,400)")
    parser.add_argument("--val", type=int, default=630, help="frames of the video (630)")
    parser.add_argument("--test_length", type=int, default=300, help="labels of a sequence (300)")
    given = parser.parse_args()
    write(given.root, given.train, given.val, given.test_length)


if __name__ == "__main__":
    run_as_script(main)
