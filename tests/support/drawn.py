"""What the tests of figures share: runs to draw, and what is found in a figure."""

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from modules.figures.style import COLUMN
from modules.options import TrainerOptions
from modules.runlog import METRIC_COLUMNS, MetricsTable, write_config, write_psnr_per_frame

BASELINES = {"first_frame": 20.26, "mean_train_frame": 22.73, "nearest_pose": 23.5}


def make_run(
    folder: Path,
    epochs: int = 10,
    *,
    options: dict[str, Any] | None = None,
    broken: tuple[int, ...] = (),
    rows: dict[int, dict[str, float]] | None = None,
    psnr: float = 25.0,
    frames: float | None = None,
    **config: Any,
) -> Path:
    """A run's folder. broken: epochs without a finite sequence; rows: values that differ; frames:
    the average in psnr_per_frame.csv, None for that of the best epoch."""
    folder.mkdir(parents=True)
    settings = {**asdict(TrainerOptions()), "DR": "data", "num_epoch": epochs, "tfr_sde": 2}
    settings |= {"save_root": str(folder), **(options or {})}
    write_config(folder / "config.json", {"options": settings, "baselines": BASELINES, **config})
    rng = np.random.default_rng(epochs)
    table = MetricsTable(folder / "metrics.csv", [])
    for epoch in range(epochs):
        score = psnr - 6 * math.exp(-epoch / 4) + 0.1 * rng.normal()
        mse = 10 ** (-(score + 3) / 10)
        row = dict.fromkeys(METRIC_COLUMNS, 0.0) | {"epoch": epoch, "seconds": 30.0, "lr": 0.001}
        row |= {"train_mse": mse, "train_kl": 50.0, "train_loss": mse + 0.01, "beta": epoch % 5 / 5}
        row |= {"train_psnr": score + 3, "val_psnr": score, "val_loss": 10 ** (-score / 10)}
        row |= {"val_psnr_inside": score - 4, "val_psnr_outside": score + 3}
        row |= {"tfr": max(0.0, 1 - epoch / 10), "tf_active": int(epoch % 3 != 2)}
        if epoch in broken:
            names = ("train_loss", "train_mse", "train_kl", "train_psnr")
            row |= {**dict.fromkeys(names, math.nan), "skipped": 7}
        row |= (rows or {}).get(epoch, {})
        table.add(row)
    scores = [row["val_psnr"] for row in table.unwritten if math.isfinite(row["val_psnr"])]
    table.write()  # the real writer's format
    best = max(scores, default=psnr)
    curve = rng.normal(size=40)
    curve += (best if frames is None else frames) - curve.mean()
    write_psnr_per_frame(folder / "psnr_per_frame.csv", curve, curve - 4, curve + 3)
    return folder


def lines(figure: Figure, name: str) -> list[Any]:
    """The figure's lines that show these numbers, in the order of drawing."""
    return [line for axes in figure.axes for line in axes.lines if line.get_gid() == name]


def line(figure: Figure, name: str) -> Any:
    (found,) = lines(figure, name)
    return found


def texts(figure: Figure) -> list[str]:
    """Everything that is written in a figure."""
    figure.canvas.draw()
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def check_layout(figure: Figure, width: float = COLUMN) -> None:
    """The figure has its width, nothing sticks out of it, no text is smaller than 7 pt."""
    assert figure.get_figwidth() * 2.54 == pytest.approx(width)
    assert all(text.get_fontsize() >= 7 for text in figure.findobj(Text) if text.get_text())
    figure.canvas.draw()  # which lays it out
    box = figure.get_tightbbox()
    assert box is not None
    assert box.x0 >= 0 and box.y0 >= 0
    assert box.x1 <= figure.get_figwidth() and box.y1 <= figure.get_figheight()


def colours(path: Path) -> int:
    """Number of distinct colours of an image file."""
    with Image.open(path) as image:
        found = image.convert("RGB").getcolors(maxcolors=2**24)
    return len(found)


def set_parent(child: Path, parent: Path | None, epoch: int) -> None:
    config = json.loads((child / "config.json").read_text())
    config["parent"] = {
        "ckpt_path": "best.ckpt",
        "run": None if parent is None else str(parent),
        "epoch": epoch,
    }
    (child / "config.json").write_text(json.dumps(config))


def video(frames: int, height: int = 8, width: int = 12, seed: int = 0) -> np.ndarray:
    shape = (frames, height, width, 3)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
