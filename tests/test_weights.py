"""Weights are found in whatever holds them; what is no checkpoint is named; no file runs code."""

import argparse
import ast
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from modules.checkpoint import load_checkpoint, load_weights
from modules.cvae import CVAE, ModelConfig
from modules.runtime.errors import UserError
from tests.support.comparing import same
from tests.support.scripts import REPOSITORY

State = dict[str, Tensor]
CONFIG = ModelConfig(F_dim=16, L_dim=6, N_dim=8, D_out_dim=24)


def state_of(config: ModelConfig = CONFIG) -> State:
    torch.manual_seed(3)
    return {name: value.clone() for name, value in CVAE(config).state_dict().items()}


def noise(state: State) -> State:
    """Other weights of the same shapes."""
    return {name: value + 1 for name, value in state.items()}


def prefixed(prefix: str, state: State) -> State:
    return {f"{prefix}{name}": value for name, value in state.items()}


def by_network(state: State) -> dict[str, State]:
    names = dict.fromkeys(name.partition(".")[0] for name in state)
    return {n: {k[len(n) + 1 :]: v for k, v in state.items() if k.startswith(n)} for n in names}


def everywhere(segment: str, state: State) -> State:
    """A wrapper around every module, as activation checkpointing puts it."""
    return {f"{segment}.{n.replace('.', f'.{segment}.')}": v for n, v in state.items()}


def lightning(state: State) -> dict[str, Any]:
    metric = {"lpips.net.weight": torch.ones(3, 3), "psnr.total": torch.tensor(3.0)}
    return {
        "state_dict": {**prefixed("model.", state), **metric},
        "callbacks": {"ModelCheckpoint{'monitor': None}": {"score": torch.tensor(1.0)}},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(2)}}}],
        "hyper_parameters": {"lr": 1e-3, "args": argparse.Namespace(lr=1e-3)},
    }


# How others save the five networks, and where the run says that it found them.
WRAPPINGS: dict[str, tuple[Callable[[State], Any], str]] = {
    "older code": (
        lambda s: {"optimizer": s, "state_dict": s, "last_epoch": 7},
        "epoch 7; state_dict",
    ),
    "deep": (lambda s: {"a": {"model": {"state_dict": s}}}, "a.model.state_dict"),
    "DataParallel": (lambda s: {"state_dict": prefixed("module.", s)}, "state_dict"),
    "compiled": (lambda s: prefixed("_orig_mod.module.", s), "the networks"),
    "every level": (lambda s: everywhere("_checkpoint_wrapped_module", s), "the networks"),
    "each network": (by_network, "the networks"),
    "Lightning": (lightning, "state_dict.model"),
    "the average first": (lambda s: {"ema": noise(s), "model": s}, "model"),
    "the average in capitals": (lambda s: {"EMA": noise(s), "model": s}, "model"),
    "the average last": (lambda s: {**s, **prefixed("ema_model.", noise(s))}, "the networks"),
    "only the average whole": (
        lambda s: {"ema": s, "state_dict": {n: v for n, v in noise(s).items() if n[0] == "G"}},
        "ema",
    ),
    "settings beside them": (
        lambda s: {
            "state_dict": s,
            "args": argparse.Namespace(lr=1e-3, sizes=[1, 2], name="a"),
            "best": [np.float64(31.5), np.float32(2), np.int64(3), np.bool_(True)],
        },
        "state_dict",
    ),
    "float16": (lambda s: {n: v.half() for n, v in s.items()}, "the networks"),
}


