"""The split by time: which pieces of which clips go to train, val and test."""

import numpy as np
import pytest

from modules.datasets.splits import Piece, split_by_time
from modules.runtime.errors import UserError


def test_split_by_hand() -> None:
    one = split_by_time([Piece(0, 0, 100)], val_frames=20, test=[10, 5], pause=4)
    assert one.val == Piece(0, 80, 100)
    assert one.test == [Piece(0, 66, 76), Piece(0, 57, 62)]
    assert one.train == [Piece(0, 0, 53)]
    # The longest piece is cut first, and of a piece that is used up nothing stays.
    pieces = [Piece(0, 5, 35), Piece(1, 0, 50), Piece(1, 60, 80)]
    two = split_by_time(pieces, val_frames=30, test=[29], pause=15)
    assert two.val == Piece(1, 20, 50)
    assert two.test == [Piece(0, 6, 35)]
    assert two.train == [Piece(1, 0, 5), Piece(1, 60, 80)]


def test_split_defaults_and_too_few_frames() -> None:
    long = split_by_time([Piece(0, 0, 20_000)], val_frames=None, test=None, pause=15)
    assert (long.val.frames, [t.frames for t in long.test]) == (630, [630])
    short = split_by_time([Piece(0, 0, 200)], val_frames=None, test=None, pause=15)
    assert (short.val.frames, [t.frames for t in short.test]) == (40, [20])
    assert short.train == [Piece(0, 0, 110)]
    assert split_by_time([Piece(0, 0, 50)], val_frames=9, test=[0], pause=0).test == []
    with pytest.raises(UserError, match=r"--val_frames 60: the longest .* has 50 frames"):
        split_by_time([Piece(0, 0, 50)], val_frames=60, test=None, pause=0)
    with pytest.raises(UserError, match=r"--test 30: the longest unbroken piece .* has 25 frames"):
        split_by_time([Piece(0, 0, 50)], val_frames=20, test=[30], pause=5)
    with pytest.raises(UserError, match="no frames are left to train on"):
        split_by_time([Piece(0, 0, 50)], val_frames=30, test=[20], pause=0)
    with pytest.raises(UserError, match=r"5 frames .* too few"):
        split_by_time([Piece(0, 0, 5)], val_frames=None, test=None, pause=0)


@pytest.mark.parametrize("seed", range(5))
def test_no_frame_is_in_two_splits(seed: int) -> None:
    rng = np.random.default_rng(seed)
    edges = np.sort(rng.choice(2000, 12, replace=False)).tolist()
    pieces = [Piece(0, a, b) for a, b in zip(edges[::2], edges[1::2], strict=True) if b - a > 1]
    split = split_by_time(pieces, val_frames=None, test=None, pause=10)
    every = [*split.train, split.val, *split.test]
    frames = [t for piece in every for t in range(piece.start, piece.stop)]
    assert len(frames) == len(set(frames))
    assert all(any(p.start <= q.start and q.stop <= p.stop for p in pieces) for q in every)
