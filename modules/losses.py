"""Losses and metrics: small pure functions, computed in float32.

Shapes: (..., 3, H, W) frames with values in [0, 1]; (B, ..., N, H, W) latents.
"""

import torch
from torch import Tensor

# Below this mean-square error a frame counts as equal (100 dB), so that no PSNR is infinite.
MSE_FLOOR = 1e-10


def frame_mse(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean-square error per pixel and channel of each frame: (..., C, H, W) → (...), float32."""
    return (prediction.float() - target.float()).square().mean(dim=(-3, -2, -1))


def psnr(prediction: Tensor, target: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each frame in dB, 10·log10(1 / MSE).

    (..., C, H, W) with values in [0, 1] → (...), float32. Equal frames give 100 dB.
    """
    return psnr_of_mse(frame_mse(prediction, target))


def psnr_of_mse(mse: Tensor) -> Tensor:
    """PSNR in dB of a mean-square error of values in [0, 1]; a non-finite error stays so."""
    return -10.0 * torch.log10(mse.clamp_min(MSE_FLOOR))


def kl_to_standard_normal(mu: Tensor, logvar: Tensor) -> Tensor:
    """KL(N(mu, exp(logvar)) ‖ N(0, I)) in nats, summed over the latent's dimensions.

    (..., N, H, W) twice → (...), float32. Kingma & Welling 2014, appendix B:
    ½ Σ (mu² + σ² - log σ² - 1).
    """
    mu, logvar = mu.float(), logvar.float()
    # expm1 keeps the digits that exp(logvar) - 1 would cancel close to the prior.
    terms = mu.square() + torch.expm1(logvar) - logvar
    return 0.5 * terms.sum(dim=(-3, -2, -1))
