"""Files of weights: read in every format that PyTorch writes, and named where they are another.

Loading never runs code. PyTorch's restricted reader (`weights_only`) makes tensors and plain values
alone. Classes that it does not know (a settings object, a whole module) get an empty stand-in that
keeps what the file says about the object and has no behaviour; a file that asks for a function to
be called is refused, but for a few that make plain values, which are not called either.
"""

import bz2
import gzip
import io
import lzma
import pickle
import re
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import IO, Any, NamedTuple, NoReturn

import torch

from modules.runtime.errors import UserError, named, why
from modules.runtime.files import verify_archive
from modules.safetensors import is_safetensors, read_safetensors

HEAD = 512  # bytes that tell what a file is
LARGEST_UNPACKED = 2**33  # bytes; more in a compressed file is a mistake, or a trap
OLDER_FORMAT = (
    b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # torch.save before 1.6: its magic number
)
MOST_CLASSES = 1000  # of other code in a file
COMPRESSED = (
    (b"\x1f\x8b", gzip, "gzip"),
    (b"BZh", bz2, "bzip2"),
    (b"\xfd7zXZ\x00", lzma, "xz"),
)
WEIGHT_SUFFIXES = (".ckpt", ".pt", ".pth", ".safetensors", ".bin", ".tar")
ALONE = "torch.save(model.state_dict(), FILE) where it was made"  # what to do about a pickle

# Calls that make values beside the weights: paths, numpy's numbers, times.
HARMLESS = re.compile(
    r"pathlib\.(_local\.)?\w*Path|numpy(\._?core)?\.(multiarray\.(scalar|_reconstruct)|dtype)"
    r"|datetime\.\w+|copyreg\._reconstructor|collections\.deque|builtins\.(slice|frozenset)"
)
# Dictionaries with the names of attributes, as libraries of settings have them.
DICTIONARIES = re.compile(r".*\.(AttributeDict|AttrDict|EasyDict|Munch|DotDict|ConfigDict)")


class FileContent(NamedTuple):
    """What a file holds, and what is worth saying about how it was read."""

    content: Any  # nested plain values, tensors, and StandIn for objects of other code
    remarks: list[str]


class _Inert(type):
    """The class of stand-ins: calling one of them, as a file may ask for, is refused."""

    full_name: str

    def __call__(cls, *_: Any) -> Any:
        if not HARMLESS.fullmatch(cls.full_name):
            raise pickle.UnpicklingError(f"a call of GLOBAL {cls.full_name}")
        return cls.__new__(cls)  # type: ignore[call-overload]


class StandIn(metaclass=_Inert):
    """In the place of an object whose class is not loaded: only what the file says about it."""

    full_name = ""
    state: Any = None

    def __new__(cls, *_: Any) -> "StandIn":
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None:
        self.state = state


def read_weight_file(path: Path) -> FileContent:
    """What the file holds, its checksums verified. Raises UserError that says what is wrong."""
    data = _bytes(path)
    head = data[:HEAD]
    try:
        if is_safetensors(head):
            return FileContent(read_safetensors(path), ["safetensors"])
        for start, module, name in COMPRESSED:
            if head.startswith(start):
                with module.open(io.BytesIO(data)) as packed:
                    unpacked = packed.read(LARGEST_UNPACKED + 1)
                if len(unpacked) > LARGEST_UNPACKED:
                    raise UserError(f"{path}: unpacks to more than {LARGEST_UNPACKED >> 30} GiB")
                _refuse_other_kinds(path, unpacked[:HEAD], f"a {name} file of ")
                return _read_torch(path, io.BytesIO(unpacked), [f"unpacked ({name})"])
        _refuse_other_kinds(path, head)
        return _read_torch(path, io.BytesIO(data), [])
    except (UserError, MemoryError):
        raise
    except Exception as error:
        if isinstance(error.__cause__, KeyboardInterrupt):  # as PyTorch may wrap it
            raise error.__cause__ from None
        # Truncated, text and zero files raise exceptions of half a dozen classes, and a corrupted
        # pickle may raise any; whichever it is, the file cannot be used.
        _corrupted(path, _reason(head, error), error)


