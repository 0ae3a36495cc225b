"""What an epoch is trained with: the options put into the schedules."""

from typing import NamedTuple

from modules import schedules
from modules.options import TrainerOptions, milestones


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
    tfr = schedules.teacher_forcing_ratio(
        epoch, tfr=o.tfr, tfr_sde=o.tfr_sde, tfr_d_step=o.tfr_d_step, raised_at=raised_at
    )
    if o.tf_draw == "step":  # each step of each clip draws for itself; see batches.draw()
        teacher_forcing = tfr > 0
    else:
        teacher_forcing = schedules.teacher_forcing_drawn(o.seed, epoch, tfr)
    return Plan(kl_weight_of(o, epoch), tfr, teacher_forcing, _rate(o, epoch))


def kl_weight_of(o: TrainerOptions, epoch: int) -> float:
    """β of an epoch, counted from 0; see schedules.kl_weight."""
    return schedules.kl_weight(
        epoch,
        num_epoch=o.num_epoch,
        anneal_type=o.kl_anneal_type,
        cycles=o.kl_anneal_cycle,
        ratio=o.kl_anneal_ratio,
        beta=o.kl_beta,
    )


def step_lr(o: TrainerOptions, epoch: int, number: int, steps: int) -> float:
    """The learning rate of step `number` of the `steps` of an epoch, all counted from 0.

    cosine falls from step to step; the warm-up rises in a line over the first lr_warmup steps.
    """
    lr = _rate(o, epoch + number / steps if o.lr_scheduler == "cosine" else epoch)
    return lr * schedules.warm_up(epoch * steps + number, o.lr_warmup)


def _rate(o: TrainerOptions, epoch: float) -> float:
    """The learning rate at a point of the run, in epochs, without the warm-up."""
    return schedules.learning_rate(
        epoch,
        num_epoch=o.num_epoch,
        lr=o.lr,
        scheduler=o.lr_scheduler,
        milestones=milestones(o),
        gamma=o.lr_gamma,
    )


def idle_annealing(o: TrainerOptions) -> list[str]:
    """A line if β is meant to rise and is 0 in every epoch all the same."""
    if o.test or o.kl_beta == 0 or any(kl_weight_of(o, e) > 0 for e in range(o.num_epoch)):
        return []
    return [
        "note: β is 0 in every epoch, as each is the first of a cycle: fewer --kl_anneal_cycle "
        "or more --num_epoch would let it rise"
    ]
