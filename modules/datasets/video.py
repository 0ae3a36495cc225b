"""A person's own video → a data set in the folder layout.

    python dataloader.py video dance.mp4 --out data/dance
    python dataloader.py video dance.mp4 --out data/dance --labels openpose_output

In four steps: every clip is read once at the data set's frame rate and people's joints are found in
it (or read from another tool's files); one person is followed; the frames in which it is seen are
split by time; the clips are read again, cut out, resized and written beside their labels.

What was found is kept in ROOT/detections, a line per frame, so that an interrupted import goes on
where it stopped. Nothing is written anywhere but below ROOT.

Legend: T frames of a clip at the data set's rate; boxes are (x0, y0, x1, y1) in the clip's pixels.
"""

import hashlib
import json
import math
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from modules.datasets.inspection import INK, differences, find_cuts
from modules.datasets.label_files import Labels, open_labels
from modules.datasets.pose import (
    COCO_JOINTS,
    Person,
    Span,
    draw_labels,
    fill_and_smooth,
    follow_main_person,
    joints_over_time,
    limbs_known,
    person_from,
    unbroken_spans,
)
from modules.datasets.source import (
    Clip,
    Pixels,
    count_sampled,
    frame_step,
    open_clip,
    read_frames,
    read_image,
    sampled,
    source_index,
)
from modules.datasets.video_options import VideoOptions
from modules.runtime.device import choose_device
from modules.runtime.errors import UserError
from modules.runtime.files import write_atomically

if TYPE_CHECKING:
    from modules.datasets.keypoints import Detector

FORMAT_VERSION = 1  # raise it when the same command writes other files
MARKER = "import.json"  # tells what made the folder, and whether it is finished
DETECTIONS = "detections"
PARTIAL = "partial"  # the splits while they are written
SPLITS = ("train", "val", "test")
SMALL = (64, 32)  # width, height at which cuts are looked for
VAL_FRAMES = 630
MARGIN = 0.15  # around the joints, of the person's height: hair, hands and feet are beyond them

Array = NDArray[np.float64]
Box = tuple[float, float, float, float]


# ----------------------------------------------------------------------------------------
# First reading: who is where


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


def progress_bar(what: str, total: int | None) -> Any:
    """A bar on stderr for a person who waits; silent in a file or a pipe."""
    hidden = not sys.stderr.isatty()
    return tqdm(total=total, desc=what, unit=" frames", disable=hidden, leave=False)


class JointFinder:
    """People in the frames of one clip by Keypoint R-CNN, remembered in a file of JSON lines.

    Line i holds the people of frame i. A file that ends in the middle of a line, as after a kill,
    is used up to the line before.
    """

    def __init__(
        self, o: VideoOptions, clip: Clip, weights_identity: str, load: Callable[[], "Detector"]
    ) -> None:
        self.load = load  # called when there is something to look at, so that resuming is quick
        what = [clip.identity, frame_step(clip, o.fps), weights_identity, o.detect_size]
        key = hashlib.sha256(json.dumps(what).encode()).hexdigest()[:16]
        self.path = o.out / DETECTIONS / f"{key}.jsonl"
        self.options = o
        self.people: list[list[Person]] = []
        self.waiting: list[Pixels] = []
        good = 0
        try:
            content = self.path.read_bytes() if self.path.exists() else b""
            for line in content.splitlines(keepends=True):
                if not line.endswith(b"\n"):
                    break
                rows = json.loads(line)
                if not isinstance(rows, list):
                    raise ValueError("a line is no list of people")
                self.people.append(_people(rows))
                good += len(line)
            if good < len(content):
                with self.path.open("r+b") as file:
                    file.truncate(good)
        except OSError as error:
            raise UserError(f"{self.path}: cannot be used ({error.strerror})") from error
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(
                f"{self.path}: is damaged; delete it to find the joints anew"
            ) from error
        self.known = len(self.people)  # frames that need not be looked at again

    def add(self, index: int, frame: Pixels) -> None:
        """Look at frame `index`, soon; frames come in order."""
        if index >= self.known:
            self.waiting.append(frame)
            if len(self.waiting) >= self.options.batch_size:
                self.flush()

    def flush(self) -> None:
        """Look at all frames that wait, and write down what is there."""
        if not self.waiting:
            return
        found = self.load()(self.waiting)
        self.waiting = []
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
            self.people.append(_people(json.loads(lines[-1])))
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write("".join(f"{line}\n" for line in lines))
        except OSError as error:
            raise UserError(f"{self.path}: cannot be written ({error.strerror})") from error


