"""The command line of every figure and table of a training report.

    python -m modules.plots curves runs/a            # redraw runs/a/curves.png and latent.png
    python -m modules.plots frames runs/a            # redraw PSNR over frame index
    python -m modules.plots compare runs/a runs/b --out report   # figures and summary table
    python -m modules.plots schedules --num_epoch 70 --kl_anneal_cycle 5 --out schedules.png

Everything is drawn from files that a run has written, so it can be redrawn at any time. The figures
are in modules/figures.
"""

import argparse
import sys

from modules.figures.compare import compare
from modules.figures.curves import draw_curves
from modules.figures.frames import redraw_frames
from modules.figures.schedules import schedules
from modules.runtime.arguments import ArgumentParser, path_argument
from modules.runtime.errors import UserError
from modules.runtime.scripts import run_as_script


def main() -> None:
    """Run one of the commands. Raises UserError."""
    parser = ArgumentParser(
        prog="python -m modules.plots", description="Draw the figures and tables of a report."
    )
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="{curves,frames,compare,schedules}"
    )
    for name, text in (
        ("curves", "redraw RUN/curves.png from its metrics.csv"),
        ("frames", "draw RUN/psnr_per_frame_curve.png from its psnr_per_frame.csv"),
        ("compare", "figures and summary table of several runs"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument(
            "runs", nargs="+", type=path_argument, metavar="RUN", help="folder of a run"
        )
        if name == "compare":
            command.add_argument(
                "--out",
                type=path_argument,
                required=True,
                metavar="DIR",
                help="folder for the results",
            )
            # Runs are always labelled by their folders; scripts may still ask for it.
            command.add_argument("--by_name", action="store_true", help=argparse.SUPPRESS)
    commands.add_parser(
        "schedules", add_help=False, help="β, teacher forcing and learning rate of Trainer options"
    )
    try:
        if sys.argv[1:2] == ["schedules"]:  # takes Trainer.py's options, by their own parser
            lines = schedules(sys.argv[2:])
        else:
            options = parser.parse_args()
            if options.command == "compare":
                lines = compare(options.runs, options.out)
            else:
                draw = draw_curves if options.command == "curves" else redraw_frames
                lines = [f"wrote {draw(folder)}" for folder in options.runs]
    except OSError as error:
        raise UserError(f"{error.filename}: {error.strerror}") from error
    print("\n".join(lines))


if __name__ == "__main__":
    run_as_script(main)
