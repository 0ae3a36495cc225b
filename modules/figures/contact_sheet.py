"""The contact sheet of a data set: labels over frames, and the change from frame to frame."""

import io
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray
from PIL import Image

from modules.datasets.inspection import Inspected
from modules.figures import style
from modules.figures.media import picture_grid
from modules.ink import Ink

Pixels = NDArray[np.uint8]

COLUMNS = 3  # of pictures, each of them a frame and the same under its label


def overlay(frames: Pixels, labels: Pixels, ink: Ink) -> Pixels:
    """Labels laid over their frames, both (N, H, W, 3) uint8; their background is transparent."""
    seen = 1 - ink.cover(labels)[..., None]  # part of the frame, and before of the background
    laid = frames * seen + labels - seen * np.array(ink.background)
    return np.rint(laid).clip(0, 255).astype(np.uint8)


def _grid(
    frames: Pixels, labels: Pixels, ink: Ink, captions: Sequence[str], heading: str, **more: Any
) -> Image.Image:
    """Bare frames, and to the right of each the same under its label."""
    bare = np.pad(frames, ((0, 0), (0, 0), (0, 1), (0, 0)), constant_values=255)
    pairs = np.concatenate([bare, overlay(frames, labels, ink)], axis=2)
    return picture_grid(pairs, captions, heading, columns=COLUMNS, **more)


def _split_strip(split: Inspected, ink: Ink, rows: int, heading: str) -> Image.Image:
    """Evenly spaced frames beside their labels over them; the first jumps and blank labels too."""
    shown = np.linspace(0, len(split.frames) - 1, min(rows * COLUMNS, len(split.frames)))
    jumps = [t for cut in split.cuts[:COLUMNS] for t in (cut - 1, cut)]
    blank = np.flatnonzero(split.blank)[:COLUMNS].tolist()
    order = sorted({*shown.round().astype(int).tolist(), *jumps, *blank})
    marks = [": jump" if t in split.cuts else ": no label" * int(split.blank[t]) for t in order]
    captions = [split.names[t] + mark for t, mark in zip(order, marks, strict=True)]
    colours = [style.VERMILLION if mark else "black" for mark in marks]
    pixels = split.frames[order], split.labels[order], ink
    return _grid(*pixels, captions, heading, colours=colours)


def _plot_steps(axes: Axes, split: Inspected) -> None:
    starts = [start for start in split.starts if start]
    steps = np.r_[0, split.steps]
    # The step into a recording is not a movement; drawn, it would flatten all others.
    within = steps.copy()
    within[[0, *starts]] = np.nan
    axes.plot(within, color=style.BLUE, lw=0.5)
    top = max(float(np.nanmax([0, *within])), 1.0) * 1.15
    if starts:
        look: style.Look = {"lw": 0.6, "ls": style.DASHED, "label": "recording begins (clips.csv)"}
        axes.vlines(starts, 0, top, style.GREY, **look)
    for where, y, colour, marker, name in (
        (split.cuts, steps, style.VERMILLION, "v", "jump"),
        (np.flatnonzero(split.blank), 0 * steps, style.ORANGE, "|", "blank label"),
        (split.copies, 0 * steps, style.PURPLE, "|", "also in train"),
    ):
        if len(where):
            look = {"color": colour, "marker": marker, "ms": 5, "clip_on": marker == "v"}
            style.add_marks(axes, where, y[[*where]], name, name, **look)
    axes.set(xlim=(0, max(len(steps) - 1, 1)), ylim=(0, top), ylabel=split.name)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(ncols=4, loc="lower right", bbox_to_anchor=(1, 1))


def write_contact_sheet(
    path: Path,
    title: str,
    train: Inspected,
    val: Inspected,
    tests: Sequence[tuple[str, Pixels, Pixels, int]],
    ink: Ink,
) -> None:
    """Write the contact sheet of an inspected data set as PNG. Raises UserError.

    tests: of each sequence its name, first frame and label, (H, W, 3), and number of labels
    """
    recordings = f" in {len(train.starts)} recording(s)"
    strips = [
        _split_strip(train, ink, 4, f"{title}: train, {len(train.frames)} frames{recordings}"),
        _split_strip(val, ink, 2, f"val, {len(val.frames)} frames"),
    ]
    if some := tests[: 2 * COLUMNS]:
        names, frames, labels, counts = zip(*some, strict=True)
        captions = [f"{name}: {n} labels" for name, n in zip(names, counts, strict=True)]
        heading = f"test, {len(tests)} sequence(s), first frames"
        strips.append(_grid(np.stack(frames), np.stack(labels), ink, captions, heading))
    # How much each frame differs from the one before.
    figure = style.new_figure(7.0, width=strips[0].width / style.DPI * 2.54)
    panels = figure.subplots(2)
    _plot_steps(panels[0], train)
    _plot_steps(panels[1], val)
    panels[0].set_title("Difference from the previous frame (mean over pixels, 0-255)")
    panels[1].set_xlabel("frame, in order")
    figure.savefig(buffer := io.BytesIO())
    strips.append(Image.open(buffer).convert("RGB"))
    size = (max(strip.width for strip in strips), sum(strip.height for strip in strips))
    sheet, y = Image.new("RGB", size, "white"), 0
    for strip in strips:
        sheet.paste(strip, (0, y))
        y += strip.height
    style.write_whole(path, partial(sheet.save, format="PNG"))
