"""Clips cut from recordings, exact pixels, the data's fingerprint and its baselines."""

import numpy as np
import pytest
import torch
from modules.sequences import gather_clips
from torch import Tensor

from modules.data import (
    Recording,
    VideoData,
    describe_data,
    epoch_clips,
    fingerprint,
    nearest_rows,
    to_uint8,
    to_unit,
)
from modules.evaluation import baselines, blurred

RECORDINGS = (Recording(0, 23), Recording(23, 27), Recording(27, 35), Recording(35, 38))


def test_clips_are_a_pure_function_of_seed_and_epoch() -> None:
    def draw(seed: int, epoch: int) -> list[int]:
        return epoch_clips([Recording(0, 200)], 4, seed=seed, epoch=epoch).tolist()

    first = draw(1, 2)
    np.random.seed(0)  # noqa: NPY002 (the global generator must not matter)
    torch.manual_seed(0)
    assert draw(1, 2) == first
    assert draw(1, 3) != first
    assert draw(2, 2) != first
    assert first != sorted(first)  # shuffled
    assert epoch_clips(RECORDINGS, 4, seed=0, epoch=0).dtype == np.int64


@pytest.mark.parametrize("length", [1, 2, 4, 5, 8])
def test_clips_cover_recordings_and_never_cross(length: int) -> None:
    expected = sum((rec.stop - rec.start) // length for rec in RECORDINGS)
    valid = {s for r in RECORDINGS for s in range(r.start, r.stop - length + 1)}
    reached: set[int] = set()
    for epoch in range(150):
        starts = epoch_clips(RECORDINGS, length, seed=5, epoch=epoch)
        assert len(starts) == expected  # as many steps in every epoch
        for rec in RECORDINGS:
            inside = sorted(s for s in starts.tolist() if rec.start <= s < rec.stop)
            assert len(inside) == (rec.stop - rec.start) // length
            # Only the one clip at an end may overlap another.
            gaps = np.diff(inside)
            assert (gaps < length).sum() <= 1
            assert (gaps > 0).all()
        reached |= set(starts.tolist())
    assert reached == valid  # every start, none across a boundary; so the last frames are seen


def test_fixed_clips_leave_starts_out() -> None:
    """--no_shuffle, as older code cut them; also the control of the test above."""
    for epoch in (0, 9):
        starts = epoch_clips(RECORDINGS, 4, seed=epoch, epoch=epoch, shuffle=False)
        assert starts.tolist() == [0, 4, 8, 12, 16, 23, 27, 31]


def test_where_the_extra_clip_lies() -> None:
    """10 frames, clips of 4: two each epoch, from offset o; o = 3 leaves room for one."""
    seen = {
        tuple(sorted(epoch_clips([Recording(100, 110)], 4, seed=0, epoch=e).tolist()))
        for e in range(60)
    }
    assert seen == {(100, 104), (101, 105), (102, 106), (103, 106)}
    # 9 frames: o = 2 and 3 leave 2 | 3 and 3 | 2 frames uncovered at the start | end.
    seen = {
        tuple(sorted(epoch_clips([Recording(0, 9)], 4, seed=0, epoch=e).tolist()))
        for e in range(60)
    }
    assert seen == {(0, 4), (1, 5), (2, 5), (0, 3)}


def test_fraction() -> None:
    whole = epoch_clips(RECORDINGS, 4, seed=3, epoch=1)
    part = epoch_clips(RECORDINGS, 4, seed=3, epoch=1, fraction=0.4)
    assert part.tolist() == whole[:3].tolist()  # round(0.4 · 8)
    assert len(epoch_clips(RECORDINGS, 4, seed=3, epoch=1, fraction=0.01)) == 1
    fixed = epoch_clips(RECORDINGS, 4, seed=3, epoch=1, fraction=0.5, shuffle=False)
    assert fixed.tolist() == [0, 4, 8, 12]
    assert len(epoch_clips([Recording(0, 3)], 4, seed=0, epoch=0)) == 0


def test_gathered_clips() -> None:
    frames = torch.arange(20 * 2 * 4 * 3, dtype=torch.int64).remainder(251).to(torch.uint8)
    frames = frames.view(20, 2, 4, 3)
    data = VideoData(frames, frames + 1, (Recording(0, 20),))
    x, p = gather_clips(data, torch.tensor([13, 2]), 5)
    assert x.shape == p.shape == (5, 2, 3, 2, 4)  # time-major
    assert x.dtype == torch.uint8
    for b, start in enumerate((13, 2)):
        for t in range(5):
            assert torch.equal(x[t, b], frames[start + t].permute(2, 0, 1))
            assert torch.equal(p[t, b], frames[start + t].permute(2, 0, 1) + 1)
    flat = x.flatten(0, 1)
    assert flat.is_contiguous(memory_format=torch.channels_last)
    assert flat.data_ptr() == x.data_ptr()  # no copy was needed


def test_to_unit_is_exact() -> None:
    values = torch.arange(256, dtype=torch.uint8)
    expected = np.arange(256, dtype=np.float32) / np.float32(255)
    assert np.array_equal(to_unit(values).numpy(), expected)
    assert to_unit(values).dtype == torch.float32
    image = torch.zeros(2, 3, 4, 4, dtype=torch.uint8).to(memory_format=torch.channels_last)
    assert to_unit(image).is_contiguous(memory_format=torch.channels_last)


def video(*values: int) -> VideoData:
    """Frames of one brightness each, 2 × 2 pixels; the labels are the frames."""
    frames = torch.tensor(values, dtype=torch.uint8)[:, None, None, None].repeat(1, 2, 2, 3)
    return VideoData(frames, frames.clone(), (Recording(0, len(values)),))


def test_fingerprint_changes_with_each_pixel_and_recording() -> None:
    train, val = video(*range(12)), video(5, 6, 7)
    before = fingerprint(train, val)
    assert before == fingerprint(video(*range(12)), video(5, 6, 7))
    cut = VideoData(train.frames, train.labels, (Recording(0, 7), Recording(7, 12)))
    other = video(5, 6, 7)
    other.labels[2, 1, 1, 2] += 1
    changed = [
        fingerprint(cut, val),
        fingerprint(train, other),
        fingerprint(video(*range(11)), val),
        fingerprint(val, train),
    ]
    assert len({before, *changed}) == 5


def test_description_counts_frames_and_recordings() -> None:
    cut = VideoData(*2 * (torch.zeros(12, 4, 8, 3),), (Recording(0, 7), Recording(7, 12)))
    text = "data: 12 training frames in 2 recording(s), 5 validation frames, 8 x 4 pixels"
    assert describe_data(cut, VideoData(*2 * (torch.zeros(5, 4, 8, 3),), ())) == text


def test_pixels_are_rounded_and_clamped() -> None:
    pixels = torch.arange(256, dtype=torch.uint8).view(4, 8, 8, 1).repeat(1, 1, 1, 3)
    assert torch.equal(to_uint8(to_unit(pixels).permute(0, 3, 1, 2)), pixels)
    values = torch.tensor([-0.2, 0.0, 0.4999 / 255, 0.5001 / 255, 1.0, 1.02])
    frames = values.reshape(1, 1, 2, 3).repeat(1, 3, 1, 1)
    assert to_uint8(frames)[0, :, :, 0].ravel().tolist() == [0, 0, 0, 1, 255, 255]
    frames[0, 1, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="finite"):
        to_uint8(frames)


def test_baselines_by_hand() -> None:
    result = baselines(video(10, 20), video(0, 15, 51))
    # First frame 0: errors 15/255 and 51/255. Mean 15: equal, which counts 100 dB, and 36/255.
    first = (-20 * np.log10(15 / 255) - 20 * np.log10(51 / 255)) / 2
    assert result["first_frame"] == pytest.approx(first, abs=1e-4)
    assert result["mean_train_frame"] == pytest.approx(
        (100 - 20 * np.log10(36 / 255)) / 2, abs=1e-4
    )
    # Labels are the frames: 20 is nearest to both. Errors 5/255 and 31/255.
    nearest = (-20 * np.log10(5 / 255) - 20 * np.log10(31 / 255)) / 2
    assert result["nearest_pose"] == pytest.approx(nearest, abs=1e-4)


@pytest.mark.parametrize("size", [(8, 8), (16, 40), (32, 64), (33, 80), (64, 64), (300, 100)])
@pytest.mark.parametrize(("ground", "line"), [(0, 140), (128, 90), (255, 145)])
def test_the_nearest_pose_of_an_upright_line(size: tuple[int, int], ground: int, line: int) -> None:
    """A thin line that moves: its places in val are a few pixels beside those of train."""
    height, width = size
    step = width // 8

    def moving(poses: list[int], beside: int, lighter: int) -> VideoData:
        """Pose 0: nobody is there. Each pose has a frame of its own brightness."""
        labels = torch.full((len(poses), height, width, 3), ground, dtype=torch.uint8)
        for label, pose in zip(labels, poses, strict=True):
            if pose:
                label[height // 4 :, step * pose + beside, :2] = line
        return VideoData(
            (10 * torch.tensor(poses)[:, None, None, None] + lighter).expand_as(labels).byte(),
            labels,
            (Recording(0, len(poses)),),
        )

    train = moving([0, *range(1, 8), 0], 0, 0)
    poses = [5, 7, 2, 0, 4, 1, 6, 0, 3]
    val = moving(poses, step // 6, 5)
    _, place = nearest_rows(blurred(val.labels), blurred(train.labels))
    assert place.tolist() == poses  # of those without anybody the first
    assert blurred(val.labels).shape[1] < 1000
    nearest = baselines(train, val)["nearest_pose"]
    assert nearest == pytest.approx(-20 * np.log10(5 / 255), abs=1e-4)


def test_the_nearest_pose_does_not_depend_on_the_background() -> None:
    labels = torch.zeros(60, 32, 64, 3, dtype=torch.uint8)
    for label, (row, column, colour) in zip(
        labels, np.random.default_rng(0).integers(0, (20, 50, 3), (60, 3)), strict=True
    ):
        label[row : row + 12, column : column + 2, colour] = 100

    def nearest(labels: Tensor) -> list[int]:
        return nearest_rows(blurred(labels[:20]), blurred(labels[20:]))[1].tolist()

    on_black = nearest(labels)
    assert len(set(on_black)) > 10
    assert nearest(labels + 155) == on_black  # on grey
    assert nearest(255 - labels) == on_black  # on white


def test_nearest_rows_by_blocks() -> None:
    rng = np.random.default_rng(1)
    here, there = (rng.normal(size=(n, 7)).astype(np.float32) + 50 for n in (5, 23))
    there[17] = there[4] = here[2]
    distance = ((here[:, None] - there[None]) ** 2).mean(axis=2)
    for block in (1, 4, 2048):
        value, place = nearest_rows(here, there, block)
        assert place.tolist() == distance.argmin(axis=1).tolist() and place[2] == 4
        assert value == pytest.approx(distance.min(axis=1), abs=1e-4)
