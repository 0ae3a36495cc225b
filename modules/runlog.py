"""What a run writes as text, and reads back: metrics.csv, psnr_per_frame.csv and config.json.

Files are replaced through a temporary file and a rename; metrics.csv alone grows by appending.
"""

import contextlib
import csv
import io
import json
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from modules.runtime.errors import UserError, why
from modules.runtime.files import write_atomically

# A row per epoch, from 0. Loss terms: means over the predicted frames (MSE per pixel, KL in nats
# summed over the latent's dimensions). psnr in dB. seconds: the whole epoch.
BASIC_COLUMNS = (
    *("epoch", "train_loss", "train_mse", "train_kl", "train_psnr", "val_loss", "val_psnr"),
    *("beta", "tfr", "tf_active", "lr", "skipped", "frames_per_second", "seconds"),
)
# val_ssim: mean over the same frames as val_psnr. active_dims: dimensions of the latent whose
# posterior mean varies from frame to frame. sigma: the decoder's standard deviation, pixels 0 to 1.
# val_psnr_inside, _outside: near the skeleton and elsewhere, in dB. val_drift: dB per 100 frames.
# val_flicker: of the background, of 255. These four: see evaluation.Score. New ones go to the end.
DIAGNOSTIC_COLUMNS = (
    *("val_ssim", "active_dims", "sigma"),
    *("val_psnr_inside", "val_psnr_outside", "val_drift", "val_flicker"),
)
METRIC_COLUMNS = (*BASIC_COLUMNS, *DIAGNOSTIC_COLUMNS)


# ---------------------------------------------------------------- tables


def read_table(path: Path) -> list[tuple[int, list[str]]]:
    """The rows of a CSV file that are not empty, each with its line's number from 1.

    As written here, or saved again by a spreadsheet: with a byte-order mark, semicolons or tabs
    between the cells, 0,5 for 0.5. OSError, ValueError, csv.Error: it is not such a file.
    """
    lines = path.read_text(encoding="utf-8-sig").split("\n")  # CR LF is read as LF
    reader = csv.reader(lines, delimiter=max(",;\t", key=lines[0].count))
    rows = ((reader.line_num, [cell.strip().replace(",", ".") for cell in row]) for row in reader)
    return [(number, cells) for number, cells in rows if any(cells)]


def as_csv(rows: Iterable[Iterable[object]]) -> str:
    """Rows as CSV; floats read back to the same numbers."""
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows(rows)
    return file.getvalue()


def read_metrics(path: Path) -> dict[str, np.ndarray]:
    """The columns of a metrics.csv as float64 arrays of equal length; empty cells are NaN.

    A last line that was cut short (the program was killed while writing) is left out. OSError,
    ValueError, csv.Error: another file.
    """
    (_, header), *rows = read_table(path) or [(0, [])]
    whole = [[float(cell or "nan") for cell in row] for _, row in rows if len(row) == len(header)]
    columns = np.array(whole, dtype=float).reshape(len(whole), len(header)).T
    return dict(zip(header, columns, strict=True))


class MetricsTable:
    """metrics.csv of a run that goes on although the file cannot be written for a while.

    It may be open in a spreadsheet, which locks it on Windows, or the disk may be full. Rows that
    were refused are kept in the run's state, and so in its checkpoints, and written later.
    """

    def __init__(self, path: Path, unwritten: list[dict[str, Any]]) -> None:
        """unwritten: the rows that the file lacks, the last ones of the run; changed in place, so
        that whoever saves the run saves them."""
        self.path, self.unwritten = path, unwritten
        self.last_epoch = -1  # of the rows that the file shall have

    def resume(self, last_epoch: int) -> None:
        """Let the next write() drop rows after last_epoch, and a half line.

        Raises UserError if the file is not this run's table.
        """
        self.unwritten[:] = [row for row in self.unwritten if row["epoch"] <= last_epoch]
        self.last_epoch = last_epoch
        self._rows_before(0)

    def add(self, row: dict[str, Any]) -> None:
        """An epoch's row, with all of METRIC_COLUMNS, for the next write()."""
        self.unwritten.append(row)
        self.last_epoch = row["epoch"]

    def write(self) -> None:
        """Append what is missing; write the file anew where it has more or less than that.

        Raises OSError or UserError; what is missing is kept then.
        """
        first = self.unwritten[0]["epoch"] if self.unwritten else self.last_epoch + 1
        before = as_csv([METRIC_COLUMNS, *self._rows_before(first)]).encode()
        rows = ([row.get(name, "") for name in METRIC_COLUMNS] for row in self.unwritten)
        new = as_csv(rows).encode()
        found = self.path.read_bytes() if self.path.exists() else b""
        if found == before:
            with self.path.open("ab") as file:
                file.write(new)
                file.flush()
                os.fsync(file.fileno())
        elif found or new:
            write_atomically(self.path, before + new)
        self.unwritten.clear()

    def _rows_before(self, epoch: int) -> list[list[str]]:
        """The file's rows of earlier epochs, columns that an earlier version lacked left empty.

        UserError: it is not such a table.
        """
        if not self.path.exists():
            return []
        try:
            (_, header), *rows = read_table(self.path) or [(0, [*METRIC_COLUMNS])]
            if tuple(header) != METRIC_COLUMNS[: max(len(header), len(BASIC_COLUMNS))]:
                raise ValueError("its first line is not the header of this table")
            missing = [""] * (len(METRIC_COLUMNS) - len(header))
            whole = [row for _, row in rows if len(row) == len(header)]
            return [[*row, *missing] for row in whole if float(row[0]) < epoch]
        except OSError as error:
            raise UserError(f"{self.path}: cannot be read ({why(error)})") from error
        except (ValueError, csv.Error) as error:
            what = f"not a table of this run's epochs ({error}); repair it, or move it away"
            raise UserError(f"{self.path}: {what}") from error


