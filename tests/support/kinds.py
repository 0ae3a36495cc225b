"""Clips of many kinds whose frames tell when and how they are to be shown.

Corners: red upper left, green upper right, blue lower left; the middle's grey is 40 + 80 · t for
the frame's time t in seconds. So pixels alone tell whether a clip was read upright and at its true
speed.
"""

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

WIDTH, HEIGHT = 96, 64
CORNER = 16
PER_SECOND = 80.0  # grey values


def picture(t: float, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """The frame of time t in seconds, (H, W, 3) uint8."""
    frame = np.full((height, width, 3), round(40 + PER_SECOND * t), np.uint8)
    frame[:CORNER, :CORNER] = (220, 20, 20)
    frame[:CORNER, -CORNER:] = (20, 220, 20)
    frame[-CORNER:, :CORNER] = (20, 20, 220)
    return frame


def constant(fps: float, seconds: float = 2.0) -> list[float]:
    """Time stamps of a constant clip."""
    return [i / fps for i in range(round(fps * seconds))]


def time_of(frame: np.ndarray) -> float:
    """The time in seconds that a frame's grey tells."""
    height, width = frame.shape[:2]
    middle = frame[height // 2 - 6 : height // 2 + 6, width // 2 - 6 : width // 2 + 6]
    return (float(middle.mean()) - 40) / PER_SECOND


def is_upright(frame: np.ndarray) -> bool:
    """Whether the three corners have their colours."""
    inner = 5
    corners = (frame[inner, inner], frame[inner, -inner], frame[-inner, inner])
    return [int(np.argmax(corner)) for corner in corners] == [0, 1, 2] and all(
        int(corner.max()) - int(np.sort(corner)[1]) > 60 for corner in corners
    )


def encode(
    path: Path,
    times: Sequence[float],
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    *,
    size: tuple[int, int] = (WIDTH, HEIGHT),
    pictures: Sequence[np.ndarray] | None = None,
    prepare: Callable[[Any, Any], None] = lambda file, stream: None,
    container: dict[str, str] | None = None,
    **options: str,
) -> Path:
    """A video of `picture`s, or of other pictures, at these time stamps.

    prepare: changes file and stream before the first frame; container, options: of ffmpeg
    """
    import av

    av.logging.set_level(av.logging.FATAL)
    step = times[1] if len(times) > 1 else 1 / 30
    even = all(abs(t - i * step) < 1e-6 for i, t in enumerate(times))
    rate = Fraction(1 / step).limit_denominator(1001) if even else Fraction(30)
    with av.open(f"file:{path}", "w", options=container or {}) as file:
        stream = file.add_stream(codec, rate, options=options)
        stream.width, stream.height, stream.pix_fmt = *size, pix_fmt
        if not even:
            stream.codec_context.time_base = Fraction(1, 90_000)
        prepare(file, stream)
        for i, t in enumerate(times):
            pixels = picture(t, *size) if pictures is None else pictures[i]
            kind = "rgba" if pixels.shape[2] == 4 else "rgb24"
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format=kind)
            frame.pts = i if even else round(t * 90_000)
            frame.time_base = 1 / rate if even else Fraction(1, 90_000)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path
