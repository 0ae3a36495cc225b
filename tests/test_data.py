"""From frames in memory to the clips of a step: what is drawn, and from where."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from modules.data import (
    AUGMENTATION_DRAWS,
    Clips,
    Draws,
    Previous,
    Recording,
    VideoData,
    augment,
    derived_seed,
    describe_data,
    draw,
    epoch_batches,
    epoch_clips,
    fingerprint,
    largest_batch,
    load_clips,
    nearest_rows,
    to_uint8,
    to_unit,
)
from tests.support.small_run import LATENT, options_of, random_data

RECORDINGS = (Recording(0, 23), Recording(23, 27), Recording(27, 35), Recording(35, 38))
# The largest number that torch.rand() gives: no product with a whole number rounds up to that.
ALMOST_ONE = 1 - 2.0**-24


def test_derived_seeds_differ_and_repeat() -> None:
    paths = [(s, e, t) for s in range(4) for e in range(20) for t in range(20)]
    seeds = [derived_seed(*path) for path in paths]
    assert seeds == [derived_seed(*path) for path in paths]
    assert len(set(seeds)) == 1600 and min(seeds) >= 0 and max(seeds) < 2**63


# ---------------------------------------------------------------- pixels


def test_pixels_go_to_unit_and_back_exactly() -> None:
    values = torch.arange(256, dtype=torch.uint8)
    expected = np.arange(256, dtype=np.float32) / np.float32(255)
    assert np.array_equal(to_unit(values).numpy(), expected)
    pixels = values.view(4, 8, 8, 1) + torch.arange(3, dtype=torch.uint8)  # channels differ
    assert torch.equal(to_uint8(to_unit(pixels).permute(0, 3, 1, 2)), pixels)
    frames = torch.tensor([-0.2, 0.0, 0.4999 / 255, 0.5001 / 255, 1.0, 1.02])
    frames = frames.reshape(1, 1, 2, 3).repeat(1, 3, 1, 1)
    assert to_uint8(frames)[0, :, :, 0].ravel().tolist() == [0, 0, 0, 1, 255, 255]
    frames[0, 1, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="finite"):
        to_uint8(frames)


def test_fingerprint_changes_with_each_pixel_and_recording() -> None:
    train, val = random_data(), random_data(Recording(0, 7), Recording(7, 22))
    frame, label, same = (random_data(*val.recordings) for _ in "abc")
    frame.frames[2, 1, 1, 2] ^= 1
    label.labels[21, 7, 7, 0] ^= 1
    pairs = [(train, val), (train, frame), (train, label), (val, train), (train, train)]
    assert len({fingerprint(*pair) for pair in pairs}) == 5
    assert fingerprint(train, same) == fingerprint(train, val)


def test_the_size_of_frames_is_said_width_first() -> None:
    wide = VideoData(*torch.zeros(2, 5, 4, 6, 3, dtype=torch.uint8), (Recording(0, 5),))
    assert describe_data(random_data(), wide).endswith("5 validation frames, 6 x 4 pixels")


def test_nearest_rows_by_blocks() -> None:
    rng = np.random.default_rng(1)
    here, there = (rng.normal(size=(n, 7)).astype(np.float32) + 50 for n in (5, 23))
    there[17] = there[4] = here[2]
    distance = ((here[:, None] - there[None]) ** 2).mean(axis=2)
    for block in (1, 4, 2048):
        value, place = nearest_rows(here, there, block)
        assert place.tolist() == distance.argmin(axis=1).tolist() and place[2] == 4
        assert value == pytest.approx(distance.min(axis=1), abs=1e-4)


# ---------------------------------------------------------------- the clips of an epoch


def test_clips_are_a_pure_function_of_seed_and_epoch() -> None:
    def drawn(seed: int, epoch: int) -> list[int]:
        o = options_of(f"--seed {seed} --train_vi_len 2")
        return torch.cat(list(epoch_batches(o, random_data(), epoch))).tolist()

    first = drawn(1, 2)
    np.random.seed(0)  # noqa: NPY002 (the global generator must not matter)
    assert drawn(1, 2) == first
    assert drawn(1, 3) != first and drawn(2, 2) != first
    orders = {tuple(np.argsort(drawn(0, epoch))) for epoch in range(9)}  # whatever the offset
    assert len(orders) == 9


@pytest.mark.parametrize("length", [1, 2, 4, 5, 8])
def test_clips_cover_recordings_and_never_cross(length: int) -> None:
    valid = {s for r in RECORDINGS for s in range(r.start, r.stop - length + 1)}
    reached: set[int] = set()
    for epoch in range(150):
        starts = epoch_clips(RECORDINGS, length, seed=5, epoch=epoch)
        assert starts.dtype == np.int64
        for rec in RECORDINGS:
            inside = sorted(s for s in starts.tolist() if rec.start <= s < rec.stop)
            assert len(inside) == (rec.stop - rec.start) // length  # as many in every epoch
            gaps = np.diff(inside)  # only the one clip at an end may overlap another
            assert (gaps < length).sum() <= 1 and (gaps > 0).all()
        reached |= set(starts.tolist())
    assert reached == valid  # every start, none across a boundary; so the last frames are seen


@pytest.mark.parametrize(
    ("recording", "expected"),
    [
        # 10 frames, clips of 4: two each epoch, from offset o; o = 3 leaves room for one.
        ((100, 110), {(100, 104), (101, 105), (102, 106), (103, 106)}),
        # 9 frames: o = 2 and 3 leave 2 | 3 and 3 | 2 frames uncovered at the start | end.
        ((0, 9), {(0, 4), (1, 5), (2, 5), (0, 3)}),
        ((0, 3), {()}),
    ],
)
def test_where_the_extra_clip_lies(
    recording: tuple[int, int], expected: set[tuple[int, ...]]
) -> None:
    drawn = (epoch_clips([Recording(*recording)], 4, seed=0, epoch=e).tolist() for e in range(60))
    assert {tuple(sorted(starts)) for starts in drawn} == expected


def test_short_epochs_visit_fewer_clips() -> None:
    whole = epoch_clips(RECORDINGS, 4, seed=3, epoch=1).tolist()
    for fraction, count in ((0.4, 3), (0.45, 4), (0.01, 1)):  # of 8 clips
        part = epoch_clips(RECORDINGS, 4, seed=3, epoch=1, fraction=fraction)
        assert part.tolist() == whole[:count]
    o, data = options_of("--fast_train --fast_partial 0.2 --fast_train_epoch 2"), random_data()
    assert [[len(b) for b in epoch_batches(o, data, e)] for e in (1, 2)] == [[1], [2, 2, 1]]
    assert largest_batch(o, data) == 2
    o.num_epoch = 2
    assert largest_batch(o, data) == 1


# ---------------------------------------------------------------- the random numbers of a step

ALL_DRAWS = (
    "--rollout_every 1 --frame_noise 0.2 --augment shift --jump 0.5 --reference first --tfr 0.5"
)


def drawn(typed: str = ALL_DRAWS, *, epoch: int = 2, number: int = 3, tfr: float = 0.3) -> Draws:
    kind = {"epoch": epoch, "number": number, "batch": 50, "tfr": tfr, "latent": LATENT}
    return draw(options_of(typed), torch.Generator(), **kind)


def test_every_draw_depends_on_seed_epoch_and_step_alone() -> None:
    base = drawn()
    assert len(base.tensors()) == len(Draws._fields) == 6
    torch.manual_seed(9)
    assert all(torch.equal(a, b) for a, b in zip(base.tensors(), drawn().tensors(), strict=True))
    for other in (drawn(epoch=1), drawn(number=2), drawn(f"{ALL_DRAWS} --seed 1")):
        for name, a, b in zip(Draws._fields, base, other, strict=True):
            assert not torch.equal(a, b), name
    assert len(drawn("").tensors()) == 1


def test_draws_have_the_distributions_that_they_are_said_to_have() -> None:
    many = [drawn(number=n) for n in range(20)]
    latent = torch.stack([x.latent for x in many])
    assert latent.shape == (20, 3, 50, *LATENT)
    assert latent.mean().abs() < 0.01 and (latent.std() - 1).abs() < 0.01
    forced = torch.stack([x.forced for x in many]).float()  # (20, T-1, B)
    assert forced.mean().item() == pytest.approx(0.3, abs=0.05)
    assert forced.std(dim=1).max() > 0 and forced.std(dim=2).max() > 0  # by step, and by clip
    # A clip has one level of noise in all its steps, another clip another: 0 to 0.2.
    noise = torch.stack([x.frame_noise for x in many])  # (20, T-1, B, 3, H, W)
    levels = noise.std(dim=(3, 4, 5))  # (20, T-1, B)
    assert (levels.amax(dim=1) < 1.5 * levels.amin(dim=1)).all() and noise.mean().abs() < 0.005
    assert levels[0, 0].std() > 0.03
    quartiles = levels.mean(dim=1).quantile(torch.tensor([0.25, 0.5, 0.75]))
    assert quartiles.tolist() == pytest.approx([0.05, 0.1, 0.15], abs=0.015)


# ---------------------------------------------------------------- what a step starts from


def test_noise_is_added_to_what_a_step_starts_from_and_to_nothing_else() -> None:
    g = torch.Generator().manual_seed(0)
    frames = torch.rand(4, 2, 3, 4, 4, generator=g)
    noise = torch.randn(3, 2, 3, 4, 4, generator=g)
    made = 3 * torch.rand(2, 3, 4, 4, generator=g) - 1  # out of bounds
    before = [x.clone() for x in (frames, noise, made)]
    given = torch.tensor([[True, True], [True, False], [False, False]])
    starts = Previous(frames[:-1], given, noise)
    for previous, added in ((starts, noise), (starts._replace(noise=None), 0 * noise)):
        expected = (frames[:-1] + added).clamp(0, 1)
        assert torch.equal(previous.all(), expected)
        assert torch.equal(previous.first(), expected[0])
        after = previous.after(made, 1)
        assert torch.equal(after[0], expected[1, 0])
        assert torch.equal(after[1], (made[1].clamp(0, 1) + added[1, 1]).clamp(0, 1))
    for x, kept in zip((frames, noise, made), before, strict=True):
        assert torch.equal(x, kept)  # the targets are the same memory


# ---------------------------------------------------------------- the clips of a step

STARTS = torch.tensor([2, 9])
MANY = torch.tensor([0, 6, 10, 18]).repeat(500)
TWO = (Recording(0, 10), Recording(10, 22))
NO_LATENT = torch.zeros(0)


def numbered(*recordings: Recording) -> VideoData:
    """Frames whose pixels are their number; labels are 100 more."""
    frames = torch.arange(22, dtype=torch.uint8)[:, None, None, None].repeat(1, 8, 8, 3)
    return VideoData(frames, frames + 100, recordings or TWO)


def number_of(frames: Tensor) -> Tensor:
    """(..., 3, H, W) in [0, 1] → the frames' numbers."""
    return (frames[..., 0, 0, 0] * 255).round().long()


