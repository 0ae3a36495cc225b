"""What a run writes as text: metrics.csv, psnr_per_frame.csv and config.json.

Files are replaced through a temporary file and a rename; metrics.csv alone grows by appending,
a whole line at a time.
"""

import contextlib
import csv
import json
import math
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from modules.runtime.errors import UserError
from modules.runtime.files import sync_file, write_atomically
from modules.tables import read_table

# One row an epoch, counted from 0. Loss terms: means over the predicted frames (MSE per pixel, KL
# in nats summed over the latent's dimensions). psnr in dB. seconds: the whole epoch.
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


def _cell(value: Any) -> str:
    """A CSV cell that reads back to the same number."""
    if isinstance(value, bool):
        return str(int(value))
    return repr(float(value)) if isinstance(value, float) else str(value)


def metrics_line(row: Mapping[str, Any]) -> str:
    """A row of metrics.csv, without a line end. ValueError: it has other columns."""
    if set(row) != set(METRIC_COLUMNS):
        raise ValueError(f"metrics row has other columns: {set(row) ^ set(METRIC_COLUMNS)}")
    return ",".join(_cell(row[name]) for name in METRIC_COLUMNS)


def append_metrics(path: Path, *rows: Mapping[str, Any], cut: bool = False) -> None:
    """Append epochs' rows (and the header to a new file); on the disk when this returns.

    Raises UserError when the disk refuses; what was written of them is taken away again, where it
    lets that. cut: an unfinished last line is the rest of such an attempt, and goes.
    """
    text = "".join(f"{metrics_line(row)}\n" for row in rows)
    _as_it_was(path)
    try:
        with path.open("a+b") as file:
            size = _end_of_lines(file, cut)
            if size == 0:
                text = ",".join(METRIC_COLUMNS) + "\n" + text
            try:
                file.write(text.encode())
                file.flush()
                sync_file(file.fileno())
            except OSError:
                with contextlib.suppress(OSError):
                    os.ftruncate(file.fileno(), size)
                raise
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from error


def _as_it_was(path: Path) -> None:
    """Undo what a spreadsheet did to the table during a run: rows of two forms are not a table.

    What cannot be read as the table is left alone; the next reader says so.
    """
    with contextlib.suppress(OSError, ValueError, csv.Error, UserError):
        with path.open("rb") as file:
            if file.readline() in (b"", ",".join(METRIC_COLUMNS).encode() + b"\n"):
                return
        truncate_metrics(path, sys.maxsize)


def _end_of_lines(file: BinaryIO, cut: bool) -> int:
    """Make a table end with a line's end; its size in bytes then.

    Another program may have left out the last one. cut: drop an unfinished line instead.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 1))
    if size == 0 or file.read(1) == b"\n":
        return size
    file.seek(0)
    data = file.read()
    last = data[data.rfind(b"\n") + 1 :]
    if cut or last.count(b",") != len(METRIC_COLUMNS) - 1:
        size -= len(last)
        file.truncate(size)
        return size
    file.write(b"\n")
    return size + 1


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


def read_metrics(path: Path) -> dict[str, np.ndarray]:
    """The columns of a metrics.csv as float64 arrays of equal length; empty cells are NaN.

    A last line that was cut short (the program was killed while writing) is left out. A table that
    a spreadsheet has saved again reads as well. OSError, ValueError, csv.Error: another file.
    """
    (_, header), *rows = read_table(path).rows or [(0, [])]
    columns: dict[str, list[float]] = {name: [] for name in header}
    for line, cells in rows:
        if len(cells) != len(header):
            continue
        for name, cell in zip(header, cells, strict=True):
            try:
                columns[name].append(float(cell) if cell else math.nan)
            except ValueError:
                raise ValueError(f"line {line}, {name}: {cell!r:.40} is not a number") from None
    return {name: np.array(values) for name, values in columns.items()}


def truncate_metrics(path: Path, last_epoch: int) -> None:
    """Drop the rows after last_epoch, and a half line: what a resumed run will write again.

    A table of an earlier version, which lacks the last columns, gets them with empty cells.
    Raises UserError, with the file as it was, when it is not such a table.
    """
    if (rows := rows_until(path, last_epoch)) is not None:
        write_atomically(path, table_of(rows))


def table_of(rows: Sequence[str]) -> bytes:
    """metrics.csv with these rows."""
    return "".join(f"{row}\n" for row in (",".join(METRIC_COLUMNS), *rows)).encode()


def rows_until(path: Path, last_epoch: int) -> list[str] | None:
    """The rows up to last_epoch of a metrics.csv, as truncate_metrics keeps them; None: no file."""
    if not path.exists():
        return None
    try:
        table = read_table(path)
        (_, header), *lines = table.rows or [(0, list(METRIC_COLUMNS))]
        columns = tuple(header)
        if columns != METRIC_COLUMNS[: max(len(columns), len(BASIC_COLUMNS))]:
            raise ValueError("its first line is not the header of this table")
        kept = [
            ",".join(cells)
            for _, cells in lines
            if len(cells) == len(columns) and float(cells[0]) <= last_epoch
        ]
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, csv.Error) as error:
        raise UserError(
            f"{path}: not a table of this run's epochs ({error}); repair it, or move it away"
        ) from error
    missing = "," * (len(METRIC_COLUMNS) - len(columns))
    if table.changes:
        what = ", ".join(table.changes)
        print(f"note: {path} was saved by another program ({what}); it is written anew", flush=True)
    return [line + missing for line in kept]


class FrameTable(NamedTuple):
    """The columns of psnr_per_frame.csv, each (T-1,); in dB but for the first."""

    frame: np.ndarray  # whole numbers: 1 … T-1
    psnr: np.ndarray
    inside: np.ndarray  # near the skeleton; NaN without one, and in files of earlier versions
    outside: np.ndarray  # elsewhere


def write_psnr_per_frame(
    path: Path, psnr: np.ndarray, inside: np.ndarray, outside: np.ndarray
) -> None:
    """psnr_per_frame.csv: `frame,psnr,inside,outside`, frames 1 … T-1, dB."""
    lines = [",".join(FrameTable._fields)]
    for t, values in enumerate(zip(psnr, inside, outside, strict=True), 1):
        lines.append(",".join([str(t), *(_cell(float(value)) for value in values)]))
    write_atomically(path, ("\n".join(lines) + "\n").encode())


def read_psnr_per_frame(path: Path) -> FrameTable:
    """Read a psnr_per_frame.csv. ValueError, KeyError: another table."""
    columns = read_metrics(path)
    frames = columns["frame"]
    if not (np.isfinite(frames) & (np.abs(frames) < 2**31) & (frames % 1 == 0)).all():
        raise ValueError("a frame's number is not a whole number")
    unknown = np.full(len(frames), math.nan)
    parts = (columns.get(name, unknown) for name in ("inside", "outside"))
    return FrameTable(frames.astype(int), columns["psnr"], *parts)


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
        config = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error})") from error
    if not isinstance(config, dict):
        raise UserError(f"{path}: is not an object of settings")
    return config
