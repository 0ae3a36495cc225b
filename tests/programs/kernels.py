"""Kernels, graph launches and GPU memory of steps, counted on a device that computes nothing.

    python tests/programs/kernels.py               # the table of docs/gpu.md: full size, T 16, B 16
    python tests/programs/kernels.py --tiny        # all configurations, small; what the test runs
    python tests/programs/kernels.py --both        # both modes in one memory, full size
    python tests/programs/kernels.py --ranks 2     # a step of each of two processes, full size

No GPU is needed: tests/nullcuda/nullcuda.cpp stands in for CUDA. Needs Linux, g++ and a build of
PyTorch for CUDA 13. With --json the figures are one JSON object on the last line.
"""

import argparse
import ctypes
import gc
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.support import nullcuda

FULL = {"F_dim": 128, "L_dim": 32, "N_dim": 12, "D_out_dim": 192}
TINY = {"F_dim": 16, "L_dim": 8, "N_dim": 4, "D_out_dim": 16}
FLIP = {"augment": ("flip", "shift", "colour")}
# Of --preset best, but for the sizes of the model and of its clips.
BEST = {
    **{"optim": "Muon", "lr": 0.003, "grad_clip": 0.01, "ema": 0.99, "frame_noise": 0.3},
    **{"jump": 0.3, "rollout_every": 1, "tfr": 0.5, "output": "clamp"},
}

# name: options, teacher forcing, and the most kernels that a small step (T 4, B 2) may have: about
# a twentieth more than there are with PyTorch 2.14. The count is exact, so a larger one is a change
# of the code, or of PyTorch. Between them: every option that changes what a step computes.
CONFIGURATIONS: dict[str, tuple[dict[str, Any], bool, int]] = {
    "teacher forcing": ({}, True, 1390),
    "free running": ({}, False, 2800),
    "--recompute": ({"recompute": True}, True, 1850),
    "--recompute, free running": ({"recompute": True}, False, 4600),
    "--recompute --reference": ({"recompute": True, "reference": "first"}, True, 2350),
    "--ema": ({"ema": 0.99}, True, 1400),
    "--optim Muon": ({"optim": "Muon"}, True, 1770),
    "--optim AdamW --grad_clip 0": ({"optim": "AdamW", "grad_clip": 0.0}, True, 1410),
    "--prior learned": ({"prior": "learned"}, False, 3070),
    "--reference": ({"reference": "first"}, True, 1750),
    "--reference --fold 2, free running": (
        {"reference": "first", "fold": 2, "output": "sigmoid"},
        False,
        3380,
    ),
    "--fold 2": ({"fold": 2}, True, 1380),
    "--fold 4": ({"fold": 4}, True, 1360),
    "--frame_noise --jump": ({"frame_noise": 0.5, "jump": 0.3}, False, 2900),
    "--rollout_every --augment": ({**FLIP, "rollout_every": 1}, True, 1700),
    "--precision float32": ({"precision": "float32"}, False, 2240),
    "--precision float16": ({"precision": "float16"}, True, 1450),
    "--precision float16 --optim Muon": ({"precision": "float16", "optim": "Muon"}, False, 3230),
    "--deterministic": ({"deterministic": True}, False, 2800),
    "as --preset best": ({**BEST}, True, 2020),
    "as --preset video": ({**BEST, "reference": "first", "fold": 2}, True, 2480),
}
SHOWN = (
    *("teacher forcing", "free running", "--recompute", "--recompute, free running"),
    *("--ema", "--optim Muon", "--prior learned", "--reference", "--fold 2", "--fold 4"),
    *("as --preset best", "as --preset video"),
)


class Counter:
    """What the library counts."""

    def __init__(self) -> None:
        self.library = ctypes.CDLL(os.environ["NULLCUDA"])
        for name in ("total", "captured", "violations", "graph_launches", "bytes", "peak"):
            getattr(self.library, f"nullcuda_{name}").restype = ctypes.c_long

    def reset(self) -> None:
        self.library.nullcuda_reset()

    def __getattr__(self, name: str) -> int:
        return getattr(self.library, f"nullcuda_{name}")()


def new_step(options: dict[str, Any], size: dict[str, int], clips: int, length: int) -> Any:
    """(state, step) of a run on the device."""
    import torch

    from modules.checkpoint import RunState
    from modules.cvae import CVAE
    from modules.data import Recording, VideoData
    from modules.options import TrainerOptions, model_config
    from modules.runtime.device import place, set_up
    from modules.runtime.graphs import GraphedStep
    from modules.training import TrainingStep

    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    shared = {"train_vi_len": length, "batch_size": clips, **size}
    o = TrainerOptions(DR="unused", **{**shared, **options})
    set_up(device, o.precision, o.deterministic)
    model = place(CVAE(model_config(o)), device).train()
    frames = 3 * clips * length
    pixels = (frames, o.frame_H, o.frame_W, 3)
    stacks = [torch.zeros(pixels, dtype=torch.uint8, device=device) for _ in range(2)]
    data = VideoData(*stacks, (Recording(0, frames),))
    state = RunState(o, Path("unused"), model, data, data_root="", data_fingerprint="")
    return state, GraphedStep(TrainingStep(state, data))


