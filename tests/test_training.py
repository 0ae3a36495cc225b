"""Steps and epochs: what one computes, on which clips, at which rate, and what it leaves behind."""

import math
import time
from typing import Any

import pytest
import torch
from torch import Tensor

from modules.checkpoint import Position, RunState
from modules.cvae import CVAE
from modules.data import epoch_batches, gather_clips, load_clips, to_unit
from modules.losses import Sums, psnr_of_mse
from modules.runtime import distributed
from modules.runtime.signals import Watch
from modules.schedules import Plan
from modules.training import Shard, draw_shard, train_epoch
from tests.support.reference import usual_loss
from tests.support.small_run import (
    FORCED,
    LATENT,
    new_run,
    options_of,
    part_of,
    random_data,
    run_epochs,
)

EVERY_DRAW = "--rollout_every 1 --frame_noise 0.1 --augment shift --jump 0.5 --reference first"

# ---------------------------------------------------------------- one step


@pytest.mark.parametrize("mode", ["--tfr 1", "--tfr 0"])
def test_loss_and_gradients_are_those_of_the_usual_loop(mode: str) -> None:
    """In float32, with the same statistics of the labels."""
    state, step = new_run(f"{mode} --grad_clip 0")
    forced = mode == "--tfr 1"
    part = part_of(step, [3, 11])
    reference = CVAE(state.model.config).train()
    reference.load_state_dict(state.model.state_dict())
    reference.label_transformation.measure(step.data.labels)
    step(part, teacher_forcing=forced)
    frames, labels = (
        to_unit(gather_clips(x, part.starts, 4)).transpose(0, 1)
        for x in (step.data.frames, step.data.labels)
    )  # 2 × (B, T, 3, H, W)
    kind = {"beta": 0.01, "noise": part.draws.latent}
    loss, mse, kl = usual_loss(reference, frames, labels, teacher_forcing=forced, **kind)
    loss.backward()
    sums = state.sums.read()
    assert [sums.loss / 2, sums.mse / 2, sums.kl / 2] == pytest.approx(
        [loss.item(), mse.item(), kl.item()], rel=1e-5
    )
    for (name, p), q in zip(reference.named_parameters(), state.model.parameters(), strict=True):
        torch.testing.assert_close(q.grad, p.grad, rtol=1e-3, atol=1e-6, msg=name)


@pytest.mark.parametrize(
    "typed",
    [
        *("--tfr 0", "--frame_noise 0.5", "--jump 0.9", "--augment colour"),
        *("--reference first", "--rollout_every 1 --tfr 0", "--prior learned"),
        *("--output sigmoid", "--grad_clip 0.001", "--train_vi_len 3", "--seed 1"),
    ],
)
def test_no_option_is_without_effect_on_a_step(typed: str) -> None:
    """Beside the same step without it."""
    gradients: list[dict[str, Tensor]] = []
    for more in (typed, ""):
        state, step = new_run(more)
        if state.stored is not None:
            state.stored.frames.zero_()
        part = draw_shard(
            *(step.o, FORCED._replace(tfr=step.o.tfr), torch.tensor([3, 11])),
            **{"latent": state.model.config.latent_shape, "epoch": 0, "number": 0},
        )
        step(part, teacher_forcing="--tfr 0" not in more or "rollout" in more)
        assert state.sums.read().trained == 2
        found = {n: p.grad for n, p in state.model.named_parameters() if p.grad is not None}
        gradients.append(found)
    one, other = gradients
    if {n: g.shape for n, g in one.items()} == {n: g.shape for n, g in other.items()}:
        a, b = (torch.cat([g.flatten() for g in x.values()]) for x in gradients)
        assert (a - b).norm() > 2e-6 * b.norm()  # not by rounding


