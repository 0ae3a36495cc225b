"""Train the conditional VAE: from one first frame and a skeleton image per step to a video.

    python Trainer.py --preset demo                 # no data needed, minutes on two cores
    python Trainer.py --DR ROOT --save_root runs/a --auto_save --store_visualization
    python Trainer.py --save_root runs/a --resume   # continue that run
    python Trainer.py --DR ROOT --save_root runs/b --ckpt_path runs/a/best.ckpt --lr 1e-4
    python Trainer.py --test --ckpt_path runs/a/best.ckpt

The run's folder then holds config.json, metrics.csv (a row per epoch), curves.png,
psnr_per_frame.csv and .png of the best validation, and the checkpoints.
"""

import dataclasses
import math
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

import dataloader
from modules import runlog
from modules.auto_size import auto_sized, own_frame_size
from modules.checkpoint import Checkpoint, RunState, prepare_save_root, take_from_checkpoint
from modules.cvae import CVAE, ModelConfig
from modules.data import VideoData, describe_data, fingerprint, largest_batch
from modules.datasets.synthetic import demo_data
from modules.diagnosis import BASELINES
from modules.evaluation import baselines, validate
from modules.figures.records import Records, metrics_row, validation_files
from modules.options import (
    TrainerOptions,
    as_lines,
    model_config,
    parse_trainer,
    resolved,
    run_folder,
    telling_origins,
    without_effect,
)
from modules.runtime import distributed
from modules.runtime.device import choose_device, choose_precision, describe, place, set_up
from modules.runtime.errors import Stopped, UserError
from modules.runtime.files import unlock_folders
from modules.runtime.graphs import GraphedStep, graphs_wanted
from modules.runtime.scripts import run_as_script
from modules.runtime.signals import Watch
from modules.schedules import idle_annealing
from modules.training import Step, TrainingStep, train_epoch

# ---------------------------------------------------------------- options


def all_options() -> tuple[TrainerOptions, frozenset[str], Checkpoint | None]:
    """The options, the names of those that were typed, and the checkpoint that the run starts from.

    Raises UserError for what can be refused before anything costs time.
    """
    distributed.connect()
    with distributed.main_first():
        o, explicit = parse_trainer((__doc__ or "").strip())
        o, checkpoint = take_from_checkpoint(o, explicit)
        with telling_origins(o, explicit, checkpoint):
            dataloader.refuse_inside(Path(o.DR or ""), run_folder(o))
            model_config(o).check()
            distributed.check_batch(o.batch_size)
    return o, explicit, checkpoint


# ---------------------------------------------------------------- data


def load_data(o: TrainerOptions, explicit: frozenset[str]) -> tuple[VideoData | None, VideoData]:
    """The training data (None for --test) and the validation video; faults are a UserError."""
    root, size = Path(o.DR or ""), {"height": o.frame_H, "width": o.frame_W}
    wanted = o.preset == "demo" and "DR" not in explicit and not (o.resume or o.test)
    with demo_data(root, keep=not o.dry_run, **size) if wanted else nullcontext(root) as root:
        train, video = dataloader.load_train_val(
            root,
            **size,
            train_vi_len=o.train_vi_len,
            val_vi_len=o.val_vi_len,
            partial=o.partial,
            workers=o.num_workers,
            progress=distributed.is_main(),
            need_train=not o.test,
        )
    if train is not None:
        print(describe_data(train, video), flush=True)
    return train, video


# ---------------------------------------------------------------- model


def make_model(
    config: ModelConfig, checkpoint: Checkpoint | None, o: TrainerOptions, device: torch.device
) -> CVAE:
    """The model on its device, with the checkpoint's weights or freshly initialised."""
    torch.manual_seed(o.seed)  # of the initial weights; every later draw has a seed of its own
    model = checkpoint.build_model() if checkpoint else CVAE(config)
    if o.optim == "Muon" and not checkpoint:
        model.copy_previous_frame()
    count = sum(p.numel() for p in model.parameters())
    precision = choose_precision(o.precision, device)
    print(f"model: {count:,} parameters on {describe(device, precision)}", flush=True)
    return place(model, device)


