"""The files of a data set in dataloader.py's layout, and faults that show before they are read."""

import csv
import os
import re
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate, islice, pairwise
from pathlib import Path

import numpy as np
import torch

from modules.data import Recording, VideoData
from modules.datasets.naming import list_folder, sort_frames
from modules.ink import Ink
from modules.runlog import read_table
from modules.runtime.errors import MAX_NAMED, UserError, named, why

MAX_LISTED = 20  # faults of one folder or file
SPLITS = ("train", "val", "test")


class Faults:
    """The faults of one data set, collected so that all are reported together."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.found: dict[str, list[str]] = {}  # by folder or file

    def add(self, where: str, what: str, part: str = "") -> None:
        """where: a folder or file; part: of it, such as /3.png"""
        self.found.setdefault(where, []).append(f"{where}{part}: {what}" if where else what)

    def raise_if_any(self) -> None:
        """Raises UserError with every fault; a single one makes a single line."""
        if not (count := sum(map(len, self.found.values()))):
            return
        lines = []
        for where, found in self.found.items():
            lines += found[:MAX_LISTED]
            if (more := len(found) - MAX_LISTED) > 0:
                lines.append(f"{where}: and {more} more")
        listing = f": {lines[0]}" if count == 1 else "".join(f"\n  - {line}" for line in lines)
        faults = "1 fault" if count == 1 else f"{count} faults"
        raise UserError(f"{self.root}: {faults} in the data set{listing}", about="DR")


def _list_folder(faults: Faults, where: str) -> list[Path] | None:
    """What is in a folder, see list_folder; None if it cannot be read."""
    try:
        return list_folder(faults.root / where)
    except UserError as error:
        missing = isinstance(error.__cause__, FileNotFoundError)
        state = "is missing" if missing else f"cannot be read ({why(error)})"
        state += "; unpack an archive first" * isinstance(error.__cause__, NotADirectoryError)
        faults.add(where, f"the folder {state}")
    return None


def _list_images(faults: Faults, where: str, numbered: bool = True) -> dict[int, Path]:
    """The images of a folder by frame number, in order; numbered: from 0 or 1, without gaps."""
    if (paths := _list_folder(faults, where)) is None:
        return {}
    files, found = sort_frames(paths)
    for fault in found:
        faults.add(where, fault)
    if not files or not numbered:
        return files
    split, hint = where.split("/")[0], ""
    if split != "test":  # whose labels must not be renumbered without their first frame
        folders = [str(faults.root / split / f"{split}_{kind}") for kind in ("img", "label")]
        hint = f"; run: python dataloader.py renumber {shlex.join(folders)}"
    if (first := min(files)) not in (0, 1):
        faults.add(where, f"numbering starts at {first}; it must start at 0 or 1{hint}")
    if missing := max(files) - first + 1 - len(files):
        # Only those that are named are enumerated: a name may be a date in seconds.
        gaps = (n for before, after in pairwise(files) for n in range(before + 1, after))
        which = named(islice(gaps, MAX_NAMED), missing)
        faults.add(where, f"gaps in the numbering; missing: {which}{hint}")
    return files


def _read_clips(faults: Faults, numbers: Sequence[int]) -> list[range]:
    """The recordings as ranges of frame numbers, in order: the rows start,stop of train/clips.csv;
    empty without the file. numbers: of all frames.
    """
    where, frames = "train/clips.csv", range(min(numbers, default=0), max(numbers, default=-1) + 1)
    if not os.path.lexists(path := faults.root / where):
        return []
    try:
        rows = read_table(path)
    except (OSError, ValueError, csv.Error) as error:
        faults.add(where, f"cannot be read as a CSV file ({why(error)}); save it as UTF-8")
        return []
    if len(rows) < 2 or [cell.lower() for cell in rows[0][1]] != ["start", "stop"]:
        faults.add(where, "must be the header start,stop and rows of two numbers")
        return []
    clips: list[tuple[range, int]] = []  # with its line
    for line, cells in rows[1:]:
        text, clip = f"{','.join(cells):.60}", range(0)
        if len(cells) == 2 and all(re.fullmatch(r"-?[0-9]{1,18}", cell) for cell in cells):
            clip = range(*map(int, cells))
        if clip and (not numbers or (clip[0] in frames and clip[-1] in frames)):
            clips.append((clip, line))
            continue
        what = f"{text!r} is not start,stop: two integers, the first below the second, within"
        faults.add(where, f"{what} {frames.start},{frames.stop}", f" line {line}")
    clips.sort(key=lambda clip: clip[0].start)
    for (before, above), (after, line) in pairwise(clips):
        if after.start < before.stop:
            text = f"{after.start},{after.stop} overlaps {before.start},{before.stop}"
            faults.add(where, f"{text} of line {above}", f" line {line}")
    return [clip for clip, _ in clips] if where not in faults.found else []


@dataclass
class ImageFolder:
    """Images of one folder that are to be read, in order; then their pixels."""

    where: str
    files: list[Path]
    pixels: np.ndarray = field(default_factory=lambda: np.zeros((0, 0, 0, 3), np.uint8))
    sizes: Counter[str] = field(default_factory=Counter)  # as stored, such as 64 x 32
    clear: bool = False  # whether an image has transparent pixels


@dataclass
class SplitFiles:
    """The files of train, val or the test sequence `name` that are to be read."""

    images: ImageFolder
    labels: ImageFolder
    recordings: tuple[Recording, ...]  # as indices into the labels
    name: str

    def video(self, ink: Ink) -> VideoData:
        frames, labels = map(torch.from_numpy, (self.images.pixels, self.labels.pixels))
        return VideoData(frames, labels, self.recordings, ink)


def background_of(root: Path, sequence: str) -> Path:
    """The frame without anybody in it that a test sequence's background comes from, if any."""
    return root / "test/test_background" / f"{sequence}.png"