# ---------------------------------------------------------------- other files


def epoch_line(row: dict[str, Any], num_epoch: int, best: bool) -> str:
    """One plain line about an epoch; a star marks the best validation so far."""
    skipped = f" | {row['skipped']} sequences skipped" if row["skipped"] else ""
    return (
        f"epoch {row['epoch']:>3}/{num_epoch} | train loss {row['train_loss']:.5f} "
        f"mse {row['train_mse']:.5f} kl {row['train_kl']:.4g} psnr {row['train_psnr']:.2f} dB"
        f" | val loss {row['val_loss']:.5f} psnr {row['val_psnr']:.2f} dB{' *' if best else ''}"
        f" ssim {row['val_ssim']:.3f}"
        f" | beta {row['beta']:.3g} tfr {row['tfr']:.2f} {'on' if row['tf_active'] else 'off'}"
        f" lr {row['lr']:.2e} | {row['frames_per_second']:.0f} frames/s {row['seconds']:.1f} s"
        f"{skipped}"
    )


class FrameTable(NamedTuple):
    """The columns of psnr_per_frame.csv, each (T-1,); in dB but for the first."""

    frame: np.ndarray  # 1 … T-1
    psnr: np.ndarray
    inside: np.ndarray  # near the skeleton; NaN without one
    outside: np.ndarray  # elsewhere


def write_psnr_per_frame(
    path: Path, psnr: np.ndarray, inside: np.ndarray, outside: np.ndarray
) -> None:
    """psnr_per_frame.csv: `frame,psnr,inside,outside`, frames 1 … T-1, dB."""
    frames = range(1, len(psnr) + 1)
    columns = (values.tolist() for values in (psnr, inside, outside))
    rows = [FrameTable._fields, *zip(frames, *columns, strict=True)]
    write_atomically(path, as_csv(rows).encode())


def read_psnr_per_frame(path: Path) -> FrameTable:
    """Read a psnr_per_frame.csv. OSError, ValueError, csv.Error, KeyError: another file."""
    columns = read_metrics(path)
    return FrameTable(*(columns[name] for name in FrameTable._fields))


def versions() -> dict[str, str]:
    """Versions of what numbers depend on."""
    import torch  # seconds, and only here

    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "platform": platform.platform(),
    }


def write_config(path: Path, config: dict[str, Any]) -> None:
    """config.json: `options`, `versions` and what else describes the run."""
    write_atomically(path, (json.dumps(config, indent=2) + "\n").encode())


def read_config(run: Path) -> dict[str, Any]:
    """A run's config.json; empty when there is none. Raises UserError when it is corrupted."""
    path = run / "config.json"
    try:
        # An editor may have put a byte-order mark before it.
        return dict(json.loads(path.read_text(encoding="utf-8-sig")))
    except FileNotFoundError:
        return {}
    except (OSError, TypeError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as a run's settings ({error})") from error


# ---------------------------------------------------------------- a run read back


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
        """First row with the highest val_psnr (of the first `within` ones); None if all are NaN."""
        psnr = self.metrics["val_psnr"][:within]
        known = np.isfinite(psnr)
        return int(np.where(known, psnr, -np.inf).argmax()) if known.any() else None

    def part(self, rows: Any) -> "Run":
        """The run with some rows of its metrics alone; rows: an index of numpy's."""
        return replace(self, metrics={name: each[rows] for name, each in self.metrics.items()})


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
        found = read_metrics(path) if path.is_file() else {}
        if rows:
            found = found or dict.fromkeys(METRIC_COLUMNS, np.zeros(0))
        if missing := [name for name in BASIC_COLUMNS if name not in found]:
            raise ValueError(f"lacks the columns {', '.join(missing)}" if found else "is empty")
        before = found["epoch"] < (rows[0]["epoch"] if rows else np.inf)
        unknown = np.full(len(before), np.nan)  # runs of earlier versions lack some columns
        late = {name: [float(row.get(name, np.nan)) for row in rows] for name in METRIC_COLUMNS}
        metrics = {n: np.r_[found.get(n, unknown)[before], late[n]] for n in METRIC_COLUMNS}
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


def lineage(run: Run) -> list[Run]:
    """A run's ancestors, oldest first, then the run; each continues its parent's epochs.

    Of an ancestor only the epochs that its child started after.
    """
    chain = [(run, int(run.epochs[-1]))]  # with the last epoch that counts
    seen = {run.folder.resolve()}
    # The config of a reused folder may name the folder itself, or a descendant, as its parent.
    while (parent := parent_of(chain[0][0])) and parent[0].folder.resolve() not in seen:
        seen.add(parent[0].folder.resolve())
        chain.insert(0, parent)
    parts, shift = [], 0
    for member, last in chain:
        part = member.part(member.epochs <= last)
        part.metrics["epoch"] = part.metrics["epoch"] + shift
        parts.append(part)
        shift += last + 1
    return parts
