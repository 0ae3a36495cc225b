"""Curves over epochs, and the command line of every figure and table of a training report.

    python -m modules.plots curves runs/a            # redraw runs/a/curves.png and latent.png
    python -m modules.plots frames runs/a                        # PSNR over frame index, again
    python -m modules.plots compare runs/a runs/b --out report   # figures and summary table
    python -m modules.plots schedules --num_epoch 70 --kl_anneal_cycle 5 --out schedules.png

All is drawn from files that a run has written, so it can be drawn again at any time.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from modules.errors import ArgumentParser, UserError, path_argument, run_as_script
from modules.figures import (
    AXIS_TEXT,
    BLACK,
    BLUE,
    DASH_DOT,
    DASHED,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    TEXT,
    VERMILLION,
    Look,
    Panel,
    add_baselines,
    add_line,
    add_marks,
    add_teacher_forcing,
    arrange,
    axis_from_zero,
    new_figure,
    new_panel,
    number_axis,
    rate_axis,
    save,
    shorten,
    whole_number_axis,
)
from modules.options import (
    TrainerOptions,
    check_combinations,
    fill_in_derived,
    option,
    parse,
    without_effect,
)
from modules.pictures import draw_psnr_per_frame
from modules.report import compare
from modules.runlog import METRIC_COLUMNS
from modules.runs import Run, Segment, forcing_text, frames_of, kl_text, lineage, load_run
from modules.schedules import kl_weight
from modules.training import epoch_plan

# ----------------------------------------------------------------------------------------
# curves.png


def curves_figure(run: Run) -> Figure:
    """The four panels of curves.png."""
    segments = lineage(run)
    table = joined(segments)
    figure = new_figure()
    psnr = new_panel(figure, "PSNR (dB)", height=3.6)
    loss = new_panel(figure, "loss (pixels 0 to 1)", share=psnr)
    forcing = new_panel(figure, "β (KL weight)", share=psnr, height=2.2)
    rate = new_panel(figure, "learning rate", share=psnr, height=1.8, xlabel="epoch")
    twin = forcing.twin = forcing.axes.twinx()
    twin.set_ylabel("TF ratio (0 to 1)", fontsize=AXIS_TEXT)
    twin.tick_params(labelsize=TEXT, length=2.5, pad=2)
    twin.spines["top"].set_visible(False)

    validation: Look = {"color": VERMILLION, "ls": DASHED, "marker": "s"}
    tfr: Look = {"color": PURPLE, "ls": DASHED, "marker": "s", "axes": twin}
    curves: tuple[tuple[Panel, str, str | None, Look], ...] = (
        (psnr, "train_psnr", "train", {"color": BLUE}),
        (psnr, "val_psnr", "validation", validation),
        *total_of(run, loss),
        (loss, "train_mse", "train MSE", {"color": SKY, "ls": DASH_DOT, "marker": "^"}),
        (loss, "val_loss", "validation MSE", validation),
        (forcing, "beta", "β", {"color": GREEN}),
        (forcing, "tfr", "teacher-forcing (TF) ratio", tfr),
        (rate, "lr", None, {"color": BLACK, "drawstyle": "steps-mid"}),
    )
    for part in segments:
        own = part.run is run
        row = {name: values[: part.rows] for name, values in part.run.metrics.items()}
        x = row["epoch"] + part.shift
        for panel, name, label, look in curves:
            tone = {"label": label} if own else {"alpha": 0.45}
            add_line(panel, x, row[name], name, points=len(table["epoch"]), **look, **tone)
        add_teacher_forcing(forcing, x, row["tf_active"], "TF on" if own else None)
    shift = segments[-1].shift
    for part in segments[1:]:
        for panel in (psnr, loss, forcing, rate):
            panel.axes.axvline(part.shift - 0.5, color=GREY, lw=0.8, gid="took over")

    if (best := run.best()) is not None:
        epoch, value = run.epochs[best], run.metrics["val_psnr"][best]
        text = f"best {value:.2f} dB, epoch {epoch + shift}" + (f" (own {epoch})" if shift else "")
        star = {"marker": "*", "ms": 9, "color": ORANGE, "mec": BLACK, "mew": 0.6, "zorder": 5}
        add_marks(psnr, [epoch + shift], [value], "best", text, **star)
    add_baselines(psnr, run.config.get("baselines"))
    if resumed := run.config.get("resumed_at"):
        add_marks(psnr, np.array(resumed) + shift, 0.03, "resumed", "resumed", marker="|", ms=6)
    skipped = run.metrics["skipped"]
    if (bad := skipped > 0).any():
        text = f"sequences skipped ({int(skipped[bad].sum())})"
        # On the upper edge, since the curves end low.
        look = {"marker": "x", "ms": 3.5, "clip_on": False}
        add_marks(loss, run.epochs[bad] + shift, 1.0, "skipped", text, **look)

    number_axis(psnr.axes)
    losses = [table[name] for panel, name, *_ in curves if panel is loss]
    number_axis(loss.axes, np.concatenate(losses))
    axis_from_zero(forcing.axes, table["beta"])
    axis_from_zero(twin, np.ones(1))
    rate_axis(rate.axes, table["lr"])
    epoch_axis(rate, segments)
    arrange(figure, [psnr, loss, forcing, rate], title=shorten(run.name, 44))
    return figure


def joined(segments: Sequence[Segment]) -> dict[str, np.ndarray]:
    """The columns of all parts of a lineage, one after another."""
    parts = {n: [part.run.metrics[n][: part.rows] for part in segments] for n in METRIC_COLUMNS}
    return {name: np.concatenate(values) for name, values in parts.items()}


def total_of(run: Run, panel: Panel) -> list[tuple[Panel, str, str | None, Look]]:
    """The curve of the total loss, where it is on the scale of a mean-square error.

    With --recon sigma it is in nats per pixel value, and stands in latent.png.
    """
    if run.options.get("recon") == "sigma":
        return []
    return [(panel, "train_loss", "train total: MSE + β·KL", {"color": BLUE})]


def epoch_axis(bottom: Panel, segments: Sequence[Segment]) -> None:
    """The shared axis of epochs: its range, and who was the parent of whom."""
    run, shift = segments[-1].run, segments[-1].shift
    first = segments[0].run.epochs[0] if shift == 0 else 0
    whole_number_axis(bottom.axes, first, run.epochs[-1] + shift)
    if len(segments) > 1:
        room = 30 // (len(segments) - 1)  # characters
        names = " → ".join(shorten(part.run.name, room) for part in segments[:-1])
        bottom.xlabel = f"epoch, counted on from the parent run\n(lighter, to {shift - 1}: {names})"


def latent_figure(run: Run) -> Figure:
    """latent.png: what the latent carries, and how much spread the decoder claims.

    A KL of some nats and active dimensions are a latent in use; at 0 it is silent and the model
    makes one future. sigma is the decoder's standard deviation, see training.decoder_sigma().
    """
    segments = lineage(run)
    table = joined(segments)
    figure = new_figure()
    kl = new_panel(figure, "KL (nats per frame)", height=3.2)
    active = new_panel(figure, "active dimensions", share=kl, height=3.0)
    sigma = new_panel(figure, "decoder's σ", share=kl, height=2.4, xlabel="epoch")
    panels = [kl, active, sigma]
    curves: list[tuple[Panel, str, str | None, Look]] = [
        (kl, "train_kl", None, {"color": BLUE}),
        (active, "active_dims", None, {"color": GREEN}),
        (sigma, "sigma", None, {"color": PURPLE}),
    ]
    if run.options.get("recon") == "sigma":
        sigma.xlabel = None
        total = new_panel(figure, "loss (nats/value)", share=kl, height=2.8, xlabel="epoch")
        panels.append(total)
        curves.append((total, "train_loss", None, {"color": BLACK}))
    for part in segments:
        row = {name: values[: part.rows] for name, values in part.run.metrics.items()}
        x = row["epoch"] + part.shift
        for panel, name, label, look in curves:
            tone: Look = {"label": label} if part.run is run else {"alpha": 0.45}
            add_line(panel, x, row[name], name, points=len(table["epoch"]), **look, **tone)
    for panel, name, *_ in curves:
        number_axis(panel.axes, table[name])
    epoch_axis(panels[-1], segments)
    arrange(figure, panels, title=f"{shorten(run.name, 36)}: the latent")
    return figure


def draw_curves(run: Path) -> Path:
    """Draw run/curves.png and run/latent.png from run/metrics.csv and run/config.json.

    Returns the path of the first. Raises UserError if metrics.csv is missing, empty or no table of
    numbers.
    """
    loaded = load_run(run)
    path = save(curves_figure(loaded), run / "curves.png")
    if np.isfinite(loaded.metrics["sigma"]).any():  # runs of earlier versions have none
        save(latent_figure(loaded), run / "latent.png")
    return path


# ----------------------------------------------------------------------------------------
# schedules: what a set of options will give


@dataclass
class ScheduleOptions(TrainerOptions):
    """Trainer.py's options and those of this figure."""

    # fmt: off
    out: str = option("schedules.png", "figure", "PNG file to write")
    fu_figure: bool = option(False, "figure", "draw the KL weights of Fu et al. 2019 instead: Monotonic (ratio 0.25) and Cyclical (4 cycles, ratio 0.5) over 40,000 iterations")  # noqa: E501
    # fmt: on


