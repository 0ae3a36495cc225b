"""curves.png, latent.png and regions.png: what a run's metrics.csv shows over its epochs."""

import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from modules.figures import style
from modules.figures.runs import Run, Segment, lineage, load_run
from modules.figures.style import BLACK, BLUE, DASHED, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILLION
from modules.runlog import METRIC_COLUMNS

Curve = tuple[Axes, str, str | None, style.Look]  # its axes, column of metrics.csv, label and look

VALIDATION: style.Look = {"color": VERMILLION, "ls": DASHED, "marker": "s"}


def curves_figure(run: Run) -> Figure:
    """curves.png in four quadrants: PSNR, loss; β and teacher forcing, learning rate."""
    segments = lineage(run)
    table, shift = joined(segments), segments[-1].shift
    figure = style.new_figure(12.0, style.shorten(run.name, 90), width=style.PAGE)
    parts = figure.subfigures(2, 2, squeeze=False, height_ratios=(4, 3)).ravel()
    psnr, loss, forcing, rate = panels = [part.subplots() for part in parts]
    twin = forcing.twinx()
    twin.grid(visible=False)
    twin.spines["right"].set_visible(True)
    units = ("PSNR (dB)", "loss (pixels 0 to 1)", "β (KL weight)", "learning rate")
    for axes, unit in zip((*panels, twin), (*units, "TF ratio (0 to 1)"), strict=True):
        axes.set_ylabel(unit)

    ratio = {"color": PURPLE, "ls": DASHED, "marker": "s"}
    mse = {"color": SKY, "ls": style.DASH_DOT, "marker": "^"}
    curves: list[Curve] = [
        (psnr, "train_psnr", "training", {"color": BLUE}),
        (psnr, "val_psnr", "validation", VALIDATION),
        (loss, "train_loss", "training, MSE + β·KL", {"color": BLUE}),
        (loss, "train_mse", "training, MSE", mse),
        (loss, "val_loss", "validation, MSE", VALIDATION),
        (forcing, "beta", "β", {"color": GREEN}),
        (twin, "tfr", "teacher forcing (TF) ratio", ratio),
        (rate, "lr", "learning rate", {"color": BLACK, "drawstyle": "steps-mid"}),
    ]
    add_curves(segments, curves)
    for part in segments:
        # With rollouts teacher forcing is drawn for each step, else once for an epoch.
        by_step = part.run.options.get("rollout_every")
        name, label = ("tfr", "TF, fraction of steps") if by_step else ("tf_active", "TF on")
        x, forced = (part.run.metrics[column][: part.rows] for column in ("epoch", name))
        own = label if part.run is run else None
        style.add_teacher_forcing(forcing, x + part.shift, forced, own)
    for part in segments[1:]:
        for axes in panels:
            axes.axvline(part.shift - 0.5, color=GREY, lw=0.8, gid="took over")

    if (best := run.best()) is not None:
        epoch, value = run.epochs[best], run.metrics["val_psnr"][best]
        text = f"best {value:.2f} dB, epoch {epoch + shift}" + (f" (own {epoch})" if shift else "")
        star = {"marker": "*", "ms": 9, "color": ORANGE, "mec": BLACK, "mew": 0.6, "zorder": 5}
        style.add_marks(psnr, [epoch + shift], [value], "best", text, **star)
    style.add_best_baseline(psnr, run.config.get("baselines"))
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
    losses = [table[name] for name in ("train_loss", "train_mse", "val_loss")]
    style.number_axis(loss, np.concatenate(losses))
    style.axis_from_zero(forcing, table["beta"])
    style.axis_from_zero(twin, np.ones(1))
    style.rate_axis(rate, table["lr"])
    epoch_axis(panels, segments)
    for quadrant, axes in zip(parts, panels, strict=True):
        shown = (forcing, twin) if axes is forcing else (axes,)
        style.legend_above(quadrant, *shown, ncols=1 + len(shown))
    if found := run.findings():  # the others are in warnings.txt
        look = {"color": VERMILLION, "fontsize": 7.5, "x": 0.01, "ha": "left", "gid": "warning"}
        figure.supxlabel(textwrap.fill(found[0], 120), **look)
    return figure


def joined(segments: Sequence[Segment]) -> dict[str, np.ndarray]:
    """The columns of all parts of a lineage, one after another."""
    parts = {n: [part.run.metrics[n][: part.rows] for part in segments] for n in METRIC_COLUMNS}
    return {name: np.concatenate(values) for name, values in parts.items()}


def add_curves(segments: Sequence[Segment], curves: Sequence[Curve]) -> None:
    """The columns of metrics.csv as lines; those of the parent runs are lighter."""
    points = sum(part.rows for part in segments)
    for part in segments:
        x = part.run.metrics["epoch"][: part.rows] + part.shift
        for axes, name, label, look in curves:
            tone: style.Look = {"label": label} if part is segments[-1] else {"alpha": 0.45}
            y = part.run.metrics[name][: part.rows]
            style.add_line(axes, x, y, name, points=points, **look, **tone)


def epoch_axis(panels: Sequence[Axes], segments: Sequence[Segment]) -> None:
    """The axes of epochs: their range, and the names of the parent runs."""
    *parents, (run, _, shift) = segments
    text = "epoch"
    if parents:
        names = " → ".join(style.shorten(part.run.name, 30 // len(parents)) for part in parents)
        text = f"epoch, continued from the parent run\n(lighter, to {shift - 1}: {names})"
    for axes in panels:
        style.whole_number_axis(axes, 0 if parents else run.epochs[0], run.epochs[-1] + shift)
        axes.set_xlabel(style.drawable(text))


def latent_figure(run: Run) -> Figure:
    """latent.png: how much the latent carries, and the decoder's standard deviation.

    A latent in use has a KL of some nats and active dimensions; at 0 the posterior has collapsed
    and the model predicts a single future. sigma: see losses.implied_sigma().
    """
    segments = lineage(run)
    table = joined(segments)
    figure = style.new_figure(11.1, f"{style.shorten(run.name, 36)}: the latent")
    panels = figure.subplots(3, sharex=True)
    rows = (
        ("train_kl", "KL (nats per frame)", BLUE),
        ("active_dims", "active dimensions", GREEN),
        ("sigma", "decoder's σ", PURPLE),
    )
    for axes, (name, unit, colour) in zip(panels, rows, strict=True):
        axes.set_ylabel(unit)
        add_curves(segments, [(axes, name, None, {"color": colour})])
        style.number_axis(axes, table[name])
    epoch_axis(panels[-1:], segments)
    return figure


def regions_figure(run: Run) -> Figure:
    """regions.png: validation PSNR near the skeleton and elsewhere."""
    figure, segments = style.new_figure(6.5), lineage(run)
    axes = figure.subplots()
    axes.set_ylabel("validation PSNR (dB)")
    curves: list[Curve] = [(axes, "val_psnr", "whole frame", VALIDATION)]
    curves += [(axes, f"val_psnr_{name}", *of_region) for name, of_region in style.REGIONS.items()]
    add_curves(segments, curves)
    style.number_axis(axes)
    epoch_axis([axes], segments)
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
