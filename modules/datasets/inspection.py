"""What can be wrong with a data set that has no fault: cuts, blank labels, frames in two splits.

    findings = inspect(train, val, tests)
    findings.warnings()                     # in words, a line each
    write_picture(Path("data.png"), "data/demo", findings)

Nothing here is an error: a data set may have been made so on purpose, but one should know.

Legend: N frames of a split, H, W height and width; frames and labels are (N, H, W, 3) uint8.
"""

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from modules.figures.gifs import caption_font, enlarge, viewing_scale
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
from modules.runtime.errors import named
from modules.runtime.files import write_atomically

Pixels = NDArray[np.uint8]
Array = NDArray[np.float64]

INK = 24  # of 255: a label's pixel that is brighter in some channel is drawn on
CUT = 3.0  # a cut changes the picture so many times as much as the frames around it do …
CUT_BESIDE = 2.0  # … and so many times as much as the step before it and the step after it
CUT_FLASH = 4.0  # the two steps of a single foreign frame stand out from what is beside both
CUT_LEAST = 1.0  # of 255, mean over pixels: less is no cut, whatever the rest does
AROUND = 15  # frames to either side that say what is usual
NEAR = 0.5  # near-identical: closer than this part of the usual step between neighbouring frames
FULL = 0.5  # a label of which more is drawn on is hardly a skeleton on black
COLUMNS = 6  # of the picture


def differences(frames: Pixels) -> Array:
    """Mean absolute difference of each frame to the one before, (N - 1,), in 0-255."""
    steps = np.zeros(max(len(frames) - 1, 0))
    for t in range(len(steps)):  # one by one: a signed copy of all frames would take much memory
        steps[t] = np.abs(frames[t + 1].astype(np.int16) - frames[t]).mean()
    return steps


def find_cuts(steps: Array) -> list[int]:
    """Frames before which the picture jumps, given the steps of `differences`.

    A jump stands out against the median of up to 15 steps on either side, so that lively and quiet
    passages have each their own measure; and against its neighbours, so that the peak of a fast
    movement, which rises and falls over several frames, is none.
    """
    cuts: set[int] = set()
    padded = np.pad(steps, 2)
    for t, step in enumerate(steps.tolist()):
        first = max(0, t - AROUND)
        around = np.delete(steps[first : t + AROUND + 1], t - first)
        if not len(around) or step <= max(CUT * float(np.median(around)), CUT_LEAST):
            continue
        before, _, after, later = padded[t + 1 : t + 5].tolist()
        if step > CUT_BESIDE * max(before, after):
            cuts.add(t + 1)
        elif min(step, after) > CUT_FLASH * max(before, later):
            cuts |= {t + 1, t + 2}
    return sorted(cuts)


def blank_labels(labels: Pixels) -> NDArray[np.bool_]:
    """Which labels show nothing, (N,): no pixel is brighter than 24 of 255."""
    return np.asarray(labels.reshape(len(labels), -1).max(axis=1, initial=0) <= INK)


def drawn_part(labels: Pixels) -> Array:
    """Part of each label's pixels that is drawn on, (N,), 0-1."""
    return np.array([(label.max(axis=-1) > INK).mean() for label in labels])


class Copies(NamedTuple):
    """Frames of one split that are in another too, as (frame here, frame there)."""

    identical: list[tuple[int, int]]
    near: list[tuple[int, int]]  # not identical, but next to it


def find_copies(frames: Pixels, others: Pixels) -> Copies:
    """Frames of which `others` holds the same picture, or nearly.

    Identical: every pixel (SHA-256). Near: not identical, and the root mean square difference to
    some other frame is less than half of the usual one (median) between neighbouring `frames`: a
    copy that was compressed once more, or a video that stands still across the splits. Neighbours
    in time across a split are a whole step apart and are not counted.
    """
    places: dict[bytes, int] = {}
    for index, frame in enumerate(others):
        places.setdefault(hashlib.sha256(frame.tobytes()).digest(), index)
    found = (places.get(hashlib.sha256(frame.tobytes()).digest()) for frame in frames)
    identical = {index: place for index, place in enumerate(found) if place is not None}
    near: list[tuple[int, int]] = []
    if len(frames) > 1 and len(others):
        here, there = _flat(frames), _flat(others)
        usual = float(np.median(((here[1:] - here[:-1]) ** 2).mean(axis=1)))  # squared
        nearest, place = _nearest(here, there)
        near = [
            (index, int(place[index]))
            for index in np.flatnonzero(nearest < NEAR**2 * usual).tolist()
            if index not in identical
        ]
    return Copies(list(identical.items()), near)