# ---------------------------------------------------------------- run: validation


def validation_settings(o: TrainerOptions, device: torch.device) -> dict[str, Any]:
    """Of a validation, the same in training and with --test."""
    precision = choose_precision(o.precision, device)
    return {"seed": o.seed, "device": device, "precision": precision}


def run_test(
    o: TrainerOptions, root: Path, model: CVAE, video: VideoData, device: torch.device
) -> None:
    """--test: validate the checkpoint's weights."""
    result, made = validate(model, video, **validation_settings(o, device))
    if not torch.isfinite(made).all():
        raise UserError(f"{o.ckpt_path}: its weights produce non-finite frames")
    files = validation_files(root, result, video, made, visualize=o.store_visualization)
    for write in files.values():
        write()
    print(
        f"validation PSNR {result.mean_psnr:.4f} dB, SSIM {result.mean_ssim:.4f}, "
        f"loss {result.loss:.6f}: {root}\n{result.details()}"
    )


# ---------------------------------------------------------------- run: training


def start_run(
    state: RunState,
    checkpoint: Checkpoint | None,
    config: dict[str, Any],
    records: Records | None,
) -> bool:
    """Resume the run or note where its weights come from, and write config.json.

    False if there is nothing left to train.
    """
    o, root = state.o, state.root
    if o.resume and checkpoint:
        state.resume_from(checkpoint)
        epoch, steps = state.position.epoch, state.position.step
        if epoch >= o.num_epoch:
            if records:
                records.resume_table()
                records.pending |= records.curves()  # it may have been stopped just before
                records.finish()
            print(f"nothing to do: all {o.num_epoch} epochs are done; raise --num_epoch for more")
            return False
        print(f"resuming in epoch {epoch}" + f" after {steps} steps" * (steps > 0), flush=True)
        earlier = runlog.read_config(root)
        config["parent"] = earlier.get("parent")
        config["resumed_at"] = [*earlier.get("resumed_at", []), epoch]
        if records:
            records.resume_table()
    elif checkpoint:
        path = checkpoint.path.resolve()
        config["parent"] = {
            "ckpt_path": str(path),
            "run": str(path.parent),
            "epoch": checkpoint.last_epoch,
        }
    if records:
        records.begin(config)
    return True


def run_epoch(
    state: RunState,
    train: VideoData,
    step: Step,
    video: VideoData,
    watch: Watch,
    records: Records | None,
) -> None:
    """Train, validate, log, draw and save one epoch, from the state's position on."""
    o = state.o
    state.begin_epoch()
    trained = train_epoch(state, train, step, watch)
    train_seconds, trained_at = state.position.seconds, time.perf_counter()

    result, stopped = None, 0.0
    if records:
        try:
            settings = validation_settings(o, train.frames.device)
            result, made = validate(state.eval_model(), video, **settings, watch=watch)
        except Stopped as asked:
            stopped = asked.signal_number
    seen = (stopped, result.loss, result.mean_psnr) if result else (stopped, math.nan, math.nan)
    stopped, val_loss, val_psnr = distributed.from_main(*seen)
    if stopped:
        state.save()
        distributed.stop(int(stopped))

    names = state.finish_epoch(loss=val_loss, psnr=val_psnr)
    if not records:
        return
    assert result is not None
    row = metrics_row(state, trained, result, train_seconds)
    row["seconds"] = train_seconds + time.perf_counter() - trained_at
    # The row first: a resumed run drops rows after its checkpoint's epoch, but could not make
    # up a missing one.
    records.add(row, result, video, made)
    state.save(*names)
    print(runlog.epoch_line(row, o.num_epoch, state.best.epoch == row["epoch"]), flush=True)
    if state.position.epoch < o.num_epoch:  # at the end all is drawn and all warnings are printed
        records.draw()
        records.warn(latest=True)


