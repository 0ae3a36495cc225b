"""What a run carries from step to step, how it starts from a checkpoint, and how it is saved."""

import dataclasses
from pathlib import Path
from typing import Any

import torch

from modules import schedules
from modules.averages import RunningSums
from modules.checkpoint import (
    LAST,
    Best,
    Checkpoint,
    load_checkpoint,
    load_last,
    put_in_place_of_last,
    save_checkpoints,
    with_frame_size,
    with_parts,
)
from modules.cvae import CVAE
from modules.loss_scale import LossScale
from modules.optimizers import WeightAverage, load_optimizer_state, make_optimizer, optimizer_state
from modules.options import TrainerOptions, run_folder, saved_options
from modules.plan import Plan, epoch_plan
from modules.rollouts import StoredRollouts
from modules.runtime import distributed
from modules.runtime.device import choose_precision
from modules.runtime.errors import UserError, why
from modules.runtime.files import remove_leftovers, try_folder
from modules.sequences import VideoData


def take_from_checkpoint(
    o: TrainerOptions, explicit: frozenset[str]
) -> tuple[TrainerOptions, Checkpoint | None]:
    """Options that a checkpoint decides: all of them for --resume, the model's for --ckpt_path."""
    if o.resume:
        return _resumed(o, explicit)
    if o.ckpt_path is None:
        return o, None
    checkpoint = load_checkpoint(Path(o.ckpt_path), o.weights)
    print(checkpoint.says(), flush=True)
    checkpoint.check_finite()
    if not checkpoint.has_frame_size and "output" in explicit:  # which no tensor tells
        config = dataclasses.replace(checkpoint.config, output=o.output)
        checkpoint = dataclasses.replace(checkpoint, config=config)
    height, width = (getattr(o, n) if n in explicit else None for n in ("frame_H", "frame_W"))
    checkpoint = with_frame_size(checkpoint, height, width)
    if not o.test:  # fine-tuning may add parts
        checkpoint = with_parts(checkpoint, o.prior, o.reference)
    for name, value in checkpoint.config.to_dict().items():
        if name in explicit and getattr(o, name) != value:
            raise UserError(
                f"--{name} {getattr(o, name)}: the weights of {o.ckpt_path} are for "
                f"--{name} {value}; give that, or leave --{name} out"
            )
        setattr(o, name, value)
    if o.DR is None:
        o.DR = checkpoint.data_root
    if o.DR is None:
        raise UserError(f"{o.ckpt_path} does not say where its data set is: give --DR")
    return o, checkpoint


def _resumed(o: TrainerOptions, explicit: frozenset[str]) -> tuple[TrainerOptions, Checkpoint]:
    """The options of the run in --save_root, with those that were typed and may change."""
    root = run_folder(o)
    checkpoint = load_last(root)
    if not checkpoint.training:
        raise UserError(
            f"--resume: {checkpoint.path} is of older code; start from it with --ckpt_path"
        )
    try:
        saved = saved_options(checkpoint.options)
    except (TypeError, UserError) as error:
        raise UserError(f"--resume: {checkpoint.path} is of another version ({error})") from error
    resumable = {entry.name: entry.metadata["resumable"] for entry in dataclasses.fields(saved)}
    changed = [n for n in sorted(explicit) if getattr(o, n) != getattr(saved, n)]
    if refused := [n for n in changed if not resumable[n]]:
        shown = ", ".join(f"--{n} {getattr(saved, n)} → {getattr(o, n)}" for n in refused)
        raise UserError(f"--resume continues a run as it was, but this would change: {shown}")
    typed = {name: getattr(o, name) for name in changed}
    # The data's absolute place, as the run may be continued from another folder.
    fixed = {"DR": checkpoint.data_root, "resume": True, "save_root": str(root)}
    return dataclasses.replace(saved, **{**fixed, **typed}), checkpoint


def prepare_save_root(o: TrainerOptions) -> Path:
    """The run's folder, made and tried before anything costs time. UserError if unusable."""
    root = run_folder(o)
    if not distributed.is_main():
        return root
    try:
        if not (o.resume or o.test):
            if (root / LAST).exists():
                raise UserError(
                    f"--save_root {root} already holds a run: continue it with --resume, "
                    "or give another --save_root"
                )
            if (root / "metrics.csv").exists():
                raise UserError(
                    f"--save_root {root}: metrics.csv is of a run without a checkpoint; "
                    "move it away, or give another --save_root"
                )
        root.mkdir(parents=True, exist_ok=True)
        try_folder(root)
        if not o.test:
            remove_leftovers(root)
    except OSError as error:
        raise UserError(f"--save_root {root}: cannot be written ({why(error, root)})") from error
    return root


