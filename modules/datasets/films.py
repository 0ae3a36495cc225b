"""Films through PyAV: what a file holds, and its stored frames with their time stamps.

Frames are never repeated or dropped to even out the rate. They become upright, progressive, square
in their pixels, and of 8 bits; transparent pixels become white.
"""

import contextlib
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from modules.datasets.canvas import Array, Pixels
from modules.datasets.images import to_rgb
from modules.runtime.errors import UserError

Matrix = tuple[int, int, int, int]

# A clip is constant if no frame is further from an even grid than this part of an interval: the
# rounding of time stamps (1/1000 s in Matroska, 1/100 s in GIF) stays below, a dropped frame above.
EVEN = 0.25
SLACK = 1.05  # a clip of 15.4 frames/s is not sampled: it would lose a frame every other second
USUAL_RATE = 25.0  # frames/s of streams that give none; ffmpeg assumes the same
HD = (1280, 720)  # columns or rows from which untagged colours are BT.709's, as players take them
BT601, BT709, UNTAGGED, UNTAGGED_BY_MATRIX = 5, 1, 2, 0  # of ISO/IEC 23091-2
HDR = {16: "PQ", 18: "HLG"}  # transfer characteristics there
FULL_RANGE = 2
LOST = 0.5  # seconds that a file may end before what it promises
SHAPES = 0.02  # by which the aspect of a film's pictures may change
CLEAR = "transparent pixels were made white"


@dataclass(frozen=True, eq=False)
class Timing:
    """The time stamps of a clip's N stored frames, in seconds, by which frames are taken."""

    starts: Array  # (N,), from 0, increasing
    end: float  # when the last frame ends

    @staticmethod
    def constant(frames: int, fps: float) -> "Timing":
        return Timing(np.arange(frames) / fps, frames / fps)

    @cached_property
    def interval(self) -> float:  # between two frames, the median
        if len(self.starts) < 2:
            return max(self.end, 1e-3)
        return max(float(np.median(np.diff(self.starts))), 1e-4)

    @cached_property
    def is_constant(self) -> bool:
        """Whether frames are evenly spaced, apart from the rounding of time stamps."""
        if len(self.starts) < 3:
            return True
        even = np.linspace(self.starts[0], self.starts[-1], len(self.starts))
        step = (self.starts[-1] - self.starts[0]) / (len(self.starts) - 1)
        held = self.end - self.starts[-1] > 2 * step
        return bool(np.abs(self.starts - even).max() <= EVEN * step) and not held

    @cached_property
    def rate(self) -> float:
        """Frames/s: of a constant clip its rate, of a variable one the usual rate."""
        if self.is_constant and len(self.starts) > 1:
            return float((len(self.starts) - 1) / (self.starts[-1] - self.starts[0]))
        return 1 / self.interval

    def data_rate(self, fps: float) -> float:
        """Frames/s of what `indices` takes."""
        return self.rate if self.rate <= SLACK * fps else fps

    def indices(self, fps: float) -> list[int]:
        """Source index of each frame at `fps`; a slower clip keeps its own rate.

        It is the frame nearest to k/fps; one that is held longer than usual counts while shown.
        """
        # Of a constant clip the rounding of its time stamps is left out.
        even = Timing.constant(len(self.starts), self.rate) if self.is_constant else self
        half, rate = even.interval / 2, self.data_rate(fps)
        count = max(1, math.ceil((even.end - half) * rate - 1e-9))
        instants = np.arange(count) / rate + half + 1e-9
        return (np.searchsorted(even.starts, instants, side="right") - 1).clip(0).tolist()


@dataclass(frozen=True)
class Film:
    """What `probe` found in a file."""

    timing: Timing
    track: int  # index of its stream
    decoder: str  # "": the usual one
    stored: tuple[int, int]  # width, height of the largest picture as it is stored
    size: tuple[int, int]  # width, height in pixels, upright and with square pixels
    matrix: Matrix  # turns stored pictures upright: rows (a, b), (c, d) of (x, y) → (ax+cy, bx+dy)
    base_rate: float  # frames/s to which tools even the clip out
    filters: tuple[tuple[str, str], ...]  # of ffmpeg, before all else
    alpha: bool
    notes: tuple[str, ...]  # what a user should know of it, in words


@contextlib.contextmanager
def _open(path: Path) -> Iterator[Any]:
    """PyAV's container of a file. Raises UserError that names it."""
    import av

    try:
        # "file:" keeps a name with a colon from being taken for a protocol.
        with av.open(f"file:{path}", metadata_errors="replace") as container:
            yield container
    except av.error.FFmpegError as error:
        raise UserError(
            f"{path}: is not a video that can be read, or is cut off or corrupted"
            f" ({error.strerror})"
        ) from error


