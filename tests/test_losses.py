"""Losses and metrics against hand-computed and library values."""

import math

import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence

from modules.losses import (
    decoder_sigma,
    frame_mse,
    implied_sigma,
    kl_between,
    kl_to_standard_normal,
    loss_terms,
    optimal_sigma_loss,
    psnr,
    psnr_of_mse,
    ssim,
)


def test_frame_mse_is_a_mean_per_frame() -> None:
    target = torch.zeros(2, 4, 3, 5, 6)
    prediction = target.clone()
    prediction[1, 2] = 0.5
    prediction[0, 1, 0] = 0.3  # one channel of three
    mse = frame_mse(prediction, target)
    assert mse.shape == (2, 4)
    assert mse[1, 2].item() == pytest.approx(0.25)
    assert mse[0, 1].item() == pytest.approx(0.03)
    assert mse.sum().item() == pytest.approx(0.28)


def test_psnr_by_hand() -> None:
    target = torch.full((3, 3, 4, 4), 0.5)
    prediction = target + torch.tensor([0.1, 0.01, 0.5]).reshape(3, 1, 1, 1)
    expected = [20.0, 40.0, -20 * math.log10(0.5)]
    assert psnr(prediction, target).tolist() == pytest.approx(expected, abs=1e-3)


def test_psnr_of_equal_frames_is_finite_and_of_nan_is_not() -> None:
    frame = torch.rand(3, 4, 4)
    assert psnr(frame, frame).item() == pytest.approx(100.0)
    assert math.isnan(psnr_of_mse(torch.tensor(math.nan)).item())


def test_mean_psnr_is_not_psnr_of_mean() -> None:
    mse = torch.tensor([0.1, 0.001])
    assert psnr_of_mse(mse).mean().item() == pytest.approx(20.0)
    assert psnr_of_mse(mse.mean()).item() == pytest.approx(12.967, abs=1e-3)  # the usual fault


def test_kl_against_torch_distributions() -> None:
    generator = torch.Generator().manual_seed(0)
    mu = torch.randn(5, 2, 4, 8, 8, generator=generator)
    logvar = torch.randn(5, 2, 4, 8, 8, generator=generator)
    library = kl_divergence(
        Normal(mu.double(), (0.5 * logvar.double()).exp()), Normal(0.0, 1.0)
    ).sum(dim=(-3, -2, -1))
    ours = kl_to_standard_normal(mu, logvar)
    assert ours.shape == (5, 2)
    torch.testing.assert_close(ours.double(), library, rtol=1e-5, atol=1e-4)


def test_kl_is_exact_close_to_the_prior() -> None:
    # mu = 1e-3, logvar = -1e-3: ½(1e-6 + e^-1e-3 - 1 + 1e-3) per dimension, by series.
    exact = 0.5 * (1e-6 + (1e-3) ** 2 / 2 - (1e-3) ** 3 / 6)
    mu, logvar = torch.full((1, 1, 1), 1e-3), torch.full((1, 1, 1), -1e-3)
    assert kl_to_standard_normal(mu, logvar).item() == pytest.approx(exact, rel=1e-3)
    # Half precision, the usual way, gives nothing like it.
    half_mu, half_logvar = mu.bfloat16(), logvar.bfloat16()
    usual = -0.5 * (1 + half_logvar - half_mu.square() - half_logvar.exp()).sum()
    assert abs(usual.item() - exact) > 0.5 * exact
    # ... and inputs in half precision are computed in float32.
    assert kl_to_standard_normal(half_mu, half_logvar).dtype == torch.float32


