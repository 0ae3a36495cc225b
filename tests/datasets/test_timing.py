"""Which frames are taken: constant clips by counting, variable ones by their time stamps."""

import numpy as np
import pytest

from modules.datasets.films import Timing


def variable(*durations: float) -> Timing:
    ends = np.cumsum(durations)
    return Timing(np.concatenate([[0.0], ends[:-1]]), float(ends[-1]))


def test_a_constant_clip_by_hand() -> None:
    timing = Timing.constant(60, 30)
    assert (timing.is_constant, timing.rate) == (True, pytest.approx(30))
    assert timing.indices(15) == list(range(0, 60, 2))
    assert timing.indices(12)[:6] == [0, 3, 5, 8, 10, 13]  # 0, 2.5, 5, 7.5 …
    assert timing.data_rate(15) == 15
    assert timing.indices(50) == list(range(60))  # a slower clip keeps its rate, no frame twice
    assert timing.data_rate(50) == pytest.approx(30)


@pytest.mark.parametrize("source_fps", [16.0, 23.976, 59.94])
def test_the_frame_nearest_in_time_is_taken(source_fps: float) -> None:
    taken = Timing.constant(240, source_fps).indices(15)
    times = np.arange(240) / source_fps
    for t, index in enumerate(taken):
        assert abs(times[index] - t / 15) <= np.abs(times - t / 15).min() + 1e-9
    assert len(set(taken)) == len(taken)
    # As many as there are, and no more: the next instant would be nearer to a frame 240.
    assert taken[-1] < 240 <= round(len(taken) * source_fps / 15 + 1e-6)


def test_a_clip_that_is_hardly_faster_keeps_every_frame() -> None:
    for fps in (10, 15, 15.7):
        assert Timing.constant(63, fps).indices(15) == list(range(63))
        assert Timing.constant(63, fps).data_rate(15) == pytest.approx(fps)
    assert len(Timing.constant(63, 15.8).indices(15)) == 60


@pytest.mark.parametrize("unit", [1e-3, 1e-2])
@pytest.mark.parametrize("fps", [23.976, 30])
def test_rounded_time_stamps_are_constant(fps: float, unit: float) -> None:
    """Matroska rounds to milliseconds, GIF to hundredths."""
    starts = np.round(np.arange(100) / fps / unit) * unit
    timing = Timing(starts, float(starts[-1] + 1 / fps))
    assert timing.is_constant
    assert timing.rate == pytest.approx(fps, rel=0.01)
    assert timing.indices(15) == pytest.approx(Timing.constant(100, fps).indices(15), abs=1)


def test_a_dropped_frame_makes_a_clip_variable() -> None:
    starts = np.delete(np.arange(60) / 30, 20)
    timing = Timing(starts, 2.0)
    assert not timing.is_constant
    taken = starts[timing.indices(15)]
    assert len(taken) == 30  # two seconds are two seconds
    assert np.abs(taken - np.arange(30) / 15).max() <= 1 / 30 + 1e-9
    slow = variable(0.2, 0.2, 0.2, 0.4, 0.2, 0.2)  # 5 frames/s, one dropped: its usual rate stays
    assert slow.data_rate(15) == pytest.approx(5)
    assert slow.indices(15) == [0, 1, 2, 3, 3, 4, 5]


def test_a_held_frame_is_taken_for_as_long_as_it_is_shown() -> None:
    timing = variable(*[0.05] * 10, 1.0, *[0.05] * 10)  # 20 frames/s, and one held for a second
    assert timing.rate == pytest.approx(20)
    indices = timing.indices(10)
    assert len(indices) == 20  # 2 s
    assert indices.count(10) == 10
    assert indices[:6] == [0, 2, 4, 6, 8, 10]
    assert indices[-4:] == [13, 15, 17, 19]  # its movement goes on at the same pace after it
    assert variable(*[0.1] * 5, 2.0).indices(10).count(5) == 20  # of the last one, too
    # The control: by the mean rate the second half would come too early.
    assert Timing.constant(21, 21 / 2).indices(10) != indices