def _choose(container: Any, path: Path) -> tuple[Any, list[str]]:
    """The video track that is marked as the default; of several, or of none, the largest."""
    from av.stream import Disposition

    unfit = Disposition.attached_pic | Disposition.still_image | Disposition.timed_thumbnails
    tracks = [s for s in container.streams.video if not s.disposition & unfit]
    if not tracks:
        raise UserError(f"{path}: has no video, only sound or a cover picture")
    marked = [s for s in tracks if s.disposition & Disposition.default] or tracks
    best = max(marked, key=lambda s: s.width * s.height)
    if len(tracks) == 1:
        return best, []
    why = "the default" if len(marked) == 1 < len(tracks) else "the largest"
    place = tracks.index(best) + 1
    return best, [f"has {len(tracks)} video tracks; track {place} is taken, {why}"]


def _decoded(container: Any, stream: Any, decoder: str, damaged: list[int]) -> Iterator[Any]:
    """Every frame of a stream; damaged gets a 1 or 0 for each packet."""
    import av

    context: Any = av.CodecContext.create(decoder, "r") if decoder else stream.codec_context
    context.thread_type = "AUTO"
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
            if packet is None:
                return
            frames = context.decode(packet if packet.size else None)
        except av.error.EOFError:
            return
        except av.error.FFmpegError:
            damaged.append(1)
            continue
        damaged.append(int(any(frame.is_corrupt for frame in frames)))
        yield from frames


def probe(path: Path) -> Film:
    """Read a file's time stamps and properties. Raises UserError that names it."""
    with _open(path) as container:
        return _probe(path, container)


def _probe(path: Path, container: Any) -> Film:
    stream, notes = _choose(container, path)
    tags = {name.lower(): text for name, text in stream.metadata.items()}
    decoder = ""
    if tags.get("alpha_mode") == "1":  # of WebM, which ffmpeg's own decoders ignore
        decoder = {"vp8": "libvpx", "vp9": "libvpx-vp9"}.get(stream.codec_context.name, "")
    damaged: list[int] = []
    stamps: list[int | None] = []
    sizes: dict[tuple[int, int], int] = {}
    first, interlaced, held = None, False, 0
    for frame in _decoded(container, stream, decoder, damaged):
        first = frame if first is None else first
        interlaced |= frame.interlaced_frame
        sizes.setdefault((frame.width, frame.height), len(stamps))
        stamps.append(frame.pts)
        held = frame.duration
    if first is None or sum(damaged) > len(damaged) * 2 / 3:
        what = "the video is encrypted, corrupted or empty" if damaged else "the video is empty"
        raise UserError(f"{path}: its frames cannot be decoded; {what}")
    timing, end = _timing(stamps, held, stream)
    promised = _promised(stream, tags.get("duration", ""))
    if promised > end + max(LOST, 0.02 * promised):
        raise UserError(
            f"{path}: the file is cut off after {len(stamps)} frames; copy it again from where it"
            " came from"
        )
    width, height = stored = max(sizes, key=lambda size: size[0] * size[1])
    filters: list[tuple[str, str]] = []
    if interlaced:
        notes.append("interlaced frames were made progressive")
        filters.append(("yadif", "mode=send_frame:deint=interlaced"))
    if first.color_trc in HDR:
        notes.append(f"high dynamic range ({HDR[first.color_trc]}) was mapped to standard range")
        filters.append(("scale", "out_transfer=bt709:out_primaries=bt709:out_color_matrix=bt709"))
    for (wide, high), index in sizes.items():
        if abs(wide * height / (high * width) - 1) > SHAPES:
            raise UserError(
                f"{path}: the picture changes its shape from {width} x {height} to {wide} x {high}"
                f" at frame {index}; cut the film there and give both parts"
            )
    if len(sizes) > 1:
        notes.append(f"the picture changes its size; all frames are made {width} x {height}")
    aspect = float(stream.sample_aspect_ratio or 1) or 1.0
    if abs(aspect - 1) > 0.02:
        made = round(width * aspect), height
        notes.append(f"pixels are not square; {width} x {height} was made {made[0]} x {made[1]}")
        width, height = made
    alpha = first.format.name != "pal8" and any(c.is_alpha for c in first.format.components)
    if alpha:
        notes.append(CLEAR)
    if sum(damaged):
        notes.append(f"{sum(damaged)} frames or more are corrupted; their pixels are guesses")
    matrix: Matrix = (1, 0, 0, 1)  # where the film does not say how it is to be turned
    if note := first.side_data.get("DISPLAYMATRIX"):
        values = np.frombuffer(bytes(note), np.int32)[[0, 1, 3, 4]]
        a, b, c, d = np.rint(values / np.abs(values).max()).astype(int).tolist()
        matrix = a, b, c, d
    return Film(
        timing,
        stream.index,
        decoder,
        stored,
        (width, height) if matrix[0] else (height, width),
        matrix,
        float(stream.base_rate or 0) or timing.rate,
        tuple(filters),
        alpha,
        tuple(notes),
    )