def _people(rows: list[dict[str, Any]]) -> list[Person]:
    from modules.datasets.keypoints import JOINT_LOGIT

    people = []
    for row in rows:
        joints, box = np.array(row["joints"], np.float64), np.array(row["box"], np.float64)
        person = person_from(joints, COCO_JOINTS, JOINT_LOGIT, score=row["score"], box=box)
        if person:
            people.append(person)
    return people


def read_track(
    clip: Clip, o: VideoOptions, labels: Labels | None, finder: JointFinder | None
) -> Track:
    """Read a clip once and follow its main person.

    labels: of another tool; finder: looks for people where there are no labels

    Raises UserError: the clip cannot be read, or its labels do not fit.
    """
    step, frames = frame_step(clip, o.fps), 0
    what = f"{clip.path.name}: {'joints' if finder else 'frames'}"
    bar = progress_bar(what, clip.frames and count_sampled(clip.frames, step))
    indices: list[int] = []
    small: list[Pixels] = []
    try:
        for index, frame in enumerate(read_frames(clip)):
            frames = index + 1
            if index != source_index(len(indices), step):
                continue
            if finder:
                finder.add(len(indices), frame)
            image = Image.fromarray(frame).resize(SMALL, Image.Resampling.BILINEAR)
            small.append(np.asarray(image))
            indices.append(index)
            bar.update()
        if finder:
            finder.flush()
    finally:
        bar.close()
    if len(indices) < 2:
        raise UserError(f"{clip.path}: {len(indices)} frames at {o.fps:g} frames/s are no video")
    cuts = find_cuts(differences(np.stack(small)))
    if labels:
        labels.check_count(clip.path, frames)
    if labels and labels.images:
        images = [labels.images[index] for index in indices]
        return _track_of_images(images, frames, cuts, f"{clip.path.name}: labels")
    found = finder.people[: len(indices)] if finder else []
    if labels:
        found = [labels.people.get(index, []) for index in indices]
    return _track_of_joints(found, frames, cuts, clip, o)


def _track_of_joints(
    people: Sequence[Sequence[Person]],
    source_frames: int,
    cuts: list[int],
    clip: Clip,
    o: VideoOptions,
) -> Track:
    main = follow_main_person(people)
    spans = unbroken_spans(main, cuts, o.gap_frames())
    points, known = joints_over_time(main)
    points, known = fill_and_smooth(points, known, spans, max_gap=o.gap_frames(), sigma=o.smooth)
    visible = np.asarray(limbs_known(known).any(axis=1))
    spans = [run for span in spans for run in _runs(visible, *span)]
    extents = np.full((len(main), 4), np.nan)
    for t in np.flatnonzero(visible).tolist():
        places = points[t][known[t]] / np.array(clip.size)
        extents[t] = [*places.min(axis=0), *places.max(axis=0)]
    return Track(source_frames, len(main), cuts, spans, extents, points, known)


def _track_of_images(
    images: Sequence[Path], source_frames: int, cuts: list[int], what: str
) -> Track:
    extents = np.full((len(images), 4), np.nan)
    bar = progress_bar(what, len(images))
    for t, path in enumerate(images):
        ink = np.asarray(read_image(path)).max(axis=2) > INK
        rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
        if len(rows):
            box = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
            extents[t] = box / np.array([*ink.shape[::-1], *ink.shape[::-1]])
        bar.update()
    bar.close()
    seen = np.isfinite(extents[:, 0])
    edges = [0, *cuts, len(images)]
    spans = [run for start, stop in pairwise(edges) for run in _runs(seen, start, stop)]
    return Track(source_frames, len(images), cuts, spans, extents, None, None)


def _runs(flags: NDArray[np.bool_], start: int, stop: int) -> list[Span]:
    """The runs of at least two true flags within start … stop - 1."""
    edges = np.flatnonzero(np.diff(np.pad(flags[start:stop], 1).astype(np.int8)))
    runs = zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)
    return [(start + a, start + b) for a, b in runs if b - a > 1]


