"""One epoch of training: the plan it follows, its steps, and what came of them.

Shapes: T time, B batch, C channels, H, W; clips are time-major, (T, B, 3, H, W).
"""

import math
import time
from typing import NamedTuple

import torch
from tqdm import tqdm

import dataloader
from modules import schedules
from modules.cvae import CVAE
from modules.device import autocast, choose_precision
from modules.errors import UserError
from modules.losses import frame_mse, psnr_of_mse
from modules.options import TrainerOptions

# A run whose steps fail this many times in a row has diverged; more will not bring it back.
MAX_SKIPPED_STEPS = 50


class Plan(NamedTuple):
    """What one epoch is trained with; a pure function of the epoch but for the detector."""

    beta: float
    tfr: float
    teacher_forcing: bool  # drawn once per epoch with probability tfr
    lr: float


def epoch_plan(o: TrainerOptions, epoch: int, raised_at: int | None = None) -> Plan:
    """β, teacher forcing and learning rate of an epoch, counted from 0."""
    tfr = schedules.teacher_forcing_ratio(
        epoch, tfr=o.tfr, tfr_sde=o.tfr_sde, tfr_d_step=o.tfr_d_step, raised_at=raised_at
    )
    beta = schedules.kl_weight(
        epoch,
        num_epoch=o.num_epoch,
        anneal_type=o.kl_anneal_type,
        cycles=o.kl_anneal_cycle,
        ratio=o.kl_anneal_ratio,
        beta=o.kl_beta,
    )
    lr = schedules.learning_rate(
        epoch,
        num_epoch=o.num_epoch,
        lr=o.lr,
        scheduler=o.lr_scheduler,
        milestones=o.lr_milestones or (),
        gamma=o.lr_gamma,
    )
    return Plan(beta, tfr, schedules.teacher_forcing_drawn(o.seed, epoch, tfr), lr)


def make_optimizer(model: CVAE, o: TrainerOptions) -> torch.optim.Optimizer:
    """Adam (Kingma & Ba 2015) or AdamW (Loshchilov & Hutter 2019) over all weights, float32."""
    kind = {"Adam": torch.optim.Adam, "AdamW": torch.optim.AdamW}[o.optim]
    return kind(model.parameters(), lr=o.lr, fused=True)


class EpochResult(NamedTuple):
    """Averages over the predicted frames of an epoch's training."""

    loss: float
    mse: float
    kl: float
    psnr: float
    skipped: int  # sequences whose step was not finite
    skipped_in_a_row: int  # steps, at the end of the epoch
    frames_per_second: float


def clip_gradient(parameters: list[torch.nn.Parameter], max_norm: float) -> torch.Tensor:
    """Scale the gradients so that their norm is at most max_norm; returns the norm before that.

    As torch.nn.utils.clip_grad_norm_, but the squares are summed in float64. Just after teacher
    forcing ends, a gradient through many fed-back frames can be finite and yet beyond 1e19, whose
    square overflows float32: its direction is still good for a step. Scalar, float64.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    norms = [torch.linalg.vector_norm(g, dtype=torch.float64) for g in gradients]
    norm = torch.linalg.vector_norm(torch.stack(norms))
    factor = (max_norm / (norm + 1e-6)).clamp(max=1.0).float()
    torch._foreach_mul_(gradients, factor)
    return norm


def train_epoch(
    model: CVAE,
    optimizer: torch.optim.Optimizer,
    data: dataloader.VideoData,
    o: TrainerOptions,
    epoch: int,
    plan: Plan,
    skipped_in_a_row: int,
) -> EpochResult:
    """One pass over the epoch's clips: per batch one forward, backward, clipping and step.

    A batch whose loss or gradient is not finite changes nothing, batch-norm statistics included,
    and enters no average. Raises UserError when that happens MAX_SKIPPED_STEPS times in a row.
    """
    device = data.frames.device
    precision = choose_precision(o.precision, device)
    short = o.fast_train and epoch < o.fast_train_epoch
    starts = dataloader.epoch_clips(
        data.recordings,
        o.train_vi_len,
        seed=o.seed,
        epoch=epoch,
        shuffle=not o.no_shuffle,
        fraction=o.fast_partial if short else 1.0,
    )
    batches = dataloader.clip_batches(starts, o.batch_size)
    parameters = list(model.parameters())
    buffers = list(model.buffers())
    generator = torch.Generator(device=device)
    totals = torch.zeros(4, device=device, dtype=torch.float64)  # loss, mse, kl, psnr × sequences
    counted = skipped = 0
    for group in optimizer.param_groups:
        group["lr"] = plan.lr
    model.train()
    began = time.perf_counter()
    for step, batch in enumerate(tqdm(batches, desc=f"epoch {epoch}", leave=False, disable=None)):
        frames, labels = (
            dataloader.to_unit(x) for x in dataloader.gather_clips(data, batch, o.train_vi_len)
        )  # 2 × (T, B, 3, H, W)
        # Every draw is a function of (seed, epoch, step), so a resumed run draws the same.
        generator.manual_seed(schedules.derived_seed(o.seed, epoch, step, schedules.STREAM_LATENT))
        shape = (o.train_vi_len - 1, len(batch), o.frame_H, o.frame_W, o.N_dim)
        noise = torch.randn(shape, generator=generator, device=device).permute(0, 1, 4, 2, 3)
        kept_buffers = [buffer.clone() for buffer in buffers]

        with autocast(device, precision):
            out = model(
                frames, labels, noise, teacher_forcing=plan.teacher_forcing, detach=o.detach
            )
        mse, kl = out.mse.mean(), out.kl.mean()
        # Kingma & Welling 2014, equation 10, negated; β as in Higgins et al. 2017, equation 4.
        loss = mse + plan.beta * kl
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        # Without clipping the norm is still wanted: one NaN in a gradient shows in it.
        norm = clip_gradient(parameters, o.grad_clip or math.inf)
        if not bool(torch.isfinite(loss) & torch.isfinite(norm)):
            for buffer, kept in zip(buffers, kept_buffers, strict=True):
                buffer.copy_(kept)
            skipped += len(batch)
            skipped_in_a_row += 1
            if skipped_in_a_row >= MAX_SKIPPED_STEPS:
                raise UserError(
                    f"epoch {epoch}: {skipped_in_a_row} training steps in a row gave a loss or "
                    "gradient that is not finite; the run has diverged. Checkpoints of earlier "
                    "epochs are intact; try a lower --lr, a lower --kl_beta or --precision float32"
                )
            continue
        optimizer.step()
        skipped_in_a_row = 0
        counted += len(batch)
        with torch.no_grad():
            psnr = psnr_of_mse(frame_mse(out.prediction.clamp(0, 1), frames[1:])).mean()
            totals += len(batch) * torch.stack((loss, mse, kl, psnr)).double()
    loss_mean, mse_mean, kl_mean, psnr_mean = (
        (totals / counted).tolist() if counted else [math.nan] * 4
    )
    frames_made = (counted + skipped) * (o.train_vi_len - 1)
    speed = frames_made / (time.perf_counter() - began)
    return EpochResult(loss_mean, mse_mean, kl_mean, psnr_mean, skipped, skipped_in_a_row, speed)
