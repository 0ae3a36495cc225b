"""Losses, averages and metrics against hand-computed and library values."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from modules.ink import Ink
from modules.losses import (
    ACTIVE_VARIANCE,
    MAX_SKIPPED_STEPS,
    RunningSums,
    Sums,
    background_flicker,
    frame_mse,
    implied_sigma,
    kl_between,
    kl_to_standard_normal,
    loss_terms,
    person_region,
    psnr,
    psnr_of_mse,
    region_mse,
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
    assert psnr(target, target).tolist() == pytest.approx([100.0] * 3)  # finite
    assert math.isnan(psnr_of_mse(torch.tensor(math.nan)).item())


def test_kl_against_torch_distributions() -> None:
    """Summed over the latent of each frame, and over nothing else: all sizes differ."""
    g = torch.Generator().manual_seed(0)
    mu, logvar, prior_mu, prior_logvar = torch.randn(4, 5, 2, 4, 8, 3, generator=g)
    q, p, standard = (
        Normal(m.double(), (0.5 * v.double()).exp())
        for m, v in ((mu, logvar), (prior_mu, prior_logvar), (0 * mu, 0 * mu))
    )
    for found, other in (
        (kl_between(mu, logvar, prior_mu, prior_logvar), p),
        (kl_between(mu, logvar, 0 * mu, 0 * mu), standard),
        (kl_to_standard_normal(mu, logvar), standard),
    ):
        expected = kl_divergence(q, other).sum(dim=(-3, -2, -1))
        assert found.shape == (5, 2)
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-4)
    assert kl_between(mu, logvar, mu, logvar).abs().max() == 0


def test_kl_is_exact_close_to_the_prior() -> None:
    # mu = 1e-3, logvar = -1e-3: ½(1e-6 + e^-1e-3 - 1 + 1e-3) per dimension, by series.
    exact = 0.5 * (1e-6 + (1e-3) ** 2 / 2 - (1e-3) ** 3 / 6)
    mu, logvar = torch.full((1, 1, 1), 1e-3), torch.full((1, 1, 1), -1e-3)
    zero = torch.zeros_like(mu)
    for found in (kl_to_standard_normal(mu, logvar), kl_between(mu, logvar, zero, zero)):
        assert found.item() == pytest.approx(exact, rel=1e-3)
    # Half precision, the usual way, gives nothing like it; ours computes it in float32.
    half_mu, half_logvar = mu.bfloat16(), logvar.bfloat16()
    usual = -0.5 * (1 + half_logvar - half_mu.square() - half_logvar.exp()).sum()
    assert abs(usual.item() - exact) > 0.5 * exact
    assert kl_to_standard_normal(half_mu, half_logvar).item() == pytest.approx(exact, rel=0.01)
    small = 1e-4 * torch.randn(100, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    assert (kl_to_standard_normal(small, small) > 0).all()
    assert kl_to_standard_normal(zero, zero).item() == 0


def test_sigma_that_a_weight_implies() -> None:
    # -log N(x; x̂, σ²) per frame is mse·D/(2σ²); over β·KL the ratio of the two terms is the same.
    beta, values = 0.001, 6144
    sigma = implied_sigma(beta, values)
    assert values / (2 * sigma**2) == pytest.approx(1 / beta)
    assert implied_sigma(1.0, 6144) == pytest.approx(55.43, abs=0.01)
    assert implied_sigma(0.0, 6144) == 0


def test_loss_terms_by_hand() -> None:
    g = torch.Generator().manual_seed(0)
    mse, kl, quality = torch.rand(3, 4, 2, generator=g, requires_grad=True)  # 4 frames of 2 clips
    terms = loss_terms(mse, kl, quality, beta=0.5, batch=3)  # a third clip elsewhere
    means = [x.mean(dim=0).sum().item() / 3 for x in (mse, kl, quality)]
    expected = [means[0] + 0.5 * means[1], *means]
    assert [x.item() for x in terms] == pytest.approx(expected)
    assert not terms.psnr.requires_grad
    kind = {"beta": 0.5, "batch": 1}
    first = loss_terms(mse, kl, quality, **kind, weights=torch.tensor([1.0, 0.0]))
    alone = loss_terms(mse[:, :1], kl[:, :1], quality[:, :1], **kind)
    assert [x.item() for x in first] == pytest.approx([x.item() for x in alone])


# ---------------------------------------------------------------- averages of an epoch

LATENT = (2, 1, 3)
YES, NO = torch.tensor(True), torch.tensor(False)


def new_sums() -> RunningSums:
    return RunningSums(LATENT, torch.device("cpu"))


def add(
    sums: RunningSums,
    terms: list[float],
    clips: int = 2,
    *,
    finite: Tensor = YES,
    enabled: Tensor = YES,
    overflowed: Tensor | None = None,
    mu: Tensor | None = None,
) -> None:
    means = torch.zeros(3, clips, *LATENT, dtype=torch.float64) if mu is None else mu
    values = torch.tensor(terms, dtype=torch.float64)
    sums.add(values, means, finite, enabled, torch.tensor(float(clips)), overflowed)


def test_averages_are_over_the_clips_that_were_trained_on() -> None:
    sums = new_sums()
    add(sums, [1.0, 2.0, 3.0, 20.0], 2)
    add(sums, [4.0, 5.0, 6.0, 26.0], 1)
    add(sums, [math.nan] * 4, 2, finite=NO)
    add(sums, [9.0] * 4, 2, finite=NO, overflowed=YES)  # it only lowered the loss's scale
    add(sums, [9.0] * 4, 2, enabled=NO)  # a graph that is warmed up
    found = sums.averages(steps=3)
    assert found[:4] == pytest.approx((2.0, 3.0, 4.0, 22.0))
    assert (found.skipped, found.frames) == (2, 21)  # 3 + 2 + 2 clips of three predicted frames
    before = sums.read()
    assert before == Sums(6.0, 9.0, 12.0, 66.0, 3.0, 2.0, 1.0, 2.0)
    other = new_sums()  # a resumed run
    other.restore(list(before), sums.read_posterior())
    assert other.averages(steps=3) == found
    other.restore(list(before)[:7], None)  # older checkpoints have fewer
    assert other.read() == before._replace(rescaled=0.0)
    sums.start_epoch()
    assert sums.read() == Sums(0, 0, 0, 0, 0, 0, skipped_in_a_row=1.0)
    assert math.isnan(sums.averages(steps=3).loss)


def test_too_many_failures_in_a_row_are_not_forgotten() -> None:
    """A GPU's sums are looked at now and then only: a good step after them must not hide them."""
    sums, good = new_sums(), [0.0] * 4
    for _ in range(MAX_SKIPPED_STEPS - 1):
        add(sums, good, finite=NO)
    add(sums, good, finite=NO, overflowed=YES)  # neither one more nor an end
    assert sums.read().skipped_in_a_row == MAX_SKIPPED_STEPS - 1
    add(sums, good)
    assert sums.read().skipped_in_a_row == 0
    for _ in range(MAX_SKIPPED_STEPS):
        add(sums, good, finite=NO)
    add(sums, good)
    assert sums.read().skipped_in_a_row >= MAX_SKIPPED_STEPS