@dataclasses.dataclass
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
        self.optimizer = make_optimizer(model, o)
        self.average = WeightAverage(model, o.ema) if o.ema > 0 else None
        self.stored = StoredRollouts(train) if o.rollout_every > 0 else None
        self.detector = schedules.TF_detector(o.detector_patience, o.detector_threshold)
        self.best = Best()
        self.position = Position()
        device = train.frames.device
        self.sums = RunningSums(model.config.latent_shape, device)
        half = choose_precision(o.precision, device) == torch.float16
        self.scale = LossScale(device) if half else None
        self.last_epoch = -1  # the last one that was finished
        # Rows of metrics.csv that could not be written, see metrics_table.py.
        self.unwritten: list[dict[str, Any]] = []
        self.plan: Plan
        self.begin_epoch()

    def begin_epoch(self) -> Plan:
        """What the epoch that the position is in is trained with."""
        self.plan = epoch_plan(self.o, self.position.epoch, self.detector.raised_at)
        return self.plan

    def finish_epoch(self, *, loss: float, psnr: float) -> list[str]:
        """Note an epoch's validation; returns the --auto_save names that it earns."""
        epoch = self.position.epoch
        earned = self.best.update(epoch, loss=loss, psnr=psnr)
        if self.detector.update(epoch, loss, psnr) and distributed.is_main():
            print("validation has plateaued: teacher forcing returns to 1", flush=True)
        self.last_epoch, self.position = epoch, Position(epoch + 1)
        self.sums.start_epoch()
        return earned

    def eval_model(self) -> CVAE:
        """The model that is validated and saved: with averaged weights if --ema says so.

        Its batch-norm statistics are those of its own weights.
        """
        model = self.model if self.average is None else self.average.model
        model.label_transformation.settle()
        return model

    def resume_from(self, checkpoint: Checkpoint) -> None:
        """Continue a run where its checkpoint left it. Raises UserError if the data changed."""
        saved = checkpoint.training
        if saved["data_fingerprint"] != self.data_fingerprint:
            raise UserError(
                f"--resume: the data in {self.o.DR} is not what this run was trained on "
                f"({checkpoint.data_root}, says {checkpoint.path}); --DR names another place"
            )
        if distributed.is_main():
            put_in_place_of_last(checkpoint)
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
        position = saved["position"]
        self.position = Position(position["epoch"], position["step"], position["seconds"])
        self.sums.restore(position["counts"], position["moments"])
        if self.scale is not None and "loss_scale" in saved:
            self.scale.load_state_dict(saved["loss_scale"])
        self.last_epoch = checkpoint.last_epoch
        self.unwritten[:] = saved.get("unwritten", [])

    def save(self, *names: str) -> None:
        """Write last.ckpt, and the same under these names before. Only rank 0 writes.

        In mid-epoch every rank must ask, since the sums of all are saved.
        """
        in_epoch = self.position.step > 0
        posterior = self.sums.read_posterior() if in_epoch else None
        if not distributed.is_main():
            return
        content = self._content(posterior)
        if names:
            save_checkpoints([self.root / name for name in names], content)
        if self.stored is not None:  # as large as the data set: only in the one that is resumed
            content["training"]["rollouts"] = self.stored.frames
        save_checkpoints([self.root / LAST], content)

    def save_at(self, position: Position) -> None:
        """Write last.ckpt in mid-epoch. Every rank must ask."""
        self.position = position
        self.save()

    def _content(self, posterior: torch.Tensor | None) -> dict[str, Any]:
        """What a checkpoint holds: the older code's keys, and what a resumed run needs."""
        training: dict[str, Any] = {
            "position": {
                "epoch": self.position.epoch,
                "step": self.position.step,
                "counts": list(self.sums.read()),
                "seconds": self.position.seconds,
                "moments": posterior,
            },
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
            "options": dataclasses.asdict(self.o),
            "data_root": self.data_root,
            "training": training,
        }
