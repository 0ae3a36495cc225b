"""Losses, averages and metrics against hand-computed and library values."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from modules import losses
from modules.ink import Ink


def test_mse_and_psnr_of_each_frame_by_hand() -> None:
    target = torch.full((2, 2, 3, 5, 6), 0.5)
    prediction = target.clone()
    prediction[0, 1] += 0.1
    prediction[1, 0] += 0.01
    prediction[1, 1, 0] += 0.3  # one channel of three
    expected = torch.tensor([[0.0, 0.01], [0.0001, 0.03]])
    torch.testing.assert_close(losses.frame_mse(prediction, target), expected, rtol=1e-4, atol=1e-9)
    found = losses.psnr(prediction, target)  # equal frames count 100 dB
    exact = torch.tensor([[100.0, 20.0], [40.0, -10 * math.log10(0.03)]])
    torch.testing.assert_close(found, exact, rtol=0, atol=1e-3)
    assert math.isnan(losses.psnr_of_mse(torch.tensor(math.nan)).item())


def test_kl_against_torch_distributions() -> None:
    """Summed over the latent of each frame, and over nothing else: all sizes differ."""
    g = torch.Generator().manual_seed(0)
    mu, logvar, prior_mu, prior_logvar = torch.randn(4, 5, 2, 4, 8, 3, generator=g)
    zero = torch.zeros_like(mu)
    for found, moments in (
        (losses.kl_between(mu, logvar, prior_mu, prior_logvar), (prior_mu, prior_logvar)),
        (losses.kl_between(mu, logvar, zero, zero), (zero, zero)),
        (losses.kl_to_standard_normal(mu, logvar), (zero, zero)),
    ):
        q, p = (Normal(m, (0.5 * v).exp()) for m, v in ((mu, logvar), moments))
        expected = kl_divergence(q, p).sum(dim=(-3, -2, -1))  # (5, 2)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_kl_is_exact_close_to_the_prior() -> None:
    """By the series of ½(mu² + exp(logvar) - 1 - logvar); also of moments in half precision."""
    mu, logvar = torch.full((1, 1, 1), 1e-3), torch.full((1, 1, 1), -1e-3)
    exact = 0.5 * (1e-6 + 1e-6 / 2 - 1e-9 / 6)
    between = losses.kl_between(mu, logvar, 0 * mu, 0 * mu)
    for found in (losses.kl_to_standard_normal(mu, logvar), between):
        assert found.item() == pytest.approx(exact, rel=1e-3)
    half = losses.kl_to_standard_normal(mu.bfloat16(), logvar.bfloat16())
    assert half.item() == pytest.approx(exact, rel=0.01)
    small = 1e-4 * torch.randn(100, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    assert (losses.kl_to_standard_normal(small, small) > 0).all()


def test_sigma_that_a_weight_implies() -> None:
    """-log N(x; x̂, σ²) of a frame is mse·D/(2σ²), for σ² = β·D/2 that of mse / β."""
    assert 6144 / (2 * losses.implied_sigma(0.001, 6144) ** 2) == pytest.approx(1 / 0.001)


def test_loss_terms_by_hand() -> None:
    g = torch.Generator().manual_seed(0)
    mse, kl, quality = torch.rand(3, 4, 2, generator=g, requires_grad=True)  # 4 frames of 2 clips
    terms = losses.loss_terms(mse, kl, quality, beta=0.5, batch=3)  # a third clip elsewhere
    means = [x.mean(dim=0).sum().item() / 3 for x in (mse, kl, quality)]
    expected = [means[0] + 0.5 * means[1], *means]
    assert [x.item() for x in terms] == pytest.approx(expected)
    assert not terms.psnr.requires_grad
    kind = {"beta": 0.5, "batch": 1}
    first = losses.loss_terms(mse, kl, quality, **kind, weights=torch.tensor([1.0, 0.0]))
    alone = losses.loss_terms(mse[:, :1], kl[:, :1], quality[:, :1], **kind)
    assert [x.item() for x in first] == pytest.approx([x.item() for x in alone])


# ---------------------------------------------------------------- averages of an epoch

LATENT = (2, 1, 3)


@pytest.fixture
def sums() -> losses.RunningSums:
    return losses.RunningSums(LATENT, torch.device("cpu"))


def add(
    sums: losses.RunningSums, *terms: float, clips: int = 2, mu: Any = None, **told: bool
) -> None:
    values = torch.tensor(terms or (0.0,) * 4, dtype=torch.float64)
    means = torch.zeros(3, clips, *LATENT, dtype=torch.float64) if mu is None else mu
    flags = {"finite": True, "enabled": True, "clips": float(clips), "overflowed": False, **told}
    sums.add(values, means, *map(torch.tensor, flags.values()))


def test_averages_are_over_the_clips_that_were_trained_on(sums: losses.RunningSums) -> None:
    add(sums, 1.0, 2.0, 3.0, 20.0)
    add(sums, 4.0, 5.0, 6.0, 26.0, clips=1)
    add(sums, *[math.nan] * 4, finite=False)
    add(sums, *[9.0] * 4, finite=False, overflowed=True)  # it only lowered the loss's scale
    add(sums, *[9.0] * 4, enabled=False)  # a graph that is warmed up
    found = sums.averages(steps=3)
    assert found[:4] == pytest.approx((2.0, 3.0, 4.0, 22.0))
    assert (found.skipped, found.frames) == (2, 21)  # 3 + 2 + 2 clips of three predicted frames
    before = sums.read()
    assert before == losses.Sums(6.0, 9.0, 12.0, 66.0, 3.0, 2.0, 1.0, 2.0)
    other = losses.RunningSums(LATENT, torch.device("cpu"))  # a resumed run
    other.restore(list(before), sums.read_posterior())
    assert other.averages(steps=3) == found
    other.restore(list(before)[:7], None)  # older checkpoints have fewer
    assert other.read() == before._replace(rescaled=0.0)
    sums.start_epoch()
    assert sums.read() == losses.Sums(0, 0, 0, 0, 0, 0, skipped_in_a_row=1.0)
    assert math.isnan(sums.averages(steps=3).loss)


def test_too_many_failures_in_a_row_are_not_forgotten(sums: losses.RunningSums) -> None:
    """A GPU's sums are looked at now and then only: a good step after them must not hide them."""
    for _ in range(losses.MAX_SKIPPED_STEPS - 1):
        add(sums, finite=False)
    add(sums, finite=False, overflowed=True)  # neither one more nor an end
    assert sums.read().skipped_in_a_row == losses.MAX_SKIPPED_STEPS - 1
    add(sums)
    assert sums.read().skipped_in_a_row == 0
    for _ in range(losses.MAX_SKIPPED_STEPS):
        add(sums, finite=False)
    add(sums)
    assert sums.read().skipped_in_a_row >= losses.MAX_SKIPPED_STEPS


