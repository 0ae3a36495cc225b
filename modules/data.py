"""From frames in memory to the clips of a training step.

Read downwards: the data set (VideoData), an epoch's clips, a step's random numbers (Draws), its
clips on the device (load_clips). Every draw is a pure function of (seed, epoch, step).
Shapes: N frames, T time, B clips, C channels, H, W height and width in pixels. Clips are
time-major, (T, B, 3, H, W): one step, or all steps after the first, are a contiguous slice.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from modules.ink import Ink, find_ink


class DataOptions(Protocol):
    """Those of the run's options (options.py) that its clips and their random numbers follow."""

    seed: int
    train_vi_len: int
    batch_size: int
    num_epoch: int
    frame_H: int
    frame_W: int
    fast_train: bool
    fast_partial: float
    fast_train_epoch: int
    augment: tuple[str, ...]
    frame_noise: float
    jump: float
    reference: str
    rollout_every: int


# ---------------------------------------------------------------- seeds

# Streams of random numbers: one number for each purpose, so that no two share draws.
STREAM_CLIPS, STREAM_TEACHER_FORCING, STREAM_LATENT, STREAM_ROLLOUT, STREAM_STORED = range(5)


def derived_seed(*path: int) -> int:
    """A 63-bit seed that is a pure function of non-negative integers such as (seed, epoch, step).

    numpy's SeedSequence hashes them, so that neighbouring numbers give unrelated streams.
    """
    return int(np.random.SeedSequence(path).generate_state(1, np.uint64)[0] >> np.uint64(1))


# ---------------------------------------------------------------- the data set


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
        numbers = torch.arange(len(self.frames))
        bounds = torch.stack((numbers, numbers + 1), dim=1)
        for one in self.recordings:
            bounds[one.start : one.stop] = torch.tensor((one.start, one.stop))
        return bounds.to(self.frames.device)

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
    truth: Tensor | None = None  # (T, H, W, 3) uint8, where all frames are given; only to be shown
    # Frame and label that the background comes from, (H, W, 3) uint8; None: the first of each.
    reference: tuple[Tensor, Tensor] | None = None


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


def to_uint8(frames: Tensor) -> Tensor:
    """Frames in [0, 1] as exact pixels: (T, 3, H, W) float → (T, H, W, 3) uint8.

    round(255·x), clamped: 1.02 must not wrap to 4. A NaN is refused (ValueError): as an integer it
    would be any number.
    """
    if not torch.isfinite(frames).all():
        raise ValueError("frames are not finite")
    return (frames.clamp(0, 1) * 255.0).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


# ---------------------------------------------------------------- the clips of an epoch


