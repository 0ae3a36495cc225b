"""Joints of the people in a video → one person over time → skeleton labels.

The skeleton is OpenPose's with 18 joints and 17 limbs, in its colours, so that labels of one's own
video, of OpenPose and of data sets made with it look the same to a network.

Legend: T frames, J = 18 joints, K people of a frame. Points are (x, y) in pixels from the picture's
upper left corner, so that the first pixel's centre is (0.5, 0.5); boxes are (x0, y0, x1, y1).
"""

import colorsys
import contextlib
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from modules.datasets.canvas import Array, Camera, Canvas, Pixels, to_bytes

Mask = NDArray[np.bool_]
Span = tuple[int, int]  # frames start … stop - 1
Box = tuple[float, float, float, float]

# The order of OpenPose's COCO model (Cao et al. 2019, "OpenPose: Realtime Multi-Person 2D Pose
# Estimation"), whose limbs are drawn in this order with hues 20 degrees apart.
JOINTS = (
    *("nose", "neck"),
    *("right_shoulder", "right_elbow", "right_wrist"),
    *("left_shoulder", "left_elbow", "left_wrist"),
    *("right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle"),
    *("right_eye", "left_eye", "right_ear", "left_ear"),
)
LIMBS = (
    *((1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7)),  # shoulders, arms
    *((1, 8), (8, 9), (9, 10), (1, 11), (11, 12), (12, 13)),  # legs
    *((1, 0), (0, 14), (14, 16), (0, 15), (15, 17)),  # head
)
LIMB_COLOURS = np.array([colorsys.hsv_to_rgb(i / 18, 1, 1) for i in range(len(LIMBS))])
FACE = range(13, 17)  # limbs drawn thinner

# The 17 joints of COCO and the 25 of OpenPose's BODY_25, by their place in JOINTS. COCO has no
# neck; BODY_25 also has the middle of the hips and the feet.
COCO_JOINTS = (0, 15, 14, 17, 16, 5, 2, 6, 3, 7, 4, 11, 8, 12, 9, 13, 10)
BODY_25_JOINTS = (0, 1, 2, 3, 4, 5, 6, 7, None, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17)
# OpenPose's MPI model: the top of the head in place of the nose, and the chest.
MPI_JOINTS = (None, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, None)

OVERLAP_WEIGHT = 2.0  # of staying with the same person against switching to a larger one
LOST = 0.05  # intersection over union below which two boxes are not of one person
SMALLEST = 1 / 3  # of the main person's usual size; smaller people are in the background
LEAST_JOINTS = 4  # of a person that is drawn
PARABOLA = np.array([-3, 12, 17, 12, -3]) / 35  # weights of five frames
# Of the skeleton's size, medians of a second and of all joints or limbs: distance of a joint to its
# path, change of a limb's length from frame to frame. BlazePose on the demo's figure has 0.01 and
# 0.01; on things, and on people too small for it, 0.1 and 0.05 to 0.2.
ROUGH, JUMPING = 0.08, 0.06
AROUND = 7  # frames on either side by which a frame is judged
GROWN = 2.0  # ratio of sizes from one frame to the next above which it is another person
CLOTHES = 60.0  # of 255: distance of colours above which it is another person
WORN = 30  # frames whose median is a person's colours


class Person(NamedTuple):
    """One person in one frame."""

    box: Array  # (4,) pixels
    score: float  # 0-1
    points: Array  # (J, 2) pixels
    known: Mask  # (J,) whether a joint was found

    @property
    def size(self) -> float:
        """Side of the square that is as large as the box, pixels."""
        return math.sqrt(np.maximum(self.box[2:] - self.box[:2], 1).prod())


class Joints(NamedTuple):
    """One person over T frames."""

    points: Array  # (T, J, 2) pixels
    known: Mask  # (T, J) whether a joint is known

    def at(self, frames: Sequence[int] | slice) -> "Joints":
        return Joints(self.points[frames], self.known[frames])


class Detections(NamedTuple):
    """What a detector found in one frame, best first. K people."""

    boxes: NDArray[np.floating]  # (K, 4) pixels
    scores: NDArray[np.floating]  # (K,) 0-1
    joints: NDArray[np.floating]  # (K, 17, 3) of COCO: x, y in pixels, confidence of its own kind


# A detector: frames (H, W, 3) uint8 RGB, and the box (4,) of the person in an earlier frame, where
# it looks first → what is found in each frame.
KeypointModel = Callable[[Sequence[Pixels], Array | None], list[Detections]]


