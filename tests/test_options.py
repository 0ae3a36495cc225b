"""Options: the contract's names and defaults, what wins over what, and what is refused."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from modules.cvae import ModelConfig
from modules.options import (
    PRESETS,
    TrainerOptions,
    build_parser,
    effective,
    milestones,
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
USUAL = (
    "--batch_size 1 --lr 0.001 --device cuda --optim Adam --gpu 1 --save_root . --num_epoch 100 "
    "--train_vi_len 32 --tfr 1.0 --tfr_sde 10 --tfr_d_step 0.1 --kl_anneal_type Cyclical "
    "--kl_anneal_cycle 10 --kl_anneal_ratio 1 --auto_save"
)
FIELDS = dataclasses.fields(TrainerOptions)


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
    names = [entry.name for entry in FIELDS]
    assert [n for n in names if f"\n  --{n}" not in text] == ["deterministic", "recompute"]
    for line in (
        "--frame_H INT frame height in pixels; images are resized once, on loading "
        "(>= 4; <= 8192; default: 32)",
        "(> 0; <= 1; default: 0.1; no effect without --lr_scheduler multistep)",
        *(f"--preset {name}: " for name in PRESETS),
    ):
        assert line in " ".join(text.split())


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("--batch 2", "--batch"),  # no abbreviations
        ("--lr_milestones 3 -1", "--lr_milestones -1: must be at least 0"),
        ("--lr nan", "--lr nan: must be a finite number"),
        (f"--seed 1{'0' * 400}", "must be at most 9223372036854775807"),
        ("--optim adam", "--optim: invalid choice: 'adam'"),
        ("--device cuda:1", "CUDA_VISIBLE_DEVICES=1 chooses which"),
        ("--gpu 0,1", "CUDA_VISIBLE_DEVICES=0,1 chooses which, with --gpu 2"),
        ("--local-rank=0", "torch.distributed.launch passes it: start with torchrun"),
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
    assert words in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("entry", FIELDS, ids=lambda entry: entry.name)
def test_bounds_of_numbers(entry: dataclasses.Field) -> None:
    """What is just beyond a bound is refused, and the bound itself taken."""
    if (above := entry.metadata["above"]) is not None:
        with pytest.raises(UserError, match=rf"--{entry.name} .*: must be above {above}"):
            trainer(f"--{entry.name}", str(above))
    for name, beyond in (("at_least", -1), ("at_most", 1)):
        if (bound := entry.metadata[name]) is not None:
            words = f"--{entry.name} .*: must be {name.replace('_', ' ')} {bound}"
            with pytest.raises(UserError, match=words):
                trainer(f"--{entry.name}", str(bound + beyond))
            trainer(f"--{entry.name}", str(bound))


def test_derived_values_are_computed_and_not_stored() -> None:
    options = trainer("--num_epoch", "20")
    assert (milestones(options), run_folder(options)) == ((10, 15), Path("runs/data"))
    assert (options.lr_milestones, options.save_root) == (None, None)
    shown = resolved(options)
    assert (shown.lr_milestones, shown.save_root) == ((10, 15), "runs/data")
    options.num_epoch = 100
    assert milestones(options) == (50, 75)
    assert milestones(trainer("--lr_milestones", "3", "7")) == (3, 7)


def test_a_resumed_run_may_change_what_changes_no_number_and_its_length() -> None:
    assert {entry.name for entry in FIELDS if entry.metadata["resumable"]} == {
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


@pytest.mark.parametrize(
    ("typed", "with_effect"),
    [
        ("--fast_partial 0.2", "--fast_train"),
        ("--lr_gamma 0.5", "--lr_scheduler multistep"),
        ("--tfr_sde 3 --tfr 0", "--tfr 1"),
        ("--kl_anneal_cycle 4 --kl_anneal_type Monotonic", "--kl_anneal_type Cyclical"),
        ("--rollout_every 1 --tfr_d_step 0", "--tfr_d_step 0.1"),
        ("--gpu 2 --test --ckpt_path a.ckpt", "--gpu 1"),
    ],
)
def test_options_without_effect_are_noted(typed: str, with_effect: str) -> None:
    def notes(more: str) -> list[str]:
        return without_effect(*parse_trainer("", f"--DR data {typed} {more}".split()))

    (note,) = notes("")
    assert note.startswith(f"note: {typed.split()[0]} has no effect with")
    assert notes(with_effect) == []


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


@pytest.mark.parametrize(
    ("typed", "error", "told"),
    [
        ("--preset demo", "--batch_size 8: no", " (--batch_size comes from --preset demo)"),
        ("--preset demo --batch_size 8", "--batch_size 8: no", ""),  # typed
        ("--preset demo", "--batch_size 80: no", ""),  # a hint
        ("", "--batch_size 2: no", ""),  # a default
        ("", "--L_dim: no", " (--L_dim comes from the checkpoint x.pt)"),
    ],
)
def test_an_error_says_where_an_untyped_value_came_from(typed: str, error: str, told: str) -> None:
    options, explicit = parse_trainer("", ["--DR", "a", *typed.split()])
    config = ModelConfig(L_dim=options.L_dim)
    checkpoint = SimpleNamespace(path="x.pt", options={}, config=config, data_root="b")
    about = "L_dim" if "x.pt" in told else None
    with (
        pytest.raises(UserError) as caught,
        telling_origins(options, explicit, checkpoint if about else None),
    ):
        raise UserError(f"{error}\n  - a", about=about)
    assert str(caught.value) == f"{error}{told}\n  - a"
