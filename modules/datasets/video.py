"""A person's own video → a data set in the folder layout.

Every clip is read once at the data set's frame rate, and people's joints are found in it, or read
from another tool's files (`tracks`); one person is followed (`pose`); the frames in which this
person is seen are split by time; the clips are read again, cropped, resized and written together
with their labels. Boxes are (x0, y0, x1, y1) in the clip's pixels.
"""

import dataclasses
import json
import shutil
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from modules.datasets import blazepose
from modules.datasets.canvas import Array
from modules.datasets.label_files import Labels, open_labels
from modules.datasets.layout import SPLITS
from modules.datasets.person import MARKER, about_the_person, read_like, write_driven
from modules.datasets.pose import Box, KeypointModel
from modules.datasets.source import Clip, identity_of, open_clip, sampled
from modules.datasets.tracks import (
    DETECTIONS,
    Detector,
    JointFinder,
    Track,
    drawn_labels,
    progress_bar,
    read_track,
)
from modules.datasets.video_options import VideoOptions
from modules.runtime.device import choose_device
from modules.runtime.errors import UserError, named
from modules.runtime.files import write_atomically

FORMAT_VERSION = 3  # raise it when the same command writes other files
PARTIAL = "partial"  # the splits while they are written
RCNN_THRESHOLD = 2.0  # logit of a joint's heat map; Detectron draws joints from this value on
RCNN_SIDE, RCNN_BATCH = 800, 4  # pixels of the frame's shorter side, frames
SIZES = ((256, 128), (128, 64), (64, 32))  # width, height where --size is not given
LEAST = 6  # frames with a person that can be split
VAL_FRAMES = 630  # of the validation video, where the clip is long enough
FILM_FRAMES = 900  # of the test sequences by default: a minute
FEW = 300  # training frames; fewer show too few poses
MARGIN = 0.15  # around the joints, of the person's height: hair, hands and feet are beyond them


class Piece(NamedTuple):
    """Consecutive frames of one clip."""

    clip: int
    start: int
    stop: int  # exclusive

    @property
    def frames(self) -> int:
        return self.stop - self.start


class Split(NamedTuple):
    """The pieces of each split; those of train are its recordings."""

    train: list[Piece]
    val: Piece
    test: list[Piece]


