"""Source videos, also folders of images: their properties, and their frames at a given rate.

Pillow reads GIFs and other files of several images, PyAV every other video. Frames are (H, W, 3)
uint8 RGB, upright, and taken by their time stamps.
"""

import hashlib
import importlib.util
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from modules.datasets import films, images
from modules.datasets.canvas import Pixels
from modules.datasets.films import CLEAR, Timing
from modules.datasets.naming import frames_in, gaps
from modules.runtime.errors import UserError, named

END = 2**16  # bytes at either end of a file that tell it apart from another of the same size
NO_DELAY = 100.0  # ms, for which browsers show a frame of a GIF whose delay is 0


@dataclass(frozen=True)
class Clip:
    """One source video: a folder of images, a file of several images, or a film."""

    path: Path
    size: tuple[int, int]  # width, height
    frames: int  # that it stores
    identity: str = ""  # of `identity_of`
    timing: Timing | None = None  # None: unknown, every frame is taken
    files: Sequence[Path] = ()  # of a folder
    film: films.Film | None = None
    notes: tuple[str, ...] = ()  # what a user should know of it, in words

    def timing_for(self, fps: float) -> Timing:
        """When its frames are shown; of a clip of unknown rate: as if that were `fps`."""
        return self.timing or Timing.constant(self.frames, fps)

    @property
    def variable(self) -> bool:
        """Whether its frames are not evenly spaced in time."""
        return self.timing is not None and not self.timing.is_constant


def open_clip(path: Path, source_fps: float | None) -> Clip:
    """A clip's properties, without reading its frames. Raises UserError that names it."""
    if not path.exists():
        meant = ""
        if re.match(r"[a-z]+:/", str(path)):
            meant = "; an address on the web: download the film first"
        elif set(path.name) & set("%*?["):
            meant = "; a pattern of names: give the folder that holds the images"
        raise UserError(f"{path}: there is no such video or folder{meant}")
    if path.is_dir():
        return _open_folder(path, source_fps)
    identity, count = identity_of([path]), 0
    with path.open("rb") as file:
        head = file.read(512)
    if not head:
        raise UserError(f"{path}: the file is empty (0 bytes)")
    try:
        with Image.open(path, formats=(*images.FORMATS, "GIF")) as image:
            count = len(_shown(image))
            clear, durations = images.is_clear(image), []
            size = images.upright(images.to_rgb(image), _turning(image)).size
            for index in _shown(image):
                image.seek(index)
                image.load()  # a WebP's durations are not known before
                durations.append(float(image.info.get("duration") or 0))
    except UnidentifiedImageError:
        pass  # not one of Pillow's formats
    except Exception as error:
        # Not narrower: for a corrupted file Pillow raises IndexError and struct.error as well.
        raise UserError(f"{path}: cannot be read ({error or type(error).__name__})") from error
    else:
        if count < 2 and path.suffix.lower() in images.IMAGE_SUFFIXES:
            raise UserError(
                f"{path}: is a single image, not a video; give the folder that holds them all"
            )
    if count > 1:
        shown = Timing.constant(count, source_fps) if source_fps else None
        if any(durations) and not shown:  # ms
            ends = np.cumsum([duration or NO_DELAY for duration in durations]) / 1000
            shown = Timing(np.concatenate([[0.0], ends[:-1]]), float(ends[-1]))
        return Clip(path, size, count, identity, shown, notes=(CLEAR,) if clear else ())
    if (what := images.other_kind(head)) and head[4:8] != b"ftyp":
        raise UserError(f"{path}: is not a video; {what}")
    if importlib.util.find_spec("av") is None:
        raise UserError(
            f"{path}: videos other than GIF need PyAV; run: pip install -r requirements-video.txt"
        )
    film = films.probe(path)
    timing, notes = film.timing, film.notes
    if source_fps:
        notes = (*notes, f"--source_fps {source_fps:g} replaces its own {timing.rate:.4g} frames/s")
        timing = Timing.constant(len(timing.starts), source_fps)
    return Clip(path, film.size, len(timing.starts), identity, timing, film=film, notes=notes)


