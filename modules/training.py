"""One epoch of training: the plan it follows, its steps, and what came of them.

Shapes: T time, B batch, C channels, H, W; clips are time-major, (T, B, 3, H, W).
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from modules import schedules, seeds, sequences
from modules.augment import augment, draw_augmentation
from modules.cvae import CVAE
from modules.losses import frame_mse, implied_sigma, optimal_sigma_loss, psnr_of_mse
from modules.optimizers import WeightAverage, clip_gradient, set_learning_rate
from modules.options import TrainerOptions, kl_weight_of
from modules.rollouts import StoredRollouts
from modules.runtime import distributed
from modules.runtime.device import autocast, choose_precision
from modules.runtime.errors import Stopped, UserError
from modules.runtime.graphs import capture, reason
from modules.runtime.stopping import Watch

# A run whose steps fail this many times in a row has diverged; more will not bring it back.
MAX_SKIPPED_STEPS = 50
# Steps from one look at a GPU's counts to the next: each look waits for it.
LOOK_EVERY = 32


class Plan(NamedTuple):
    """What one epoch is trained with; a pure function of the epoch but for the detector."""

    beta: float
    tfr: float
    teacher_forcing: bool  # drawn once per epoch with probability tfr
    lr: float  # at the epoch's first step, once warmed up
    vi_len: int  # frames in a clip


def epoch_plan(o: TrainerOptions, epoch: int, raised_at: int | None = None) -> Plan:
    """β, teacher forcing and learning rate of an epoch, counted from 0."""
    tfr = schedules.teacher_forcing_ratio(
        epoch, tfr=o.tfr, tfr_sde=o.tfr_sde, tfr_d_step=o.tfr_d_step, raised_at=raised_at
    )
    if o.tf_draw == "step":  # each step of each clip draws for itself; see TrainingStep.draw()
        teacher_forcing = tfr > 0
    else:
        teacher_forcing = schedules.teacher_forcing_drawn(o.seed, epoch, tfr)
    vi_len = schedules.clip_length(
        epoch, length=o.train_vi_len, start=o.grow_from, epochs=o.grow_epochs
    )
    return Plan(kl_weight_of(o, epoch), tfr, teacher_forcing, _rate(o, epoch), vi_len)


def _rate(o: TrainerOptions, epoch: float) -> float:
    """The learning rate at a place of the run, in epochs, without the warm-up."""
    return schedules.learning_rate(
        epoch,
        num_epoch=o.num_epoch,
        lr=o.lr,
        scheduler=o.lr_scheduler,
        milestones=o.lr_milestones or (),
        gamma=o.lr_gamma,
    )


def step_lr(o: TrainerOptions, epoch: int, number: int, steps: int) -> float:
    """The learning rate of step `number` of the `steps` of an epoch, all counted from 0.

    cosine falls from step to step; the warm-up rises in a line over the first lr_warmup steps.
    """
    lr = _rate(o, epoch + number / steps if o.lr_scheduler == "cosine" else epoch)
    return lr * schedules.warm_up(epoch * steps + number, o.lr_warmup)


# ---------------------------------------------------------------- one step


class Counts(NamedTuple):
    """What the steps of an epoch add up, kept on the device so that no step is waited for."""

    loss: float  # this and the next three: sums over the sequences that were trained on
    mse: float
    kl: float
    psnr: float
    trained: float  # sequences
    skipped: float  # sequences whose step was not finite
    skipped_in_a_row: float  # steps; outlasts the epoch


NO_COUNTS = Counts(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)

# A latent dimension counts as active when the posterior's mean varies at least this much over the
# frames (Burda et al. 2016, "Importance Weighted Autoencoders", section 5).
ACTIVE_VARIANCE = 0.01


class Draws(NamedTuple):
    """The random numbers of a step; the second axis of each is the clip, B."""

    latent: Tensor  # ε, (T-1, B, N, H, W)
    frame_noise: Tensor | None = None  # (T-1, B, 3, H, W), with --frame_noise
    forced: Tensor | None = None  # (T-1, B) booleans, with --tf_draw step
    augmentation: Tensor | None = None  # (AUGMENTATION_DRAWS, B), with --augment

    def of(self, clips: slice) -> "Draws":
        """Those of some of the clips."""
        return self.each(lambda drawn: drawn[:, clips])

    def each(self, change: Callable[[Tensor], Tensor]) -> "Draws":
        """All that there are, changed."""
        latent, *others = self
        return Draws(change(latent), *(None if x is None else change(x) for x in others))

    def tensors(self) -> list[Tensor]:
        """Those that there are."""
        return [drawn for drawn in self if drawn is not None]


class TrainingStep:
    """One optimiser step on a batch of clips: forward, backward, clipping, update.

    A batch whose loss or gradient is not finite changes nothing, batch-norm statistics included,
    and enters no average. That is decided on the device, so nothing waits for it; on CUDA the whole
    step is one graph, captured for each batch size, with and without teacher forcing, and anew
    where clips have grown.
    """

    def __init__(
        self,
        model: CVAE,
        optimizer: torch.optim.Optimizer,
        data: sequences.VideoData,
        o: TrainerOptions,
        average: "WeightAverage | None" = None,
        stored: StoredRollouts | None = None,
    ) -> None:
        self.model, self.optimizer, self.data, self.o = model, optimizer, data, o
        self.average, self.stored = average, stored
        self.device = data.frames.device
        self.precision = choose_precision(o.precision, self.device)
        self.parallel = distributed.parallel(model)
        self.parameters = list(model.parameters())
        self.buffers = list(model.buffers())
        self.counts = torch.zeros(len(Counts._fields), dtype=torch.float64, device=self.device)
        # Sums over an epoch's frames of the posterior's mean, and of its square.
        shape = (2, o.N_dim, o.frame_H, o.frame_W)
        self.moments = torch.zeros(shape, dtype=torch.float64, device=self.device)
        self.kl_scale = kl_scale(o)
        self.generator = torch.Generator(device=self.device)
        self.beta = torch.zeros((), device=self.device)
        # 0 while a graph is warmed up: such a step changes nothing.
        self.enabled = torch.ones((), device=self.device)
        self.graphs: dict[tuple[int, bool, int], tuple[list[Tensor], Callable[[], None]]] = {}
        self.why_eager = self._why_eager()

    def _why_eager(self) -> str | None:
        """Why the steps are not captured as CUDA graphs; None where they are."""
        if self.device.type != "cuda":
            return "no CUDA device"
        if self.o.no_graph:
            return "--no_graph"
        if distributed.world_size() > 1:
            return "several processes"
        return None

    def run(self, starts: Tensor, draws: Draws, plan: Plan) -> None:
        """One step. starts: (B,) int64 frame numbers; draws: see draw()."""
        self.beta.fill_(plan.beta)
        if self.why_eager is None:
            key = (len(starts), plan.teacher_forcing, plan.vi_len)
            try:
                if key not in self.graphs:
                    # Each holds memory of its own; a length that clips have outgrown is done with.
                    self.graphs = {k: g for k, g in self.graphs.items() if k[2] == plan.vi_len}
                    self.graphs[key] = self._capture(starts, draws, plan)
            except RuntimeError as error:
                self.graphs.clear()
                self.why_eager = reason(error)
                print(f"note: training without CUDA graphs ({self.why_eager})", flush=True)
            else:
                inputs, replay = self.graphs[key]
                for static, value in zip(inputs, (starts, *draws.tensors()), strict=True):
                    static.copy_(value)
                replay()
                return
        self._compute(starts, draws, plan, len(starts))

    def draw(self, epoch: int, number: int, batch: int, plan: Plan) -> Draws:
        """The random numbers of a step.

        A function of (seed, epoch, step), so a resumed run draws the same, and the ranks of a
        parallel one, each taking its part, what a single process would.
        """
        o = self.o
        self.generator.manual_seed(seeds.derived_seed(o.seed, epoch, number, seeds.STREAM_LATENT))
        kind: dict[str, Any] = {"generator": self.generator, "device": self.device}
        shape = (plan.vi_len - 1, batch, o.frame_H, o.frame_W)
        draws = Draws(torch.randn(*shape, o.N_dim, **kind).permute(0, 1, 4, 2, 3))
        if o.frame_noise > 0:
            # Clips of every noise level up to the largest, so that clean frames are known too.
            level = o.frame_noise * torch.rand(batch, 1, 1, 1, **kind)
            noise = torch.randn(*shape, 3, **kind).permute(0, 1, 4, 2, 3)
            draws = draws._replace(frame_noise=level * noise)
        if o.tf_draw == "step":
            draws = draws._replace(forced=torch.rand(*shape[:2], **kind) < plan.tfr)
        if o.augment:
            draws = draws._replace(augmentation=draw_augmentation(batch, **kind))
        return draws

    def run_share(self, starts: Tensor, draws: Draws, plan: Plan) -> None:
        """This rank's part of one step: every world-th clip of the whole batch given."""
        rank, world, batch = distributed.rank(), distributed.world_size(), len(starts)
        if world == 1:
            self.run(starts, draws, plan)
            return
        own = slice(rank, None, world)
        share = 1.0 if rank < batch else 0.0
        if not share:
            own = slice(0, 1)  # something to go through the networks with, counted zero times
        distributed.set_share(self.model, share)
        self.beta.fill_(plan.beta)
        self._compute(starts[own], draws.of(own), plan, batch, share)

    def _compute(
        self,
        starts: Tensor,
        draws: Draws,
        plan: Plan,
        batch: int,
        share: float = 1.0,
    ) -> None:
        """The step itself, without a host decision that depends on a value on the device.

        batch: clips of the whole step, of which `starts` may be a rank's part.
        Of the plan only what a graph is captured for is read here: not β, nor the learning rate.
        """
        o = self.o
        frames, labels = (
            sequences.to_unit(x) for x in sequences.gather_clips(self.data, starts, plan.vi_len)
        )  # 2 × (T, B, 3, H, W)
        forced, stored, teacher_forcing = draws.forced, None, plan.teacher_forcing
        if self.stored is not None and (forced is not None or not teacher_forcing):
            # The model's own frames are there already: every step is begun from a given one.
            stored = self.stored.clips(starts, plan.vi_len)  # (T-1, B, 3, H, W)
            if forced is not None:
                stored = torch.where(forced[:, :, None, None, None], frames[:-1], stored)
            forced, teacher_forcing = None, True
        if draws.augmentation is not None:
            pictures = frames if stored is None else torch.cat((frames, stored))
            pictures, labels = augment(pictures, labels, draws.augmentation, o.augment)
            frames = pictures[: plan.vi_len]
            stored = None if stored is None else pictures[plan.vi_len :]
        kept_buffers = [buffer.clone() for buffer in self.buffers]
        with autocast(self.device, self.precision):
            out = self.parallel(
                frames,
                labels,
                draws.latent,
                teacher_forcing=teacher_forcing,
                detach=o.detach,
                forced=forced,
                stored=stored,
                frame_noise=draws.frame_noise,
                recompute=o.recompute,
            )
        # Sums over this rank's clips of the means over their frames, divided by the whole batch.
        mse = share * out.mse.mean(dim=0).sum() / batch
        kl = share * out.kl.mean(dim=0).sum() / batch
        reconstruction = mse
        if o.recon == "sigma":
            reconstruction = share * optimal_sigma_loss(out.mse).mean(dim=0).sum() / batch
        # Kingma & Welling 2014, equation 10, negated; β as in Higgins et al. 2017, equation 4.
        loss = reconstruction + self.beta * self.kl_scale * kl
        self.optimizer.zero_grad(set_to_none=True)
        # DistributedDataParallel averages gradients over the ranks; their sum is wanted.
        (loss * distributed.world_size()).backward()
        # Without clipping the norm is still wanted: one NaN in a gradient shows in it.
        norm = clip_gradient(self.parameters, o.grad_clip or math.inf)
        with torch.no_grad():
            psnr = psnr_of_mse(frame_mse(out.prediction.clamp(0, 1), frames[1:])).mean(dim=0)
            psnr = share * psnr.sum() / batch
            terms = distributed.add_up(torch.stack((loss, mse, kl, psnr)).double())
            finite = torch.isfinite(terms[0]) & torch.isfinite(norm)
            applied = finite & (self.enabled > 0)
            # The fused optimisers read this attribute and leave everything as it is where it is 1.
            self.optimizer.found_inf = (~applied).float()  # type: ignore[attr-defined]
            self.optimizer.grad_scale = None  # type: ignore[attr-defined]
            self.optimizer.step()
            if self.average is not None:
                self.average.update(applied)
            for buffer, kept in zip(self.buffers, kept_buffers, strict=True):
                buffer.copy_(torch.where(applied, buffer, kept))
            self._count(terms, finite, batch)
            mu = share * out.mu.double()  # (T-1, B, N, H, W)
            sums = torch.stack((mu.sum(dim=(0, 1)), mu.square().sum(dim=(0, 1))))
            self.moments += torch.where(applied, sums, 0.0)

    def _count(self, terms: Tensor, finite: Tensor, batch: int) -> None:
        """Add a step to the counts, in place."""
        good, bad = finite.double(), (~finite).double()
        # `where`, as 0 · NaN is NaN.
        added = torch.where(finite, terms * batch, 0.0)
        # Once too many, always too many: a GPU's counts are not looked at after every step.
        in_a_row = torch.where(
            self.counts[6] >= MAX_SKIPPED_STEPS, self.counts[6], (self.counts[6] + 1.0) * bad
        )
        new = torch.cat(
            (
                self.counts[:4] + added,
                torch.stack(
                    (self.counts[4] + batch * good, self.counts[5] + batch * bad, in_a_row)
                ),
            )
        )
        self.counts.copy_(torch.where(self.enabled > 0, new, self.counts))

    def _capture(
        self, starts: Tensor, draws: Draws, plan: Plan
    ) -> tuple[list[Tensor], Callable[[], None]]:
        """(static starts and draws, replay) of a graph of the step for this batch size."""
        starts = starts.clone()
        draws = draws.each(torch.clone)
        self.enabled.fill_(0.0)
        try:
            replay = capture(lambda: self._compute(starts, draws, plan, len(starts)))
        finally:
            self.enabled.fill_(1.0)
        return [starts, *draws.tensors()], replay

    # -- reading the counts, which waits for the device

    def read_counts(self) -> Counts:
        """What has been added up so far."""
        return Counts(*self.counts.tolist())

    def read_moments(self) -> Tensor:
        """Sums over the frames of all ranks of the posterior's mean and its square, on the CPU."""
        return distributed.add_up(self.moments.clone()).cpu()

    def set_counts(self, counts: Counts, moments: Tensor | None) -> None:
        """Begin from these."""
        self.counts.copy_(torch.tensor(counts, dtype=torch.float64))
        if moments is None or not distributed.is_main():  # rank 0's stand for all ranks'
            self.moments.zero_()
        else:
            self.moments.copy_(moments)


