"""`python -m modules.plots compare`: several runs in overlaid figures and in a table.

A run has its folder's name in all of them. The table is sorted by validation PSNR and has a column
for each setting in which the runs differ.
"""

import csv
import io
import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from modules.diagnosis import BASELINES
from modules.figures.runs import Run, frames_of, load_run
from modules.figures.schedules import forcing_text, kl_text, value_text
from modules.figures.style import (
    BLACK,
    BLUE,
    COLUMN,
    DASH_DOT,
    DASHED,
    DOTTED,
    GREEN,
    MARKED_UP_TO,
    ORANGE,
    PAGE,
    PURPLE,
    SKY,
    SOLID,
    VERMILLION,
    Look,
    add_baselines,
    add_line,
    add_marks,
    drawable,
    new_figure,
    number_axis,
    save,
    shorten,
    whole_number_axis,
)
from modules.options import effective
from modules.runtime.errors import UserError, shown
from modules.runtime.files import write_atomically

# Seven colours and four styles have no common divisor: a pair repeats after 28 runs.
RUN_COLOURS = (BLUE, VERMILLION, GREEN, BLACK, PURPLE, ORANGE, SKY)
RUN_STYLES = (SOLID, DASHED, DASH_DOT, DOTTED)
RUN_MARKERS = "os^Dv<p"


# ----------------------------------------------------------------------------------------
# What differs between runs, in words


def settings(run: Run) -> dict[str, str]:
    """What determined the run's numbers: its options that have an effect, data, start."""
    options = run.options
    texts = {name: value_text(value) for name, value in effective(options).items()}
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


def short_names(paths: Sequence[Path]) -> list[str]:
    """The last part of each path, or as many as distinguish it from the others."""
    parts = [path.resolve().parts for path in paths]
    names = []
    for own in parts:
        depth = 1
        while depth < len(own) and [other[-depth:] for other in parts].count(own[-depth:]) > 1:
            depth += 1
        names.append(str(Path(*own[-depth:])))
    return names


def run_names(runs: Sequence[Run]) -> list[str]:
    """The runs' names in tables and legends: their folders', longer where two are equal."""
    return short_names([run.folder for run in runs])


def differing_settings(runs: Sequence[Run]) -> dict[str, list[str | None]]:
    """The settings that differ between runs: the value in each run, None where it has no effect.

    A setting without effect in some runs differs only if the others do not agree on it.
    """
    texts = [settings(run) for run in runs]
    roots = sorted({text["data"] for text in texts if "data" in text})
    short = dict(zip(roots, short_names([Path(root) for root in roots]), strict=True))
    texts = [{**text, "data": short[text["data"]]} if "data" in text else text for text in texts]
    names = dict.fromkeys(name for text in texts for name in text)
    columns = {name: [text.get(name) for text in texts] for name in names}
    return {name: values for name, values in columns.items() if len({*values} - {None}) > 1}


# ----------------------------------------------------------------------------------------
# Summary table

# Settings with a column of their own, in words.
IN_COLUMNS = frozenset(
    (
        *("kl_anneal_type", "kl_anneal_cycle", "kl_anneal_ratio", "kl_beta", "train_vi_len"),
        *("tfr", "tfr_sde", "tfr_d_step", "detector_patience", "detector_threshold", "num_epoch"),
    )
)


