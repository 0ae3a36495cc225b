"""The figures of one run: curves.png, latent.png and regions.png over its epochs, and
psnr_per_frame.png over the frames of its best validation.

Legend: T frames, H, W height and width in pixels; pictures are uint8 RGB, PSNR is in dB.
"""

import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.lib.stride_tricks import sliding_window_view

from modules.diagnosis import diagnose, known_baselines
from modules.figures import style
from modules.figures.style import BLACK, BLUE, DASHED, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILLION
from modules.runlog import Run, lineage, load_run

Curve = tuple[str, str | None, style.Look]  # column of metrics.csv, label and look

VALIDATION: style.Look = {"color": VERMILLION, "ls": DASHED, "marker": "s"}


def curves_figure(run: Run) -> Figure:
    """curves.png in four quadrants: PSNR, loss; β and teacher forcing, learning rate."""
    parts = lineage(run)
    shift = int(parts[-1].epochs[0] - run.epochs[0])
    figure = style.new_figure(12.0, style.shorten(run.name, 90), width=style.PAGE)
    quadrants = figure.subfigures(2, 2, squeeze=False, height_ratios=(4, 3)).ravel()
    psnr, loss, forcing, rate = panels = [quadrant.subplots() for quadrant in quadrants]
    training: Curve = ("train_psnr", "training", {"color": BLUE})
    add_curves(psnr, "PSNR (dB)", parts, [training, ("val_psnr", "validation", VALIDATION)])
    losses: list[Curve] = [
        ("train_loss", "training, MSE + β·KL", {"color": BLUE}),
        ("train_mse", "training, MSE", {"color": SKY, "ls": style.DASH_DOT, "marker": "^"}),
        ("val_loss", "validation, MSE", VALIDATION),
    ]
    add_curves(loss, "loss (pixels 0 to 1)", parts, losses)
    twin = forcing_panel(forcing, parts)
    rate_panel(rate, parts)
    for part in parts[1:]:
        for axes in panels:
            axes.axvline(part.epochs[0] - 0.5, color=GREY, lw=0.8, gid="took over")

    if (best := run.best()) is not None:
        epoch, value = run.epochs[best], run.metrics["val_psnr"][best]
        text = f"best {value:.2f} dB, epoch {epoch + shift}" + (f" (own {epoch})" if shift else "")
        star = {"marker": "*", "ms": 9, "color": ORANGE, "mec": BLACK, "mew": 0.6, "zorder": 5}
        style.add_marks(psnr, [epoch + shift], [value], "best", text, **star)
    style.add_best_baseline(psnr, known_baselines(run))
    if resumed := run.config.get("resumed_at"):
        at, text = np.array(resumed) + shift, "the run was resumed"
        style.add_marks(rate, at, 0.03, "resumed", text, marker="|", ms=6)
    skipped = run.metrics["skipped"]
    if (bad := skipped > 0).any():
        text = f"sequences skipped ({int(skipped[bad].sum())})"
        # On the upper edge, since the curves end low.
        look = {"marker": "x", "ms": 3.5, "clip_on": False}
        style.add_marks(loss, run.epochs[bad] + shift, 1.0, "skipped", text, **look)

    style.number_axis(psnr)
    style.number_axis(loss, column(parts, "train_loss", "train_mse", "val_loss"))
    epoch_axis(panels, parts)
    for quadrant, axes in zip(quadrants, panels, strict=True):
        beside = (forcing, twin) if axes is forcing else (axes,)
        style.legend_above(quadrant, *beside, ncols=1 + len(beside))
    if found := [*diagnose(run).values()]:  # the others are in warnings.txt
        look = {"color": VERMILLION, "fontsize": 7.5, "x": 0.01, "ha": "left", "gid": "warning"}
        figure.supxlabel(textwrap.fill(found[0], 120), **look)
    return figure


def column(parts: Sequence[Run], *names: str) -> np.ndarray:
    """The columns of all parts of a lineage, one after another."""
    return np.concatenate([part.metrics[name] for name in names for part in parts])


def forcing_panel(axes: Axes, parts: Sequence[Run]) -> Axes:
    """β, when teacher forcing was on, and its ratio in axes of its own, which are returned."""
    twin = axes.twinx()
    twin.grid(visible=False)
    twin.spines["right"].set_visible(True)
    add_curves(axes, "β (KL weight)", parts, [("beta", "β", {"color": GREEN})])
    look: style.Look = {"color": PURPLE, "ls": DASHED, "marker": "s"}
    add_curves(twin, "TF ratio (0 to 1)", parts, [("tfr", "teacher forcing (TF) ratio", look)])
    for part in parts:
        # With rollouts teacher forcing is drawn for each step, else once for an epoch.
        by_step = part.options.get("rollout_every")
        name, label = ("tfr", "TF, fraction of steps") if by_step else ("tf_active", "TF on")
        own = label if part is parts[-1] else None
        style.add_teacher_forcing(axes, part.metrics["epoch"], part.metrics[name], own)
    style.axis_from_zero(axes, column(parts, "beta"))
    style.axis_from_zero(twin, np.ones(1))
    return twin


