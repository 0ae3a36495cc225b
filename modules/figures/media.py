"""Videos to look at: GIFs, MP4s, and stills of a few frames.

A GIF's palette costs quality, so scores come from tensors and PNGs.

Legend: T frames, H, W height and width in pixels; videos are (T, H, W, 3) uint8 RGB.
"""

import importlib.util
import io
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from modules.runtime.files import write_atomically

VIEWING_HEIGHT = 128  # about how high a small frame is shown, pixels
FILM_WIDTH = 512  # pixels that a frame is at least wide in a film
SEAM = 4  # white pixels between the pictures of a film
STILL = 4  # of 255; with 8 the wall showed the outlines of where somebody had been
SMOOTH = Image.Resampling.BICUBIC
GREYS = 8  # first entries of a GIF's palette, for captions


def check_videos(**videos: np.ndarray | None) -> dict[str, np.ndarray]:
    """The videos that are given, by name. ValueError unless all are (T, H, W, 3) uint8, of one
    shape without a zero."""
    given = {name: video for name, video in videos.items() if video is not None}
    kinds = {(*video.shape, str(video.dtype)) for video in given.values()}
    if len(kinds) > 1 or not all(k[3:] == (3, "uint8") and all(k[:3]) for k in kinds):
        found = ", ".join(f"{name} {video.shape} {video.dtype}" for name, video in given.items())
        raise ValueError(f"must be (T, H, W, 3) uint8 and of one shape: {found}")
    return given


def viewing_scale(height: int) -> int:
    """Whole factor that makes a small frame about 128 pixels high; 1 for larger ones."""
    return max(1, round(VIEWING_HEIGHT / height))


def enlarge(pictures: np.ndarray, scale: int) -> np.ndarray:
    """(T, H, W, …) → (T, H·scale, W·scale, …): every pixel a square of its own (nearest)."""
    return pictures.repeat(scale, axis=1).repeat(scale, axis=2)


def caption_font(size: int) -> ImageFont.FreeTypeFont:
    """matplotlib's own DejaVu Sans: the same on every machine."""
    path = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
    return ImageFont.truetype(str(path), size)


# ---------------------------------------------------------------- GIF


def colours_of(video: np.ndarray, count: int) -> np.ndarray:
    """At most `count` colours, (count, 3) uint8, for all frames together.

    An octree leaves the few bright pixels of a label colours of their own.
    """
    sample = video[np.unique(np.linspace(0, len(video) - 1, 64).round().astype(int))]
    image = Image.fromarray(sample.reshape(-1, sample.shape[2], 3))
    palette = image.quantize(count, method=Image.Quantize.FASTOCTREE).getpalette()
    return np.array(palette, np.uint8).reshape(-1, 3)[:count]


def palette_of(videos: dict[str, np.ndarray]) -> np.ndarray:
    """256 colours, (256, 3) uint8: greys for captions, then the labels' and the other videos'."""
    greys = np.linspace(0, 255, GREYS).round().astype(np.uint8)[:, None].repeat(3, axis=1)
    # The labels' few bright colours get entries of their own: by area they would get none.
    images = np.concatenate([video for name, video in videos.items() if name != "label"])
    return np.concatenate([greys, colours_of(videos["label"], 48), colours_of(images, 200)])


