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
    TrainerOptions,
    build_parser,
    effective,
    milestones,
    option,
    parse_command,
    parse_trainer,
    resolved,
    run_folder,
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
OTHERS = (
    "DR num_workers lr_scheduler lr_milestones lr_gamma detector_threshold save_root ckpt_path "
    "seed precision preset prior"
)
# The command line of many reports.
USUAL = """
--batch_size 1 --lr 0.001 --device cuda --optim Adam --gpu 1 --save_root . --num_epoch 100
--train_vi_len 32 --tfr 1.0 --tfr_sde 10 --tfr_d_step 0.1
--kl_anneal_type Cyclical --kl_anneal_cycle 10 --kl_anneal_ratio 1 --auto_save
"""


def trainer(*typed: str) -> TrainerOptions:
    return parse_trainer("", ["--DR", "data", *typed])[0]


def test_defaults_are_the_contract_s() -> None:
    options = vars(trainer())
    assert {name: options[name] for name in CONTRACT} == CONTRACT
    assert set(OTHERS.split()) <= options.keys()
    usual = trainer(*USUAL.split())
    assert (usual.device, usual.save_root, usual.num_epoch) == ("cuda", ".", 100)


def test_typed_beats_preset_beats_default() -> None:
    options, explicit = parse_trainer("", ["--preset", "demo", "--F_dim", "64", "--L_dim", "32"])
    assert (options.F_dim, options.L_dim) == (64, TrainerOptions().L_dim)  # a default's value, too
    assert options.N_dim == PRESETS["demo"]["N_dim"] != TrainerOptions().N_dim
    assert options.val_vi_len == TrainerOptions().val_vi_len
    assert explicit == {"preset", "F_dim", "L_dim"}


def test_help_is_grouped_and_complete() -> None:
    text = build_parser(TrainerOptions, "what it does").format_help()
    groups = ["data:", "model:", "optimisation:", "teacher forcing:", "KL annealing:"]
    places = [text.index(f"\n{group}\n") for group in [*groups, "saving:", "run:"]]
    assert places == sorted(places)
    names = [entry.name for entry in dataclasses.fields(TrainerOptions)]
    assert [n for n in names if f"\n  --{n}" not in text] == ["deterministic", "recompute"]
    text = " ".join(text.split())
    for line in (
        "--frame_H INT frame height in pixels; images are resized once, on loading "
        "(>= 4; <= 8192; default: 32)",
        "(> 0; <= 1; default: 0.1; no effect without --lr_scheduler multistep)",
        *(f"--preset {name}: " for name in PRESETS),
        "augment=shift colour",
    ):
        assert line in text


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
        (f"--seed 1{'0' * 400}", "must be at most 9223372036854775807"),
        ("--optim adam", "--optim: invalid choice: 'adam'"),
        ("--device cuda:1", "CUDA_VISIBLE_DEVICES=1 chooses which"),
        ("--gpu 0,1", "CUDA_VISIBLE_DEVICES=0,1 chooses which, with --gpu 2"),
        ("--local-rank=0", "torch.distributed.launch passes it: start with torchrun"),
        ("--auto_save True", "True"),
        ("--save_root=", "--save_root: is empty"),
        ("--detector_patience 1", "--detector_patience 1"),
        ("--test", "--ckpt_path"),
        ("--resume --ckpt_path a", "--resume and --ckpt_path"),
        ("--test --resume --ckpt_path a", "--test and --resume are mutually exclusive"),
        ("--test --resume if_any --ckpt_path a", "--test and --resume are mutually"),
        ("--resume if", "--resume: invalid choice: 'if'"),
    ],
)
def test_refused(typed: str, words: str) -> None:
    with pytest.raises(UserError) as error:
        trainer(*typed.split())
    assert words in str(error.value)
    assert "\n" not in str(error.value)


BOUNDS = (
    (0, "at least 1", ("batch_size", "num_epoch", "per_save", "gpu", "kl_anneal_cycle")),
    (-1, "at least 0", ("grad_clip", "tfr", "tfr_d_step", "kl_beta", "seed", "tfr_sde")),
    (1, "at least 2", ("train_vi_len", "val_vi_len")),
    (3, "at least 4", ("frame_H", "frame_W")),
    (2, "at most 1", ("partial", "fast_partial", "tfr")),
    (0, "above 0", ("partial", "fast_partial", "lr", "detector_threshold", "kl_anneal_ratio")),
)


