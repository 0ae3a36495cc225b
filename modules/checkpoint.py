"""Checkpoints: plain values and tensors, written atomically, read without running code.

A checkpoint of the older code is `{state_dict, optimizer, lr, tfr, last_epoch}`, where `optimizer`
holds weights again. Ours has the same keys with the same meaning (but a real optimiser's state)
and more: `config` (the model's settings), `options`, `data_root` and `training` (what a resumed
run needs). Dimensions of a checkpoint without `config` are read off its tensor shapes.
"""

import contextlib
import io
import math
import pickle
import re
import zipfile
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modules.cvae import CVAE, OPTIONAL_PARTS, PRIORS, REFERENCES, ModelConfig
from modules.runtime.errors import UserError, why
from modules.runtime.files import NO_ROOM, verify_archive, write_atomically, write_synced
from modules.runtime.patience import patiently, read_bytes, remove, rename

# The tensors whose shapes tell the dimensions: (option, tensor, axis, divisor).
_DIMENSION_OF = (
    ("F_dim", "frame_transformation.6.weight", 0, 1),
    ("L_dim", "label_transformation.4.conv1.weight", 0, 1),
    ("N_dim", "Gaussian_Predictor.6.weight", 0, 2),
    ("D_out_dim", "Decoder_Fusion.5.weight", 0, 1),
)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read and fits the five networks."""

    path: Path
    state_dict: dict[str, Tensor]
    config: ModelConfig
    has_frame_size: bool  # older checkpoints do not carry one; config then has the default
    last_epoch: int
    options: dict[str, Any]  # of the run that wrote it; empty in older ones
    data_root: str | None
    training: dict[str, Any]  # what --resume needs; empty in older ones
    optimizer: dict[str, Any]

    def build_model(self) -> CVAE:
        """The model with these weights, on the CPU.

        Optional parts that config asks for and the weights lack start without an effect.
        """
        model = CVAE(self.config)
        model.zero_prior()
        parts = {
            name: value
            for name, value in model.state_dict().items()
            if name.partition(".")[0] in OPTIONAL_PARTS
        }
        model.load_state_dict({**parts, **self.state_dict})
        return model


class Best:
    """The best validation results so far, and which checkpoints a new one earns."""

    def __init__(self, psnr: float = -math.inf, loss: float = math.inf, epoch: int = -1) -> None:
        self.psnr, self.loss, self.epoch = psnr, loss, epoch  # epoch: of the highest PSNR

    def update(self, epoch: int, *, loss: float, psnr: float) -> list[str]:
        """Names of the --auto_save files that this validation earns; none if not finite."""
        if not (math.isfinite(psnr) and math.isfinite(loss)):
            return []
        higher, lower = psnr > self.psnr, loss < self.loss
        if higher:
            self.psnr, self.epoch = psnr, epoch
        self.loss = min(loss, self.loss)
        cases = {
            "best.ckpt": higher and lower,
            "best_psnr.ckpt": higher,
            "best_loss.ckpt": lower,
        }
        return [name for name, holds in cases.items() if holds]


LAST, PREVIOUS = "last.ckpt", "last.prev.ckpt"


def save_checkpoints(paths: list[Path], content: dict[str, Any]) -> None:
    """Write the same content to each path, each atomically; a last.ckpt that was there is kept
    as last.prev.ckpt.

    content: only dictionaries, lists, tensors, strings, numbers and None, or it could not be read
    back without running code. Raises UserError when the disk is full or the folder unwritable; an
    earlier file of that name is then intact.
    """
    buffer = io.BytesIO()
    torch.save(content, buffer)
    for path in paths:
        write_atomically(path, buffer.getvalue(), before=partial(_keep_previous, path))


def _keep_previous(path: Path) -> None:
    """Give last.ckpt a second name, last.prev.ckpt, before it is replaced.

    So at no moment is there no last.ckpt. Other checkpoints are just replaced.
    """
    if path.name == LAST and path.exists():
        previous = path.with_name(PREVIOUS)
        try:
            _also_name(path, previous)
        except OSError as error:
            # The new checkpoint counts for more than which one is kept beside it.
            print(f"note: {previous}: keeps its earlier content ({why(error)})", flush=True)


def _also_name(path: Path, other: Path) -> None:
    """Give a file a second name, which another file may have had, in one step."""
    temporary = other.with_name(f".{other.name}.tmp")
    try:
        remove(temporary)
        try:
            temporary.hardlink_to(path)
        except (OSError, NotImplementedError):  # a file system, or system, without hard links
            patiently(lambda: write_synced(temporary, read_bytes(path)))
        rename(temporary, other)
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        # No room for a copy: the file moves. Until the next takes its name, `other` is the newest.
        rename(path, other)
    finally:
        # Where both are already names of one file, a rename does nothing and leaves both.
        with contextlib.suppress(OSError):
            remove(temporary)


def put_in_place_of_last(checkpoint: Checkpoint) -> None:
    """Make the checkpoint that a run is resumed from its last.ckpt.

    A corrupted last.ckpt would otherwise become last.prev.ckpt when the next one is written.
    """
    if checkpoint.path.name == PREVIOUS:
        try:
            _also_name(checkpoint.path, checkpoint.path.with_name(LAST))
        except OSError as error:
            raise UserError(f"{checkpoint.path}: cannot be renamed ({why(error)})") from error


def load_last(root: Path) -> Checkpoint:
    """The newest sound checkpoint of a run: last.ckpt, or last.prev.ckpt with a note.

    Raises UserError when there is neither.
    """
    last, previous = root / LAST, root / PREVIOUS
    try:
        found_last, found_previous = patiently(last.exists), patiently(previous.exists)
    except OSError as error:
        raise UserError(f"--resume: {root} cannot be read ({why(error, root)})") from error
    if not found_last and not found_previous:
        raise UserError(f"--resume: there is no run to continue in {root} (no {LAST})")
    try:
        return load_checkpoint(last)
    except UserError as error:
        if not found_previous:
            raise
        found = load_checkpoint(previous)
        print(f"note: {error}; resuming from {PREVIOUS} instead", flush=True)
        return found


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint of this or the older code onto the CPU. Raises UserError, naming the file,
    when it is missing, corrupted, of another architecture, or holds more than plain values."""
    content = _read(path)
    state = content.get("state_dict") if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise UserError(f"{path}: not a checkpoint of this model (it has no state_dict of tensors)")
    assert isinstance(content, dict)
    # DataParallel and DistributedDataParallel put this before every name.
    state = {str(name).removeprefix("module."): value for name, value in state.items()}
    saved = content.get("config")
    config = _config(path, state, saved if isinstance(saved, dict) else {})
    _check_tensors(path, state, config)

    def plain(name: str) -> dict[str, Any]:
        value = content.get(name)
        # In the older code `optimizer` holds weights, not an optimiser's state.
        return value if isinstance(value, dict) and isinstance(saved, dict) else {}

    last_epoch, data_root = content.get("last_epoch"), content.get("data_root")
    return Checkpoint(
        path=path,
        state_dict=state,
        config=config,
        has_frame_size=isinstance(saved, dict),
        last_epoch=last_epoch if isinstance(last_epoch, int) else -1,
        options=plain("options"),
        data_root=data_root if isinstance(data_root, str) else None,
        training=plain("training"),
        optimizer=plain("optimizer"),
    )