def test_active_dimensions_are_those_whose_mean_varies(sums: losses.RunningSums) -> None:
    """Over frames and clips, of two steps; by the variance that numpy gives."""
    g = torch.Generator().manual_seed(0)
    spread = losses.ACTIVE_VARIANCE**0.5 * torch.tensor([0.0, 0.5, 0.9, 1.1, 2.0, 30.0]).view(
        LATENT
    )
    mus = 5 + spread * torch.randn(2, 3, 40, *LATENT, generator=g, dtype=torch.float64)
    for mu in mus:
        add(sums, clips=40, mu=mu)
    for wrong in ({"finite": False}, {"enabled": False}):
        add(sums, clips=40, mu=torch.full_like(mus[0], math.nan), **wrong)
    expected = (mus.flatten(0, 2).numpy().var(axis=0) > losses.ACTIVE_VARIANCE).sum()
    assert sums.averages(steps=3).active_dims == expected == 3


# ---------------------------------------------------------------- structural similarity


# By scikit-image 0.26: structural_similarity(a, b, data_range=1, channel_axis=2, sigma=1.5,
# gaussian_weights=True, use_sample_covariance=False). The last has no room for the window.
@pytest.mark.parametrize(
    ("height", "width", "by_scikit_image"),
    [(32, 64, 0.8820528024860623), (16, 20, 0.8805700955739996), (4, 5, None)],
)
def test_ssim_is_scikit_image_s(height: int, width: int, by_scikit_image: float | None) -> None:
    y, x, c = np.meshgrid(np.arange(height), np.arange(width), np.arange(3), indexing="ij")
    a = 0.5 + 0.3 * np.sin(0.7 * x + c) + 0.2 * np.cos(0.4 * y * (c + 1))
    b = a + 0.15 * np.sin(1.3 * x * y / 7 + c)
    first, second = (torch.from_numpy(np.stack(i)).permute(0, 3, 1, 2) for i in ((a, a), (b, a)))
    found, equal = losses.ssim(first, second).tolist()
    assert equal == pytest.approx(1.0, abs=2e-5)
    assert found == pytest.approx(by_scikit_image, abs=2e-5) if by_scikit_image else found < 0.95