def kl_scale(o: TrainerOptions) -> float:
    """What the KL in nats per frame is multiplied with, besides β, in the loss.

    --recon mse: the error is a mean per pixel value, and the KL a sum over the latent (the usual
    convention) or, with --kl_norm mean, a mean too. --recon sigma: the likelihood is in nats per
    pixel value; with `sum` the KL is divided by the same number, so that β = 1 is the ELBO.
    """
    if o.kl_norm == "mean":
        return 1.0 / (o.N_dim * o.frame_H * o.frame_W)
    return 1.0 / (3 * o.frame_H * o.frame_W) if o.recon == "sigma" else 1.0


def decoder_sigma(o: TrainerOptions, mse: float, beta: float) -> float:
    """The standard deviation of p(x|z, c) on the scale of [0, 1]: with --recon sigma the optimal
    one, the root of the mean-square error; with mse the one that makes the loss an ELBO."""
    if o.recon == "sigma":
        return math.sqrt(mse)
    return implied_sigma(beta * kl_scale(o), 3 * o.frame_H * o.frame_W)


# ---------------------------------------------------------------- one epoch


@dataclass
class Position:
    """Where a run is: which epoch, how many of its steps are done, and what they added up."""

    epoch: int = 0
    step: int = 0
    counts: Counts = NO_COUNTS
    seconds: float = 0.0  # spent on this epoch, in training
    moments: Tensor | None = None  # see TrainingStep; None at an epoch's start

    def to_dict(self) -> dict[str, Any]:
        """Plain values for the checkpoint."""
        return {
            "epoch": self.epoch,
            "step": self.step,
            "counts": list(self.counts),
            "seconds": self.seconds,
            "moments": self.moments,
        }

    @classmethod
    def from_dict(cls, saved: dict[str, Any]) -> "Position":
        """The inverse of to_dict."""
        return cls(**{**saved, "counts": Counts(*saved["counts"])})

    def next_epoch(self) -> "Position":
        """Where the epoch after this one begins."""
        kept = self.counts.skipped_in_a_row
        return Position(self.epoch + 1, 0, NO_COUNTS._replace(skipped_in_a_row=kept))


