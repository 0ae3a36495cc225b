"""Numbers and settings in words."""

from typing import Any

import pytest

from modules.figures.words import forcing_text, kl_text, plain_number, shorten, value_text


def test_numbers_as_a_user_types_them() -> None:
    assert [plain_number(x) for x in (0.001, 20.0, 1e-5, 1 / 3)] == [
        *("0.001", "20", "1e-5", "0.333333")
    ]
    assert [value_text(x) for x in ([35, 52], 0.5, None, True)] == ["35 52", "0.5", "None", "True"]


def test_long_names_are_cut_in_the_middle() -> None:
    assert shorten("abcdef", 6) == "abcdef"
    assert shorten("abcdefghij", 5) == "ab…ij"


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({}, "Cyclical, 10 cycles, ratio 1"),
        ({"kl_beta": 0.5}, "Cyclical, 10 cycles, ratio 1, β to 0.5"),
        ({"kl_anneal_type": "Monotonic", "kl_anneal_ratio": 0.25}, "Monotonic, ratio 0.25"),
        ({"kl_anneal_type": "None", "kl_beta": 0.0}, "none, β = 0"),
    ],
)
def test_kl_annealing(changed: dict[str, Any], text: str) -> None:
    usual = {"kl_anneal_type": "Cyclical", "kl_anneal_cycle": 10, "kl_anneal_ratio": 1.0}
    assert kl_text({**usual, "kl_beta": 1.0, **changed}) == text


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({}, "1, −0.1 per epoch from 10"),
        ({"tfr_d_step": 0.0}, "1 throughout"),
        ({"tfr": 0.0}, "none"),
        ({"detector_patience": 3}, "1, −0.1 per epoch from 10, detector (patience 3)"),
    ],
)
def test_teacher_forcing(changed: dict[str, Any], text: str) -> None:
    assert forcing_text({"tfr": 1.0, "tfr_sde": 10, "tfr_d_step": 0.1, **changed}) == text
