"""Checkpoints: plain values and tensors, written atomically, read without running code.

A checkpoint of the older code is `{state_dict, optimizer, lr, tfr, last_epoch}`, where `optimizer`
holds weights again. Ours has the same keys with the same meaning (but a real optimiser's state)
and more: `config` (the model's settings), `labels` (what they are drawn on), `options`, `data_root`
and `training` (what a resumed run needs). Dimensions of a checkpoint without `config` are read off
its tensor shapes.
"""

import contextlib
import io
import math
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modules.cvae import CVAE, OPTIONAL_PARTS, PRIORS, REFERENCES, ModelConfig
from modules.ink import Ink
from modules.runtime.errors import UserError, named, why
from modules.runtime.files import NO_ROOM, retried, write_atomically, write_synced
from modules.weight_files import read_weight_file
from modules.weights import (
    NETWORKS,
    NoNetworks,
    as_float32,
    dimensions,
    faults,
    find_networks,
    missing_networks,
    with_counters,
)

# What a checkpoint of ours has in `config`; that of other code may be anything.
OWN_SETTINGS = frozenset(("F_dim", "L_dim", "N_dim", "D_out_dim", "frame_H", "frame_W"))


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read and fits the five networks."""

    path: Path
    state_dict: dict[str, Tensor]
    config: ModelConfig
    ink: Ink | None  # of the labels that it was trained on; None in older ones
    has_frame_size: bool  # older checkpoints do not carry one; config then has the default
    last_epoch: int
    options: dict[str, Any]  # of the run that wrote it; empty in older ones
    data_root: str | None
    training: dict[str, Any]  # what --resume needs; empty in older ones
    optimizer: dict[str, Any]
    lr: float  # of the last epoch; the Trainer's default where the file does not say
    tfr: float  # likewise
    taken: str  # what was taken from the file, in words

    def says(self) -> str:
        """A line about what was taken."""
        epoch = f", epoch {self.last_epoch}" if self.last_epoch >= 0 else ""
        return f"weights: {self.path}{epoch}: {self.taken}"

    def check_finite(self) -> None:
        """Raise UserError if weights are NaN or infinite: nothing can be made of them."""
        wrong = [n for n, v in self.state_dict.items() if not torch.isfinite(v).all()]
        if wrong:
            raise UserError(
                f"{self.path}: weights that are not finite ({named(wrong)}); take a checkpoint "
                "from before the training diverged"
            )

    def other_background(self, ink: Ink, where: str | None) -> str:
        """That labels lie on another background than those it was trained on; "" if they do not.

        where: the data set
        """
        if self.ink is None or self.ink.shares_background(ink):
            return ""
        return (
            f"{where}: labels are drawn on {ink.colour}, but {self.path} was trained on labels on"
            f" {self.ink.colour}"
        )

    def ink_for(self, ink: Ink, where: str | None) -> Ink:
        """Of labels that frames are made from: as in training, `ink` where that is not known.

        Raises UserError if they lie on another background, which the model has never seen.
        """
        if fault := self.other_background(ink, where):
            raise UserError(
                f"{fault}; draw them as those, or train on these first (Trainer.py --ckpt_path)",
                about="DR",
            )
        return self.ink or ink

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


def export(checkpoint: Checkpoint, path: Path) -> list[str]:
    """Write the older dictionary `{state_dict, optimizer, lr, tfr, last_epoch}` of plain values;
    returns what its reader must know.

    As in the older code, `optimizer` is the weights again (they share their memory, so the file is
    no larger). Raises UserError where there is a file already: it may be the only copy of a model.
    """
    if path.suffix == ".safetensors":
        raise UserError(
            f"--export {path}: writes a PyTorch file; give it another ending, e.g. .pth"
        )
    if path.exists():
        raise UserError(f"--export {path}: is there already; give another name")
    config, plain = checkpoint.config, ModelConfig()
    weights = {
        name: value.contiguous()
        for name, value in checkpoint.build_model().state_dict().items()
        if name.partition(".")[0] in NETWORKS
    }
    content = {
        "state_dict": weights,
        "optimizer": weights,
        "lr": checkpoint.lr,
        "tfr": checkpoint.tfr,
        "last_epoch": checkpoint.last_epoch,
    }
    save_checkpoints([path], content)
    notes = [f"wrote {path}: the five networks, in the older form"]
    for name in ("prior", "reference", "output", "fold"):
        # Clamped frames are what everybody shows.
        if (value := getattr(config, name)) not in (getattr(plain, name), "clamp"):
            notes.append(
                f"note: the model has --{name} {value}, which that form has no place for: "
                "without it the five networks give other frames"
            )
    if checkpoint.has_frame_size and config.latent_shape[1:] != plain.latent_shape[1:]:
        size = f"--frame_H {config.frame_H} --frame_W {config.frame_W}"
        notes.append(f"note: that form carries no frame size; it was trained with {size}")
    return notes


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
        keep = partial(_keep_previous, path)
        retried(partial(write_atomically, path, buffer.getvalue(), before=keep))


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
        temporary.unlink(missing_ok=True)
        try:
            temporary.hardlink_to(path)
        except (OSError, NotImplementedError):  # a file system, or system, without hard links
            write_synced(temporary, path.read_bytes())
        temporary.replace(other)
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        # No room for a copy: the file moves. Until the next takes its name, `other` is the newest.
        path.replace(other)
    finally:
        # Where both are already names of one file, a rename does nothing and leaves both.
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def put_in_place_of_last(checkpoint: Checkpoint) -> None:
    """Make the checkpoint that a run is resumed from its last.ckpt.

    A corrupted last.ckpt would otherwise become last.prev.ckpt when the next one is written.
    """
    if checkpoint.path.name == PREVIOUS:
        try:
            retried(partial(_also_name, checkpoint.path, checkpoint.path.with_name(LAST)))
        except OSError as error:
            raise UserError(f"{checkpoint.path}: cannot be renamed ({why(error)})") from error


def load_last(root: Path) -> Checkpoint:
    """The newest sound checkpoint of a run: last.ckpt, or last.prev.ckpt with a note.

    Raises UserError when there is neither.
    """
    last, previous = root / LAST, root / PREVIOUS
    try:
        found_last, found_previous = last.exists(), previous.exists()
    except OSError as error:
        raise UserError(f"--resume: {root} cannot be read ({why(error)})") from error
    if not found_last and not found_previous:
        raise UserError(f"--resume: there is no run to continue in {root} (no {LAST})")
    try:
        return retried(partial(load_checkpoint, last))
    except UserError as error:
        if not found_previous:
            raise
        found = load_checkpoint(previous)
        print(f"note: {error}; resuming from {PREVIOUS} instead", flush=True)
        return found


def load_checkpoint(path: Path, weights: str | None = None) -> Checkpoint:
    """Read the networks' weights onto the CPU, from a checkpoint of this or the older code or from
    whatever else holds them (see modules/weights.py).

    weights: which of several copies to take, as `Checkpoint.taken` names them

    Raises UserError, naming the file, when it is missing, corrupted, of another model, or holds
    objects that could run code.
    """
    content, remarks = read_weight_file(path)
    try:
        found = find_networks(content, weights)
        state, kind = as_float32(with_counters(found.state))
    except NoNetworks as error:
        if weights is not None:
            raise UserError(f"--weights {weights}: there are none in {path}; {error}") from error
        raise UserError(
            f"{path}: not a checkpoint of this model: none of the five networks is in it ({error})"
        ) from error
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error
    plain = content if isinstance(content, dict) else {}
    saved = plain.get("config") if found.where == "state_dict" else None
    ours = isinstance(saved, dict) and saved.keys() >= OWN_SETTINGS
    if missing := missing_networks(state):
        raise UserError(f"{path}: another architecture (networks are missing: {named(missing)})")
    config = _config(path, state, saved if isinstance(saved, dict) and ours else {})
    if fault := faults(state, config, found.others):
        raise UserError(f"{path}: another architecture ({fault})")

    def own(name: str) -> dict[str, Any]:
        value = plain.get(name)
        # In the older code `optimizer` holds weights, not an optimiser's state.
        return value if ours and isinstance(value, dict) else {}

    last_epoch, data_root = plain.get("last_epoch"), plain.get("data_root")
    taken = [
        found.where or "the networks",
        *(["without " + ", ".join(f"{name}." for name in found.removed)] if found.removed else []),
        *([f"{kind} taken as float32"] if kind else []),
        *remarks,
        *([f"left out: {named(found.left_out)}"] * bool(found.left_out)),
        *(f"not taken: {name} (--weights {name} takes it)" for name in found.copies if name),
    ]
    return Checkpoint(
        path=path,
        state_dict=state,
        config=config,
        ink=_ink(own("labels")),
        has_frame_size=ours,
        last_epoch=last_epoch if type(last_epoch) is int else -1,
        options=own("options"),
        data_root=data_root if isinstance(data_root, str) else None,
        training=own("training"),
        optimizer=own("optimizer"),
        lr=_number(plain.get("lr"), 1e-3),
        tfr=_number(plain.get("tfr"), 1.0),
        taken="; ".join(taken),
    )


def _ink(saved: dict[str, Any]) -> Ink | None:
    """As saved; None where there is none, or something else."""
    background = saved.get("background")
    values = [*background, saved.get("contrast")] if isinstance(background, list) else []
    if len(values) != 4 or any(type(value) is not int for value in values):
        return None
    red, green, blue, contrast = values
    return Ink((red, green, blue), contrast)


def _number(value: Any, otherwise: float) -> float:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else otherwise


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


def _config(path: Path, state: dict[str, Tensor], saved: dict[str, Any]) -> ModelConfig:
    """The model's settings as saved, or read off the shapes."""
    names = {entry.name for entry in fields(ModelConfig)}
    try:
        values = {name: value for name, value in saved.items() if name in names}
        config = ModelConfig(**(values or dimensions(state)))
        config.check()
    except (UserError, TypeError, ValueError) as error:
        raise UserError(f"{path}: another architecture ({error})") from error
    return config