class EpochResult(NamedTuple):
    """Averages over the predicted frames of an epoch's training."""

    loss: float
    mse: float
    kl: float
    psnr: float
    skipped: int  # sequences whose step was not finite
    frames_per_second: float
    active_dims: int  # latent dimensions whose posterior mean varies from frame to frame


def train_epoch(
    step: TrainingStep,
    begin: Position,
    plan: Plan,
    watch: Watch,
    save: Callable[[Position], None],
) -> tuple[EpochResult, Position]:
    """The steps of an epoch from a position on; returns their averages and the position after them.

    save: called in mid-epoch when the watch asks for it. Raises Stopped after a step (and a save)
    when the run was asked to stop, UserError when MAX_SKIPPED_STEPS in a row were not finite.
    """
    o, data, device, epoch = step.o, step.data, step.device, begin.epoch
    short = o.fast_train and epoch < o.fast_train_epoch
    clips = sequences.epoch_clips(
        data.recordings,
        plan.vi_len,
        seed=o.seed,
        epoch=epoch,
        shuffle=not o.no_shuffle,
        fraction=o.fast_partial if short else 1.0,
    )
    batches = torch.from_numpy(clips).to(device).split(o.batch_size)
    step.set_counts(begin.counts, begin.moments)
    step.model.train()
    began = time.perf_counter() - begin.seconds
    if step.stored is not None and begin.step == 0 and epoch > 0 and epoch % o.rollout_every == 0:
        shown = step.model if step.average is None else step.average.averaged()
        step.stored.refresh(shown, seed=o.seed, epoch=epoch, precision=step.precision, watch=watch)

    def position(done: int) -> Position:
        counts, moments = step.read_counts(), step.read_moments()  # these wait for the device
        return Position(epoch, done, counts, time.perf_counter() - began, moments)

    bar = tqdm(
        range(begin.step, len(batches)),
        desc=f"epoch {epoch}",
        initial=begin.step,
        total=len(batches),
        leave=False,
        disable=None if distributed.is_main() else True,
    )
    for number in bar:
        starts = batches[number]
        set_learning_rate(step.optimizer, step_lr(o, epoch, number, len(batches)))
        step.run_share(starts, step.draw(epoch, number, len(starts), plan), plan)
        # On a CPU a look costs nothing. A GPU is waited for seldom: often enough that the steps
        # in its queue are few when the run is asked to stop.
        if device.type == "cpu" or number % LOOK_EVERY == 0 or number + 1 == len(batches):
            _refuse_divergence(epoch, step.read_counts())
        asked, save_due = watch.after_step()
        if asked or save_due:
            save(position(number + 1))
            watch.saved()
        if asked:
            raise Stopped(asked)
    end = position(len(batches))
    return _averages(end, plan), end


