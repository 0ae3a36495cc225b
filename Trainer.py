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
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

import dataloader
from modules import pictures, plots, runlog, schedules
from modules.checkpoint import (
    Best,
    Checkpoint,
    load_checkpoint,
    save_checkpoints,
    with_frame_size,
)
from modules.cvae import CVAE
from modules.device import choose_device, choose_precision, describe
from modules.errors import UserError, run_as_script
from modules.evaluation import Score, Sequence, generate, score, to_uint8
from modules.options import (
    MAY_CHANGE_ON_RESUME,
    TrainerOptions,
    as_lines,
    fill_in_derived,
    model_config,
    parse_trainer,
    without_effect,
)
from modules.synthetic import demo_matches, make_demo
from modules.tensorboard_log import TensorBoardLog, check_tensorboard
from modules.training import epoch_plan, make_optimizer, train_epoch

# ---------------------------------------------------------------- options


def take_from_checkpoint(
    o: TrainerOptions, explicit: frozenset[str]
) -> tuple[TrainerOptions, Checkpoint | None]:
    """Options that a checkpoint decides: all of them for --resume, the model's for --ckpt_path."""
    if o.resume:
        assert o.save_root is not None
        path = Path(o.save_root) / "last.ckpt"
        if not path.exists():
            raise UserError(
                f"--resume: there is no run to continue in {o.save_root} (no last.ckpt)"
            )
        checkpoint = load_checkpoint(path)
        if not checkpoint.training:
            raise UserError(f"--resume: {path} is of older code; start from it with --ckpt_path")
        try:
            saved = TrainerOptions(**checkpoint.options)
        except TypeError as error:
            raise UserError(f"--resume: {path} is of another version ({error})") from error
        changed = [n for n in sorted(explicit) if getattr(o, n) != getattr(saved, n)]
        refused = [n for n in changed if n not in MAY_CHANGE_ON_RESUME]
        if refused:
            shown = ", ".join(f"--{n} {getattr(saved, n)} → {getattr(o, n)}" for n in refused)
            raise UserError(f"--resume continues a run as it was, but this would change: {shown}")
        typed = {name: getattr(o, name) for name in changed}
        # The data's absolute place, as the run may be continued from another folder.
        fixed = {"DR": checkpoint.data_root, "resume": True, "save_root": o.save_root}
        return dataclasses.replace(saved, **{**fixed, **typed}), checkpoint
    if o.ckpt_path is None:
        return o, None
    checkpoint = load_checkpoint(Path(o.ckpt_path))
    height, width = (getattr(o, n) if n in explicit else None for n in ("frame_H", "frame_W"))
    checkpoint = with_frame_size(checkpoint, height, width)
    for name, value in checkpoint.config.to_dict().items():
        if name in explicit and getattr(o, name) != value:
            raise UserError(f"--{name} {getattr(o, name)}: {o.ckpt_path} has {value}")
        setattr(o, name, value)
    if o.DR is None:
        o.DR = checkpoint.data_root
    return o, checkpoint


# ---------------------------------------------------------------- setup


def prepare_save_root(o: TrainerOptions) -> Path:
    """The run's folder, made and tried before anything costs time. UserError if unusable."""
    assert o.save_root is not None
    root = Path(o.save_root)
    if not (o.resume or o.test):
        if (root / "last.ckpt").exists():
            raise UserError(
                f"--save_root {root} already holds a run: continue it with --resume, "
                "or give another --save_root"
            )
        if (root / "metrics.csv").exists():
            raise UserError(
                f"--save_root {root}: metrics.csv is of a run without a checkpoint; "
                "move it away, or give another --save_root"
            )
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root):
            pass
    except OSError as error:
        raise UserError(f"--save_root {root}: cannot be written ({error.strerror})") from error
    return root


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
    model: CVAE, video: dataloader.VideoData, o: TrainerOptions, device: torch.device
) -> tuple[Score, torch.Tensor]:
    """Free-running prediction of the validation video with prior latents, and its score.

    The true frames after the first are used for scoring alone. Returns the score and the
    prediction, (T, 3, H, W) in [0, 1] (or not finite).
    """
    sequence = Sequence(video.frames[0], video.labels)
    precision = choose_precision(o.precision, device)
    bar = tqdm(total=len(video.labels) - 1, desc="validation", leave=False, disable=None)
    with bar:
        made = generate(
            model, [sequence], seed=o.seed, device=device, precision=precision, advance=bar.update
        )
    return score(made[0], video.frames), made[0]


