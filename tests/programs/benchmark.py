"""How fast training and validation are, against the usual loop on the same machine.

    python tests/programs/benchmark.py            # every size, and what --recompute costs and saves
    python tests/programs/benchmark.py --quick    # one size

Both sides alternate in one process, on the device that there is; each figure is the median over
rounds. The usual loop is tests/support/reference.py: frame by frame, with PyTorch's own settings
(float32, on recent CUDA cards in TF32), PNGs decoded in every epoch. The data set is the demo's,
made in a temporary folder.
"""

import argparse
import ctypes
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
from modules.checkpoint import RunState
from modules.cvae import CVAE, ModelConfig
from modules.data import TestSequence, VideoData, epoch_batches, to_unit
from modules.datasets.synthetic import make_demo
from modules.evaluation import generate
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
from modules.schedules import Plan
from modules.training import Shard, TrainingStep, draw_shard
from tests.support.reference import usual_loader, usual_rollout, usual_step

BETA = 0.001
MALLOC_MMAP_THRESHOLD = -3  # of mallopt(), from glibc's malloc.h


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
        *,
        teacher_forcing: bool,
        length: int,
        batch: int,
        recompute: bool = False,
    ) -> None:
        self.device, self.length, self.batch = device, length, batch
        self.frames_per_step = batch * (length - 1)
        o = TrainerOptions(
            DR=str(root),
            train_vi_len=length,
            batch_size=batch,
            recompute=recompute,
        )
        self.o, self.plan = o, Plan(BETA, float(teacher_forcing), teacher_forcing, 1e-3)
        torch.manual_seed(0)
        self.model = place(CVAE(ModelConfig()), device).train()
        sizes = {"height": 32, "width": 64, "train_vi_len": length, "val_vi_len": 630}
        data = dataloader.load_train_val(root, **sizes)[0]
        assert data is not None
        data = data.to(device)
        state = RunState(o, Path("unused"), self.model, data, data_root="", data_fingerprint="")
        self.step = TrainingStep(state, data)
        self.fast = GraphedStep(self.step, batch) if graphs_wanted(device) else self.step
        self.number = 0
        torch.manual_seed(0)
        self.usual_model = CVAE(ModelConfig()).to(device).train()
        self.usual_optimizer = torch.optim.Adam(self.usual_model.parameters(), lr=1e-3)
        self.loader = endless(usual_loader(root, length, (32, 64), batch, workers=2))

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

    def usual(self) -> None:
        """One training step of the usual loop's."""
        usual_step(
            *(self.usual_model, self.usual_optimizer),
            *(x.to(self.device) for x in next(self.loader)),
            teacher_forcing=self.plan.teacher_forcing,
            beta=BETA,
        )

    def compare(self, rounds: int) -> tuple[float, float]:
        """Frames/s of (the usual loop, ours), alternating; medians."""
        usual, ours = alternate(self.device, self.usual, self.ours, rounds)
        return self.frames_per_step / usual, self.frames_per_step / ours


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


MODES: dict[str, dict[str, bool]] = {
    "teacher forcing": {"teacher_forcing": True},
    "free running": {"teacher_forcing": False},
}


def compare(root: Path, device: torch.device, sizes: list[tuple[int, int]], rounds: int) -> None:
    """Print frames/s of training at these (train_vi_len, batch), and of a validation."""
    print("training, frames/s             usual    ours   ratio")
    for length, batch in sizes:
        for name, mode in MODES.items():
            case = Case(root, device, length=length, batch=batch, **mode)
            usual, ours = case.compare(rounds)
            print(
                f"T {length:>2} B {batch}  {name:<22} {usual:>6.1f} {ours:>7.1f} "
                f"{ours / usual:>6.2f}×",
                flush=True,
            )
    usual, ours = validation_speed(case, 64, rounds)
    print(f"validation rollout             {usual:>6.1f} {ours:>7.1f} {ours / usual:>6.2f}×")


def recomputed(root: Path, device: torch.device, rounds: int) -> None:
    """Print what --recompute costs and saves."""
    print("\n--recompute (T 32, B 1)      frames/s without, with   MiB/frame without, with")
    for name, mode in MODES.items():
        speeds, kept = [], []
        for recompute in (False, True):
            case = Case(root, device, length=32, batch=1, recompute=recompute, **mode)
            case.ours()
            seconds = statistics.median(timed(device, case.ours) for _ in range(rounds))
            speeds.append(case.frames_per_step / seconds)
            kept.append(kept_per_frame(case))
        print(f"{name:<22}" + "".join(f"{v:>12.2f}" for v in (*speeds, *kept)), flush=True)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3, help="steps of each side per case (3)")
    parser.add_argument("--quick", action="store_true", help="train_vi_len 16 and batch 1 only")
    parser.add_argument(
        "--sizes", nargs="+", metavar="T,B", help="train_vi_len and batch of the cases (all six)"
    )
    a = parser.parse_args(arguments)
    device = choose_device("auto")
    set_up(device, "auto")
    print(f"{describe(device, choose_precision('auto', device))}, PyTorch {torch.__version__}")
    sizes = [(16, 1)] if a.quick else [(t, b) for t in (16, 32) for b in (1, 2, 8)]
    if a.sizes:
        sizes = [(int(t), int(b)) for t, b in (size.split(",") for size in a.sizes)]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "data"
        make_demo(root, train=400, val=64, test=1, seed=0, height=32, width=64)
        compare(root, device, sizes, a.rounds)
        if not a.quick:
            recomputed(root, device, a.rounds)


if __name__ == "__main__":
    main()
