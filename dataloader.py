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
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate, islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm.contrib.concurrent import thread_map

from modules.data import Recording, TestSequence, VideoData
from modules.datasets import inspection
from modules.datasets.images import BLACK, WHITE, decode_image, is_clear, read_image, to_rgb
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
from modules.runtime.errors import MAX_NAMED, UserError, named, reason_of
from modules.runtime.scripts import run_as_script

MAX_LISTED = 20  # faults of one folder or file
SPLITS = ("train", "val", "test")
CHECKED_SIZE = (64, 32)  # width, height in pixels at which `check` looks for cuts and copies


# ---------------------------------------------------------------- which files there are


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
    except FileNotFoundError:
        faults.add(where, "the folder is missing")
    except OSError as error:
        faults.add(where, f"the folder cannot be read ({error.strerror})")
    return None


def _list_images(faults: Faults, where: str, numbered: bool = True) -> dict[int, Path]:
    """The images of a folder by frame number, in numeric order; empty if there are none.

    numbered: whether the numbering must start at 0 or 1 and have no gaps
    """
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
    """The recordings as ranges of frame numbers, in order: the rows start,stop of train/clips.csv.

    numbers: of all frames. Empty without the file: then the whole folder is one recording.
    """
    where, frames = "train/clips.csv", range(min(numbers, default=0), max(numbers, default=-1) + 1)
    if not os.path.lexists(path := faults.root / where):
        return []
    try:
        rows = read_table(path)
    except (OSError, ValueError, csv.Error) as error:
        faults.add(where, f"cannot be read as a CSV file ({reason_of(error)})")
        return []
    if not rows or [cell.lower() for cell in rows[0][1]] != ["start", "stop"]:
        found = f"starts with {','.join(rows[0][1])!r:.60}" if rows else "is empty"
        faults.add(where, f"{found}; its first line must be the header start,stop")
        return []
    if len(rows) == 1:
        faults.add(where, "has no rows; without the file the folder is one recording")
    clips: list[tuple[range, int]] = []  # with its line
    for line, cells in rows[1:]:
        text, clip = f"{','.join(cells):.60}", range(0)
        if len(cells) == 2 and all(re.fullmatch(r"-?[0-9]{1,18}", cell) for cell in cells):
            clip = range(*map(int, cells))
        if not clip:
            what = f"{text!r} is not start,stop: two integers, the first below the second"
            faults.add(where, what, f" line {line}")
        elif numbers and (clip[0] not in frames or clip[-1] not in frames):
            what = f"{text} is out of range; all frames together are {frames.start},{frames.stop}"
            faults.add(where, what, f" line {line}")
        else:
            clips.append((clip, line))
    clips.sort(key=lambda clip: clip[0].start)
    for (before, above), (after, line) in pairwise(clips):
        if after.start < before.stop:
            text = f"{after.start},{after.stop} overlaps {before.start},{before.stop}"
            faults.add(where, f"{text} of line {above}", f" line {line}")
    return [clip for clip, _ in clips] if where not in faults.found else []


# ---------------------------------------------------------------- splits


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
    """The files of a split, or of the test sequence `name`, that are to be read."""

    images: ImageFolder
    labels: ImageFolder
    recordings: tuple[Recording, ...]  # as indices into the labels
    name: str = ""

    def video(self, ink: Ink) -> VideoData:
        frames, labels = map(torch.from_numpy, (self.images.pixels, self.labels.pixels))
        return VideoData(frames, labels, self.recordings, ink)


def _open_root(root: Path) -> Faults:
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


