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
from typing import Any, NamedTuple

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
DEEPEST = 16  # segments of the path of a dictionary
COUNTER = "num_batches_tracked"
# What may stand beside the weights: a script's settings, and numbers of numpy.
SCALAR: Any = np.float64(0).__reduce__()[0]  # the function that numpy's pickles name
BESIDE: list[Any] = [
    argparse.Namespace,
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i4", "i8", "?")),
    *((SCALAR, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
]
SUFFIXES = (".ckpt", ".pt", ".pth", ".safetensors", ".bin")
# Checkpoints in several files, by these files' names: what they are, and what joins them.
SEVERAL = {
    r"\.distcp$|^\.metadata$": "a distributed checkpoint; join its files: python -m"
    " torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER FILE.pt",
    r"^(mp|zero_pp)_rank_|^zero_to_fp32\.py$|^global_step": "a checkpoint of DeepSpeed; join its"
    " files with the zero_to_fp32.py that lies beside them",
    r"-[0-9]+-of-(?!0*1\.)[0-9]+\.|\.index\.json$": "a checkpoint in several parts; load each,"
    " update one dictionary with all of them, and torch.save that",
}
ALONE = "save its weights alone: torch.save(model.state_dict(), FILE) where it was made"

# ---------------------------------------------------------------- files


def read_weight_file(path: Path) -> Any:
    """What a file holds, on the CPU, its checksums verified. UserError says why it cannot be read.

    A .safetensors file is read by the package of that name.
    """
    data = _bytes(path)
    file = io.BytesIO(data)
    try:
        if path.suffix == ".safetensors":
            return importlib.import_module("safetensors.torch").load(data)
        if zipfile.is_zipfile(file):
            verify_archive(file)
            names = zipfile.ZipFile(file).namelist()
            if any(name.endswith("/constants.pkl") for name in names):
                raise UserError(f"{path}: a TorchScript archive, which contains code; {ALONE}")
            if not any(name.endswith("data.pkl") for name in names):
                raise UserError(f"{path}: a ZIP archive of {named(names)}; unpack it, or {ALONE}")
        file.seek(0)
        with torch.serialization.safe_globals(BESIDE):
            return torch.load(file, map_location="cpu", weights_only=True)
    except (UserError, MemoryError):
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
                f"could run code; {ALONE}"
            ) from error
        zipped = isinstance(error, zipfile.BadZipFile)
        what = str(error) if zipped else "it ends too early, was changed or is something else"
        raise _corrupted(path, f"{what}; copy or download it again") from error


def _corrupted(path: Path, reason: str) -> UserError:
    return UserError(f"{path}: corrupted, or not a checkpoint: {reason}")


def _bytes(path: Path) -> bytes:
    """The file's content, read at once: what the disk refuses is then told apart from what the file
    holds. UserError: it is missing, a folder, unreadable, or plainly something else."""
    try:
        path.stat()
        names = [each.name for each in path.iterdir()] if path.is_dir() else [path.name]
        for pattern, what in SEVERAL.items():
            if any(re.search(pattern, name) for name in names):
                raise UserError(f"{path}: {what}")
        if not path.is_file():
            meant = _checkpoints_in(path) or "; give a file"
            raise UserError(f"{path}: not a checkpoint file{meant}")
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"{path}: no such checkpoint{_checkpoints_in(path.parent)}") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({why(error)})") from error
    if not data:
        raise _corrupted(path, "the file is empty (0 bytes)")
    begin = data[:512].lstrip(b"\xef\xbb\xbf \r\n\t").lower()
    for starts, what in (
        ((b"version https://git-lfs",), "a pointer of Git LFS; fetch it with: git lfs pull"),
        ((b"<!doctype", b"<html", b"<?xml"), "a web page; download the file itself"),
        ((b"\x1f\x8b", b"7z\xbc\xaf", b"rar!"), "an archive; unpack it"),
        ((b"\x80\3", b"\x80\4", b"\x80\5"), f"a pickle of Python; {ALONE}"),
        ((b"\x89hdf", b"\x93numpy"), f"of another library than PyTorch; {ALONE}"),
    ):
        if begin.startswith(starts):
            raise _corrupted(path, f"it is {what}")
    return data


def _checkpoints_in(folder: Path) -> str:
    """What may have been meant, for the end of an error."""
    try:
        names = sorted(p.name for p in folder.iterdir() if p.suffix in SUFFIXES)
    except OSError:
        return ""
    names = [name for name in names if not name.startswith(".")]
    return f"; in that folder there are: {named(names)}" if names else ""


# ---------------------------------------------------------------- networks


class Found(NamedTuple):
    """The networks' tensors as they stand in a file, by the model's names."""

    state: dict[str, Tensor]  # float32, or whole numbers where they count batches
    where: str  # the path of what they were in, e.g. "state_dict"; "" for the file itself


def _tensors(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Tensor]]:
    """Every tensor of nested dictionaries with its path; a dot in a name is a step of it too."""
    if isinstance(value, Tensor):
        yield path, value
    elif isinstance(value, Mapping) and len(path) < DEEPEST:
        for key, item in value.items():
            yield from _tensors(item, (*path, *str(key).split(".")))


def find_networks(content: Any) -> Found:
    """The networks' tensors in what a file holds; of several copies the trained one.

    ValueError: there are none, there are other networks beside them, or a tensor is of another kind
    than the model's (whole numbers, complex, sparse, no values).
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
        kind, counts = str(value.dtype).removeprefix("torch."), name.endswith(COUNTER)
        if value.layout != torch.strided or value.is_meta:
            raise ValueError(f"{name} is sparse, or without values; save the weights as float32")
        if not (counts or value.is_floating_point()):
            raise ValueError(f"{name} is {kind}; save the weights as float32")
        state[name] = value.detach().to(torch.int64 if counts else torch.float32)
    return Found(state, ".".join(best))


# ---------------------------------------------------------------- what fits

# The tensors whose shapes tell the dimensions: (option, tensor, axis, divisor).
DIMENSION_OF = (
    ("F_dim", "frame_transformation.6.weight", 0, 1),
    ("L_dim", "label_transformation.4.conv1.weight", 0, 1),
    ("N_dim", "Gaussian_Predictor.6.weight", 0, 2),
    ("D_out_dim", "Decoder_Fusion.5.weight", 0, 1),
)


def dimensions(state: dict[str, Tensor]) -> dict[str, Any]:
    """The model's settings that the tensors tell: dimensions, fold and optional parts.

    ValueError: a tensor that is needed for it is missing.
    """
    values: dict[str, Any] = {}
    for name, tensor, axis, divisor in DIMENSION_OF:
        if tensor not in state or state[tensor].dim() <= axis:
            raise ValueError(f"it has no tensor {tensor}")
        values[name] = state[tensor].shape[axis] // divisor
    first = state.get("frame_transformation.0.conv1.weight")
    if first is not None and first.dim() > 1:
        values["fold"] = max(1, math.isqrt(first.shape[1] // COLOURS))
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
            f"{name} is {_size(found[name])}, not {_size(shape)}"
            for name, shape in expected.items()
            if found.get(name, shape) != shape
        ),
    ]
    if faults:
        raise ValueError(named(faults))


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a single number"