def schedule_table(o: TrainerOptions) -> dict[str, np.ndarray]:
    """Columns epoch, beta, tfr, tf_active and lr, (num_epoch,) each, as metrics.csv will have them.

    Without the detector's raises, which depend on results.
    """
    plans = [epoch_plan(o, epoch) for epoch in range(o.num_epoch)]
    rows = [(e, plan.beta, plan.tfr, plan.teacher_forcing, plan.lr) for e, plan in enumerate(plans)]
    names = ("epoch", "beta", "tfr", "tf_active", "lr")
    return dict(zip(names, np.array(rows, dtype=float).T, strict=True))


def schedules_figure(o: TrainerOptions) -> Figure:
    """β, teacher forcing and learning rate by epoch."""
    table, options, figure = schedule_table(o), vars(o), new_figure()
    epoch = table["epoch"]
    text = f"KL annealing: {kl_text(options)}"
    weight = new_panel(figure, "β (KL weight)", height=2.4, heading=text)
    add_line(weight, epoch, table["beta"], "beta", color=GREEN)
    axis_from_zero(weight.axes, table["beta"])
    text = f"teacher forcing (TF): {forcing_text({**options, 'detector_patience': 0})}"
    forcing = new_panel(figure, "TF ratio (0 to 1)", share=weight, height=2.4, heading=text)
    text = "probability" + (" (but for the detector)" if o.detector_patience else "")
    add_line(forcing, epoch, table["tfr"], "tfr", text, color=PURPLE, ls=DASHED, marker="s")
    text = f"TF on, drawn with seed {o.seed}: {int(table['tf_active'].sum())} of {o.num_epoch}"
    add_teacher_forcing(forcing, epoch, table["tf_active"], text)
    axis_from_zero(forcing.axes, np.ones(1))
    text = f"learning rate: {o.lr_scheduler}"
    rate = new_panel(
        figure, "learning rate", share=weight, height=2.0, heading=text, xlabel="epoch"
    )
    add_line(rate, epoch, table["lr"], "lr", color=BLACK, drawstyle="steps-mid")
    rate_axis(rate.axes, table["lr"])
    whole_number_axis(weight.axes, 0, o.num_epoch - 1)
    arrange(figure, [weight, forcing, rate], title=f"Schedules, num_epoch {o.num_epoch}")
    return figure


