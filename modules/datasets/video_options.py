"""The options of `python dataloader.py video`, one a line, with units and defaults."""

import argparse
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modules.runtime.errors import UserError
from modules.runtime.scripts import path_argument


@dataclass(frozen=True)
class VideoOptions:
    """The checked options of `dataloader.py video`."""

    clips: list[Path]
    out: Path
    labels_only: bool
    like: Path | None
    fps: float
    source_fps: float | None
    size: tuple[int, int]  # width, height
    fit: str
    val_frames: int | None  # None: chosen by the length of the video
    test: list[int] | None  # likewise
    pause: float  # s
    labels: list[Path]
    max_gap: float  # s
    smooth: float  # frames
    detector: str
    weights: Path | None
    detect_size: int
    device: str
    batch_size: int

    def gap_frames(self) -> int:
        """max_gap in frames of the data set."""
        return round(self.max_gap * self.fps)

    def pause_frames(self) -> int:
        """pause in frames of the data set."""
        return round(self.pause * self.fps)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command `video`."""
    add = parser.add_argument
    # fmt: off
    add("clips", type=path_argument, nargs="+", metavar="CLIP", help="video, GIF, or folder of images")
    add("--out", type=path_argument, metavar="ROOT", help="folder of the new data set; it must be given (default: with --labels_only, ROOT_CLIP beside --like)")
    add("--labels_only", action="store_true", help="make test sequences only: this clip's motion for the person of --like; Tester.py renders them")
    add("--like", type=path_argument, metavar="ROOT", help="with --labels_only: data set made by this command, of the person who is to make the motion; brings --size, --fps, limb lengths and floor line")
    add("--fps", type=float, default=15.0, metavar="N", help="frames/s of the data set; a slower clip keeps its own rate (default 15)")
    add("--source_fps", type=float, metavar="N", help="frames/s of a folder of images or of a clip with unknown rate; of another clip, frames/s that replace its time stamps (default: that of --fps, so every frame is used)")
    add("--size", default="64x32", metavar="WxH", help="width x height of the images, pixels (default 64x32)")
    add("--fit", choices=("person", "stretch"), default="person", help="person: crop the same part of every frame, large enough for all places of the person, with the aspect ratio of --size; stretch: resize the whole frame (default person)")
    add("--val_frames", type=int, metavar="N", help="frames of the validation video (default: 630, but at most a fifth of all)")
    add("--test", type=int, nargs="+", metavar="N", help="length of each test sequence, frames; 0: none (default: one of 630, but at most a tenth of all frames)")
    add("--pause", type=float, default=1.0, metavar="S", help="seconds left out between two splits of one recording (default 1)")
    add("--labels", type=path_argument, nargs="+", default=[], metavar="DIR", help="labels from another tool, one for each CLIP in the same order: a folder of skeleton images or of JSON files (one per frame of the clip), or a JSON or CSV file of all frames (OpenPose, AlphaPose, COCO, Halpe, MMPose, MediaPipe, DeepLabCut, SLEAP)")
    add("--max_gap", type=float, default=0.5, metavar="S", help="longest gap in seconds over which a missing person or joint is interpolated; a longer one ends the recording (default 0.5)")
    add("--smooth", type=float, default=0.7, metavar="N", help="standard deviation of the Gaussian that smooths joints over time, frames; 0: no smoothing (default 0.7)")
    add("--detector", choices=("auto", "blazepose", "rcnn"), default="auto", help="what finds joints: blazepose (package mediapipe, one person, tens of milliseconds per frame on a CPU) or rcnn (Keypoint R-CNN of torchvision: several people, GPUs; slow on a CPU) (default auto: blazepose if it is installed)")
    add("--weights", type=path_argument, metavar="FILE", help="rcnn: weights of torchvision's keypointrcnn_resnet50_fpn (default: downloaded by torchvision, 226 MB, once)")
    add("--detect_size", type=int, default=800, metavar="N", help="rcnn: shorter side, in pixels, at which joints are searched; smaller is faster and finds fewer (default 800)")
    add("--device", choices=("auto", "cuda", "cpu"), default="auto", help="rcnn: where joints are searched (default auto: CUDA if available)")
    add("--batch_size", type=int, default=4, metavar="N", help="rcnn: frames per batch (default 4)")
    # fmt: on


# Decided by the data set of --like, or without meaning for test sequences.
WITHOUT_LABELS_ONLY = ("fps", "size", "fit", "val_frames", "test", "pause")


def _with_out(values: dict[str, Any]) -> dict[str, Any]:
    """The values with --out filled in. Raises UserError."""
    like = values["like"]
    if values["labels_only"]:
        if like is None:
            raise UserError("--labels_only needs --like ROOT: the data set of the trained person")
        default = argparse.ArgumentParser()
        add_arguments(default)
        usual = vars(default.parse_args(["clip"]))
        for name in WITHOUT_LABELS_ONLY:
            if values[name] != usual[name]:
                raise UserError(f"--{name} has no effect with --labels_only; leave it out")
        if values["out"] is None:
            clip = values["clips"][0]
            values["out"] = like.with_name(f"{like.resolve().name}_{clip.stem}")
    elif like is not None:
        raise UserError(f"--like {like} needs --labels_only")
    elif values["out"] is None:
        raise UserError("--out is missing: name the folder of the new data set")
    return values


def options_from(arguments: argparse.Namespace) -> VideoOptions:
    """Check what was typed. Raises UserError."""
    values = {key: value for key, value in vars(arguments).items() if key != "command"}
    try:
        width, height = map(int, values["size"].lower().split("x"))
    except ValueError:
        raise UserError(f"--size {values['size']}: must be WIDTHxHEIGHT, such as 64x32") from None
    if min(width, height) < 8:
        raise UserError(f"--size {values['size']} is too small; it must be at least 8x8")
    o = VideoOptions(**{**_with_out(values), "size": (width, height)})
    positive = {"fps": o.fps, "source_fps": o.source_fps, "batch_size": o.batch_size}
    for name, value in positive.items():
        if value is not None and not (0 < value < math.inf):
            raise UserError(f"--{name} {value:g} must be above 0")
    for name, value in {"max_gap": o.max_gap, "smooth": o.smooth, "pause": o.pause}.items():
        if not 0 <= value < math.inf:
            raise UserError(f"--{name} {value:g} must not be negative")
    if o.val_frames is not None and o.val_frames < 2:
        raise UserError(f"--val_frames {o.val_frames} is too small; it must be at least 2")
    if o.test is not None and o.test != [0] and min(o.test) < 2:
        raise UserError(f"--test {min(o.test)} is too small; a sequence needs at least 2 labels")
    if o.detect_size < 32:
        raise UserError(f"--detect_size {o.detect_size} is too small; it must be at least 32")
    if o.labels and len(o.labels) != len(o.clips):
        raise UserError(
            f"--labels: {len(o.labels)} for {len(o.clips)} clips; give one for each clip, in the same"
            " order"
        )
    if o.like and o.out.resolve() == o.like.resolve():
        raise UserError(f"--out {o.out} is the data set of --like; give another folder")
    if o.labels and o.detector != "auto":
        raise UserError("--labels and --detector are mutually exclusive: labels need no search")
    if o.labels and o.weights:
        raise UserError(
            "--labels and --weights are mutually exclusive: give joints or the weights to find them"
        )
    for source in (*o.clips, *o.labels):
        if source.is_dir() and o.out.resolve().is_relative_to(source.resolve()):
            raise UserError(
                f"--out {o.out} is inside {source}; nothing is written into a source folder"
            )
    return o
