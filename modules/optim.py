"""From a loss to new weights: the optimisers, and the guarded update with clipping and averaging.

Nothing here waits for the device: on CUDA an update is part of a graph.
"""

import copy
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import accumulate, combinations
from typing import Any, NamedTuple

import torch
from torch import Tensor

from modules.cvae import CVAE
from modules.options import TrainerOptions
from modules.runtime import distributed
from modules.runtime.device import waits_to_decide, widest_float

MOMENTUM = 0.95
# The quintic iteration of Jordan et al., which brings every singular value near 1 in five rounds.
NEWTON_SCHULZ, ROUNDS = (3.4445, -4.7750, 2.0315), 5
# Size of a step relative to Adam's at the same learning rate: 0.2·√max(rows, columns) gives it the
# same root mean square (Liu et al. 2025, "Muon is Scalable for LLM Training", equation 4); the
# networks here take steps twice as large.
SCALE = 2 * 0.2
# Matrices of different sizes are filled up to this many sizes. Fewer: fewer kernels; more: less
# arithmetic: with 12 a quarter more than with none for a full-size model.
SIZES = 12
Size = tuple[int, int]  # rows, columns


def is_matrix(parameter: Tensor) -> bool:
    """Whether Muon takes it: a convolution's kernel that mixes channels, not a depthwise one."""
    return parameter.dim() == 4 and parameter.shape[0] > 3 and parameter.shape[1] > 1


def orthogonalised(matrices: Tensor) -> Tensor:
    """U·Vᵀ of each matrix's singular value decomposition U·S·Vᵀ, nearly: S becomes 0.7 … 1.2.

    (n, rows, columns) with rows ≤ columns. A matrix may be filled up with rows and columns of
    zeros: they stay zeros and change nothing else.
    """
    x = matrices / (torch.linalg.vector_norm(matrices, dim=(1, 2), keepdim=True) + 1e-7)
    a, b, c = NEWTON_SCHULZ
    for _ in range(ROUNDS):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x


def shared_sizes(sizes: Iterable[Size], most: int) -> dict[Size, Size]:
    """For each (rows, columns), rows ≤ columns, the size that it is filled up to.

    There are at most `most` of them, chosen so that filling up costs few multiplications.
    """

    def cost(rows: int, columns: int, count: int) -> int:
        return count * rows**2 * (2 * columns + rows)

    counts = Counter(sizes)
    groups = [(rows, columns, counts[rows, columns]) for rows, columns in sorted(counts)]
    while len(groups) > most:
        joined = {
            (i, j): (max(a[0], b[0]), max(a[1], b[1]), a[2] + b[2])
            for (i, a), (j, b) in combinations(enumerate(groups), 2)
        }
        added = {ij: cost(*g) - sum(cost(*groups[k]) for k in ij) for ij, g in joined.items()}
        pair = min(added, key=lambda ij: added[ij])
        groups = [g for k, g in enumerate(groups) if k not in pair] + [joined[pair]]
    groups.sort(key=lambda g: cost(g[0], g[1], 1))
    return {s: next(g[:2] for g in groups if g[0] >= s[0] and g[1] >= s[1]) for s in counts}


