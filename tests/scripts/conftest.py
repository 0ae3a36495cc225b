"""Fixtures of the tests of the scripts."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.scripts import figures_left_empty, train


@pytest.fixture(scope="session")
def trained(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of three epochs; not to be changed."""
    run = tmp_path_factory.mktemp("runs") / "trained"
    train(dataset, run, "--num_epoch", "3", "--auto_save", "--store_visualization")
    return run


@pytest.fixture(scope="module")
def no_figures(trained: Path) -> Iterator[None]:
    """All runs of a file draw nothing, but for `trained`, which other files use too."""
    with figures_left_empty():
        yield
