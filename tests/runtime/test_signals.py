"""Signals of every system, terminals and pipes that go, several ranks: nothing is lost by them."""

import errno
import importlib.util
import io
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from modules.runtime import console, launch, platforms, scripts, signals, stopping
from modules.runtime.errors import Stopped, UserError
from modules.runtime.scripts import run_as_script
from modules.runtime.stopping import Watch
from tests.support.scripts import REPOSITORY, TINY_RUN

# ---------------------------------------------------------------- which signals


def as_on(patch: pytest.MonkeyPatch, without: tuple[str, ...], **more: int) -> ModuleType:
    """The module of signals as it would be where some do not exist, and others do."""
    for name in without:
        patch.delattr(signal, name)
    for name, number in more.items():
        patch.setattr(signal, name, number, raising=False)
    assert signals.__spec__ is not None and signals.__spec__.origin is not None
    spec = importlib.util.spec_from_file_location("elsewhere", signals.__spec__.origin)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_stops_a_run_here_and_on_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [number.name for number in signals.STOPPING]
    assert names == ["SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1"]
    missing = ("SIGHUP", "SIGUSR1", "SIGUSR2", "SIGKILL")
    windows = as_on(monkeypatch, missing, SIGBREAK=21)
    assert [int(number) for number in windows.STOPPING] == [15, 2, 21]
    assert windows.heeded() == windows.STOPPING


def test_a_hangup_that_is_ignored_stays_ignored() -> None:
    """What nohup does; SIGTERM is heeded all the same."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Watch().watching() as watch:
            os.kill(os.getpid(), signal.SIGHUP)
            watch.raise_if_asked()
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            os.kill(os.getpid(), signal.SIGTERM)
            assert watch.after_step()[0] == signal.SIGTERM
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        with Watch().watching() as watch:  # the control
            os.kill(os.getpid(), signal.SIGHUP)
            assert watch.after_step()[0] == signal.SIGHUP
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_note_to_a_terminal_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with Watch().watching() as watch:
        monkeypatch.setattr(os, "write", gone)
        os.kill(os.getpid(), signal.SIGHUP)
        assert watch.after_step()[0] == signal.SIGHUP


def test_ranks_whose_launcher_died_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modules.runtime.distributed.maximum", lambda *values: list(values))
    for ranks, asked in ((2, signal.SIGTERM), (1, 0)):  # a single process may outlive its shell
        with monkeypatch.context() as patch:
            patch.setattr("modules.runtime.distributed.world_size", lambda ranks=ranks: ranks)
            watch = Watch()
            assert watch.after_step()[0] == 0
            other = os.getppid() + 1
            patch.setattr(os, "getppid", lambda other=other: other)
            assert watch.after_step()[0] == asked


def test_ranks_end_after_rank_0_has_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    met: list[tuple[int, ...]] = []
    monkeypatch.setattr("modules.runtime.distributed.maximum", lambda *v: met.append(v) or list(v))
    with pytest.raises(Stopped, match="SIGHUP"):
        stopping.stop(signal.SIGHUP)
    assert met == [(0,)]


# ---------------------------------------------------------------- a closed console of Windows


class Kernel:
    """kernel32.dll, as far as it is asked."""

    def __init__(self) -> None:
        self.calls: list[int] = []
        self.routine: Any = None

    def SetConsoleCtrlHandler(self, routine: Any, add: int) -> int:
        self.calls.append(add)
        self.routine = routine
        return 1


def test_a_closed_console_waits_for_the_save(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel, ended = Kernel(), []
    monkeypatch.setattr(platforms, "WINDOWS", True)
    monkeypatch.setattr(console, "_kernel", lambda: kernel)
    with Watch().watching() as watch:
        assert kernel.routine(0) == 0  # Ctrl-C goes on to Python
        system = threading.Thread(target=lambda: ended.append(kernel.routine(console.CLOSE_EVENT)))
        system.start()
        time.sleep(0.1)
        assert watch.after_step()[0] == console.CLOSED == 21
        assert not ended  # the process must not end before it has saved
    system.join(timeout=5)
    assert (ended, kernel.calls) == ([1], [1, 0])


def test_no_console_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "_kernel", lambda: pytest.fail("there is none"))
    with console.closing(lambda: None):
        pass


# ---------------------------------------------------------------- terminals and pipes


def in_a_terminal(program: str, *, hangup: Any, out: Path) -> int:
    """The exit status of a Python program whose terminal goes after its first line."""
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", program, out],
        cwd=REPOSITORY,
        stdin=follower,
        stdout=follower,
        stderr=follower,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, hangup),
    )
    os.close(follower)
    os.read(leader, 100)
    os.close(leader)  # what a lost connection does
    return process.wait(timeout=60)


def test_a_run_goes_on_when_its_terminal_is_gone(tmp_path: Path) -> None:
    program = (
        "import sys, time\nfrom pathlib import Path\n{more}"
        "def main():\n"
        "    print('begun', flush=True)\n"
        "    time.sleep(0.5)\n"
        "    for _ in range(3):\n"
        "        print('x' * 9999, flush=True)\n"
        "        print('y', file=sys.stderr, flush=True)\n"
        "    Path(sys.argv[1]).touch()\n"
        "{end}\n"
    )
    ours = {
        "more": "from modules.runtime.scripts import run_as_script\n",
        "end": "run_as_script(main)",
    }
    out = tmp_path / "done"
    assert in_a_terminal(program.format(**ours), hangup=signal.SIG_IGN, out=out) == 0
    assert out.exists()
    out.unlink()
    plain = {"more": "", "end": "main()"}  # the control
    assert in_a_terminal(program.format(**plain), hangup=signal.SIG_IGN, out=out) != 0
    assert not out.exists()


def test_a_lost_connection_saves(tmp_path: Path) -> None:
    """The terminal goes and SIGHUP comes, as sshd does it."""
    program = (
        "import fcntl, os, signal, sys, termios, time\nfrom pathlib import Path\n"
        "from modules.runtime.scripts import run_as_script\n"
        "from modules.runtime.stopping import Watch, stop\n"
        "fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
        "def main():\n"
        "    with Watch().watching() as watch:\n"
        "        print('begun', flush=True)\n"
        "        while not watch.after_step()[0]:\n"
        "            print('step', file=sys.stderr, flush=True)\n"
        "            time.sleep(0.05)\n"
        "        Path(sys.argv[1]).touch()\n"
        "        stop(watch.after_step()[0])\n"
        "run_as_script(main)\n"
    )
    out = tmp_path / "saved"
    assert in_a_terminal(program, hangup=signal.SIG_DFL, out=out) == 129
    assert out.exists()


class Closed(io.StringIO):
    """A pipe whose reader is gone, as this system or Windows says it."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def flush(self) -> None:
        raise OSError(self.number, os.strerror(self.number))


