"""Size of frames and model, length of the run and Muon's rate with --preset best and video.

All follows from the numbers of frames and their size, the kind of device, its precision and the
CPU's cores alone, so the same machine chooses the same, with one process or several. The rate
follows from the size, a typed one too.
"""

import dataclasses
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from modules.cvae import COLOURS, FOLDS
from modules.data import VideoData
from modules.options import AUTO_SIZED, RECIPE, TrainerOptions
from modules.rollouts import STRETCH
from modules.runtime import distributed
from modules.runtime.device import choose_precision


class Size(NamedTuple):
    """Channel counts, as options of these names."""

    F_dim: int
    L_dim: int
    N_dim: int
    D_out_dim: int


# A trained frame of 64 × 32 pixels takes 2.9, 7.2 and 25.3 GFLOP, a sixth more with a reference
# frame. The first has its counts from a processor's vectors: features and latent are 64 channels
# together, and these and the decoder's are halved down to 16 and 8 without a rest, so that it takes
# a tenth more time than (32, 16, 4, 48) for half as much arithmetic again. The second is for four
# times as many cores as the two that the first was measured on. The full one is the course's.
SMALL, MEDIUM, FULL = Size(32, 28, 4, 64), Size(64, 24, 12, 96), Size(128, 32, 12, 192)
MEDIUM_CORES = 8

# What a user waits for, in minutes, and trained frames of 64 × 32 pixels per second: `--preset
# video` on two CPU cores of 2 GHz, with AMX and with AVX-512 alone, and on an H200. ALONE is the
# part of a frame's time that one takes which is made from the one before, at validation and in
# stored rollouts: most of what a short clip takes. The longest data sets need FEWEST epochs; fifty
# frames gain 0.7 dB between 100 epochs and MOST (docs/results.md).
MINUTES = {"cpu": 10, "cpu in float32": 10, "gpu": 20}
SPEED = {"cpu": 42, "cpu in float32": 10, "gpu": 310}
ALONE = 0.4
FEWEST, MOST = 3, 250
PIXELS = 64 * 32
# Pixels of the largest frame that a device trains well in these minutes.
MOST_PIXELS = {"cpu": 128 * 64, "gpu": 256 * 128}
COST_POWER = 1.75  # of the width: the arithmetic of the three sizes

# The presets' rate was found at a D_out_dim of 48. A step of Muon's changes a matrix by a spectral
# norm of rate · √(its larger side), so that the same rate is a larger step for a wider model: at
# full size training diverged in its second epoch. Divided by √width the step stays the same (Yang
# et al. 2023, "A Spectral Condition for Feature Learning").
RATE_WIDTH, RATE_POWER = 48, 0.5


def cpu_cores() -> int:
    """CPU cores that this process may use, on every rank those of rank 0. Not PyTorch's threads:
    torchrun's OMP_NUM_THREADS=1 would choose another model."""
    cores = torch.get_num_interop_threads()  # the machine's cores, whatever OMP_NUM_THREADS says
    # Fewer in a job that a cluster gives a part of a machine; not every system tells.
    if (own := getattr(os, "sched_getaffinity", None)) is not None:
        cores = min(cores, len(own(0)))
    return int(distributed.from_main(cores)[0])


def size_for(device: torch.device, cores: int) -> Size:
    """The model that a device trains in minutes (a CPU), or at all but full size (a GPU)."""
    if device.type != "cpu":
        return FULL
    return MEDIUM if cores >= MEDIUM_CORES else SMALL


def frame_for(height: int, width: int, device: torch.device) -> tuple[int, int]:
    """(height, width) of the frames of a data set, halved until the device trains them well."""
    most = MOST_PIXELS["cpu" if device.type == "cpu" else "gpu"]
    parts = 1
    while height * width > most * parts**2:
        parts *= 2
    if parts == 1:
        return height, width
    block = max(FOLDS)  # so that every fold divides the frame
    smaller = [block * max(1, round(side / parts / block)) for side in (height, width)]
    return smaller[0], smaller[1]


def own_frame_size(
    o: TrainerOptions,
    explicit: frozenset[str],
    device: torch.device,
    size_of: Callable[[Path], tuple[int, int] | None],
) -> tuple[TrainerOptions, list[str]]:
    """The options with the data set's own frame size, or as much of it as the device trains well,
    and a line that says which.

    size_of: (height, width) of the images of the data set in this folder, None if it has none
    Only with a preset that has --reference, and where neither side was typed.
    """
    automatic = o.preset in AUTO_SIZED and o.reference != "none"
    if not automatic or {"frame_H", "frame_W"} & explicit or o.resume or o.ckpt_path:
        return o, []
    if o.DR is None or (own := size_of(Path(o.DR))) is None:
        return o, []
    height, width = own
    chosen = frame_for(height, width, device)
    line = f"note: --preset {o.preset} chose frames of {chosen[1]} x {chosen[0]} pixels"
    if chosen != own:
        line += f" for this device, of the data set's {width} x {height}"
        line += f"; --frame_W {width} --frame_H {height} takes all of them"
    return dataclasses.replace(o, frame_H=chosen[0], frame_W=chosen[1]), [line]