def epoch_clips(
    recordings: Sequence[Recording],
    length: int,
    *,
    seed: int,
    epoch: int,
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
    fraction: part of the epoch's clips, in (0, 1], that is kept: the first ones, at least one
    """
    rng = np.random.default_rng([seed, epoch, STREAM_CLIPS])
    starts: list[int] = []
    for recording in recordings:
        frames = recording.stop - recording.start
        offset = int(rng.integers(length))
        grid = list(range(recording.start + offset, recording.stop - length + 1, length))
        if len(grid) < frames // length:
            after = frames - offset - len(grid) * length  # frames, uncovered at the end
            grid.append(recording.start if offset > after else recording.stop - length)
        starts += grid
    clips = np.array(starts, dtype=np.int64)
    rng.shuffle(clips)
    return clips[: max(1, round(fraction * len(clips)))]


def epoch_batches(o: DataOptions, data: VideoData, epoch: int) -> Sequence[Tensor]:
    """The batches of an epoch: each the frame numbers that its clips start at, (B,) int64."""
    short = o.fast_train and epoch < o.fast_train_epoch
    clips = epoch_clips(
        data.recordings,
        o.train_vi_len,
        seed=o.seed,
        epoch=epoch,
        fraction=o.fast_partial if short else 1.0,
    )
    return torch.from_numpy(clips).to(data.frames.device).split(o.batch_size)


def largest_batch(o: DataOptions, data: VideoData) -> int:
    """Clips of the largest batch of a run; a short epoch may have fewer than one batch."""
    return max(len(epoch_batches(o, data, epoch)[0]) for epoch in (0, o.num_epoch - 1))


# ---------------------------------------------------------------- the random numbers of a step

AUGMENTATIONS = ("flip", "shift", "colour")
AUGMENTATION_DRAWS = 5  # uniform numbers that a clip draws: flip, two of shift, two of colour
SHIFT = 1 / 16  # largest shift, of the frame's height and width
GAIN, OFFSET = 0.1, 0.05  # largest change of contrast, and of brightness on the scale of [0, 1]


class Draws(NamedTuple):
    """The random numbers of a step; the second axis of each is the clip, B."""

    latent: Tensor  # ε, (T-1, B, N, H, W)
    frame_noise: Tensor | None = None  # (T-1, B, 3, H, W), with --frame_noise
    forced: Tensor | None = None  # (T-1, B) booleans, with --rollout_every
    augmentation: Tensor | None = None  # (AUGMENTATION_DRAWS, B), with --augment
    jump: Tensor | None = None  # (T-1, B, 2) in [0, 1): whether, and where to; with --jump
    reference: Tensor | None = None  # (1, B) in [0, 1): which frame, with --reference

    def select(self, clips: slice | Tensor) -> "Draws":
        """Those of some of the clips."""
        return Draws(*(None if x is None else x[:, clips] for x in self))  # type: ignore[arg-type]

    def tensors(self) -> list[Tensor]:
        """Those that there are."""
        return [drawn for drawn in self if drawn is not None]

    def replaced(self, tensors: Sequence[Tensor]) -> "Draws":
        """With other tensors in the place of tensors()."""
        others = iter(tensors)
        return Draws(*(None if x is None else next(others) for x in self))  # type: ignore[arg-type]


def draw(
    o: DataOptions,
    generator: torch.Generator,
    *,
    tfr: float,
    latent: tuple[int, int, int],
    epoch: int,
    number: int,
    batch: int,
) -> Draws:
    """The random numbers of a step, on the generator's device.

    A function of (seed, epoch, step), so a resumed run draws the same, and the ranks of a parallel
    one, each taking its shard, what a single process would.
    tfr: teacher-forcing ratio of the epoch; latent: (N, H, W)
    """
    generator.manual_seed(derived_seed(o.seed, epoch, number, STREAM_LATENT))
    kind: dict[str, Any] = {"generator": generator, "device": generator.device}
    shape = (o.train_vi_len - 1, batch, o.frame_H, o.frame_W)
    channels, *size = latent
    draws = Draws(torch.randn(*shape[:2], *size, channels, **kind).permute(0, 1, 4, 2, 3))
    if o.frame_noise > 0:
        # Clips of every noise level up to the largest, so that clean frames are known too.
        level = o.frame_noise * torch.rand(batch, 1, 1, 1, **kind)
        noise = torch.randn(*shape, 3, **kind).permute(0, 1, 4, 2, 3)
        draws = draws._replace(frame_noise=level * noise)
    if o.rollout_every > 0:  # stored frames stand in step by step, as in scheduled sampling
        draws = draws._replace(forced=torch.rand(*shape[:2], **kind) < tfr)
    if o.augment:
        draws = draws._replace(augmentation=torch.rand(AUGMENTATION_DRAWS, batch, **kind))
    if o.jump > 0:
        draws = draws._replace(jump=torch.rand(*shape[:2], 2, **kind))
    if o.reference != "none":
        draws = draws._replace(reference=torch.rand(1, batch, **kind))
    return draws


# ---------------------------------------------------------------- the clips of a step


class Previous(NamedTuple):
    """What the T-1 steps of a training pass start from.

    Teacher forcing, scheduled sampling, free running and stored rollouts differ in this alone.
    """

    frames: Tensor  # (T-1, B, 3, H, W) in [0, 1]: given ones, the true frames 0 … T-2 or stored
    given: Tensor  # (T-1, B) booleans: steps that start from these; others from the model's own.
    # Step 1 always starts from a given frame.
    noise: Tensor | None = None  # (T-1, B, 3, H, W), added to whatever a step starts from
    true: bool = True  # whether `frames` are the clip's own frames 0 … T-2

    def map(self, function: Callable[[Tensor], Tensor]) -> "Previous":
        """With function(…) of the frames, and of the noise."""
        noise = None if self.noise is None else function(self.noise)
        return self._replace(frames=function(self.frames), noise=noise)

    def all(self) -> Tensor:
        """What the steps start from where all start from given frames: (T-1, B, 3, H, W)."""
        return _with_noise(self.frames, self.noise)

    def first(self) -> Tensor:
        """What step 1 starts from: (B, 3, H, W) in [0, 1]."""
        return _with_noise(self.frames[0], None if self.noise is None else self.noise[0])

    def after(self, made: Tensor, step: int) -> Tensor:
        """What step 2 … T-1 (`step` counts from 0) starts from: (B, 3, H, W) in [0, 1].

        made: the model's frame before it, for the clips in which the step is not given one.
        """
        start = torch.where(self.given[step][:, None, None, None], self.frames[step], made)
        return _with_noise(start, None if self.noise is None else self.noise[step])


def _with_noise(frames: Tensor, noise: Tensor | None) -> Tensor:
    """Frames as they are forced or fed back: in [0, 1], with noise of the same shape or none."""
    clamped = frames.clamp(0.0, 1.0)
    return clamped if noise is None else (clamped + noise).clamp(0.0, 1.0)


class Clips(NamedTuple):
    """The clips of a step, ready for CVAE.forward."""

    frames: Tensor  # (T, B, 3, H, W) in [0, 1]
    labels: Tensor  # (T, B, 3, H, W) in [0, 1]
    previous: Previous
    sequential: bool  # whether some steps start from frames that the step itself makes
    reference: tuple[Tensor, Tensor] | None = None  # a frame and its label, (B, 3, H, W) twice


def load_clips(
    data: VideoData,
    stored: Tensor | None,
    starts: Tensor,
    draws: Draws,
    *,
    length: int,
    teacher_forcing: bool,
    augmentations: tuple[str, ...] = (),
    jump: float = 0.0,
) -> Clips:
    """Clips of `length` frames that start at `starts`, (B,), and what their steps start from.

    teacher_forcing: of the epoch; with stored frames draws.forced says it for each step instead
    stored:          the model's own frames, (N, H, W, 3) uint8, which stand in wherever a step is
                     not teacher-forced
    jump:            share of the steps that start from a random frame of the same recording
    """
    frames, labels = (  # (T, B, 3, H, W)
        to_unit(gather_clips(x, starts, length)) for x in (data.frames, data.labels)
    )
    own = None  # what steps start from in place of the true frames, (T-1, B, 3, H, W)
    given = torch.full((length - 1, len(starts)), teacher_forcing, device=starts.device)
    sequential = not teacher_forcing
    if stored is not None:
        assert draws.forced is not None
        own = to_unit(gather_clips(stored, starts, length - 1))
        own = torch.where(draws.forced[:, :, None, None, None], frames[:-1], own)
        given, sequential = torch.ones_like(given), False
    if draws.jump is not None:
        jumps = draws.jump[..., 0] < jump  # (T-1, B)
        elsewhere = _elsewhere(data, starts, draws.jump[..., 1])
        own = torch.where(
            jumps[:, :, None, None, None], elsewhere, frames[:-1] if own is None else own
        )
        given = given | jumps
    pictures = [x for x in (frames, own) if x is not None]  # all that are changed alike
    if draws.reference is not None:
        index = _reference(data, starts, draws.reference[0], length)  # (B,)
        both = (to_unit(x[index]).permute(0, 3, 1, 2)[None] for x in (data.frames, data.labels))
        pictures, labels = [*pictures, next(both)], torch.cat((labels, next(both)))
    if draws.augmentation is not None:
        changed, labels = augment(torch.cat(pictures), labels, draws.augmentation, augmentations)
        pictures = list(changed.split([len(x) for x in pictures]))
    reference = None
    if draws.reference is not None:
        reference, labels = (pictures[-1][0], labels[-1]), labels[:-1]
    frames, true = pictures[0], own is None
    before = frames[:-1] if true else pictures[1]
    previous = Previous(before, given, draws.frame_noise, true)
    return Clips(frames, labels, previous, sequential, reference)


def gather_clips(images: Tensor, starts: Tensor, length: int) -> Tensor:
    """The images of clips that start at `starts`, (B,): (N, H, W, 3) → (T, B, 3, H, W), uint8.

    A permuted view of (T, B, H, W, 3): flatten(0, 1) is channels-last without a copy.
    """
    index = starts[None, :] + torch.arange(length, device=starts.device)[:, None]  # (T, B)
    return images[index].permute(0, 1, 4, 2, 3)


def _reference(data: VideoData, starts: Tensor, where: Tensor, length: int) -> Tensor:
    """The number of each clip's reference frame, (B,): of its recording, never one of its targets.

    starts: (B,) first frames of the clips; where: (B,) in [0, 1), all such frames equally likely.
    """
    first, stop = data.bounds[starts].unbind(dim=1)  # (B,)
    others = stop - first - (length - 1)
    index = first + (where * others).long()
    return torch.where(index > starts, index + length - 1, index)


def _elsewhere(data: VideoData, starts: Tensor, where: Tensor) -> Tensor:
    """A frame of the same recording for each step: (T-1, B, 3, H, W) in [0, 1].

    starts: (B,) first frames of the clips; where: (T-1, B) in [0, 1), all frames equally likely.
    """
    first, stop = data.bounds[starts].unbind(dim=1)  # (B,)
    index = first + (where * (stop - first)).long()  # (T-1, B)
    return to_unit(data.frames[index]).permute(0, 1, 4, 2, 3)


def augment(
    frames: Tensor, labels: Tensor, draws: Tensor, kinds: tuple[str, ...]
) -> tuple[Tensor, Tensor]:
    """Clips as another camera or light might have seen them; same shapes, values in [0, 1].

    frames, labels: (T, B, 3, H, W) in [0, 1]; draws: uniform numbers in [0, 1),
    (AUGMENTATION_DRAWS, B).
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
