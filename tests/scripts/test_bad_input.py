"""Wrong command lines and data sets: one line that names the culprit, status 2, nothing touched.

Each row of the table is a command, what is done to a sound set of files first, and the words that
the message must have. The scripts run through their own command lines, in this process, since
importing torch for each would take minutes; `test_in_processes_of_their_own` repeats some as a
user would run them.
"""

import contextlib
import dataclasses
import functools
import hashlib
import importlib
import io
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from PIL import Image

from modules.runtime.scripts import run_as_script
from tests.support.damage import Damage, copy, cut, every, folder, move, remove, write
from tests.support.data import make_dataset
from tests.support.scripts import REPOSITORY, TINY_RUN, run_script

SCRIPTS = {
    "Trainer.py": ("Trainer", ["Trainer.py"]),
    "Tester.py": ("Tester", ["Tester.py"]),
    "dataloader.py": ("dataloader", ["dataloader.py"]),
    "plots": ("modules.plots", ["-m", "modules.plots"]),
}


@dataclasses.dataclass(frozen=True)
class Row:
    """A wrong command. In `command`, DATA, RUN, NEW and TMP stand for paths."""

    command: str
    words: tuple[str, ...]  # in the message, in any order
    damage: Damage | None = None
    lines: int = 1  # of the message; more only where faults of a data set are listed

    def arguments(self, world: Path) -> list[str]:
        """The script and its arguments in the copy of the files at `world`."""
        places = {"DATA": "data", "RUN": "run", "NEW": "new", "TMP": "."}
        found = []
        for part in shlex.split(self.command):
            for name, place in places.items():
                part = part.replace(name, str(world / place))
            found.append(part)
        return found


# ---------------------------------------------------------------- ways to damage


def pair(split: str, *numbers: int) -> Damage:
    """Remove frames together with their labels."""
    kinds = ("img", "label")
    return remove(*(f"data/{split}/{split}_{k}/{i}.png" for k in kinds for i in numbers))


def image(path: str, kind: str, mode: str = "RGB", size: tuple[int, int] = (16, 16)) -> Damage:
    """Put an image of another format or size in place of one."""
    return lambda world: Image.new(mode, size).save(world / path, kind)


def clips(text: str) -> Damage:
    return write("data/train/clips.csv", text)


def checkpoint(change: Callable[[dict[str, Any]], object], path: str = "run/best.ckpt") -> Damage:
    """Load a checkpoint, change what it holds, and save it again."""

    def apply(world: Path) -> None:
        content = torch.load(world / path, weights_only=True)
        change(content)
        torch.save(content, world / path)

    return apply


def saved(content: object, path: str = "run/best.ckpt") -> Damage:
    return lambda world: torch.save(content, world / path)


def other_model(world: Path) -> None:
    """A checkpoint of another network that has the same outer form."""
    weights = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 2)).state_dict()
    torch.save({"state_dict": weights, "last_epoch": 3}, world / "run/best.ckpt")


def not_finite(content: dict[str, Any]) -> None:
    content["state_dict"]["Generator.7.bias"].fill_(float("nan"))


def table(change: Callable[[list[list[str]]], object], path: str = "run/metrics.csv") -> Damage:
    """Change the cells of a CSV file."""

    def apply(world: Path) -> None:
        rows = [line.split(",") for line in (world / path).read_text().splitlines()]
        change(rows)
        (world / path).write_text("".join(",".join(row) + "\n" for row in rows))

    return apply


def cell(row: int, column: int, text: str) -> Callable[[list[list[str]]], object]:
    return lambda rows: rows[row].__setitem__(column, text)


# ---------------------------------------------------------------- the table

TRAIN = f"Trainer.py --DR DATA --save_root NEW --num_epoch 1 {' '.join(TINY_RUN)}"
RESUME = "Trainer.py --save_root RUN --resume --DR DATA --num_epoch 3 --device cpu"
TUNE = (
    "Trainer.py --ckpt_path RUN/best.ckpt --DR DATA --save_root NEW --num_epoch 1"
    " --train_vi_len 4 --device cpu"
)
VALIDATE = "Trainer.py --test --ckpt_path RUN/best.ckpt --DR DATA --save_root NEW --device cpu"
TEST = "Tester.py --ckpt_path RUN/best.ckpt --DR DATA --save_root NEW --device cpu"
CHECK = "dataloader.py check DATA"
DEMO = "dataloader.py demo NEW --train 2 --val 2 --test 1 --test_length 2"
CURVES = "plots curves RUN"
FRAMES = "plots frames RUN"
COMPARE = "plots compare RUN TMP/run2 --out NEW"
SCHEDULES = "plots schedules --out NEW/a.png"

