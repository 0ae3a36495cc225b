"""Which frame a file belongs to: frame numbers in names.

    frame_numbers(["img-1", "img-2"])                → [1, 2]

A number counts only where it is the one part of the names
that changes from file to file: `dance2_0001` and `1_of_100` are clear, `take1_4` beside `take2_4`
is not.
"""

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from modules.datasets.images import IMAGE_SUFFIXES, list_files
from modules.runtime.errors import UserError, named

PLAIN = re.compile(r"(?:frame)?([0-9]+)", re.IGNORECASE)  # the layout's own names
WAITING = ".renumber-"  # renumber() sets a file aside under this and its new number


def frame_numbers(stems: Sequence[str]) -> list[int] | None:
    """The frame number of each name without suffix; None if it is not clear which number it is."""
    plain = [PLAIN.fullmatch(stem) for stem in stems]
    if all(plain):
        return [int(found[1]) for found in plain if found]
    parts = [re.split(r"([0-9]+)", stem) for stem in stems]
    first = [text.casefold() for text in parts[0][::2]] if parts else []
    if len(first) < 2 or any([t.casefold() for t in p[::2]] != first for p in parts):
        return None
    numbers = [[int(digits) for digits in p[1::2]] for p in parts]
    changing = [i for i in range(len(first) - 1) if len({row[i] for row in numbers}) > 1]
    if len(changing) > 1:
        return None
    # Of a single file, or of copies: the last number, as file names usually have it.
    place = changing[0] if changing else len(first) - 2
    return [row[place] for row in numbers]


def renumber(folders: Sequence[Path]) -> list[int]:
    """Rename the images of folders to 0.png, 1.png, … in the order of their numbers.

    Folders that belong together (images and their labels) are given together: they must have the
    same numbers, so that no label moves to another frame. The same command again finishes one
    that was interrupted.

    Returns the new numbers before which the old numbering had a gap. Raises UserError before
    anything is renamed: a folder cannot be read, it is not clear which number counts, the folders
    differ.
    """
    plans: list[list[tuple[int, Path]]] = []
    interrupted = False
    for folder in folders:
        files = list_files(folder, IMAGE_SUFFIXES)
        numbers = frame_numbers([file.stem for file in files]) if files else None
        waiting = _waiting(folder)
        if numbers is None and (files or not waiting):
            raise UserError(
                f"{folder}: {named(file.name for file in files[:2]) or 'no images'}: it is not"
                " clear which number is the frame's; rename them to 0.png, 1.png, …"
            )
        if len(set(numbers or ())) < len(numbers or ()):
            raise UserError(f"{folder}: two files have the same frame number; remove one of them")
        plan = sorted(zip(numbers or (), files, strict=True))
        if waiting:  # of a command that was interrupted
            done = [file for _, file in plan]  # have their new names, unless 0 is among the others
            aside = list(waiting.values())
            plan = list(enumerate(aside + done if 0 in waiting else done + aside))
            interrupted = True
        plans.append(plan)
    for folder, plan in zip(folders, plans, strict=True):
        # An interrupted command has checked the numbers; what is left to see is how many there are.
        if interrupted and len(plan) == len(plans[0]):
            continue
        if [number for number, _ in plan] != [number for number, _ in plans[0]]:
            raise UserError(
                f"{folder}: has other frame numbers than {folders[0]}; renumbered, its images would"
                " belong to other frames"
            )
    for plan in plans:
        # In two steps, so that no file takes a name that another still has.
        aside = [file.with_name(f"{WAITING}{i}{file.suffix}") for i, (_, file) in enumerate(plan)]
        for (_, file), name in zip(plan, aside, strict=True):
            file.rename(name)
        for i, file in enumerate(aside):
            name = file.with_name(f"{i}{file.suffix.lower()}")
            file.rename(name)
    ordered = [number for number, _ in plans[0]]
    step = min((b - a for a, b in pairwise(ordered)), default=1)
    return [i + 1 for i, (a, b) in enumerate(pairwise(ordered)) if b - a > step]


def _waiting(folder: Path) -> dict[int, Path]:
    """The files that an interrupted renumber() has set aside, by their new numbers in order."""
    found = {}
    for path in folder.glob(f"{WAITING}*"):
        if (stem := path.stem.removeprefix(WAITING)).isdecimal():
            found[int(stem)] = path
    return dict(sorted(found.items()))
