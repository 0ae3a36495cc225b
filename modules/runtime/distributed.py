"""Several processes (ranks), one for each GPU, or several on CPUs, by PyTorch's distributed engine.

Every rank has the whole data set and draws what a single process would draw: the same batches,
latents and teacher forcing from (seed, epoch, step). Of each batch it takes every world-th clip,
so a run gives the same results, to rounding, with any number of ranks. Rank 0 alone validates
and writes. Gradients are summed by one call for all of them, which fits into a CUDA graph.

Ranks are started by torchrun, or by --gpu N with torchrun's own launcher. Without either there is
one process, and all functions here do nothing or answer for it.
"""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import NoReturn

import torch
import torch.distributed as dist
from torch import Tensor, nn

from modules.runtime import signals
from modules.runtime.errors import Stopped, UserError

# A rank that waits this long for another gives up, so that none hangs; a validation, during which
# the others wait for rank 0, must fit into it.
TIMEOUT = timedelta(minutes=30)

# ---------------------------------------------------------------- starting and ending


def launch(count: int) -> int:
    """Run this script's command line in `count` ranks on this machine, as torchrun does.

    Returns the exit status: of the first rank that failed, which ends all and has written its own
    error, or 128 + the number of a signal, which is passed on.
    """
    # Here, since this imports a fifth of a second's worth of modules.
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # A save may take longer than the 30 s after which the launcher kills a rank.
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "600")
    logging.disable()  # of the launcher alone: its report of a failure is a screen of text
    config = LaunchConfig(
        *(1, 1, count),
        run_id=f"gpu{os.getpid()}",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
    )
    config.signals_to_handle = ",".join(number.name for number in signals.handled())
    try:
        elastic_launch(config, sys.executable)(*sys.argv)
    except ChildFailedError as failed:
        status: int = failed.get_first_failure()[1].exitcode
        return 128 - status if status < 0 else status
    except SignalException as stop:
        return 128 + stop.sigval
    return 0


def connect() -> None:
    """Connect to the other ranks, if any: NCCL for tensors on GPUs, gloo for those on CPUs."""
    size = int(os.environ.get("WORLD_SIZE", 1))
    if size == 1 or dist.is_initialized():
        return
    # Windows has no NCCL; gloo sums gradients on GPUs too, more slowly.
    nccl = torch.cuda.is_available() and dist.is_nccl_available()
    try:
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
        dist.init_process_group("cpu:gloo,cuda:nccl" if nccl else "gloo", timeout=TIMEOUT)
    except (RuntimeError, ValueError, KeyError, OSError) as error:
        what = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"the {size} processes of this run could not connect ({what:.200}); start all of them "
            "with torchrun, where they reach each other, or unset WORLD_SIZE for a single one"
        ) from error
    if rank() > 0:  # rank 0 speaks for all
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8", errors="replace")  # noqa: SIM115


@contextmanager
def main_first() -> Iterator[None]:
    """Rank 0 goes through the block, then the others; if it fails there, they exit silently.

    So a user's mistake is one line, and what rank 0 makes (a folder, a data set) exists for all.
    """
    if not is_main() and maximum(0)[0]:
        raise SystemExit(2)
    try:
        yield
    except BaseException:
        if is_main():
            maximum(1)
        raise
    if is_main():
        maximum(0)


def disconnect() -> None:
    """Leave the group, at the end of a sound run."""
    if dist.is_initialized():
        dist.destroy_process_group()


def stop(number: int) -> NoReturn:
    """Raise Stopped, on every rank, once rank 0 is here: once it has saved.

    The first rank that ends makes the launcher end the others, which would be in the midst of it.
    """
    maximum(0)
    raise Stopped(number)


def exit_with(status: int) -> NoReturn:
    """End this process; where it is in a group still, without the interpreter's clean-up.

    PyTorch would abort (status 134) over the group's threads that wait for a rank that is gone.
    """
    if dist.is_initialized():
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(status)
    sys.exit(status)


# ---------------------------------------------------------------- ranks, and values of all of them


def world_size() -> int:
    """The number of ranks."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """This process's number, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_main() -> bool:
    """Whether this process validates and writes. True before the ranks are connected."""
    return rank() == 0


def check_batch(batch_size: int) -> None:
    """Raise UserError if the ranks cannot share a batch equally."""
    if batch_size % world_size():
        raise UserError(
            f"--batch_size {batch_size}: must be a multiple of the {world_size()} processes, "
            "which share each batch"
        )


def maximum(*values: int) -> list[int]:
    """The largest of each value over all ranks, by way of the CPUs: GPUs are not waited for."""
    together = torch.tensor(values, dtype=torch.int64)
    if world_size() > 1:
        dist.all_reduce(together, dist.ReduceOp.MAX)
    return together.tolist()


def from_main(*values: float) -> list[float]:
    """Rank 0's values, on every rank."""
    together = torch.tensor(values, dtype=torch.float64)
    if world_size() > 1:
        dist.broadcast(together, 0)
    return together.tolist()


def sum_over_ranks(values: Tensor) -> Tensor:
    """The sum of a tensor over all ranks, on every rank; in place."""
    if world_size() > 1:
        dist.all_reduce(values)
    return values


def share_weights(model: nn.Module) -> None:
    """Rank 0's weights and statistics, on every rank: machines may differ in a last bit."""
    if world_size() > 1:
        for tensor in (*model.parameters(), *model.buffers()):
            dist.broadcast(tensor.detach().as_strided((tensor.numel(),), (1,)), 0)


def sum_gradients(parameters: list[nn.Parameter]) -> None:
    """Make each gradient the sum of all ranks', by one call; they become views of one tensor."""
    if world_size() == 1:
        return
    held = [p for p in parameters if p.grad is not None]
    gradients = [p.grad for p in held if p.grad is not None]
    together = torch.cat([g.as_strided((g.numel(),), (1,)) for g in gradients])
    first = 0
    for p, gradient in zip(held, gradients, strict=True):
        p.grad = together.as_strided(gradient.shape, gradient.stride(), first)
        first += gradient.numel()
    dist.all_reduce(together)
