"""Files that hold the five networks' tensors, as users' and libraries' code saves them.

Each is a function (model, path) → None. What the file must give back are the model's own tensors,
bit for bit but where `ROUNDED` has a dtype.
"""

import argparse
import bz2
import contextlib
import datetime
import gzip
import json
import lzma
import pathlib
import struct
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from modules.cvae import CVAE

State = dict[str, Tensor]
Writer = Callable[[CVAE, Path], object]


def state_of(model: nn.Module) -> State:
    return {name: value.clone() for name, value in model.state_dict().items()}


def saved(make: Callable[[State], Any], **options: Any) -> Writer:
    """torch.save of what `make` makes of the state_dict."""
    return lambda model, path: torch.save(make(state_of(model)), path, **options)


def prefixed(prefix: str) -> Callable[[State], State]:
    return lambda state: {f"{prefix}{name}": value for name, value in state.items()}


def after_network(segment: str) -> Callable[[State], State]:
    """Generator.0… → Generator.SEGMENT.0…"""
    return lambda state: {name.replace(".", f".{segment}.", 1): v for name, v in state.items()}


def every_level(state: State) -> State:
    """A wrapper around every module, as activation checkpointing puts it."""
    inner = "._checkpoint_wrapped_module."
    return {f"_fsdp_wrapped_module.{name.replace('.', inner)}": v for name, v in state.items()}


def noise(state: State) -> State:
    """Other weights of the same shapes."""
    return {name: value + 1 for name, value in state.items()}


def by_network(state: State) -> dict[str, State]:
    parts: dict[str, State] = {}
    for name, value in state.items():
        network, _, rest = name.partition(".")
        parts.setdefault(network, {})[rest] = value
    return parts


def lightning(state: State) -> dict[str, Any]:
    """What Lightning's Trainer saves, with settings as objects."""
    return {
        "epoch": 4,
        "global_step": 100,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": {
            **prefixed("model.")(state),
            "lpips.net.slice1.0.weight": torch.ones(3, 3),
            "val_psnr.total": torch.tensor(3.0),
        },
        "loops": {"fit_loop": {"state_dict": {}}},
        "callbacks": {"ModelCheckpoint{'monitor': None}": {"best_model_score": torch.tensor(1.0)}},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": []}],
        "hyper_parameters": {"lr": 1e-3, "args": argparse.Namespace(lr=1e-3)},
    }


def with_objects(state: State) -> dict[str, Any]:
    return {
        "state_dict": state,
        "args": argparse.Namespace(DR="data", lr=1e-3, root=pathlib.PurePosixPath("a")),
        "path": pathlib.PurePosixPath("runs/a"),
        "best": np.float64(31.5),
        "history": np.zeros(3),
        "when": datetime.datetime(2024, 1, 1),
    }


def safetensors_bytes(state: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> bytes:
    """By the format's description: header length, JSON header, data."""
    names = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.int64: "I64"}
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    data = b""
    for name, value in state.items():
        raw = value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        place = [len(data), len(data) + len(raw)]
        kind, shape = names[value.dtype], list(value.shape)
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": place}
        data += raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


def packed(module: Any) -> Writer:
    def write(model: CVAE, path: Path) -> None:
        with module.open(path, "wb") as file:
            torch.save({"state_dict": state_of(model)}, file)

    return write


def whole_module(model: CVAE, path: Path) -> None:
    torch.save(model, path)


class Solver:
    """An object of a user's code, with the model in it."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.step = model, 7


def averaged(model: CVAE, path: Path) -> None:
    torch.save(torch.optim.swa_utils.AveragedModel(model).state_dict(), path)


def reparametrised(change: Callable[[nn.Conv2d], object]) -> Writer:
    """Every convolution in another form; the file's weights are what these layers compute."""

    def write(model: CVAE, path: Path) -> None:
        with contextlib.ExitStack() as stack:
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")
            for layer in model.modules():
                if isinstance(layer, nn.Conv2d):
                    change(layer)
        torch.save(model.state_dict(), path)

    return write


def channels_last(model: CVAE, path: Path) -> None:
    torch.save({"state_dict": model.to(memory_format=torch.channels_last).state_dict()}, path)


def views_of_one(state: State) -> State:
    """Every tensor a part of one large one, with gaps, as flattened parameters are."""
    flat = torch.zeros(2 * sum(v.numel() for v in state.values()))
    found, at = {}, 0
    for name, value in state.items():
        if value.dtype != torch.float32:
            found[name] = value
            continue
        piece = flat[at : at + 2 * value.numel() : 2]
        piece.copy_(value.flatten())
        found[name], at = piece.view(value.shape), at + 2 * value.numel()
    return found


