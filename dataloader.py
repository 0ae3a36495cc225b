"""The data set in the folder layout: check it and read it into memory.

    python dataloader.py demo data/demo      # make a small synthetic data set to try things on
    python dataloader.py check data/demo     # print what is in it, or list every problem
    python dataloader.py video dance.mp4 --out data/dance        # make one of your own video
    python dataloader.py renumber FOLDER…    # rename images to 0.png, 1.png, …

Layout (numbering starts at 0 or 1, PNG, JPEG and others; `frame_0001.png` will do):

    ROOT/train/train_img/0.png …   ROOT/train/train_label/0.png …   ROOT/train/clips.csv (optional)
    ROOT/val/val_img/0.png …       ROOT/val/val_label/0.png …
    ROOT/test/test_img/0/0.png     ROOT/test/test_label/0/0.png …   a folder for each sequence

Every image is decoded and resized once and kept in memory as uint8, (N, H, W, 3). How training
clips are cut from them: modules/data.py.
"""

import os
import shlex
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm.contrib.concurrent import thread_map

from modules.data import TestSequence, VideoData
from modules.datasets import layout, video_options
from modules.datasets.images import BLACK, WHITE, decode_image, is_clear, read_image, to_rgb
from modules.datasets.inspection import SMALL, Inspected, drawn_part, find_copies, label_warnings
from modules.datasets.naming import frames_in, renumber
from modules.datasets.synthetic import make_demo
from modules.datasets.video import import_video
from modules.ink import Ink, find_ink
from modules.options import parse_command
from modules.runtime.errors import UserError, named
from modules.runtime.scripts import run_as_script

# ---------------------------------------------------------------- reading


def _read_images(
    splits: Sequence[layout.SplitFiles],
    size: tuple[int, int],
    workers: int,
    faults: layout.Faults,
    progress: bool = False,
) -> Ink:
    """Read the pixels of all splits; what the first one's labels are drawn on.

    size: (width, height) to which images are resized. They are decoded in threads, since Pillow
    decodes outside Python's global lock; each has its place in the result, so the number of threads
    changes nothing but the time. Raises UserError with all faults together; one is that labels are
    not all drawn on the same background.
    """

    def read(job: tuple[layout.ImageFolder, int]) -> tuple[int, int] | str:
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
    faults = layout.open_root(root)
    train = layout.check_video(faults, "train", partial=partial) if need_train else None
    if train is not None and not faults.found:
        longest = max((rec.stop - rec.start for rec in train.recordings), default=0)
        if longest < train_vi_len:
            cut = f" with --partial {partial}" if partial < 1 else ""
            what = f"is longer than every recording (longest: {longest} frames{cut})"
            faults.add("train", f"--train_vi_len {train_vi_len} {what}")
    val = layout.check_video(faults, "val", limit=val_vi_len)
    splits = [split for split in (train, val) if split is not None]
    ink = _read_images(splits, (width, height), workers, faults, progress)
    return (train.video(ink) if train is not None else None), val.video(ink)


def load_val(root: Path, **options: Any) -> VideoData:
    """Read the validation video alone; options: see `load_train_val`."""
    return load_train_val(root, need_train=False, **options)[1]


def load_test(root: Path, *, height: int, width: int, workers: int = 2) -> list[TestSequence]:
    """Read the test sequences in numeric order. Raises UserError with all faults together."""
    faults = layout.open_root(root)
    sequences = layout.check_tests(faults)
    ink = _read_images(sequences, (width, height), workers, faults)
    made = []
    for s in sequences:
        frames, labels = s.video(ink).frames, s.video(ink).labels
        truth, reference = frames if len(frames) == len(labels) else None, None
        if (path := layout.background_of(root, s.name)).exists():  # of a driven sequence
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
    for split in layout.SPLITS:
        part = (root / split).resolve()
        # The same folder by another name: a mount, or another case on macOS and Windows.
        same = os.path.exists(part) and any(map(part.samefile, there))  # noqa: PTH110
        if same or part in above:
            raise UserError(
                f"--save_root {results}: is inside the data set's {split}/; give another folder"
            )


# ---------------------------------------------------------------- command line


def check(root: Path, workers: int, picture: Path | None = None, well: bool = True) -> None:
    """Print what a data set holds, and warnings of what may be wrong with it.

    picture: file of a contact sheet to write, PNG; well: False after a warning of its import

    Raises UserError with the faults of all its splits.
    """
    if picture and (picture.suffix.lower() != ".png" or not picture.parent.is_dir()):
        raise UserError(f"--picture {picture}: must end in .png, in a folder that exists")
    faults = layout.open_root(root)
    train, val = (layout.check_video(faults, split) for split in ("train", "val"))
    tests = layout.check_tests(faults) if os.path.lexists(root / "test") else []
    splits = [train, val, *tests]
    ink = _read_images(splits, SMALL, workers, faults, progress=True)
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
    ours, theirs = Inspected(val, ink), Inspected(train, ink)
    found = [*theirs.warnings(), *ours.warnings()]
    print(f"train  {theirs.summary()}\nval    {ours.summary()}")
    for test in tests:
        drawn = drawn_part(test.labels.pixels, ink)
        found += label_warnings(f"test {test.name}", range(len(drawn)), drawn)
    if copies := find_copies(ours.frames, theirs.frames):
        where = named(f"{ours.names[a]} = train {theirs.names[b]}" for a, b in copies)
        share = f"{len(copies)} of {len(ours.frames)} frames"
        found.append(
            f"val: {share} are identical to training frames (the splits share frames): {where}"
        )
    for line in found:
        print(f"warning: {line}")
    if picture is not None:
        # Importing matplotlib takes nearly half a second, and only drawing needs it.
        from modules.figures.contact_sheet import write_contact_sheet

        ours.copies = [index for index, _ in copies]
        sequences = [
            (t.name, t.images.pixels[0], t.labels.pixels[0], len(t.labels.files)) for t in tests
        ]
        write_contact_sheet(picture, root.resolve().name, theirs, ours, sequences, ink)
        print(f"wrote {picture}")
    print("no faults" if well and not found else "complete and readable; see the warnings above")


def main(argv: Sequence[str] | None = None) -> None:
    """Run one of the commands. Raises UserError."""
    o, typed = parse_command(
        video_options.COMMANDS, "Make or check a data set in the folder layout.", argv
    )
    workers = min(8, os.cpu_count() or 1)
    if isinstance(o, video_options.DemoOptions):
        sizes = {"train": o.train, "val": o.val, "test": o.test, "test_length": o.test_length}
        make_demo(o.root, **sizes, seed=o.seed, height=o.frame_H, width=o.frame_W)
        print(f"{o.root}: {o.train} training, {o.val} validation frames, {o.test} test sequences")
    elif isinstance(o, video_options.CheckOptions):
        check(o.root, workers, o.picture)
    elif isinstance(o, video_options.RenumberOptions):
        try:
            gaps = renumber(o.folders)
        except OSError as error:
            raise UserError(f"cannot rename {error.filename}: {error.strerror}") from error
        print(f"renumbered from 0: {named(o.folders)}")
        if gaps:
            print(f"there were gaps before: {named(gaps)}; rows of clips.csv should start there")
    elif isinstance(o, video_options.VideoOptions):
        o = video_options.checked(o, typed)
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
