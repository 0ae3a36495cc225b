"""Losses and metrics: small pure functions, computed in float32.

Shapes: (..., 3, H, W) frames with values in [0, 1]; (B, ..., N, H, W) latents.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

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


def kl_between(mu: Tensor, logvar: Tensor, prior_mu: Tensor, prior_logvar: Tensor) -> Tensor:
    """KL(N(mu, exp(logvar)) ‖ N(prior_mu, exp(prior_logvar))) in nats, summed over the latent.

    (..., N, H, W) four times → (...), float32. Both are diagonal, so each dimension gives
    ½ (σ²/σ_p² + (mu - mu_p)²/σ_p² - log(σ²/σ_p²) - 1); Denton & Fergus 2018, equation 2, has this
    term for a learned prior.
    """
    mu, logvar, prior_mu, prior_logvar = (x.float() for x in (mu, logvar, prior_mu, prior_logvar))
    ratio = logvar - prior_logvar
    terms = (mu - prior_mu).square() * torch.exp(-prior_logvar) + torch.expm1(ratio) - ratio
    return 0.5 * terms.sum(dim=(-3, -2, -1))


class LossTerms(NamedTuple):
    """The loss and what is reported with it: scalars, means over the predicted frames."""

    loss: Tensor  # what is minimised
    mse: Tensor  # per pixel value
    kl: Tensor  # nats, summed over the latent
    psnr: Tensor  # dB; no gradient


def loss_terms(
    mse: Tensor,
    kl: Tensor,
    psnr: Tensor,
    *,
    beta: Tensor | float,
    recon: str = "mse",
    values: int,
    batch: Tensor | int,
    weights: Tensor | float = 1.0,
) -> LossTerms:
    """The negative evidence lower bound of clips, from what is known of each predicted frame.

    Kingma & Welling 2014, equation 10, negated; β as in Higgins et al. 2017, equation 4:
    reconstruction + β · KL, averaged over the frames of a clip and the clips of a batch.

    mse, kl, psnr: (T-1, B) of each predicted frame
    recon:  "mse": the mean-square error. "sigma": optimal_sigma_loss, in nats per pixel value
    values: numbers in a frame, 3·H·W
    batch:  clips of the whole batch, of which these B may be one rank's shard
    weights: (B,), 0 for clips that only fill a place, else 1
    """

    def mean(of_frame: Tensor) -> Tensor:  # (T-1, B) → scalar
        return (weights * of_frame.mean(dim=0)).sum() / batch

    mse_mean, kl_mean = mean(mse), mean(kl)
    reconstruction = mean(optimal_sigma_loss(mse)) if recon == "sigma" else mse_mean
    loss = reconstruction + beta * kl_scale(recon, values) * kl_mean
    return LossTerms(loss, mse_mean, kl_mean, mean(psnr.detach()))


def kl_scale(recon: str, values: int) -> float:
    """What the KL in nats per frame is multiplied with, besides β, in the loss.

    "mse": the error is a mean per pixel value and the KL a sum over the latent, the usual
    convention. "sigma": the likelihood is in nats per pixel value, so the KL is divided by the
    same number, and β = 1 is the ELBO. values: numbers in a frame, 3·H·W.
    """
    return 1.0 / values if recon == "sigma" else 1.0


def decoder_sigma(recon: str, mse: float, beta: float, values: int) -> float:
    """The standard deviation of p(x|z, c) on the scale of [0, 1].

    "sigma": the optimal one, the root of the mean-square error. "mse": the one with which the loss
    is an ELBO.
    """
    return math.sqrt(mse) if recon == "sigma" else implied_sigma(beta, values)


def optimal_sigma_loss(mse: Tensor) -> Tensor:
    """Negative log-likelihood in nats per pixel value under the best σ of each frame: ½ log σ².

    mse: (...) mean-square errors of frames; the maximum-likelihood variance of N(x̂, σ²) is the
    mean-square error itself (Rybkin et al. 2021, "Simple and Effective VAE Training with Calibrated
    Decoders", equation 6), which leaves ½ log MSE + ½ (1 + log 2π); the constant is dropped. It is
    the frame's PSNR times -ln(10)/20, so this loss trains the very figure that is reported.
    """
    return 0.5 * torch.log(mse.clamp_min(MSE_FLOOR))


def implied_sigma(beta: float, values: int) -> float:
    """The decoder's standard deviation, on the scale of [0, 1], for which MSE + beta·KL is an ELBO.

    -log p(x|z) is MSE·values / (2σ²) up to a constant, so beta = 2σ²/values, with KL in nats and
    `values` numbers in a frame (3·H·W). With the usual beta of 1 it is about 55: a decoder that
    claims to see nothing, for which an uninformative latent (posterior collapse) is optimal.
    """
    return math.sqrt(beta * values / 2)


def ssim(prediction: Tensor, target: Tensor) -> Tensor:
    """Structural similarity of each frame: (..., C, H, W) with values in [0, 1] → (...), float32.

    Wang et al. 2004, "Image Quality Assessment: From Error Visibility to Structural Similarity",
    equation 13 with K1 = 0.01, K2 = 0.03 and a Gaussian window of σ = 1.5, 11 × 11 pixels (or the
    largest odd size that fits into the frame); the mean over channels and over every place where
    the window lies inside the frame.
    """
    lead, (channels, height, width) = target.shape[:-3], target.shape[-3:]
    x, y = (v.float().reshape(-1, 1, height, width) for v in (prediction, target))
    size = min(11, *(side - (side + 1) % 2 for side in (height, width)))
    offsets = torch.arange(size, dtype=torch.float32, device=x.device) - size // 2
    weights = torch.exp(-0.5 * (offsets / 1.5) ** 2)
    weights = weights / weights.sum()

    def blurred(values: Tensor) -> Tensor:
        rows = F.conv2d(values, weights.view(1, 1, -1, 1))
        return F.conv2d(rows, weights.view(1, 1, 1, -1))

    # float32 sums of values in [0, 1]: the variances below are differences, exact to about 1e-7.
    mean_x, mean_y = blurred(x), blurred(y)
    var_x, var_y = blurred(x * x) - mean_x**2, blurred(y * y) - mean_y**2
    covariance = blurred(x * y) - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    similarity = ((2 * mean_x * mean_y + c1) * (2 * covariance + c2)) / (
        (mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2)
    )
    return similarity.mean(dim=(-3, -2, -1)).view(-1, channels).mean(dim=1).view(lead)
