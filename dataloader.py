"""The data set in the folder layout: check it and read it into memory.

    python dataloader.py demo data/demo      # make a small synthetic data set to try things on
    python dataloader.py check data/demo     # print what is in it, or list all of its faults
    python dataloader.py check data/demo --picture demo.png      # ... and draw a contact sheet
    python dataloader.py video dance.mp4 --out data/dance        # make one of your own video
    python dataloader.py renumber FOLDER…    # rename images to 0.png, 1.png, …

Layout (numbering starts at 0 or 1, PNG, JPEG and others; `frame_0001.png` will do):

    ROOT/train/train_img/0.png …   ROOT/train/train_label/0.png …   ROOT/train/clips.csv (optional)
    ROOT/val/val_img/0.png …       ROOT/val/val_label/0.png …
    ROOT/test/test_img/0/0.png     ROOT/test/test_label/0/0.png …   a folder for each sequence

Every image is decoded and resized once and kept in memory as uint8, (N, H, W, 3); nothing is
written below ROOT. How training clips are cut from them: modules/sequences.py. Legend: N frames,
T labels of a test sequence, H, W height and width in pixels.
"""

import argparse
import contextlib
import csv
import os
import re
import shlex
import sys
import warnings
from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from modules.data import Recording, TestSequence, VideoData, epoch_clips, to_uint8, to_unit
from modules.datasets import inspection, video_options
from modules.datasets.images import (
    BLACK,
    IMAGE_SUFFIXES,
    OTHER_SUFFIXES,
    USUAL_SUFFIXES,
    WHITE,
    decode_image,
    is_clear,
    to_rgb,
)
from modules.datasets.naming import PLAIN, frame_numbers, renumber
from modules.datasets.person import frames_per_second
from modules.datasets.synthetic import make_demo
from modules.datasets.video import import_video
from modules.ink import Ink, find_ink
from modules.runlog import read_table
from modules.runtime.errors import MAX_NAMED, UserError, named
from modules.runtime.scripts import ArgumentParser, path_argument, run_as_script

# What other code may import from here; data types and clip functions live in modules/data.py.
__all__ = [
    "Recording",
    "TestSequence",
    "VideoData",
    "epoch_clips",
    "frames_per_second",
    "load_test",
    "load_train_val",
    "load_val",
    "refuse_inside",
    "to_uint8",
    "to_unit",
]

MAX_SIDE = 2**13  # of a frame of `demo`, pixels
CONTACT_SHEET = "contact_sheet.png"  # `video` writes it into the new data set
CHECKED_SIZE = (64, 32)  # width, height in pixels at which `check` looks for cuts and copies
MAX_LISTED = 20  # corrupted files of one folder, wrong lines of one file


# ----------------------------------------------------------------------------------------
# Faults


