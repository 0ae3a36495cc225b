"""PSNR of generated frames enlarged to a larger size, against the true frames at that size.

    python tests/programs/enlarged.py runs/a/val/frames/0 data/a/val/val_img 128x64

Says what a model of small frames is worth where larger ones are wanted. Frame 0, which is given, is
left out; frames are enlarged by a bicubic filter, the truth made smaller by Lanczos'.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from modules.datasets.naming import frames_in
from modules.datasets.video_options import parse_size
from modules.runtime.errors import UserError
from modules.runtime.scripts import ArgumentParser, path_argument, run_as_script


def psnr_enlarged(made: Path, truth: Path, size: tuple[int, int]) -> float:
    """Mean PSNR in dB over the frames after the first; size: (width, height). Raises UserError."""
    frames, true = frames_in(made), frames_in(truth)
    if missing := frames.keys() - true.keys():
        raise UserError(f"{truth}: has no frame {min(missing)}")

    def pixels(path: Path, how: Image.Resampling) -> np.ndarray:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB").resize(size, how), dtype=float)

    errors = [
        np.square(
            pixels(frames[t], Image.Resampling.BICUBIC) - pixels(true[t], Image.Resampling.LANCZOS)
        ).mean()
        for t in sorted(frames)[1:]
    ]
    return float(np.mean(10 * np.log10(255**2 / np.array(errors))))


def main() -> None:
    parser = ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("made", type=path_argument, metavar="MADE", help="folder of made frames")
    parser.add_argument("truth", type=path_argument, metavar="TRUTH", help="folder of true frames")
    parser.add_argument("size", type=parse_size, metavar="WxH", help="width x height, pixels")
    given = parser.parse_args()
    print(f"{psnr_enlarged(given.made, given.truth, given.size):.2f} dB")


if __name__ == "__main__":
    run_as_script(main)
