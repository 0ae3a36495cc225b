"""What a run writes besides its checkpoints: metrics.csv, config.json, figures, TensorBoard's log.

None of it ends the run. What cannot be written is tried again, warned of once and written at the
next chance: after the next epoch, and at the end. Figures are drawn beside the training, see
beside.py.
"""

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from modules import runlog
from modules.checkpoint import RunState
from modules.figures.beside import DRAWING_LIMIT, STOPPING_LIMIT, BesideArtist, worth_a_process
from modules.figures.drawing import Artist, Curves, Job, Text
from modules.figures.runs import load_run
from modules.figures.tensorboard import TensorBoardLog
from modules.runlog import MetricsTable
from modules.runtime.errors import UserError, reason_of
from modules.runtime.signals import Watch


class Records:
    """The files of a run, for the rank that writes them."""

    def __init__(self, state: RunState, frames: int) -> None:
        """frames: of the validation video."""
        self.state, self.frames = state, frames
        self.o, self.root = state.o, state.root
        self.table = MetricsTable(self.root / "metrics.csv", state.unwritten)
        self.artist: Artist | BesideArtist = Artist(self.root)
        self.board: TensorBoardLog | None = None
        self.warned: set[str] = set()  # files that a warning has named
        self.watch: Watch | None = None

    # -------------------------------------------------------- the start

    def begin(self, config: dict[str, Any], *, resumed: bool) -> None:
        """Write config.json and start TensorBoard's log where it is asked for.

        A new run needs its config.json: UserError. A resumed one goes on without. metrics.csv must
        be as it is to be continued.
        """
        try:
            runlog.write_config(self.root / "config.json", config)
        except UserError:
            if not resumed:
                raise
            self._draw(Text("config.json", json.dumps(config, indent=2) + "\n"))
        if self.o.tensorboard:
            self._tolerate("TensorBoard's log", self._open_board)

    def _open_board(self) -> None:
        self.board = TensorBoardLog(self.root, self.o)

    @contextmanager
    def drawn_beside(self, watch: Watch) -> Iterator[None]:
        """While inside, figures are drawn beside the training where that saves time.

        Whatever the end, the latest are drawn first, for seconds only if the run is to stop.
        """
        self.watch = watch
        epochs = self.o.num_epoch - self.state.position.epoch - 1
        gpu = self.state.sums.sums.is_cuda
        if worth_a_process(epochs, self.frames, visualize=self.o.store_visualization, gpu=gpu):
            before, self.artist = self.artist, BesideArtist(self.root)
            if isinstance(before, Artist) and before.owed:  # config.json at most
                self.artist.draw(*before.jobs)
        self.state.make_room = lambda: self.artist.wait(lambda: STOPPING_LIMIT)
        try:
            yield
        except BaseException:
            self.finish_drawing(STOPPING_LIMIT)
            raise
        else:
            self.finish()
        finally:
            self.artist.close()

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

    def finish_drawing(self, limit: float = DRAWING_LIMIT) -> dict[str, str]:
        """Wait until all figures are drawn; why not, by file name, those that cannot be.

        limit: seconds that it may take; less once the run is asked to stop
        """

        def seconds() -> float:
            stopping = self.watch is not None and self.watch.asked
            return min(limit, STOPPING_LIMIT if stopping else math.inf)

        faults = self.artist.finish(seconds)
        self._warn_once(faults, "drawn")
        return faults

    def finish(self) -> None:
        """The run is over: a last attempt at what could not be written."""
        self.table.finish()
        if faults := self.finish_drawing():
            reason = next(iter(faults.values()))
            print(f"warning: {self._paths(faults)}: not drawn to the end ({reason})", flush=True)

    # -------------------------------------------------------- what goes wrong

    def _draw(self, *jobs: Job) -> None:
        self._warn_once(self.artist.draw(*jobs), "drawn")

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
