"""The ablation program: its rows are valid command lines, its table holds what the runs wrote."""

import csv
import json
from pathlib import Path

import pytest

from modules.options import parse_trainer
from tests.programs import ablation
from tests.support.scripts import done

# Options at the end of a line win.
TINY = "--num_epoch 1 --F_dim 24 --L_dim 4 --N_dim 4 --D_out_dim 24 --frame_H 16 --frame_W 16"
EXTRA = [*TINY.split(), "--fast_train_epoch", "1", "--train_vi_len", "4", "--device", "cpu"]


@pytest.mark.parametrize("row", ablation.ROWS)
def test_rows_parse_and_differ_from_the_preset_in_what_they_say(row: str) -> None:
    line = ablation.command(row, "ROOT", Path("runs/x"), 1, [])
    o, _ = parse_trainer("", line[1:])
    assert (o.seed, o.DR) == (1, "ROOT")
    assert o.preset == (None if "usual" in row else "video" if row == "video" else "best")
    if o.preset == "best" and row != "best":
        best = parse_trainer("", ablation.command("best", "ROOT", Path("runs/x"), 1, [])[1:])[0]
        changed = [n for n in vars(o) if getattr(o, n) != getattr(best, n)]
        assert 1 <= len(changed) <= 7, changed  # with what is derived


@pytest.mark.slow
def test_a_row_by_the_program(dataset: Path, tmp_path: Path) -> None:
    line = ("tests/programs/ablation.py", "--DR", dataset, "--save_root", tmp_path)
    line += ("--rows", "usual_free", "--seeds", "0", "1", "--", *EXTRA)
    printed = done(*line).splitlines()
    assert len([line for line in printed if line.startswith("python ")]) == 2
    table = [line for line in printed if line.startswith("|")]
    assert len(table) == 3
    values = []
    for seed in (0, 1):
        with (tmp_path / f"usual_free_{seed}/metrics.csv").open(newline="") as file:
            values.append([float(row["val_psnr"]) for row in csv.DictReader(file)])
        seconds = json.loads((tmp_path / f"usual_free_{seed}/time.json").read_text())
        assert 0 < seconds["processor"] < 200
    middle = (max(values[0]) + max(values[1])) / 2
    half = abs(max(values[0]) - max(values[1])) / 2
    assert f"| {middle:.2f} ± {half:.2f} |" in table[2]
    # What is complete is not run again.
    assert done(*line).strip().splitlines() == table


def test_epochs_are_scaled_for_data_of_another_size() -> None:
    for row, scale, expected in (("best", 12, 60), ("usual_free", 7.34, 22), ("best", 0.01, 1)):
        line = ablation.command(row, "ROOT", Path("runs/x"), 1, [], scale)
        assert parse_trainer("", line[1:])[0].num_epoch == expected


def test_several_data_sets_are_averaged(tmp_path: Path) -> None:
    runs = [[tmp_path / f"best_{seed}_{data}" for data in (10, 20)] for seed in (0, 1)]
    for seed in (0, 1):
        for run, data in zip(runs[seed], (10, 20), strict=True):
            run.mkdir()
            (run / "metrics.csv").write_text(f"val_psnr\n{data + 2 * seed}\n{data - 1}\n")
            (run / "time.json").write_text('{"processor": 60.0}')
    last = ablation.table({"best": runs}).splitlines()[-1]
    assert "| 16.00 ± 1.00 | 14.00 ± 0.00 | 2 | 2.0 |" in last