def loaded(draws: Draws, starts: Tensor = STARTS, **more: object) -> Clips:
    kind = {"data": numbered(), "stored": None, "length": 4, "teacher_forcing": True, **more}
    return load_clips(starts=starts, draws=draws, **kind)


@pytest.mark.parametrize("teacher_forcing", [True, False])
def test_an_epoch_is_forced_or_free(teacher_forcing: bool) -> None:
    clips = loaded(Draws(NO_LATENT), teacher_forcing=teacher_forcing)
    assert number_of(clips.frames).T.tolist() == [[2, 3, 4, 5], [9, 10, 11, 12]]
    assert torch.equal(number_of(clips.labels), number_of(clips.frames) + 100)
    assert torch.equal(clips.previous.frames, clips.frames[:-1])
    assert clips.previous.true and clips.previous.noise is None and clips.reference is None
    assert clips.sequential is not teacher_forcing
    assert (clips.previous.given == teacher_forcing).all()


def test_stored_frames_stand_in_where_a_step_is_not_forced() -> None:
    forced = torch.tensor([[False, True], [True, False], [False, False]])
    stored, draws = numbered().frames + 50, Draws(NO_LATENT, forced=forced)
    for teacher_forcing in (True, False):  # each step says it for itself
        clips = loaded(draws, stored=stored, teacher_forcing=teacher_forcing)
        assert not clips.sequential and clips.previous.given.all() and not clips.previous.true
        assert number_of(clips.previous.frames).T.tolist() == [[52, 3, 54], [9, 60, 61]]
        assert number_of(clips.frames).T.tolist() == [[2, 3, 4, 5], [9, 10, 11, 12]]  # the targets


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_jumps_start_from_any_frame_of_the_same_recording(share: float, stored: bool) -> None:
    jump = torch.rand(3, 2000, 2, generator=torch.Generator().manual_seed(0))
    jump[:, -4:, 1] = ALMOST_ONE
    draws = Draws(NO_LATENT, jump=jump, forced=torch.zeros(3, 2000, dtype=torch.bool))
    others = numbered().frames + 50 if stored else None
    clips = loaded(draws, MANY, jump=share, stored=others)
    start, own = number_of(clips.previous.frames), number_of(clips.frames)[:-1] + 50 * stored
    assert not clips.sequential and clips.previous.given.all() and not clips.previous.true
    assert torch.equal(number_of(clips.frames), MANY + torch.arange(4)[:, None])  # the targets
    expected = share * (1 if stored else 1 - 1 / 11)  # now and then a jump lands on frame t-1
    assert (start != own).float().mean().item() == pytest.approx(expected, abs=0.03)
    if share == 1.0:
        assert set(start[:, MANY < 10].unique().tolist()) == set(range(10))
        assert set(start[:, MANY >= 10].unique().tolist()) == set(range(10, 22))


