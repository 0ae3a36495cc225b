"""First reading of a clip: the main person in every frame.

Joints that were found are kept in ROOT/detections, so that an interrupted import resumes.
Legend: T frames of a clip at the data set's rate, J joints; boxes are (x0, y0, x1, y1).
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from modules.datasets import pose
from modules.datasets.canvas import Array, Pixels
from modules.datasets.images import BLACK, read_image
from modules.datasets.inspection import SMALL, differences, find_cuts, label_offset
from modules.datasets.label_files import Labels, shrink_label, stroke_gain
from modules.datasets.pose import Box, Joints, KeypointModel, Mask, Person, Span
from modules.datasets.source import Clip, frames_at, sampled, sampled_indices
from modules.datasets.video_options import VideoOptions
from modules.ink import Ink
from modules.runtime.errors import UserError, named

DETECTIONS = "detections"  # folder of ROOT
JITTER = 0.03  # of the person's height; BlazePose on a clean clip: 0.014
LOOKED_AT = 1500  # frames that tell whether labels move with them: the first ones
FEW_JOINTS = 0.6  # a part: labels with fewer than this show no whole person
ON_BLACK = Ink((0, 0, 0), 255)  # what joints are drawn on
NEAR_FRAMES = 30  # after which the last place of a person says nothing


@dataclass
class Track:
    """The main person of a clip over T frames at the data set's rate."""

    clip: Clip
    labels: Labels | None  # of another tool
    fps: float  # frames/s that are taken
    indices: list[int]  # (T,) source frames that are taken
    cuts: list[int]  # frames before which the picture jumps
    extents: Array  # (T, 4) boxes around the person, parts of the clip's width and height; NaN
    spans: list[Span] = field(default_factory=list)  # frames without a break with the person
    joints: Joints | None = None  # in the clip's pixels; None with skeleton images
    gap: int = 0  # frames: the longest time without the person
    jitter: str = ""  # of the joints, in words
    implausible: int = 0  # frames whose joints move as those of no body do
    warnings: list[str] = field(default_factory=list)  # what hurts the result

    @property
    def visible(self) -> list[int]:
        return [t for start, stop in self.spans for t in range(start, stop)]

    def describe(self) -> str:
        """What was found, in lines."""
        clip, frames, kept = self.clip, len(self.extents), len(self.visible)
        rate = f" at {clip.timing.rate:.4g} frames/s" if clip.timing else ""
        rate += " (variable; taken by time stamps)" if clip.variable else ""
        cuts = f", {len(self.cuts)} cut(s)" if self.cuts else ""
        lines = [
            f"{clip.frames} frames{rate} → {frames} at {self.fps:.4g}; a person in {kept}"
            f" ({kept / frames:.1%}), {len(self.spans)} recording(s){cuts}",
            f"{frames / self.fps:.1f} s; longest time without the person"
            f" {self.gap / self.fps:.1f} s{self.jitter}",
        ]
        if self.implausible:
            lines.append(f"left out: {self.implausible} frames whose joints jump about")
        return "\n".join(f"{clip.path}: {line}" for line in lines)


def progress_bar(what: str, total: int) -> Any:
    """A progress bar on stderr if that is a terminal, else none."""
    return tqdm(total=total, desc=what, unit=" frames", disable=None, leave=False)


@dataclass(frozen=True)
class Detector:
    """Which model finds joints, and how."""

    name: str  # "blazepose" or "rcnn"
    identity: str  # tells its weights apart
    threshold: float  # confidence above which a joint counts as found
    load: Callable[[], KeypointModel]  # called only for frames that are not done yet
    batch_size: int  # frames per call


