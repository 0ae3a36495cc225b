"""A step's random numbers and clips, and what its steps start from."""

import pytest
import torch
from modules.sequences import gather_clips

from modules.data import (
    Draws,
    Recording,
    VideoData,
    augment,
    draw,
    epoch_batches,
    load_clips,
    to_unit,
)
from modules.options import TrainerOptions, parse_trainer
from modules.rollouts import StoredRollouts
from modules.schedules import Plan, epoch_plan

PLAN = Plan(0.01, 0.3, True, 1e-3)
STARTS = torch.tensor([2, 9])


def options_of(typed: str = "") -> TrainerOptions:
    small = "--DR d --N_dim 4 --frame_H 8 --frame_W 8 --train_vi_len 4"
    return parse_trainer("", [*small.split(), *typed.split()])[0]


def data() -> VideoData:
    g = torch.Generator().manual_seed(0)
    frames, labels = torch.randint(0, 256, (2, 22, 8, 8, 3), generator=g, dtype=torch.uint8)
    return VideoData(frames, labels, (Recording(0, 22),))


def drawn(typed: str = "", *, number: int = 0, batch: int = 50, plan: Plan = PLAN) -> Draws:
    return draw(options_of(typed), torch.Generator(), plan, epoch=0, number=number, batch=batch)


def test_draws_are_by_seed_epoch_and_step() -> None:
    typed = "--tf_draw step --frame_noise 0.2 --augment shift"
    again = drawn(typed, number=3).tensors()
    assert len(again) == 4
    for a, b in zip(drawn(typed, number=3).tensors(), again, strict=True):
        assert torch.equal(a, b)
    for other in (drawn(typed, number=4), drawn(f"{typed} --seed 1", number=3)):
        assert not torch.equal(other.latent, again[0])
    assert len(drawn().tensors()) == 1  # by default only the latent is random


def test_a_rank_s_draws_are_those_of_its_clips() -> None:
    whole = drawn("--tf_draw step --frame_noise 0.2 --augment shift", batch=6)
    part = whole.of(slice(1, None, 2))
    for a, b in zip(part.tensors(), whole.tensors(), strict=True):
        assert torch.equal(a, b[:, [1, 3, 5]])
    doubled = part.replaced([2 * x.float() for x in part.tensors()])
    assert torch.equal(doubled.latent, 2 * part.latent)
    assert drawn().replaced([part.latent]).forced is None


def test_steps_draw_teacher_forcing_for_themselves() -> None:
    forced = torch.stack([drawn("--tf_draw step", number=n).forced for n in range(20)])  # type: ignore[misc]
    assert forced.shape == (20, 3, 50)
    assert 0.25 < forced.float().mean().item() < 0.35
    none = drawn("--tf_draw step", plan=PLAN._replace(tfr=0.0)).forced
    assert none is not None and not none.any()
    assert drawn().forced is None  # by the epoch
    options = options_of("--tf_draw step --tfr 0.5")
    assert all(epoch_plan(options, e).teacher_forcing for e in range(5))


def test_short_epochs_visit_fewer_clips() -> None:
    options = options_of("--fast_train --fast_partial 0.4 --fast_train_epoch 1 --batch_size 2")
    assert [len(b) for b in epoch_batches(options, data(), 0)] == [2]
    assert [len(b) for b in epoch_batches(options, data(), 1)] == [2, 2, 1]


LATENT = torch.zeros(3, 2, 4, 8, 8)


@pytest.mark.parametrize("teacher_forcing", [True, False])
def test_an_epoch_is_forced_or_free(teacher_forcing: bool) -> None:
    video = data()
    clips = load_clips(
        video, None, STARTS, Draws(LATENT), length=4, teacher_forcing=teacher_forcing
    )
    frames, labels = (to_unit(x) for x in gather_clips(video, STARTS, 4))
    assert torch.equal(clips.frames, frames) and torch.equal(clips.labels, labels)
    assert torch.equal(clips.previous.frames, frames[:-1])
    assert clips.previous.true
    assert clips.sequential is not teacher_forcing
    assert clips.previous.given.all() if teacher_forcing else not clips.previous.given.any()


def test_stored_frames_stand_in_where_a_step_is_not_forced() -> None:
    video, stored = data(), StoredRollouts(data())
    stored.frames = 255 - stored.frames
    frames = to_unit(gather_clips(video, STARTS, 4)[0])[:-1]
    own = stored.clips(STARTS, 4)

    def start(forced: torch.Tensor | None, teacher_forcing: bool) -> torch.Tensor:
        draws = Draws(LATENT, forced=forced)
        clips = load_clips(video, stored, STARTS, draws, length=4, teacher_forcing=teacher_forcing)
        assert not clips.sequential  # nothing is made in the step itself
        assert clips.previous.given.all()
        return clips.previous.frames

    assert torch.equal(start(None, teacher_forcing=True), frames)
    assert torch.equal(start(None, teacher_forcing=False), own)
    forced = torch.tensor([[False, True], [True, False], [False, False]])
    mixed = start(forced, teacher_forcing=True)
    assert torch.equal(mixed[forced], frames[forced])
    assert torch.equal(mixed[~forced], own[~forced])