def write_validation(
    root: Path, o: TrainerOptions, result: Score, video: dataloader.VideoData, made: torch.Tensor
) -> None:
    """psnr_per_frame.csv and .png, and with --store_visualization val.gif and val_sheet.png."""
    runlog.write_psnr_per_frame(root / "psnr_per_frame.csv", result.psnr)
    images: dict[str, Any] = {}
    if torch.isfinite(made).all():  # what is not finite is no picture
        images = {"labels": video.labels.numpy(), "truth": video.frames.numpy()}
        images["prediction"] = to_uint8(made).numpy()
    pictures.draw_psnr_per_frame(
        root / "psnr_per_frame.png", result.psnr, title_prefix="Validation", **images
    )
    if o.store_visualization and images:
        pictures.write_comparison_gif(root / "val.gif", **images)
        pictures.write_sheet(root / "val_sheet.png", **images, psnr=result.psnr)


def run(
    o: TrainerOptions,
    root: Path,
    model: CVAE,
    train: dataloader.VideoData,
    video: dataloader.VideoData,
    device: torch.device,
    checkpoint: Checkpoint | None,
) -> None:
    """Train to the last epoch: train, validate, log, save and draw, epoch by epoch."""
    optimizer = make_optimizer(model, o)
    detector = schedules.TF_detector(o.detector_patience, o.detector_threshold)
    best, first_epoch, skipped_in_a_row = Best(), 0, 0
    fingerprint = dataloader.fingerprint(train, video)
    baselines = dataloader.baselines(train, video)
    config: dict[str, Any] = {
        "options": dataclasses.asdict(o),
        "data_root": str(Path(o.DR or "").resolve()),
        "baselines": baselines,
        "versions": runlog.versions(),
        "device": describe(device, choose_precision(o.precision, device)),
        "parent": None,
        "resumed_at": [],
    }
    if o.resume and checkpoint:
        state = checkpoint.training
        if state["data_fingerprint"] != fingerprint:
            raise UserError(f"--resume: the data in {o.DR} is not what this run was trained on")
        optimizer.load_state_dict(checkpoint.optimizer)
        detector.load_state_dict(state["detector"])
        best, skipped_in_a_row = Best(**state["best"]), state["skipped_in_a_row"]
        first_epoch = checkpoint.last_epoch + 1
        if first_epoch >= o.num_epoch:
            print(f"nothing to do: all {o.num_epoch} epochs are done; --num_epoch prolongs the run")
            return
        earlier = runlog.read_config(root)
        config["parent"] = earlier.get("parent")
        config["resumed_at"] = [*earlier.get("resumed_at", []), first_epoch]
        runlog.truncate_metrics(root / "metrics.csv", checkpoint.last_epoch)
        print(f"resuming after epoch {checkpoint.last_epoch}")
    elif checkpoint:
        config["parent"] = {
            "ckpt_path": str(checkpoint.path.resolve()),
            "run": str(checkpoint.path.resolve().parent),
            "epoch": checkpoint.last_epoch,
        }
    runlog.write_config(root / "config.json", config)
    board = TensorBoardLog(root, o)
    train = dataclasses.replace(
        train, frames=train.frames.to(device), labels=train.labels.to(device)
    )

    for epoch in range(first_epoch, o.num_epoch):
        began = time.perf_counter()
        plan = epoch_plan(o, epoch, detector.raised_at)
        trained = train_epoch(model, optimizer, train, o, epoch, plan, skipped_in_a_row)
        skipped_in_a_row = trained.skipped_in_a_row
        result, made = validate(model, video, o, device)
        earned = best.update(epoch, result)
        if detector.update(epoch, result.loss, result.mean_psnr):
            print("validation has come to rest: teacher forcing returns to 1")
        write_validation(root, o, result, video, made)
        row = {
            "epoch": epoch,
            "train_loss": trained.loss,
            "train_mse": trained.mse,
            "train_kl": trained.kl,
            "train_psnr": trained.psnr,
            "val_loss": result.loss,
            "val_psnr": result.mean_psnr,
            "beta": plan.beta,
            "tfr": plan.tfr,
            "tf_active": int(plan.teacher_forcing),
            "lr": plan.lr,
            "skipped": trained.skipped,
            "frames_per_second": trained.frames_per_second,
            "seconds": time.perf_counter() - began,
        }
        # The row first: a resumed run drops rows after its checkpoint's epoch, but could not make
        # up a missing one.
        runlog.append_metrics(root / "metrics.csv", row)
        board.add(row)
        names = earned if o.auto_save else [f"epoch={epoch}.ckpt"] * (epoch % o.per_save == 0)
        content = {
            "state_dict": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "lr": plan.lr,
            "tfr": plan.tfr,
            "last_epoch": epoch,
            "config": model.config.to_dict(),
            "options": dataclasses.asdict(o),
            "data_root": config["data_root"],
            "training": {
                "detector": detector.state_dict(),
                "best": vars(best),
                "skipped_in_a_row": skipped_in_a_row,
                "data_fingerprint": fingerprint,
            },
        }
        save_checkpoints([root / name for name in [*names, "last.ckpt"]], content)
        plots.draw_curves(root)
        print(runlog.epoch_line(row, o.num_epoch, best.epoch == epoch), flush=True)

    print(
        f"best validation PSNR {best.psnr:.2f} dB (epoch {best.epoch}); without a model: repeating "
        f"the first frame {baselines['first_frame']:.2f} dB, the mean training frame "
        f"{baselines['mean_train_frame']:.2f} dB\nresults in {root}"
    )