def summary_rows(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """A row for each run, best first: the highest validation PSNR, and the settings.

    Numbers are plain numbers, None where there is none; the same columns in every row.
    """
    differing, names = differing_settings(runs), run_names(runs)
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
        rows.append(row)

    def height(row: dict[str, Any]) -> float:
        average = row["average PSNR (dB)"]
        return -math.inf if average is None else average

    return sorted(rows, key=height, reverse=True)


def summary_notes(runs: Sequence[Run]) -> list[str]:
    """What a reader must know before comparing the numbers, as sentences."""
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
            notes.append(
                f"{name}: {skipped} sequences were skipped: their loss or gradient was not finite."
            )
        if settings(run).get("start", "").startswith("fine-tuned"):
            notes.append(f"{name} was fine-tuned: its parent's epochs and time are not counted.")
    differing = differing_settings(runs)
    if "data" in differing:
        data = zip(run_names(runs), differing["data"], strict=True)
        roots = ", ".join(f"{name} {root or '?'}" for name, root in data)
        notes.append(
            f"The runs have different data roots: {roots}. "
            "Averages over different validation videos cannot be compared."
        )
    elif "val_vi_len" in differing:
        notes.append("The validation videos differ in length, which by itself changes the average.")
    if baselines := common_baselines(runs):
        values = [f"{BASELINES[key]} {value:.2f} dB" for key, value in baselines.items()]
        notes.append(f"Baselines: {', '.join(values)}.")
    return notes


def common_baselines(runs: Sequence[Run]) -> dict[str, float]:
    """The baselines that all runs have, if their values are the same, else none."""
    known = [run.config.get("baselines") for run in runs]
    tables = [table if isinstance(table, dict) else {} for table in known]
    names = [name for name in BASELINES if all(name in table for table in tables)]
    first, *others = ({name: table[name] for name in names} for table in tables)
    return first if all(other == first for other in others) else {}


def summary_csv(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as CSV; numbers with four digits after the point."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(rows[0])
    for row in rows:
        writer.writerow([f"{v:.4f}" if isinstance(v, float) else v for v in row.values()])
    return text.getvalue()


def summary_markdown(rows: Sequence[dict[str, Any]], notes: Sequence[str]) -> str:
    """The rows as a Markdown table, and the notes below it."""

    def cell(name: str, row: dict[str, Any]) -> str:
        value = row[name]
        if value is None:
            return "–"
        text = f"{value:.1f}" if name == "minutes" else value
        text = f"{value:.2f}" if name.endswith("(dB)") else str(text)
        return text.replace("|", "\\|").replace("\n", " ")

    head = list(rows[0])
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    lines += ["| " + " | ".join(cell(name, row) for name in head) + " |" for row in rows]
    return "\n".join([*lines, "", *(f"- {note}" for note in notes)]) + "\n"


# ----------------------------------------------------------------------------------------
# Overlaid figures


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
    "total": View("training: total loss", "reconstruction + β·KL", "train_loss"),
    "ssim": View("validation SSIM by epoch", "SSIM (0 to 1)", "val_ssim"),
    "frames": View("PSNR per frame, best validation", "PSNR (dB)", "psnr", "frame"),
}
# File → its title and panels.
COMPARISONS: dict[str, tuple[str, tuple[str, ...]]] = {
    "training_loss": ("Training loss", ("mse", "kl", "total")),
    "validation_loss": ("Validation loss", ("val",)),
    "psnr": ("PSNR", ("psnr", "psnr_time", "train_psnr")),
    "ssim": ("SSIM", ("ssim",)),
    "psnr_per_frame": ("PSNR per frame", ("frames",)),
    "overview": ("Overview", tuple(VIEWS)),
}


def time_unit(runs: Sequence[Run]) -> tuple[str, float]:
    """Name and seconds of the unit for the training times: s, min or h, by the longest run."""
    longest = max(float(np.nansum(run.metrics["seconds"])) for run in runs)
    if longest < 180:
        return "s", 1.0
    return ("min", 60.0) if longest < 180 * 60 else ("h", 3600.0)


def best_frames(run: Run) -> tuple[np.ndarray, np.ndarray] | None:
    """Frame numbers and PSNR of the run's best validation; None where they are not known."""
    table = frames_of(run.folder)
    return (table.frame, table.psnr) if table is not None and run.shows_best(table) else None


def comparison_figure(name: str, runs: Sequence[Run]) -> Figure:
    """The figure DIR/`name`.png of `compare`, a key of COMPARISONS; runs in the order given."""
    title, keys = COMPARISONS[name]
    columns, width = (2, PAGE) if name == "overview" else (1, COLUMN)
    looks: list[Look] = [
        {"color": colour, "ls": style, "marker": marker}
        for colour, style, marker, _ in zip(
            *map(itertools.cycle, (RUN_COLOURS, RUN_STYLES, RUN_MARKERS)), runs, strict=False
        )
    ]
    labels = [drawable(shorten(name, 40)) for name in run_names(runs)]
    handles = [
        Line2D([], [], label=label, lw=1.2, ms=3 * (len(run.epochs) <= MARKED_UP_TO), **look)
        for run, label, look in zip(runs, labels, looks, strict=True)
    ]
    star: Look = {"marker": "*", "ms": 8, "mec": BLACK, "mew": 0.5}
    if any(VIEWS[key].column == "val_psnr" for key in keys):
        handles.append(Line2D([], [], label="best epoch", ls="None", color="white", **star))
    figure, rows = new_figure(1.0, width=width), -(-len(keys) // columns)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in panels[len(keys) :]:
        axes.remove()
    for axes, key in zip(panels, keys, strict=False):
        draw_view(axes, VIEWS[key], runs, looks, star)
    handles += panels[0].get_legend_handles_labels()[0]  # of the baselines
    # About 7 characters of 7 pt are 1 cm; the sample of a line takes as much as 7 more.
    longest = max(len(str(handle.get_label())) for handle in handles)
    ncols = max(1, int(width * 7) // (longest + 7))
    figure.set_figheight((1.5 + 4.6 * rows + 0.4 * -(-len(handles) // ncols)) / 2.54)
    legend = figure.legend(handles=handles, loc="outside upper left", ncols=ncols, title=title)
    legend.set(alignment="left")
    return figure


def draw_view(axes: Axes, view: View, runs: Sequence[Run], looks: list[Look], star: Look) -> None:
    """One panel: a line for each run, and a star at its best epoch where that is a PSNR."""
    unit, seconds = time_unit(runs)
    xlabels = {"epoch": "epoch", "time": f"training time ({unit})", "frame": "frame"}
    axes.set(title=view.heading, ylabel=view.ylabel, xlabel=xlabels[view.x])
    drawn: list[tuple[np.ndarray, np.ndarray]] = []
    for run, look in zip(runs, looks, strict=True):
        if view.x == "frame":
            if (known := best_frames(run)) is None:
                continue
            x, y = known
        else:
            x, y = run.epochs, run.metrics[view.column]
            if view.x == "time":
                x = np.nancumsum(run.metrics["seconds"]) / seconds
        add_line(axes, x, y, view.column, **look)
        drawn.append((x, y))
        if view.column == "val_psnr" and (best := run.best()) is not None:
            at = {"color": look["color"], "zorder": 5, **star}
            add_marks(axes, x[best : best + 1], y[best : best + 1], "best", **at)
    if view.column == "val_psnr":
        add_baselines(axes, common_baselines(runs))
    losses = [y for _, y in drawn if not view.ylabel.startswith(("PSNR", "SSIM"))]
    number_axis(axes, np.concatenate(losses) if losses else None)
    if view.x == "time":
        axes.set_xlim(left=0)
    elif drawn:
        ends = [(x.min(), x.max()) for x, _ in drawn]
        whole_number_axis(axes, min(a for a, _ in ends), max(b for _, b in ends))


def compare(folders: Sequence[Path], out: Path) -> list[str]:
    """Write figures and summary of the runs into the folder `out`; returns lines to be printed.

    Raises UserError for folders that are not runs or given twice.
    """
    resolved = [folder.resolve() for folder in folders]
    for folder, path in zip(folders, resolved, strict=True):
        if resolved.count(path) > 1:
            raise UserError(f"{folder}: is given twice; give every run once")
    runs = [load_run(folder) for folder in folders]
    rows, notes = summary_rows(runs), summary_notes(runs)
    without = [run for run in runs if best_frames(run) is None]
    if without:
        names = ", ".join(str(run.folder) for run in without)
        notes.append(
            "Not in the figure of PSNR per frame, without a psnr_per_frame.csv of their best "
            f"validation: {names}."
        )
    out.mkdir(parents=True, exist_ok=True)
    written = [
        save(comparison_figure(name, runs), out / f"{name}.png")
        for name in COMPARISONS
        if name != "psnr_per_frame" or len(without) < len(runs)
    ]
    tables = {"summary.md": summary_markdown(rows, notes), "summary.csv": summary_csv(rows)}
    for name, text in tables.items():
        write_atomically(out / name, shown(text).encode())
        written.append(out / name)
    return [*(f"note: {note}" for note in notes[1:]), *(f"wrote {path}" for path in written)]
