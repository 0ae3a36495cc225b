"""Videos to look at: GIFs, MP4s, and stills of a few frames.

A GIF's palette costs quality, so scores come from tensors and PNGs.

Legend: T frames, H, W height and width in pixels; videos are (T, H, W, 3) uint8 RGB.
"""

import importlib.util
import io
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from functools import partial
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from modules.figures import style

VIEWING_HEIGHT = 128  # about how high a small frame is shown, pixels
FILM_WIDTH = 512  # pixels that a frame is at least wide in a film
SEAM = 4  # white pixels between the pictures of a film
STILL = 4  # of 255; with 8 the wall showed the outlines of where somebody had been
GREYS = 8  # first entries of a GIF's palette, for captions


def enlarged(pictures: np.ndarray) -> np.ndarray:
    """(N, H, W, 3), each pixel of small ones a square, so that they are about 128 pixels high."""
    scale = max(1, round(VIEWING_HEIGHT / pictures.shape[1]))
    return pictures.repeat(scale, axis=1).repeat(scale, axis=2)


# ---------------------------------------------------------------- GIF


def colours_of(video: np.ndarray, count: int) -> np.ndarray:
    """At most `count` colours, (count, 3) uint8, for all frames together.

    An octree leaves the few bright pixels of a label colours of their own.
    """
    sample = video[np.unique(np.linspace(0, len(video) - 1, 64).round().astype(int))]
    image = Image.fromarray(sample.reshape(-1, sample.shape[2], 3))
    palette = image.quantize(count, method=Image.Quantize.FASTOCTREE).getpalette()
    return np.array(palette, np.uint8).reshape(-1, 3)[:count]


def palette_of(labels: np.ndarray, *videos: np.ndarray) -> np.ndarray:
    """256 colours, (256, 3) uint8: greys for captions, then the labels' and the other videos'."""
    greys = np.linspace(0, 255, GREYS).round().astype(np.uint8)[:, None].repeat(3, axis=1)
    # The labels' few bright colours get entries of their own: by area they would get none.
    images = np.concatenate(videos)
    return np.concatenate([greys, colours_of(labels, 48), colours_of(images, 200)])


def to_palette(frames: Iterable[np.ndarray], palette: np.ndarray) -> Iterator[Image.Image]:
    """Frames (H, W, 3) with the palette's nearest colours.

    A pixel keeps its colour while that is within STILL levels of its own: noise is not stored.
    """
    table = Image.new("P", (1, 1))
    table.putpalette(palette.tobytes())
    before: np.ndarray | None = None
    for frame in frames:
        if before is not None:
            apart = np.maximum(frame, before) - np.minimum(frame, before) <= STILL
            near = apart[..., 0] & apart[..., 1] & apart[..., 2]  # faster than .all(axis=-1)
            frame = np.where(near[..., None], before, frame)
        before = frame
        # No dithering: it flickers and doubles the file.
        yield Image.fromarray(frame).quantize(palette=table, dither=Image.Dither.NONE)


def save_gif(path: Path, frames: Iterable[np.ndarray], palette: np.ndarray, fps: float) -> Path:
    """Write frames, (H, W, 3) uint8 each, as a GIF that loops, whole or not at all.

    Equal neighbouring frames become one that lasts as long as all of them.
    """
    first, *others = to_palette(frames, palette)
    # GIF counts hundredths of a second, and players take 0 and 1 for 10. The durations differ by
    # one of them, so that the whole lasts as long as it should.
    ends = np.round(np.arange(len(others) + 2) * 100 / fps).astype(int)
    durations = (10 * np.diff(ends)).tolist()  # ms
    save = partial(first.save, format="GIF", save_all=True, append_images=others, loop=0)
    # Optimised: pixels that stay are not written again.
    whole = partial(save, duration=durations if others else durations[0], optimize=True)
    return style.write_whole(path, whole)


def write_gif(path: Path, frames: np.ndarray, *, fps: float) -> Path:
    """Write one sequence, (T, H, W, 3) uint8, as a GIF of 256 colours; small ones enlarged."""
    return save_gif(path, enlarged(frames), colours_of(frames, 256), fps)


def write_comparison_gif(
    path: Path,
    labels: np.ndarray,
    truth: np.ndarray,
    prediction: np.ndarray,
    psnr: np.ndarray,
    *,
    title: str,
) -> Path:
    """Write label | truth | prediction side by side, (T, H, W, 3) uint8 each, 15 frames a second.

    psnr: in dB for frames 1, 2, …, shown above the prediction
    """

    def pages() -> Iterator[np.ndarray]:
        for t, pictures in enumerate(zip(labels, truth, prediction, strict=True)):
            captions = f"frame {t}", "truth", "prediction" + (f" {psnr[t - 1]:.1f} dB" if t else "")
            yield np.asarray(picture_grid(np.stack(pictures), captions, title, columns=3))

    return save_gif(path, pages(), palette_of(labels, truth, prediction), 15)


