"""The data set of a moving camera: its layout, and its difficulties in the pixels."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from modules.datasets import pose as openpose
from modules.datasets.canvas import shrink
from tests.programs import moving_camera
from tests.programs.moving_camera import (
    Take,
    joints_seen,
    person_canvas,
    record,
)
from tests.support.scripts import run_script

PROGRAM = "tests/programs/moving_camera.py"
TINY = ["--train", "9", "--val", "5", "--test_length", "4"]
PIXELS = moving_camera.FINENESS * moving_camera.PERSON * 32  # background samples per stature


def contents(root: Path) -> dict[str, bytes]:
    files = (path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


def take(frames: int) -> Take:
    return record([0, 1, 0], frames, 32, 64)


def mask(one: Take, t: int) -> np.ndarray:
    """Where the person covers most of a pixel, (H, W)."""
    canvas, inside = person_canvas(one, t), np.zeros((one.height, one.width), bool)
    covered = shrink((canvas.paint >= 0)[..., None].astype(float), canvas.fineness)[..., 0]
    inside[canvas.top : canvas.bottom, canvas.left : canvas.right] = covered > 0.5
    return inside


# --- Files ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    root = tmp_path_factory.mktemp("moving") / "new" / "data"
    result = run_script(PROGRAM, root, *TINY)
    assert result.returncode == 0, result.stderr
    return root, result.stdout


def test_layout_passes_the_check(written: tuple[Path, str]) -> None:
    root, printed = written
    result = run_script("dataloader.py", "check", root)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "3 recording(s) of 3, 3, 3 frames" in result.stdout
    assert "2 sequence(s) of 4, 4 frames" in result.stdout
    assert len(list((root / "val/val_img").iterdir())) == 5
    with Image.open(root / "val/val_img/0.png") as picture:
        assert (picture.mode, picture.size) == ("RGB", (64, 32))
    values = dict(line.removesuffix(" dB").split(": ") for line in printed.splitlines())
    assert {"copy-first-frame", "mean-frame", "copy-previous-true-frame"} <= values.keys()
    assert all(float(value) > 10 for value in values.values())


def test_the_seed_decides_every_pixel(written: tuple[Path, str], tmp_path: Path) -> None:
    same, other = tmp_path / "same", tmp_path / "other"
    same.mkdir()  # an empty folder is taken
    run_script(PROGRAM, same, *TINY)
    assert contents(same) == contents(written[0])
    run_script(PROGRAM, other, *TINY, "--seed", "1")
    images = [name for name in contents(other) if name.endswith(".png")]
    assert all(contents(other)[name] != contents(same)[name] for name in images)


# --- Person and labels ------------------------------------------------------------------------


def test_labels_lie_on_the_person() -> None:
    one = take(frames=60)
    labels = list(openpose.draw_labels(*joints_seen(one), height=32, width=64))
    on, off = [], []
    for t in range(0, 60, 6):
        drawn = labels[t].max(axis=2) > 128
        on.append(mask(one, t)[drawn].mean())
        off.append(mask(one, t)[np.roll(drawn, 14, axis=1)].mean())
        assert 100 < mask(one, t).sum() < 400  # of 2,048 pixels
    assert np.mean(on) > 0.85
    assert np.mean(off) < 0.3  # control: labels 14 columns off
