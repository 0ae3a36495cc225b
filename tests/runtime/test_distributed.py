"""Several ranks (gloo, on CPUs): the same run as one process's with the whole batch.

By torchrun, and by distributed.launch(), which --gpu N uses.
"""

import signal
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from modules import runlog
from modules.runtime import distributed
from modules.runtime.errors import UserError
from tests.support.data import make_dataset
from tests.support.scripts import REPOSITORY, TINY_RUN, done, python, train

slow = pytest.mark.slow
# 20 frames in clips of 4, two a step: the last step has one clip, so the second rank has none.
RUN = ("--num_epoch", "2", "--batch_size", "2", "--precision", "float32")
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("parallel") / "data", train=20)


@pytest.fixture(scope="module")
def alone(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process."""
    run = tmp_path_factory.mktemp("parallel") / "alone"
    train(data, run, *RUN)
    return run


def hooked(path: Path, body: str = "pass", more: str = "") -> Path:
    """A Trainer in which `body` is run before each training step, and `more` once before all.

    Under torchrun it trains; without it starts two ranks of itself, as --gpu 2 does.
    """
    path.write_text(
        f"import os, signal, sys, time\nsys.path.insert(0, {str(REPOSITORY)!r})\n"
        "import Trainer\nfrom modules import checkpoint\nfrom modules.runtime import distributed\n"
        "from modules.training import TrainingStep\n"
        "whole_step, calls = TrainingStep.__call__, iter(range(10**6))\n"
        "def step(self, *arguments, **options):\n"
        "    number, rank = next(calls), distributed.rank()\n"
        f"    {body}\n"
        "    whole_step(self, *arguments, **options)\n"
        f"TrainingStep.__call__ = step\n{more}\n"
        "if __name__ == '__main__':\n"
        "    Trainer.start() if 'RANK' in os.environ else sys.exit(distributed.launch(2))\n",
        encoding="utf-8",
    )
    return path


def assert_same_run(a: Path, b: Path) -> None:
    """Weights, batch-norm statistics and metrics equal to rounding."""
    one, two = (torch.load(r / "last.ckpt", weights_only=True)["state_dict"] for r in (a, b))
    torch.testing.assert_close(two, one, rtol=1e-3, atol=2e-5)
    rows, others = (runlog.read_metrics(run / "metrics.csv") for run in (a, b))
    for name in set(rows) - {"frames_per_second", "seconds"}:
        assert rows[name].tolist() == pytest.approx(others[name].tolist(), rel=1e-3), name


@slow
@pytest.mark.parametrize(
    ("more", "command"),
    [("", TORCHRUN), ("distributed.sum_gradients = lambda parameters: None", ())],
)
def test_two_ranks_train_what_one_process_does(
    data: Path, alone: Path, tmp_path: Path, more: str, command: tuple[str, ...]
) -> None:
    """The control: each rank by itself. --gpu's ranks are compared where a signal stops them."""
    run, script = tmp_path / "run", hooked(tmp_path / "two.py", more=more)
    result = python(*command, script, "--DR", data, "--save_root", run, *TINY_RUN, *RUN)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("best validation PSNR") == 1  # rank 0 speaks for all
    with pytest.raises(AssertionError) if more else nullcontext():
        assert_same_run(alone, run)


@slow
@pytest.mark.parametrize(
    ("number", "receiver", "status"),
    [
        (signal.SIGTERM, "os.getpid()", 143),  # to a rank, of which the launcher knows nothing
        (signal.SIGINT, "os.getppid()", 130),
    ],
)
def test_one_signal_stops_all_ranks_saved(
    data: Path, alone: Path, tmp_path: Path, number: signal.Signals, receiver: str, status: int
) -> None:
    """Rank 0 takes two seconds to save; one process continues what two began."""
    saves, run = tmp_path / "saves", tmp_path / "run"
    script = hooked(
        tmp_path / "two.py",
        f"(number, rank) == (1, 1) and (os.kill({receiver}, {int(number)}), time.sleep(1.0))",
        "save = checkpoint.save_checkpoints\n"
        "def slowly(paths, content):\n"
        "    time.sleep(2.0)\n"
        "    save(paths, content)\n"
        f"    open({str(saves)!r}, 'a').write(str(distributed.rank()))\n"
        "checkpoint.save_checkpoints = slowly",
    )
    result = python(script, "--DR", data, "--save_root", run, *TINY_RUN, *RUN)
    assert result.returncode == status, result.stderr
    assert "Traceback" not in result.stderr and "torch/distributed" not in result.stderr
    assert result.stderr.count(f"stopped by {number.name}") == 2
    assert saves.read_text() == "00"  # at the start, and once when it was stopped; by rank 0
    position = torch.load(run / "last.ckpt", weights_only=True)["training"]["position"]
    assert (position["epoch"], position["step"]) == (0, 2)
    done("Trainer.py", "--save_root", run, "--resume")
    assert_same_run(alone, run)


@slow
def test_ranks_whose_torchrun_died_save_and_end(data: Path, tmp_path: Path) -> None:
    """Nobody would ever end them."""
    run = tmp_path / "run"
    body = "(number, rank) == (1, 1) and (os.kill(os.getppid(), 9), time.sleep(1.0))"
    script = hooked(tmp_path / "orphans.py", body)
    options = (*TINY_RUN, "--num_epoch", "500")
    result = python(*TORCHRUN, script, "--DR", data, "--save_root", run, *options)
    assert result.returncode == -9
    assert result.stderr.count("stopped by SIGTERM") == 2
    position = torch.load(run / "last.ckpt", weights_only=True)["training"]["position"]
    assert position["epoch"] * 3 + position["step"] in range(2, 30)


@slow
@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ("(number, rank) == (1, 1) and os.kill(os.getpid(), 9)", 137, ""),
        # A fault of the program keeps its traceback: the rank's own, not the launcher's.
        ("if (number, rank) == (0, 1): raise KeyError('x')", 1, "KeyError: 'x'"),
        # A second signal to the launcher: 1 s after the first, to a rank whose step does not end.
        (
            "rank and (os.kill(os.getppid(), 15), time.sleep(1), os.kill(os.getppid(), 2)); "
            "time.sleep(200)",
            130,
            "",
        ),
    ],
)
def test_a_rank_that_fails_or_a_second_signal_ends_all(
    data: Path, tmp_path: Path, body: str, status: int, words: str
) -> None:
    arguments = ("--DR", data, "--save_root", tmp_path / "run", *TINY_RUN, *RUN)
    result = python(hooked(tmp_path / "dying.py", body), *arguments)
    assert result.returncode == status, result.stderr
    assert words in result.stderr and "ChildFailedError" not in result.stderr
    assert status != 130 or "Traceback" not in result.stderr