# ----------------------------------------------------------------------------------------
# What part of the picture, which frames for which split


def crop_box(extents: Array, picture: tuple[int, int], target: tuple[int, int]) -> Box:
    """The part of a clip's picture that becomes the frame, the same for all of its frames.

    It holds every place of the person with a margin, has the target's shape and at least its size
    in pixels, since a smaller part would only be blown up. Where the picture is too narrow or too
    low for that shape, the part is as wide or high as the picture and will be stretched.

    extents: (T, 4) boxes around the person, parts of the picture's width and height, not NaN
    picture, target: (width, height) in pixels

    Returns (x0, y0, x1, y1) in pixels of the picture.
    """
    (pw, ph), (tw, th) = picture, target
    boxes = extents * np.array([pw, ph, pw, ph])
    # A joint put somewhere else in a few frames must not make the person small in all of them.
    x0, y0 = np.quantile(boxes[:, :2], 0.01, axis=0)
    x1, y1 = np.quantile(boxes[:, 2:], 0.99, axis=0)
    margin = MARGIN * float(np.median(boxes[:, 3] - boxes[:, 1]))
    least = min(y1 - y0 + margin, ph)  # half of the margins is given up before it is stretched
    x0, y0 = max(x0 - margin, 0), max(y0 - margin, 0)
    x1, y1 = min(x1 + margin, pw), min(y1 + margin, ph)
    height = max(y1 - y0, (x1 - x0) * th / tw, th)
    if height * tw / th > pw:
        height = max(min(height, least), pw * th / tw)
    width, height = min(height * tw / th, pw), min(height, ph)
    left = min(max((x0 + x1 - width) / 2, 0), pw - width)
    top = min(max((y0 + y1 - height) / 2, 0), ph - height)
    return left, top, left + width, top + height


class Piece(NamedTuple):
    """Frames of one clip without a break."""

    clip: int
    start: int
    stop: int  # exclusive

    @property
    def frames(self) -> int:
        return self.stop - self.start


class Split(NamedTuple):
    """Which frames go where; pieces of train are its recordings."""

    train: list[Piece]
    val: Piece
    test: list[Piece]


