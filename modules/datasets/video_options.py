"""The options of dataloader.py's commands, one a line, with units and defaults."""

import dataclasses
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from modules.options import REQUIRED, option
from modules.runtime.errors import UserError, named

DATA_SET, LABELS, JOINTS = "data set", "labels", "finding joints"


def parse_size(text: str) -> tuple[int, int]:
    """(width, height) of WIDTHxHEIGHT. Raises UserError."""
    try:
        width, height = map(int, text.lower().split("x"))
    except ValueError:
        raise UserError(f"--size {text}: must be WIDTHxHEIGHT, such as 64x32") from None
    if min(width, height) < 8:
        raise UserError(f"--size {text} is too small; it must be at least 8x8")
    return width, height


# fmt: off
@dataclass
class DemoOptions:
    """make a small synthetic data set"""

    root: Path = option(REQUIRED, DATA_SET, "folder of the new data set", positional=True, metavar="ROOT")
    train: int = option(1200, DATA_SET, "training frames", at_least=2, at_most=1_000_000)
    val: int = option(300, DATA_SET, "validation frames", at_least=2, at_most=1_000_000)
    test: int = option(3, DATA_SET, "test sequences", at_least=0, at_most=1_000_000)
    test_length: int = option(120, DATA_SET, "labels of each test sequence", at_least=2, at_most=1_000_000)
    seed: int = option(0, DATA_SET, "seed of the motion", at_least=0)
    frame_H: int = option(32, DATA_SET, "height of the images, pixels", at_least=8, at_most=8192)
    frame_W: int = option(64, DATA_SET, "width of the images, pixels", at_least=8, at_most=8192)


@dataclass
class CheckOptions:
    """print what a data set holds, or list its problems"""

    root: Path = option(REQUIRED, DATA_SET, "folder with train/ and val/", positional=True, metavar="ROOT")
    picture: Path | None = option(None, DATA_SET, "draw a contact sheet: labels over frames, differences between frames, cuts", metavar="FILE.png", shown="none")


@dataclass
class RenumberOptions:
    """rename images to 0.png, 1.png, … in the order of their numbers"""

    folders: tuple[Path, ...] = option(REQUIRED, DATA_SET, "folder of images; give images and their labels together, so that they stay together", positional=True, metavar="FOLDER")


