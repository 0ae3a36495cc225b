"""Image files: listed in numeric order, and decoded to 8-bit RGB.

Files are decoded completely and their checksums are verified, so that a corrupted one is found.
"""

import re
import stat
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from modules.runtime.errors import UserError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
MAX_PIXELS = 2**26  # twice an 8K video frame; a larger image is a mistake or a decompression bomb


def natural_order(path: Path) -> list[tuple[int, str]]:
    """A sorting key for file names: 2 comes before 10."""
    parts = re.split(r"([0-9]+)", path.name)
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]


def list_files(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    """The files of a folder with one of these suffixes, in numeric order. Raises UserError."""
    try:
        files = [path for path in folder.iterdir() if not path.name.startswith(".")]
    except OSError as error:
        raise UserError(f"{folder}: cannot be read ({error.strerror})") from error
    return sorted((path for path in files if path.suffix.lower() in suffixes), key=natural_order)


def to_rgb(image: Image.Image) -> Image.Image:
    """Eight bits RGB from any kind of PNG or JPEG; transparency is dropped."""
    if image.mode.startswith("I"):
        # 16-bit grey. Pillow's own conversion cuts everything above 255 off; 65535 is white here.
        grey = (np.asarray(image).astype(np.int64) + 128) // 257
        image = Image.fromarray(grey.clip(0, 255).astype(np.uint8))
    elif image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # without this step Pillow prints a warning
    return image.convert("RGB")


def decode_image(path: Path) -> Image.Image | str:
    """The image of a file as it is stored, fully decoded; a text if it cannot be used: why not."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            return "is not a file"  # opening a pipe would block forever
        if status.st_size == 0:
            return "the file is empty (0 bytes)"
        with path.open("rb") as stream:
            # Only these two decoders: a file's name need not match its content.
            image = Image.open(stream, formats=("PNG", "JPEG"))
            if image.width * image.height > MAX_PIXELS:
                return f"{image.width} x {image.height} pixels are too many for a video frame"
            # Pillow decodes a PNG without looking at its checksums: flipped bits become pixels.
            image.verify()
            stream.seek(0)
            image = Image.open(stream, formats=("PNG", "JPEG"))
            image.load()
            return image
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        return "the pixels are too many for a video frame"
    except UnidentifiedImageError:
        return "is not a PNG or JPEG image, or its header is corrupted"
    except Exception as error:
        # Not narrower: Pillow's decoders raise OSError, SyntaxError, ValueError, EOFError,
        # struct.error, zlib.error and others for a corrupted file.
        reason = error.strerror if isinstance(error, OSError) else None
        return f"cannot be read ({reason or error or type(error).__name__})"


def read_image(path: Path) -> Image.Image:
    """An image file as RGB. Raises UserError that names it."""
    image = decode_image(path)
    if isinstance(image, str):
        raise UserError(f"{path}: {image}")
    return to_rgb(image)
