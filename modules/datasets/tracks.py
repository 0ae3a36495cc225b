"""First reading of a clip: the main person in every frame.

    finder = JointFinder(options, clip, detector)
    track = read_track(clip, options, labels=None, finder=finder)

What was found is kept in ROOT/detections, a line per frame, so that an interrupted import resumes
where it stopped.

Legend: T frames of a clip at the data set's rate, J joints; boxes are (x0, y0, x1, y1).
"""

import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from modules.datasets.images import BLACK, read_image
from modules.datasets.inspection import differences, find_cuts, label_offset, overlays
from modules.datasets.label_files import Labels
from modules.datasets.pose import (
    COCO_JOINTS,
    KeypointModel,
    Person,
    Span,
    colours_of_clothes,
    draw_labels,
    fill_and_smooth,
    follow_main_person,
    joints_over_time,
    limbs_known,
    overlap,
    person_from,
    plausible_spans,
    roughness,
    runs,
    switches,
    unbroken_spans,
)
from modules.datasets.source import (
    Clip,
    Pixels,
    frames_at,
    sampled,
    sampled_indices,
)
from modules.datasets.video_options import VideoOptions
from modules.ink import Ink
from modules.runtime.errors import UserError, named

DETECTIONS = "detections"  # folder of ROOT
JITTER = 0.03  # of the person's height; BlazePose on a clean clip: 0.014
FEW_JOINTS = 0.6  # a part: labels with fewer than this show no whole person
LOOKED_AT = 1500  # frames that tell whether labels move with them: the first ones
ON_BLACK = Ink((0, 0, 0), 255)  # what joints are drawn on
SMALL = (64, 32)  # width, height in pixels at which cuts are looked for
NEAR_FRAMES = 30  # after which the last place of a person says nothing

Array = NDArray[np.float64]


@dataclass
class Track:
    """The main person of a clip over T frames at the data set's rate."""

    source_frames: int
    frames: int  # T
    cuts: list[int]  # frames before which the picture jumps
    spans: list[Span]  # frames without a break in which the person is seen
    extents: Array  # (T, 4) boxes around the person, parts of the clip's width and height
    points: Array | None  # (T, J, 2) pixels of the clip; None with skeleton images
    known: NDArray[np.bool_] | None  # (T, J)
    quality: "Quality"


@dataclass(frozen=True)
class Quality:
    """How well the person was followed."""

    longest_gap: int  # frames without the person
    jitter: float | None  # joints against their smoothed path, mean distance in pixels of the clip
    height: float  # of the person, pixels of the clip, median
    others: int  # frames with another person of at least half the size
    crossing: int  # frames of them in which the two overlap
    joints: tuple[int, int] | None = None  # found in the median frame, and in all
    switches: Sequence[int] = ()  # frames from which on another person is followed
    implausible: int = 0  # frames whose joints move as those of no body do

    def warnings(self, fps: float) -> list[str]:
        """What hurts the result, a line each."""
        lines = []
        if self.switches:
            where = named(f"{t / fps:.1f} s" for t in self.switches)
            lines.append(
                f"another person, by place, size or clothes, is followed from {where} on, in a"
                " recording of its own; a model learns one person: cut the clip to one"
            )
        if self.others:
            lines.append(
                f"another person of similar size is in {self.others} frames and overlaps the"
                f" followed one in {self.crossing}; look whether it is always the same person"
            )
        if self.joints is not None and self.joints[0] < self.joints[1] * FEW_JOINTS:
            found, most = self.joints
            lines.append(
                f"half of the frames have no more than {found} of {most} joints; the person is too"
                " small, too blurred or cut off: look at the contact sheet whether labels fit"
            )
        if self.jitter is not None and self.jitter > JITTER * self.height:
            lines.append(
                f"joints jitter by {self.jitter / self.height:.1%} of the person's height; a larger"
                " --smooth may help"
            )
        return lines


def progress_bar(what: str, total: int | None) -> Any:
    """A progress bar on stderr if that is a terminal, else none."""
    hidden = not sys.stderr.isatty()
    return tqdm(total=total, desc=what, unit=" frames", disable=hidden, leave=False)


@dataclass(frozen=True)
class Detector:
    """Which model finds joints, and how."""

    name: str  # "blazepose" or "rcnn"
    identity: str  # tells its weights apart
    threshold: float  # confidence above which a joint counts as found
    load: Callable[[], KeypointModel]  # called only for frames that are not done yet
    batch_size: int  # frames per call


