"""What may be wrong with a data set without faults, from its pixels alone.

Legend: N frames of a split, H, W height and width; frames and labels are (N, H, W, 3) uint8.
"""

import math
from collections.abc import Sequence
from hashlib import sha256
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import avg_pool2d

from modules.datasets.canvas import Array, Pixels
from modules.datasets.layout import SplitFiles
from modules.ink import Ink
from modules.runtime.errors import named

SMALL = (64, 32)  # width, height in pixels at which cuts and copies are looked for
CUT = 3.0  # a cut changes the picture this many times as much as the frames around it do …
CUT_BESIDE = 3.0  # … and this many times as much as the steps just before and after it
CUT_FLASH = 4.0  # the two steps of a single foreign frame, against the steps next to them
CUT_LEAST = 1.0  # of 255, mean over pixels: less is never a cut
HELD = 0.05  # of 255: less is a frame that is shown again, as clips of a variable rate have them
AROUND = 15  # frames on either side that tell what is usual
MOSTLY = 0.5  # a part of a split's labels; where more are blank, something is wrong
FULL = 0.5  # a label of which more is drawn on is hardly a skeleton on a plain background
REACH = 4  # frames by which labels are tried to be early or late
MOST = 4000  # frames that are looked at: the first ones
# Another offset must fit better than none by this much, in correlation, and fit at all.
BETTER, LEAST_FIT = 0.03, 0.25
# So must another place, by this much and BESIDE_FEW / √frames. In sound data sets one fits better
# by 0.24 at most in windows of 30 frames, by 0.14 of 60, 0.07 of 120, 0.01 of 300.
BESIDE, BESIDE_FEW = 0.15, 1.5
# Correlation: with much noise or a shaking hand 0.2; of other, mirrored or smaller labels 0.09.
UNRELATED = 0.1
LEAST_MOVE = 0.3  # of 255: median change of a frame, below which labels cannot be told unrelated
LEAST_MOVED = 30  # frames


def differences(frames: Pixels) -> Array:
    """Mean absolute difference of each frame to the one before, (N - 1,), in 0-255."""
    # One by one: a signed copy of all frames would need much memory.
    return np.array([np.abs(b.astype(np.int16) - a).mean() for a, b in pairwise(frames)])


def find_cuts(steps: Array) -> list[int]:
    """Frames before which the picture jumps, given the steps of `differences`.

    A jump stands out against the median of up to 15 steps on either side, and against its
    neighbours. A frame that is held for up to 15 steps counts once: what comes after is no jump.
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


def find_copies(frames: Pixels, others: Pixels) -> list[tuple[int, int]]:
    """Frames that `others` holds too, pixel for pixel, as (frame here, frame there)."""
    digests, those = ([sha256(f.tobytes()).digest() for f in all_] for all_ in (frames, others))
    places = {digest: index for index, digest in reversed(list(enumerate(those)))}
    return [(i, places[digest]) for i, digest in enumerate(digests) if digest in places]


class Offset(NamedTuple):
    """How labels lie in time and place, by the correlation of their changes with the frames'."""

    frames: int  # label t + frames fits frame t best: above 0 labels are late, below early
    best: float  # correlation there, -1 to 1
    at_zero: float  # correlation of label t with frame t
    place: tuple[float, float]  # parts of width and height by which labels moved fit best, and …
    in_place: float  # … the correlation there
    moved: float  # change of a frame, of 255, mean over pixels, median over frames

    @property
    def fault(self) -> str:
        """Why labels and frames do not move together, in words; empty: they do."""
        as_they_are = f"correlation {self.at_zero:.2f}"
        if self.frames and self.best > max(self.at_zero + BETTER, LEAST_FIT):
            count = abs(self.frames)
            when, sign = ("late", "+") if self.frames > 0 else ("early", "-")
            return (
                f"labels are {count} frame(s) {when}: label t {sign} {count} fits frame t best"
                f" (correlation {self.best:.2f}; {self.at_zero:.2f} with label t); move them"
            )
        if any(self.place) and self.in_place > LEAST_FIT:
            x, y = self.place
            return (
                f"labels lie beside what moves ({as_they_are}; {self.in_place:.2f} if moved by"
                f" {x:+.0%} of the width and {y:+.0%} of the height); are they of a copy that was"
                " cut, padded or made smaller?"
            )
        if max(self.best, self.at_zero) < UNRELATED and self.moved > LEAST_MOVE:
            return (
                f"labels and frames do not change in the same places ({as_they_are}); are they"
                " labels of another clip, or of a copy of another size?"
            )
        return ""


