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
from modules.datasets.label_files import Labels, open_labels, shrink_label, stroke_gain
from modules.datasets.person import MARKER, Box, Like, about_the_person, read_like, write_driven
from modules.datasets.pose import KeypointModel, draw_labels
from modules.datasets.source import Clip, Pixels, identity_of, open_clip, sampled
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
from modules.runtime.errors import UserError, named
from modules.runtime.files import write_atomically

FORMAT_VERSION = 3  # raise it when the same command writes other files
PARTIAL = "partial"  # the splits while they are written
SPLITS = ("train", "val", "test")
RCNN_THRESHOLD = 2.0  # logit of a joint's heat map; Detectron draws joints from this value on
RCNN_SIDE, RCNN_BATCH = 800, 4  # pixels of the frame's shorter side, frames
SIZES = ((256, 128), (128, 64), (64, 32))  # width, height where --size is not given
FEW = 300  # training frames; fewer show too few poses
MARGIN = 0.15  # around the joints, of the person's height: hair, hands and feet are beyond them

Array = NDArray[np.float64]


# ---------------------------------------------------------------- second reading


def crop_box(extents: Array, picture: tuple[int, int], target: tuple[int, int]) -> Box:
    """The part of a clip's picture that becomes the frame, the same for all of its frames.

    It covers every place of the person with a margin, has the target's aspect ratio and at least
    its size in pixels. Where the picture is too narrow or too low for that ratio, the part is as
    wide or high as the picture and will be stretched.

    extents: (T, 4) boxes around the person, parts of the picture's width and height, not NaN
    picture, target: (width, height) in pixels
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
    root: Path, track: Track, places: dict[int, list[Place]], size: tuple[int, int], o: VideoOptions
) -> Box:
    """Write a clip's images and labels; returns the part of the picture that they show."""
    clip = track.clip
    box: Box = (0.0, 0.0, float(clip.size[0]), float(clip.size[1]))
    if o.fit == "person":
        box = crop_box(track.extents[track.visible], clip.size, size)
    made = _labels(track, sorted(places), box, size)
    with progress_bar(f"{clip.path.name}: writing", len(places)) as bar:
        for t, (_, frame) in enumerate(sampled(clip, o.fps)):
            if t not in places:
                continue
            image = Image.fromarray(frame).resize(size, Image.Resampling.BILINEAR, box)
            for kind, picture in (("img", image), ("label", Image.fromarray(next(made)))):
                for place in places[t]:  # the film of the whole recording shows it too
                    path = file_of(root, place, kind)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    picture.save(path)
            bar.update()
    return box