def rate_panel(axes: Axes, parts: Sequence[Run]) -> None:
    """The learning rate."""
    look: style.Look = {"color": BLACK, "drawstyle": "steps-mid"}
    add_curves(axes, "learning rate", parts, [("lr", "learning rate", look)])
    style.rate_axis(axes, column(parts, "lr"))


def add_curves(axes: Axes, unit: str, parts: Sequence[Run], curves: Sequence[Curve]) -> None:
    """The columns of metrics.csv as lines; those of the parent runs are lighter."""
    axes.set_ylabel(unit)
    points = sum(len(part.epochs) for part in parts)
    for part in parts:
        x = part.metrics["epoch"]
        for name, label, look in curves:
            tone: style.Look = {"label": label} if part is parts[-1] else {"alpha": 0.45}
            style.add_line(axes, x, part.metrics[name], name, points=points, **look, **tone)


def epoch_axis(panels: Sequence[Axes], parts: Sequence[Run]) -> None:
    """The axes of epochs: their range, and the names of the parent runs."""
    *parents, run = parts
    text = "epoch"
    if parents:
        names = " → ".join(style.shorten(part.name, 30 // len(parents)) for part in parents)
        last = parents[-1].epochs[-1]
        text = f"epoch, continued from the parent run\n(lighter, to {last}: {names})"
    for axes in panels:
        style.whole_number_axis(axes, 0 if parents else run.epochs[0], run.epochs[-1])
        axes.set_xlabel(style.drawable(text))


def latent_figure(run: Run) -> Figure:
    """latent.png: how much the latent carries, and the decoder's standard deviation.

    A latent in use has a KL of some nats and active dimensions; at 0 the posterior has collapsed
    and the model predicts a single future. sigma: see losses.implied_sigma().
    """
    parts = lineage(run)
    figure = style.new_figure(11.1, f"{style.shorten(run.name, 36)}: the latent")
    panels = figure.subplots(3, sharex=True)
    rows = (
        ("train_kl", "KL (nats per frame)", BLUE),
        ("active_dims", "active dimensions", GREEN),
        ("sigma", "decoder's σ", PURPLE),
    )
    for axes, (name, unit, colour) in zip(panels, rows, strict=True):
        add_curves(axes, unit, parts, [(name, None, {"color": colour})])
        style.number_axis(axes, column(parts, name))
    epoch_axis(panels[-1:], parts)
    return figure


def regions_figure(run: Run) -> Figure:
    """regions.png: validation PSNR near the skeleton and elsewhere."""
    figure, parts = style.new_figure(6.5), lineage(run)
    axes = figure.subplots()
    regions = [(f"val_psnr_{name}", *of_region) for name, of_region in style.REGIONS.items()]
    whole: Curve = ("val_psnr", "whole frame", VALIDATION)
    add_curves(axes, "validation PSNR (dB)", parts, [whole, *regions])
    style.number_axis(axes)
    epoch_axis([axes], parts)
    style.legend_above(figure, axes)
    return figure


# File → how it is drawn, and a column of metrics.csv without which there is nothing to be shown:
# runs of earlier versions lack some.
FIGURES: dict[str, tuple[Callable[[Run], Figure], str]] = {
    "curves.png": (curves_figure, "epoch"),
    "latent.png": (latent_figure, "sigma"),
    "regions.png": (regions_figure, "val_psnr_inside"),
}


def save_curves(run: Run, name: str) -> None:
    """Draw one of FIGURES into the run's folder. Raises UserError."""
    draw, needed = FIGURES[name]
    if np.isfinite(run.metrics[needed]).any():
        style.save(draw(run), run.folder / name)


def draw_curves(folder: Path) -> Path:
    """Draw all of FIGURES from a run's metrics.csv and config.json; returns the first one's path.

    Raises UserError if metrics.csv is missing, empty or invalid.
    """
    run = load_run(folder)
    for name in FIGURES:
        save_curves(run, name)
    return folder / "curves.png"


# ---------------------------------------------------------------- psnr_per_frame.png


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
    style.add_line(axes, frames, psnr, "psnr", "whole frame", color=BLUE, zorder=3)
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
        axes.axhline(psnr.mean(), gid="average", color=BLACK, ls=DASHED, lw=0.8)
    else:
        style.add_marks(axes, frames[~known], 0.03, "missing", marker="x", ms=3.5)
    for number, (start, stop, lowest) in enumerate(stretches, 1):
        label = "lowest stretches, 1 the lowest" if number == 1 else None
        band = {"color": style.BAND, "lw": 0, "zorder": 0, "gid": "stretch", "label": label}
        axes.axvspan(start - 0.5, stop - 0.5, **band)
        mark: style.Look = {"marker": "v", "ms": 4.5, "color": VERMILLION, "mew": 0.5}
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
            shown.spines[:].set(visible=True, linewidth=0.4, color=GREY)
            if number == 1:
                shown.set_title(name)
    return figure
