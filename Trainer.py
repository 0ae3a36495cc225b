"""Train the conditional VAE: from one first frame and a skeleton image per step to a video.

    python Trainer.py --preset demo                 # no data needed, minutes on two cores
    python Trainer.py --DR ROOT --save_root runs/a --auto_save --store_visualization
    python Trainer.py --save_root runs/a --resume   # continue that run
    python Trainer.py --DR ROOT --save_root runs/b --ckpt_path runs/a/best.ckpt --lr 1e-4
    python Trainer.py --test --ckpt_path runs/a/best.ckpt

The run's folder then holds config.json, metrics.csv (a row per epoch), curves.png,
psnr_per_frame.csv and .png of the latest validation, and the checkpoints.
"""

import dataclasses
import math
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    # The imports below take seconds; Ctrl-C meanwhile ends here, without their traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import torch
from tqdm import tqdm

import dataloader
from modules import runlog, sequences
from modules.checkpoint import Checkpoint
from modules.cvae import CVAE
from modules.datasets.synthetic import demo_matches, make_demo
from modules.evaluation import Given, Score, generate, score
from modules.figures import curves, frames, gifs
from modules.figures.tensorboard import TensorBoardLog, check_tensorboard
from modules.initial import begin_with_copying
from modules.options import (
    TrainerOptions,
    as_lines,
    fill_in_derived,
    model_config,
    parse_trainer,
    without_effect,
)
from modules.runstate import RunState, prepare_save_root, take_from_checkpoint
from modules.runtime import distributed, launch
from modules.runtime.device import choose_device, choose_precision, describe, set_up
from modules.runtime.errors import Stopped, UserError
from modules.runtime.scripts import run_as_script
from modules.runtime.stopping import Watch
from modules.sequences import VideoData, to_uint8
from modules.training import TrainingStep, decoder_sigma, train_epoch

# ---------------------------------------------------------------- setup


@contextmanager
def demo_data(o: TrainerOptions, explicit: frozenset[str]) -> Iterator[None]:
    """Make the data set of --preset demo if it is not there yet (for a dry run, only meanwhile)."""
    if o.preset != "demo" or "DR" in explicit or o.resume or o.test:
        yield
        return
    assert o.DR is not None
    size = {"height": o.frame_H, "width": o.frame_W}
    if demo_matches(Path(o.DR), **size):
        yield
    elif Path(o.DR).exists():
        raise UserError(
            f"{o.DR} is not the demo's data of {o.frame_W} x {o.frame_H} pixels: "
            "move it away, or name data with --DR"
        )
    elif o.dry_run:
        with tempfile.TemporaryDirectory() as folder:
            o.DR = str(Path(folder) / "demo_data")
            make_demo(Path(o.DR), **size)
            yield
    else:
        print(f"writing the demo's data set to {o.DR}", flush=True)
        make_demo(Path(o.DR), **size)
        yield


# ---------------------------------------------------------------- run


def validate(
    model: CVAE,
    video: VideoData,
    o: TrainerOptions,
    device: torch.device,
    watch: Watch | None = None,
) -> tuple[Score, torch.Tensor]:
    """Free-running prediction of the validation video with prior latents, and its score.

    The true frames after the first are used for scoring alone. Returns the score and the
    prediction, (T, 3, H, W) in [0, 1] (or not finite). Raises Stopped if the watch says so.
    """
    sequence = Given(video.frames[0], video.labels)
    precision = choose_precision(o.precision, device)
    with tqdm(total=len(video.labels) - 1, desc="validation", leave=False, disable=None) as bar:

        def advance(frames: int) -> None:
            bar.update(frames)
            if watch is not None:
                watch.raise_if_asked()

        made = generate(
            model,
            [sequence],
            seed=o.seed,
            device=device,
            precision=precision,
            graph=not o.no_graph,
            advance=advance,
        )
    return score(made[0], video.frames), made[0]


def write_validation(
    root: Path, o: TrainerOptions, result: Score, video: VideoData, made: torch.Tensor
) -> None:
    """psnr_per_frame.csv and .png, and with --store_visualization val.gif and val_sheet.png."""
    runlog.write_psnr_per_frame(root / "psnr_per_frame.csv", result.psnr)
    images: dict[str, Any] = {}
    if torch.isfinite(made).all():
        images = {
            "labels": video.labels.numpy(),
            "truth": video.frames.numpy(),
            "prediction": to_uint8(made).numpy(),
        }
    frames.draw_psnr_per_frame(
        root / "psnr_per_frame.png", result.psnr, title_prefix="Validation", **images
    )
    if o.store_visualization and images:
        gifs.write_comparison_gif(root / "val.gif", **images)
        frames.write_sheet(root / "val_sheet.png", **images, psnr=result.psnr)


