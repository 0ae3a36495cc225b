"""Image files: listed in numeric order, and decoded to 8-bit RGB.

Files are decoded completely and their checksums are verified, so that a corrupted one is found.
"""

import re
import stat
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from modules.runtime.errors import UserError

# Pillow prints this for a damaged note on orientation, which upright() passes over. Set once, since
# images are decoded in threads.
warnings.filterwarnings("ignore", "Corrupt EXIF data", UserWarning)

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
WHITE, BLACK = 255, 0  # what transparent pixels of frames and of labels become
ORIENTATION = 0x0112  # tag of EXIF
TURNS = {  # value of the tag → what turns the image upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIDEWAYS = (5, 6, 7, 8)  # values with which width and height are exchanged
MAX_PIXELS = 2**26  # twice an 8K video frame; a larger image is a mistake or a decompression bomb


def natural_order(path: Path) -> list[tuple[int, str]]:
    """A sorting key for file names: 2 comes before 10."""
    parts = re.split(r"([0-9]+)", path.name)
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]


def list_files(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    """The files of a folder with one of these suffixes, in numeric order. Raises UserError."""
    if not folder.exists():
        raise UserError(f"{folder}: there is no such folder")
    try:
        files = [path for path in folder.iterdir() if not path.name.startswith(".")]
    except OSError as error:
        raise UserError(f"{folder}: cannot be read ({error.strerror})") from error
    return sorted((path for path in files if path.suffix.lower() in suffixes), key=natural_order)


def to_rgb(image: Image.Image, ground: int = WHITE) -> Image.Image:
    """Eight bits RGB from any kind of PNG or JPEG, upright ones unchanged.

    ground: grey value 0-255 that transparent pixels get: WHITE for frames, BLACK for labels
    """
    if image.mode.startswith("I"):
        # 16-bit grey. Pillow's own conversion cuts everything above 255 off; 65535 is white here.
        grey = (np.asarray(image).astype(np.int64) + 128) // 257
        image = Image.fromarray(grey.clip(0, 255).astype(np.uint8))
    if "transparency" in image.info:  # without this step Pillow prints a warning for some palettes
        image = image.convert("RGBA")
    if is_clear(image):
        whole = image.convert("RGBA")
        below = Image.new("RGBA", whole.size, (ground, ground, ground, 255))
        return Image.alpha_composite(below, whole).convert("RGB")
    return image.convert("RGB")


def upright(image: Image.Image, exif: Image.Exif | None = None) -> Image.Image:
    """The image turned as its EXIF orientation says, or as `exif` says if that is given.

    Cameras store pixels as the sensor lay, and note how to turn them.
    """
    try:
        orientation = (image.getexif() if exif is None else exif).get(ORIENTATION, 1)
    except Exception:  # a damaged note, of which Pillow raises many kinds, is no note
        return image
    turned = TURNS.get(orientation)
    return image if turned is None else image.transpose(turned)


def is_clear(image: Image.Image) -> bool:
    """Whether an image has transparent pixels."""
    with_alpha = image.mode in ("RGBA", "LA", "PA", "La", "RGBa")
    if not with_alpha and "transparency" not in image.info:
        return False
    lowest, _ = image.convert("RGBA").getchannel("A").getextrema()
    return int(lowest) < 255  # type: ignore[arg-type]


def decode_image(path: Path) -> Image.Image | str:
    """The image of a file, upright and fully decoded; a text if it cannot be used: why not."""
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
            return upright(image)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        return "the pixels are too many for a video frame"
    except UnidentifiedImageError:
        return "is not a PNG or JPEG image, or its header is corrupted"
    except Exception as error:
        # Not narrower: Pillow's decoders raise OSError, SyntaxError, ValueError, EOFError,
        # struct.error, zlib.error and others for a corrupted file.
        reason = error.strerror if isinstance(error, OSError) else None
        return f"cannot be read ({reason or error or type(error).__name__})"


def read_image(path: Path, ground: int = WHITE) -> Image.Image:
    """An image file as RGB, upright; ground: see `to_rgb`. Raises UserError that names it."""
    image = decode_image(path)
    if isinstance(image, str):
        raise UserError(f"{path}: {image}")
    return to_rgb(image, ground)