class Faults:
    """The faults of one data set, collected so that all are reported together."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.lines: list[str] = []
        self.count = 0

    def add(self, where: str, what: str, count: int = 1) -> None:
        self.lines.append(f"{where}: {what}" if where else what)
        self.count += count

    def add_listed(self, where: str, faults: Sequence[tuple[str, str]], noun: str) -> None:
        """Add many faults of the same kind: the first ones in full, the others as a number."""
        for place, what in faults[:MAX_LISTED]:
            self.add(place, what)
        if (more := len(faults) - MAX_LISTED) > 0:
            self.add(where, f"and {more} more {noun}", count=more)

    def raise_if_any(self) -> None:
        """Raises UserError with every fault; a single one makes a single line."""
        if self.count == 0:
            return
        if len(self.lines) == 1:
            raise UserError(f"{self.root}: 1 fault in the data set: {self.lines[0]}", about="DR")
        listing = "".join(f"\n  - {line}" for line in self.lines)
        raise UserError(f"{self.root}: {self.count} faults in the data set{listing}", about="DR")


# ----------------------------------------------------------------------------------------
# Structure: which files there are, without opening an image


def _list_folder(root: Path, where: str, faults: Faults) -> list[os.DirEntry[str]] | None:
    """What is in a folder apart from hidden files, by name; None if there is no such folder."""

    def read() -> list[os.DirEntry[str]]:
        with os.scandir(root / where) as entries:
            return sorted((e for e in entries if not e.name.startswith(".")), key=lambda e: e.name)

    try:
        return read()
    except FileNotFoundError:
        faults.add(where, "the folder is missing")
    except NotADirectoryError:
        faults.add(where, "is not a folder")
    except OSError as error:
        faults.add(where, f"the folder cannot be read ({error.strerror})")
    return None


def _of_kinds(parts: Sequence[tuple[str, str, str]]) -> list[tuple[str, str]]:
    """(name, stem) of the images among files (name, stem, suffix).

    Kinds beyond PNG and JPEG count where there are none of these, or for a number that these lack.
    """
    usual = [(name, stem) for name, stem, suffix in parts if suffix.lower() in USUAL_SUFFIXES]
    others = [
        (name, stem)
        for name, stem, suffix in parts
        if suffix.lower() in IMAGE_SUFFIXES and suffix.lower() not in USUAL_SUFFIXES
    ]
    if not usual or not others:
        return usual or others
    stems = {stem for _, stem in usual}
    return sorted(usual + [o for o in others if PLAIN.fullmatch(o[1]) and o[1] not in stems])


def _list_images(root: Path, where: str, faults: Faults) -> dict[int, Path]:
    """The images of a folder by frame number, in numeric order. Files of other kinds are ignored.

    Empty if the folder is missing or has none, which is then among the faults.
    """
    entries = _list_folder(root, where, faults)
    if entries is None:
        return {}
    by_number: dict[int, list[str]] = {}
    # A Path for each would be slow.
    parts = [(entry.name, *os.path.splitext(entry.name)) for entry in entries]  # noqa: PTH122
    images = _of_kinds(parts)
    found = frame_numbers([stem for _, stem in images])
    if found is None:  # then those with the layout's own names still count
        unnumbered = [name for name, stem in images if not PLAIN.fullmatch(stem)]
        images = [(name, stem) for name, stem in images if PLAIN.fullmatch(stem)]
        found = [int(match[1]) for _, stem in images if (match := PLAIN.fullmatch(stem))]
        faults.add(where, f"images whose name is not a frame number: {named(unnumbered)}")
    elif not images:
        others = Counter(s.lower() for _, _, s in parts if s.lower() in OTHER_SUFFIXES)
        held = "".join(f"; it has {n} {s} files: convert them to PNG" for s, n in others.items())
        faults.add(where, f"the folder has no images (0.png, 1.png, …){held}")
    for number, (name, _) in zip(found, images, strict=True):
        by_number.setdefault(number, []).append(name)
    numbers = sorted(by_number)
    if twice := [number for number in numbers if len(by_number[number]) > 1]:
        pairs = (" = ".join(by_number[number]) for number in twice[:MAX_NAMED])
        faults.add(where, f"frame numbers used twice: {named(pairs, len(twice))}")
    return {number: root / where / by_number[number][0] for number in numbers}


def _renumber_hint(root: Path, where: str) -> str:
    """The command that renames a split's images and labels together; none for test sequences."""
    if where.startswith("test"):
        return ""
    split = where.split("/")[0]
    folders = [root / split / f"{split}_{kind}" for kind in ("img", "label")]
    run = shlex.join(str(folder) for folder in folders if folder.is_dir())
    return f"; run: python dataloader.py renumber {run}"


