"""The command line of every figure and table of a training report.

    python -m modules.plots curves runs/a            # redraw curves.png, latent.png, regions.png
    python -m modules.plots compare runs/a runs/b --out report   # figures, and a table
    python -m modules.plots schedules --num_epoch 70 --kl_anneal_cycle 5 --out schedules.png

Everything is drawn from files that a run has written, so it can be redrawn at any time.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from modules.figures import style
from modules.figures.compare import compare, forcing_text, kl_text
from modules.figures.curves import BETA, RATE, RATIO, add_curves, draw_curves, epoch_axis
from modules.options import (
    REQUIRED,
    TrainerOptions,
    check_combinations,
    option,
    parse_command,
    without_effect,
)
from modules.runlog import Run
from modules.runtime.errors import UserError
from modules.runtime.scripts import run_as_script
from modules.schedules import epoch_plan, idle_annealing


@dataclass
class CurvesOptions:
    """redraw RUN/curves.png from its metrics.csv"""

    runs: tuple[Path, ...] = option(
        REQUIRED, "runs", "folder of a run", positional=True, metavar="RUN"
    )


@dataclass
class CompareOptions(CurvesOptions):
    """figures of several runs, and a table as Markdown, CSV and LaTeX"""

    out: Path = option(REQUIRED, "results", "folder for the results", metavar="DIR")


@dataclass
class ScheduleOptions(TrainerOptions):
    """plot the β, teacher-forcing and learning-rate schedules of Trainer.py's options"""

    out: str = option("schedules.png", "figure", "PNG file to write")


COMMANDS = {"curves": CurvesOptions, "compare": CompareOptions, "schedules": ScheduleOptions}


# ---------------------------------------------------------------- schedules


def planned_run(o: TrainerOptions) -> Run:
    """A run's epoch, beta, tfr, tf_active and lr, as metrics.csv will have them.

    Without the detector's resets of tfr, which depend on results.
    """
    rows = [(epoch, *epoch_plan(o, epoch)) for epoch in range(o.num_epoch)]
    names = ("epoch", "beta", "tfr", "tf_active", "lr")
    columns = np.array(rows, dtype=float).T
    return Run(Path(), {"options": vars(o)}, dict(zip(names, columns, strict=True)))


def schedules_figure(run: Run) -> Figure:
    """β, teacher forcing and learning rate by epoch, of a planned run."""
    options, table = run.options, run.metrics
    count = f"{int(table['tf_active'].sum())} of {len(run.epochs)} epochs"
    forcing = f"teacher forcing (TF): {forcing_text({**options, 'detector_patience': 0})}"
    forcing += ", but for the detector" if options["detector_patience"] else ""
    forcing += f"\nbands: on, drawn with seed {options['seed']}: {count}"
    figure = style.new_figure(12.0, f"Schedules, num_epoch {len(run.epochs)}")
    panels = figure.subplots(3, sharex=True)
    for axes, curve, unit, title in zip(
        panels,
        (BETA, RATIO, RATE),
        ("β (KL weight)", "TF ratio (0 to 1)", "learning rate"),
        (f"KL annealing: {kl_text(options)}", forcing, f"learning rate: {options['lr_scheduler']}"),
        strict=True,
    ):
        axes.set(ylabel=unit, title=title)
        add_curves(axes, [run], [curve])
    style.add_teacher_forcing(panels[1], table["epoch"], table["tf_active"])
    style.axis_from_zero(panels[0], table["beta"])
    style.axis_from_zero(panels[1], np.ones(1))
    style.rate_axis(panels[2], table["lr"])
    epoch_axis(panels[-1:], [run])
    return figure


def schedules(o: ScheduleOptions, explicit: frozenset[str]) -> list[str]:
    """The `schedules` command; returns lines to be printed. explicit: names of typed options."""
    out = Path(o.out)
    if out.suffix.lower() != ".png":
        raise UserError(f"--out {out}: figures are PNG files; give a name that ends in .png")
    o.DR = o.DR or "unknown"  # no data is needed here
    check_combinations(o)
    notes = [*without_effect(o, explicit), *idle_annealing(o)]
    if o.detector_patience:
        notes.append("note: the detector's resets of tfr depend on results and are not drawn")
    out.parent.mkdir(parents=True, exist_ok=True)
    return [*notes, f"wrote {style.save(schedules_figure(planned_run(o)), out)}"]


def main() -> None:
    """Run one of the commands. Raises UserError."""
    o, typed = parse_command(COMMANDS, "Draw the figures and tables of a report.")
    try:
        if isinstance(o, ScheduleOptions):
            lines = schedules(o, typed)
        elif isinstance(o, CompareOptions):
            lines = compare(o.runs, o.out)
        else:
            lines = [f"wrote {draw_curves(folder)}" for folder in o.runs]
    except OSError as error:
        raise UserError(f"{error.filename}: {error.strerror}") from error
    print("\n".join(lines))


if __name__ == "__main__":
    run_as_script(main)
