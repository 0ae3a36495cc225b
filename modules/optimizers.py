"""From a loss to new weights: the optimisers, and the guarded update with clipping and averaging.

Nothing here waits for the device: on CUDA an update is part of a graph.
"""

import copy
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from modules.cvae import CVAE
from modules.options import TrainerOptions
from modules.runtime import distributed

MOMENTUM = 0.95
# The quintic iteration of Jordan et al., which brings every singular value near 1 in five rounds.
NEWTON_SCHULZ, ROUNDS = (3.4445, -4.7750, 2.0315), 5
# Size of a step relative to Adam's at the same learning rate: 0.2·√max(rows, columns) gives it the
# same root mean square (Liu et al. 2025, "Muon is Scalable for LLM Training", equation 4); the
# networks here take steps twice as large.
SCALE = 2 * 0.2


def is_matrix(parameter: Tensor) -> bool:
    """Whether Muon takes it: a convolution's kernel that mixes channels, not a depthwise one."""
    return parameter.dim() == 4 and parameter.shape[0] > 3 and parameter.shape[1] > 1


def orthogonalised(matrix: Tensor) -> Tensor:
    """U·Vᵀ of the matrix's singular value decomposition U·S·Vᵀ, nearly: S becomes 0.7 … 1.2."""
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.mT if tall else matrix
    x = x / (torch.linalg.matrix_norm(x) + 1e-7)
    a, b, c = NEWTON_SCHULZ
    for _ in range(ROUNDS):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x.mT if tall else x


class Muon(torch.optim.Adam):
    """Muon for the kernels that mix channels, Adam for everything else, at one learning rate.

    Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks": a step goes along
    the orthogonalised momentum of a matrix. PyTorch's own torch.optim.Muon takes matrices alone and
    cannot run inside a CUDA graph; this one takes the kernels of convolutions as matrices,
    (out, in · height · width), and decides on the device what to skip.

    Like PyTorch's fused optimisers it reads the attribute `found_inf`, a tensor: where it is 1 the
    step changes nothing.
    """

    def __init__(self, params: Iterable[Tensor], **settings: Any) -> None:
        parameters = list(params)
        groups = [
            {"params": [p for p in parameters if not is_matrix(p)], "muon": False},
            {"params": [p for p in parameters if is_matrix(p)], "muon": True},
        ]
        super().__init__(groups, **settings)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step. closure: must be None."""
        assert closure is None
        skip = getattr(self, "found_inf", None)
        matrices = [
            (p, group["lr"])
            for group in self.param_groups
            if group["muon"]
            for p in group["params"]
        ]
        gradients = [p.grad for p, _ in matrices]
        for p, _ in matrices:
            p.grad = None  # Adam passes over these
        super().step()
        for (p, lr), gradient in zip(matrices, gradients, strict=True):
            p.grad = gradient
            if gradient is not None:
                self._matrix_step(p, gradient, lr, skip)

    def _matrix_step(
        self, p: Tensor, gradient: Tensor, lr: float | Tensor, skip: Tensor | None
    ) -> None:
        """p moves along its orthogonalised momentum, in place."""
        state = self.state[p]
        if not state:
            state["step"] = torch.zeros((), device=p.device)  # Adam looks for it in every state
            state["momentum"] = torch.zeros_like(p)
        momentum = state["momentum"].lerp(gradient, 1 - MOMENTUM)
        ahead = gradient.lerp(momentum, MOMENTUM)  # Nesterov's
        size = SCALE * max(p.shape[0], p[0].numel()) ** 0.5
        change = size * orthogonalised(ahead.flatten(1)).view_as(p)
        moved = p - lr * change
        if skip is None:
            state["step"] += 1
        else:
            state["step"] += 1 - skip
            momentum = torch.where(skip > 0, state["momentum"], momentum)
            moved = torch.where(skip > 0, p, moved)
        state["momentum"].copy_(momentum)
        p.copy_(moved)


# ---------------------------------------------------------------- the optimiser of a run


def make_optimizer(model: CVAE, o: TrainerOptions) -> torch.optim.Optimizer:
    """The optimiser of all weights, float32.

    Adam (Kingma & Ba 2015), AdamW (Loshchilov & Hutter 2019) or Muon (Jordan et al. 2024).
    """
    kinds = {"Adam": torch.optim.Adam, "AdamW": torch.optim.AdamW, "Muon": Muon}
    kind: Callable[..., torch.optim.Optimizer] = kinds[o.optim]
    return kind(model.parameters(), **_kernel_settings(model, o.lr))


def _kernel_settings(model: CVAE, lr: float) -> dict[str, Any]:
    """What depends on the device and not on the run: on CUDA a step must fit into a graph."""
    device = next(model.parameters()).device
    cuda = device.type == "cuda"
    return {
        "lr": torch.tensor(lr, device=device) if cuda else lr,
        "fused": True,
        "capturable": cuda,
    }


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Its state as plain values and tensors, the same whatever the device."""
    state = optimizer.state_dict()
    groups = [{**group, "lr": float(group["lr"])} for group in state["param_groups"]]
    return {**state, "param_groups": groups}


