"""What several tests share: running the real scripts, tiny data sets, the shared real data."""

import contextlib
import io
import os
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

# Networks this small are faster on one thread, and threads of several runs at once get in each
# other's way. Read when torch is imported, and by the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
from PIL import Image

REPOSITORY = Path(__file__).resolve().parents[1]
SHARED = REPOSITORY.parent / "shared"
# The smallest model that the networks can be built with.
TINY = ["--F_dim", "8", "--L_dim", "4", "--N_dim", "4", "--D_out_dim", "8"]
TINY_RUN = [*TINY, "--train_vi_len", "4", "--frame_H", "16", "--frame_W", "16", "--device", "cpu"]

sys.path.insert(0, str(REPOSITORY))


def run_script(
    *arguments: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a script of the repository as a user would: `run_script("Trainer.py", "--DR", …)`.

    In this process, since importing torch anew for each run would take most of the tests' time,
    but through the script's own command line; in a process of its own when `env` is given.
    """
    script, *rest = map(str, arguments)
    path = str(REPOSITORY / script)
    if env is not None:
        return subprocess.run(
            [sys.executable, path, *rest],
            cwd=cwd,
            env={**os.environ, **env},
            capture_output=True,
            text=True,
            timeout=300,
        )
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        _inside(cwd or Path.cwd()),
        mock.patch.object(sys, "argv", [path, *rest]),
    ):
        try:
            runpy.run_path(path, run_name="__main__")
            status = 0
        except SystemExit as exit_:
            status = exit_.code if isinstance(exit_.code, int) else 1
    return subprocess.CompletedProcess([path, *rest], status, out.getvalue(), err.getvalue())


@contextlib.contextmanager
def _inside(folder: Path) -> Iterator[None]:
    """Work in a folder for a while."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def assert_refused(result: subprocess.CompletedProcess[str], *words: str) -> None:
    """Status 2 and an `error: …` that holds the words, without a traceback."""
    assert result.returncode == 2, result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    lines = result.stderr.strip().splitlines()
    assert lines[0].startswith("error: "), result.stderr
    for word in words:
        assert word in result.stderr, result.stderr


def write_images(folder: Path, count: int, draw: Callable[[int], np.ndarray]) -> None:
    """{0 … count-1}.png of what draw(i) gives, (H, W, 3) uint8."""
    folder.mkdir(parents=True)
    for i in range(count):
        Image.fromarray(draw(i)).save(folder / f"{i}.png")


def make_dataset(
    root: Path, *, train: int = 24, val: int = 10, tests: tuple[int, ...] = (6, 9), size: int = 16
) -> Path:
    """A data set in which a square moves over a fixed ground and the label shows where."""
    ground = np.random.default_rng(0).integers(60, 120, (size, size, 3), dtype=np.uint8)

    def frame(i: int, label: bool = False) -> np.ndarray:
        image = np.zeros_like(ground) if label else ground.copy()
        x, y = (3 * i) % (size - 5), (2 * i) % (size - 5)
        image[y : y + 5, x : x + 5] = (255, 0, 0) if label else (230, 200, 40)
        return image

    for split, count in (("train", train), ("val", val)):
        shift = 0 if split == "train" else 5
        write_images(root / split / f"{split}_img", count, lambda i, s=shift: frame(i + s))
        write_images(
            root / split / f"{split}_label", count, lambda i, s=shift: frame(i + s, label=True)
        )
    for number, count in enumerate(tests):
        write_images(root / f"test/test_img/{number}", 1, lambda i, n=number: frame(i + n))
        write_images(
            root / f"test/test_label/{number}", count, lambda i, n=number: frame(i + n, label=True)
        )
    return root


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound tiny data set; not to be changed."""
    return make_dataset(tmp_path_factory.mktemp("data") / "moving_square")


@pytest.fixture
def shared() -> Path:
    """The folder with the real data sets; tests that need it skip where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"no real data: {SHARED.name}/ is not beside the repository")
    return SHARED
