"""The processes of a run: starting them, meeting, and leaving. For scripts."""

import os
import signal
import socket
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TextIO

import torch
import torch.distributed as dist

from modules.runtime import signals
from modules.runtime.distributed import from_environment, is_main, local_rank, maximum, world_size
from modules.runtime.errors import UserError

WINDOWS = os.name == "nt"
# A rank that waits this long for another gives up, so that none hangs; a validation, during which
# the others wait for rank 0, must fit into it.
TIMEOUT = timedelta(minutes=30)


# What torchrun and launch() tell each process.
VARIABLES = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


def launched() -> bool:
    """Whether this process is one of several that torchrun or launch() started.

    Raises UserError where the environment says so by halves, as a cluster's may.
    """
    size = from_environment("WORLD_SIZE", 1)
    if size <= 1:
        return False
    if missing := [name for name in VARIABLES if not os.environ.get(name)]:
        raise UserError(
            f"WORLD_SIZE={size} is in the environment, but not {', '.join(missing)}: start the "
            "processes with torchrun, or unset WORLD_SIZE for a single one"
        )
    for name in ("RANK", "LOCAL_RANK"):
        from_environment(name, 0)
    return True


def connect() -> None:
    """Meet the other ranks: NCCL for tensors on GPUs, gloo for those on CPUs."""
    if launched() and not dist.is_initialized():
        if torch.cuda.is_available():
            torch.cuda.set_device(local_rank() % torch.cuda.device_count())
        # Windows has no NCCL; gloo averages gradients on GPUs too, more slowly.
        nccl = torch.cuda.is_available() and dist.is_nccl_available()
        backend = "cpu:gloo,cuda:nccl" if nccl else "gloo"
        try:
            dist.init_process_group(backend, timeout=TIMEOUT)
        except (RuntimeError, ValueError, OSError) as error:  # PyTorch's own are RuntimeErrors
            raise UserError(_why_apart(error)) from error
        if not is_main():
            # Rank 0 speaks for all.
            sys.stdout = _nowhere()


def _nowhere() -> TextIO:
    """A stream that takes any text."""
    return Path(os.devnull).open("w", encoding="utf-8", errors="replace")


def _why_apart(error: Exception) -> str:
    """Why the processes of a run could not meet, in a line."""
    what = (str(error).strip() or type(error).__name__).splitlines()[0]
    place = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
    advice = f"is {place} reachable, and has every process been started?"
    if "libuv" in str(error):
        advice = "this PyTorch was built without libuv: set USE_LIBUV=0 in the environment"
    elif "gloo" in what.lower() or "nccl" in what.lower():
        advice = "this PyTorch may lack it; train without --gpu and torchrun"
    size = os.environ.get("WORLD_SIZE")
    return f"the {size} processes of this run could not meet ({what:.200}); {advice}"


def check_batch(batch_size: int) -> None:
    """Raise UserError if the ranks cannot share a batch equally."""
    if batch_size % world_size():
        raise UserError(
            f"--batch_size {batch_size}: must be a multiple of the {world_size()} processes, "
            "which share each batch"
        )


def disconnect() -> None:
    """Leave the group, at the end of a sound run."""
    if dist.is_initialized():
        dist.destroy_process_group()


def exit_with(status: int) -> NoReturn:
    """End this process; where it is in a group still, without the interpreter's clearing up.

    The group's threads may be waiting for a rank that is gone, and PyTorch would abort (status 134)
    over them.
    """
    if dist.is_initialized():
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(status)
    sys.exit(status)


@contextmanager
def main_first() -> Iterator[None]:
    """Rank 0 goes through the block, then the others; if it fails there, they end without a word.

    So a user's mistake prints one line, and what rank 0 makes (a folder, a data set) exists for
    all.
    """
    if world_size() == 1:
        yield
        return
    if is_main():
        try:
            yield
        except BaseException:
            maximum(1)
            raise
        maximum(0)
        return
    if maximum(0)[0]:
        raise SystemExit(2)
    yield


def _worker(number: int, count: int, port: int, main: Callable[[], object]) -> None:
    """What each started process does: set the variables that torchrun sets, and run."""
    if WINDOWS:  # whose PyTorch may be built without libuv, and asks for it all the same
        os.environ.setdefault("USE_LIBUV", "0")
    os.environ.update(
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        WORLD_SIZE=str(count),
        RANK=str(number),
        LOCAL_RANK=str(number),
    )
    main()


def tell(processes: Iterable[Any], number: int) -> None:
    """Send a signal to those of the processes that live."""
    if WINDOWS:
        return  # the console has told all its processes; os.kill would end them, unsaved
    for process in processes:
        if process.pid is not None and process.is_alive():
            os.kill(process.pid, number)


def launch(main: Callable[[], object], count: int) -> int:
    """Run `main` in `count` processes on this machine; returns the exit status of the run.

    One that fails ends all. Signals that ask to stop are passed on. main: a function of an
    importable module, or of the script that runs.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    if not dist.is_available():
        raise UserError(f"--gpu {count}: this PyTorch was built without its distributed engine")
    context = torch.multiprocessing.start_processes(
        _worker, (count, port, main), count, join=False, start_method="spawn"
    )
    assert context is not None

    def pass_on(number: int, _frame: FrameType | None) -> None:
        tell(context.processes, number)

    for number in signals.heeded():
        signal.signal(number, pass_on)
    try:
        while not context.join():
            pass
    except torch.multiprocessing.ProcessExitedException as error:
        return 128 - error.exit_code if error.exit_code < 0 else error.exit_code
    except torch.multiprocessing.ProcessRaisedException as error:
        print(error, file=sys.stderr, flush=True)
        return 1
    return 0
