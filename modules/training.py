"""Training: the step, read from top to bottom in TrainingStep, and an epoch of steps.

A batch goes one way: its clips (data.py), the forward pass (cvae.py), the loss (losses.py), the
guarded update (optim.py), the running sums. What is not the method wraps the step from outside:
draw_shard() takes a rank's part of a batch, GraphedStep (runtime/graphs.py) makes it a CUDA graph.
Shapes: T time, B batch, N, H, W channels, height and width of the latent.
"""

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from tqdm import tqdm

from modules.checkpoint import Position, RunState
from modules.data import Draws, VideoData, draw, epoch_batches, load_clips
from modules.losses import (
    MAX_SKIPPED_STEPS,
    EpochAverages,
    frame_mse,
    loss_terms,
    psnr_of_mse,
)
from modules.optim import GuardedUpdate, set_learning_rate
from modules.options import TrainerOptions
from modules.runtime import distributed
from modules.runtime.device import autocast, choose_precision
from modules.runtime.errors import UserError
from modules.runtime.signals import Watch
from modules.schedules import WARM_UP, Plan, step_lr

# Steps from one look at a GPU's sums to the next: each look waits for it.
LOOK_EVERY = 32

# ---------------------------------------------------------------- one step


class Shard(NamedTuple):
    """A rank's part of a step: every world-th clip of the batch, and what the step differs by."""

    starts: Tensor  # (B,) int64, the frame numbers that its clips start at
    draws: Draws
    weights: Tensor  # (B,) float32: 1, or 0 for a clip that only fills a place
    batch: Tensor  # scalar float32: clips of the whole batch
    beta: Tensor  # scalar float32

    def tensors(self) -> list[Tensor]:
        """All that a step differs by from another of the same size."""
        return [self.starts, self.weights, self.batch, self.beta, *self.draws.tensors()]

    def replaced(self, tensors: Sequence[Tensor]) -> "Shard":
        """With other tensors in the place of tensors()."""
        starts, weights, batch, beta, *drawn = tensors
        return Shard(starts, self.draws.replaced(drawn), weights, batch, beta)


class TrainingStep:
    """One optimiser step on a batch of clips, without a wait for the device.

    No decision of the host depends on a value on the device, so that it can be a CUDA graph.
    """

    clips = 0  # that each batch is filled up to; 0: none is

    def __init__(self, state: RunState, data: VideoData) -> None:
        """state: whose model, optimiser and sums each step changes; data: on the device."""
        self.o, self.data, self.stored, self.sums = state.o, data, state.stored, state.sums
        self.device = data.frames.device
        self.precision = choose_precision(self.o.precision, self.device)
        self.model = state.model
        distributed.share_weights(self.model)
        self.update = GuardedUpdate(
            *(state.model, state.optimizer, state.average),
            max_norm=self.o.grad_clip,
            scale=state.scale,
        )

    def __call__(self, part: Shard, *, teacher_forcing: bool) -> None:
        o = self.o
        clips = load_clips(
            self.data,
            None if self.stored is None else self.stored.frames,
            part.starts,
            part.draws,
            length=o.train_vi_len,
            teacher_forcing=teacher_forcing,
            augmentations=o.augment,
            jump=o.jump,
        )
        with autocast(self.device, self.precision):
            out = self.model(
                clips.frames,
                clips.labels,
                part.draws.latent,
                clips.previous,
                sequential=clips.sequential,
                recompute=o.recompute,
                reference=clips.reference,
            )
        target = clips.frames[1:]  # (T-1, B, 3, H, W)
        terms = loss_terms(
            out.mse,
            out.kl,
            psnr_of_mse(frame_mse(out.prediction.detach().clamp(0, 1), target)),
            beta=part.beta,
            batch=part.batch,
            weights=part.weights,
        )
        # Of all ranks.
        totals = distributed.sum_over_ranks(torch.stack(terms).detach().to(self.sums.sums.dtype))
        outcome = self.update(terms.loss, totals[0])
        # (T-1, B, N, H, W)
        mu = part.weights[:, None, None, None] * out.mu.detach().to(totals.dtype)
        self.sums.add(
            *(totals, mu, outcome.finite, self.update.enabled, part.batch), outcome.overflowed
        )

    def disabled(self) -> AbstractContextManager[None]:
        """While inside, steps change nothing."""
        return self.update.disabled()