def _check_numbering(where: str, numbers: Collection[int], faults: Faults) -> None:
    """Numbering starts at 0 or 1 and has no gaps."""
    if not (ordered := sorted(numbers)):
        return  # already reported
    if ordered[0] > 1:
        hint = _renumber_hint(faults.root, where)
        faults.add(where, f"numbering starts at {ordered[0]}; it must start at 0 or 1{hint}")
    # Only the gaps that are named are enumerated: a name may be a date in seconds.
    gaps: list[int] = []
    for before, after in pairwise(ordered):
        gaps.extend(range(before + 1, min(after, before + 1 + MAX_NAMED)))
    if missing := ordered[-1] - ordered[0] + 1 - len(ordered):
        hint = _renumber_hint(faults.root, where)
        which = named(gaps[:MAX_NAMED], missing)
        faults.add(where, f"gaps in the numbering; missing: {which}{hint}")


def _check_pairs(
    split: str, images: dict[int, Path], labels: dict[int, Path], faults: Faults
) -> None:
    """Every image has its label and the other way round."""
    if not images or not labels:
        return  # already reported
    parts = [
        f"without {partner}: {named(files[number].name for number in alone)}"
        for files, others, partner in ((images, labels, "a label"), (labels, images, "an image"))
        if (alone := sorted(files.keys() - others.keys()))
    ]
    if parts:
        faults.add(split, f"{len(images)} images, {len(labels)} labels; {'; '.join(parts)}")


def _read_clips(root: Path, numbers: Collection[int], faults: Faults) -> list[tuple[int, int]]:
    """Rows (start, stop) of train/clips.csv in order of start; frame numbers, stop exclusive.

    Without the file, the whole folder is one recording. Empty if the file has a fault.
    """
    where = "train/clips.csv"
    if not os.path.lexists(root / where):
        return [(min(numbers), max(numbers) + 1)] if numbers else []
    try:
        rows = read_table(root / where)
    except OSError as error:
        faults.add(where, f"cannot be read ({error.strerror})")
        return []
    except (ValueError, csv.Error) as error:
        faults.add(where, f"is not a valid CSV file ({error})")
        return []
    if not rows or [cell.lower() for cell in rows[0][1]] != ["start", "stop"]:
        found = f"starts with {','.join(rows[0][1])!r:.60}" if rows else "is empty"
        faults.add(where, f"{found}; its first line must be the header start,stop")
        return []
    if len(rows) == 1:
        faults.add(where, "has no rows; without the file the folder is one recording")
        return []

    wrong: list[tuple[str, str]] = []
    clips: list[tuple[int, int, int]] = []  # start, stop, line
    first, end = min(numbers, default=0), max(numbers, default=-1) + 1
    for line, cells in rows[1:]:
        place, text = f"{where} line {line}", f"{','.join(cells):.60}"
        if len(cells) != 2 or not all(re.fullmatch(r"-?[0-9]{1,18}", cell) for cell in cells):
            wrong.append((place, f"{text!r} is not two integers start,stop"))
            continue
        start, stop = map(int, cells)
        if start >= stop:
            wrong.append((place, f"{text}: start must be below stop"))
        elif numbers and (start < first or stop > end):
            wrong.append((place, f"{text} is out of range; all frames together are {first},{end}"))
        else:
            clips.append((start, stop, line))
    clips.sort()
    for before, after in pairwise(clips):
        if after[0] < before[1]:
            text = f"{after[0]},{after[1]} overlaps {before[0]},{before[1]} of line {before[2]}"
            wrong.append((f"{where} line {after[2]}", text))
    faults.add_listed(where, wrong, "wrong rows")
    return [] if wrong else [(start, stop) for start, stop, _ in clips]


# ----------------------------------------------------------------------------------------
# Pixels


@dataclass
class ImageFolder:
    """Images of one folder that are to be read, in order; then their pixels and faults."""

    where: str
    files: list[Path]
    pixels: np.ndarray = field(default_factory=lambda: np.zeros((0, 0, 0, 3), np.uint8))
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)  # (width, height) as stored
    corrupted: list[tuple[str, str]] = field(default_factory=list)  # file, what is wrong with it
    clear: bool = False  # whether an image has transparent pixels

    @property
    def ground(self) -> int:
        """What transparent pixels become: black in labels, white in frames."""
        return BLACK if "_label" in self.where else WHITE

    def tensor(self) -> Tensor:
        return torch.from_numpy(self.pixels)  # (N, H, W, 3) uint8