WRAPPINGS: dict[str, Writer] = {
    "older dictionary": saved(lambda s: {"state_dict": s, "optimizer": s, "last_epoch": 7}),
    "bare state_dict": saved(lambda s: s),
    "OrderedDict": saved(OrderedDict),
    "model_state_dict": saved(lambda s: {"epoch": 3, "model_state_dict": s, "loss": 0.1}),
    "model": saved(lambda s: {"model": s, "optimizer": {"state": {}}}),
    "net": saved(lambda s: {"net": s, "acc": 1}),
    "weights": saved(lambda s: {"weights": s}),
    "params": saved(lambda s: {"params": s}),
    "deep": saved(lambda s: {"checkpoint": {"model": {"state_dict": s}}}),
    "a list": saved(lambda s: [s, 3]),
    "module.": saved(lambda s: {"state_dict": prefixed("module.")(s)}),
    "_orig_mod.": saved(lambda s: {"state_dict": prefixed("_orig_mod.")(s)}),
    "module._orig_mod.": saved(lambda s: {"state_dict": prefixed("module._orig_mod.")(s)}),
    "_orig_mod.module.": saved(lambda s: prefixed("_orig_mod.module.")(s)),
    "model.": saved(lambda s: {"state_dict": prefixed("model.")(s)}),
    "_forward_module.": saved(lambda s: {"state_dict": prefixed("_forward_module.model.")(s)}),
    "Generator.module.": saved(lambda s: {"state_dict": after_network("module")(s)}),
    "Generator._orig_mod.": saved(lambda s: after_network("_orig_mod")(s)),
    "every level": saved(lambda s: {"state_dict": every_level(s)}),
    "one prefix alone": saved(
        lambda s: {n.replace("Generator", "Generator.module"): v for n, v in s.items()}
    ),
    "a dictionary for each network": saved(by_network),
    "networks in two files' worth": saved(
        lambda s: {
            "encoder": {n: v for n, v in s.items() if "transformation" in n},
            "decoder": {n: v for n, v in s.items() if "transformation" not in n},
        }
    ),
    "Lightning": saved(lightning),
    "with a discriminator": saved(lambda s: {**s, "discriminator.0.weight": torch.ones(2)}),
    "AveragedModel": averaged,
    "ema_model.": saved(lambda s: {**prefixed("ema_model.")(s), "initted": torch.tensor(True)}),
    "weights and their average": saved(lambda s: {"ema": noise(s), "model": s}),
    "objects beside them": saved(with_objects),
    "a whole module": whole_module,
    "a module in DataParallel": lambda model, path: torch.save(nn.DataParallel(model), path),
    "a module in an object": lambda model, path: torch.save(Solver(model), path),
    "nn.Parameter": lambda model, path: torch.save(
        dict(model.named_parameters()) | dict(model.named_buffers()), path
    ),
    "float16": saved(lambda s: {"state_dict": {n: v.half() for n, v in s.items()}}),
    "bfloat16": saved(lambda s: {"state_dict": {n: v.bfloat16() for n, v in s.items()}}),
    "float64": saved(lambda s: {"state_dict": {n: v.double() for n, v in s.items()}}),
    "channels-last": channels_last,
    "views of one tensor": saved(views_of_one),
    "without counters": saved(lambda s: {n: v for n, v in s.items() if "num_batches" not in n}),
    "the format before 1.6": saved(
        lambda s: {"state_dict": s}, _use_new_zipfile_serialization=False
    ),
    "that format, with objects": saved(with_objects, _use_new_zipfile_serialization=False),
    "gzip": packed(gzip),
    "bzip2": packed(bz2),
    "xz": packed(lzma),
    "safetensors": lambda model, path: path.write_bytes(safetensors_bytes(model.state_dict())),
    "safetensors, prefixed": lambda model, path: path.write_bytes(
        safetensors_bytes(prefixed("model._orig_mod.")(state_of(model)), {"format": "pt"})
    ),
    "weight_norm": reparametrised(torch.nn.utils.weight_norm),
    "parametrised weight_norm": reparametrised(torch.nn.utils.parametrizations.weight_norm),
    "spectral_norm": reparametrised(torch.nn.utils.spectral_norm),
    "parametrised spectral_norm": reparametrised(torch.nn.utils.parametrizations.spectral_norm),
    "pruned": reparametrised(lambda layer: prune.l1_unstructured(layer, "weight", 0.3)),
}
ROUNDED = {"float16": torch.float16, "bfloat16": torch.bfloat16}
CLOSE = ("weight_norm", "spectral_norm")  # computed, so equal to rounding
