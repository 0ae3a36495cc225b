"""--resume if_any: one command for a job or notebook that is started again and again."""

import errno
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from modules import runlog
from tests.support.comparing import contents_of_run, same
from tests.support.disks import is_folder, named, refusing
from tests.support.documents import text_of
from tests.support.scripts import TINY_RUN, assert_refused, done, run_script
from tests.support.small_run import signal_at

pytestmark = pytest.mark.usefixtures("no_figures")


def cells(drive: Path) -> list[list[str]]:
    """The arguments of the Python commands for Colab and Kaggle, with the drive somewhere else."""
    section = text_of("docs/training.md").split("## Colab and Kaggle")[1].split("\n## ")[0]
    lines = section.replace("\\\n", " ").replace("/content/drive/MyDrive", str(drive)).splitlines()
    return [shlex.split(line)[1:] for line in lines if line.startswith("!python")]


def job(dataset: Path, run: Path, *more: str | Path) -> subprocess.CompletedProcess[str]:
    """The command that is typed once and run as often as it takes."""
    typed = ("--DR", dataset, "--save_root", run, *TINY_RUN, "--num_epoch", "2", "--auto_save")
    return run_script("Trainer.py", *typed, "--resume", "if_any", *more)


def test_the_same_command_starts_resumes_and_ends(dataset: Path, tmp_path: Path) -> None:
    """The cells of docs/training.md, on a drive without hard links that does not sync folders."""
    (tmp_path / "ROOT").symlink_to(dataset)
    run, whole = tmp_path / "runs/a", tmp_path / "whole"
    typed, generate = cells(tmp_path)
    typed += [*TINY_RUN, "--num_epoch", "2", "--kl_anneal_cycle", "1"]
    with (
        refusing("link", errno.EPERM) as links,
        refusing("fsync", errno.EINVAL, when=is_folder) as folders,
    ):
        for step in (1, 2):
            with signal_at(step):
                assert run_script(*typed).returncode == 143
        resumed = run_script(*typed)
        assert (resumed.returncode, resumed.stderr) == (0, "")
        assert "resuming in epoch 1 after 2 steps" in resumed.stdout
    assert links and folders
    typed[typed.index(str(run))] = str(whole)
    done(*typed)
    assert same(contents_of_run(run), contents_of_run(whole))
    assert_refused(run_script(*typed, "--lr", "0.5"), "--lr 0.001 → 0.5")
    assert "nothing to do: all 2 epochs are done" in done(*typed)
    done(*generate)
    assert (run / "test/submission.csv").exists()
    # What a run without a checkpoint left is not written over.
    before = (run / "metrics.csv").read_bytes()
    for name in ("last.ckpt", "last.prev.ckpt"):
        (run / name).unlink()
    assert_refused(job(dataset, run), "metrics.csv belongs to a run without a checkpoint")
    assert (run / "metrics.csv").read_bytes() == before


def test_fine_tuning_starts_from_the_weights_once(
    dataset: Path, trained: Path, tmp_path: Path
) -> None:
    run, weights = tmp_path / "run", tmp_path / "best.ckpt"
    weights.write_bytes((trained / "best.ckpt").read_bytes())
    with signal_at(1):
        started = job(dataset, run, "--ckpt_path", weights)
    assert started.returncode == 143, started.stderr
    assert runlog.read_config(run)["parent"]["run"] == str(tmp_path)
    weights.unlink()  # not needed any more
    resumed = job(dataset, run, "--ckpt_path", weights)
    assert resumed.returncode == 0, resumed.stderr
    assert "after 2 steps" in resumed.stdout
    assert runlog.read_config(run)["parent"]["run"] == str(tmp_path)


def test_what_it_needs(dataset: Path, tmp_path: Path) -> None:
    assert_refused(run_script("Trainer.py", "--resume", "if_any"), "--save_root")
    run = tmp_path / "run"
    nothing = run_script("Trainer.py", "--resume", "if_any", "--save_root", run)
    assert_refused(nothing, "no data set", "--DR")
    # A mount that is away must not make a run start anew.
    with refusing("stat", errno.ETIMEDOUT, when=named("last.ckpt")) as refused:
        result = job(dataset, run)
    assert_refused(result, "--resume: ", "cannot be read (Connection timed out)")
    assert refused
    assert not run.exists()


def test_the_job_for_slurm_resumes_by_itself(tmp_path: Path) -> None:
    """docs/reliability.md, run by a scheduler of a few lines; the run ends as told."""
    blocks = re.findall(r"^```bash\n(.*?)^```$", text_of("docs/reliability.md"), re.M | re.S)
    (script,) = [block for block in blocks if "#SBATCH" in block]
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