def test_jumps_in_free_running_are_given_frames() -> None:
    jump = torch.tensor([[[0.9, 0.5]], [[0.1, 0.5]], [[0.9, 0.5]]])
    kind = {"teacher_forcing": False, "jump": 0.3}
    clips = loaded(Draws(NO_LATENT, jump=jump), torch.tensor([2]), **kind)
    assert clips.sequential
    assert clips.previous.given[:, 0].tolist() == [False, True, False]
    assert number_of(clips.previous.frames)[1].item() == 5


def test_the_reference_is_of_the_recording_and_never_a_target() -> None:
    where = torch.rand(1, 2000, generator=torch.Generator().manual_seed(0))
    where[:, -4:] = ALMOST_ONE
    clips = loaded(Draws(NO_LATENT, reference=where), MANY)
    frame, label = (number_of(x) for x in clips.reference)
    assert torch.equal(label, frame + 100)
    assert clips.labels.shape == clips.frames.shape
    for start, recording in ((0, TWO[0]), (6, TWO[0]), (10, TWO[1]), (18, TWO[1])):
        allowed = set(range(recording.start, recording.stop)) - set(range(start + 1, start + 4))
        assert set(frame[start == MANY].tolist()) == allowed
    # The clip is the recording: only its first frame is left.
    data, draws = numbered(Recording(0, 4)), Draws(NO_LATENT, reference=torch.tensor([[0.99]]))
    clips = loaded(draws, torch.tensor([0]), data=data)
    assert number_of(clips.reference[0]).item() == 0