def run_epoch(
    state: RunState,
    step: TrainingStep,
    video: VideoData,
    watch: Watch,
    board: TensorBoardLog | None,
) -> None:
    """Train, validate, log, save and draw one epoch, from the state's position on."""
    o, root = state.o, state.root
    plan = state.begin_epoch()
    trained, end = train_epoch(step, state.position, plan, watch, state.save_at)
    trained_at = time.perf_counter()

    result, stopped = None, 0.0
    if distributed.is_main():
        try:
            result, made = validate(state.shown(), video, o, step.device, watch)
            write_validation(root, o, result, video, made)
        except Stopped as stop:
            stopped = stop.signal_number
    seen = (stopped, result.loss, result.mean_psnr) if result else (stopped, math.nan, math.nan)
    stopped, val_loss, val_psnr = distributed.from_main(*seen)
    if stopped:
        state.save_at(end)
        raise Stopped(int(stopped))

    earned = state.finish_epoch(end, loss=val_loss, psnr=val_psnr)
    if not distributed.is_main():
        return
    row = {
        "epoch": end.epoch,
        "train_loss": trained.loss,
        "train_mse": trained.mse,
        "train_kl": trained.kl,
        "train_psnr": trained.psnr,
        "val_loss": val_loss,
        "val_psnr": val_psnr,
        "beta": plan.beta,
        "tfr": plan.tfr,
        "tf_active": int(plan.teacher_forcing),
        "lr": plan.lr,
        "skipped": trained.skipped,
        "frames_per_second": trained.frames_per_second,
        "seconds": end.seconds + time.perf_counter() - trained_at,
        "val_ssim": result.mean_ssim if result else math.nan,
        "active_dims": trained.active_dims,
        "sigma": decoder_sigma(o, trained.mse, plan.beta),
    }
    # The row first: a resumed run drops rows after its checkpoint's epoch, but could not make
    # up a missing one.
    runlog.append_metrics(root / "metrics.csv", row)
    if board:
        board.add(row)
    every = [f"epoch={end.epoch}.ckpt"] if end.epoch % o.per_save == 0 else []
    state.save(*(earned if o.auto_save else every))
    curves.draw_curves(root)
    print(runlog.epoch_line(row, o.num_epoch, state.best.epoch == end.epoch), flush=True)


def run(
    o: TrainerOptions,
    root: Path,
    model: CVAE,
    train: VideoData,
    video: VideoData,
    device: torch.device,
    checkpoint: Checkpoint | None,
) -> None:
    """Train to the last epoch, or until a signal asks to stop."""
    data_root = str(Path(o.DR or "").resolve())
    fingerprint = sequences.fingerprint(train, video)
    baselines = sequences.baselines(train, video)
    train = dataclasses.replace(
        train, frames=train.frames.to(device), labels=train.labels.to(device)
    )
    state = RunState(o, root, model, train, data_root=data_root, data_fingerprint=fingerprint)
    config: dict[str, Any] = {
        "options": dataclasses.asdict(o),
        "data_root": data_root,
        "baselines": baselines,
        "versions": runlog.versions(),
        "device": describe(device, choose_precision(o.precision, device)),
        "processes": distributed.world_size(),
        "parent": None,
        "resumed_at": [],
    }
    if o.resume and checkpoint:
        state.resume_from(checkpoint)
        epoch, steps = state.position.epoch, state.position.step
        if epoch >= o.num_epoch:
            if distributed.is_main():
                curves.draw_curves(root)  # it may have been stopped just before
            print(f"nothing to do: all {o.num_epoch} epochs are done; --num_epoch prolongs the run")
            return
        print(f"resuming in epoch {epoch}" + f" after {steps} steps" * (steps > 0), flush=True)
        earlier = runlog.read_config(root)
        config["parent"] = earlier.get("parent")
        config["resumed_at"] = [*earlier.get("resumed_at", []), epoch]
        if distributed.is_main():
            runlog.truncate_metrics(root / "metrics.csv", state.last_epoch)
    elif checkpoint:
        config["parent"] = {
            "ckpt_path": str(checkpoint.path.resolve()),
            "run": str(checkpoint.path.resolve().parent),
            "epoch": checkpoint.last_epoch,
        }
    if distributed.is_main():
        runlog.write_config(root / "config.json", config)
    board = TensorBoardLog(root, o) if o.tensorboard and distributed.is_main() else None
    step = TrainingStep(model, state.optimizer, train, o, state.average, state.stored)
    if device.type == "cuda" and step.why_eager:
        print(f"note: training without CUDA graphs ({step.why_eager})", flush=True)

    with Watch(o.save_minutes).watching() as watch:
        if not o.resume:
            state.save()  # from here on the run can be resumed, whatever happens
        while state.position.epoch < o.num_epoch:
            run_epoch(state, step, video, watch, board)
            watch.saved()
            if asked := watch.after_step()[0]:
                raise Stopped(asked)

    if distributed.is_main():
        print(
            f"best validation PSNR {state.best.psnr:.2f} dB (epoch {state.best.epoch}); without a "
            f"model: repeating the first frame {baselines['first_frame']:.2f} dB, the mean "
            f"training frame {baselines['mean_train_frame']:.2f} dB\nresults in {root}"
        )


