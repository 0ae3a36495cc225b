"""How fast training and validation are, against the usual loop on the same machine.

    python tests/programs/benchmark.py                        # the full table, full dimensions
    python tests/programs/benchmark.py --quick                # two cases, to see if it works
    python tests/programs/benchmark.py --json benchmark.json  # the same numbers for programs

Both sides alternate in one process, on the device that there is; each figure is the median over
rounds. Whole epochs are timed once, and apart from them the start-up and each side's first step.
The usual loop is tests/support/reference.py: frame by frame, with PyTorch's own settings (float32,
on recent CUDA cards in TF32; the table says which), PNGs decoded in every epoch. The data set is
the demo's, made in a temporary folder.
"""

import argparse
import ctypes
import gc
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import dataloader
from modules.checkpoint import Position, RunState
from modules.cvae import CVAE, ModelConfig
from modules.data import Clips, TestSequence, VideoData, epoch_batches, load_clips, to_unit
from modules.datasets.synthetic import make_demo
from modules.evaluation import generate, validate
from modules.options import TrainerOptions
from modules.runtime.device import (
    MALLOC_MMAP_MAX,
    MALLOC_TOP_PAD,
    MALLOC_TRIM_THRESHOLD,
    choose_device,
    choose_precision,
    describe,
    keep_freed_memory,
    place,
    set_up,
)
from modules.runtime.graphs import GraphedStep, graphs_wanted
from modules.runtime.signals import Watch
from modules.schedules import Plan
from modules.training import Shard, TrainingStep, draw_shard, train_epoch
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
        self.state = state
        self.step = TrainingStep(state, data)
        self.fast = GraphedStep(self.step, batch) if graphs_wanted(device) else self.step
        self.number = 0
        torch.manual_seed(0)
        self.usual_model = CVAE(config).to(device).train()
        self.usual_optimizer = torch.optim.Adam(self.usual_model.parameters(), lr=1e-3)
        self.loader = endless(usual_loader(root, length, (32, 64), batch, workers))

    def ours(self) -> None:
        """One training step of the Trainer's."""
        self.fast(self.part(self.number), teacher_forcing=self.plan.teacher_forcing)
        self.number += 1

    def eager(self) -> None:
        """The same step, never as a CUDA graph."""
        self.step(self.part(0), teacher_forcing=self.plan.teacher_forcing)

    def part(self, number: int) -> Shard:
        """A step's clips with their random numbers."""
        starts = epoch_batches(self.o, self.step.data, number)[0]
        kind = {"latent": self.model.config.latent_shape, "epoch": 0, "number": number}
        return draw_shard(self.o, self.plan, starts, **kind)

    def our_epoch(self) -> None:
        """All steps of an epoch, as the Trainer runs them; it waits for the device at the end."""
        self.state.position, self.state.plan = Position(self.state.position.epoch), self.plan
        train_epoch(self.state, self.step.data, self.fast, Watch())
        self.state.sums.start_epoch()

    def usual_epoch(self, loader: Any) -> None:
        """One pass over the usual loop's loader."""
        for batch in loader:
            self._usual_step(*(x.to(self.device) for x in batch))

    def usual(self) -> None:
        """One training step of the usual loop's."""
        self._usual_step(*(x.to(self.device) for x in next(self.loader)))

    def _usual_step(self, frames: torch.Tensor, labels: torch.Tensor) -> None:
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


def peak_memory(device: torch.device, work: Callable[[], object]) -> dict[str, float] | None:
    """MiB that some first steps take beyond what was there, on CUDA; None elsewhere.

    "used" is what tensors take at once, at most; "held" what PyTorch keeps of the device for them.
    work: must not have run before. A graph takes its memory when it is captured; a replay, which
    allocates nothing, would be measured as 0.
    """
    if device.type != "cuda":
        return None
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device), torch.cuda.memory_reserved(device)
    for _ in range(2):  # with the optimiser's state, and a replay
        work()
    synchronise(device)
    after = torch.cuda.max_memory_allocated(device), torch.cuda.max_memory_reserved(device)
    used, held = ((b - a) / 2**20 for a, b in zip(before, after, strict=True))
    return {"used": used, "held": held}


def arithmetic_of_the_usual_loop(device: torch.device) -> str:
    """What the usual loop's convolutions are computed in."""
    tensor_cores = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
    if tensor_cores and torch.backends.cudnn.allow_tf32:  # PyTorch's default
        return "float32 in TF32 (10 bits of 23)"
    return "float32"


def kept_per_frame(case: Case) -> float:
    """MiB that the forward pass keeps for the backward pass, per predicted frame; any device."""
    storages: dict[int, torch.UntypedStorage] = {}
    weights = {p.untyped_storage().data_ptr() for p in case.model.parameters()}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            storages[storage.data_ptr()] = storage
        return tensor

    # Eagerly: the replay of a graph calls no hooks. In this thread: the one that PyTorch starts for
    # a GPU may let go of the hooks later than backward() returns, while the process ends, and a
    # thread that then asks for Python's lock is ended with all of the process (status -6).
    with (
        torch.autograd.set_multithreading_enabled(False),
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
    ):
        case.eager()
    return sum(s.nbytes() for s in storages.values()) / 2**20 / case.frames_per_step


