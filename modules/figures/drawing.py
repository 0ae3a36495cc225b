"""What is drawn of a run, and an artist whom nothing that goes wrong with it stops.

A picture that cannot be drawn is no reason to end a training: its file may be open in a viewer, the
disk full, matplotlib's configuration broken. It is tried again at once and with every later
drawing. Nothing here needs PyTorch, and matplotlib is imported when it is needed.

Legend: T frames, H, W height and width in pixels.
"""

import errno
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from modules.runlog import write_psnr_per_frame
from modules.runtime.errors import reason_of

Pictures = Mapping[str, Callable[[], object]]  # by file name, how each is drawn

WAITS = (0.2, 0.5)  # seconds before what has failed for the first time is tried again


@dataclass(frozen=True)
class Curves:
    """curves.png and latent.png, from the run's files."""

    rows: tuple[dict[str, Any], ...] = ()  # the last ones of metrics.csv, that it may lack

    def pictures(self, root: Path) -> Pictures:
        """How each is drawn, by file name."""
        return {"curves.png": lambda: self._curves(root), "latent.png": lambda: self._latent(root)}

    def _curves(self, root: Path) -> None:
        from modules.figures import curves, runs

        curves.save(curves.curves_figure(runs.load_run(root, self.rows)), root / "curves.png")

    def _latent(self, root: Path) -> None:
        from modules.figures import curves, runs

        curves.save_latent(runs.load_run(root, self.rows))


@dataclass(frozen=True, eq=False)
class Validation:
    """psnr_per_frame.csv and .png; and where it is visualized val.gif and val_sheet.png."""

    psnr: np.ndarray  # (T-1,) dB, as are the next two
    inside: np.ndarray
    outside: np.ndarray
    # labels, truth, prediction, (T, H, W, 3) uint8 each; empty where frames are not finite
    images: Mapping[str, Any]
    visualize: bool

    def pictures(self, root: Path) -> Pictures:
        """How each is drawn, by file name."""
        of_frames = self.psnr, self.inside, self.outside
        path = root / "psnr_per_frame.csv"
        found: dict[str, Callable[[], object]] = {
            "psnr_per_frame.csv": lambda: write_psnr_per_frame(path, *of_frames),
            "psnr_per_frame.png": lambda: self._frames(root / "psnr_per_frame.png"),
        }
        if self.visualize and self.images:
            found["val.gif"] = lambda: self._gif(root / "val.gif")
            found["val_sheet.png"] = lambda: self._sheet(root / "val_sheet.png")
        return found

    def _frames(self, path: Path) -> None:
        from modules.figures import frames

        regions = {"inside": self.inside, "outside": self.outside}
        frames.draw_psnr_per_frame(
            path, self.psnr, **regions, title_prefix="Validation", **self.images
        )

    def _gif(self, path: Path) -> None:
        from modules.figures import gifs

        gifs.write_comparison_gif(path, **self.images)

    def _sheet(self, path: Path) -> None:
        from modules.figures import frames

        frames.write_sheet(path, **self.images, psnr=self.psnr)


@dataclass(frozen=True)
class Text:
    """A small file that is no picture, but must not end the run either."""

    name: str
    text: str

    def pictures(self, root: Path) -> Pictures:
        """How it is written, by file name."""
        from modules.runtime.files import write_atomically

        return {self.name: lambda: write_atomically(root / self.name, self.text.encode())}


Job = Curves | Validation | Text


class Artist:
    """Draws into a run's folder; remembers what it still owes."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.owed: dict[str, Callable[[], object]] = {}  # by file name, how it would be drawn
        self.jobs: tuple[Job, ...] = ()  # the last ones

    def draw(self, *jobs: Job) -> dict[str, str]:
        """Draw them, and what could not be drawn before; why not, by file name, what cannot now."""
        known = set(self.owed)
        self.jobs = jobs or self.jobs
        for job in jobs:
            self.owed.update(job.pictures(self.root))
        faults = self._round()
        for wait in WAITS:
            if not faults.keys() - known:
                break
            time.sleep(wait)
            faults = self._round()
        return faults

    def wait(self, _limit: Callable[[], float]) -> bool:
        """There is nothing to wait for."""
        return True

    def finish(self, _limit: Callable[[], float]) -> dict[str, str]:
        """Try again what is owed; why not, by file name, what cannot be drawn."""
        return self.draw() if self.owed else {}

    def close(self) -> None:
        """There is nothing to end."""

    def _round(self) -> dict[str, str]:
        """Try each that is owed once."""
        faults: dict[str, str] = {}
        for name, picture in list(self.owed.items()):
            try:
                leave_room(self.root, name)
                picture()
            except Exception as error:  # whatever it is, the training is worth more
                faults[name] = reason_of(error)
            else:
                del self.owed[name]
        return faults


def leave_room(root: Path, name: str) -> None:
    """Raise OSError if a picture would take the space that the next checkpoint needs."""
    if not (checkpoint := root / "last.ckpt").exists():
        return
    present = root / name
    need = checkpoint.stat().st_size + (present.stat().st_size if present.exists() else 0)
    if shutil.disk_usage(root).free < need:
        raise OSError(errno.ENOSPC, "the space that is left is kept for the next checkpoint", name)