@dataclass(frozen=True)
class VideoOptions:
    """make a data set from your own video: finds the person's joints and draws the labels"""

    clips: tuple[Path, ...] = option(REQUIRED, DATA_SET, "video, GIF, or folder of images", positional=True, metavar="CLIP")
    out: Path = option(None, DATA_SET, "folder of the new data set; it must be given", metavar="ROOT", shown="with --labels_only, ROOT_CLIP beside --like")
    labels_only: bool = option(False, DATA_SET, "make test sequences only: this clip's motion for the person of --like; Tester.py renders them")
    like: Path | None = option(None, DATA_SET, "with --labels_only: data set made by this command, of the person who is to perform the motion; sets --size, --fps, limb lengths and floor line", metavar="ROOT", shown="none")
    fps: float = option(15.0, DATA_SET, "frames/s of the data set; a slower clip keeps its own rate", metavar="N", above=0)
    source_fps: float | None = option(None, DATA_SET, "frames/s of a folder of images or of a clip with unknown rate; for any other clip, frames/s that override its timestamps", metavar="N", above=0, shown="that of --fps, so every frame is used")
    size: tuple[int, int] | None = option(None, DATA_SET, "width x height of the images, pixels; Trainer.py can make them smaller", metavar="WxH", shown="256x128; a half or a quarter of it where the clip is smaller", convert=parse_size)
    fit: str = option("person", DATA_SET, "person: crop the same part of every frame, large enough for every position of the person, with the aspect ratio of --size; stretch: resize the whole frame", choices=("person", "stretch"))
    val_frames: int | None = option(None, DATA_SET, "frames of the validation video", metavar="N", at_least=2, shown="630, but at most a fifth of all")
    test: tuple[int, ...] | None = option(None, DATA_SET, "length of each test sequence held out from training, frames; 0: none", metavar="N", at_least=0, shown="none is held out: the sequences are the whole recordings, up to a minute, to be rendered")
    labels: tuple[Path, ...] = option((), LABELS, "labels from another tool, one for each CLIP in the same order: a folder of skeleton images or of JSON files (one per frame of the clip), or a JSON file of all frames (OpenPose, COCO, AlphaPose)", metavar="DIR", shown="none")
    max_gap: float = option(0.5, LABELS, "longest gap in seconds over which a missing person or joint is interpolated; a longer one ends the recording", metavar="S", at_least=0)
    smooth: float = option(0.7, LABELS, "standard deviation of the Gaussian that smooths joints over time, frames; 0: no smoothing", metavar="N", at_least=0)
    detector: str = option("auto", JOINTS, "joint detector: blazepose (package mediapipe, one person, tens of milliseconds per frame on a CPU) or rcnn (Keypoint R-CNN of torchvision: several people, GPUs; slow on a CPU)", choices=("auto", "blazepose", "rcnn"), shown="auto: blazepose if it is installed")
    pose_model: Path | None = option(None, JOINTS, "blazepose: model file (pose_landmarker_full.task) for mediapipe after 0.10.14", metavar="FILE.task", shown="the one inside mediapipe 0.10.14")
    weights: Path | None = option(None, JOINTS, "rcnn: weights of torchvision's keypointrcnn_resnet50_fpn", metavar="FILE", shown="downloaded by torchvision, 226 MB, once")
    device: str = option("auto", JOINTS, "rcnn: where the detector runs", choices=("auto", "cuda", "cpu"), shown="auto: CUDA if available")
# fmt: on


COMMANDS = {
    "demo": DemoOptions,
    "check": CheckOptions,
    "renumber": RenumberOptions,
    "video": VideoOptions,
}

# Decided by the data set of --like, or without meaning for test sequences.
WITHOUT_LABELS_ONLY = ("fps", "size", "fit", "val_frames", "test")


def checked(o: VideoOptions, typed: Collection[str]) -> VideoOptions:
    """The options with --out filled in. typed: names of those that were. Raises UserError."""
    if o.labels_only and o.like and o.out is None:
        name = f"{o.like.resolve().name}_{o.clips[0].stem}"
        o = dataclasses.replace(o, out=o.like.with_name(name))
    out, clips, labels = o.out and o.out.resolve(), len(o.clips), len(o.labels)
    idle = [f"--{name}" for name in WITHOUT_LABELS_ONLY if o.labels_only and name in typed]
    both = [f"--{n}" for n in ("detector", "weights", "pose_model") if o.labels and n in typed]
    sources = [path for path in (*o.clips, *o.labels) if path.is_dir()]
    around = [path for path in sources if out and out.is_relative_to(path.resolve())]
    short = min(o.test) if o.test and o.test != (0,) else 2
    for wrong, what in (
        (o.labels_only and not o.like, "--labels_only needs --like ROOT, the person's data set"),
        (o.like and not o.labels_only, f"--like {o.like} needs --labels_only"),
        (idle, f"{named(idle)} has no effect with --labels_only; leave it out"),
        (out is None, "--out is missing: name the folder of the new data set"),
        (short < 2, f"--test {short} is too small; a sequence needs at least 2 labels"),
        (labels not in (0, clips), f"--labels: {labels} for {clips} clips; give one for each"),
        (o.like and out == o.like.resolve(), f"--out {o.out} is that of --like; give another"),
        (both, f"--labels and {named(both)} are mutually exclusive: labels skip detection"),
        (around, f"--out {o.out} is inside {named(around)}; nothing is written into a source"),
    ):
        if wrong:
            raise UserError(what)
    return o
