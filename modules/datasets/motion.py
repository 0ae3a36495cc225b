"""How the demo's person moves: a 3-D skeleton, key-framed exercises, feet that stand on the floor.

Shapes: T frames, J joints. World axes: x to the right of the picture, y up, z towards the camera;
lengths in statures (a standing person is 1 high), angles in degrees.
"""

from typing import NamedTuple

import numpy as np

from modules.datasets.canvas import Array, Camera

Vector = tuple[float, float, float]
SIDES = {"left": 1.0, "right": -1.0}  # sign of x on that side of a person who faces the camera
SOLE = 0.045  # height of the ankle above the ground

# Joint → (parent, offset in the parent's axes); parents first, the pelvis first.
SKELETON: dict[str, tuple[str, Vector]] = {
    "pelvis": ("", (0, 0, 0)),
    "waist": ("pelvis", (0, 0.03, 0)),
    "neck": ("waist", (0, 0.275, 0)),
    "nose": ("neck", (0, 0.085, 0.07)),
    "crown": ("neck", (0, 0.165, 0)),
}
for side, sign in SIDES.items():
    SKELETON |= {
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
JOINTS = {name: index for index, name in enumerate(SKELETON)}

# What moves. flex, raise, roll: upper arm forward, outward, about its own axis (90 turns a bent
# elbow inward when the arm is up); thigh, splay: leg forward, outward; elbow, knee: bending.
LIMB_ANGLES = ("flex", "raise", "roll", "elbow", "thigh", "splay", "knee")
ANGLES = ["yaw", "bow", "lean", "twist", "nod", "look"]
ANGLES += [f"{side}_{name}" for side in SIDES for name in LIMB_ANGLES]
REST = {"raise": 9.0, "elbow": 14.0, "splay": 3.0}  # relaxed arms hang a little away and bent


class Pose(NamedTuple):
    joints: Array  # (T, J, 3), where each joint is in the world, in statures
    axes: Array  # (T, J, 3, 3), columns: the axes that turn with each joint


def _rotation(axis: int, degrees: Array) -> Array:
    """The rotations (T, 3, 3) about axis 0 (x), 1 (y) or 2 (z) by angles (T,)."""
    i, j = (axis + 1) % 3, (axis + 2) % 3
    radians = np.deg2rad(degrees)
    matrices = np.zeros((len(radians), 3, 3))
    matrices[:, axis, axis] = 1
    matrices[:, i, i] = matrices[:, j, j] = np.cos(radians)
    matrices[:, j, i] = np.sin(radians)
    matrices[:, i, j] = -matrices[:, j, i]
    return matrices


def forward_kinematics(angles: dict[str, Array]) -> Pose:
    """All joints, the pelvis at the origin. angles: of each of ANGLES an array (T,) in degrees"""
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
    """Where the pelvis is, (T, 3), if the lowest heel or toe touches the floor (y = 0), and the
    foot that carries the weight does not slide.
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


# One repetition each: for every angle that moves, keys phase:value, the phase in per cent of the
# repetition and the value in degrees from rest, where it starts and ends. "lead" and "trail" become
# left and right or the reverse; lean, twist and look count towards the lead side. Values are the
# widest amplitude. Arms overhead stay a little bent, because the picture ends there.
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
STEP_LENGTH = 0.18  # statures that it moves the person by, see stand_on_floor

Keys = list[tuple[float, float]]


def _parse(exercise: str, lead: str) -> dict[str, Keys]:
    """Names of ANGLES → keys (phase in ]0, 1[, degrees) of an exercise led by one side."""
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
    """Interpolate keys by cubic pieces that do not overshoot and are flat where they turn.

    Slopes at the keys: harmonic means, Fritsch & Butland 1984, "A method for constructing local
    monotone piecewise cubic interpolants". times, values: (K,), times strictly increasing; at: (T,)
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
    """Draw exercises in random order, speed, width and number: (T,) degrees for each of ANGLES.

    spot, reach: x where the person starts, and how far from the middle side steps lead, statures
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
        if others and rng.random() < 0.6:  # two at once, such as arms out while marching
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

    # Turned into angles, with some sway added.
    at = np.arange(frames, dtype=np.float64)
    angles = {}
    for name, points in keys.items():
        # Where one repetition ends and the next starts, the same key occurs twice.
        unique = dict([*points, (points[-1][0] + 1, points[-1][1])])
        angles[name] = smooth_curve(np.array(list(unique)), np.array(list(unique.values())), at)
        angles[name] += REST.get(name.partition("_")[2], 0.0)
    # People never stand quite still.
    sway = {"yaw": 2.5, "bow": 1.2, "lean": 1.2, "look": 5.0, "nod": 3.0}
    sway |= {f"{side}_{name}": 2.5 for side in SIDES for name in ("raise", "flex")}
    for name, width in sway.items():
        periods, phases = rng.uniform(30, 120, size=3), rng.uniform(0, 2 * np.pi, size=3)
        waves = np.sin(2 * np.pi * at[:, None] / periods + phases)
        angles[name] += 1.5 * width * waves.mean(axis=1)
    return angles


def perform(rng: np.random.Generator, frames: int, camera: Camera) -> Pose:
    """A person who exercises on the floor, in the camera's view, for `frames` frames."""
    half = camera.width / camera.scale / 2
    reach = max(half - 0.58, 0.02)  # half the span of the arms is 0.5
    start = rng.uniform(-0.9, 0.9) * reach
    pose = forward_kinematics(choreograph(rng, frames, start, 0.9 * reach))
    path = stand_on_floor(pose)
    path[:, 0] += start
    # Drift is limited softly; where arms would still leave the picture, the person is moved.
    for axis, limit in ((0, reach), (2, 0.06)):
        path[:, axis] = limit * np.tanh(path[:, axis] / limit)
    x, margin = pose.joints[..., 0], half - 0.03
    path[:, 0] = np.clip(path[:, 0], -margin - x.min(axis=1), margin - x.max(axis=1))
    return Pose(pose.joints + path[:, None], pose.axes)