def take(run: Any, teacher_forcing: bool, steps: int, clips: int | None = None) -> None:
    """Some steps of an epoch."""
    import torch

    from modules.optim import set_learning_rate
    from modules.schedules import Plan
    from modules.training import draw_shard

    state, step = run
    plan = Plan(0.01, state.o.tfr, teacher_forcing, 1e-3)
    for number in range(steps):
        device = state.sums.sums.device
        starts = torch.zeros(clips or state.o.batch_size, dtype=torch.int64, device=device)
        set_learning_rate(state.optimizer, 1e-3)
        kind = {"epoch": 0, "number": number, "clips": state.o.batch_size}
        part = draw_shard(state.o, plan, starts, latent=state.model.config.latent_shape, **kind)
        step(part, teacher_forcing=teacher_forcing)
    state.sums.read()


def figures(step: Any, counter: Counter, steps: int) -> dict[str, Any]:
    """What was counted since the last reset."""
    return {
        "eager": step.why_eager,
        "kernels": counter.captured,
        "launches": counter.graph_launches,
        "steps": steps,
        "violations": counter.violations,
        "peak_mib": round(counter.peak / 2**20, 1),
    }


def measured(
    name: str, size: dict[str, int], clips: int, length: int, counter: Counter
) -> dict[str, Any]:
    """Two steps of a configuration, by one graph."""
    import torch

    gc.collect()
    torch.cuda.empty_cache()
    counter.reset()
    options, forced, _ = CONFIGURATIONS[name]
    run = new_step(options, size, clips, length)
    take(run, forced, 2)
    found = figures(run[1], counter, 2)
    torch.use_deterministic_algorithms(False)
    return found


def optimiser_kernels(size: dict[str, int], counter: Counter) -> int:
    """Kernels of one step of Muon."""
    run = new_step({"optim": "Muon"}, size, 2, 2)
    take(run, True, 1)
    counter.reset()
    run[0].optimizer.step()
    return counter.total


def rollout_kernels(size: dict[str, int], counter: Counter) -> dict[str, Any]:
    """A validation of 65 frames with averaged weights: kernels of a frame's graph, launches."""
    import torch

    from modules.data import TestSequence
    from modules.evaluation import generate

    state, step = new_step({"ema": 0.99}, size, 2, 2)
    data = step.step.data
    video = [x.cpu().expand(65, -1, -1, -1) for x in (data.frames[:1], data.labels[:1])]
    sequence = TestSequence("0", video[0][0], video[1])
    averaged, counts = state.average.model, {}
    for name, model in (("averaged", averaged), ("frozen", averaged)):
        model.requires_grad_(name == "averaged")
        counter.reset()
        kind = {"seed": 0, "device": data.frames.device, "precision": torch.bfloat16}
        generate(model, [sequence], **kind)
        counts[name] = {"kernels": counter.captured, "launches": counter.graph_launches}
    return counts


def refresh_kernels(size: dict[str, int], counter: Counter) -> dict[str, Any]:
    """Stored rollouts of 23,410 frames (or 500 small ones), with and without graphs: launches."""
    import torch

    from modules.data import Recording, VideoData
    from modules.runtime.signals import Watch

    state, _ = new_step({"rollout_every": 1}, size, 2, 2)
    count = 23410 if size["F_dim"] == FULL["F_dim"] else 500
    pixels = (count, size["frame_H"], size["frame_W"], 3)
    frames = torch.zeros(pixels, dtype=torch.uint8, device=state.sums.sums.device)
    from modules.rollouts import StoredRollouts

    stored = StoredRollouts(VideoData(frames, frames, (Recording(0, count),)))
    found: dict[str, Any] = {"frames": count}
    for name in ("eager", "graph"):
        counter.reset()
        began = time.process_time()
        os.environ["CVAE_NO_GRAPH"] = "1" if name == "eager" else ""
        kind = {"precision": torch.bfloat16, "watch": Watch(), "whole": True}
        stored.refresh(state.model, seed=0, epoch=1, **kind)
        found[name] = {
            "launches": counter.total + counter.graph_launches,
            "violations": counter.violations,
            "seconds": round(time.process_time() - began, 1),
        }
    return found


def both_modes(size: dict[str, int], clips: int, length: int, counter: Counter) -> dict[str, Any]:
    """Both modes, with a last batch that is smaller: two graphs in one memory."""
    import torch

    gc.collect()
    torch.cuda.empty_cache()
    counter.reset()
    run = new_step({}, size, clips, length)
    peaks = []
    for forced in (True, False):
        take(run, forced, 1)
        take(run, forced, 1, clips=clips - 1)
        peaks.append(round(counter.peak / 2**20, 1))
    return {**figures(run[1], counter, 4), "graphs": len(run[1].graphs), "peaks_mib": peaks}


