"""Kernels, graph launches and GPU memory of steps, counted on a device that computes nothing.

    python tests/programs/kernels.py               # the table of docs/gpu.md: full size, T 16, B 16
    python tests/programs/kernels.py --tiny        # small, what the test runs
    python tests/programs/kernels.py --both        # both modes in one memory
    python tests/programs/kernels.py --ranks 2     # a step of each of two processes

No GPU is needed: tests/nullcuda/nullcuda.cpp stands in for CUDA. Needs Linux, g++ and a build of
PyTorch for CUDA 13. The last line that is printed is a JSON object.
"""

import argparse
import ctypes
import gc
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from modules.checkpoint import RunState
from modules.cvae import CVAE
from modules.data import Recording, TestSequence, VideoData, epoch_batches
from modules.evaluation import generate
from modules.optim import set_learning_rate
from modules.options import TrainerOptions, model_config
from modules.rollouts import StoredRollouts
from modules.runtime import distributed
from modules.runtime.device import place, set_up
from modules.runtime.graphs import GraphedStep, graphs_wanted
from modules.runtime.signals import Watch
from modules.schedules import Plan
from modules.training import TrainingStep, draw_shard
from tests.support.scripts import REPOSITORY

SOURCE = REPOSITORY / "tests/nullcuda/nullcuda.cpp"
CUDA = 13  # the major version of PyTorch's CUDA that the library stands in for
HEADERS = Path(torch.__file__).parents[1] / f"nvidia/cu{CUDA}/include"  # as wheels have them

FULL = {"F_dim": 128, "L_dim": 32, "N_dim": 12, "D_out_dim": 192}
TINY = {"F_dim": 16, "L_dim": 8, "N_dim": 4, "D_out_dim": 16}
FULL_STEP = {**FULL, "frame_H": 32, "frame_W": 64, "train_vi_len": 16, "batch_size": 16}
TINY_STEP = {**TINY, "frame_H": 16, "frame_W": 16, "train_vi_len": 4, "batch_size": 2}
# Of --preset best, but for the sizes of the model and of its clips.
BEST = {
    **{"optim": "Muon", "lr": 0.003, "grad_clip": 0.01, "ema": 0.99, "frame_noise": 0.3},
    **{"jump": 0.3, "rollout_every": 1, "tfr": 0.5},
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
    "--reference": ({"reference": "first"}, True, 1770),
    "--fold 2 --reference": ({"fold": 2, "reference": "first", "output": "sigmoid"}, False, 3380),
    "--fold 2": ({"fold": 2}, True, 1380),
    "--fold 4": ({"fold": 4}, True, 1360),
    "--frame_noise --jump": ({"frame_noise": 0.5, "jump": 0.3}, False, 2900),
    "--augment, stored": ({"augment": ("flip", "shift", "colour"), "rollout_every": 1}, True, 1700),
    "--precision float32": ({"precision": "float32"}, False, 2240),
    "--precision float16": ({"precision": "float16"}, True, 1450),
    "--precision float16 --optim Muon": ({"precision": "float16", "optim": "Muon"}, False, 3230),
    "--deterministic": ({"deterministic": True}, False, 2800),
    "as --preset best": ({**BEST}, True, 2020),
    "as --preset video": ({**BEST, "reference": "first", "fold": 2}, True, 2480),
}
PARALLEL = ("teacher forcing", "free running", "--precision float16", "as --preset best")


# ---------------------------------------------------------------- steps, here and in gpu.py


class Run(NamedTuple):
    """Something that takes training steps."""

    state: RunState
    step: Any  # GraphedStep, or TrainingStep where there are no graphs
    data: VideoData


def new_run(data: VideoData, **options: Any) -> Run:
    """A run on a data set that is on the device."""
    o, device = TrainerOptions(DR="unused", **options), data.frames.device
    set_up(device, o.precision, o.deterministic)
    torch.manual_seed(0)
    model = place(CVAE(model_config(o)), device).train()
    state = RunState(o, Path("unused"), model, data, data_root="", data_fingerprint="")
    step = TrainingStep(state, data)
    return Run(state, GraphedStep(step, o.batch_size) if graphs_wanted(device) else step, data)


