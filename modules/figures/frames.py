"""psnr_per_frame.png: PSNR of each frame of a video, with pictures of the lowest stretches.

Legend: T frames, H, W height and width in pixels; pictures are uint8 RGB, PSNR is in dB.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from modules.figures.media import check_videos
from modules.figures.runs import frames_of, load_run, validation_title
from modules.figures.style import (
    BAND,
    BLACK,
    BLUE,
    DASHED,
    GREY,
    REGIONS,
    VERMILLION,
    add_line,
    add_marks,
    legend_above,
    new_figure,
    number_axis,
    save,
    whole_number_axis,
)
from modules.runtime.errors import UserError


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
    title: str = "",
    pictures: dict[str, np.ndarray] | None = None,
) -> Figure:
    """PSNR over frame index; below it a row of pictures for each of the lowest stretches.

    psnr: (T-1,) in dB, for frames 1 … T-1; NaN where there is none
    inside, outside: (T-1,), the same near the skeleton and elsewhere
    title: whose PSNR it is
    pictures: (T, H, W, 3) uint8 each, index = frame number, under the names shown above them

    Raises ValueError for other shapes.
    """
    if psnr.ndim != 1 or len(psnr) < 1:
        raise ValueError(f"psnr must be one value for each frame 1 … T-1, got {psnr.shape}")
    pictures = check_videos(**(pictures or {}))
    if any(len(video) != len(psnr) + 1 for video in pictures.values()):
        raise ValueError(f"{len(psnr)} values of PSNR are for one frame more, frame 0 included")
    frames, known = np.arange(1, len(psnr) + 1), np.isfinite(psnr)
    # A mean over the rest must not be taken for the average.
    missing = f"no average: {(~known).sum()} of {len(psnr)} frames have no value (×)"
    average = f"average {psnr.mean():.2f} dB (dashed)" if known.all() else missing
    stretches = lowest_stretches(psnr)
    rows, columns = len(stretches) if pictures else 0, len(pictures)
    ratio = max((video.shape[1] / video.shape[2] for video in pictures.values()), default=0.0)
    high = 2.3 * min(ratio, 2.0) + 0.1  # of a row of pictures, cm
    below = rows * max(high, 1.1) + 0.4  # of all of them
    figure = new_figure(7.0 + below * (rows > 0), f"PSNR per frame, {average}\n{title}".strip())
    heights = (6.0, below) if rows else (6.0,)
    parts = figure.subfigures(len(heights), squeeze=False, height_ratios=heights).ravel()
    axes = parts[0].subplots()
    axes.set(xlabel="frame", ylabel="PSNR (dB)")
    add_line(axes, frames, psnr, "psnr", "whole frame", color=BLUE, zorder=3)
    number_axis(axes)
    axes.margins(y=0.12)  # room for the stretches' numbers
    axes.autoscale_view()
    axes.set_autoscaley_on(False)  # the curve of the whole frame decides
    for name, values in (("inside", inside), ("outside", outside)):
        if values is not None and np.isfinite(values).any():
            faint = {**REGIONS[name][1], "lw": 0.7, "alpha": 0.5}
            add_line(axes, frames, values, name, REGIONS[name][0], **faint)
    if known.all():
        look = {"color": BLACK, "ls": DASHED, "lw": 0.8}
        axes.axhline(psnr.mean(), gid="average", **look)
    for number, (start, stop, lowest) in enumerate(stretches, 1):
        label = "lowest stretches, 1 the lowest" if number == 1 else None
        look = {"color": BAND, "lw": 0, "zorder": 0, "gid": "stretch", "label": label}
        axes.axvspan(start - 0.5, stop - 0.5, **look)
        look = {"marker": "v", "ms": 4.5, "color": VERMILLION, "mec": BLACK, "mew": 0.5}
        add_marks(axes, [lowest], [psnr[lowest - 1]], "lowest", **look)
        edge = axes.get_xaxis_transform()
        look = {"weight": "bold", "ha": "center", "va": "top"}
        axes.text((start + stop - 1) / 2, 1.0, str(number), transform=edge, **look)
    if not known.all():
        add_marks(axes, frames[~known], 0.03, "missing", marker="x", ms=3.5)
    whole_number_axis(axes, 1, len(psnr))
    legend_above(parts[0], axes)
    if not rows:
        return figure
    grid = parts[1].subplots(rows, columns, squeeze=False)
    for row, (number, stretch) in zip(grid, enumerate(stretches, 1), strict=True):
        text = f"{number}: frame {stretch.lowest}\n{psnr[stretch.lowest - 1]:.2f} dB"
        row[0].set_ylabel(text, rotation=0, ha="right", va="center", fontsize=7)
        for shown, (name, video) in zip(row, pictures.items(), strict=True):
            shown.imshow(video[stretch.lowest])
            shown.set(xticks=[], yticks=[], gid=f"{name} {stretch.lowest}")
            shown.spines[:].set(visible=True, linewidth=0.4, color=GREY)
            if number == 1:
                shown.set_title(name)
    return figure


def draw_psnr_per_frame(
    out: Path,
    psnr: np.ndarray,
    *,
    labels: np.ndarray | None = None,
    truth: np.ndarray | None = None,
    prediction: np.ndarray | None = None,
    **more: Any,
) -> Path:
    """Draw `psnr_per_frame_figure` into the PNG `out`; more: its other arguments.

    labels, truth, prediction: (T, H, W, 3) uint8; those that are given are its pictures.
    """
    pictures = check_videos(label=labels, truth=truth, prediction=prediction)
    return save(psnr_per_frame_figure(psnr, pictures=pictures, **more), out)


def redraw_frames(folder: Path) -> Path:
    """Draw RUN/psnr_per_frame_curve.png from RUN/psnr_per_frame.csv; returns its path.

    A separate file: the pictures in psnr_per_frame.png cannot be redrawn from the run's files. The
    epoch is known where RUN/metrics.csv has the same average for it. Raises UserError.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder; give the --save_root of a run")
    table = frames_of(folder)
    if table is None:
        raise UserError(f"{folder / 'psnr_per_frame.csv'}: missing: no validation has ended yet")
    if table.frame.tolist() != list(range(1, len(table.frame) + 1)):
        raise UserError(f"{folder / 'psnr_per_frame.csv'}: its frames are not 1, 2, 3, …")
    run = load_run(folder) if (folder / "metrics.csv").is_file() else None
    best = run.best() if run and run.shows_best(table) else None
    epoch = None if run is None or best is None else int(run.epochs[best])
    return draw_psnr_per_frame(
        folder / "psnr_per_frame_curve.png",
        table.psnr,
        inside=table.inside,
        outside=table.outside,
        title=validation_title(epoch),
    )