def _promised(stream: Any, tag: str) -> float:
    """Seconds at which the file says that the track ends, 0: nothing. tag: as 00:00:02.033"""
    try:
        hours, minutes, seconds = tag.split(":")
        return 3600 * int(hours) + 60 * int(minutes) + float(seconds)
    except ValueError:
        # Of streams alone: ffmpeg guesses a container's from its size, or takes the sound's.
        own = ("mov", "avi", "matroska")
        known = stream.duration and stream.container.format.name.startswith(own)
        return float(stream.duration * stream.time_base) if known else 0.0


def _timing(stamps: list[int | None], held: int, stream: Any) -> tuple[Timing, float]:
    """Time stamps from 0, and the second at which the last frame ends on the file's own clock."""
    rate = float(stream.average_rate or 0)
    usual = rate if 0 < rate < 1e4 else USUAL_RATE
    known = [stamp for stamp in stamps if stamp is not None]
    if len(known) < len(stamps) or (len(stamps) > 1 and max(known) <= known[0]):
        return Timing.constant(len(stamps), usual), len(stamps) / usual
    times = np.array(known, np.float64) * float(stream.time_base)
    starts = np.maximum.accumulate(times - times[0])
    interval = float(np.median(np.diff(starts))) if len(starts) > 1 else 1 / usual
    last = held * float(stream.time_base) if held and held > 0 else interval
    return Timing(starts, float(starts[-1]) + last), float(times.max()) + last


def decode(path: Path, film: Film, wanted: Sequence[int]) -> Iterator[Pixels]:
    """Yield these stored frames (H, W, 3); indices ascend and may repeat. Raises UserError."""
    with _open(path) as container:
        frames = _decoded(container, container.streams[film.track], film.decoder, [])
        left = Counter(wanted)
        for index, frame in enumerate(_filtered(frames, film)):
            if count := left.pop(index, 0):
                yield from [_rgb(frame, film)] * count
            if not left:
                return
    raise UserError(f"{path}: cannot be read to its end (frame {min(left)} is missing)")


def _filtered(frames: Iterator[Any], film: Film) -> Iterator[Any]:
    """The frames, after ffmpeg's filters that the film needs."""
    import av

    if not film.filters:
        yield from frames
        return
    graph = av.filter.Graph()
    kind: Any = None
    for frame in chain(frames, [None]):  # at the end come those that a filter has kept back
        if frame and kind is None:
            kind, (width, height) = frame.format.name, film.stored
            source = graph.add_buffer(
                width=width, height=height, format=kind, time_base=frame.time_base
            )
            steps = [graph.add(*step) for step in film.filters]
            graph.link_nodes(source, *steps, graph.add("buffersink")).configure()
        graph.vpush(frame and frame.reformat(*film.stored, kind))
        with contextlib.suppress(av.error.BlockingIOError, av.error.EOFError):
            while True:
                yield graph.vpull()


def _rgb(frame: Any, film: Film) -> Pixels:
    """A decoded frame's pixels, upright, (H, W, 3)."""
    space = frame.colorspace
    if space in (UNTAGGED, UNTAGGED_BY_MATRIX):
        large = any(side >= least for side, least in zip(film.stored, HD, strict=True))
        space = BT709 if large else BT601
    full = frame.color_range == FULL_RANGE or frame.format.name.startswith("yuvj")
    width, height = film.size if film.matrix[0] else film.size[::-1]
    pixels = frame.reformat(
        width,
        height,
        "rgba" if film.alpha else "rgb24",
        src_colorspace=space,
        dst_colorspace=space,
        src_color_range=FULL_RANGE if full or frame.format.is_rgb else 1,
        dst_color_range=FULL_RANGE,
    ).to_ndarray()
    a, b, c, d = film.matrix
    if not a:
        pixels, a, d = pixels.swapaxes(0, 1), c, b
    return np.asarray(to_rgb(Image.fromarray(np.ascontiguousarray(pixels[::d, ::a]))))
