"""A person's own video → a data set in the folder layout.

    python dataloader.py video dance.mp4 --out data/dance
    python dataloader.py video dance.mp4 --out data/dance --labels openpose_output

In four steps: every clip is read once at the data set's frame rate and people's joints are found in
it, or read from another tool's files (`tracks`); one person is followed (`pose`); the frames in
which this person is seen are split by time (`splits`); the clips are read again, cropped, resized
and written together with their labels.

An interrupted import resumes where it stopped. Nothing is written anywhere but below ROOT.

Legend: boxes are (x0, y0, x1, y1) in the clip's pixels.
"""

import contextlib
import dataclasses
import hashlib
import json
import math
import shutil
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from modules.datasets import blazepose
from modules.datasets.images import BLACK, read_image
from modules.datasets.label_files import Labels, open_labels
from modules.datasets.label_images import shrink_label, stroke_gain
from modules.datasets.person import MARKER, Like, about_the_person, read_like, write_driven
from modules.datasets.pose import KeypointModel, draw_labels
from modules.datasets.source import (
    Clip,
    Pixels,
    data_rate,
    open_clip,
    sampled,
    sampled_indices,
)
from modules.datasets.splits import Piece, Place, file_of, places_by_clip, split_by_time
from modules.datasets.tracks import (
    DETECTIONS,
    Detector,
    JointFinder,
    Track,
    progress_bar,
    read_track,
)
from modules.datasets.video_options import VideoOptions
from modules.runtime.device import choose_device
from modules.runtime.errors import UserError
from modules.runtime.files import write_atomically

FORMAT_VERSION = 2  # raise it when the same command writes other files
PARTIAL = "partial"  # the splits while they are written
SPLITS = ("train", "val", "test")
RCNN_THRESHOLD = 2.0  # logit of a joint's heat map; Detectron draws joints from this value on
MARGIN = 0.15  # around the joints, of the person's height: hair, hands and feet are beyond them

Array = NDArray[np.float64]
Box = tuple[float, float, float, float]


# ----------------------------------------------------------------------------------------
# Second reading: crop, images and labels


