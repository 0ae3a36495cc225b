"""Whether two runs are the same, bit for bit, but for what may differ."""

import csv
from pathlib import Path
from typing import Any

import torch

# Times, places, and how a run was started.
MAY_DIFFER = ("seconds", "frames_per_second", "save_root", "resume", "DR")


def same(a: Any, b: Any) -> bool:
    """Whether nested plain values and tensors are equal, bit for bit; a NaN equals itself."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        if a.dtype != b.dtype or a.shape != b.shape:
            return False
        # As bytes: -0.0 is not 0.0, and NaN is NaN.
        one, two = (x.detach().contiguous().reshape(-1).view(torch.uint8) for x in (a, b))
        return torch.equal(one, two)
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and repr(a) == repr(b)


def comparable(path: Path) -> dict[str, Any]:
    """A checkpoint's content without what may differ."""

    def stripped(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: stripped(v) for k, v in value.items() if k not in MAY_DIFFER}
        return value

    return dict(stripped(torch.load(path, weights_only=True)))


def metrics_without_time(path: Path) -> list[list[str]]:
    """The cells of metrics.csv as text, without the two columns of time."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    keep = [i for i, name in enumerate(rows[0]) if name not in MAY_DIFFER]
    return [[row[i] if i < len(row) else "(missing)" for i in keep] for row in rows]


def contents_of_run(run: Path) -> dict[str, Any]:
    """Everything in a run's folder that must not depend on interruptions.

    Not last.prev.ckpt: it is of one save earlier, which may be one in mid-epoch.
    """
    named = [path for path in run.glob("*.ckpt") if path.name != "last.prev.ckpt"]
    found: dict[str, Any] = {path.name: comparable(path) for path in named}
    found["metrics"] = metrics_without_time(run / "metrics.csv")
    found["psnr"] = (run / "psnr_per_frame.csv").read_text(encoding="utf-8")
    return found
