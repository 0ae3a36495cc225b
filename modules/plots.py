"""Every figure and table of a training report, drawn from what a run has written.

    python -m modules.plots curves runs/a                        # redraw runs/a/curves.png
    python -m modules.plots frames runs/a                        # PSNR over frame index, again
    python -m modules.plots compare runs/a runs/b --out report   # figures and summary table
    python -m modules.plots schedules --num_epoch 70 --kl_anneal_cycle 5 --out schedules.png

Figures are 8.5 cm wide (the overview of `compare` 17 cm) and their text is at least 7 pt at that
width, that of an A4 column. Colours are Okabe & Ito's; what they tell apart, line styles do too.
Matplotlib is used by its objects alone: no pyplot, no global state, no display, any thread.

Legend: T frames, H, W height and width in pixels; pictures are uint8 RGB, PSNR is in dB.
"""

import contextlib
import csv
import io
import itertools
import math
import sys
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import imageio.v3 as iio
import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter
from PIL import Image, ImageDraw, ImageFont

from modules.errors import ArgumentParser, UserError, path_argument, run_as_script
from modules.options import (
    TrainerOptions,
    check_combinations,
    fill_in_derived,
    option,
    parse,
    without_effect,
)
from modules.runlog import (
    METRIC_COLUMNS,
    read_config,
    read_metrics,
    read_psnr_per_frame,
    write_atomically,
)
from modules.schedules import kl_weight, learning_rate, teacher_forcing_drawn, teacher_forcing_ratio

# Okabe & Ito 2008, "Color Universal Design", without the yellow that is lost on white paper.
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
BLUE, VERMILLION, PURPLE = "#0072B2", "#D55E00", "#CC79A7"
GREY, BAND = "#666666", "#F5E3B3"
SOLID: Any = "-"
DASHED: Any = (0, (4, 1.5))
DOTTED: Any = (0, (1, 1.5))
DASH_DOT: Any = (0, (5, 1.5, 1, 1.5))
# Seven colours and four styles have no common divisor: a pair comes again after 28 runs.
RUN_COLOURS = (BLUE, VERMILLION, GREEN, BLACK, PURPLE, ORANGE, SKY)
RUN_STYLES = (SOLID, DASHED, DASH_DOT, DOTTED)
RUN_MARKERS = "os^Dv<p"

COLUMN, PAGE = 8.5, 17.0  # width of a figure, cm
TEXT, AXIS_TEXT, TITLE_TEXT = 7.0, 7.5, 8.0  # points
ROW = 0.34  # height of a line of legend, cm
DPI = 220
STEPS = (1, 2, 5, 10)  # of tick labels
MARKED_UP_TO = 25  # points of a line that each get a marker; more would run into each other
WHITE, KEEP = 7, 255  # palette indices of a GIF: after 7 greys; the pixel stays as it is
SHEET_HEIGHT = 128  # about how high a small frame is shown, pixels


# ----------------------------------------------------------------------------------------
# Layout: panels of a known size with their legends above them, where they hide no curve


@dataclass
class Panel:
    """One plot: its axes, and what goes around them."""

    axes: Axes
    height: float  # of the axes, cm
    heading: str = ""
    xlabel: str | None = None  # None: the panel below shows the numbers of the shared axis
    handles: list[Any] = field(default_factory=list)  # the legend's entries
    twin: Axes | None = None  # a second y axis on the right


Look = dict[str, Any]  # colour, line style, marker … in matplotlib's words


