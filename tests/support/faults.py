"""Corrupted checkpoints, and what reading them comes to: for test_disks.py."""

import contextlib
import io
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from modules.checkpoint import load_checkpoint
from modules.runtime.errors import UserError
from tests.support.comparing import same


def corrupted_copies(
    data: bytes, *, flips: int, cuts: int, seed: int
) -> Iterator[tuple[str, bytes]]:
    """(what was done, content) of corrupted versions of a file's content.

    flips: one byte each, at random places, gets another value; cuts: the file ends early, at
    lengths from 0 on spread over the whole file, the last ones within its last 200 bytes.
    """
    rng = random.Random(seed)
    for _ in range(flips):
        place, mask = rng.randrange(len(data)), rng.randrange(1, 256)
        changed = bytes([data[place] ^ mask])
        yield f"byte {place} ^ {mask}", data[:place] + changed + data[place + 1 :]
    near_end = cuts // 5
    lengths = [len(data) * i // (cuts - near_end) for i in range(cuts - near_end)]
    lengths += [len(data) - rng.randrange(1, 200) for _ in range(near_end)]
    for length in lengths:
        yield f"cut to {length} of {len(data)} bytes", data[:length]


def contents(path: Path) -> dict[str, Any]:
    """All that a checkpoint gives its readers, through the program's own reading."""
    return {key: value for key, value in vars(load_checkpoint(path)).items() if key != "path"}


def outcome_of_reading(path: Path, original: dict[str, Any]) -> str:
    """What reading a corrupted checkpoint comes to.

    "refused": an error in one line that names the file. "identical": it loads, and all that comes
    of it is what was saved (the byte had no meaning). "silent": it loads with other content.
    "unnamed": an error that names no file or has several lines. "crash": anything else.
    """
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            found = contents(path)
    except UserError as error:
        named = str(path) in str(error) and "\n" not in str(error)
        return "refused" if named else "unnamed"
    except Exception:
        return "crash"
    return "identical" if same(found, original) else "silent"


def read_corrupted(
    source: Path, target: Path, *, flips: int, cuts: int, seed: int
) -> tuple[Counter[str], list[str]]:
    """Damage a checkpoint in many ways; how often reading came to what, and what was not good.

    target: the file that the corrupted versions are written to, one after the other
    """
    original = contents(source)
    counts: Counter[str] = Counter()
    bad: list[str] = []
    for what, data in corrupted_copies(source.read_bytes(), flips=flips, cuts=cuts, seed=seed):
        target.write_bytes(data)
        outcome = outcome_of_reading(target, original)
        counts[outcome] += 1
        if outcome not in ("refused", "identical"):
            bad.append(f"{what}: {outcome}")
    return counts, bad
