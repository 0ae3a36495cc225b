"""What may be wrong with a data set without faults, from its pixels alone.

    inspect(train, val, tests).warnings()                 # in words, a line each
    offset = label_offset(frames, labels, starts, ink)    # offset.fault is empty where they agree
    camera = camera_motion(frames, labels, starts, ink)   # how far the background moves

Nothing here is an error: a data set may have been made so on purpose, but a user should know.

Legend: N frames of a split, H, W height and width; frames and labels are (N, H, W, 3) uint8.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import affine_grid, avg_pool2d, grid_sample

from modules.data import nearest_rows
from modules.ink import Ink
from modules.runtime.errors import named

Pixels = NDArray[np.uint8]
Array = NDArray[np.float64]
Floats = NDArray[np.float32]

CUT = 3.0  # a cut changes the picture this many times as much as the frames around it do …
CUT_BESIDE = 2.0  # … and this many times as much as the steps just before and after it
CUT_FLASH = 4.0  # the two steps of a single foreign frame, against the steps next to them
CUT_LEAST = 1.0  # of 255, mean over pixels: less is never a cut
HELD = 0.05  # of 255: less is a frame that is shown again, as clips of a variable rate have them
AROUND = 15  # frames on either side that tell what is usual
NEAR = 0.5  # near-identical: closer than this part of the usual step between neighbouring frames
MOSTLY = 0.5  # a part of a split's labels; where more are blank, something is wrong
FULL = 0.5  # a label of which more is drawn on is hardly a skeleton on a plain background
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


def differences(frames: Pixels) -> Array:
    """Mean absolute difference of each frame to the one before, (N - 1,), in 0-255."""
    steps = np.zeros(max(len(frames) - 1, 0))
    for t in range(len(steps)):  # one by one: a signed copy of all frames would need much memory
        steps[t] = np.abs(frames[t + 1].astype(np.int16) - frames[t]).mean()
    return steps


def find_cuts(steps: Array) -> list[int]:
    """Frames before which the picture jumps, given the steps of `differences`.

    A jump stands out against the median of up to 15 steps on either side, so that lively and quiet
    passages are each measured by their own; and against its neighbours, so that the peak of a fast
    movement, which rises and falls over several frames, does not count. A frame that is held for up
    to 15 steps counts once: what comes after it is no jump.
    """
    shown = np.flatnonzero(~_held(steps))
    steps = steps[shown]
    cuts: set[int] = set()
    padded = np.pad(steps, 2)
    for t, step in enumerate(steps.tolist()):
        first = max(0, t - AROUND)
        around = np.delete(steps[first : t + AROUND + 1], t - first)
        if not len(around) or step <= max(CUT * float(np.median(around)), CUT_LEAST):
            continue
        before, _, after, later = padded[t + 1 : t + 5].tolist()
        if step > CUT_BESIDE * max(before, after):
            cuts.add(t + 1)
        elif min(step, after) > CUT_FLASH * max(before, later):
            cuts |= {t + 1, t + 2}
    return [int(shown[cut - 1]) + 1 for cut in sorted(cuts)]


def _held(steps: Array) -> NDArray[np.bool_]:
    """Which steps lie within a short time in which nothing changes."""
    still = np.r_[False, steps < HELD, False]
    edges = np.flatnonzero(still[1:] != still[:-1])
    held = np.zeros(len(steps), bool)
    for start, stop in edges.reshape(-1, 2):
        held[start:stop] = stop - start <= AROUND
    return held


def drawn_part(labels: Pixels, ink: Ink) -> Array:
    """Part of each label's pixels that is drawn on, (N,), 0-1; a blank label has none."""
    return np.array([ink.drawn(label).mean() for label in labels])


class Copies(NamedTuple):
    """Frames of one split that are in another too, as (frame here, frame there)."""

    identical: list[tuple[int, int]]
    near: list[tuple[int, int]]  # not identical, but nearly


def find_copies(frames: Pixels, others: Pixels) -> Copies:
    """Frames that `others` holds too, identically or nearly.

    Identical: every pixel (SHA-256). Near: not identical, and the root mean square difference to
    some other frame is less than half of the usual one (median) between neighbouring `frames`: a
    copy that was compressed again, or a video that stands still across the splits. Neighbours in
    time across a split are a whole step apart and do not count.
    """
    digests, those = ([sha256(f.tobytes()).digest() for f in all_] for all_ in (frames, others))
    places = {digest: index for index, digest in reversed(list(enumerate(those)))}
    identical = {i: places[digest] for i, digest in enumerate(digests) if digest in places}
    near: list[tuple[int, int]] = []
    if len(frames) > 1 and len(others):
        here, there = _flat(frames), _flat(others)
        usual = float(np.median(((here[1:] - here[:-1]) ** 2).mean(axis=1)))  # squared
        nearest, place = nearest_rows(here, there)
        near = [
            (index, int(place[index]))
            for index in np.flatnonzero(nearest < NEAR**2 * usual).tolist()
            if index not in identical
        ]
    return Copies(list(identical.items()), near)


def _flat(frames: Pixels) -> Floats:
    """Frames of half the size (means of 2 × 2 pixels) as rows, (N, D)."""
    count, rows, columns = len(frames), frames.shape[1] // 2, frames.shape[2] // 2
    blocks = frames[:, : 2 * rows, : 2 * columns].reshape(count, rows, 2, columns, 2, 3)
    return blocks.mean(axis=(2, 4), dtype=np.float32).reshape(count, -1)