def _read_images(
    folders: Sequence[ImageFolder],
    size: tuple[int, int],
    workers: int,
    faults: Faults,
    progress: bool = False,
) -> None:
    """Decode all files in a pool of threads; Pillow decodes outside Python's global lock.

    size: (width, height) to which images are resized. Each image has its place in the result, so
    the number of threads changes nothing but the time.
    """

    def read(job: tuple[ImageFolder, int]) -> tuple[int, int] | str:
        folder, index = job
        image = decode_image(folder.files[index])
        if isinstance(image, str):
            return image
        stored = image.size
        folder.clear |= is_clear(image)
        image = to_rgb(image, folder.ground)
        if stored != size:
            image = image.resize(size, Image.Resampling.BILINEAR)
        folder.pixels[index] = np.asarray(image)
        return stored

    for folder in folders:
        folder.pixels = np.zeros((len(folder.files), size[1], size[0], 3), np.uint8)
    jobs = [(folder, index) for folder in folders for index in range(len(folder.files))]
    pool = ThreadPoolExecutor(max_workers=max(1, workers))
    # Progress is shown on a terminal only, not in a log file.
    hidden = not (progress and sys.stderr.isatty())
    bar = tqdm(total=len(jobs), desc="reading", unit=" images", disable=hidden, leave=False)
    try:
        # Pillow warns of large images and raises for huge ones; here both are faults.
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            for (folder, index), result in zip(jobs, pool.map(read, jobs), strict=True):
                bar.update()
                if isinstance(result, str):
                    folder.corrupted.append((f"{folder.where}/{folder.files[index].name}", result))
                else:
                    folder.sizes[result] += 1
    finally:
        pool.shutdown(cancel_futures=True)  # so that Ctrl-C does not wait for the whole folder
        bar.close()
    for folder in folders:
        faults.add_listed(folder.where, folder.corrupted, "corrupted images")


# ----------------------------------------------------------------------------------------
# Splits


@dataclass
class SplitFiles:
    """The files of a split, or of the test sequence `name`, that are to be read."""

    images: ImageFolder
    labels: ImageFolder
    recordings: tuple[Recording, ...] = ()  # as indices into the files
    name: str = ""

    def video(self, ink: Ink | None) -> VideoData:
        return VideoData(self.images.tensor(), self.labels.tensor(), self.recordings, ink)

    def sequence(self) -> TestSequence:
        return TestSequence(self.name, self.images.tensor()[0], self.labels.tensor())


def _find_ink(folders: Sequence[ImageFolder], faults: Faults) -> Ink | None:
    """What the first folder's labels are drawn on; another background elsewhere is a fault.

    folders: of labels that were read. None if there are other faults: labels may be missing.
    """
    if faults.count:
        return None
    first, ink = folders[0], find_ink(folders[0].pixels)
    for folder in folders[1:] if ink.is_certain(first.pixels) else ():
        other = find_ink(folder.pixels)
        if not ink.shares_background(other) and other.is_certain(folder.pixels):
            faults.add(
                folder.where,
                f"labels are drawn on {other.colour}, those of {first.where} on {ink.colour};"
                " draw all on one background",
            )
    return ink


def _folders(splits: Iterable[SplitFiles]) -> list[ImageFolder]:
    return [folder for split in splits for folder in (split.images, split.labels)]


def _open_root(root: Path) -> Faults:
    faults = Faults(root)
    _list_folder(root, "", faults)
    faults.raise_if_any()
    return faults