TRAIN_OPTIONS = [
    # misspelt, abbreviated, without a value, too much
    ("--lerning_rate 1", "unrecognized arguments: --lerning_rate"),
    ("--train_vi 4", "--train_vi"),
    ("--batch-size 2", "--batch-size"),
    ("-lr 0.1", "-lr"),
    ("stray", "stray"),
    ("--auto_save True", "True"),
    ("--lr", "--lr: expected one argument"),
    ("--lr_milestones", "--lr_milestones: expected at least one argument"),
    ("--resume=yes", "--resume"),
    # types
    ("--num_epoch ten", "--num_epoch: invalid int value: 'ten'"),
    ("--num_epoch 2.5", "--num_epoch: invalid int value: '2.5'"),
    ("--num_epoch 1e3", "--num_epoch: invalid int value: '1e3'"),
    ("--lr 0,001", "--lr: invalid float value: '0,001'"),
    ("--lr ''", "--lr: invalid float value: ''"),
    ("--seed 0x1", "--seed"),
    ("--lr_milestones 3 x", "--lr_milestones: invalid int value: 'x'"),
    ("--lr_milestones 3,4", "--lr_milestones: invalid int value: '3,4'"),
    # ranges
    ("--num_epoch 0", "--num_epoch 0: must be at least 1"),
    ("--train_vi_len 1", "--train_vi_len 1: must be at least 2"),
    ("--val_vi_len -630", "--val_vi_len -630: must be at least 2"),
    ("--frame_H 3", "--frame_H 3: must be at least 4"),
    ("--frame_W 0", "--frame_W 0: must be at least 4"),
    ("--F_dim 7", "--F_dim 7: must be at least 8"),
    ("--N_dim 0", "--N_dim 0"),
    ("--batch_size 0", "--batch_size 0: must be at least 1"),
    ("--partial 0", "--partial 0.0: must be above 0"),
    ("--partial 1.01", "--partial 1.01: must be at most 1"),
    ("--fast_train --fast_partial 2", "--fast_partial 2.0"),
    ("--fast_train_epoch -1", "--fast_train_epoch -1"),
    ("--lr 0", "--lr 0.0: must be above 0"),
    ("--lr -0.001", "--lr -0.001: must be above 0"),
    ("--lr nan", "--lr nan: must be a finite number"),
    ("--lr inf", "--lr inf: must be a finite number"),
    ("--lr 1e999", "--lr inf"),
    ("--kl_beta nan", "--kl_beta nan"),
    ("--tfr nan", "--tfr nan"),
    ("--tfr 1.1", "--tfr 1.1: must be at most 1"),
    ("--tfr_d_step -0.1", "--tfr_d_step -0.1"),
    ("--kl_anneal_ratio 0", "--kl_anneal_ratio 0.0"),
    ("--kl_anneal_cycle 0", "--kl_anneal_cycle 0"),
    ("--grad_clip -1", "--grad_clip -1.0"),
    ("--grad_clip inf", "--grad_clip inf"),
    ("--detector_threshold 0", "--detector_threshold 0.0"),
    ("--detector_patience 1", "--detector_patience 1"),
    ("--lr_milestones -1", "--lr_milestones -1"),
    ("--per_save 0", "--per_save 0"),
    ("--num_workers 0", "--num_workers 0"),
    ("--gpu 0", "--gpu 0"),
    ("--gpu 99", "--gpu 99"),
    ("--seed -1", "--seed -1"),
    ("--seed 99999999999999999999", "--seed 99999999999999999999: must be at most"),
    (f"--num_epoch 1{'0' * 400}", "--num_epoch 1000"),
    (f"--train_vi_len {'9' * 5000}", "--train_vi_len"),
    (f"--F_dim 1{'0' * 18}", "--F_dim 1000000000000000000: must be at most 65536"),
    (f"--frame_H 1{'0' * 15}", "--frame_H 1000000000000000: must be at most 8192"),
    (f"--kl_anneal_cycle 1{'0' * 400}", "must be at most"),
    # choices
    ("--optim SGD", "--optim: invalid choice: 'SGD'"),
    ("--optim adam", "--optim: invalid choice: 'adam'"),
    ("--kl_anneal_type cyclical", "--kl_anneal_type"),
    ("--lr_scheduler step", "--lr_scheduler"),
    ("--device tpu", "--device"),
    ("--device cuda:0", "--device"),
    ("--precision half", "--precision"),
    ("--preset tiny", "--preset"),
    # contradictions
    ("--test", "--test validates a checkpoint: name it with --ckpt_path"),
    ("--resume --ckpt_path RUN/best.ckpt", "--resume and --ckpt_path are mutually exclusive"),
    ("--test --resume --ckpt_path RUN/best.ckpt", "--test and --resume are mutually exclusive"),
    ("--resume", "there is no run to continue in"),
    ("--ckpt_path RUN/best.ckpt --F_dim 16", "best.ckpt are for --F_dim 8"),
    ("--ckpt_path RUN/best.ckpt --frame_W 24", "--frame_W 24: "),
    # paths
    ("--DR ''", "--DR"),
    ("--save_root ''", "--save_root"),
    ("--ckpt_path ''", "--ckpt_path"),
    ("--DR TMP/none", "none: 1 fault in the data set: the folder is missing"),
    ("--DR DATA/train/train_img/0.png", "0.png: 1 fault in the data set: is not a folder"),
    (f"--DR {'a' * 300}", "aaaa: 1 fault in the data set: the folder cannot be read"),
    (f"--ckpt_path {'a' * 300}", "aaaa: "),
    (f"--save_root TMP/{'a' * 300}", "aaaa: cannot be written"),
    ("--DR $'two\\nlines'", "two\\nlines"),
    ("--save_root /proc/nothing", "/proc/nothing: cannot be written"),
    ("--save_root DATA/train", "--save_root"),
    ("--save_root DATA/test/new", "--save_root"),
    ("--save_root RUN", "already holds a run: continue it with --resume"),
    ("--ckpt_path TMP/none.ckpt", "none.ckpt: no such checkpoint"),
    ("--ckpt_path RUN", "run: not a checkpoint file"),
    ("--ckpt_path DATA/train/train_img/0.png", "0.png: corrupted, or not a checkpoint"),
    ("--train_vi_len 9", "--train_vi_len 9 is longer than every recording (longest: 8"),
    ("--partial 0.4", "--train_vi_len 4 is longer than every recording"),
    ("--partial 1e-300", "--train_vi_len 4 is longer than every recording"),
]

