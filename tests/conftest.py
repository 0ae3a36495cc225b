"""Fixtures of all tests."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

# Networks this small are faster on one thread, and threads of several runs at once get in each
# other's way. Read when torch is imported, and by the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

from modules.runtime import files
from tests.support.data import make_dataset
from tests.support.scripts import SHARED, figures_left_empty, train


def pytest_configure() -> None:
    """Signals as at a terminal.

    Under nohup, or behind an `&`, the tests are told to ignore some, and so would be all that they
    start, as a run of a user's then rightly does.
    """
    for name, usual in (("SIGHUP", signal.SIG_DFL), ("SIGINT", signal.default_int_handler)):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, usual)


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound tiny data set; not to be changed."""
    return make_dataset(tmp_path_factory.mktemp("data") / "moving_square")


@pytest.fixture(scope="session")
def trained(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of three epochs; not to be changed."""
    run = tmp_path_factory.mktemp("runs") / "trained"
    train(dataset, run, "--num_epoch", "3", "--auto_save", "--store_visualization")
    return run


@pytest.fixture
def shared() -> Path:
    """The folder with the real data sets; tests that need it skip where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"no real data: {SHARED.name}/ is not next to the repository")
    return SHARED


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many attempts at a file as ever, without the time between them."""
    monkeypatch.setattr(files, "WAITS", (0.0,) * len(files.WAITS))


@pytest.fixture(scope="module")
def no_figures() -> Iterator[None]:
    """All runs of a file draw nothing; see figures_left_empty."""
    with figures_left_empty():
        yield