def _check_video(
    root: Path, split: str, faults: Faults, *, partial: float = 1.0, limit: int | None = None
) -> SplitFiles:
    """Check the structure of train or val and choose the frames to read.

    They are the first round(partial · N) of the N frames within recordings, or the first `limit`.
    """
    image_folder, label_folder = f"{split}/{split}_img", f"{split}/{split}_label"
    images: dict[int, Path] = {}
    labels: dict[int, Path] = {}
    if _list_folder(root, split, faults) is not None:
        images = _list_images(root, image_folder, faults)
        labels = _list_images(root, label_folder, faults)
        _check_numbering(image_folder, images, faults)
        _check_numbering(label_folder, labels, faults)
        _check_pairs(split, images, labels, faults)
    numbers = sorted(images.keys() | labels.keys())
    clips = _read_clips(root, numbers, faults) if split == "train" else []
    parts = [numbers[bisect_left(numbers, a) : bisect_left(numbers, b)] for a, b in clips]
    parts = parts or [numbers]  # with a broken clips.csv, still all images are checked
    budget = limit if limit is not None else round(partial * sum(map(len, parts)))
    used: list[int] = []
    recordings: list[Recording] = []
    for part in parts:
        if part := part[: budget - len(used)]:
            recordings.append(Recording(len(used), len(used) + len(part)))
            used += part
    if split == "val" and numbers and len(used) < 2:
        faults.add(split, f"{len(used)} frame to validate on; at least 2 are needed")
    return SplitFiles(
        ImageFolder(image_folder, [images[number] for number in used if number in images]),
        ImageFolder(label_folder, [labels[number] for number in used if number in labels]),
        tuple(recordings),
    )


def _list_sequences(root: Path, where: str, faults: Faults) -> dict[int, str]:
    """Names of the folders of test sequences by their number. Files are ignored."""
    entries = _list_folder(root, where, faults)
    if entries is None:
        return {}
    # Not entry.is_dir(): it raises at a link into a folder that may not be read.
    names = [entry.name for entry in entries if os.path.isdir(entry.path)]  # noqa: PTH112
    sequences: dict[int, str] = {}
    if odd := [name for name in names if not re.fullmatch("[0-9]+", name)]:
        faults.add(where, f"folders whose name is not a number: {named(odd)}")
    elif not names:
        faults.add(where, "has no folders of sequences (0, 1, …)")
    for name in names:
        if name not in odd and sequences.setdefault(int(name), name) != name:
            faults.add(where, f"sequence number used twice: {sequences[int(name)]} = {name}")
    return sequences


def _check_tests(root: Path, faults: Faults) -> list[SplitFiles]:
    """Check the structure of the test split; the sequences in numeric order."""
    if _list_folder(root, "test", faults) is None:
        return []
    label_names = _list_sequences(root, "test/test_label", faults)
    image_names = _list_sequences(root, "test/test_img", faults)
    if label_names and image_names:
        for number in sorted(image_names.keys() - label_names.keys()):
            faults.add(f"test/test_label/{image_names[number]}", "the folder is missing")
        for number in sorted(label_names.keys() - image_names.keys()):
            faults.add(f"test/test_img/{label_names[number]}", "the folder is missing")
    sequences = []
    for number in sorted(label_names.keys() & image_names.keys()):
        label_folder = f"test/test_label/{label_names[number]}"
        image_folder = f"test/test_img/{image_names[number]}"
        labels = _list_images(root, label_folder, faults)
        images = _list_images(root, image_folder, faults)
        _check_numbering(label_folder, labels, faults)
        if len(labels) == 1:
            faults.add(label_folder, "has 1 label; a sequence needs at least 2")
        if labels and images and min(labels) != min(images):
            first = f"the first label is {min(labels)}, but the first image {min(images)}"
            faults.add(image_folder, f"the first frame is missing: {first}")
        first_frame = ImageFolder(image_folder, list(images.values())[:1])
        every_label = ImageFolder(label_folder, list(labels.values()))
        sequences.append(SplitFiles(first_frame, every_label, name=label_names[number]))
    return sequences