def person_from(
    values: NDArray[np.floating],
    layout: Sequence[int | None],
    threshold: float,
    *,
    score: float | None = None,
    box: NDArray[np.floating] | None = None,
) -> Person | None:
    """A person from rows (x, y, confidence), of shape (joints of the layout or more, 3).

    layout: the place in JOINTS of each row, None for one that is not drawn
    threshold: confidence above which a joint counts as found
    score, box: 0-1, (4,) pixels; None: the mean confidence of the joints found, and around them

    The neck is the middle of the shoulders where the layout has none. None: fewer than four joints,
    or no limb, were found.
    """
    points, confidence = np.zeros((len(JOINTS), 2)), np.full(len(JOINTS), -np.inf)
    for (x, y, certainty), place in zip(values, layout, strict=False):
        if place is not None:
            points[place], confidence[place] = (x, y), certainty
    known = confidence > threshold
    if 1 not in layout and known[2] and known[5]:
        points[1], known[1] = (points[2] + points[5]) / 2, True
    if known.sum() < LEAST_JOINTS or not limbs_known(known).any():
        return None
    points[~known] = 0
    if score is None:
        score = float(np.clip(confidence[known & np.isfinite(confidence)].mean(), 0, 1))
    if box is None:
        box = np.concatenate([points[known].min(axis=0), points[known].max(axis=0)])
    return Person(np.asarray(box, np.float64), score, points, known)


def limbs_known(known: Mask) -> Mask:
    """(…, J) joints found → (…, 17) limbs of which both ends were found."""
    a, b = np.array(LIMBS).T
    return np.asarray(known[..., a] & known[..., b])