def new_figure() -> Figure:
    """An empty figure that draws into memory."""
    figure = Figure(dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def new_panel(
    figure: Figure,
    ylabel: str,
    *,
    share: Panel | None = None,
    height: float = 2.9,
    heading: str = "",
    xlabel: str | None = None,
) -> Panel:
    """A panel with its axes, placed later by `arrange`; share: the panel whose x axis it takes."""
    axes = figure.add_axes((0, 0, 1, 1), sharex=share.axes if share else None)
    axes.set_ylabel(ylabel, fontsize=AXIS_TEXT)
    axes.tick_params(labelsize=TEXT, length=2.5, pad=2)
    axes.grid(color="#DDDDDD", linewidth=0.4)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return Panel(axes, height, heading, xlabel)


def drawable(text: str) -> str:
    """A name from outside with "?" for what the font lacks, which would print a warning each time.

    Nothing begins with an underscore, which hides a legend's entry.
    """
    known = get_font(findfont(FontProperties())).get_charmap()
    text = "".join(c if c == "\n" or ord(c) in known else "?" for c in text)
    return f" {text}" if text.startswith("_") else text


def legend_rows(figure: Figure, handles: Sequence[Any], width: float) -> list[list[Any]]:
    """The handles in rows that fit into `width` cm."""
    canvas, font = figure.canvas, FontProperties(size=TEXT)
    assert isinstance(canvas, FigureCanvasAgg)
    measure = canvas.get_renderer().get_text_width_height_descent
    rows: list[list[Any]] = []
    used = 0.0
    for handle in handles:
        pixels = max(measure(line, font, False)[0] for line in handle.get_label().split("\n"))
        # Around the text: sample, gap to it and gap to the next entry, as in add_legend.
        wide = pixels * 2.54 / DPI + (2.2 + 0.5 + 1.0) * TEXT * 2.54 / 72
        if not rows or used + wide > width:
            rows.append([])
            used = 0.0
        rows[-1].append(handle)
        used += wide
    return rows


def row_height(row: Sequence[Any]) -> float:
    """Height of a row of legend, cm."""
    return ROW * (1 + max(handle.get_label().count("\n") for handle in row))


def add_legend(figure: Figure, parent: Any, corner: tuple[float, float], row: list[Any]) -> None:
    """One row of legend with its lower left at `corner`, in the parent's own coordinates.

    A Legend for each row, since one with columns makes every column as wide as its widest entry.
    """
    in_axes = isinstance(parent, Axes)
    legend = Legend(
        parent,
        row,
        [handle.get_label() for handle in row],
        loc="lower left",
        bbox_to_anchor=corner,
        bbox_transform=parent.transAxes if in_axes else figure.transFigure,
        ncols=len(row),
        frameon=False,
        fontsize=TEXT,
        handlelength=2.2,
        handletextpad=0.5,
        columnspacing=1.0,
        borderpad=0.0,
        borderaxespad=0.0,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)  # a $ in a name is no formula
    (parent.add_artist if in_axes else figure.legends.append)(legend)


def arrange(
    figure: Figure,
    panels: Sequence[Panel],
    *,
    title: str,
    handles: Sequence[Any] = (),
    columns: int = 1,
    below: float = 0.0,
) -> float:
    """Place the panels in rows from the top and set the figure's size; returns its height in cm.

    handles: entries of a legend under the title, for all panels together
    below:   room that stays free under the panels, cm
    """
    width = PAGE if columns > 1 else COLUMN
    left, right = 1.5, 1.0 if any(panel.twin for panel in panels) else 0.45
    cell = width / columns
    inner = cell - left - right  # width of the axes, cm
    common = legend_rows(figure, handles, width - 0.1)
    legends = [legend_rows(figure, panel.handles, cell - 0.5) for panel in panels]
    head = 0.15 + 0.36 * (title.count("\n") + 1)
    tops: list[float] = []  # of the axes, cm from the figure's upper edge
    y = head + sum(map(row_height, common))
    for start in range(0, len(panels), columns):
        row = range(start, min(start + columns, len(panels)))
        y += 0.2 + max(ROW * len(legends[i]) + 0.44 * bool(panels[i].heading) for i in row)
        tops += [y for _ in row]
        y += max(panels[i].height for i in row)
        y += max(0.8 + 0.3 * x.count("\n") if (x := panels[i].xlabel) else 0.12 for i in row)
    total = y + 0.1 + below
    figure.set_size_inches(width / 2.54, total / 2.54)
    look: Look = {"fontsize": TITLE_TEXT, "va": "top", "parse_math": False}
    figure.text(0.2 / width, 1 - 0.15 / total, drawable(title), **look)
    for entries in common:
        head += row_height(entries)
        add_legend(figure, figure, (0.2 / width, 1 - head / total), entries)
    for i, (panel, top) in enumerate(zip(panels, tops, strict=True)):
        axes, left_edge = panel.axes, i % columns * cell + left
        low = 1 - (top + panel.height) / total
        box = (left_edge / width, low, inner / width, panel.height / total)
        for each in filter(None, (axes, panel.twin)):
            each.set_position(box)
            each.tick_params(labelbottom=panel.xlabel is not None)
        axes.yaxis.set_label_coords(-1.15 / inner, 0.5)
        text = drawable(panel.xlabel or "")
        axes.set_xlabel(text, fontsize=AXIS_TEXT, labelpad=2, parse_math=False)
        for number, entries in enumerate(reversed(legends[i])):
            corner = (-0.9 / inner, 1 + (0.1 + ROW * number) / panel.height)
            add_legend(figure, axes, corner, entries)
        above = 1 + (0.14 + ROW * len(legends[i])) / panel.height
        place = (-0.9 / inner, above)
        axes.text(*place, panel.heading, transform=axes.transAxes, fontsize=AXIS_TEXT)
    return total


def save(figure: Figure, path: Path) -> Path:
    """Write the figure as PNG, whole or not at all."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    write_atomically(path, buffer.getvalue())
    return path


# ----------------------------------------------------------------------------------------
# Lines and axes


def add_line(
    panel: Panel,
    x: np.ndarray,
    y: np.ndarray,
    name: str,
    label: str | None = None,
    *,
    axes: Axes | None = None,
    points: int | None = None,
    **look: Any,
) -> None:
    """A curve that breaks where y is NaN. Few points, and those without neighbours, get markers.

    name: what the numbers are, kept as the line's gid; label: its entry in the legend, None for
    none; axes: the panel's second ones; points: how many all parts of the curve have together;
    look: colour, line style and marker in matplotlib's words
    """
    known = np.isfinite(y)
    alone = known & ~np.r_[False, known[:-1]] & ~np.r_[known[1:], False]
    few = (points or len(y)) <= MARKED_UP_TO
    marked = np.flatnonzero(known if few else alone).tolist()
    look = {"lw": 1.2, "marker": "o", "ms": 3, "mew": 0, **look}
    (axes or panel.axes).plot(x, np.where(known, y, np.nan), markevery=marked, gid=name, **look)
    if label is not None:
        if not few:
            look["marker"] = "None"
        panel.handles.append(Line2D([], [], label=label, **look))


def add_marks(
    panel: Panel, x: Any, y: Any, name: str, label: str | None = None, **look: Any
) -> None:
    """Single points; y: a sequence of values, or one number for a height between 0 and 1 in the
    panel. Otherwise like `add_line`."""
    look = {"color": BLACK, "mew": 0.8, **look}
    if isinstance(y, float):
        look["transform"], y = panel.axes.get_xaxis_transform(), np.full(len(x), y)
    (marks,) = panel.axes.plot(x, y, ls="None", gid=name, label=label, **look)
    if label is not None:
        panel.handles.append(marks)


def finite(values: np.ndarray) -> np.ndarray:
    """Those values that are finite, in order."""
    return values[np.isfinite(values)]


def plain_number(value: float, _: Any = None) -> str:
    """0.001, 20, 1e-5: a tick label without the small raised exponents that print below 7 pt."""
    mantissa, _, exponent = f"{value:.6g}".partition("e")
    return f"{mantissa}e{int(exponent)}" if exponent else mantissa


def number_axis(axes: Axes, values: np.ndarray | None = None, log_from: float = 30.0) -> None:
    """Plain tick labels, and a logarithmic y axis if positive values span a factor `log_from`."""
    known = finite(values) if values is not None else np.zeros(0)
    span = known[known > 0].max() / known[known > 0].min() if (known > 0).any() else 1.0
    if span >= log_from:
        axes.set_yscale("log", nonpositive="mask")
        if span >= 10:
            axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5, steps=STEPS))
    axes.yaxis.set_major_formatter(FuncFormatter(plain_number))


def axis_from_zero(axes: Axes, values: np.ndarray) -> None:
    """A y axis from 0 to a little above the largest value."""
    largest = finite(values).max(initial=0.0) or 1.0
    axes.set_ylim(-0.03 * largest, 1.06 * largest)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=4, steps=STEPS))
    axes.yaxis.set_major_formatter(FuncFormatter(plain_number))


def rate_axis(axes: Axes, rates: np.ndarray) -> None:
    """A y axis for learning rates, logarithmic for a few steps by large factors."""
    few = len(np.unique(rates)) <= 8  # a smooth fall to zero wants no logarithm
    number_axis(axes, rates, log_from=9.0 if few else math.inf)
    if axes.get_yscale() == "linear":
        axis_from_zero(axes, rates)


def whole_number_axis(axes: Axes, first: float, last: float) -> None:
    """An x axis over whole numbers first … last, with a little air at both ends."""
    air = max(0.5, 0.015 * (last - first))
    axes.set_xlim(first - air, last + air)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=7, steps=STEPS, integer=True, min_n_ticks=1))
    axes.xaxis.set_major_formatter(FuncFormatter(plain_number))


# ----------------------------------------------------------------------------------------
# Runs


@dataclass(frozen=True)
class Run:
    """A run's folder and what it wrote: config.json and the columns of metrics.csv, (epochs,)."""

    folder: Path
    config: dict[str, Any]
    metrics: dict[str, np.ndarray]

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    @property
    def epochs(self) -> np.ndarray:
        return self.metrics["epoch"].astype(int)

    @property
    def options(self) -> dict[str, Any]:
        options = self.config.get("options")
        return options if isinstance(options, dict) else {}

    def best(self, within: int | None = None) -> int | None:
        """Row with the highest val_psnr (among the first `within` ones); None if all are NaN."""
        psnr = self.metrics["val_psnr"][:within]
        known = np.isfinite(psnr)
        return int(np.where(known, psnr, -np.inf).argmax()) if known.any() else None


def load_run(folder: Path) -> Run:
    """Read a run. Raises UserError that names the file which is missing or no good."""
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder; give the --save_root of a run")
    path = folder / "metrics.csv"
    if not path.is_file():
        raise UserError(f"{path}: missing: no epoch has ended yet, or this is no run's folder")
    try:
        metrics = read_metrics(path)
    except (ValueError, csv.Error) as error:
        raise UserError(f"{path}: is no table of numbers ({error})") from error
    if missing := [name for name in METRIC_COLUMNS if name not in metrics]:
        what = "is empty" if not metrics else f"lacks the columns {', '.join(missing)}"
        raise UserError(f"{path}: {what}; Trainer.py writes it anew with --resume or a new run")
    if not metrics["epoch"].size:
        raise UserError(f"{path}: has no rows: no epoch has ended yet")
    epochs = metrics["epoch"]
    if not np.isfinite(epochs).all():
        raise UserError(f"{path}: has a row without a number of its epoch")
    if not ((epochs >= 0) & (epochs < 2**31) & (epochs % 1 == 0)).all():
        raise UserError(f"{path}: has an epoch that is no whole number from 0 on")
    return Run(folder, read_config(folder), metrics)


class Segment(NamedTuple):
    """A part of a lineage: the first `rows` rows of a run, whose epoch e is drawn at e + shift."""

    run: Run
    rows: int
    shift: int


def parent_of(run: Run) -> tuple[Run, int] | None:
    """The run whose weights this one started from, and after which of its epochs.

    None if config.json names none or the run is gone. Runs that were moved together are found
    beside each other.
    """
    parent = run.config.get("parent")
    if not isinstance(parent, dict):
        return None
    named, epoch = parent.get("run"), parent.get("epoch")
    if not isinstance(named, str) or not isinstance(epoch, int):
        return None
    for folder in (Path(named), run.folder.resolve().parent / Path(named).name):
        with contextlib.suppress(UserError):
            return load_run(folder), epoch
    return None


def lineage(run: Run) -> list[Segment]:
    """The run after its ancestors, oldest first; every child continues its parent's epochs."""
    chain: list[tuple[Run, int | None]] = [(run, None)]  # with the last epoch that counts
    seen = {run.folder.resolve()}
    # A folder that was used again may name itself, or a descendant, as its parent.
    while (parent := parent_of(chain[0][0])) and parent[0].folder.resolve() not in seen:
        seen.add(parent[0].folder.resolve())
        chain.insert(0, parent)
    segments: list[Segment] = []
    shift = 0
    for member, last in chain:
        rows = len(member.epochs) if last is None else int((member.epochs <= last).sum())
        segments.append(Segment(member, rows, shift))
        shift += 0 if last is None else last + 1
    return segments


# ----------------------------------------------------------------------------------------
# curves.png


def add_teacher_forcing(
    panel: Panel, x: np.ndarray, active: np.ndarray, label: str | None = None
) -> None:
    """Bands over the epochs that were teacher-forced ("TF status"); active: (epochs,), 1 is on."""
    edges = np.flatnonzero(np.diff(np.r_[0, active > 0, 0])).reshape(-1, 2)
    bands = [(x[start] - 0.5, x[stop - 1] - x[start] + 1.0) for start, stop in edges]
    place: Look = {"transform": panel.axes.get_xaxis_transform(), "zorder": 0}
    panel.axes.broken_barh(bands, (0, 1), facecolor=BAND, lw=0, gid="tf_active", **place)
    if label is not None:
        panel.handles.append(Patch(facecolor=BAND, label=label))


def add_baselines(panel: Panel, baselines: Any) -> None:
    """Thin dotted lines at the PSNR of predictions that need no model."""
    for key, name, style in (
        ("first_frame", "first frame", DOTTED),
        ("mean_train_frame", "mean training frame", (0, (1, 3))),
    ):
        value = baselines.get(key) if isinstance(baselines, dict) else None
        if isinstance(value, int | float) and math.isfinite(value):
            label = f"{name} {value:.2f} dB"
            look: Look = {"color": GREY, "ls": style, "lw": 0.9, "zorder": 1}
            panel.handles.append(panel.axes.axhline(value, gid=key, label=label, **look))


def curves_figure(run: Run) -> Figure:
    """The four panels of curves.png."""
    segments = lineage(run)
    parts = {n: [part.run.metrics[n][: part.rows] for part in segments] for n in METRIC_COLUMNS}
    table = {name: np.concatenate(values) for name, values in parts.items()}
    figure = new_figure()
    psnr = new_panel(figure, "PSNR (dB)", height=3.6)
    loss = new_panel(figure, "loss (pixels 0 to 1)", share=psnr)
    forcing = new_panel(figure, "β (KL weight)", share=psnr, height=2.2)
    rate = new_panel(figure, "learning rate", share=psnr, height=1.8, xlabel="epoch")
    twin = forcing.twin = forcing.axes.twinx()
    twin.set_ylabel("TF ratio (0 to 1)", fontsize=AXIS_TEXT)
    twin.tick_params(labelsize=TEXT, length=2.5, pad=2)
    twin.spines["top"].set_visible(False)

    validation: Look = {"color": VERMILLION, "ls": DASHED, "marker": "s"}
    tfr: Look = {"color": PURPLE, "ls": DASHED, "marker": "s", "axes": twin}
    curves: tuple[tuple[Panel, str, str | None, Look], ...] = (
        (psnr, "train_psnr", "train", {"color": BLUE}),
        (psnr, "val_psnr", "validation", validation),
        (loss, "train_loss", "train total: MSE + β·KL", {"color": BLUE}),
        (loss, "train_mse", "train MSE", {"color": SKY, "ls": DASH_DOT, "marker": "^"}),
        (loss, "val_loss", "validation MSE", validation),
        (forcing, "beta", "β", {"color": GREEN}),
        (forcing, "tfr", "teacher-forcing (TF) ratio", tfr),
        (rate, "lr", None, {"color": BLACK, "drawstyle": "steps-mid"}),
    )
    for part in segments:
        own = part.run is run
        row = {name: values[: part.rows] for name, values in part.run.metrics.items()}
        x = row["epoch"] + part.shift
        for panel, name, label, look in curves:
            tone = {"label": label} if own else {"alpha": 0.45}
            add_line(panel, x, row[name], name, points=len(table["epoch"]), **look, **tone)
        add_teacher_forcing(forcing, x, row["tf_active"], "TF on" if own else None)
    shift = segments[-1].shift
    for part in segments[1:]:
        for panel in (psnr, loss, forcing, rate):
            panel.axes.axvline(part.shift - 0.5, color=GREY, lw=0.8, gid="took over")

    if (best := run.best()) is not None:
        epoch, value = run.epochs[best], run.metrics["val_psnr"][best]
        text = f"best {value:.2f} dB, epoch {epoch + shift}" + (f" (own {epoch})" if shift else "")
        star = {"marker": "*", "ms": 9, "color": ORANGE, "mec": BLACK, "mew": 0.6, "zorder": 5}
        add_marks(psnr, [epoch + shift], [value], "best", text, **star)
    add_baselines(psnr, run.config.get("baselines"))
    if resumed := run.config.get("resumed_at"):
        add_marks(psnr, np.array(resumed) + shift, 0.03, "resumed", "resumed", marker="|", ms=6)
    skipped = np.nan_to_num(run.metrics["skipped"])
    if (bad := skipped > 0).any():
        text = f"sequences skipped ({int(skipped.sum())})"
        # On the upper edge, since the curves end low.
        look = {"marker": "x", "ms": 3.5, "clip_on": False}
        add_marks(loss, run.epochs[bad] + shift, 1.0, "skipped", text, **look)

    number_axis(psnr.axes)
    losses = [table[name] for name in ("train_loss", "train_mse", "val_loss")]
    number_axis(loss.axes, np.concatenate(losses))
    axis_from_zero(forcing.axes, table["beta"])
    axis_from_zero(twin, np.ones(1))
    rate_axis(rate.axes, table["lr"])
    first = segments[0].run.epochs[0] if shift == 0 else 0
    whole_number_axis(psnr.axes, first, run.epochs[-1] + shift)
    if len(segments) > 1:
        room = 30 // (len(segments) - 1)  # characters
        names = " → ".join(shorten(part.run.name, room) for part in segments[:-1])
        rate.xlabel = f"epoch, counted on from the parent run\n(lighter, to {shift - 1}: {names})"
    arrange(figure, [psnr, loss, forcing, rate], title=shorten(run.name, 44))
    return figure


def shorten(text: str, length: int) -> str:
    """The text, cut in the middle to at most `length` characters."""
    if len(text) <= length:
        return text
    return text[: length // 2] + "…" + text[len(text) - (length - 1) // 2 :]


def draw_curves(run: Path) -> Path:
    """Draw run/curves.png from run/metrics.csv and run/config.json; returns its path.

    Raises UserError if metrics.csv is missing, empty or no table of numbers.
    """
    return save(curves_figure(load_run(run)), run / "curves.png")


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
    smoothed by a moving average as wide as a stretch (a twelfth of the curve, 1 to 15 frames: wider
    would hide a short, deep dip).
    A stretch lies around a local minimum of it; the centres of two are at least twice that width
    apart, so that there is always something higher to see between them.
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
    psnr: np.ndarray, *, title_prefix: str = "", pictures: dict[str, np.ndarray] | None = None
) -> Figure:
    """PSNR over frame index; below it the rows of pictures for the lowest stretches.

    psnr: (T-1,); pictures: (T, H, W, 3) uint8 each, under the names shown above them
    """
    if psnr.ndim != 1 or len(psnr) < 1:
        raise ValueError(f"psnr must be one value for each frame 1 … T-1, got {psnr.shape}")
    pictures = check_videos(**(pictures or {}))
    if any(len(video) != len(psnr) + 1 for video in pictures.values()):
        raise ValueError(f"{len(psnr)} values of PSNR are for one frame more, frame 0 included")
    figure = new_figure()
    panel = new_panel(figure, "PSNR (dB)", height=4.0, xlabel="frame")
    frames, known = np.arange(1, len(psnr) + 1), np.isfinite(psnr)
    add_line(panel, frames, psnr, "psnr", color=BLUE, lw=0.9)
    if known.all():
        look = {"color": BLACK, "ls": DASHED, "lw": 0.8}
        line = panel.axes.axhline(psnr.mean(), gid="average", label="average", **look)
        panel.handles.append(line)
        average = f"average {psnr.mean():.2f} dB"
    else:  # a mean over the rest must not pass as the average
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

    # Pictures are shown at a whole multiple of their pixels, as far as they are small enough.
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
    title_prefix: str = "",
    labels: np.ndarray | None = None,
    truth: np.ndarray | None = None,
    prediction: np.ndarray | None = None,
) -> Path:
    """Draw the PSNR of every frame and the three lowest stretches into the PNG `out`.

    psnr: (T-1,) in dB, for frames 1 … T-1; NaN where there is none
    labels, truth, prediction: (T, H, W, 3) uint8, index = frame number; those that are given are
    shown below the curve, at the lowest frame of each stretch

    Raises ValueError for other shapes or types.
    """
    pictures = check_videos(label=labels, truth=truth, prediction=prediction)
    values = np.asarray(psnr, dtype=float)
    return save(psnr_per_frame_figure(values, title_prefix=title_prefix, pictures=pictures), out)


