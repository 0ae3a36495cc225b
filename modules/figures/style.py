"""How every figure looks: sizes, colours, lines, axes. Layout is left to matplotlib's own engine.

Figures are as wide as a column or an A4 page, with text of at least 7 pt. Lines that differ in
colour also differ in style. No pyplot, so no display and no list of open figures.
"""

import io
import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from modules.diagnosis import BASELINES
from modules.runtime.errors import shown
from modules.runtime.files import write_atomically

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
DPI = 220
STEPS = (1, 2, 5, 10)  # of tick labels
MARKED_UP_TO = 25  # points of a line that each get a marker; more would overlap
THIN_FROM = 150  # points of a line that is drawn thinner, since its extrema lie close

Look = dict[str, Any]  # colour, line style, marker … in matplotlib's words

matplotlib.rcdefaults()  # whatever a user's matplotlibrc says
matplotlib.rcParams.update(
    {
        "figure.constrained_layout.use": True,
        "figure.dpi": DPI,
        "figure.facecolor": "white",
        "figure.titlesize": 8,
        "font.family": "DejaVu Sans",  # matplotlib has it with it: the same on every machine
        "font.size": 7,
        "axes.titlesize": 7.5,
        "axes.titlelocation": "left",
        "axes.labelsize": 7.5,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": "#DDDDDD",
        "grid.linewidth": 0.4,
        "xtick.labelsize": 7,
        "ytick.labelsize": 7,
        "legend.fontsize": 7,
        "legend.frameon": False,
        "legend.handlelength": 2.2,
        "legend.columnspacing": 1.0,
        "legend.labelspacing": 0.3,
        "text.usetex": False,
        "text.parse_math": False,  # a $ in a run's name does not start a formula
    }
)


def new_figure(height: float, title: str = "", *, width: float = COLUMN) -> Figure:
    """An empty figure of width × height cm. A title has no room above a legend: use one of both."""
    figure = Figure(figsize=(width / 2.54, height / 2.54))
    FigureCanvasAgg(figure)
    if title:
        figure.suptitle(drawable(title), x=0.01, ha="left")
    return figure


def drawable(text: str) -> str:
    """A user's text with "?" for characters that the font lacks (a warning of matplotlib's), and a
    space before a leading underscore, which would hide a legend's entry."""
    known = get_font(findfont(FontProperties())).get_charmap()
    text = "".join(c if c == "\n" or ord(c) in known else "?" for c in shown(text))
    return f" {text}" if text.startswith("_") else text


