"""What running averages of batch-norm statistics do to a validation, and what exact ones do.

    python tests/programs/batch_norm.py ROOT/mocap_course ROOT/mocap_dance

Trains the usual recipe (Adam, one rate, teacher forcing in turn with free running, an ordinary
BatchNorm2d) in float32 and validates after every epoch in four ways: the trained and the averaged
weights, each with the running averages of training and with the exact statistics of its own first
layer over all training labels. Prints a row of docs/recorded/batch_norm.csv for each epoch.
"""

import argparse
import copy
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import dataloader
from modules.checkpoint import Position
from modules.cvae import CVAE
from modules.evaluation import validate
from modules.networks import Label_Encoder
from modules.runtime.scripts import ArgumentParser, path_argument, run_as_script
from modules.runtime.signals import Watch
from modules.training import train_epoch
from tests.programs.kernels import new_run

USUAL = {
    **{"F_dim": 16, "L_dim": 16, "N_dim": 4, "D_out_dim": 32, "train_vi_len": 8, "batch_size": 2},
    **{"tfr": 0.5, "kl_anneal_type": "None", "kl_beta": 0.001, "ema": 0.99, "precision": "float32"},
}
WAYS = ("trained, running", "trained, exact", "averaged, running", "averaged, exact")


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


def psnr_by_epoch(root: Path, epochs: int) -> Iterator[list[float]]:
    """Train on half of a data set; yields the validation PSNR of WAYS after each epoch."""
    size = {"height": 32, "width": 64, "train_vi_len": 8, "val_vi_len": 630}
    train, video = dataloader.load_train_val(root, **size, partial=0.5)
    assert train is not None
    state, step, _ = new_run(train, **USUAL, num_epoch=epochs)
    assert state.average is not None
    settings = {"seed": 0, "device": torch.device("cpu"), "precision": torch.float32}
    for epoch in range(epochs):
        state.position = Position(epoch)
        state.begin_epoch()
        with mock.patch.object(Label_Encoder, "forward", nn.Sequential.forward):
            train_epoch(state, train, step, Watch())
        row = []
        for weights in (state.model, state.average.model):
            for exact in (False, True):
                judged = settled(weights, state.model, exact=exact)
                row.append(validate(judged, video, **settings)[0].mean_psnr)
        state.finish_epoch(loss=0.0, psnr=row[0])
        yield row


def main() -> None:
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("roots", nargs="+", type=path_argument, metavar="ROOT", help="data sets")
    parser.add_argument("--epochs", type=int, default=8, help="of each run (8)")
    given = parser.parse_args()
    print("data,epoch," + ",".join(f'"{way}"' for way in WAYS))
    for root in given.roots:
        for epoch, row in enumerate(psnr_by_epoch(root, given.epochs)):
            print(f"{root.name},{epoch}," + ",".join(f"{x:.2f}" for x in row), flush=True)


if __name__ == "__main__":
    run_as_script(main)
