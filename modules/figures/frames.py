"""What shows single frames of a video: psnr_per_frame.png with the lowest ones, and val_sheet.png.

Legend: T frames, H, W height and width in pixels; pictures are uint8 RGB, PSNR is in dB.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image, ImageDraw

from modules.figures.pictures import (
    caption_font,
    check_videos,
    enlarge,
    viewing_scale,
    write_png,
)
from modules.figures.runs import frames_of
from modules.figures.style import (
    AXIS_TEXT,
    BAND,
    BLACK,
    BLUE,
    COLUMN,
    DASHED,
    DPI,
    TEXT,
    VERMILLION,
    add_line,
    add_marks,
    add_regions,
    arrange,
    new_figure,
    new_panel,
    number_axis,
    save,
    whole_number_axis,
)
from modules.runtime.errors import UserError

# ----------------------------------------------------------------------------------------
# psnr_per_frame.png


class Stretch(NamedTuple):
    """Frames of low PSNR around a dip, as frame numbers (from 1); stop is exclusive."""

    start: int
    stop: int
    lowest: int  # the frame with the lowest PSNR in it


def lowest_stretches(psnr: np.ndarray, count: int = 3) -> list[Stretch]:
    """The lowest separate stretches of a curve, lowest first; at most `count`.

    psnr: (T-1,) in dB for frames 1 … T-1; values that are not finite count as missing. The curve is
    smoothed by a moving average as wide as a stretch: a twelfth of the curve, 1 to 15 frames (a
    wider one would hide a short, deep dip). A stretch lies around a local minimum of it; the
    centres of two are at least twice that width apart, so that the curve rises visibly between
    them.
    """
    n = len(psnr)
    width = min(15, max(1, n // 12)) | 1
    kernel = np.ones(min(width, n))
    known = np.isfinite(psnr)
    psnr = np.where(known, psnr, np.inf)
    total = np.convolve(np.where(known, psnr, 0.0), kernel, mode="same")
    weight = np.convolve(known.astype(float), kernel, mode="same")
    # Rounded so that equal frames stay equal whatever the order of summation.
    smooth = np.full(n, np.inf)
    enough = 2 * weight >= np.convolve(np.ones(n), kernel, mode="same")
    np.divide(total, weight, out=smooth, where=enough & (weight > 0.5))
    smooth = np.round(smooth, 6)
    before, after = np.r_[np.inf, smooth[:-1]], np.r_[smooth[1:], np.inf]
    minima = np.flatnonzero(np.isfinite(smooth) & (smooth < before) & (smooth <= after))
    chosen: list[int] = []
    for centre in minima[np.argsort(smooth[minima], kind="stable")]:
        if len(chosen) < count and all(abs(centre - other) >= 2 * width for other in chosen):
            chosen.append(int(centre))
    half = width // 2
    stretches = []
    for centre in chosen:
        start, stop = max(0, centre - half), min(n, centre + half + 1)
        lowest = start + int(psnr[start:stop].argmin())
        stretches.append(Stretch(start + 1, stop + 1, lowest + 1))
    return stretches


def psnr_per_frame_figure(
    psnr: np.ndarray,
    *,
    inside: np.ndarray | None = None,
    outside: np.ndarray | None = None,
    title_prefix: str = "",
    pictures: dict[str, np.ndarray] | None = None,
) -> Figure:
    """PSNR over frame index; below it the rows of pictures for the lowest stretches.

    psnr, inside, outside: (T-1,); pictures: (T, H, W, 3) uint8 each, under the names shown above
    them
    """
    if psnr.ndim != 1 or len(psnr) < 1:
        raise ValueError(f"psnr must be one value for each frame 1 … T-1, got {psnr.shape}")
    pictures = check_videos(**(pictures or {}))
    if any(len(video) != len(psnr) + 1 for video in pictures.values()):
        raise ValueError(f"{len(psnr)} values of PSNR are for one frame more, frame 0 included")
    figure = new_figure()
    panel = new_panel(figure, "PSNR (dB)", height=4.0, xlabel="frame")
    frames, known = np.arange(1, len(psnr) + 1), np.isfinite(psnr)
    add_line(panel, frames, psnr, "psnr", color=BLUE)
    add_regions(panel, frames, {"inside": inside, "outside": outside})
    if known.all():
        look = {"color": BLACK, "ls": DASHED, "lw": 0.8}
        line = panel.axes.axhline(psnr.mean(), gid="average", label="average", **look)
        panel.handles.append(line)
        average = f"average {psnr.mean():.2f} dB"
    else:  # a mean over the rest must not be taken for the average
        average = f"no average:\n{(~known).sum()} of {len(psnr)} frames have no value"
        if known.any():
            average += f"; the others {psnr[known].mean():.2f} dB"
    stretches = lowest_stretches(psnr)
    for number, (start, stop, lowest) in enumerate(stretches, 1):
        band = panel.axes.axvspan(start - 0.5, stop - 0.5, color=BAND, lw=0, zorder=0)
        band.set_gid("stretch")
        look = {"marker": "v", "ms": 4.5, "color": VERMILLION, "mec": BLACK, "mew": 0.5}
        add_marks(panel, [lowest], [psnr[lowest - 1]], "lowest", **look)
        look = {"fontsize": AXIS_TEXT, "weight": "bold", "ha": "center", "va": "top"}
        upper = panel.axes.get_xaxis_transform()
        panel.axes.text((start + stop - 1) / 2, 1.0, str(number), transform=upper, **look)
    if stretches:
        noun = "lowest stretches, 1 the lowest" if len(stretches) > 1 else "lowest stretch"
        panel.handles.append(Patch(facecolor=BAND, label=noun))
    if not known.all():
        add_marks(panel, frames[~known], 0.03, "missing", "no value", marker="x", ms=3.5)
    number_axis(panel.axes)
    whole_number_axis(panel.axes, 1, len(psnr))
    low, high = panel.axes.get_ylim()
    panel.axes.set_ylim(low, high + 0.12 * (high - low))  # room for the stretches' numbers
    title = f"{title_prefix.strip()} PSNR per frame, {average}".strip()
    if not (pictures and stretches):
        arrange(figure, [panel], title=title)
        return figure

    # Pictures that are small enough are shown at a whole multiple of their pixels.
    room = 2.22  # cm, three of them side by side
    pixels_h, pixels_w = next(iter(pictures.values())).shape[1:3]
    scale = min(room * DPI / 2.54 / pixels_w, 2 * room * DPI / 2.54 / pixels_h)
    scale = float(int(scale)) if scale >= 1 else scale
    height, width = (pixels * scale * 2.54 / DPI for pixels in (pixels_h, pixels_w))  # cm
    row = max(height + 0.12, 1.05)
    below = 0.45 + row * len(stretches)
    total = arrange(figure, [panel], title=title, below=below)
    for number, stretch in enumerate(stretches):
        top = below - 0.45 - number * row  # cm above the figure's lower edge
        text = f"{number + 1}: frame\n{stretch.lowest}\n{psnr[stretch.lowest - 1]:.2f} dB"
        figure.text(0.2 / COLUMN, top / total, text, fontsize=TEXT, va="top")
        for column, (name, video) in enumerate(pictures.items()):
            x = 1.5 + column * (room + 0.1)
            if number == 0:
                figure.text(x / COLUMN, (top + 0.1) / total, name, fontsize=TEXT)
            box = (x / COLUMN, (top - height) / total, width / COLUMN, height / total)
            axes = figure.add_axes(box, gid=f"{name} {stretch.lowest}")
            how = "nearest" if scale >= 1 else "antialiased"
            axes.imshow(video[stretch.lowest], interpolation=how, aspect="auto")
            axes.set_axis_off()
    return figure


def draw_psnr_per_frame(
    out: Path,
    psnr: np.ndarray,
    *,
    inside: np.ndarray | None = None,
    outside: np.ndarray | None = None,
    title_prefix: str = "",
    labels: np.ndarray | None = None,
    truth: np.ndarray | None = None,
    prediction: np.ndarray | None = None,
) -> Path:
    """Draw the PSNR of every frame and the three lowest stretches into the PNG `out`.

    psnr: (T-1,) in dB, for frames 1 … T-1; NaN where there is none
    inside, outside: (T-1,), the same near the skeleton and elsewhere
    labels, truth, prediction: (T, H, W, 3) uint8, index = frame number; those that are given are
    shown below the curve, at the lowest frame of each stretch

    Raises ValueError for other shapes or types.
    """
    pictures = check_videos(label=labels, truth=truth, prediction=prediction)
    figure = psnr_per_frame_figure(
        np.asarray(psnr, dtype=float),
        inside=inside,
        outside=outside,
        title_prefix=title_prefix,
        pictures=pictures,
    )
    return save(figure, out)


def redraw_frames(folder: Path) -> Path:
    """Draw RUN/psnr_per_frame_curve.png from RUN/psnr_per_frame.csv; returns its path.

    A separate file: the pictures in psnr_per_frame.png cannot be redrawn from the run's files.
    Raises UserError.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder; give the --save_root of a run")
    table = frames_of(folder)
    if table is None:
        raise UserError(f"{folder / 'psnr_per_frame.csv'}: missing: no validation has ended yet")
    if table.frame.tolist() != list(range(1, len(table.frame) + 1)):
        raise UserError(f"{folder / 'psnr_per_frame.csv'}: its frames are not 1, 2, 3, …")
    return draw_psnr_per_frame(
        folder / "psnr_per_frame_curve.png",
        table.psnr,
        inside=table.inside,
        outside=table.outside,
        title_prefix="Validation",
    )


