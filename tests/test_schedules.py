"""Schedules against hand-computed values and the figure of Fu et al. 2019."""

import math

import pytest

from modules.options import TrainerOptions, parse_trainer
from modules.schedules import (
    TF_detector,
    epoch_plan,
    idle_annealing,
    kl_weight,
    learning_rate,
    step_lr,
    teacher_forcing_drawn,
    teacher_forcing_ratio,
)

# ---------------------------------------------------------------- β


def test_figure_of_fu_et_al() -> None:
    """Figure 1: 40,000 iterations; Monotonic ratio 0.25, Cyclical with 4 cycles, ratio 0.5."""

    def monotonic(i: int) -> float:
        return kl_weight(i, num_epoch=40_000, anneal_type="Monotonic", cycles=4, ratio=0.25)

    def cyclical(i: int) -> float:
        return kl_weight(i, num_epoch=40_000, anneal_type="Cyclical", cycles=4, ratio=0.5)

    assert [monotonic(i) for i in (0, 5_000, 10_000, 25_000, 39_999)] == [0, 0.5, 1, 1, 1]
    for begin in (0, 10_000, 20_000, 30_000):
        found = [cyclical(begin + i) for i in (0, 2_500, 5_000, 9_999)]
        assert found == pytest.approx([0, 0.5, 1, 1])


