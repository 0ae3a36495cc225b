"""What a run writes besides its checkpoints: metrics.csv, config.json, figures, warnings.txt.

None of it ends the run. What cannot be written is tried again with the next figures and at the end;
a warning names it once.
"""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from modules import runlog
from modules.checkpoint import RunState
from modules.data import VideoData, to_uint8
from modules.diagnosis import warnings_of
from modules.evaluation import Score, where_it_fits
from modules.losses import EpochAverages, implied_sigma
from modules.runtime.errors import UserError, why
from modules.runtime.files import retried, write_atomically

# Drawing may take this part of a run's time; then the figures wait for a later epoch.
SHARE = 0.02

# matplotlib takes a second to import, so figures are imported where they are drawn.


class Records:
    """The files of a run, for the rank that writes them."""

    def __init__(self, state: RunState) -> None:
        self.state, self.root = state, state.root
        self.table = runlog.MetricsTable(self.root / "metrics.csv", state.unwritten)
        self.pending: dict[str, Callable[[], object]] = {}  # by file name, how it is written
        self.warned: set[str] = set()
        self.began = time.perf_counter()
        self.drawing = -1.0  # seconds spent on it since then; below 0 before the first time

    def begin(self, config: dict[str, Any]) -> None:
        """Write config.json. A new run needs it: UserError. A resumed one goes on without."""
        write = partial(runlog.write_config, self.root / "config.json", config)
        if self.state.o.resume:
            self._write("config.json", write, retry=True)
        else:
            retried(write)

    def resume_table(self) -> None:
        """Drop the rows of metrics.csv that the run will write again. UserError: another table."""
        self.table.resume(self.state.last_epoch)
        self._write("metrics.csv", self.table.write, retry=True)

    def add(self, row: dict[str, Any], result: Score, video: VideoData, made: torch.Tensor) -> None:
        """An epoch's row of metrics.csv, and psnr_per_frame.csv if it is the best so far.

        Figures are drawn later. result, made: of its validation, (T, 3, H, W) in [0, 1]
        """
        self.table.add(row)
        self._write("metrics.csv", self.table.write, retry=True)
        self.pending |= self.curves()
        if self.state.best.epoch == row["epoch"]:
            of = self.root, result, video, made, row["epoch"]
            self.pending |= validation_files(*of, visualize=self.state.o.store_visualization)
            table = "psnr_per_frame.csv"  # compare reads it beside metrics.csv
            self._write(table, self.pending[table])

    def curves(self) -> dict[str, Callable[[], object]]:
        """How the figures of metrics.csv are drawn, from the rows so far."""

        def draw(name: str) -> None:
            from modules.figures import curves

            curves.save_curves(self._run(), name)

        return {name: partial(draw, name) for name in ("curves.png", "latent.png", "regions.png")}

    def draw(self) -> None:
        """Draw what is pending, after the first epoch or if drawing has taken little time."""
        began = time.perf_counter()
        if self.drawing <= SHARE * (began - self.began):
            self._write_pending()
            self.drawing = max(self.drawing, 0.0) + time.perf_counter() - began

    def finish(self) -> None:
        """The run ends or is stopped: try all once more that is not written yet."""
        self._write_pending(retry=True)
        if self.table.unwritten:
            text = "the last rows are in last.ckpt, and --resume writes them"
            print(f"warning: {self.table.path}: {text}", flush=True)

    def warn(self, *, latest: bool = False) -> None:
        """Print what the run's metrics say that a user must not overlook; at the end, latest being
        False, also what to try, and keep it all in warnings.txt."""
        try:
            lines = warnings_of(self._run(), latest=latest)
        except (OSError, UserError):  # as the curves, which say so, cannot be drawn
            return
        path, text = self.root / "warnings.txt", "".join(f"{line}\n" for line in lines)
        print(text, end="", flush=True)

        def keep() -> None:
            write_atomically(path, text.encode()) if text else path.unlink(missing_ok=True)

        if not latest:
            self._write(path.name, keep, retry=True)

    def _run(self) -> runlog.Run:
        return runlog.load_run(self.root, self.table.unwritten)

    def _write_pending(self, *, retry: bool = False) -> None:
        for name, write in [*self.pending.items()]:
            self._write(name, write, retry=retry)

    def _write(self, name: str, write: Callable[[], object], *, retry: bool = False) -> None:
        """Write a file; where that fails it stays pending, and a warning names it once.

        retry: try for a moment what is refused
        """
        try:
            retried(write) if retry else write()
            self.pending.pop(name, None)
        except Exception as error:  # whatever it is, the training is worth more
            self.pending[name] = write
            if name not in self.warned:
                self.warned.add(name)
                print(
                    f"warning: {self.root / name}: cannot be written ({why(error)}); "
                    "training continues, and it will be retried",
                    flush=True,
                )


