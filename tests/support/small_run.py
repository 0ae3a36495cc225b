"""A run of a few steps on random frames, without files; and what comes in between two steps."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from modules.checkpoint import RunState
from modules.cvae import CVAE
from modules.data import Previous, Recording, VideoData
from modules.losses import EpochAverages
from modules.options import TrainerOptions, model_config, parse_trainer
from modules.runtime.signals import Watch
from modules.schedules import Plan
from modules.training import Shard, Step, TrainingStep, draw_shard, train_epoch

OPTIONS = (
    "--DR d --F_dim 8 --L_dim 4 --N_dim 4 --D_out_dim 8 --frame_H 8 --frame_W 8 --train_vi_len 4 "
    "--batch_size 2 --precision float32"
)
LATENT = (4, 8, 8)
FORCED = Plan(0.01, 0.5, True, 1e-3)


def options_of(typed: str = "") -> TrainerOptions:
    """OPTIONS, and what is typed besides."""
    return parse_trainer("", [*OPTIONS.split(), *typed.split()])[0]


def random_data(*recordings: Recording) -> VideoData:
    """22 frames of 8 x 8 pixels."""
    g = torch.Generator().manual_seed(0)
    frames, labels = torch.randint(0, 256, (2, 22, 8, 8, 3), generator=g, dtype=torch.uint8)
    return VideoData(frames, labels, recordings or (Recording(0, 22),))


def starts_of(frames: torch.Tensor, *, teacher_forcing: bool) -> Previous:
    """Of clips (T, B, 3, H, W): teacher forcing in every step, or free running from frame 0."""
    given = torch.full(frames[:-1].shape[:2], teacher_forcing, device=frames.device)
    return Previous(frames[:-1], given)


def new_run(typed: str = "", root: Path = Path("unused")) -> tuple[RunState, TrainingStep]:
    """Always with the same initial weights."""
    o, data = options_of(typed), random_data()
    torch.manual_seed(0)
    model = CVAE(model_config(o)).train()
    state = RunState(o, root, model, data, data_root="", data_fingerprint="")
    return state, TrainingStep(state, data)


def part_of(
    step: TrainingStep, starts: list[int], *, epoch: int = 0, number: int = 0, clips: int = 0
) -> Shard:
    """A step on clips that start there."""
    kind = {"latent": LATENT, "epoch": epoch, "number": number, "clips": clips}
    return draw_shard(step.o, FORCED, torch.tensor(starts), **kind)


def run_epochs(state: RunState, step: Step, epochs: int = 3) -> list[EpochAverages]:
    """With teacher forcing and without, in turns; each has batches of 2, 2 and 1 clips."""
    found = []
    for _ in range(epochs):
        state.plan = Plan(0.01, 0.5, state.position.epoch % 2 == 0, 1e-3)
        found.append(train_epoch(state, random_data(), step, Watch()))
        state.finish_epoch(loss=1.0, psnr=0.0)
    return found


def at_step(number: int, act: Callable[[], Any]) -> Any:
    """A patch that acts before the number-th training step (from 0) of this process."""
    whole_step, calls = TrainingStep.__call__, iter(range(10**6))

    def step(self: TrainingStep, *arguments: Any, **options: Any) -> None:
        if next(calls) == number:
            act()
        whole_step(self, *arguments, **options)

    return mock.patch.object(TrainingStep, "__call__", step)


def signal_at(step: int, number: signal.Signals = signal.SIGTERM) -> Any:
    """A patch that sends this process a signal there."""
    return at_step(step, lambda: os.kill(os.getpid(), number))
