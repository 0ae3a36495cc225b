"""Training: the step, read from top to bottom in TrainingStep.compute(), and an epoch of steps.

A batch goes one way: its clips (batches.py), the forward pass (cvae.py), the loss (losses.py), the
guarded update (optimizers.py), the running sums (averages.py). Shapes: T time, B batch, H, W.
"""

import time
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from modules.averages import MAX_SKIPPED_STEPS, EpochAverages
from modules.batches import Draws, draw, epoch_batches, load_clips
from modules.fitting import what_fits
from modules.losses import frame_mse, loss_terms, psnr_of_mse
from modules.optimizers import GuardedUpdate, set_learning_rate
from modules.plan import Plan, step_lr
from modules.runstate import Position, RunState
from modules.runtime import distributed
from modules.runtime.device import autocast, choose_precision, free_memory
from modules.runtime.errors import UserError
from modules.runtime.graphs import Graphed, GraphMemory, first_cause, reason
from modules.runtime.signals import Watch
from modules.sequences import VideoData

# Steps from one look at a GPU's sums to the next: each look waits for it.
LOOK_EVERY = 32

# ---------------------------------------------------------------- one step


class Shard(NamedTuple):
    """This rank's part of a step: every world-th clip of the batch."""

    starts: Tensor  # (B,) int64, the frame numbers that its clips start at
    draws: Draws
    weights: Tensor  # (B,) float32: 1, or 0 for a clip that only fills a place
    batch: Tensor  # scalar float32: clips of the whole batch

    def tensors(self) -> list[Tensor]:
        """All that a step differs by from another of the same size."""
        return [self.starts, self.weights, self.batch, *self.draws.tensors()]

    def replaced(self, tensors: Sequence[Tensor]) -> "Shard":
        """With other tensors in the place of tensors()."""
        starts, weights, batch, *drawn = tensors
        return Shard(starts, self.draws.replaced(drawn), weights, batch)

    def first(self, clips: int) -> "Shard":
        """The same with the first clips only, as if the batch had no others."""
        some = slice(0, clips)
        starts, weights = self.starts[some], self.weights[some]
        return Shard(starts, self.draws.of(some), weights, weights.sum())


def shard(starts: Tensor, draws: Draws, clips: int) -> Shard:
    """The part of this rank, of the whole batch's clips and random numbers.

    clips: to fill the batch up to, so that all steps have one size; 0: as many as there are
    """
    rank, world, batch = distributed.rank(), distributed.world_size(), len(starts)
    weights = torch.ones(max(batch, clips), device=starts.device)
    if clips > batch:
        weights[batch:] = 0.0
        index = torch.arange(clips, device=starts.device).clamp(max=batch - 1)
        starts, draws = starts[index], draws.of(index)
    count = torch.full((), float(batch), device=starts.device)
    if world == 1:
        return Shard(starts, draws, weights, count)
    if rank >= len(starts):  # some clip to go through the networks with
        return Shard(starts[:1], draws.of(slice(0, 1)), torch.zeros_like(weights[:1]), count)
    own = slice(rank, None, world)
    return Shard(starts[own], draws.of(own), weights[own], count)


