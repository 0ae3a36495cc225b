"""Losses and metrics: small pure functions, computed in float32.

Shapes: (..., 3, H, W) frames with values in [0, 1]; (B, ..., N, H, W) latents.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from modules.ink import Ink
from modules.runtime import distributed
from modules.runtime.device import widest_float

NEAR = 3  # pixels, in rows and columns, that a person reaches beyond the skeleton
MSE_FLOOR = 1e-10  # of a frame that counts as equal (100 dB), so that no PSNR is infinite


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
    batch: Tensor | int,
    weights: Tensor | float = 1.0,
) -> LossTerms:
    """The negative evidence lower bound of clips, from what is known of each predicted frame.

    Kingma & Welling 2014, equation 10, negated; β as in Higgins et al. 2017, equation 4:
    MSE + β · KL, averaged over the frames of a clip and the clips of a batch. The MSE is a mean per
    pixel value and the KL a sum over the latent, the usual convention; see implied_sigma().

    mse, kl, psnr: (T-1, B) of each predicted frame
    batch:   clips of the whole batch, of which these B may be one rank's shard
    weights: (B,), 0 for clips that only fill a place, else 1
    """

    def mean(of_frame: Tensor) -> Tensor:  # (T-1, B) → scalar
        return (weights * of_frame.mean(dim=0)).sum() / batch

    mse_mean, kl_mean = mean(mse), mean(kl)
    return LossTerms(mse_mean + beta * kl_mean, mse_mean, kl_mean, mean(psnr.detach()))


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


# ---------------------------------------------------------------- averages of an epoch

# A run whose steps fail this many times in a row has diverged; more will not bring it back.
MAX_SKIPPED_STEPS = 50
# A latent dimension counts as active when the posterior's mean varies at least this much over the
# frames (Burda et al. 2016, "Importance Weighted Autoencoders", section 5).
ACTIVE_VARIANCE = 0.01


class Sums(NamedTuple):
    """The sums as plain numbers."""

    loss: float  # this and the next three: sums over the sequences that were trained on
    mse: float
    kl: float
    psnr: float
    trained: float  # sequences
    skipped: float  # sequences whose step was not finite
    skipped_in_a_row: float  # steps; outlasts the epoch
    rescaled: float = 0.0  # sequences whose step only lowered the loss's scale, with float16


class EpochAverages(NamedTuple):
    """Means over the predicted frames of an epoch's training."""

    loss: float
    mse: float
    kl: float
    psnr: float
    skipped: int  # sequences whose step was not finite
    active_dims: int  # latent dimensions whose posterior mean varies from frame to frame
    frames: int  # that were predicted