def test_references_and_jumps_are_augmented_like_their_clip() -> None:
    kinds, draws = ("shift", "flip"), drawn().select(slice(2))
    kind = {"data": random_data(), "jump": 0.5}
    plain = loaded(draws._replace(augmentation=None, forced=None), **kind)
    changed = loaded(draws._replace(forced=None), **kind, augmentations=kinds)
    pairs = (
        (plain.frames, plain.labels, (changed.frames, changed.labels)),
        (plain.reference[0][None], plain.reference[1][None], changed.reference),
        (plain.previous.frames, plain.labels[:-1], (changed.previous.frames, changed.labels[:-1])),
    )
    for frames, labels, found in pairs:
        expected = augment(frames, labels, draws.augmentation, kinds)
        for a, b in zip(expected, found, strict=True):
            assert torch.equal(a.reshape(b.shape), b)
    assert not torch.equal(changed.previous.frames, plain.previous.frames)  # the control


# ---------------------------------------------------------------- augmentation


@pytest.fixture
def clips() -> Iterator[tuple[Tensor, Tensor]]:
    """Frames and labels, T 3, B 4; which augmenting must not change in place."""
    frames, labels = torch.rand(2, 3, 4, 3, 16, 32, generator=torch.Generator().manual_seed(0))
    before = frames.clone(), labels.clone()
    yield frames, labels
    assert torch.equal(frames, before[0]) and torch.equal(labels, before[1])


