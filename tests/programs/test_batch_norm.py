"""The program that shows what running averages do: its statistics, and its rows."""

import csv
from pathlib import Path

import pytest
import torch

from modules.cvae import CVAE, ModelConfig
from tests.programs.batch_norm import WAYS, settled
from tests.support.scripts import run_script


def test_the_same_weights_with_both_kinds_of_statistics() -> None:
    torch.manual_seed(0)
    model, source = (
        CVAE(ModelConfig(F_dim=8, L_dim=4, N_dim=4, D_out_dim=8, frame_H=8, frame_W=8))
        for _ in range(2)
    )
    model.label_transformation.measure(torch.randint(0, 256, (5, 8, 8, 3), dtype=torch.uint8))
    source.label_transformation.norm.running_mean.fill_(7.0)
    kept, exact = (settled(model, source, exact=e) for e in (False, True))
    assert (kept.label_transformation.norm.running_mean == 7.0).all()
    mean, variance = model.label_transformation.statistics()
    assert torch.equal(exact.label_transformation.norm.running_mean, mean)
    assert torch.equal(exact.label_transformation.norm.running_var, variance)
    for weights in (kept, exact):
        assert torch.equal(weights.Generator[7].weight, model.Generator[7].weight)


@pytest.mark.slow
def test_a_row_for_each_data_set_and_epoch(dataset: Path) -> None:
    result = run_script("tests/programs/batch_norm.py", dataset, "--epochs", "1")
    assert result.returncode == 0, result.stderr
    (row,) = csv.DictReader(result.stdout.splitlines())
    assert (row["data"], row["epoch"]) == (dataset.name, "0")
    assert all(float(row[way]) > 5 for way in WAYS)
