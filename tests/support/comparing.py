"""Whether two runs are the same, bit for bit, but for what may differ."""

import csv
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch

# Times, places, and how a run was started.
MAY_DIFFER = ("seconds", "frames_per_second", "save_root", "resume", "DR")


def plain(value: Any, without: Collection[str] = ()) -> Any:
    """Nested values and tensors as what == compares bit for bit; a NaN equals itself.

    without: keys of dictionaries, at any depth, that are left out
    """
    if isinstance(value, torch.Tensor):  # as bytes: -0.0 is not 0.0
        content = value.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        return value.dtype, tuple(value.shape), content
    if isinstance(value, dict):
        return {key: plain(item, without) for key, item in value.items() if key not in without}
    if isinstance(value, list | tuple):
        return [plain(item, without) for item in value]
    return repr(value) if isinstance(value, float) else value


def same(a: Any, b: Any) -> bool:
    """Whether nested plain values and tensors are equal, bit for bit."""
    return bool(plain(a) == plain(b))


def comparable(path: Path) -> dict[str, Any]:
    """A checkpoint's content without what may differ."""
    return dict(plain(torch.load(path, weights_only=True), MAY_DIFFER))


def contents_of_run(run: Path) -> dict[str, Any]:
    """Everything in a run's folder that must not depend on interruptions.

    Not last.prev.ckpt: it is of one save earlier, which may be one in mid-epoch.
    """
    named = [path for path in run.glob("*.ckpt") if path.name != "last.prev.ckpt"]
    found: dict[str, Any] = {path.name: comparable(path) for path in named}
    with (run / "metrics.csv").open(encoding="utf-8", newline="") as file:
        found["metrics"] = plain([*csv.DictReader(file)], MAY_DIFFER)
    found["psnr"] = (run / "psnr_per_frame.csv").read_text(encoding="utf-8")
    return found
