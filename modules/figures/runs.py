"""A run's folder read back: options, metrics, and the runs that it was fine-tuned from."""

import contextlib
import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from modules.diagnosis import advice, best_epoch, diagnose, news
from modules.runlog import (
    BASIC_COLUMNS,
    METRIC_COLUMNS,
    read_config,
    read_metrics,
    read_psnr_per_frame,
)
from modules.runtime.errors import UserError


@dataclass(frozen=True)
class Run:
    """A run's folder and what it wrote: config.json and the columns of metrics.csv, (epochs,)."""

    folder: Path
    config: dict[str, Any]
    metrics: dict[str, np.ndarray]

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    @property
    def epochs(self) -> np.ndarray:
        return self.metrics["epoch"].astype(int)

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.config.get("options", {}))

    def best(self, within: int | None = None) -> int | None:
        """Row with the highest val_psnr (among the first `within` ones); None if all are NaN."""
        return best_epoch(self.metrics["val_psnr"][:within])

    def findings(self, *, latest: bool = False) -> list[str]:
        """What a user must not overlook; latest: only what the last epoch has brought."""
        find = news if latest else diagnose
        return [*find(self.metrics, self.config.get("baselines"), self.options).values()]

    def warnings(self, *, latest: bool = False) -> list[str]:
        """The findings, a line each; at the end of all of them the advice."""
        lines = [f"warning: {fact}" for fact in self.findings(latest=latest)]
        if lines and not latest:
            lines.append(advice(self.metrics, self.config.get("baselines"), self.options))
        return lines


def load_run(folder: Path, rows: Sequence[Mapping[str, Any]] = ()) -> Run:
    """Read a run. Raises UserError that names the file which is missing or invalid.

    rows: the last ones of metrics.csv, in order, where the file may lack them
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder; give the --save_root of a run")
    path = folder / "metrics.csv"
    if not path.is_file() and not rows:
        raise UserError(f"{path}: missing: no epoch has ended yet, or this is not a run's folder")
    try:
        metrics = read_metrics(path) if path.is_file() else {}
        if rows and not metrics:
            metrics = dict.fromkeys(METRIC_COLUMNS, np.zeros(0))
        if missing := [name for name in BASIC_COLUMNS if name not in metrics]:
            raise ValueError(f"lacks the columns {', '.join(missing)}" if metrics else "is empty")
        for name in METRIC_COLUMNS:  # runs of earlier versions lack some
            metrics.setdefault(name, np.full(len(metrics["epoch"]), np.nan))
        if rows:
            before = metrics["epoch"] < rows[0]["epoch"]
            late = {name: [float(row.get(name, np.nan)) for row in rows] for name in METRIC_COLUMNS}
            metrics = {name: np.r_[metrics[name][before], late[name]] for name in METRIC_COLUMNS}
        if not metrics["epoch"].size:
            raise ValueError("has no rows: no epoch has ended yet")
    except (ValueError, csv.Error) as error:
        raise UserError(f"{path}: not a table of numbers of a run's epochs: {error}") from error
    return Run(folder, read_config(folder), metrics)


def best_frames(run: Run) -> tuple[np.ndarray, np.ndarray] | None:
    """Frame numbers and PSNR of the run's best validation, from psnr_per_frame.csv.

    None without the file, or where its average is not that of the best epoch: runs of earlier
    versions have that of the latest one. Raises UserError if the file is invalid.
    """
    path, best = run.folder / "psnr_per_frame.csv", run.best()
    if not path.is_file() or best is None:
        return None
    try:
        table = read_psnr_per_frame(path)
    except (ValueError, KeyError, csv.Error) as error:
        raise UserError(f"{path}: not a table of PSNR per frame ({error})") from error
    same = abs(table.psnr.mean() - run.metrics["val_psnr"][best]) < 1e-4
    return (table.frame, table.psnr) if same else None


# ---------------------------------------------------------------- fine-tuning


class Segment(NamedTuple):
    """A part of a lineage: the first `rows` rows of a run, whose epoch e is drawn at e + shift."""

    run: Run
    rows: int
    shift: int


def parent_of(run: Run) -> tuple[Run, int] | None:
    """The run whose weights this one started from, and after which of its epochs.

    None if config.json names none or the run no longer exists. Runs that were moved together are
    found next to each other.
    """
    parent = run.config.get("parent") or {}
    named, epoch = parent.get("run"), parent.get("epoch", -1)
    if not named or epoch < 0:  # before epoch 0 has ended there is nothing to draw
        return None
    for folder in (Path(named), run.folder.resolve().parent / Path(named).name):
        with contextlib.suppress(UserError):
            return load_run(folder), epoch
    return None


def lineage(run: Run) -> list[Segment]:
    """A run's ancestors, oldest first, then the run; each continues its parent's epochs."""
    chain = [(run, int(run.epochs[-1]))]  # with the last epoch that counts
    seen = {run.folder.resolve()}
    # The config of a reused folder may name the folder itself, or a descendant, as its parent.
    while (parent := parent_of(chain[0][0])) and parent[0].folder.resolve() not in seen:
        seen.add(parent[0].folder.resolve())
        chain.insert(0, parent)
    segments: list[Segment] = []
    shift = 0
    for member, last in chain:
        segments.append(Segment(member, int((member.epochs <= last).sum()), shift))
        shift += last + 1
    return segments


def validation_title(epoch: int | None, average: float | None = None) -> str:
    """Which validation a figure shows; epoch: None where it is not known, average in dB."""
    which = "Validation" if epoch is None else f"Best validation, epoch {epoch}"
    return which if average is None else f"{which}, average {average:.2f} dB"
