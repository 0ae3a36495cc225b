"""Tiny data sets."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image


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


def png_claiming(width: int, height: int) -> bytes:
    """A PNG that claims a size and has next to no pixels: a decompression bomb."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checksum

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(b""))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels + chunk(b"IEND", b"")