def draws_of(*rows: tuple[float, ...]) -> Tensor:
    return torch.tensor([*rows, *[(0.5,) * 4] * (AUGMENTATION_DRAWS - len(rows))])


def test_flip(clips: tuple[Tensor, Tensor]) -> None:
    mirrored = torch.tensor([True, False, True, False])
    found = augment(*clips, draws_of((0.0, 0.9, 0.4, 0.5)), ("flip",))
    for before, after in zip(clips, found, strict=True):
        assert torch.equal(after[:, mirrored], before[:, mirrored].flip(-1))
        assert torch.equal(after[:, ~mirrored], before[:, ~mirrored])


def test_shift_moves_a_whole_clip_and_repeats_its_border(clips: tuple[Tensor, Tensor]) -> None:
    # 16 rows: by -1, 0 or 1; 32 columns: by -2 … 2.
    moves = draws_of((1.0,) * 4, (0.0, 0.5, 0.99, 0.99), (0.5, 0.5, 0.5, 0.0))
    for before, after in zip(clips, augment(*clips, moves, ("shift",)), strict=True):
        assert torch.equal(after[:, 0, :, :-1], before[:, 0, :, 1:])  # up by one
        assert torch.equal(after[:, 0, :, -1], before[:, 0, :, -1])
        assert torch.equal(after[:, 1], before[:, 1])
        assert torch.equal(after[:, 2, :, 1:], before[:, 2, :, :-1])  # down by one
        assert torch.equal(after[:, 3, :, 1:, :-2], before[:, 3, :, :-1, 2:])  # and two to the left
        assert torch.equal(after[:, 3, :, 1:, -1], before[:, 3, :, :-1, -1])


def test_colour_changes_frames_alone(clips: tuple[Tensor, Tensor]) -> None:
    gain, offset = (0.0, 1.0, 0.5, 0.25), (0.25, 1.0, 0.0, 0.5)
    still = ((0.5,) * 4,) * 3
    found, kept = augment(*clips, draws_of(*still, gain, offset), ("colour",))
    assert torch.equal(kept, clips[1])
    for clip, (a, b) in enumerate(((0.9, -0.025), (1.1, 0.05), (1.0, -0.05), (0.95, 0.0))):
        expected = ((clips[0][:, clip] - 0.5) * a + 0.5 + b).clamp(0, 1)
        torch.testing.assert_close(found[:, clip], expected)
    unchanged, _ = augment(*clips, torch.full((AUGMENTATION_DRAWS, 4), 0.1), ())
    assert torch.equal(unchanged, clips[0])  # only what is asked for happens
