"""Source videos: their properties, and their frames at a given rate.

    clip = open_clip(Path("dance.mp4"), source_fps=None)
    for index, frame in sampled(clip, fps=15): …

Pillow reads GIFs and other files of several images, imageio's ffmpeg plugin every other video; a
folder of images is a video too. Frames are (H, W, 3) uint8 RGB.
"""

import hashlib
import importlib.util
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import imageio.v3 as iio
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageSequence, UnidentifiedImageError

from modules.datasets.images import IMAGE_SUFFIXES, list_files, read_image
from modules.runtime.errors import UserError

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Clip:
    """One source video."""

    path: Path
    kind: str  # "folder", "images" (one file of several images) or "video"
    files: list[Path]  # of a folder
    fps: float | None  # None: unknown, every frame is taken
    size: tuple[int, int]  # width, height
    frames: int | None  # None: known after reading it
    identity: str  # SHA-256 that identifies its content


def open_clip(path: Path, source_fps: float | None) -> Clip:
    """A clip's properties, without reading its frames. Raises UserError that names it."""
    if not path.exists():
        raise UserError(f"{path}: there is no such video or folder")
    if path.is_dir():
        files = list_files(path, IMAGE_SUFFIXES)
        if len(files) < 2:
            raise UserError(
                f"{path}: the folder has {len(files)} images (.png, .jpg); a video needs at least 2"
            )
        names = "\n".join(f"{file.name} {file.stat().st_size}" for file in files)
        identity = hashlib.sha256(names.encode()).hexdigest()
        return Clip(
            path, "folder", files, source_fps, read_image(files[0]).size, len(files), identity
        )
    identity = _file_identity(path)
    try:
        with Image.open(path) as image:
            count, size = int(getattr(image, "n_frames", 1)), image.size
            shown = sum(frame.info.get("duration", 0) for frame in ImageSequence.Iterator(image))
    except UnidentifiedImageError:
        pass  # not one of Pillow's formats
    except Exception as error:
        # Not narrower: for a corrupted file Pillow raises IndexError and struct.error as well.
        raise UserError(f"{path}: cannot be read ({error or type(error).__name__})") from error
    else:
        if count < 2:
            raise UserError(f"{path}: is a single image, not a video")
        fps = 1000 * count / shown if shown > 0 else source_fps  # durations are in ms
        return Clip(path, "images", [], fps, size, count, identity)
    if importlib.util.find_spec("imageio_ffmpeg") is None:
        raise UserError(
            f"{path}: videos other than GIF need ffmpeg; run: pip install imageio-ffmpeg"
        )
    try:
        about = iio.immeta(path, plugin="FFMPEG")
    except Exception as error:
        # Not narrower: ffmpeg's errors for a corrupted file arrive as OSError, RuntimeError or
        # IndexError, depending on how far the file could be read.
        raise UserError(f"{path}: is not a video that ffmpeg can read, or is corrupted") from error
    fps, seconds = float(about.get("fps") or 0), float(about.get("duration") or 0)
    expected = round(fps * seconds) if 0 < fps * seconds < 1e9 else None
    rate = fps if 0 < fps < 1e4 else source_fps
    return Clip(path, "video", [], rate, tuple(about["size"]), expected, identity)


def _file_identity(path: Path) -> str:
    """SHA-256 of a file's size, its first and its last MiB: enough to distinguish videos."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            digest = hashlib.sha256(str(size).encode())
            for position in (0, max(0, size - 2**20)):
                file.seek(position)
                digest.update(file.read(2**20))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    if size == 0:
        raise UserError(f"{path}: the file is empty (0 bytes)")
    return digest.hexdigest()


def read_frames(clip: Clip) -> Iterator[Pixels]:
    """Yield every frame, (H, W, 3) uint8 RGB, upright. Raises UserError that names the file."""
    if clip.kind == "folder":
        for path in clip.files:
            image = read_image(path)
            if image.size != clip.size:
                raise UserError(
                    f"{path}: is {image.width} x {image.height} pixels, the images before it"
                    f" {clip.size[0]} x {clip.size[1]}"
                )
            yield np.asarray(image)
        return
    try:
        if clip.kind == "images":
            with Image.open(clip.path) as image:
                for frame in ImageSequence.Iterator(image):
                    yield np.asarray(frame.convert("RGB"))
        else:
            yield from iio.imiter(clip.path, plugin="FFMPEG")
    except Exception as error:  # see open_clip
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{clip.path}: cannot be read to its end ({reason})") from error


def frame_step(clip: Clip, fps: float) -> float:
    """Source frames per frame of the data set; 1, every frame, for a clip that is not faster."""
    # Five per cent, so that a clip of 15.4 frames/s does not lose a frame every other second.
    return 1.0 if clip.fps is None or clip.fps <= 1.05 * fps else clip.fps / fps


def source_index(t: int, step: float) -> int:
    """The source frame that is nearest in time to frame t of the data set."""
    return math.floor(t * step + 0.5)


def sampled(clip: Clip, fps: float) -> Iterator[tuple[int, Pixels]]:
    """Yield (source index, frame) at `fps`: of each instant k/fps the frame nearest in time."""
    step, taken = frame_step(clip, fps), 0
    for index, frame in enumerate(read_frames(clip)):
        if index == source_index(taken, step):
            taken += 1
            yield index, frame


def count_sampled(frames: int, step: float) -> int:
    """How many frames `sampled` takes of so many."""
    return math.ceil((frames - 0.5) / step) if frames else 0
