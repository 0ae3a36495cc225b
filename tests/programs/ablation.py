"""The ablation: usual recipes, the recipe of `--preset best`, and that recipe less one ingredient.

    python tests/programs/ablation.py --DR ROOT/mocap_dance              # every row, two seeds
    python tests/programs/ablation.py --DR ROOT/mocap_dance --rows best adam
    python tests/programs/ablation.py --DR loo/0 loo/1 loo/2 loo/3 --scale 12 --rows best

Each row is one command line of Trainer.py. The seeds of a row run side by side, each on one thread
of a core of its own; rows follow one another, and a run that is complete is not run again. The
numbers of epochs are such that all rows take about the same time on one core with the 4,486
training frames of mocap_dance; --scale multiplies them for data of another size. With several data
sets a row is trained on each, and its figures are means over them. Prints the command lines, then a
table: validation PSNR (free running, prior latents) of the best and of the last epoch, mean over
the seeds and half their range, and the processor time, which other work on the machine disturbs
less than the clock. Options after `--` go to every run.
"""

import argparse
import csv
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import NamedTuple

PROJECT = Path(__file__).resolve().parents[2]

# A ninth of the full networks' arithmetic, so that a run takes minutes on one core.
DIMENSIONS = "--F_dim 32 --L_dim 28 --N_dim 4 --D_out_dim 64"
USUAL = f"{DIMENSIONS} --output sigmoid --num_epoch 3 --auto_save"
BEST = f"{DIMENSIONS} --preset best --num_epoch 5"
FORCED = "--tfr 1 --rollout_every 0 --jump 0"


class Row(NamedTuple):
    """What the table calls a row, and Trainer.py's options for it."""

    text: str
    options: str


ROWS = {
    "best": Row("`--preset best`", BEST),
    "video": Row("`--preset video`", f"{DIMENSIONS} --preset video --num_epoch 5"),
    "adam": Row("Adam (rate 0.003) instead of Muon", f"{BEST} --optim Adam --lr 0.003"),
    "no_jump": Row("no jumps", f"{BEST} --jump 0"),
    "no_own": Row("no stored predictions of the model itself", f"{BEST} --tfr 1 --rollout_every 0"),
    "no_noise": Row("no noise", f"{BEST} --frame_noise 0"),
    "noise_1": Row("noise up to 1 instead of 0.3", f"{BEST} --frame_noise 1"),
    "noise_alone": Row(
        "true frames with noise up to 1, neither jumps nor stored predictions",
        f"{BEST} {FORCED} --frame_noise 1",
    ),
    "true_frames": Row(
        "true frames alone: no noise, jumps or stored predictions",
        f"{BEST} {FORCED} --frame_noise 0",
    ),
    "no_ema": Row("no average of the weights", f"{BEST} --ema 0"),
    "clips": Row(
        "clips of 16 frames, batch 1, instead of 2, batch 8",
        f"{BEST} --train_vi_len 16 --batch_size 1 --num_epoch 3",
    ),
    "beta_1": Row("β = 1 instead of 0.001", f"{BEST} --kl_beta 1"),
    "latent_12": Row("a latent of 12 channels instead of 4", f"{BEST} --N_dim 12"),
    "usual_free": Row(
        "usual: free running, KL rising to β = 1, Adam, cosine, sigmoid",
        f"{USUAL} --tfr 0 --kl_anneal_type Monotonic --lr_scheduler cosine",
    ),
    "usual_forced": Row(
        "usual: teacher forcing 1 → 0, Cyclical, Adam, one rate, sigmoid",
        # A third of an epoch counts as one here, so that the ratio can fall in nine steps.
        f"{USUAL} --fast_train --fast_partial 0.33 --fast_train_epoch 9 --num_epoch 9"
        " --tfr_sde 3 --tfr_d_step 0.25 --kl_anneal_cycle 3",
    ),
    "usual_no_kl": Row(
        "usual: free running, no KL term, Adam, cosine, sigmoid",
        f"{USUAL} --tfr 0 --kl_anneal_type None --kl_beta 0 --lr_scheduler cosine",
    ),
}


class Result(NamedTuple):
    """Of one run: dB of its best and its last validation, epochs, seconds of processor time."""

    best: float
    last: float
    epochs: int
    processor: float