def _corrupted(path: Path, reason: str, error: BaseException | None = None) -> NoReturn:
    raise UserError(f"{path}: corrupted, or not a checkpoint{reason and f': {reason}'}") from error


def _bytes(path: Path) -> bytes:
    """The file's content, read at once: what the disk refuses is then told apart from what the file
    holds. Raises UserError if it is missing, a folder, unreadable or empty."""
    try:
        path.stat()
        if path.is_dir():
            _refuse_folder(path)
        if not path.is_file():
            raise UserError(f"{path}: not a checkpoint file")
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"{path}: no such checkpoint{_hint(path)}") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({why(error)})") from error
    if not data:
        _corrupted(path, "the file is empty (0 bytes)")
    return data


def _hint(path: Path) -> str:
    """What may have been meant by a path where there is nothing."""
    if re.match(r"\w{2,}:/", str(path)):  # Path has made one slash of two
        return "; it is an address: download the file, and give its path"
    if path.parts[:1] == ("~",):
        return "; the shell did not put your home folder in place of ~: write it out"
    try:
        near = sorted(p.name for p in path.parent.iterdir() if p.name.endswith(WEIGHT_SUFFIXES))
    except OSError:
        return ""
    near = [name for name in near if not name.startswith(".")]
    return f"; in its folder there are: {named(near)}" if near else ""


def _refuse_folder(path: Path) -> NoReturn:
    inside = sorted(p.name for p in path.iterdir())
    if "data.pkl" in inside:
        raise UserError(
            f"{path}: not a checkpoint file, but one that was unpacked as a ZIP archive; take the "
            "file itself"
        )
    files = [name for name in inside if name.endswith(WEIGHT_SUFFIXES) and name[0] != "."]
    hint = f"; give one of the files in it: {', '.join(files[:5])}" if files else ""
    raise UserError(f"{path}: not a checkpoint file, but a folder{hint}")


# What else a file may be, by its first bytes; and what to do.
_KINDS: tuple[tuple[bytes, str], ...] = (
    (
        b"version https://git-lfs",
        "a pointer of Git LFS, not the file itself; fetch it with: git lfs pull",
    ),
    (b"\x89HDF", "an HDF5 file (Keras?); only weights saved by PyTorch fit"),
    (b"\x93NUMPY", "an array of numpy; only weights saved by PyTorch fit"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF8", "a GIF image"),
    (b"%PDF", "a PDF document"),
    (b"GGUF", "a GGUF file; only weights saved by PyTorch fit"),
    (b"Rar!", "a RAR archive; unpack it, and give the file in it"),
    (b"7z\xbc\xaf", "a 7z archive; unpack it, and give the file in it"),
    (b"\x28\xb5\x2f\xfd", "packed with zstd; unpack it: unzstd FILE"),
    (b"\x08\x03\x12", "an ONNX model; only weights saved by PyTorch fit"),
)


def _refuse_other_kinds(path: Path, head: bytes, before: str = "") -> None:
    """Raise UserError for a file that is plainly something else."""
    text = head.lstrip(b"\xef\xbb\xbf \r\n\t").lower()
    for start, what in _KINDS:
        if head.startswith(start):
            _corrupted(path, f"it is {before}{what}")
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        what = "a web page, as a download that needs a confirmation or a login saves it"
        _corrupted(path, f"it is {before}{what}; download the file itself")
    # Tape archives have this at byte 257; those of PyTorch before 0.2 as well.
    if head[257:262] == b"ustar" and not head.startswith(b"sys_info"):
        _corrupted(path, f"it is {before}a tar archive; unpack it, and give the file in it")


def _reason(head: bytes, error: Exception) -> str:
    """Why a file that may be a checkpoint could not be read, in words; empty if not known."""
    if is_safetensors(head):
        return f"as safetensors: {error}"
    if isinstance(error, zipfile.BadZipFile):
        return str(error)
    if "Unsupported operand" in str(error) and head.startswith((b"PK\x03\x04", b"\x80")):
        return f"it has another pickle protocol than torch.save's own; use {ALONE}"
    if head.startswith((b"PK\x03\x04", b"\x1f\x8b", b"BZh", b"\xfd7zXZ")):
        return "it ends too early or was changed; copy or download it again"
    if not head.strip(b"\x00"):
        return "it begins with zeros, as a file whose writing was interrupted"
    if all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in head):
        return f"it is text ({head[:24].decode().splitlines()[0]!r} …)"
    if head.startswith(OLDER_FORMAT):
        return "it ends too early or was changed; copy or download it again"
    if head.startswith(b"\x80"):
        return f"it is a pickle, but not of torch.save; save its weights alone: {ALONE}"
    if "legacy .tar" in str(error):
        return f"of PyTorch before 0.2; load it there, and use {ALONE}"
    return ""


