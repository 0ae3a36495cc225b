"""Losses and metrics against hand-computed and library values."""

import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from modules.losses import frame_mse, kl_to_standard_normal, psnr, psnr_of_mse


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