def fold_for(height: int, width: int, channels: float = math.inf) -> int:
    """The fold that leaves a model no more than 64 × 32 pixels to see.

    Less where the frame does not divide by it, or its pixels have more colours than `channels`.
    """
    most = min((n for n in FOLDS if height * width <= PIXELS * n**2), default=max(FOLDS))
    fits = (n for n in FOLDS if height % n == width % n == 0 and min(height, width) >= 4 * n)
    return max(n for n in fits if n <= most and COLOURS * n**2 <= channels)


def folded(size: Size, fold: int) -> Size:
    """The size of a model of this fold: wide enough for all that the previous frame has."""
    colours = COLOURS * fold**2
    return size._replace(F_dim=max(size.F_dim, colours), D_out_dim=max(size.D_out_dim, colours))


def epochs_for(kind: str, frames: float) -> tuple[int, float]:
    """Epochs of so many trained frames, and the minutes that they are expected to take.

    As many as a user waits for, within FEWEST … MOST. kind: of SPEED; frames: in units of 64 × 32
    pixels by a model of the device's own size.
    """
    (speed,) = distributed.from_main(SPEED[kind])
    minutes = frames / speed / 60  # of an epoch
    epochs = min(MOST, max(FEWEST, round(MINUTES[kind] / max(minutes, 1e-9))))
    return epochs, epochs * minutes


def rate_for(D_out_dim: int, rate: float) -> float:
    """Muon's rate for a model of this width: `rate` for RATE_WIDTH and narrower."""
    return rate * min(1.0, RATE_WIDTH / D_out_dim) ** RATE_POWER


def auto_sized(
    o: TrainerOptions,
    explicit: frozenset[str],
    train: VideoData | None,
    device: torch.device,
    *,
    val: int,
    given_weights: bool = False,
) -> tuple[TrainerOptions, list[str]]:
    """The options with what a preset leaves to be chosen, and a line that says what, if anything.

    explicit:      names of the typed options, which stay
    val:           validation frames
    given_weights: the model's size is that of a checkpoint
    A resumed run keeps what was chosen when it started.
    """
    if o.preset not in AUTO_SIZED or o.resume or train is None:
        return o, []
    cores, kind = cpu_cores(), "cpu" if device.type == "cpu" else "gpu"
    if kind == "cpu" and choose_precision(o.precision, device) == torch.float32:
        kind = "cpu in float32"
    usual, pixels, fold = size_for(device, cores), o.frame_H * o.frame_W, o.fold
    chosen: dict[str, Any] = {}
    if not given_weights:
        if o.reference != "none" and "fold" not in explicit:
            typed = [getattr(o, n) for n in ("F_dim", "D_out_dim") if n in explicit]
            fold = fold_for(o.frame_H, o.frame_W, min(typed, default=math.inf))
            chosen |= {"fold": fold} if fold != o.fold else {}
        chosen |= folded(usual, fold)._asdict()
    width = o.D_out_dim if "D_out_dim" in explicit else chosen.get("D_out_dim", o.D_out_dim)
    frames = len(train.frames) * (1 - 1 / o.train_vi_len)
    frames += ALONE * (val + min(STRETCH, len(train.frames)))
    times = pixels / fold**2 / PIXELS * max(1.0, width / usual.D_out_dim) ** COST_POWER
    chosen["num_epoch"], minutes = epochs_for(kind, frames * times)
    chosen = {name: value for name, value in chosen.items() if name not in explicit}
    if o.optim == "Muon" and o.lr == RECIPE["lr"] and "lr" not in explicit:
        rate = float(f"{rate_for(chosen.get('D_out_dim', o.D_out_dim), o.lr):.2g}")
        chosen |= {"lr": rate} if rate != o.lr else {}
    if not chosen:
        return o, []
    shown = "  ".join(f"{name}={value}" for name, value in chosen.items())
    where = kind.replace("gpu", "a GPU").replace("cpu", f"{cores} CPU core{'s' * (cores > 1)}")
    line = f"note: --preset {o.preset} chose {shown} for {len(train.frames):,} training frames"
    line += f" on {where}"
    if "num_epoch" in chosen:
        line += f": {max(1, round(minutes))} minutes or so"
    return dataclasses.replace(o, **chosen), [line]