def open_root(root: Path) -> Faults:
    """Raises UserError: there is no such folder, or the splits lie in another one close by."""
    faults = Faults(root)
    paths = _list_folder(faults, "") or []
    parent = root.resolve().parent
    for folder in (root, *paths, parent, parent.parent):
        # Not Path.is_dir(): it raises at a link into a folder that may not be read.
        if any(os.path.isdir(folder / split / f"{split}_img") for split in SPLITS):  # noqa: PTH112
            if folder != root and not faults.found:
                faults.add("", f"its train/, val/ and test/ are in {folder}; give that folder")
            break
    faults.raise_if_any()
    return faults


def check_video(
    faults: Faults, split: str, *, partial: float = 1.0, limit: int | None = None
) -> SplitFiles:
    """Check train or val, and choose what to read: the first round(partial · N) of the N frames
    within recordings, or the first `limit`.
    """
    image_folder, label_folder = f"{split}/{split}_img", f"{split}/{split}_label"
    folders = (image_folder, label_folder) if _list_folder(faults, split) is not None else ()
    images, labels = [_list_images(faults, folder) for folder in folders] or ({}, {})
    if images and labels and images.keys() != labels.keys():
        unequal = [f"{len(images)} images, {len(labels)} labels"]
        for one, other, partner in ((images, labels, "a label"), (labels, images, "an image")):
            if alone := [path.name for number, path in one.items() if number not in other]:
                unequal.append(f"without {partner}: {named(alone)}")
        faults.add(split, "; ".join(unequal))
    numbers = sorted(images.keys() | labels.keys())
    clips = _read_clips(faults, numbers) if split == "train" else []
    first = min(numbers, default=0)  # without a fault there are no gaps after it
    parts = [numbers[clip.start - first : clip.stop - first] for clip in clips] or [numbers]
    every = [number for part in parts for number in part]
    used = every[: round(partial * len(every)) if limit is None else limit]
    ends = (min(end, len(used)) for end in accumulate(map(len, parts)))
    recordings = tuple(Recording(a, b) for a, b in pairwise((0, *ends)) if a < b)
    if split == "val" and numbers and len(used) < 2:
        faults.add(split, f"{len(used)} frame to validate on; at least 2 are needed")
    return SplitFiles(
        ImageFolder(image_folder, [images[number] for number in used if number in images]),
        ImageFolder(label_folder, [labels[number] for number in used if number in labels]),
        recordings,
        split,
    )


def _list_sequences(faults: Faults, where: str) -> set[str]:
    """Names of the folders of test sequences, which are numbers. Files are ignored."""
    if (entries := _list_folder(faults, where)) is None:
        return set()
    names = {path.name for path in entries if os.path.isdir(path)}  # noqa: PTH112
    if odd := sorted(name for name in names if not re.fullmatch("[0-9]+", name)):
        faults.add(where, f"folders whose name is not a number: {named(odd)}; rename them 0, 1, …")
    elif not names:
        faults.add(where, "has no folders of sequences (0, 1, …)")
    names -= set(odd)
    if twice := sorted(n for n in names if [int(m) for m in names].count(int(n)) > 1):
        faults.add(where, f"folders of the same number: {named(twice)}; keep one of each")
    return names


def check_tests(faults: Faults) -> list[SplitFiles]:
    """Check the structure of the test split; the sequences in numeric order."""
    if _list_folder(faults, "test") is None:
        return []
    of_labels, of_images = (_list_sequences(faults, f"test/test_{k}") for k in ("label", "img"))
    sequences = []
    for name in sorted(of_labels | of_images, key=int) if of_labels and of_images else ():
        label_folder, image_folder = f"test/test_label/{name}", f"test/test_img/{name}"
        labels = _list_images(faults, label_folder)
        images = _list_images(faults, image_folder, numbered=False)
        if len(labels) == 1:
            faults.add(label_folder, "has 1 label; a sequence needs at least 2")
        if labels and images and min(labels) != min(images):
            first = f"the first label is {min(labels)}, but the first image {min(images)}"
            faults.add(image_folder, f"the first frame is missing: {first}")
        # More than the first frame is of use only where all are given, to be shown beside.
        given = len(images) if images.keys() == labels.keys() else 1
        first_frame = ImageFolder(image_folder, list(images.values())[:given])
        every_label = ImageFolder(label_folder, list(labels.values()))
        parts = (Recording(0, len(labels)),)
        sequences.append(SplitFiles(first_frame, every_label, parts, name))
    return sequences