# ---------------------------------------------------------------- near the person, and elsewhere


def square(row: int, column: int) -> Tensor:
    """The pixels within 3 rows and 3 columns, of 9 × 12."""
    region = torch.zeros(9, 12, dtype=torch.bool)
    region[max(0, row - 3) : row + 4, max(0, column - 3) : column + 4] = True
    return region


@pytest.mark.parametrize("ground", [0, 200])
def test_the_person_is_within_three_pixels_of_a_line_of_frame_t_or_0(ground: int) -> None:
    """On any background; a pixel counts as drawn above the threshold only."""
    ink = Ink((ground, 0, ground), 255)
    labels = torch.tensor(ink.background, dtype=torch.uint8).repeat(4, 9, 12, 1)
    labels[0, 0, 0, 1] = labels[1, 4, 8, 1] = 255  # in one channel
    labels[3, 8, 11, 1] = 24
    region, first = losses.person_region(labels, ink), square(0, 0)
    for found, expected in zip(region, (first, first | square(4, 8), first, first), strict=True):
        assert torch.equal(found, expected)
    assert not losses.person_region(labels[2:], ink).any()
    labels[3, 8, 11, 2] = abs(ground - 25)
    assert torch.equal(losses.person_region(labels[2:], ink)[1], square(8, 11))


@pytest.mark.parametrize(
    ("predicted", "true", "expected"),
    [
        (0, 0, [0, 0]),
        (10, 0, [10, 10]),  # there and back
        # What the truth does as well does not count, whatever its direction: sensor noise, a pan.
        (10, -10, [0, 0]),
        (0, -10, [-10, -10]),  # a picture that stands still while the truth moves
    ],
)
def test_flicker_is_change_beyond_the_truth_s(
    predicted: int, true: int, expected: list[int]
) -> None:
    region = torch.stack((square(0, 0), square(0, 0), square(4, 8)))
    prediction, target = torch.full((2, 3, 3, 9, 12), 0.5)
    prediction[1] += predicted / 255
    target[1] += true / 255
    found = losses.background_flicker(prediction, target, region).tolist()
    assert found == pytest.approx(expected, abs=1e-3)


def test_flicker_is_that_of_the_background() -> None:
    """Where the person is neither in frame t nor in frame t-1."""
    truth = torch.zeros(3, 3, 9, 12)
    region = torch.stack((square(8, 3), square(0, 0), square(4, 8)))
    pixels = [108 - int((region[t] | region[t + 1]).sum()) for t in (0, 1)]
    for t, (row, column), counts in (
        (2, (4, 8), [0, 0]),  # where the person is in frame 2
        (2, (0, 0), [0, 0]),  # where the person has just left
        (1, (8, 3), [0, 1]),  # has left in step 1, and is gone in step 2
        (1, (8, 11), [1, 1]),  # in the background of all
    ):
        prediction = truth.clone()
        prediction[t, :, row, column] = 0.2
        found = losses.background_flicker(prediction, truth, region).tolist()
        expected = [255 * 0.2 * c / n for c, n in zip(counts, pixels, strict=True)]
        assert found == pytest.approx(expected, rel=1e-4)
    everywhere = torch.ones(3, 9, 12, dtype=torch.bool)
    assert all(map(math.isnan, losses.background_flicker(truth, truth, everywhere)))
