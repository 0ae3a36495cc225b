"""A data set's copy with its labels drawn on another background, paler and darker."""

import shutil
from pathlib import Path

import numpy as np
from PIL import Image

DARK = 0.8  # of the lines' colours


def redraw(root: Path, out: Path, ground: int = 255, opacity: float = 0.5625) -> Path:
    """Copy a data set with labels on black; its labels come to lie on a grey value, 0-255.

    On white it is what shared/white_labels.py does: a colour c of which a part a of a pixel is
    covered, a · c on black, becomes ground + opacity · (0.8 · a · c - a · ground).
    """
    shutil.copytree(root, out)
    for path in out.rglob("*_label/**/*.png"):
        with Image.open(path) as image:
            ink = np.asarray(image.convert("RGB")).astype(float)
        covered = ink.max(axis=2, keepdims=True) / 255
        label = ground + opacity * (DARK * ink - covered * ground)
        Image.fromarray(label.clip(0, 255).round().astype(np.uint8)).save(path)
    return out
