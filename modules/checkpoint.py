"""Checkpoints, and the state of a run that they hold: read, written, resumed from, exported.

A checkpoint is a dictionary of plain values and tensors, written atomically and read without
running code. One of the older code is `{state_dict, optimizer, lr, tfr, last_epoch}`, where
`optimizer` holds weights again. Ours has the same keys with the same meaning (but a real
optimiser's state) and more: `config` (the model's settings), `labels` (what they are drawn on),
`options`, `data_root` and `training` (what a resumed run needs).
"""

import contextlib
import io
import math
import tempfile
from collections.abc import Collection
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modules.cvae import CVAE, OPTIONAL_PARTS, ModelConfig
from modules.data import VideoData
from modules.ink import Ink
from modules.losses import RunningSums
from modules.optim import (
    LossScale,
    WeightAverage,
    load_optimizer_state,
    make_optimizer,
    optimizer_state,
)
from modules.options import (
    LAST,
    PREVIOUS,
    TrainerOptions,
    as_text,
    checkpoints_to_resume,
    inherited,
    run_folder,
)
from modules.rollouts import StoredRollouts
from modules.runtime import distributed
from modules.runtime.device import choose_precision
from modules.runtime.errors import UserError, named, why
from modules.runtime.files import lock_folder, remove_leftovers, retried, write_atomically
from modules.schedules import Plan, TF_detector, epoch_plan
from modules.weights import NETWORKS, check_fit, dimensions, find_networks, read_weight_file

# Highest validation PSNR, always written; with --auto_save also lowest loss, and both at once.
BEST, BEST_LOSS, BEST_BOTH = "best.ckpt", "best_loss.ckpt", "best_both.ckpt"
# What a checkpoint of ours has in `config`; that of other code may be anything.
OWN_SETTINGS = frozenset(("F_dim", "L_dim", "N_dim", "D_out_dim", "frame_H", "frame_W"))

