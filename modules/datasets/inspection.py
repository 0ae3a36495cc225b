"""What may be wrong with a data set without faults: cuts, blank labels, frames in two splits.

    inspect(train, val, tests).warnings()   # in words, a line each

Nothing here is an error: a data set may have been made so on purpose, but a user should know.

Legend: N frames of a split, H, W height and width; frames and labels are (N, H, W, 3) uint8.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from modules.data import nearest_rows
from modules.datasets.agreement import camera_motion, label_offset
from modules.ink import Ink
from modules.runtime.errors import named

Pixels = NDArray[np.uint8]
Array = NDArray[np.float64]

CUT = 3.0  # a cut changes the picture this many times as much as the frames around it do …
CUT_BESIDE = 2.0  # … and this many times as much as the steps just before and after it
CUT_FLASH = 4.0  # the two steps of a single foreign frame, against the steps next to them
CUT_LEAST = 1.0  # of 255, mean over pixels: less is never a cut
HELD = 0.05  # of 255: less is a frame that is shown again, as clips of a variable rate have them
AROUND = 15  # frames on either side that tell what is usual
NEAR = 0.5  # near-identical: closer than this part of the usual step between neighbouring frames
MOSTLY = 0.5  # a part of a split's labels; where more are blank, something is wrong
FULL = 0.5  # a label of which more is drawn on is hardly a skeleton on a plain background


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


def _flat(frames: Pixels) -> NDArray[np.float32]:
    """Frames of half the size (means of 2 × 2 pixels) as rows, (N, D)."""
    count, rows, columns = len(frames), frames.shape[1] // 2, frames.shape[2] // 2
    blocks = frames[:, : 2 * rows, : 2 * columns].reshape(count, rows, 2, columns, 2, 3)
    return blocks.mean(axis=(2, 4), dtype=np.float32).reshape(count, -1)


# ----------------------------------------------------------------------------------------
# A whole data set


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
