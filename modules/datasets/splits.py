"""Which frames of the clips become training, validation and test frames: a split by time.

    split = split_by_time(pieces, val_frames=None, test=None, pause=15)
    places = places_by_clip(split, clips=2)      # for each clip: frame → split, sequence, number

Neighbouring frames are almost the same, so splits are whole pieces of time with a pause between.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from modules.runtime.errors import UserError

VAL_FRAMES = 630  # of a validation video or a test sequence, where the video is long enough


class Piece(NamedTuple):
    """Consecutive frames of one clip."""

    clip: int
    start: int
    stop: int  # exclusive

    @property
    def frames(self) -> int:
        return self.stop - self.start


class Split(NamedTuple):
    """The pieces of each split; those of train are its recordings."""

    train: list[Piece]
    val: Piece
    test: list[Piece]


def split_by_time(
    pieces: Sequence[Piece], *, val_frames: int | None, test: Sequence[int] | None, pause: int
) -> Split:
    """Cut the validation video, then the test sequences, off the ends of the longest pieces.

    pieces:     at least 2 frames each
    val_frames: of the validation video; None: 630, but at most a fifth of all frames
    test:       labels of each sequence; None: one of 630, but at most a tenth of all frames
    pause:      frames left out between a split and what stays before it, since frames next to each
                other in time are almost the same

    Raises UserError: too few frames.
    """
    left = list(pieces)
    total = sum(piece.frames for piece in left)
    if total < 6:
        raise UserError(f"{total} frames with a person are too few to split; at least 6 are needed")
    longest = max(piece.frames for piece in left)

    def take(frames: int, option: str) -> Piece:
        # Of pieces of the same length the last.
        best = max(range(len(left)), key=lambda i: (left[i].frames, i), default=None)
        if best is None or left[best].frames < frames:
            most = left[best].frames if best is not None else 0
            raise UserError(
                f"{option} {frames}: the longest unbroken piece that is left has {most} frames;"
                " give fewer frames or a longer video"
            )
        piece = left.pop(best)
        rest = piece._replace(stop=piece.stop - frames - pause)
        if rest.frames > 1:
            left.append(rest)
        return piece._replace(start=piece.stop - frames)

    if val_frames is None:
        val_frames = max(2, min(VAL_FRAMES, total // 5, longest))
    val = take(val_frames, "--val_frames")
    if test is None:
        longest = max((piece.frames for piece in left), default=0)
        one = min(VAL_FRAMES, total // 10, longest // 2)
        test = [one] if one > 1 else []
    sequences = [take(frames, "--test") for frames in test if frames]
    if not left:
        raise UserError(
            "no frames are left to train on; give fewer for --val_frames, --test and --pause"
        )
    return Split(sorted(left), val, sequences)


class Place(NamedTuple):
    """A frame's place in the data set."""

    split: str
    sequence: str  # folder of a test sequence, else empty
    number: int


def file_of(root: Path, place: Place, kind: str) -> Path:
    """The file of a frame ("img") or label ("label") in the layout below `root`."""
    folder = root / place.split / f"{place.split}_{kind}" / place.sequence
    return folder / f"{place.number}.png"


def places_by_clip(split: Split, clips: int) -> list[dict[int, Place]]:
    """For each clip, the place of each of its frames. Frames that are left out have none."""
    places: list[dict[int, Place]] = [{} for _ in range(clips)]
    number = 0
    for piece in split.train:
        for t in range(piece.start, piece.stop):
            places[piece.clip][t] = Place("train", "", number)
            number += 1
    for name, piece in [("", split.val), *((str(i), p) for i, p in enumerate(split.test))]:
        for t in range(piece.start, piece.stop):
            kind = "test" if name else "val"
            places[piece.clip][t] = Place(kind, name, t - piece.start)
    return places
