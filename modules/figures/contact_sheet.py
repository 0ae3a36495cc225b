"""The contact sheet of a data set: labels over frames, and the change from frame to frame.

Legend: N frames of a split, H, W height and width; frames and labels are uint8 RGB.
"""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray
from PIL import Image

from modules.figures import style
from modules.figures.media import picture_grid, write_png
from modules.ink import Ink

Pixels = NDArray[np.uint8]

COLUMNS = 3  # of pictures, each of them a frame and the same under its label


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


def beside(frames: Pixels, labels: Pixels, ink: Ink) -> Pixels:
    """Bare frames, and to the right of each the same under its label: (N, H, 2 W + 1, 3)."""
    bare = np.pad(frames, ((0, 0), (0, 0), (0, 1), (0, 0)), constant_values=255)
    return np.concatenate([bare, overlay(frames, labels, ink)], axis=2)


def _split_strip(split: SheetSplit, rows: int, heading: str, ink: Ink) -> Image.Image:
    """Evenly spaced frames beside their labels over them; the first jumps and blank labels too."""
    shown = np.linspace(0, len(split.frames) - 1, min(rows * COLUMNS, len(split.frames)))
    chosen = set(shown.round().astype(int).tolist())
    chosen |= {t for cut in split.cuts[:COLUMNS] for t in (cut - 1, cut)}
    chosen |= set(np.flatnonzero(split.blank)[:COLUMNS].tolist())
    order = sorted(chosen)
    captions = [
        f"{split.names[t]}{': jump' if t in split.cuts else ': no label' if split.blank[t] else ''}"
        for t in order
    ]
    colours = [style.VERMILLION if t in split.cuts or split.blank[t] else "black" for t in order]
    pictures = beside(split.frames[order], split.labels[order], ink)
    return picture_grid(pictures, captions, heading, columns=COLUMNS, colours=colours)


def _plot_steps(axes: Axes, split: SheetSplit) -> None:
    last = len(split.frames) - 1
    # The step into a recording is not a movement; drawn, it would flatten all others.
    within = split.steps.copy()
    within[[start - 1 for start in split.starts if start]] = np.nan
    axes.plot(np.arange(1, last + 1), within, color=style.BLUE, linewidth=0.5)
    top = max(float(np.nanmax([0, *within])), 1.0) * 1.15
    for index, start in enumerate([start for start in split.starts if start]):
        name = "" if index else "recording begins (clips.csv)"
        axes.axvline(start, color=style.GREY, linewidth=0.6, linestyle=(0, (4, 2)), label=name)
    if split.cuts:
        values = split.steps[[cut - 1 for cut in split.cuts]]
        axes.plot(split.cuts, values, "v", color=style.VERMILLION, markersize=4, label="jump")
    for where, colour, name in (
        (np.flatnonzero(split.blank), style.ORANGE, "blank label"),
        (np.array(sorted(split.copies), int), style.PURPLE, "also in train"),
    ):
        if len(where):
            axes.plot(where, 0 * where, "|", color=colour, clip_on=False, label=name)
    axes.set(xlim=(0, max(last, 1)), ylim=(0, top), ylabel=split.name)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(ncols=4, loc="lower right", bbox_to_anchor=(1, 1))


def write_contact_sheet(
    path: Path,
    title: str,
    train: SheetSplit,
    val: SheetSplit,
    tests: Sequence[SheetSequence],
    ink: Ink,
) -> Path:
    """Write the contact sheet as PNG, returns its path; ink: of the labels. Raises UserError."""
    recordings = f" in {len(train.starts)} recording(s)"
    strips = [
        _split_strip(train, 4, f"{title}: train, {len(train.frames)} frames{recordings}", ink),
        _split_strip(val, 2, f"val, {len(val.frames)} frames", ink),
    ]
    if some := tests[: 2 * COLUMNS]:
        stacks = np.stack([t.frame for t in some]), np.stack([t.label for t in some])
        captions = [f"{test.name}: {test.length} labels" for test in some]
        heading = f"test, {len(tests)} sequence(s), first frames"
        strips.append(picture_grid(beside(*stacks, ink), captions, heading, columns=COLUMNS))
    # How much each frame differs from the one before.
    figure = style.new_figure(7.0, width=strips[0].width / style.DPI * 2.54)
    panels = figure.subplots(2)
    for axes, split in zip(panels, (train, val), strict=True):
        _plot_steps(axes, split)
    panels[0].set_title("Difference from the previous frame (mean over pixels, 0-255)")
    panels[1].set_xlabel("frame, in order")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=style.DPI)
    strips.append(Image.open(buffer).convert("RGB"))
    size = (max(strip.width for strip in strips), sum(strip.height for strip in strips))
    sheet = Image.new("RGB", size, "white")
    y = 0
    for strip in strips:
        sheet.paste(strip, (0, y))
        y += strip.height
    return write_png(path, sheet)