def _read_torch(path: Path, file: IO[bytes], remarks: list[str]) -> FileContent:
    """The content of a file that torch.save wrote, in its ZIP or its older format."""
    if zipfile.is_zipfile(file):
        _check_zip(path, file)
    stand_ins: dict[str, type] = {}
    while True:
        file.seek(0)
        known: list[Any] = [(kind, name) for name, kind in stand_ins.items()]
        try:
            with torch.serialization.safe_globals(known), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of what the errors here say, in other words
                content = torch.load(file, map_location="cpu", weights_only=True)
            break
        except pickle.UnpicklingError as error:
            found = re.search(r"GLOBAL (\S+)", str(error))
            name = found[1] if found else ""
            unknown = "Unsupported global" in str(error) and len(stand_ins) < MOST_CLASSES
            if not found:
                if stand_ins:  # it fills an object in a way that a stand-in does not take
                    name = next(iter(stand_ins))
                else:
                    raise
            elif unknown:
                # The reader leaves out "builtins.", but looks the name up with it.
                name = name if "." in name else f"builtins.{name}"
                if name not in stand_ins:
                    stand_ins[name] = _stand_in(name)
                    continue
            raise UserError(
                f"{path}: holds a Python object ({name}) besides tensors and plain values; it is "
                f"not loaded, since that could run code; save its weights alone: {ALONE}"
            ) from error
    classes = [name for name in stand_ins if not HARMLESS.fullmatch(name)]
    if classes:
        more = f" and {len(classes) - 3} more classes" if len(classes) > 3 else ""
        remarks = [*remarks, f"Python objects left out ({', '.join(classes[:3])}{more})"]
    return FileContent(content, remarks)


def _stand_in(name: str) -> type:
    if DICTIONARIES.fullmatch(name):
        return OrderedDict  # the reader fills no other kind of dictionary
    return _Inert(name, (StandIn,), {"full_name": name})


def _check_zip(path: Path, file: IO[bytes]) -> None:
    """Verify an archive's checksums; UserError if it is sound, but not of torch.save."""
    file.seek(0)
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
    if any(name.count("/") == 1 and name.endswith("/constants.pkl") for name in names):
        raise UserError(
            f"{path}: a TorchScript archive, which holds a program; save its weights alone: "
            "torch.save(torch.jit.load(FILE).state_dict(), NEW_FILE)"
        )
    if not any(name.count("/") == 1 and name.endswith("/data.pkl") for name in names):
        inside = [name for name in names if name.endswith(WEIGHT_SUFFIXES)]
        what = "an archive of numpy arrays" if names and names[0].endswith(".npy") else "an archive"
        hint = f"; unpack it, and give {inside[0]}" if inside else ""
        _corrupted(path, f"it is {what} ({', '.join(names[:3])}){hint}")
    file.seek(0)
    verify_archive(file)