def run_training(
    o: TrainerOptions,
    root: Path,
    model: CVAE,
    train: VideoData,
    video: VideoData,
    device: torch.device,
    checkpoint: Checkpoint | None,
) -> None:
    """Train to the last epoch, or until a signal asks to stop."""
    known = {"data_root": str(Path(o.DR or "").resolve())}
    without_model = baselines(train, video)
    config: dict[str, Any] = {
        "options": dataclasses.asdict(resolved(o)),
        **known,
        "baselines": without_model,
        "versions": runlog.versions(),
        "device": describe(device, choose_precision(o.precision, device)),
        "processes": distributed.world_size(),
        "parent": None,
        "resumed_at": [],
    }
    known["data_fingerprint"] = fingerprint(train, video)
    train = train.to(device)
    state = RunState(o, root, model, train, **known)
    records = Records(state) if distributed.is_main() else None
    if not start_run(state, checkpoint, config, records):
        return
    step: Step = TrainingStep(state, train)
    if graphs_wanted(device):  # batches of one size, so that two graphs are enough
        step = GraphedStep(step, largest_batch(o, train))

    with Watch(launched=distributed.world_size() > 1).watching() as watch:
        try:
            if not o.resume:
                state.save()  # from here on the run can be resumed, whatever happens
            while state.position.epoch < o.num_epoch:
                run_epoch(state, train, step, video, watch, records)
                watch.saved()
                if asked := distributed.maximum(*watch.requests())[0]:
                    distributed.stop(asked)
        finally:
            if records:
                records.finish()

    if records:
        compared = (f"{name} {without_model[key]:.2f} dB" for key, name in BASELINES.items())
        print(
            f"best validation PSNR {state.best.psnr:.2f} dB (epoch {state.best.epoch}); baselines: "
            f"{', '.join(compared)}\nresults in {root}"
        )
        records.warn()


# ---------------------------------------------------------------- main


def main() -> int:
    """Train, or what the options say. The run's folder is locked meanwhile."""
    try:
        return run()
    finally:
        unlock_folders()


def run() -> int:
    # ------------------------------------------------------------ options
    o, explicit, checkpoint = all_options()

    with distributed.main_first(), telling_origins(o, explicit, checkpoint):
        # -------------------------------------------------------- setup
        device = choose_device(o.device, o.gpu)
        if o.gpu > 1 and distributed.world_size() == 1 and not (o.test or o.dry_run):
            return distributed.launch(o.gpu)
        root = run_folder(o) if o.dry_run else prepare_save_root(o)
        set_up(device, o.precision, o.deterministic)

        # -------------------------------------------------------- data
        o, own_size = own_frame_size(o, explicit, device, dataloader.image_size)
        train, video = load_data(o, explicit)
        if checkpoint and o.test:
            video = dataclasses.replace(video, train_ink=checkpoint.ink_for(video.ink, o.DR))
        elif checkpoint and (other := checkpoint.other_background(video.ink, o.DR)):
            print(f"note: {other}; the model has to adapt to that first", flush=True)

    val, known = len(video.frames), checkpoint is not None
    o, choice = auto_sized(o, explicit, train, device, val=val, given_weights=known)
    notes = [*without_effect(o, explicit), *idle_annealing(o), *own_size, *choice]
    print("\n".join([*as_lines(resolved(o)), *notes]), flush=True)

    # ------------------------------------------------------------ model
    model = make_model(model_config(o), checkpoint, o, device)

    # ------------------------------------------------------------ run
    if o.dry_run:
        print("dry run: options, data and model are valid; nothing was written")
    elif train is None:
        run_test(o, root, model, video, device)
    else:
        run_training(o, root, model, train, video, device, checkpoint)
    distributed.disconnect()
    return 0


def start() -> None:
    """What each process of a run does."""
    try:
        run_as_script(main, unread=True)
    except SystemExit as end:
        distributed.exit_with(int(end.code or 0))


if __name__ == "__main__":
    start()
