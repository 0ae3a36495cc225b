"""The five networks' weights, found in whatever PyTorch file holds them.

torch.load reads with `weights_only`, so no code of a file ever runs. Wrappers put names before
those of the networks: `module.` (DataParallel), `_orig_mod.` (torch.compile), `model.` (Lightning),
dictionaries in dictionaries (`state_dict`, `ema`). A tensor is recognised by the name of its
network anywhere in its path; what the path has before it tells the copies of one file apart.
"""

import argparse
import importlib
import io
import math
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modules.cvae import COLOURS, CVAE, OPTIONAL_PARTS, ModelConfig
from modules.runtime.errors import UserError, named, why
from modules.runtime.files import verify_archive

NETWORKS = (
    *("frame_transformation", "label_transformation"),
    *("Gaussian_Predictor", "Decoder_Fusion", "Generator"),
)
PARTS = frozenset((*NETWORKS, *OPTIONAL_PARTS))
# Segments that wrappers put between the names of modules, too.
WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
# Copies of the weights that are only taken where there are no others, the last ones last.
OTHER_COPIES = (("ema", "averag", "shadow", "swa", "teacher"), ("optim", "training"))
# What may stand beside the weights: a script's settings, and numbers of numpy.
SCALAR: Any = np.float64(0).__reduce__()[0]  # the function that numpy's pickles name
BESIDE: list[Any] = [
    argparse.Namespace,
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i4", "i8", "?")),
    *((SCALAR, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
]


def read_weight_file(path: Path) -> Any:
    """What a file holds, on the CPU, its checksums verified. UserError says why it cannot be read.

    A .safetensors file is read by the package of that name.
    """
    try:
        if path.is_dir():
            raise UserError(f"{path}: is a folder; give a file, and merge a sharded one first")
        data = path.read_bytes()  # at once: a disk's fault is told apart from the content's
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"{path}: no such checkpoint") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({why(error)})") from error
    file = io.BytesIO(data)
    try:
        if path.suffix == ".safetensors":
            return importlib.import_module("safetensors.torch").load(data)
        if zipfile.is_zipfile(file):
            verify_archive(file)
        file.seek(0)
        with torch.serialization.safe_globals(BESIDE):
            return torch.load(file, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except ImportError as error:
        raise UserError(f"{path}: needs a package: pip install safetensors") from error
    # Truncated, empty, text and zero files raise exceptions of half a dozen classes.
    except Exception as error:
        if isinstance(error.__cause__, KeyboardInterrupt):  # PyTorch may wrap it
            raise error.__cause__ from None
        if unknown := re.search(r"GLOBAL (\S+)", str(error)):
            raise UserError(
                f"{path}: holds a Python object ({unknown[1]}), which is not loaded, since that "
                "could run code; save its weights alone where it was made: "
                "torch.save(model.state_dict(), FILE)"
            ) from error
        zipped = isinstance(error, zipfile.BadZipFile)
        what = str(error) if zipped else "it ends too early, was changed or is something else"
        raise UserError(
            f"{path}: corrupted, or not a checkpoint: {what}; copy or download it again"
        ) from error


# ---------------------------------------------------------------- networks


def _tensors(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Tensor]]:
    """Every tensor of nested dictionaries with its path; a dot in a name is a step of it too."""
    if isinstance(value, Tensor):
        yield path, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _tensors(item, (*path, *str(key).split(".")))


def find_networks(content: Any) -> tuple[dict[str, Tensor], str]:
    """The networks' tensors in what a file holds, by the model's names, and the path of what they
    were in, e.g. "state_dict", "" for the file itself; of several copies the trained one.

    ValueError: there are none, there are other networks beside them, or a tensor is of another kind
    than the model's (whole numbers, complex, sparse).
    """
    copies: dict[tuple[str, ...], dict[str, Tensor]] = {}
    beside: list[tuple[tuple[str, ...], Tensor]] = []
    for path, tensor in _tensors(content):
        plain = tuple(segment for segment in path if segment not in WRAPPERS)
        at = max((i for i, segment in enumerate(plain) if segment in PARTS), default=None)
        if at is None:
            beside.append((plain, tensor))
        else:
            copies.setdefault(plain[:at], {})[".".join(plain[at:])] = tensor
    if not copies:
        names = named(dict.fromkeys(".".join(path) for path, _ in beside))
        held = f"its tensors: {names}" if names else "it has no tensors"
        raise ValueError(
            f"not a checkpoint of this model: none of the five networks is in it ({held})"
        )

    def rank(path: tuple[str, ...]) -> int:
        """0: the trained weights; 1: an average of them; 2: what an optimiser holds."""
        text = ".".join(path).lower()
        kinds = [i for i, words in enumerate(OTHER_COPIES, 1) if any(w in text for w in words)]
        return max(kinds, default=0)

    def order(prefix: tuple[str, ...]) -> tuple[int, int, int]:
        present = {name.partition(".")[0] for name in copies[prefix]}
        return len(set(NETWORKS) - present), rank(prefix), len(prefix)

    best = min(copies, key=order)
    others = dict.fromkeys(
        path[len(best)]
        for path, tensor in beside
        # A number of its own (of steps, a metric) is no network.
        if path[: len(best)] == best and tensor.numel() > 1 and rank(path) < 2
    )
    if others:
        raise ValueError(f"another architecture (networks that this model lacks: {named(others)})")
    state: dict[str, Tensor] = {}
    for name, value in copies[best].items():
        counts = name.endswith("num_batches_tracked")
        if value.layout != torch.strided or not (counts or value.is_floating_point()):
            raise ValueError(f"{name} is {value.dtype}, {value.layout}; save it as float32")
        state[name] = value.detach().to(torch.int64 if counts else torch.float32)
    return state, ".".join(best)


# ---------------------------------------------------------------- what fits


def dimensions(state: dict[str, Tensor]) -> dict[str, Any]:
    """The model's settings that the tensors tell: dimensions, fold and optional parts.

    ValueError: a tensor that is needed for it is missing.
    """

    def size(name: str, axis: int = 0) -> int:
        if name not in state or state[name].dim() <= axis:
            raise ValueError(f"it has no tensor {name}")
        return state[name].shape[axis]

    values: dict[str, Any] = {
        "F_dim": size("frame_transformation.6.weight"),
        "L_dim": size("label_transformation.4.conv1.weight"),
        "N_dim": size("Gaussian_Predictor.6.weight") // 2,
        "D_out_dim": size("Decoder_Fusion.5.weight"),
        "fold": max(1, math.isqrt(size("frame_transformation.0.conv1.weight", 1) // COLOURS)),
    }
    present = {name.partition(".")[0] for name in state}
    if "Prior_Predictor" in present:
        values["prior"] = "learned"
    if "Reference_Fusion" in present:
        values["reference"] = "first"
    return values


def check_fit(state: dict[str, Tensor], config: ModelConfig) -> None:
    """ValueError unless the tensors are those of the model; its optional parts may be missing."""
    with torch.device("meta"):
        expected = {name: tuple(v.shape) for name, v in CVAE(config).state_dict().items()}
    found = {name: tuple(value.shape) for name, value in state.items()}
    needed = [name for name in expected if name.partition(".")[0] not in OPTIONAL_PARTS]
    faults = [
        *(f"{name} is missing" for name in needed if name not in found),
        *(f"{name} is unknown" for name in found if name not in expected),
        *(
            f"{name} is {found[name]}, not {shape}"
            for name, shape in expected.items()
            if found.get(name, shape) != shape
        ),
    ]
    if faults:
        raise ValueError(named(faults))