def end_of(outcome: BaseException | None) -> int | str | None:
    def main() -> None:
        if outcome is not None:
            raise outcome

    with pytest.raises(SystemExit) as caught:
        run_as_script(main)
    return caught.value.code


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave this process's own output as it is."""
    monkeypatch.setattr(os, "dup2", lambda *_: 0)


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize(("windows", "number"), [(False, errno.EPIPE), (True, errno.EINVAL)])
def test_a_closed_pipe(monkeypatch: pytest.MonkeyPatch, windows: bool, number: int) -> None:
    monkeypatch.setattr(platforms, "WINDOWS", windows)
    monkeypatch.setattr(sys, "stdout", Closed(number))
    assert end_of(None) == 141
    # Ctrl-C ends `tee` as well: the status that was decided stands.
    assert end_of(Stopped(signal.SIGINT)) == 130
    assert end_of(UserError("x")) == 2


def test_other_invalid_arguments_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: EINVAL is also what Windows says of a name that it does not take."""
    error = OSError(errno.EINVAL, os.strerror(errno.EINVAL), "a?b")
    assert not scripts.closed_pipe(error)
    monkeypatch.setattr(platforms, "WINDOWS", True)
    assert not scripts.closed_pipe(error)
    assert not scripts.closed_pipe(OSError(errno.EINVAL, os.strerror(errno.EINVAL)))
    with pytest.raises(OSError, match="Invalid argument"):
        end_of(error)


# ---------------------------------------------------------------- several processes


def test_signals_are_passed_on_except_on_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: sent.append((pid, number)))
    ranks = [SimpleNamespace(pid=pid, is_alive=lambda pid=pid: pid != 6) for pid in (5, 6, 7)]
    launch.tell(ranks, signal.SIGUSR1)
    assert sent == [(5, signal.SIGUSR1), (7, signal.SIGUSR1)]
    monkeypatch.setattr(platforms, "WINDOWS", True)
    launch.tell(ranks, signal.SIGTERM)  # there it would end them at once
    assert len(sent) == 2


TORCHRUN = {
    "WORLD_SIZE": "2",
    "RANK": "0",
    "LOCAL_RANK": "0",
    "MASTER_ADDR": "h",
    "MASTER_PORT": "9",
}


@pytest.fixture
def torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of a rank."""
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("torchrun")
@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            RuntimeError("use_libuv was requested but PyTorch was built without libuv support"),
            "USE_LIBUV=0",
        ),
        (RuntimeError("Distributed package doesn't have NCCL built in\nmore"), "without --gpu"),
        (TimeoutError("The client socket has timed out"), "h:9"),
        (ValueError("bad port"), "h:9"),
    ],
)
def test_ranks_that_cannot_meet_are_one_sentence(
    monkeypatch: pytest.MonkeyPatch, error: Exception, words: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("torch.distributed.init_process_group", fail)
    with pytest.raises(UserError, match="2 processes of this run could not meet") as caught:
        launch.connect()
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("torchrun")
@pytest.mark.parametrize(("nccl", "backend"), [(True, "cpu:gloo,cuda:nccl"), (False, "gloo")])
def test_gpus_without_nccl_use_gloo(
    monkeypatch: pytest.MonkeyPatch, nccl: bool, backend: str
) -> None:
    used: list[str] = []
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.set_device", lambda _: None)
    monkeypatch.setattr("torch.distributed.is_nccl_available", lambda: nccl)
    monkeypatch.setattr("torch.distributed.init_process_group", lambda b, **_: used.append(b))
    launch.connect()
    assert used == [backend]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"WORLD_SIZE": "2"}, "not RANK, LOCAL_RANK, MASTER_ADDR, MASTER_PORT"),
        ({"WORLD_SIZE": "many"}, "WORLD_SIZE='many'"),
        ({**TORCHRUN, "RANK": "a"}, "RANK='a'"),
    ],
)
def test_an_environment_that_says_it_by_halves(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], words: str
) -> None:
    for name in TORCHRUN:
        monkeypatch.delenv(name, raising=False)
    assert not launch.launched()
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError) as caught:
        launch.launched()
    assert words in str(caught.value)


