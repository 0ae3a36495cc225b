"""What only a real GPU can tell: agreement of graphs and precisions, whole epochs.

    python tests/programs/gpu.py                        # everything, full size
    python tests/programs/gpu.py agreement epoch        # some parts
    python tests/programs/gpu.py --tiny                 # small, to see if it works

    agreement   weights after some steps: graph against none, half precision against float32
    speed       frames/s beside the usual loop, as benchmark.py --quick
    validation  630 frames
    epoch       23,410 frames, and a refresh of their stored rollouts
    profile     kernels of a step by their time on the GPU

Pixels are random; times are of the clock, with the device waited for.
"""

import argparse
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from modules.auto_size import rate_for
from modules.checkpoint import Position, RunState
from modules.cvae import CVAE
from modules.data import Recording, VideoData, epoch_batches
from modules.evaluation import validate
from modules.optim import set_learning_rate
from modules.options import TrainerOptions, model_config
from modules.runtime.device import choose_precision, describe, place, set_up
from modules.runtime.graphs import GraphedStep, graphs_wanted
from modules.runtime.signals import Watch
from modules.schedules import Plan
from modules.training import TrainingStep, draw_shard, train_epoch
from tests.programs import benchmark
from tests.programs.kernels import BEST, FULL, TINY

RECIPE = {**BEST, "lr": rate_for(FULL["D_out_dim"], BEST["lr"])}
DEVICE = torch.device("cuda", 0)
PARTS = ("agreement", "speed", "validation", "epoch", "profile")