def shorten(text: str, length: int) -> str:
    """The text, cut in the middle to at most `length` characters."""
    if len(text) <= length:
        return text
    return text[: length // 2] + "…" + text[len(text) - (length - 1) // 2 :]


def plain_number(value: float, _: Any = None) -> str:
    """0.001, 20, 1e-5: a number as a user would type it, also as the label of a tick."""
    mantissa, _, exponent = f"{value:.6g}".partition("e")
    return f"{mantissa}e{int(exponent)}" if exponent else mantissa


def legend_above(figure: Figure | SubFigure, *panels: Axes, ncols: int = 2) -> None:
    """A legend of these axes above them, where it hides no curve; figure: theirs alone."""
    handles = [handle for axes in panels for handle in axes.get_legend_handles_labels()[0]]
    figure.legend(handles=handles, loc="outside upper left", ncols=ncols)


def save(figure: Figure, path: Path) -> Path:
    """Write the figure as PNG, whole or not at all. Raises UserError."""
    return write_whole(path, figure.savefig)


def write_whole(path: Path, write: Callable[[io.BytesIO], object]) -> Path:
    """A file whose content `write` puts into a buffer, whole or not at all. Raises UserError."""
    buffer = io.BytesIO()
    write(buffer)
    write_atomically(path, buffer.getvalue())
    return path


# ---------------------------------------------------------------- lines


def add_line(
    axes: Axes,
    x: np.ndarray,
    y: np.ndarray,
    name: str,
    label: str | None = None,
    *,
    points: int | None = None,
    **look: Any,
) -> None:
    """A curve that breaks where y is NaN. Few points, and those without neighbours, get markers.

    name: of the numbers, the line's gid; label: in the legend; points: of all parts of the curve
    """
    known = np.isfinite(y)
    alone = known & ~np.r_[False, known[:-1]] & ~np.r_[known[1:], False]
    count = points or len(y)
    marked = np.flatnonzero(known if count <= MARKED_UP_TO else alone).tolist()
    look = {"lw": 1.2 if count < THIN_FROM else 0.8, "marker": "o", "ms": 3, "mew": 0, **look}
    axes.plot(x, np.where(known, y, np.nan), markevery=marked, gid=name, label=label, **look)


REGIONS: dict[str, tuple[str, Look]] = {
    "inside": ("near the skeleton", {"color": PURPLE, "ls": SHORT_DASHED, "marker": "v"}),
    "outside": ("elsewhere", {"color": GREEN, "ls": DASH_DOT, "marker": "^"}),
}


def add_marks(axes: Axes, x: Any, y: Any, name: str, label: str | None = None, **look: Any) -> None:
    """Single points, like `add_line`; a y that is one number is a height in the axes, 0 to 1."""
    look = {"color": BLACK, "mew": 0.8, **look}
    if isinstance(y, float):
        look["transform"], y = axes.get_xaxis_transform(), np.full(len(x), y)
    axes.plot(x, y, ls="None", gid=name, label=label, **look)


def add_teacher_forcing(
    axes: Axes, x: np.ndarray, forced: np.ndarray, label: str | None = None
) -> None:
    """Bands over the epochs that were teacher-forced ("TF status"), the darker the more.

    forced: (epochs,), 0 to 1
    """
    edges = [0, *np.flatnonzero(np.diff(forced)) + 1, len(forced)]
    place: Look = {"lw": 0, "zorder": 0, "gid": "tf_active"}
    for start, stop in pairwise(edges):
        if forced[start] > 0:
            ends = x[start] - 0.5, x[stop - 1] + 0.5
            axes.axvspan(*ends, color=(BAND, forced[start]), label=label, **place)
            label = None


def add_best_baseline(axes: Axes, known: dict[str, float]) -> None:
    """A thin dotted line at the highest PSNR of the baselines."""
    if known:
        key = max(known, key=lambda name: known[name])
        label = f"baseline {BASELINES[key]}, {known[key]:.2f} dB"
        axes.axhline(known[key], gid=key, label=label, color=GREY, ls=DOTTED, lw=0.9, zorder=1)


# ---------------------------------------------------------------- axes


def number_axis(
    axes: Axes,
    values: np.ndarray | None = None,
    *,
    log_from: float = 30.0,
    from_zero: bool = False,
) -> None:
    """Plain tick labels, and a logarithmic y axis if positive values span a factor `log_from`;
    from_zero: else one from 0 to a little above the largest value."""
    known = np.zeros(0) if values is None else values[np.isfinite(values) & (values > 0)]
    if len(known) and known.max() >= log_from * known.min():
        axes.set_yscale("log", nonpositive="mask")
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        if from_zero:
            largest = known.max(initial=0.0) or 1.0
            axes.set_ylim(-0.03 * largest, 1.06 * largest)
        axes.yaxis.set_major_locator(MaxNLocator(nbins=4 if from_zero else 6, steps=STEPS))
    axes.yaxis.set_major_formatter(FuncFormatter(plain_number))


def axis_from_zero(axes: Axes, values: np.ndarray) -> None:
    """A linear y axis from 0 to a little above the largest value."""
    number_axis(axes, values, log_from=math.inf, from_zero=True)


def rate_axis(axes: Axes, rates: np.ndarray) -> None:
    """A y axis for learning rates: logarithmic for a few steps by large factors."""
    few = 2 * len(np.unique(rates)) <= len(rates)  # a smooth fall to zero needs no logarithm
    number_axis(axes, rates, log_from=9.99 if few else math.inf, from_zero=True)


def whole_number_axis(axes: Axes, first: float, last: float) -> None:
    """An x axis over whole numbers first … last, with a margin at both ends."""
    air = max(0.5, 0.015 * (last - first))
    axes.set_xlim(first - air, last + air)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=7, steps=STEPS, integer=True, min_n_ticks=1))
    axes.xaxis.set_major_formatter(FuncFormatter(plain_number))
