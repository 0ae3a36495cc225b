"""Building blocks of the five networks. Attribute names are those of existing checkpoints.

Shapes: B batch (or batch x time), C channels, H, W. Every block keeps H and W.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def bounded(x: Tensor) -> Tensor:
    """x clamped to [0, 1], yet with the gradient of x everywhere, of any shape.

    A straight-through estimator (Bengio et al. 2013, "Estimating or Propagating Gradients Through
    Stochastic Neurons"): what went out of bounds can come back.
    """
    return x.clamp(0.0, 1.0).detach() + (x - x.detach())  # in this order exact for huge x too


def fold_pixels(x: Tensor, fold: int) -> Tensor:
    """(…, C, H, W) → (…, C·fold², H/fold, W/fold), a colour's pixels row by row; 1: x itself."""
    return x if fold == 1 else F.pixel_unshuffle(x, fold)


def unfold_pixels(x: Tensor, fold: int) -> Tensor:
    """The way back."""
    return x if fold == 1 else F.pixel_shuffle(x, fold)


class Residual(nn.Module):
    """conv3 → LeakyReLU → conv3 → LeakyReLU, plus identity (or a 1×1 convolution when i ≠ o)."""

    def __init__(self, in_chans: int, out_chans: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_chans, out_chans, kernel_size=3, padding=1)
        self.conv2 = nn.Conv2d(out_chans, out_chans, kernel_size=3, padding=1)
        self.relu = nn.LeakyReLU(0.01, inplace=True)
        self.skip = nn.Conv2d(in_chans, out_chans, 1) if in_chans != out_chans else None

    def forward(self, x: Tensor) -> Tensor:  # (B, in, H, W)
        out = self.relu(self.conv1(x))  # (B, out, H, W)
        out = self.relu(self.conv2(out))  # (B, out, H, W)
        return out + (x if self.skip is None else self.skip(x))  # (B, out, H, W)


class DepthConv(nn.Module):
    """1×1 → LeakyReLU → depthwise 3×3 → 1×1, plus identity (or a 1×1 adaptor when i ≠ o)."""

    def __init__(self, in_chans: int, out_chans: int) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(
            nn.Conv2d(in_chans, in_chans, 1), nn.LeakyReLU(0.01, inplace=True)
        )
        self.depth_conv = nn.Conv2d(in_chans, in_chans, 3, padding=1, groups=in_chans)
        self.conv2 = nn.Conv2d(in_chans, out_chans, 1)
        self.adaptor = nn.Conv2d(in_chans, out_chans, 1) if in_chans != out_chans else None
        self.contiguous = False

    @torch.no_grad()
    def compute_contiguously(self) -> None:
        """From here on the depthwise convolution is computed in PyTorch's usual memory layout.

        Where its engines for channels-last are missing; the values are the same.
        """
        self.contiguous = True
        weight = self.depth_conv.weight
        # contiguous() would leave it: with one input channel it is both, and counts as the other.
        weight.data = torch.empty(weight.shape, device=weight.device).copy_(weight)

    def forward(self, x: Tensor) -> Tensor:  # (B, in, H, W)
        hidden = self.conv1(x)  # (B, in, H, W)
        if self.contiguous:
            hidden = hidden.contiguous()
        out = self.conv2(self.depth_conv(hidden))  # (B, out, H, W)
        return out + (x if self.adaptor is None else self.adaptor(x))  # (B, out, H, W)


class _Gate(torch.autograd.Function):
    """gated(), keeping for the backward pass only what the convolution gave."""

    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:
        context.save_for_backward(x)
        a, b = x.chunk(2, dim=1)
        return F.leaky_relu(b, 0.1).mul_(a)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        (x,) = context.saved_tensors
        a, b = x.chunk(2, dim=1)
        both = torch.empty_like(x)
        of_a, of_b = both.chunk(2, dim=1)
        torch.ops.aten.leaky_relu.out(b, 0.1, out=of_a).mul_(gradient)
        torch.mul(gradient, a, out=of_b)
        torch.ops.aten.leaky_relu_backward.grad_input(of_b, b, 0.1, False, grad_input=of_b)
        return both


def gated(x: Tensor) -> Tensor:
    """a·LeakyReLU₀.₁(b) of the halves a, b of x: (B, 4C, H, W) → (B, 2C, H, W).

    On a GPU a seventh less is kept for the backward pass. On a CPU that would take a little longer.
    """
    if x.is_cuda:
        return _Gate.apply(x)
    a, b = x.chunk(2, dim=1)
    return a * F.leaky_relu(b, 0.1)


class ConvFFN(nn.Module):
    """Gated feed-forward: 1×1 to 4C in halves a, b; a·LeakyReLU₀.₁(b); 1×1 to C; plus identity."""

    def __init__(self, chans: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(chans, 4 * chans, 1)
        self.conv_out = nn.Conv2d(2 * chans, chans, 1)

    def forward(self, x: Tensor) -> Tensor:  # (B, C, H, W)
        return x + self.conv_out(gated(self.conv(x)))  # (B, C, H, W)


class DepthConvBlock(nn.Module):
    """DepthConv then ConvFFN."""

    def __init__(self, in_chans: int, out_chans: int) -> None:
        super().__init__()
        self.block = nn.Sequential(DepthConv(in_chans, out_chans), ConvFFN(out_chans))

    def forward(self, x: Tensor) -> Tensor:  # (B, in, H, W)
        return self.block(x)  # (B, out, H, W)
