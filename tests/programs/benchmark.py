"""How fast training and validation are, against the usual loop on the same machine.

    python tests/programs/benchmark.py                        # the full table, full dimensions
    python tests/programs/benchmark.py --quick                # two cases, to see if it works
    python tests/programs/benchmark.py --json benchmark.json  # the same numbers for programs

Both sides alternate in one process, on the device that there is; each figure is the median over
rounds. The usual loop is tests/support/reference.py: frame by frame, float32, PNGs decoded in every
epoch. The data set is the demo's, made in a temporary folder.
"""

import argparse
import ctypes
import gc
import json
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import dataloader
from modules.batches import Clips, draw, epoch_batches, load_clips
from modules.cvae import CVAE, ModelConfig
from modules.datasets.synthetic import make_demo
from modules.evaluation import generate
from modules.layout import place
from modules.options import TrainerOptions
from modules.plan import Plan
from modules.runstate import RunState
from modules.runtime.device import (
    MALLOC_MMAP_MAX,
    MALLOC_TOP_PAD,
    MALLOC_TRIM_THRESHOLD,
    choose_device,
    choose_precision,
    describe,
    keep_freed_memory,
    set_up,
)
from modules.sequences import TestSequence, VideoData, to_unit
from modules.training import TrainingStep
from tests.support.reference import usual_loader, usual_rollout, usual_step

BETA = 0.001
MALLOC_MMAP_THRESHOLD = -3  # of mallopt(), from glibc's malloc.h
FULL = {"F_dim": 128, "L_dim": 32, "N_dim": 12, "D_out_dim": 192}
REDUCED = {"F_dim": 32, "L_dim": 16, "N_dim": 12, "D_out_dim": 48}


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(device: torch.device, work: Callable[[], object]) -> float:
    """Seconds that a piece of work takes."""
    synchronise(device)
    began = time.perf_counter()
    work()
    synchronise(device)
    return time.perf_counter() - began


@torch.no_grad()
def arithmetic(device: torch.device, rounds: int) -> dict[str, float]:
    """GFLOP/s in float32 of a large matrix product, and of a layer as the model has many."""
    a, b = torch.randn(2, 2048, 2048, device=device)
    layer = torch.nn.Conv2d(192, 768, 1, device=device).to(memory_format=torch.channels_last)
    x = torch.randn(15, 192, 32, 64, device=device).to(memory_format=torch.channels_last)
    speeds = {}
    for name, work, flop in (
        ("matrix product 2048 x 2048", lambda: a @ b, 2 * 2048**3),
        ("1 x 1 convolution", lambda: layer(x), 2 * 15 * 32 * 64 * 192 * 768),
    ):
        for _ in range(3):
            work()
        seconds = statistics.median(timed(device, work) for _ in range(5 * rounds))
        speeds[name] = flop / seconds / 1e9
    return speeds


def usual_memory() -> None:
    """Give memory back to the system as a process does that has not been told otherwise.

    The Trainer keeps freed memory (modules/runtime/device.py); the usual loop does not. The
    thresholds are those that glibc reaches by itself in a process with large tensors.
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(MALLOC_MMAP_MAX, 65536)
        libc.mallopt(MALLOC_MMAP_THRESHOLD, 2**25)
        libc.mallopt(MALLOC_TRIM_THRESHOLD, 2**26)
        libc.mallopt(MALLOC_TOP_PAD, 2**17)
        libc.malloc_trim(0)


def alternate(
    device: torch.device,
    usual: Callable[[], object],
    ours: Callable[[], object],
    rounds: int,
) -> tuple[float, float]:
    """Seconds of one call of each side, in turn; medians.

    Each call that counts follows one that does not, with the same side's memory settings: in the
    midst of training, not at its start.
    """
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for work, memory, taken in zip(
            (usual, ours), (usual_memory, keep_freed_memory), times, strict=True
        ):
            if device.type == "cpu":
                memory()
            work()
            taken.append(timed(device, work))
    return statistics.median(times[0]), statistics.median(times[1])


def endless(loader: Any) -> Iterator[Any]:
    while True:
        yield from loader


class Case:
    """One setting, with both sides ready to take steps."""

    def __init__(
        self,
        root: Path,
        device: torch.device,
        dims: dict[str, int],
        *,
        teacher_forcing: bool,
        length: int,
        batch: int,
        detach: bool = False,
        recompute: bool = False,
        precision: str = "auto",
        workers: int = 2,
    ) -> None:
        self.device, self.length, self.batch = device, length, batch
        self.frames_per_step = batch * (length - 1)
        o = TrainerOptions(
            DR=str(root),
            **dims,
            train_vi_len=length,
            batch_size=batch,
            detach=detach,
            recompute=recompute,
            precision=precision,
        )
        self.o, self.plan = o, Plan(BETA, float(teacher_forcing), teacher_forcing, 1e-3)
        torch.manual_seed(0)
        config = ModelConfig(**dims)
        self.model = place(CVAE(config), device, choose_precision(precision, device)).train()
        sizes = {"height": 32, "width": 64, "train_vi_len": length, "val_vi_len": 630}
        data = dataloader.load_train_val(root, **sizes)[0]
        assert data is not None
        data = data.to(device)
        state = RunState(o, Path("unused"), self.model, data, data_root="", data_fingerprint="")
        self.step = TrainingStep(state, data)
        self.number = 0
        torch.manual_seed(0)
        self.usual_model = CVAE(config).to(device).train()
        self.usual_optimizer = torch.optim.Adam(self.usual_model.parameters(), lr=1e-3)
        self.loader = endless(usual_loader(root, length, (32, 64), batch, workers))

    def ours(self) -> None:
        """One training step of the Trainer's."""
        starts = epoch_batches(self.o, self.step.data, self.number)[0]
        self.step(starts, self.plan, epoch=0, number=self.number)
        self.number += 1

    def usual(self) -> None:
        """One training step of the usual loop's."""
        frames, labels = (x.to(self.device) for x in next(self.loader))
        forced = self.plan.teacher_forcing
        usual_step(
            self.usual_model,
            self.usual_optimizer,
            frames,
            labels,
            teacher_forcing=forced,
            beta=BETA,
        )

    def compare(self, rounds: int) -> tuple[float, float]:
        """Frames/s of (the usual loop, ours), alternating; medians."""
        usual, ours = alternate(self.device, self.usual, self.ours, rounds)
        return self.frames_per_step / usual, self.frames_per_step / ours


