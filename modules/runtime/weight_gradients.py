"""Weights that many small passes in a row share: their gradients, taken for several at a time.

Where frames are made one by one, autograd takes each layer's weight gradient once for every frame
and adds them up, under autocast in bfloat16. Here the backward pass of a frame computes only what
the frame before waits for, the gradient of the layer's input. What the weights' gradient is made of
is kept for a few frames; then it is taken for these as one batch, and added in float32.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


class SharedWeights(TorchFunctionMode):
    """While entered, convolutions take the gradients of their weights for several passes at once.

    It stands in for F.conv2d, so layers need not know of it, and may be entered again and again:
    all passes within count, until the backward pass through them.
    """

    def __init__(self, at_once: int) -> None:
        """at_once: passes. More are fewer kernels; their inputs are all kept until then."""
        super().__init__()
        self.at_once = at_once
        self.layers: dict[int, tuple[_Layer, Tensor]] = {}  # by weight; each with its token

    def __torch_function__(
        self, function: Any, types: Any, arguments: Any = (), options: Any = None
    ) -> Any:
        if function is F.conv2d and torch.is_grad_enabled():
            return self._convolution(*arguments, **(options or {}))
        return function(*arguments, **(options or {}))

    def _convolution(
        self, x: Tensor, weight: Tensor, bias: Tensor | None = None, *settings: Any, **named: Any
    ) -> Tensor:
        if not weight.requires_grad:
            return F.conv2d(x, weight, bias, *settings, **named)
        if id(weight) not in self.layers:
            layer = _Layer(weight, bias, _dtype(x), self.at_once, *settings, **named)
            self.layers[id(weight)] = layer, _Weights.apply(layer, weight, bias)
        layer, token = self.layers[id(weight)]
        return _Pass.apply(x.to(layer.weight.dtype), token, layer)


def _dtype(x: Tensor) -> torch.dtype:
    """That a convolution of x is computed in."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


class _Layer:
    """A convolution and its weights as the passes use them; the weights' gradients so far."""

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        dtype: torch.dtype,
        at_once: int,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> None:
        self.at_once, self.groups = at_once, groups
        self.kept = weight.dtype  # of the weights, and so of their gradients
        self.weight = weight.detach().to(dtype)
        self.bias = None if bias is None else bias.detach().to(dtype)
        self.stride, self.padding, self.dilation = (
            [x, x] if isinstance(x, int) else list(x) for x in (stride, padding, dilation)
        )
        self.waiting: list[tuple[Tensor, Tensor]] = []  # (input, gradient of the output)
        self.gradients: tuple[Tensor | None, Tensor | None] = (None, None)

    def forward(self, x: Tensor) -> Tensor:
        settings = self.stride, self.padding, self.dilation, self.groups
        return F.conv2d(x, self.weight, self.bias, *settings)

    def backward(self, gradient: Tensor, x: Tensor, *, of_weights: bool) -> Any:
        """Gradients of input, weight and bias: those of the weights, or the input's alone."""
        return torch.ops.aten.convolution_backward(
            *(gradient, x, self.weight, [len(self.weight)]),
            *(self.stride, self.padding, self.dilation, False, [0, 0], self.groups),
            [not of_weights, of_weights, of_weights and self.bias is not None],
        )

    def record(self, x: Tensor, gradient: Tensor) -> None:
        """What a pass adds to the weights' gradients."""
        self.waiting.append((x, gradient))
        if len(self.waiting) == self.at_once:
            self._take()

    def _take(self) -> None:
        inputs, gradients = (
            torch.cat(tensors) if len(tensors) > 1 else tensors[0]
            for tensors in zip(*self.waiting, strict=True)
        )
        self.waiting = []
        _, *new = self.backward(gradients, inputs, of_weights=True)
        weight, bias = (
            part if part is None else part.to(self.kept) if total is None else total.add_(part)
            for total, part in zip(self.gradients, new, strict=True)
        )
        self.gradients = weight, bias

    def finish(self) -> tuple[Tensor | None, Tensor | None]:
        """The gradients of weight and bias over all passes."""
        if self.waiting:
            self._take()
        gradients, self.gradients = self.gradients, (None, None)
        return gradients


class _Weights(torch.autograd.Function):
    """A layer's weights → a token without values, which every pass takes as an input.

    So autograd comes here after the last pass's backward, and here the weights get their gradients.
    """

    @staticmethod
    def forward(context: Any, layer: _Layer, weight: Tensor, _bias: Tensor | None) -> Tensor:
        context.layer = layer
        context.set_materialize_grads(False)
        return weight.new_empty(0)

    @staticmethod
    def backward(context: Any, _token: Tensor | None) -> tuple[Tensor | None, ...]:
        return None, *context.layer.finish()


class _Pass(torch.autograd.Function):
    """A convolution whose backward pass leaves the weights for later."""

    @staticmethod
    def forward(context: Any, x: Tensor, _token: Tensor, layer: _Layer) -> Tensor:
        context.layer = layer
        context.save_for_backward(x)
        return layer.forward(x)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        layer, (x,) = context.layer, context.saved_tensors
        layer.record(x, gradient)
        if not context.needs_input_grad[0]:
            return None, None, None
        return layer.backward(gradient, x, of_weights=False)[0], None, None