# ----------------------------------------------------------------------------------------
# val_sheet.png


def write_sheet(
    path: Path,
    labels: np.ndarray,
    truth: np.ndarray | None,
    prediction: np.ndarray,
    psnr: np.ndarray | None = None,
    *,
    columns: int = 8,
) -> Path:
    """Write a still of `columns` evenly spaced frames: rows label, truth and prediction.

    labels, truth, prediction: (T, H, W, 3) uint8; psnr: (T-1,) in dB for frames 1 … T-1, shown
    below. Frames are enlarged to about 128 pixels high, every pixel a square. Raises ValueError.
    """
    videos = check_videos(label=labels, truth=truth, prediction=prediction)
    frames, height, width = prediction.shape[:3]
    if columns < 1:
        raise ValueError(f"columns {columns}: must be at least 1")
    if psnr is not None and np.shape(psnr) != (frames - 1,):
        raise ValueError(f"psnr has shape {np.shape(psnr)}, for {frames} frames ({frames - 1},)")
    shown = np.unique(np.linspace(0, frames - 1, columns).round().astype(int))
    scale, gap = viewing_scale(height), 6
    high, wide = height * scale, width * scale
    # 7 pt on a page 17 cm wide: a 69th of the width, but no wider than its picture.
    size = max(11, min((wide * len(shown)) // 60, wide // 5))
    font, line = caption_font(size), round(size * 1.5)
    left = round(max(font.getlength(name) for name in videos) + 2 * gap)
    rows = len(videos)
    sheet_size = (left + (wide + gap) * len(shown), line + (high + gap) * rows + line + gap)
    sheet = Image.new("RGB", sheet_size, "white")
    draw = ImageDraw.Draw(sheet)
    for row, (name, video) in enumerate(videos.items()):
        y = line + row * (high + gap)
        draw.text((gap, y + high // 2), name, fill="black", font=font, anchor="lm")
        for column, picture in enumerate(enlarge(video[shown], scale)):
            sheet.paste(Image.fromarray(picture), (left + column * (wide + gap), y))
    for column, t in enumerate(shown):
        middle = left + column * (wide + gap) + wide // 2
        head = f"frame {t}" if font.getlength(f"frame {frames}") <= wide else str(t)
        draw.text((middle, line // 2), head, fill="black", font=font, anchor="mm")
        if psnr is not None:
            foot = f"{psnr[t - 1]:.2f} dB" if t else "given"
            draw.text((middle, sheet_size[1] - line // 2), foot, "black", font, anchor="mm")
    return write_png(path, sheet)
