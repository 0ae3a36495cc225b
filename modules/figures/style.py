"""How every figure looks: size, colours, legends above their panels, lines and axes.

Figures are 8.5 cm wide (the overview of `compare` 17 cm) and their text is at least 7 pt at that
width, that of an A4 column. Colours are Okabe & Ito's; lines that differ in colour also differ in
style. Only matplotlib's objects are used: no pyplot, no global state, no display, any thread.
"""

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.image import AxesImage
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter
from PIL import Image

from modules.figures.pictures import write_png
from modules.figures.words import plain_number
from modules.runtime.errors import shown

# Okabe & Ito 2008, "Color Universal Design", without the yellow that is lost on white paper.
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
BLUE, VERMILLION, PURPLE = "#0072B2", "#D55E00", "#CC79A7"
GREY, BAND = "#666666", "#F5E3B3"
SOLID: Any = "-"
DASHED: Any = (0, (4, 1.5))
SHORT_DASHED: Any = (0, (2, 1))
DOTTED: Any = (0, (1, 1.5))
DASH_DOT: Any = (0, (5, 1.5, 1, 1.5))
COLUMN, PAGE = 8.5, 17.0  # width of a figure, cm
TEXT, AXIS_TEXT, TITLE_TEXT = 7.0, 7.5, 8.0  # points
NOTE_WIDTH = 64  # characters of a line of 7 pt in a column
ROW = 0.34  # height of a line of legend, cm
DPI = 220
STEPS = (1, 2, 5, 10)  # of tick labels
MARKED_UP_TO = 25  # points of a line that each get a marker; more would overlap
THIN_FROM = 150  # points of a line that is drawn thinner, since its extrema lie close


# ----------------------------------------------------------------------------------------
# Layout: panels of a known size, legends above them so that no curve is hidden


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
    """A user's text with "?" for characters that the font lacks: matplotlib would warn of each.

    A leading underscore gets a space before it, since it would hide a legend's entry.
    """
    known = get_font(findfont(FontProperties())).get_charmap()
    text = "".join(c if c == "\n" or ord(c) in known else "?" for c in shown(text))
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
        text.set_parse_math(False)  # a $ in a name does not start a formula
    (parent.add_artist if in_axes else figure.legends.append)(legend)


