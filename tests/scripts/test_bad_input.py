"""Wrong command lines and files, through each script: one line that names the culprit, status 2,
nothing touched.

What the messages say of every option, data set, checkpoint and table is tested where they are made.
Here is a row for each kind of mistake and script: a command, the words that the message must have,
and what is done to a sound set of files first.
"""

import errno
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from tests.support.data import Damage, copy, every, folder, make_dataset, remove, write
from tests.support.disks import named, refusing
from tests.support.scripts import TINY_RUN, assert_refused, run_script

pytestmark = pytest.mark.filterwarnings("error")  # a user would see them on stderr


class Row(NamedTuple):
    """A wrong command. In `command`, DATA, RUN, NEW and TMP stand for paths."""

    command: str
    words: tuple[str, ...]  # in the message, in any order
    damage: Damage | None = None
    lines: int = 1  # of the message; more only where faults of a data set are listed


def run(command: str, world: Path) -> subprocess.CompletedProcess[str]:
    """A command in the copy of the files at `world`."""
    for name, place in {"DATA": "data", "RUN": "run", "NEW": "new", "TMP": "."}.items():
        command = command.replace(name, str(world / place))
    return run_script(*shlex.split(command), cwd=world)


def checkpoint(change: Callable[[dict[str, Any]], object], path: str = "run/best.ckpt") -> Damage:
    """Load a checkpoint, change what it holds, and save it again."""

    def apply(world: Path) -> None:
        content = torch.load(world / path, weights_only=True)
        change(content)
        torch.save(content, world / path)

    return apply


def not_finite(content: dict[str, Any]) -> None:
    content["state_dict"]["Generator.7.bias"].fill_(float("nan"))


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
CURVES = "modules/plots.py curves RUN"
COMPARE = "modules/plots.py compare RUN TMP/run2 --out NEW"
SCHEDULES = "modules/plots.py schedules --out NEW/a.png"

EMPTY = write("data/train/train_img/2.png", "")
TWO = every(write("data/val/val_img/1.png", ""), remove("data/train/train_img/7.png"))
NOT_GIVEN = remove("data/test/test_img/1/0.png")
NO_CHECKPOINT = write("run/best.ckpt", "half of it")
WRONG_TYPES = checkpoint(lambda content: content["config"].update(F_dim="8"))

ROWS = [
    # options: unknown, abbreviated, of a wrong kind or range, contradictory
    *(
        Row(f"{command} {option}", (word,))
        for command in (TRAIN, TEST, DEMO, SCHEDULES)
        for option, word in (
            ("--see 1", "unrecognized arguments: --see"),
            ("--seed -1", "--seed -1: must be at least 0"),
        )
    ),
    Row("Trainer.py", ("--DR", "--preset demo")),
    Row("Trainer.py --resume", ("--resume needs --save_root",)),
    Row("Tester.py", ("no checkpoint: name it with --ckpt_path",)),
    Row("dataloader.py", ("command",)),
    Row("dataloader.py check ''", ("ROOT",)),
    Row("modules/plots.py compare RUN", ("--out",)),
    Row(f"{TRAIN} --ckpt_path RUN/best.ckpt --F_dim 16", ("best.ckpt are for --F_dim 8",)),
    Row(f"{TEST} --frame_H 24", ("--frame_H 24: ", "are for --frame_H 16")),
    Row(f"{TEST} --latent_scale 3e38", ("--latent_scale", "non-finite")),
    Row(f"{TEST} --n_samples 2", ("--n_samples: only --split val",)),
    Row(f"{TEST} --st_lpips", ("--split val",)),
    Row("modules/plots.py schedules --out NEW/a.jpg", ("a.jpg: figures are PNG files",)),
    # folders to write to
    Row(f"{TRAIN} --save_root RUN", ("already holds a run: continue it with --resume",)),
    *(
        Row(f"{command} --save_root {place}", (word,), write("f", ""))
        for command in (TRAIN, TEST)
        for place, word in (
            ("DATA/train", "--save_root"),
            ("TMP/f", "f: cannot be "),
            ("TMP/f/below", "below: cannot be "),
            ("''", "--save_root: is empty"),
        )
    ),
    *(
        Row(f"{command}/{'x' * 300}", ("x" * 300, "long"))
        for command in (
            f"{TRAIN} --save_root NEW",
            "Tester.py --ckpt_path RUN",
            "dataloader.py check TMP",
        )
    ),
    Row("dataloader.py demo DATA", ("data already exists and is not empty",)),
    Row("dataloader.py demo /proc/nothing", ("/proc/nothing",)),
    Row("modules/plots.py compare RUN --out DATA/train/train_img/0.png", ("0.png",)),
    # the data set, before anything is made of it
    *(
        Row(command, (text,), damage)
        for command in (TRAIN, CHECK)
        for damage, text in (
            (remove("data/val"), "val: the folder is missing"),
            (EMPTY, "2.png: the file is empty (0 bytes)"),
        )
    ),
    Row(TRAIN, ("2 faults in the data set",), TWO, 3),
    Row(CHECK, ("3 faults in the data set", "test/test_img/1: "), every(TWO, NOT_GIVEN), 4),
    Row(f"{TEST} --DR TMP/none", ("none: 1 fault in the data set: the folder is missing",)),
    Row(f"{TRAIN} --DR $'two\\nlines'", ("two\\nlines",)),
    # checkpoints
    *(
        Row(command, ("run/best.ckpt: ", text), damage)
        for command, damage, text in (
            (TUNE, remove("run/best.ckpt"), "no such checkpoint"),
            (VALIDATE, NO_CHECKPOINT, "corrupted, or not a checkpoint"),
            (TEST, WRONG_TYPES, "another architecture"),
            (TUNE, checkpoint(not_finite), "not finite (Generator.7.bias)"),
            (TEST, checkpoint(not_finite), "not finite (Generator.7.bias)"),
        )
    ),
    Row(
        "Tester.py --ckpt_path RUN/best.ckpt --save_root NEW --device cpu",
        ("best.ckpt does not say where its data set is: give --DR",),
        checkpoint(lambda content: content.pop("data_root")),
    ),
    # resuming
    Row(RESUME, ("no run to continue", "last.ckpt"), remove("run")),
    Row(f"{RESUME} --seed 3 --batch_size 9", ("--batch_size 2 → 9", "--seed 0 → 3")),
    Row(
        RESUME,
        ("is not what this run was trained on",),
        copy("data/val/val_img/0.png", "data/val/val_img/1.png"),
    ),
    Row(
        RESUME,
        ("last.ckpt was written by older code",),
        checkpoint(lambda content: content.pop("training"), "run/last.ckpt"),
    ),
    Row(
        RESUME,
        ("last.ckpt is of another version", "colour"),
        checkpoint(lambda content: content["options"].update(colour=1), "run/last.ckpt"),
    ),
    # a run's files
    *(
        Row(command, (f"{name}: ",), damage)
        for command in (RESUME, CURVES)
        for name in ("config.json", "metrics.csv")
        for damage in (write(f"run/{name}", b"\xff\xfe\x00"), folder(f"run/{name}"))
    ),
    Row(COMPARE, ("psnr_per_frame.csv: ",), write("run/psnr_per_frame.csv", b"\xff\xfe\x00")),
    Row(COMPARE, ("run2: there is no such folder",), remove("run2")),
    Row("modules/plots.py compare RUN RUN --out NEW", ("run: is given twice",)),
]