class JointFinder:
    """People in the frames of one clip by a detector, kept in a file of JSON lines, one a frame.

    A line without an end, as after a kill, is left out. Raises UserError: the file is corrupted.
    """

    def __init__(self, o: VideoOptions, clip: Clip, detector: Detector) -> None:
        self.detector = detector
        what = [clip.identity, sampled_indices(clip, o.fps), detector.identity]
        key = hashlib.sha256(json.dumps(what).encode()).hexdigest()[:16]
        self.path = o.out / DETECTIONS / f"{key}.jsonl"
        self.queue: list[Pixels] = []
        lines, end, rest = (self.path.read_bytes() if self.path.exists() else b"").rpartition(b"\n")
        try:
            self.people = [self._people(line) for line in lines.splitlines()]
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(
                f"{self.path}: is corrupted; delete it to find the joints again"
            ) from error
        if rest:
            os.truncate(self.path, len(lines + end))
        self.known = len(self.people)  # frames that are already done

    def add(self, index: int, frame: Pixels) -> None:
        """Queue frame `index`, and find the people once a batch is full. Frames come in order."""
        if index >= self.known:
            self.queue.append(frame)
            if len(self.queue) >= self.detector.batch_size:
                self.flush()

    def _people(self, line: str | bytes) -> list[Person]:
        people = [
            pose.person_from(
                np.array(row["joints"], np.float64),
                pose.COCO_JOINTS,
                self.detector.threshold,
                score=row["score"],
                box=np.array(row["box"], np.float64),
            )
            for row in json.loads(line)
        ]
        return [person for person in people if person]

    def flush(self) -> None:
        """Find the people in all queued frames and append them to the file."""
        if not self.queue:
            return
        # Where the largest person of the last frame with one was; of long ago it says nothing.
        last = next((found for found in reversed(self.people[-NEAR_FRAMES:]) if found), [])
        near = max(last, key=lambda person: person.size).box if last else None
        found = self.detector.load()(self.queue, near)
        self.queue, lines = [], []
        for each in found:
            rounded = (np.round(value.astype(np.float64), 3).tolist() for value in each)
            people = zip(*rounded, strict=True)
            rows = [{"box": box, "score": score, "joints": joints} for box, score, joints in people]
            lines.append(json.dumps(rows))
            # Through the text, so that a resumed import has the digits of an uninterrupted one.
            self.people.append(self._people(lines[-1]))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in lines)


def read_track(
    clip: Clip, o: VideoOptions, labels: Labels | None, finder: JointFinder | None
) -> Track:
    """Follow a clip's main person by labels or by what the finder finds. Raises UserError."""
    indices = sampled_indices(clip, o.fps)
    if len(indices) < 2:
        raise UserError(
            f"{clip.path}: has {len(indices)} frame at {o.fps:g} frames/s; a video needs at least 2"
        )
    small: list[Pixels] = []
    what = f"{clip.path.name}: {'joints' if finder else 'frames'}"
    with progress_bar(what, len(indices)) as bar:
        for _, frame in sampled(clip, o.fps):
            if finder:
                finder.add(len(small), frame)
            image = Image.fromarray(frame).resize(SMALL, Image.Resampling.BILINEAR)
            small.append(np.asarray(image))
            bar.update()
        if finder:
            finder.flush()
    cuts = find_cuts(differences(np.stack(small)))
    nowhere = np.full((len(indices), 4), np.nan)
    track = Track(clip, labels, clip.timing_for(o.fps).data_rate(o.fps), indices, cuts, nowhere)
    if labels and labels.images:
        _follow_images(track, labels)
    elif labels:
        _follow_joints(track, [labels.people.get(i, []) for i in indices], np.stack(small), o)
    elif finder:
        _follow_joints(track, finder.people[: len(indices)], np.stack(small), o)
    if labels:
        _check_movement(track, labels, o, np.stack(small[:LOOKED_AT]))
    return track