def arrange(
    figure: Figure,
    panels: Sequence[Panel],
    *,
    title: str,
    handles: Sequence[Any] = (),
    notes: Sequence[str] = (),
    columns: int = 1,
    below: float = 0.0,
) -> float:
    """Place the panels in rows from the top and set the figure's size; returns its height in cm.

    notes:   what must not be overlooked, in colour under the title
    handles: entries of a legend under the title, for all panels together
    below:   free room under the panels, cm
    """
    width = PAGE if columns > 1 else COLUMN
    left, right = 1.5, 1.0 if any(panel.twin for panel in panels) else 0.45
    cell = width / columns
    inner = cell - left - right  # width of the axes, cm
    common = legend_rows(figure, handles, width - 0.1)
    legends = [legend_rows(figure, panel.handles, cell - 0.5) for panel in panels]
    notes = [textwrap.fill(note, round(NOTE_WIDTH * width / COLUMN)) for note in notes]
    title_end = 0.15 + 0.36 * (title.count("\n") + 1)
    head = title_end + sum(ROW * (note.count("\n") + 1) for note in notes)
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
    for note in notes:
        place = (0.2 / width, 1 - title_end / total)
        figure.text(*place, note, color=VERMILLION, fontsize=TEXT, va="top", gid="note")
        title_end += ROW * (note.count("\n") + 1)
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
    """Write the figure as PNG, whole or not at all. Raises UserError.

    A figure without pictures has few colours: a palette of 256 looks the same in a third of the
    space.
    """
    figure.set_dpi(DPI)
    canvas = figure.canvas
    assert isinstance(canvas, FigureCanvasAgg)
    canvas.draw()
    image = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    if not figure.findobj(AxesImage):
        # An octree has a near colour for every shade of an edge; a median cut spends all on white.
        image = image.quantize(256, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
        paper = np.asarray(image)[0, 0]  # which the octree makes not quite white
        colours = np.array(image.getpalette(), np.uint8).reshape(-1, 3)
        colours[paper] = 255
        image.putpalette(colours.tobytes())
    return write_png(path, image, dpi=(DPI, DPI))


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
    count = points or len(y)
    few = count <= MARKED_UP_TO
    marked = np.flatnonzero(known if few else alone).tolist()
    look = {"lw": 1.2 if count < THIN_FROM else 0.8, "marker": "o", "ms": 3, "mew": 0, **look}
    (axes or panel.axes).plot(x, np.where(known, y, np.nan), markevery=marked, gid=name, **look)
    if label is not None:
        if not few:
            look["marker"] = "None"
        panel.handles.append(Line2D([], [], label=label, **look))


REGIONS: dict[str, tuple[str, Look]] = {
    "inside": ("near the skeleton", {"color": PURPLE, "ls": SHORT_DASHED, "marker": "v"}),
    "outside": ("elsewhere", {"color": GREEN, "ls": DASH_DOT, "marker": "^"}),
}


def add_regions(
    panel: Panel,
    x: np.ndarray,
    psnr: Mapping[str, np.ndarray | None],
    *,
    prefix: str = "",
    legend: bool = True,
    **look: Any,
) -> None:
    """Thin lines of the PSNR near the skeleton and elsewhere, where there are such values.

    psnr: "inside" and "outside"; the name of a line is the prefix and this. look: see add_line.
    """
    for region, (label, own) in REGIONS.items():
        values = psnr.get(region)
        if values is not None and np.isfinite(values).any():
            thin: Look = {"lw": 0.8, "ms": 2.5, **own, **look}
            add_line(panel, x, values, prefix + region, label if legend else None, **thin)


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
    """The finite values, in order."""
    return values[np.isfinite(values)]


def number_axis(axes: Axes, values: np.ndarray | None = None, log_from: float = 30.0) -> None:
    """Plain tick labels, and a logarithmic y axis if positive values span a factor `log_from`."""
    known = finite(values) if values is not None else np.zeros(0)
    span = known[known > 0].max() / known[known > 0].min() if (known > 0).any() else 1.0
    if span >= log_from:
        axes.set_yscale("log", nonpositive="mask")
        if span >= 10:
            axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=STEPS))
    axes.yaxis.set_major_formatter(FuncFormatter(plain_number))


def axis_from_zero(axes: Axes, values: np.ndarray) -> None:
    """A y axis from 0 to a little above the largest value."""
    largest = finite(values).max(initial=0.0) or 1.0
    axes.set_ylim(-0.03 * largest, 1.06 * largest)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=4, steps=STEPS))
    axes.yaxis.set_major_formatter(FuncFormatter(plain_number))


def rate_axis(axes: Axes, rates: np.ndarray) -> None:
    """A y axis for learning rates, logarithmic for a few steps by large factors."""
    few = len(np.unique(rates)) <= 8  # a smooth fall to zero needs no logarithm
    number_axis(axes, rates, log_from=9.0 if few else math.inf)
    if axes.get_yscale() == "linear":
        axis_from_zero(axes, rates)


def whole_number_axis(axes: Axes, first: float, last: float) -> None:
    """An x axis over whole numbers first … last, with a margin at both ends."""
    air = max(0.5, 0.015 * (last - first))
    axes.set_xlim(first - air, last + air)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=7, steps=STEPS, integer=True, min_n_ticks=1))
    axes.xaxis.set_major_formatter(FuncFormatter(plain_number))


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
    """Thin dotted lines at the PSNR of the baselines that are known."""
    for key, name, style in (
        ("first_frame", "first frame", DOTTED),
        ("mean_train_frame", "mean training frame", (0, (1, 3))),
        ("nearest_pose", "nearest pose", (0, (1, 1, 1, 3))),
    ):
        value = baselines.get(key) if isinstance(baselines, dict) else None
        if isinstance(value, int | float) and math.isfinite(value):
            label = f"{name} {value:.2f} dB"
            look: Look = {"color": GREY, "ls": style, "lw": 0.9, "zorder": 1}
            panel.handles.append(panel.axes.axhline(value, gid=key, label=label, **look))
