"""Resizing of skeleton images: limbs keep their colours, unchanged where the size fits."""

import numpy as np
import pytest
from PIL import Image

from modules.datasets.label_images import shrink_label, stroke_gain
from modules.ink import Ink, find_ink

ON_BLACK = Ink((0, 0, 0), 255)


def test_labels_of_the_right_size_stay_as_they_are() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 16, 3), np.uint8))
    whole = np.array([0, 0, 1, 1.0])
    assert np.array_equal(shrink_label(image, whole, (16, 8), 3.0, ON_BLACK), np.asarray(image))
    assert stroke_gain([], whole, (16, 8), ON_BLACK) == 1
    filled = Image.new("RGB", (64, 32), (200, 0, 0))
    assert stroke_gain([filled], whole, (16, 8), ON_BLACK) == 1
    assert (shrink_label(filled, whole, (16, 8), 1.0, ON_BLACK) == (200, 0, 0)).all()


@pytest.mark.parametrize(
    ("ground", "averaged"), [(0, [0, 50, 25]), (120, [90, 140, 115]), (240, [180, 230, 205])]
)
def test_thin_strokes_keep_their_colour(ground: int, averaged: list[int]) -> None:
    """A line one pixel wide, shrunk to a quarter: a fourth of a pixel."""
    pixels = np.full((32, 64, 3), ground, np.uint8)
    pixels[:, 21] = (0, 200, 100)
    image, whole = Image.fromarray(pixels), np.array([0, 0, 1, 1.0])
    ink = find_ink([pixels])
    gain = stroke_gain([image], whole, (16, 8), ink)
    assert gain == 4
    made = shrink_label(image, whole, (16, 8), gain, ink)
    assert made[3, 5].tolist() == [0, 200, 100] and (made[:, 6:] == ground).all()
    # Negative control: without the gain, three quarters of the colour are lost.
    assert shrink_label(image, whole, (16, 8), 1.0, ink)[3, 5].tolist() == averaged
