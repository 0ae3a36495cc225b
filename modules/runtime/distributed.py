"""Several processes, one for each GPU (or several on CPUs), by PyTorch's distributed engine.

Every process has the whole data set and draws what a single process would draw: the same batches,
latents and teacher forcing from (seed, epoch, step). Of each batch it takes every world-th clip,
so a run gives the same results, to rounding, with any number of processes. Batch-norm statistics
are taken over the whole batch, and rank 0 alone validates and writes. Gradients are added up: on
GPUs by one call for all of them, which fits into a CUDA graph; on CPUs by DistributedDataParallel,
which sends the first while others are still computed.

Processes are started by torchrun, or by --gpu N. Without either there is one, and all functions
here do nothing or answer for it.
"""

import os
from typing import Any

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


class _Sum(torch.autograd.Function):
    """The sum over all ranks; the gradient of a sum over ranks is the sum of their gradients."""

    @staticmethod
    def forward(_context: Any, values: Tensor) -> Tensor:
        return add_up(values.clone())

    @staticmethod
    def backward(_context: Any, gradient: Tensor) -> Tensor:
        return add_up(gradient.clone())


class WholeBatchNorm(nn.BatchNorm2d):
    """BatchNorm2d whose training statistics are those of the batch's clips over all ranks.

    PyTorch's SyncBatchNorm does not run on CPUs, nor does it let a clip be without weight.
    """

    clips: Tensor | None = None  # (clips,) weights: 0 for those that only fill a place, else 1

    def forward(self, x: Tensor) -> Tensor:  # (n·clips, C, H, W), the clips' frames in turn
        if not self.training or self.clips is None:
            return super().forward(x)
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None and self.momentum is not None
        # Float32, and the variance from differences: squares would cancel.
        values = x.float()
        weights = self.clips.repeat(len(x) // len(self.clips))[:, None]  # (n·clips, 1)
        count = weights.sum(dim=0) * x[0, 0].numel()  # (1,)
        sums = _Sum.apply(torch.cat(((weights * values.sum(dim=(2, 3))).sum(dim=0), count)))
        mean, count = sums[:-1] / sums[-1], sums[-1]  # (C,), scalar
        centred = values - mean[:, None, None]  # (n·clips, C, H, W)
        squares = (weights * centred.square().sum(dim=(2, 3))).sum(dim=0)
        variance = _Sum.apply(squares) / count  # (C,)
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        scale = self.weight * torch.rsqrt(variance + self.eps)  # (C,)
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)


def adds_gradients(device: torch.device) -> bool:
    """Whether each step adds up the ranks' gradients itself, by add_up_gradients()."""
    return world_size() > 1 and device.type == "cuda"


def parallel(model: nn.Module) -> nn.Module:
    """The model as it is trained: over all ranks' clips where there are several ranks.

    The model given is changed (its batch-norm layers) but keeps its tensors' names; the result
    shares its weights.
    """
    if world_size() == 1:
        return model
    normalise_by_weight(model)
    if adds_gradients(next(model.parameters()).device):
        # As DistributedDataParallel does at its start: the ranks' weights are the same, whatever
        # each of them loaded or drew.
        for tensor in (*model.parameters(), *model.buffers()):
            dist.broadcast(tensor.detach().as_strided((tensor.numel(),), (1,)), 0)
        return model
    # Statistics are equal on all ranks as they are; each gradient is a view of its bucket.
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


def normalise_by_weight(model: nn.Module) -> None:
    """Let its batch-norm layers heed set_weights(); they keep their tensors' names."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.__class__ = WholeBatchNorm


def set_weights(model: nn.Module, clips: Tensor) -> None:
    """(clips,): 0 for this rank's clips of the step that only fill a place, 1 for the others."""
    for module in model.modules():
        if isinstance(module, WholeBatchNorm):
            module.clips = clips
