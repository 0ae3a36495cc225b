"""Videos as pictures to look at: checked, enlarged, captioned, written as PNG.

Legend: T frames, H, W height and width in pixels; pictures are uint8 RGB.
"""

import io
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from PIL import Image, ImageFont

from modules.runtime.files import write_atomically

VIEWING_HEIGHT = 128  # about how high a small frame is shown, pixels


def check_videos(**videos: np.ndarray | None) -> dict[str, np.ndarray]:
    """The videos that are given, by name. Raises ValueError unless all are (T, H, W, 3) uint8, of
    one shape without a zero."""
    given = {name: video for name, video in videos.items() if video is not None}
    for name, video in given.items():
        if not isinstance(video, np.ndarray) or video.dtype != np.uint8:
            kind = getattr(video, "dtype", type(video).__name__)
            raise ValueError(f"{name}: must be a uint8 array (0-255), it is {kind}")
        if video.ndim != 4 or video.shape[3] != 3 or 0 in video.shape:
            raise ValueError(f"{name}: must be (T, H, W, 3), it is {video.shape}")
    shapes = {name: video.shape for name, video in given.items()}
    if len(set(shapes.values())) > 1:
        raise ValueError(f"the videos differ in shape: {shapes}")
    return given


def enlarge(pictures: np.ndarray, scale: int) -> np.ndarray:
    """(T, H, W, …) → (T, H·scale, W·scale, …): every pixel a square of its own (nearest)."""
    return pictures.repeat(scale, axis=1).repeat(scale, axis=2)


def viewing_scale(height: int) -> int:
    """Whole factor that makes a frame about 128 pixels high; 1 for larger ones."""
    return max(1, round(VIEWING_HEIGHT / height))


def caption_font(size: float) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which matplotlib carries with it: the same on every machine."""
    path = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
    return ImageFont.truetype(path, size)


def write_png(path: Path, image: Image.Image, **options: Any) -> Path:
    """Write an image, whole or not at all; options: of Pillow's PNG writer. Raises UserError."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", **options)
    write_atomically(path, buffer.getvalue())
    return path
