"""Which pixels of a label are drawn on, whatever the background that it is drawn on.

    ink = find_ink(labels)        # of a data set's training labels; the same for all of its splits
    ink.drawn(labels)             # (…, H, W) bool

Labels are (…, H, W, 3) uint8 RGB.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]

NOISE = 8  # of 255: compression changes a plain background by up to so much
LEAST = 24 / 255  # of the contrast; more is drawn on
SAME = 24  # of 255, per channel: colours that are closer are one background
MOST = 2000  # labels that are looked at, evenly spaced


class Ink(NamedTuple):
    """What labels are drawn on, and how strongly."""

    background: tuple[int, int, int]
    contrast: int  # 1-255: how far a line's pixels are from the background in some channel

    @property
    def least(self) -> int:
        """A pixel further from the background than this, in some channel, is drawn on."""
        return max(NOISE, math.ceil(LEAST * self.contrast))

    @property
    def colour(self) -> str:
        """The background's colour, in words."""
        for value, name in ((0, "black "), (255, "white ")):
            if self.shares_background(Ink((value, value, value), 255)):
                return f"{name}{self.background}"
        return str(self.background)

    def shares_background(self, other: "Ink") -> bool:
        """Whether both lie on one background."""
        pairs = zip(self.background, other.background, strict=True)
        return max(abs(a - b) for a, b in pairs) <= SAME

    def apart(self, labels: Pixels) -> Pixels:
        """|label - background|, of the labels' shape, uint8."""
        plain = np.array(self.background, np.uint8)
        return np.maximum(labels, plain) - np.minimum(labels, plain)

    def drawn(self, labels: Pixels) -> NDArray[np.bool_]:
        """Which pixels are drawn on: (…, H, W, 3) → (…, H, W) bool."""
        return np.asarray(self.apart(labels).max(axis=-1) > self.least)

    def cover(self, labels: Pixels) -> NDArray[np.float64]:
        """How much of each pixel a line covers, 0-1: (…, H, W, 3) → (…, H, W)."""
        return np.minimum(self.apart(labels).max(axis=-1) / self.contrast, 1)

    def is_certain(self, labels: Pixels) -> bool:
        """Whether these labels tell it: something is drawn, and on less than half of all pixels."""
        return 0 < float(np.mean([self.drawn(label).mean() for label in _some(labels)])) < 0.5


def find_ink(labels: Pixels | Sequence[Pixels]) -> Ink:
    """What labels (N, H, W, 3), N at least 1, are drawn on.

    The background is the median of each channel over all pixels: a person that fills less than half
    of the picture, noise and single broken labels change nothing. The contrast is the 0.9 quantile,
    over labels that are not blank, of what is furthest from it in each; 255 if all are blank.
    """
    some = _some(labels)
    counts = sum(
        np.stack(
            [np.bincount(channel.ravel(), minlength=256) for channel in np.moveaxis(label, -1, 0)]
        )
        for label in some
    )  # (3, 256)
    median = (np.cumsum(counts, axis=1) * 2 >= np.sum(counts, axis=1, keepdims=True)).argmax(axis=1)
    red, green, blue = median.tolist()
    plain = Ink((red, green, blue), 255)
    strongest = np.array([plain.apart(label).max() for label in some])
    lines = strongest[strongest > NOISE]
    return plain._replace(contrast=round(np.quantile(lines, 0.9))) if len(lines) else plain


def _some(labels: Pixels | Sequence[Pixels]) -> Pixels | Sequence[Pixels]:
    return labels[:: max(1, len(labels) // MOST)]