class Matrices:
    """Kernels of convolutions as matrices, (out, in · height · width), side by side in one tensor.

    A step on each of them is some 60 small kernels; on all together it is a few large ones.
    """

    def __init__(self, kernels: list[Tensor]) -> None:
        """kernels: dense in memory, output channels outermost, as contiguous and channels-last."""
        self.kernels = kernels
        self.scales = [SCALE * max(p.shape[0], p[0].numel()) ** 0.5 for p in kernels]
        starts = [0, *accumulate(p.numel() for p in kernels)]
        shapes = [(p.shape[0], p[0].numel()) for p in kernels]
        filled = shared_sizes([(min(s), max(s)) for s in shapes], SIZES)
        batches: dict[Size, list[int]] = {}
        for i, shape in enumerate(shapes):
            batches.setdefault(filled[min(shape), max(shape)], []).append(i)
        self.batches = [(len(members), *size) for size, members in batches.items()]
        # Where each number of the batches comes from (the last place holds a zero), and where each
        # number of the kernels went to.
        comes, went = [], torch.empty(starts[-1], dtype=torch.int64)
        first = 0
        for (rows, columns), members in batches.items():
            index = torch.full((len(members), rows, columns), starts[-1])
            places = first + torch.arange(index.numel()).view_as(index)
            for k, i in enumerate(members):
                own = torch.arange(starts[i], starts[i + 1]).view(shapes[i])
                own = own if own.shape[0] <= own.shape[1] else own.mT
                part = (k, slice(own.shape[0]), slice(own.shape[1]))
                index[part], went[own] = own, places[part]
            comes.append(index.flatten())
            first += index.numel()
        self.comes, self.went = (x.to(kernels[0].device) for x in (torch.cat(comes), went))

    def joined(self, tensors: list[Tensor]) -> Tensor:
        """Tensors of the kernels' shapes end to end, in the order of the kernels' memory."""
        alike = (
            t if t.stride() == p.stride() else torch.empty_like(p).copy_(t)
            for t, p in zip(tensors, self.kernels, strict=True)
        )
        return torch.cat([t.as_strided((t.numel(),), (1,)) for t in alike])

    def split(self, joined: Tensor) -> list[Tensor]:
        """The tensors, as views."""
        parts = joined.split([p.numel() for p in self.kernels])
        return [
            x.as_strided(p.shape, p.stride(), x.storage_offset())
            for x, p in zip(parts, self.kernels, strict=True)
        ]

    def orthogonalised(self, joined: Tensor) -> Tensor:
        """orthogonalised() of each matrix; joined as before."""
        x = torch.cat((joined, joined.new_zeros(1))).index_select(0, self.comes)
        parts = x.split([math.prod(batch) for batch in self.batches])
        done = [
            orthogonalised(x.view(b)).flatten() for x, b in zip(parts, self.batches, strict=True)
        ]
        return torch.cat(done).index_select(0, self.went)


