"""GIFs and MP4s as a viewer shows them, and stills of exact pixels."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from modules.figures.contact_sheet import overlay, write_contact_sheet
from modules.figures.media import (
    enlarged,
    write_comparison_gif,
    write_film,
    write_gif,
    write_sheet,
)
from modules.ink import Ink
from tests.support.drawn import video


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


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """All that is written into pictures, in order."""
    found: list[str] = []
    write = ImageDraw.ImageDraw.text

    def noted(draw: ImageDraw.ImageDraw, place: Any, text: str, *more: Any, **named: Any) -> None:
        found.append(text)
        write(draw, place, text, *more, **named)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", noted)
    return found


def test_comparison_gif(tmp_path: Path, written: list[str]) -> None:
    truth = moving_square(30)
    labels, prediction = truth[..., ::-1].copy(), truth[:, :, ::-1].copy()
    path = tmp_path / "val.gif"
    write_comparison_gif(path, labels, truth, prediction, np.linspace(20, 40, 29), title="epoch 3")
    frames, durations = gif_frames(path)
    assert len(frames) == 30
    assert sum(durations) == 2000 and set(durations) == {60, 70}  # hundredths of a second
    for column, video_ in enumerate((labels, truth, prediction)):
        panel = frames[:, 80:208, 8 + column * 264 : 264 + column * 264]
        np.testing.assert_array_equal(panel, enlarged(panel[:, ::4, ::4]))
        assert np.abs(panel[:, ::4, ::4].astype(int) - video_).max() <= 24, column
    assert (frames[:, 80:208, 264:272] == 255).all()  # the separators
    assert written[:4] == ["epoch 3", "frame 0", "truth", "prediction"]
    assert written[4:8] == ["epoch 3", "frame 1", "truth", "prediction 20.0 dB"]
    assert written[-4:] == ["epoch 3", "frame 29", "truth", "prediction 40.0 dB"]
    # Equal frames stay apart by their numbers.
    still = video(1).repeat(40, axis=0)
    write_comparison_gif(path, still, still, still, np.ones(39), title="")
    assert len(gif_frames(path)[0]) == 40


def test_gifs_last_as_long_as_the_video(tmp_path: Path) -> None:
    equal = video(1).repeat(40, axis=0)
    equal[20:23] = 255 - equal[0]
    frames, durations = gif_frames(write_gif(tmp_path / "a.gif", equal, fps=20))
    assert durations == [1000, 150, 850]  # equal neighbours are one
    assert frames.shape == (3, 128, 192, 3)
    assert np.abs(frames[:, ::16, ::16].astype(int) - equal[[0, 20, 23]]).max() <= 24
    assert len(gif_frames(write_gif(tmp_path / "c.gif", equal[:1], fps=15))[0]) == 1


def test_noise_is_not_stored(tmp_path: Path) -> None:
    """A wall that varies by a level or two stays as it was; the square moves."""
    path = write_gif(tmp_path / "a.gif", moving_square(20, noise=0.5), fps=15)
    frames, _ = gif_frames(path)
    assert (frames[:, 100:] == frames[0, 100:]).mean() > 0.99
    assert (frames[5] != frames[0]).any()


def test_only_small_frames_are_enlarged() -> None:
    sizes = [enlarged(video(1, height)).shape[1] // height for height in (16, 32, 48, 64, 100, 720)]
    assert sizes == [8, 4, 3, 2, 1, 1]


def test_sheet_shows_exact_pixels(tmp_path: Path, written: list[str]) -> None:
    videos = [video(50, 32, 64, seed) for seed in range(3)]
    path = write_sheet(tmp_path / "s.png", *videos, np.linspace(20, 30, 49), title="")
    shown = [0, 7, 14, 21, 28, 35, 42, 49]
    with Image.open(path) as image:
        sheet = np.asarray(image)
    for row, frames in enumerate(videos):
        for column, big in enumerate(enlarged(frames[shown])):
            y, x = 80 + 168 * row, 8 + 264 * column
            np.testing.assert_array_equal(sheet[y : y + 128, x : x + 256], big)
    captions = [*(f"{t}: label" for t in shown), *["truth"] * 8, "given"]
    assert written[1:-7] == captions and written[-1] == "30.00 dB" and written[-7] == "21.25 dB"
    few = write_sheet(tmp_path / "few.png", *(v[:3] for v in videos), np.ones(2), title="")
    with Image.open(few) as image:
        assert image.width < sheet.shape[1]


def test_a_film_has_every_frame_at_its_rate(tmp_path: Path) -> None:
    av = pytest.importorskip("av", reason="no mp4 without PyAV")
    made = moving_square(24)
    labels, truth = made[::-1].copy(), 255 - made
    write_film(tmp_path / "a", labels, truth, made, fps=12.5)
    with av.open(str(tmp_path / "a.mp4")) as file:
        stream = file.streams.video[0]
        about = float(stream.average_rate), stream.name, stream.pix_fmt
        assert about == (12.5, "h264", "yuv420p")
        read = np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(stream)])
    shown, durations = gif_frames(tmp_path / "a.gif")
    assert len(shown) == 24 and sum(durations) == 1920
    assert read.shape == shown.shape == (24, 256, 3 * 512 + 2 * 4, 3)
    for film in (read, shown):
        for column, video_ in enumerate((labels, truth, made)):
            small = film[:, 4::8, column * 516 + 4 : column * 516 + 512 : 8].astype(int)
            assert np.abs(small - video_).mean() < 6, column
            assert np.abs(small[5] - video_[20]).mean() > 6  # the control: another frame
    # Smooth: across the square's edge colours rise over several pixels, and not in one step of 100.
    steps = np.abs(np.diff(read[0, 100, 1032 + 40 : 1032 + 120].astype(int), axis=0))
    assert 10 < steps.max() < 60


def test_films_without_a_truth_of_odd_sides_and_without_pyav(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    av = pytest.importorskip("av", reason="no mp4 without PyAV")
    odd = np.full((3, 301, 513, 3), 90, np.uint8)
    write_film(tmp_path / "a", odd, odd, odd, fps=15)
    with av.open(str(tmp_path / "a.mp4")) as file:  # 4:2:0 needs even sides
        read = np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)])
    assert read.shape == (3, 302, 3 * 513 + 8 + 1, 3)
    assert np.abs(read[:, :, :513].astype(int) - 90).max() <= 3
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    write_film(tmp_path / "b", odd, None, odd, fps=15)
    assert gif_frames(tmp_path / "b.gif")[0].shape[2] == 2 * 513 + 4
    assert not (tmp_path / "b.mp4").exists()


def test_overlay_by_hand() -> None:
    frame = np.full((1, 1, 3, 3), 100, np.uint8)
    label = np.array([[[[0, 0, 0], [255, 0, 0], [0, 51, 0]]]], np.uint8)
    laid = [[[[100, 100, 100], [255, 0, 0], [80, 131, 80]]]]
    assert overlay(frame, label, Ink((0, 0, 0), 255)).tolist() == laid
    # Pale on white: a whole line keeps its colour; half of one is half of it and of the frame.
    pale = np.array([[[[255, 255, 255], [155, 205, 255], [205, 231, 255]]]], np.uint8)
    laid = [[[[100, 100, 100], [155, 205, 255], [128, 154, 178]]]]
    assert overlay(frame, pale, Ink((255, 255, 255), 100)).tolist() == laid


@pytest.mark.parametrize("marked", [False, True])
def test_marks_are_drawn_where_they_are_given(tmp_path: Path, marked: bool) -> None:
    """Vermillion for a jump, orange for a blank label, purple for a copy; none without them."""
    frames = np.full((10, 16, 32, 3), 90, np.uint8)
    found: Any = SimpleNamespace(frames=frames, labels=frames // 9, copies=[2] * marked)
    found.names, found.starts, found.steps = "0123456789", [0], np.ones(9)
    found.cuts, found.blank, found.name = [4] * marked, marked & (np.arange(10) == 7), "train"
    path, tests = tmp_path / "sheet.png", [("0", frames[0], frames[0], 10)]
    write_contact_sheet(path, "data", found, found, tests, Ink((0, 0, 0), 255))
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
    for colour in ((0xD5, 0x5E, 0x00), (0xE6, 0x9F, 0x00), (0xCC, 0x79, 0xA7)):
        assert ((pixels == colour).all(axis=1).sum() > 5) == marked, colour
