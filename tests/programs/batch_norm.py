"""What running averages of batch-norm statistics do to a validation, and what exact ones do.

    python tests/programs/batch_norm.py ROOT/mocap_course ROOT/mocap_dance --out norm.png

Trains the usual recipe (Adam, one rate, teacher forcing in turn with free running, an ordinary
BatchNorm2d) in float32 and validates after every epoch in four ways: the trained and the averaged
weights, each with the running averages of training and with the exact statistics of its own first
layer over all training labels. Prints a line for each epoch, draws a panel for each data set, and
writes a table beside the figure.
"""

import copy
import csv
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import dataloader
from modules.checkpoint import Position
from modules.cvae import CVAE
from modules.evaluation import validate
from modules.figures import style
from modules.networks import Label_Encoder
from modules.runtime.scripts import ArgumentParser, path_argument, run_as_script
from modules.runtime.signals import Watch
from modules.training import train_epoch
from tests.programs.kernels import new_run

USUAL = {
    **{"F_dim": 16, "L_dim": 16, "N_dim": 4, "D_out_dim": 32, "train_vi_len": 8, "batch_size": 2},
    **{"tfr": 0.5, "kl_anneal_type": "None", "kl_beta": 0.001, "ema": 0.99},
}
WAYS: dict[str, dict[str, Any]] = {
    "trained, running": {"color": style.VERMILLION, "marker": "o"},
    "trained, exact": {"color": style.VERMILLION, "marker": "^", "ls": style.DASHED},
    "averaged, running": {"color": style.ORANGE, "marker": "s"},
    "averaged, exact": {"color": style.ORANGE, "marker": "v", "ls": style.DASHED},
}


def settled(model: CVAE, source: CVAE, *, exact: bool) -> CVAE:
    """A copy of the model that evaluates with its exact statistics, or with the source's averages.

    source: the model that was trained, whose running averages were kept
    """
    model = copy.deepcopy(model)
    norm, averages = (m.label_transformation.norm for m in (model, source))
    if exact:
        model.label_transformation.settle()
    else:
        norm.running_mean, norm.running_var = averages.running_mean, averages.running_var
    return model


def psnr_by_epoch(root: Path, epochs: int) -> Iterator[list[Any]]:
    """Of each epoch of a run on a data set: its name, the epoch, and the PSNR of WAYS."""
    size = {"height": 32, "width": 64, "partial": 0.5, "train_vi_len": 8, "val_vi_len": 630}
    train, video = dataloader.load_train_val(root, **size)
    assert train is not None
    state, step, _ = new_run(train, precision="float32", num_epoch=epochs, **USUAL)
    kind = {"seed": 0, "device": torch.device("cpu"), "precision": torch.float32}
    for epoch in range(epochs):
        state.position = Position(epoch)
        state.begin_epoch()
        with mock.patch.object(Label_Encoder, "forward", nn.Sequential.forward):
            train_epoch(state, train, step, Watch())
        assert state.average is not None
        psnr = [
            validate(settled(weights, state.model, exact=exact), video, **kind)[0].mean_psnr
            for weights in (state.model, state.average.model)
            for exact in (False, True)
        ]
        state.finish_epoch(loss=0.0, psnr=psnr[0])
        values = "  ".join(f"{way} {value:.2f}" for way, value in zip(WAYS, psnr, strict=True))
        print(f"{root.name} epoch {epoch}: {values}", flush=True)
        yield [root.name, epoch, *(round(value, 2) for value in psnr)]


def statistics_figure(path: Path) -> Figure:
    """A panel for each data set of a table."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    names = dict.fromkeys(row["data"] for row in rows)
    figure = style.new_figure(1.5 + 4.0 * len(names))
    panels = figure.subplots(len(names), sharex=True, squeeze=False).ravel()
    for axes, name in zip(panels, names, strict=True):
        axes.set(title=name, ylabel="validation PSNR (dB)")
        for way, look in WAYS.items():
            values = np.array([row[way] for row in rows if row["data"] == name], float)
            style.add_line(axes, np.arange(len(values)), values, way, f"{way} statistics", **look)
        style.number_axis(axes)
    style.whole_number_axis(panels[0], 0, max(int(row["epoch"]) for row in rows))
    panels[-1].set_xlabel("epoch")
    style.legend_above(figure, panels[0])
    return figure


def main() -> None:
    parser = ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("roots", nargs="+", type=path_argument, metavar="ROOT", help="data sets")
    parser.add_argument("--epochs", type=int, default=8, help="of each run (8)")
    parser.add_argument(
        "--out", type=path_argument, default=Path("norm.png"), help="figure; its table too"
    )
    given = parser.parse_args()
    path = given.out.with_suffix(".csv")
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(("data", "epoch", *WAYS))
        for root in given.roots:
            table.writerows(psnr_by_epoch(root, given.epochs))
    style.save(statistics_figure(path), given.out)


if __name__ == "__main__":
    run_as_script(main)