# ---------------------------------------------------------------- timing and camera


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


# ---------------------------------------------------------------- a whole data set


@dataclass(eq=False)
class SplitPixels:
    """The pixels of a split: the frames of its recordings, in order, resized to a small size."""

    name: str
    frames: Pixels  # (N, H, W, 3)
    labels: Pixels  # (N, H, W, 3)
    names: Sequence[str]  # (N,) of the frames: their files' names without suffix
    starts: Sequence[int]  # indices at which recordings start, 0 among them
    ink: Ink  # of the training labels

    def __post_init__(self) -> None:
        pixels = (self.frames, self.labels, self.starts, self.ink)
        self.steps = differences(self.frames)
        # Indices before which the picture jumps although no recording starts there.
        self.cuts = [cut for cut in find_cuts(self.steps) if cut not in self.starts]
        self.drawn = drawn_part(self.labels, self.ink)
        self.blank = self.drawn == 0  # (N,)
        self.offset, self.camera = label_offset(*pixels), camera_motion(*pixels)

    def summary(self) -> str:
        """Labels and movement in one line."""
        text = f"blank labels: {self.blank.sum()} of {len(self.labels)}"
        text += f"; drawn on: {np.median(self.drawn):.1%} of a label"
        if len(self.steps):
            text += f"; a frame changes by {np.median(self.steps):.2f} of 255"
        text += " (medians)"
        if self.camera:
            state = "stands still" if self.camera.is_fixed else "moves"
            text += f"; the camera {state} ({self.camera.step:.2%} of the width per frame)"
        if self.offset and not self.offset.is_certain:
            text += f"; labels fit frames in time (correlation {self.offset.at_zero:.2f})"
        return text

    def warnings(self) -> list[str]:
        """What a user should look at, a line each."""
        lines = _label_warnings(self.name, self.names, self.drawn)
        if self.cuts:
            where = named(self.names[cut] for cut in self.cuts)
            advice = (
                "no row of clips.csv starts there, so training clips cross it"
                if self.name == "train"
                else "the validation video is scored as one recording"
            )
            lines.append(f"{self.name}: the picture jumps before frame(s) {where}; {advice}")
        if self.offset and self.offset.fault:
            lines.append(f"{self.name}: {self.offset.fault}")
        if (camera := self.camera) and not camera.is_fixed:
            lines.append(
                f"{self.name}: the camera moves, the background by {camera.step:.2%} of the width"
                f" per frame and {camera.drift:.0%} in all; labels do not tell where it goes"
            )
        return lines


class TestPixels(NamedTuple):
    """The pixels of a test sequence."""

    name: str
    first_frame: Pixels  # (H, W, 3)
    labels: Pixels  # (T, H, W, 3)
    given: int = 1  # frames; more than one: not held out, but to make a film of


class Findings(NamedTuple):
    """What `inspect` found."""

    train: SplitPixels
    val: SplitPixels
    tests: Sequence[TestPixels]
    copies: Copies  # frames of val that are in train
    test_copies: list[tuple[int, int]]  # (sequence, frame of train), identical first frames

    def warnings(self) -> list[str]:
        """What a user should look at, a line each; empty if there is nothing."""
        lines = self.train.warnings() + self.val.warnings()
        for test in self.tests:
            drawn = drawn_part(test.labels, self.train.ink)
            lines += _label_warnings(f"test {test.name}", range(len(drawn)), drawn)
        names, val = self.train.names, self.val.names
        for kind, why, pairs in (
            ("identical", "the splits share frames", self.copies.identical),
            ("nearly identical", "copies, or a movement that repeats itself", self.copies.near),
        ):
            if pairs:
                where = named(f"{val[a]} = train {names[b]}" for a, b in pairs)
                of = f"{len(pairs)} of {len(val)} frames"
                lines.append(f"val: {of} are {kind} to training frames ({why}): {where}")
        if self.test_copies:
            where = named(f"{self.tests[a].name} = train {names[b]}" for a, b in self.test_copies)
            lines.append(f"test: first frames that are training frames: {where}")
        return lines


def _label_warnings(where: str, names: Sequence[object], drawn: Array) -> list[str]:
    lines, blank = [], drawn == 0
    if blank.mean() > MOSTLY:
        which = named(names[index] for index in np.flatnonzero(blank).tolist())
        share = f"{blank.sum()} of {len(blank)} labels ({blank.mean():.1%})"
        lines.append(f"{where}: {share} are blank: {which}")
    if (usual := np.median(drawn)) > FULL:
        plain = "skeletons are drawn on a plain background"
        lines.append(f"{where}: {usual:.0%} of a label is drawn on; {plain}")
    return lines


def inspect(train: SplitPixels, val: SplitPixels, tests: Sequence[TestPixels]) -> Findings:
    """Inspect the splits of a data set; all images have the same size."""
    copies = find_copies(val.frames, train.frames)  # an empty room looks like itself
    first = np.stack([test.first_frame for test in tests]) if tests else train.frames[:0]
    return Findings(
        train,
        val,
        tests,
        copies._replace(near=[pair for pair in copies.near if not val.blank[pair[0]]]),
        [pair for pair in find_copies(first, train.frames).identical if tests[pair[0]].given == 1],
    )
