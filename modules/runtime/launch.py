"""The processes of a run: starting them, meeting, and leaving. For scripts."""

import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import NoReturn

import torch
import torch.distributed as dist

from modules.runtime.distributed import from_environment, is_main, local_rank, maximum, world_size
from modules.runtime.errors import UserError

# A rank that waits this long for another gives up, so that none hangs; a validation, during which
# the others wait for rank 0, must fit into it.
TIMEOUT = timedelta(minutes=30)


def launched() -> bool:
    """Whether this process is one of several that torchrun or launch() started."""
    return from_environment("WORLD_SIZE", 1) > 1


def connect() -> None:
    """Meet the other ranks: NCCL for tensors on GPUs, gloo for those on CPUs."""
    if launched() and not dist.is_initialized():
        if torch.cuda.is_available():
            torch.cuda.set_device(local_rank() % torch.cuda.device_count())
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, timeout=TIMEOUT)
        if not is_main():
            sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115 - rank 0 speaks for all


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
    os.environ.update(
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        WORLD_SIZE=str(count),
        RANK=str(number),
        LOCAL_RANK=str(number),
    )
    main()


def launch(main: Callable[[], object], count: int) -> int:
    """Run `main` in `count` processes on this machine; returns the exit status of the run.

    One that fails ends all. SIGTERM and SIGINT are passed on. main: a function of an importable
    module, or of the script that runs.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = torch.multiprocessing.start_processes(
        _worker, (count, port, main), count, join=False, start_method="spawn"
    )
    assert context is not None

    def pass_on(number: int, _frame: FrameType | None) -> None:
        for process in context.processes:
            if process.pid is not None and process.is_alive():
                os.kill(process.pid, number)

    signal.signal(signal.SIGTERM, pass_on)
    signal.signal(signal.SIGINT, pass_on)
    try:
        while not context.join():
            pass
    except torch.multiprocessing.ProcessExitedException as error:
        return 128 - error.exit_code if error.exit_code < 0 else error.exit_code
    except torch.multiprocessing.ProcessRaisedException as error:
        print(error, file=sys.stderr, flush=True)
        return 1
    return 0
