"""What running averages of batch-norm statistics do to a validation, and what exact ones do.

    python tests/programs/batch_norm.py ROOT/mocap_course ROOT/mocap_dance --out norm.png

Trains the usual recipe (Adam, one rate, teacher forcing in turn with free running, an ordinary
BatchNorm2d) in float32 and validates after every epoch in four ways: the trained and the averaged
weights, each with the running averages of training and with the exact statistics of its own first
layer over all training labels. Prints a line for each epoch, draws a panel for each data set, and
writes a table beside the figure.
"""

import argparse
import copy
import csv
import sys
import tempfile
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import dataloader
from modules.checkpoint import Position, RunState
from modules.cvae import CVAE
from modules.data import VideoData
from modules.evaluation import validate
from modules.figures.style import (
    DASHED,
    ORANGE,
    VERMILLION,
    add_line,
    legend_above,
    new_figure,
    number_axis,
    save,
    whole_number_axis,
)
from modules.networks import Label_Encoder
from modules.options import model_config, parse_trainer
from modules.runtime.device import set_up
from modules.runtime.scripts import ArgumentParser, path_argument, run_as_script
from modules.runtime.signals import Watch
from modules.training import TrainingStep, train_epoch

USUAL = (
    "--F_dim 16 --L_dim 16 --N_dim 4 --D_out_dim 32 --train_vi_len 8 --batch_size 2 --tfr 0.5 "
    "--kl_anneal_type None --kl_beta 0.001 --ema 0.99 --precision float32 --partial 0.5"
)
WAYS = ("trained, running", "trained, exact", "averaged, running", "averaged, exact")
LOOKS = {
    "trained, running": {"color": VERMILLION, "marker": "o"},
    "averaged, running": {"color": ORANGE, "marker": "s"},
    "trained, exact": {"color": VERMILLION, "marker": "^", "ls": DASHED},
    "averaged, exact": {"color": ORANGE, "marker": "v", "ls": DASHED},
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


def psnr_by_epoch(root: Path, epochs: int, seed: int) -> np.ndarray:
    """Validation PSNR of a run on a data set, (epochs, 4), in the order of WAYS."""
    o, _ = parse_trainer("", [*USUAL.split(), "--DR", str(root), "--seed", str(seed)])
    o.num_epoch = epochs
    train, video = dataloader.load_train_val(
        root,
        height=o.frame_H,
        width=o.frame_W,
        train_vi_len=o.train_vi_len,
        val_vi_len=o.val_vi_len,
        partial=o.partial,
    )
    assert isinstance(train, VideoData)
    torch.manual_seed(seed)
    model, device = CVAE(model_config(o)).to(memory_format=torch.channels_last), torch.device("cpu")
    with tempfile.TemporaryDirectory() as folder:
        state = RunState(o, Path(folder), model, train, data_root="", data_fingerprint="")
        step, rows = TrainingStep(state, train), []
        for epoch in range(epochs):
            state.position = Position(epoch)
            state.begin_epoch()
            with mock.patch.object(Label_Encoder, "forward", nn.Sequential.forward):
                train_epoch(state, train, step, Watch())
            assert state.average is not None
            row = []
            for weights in (model, state.average.model):
                for exact in (False, True):
                    judged = settled(weights, model, exact=exact)
                    settings = {"seed": seed, "device": device, "precision": torch.float32}
                    row.append(validate(judged, video, **settings)[0].mean_psnr)
            state.finish_epoch(loss=0.0, psnr=row[0])
            rows.append(row)
            values = "  ".join(f"{way} {value:.2f}" for way, value in zip(WAYS, row, strict=True))
            print(f"{root.name} epoch {epoch}: {values}", flush=True)
    return np.array(rows)


def write_results(results: dict[str, np.ndarray], path: Path) -> None:
    """A table: data set, epoch, and the PSNR of WAYS."""
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(("data", "epoch", *WAYS))
        for name, values in results.items():
            table.writerows((name, epoch, *row.round(2)) for epoch, row in enumerate(values))


def read_results(path: Path) -> dict[str, np.ndarray]:
    """What write_results has written."""
    with path.open(encoding="utf-8", newline="") as file:
        _, *rows = csv.reader(file)
    return {
        name: np.array([row[2:] for row in rows if row[0] == name], float)
        for name in dict.fromkeys(row[0] for row in rows)
    }


def statistics_figure(results: dict[str, np.ndarray]) -> Figure:
    """A panel for each data set."""
    figure = new_figure(1.5 + 4.0 * len(results))
    panels = figure.subplots(len(results), sharex=True, squeeze=False).ravel()
    for axes, (name, values) in zip(panels, results.items(), strict=True):
        axes.set(title=name, ylabel="validation PSNR (dB)")
        for way, column in zip(WAYS, values.T, strict=True):
            label = f"{way} statistics"
            add_line(axes, np.arange(len(values)), column, way, label, **LOOKS[way])
        number_axis(axes)
    whole_number_axis(panels[0], 0, max(map(len, results.values())) - 1)
    panels[-1].set_xlabel("epoch")
    legend_above(figure, panels[0])
    return figure


def main() -> None:
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("roots", nargs="+", type=path_argument, metavar="ROOT", help="data sets")
    parser.add_argument("--epochs", type=int, default=8, help="of each run (8)")
    parser.add_argument("--seed", type=int, default=0, help="of each run (0)")
    parser.add_argument(
        "--out", type=path_argument, default=Path("norm.png"), help="figure; its table too"
    )
    given = parser.parse_args()
    set_up(torch.device("cpu"), "float32")
    results = {r.name: psnr_by_epoch(r, given.epochs, given.seed) for r in given.roots}
    write_results(results, given.out.with_suffix(".csv"))
    save(statistics_figure(results), given.out)


if __name__ == "__main__":
    run_as_script(main)
