"""When each frame of a clip is shown, and which frames a data set at a given rate takes.

    timing = Timing.constant(240, fps=29.97)
    timing.indices(15)             # source index of every frame of a data set at 15 frames/s

Frames are taken by their time stamps, so that a variable clip (phones in low light, screen
recorders, GIFs with a long-held frame) keeps its true speed: a frame that is held for a second is
taken fifteen times. Legend: N frames of the clip; times in seconds.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# A clip is constant if no frame is further from an even grid than this part of an interval: the
# rounding of time stamps (1/1000 s in Matroska, 1/100 s in GIF) stays below, a dropped frame above.
EVEN = 0.25
SLACK = 1.05  # a clip of 15.4 frames/s is not sampled: it would lose a frame every other second


@dataclass(frozen=True, eq=False)
class Timing:
    """The time stamps of a clip's stored frames."""

    starts: Array  # (N,), from 0, increasing
    end: float  # when the last frame ends

    @staticmethod
    def constant(frames: int, fps: float) -> "Timing":
        """Evenly spaced frames."""
        return Timing(np.arange(frames) / fps, frames / fps)

    @cached_property
    def interval(self) -> float:
        """Usual time between two frames (median)."""
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

        Of each instant k/fps the frame that is nearest in time; of a frame that is held longer than
        usual, the time for which it is shown counts.
        """
        # Of a constant clip the rounding of its time stamps is left out.
        even = Timing.constant(len(self.starts), self.rate) if self.is_constant else self
        half, rate = even.interval / 2, self.data_rate(fps)
        count = max(1, math.ceil((even.end - half) * rate - 1e-9))
        instants = np.arange(count) / rate + half + 1e-9
        return (np.searchsorted(even.starts, instants, side="right") - 1).clip(0).tolist()