# ---------------------------------------------------------------- running and judging


def state_of(*folders: Path) -> dict[Path, Any]:
    """All that is in folders; of files also the content and when it was written."""
    paths = [path for folder in folders for path in folder.rglob("*")]
    return {p: p.is_file() and (p.read_bytes(), p.stat().st_mtime_ns) for p in paths}


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sound files: data/, run/ (two epochs on it) and run2/, a copy."""
    world = tmp_path_factory.mktemp("sound")
    make_dataset(world / "data", train=8, val=4, tests=(3, 3))
    command = TRAIN.replace("NEW", "RUN").replace("--num_epoch 1", "--num_epoch 2 --auto_save")
    assert run(command, world).returncode == 0
    shutil.copytree(world / "run", world / "run2")
    return world


@pytest.fixture
def world(template: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(template, tmp_path / "world"))


@pytest.mark.parametrize(
    "row", ROWS, ids=lambda row: f"{row.command.split()[0]}: {row.words[-1]}"[:70]
)
def test_refused_in_one_line(row: Row, world: Path) -> None:
    if row.damage:
        row.damage(world)
    before = state_of(world / "data", world / "run")
    result = run(row.command, world)
    assert_refused(result, *row.words)
    _, *rest = result.stderr.splitlines()
    assert len(rest) == row.lines - 1 and all(line.startswith("  - ") for line in rest)
    assert state_of(world / "data", world / "run") == before
    # Neither a half-made run nor results: at most the empty folder that was tried for writing.
    assert [path for path in (world / "new").rglob("*") if path.is_file()] == []
    assert not (world / "runs").exists()


@pytest.mark.parametrize("command", [TRAIN, RESUME, TUNE, VALIDATE, TEST, CHECK, CURVES])
def test_sound_files_are_accepted(command: str, world: Path) -> None:
    """The control: without the damage, or without the wrong option, the very same commands work."""
    before = state_of(world / "data")
    result = run(command, world)
    assert (result.returncode, result.stderr) == (0, "")
    assert state_of(world / "data") == before


# What may not be done, a command, and what the message has.
RIGHTS = [
    ("mkdir", "new", TRAIN, "new: cannot be written (Permission denied)"),
    ("open", "run.lock", RESUME, "run: cannot be written (Permission denied)"),
    ("open", "best.ckpt", TEST, "best.ckpt: cannot be read (Permission denied)"),
    ("open", ".tmp", CURVES, ".png: cannot be written"),
]


@pytest.mark.usefixtures("no_waiting")
@pytest.mark.parametrize(("call", "end", "command", "text"), RIGHTS)
def test_without_rights(world: Path, call: str, end: str, command: str, text: str) -> None:
    """Simulated, since root may do everything."""
    with refusing(call, errno.EACCES, when=named(end)):
        result = run(command, world)
    assert_refused(result, text)
    assert result.stderr.count("\n") == 1
    assert not list((world / "new").rglob("*.*"))