def draw_shard(
    o: TrainerOptions,
    plan: Plan,
    starts: Tensor,
    *,
    latent: tuple[int, int, int],
    epoch: int,
    number: int,
    clips: int = 0,
) -> Shard:
    """What step `number` of an epoch is made of, on this rank: a function of (seed, epoch, number).

    starts: (B,) int64 frame numbers, of all ranks' clips
    latent: (N, H, W)
    clips:  to fill the batch up to, so that all steps have one size; 0: as many as there are
    """
    rank, world = distributed.rank(), distributed.world_size()
    batch, device = len(starts), starts.device
    kind = {"epoch": epoch, "number": number, "batch": batch}
    draws = draw(o, torch.Generator(device=device), tfr=plan.tfr, latent=latent, **kind)
    weights = torch.ones(max(batch, clips), device=device)
    if clips > batch:
        weights[batch:] = 0.0
        index = torch.arange(clips, device=device).clamp(max=batch - 1)
        starts, draws = starts[index], draws.select(index)
    scalars = torch.tensor([float(batch), plan.beta]).to(device, non_blocking=True).unbind()
    if world == 1:
        return Shard(starts, draws, weights, *scalars)
    if rank >= len(starts):  # some clip to go through the networks with
        only = slice(0, 1)
        return Shard(starts[only], draws.select(only), torch.zeros_like(weights[only]), *scalars)
    own = slice(rank, None, world)
    return Shard(starts[own], draws.select(own), weights[own], *scalars)


# ---------------------------------------------------------------- one epoch


class Step(Protocol):
    """A TrainingStep, or one wrapped as CUDA graphs."""

    clips: int

    def __call__(self, part: Shard, *, teacher_forcing: bool) -> None: ...


def train_epoch(state: RunState, data: VideoData, step: Step, watch: Watch) -> EpochAverages:
    """The steps of an epoch from the state's position on; moves the position to the epoch's end.

    Saves in mid-epoch when the watch asks for it. Raises Stopped after a step (and a save) when the
    run was asked to stop, UserError when MAX_SKIPPED_STEPS in a row were not finite.
    """
    o, plan, epoch, device = state.o, state.plan, state.position.epoch, data.frames.device
    batches, done = epoch_batches(o, data, epoch), state.position.step
    # Only the first steps of a run are warmed up, and an epoch has at least one.
    earlier = (
        sum(len(epoch_batches(o, data, e)) for e in range(epoch)) if epoch < WARM_UP else WARM_UP
    )
    state.model.train()
    started = time.perf_counter() - state.position.seconds
    if state.stored is not None and done == 0 and epoch > 0 and epoch % o.rollout_every == 0:
        state.stored.refresh(
            state.eval_model(),
            seed=o.seed,
            epoch=epoch,
            precision=choose_precision(o.precision, device),
            watch=watch,
            whole=epoch == o.rollout_every,
        )
    bar = tqdm(
        range(done, len(batches)),
        desc=f"epoch {epoch}",
        initial=done,
        total=len(batches),
        leave=False,
        disable=None if distributed.is_main() else True,
    )
    for number in bar:
        set_learning_rate(state.optimizer, step_lr(o, epoch, number, len(batches), earlier))
        kind = {"epoch": epoch, "number": number, "clips": step.clips}
        latent = state.model.config.latent_shape
        part = draw_shard(o, plan, batches[number], latent=latent, **kind)
        step(part, teacher_forcing=plan.teacher_forcing)
        # On a CPU a look costs nothing. A GPU is waited for seldom: often enough that the steps
        # in its queue are few when the run is asked to stop.
        last = number + 1 == len(batches)
        if device.type == "cpu" or number % LOOK_EVERY == 0 or last:
            in_a_row = state.sums.read().skipped_in_a_row
            if in_a_row >= MAX_SKIPPED_STEPS:
                raise UserError(
                    f"epoch {epoch}: {in_a_row:.0f} training steps in a row gave a loss or "
                    "gradient that is not finite; the run has diverged. Checkpoints of earlier "
                    "epochs are intact; try a lower --lr, a lower --kl_beta or --precision float32"
                )
        asked, save_due = distributed.maximum(*watch.requests())
        if asked or save_due:
            state.position = Position(epoch, number + 1, time.perf_counter() - started)
            state.save()
            watch.saved()
        if asked:
            distributed.stop(asked)
    averages = state.sums.averages(steps=o.train_vi_len - 1)  # waits for the device
    state.position = Position(epoch, len(batches), time.perf_counter() - started)
    return averages
