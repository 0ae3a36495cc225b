"""Which frame a file belongs to: the one number in the names of a folder's files that changes.

`dance2_0001` and `1_of_100` are clear, `take1_4` beside `take2_4` is not.
"""

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path

from modules.datasets.images import IMAGE_SUFFIXES, PICTURE_SUFFIXES
from modules.runtime.errors import UserError, named, why

PREFIX = re.compile("frame(?=-?[0-9])", re.IGNORECASE)  # the layout's own, which may be left out
NUMBER = re.compile(r"(-?[0-9]+(?:\.[0-9]+)?)")
# Folders that systems and network drives leave beside a user's own.
SYSTEM = (
    *("__MACOSX", "@eaDir", "@Recycle", "#recycle", "#snapshot", "$RECYCLE.BIN", "lost+found"),
    "System Volume Information",
)


def _split(stem: str) -> tuple[tuple[str, ...], list[str]]:
    """The text between a name's numbers, in lower case, and these with a minus before them."""
    parts = NUMBER.split(PREFIX.sub("", stem).casefold())
    return tuple(parts[::2]), parts[1::2]


def _whole(numbers: Sequence[str]) -> list[int] | None:
    """Numbers from one place of all names as integers of the same order; None: it is not clear.

    A minus before all of them is a hyphen; 2.9 and 2.10 are counted, 0.04 and 0.1 are fractions.
    """
    if all(number.startswith("-") for number in numbers):
        numbers = [number[1:] for number in numbers]
    pairs = [number.partition(".")[::2] for number in numbers]
    wholes, fractions = ({pair[i] for pair in pairs} for i in (0, 1))
    widths = {len(fraction) for fraction in fractions}
    counted = len(widths) > 1 and any(f.endswith("0") for f in fractions if len(f) > 1)
    if len(wholes) == 1 and 0 not in widths and (counted or len(widths) == 1 < len(fractions)):
        return [int(fraction) for _, fraction in pairs]
    if counted:
        return None
    digits = max(len(fraction.rstrip("0")) for fraction in fractions)
    return [int(whole + f[:digits].ljust(digits, "0")) for whole, f in pairs]


def frame_numbers(stems: Sequence[str]) -> list[int] | None:
    """The frame number of each name without suffix; None if it is not clear which number it is."""
    names = [_split(stem) for stem in stems]
    if not names:
        return []
    if len({text for text, _ in names}) > 1:
        return None
    places = list(zip(*(numbers for _, numbers in names), strict=True))
    changing = [place for place in places if len(set(place)) > 1]
    if not places or len(changing) > 1:
        return None
    # Of a single file, or of copies: the last number, as file names usually have it.
    return _whole(changing[0] if changing else places[-1])


def list_folder(folder: Path) -> list[Path]:
    """What is in a folder, by name, without hidden and system files. Raises UserError."""
    try:
        every = sorted(folder.iterdir(), key=lambda path: path.name)
    except OSError as error:
        raise UserError(f"{folder}: cannot be read ({why(error)})") from error
    return [path for path in every if path.name[0] != "." and path.name not in SYSTEM]


def deeper(paths: Sequence[Path]) -> str:
    """What to do where files are looked for beside folders in which they may lie; or ""."""
    folders = named(path.name for path in paths if os.path.isdir(path))  # noqa: PTH112
    return f"; do they lie deeper, in {folders}? Give that folder, or move them up" * bool(folders)


def sort_frames(paths: Sequence[Path]) -> tuple[dict[int, Path], list[str]]:
    """The images of a folder by frame number, in order, and what is wrong with them, in words.

    Every image is a frame, or a fault. Of several forms of names the commonest counts.
    """
    kinds = Counter(path.suffix.lower() for path in paths)
    if unread := [f"{n} {kind}" for kind, n in kinds.items() if kind in PICTURE_SUFFIXES]:
        return {}, [f"{named(unread)} files are not read: convert them to PNG"]
    images = [path for path in paths if path.suffix.lower() in IMAGE_SUFFIXES]
    if not images:
        fault = "the folder has no images (0.png, 1.png, …)"
        if others := [f"{n} {kind}" for kind, n in kinds.items() if kind]:
            fault += f", but {named(others)}: unpack archives, convert other pictures to PNG, and"
            fault += " give a film by its own name to the command video"
        return {}, [fault + deeper(paths)]
    forms = [_split(path.stem)[0] for path in images]
    counts = Counter(form for form in forms if len(form) > 1)
    best = max(counts, key=lambda form: (counts[form], form == ("", "")), default=None)
    faults = []
    if odd := [path.name for path, form in zip(images, forms, strict=True) if form != best]:
        faults.append(f"images whose name is not a frame number: {named(odd)}; move them elsewhere")
    images = [path for path, form in zip(images, forms, strict=True) if form == best]
    if (numbers := frame_numbers([path.stem for path in images])) is None:
        first = ", ".join(path.name for path in images[:2])
        fault = f"not clear which number is the frame's: {first}; rename them 0.png, 1.png, …"
        return {}, [*faults, fault]
    found: dict[int, list[Path]] = {}
    for number, path in sorted(zip(numbers, images, strict=True)):
        found.setdefault(number, []).append(path)
    if twice := [" = ".join(p.name for p in each) for each in found.values() if len(each) > 1]:
        faults.append(f"frame numbers used twice: {named(twice)}; keep one of each")
    return {number: each[0] for number, each in found.items()}, faults


def frames_in(folder: Path) -> dict[int, Path]:
    """The images of a folder by frame number, in order. Raises UserError with all of its faults."""
    files, faults = sort_frames(list_folder(folder))
    if faults:
        raise UserError(f"{folder}: {'; '.join(faults)}")
    return files


def gaps(numbers: Iterable[int]) -> list[int]:
    """Numbers, in order, before which there is a larger step than usual."""
    ordered = list(numbers)
    step = min((b - a for a, b in pairwise(ordered)), default=1)
    return [b for a, b in pairwise(ordered) if b - a > 1.01 * step]


def renumber(folders: Sequence[Path]) -> list[int]:
    """Rename the images of folders to 0.png, 1.png, … in the order of their numbers.

    Returns the new numbers before which the old numbering had a gap. Raises UserError before
    anything is renamed: numbers are not clear, or others than those of the first folder.
    """
    every = [frames_in(folder) for folder in folders]
    for folder, frames in zip(folders, every, strict=True):
        if frames.keys() != every[0].keys():
            raise UserError(
                f"{folder}: has other frame numbers than {folders[0]}; renumbered, its images would"
                " belong to other frames"
            )
    for frames in every:
        waiting = []
        for index, file in enumerate(frames.values()):
            target = file.with_name(f"{index}{file.suffix.lower()}")
            if os.path.lexists(target):  # of a file that moves up: the last of them goes first
                waiting.append((file, target))
            else:
                file.rename(target)
        for file, target in reversed(waiting):
            file.rename(target)
    numbers = list(every[0])
    return [numbers.index(number) for number in gaps(numbers)]