class JointFinder:
    """People in the frames of one clip by a detector, kept in a file of JSON lines.

    Line i holds the people of frame i. A file that ends in the middle of a line, as after a kill,
    is used up to the line before.
    """

    def __init__(
        self,
        o: VideoOptions,
        clip: Clip,
        detector: Detector,
    ) -> None:
        self.detector = detector
        taken = hashlib.sha256(json.dumps(sampled_indices(clip, o.fps)).encode()).hexdigest()
        what = [clip.identity, taken, detector.identity]
        key = hashlib.sha256(json.dumps(what).encode()).hexdigest()[:16]
        self.path = o.out / DETECTIONS / f"{key}.jsonl"
        self.people: list[list[Person]] = []
        self.queue: list[Pixels] = []
        good = 0
        try:
            content = self.path.read_bytes() if self.path.exists() else b""
            for line in content.splitlines(keepends=True):
                if not line.endswith(b"\n"):
                    break
                rows = json.loads(line)
                if not isinstance(rows, list):
                    raise ValueError("a line is not a list of people")
                self.people.append(self._people(rows))
                good += len(line)
            if good < len(content):
                with self.path.open("r+b") as file:
                    file.truncate(good)
        except OSError as error:
            raise UserError(f"{self.path}: cannot be used ({error.strerror})") from error
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(
                f"{self.path}: is corrupted; delete it to find the joints again"
            ) from error
        self.known = len(self.people)  # frames that are already done

    def add(self, index: int, frame: Pixels) -> None:
        """Queue frame `index`, and find the people once a batch is full. Frames come in order."""
        if index >= self.known:
            self.queue.append(frame)
            if len(self.queue) >= self.detector.batch_size:
                self.flush()

    def _near(self) -> Array | None:
        """The box of the largest person in the last frame that has one; None: it is long ago."""
        for people in reversed(self.people[-NEAR_FRAMES:]):
            if people:
                return max(people, key=lambda p: float((p.box[2:] - p.box[:2]).prod())).box
        return None

    def _people(self, rows: list[dict[str, Any]]) -> list[Person]:
        people = []
        for row in rows:
            joints, box = np.array(row["joints"], np.float64), np.array(row["box"], np.float64)
            person = person_from(
                joints, COCO_JOINTS, self.detector.threshold, score=row["score"], box=box
            )
            if person:
                people.append(person)
        return people

    def flush(self) -> None:
        """Find the people in all queued frames and append them to the file."""
        if not self.queue:
            return
        found = self.detector.load()(self.queue, self._near())
        self.queue = []
        lines = []
        for boxes, scores, joints in found:
            people = zip(boxes.tolist(), scores.tolist(), joints.tolist(), strict=True)
            rows = [
                {
                    "box": [round(v, 2) for v in box],
                    "score": round(score, 4),
                    "joints": [[round(v, 2) for v in joint] for joint in places],
                }
                for box, score, places in people
            ]
            lines.append(json.dumps(rows))
            # Through the text, so that a resumed import has the digits of an uninterrupted one.
            self.people.append(self._people(json.loads(lines[-1])))
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write("".join(f"{line}\n" for line in lines))
        except OSError as error:
            raise UserError(f"{self.path}: cannot be written ({error.strerror})") from error


def read_track(
    clip: Clip, o: VideoOptions, labels: Labels | None, finder: JointFinder | None
) -> Track:
    """Read a clip once and follow its main person.

    labels: from another tool; finder: finds people where there are no labels

    Raises UserError: the clip cannot be read, or labels and frames do not move together.
    """
    indices = sampled_indices(clip, o.fps)
    if len(indices) < 2:
        raise UserError(
            f"{clip.path}: {len(indices)} frames at {o.fps:g} frames/s; a video needs at least 2"
        )
    what = f"{clip.path.name}: {'joints' if finder else 'frames'}"
    bar = progress_bar(what, len(indices))
    small: list[Pixels] = []
    looked_at: list[Pixels] = []
    try:
        for _, frame in sampled(clip, o.fps):
            if finder:
                finder.add(len(small), frame)
            image = Image.fromarray(frame).resize(SMALL, Image.Resampling.BILINEAR)
            small.append(np.asarray(image))
            if labels and len(looked_at) < LOOKED_AT:
                looked_at.append(_shrunk(frame))
            bar.update()
        if finder:
            finder.flush()
    finally:
        bar.close()
    cuts = find_cuts(differences(np.stack(small)))
    if labels and labels.images:
        images = [labels.images[index] for index in indices]
        what = f"{clip.path.name}: labels"
        track = _track_of_images(images, labels.ink, clip.frames, cuts, what)
    else:
        found = finder.people[: len(indices)] if finder else []
        if labels:
            found = [labels.people.get(index, []) for index in indices]
        track = _track_of_joints(found, np.stack(small), cuts, clip, o)
    if labels:
        _check_movement(track, labels, clip, o, np.stack(looked_at))
    return track


def _shrunk(frame: Pixels) -> Pixels:
    """A frame of its own shape, 128 pixels wide or high."""
    image = Image.fromarray(frame)
    image.thumbnail((128, 128), Image.Resampling.BILINEAR)
    return np.asarray(image)


