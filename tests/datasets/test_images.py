"""Image files: exact RGB of every kind, and why a file cannot be used."""

import os
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from modules.datasets.images import decode_image, read_image
from modules.runtime.errors import UserError
from tests.support.data import png_claiming

WIDTH, HEIGHT = 8, 4
GREY = np.full((HEIGHT, WIDTH), 200, np.uint8)
PALETTE = Image.new("RGB", (WIDTH, HEIGHT), (200, 10, 20)).quantize(4)


@pytest.mark.parametrize(
    ("image", "colour", "options"),
    [
        (Image.fromarray(GREY), (200, 200, 200), {}),
        (PALETTE, (200, 10, 20), {}),
        (PALETTE, (200, 10, 20), {"transparency": bytes([255, 0, 0, 0])}),
        (Image.new("RGBA", (WIDTH, HEIGHT), (1, 2, 3, 255)), (1, 2, 3), {}),
        (Image.new("1", (WIDTH, HEIGHT), 1), (255, 255, 255), {}),
    ],
    ids=["L", "P", "P with transparency", "RGBA", "1"],
)
def test_every_kind_becomes_rgb(
    tmp_path: Path, image: Image.Image, colour: tuple[int, ...], options: dict[str, bytes]
) -> None:
    path = tmp_path / "0.png"
    image.save(path, **options)  # type: ignore[arg-type]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a warning would be a line on the user's terminal
        read = read_image(path)
    assert (read.mode, read.size) == ("RGB", (WIDTH, HEIGHT))
    assert read.getpixel((5, 2)) == colour


def test_sixteen_bits_are_scaled_and_not_cut_off(tmp_path: Path) -> None:
    values = np.array([[0, 128, 257, 300, 32_768, 65_535]], np.uint16)
    Image.fromarray(values).save(tmp_path / "0.png")
    read = np.asarray(read_image(tmp_path / "0.png"))[0, :, 0]
    assert read.tolist() == np.rint(values[0] / 257).tolist() == [0, 0, 1, 1, 128, 255]


def noise(mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(1).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


@pytest.mark.parametrize(
    ("suffix", "kind", "mode", "options"),
    [
        (".bmp", "BMP", "P", {}),
        (".avif", "AVIF", "RGB", {"quality": 100, "subsampling": "4:4:4"}),
        (".tif", "TIFF", "CMYK", {}),
        (".pgm", "PPM", "L", {}),
        (".png", "TIFF", "RGB", {}),
    ],
)
def test_kinds_beyond_png_and_jpeg_keep_their_pixels(
    suffix: str, kind: str, mode: str, options: dict[str, object], tmp_path: Path
) -> None:
    path, image = tmp_path / f"0{suffix}", noise(mode)
    image.save(path, kind, **options)  # type: ignore[arg-type]
    read, exact = (np.asarray(x, int) for x in (read_image(path), image.convert("RGB")))
    assert np.abs(read - exact).max() <= (2 if kind == "AVIF" else 0)


def changed(path: Path, change: Callable[[bytes], bytes], kind: str = "PNG") -> None:
    noise().save(path, kind)
    path.write_bytes(change(path.read_bytes()))


def flipped(data: bytes) -> bytes:
    """One bit within the checksum of the pixels' chunk."""
    at = data.index(b"IEND") - 6
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def test_a_png_with_long_notes_keeps_its_pixels(tmp_path: Path) -> None:
    """Pillow's own limits refuse it."""
    kind, text = b"zTXt", b"prompt\0\0" + zlib.compress(b"a" * 2**26 + b"a")
    path = tmp_path / "0.png"
    changed(path, lambda data: data[:33] + png_chunk(kind, text) + data[33:])
    assert np.array_equal(np.asarray(read_image(path)), np.asarray(noise()))
    path.write_bytes(flipped(path.read_bytes()))  # the pixels' checksum still counts
    assert "corrupted" in str(decode_image(path))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda p: p.write_bytes(b""), "the file is empty (0 bytes)"),
        (lambda p: changed(p, lambda d: d[:-12]), "is corrupted or cut short ("),
        (lambda p: changed(p, flipped), "is corrupted or cut short ("),
        (lambda p: changed(p, lambda d: d[:-9], "WEBP"), ""),
        (os.mkfifo, "is not a file"),
        (lambda p: p.symlink_to("nowhere"), "(No such file or directory)"),
        (lambda p: Image.new("1", (8200, 8200)).save(p), "8200 x 8200 pixels are too many"),
        # Pillow warns of the first and raises at the second.
        (lambda p: p.write_bytes(png_claiming(9500, 9500)), "the pixels are too many"),
        (lambda p: p.write_bytes(png_claiming(2**16, 2**16)), "the pixels are too many"),
        (
            lambda p: noise().save(p, "TIFF", save_all=True, append_images=[noise()]),
            "holds 2 pictures; a frame is one",
        ),
        (lambda p: Image.new("LAB", (4, 4)).save(p, "TIFF"), "(LAB); save it as 8-bit RGB"),
        (lambda p: Image.new("I", (4, 4)).save(p, "TIFF"), "(I); save it as 8-bit RGB"),
        (lambda p: noise().save(p, "GIF"), "can be read, it is a GIF; convert it to PNG"),
        (lambda p: p.write_bytes(b"\0\0\0\x18ftypheic"), "it is HEIC or a video"),
        (lambda p: p.write_bytes(b"version https://git-lfs"), "git lfs pull"),
        (lambda p: p.write_bytes(b"epoch,loss"), "it is a text file; give the pictures"),
        (lambda p: p.write_bytes(b"\1\2\3"), "or its header is corrupted (read are PNG, JPEG"),
    ],
)
def test_why_a_file_cannot_be_used(
    tmp_path: Path, make: Callable[[Path], object], words: str
) -> None:
    path = tmp_path / "3.png"
    make(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        said = decode_image(path)
        with pytest.raises(UserError) as caught:
            read_image(path)
    assert isinstance(said, str) and words in said and "\n" not in said
    assert str(caught.value) == f"{path}: {said}"