def _flat(frames: Pixels) -> NDArray[np.float32]:
    """Frames of half the size (means of 2 × 2 pixels) as rows, (N, D)."""
    height, width = (side // 2 * 2 for side in frames.shape[1:3])
    half = np.zeros((len(frames), height // 2, width // 2, 3), np.float32)
    for row in (0, 1):
        for column in (0, 1):
            half += frames[:, row:height:2, column:width:2]
    half /= 4
    return half.reshape(len(frames), -1)


def _nearest(
    here: NDArray[np.float32], there: NDArray[np.float32], block: int = 2048
) -> tuple[Array, NDArray[np.intp]]:
    """For each row of `here`, mean squared difference to the nearest row of `there`, and which."""
    # |a - b|² = |a|² + |b|² - 2ab turns it into a matrix product; the mean is taken off first,
    # without which the difference of large numbers would lose what is looked for.
    mean = there.mean(axis=0)
    here, there = here - mean, there - mean
    best, place = np.full(len(here), np.inf), np.zeros(len(here), np.intp)
    squares = (here.astype(np.float64) ** 2).sum(axis=1)
    for start in range(0, len(there), block):
        part = there[start : start + block]
        distance = (part.astype(np.float64) ** 2).sum(axis=1)[None] - 2.0 * (here @ part.T)
        index = distance.argmin(axis=1)
        value = distance[np.arange(len(here)), index] + squares
        better = value < best
        best[better], place[better] = value[better], start + index[better]
    return np.maximum(best, 0) / here.shape[1], place


# ----------------------------------------------------------------------------------------
# A whole data set


@dataclass(frozen=True, eq=False)
class SplitPixels:
    """A split as it is looked at: the frames in recordings, in order, small."""

    name: str
    frames: Pixels  # (N, H, W, 3)
    labels: Pixels  # (N, H, W, 3)
    names: Sequence[str]  # (N,) what a frame is called: its file's name without ending
    starts: Sequence[int]  # indices at which recordings begin, 0 among them

    @cached_property
    def steps(self) -> Array:
        return differences(self.frames)

    @cached_property
    def cuts(self) -> list[int]:
        """Indices before which the picture jumps although no recording begins there."""
        return [cut for cut in find_cuts(self.steps) if cut not in set(self.starts)]

    @cached_property
    def blank(self) -> NDArray[np.bool_]:
        return blank_labels(self.labels)

    @cached_property
    def drawn(self) -> Array:
        return drawn_part(self.labels)

    def summary(self) -> str:
        """Labels and movement in one line."""
        text = f"blank labels: {self.blank.sum()} of {len(self.labels)}"
        text += f"; drawn on: {np.median(self.drawn):.1%} of a label"
        if len(self.steps):
            text += f"; a frame changes by {np.median(self.steps):.2f} of 255"
        return f"{text} (medians)"


class TestPixels(NamedTuple):
    """A test sequence as it is looked at."""

    name: str
    first_frame: Pixels  # (H, W, 3)
    labels: Pixels  # (T, H, W, 3)


@dataclass(frozen=True, eq=False)
class Findings:
    """What `inspect` saw."""

    train: SplitPixels
    val: SplitPixels
    tests: Sequence[TestPixels]
    copies: Copies  # frames of val in train
    test_copies: list[tuple[int, int]]  # (sequence, frame of train), identical first frames

    def warnings(self) -> list[str]:
        """What a person should look at, a line each; empty if there is nothing."""
        lines = []
        for split in (self.train, self.val):
            lines += _label_warnings(split.name, split.blank, split.names, split.drawn)
            if split.cuts:
                where = named(split.names[cut] for cut in split.cuts)
                advice = (
                    "no row of clips.csv begins there, so training clips cross it"
                    if split.name == "train"
                    else "the validation video is scored as one recording"
                )
                lines.append(f"{split.name}: the picture jumps before frame(s) {where}; {advice}")
        for test in self.tests:
            names = [str(t) for t in range(len(test.labels))]
            where = f"test {test.name}"
            lines += _label_warnings(
                where, blank_labels(test.labels), names, drawn_part(test.labels)
            )
        for kind, why, pairs in (
            ("identical", "the splits share frames", self.copies.identical),
            ("nearly identical", "copies, or a movement that repeats itself", self.copies.near),
        ):
            if pairs:
                val, train = self.val.names, self.train.names
                where = named(f"{val[a]} = train {train[b]}" for a, b in pairs)
                of = f"{len(pairs)} of {len(val)} frames"
                lines.append(f"val: {of} are {kind} to training frames ({why}): {where}")
        if self.test_copies:
            where = named(
                f"{self.tests[a].name} = train {self.train.names[b]}" for a, b in self.test_copies
            )
            lines.append(f"test: first frames that are training frames: {where}")
        return lines


def _label_warnings(
    where: str, blank: NDArray[np.bool_], names: Sequence[str], drawn: Array
) -> list[str]:
    lines = []
    if blank.any():
        which = named(names[index] for index in np.flatnonzero(blank).tolist())
        share = f"{blank.sum()} of {len(blank)} labels ({blank.mean():.1%})"
        lines.append(f"{where}: {share} show nothing: {which}")
    if len(drawn) and np.median(drawn) > FULL:
        lines.append(
            f"{where}: {np.median(drawn):.0%} of a label is drawn on; skeletons stand on black"
        )
    return lines


def inspect(train: SplitPixels, val: SplitPixels, tests: Sequence[TestPixels]) -> Findings:
    """Look at the splits of a data set; all pixels of one size."""
    first = np.stack([test.first_frame for test in tests]) if tests else train.frames[:0]
    return Findings(
        train,
        val,
        tests,
        find_copies(val.frames, train.frames),
        find_copies(first, train.frames).identical,
    )


# ----------------------------------------------------------------------------------------
# The picture


def overlay(frames: Pixels, labels: Pixels) -> Pixels:
    """Labels laid over their frames, both (N, H, W, 3) uint8; black is transparent."""
    cover = labels.max(axis=-1, keepdims=True) / 255
    return np.rint(frames * (1 - cover) + labels).clip(0, 255).astype(np.uint8)


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


def _split_strip(split: SplitPixels, rows: int, heading: str) -> Image.Image:
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
    return _strip(overlay(split.frames[order], split.labels[order]), captions, heading, colours)


def _steps_chart(findings: Findings, width: int) -> Image.Image:
    """How much each frame differs from the one before; recordings, jumps, blank labels, copies."""
    splits = [findings.train, findings.val]
    figure = new_figure()
    figure.set_size_inches(width / DPI, 2 * 1.15 + 0.5)
    copies = sorted(a for a, _ in [*findings.copies.identical, *findings.copies.near])
    for row, split in enumerate(splits):
        axes = figure.add_subplot(len(splits), 1, row + 1)
        last = len(split.frames) - 1
        # The step into a recording is no movement; drawn, it would flatten all others.
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
            (np.array(copies if split is findings.val else [], int), PURPLE, "also in train"),
        ):
            if len(where):
                axes.plot(where, 0 * where, "|", color=colour, clip_on=False, label=name)
        axes.set_xlim(0, max(last, 1))
        axes.set_ylim(0, top)
        axes.set_ylabel(split.name, fontsize=AXIS_TEXT)
        axes.tick_params(labelsize=TEXT, length=2.5, pad=2)
        axes.grid(color="#DDDDDD", linewidth=0.4)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(
                fontsize=TEXT, ncols=4, loc="lower right", bbox_to_anchor=(1, 1), frameon=False
            )
        if row == 0:
            title = "Difference to the frame before (mean over pixels, 0-255)"
            axes.set_title(title, fontsize=AXIS_TEXT, loc="left")
    axes.set_xlabel("frame, in order", fontsize=AXIS_TEXT)
    figure.subplots_adjust(0.06, 0.13, 0.985, 0.9, hspace=0.42)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return Image.open(buffer).convert("RGB")


def write_picture(path: Path, title: str, findings: Findings) -> Path:
    """Write a contact sheet of the data set: labels over frames, differences between frames.

    Raises UserError when the file cannot be written.
    """
    train, val, tests = findings.train, findings.val, findings.tests
    recordings = f" in {len(train.starts)} recording(s)"
    strips = [
        _split_strip(train, 2, f"{title}: train, {len(train.frames)} frames{recordings}"),
        _split_strip(val, 1, f"val, {len(val.frames)} frames"),
    ]
    if tests:
        some = tests[:COLUMNS]
        frames = np.stack([test.first_frame for test in some])
        labels = np.stack([test.labels[0] for test in some])
        captions = [f"{test.name}: {len(test.labels)} labels" for test in some]
        heading = f"test, {len(tests)} sequence(s), first frames"
        black = ["black"] * len(some)
        strips.append(_strip(overlay(frames, labels), captions, heading, black))
    strips.append(_steps_chart(findings, strips[0].width))
    size = (max(strip.width for strip in strips), sum(strip.height for strip in strips))
    sheet = Image.new("RGB", size, "white")
    y = 0
    for strip in strips:
        sheet.paste(strip, (0, y))
        y += strip.height
    buffer = io.BytesIO()
    sheet.save(buffer, format="PNG")
    write_atomically(path, buffer.getvalue())
    return path
