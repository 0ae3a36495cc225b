"""Which frame a file belongs to: frame numbers in names, and labels matched to a clip's frames.

    frame_numbers(["img-1", "img-2"])                → [1, 2]
    match_files(labels, frames)                      → for each label its frame, and by what

By file name first, by number second. A number counts only where it is the one part of the names
that changes from file to file: `dance2_0001` and `1_of_100` are clear, `take1_4` beside `take2_4`
is not.
"""

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from modules.datasets.images import IMAGE_SUFFIXES, list_files
from modules.runtime.errors import UserError, named

PLAIN = re.compile(r"(?:frame)?([0-9]+)", re.IGNORECASE)  # the layout's own names
# What tools append to a frame's name.
ADDED = re.compile(
    r"[_\-. ](keypoints?|rendered|pose|poses|label|skeleton|openpose|alphapose|landmarks|vis)$"
)
ADDED_BEFORE = re.compile(r"^(vis|results|pred|label)[_\-. ]")
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


def bare(name: str) -> str:
    """A label's or image's name without folder, suffix and what tools append, in lower case."""
    stem = Path(name.replace("\\", "/")).name.casefold()
    while Path(stem).suffix in (*IMAGE_SUFFIXES, ".json", ".bmp", ".webp"):
        stem = Path(stem).stem
    return ADDED.sub("", stem)


class Match(NamedTuple):
    """For each label the frame that it belongs to, as an index, and by what that was found."""

    frames: list[int]
    by: str


def match_files(labels: Sequence[str], frames: Sequence[str], *, every: bool, what: str) -> Match:
    """Match file names of labels to those of a clip's frames.

    every: whether every frame must have a label where they are matched by name

    Raises UserError, starting with `what`: they do not fit, or it is not clear how.
    """
    by_name = {bare(name): index for index, name in enumerate(frames)}
    bases = [bare(name) for name in labels]
    if sum(base in by_name for base in bases) == 0:
        bases = [ADDED_BEFORE.sub("", base) for base in bases]
    found = [by_name[base] for base in bases if base in by_name]
    if len(by_name) == len(frames) and found:
        if alone := [name for name, base in zip(labels, bases, strict=True) if base not in by_name]:
            raise UserError(
                f"{what} for {len(labels)} frames, but the clip has {len(frames)}; no frame has the"
                f" name of {named(alone)}"
            )
        if len(set(found)) < len(found):
            raise UserError(f"{what}: several labels have the name of the same frame")
        if every and len(found) < len(frames):
            missing = sorted(set(range(len(frames))) - set(found))
            raise UserError(
                f"{what} for {len(labels)} frames, but the clip has {len(frames)}; without a label:"
                f" {named(frames[i] for i in missing)}"
            )
        return Match(found, "file name")
    numbers, of_frames = frame_numbers(bases), frame_numbers([bare(name) for name in frames])
    if numbers is not None and of_frames is not None and set(numbers) == set(of_frames):
        place = {number: index for index, number in enumerate(of_frames)}
        return Match([place[number] for number in numbers], "number")
    if len(labels) == len(frames) and numbers is not None and is_regular(numbers):
        order = sorted(range(len(labels)), key=numbers.__getitem__)
        places = [0] * len(labels)
        for index, label in enumerate(order):
            places[label] = index
        return Match(places, "order")
    if len(labels) == len(frames):
        raise UserError(
            f"{what}: neither names nor numbers fit those of the frames ({named(labels[:2])} … and"
            f" {named(frames[:2])} …); if their order is the same, run: python dataloader.py"
            " renumber FOLDER"
        )
    raise UserError(
        f"{what} for {len(labels)} frames, but the clip has {len(frames)}; there must be one for"
        " every frame of the clip"
    )


def is_regular(numbers: Sequence[int]) -> bool:
    """Whether numbers are evenly spaced, such as 0 1 2 or 1 3 5: nothing is missing between."""
    ordered = sorted(numbers)
    steps = {after - before for before, after in pairwise(ordered)}
    return len(steps) <= 1 and 0 not in steps


def match_indices(
    ids: Sequence[int], count: int, frame_stems: Sequence[str], what: str
) -> dict[int, int]:
    """Frame numbers of a results file → indices of a clip's `count` frames.

    They count from 0, from 1, or are the numbers in the frames' names; the one that is possible is
    taken. Raises UserError, starting with `what`, if several are, or none.
    """
    every = sorted(set(ids))
    if not every:
        return {}
    ways = {}
    if every[-1] < count:
        ways["from 0"] = {number: number for number in every}
    if every[0] >= 1 and every[-1] <= count:
        ways["from 1"] = {number: number - 1 for number in every}
    numbers = frame_numbers(list(frame_stems)) if frame_stems else None
    if numbers and set(every) <= set(numbers) and len(set(numbers)) == len(numbers):
        place = {number: index for index, number in enumerate(numbers)}
        ways["as in the frames' names"] = {number: place[number] for number in every}
    different = {tuple(way.items()) for way in ways.values()}
    if not different:
        raise UserError(
            f"{what}: has frame {every[-1]}, but the clip has only {count} frames"
            f" (0 to {count - 1})"
        )
    if len(different) > 1:
        # Labels off by one frame would train and look almost right, so do not guess.
        raise UserError(
            f"{what}: frames {every[0]} to {every[-1]} of {count} may count {' or '.join(ways)};"
            ' add the list "images" (id, file_name), or count from 0 with frame 0 among them'
        )
    return next(iter(ways.values()))


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
