"""The program that holds back the end of each recording in turn."""

from pathlib import Path

import torch

import dataloader
from tests.support.data import make_dataset
from tests.support.scripts import assert_refused, run_script

SIZE = {"height": 32, "width": 64, "train_vi_len": 2, "val_vi_len": 630}


def test_each_recording_loses_its_end_once(tmp_path: Path) -> None:
    root = make_dataset(tmp_path / "data", train=24)
    (root / "train/clips.csv").write_text("start,stop\n0,10\n10,24\n")
    whole, _ = dataloader.load_train_val(root, **SIZE)
    assert whole is not None
    arguments = ("tests/programs/leave_out.py", root, tmp_path / "out", "--frames", "4")
    result = run_script(*arguments)
    assert result.returncode == 0, result.stderr
    for held, (kept, lost, rows) in enumerate(
        (
            ([*range(6), *range(10, 24)], range(6, 10), [(0, 6), (6, 20)]),
            (range(20), range(20, 24), [(0, 10), (10, 20)]),
        )
    ):
        train, val = dataloader.load_train_val(tmp_path / "out" / str(held), **SIZE)
        assert train is not None
        for name in ("frames", "labels"):
            pixels = getattr(whole, name)
            assert torch.equal(getattr(train, name), pixels[list(kept)])
            assert torch.equal(getattr(val, name), pixels[list(lost)])
        assert [(r.start, r.stop) for r in train.recordings] == rows
    assert_refused(run_script(*arguments), "out", "not empty")
    assert (
        run_script(*arguments[:2], tmp_path / "alone", "--alone", "--frames", "4").returncode == 0
    )
    train, _ = dataloader.load_train_val(tmp_path / "alone/1", **SIZE)
    assert train is not None and torch.equal(train.frames, whole.frames[10:20])
    arguments = ("tests/programs/leave_out.py", root, tmp_path / "other", "--frames", "9")
    assert_refused(run_script(*arguments), "--frames 9")
    assert not (tmp_path / "other").exists()
