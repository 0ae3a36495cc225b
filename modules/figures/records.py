"""What a run writes besides its checkpoints: metrics.csv, config.json, figures, TensorBoard's log.

None of it ends the run. What cannot be written is tried again, warned of once and written at the
next chance: after the next epoch, and at the end.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from modules import runlog
from modules.figures.drawing import Artist, Curves, Job, Text
from modules.figures.runs import load_run
from modules.figures.tensorboard import TensorBoardLog
from modules.metrics_table import MetricsTable
from modules.options import TrainerOptions
from modules.runtime.attempts import reason_of
from modules.runtime.errors import UserError


class Records:
    """The files of a run, for the process that writes them."""

    def __init__(self, o: TrainerOptions, root: Path, unwritten: list[dict[str, Any]]) -> None:
        """unwritten: rows of metrics.csv, as MetricsTable has them."""
        self.o, self.root = o, root
        self.table = MetricsTable(root / "metrics.csv", unwritten)
        self.artist = Artist(root)
        self.board: TensorBoardLog | None = None
        self.warned: set[str] = set()  # files that a warning has named

    # -------------------------------------------------------- the start

    def describe(self, config: dict[str, Any], *, resumed: bool) -> None:
        """Write config.json. A new run needs it: UserError. A resumed one goes on without."""
        try:
            runlog.write_config(self.root / "config.json", config)
        except UserError:
            if not resumed:
                raise
            self._draw(Text("config.json", json.dumps(config, indent=2) + "\n"))

    def open_board(self) -> None:
        """Start TensorBoard's log where it is asked for, once metrics.csv is as it will be."""
        if self.o.tensorboard:
            self._tolerate("TensorBoard's log", self._open_board)

    def _open_board(self) -> None:
        self.board = TensorBoardLog(self.root, self.o)

    # -------------------------------------------------------- an epoch

    def add(self, row: dict[str, Any], validation: Job) -> None:
        """An epoch's row of metrics.csv, and the figures that show it."""
        self.table.add(row)
        if self.board is not None:
            board = self.board
            self._tolerate("TensorBoard's log", lambda: board.add(row))
        self._draw(validation, Curves(tuple(self.table.unwritten)))

    def draw_curves(self) -> None:
        """Draw the curves of what metrics.csv holds."""
        self._draw(Curves(tuple(self.table.unwritten)))

    def warn(self, *, latest: bool = False) -> None:
        """Print what the run's metrics say that a user must not overlook, and what to try."""
        try:
            found = load_run(self.root, self.table.unwritten).findings(latest=latest)
        except (OSError, UserError):  # as the curves, which say so, cannot be drawn
            return
        for finding in found:
            print(finding.line(), flush=True)

    # -------------------------------------------------------- the end

    def finish_drawing(self) -> None:
        """Draw what is still to be drawn."""
        if self.artist.owed:
            self._draw()

    def finish(self) -> None:
        """The run is over: a last attempt at what could not be written."""
        self.table.finish()
        if self.artist.owed and (faults := self.artist.draw()):
            reason = next(iter(faults.values()))
            print(f"warning: {self._paths(faults)}: not drawn to the end ({reason})", flush=True)

    # -------------------------------------------------------- what goes wrong

    def _draw(self, *jobs: Job) -> None:
        faults = self.artist.draw(*jobs)
        self._warn_once(faults, "drawn")

    def _tolerate(self, what: str, action: Callable[[], object]) -> None:
        try:
            action()
        except Exception as error:
            self._warn_once({what: reason_of(error)}, "written")

    def _warn_once(self, faults: dict[str, str], verb: str) -> None:
        """One line about what has failed for the first time."""
        new = {name: reason for name, reason in faults.items() if name not in self.warned}
        self.warned |= new.keys()
        if new:
            reason = next(iter(new.values()))
            print(
                f"warning: {self._paths(new)}: cannot be {verb} ({reason}); training goes on, and "
                "it is tried again after every epoch",
                flush=True,
            )

    def _paths(self, faults: dict[str, str]) -> str:
        return ", ".join(str(self.root / name) if "." in name else name for name in faults)
