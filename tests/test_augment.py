"""Augmentation: the same for all frames and labels of a clip, by hand on small pictures."""

import pytest
import torch

from modules.data import AUGMENTATION_DRAWS, GAIN, OFFSET, augment


def clips() -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    frames, labels = torch.rand(2, 3, 4, 3, 16, 32, generator=g)  # T 3, B 4
    return frames, labels


def draws(*rows: tuple[float, ...]) -> torch.Tensor:
    return torch.tensor([*rows, *[(0.5,) * 4] * (AUGMENTATION_DRAWS - len(rows))])


def test_flip() -> None:
    frames, labels = clips()
    found = augment(frames, labels, draws((0.0, 0.9, 0.4, 0.5)), ("flip",))
    for before, after in zip((frames, labels), found, strict=True):
        for clip, mirrored in enumerate((True, False, True, False)):
            expected = before[:, clip].flip(-1) if mirrored else before[:, clip]
            assert torch.equal(after[:, clip], expected)


def test_shift_moves_a_whole_clip_and_repeats_its_border() -> None:
    frames, labels = clips()
    # 16 rows: by -1, 0 or 1; 32 columns: by -2 … 2.
    moves = draws((1.0,) * 4, (0.0, 0.5, 0.99, 0.99), (0.5, 0.5, 0.5, 0.0))
    found = augment(frames, labels, moves, ("shift",))
    for before, after in zip((frames, labels), found, strict=True):
        assert torch.equal(after[:, 0, :, :-1], before[:, 0, :, 1:])  # up by one
        assert torch.equal(after[:, 0, :, -1], before[:, 0, :, -1])
        assert torch.equal(after[:, 1], before[:, 1])
        assert torch.equal(after[:, 2, :, 1:], before[:, 2, :, :-1])  # down by one
        assert torch.equal(after[:, 3, :, 1:, :-2], before[:, 3, :, :-1, 2:])  # and two to the left
        assert torch.equal(after[:, 3, :, 1:, -1], before[:, 3, :, :-1, -1])


def test_colour_changes_frames_alone() -> None:
    frames, labels = clips()
    numbers = (0.0, 1.0, 0.5, 0.25)
    still = ((0.5,) * 4,) * 3
    found, kept = augment(frames, labels, draws(*still, numbers, numbers[::-1]), ("colour",))
    assert torch.equal(kept, labels)
    for clip in range(4):
        gain = 1 + GAIN * (2 * numbers[clip] - 1)
        offset = OFFSET * (2 * numbers[3 - clip] - 1)
        expected = ((frames[:, clip] - 0.5) * gain + 0.5 + offset).clamp(0, 1)
        torch.testing.assert_close(found[:, clip], expected)


@pytest.mark.parametrize("kinds", [(), ("flip",), ("shift",), ("colour",)])
def test_only_what_is_asked_for_happens(kinds: tuple[str, ...]) -> None:
    frames, labels = clips()
    found, _ = augment(frames, labels, torch.full((AUGMENTATION_DRAWS, 4), 0.1), kinds)
    assert torch.equal(found, frames) == (kinds == ())
