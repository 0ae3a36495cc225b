"""--resume if_any: one command for a job that its scheduler starts again and again."""

import errno
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from modules import runlog
from tests.support.comparing import comparable, metrics_without_time, same
from tests.support.disks import named, refusing
from tests.support.documents import text_of
from tests.support.scripts import TINY_RUN, assert_refused, run_script
from tests.support.stepping import at_step

pytestmark = pytest.mark.usefixtures("no_figures")


def job(dataset: Path, run: Path, *more: str | Path) -> subprocess.CompletedProcess[str]:
    """The command that is typed once and run as often as it takes."""
    typed = ("--DR", dataset, "--save_root", run, *TINY_RUN, "--num_epoch", "2", "--auto_save")
    return run_script("Trainer.py", *typed, "--resume", "if_any", *more)


def test_the_same_command_starts_resumes_and_ends(dataset: Path, tmp_path: Path) -> None:
    run, whole = tmp_path / "run", tmp_path / "whole"
    for step in (1, 2):
        with at_step(step, lambda: os.kill(os.getpid(), signal.SIGTERM)):
            assert job(dataset, run).returncode == 143
    resumed = job(dataset, run)
    assert resumed.returncode == 0, resumed.stderr
    assert "resuming in epoch 1 after 2 steps" in resumed.stdout
    assert job(dataset, whole).returncode == 0
    assert metrics_without_time(run / "metrics.csv") == metrics_without_time(whole / "metrics.csv")
    assert same(comparable(run / "last.ckpt")["state_dict"],
                comparable(whole / "last.ckpt")["state_dict"])  # fmt: skip
    assert_refused(job(dataset, run, "--lr", "0.5"), "--lr 0.001 → 0.5")
    done = job(dataset, run)
    assert (done.returncode, done.stderr) == (0, "")
    assert "nothing to do: all 2 epochs are done" in done.stdout


def test_what_a_run_without_a_checkpoint_left_is_not_written_over(
    dataset: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    assert job(dataset, run).returncode == 0
    before = (run / "metrics.csv").read_bytes()
    for name in ("last.ckpt", "last.prev.ckpt"):
        (run / name).unlink()
    assert_refused(job(dataset, run), "metrics.csv belongs to a run without a checkpoint")
    assert (run / "metrics.csv").read_bytes() == before


def test_fine_tuning_starts_from_the_weights_once(dataset: Path, tmp_path: Path) -> None:
    first, run = tmp_path / "first", tmp_path / "run"
    assert job(dataset, first).returncode == 0
    weights = ("--ckpt_path", first / "best.ckpt")
    with at_step(1, lambda: os.kill(os.getpid(), signal.SIGTERM)):
        started = job(dataset, run, *weights)
    assert started.returncode == 143, started.stderr
    assert runlog.read_config(run)["parent"]["run"] == str(first)
    (first / "best.ckpt").unlink()  # not needed any more
    resumed = job(dataset, run, *weights)
    assert resumed.returncode == 0, resumed.stderr
    assert "after 2 steps" in resumed.stdout
    assert runlog.read_config(run)["parent"]["run"] == str(first)


def test_what_it_needs(tmp_path: Path) -> None:
    assert_refused(run_script("Trainer.py", "--resume", "if_any"), "--save_root")
    nothing = run_script("Trainer.py", "--resume", "if_any", "--save_root", tmp_path / "none")
    assert_refused(nothing, "no data set", "--DR")


def test_a_folder_that_cannot_be_looked_into_is_no_empty_one(dataset: Path, tmp_path: Path) -> None:
    """A mount that is away must not make a run start anew."""
    run = tmp_path / "run"
    with refusing("stat", errno.ETIMEDOUT, when=named("last.ckpt")) as refused:
        result = job(dataset, run)
    assert_refused(result, "--resume: ", "cannot be read (Connection timed out)")
    assert refused
    assert not run.exists()


# ---------------------------------------------------------------- the script for Slurm


def slurm_script() -> str:
    """The job of docs/reliability.md."""
    blocks = re.findall(r"^```bash\n(.*?)^```$", text_of("docs/reliability.md"), re.M | re.S)
    (script,) = [block for block in blocks if "#SBATCH" in block]
    return script


def test_the_job_for_slurm_resumes_by_itself(tmp_path: Path) -> None:
    """Run by a scheduler of a few lines; the run ends as told."""
    script = slurm_script()
    assert script.startswith("#!/bin/bash\n")
    assert "--signal=USR1@" in script and "--open-mode=append" in script and "--requeue" in script
    srun = 'echo "$*" > started; exit $(cat status)'
    for name, does in (("srun", srun), ("scontrol", 'echo "$*" >> requeued')):
        (tmp_path / name).write_text(f"#!/bin/bash\n{does}\n")
        (tmp_path / name).chmod(0o755)
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "4711"}
    for status in (138, 143, 0):  # warned of the time limit, preempted, finished
        (tmp_path / "status").write_text(str(status))
        job = subprocess.run(["bash"], input=script, cwd=tmp_path, env=env, text=True)
        assert job.returncode == status
    assert (tmp_path / "requeued").read_text() == "requeue 4711\n"
    assert "Trainer.py --DR ROOT" in (tmp_path / "started").read_text()
