"""Which frames of the clips become training, validation and test frames: a split by time.

    split = split_by_time(pieces, val_frames=None, test=None)
    places = places_by_clip(split, clips=2)      # for each clip: frame → split, sequence, number

Neighbouring frames are almost the same, so validation is a whole piece of time.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from modules.runtime.errors import UserError

VAL_FRAMES = 630  # of the validation video, where the clip is long enough
FILM_FRAMES = 900  # of the test sequences by default: a minute


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
    pieces: Sequence[Piece], *, val_frames: int | None, test: Sequence[int] | None
) -> Split:
    """Cut the validation video, then held-out test sequences, off the ends of the longest pieces.

    pieces:     at least 2 frames each
    val_frames: of the validation video; None: 630, but at most a fifth of all frames
    test:       frames of each held-out sequence; None: none is held out, and the sequences are all
                pieces whole, up to a minute, to make a film of

    Raises UserError: too few frames.
    """
    left = list(pieces)
    total = sum(piece.frames for piece in left)
    if total < 6:
        raise UserError(f"{total} frames with a person are too few to split; at least 6 are needed")
    longest = max(piece.frames for piece in left)

    def take(frames: int, option: str) -> Piece:
        # Of pieces of the same length the last.
        best = max(reversed(left), key=lambda piece: piece.frames, default=Piece(0, 0, 0))
        if best.frames < frames:
            raise UserError(
                f"{option} {frames}: the longest unbroken piece that is left has {best.frames}"
                " frames; give fewer frames or a longer video"
            )
        left.remove(best)
        if best.frames - frames > 1:
            left.append(best._replace(stop=best.stop - frames))
        return best._replace(start=best.stop - frames)

    if val_frames is None:
        val_frames = max(2, min(VAL_FRAMES, total // 5, longest))
    val = take(val_frames, "--val_frames")
    sequences = [take(frames, "--test") for frames in test or () if frames]
    if not left:
        raise UserError("no frames are left to train on; give fewer for --val_frames and --test")
    if test is None:
        for piece in sorted(pieces):
            room = FILM_FRAMES - sum(sequence.frames for sequence in sequences)
            if room > 1:
                sequences.append(piece._replace(stop=min(piece.stop, piece.start + room)))
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


def background_of(root: Path, sequence: str) -> Path:
    """The frame without anybody in it that a test sequence's background comes from, if any."""
    return root / "test/test_background" / f"{sequence}.png"


def places_by_clip(split: Split, clips: int) -> list[dict[int, list[Place]]]:
    """For each clip, the places of each of its frames. Frames that are left out have none."""
    places: list[dict[int, list[Place]]] = [{} for _ in range(clips)]
    number = 0
    for kind, pieces in (("train", split.train), ("val", [split.val]), ("test", split.test)):
        for sequence, piece in enumerate(pieces):
            for t in range(piece.start, piece.stop):
                at = number if kind == "train" else t - piece.start
                place = Place(kind, str(sequence) if kind == "test" else "", at)
                places[piece.clip].setdefault(t, []).append(place)
                number += kind == "train"
    return places
