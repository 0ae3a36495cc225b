"""The data set of a moving camera: its layout, its seeds, and labels that lie on the person."""

from pathlib import Path

import numpy as np

from modules.datasets.canvas import shrink
from tests.programs.moving_camera import HEIGHT, WIDTH, Take, labels, person_canvas, record
from tests.support.scripts import run_script


def written(root: Path) -> dict[str, bytes]:
    """The files of a tiny data set that the program has written."""
    tiny = ("--train", "9", "--val", "5", "--test_length", "4")
    result = run_script("tests/programs/moving_camera.py", root, *tiny)
    assert result.returncode == 0, result.stderr
    return {str(f.relative_to(root)): f.read_bytes() for f in root.rglob("*") if f.is_file()}


def test_the_data_set_is_sound_and_always_the_same(tmp_path: Path) -> None:
    files = written(tmp_path / "new/data")
    result = run_script("dataloader.py", "check", tmp_path / "new/data")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "3 recording(s) of 3, 3, 3 frames" in result.stdout
    assert "2 sequence(s) of 4, 4 frames" in result.stdout
    assert files == written(tmp_path / "again")
    assert len(set(files.values())) == len(files)  # each recording has a seed of its own


def mask(take: Take, t: int) -> np.ndarray:
    """Where the person covers most of a pixel, (H, W)."""
    canvas, inside = person_canvas(take, t), np.zeros((HEIGHT, WIDTH), bool)
    covered = shrink((canvas.paint >= 0)[..., None].astype(float), canvas.fineness)[..., 0]
    inside[canvas.top : canvas.bottom, canvas.left : canvas.right] = covered > 0.5
    return inside


def test_labels_lie_on_the_person() -> None:
    take = record([0, 1, 0], 60)
    on, off = [], []
    for t, label in list(enumerate(labels(take)))[::6]:
        drawn, person = label.max(axis=2) > 128, mask(take, t)
        on.append(person[drawn].mean())
        off.append(person[np.roll(drawn, 14, axis=1)].mean())
        assert 100 < person.sum() < 400  # of 2,048 pixels
    assert np.mean(on) > 0.85
    assert np.mean(off) < 0.3  # the control: labels 14 columns off