# Which message a damage gives; run through the Trainer, and through `check`, which must agree.
DATA_FAULTS: list[tuple[Damage, str, int]] = [
    (folder("data"), "data: 2 faults in the data set", 3),
    (write("data", "text"), "data: 1 fault in the data set: is not a folder", 1),
    (remove("data/val"), "val: the folder is missing", 1),
    (remove("data/train/train_label"), "train/train_label: the folder is missing", 1),
    (write("data/val/val_img", ""), "val/val_img: is not a folder", 1),
    (folder("data/train/train_img"), "train/train_img: the folder has no images", 1),
    (remove("data/train/train_label/7.png"), "8 images, 7 labels; without a label: 7.png", 1),
    (remove("data/val/val_img/3.png"), "3 images, 4 labels; without an image: 3.png", 1),
    (pair("train", 3), "train/train_img: gaps in the numbering; missing: 3", 3),
    (pair("val", 0, 1), "val/val_img: numbering starts at 2", 3),
    (pair("val", 1, 2, 3), "val: 1 frame to validate on", 1),
    (copy("data/val/val_img/1.png", "data/val/val_img/frame1.png"), "1.png = frame1.png", 1),
    (move("data/val/val_img/3.png", "data/val/val_img/three.png"), "three.png", 3),
    (copy("data/val/val_img/1.png", "data/val/val_img/-4.png"), "not a frame number: -4.png", 1),
    (write("data/train/train_img/2.png", ""), "2.png: the file is empty (0 bytes)", 1),
    (write("data/train/train_img/2.png", "text"), "2.png: is not an image that can be read", 1),
    (cut("data/train/train_label/2.png", 0.5), "train/train_label/2.png: ", 1),
    (cut("data/train/train_label/2.png", 0.9), "train/train_label/2.png: ", 1),
    (
        image("data/train/train_img/2.png", "GIF"),
        "2.png: is not an image that can be read, it is a GIF",
        1,
    ),
    (image("data/train/train_img/2.png", "TIFF", "F"), "2.png: has pixels of a kind", 1),
    (image("data/train/train_img/2.png", "PNG", "1", (9000, 9000)), "2.png: 9000 x 9000", 1),
    (folder("data/train/train_img/2.png"), "2.png: is not a file", 1),
    (clips(""), "train/clips.csv: is empty", 1),
    (clips("0,4\n4,8\n"), "train/clips.csv: starts with '0,4'", 1),
    (clips("begin;end\n0;8\n"), "train/clips.csv: starts with 'begin,end'", 1),
    (clips("start,stop\n"), "train/clips.csv: has no rows", 1),
    (clips("start,stop\n0,8.0\n"), "clips.csv line 2: '0,8.0' is not two integers", 1),
    (clips("start,stop\n0,nan\n"), "clips.csv line 2: '0,nan' is not two integers", 1),
    (clips("start,stop\n0\n"), "clips.csv line 2: '0' is not two integers", 1),
    (clips("start,stop\n0,4,8\n"), "clips.csv line 2: '0,4,8' is not two integers", 1),
    (clips("start,stop\n4,4\n"), "clips.csv line 2: 4,4: start must be below stop", 1),
    (clips("start,stop\n0,9\n"), "clips.csv line 2: 0,9 is out of range", 1),
    (clips("start,stop\n-1,8\n"), "clips.csv line 2: -1,8 is out of range", 1),
    (clips("start,stop\n0,5\n4,8\n"), "clips.csv line 3: 4,8 overlaps 0,5 of line 2", 1),
    (
        write("data/train/clips.csv", b"\xff\xff\x00s"),
        "train/clips.csv: is not a valid CSV file",
        1,
    ),
    (folder("data/train/clips.csv"), "train/clips.csv: cannot be read", 1),
    (
        every(write("data/val/val_img/1.png", ""), remove("data/train/train_img/7.png")),
        "2 faults in the data set",
        3,
    ),
]
TEST_FAULTS: list[tuple[Damage, str, int]] = [
    (remove("data/test/test_img"), "test/test_img: the folder is missing", 1),
    (folder("data/test/test_label"), "test/test_label: has no folders of sequences", 1),
    (remove("data/test/test_img/1"), "test/test_img/1: the folder is missing", 1),
    (remove("data/test/test_label/0"), "test/test_label/0: the folder is missing", 1),
    (remove("data/test/test_img/1/0.png"), "test/test_img/1: the folder has no images", 1),
    (remove("data/test/test_label/1/1.png"), "test/test_label/1: gaps in the numbering", 1),
    (
        remove("data/test/test_label/1/1.png", "data/test/test_label/1/2.png"),
        "test/test_label/1: has 1 label; a sequence needs at least 2",
        1,
    ),
    (move("data/test/test_img/0/0.png", "data/test/test_img/0/1.png"), "first frame is", 1),
    (move("data/test/test_label/1", "data/test/test_label/b"), "whose name is not a number: b", 3),
    (cut("data/test/test_label/0/2.png", 0.6), "test/test_label/0/2.png: ", 1),
]
# Damages of RUN/best.ckpt: in the Trainer (fine-tuning and --test) and the Tester alike.
CHECKPOINT_FAULTS: list[tuple[Damage, str]] = [
    (remove("run/best.ckpt"), "no such checkpoint"),
    (folder("run/best.ckpt"), "not a checkpoint file"),
    (write("run/best.ckpt", ""), "corrupted, or not a checkpoint"),
    (write("run/best.ckpt", "epoch,loss\n" * 50), "corrupted, or not a checkpoint"),
    (write("run/best.ckpt", bytes(5000)), "corrupted, or not a checkpoint"),
    (cut("run/best.ckpt", 0.5), "corrupted, or not a checkpoint"),
    (cut("run/best.ckpt", 0.999), "corrupted, or not a checkpoint"),
    (saved({"state_dict": torch.nn.Linear(2, 2)}), "holds a Python object"),
    (saved({"state_dict": {}, "call": functools.partial(print)}), "holds a Python object"),
    (saved(torch.zeros(3)), "not a checkpoint of this model"),
    (saved({"weights": 1}), "not a checkpoint of this model"),
    (saved({"state_dict": {"a": 1}}), "not a checkpoint of this model"),
    (other_model, "none of the five networks is in it"),
    (write("run/best.ckpt", "<!DOCTYPE html><title>Sign in</title>"), "it is a web page"),
    (
        write("run/best.ckpt", "version https://git-lfs.github.com/spec/v1\n"),
        "fetch it with: git lfs pull",
    ),
    (
        checkpoint(lambda c: c["state_dict"].pop("Generator.7.bias")),
        "another architecture (Generator.7.bias is missing)",
    ),
    (
        checkpoint(lambda c: c["state_dict"].update({"Generator.7.bias": torch.zeros(4)})),
        "Generator.7.bias is 4, not 3",
    ),
    (checkpoint(lambda c: c["config"].update(F_dim=16)), "another architecture"),
    (checkpoint(lambda c: c["config"].update(F_dim=8.5)), "another architecture"),
    (checkpoint(lambda c: c["config"].update(F_dim="8")), "another architecture"),
    (checkpoint(lambda c: c["config"].update(frame_H=16.0)), "another architecture"),
    (checkpoint(lambda c: c["config"].update(frame_W=-1)), "another architecture"),
]
ROWS = [
    *(Row(f"{TRAIN} {option}", (word,)) for option, word in TRAIN_OPTIONS),
    Row(f"{TRAIN} --DR DATA/train", ("train: 2 faults in the data set",), lines=3),
    Row(f"{TRAIN} --save_root TMP/f", ("f: cannot be written",), write("f", "")),
    Row(f"{TRAIN} --save_root TMP/f/below", ("below: cannot be written",), write("f", "")),
    Row("Trainer.py", ("--DR", "--preset demo")),
    Row("Trainer.py --resume", ("--resume needs --save_root",)),
    *(
        Row(command, (text,), damage, lines)
        for command in (TRAIN, CHECK)
        for damage, text, lines in DATA_FAULTS
    ),
    *(
        Row(command, (text,), damage, lines)
        for command in (TEST, CHECK)
        for damage, text, lines in TEST_FAULTS
    ),
    *(
        Row(command, ("run/best.ckpt: ", text), damage)
        for command in (TUNE, VALIDATE, TEST)
        for damage, text in CHECKPOINT_FAULTS
    ),
    # weights that give no picture
    Row(VALIDATE, ("best.ckpt", "not finite"), checkpoint(not_finite)),
    Row(TEST, ("best.ckpt", "not finite"), checkpoint(not_finite)),
    Row(TUNE, ("best.ckpt", "not finite (Generator.7.bias)"), checkpoint(not_finite)),
    Row(f"{TEST} --latent_scale 3e38", ("--latent_scale", "not finite")),
    # the Tester's own options
    Row("Tester.py", ("no checkpoint: name it with --ckpt_path",)),
    Row(f"{TEST} --split train", ("--split: invalid choice: 'train'",)),
    Row(f"{TEST} --sed 1", ("unrecognized arguments: --sed",)),
    Row(f"{TEST} --latent_scale -1", ("--latent_scale -1.0",)),
    Row(f"{TEST} --latent_scale nan", ("--latent_scale nan",)),
    Row(f"{TEST} --batch_size 0", ("--batch_size 0",)),
    Row(f"{TEST} --seed {2**64}", ("--seed",)),
    Row(f"{TEST} --frame_H 24", ("--frame_H 24: ", "are for --frame_H 16")),
    Row(f"{TEST} --DR TMP/none", ("none: 1 fault in the data set: the folder is missing",)),
    Row(f"{TEST} --DR ''", ("--DR",)),
    Row(f"{TEST} --save_root ''", ("--save_root",)),
    Row(f"{TEST} --save_root TMP/f", ("f: cannot be made",), write("f", "")),
    Row(f"{TEST} --save_root DATA/test", ("--save_root", "data set")),
    Row(f"{TEST} --save_root /proc/nothing", ("/proc/nothing",)),
    Row(TEST, ("test: the folder is missing",), remove("data/test")),
    Row(f"{TEST} --split val", ("val: the folder is missing",), remove("data/val")),
    Row(
        "Tester.py --ckpt_path RUN/best.ckpt --save_root NEW --device cpu",
        ("best.ckpt does not say where its data set is: give --DR",),
        checkpoint(lambda c: c.pop("data_root")),
    ),
    # resuming
    Row(RESUME, ("no run to continue", "last.ckpt"), remove("run")),
    Row(f"{RESUME} --lr 0.5", ("--lr 0.001 → 0.5",)),
    Row(f"{RESUME} --seed 3 --batch_size 9", ("--batch_size 2 → 9", "--seed 0 → 3")),
    Row(f"{RESUME} --train_vi_len 3", ("--train_vi_len 4 → 3",)),
    Row(f"{RESUME} --F_dim 16", ("--F_dim 8 → 16",)),
    Row(RESUME, ("is not what this run was trained on",), pair("train", 7)),
    Row(
        RESUME,
        ("is not what this run was trained on",),
        copy("data/val/val_img/0.png", "data/val/val_img/1.png"),
    ),
    Row(RESUME, ("is not what this run was trained on",), clips("start,stop\n0,4\n4,8\n")),
    Row(RESUME, ("train: the folder is missing",), remove("data/train")),
    Row(
        RESUME,
        ("last.ckpt is of older code",),
        checkpoint(lambda c: c.pop("training"), "run/last.ckpt"),
    ),
    Row(
        RESUME,
        ("last.ckpt is of another version", "colour"),
        checkpoint(lambda c: c["options"].update(colour=1), "run/last.ckpt"),
    ),
    Row(RESUME, ("config.json: ",), write("run/config.json", "{")),
    Row(RESUME, ("config.json: ",), write("run/config.json", b"\xff\xfe\x00")),
    Row(RESUME, ("config.json: ",), write("run/config.json", "[1]")),
    Row(RESUME, ("config.json: ",), folder("run/config.json")),
    Row(RESUME, ("metrics.csv: ",), write("run/metrics.csv", b"\xff\xfe\x00")),
    Row(RESUME, ("metrics.csv: ",), table(cell(1, 0, "zero"))),
    Row(RESUME, ("metrics.csv: ",), write("run/metrics.csv", "a,b\n0,1\n")),
    Row(RESUME, ("metrics.csv: ",), folder("run/metrics.csv")),
    # data set commands
    Row("dataloader.py", ("command",)),
    Row("dataloader.py chek DATA", ("chek",)),
    Row("dataloader.py check", ("ROOT",)),
    Row("dataloader.py check DATA DATA", ("unrecognized arguments",)),
    Row("dataloader.py check --verbose DATA", ("--verbose",)),
    Row("dataloader.py check TMP/none", ("none: 1 fault in the data set: the folder is missing",)),
    Row("dataloader.py check ''", ("ROOT",)),
    Row(f"{DEMO} --train 1", ("--train 1",)),
    Row(f"{DEMO} --train many", ("--train: invalid int value: 'many'",)),
    Row(f"{DEMO} --frame_H 4", ("--frame_H 4",)),
    Row(f"{DEMO} --seed -1", ("--seed -1",)),
    Row(f"{DEMO} --frame_W 1{'0' * 15}", ("--frame_W 1000000000000000 is too large",)),
    Row(f"{DEMO} --train 1{'0' * 18}", ("--train 1000000000000000000 is too large",)),
    Row("dataloader.py demo DATA", ("data already exists and is not empty",)),
    Row("dataloader.py demo DATA/train/train_img/0.png", ("0.png",)),
    Row("dataloader.py demo /proc/nothing", ("/proc/nothing",)),
    # figures
    Row("plots", ("{curves,frames,compare,schedules}",)),
    Row("plots draw RUN", ("draw",)),
    Row("plots curves", ("RUN",)),
    Row("plots curves TMP/none", ("none: there is no such folder",)),
    Row("plots curves DATA", ("metrics.csv: missing",)),
    Row("plots curves RUN/metrics.csv", ("metrics.csv: there is no such folder",)),
    Row(CURVES, ("metrics.csv: is empty",), write("run/metrics.csv", "")),
    Row(CURVES, ("metrics.csv: lacks the columns",), write("run/metrics.csv", "a,b\n1,2\n")),
    Row(CURVES, ("metrics.csv: has no rows",), table(lambda rows: rows.__delitem__(slice(1, 9)))),
    Row(CURVES, ("metrics.csv: is not a valid CSV file",), table(cell(1, 2, "good"))),
    Row(CURVES, ("metrics.csv: ",), write("run/metrics.csv", b"\xff\xfe\x00")),
    Row(CURVES, ("metrics.csv: ",), table(cell(1, 0, "1e300"))),
    Row(CURVES, ("metrics.csv: ",), table(cell(1, 0, "nan"))),
    Row(CURVES, ("metrics.csv: ",), table(cell(1, 0, "-3"))),
    Row(CURVES, ("metrics.csv: ",), table(cell(1, 0, "0.5"))),
    Row(CURVES, ("config.json: ",), write("run/config.json", "{")),
    Row(CURVES, ("config.json: ",), write("run/config.json", "[" * 100_000)),
    Row(CURVES, ("config.json: ",), write("run/config.json", "[1]")),
    Row(CURVES, ("config.json: ",), write("run/config.json", b"\xff\xfe\x00")),
    Row(FRAMES, ("psnr_per_frame.csv: missing",), remove("run/psnr_per_frame.csv")),
    Row(
        FRAMES,
        ("psnr_per_frame.csv: is not a valid CSV",),
        write("run/psnr_per_frame.csv", "x\ny\n"),
    ),
    Row(FRAMES, ("psnr_per_frame.csv: ",), write("run/psnr_per_frame.csv", "frame,psnr\n1,x\n")),
    Row(FRAMES, ("psnr_per_frame.csv: ",), write("run/psnr_per_frame.csv", "frame,psnr\n2,9\n")),
    Row(FRAMES, ("psnr_per_frame.csv: ",), write("run/psnr_per_frame.csv", "frame,psnr\n,\n")),
    Row(FRAMES, ("psnr_per_frame.csv: ",), write("run/psnr_per_frame.csv", "")),
    Row(COMPARE, ("run2: there is no such folder",), remove("run2")),
    Row("plots compare RUN RUN --out NEW", ("run: is given twice",)),
    Row("plots compare RUN", ("--out",)),
    Row("plots compare RUN --out DATA/train/train_img/0.png", ("0.png",)),
    Row("plots compare RUN --out /proc/nothing", ("/proc/nothing",)),
    Row(f"{SCHEDULES} --num_epoch 0", ("--num_epoch 0",)),
    Row(f"{SCHEDULES} --num_epoch 1{'0' * 15}", ("--num_epoch",)),
    Row(f"{SCHEDULES} --kl_ratio 1", ("--kl_ratio",)),
    Row(f"{SCHEDULES} --resume --ckpt_path a", ("--resume and --ckpt_path",)),
    Row("plots schedules --out NEW/a.jpg", ("a.jpg: figures are PNG files",)),
    Row("plots schedules --out DATA/train/train_img/0.png/a.png", ("0.png: ",)),
    Row(f"{SCHEDULES} --fu_figure --lr 1", ("leave out --lr",)),
]