def test_cycles_are_counted_and_of_any_length() -> None:
    values = [kl_weight(e, num_epoch=20, cycles=5) for e in range(20)]
    assert values == pytest.approx([0, 0.25, 0.5, 0.75] * 5)  # not five epochs each
    # N/M = 10/3: β = min(1, (e mod 10/3) / (10/3) / 0.5).
    expected = [min(1.0, (e % (10 / 3)) / (10 / 3) / 0.5) for e in range(10)]
    found = [kl_weight(e, num_epoch=10, cycles=3, ratio=0.5) for e in range(10)]
    assert found == pytest.approx(expected)
    for num_epoch in range(1, 101):  # each begins at zero, exactly
        for cycles in (c for c in range(1, 12) if num_epoch % c == 0):
            starts = (k * num_epoch // cycles for k in range(cycles))
            assert {kl_weight(e, num_epoch=num_epoch, cycles=cycles) for e in starts} == {0}
    # More cycles than epochs, and epochs past the end.
    assert all(0 <= kl_weight(e, num_epoch=3, cycles=10, ratio=0.5) <= 1 for e in range(30))


def test_plateau_and_constant() -> None:
    assert kl_weight(7, num_epoch=10, anneal_type="Monotonic", ratio=0.5, beta=0.02) == 0.02
    assert kl_weight(0, num_epoch=10, anneal_type="None", beta=0.3) == 0.3
    assert kl_weight(0, num_epoch=10, anneal_type="None", beta=0.0) == 0.0


# ---------------------------------------------------------------- teacher forcing


def test_ratio_falls_a_step_an_epoch() -> None:
    values = [teacher_forcing_ratio(e, tfr=0.9, tfr_sde=3, tfr_d_step=0.4) for e in range(7)]
    assert values == [0.9, 0.9, 0.9, 0.5, 0.1, 0.0, 0.0]
    assert [teacher_forcing_ratio(e) for e in (9, 10, 18, 19)] == [1.0, 0.9, 0.1, 0.0]  # exactly
    raised = {"tfr": 0.5, "tfr_sde": 0, "tfr_d_step": 0.25, "raised_at": 4}
    values = [teacher_forcing_ratio(e, **raised) for e in range(4, 10)]
    assert values == [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]


def test_draw_follows_ratio_and_is_repeatable() -> None:
    assert all(teacher_forcing_drawn(s, e, 1.0) for s in range(5) for e in range(40))
    assert not any(teacher_forcing_drawn(s, e, 0.0) for s in range(5) for e in range(40))
    draws = [teacher_forcing_drawn(0, e, 0.3) for e in range(2000)]
    assert draws == [teacher_forcing_drawn(0, e, 0.3) for e in range(2000)]
    assert draws != [teacher_forcing_drawn(1, e, 0.3) for e in range(2000)]
    assert sum(draws) / 2000 == pytest.approx(0.3, abs=0.04)


def raises(results: list[tuple[float, float]], patience: int = 3) -> list[int]:
    """After which epochs the detector raised the ratio; results: loss and PSNR of each."""
    detector = TF_detector(patience, 0.1)
    return [e for e, (loss, psnr) in enumerate(results) if detector.update(e, loss, psnr)]


def test_detector_raises_at_a_plateau_and_starts_again() -> None:
    assert raises([(0.01, 20.0 + 0.01 * e) for e in range(6)]) == [2, 5]
    assert raises([(0.01, 20.0)] * 9, patience=0) == []
    # The last three must rest, not all: it had moved before.
    assert raises([(0.5, 3.0), (0.01, 20.0), (0.01, 20.0), (0.01, 20.0)]) == [3]


def test_detector_needs_both_loss_and_psnr_to_rest_in_decibels() -> None:
    """Losses near 0 differ by nothing in themselves: 0.001 and 0.0011 are 0.41 dB apart."""
    assert raises([(0.001 * 1.1**e, 20.0) for e in range(6)]) == []
    assert raises([(0.001 * 1.01**e, 20.0) for e in range(6)]) == [2, 5]  # 0.086 dB in three
    assert raises([(0.01, 20.0 + 0.06 * e) for e in range(6)]) == []  # 0.12 dB in three
    assert raises([(0.0, 20.0)] * 3) == [2]
    for broken in (math.nan, math.inf):
        assert raises([(broken, 20.0)] * 9) == raises([(0.01, broken)] * 9) == []


def test_detector_goes_on_from_its_saved_state() -> None:
    detector, other = TF_detector(3, 0.1), TF_detector(3, 0.1)
    for e in range(5):
        detector.update(e, 0.01, 20.0)
    other.load_state_dict(detector.state_dict())
    assert other == detector and other.raised_at == 3
    assert other.update(5, 0.01, 20.0) and other.raised_at == 6


# ---------------------------------------------------------------- learning rate


def test_learning_rates_by_hand() -> None:
    def rates(epochs: int, **kind: object) -> list[float]:
        return [learning_rate(e, lr=2.0, **kind) for e in range(epochs)]

    assert rates(5, num_epoch=5) == [2.0] * 5
    kind = {"scheduler": "multistep", "milestones": (2, 4), "gamma": 0.5}
    assert rates(6, num_epoch=6, **kind) == [2.0, 2.0, 1.0, 1.0, 0.5, 0.5]
    found = rates(5, num_epoch=4, scheduler="cosine")
    assert found == pytest.approx([2.0, 1 + math.sqrt(0.5), 1.0, 1 - math.sqrt(0.5), 0.0])


# ---------------------------------------------------------------- of a run


def options_of(typed: str) -> TrainerOptions:
    return parse_trainer("", ["--DR", "d", *typed.split()])[0]


def test_plan_follows_the_schedules() -> None:
    options = options_of(
        "--num_epoch 8 --tfr 1 --tfr_sde 2 --tfr_d_step 0.5 --kl_anneal_type Cyclical "
        "--kl_anneal_cycle 2 --kl_anneal_ratio 0.5 --kl_beta 0.1 --lr 0.01 "
        "--lr_scheduler multistep --lr_milestones 4 --lr_gamma 0.1"
    )
    plans = [epoch_plan(options, e) for e in range(8)]
    assert [p.tfr for p in plans] == [1, 1, 0.5, 0, 0, 0, 0, 0]
    assert [p.beta for p in plans] == pytest.approx([0, 0.05, 0.1, 0.1] * 2)
    assert [p.lr for p in plans] == pytest.approx([0.01] * 4 + [0.001] * 4)
    assert [p.teacher_forcing for p in plans[:2]] == [True, True]
    assert not any(p.teacher_forcing for p in plans[3:])
    assert epoch_plan(options, 6, raised_at=5).tfr == 0.5
    half = options_of("--tfr 0.5 --tfr_sde 100 --seed 3")
    assert len({epoch_plan(half, e).teacher_forcing for e in range(20)}) == 2
    half.rollout_every = 1  # each step draws for itself
    assert {epoch_plan(half, e).teacher_forcing for e in range(20)} == {True}
    half.tfr = 0.0  # and none of them draws it
    assert {epoch_plan(half, e).teacher_forcing for e in range(20)} == {False}


def test_learning_rate_of_a_step() -> None:
    cosine = options_of("--num_epoch 4 --lr 0.01 --lr_scheduler cosine")
    assert step_lr(cosine, 0, 0, 10, 0) == 0.01
    assert step_lr(cosine, 2, 0, 10, 20) == pytest.approx(0.005)  # half way
    expected = 0.005 * (1 + math.cos(math.pi * 2.5 / 4))
    assert step_lr(cosine, 2, 5, 10, 20) == pytest.approx(expected)
    steps = ((0, 0, 0), (0, 9, 0), (1, 4, 10), (1, 9, 10), (3, 9, 30))
    muon = options_of("--num_epoch 4 --lr 0.01 --optim Muon")
    found = [step_lr(muon, e, n, 10, before) for e, n, before in steps]
    assert found == pytest.approx([0.0005, 0.005, 0.0075, 0.01, 0.01])
    adam = options_of("--num_epoch 4 --lr 0.01 --lr_scheduler multistep --lr_milestones 2")
    found = [step_lr(adam, e, n, 10, 10 * e) for e, n in ((0, 0), (1, 9), (2, 0))]
    assert found == pytest.approx([0.01, 0.01, 0.001])


def test_default_milestones_follow_the_length_of_the_run() -> None:
    options = options_of("--num_epoch 8 --lr 0.01 --lr_scheduler multistep")
    assert [epoch_plan(options, e).lr for e in (3, 4, 6)] == pytest.approx([0.01, 1e-3, 1e-4])
    options.num_epoch = 40  # as --resume --num_epoch 40 does
    assert [epoch_plan(options, e).lr for e in (19, 20, 30)] == pytest.approx([0.01, 1e-3, 1e-4])


def test_annealing_that_hardly_rises_is_noted() -> None:
    # Ten cycles in ten epochs: each epoch is the first one of its cycle.
    assert (
        "is 0, 0, 0, 0, … by epoch; fewer --kl" in idle_annealing(options_of("--num_epoch 10"))[0]
    )
    assert "is 0, 0.5, 0, 0.5, … by" in idle_annealing(options_of("--num_epoch 20"))[0]
    (note,) = idle_annealing(options_of("--num_epoch 2 --kl_anneal_type Monotonic --kl_beta 0.1"))
    assert "is 0, 0.05 by epoch; more --num_epoch" in note
    for other in ("--num_epoch 30", "--num_epoch 10 --kl_anneal_cycle 4", "--kl_beta 0"):
        assert idle_annealing(options_of(other)) == [], other
