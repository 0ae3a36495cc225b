"""GIFs of videos, alone or as label | truth | prediction.

They are for looking at: a palette costs quality, so scores come from tensors and PNGs.

Legend: T frames, H, W height and width in pixels; videos are (T, H, W, 3) uint8 RGB.
"""

import importlib.util
import tempfile
from pathlib import Path

import imageio.v3 as iio
import numpy as np
from PIL import Image, ImageDraw

from modules.figures.pictures import caption_font, check_videos, enlarge, viewing_scale
from modules.runtime.files import write_atomically

WHITE, KEEP = 7, 255  # palette indices of a GIF: after 7 greys; the pixel is unchanged


def common_palette(video: np.ndarray, colours: int) -> np.ndarray:
    """At most `colours` colours, (colours, 3) uint8, for all frames together (median cut)."""
    sample = video[np.unique(np.linspace(0, len(video) - 1, 64).round().astype(int))]
    image = Image.fromarray(sample.reshape(-1, sample.shape[2], 3)).quantize(colours)
    return np.array(image.getpalette(), np.uint8).reshape(-1, 3)[:colours]


def distinct(palette: np.ndarray) -> np.ndarray:
    """The palette, (colours, 3), without repetitions, in order."""
    return np.array(list(dict.fromkeys(map(tuple, palette.tolist()))), np.uint8)