def command(
    row: str, data: str, run: Path, seed: int, extra: Sequence[str], scale: float = 1.0
) -> list[str]:
    """Trainer.py's command line of a row's run; scale: of its number of epochs."""
    options = shlex.split(ROWS[row].options)
    if scale != 1.0:
        place = len(options) - options[::-1].index("--num_epoch")
        options[place] = str(max(1, round(scale * int(options[place]))))
    where = ["--DR", data, "--save_root", str(run), "--seed", str(seed)]
    return ["Trainer.py", *where, *options, *extra]


def folder(root: Path, row: str, seed: int, data: str, several: bool) -> Path:
    """Of a run: ROW_SEED, or with several data sets ROW_SEED_DATA."""
    return root / (f"{row}_{seed}_{Path(data).name}" if several else f"{row}_{seed}")


def train(
    row: str, runs: dict[Path, tuple[str, int]], extra: Sequence[str], scale: float = 1.0
) -> None:
    """The row's runs that are not complete, one core each; their times go to time.json.

    runs: the folder of each, with its data set and seed

    Raises SystemExit when a run fails.
    """
    started: dict[Path, subprocess.Popen[bytes]] = {}
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    for place, (run, (data, seed)) in enumerate(runs.items()):
        if (run / "time.json").exists():
            continue
        line = command(row, data, run, seed, extra, scale)
        print("python " + shlex.join(line), flush=True)
        with run.with_name(f"{run.name}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, str(PROJECT / line[0]), *line[1:]],
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
            )
        if cores:
            os.sched_setaffinity(process.pid, {cores[place % len(cores)]})
        started[run] = process
    while started:
        time.sleep(0.2)
        for run, process in list(started.items()):
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid == 0:
                continue
            del started[run]
            process.returncode = os.waitstatus_to_exitcode(status)  # wait4 took it from Popen
            if process.returncode != 0:
                for other in started.values():
                    other.terminate()  # it saves its step
                sys.exit(f"error: {run.name} failed; see {run}.log")
            seconds = {"processor": usage.ru_utime + usage.ru_stime}
            (run / "time.json").write_text(json.dumps(seconds) + "\n")


def result(run: Path) -> Result:
    """What a complete run has in its folder."""
    with (run / "metrics.csv").open(newline="") as file:
        psnr = [float(row["val_psnr"]) for row in csv.DictReader(file)]
    seconds = json.loads((run / "time.json").read_text())
    return Result(max(psnr), psnr[-1], len(psnr), seconds["processor"])


def spread(values: Sequence[float]) -> str:
    """Mean and half the range: `32.50 ± 0.11`."""
    return f"{mean(values):.2f} ± {(max(values) - min(values)) / 2:.2f}"


def table(rows: dict[str, dict[int, list[Path]]]) -> str:
    """A Markdown table of the rows whose runs are complete.

    rows: of each row and seed, the folders of its runs, one for each data set
    """
    lines = [
        "| recipe | best epoch, dB | last epoch, dB | epochs | minutes of one core |",
        "|---|---|---|---|---|",
    ]
    for row, by_seed in rows.items():
        runs = [run for several in by_seed.values() for run in several]
        if not all((run / "time.json").exists() for run in runs):
            continue
        results = [[result(run) for run in several] for several in by_seed.values()]
        best, last = ([mean(getattr(r, n) for r in s) for s in results] for n in ("best", "last"))
        minutes = mean(sum(r.processor for r in several) for several in results) / 60
        lines.append(
            f"| {ROWS[row].text} | {spread(best)} | {spread(last)} | {results[0][0].epochs} "
            f"| {minutes:.1f} |"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the rows and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--DR", required=True, nargs="+", help="data set roots")
    parser.add_argument("--save_root", default="runs/ablation", help="folder of the runs")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), help="which rows")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1], help="a run for each")
    parser.add_argument("--scale", type=float, default=1.0, help="times the rows' epochs (1)")
    parser.add_argument("extra", nargs="*", help="after --: options for every run")
    given = parser.parse_args(arguments)
    root, several = Path(given.save_root), len(given.DR) > 1
    root.mkdir(parents=True, exist_ok=True)
    rows: dict[str, dict[int, list[Path]]] = {}
    for row in given.rows:
        rows[row] = {seed: [] for seed in given.seeds}
        for data in given.DR:  # the seeds side by side
            runs = {folder(root, row, s, data, several): (data, s) for s in given.seeds}
            train(row, runs, given.extra, given.scale)
            for run, (_, seed) in runs.items():
                rows[row][seed].append(run)
    print(table(rows))


if __name__ == "__main__":
    main()