PARALLEL = ("teacher forcing", "free running", "--precision float16", "as --preset best")


def parallel_steps(size: dict[str, int], clips: int, length: int, counter: Counter) -> Any:
    """Of this rank: rows as of measured()."""
    from modules.runtime import distributed

    distributed.connect()
    rows = {name: measured(name, size, clips, length, counter) for name in PARALLEL}
    distributed.disconnect()
    return rows


def started(ranks: int, arguments: list[str]) -> list[subprocess.Popen[str]]:
    """This program once for each rank."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(ranks)}
    shared |= {"NULLCUDA_COUNT": str(ranks)}
    return [
        subprocess.Popen(
            [sys.executable, __file__, *arguments],
            env={**os.environ, **shared, "RANK": str(n), "LOCAL_RANK": str(n)},
            stdout=None if n == 0 else subprocess.DEVNULL,
        )
        for n in range(ranks)
    ]


# ---------------------------------------------------------------- what must be noticed


def controls(size: dict[str, int], counter: Counter) -> dict[str, Any]:
    """Steps that wait for the device, copy to the host, fail inside a capture."""
    import torch

    found = {}
    for name in ("item", "copy", "failure", "none"):
        state, step = new_step({}, size, 2, 3)
        place, add = torch.zeros(4), state.sums.add

        def spoilt(*values: Any, name: str = name, place: Any = place, add: Any = add) -> None:
            add(*values)
            if name == "item":
                values[0].sum().item()
            elif name == "copy":
                place.copy_(values[0].float())
            elif name == "failure" and torch.cuda.is_current_stream_capturing():
                raise RuntimeError("on purpose")

        state.sums.add = spoilt
        counter.reset()
        take((state, step), True, 2)
        found[name] = figures(step, counter, 2)
    return found


# ---------------------------------------------------------------- the program


def run(tiny: bool, both: bool) -> dict[str, Any]:
    counter = Counter()
    full = {**FULL, "frame_H": 32, "frame_W": 64}
    if both:
        return both_modes(full, 16, 16, counter)
    size, clips, length = full, 16, 16
    if tiny:
        size, clips, length = {**TINY, "frame_H": 16, "frame_W": 16}, 2, 4
    if "RANK" in os.environ:
        return parallel_steps(size, clips, length, counter)
    names = CONFIGURATIONS if tiny else SHOWN
    result: dict[str, Any] = {
        "configurations": {n: measured(n, size, clips, length, counter) for n in names},
        "both_modes": both_modes(size, clips, length, counter),
        "optimiser": optimiser_kernels(full, counter),
        "rollout": rollout_kernels(size, counter),
        "refresh": refresh_kernels(size, counter),
    }
    if tiny:
        result["controls"] = controls(size, counter)
    return result


def table(result: dict[str, Any]) -> str:
    """Markdown."""
    lines = ["| step | kernels | graph launches | GiB |", "|---|---|---|---|"]
    for name, row in result["configurations"].items():
        launches = row["launches"] / row["steps"]
        memory = row["peak_mib"] / 1024
        lines.append(f"| {name} | {row['kernels']:,} | {launches:.0f} | {memory:.2f} |")
    both = result["both_modes"]
    memory = both["peaks_mib"][-1] / 1024
    graphs = f"{both['graphs']} graphs, smaller last batch"
    lines.append(f"| both modes: {graphs} | {both['kernels']:,} | 1 | {memory:.2f} |")
    rollout = result["rollout"]["averaged"]
    launches = rollout["launches"] / 64
    lines.append(f"| a frame of a validation | {rollout['kernels']:,} | {launches:.0f} | |")
    refresh = result["refresh"]
    for name, words in (("eager", "without graphs"), ("graph", "with")):
        row = refresh[name]
        what = f"stored rollouts, {refresh['frames']:,} frames, {words}"
        lines.append(f"| {what}: {row['seconds']} s of host | | {row['launches']:,} | |")
    lines.append(f"| Muon's part of a step | {result['optimiser']:,} | | |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--tiny", action="store_true", help="all configurations, small")
    parser.add_argument("--both", action="store_true", help="both modes only, as JSON")
    parser.add_argument("--ranks", type=int, default=1, help="processes; with more than 1, as JSON")
    parser.add_argument("--json", action="store_true", help="one JSON object in place of the table")
    a = parser.parse_args()
    if "NULLCUDA" in os.environ:
        if a.ranks > 1 and "RANK" not in os.environ:
            sys.exit(max(process.wait() for process in started(a.ranks, sys.argv[1:])))
        result = run(a.tiny, a.both)
        print(json.dumps(result) if a.json or a.both or a.ranks > 1 else table(result), flush=True)
        return
    if why := nullcuda.why_not():
        sys.exit(f"the device cannot be built here: {why}")
    with tempfile.TemporaryDirectory() as folder:
        environment = nullcuda.environment(nullcuda.build(Path(folder)))
        sys.exit(subprocess.run([sys.executable, *sys.argv], env=environment).returncode)


if __name__ == "__main__":
    main()
