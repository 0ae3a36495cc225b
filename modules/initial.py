"""Initial weights with which the model repeats the frame before, instead of making noise.

Every block of the networks has a way around its branches: an identity, or a 1x1 convolution where
the number of channels changes. With `copy` the three colours travel along these from the previous
frame to the output, untouched by the branches, and every other channel keeps its usual initial
weights. What stands still in a video, the room, is then there from the first step on, and training
begins with what moves. (Le et al. 2015, "A Simple Way to Initialize Recurrent Networks of Rectified
Linear Units", begin recurrent networks with the identity; Zagoruyko & Komodakis 2017, "DiracNets",
convolutions.)
"""

import torch
from torch import nn

from modules.cvae import CVAE
from modules.layers import ConvFFN, DepthConv, DepthConvBlock, Residual

INITS = ("default", "copy")
COLOURS = 3
# What the output's other inputs begin with, small beside the colours.
OUTPUT_SPREAD = 0.02


@torch.no_grad()
def begin_with_copying(model: CVAE) -> None:
    """Change fresh weights in place so that a decoded frame is the frame before.

    Nearly: the other channels of the last layer add a little. Draws from torch's global generator.
    """
    for network in (model.frame_transformation, model.Decoder_Fusion, model.Generator):
        for layer in network:
            if isinstance(layer, Residual):
                _silence(layer.conv2)
                _pass_on(layer.skip)
            elif isinstance(layer, DepthConvBlock):
                depth, feed_forward = layer.block
                assert isinstance(depth, DepthConv)
                assert isinstance(feed_forward, ConvFFN)
                _silence(depth.conv2)
                _pass_on(depth.adaptor)
                _silence(feed_forward.conv_out)
            else:
                _pass_on(layer)
    output = model.Generator[-1]
    assert isinstance(output, nn.Conv2d)
    output.weight[:, COLOURS:].normal_(std=OUTPUT_SPREAD)


def _silence(convolution: nn.Conv2d) -> None:
    """A branch's last layer adds nothing to the colours."""
    convolution.weight[:COLOURS] = 0.0
    assert convolution.bias is not None
    convolution.bias[:COLOURS] = 0.0


def _pass_on(convolution: nn.Module | None) -> None:
    """The first three channels go through as they are; None: an identity does so already."""
    if convolution is None:
        return
    assert isinstance(convolution, nn.Conv2d)
    _silence(convolution)
    centre = convolution.kernel_size[0] // 2
    for channel in range(COLOURS):
        convolution.weight[channel, channel, centre, centre] = 1.0
