"""The data set in the folder layout: check it and read it into memory.

    python dataloader.py demo data/demo      # make a small synthetic data set to try things on
    python dataloader.py check data/demo     # print what is in it, or list every problem
    python dataloader.py check data/demo --picture demo.png      # ... and draw a contact sheet
    python dataloader.py video dance.mp4 --out data/dance        # make one of your own video
    python dataloader.py renumber FOLDER…    # rename images to 0.png, 1.png, …

Layout (numbering starts at 0 or 1, PNG, JPEG and others; `frame_0001.png` will do):

    ROOT/train/train_img/0.png …   ROOT/train/train_label/0.png …   ROOT/train/clips.csv (optional)
    ROOT/val/val_img/0.png …       ROOT/val/val_label/0.png …
    ROOT/test/test_img/0/0.png     ROOT/test/test_label/0/0.png …   a folder for each sequence

Every image is decoded and resized once and kept in memory as uint8, (N, H, W, 3); nothing is
written below ROOT. How training clips are cut from them: modules/data.py. Legend: N frames,
T labels of a test sequence, H, W height and width in pixels.
"""

import csv
import os
import re
import shlex
import warnings
from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from modules.data import Recording, TestSequence, VideoData
from modules.datasets import inspection
from modules.datasets.images import (
    BLACK,
    WHITE,
    decode_image,
    is_clear,
    read_image,
    to_rgb,
)
from modules.datasets.naming import frames_in, list_folder, renumber, sort_frames
from modules.datasets.splits import background_of
from modules.datasets.synthetic import make_demo
from modules.datasets.video import import_video
from modules.datasets.video_options import (
    COMMANDS,
    CheckOptions,
    DemoOptions,
    RenumberOptions,
    VideoOptions,
    checked,
)
from modules.ink import Ink, find_ink
from modules.options import parse_command
from modules.runlog import read_table
from modules.runtime.errors import MAX_NAMED, UserError, named
from modules.runtime.scripts import run_as_script

MAX_LISTED = 20  # corrupted files of one folder, wrong lines of one file
SPLITS = ("train", "val", "test")
CHECKED_SIZE = (64, 32)  # width, height in pixels at which `check` looks for cuts and copies


# ---------------------------------------------------------------- faults


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
        if len(self.lines) == 1:
            raise UserError(f"{self.root}: 1 fault in the data set: {self.lines[0]}", about="DR")
        if self.lines:
            listing = "".join(f"\n  - {line}" for line in self.lines)
            raise UserError(
                f"{self.root}: {self.count} faults in the data set{listing}", about="DR"
            )


# ---------------------------------------------------------------- which files there are


def _list_folder(root: Path, where: str, faults: Faults) -> list[Path] | None:
    """What is in a folder, see list_folder; None if there is no such folder."""
    try:
        return list_folder(root / where)
    except FileNotFoundError:
        faults.add(where, "the folder is missing")
    except NotADirectoryError:
        faults.add(where, "is not a folder")
    except OSError as error:
        faults.add(where, f"the folder cannot be read ({error.strerror})")
    return None


def _list_images(root: Path, where: str, faults: Faults) -> dict[int, Path]:
    """The images of a folder by frame number, in numeric order; empty if there are none."""
    if (paths := _list_folder(root, where, faults)) is None:
        return {}
    frames = sort_frames(paths)
    for fault in frames.faults:
        faults.add(where, fault)
    return frames.files


def _check_numbering(where: str, numbers: Collection[int], faults: Faults) -> None:
    """Numbering starts at 0 or 1 and has no gaps."""
    if not (ordered := sorted(numbers)):
        return  # already reported
    split, hint = where.split("/")[0], ""
    if split != "test":  # whose labels must not be renumbered without their first frame
        folders = [str(faults.root / split / f"{split}_{kind}") for kind in ("img", "label")]
        hint = f"; run: python dataloader.py renumber {shlex.join(folders)}"
    if ordered[0] not in (0, 1):
        faults.add(where, f"numbering starts at {ordered[0]}; it must start at 0 or 1{hint}")
    if missing := ordered[-1] - ordered[0] + 1 - len(ordered):
        # Only those that are named are enumerated: a name may be a date in seconds.
        gaps = (n for before, after in pairwise(ordered) for n in range(before + 1, after))
        which = named(islice(gaps, MAX_NAMED), missing)
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
    where, first, end = "train/clips.csv", min(numbers, default=0), max(numbers, default=-1) + 1
    if not os.path.lexists(root / where):
        return [(first, end)] if numbers else []
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