def _open_folder(path: Path, source_fps: float | None) -> Clip:
    """A clip of images, of which the first is decoded. Raises UserError."""
    numbered = frames_in(path)
    files = list(numbered.values())
    notes = []
    if missing := gaps(numbered):
        where = named(numbered[number].name for number in missing)
        notes.append(f"numbers are missing before {where}; its frames are taken without a pause")
    first = images.decode_image(files[0])
    if isinstance(first, str):
        raise UserError(f"{files[0]}: {first}")
    notes += [CLEAR] if images.is_clear(first) else []
    for file in files:  # their headers, before a search for joints is begun
        try:
            with Image.open(file, formats=images.FORMATS) as image:
                found = image.size
        except Exception:  # a corrupted image is named when it is read
            continue
        if sorted(found) != sorted(first.size):  # some may be turned
            _check_size(file, found, first.size)
    timing = Timing.constant(len(files), source_fps) if source_fps else None
    identity, count = identity_of(files), len(files)
    return Clip(path, first.size, count, identity, timing, files, notes=tuple(notes))


def identity_of(files: Sequence[Path]) -> str:
    """SHA-256 of files' sizes and both ends, and of the names of several. Raises UserError."""
    digest = hashlib.sha256()
    for path in files:
        try:
            with path.open("rb") as file:
                size, name = file.seek(0, 2), path.name if len(files) > 1 else ""
                digest.update(f"{name} {size} ".encode(errors="surrogateescape"))
                for start in (0, max(0, size - END)):
                    file.seek(start)
                    digest.update(file.read(END))
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    return digest.hexdigest()


def _check_size(file: Path, found: tuple[int, int], size: tuple[int, int]) -> None:
    if found != size:
        raise UserError(
            f"{file}: is {found[0]} x {found[1]} pixels, the images before it {size[0]} x {size[1]}"
        )


def _turning(image: Image.Image) -> Image.Exif:
    """How a file of several images is to be turned; Pillow itself turns those of a TIFF."""
    return Image.Exif() if image.format == "TIFF" else image.getexif()


def _shown(image: Image.Image) -> range:
    """The pictures of a file that players show."""
    if image.format == "MPO":  # a telephone's photo, which may hold a smaller copy of itself
        return range(1)
    # An animated PNG's default image is for old programs.
    return range(getattr(image, "default_image", False), getattr(image, "n_frames", 1))


def frames_at(clip: Clip, wanted: Sequence[int]) -> Iterator[Pixels]:
    """Yield these stored frames (H, W, 3); indices ascend and may repeat. Raises UserError."""
    if clip.film is not None:
        yield from films.decode(clip.path, clip.film, wanted)
        return
    for index in wanted if clip.files else ():
        image = images.read_image(clip.files[index])
        _check_size(clip.files[index], image.size, clip.size)
        yield np.asarray(image)
    if clip.files:
        return
    try:
        with Image.open(clip.path) as image:
            exif, shown = _turning(image), _shown(image)
            for index in wanted:
                image.seek(shown[index])
                yield np.asarray(images.upright(images.to_rgb(image), exif))
    except Exception as error:  # see open_clip
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{clip.path}: cannot be read to its end ({reason})") from error


def sampled_indices(clip: Clip, fps: float) -> list[int]:
    """The source frame of each frame of a data set at `fps`; see `Timing.indices`."""
    return clip.timing_for(fps).indices(fps)


def sampled(clip: Clip, fps: float) -> Iterator[tuple[int, Pixels]]:
    """Yield (source index, frame) at `fps`; a frame that is held long comes several times."""
    wanted = sampled_indices(clip, fps)
    yield from zip(wanted, frames_at(clip, wanted), strict=True)