def fu_figure() -> Figure:
    """The two KL weights of Fu et al. 2019, figure 1, over 40,000 iterations."""
    figure = new_figure()
    panels: list[Panel] = []
    for kind, ratio, colour in (("Monotonic", 0.25, BLUE), ("Cyclical", 0.5, VERMILLION)):
        how: dict[str, Any] = {"anneal_type": kind, "cycles": 4, "ratio": ratio}
        beta = np.array([kl_weight(i, num_epoch=40_000, **how) for i in range(40_000)])
        options = {"kl_anneal_type": kind, "kl_anneal_cycle": 4, "kl_anneal_ratio": ratio}
        share, text = panels[0] if panels else None, kl_text({**options, "kl_beta": 1.0})
        panel = new_panel(figure, "β (KL weight)", share=share, height=2.4, heading=text)
        add_line(panel, np.arange(40_000), beta, "beta", color=colour)
        axis_from_zero(panel.axes, beta)
        panels.append(panel)
    panels[-1].xlabel = "iteration"
    whole_number_axis(panels[0].axes, 0, 40_000)
    arrange(figure, panels, title="KL weight as in Fu et al. 2019")
    return figure


def schedules(argv: Sequence[str]) -> list[str]:
    """The `schedules` command; returns lines to be printed."""
    description = "Draw β, teacher forcing and learning rate that Trainer.py's options will give."
    options, explicit = parse(ScheduleOptions, description, argv)
    out = Path(options.out)
    if out.suffix.lower() != ".png":
        raise UserError(f"--out {out}: figures are PNG files; give a name that ends in .png")
    notes = []
    if options.fu_figure:
        if others := sorted(explicit - {"fu_figure", "out"}):
            raise UserError(f"--fu_figure has its settings from the paper: leave out --{others[0]}")
        figure = fu_figure()
    else:
        options.DR = options.DR or "unknown"  # no data is needed here
        check_combinations(options)
        fill_in_derived(options)
        notes = without_effect(options, explicit)
        if options.detector_patience:
            notes.append("note: the detector's raises depend on results and are not drawn")
        figure = schedules_figure(options)
    out.parent.mkdir(parents=True, exist_ok=True)
    return [*notes, f"wrote {save(figure, out)}"]


