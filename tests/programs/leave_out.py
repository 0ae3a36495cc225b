"""Data sets that hold back the end of each recording in turn, to validate on all of a few cameras.

    python tests/programs/leave_out.py ROOT OUT              # OUT/0, OUT/1 … one for each recording
    python tests/programs/leave_out.py ROOT OUT --frames 30
    python tests/programs/leave_out.py ROOT OUT --alone      # without the other recordings

OUT/k has the training recordings of ROOT without the last frames of recording k, which are its
validation video; with --alone it has recording k only, as a short clip. Only the training split is
used, whose frames are all known. For data sets of some hundred frames in several recordings, where
one validation video of half a second says little.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import dataloader
from modules.data import VideoData
from modules.runtime.errors import UserError
from modules.runtime.scripts import ArgumentParser, path_argument, run_as_script
from tests.support.data import write_images


def write(root: Path, split: str, data: VideoData, numbers: list[int]) -> None:
    """Write these frames and their labels, numbered from 0."""
    for kind, pixels in (("img", data.frames), ("label", data.labels)):
        write_images(root / split / f"{split}_{kind}", pixels[numbers].numpy())


def leave_out(data: VideoData, out: Path, frames: int, alone: bool) -> int:
    """Write the data sets; returns how many. Raises UserError."""
    if out.exists() and any(out.iterdir()):
        raise UserError(f"{out}: is not empty; name another folder")
    lengths = [recording.stop - recording.start for recording in data.recordings]
    if min(lengths) < frames + 2:
        raise UserError(f"--frames {frames}: a recording has only {min(lengths)}")
    for held, recording in enumerate(data.recordings):
        end, root = recording.stop - frames, out / str(held)
        kept = [
            list(range(r.start, end if r is recording else r.stop))
            for r in ([recording] if alone else data.recordings)
        ]
        write(root, "train", data, [number for numbers in kept for number in numbers])
        write(root, "val", data, list(range(end, recording.stop)))
        rows, start = ["start,stop"], 0
        for numbers in kept:
            rows.append(f"{start},{start + len(numbers)}")
            start += len(numbers)
        (root / "train/clips.csv").write_text("\n".join(rows) + "\n")
    return len(data.recordings)


def main() -> None:
    parser = ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("root", type=path_argument, metavar="ROOT", help="data set")
    parser.add_argument("out", type=path_argument, metavar="OUT", help="folder to write")
    parser.add_argument("--frames", type=int, default=30, help="frames that are held back (30)")
    parser.add_argument("--alone", action="store_true", help="leave the other recordings out")
    given = parser.parse_args()
    if given.frames < 2:
        raise UserError(f"--frames {given.frames}: must be at least 2")
    dataloader.refuse_inside(given.root, given.out)
    size = {"height": 32, "width": 64, "train_vi_len": 2, "val_vi_len": 2}
    data, _ = dataloader.load_train_val(given.root, **size)
    assert data is not None
    count = leave_out(data, given.out, given.frames, given.alone)
    print(f"{given.out}: {count} data sets, each with {given.frames} frames held back")


if __name__ == "__main__":
    run_as_script(main)