# ----------------------------------------------------------------------------------------
# Pictures: val.gif, its contact sheet, GIFs of one sequence


def check_videos(**videos: np.ndarray | None) -> dict[str, np.ndarray]:
    """The videos that are given, by name. Raises ValueError unless all are (T, H, W, 3) uint8, of
    one shape without a zero."""
    given = {name: video for name, video in videos.items() if video is not None}
    for name, video in given.items():
        if not isinstance(video, np.ndarray) or video.dtype != np.uint8:
            kind = getattr(video, "dtype", type(video).__name__)
            raise ValueError(f"{name}: must be a uint8 array (0-255), it is {kind}")
        if video.ndim != 4 or video.shape[3] != 3 or 0 in video.shape:
            raise ValueError(f"{name}: must be (T, H, W, 3), it is {video.shape}")
    shapes = {name: video.shape for name, video in given.items()}
    if len(set(shapes.values())) > 1:
        raise ValueError(f"the videos differ in shape: {shapes}")
    return given


def enlarge(pictures: np.ndarray, scale: int) -> np.ndarray:
    """(T, H, W, …) → (T, H·scale, W·scale, …): every pixel a square of its own (nearest)."""
    return pictures.repeat(scale, axis=1).repeat(scale, axis=2)


def viewing_scale(height: int) -> int:
    """Whole factor that makes a frame about 128 pixels high; 1 for larger ones."""
    return max(1, round(SHEET_HEIGHT / height))