# ---------------------------------------------------------------- reading


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read and fits the five networks."""

    path: Path
    state_dict: dict[str, Tensor]
    where: str  # in the file, e.g. "state_dict"; "" for the file itself
    config: ModelConfig
    ink: Ink | None  # of the labels that it was trained on; None in older ones
    has_frame_size: bool  # older checkpoints do not carry one; config then has the default
    last_epoch: int  # -1 where the file does not say
    options: dict[str, Any]  # of the run that wrote it; empty in older ones
    data_root: str | None
    training: dict[str, Any]  # what --resume needs; empty in older ones
    optimizer: dict[str, Any]
    lr: float  # of the last epoch; the Trainer's default where the file does not say
    tfr: float  # likewise

    def with_options(
        self, o: Any, typed: Collection[str], parts: Collection[str] = ()
    ) -> "Checkpoint":
        """For a model as the options have it, where the checkpoint leaves that open.

        typed: names of options that were typed; one that contradicts the checkpoint is a UserError
        parts: options whose networks fine-tuning may add; there is no way back from them
        """
        unknown = () if self.has_frame_size else ("frame_H", "frame_W", "output")
        changes: dict[str, Any] = {}
        for name, value in self.config.to_dict().items():
            wanted = getattr(o, name, value)
            adds = name in parts and value == getattr(ModelConfig(), name)
            if adds or (name in typed and name in unknown):
                changes[name] = wanted
            elif name in typed and wanted != value:
                raise UserError(
                    f"--{name} {wanted}: the weights of {self.path} are for --{name} {value}; "
                    f"give that, or leave --{name} out"
                )
        return replace(self, config=replace(self.config, **changes))

    def other_background(self, ink: Ink, where: str | None) -> str:
        """That labels of the data set `where` lie on another background than in training, or ""."""
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
                f"{fault}; draw them to match, or train on these first (Trainer.py --ckpt_path)",
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


def load_checkpoint(path: Path) -> Checkpoint:
    """Read the networks' weights onto the CPU, from a checkpoint or what else holds them.

    Raises UserError, naming the file, when it is missing, corrupted, of another model, or holds
    objects that could run code.
    """
    content = read_weight_file(path)
    try:
        state, where = find_networks(content)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error
    plain = content if where == "state_dict" else {}

    def value(name: str, kind: Any, otherwise: Any) -> Any:
        return plain[name] if isinstance(plain.get(name), kind) else otherwise

    saved = value("config", dict, {})
    ours = saved.keys() >= OWN_SETTINGS
    try:
        known = {entry.name for entry in fields(ModelConfig)}
        settings = {n: v for n, v in saved.items() if n in known} if ours else dimensions(state)
        if settings.get("output") == "clamp":  # an earlier version's, for training alone
            settings["output"] = "linear"
        config = ModelConfig(**settings)
        config.check()
        check_fit(state, config)
    except (UserError, ValueError) as error:
        raise UserError(f"{path}: another architecture ({error})") from error
    # In the older code `optimizer` holds weights, not an optimiser's state.
    own = {n: value(n, dict, {}) if ours else {} for n in ("options", "training", "optimizer")}
    labels = value("labels", dict, {})
    return Checkpoint(
        path=path,
        state_dict=state,
        where=where,
        config=config,
        ink=Ink(tuple(labels["background"]), labels["contrast"]) if labels else None,
        has_frame_size=ours,
        last_epoch=value("last_epoch", int, -1),
        **own,
        data_root=value("data_root", str, None),
        lr=value("lr", (int, float), 1e-3),
        tfr=value("tfr", (int, float), 1.0),
    )


def load_weights(path: Path) -> Checkpoint:
    """A checkpoint to start from or to make frames with; prints in a line what was taken.

    Raises UserError as load_checkpoint(), and if weights are NaN or infinite.
    """
    checkpoint = load_checkpoint(path)
    epoch = f"epoch {checkpoint.last_epoch}; " if checkpoint.last_epoch >= 0 else ""
    print(f"weights: {path}: {epoch}{checkpoint.where or 'the networks'}", flush=True)
    if wrong := [n for n, v in checkpoint.state_dict.items() if not torch.isfinite(v).all()]:
        raise UserError(
            f"{path}: weights that are not finite ({named(wrong)}); take a checkpoint "
            "from before the training diverged"
        )
    return checkpoint


def load_last(root: Path) -> Checkpoint:
    """The newest sound checkpoint of a run: last.ckpt, or last.prev.ckpt with a note.

    Raises UserError when there is neither.
    """
    there = checkpoints_to_resume(root)
    if not there:
        raise UserError(f"--resume: there is no run to continue in {root} (no {LAST})")
    try:
        return retried(partial(load_checkpoint, root / LAST))
    except UserError as error:
        found = load_checkpoint(there[-1])  # raises the same where there is no other
        print(f"note: {error}; resuming from {PREVIOUS} instead", flush=True)
        return found


# ---------------------------------------------------------------- writing


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
        before = partial(_keep_previous, path) if path.name == LAST else None
        retried(partial(write_atomically, path, buffer.getvalue(), before=before))


def _keep_previous(last: Path) -> None:
    """Give last.ckpt the name last.prev.ckpt too, before another file takes its own."""
    previous, link = last.with_name(PREVIOUS), last.with_name(f".{PREVIOUS}.tmp")
    # The new checkpoint counts for more than which one is kept beside it.
    with contextlib.suppress(OSError):
        link.unlink(missing_ok=True)
        try:
            link.hardlink_to(last)
        except (OSError, NotImplementedError):  # a file system, or system, without hard links
            last.replace(previous)
        else:
            link.replace(previous)
    # Where both are already names of one file, a rename does nothing and leaves both.
    with contextlib.suppress(OSError):
        link.unlink()


def export(checkpoint: Checkpoint, path: Path) -> list[str]:
    """Write the older dictionary `{state_dict, optimizer, lr, tfr, last_epoch}`; returns what its
    reader must know. UserError where there is a file already: it may be the only copy of a model.

    As in the older code, `optimizer` is the weights again, which share their memory in the file.
    """
    if path.exists():
        raise UserError(f"--export {path}: already exists; give another name")
    config, usual = checkpoint.config, ModelConfig()
    weights = {
        name: value.contiguous()
        for name, value in checkpoint.build_model().state_dict().items()
        if name.partition(".")[0] in NETWORKS
    }
    schedule = {name: getattr(checkpoint, name) for name in ("lr", "tfr", "last_epoch")}
    save_checkpoints([path], {"state_dict": weights, "optimizer": weights, **schedule})
    notes = [f"wrote {path}: the five networks, in the older form"]
    notes += [
        f"note: the model has {name} {value}, which that format cannot store: without it the "
        "five networks produce different frames"
        for name in ("prior", "reference", "output", "fold")
        if (value := getattr(config, name)) != getattr(usual, name)
    ]
    if checkpoint.has_frame_size and config.latent_shape[1:] != usual.latent_shape[1:]:
        size = f"--frame_H {config.frame_H} --frame_W {config.frame_W}"
        notes.append(f"note: that format stores no frame size; it was trained with {size}")
    return notes


# ---------------------------------------------------------------- how a run starts


def take_from_checkpoint(
    o: TrainerOptions, explicit: frozenset[str]
) -> tuple[TrainerOptions, Checkpoint | None]:
    """The options with those that a checkpoint decides: all of them for --resume; for --ckpt_path
    the model's, and those of its run that are not typed (see options.inherited)."""
    if o.resume:
        return _resumed(o, explicit)
    if o.ckpt_path is None:
        return o, None
    parts = () if o.test else ("prior", "reference")
    checkpoint = load_weights(Path(o.ckpt_path)).with_options(o, explicit, parts)
    taken = inherited(o, explicit, checkpoint.options)
    taken |= {"DR": checkpoint.data_root} if o.DR is None else {}
    told = [as_text(name, value) for name, value in taken.items() if value != getattr(o, name)]
    o = replace(o, **{**taken, **checkpoint.config.to_dict()})
    if o.DR is None:
        raise UserError(f"{o.ckpt_path} does not say where its data set is: give --DR")
    if told and not o.test:
        print(f"inherited from its run, unless given: {'  '.join(told)}", flush=True)
    return o, checkpoint


