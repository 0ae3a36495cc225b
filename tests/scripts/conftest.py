"""Fixtures of the tests of the scripts."""

from pathlib import Path

import pytest

from tests.support.scripts import train


@pytest.fixture(scope="session")
def trained(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of three epochs; not to be changed."""
    run = tmp_path_factory.mktemp("runs") / "trained"
    train(dataset, run, "--num_epoch", "3", "--auto_save", "--store_visualization")
    return run
