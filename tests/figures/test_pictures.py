"""Videos as pictures: what is accepted, how far they are enlarged, exact PNGs."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from modules.figures.pictures import check_videos, enlarge, viewing_scale, write_png
from tests.support.drawn import video


def test_videos_of_one_shape_pass() -> None:
    a, b = video(3), video(3, seed=1)
    assert check_videos(truth=a, labels=None, prediction=b) == {"truth": a, "prediction": b}
    assert check_videos() == {}


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (video(3).astype(np.float32), "truth: must be a uint8 array .* it is float32"),
        (video(3).tolist(), "truth: must be a uint8 array .* it is list"),
        (video(3)[0], r"truth: must be \(T, H, W, 3\), it is \(8, 12, 3\)"),
        (video(3)[..., :1], "truth: must be"),
        (video(3)[:0], "truth: must be"),
        (video(2), "differ in shape"),
        (video(3, height=12, width=8), "differ in shape"),
    ],
)
def test_others_are_refused(wrong: np.ndarray, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        check_videos(truth=wrong, prediction=video(3))


def test_every_pixel_becomes_a_square() -> None:
    one = np.array([[[1, 2], [3, 4]]], np.uint8)  # (1, 2, 2)
    assert enlarge(one, 2).tolist() == [[[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4], [3, 3, 4, 4]]]
    assert enlarge(video(2, 3, 5), 4).shape == (2, 12, 20, 3)


@pytest.mark.parametrize(
    ("height", "scale"), [(16, 8), (32, 4), (48, 3), (64, 2), (100, 1), (128, 1), (720, 1)]
)
def test_small_frames_are_shown_about_128_pixels_high(height: int, scale: int) -> None:
    assert viewing_scale(height) == scale


def test_pngs_are_exact(tmp_path: Path) -> None:
    pixels = video(1, 16, 16)[0]
    path = write_png(tmp_path / "a.png", Image.fromarray(pixels), dpi=(220, 220))
    with Image.open(path) as image:
        np.testing.assert_array_equal(np.asarray(image), pixels)
        assert image.info["dpi"] == pytest.approx((220, 220), abs=0.1)
    assert [each.name for each in tmp_path.iterdir()] == ["a.png"]
