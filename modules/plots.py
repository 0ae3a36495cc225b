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
from modules.figures.curves import draw_curves, epoch_axis, forcing_panel, rate_panel
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
    o = run.options
    on, epochs = int(run.metrics["tf_active"].sum()), len(run.epochs)
    detector = " without the detector" if o["detector_patience"] else ""
    title = f"""Schedules{detector}, num_epoch {epochs}
KL annealing: {kl_text(o)}
teacher forcing (TF): {forcing_text({**o, "detector_patience": 0})}
bands: on, drawn with seed {o["seed"]}: {on} of {epochs} epochs
learning rate: {o["lr_scheduler"]}"""
    figure = style.new_figure(12.0, title)
    forcing, rate = figure.subplots(2, sharex=True)
    twin = forcing_panel(forcing, [run])
    handles = [handle for axes in (forcing, twin) for handle in axes.get_legend_handles_labels()[0]]
    figure.legend(handles=handles, loc="outside lower left", ncols=3)
    rate_panel(rate, [run])
    epoch_axis([rate], [run])
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
