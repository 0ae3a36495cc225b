"""Image files: their order, exact RGB of every kind, and why a file cannot be used."""

import os
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from modules.datasets.images import decode_image, list_files, natural_order, read_image
from modules.runtime.errors import UserError
from tests.support.data import png_claiming

WIDTH, HEIGHT = 8, 4


def test_2_comes_before_10(tmp_path: Path) -> None:
    names = ["frame10.png", "frame2.png", "1.png", "a3b2.png", "a3b10.PNG", "frame02.jpeg"]
    for name in (*names, ".hidden.png", "notes.txt", "4.pngx"):
        (tmp_path / name).touch()
    found = [path.name for path in list_files(tmp_path, (".png", ".jpeg"))]
    assert found == sorted(names, key=lambda name: natural_order(Path(name)))
    assert found.index("frame2.png") < found.index("frame10.png")
    assert found.index("a3b2.png") < found.index("a3b10.PNG")
    assert sorted(names).index("frame10.png") < sorted(names).index("frame2.png")  # the control
    with pytest.raises(UserError, match="none: there is no such folder"):
        list_files(tmp_path / "none", (".png",))


GREY = np.full((HEIGHT, WIDTH), 200, np.uint8)
PALETTE = Image.new("RGB", (WIDTH, HEIGHT), (200, 10, 20)).quantize(4)


@pytest.mark.parametrize(
    ("image", "colour", "options"),
    [
        (Image.fromarray(GREY), (200, 200, 200), {}),
        (Image.fromarray(np.full((HEIGHT, WIDTH), 200 * 257, np.uint16)), (200, 200, 200), {}),
        (PALETTE, (200, 10, 20), {}),
        (PALETTE, (200, 10, 20), {"transparency": bytes([255, 0, 0, 0])}),
        (Image.new("RGBA", (WIDTH, HEIGHT), (1, 2, 3, 255)), (1, 2, 3), {}),
        (Image.new("LA", (WIDTH, HEIGHT), (7, 255)), (7, 7, 7), {}),
        (Image.new("1", (WIDTH, HEIGHT), 1), (255, 255, 255), {}),
    ],
    ids=["L", "I;16", "P", "P with transparency", "RGBA", "LA", "1"],
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


def changed(path: Path, change: Callable[[bytes], bytes]) -> None:
    path.write_bytes(change(path.read_bytes()))


def replaced(path: Path, make: Callable[[Path], object]) -> None:
    path.unlink()
    make(path)


def flipped(data: bytes) -> bytes:
    """One bit within the checksum of the pixels' chunk."""
    at = data.index(b"IEND") - 6
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda p: p.write_text("text"), "is not a PNG or JPEG image"),
        (lambda p: p.write_bytes(b""), "the file is empty (0 bytes)"),
        (lambda p: changed(p, lambda d: d[: len(d) // 2]), ""),
        (lambda p: changed(p, lambda d: d[:-12]), "cannot be read ("),
        (lambda p: changed(p, flipped), "cannot be read ("),
        (lambda p: Image.new("L", (9, 9)).save(p, "GIF"), "is not a PNG or JPEG image"),
        (lambda p: replaced(p, Path.mkdir), "is not a file"),
        (lambda p: replaced(p, os.mkfifo), "is not a file"),
        (lambda p: replaced(p, lambda q: q.symlink_to("nowhere")), "(No such file or directory)"),
        (lambda p: Image.new("1", (8200, 8200)).save(p), "8200 x 8200 pixels are too many"),
        (
            lambda p: p.write_bytes(png_claiming(9500, 9500)),
            "the pixels are too many",
        ),  # Pillow warns
        (
            lambda p: p.write_bytes(png_claiming(2**16, 2**16)),
            "the pixels are too many",
        ),  # and raises
    ],
)
def test_why_a_file_cannot_be_used(
    tmp_path: Path, damage: Callable[[Path], object], reason: str
) -> None:
    path = tmp_path / "3.png"
    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    assert np.array_equal(np.asarray(decode_image(path)), noise)  # the control
    damage(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        said = decode_image(path)
        assert isinstance(said, str)
        assert reason in said and "\n" not in said
        with pytest.raises(UserError) as caught:
            read_image(path)
    assert str(caught.value) == f"{path}: {said}"
