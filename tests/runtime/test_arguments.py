"""The parser of all scripts."""

from pathlib import Path

import pytest

from modules.runtime.arguments import ArgumentParser, path_argument
from modules.runtime.errors import UserError


def test_parser_takes_no_abbreviation() -> None:
    parser = ArgumentParser()
    parser.add_argument("--tfr_d_step", type=float)
    assert parser.parse_args(["--tfr_d_step", "0.1"]).tfr_d_step == 0.1
    with pytest.raises(UserError, match="--tfr_d"):
        parser.parse_args(["--tfr_d", "0.1"])


def test_an_empty_path_is_refused() -> None:
    parser = ArgumentParser()
    parser.add_argument("ROOT", type=path_argument)
    assert Path("data/a") == parser.parse_args(["data/a"]).ROOT
    with pytest.raises(UserError, match="ROOT: is empty"):
        parser.parse_args([""])
    assert Path() == Path()  # the control: what it would have been taken for


def test_a_value_that_starts_with_a_dash() -> None:
    parser = ArgumentParser()
    parser.add_argument("--DR")
    with pytest.raises(UserError, match=r"expected one argument; .* --DR=-value"):
        parser.parse_args(["--DR", "-data"])
    assert parser.parse_args(["--DR=-data"]).DR == "-data"
    with pytest.raises(UserError) as other:  # the control
        parser.parse_args(["--DT", "x"])
    assert "=-value" not in str(other.value)