def split_by_time(
    pieces: Sequence[Piece], *, val_frames: int | None, test: Sequence[int] | None
) -> Split:
    """Cut the validation video, then held-out test sequences, off the ends of the longest pieces.

    pieces: of 2 frames or more; val_frames, test: of VideoOptions. Raises UserError: too few frames
    """
    left = list(pieces)
    total = sum(piece.frames for piece in left)
    if total < LEAST:
        raise UserError(f"{total} frames with a person are too few to split; {LEAST} are needed")
    longest = max(piece.frames for piece in left)

    def take(frames: int, option: str) -> Piece:
        # The last of the longest.
        best = max(reversed(left), key=lambda piece: piece.frames, default=Piece(0, 0, 0))
        if best.frames < frames:
            raise UserError(
                f"{option} {frames}: the longest unbroken piece that is left has {best.frames}"
                " frames; give fewer frames or a longer video"
            )
        left.remove(best)
        if best.frames - frames > 1:
            left.append(best._replace(stop=best.stop - frames))
        return best._replace(start=best.stop - frames)

    if val_frames is None:
        val_frames = max(2, min(VAL_FRAMES, total // 5, longest))
    val = take(val_frames, "--val_frames")
    sequences = [take(frames, "--test") for frames in test or () if frames]
    if not left:
        raise UserError("no frames are left to train on; give fewer for --val_frames and --test")
    if test is None:
        for piece in sorted(pieces):
            room = FILM_FRAMES - sum(sequence.frames for sequence in sequences)
            if room > 1:
                sequences.append(piece._replace(stop=min(piece.stop, piece.start + room)))
    return Split(sorted(left), val, sequences)


def files_by_clip(split: Split, clips: int) -> list[dict[int, list[str]]]:
    """For each clip, the files of each of its frames below ROOT, such as train/train_{}/0.png."""
    files: list[dict[int, list[str]]] = [{} for _ in range(clips)]
    folders = [("train/train_{}", split.train), ("val/val_{}", [split.val])]
    folders += [(f"test/test_{{}}/{i}", [piece]) for i, piece in enumerate(split.test)]
    for folder, pieces in folders:
        number = 0
        for piece in pieces:
            for t in range(piece.start, piece.stop):
                files[piece.clip].setdefault(t, []).append(f"{folder}/{number}.png")
                number += 1
    return files


def crop_box(extents: Array, picture: tuple[int, int], target: tuple[int, int]) -> Box:
    """The part of a clip's picture that becomes the frame, the same for all of its frames.

    It covers every place of the person with a margin, has the target's aspect ratio and at least
    its size. Where the picture is too narrow or too low for that ratio, it will be stretched.

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
    root: Path, track: Track, files: dict[int, list[str]], size: tuple[int, int], o: VideoOptions
) -> Box:
    """Write a clip's images and labels; returns the part of the picture that they show."""
    clip = track.clip
    box: Box = (0.0, 0.0, float(clip.size[0]), float(clip.size[1]))
    if o.fit == "person":
        box = crop_box(track.extents[track.visible], clip.size, size)
    made = drawn_labels(track, sorted(files), box, size)
    with progress_bar(f"{clip.path.name}: writing", len(files)) as bar:
        for t, (_, frame) in enumerate(sampled(clip, o.fps)):
            if t not in files:
                continue
            image = Image.fromarray(frame).resize(size, Image.Resampling.BILINEAR, box)
            for kind, picture in (("img", image), ("label", Image.fromarray(next(made)))):
                for file in files[t]:  # the film of the whole recording shows it too
                    path = root / file.format(kind)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    picture.save(path)
            bar.update()
    return box


def _command(
    o: VideoOptions,
    clips: Sequence[Clip],
    labels: Sequence[Labels | None],
    detector: Detector | None,
) -> dict[str, Any]:
    """Everything that the result depends on, as plain values."""
    names = ("fps", "source_fps", "fit", "val_frames", "max_gap", "smooth", "size", "test")
    command = {
        "version of this program": FORMAT_VERSION,
        "clips": [clip.identity for clip in clips],
        "labels": [each.identity for each in labels if each],
        "detector": detector.name if detector else None,
        "weights": detector.identity if detector else "none",
        "like": identity_of([o.like / MARKER]) if o.like else None,
        **{name: getattr(o, name) for name in names},
    }
    return dict(json.loads(json.dumps(command)))


def _finished(o: VideoOptions, command: dict[str, Any]) -> list[str] | None:
    """The warnings of this very import if ROOT holds it; None: ROOT is free. Raises UserError."""
    try:
        names = {path.name for path in o.out.iterdir()} if o.out.exists() else set()
        if MARKER not in names:
            if names - {DETECTIONS}:
                raise UserError(
                    f"--out {o.out} already exists and is not empty; give another folder"
                )
            return None
        state = json.loads((o.out / MARKER).read_text(encoding="utf-8"))
        if not state["finished"]:
            return None
        other = [name for name in command if state["command"].get(name) != command[name]]
        warnings = list(state.get("warnings", []))
    except OSError as error:
        raise UserError(f"--out {o.out}: cannot be used ({error.strerror})") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{o.out / MARKER}: is corrupted; give another --out") from error
    if other:
        again = f" (copy {o.out / DETECTIONS} into it to keep the joints that were found)"
        raise UserError(
            f"--out {o.out} was made with other {named(other)}; give another folder"
            f"{'' if o.labels else again}"
        )
    return warnings


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
    if name == "blazepose" and (missing or for_rcnn):
        other = f"{for_rcnn[0]} is for --detector rcnn" if for_rcnn else ""
        raise UserError(f"--detector blazepose: {missing or other}")
    if name == "rcnn" and o.pose_model:
        why = missing or "--weights and --device cuda are for --detector rcnn"
        raise UserError(f"--pose_model {o.pose_model}: {why}")
    if file := o.weights if name == "rcnn" else o.pose_model:
        identity = identity_of([file])
    else:
        identity = "torchvision" if name == "rcnn" else "blazepose 0.10.14"
    if name == "blazepose":
        load = cache(lambda: blazepose.load_blazepose(o.pose_model))
        return Detector(name, identity, blazepose.VISIBLE, load, 1)
    device = choose_device(o.device)

    @cache
    def load_rcnn() -> KeypointModel:
        # Importing torchvision's detection models takes over a second.
        from modules.datasets import keypoints

        return keypoints.load_keypoint_model(o.weights, device, short_side=RCNN_SIDE)

    return Detector(name, identity, RCNN_THRESHOLD, load_rcnn, RCNN_BATCH)


def import_video(o: VideoOptions) -> bool:
    """Make the data set, or resume making it. False: after a warning. Raises UserError."""
    clips = [open_clip(path, o.source_fps) for path in o.clips]
    labels: list[Labels | None] = [None] * len(clips)
    if o.labels:  # one for each clip
        labels = [open_labels(path, clip) for path, clip in zip(o.labels, clips, strict=True)]
    like = read_like(o.like) if o.like else None
    o = dataclasses.replace(o, fps=like.fps if like else o.fps)
    detector = choose_detector(o)
    command = _command(o, clips, labels, detector)
    if (warnings := _finished(o, command)) is not None:
        print(f"{o.out}: this import is already finished")
        return _tell(warnings)

    def mark(finished: bool, **about: Any) -> None:
        """Write ROOT/import.json: by which command the folder is made, and whether it is whole."""
        names = [clip.path.name for clip in clips]
        state = {"finished": finished, "names": names, "command": command, **about}
        write_atomically(o.out / MARKER, f"{json.dumps(state, indent=2)}\n".encode())

    try:
        o.out.mkdir(parents=True, exist_ok=True)
        mark(finished=False)
        for name in (PARTIAL, *SPLITS):  # of an import that was interrupted
            shutil.rmtree(o.out / name, ignore_errors=True)
        tracks = _read_tracks(o, clips, labels, detector)
        warnings = [f"{t.clip.path}: {line}" for t in tracks for line in t.warnings]
        rate = like.fps if like else max(track.fps for track in tracks)
        for t in tracks:
            if t.fps < 0.9 * rate:
                same = "" if like else f"; with --fps {t.fps:.4g} all have the same speed"
                slow = f"{t.clip.path}: {t.fps:.4g} frames/s, not {rate:.4g}"
                warnings.append(f"{slow}: its motion will seem faster{same}")
        if like:
            write_driven(o.out / PARTIAL, tracks, like)
            about = {"frames_per_second": tracks[0].fps}
        else:
            about, few = _write_splits(tracks, o)
            warnings += few
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
    if (kept := sum(len(track.visible) for track in tracks)) < LEAST:
        shutil.rmtree(o.out / DETECTIONS, ignore_errors=True)
    if kept:
        return tracks
    total = sum(len(track.extents) for track in tracks)
    if jumping := sum(track.implausible for track in tracks):
        raise UserError(
            f"{clips[0].path}: no person: joints were found in {jumping} of {total} frames, but"
            " they jump about as nobody's do; a person must be seen whole, some hundred pixels high"
        )
    blaze = detector and detector.name == "blazepose"
    more = ", and large enough? --detector rcnn finds more" if blaze else "?"
    raise UserError(
        f"{clips[0].path}: no person in five frames in a row, of {total}; is somebody there{more}"
    )


def _write_splits(tracks: Sequence[Track], o: VideoOptions) -> tuple[dict[str, Any], list[str]]:
    """Write all splits; returns what ROOT/import.json keeps of the data set, and warnings."""
    width, height = (min(track.clip.size[side] for track in tracks) for side in (0, 1))
    unenlarged = (size for size in SIZES if size[0] <= width and size[1] <= height)
    size = o.size or next(unenlarged, SIZES[-1])
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
    for track, files in zip(tracks, files_by_clip(split, len(tracks)), strict=True):
        if files:
            box = write_clip(o.out / PARTIAL, track, files, size, o)
            shown.append((track, box))
            (left, top, right, bottom), (width, height) = box, track.clip.size
            stretch = size[0] * (bottom - top) / (size[1] * (right - left))
            print(
                f"{track.clip.path}: shows {right - left:.0f} x {bottom - top:.0f} of its {width} x"
                f" {height} pixels, from ({left:.0f}, {top:.0f})"
                f"{f', its width stretched {stretch:.2f} times' if abs(stretch - 1) > 0.02 else ''}"
            )
    ends = np.cumsum([0, *(piece.frames for piece in split.train)]).tolist()
    rows = "".join(f"{start},{stop}\n" for start, stop in pairwise(ends))
    write_atomically(o.out / PARTIAL / "train/clips.csv", f"start,stop\n{rows}".encode())
    warnings = []
    if kept < FEW:
        warnings.append(
            f"only {kept} training frames: the film shows the person moving as in the clip, but"
            " poses that it has not seen stay blurred, with limbs that fade; a minute of film makes"
            " a good model"
        )
    return about_the_person(shown, size), warnings