class Muon(torch.optim.Adam):
    """Muon for the kernels that mix channels, Adam for everything else, at one learning rate.

    Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks": a step goes along
    the orthogonalised momentum of a matrix. PyTorch's own torch.optim.Muon takes matrices alone and
    cannot run inside a CUDA graph; this one takes the kernels of convolutions as matrices,
    (out, in · height · width), and decides on the device what to skip.

    Like PyTorch's fused optimisers it reads the attribute `found_inf`, a tensor: where it is 1 the
    step changes nothing.
    """

    def __init__(
        self, params: Iterable[Tensor], output_layers: Iterable[Tensor] = (), **settings: Any
    ) -> None:
        """output_layers: those of the parameters that are left to Adam, whatever their shape."""
        output = {id(p) for p in output_layers}
        groups: list[dict[str, Any]] = [{"params": [], "muon": muon} for muon in (False, True)]
        for p in params:
            groups[is_matrix(p) and id(p) not in output]["params"].append(p)
        super().__init__(groups, **settings)
        self._matrices: Matrices | None = None

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step. closure: must be None."""
        assert closure is None
        skip = getattr(self, "found_inf", None)
        (group,) = (group for group in self.param_groups if group["muon"])
        kernels = [p for p in group["params"] if p.grad is not None]
        gradients = [p.grad for p in kernels]
        for p in kernels:
            p.grad = None  # Adam passes over these
        super().step()
        for p, gradient in zip(kernels, gradients, strict=True):
            p.grad = gradient
        if kernels:
            self._step_on(kernels, group["lr"], skip)

    def _step_on(self, kernels: list[Tensor], lr: float | Tensor, skip: Tensor | None) -> None:
        """These move along their orthogonalised momentum, in place."""
        known = [] if self._matrices is None else self._matrices.kernels
        if [*map(id, known)] != [*map(id, kernels)]:
            self._matrices = Matrices(kernels)
        assert self._matrices is not None
        matrices, states = self._matrices, [self.state[p] for p in kernels]
        for state, p in zip(states, kernels, strict=True):
            if not state:
                state["step"] = torch.zeros((), device=p.device)  # Adam looks for it in every state
                state["momentum"] = torch.zeros_like(p)
        momenta = [state["momentum"] for state in states]
        gradient = matrices.joined([p.grad for p in kernels if p.grad is not None])
        before = matrices.joined(momenta)
        momentum = before.lerp(gradient, 1 - MOMENTUM)
        change = matrices.orthogonalised(gradient.lerp(momentum, MOMENTUM))  # Nesterov's
        counted = torch.ones((), device=gradient.device)
        if skip is not None:
            counted = 1.0 - skip
            momentum = torch.where(skip > 0, before, momentum)
            change = torch.where(skip > 0, 0.0, change)  # a product would keep a NaN
        moves = matrices.split(change * lr)
        torch._foreach_mul_(moves, matrices.scales)
        torch._foreach_sub_(kernels, moves)
        torch._foreach_copy_(momenta, matrices.split(momentum))
        # A list, since a single number on the device would be waited for.
        torch._foreach_add_([state["step"] for state in states], [counted] * len(states))


# ---------------------------------------------------------------- the optimiser of a run


def make_optimizer(model: CVAE, o: TrainerOptions) -> torch.optim.Optimizer:
    """Adam (Kingma & Ba 2015), AdamW (Loshchilov & Hutter 2019) or Muon, of all weights."""
    settings = _kernel_settings(model, o.lr)
    if o.optim == "Muon":
        # Those of a folded model have enough rows to be taken for hidden layers; it then diverges.
        return Muon(model.parameters(), model.output_kernels(), **settings)
    kind = torch.optim.Adam if o.optim == "Adam" else torch.optim.AdamW
    return kind(model.parameters(), **settings)


def _kernel_settings(model: CVAE, lr: float) -> dict[str, Any]:
    """What depends on the device and not on the run: on CUDA a step must fit into a graph."""
    device = next(model.parameters()).device
    cuda = device.type == "cuda"
    rate = torch.tensor(lr, device=device) if cuda else lr
    return {"lr": rate, "fused": True, "capturable": cuda}


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


# ---------------------------------------------------------------- the update


class WeightAverage:
    """An exponential moving average of a model's weights (Polyak & Juditsky 1992, in the form of
    Tarvainen & Valpola 2017, "Mean teachers"): less noise of the last steps.

    decay: per step; while n steps are fewer than it remembers, (1 + n) / (10 + n) instead, so that
    the initial weights are soon forgotten.
    """

    def __init__(self, model: CVAE, decay: float) -> None:
        self.source, self.decay = model, decay
        # They keep requires_grad, without which autocast would cast them anew for every frame.
        self.model = copy.deepcopy(model)
        device = next(model.parameters()).device
        self.steps = torch.zeros((), dtype=widest_float(device), device=device)

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


START = 2.0**16
# A gradient that overflows with the smallest factor is beyond 1e9: no matter of float16.
SMALLEST, LARGEST = 2.0**-14, 2.0**32
SOUND_STEPS = 500  # from one doubling to the next


class LossScale:
    """The factor of the loss with float16, whose smallest numbers are larger than most gradients.

    Micikevicius et al. 2018, "Mixed Precision Training", section 3.2: the loss is multiplied before
    the backward pass, so that small gradients do not become 0, and the gradient is divided again
    before it is used. Where it overflows, that step is left out and the factor halved; after many
    sound steps it is doubled. A power of two, so that multiplying and dividing rounds nothing.
    """

    def __init__(self, device: torch.device) -> None:
        self.value = torch.full((), START, device=device)
        self.sound = torch.zeros((), device=device)  # steps since the value was last changed

    def update(self, loss: Tensor, norm: Tensor, enabled: Tensor) -> Tensor:
        """After a backward pass; whether this step only served to lower the factor, a boolean.

        loss: without the factor; norm: of the gradient; enabled: False changes nothing. A loss that
        is not finite is no matter of the factor, nor is a gradient that overflows with the
        smallest one. All on the device, like the result.
        """
        sound = torch.isfinite(loss) & torch.isfinite(norm)
        overflowed = torch.isfinite(loss) & ~torch.isfinite(norm) & (self.value > SMALLEST)
        counted = torch.where(overflowed, 0.0, self.sound + sound)
        grows = counted >= SOUND_STEPS
        value = torch.where(overflowed, 0.5 * self.value, self.value)
        value = torch.where(grows, (2.0 * value).clamp(max=LARGEST), value)
        self.value.copy_(torch.where(enabled, value, self.value))
        self.sound.copy_(torch.where(enabled, torch.where(grows, 0.0, counted), self.sound))
        return overflowed

    def state_dict(self) -> dict[str, float]:
        """Plain values for the checkpoint. Waits for the device."""
        return {"value": self.value.item(), "sound": self.sound.item()}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Continue from saved values."""
        self.value.fill_(state["value"])
        self.sound.fill_(state["sound"])


