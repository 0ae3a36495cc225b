"""The command line of every figure and table of a training report.

    python -m modules.plots curves runs/a            # redraw curves.png, latent.png, regions.png
    python -m modules.plots compare runs/a runs/b --out report   # figures, and a table
    python -m modules.plots schedules --num_epoch 70 --kl_anneal_cycle 5 --out schedules.png

Everything is drawn from files that a run has written, so it can be redrawn at any time.
"""

from dataclasses import dataclass
from pathlib import Path

from modules.figures.compare import compare
from modules.figures.curves import draw_curves
from modules.figures.schedules import ScheduleOptions, schedules
from modules.options import REQUIRED, option, parse_command
from modules.runtime.errors import UserError
from modules.runtime.scripts import run_as_script


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


COMMANDS = {"curves": CurvesOptions, "compare": CompareOptions, "schedules": ScheduleOptions}


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