def test_active_dimensions_are_those_whose_mean_varies() -> None:
    """Over frames and clips, of two steps; by the variance that numpy gives."""
    g = torch.Generator().manual_seed(0)
    spread = ACTIVE_VARIANCE**0.5 * torch.tensor([0.0, 0.5, 0.9, 1.1, 2.0, 30.0]).view(LATENT)
    mus = 5 + spread * torch.randn(2, 3, 40, *LATENT, generator=g, dtype=torch.float64)
    sums = new_sums()
    for mu in mus:
        add(sums, [0.0] * 4, 40, mu=mu)
    for wrong in ({"finite": NO}, {"enabled": NO}):
        add(sums, [0.0] * 4, 40, mu=torch.full_like(mus[0], math.nan), **wrong)
    expected = (mus.flatten(0, 2).numpy().var(axis=0) > ACTIVE_VARIANCE).sum()
    assert sums.averages(steps=3).active_dims == expected == 3


# ---------------------------------------------------------------- structural similarity


def two_images(height: int, width: int) -> tuple[Tensor, Tensor]:
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
    both = ssim(torch.stack((a, a)), torch.stack((b, a)))
    assert both.tolist() == pytest.approx([by_scikit_image, 1.0], abs=2e-5)


def test_ssim_of_frames_smaller_than_its_window() -> None:
    a, b = torch.rand(2, 6, 3, 4, 5, generator=torch.Generator().manual_seed(3))
    assert ssim(a, a).tolist() == pytest.approx([1.0] * 6, abs=1e-5) and ssim(a, b).max() < 0.9


# ---------------------------------------------------------------- near the person, and elsewhere