def split_by_time(
    pieces: Sequence[Piece], *, val_frames: int | None, test: Sequence[int] | None, pause: int
) -> Split:
    """Cut the validation video, then the test sequences, off the ends of the longest pieces.

    pieces:     without a break, each of at least 2 frames
    val_frames: of the validation video; None: 630, but at most a fifth of all frames
    test:       labels of each sequence; None: one of 630, but at most a tenth of all frames
    pause:      frames left out between a split and what stays before it, since frames next to each
                other in time are almost the same

    Raises UserError: too few frames.
    """
    left = list(pieces)
    total = sum(piece.frames for piece in left)
    if total < 6:
        raise UserError(f"{total} frames in which a person is seen are too few to split")
    longest = max(piece.frames for piece in left)

    def take(frames: int, option: str) -> Piece:
        # Of pieces of the same length the last.
        best = max(range(len(left)), key=lambda i: (left[i].frames, i), default=None)
        if best is None or left[best].frames < frames:
            most = left[best].frames if best is not None else 0
            raise UserError(
                f"{option} {frames}: the longest stretch without a break that is left has {most}"
                " frames; take fewer frames or a longer video"
            )
        piece = left.pop(best)
        rest = piece._replace(stop=piece.stop - frames - pause)
        if rest.frames > 1:
            left.append(rest)
        return piece._replace(start=piece.stop - frames)

    if val_frames is None:
        val_frames = max(2, min(VAL_FRAMES, total // 5, longest))
    val = take(val_frames, "--val_frames")
    if test is None:
        longest = max((piece.frames for piece in left), default=0)
        one = min(VAL_FRAMES, total // 10, longest // 2)
        test = [one] if one > 1 else []
    sequences = [take(frames, "--test") for frames in test if frames]
    if not left:
        raise UserError("no frames are left to train on; take fewer for --val_frames and --test")
    return Split(sorted(left), val, sequences)


# ----------------------------------------------------------------------------------------
# Second reading: images and labels


class Place(NamedTuple):
    """Where a frame goes."""

    split: str
    sequence: str  # folder of a test sequence, else empty
    number: int


def places_by_clip(split: Split, clips: int) -> list[dict[int, Place]]:
    """For each clip, where each of its frames goes. Frames left out are not in it."""
    places: list[dict[int, Place]] = [{} for _ in range(clips)]
    number = 0
    for piece in split.train:
        for t in range(piece.start, piece.stop):
            places[piece.clip][t] = Place("train", "", number)
            number += 1
    for name, piece in [("", split.val), *((str(i), p) for i, p in enumerate(split.test))]:
        for t in range(piece.start, piece.stop):
            kind = "test" if name else "val"
            places[piece.clip][t] = Place(kind, name, t - piece.start)
    return places


def _file(root: Path, place: Place, kind: str) -> Path:
    folder = root / place.split / f"{place.split}_{kind}" / place.sequence
    return folder / f"{place.number}.png"


def write_clip(
    root: Path,
    clip: Clip,
    track: Track,
    labels: Labels | None,
    places: dict[int, Place],
    o: VideoOptions,
) -> Box:
    """Write a clip's images and labels; returns the part of the picture that they show."""
    box: Box = (0.0, 0.0, float(clip.size[0]), float(clip.size[1]))
    if o.fit == "person":
        visible = [t for start, stop in track.spans for t in range(start, stop)]
        box = crop_box(track.extents[visible], clip.size, o.size)
    for place in {place._replace(number=0) for place in places.values()}:
        for kind in ("img", "label"):
            _file(root, place, kind).parent.mkdir(parents=True, exist_ok=True)
    made = _labels(clip, track, labels, sorted(places), box, o)
    bar = progress_bar(f"{clip.path.name}: writing", len(places))
    for t, (_, frame) in enumerate(sampled(clip, o.fps)):
        if t in places:
            place = places[t]
            if place.split != "test" or place.number == 0:  # of a test sequence only the first
                image = Image.fromarray(frame).resize(o.size, Image.Resampling.BILINEAR, box)
                image.save(_file(root, place, "img"))
            Image.fromarray(next(made)).save(_file(root, place, "label"))
            bar.update()
    bar.close()
    return box


def _labels(
    clip: Clip,
    track: Track,
    labels: Labels | None,
    frames: Sequence[int],
    box: Box,
    o: VideoOptions,
) -> Iterator[Pixels]:
    """Yield the labels (H, W, 3) of these frames, which show the part `box` of the picture."""
    width, height = o.size
    if track.points is not None and track.known is not None:
        scale = np.array([width / (box[2] - box[0]), height / (box[3] - box[1])])
        points = (track.points[frames] - np.array(box[:2])) * scale
        yield from draw_labels(points, track.known[frames], height=height, width=width)
    elif labels is not None:
        step = frame_step(clip, o.fps)
        files = [labels.images[source_index(t, step)] for t in frames]
        part = np.array(box) / np.array([*clip.size, *clip.size])
        some = [read_image(path) for path in files[:: max(1, len(files) // 16)]]
        gain = stroke_gain(some, part, o.size)
        for path in files:
            yield shrink_label(read_image(path), part, o.size, gain)


def _shrink_strokes(image: Image.Image, part: Array, size: tuple[int, int]) -> tuple[Array, Array]:
    """Colour of the strokes (H, W, 3) and the part of each pixel that they cover (H, W), 0-1."""
    pixels = np.asarray(image)
    ink = pixels.max(axis=2) > INK
    left, top, right, bottom = part * np.array([*image.size, *image.size])
    box = (max(left, 0), max(top, 0), min(right, image.width), min(bottom, image.height))
    shrunk = [
        np.asarray(
            Image.fromarray(np.where(ink, channel, np.float32(0)).astype(np.float32)).resize(
                size, Image.Resampling.BOX, box
            ),
            np.float64,
        )
        for channel in (*np.moveaxis(pixels, 2, 0), np.float32(1))
    ]
    cover = shrunk[3]
    return np.stack(shrunk[:3], axis=2) / np.maximum(cover, 1e-6)[..., None], cover


def stroke_gain(images: Sequence[Image.Image], part: Array, size: tuple[int, int]) -> float:
    """How much thicker strokes must be so that most of their pixels are covered whole, 1-6.

    Lines drawn for a large picture are a fraction of a pixel wide in a small one, and plain
    averaging would let them sink into the black around them. One value for all labels of a clip, so
    that they do not flicker.
    """
    covers = [cover[cover > 0] for cover in (_shrink_strokes(i, part, size)[1] for i in images)]
    values = np.concatenate(covers) if covers else np.zeros(0)
    return float(np.clip(1 / np.quantile(values, 0.75), 1, 6)) if len(values) else 1.0


def shrink_label(image: Image.Image, part: Array, size: tuple[int, int], gain: float) -> Pixels:
    """A skeleton image cut out and resized so that its limbs keep their colours, (H, W, 3) uint8.

    part: box (4,) as parts of the picture's width and height; size: (width, height)
    gain: of `stroke_gain`
    """
    if image.size == size and np.allclose(part, (0, 0, 1, 1)):
        return np.asarray(image)  # as it is, to the last bit
    colour, cover = _shrink_strokes(image, part, size)
    return np.rint(colour * np.minimum(cover * gain, 1)[..., None]).clip(0, 255).astype(np.uint8)


# ----------------------------------------------------------------------------------------
# The whole import


def _identity_of(paths: Sequence[Path]) -> str:
    """What tells files apart without reading them: names and sizes."""
    lines = [f"{path.name} {path.stat().st_size}" for path in paths]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _command(o: VideoOptions, clips: Sequence[Clip], weights: str) -> dict[str, Any]:
    """Everything that the result depends on, as plain values."""
    files = [
        sorted(path.iterdir(), key=lambda p: p.name) if path.is_dir() else [path]
        for path in o.labels
    ]
    return {
        "format": FORMAT_VERSION,
        "clips": [clip.identity for clip in clips],
        "labels": [_identity_of(paths) for paths in files],
        "weights": weights,
        "fps": o.fps,
        "source_fps": o.source_fps,
        "detect_size": o.detect_size,
        "size": f"{o.size[0]}x{o.size[1]}",
        "fit": o.fit,
        "val_frames": o.val_frames,
        "test": o.test,
        "pause": o.pause,
        "max_gap": o.max_gap,
        "smooth": o.smooth,
    }


# An unfinished import may still be given another size or split, since nothing was written with
# them; one with labels of another tool anything, since it has found nothing that would be lost.
SOURCE_OPTIONS = ("format", "clips", "labels", "weights", "fps", "source_fps", "detect_size")


def _may_go_on(o: VideoOptions, command: dict[str, Any]) -> bool:
    """Whether ROOT holds this import, finished (True), or may take it (False).

    Raises UserError: ROOT holds anything else.
    """
    try:
        names = {path.name for path in o.out.iterdir()} if o.out.exists() else set()
        if MARKER not in names:
            if names - {DETECTIONS}:
                raise UserError(
                    f"--out {o.out} already exists and is not empty; give another folder"
                )
            return False
        state = json.loads((o.out / MARKER).read_text(encoding="utf-8"))
        finished, before = bool(state["finished"]), dict(state["command"])
    except OSError as error:
        raise UserError(f"--out {o.out}: cannot be used ({error.strerror})") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{o.out / MARKER}: is damaged; give another --out") from error
    compared = tuple(command) if finished else () if before.get("labels") else SOURCE_OPTIONS
    for name in compared:
        if before.get(name) != command[name]:
            if name in ("format", "clips", "labels", "weights"):
                what = f"other {name}" if name != "format" else "another version of this program"
            else:
                what = f"--{name} {_typed(before.get(name))}, not {_typed(command[name])}"
            again = f" (with a copy of {o.out / DETECTIONS} in it, no joint is sought again)"
            raise UserError(
                f"--out {o.out} was made with {what}; give another folder"
                f"{again if finished and not o.labels else ''}"
            )
    return finished


def _typed(value: Any) -> str:
    """An option's value as one would type it."""
    if isinstance(value, list):
        return " ".join(map(str, value))
    return "by default" if value is None else str(value)


def _weights_identity(o: VideoOptions) -> str:
    if o.labels:
        return "none"
    if o.weights is None:
        return "torchvision"
    try:
        digest = hashlib.sha256()
        with o.weights.open("rb") as file:
            while block := file.read(2**20):
                digest.update(block)
        return digest.hexdigest()
    except OSError as error:
        raise UserError(f"--weights {o.weights}: cannot be read ({error.strerror})") from error


def import_video(o: VideoOptions) -> None:
    """Make the data set, or go on with it; prints what was done.

    Raises UserError: a source cannot be read or does not fit, ROOT holds something else, the disk
    is full.
    """
    clips = [open_clip(path, o.source_fps) for path in o.clips]
    labels: list[Labels | None] = [None] * len(clips)
    if o.labels:  # one for each clip; see options_from
        labels = [
            open_labels(path, [file.name for file in clip.files], clip.size)
            for path, clip in zip(o.labels, clips, strict=True)
        ]
    device = None if o.labels else choose_device(o.device)
    weights = _weights_identity(o)
    command = _command(o, clips, weights)
    if _may_go_on(o, command):
        print(f"{o.out}: this import is finished already")
        return

    @cache
    def load() -> "Detector":
        from modules.datasets.keypoints import load_detector

        assert device is not None
        return load_detector(o.weights, device, short_side=o.detect_size)

    try:
        o.out.mkdir(parents=True, exist_ok=True)
        _mark(o, clips, command, finished=False)
        for name in (PARTIAL, *SPLITS):  # of an import that was interrupted
            shutil.rmtree(o.out / name, ignore_errors=True)
        tracks = []
        for clip, label in zip(clips, labels, strict=True):
            finder = None if label else JointFinder(o, clip, weights, load)
            tracks.append(read_track(clip, o, label, finder))
            print(_describe(clip, tracks[-1], o))
        pieces = [Piece(i, *span) for i, track in enumerate(tracks) for span in track.spans]
        split = split_by_time(pieces, val_frames=o.val_frames, test=o.test, pause=o.pause_frames())
        partial = o.out / PARTIAL
        every = zip(clips, tracks, labels, places_by_clip(split, len(clips)), strict=True)
        for clip, track, label, places in every:
            if places:
                print(_describe_box(clip, write_clip(partial, clip, track, label, places, o), o))
        ends = np.cumsum([0, *(piece.frames for piece in split.train)]).tolist()
        rows = "".join(f"{start},{stop}\n" for start, stop in pairwise(ends))
        write_atomically(partial / "train/clips.csv", f"start,stop\n{rows}".encode())
        for name in SPLITS:
            if (partial / name).exists():
                (partial / name).rename(o.out / name)
        partial.rmdir()
        _mark(o, clips, command, finished=True)
    except OSError as error:
        raise UserError(f"cannot write {o.out}: {error.strerror or error}") from error


def _mark(o: VideoOptions, clips: Sequence[Clip], command: dict[str, Any], finished: bool) -> None:
    names = [clip.path.name for clip in clips]
    state = {"finished": finished, "names": names, "command": command}
    write_atomically(o.out / MARKER, f"{json.dumps(state, indent=2)}\n".encode())


def _describe(clip: Clip, track: Track, o: VideoOptions) -> str:
    rate = "" if clip.fps is None else f" at {clip.fps:.4g} frames/s"
    kept = sum(stop - start for start, stop in track.spans)
    fps = min(o.fps, clip.fps or o.fps)
    text = f"{clip.path}: {track.source_frames} frames{rate} → {track.frames} at {fps:.4g};"
    text += f" a person in {kept} ({kept / track.frames:.1%}), {len(track.spans)} recording(s)"
    return text + (f", {len(track.cuts)} cut(s)" if track.cuts else "")


def _describe_box(clip: Clip, box: Box, o: VideoOptions) -> str:
    left, top, right, bottom = box
    stretch = (o.size[0] / (right - left)) / (o.size[1] / (bottom - top))
    text = f"{clip.path}: shows {right - left:.0f} x {bottom - top:.0f} of its"
    text += f" {clip.size[0]} x {clip.size[1]} pixels, from ({left:.0f}, {top:.0f})"
    if abs(math.log(stretch)) < 0.02:
        return text
    way = "sideways" if stretch > 1 else "upwards"
    return f"{text}, stretched {max(stretch, 1 / stretch):.2f} times {way}"
