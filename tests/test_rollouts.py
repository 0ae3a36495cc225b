"""Stored rollouts: each frame is made from the one before, from labels and prior latents alone."""

from typing import Any

import pytest
import torch
from torch import Tensor

from modules.cvae import CVAE, ModelConfig, prior_latents
from modules.data import STREAM_STORED, Recording, VideoData, derived_seed, to_uint8, to_unit
from modules.rollouts import STRETCH, StoredRollouts
from modules.runtime.signals import Watch

CONFIG = ModelConfig(F_dim=24, L_dim=4, N_dim=4, D_out_dim=24, frame_H=8, frame_W=8)
RECORDINGS = (Recording(0, 90), Recording(90, 91), Recording(91, 93), Recording(93, 160))
GIVEN = [r.start for r in RECORDINGS]  # never made


def data() -> VideoData:
    g = torch.Generator().manual_seed(0)
    frames, labels = torch.randint(0, 256, (2, 160, 8, 8, 3), generator=g, dtype=torch.uint8)
    return VideoData(frames, labels, RECORDINGS)


def model() -> CVAE:
    """One whose frames follow from the frames before, and from latents."""
    torch.manual_seed(0)
    made = CVAE(CONFIG)
    made.copy_previous_frame()
    with torch.no_grad():
        made.Generator[7].weight += 0.02 * torch.randn_like(made.Generator[7].weight)
    return made.train()


def refresh(stored: StoredRollouts, **kind: Any) -> Tensor:
    """The frames after all were made, or as told."""
    usual = {"seed": 0, "epoch": 1, "precision": torch.float32, "watch": Watch(), "whole": True}
    network = kind.pop("model", None) or model()
    stored.refresh(network, **{**usual, **kind})
    assert network.training
    return stored.frames


def refreshed(video: VideoData | None = None, **kind: Any) -> Tensor:
    return refresh(StoredRollouts(video or data()), **kind)


def stretches_of(epoch: int) -> list[tuple[int, int]]:
    return StoredRollouts(data())._stretches(derived_seed(0, epoch, STREAM_STORED) % STRETCH)


def test_every_frame_but_a_recording_s_first_is_made_once() -> None:
    for offset in range(STRETCH):
        stretches = StoredRollouts(data())._stretches(offset)
        made = [t for a, b in stretches for t in range(a + 1, b)]
        assert sorted(made) == [t for t in range(160) if t not in GIVEN]
        for a, b in stretches:
            assert b - a <= STRETCH + 1
            assert any(r.start <= a < b <= r.stop for r in RECORDINGS)


def test_frames_are_free_running_ones() -> None:
    """Whatever was stored before; each from the true first one of its stretch."""
    video, stored = data(), StoredRollouts(data())
    stored.frames.zero_()
    frames = refresh(stored)
    stream, network, wrong = derived_seed(0, 1, STREAM_STORED), model().eval(), 0
    for number, (first, stop) in enumerate(stretches_of(1)):
        labels = video.labels[first:stop, None].permute(0, 1, 4, 2, 3)
        begin = to_unit(video.frames[first : first + 1]).permute(0, 3, 1, 2)
        latents = prior_latents(CONFIG, stream, [number])
        made = torch.cat(list(network.rollout(begin, labels, latents)))
        wrong += (to_uint8(made) != frames[first + 1 : stop]).sum().item()
    assert wrong < 1e-3 * frames.numel()  # a batch may round differently
    assert not frames[GIVEN].any()


def test_a_share_is_made_again_and_the_rest_stays() -> None:
    """What is made again has the very frames that it has where all are made again."""
    stored, whole = StoredRollouts(data()), refreshed(epoch=2)
    before = refresh(stored).clone()
    again = (refresh(stored, epoch=2, whole=False) != before).flatten(1).any(dim=1)
    assert (stored.frames[again].int() - whole[again].int()).abs().max() <= 1
    stretches = stretches_of(2)
    chosen = [bool(again[a + 1 : b].any()) for a, b in stretches]
    assert sum(chosen) == -(-len(stretches) // 2) < len(stretches)
    assert chosen != sorted(chosen, reverse=True)  # drawn, not the first ones
    drawn = {tuple(chosen)}
    for epoch in (4, 6, 8):  # and not the same ones each time
        frames = refresh(StoredRollouts(data()), epoch=epoch, whole=False)
        again = (frames != data().frames).flatten(1).any(dim=1)
        drawn.add(tuple(bool(again[a + 1 : b].any()) for a, b in stretches_of(epoch)))
    assert len({x for x in drawn if len(x) == len(chosen)}) > 1


def test_true_frames_are_not_looked_at_but_for_the_first_of_a_stretch() -> None:
    video, other = data(), data()
    firsts = {a for a, _ in stretches_of(1)}
    for t in set(range(160)) - firsts - set(GIVEN):
        video.frames[t] = 0
    frames = refreshed()
    assert torch.equal(refreshed(video), frames)
    other.frames[min(firsts)] = 0  # the control
    for others in (refreshed(other), refreshed(epoch=2), refreshed(seed=1)):
        assert not torch.equal(others, frames)


def test_frames_that_are_not_finite_stay_true_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = CVAE._rollout_step

    def broken(self: CVAE, *inputs: Tensor) -> Tensor:
        return plain(self, *inputs) * float("nan")

    monkeypatch.setattr(CVAE, "_rollout_step", broken)
    assert torch.equal(refreshed(), data().frames)
