"""The contact sheet of a data set: what is laid over what, and what is marked."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from modules.figures.contact_sheet import SheetSequence, SheetSplit, overlay, write_contact_sheet
from modules.ink import Ink

ON_BLACK = Ink((0, 0, 0), 255)


def test_overlay_by_hand() -> None:
    frame = np.full((1, 1, 3, 3), 100, np.uint8)
    label = np.array([[[[0, 0, 0], [255, 0, 0], [0, 51, 0]]]], np.uint8)
    laid = [[[[100, 100, 100], [255, 0, 0], [80, 131, 80]]]]
    assert overlay(frame, label, ON_BLACK).tolist() == laid
    # Pale on white: a whole line keeps its colour; half of one is half of it and of the frame.
    pale = np.array([[[[255, 255, 255], [155, 205, 255], [205, 231, 255]]]], np.uint8)
    laid = [[[[100, 100, 100], [155, 205, 255], [128, 154, 178]]]]
    assert overlay(frame, pale, Ink((255, 255, 255), 100)).tolist() == laid


@pytest.mark.parametrize("marked", [False, True])
def test_marks_are_drawn_where_they_are_given(tmp_path: Path, marked: bool) -> None:
    """Vermillion for a jump, orange for a blank label, purple for a copy; none without them."""
    frames = np.full((10, 16, 32, 3), 90, np.uint8)

    def split(name: str, copies: tuple[int, ...] = ()) -> SheetSplit:
        blank = np.zeros(10, bool)
        blank[7] = marked
        names = [str(t) for t in range(10)]
        cuts = (4,) if marked else ()
        return SheetSplit(name, frames, frames // 9, names, [0], np.ones(9), cuts, blank, copies)

    test = SheetSequence("0", frames[0], frames[0], 12)
    train, val = split("train"), split("val", (2,) if marked else ())
    path = write_contact_sheet(tmp_path / "sheet.png", "data", train, val, [test], ON_BLACK)
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
    for colour in ((0xD5, 0x5E, 0x00), (0xE6, 0x9F, 0x00), (0xCC, 0x79, 0xA7)):
        assert ((pixels == colour).all(axis=1).sum() > 5) == marked, colour
