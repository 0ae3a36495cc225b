"""Image files: which are read, and how they are decoded to 8-bit RGB."""

import stat
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, UnidentifiedImageError

if TYPE_CHECKING:
    pass

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")


# Twice an 8K video frame; beyond it a picture is a mistake or made to fill the memory.
MAX_PIXELS = 2**26


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
    """The image of a file as it is stored, fully decoded, or in words why it cannot be used."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            return "is not a file"  # opening a pipe would wait for ever
        if status.st_size == 0:
            return "the file is empty (0 bytes)"
        with path.open("rb") as stream:
            # Only these two decoders, since a name says little about what a file holds.
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
        return "is not a PNG or JPEG image, or its beginning is damaged"
    except Exception as error:
        # Not narrower: Pillow's decoders meet damaged files with OSError, SyntaxError, ValueError,
        # EOFError, struct.error, zlib.error and others, and all of them mean this file.
        reason = error.strerror if isinstance(error, OSError) else None
        return f"cannot be read ({reason or error or type(error).__name__})"
