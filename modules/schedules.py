"""Schedules: what β, the teacher-forcing ratio and the learning rate are in epoch e (from 0).

All are pure functions of (epoch, settings), so a resumed run needs nothing to continue them.
Only the detector depends on results; its state goes into the checkpoint.
"""

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from modules.data import STREAM_TEACHER_FORCING
from modules.losses import MSE_FLOOR
from modules.options import TrainerOptions, milestones

WARM_UP = 20  # steps over which Muon's learning rate rises


def kl_weight(
    epoch: float,
    *,
    num_epoch: int,
    anneal_type: str = "Cyclical",
    cycles: float = 10,
    ratio: float = 1.0,
    beta: float = 1.0,
) -> float:
    """β in epoch e, from Fu et al. 2019, "Cyclical Annealing Schedule", equations 6 and 7.

    With M cycles over N epochs, τ = (e mod N/M) / (N/M) and β = beta · min(1, τ / ratio).

    epoch:       e, from 0; any unit, as long as num_epoch has the same (the paper uses iterations)
    anneal_type: "Cyclical"; "Monotonic", which is M = 1 whatever `cycles` says; "None", always beta
    cycles:      M, the number of cycles in the whole run; N/M need not be a whole number
    ratio:       R, the part of a cycle in which β rises; the rest stays on the plateau
    beta:        the plateau
    """
    if anneal_type == "None":
        return beta
    count = 1.0 if anneal_type == "Monotonic" else float(cycles)
    # e·M/N mod 1 is τ: a product rounds better than the remainder of a rounded cycle length.
    position = epoch * count / num_epoch
    tau = position - math.floor(position + 1e-9)
    return beta * min(1.0, max(0.0, tau) / ratio)


def teacher_forcing_ratio(
    epoch: int,
    *,
    tfr: float = 1.0,
    tfr_sde: int = 10,
    tfr_d_step: float = 0.1,
    raised_at: int | None = None,
) -> float:
    """Probability of teacher forcing in epoch e: linear decay, restarted by a raise.

    `tfr` before epoch tfr_sde, then one tfr_d_step less for every epoch from tfr_sde on, never
    below 0. After a raise by the detector: 1 in epoch `raised_at`, one step less per epoch after.
    """
    if raised_at is not None:
        start, steps = 1.0, epoch - raised_at
    else:
        start, steps = tfr, max(0, epoch - tfr_sde + 1)
    # Rounded so that 1 - 10 · 0.1 is 0 and the file shows 0.7, not 0.7000000000000001.
    return max(0.0, round(start - steps * tfr_d_step, 10))


def teacher_forcing_drawn(seed: int, epoch: int, ratio: float) -> bool:
    """Whether teacher forcing is on in this epoch: one draw per epoch, by (seed, epoch) alone."""
    rng = np.random.default_rng([seed, epoch, STREAM_TEACHER_FORCING])
    return bool(rng.random() < ratio)


@dataclass
class TF_detector:
    """Notices that validation has plateaued and raises teacher forcing again.

    When the last `patience` validations differ by less than `threshold` dB in both PSNR and loss
    (as 10·log10, since a mean-square error is itself near 0), the ratio returns to 1 in the next
    epoch and falls by tfr_d_step in every epoch from there; the history is then cleared. patience
    0 switches it off.
    """

    patience: int = 0
    threshold: float = 0.1
    history: list[tuple[float, float]] = field(default_factory=list)
    raised_at: int | None = None

    def update(self, epoch: int, val_loss: float, val_psnr: float) -> bool:
        """Note the validation after `epoch`; True if teacher forcing is raised for the next one."""
        if self.patience <= 0:
            return False
        self.history = [*self.history, (val_loss, val_psnr)][-self.patience :]
        if len(self.history) < self.patience:
            return False
        losses, psnrs = zip(*self.history, strict=True)
        if not all(map(math.isfinite, (*losses, *psnrs))):  # a broken validation is not a plateau
            return False
        decibels = [10.0 * math.log10(max(loss, MSE_FLOOR)) for loss in losses]
        if any(max(x) - min(x) >= self.threshold for x in (decibels, psnrs)):
            return False
        self.raised_at, self.history = epoch + 1, []
        return True

    def state_dict(self) -> dict[str, object]:
        """Plain values for the checkpoint."""
        return {"history": [list(pair) for pair in self.history], "raised_at": self.raised_at}

    def load_state_dict(self, state: dict) -> None:
        """Load a saved state; patience and threshold stay those of this run."""
        self.history = [(float(loss), float(psnr)) for loss, psnr in state["history"]]
        self.raised_at = None if state["raised_at"] is None else int(state["raised_at"])


