"""What labels are drawn on, found in their pixels."""

import numpy as np
import pytest

from modules.ink import Ink, find_ink

Colour = tuple[int, int, int]
BLACK, GREY, WHITE = (0, 0, 0), (128, 128, 128), (255, 255, 255)
RED = (255, 0, 0)


def labels_on(
    ground: Colour, line: Colour, *, count: int = 20, columns: int = 2, blank: int = 0
) -> np.ndarray:
    """Labels of 8 x 16 pixels with vertical lines, the first ones blank."""
    labels = np.full((count, 8, 16, 3), ground, np.uint8)
    labels[blank:, :, 3 : 3 + columns] = line
    return labels


@pytest.mark.parametrize(
    ("labels", "background", "contrast", "least"),
    [
        (labels_on(BLACK, (245, 0, 0)), BLACK, 245, 24),  # 23.1
        (labels_on(GREY, RED), GREY, 128, 13),  # 12.05
        (labels_on(WHITE, (235, 205, 255)), WHITE, 50, 8),  # 4.7
        (labels_on(WHITE, RED, blank=19), WHITE, 255, 24),
        (labels_on(WHITE, RED, blank=20), WHITE, 255, 24),  # nothing is known of lines
        (labels_on(WHITE, (155, 205, 255), columns=7), WHITE, 100, 10),  # nearly half of it
        (labels_on(WHITE, (155, 205, 255), count=5000, blank=3000), WHITE, 100, 10),  # at last
        (labels_on(WHITE, RED, columns=9), RED, 255, 24),  # the control
    ],
)
def test_background_and_contrast_by_hand(
    labels: np.ndarray, background: Colour, contrast: int, least: int
) -> None:
    ink = find_ink(labels)
    assert ink == (background, contrast) and ink.least == least
    assert np.array_equal(ink.drawn(labels), (labels != background).any(axis=-1))


@pytest.mark.parametrize("ground", [BLACK, GREY, WHITE, (255, 255, 0)])
def test_noise_and_broken_labels_change_little(ground: Colour) -> None:
    clean = labels_on(ground, (60, 160, 250), blank=5)
    noise = np.random.default_rng(0).integers(-5, 6, clean.shape)  # as JPEG leaves it
    labels = (clean + noise).clip(0, 255).astype(np.uint8)
    labels[7] = 255 - np.array(ground)  # broken
    ink, expected = find_ink(labels), find_ink(clean)
    assert np.abs(np.subtract(ink.background, ground)).max() <= 2
    assert abs(ink.contrast - expected.contrast) <= 10
    rest = np.arange(20) != 7
    assert np.array_equal(ink.drawn(labels)[rest], expected.drawn(clean)[rest])


def test_a_pixel_is_drawn_on_above_the_threshold() -> None:
    ink = Ink((100, 200, 255), 255)
    at = np.array([[124, 176, 231], [125, 200, 255], [100, 175, 255], [100, 200, 230]], np.uint8)
    assert ink.drawn(at).tolist() == [False, True, True, True]
    assert ink.apart(at).tolist() == [[24, 24, 24], [25, 0, 0], [0, 25, 0], [0, 0, 25]]
    assert ink.cover(at).tolist() == [24 / 255, 25 / 255, 25 / 255, 25 / 255]


def test_which_backgrounds_are_one() -> None:
    assert Ink(BLACK, 255).shares_background(Ink((24, 0, 24), 90))
    assert not Ink(BLACK, 255).shares_background(Ink((25, 0, 0), 90))
    assert Ink((250, 255, 255), 99).colour == "white (250, 255, 255)"
    assert Ink(GREY, 99).colour == "(128, 128, 128)"


@pytest.mark.parametrize(
    ("labels", "certain"),
    [
        (labels_on(WHITE, RED, blank=19), True),
        (labels_on(WHITE, RED, blank=20), False),
        (np.random.default_rng(0).integers(0, 256, (9, 8, 8, 3), np.uint8), False),
    ],
)
def test_labels_tell_their_background_by_lines_on_it(labels: np.ndarray, certain: bool) -> None:
    assert find_ink(labels).is_certain(labels) == certain