def caption_font(size: float) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which matplotlib carries with it: the same on every machine."""
    path = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
    return ImageFont.truetype(path, size)


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
        # Pillow merges frames that are stored alike. One pixel drawn as it is already keeps them.
        if (indices[t] == indices[t - 1]).all():
            indices[t, 0, 0] = shown[0, 0]
    return indices


def write_indexed_gif(path: Path, indices: np.ndarray, palette: np.ndarray, fps: float) -> Path:
    """Write (T, H, W) palette indices, KEEP for pixels that stay as they are, as an endless GIF."""
    if not 0 < fps <= 50:
        raise ValueError(f"fps {fps}: a GIF shows more than 0 and at most 50 frames a second")
    # GIF counts hundredths of a second, and players take 0 and 1 for 10. The durations differ by
    # one of them, so that the whole lasts as long as it should.
    ends = np.round(np.arange(len(indices) + 1) * 100 / fps).astype(int)
    durations = (10 * np.diff(ends)).tolist()  # ms
    # All of the table's entries differ, as Pillow wants it; what is free of them is of no use.
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
        disposal=1,  # what was drawn stays under the next frame
    )
    write_atomically(path, data)
    return path


def write_gif(path: Path, frames: np.ndarray, *, fps: float = 15, scale: int = 4) -> Path:
    """Write one sequence, (T, H, W, 3) uint8, as a GIF of (H·scale, W·scale) pixels.

    Every frame is in the file, equal ones too. Colours are reduced to 255 for the whole sequence
    and keep still while they are within 8 of 255 levels of the true ones. Raises ValueError.
    """
    check_videos(frames=frames)
    if scale < 1:
        raise ValueError(f"scale {scale}: must be at least 1")
    palette = distinct(common_palette(frames, KEEP))
    return write_indexed_gif(path, enlarge(to_palette(frames, palette), scale), palette, fps)


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
    buffer = io.BytesIO()
    sheet.save(buffer, format="PNG")
    write_atomically(path, buffer.getvalue())
    return path


# ----------------------------------------------------------------------------------------
# compare: what differs between runs, in words

# Options that change no number, or (DR, ckpt_path) whose meaning config.json says better.
BOOKKEEPING = frozenset(
    (
        *("DR", "save_root", "ckpt_path", "resume", "num_workers", "device", "gpu", "per_save"),
        *("auto_save", "store_visualization", "tensorboard", "dry_run", "test", "preset"),
    )
)
# Options that do nothing unless another one has a certain value.
IDLE_UNLESS: dict[str, Callable[[dict[str, Any]], bool]] = {
    "fast_partial": lambda o: bool(o.get("fast_train")),
    "fast_train_epoch": lambda o: bool(o.get("fast_train")),
    "lr_milestones": lambda o: o.get("lr_scheduler") == "multistep",
    "lr_gamma": lambda o: o.get("lr_scheduler") == "multistep",
    "tfr_sde": lambda o: bool(o.get("tfr")) and bool(o.get("tfr_d_step")),
    "tfr_d_step": lambda o: bool(o.get("tfr")) or bool(o.get("detector_patience")),
    "detector_threshold": lambda o: bool(o.get("detector_patience")),
    "kl_anneal_cycle": lambda o: o.get("kl_anneal_type") == "Cyclical",
    "kl_anneal_ratio": lambda o: o.get("kl_anneal_type") != "None",
}


def value_text(value: Any) -> str:
    """A setting's value as it would be typed."""
    if isinstance(value, list | tuple):
        return " ".join(map(value_text, value))
    return plain_number(value) if isinstance(value, float) else str(value)


