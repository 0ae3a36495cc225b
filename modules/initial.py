"""Initialisation with which the model copies the previous frame, instead of making noise.

Every block of the networks has a way around its branches: an identity, or a 1x1 convolution where
the number of channels changes. With `copy` the colours travel along these from the previous
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
# Initial spread of the output's other inputs, small against the colours.
OUTPUT_SPREAD = 0.02


@torch.no_grad()
def copy_previous_frame(model: CVAE) -> None:
    """Change fresh weights in place so that a decoded frame is the previous frame.

    Nearly: the other channels of the last layer add a little. Draws from torch's global generator.
    """
    colours = model.config.colours  # channels that they take
    for network in (model.frame_transformation, model.Decoder_Fusion, model.Generator):
        for layer in network:
            if isinstance(layer, Residual):
                _zero(layer.conv2, colours)
                _pass_on(layer.skip, colours)
            elif isinstance(layer, DepthConvBlock):
                depth, feed_forward = layer.block
                assert isinstance(depth, DepthConv)
                assert isinstance(feed_forward, ConvFFN)
                _zero(depth.conv2, colours)
                _pass_on(depth.adaptor, colours)
                _zero(feed_forward.conv_out, colours)
            else:
                _pass_on(layer, colours)
    output = model.Generator[-1]
    assert isinstance(output, nn.Conv2d)
    output.weight[:, colours:].normal_(std=OUTPUT_SPREAD)


def _zero(convolution: nn.Conv2d, colours: int) -> None:
    """A branch's last layer adds nothing to the colours."""
    convolution.weight[:colours] = 0.0
    assert convolution.bias is not None
    convolution.bias[:colours] = 0.0


def _pass_on(convolution: nn.Module | None, colours: int) -> None:
    """The first channels go through as they are; None: an identity does so already."""
    if convolution is None:
        return
    assert isinstance(convolution, nn.Conv2d)
    _zero(convolution, colours)
    centre = convolution.kernel_size[0] // 2
    for channel in range(colours):
        convolution.weight[channel, channel, centre, centre] = 1.0
