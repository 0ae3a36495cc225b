"""The program that compares enlarged frames with the truth."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.programs.enlarged import psnr_enlarged


def test_psnr_of_enlarged_frames(tmp_path: Path) -> None:
    for name, grey, side in (("made", 100, 4), ("truth", 110, 16)):
        (tmp_path / name).mkdir()
        for t in range(3):
            value = 0 if t == 0 and name == "made" else grey  # the given frame does not count
            Image.fromarray(np.full((side, side, 3), value, np.uint8)).save(
                tmp_path / name / f"{t}.png"
            )
    found = psnr_enlarged(tmp_path / "made", tmp_path / "truth", (8, 8))
    assert found == pytest.approx(10 * np.log10(255**2 / 10**2))