def metrics_row(
    state: RunState, trained: EpochAverages, result: Score, seconds: float
) -> dict[str, Any]:
    """The epoch's row of metrics.csv, but for its `seconds`; seconds: spent on training."""
    o, plan = state.o, state.plan
    return {
        "epoch": state.last_epoch,
        "train_loss": trained.loss,
        "train_mse": trained.mse,
        "train_kl": trained.kl,
        "train_psnr": trained.psnr,
        "val_loss": result.loss,
        "val_psnr": result.mean_psnr,
        "beta": plan.beta,
        "tfr": plan.tfr,
        "tf_active": int(plan.teacher_forcing),
        "lr": plan.lr,
        "skipped": trained.skipped,
        "frames_per_second": trained.frames / max(seconds, 1e-9),
        "val_ssim": result.mean_ssim,
        "active_dims": trained.active_dims,
        "sigma": implied_sigma(plan.beta, 3 * o.frame_H * o.frame_W),
        "val_psnr_inside": result.mean_inside,
        "val_psnr_outside": result.mean_outside,
        "val_drift": result.drift,
        "val_flicker": result.mean_flicker,
    }


def validation_files(
    root: Path,
    result: Score,
    video: VideoData,
    made: torch.Tensor,
    epoch: int | None = None,
    *,
    visualize: bool,
) -> dict[str, Callable[[], object]]:
    """What shows a validation, by file name how it is written: psnr_per_frame.csv and .png, and to
    visualize val.gif and val_sheet.png.

    made: (T, 3, H, W) in [0, 1]; epoch: in the titles, None where it is not known
    """
    pictures = {
        "label": video.labels.numpy(),
        "truth": video.frames.numpy(),
        "prediction": where_it_fits(to_uint8, made).cpu().numpy(),
    }
    psnr, title = result.psnr, validation_title(epoch, result.mean_psnr)
    regions: dict[str, Any] = {"inside": result.inside, "outside": result.outside}

    def write(name: str) -> None:
        path = root / name
        if name == "psnr_per_frame.csv":
            runlog.write_psnr_per_frame(path, psnr, **regions)
            return
        from modules.figures import curves, media, style

        if name == "psnr_per_frame.png":  # which computes the average itself
            which = validation_title(epoch)
            figure = curves.psnr_per_frame_figure(psnr, title=which, pictures=pictures, **regions)
            style.save(figure, path)
        else:
            draw: Any = media.write_comparison_gif if name == "val.gif" else media.write_sheet
            draw(path, *pictures.values(), psnr, title=title)

    names = ["psnr_per_frame.csv", "psnr_per_frame.png", "val.gif", "val_sheet.png"]
    return {name: partial(write, name) for name in names[: 4 if visualize else 2]}


def validation_title(epoch: int | None, average: float | None = None) -> str:
    """Which validation a figure shows; epoch: None where it is not known, average in dB."""
    which = "Validation" if epoch is None else f"Best validation, epoch {epoch}"
    return which if average is None else f"{which}, average {average:.2f} dB"
