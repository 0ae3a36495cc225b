"""metrics.csv of a run that goes on although the file cannot be written for a while.

It may be open in a spreadsheet, which locks it on Windows, or the disk may be full. Rows that were
refused are kept in the run's state, and so in its checkpoints, and are appended later, in order.
"""

import contextlib
import math
from pathlib import Path
from typing import Any

from modules.runlog import METRIC_COLUMNS, append_metrics, metrics_line, rows_until, table_of
from modules.runtime.attempts import reason_of, retried
from modules.runtime.errors import UserError
from modules.runtime.files import write_atomically
from modules.runtime.patience import impatient

Row = dict[str, Any]


class MetricsTable:
    """The file, and the rows that it still lacks."""

    def __init__(self, path: Path, unwritten: list[Row]) -> None:
        """unwritten: the rows that the file lacks, the last ones of the run; changed in place, so
        that whoever saves the run saves them."""
        self.path, self.unwritten = path, unwritten
        self.beside = path.with_name("metrics.unwritten.csv")
        # What a resumed run has to put in the place of the file before it can append to it.
        self.earlier: list[str] | None = None
        self.refused = False  # the last attempt was
        self.begun = False  # an attempt that has not succeeded yet may have left half a line

    def resume(self, last_epoch: int) -> None:
        """Drop what was written after last_epoch, and add what could not be written until then.

        Raises UserError if the file is not this run's table. Whether it can be written is seen to
        later.
        """
        columns = dict.fromkeys(METRIC_COLUMNS, math.nan)
        kept = [{**columns, **row} for row in self.unwritten if row["epoch"] <= last_epoch]
        self.unwritten[:] = sorted(kept, key=lambda row: row["epoch"])
        rows = rows_until(self.path, last_epoch)
        if rows is None:  # appending makes it
            self._write_out()
            return
        # A row that was refused may stand there in part.
        refused = {row["epoch"] for row in self.unwritten}
        self.earlier = [row for row in rows if int(row.split(",", 1)[0]) not in refused]
        with contextlib.suppress(OSError):
            if not self.unwritten and self.path.read_bytes() == table_of(self.earlier):
                self.earlier = None
        self._write_out()

    def add(self, row: Row) -> None:
        """Write an epoch's row, or keep it for later. Never raises for what the disk does."""
        metrics_line(row)
        self.unwritten.append(row)
        self._write_out()

    def finish(self) -> None:
        """The run ends: what still cannot be written goes into a file beside it."""
        if not self._write_out(insist=True):
            rows = [*(self.earlier or []), *map(metrics_line, self.unwritten)]
            epochs = ", ".join(row.split(",", 1)[0] for row in rows)
            try:
                retried(lambda: write_atomically(self.beside, table_of(rows)))
                where = f"written to {self.beside}"
            except (OSError, UserError) as error:
                where = f"in the checkpoint only ({self.beside.name}: {reason_of(error)})"
            print(
                f"warning: {self.path}: still cannot be written; the rows of epochs {epochs} are "
                f"{where}; --resume puts them in their place",
                flush=True,
            )

    def _write_out(self, insist: bool = False) -> bool:
        """Write what is missing; False, and a warning if it is news, where that is refused.

        insist: try it as often as the first time
        """
        if not self.unwritten and self.earlier is None:
            return True
        try:
            if insist or not self.refused:
                retried(self._write)
            else:
                with impatient():
                    self._write()
        except (OSError, UserError) as error:
            if not self.refused:
                print(
                    f"warning: {self.path}: cannot be written ({reason_of(error)}); is it open in "
                    "another program? Training goes on; the rows are kept, in the checkpoints too, "
                    "and written when that is possible",
                    flush=True,
                )
            self.refused = True
            return False
        if self.refused:
            print(f"note: {self.path}: written again, no row is missing", flush=True)
        self.refused, self.begun, self.earlier = False, False, None
        self.unwritten.clear()
        with contextlib.suppress(OSError):  # it may be open in turn
            self.beside.unlink()
        return True

    def _write(self) -> None:
        if self.earlier is None:
            cut, self.begun = self.begun, True
            append_metrics(self.path, *self.unwritten, cut=cut)
        else:
            rows = [*self.earlier, *map(metrics_line, self.unwritten)]
            write_atomically(self.path, table_of(rows))