def crop_box(extents: Array, picture: tuple[int, int], target: tuple[int, int]) -> Box:
    """The part of a clip's picture that becomes the frame, the same for all of its frames.

    It covers every place of the person with a margin, has the target's aspect ratio and at least
    its size in pixels, since a smaller part would only be enlarged. Where the picture is too narrow
    or too low for that ratio, the part is as wide or high as the picture and will be stretched.

    extents: (T, 4) boxes around the person, parts of the picture's width and height, not NaN
    picture, target: (width, height) in pixels

    Returns (x0, y0, x1, y1) in pixels of the picture.
    """
    (pw, ph), (tw, th) = picture, target
    boxes = extents * np.array([pw, ph, pw, ph])
    # A joint misplaced in a few frames must not make the person small in all of them.
    x0, y0 = np.quantile(boxes[:, :2], 0.01, axis=0)
    x1, y1 = np.quantile(boxes[:, 2:], 0.99, axis=0)
    margin = MARGIN * float(np.median(boxes[:, 3] - boxes[:, 1]))
    least = min(y1 - y0 + margin, ph)  # before stretching, half of the margins is given up
    x0, y0 = max(x0 - margin, 0), max(y0 - margin, 0)
    x1, y1 = min(x1 + margin, pw), min(y1 + margin, ph)
    height = max(y1 - y0, (x1 - x0) * th / tw, th)
    if height * tw / th > pw:
        height = max(min(height, least), pw * th / tw)
    width, height = min(height * tw / th, pw), min(height, ph)
    left = min(max((x0 + x1 - width) / 2, 0), pw - width)
    top = min(max((y0 + y1 - height) / 2, 0), ph - height)
    return left, top, left + width, top + height


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
            file_of(root, place, kind).parent.mkdir(parents=True, exist_ok=True)
    made = _labels(clip, track, labels, sorted(places), box, o)
    bar = progress_bar(f"{clip.path.name}: writing", len(places))
    for t, (_, frame) in enumerate(sampled(clip, o.fps)):
        if t in places:
            place = places[t]
            if place.split != "test" or place.number == 0:  # of a test sequence only the first
                image = Image.fromarray(frame).resize(o.size, Image.Resampling.BILINEAR, box)
                image.save(file_of(root, place, "img"))
            Image.fromarray(next(made)).save(file_of(root, place, "label"))
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
        indices = sampled_indices(clip, o.fps)
        files = [labels.images[indices[t]] for t in frames]
        part = np.array(box) / np.array([*clip.size, *clip.size])
        some = [read_image(path, BLACK) for path in files[:: max(1, len(files) // 16)]]
        gain = stroke_gain(some, part, o.size, labels.ink)
        for path in files:
            yield shrink_label(read_image(path, BLACK), part, o.size, gain, labels.ink)


# ----------------------------------------------------------------------------------------
# The whole import


def _identity_of(paths: Sequence[Path]) -> str:
    """What tells files apart without reading them: names and sizes."""
    lines = [f"{path.name} {path.stat().st_size}" for path in paths]
    return hashlib.sha256("\n".join(lines).encode(errors="surrogateescape")).hexdigest()


def _command(
    o: VideoOptions, clips: Sequence[Clip], detector: Detector | None, like: Like | None
) -> dict[str, Any]:
    """Everything that the result depends on, as plain values."""
    files = [
        sorted(path.iterdir(), key=lambda p: p.name) if path.is_dir() else [path]
        for path in o.labels
    ]
    return {
        "format": FORMAT_VERSION,
        "clips": [clip.identity for clip in clips],
        "labels": [_identity_of(paths) for paths in files],
        "detector": detector.name if detector else None,
        "weights": detector.identity if detector else "none",
        "fps": o.fps,
        "source_fps": o.source_fps,
        "detect_size": o.detect_size,
        "size": f"{o.size[0]}x{o.size[1]}",
        "fit": o.fit,
        "val_frames": o.val_frames,
        "test": list(o.test) if o.test else None,
        "pause": o.pause,
        "max_gap": o.max_gap,
        "smooth": o.smooth,
        "like": like.identity if like else None,
    }


# What an unfinished import must keep. Size and split may still change, since nothing was written
# with them; with labels from another tool everything may, since no search would be lost.
SOURCE_OPTIONS = (
    *("format", "clips", "labels", "detector", "weights", "fps", "source_fps", "detect_size"),
)


def _is_finished(o: VideoOptions, command: dict[str, Any]) -> bool:
    """Whether ROOT holds this very import, finished. False: it can be started or resumed there.

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
        raise UserError(f"{o.out / MARKER}: is corrupted; give another --out") from error
    compared = tuple(command) if finished else () if before.get("labels") else SOURCE_OPTIONS
    for name in compared:
        if before.get(name) != command[name]:
            if name in ("format", "clips", "labels", "weights"):
                what = f"other {name}" if name != "format" else "another version of this program"
            else:
                what = f"--{name} {_typed(before.get(name))}, not {_typed(command[name])}"
            again = f" (copy {o.out / DETECTIONS} into it to keep the joints that were found)"
            raise UserError(
                f"--out {o.out} was made with {what}; give another folder"
                f"{again if finished and not o.labels else ''}"
            )
    return finished


def _typed(value: Any) -> str:
    """An option's value as a user would type it."""
    if isinstance(value, list):
        return " ".join(map(str, value))
    return "by default" if value is None else str(value)


def choose_detector(o: VideoOptions) -> Detector | None:
    """The detector that --detector names; None: there are labels. Raises UserError."""
    if o.labels:
        return None
    missing = blazepose.why_missing()
    name = o.detector
    if name == "auto":
        name = "rcnn" if missing or o.weights or o.device == "cuda" else "blazepose"
        if missing:
            print(
                "joints are found with Keypoint R-CNN: 226 MB of weights, seconds per frame on a"
                f" CPU; the faster BlazePose: {missing}"
            )
    if name == "blazepose":
        if missing:
            raise UserError(f"--detector blazepose: {missing}")
        for option, given in (("--weights", o.weights), ("--device cuda", o.device == "cuda")):
            if given:
                raise UserError(
                    f"{option} is for --detector rcnn; BlazePose has its own weights and"
                    " runs on the CPU"
                )
        identity = f"blazepose {blazepose.VERSION}"
        return Detector(name, identity, blazepose.VISIBLE, cache(blazepose.load_blazepose), 1)
    device, identity = choose_device(o.device), _weights_identity(o)

    @cache
    def load() -> KeypointModel:
        # Importing torchvision's detection models takes over a second.
        from modules.datasets import keypoints

        return keypoints.load_keypoint_model(o.weights, device, short_side=o.detect_size)

    return Detector(name, identity, RCNN_THRESHOLD, load, o.batch_size)


def _weights_identity(o: VideoOptions) -> str:
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
    """Make the data set, or resume making it; prints what was done.

    Raises UserError: a source cannot be read or does not fit, ROOT holds something else, the disk
    is full.
    """
    clips = [open_clip(path, o.source_fps) for path in o.clips]
    labels: list[Labels | None] = [None] * len(clips)
    if o.labels:  # one for each clip; see options_from
        labels = [open_labels(path, clip) for path, clip in zip(o.labels, clips, strict=True)]
    like = read_like(o.like) if o.like else None
    detector = choose_detector(o)
    command = _command(o, clips, detector, like)
    if _is_finished(o, command):
        print(f"{o.out}: this import is already finished")
        return
    if like:
        o = dataclasses.replace(o, fps=like.fps, size=like.size)
    try:
        o.out.mkdir(parents=True, exist_ok=True)
        _mark(o, clips, command, finished=False)
        for name in (PARTIAL, *SPLITS):  # of an import that was interrupted
            shutil.rmtree(o.out / name, ignore_errors=True)
        tracks = []
        for clip, label in zip(clips, labels, strict=True):
            for note in clip.notes:
                print(f"{clip.path}: {note}")
            if label:
                print(f"{label.path}: {label.kind}; {label.matched}")
            finder = None if detector is None else JointFinder(o, clip, detector)
            tracks.append(read_track(clip, o, label, finder))
            print(_describe_track(clip, tracks[-1], o))
            for line in tracks[-1].quality.warnings():
                print(f"warning: {clip.path}: {line}")
        if not any(track.spans for track in tracks):
            raise _nobody(tracks, clips, detector)
        if like:
            for clip in clips:
                if (rate := data_rate(clip, o.fps)) < 0.9 * like.fps:
                    print(
                        f"warning: {clip.path}: {rate:.4g} frames/s, but {o.like} has"
                        f" {like.fps:.4g}: its motion is made faster"
                    )
            write_driven(o.out / PARTIAL, clips, tracks, like)
            (o.out / PARTIAL / "test").rename(o.out / "test")
            (o.out / PARTIAL).rmdir()
            about = {"frames_per_second": data_rate(clips[0], o.fps)}
            _mark(o, clips, command, finished=True, about=about)
            return
        _warn_of_rates(clips, o)
        boxes = _write_splits(clips, tracks, labels, o)
        about = about_the_person(clips, tracks, boxes, o.fps)
        _mark(o, clips, command, finished=True, about=about)
    except OSError as error:
        raise UserError(f"cannot write {o.out}: {error.strerror or error}") from error
    except Nobody:
        shutil.rmtree(o.out / DETECTIONS, ignore_errors=True)
        _clear(o.out)
        raise
    except UserError:
        _clear(o.out)
        raise


class Nobody(UserError):
    """No person in any clip."""


def _nobody(tracks: Sequence[Track], clips: Sequence[Clip], detector: Detector | None) -> Nobody:
    total = sum(track.frames for track in tracks)
    what = f"{clips[0].path}: no person in two neighbouring frames of {total}"
    if detector and detector.name == "blazepose":
        return Nobody(f"{what}; is somebody there, and large enough? --detector rcnn finds more")
    return Nobody(f"{what}; is somebody there?")


def _clear(root: Path) -> None:
    """Remove what a refused import began; joints that were found stay, and the mark with them."""
    shutil.rmtree(root / PARTIAL, ignore_errors=True)
    with contextlib.suppress(OSError):
        if {path.name for path in root.iterdir()} == {MARKER}:
            (root / MARKER).unlink()
            root.rmdir()


def _write_splits(
    clips: Sequence[Clip], tracks: Sequence[Track], labels: Sequence[Labels | None], o: VideoOptions
) -> dict[int, Box]:
    """Split the tracks by time and write all images, labels and train/clips.csv.

    Returns for each clip that is used the part of its picture that the frames show.
    """
    pieces = [Piece(i, *span) for i, track in enumerate(tracks) for span in track.spans]
    split = split_by_time(pieces, val_frames=o.val_frames, test=o.test, pause=o.pause_frames())
    total, kept = (sum(piece.frames for piece in some) for some in (pieces, split.train))
    if kept < total / 2:
        print(
            f"warning: only {kept} of {total} frames are left for training; a longer clip, a"
            " smaller --pause or --test 0 leaves more"
        )
    partial = o.out / PARTIAL
    every = zip(clips, tracks, labels, places_by_clip(split, len(clips)), strict=True)
    boxes = {}
    for index, (clip, track, label, places) in enumerate(every):
        if places:
            boxes[index] = write_clip(partial, clip, track, label, places, o)
            print(_describe_box(clip, boxes[index], o))
    ends = np.cumsum([0, *(piece.frames for piece in split.train)]).tolist()
    rows = "".join(f"{start},{stop}\n" for start, stop in pairwise(ends))
    write_atomically(partial / "train/clips.csv", f"start,stop\n{rows}".encode())
    for name in SPLITS:
        if (partial / name).exists():
            (partial / name).rename(o.out / name)
    partial.rmdir()
    return boxes


def _mark(
    o: VideoOptions,
    clips: Sequence[Clip],
    command: dict[str, Any],
    finished: bool,
    about: dict[str, Any] | None = None,
) -> None:
    """Write ROOT/import.json: by which command the folder is made, and whether it is finished.

    about: what else to keep of the data set
    """
    names = [clip.path.name for clip in clips]
    state = {"finished": finished, "names": names, "command": command, **(about or {})}
    write_atomically(o.out / MARKER, f"{json.dumps(state, indent=2)}\n".encode())


def _describe_track(clip: Clip, track: Track, o: VideoOptions) -> str:
    rate = "" if clip.fps is None else f" at {clip.fps:.4g} frames/s"
    rate += " (variable; taken by time stamps)" if clip.variable else ""
    kept = sum(stop - start for start, stop in track.spans)
    fps = data_rate(clip, o.fps)
    text = f"{clip.path}: {track.source_frames} frames{rate} → {track.frames} at {fps:.4g};"
    text += f" a person in {kept} ({kept / track.frames:.1%}), {len(track.spans)} recording(s)"
    text += f", {len(track.cuts)} cut(s)" if track.cuts else ""
    quality = track.quality
    text += f"\n{clip.path}: {track.frames / fps:.1f} s; longest time without the person"
    text += f" {quality.longest_gap / fps:.1f} s"
    if quality.jitter is not None and quality.height:
        text += f"; joints jitter by {quality.jitter:.1f} pixels"
        text += f" ({quality.jitter / quality.height:.1%} of the person's height)"
    return text


def _warn_of_rates(clips: Sequence[Clip], o: VideoOptions) -> None:
    """One data set, one speed: a slower clip keeps its own rate, so it would seem faster."""
    rates = [data_rate(clip, o.fps) for clip in clips]
    if max(rates) > 1.1 * min(rates):
        pairs = zip(clips, rates, strict=True)
        several = ", ".join(f"{clip.path.name}: {rate:.4g}" for clip, rate in pairs)
        print(
            f"warning: the clips have different frames/s ({several}); with --fps {min(rates):.4g}"
            " all have the same speed"
        )


def _describe_box(clip: Clip, box: Box, o: VideoOptions) -> str:
    left, top, right, bottom = box
    stretch = (o.size[0] / (right - left)) / (o.size[1] / (bottom - top))
    text = f"{clip.path}: shows {right - left:.0f} x {bottom - top:.0f} of its"
    text += f" {clip.size[0]} x {clip.size[1]} pixels, from ({left:.0f}, {top:.0f})"
    if abs(math.log(stretch)) < 0.02:
        return text
    way = "sideways" if stretch > 1 else "upwards"
    return f"{text}, stretched {max(stretch, 1 / stretch):.2f} times {way}"