def load_data(o: TrainerOptions, explicit: frozenset[str]) -> tuple[VideoData | None, VideoData]:
    """The training data (None for --test) and the validation video; faults are a UserError."""
    assert o.DR is not None
    with demo_data(o, explicit):
        train, video = dataloader.load_train_val(
            Path(o.DR),
            height=o.frame_H,
            width=o.frame_W,
            train_vi_len=o.train_vi_len,
            val_vi_len=o.val_vi_len,
            partial=o.partial,
            workers=o.num_workers,
            progress=distributed.is_main(),
            need_train=not o.test,
        )
    if train is not None:
        print(sequences.summary(train, video), flush=True)
    return train, video


def main() -> int:
    # ------------------------------------------------------------ options
    o, explicit = parse_trainer((__doc__ or "").strip())
    launch.connect()
    with launch.main_first():
        o, checkpoint = take_from_checkpoint(o, explicit)
        fill_in_derived(o)
        check_tensorboard(o)
        if o.DR is None:
            raise UserError(f"{o.ckpt_path} does not say where its data set is: give --DR")
        dataloader.refuse_inside(Path(o.DR), Path(o.save_root or "."))
        device = choose_device(o.device, o.gpu)
        config = model_config(o)
        config.check()
        launch.check_batch(o.batch_size)
        several = o.gpu > 1 and not (o.test or o.dry_run or launch.launched())
        if several:
            return launch.launch(start, o.gpu)
        root = Path(o.save_root or ".") if o.dry_run else prepare_save_root(o)
        set_up(device, o.precision, o.deterministic)
        print("\n".join([*as_lines(o), *without_effect(o, explicit)]), flush=True)
        train, video = load_data(o, explicit)

    # ------------------------------------------------------------ model
    torch.manual_seed(o.seed)  # of the initial weights; every later draw has a seed of its own
    model = checkpoint.build_model() if checkpoint else CVAE(config)
    if o.init == "copy" and not checkpoint:
        begin_with_copying(model)
    model = model.to(device).to(memory_format=torch.channels_last)
    count = sum(p.numel() for p in model.parameters())
    precision = choose_precision(o.precision, device)
    print(f"model: {count:,} parameters on {describe(device, precision)}", flush=True)

    # ------------------------------------------------------------ run
    if o.dry_run:
        print("dry run: options, data and model are sound; nothing was written")
    elif train is None:
        result, made = validate(model, video, o, device)
        if not torch.isfinite(made).all():
            raise UserError(f"{o.ckpt_path}: its weights give frames that are not finite")
        write_validation(root, o, result, video, made)
        print(
            f"validation PSNR {result.mean_psnr:.4f} dB, SSIM {result.mean_ssim:.4f}, "
            f"loss {result.loss:.6f}: {root}"
        )
    else:
        run(o, root, model, train, video, device, checkpoint)
    launch.disconnect()
    return 0


def start() -> None:
    """What each process of a run does."""
    try:
        run_as_script(main)
    except SystemExit as end:
        launch.exit_with(int(end.code or 0))


if __name__ == "__main__":
    start()