def settings(run: Run) -> dict[str, str]:
    """What made the run's numbers what they are: its options that have an effect, data, start."""
    options = run.options
    texts = {
        name: value_text(value)
        for name, value in options.items()
        if name not in BOOKKEEPING and (name not in IDLE_UNLESS or IDLE_UNLESS[name](options))
    }
    root = run.config.get("data_root") or options.get("DR")
    if isinstance(root, str):
        texts["data"] = str(Path(root).resolve())
    parent = run.config.get("parent")
    if isinstance(parent, dict):
        origin = Path(str(parent.get("run") or parent.get("ckpt_path"))).name
        texts["start"] = f"fine-tuned from {origin}, epoch {parent.get('epoch')}"
    elif run.config:
        texts["start"] = "from scratch"
    return texts


def differing_settings(runs: Sequence[Run]) -> dict[str, list[str | None]]:
    """The settings that are not the same in all runs: the value in each run, None where it is idle.

    A setting that some runs have no use for differs only if the others do not agree on it.
    """
    texts = [settings(run) for run in runs]
    roots = {text["data"] for text in texts if "data" in text}
    if len({Path(root).name for root in roots}) == len(roots):
        texts = [{**t, "data": Path(t["data"]).name} if "data" in t else t for t in texts]
    names = dict.fromkeys(name for text in texts for name in text)
    columns = {name: [text.get(name) for text in texts] for name in names}
    return {name: values for name, values in columns.items() if len({*values} - {None}) > 1}


def run_labels(runs: Sequence[Run]) -> list[str]:
    """A unique label for each run: the settings in which they differ, else its folder's name."""
    columns = differing_settings(runs)
    labels = []
    for i, run in enumerate(runs):
        parts = [
            values[i] if name == "start" else f"{name}={values[i]}"
            for name, values in columns.items()
            if values[i] is not None
        ]
        labels.append(", ".join(map(str, parts)) or run.name)
    for name_of in (lambda run: run.name, lambda run: str(run.folder)):
        twice = {label for label in labels if labels.count(label) > 1}
        labels = [
            f"{label} ({name_of(run)})" if label in twice and label != name_of(run) else label
            for label, run in zip(labels, runs, strict=True)
        ]
    return labels


def kl_text(options: dict[str, Any]) -> str:
    """The KL annealing of a run in words."""
    kind, beta = options.get("kl_anneal_type"), value_text(options.get("kl_beta", "?"))
    if kind == "None":
        return f"none, β = {beta}"
    cycles = f", {options.get('kl_anneal_cycle', '?')} cycles" if kind == "Cyclical" else ""
    ratio = value_text(options.get("kl_anneal_ratio", "?"))
    return f"{kind or '?'}{cycles}, ratio {ratio}" + ("" if beta == "1" else f", β to {beta}")


def forcing_text(options: dict[str, Any]) -> str:
    """The teacher forcing of a run in words."""
    ratio, step = (value_text(options.get(name, "?")) for name in ("tfr", "tfr_d_step"))
    if ratio == "0":
        text = "none"
    elif step == "0":
        text = f"{ratio} throughout"
    else:
        text = f"{ratio}, −{step} per epoch from {options.get('tfr_sde', '?')}"
    patience = options.get("detector_patience")
    return f"{text}, detector (patience {patience})" if patience else text