def _check_video(
    faults: Faults, split: str, *, partial: float = 1.0, limit: int | None = None
) -> SplitFiles:
    """Check the structure of train or val and choose the frames to read.

    They are the first round(partial · N) of the N frames within recordings, or the first `limit`.
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
    # Without a fault there are no gaps.
    parts = [numbers[clip.start - numbers[0] : clip.stop - numbers[0]] for clip in clips]
    parts = parts or [numbers]
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
    )


def _list_sequences(faults: Faults, where: str) -> dict[int, str]:
    """Names of the folders of test sequences by their number. Files are ignored."""
    if (entries := _list_folder(faults, where)) is None:
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


def _check_tests(faults: Faults) -> list[SplitFiles]:
    """Check the structure of the test split; the sequences in numeric order."""
    if _list_folder(faults, "test") is None:
        return []
    of_labels, of_images = (_list_sequences(faults, f"test/test_{k}") for k in ("label", "img"))
    sequences = []
    for number in sorted(of_labels.keys() | of_images.keys()) if of_labels and of_images else ():
        name = of_labels.get(number) or of_images[number]
        label_folder = f"test/test_label/{name}"
        image_folder = f"test/test_img/{of_images.get(number, name)}"
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


# ---------------------------------------------------------------- reading


def _read_images(
    splits: Sequence[SplitFiles],
    size: tuple[int, int],
    workers: int,
    faults: Faults,
    progress: bool = False,
) -> Ink:
    """Read the pixels of all splits; what the first one's labels are drawn on.

    size: (width, height) to which images are resized. They are decoded in threads, since Pillow
    decodes outside Python's global lock; each has its place in the result, so the number of threads
    changes nothing but the time. Raises UserError with all faults together; one is that labels are
    not all drawn on the same background.
    """

    def read(job: tuple[ImageFolder, int]) -> tuple[int, int] | str:
        folder, index = job
        image = decode_image(folder.files[index])
        if isinstance(image, str):
            return image
        folder.clear |= is_clear(image)
        rgb = to_rgb(image, BLACK if "_label" in folder.where else WHITE)
        if rgb.size != size:
            rgb = rgb.resize(size, Image.Resampling.BILINEAR)
        folder.pixels[index] = np.asarray(rgb)
        return image.size

    folders = [folder for split in splits for folder in (split.images, split.labels)]
    for folder in folders:
        folder.pixels = np.zeros((len(folder.files), size[1], size[0], 3), np.uint8)
    jobs = [(folder, index) for folder in folders for index in range(len(folder.files))]
    # Pillow warns of large images and raises for huge ones; here both are faults.
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        results = thread_map(
            *(read, jobs),
            max_workers=max(1, workers),
            desc="reading",
            unit=" images",
            leave=False,
            disable=None if progress else True,  # None: on a terminal, not in a log file
        )
    for (folder, index), result in zip(jobs, results, strict=True):
        if isinstance(result, str):
            faults.add(folder.where, result, f"/{folder.files[index].name}")
        else:
            folder.sizes["{} x {}".format(*result)] += 1
    faults.raise_if_any()

    first, *others = [split.labels for split in splits]
    ink = find_ink(first.pixels)
    for labels in others if ink.is_certain(first.pixels) else ():
        other = find_ink(labels.pixels)
        if not ink.shares_background(other) and other.is_certain(labels.pixels):
            what = f"labels are drawn on {other.colour}, those of {first.where} on {ink.colour}"
            faults.add(labels.where, f"{what}; draw all labels on the same background")
    faults.raise_if_any()
    return ink


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
    faults = _open_root(root)
    train = _check_video(faults, "train", partial=partial) if need_train else None
    if train is not None and not faults.found:
        longest = max((rec.stop - rec.start for rec in train.recordings), default=0)
        if longest < train_vi_len:
            cut = f" with --partial {partial}" if partial < 1 else ""
            what = f"is longer than every recording (longest: {longest} frames{cut})"
            faults.add("train", f"--train_vi_len {train_vi_len} {what}")
    val = _check_video(faults, "val", limit=val_vi_len)
    splits = [split for split in (train, val) if split is not None]
    ink = _read_images(splits, (width, height), workers, faults, progress)
    return (train.video(ink) if train is not None else None), val.video(ink)


def load_val(root: Path, **options: Any) -> VideoData:
    """Read the validation video alone; options: see `load_train_val`."""
    return load_train_val(root, need_train=False, **options)[1]


def load_test(root: Path, *, height: int, width: int, workers: int = 2) -> list[TestSequence]:
    """Read the test sequences in numeric order. Raises UserError with all faults together."""
    faults = _open_root(root)
    sequences = _check_tests(faults)
    ink = _read_images(sequences, (width, height), workers, faults)
    made = []
    for s in sequences:
        frames, labels = s.video(ink).frames, s.video(ink).labels
        truth, reference = frames if len(frames) == len(labels) else None, None
        if (path := background_of(root, s.name)).exists():  # of a driven sequence
            behind = torch.from_numpy(np.array(read_image(path).resize((width, height))))
            reference = behind, behind.new_tensor(ink.background).expand_as(behind)
        made.append(TestSequence(s.name, frames[0], labels, truth, reference))
    return made


def image_size(root: Path) -> tuple[int, int] | None:
    """(height, width) of a data set's first training image as it is stored; None without one."""
    try:
        width, height = read_image(next(iter(frames_in(root / "train/train_img").values()))).size
    except UserError:  # which is told when the data set is read
        return None
    return height, width


