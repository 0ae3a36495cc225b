"""`python -m modules.plots compare`: several runs in overlaid figures and in a table."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from modules.diagnosis import BASELINES, known_baselines
from modules.figures import style
from modules.figures.style import BLACK, BLUE, GREEN, ORANGE, PURPLE, SKY, VERMILLION
from modules.options import effective
from modules.runlog import Run, as_csv, best_frames, load_run
from modules.runtime.errors import UserError, shown
from modules.runtime.files import write_atomically

Named = Mapping[str, Run]  # by what tables and legends call them, in the order given

# Seven colours and four styles have no common divisor: a pair repeats after 28 runs.
RUN_COLOURS = (BLUE, VERMILLION, GREEN, BLACK, PURPLE, ORANGE, SKY)
RUN_STYLES = (style.SOLID, style.DASHED, style.DASH_DOT, style.DOTTED)
RUN_MARKERS = "os^Dv<p"

# Settings that the table describes in columns of their own.
IN_COLUMNS = frozenset(
    (
        *("kl_anneal_type", "kl_anneal_cycle", "kl_anneal_ratio", "kl_beta", "train_vi_len"),
        *("tfr", "tfr_sde", "tfr_d_step", "detector_patience", "detector_threshold", "num_epoch"),
    )
)


# ---------------------------------------------------------------- settings in words


def value_text(value: Any) -> str:
    """A setting's value as a user would type it."""
    if isinstance(value, list | tuple):
        return " ".join(map(value_text, value))
    return style.plain_number(value) if isinstance(value, float) else str(value)


def kl_text(options: dict[str, Any]) -> str:
    """The KL annealing of a run, as a table or a title has it."""
    kind, beta = options.get("kl_anneal_type"), value_text(options.get("kl_beta", "?"))
    if kind == "None":
        return f"none, β = {beta}"
    cycles = f", {options.get('kl_anneal_cycle', '?')} cycles" if kind == "Cyclical" else ""
    ratio = value_text(options.get("kl_anneal_ratio", "?"))
    return f"{kind or '?'}{cycles}, ratio {ratio}" + ("" if beta == "1" else f", β to {beta}")


def forcing_text(options: dict[str, Any]) -> str:
    """The teacher forcing of a run, likewise."""
    ratio, step = (value_text(options.get(name, "?")) for name in ("tfr", "tfr_d_step"))
    if ratio == "0":
        text = "none"
    elif step == "0":
        text = f"{ratio} throughout"
    else:
        text = f"{ratio}, −{step} per epoch from {options.get('tfr_sde', '?')}"
    patience = options.get("detector_patience")
    return f"{text}, detector (patience {patience})" if patience else text


# ---------------------------------------------------------------- what differs between runs


def settings(run: Run) -> dict[str, str]:
    """What determined the run's numbers: its options that have an effect, data, start."""
    texts = {name: value_text(value) for name, value in effective(run.options).items()}
    if root := run.config.get("data_root") or run.options.get("DR"):
        texts["data"] = str(Path(root).resolve())
    if parent := run.config.get("parent"):
        origin = Path(str(parent.get("run") or parent.get("ckpt_path"))).name
        texts["start"] = f"fine-tuned from {origin}, epoch {parent.get('epoch')}"
    elif run.config:
        texts["start"] = "from scratch"
    return texts


def short_names(paths: Sequence[Path]) -> list[str]:
    """The last part of each path, or as many as distinguish it from the others."""
    parts = [path.resolve().parts for path in paths]

    def depth(own: tuple[str, ...]) -> int:
        depths = range(1, len(own))
        alone = (d for d in depths if [other[-d:] for other in parts].count(own[-d:]) == 1)
        return next(alone, len(own))

    return [str(Path(*own[-depth(own) :])) for own in parts]


def named_runs(runs: Sequence[Run]) -> dict[str, Run]:
    """The runs by their folders' names, longer where two are equal."""
    return dict(zip(short_names([run.folder for run in runs]), runs, strict=True))


def differing_settings(runs: Sequence[Run]) -> dict[str, list[str | None]]:
    """The settings that differ between runs: the value in each run, None where it has no effect.

    A setting without effect in some runs differs only if the others do not agree on it.
    """
    texts = [settings(run) for run in runs]
    names = dict.fromkeys(name for text in texts for name in text)
    columns = {name: [text.get(name) for text in texts] for name in names}
    if roots := sorted({*columns.get("data", ())} - {None}):
        short = dict(zip(roots, short_names([*map(Path, roots)]), strict=True))
        columns["data"] = [root and short[root] for root in columns["data"]]
    return {name: values for name, values in columns.items() if len({*values} - {None}) > 1}


# ---------------------------------------------------------------- table