@pytest.mark.parametrize(("value", "words", "names"), BOUNDS)
def test_bounds_of_numbers(value: int, words: str, names: tuple[str, ...]) -> None:
    for name in names:
        with pytest.raises(UserError, match=rf"--{name} {value}(\.0)?: must be {words}"):
            trainer(f"--{name}", str(value))
        if words.startswith("at"):  # the bound itself is taken
            bound = words.split()[2]
            assert getattr(trainer(f"--{name}", bound), name) == int(bound)


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
    fields = dataclasses.fields(TrainerOptions)
    resumable = {entry.name for entry in fields if entry.metadata["resumable"]}
    assert resumable == {
        *("DR", "num_workers", "num_epoch", "save_root", "per_save", "auto_save"),
        *("store_visualization", "ckpt_path", "resume", "device", "gpu", "test", "dry_run"),
        *("preset", "recompute"),
    }


def test_effective_options_are_those_that_change_numbers() -> None:
    plain: dict[str, Any] = dataclasses.asdict(trainer())
    names = set(effective(plain))
    assert {"lr", "tfr", "num_epoch", "kl_anneal_cycle"} <= names
    assert not {"DR", "save_root", "gpu", "fast_partial", "lr_gamma"} & names
    assert "fast_partial" in effective({**plain, "fast_train": True})
    assert "kl_anneal_cycle" not in effective({**plain, "kl_anneal_type": "Monotonic"})
    # Of an earlier version: some are missing, others are gone.
    older = {"lr_gamma": 0.5, "lr_scheduler": "multistep", "kl_norm": "mean"}
    assert set(effective(older)) == {"lr_gamma", "lr_scheduler"}


def test_options_without_effect_are_noted() -> None:
    def notes(*typed: str) -> str:
        return "\n".join(without_effect(*parse_trainer("", ["--DR", "data", *typed])))

    assert notes() == ""
    for typed, with_effect in (
        ("--fast_partial 0.2", "--fast_train"),
        ("--lr_gamma 0.5", "--lr_scheduler multistep"),
        ("--tfr_sde 3 --tfr 0", "--tfr 1"),
        ("--kl_anneal_cycle 4 --kl_anneal_type Monotonic", "--kl_anneal_type Cyclical"),
        ("--rollout_every 1 --tfr_d_step 0", "--tfr_d_step 0.1"),
        ("--gpu 2 --test --ckpt_path a.ckpt", "--gpu 1"),
    ):
        assert f"note: {typed.split()[0]} has no effect with" in notes(*typed.split())
        assert notes(*typed.split(), *with_effect.split()) == ""
    assert "--per_save has no effect with --auto_save" in notes("--per_save", "2", "--auto_save")


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
        (["one", "a", "--out", "c", "--rates", "1"], "--rates"),
        (["two", "a", "--out", "c", "--rates", "1", "0"], "--rates 0.0: must be above 0"),
        (["two", "a", "--ou", "c"], "--ou"),
    ):
        with pytest.raises(UserError, match=re.escape(words)):
            parse_command(commands, "", arguments)


def test_an_error_says_where_an_untyped_value_came_from(tmp_path: Path) -> None:
    torch.save(CVAE(ModelConfig(8, 4, 4, 8)).state_dict(), tmp_path / "x.pt")
    checkpoint = load_checkpoint(tmp_path / "x.pt")

    def said(error: UserError, *typed: str, its: Any = None) -> str:
        options, explicit = parse_trainer("", ["--DR", "a", *typed])
        options.L_dim = checkpoint.config.L_dim if its else options.L_dim
        with pytest.raises(UserError) as caught, telling_origins(options, explicit, its):
            raise error
        return str(caught.value)

    demo, size = ("--preset", "demo"), UserError("--batch_size 8: no\n  - a")
    told = "--batch_size 8: no (--batch_size comes from --preset demo)"
    assert said(size, *demo) == f"{told}\n  - a"
    assert said(size, *demo, "--batch_size", "8") == str(size)  # typed
    assert said(UserError("--batch_size 80: no"), *demo) == "--batch_size 80: no"  # a hint
    assert said(UserError("--batch_size 2: no")) == "--batch_size 2: no"  # a default
    size = UserError("--L_dim: no", about="L_dim")
    its = f"(--L_dim comes from the checkpoint {checkpoint.path})"
    assert said(size) == str(size) and said(size, its=checkpoint) == f"{size} {its}"
