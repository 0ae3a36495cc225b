"""The skeleton's surroundings, where the person is, and the background outside of them.

Shapes: T frames, H, W height and width in pixels; labels are uint8 RGB, frames are in [0, 1].
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from modules.ink import Ink
from modules.losses import frame_mse

NEAR = 3  # pixels, in a row, a column or both (Chebyshev distance): a square of 7 × 7


def near_skeleton(labels: Tensor, ink: Ink) -> Tensor:
    """Which pixels lie within 3 pixels of a drawn one: (T, H, W, 3) uint8 → (T, H, W) bool."""
    drawn = ink.drawn(labels).float()
    return F.max_pool2d(drawn[:, None], 2 * NEAR + 1, stride=1, padding=NEAR)[:, 0] > 0


def surroundings(labels: Tensor, ink: Ink) -> Tensor:
    """Where frame t may show the person: (T, H, W, 3) uint8 → (T, H, W) bool.

    Within 3 pixels of the skeleton of frame t, where the person is to be, or of frame 0, where the
    person is in the given frame and has to be taken away.
    """
    near = near_skeleton(labels, ink)
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