def labels_with(*pixels: tuple[int, int] | None) -> Tensor:
    """Labels of 9 × 12 pixels that are black but for one pixel each."""
    labels = torch.zeros(len(pixels), 9, 12, 3, dtype=torch.uint8)
    for t, place in enumerate(pixels):
        if place is not None:
            labels[t, place[0], place[1], 1] = 255  # green alone
    return labels


def square(row: int, column: int) -> Tensor:
    """The pixels within 3 rows and 3 columns, of 9 × 12."""
    region = torch.zeros(9, 12, dtype=torch.bool)
    region[max(0, row - 3) : row + 4, max(0, column - 3) : column + 4] = True
    return region


@pytest.mark.parametrize("ground", [0, 200])
def test_the_person_is_within_three_pixels_of_a_line_of_frame_t_or_0(ground: int) -> None:
    """On any background; a pixel counts as drawn above the threshold only."""
    ink = Ink((ground, 0, ground), 255)
    labels = labels_with((0, 0), (4, 8), None, (8, 11))
    labels[..., ::2] = ground
    labels[3, 8, 11, 1] = 24
    region = person_region(labels, ink)
    assert torch.equal(region[0], square(0, 0)) and region[0].sum() == 16  # a corner
    assert torch.equal(region[1], square(0, 0) | square(4, 8)) and square(4, 8).sum() == 49
    assert torch.equal(region[2], square(0, 0)) and torch.equal(region[3], square(0, 0))
    assert not person_region(labels[2:], ink).any()
    labels[3, 8, 11] = torch.tensor([ground, 0, ground - 25 if ground else 25])
    assert torch.equal(person_region(labels[2:], ink)[1], square(8, 11))


def test_error_of_a_region() -> None:
    target = torch.zeros(2, 3, 2, 4)
    prediction = target.clone()
    region = torch.zeros(2, 2, 4, dtype=torch.bool)
    region[0, 0, :2] = True  # 2 of 8 pixels; none in frame 1
    prediction[0, :, 0, 0] = 0.3  # inside, in all 3 channels
    prediction[0, 0, 1, 3] = 0.6  # outside, in one
    inside, outside = (region_mse(prediction, target, r) for r in (region, ~region))
    assert inside[0].item() == pytest.approx(0.3**2 / 2)
    assert outside[0].item() == pytest.approx(0.6**2 / 3 / 6)
    assert math.isnan(inside[1]) and outside[1] == 0.0
    prediction[0, 0, 1, 1] = math.nan  # elsewhere: it does not count
    assert region_mse(prediction, target, region)[0] == inside[0]
    assert math.isnan(region_mse(prediction, target, ~region)[0])


def test_flicker_is_change_beyond_the_truth_s() -> None:
    truth = torch.full((3, 3, 9, 12), 0.5)
    region = torch.stack((square(0, 0), square(0, 0), square(4, 8)))
    shaking, panning = truth.clone(), truth.clone()
    shaking[1] += 10 / 255
    panning[1] -= 10 / 255
    for prediction, target, expected in (
        (truth, truth, [0, 0]),
        (shaking, truth, [10, 10]),  # there and back
        # What the truth does as well does not count, whatever its direction: sensor noise, a pan.
        (shaking, panning, [0, 0]),
        (truth, panning, [-10, -10]),  # a picture that stands still while the truth moves
    ):
        found = background_flicker(prediction, target, region).tolist()
        assert found == pytest.approx(expected, abs=1e-3)


def test_flicker_is_that_of_the_background() -> None:
    """Where the person is neither in frame t nor in frame t-1."""
    truth = torch.zeros(3, 3, 9, 12)
    region = torch.stack((square(8, 3), square(0, 0), square(4, 8)))
    outside = [108 - int((region[t] | region[t + 1]).sum()) for t in (0, 1)]
    for t, (row, column), expected in (
        (2, (4, 8), [0, 0]),  # where the person is in frame 2
        (2, (0, 0), [0, 0]),  # where the person has just left
        (1, (8, 3), [0, 1 / outside[1]]),  # has left in step 1, and is gone in step 2
        (2, (8, 3), [0, 1 / outside[1]]),
        (1, (8, 11), [1 / outside[0], 1 / outside[1]]),  # in the background of all
    ):
        prediction = truth.clone()
        prediction[t, :, row, column] = 0.2
        found = background_flicker(prediction, truth, region).tolist()
        assert found == pytest.approx([255 * 0.2 * e for e in expected], rel=1e-4)
    everywhere = torch.ones(3, 9, 12, dtype=torch.bool)
    assert all(map(math.isnan, background_flicker(truth, truth, everywhere)))