# ----------------------------------------------------------------------------------------
# compare: summary table

# Settings with a column of their own, in words.
IN_COLUMNS = frozenset(
    (
        *("kl_anneal_type", "kl_anneal_cycle", "kl_anneal_ratio", "kl_beta", "train_vi_len"),
        *("tfr", "tfr_sde", "tfr_d_step", "detector_patience", "detector_threshold", "num_epoch"),
    )
)


def run_names(runs: Sequence[Run]) -> list[str]:
    """The folders' names, or their paths if two names are the same."""
    names = [run.name for run in runs]
    return names if len(set(names)) == len(names) else [str(run.folder) for run in runs]


def summary_rows(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """A row for each run, best first: the highest validation PSNR, and what made the run.

    Numbers are plain numbers, None where there is none; the same columns in every row.
    """
    differing, names, labels = differing_settings(runs), run_names(runs), run_labels(runs)
    shortest = min(len(run.epochs) for run in runs)
    unequal = any(len(run.epochs) != shortest for run in runs)
    rows: list[dict[str, Any]] = []
    for i, run in enumerate(runs):
        psnr, best = run.metrics["val_psnr"], run.best()
        row: dict[str, Any] = {
            "run": names[i],
            "average PSNR (dB)": None if best is None else float(psnr[best]),
            "KL annealing": kl_text(run.options) if run.options else "",
            "teacher forcing": forcing_text(run.options) if run.options else "",
            "train_vi_len": run.options.get("train_vi_len", ""),
            "epochs": len(run.epochs),
            "best epoch": None if best is None else int(run.epochs[best]),
            "last PSNR (dB)": float(psnr[-1]) if math.isfinite(psnr[-1]) else None,
        }
        if unequal:
            early = run.best(within=shortest)
            value = None if early is None else float(psnr[early])
            row[f"best of first {shortest} epochs (dB)"] = value
        row |= {n: values[i] or "" for n, values in differing.items() if n not in IN_COLUMNS}
        row["minutes"] = float(np.nansum(run.metrics["seconds"])) / 60
        row["label in the figures"] = labels[i]
        rows.append(row)

    def height(row: dict[str, Any]) -> float:
        average = row["average PSNR (dB)"]
        return -math.inf if average is None else average

    return sorted(rows, key=height, reverse=True)


def summary_notes(runs: Sequence[Run]) -> list[str]:
    """What a reader must know before comparing the numbers, a sentence each."""
    named = list(zip(run_names(runs), runs, strict=True))
    notes = [
        "average PSNR: the highest validation PSNR of the run, a mean over frames 1 … T−1 of the "
        "free-running prediction, at the best epoch; epochs are counted from 0."
    ]
    if len({len(run.epochs) for run in runs}) > 1:
        lengths = ", ".join(f"{name} {len(run.epochs)}" for name, run in named)
        notes.append(f"The runs have different lengths, in epochs: {lengths}.")
    for name, run in named:
        planned = run.options.get("num_epoch")
        if isinstance(planned, int) and len(run.epochs) < planned:
            notes.append(f"{name} has {len(run.epochs)} of its {planned} epochs.")
        if not run.config:
            notes.append(f"{name} has no config.json, so its options are not known.")
        if run.best() is None:
            notes.append(f"{name}: no validation gave a number.")
        if skipped := int(np.nansum(run.metrics["skipped"])):
            notes.append(f"{name}: {skipped} sequences were skipped, as they were not finite.")
        if settings(run).get("start", "").startswith("fine-tuned"):
            notes.append(f"{name} was fine-tuned: its parent's epochs and time are not counted.")
    differing = differing_settings(runs)
    if "data" in differing:
        roots = ", ".join(f"{name} {settings(run).get('data', '?')}" for name, run in named)
        notes.append(
            f"The runs have different data roots: {roots}. "
            "Averages over different validation videos cannot be compared."
        )
    elif "val_vi_len" in differing:
        notes.append("The validation videos differ in length, which alone changes the average.")
    if baselines := common_baselines(runs):
        known = {"first_frame": "repeating the first frame", "mean_train_frame": "the mean frame"}
        values = [f"{text} {baselines[key]:.2f} dB" for key, text in known.items()]
        notes.append(f"Without a model: {', '.join(values)}.")
    return notes


def common_baselines(runs: Sequence[Run]) -> dict[str, float]:
    """The runs' baselines if all have the same two, else none."""
    first, *others = (run.config.get("baselines") for run in runs)
    if not isinstance(first, dict) or any(other != first for other in others):
        return {}
    names = ("first_frame", "mean_train_frame")
    return {name: first[name] for name in names} if first.keys() >= set(names) else {}


def summary_csv(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as CSV; numbers with four digits after the point."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(rows[0])
    for row in rows:
        writer.writerow([f"{v:.4f}" if isinstance(v, float) else v for v in row.values()])
    return text.getvalue()


def summary_markdown(rows: Sequence[dict[str, Any]], notes: Sequence[str]) -> str:
    """The rows as a Markdown table, the average with its epoch, and the notes below it."""

    def cell(name: str, row: dict[str, Any]) -> str:
        value = row[name]
        if value is None:
            return "–"
        text = f"{value:.1f}" if name == "minutes" else value
        text = f"{value:.2f}" if name.endswith("(dB)") else str(text)
        if name == "average PSNR (dB)":
            text = f"{text} (epoch {row['best epoch']})"
        return text.replace("|", "\\|").replace("\n", " ")

    head = list(rows[0])
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    lines += ["| " + " | ".join(cell(name, row) for name in head) + " |" for row in rows]
    return "\n".join([*lines, "", *(f"- {note}" for note in notes)]) + "\n"


# ----------------------------------------------------------------------------------------
# compare: overlaid figures


class View(NamedTuple):
    """A panel of the comparison: a column of metrics.csv against an axis."""

    heading: str
    ylabel: str
    column: str  # "psnr": that of psnr_per_frame.csv
    x: str = "epoch"  # or "time", "frame"


VIEWS = {
    "psnr": View("validation PSNR by epoch", "PSNR (dB)", "val_psnr"),
    "psnr_time": View("validation PSNR by time", "PSNR (dB)", "val_psnr", "time"),
    "train_psnr": View("training PSNR", "PSNR (dB)", "train_psnr"),
    "val": View("validation loss (MSE)", "MSE (pixels 0 to 1)", "val_loss"),
    "mse": View("training: reconstruction (MSE)", "MSE (pixels 0 to 1)", "train_mse"),
    "kl": View("training: KL divergence", "KL (nats)", "train_kl"),
    "total": View("training: total, MSE + β·KL", "loss (pixels 0 to 1)", "train_loss"),
    "frames": View("PSNR per frame, latest validation", "PSNR (dB)", "psnr", "frame"),
}
# File → its title and panels.
COMPARISONS: dict[str, tuple[str, tuple[str, ...]]] = {
    "training_loss": ("Training loss", ("mse", "kl", "total")),
    "validation_loss": ("Validation loss", ("val",)),
    "psnr": ("PSNR", ("psnr", "psnr_time", "train_psnr")),
    "psnr_per_frame": ("PSNR per frame", ("frames",)),
    "overview": ("Overview", tuple(VIEWS)),
}


def frames_of(folder: Path) -> tuple[np.ndarray, np.ndarray] | None:
    """(frame numbers, PSNR) of a run's psnr_per_frame.csv; None if there is none."""
    path = folder / "psnr_per_frame.csv"
    if not path.is_file():
        return None
    try:
        frames, psnr = read_psnr_per_frame(path)
    except (ValueError, KeyError, csv.Error) as error:
        raise UserError(f"{path}: is no table of frame and psnr ({error})") from error
    if not frames.size:
        raise UserError(f"{path}: has no rows")
    return frames, psnr


def time_unit(runs: Sequence[Run]) -> tuple[str, float]:
    """Name and seconds of the unit in which the longest run's time reads well."""
    longest = max(float(np.nansum(run.metrics["seconds"])) for run in runs)
    if longest < 180:
        return "s", 1.0
    return ("min", 60.0) if longest < 180 * 60 else ("h", 3600.0)


def comparison_figure(name: str, runs: Sequence[Run]) -> Figure:
    """The figure DIR/`name`.png of `compare`, a key of COMPARISONS; runs in the order given."""
    title, keys = COMPARISONS[name]
    figure, columns = new_figure(), 2 if name == "overview" else 1
    unit, seconds = time_unit(runs)
    looks: list[Look] = [
        {"color": colour, "ls": style, "marker": marker}
        for colour, style, marker, _ in zip(
            *map(itertools.cycle, (RUN_COLOURS, RUN_STYLES, RUN_MARKERS)), runs, strict=False
        )
    ]
    characters = 104 if columns > 1 else 48  # of a line of legend
    labels = [
        textwrap.fill(drawable(label), characters, break_on_hyphens=False)
        for label in run_labels(runs)
    ]
    handles = [
        Line2D([], [], label=label, lw=1.2, ms=3 * (len(run.epochs) <= MARKED_UP_TO), **look)
        for run, label, look in zip(runs, labels, looks, strict=True)
    ]
    star: Look = {"marker": "*", "ms": 8, "mec": BLACK, "mew": 0.5}
    if any(VIEWS[key].column == "val_psnr" for key in keys):
        handles.append(Line2D([], [], label="best epoch", ls="None", color="white", **star))
    xlabels = {"epoch": "epoch", "time": f"training time ({unit})", "frame": "frame"}
    panels = []
    for heading, ylabel, column, axis in (VIEWS[key] for key in keys):
        panel = new_panel(figure, ylabel, height=3.4, heading=heading, xlabel=xlabels[axis])
        panels.append(panel)
        drawn: list[tuple[np.ndarray, np.ndarray]] = []
        for run, look in zip(runs, looks, strict=True):
            if axis == "frame":
                if (table := frames_of(run.folder)) is None:
                    continue
                x, y = table
            else:
                x, y = run.epochs, run.metrics[column]
                if axis == "time":
                    x = np.nancumsum(run.metrics["seconds"]) / seconds
            add_line(panel, x, y, column, lw=0.8 if axis == "frame" else 1.2, **look)
            drawn.append((x, y))
            if column == "val_psnr" and (best := run.best()) is not None:
                at = {"color": look["color"], "zorder": 5, **star}
                add_marks(panel, x[best : best + 1], y[best : best + 1], "best", **at)
        if column == "val_psnr":
            add_baselines(panel, common_baselines(runs))
        losses = [y for _, y in drawn if "PSNR" not in ylabel]
        number_axis(panel.axes, np.concatenate(losses) if losses else None)
        if axis == "time":
            panel.axes.set_xlim(left=0)
        elif drawn:
            ends = [(x.min(), x.max()) for x, _ in drawn]
            whole_number_axis(panel.axes, min(a for a, _ in ends), max(b for _, b in ends))
    arrange(figure, panels, title=title, handles=handles, columns=columns)
    return figure


def compare(folders: Sequence[Path], out: Path) -> list[str]:
    """Write figures and summary of the runs into the folder `out`; returns lines to be printed.

    Raises UserError for folders that are no runs or named twice.
    """
    resolved = [folder.resolve() for folder in folders]
    for folder, path in zip(folders, resolved, strict=True):
        if resolved.count(path) > 1:
            raise UserError(f"{folder}: is named twice; give every run once")
    runs = [load_run(folder) for folder in folders]
    rows, notes = summary_rows(runs), summary_notes(runs)
    without = [run for run in runs if frames_of(run.folder) is None]
    if without:
        names = ", ".join(str(run.folder) for run in without)
        notes.append(f"Not in the figure of PSNR per frame, for want of its csv file: {names}.")
    out.mkdir(parents=True, exist_ok=True)
    written = [
        save(comparison_figure(name, runs), out / f"{name}.png")
        for name in COMPARISONS
        if name != "psnr_per_frame" or len(without) < len(runs)
    ]
    tables = {"summary.md": summary_markdown(rows, notes), "summary.csv": summary_csv(rows)}
    for name, text in tables.items():
        write_atomically(out / name, text.encode())
        written.append(out / name)
    return [*(f"note: {note}" for note in notes[1:]), *(f"wrote {path}" for path in written)]


# ----------------------------------------------------------------------------------------
# schedules: what a set of options will give


@dataclass
class ScheduleOptions(TrainerOptions):
    """Trainer.py's options and those of this figure."""

    # fmt: off
    out: str = option("schedules.png", "figure", "PNG file to write")
    fu_figure: bool = option(False, "figure", "draw the KL weights of Fu et al. 2019 instead: Monotonic (ratio 0.25) and Cyclical (4 cycles, ratio 0.5) over 40,000 iterations")  # noqa: E501
    # fmt: on


def schedule_table(o: TrainerOptions) -> dict[str, np.ndarray]:
    """Columns epoch, beta, tfr, tf_active and lr, (num_epoch,) each, as metrics.csv will have them.

    Without the detector's raises, which depend on results.
    """
    kl: dict[str, Any] = {"anneal_type": o.kl_anneal_type, "cycles": o.kl_anneal_cycle}
    kl |= {"ratio": o.kl_anneal_ratio, "beta": o.kl_beta}
    forcing: dict[str, Any] = {"tfr": o.tfr, "tfr_sde": o.tfr_sde, "tfr_d_step": o.tfr_d_step}
    rate: dict[str, Any] = {"lr": o.lr, "scheduler": o.lr_scheduler, "gamma": o.lr_gamma}
    rate["milestones"] = o.lr_milestones or ()
    rows = []
    for epoch in range(o.num_epoch):
        tfr = teacher_forcing_ratio(epoch, **forcing)
        active = teacher_forcing_drawn(o.seed, epoch, tfr)
        beta = kl_weight(epoch, num_epoch=o.num_epoch, **kl)
        rows.append((epoch, beta, tfr, active, learning_rate(epoch, num_epoch=o.num_epoch, **rate)))
    names = ("epoch", "beta", "tfr", "tf_active", "lr")
    return dict(zip(names, np.array(rows, dtype=float).T, strict=True))


def schedules_figure(o: TrainerOptions) -> Figure:
    """β, teacher forcing and learning rate by epoch."""
    table, options, figure = schedule_table(o), vars(o), new_figure()
    epoch = table["epoch"]
    text = f"KL annealing: {kl_text(options)}"
    weight = new_panel(figure, "β (KL weight)", height=2.4, heading=text)
    add_line(weight, epoch, table["beta"], "beta", color=GREEN)
    axis_from_zero(weight.axes, table["beta"])
    text = f"teacher forcing (TF): {forcing_text({**options, 'detector_patience': 0})}"
    forcing = new_panel(figure, "TF ratio (0 to 1)", share=weight, height=2.4, heading=text)
    text = "probability" + (" (but for the detector)" if o.detector_patience else "")
    add_line(forcing, epoch, table["tfr"], "tfr", text, color=PURPLE, ls=DASHED, marker="s")
    text = f"TF on, drawn with seed {o.seed}: {int(table['tf_active'].sum())} of {o.num_epoch}"
    add_teacher_forcing(forcing, epoch, table["tf_active"], text)
    axis_from_zero(forcing.axes, np.ones(1))
    text = f"learning rate: {o.lr_scheduler}"
    rate = new_panel(
        figure, "learning rate", share=weight, height=2.0, heading=text, xlabel="epoch"
    )
    add_line(rate, epoch, table["lr"], "lr", color=BLACK, drawstyle="steps-mid")
    rate_axis(rate.axes, table["lr"])
    whole_number_axis(weight.axes, 0, o.num_epoch - 1)
    arrange(figure, [weight, forcing, rate], title=f"Schedules, num_epoch {o.num_epoch}")
    return figure


def fu_figure() -> Figure:
    """The two KL weights of Fu et al. 2019, figure 1, over 40,000 iterations."""
    figure = new_figure()
    panels: list[Panel] = []
    for kind, ratio, colour in (("Monotonic", 0.25, BLUE), ("Cyclical", 0.5, VERMILLION)):
        how: dict[str, Any] = {"anneal_type": kind, "cycles": 4, "ratio": ratio}
        beta = np.array([kl_weight(i, num_epoch=40_000, **how) for i in range(40_000)])
        options = {"kl_anneal_type": kind, "kl_anneal_cycle": 4, "kl_anneal_ratio": ratio}
        share, text = panels[0] if panels else None, kl_text({**options, "kl_beta": 1.0})
        panel = new_panel(figure, "β (KL weight)", share=share, height=2.4, heading=text)
        add_line(panel, np.arange(40_000), beta, "beta", color=colour)
        axis_from_zero(panel.axes, beta)
        panels.append(panel)
    panels[-1].xlabel = "iteration"
    whole_number_axis(panels[0].axes, 0, 40_000)
    arrange(figure, panels, title="KL weight as in Fu et al. 2019")
    return figure


def schedules(argv: Sequence[str]) -> list[str]:
    """The `schedules` command; returns lines to be printed."""
    description = "Draw β, teacher forcing and learning rate that Trainer.py's options will give."
    options, explicit = parse(ScheduleOptions, description, argv)
    out = Path(options.out)
    if out.suffix.lower() != ".png":
        raise UserError(f"--out {out}: figures are PNG files; give a name that ends in .png")
    notes = []
    if options.fu_figure:
        if others := sorted(explicit - {"fu_figure", "out"}):
            raise UserError(f"--fu_figure has its settings from the paper: leave out --{others[0]}")
        figure = fu_figure()
    else:
        options.DR = options.DR or "unknown"  # no data is needed here
        check_combinations(options)
        fill_in_derived(options)
        notes = without_effect(options, explicit)
        if options.detector_patience:
            notes.append("note: the detector's raises depend on results and are not drawn")
        figure = schedules_figure(options)
    out.parent.mkdir(parents=True, exist_ok=True)
    return [*notes, f"wrote {save(figure, out)}"]


# ----------------------------------------------------------------------------------------
# Command line


def redraw_frames(folder: Path) -> Path:
    """Draw RUN/psnr_per_frame_curve.png from RUN/psnr_per_frame.csv; returns its path.

    A file of its own: psnr_per_frame.png has pictures that no file of the run could bring back.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder; give the --save_root of a run")
    table = frames_of(folder)
    if table is None:
        raise UserError(f"{folder / 'psnr_per_frame.csv'}: missing: no validation has ended yet")
    frames, psnr = table
    if frames.tolist() != list(range(1, len(frames) + 1)):
        raise UserError(f"{folder / 'psnr_per_frame.csv'}: its frames are not 1, 2, 3, …")
    return draw_psnr_per_frame(folder / "psnr_per_frame_curve.png", psnr, title_prefix="Validation")


def main() -> None:
    """Run one of the commands. Raises UserError."""
    parser = ArgumentParser(
        prog="python -m modules.plots", description="Draw the figures and tables of a report."
    )
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="{curves,frames,compare,schedules}"
    )
    for name, text in (
        ("curves", "redraw RUN/curves.png from its metrics.csv"),
        ("frames", "draw RUN/psnr_per_frame_curve.png from its psnr_per_frame.csv"),
        ("compare", "figures and summary table of several runs"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument(
            "runs", nargs="+", type=path_argument, metavar="RUN", help="folder of a run"
        )
        if name == "compare":
            command.add_argument(
                "--out",
                type=path_argument,
                required=True,
                metavar="DIR",
                help="folder for the results",
            )
    commands.add_parser(
        "schedules", add_help=False, help="β, teacher forcing and learning rate of Trainer options"
    )
    try:
        if sys.argv[1:2] == ["schedules"]:  # takes Trainer.py's options, by their own parser
            lines = schedules(sys.argv[2:])
        else:
            options = parser.parse_args()
            if options.command == "compare":
                lines = compare(options.runs, options.out)
            else:
                draw = draw_curves if options.command == "curves" else redraw_frames
                lines = [f"wrote {draw(folder)}" for folder in options.runs]
    except OSError as error:
        raise UserError(f"{error.filename}: {error.strerror}") from error
    print("\n".join(lines))


if __name__ == "__main__":
    run_as_script(main)
