"""How the model lies in a device's memory: channels-last where that computes fastest, or at all."""

import torch

from modules.cvae import CVAE
from modules.networks import DepthConv
from modules.runtime.device import autocast

# From this compute capability on cuDNN computes depthwise convolutions in channels-last.
SURE = (8, 0)


def place(model: CVAE, device: torch.device, precision: torch.dtype) -> CVAE:
    """The model on its device, in the layout for it; the same object, its tensors' values kept.

    On CUDA cards before Ampere (T4, V100) recent versions of cuDNN lack engines for depthwise
    convolutions in channels-last: where one does not run, these layers alone are computed in
    PyTorch's usual layout. On an Apple GPU all are, since PyTorch has been wrong there with others.
    """
    model = model.to(device)
    if device.type == "mps":
        return model
    model = model.to(memory_format=torch.channels_last)
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < SURE:
        layers = [module for module in model.modules() if isinstance(module, DepthConv)]
        tried = one_of_each_width(layers)
        if not all(runs(layer.depth_conv, device, precision) for layer in tried):
            for layer in layers:
                layer.compute_contiguously()
    return model


def one_of_each_width(layers: list[DepthConv]) -> list[DepthConv]:
    """The first of those with so many channels."""
    return list({layer.depth_conv.in_channels: layer for layer in reversed(layers)}.values())


def runs(layer: torch.nn.Conv2d, device: torch.device, precision: torch.dtype) -> bool:
    """Whether one forward and backward pass of a layer in channels-last runs; changes nothing."""
    x = torch.zeros(2, layer.in_channels, 16, 16, device=device)
    x = x.to(memory_format=torch.channels_last).requires_grad_()
    weights = list(layer.parameters())
    try:
        with torch.enable_grad(), autocast(device, precision):
            out = layer(x)
        torch.autograd.grad(out.float().sum(), [x, *weights])
    except torch.OutOfMemoryError:
        raise
    except RuntimeError:
        return False
    return True