def overlap(a: Array, b: Array) -> float:
    """Intersection over union of two boxes (4,), 0-1."""
    size = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    if (size <= 0).any():
        return 0.0
    common = float(size.prod())
    return common / float((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - common)


def follow_main_person(people: Sequence[Sequence[Person]]) -> list[Person | None]:
    """The main person of each of T frames: large, certain, and overlapping from frame to frame.

    Of all ways to choose one person per frame, that with the highest sum of size × score (size
    relative to the largest of all) and overlaps of neighbouring boxes, by dynamic programming. None
    where nobody was found, or only people smaller than a third of the main person.
    """
    frames = [t for t, found in enumerate(people) if found]
    chosen: list[Person | None] = [None] * len(people)
    if not frames:
        return chosen
    largest = max(person.size for t in frames for person in people[t])
    worth = {t: np.array([p.size / largest * p.score for p in people[t]]) for t in frames}
    total, came_from = worth[frames[0]], {}
    for before, t in pairwise(frames):
        ties = np.array([[overlap(a.box, b.box) for a in people[before]] for b in people[t]])
        reached = total[None] + OVERLAP_WEIGHT * ties  # (K now, K before)
        came_from[t] = reached.argmax(axis=1)
        total = reached.max(axis=1) + worth[t]
    index = int(total.argmax())
    for t in reversed(frames):
        chosen[t] = people[t][index]
        if t in came_from:
            index = int(came_from[t][index])
    usual = float(np.median([person.size for person in chosen if person]))
    return [p if p and p.size >= SMALLEST * usual else None for p in chosen]


def _another(a: Person, b: Person) -> bool:
    """Whether two people of neighbouring frames differ in place or size."""
    return overlap(a.box, b.box) < LOST or max(a.size / b.size, b.size / a.size) > GROWN


def without_strays(main: Sequence[Person | None], max_gap: int) -> list[Person | None]:
    """The people but for those who seem another one for up to `max_gap` frames and are then back:
    found wrongly, or somebody else."""
    kept: list[Person | None] = []
    last: Person | None = None
    for t, person in enumerate(main):
        if person and last and _another(last, person):
            back = main[t + 1 : t + 1 + max_gap]
            if any(later and not _another(last, later) for later in back):
                person = None
        kept.append(person)
        last = person or last
    return kept


def unbroken_spans(main: Sequence[Person | None], cuts: Sequence[int], max_gap: int) -> list[Span]:
    """Spans of frames in which one person is followed, in order.

    A span ends where the person is missing for more than `max_gap` frames, where the box no longer
    overlaps the one before or has another size (another person), and before each frame of `cuts`.
    """
    seen = [(t, person) for t, person in enumerate(main) if person]
    edges = [0]
    for i, ((last, a), (t, b)) in enumerate(pairwise(seen), 1):
        if _another(a, b) or t - last - 1 > max_gap or any(last < cut <= t for cut in cuts):
            edges.append(i)
    edges.append(len(seen))
    return [(seen[i][0], seen[j - 1][0] + 1) for i, j in pairwise(edges) if i < j]


def limb_lengths(points: Array, known: Mask) -> Array:
    """(T, 17) lengths of the limbs in pixels, NaN where an end is unknown."""
    a, b = np.array(LIMBS).T
    return np.where(limbs_known(known), np.linalg.norm(points[:, b] - points[:, a], axis=2), np.nan)


@contextlib.contextmanager
def nothing_known() -> Iterator[None]:
    """Without numpy's warnings that the median of nothing is NaN, as it should be here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        yield


def roughness(points: Array, known: Mask, spans: Sequence[Span]) -> Array:
    """(T, J) distance of each joint to its smoothed path, pixels; NaN where that is unknown.

    The path is the parabola through five frames by least squares (Savitzky and Golay 1964), which
    follows a fast movement; the distances are scaled to what independent noise of each joint is.
    """
    rough = np.full(known.shape, np.nan)
    points = np.where(known[..., None], points, np.nan)
    for start, stop in spans:
        if stop - start >= len(PARABOLA):
            five = np.lib.stride_tricks.sliding_window_view(points[start:stop], len(PARABOLA), 0)
            path = five @ PARABOLA  # (stop - start - 4, J, 2)
            rough[start + 2 : stop - 2] = np.linalg.norm(five[..., 2] - path, axis=2)
    return rough / math.sqrt(1 - PARABOLA[2])


def plausible_spans(points: Array, known: Mask, spans: Sequence[Span]) -> list[Span]:
    """The parts of the spans in which joints and limbs move as those of a body do.

    On a thing, or on a person too small or too blurred, a detector puts joints elsewhere in every
    frame. Less than five frames in a row cannot be judged; where most is left out, all is.
    """
    kept = np.zeros(len(points), bool)
    with nothing_known():
        places = np.where(known[..., None], points, np.nan)
        boxes = np.nanmax(places, axis=1) - np.nanmin(places, axis=1)
        size = np.nanmedian(boxes.max(axis=1))
        lengths = limb_lengths(points, known)
        jumps = np.nanmedian(np.abs(np.diff(lengths, axis=0, prepend=np.nan)), axis=1) / size
        rough = np.nanmedian(roughness(points, known, spans), axis=1) / size
        for start, stop in spans:
            for t in range(start, stop):
                around = slice(max(start, t - AROUND), min(stop, t + AROUND + 1))
                steady = np.nanmedian(jumps[around]) < JUMPING  # False where it is NaN
                kept[t] = steady and np.nanmedian(rough[around]) < ROUGH
    good = [run for span in spans for run in runs(kept, *span)]
    total = sum(stop - start for start, stop in spans)
    return good if sum(stop - start for start, stop in good) > total / 2 else []


def runs(flags: Mask, start: int, stop: int) -> list[Span]:
    """The runs of at least two true flags within start … stop - 1."""
    edges = np.flatnonzero(np.diff(np.pad(flags[start:stop], 1).astype(np.int8)))
    return [(start + a, start + b) for a, b in edges.reshape(-1, 2).tolist() if b - a > 1]


def colours_of_clothes(frames: Pixels, points: Array, known: Mask) -> Array:
    """(T, 2, 3) mean colour along the spine and along the thighs, NaN where they are unknown.

    frames: (T, H, W, 3), of any size; points: (T, J, 2), parts of the picture's width and height
    """
    size = np.array(frames.shape[2:0:-1])
    colours = np.full((len(points), 2, 3), np.nan)
    for t, (place, seen) in enumerate(zip(points, known, strict=True)):
        hips = (place[8] + place[11]) / 2
        lines = (
            [(place[1], hips)] if seen[[1, 8, 11]].all() else [],
            [(place[a], place[b]) for a, b in ((8, 9), (11, 12)) if seen[a] and seen[b]],
        )
        for part, ends in enumerate(lines):
            if ends:
                along = np.array([a + w * (b - a) for a, b in ends for w in (0.3, 0.5, 0.7)])
                x, y = (along * size).astype(int).clip(0, size - 1).T
                colours[t, part] = frames[t, y, x].mean(axis=0)
    return colours


def switches(
    spans: Sequence[Span], jumps: Sequence[int], colours: Array, cuts: Sequence[int], max_gap: int
) -> list[int]:
    """The first frames of those spans that seem to show another person than the one before.

    jumps, colours: starts of `unbroken_spans`, and `colours_of_clothes`, which tell after a gap
    """
    found = []
    for (start, stop), (following, end) in pairwise(spans):
        cut = any(stop <= c <= following for c in cuts)
        worn = colours[max(start, stop - WORN) : stop], colours[following:end][:WORN]
        with nothing_known():
            before, after = (np.nanmedian(part, axis=0) for part in worn)
            # Who turns away from the light wears the same colours, up to twice as dark.
            light = (before * after).sum(axis=1) / (after**2).sum(axis=1)
            apart = np.linalg.norm(before - after * light.clip(0.5, 2)[:, None], axis=1)  # (2,)
        moved = following in jumps and not cut and following - stop <= max_gap
        if moved or (apart > CLOTHES).any():
            found.append(following)
    return found


def joints_over_time(main: Sequence[Person | None]) -> Joints:
    """The joints of the person of each frame; None: nobody."""
    points = np.zeros((len(main), len(JOINTS), 2))
    known = np.zeros((len(main), len(JOINTS)), bool)
    for t, person in enumerate(main):
        if person is not None:
            points[t], known[t] = person.points, person.known
    return Joints(points, known)


def fill_and_smooth(
    points: Array, known: Mask, spans: Sequence[Span], *, max_gap: int, sigma: float
) -> Joints:
    """Joints without short gaps and jitter; outside of the spans they are unknown.

    A joint that is missing for up to `max_gap` frames moves in a straight line. Then each joint is
    averaged over its known neighbours in time with Gaussian weights of `sigma` frames.
    """
    made, have = np.zeros_like(points), np.zeros_like(known)
    reach = math.ceil(3 * sigma)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / max(sigma, 1e-9)) ** 2)
    for start, stop in spans:
        every = np.arange(stop - start)
        for joint in range(known.shape[1]):
            times = np.flatnonzero(known[start:stop, joint])
            if not len(times):
                continue
            before = times[(np.searchsorted(times, every, "right") - 1).clip(0)]
            after = times[np.searchsorted(times, every).clip(max=len(times) - 1)]
            there = (before <= every) & (every <= after) & (after - before <= max_gap + 1)
            lines = [np.interp(every, times, line) for line in points[start + times, joint].T]
            rows = (*lines, np.ones(len(every)))
            x, y, weight = (np.convolve(r * there, kernel)[reach:][: len(every)] for r in rows)
            # A missing joint stays missing, although its neighbours in time would give a position.
            made[start:stop, joint][there] = (np.stack([x, y])[:, there] / weight[there]).T
            have[start:stop, joint] = there
    return Joints(made, have)


class Style(NamedTuple):
    """How labels are drawn; by default in full colours on black."""

    background: tuple[int, int, int] = (0, 0, 0)
    low: float = 0  # of 255: the value for channels at 0 of the limb's full colour
    high: float = 255  # and for those at 255


def draw_labels(
    points: Array, known: Mask, *, height: int, width: int, style: Style | None = None
) -> Iterator[Pixels]:
    """Yield the skeleton images (H, W, 3) of points (T, J, 2), which are in the label's pixels."""
    style = style or Style()
    camera = Camera(height, width)
    radius = max(0.9, 0.022 * min(height, width))  # a thinner line would cover no pixel completely
    colours = style.low / 255 + (style.high - style.low) / 255 * LIMB_COLOURS
    for joints, limbs in zip(points, limbs_known(known), strict=True):
        picture = np.tile(np.array(style.background) / 255, (height, width, 1))
        drawn = np.flatnonzero(limbs)
        if len(drawn):
            ends = joints[np.array(LIMBS)[drawn]]  # (limbs, 2, 2)
            canvas = Canvas(ends.reshape(-1, 2), radius + 1, camera)
            for index, (a, b) in zip(drawn.tolist(), ends, strict=True):
                # Nearness: later limbs lie on earlier ones, the head on top, as in OpenPose.
                near = index * radius
                thickness = radius * (0.75 if index in FACE else 1)
                canvas.rod(np.append(a, near), np.append(b, near), thickness, thickness, index)
            canvas.lay_over(picture, colours, lit=False)
        yield to_bytes(picture)