def test_kl_of_the_prior_is_zero_and_never_negative() -> None:
    zero = torch.zeros(4, 8, 8)
    assert kl_to_standard_normal(zero, zero).item() == 0.0
    small = 1e-4 * torch.randn(100, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    assert (kl_to_standard_normal(small, small) > 0).all()


def test_kl_between_gaussians_by_the_library_and_by_hand() -> None:
    g = torch.Generator().manual_seed(1)
    mu, logvar, prior_mu, prior_logvar = (torch.randn(5, 4, 2, 3, generator=g) for _ in range(4))
    expected = kl_divergence(
        Normal(mu, (0.5 * logvar).exp()), Normal(prior_mu, (0.5 * prior_logvar).exp())
    ).sum(dim=(1, 2, 3))
    found = kl_between(mu, logvar, prior_mu, prior_logvar)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    zero = torch.zeros(1, 1, 1, 1)
    # N(1, 4) from N(3, 1): ½ (4 + 4 - log 4 - 1)
    by_hand = kl_between(zero + 1, zero + math.log(4), zero + 3, zero)
    assert by_hand.item() == pytest.approx(0.5 * (7 - math.log(4)))
    standard = kl_between(mu, logvar, 0 * mu, 0 * mu)
    torch.testing.assert_close(standard, kl_to_standard_normal(mu, logvar))
    assert kl_between(mu, logvar, mu, logvar).abs().max() == 0
    assert not torch.allclose(found, kl_between(prior_mu, prior_logvar, mu, logvar))  # no symmetry


def test_optimal_sigma_is_the_best_gaussian_s_likelihood() -> None:
    g = torch.Generator().manual_seed(2)
    error = 0.1 * torch.randn(3, 8, 8, generator=g)
    mse = error.square().mean()
    constant = 0.5 * (1 + math.log(2 * math.pi))
    sigmas = (0.05, mse.sqrt().item(), 0.2)
    nats = {s: -Normal(0.0, s).log_prob(error).mean().item() for s in sigmas}
    assert optimal_sigma_loss(mse).item() + constant == pytest.approx(min(nats.values()), rel=1e-5)
    assert min(nats, key=lambda s: nats[s]) == pytest.approx(mse.sqrt().item())
    assert optimal_sigma_loss(mse).item() == pytest.approx(
        -math.log(10) / 20 * psnr_of_mse(mse).item(), rel=1e-5
    )
    assert math.isfinite(optimal_sigma_loss(torch.zeros(())).item())


def test_sigma_that_a_weight_implies() -> None:
    # -log N(x; x̂, σ²) per frame is mse·D/(2σ²); over β·KL the ratio of the two terms is the same.
    beta, values = 0.001, 6144
    sigma = implied_sigma(beta, values)
    assert values / (2 * sigma**2) == pytest.approx(1 / beta)
    assert implied_sigma(1.0, 6144) == pytest.approx(55.43, abs=0.01)


def two_images(height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The pair whose SSIM scikit-image 0.26 was asked for, (3, H, W)."""
    y, x, c = np.meshgrid(np.arange(height), np.arange(width), np.arange(3), indexing="ij")
    a = 0.5 + 0.3 * np.sin(0.7 * x + c) + 0.2 * np.cos(0.4 * y * (c + 1))
    b = a + 0.15 * np.sin(1.3 * x * y / 7 + c)
    first, second = (torch.from_numpy(image).permute(2, 0, 1) for image in (a, b))
    return first, second


@pytest.mark.parametrize(
    ("height", "width", "by_scikit_image"),
    # structural_similarity(a, b, data_range=1, channel_axis=2, gaussian_weights=True, sigma=1.5,
    # use_sample_covariance=False)
    [(32, 64, 0.8820528024860623), (16, 20, 0.8805700955739996)],
)
def test_ssim_is_scikit_image_s(height: int, width: int, by_scikit_image: float) -> None:
    a, b = two_images(height, width)
    assert ssim(a, b).item() == pytest.approx(by_scikit_image, abs=2e-5)
    both = ssim(torch.stack((a, a)), torch.stack((b, a)))
    assert both.tolist() == pytest.approx([by_scikit_image, 1.0], abs=2e-5)


def test_ssim_where_the_library_is_there() -> None:
    metrics = pytest.importorskip("skimage.metrics", reason="scikit-image is not installed")
    g = torch.Generator().manual_seed(3)
    a = torch.rand(2, 3, 17, 30, generator=g)
    b = (a + 0.2 * torch.randn(a.shape, generator=g)).clamp(0, 1)
    for i, found in enumerate(ssim(a, b).tolist()):
        expected = metrics.structural_similarity(
            *(x[i].permute(1, 2, 0).double().numpy() for x in (a, b)),
            **{"data_range": 1, "channel_axis": 2, "gaussian_weights": True, "sigma": 1.5},
            use_sample_covariance=False,
        )
        assert found == pytest.approx(expected, abs=2e-5)


def test_ssim_of_frames_smaller_than_its_window() -> None:
    g = torch.Generator().manual_seed(3)
    for size in ((4, 5), (8, 12)):
        a, b = torch.rand(2, 6, 3, *size, generator=g)
        assert ssim(a, a).tolist() == pytest.approx([1.0] * 6, abs=1e-5)
        assert ssim(a, b).max() < 0.9


@pytest.mark.parametrize("recon", ["mse", "sigma"])
def test_loss_terms_by_hand(recon: str) -> None:
    g = torch.Generator().manual_seed(0)
    mse, kl, quality = torch.rand(3, 4, 2, generator=g)  # of 4 frames of 2 clips
    terms = loss_terms(mse, kl, quality, beta=0.5, recon=recon, values=96, batch=3)
    means = [x.double().mean(dim=0).sum() / 3 for x in (mse, kl, quality)]  # a third clip elsewhere
    assert [terms.mse, terms.kl, terms.psnr] == pytest.approx([float(x) for x in means])
    likelihood = (0.5 * mse.double().log()).mean(dim=0).sum() / 3  # ½ log σ² of each frame
    expected = means[0] + 0.5 * means[1] if recon == "mse" else likelihood + 0.5 * means[1] / 96
    assert float(terms.loss) == pytest.approx(float(expected))
    kind = {"beta": 0.5, "recon": recon, "values": 96, "batch": 1}
    first = loss_terms(mse, kl, quality, **kind, weights=torch.tensor([1.0, 0.0]))
    alone = loss_terms(mse[:, :1], kl[:, :1], quality[:, :1], **kind)
    assert [float(x) for x in first] == pytest.approx([float(x) for x in alone])
    assert float(terms.loss) != pytest.approx(float(alone.loss))  # the control


def test_sigma_of_the_decoder() -> None:
    # The usual convention at full size: β = 2σ²/6144.
    assert decoder_sigma("mse", 0.01, 1.0, 6144) == pytest.approx(math.sqrt(3072))
    assert decoder_sigma("mse", 0.01, 0.0, 6144) == 0.0
    assert decoder_sigma("sigma", 0.01, 1.0, 6144) == pytest.approx(0.1)
