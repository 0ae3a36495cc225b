"""curves.png and latent.png: what a run's metrics.csv shows over its epochs."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from modules.figures.runs import Run, Segment, lineage, load_run
from modules.figures.style import (
    AXIS_TEXT,
    BLACK,
    BLUE,
    DASH_DOT,
    DASHED,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    REGIONS,
    SKY,
    TEXT,
    VERMILLION,
    Look,
    Panel,
    add_baselines,
    add_line,
    add_marks,
    add_regions,
    add_teacher_forcing,
    arrange,
    axis_from_zero,
    new_figure,
    new_panel,
    number_axis,
    rate_axis,
    save,
    whole_number_axis,
)
from modules.figures.words import shorten
from modules.runlog import METRIC_COLUMNS


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
        regions = {name: row[f"val_psnr_{name}"] for name in REGIONS}
        tone = {} if own else {"alpha": 0.45}
        add_regions(
            psnr, x, regions, points=len(table["epoch"]), prefix="val_psnr_", legend=own, **tone
        )
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
    notes = [finding.fact for finding in run.findings()]
    arrange(figure, [psnr, loss, forcing, rate], title=shorten(run.name, 44), notes=notes)
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
    """The shared axis of epochs: its range, and the names of the parent runs."""
    run, shift = segments[-1].run, segments[-1].shift
    first = segments[0].run.epochs[0] if shift == 0 else 0
    whole_number_axis(bottom.axes, first, run.epochs[-1] + shift)
    if len(segments) > 1:
        room = 30 // (len(segments) - 1)  # characters
        names = " → ".join(shorten(part.run.name, room) for part in segments[:-1])
        bottom.xlabel = f"epoch, counted on from the parent run\n(lighter, to {shift - 1}: {names})"


def latent_figure(run: Run) -> Figure:
    """latent.png: how much the latent carries, and the decoder's standard deviation.

    A latent in use has a KL of some nats and active dimensions; at 0 the posterior has collapsed
    and the model predicts a single future. sigma: see losses.decoder_sigma().
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

    Returns the path of the first. Raises UserError if metrics.csv is missing, empty or invalid.
    """
    loaded = load_run(run)
    path = save(curves_figure(loaded), run / "curves.png")
    save_latent(loaded)
    return path


def save_latent(run: Run) -> None:
    """Draw the run's latent.png; runs of earlier versions have nothing to be shown in it."""
    if np.isfinite(run.metrics["sigma"]).any():
        save(latent_figure(run), run.folder / "latent.png")