def split_of_a_step(case: Case, rounds: int) -> dict[str, float]:
    """Milliseconds of data, forward, backward and optimiser, each waited for; medians."""
    step, model, device = case.step, case.model, case.device
    from modules.runtime.device import autocast

    parts: dict[str, list[float]] = {"data": [], "forward": [], "backward": [], "optimiser": []}
    held: dict[str, Any] = {}

    def data() -> None:
        starts = epoch_batches(case.o, step.data, 0)[0]
        draws = case.part(0).draws
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
        case.state.optimizer.zero_grad(set_to_none=True)
        held["loss"].backward()

    def optimiser() -> None:
        torch.nn.utils.clip_grad_norm_(step.update.parameters, 1.0)
        case.state.optimizer.found_inf = torch.zeros((), device=device)  # type: ignore[attr-defined]
        case.state.optimizer.step()

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
        generate(case.model, [sequence], seed=0, device=device, precision=precision)

    case.usual_model.eval()
    usual, ours = alternate(device, usual_once, our_once, rounds)
    case.usual_model.train()
    return (frames - 1) / usual, (frames - 1) / ours


def start_up(root: Path, device: torch.device, dims: dict[str, int]) -> float:
    """Seconds of the Trainer from the command line to the first step: imports, data, model."""
    sizes = [part for name, value in dims.items() for part in (f"--{name}", str(value))]
    command = ["Trainer.py", "--DR", str(root), "--save_root", str(root.parent / "run"), *sizes]
    repository = Path(__file__).resolve().parents[2]
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, *command, "--device", device.type, "--dry_run"],
        cwd=repository,
        stdout=subprocess.DEVNULL,
        check=True,
    )
    return time.perf_counter() - began


def whole_epochs(root: Path, device: torch.device, dims: dict[str, int], mode: Any) -> Any:
    """Seconds of an epoch with its validation, and of the first step, of both sides.

    The first step, in which kernels are chosen and a graph is captured, is not part of the epoch.
    T 16, B 2, Trainer.py's defaults; the usual loop's epoch decodes its images, as it does.
    """
    case = Case(root, device, dims, length=16, batch=2, **mode)
    video = VideoData(*(x[:64].cpu() for x in (case.step.data.frames, case.step.data.labels)), ())
    kind = {"seed": 0, "device": device, "precision": case.step.precision}
    floats = [
        to_unit(x).permute(0, 3, 1, 2).contiguous().to(device) for x in (video.frames, video.labels)
    ]
    loader = usual_loader(root, 16, (32, 64), 2, 2)
    for _ in loader:  # its workers start
        break

    def usual_validation() -> None:
        case.usual_model.eval()
        usual_rollout(case.usual_model, *floats)
        case.usual_model.train()

    def our_validation() -> None:
        validate(case.model, video, **kind)

    row: dict[str, Any] = {"frames": 15 * sum(map(len, epoch_batches(case.o, case.step.data, 0)))}
    for name, memory, step, epoch, validation in (
        ("usual", usual_memory, case.usual, lambda: case.usual_epoch(loader), usual_validation),
        ("ours", keep_freed_memory, case.ours, case.our_epoch, our_validation),
    ):
        if device.type == "cpu":
            memory()
        first, second = timed(device, step), timed(device, step)
        row[name] = {
            "first_step": first,
            "step": second,
            "training": timed(device, epoch),
            "validation": timed(device, validation),
        }
    return row


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
    result["usual_arithmetic"] = arithmetic_of_the_usual_loop(device)
    print(f"{result['device']}, PyTorch {torch.__version__}, {dims}")
    print(f"usual loop: {result['usual_arithmetic']}\n")
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
                peaks = [peak_memory(device, work) for work in (case.usual, case.ours)]
                usual, ours = case.compare(a.rounds)
                row = {
                    "mode": name,
                    "train_vi_len": length,
                    "batch": batch,
                    "usual": usual,
                    "ours": ours,
                    "ratio": ours / usual,
                    "kept_mib_per_frame": kept_per_frame(case),
                    "peak_mib_usual": peaks[0],
                    "peak_mib_ours": peaks[1],
                }
                result["training"].append(row)
                print(
                    f"T {length:>2} B {batch}  {name:<22} {usual:>6.1f} {ours:>7.1f} "
                    f"{ours / usual:>6.2f}× | {row['kept_mib_per_frame']:.1f}",
                    flush=True,
                )
                if peaks[0] and peaks[1]:
                    print(
                        f"{'':<12}GPU memory, MiB used / held: usual {peaks[0]['used']:.0f} / "
                        f"{peaks[0]['held']:.0f}, ours {peaks[1]['used']:.0f} / "
                        f"{peaks[1]['held']:.0f}",
                        flush=True,
                    )

        case = Case(root, device, dims, length=16, batch=1, teacher_forcing=False)
        usual, ours = validation_speed(case, 64, a.rounds)
        result["validation"] = {"usual": usual, "ours": ours, "ratio": ours / usual}
        print(
            f"\nvalidation rollout, frames/s: usual {usual:.1f}, ours {ours:.1f}, "
            f"ratio {ours / usual:.2f}"
        )
        result["start_up"] = start_up(root, device, dims)
        print(f"\nstart-up of Trainer.py (imports, data, model): {result['start_up']:.1f} s")
        result["epochs"] = {}
        short = Path(folder) / "short"
        make_demo(short, train=96, val=64, test=1, seed=0, height=32, width=64)
        print("\nan epoch (T 16, B 2), s           first step   a step   training  validation")
        for name, mode in modes[:2]:
            epoch = whole_epochs(short if a.quick else root, device, dims, mode)
            result["epochs"][name] = epoch
            for side in ("usual", "ours"):
                figures = "".join(f"{v:>11.2f}" for v in epoch[side].values())
                label = f"{name}, {side}, {epoch['frames']} frames"
                print(f"{label:<35}{figures}", flush=True)
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
    print(
        f"\n{result['usual_arithmetic']}, GFLOP/s: "
        + ", ".join(f"{n} {v:.0f}" for n, v in result["gflops"].items())
    )
    result["max_rss_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if a.json:
        a.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
