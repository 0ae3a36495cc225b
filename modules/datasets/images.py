"""Image files, decoded to 8-bit RGB.

Files are decoded completely and their checksums are verified, so that a corrupted one is found.
"""

import io
import re
import stat
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin, UnidentifiedImageError

from modules.runtime.errors import UserError

# Of a damaged note on orientation, which upright() passes over; once, as threads decode images.
warnings.filterwarnings("ignore", "Corrupt EXIF data", UserWarning)

IMAGE_SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".webp", ".avif", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm"),
)
# Only these decoders: a file's name need not match its content.
FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "AVIF", "TIFF", "PPM")
READ = "PNG, JPEG, BMP, WebP, AVIF, TIFF and PPM"
# What else cameras and programs write for pictures.
PICTURE_SUFFIXES = (
    *(".heic", ".heif", ".jxl", ".jp2", ".tga", ".exr", ".hdr", ".psd", ".svg"),
    *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".raw"),
)
# What a file is that no decoder here knows, by its first bytes, and what to do.
OTHER_KINDS = {
    rb"version https://git-lfs": "a pointer of Git LFS; fetch the file with: git lfs pull",
    rb"GIF8": "a GIF; convert it to PNG",
    rb"8BPS": "a Photoshop file; convert it to PNG",
    rb"v/1\x01": "an OpenEXR file; convert it to PNG",
    rb"%PDF": "a PDF document; save its pictures as 0.png, 1.png, …",
    rb"\x89HDF": "an HDF5 file; save its pictures as 0.png, 1.png, …",
    rb"II\*\x00|MM\x00\*": "a TIFF of a kind that is not read; save it with 8 bits per colour",
    rb"\x93NUMPY|PK\x03\x04.{,200}\.npy": "an array of numpy; save it as 0.png, 1.png, …",
    rb"\x80": "a pickle; save its pictures as 0.png, 1.png, …",
    rb"PK\x03\x04|\x1f\x8b|7z\xbc\xaf|Rar!|BZh|\xfd7zXZ": "an archive; unpack it",
    rb".{4}ftyp": "HEIC or a video; convert it to PNG",
    rb"(?i:\s*<!doctype html|\s*<html)": "a web page; download the file itself",
    # Only where there is something, of no video format in plain text, without control characters.
    rb"(?!YUV4MPEG)[^\x00-\x08\x0e-\x1f]+\Z": "a text file; give the pictures themselves",
}
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
MAX_PIXELS = 2**26  # twice an 8K video frame; a larger image is a mistake or a decompression bomb
# Pillow refuses a PNG over long texts and colour profiles, on which no pixel depends.
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY = 2**28


def to_rgb(image: Image.Image, ground: int = WHITE) -> Image.Image:
    """Eight bits RGB from any kind of image that is read, upright ones unchanged.

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
    """The image turned as its EXIF orientation, or `exif`, says."""
    try:
        orientation = (image.getexif() if exif is None else exif).get(ORIENTATION, 1)
    except Exception:  # a damaged note, of which Pillow raises many kinds, is no note
        return image
    turned = TURNS.get(orientation)
    return image if turned is None else image.transpose(turned)


def is_clear(image: Image.Image) -> bool:
    """Whether an image has transparent pixels."""
    if not image.has_transparency_data:
        return False
    lowest, _ = image.convert("RGBA").getchannel("A").getextrema()
    return int(lowest) < 255  # type: ignore[arg-type]


def other_kind(head: bytes) -> str:
    """What a file is that no decoder here knows, by its first bytes, and what to do; or ""."""
    found = (f"it is {k}" for start, k in OTHER_KINDS.items() if re.match(start, head, re.DOTALL))
    return next(found, "")


def decode_image(path: Path) -> Image.Image | str:
    """The image of a file, upright and fully decoded; a text if it cannot be used: why not."""
    head = b""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            return "is not a file"  # opening a pipe would block forever
        if status.st_size == 0:
            return "the file is empty (0 bytes)"
        # Read at once: what the disk refuses is told apart from what the file holds.
        stream = io.BytesIO(path.read_bytes())
        head = stream.getvalue()[:512]
        image = Image.open(stream, formats=FORMATS)
        if image.width * image.height > MAX_PIXELS:
            return f"{image.width} x {image.height} pixels are too many for a video frame"
        # Pillow decodes a PNG without looking at its checksums: flipped bits become pixels.
        image.verify()
        image = Image.open(stream, formats=FORMATS)
        if image.format in ("TIFF", "WEBP") and getattr(image, "n_frames", 1) > 1:
            return f"holds {getattr(image, 'n_frames', 1)} pictures; a frame is one"
        image.load()
        if image.mode in ("F", "LAB", "HSV") or (image.mode == "I" and image.format == "TIFF"):
            return f"has pixels of a kind that is not read ({image.mode}); save it as 8-bit RGB"
        return upright(image)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        return "the pixels are too many for a video frame"
    except UnidentifiedImageError:
        kind = other_kind(head) or f"or its header is corrupted (read are {READ})"
        return f"is not an image that can be read, {kind}"
    except Exception as error:
        # Not narrower: Pillow's decoders raise OSError, SyntaxError, ValueError, EOFError,
        # struct.error, zlib.error and others for a corrupted file.
        if isinstance(error, OSError) and error.strerror:
            return f"cannot be read ({error.strerror})"
        return f"is corrupted or cut short ({error or type(error).__name__})"


def read_image(path: Path, ground: int = WHITE) -> Image.Image:
    """An image file as RGB, upright; ground: see `to_rgb`. Raises UserError that names it."""
    image = decode_image(path)
    if isinstance(image, str):
        raise UserError(f"{path}: {image}")
    return to_rgb(image, ground)
