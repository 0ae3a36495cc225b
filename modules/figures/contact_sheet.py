"""The contact sheet of a data set: labels over frames, and the change from frame to frame.

    write_contact_sheet(Path("data.png"), "data/demo", train, val, tests, ink)

It draws what it is given: cuts, blank labels and copies are found elsewhere.

Legend: N frames of a split, H, W height and width; frames and labels are uint8 RGB.
"""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from modules.figures.pictures import caption_font, enlarge, viewing_scale, write_png
from modules.figures.style import (
    AXIS_TEXT,
    BLUE,
    DPI,
    GREY,
    ORANGE,
    PURPLE,
    TEXT,
    VERMILLION,
    new_figure,
)
from modules.ink import Ink

Pixels = NDArray[np.uint8]

COLUMNS = 6  # of pictures


class SheetSplit(NamedTuple):
    """A split to be shown; frames are called by their index, 0 … N - 1."""

    name: str
    frames: Pixels  # (N, H, W, 3)
    labels: Pixels  # (N, H, W, 3)
    names: Sequence[str]  # (N,) of the frames, shown above them
    starts: Sequence[int]  # frames at which recordings start, 0 among them
    steps: NDArray[np.float64]  # (N - 1,) difference of each frame to the one before, 0-255
    cuts: Sequence[int]  # frames before which the picture jumps
    blank: NDArray[np.bool_]  # (N,) whether the label is blank
    copies: Sequence[int] = ()  # frames that are in the training split too


class SheetSequence(NamedTuple):
    """A test sequence to be shown."""

    name: str
    frame: Pixels  # (H, W, 3), its first one
    label: Pixels  # (H, W, 3), of that frame
    length: int  # labels


def overlay(frames: Pixels, labels: Pixels, ink: Ink) -> Pixels:
    """Labels laid over their frames, both (N, H, W, 3) uint8; their background is transparent."""
    seen = 1 - ink.cover(labels)[..., None]  # part of the frame, and before of the background
    laid = frames * seen + labels - seen * np.array(ink.background)
    return np.rint(laid).clip(0, 255).astype(np.uint8)


