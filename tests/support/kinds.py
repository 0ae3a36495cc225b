"""Clips of many kinds whose frames tell when and how they are to be shown.

Corners: red upper left, green upper right, blue lower left; the middle's grey is 40 + 80 · t for
the frame's time t in seconds. So `facts` can see from pixels alone whether a clip was read upright
and at its true speed.
"""

import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

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


def ffmpeg(*arguments: object) -> None:
    import imageio_ffmpeg

    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-loglevel", "error", "-y"]
    subprocess.run([*command, *map(str, arguments)], check=True, stdin=subprocess.DEVNULL)


def encode(
    path: Path,
    times: Sequence[float],
    *options: object,
    size: tuple[int, int] = (WIDTH, HEIGHT),
    filters: Sequence[str] = (),
    before: Sequence[object] = (),
) -> Path:
    """A video of `picture`s at these time stamps; options: of ffmpeg, for the output."""
    raw = path.with_suffix(".raw")
    raw.write_bytes(b"".join(picture(t, *size).tobytes() for t in times))
    even = all(abs(t - i * times[1]) < 1e-6 for i, t in enumerate(times))
    rate = 1 / times[1] if even else 30
    chain = [] if even else ["setpts='(" + "+".join(f"eq(N,{i})*{t:.5f}" for i, t in enumerate(times)) + ")/TB'"]  # fmt: skip # noqa: E501
    chain += filters
    source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{size[0]}x{size[1]}", "-r", rate]
    stamps = [] if even else ["-fps_mode", "passthrough", "-enc_time_base", "1/90000"]
    view = ["-vf", ",".join(chain)] if chain else []
    ffmpeg(*source, *before, "-i", raw, *view, *stamps, *options, path)
    raw.unlink()
    return path


def folder_of(path: Path, times: Sequence[float], name: str = "{}.png", **save: object) -> Path:
    """A folder of images with these names."""
    path.mkdir()
    for i, t in enumerate(times):
        Image.fromarray(picture(t)).save(path / name.format(i), **save)  # type: ignore[arg-type]
    return path
