"""GIFs as a viewer shows them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from modules.figures.frames import write_sheet
from modules.figures.gifs import write_comparison_gif, write_gif, write_mp4
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


def test_comparison_gif(tmp_path: Path) -> None:
    truth = moving_square(30)
    labels, prediction = truth[..., ::-1].copy(), truth[:, :, ::-1].copy()
    path = write_comparison_gif(tmp_path / "val.gif", labels, truth, prediction, fps=15)
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
    narrow, _ = gif_frames(write_comparison_gif(path, labels, None, prediction, scale=2))
    assert narrow.shape[1:] == (64 + bar, 2 * 128 + 4, 3)


def test_gifs_keep_every_frame(tmp_path: Path) -> None:
    equal = video(1).repeat(40, axis=0)
    equal[20:23] = 255 - equal[0]
    frames, durations = gif_frames(write_gif(tmp_path / "a.gif", equal, fps=20, scale=3))
    assert frames.shape == (40, 24, 36, 3) and durations == [50] * 40
    np.testing.assert_array_equal(frames[0], frames[19])
    np.testing.assert_array_equal(frames[20], frames[22])
    assert np.abs(frames[:, ::3, ::3].astype(int) - equal).max() <= 16
    # Negative control: written the plain way, equal frames become one.
    images = [Image.fromarray(frame) for frame in equal]
    images[0].save(tmp_path / "b.gif", save_all=True, append_images=images[1:], duration=50)
    with Image.open(tmp_path / "b.gif") as image:
        assert image.n_frames < 40
    assert len(gif_frames(write_gif(tmp_path / "c.gif", equal[:1]))[0]) == 1
    path = write_comparison_gif(tmp_path / "d.gif", equal, equal, equal)
    assert len(gif_frames(path)[0]) == 40


def test_comparison_gif_of_a_whole_validation_video_stays_small(tmp_path: Path) -> None:
    truth, prediction = moving_square(630, noise=1.0), moving_square(630, noise=3.0)
    path = write_comparison_gif(tmp_path / "val.gif", moving_square(630), truth, prediction)
    assert path.stat().st_size < 6e6
    with Image.open(path) as image:
        assert image.n_frames == 630


def test_pictures_refuse_other_shapes_and_values(tmp_path: Path) -> None:
    good, out = video(5), tmp_path / "x"
    too_bright = good.astype(np.int64) + 4  # as uint8 this would wrap around to black
    for bad in (too_bright, good / 255.0, good[0], good[..., :1], good[:0], good.tolist()):
        for write in (
            lambda bad=bad: write_gif(out, bad),
            lambda bad=bad: write_comparison_gif(out, good, bad, good),
            lambda bad=bad: write_sheet(out, good, good, bad),
        ):
            with pytest.raises(ValueError):
                write()
    for write in (
        lambda: write_comparison_gif(out, good, good[:4], good),
        lambda: write_sheet(out, good, good, good, np.ones(5)),
        lambda: write_sheet(out, good, good, good, columns=0),
        lambda: write_gif(out, good, fps=0),
        lambda: write_gif(out, good, fps=90),
        lambda: write_gif(out, good, scale=0),
    ):
        with pytest.raises(ValueError):
            write()
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------- MP4


def test_mp4_has_every_frame_at_its_rate(tmp_path: Path) -> None:
    pytest.importorskip("imageio_ffmpeg", reason="no mp4 without imageio-ffmpeg")
    import imageio.v3 as iio

    frames = moving_square(24)
    path = write_mp4(tmp_path / "a.mp4", frames, fps=12.5)
    assert path is not None
    about, read = iio.immeta(path, plugin="FFMPEG"), iio.imread(path, plugin="FFMPEG")
    assert about["fps"] == 12.5 and about["codec"] == "h264" and "yuv420p" in about["pix_fmt"]
    assert len(read) == 24 and min(read.shape[1:3]) >= 224
    scale = read.shape[1] // frames.shape[1]
    small = read[:, scale // 2 :: scale, scale // 2 :: scale]
    assert np.abs(small.astype(int) - frames).mean() < 6
    assert np.abs(small[5].astype(int) - frames[20]).mean() > 6  # the control: another frame
    first = path.read_bytes()
    write_mp4(path, frames, fps=12.5)
    assert path.read_bytes() == first
    with pytest.raises(ValueError, match="fps 0"):
        write_mp4(path, frames, fps=0)


@pytest.mark.parametrize(("size", "stored"), [((301, 403), (302, 404)), ((300, 402), (300, 402))])
def test_large_and_odd_mp4s_stay_their_size(
    size: tuple[int, int], stored: tuple[int, int], tmp_path: Path
) -> None:
    pytest.importorskip("imageio_ffmpeg", reason="no mp4 without imageio-ffmpeg")
    import imageio.v3 as iio

    path = write_mp4(tmp_path / "a.mp4", np.full((3, *size, 3), 90, np.uint8))
    read = iio.imread(path, plugin="FFMPEG")
    assert read.shape == (3, *stored, 3)  # 4:2:0 needs even sides
    assert np.abs(read.astype(int) - 90).max() <= 3


def test_no_mp4_without_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert write_mp4(tmp_path / "a.mp4", moving_square(3)) is None
    assert not list(tmp_path.iterdir())
