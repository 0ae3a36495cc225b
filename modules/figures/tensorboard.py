"""The optional TensorBoard log: the columns of metrics.csv as scalars by epoch.

The `tensorboard` package is imported only with --tensorboard, so it is optional.
"""

from pathlib import Path
from typing import Any

from modules.options import TrainerOptions
from modules.runlog import METRIC_COLUMNS, read_metrics
from modules.runtime.errors import UserError, shown

SCALARS = tuple(name for name in METRIC_COLUMNS if name != "epoch")


def check_tensorboard(o: TrainerOptions) -> None:
    """Raise UserError if --tensorboard is asked for and its package cannot be imported."""
    if o.tensorboard:
        try:
            import torch.utils.tensorboard  # noqa: F401
        except ImportError as error:
            raise UserError(
                f"--tensorboard: its package cannot be imported ({error}); run "
                "`pip install tensorboard`, or leave the option out"
            ) from error


class TensorBoardLog:
    """Event files in a run's folder.

    A new file starts with all rows that metrics.csv has so far, and an event at step 0 that makes
    readers discard earlier files. So a resumed run shows no epoch twice, and a run that is resumed
    with --tensorboard for the first time shows its earlier epochs too.
    """

    def __init__(self, root: Path, o: TrainerOptions) -> None:
        """root: the run's folder, its metrics.csv already truncated to the resumed epoch."""
        from torch.utils.tensorboard import SummaryWriter

        # Flushed after each epoch, so the interval (in seconds) need not be short.
        self.writer = SummaryWriter(str(root), purge_step=0, flush_secs=600)
        lines = ["| option | value |", "| --- | --- |"]
        lines += [f"| {name} | {value} |" for name, value in vars(o).items()]
        self.writer.add_text("options", shown("\n".join(lines)), 0)
        if (path := root / "metrics.csv").exists():
            columns = read_metrics(path)
            for values in zip(*columns.values(), strict=True):
                self._write(dict(zip(columns, values, strict=True)))
        self.writer.flush()

    def add(self, row: dict[str, Any]) -> None:
        """Log an epoch's row of metrics.csv. Raises UserError if it cannot be written."""
        try:
            self._write(row)
            self.writer.flush()
        except OSError as error:
            folder = self.writer.get_logdir()
            raise UserError(f"{folder}: event file cannot be written ({error.strerror})") from error

    def _write(self, row: dict[str, Any]) -> None:
        for name in SCALARS:
            self.writer.add_scalar(name, float(row[name]), int(row["epoch"]))
