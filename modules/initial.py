"""Initialisation with which the model copies the previous frame, instead of making noise.

Every block of the networks has a way around its branches: an identity, or a 1x1 convolution where
the number of channels changes. With `copy` the three colours travel along these from the previous
frame to the output, untouched by the branches, and every other channel keeps its usual initial
weights. What stands still in a video, the room, is then there from the first step on, and training
starts with what moves. (Le et al. 2015, "A Simple Way to Initialize Recurrent Networks of Rectified
Linear Units", initialise recurrent networks with the identity; Zagoruyko & Komodakis 2017,
"DiracNets", convolutions.)
"""

import torch
from torch import nn

from modules.cvae import CVAE
from modules.layers import ConvFFN, DepthConv, DepthConvBlock, Residual

INITS = ("default", "copy")
COLOURS = 3
# Initial spread of the output's other inputs, small against the colours.
OUTPUT_SPREAD = 0.02


@torch.no_grad()
def copy_previous_frame(model: CVAE) -> None:
    """Change fresh weights in place so that a decoded frame is the previous frame.

    Nearly: the other channels of the last layer add a little. Draws from torch's global generator.
    """
    for network in (model.frame_transformation, model.Decoder_Fusion, model.Generator):
        for layer in network:
            if isinstance(layer, Residual):
                _zero_colours(layer.conv2)
                _pass_on(layer.skip)
            elif isinstance(layer, DepthConvBlock):
                depth, feed_forward = layer.block
                assert isinstance(depth, DepthConv)
                assert isinstance(feed_forward, ConvFFN)
                _zero_colours(depth.conv2)
                _pass_on(depth.adaptor)
                _zero_colours(feed_forward.conv_out)
            else:
                _pass_on(layer)
    output = model.Generator[-1]
    assert isinstance(output, nn.Conv2d)
    output.weight[:, COLOURS:].normal_(std=OUTPUT_SPREAD)


def _zero_colours(convolution: nn.Conv2d) -> None:
    """A branch's last layer adds nothing to the colours."""
    convolution.weight[:COLOURS] = 0.0
    assert convolution.bias is not None
    convolution.bias[:COLOURS] = 0.0


def _pass_on(convolution: nn.Module | None) -> None:
    """The first three channels go through as they are; None: an identity does so already."""
    if convolution is None:
        return
    assert isinstance(convolution, nn.Conv2d)
    _zero_colours(convolution)
    centre = convolution.kernel_size[0] // 2
    for channel in range(COLOURS):
        convolution.weight[channel, channel, centre, centre] = 1.0