def main() -> None:
    description = (__doc__ or "").strip()
    o, explicit = parse_trainer(description)
    o, checkpoint = take_from_checkpoint(o, explicit)
    if o.test and o.save_root is None:
        o.save_root = str(Path(o.ckpt_path or "").parent / "validation")
    fill_in_derived(o)
    check_tensorboard(o)
    if o.DR is None:
        raise UserError(f"{o.ckpt_path} does not say where its data set is: give --DR")
    device = choose_device(o.device, o.gpu)
    config = model_config(o)
    config.check()
    root = Path(o.save_root or ".") if o.dry_run else prepare_save_root(o)
    print("\n".join([*as_lines(o), *without_effect(o, explicit)]), flush=True)

    # ------------------------------------------------------------ data
    with demo_data(o, explicit):
        train, video = dataloader.load_train_val(
            Path(o.DR),
            height=o.frame_H,
            width=o.frame_W,
            train_vi_len=o.train_vi_len,
            val_vi_len=o.val_vi_len,
            partial=o.partial,
            workers=o.num_workers,
            progress=True,
            need_train=not o.test,
        )
    if train is not None:
        print(dataloader.summary(train, video), flush=True)

    # ------------------------------------------------------------ model
    torch.manual_seed(o.seed)  # of the initial weights; every later draw has a seed of its own
    model = checkpoint.build_model() if checkpoint else CVAE(config)
    model = model.to(device).to(memory_format=torch.channels_last)
    count = sum(p.numel() for p in model.parameters())
    precision = choose_precision(o.precision, device)
    print(f"model: {count:,} parameters on {describe(device, precision)}", flush=True)
    if o.dry_run:
        print("dry run: options, data and model are sound; nothing was written")
        return
    if o.test or train is None:
        result, made = validate(model, video, o, device)
        write_validation(root, o, result, video, made)
        print(f"validation PSNR {result.mean_psnr:.4f} dB, loss {result.loss:.6f}: {root}")
        return
    run(o, root, model, train, video, device, checkpoint)


if __name__ == "__main__":
    run_as_script(main)
