"""Skeleton images: resizing that keeps thin limbs visible.

    gain = stroke_gain(some_images, part, size, ink)          # one for all labels of a clip
    label = shrink_label(image, part, size, gain, ink)

Legend: H, W height and width in pixels; sizes are (width, height).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from modules.ink import Ink

Array = NDArray[np.float64]
Pixels = NDArray[np.uint8]


def _shrink_strokes(
    image: Image.Image, part: Array, size: tuple[int, int], ink: Ink
) -> tuple[Array, Array]:
    """Colour of the strokes, (H, W, 3), and the part of each pixel that they cover, (H, W), 0-1."""
    pixels = np.asarray(image)
    drawn = ink.drawn(pixels)
    left, top, right, bottom = part * np.array([*image.size, *image.size])
    box = (max(left, 0), max(top, 0), min(right, image.width), min(bottom, image.height))
    shrunk = [
        np.asarray(
            Image.fromarray(np.where(drawn, channel, np.float32(0)).astype(np.float32)).resize(
                size, Image.Resampling.BOX, box
            ),
            np.float64,
        )
        for channel in (*np.moveaxis(pixels, 2, 0), np.float32(1))
    ]
    cover = shrunk[3]
    return np.stack(shrunk[:3], axis=2) / np.maximum(cover, 1e-6)[..., None], cover


def stroke_gain(
    images: Sequence[Image.Image], part: Array, size: tuple[int, int], ink: Ink
) -> float:
    """Factor on the strokes' coverage so that most of their pixels are covered whole, 1-6.

    Lines drawn for a large image are a fraction of a pixel wide in a small one, and plain averaging
    would blend them into the background. One value serves all labels of a clip, so that they do not
    flicker.
    """
    covers = [
        cover[cover > 0] for cover in (_shrink_strokes(i, part, size, ink)[1] for i in images)
    ]
    values = np.concatenate(covers) if covers else np.zeros(0)
    return float(np.clip(1 / np.quantile(values, 0.75), 1, 6)) if len(values) else 1.0


def shrink_label(
    image: Image.Image, part: Array, size: tuple[int, int], gain: float, ink: Ink
) -> Pixels:
    """A skeleton image cropped and resized so that its limbs keep their colours, (H, W, 3) uint8.

    part: box (4,) as parts of the image's width and height; size: (width, height)
    gain: see `stroke_gain`; ink: of the clip's labels
    """
    if image.size == size and np.allclose(part, (0, 0, 1, 1)):
        return np.asarray(image)  # unchanged, bit for bit
    colour, cover = _shrink_strokes(image, part, size, ink)
    ground = np.array(ink.background, np.float64)
    label = ground + np.minimum(cover * gain, 1)[..., None] * (colour - ground)
    return np.rint(label).clip(0, 255).astype(np.uint8)