# ---------------------------------------------------------------- running and judging


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    status: int | str  # an exception's name if it got out
    stderr: str


def _took_too_long(*_: object) -> None:
    raise TimeoutError("still running after a minute")


def run_here(arguments: list[str]) -> Outcome:
    """Run a script's main in this process as its own last lines would, warnings on stderr."""
    name, *rest = arguments
    main = importlib.import_module(SCRIPTS[name][0]).main
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        mock.patch.object(sys, "argv", [name, *rest]),
        # pytest keeps warnings to itself; a user would see them on stderr.
        warnings.catch_warnings(record=True) as caught,
    ):
        warnings.simplefilter("default")
        status: int | str
        # What hangs shall fail, not stop the tests.
        before = signal.signal(signal.SIGALRM, _took_too_long)
        signal.alarm(60)
        try:
            run_as_script(main)
        except SystemExit as exit_:
            status = exit_.code if isinstance(exit_.code, int) else 1
        except BaseException as error:
            status = f"{type(error).__name__}: {error}"
        finally:
            signal.alarm(0)
            signal.signal(signal.SIGALRM, before)
    warned = "".join(f"{warning.category.__name__}: {warning.message}\n" for warning in caught)
    return Outcome(status, warned + err.getvalue())


def faults_of(outcome: Outcome, row: Row) -> list[str]:
    """What is wrong with how a wrong command ended; empty if it ended as promised."""
    lines = outcome.stderr.splitlines()
    found = []
    if outcome.status != 2:
        found.append(f"ended with {outcome.status}, not status 2")
    if "Traceback" in outcome.stderr:
        found.append("a traceback")
    if len(lines) != row.lines:
        found.append(f"{len(lines)} lines on stderr, not {row.lines}")
    if not lines or not lines[0].startswith("error: "):
        found.append("no error line")
    if not all(line.startswith("  - ") for line in lines[1:]):
        found.append("lines that are not a list of faults")
    found += [f"does not name {word!r}" for word in row.words if word not in outcome.stderr]
    return found