def load_train_val(
    root: Path,
    *,
    height: int,
    width: int,
    train_vi_len: int,
    val_vi_len: int,
    partial: float = 1.0,
    workers: int = 2,
    progress: bool = False,
    need_train: bool = True,
) -> tuple[VideoData | None, VideoData]:
    """Read the training frames (None without `need_train`) and the validation video.

    height, width: what every image is resized to, pixels
    train_vi_len:  frames of a training clip; some recording must be at least as long
    val_vi_len:    frames of the validation video at most: its first ones
    partial:       part of the training frames, in (0, 1], that is read: the first ones
    workers:       decoding threads; they do not change the result
    progress:      show a progress bar on stderr if that is a terminal

    Raises UserError with all faults of the two splits together.
    """
    root = Path(root)
    faults = _open_root(root)
    train = _check_video(root, "train", faults, partial=partial) if need_train else None
    if train is not None and faults.count == 0:
        longest = max((rec.stop - rec.start for rec in train.recordings), default=0)
        if longest < train_vi_len:
            cut = f" with --partial {partial}" if partial < 1 else ""
            what = f"is longer than every recording (longest: {longest} frames{cut})"
            faults.add("train", f"--train_vi_len {train_vi_len} {what}")
    val = _check_video(root, "val", faults, limit=val_vi_len)
    splits = [split for split in (train, val) if split is not None]
    _read_images(_folders(splits), (width, height), workers, faults, progress)
    ink = _find_ink([split.labels for split in splits], faults)
    faults.raise_if_any()
    return (train.video(ink) if train is not None else None), val.video(ink)


def load_val(
    root: Path, *, height: int, width: int, val_vi_len: int, workers: int = 2
) -> VideoData:
    """Read the validation video alone; see `load_train_val`."""
    root = Path(root)
    faults = _open_root(root)
    val = _check_video(root, "val", faults, limit=val_vi_len)
    _read_images(_folders([val]), (width, height), workers, faults)
    faults.raise_if_any()
    return val.video(None)


def load_test(root: Path, *, height: int, width: int, workers: int = 2) -> list[TestSequence]:
    """Read the test sequences in numeric order. Raises UserError with all faults together."""
    root = Path(root)
    faults = _open_root(root)
    sequences = _check_tests(root, faults)
    _read_images(_folders(sequences), (width, height), workers, faults)
    _find_ink([files.labels for files in sequences], faults)
    faults.raise_if_any()
    return [files.sequence() for files in sequences]


def refuse_inside(root: Path, results: Path) -> None:
    """Raise UserError if a folder for results is inside a split of the data set.

    Nothing is written to a split; a folder next to the splits, in ROOT itself, is allowed.
    """
    folder, top = Path(os.path.abspath(results)), Path(os.path.abspath(root))  # noqa: PTH100
    for place, base in ((folder, top), (folder.resolve(), top.resolve())):
        inside = place.relative_to(base).parts[:1] if place.is_relative_to(base) else ()
        if inside and inside[0] in ("train", "val", "test"):
            raise UserError(
                f"--save_root {results}: is inside the data set's {inside[0]}/; give another folder"
            )
    # By another name: one mount of several, or one written in other case on macOS and Windows.
    above = [place for place in (folder, *folder.parents) if os.path.lexists(place)]
    for split in ("train", "val", "test"):
        with contextlib.suppress(OSError):
            if any((top / split).samefile(place) for place in above):
                raise UserError(
                    f"--save_root {results}: is inside the data set's {split}/; give another folder"
                )


# ----------------------------------------------------------------------------------------
# Command line


def _print_split(
    name: str, what: str, lengths: Sequence[int], splits: Sequence[SplitFiles]
) -> None:
    """Print two lines on a split; image sizes as stored, each with its number of files."""
    print(f"{name:<6} {what} of {', '.join(map(str, lengths)) or 0} frames")
    sizes = []
    for kind in ("images", "labels"):
        found: Counter[tuple[int, int]] = sum(
            (getattr(files, kind).sizes for files in splits), Counter()
        )
        ranked = (f"{w} x {h} ({count})" for (w, h), count in found.most_common())
        sizes.append(f"{kind}: {named(ranked, len(found)) or 'none'}")
    print(f"{'':<6} {'; '.join(sizes)}")


