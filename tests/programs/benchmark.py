"""How fast training and validation are, against the usual loop on the same machine.

    python tests/programs/benchmark.py            # every size
    python tests/programs/benchmark.py --quick    # one size

Both sides alternate in one process, on the device that there is; each figure is the median over
rounds. The usual loop is tests/support/reference.py: frame by frame, with PyTorch's own settings
(float32, on recent CUDA cards in TF32), PNGs decoded in every epoch. The data set is the demo's,
made in a temporary folder.
"""

import argparse
import ctypes
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.utils.data import DataLoader

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import dataloader
from modules.cvae import CVAE
from modules.data import TestSequence, to_unit
from modules.datasets.synthetic import make_demo
from modules.evaluation import generate
from modules.runtime import device as runtime
from tests.programs.kernels import Run, new_run, take
from tests.support.reference import ClipFolder, usual_rollout, usual_step

MALLOC_MMAP_THRESHOLD = -3  # of mallopt(), from glibc's malloc.h
SIZE = {"height": 32, "width": 64}
MODES = {"teacher forcing": True, "free running": False}


def usual_memory() -> None:
    """Give memory back to the system as a process does that has not been told otherwise.

    The Trainer keeps freed memory (modules/runtime/device.py); the usual loop does not. The
    thresholds are those that glibc reaches by itself in a process with large tensors.
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        libc.mallopt(runtime.MALLOC_MMAP_MAX, 65536)
        libc.mallopt(MALLOC_MMAP_THRESHOLD, 2**25)
        libc.mallopt(runtime.MALLOC_TRIM_THRESHOLD, 2**26)
        libc.mallopt(runtime.MALLOC_TOP_PAD, 2**17)
        libc.malloc_trim(0)


def timed(work: Callable[[], object]) -> float:
    """Seconds of a piece of work, which itself waits for the device."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def alternate(
    usual: Callable[[], object], ours: Callable[[], object], rounds: int, frames: int
) -> tuple[float, float]:
    """Frames/s of each side, in turn; medians. frames: that one call makes.

    Each call that counts follows one that does not, with the same side's memory settings: in the
    midst of training, not at its start.
    """
    times: tuple[list[float], list[float]] = ([], [])
    sides = ((usual, usual_memory, times[0]), (ours, runtime.keep_freed_memory, times[1]))
    for _ in range(rounds):
        for work, set_memory, taken in sides:
            set_memory()
            work()
            taken.append(timed(work))
    return frames / statistics.median(times[0]), frames / statistics.median(times[1])


def usual_side(root: Path, run: Run, forced: bool) -> tuple[CVAE, Callable[[], object]]:
    """The usual loop's model, and one of its training steps."""
    device, o = run.data.frames.device, run.state.o
    torch.manual_seed(0)
    model = CVAE(run.state.model.config).to(device).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    clips = ClipFolder(root, o.train_vi_len, (32, 64))
    loader = DataLoader(clips, o.batch_size, shuffle=True, num_workers=2, persistent_workers=True)
    batches = itertools.chain.from_iterable(itertools.repeat(loader))

    def step() -> None:
        frames, labels = (x.to(device) for x in next(batches))
        usual_step(model, optimizer, frames, labels, forced=forced, beta=0.001)

    return model, step


def validation_speed(run: Run, usual_model: CVAE, frames: int, rounds: int) -> tuple[float, float]:
    """Frames/s of a validation rollout: (the usual loop, ours)."""
    device = run.data.frames.device
    video = run.data.frames[:frames], run.data.labels[:frames]
    sequence = TestSequence("0", video[0][0].cpu(), video[1].cpu())
    precision = runtime.choose_precision("auto", device)
    given = [to_unit(x).permute(0, 3, 1, 2).contiguous() for x in video]
    usual_model.eval()
    return alternate(
        lambda: usual_rollout(usual_model, *given).cpu(),
        lambda: generate(run.state.model, [sequence], seed=0, device=device, precision=precision),
        rounds,
        frames - 1,
    )


def compare(root: Path, device: torch.device, sizes: list[str], rounds: int) -> None:
    """Print frames/s of training at these sizes, and of a validation."""
    print("training, frames/s             usual    ours   ratio")
    for length, batch in (map(int, size.split(",")) for size in sizes):
        data, _ = dataloader.load_train_val(root, **SIZE, train_vi_len=length, val_vi_len=630)
        assert data is not None
        for name, forced in MODES.items():
            run = new_run(data.to(device), train_vi_len=length, batch_size=batch)
            model, step = usual_side(root, run, forced)
            numbers = itertools.count()
            usual, ours = alternate(
                step,
                lambda r=run, f=forced, n=numbers: take(r, f, 1, first=next(n)),
                rounds,
                batch * (length - 1),
            )
            size = f"T {length:>2} B {batch}  {name:<22}"
            print(f"{size} {usual:>6.1f} {ours:>7.1f} {ours / usual:>6.2f}×", flush=True)
    usual, ours = validation_speed(run, model, 64, rounds)
    print(f"validation rollout             {usual:>6.1f} {ours:>7.1f} {ours / usual:>6.2f}×")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3, help="steps of each side per case (3)")
    parser.add_argument("--quick", action="store_true", help="train_vi_len 16 and batch 1 only")
    sizes = [f"{length},{batch}" for length in (16, 32) for batch in (1, 2, 8)]
    help_ = "train_vi_len and batch of the cases (all six)"
    parser.add_argument("--sizes", nargs="+", metavar="T,B", default=sizes, help=help_)
    a = parser.parse_args()
    device = runtime.choose_device("auto")
    runtime.set_up(device, "auto")
    described = runtime.describe(device, runtime.choose_precision("auto", device))
    print(f"{described}, PyTorch {torch.__version__}")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "data"
        make_demo(root, train=400, val=64, test=1, seed=0, **SIZE)
        compare(root, device, ["16,1"] if a.quick else a.sizes, a.rounds)


if __name__ == "__main__":
    main()