class TrainingStep:
    """One optimiser step on a batch of clips, without a wait for the device.

    shard() takes this rank's part, dispatch() runs it as a CUDA graph or eagerly, compute() is the
    step itself. A graph is captured with teacher forcing and one without; a last batch that is
    smaller is filled up.
    """

    def __init__(self, state: RunState, data: VideoData) -> None:
        """state: whose model, optimiser and sums each step changes; data: on the device."""
        self.o, self.model, self.data, self.sums = state.o, state.model, data, state.sums
        self.optimizer, self.stored = state.optimizer, state.stored
        self.device = data.frames.device
        self.precision = choose_precision(self.o.precision, self.device)
        self.parallel = distributed.parallel(self.model)
        self.update = GuardedUpdate(
            *(self.model, self.optimizer, state.average),
            max_norm=self.o.grad_clip,
            scale=state.scale,
        )
        self.generator = torch.Generator(device=self.device)
        self.beta = torch.zeros((), device=self.device)  # a captured step reads it from here
        self.graphs: dict[bool, Graphed] = {}  # by teacher forcing
        self.memory: GraphMemory | None = None
        self.clips = 0  # that a batch is filled up to
        # Why the steps are not captured as CUDA graphs; None where they are.
        self.why_eager: str | None = "no CUDA device"
        if self.device.type == "cuda":
            self.why_eager = "--no_graph"
            if not self.o.no_graph:
                self.prepare_graphs()

    def prepare_graphs(self) -> None:
        """From here on steps are captured as CUDA graphs, so all are of one size."""
        self.why_eager = None
        epochs = (epoch_batches(self.o, self.data, e) for e in (0, self.o.num_epoch - 1))
        self.clips = max(len(batches[0]) for batches in epochs)

    def __call__(self, starts: Tensor, plan: Plan, *, epoch: int, number: int) -> None:
        """Step `number` of an epoch. starts: (B,) int64 frame numbers, of all ranks' clips."""
        draws = draw(self.o, self.generator, plan, epoch=epoch, number=number, batch=len(starts))
        part = shard(starts, draws, self.clips if self.why_eager is None else 0)
        self.beta.fill_(plan.beta)
        self.dispatch(part, teacher_forcing=plan.teacher_forcing)

    def dispatch(self, part: Shard, *, teacher_forcing: bool) -> None:
        """compute(), by CUDA graph where that is possible. UserError: it does not fit."""
        if self.why_eager is None:
            known = teacher_forcing in self.graphs
            try:
                graph = self._graph(part, teacher_forcing)
            except RuntimeError as error:
                self.why_eager = reason(error)
            # All ranks replay a graph, or none does: their sums meet.
            if not known and distributed.maximum(int(self.why_eager is not None))[0]:
                self.why_eager = self.why_eager or "another process could not capture its step"
            if self.why_eager is None:
                graph(*part.tensors())
                return
            self._free_graphs()
            print(f"note: training without CUDA graphs ({self.why_eager})", flush=True)
        try:
            self.compute(part, teacher_forcing=teacher_forcing)
            return
        except RuntimeError as error:
            if not isinstance(first_cause(error), torch.OutOfMemoryError):
                raise
        # Out here the error, and with it what the step had made so far, is gone.
        self.optimizer.zero_grad(set_to_none=True)
        free = free_memory()

        def peak(clips: int, recompute: bool) -> int | None:
            return self._peak(part.first(clips), teacher_forcing, recompute)

        raise UserError(what_fits(self.o, len(part.starts), free, peak))

    def _graph(self, part: Shard, teacher_forcing: bool) -> Graphed:
        """The graph of compute() for this mode, captured if there is none. RuntimeError: why not.

        Where memory runs out the graphs of the other mode are given up first.
        """
        if teacher_forcing in self.graphs:
            return self.graphs[teacher_forcing]

        def on(*tensors: Tensor) -> None:
            self.compute(part.replaced(tensors), teacher_forcing=teacher_forcing)

        for again in (False, True):
            self.memory = self.memory or GraphMemory()
            graph = Graphed(on, self.memory)
            try:
                with self.update.disabled():
                    graph.record(*part.tensors())
            except RuntimeError as error:
                if again or not isinstance(first_cause(error), torch.OutOfMemoryError):
                    raise
                if distributed.world_size() > 1:  # the other ranks' warm-up waits for this one's
                    raise UserError(what_fits(self.o, len(part.starts), 0, _unknown)) from error
            else:
                self.graphs[teacher_forcing] = graph
                break
            self._free_graphs()
        return graph

    def _free_graphs(self) -> None:
        """Give the memory of all graphs back."""
        self.graphs.clear()
        self.memory = None
        self.optimizer.zero_grad(set_to_none=True)
        free_memory()

    def _peak(self, part: Shard, teacher_forcing: bool, recompute: bool) -> int | None:
        """Bytes of GPU memory that a step takes at most, tried out; None: it does not fit."""
        free_memory()
        torch.cuda.reset_peak_memory_stats(self.device)
        before = torch.cuda.memory_allocated(self.device)
        try:
            with self.update.disabled():
                self.compute(part, teacher_forcing=teacher_forcing, recompute=recompute)
        except RuntimeError as error:
            if isinstance(first_cause(error), torch.OutOfMemoryError):
                return None
            raise
        finally:
            self.optimizer.zero_grad(set_to_none=True)
        return torch.cuda.max_memory_allocated(self.device) - before

    def compute(self, part: Shard, *, teacher_forcing: bool, recompute: bool | None = None) -> None:
        """The step: no decision of the host depends on a value on the device.

        β and the learning rate are read from the device, since a graph is captured once for all.
        recompute: in place of --recompute
        """
        o = self.o
        clips = load_clips(
            self.data,
            self.stored,
            part.starts,
            part.draws,
            length=o.train_vi_len,
            teacher_forcing=teacher_forcing,
            augmentations=o.augment,
            jump=o.jump,
        )
        with autocast(self.device, self.precision):
            out = self.parallel(
                clips.frames,
                clips.labels,
                part.draws.latent,
                clips.previous,
                sequential=clips.sequential,
                detach=o.detach,
                recompute=o.recompute if recompute is None else recompute,
                reference=clips.reference,
            )
        target = clips.frames[1:]  # (T-1, B, 3, H, W)
        terms = loss_terms(
            out.mse,
            out.kl,
            psnr_of_mse(frame_mse(out.prediction.detach().clamp(0, 1), target)),
            beta=self.beta,
            recon=o.recon,
            values=target[0, 0].numel(),
            batch=part.batch,
            weights=part.weights,
        )
        # Of all ranks.
        totals = distributed.add_up(torch.stack(terms).detach().to(self.sums.sums.dtype))
        outcome = self.update(terms.loss, totals[0])
        # (T-1, B, N, H, W)
        mu = part.weights[:, None, None, None] * out.mu.detach().to(totals.dtype)
        self.sums.add(
            *(totals, mu, outcome.finite, self.update.enabled, part.batch), outcome.overflowed
        )