# ---------------------------------------------------------------- jumps and references

TWO = (Recording(0, 10), Recording(10, 22))


def numbered(recordings: tuple[Recording, ...] = TWO) -> VideoData:
    """Frames whose pixels are their number; labels are 100 more."""
    frames = torch.arange(22, dtype=torch.uint8)[:, None, None, None].expand(22, 8, 8, 3)
    return VideoData(frames.contiguous(), (frames + 100).contiguous(), recordings)


def number_of(frames: torch.Tensor) -> torch.Tensor:
    """(..., 3, H, W) in [0, 1] → the frames' numbers."""
    return (frames[..., 0, 0, 0] * 255).round().long()


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_jumps_start_from_any_frame_of_the_same_recording(share: float) -> None:
    starts = torch.tensor([0, 6, 10, 18]).repeat(500)
    draws = Draws(torch.zeros(0), jump=torch.rand(3, 2000, 2, generator=torch.Generator()))
    clips = load_clips(numbered(), None, starts, draws, length=4, teacher_forcing=True, jump=share)
    start, own = number_of(clips.previous.frames), number_of(clips.frames)[:-1]
    assert not clips.sequential and clips.previous.given.all()
    assert torch.equal(number_of(clips.frames), starts + torch.arange(4)[:, None])  # the targets
    jumped = start != own
    expected = share * (1 - 1 / 11)  # now and then a jump lands on frame t-1
    assert jumped.float().mean().item() == pytest.approx(expected, abs=0.03)
    first = starts < 10
    assert (start[:, first] < 10).all() and (start[:, ~first] >= 10).all()
    if share == 1.0:
        assert set(start[:, first].unique().tolist()) == set(range(10))
        assert set(start[:, ~first].unique().tolist()) == set(range(10, 22))


def test_jumps_in_free_running_are_given_frames() -> None:
    draws = Draws(torch.zeros(0), jump=torch.tensor([[[0.9, 0.5]], [[0.1, 0.5]], [[0.9, 0.5]]]))
    clips = load_clips(
        numbered(), None, torch.tensor([2]), draws, length=4, teacher_forcing=False, jump=0.3
    )
    assert clips.sequential
    assert clips.previous.given[:, 0].tolist() == [False, True, False]
    assert number_of(clips.previous.frames)[1].item() == 5


def test_the_reference_is_of_the_recording_and_never_a_target() -> None:
    starts = torch.tensor([0, 6, 10, 18]).repeat(500)
    draws = Draws(torch.zeros(0), reference=torch.rand(1, 2000, generator=torch.Generator()))
    clips = load_clips(numbered(), None, starts, draws, length=4, teacher_forcing=True)
    assert clips.reference is not None
    frame, label = (number_of(x) for x in clips.reference)
    assert torch.equal(label, frame + 100)
    assert clips.labels.shape == clips.frames.shape
    for start, recording in ((0, TWO[0]), (6, TWO[0]), (10, TWO[1]), (18, TWO[1])):
        found = set(frame[starts == start].tolist())
        targets = set(range(start + 1, start + 4))
        assert found == set(range(recording.start, recording.stop)) - targets
    whole = load_clips(
        numbered((Recording(0, 4), Recording(4, 22))),
        *(None, torch.tensor([0]), Draws(torch.zeros(0), reference=torch.tensor([[0.99]]))),
        length=4,
        teacher_forcing=True,
    )
    assert whole.reference is not None  # the clip is the recording: only its first frame is left
    assert number_of(whole.reference[0]).item() == 0


def test_references_and_jumps_are_augmented_like_their_clip() -> None:
    draws = drawn("--augment shift flip --jump 0.5 --reference first", batch=2)
    video = data()
    kinds = ("shift", "flip")
    kind = {"length": 4, "teacher_forcing": True, "jump": 0.5}
    plain = load_clips(video, None, STARTS, draws._replace(augmentation=None), **kind)
    changed = load_clips(video, None, STARTS, draws, augmentations=kinds, **kind)
    assert plain.reference is not None and changed.reference is not None
    assert draws.augmentation is not None
    pairs = (
        (plain.reference[0][None], plain.reference[1][None], changed.reference),
        (plain.previous.frames, plain.labels[:-1], (changed.previous.frames, changed.labels[:-1])),
    )
    for frames, labels, found in pairs:
        expected = augment(frames, labels, draws.augmentation, kinds)
        for a, b in zip(expected, found, strict=True):
            assert torch.equal(a.reshape(b.shape), b)
    assert not torch.equal(changed.previous.frames, plain.previous.frames)  # the control
