"""Do labels and frames agree in time, and does the camera stand still?

    offset = label_offset(frames, labels, starts, ink)   # offset.fault is empty where they agree
    camera = camera_motion(frames, labels, starts, ink)  # how far the background moves

Both are measured in pixels alone, so they serve any data set in the layout. Legend: N frames,
H, W height and width; frames and labels are (N, H, W, 3) uint8.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import affine_grid, avg_pool2d, grid_sample

from modules.ink import Ink

Pixels = NDArray[np.uint8]
Array = NDArray[np.float64]
Floats = NDArray[np.float32]

REACH = 4  # frames by which labels are tried to be early or late
MOST = 4000  # frames that are looked at: the first ones
# Another offset must fit better than none by this much, in correlation, and fit at all.
BETTER, LEAST_FIT = 0.03, 0.25
# Correlation. Of data sets that fit it is 0.6 and more, with much noise or a shaking hand 0.2; of
# labels of other frames, mirrored ones, or of half the size, 0.09 and less.
UNRELATED = 0.1
LEAST_MOVE = 0.3  # of 255: median change of a frame, below which labels cannot be told unrelated
LEAST_MOVED = 30  # frames
ROUNDS = 3  # of Gauss and Newton
LOOKED_AT = 10  # every so many frames is compared with its recording's first
# Parts of the width. Of fixed cameras' frames, 64 pixels wide, at most 0.0005 and 0.022 came out; a
# shake of 0.05 pixels gave 0.0009 and more.
FIXED_STEP, FIXED_DRIFT = 0.0007, 0.03
PLAIN = 0.5  # squared grey values per pixel: a background with less structure tells no movement


class Offset(NamedTuple):
    """How labels lie in time, by the correlation of what changes in them and in the frames."""

    frames: int  # label t + frames fits frame t best: above 0 labels are late, below early
    best: float  # correlation there, -1 to 1
    at_zero: float  # correlation of label t with frame t
    moved: float  # change of a frame, of 255, mean over pixels, median over frames

    @property
    def is_certain(self) -> bool:
        return self.frames != 0 and self.best > max(self.at_zero + BETTER, LEAST_FIT)

    @property
    def fault(self) -> str:
        """Why labels and frames do not move together, in words; empty: they do."""
        if self.is_certain:
            count = abs(self.frames)
            when, sign = ("late", "+") if self.frames > 0 else ("early", "-")
            return (
                f"labels are {count} frame(s) {when}: label t {sign} {count} fits frame t best"
                f" (correlation {self.best:.2f}; {self.at_zero:.2f} with label t); move them"
            )
        if max(self.best, self.at_zero) < UNRELATED and self.moved > LEAST_MOVE:
            return (
                "labels and frames do not change in the same places (correlation"
                f" {self.at_zero:.2f}); are they labels of another clip?"
            )
        return ""


def _grey(images: Pixels) -> Floats:
    """(N, H, W) float32, 0-255."""
    return images.astype(np.float32).mean(axis=3)


def label_offset(frames: Pixels, labels: Pixels, starts: Sequence[int], ink: Ink) -> Offset | None:
    """The offset in time at which changes of the labels fit changes of the frames best.

    Where the person moves, frames and labels change in the same places at the same time. Steps
    from one recording to the next do not count.

    starts: indices at which recordings start; ink: of the labels

    Returns None if there are too few frames to tell.
    """
    count = min(len(frames), MOST)
    if count < LEAST_MOVED:
        return None
    changes = []
    for images in (frames[:count], ink.apart(labels[:count])):
        steps = np.diff(_grey(images), axis=0)
        steps -= np.median(steps, axis=(1, 2), keepdims=True)  # what brightens all is no movement
        # Means of 4 × 4 pixels, since limbs and bodies differ in width.
        changes.append(avg_pool2d(torch.from_numpy(np.abs(steps)), 4).numpy())
    moved = float(np.median(changes[0].mean(axis=(1, 2))))
    within = np.ones(count - 1, bool)  # step t is from frame t to t + 1
    within[[start - 1 for start in starts if 0 < start < count]] = False
    recording = np.searchsorted(np.array(sorted(starts)), np.arange(count - 1), side="right")
    for change in changes:
        change -= change[within].mean(axis=0)  # what always changes there says nothing of when
        np.minimum(change, 4 * change[within].std() + 1e-6, out=change)
    fits: dict[int, float] = {}
    for offset in range(-REACH, REACH + 1):
        here = np.arange(max(0, -offset), min(count - 1, count - 1 - offset))
        there = here + offset
        good = within[here] & within[there] & (recording[here] == recording[there])
        a, b = changes[0][here[good]].ravel(), changes[1][there[good]].ravel()
        scale = float(np.sqrt((a * a).sum() * (b * b).sum()))
        fits[offset] = float((a * b).sum()) / scale if scale > 0 else 0.0
    best = max(fits, key=lambda offset: (fits[offset], -abs(offset)))
    return Offset(best, fits[best], fits[0], moved)


def overlays(frames: Sequence[Pixels], labels: Sequence[Pixels], ink: Ink) -> Pixels:
    """Darkened frames (N, H, W, 3) with their labels over them, in rows of four."""
    cells = [
        np.where(ink.drawn(label)[..., None], label, frame // 2)
        for frame, label in zip(frames, labels, strict=True)
    ]
    blank = [np.zeros_like(cells[0])] * (-len(cells) % 4)
    rows = [np.concatenate(row, axis=1) for row in zip(*[iter(cells + blank)] * 4, strict=True)]
    return np.concatenate(rows)


class CameraMotion(NamedTuple):
    """How the background moves, in parts of the picture's width."""

    step: float  # from one frame to the next, median
    drift: float  # between the two places that are furthest apart, in the worst recording

    @property
    def is_fixed(self) -> bool:
        """Whether what was measured is no more than noise and flicker give."""
        return self.step < FIXED_STEP and self.drift < FIXED_DRIFT