def _check_movement(
    track: Track, labels: Labels, clip: Clip, o: VideoOptions, frames: Pixels
) -> None:
    """Raise UserError if labels and frames do not move together; a picture shows it.

    frames: (N, H, W, 3), the clip's first ones at the data set's rate
    """
    indices = sampled_indices(clip, o.fps)

    def drawn(times: Sequence[int], height: int, width: int) -> list[Pixels]:
        if track.points is not None and track.known is not None:
            points = track.points[times] * (np.array([width, height]) / clip.size)
            return list(draw_labels(points, track.known[times], height=height, width=width))
        images = [read_image(labels.images[indices[t]], BLACK) for t in times]
        return [np.asarray(image.resize((width, height))) for image in images]

    ink = labels.ink if labels.images else ON_BLACK
    small = np.stack(drawn(range(len(frames)), *frames.shape[1:3]))
    offset = label_offset(frames, small, [0, *track.cuts], ink)
    if offset is None or not offset.fault or not track.spans:
        return
    seen = [t for start, stop in track.spans for t in range(start, stop)]
    some = sorted({seen[i] for i in np.linspace(0, len(seen) - 1, 8).astype(int)})
    pictures = [Image.fromarray(f) for f in frames_at(clip, [indices[t] for t in some])]
    width = min(480, clip.size[0])
    size = (width, round(width * clip.size[1] / clip.size[0]))
    shown = overlays(
        [np.asarray(picture.resize(size)) for picture in pictures],
        drawn(some, *size[::-1]),
        ink,
    )
    path = o.out.with_name(f"{o.out.name}_labels.png")
    Image.fromarray(shown).save(path)
    raise UserError(
        f"{labels.path}: {offset.fault}; {path} shows some of them on their frames, nothing else"
        " was written"
    )


def _track_of_joints(
    people: Sequence[Sequence[Person]],
    small: Pixels,
    cuts: list[int],
    clip: Clip,
    o: VideoOptions,
) -> Track:
    gap = o.gap_frames()
    main = follow_main_person(people)
    points, known = joints_over_time(main)
    seen = unbroken_spans(main, cuts, gap)
    filled = fill_and_smooth(points, known, seen, max_gap=gap, sigma=0)
    spans = plausible_spans(*filled, seen)
    quality = _quality(people, main, points, known, spans)
    colours = colours_of_clothes(small, points / np.array(clip.size), known)
    quality = replace(
        quality,
        switches=switches(spans, [start for start, _ in seen], colours, cuts, gap),
        implausible=sum(b - a for a, b in seen if b - a >= 5) - sum(b - a for a, b in spans),
    )
    points, known = fill_and_smooth(points, known, spans, max_gap=gap, sigma=o.smooth)
    visible = np.asarray(limbs_known(known).any(axis=1))
    spans = [run for span in spans for run in runs(visible, *span)]
    extents = np.full((len(main), 4), np.nan)
    for t in np.flatnonzero(visible).tolist():
        places = points[t][known[t]] / np.array(clip.size)
        extents[t] = [*places.min(axis=0), *places.max(axis=0)]
    return Track(clip.frames, len(main), cuts, spans, extents, points, known, quality)


def _quality(
    people: Sequence[Sequence[Person]],
    main: Sequence[Person | None],
    points: Array,
    known: NDArray[np.bool_],
    spans: Sequence[Span],
) -> Quality:
    rough = roughness(points, known, spans)
    jitter = float(np.nanmean(rough)) if np.isfinite(rough).any() else None
    heights = [person.box[3] - person.box[1] for person in main if person is not None]
    others = crossing = 0
    for found, person in zip(people, main, strict=True):
        if person is None:
            continue
        rest = [p for p in found if p is not person and _area(p) > _area(person) / 4]
        others += bool(rest)
        crossing += any(overlap(p.box, person.box) > 0 for p in rest)
    height = float(np.median(heights)) if heights else 0.0
    counts = [known[t].sum() for t, person in enumerate(main) if person is not None]
    joints = (int(np.median(counts)), known.shape[1]) if counts else None
    gap = _longest_gap([p is not None for p in main])
    return Quality(gap, jitter, height, others, crossing, joints)


def _area(person: Person) -> float:
    return float((person.box[2:] - person.box[:2]).prod())


def _longest_gap(seen: Sequence[bool]) -> int:
    """The longest run of frames without the person."""
    longest = run = 0
    for flag in seen:
        run = 0 if flag else run + 1
        longest = max(longest, run)
    return longest


def _track_of_images(
    images: Sequence[Path], ink: Ink, source_frames: int, cuts: list[int], what: str
) -> Track:
    extents = np.full((len(images), 4), np.nan)
    bar = progress_bar(what, len(images))
    for t, path in enumerate(images):
        drawn = ink.drawn(np.asarray(read_image(path, BLACK)))
        rows, columns = np.flatnonzero(drawn.any(axis=1)), np.flatnonzero(drawn.any(axis=0))
        if len(rows):
            box = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
            extents[t] = box / np.array([*drawn.shape[::-1], *drawn.shape[::-1]])
        bar.update()
    bar.close()
    seen = np.isfinite(extents[:, 0])
    edges = [0, *cuts, len(images)]
    spans = [run for start, stop in pairwise(edges) for run in runs(seen, start, stop)]
    boxes = (
        extents[seen] * np.array([1, drawn.shape[0], 1, drawn.shape[0]]) if len(images) else extents
    )
    height = float(np.median(boxes[:, 3] - boxes[:, 1])) if seen.any() else 0.0
    quality = Quality(_longest_gap(seen.tolist()), None, height, 0, 0)
    return Track(source_frames, len(images), cuts, spans, extents, None, None, quality)
