"""The split by time: which pieces of which clips go to train, val and test."""

import pytest

from modules.datasets.video import FILM_FRAMES, Piece, files_by_clip, split_by_time
from modules.runtime.errors import UserError


def test_split_by_hand() -> None:
    one = split_by_time([Piece(0, 0, 100)], val_frames=20, test=[10, 5])
    assert one.val == Piece(0, 80, 100)
    assert one.test == [Piece(0, 70, 80), Piece(0, 65, 70)]
    assert one.train == [Piece(0, 0, 65)]
    # The longest piece is cut first, and of a piece that is used up nothing stays.
    pieces = [Piece(0, 5, 35), Piece(1, 0, 50), Piece(1, 60, 80)]
    two = split_by_time(pieces, val_frames=30, test=[29])
    assert two.val == Piece(1, 20, 50)
    assert two.test == [Piece(0, 6, 35)]
    assert two.train == [Piece(1, 0, 20), Piece(1, 60, 80)]


def test_by_default_nothing_is_lost_and_the_film_is_the_whole_clip() -> None:
    pieces = [Piece(0, 10, 160), Piece(0, 170, 200)]
    short = split_by_time(pieces, val_frames=None, test=None)
    assert short.val == Piece(0, 124, 160)  # a fifth of all
    assert short.train == [Piece(0, 10, 124), Piece(0, 170, 200)]
    assert short.test == pieces
    files = files_by_clip(short, 1)[0]
    assert sorted(files) == [*range(10, 160), *range(170, 200)]
    assert files[10] == ["train/train_{}/0.png", "test/test_{}/0/0.png"]
    assert files[125] == ["val/val_{}/1.png", "test/test_{}/0/115.png"]
    assert files[171] == ["train/train_{}/115.png", "test/test_{}/1/1.png"]
    long = split_by_time([Piece(0, 0, 700), Piece(1, 0, 20_000)], val_frames=None, test=None)
    assert long.val.frames == 630
    assert long.test == [Piece(0, 0, 700), Piece(1, 0, FILM_FRAMES - 700)]
    assert split_by_time([Piece(0, 0, 50)], val_frames=9, test=[0]).test == []


def test_too_few_frames() -> None:
    with pytest.raises(UserError, match=r"--val_frames 60: the longest .* has 50 frames"):
        split_by_time([Piece(0, 0, 50)], val_frames=60, test=None)
    with pytest.raises(UserError, match=r"--test 31: the longest unbroken piece .* has 30 frames"):
        split_by_time([Piece(0, 0, 50)], val_frames=20, test=[31])
    with pytest.raises(UserError, match="no frames are left to train on"):
        split_by_time([Piece(0, 0, 50)], val_frames=30, test=[20])
    with pytest.raises(UserError, match=r"5 frames .* too few"):
        split_by_time([Piece(0, 0, 5)], val_frames=None, test=None)
