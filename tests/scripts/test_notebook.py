"""The cells of docs/training.md for Colab and Kaggle, on a simulated mounted drive."""

import errno
import os
import shlex
import shutil
import signal
from pathlib import Path

import pytest

from tests.support.disks import is_folder, refusing
from tests.support.documents import text_of
from tests.support.scripts import TINY_RUN, run_script
from tests.support.stepping import at_step


def cells(drive: Path) -> list[list[str]]:
    """The arguments of the cells' Python commands, with the drive somewhere else."""
    section = text_of("docs/training.md").split("## Colab and Kaggle")[1].split("\n## ")[0]
    lines = section.replace("\\\n", " ").replace("/content/drive/MyDrive", str(drive)).splitlines()
    return [shlex.split(line)[1:] for line in lines if line.startswith("!python")]


@pytest.mark.slow
def test_a_run_goes_on_after_a_disconnect(dataset: Path, tmp_path: Path) -> None:
    shutil.copytree(dataset, tmp_path / "ROOT")
    train, generate = cells(tmp_path)
    train += [*TINY_RUN, "--num_epoch", "2", "--kl_anneal_cycle", "1"]
    # A drive has no hard links and does not sync folders.
    with (
        refusing("link", errno.EPERM) as links,
        refusing("fsync", errno.EINVAL, when=is_folder) as folders,
    ):
        with at_step(1, lambda: os.kill(os.getpid(), signal.SIGTERM)):
            assert run_script(*train).returncode == 143
        again = run_script(*train)
        assert (again.returncode, again.stderr) == (0, "")
        assert "resuming in epoch 0 after 2 steps" in again.stdout
        assert run_script(*generate).returncode == 0
    assert links and folders
    assert (tmp_path / "runs" / "a" / "test" / "submission.csv").exists()
