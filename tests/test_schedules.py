"""Schedules against hand-computed values and the figure of Fu et al. 2019."""

import math

import pytest

from modules.schedules import (
    TF_detector,
    epoch_plan,
    idle_annealing,
    kl_weight,
    learning_rate,
    teacher_forcing_drawn,
    teacher_forcing_ratio,
)
from tests.support.small_run import options_of


def test_figure_of_fu_et_al() -> None:
    """Figure 1: 40,000 iterations; Monotonic ratio 0.25, Cyclical with 4 cycles, ratio 0.5."""

    def weights(kind: str, ratio: float, *at: int) -> list[float]:
        how = {"anneal_type": kind, "cycles": 4, "ratio": ratio}
        return [kl_weight(i, num_epoch=40_000, **how) for i in at]

    assert weights("Monotonic", 0.25, 0, 5_000, 10_000, 25_000, 39_999) == [0, 0.5, 1, 1, 1]
    for begin in (0, 10_000, 20_000, 30_000):
        found = weights("Cyclical", 0.5, begin, begin + 2_500, begin + 5_000, begin + 9_999)
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
    assert [kl_weight(0, num_epoch=10, anneal_type="None", beta=b) for b in (0.3, 0.0)] == [0.3, 0]


def test_ratio_falls_a_step_an_epoch() -> None:
    values = [teacher_forcing_ratio(e, tfr=0.9, tfr_sde=3, tfr_d_step=0.4) for e in range(7)]
    assert values == [0.9, 0.9, 0.9, 0.5, 0.1, 0.0, 0.0]
    assert [teacher_forcing_ratio(e) for e in (9, 10, 18, 19)] == [1.0, 0.9, 0.1, 0.0]  # exactly
    raised = {"tfr": 0.5, "tfr_sde": 0, "tfr_d_step": 0.25, "raised_at": 4}
    values = [teacher_forcing_ratio(e, **raised) for e in range(4, 10)]
    assert values == [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]


def test_draw_follows_ratio_and_is_repeatable() -> None:
    def drawn(ratio: float, seed: int = 0) -> list[bool]:
        return [teacher_forcing_drawn(seed, epoch, ratio) for epoch in range(2000)]

    assert all(drawn(1.0)) and not any(drawn(0.0))
    assert drawn(0.3) == drawn(0.3) != drawn(0.3, seed=1)
    assert sum(drawn(0.3)) / 2000 == pytest.approx(0.3, abs=0.04)


@pytest.mark.parametrize(
    ("results", "expected"),
    [
        ([(0.01, 20.0 + 0.01 * e) for e in range(6)], [2, 5]),  # and its history starts anew
        ([(0.5, 3.0), *[(0.01, 20.0)] * 3], [3]),  # the last three must rest, not all
        # Both in decibels: losses of 0.001 and 0.0011 are 0.41 dB apart.
        ([(0.001 * 1.1**e, 20.0) for e in range(6)], []),
        ([(0.001 * 1.01**e, 20.0) for e in range(6)], [2, 5]),  # 0.086 dB in three
        ([(0.01, 20.0 + 0.06 * e) for e in range(6)], []),  # 0.12 dB in three
        ([(0.0, 20.0)] * 3, [2]),
        *(([(x, y)] * 9, []) for x in (0.01, math.nan, math.inf) for y in (math.nan, math.inf)),
    ],
)
def test_detector_raises_at_a_plateau(
    results: list[tuple[float, float]], expected: list[int]
) -> None:
    """Of both; results: loss and PSNR of each epoch."""
    detector, off = TF_detector(3, 0.1), TF_detector(0, 0.1)
    raised = [e for e, found in enumerate(results) if detector.update(e, *found)]
    assert raised == expected
    assert not any(off.update(e, *found) for e, found in enumerate(results))


def test_detector_goes_on_from_its_saved_state() -> None:
    detector, other = TF_detector(3, 0.1), TF_detector(3, 0.1)
    for e in range(5):
        detector.update(e, 0.01, 20.0)
    other.load_state_dict(detector.state_dict())
    assert other == detector and other.raised_at == 3
    assert other.update(5, 0.01, 20.0) and other.raised_at == 6


def test_learning_rates_by_hand() -> None:
    def rates(epochs: int, **kind: object) -> list[float]:
        return [learning_rate(e, lr=2.0, **kind) for e in range(epochs)]

    assert rates(5, num_epoch=5) == [2.0] * 5
    kind = {"scheduler": "multistep", "milestones": (2, 4), "gamma": 0.5}
    assert rates(6, num_epoch=6, **kind) == [2.0, 2.0, 1.0, 1.0, 0.5, 0.5]
    found = rates(5, num_epoch=4, scheduler="cosine")
    assert found == pytest.approx([2.0, 1 + math.sqrt(0.5), 1.0, 1 - math.sqrt(0.5), 0.0])


def test_plan_follows_the_schedules() -> None:
    options = options_of(
        "--num_epoch 8 --tfr 1 --tfr_sde 2 --tfr_d_step 0.5 --kl_anneal_cycle 2 "
        "--kl_anneal_ratio 0.5 --kl_beta 0.1 --lr 0.01 --lr_scheduler multistep"
    )
    beta, tfr, forced, lr = zip(*(epoch_plan(options, e) for e in range(8)), strict=True)
    assert tfr == (1, 1, 0.5, 0, 0, 0, 0, 0)
    assert beta == pytest.approx([0, 0.05, 0.1, 0.1] * 2)
    assert lr == pytest.approx([0.01] * 4 + [0.001] * 2 + [0.0001] * 2)  # by 1/2 and 3/4
    assert all(forced[:2]) and not any(forced[3:])
    assert epoch_plan(options, 6, raised_at=5).tfr == 0.5
    half = options_of("--tfr 0.5 --tfr_sde 100 --seed 3")
    drawn = {e: epoch_plan(half, e).teacher_forcing for e in range(20)}
    assert drawn == {e: teacher_forcing_drawn(3, e, 0.5) for e in range(20)}
    half.rollout_every = 1
    for half.tfr in (0.5, 0.0):  # each step draws for itself, unless none of them can
        assert {epoch_plan(half, e).teacher_forcing for e in range(20)} == {half.tfr > 0}


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("--num_epoch 10", "is 0, 0, 0, 0, … by epoch; fewer --kl"),  # each the first of a cycle
        ("--num_epoch 20", "is 0, 0.5, 0, 0.5, … by"),
        ("--num_epoch 2 --kl_anneal_type Monotonic", "is 0, 0.5 by epoch; more --num_epoch"),
        ("--num_epoch 30", ""),
        ("--num_epoch 10 --kl_anneal_cycle 4", ""),
        ("--kl_beta 0", ""),
    ],
)
def test_annealing_that_hardly_rises_is_noted(typed: str, words: str) -> None:
    notes = idle_annealing(options_of(typed))
    assert len(notes) == bool(words) and words in "".join(notes)
