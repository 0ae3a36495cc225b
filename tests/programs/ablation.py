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
from pathlib import Path
from statistics import mean
from typing import NamedTuple

PROJECT = Path(__file__).resolve().parents[2]

# A ninth of the full networks' arithmetic, so that a run takes minutes on one core.
DIMENSIONS = "--F_dim 32 --L_dim 28 --N_dim 4 --D_out_dim 64"
BEST = f"{DIMENSIONS} --preset best"
FORCED = f"{BEST} --tfr 1 --rollout_every 0 --jump 0"


class Row(NamedTuple):
    """What the table calls a row, and Trainer.py's options for it."""

    text: str
    options: str
    epochs: int = 5


ROWS = {
    "best": Row("`--preset best`", BEST),
    "video": Row("`--preset video`", f"{DIMENSIONS} --preset video"),
    "adam": Row("Adam (rate 0.003) instead of Muon", f"{BEST} --optim Adam --lr 0.003"),
    "no_own": Row("no stored predictions of the model itself", f"{BEST} --tfr 1 --rollout_every 0"),
    "noise_alone": Row(
        "true frames with noise up to 1, neither jumps nor stored predictions",
        f"{FORCED} --frame_noise 1",
    ),
    "true_frames": Row(
        "true frames alone: no noise, jumps or stored predictions", f"{FORCED} --frame_noise 0"
    ),
    "no_ema": Row("no average of the weights", f"{BEST} --ema 0"),
    "clips": Row(
        "clips of 16 frames, batch 1, instead of 2, batch 8",
        f"{BEST} --train_vi_len 16 --batch_size 1",
    ),
    "beta_1": Row("β = 1 instead of 0.001", f"{BEST} --kl_beta 1"),
    "usual_free": Row(
        "usual: free running, KL rising to β = 1, Adam, cosine, sigmoid",
        f"{DIMENSIONS} --output sigmoid --auto_save --tfr 0 --kl_anneal_type Monotonic"
        " --lr_scheduler cosine",
        epochs=3,
    ),
}


def command(
    row: str, data: str, run: Path, seed: int, extra: list[str], scale: float = 1.0
) -> list[str]:
    """Trainer.py's command line of a row's run; scale: of its number of epochs."""
    where = ["--DR", data, "--save_root", str(run), "--seed", str(seed)]
    epochs = max(1, round(scale * ROWS[row].epochs))
    options = shlex.split(ROWS[row].options)
    return ["Trainer.py", *where, *options, "--num_epoch", str(epochs), *extra]


def train(commands: dict[Path, list[str]]) -> None:
    """Runs by their folders, one core each, those that are complete left out; times to time.json.

    Raises SystemExit when a run fails.
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    started = {}
    for place, (run, line) in enumerate(commands.items()):
        if (run / "time.json").exists():
            continue
        print("python " + shlex.join(line), flush=True)
        with run.with_name(f"{run.name}.log").open("wb") as log:
            started[run] = subprocess.Popen(
                [sys.executable, str(PROJECT / line[0]), *line[1:]],
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
            )
        if cores:
            os.sched_setaffinity(started[run].pid, {cores[place % len(cores)]})
    failed = []
    for run, process in started.items():
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)  # wait4 took it from Popen
        if process.returncode != 0:
            failed.append(f"{run.name} failed; see {run}.log")
            continue
        seconds = {"processor": usage.ru_utime + usage.ru_stime}
        (run / "time.json").write_text(json.dumps(seconds) + "\n")
    if failed:
        sys.exit("error: " + ", ".join(failed))


def spread(values: list[float]) -> str:
    """Mean and half the range: `32.50 ± 0.11`."""
    return f"{mean(values):.2f} ± {(max(values) - min(values)) / 2:.2f}"


def table(rows: dict[str, list[list[Path]]]) -> str:
    """A Markdown table of the rows.

    rows: of each row and seed, the folders of its runs, one for each data set
    """
    lines = [
        "| recipe | best epoch, dB | last epoch, dB | epochs | minutes of one core |",
        "|---|---|---|---|---|",
    ]
    for row, by_seed in rows.items():
        best, last, minutes = [], [], []
        for runs in by_seed:
            psnrs = []
            for run in runs:
                with (run / "metrics.csv").open(newline="") as file:
                    psnrs.append([float(line["val_psnr"]) for line in csv.DictReader(file)])
            best.append(mean(max(psnr) for psnr in psnrs))
            last.append(mean(psnr[-1] for psnr in psnrs))
            times = [json.loads((run / "time.json").read_text())["processor"] for run in runs]
            minutes.append(sum(times) / 60)
        lines.append(
            f"| {ROWS[row].text} | {spread(best)} | {spread(last)} | {len(psnrs[0])} "
            f"| {mean(minutes):.1f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--DR", required=True, nargs="+", help="data set roots")
    parser.add_argument("--save_root", default="runs/ablation", help="folder of the runs")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), help="which rows")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1], help="a run for each")
    parser.add_argument("--scale", type=float, default=1.0, help="times the rows' epochs (1)")
    parser.add_argument("extra", nargs="*", help="after --: options for every run")
    given = parser.parse_args()
    root = Path(given.save_root)
    root.mkdir(parents=True, exist_ok=True)
    rows: dict[str, list[list[Path]]] = {}
    for row in given.rows:
        rows[row] = [[] for _ in given.seeds]
        for data in given.DR:  # the seeds side by side
            commands = {}
            for seed, runs in zip(given.seeds, rows[row], strict=True):
                several = f"_{Path(data).name}" if len(given.DR) > 1 else ""
                run = root / f"{row}_{seed}{several}"
                commands[run] = command(row, data, run, seed, given.extra, given.scale)
                runs.append(run)
            train(commands)
    print(table(rows))


if __name__ == "__main__":
    main()
