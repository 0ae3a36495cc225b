"""The campaign of kills in its short form, and that it would notice what it looks for."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.support.scripts import REPOSITORY, train

CAMPAIGN = REPOSITORY / "tests/programs/campaign.py"
# The campaign sets these for its own process as it is imported.
_environment = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
from tests.programs import campaign  # noqa: E402
from tests.programs.campaign import Result, differences, grown, judge  # noqa: E402

for _name, _value in _environment.items():
    if _value is None:
        del os.environ[_name]
    else:
        os.environ[_name] = _value


@pytest.mark.slow
def test_short_campaign() -> None:
    result = subprocess.run(
        [sys.executable, str(CAMPAIGN), "--short"], capture_output=True, text=True, timeout=900
    )
    assert result.returncode == 0, result.stdout + result.stderr
    lines = result.stdout.splitlines()
    assert lines[-1] == "all as promised"
    assert "silent      0" in lines
    assert result.stderr == ""
    # The disk was as awkward as it is meant to be.
    for what in ("folder syncs refused", "renames refused"):
        (count,) = [int(line.split(": ")[1]) for line in lines if line.startswith(f"  {what}: ")]
        assert count > 5, what


@pytest.mark.slow
def test_many_epochs_hold_nothing() -> None:
    result = subprocess.run(
        [sys.executable, str(CAMPAIGN), "--epochs", "40"],
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "nothing grew in 40 epochs" in result.stdout


# ---------------------------------------------------------------- controls


@pytest.fixture(scope="module")
def finished(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two epochs; not to be changed."""
    run = tmp_path_factory.mktemp("runs") / "run"
    train(dataset, run, "--num_epoch", "2", "--auto_save")
    return run


def edit_text(name: str, old: str, new: str):
    def apply(run: Path) -> None:
        text = (run / name).read_text()
        assert old in text
        (run / name).write_text(text.replace(old, new, 1))

    return apply


def edit_checkpoint(name: str, change):
    def apply(run: Path) -> None:
        content = torch.load(run / name, weights_only=True)
        change(content)
        torch.save(content, run / name)

    return apply


def first_cell_of_second_row(run: Path) -> None:
    rows = [line.split(",") for line in (run / "metrics.csv").read_text().splitlines()]
    rows[2][1] = repr(float(rows[2][1]) * (1 + 2**-52))  # the last bit
    (run / "metrics.csv").write_text("".join(",".join(row) + "\n" for row in rows))


def other_seconds(run: Path) -> None:
    rows = [line.split(",") for line in (run / "metrics.csv").read_text().splitlines()]
    rows[1][rows[0].index("seconds")] = "99.5"
    (run / "metrics.csv").write_text("".join(",".join(row) + "\n" for row in rows))


def last_bit(content: dict) -> None:
    weight = content["state_dict"]["Generator.7.bias"]
    weight.view(torch.int32)[0] ^= 1


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda run: None, []),
        (other_seconds, []),  # time may differ
        (edit_checkpoint("last.ckpt", lambda c: c["options"].update(resume=True)), []),
        (first_cell_of_second_row, ["metrics.csv differs"]),
        (edit_checkpoint("last.ckpt", last_bit), ["last.ckpt differs"]),
        (edit_checkpoint("best.ckpt", lambda c: c.update(last_epoch=7)), ["best.ckpt differs"]),
        (
            edit_checkpoint("last.ckpt", lambda c: c["training"]["best"].update(psnr=0.0)),
            ["last.ckpt differs"],
        ),
        (edit_text("psnr_per_frame.csv", "1", "2"), ["psnr_per_frame.csv differs"]),
        (edit_text("config.json", '"lr": 0.001', '"lr": 0.002'), ["config.json differs"]),
        (lambda run: (run / ".last.ckpt.17.tmp").touch(), [".last.ckpt.17.tmp is left over"]),
        (lambda run: (run / "best.ckpt").unlink(), ["best.ckpt is missing"]),
        (lambda run: (run / "curves.png").write_bytes(b""), ["curves.png differs"]),
    ],
)
def test_differences_are_noticed(finished: Path, tmp_path: Path, change, found: list[str]) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    change(run)
    assert differences(finished, run, figures=True) == found


TERM, INT, KILL = signal.SIGTERM, signal.SIGINT, signal.SIGKILL
HUP, USR1 = signal.SIGHUP, signal.SIGUSR1
NOTED = f"{campaign.STOPPING}\n"