def to_palette(frames: Iterable[np.ndarray], palette: np.ndarray) -> Iterator[np.ndarray]:
    """(H, W, 3) → (H, W) uint8 each, indices of near colours.

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
        indices = Image.fromarray(frame).quantize(palette=table, dither=Image.Dither.NONE)
        yield np.asarray(indices)


def save_gif(path: Path, frames: Iterable[np.ndarray], palette: np.ndarray, fps: float) -> Path:
    """Write (H, W) palette indices each as a GIF that loops, whole or not at all."""
    images = [Image.fromarray(frame) for frame in frames]
    for image in images:
        image.putpalette(palette.tobytes())
    # GIF counts hundredths of a second, and players take 0 and 1 for 10. The durations differ by
    # one of them, so that the whole lasts as long as it should.
    ends = np.round(np.arange(len(images) + 1) * 100 / fps).astype(int)
    durations = (10 * np.diff(ends)).tolist()  # ms
    buffer = io.BytesIO()
    images[0].save(
        buffer,
        format="GIF",
        save_all=True,
        append_images=images[1:],
        duration=durations if len(images) > 1 else durations[0],
        loop=0,
        optimize=True,  # pixels that stay are not written again
    )
    write_atomically(path, buffer.getvalue())
    return path


def write_gif(path: Path, frames: np.ndarray, *, fps: float = 15) -> Path:
    """Write one sequence, (T, H, W, 3) uint8, as a GIF of 256 colours; small frames are enlarged.

    Equal neighbouring frames become one that lasts as long as all of them. Raises ValueError.
    """
    check_videos(frames=frames)
    palette = colours_of(frames, 256)
    indices = np.stack(list(to_palette(frames, palette)))
    return save_gif(path, enlarge(indices, viewing_scale(frames.shape[1])), palette, fps)


def write_comparison_gif(
    path: Path,
    labels: np.ndarray,
    truth: np.ndarray | None,
    prediction: np.ndarray,
    *,
    psnr: np.ndarray | None = None,
    title: str = "",
    fps: float = 15,
) -> Path:
    """Write label | truth | prediction side by side (label | prediction without a truth).

    All (T, H, W, 3) uint8; small frames are enlarged. psnr: (T-1,) in dB for frames 1 … T-1.
    Raises ValueError.
    """
    videos = check_videos(label=labels, truth=truth, prediction=prediction)
    scale = viewing_scale(prediction.shape[1])
    palette = palette_of(videos)
    white = ((0, 0), (0, 0), (0, 1), (0, 0))  # a column between the pictures
    panels = [np.pad(video, white, constant_values=255) for video in videos.values()]
    every = to_palette(np.concatenate(panels, axis=2)[:, :, :-1], palette)
    indices = np.stack(list(every))
    step, width = (prediction.shape[2] + 1) * scale, indices.shape[2] * scale
    small = caption_font(min(22, max(9, step // 12)))  # a caption has some 20 characters
    large = caption_font(min(22, max(9, width // max(24, len(title) // 2 + 3))))
    line = round(1.5 * max(small.size, large.size))
    frames = []
    for t, picture in enumerate(enlarge(indices, scale)):
        bar = Image.new("L", (width, 2 * line), 255)
        draw = ImageDraw.Draw(bar)
        draw.text((4, line // 2), title, 0, large, anchor="lm")
        captions = {"label": f"frame {t}", "truth": "truth", "prediction": "prediction"}
        if psnr is not None and t:
            captions["prediction"] = f"prediction {psnr[t - 1]:.1f} dB"
        for column, name in enumerate(videos):
            draw.text((column * step + 4, line * 3 // 2), captions[name], 0, small, anchor="lm")
        frames.append(np.concatenate([np.asarray(bar) // (256 // GREYS), picture]))
    return save_gif(path, np.stack(frames), palette, fps)


# ---------------------------------------------------------------- films


def write_mp4(path: Path, frames: Iterable[np.ndarray], *, fps: float = 15) -> Path | None:
    """Write frames, (H, W, 3) uint8 each, as an MP4 that every player shows (H.264, 4:2:0).

    None without the package av (PyAV). Raises UserError when it cannot be written.
    """
    if importlib.util.find_spec("av") is None:
        return None
    import av

    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as file:
        rate = Fraction(fps).limit_denominator(1001)
        stream = file.add_stream("libx264", rate, options={"crf": "16", "preset": "veryfast"})
        stream.pix_fmt = "yuv420p"
        for t, frame in enumerate(frames):
            height, width, _ = frame.shape
            if not t:
                stream.width, stream.height = width + width % 2, height + height % 2
            odd = ((0, height % 2), (0, width % 2), (0, 0))  # 4:2:0: a colour for 2 x 2 pixels
            whole = np.pad(frame, odd, mode="edge")
            file.mux(stream.encode(av.VideoFrame.from_ndarray(whole, format="rgb24")))
        file.mux(stream.encode())
    write_atomically(path, buffer.getvalue())
    return path


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
            row += [seam, np.asarray(Image.fromarray(picture).resize(size, SMOOTH))]
        yield np.concatenate(row[1:], axis=1)


def write_film(
    path: Path, labels: np.ndarray, truth: np.ndarray | None, made: np.ndarray, *, fps: float
) -> None:
    """Write label | truth | generated side by side as path.gif, and path.mp4 where PyAV is.

    All (T, H, W, 3) uint8; without a truth label | generated. Raises ValueError or UserError.
    """
    videos = check_videos(label=labels, truth=truth, generated=made)
    indices = to_palette(beside(*videos.values()), palette := palette_of(videos))
    save_gif(path.with_suffix(".gif"), indices, palette, min(fps, 50))
    write_mp4(path.with_suffix(".mp4"), beside(*videos.values()), fps=fps)


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
    scale, gap = viewing_scale(pictures.shape[1]), 8
    high, wide = pictures.shape[1] * scale, pictures.shape[2] * scale
    small = caption_font(max(12, min(22, wide // 9)))
    font, line, top = caption_font(max(14, min(26, wide * columns // 40))), 32, 48
    rows = -(-len(pictures) // columns)
    size = (columns * (wide + gap) + gap, top + rows * (high + line + gap))
    grid = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(grid)
    draw.text((gap, top // 2), heading, fill="black", font=font, anchor="lm")
    for index, picture in enumerate(enlarge(pictures, scale)):
        x = gap + index % columns * (wide + gap)
        y = top + index // columns * (high + line + gap)
        colour = colours[index] if colours else "black"
        draw.text((x, y + line // 2), captions[index], colour, small, anchor="lm")
        grid.paste(Image.fromarray(picture), (x, y + line))
    return grid


def write_png(path: Path, image: Image.Image) -> Path:
    """Write an image, whole or not at all. Raises UserError."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    write_atomically(path, buffer.getvalue())
    return path


def write_sheet(
    path: Path,
    labels: np.ndarray,
    truth: np.ndarray | None,
    prediction: np.ndarray,
    psnr: np.ndarray,
    *,
    title: str = "",
    columns: int = 8,
) -> Path:
    """Write a still of up to `columns` evenly spaced frames: rows label, truth and prediction.

    labels, truth, prediction: (T, H, W, 3) uint8; psnr: (T-1,) in dB for frames 1 … T-1, shown
    above the predictions. Raises ValueError.
    """
    videos = check_videos(label=labels, truth=truth, prediction=prediction)
    shown = np.unique(np.linspace(0, len(prediction) - 1, columns).round().astype(int))
    captions = [f"{t}: label" for t in shown]
    captions += ["truth" for _ in shown if truth is not None]
    captions += [f"{psnr[t - 1]:.2f} dB" if t else "given" for t in shown]
    pictures = np.concatenate([video[shown] for video in videos.values()])
    heading = f"{title}   Rows: {', '.join(videos)} with PSNR".strip()
    return write_png(path, picture_grid(pictures, captions, heading, columns=len(shown)))
