"""Several processes, one for each GPU (or several on CPUs), by PyTorch's distributed engine.

Every process has the whole data set and draws what a single process would draw: the same batches,
latents and teacher forcing from (seed, epoch, step). Of each batch it takes every world-th clip,
so a run gives the same results, to rounding, with any number of processes. Rank 0 alone validates
and writes. Gradients are added up: on GPUs by one call for all of them, which fits into a CUDA
graph; on CPUs by DistributedDataParallel, which sends the first while others are still computed.

Processes are started by torchrun, or by --gpu N. Without either there is one, and all functions
here do nothing or answer for it.
"""

import os

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from modules.runtime.errors import UserError


def world_size() -> int:
    """The number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """This process's number, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_main() -> bool:
    """Whether this process is the one that validates and writes. True before the ranks have met."""
    return (dist.get_rank() if dist.is_initialized() else from_environment("RANK", 0)) == 0


def local_rank() -> int:
    """This process's number on its machine, from 0: which GPU it takes."""
    return from_environment("LOCAL_RANK", 0)


def from_environment(name: str, otherwise: int) -> int:
    """A whole number that torchrun left in the environment. Raises UserError if it is not one."""
    text = os.environ.get(name, "")
    if text and not text.isdecimal():
        raise UserError(
            f"{name}={text!r} in the environment: must be a whole number, as torchrun sets it; "
            f"unset {name} for a run in one process"
        )
    return int(text or otherwise)


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


def adds_gradients(device: torch.device) -> bool:
    """Whether each step adds up the ranks' gradients itself, by add_up_gradients()."""
    return world_size() > 1 and device.type == "cuda"


def parallel(model: nn.Module) -> nn.Module:
    """The model as it is trained: over all ranks' clips where there are several ranks.

    The result shares the given model's weights.
    """
    if world_size() == 1:
        return model
    if adds_gradients(next(model.parameters()).device):
        # As DistributedDataParallel does at its start: the ranks' weights are the same, whatever
        # each of them loaded or drew.
        for tensor in (*model.parameters(), *model.buffers()):
            dist.broadcast(tensor.detach().as_strided((tensor.numel(),), (1,)), 0)
        return model
    # Every rank measures the labels' statistics; each gradient is a view of its bucket.
    return DistributedDataParallel(model, broadcast_buffers=False, gradient_as_bucket_view=True)


def add_up_gradients(parameters: list[nn.Parameter]) -> None:
    """Make each gradient the sum of all ranks', by one call; they become views of one tensor.

    A gradient that one rank has all have, laid out in memory as its parameter.
    """
    held = [p for p in parameters if p.grad is not None]
    gradients = [p.grad for p in held if p.grad is not None]
    together = add_up(torch.cat([g.as_strided((g.numel(),), (1,)) for g in gradients]))
    first = 0
    for p, gradient in zip(held, gradients, strict=True):
        p.grad = together.as_strided(gradient.shape, gradient.stride(), first)
        first += gradient.numel()