def load_optimizer_state(
    optimizer: torch.optim.Optimizer, model: CVAE, state: dict[str, Any]
) -> None:
    """Load a saved state on this device."""
    optimizer.load_state_dict(state)
    for group in optimizer.param_groups:
        group.update(_kernel_settings(model, float(group["lr"])))


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """The rate of all weights from here on."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(lr)  # in place: a captured step reads it from there
        else:
            group["lr"] = lr


def clip_gradient(parameters: list[torch.nn.Parameter], max_norm: float) -> Tensor:
    """Scale the gradients so that their norm is at most max_norm; returns the norm before that.

    As torch.nn.utils.clip_grad_norm_, but the squares are summed in float64. Just after teacher
    forcing ends, a gradient through many fed-back frames can be finite and yet beyond 1e19, whose
    square overflows float32: its direction is still good for a step. Scalar, float64.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients, 2, torch.float64)))
    factor = (max_norm / (norm + 1e-6)).clamp(max=1.0).float()
    torch._foreach_mul_(gradients, factor)
    return norm


# ---------------------------------------------------------------- the update


class WeightAverage:
    """An exponential moving average of a model's weights (Polyak & Juditsky 1992, in the form of
    Tarvainen & Valpola 2017, "Mean teachers"): less noise of the last steps.

    decay: per step; while n steps are fewer than it remembers, (1 + n) / (10 + n) instead, so that
    the initial weights are soon forgotten.
    """

    def __init__(self, model: CVAE, decay: float) -> None:
        self.source, self.decay = model, decay
        self.model = copy.deepcopy(model).requires_grad_(False)
        self.steps = torch.zeros((), dtype=torch.float64, device=next(model.parameters()).device)

    def update(self, applied: Tensor) -> None:
        """After a step; one that was not applied (a boolean on the device) changes nothing."""
        self.steps += applied
        decay = ((1.0 + self.steps) / (10.0 + self.steps)).clamp(max=self.decay)
        part = torch.where(applied, 1.0 - decay, 0.0).float()
        averages: list[Tensor] = [p.detach() for p in self.model.parameters()]
        weights: list[Tensor] = [p.detach() for p in self.source.parameters()]
        differences = list(torch._foreach_sub(weights, averages))
        torch._foreach_mul_(differences, part)
        torch._foreach_add_(averages, differences)

    def averaged(self) -> CVAE:
        """The model with the averaged weights, and the batch-norm statistics as they are."""
        for ours, theirs in zip(self.model.buffers(), self.source.buffers(), strict=True):
            ours.copy_(theirs)
        return self.model


class GuardedUpdate:
    """Backward pass, clipping and one step of the optimiser, unless it would do harm.

    A step whose loss or gradient is not finite changes nothing: no weight, no average, no
    batch-norm statistic. That is decided on the device.
    """

    def __init__(
        self,
        model: CVAE,
        optimizer: torch.optim.Optimizer,
        average: WeightAverage | None,
        max_norm: float,
    ) -> None:
        """max_norm: of the gradient; 0 = no clipping."""
        self.optimizer, self.average = optimizer, average
        self.parameters, self.buffers = list(model.parameters()), list(model.buffers())
        # Without clipping the norm is still wanted: one NaN in a gradient shows in it.
        self.max_norm = max_norm or math.inf
        # False while a graph is warmed up: such a step changes nothing either.
        self.enabled = torch.ones((), dtype=torch.bool, device=self.parameters[0].device)

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """While inside, updates change nothing."""
        self.enabled.fill_(False)
        try:
            yield
        finally:
            self.enabled.fill_(True)

    def buffers_before(self) -> list[Tensor]:
        """The batch-norm statistics, to be taken before the forward pass changes them."""
        return [buffer.clone() for buffer in self.buffers]

    def __call__(self, loss: Tensor, total: Tensor, before: list[Tensor]) -> Tensor:
        """Update the weights; returns whether loss and gradient were finite, on the device.

        loss: this rank's part, scalar; total: its sum over the ranks; before: buffers_before()
        """
        self.optimizer.zero_grad(set_to_none=True)
        # DistributedDataParallel averages gradients over the ranks; their sum is wanted.
        (loss * distributed.world_size()).backward()
        norm = clip_gradient(self.parameters, self.max_norm)
        with torch.no_grad():
            finite = torch.isfinite(total) & torch.isfinite(norm)
            applied = finite & self.enabled
            # The fused optimisers read this attribute and leave everything as it is where it is 1.
            self.optimizer.found_inf = (~applied).float()  # type: ignore[attr-defined]
            self.optimizer.grad_scale = None  # type: ignore[attr-defined]
            self.optimizer.step()
            if self.average is not None:
                self.average.update(applied)
            for buffer, kept in zip(self.buffers, before, strict=True):
                buffer.copy_(torch.where(applied, buffer, kept))
        return finite