def _inspect(
    videos: dict[str, SplitFiles], tests: Sequence[SplitFiles], ink: Ink
) -> inspection.Findings:
    """The findings on pixels that were read."""
    train, val = (
        inspection.SplitPixels(
            name,
            files.images.pixels,
            files.labels.pixels,
            names=[path.stem for path in files.images.files],
            starts=[recording.start for recording in files.recordings],
            ink=ink,
        )
        for name, files in videos.items()
    )
    sequences = [
        inspection.TestPixels(files.name, files.images.pixels[0], files.labels.pixels)
        for files in tests
    ]
    return inspection.inspect(train, val, sequences)


def _draw(path: Path, title: str, findings: inspection.Findings) -> Path:
    """Draw the contact sheet of a data set; returns its path."""
    # Importing matplotlib takes nearly half a second, and only drawing needs it.
    from modules.figures.contact_sheet import SheetSequence, SheetSplit, write_contact_sheet

    def shown(split: inspection.SplitPixels, copies: Sequence[int]) -> SheetSplit:
        return SheetSplit(
            name=split.name,
            frames=split.frames,
            labels=split.labels,
            names=split.names,
            starts=split.starts,
            steps=split.steps,
            cuts=split.cuts,
            blank=split.blank,
            copies=copies,
        )

    copies = [index for index, _ in (*findings.copies.identical, *findings.copies.near)]
    tests = [
        SheetSequence(test.name, test.first_frame, test.labels[0], len(test.labels))
        for test in findings.tests
    ]
    train, val = shown(findings.train, ()), shown(findings.val, copies)
    return write_contact_sheet(path, title, train, val, tests, findings.train.ink)


def check(root: Path, workers: int, picture: Path | None = None) -> None:
    """Print what a data set holds, and warnings of what may be wrong with it.

    picture: file of a contact sheet to write, PNG

    Raises UserError with the faults of all its splits.
    """
    if picture is not None and picture.suffix.lower() != ".png":
        raise UserError(f"--picture {picture}: must end in .png")
    if picture is not None and not picture.parent.is_dir():
        raise UserError(f"--picture {picture}: there is no folder {picture.parent}")
    faults = _open_root(root)
    videos = {split: _check_video(root, split, faults) for split in ("train", "val")}
    with_test = os.path.lexists(root / "test")
    tests = _check_tests(root, faults) if with_test else []
    folders = _folders([*videos.values(), *tests])
    _read_images(folders, CHECKED_SIZE, workers, faults, progress=True)
    print(f"{root}: sizes are width x height in pixels (number of files)")
    for split, files in videos.items():
        lengths = [rec.stop - rec.start for rec in files.recordings]
        what = f"{sum(lengths)} frames; {len(lengths)} recording(s)"
        _print_split(split, what, lengths, [files])
    if with_test:
        lengths = [len(files.labels.files) for files in tests]
        _print_split("test", f"{len(tests)} sequence(s)", lengths, tests)
    else:
        print("test   absent (optional)")
    ink = _find_ink([split.labels for split in (*videos.values(), *tests)], faults)
    faults.raise_if_any()
    assert ink is not None
    print(f"labels are drawn on {ink.colour}")
    if clear := [folder.where for folder in folders if folder.clear]:
        print(f"transparent pixels are taken as white in frames, black in labels: {named(clear)}")
    findings = _inspect(videos, tests, ink)
    for pixels in (findings.train, findings.val):
        print(f"{pixels.name:<6} {pixels.summary()}")
    for line in findings.warnings():
        print(f"warning: {line}")
    if picture is not None:
        print(f"wrote {_draw(picture, root.resolve().name, findings)}")
    print("no faults")