def summary_rows(named: Named) -> list[dict[str, Any]]:
    """A row for each run, best first: the highest validation PSNR, and the settings.

    Numbers are plain numbers, None where there is none; the same columns in every row.
    """
    runs = list(named.values())
    differing = differing_settings(runs)
    shortest, longest = (of(len(run.epochs) for run in runs) for of in (min, max))
    rows: list[dict[str, Any]] = []

    def level(run: Run, row: int | None) -> float | None:
        psnr = math.nan if row is None else float(run.metrics["val_psnr"][row])
        return psnr if math.isfinite(psnr) else None

    for i, (name, run) in enumerate(named.items()):
        best = run.best()
        row: dict[str, Any] = {
            "run": name,
            "average PSNR (dB)": level(run, best),
            "KL annealing": kl_text(run.options) if run.options else "",
            "teacher forcing": forcing_text(run.options) if run.options else "",
            "train_vi_len": run.options.get("train_vi_len", ""),
            "epochs": len(run.epochs),
            "best epoch": None if best is None else int(run.epochs[best]),
            "last PSNR (dB)": level(run, -1),
        }
        if longest > shortest:
            row[f"best of first {shortest} epochs (dB)"] = level(run, run.best(within=shortest))
        row |= {n: values[i] or "" for n, values in differing.items() if n not in IN_COLUMNS}
        row["minutes"] = float(np.nansum(run.metrics["seconds"])) / 60
        rows.append(row)

    return sorted(rows, key=lambda row: -(row["average PSNR (dB)"] or -math.inf))


def summary_notes(named: Named) -> list[str]:
    """What a reader must know before comparing the numbers, as sentences."""
    runs = list(named.values())
    notes = [
        "average PSNR: the highest validation PSNR of the run, a mean over frames 1 … T−1 of the "
        "free-running prediction, at the best epoch; epochs are counted from 0."
    ]
    for name, run in named.items():
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
        if run.config.get("parent"):
            notes.append(f"{name} was fine-tuned: its parent's epochs and time are not counted.")
    differing = differing_settings(runs)
    if "data" in differing:
        data = zip(named, differing["data"], strict=True)
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
    """Those baselines that all runs have, if their values are the same, else none."""
    tables = [known_baselines(run) for run in runs]
    names = [name for name in BASELINES if all(name in table for table in tables)]
    first, *others = ({name: table[name] for name in names} for table in tables)
    return first if all(other == first for other in others) else {}


def _cells(rows: Sequence[dict[str, Any]]) -> list[list[str]]:
    """The header and the rows as they are read in a text."""

    def cell(name: str, value: Any) -> str:
        if isinstance(value, float):
            return f"{value:.{1 if name == 'minutes' else 2}f}"
        return "–" if value is None else str(value)

    return [[*rows[0]], *([cell(*item) for item in row.items()] for row in rows)]


def summary_markdown(rows: Sequence[dict[str, Any]], notes: Sequence[str]) -> str:
    """The rows as a Markdown table, and the notes below it."""
    head, *cells = (
        [cell.replace("|", "\\|").replace("\n", " ") for cell in line] for line in _cells(rows)
    )
    lines = [f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *cells)]
    return "\n".join([*lines, "", *(f"- {note}" for note in notes)]) + "\n"


# What a text has, and what LaTeX takes for it without a package.
LATEX = {character: f"\\{character}" for character in "&%$#_{}"} | {
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
    **{"β": r"$\beta$", "−": "$-$", "–": "--", "…": r"\dots{}", "\n": " "},
}


def summary_latex(rows: Sequence[dict[str, Any]]) -> str:
    """The first columns of the rows, to the best epoch, as a tabular of LaTeX."""
    table = [line[: list(rows[0]).index("best epoch") + 1] for line in _cells(rows)]
    head, *lines = (
        " & ".join("".join(LATEX.get(c, c) for c in cell) for cell in line) + r" \\"
        for line in table
    )
    start = rf"\begin{{tabular}}{{lr{'l' * 2}{'r' * (len(table[0]) - 4)}}}"
    rule = r"\hline"
    return "\n".join([start, rule, head, rule, *lines, rule, r"\end{tabular}"]) + "\n"


# ---------------------------------------------------------------- overlaid figures

# Panel, a column of metrics.csv → its heading and its unit.
VIEWS = {
    "val_psnr": ("validation PSNR", "PSNR (dB)"),
    "train_psnr": ("training PSNR", "PSNR (dB)"),
    "val_loss": ("validation MSE", "MSE (pixels 0 to 1)"),
    "train_mse": ("training MSE", "MSE (pixels 0 to 1)"),
    "train_kl": ("training KL divergence", "KL (nats)"),
    "train_loss": ("training loss, MSE + β·KL", "loss"),
    "beta": ("KL annealing", "β (KL weight)"),
    "tfr": ("teacher forcing", "TF ratio (0 to 1)"),
    "val_ssim": ("validation SSIM", "SSIM (0 to 1)"),
    # These two against other axes than the epoch.
    "seconds": ("validation PSNR by time", "PSNR (dB)"),
    "psnr": ("PSNR per frame, best validation", "PSNR (dB)"),
}
# File → its panels, row by row.
PSNR, LOSS = ("val_psnr", "train_psnr"), ("val_loss", "train_mse", "train_kl", "train_loss")
COMPARISONS: dict[str, tuple[str, ...]] = {
    "overview": (*PSNR, *LOSS, "beta", "tfr"),
    "psnr": PSNR,
    "loss": LOSS,
    "schedules": ("beta", "tfr"),
    "ssim": ("val_ssim",),
    "psnr_per_frame": ("psnr",),
    "psnr_by_time": ("seconds",),
}


