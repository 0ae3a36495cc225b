"""Corrupted checkpoints, and what reading them comes to: for test_disks.py."""

import contextlib
import io
import random
from collections import Counter
from pathlib import Path
from typing import Any

from modules.checkpoint import load_checkpoint
from modules.runtime.errors import UserError
from tests.support.comparing import same


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
            return "identical" if same(contents(path), original) else "silent"
    except UserError as error:
        return "refused" if str(path) in str(error) and "\n" not in str(error) else "unnamed"
    except Exception:
        return "crash"


def read_corrupted(
    source: Path, target: Path, *, flips: int, cuts: int, seed: int
) -> tuple[Counter[str], list[str]]:
    """Damage a checkpoint in many ways; how often reading came to what, and what was not good.

    target: the file that the corrupted versions are written to, one after the other
    flips: one byte each, at a random place, gets another value
    cuts: the file ends early, at lengths spread over it, a fifth of them in its last 200 bytes
    """
    original, data, rng = contents(source), source.read_bytes(), random.Random(seed)
    counts, bad = Counter[str](), list[str]()
    copies = {}
    for _ in range(flips):
        place, mask = rng.randrange(len(data)), rng.randrange(1, 256)
        changed = bytes([data[place] ^ mask])
        copies[f"byte {place} ^ {mask}"] = data[:place] + changed + data[place + 1 :]
    near_end = cuts // 5
    lengths = [len(data) * i // (cuts - near_end) for i in range(cuts - near_end)]
    for length in [*lengths, *(len(data) - rng.randrange(1, 200) for _ in range(near_end))]:
        copies[f"cut to {length} of {len(data)} bytes"] = data[:length]
    for what, content in copies.items():
        target.write_bytes(content)
        outcome = outcome_of_reading(target, original)
        counts[outcome] += 1
        if outcome not in ("refused", "identical"):
            bad.append(f"{what}: {outcome}")
    return counts, bad
