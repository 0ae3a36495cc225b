"""Several processes, one for each GPU (or several on CPUs), by PyTorch's distributed engine.

Every process has the whole data set and draws what a single process would draw: the same batches,
latents and teacher forcing from (seed, epoch, step). Of each batch it takes every world-th clip,
so a run gives the same results, to rounding, with any number of processes. Gradients are averaged
by DistributedDataParallel, batch-norm statistics taken over the whole batch, and rank 0 alone
validates and writes.

Processes are started by torchrun, or by --gpu N. Without either there is one, and all functions
here do nothing or answer for it.
"""

import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from modules.errors import UserError

# A rank that waits this long for another gives up, so that none hangs; a validation, during which
# the others wait for rank 0, must fit into it.
TIMEOUT = timedelta(minutes=30)


def launched() -> bool:
    """Whether this process is one of several that torchrun or launch() started."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def world_size() -> int:
    """The number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """This process's number, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_main() -> bool:
    """Whether this process is the one that validates and writes. True before the ranks have met."""
    return (dist.get_rank() if dist.is_initialized() else int(os.environ.get("RANK", "0"))) == 0


def local_rank() -> int:
    """This process's number on its machine, from 0: which GPU it takes."""
    return int(os.environ.get("LOCAL_RANK", "0"))


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

    So a user's mistake is one line, and what rank 0 makes (a folder, a data set) is there for all.
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


def maximum(*values: int) -> list[int]:
    """The largest of each value over all ranks, by way of the CPUs: GPUs are not waited for."""
    if world_size() == 1:
        return list(values)
    together = torch.tensor(values, dtype=torch.int64)
    dist.all_reduce(together, dist.ReduceOp.MAX)
    return together.tolist()


def from_main(*values: float) -> list[float]:
    """Rank 0's values, on every rank."""
    if world_size() == 1:
        return list(values)
    together = torch.tensor(values, dtype=torch.float64)
    dist.broadcast(together, 0)
    return together.tolist()


def add_up(values: Tensor) -> Tensor:
    """The sum of a tensor over all ranks, on every rank; in place."""
    if world_size() > 1:
        dist.all_reduce(values)
    return values


# ---------------------------------------------------------------- the model


class _Sum(torch.autograd.Function):
    """The sum over all ranks; the gradient of a sum over ranks is the sum of their gradients."""

    @staticmethod
    def forward(_context: Any, values: Tensor) -> Tensor:
        return add_up(values.clone())

    @staticmethod
    def backward(_context: Any, gradient: Tensor) -> Tensor:
        return add_up(gradient.clone())


class WholeBatchNorm(nn.BatchNorm2d):
    """BatchNorm2d whose training statistics are those of the batch over all ranks.

    PyTorch's SyncBatchNorm does not run on CPUs, nor does it let a rank be without clips.
    """

    share = 1.0  # 0 on a rank whose input only fills the place of a clip

    def forward(self, x: Tensor) -> Tensor:  # (B, C, H, W)
        if not self.training or world_size() == 1:
            return super().forward(x)
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None and self.momentum is not None
        # Float32, and the variance from differences: squares would cancel.
        values = x.float()
        count = torch.full((1,), self.share * x.numel() / x.shape[1], device=x.device)
        sums = _Sum.apply(torch.cat((self.share * values.sum(dim=(0, 2, 3)), count)))  # (C + 1,)
        mean, count = sums[:-1] / sums[-1], sums[-1]
        centred = values - mean[:, None, None]  # (B, C, H, W)
        variance = _Sum.apply(self.share * centred.square().sum(dim=(0, 2, 3))) / count  # (C,)
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        scale = self.weight * torch.rsqrt(variance + self.eps)  # (C,)
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)


def parallel(model: nn.Module) -> nn.Module:
    """The model as it is trained: over all ranks' clips where there are several ranks.

    The model given is changed (its batch-norm layers) but keeps its tensors' names; the result
    shares its weights.
    """
    if world_size() == 1:
        return model
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.__class__ = WholeBatchNorm
    device = next(model.parameters()).device
    ids = [device] if device.type == "cuda" else None
    # Statistics are equal on all ranks as they are; each gradient is a view of its bucket.
    return DistributedDataParallel(
        model, device_ids=ids, broadcast_buffers=False, gradient_as_bucket_view=True
    )


def set_share(model: nn.Module, share: float) -> None:
    """1 where this rank has clips in the step, 0 where its input only fills a place."""
    for module in model.modules():
        if isinstance(module, WholeBatchNorm):
            module.share = share


# ---------------------------------------------------------------- starting the processes


def _worker(number: int, count: int, port: int, main: Callable[[], object]) -> None:
    """What each started process does: be told who it is, as torchrun tells it, and run."""
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
