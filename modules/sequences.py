"""Frames and labels in memory, and how training clips are cut from them.

Legend: N frames, B clips, T frames of a clip, H, W height and width in pixels.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from modules.ink import Ink, find_ink
from modules.losses import psnr
from modules.seeds import STREAM_CLIPS


@dataclass(frozen=True)
class Recording:
    """Frames that were filmed in one go, as indices into a split's frames; stop is exclusive."""

    start: int
    stop: int


@dataclass(frozen=True, eq=False)
class VideoData:
    """One folder of frames in memory, RGB."""

    frames: Tensor  # (N, H, W, 3) uint8
    labels: Tensor  # (N, H, W, 3) uint8
    recordings: tuple[Recording, ...]
    train_ink: Ink | None = None  # of the data set's training labels; None: as in these labels

    @cached_property
    def ink(self) -> Ink:
        """What the labels are drawn on."""
        return self.train_ink or find_ink(self.labels.cpu().numpy())

    @cached_property
    def bounds(self) -> Tensor:
        """Start and stop of each frame's recording, (N, 2) int64 on the frames' device.

        A frame outside of all recordings has only itself.
        """
        numbers = torch.arange(len(self.frames), device=self.frames.device)
        bounds = torch.stack((numbers, numbers + 1), dim=1)
        for recording in self.recordings:
            bounds[recording.start : recording.stop] = torch.tensor(
                (recording.start, recording.stop), device=bounds.device
            )
        return bounds

    def to(self, device: torch.device) -> "VideoData":
        """The same on a device."""
        frames, labels = self.frames.to(device), self.labels.to(device)
        return VideoData(frames, labels, self.recordings, self.train_ink)


@dataclass(frozen=True, eq=False)
class TestSequence:
    """What a video is generated from: its first frame and all T labels."""

    __test__ = False  # pytest: not a class of tests, whatever its name

    name: str  # its folder's, a number
    first_frame: Tensor  # (H, W, 3) uint8
    labels: Tensor  # (T, H, W, 3) uint8


def describe_data(train: VideoData, val: VideoData) -> str:
    """One line on the frames in memory."""
    _, height, width, _ = val.frames.shape
    return (
        f"data: {len(train.frames)} training frames in {len(train.recordings)} recording(s),"
        f" {len(val.frames)} validation frames, {width} x {height} pixels"
    )


def fingerprint(train: VideoData, val: VideoData) -> str:
    """SHA-256 of all pixels and recordings: whether a resumed run sees the data it started with."""
    digest = hashlib.sha256()
    for data in (train, val):
        digest.update(repr((tuple(data.frames.shape), data.recordings)).encode())
        for pixels in (data.frames, data.labels):
            digest.update(pixels.cpu().contiguous().numpy().data)
    return digest.hexdigest()


def epoch_clips(
    recordings: Sequence[Recording],
    length: int,
    *,
    seed: int,
    epoch: int,
    shuffle: bool = True,
    fraction: float = 1.0,
) -> np.ndarray:
    """Start indices of an epoch's clips, (clips,) int64: a pure function of (seed, epoch).

    A recording of n frames gives n // length clips in every epoch, so that all epochs have equally
    many steps; one shorter than a clip gives none. The clips follow each other from a fresh random
    offset in [0, length) on. Where the offset leaves room for one clip less, another is laid at
    that end of the recording that has more uncovered frames (at a tie, the last). So every start is
    reached in some epoch, the last frames are seen, and no clip crosses a recording.

    length:   frames of a clip, at least 1
    seed:     not negative, like epoch
    shuffle:  False gives the same consecutive clips from offset 0 in every epoch, in order
    fraction: part of the epoch's clips, in (0, 1], that is kept: the first ones, at least one
    """
    rng = np.random.default_rng([seed, epoch, STREAM_CLIPS])
    starts: list[int] = []
    for recording in recordings:
        frames = recording.stop - recording.start
        offset = int(rng.integers(length)) if shuffle else 0
        grid = list(range(recording.start + offset, recording.stop - length + 1, length))
        if len(grid) < frames // length:
            after = frames - offset - len(grid) * length  # frames, uncovered at the end
            grid.append(recording.start if offset > after else recording.stop - length)
        starts += grid
    clips = np.array(starts, dtype=np.int64)
    if shuffle:
        rng.shuffle(clips)
    return clips[: max(1, round(fraction * len(clips)))]


