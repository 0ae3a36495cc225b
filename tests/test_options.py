"""Options: the contract's names and defaults, what wins over what, and what is refused."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from modules.checkpoint import load_checkpoint
from modules.cvae import CVAE, ModelConfig
from modules.options import (
    PRESETS,
    REQUIRED,
    TesterOptions,
    TrainerOptions,
    build_parser,
    effective,
    milestones,
    option,
    parse_command,
    parse_trainer,
    resolved,
    run_folder,
    saved_options,
    telling_origins,
    without_effect,
)
from modules.runtime.errors import UserError

# Every option that the contract names, with its default where it gives one.
CONTRACT = {
    "train_vi_len": 16, "val_vi_len": 630, "frame_H": 32, "frame_W": 64, "partial": 1.0,
    "fast_train": False, "fast_partial": 0.4, "fast_train_epoch": 5,
    "F_dim": 128, "L_dim": 32, "N_dim": 12, "D_out_dim": 192,
    "batch_size": 2, "num_epoch": 70, "lr": 0.001, "optim": "Adam", "grad_clip": 1.0,
    "tfr": 1.0, "tfr_sde": 10, "tfr_d_step": 0.1, "detector_patience": 0,
    "kl_anneal_type": "Cyclical", "kl_anneal_cycle": 10, "kl_anneal_ratio": 1, "kl_beta": 1.0,
    "per_save": 3, "auto_save": False, "store_visualization": False, "resume": False,
    "device": "auto", "gpu": 1, "test": False, "dry_run": False,
}  # fmt: skip


# The command line of many reports.
USUAL = """
--batch_size 1 --lr 0.001 --device cuda --optim Adam --gpu 1 --save_root . --num_epoch 100
--train_vi_len 32 --tfr 1.0 --tfr_sde 10 --tfr_d_step 0.1
--kl_anneal_type Cyclical --kl_anneal_cycle 10 --kl_anneal_ratio 1 --auto_save
"""


def trainer(*typed: str) -> TrainerOptions:
    return parse_trainer("", ["--DR", "data", *typed])[0]


def test_defaults_are_the_contract_s() -> None:
    options = trainer()
    assert {name: getattr(options, name) for name in CONTRACT} == CONTRACT
    others = "DR num_workers lr_scheduler lr_milestones lr_gamma detector_threshold save_root"
    for name in (*others.split(), "ckpt_path", "seed", "precision", "preset", "prior"):
        assert hasattr(options, name)
    options = trainer(*USUAL.split())
    assert (options.device, options.save_root, options.num_epoch) == ("cuda", ".", 100)


def test_typed_beats_preset_beats_default() -> None:
    options, explicit = parse_trainer("", ["--preset", "demo", "--F_dim", "64", "--L_dim", "32"])
    assert (options.F_dim, options.L_dim) == (64, TrainerOptions().L_dim)  # a default's value, too
    assert options.N_dim == PRESETS["demo"]["N_dim"] != TrainerOptions().N_dim
    assert options.val_vi_len == TrainerOptions().val_vi_len
    assert explicit == {"preset", "F_dim", "L_dim"}
    for preset in PRESETS:  # each can be chosen, and names real options
        assert trainer("--preset", preset).preset == preset


def test_help_is_grouped_and_complete() -> None:
    text = build_parser(TrainerOptions, "what it does").format_help()
    groups = ["data:", "model:", "optimisation:", "teacher forcing:", "KL annealing:"]
    places = [text.index(f"\n{group}\n") for group in [*groups, "saving:", "run:"]]
    assert places == sorted(places)
    for entry in dataclasses.fields(TrainerOptions):
        assert f"--{entry.name}" in text and entry.metadata["help"]


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("--batchsize 2", "--batchsize"),
        ("--batch 2", "--batch"),  # no abbreviations
        ("-lr 0.1", "-lr"),
        ("--num_epoch 1e3", "--num_epoch: invalid int value: '1e3'"),
        ("--lr_milestones 3,4", "--lr_milestones: invalid int value: '3,4'"),
        ("--lr_milestones 3 -1", "--lr_milestones -1: must be at least 0"),
        ("--lr", "--lr: expected one argument"),
        ("--lr nan", "--lr nan: must be a finite number"),
        ("--lr 1e999", "--lr inf"),
        ("--kl_beta=-inf", "--kl_beta -inf: must be a finite number"),
        (f"--num_epoch 1{'0' * 400}", "--num_epoch 1000"),
        ("--optim adam", "--optim: invalid choice: 'adam'"),
        ("--device cuda:0", "set CUDA_VISIBLE_DEVICES=0 and give --device cuda"),
        ("--device 1", "set CUDA_VISIBLE_DEVICES=1 and give --device cuda"),
        ("--gpu 0,1", "set CUDA_VISIBLE_DEVICES=0,1 and give --gpu 2"),
        ("--gpu cuda:3", "set CUDA_VISIBLE_DEVICES=3 and give --gpu 1"),
        (
            "--local-rank=0",
            "torch.distributed.launch passes it: start with torchrun",
        ),
        ("--auto_save True", "True"),
        ("--save_root=", "--save_root: is empty"),
        ("--detector_patience 1", "--detector_patience 1"),
        ("--test", "--ckpt_path"),
        ("--resume --ckpt_path a", "--resume and --ckpt_path"),
        ("--test --resume --ckpt_path a", "--test and --resume are mutually exclusive"),
        ("--test --resume_if_any --ckpt_path a", "--test and --resume are mutually"),
    ],
)
def test_refused(typed: str, words: str) -> None:
    with pytest.raises(UserError) as error:
        trainer(*typed.split())
    assert words in str(error.value)
    assert "\n" not in str(error.value)


LEAST = {
    **dict.fromkeys(("batch_size", "num_epoch", "per_save", "gpu", "kl_anneal_cycle"), 1),
    **{"train_vi_len": 2, "val_vi_len": 2, "frame_H": 4, "frame_W": 4},
    **dict.fromkeys(
        ("grad_clip", "tfr", "tfr_d_step", "kl_beta", "seed", "tfr_sde", "num_workers"), 0
    ),
}
ABOVE_0 = ("partial", "fast_partial", "lr", "detector_threshold", "kl_anneal_ratio")
MOST = {"partial": 1, "fast_partial": 1, "tfr": 1, "F_dim": 65536}


def test_bounds_of_numbers() -> None:
    for name, value, words in (
        *((name, bound - 1, f"must be at least {bound}") for name, bound in LEAST.items()),
        *((name, bound + 1, f"must be at most {bound}") for name, bound in MOST.items()),
        *((name, 0, "must be above 0") for name in ABOVE_0),
    ):
        with pytest.raises(UserError, match=rf"--{name} {value}(\.0)?: {words}"):
            trainer(f"--{name}", str(value))
    for name, bound in LEAST.items():  # the bound itself is taken
        assert getattr(trainer(f"--{name}", str(bound)), name) == bound


def test_derived_values_are_computed_and_not_stored() -> None:
    options = trainer("--num_epoch", "20")
    assert milestones(options) == (10, 15)
    assert run_folder(options) == Path("runs/data")
    assert (options.lr_milestones, options.save_root) == (None, None)
    shown = resolved(options)
    assert (shown.lr_milestones, shown.save_root) == ((10, 15), "runs/data")
    options.num_epoch = 100
    assert milestones(options) == (50, 75)
    typed = trainer("--lr_scheduler", "multistep", "--lr_milestones", "3", "7")
    assert milestones(typed) == (3, 7)


def test_a_resumed_run_may_change_what_changes_no_number_and_its_length() -> None:
    fields = {entry.name: entry.metadata for entry in dataclasses.fields(TrainerOptions)}
    resumable = {name for name, meta in fields.items() if meta["resumable"]}
    assert {"num_epoch", "DR", "gpu", "recompute"} <= resumable
    assert not {"lr", "seed", "F_dim", "tfr", "precision", "train_vi_len"} & resumable
    assert {name for name, meta in fields.items() if meta["bookkeeping"]} == resumable - {
        "num_epoch"
    }


def test_effective_options_are_those_that_change_numbers() -> None:
    plain: dict[str, Any] = dataclasses.asdict(trainer())
    names = set(effective(plain))
    assert {"lr", "tfr", "num_epoch", "kl_anneal_cycle"} <= names
    assert not {"DR", "save_root", "gpu", "fast_partial", "lr_gamma"} & names
    assert "fast_partial" in effective({**plain, "fast_train": True})
    assert "kl_anneal_cycle" not in effective({**plain, "kl_anneal_type": "Monotonic"})
    # Of an earlier version: options that are gone count where they changed anything.
    assert "kl_norm" not in effective({"kl_norm": "sum"})
    assert "kl_norm" in effective({"kl_norm": "mean"})
    assert set(effective({"lr_gamma": 0.5, "lr_scheduler": "multistep"})) == {
        "lr_gamma",
        "lr_scheduler",
    }


def test_options_of_earlier_versions() -> None:
    known = dataclasses.asdict(trainer("--num_epoch", "20", "--lr_milestones", "10", "15"))
    old = {**known, "grow_from": None, "grow_epochs": 10, "kl_norm": "sum"}
    assert saved_options(old) == saved_options(known) == TrainerOptions(**known)
    with pytest.raises(UserError, match="--kl_norm mean"):
        saved_options({**old, "kl_norm": "mean"})
    # A run of the version before: what only starts a run, or is on the way, is left out.
    gone = {"init": "copy", "auto_size": True, "tensorboard": True, "detach": False}
    assert saved_options({**known, **gone}) == TrainerOptions(**known)
    with pytest.raises(UserError, match="--detach True"):
        saved_options({**known, "detach": True})
    assert saved_options({**known, "detach": True, "rollout_every": 1}).rollout_every == 1  # idle
    with pytest.raises(TypeError, match="never_heard_of"):
        saved_options({**old, "never_heard_of": 1})


def test_options_without_effect_are_noted() -> None:
    def notes(*typed: str) -> str:
        return "\n".join(without_effect(*parse_trainer("", ["--DR", "data", *typed])))

    assert notes() == ""
    assert "--fast_partial has no effect without --fast_train" in notes("--fast_partial", "0.2")
    assert notes("--fast_partial", "0.2", "--fast_train") == ""
    assert "--lr_gamma" in notes("--lr_gamma", "0.5")
    assert "--tfr_sde has no effect without --tfr" in notes("--tfr_sde", "3", "--tfr", "0")
    assert notes("--tfr_sde", "3") == ""
    assert "--per_save has no effect with --auto_save" in notes("--per_save", "2", "--auto_save")
    assert "--kl_anneal_cycle" in notes("--kl_anneal_cycle", "4", "--kl_anneal_type", "Monotonic")
    assert "--rollout_every has no effect" in notes("--rollout_every", "1", "--tfr_d_step", "0")
    assert notes("--rollout_every", "1") == ""
    assert "--gpu has no effect" in notes("--gpu", "2", "--test", "--ckpt_path", "a.ckpt")
    assert notes("--gpu", "1", "--test", "--ckpt_path", "a.ckpt") == ""


def test_a_validation_alone_goes_next_to_its_checkpoint() -> None:
    line = ("--test", "--ckpt_path", "runs/a/best.ckpt")
    for more in ((), ("--DR", "data/dance"), ("--preset", "demo")):
        assert run_folder(parse_trainer("", [*line, *more])[0]) == Path("runs/a/validation")
    assert run_folder(parse_trainer("", [*line, "--save_root", "here"])[0]) == Path("here")


def test_a_home_folder_is_found_where_the_shell_left_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setenv("USERPROFILE", "/home/someone")
    options, _ = parse_trainer("", ["--DR=~/data", "--save_root=~/runs/a"])
    assert Path(options.DR or "") == Path("/home/someone/data")
    assert Path(options.save_root or "") == Path("/home/someone/runs/a")
    options, _ = parse_trainer("", ["--DR=a/~b", "--save_root=~nobody-of-this-name/x"])
    assert (options.DR, options.save_root) == ("a/~b", "~nobody-of-this-name/x")


@dataclasses.dataclass
class One:
    """the first command"""

    files: tuple[Path, ...] = option(REQUIRED, "g", "files", positional=True, metavar="FILE")
    out: Path = option(REQUIRED, "g", "a folder")
    size: tuple[int, int] = option(
        (4, 2), "g", "size", shown="4x2", convert=lambda text: tuple(map(int, text.split("x")))
    )


@dataclasses.dataclass
class Two(One):
    """the second: 100 % of the files"""

    rates: tuple[float, ...] = option((1.0,), "g", "rates", above=0)


def test_commands_have_options_of_their_own() -> None:
    commands = {"one": One, "two": Two}
    o, typed = parse_command(commands, "", ["one", "a", "b", "--out", "c", "--size", "8x9"])
    assert o == One((Path("a"), Path("b")), Path("c"), (8, 9)) and type(o) is One
    assert typed == {"files", "out", "size"}
    o, typed = parse_command(commands, "", ["two", "a", "--out", "c"])
    assert o == Two((Path("a"),), Path("c"), (4, 2), (1.0,)) and typed == {"files", "out"}
    for arguments, words in (
        ([], "command"),
        (["three"], "three"),
        (["one", "a"], "--out"),
        (["one", "--out", "c"], "FILE"),
        (["one", "", "--out", "c"], "FILE"),
        (["one", "a", "--out", "c", "--rates", "1"], "--rates"),
        (["two", "a", "--out", "c", "--rates", "1", "0"], "--rates 0.0: must be above 0"),
        (["two", "a", "--ou", "c"], "--ou"),
    ):
        with pytest.raises(UserError, match=re.escape(words)):
            parse_command(commands, "", arguments)


def test_an_error_says_where_an_untyped_value_came_from(tmp_path: Path) -> None:
    torch.save(CVAE(ModelConfig(8, 4, 4, 8)).state_dict(), tmp_path / "x.pt")
    checkpoint = load_checkpoint(tmp_path / "x.pt")
    its = f"comes from the checkpoint {checkpoint.path}"

    def said(error: UserError, *typed: str, resumed: bool = False, given: Any = None) -> str:
        options, explicit = parse_trainer("", ["--DR", "a", *typed])
        options.resume = resumed
        with (
            pytest.raises(UserError) as caught,
            telling_origins(options, explicit - {"DR"} if given else explicit, given),
        ):
            raise error
        return str(caught.value)

    demo, size = ("--preset", "demo"), UserError("--batch_size 8: no\n  - a")
    told = "--batch_size 8: no (--batch_size comes from --preset demo; --batch_size replaces it)"
    assert said(size, *demo) == f"{told}\n  - a"
    assert said(size, *demo, "--batch_size", "8") == str(size)  # typed
    assert said(UserError("--batch_size 80: no"), *demo) == "--batch_size 80: no"  # a hint
    assert said(UserError("--batch_size 2: no")) == "--batch_size 2: no"  # a default
    both = UserError("--batch_size 8, --per_save 3: no")  # the preset's, and a default
    assert said(both, *demo) == f"{both} ({told.partition('(')[2]}"
    missing = UserError("a: the folder is missing", about="DR")
    assert said(missing) == str(missing)
    assert said(missing, given=checkpoint) == f"{missing} (--DR {its}; --DR replaces it)"
    latent = UserError("--N_dim 12: no")
    assert said(latent, given=checkpoint) == f"{latent} (--N_dim {its}; --N_dim replaces it)"
    # A resumed run keeps the options that would change its numbers.
    assert said(latent, given=checkpoint, resumed=True) == f"{latent} (--N_dim {its})"
    with pytest.raises(ValueError, match="as it was"), telling_origins(TesterOptions(), set()):
        raise ValueError("as it was")
