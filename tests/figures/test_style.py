"""What every figure keeps to: text, lines, axes, files; no pyplot, any thread."""

import gc
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from modules.figures.compare import comparison_figure
from modules.figures.curves import draw_curves
from modules.figures.frames import draw_psnr_per_frame, write_sheet
from modules.figures.gifs import write_comparison_gif, write_gif
from modules.figures.runs import load_run
from modules.runtime.errors import UserError
from tests.support.drawn import (
    colours,
    make_run,
    texts,
    video,
)
from tests.support.scripts import REPOSITORY


def test_names_are_no_formulas(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    folder = make_run(tmp_path / "a$\\frac{$ 舞")
    assert colours(draw_curves(folder)) > 20
    both = [load_run(each) for each in (folder, make_run(tmp_path / "_b"))]
    figure = comparison_figure("validation_loss", both)
    assert {"a$\\frac{$ ?", " _b"} <= set(texts(figure))
    assert not recwarn.list


def test_no_pyplot_no_display_any_thread_no_growth(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", 3)
    code = f"""
import sys, threading
from pathlib import Path
from modules.figures.curves import draw_curves
thread = threading.Thread(target=draw_curves, args=(Path({str(folder)!r}),))
thread.start(); thread.join()
assert "matplotlib.pyplot" not in sys.modules, "pyplot"
assert Path({str(folder)!r}, "curves.png").stat().st_size > 10_000
"""
    env = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "WAYLAND_DISPLAY")}
    env["MPLBACKEND"] = "TkAgg"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    for _ in range(12):
        draw_curves(folder)
    gc.collect()
    assert sum(type(thing) is Figure for thing in gc.get_objects()) <= 1


def test_files_are_written_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_run(tmp_path / "run")
    before = draw_curves(folder).read_bytes()

    def refuse(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    frames = video(4)
    monkeypatch.setattr(Path, "replace", refuse)
    for write in (
        lambda: draw_curves(folder),
        lambda: write_gif(folder / "a.gif", frames),
        lambda: write_comparison_gif(folder / "b.gif", frames, frames, frames),
        lambda: write_sheet(folder / "c.png", frames, frames, frames),
        lambda: draw_psnr_per_frame(folder / "d.png", np.ones(3)),
    ):
        with pytest.raises(UserError, match="No space"):
            write()
    names = {"config.json", "curves.png", "latent.png", "metrics.csv", "psnr_per_frame.csv"}
    assert {path.name for path in folder.iterdir()} == names
    assert (folder / "curves.png").read_bytes() == before


def test_drawing_in_two_threads(tmp_path: Path) -> None:
    folders = [make_run(tmp_path / name) for name in "ab"]
    threads = [threading.Thread(target=draw_curves, args=(folder,)) for folder in folders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(colours(folder / "curves.png") > 20 for folder in folders)