def take(
    run: Run, teacher_forcing: bool, steps: int, first: int = 0, clips: int | None = None
) -> None:
    """Steps on the first batches of as many epochs; clips: fewer than the batch size."""
    o = run.state.o
    for number in range(first, first + steps):
        starts = epoch_batches(o, run.data, number)[0][:clips]
        set_learning_rate(run.state.optimizer, o.lr)
        kind = {"latent": run.state.model.config.latent_shape, "clips": o.batch_size}
        plan = Plan(0.001, o.tfr, teacher_forcing, o.lr)
        part = draw_shard(o, plan, starts, epoch=0, number=number, **kind)
        run.step(part, teacher_forcing=teacher_forcing)
    run.state.sums.read()  # which waits for the device


# ---------------------------------------------------------------- the device


def why_not() -> str | None:
    """Why the device cannot be had here; None where it can."""
    if sys.platform != "linux" or shutil.which("g++") is None:
        return "needs Linux and g++"
    if not (torch.version.cuda or "").startswith(f"{CUDA}."):
        return f"PyTorch {torch.__version__} is not built for CUDA {CUDA}"
    return None if HEADERS.is_dir() else f"no headers of CUDA in {HEADERS}"


def build(folder: Path) -> Path:
    """Compile the library into a folder; returns its path. CalledProcessError if g++ fails."""
    library = folder / "libnullcuda.so"
    includes = [f"-I{SOURCE.parent / 'inc'}", f"-I{HEADERS}"]
    flags = ["-O1", "-shared", "-fPIC", "-std=c++17", *includes]
    subprocess.run(["g++", *flags, str(SOURCE), "-o", str(library), "-ldl"], check=True)
    (folder / "libcuda.so.1").symlink_to(library.name)  # the driver, by the name it is looked for
    # The optimisers check a learning rate that is on the device, where no comparison is computed.
    (folder / "sitecustomize.py").write_text(
        "import torch\n"
        "real = torch.Tensor.__ge__\n"
        "torch.Tensor.__ge__ = lambda a, b: (\n"
        "    True if a.is_cuda and a.dim() == 0 and isinstance(b, float) else real(a, b)\n"
        ")\n"
    )
    return library


def environment(library: Path, **more: str) -> dict[str, str]:
    """For a process that is to see the device."""
    own = {"LD_PRELOAD": str(library), "LD_LIBRARY_PATH": str(library.parent)}
    own |= {"PYTHONPATH": str(library.parent), "OMP_NUM_THREADS": "1"}
    return {**os.environ, **own, "NULLCUDA": str(library), **more}


# ---------------------------------------------------------------- counting


class Counter(ctypes.Structure):
    """What the library counts."""

    _fields_ = [
        (name, ctypes.c_long)
        for name in ("total", "captured", "violations", "graph_launches", "bytes", "peak")
    ]

    def reset(self) -> None:
        gc.collect()
        torch.cuda.empty_cache()
        self.total = self.captured = self.violations = self.graph_launches = 0
        self.peak = self.bytes

    def figures(self, run: Run) -> dict[str, Any]:
        """What was counted since the last reset."""
        return {
            "eager": run.step.why_eager,
            "kernels": self.captured,
            "launches": self.graph_launches,
            "violations": self.violations,
            "peak_mib": round(self.peak / 2**20, 1),
        }


def empty_video(size: dict[str, int], frames: int) -> VideoData:
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    shape = (2, frames, size["frame_H"], size["frame_W"], 3)
    stacks = torch.zeros(shape, dtype=torch.uint8, device=device)
    return VideoData(*stacks, (Recording(0, frames),))


def run_of(size: dict[str, int], **options: Any) -> Run:
    frames = 3 * size["batch_size"] * size["train_vi_len"]
    return new_run(empty_video(size, frames), **size, **options)


def measured(name: str, size: dict[str, int], counter: Counter) -> dict[str, Any]:
    """Two steps of a configuration, by one graph."""
    counter.reset()
    options, forced, _ = CONFIGURATIONS[name]
    run = run_of(size, **options)
    take(run, forced, 2)
    found = counter.figures(run)
    torch.use_deterministic_algorithms(False)
    return found


def both_modes(size: dict[str, int], counter: Counter) -> dict[str, Any]:
    """Both modes, with a last batch that is smaller: two graphs in one memory."""
    counter.reset()
    run, peaks = run_of(size), []
    for forced in (True, False):
        take(run, forced, 1)
        take(run, forced, 1, clips=size["batch_size"] - 1)
        peaks.append(round(counter.peak / 2**20, 1))
    return {**counter.figures(run), "graphs": len(run.step.graphs), "peaks_mib": peaks}