@pytest.mark.parametrize("zipped", [True, False])  # False: as torch.save did before 1.6
@pytest.mark.parametrize("name", WRAPPINGS)
def test_every_wrapping_loads_to_the_same_bits(
    name: str, zipped: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, state, (make, taken) = tmp_path / "x.ckpt", state_of(), WRAPPINGS[name]
    before = set(torch.serialization.get_safe_globals())
    torch.save(make(state), path, _use_new_zipfile_serialization=zipped)
    found = load_weights(path)
    assert capsys.readouterr().out == f"weights: {path}: {taken}\n"
    assert found.config == CONFIG
    if name == "float16":
        state = {n: v.half().float() if v.dim() else v for n, v in state.items()}
    assert same(found.build_model().state_dict(), state)
    # What was allowed for one file is not for the next.
    assert set(torch.serialization.get_safe_globals()) == before


@pytest.mark.parametrize("more", [{"prior": "learned"}, {"reference": "first"}, {"fold": 2}])
def test_optional_parts_and_the_fold_are_seen_without_a_config(
    more: dict[str, Any], tmp_path: Path
) -> None:
    config = replace(CONFIG, **more)
    torch.save(state_of(config), tmp_path / "x.pt")
    assert load_checkpoint(tmp_path / "x.pt").config == config


def test_safetensors_need_their_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(UserError, match=r"x\.safetensors: needs a package: pip install safet"):
        load_checkpoint(tmp_path / "x.safetensors")


# ---------------------------------------------------------------- what does not fit


MISFITS: list[tuple[Callable[[State], Any], str]] = [
    (
        lambda s: s | {n: v for n, v in state_of(ModelConfig()).items() if n[:2] == "Ge"},
        "another architecture (Generator.0.block.0",
    ),
    (lambda s: s | {"Generator.8.bias": torch.zeros(4)}, "(Generator.8.bias is unknown)"),
    (lambda s: {n: v for n, v in s.items() if n != "Generator.7.bias"}, "7.bias is missing)"),
    (lambda s: {n: v for n, v in s.items() if n[0] != "D"}, "no tensor Decoder_Fusion.5.weight"),
    (lambda s: s | {"Refiner.0.bias": torch.ones(2)}, "networks that this model lacks: Refiner"),
    (lambda s: nn.Linear(2, 2).state_dict(), "five networks is in it (its tensors: weight, bias)"),
    (lambda s: [1, 2], "not a checkpoint of this model"),
    (lambda s: {n: v.to(torch.int8) for n, v in s.items()}, "weight is torch.int8"),
    (lambda s: {n: v.to_sparse() for n, v in s.items() if v.dim()}, "torch.sparse_coo; save it as"),
]


@pytest.mark.parametrize(("change", "words"), MISFITS, ids=[words for _, words in MISFITS])
def test_what_does_not_fit_is_told_apart(
    change: Callable[[State], Any], words: str, tmp_path: Path
) -> None:
    path = tmp_path / "x.ckpt"
    torch.save(change(state_of()), path)
    with pytest.raises(UserError) as caught:
        load_weights(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ") and words in text and "\n" not in text
    with pytest.raises(UserError, match=f"{tmp_path}: is a folder"):
        load_checkpoint(tmp_path)


# ---------------------------------------------------------------- what a file is instead


def flipped(data: bytes, place: int, mask: int) -> bytes:
    return data[:place] + bytes([data[place] ^ mask]) + data[place + 1 :]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda d: b"", "it ends too early, was changed or is something else"),
        (lambda d: b"epoch,loss\n0,1\n" * 50, "or is something else; copy or download it again"),
        (lambda d: bytes(len(d)), "or is something else"),
        (lambda d: d[: len(d) // 2], "it ends too early"),
        (lambda d: d.replace(b"\0\0\x80?" * 3, b"\0\0\x81?" * 3, 1), "wrong checksum"),
        # A bit of the archive's directory, which its checksums do not cover: then PyTorch takes a
        # tensor for one without content.
        (lambda d: flipped(d, d.rindex(b"PK\1\2") + 38, 0x10), "is marked as a folder"),
    ],
)
def test_a_damaged_file_is_named(
    damage: Callable[[bytes], bytes], words: str, tmp_path: Path
) -> None:
    path = tmp_path / "x.ckpt"
    torch.save(state_of(), path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError) as caught:
        load_checkpoint(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: corrupted, or not a checkpoint: ")
    assert words in text and "\n" not in text


# ---------------------------------------------------------------- no code


class Calls:
    """Unpickling it calls a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.reduced = function, arguments

    def __reduce__(self) -> Any:
        return self.reduced


@pytest.mark.parametrize(
    "make",
    [
        lambda target: Calls(exec, f"open({str(target)!r}, 'w')"),
        lambda target: argparse.Namespace(a=Calls(open, target, "w")),
        lambda target: [CVAE(CONFIG), Calls(open, target, "w")],
    ],
    ids=["exec", "in settings", "beside a module"],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_loading_never_runs_code(make: Callable[[Path], Any], zipped: bool, tmp_path: Path) -> None:
    target, path = tmp_path / "made", tmp_path / "x.ckpt"
    torch.save({**state_of(), "z": make(target)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match=r"holds a Python object .*model\.state_dict\(\), FILE"):
        load_checkpoint(path)
    assert not target.exists()
    torch.load(path, weights_only=False)  # the control: it would have been made
    assert target.exists()


def test_no_unsafe_load_anywhere() -> None:
    files = (*REPOSITORY.glob("*.py"), *(REPOSITORY / "modules").rglob("*.py"))
    nodes = (node for path in files for node in ast.walk(ast.parse(path.read_text())))
    calls = [node for node in nodes if isinstance(node, ast.Call)]
    loads = [ast.unparse(call) for call in calls if ast.unparse(call.func) == "torch.load"]
    assert loads and all("weights_only=True" in load for load in loads), loads
