"""Joints in CSV tables of animal-pose tools: DeepLabCut and SLEAP.

    found = entries_of("labels.csv", Path("labels.csv"), frames=300)

DeepLabCut: three or four header rows (scorer, individuals, bodyparts, coords), then a row for each
frame. SLEAP: columns track, frame_idx, instance.score, then NODE.x, NODE.y, NODE.score. The names
of joints are the user's; those that mean one of the 18 joints are taken (`LeftElbow`, `l_elbow`).
"""

import csv
import re
from pathlib import Path

import numpy as np

from modules.datasets.label_formats import Found
from modules.datasets.pose import JOINTS, person_from
from modules.runtime.errors import UserError

COORDS = ("x", "y", "likelihood")
TABLE_CONFIDENCE = 0.3  # likelihood of a joint


def joint_named(name: str) -> int | None:
    """The place in JOINTS of a joint's name in the usual spellings; None: not one of them."""
    words = re.findall(r"[a-z]+", re.sub(r"([a-z])([A-Z])", r"\1 \2", name).lower())
    joined = "".join(words)
    side = ""
    for long, short in (("right", "r"), ("left", "l")):
        if long in words or short in words or joined.startswith(long):
            side = f"{long}_"
    rest = re.sub(r"right|left", "", "".join(w for w in words if w not in ("r", "l")))
    for candidate in (f"{side}{rest}", rest):
        if candidate in JOINTS:
            return JOINTS.index(candidate)
    return None


def entries_of(where: str, path: Path, frames: int) -> Found:
    """The people of a table. Raises UserError: another kind of table, no known joints."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            rows = [row for row in csv.reader(stream) if any(row)]
    except OSError as error:
        raise UserError(f"{where}: cannot be read ({error.strerror})") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{where}: is not a valid CSV file ({error})") from error
    for number, row in enumerate(rows, 1):
        if len(row) != len(rows[0]):
            raise UserError(
                f"{where}: row {number} has {len(row)} cells, but the first one {len(rows[0])}"
            )
    if len(rows) > 1 and "frame_idx" in rows[0]:
        return _sleap(where, rows)
    if len(rows) > 3 and rows[0][0].strip().lower() == "scorer":
        return _deeplabcut(where, rows)
    raise UserError(
        f"{where}: is a table of an unknown kind; those of DeepLabCut (first cell: scorer) and"
        " SLEAP (a column frame_idx) are known"
    )


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return np.nan


def _rows_found(found: Found, frame: int, joints: dict[int, list[float]]) -> None:
    """Add a person of `joints`: place in JOINTS → x, y, confidence."""
    table = np.array([joints.get(place, [0, 0, 0]) for place in range(len(JOINTS))], np.float64)
    table[~np.isfinite(table).all(axis=1)] = 0
    layout: list[int | None] = list(range(len(JOINTS)))
    if JOINTS.index("neck") not in joints:
        layout[JOINTS.index("neck")] = None  # so that it becomes the middle of the shoulders
    if person := person_from(table, layout, TABLE_CONFIDENCE):
        found.rows.append((frame, person))


def _known(where: str, names: list[str]) -> dict[str, int]:
    known = {name: place for name in names if (place := joint_named(name)) is not None}
    if len(set(known.values())) < 4:
        raise UserError(
            f"{where}: its joints ({', '.join(names[:6])}, …) are not those of a person; at least 4"
            " must have names such as left_elbow or RightKnee"
        )
    return known


def _sleap(where: str, rows: list[list[str]]) -> Found:
    header, found = rows[0], Found("SLEAP CSV")
    nodes = [name.removesuffix(".x") for name in header if name.endswith(".x")]
    known, column = _known(where, nodes), {name: i for i, name in enumerate(header)}
    for row in rows[1:]:
        joints = {}
        for node, place in known.items():
            score = column.get(f"{node}.score")
            cells = [row[column[f"{node}.x"]], row[column[f"{node}.y"]]]
            joints[place] = [*map(_number, cells), _number(row[score]) if score else 1.0]
        frame = row[column["frame_idx"]]
        if not frame.isdigit():
            raise UserError(f"{where}: frame_idx {frame!r:.20} is not a frame number")
        _rows_found(found, int(frame), joints)
    return found


def _deeplabcut(where: str, rows: list[list[str]]) -> Found:
    heads = {row[0].strip().lower(): row for row in rows[:4]}
    if not {"bodyparts", "coords"} <= heads.keys() or not set(heads["coords"][1:]) <= set(COORDS):
        raise UserError(f"{where}: has no header rows bodyparts and coords (x, y, likelihood)")
    parts, coords = heads["bodyparts"], heads["coords"]
    several = heads.get("individuals", ["", *["one"] * (len(parts) - 1)])
    known = _known(where, list(dict.fromkeys(parts[1:])))
    body = rows[rows.index(coords) + 1 :]
    found = Found("DeepLabCut CSV", ids=list(range(len(body))))
    for t, row in enumerate(body):
        for who in dict.fromkeys(several[1:]):
            joints: dict[int, list[float]] = {}
            for i in range(1, len(row)):
                if several[i] == who and parts[i] in known:
                    cell = joints.setdefault(known[parts[i]], [np.nan, np.nan, 1.0])
                    cell[COORDS.index(coords[i])] = _number(row[i])
            _rows_found(found, t, joints)
    return found