def optimiser_kernels(size: dict[str, int], counter: Counter) -> int:
    """Kernels of one step of Muon."""
    run = run_of(size, optim="Muon")
    take(run, True, 1)
    counter.reset()
    run.state.optimizer.step()
    return counter.total


def rollout_kernels(size: dict[str, int], counter: Counter) -> dict[str, Any]:
    """A validation of 65 frames with averaged weights: kernels of a frame's graph, launches."""
    run, video = run_of(size, ema=0.99), empty_video(size, 65)
    sequence = TestSequence("0", video.frames[0].cpu(), video.labels.cpu())
    assert run.state.average is not None
    model, counts = run.state.average.model, {}
    for name in ("averaged", "frozen"):
        model.requires_grad_(name == "averaged")
        counter.reset()
        kind = {"seed": 0, "device": video.frames.device, "precision": torch.bfloat16}
        generate(model, [sequence], **kind)
        counts[name] = {"kernels": counter.captured, "launches": counter.graph_launches}
    return counts


def refresh_kernels(size: dict[str, int], frames: int, counter: Counter) -> dict[str, Any]:
    """Stored rollouts of so many frames, with and without graphs: launches."""
    run = run_of(size)
    stored = StoredRollouts(empty_video(size, frames))
    found = {}
    for name in ("eager", "graph"):
        counter.reset()
        os.environ["CVAE_NO_GRAPH"] = "1" if name == "eager" else ""
        kind = {"precision": torch.bfloat16, "watch": Watch(), "whole": True}
        stored.refresh(run.state.model, seed=0, epoch=1, **kind)
        found[name] = {
            "launches": counter.total + counter.graph_launches,
            "violations": counter.violations,
        }
    return found


def controls(size: dict[str, int], counter: Counter) -> dict[str, Any]:
    """What must be noticed: a wait for the device, a copy to the host, a failure in a capture."""
    found = {}
    for name in ("item", "copy", "failure"):
        run, host = run_of(size), torch.zeros(4)
        add = run.state.sums.add

        def spoilt(*values: Any, name: str = name, host: Any = host, add: Any = add) -> None:
            add(*values)
            if name == "item":
                values[0].sum().item()
            elif name == "copy":
                host.copy_(values[0].float())
            elif name == "failure" and torch.cuda.is_current_stream_capturing():
                raise RuntimeError("on purpose")

        run.state.sums.add = spoilt  # type: ignore[method-assign]
        counter.reset()
        take(run, True, 2)
        found[name] = counter.figures(run)
    return found


def counted(tiny: bool, both: bool) -> dict[str, Any]:
    """What this process counts: a rank's rows, both modes, or all the rest."""
    counter = Counter.in_dll(ctypes.CDLL(os.environ["NULLCUDA"]), "nullcuda")
    size = TINY_STEP if tiny else FULL_STEP
    if "RANK" in os.environ:
        distributed.connect()
        rows = {name: measured(name, size, counter) for name in PARALLEL}
        distributed.disconnect()
        return rows
    if both:
        return both_modes(size, counter)
    return {
        "configurations": {name: measured(name, size, counter) for name in CONFIGURATIONS},
        "optimiser": optimiser_kernels({**FULL_STEP, "batch_size": 2, "train_vi_len": 2}, counter),
        "rollout": rollout_kernels(size, counter),
        "refresh": refresh_kernels(size, 500 if tiny else 23410, counter),
        "controls": controls({**TINY_STEP, "train_vi_len": 3}, counter),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tiny", action="store_true", help="a small model and small clips")
    parser.add_argument("--both", action="store_true", help="both modes only")
    parser.add_argument("--ranks", type=int, default=1, help="processes (1)")
    given = parser.parse_args()
    if "NULLCUDA" not in os.environ:
        if why := why_not():
            sys.exit(f"the device cannot be built here: {why}")
        with tempfile.TemporaryDirectory() as folder:
            seeing = environment(build(Path(folder)))
            sys.exit(subprocess.run([sys.executable, *sys.argv], env=seeing).returncode)
    if given.ranks > 1 and "RANK" not in os.environ:
        os.environ["NULLCUDA_COUNT"] = str(given.ranks)
        sys.exit(distributed.launch(given.ranks))
    print(json.dumps(counted(given.tiny, given.both)), flush=True)


if __name__ == "__main__":
    main()