def _strip(
    pictures: Pixels, captions: Sequence[str], heading: str, colours: Sequence[str]
) -> Image.Image:
    """Rows of six pictures, each with its caption above it, under a heading."""
    scale, gap = viewing_scale(pictures.shape[1]), 8
    high, wide = pictures.shape[1] * scale, pictures.shape[2] * scale
    font, small = caption_font(26), caption_font(max(12, min(22, wide // 9)))
    line = 32
    rows = -(-len(pictures) // COLUMNS)
    size = (COLUMNS * (wide + gap) + gap, 48 + rows * (high + line + gap))
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((gap, 24), heading, fill="black", font=font, anchor="lm")
    for index, picture in enumerate(enlarge(pictures, scale)):
        x = gap + index % COLUMNS * (wide + gap)
        y = 48 + index // COLUMNS * (high + line + gap)
        draw.text((x, y + line // 2), captions[index], colours[index], small, anchor="lm")
        sheet.paste(Image.fromarray(picture), (x, y + line))
    return sheet


def _split_strip(split: SheetSplit, rows: int, heading: str, ink: Ink) -> Image.Image:
    """Evenly spaced frames under their labels; the first jumps and blank labels too."""
    shown = np.linspace(0, len(split.frames) - 1, min(rows * COLUMNS, len(split.frames)))
    chosen = set(shown.round().astype(int).tolist())
    chosen |= {t for cut in split.cuts[: COLUMNS // 2] for t in (cut - 1, cut)}
    chosen |= set(np.flatnonzero(split.blank)[: COLUMNS // 2].tolist())
    order = sorted(chosen)
    captions = [
        f"{split.names[t]}{': jump' if t in split.cuts else ': no label' if split.blank[t] else ''}"
        for t in order
    ]
    colours = [VERMILLION if t in split.cuts or split.blank[t] else "black" for t in order]
    pictures = overlay(split.frames[order], split.labels[order], ink)
    return _strip(pictures, captions, heading, colours)


def _test_strip(tests: Sequence[SheetSequence], ink: Ink) -> Image.Image:
    """The first frames of the first six test sequences under their labels."""
    some = tests[:COLUMNS]
    frames = np.stack([test.frame for test in some])
    labels = np.stack([test.label for test in some])
    captions = [f"{test.name}: {test.length} labels" for test in some]
    heading = f"test, {len(tests)} sequence(s), first frames"
    return _strip(overlay(frames, labels, ink), captions, heading, ["black"] * len(some))


def _steps_chart(splits: Sequence[SheetSplit], width: int) -> Image.Image:
    """How much each frame differs from the one before; recordings, jumps, blank labels, copies."""
    figure = new_figure()
    figure.set_size_inches(width / DPI, 2 * 1.15 + 0.5)
    for row, split in enumerate(splits):
        axes = figure.add_subplot(len(splits), 1, row + 1)
        _plot_steps(axes, split)
        if row == 0:
            title = "Difference to the frame before (mean over pixels, 0-255)"
            axes.set_title(title, fontsize=AXIS_TEXT, loc="left")
    axes.set_xlabel("frame, in order", fontsize=AXIS_TEXT)
    figure.subplots_adjust(0.06, 0.13, 0.985, 0.9, hspace=0.42)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return Image.open(buffer).convert("RGB")


def _plot_steps(axes: Axes, split: SheetSplit) -> None:
    last = len(split.frames) - 1
    # The step into a recording is not a movement; drawn, it would flatten all others.
    within = split.steps.copy()
    within[[start - 1 for start in split.starts if start]] = np.nan
    axes.plot(np.arange(1, last + 1), within, color=BLUE, linewidth=0.5)
    top = max(float(np.nanmax([0, *within])), 1.0) * 1.15
    for index, start in enumerate([start for start in split.starts if start]):
        name = "" if index else "recording begins (clips.csv)"
        axes.axvline(start, color=GREY, linewidth=0.6, linestyle=(0, (4, 2)), label=name)
    if split.cuts:
        values = split.steps[[cut - 1 for cut in split.cuts]]
        axes.plot(split.cuts, values, "v", color=VERMILLION, markersize=4, label="jump")
    for where, colour, name in (
        (np.flatnonzero(split.blank), ORANGE, "blank label"),
        (np.array(sorted(split.copies), int), PURPLE, "also in train"),
    ):
        if len(where):
            axes.plot(where, 0 * where, "|", color=colour, clip_on=False, label=name)
    axes.set_xlim(0, max(last, 1))
    axes.set_ylim(0, top)
    axes.set_ylabel(split.name, fontsize=AXIS_TEXT)
    axes.tick_params(labelsize=TEXT, length=2.5, pad=2)
    axes.grid(color="#DDDDDD", linewidth=0.4)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=TEXT, ncols=4, loc="lower right", bbox_to_anchor=(1, 1), frameon=False)


def write_contact_sheet(
    path: Path,
    title: str,
    train: SheetSplit,
    val: SheetSplit,
    tests: Sequence[SheetSequence],
    ink: Ink,
) -> Path:
    """Write the contact sheet as PNG; returns its path. Raises UserError if the disk refuses.

    ink: of the data set's labels
    """
    recordings = f" in {len(train.starts)} recording(s)"
    strips = [
        _split_strip(train, 2, f"{title}: train, {len(train.frames)} frames{recordings}", ink),
        _split_strip(val, 1, f"val, {len(val.frames)} frames", ink),
    ]
    if tests:
        strips.append(_test_strip(tests, ink))
    strips.append(_steps_chart([train, val], strips[0].width))
    size = (max(strip.width for strip in strips), sum(strip.height for strip in strips))
    sheet = Image.new("RGB", size, "white")
    y = 0
    for strip in strips:
        sheet.paste(strip, (0, y))
        y += strip.height
    return write_png(path, sheet)