def peak_memory(device: torch.device, work: Callable[[], object]) -> float | None:
    """MiB that a piece of work takes beyond what was there, on CUDA; None elsewhere (see below)."""
    if device.type != "cuda":
        return None
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    work()
    synchronise(device)
    return (torch.cuda.max_memory_allocated(device) - before) / 2**20


def kept_per_frame(case: Case) -> float:
    """MiB that the forward pass keeps for the backward pass, per predicted frame; any device."""
    storages: dict[int, torch.UntypedStorage] = {}
    weights = {p.untyped_storage().data_ptr() for p in case.model.parameters()}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            storages[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        case.ours()
    return sum(s.nbytes() for s in storages.values()) / 2**20 / case.frames_per_step


def split_of_a_step(case: Case, rounds: int) -> dict[str, float]:
    """Milliseconds of data, forward, backward and optimiser, each waited for; medians."""
    step, model, device = case.step, case.model, case.device
    from modules.optimizers import clip_gradient
    from modules.runtime.device import autocast

    parts: dict[str, list[float]] = {"data": [], "forward": [], "backward": [], "optimiser": []}
    held: dict[str, Any] = {}

    def data() -> None:
        starts = epoch_batches(case.o, step.data, 0)[0]
        size = {"epoch": 0, "number": 0, "batch": len(starts)}
        draws = draw(case.o, step.generator, case.plan, **size)
        forced = case.plan.teacher_forcing
        clips = load_clips(
            step.data, None, starts, draws, length=case.length, teacher_forcing=forced
        )
        held["clips"], held["epsilon"] = clips, draws.latent

    def forward() -> None:
        clips: Clips = held["clips"]
        with autocast(device, step.precision):
            out = model(
                *(clips.frames, clips.labels, held["epsilon"], clips.previous),
                sequential=clips.sequential,
                detach=case.o.detach,
            )
        held["loss"] = out.mse.mean() + BETA * out.kl.mean()

    def backward() -> None:
        step.optimizer.zero_grad(set_to_none=True)
        held["loss"].backward()

    def optimiser() -> None:
        clip_gradient(step.update.parameters, 1.0)
        step.optimizer.found_inf = torch.zeros((), device=device)  # type: ignore[attr-defined]
        step.optimizer.step()

    for _ in range(rounds + 1):
        for name, work in zip(parts, (data, forward, backward, optimiser), strict=True):
            parts[name].append(timed(device, work))
    return {name: 1000 * statistics.median(times[1:]) for name, times in parts.items()}


def validation_speed(case: Case, frames: int, rounds: int) -> tuple[float, float]:
    """Frames/s of a validation rollout: (the usual loop, ours), alternating; medians."""
    device = case.device
    video = VideoData(
        case.step.data.frames[:frames].cpu(), case.step.data.labels[:frames].cpu(), ()
    )
    sequence = TestSequence("0", video.frames[0], video.labels)
    precision = choose_precision(case.o.precision, device)
    float_frames, float_labels = (
        to_unit(x).permute(0, 3, 1, 2).contiguous().to(device) for x in (video.frames, video.labels)
    )

    def usual_once() -> None:
        usual_rollout(case.usual_model, float_frames, float_labels)

    def our_once() -> None:
        generate(case.model, [sequence], seed=0, device=device, precision=precision, graph=True)

    case.usual_model.eval()
    usual, ours = alternate(device, usual_once, our_once, rounds)
    case.usual_model.train()
    return (frames - 1) / usual, (frames - 1) / ours


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--device", default="auto", choices=("auto", "cuda", "cpu"))
    parser.add_argument("--rounds", type=int, default=3, help="steps of each side per case (3)")
    parser.add_argument("--reduced", action="store_true", help="F 32, L 16, D 48 instead of full")
    parser.add_argument("--quick", action="store_true", help="batch 1 and train_vi_len 16 only")
    parser.add_argument(
        "--sizes", nargs="+", metavar="T,B", help="train_vi_len and batch of the cases (all six)"
    )
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    a = parser.parse_args()
    device = choose_device(a.device)
    set_up(device, "auto")
    dims = REDUCED if a.reduced else FULL
    precision = choose_precision("auto", device)
    result: dict[str, Any] = {
        "device": describe(device, precision),
        "torch": torch.__version__,
        "dims": dims,
        "training": [],
    }
    print(f"{result['device']}, PyTorch {torch.__version__}, {dims}\n")
    print("training, frames/s             usual    ours   ratio | kept for backward, MiB/frame")

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "data"
        make_demo(root, train=400, val=64, test=1, seed=0, height=32, width=64)
        modes = (
            ("teacher forcing", {"teacher_forcing": True}),
            ("free running", {"teacher_forcing": False}),
            ("free running, --detach", {"teacher_forcing": False, "detach": True}),
        )
        sizes = [(16, 1)] if a.quick else [(t, b) for t in (16, 32) for b in (1, 2, 8)]
        if a.sizes:
            sizes = [(int(t), int(b)) for t, b in (size.split(",") for size in a.sizes)]
        for length, batch in sizes:
            for name, mode in modes:
                case = Case(root, device, dims, length=length, batch=batch, **mode)
                usual, ours = case.compare(a.rounds)
                row = {
                    "mode": name,
                    "train_vi_len": length,
                    "batch": batch,
                    "usual": usual,
                    "ours": ours,
                    "ratio": ours / usual,
                    "kept_mib_per_frame": kept_per_frame(case),
                    "peak_mib_usual": peak_memory(device, case.usual),
                    "peak_mib_ours": peak_memory(device, case.ours),
                }
                result["training"].append(row)
                print(
                    f"T {length:>2} B {batch}  {name:<22} {usual:>6.1f} {ours:>7.1f} "
                    f"{ours / usual:>6.2f}× | {row['kept_mib_per_frame']:.1f}",
                    flush=True,
                )

        case = Case(root, device, dims, length=16, batch=1, teacher_forcing=False)
        usual, ours = validation_speed(case, 64, a.rounds)
        result["validation"] = {"usual": usual, "ours": ours, "ratio": ours / usual}
        print(
            f"\nvalidation rollout, frames/s: usual {usual:.1f}, ours {ours:.1f}, "
            f"ratio {ours / usual:.2f}"
        )
        result["split_ms"] = {}
        print("\nms of a step (T 16, B 1)      data  forward  backward  optimiser")
        for name, mode in modes:
            case = Case(root, device, dims, length=16, batch=1, **mode)
            split = split_of_a_step(case, a.rounds)
            result["split_ms"][name] = split
            print(f"{name:<26}" + "".join(f"{v:>9.1f}" for v in split.values()), flush=True)
        result["recompute"] = []
        print("\n--recompute (T 32, B 1)      frames/s without, with   MiB/frame without, with")
        for name, mode in modes:
            row: dict[str, Any] = {"mode": name, "frames_per_second": [], "mib_per_frame": []}
            for recompute in (False, True):
                case = Case(root, device, dims, length=32, batch=1, recompute=recompute, **mode)
                case.ours()
                seconds = statistics.median(timed(device, case.ours) for _ in range(a.rounds))
                row["frames_per_second"].append(case.frames_per_step / seconds)
                row["mib_per_frame"].append(kept_per_frame(case))
            result["recompute"].append(row)
            figures = "".join(
                f"{v:>12.2f}" for v in (*row["frames_per_second"], *row["mib_per_frame"])
            )
            print(f"{name:<22}{figures}", flush=True)
    result["gflops"] = arithmetic(device, a.rounds)
    print("\nfloat32, GFLOP/s: " + ", ".join(f"{n} {v:.0f}" for n, v in result["gflops"].items()))
    result["max_rss_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if a.json:
        a.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
