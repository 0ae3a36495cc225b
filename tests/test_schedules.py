"""Schedules against hand-computed values and the figure of Fu et al. 2019."""

import math

import pytest

from modules.data import derived_seed
from modules.schedules import (
    TF_detector,
    kl_weight,
    learning_rate,
    teacher_forcing_drawn,
    teacher_forcing_ratio,
)


class TestKlWeight:
    def test_figure_of_fu_et_al(self) -> None:
        # Figure 1: 40,000 iterations; Monotonic ratio 0.25, Cyclical with 4 cycles, ratio 0.5.
        def monotonic(i: int) -> float:
            return kl_weight(i, num_epoch=40_000, anneal_type="Monotonic", cycles=4, ratio=0.25)

        def cyclical(i: int) -> float:
            return kl_weight(i, num_epoch=40_000, anneal_type="Cyclical", cycles=4, ratio=0.5)

        assert [monotonic(i) for i in (0, 5_000, 10_000, 25_000, 39_999)] == [0, 0.5, 1, 1, 1]
        for begin in (0, 10_000, 20_000, 30_000):
            assert cyclical(begin) == 0
            assert cyclical(begin + 2_500) == pytest.approx(0.5)
            assert cyclical(begin + 5_000) == 1
            assert cyclical(begin + 9_999) == 1

    def test_cycle_is_the_number_of_cycles(self) -> None:
        values = [kl_weight(e, num_epoch=20, cycles=5) for e in range(20)]
        assert values == pytest.approx([0, 0.25, 0.5, 0.75] * 5)
        assert values.count(0) == 5  # read as epochs per cycle there would be 4

    def test_fractional_cycle_length(self) -> None:
        # N/M = 10/3: β = min(1, (e mod 10/3) / (10/3) / 0.5).
        expected = [min(1.0, (e % (10 / 3)) / (10 / 3) / 0.5) for e in range(10)]
        found = [kl_weight(e, num_epoch=10, cycles=3, ratio=0.5) for e in range(10)]
        assert found == pytest.approx(expected)

    @pytest.mark.parametrize("num_epoch", range(1, 101))
    def test_every_cycle_begins_at_zero(self, num_epoch: int) -> None:
        for cycles in range(1, 12):
            if num_epoch % cycles == 0:
                for k in range(cycles):
                    assert (
                        kl_weight(k * num_epoch // cycles, num_epoch=num_epoch, cycles=cycles) == 0
                    )

    def test_more_cycles_than_epochs_and_epochs_past_the_end(self) -> None:
        values = [kl_weight(e, num_epoch=3, cycles=10, ratio=0.5) for e in range(30)]
        assert all(0 <= v <= 1 for v in values)

    def test_plateau_and_constant(self) -> None:
        assert kl_weight(7, num_epoch=10, anneal_type="Monotonic", ratio=0.5, beta=0.02) == 0.02
        assert kl_weight(0, num_epoch=10, anneal_type="None", beta=0.3) == 0.3
        assert kl_weight(0, num_epoch=10, anneal_type="None", beta=0.0) == 0.0

    def test_monotonic_ignores_cycles(self) -> None:
        for e in range(10):
            one = kl_weight(e, num_epoch=10, anneal_type="Monotonic", cycles=7)
            assert one == pytest.approx(e / 10)


class TestTeacherForcing:
    def test_step_decay(self) -> None:
        values = [teacher_forcing_ratio(e, tfr=1.0, tfr_sde=3, tfr_d_step=0.4) for e in range(7)]
        assert values == [1.0, 1.0, 1.0, 0.6, 0.2, 0.0, 0.0]

    def test_reaches_zero_exactly(self) -> None:
        assert teacher_forcing_ratio(19, tfr=1.0, tfr_sde=10, tfr_d_step=0.1) == 0.0
        assert teacher_forcing_ratio(18, tfr=1.0, tfr_sde=10, tfr_d_step=0.1) == 0.1

    def test_raised(self) -> None:
        values = [
            teacher_forcing_ratio(e, tfr=0.5, tfr_sde=0, tfr_d_step=0.25, raised_at=4)
            for e in range(4, 10)
        ]
        assert values == [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]

    def test_draw_follows_ratio_and_is_repeatable(self) -> None:
        assert all(teacher_forcing_drawn(s, e, 1.0) for s in range(5) for e in range(40))
        assert not any(teacher_forcing_drawn(s, e, 0.0) for s in range(5) for e in range(40))
        draws = [teacher_forcing_drawn(0, e, 0.3) for e in range(2000)]
        assert draws == [teacher_forcing_drawn(0, e, 0.3) for e in range(2000)]
        assert draws != [teacher_forcing_drawn(1, e, 0.3) for e in range(2000)]
        assert sum(draws) / 2000 == pytest.approx(0.3, abs=0.04)


class TestDetector:
    def test_raises_at_a_plateau_and_starts_again(self) -> None:
        detector = TF_detector(patience=3, threshold=0.1)
        fired = [detector.update(e, 0.01, 20.0 + 0.01 * e) for e in range(6)]
        assert fired == [False, False, True, False, False, True]
        assert detector.raised_at == 6
        assert detector.history == []

    def test_both_loss_and_psnr_must_rest(self) -> None:
        assert not any(TF_detector_run([(0.5 * e, 20.0) for e in range(6)]))
        assert not any(TF_detector_run([(0.01, 20.0 + e) for e in range(6)]))
        assert any(TF_detector_run([(0.01, 20.0)] * 6))  # the control

    def test_off_and_not_finite(self) -> None:
        assert not any(TF_detector(patience=0).update(e, 0.0, 20.0) for e in range(9))
        assert not any(TF_detector_run([(math.nan, math.nan)] * 9))
        assert not any(TF_detector_run([(math.inf, -math.inf)] * 9))

    def test_state_round_trip(self) -> None:
        detector = TF_detector(patience=3, threshold=0.1)
        detector.update(0, 0.01, 20.0)
        detector.update(1, 0.01, 20.0)
        other = TF_detector(patience=3, threshold=0.1)
        other.load_state_dict(detector.state_dict())
        assert other.update(2, 0.01, 20.0)


def TF_detector_run(results: list[tuple[float, float]]) -> list[bool]:
    detector = TF_detector(patience=3, threshold=0.1)
    return [detector.update(e, *result) for e, result in enumerate(results)]


class TestLearningRate:
    def test_constant(self) -> None:
        assert {learning_rate(e, num_epoch=5, lr=0.01) for e in range(5)} == {0.01}

    def test_multistep(self) -> None:
        values = [
            learning_rate(
                e, num_epoch=6, lr=1.0, scheduler="multistep", milestones=(2, 4), gamma=0.5
            )
            for e in range(6)
        ]
        assert values == [1.0, 1.0, 0.5, 0.5, 0.25, 0.25]

    def test_cosine(self) -> None:
        values = [learning_rate(e, num_epoch=4, lr=2.0, scheduler="cosine") for e in range(5)]
        assert values == pytest.approx([2.0, 1 + math.sqrt(0.5), 1.0, 1 - math.sqrt(0.5), 0.0])


def test_derived_seeds_differ_and_repeat() -> None:
    seeds = {derived_seed(s, e, t) for s in range(4) for e in range(20) for t in range(20)}
    assert len(seeds) == 1600
    assert derived_seed(1, 2, 3) == derived_seed(1, 2, 3)
    assert all(0 <= s < 2**63 for s in seeds)
