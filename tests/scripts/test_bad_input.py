"""Wrong command lines and files, through each script: one line that names the culprit, status 2,
nothing touched.

What the messages say of every option, data set, checkpoint and table is tested where they are made.
Here is a row for each kind of mistake and script: a command, what is done to a sound set of files
first, and the words that the message must have. The scripts run through their own command lines, in
this process, since importing torch for each would take minutes.
"""

import contextlib
import dataclasses
import hashlib
import importlib
import io
import os
import shlex
import shutil
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

from modules.runtime.scripts import run_as_script
from tests.support.damage import Damage, copy, cut, every, folder, remove, write
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
CURVES = "plots curves RUN"
COMPARE = "plots compare RUN TMP/run2 --out NEW"
SCHEDULES = "plots schedules --out NEW/a.png"

EMPTY = write("data/train/train_img/2.png", "")
TWO = every(write("data/val/val_img/1.png", ""), remove("data/train/train_img/7.png"))
SEVERED = cut("run/best.ckpt", 0.5)
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
    Row("plots compare RUN", ("--out",)),
    Row(f"{TRAIN} --gpu 99", ("--gpu 99",)),
    Row(f"{TRAIN} --ckpt_path RUN/best.ckpt --F_dim 16", ("best.ckpt are for --F_dim 8",)),
    Row(f"{TEST} --frame_H 24", ("--frame_H 24: ", "are for --frame_H 16")),
    Row(f"{TEST} --latent_scale 3e38", ("--latent_scale", "non-finite")),
    Row(f"{TEST} --n_samples 2", ("--n_samples 2", "--split val")),
    Row(f"{TEST} --st_lpips", ("--split val",)),
    Row("plots schedules --out NEW/a.jpg", ("a.jpg: figures are PNG files",)),
    # folders to write to
    Row(f"{TRAIN} --save_root RUN", ("already holds a run: continue it with --resume",)),
    *(
        Row(f"{command} --save_root {place}", (word,), write("f", ""))
        for command in (TRAIN, TEST)
        for place, word in (
            ("DATA/train", "--save_root"),
            ("DATA/test/new", "is inside the data set's test/"),
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
    Row("plots compare RUN --out DATA/train/train_img/0.png", ("0.png",)),
    # the data set, before anything is made of it
    *(
        Row(command, (text,), damage, lines)
        for command in (TRAIN, CHECK)
        for damage, text, lines in (
            (remove("data/val"), "val: the folder is missing", 1),
            (EMPTY, "2.png: the file is empty (0 bytes)", 1),
            (TWO, "2 faults in the data set", 3),
        )
    ),
    Row(f"{TEST} --DR TMP/none", ("none: 1 fault in the data set: the folder is missing",)),
    Row(f"{TRAIN} --DR $'two\\nlines'", ("two\\nlines",)),
    Row(TEST, ("test: the folder is missing",), remove("data/test")),
    Row(f"{TEST} --split val", ("val: the folder is missing",), remove("data/val")),
    # checkpoints
    *(
        Row(command, ("run/best.ckpt: ", text), damage)
        for command, damage, text in (
            (TUNE, remove("run/best.ckpt"), "no such checkpoint"),
            (VALIDATE, SEVERED, "corrupted, or not a checkpoint"),
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
        for command, names in (
            (RESUME, ("config.json", "metrics.csv")),
            (CURVES, ("config.json", "metrics.csv")),
        )
        for name in names
        for damage in (
            write(f"run/{name}", b"\xff\xfe\x00"),
            folder(f"run/{name}"),
        )
    ),
    Row(COMPARE, ("psnr_per_frame.csv: ",), write("run/psnr_per_frame.csv", b"\xff\xfe\x00")),
    Row(COMPARE, ("run2: there is no such folder",), remove("run2")),
    Row("plots compare RUN RUN --out NEW", ("run: is given twice",)),
]


# ---------------------------------------------------------------- running and judging


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    status: int | str  # an exception's name if it got out
    stderr: str


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
        try:
            run_as_script(main)
        except SystemExit as exit_:
            status = exit_.code if isinstance(exit_.code, int) else 1
        except BaseException as error:
            status = f"{type(error).__name__}: {error}"
    warned = "".join(f"{warning.category.__name__}: {warning.message}\n" for warning in caught)
    return Outcome(status, warned + err.getvalue())


def faults_of(outcome: Outcome, row: Row) -> list[str]:
    """What is wrong with how a wrong command ended; empty if it ended as promised."""
    lines = outcome.stderr.splitlines()
    found = []
    if outcome.status != 2:
        found.append(f"ended with {outcome.status}, not status 2")
    if len(lines) != row.lines:
        found.append(f"{len(lines)} lines on stderr, not {row.lines}")
    if not lines or not lines[0].startswith("error: "):
        found.append("no error line")
    if not all(line.startswith("  - ") for line in lines[1:]):
        found.append("lines that are not a list of faults")
    return found + [f"does not name {word!r}" for word in row.words if word not in outcome.stderr]


def state_of(folder: Path) -> dict[str, tuple[str, int, int]]:
    """Hash, modification time and mode of everything in a folder (and of the folder)."""
    found = {}
    for path in [folder, *sorted(folder.rglob("*"))]:
        status = path.lstat()
        digest = hashlib.sha256(path.read_bytes() if path.is_file() else b"").hexdigest()
        found[str(path)] = (digest, status.st_mtime_ns, status.st_mode)
    return found


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sound files: data/, run/ (two epochs on it) and run2/, a copy."""
    world = tmp_path_factory.mktemp("sound")
    make_dataset(world / "data", train=8, val=4, tests=(3, 3))
    command = TRAIN.replace("NEW", "RUN").replace("--num_epoch 1", "--num_epoch 2 --auto_save")
    assert run_here(Row(command, ()).arguments(world)).status == 0
    shutil.copytree(world / "run", world / "run2")
    return world


@pytest.fixture
def world(template: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(template, tmp_path / "world"))


def name_of(row: Row) -> str:
    """For pytest's output: script and message."""
    return f"{row.command.split()[0]}: {row.words[-1]}"[:70]


@pytest.mark.parametrize("row", ROWS, ids=map(name_of, ROWS))
def test_refused_in_one_line(row: Row, world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(world)
    if row.damage:
        row.damage(world)
    before = {name: state_of(world / name) for name in ("data", "run") if (world / name).exists()}
    outcome = run_here(row.arguments(world))
    assert not faults_of(outcome, row), outcome
    for name, state in before.items():
        after = state_of(world / name)
        if name == "run":  # where a lock came and went
            del state[str(world / name)], after[str(world / name)]
        assert after == state
    # Neither a half-made run nor results: at most the empty folder that was tried for writing.
    assert [path for path in (world / "new").rglob("*") if path.is_file()] == []
    assert not (world / "runs").exists()


# ---------------------------------------------------------------- controls


@pytest.mark.parametrize(
    "command",
    [TRAIN, RESUME, TUNE, VALIDATE, TEST, CHECK, CURVES],
)
def test_sound_files_are_accepted(
    command: str, world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the damage, or without the wrong option, the very same commands work."""
    monkeypatch.chdir(world)
    assert run_here(Row(command, ()).arguments(world)) == Outcome(0, "")


def test_other_ends_would_be_noticed(world: Path) -> None:
    row = Row("Trainer.py", ("lr",))
    assert faults_of(Outcome(2, "error: lr\n"), row) == []
    for outcome, text in (
        (Outcome(0, ""), "ended with 0"),
        (Outcome("ValueError: x", ""), "ended with ValueError"),
        (Outcome(2, "error: --batch_size\n"), "does not name 'lr'"),
        (Outcome(2, "UserWarning: lr\nerror: lr\n"), "no error line"),
        (Outcome(2, "error: lr\nand more\n"), "2 lines on stderr, not 1"),
    ):
        assert any(text in fault for fault in faults_of(outcome, row))
    before, picture = state_of(world / "data"), world / "data/train/train_img/0.png"
    picture.write_bytes(picture.read_bytes())  # the same bytes, but written
    assert state_of(world / "data") != before


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
    ("data/train", 0o000, TRAIN, "train: the folder cannot be read (Permission denied)"),
    (".", 0o555, TRAIN, "new: cannot be written (Permission denied)"),
    ("run", 0o555, RESUME, "run: cannot be written (Permission denied)"),
    ("run/best.ckpt", 0o000, TEST, "best.ckpt: cannot be read (Permission denied)"),
    ("run", 0o555, CURVES, ".png: cannot be written"),
]


@pytest.mark.parametrize(("path", "rights", "command", "text"), RIGHTS)
def test_without_rights(
    world_of_another: Path, path: str, rights: int, command: str, text: str
) -> None:
    target = world_of_another / path
    before, data = target.stat().st_mode, state_of(world_of_another / "data")
    target.chmod(rights)
    outcome = run_here(Row(command, ()).arguments(world_of_another))
    target.chmod(before)
    assert not faults_of(outcome, Row(command, (text,))), outcome
    assert state_of(world_of_another / "data").keys() == data.keys()
    assert not list((world_of_another / "new").rglob("*.*"))


def test_data_that_may_only_be_read(world_of_another: Path) -> None:
    for path in sorted((world_of_another / "data").rglob("*"), reverse=True):
        path.chmod(0o555 if path.is_dir() else 0o444)
    for command in (TRAIN, CHECK):
        assert run_here(Row(command, ()).arguments(world_of_another)) == Outcome(0, "")
    (world_of_another / "data/val").chmod(0o755)


# ---------------------------------------------------------------- as a user would


@pytest.mark.slow
@pytest.mark.parametrize(
    "row",
    [
        Row(TRAIN, ("2.png: the file is empty",), EMPTY),
        Row(CURVES, ("metrics.csv: is empty",), write("run/metrics.csv", "")),
    ],
    ids=name_of,
)
def test_in_processes_of_their_own(row: Row, world: Path) -> None:
    assert row.damage
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
    """On a machine without a GPU; nothing is made before that is found."""
    command = TRAIN.replace("--device cpu", "--device cuda")
    row = Row(command, ("--device cuda", "use --device cpu"))
    result = run_script(*row.arguments(world), env={"CUDA_VISIBLE_DEVICES": ""})
    assert not faults_of(Outcome(result.returncode, result.stderr), row), result.stderr
    assert not (world / "new").exists()
