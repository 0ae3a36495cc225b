"""The skeleton's surroundings and what is measured in and outside of them, by hand."""

import math

import pytest
import torch

from modules.ink import Ink
from modules.losses import background_flicker, near_skeleton, region_mse, surroundings

ON_BLACK = Ink((0, 0, 0), 255)


def labels_with(*pixels: tuple[int, int] | None, value: int = 255) -> torch.Tensor:
    """Labels of 9 × 12 pixels that are black but for one pixel each."""
    labels = torch.zeros(len(pixels), 9, 12, 3, dtype=torch.uint8)
    for t, place in enumerate(pixels):
        if place is not None:
            labels[t, place[0], place[1], 1] = value  # green alone counts
    return labels


def square(row: int, column: int) -> torch.Tensor:
    """The pixels within 3 rows and 3 columns, of 9 × 12."""
    region = torch.zeros(9, 12, dtype=torch.bool)
    region[max(0, row - 3) : row + 4, max(0, column - 3) : column + 4] = True
    return region


def test_near_is_three_pixels_in_any_direction() -> None:
    near = near_skeleton(labels_with((4, 5), (0, 11), None), ON_BLACK)
    assert torch.equal(near[0], square(4, 5)) and near[0].sum() == 49
    assert torch.equal(near[1], square(0, 11)) and near[1].sum() == 16  # a corner
    assert not near[2].any()
    # A pixel counts as drawn above the threshold only.
    assert near_skeleton(labels_with((4, 5), value=25), ON_BLACK).sum() == 49
    assert not near_skeleton(labels_with((4, 5), value=24), ON_BLACK).any()


def test_surroundings_are_those_of_frame_0_and_of_frame_t() -> None:
    region = surroundings(labels_with((0, 0), (4, 8), None), ON_BLACK)
    assert torch.equal(region[0], square(0, 0))
    assert torch.equal(region[1], square(0, 0) | square(4, 8))
    assert torch.equal(region[2], square(0, 0))  # without a skeleton of its own
    assert not surroundings(labels_with(None, None), ON_BLACK).any()


def test_error_of_a_region() -> None:
    target = torch.zeros(2, 3, 2, 4)
    prediction = target.clone()
    region = torch.zeros(2, 2, 4, dtype=torch.bool)
    region[0, 0, :2] = True  # 2 of 8 pixels; none in frame 1
    prediction[0, :, 0, 0] = 0.3  # inside, in all 3 channels
    prediction[0, 0, 1, 3] = 0.6  # outside, in one
    inside, outside = (
        region_mse(prediction, target, region),
        region_mse(prediction, target, ~region),
    )
    assert inside[0].item() == pytest.approx(0.3**2 / 2)
    assert outside[0].item() == pytest.approx(0.6**2 / 3 / 6)
    assert math.isnan(inside[1]) and outside[1] == 0.0
    everywhere = torch.ones_like(region)
    whole = region_mse(prediction, target, everywhere)[0].item()
    assert whole == pytest.approx((2 * inside[0].item() + 6 * outside[0].item()) / 8)


def test_a_bad_pixel_elsewhere_does_not_count() -> None:
    target, region = torch.zeros(1, 3, 2, 2), torch.tensor([[[True, False], [False, False]]])
    prediction = target.clone()
    prediction[0, 0, 1, 1] = math.nan
    assert region_mse(prediction, target, region).item() == 0.0
    assert math.isnan(region_mse(prediction, target, ~region).item())  # the control


def test_flicker_is_change_beyond_the_truth_s() -> None:
    truth = torch.full((3, 3, 9, 12), 0.5)
    region = surroundings(labels_with((0, 0), (0, 0), (4, 8)), ON_BLACK)
    assert background_flicker(truth, truth, region).tolist() == [0, 0]
    shaking = truth.clone()
    shaking[1] += 10 / 255
    found = background_flicker(shaking, truth, region).tolist()
    assert found == pytest.approx([10, 10], abs=1e-3)  # there and back
    # What the truth does as well does not count, whatever its direction: sensor noise, a pan.
    panning = truth.clone()
    panning[1] -= 10 / 255
    assert background_flicker(shaking, panning, region).tolist() == pytest.approx([0, 0], abs=1e-3)
    # A picture that stands still while the truth moves is below 0.
    still = background_flicker(truth, panning, region).tolist()
    assert still == pytest.approx([-10, -10], abs=1e-3)


def test_flicker_is_that_of_the_background() -> None:
    truth = torch.zeros(3, 3, 9, 12)
    region = surroundings(labels_with((0, 0), (0, 0), (4, 8)), ON_BLACK)
    prediction = truth.clone()
    prediction[2, :, 4, 8] = 1.0  # near the skeleton of frame 2
    assert background_flicker(prediction, truth, region).tolist() == [0, 0]
    prediction[1, :, 8, 0] = 0.2  # in the background of all frames
    outside = [108 - 16, 108 - int((square(0, 0) | square(4, 8)).sum())]
    expected = [255 * 0.2 / count for count in outside]
    found = background_flicker(prediction, truth, region).tolist()
    assert found == pytest.approx(expected, rel=1e-4)
    everywhere = torch.ones(3, 9, 12, dtype=torch.bool)
    assert all(map(math.isnan, background_flicker(prediction, truth, everywhere)))
