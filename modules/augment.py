"""Augmentation of training clips: one draw a clip, the same for all its frames and labels.

A clip stays a possible recording of the same room: what moves is the camera or the light, not one
frame against the next.
"""

import torch
from torch import Tensor

AUGMENTATIONS = ("flip", "shift", "colour")
AUGMENTATION_DRAWS = 5  # uniform numbers that a clip draws: flip, two of shift, two of colour
SHIFT = 1 / 16  # largest shift, of the frame's height and width
GAIN, OFFSET = 0.1, 0.05  # largest change of contrast, and of brightness on the scale of [0, 1]


def draw_augmentation(batch: int, generator: torch.Generator, device: torch.device) -> Tensor:
    """Uniform numbers in [0, 1), (AUGMENTATION_DRAWS, B)."""
    return torch.rand(AUGMENTATION_DRAWS, batch, generator=generator, device=device)


def augment(
    frames: Tensor, labels: Tensor, draws: Tensor, kinds: tuple[str, ...]
) -> tuple[Tensor, Tensor]:
    """Clips as another camera or light might have seen them; same shapes, values in [0, 1].

    frames, labels: (T, B, 3, H, W) in [0, 1]; draws: see draw_augmentation().
    flip:   half of the clips are mirrored left to right, labels too: left limbs then have the
            colours of right ones, so this helps only where left and right look alike.
    shift:  frames and labels move by up to a sixteenth of the frame, borders repeated.
    colour: contrast and brightness of the frames change; labels stay as they are.
    """
    if "flip" in kinds:
        mirrored = (draws[0] < 0.5)[:, None, None, None]  # (B, 1, 1, 1)
        frames, labels = (torch.where(mirrored, x.flip(-1), x) for x in (frames, labels))
    if "shift" in kinds:
        frames, labels = (_shift(x, draws[1], draws[2]) for x in (frames, labels))
    if "colour" in kinds:
        gain = 1 + GAIN * (2 * draws[3] - 1)[:, None, None, None]
        offset = OFFSET * (2 * draws[4] - 1)[:, None, None, None]
        frames = ((frames - 0.5) * gain + 0.5 + offset).clamp(0.0, 1.0)
    return frames, labels


def _shift(x: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Each clip moved by whole pixels, its border repeated: (T, B, 3, H, W); draws (B,) in [0, 1).

    All shifts between the largest up and down, or left and right, are equally likely.
    """
    index = []
    for size, drawn in ((x.shape[-2], down), (x.shape[-1], right)):
        most = round(size * SHIFT)
        by = (drawn * (2 * most + 1)).long() - most  # (B,)
        index.append((torch.arange(size, device=x.device) - by[:, None]).clamp(0, size - 1))
    rows, columns = index  # (B, H), (B, W)
    clips = torch.arange(x.shape[1], device=x.device)[:, None, None]
    moved = x.permute(1, 3, 4, 0, 2)[clips, rows[:, :, None], columns[:, None, :]]
    return moved.permute(3, 0, 4, 1, 2)  # (B, H, W, T, 3) → (T, B, 3, H, W)
