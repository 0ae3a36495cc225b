"""Steps and epochs: what one computes, on which clips, at which rate, and what it leaves behind."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from modules import cvae
from modules.checkpoint import Position, RunState
from modules.cvae import CVAE
from modules.data import load_clips
from modules.losses import psnr_of_mse
from modules.runtime import distributed
from modules.runtime.signals import Watch
from modules.training import Shard, draw_shard, train_epoch
from tests.support.small_run import (
    FORCED,
    LATENT,
    new_run,
    options_of,
    part_of,
    random_data,
    run_epochs,
)

# ---------------------------------------------------------------- one step


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
    gradients: list[Tensor] = []
    for more in (typed, ""):
        state, step = new_run(more)
        if state.stored is not None:
            state.stored.frames.zero_()
        plan = FORCED._replace(tfr=step.o.tfr)
        kind = {"latent": LATENT, "epoch": 0, "number": 0}
        part = draw_shard(step.o, plan, torch.tensor([3, 11]), **kind)
        step(part, teacher_forcing="--tfr 0" not in more or "rollout" in more)
        assert state.sums.read().trained == 2
        found = (p.grad for p in state.model.parameters() if p.grad is not None)
        gradients.append(torch.cat([g.flatten() for g in found]))
    a, b = gradients
    assert a.shape != b.shape or (a - b).norm() > 2e-6 * b.norm()  # not by rounding


def test_a_step_is_its_definition() -> None:
    """With noise, jumps and all: the loss of unbounded frames beside true ones, and its gradients;
    the PSNR of frames as shown."""
    typed = "--rollout_every 1 --frame_noise 0.1 --augment shift --jump 0.3"
    state, step = new_run(f"{typed} --grad_clip 0")
    with torch.no_grad():
        state.model.Generator[7].bias[0] = 1.5
    model = CVAE(state.model.config).train()
    model.load_state_dict(state.model.state_dict())
    data, part = step.data, part_of(step, [3, 11])
    model.label_transformation.measure(data.labels)
    pixels = data.frames.clone()
    step(part, teacher_forcing=True)
    assert torch.equal(data.frames, pixels)
    kind = {"length": 4, "teacher_forcing": True, "augmentations": ("shift",), "jump": 0.3}
    clips = load_clips(data, state.stored.frames, part.starts, part.draws, **kind)
    target = clips.frames[1:].clone()
    inputs = (clips.frames, clips.labels, part.draws.latent, clips.previous)
    out = model(*inputs, sequential=False)
    mse = (out.prediction - target).square().mean(dim=(2, 3, 4))
    shown = (out.prediction.clamp(0, 1) - target).square().mean(dim=(2, 3, 4))
    loss, quality = mse.mean() + 0.01 * out.kl.mean(), psnr_of_mse(shown).mean()
    expected = [x.item() for x in (loss, mse.mean(), out.kl.mean(), quality)]
    assert [x / 2 for x in state.sums.read()[:4]] == pytest.approx(expected, rel=1e-5)
    assert quality - psnr_of_mse(mse).mean() > 0.5  # the control: clamping matters here
    moments = torch.stack([(out.mu.double() ** n).sum(dim=(0, 1)) for n in (1, 2)])
    torch.testing.assert_close(state.sums.posterior, moments.detach(), rtol=1e-5, atol=1e-6)
    loss.backward()
    found, wanted = ({n: p.grad for n, p in m.named_parameters()} for m in (state.model, model))
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-6)


def test_what_is_validated_and_saved_has_statistics_of_its_own_weights() -> None:
    """Of the averaged weights, over all training labels; those of training are the control."""
    state, step = new_run("--ema 0.9")
    first = state._content(None)["state_dict"]["label_transformation.1.weight"].clone()
    run_epochs(state, step, 2)
    labels = step.data.labels.permute(0, 3, 1, 2) / 255
    content = state._content(None)
    saved = content["state_dict"]
    assert not torch.allclose(saved["label_transformation.1.weight"], first)
    for weights, own in ((saved, True), (content["training"]["weights"], False)):
        model = CVAE(state.model.config)
        model.load_state_dict(weights)
        padding, linear, *_ = model.label_transformation
        outputs = linear(padding(labels))  # what is normalised
        expected = outputs.mean(dim=(0, 2, 3)), outputs.var(dim=(0, 2, 3), correction=0)
        for name, values in zip(("mean", "var"), expected, strict=True):
            running = saved[f"label_transformation.2.running_{name}"]
            assert torch.allclose(running, values, rtol=1e-4) == own


# ---------------------------------------------------------------- a rank's part of a step


@pytest.mark.parametrize(("world", "clips"), [(1, 4), (2, 4), (2, 0), (4, 0)])
def test_ranks_and_filled_up_places_change_nothing(
    world: int, clips: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gradients and sums over all ranks are those of one process with a batch of three clips; a
    rank without a clip of its own takes one that does not count."""
    typed = "--augment shift --jump 0.5 --reference first --frame_noise 0.2 --grad_clip 0"

    def parts(world: int, clips: int) -> list[Shard]:
        found = []
        with monkeypatch.context() as patch:
            patch.setattr(distributed, "world_size", lambda: world)
            for rank in range(world):
                patch.setattr(distributed, "rank", lambda rank=rank: rank)
                kind = {"latent": LATENT, "epoch": 1, "number": 2, "clips": clips}
                found.append(
                    draw_shard(options_of(typed), FORCED, torch.tensor([3, 9, 15]), **kind)
                )
        return found

    def computed(parts: list[Shard]) -> tuple[Tensor, ...]:
        found = []
        for part in parts:
            state, step = new_run(typed)
            step(part, teacher_forcing=True)
            gradients = torch.cat([p.grad.flatten() for p in state.model.parameters()])
            found.append((gradients, state.sums.sums[:4], state.sums.posterior))
        return tuple(sum(own) for own in zip(*found, strict=True))

    whole, shards = computed(parts(1, 0)), parts(world, clips)
    assert {len(part.starts) for part in shards} <= {1, 2, clips // world}
    torch.testing.assert_close(computed(shards), whole, rtol=1e-3, atol=1e-5)
    if clips:  # the control
        counted = [part._replace(weights=torch.ones_like(part.weights)) for part in shards]
        with pytest.raises(AssertionError):
            torch.testing.assert_close(computed(counted), whole, rtol=1e-3, atol=1e-5)


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


def test_a_raise_of_the_detector_s_is_followed_and_said(
    capsys: pytest.CaptureFixture[str],
) -> None:
    state, _ = new_run("--tfr 0.5 --tfr_sde 0 --tfr_d_step 0.25 --detector_patience 2")
    state.position = Position(2)
    assert state.begin_epoch().tfr == 0
    state.detector.raised_at = 1
    assert state.begin_epoch().tfr == state.plan.tfr == 0.75
    for _ in range(2):
        state.finish_epoch(loss=1.0, psnr=0.0)
    assert "plateaued: teacher-forcing ratio reset to 1" in capsys.readouterr().out


@pytest.mark.parametrize(("start", "before"), [((0, 0), 0), ((2, 1), 3), ((9, 0), 23)])
def test_muon_warms_up_over_the_steps_of_the_run(start: tuple[int, int], before: int) -> None:
    """Also where earlier epochs are shorter, and where the run is resumed."""
    fast = "--fast_train --fast_partial 0.2 --fast_train_epoch 2"  # a step each, later three
    step = recorded(f"--optim Muon --lr 0.02 {fast}", 8, Position(*start))
    assert len(step.rates) >= 8
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

    state, _ = new_run("--rollout_every 2 --seed 7 --ema 0.9")
    monkeypatch.setattr(type(state.stored), "refresh", refresh)
    state.position, step = start, Recorded(state)
    while state.position.epoch < 7:
        state.begin_epoch()
        train_epoch(state, random_data(), step, Watch())
        state.finish_epoch(loss=1.0, psnr=0.0)
    assert refreshed == expected


def test_a_save_in_mid_epoch_is_due_once_a_period(monkeypatch: pytest.MonkeyPatch) -> None:
    (state, step), watch, saves = new_run(), Watch(), []
    watch._saved_at -= 599.0
    assert not watch.requests()[1]
    watch._saved_at -= 2.0  # seconds; the period is 600
    monkeypatch.setattr(state, "save", lambda: saves.append(state.position.step))
    averages = train_epoch(state, step.data, step, watch)
    assert saves == [1] and (state.position.epoch, state.position.step) == (0, 3)
    assert averages.frames == 15
    assert averages[:4] == pytest.approx([x / 5 for x in state.sums.read()[:4]])
    state.finish_epoch(loss=1.0, psnr=0.0)
    assert not any(state.sums.read())


def test_activations_are_recomputed_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CVAE_RECOMPUTE", "1")
    (_, step), calls = new_run(), []
    monkeypatch.setattr(cvae, "recomputed", lambda f, *x: calls.append(f) or f(*x))
    step(part_of(step, [0, 5]), teacher_forcing=True)
    assert calls