def test_windows_starts_ranks_without_libuv(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str | None] = []
    for name in (*TORCHRUN, "USE_LIBUV"):
        monkeypatch.setenv(name, "")  # so that what is set is unset afterwards
        monkeypatch.delenv(name)
    for windows in (False, True):
        monkeypatch.setattr(platforms, "WINDOWS", windows)
        launch._worker(0, 2, 1234, lambda: seen.append(os.environ.get("USE_LIBUV")))
    assert seen == [None, "0"]


# ---------------------------------------------------------------- several real processes


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "to", "status"),
    [
        (signal.SIGHUP, "launcher", 129),
        (signal.SIGUSR1, "launcher", 138),
        (signal.SIGUSR1, "rank", 138),
        (signal.SIGTERM, "launcher", 143),
    ],
)
def test_one_signal_stops_all_ranks_saved(
    dataset: Path, tmp_path: Path, number: signal.Signals, to: str, status: int
) -> None:
    """Two processes as --gpu 2 starts them, on the CPU; rank 0 takes two seconds to save."""
    script, run = tmp_path / "two.py", tmp_path / "run"
    receiver = "os.getppid()" if to == "launcher" else "os.getpid()"
    script.write_text(
        f"import os, signal, sys, time\nsys.path.insert(0, {str(REPOSITORY)!r})\n"
        "import Trainer\nfrom modules import runstate\n"
        "from modules.runtime import distributed, launch\n"
        "from modules.training import TrainingStep\n"
        "whole_step, calls = TrainingStep.__call__, iter(range(99))\n"
        "save = runstate.save_checkpoints\n"
        "def step(self, *arguments, **options):\n"
        "    if (next(calls), distributed.rank()) == (1, 1):\n"
        f"        os.kill({receiver}, {int(number)})\n"
        "        time.sleep(1.0)\n"
        "    whole_step(self, *arguments, **options)\n"
        "def slowly(paths, content):\n"
        "    time.sleep(2.0)\n"
        "    save(paths, content)\n"
        "TrainingStep.__call__, runstate.save_checkpoints = step, slowly\n"
        "if __name__ == '__main__':\n"
        "    sys.exit(launch.launch(Trainer.start, 2))\n",
        encoding="utf-8",
    )
    options = ("--DR", dataset, "--save_root", run, *TINY_RUN, "--num_epoch", "3")
    result = subprocess.run(
        [sys.executable, script, *options],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == status, result.stderr
    assert "Traceback" not in result.stderr
    position = torch.load(run / "last.ckpt", weights_only=True)["training"]["position"]
    assert (position["epoch"], position["step"]) in ((0, 2), (0, 3))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGKILL])
def test_ranks_whose_torchrun_died_save_and_end(
    dataset: Path, tmp_path: Path, number: signal.Signals
) -> None:
    """SIGUSR1, which torchrun does not know, ends it; nobody would ever end its ranks."""
    script, run = tmp_path / "orphans.py", tmp_path / "run"
    script.write_text(
        f"import os, signal, sys, time\nsys.path.insert(0, {str(REPOSITORY)!r})\n"
        "import Trainer\nfrom modules.runtime import distributed\n"
        "from modules.training import TrainingStep\n"
        "whole_step, calls = TrainingStep.__call__, iter(range(10**6))\n"
        "def step(self, *arguments, **options):\n"
        "    if (next(calls), distributed.rank()) == (1, 1):\n"
        f"        os.kill(os.getppid(), {int(number)})\n"
        "        time.sleep(1.0)\n"
        "    whole_step(self, *arguments, **options)\n"
        "TrainingStep.__call__ = step\n"
        "if __name__ == '__main__':\n    Trainer.start()\n",
        encoding="utf-8",
    )
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", script]
    options = ("--DR", dataset, "--save_root", run, *TINY_RUN, "--num_epoch", "500")
    # Standard output closes when the last rank has ended.
    result = subprocess.run(
        [sys.executable, *command, *options],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == -number
    assert result.stderr.count("stopped by SIGTERM") == 2
    position = torch.load(run / "last.ckpt", weights_only=True)["training"]["position"]
    assert position["epoch"] * 3 + position["step"] in range(2, 30)