def _resumed(o: TrainerOptions, explicit: frozenset[str]) -> tuple[TrainerOptions, Checkpoint]:
    """The options of the run in --save_root, with those that were typed and may change."""
    root = run_folder(o)
    checkpoint = load_last(root)
    if not checkpoint.training:
        raise UserError(
            f"--resume: {checkpoint.path} was written by older code; start from it with --ckpt_path"
        )
    try:
        # resume_if_any was an option of an earlier version.
        saved = TrainerOptions(
            **{name: v for name, v in checkpoint.options.items() if name != "resume_if_any"}
        )
        if saved.output == "clamp":
            raise TypeError(f"--output {saved.output}")
    except TypeError as error:
        raise UserError(
            f"--resume: {checkpoint.path} is of another version ({error}); start from it with "
            "--ckpt_path"
        ) from error
    changed = [n for n in sorted(explicit) if getattr(o, n) != getattr(saved, n)]
    # A preset would change nothing, and config.json would say that it did.
    may = {f.name for f in fields(saved) if f.metadata["resumable"] and f.name != "preset"}
    if refused := [n for n in changed if n not in may]:
        shown = ", ".join(f"--{n} {getattr(saved, n)} → {getattr(o, n)}" for n in refused)
        raise UserError(f"--resume continues a run as it was, but this would change: {shown}")
    typed = {name: getattr(o, name) for name in changed}
    # The data's absolute place, as the run may be continued from another folder.
    fixed = {"DR": checkpoint.data_root, "resume": True, "save_root": str(root)}
    fixed["recompute"] = o.recompute
    return replace(saved, **{**fixed, **typed}), checkpoint


