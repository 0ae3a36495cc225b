"""What shows the frames of a video: PSNR per frame with its pictures, GIFs, the contact sheet."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.drawn import check_layout, colours, line, lines, texts, video

# ----------------------------------------------------------------------------------------
# psnr_per_frame.png


def dips(n: int = 600, *places: tuple[int, float]) -> np.ndarray:
    """A curve of 30 dB with dips of a given depth around frames."""
    frames = np.arange(1, n + 1)
    return 30.0 - sum(depth * np.exp(-(((frames - at) / 12) ** 2)) for at, depth in places)


def test_lowest_stretches_of_a_hand_made_curve() -> None:
    curve = dips(600, (100, 4.0), (250, 8.0), (400, 2.0), (550, 6.0))
    stretches = pictures.lowest_stretches(curve)
    assert [stretch.lowest for stretch in stretches] == [250, 550, 100]  # lowest first, 400 not
    for start, stop, lowest in stretches:
        assert 1 <= start <= lowest < stop <= 601
        assert stop - start == 15
    assert stretches == pictures.lowest_stretches(curve.copy())
    # Negative control: without the deepest dip, the fourth one is marked.
    others = dips(600, (100, 4.0), (400, 2.0), (550, 6.0))
    assert [stretch.lowest for stretch in pictures.lowest_stretches(others)] == [550, 100, 400]


def test_a_short_deep_dip_is_found_beside_long_shallow_ones() -> None:
    curve = dips(629, (80, 3.0), (250, 2.0), (440, 2.0), (590, 2.5))
    curve[495:503] -= 5.0
    assert {stretch.lowest for stretch in pictures.lowest_stretches(curve)} & set(range(496, 504))


def test_lowest_stretches_do_not_overlap() -> None:
    rng = np.random.default_rng(0)
    for n in (2, 5, 20, 61, 629, 5000):
        stretches = sorted(pictures.lowest_stretches(28 + rng.normal(size=n)))
        assert 1 <= len(stretches) <= 3
        assert all(a.stop < b.start for a, b in itertools.pairwise(stretches))
    assert len(pictures.lowest_stretches(28 + rng.normal(size=629))) == 3
    assert len(pictures.lowest_stretches(np.array([20.0]))) == 1
    assert len(pictures.lowest_stretches(np.full(100, 25.0))) <= 1
    assert pictures.lowest_stretches(np.full(100, math.nan)) == []


def test_lowest_stretches_leave_out_missing_values() -> None:
    curve = dips(600, (100, 4.0), (250, 8.0), (550, 6.0))
    curve[200:300] = math.nan
    lowest = [stretch.lowest for stretch in pictures.lowest_stretches(curve)]
    assert lowest[:2] == [550, 100]
    assert all(np.isfinite(curve[frame - 1]) for frame in lowest)


def test_psnr_per_frame_with_pictures(tmp_path: Path) -> None:
    curve = dips(400, (60, 4.0), (180, 8.0), (300, 6.0))
    videos = {name: video(401, seed=i) for i, name in enumerate(("label", "truth", "prediction"))}
    figure = pictures.psnr_per_frame_figure(curve, title_prefix="Validation", pictures=videos)
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
    out = pictures.draw_psnr_per_frame(
        tmp_path / "p.png", curve, labels=videos["label"], prediction=videos["prediction"]
    )
    assert colours(out) > 100


@pytest.mark.parametrize("frames", [2, 5, 3001])
def test_psnr_per_frame_of_any_length(tmp_path: Path, frames: int) -> None:
    curve = 25 + np.random.default_rng(1).normal(size=frames - 1)
    figure = pictures.psnr_per_frame_figure(curve)
    check_layout(figure)
    assert figure.axes[0].get_xlabel() == "frame"
    assert texts(figure)[0]
    assert colours(pictures.draw_psnr_per_frame(tmp_path / "p.png", curve)) > 5


def test_psnr_per_frame_with_missing_values_claims_no_average() -> None:
    curve = dips(100, (50, 5.0))
    assert not lines(pictures.psnr_per_frame_figure(curve), "missing")
    curve[10:13] = math.nan
    figure = pictures.psnr_per_frame_figure(curve, title_prefix="Validation ")
    title = next(text for text in texts(figure) if text.startswith("Validation"))
    assert title.startswith("Validation PSNR per frame, no average:\n3 of 100 frames")
    assert line(figure, "missing").get_xdata().tolist() == [11, 12, 13]
    assert not lines(figure, "average")
    pictures.psnr_per_frame_figure(np.full(5, math.nan))


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
            pictures.draw_psnr_per_frame(out, psnr, **videos)
    assert not out.exists()


# ----------------------------------------------------------------------------------------
# GIFs and contact sheet


def gif_frames(path: Path) -> tuple[np.ndarray, list[int]]:
    """Frames (T, H, W, 3) as a viewer shows them, and their durations in ms."""
    frames, durations = [], []
    with Image.open(path) as image:
        for t in range(image.n_frames):
            image.seek(t)
            frames.append(np.asarray(image.convert("RGB")))
            durations.append(image.info["duration"])
    return np.stack(frames), durations


def moving_square(frames: int, noise: float = 0.0) -> np.ndarray:
    """A red square on a grey gradient, with a sensor's noise."""
    rng = np.random.default_rng(0)
    images = np.tile(np.linspace(60, 200, 64), (frames, 32, 1))[..., None].repeat(3, axis=3)
    for t in range(frames):
        images[t, 10:20, t % 54 : t % 54 + 10] = (200, 30, 30)
    return np.clip(images + noise * rng.normal(size=images.shape), 0, 255).astype(np.uint8)


