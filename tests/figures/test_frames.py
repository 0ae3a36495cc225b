"""PSNR per frame with the frames of its lowest stretches, and the contact sheet."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from modules.figures.frames import (
    draw_psnr_per_frame,
    lowest_stretches,
    psnr_per_frame_figure,
    write_sheet,
)
from tests.support.drawn import check_layout, colours, line, lines, texts, video


def dips(n: int = 600, *places: tuple[int, float]) -> np.ndarray:
    """A curve of 30 dB with dips of a given depth around frames."""
    frames = np.arange(1, n + 1)
    return 30.0 - sum(depth * np.exp(-(((frames - at) / 12) ** 2)) for at, depth in places)


def test_lowest_stretches_of_a_hand_made_curve() -> None:
    curve = dips(600, (100, 4.0), (250, 8.0), (400, 2.0), (550, 6.0))
    stretches = lowest_stretches(curve)
    assert [stretch.lowest for stretch in stretches] == [250, 550, 100]  # lowest first, 400 not
    for start, stop, lowest in stretches:
        assert 1 <= start <= lowest < stop <= 601
        assert stop - start == 15
    assert stretches == lowest_stretches(curve.copy())
    # Negative control: without the deepest dip, the fourth one is marked.
    others = dips(600, (100, 4.0), (400, 2.0), (550, 6.0))
    assert [stretch.lowest for stretch in lowest_stretches(others)] == [550, 100, 400]


def test_a_short_deep_dip_is_found_among_long_shallow_ones() -> None:
    curve = dips(629, (80, 3.0), (250, 2.0), (440, 2.0), (590, 2.5))
    curve[495:503] -= 5.0
    assert {stretch.lowest for stretch in lowest_stretches(curve)} & set(range(496, 504))


def test_lowest_stretches_do_not_overlap() -> None:
    rng = np.random.default_rng(0)
    for n in (2, 5, 20, 61, 629, 5000):
        stretches = sorted(lowest_stretches(28 + rng.normal(size=n)))
        assert 1 <= len(stretches) <= 3
        assert all(a.stop < b.start for a, b in itertools.pairwise(stretches))
    assert len(lowest_stretches(28 + rng.normal(size=629))) == 3
    assert len(lowest_stretches(np.array([20.0]))) == 1
    assert len(lowest_stretches(np.full(100, 25.0))) <= 1
    assert lowest_stretches(np.full(100, math.nan)) == []


def test_lowest_stretches_leave_out_missing_values() -> None:
    curve = dips(600, (100, 4.0), (250, 8.0), (550, 6.0))
    curve[200:300] = math.nan
    lowest = [stretch.lowest for stretch in lowest_stretches(curve)]
    assert lowest[:2] == [550, 100]
    assert all(np.isfinite(curve[frame - 1]) for frame in lowest)


def test_psnr_per_frame_with_pictures(tmp_path: Path) -> None:
    curve = dips(400, (60, 4.0), (180, 8.0), (300, 6.0))
    videos = {name: video(401, seed=i) for i, name in enumerate(("label", "truth", "prediction"))}
    figure = psnr_per_frame_figure(curve, title_prefix="Validation", pictures=videos)
    written = texts(figure)
    assert f"Validation PSNR per frame, average {curve.mean():.2f} dB" in written
    assert line(figure, "psnr").get_xdata().tolist() == list(range(1, 401))
    assert [each.get_xdata()[0] for each in lines(figure, "lowest")] == [180, 300, 60]
    shown = {axes.get_gid(): axes.images[0] for axes in figure.axes if axes.images}
    assert list(shown) == [f"{name} {t}" for t in (180, 300, 60) for name in videos]
    for name, frames in videos.items():
        image = shown[f"{name} 300"]
        np.testing.assert_array_equal(image.get_array(), frames[300])
        assert image.get_interpolation() == "nearest"
    assert f"1: frame\n180\n{curve[179]:.2f} dB" in written
    check_layout(figure)
    out = draw_psnr_per_frame(
        tmp_path / "p.png", curve, labels=videos["label"], prediction=videos["prediction"]
    )
    assert colours(out) > 100


def test_psnr_per_frame_by_place(tmp_path: Path) -> None:
    curve = dips(400, (60, 4.0))
    inside = curve - 3
    inside[:5] = math.nan  # no skeleton there: a gap
    regions = {"inside": inside, "outside": curve + 4}
    figure = psnr_per_frame_figure(curve, **regions)
    for name, values in regions.items():
        np.testing.assert_array_equal(line(figure, name).get_ydata(), values)
        assert line(figure, name).get_linewidth() <= line(figure, "psnr").get_linewidth()
    assert {"near the skeleton", "elsewhere"} <= set(texts(figure))
    assert "400 frames" not in " ".join(texts(figure))  # the average is whole
    check_layout(figure)
    unknown = np.full(400, math.nan)
    assert not lines(psnr_per_frame_figure(curve, inside=unknown, outside=unknown), "inside")
    assert not lines(psnr_per_frame_figure(curve), "outside")
    assert colours(draw_psnr_per_frame(tmp_path / "p.png", curve, **regions)) > 20


@pytest.mark.parametrize("frames", [2, 5, 3001])
def test_psnr_per_frame_of_any_length(tmp_path: Path, frames: int) -> None:
    curve = 25 + np.random.default_rng(1).normal(size=frames - 1)
    figure = psnr_per_frame_figure(curve)
    check_layout(figure)
    assert figure.axes[0].get_xlabel() == "frame"
    assert texts(figure)[0]
    assert colours(draw_psnr_per_frame(tmp_path / "p.png", curve)) > 5


def test_psnr_per_frame_with_missing_values_claims_no_average() -> None:
    curve = dips(100, (50, 5.0))
    assert not lines(psnr_per_frame_figure(curve), "missing")
    curve[10:13] = math.nan
    figure = psnr_per_frame_figure(curve, title_prefix="Validation ")
    title = next(text for text in texts(figure) if text.startswith("Validation"))
    assert title.startswith("Validation PSNR per frame, no average:\n3 of 100 frames")
    assert line(figure, "missing").get_xdata().tolist() == [11, 12, 13]
    assert not lines(figure, "average")
    psnr_per_frame_figure(np.full(5, math.nan))


def test_psnr_per_frame_refuses_other_shapes(tmp_path: Path) -> None:
    out = tmp_path / "p.png"
    for psnr, videos in (
        (np.ones((3, 2)), {}),
        (np.ones(0), {}),
        (np.ones(9), {"labels": video(9)}),
        (np.ones(9), {"truth": video(10), "prediction": video(10, width=4)}),
        (np.ones(9), {"truth": video(10).astype(float)}),
    ):
        with pytest.raises(ValueError):
            draw_psnr_per_frame(out, psnr, **videos)
    assert not out.exists()


def test_sheet_shows_exact_pixels(tmp_path: Path) -> None:
    labels, truth, prediction = (video(50, 32, 64, seed) for seed in range(3))
    path = write_sheet(
        tmp_path / "s.png", labels, truth, prediction, np.linspace(20, 30, 49), columns=4
    )
    with Image.open(path) as image:
        sheet = np.asarray(image)
    found = []
    for frames_shown in (labels, truth, prediction):
        for t in (0, 16, 33, 49):
            big = frames_shown[t].repeat(4, 0).repeat(4, 1)
            corners = np.argwhere((sheet[:, :, :] == big[0, 0]).all(axis=2))
            places = [
                (y, x)
                for y, x in corners
                if sheet[y : y + 128, x : x + 256].shape == big.shape
                and (sheet[y : y + 128, x : x + 256] == big).all()
            ]
            assert len(places) == 1, t
            found.append(places[0])
    rows, columns = [y for y, _ in found[::4]], [x for _, x in found[:4]]
    assert rows == sorted(rows) and columns == sorted(columns)
    assert all(y == found[i // 4 * 4][0] for i, (y, _) in enumerate(found))
    few = write_sheet(tmp_path / "few.png", labels[:3], None, prediction[:3])
    with Image.open(few) as image:
        assert image.width < sheet.shape[1]