DEMO_NUMBERS = (  # option, default, smallest value, help
    ("train", 1200, 2, "training frames"),
    ("val", 300, 2, "validation frames"),
    ("test", 3, 0, "test sequences"),
    ("test_length", 120, 2, "labels of each test sequence"),
    ("seed", 0, 0, "seed of the motion"),
    ("frame_H", 32, 8, "height of the images, pixels"),
    ("frame_W", 64, 8, "width of the images, pixels"),
)


def _parser() -> ArgumentParser:
    parser = ArgumentParser(description="Make or check a data set in the folder layout.")
    commands = parser.add_subparsers(dest="command", required=True)
    demo = commands.add_parser("demo", help="make a small synthetic data set")
    demo.add_argument("root", type=path_argument, metavar="ROOT", help="folder of the new data set")
    for name, default, least, text in DEMO_NUMBERS:
        text = f"{text}, at least {least} (default {default})"
        demo.add_argument(f"--{name}", type=int, default=default, metavar="N", help=text)
    checker = commands.add_parser("check", help="print what a data set holds, or list its faults")
    checker.add_argument(
        "root", type=path_argument, metavar="ROOT", help="folder with train/ and val/"
    )
    text = "draw a contact sheet: labels over frames, differences between frames, cuts"
    checker.add_argument("--picture", type=path_argument, metavar="FILE.png", help=text)
    text = "rename images to 0.png, 1.png, … in the order of their numbers"
    renumberer = commands.add_parser("renumber", help=text, description=text)
    text = "folder of images; give images and their labels together, so that they stay together"
    renumberer.add_argument("folders", type=path_argument, nargs="+", metavar="FOLDER", help=text)
    text = "make a data set of your own video: finds the person's joints and draws the labels"
    video_options.add_arguments(commands.add_parser("video", help=text, description=text))
    return parser


def _make_demo(opt: argparse.Namespace) -> None:
    """The command `demo`. Raises UserError."""
    for name, _, least, _ in DEMO_NUMBERS:
        if (value := getattr(opt, name)) < least:
            raise UserError(f"--{name} {value} is too small; it must be at least {least}")
        if value > (most := MAX_SIDE if name.startswith("frame") else 2**31):
            raise UserError(f"--{name} {value} is too large; it must be at most {most}")
    sizes = {"test_length": opt.test_length, "height": opt.frame_H, "width": opt.frame_W}
    make_demo(opt.root, train=opt.train, val=opt.val, test=opt.test, seed=opt.seed, **sizes)
    print(
        f"{opt.root}: {opt.train} training and {opt.val} validation frames, {opt.test} test"
        f" sequences of {opt.test_length} labels, {opt.frame_W} x {opt.frame_H} pixels"
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Run one of the commands. Raises UserError."""
    opt = _parser().parse_args(argv)
    workers = min(8, os.cpu_count() or 1)
    if opt.command == "demo":
        _make_demo(opt)
    elif opt.command == "check":
        check(opt.root, workers, opt.picture)
    elif opt.command == "renumber":
        try:
            gaps = renumber(opt.folders)
        except OSError as error:
            raise UserError(f"cannot rename {error.filename}: {error.strerror}") from error
        print(f"renumbered from 0: {named(opt.folders)}")
        if gaps:
            print(f"there were gaps before: {named(gaps)}; rows of clips.csv should start there")
    else:
        options = video_options.options_from(opt)
        import_video(options)
        out = shlex.quote(str(options.out))
        if options.like:
            run = f"runs/{options.like.resolve().name}"
            checkpoint, made = (
                shlex.quote(f"{run}/{name}") for name in ("best.ckpt", options.out.resolve().name)
            )
            print(
                f"render: python Tester.py --ckpt_path {checkpoint} --DR {out} --save_root {made}"
            )
            return
        check(options.out, workers, options.out / CONTACT_SHEET)
        run = shlex.quote(f"runs/{options.out.resolve().name}")
        print(f"train: python Trainer.py --preset video --DR {out} --save_root {run}")


if __name__ == "__main__":
    run_as_script(main)