def test_what_is_summed_is_of_true_frames_and_of_clamped_predictions() -> None:
    """With noise, jumps and all: the loss of unbounded frames, the PSNR of frames as shown."""
    state, step = new_run(f"{EVERY_DRAW} --reference none --jump 0.3")
    with torch.no_grad():
        state.model.Generator[7].bias[0] = 1.5
    weights = {name: value.clone() for name, value in state.model.state_dict().items()}
    data, part = step.data, part_of(step, [3, 11])
    pixels = data.frames.clone()
    step(part, teacher_forcing=True)
    assert torch.equal(data.frames, pixels)
    model = CVAE(state.model.config).train()
    model.load_state_dict(weights)
    model.label_transformation.measure(data.labels)
    kind = {"length": 4, "teacher_forcing": True, "augmentations": ("shift",), "jump": 0.3}
    clips = load_clips(data, state.stored.frames, part.starts, part.draws, **kind)
    target = clips.frames[1:].clone()
    inputs = (clips.frames, clips.labels, part.draws.latent, clips.previous)
    out = model(*inputs, sequential=False)
    mse = (out.prediction - target).square().mean(dim=(2, 3, 4))
    shown = (out.prediction.clamp(0, 1) - target).square().mean(dim=(2, 3, 4))
    quality = psnr_of_mse(shown).mean()
    expected = [mse.mean() + 0.01 * out.kl.mean(), mse.mean(), out.kl.mean(), quality]
    found = [x / 2 for x in state.sums.read()[:4]]
    assert found == pytest.approx([x.item() for x in expected], rel=1e-5)
    assert quality - psnr_of_mse(mse).mean() > 0.5  # the control: clamping matters here
    torch.testing.assert_close(
        state.sums.posterior,
        torch.stack([(out.mu.double() ** n).sum(dim=(0, 1)) for n in (1, 2)]).detach(),
        rtol=1e-5,
        atol=1e-6,
    )


def test_what_is_validated_and_saved_has_statistics_of_its_own_weights() -> None:
    """Of the averaged weights, over all training labels; those of training are the control."""
    state, step = new_run("--ema 0.9")
    run_epochs(state, step, 2)
    labels = step.data.labels.permute(0, 3, 1, 2).double() / 255
    first_ones, saved = new_run("--ema 0.9")[0]._content(None), state._content(None)
    for name in ("mean", "var"):  # not the initial ones
        name = f"label_transformation.2.running_{name}"
        assert not torch.allclose(saved["state_dict"][name], first_ones["state_dict"][name])
    for weights, own in ((saved["state_dict"], True), (saved["training"]["weights"], False)):
        model = CVAE(state.model.config).double()
        model.load_state_dict(weights)
        encoder = model.label_transformation
        first = torch.nn.Sequential(encoder[0], encoder[1])(labels)
        expected = first.mean(dim=(0, 2, 3)), first.var(dim=(0, 2, 3), correction=0)
        running = (
            saved["state_dict"][f"label_transformation.2.running_{n}"] for n in ("mean", "var")
        )
        same = all(
            torch.allclose(a.double(), b, rtol=1e-4) for a, b in zip(running, expected, strict=True)
        )
        assert same == own


# ---------------------------------------------------------------- a rank's part of a step


def shards(monkeypatch: pytest.MonkeyPatch, world: int, starts: Tensor, **kind: Any) -> list[Shard]:
    """Of all ranks."""
    found = []
    for rank in range(world):
        monkeypatch.setattr(distributed, "world_size", lambda: world)
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        o = options_of(EVERY_DRAW)
        found.append(draw_shard(o, FORCED, starts, latent=LATENT, epoch=1, number=2, **kind))
    monkeypatch.undo()
    return found


def test_ranks_draw_what_a_single_process_does(monkeypatch: pytest.MonkeyPatch) -> None:
    starts = torch.tensor([3, 5, 11, 0, 18])
    (whole,) = shards(monkeypatch, 1, starts)
    assert whole.beta == pytest.approx(FORCED.beta) and whole.batch == 5
    assert torch.equal(whole.starts, starts) and whole.weights.tolist() == [1] * 5
    for rank, part in enumerate(shards(monkeypatch, 2, starts)):
        assert torch.equal(part.starts, starts[rank::2])
        assert part.batch == 5 and part.weights.tolist() == [1] * len(part.starts)
        for a, b in zip(part.draws.tensors(), whole.draws.tensors(), strict=True):
            assert torch.equal(a, b[:, rank::2])
    # A rank without a clip of its own takes one that does not count.
    parts = shards(monkeypatch, 6, starts)
    assert [p.weights.tolist() for p in parts] == [[1.0]] * 5 + [[0.0]]
    doubled = whole.replaced([2 * x.float() for x in whole.tensors()])
    for a, b in zip(doubled.tensors(), whole.tensors(), strict=True):
        assert torch.equal(a, 2 * b.float())