def comparison_figure(name: str, named: Named) -> Figure:
    """The figure DIR/`name`.png of `compare`, a key of COMPARISONS; runs in the order given."""
    keys, runs = COMPARISONS[name], list(named.values())
    columns, width = (1, style.COLUMN) if len(keys) == 1 else (2, style.PAGE)
    looks: list[style.Look] = [
        {"color": RUN_COLOURS[i % 7], "ls": RUN_STYLES[i % 4], "marker": RUN_MARKERS[i % 7]}
        for i in range(len(runs))
    ]
    # About 7 characters of 7 pt are 1 cm; the sample of a line takes as much as 7 more.
    labels = [style.drawable(style.shorten(name, min(70, int(width * 7) - 10))) for name in named]
    handles = [
        Line2D([], [], label=label, lw=1.2, ms=3 * (len(run.epochs) <= style.MARKED_UP_TO), **look)
        for run, label, look in zip(runs, labels, looks, strict=True)
    ]
    star: style.Look = {"marker": "*", "ms": 8, "mec": BLACK, "mew": 0.5}
    figure, rows = style.new_figure(1.0, width=width), -(-len(keys) // columns)
    panels = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    of_unit: dict[str, list[Any]] = {}  # panels of one unit share their y axis
    for axes, key in zip(panels, keys, strict=True):
        heading, unit = VIEWS[key]
        of_unit.setdefault(unit, []).append(axes)
        if (first := of_unit[unit][0]) is not axes:
            axes.sharey(first)
        xlabel = {"psnr": "frame", "seconds": "training time (min)"}.get(key, "epoch")
        axes.set(title=heading, ylabel=unit, xlabel=xlabel)
        ends = []
        for run, look in zip(runs, looks, strict=True):
            if key == "seconds":
                x, y = np.nancumsum(run.metrics["seconds"]) / 60, run.metrics["val_psnr"]
            elif key == "psnr":
                x, y = best_frames(run) or (np.zeros(0), np.zeros(0))
            else:
                x, y = run.epochs, run.metrics[key]
            if not len(x):
                continue
            style.add_line(axes, x, y, key, **look)
            ends += [x[0], x[-1]]
            if key in ("val_psnr", "seconds") and (best := run.best()) is not None:
                at = {"color": look["color"], "zorder": 5, **star}
                style.add_marks(axes, [x[best]], [y[best]], "best", **at)
        if key == "val_psnr":
            handles.append(Line2D([], [], label="best epoch", ls="None", color="white", **star))
            style.add_best_baseline(axes, common_baselines(runs))
            handles += axes.get_legend_handles_labels()[0]
        if key == "seconds":
            axes.set_xlim(left=0)
        elif ends:
            style.whole_number_axis(axes, min(ends), max(ends))
    for unit, (first, *others) in of_unit.items():
        drawn = np.concatenate([ln.get_ydata() for a in (first, *others) for ln in a.lines])
        if unit.startswith(("β", "TF")):
            style.axis_from_zero(first, drawn)
        else:
            linear = unit.startswith(("PSNR", "SSIM"))  # dB are logarithms already
            style.number_axis(first, None if linear else drawn)
    longest = max(len(str(handle.get_label())) for handle in handles)
    ncols = max(1, int(width * 7) // (longest + 7))
    figure.set_figheight((1.0 + 4.8 * rows + 0.4 * -(-len(handles) // ncols)) / 2.54)
    figure.legend(handles=handles, loc="outside upper left", ncols=ncols)
    return figure


def compare(folders: Sequence[Path], out: Path) -> list[str]:
    """Write figures and table of the runs into the folder `out`; returns lines to be printed.

    Raises UserError for folders that are not runs or given twice.
    """
    resolved = [folder.resolve() for folder in folders]
    for folder, path in zip(folders, resolved, strict=True):
        if resolved.count(path) > 1:
            raise UserError(f"{folder}: is given twice; give every run once")
    named = named_runs([load_run(folder) for folder in folders])
    rows, notes = summary_rows(named), summary_notes(named)
    without = [name for name, run in named.items() if best_frames(run) is None]
    if without:
        notes.append(
            "Not in the figure of PSNR per frame, without a psnr_per_frame.csv of their best "
            f"validation: {', '.join(without)}."
        )
    out.mkdir(parents=True, exist_ok=True)
    written = [
        style.save(comparison_figure(name, named), out / f"{name}.png")
        for name in COMPARISONS
        if name != "psnr_per_frame" or len(without) < len(named)
    ]
    lines = [[f"{v:.4f}" if isinstance(v, float) else v for v in row.values()] for row in rows]
    table = as_csv([rows[0], *lines])
    texts = {"md": summary_markdown(rows, notes), "csv": table, "tex": summary_latex(rows)}
    for ending, text in texts.items():
        write_atomically(out / f"summary.{ending}", shown(text).encode())
        written.append(out / f"summary.{ending}")
    return [*(f"note: {note}" for note in notes[1:]), *(f"wrote {path}" for path in written)]
