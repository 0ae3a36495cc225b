"""What only a real GPU can tell: agreement of graphs and precisions, whole epochs.

    python tests/programs/gpu.py           # full size
    python tests/programs/gpu.py --tiny    # small, to see if it works

Agreement: weights after some steps, graph against none, half precision against float32. Epochs:
steps, and an epoch of 23,410 frames. A validation of 630 frames.

Pixels are random; times are of the clock, with the device waited for. For the speed beside the
usual loop there is benchmark.py.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from modules.auto_size import rate_for
from modules.checkpoint import Position
from modules.data import Recording, VideoData, epoch_batches
from modules.evaluation import validate
from modules.runtime.device import choose_precision, describe
from modules.runtime.signals import Watch
from modules.schedules import Plan
from modules.training import train_epoch
from tests.programs.benchmark import timed
from tests.programs.kernels import BEST, FULL, TINY, new_run, take

RECIPE = {**BEST, "lr": rate_for(FULL["D_out_dim"], BEST["lr"])}
VIDEO = {**RECIPE, "reference": "first", "augment": ("shift", "colour")}
DEVICE = torch.device("cuda", 0)


def video(frames: int) -> VideoData:
    """Random smooth pictures: a step on zeros would be faster, and less exact, than on pictures."""
    coarse = torch.rand(2 * frames, 3, 4, 8, generator=torch.Generator().manual_seed(0))
    fine = torch.nn.functional.interpolate(coarse.to(DEVICE), size=(32, 64), mode="bilinear")
    pixels = (255 * fine).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()
    return VideoData(pixels[:frames], pixels[frames:], (Recording(0, frames),))


def with_graphs(wanted: bool) -> None:
    os.environ["CVAE_NO_GRAPH"] = "" if wanted else "1"


def agreement(dims: dict[str, int]) -> dict[str, float]:
    """By how much the weights differ after 6 steps, relative to how far they have moved."""
    data = video(400)

    def trained(graph: bool = True, **options: Any) -> tuple[torch.Tensor, torch.Tensor]:
        with_graphs(graph)
        run = new_run(data, train_vi_len=8, batch_size=4, **dims, **options)
        start = torch.cat([p.detach().flatten().clone() for p in run.state.model.parameters()])
        take(run, True, 3)
        take(run, False, 3, first=3)
        return start, torch.cat([p.detach().flatten() for p in run.state.model.parameters()])

    print("\nagreement after 3 steps with teacher forcing and 3 free running, T 8, B 4")
    exact: dict[str, Any] = {"precision": "float32", "deterministic": True}
    pairs: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
        "bfloat16, float32": ({}, {"precision": "float32"}),
        "float16, float32": ({"precision": "float16"}, {"precision": "float32"}),
        "graph, none: bfloat16": ({}, {"graph": False}),
        "graph, none: float32 --deterministic": (exact, {**exact, "graph": False}),
    }
    for name, more in (("Muon and the recipe", RECIPE), ("--recompute", {"recompute": True})):
        pairs[f"the same, {name}"] = ({**exact, **more}, {**exact, **more, "graph": False})
    apart = {}
    for name, (one, other) in pairs.items():
        (start, a), (_, b) = trained(**one), trained(**other)
        apart[name] = ((a - b).norm() / (b - start).norm()).item()
        print(f"{name:<40}weights differ by {apart[name]:.2e}", flush=True)
    return apart


def epochs(dims: dict[str, int], frames: int, size: tuple[int, int]) -> None:
    """The first step of each kind, in which its graph is captured, a later one, a whole epoch."""
    data, clips = video(frames), {"train_vi_len": size[0], "batch_size": size[1]}
    for name, forced, options in (
        ("free running", False, clips),
        ("teacher forcing", True, clips),
        ("as --preset best", True, RECIPE),
        ("as --preset video", True, VIDEO),
    ):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        run = new_run(data, **dims, **options)
        first, _, later = (
            timed(lambda r=run, f=forced, n=n: take(r, f, 1, first=n)) for n in range(3)
        )
        print(f"{name}: first step {first:.2f} s, {1000 * later:.2f} ms a step", flush=True)
        state, o = run.state, run.state.o
        state.position, state.plan = Position(0), Plan(0.001, o.tfr, forced, o.lr)
        state.sums.start_epoch()
        seconds = timed(lambda r=run: train_epoch(r.state, data, r.step, Watch()))
        made = sum(map(len, epoch_batches(o, data, 0))) * (o.train_vi_len - 1)
        peak = torch.cuda.max_memory_reserved() / 2**30
        words = f"{seconds:.2f} s, {made / seconds:.0f} frames/s, {peak:.1f} GiB"
        print(f"  an epoch of {frames} frames: {words}", flush=True)


def validation(dims: dict[str, int], frames: int) -> None:
    """A validation video, with its scores."""
    run, data = new_run(video(400), **dims), video(frames).to(torch.device("cpu"))
    kind = {"seed": 0, "device": DEVICE, "precision": choose_precision("auto", DEVICE)}
    for graph in (True, False):
        with_graphs(graph)
        times = [timed(lambda: validate(run.state.model, data, **kind)) for _ in range(3)]
        how = "with a graph" if graph else "without"
        words = f"first {times[0]:.2f}, then {min(times[1:]):.2f} s"
        print(f"validation of {frames} frames {how}: {words}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tiny", action="store_true", help="small dimensions and few frames")
    given = parser.parse_args()
    dims, size = (TINY, (4, 2)) if given.tiny else (FULL, (16, 16))
    print(f"{describe(DEVICE, choose_precision('auto', DEVICE))}, PyTorch {torch.__version__}")
    agreement(dims)
    epochs(dims, 400 if given.tiny else 23410, size)
    validation(dims, 40 if given.tiny else 630)


if __name__ == "__main__":
    main()