def label_offset(frames: Pixels, labels: Pixels, starts: Sequence[int], ink: Ink) -> Offset | None:
    """The offsets in time and place at which changes of labels fit changes of frames best.

    Steps from one recording to the next do not count. None: there are too few frames to tell.

    frames, labels: of the size SMALL; starts: indices at which recordings start; ink: of the labels
    """
    count = min(len(frames), MOST)
    if count < LEAST_MOVED:
        return None
    changes = []
    for images in (frames[:count], ink.apart(labels[:count])):
        steps = np.diff(images.astype(np.float32).mean(axis=3), axis=0)
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

    def fit(a: Array, b: Array) -> float:
        scale = math.sqrt(float((a * a).sum()) * float((b * b).sum()))
        return float((a * b).sum()) / scale if scale > 0 else 0.0

    fits: dict[int, float] = {}
    for offset in range(-REACH, REACH + 1):
        here = np.arange(max(0, -offset), min(count - 1, count - 1 - offset))
        there = here + offset
        good = within[here] & within[there] & (recording[here] == recording[there])
        fits[offset] = fit(changes[0][here[good]], changes[1][there[good]])
    best = max(fits, key=lambda offset: (fits[offset], -abs(offset)))
    a, b = (change[within] for change in changes)
    rows, columns = (size // 4 for size in a.shape[1:])  # up to a quarter of the picture
    places = {
        (x / a.shape[2], y / a.shape[1]): fit(a, np.roll(b, (y, x), axis=(1, 2)))
        for x in range(-columns, columns + 1)
        for y in range(-rows, rows + 1)
    }
    place = max(places, key=places.__getitem__)
    if places[place] < fits[0] + max(BESIDE, BESIDE_FEW / math.sqrt(count)):
        place = (0.0, 0.0)
    return Offset(best, fits[best], fits[0], place, places[place], moved)


class Inspected:
    """What the pixels of a split tell, all of one small size. ink: of the training labels"""

    def __init__(self, split: SplitFiles, ink: Ink) -> None:
        self.name = split.name
        self.frames, self.labels = split.images.pixels, split.labels.pixels  # (N, H, W, 3)
        self.names = [path.stem for path in split.images.files]
        self.starts = [recording.start for recording in split.recordings]
        self.steps = differences(self.frames)
        # Indices before which the picture jumps although no recording starts there.
        self.cuts = [cut for cut in find_cuts(self.steps) if cut not in self.starts]
        self.drawn = drawn_part(self.labels, ink)
        self.blank = self.drawn == 0  # (N,)
        self.copies: Sequence[int] = ()  # frames that are training frames, too
        self.offset = label_offset(self.frames, self.labels, self.starts, ink)

    def summary(self) -> str:
        """Labels and movement in one line."""
        text = f"blank labels: {self.blank.sum()} of {len(self.labels)}"
        text += f"; drawn on: {np.median(self.drawn):.1%} of a label"
        if len(self.steps):
            text += f"; a frame changes by {np.median(self.steps):.2f} of 255"
        text += " (medians)"
        if self.offset and not self.offset.fault:
            text += f"; labels fit frames in time (correlation {self.offset.at_zero:.2f})"
        return text

    def warnings(self) -> list[str]:
        """What a user should look at, a line each."""
        lines = label_warnings(self.name, self.names, self.drawn)
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
        return lines


def drawn_part(labels: Pixels, ink: Ink) -> Array:
    """Part of each label's pixels that is drawn on, (N,), 0-1; a blank label has none."""
    return np.array([ink.drawn(label).mean() for label in labels])


def label_warnings(where: str, names: Sequence[object], drawn: Array) -> list[str]:
    """What is odd about labels of which these parts are drawn on, (N,), a line each."""
    lines, blank = [], drawn == 0
    if blank.mean() > MOSTLY:
        which = named(names[index] for index in np.flatnonzero(blank).tolist())
        share = f"{blank.sum()} of {len(blank)} labels ({blank.mean():.1%})"
        lines.append(f"{where}: {share} are blank: {which}")
    if (usual := np.median(drawn)) > FULL:
        plain = "skeletons are drawn on a plain background"
        lines.append(f"{where}: {usual:.0%} of a label is drawn on; {plain}")
    return lines
