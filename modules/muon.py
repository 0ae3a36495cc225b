"""Muon: steps along the orthogonalised momentum of each convolution, Adam's steps for the rest.

Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks". PyTorch's own
torch.optim.Muon takes matrices alone and cannot run inside a CUDA graph; this one takes the kernels
of convolutions as matrices, (out, in · height · width), and decides on the device what to skip.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

MOMENTUM = 0.95
# The quintic iteration of Jordan et al., which brings every singular value near 1 in five rounds.
NEWTON_SCHULZ, ROUNDS = (3.4445, -4.7750, 2.0315), 5
# Size of a step beside Adam's at the same learning rate: 0.2·√max(rows, columns) gives it the same
# root mean square (Liu et al. 2025, "Muon is Scalable for LLM Training", equation 4); the networks
# here take steps twice as large.
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
