"""GIFs and MP4s as a viewer shows them, and stills of exact pixels."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from modules.figures.contact_sheet import SheetSequence, SheetSplit, overlay, write_contact_sheet
from modules.figures.media import (
    check_videos,
    viewing_scale,
    write_comparison_gif,
    write_film,
    write_gif,
    write_mp4,
    write_sheet,
)
from modules.ink import Ink
from tests.support.drawn import video

ON_BLACK = Ink((0, 0, 0), 255)


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
    about = {"title": "epoch 3", "psnr": np.linspace(20, 40, 29)}
    write_comparison_gif(path, labels, truth, prediction, **about)
    frames, durations = gif_frames(path)
    assert len(frames) == 30
    assert sum(durations) == 2000 and set(durations) == {60, 70}  # hundredths of a second
    bar = frames.shape[1] - 128
    assert frames.shape[2] == 3 * 256 + 2 * 4 and 50 < bar < 80
    for column, frames_shown in enumerate((labels, truth, prediction)):
        panel = frames[:, bar:, column * 260 : column * 260 + 256]
        np.testing.assert_array_equal(panel, panel[:, ::4, ::4].repeat(4, 1).repeat(4, 2))
        error = panel[:, ::4, ::4].astype(int) - frames_shown
        assert np.abs(error).max() <= 24, column
    assert (frames[:, bar:, 256:260] == 255).all()  # the separators
    assert written[:4] == ["epoch 3", "frame 0", "truth", "prediction"]
    assert written[4:8] == ["epoch 3", "frame 1", "truth", "prediction 20.0 dB"]
    assert written[-4:] == ["epoch 3", "frame 29", "truth", "prediction 40.0 dB"]
    captions = frames[:, :bar]
    for column, changes in ((0, True), (260, False), (520, True)):  # and where it belongs
        panel = captions[3:5, bar // 2 :, column : column + 256]
        assert (panel[0] != panel[1]).any() == changes
    narrow, _ = gif_frames(write_comparison_gif(path, labels, None, prediction))
    assert narrow.shape[2:] == (2 * 256 + 4, 3)
    # Equal frames stay apart by their numbers.
    still = video(1).repeat(40, axis=0)
    assert len(gif_frames(write_comparison_gif(path, still, still, still))[0]) == 40


def test_gifs_last_as_long_as_the_video(tmp_path: Path) -> None:
    equal = video(1).repeat(40, axis=0)
    equal[20:23] = 255 - equal[0]
    frames, durations = gif_frames(write_gif(tmp_path / "a.gif", equal, fps=20))
    assert durations == [1000, 150, 850]  # equal neighbours are one
    assert frames.shape == (3, 128, 192, 3)
    assert np.abs(frames[:, ::16, ::16].astype(int) - equal[[0, 20, 23]]).max() <= 24
    assert len(gif_frames(write_gif(tmp_path / "c.gif", equal[:1]))[0]) == 1


def test_only_small_frames_are_enlarged() -> None:
    assert [viewing_scale(height) for height in (16, 32, 48, 64, 100, 720)] == [8, 4, 3, 2, 1, 1]


def test_other_shapes_and_values_are_refused(tmp_path: Path) -> None:
    good, out = video(5), tmp_path / "x"
    assert check_videos(truth=good, labels=None) == {"truth": good}
    for bad, said in (
        (good.astype(np.int64) + 4, "int64"),  # as uint8 this would wrap around to black
        (good / 255.0, "float64"),
        (good[..., :1], r"must be \(T, H, W, 3\)"),
        (good[:0], r"must be \(T, H, W, 3\)"),
        (good[:4], "of one shape"),
    ):
        for write in (write_comparison_gif, write_sheet):
            with pytest.raises(ValueError, match=said):
                write(out, good, good, bad, psnr=np.ones(4))
    assert not list(tmp_path.iterdir())


def test_sheet_shows_exact_pixels(tmp_path: Path, written: list[str]) -> None:
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
    captions = [*("0: label", "16: label", "33: label", "49: label"), *["truth"] * 4]
    assert written[1:] == [*captions, *("given", "23.12 dB", "26.67 dB", "30.00 dB")]
    rows, columns = [y for y, _ in found[::4]], [x for _, x in found[:4]]
    assert rows == sorted(rows) and columns == sorted(columns)
    assert all(y == found[i // 4 * 4][0] for i, (y, _) in enumerate(found))
    few = write_sheet(tmp_path / "few.png", labels[:3], None, prediction[:3], np.ones(2))
    with Image.open(few) as image:
        assert image.width < sheet.shape[1]


# ---------------------------------------------------------------- MP4


def test_a_film_has_every_frame_at_its_rate(tmp_path: Path) -> None:
    av = pytest.importorskip("av", reason="no mp4 without PyAV")
    made = moving_square(24)
    labels, truth = made[::-1].copy(), 255 - made
    write_film(tmp_path / "a", labels, truth, made, fps=12.5)
    path = tmp_path / "a.mp4"
    with av.open(str(path)) as file:
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
    write_film(tmp_path / "b", labels, None, made, fps=15)
    assert gif_frames(tmp_path / "b.gif")[0].shape[2] == 2 * 512 + 4


def test_an_mp4_has_even_sides(tmp_path: Path) -> None:
    """4:2:0 needs them."""
    av = pytest.importorskip("av", reason="no mp4 without PyAV")
    path = write_mp4(tmp_path / "a.mp4", np.full((3, 301, 403, 3), 90, np.uint8))
    with av.open(str(path)) as file:
        read = np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)])
    assert read.shape == (3, 302, 404, 3)
    assert np.abs(read.astype(int) - 90).max() <= 3


def test_no_mp4_without_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert write_mp4(tmp_path / "a.mp4", moving_square(3)) is None
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------- the contact sheet of a data set


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