def prepare_save_root(o: TrainerOptions) -> Path:
    """The folder of the run, made, tried and locked before anything costs time, or a UserError."""
    root = run_folder(o)
    if not distributed.is_main():
        return root
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root):
            pass
        if o.test:
            return root
        lock_folder(root)
        for name, what in (
            (LAST, "already holds a run: continue it with --resume"),
            ("metrics.csv", "metrics.csv belongs to a run without a checkpoint; move it"),
        ):
            if not o.resume and (root / name).exists():
                raise UserError(f"--save_root {root}: {what}, or give another --save_root")
        remove_leftovers(root)
    except OSError as error:
        raise UserError(f"--save_root {root}: cannot be written ({why(error)})") from error
    return root


# ---------------------------------------------------------------- the state of a run


@dataclass
class Best:
    """The best validation results so far, and which checkpoints a new one earns."""

    psnr: float = -math.inf
    loss: float = math.inf
    epoch: int = -1  # of the highest PSNR

    def update(self, epoch: int, *, loss: float, psnr: float) -> list[str]:
        """Names of the checkpoints that this validation earns; none if it is not finite."""
        if not (math.isfinite(psnr) and math.isfinite(loss)):
            return []
        higher, lower = psnr > self.psnr, loss < self.loss
        if higher:
            self.psnr, self.epoch = psnr, epoch
        self.loss = min(loss, self.loss)
        cases = {BEST: higher, BEST_LOSS: lower, BEST_BOTH: higher and lower}
        return [name for name, holds in cases.items() if holds]


@dataclass
class Position:
    """Where a run is."""

    epoch: int = 0
    step: int = 0  # of this epoch that are done
    seconds: float = 0.0  # spent on this epoch, in training