# ---------------------------------------------------------------- pixels


@dataclass
class ImageFolder:
    """Images of one folder that are to be read, in order; then their pixels."""

    where: str
    files: list[Path]
    pixels: np.ndarray = field(default_factory=lambda: np.zeros((0, 0, 0, 3), np.uint8))
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)  # (width, height) as stored
    clear: bool = False  # whether an image has transparent pixels

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
        image = to_rgb(image, BLACK if "_label" in folder.where else WHITE)
        if stored != size:
            image = image.resize(size, Image.Resampling.BILINEAR)
        folder.pixels[index] = np.asarray(image)
        return stored

    for folder in folders:
        folder.pixels = np.zeros((len(folder.files), size[1], size[0], 3), np.uint8)
    jobs = [(folder, index) for folder in folders for index in range(len(folder.files))]
    corrupted: dict[str, list[tuple[str, str]]] = {folder.where: [] for folder in folders}
    pool = ThreadPoolExecutor(max_workers=max(1, workers))
    # None: on a terminal, not in a log file.
    hidden = None if progress else True
    try:
        # Pillow warns of large images and raises for huge ones; here both are faults.
        with (
            tqdm(
                total=len(jobs), desc="reading", unit=" images", disable=hidden, leave=False
            ) as bar,
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            for (folder, index), result in zip(jobs, pool.map(read, jobs), strict=True):
                bar.update()
                if isinstance(result, str):
                    place = f"{folder.where}/{folder.files[index].name}"
                    corrupted[folder.where].append((place, result))
                else:
                    folder.sizes[result] += 1
    finally:
        pool.shutdown(cancel_futures=True)  # so that Ctrl-C does not wait for the whole folder
    for where, found in corrupted.items():
        faults.add_listed(where, found, "corrupted images")


# ---------------------------------------------------------------- splits


@dataclass
class SplitFiles:
    """The files of a split, or of the test sequence `name`, that are to be read."""

    images: ImageFolder
    labels: ImageFolder
    recordings: tuple[Recording, ...] = ()  # as indices into the files
    name: str = ""

    def video(self, ink: Ink | None) -> VideoData:
        return VideoData(self.images.tensor(), self.labels.tensor(), self.recordings, ink)


def _read_splits(
    splits: Sequence[SplitFiles],
    size: tuple[int, int],
    workers: int,
    faults: Faults,
    progress: bool = False,
) -> Ink:
    """Read the pixels of all splits; what the first one's labels are drawn on.

    Another background elsewhere is a fault. Raises UserError with all faults together.
    """
    _read_images(_folders(splits), size, workers, faults, progress)
    faults.raise_if_any()
    labels = [split.labels for split in splits]
    first, ink = labels[0], find_ink(labels[0].pixels)
    for folder in labels[1:] if ink.is_certain(first.pixels) else ():
        other = find_ink(folder.pixels)
        if not ink.shares_background(other) and other.is_certain(folder.pixels):
            faults.add(
                folder.where,
                f"labels are drawn on {other.colour}, those of {first.where} on {ink.colour};"
                " draw all labels on the same background",
            )
    faults.raise_if_any()
    return ink


def _folders(splits: Iterable[SplitFiles]) -> list[ImageFolder]:
    return [folder for split in splits for folder in (split.images, split.labels)]


def _open_root(root: Path) -> Faults:
    """Raises UserError: there is no such folder, or the splits lie in another one close by."""
    faults = Faults(root)
    paths = _list_folder(root, "", faults)
    faults.raise_if_any()
    parent = root.resolve().parent
    for folder in (root, *(paths or ()), parent, parent.parent):
        # Not Path.is_dir(): it raises at a link into a folder that may not be read.
        if any(os.path.isdir(folder / split / f"{split}_img") for split in SPLITS):  # noqa: PTH112
            if folder != root:
                faults.add("", f"its train/, val/ and test/ are in {folder}; give that folder")
            break
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
    if (entries := _list_folder(root, where, faults)) is None:
        return {}
    # Not Path.is_dir(): it raises at a link into a folder that may not be read.
    names = [path.name for path in entries if os.path.isdir(path)]  # noqa: PTH112
    sequences: dict[int, str] = {}
    if odd := [name for name in names if not re.fullmatch("[0-9]+", name)]:
        faults.add(where, f"folders whose name is not a number: {named(odd)}; rename them 0, 1, …")
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
        # More than the first frame is of use only where all are given, to be shown beside.
        given = len(images) if images.keys() == labels.keys() else 1
        first_frame = ImageFolder(image_folder, list(images.values())[:given])
        every_label = ImageFolder(label_folder, list(labels.values()))
        sequences.append(SplitFiles(first_frame, every_label, name=label_names[number]))
    return sequences


def load_train_val(
    root: Path,
    *,
    height: int,
    width: int,
    train_vi_len: int = 2,
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
    ink = _read_splits(splits, (width, height), workers, faults, progress)
    return (train.video(ink) if train is not None else None), val.video(ink)


def load_val(
    root: Path, *, height: int, width: int, val_vi_len: int, workers: int = 2
) -> VideoData:
    """Read the validation video alone; see `load_train_val`."""
    size: dict[str, Any] = {"height": height, "width": width, "val_vi_len": val_vi_len}
    return load_train_val(root, **size, workers=workers, need_train=False)[1]


def load_test(root: Path, *, height: int, width: int, workers: int = 2) -> list[TestSequence]:
    """Read the test sequences in numeric order. Raises UserError with all faults together."""
    root = Path(root)
    faults = _open_root(root)
    sequences = _check_tests(root, faults)
    ink = _read_splits(sequences, (width, height), workers, faults)
    made = []
    for s in sequences:
        frames, labels = s.images.tensor(), s.labels.tensor()
        truth, reference = frames if len(frames) == len(labels) else None, None
        if (path := background_of(root, s.name)).exists():  # of a driven sequence
            behind = torch.from_numpy(np.array(read_image(path).resize((width, height))))
            reference = behind, behind.new_tensor(ink.background).expand_as(behind)
        made.append(TestSequence(s.name, frames[0], labels, truth, reference))
    return made


def image_size(root: Path) -> tuple[int, int] | None:
    """(height, width) of a data set's first training image, as it is stored; None without one.

    What is wrong with a data set is told when it is read.
    """
    try:
        width, height = read_image(next(iter(frames_in(root / "train/train_img").values()))).size
    except UserError:
        return None
    return height, width


def refuse_inside(root: Path, results: Path) -> None:
    """Raise UserError if a folder for results is inside a split of the data set.

    Nothing is written to a split; a folder next to the splits, in ROOT itself, is allowed.
    """
    folder = results.resolve()
    for split in SPLITS:
        part = (root / split).resolve()
        # The same folder by another name: a mount, or another case on macOS and Windows.
        same = os.path.exists(part) and any(  # noqa: PTH110
            os.path.exists(above) and part.samefile(above)  # noqa: PTH110
            for above in (folder, *folder.parents)
        )
        if same or folder.is_relative_to(part):
            raise UserError(
                f"--save_root {results}: is inside the data set's {split}/; give another folder"
            )


# ---------------------------------------------------------------- command line


def _print_split(name: str, what: str, lengths: Sequence[int], parts: Sequence[SplitFiles]) -> None:
    """Print two lines on a split; image sizes as stored, each with its number of files."""
    print(f"{name:<6} {what} of {', '.join(map(str, lengths)) or 0} frames")
    shown = []
    for kind in ("images", "labels"):
        sizes: Counter[tuple[int, int]] = sum((getattr(p, kind).sizes for p in parts), Counter())
        ranked = (f"{w} x {h} ({count})" for (w, h), count in sizes.most_common())
        shown.append(f"{kind}: {named(ranked, len(sizes)) or 'none'}")
    print(f"{'':<6} {'; '.join(shown)}")


def _pixels(name: str, files: SplitFiles, ink: Ink) -> inspection.SplitPixels:
    """What was read of train or val, for its inspection."""
    return inspection.SplitPixels(
        name,
        files.images.pixels,
        files.labels.pixels,
        names=[path.stem for path in files.images.files],
        starts=[recording.start for recording in files.recordings],
        ink=ink,
    )


def _draw(path: Path, title: str, findings: inspection.Findings) -> Path:
    """Draw the contact sheet of a data set; returns its path."""
    # Importing matplotlib takes nearly half a second, and only drawing needs it.
    from modules.figures.contact_sheet import SheetSequence, SheetSplit, write_contact_sheet

    names = [name for name in SheetSplit._fields if name != "copies"]
    train, val = (
        SheetSplit(**{name: getattr(split, name) for name in names})
        for split in (findings.train, findings.val)
    )
    copies = [index for index, _ in (*findings.copies.identical, *findings.copies.near)]
    tests = [
        SheetSequence(test.name, test.first_frame, test.labels[0], len(test.labels))
        for test in findings.tests
    ]
    ink = findings.train.ink
    return write_contact_sheet(path, title, train, val._replace(copies=copies), tests, ink)


def check(root: Path, workers: int, picture: Path | None = None, well: bool = True) -> None:
    """Print what a data set holds, and warnings of what may be wrong with it.

    picture: file of a contact sheet to write, PNG; well: False after a warning of its import

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
    splits = [*videos.values(), *tests]
    ink = _read_splits(splits, CHECKED_SIZE, workers, faults, progress=True)
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
    print(f"labels are drawn on {ink.colour}")
    if clear := [folder.where for folder in _folders(splits) if folder.clear]:
        print(f"transparent pixels are taken as white in frames, black in labels: {named(clear)}")
    train, val = (_pixels(split, files, ink) for split, files in videos.items())
    sequences = [
        inspection.TestPixels(
            files.name, files.images.pixels[0], files.labels.pixels, len(files.images.files)
        )
        for files in tests
    ]
    findings = inspection.inspect(train, val, sequences)
    for pixels in (findings.train, findings.val):
        print(f"{pixels.name:<6} {pixels.summary()}")
    warnings = findings.warnings()
    for line in warnings:
        print(f"warning: {line}")
    if picture is not None:
        print(f"wrote {_draw(picture, root.resolve().name, findings)}")
    print("no faults" if well and not warnings else "complete and readable; see the warnings above")


def _import(o: VideoOptions, workers: int) -> None:
    """The command `video`, and what to type next."""
    well = import_video(o)
    out = shlex.quote(str(o.out))
    if o.like:
        run = f"runs/{o.like.resolve().name}"
        checkpoint, made = (shlex.quote(f"{run}/{n}") for n in ("best.ckpt", o.out.resolve().name))
        print(f"render: python Tester.py --ckpt_path {checkpoint} --DR {out} --save_root {made}")
        return
    check(o.out, workers, o.out / "contact_sheet.png", well)
    run = shlex.quote(f"runs/{o.out.resolve().name}")
    print(f"train: python Trainer.py --preset video --DR {out} --save_root {run}")


def main(argv: Sequence[str] | None = None) -> None:
    """Run one of the commands. Raises UserError."""
    o, typed = parse_command(COMMANDS, "Make or check a data set in the folder layout.", argv)
    workers = min(8, os.cpu_count() or 1)
    if isinstance(o, DemoOptions):
        sizes = {"train": o.train, "val": o.val, "test": o.test, "test_length": o.test_length}
        make_demo(o.root, **sizes, seed=o.seed, height=o.frame_H, width=o.frame_W)
        print(
            f"{o.root}: {o.train} training and {o.val} validation frames, {o.test} test sequences"
            f" of {o.test_length} labels, {o.frame_W} x {o.frame_H} pixels"
        )
    elif isinstance(o, CheckOptions):
        check(o.root, workers, o.picture)
    elif isinstance(o, RenumberOptions):
        try:
            gaps = renumber(o.folders)
        except OSError as error:
            raise UserError(f"cannot rename {error.filename}: {error.strerror}") from error
        print(f"renumbered from 0: {named(o.folders)}")
        if gaps:
            print(f"there were gaps before: {named(gaps)}; rows of clips.csv should start there")
    else:
        _import(checked(o, typed), workers)


if __name__ == "__main__":
    run_as_script(main)