# ----------------------------------------------------------------------------------------
# Command line


def redraw_frames(folder: Path) -> Path:
    """Draw RUN/psnr_per_frame_curve.png from RUN/psnr_per_frame.csv; returns its path.

    A file of its own: psnr_per_frame.png has pictures that no file of the run could bring back.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder; give the --save_root of a run")
    table = frames_of(folder)
    if table is None:
        raise UserError(f"{folder / 'psnr_per_frame.csv'}: missing: no validation has ended yet")
    frames, psnr = table
    if frames.tolist() != list(range(1, len(frames) + 1)):
        raise UserError(f"{folder / 'psnr_per_frame.csv'}: its frames are not 1, 2, 3, …")
    return draw_psnr_per_frame(folder / "psnr_per_frame_curve.png", psnr, title_prefix="Validation")


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
            command.add_argument(
                "--by_name",
                action="store_true",
                help="name the runs in the figures by their folders, not by what differs",
            )
    commands.add_parser(
        "schedules", add_help=False, help="β, teacher forcing and learning rate of Trainer options"
    )
    try:
        if sys.argv[1:2] == ["schedules"]:  # takes Trainer.py's options, by their own parser
            lines = schedules(sys.argv[2:])
        else:
            options = parser.parse_args()
            if options.command == "compare":
                lines = compare(options.runs, options.out, by_name=options.by_name)
            else:
                draw = draw_curves if options.command == "curves" else redraw_frames
                lines = [f"wrote {draw(folder)}" for folder in options.runs]
    except OSError as error:
        raise UserError(f"{error.filename}: {error.strerror}") from error
    print("\n".join(lines))


if __name__ == "__main__":
    run_as_script(main)
