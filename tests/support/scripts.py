"""Running the scripts of the repository as a user would."""

import contextlib
import io
import os
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from modules.runtime.files import write_atomically

REPOSITORY = Path(__file__).resolve().parents[2]
SHARED = REPOSITORY.parent / "shared"
# The smallest model that the networks can be built with.
TINY = ["--F_dim", "8", "--L_dim", "4", "--N_dim", "4", "--D_out_dim", "8"]
TINY_RUN = [*TINY, "--train_vi_len", "4", "--frame_H", "16", "--frame_W", "16", "--device", "cpu"]


def run_script(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a script of the repository as a user would: `run_script("Trainer.py", "--DR", …)`.

    In this process, since importing torch again for each run would take most of the tests' time,
    but through the script's own command line.
    """
    script, *rest = map(str, arguments)
    path = str(REPOSITORY / script)
    out, err, before = io.StringIO(), io.StringIO(), Path.cwd()
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        mock.patch.object(sys, "argv", [path, *rest]),
    ):
        try:
            os.chdir(cwd or before)
            runpy.run_path(path, run_name="__main__")
            status = 0
        except SystemExit as exit_:
            status = exit_.code if isinstance(exit_.code, int) else 1
        finally:
            os.chdir(before)
    return subprocess.CompletedProcess([path, *rest], status, out.getvalue(), err.getvalue())


def done(*arguments: str | Path, cwd: Path | None = None) -> str:
    """Run a script that must succeed; what it printed."""
    result = run_script(*arguments, cwd=cwd)
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr
    return result.stdout


def python(*words: str | Path, **more: Any) -> subprocess.CompletedProcess[str]:
    """Python in a process of its own, in the repository unless told otherwise."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    kind = {"cwd": REPOSITORY, "timeout": 300, **pipes, **more}
    return subprocess.run([sys.executable, *map(str, words)], **kind)


@contextlib.contextmanager
def figures_left_empty() -> Iterator[list[tuple[str, Any]]]:
    """While inside, the figures of runs in this process are empty files: drawing them takes most of
    a tiny run's time. Yields their names so far, each with its title or number of epochs."""
    from modules.figures import curves, media

    drawn: list[tuple[str, Any]] = []

    def of_run(run: Any, name: str) -> None:
        drawn.append((name, len(run.epochs)))
        write_atomically(run.folder / name, b"")

    def of_frames(*_: Any, title: str, **__: Any) -> Any:
        drawn.append(("psnr_per_frame.png", title))
        return mock.Mock()

    def picture(path: Path, *_: Any, title: str) -> None:
        drawn.append((path.name, title))
        write_atomically(path, b"")

    with (
        mock.patch.multiple(curves, save_curves=of_run, psnr_per_frame_figure=of_frames),
        mock.patch.multiple(media, write_comparison_gif=picture, write_sheet=picture),
    ):
        yield drawn


def train(dataset: Path, run: Path, *more: str) -> str:
    """A tiny run of the Trainer that must succeed; what it printed."""
    return done("Trainer.py", "--DR", dataset, "--save_root", run, *TINY_RUN, *more)


def resume(run: Path, *more: str | Path) -> subprocess.CompletedProcess[str]:
    """The Trainer's --resume."""
    return run_script("Trainer.py", "--save_root", run, "--resume", *more)


def assert_refused(result: subprocess.CompletedProcess[str], *words: str) -> None:
    """Status 2 and an `error: …` that holds the words, without a traceback."""
    assert result.returncode == 2, result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    lines = result.stderr.strip().splitlines()
    assert lines[0].startswith("error: "), result.stderr
    for word in words:
        assert word in result.stderr, result.stderr