def _labels(
    track: Track, frames: Sequence[int], box: Box, size: tuple[int, int]
) -> Iterator[Pixels]:
    """Yield the labels (H, W, 3) of these frames, which show the part `box` of the picture."""
    width, height = size
    if track.points is not None and track.known is not None:
        scale = np.array([width / (box[2] - box[0]), height / (box[3] - box[1])])
        points = (track.points[frames] - np.array(box[:2])) * scale
        yield from draw_labels(points, track.known[frames], height=height, width=width)
    elif labels := track.labels:
        files = [labels.images[track.indices[t]] for t in frames]
        part = np.array(box) / np.array([*track.clip.size, *track.clip.size])
        some = [read_image(path, BLACK) for path in files[:: max(1, len(files) // 16)]]
        gain = stroke_gain(some, part, size, labels.ink)
        for path in files:
            yield shrink_label(read_image(path, BLACK), part, size, gain, labels.ink)


# ---------------------------------------------------------------- the whole import


def _command(
    o: VideoOptions, clips: Sequence[Clip], detector: Detector | None, like: Like | None
) -> dict[str, Any]:
    """Everything that the result depends on, as plain values."""
    files = [
        sorted(path.iterdir(), key=lambda p: p.name) if path.is_dir() else [path]
        for path in o.labels
    ]
    return {
        "version of this program": FORMAT_VERSION,
        "clips": [clip.identity for clip in clips],
        "labels": [identity_of(paths) for paths in files],
        "detector": detector.name if detector else None,
        "weights": detector.identity if detector else "none",
        **{name: getattr(o, name) for name in ("fps", "source_fps", "fit", "val_frames")},
        **{name: getattr(o, name) for name in ("max_gap", "smooth")},
        "size": "{}x{}".format(*o.size) if o.size else None,
        "test": list(o.test) if o.test else None,
        "like": like.identity if like else None,
    }


# What an unfinished import must keep. Size and split may still change, since nothing was written
# with them; with labels from another tool everything may, since no search would be lost.
SOURCE_OPTIONS = (
    *("version of this program", "clips", "labels", "detector", "weights", "fps", "source_fps"),
)


def _finished(o: VideoOptions, command: dict[str, Any]) -> list[str] | None:
    """The warnings of this very import if ROOT holds it finished; None: it can be made there.

    Raises UserError: ROOT holds anything else.
    """
    try:
        names = {path.name for path in o.out.iterdir()} if o.out.exists() else set()
        if MARKER not in names:
            if names - {DETECTIONS}:
                raise UserError(
                    f"--out {o.out} already exists and is not empty; give another folder"
                )
            return None
        state = json.loads((o.out / MARKER).read_text(encoding="utf-8"))
        finished, before = state["finished"], dict(state["command"])
    except OSError as error:
        raise UserError(f"--out {o.out}: cannot be used ({error.strerror})") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{o.out / MARKER}: is corrupted; give another --out") from error
    compared = tuple(command) if finished else () if before.get("labels") else SOURCE_OPTIONS
    if other := [name for name in compared if before.get(name) != command[name]]:
        again = f" (copy {o.out / DETECTIONS} into it to keep the joints that were found)"
        raise UserError(
            f"--out {o.out} was made with other {named(other)}; give another folder"
            f"{again if finished and not o.labels else ''}"
        )
    return list(state.get("warnings", [])) if finished else None


def choose_detector(o: VideoOptions) -> Detector | None:
    """The detector that --detector names; None: there are labels. Raises UserError."""
    if o.labels:
        return None
    missing = blazepose.why_missing(o.pose_model)
    given = {"--weights": o.weights, "--device cuda": o.device == "cuda"}
    for_rcnn = [option for option, value in given.items() if value]
    name = o.detector
    if name == "auto":
        name = "rcnn" if missing or for_rcnn else "blazepose"
        if missing:
            print(
                "joints are found with Keypoint R-CNN: 226 MB of weights, seconds per frame on a"
                f" CPU; the faster BlazePose: {missing}"
            )
    if name == "blazepose":
        if missing:
            raise UserError(f"--detector blazepose: {missing}")
        if for_rcnn:
            raise UserError(
                f"{for_rcnn[0]} is for --detector rcnn; BlazePose has its own weights and runs on"
                " the CPU"
            )
        identity = _digest("pose_model", o.pose_model) if o.pose_model else "blazepose 0.10.14"
        load = cache(lambda: blazepose.load_blazepose(o.pose_model))
        return Detector(name, identity, blazepose.VISIBLE, load, 1)
    if o.pose_model:
        why = missing or "--weights and --device cuda are for --detector rcnn"
        raise UserError(f"--pose_model {o.pose_model}: {why}")
    device = choose_device(o.device)

    @cache
    def load_rcnn() -> KeypointModel:
        # Importing torchvision's detection models takes over a second.
        from modules.datasets import keypoints

        return keypoints.load_keypoint_model(o.weights, device, short_side=RCNN_SIDE)

    identity = _digest("weights", o.weights) if o.weights else "torchvision"
    return Detector(name, identity, RCNN_THRESHOLD, load_rcnn, RCNN_BATCH)


def _digest(option: str, path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(f"--{option} {path}: cannot be read ({error.strerror})") from error


def usual_size(clips: Sequence[Clip]) -> tuple[int, int]:
    """(width, height) of the frames where --size is not given: none of the clips is enlarged."""
    least = [min(clip.size[side] for clip in clips) for side in (0, 1)]
    fitting = [size for size in SIZES if size[0] <= least[0] and size[1] <= least[1]]
    return (*fitting, SIZES[-1])[0]


def import_video(o: VideoOptions) -> bool:
    """Make the data set, or resume making it; prints what was done.

    Returns whether all is well: False after a warning. Raises UserError: a source cannot be read or
    does not fit, ROOT holds something else, the disk is full.
    """
    clips = [open_clip(path, o.source_fps) for path in o.clips]
    labels: list[Labels | None] = [None] * len(clips)
    if o.labels:  # one for each clip
        labels = [open_labels(path, clip) for path, clip in zip(o.labels, clips, strict=True)]
    like = read_like(o.like) if o.like else None
    detector = choose_detector(o)
    command = _command(o, clips, detector, like)
    if (warnings := _finished(o, command)) is not None:
        print(f"{o.out}: this import is already finished")
        return _tell(warnings)

    def mark(finished: bool, **about: Any) -> None:
        """Write ROOT/import.json: by which command the folder is made, and whether it is whole."""
        names = [clip.path.name for clip in clips]
        state = {"finished": finished, "names": names, "command": command, **about}
        write_atomically(o.out / MARKER, f"{json.dumps(state, indent=2)}\n".encode())

    rate = like.fps if like else o.fps
    made = dataclasses.replace(o, fps=rate)
    try:
        o.out.mkdir(parents=True, exist_ok=True)
        mark(finished=False)
        for name in (PARTIAL, *SPLITS):  # of an import that was interrupted
            shutil.rmtree(o.out / name, ignore_errors=True)
        tracks = _read_tracks(made, clips, labels, detector)
        warnings = [f"{t.clip.path}: {line}" for t in tracks for line in t.warnings]
        if like:
            warnings += [
                f"{t.clip.path}: {t.fps:.4g} frames/s, but {o.like} has {rate:.4g}: its motion is"
                " made faster"
                for t in tracks
                if t.fps < 0.9 * rate
            ]
            write_driven(o.out / PARTIAL, tracks, like)
            about = {"frames_per_second": tracks[0].fps}
        else:
            about, more = _write_splits(tracks, made)
            warnings += more
        for path in (o.out / PARTIAL).iterdir():
            path.rename(o.out / path.name)
        (o.out / PARTIAL).rmdir()
        mark(finished=True, **about, warnings=warnings)
        return _tell(warnings)
    except OSError as error:
        raise UserError(f"cannot write {o.out}: {error.strerror or error}") from error
    except UserError:
        # Joints that were found stay, and the mark with them.
        shutil.rmtree(o.out / PARTIAL, ignore_errors=True)
        if {path.name for path in o.out.iterdir()} == {MARKER}:
            shutil.rmtree(o.out)
        raise


def _tell(warnings: Sequence[str]) -> bool:
    """Print the warnings; whether there are none."""
    for line in warnings:
        print(f"warning: {line}")
    return not warnings


def _read_tracks(
    o: VideoOptions,
    clips: Sequence[Clip],
    labels: Sequence[Labels | None],
    detector: Detector | None,
) -> list[Track]:
    """Read every clip and say what is in it. Raises UserError: nobody is in any of them."""
    tracks = []
    for clip, label in zip(clips, labels, strict=True):
        for note in clip.notes:
            print(f"{clip.path}: {note}")
        if label:
            print(f"{label.path}: {label.kind}; {label.matched}")
        finder = JointFinder(o, clip, detector) if detector else None
        tracks.append(read_track(clip, o, label, finder))
        print(tracks[-1].describe())
    if any(track.spans for track in tracks):
        return tracks
    shutil.rmtree(o.out / DETECTIONS, ignore_errors=True)
    total = sum(len(track.extents) for track in tracks)
    if jumping := sum(track.implausible for track in tracks):
        raise UserError(
            f"{clips[0].path}: no person: joints were found in {jumping} of {total} frames, but"
            " they jump about as nobody's do; a person must be seen whole, some hundred pixels high"
        )
    blaze = detector and detector.name == "blazepose"
    raise UserError(
        f"{clips[0].path}: no person in five frames in a row, of {total}; is somebody there"
        f"{', and large enough? --detector rcnn finds more' if blaze else '?'}"
    )


def _write_splits(tracks: Sequence[Track], o: VideoOptions) -> tuple[dict[str, Any], list[str]]:
    """Split the tracks by time and write all images, labels and train/clips.csv.

    Returns what ROOT/import.json keeps of the data set, and warnings.
    """
    size = o.size or usual_size([track.clip for track in tracks])
    pieces = [Piece(i, *span) for i, track in enumerate(tracks) for span in track.spans]
    split = split_by_time(pieces, val_frames=o.val_frames, test=o.test)
    kept, val, held = sum(piece.frames for piece in split.train), split.val, tracks[split.val.clip]
    print(
        f"{kept} frames to train on; {val.frames} to validate on, from {val.start / held.fps:.1f} s"
        f" to {val.stop / held.fps:.1f} s of {held.clip.path}; test sequences:"
        f" {', '.join(str(piece.frames) for piece in split.test) or 'none'}"
        f"{'' if o.test is not None else ', the recordings whole'}"
    )
    shown = []
    for track, places in zip(tracks, places_by_clip(split, len(tracks)), strict=True):
        if places:
            shown.append((track, write_clip(o.out / PARTIAL, track, places, size, o)))
            print(_describe_box(track.clip, shown[-1][1], size))
    ends = np.cumsum([0, *(piece.frames for piece in split.train)]).tolist()
    rows = "".join(f"{start},{stop}\n" for start, stop in pairwise(ends))
    write_atomically(o.out / PARTIAL / "train/clips.csv", f"start,stop\n{rows}".encode())
    warnings = []
    slowest = min(track.fps for track in tracks)
    if max(track.fps for track in tracks) > 1.1 * slowest:  # a slower one would seem faster
        several = ", ".join(f"{track.clip.path.name}: {track.fps:.4g}" for track in tracks)
        warnings.append(
            f"the clips have different frames/s ({several}); with --fps {slowest:.4g} all have the"
            " same speed"
        )
    if kept < FEW:
        warnings.append(
            f"only {kept} training frames: the film shows the person moving as in the clip, but"
            " poses that it has not seen stay blurred, with limbs that fade; a minute of film makes"
            " a good model"
        )
    return about_the_person(shown, size), warnings


def _describe_box(clip: Clip, box: Box, size: tuple[int, int]) -> str:
    left, top, right, bottom = box
    stretch = (size[0] / (right - left)) / (size[1] / (bottom - top))
    text = f"{clip.path}: shows {right - left:.0f} x {bottom - top:.0f} of its"
    text += f" {clip.size[0]} x {clip.size[1]} pixels, from ({left:.0f}, {top:.0f})"
    if abs(math.log(stretch)) < 0.02:
        return text
    way = "sideways" if stretch > 1 else "upwards"
    return f"{text}, stretched {max(stretch, 1 / stretch):.2f} times {way}"