def learning_rate(
    epoch: float,
    *,
    num_epoch: int,
    lr: float,
    scheduler: str = "constant",
    milestones: tuple[int, ...] = (),
    gamma: float = 0.1,
) -> float:
    """Learning rate in epoch e.

    "constant"; "multistep": times gamma from each milestone epoch on; "cosine": from lr down
    towards 0 at the end, lr · ½(1 + cos(π e / num_epoch)) (Loshchilov & Hutter 2017, equation 5,
    without restarts).
    """
    if scheduler == "multistep":
        return lr * gamma ** sum(epoch >= milestone for milestone in milestones)
    if scheduler == "cosine":
        return lr * 0.5 * (1.0 + math.cos(math.pi * min(epoch / num_epoch, 1.0)))
    return lr


# ---------------------------------------------------------------- of a run


class Plan(NamedTuple):
    """What one epoch is trained with; a pure function of the epoch but for the detector."""

    beta: float
    tfr: float
    teacher_forcing: bool  # drawn once per epoch with probability tfr
    lr: float  # at the epoch's first step, once warmed up


def epoch_plan(o: TrainerOptions, epoch: int, raised_at: int | None = None) -> Plan:
    """β, teacher forcing and learning rate of an epoch, counted from 0.

    raised_at: the epoch in which the detector last raised teacher forcing to 1
    """
    tfr = teacher_forcing_ratio(
        epoch, tfr=o.tfr, tfr_sde=o.tfr_sde, tfr_d_step=o.tfr_d_step, raised_at=raised_at
    )
    # With stored rollouts each step of each clip draws for itself; see data.draw().
    drawn = tfr > 0 if o.rollout_every > 0 else teacher_forcing_drawn(o.seed, epoch, tfr)
    beta = kl_weight(
        epoch,
        num_epoch=o.num_epoch,
        anneal_type=o.kl_anneal_type,
        cycles=o.kl_anneal_cycle,
        ratio=o.kl_anneal_ratio,
        beta=o.kl_beta,
    )
    return Plan(beta, tfr, drawn, _rate(o, epoch))


def step_lr(o: TrainerOptions, epoch: int, number: int, steps: int, before: int) -> float:
    """The learning rate of step `number` of the `steps` of an epoch, all counted from 0.

    cosine falls from step to step; with Muon the rate rises linearly over the first steps of the
    run, which rest on few gradients (Goyal et al. 2017, section 2.2).
    before: steps of all earlier epochs
    """
    lr = _rate(o, epoch + number / steps if o.lr_scheduler == "cosine" else epoch)
    return lr * min(1.0, (before + number + 1) / WARM_UP) if o.optim == "Muon" else lr


def _rate(o: TrainerOptions, epoch: float) -> float:
    """The learning rate at a point of the run, in epochs, without the warm-up."""
    return learning_rate(
        epoch,
        num_epoch=o.num_epoch,
        lr=o.lr,
        scheduler=o.lr_scheduler,
        milestones=milestones(o),
        gamma=o.lr_gamma,
    )


def idle_annealing(o: TrainerOptions) -> list[str]:
    """A line if β is meant to rise, but cycles are so short that it gets at most half-way."""
    values = [epoch_plan(o, epoch).beta for epoch in range(o.num_epoch)]
    if o.test or o.kl_beta == 0 or max(values) > o.kl_beta / 2:
        return []
    first = ", ".join(f"{value:.3g}" for value in values[:4]) + ", …" * (len(values) > 4)
    fewer = "fewer --kl_anneal_cycle or " if o.kl_anneal_type == "Cyclical" else ""
    return [
        f"note: β starts each cycle at 0 and is {first} by epoch; {fewer}more --num_epoch would "
        "let it rise"
    ]