class RunningSums:
    """Sums over the steps of an epoch, kept on the device so that no step is waited for."""

    def __init__(self, latent: tuple[int, int, int], device: torch.device) -> None:
        """latent: (N, H, W)."""
        # In the order of Sums. float64, where there is one: an epoch has many steps.
        wide = widest_float(device)
        self.sums = torch.zeros(len(Sums._fields), dtype=wide, device=device)
        # Sums over this rank's frames of the posterior's mean, and of its square.
        self.posterior = torch.zeros((2, *latent), dtype=wide, device=device)

    def add(
        self,
        terms: Tensor,
        mu: Tensor,
        finite: Tensor,
        enabled: Tensor,
        batch: Tensor,
        overflowed: Tensor | None = None,
    ) -> None:
        """Add a step, in place.

        terms:   (4,) loss, MSE, KL and PSNR of the whole batch, of the sums' type and order
        mu:      (T-1, B, N, H, W) likewise, the posterior's mean for this rank's clips
        finite:  boolean on the device, whether the step's loss and gradient were
        enabled: boolean on the device, False while a graph is warmed up: then nothing is added
        batch:   clips of the whole batch, a number on the device
        overflowed: boolean on the device, whether a step that was not finite only lowered the
                 loss's scale: it is no sign of divergence. None: no step does
        """
        wide = self.sums.dtype
        good, bad = finite.to(wide), (~finite).to(wide)
        rescaled = self.sums[7]
        # `where`, as 0 · NaN is NaN.
        added = torch.where(finite, terms * batch, 0.0)
        # Once too many, always too many: a GPU's sums are not looked at after every step.
        row = self.sums[6]
        kept = row >= MAX_SKIPPED_STEPS
        if overflowed is not None:
            lowered = overflowed.to(wide)
            kept, bad, rescaled = kept | overflowed, bad - lowered, rescaled + batch * lowered
        row = torch.where(kept, row, (row + 1.0) * bad)
        trained, skipped = self.sums[4] + batch * good, self.sums[5] + batch * bad
        counted = torch.stack((trained, skipped, row, rescaled))
        new = torch.cat((self.sums[:4] + added, counted))
        self.sums.copy_(torch.where(enabled, new, self.sums))
        moments = torch.stack((mu.sum(dim=(0, 1)), mu.square().sum(dim=(0, 1))))
        self.posterior += torch.where(finite & enabled, moments, 0.0)

    def start_epoch(self) -> None:
        """Back to zero, but for the steps in a row that were not finite."""
        self.sums[:6] = 0.0
        self.sums[7] = 0.0
        self.posterior.zero_()

    def read(self) -> Sums:
        """The sums so far. Waits for the device."""
        return Sums(*self.sums.tolist())

    def read_posterior(self) -> Tensor:
        """The posterior's sums over the frames of all ranks, on the CPU. Every rank must ask."""
        return distributed.sum_over_ranks(self.posterior.clone()).cpu().double()

    def restore(self, sums: list[float], posterior: Tensor | None) -> None:
        """Continue from sums that were read; posterior: None at the start of an epoch."""
        every = Sums(*sums)  # older checkpoints have fewer
        self.sums.copy_(torch.tensor(every, dtype=self.sums.dtype))
        if posterior is None or not distributed.is_main():  # rank 0's stand for all ranks'
            self.posterior.zero_()
        else:
            self.posterior.copy_(posterior.to(self.posterior.dtype))

    def averages(self, *, steps: int) -> EpochAverages:
        """The epoch's averages; NaN where no sequence was trained on. Every rank must ask.

        steps: predicted frames of a clip
        """
        sums, posterior = self.read(), self.read_posterior()
        trained = sums.trained
        loss, mse, kl, psnr = (x / trained if trained else math.nan for x in sums[:4])
        active = 0
        if trained:
            mean, square = posterior / (trained * steps)  # 2 × (N, H, W)
            active = int((square - mean**2 > ACTIVE_VARIANCE).sum())
        frames = int(trained + sums.skipped + sums.rescaled) * steps
        return EpochAverages(loss, mse, kl, psnr, int(sums.skipped), active, frames)


# ---------------------------------------------------------------- near the person, and elsewhere


def person_region(labels: Tensor, ink: Ink) -> Tensor:
    """Where frame t may show the person: (T, H, W, 3) uint8 → (T, H, W) bool.

    Within 3 pixels (a 7 × 7 square) of a drawn pixel of label t, where the person is to be, or of
    label 0, where the person is in the given frame and has to be removed.
    """
    background = labels.new_tensor(ink.background)
    distance = torch.maximum(labels, background) - torch.minimum(labels, background)
    drawn = (distance.amax(dim=-1) > ink.least).float()
    near = F.max_pool2d(drawn[:, None], 2 * NEAR + 1, stride=1, padding=NEAR)[:, 0] > 0
    return near | near[:1]


def region_mse(prediction: Tensor, target: Tensor, region: Tensor) -> Tensor:
    """Mean-square error over the pixels of a region, for each frame; NaN where it has none.

    prediction, target: (T, 3, H, W) in [0, 1]; region: (T, H, W) bool → (T,) float32
    """
    part = region[:, None]
    # The mean over all pixels, scaled up to the part that counts.
    error = frame_mse(torch.where(part, prediction, 0.0), torch.where(part, target, 0.0))
    return error / region.float().mean(dim=(1, 2))  # 0 / 0 is NaN


def background_flicker(prediction: Tensor, target: Tensor, region: Tensor) -> Tensor:
    """How much more the background changes from frame to frame than it truly does.

    Of frame t, in grey levels of 255: mean |x̂_t - x̂_{t-1}| - mean |x_t - x_{t-1}| over the pixels
    outside the region of both t-1 and t. So camera motion and sensor noise, which the truth has
    too, do not count; below 0 the prediction is stiller than the truth. NaN where no pixel is left.

    prediction, target: (T, 3, H, W) in [0, 1]; region: (T, H, W) bool → (T-1,) float32, for the
    steps to frames 1 … T-1
    """
    outside = ~(region[1:] | region[:-1])  # (T-1, H, W)
    change = prediction.float().diff(dim=0).abs() - target.float().diff(dim=0).abs()
    inside_zero = torch.where(outside[:, None], change, 0.0)
    return 255.0 * inside_zero.mean(dim=(1, 2, 3)) / outside.float().mean(dim=(1, 2))