# ---------------------------------------------------------------- films


def beside(*videos: np.ndarray) -> Iterator[np.ndarray]:
    """Frames (H', W', 3) uint8 of videos (T, H, W, 3) side by side, a white seam between them.

    Each is enlarged by a smooth filter until it is FILM_WIDTH pixels wide.
    """
    _, height, width, _ = videos[0].shape
    scale = max(1, -(-FILM_WIDTH // width))
    seam = np.full((height * scale, SEAM, 3), 255, np.uint8)
    for pictures in zip(*videos, strict=True):
        row: list[np.ndarray] = []
        for picture in pictures:
            size = (width * scale, height * scale)
            smooth = Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC)
            row += [seam, np.asarray(smooth)]
        yield np.concatenate(row[1:], axis=1)


def write_film(
    path: Path, labels: np.ndarray, truth: np.ndarray | None, made: np.ndarray, *, fps: float
) -> None:
    """Write label | truth | generated side by side as path.gif, and path.mp4 where PyAV is.

    All (T, H, W, 3) uint8; without a truth label | generated. The MP4 (H.264, 4:2:0) is one that
    every player shows. Raises UserError.
    """
    videos = [labels, made] if truth is None else [labels, truth, made]
    frames = partial(beside, *videos)
    save_gif(path.with_suffix(".gif"), frames(), palette_of(*videos), min(fps, 50))
    if importlib.util.find_spec("av") is None:
        return
    import av

    def encode(buffer: io.BytesIO) -> None:
        with av.open(buffer, "w", format="mp4") as file:
            rate = Fraction(fps).limit_denominator(1001)
            # The encoder's tree of macroblocks gives other bytes each time on AVX-512.
            how = {"crf": "16", "preset": "veryfast", "x264-params": "mbtree=0"}
            stream = file.add_stream("libx264", rate, options=how)
            stream.pix_fmt = "yuv420p"
            for t, frame in enumerate(frames()):
                height, width, _ = frame.shape
                odd = ((0, height % 2), (0, width % 2), (0, 0))  # 4:2:0: a colour for 2 x 2 pixels
                whole = np.pad(frame, odd, mode="edge")
                if not t:
                    stream.height, stream.width, _ = whole.shape
                file.mux(stream.encode(av.VideoFrame.from_ndarray(whole, format="rgb24")))
            file.mux(stream.encode())

    style.write_whole(path.with_suffix(".mp4"), encode)


# ---------------------------------------------------------------- stills


def picture_grid(
    pictures: np.ndarray,
    captions: Sequence[str],
    heading: str,
    *,
    columns: int,
    colours: Sequence[str] | None = None,
) -> Image.Image:
    """Pictures in rows, exact pixels, each with its caption above it, under a heading.

    pictures: (N, H, W, 3) uint8; captions, colours of the captions: (N,)
    """
    pictures, gap, line, top = enlarged(pictures), 8, 32, 48
    rows, (high, wide) = -(-len(pictures) // columns), pictures.shape[1:3]
    # matplotlib's own font, the same on every machine; a caption has some 20 characters.
    face = str(Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf"))
    small = ImageFont.truetype(face, max(9, min(22, wide // 12)))
    size = (columns * (wide + gap) + gap, top + rows * (high + line + gap))
    large = ImageFont.truetype(face, max(9, min(26, size[0] // max(24, len(heading) // 2 + 3))))
    grid = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(grid)
    draw.text((gap, top // 2), heading, "black", large, anchor="lm")
    for index, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        x = gap + index % columns * (wide + gap)
        y = top + index // columns * (high + line + gap)
        colour = colours[index] if colours else "black"
        draw.text((x, y + line // 2), caption, colour, small, anchor="lm")
        grid.paste(Image.fromarray(picture), (x, y + line))
    return grid


def write_sheet(
    path: Path,
    labels: np.ndarray,
    truth: np.ndarray,
    prediction: np.ndarray,
    psnr: np.ndarray,
    *,
    title: str,
) -> Path:
    """Write a still of up to 8 evenly spaced frames: rows label, truth and prediction.

    labels, truth, prediction: (T, H, W, 3) uint8; psnr: (T-1,) in dB for frames 1 … T-1, shown
    above the predictions
    """
    shown = np.unique(np.linspace(0, len(prediction) - 1, 8).round().astype(int))
    captions = [f"{t}: label" for t in shown] + ["truth"] * len(shown)
    captions += [f"{psnr[t - 1]:.2f} dB" if t else "given" for t in shown]
    pictures = np.concatenate([video[shown] for video in (labels, truth, prediction)])
    heading = f"{title}   Rows: label, truth, prediction with PSNR"
    grid = picture_grid(pictures, captions, heading, columns=len(shown))
    return style.write_whole(path, partial(grid.save, format="PNG"))