@pytest.mark.parametrize(
    ("status", "out", "err", "sent", "saved", "kinds"),
    [
        (143, "", NOTED, TERM, True, []),
        (130, "", NOTED, INT, True, []),
        (129, "", NOTED, HUP, True, []),
        (138, "", NOTED, USR1, True, []),
        (-1, "", "", HUP, False, []),
        (-1, "epoch 0", "", HUP, True, ["statuses"]),
        (143, "", "", USR1, True, ["statuses"]),
        (-15, "", "", TERM, False, []),  # it had not started yet
        (0, "results in x", "", TERM, True, []),  # it was about to end
        (-9, "", "", KILL, True, []),
        (0, "", NOTED, TERM, True, ["statuses"]),
        (1, "", NOTED, INT, True, ["statuses"]),
        (-15, "epoch 0", "", TERM, True, ["statuses"]),  # a run that has saved before must save
        (1, "", "Traceback (most recent call last)\nKeyError", TERM, False, ["tracebacks"]),
        (130, "", "Traceback (most)\nKeyboardInterrupt", INT, False, ["tracebacks"]),
        (1, "", "Traceback (most recent call last)\nKeyError", None, False, ["tracebacks"]),
    ],
)
def test_ends_are_judged(
    status: int, out: str, err: str, sent: signal.Signals | None, saved: bool, kinds: list[str]
) -> None:
    result = Result()
    judge(result, status, out, err, sent, saved, Path("log"))
    assert [kind for kind in result.faults if kind in (kinds or result.faults)] == kinds


def test_the_disk_is_awkward(tmp_path: Path) -> None:
    """In a process of its own, as a `python Trainer.py` gets it; without it nothing is refused."""
    program = (
        "import os, pathlib\n"
        "here = os.open('.', os.O_RDONLY)\n"
        "def tried(call):\n"
        "    try:\n        call()\n        return 0\n"
        "    except OSError:\n        return 1\n"
        "print(tried(lambda: os.fsync(here)))\n"
        "path = pathlib.Path('a')\npath.touch()\n"
        "print(sum(tried(lambda: path.replace('a')) for _ in range(200)))\n"
    )
    env = campaign.awkward_python(tmp_path, 1, tmp_path / "log")
    found = []
    for more in ({}, env):
        result = subprocess.run(
            [sys.executable, "-c", program],
            cwd=tmp_path,
            env={**os.environ, **more},
            capture_output=True,
            text=True,
            check=True,
        )
        found.append([int(line) for line in result.stdout.split()])
    assert found[0] == [0, 0]
    assert found[1][0] == 1 and 5 < found[1][1] < 40
    log = (tmp_path / "log").read_bytes()
    assert (log.count(b"f"), log.count(b"r")) == tuple(found[1])


def test_growth_is_noticed() -> None:
    level = {"epoch": 0, "MB": 400.0, "open files": 9, "threads": 1, "objects": 9000, "figures": 0}
    flat = [{**level, "epoch": i} for i in range(20)]
    assert grown(flat) == []
    for name, rate in (("MB", 1.0), ("open files", 1), ("objects", 100), ("figures", 1)):
        leaking = [{**one, name: one[name] + rate * one["epoch"]} for one in flat]
        assert grown(leaking) == [f"{name} grew by {15 * rate} from epoch 4 on"]
    # What is there after the first epochs and stays is no leak.
    assert grown([{**one, "MB": 100.0 if one["epoch"] < 3 else 400.0} for one in flat]) == []


def test_a_leak_is_measured(tmp_path: Path) -> None:
    """A process that keeps a file, a figure and some memory after each epoch."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[2])\n"
        "from tests.programs import campaign\n"
        "from pathlib import Path\n"
        "from matplotlib.figure import Figure\n"
        "from modules.figures.records import Records\n"
        "kept = []\n"
        "class Leaking:\n"
        "    pending = {}\n"
        "    def _write_pending(self):\n"
        "        kept.append((open(__file__), Figure(), bytearray(b'x' * 2**20)))\n"
        "campaign.sample_epochs(Path(sys.argv[1]), 1)\n"
        "for epoch in range(20):\n"
        "    Records.draw(Leaking())\n"
    )
    script, target = tmp_path / "leak.py", tmp_path / "samples"
    script.write_text(code)
    command = [sys.executable, str(script), str(target), str(REPOSITORY)]
    subprocess.run(command, check=True, timeout=120)
    samples = [json.loads(line) for line in target.read_text().splitlines()]
    assert len(samples) == 20
    found = " ".join(grown(samples))
    for name in ("MB", "open files", "figures"):
        assert f"{name} grew by 15" in found
