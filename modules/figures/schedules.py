"""The schedules of a set of options before training: β, teacher forcing, learning rate by epoch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from modules.figures.style import (
    BLACK,
    BLUE,
    DASHED,
    GREEN,
    PURPLE,
    VERMILLION,
    Panel,
    add_line,
    add_teacher_forcing,
    arrange,
    axis_from_zero,
    new_figure,
    new_panel,
    rate_axis,
    save,
    whole_number_axis,
)
from modules.figures.words import forcing_text, kl_text
from modules.options import (
    TrainerOptions,
    check_combinations,
    option,
    without_effect,
)
from modules.runtime.errors import UserError
from modules.schedules import epoch_plan, idle_annealing, kl_weight


@dataclass
class ScheduleOptions(TrainerOptions):
    """draw β, teacher forcing and learning rate that Trainer.py's options will give"""

    # fmt: off
    out: str = option("schedules.png", "figure", "PNG file to write")
    fu_figure: bool = option(False, "figure", "draw the KL weights of Fu et al. 2019 instead: Monotonic (ratio 0.25) and Cyclical (4 cycles, ratio 0.5) over 40,000 iterations")  # noqa: E501
    # fmt: on


def schedule_table(o: TrainerOptions) -> dict[str, np.ndarray]:
    """Columns epoch, beta, tfr, tf_active and lr, (num_epoch,) each, as metrics.csv will have them.

    Without the detector's resets of tfr, which depend on results.
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


def schedules(options: ScheduleOptions, explicit: frozenset[str]) -> list[str]:
    """The `schedules` command; returns lines to be printed. explicit: names of typed options."""
    out = Path(options.out)
    if out.suffix.lower() != ".png":
        raise UserError(f"--out {out}: figures are PNG files; give a name that ends in .png")
    notes = []
    if options.fu_figure:
        if others := sorted(explicit - {"fu_figure", "out"}):
            raise UserError(f"--fu_figure uses the settings of the paper: leave out --{others[0]}")
        figure = fu_figure()
    else:
        options.DR = options.DR or "unknown"  # no data is needed here
        check_combinations(options)
        notes = [*without_effect(options, explicit), *idle_annealing(options)]
        if options.detector_patience:
            notes.append("note: the detector's resets of tfr depend on results and are not drawn")
        figure = schedules_figure(options)
    out.parent.mkdir(parents=True, exist_ok=True)
    return [*notes, f"wrote {save(figure, out)}"]