@pytest.mark.parametrize("world", [1, 2])
def test_filled_up_places_count_for_nothing(world: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loss, gradients and sums are those of the smaller batch, over all ranks together."""
    typed = "--augment shift --jump 0.5 --reference first --grad_clip 0"

    def computed(parts: list[Shard]) -> tuple[list[Tensor], list[float], Tensor]:
        gradients, sums, posterior = [], [], []
        for part in parts:
            state, step = new_run(typed)
            part = part._replace(beta=torch.tensor(0.01))
            step(part, teacher_forcing=True)
            gradients.append([p.grad for p in state.model.parameters()])
            sums.append(torch.tensor(state.sums.read()[:4]))
            posterior.append(state.sums.posterior)
        total = [sum(own) for own in zip(*gradients, strict=True)]
        return total, sum(sums).tolist(), sum(posterior)

    starts = torch.tensor([3, 9, 15])
    o = options_of(typed)
    kind = {"latent": LATENT, "epoch": 0, "number": 0}
    small = computed([draw_shard(o, FORCED, starts, **kind)])
    filled = []
    for rank in range(world):
        monkeypatch.setattr(distributed, "world_size", lambda: world)
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        filled.append(draw_shard(o, FORCED, starts, **kind, clips=4))
        assert len(filled[-1].starts) == 4 // world
    monkeypatch.undo()
    torch.testing.assert_close(computed(filled), small, rtol=1e-3, atol=1e-5)
    counted = [part._replace(weights=torch.ones_like(part.weights)) for part in filled]
    with pytest.raises(AssertionError):  # the control
        torch.testing.assert_close(computed(counted), small, rtol=1e-3, atol=1e-5)


# ---------------------------------------------------------------- an epoch


class Recorded:
    """In place of a step: notes what it is called with."""

    clips = 0

    def __init__(self, state: RunState) -> None:
        self.state, self.rates, self.parts, self.modes = state, [], [], []

    def __call__(self, part: Shard, *, teacher_forcing: bool) -> None:
        assert self.state.model.training
        self.rates.append(self.state.optimizer.param_groups[0]["lr"])
        self.parts.append(part)
        self.modes.append(teacher_forcing)


def recorded(typed: str, epochs: int, start: Position | None = None) -> Recorded:
    state, _ = new_run(typed)
    step = Recorded(state)
    state.position = start or Position()
    for _ in range(epochs):
        state.begin_epoch()
        train_epoch(state, random_data(), step, Watch())
        state.finish_epoch(loss=1.0, psnr=0.0)
    return step


def test_the_rate_falls_along_a_cosine_step_by_step() -> None:
    step = recorded("--lr_scheduler cosine --lr 0.01 --num_epoch 4", 2)
    expected = [0.005 * (1 + math.cos(math.pi * n / 12)) for n in range(6)]  # 3 steps an epoch
    assert step.rates == pytest.approx(expected)


@pytest.mark.parametrize("start", [(0, 0), (1, 0), (2, 1), (9, 0)])
def test_muon_warms_up_over_the_steps_of_the_run(start: tuple[int, int]) -> None:
    """Also where earlier epochs are shorter, and where the run is resumed."""
    fast = "--fast_train --fast_partial 0.2 --fast_train_epoch 2"
    step = recorded(f"--optim Muon --lr 0.02 {fast}", 8, Position(*start))
    before = {0: 0, 1: 1, 2: 2, 9: 1 + 1 + 7 * 3}[start[0]] + start[1]
    assert len(step.rates) in (1 + 1 + 6 * 3, 1 + 7 * 3, 8 * 3 - 1, 8 * 3)
    expected = [0.02 * min(1.0, (before + n + 1) / 20) for n in range(len(step.rates))]
    assert step.rates == pytest.approx(expected)


def test_an_epoch_goes_on_where_it_was_left() -> None:
    whole = recorded("--tfr 0.5 --tfr_sde 0", 3)
    later = recorded("--tfr 0.5 --tfr_sde 0", 2, Position(1, 2))
    for a, b in zip(whole.parts[5:], later.parts, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a.tensors(), b.tensors(), strict=True))
    assert later.modes == whole.modes[5:]
    latents = {part.draws.latent.sum().item() for part in whole.parts}
    assert len(latents) == 9  # of every epoch and step
    assert [len(part.starts) for part in whole.parts] == [2, 2, 1] * 3


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        (Position(), [(2, True), (4, False), (6, False)]),
        (Position(2, 1), [(4, False), (6, False)]),  # in mid-epoch: the frames are those saved
        (Position(4, 0), [(4, False), (6, False)]),
    ],
)
def test_when_frames_are_made_again(
    start: Position, expected: list[tuple[int, bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them the first time, a share later; with the weights that are validated."""
    refreshed = []

    def refresh(_: Any, model: CVAE, *, epoch: int, whole: bool, seed: int, **__: Any) -> None:
        assert model is not state.model and seed == 7
        refreshed.append((epoch, whole))
        time.sleep(0.3)

    state, _ = new_run("--rollout_every 2 --seed 7 --ema 0.9")
    monkeypatch.setattr(type(state.stored), "refresh", refresh)
    state.position, step = start, Recorded(state)
    while state.position.epoch < 7:
        count = len(refreshed)
        state.begin_epoch()
        train_epoch(state, random_data(), step, Watch())
        assert (state.position.seconds > 0.3) == (len(refreshed) > count)  # it is of the epoch
        state.finish_epoch(loss=1.0, psnr=0.0)
    assert refreshed == expected


@pytest.mark.parametrize(("waited", "expected"), [(0.0, []), (1000.0, [1])])
def test_a_save_in_mid_epoch_is_due_once_a_period(
    waited: float, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    (state, step), watch = new_run(), Watch()
    watch._saved_at -= waited  # seconds; the period is 600
    saves: list[int] = []
    monkeypatch.setattr(state, "save", lambda: saves.append(state.position.step))
    state.plan = FORCED
    averages = train_epoch(state, step.data, step, watch)
    assert saves == expected
    assert (state.position.epoch, state.position.step) == (0, 3)
    assert averages.frames == 15 and averages.skipped == 0
    sums = state.sums.read()
    assert averages[:4] == pytest.approx([x / 5 for x in sums[:4]])
    state.finish_epoch(loss=1.0, psnr=0.0)
    assert state.sums.read() == Sums(*[0.0] * 8)


def test_failed_steps_enter_no_average() -> None:
    """The epoch's averages are those of its other steps."""
    state, step = new_run("--lr 1e-12")  # the weights stay

    def averages(broken: int | None) -> Any:
        def spoilt(part: Shard, *, teacher_forcing: bool) -> None:
            if len(part.starts) == 2 and torch.equal(part.starts, batches[broken or 0]):
                part.draws.latent[0] = math.inf if broken is not None else part.draws.latent[0]
            step(part, teacher_forcing=teacher_forcing)

        spoilt.clips = 0  # type: ignore[attr-defined]
        state.position, state.plan = Position(), Plan(0.01, 1.0, True, 1e-12)
        state.sums.start_epoch()
        return train_epoch(state, step.data, spoilt, Watch()), state.sums.read()

    batches = list(epoch_batches(state.o, step.data, 0))
    (whole, sums), (first, _) = averages(None), averages(0)
    assert (first.skipped, first.frames) == (2, whole.frames)
    only = new_run("--lr 1e-12")
    only[1](part_of(step, batches[0].tolist()), teacher_forcing=True)
    expected = [(a - b) / 3 for a, b in zip(sums[:4], only[0].sums.read()[:4], strict=True)]
    assert first[:4] == pytest.approx(expected, rel=1e-5)
    assert first[:4] != pytest.approx(whole[:4], rel=1e-5)  # the control
