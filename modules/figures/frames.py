"""psnr_per_frame.png: PSNR of each frame of a video, with pictures of the lowest stretches.

Legend: T frames, H, W height and width in pixels; pictures are uint8 RGB, PSNR is in dB.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from numpy.lib.stride_tricks import sliding_window_view

from modules.figures import style
from modules.figures.style import BLACK


class Stretch(NamedTuple):
    """Frames of low PSNR around a dip, as frame numbers (from 1); stop is exclusive."""

    start: int
    stop: int
    lowest: int  # the frame with the lowest PSNR in it


def lowest_stretches(psnr: np.ndarray, count: int = 3) -> list[Stretch]:
    """The lowest separate stretches of a curve, lowest first; at most `count`.

    psnr: (T-1,) in dB for frames 1 … T-1; values that are not finite count as missing. A stretch
    lies around a local minimum of the curve, smoothed by a moving average as wide: a twelfth of the
    curve, 1 to 15 frames (wider, it would hide a short, deep dip). The centres of two are at least
    twice that width apart, so that the curve rises visibly between them.
    """
    n = len(psnr)
    width = min(15, max(1, n // 12)) | 1
    half = width // 2
    psnr = np.where(np.isfinite(psnr), psnr, np.nan)
    windows = sliding_window_view(np.pad(psnr, half, constant_values=np.nan), width)  # (n, width)
    known = np.isfinite(windows).sum(axis=1)
    smooth = np.nansum(windows, axis=1) / np.maximum(known, 1)
    # Rounded so that equal frames stay equal whatever the order of summation.
    smooth = np.where(2 * known > width, smooth, np.inf).round(6)
    before, after = np.r_[np.inf, smooth[:-1]], np.r_[smooth[1:], np.inf]
    minima = np.flatnonzero(np.isfinite(smooth) & (smooth < before) & (smooth <= after))
    chosen: list[int] = []
    for centre in minima[np.argsort(smooth[minima], kind="stable")].tolist():
        if all(abs(centre - other) >= 2 * width for other in chosen):
            chosen.append(centre)
    starts = [centre - half + 1 for centre in chosen[:count]]  # frames are counted from 1
    lowest = [start + int(np.nanargmin(windows[start + half - 1])) for start in starts]
    ends = [min(n, start + width - 1) + 1 for start in starts]
    return [Stretch(max(1, s), e, at) for s, e, at in zip(starts, ends, lowest, strict=True)]


def psnr_per_frame_figure(
    psnr: np.ndarray,
    *,
    title: str = "",
    pictures: dict[str, np.ndarray] | None = None,
    **regions: np.ndarray,
) -> Figure:
    """PSNR over frame index; below it a row of pictures for each of the lowest stretches.

    psnr: (T-1,) in dB, for frames 1 … T-1; NaN where there is none
    pictures: (T, H, W, 3) uint8 each, index = frame number, under the names shown above them
    regions: (T-1,) each, the same for style.REGIONS; drawn, faintly, where most of it lies within
    the axis of psnr, or only fragments would be seen at its edges
    """
    frames, known = np.arange(1, len(psnr) + 1), np.isfinite(psnr)
    # A mean over the rest must not be taken for the average.
    missing = f"no average: {(~known).sum()} of {len(psnr)} frames have no value (×)"
    average = f"average {psnr.mean():.2f} dB (dashed)" if known.all() else missing
    stretches, pictures = lowest_stretches(psnr), pictures or {}
    rows = len(stretches) if pictures else 0
    ratio = max((video.shape[1] / video.shape[2] for video in pictures.values()), default=0.0)
    high = 2.3 * min(ratio, 2.0) + 0.1  # of a row of pictures, cm
    heights = [6.0, rows * max(high, 1.1) + 0.4][: 1 + bool(rows)]
    text = f"PSNR per frame, {average}\n{title}".strip()
    figure = style.new_figure(1.0 + sum(heights), text)
    parts = figure.subfigures(len(heights), squeeze=False, height_ratios=heights).ravel()
    axes = parts[0].subplots()
    axes.set(xlabel="frame", ylabel="PSNR (dB)")
    style.add_line(axes, frames, psnr, "psnr", "whole frame", color=style.BLUE, zorder=3)
    style.number_axis(axes)
    axes.margins(y=0.12)  # room for the stretches' numbers
    axes.autoscale_view()
    axes.set_autoscaley_on(False)  # the curve of the whole frame decides
    low, top = axes.get_ylim()
    for name, values in regions.items():
        fits = (low <= values) & (values <= top)  # NaN does not
        if 2 * fits.sum() > np.isfinite(values).sum():
            near, look = style.REGIONS[name]
            faint = {**look, "lw": 0.7, "alpha": 0.5}
            style.add_line(axes, frames, values, name, near, **faint)
    if known.all():
        axes.axhline(psnr.mean(), gid="average", color=BLACK, ls=style.DASHED, lw=0.8)
    else:
        style.add_marks(axes, frames[~known], 0.03, "missing", marker="x", ms=3.5)
    for number, (start, stop, lowest) in enumerate(stretches, 1):
        label = "lowest stretches, 1 the lowest" if number == 1 else None
        band = {"color": style.BAND, "lw": 0, "zorder": 0, "gid": "stretch", "label": label}
        axes.axvspan(start - 0.5, stop - 0.5, **band)
        mark: style.Look = {"marker": "v", "ms": 4.5, "color": style.VERMILLION, "mew": 0.5}
        style.add_marks(axes, [lowest], [psnr[lowest - 1]], "lowest", mec=BLACK, **mark)
        place = {"transform": axes.get_xaxis_transform(), "ha": "center", "va": "top"}
        axes.text((start + stop - 1) / 2, 1.0, str(number), weight="bold", **place)
    style.whole_number_axis(axes, 1, len(psnr))
    style.legend_above(parts[0], axes)
    if not rows:
        return figure
    grid = parts[1].subplots(rows, len(pictures), squeeze=False)
    for row, (number, stretch) in zip(grid, enumerate(stretches, 1), strict=True):
        text = f"{number}: frame {stretch.lowest}\n{psnr[stretch.lowest - 1]:.2f} dB"
        row[0].set_ylabel(text, rotation=0, ha="right", va="center", fontsize=7)
        for shown, (name, video) in zip(row, pictures.items(), strict=True):
            shown.imshow(video[stretch.lowest])
            shown.set(xticks=[], yticks=[], gid=f"{name} {stretch.lowest}")
            shown.spines[:].set(visible=True, linewidth=0.4, color=style.GREY)
            if number == 1:
                shown.set_title(name)
    return figure


def draw_psnr_per_frame(
    out: Path,
    psnr: np.ndarray,
    *,
    labels: np.ndarray,
    truth: np.ndarray,
    prediction: np.ndarray,
    **more: Any,
) -> Path:
    """Draw `psnr_per_frame_figure` into the PNG `out`; labels, truth, prediction: its pictures."""
    pictures = {"label": labels, "truth": truth, "prediction": prediction}
    return style.save(psnr_per_frame_figure(psnr, pictures=pictures, **more), out)