def to_palette(video: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """(T, H, W, 3) → (T, H, W) uint8, indices of near colours; KEEP where the last one will do.

    A pixel keeps the colour it shows for as long as that is within 8 of 255 levels of the frame's
    own, so that the noise of a still background is not stored in every frame.
    """
    table = Image.new("P", (1, 1))
    table.putpalette(palette.tobytes())
    image = Image.fromarray(video.reshape(-1, video.shape[2], 3))
    # No dithering: it flickers and doubles the file.
    nearest = np.asarray(image.quantize(palette=table, dither=Image.Dither.NONE))
    indices = nearest.reshape(video.shape[:3]).copy()
    shown, levels = indices[0].copy(), palette.astype(np.int16)
    for t in range(1, len(video)):
        near = (np.abs(levels[shown] - video[t]) <= 8).all(axis=-1) | (indices[t] == shown)
        shown = np.where(near, shown, indices[t])
        indices[t][near] = KEEP
        # Pillow merges frames that are stored alike; one pixel drawn again keeps them apart.
        if (indices[t] == indices[t - 1]).all():
            indices[t, 0, 0] = shown[0, 0]
    return indices


def write_indexed_gif(path: Path, indices: np.ndarray, palette: np.ndarray, fps: float) -> Path:
    """Write (T, H, W) palette indices, KEEP for unchanged pixels, as a GIF that loops."""
    if not 0 < fps <= 50:
        raise ValueError(f"fps {fps}: a GIF shows more than 0 and at most 50 frames a second")
    # GIF counts hundredths of a second, and players take 0 and 1 for 10. The durations differ by
    # one of them, so that the whole lasts as long as it should.
    ends = np.round(np.arange(len(indices) + 1) * 100 / fps).astype(int)
    durations = (10 * np.diff(ends)).tolist()  # ms
    # Pillow requires that all entries of the table differ; the free ones are unused.
    used = {tuple(colour) for colour in palette.tolist()}
    free = ((r, 1, 1) for r in range(256) if (r, 1, 1) not in used)
    table = np.array([*palette.tolist(), *(next(free) for _ in range(KEEP + 1 - len(palette)))])
    data = iio.imwrite(
        "<bytes>",
        indices,
        extension=".gif",
        plugin="pillow",
        is_batch=True,
        duration=durations if len(durations) > 1 else durations[0],
        loop=0,
        palette=table.astype(np.uint8).tobytes(),
        transparency=KEEP,
        disposal=1,  # the next frame is drawn over this one
    )
    write_atomically(path, data)
    return path


def write_gif(path: Path, frames: np.ndarray, *, fps: float = 15, scale: int = 4) -> Path:
    """Write one sequence, (T, H, W, 3) uint8, as a GIF of (H·scale, W·scale) pixels.

    Every frame is in the file, equal ones too. Colours are reduced to 255 for the whole sequence,
    and a pixel keeps its colour while it is within 8 of 255 levels of the true one. Raises
    ValueError.
    """
    check_videos(frames=frames)
    if scale < 1:
        raise ValueError(f"scale {scale}: must be at least 1")
    palette = distinct(common_palette(frames, KEEP))
    return write_indexed_gif(path, enlarge(to_palette(frames, palette), scale), palette, fps)


LEAST_SIDE = 256  # pixels of an MP4's shorter side: players show smaller ones as a stamp


def write_mp4(path: Path, frames: np.ndarray, *, fps: float = 15) -> Path | None:
    """Write one sequence, (T, H, W, 3) uint8, as an MP4 that every player shows (H.264, 4:2:0).

    Pixels are enlarged by a whole factor. None without the package imageio-ffmpeg. Raises
    ValueError, and OSError when it cannot be written.
    """
    check_videos(frames=frames)
    if not 0 < fps < 1e4:
        raise ValueError(f"fps {fps}: must be above 0")
    if importlib.util.find_spec("imageio_ffmpeg") is None:
        return None
    scale = max(1, round(LEAST_SIDE / min(frames.shape[1:3])))
    large = enlarge(frames, scale)
    _, height, width, _ = large.shape
    odd = ((0, 0), (0, height % 2), (0, width % 2), (0, 0))  # 4:2:0 has a colour for 2 x 2 pixels
    large = np.pad(large, odd, mode="edge")
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "whole.mp4"
        # Bit-exact: no version numbers and dates, so that the same frames give the same file.
        exact = [
            "-fflags",
            "+bitexact",
            "-flags:v",
            "+bitexact",
            "-crf",
            "16",
            "-preset",
            "veryfast",
        ]
        iio.imwrite(
            whole,
            large,
            plugin="FFMPEG",
            fps=fps,
            codec="libx264",
            quality=None,
            macro_block_size=1,
            output_params=[*exact, "-crf", "16", "-preset", "veryfast"],
            ffmpeg_log_level="error",
        )
        write_atomically(path, whole.read_bytes())
    return path


def write_comparison_gif(
    path: Path,
    labels: np.ndarray,
    truth: np.ndarray | None,
    prediction: np.ndarray,
    *,
    fps: float = 15,
    scale: int | None = None,
) -> Path:
    """Write label | truth | prediction side by side (label | prediction without a truth).

    All (T, H, W, 3) uint8. Every frame is in the file, with its number above it. scale: whole
    factor of enlargement; None: about 128 pixels high. Colours are as in `write_gif`: 630 frames of
    32 × 64 take 2 to 3 MB. Raises ValueError.
    """
    videos = check_videos(label=labels, truth=truth, prediction=prediction)
    frames, height, width = prediction.shape[:3]
    scale = viewing_scale(height) if scale is None else scale
    if scale < 1:
        raise ValueError(f"scale {scale}: must be at least 1")
    # The labels' few bright colours get entries of their own: by area they would get none.
    greys = np.linspace(0, 255, WHITE + 1).round().astype(np.uint8)[:, None].repeat(3, axis=1)
    images = [video for name, video in videos.items() if name != "label"]
    others = common_palette(np.concatenate(images), 194)
    palette = distinct(np.concatenate([greys, common_palette(labels, 48), others]))

    gap, bar = 4, 18  # pixels
    panels = [enlarge(to_palette(video, palette), scale) for video in videos.values()]
    step = width * scale + gap
    canvas = np.full((frames, bar + height * scale, step * len(panels) - gap), KEEP, np.uint8)
    canvas[0] = WHITE
    for column, panel in enumerate(panels):
        canvas[:, bar:, column * step : column * step + width * scale] = panel
    font, before = caption_font(12), None
    for t in range(frames):
        strip = Image.new("L", (canvas.shape[2], bar), 255)
        draw = ImageDraw.Draw(strip)
        for column, name in enumerate(videos):
            caption = name if column else f"{t}: {name}"
            draw.text((column * step + 2, bar // 2), caption, fill=0, font=font, anchor="lm")
        text = np.asarray(strip) // 32  # one of the 8 greys
        canvas[t, :bar] = text if before is None else np.where(text == before, KEEP, text)
        before = text
    return write_indexed_gif(path, canvas, palette, fps)