def state_of(folder: Path) -> dict[str, tuple[str, int, int]]:
    """Hash, modification time and mode of everything in a folder (and of the folder)."""
    found = {}
    for path in [folder, *sorted(folder.rglob("*"))]:
        status = path.lstat()
        content = path.read_bytes() if path.is_file() else b""
        found[str(path)] = (
            hashlib.sha256(content).hexdigest(),
            status.st_mtime_ns,
            status.st_mode,
        )
    return found


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sound files: data/, run/ (two epochs on it) and run2/, a copy."""
    world = tmp_path_factory.mktemp("sound")
    make_dataset(world / "data", train=8, val=4, tests=(3, 3))
    arguments = Row(
        TRAIN.replace("NEW", "RUN").replace("--num_epoch 1", "--num_epoch 2 --auto_save"), ()
    ).arguments(world)
    assert run_here(arguments).status == 0
    # Never improved upon in two epochs or improved in both: it must be there either way.
    assert (world / "run/best.ckpt").exists()
    shutil.copytree(world / "run", world / "run2")
    return world


@pytest.fixture
def world(template: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(template, tmp_path / "world"))


def name_of(row: Row) -> str:
    """For pytest's output: script and message."""
    return f"{row.command.split()[0]}: {row.words[-1]}"[:70]