def camera_motion(
    frames: Pixels, labels: Pixels, starts: Sequence[int], ink: Ink
) -> CameraMotion | None:
    """How far the background moves from frame to frame, and how far in all.

    Each frame is registered to the one before by least squares (Lucas and Kanade 1981), with the
    boxes around the labels left out and brightness free. Where a person hides most of a plain wall
    the sum of these steps strays, so it counts only if some frames lie apart from their recording's
    first one as well. None: too few frames.
    """

    def extent(places: Array) -> float:
        return float(np.hypot(*np.ptp(places, axis=0)))

    steps, drifts, width = [], [0.0], frames.shape[2]
    for start, stop in zip(starts, [*starts[1:], len(frames)], strict=True):
        stop = min(stop, start + MOST)
        if stop - start < 3:
            continue
        grey, seen = _grey(frames[start:stop]), _background(labels[start:stop], ink)
        found = _register(grey[1:], grey[:-1], seen[1:] & seen[:-1])
        steps.append(np.hypot(*found.T))
        some = grey[::LOOKED_AT]
        first = np.broadcast_to(grey[0], some.shape)
        apart = _register(some, first, seen[::LOOKED_AT] & seen[0])
        nearly_all = extent(np.quantile(apart, (0.05, 0.95), axis=0))
        fixed = nearly_all < FIXED_DRIFT * width
        drifts.append(nearly_all if fixed else extent(np.cumsum(found, axis=0)))
    if not steps:
        return None
    return CameraMotion(float(np.median(np.concatenate(steps))) / width, max(drifts) / width)


def _background(labels: Pixels, ink: Ink) -> NDArray[np.bool_]:
    """(N, H, W): what is outside of the box around each label, with a margin of a quarter."""
    outside = np.ones(labels.shape[:3], bool)
    for t, drawn in enumerate(ink.drawn(labels)):
        rows, columns = np.nonzero(drawn)
        if len(rows):
            margin = 2 + np.ptp(rows) // 4
            top, left = max(rows.min() - margin, 0), max(columns.min() - margin, 0)
            outside[t, top : rows.max() + margin + 1, left : columns.max() + margin + 1] = False
    return outside


def _register(grey: Floats, reference: Floats, mask: NDArray[np.bool_]) -> Array:
    """(N, 2) how far right and down each picture lies of its reference, pixels."""
    height, width = grey.shape[1:]
    down, right = np.gradient(reference, axis=(1, 2))
    weight = mask.astype(np.float32)  # (N, H, W)
    weight[:, :2] = weight[:, -2:] = weight[:, :, :2] = weight[:, :, -2:] = 0
    basis = np.stack([right, down, np.ones_like(right)], axis=1)  # (N, 3, H, W)
    normal = np.einsum("nhw,nahw,nbhw->nab", weight, basis, basis, optimize=True).astype(np.float64)
    pixels = np.maximum(weight.sum(axis=(1, 2)), 1)
    normal[:, (0, 1), (0, 1)] += PLAIN * pixels[:, None]
    normal[:, 2, 2] += 1e-3
    planes, shift = torch.from_numpy(grey)[:, None], np.zeros((len(grey), 2))
    for _ in range(ROUNDS):
        # The pictures at places further right and down, bilinear; in parts of half their size.
        move = torch.eye(2, 3).repeat(len(grey), 1, 1)
        move[:, :, 2] = torch.from_numpy(shift / [(width - 1) / 2, (height - 1) / 2])
        grid = affine_grid(move, list(planes.shape), align_corners=True)
        moved = grid_sample(planes, grid, padding_mode="border", align_corners=True)[:, 0].numpy()
        right_side = np.einsum("nhw,nahw,nhw->na", weight, basis, reference - moved, optimize=True)
        shift += np.linalg.solve(normal, right_side[..., None])[:, :2, 0]
        np.clip(shift, -width / 4, width / 4, out=shift)
    return shift
