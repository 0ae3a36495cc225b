"""Resizing of skeleton images: limbs keep their colours, unchanged where the size fits."""

import numpy as np
from PIL import Image

from modules.datasets.label_images import shrink_label, stroke_gain


def test_labels_of_the_right_size_stay_as_they_are() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 16, 3), np.uint8))
    whole = np.array([0, 0, 1, 1.0])
    assert np.array_equal(shrink_label(image, whole, (16, 8), 3.0), np.asarray(image))
    assert stroke_gain([], whole, (16, 8)) == 1
    filled = Image.new("RGB", (64, 32), (200, 0, 0))
    assert stroke_gain([filled], whole, (16, 8)) == 1
    assert (shrink_label(filled, whole, (16, 8), 1.0) == (200, 0, 0)).all()


def test_thin_strokes_keep_their_colour() -> None:
    """A line one pixel wide, shrunk to a quarter: a fourth of a pixel."""
    pixels = np.zeros((32, 64, 3), np.uint8)
    pixels[:, 21] = (0, 200, 100)
    image, whole = Image.fromarray(pixels), np.array([0, 0, 1, 1.0])
    gain = stroke_gain([image], whole, (16, 8))
    assert gain == 4
    assert shrink_label(image, whole, (16, 8), gain)[3, 5].tolist() == [0, 200, 100]
    # Negative control: without the gain, three quarters of the colour are lost.
    assert shrink_label(image, whole, (16, 8), 1.0)[3, 5].tolist() == [0, 50, 25]