def refuse_inside(root: Path, results: Path) -> None:
    """Raise UserError if a folder for results is inside a split; next to them, in ROOT, is fine."""
    above = [results.resolve(), *results.resolve().parents]
    there = [folder for folder in above if os.path.exists(folder)]  # noqa: PTH110
    for split in SPLITS:
        part = (root / split).resolve()
        # The same folder by another name: a mount, or another case on macOS and Windows.
        same = os.path.exists(part) and any(map(part.samefile, there))  # noqa: PTH110
        if same or part in above:
            raise UserError(
                f"--save_root {results}: is inside the data set's {split}/; give another folder"
            )


# ---------------------------------------------------------------- command line


def _draw(path: Path, title: str, findings: inspection.Findings) -> None:
    """Draw the contact sheet of a data set."""
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
    made = write_contact_sheet(path, title, train, val._replace(copies=copies), tests, ink)
    print(f"wrote {made}")


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
    train, val = (_check_video(faults, split) for split in ("train", "val"))
    tests = _check_tests(faults) if os.path.lexists(root / "test") else []
    splits = [train, val, *tests]
    ink = _read_images(splits, CHECKED_SIZE, workers, faults, progress=True)
    print(f"{root}: sizes are width x height in pixels (number of files)")
    for name, noun, parts in (
        ("train", "recording(s)", [train]),
        ("val", "recording(s)", [val]),
        ("test", "sequence(s)", tests),
    ):
        if not parts:
            print("test   absent (optional)")
            continue
        lengths = [one.stop - one.start for part in parts for one in part.recordings]
        frames, every = sum(lengths), ", ".join(map(str, lengths))
        print(f"{name:<6} {frames} frames; {len(lengths)} {noun} of {every} frames")
        shown = []
        for kind in ("images", "labels"):
            sizes: Counter[str] = sum((getattr(part, kind).sizes for part in parts), Counter())
            ranked = (f"{size} ({count})" for size, count in sizes.most_common())
            shown.append(f"{kind}: {named(ranked, len(sizes))}")
        print(f"{'':<6} {'; '.join(shown)}")
    print(f"labels are drawn on {ink.colour}")
    folders = [folder for split in splits for folder in (split.images, split.labels)]
    if clear := [folder.where for folder in folders if folder.clear]:
        print(f"transparent pixels are taken as white in frames, black in labels: {named(clear)}")
    pixels = [
        inspection.SplitPixels(
            name,
            split.images.pixels,
            split.labels.pixels,
            names=[path.stem for path in split.images.files],
            starts=[recording.start for recording in split.recordings],
            ink=ink,
        )
        for name, split in (("train", train), ("val", val))
    ]
    sequences = [
        inspection.TestPixels(t.name, t.images.pixels[0], t.labels.pixels, len(t.images.files))
        for t in tests
    ]
    findings = inspection.inspect(pixels[0], pixels[1], sequences)
    print("\n".join(f"{split.name:<6} {split.summary()}" for split in pixels))
    for line in (found := findings.warnings()):
        print(f"warning: {line}")
    if picture is not None:
        _draw(picture, root.resolve().name, findings)
    print("no faults" if well and not found else "complete and readable; see the warnings above")


def main(argv: Sequence[str] | None = None) -> None:
    """Run one of the commands. Raises UserError."""
    o, typed = parse_command(COMMANDS, "Make or check a data set in the folder layout.", argv)
    workers = min(8, os.cpu_count() or 1)
    if isinstance(o, DemoOptions):
        sizes = {"train": o.train, "val": o.val, "test": o.test, "test_length": o.test_length}
        make_demo(o.root, **sizes, seed=o.seed, height=o.frame_H, width=o.frame_W)
        print(f"{o.root}: {o.train} training, {o.val} validation frames, {o.test} test sequences")
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
    elif isinstance(o, VideoOptions):
        o = checked(o, typed)
        well = import_video(o)
        out, run = shlex.quote(str(o.out)), f"runs/{(o.like or o.out).resolve().name}"
        if o.like:
            best, made = (shlex.quote(f"{run}/{n}") for n in ("best.ckpt", o.out.resolve().name))
            print(f"render: python Tester.py --ckpt_path {best} --DR {out} --save_root {made}")
        else:
            check(o.out, workers, o.out / "contact_sheet.png", well)
            run = shlex.quote(run)
            print(f"train: python Trainer.py --preset video --DR {out} --save_root {run}")


if __name__ == "__main__":
    run_as_script(main)