def with_frame_size(checkpoint: Checkpoint, height: int | None, width: int | None) -> Checkpoint:
    """The checkpoint with a frame size from the command line, where it carries none of its own.

    Raises UserError when it carries another one.
    """
    config = checkpoint.config
    for name, value in (("frame_H", height), ("frame_W", width)):
        if value is None:
            continue
        if checkpoint.has_frame_size and value != getattr(config, name):
            raise UserError(
                f"--{name} {value}: {checkpoint.path} was trained with {getattr(config, name)}"
            )
        config = replace(config, **{name: value})  # type: ignore[arg-type]
    return replace(checkpoint, config=config)


def with_parts(checkpoint: Checkpoint, prior: str, reference: str) -> Checkpoint:
    """The checkpoint for a model with more optional parts than it was trained with.

    What it has it keeps: there is no way back from a learned prior or a reference.
    """
    config = checkpoint.config
    if config.prior == PRIORS[0]:
        config = replace(config, prior=prior)
    if config.reference == REFERENCES[0]:
        config = replace(config, reference=reference)
    return replace(checkpoint, config=config)


def _read(path: Path) -> Any:
    """What the file holds, its archive's checksums verified. Raises UserError."""
    try:
        patiently(path.stat)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"{path}: no such checkpoint") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    if not path.is_file():
        raise UserError(f"{path}: not a checkpoint file")
    corrupted = f"{path}: corrupted, or not a checkpoint"
    try:
        # Read at once: what the disk refuses is then told apart from what the file holds.
        archived = io.BytesIO(read_bytes(path))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({why(error, path)})") from error
    try:
        if zipfile.is_zipfile(archived):
            verify_archive(archived)
        archived.seek(0)
        return torch.load(archived, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        if found:
            raise UserError(
                f"{path}: holds a Python object ({found.group(1)}) besides tensors and plain "
                "values; it is not loaded, since that could run code"
            ) from error
        raise UserError(corrupted) from error
    except Exception as error:
        if isinstance(error.__cause__, KeyboardInterrupt):  # as PyTorch may wrap it
            raise error.__cause__ from None
        # Truncated, empty, text and zero files raise exceptions of half a dozen classes, and a
        # corrupted pickle may raise any; whichever it is, the file cannot be used.
        raise UserError(corrupted) from error


def _config(path: Path, state: dict[str, Tensor], saved: dict[str, Any]) -> ModelConfig:
    """The model's settings as saved, or read off the shapes."""
    names = {entry.name for entry in fields(ModelConfig)}
    values = {name: value for name, value in saved.items() if name in names}
    if not values:
        for name, tensor, axis, divisor in _DIMENSION_OF:
            if tensor not in state or state[tensor].dim() <= axis:
                raise UserError(f"{path}: another architecture (it has no tensor {tensor})")
            values[name] = state[tensor].shape[axis] // divisor
    try:
        config = ModelConfig(**values)
        config.check()
    except (UserError, TypeError) as error:
        raise UserError(f"{path}: another architecture ({error})") from error
    return config


def _check_tensors(path: Path, state: dict[str, Tensor], config: ModelConfig) -> None:
    """Raise UserError unless the tensors are just those of the model, by name and shape."""
    with torch.device("meta"):
        expected = {name: tuple(value.shape) for name, value in CVAE(config).state_dict().items()}
    found = {name: tuple(value.shape) for name, value in state.items()}
    faults = [
        f"{name} is missing"
        if name not in found
        else f"{name} is unknown"
        if name not in expected
        else f"{name} is {'x'.join(map(str, found[name]))}, not {'x'.join(map(str, shape))}"
        for name, shape in {**found, **expected}.items()
        if found.get(name) != expected.get(name)
    ]
    if faults:
        more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise UserError(f"{path}: another architecture ({'; '.join(faults[:3])}{more})")