def test_comparison_gif(tmp_path: Path) -> None:
    truth = moving_square(30)
    labels, prediction = truth[..., ::-1].copy(), truth[:, :, ::-1].copy()
    path = pictures.write_comparison_gif(tmp_path / "val.gif", labels, truth, prediction, fps=15)
    frames, durations = gif_frames(path)
    assert len(frames) == 30
    assert sum(durations) == 2000 and set(durations) == {60, 70}  # hundredths of a second
    bar = frames.shape[1] - 128
    assert frames.shape[2] == 3 * 256 + 2 * 4 and 10 < bar < 30
    for column, frames_shown in enumerate((labels, truth, prediction)):
        panel = frames[:, bar:, column * 260 : column * 260 + 256]
        np.testing.assert_array_equal(panel, panel[:, ::4, ::4].repeat(4, 1).repeat(4, 2))
        error = panel[:, ::4, ::4].astype(int) - frames_shown
        assert np.abs(error).max() <= 16, column
    assert (frames[:, bar:, 256:260] == 255).all()  # the separators
    captions = frames[:, :bar]
    assert all((captions[t] != captions[t + 1]).any() for t in range(29))  # the frame's number
    assert (captions[3][:, 260:] == captions[4][:, 260:]).all()
    narrow, _ = gif_frames(pictures.write_comparison_gif(path, labels, None, prediction, scale=2))
    assert narrow.shape[1:] == (64 + bar, 2 * 128 + 4, 3)


def test_gifs_keep_every_frame(tmp_path: Path) -> None:
    equal = video(1).repeat(40, axis=0)
    equal[20:23] = 255 - equal[0]
    frames, durations = gif_frames(pictures.write_gif(tmp_path / "a.gif", equal, fps=20, scale=3))
    assert frames.shape == (40, 24, 36, 3) and durations == [50] * 40
    np.testing.assert_array_equal(frames[0], frames[19])
    np.testing.assert_array_equal(frames[20], frames[22])
    assert np.abs(frames[:, ::3, ::3].astype(int) - equal).max() <= 16
    # Negative control: written the plain way, equal frames become one.
    images = [Image.fromarray(frame) for frame in equal]
    images[0].save(tmp_path / "b.gif", save_all=True, append_images=images[1:], duration=50)
    with Image.open(tmp_path / "b.gif") as image:
        assert image.n_frames < 40
    assert len(gif_frames(pictures.write_gif(tmp_path / "c.gif", equal[:1]))[0]) == 1
    path = pictures.write_comparison_gif(tmp_path / "d.gif", equal, equal, equal)
    assert len(gif_frames(path)[0]) == 40


def test_comparison_gif_of_a_whole_validation_video_stays_small(tmp_path: Path) -> None:
    truth, prediction = moving_square(630, noise=1.0), moving_square(630, noise=3.0)
    path = pictures.write_comparison_gif(
        tmp_path / "val.gif", moving_square(630), truth, prediction
    )
    assert path.stat().st_size < 6e6
    with Image.open(path) as image:
        assert image.n_frames == 630


def test_sheet_shows_exact_pixels(tmp_path: Path) -> None:
    labels, truth, prediction = (video(50, 32, 64, seed) for seed in range(3))
    path = pictures.write_sheet(
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
    few = pictures.write_sheet(tmp_path / "few.png", labels[:3], None, prediction[:3])
    with Image.open(few) as image:
        assert image.width < sheet.shape[1]


def test_pictures_refuse_other_shapes_and_values(tmp_path: Path) -> None:
    good, out = video(5), tmp_path / "x"
    too_bright = good.astype(np.int64) + 4  # as uint8 this would wrap around to black
    for bad in (too_bright, good / 255.0, good[0], good[..., :1], good[:0], good.tolist()):
        for write in (
            lambda bad=bad: pictures.write_gif(out, bad),
            lambda bad=bad: pictures.write_comparison_gif(out, good, bad, good),
            lambda bad=bad: pictures.write_sheet(out, good, good, bad),
        ):
            with pytest.raises(ValueError):
                write()
    for write in (
        lambda: pictures.write_comparison_gif(out, good, good[:4], good),
        lambda: pictures.write_sheet(out, good, good, good, np.ones(5)),
        lambda: pictures.write_sheet(out, good, good, good, columns=0),
        lambda: pictures.write_gif(out, good, fps=0),
        lambda: pictures.write_gif(out, good, fps=90),
        lambda: pictures.write_gif(out, good, scale=0),
    ):
        with pytest.raises(ValueError):
            write()
    assert not list(tmp_path.iterdir())
