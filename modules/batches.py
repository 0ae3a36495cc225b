"""What a training step is made of: its random numbers, and its clips on the device.

Shapes: T time, B batch, C channels, H, W; clips are time-major, (T, B, 3, H, W).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from modules import seeds
from modules.augment import augment, draw_augmentation
from modules.cvae import Previous
from modules.options import TrainerOptions, model_config
from modules.plan import Plan
from modules.rollouts import StoredRollouts
from modules.sequences import VideoData, epoch_clips, gather_clips, to_unit


def epoch_batches(o: TrainerOptions, data: VideoData, epoch: int) -> Sequence[Tensor]:
    """The batches of an epoch: each the frame numbers that its clips start at, (B,) int64."""
    short = o.fast_train and epoch < o.fast_train_epoch
    clips = epoch_clips(
        data.recordings,
        o.train_vi_len,
        seed=o.seed,
        epoch=epoch,
        shuffle=not o.no_shuffle,
        fraction=o.fast_partial if short else 1.0,
    )
    return torch.from_numpy(clips).to(data.frames.device).split(o.batch_size)


class Draws(NamedTuple):
    """The random numbers of a step; the second axis of each is the clip, B."""

    latent: Tensor  # ε, (T-1, B, N, H, W)
    frame_noise: Tensor | None = None  # (T-1, B, 3, H, W), with --frame_noise
    forced: Tensor | None = None  # (T-1, B) booleans, with --tf_draw step
    augmentation: Tensor | None = None  # (AUGMENTATION_DRAWS, B), with --augment
    jump: Tensor | None = None  # (T-1, B, 2) in [0, 1): whether, and where to; with --jump
    reference: Tensor | None = None  # (1, B) in [0, 1): which frame, with --reference

    def of(self, clips: slice | Tensor) -> "Draws":
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
    o: TrainerOptions,
    generator: torch.Generator,
    plan: Plan,
    *,
    epoch: int,
    number: int,
    batch: int,
) -> Draws:
    """The random numbers of a step, on the generator's device.

    A function of (seed, epoch, step), so a resumed run draws the same, and the ranks of a parallel
    one, each taking its shard, what a single process would.
    """
    generator.manual_seed(seeds.derived_seed(o.seed, epoch, number, seeds.STREAM_LATENT))
    kind: dict[str, Any] = {"generator": generator, "device": generator.device}
    shape = (o.train_vi_len - 1, batch, o.frame_H, o.frame_W)
    channels, *latent = model_config(o).latent_shape
    draws = Draws(torch.randn(*shape[:2], *latent, channels, **kind).permute(0, 1, 4, 2, 3))
    if o.frame_noise > 0:
        # Clips of every noise level up to the largest, so that clean frames are known too.
        level = o.frame_noise * torch.rand(batch, 1, 1, 1, **kind)
        noise = torch.randn(*shape, 3, **kind).permute(0, 1, 4, 2, 3)
        draws = draws._replace(frame_noise=level * noise)
    if o.tf_draw == "step":
        draws = draws._replace(forced=torch.rand(*shape[:2], **kind) < plan.tfr)
    if o.augment:
        draws = draws._replace(augmentation=draw_augmentation(batch, **kind))
    if o.jump > 0:
        draws = draws._replace(jump=torch.rand(*shape[:2], 2, **kind))
    if o.reference != "none":
        draws = draws._replace(reference=torch.rand(1, batch, **kind))
    return draws


class Clips(NamedTuple):
    """The clips of a step, ready for CVAE.forward."""

    frames: Tensor  # (T, B, 3, H, W) in [0, 1]
    labels: Tensor  # (T, B, 3, H, W) in [0, 1]
    previous: Previous
    sequential: bool  # whether some steps start from frames that the step itself makes
    reference: tuple[Tensor, Tensor] | None = None  # a frame and its label, (B, 3, H, W) twice


def load_clips(
    data: VideoData,
    stored: StoredRollouts | None,
    starts: Tensor,
    draws: Draws,
    *,
    length: int,
    teacher_forcing: bool,
    augmentations: tuple[str, ...] = (),
    jump: float = 0.0,
) -> Clips:
    """Clips of `length` frames that start at `starts`, (B,), and what their steps start from.

    teacher_forcing: of the epoch; draws.forced says it for each step instead, if there is one
    stored:          the model's own frames, which stand in wherever a step is not teacher-forced
    jump:            share of the steps that start from a random frame of the same recording
    """
    frames, labels = (to_unit(x) for x in gather_clips(data, starts, length))  # (T, B, 3, H, W)
    forced = draws.forced
    if forced is None:
        forced = torch.full((length - 1, len(starts)), teacher_forcing, device=starts.device)
    free = draws.forced is not None or not teacher_forcing  # some step is not teacher-forced
    own = None
    if free and stored is not None:
        own = stored.clips(starts, length)  # (T-1, B, 3, H, W)
        own = torch.where(forced[:, :, None, None, None], frames[:-1], own)
        forced, free = torch.ones_like(forced), False  # no step makes what another starts from
    if draws.jump is not None:
        jumps = draws.jump[..., 0] < jump  # (T-1, B)
        elsewhere = _elsewhere(data, starts, draws.jump[..., 1])
        own = torch.where(
            jumps[:, :, None, None, None], elsewhere, frames[:-1] if own is None else own
        )
        forced = forced | jumps
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
    given = frames[:-1] if true else pictures[1]
    previous = Previous(given, forced, draws.frame_noise, true)
    return Clips(frames, labels, previous, sequential=free, reference=reference)


def _reference(data: VideoData, starts: Tensor, where: Tensor, length: int) -> Tensor:
    """The number of each clip's reference frame, (B,): of its recording, never one of its targets.

    starts: (B,) first frames of the clips; where: (B,) in [0, 1), all such frames equally likely.
    """
    first, stop = data.bounds[starts].unbind(dim=1)  # (B,)
    others = stop - first - (length - 1)
    index = first + torch.minimum((where * others).long(), others - 1)
    return torch.where(index > starts, index + length - 1, index)


def _elsewhere(data: VideoData, starts: Tensor, where: Tensor) -> Tensor:
    """A frame of the same recording for each step: (T-1, B, 3, H, W) in [0, 1].

    starts: (B,) first frames of the clips; where: (T-1, B) in [0, 1), all frames equally likely.
    """
    first, stop = data.bounds[starts].unbind(dim=1)  # (B,)
    # A product that rounds up to the stop would be a frame of the next recording.
    index = torch.minimum(first + (where * (stop - first)).long(), stop - 1)  # (T-1, B)
    return to_unit(data.frames[index]).permute(0, 1, 4, 2, 3)
