"""Tiny data sets, and ways to damage the files of a folder: `remove("train/train_img")(root)`."""

import shutil
import struct
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def write_images(folder: Path, pictures: Iterable[np.ndarray]) -> Path:
    """0.png, 1.png … of (H, W, 3) uint8, in a new folder."""
    folder.mkdir(parents=True)
    for number, picture in enumerate(pictures):
        Image.fromarray(picture).save(folder / f"{number}.png")
    return folder


def make_dataset(
    root: Path, *, train: int = 24, val: int = 10, tests: tuple[int, ...] = (6, 9), size: int = 16
) -> Path:
    """A data set in which a square moves over a fixed ground and the label shows where."""
    ground = np.random.default_rng(0).integers(60, 120, (size, size, 3), dtype=np.uint8)

    def frame(i: int, ground: np.ndarray = ground, colour: Any = (230, 200, 40)) -> np.ndarray:
        image = ground.copy()
        x, y = (3 * i) % (size - 5), (2 * i) % (size - 5)
        image[y : y + 5, x : x + 5] = colour
        return image

    def label(i: int) -> np.ndarray:
        return frame(i, np.zeros_like(ground), (255, 0, 0))

    for split, numbers in (("train", range(train)), ("val", range(5, 5 + val))):
        write_images(root / f"{split}/{split}_img", map(frame, numbers))
        write_images(root / f"{split}/{split}_label", map(label, numbers))
    for number, count in enumerate(tests):
        write_images(root / f"test/test_img/{number}", [frame(number)])
        write_images(root / f"test/test_label/{number}", map(label, range(number, number + count)))
    return root


def png_claiming(width: int, height: int) -> bytes:
    """A PNG that claims a size and has next to no pixels: a decompression bomb."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checksum

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(b""))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels + chunk(b"IEND", b"")


# ---------------------------------------------------------------- damage

Damage = Callable[[Path], object]  # takes the folder that all paths are relative to


def remove(*paths: str) -> Damage:
    def apply(root: Path) -> None:
        for path in paths:
            target = root / path
            shutil.rmtree(target) if target.is_dir() else target.unlink()

    return apply


def write(path: str, content: bytes | str) -> Damage:
    """A file with this content, in the place of whatever there is."""
    data = content.encode() if isinstance(content, str) else content

    def apply(root: Path) -> None:
        target = root / path
        if target.is_dir():
            shutil.rmtree(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)

    return apply


def folder(path: str) -> Damage:
    """An empty folder, in the place of whatever there is."""

    def apply(root: Path) -> None:
        if (root / path).exists():
            remove(path)(root)
        (root / path).mkdir(parents=True)

    return apply


def copy(source: str, target: str) -> Damage:
    return lambda root: shutil.copy(root / source, root / target)


def move(source: str, target: str) -> Damage:
    return lambda root: (root / source).rename(root / target)


def every(*steps: Damage) -> Damage:
    return lambda root: [step(root) for step in steps]