def video(frames: int, seed: int = 0) -> VideoData:
    """Random smooth pictures: a step on zeros would be faster, and less exact, than on pictures."""
    g = torch.Generator().manual_seed(seed)
    small = torch.rand(2, min(frames, 512), 3, 4, 8, generator=g)
    stacks = []
    for coarse in small:
        fine = torch.nn.functional.interpolate(coarse, size=(32, 64), mode="bilinear")
        pixels = (255 * fine).round().to(torch.uint8).permute(0, 2, 3, 1)
        stacks.append(pixels.repeat(-(-frames // len(pixels)), 1, 1, 1)[:frames].contiguous())
    return VideoData(*stacks, (Recording(0, frames),)).to(DEVICE)


def new_step(data: VideoData, dims: dict[str, int], **options: Any) -> tuple[GraphedStep, RunState]:
    """graph=False: eager steps."""
    os.environ["CVAE_NO_GRAPH"] = "" if options.pop("graph", True) else "1"
    o = TrainerOptions(DR="unused", **{**dims, **options})
    set_up(DEVICE, o.precision, o.deterministic)
    torch.manual_seed(0)
    model = place(CVAE(model_config(o)), DEVICE).train()
    state = RunState(o, Path("unused"), model, data, data_root="", data_fingerprint="")
    step = GraphedStep(TrainingStep(state, data), o.batch_size)
    if not graphs_wanted(DEVICE):
        step.why_eager = "as asked for"
    return step, state


def take(step: GraphedStep, state: RunState, forced: bool, steps: int, first: int = 0) -> None:
    o, latent = state.o, state.model.config.latent_shape
    batches, plan = epoch_batches(o, step.step.data, 0), Plan(0.001, o.tfr, forced, o.lr)
    for number in range(first, first + steps):
        set_learning_rate(state.optimizer, plan.lr)
        kind = {"latent": latent, "epoch": 0, "number": number, "clips": o.batch_size}
        step(draw_shard(o, plan, batches[number], **kind), teacher_forcing=forced)


timed = partial(benchmark.timed, DEVICE)  # seconds that a piece of work takes


def agreement(dims: dict[str, int]) -> dict[str, float]:
    """By how much the weights differ after 6 steps, relative to how far they have moved."""
    data = video(400)
    clips = {"train_vi_len": 8, "batch_size": 4}

    def trained(**options: Any) -> tuple[torch.Tensor, torch.Tensor, float]:
        step, state = new_step(data, dims, **{**clips, **options})
        start = torch.cat([p.detach().flatten().clone() for p in state.model.parameters()])
        take(step, state, True, 3)
        take(step, state, False, 3, first=3)
        if step.why_eager is not None and options.get("graph", True):
            print(f"  {options}: NOT captured: {step.why_eager}")
        end = torch.cat([p.detach().flatten() for p in state.model.parameters()])
        sums = state.sums.averages(steps=clips["train_vi_len"] - 1)
        return start, end, sums.loss

    print("\nagreement after 3 steps with teacher forcing and 3 free running, T 8, B 4")
    print(f"{'of':<58}{'weights differ by':>18}{'loss':>12}{'loss':>12}")
    exact = {"precision": "float32", "deterministic": True}
    pairs: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
        ("bfloat16, float32", {}, {"precision": "float32"}),
        ("float16, float32", {"precision": "float16"}, {"precision": "float32"}),
        ("graph, none: bfloat16", {}, {"graph": False}),
        ("graph twice: bfloat16", {}, {}),
        ("graph twice: bfloat16 --deterministic", {"deterministic": True}, {"deterministic": True}),
    ]
    for name, options in (
        ("graph, none: float32 --deterministic", {}),
        ("the same, Muon and the recipe", RECIPE),
        ("the same, --recompute", {"recompute": True}),
    ):
        one = {**exact, **options}
        pairs.append((name, one, {**one, "graph": False}))
    apart = {}
    for name, one, other in pairs:
        (start, a, loss_a), (_, b, loss_b) = trained(**one), trained(**other)
        apart[name] = ((a - b).norm() / (b - start).norm()).item()
        print(f"{name:<58}{apart[name]:>18.2e}{loss_a:>12.6f}{loss_b:>12.6f}", flush=True)
    return apart


def refresh(state: RunState, precision: torch.dtype) -> None:
    assert state.stored is not None
    run: dict[str, Any] = {"seed": 0, "epoch": 1, "watch": Watch(), "whole": True}
    state.stored.refresh(state.eval_model(), precision=precision, **run)


def epochs(dims: dict[str, int], frames: int, size: tuple[int, int]) -> None:
    """A whole epoch of each kind, after four steps, in which the graph is captured."""
    data = video(frames)
    clips = {"train_vi_len": size[0], "batch_size": size[1]}
    video_recipe = {**RECIPE, "reference": "first", "augment": ("shift", "colour")}
    cases: list[tuple[str, dict[str, Any], bool]] = [
        ("free running", clips, False),
        ("as --preset video", video_recipe, True),
        ("teacher forcing", clips, True),
    ]
    print(f"\nan epoch of {frames} frames, seconds")
    print(f"{'':<28}{'T':>4}{'B':>4}{'steps':>7}{'epoch':>9}{'frames/s':>10}{'GiB':>7}")
    for name, options, forced in cases:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        step, state = new_step(data, dims, **options)
        take(step, state, forced, 4)
        o = state.o
        steps = len(epoch_batches(o, data, 0))
        state.position, state.plan = Position(0), Plan(0.001, o.tfr, forced, o.lr)
        state.sums.start_epoch()
        seconds = timed(lambda a=step, b=state: train_epoch(b, data, a, Watch()))
        length, batch = o.train_vi_len, o.batch_size
        made = steps * (length - 1) * batch
        peak = torch.cuda.max_memory_reserved() / 2**30
        note = f"  eager: {step.why_eager}" if step.why_eager else ""
        print(
            f"{name:<28}{length:>4}{batch:>4}{steps:>7}{seconds:>9.2f}{made / seconds:>10.0f}"
            f"{peak:>7.1f}{note}",
            flush=True,
        )
        if state.stored is not None:
            for again in ("first", "again"):
                seconds = timed(lambda s=state, p=step.step.precision: refresh(s, p))
                print(
                    f"{'  stored rollouts, ' + again:<43}{seconds:>9.2f}{frames / seconds:>10.0f}"
                )
        del step, state


def validation(dims: dict[str, int], frames: int) -> None:
    """A validation video, with its scores."""
    step, state = new_step(video(400), dims, train_vi_len=16, batch_size=1)
    data = video(frames).to(torch.device("cpu"))
    kind = {"seed": 0, "device": DEVICE, "precision": step.step.precision}
    print(f"\nvalidation of {frames} frames, seconds")
    for graph in (True, False):
        os.environ["CVAE_NO_GRAPH"] = "" if graph else "1"
        times = [timed(lambda: validate(state.model, data, **kind)) for _ in "123"]
        name = "graph" if graph else "without a graph"
        print(f"{name:<28}first {times[0]:.2f}, then {min(times[1:]):.2f}", flush=True)


def profile(dims: dict[str, int], size: tuple[int, int], rows: int) -> None:
    """Which kernels a step's time goes into."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    data, clips = video(1000), {"train_vi_len": size[0], "batch_size": size[1]}
    for name, forced, options in (
        ("free running", False, clips),
        ("free running, batch 1", False, {**clips, "batch_size": 1}),
        ("teacher forcing", True, clips),
        ("as --preset best", True, RECIPE),
    ):
        torch.cuda.empty_cache()
        step, state = new_step(data, dims, **options)
        first = timed(lambda s=step, o=state, f=forced: take(s, o, f, 1))
        seconds = timed(lambda s=step, o=state, f=forced: take(s, o, f, 1, first=2))
        with profiler(activities=[ProfilerActivity.CUDA]) as found:
            take(step, state, forced, 1, first=1)
            torch.cuda.synchronize()
        events = [e for e in found.key_averages() if e.self_device_time_total > 0]
        events.sort(key=lambda e: -e.self_device_time_total)
        total = sum(e.self_device_time_total for e in events) / 1000
        print(
            f"\n{name}: first step {first:.2f} s, {1000 * seconds:.2f} ms a step, {total:.2f} ms "
            f"in {sum(e.count for e in events)} kernels; ms, kernels, name"
        )
        for e in events[:rows]:
            print(f"{e.self_device_time_total / 1000:>9.3f}{e.count:>7}  {e.key[:110]}")
        sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help="of those above (all)")
    parser.add_argument("--tiny", action="store_true", help="small dimensions and few frames")
    parser.add_argument("--rows", type=int, default=16, help="kernels shown of each profile (16)")
    a = parser.parse_args()
    if set(a.parts) - set(PARTS):
        parser.error(f"the parts are {', '.join(PARTS)}")
    if not torch.cuda.is_available():
        parser.error("there is no CUDA device")
    dims, size = (TINY, (4, 2)) if a.tiny else (FULL, (16, 16))
    print(f"{describe(DEVICE, choose_precision('auto', DEVICE))}, PyTorch {torch.__version__}")
    work: dict[str, Callable[[], object]] = {
        "agreement": lambda: agreement(dims),
        "speed": lambda: benchmark.main(["--quick", *["--rounds", "1"] * a.tiny]),
        "epoch": lambda: epochs(dims, 400 if a.tiny else 23410, size),
        "validation": lambda: validation(dims, 40 if a.tiny else 630),
        "profile": lambda: profile(dims, size, a.rows),
    }
    for part in a.parts or PARTS:
        try:
            work[part]()
        except Exception as error:  # the other parts are still worth knowing
            print(f"{part}: {type(error).__name__}: {error}")
            if a.tiny:
                raise


if __name__ == "__main__":
    main()