@slow
def test_a_mistake_is_one_line(data: Path, tmp_path: Path) -> None:
    script, given = hooked(tmp_path / "two.py"), ("--DR", data, "--save_root", tmp_path / "run")
    for start, status, mistake, words in (
        ((), 2, ("--DR", "none"), "none: 1 fault"),
        (TORCHRUN, 1, ("--batch_size", "3"), "--batch_size 3"),  # it has a status of its own
    ):
        result = python(*start, script, *given, *TINY_RUN, *RUN, *mistake)
        assert result.returncode == status
        assert result.stderr.count("error: ") == 1 and words in result.stderr
        assert start or result.stderr.count("\n") == 1


@pytest.fixture
def rank_1(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of a rank."""
    for name in ("RANK", "LOCAL_RANK"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "1")
    monkeypatch.setattr(distributed, "TIMEOUT", distributed.TIMEOUT / 1800)


@pytest.mark.usefixtures("rank_1")
def test_ranks_that_cannot_connect_are_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    for words in ("127.0.0.1", "MASTER_PORT"):  # nobody is there; then it does not know where
        with pytest.raises(UserError, match=r"unset WORLD_SIZE for a") as caught:
            distributed.connect()
        assert words in str(caught.value) and "\n" not in str(caught.value)
        assert not dist.is_initialized()
        monkeypatch.delenv("MASTER_PORT", raising=False)


@pytest.mark.usefixtures("rank_1")
@pytest.mark.parametrize(("nccl", "backend"), [(True, "cpu:gloo,cuda:nccl"), (False, "gloo")])
def test_gpus_without_nccl_use_gloo(
    monkeypatch: pytest.MonkeyPatch, nccl: bool, backend: str
) -> None:
    used: list[object] = []
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.set_device", used.append)
    monkeypatch.setattr("torch.distributed.is_nccl_available", lambda: nccl)
    monkeypatch.setattr("torch.distributed.init_process_group", lambda b, **_: used.append(b))
    distributed.connect()
    assert used == [1, backend]