class Outcome(NamedTuple):
    """Of an update: booleans on the device."""

    finite: Tensor  # loss and gradient were
    overflowed: Tensor | None = None  # the step only lowered the loss's scale; None: it has none


class GuardedUpdate:
    """Backward pass, clipping and one step of the optimiser, unless it would do harm.

    A step whose loss or gradient is not finite changes nothing: no weight, no average. That is
    decided on the device, where its optimisers can.
    """

    def __init__(
        self,
        model: CVAE,
        optimizer: torch.optim.Optimizer,
        average: WeightAverage | None,
        max_norm: float,
        scale: LossScale | None = None,
    ) -> None:
        """max_norm: of the gradient; 0 = no clipping. scale: of the loss, with float16."""
        self.optimizer, self.average, self.scale = optimizer, average, scale
        self.parameters = list(model.parameters())
        # Without clipping the norm is still wanted: one NaN in a gradient shows in it.
        self.max_norm = max_norm or math.inf
        device = self.parameters[0].device
        self.waits = waits_to_decide(device)
        # False while a graph is warmed up: such a step changes nothing either.
        self.enabled = torch.ones((), dtype=torch.bool, device=device)

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """While inside, updates change nothing."""
        self.enabled.fill_(False)
        try:
            yield
        finally:
            self.enabled.fill_(True)

    def __call__(self, loss: Tensor, total: Tensor) -> Outcome:
        """Update the weights; returns what became of it.

        loss: this rank's part, scalar; total: its sum over the ranks
        """
        self.optimizer.zero_grad(set_to_none=True)
        scale = None if self.scale is None else self.scale.value
        (loss if scale is None else loss * scale).backward()
        distributed.sum_gradients(self.parameters)
        if scale is not None:
            torch._foreach_div_([p.grad for p in self.parameters if p.grad is not None], scale)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.max_norm, foreach=True)
        overflowed = None
        with torch.no_grad():
            finite = torch.isfinite(total) & torch.isfinite(norm)
            if self.scale is not None:
                overflowed = self.scale.update(total, norm, self.enabled)
            applied = finite & self.enabled
            if self.waits:
                if applied.item():
                    self.optimizer.step()
            else:
                # The fused optimisers read this attribute and change nothing where it is 1.
                self.optimizer.found_inf = (~applied).float()  # type: ignore[attr-defined]
                self.optimizer.grad_scale = None  # type: ignore[attr-defined]
                self.optimizer.step()
            if self.average is not None:
                self.average.update(applied)
        return Outcome(finite, overflowed)
