"""Weight gradients of many small passes in a row, taken for several passes at a time.

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
    """While entered, nn.Conv2d takes the gradients of its weights for several passes at once.

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
        if function is not F.conv2d or not torch.is_grad_enabled():
            return function(*arguments, **(options or {}))
        x, weight, bias, *settings = arguments  # as nn.Conv2d calls it
        if id(weight) not in self.layers:
            kind = x.device.type
            half = torch.is_autocast_enabled(kind)
            dtype = torch.get_autocast_dtype(kind) if half else x.dtype
            layer = _Layer(weight, bias, settings, dtype, self.at_once)
            self.layers[id(weight)] = layer, _Weights.apply(layer, weight, bias)
        layer, token = self.layers[id(weight)]
        return _Pass.apply(x.to(layer.weight.dtype), token, layer)


class _Layer:
    """A convolution as the passes compute it; the gradients of its weights so far."""

    def __init__(
        self, weight: Tensor, bias: Tensor, settings: list[Any], dtype: torch.dtype, at_once: int
    ) -> None:
        """settings: stride, padding, dilation, groups; dtype: that a pass is computed in"""
        self.weight, self.bias = weight.detach().to(dtype), bias.detach().to(dtype)
        self.settings, self.at_once = settings, at_once
        self.waiting: list[tuple[Tensor, Tensor]] = []  # (input, gradient of the output)
        self.kept = weight.dtype  # of the weights, and so of their gradients
        self.sums: list[Tensor] = []

    def backward(self, gradient: Tensor, x: Tensor, *, of_weights: bool) -> Any:
        """Gradients of input, weight and bias: those of the weights, or the input's alone."""
        stride, padding, dilation, groups = self.settings
        return torch.ops.aten.convolution_backward(
            *(gradient, x, self.weight, [len(self.weight)]),
            *(stride, padding, dilation, False, [0, 0], groups),
            [not of_weights, of_weights, of_weights],
        )

    def add_waiting(self) -> None:
        """Add what waits to the sums, as one batch."""
        if self.waiting:
            inputs, gradients = map(torch.cat, zip(*self.waiting, strict=True))
            self.waiting.clear()
            _, *new = self.backward(gradients, inputs, of_weights=True)
            if not self.sums:
                self.sums = [part.to(self.kept) for part in new]
            else:
                for total, part in zip(self.sums, new, strict=True):
                    total.add_(part)


class _Weights(torch.autograd.Function):
    """A layer's weights → a token without values, which every pass takes as an input.

    So autograd comes here after the last pass's backward, and here the weights get their gradients.
    """

    @staticmethod
    def forward(context: Any, layer: _Layer, weight: Tensor, _bias: Tensor) -> Tensor:
        context.layer = layer
        context.set_materialize_grads(False)
        return weight.new_empty(0)

    @staticmethod
    def backward(context: Any, _token: Tensor | None) -> tuple[Tensor | None, ...]:
        layer = context.layer
        layer.add_waiting()
        # Handed over, so that autograd need not copy them.
        sums, layer.sums = layer.sums, []
        return None, *sums


class _Pass(torch.autograd.Function):
    """A convolution whose backward pass leaves the weights for later."""

    @staticmethod
    def forward(context: Any, x: Tensor, _token: Tensor, layer: _Layer) -> Tensor:
        context.layer = layer
        context.save_for_backward(x)
        return F.conv2d(x, layer.weight, layer.bias, *layer.settings)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        layer, (x,) = context.layer, context.saved_tensors
        layer.waiting.append((x, gradient))
        if len(layer.waiting) == layer.at_once:
            layer.add_waiting()
        if not context.needs_input_grad[0]:
            return None, None, None
        return layer.backward(gradient, x, of_weights=False)[0], None, None