def test_the_table_is_as_large_as_promised() -> None:
    assert len(ROWS) >= 60
    assert len({(row.command, row.damage) for row in ROWS}) == len(ROWS)


@pytest.mark.parametrize("row", ROWS, ids=map(name_of, ROWS))
def test_refused_in_one_line(row: Row, world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(world)
    if row.damage:
        row.damage(world)
    before = {name: state_of(world / name) for name in ("data", "run") if (world / name).exists()}
    outcome = run_here(row.arguments(world))
    assert not faults_of(outcome, row), outcome
    for name, state in before.items():
        assert state_of(world / name) == state
    # Neither a half-made run nor results: at most the empty folder that was tried for writing.
    assert [path for path in (world / "new").rglob("*") if path.is_file()] == []
    assert not (world / "runs").exists()


# ---------------------------------------------------------------- controls


@pytest.mark.parametrize(
    "command",
    [
        *dict.fromkeys(row.command for row in ROWS if row.damage and "TMP/f" not in row.command),
        *(DEMO, SCHEDULES),
    ],
)
def test_sound_files_are_accepted(
    command: str, world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without the damage, or without the wrong option, the very same commands work.
    monkeypatch.chdir(world)
    outcome = run_here(Row(command, ()).arguments(world))
    assert outcome == Outcome(0, "")


@pytest.mark.parametrize(
    ("outcome", "text"),
    [
        (Outcome(0, ""), "ended with 0"),
        (Outcome(1, "error: lr\n"), "ended with 1"),
        (Outcome("ValueError: x", ""), "ended with ValueError"),
        (Outcome(2, "error: --batch_size\n"), "does not name 'lr'"),
        (Outcome(2, "UserWarning: lr\nerror: lr\n"), "no error line"),
        (Outcome(2, "error: lr\nand more\n"), "2 lines on stderr, not 1"),
        (Outcome(2, "error: lr\nand more\n"), "lines that are not a list"),
        (Outcome(2, "Traceback (most recent call last)\nerror: lr\n"), "a traceback"),
    ],
)
def test_other_ends_would_be_noticed(outcome: Outcome, text: str) -> None:
    row = Row("Trainer.py", ("lr",))
    assert faults_of(Outcome(2, "error: lr\n"), row) == []
    assert any(text in fault for fault in faults_of(outcome, row))


def test_writing_into_the_data_would_be_noticed(world: Path) -> None:
    before = state_of(world / "data")
    assert state_of(world / "data") == before
    picture = world / "data/train/train_img/0.png"
    for change in (
        lambda: picture.write_bytes(picture.read_bytes()),  # the same bytes, but written
        lambda: (world / "data/val/Thumbs.db").touch(),
        lambda: (world / "data/.cache").mkdir(),
        lambda: picture.unlink(),
    ):
        change()
        after = state_of(world / "data")
        assert after != before
        before = after


def test_images_of_odd_modes_are_no_fault(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(world)
    for number, mode in enumerate(("1", "L", "LA", "P", "RGBA", "I;16")):
        Image.new(mode, (5, 9)).save(world / f"data/train/train_img/{number}.png")
    Image.new("CMYK", (1, 1)).save(world / "data/train/train_img/6.jpg", "JPEG")
    (world / "data/train/train_img/6.png").unlink()
    assert run_here(Row(TRAIN, ()).arguments(world)) == Outcome(0, "")


# ---------------------------------------------------------------- rights


@pytest.fixture
def world_of_another(template: Path) -> Iterator[Path]:
    """The files where a user other than root works, who owns them."""
    if not hasattr(os, "geteuid"):
        pytest.skip("no user ids on this system")
    base = Path(tempfile.mkdtemp())
    base.chmod(0o755)
    world = Path(shutil.copytree(template, base / "world"))
    user = os.geteuid()
    if user == 0:
        for path in [world, *world.rglob("*")]:
            os.chown(path, 65534, 65534)
        os.seteuid(65534)  # root may read and write everything
    try:
        yield world
    finally:
        os.seteuid(user)
        shutil.rmtree(base, ignore_errors=True)


# A folder or file, the rights it is left with, a command, and what the message has.
RIGHTS = [
    ("data", 0o000, TRAIN, "data: 1 fault in the data set: the folder cannot be read"),
    ("data/train", 0o000, TRAIN, "train: the folder cannot be read (Permission denied)"),
    ("data/train/clips.csv", 0o000, TRAIN, "train/clips.csv: cannot be read (Permission denied)"),
    ("data/train/train_img", 0o000, TRAIN, "train/train_img: the folder cannot be read"),
    ("data/val/val_label/2.png", 0o000, TRAIN, "2.png: cannot be read (Permission denied)"),
    ("data/train/train_img", 0o000, CHECK, "train/train_img: the folder cannot be read"),
    ("data/test/test_label/1", 0o000, TEST, "test/test_label/1: the folder cannot be read"),
    (".", 0o555, TRAIN, "new: cannot be written (Permission denied)"),
    ("run", 0o555, RESUME, "run: cannot be written (Permission denied)"),
    ("run", 0o000, RESUME, "run"),
    ("run/metrics.csv", 0o000, RESUME, "metrics.csv: "),
    ("run/config.json", 0o000, RESUME, "config.json: "),
    ("run", 0o000, TUNE, "best.ckpt: cannot be read (Permission denied)"),
    ("run/best.ckpt", 0o000, TEST, "best.ckpt: cannot be read (Permission denied)"),
    (".", 0o555, TEST, "new"),
    ("run", 0o555, TEST.replace("NEW", "RUN"), "run"),
    (".", 0o555, DEMO, "new"),
    ("run", 0o000, CURVES, "run"),
    ("run/metrics.csv", 0o000, CURVES, "metrics.csv"),
    ("run/config.json", 0o000, CURVES, "config.json"),
    ("run", 0o555, CURVES, "curves.png: cannot be written"),
    (".", 0o555, COMPARE, "new"),
    (".", 0o555, SCHEDULES, "new"),
]


@pytest.mark.parametrize(("path", "rights", "command", "text"), RIGHTS)
def test_without_rights(
    world_of_another: Path, path: str, rights: int, command: str, text: str
) -> None:
    target = world_of_another / path
    if target.name == "clips.csv":
        clips("start,stop\n0,8\n")(world_of_another)
    before = target.stat().st_mode
    data = state_of(world_of_another / "data")
    target.chmod(rights)
    outcome = run_here(Row(command, ()).arguments(world_of_another))
    target.chmod(before)
    assert not faults_of(outcome, Row(command, (text,))), outcome
    assert state_of(world_of_another / "data").keys() == data.keys()
    assert not list((world_of_another / "new").rglob("*.*"))


# ---------------------------------------------------------------- as a user would


@pytest.mark.slow
@pytest.mark.parametrize(
    "row",
    [
        Row(f"{TRAIN} --lerning_rate 1", ("--lerning_rate",)),
        Row(TRAIN, ("2.png: the file is empty",), write("data/train/train_img/2.png", "")),
        Row(TEST, ("run/best.ckpt: corrupted",), cut("run/best.ckpt", 0.5)),
        Row(RESUME, ("config.json: ",), write("run/config.json", "{")),
        Row(CHECK, ("val: the folder is missing",), remove("data/val")),
        Row(CURVES, ("metrics.csv: is empty",), write("run/metrics.csv", "")),
    ],
    ids=name_of,
)
def test_in_processes_of_their_own(row: Row, world: Path) -> None:
    assert row.damage or "lerning" in row.command
    if row.damage:
        row.damage(world)
    before = state_of(world / "data")
    name, *rest = row.arguments(world)
    result = subprocess.run(
        [sys.executable, *SCRIPTS[name][1], *rest],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert not faults_of(Outcome(result.returncode, result.stderr), row), result.stderr
    assert state_of(world / "data") == before


def test_no_cuda(world: Path) -> None:
    """The command line that is in many reports, on a machine without a GPU."""
    for command in (
        "Trainer.py --DR DATA --batch_size 1 --lr 0.001 --device cuda --optim Adam --gpu 1"
        " --save_root TMP/empty --num_epoch 100 --train_vi_len 32 --tfr 1.0 --tfr_sde 10"
        " --tfr_d_step 0.1 --kl_anneal_type Cyclical --kl_anneal_cycle 10 --kl_anneal_ratio 1"
        " --auto_save",
        "Tester.py --ckpt_path RUN/best.ckpt --save_root TMP/empty --device cuda",
    ):
        row = Row(command, ("--device cuda", "use --device cpu"))
        result = run_script(*row.arguments(world), env={"CUDA_VISIBLE_DEVICES": ""})
        assert not faults_of(Outcome(result.returncode, result.stderr), row), result.stderr
        assert not (world / "empty").exists()
