"""Another person's motion for a trained person, with its limb lengths, place and floor line.

    build = measure(points, known)                       # of each of the two people
    points = retarget(points, known, source, target)     # the target's body makes the motion

After Chan et al. 2019, "Everybody Dance Now", section 4.4 (global pose normalisation): the line on
which a person stands, and its size there, are mapped from the source's range between far and near
to the target's. Limbs then get the target's proportions, one by one from the neck outwards, so that
the labels show a body that the model has seen.

Legend: T frames, J = 18 joints; points (T, J, 2) in pixels of the clip, y down; known (T, J).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from modules.datasets.pose import JOINTS, LIMBS, limb_lengths, nothing_known
from modules.runtime.errors import UserError

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

NECK = JOINTS.index("neck")
ANKLES = [JOINTS.index("right_ankle"), JOINTS.index("left_ankle")]
# Limbs of which the sum is the size of a body: neck to hip, thigh, lower leg, of both sides.
STATURE = [6, 7, 8, 9, 10, 11]
MIRRORED = [1, 0, 4, 5, 2, 3, 9, 10, 11, 6, 7, 8, 12, 15, 16, 13, 14]  # each limb's other side
LONGEST = 0.9  # quantile over time of a limb's length: limbs look shorter when they point at us
FAR, NEAR = 0.05, 0.95  # quantiles of the line on which a person stands
WINDOW = 0.5  # s to either side, within which the lowest foot is on the floor
LEAST_RANGE = 0.05  # of the body's size: a smaller range of the line is no depth


@dataclass(frozen=True)
class Build:
    """A person's body and the places where it was seen."""

    limbs: list[float]  # (17,) length of each limb, left and right averaged, pixels
    stature: float  # sum of STATURE, half of both sides, pixels
    far: float  # line on which it stands when it is far, y in pixels
    near: float  # the same when it is near: further down
    far_stature: float  # stature there
    near_stature: float
    left: float  # middle of the body, x in pixels, between which it was seen
    right: float


def _long(lengths: Array) -> Array:
    """(17,) usual full length of each limb, both sides averaged; NaN where it was never seen."""
    with nothing_known():
        one = np.nanquantile(lengths, LONGEST, axis=0)
        return np.asarray(np.nanmean([one, one[MIRRORED]], axis=0))


def _lowest_foot(points: Array, known: Mask) -> Array:
    """(T,) y of the lower ankle, minus infinity where none is seen."""
    return np.asarray(np.where(known[:, ANKLES], points[:, ANKLES, 1], -np.inf).max(axis=1))


def floor_line(points: Array, known: Mask, fps: float) -> Array:
    """(T,) y of the line on which the person stands: the lowest foot of the second around."""
    feet = _lowest_foot(points, known)
    times = np.flatnonzero(np.isfinite(feet))
    if len(times) < 2:
        raise UserError("the ankles are never seen, so there is no floor line")
    feet = np.interp(np.arange(len(feet)), times, feet[times])
    reach = max(1, round(WINDOW * fps))
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(feet, reach, "edge"), 2 * reach + 1)
    return np.asarray(np.quantile(windows, 0.9, axis=1))


def _middle(points: Array, known: Mask) -> Array:
    """(T,) x of the neck, NaN where it is unknown."""
    return np.where(known[:, NECK], points[:, NECK, 0], np.nan)


def measure(points: Array, known: Mask, fps: float) -> Build:
    """The build of a person. Raises UserError: neck, legs or feet were never seen."""
    lengths = limb_lengths(points, known)
    limbs = _long(lengths)
    if not np.isfinite(limbs[STATURE]).all():
        raise UserError("the legs are never seen, so there is no size to compare")
    ground = floor_line(points, known, fps)
    far, near = np.quantile(ground, [FAR, NEAR])
    stature = float(limbs[STATURE].sum() / 2)
    sizes = [stature, stature]
    if near - far > LEAST_RANGE * stature:
        third = (near - far) / 3
        for i, at in enumerate((ground <= far + third, ground >= near - third)):
            part = _long(lengths[at])
            if np.isfinite(part[STATURE]).all():
                sizes[i] = float(part[STATURE].sum() / 2)
    left, right = np.nanquantile(_middle(points, known), [FAR, NEAR])
    # A limb that was never seen (a covered ear) gets no length; it stays unknown.
    plain = np.nan_to_num(limbs).tolist()
    return Build(
        plain, stature, float(far), float(near), sizes[0], sizes[1], float(left), float(right)
    )


def retarget(
    points: Array, known: Mask, source: Build, target: Build, fps: float
) -> tuple[Array, Mask]:
    """The source's motion made by the target's body, in the target's place.

    Returns points (T, J, 2) in pixels of the target's clip, and which are known. Directions of
    limbs are the source's; lengths are the target's times how much the source's limb is shortened.
    """
    ground = floor_line(points, known, fps)
    depth = source.near - source.far
    flat = depth <= LEAST_RANGE * source.stature
    share = np.full(len(points), 0.5) if flat else ((ground - source.far) / depth).clip(0, 1)
    size = source.far_stature + share * (source.near_stature - source.far_stature)
    wanted = target.far_stature + share * (target.near_stature - target.far_stature)
    scale = wanted / size  # (T,)

    made, have = np.zeros_like(points), np.zeros_like(known)
    have[:, NECK] = known[:, NECK]
    for limb, (a, b) in enumerate(LIMBS):
        own, other = source.limbs[limb] / source.stature, target.limbs[limb] / target.stature
        ratio = other / own if own > 0 and other > 0 else 1.0
        both = have[:, a] & known[:, a] & known[:, b]
        step = (points[:, b] - points[:, a]) * (scale * ratio)[:, None]
        made[both, b], have[both, b] = made[both, a] + step[both], True

    # The lowest foot stands on the target's line, or is as far above it as it was above its own.
    feet, own_feet = _lowest_foot(made, have), _lowest_foot(points, known)
    stands = np.isfinite(feet) & np.isfinite(own_feet) & have[:, NECK]
    if not stands.any():
        raise UserError("neck and ankles are never seen together")
    line = target.far + share * (target.near - target.far)
    lifted = np.where(stands, (own_feet - ground) * scale, 0)
    down = np.interp(np.arange(len(points)), np.flatnonzero(stands), (line + lifted - feet)[stands])
    # Sideways: the same walk around the middle of where the target was seen, and not beyond it.
    middle = _middle(points, known)
    centre, own_centre = (target.left + target.right) / 2, (source.left + source.right) / 2
    across = centre + (np.nan_to_num(middle, nan=own_centre) - own_centre) * scale
    across = across.clip(target.left, target.right)
    made += np.stack([across, down], axis=1)[:, None]
    return np.where(have[..., None], made, 0), have