def drawn_labels(
    track: Track, frames: Sequence[int], box: Box, size: tuple[int, int]
) -> Iterator[Pixels]:
    """Yield the labels (H, W, 3) of these frames, which show the part `box` of the picture."""
    width, height = size
    if track.joints:
        scale = np.array([width / (box[2] - box[0]), height / (box[3] - box[1])])
        points, known = track.joints.at(frames)
        points = (points - np.array(box[:2])) * scale
        yield from pose.draw_labels(points, known, height=height, width=width)
    elif labels := track.labels:
        files = [labels.images[track.indices[t]] for t in frames]
        part = np.array(box) / np.array([*track.clip.size, *track.clip.size])
        some = [read_image(path, BLACK) for path in files[:: max(1, len(files) // 16)]]
        gain = stroke_gain(some, part, size, labels.ink)
        for path in files:
            yield shrink_label(read_image(path, BLACK), part, size, gain, labels.ink)


def _check_movement(track: Track, labels: Labels, o: VideoOptions, small: Pixels) -> None:
    """Raise UserError, and write a picture, if labels and frames do not move together."""
    ink = labels.ink if labels.images else ON_BLACK
    whole = (0, 0, *track.clip.size)
    drawn = np.stack(list(drawn_labels(track, range(len(small)), whole, SMALL)))
    offset = label_offset(small, drawn, [0, *track.cuts], ink)
    if offset is None or not offset.fault or not (seen := track.visible):
        return
    some = [seen[i] for i in np.linspace(0, len(seen) - 1, 8).astype(int)]
    frames = frames_at(track.clip, [track.indices[t] for t in some])
    shown = [Image.fromarray(frame) for frame in frames]
    for image in shown:
        image.thumbnail((512, 512))
    cells = [
        np.where(ink.drawn(label)[..., None], label, np.asarray(image) // 2)
        for image, label in zip(shown, drawn_labels(track, some, whole, shown[0].size), strict=True)
    ]
    path = o.out.with_name(f"{o.out.name}_labels.png")
    Image.fromarray(np.vstack([np.hstack(cells[:4]), np.hstack(cells[4:])])).save(path)
    raise UserError(
        f"{labels.path}: {offset.fault}; {path} shows some of them on their frames, nothing else"
        " was written"
    )


def _longest_gap(seen: Mask) -> int:
    return int(np.diff(np.flatnonzero(np.pad(seen, 1, constant_values=True))).max()) - 1


def _follow_joints(
    track: Track, people: Sequence[Sequence[Person]], small: Pixels, o: VideoOptions
) -> None:
    """Fill in a track of joints, and what hurts the result. small: the frames (T, H, W, 3)"""
    longest, size = round(o.max_gap * o.fps), np.array(track.clip.size)
    main = pose.without_strays(pose.follow_main_person(people), longest)
    points, known = pose.joints_over_time(main)
    seen = pose.unbroken_spans(main, track.cuts, longest)
    spans = pose.plausible_spans(
        *pose.fill_and_smooth(points, known, seen, max_gap=longest, sigma=0), seen
    )
    track.gap = _longest_gap(np.array([person is not None for person in main]))
    track.implausible = sum(b - a for a, b in seen if b - a >= 5) - sum(b - a for a, b in spans)
    colours = pose.colours_of_clothes(small, points / size, known)
    starts = [start for start, _ in seen]
    if other := pose.switches(spans, starts, colours, track.cuts, longest):
        where = named(f"{t / track.fps:.1f} s" for t in other)
        track.warnings.append(
            f"another person, by place, size or clothes, is followed from {where} on, in a"
            " recording of its own; a model learns one person: cut the clip to one"
        )
    pairs = [(person, found) for person, found in zip(main, people, strict=True) if person]
    if beside := sum(any(p is not a and p.size > a.size / 2 for p in all_) for a, all_ in pairs):
        track.warnings.append(
            f"another person of similar size is in {beside} frames; look whether it is always the"
            " same person"
        )
    spine = points[:, 8] - points[:, 1]  # of who stands it runs down the picture
    turned = (known[:, [1, 8]].all(axis=1) & (spine[:, 1] < np.abs(spine[:, 0]))).sum()
    if turned > len(pairs) / 2:
        track.warnings.append(
            f"the neck is not above the hips in {turned} frames: is the clip upside down or on its"
            " side, or does y of the labels run upwards?"
        )
    most = known.shape[1]
    if pairs and (usual := int(np.median([a.known.sum() for a, _ in pairs]))) < FEW_JOINTS * most:
        track.warnings.append(
            f"half of the frames have no more than {usual} of {most} joints; the person is too"
            " small, too blurred or cut off: look at the contact sheet whether labels fit"
        )
    rough = pose.roughness(points, known, spans)
    if np.isfinite(rough).any():
        jitter = float(np.nanmean(rough))
        share = jitter / np.median([a.box[3] - a.box[1] for a, _ in pairs])
        part = f"{share:.1%} of the person's height"
        track.jitter = f"; joints jitter by {jitter:.1f} pixels ({part})"
        if share > JITTER:
            track.warnings.append(f"joints jitter by {part}; a larger --smooth may help")
    track.joints = points, known = pose.fill_and_smooth(
        points, known, spans, max_gap=longest, sigma=o.smooth
    )
    visible = np.asarray(pose.limbs_known(known).any(axis=1))
    track.spans = [run for span in spans for run in pose.runs(visible, *span)]
    for t in np.flatnonzero(visible).tolist():
        places = points[t][known[t]] / size
        track.extents[t] = [*places.min(axis=0), *places.max(axis=0)]


def _follow_images(track: Track, labels: Labels) -> None:
    """Fill in a track of skeleton images."""
    with progress_bar(f"{track.clip.path.name}: labels", len(track.indices)) as bar:
        for t, index in enumerate(track.indices):
            image = read_image(labels.images[index], BLACK)
            if box := Image.fromarray(labels.ink.drawn(np.asarray(image))).getbbox():
                track.extents[t] = np.array(box) / [*image.size, *image.size]
            bar.update()
    seen = np.isfinite(track.extents[:, 0])
    edges = pairwise([0, *track.cuts, len(seen)])
    track.spans = [run for start, stop in edges for run in pose.runs(seen, start, stop)]
    track.gap = _longest_gap(seen)