def _unknown(_clips: int, _recompute: bool) -> None:
    """What a step of so many clips takes: nobody can try it alone."""


# ---------------------------------------------------------------- one epoch


def train_epoch(step: TrainingStep, state: RunState, watch: Watch) -> EpochAverages:
    """The steps of an epoch from the state's position on; moves the position to the epoch's end.

    Saves in mid-epoch when the watch asks for it. Raises Stopped after a step (and a save) when the
    run was asked to stop, UserError when MAX_SKIPPED_STEPS in a row were not finite.
    """
    o, plan, epoch = state.o, state.plan, state.position.epoch
    batches, done = epoch_batches(o, step.data, epoch), state.position.step
    state.model.train()
    started = time.perf_counter() - state.position.seconds
    if state.stored is not None and done == 0 and epoch > 0 and epoch % o.rollout_every == 0:
        state.stored.refresh(
            state.eval_model(),
            seed=o.seed,
            epoch=epoch,
            precision=step.precision,
            watch=watch,
            share=1.0 if epoch == o.rollout_every else o.rollout_share,
            graph=step.why_eager is None,
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
        set_learning_rate(state.optimizer, step_lr(o, epoch, number, len(batches)))
        step(batches[number], plan, epoch=epoch, number=number)
        # On a CPU a look costs nothing. A GPU is waited for seldom: often enough that the steps
        # in its queue are few when the run is asked to stop.
        last = number + 1 == len(batches)
        if step.device.type == "cpu" or number % LOOK_EVERY == 0 or last:
            _refuse_divergence(epoch, state.sums.read().skipped_in_a_row)
        asked, save_due = distributed.maximum(*watch.requests())
        if asked or save_due:
            state.save_at(Position(epoch, number + 1, time.perf_counter() - started))
            watch.saved()
        if asked:
            distributed.stop(asked)
    averages = state.sums.averages(steps=o.train_vi_len - 1)  # waits for the device
    state.position = Position(epoch, len(batches), time.perf_counter() - started)
    return averages


def _refuse_divergence(epoch: int, in_a_row: float) -> None:
    """Raise UserError if too many steps in a row were not finite."""
    if in_a_row >= MAX_SKIPPED_STEPS:
        raise UserError(
            f"epoch {epoch}: {in_a_row:.0f} training steps in a row gave a loss or gradient that "
            "is not finite; the run has diverged. Checkpoints of earlier epochs are intact; try a "
            "lower --lr, a lower --kl_beta or --precision float32"
        )
