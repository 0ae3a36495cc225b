"""What an epoch and a step are trained with, from the options."""

import math

import pytest

from modules.options import TrainerOptions, parse_trainer
from modules.schedules import epoch_plan, idle_annealing, step_lr


def options_of(typed: str) -> TrainerOptions:
    return parse_trainer("", ["--DR", "d", *typed.split()])[0]


def test_plan_follows_the_schedules() -> None:
    typed = (
        "--DR d --num_epoch 8 --tfr 1 --tfr_sde 2 --tfr_d_step 0.5 --kl_anneal_type Cyclical "
        "--kl_anneal_cycle 2 --kl_anneal_ratio 0.5 --kl_beta 0.1 --lr 0.01 "
        "--lr_scheduler multistep --lr_milestones 4 --lr_gamma 0.1"
    )
    options, _ = parse_trainer("", typed.split())
    plans = [epoch_plan(options, e) for e in range(8)]
    assert [p.tfr for p in plans] == [1, 1, 0.5, 0, 0, 0, 0, 0]
    assert [p.beta for p in plans] == pytest.approx([0, 0.05, 0.1, 0.1] * 2)
    assert [p.lr for p in plans] == pytest.approx([0.01] * 4 + [0.001] * 4)
    assert [p.teacher_forcing for p in plans[:2]] == [True, True]
    assert not any(p.teacher_forcing for p in plans[3:])
    raised = epoch_plan(options, 6, raised_at=5)
    assert raised.tfr == 0.5


def test_learning_rate_of_a_step() -> None:
    cosine = options_of("--num_epoch 4 --lr 0.01 --lr_scheduler cosine")
    assert step_lr(cosine, 0, 0, 10) == 0.01
    assert step_lr(cosine, 2, 0, 10) == pytest.approx(0.005)  # half way
    assert step_lr(cosine, 2, 5, 10) == pytest.approx(0.005 * (1 + math.cos(math.pi * 2.5 / 4)))
    warmed = options_of("--num_epoch 4 --lr 0.01 --lr_warmup 20")
    found = [step_lr(warmed, e, n, 10) for e, n in ((0, 0), (0, 9), (1, 4), (1, 9), (3, 9))]
    assert found == pytest.approx([0.0005, 0.005, 0.0075, 0.01, 0.01])
    multistep = options_of("--num_epoch 4 --lr 0.01 --lr_scheduler multistep --lr_milestones 2")
    assert step_lr(multistep, 1, 9, 10) == 0.01
    assert step_lr(multistep, 2, 0, 10) == pytest.approx(0.001)


def test_default_milestones_follow_the_length_of_the_run() -> None:
    options = options_of("--num_epoch 8 --lr 0.01 --lr_scheduler multistep")
    assert [epoch_plan(options, e).lr for e in (3, 4, 6)] == pytest.approx([0.01, 1e-3, 1e-4])
    options.num_epoch = 40  # as --resume --num_epoch 40 does
    assert [epoch_plan(options, e).lr for e in (19, 20, 30)] == pytest.approx([0.01, 1e-3, 1e-4])


def test_annealing_that_never_rises_is_noted() -> None:
    # Ten cycles in ten epochs: each epoch is the first one of its cycle.
    assert "--kl_anneal_cycle" in idle_annealing(options_of("--num_epoch 10"))[0]
    for other in ("--num_epoch 20", "--num_epoch 10 --kl_anneal_cycle 4", "--kl_beta 0"):
        assert idle_annealing(options_of(other)) == [], other