class RunState:
    """Model, optimiser, detector, best results, position and sums of a run."""

    def __init__(
        self,
        o: TrainerOptions,
        root: Path,
        model: CVAE,
        train: VideoData,
        *,
        data_root: str,
        data_fingerprint: str,
    ) -> None:
        self.o, self.root, self.model = o, root, model
        self.data_root, self.data_fingerprint = data_root, data_fingerprint
        self.ink = train.ink
        model.label_transformation.measure(train.labels, model.config.fold)
        device = train.frames.device
        half = choose_precision(o.precision, device) == torch.float16
        self.optimizer = make_optimizer(model, o)
        self.scale = LossScale(device) if half else None
        self.average = WeightAverage(model, o.ema) if o.ema > 0 else None
        self.stored = StoredRollouts(train) if o.rollout_every > 0 else None
        self.detector = TF_detector(o.detector_patience, o.detector_threshold)
        self.sums = RunningSums(model.config.latent_shape, device)
        self.best, self.position = Best(), Position()
        self.last_epoch = -1  # the last one that was finished
        # Rows of metrics.csv that could not be written, see runlog.MetricsTable.
        self.unwritten: list[dict[str, Any]] = []
        self.plan: Plan
        self.begin_epoch()

    def begin_epoch(self) -> Plan:
        """What the epoch that the position is in is trained with."""
        self.plan = epoch_plan(self.o, self.position.epoch, self.detector.raised_at)
        return self.plan

    def finish_epoch(self, *, loss: float, psnr: float) -> list[str]:
        """Note an epoch's validation; returns the names to save it under, beside last.ckpt."""
        epoch = self.position.epoch
        names = self.best.update(epoch, loss=loss, psnr=psnr)
        if not self.o.auto_save:
            names = [name for name in names if name == BEST]
            if epoch % self.o.per_save == 0:
                names.append(f"epoch={epoch}.ckpt")
        if self.detector.update(epoch, loss, psnr) and distributed.is_main():
            print("validation has plateaued: teacher-forcing ratio reset to 1", flush=True)
        self.last_epoch, self.position = epoch, Position(epoch + 1)
        self.sums.start_epoch()
        return names

    def eval_model(self) -> CVAE:
        """The model that is validated and saved: with --ema of averaged weights, with batch-norm
        statistics of its own weights."""
        model = self.model if self.average is None else self.average.model
        model.label_transformation.settle()
        return model

    # -------------------------------------------------------- saving

    def save(self, *names: str) -> None:
        """Write these files and then last.ckpt, so that a run killed in between makes them again.

        Rank 0 writes; in mid-epoch every rank must ask, since the sums of all are saved.
        """
        in_epoch = self.position.step > 0
        posterior = self.sums.read_posterior() if in_epoch else None
        if not distributed.is_main():
            return
        content = self._content(posterior)
        paths = [self.root / name for name in names]
        if self.stored is not None:  # as large as the data set: only in the one that is resumed
            if paths:
                save_checkpoints(paths, content)
            paths, content["training"]["rollouts"] = [], self.stored.frames
        save_checkpoints([*paths, self.root / LAST], content)

    def _content(self, posterior: Tensor | None) -> dict[str, Any]:
        """What a checkpoint holds: the older code's keys, and what a resumed run needs."""
        sums = {"counts": list(self.sums.read()), "moments": posterior}
        training: dict[str, Any] = {
            "position": asdict(self.position) | sums,
            "detector": self.detector.state_dict(),
            "best": vars(self.best),
            "data_fingerprint": self.data_fingerprint,
        }
        if self.unwritten:
            training["unwritten"] = self.unwritten
        if self.average is not None:
            training["weights"] = self.model.state_dict()
            training["average_steps"] = self.average.steps.item()
        if self.scale is not None:
            training["loss_scale"] = self.scale.state_dict()
        return {
            "state_dict": self.eval_model().state_dict(),
            "optimizer": optimizer_state(self.optimizer),
            "lr": self.plan.lr,
            "tfr": self.plan.tfr,
            "last_epoch": self.last_epoch,
            "config": self.model.config.to_dict(),
            "labels": {"background": list(self.ink.background), "contrast": self.ink.contrast},
            "options": asdict(self.o),
            "data_root": self.data_root,
            "training": training,
        }

    # -------------------------------------------------------- resuming

    def resume_from(self, checkpoint: Checkpoint) -> None:
        """Continue a run where its checkpoint left it. Raises UserError if the data changed."""
        saved = checkpoint.training
        if saved["data_fingerprint"] != self.data_fingerprint:
            raise UserError(
                f"--resume: the data in {self.o.DR} is not what this run was trained on "
                f"({checkpoint.data_root}, says {checkpoint.path}); give its new path with --DR"
            )
        if distributed.is_main() and checkpoint.path.name == PREVIOUS:
            # Or the corrupted last.ckpt would become last.prev.ckpt when the next one is written.
            checkpoint.path.replace(self.root / LAST)
        if self.average is not None:
            # The checkpoint's state_dict, and so the model built from it, is the average.
            self.average.model.load_state_dict(self.model.state_dict())
            self.average.steps.fill_(saved["average_steps"])
            self.model.load_state_dict(saved["weights"])
        if self.stored is not None:
            self.stored.frames.copy_(saved["rollouts"])
        load_optimizer_state(self.optimizer, self.model, checkpoint.optimizer)
        self.detector.load_state_dict(saved["detector"])
        self.best = Best(**saved["best"])
        position = dict(saved["position"])
        self.sums.restore(position.pop("counts"), position.pop("moments"))
        self.position = Position(**position)
        if self.scale is not None and "loss_scale" in saved:
            self.scale.load_state_dict(saved["loss_scale"])
        self.last_epoch = checkpoint.last_epoch
        self.unwritten[:] = saved.get("unwritten", [])