def gather_clips(data: VideoData, starts: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Frames and labels of the clips that start at `starts`, each (T, B, 3, H, W) uint8.

    starts: (B,) int64 on the data's device. Time-major, so that one step is contiguous. They are
    permuted views of (T, B, H, W, 3): flatten(0, 1) is channels-last without a copy.
    """
    index = starts[None, :] + torch.arange(length, device=starts.device)[:, None]  # (T, B)
    return data.frames[index].permute(0, 1, 4, 2, 3), data.labels[index].permute(0, 1, 4, 2, 3)


def to_unit(x: Tensor) -> Tensor:
    """uint8 → float32 in [0, 1], x / 255; shape and memory format are kept."""
    # A divisor on the device, since CUDA turns division by a plain number into a multiplication
    # by its rounded reciprocal.
    return x.float() / torch.full((), 255.0, dtype=torch.float32, device=x.device)


def nearest_rows(
    here: NDArray[np.float32], there: NDArray[np.float32], block: int = 2048
) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """For each row of `here`, mean squared difference to the nearest row of `there`, and which.

    Exact where the values are multiples of 1/16 in 0-255: of equally near rows it is the first.
    """
    # |a - b|² = |a|² + |b|² - 2ab turns it into a matrix product; in float64, since a small
    # difference of large numbers would lose its digits.
    rows = here.astype(np.float64)
    squares = (rows**2).sum(axis=1)
    best, place = np.full(len(here), np.inf), np.zeros(len(here), np.intp)
    for start in range(0, len(there), block):
        part = there[start : start + block].astype(np.float64)
        distance = (part**2).sum(axis=1)[None] - 2.0 * (rows @ part.T)
        index = distance.argmin(axis=1)
        value = distance[np.arange(len(here)), index] + squares
        better = value < best
        best[better], place[better] = value[better], start + index[better]
    return np.maximum(best, 0) / here.shape[1], place


def blurred(labels: Tensor) -> NDArray[np.float32]:
    """Labels as blurred, small rows of about 400 numbers: (N, H, W, 3) uint8 → (N, D) in 0-255.

    About 512 square cells make a frame. Each gets the mean of the 3 × 3 around it, twice, and every
    second one is kept: thin lines that lie beside each other overlap, and by how much tells how far
    apart they are. Outside counts as 0, which like the background's colour cancels in a difference
    of two labels. Multiples of 1/16, so that `nearest_rows` is exact.
    """
    height, width = labels.shape[1:3]
    cell = max(1, round((height * width / 512) ** 0.5))  # its side in pixels
    rows = []
    for part in labels.cpu().split(max(1, 2**19 // (height * width))):  # little memory, and faster
        pixels = part.permute(0, 3, 1, 2).float()
        small = F.avg_pool2d(pixels, cell, ceil_mode=True, divisor_override=cell**2)
        small = F.avg_pool2d(F.avg_pool2d(small, 3, 1, padding=1), 3, stride=2, padding=1)
        rows.append((small * 16).round().div(16).flatten(1).numpy())
    return np.concatenate(rows)


def baselines(train: VideoData, val: VideoData) -> dict[str, float]:
    """Average PSNR in dB over validation frames 1 … T−1 of three predictions that need no model.

    "first_frame" repeats the given frame; "mean_train_frame" shows the mean training frame;
    "nearest_pose" shows the training frame whose blurred label is nearest to label t, the first of
    several.
    """
    truth = to_unit(val.frames.cpu()).permute(0, 3, 1, 2)  # (T, 3, H, W)
    mean = train.frames.cpu().numpy().mean(axis=0, dtype=np.float64) / 255.0
    average = torch.from_numpy(mean).float().permute(2, 0, 1)  # (3, H, W)
    _, place = nearest_rows(blurred(val.labels)[1:], blurred(train.labels))
    nearest = to_unit(train.frames.cpu()[torch.from_numpy(place)]).permute(0, 3, 1, 2)
    return {
        "first_frame": psnr(truth[:1], truth[1:]).double().mean().item(),
        "mean_train_frame": psnr(average[None], truth[1:]).double().mean().item(),
        "nearest_pose": psnr(nearest, truth[1:]).double().mean().item(),
    }


def to_uint8(frames: Tensor) -> Tensor:
    """Frames in [0, 1] as exact pixels: (T, 3, H, W) float → (T, H, W, 3) uint8.

    round(255·x), clamped: 1.02 must not wrap to 4. A NaN is refused (ValueError): as an integer it
    would be any number.
    """
    if not torch.isfinite(frames).all():
        raise ValueError("frames are not finite")
    return (frames.clamp(0, 1) * 255.0).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()
