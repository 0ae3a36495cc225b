"""The schedules of a set of options before training, drawn and as text."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from modules.figures import style
from modules.options import TrainerOptions, check_combinations, option, without_effect
from modules.runtime.errors import UserError
from modules.schedules import epoch_plan, idle_annealing


@dataclass
class ScheduleOptions(TrainerOptions):
    """plot the β, teacher-forcing and learning-rate schedules of Trainer.py's options"""

    out: str = option("schedules.png", "figure", "PNG file to write")


def schedule_table(o: TrainerOptions) -> dict[str, np.ndarray]:
    """Columns epoch, beta, tfr, tf_active and lr, (num_epoch,) each, as metrics.csv will have them.

    Without the detector's resets of tfr, which depend on results.
    """
    rows = [(epoch, *epoch_plan(o, epoch)) for epoch in range(o.num_epoch)]
    names = ("epoch", "beta", "tfr", "tf_active", "lr")
    return dict(zip(names, np.array(rows, dtype=float).T, strict=True))


def schedules_figure(o: TrainerOptions) -> Figure:
    """β, teacher forcing and learning rate by epoch."""
    table, options = schedule_table(o), vars(o)
    epoch = table["epoch"]
    figure = style.new_figure(12.0, f"Schedules, num_epoch {o.num_epoch}")
    weight, forcing, rate = figure.subplots(3, sharex=True)
    weight.set(ylabel="β (KL weight)", title=f"KL annealing: {kl_text(options)}")
    style.add_line(weight, epoch, table["beta"], "beta", color=style.GREEN)
    style.axis_from_zero(weight, table["beta"])
    active = table["tf_active"]
    detector = ", but for the detector" if o.detector_patience else ""
    text = f"teacher forcing (TF): {forcing_text({**options, 'detector_patience': 0})}{detector}"
    text += f"\nbands: on, drawn with seed {o.seed}: {int(active.sum())} of {o.num_epoch} epochs"
    forcing.set(ylabel="TF ratio (0 to 1)", title=text)
    look: style.Look = {"color": style.PURPLE, "ls": style.DASHED, "marker": "s"}
    style.add_line(forcing, epoch, table["tfr"], "tfr", **look)
    style.add_teacher_forcing(forcing, epoch, active)
    style.axis_from_zero(forcing, np.ones(1))
    rate.set(ylabel="learning rate", title=f"learning rate: {o.lr_scheduler}", xlabel="epoch")
    style.add_line(rate, epoch, table["lr"], "lr", color=style.BLACK, drawstyle="steps-mid")
    style.rate_axis(rate, table["lr"])
    style.whole_number_axis(weight, 0, o.num_epoch - 1)
    return figure


def schedules(options: ScheduleOptions, explicit: frozenset[str]) -> list[str]:
    """The `schedules` command; returns lines to be printed. explicit: names of typed options."""
    out = Path(options.out)
    if out.suffix.lower() != ".png":
        raise UserError(f"--out {out}: figures are PNG files; give a name that ends in .png")
    options.DR = options.DR or "unknown"  # no data is needed here
    check_combinations(options)
    notes = [*without_effect(options, explicit), *idle_annealing(options)]
    if options.detector_patience:
        notes.append("note: the detector's resets of tfr depend on results and are not drawn")
    figure = schedules_figure(options)
    out.parent.mkdir(parents=True, exist_ok=True)
    return [*notes, f"wrote {style.save(figure, out)}"]


# ---------------------------------------------------------------- as text


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