def _averages(end: Position, plan: Plan) -> EpochResult:
    """What an epoch's counts come to; NaN where no sequence was trained on."""
    counts = end.counts
    sums = counts.loss, counts.mse, counts.kl, counts.psnr
    loss, mse, kl, psnr = (x / counts.trained if counts.trained else math.nan for x in sums)
    steps = plan.vi_len - 1
    speed = (counts.trained + counts.skipped) * steps / max(end.seconds, 1e-9)
    active = 0
    if counts.trained and end.moments is not None:
        mean, square = end.moments / (counts.trained * steps)  # 2 × (N, H, W)
        active = int((square - mean**2 > ACTIVE_VARIANCE).sum())
    return EpochResult(loss, mse, kl, psnr, int(counts.skipped), speed, active)


def _refuse_divergence(epoch: int, counts: Counts) -> None:
    """Raise UserError if too many steps in a row were not finite."""
    in_a_row = int(counts.skipped_in_a_row)
    if in_a_row >= MAX_SKIPPED_STEPS:
        raise UserError(
            f"epoch {epoch}: {in_a_row} training steps in a row gave a loss or gradient that is "
            "not finite; the run has diverged. Checkpoints of earlier epochs are intact; try a "
            "lower --lr, a lower --kl_beta or --precision float32"
        )
