"""Kill tiny runs again and again, resume them, and compare them with uninterrupted ones.

    python tests/programs/campaign.py --kills 100

A run is Trainer.py's own command line, forked from this process, which has imported PyTorch once.
It is killed by SIGKILL, SIGTERM, SIGINT, SIGHUP or SIGUSR1: before a training step, before a file
is synced, before one is renamed, or at any moment. Then it is resumed, killed again, and at last
left to end. All that it leaves must equal, bit for bit, what an uninterrupted run leaves.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before PyTorch is imported, which cannot be forked otherwise

import argparse
import random
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

# PyTorch's optimisers import the second when they are first used: longer than such a run takes.
import torch._dynamo

import Trainer
from modules.training import TrainingStep
from tests.support.comparing import contents_of_run, same
from tests.support.data import make_dataset
from tests.support.scripts import TINY_RUN, figures_left_empty

# Between them: all optimisers, stored rollouts, every schedule, the detector, both ways of saving.
VARIANTS = (
    "--auto_save --optim AdamW --lr_scheduler cosine --tfr 0 --detector_patience 2 "
    "--detector_threshold 50",
    "--per_save 2 --tfr 0 --batch_size 3 --lr_scheduler multistep --kl_anneal_cycle 2",
    "--auto_save --optim Muon --ema 0.9 --rollout_every 1 --tfr 0.5 "
    "--frame_noise 0.1 --prior learned --augment shift --jump 0.3 --reference first",
)
KILLS_PER_RUN = 5
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
# Where a signal may come: what is called there, and how many calls a run has about.
PLACES: dict[str, tuple[object, str, int]] = {
    "step": (TrainingStep, "__call__", 8),
    "sync": (os, "fsync", 25),
    "rename": (os, "replace", 12),
}


def kill_here(number: signal.Signals, place: str, rng: random.Random) -> None:
    """Let this process kill itself at a random moment of this kind."""

    def kill() -> None:
        os.kill(os.getpid(), number)

    if place == "any":
        timer = threading.Timer(rng.uniform(0, 2), kill)
        timer.daemon = True
        timer.start()
        return
    owner, name, most = PLACES[place]
    whole: Callable[..., object] = getattr(owner, name)
    calls, chosen = iter(range(10**6)), rng.randrange(most)

    def wrapper(*arguments: object, **options: object) -> object:
        if next(calls) == chosen:
            kill()
        return whole(*arguments, **options)

    setattr(owner, name, wrapper)


def run(arguments: list[str], log: Path, prepare: Callable[[], None]) -> int:
    """Trainer.py in a fork of this process; its exit status, or minus the signal's number."""
    sys.stdout.flush()
    if pid := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    try:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for descriptor in (1, 2):
            os.dup2(output, descriptor)
        for number in SIGNALS[1:]:  # as from a terminal, however this program was started
            signal.signal(number, signal.SIG_DFL)
        sys.argv = ["Trainer.py", *arguments]
        prepare()
        Trainer.start()
    except SystemExit as end:
        os._exit(int(end.code or 0))
    except BaseException:
        traceback.print_exc()
    os._exit(1)


def killed_run(
    command: list[str], folder: Path, kills: int, rng: random.Random
) -> tuple[int, list[str]]:
    """Kill a run so many times, then let it end; signals that came, and what went wrong."""
    log, sent, faults = folder.with_suffix(".log"), 0, []
    for left in range(kills, -1, -1):
        started = (folder / "last.ckpt").exists()
        arguments = ["--save_root", str(folder), "--resume"] if started else command
        number, place = rng.choice(SIGNALS), rng.choice([*PLACES, "any"])
        kill = partial(kill_here, number, place, rng) if left else lambda: None
        status, text = run(arguments, log, kill), log.read_text()
        if status == 0:  # its last time, or it ended before the moment had come
            break
        sent += 1
        # Before and after training a signal does what it does to every program.
        saved = number != signal.SIGKILL and (place == "step" or status > 0)
        if not left or status != (128 + number if saved else -number) or "Traceback" in text:
            faults.append(f"{number.name} ({place}, {left} left) gave {status}: {text}")
        if not started and not (folder / "last.ckpt").exists():
            for path in folder.glob("*"):  # nothing has been trained: the user starts anew
                path.unlink()
    return sent, faults


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=100, help="signals to send in all (100)")
    o = parser.parse_args()
    torch.set_num_threads(1)
    rng, faults = random.Random(0), list[str]()
    runs = kills = survived = 0
    # What figures show is in metrics.csv.
    with figures_left_empty(), tempfile.TemporaryDirectory() as place:
        work = Path(place).resolve()
        data = make_dataset(work / "data", train=40, val=6, tests=())
        fixed = ["--DR", str(data), *TINY_RUN, "--precision", "float32", "--num_epoch", "3"]
        while kills < o.kills:
            variant, folder = runs % len(VARIANTS), work / f"run{runs}"
            command, whole = fixed + VARIANTS[variant].split(), work / f"whole{variant}"
            if not whole.exists():
                status = run([*command, "--save_root", str(whole)], work / "log", lambda: None)
                assert status == 0, (work / "log").read_text()
            command = [*command, "--save_root", str(folder)]
            sent, found = killed_run(command, folder, min(KILLS_PER_RUN, o.kills - kills), rng)
            if not found and not same(contents_of_run(folder), contents_of_run(whole)):
                found = ["differs from the uninterrupted run"]
            faults += [f"run {runs}: {fault}" for fault in found]
            runs, kills, survived = runs + 1, kills + sent, survived + (not found)
    print(*faults, f"{kills} kills: {survived} of {runs} runs equal the uninterrupted", sep="\n")
    return 0 if survived == runs else 1


if __name__ == "__main__":
    sys.exit(main())
