"""Stored rollouts: each frame is made from the one before, from labels and prior latents alone."""

import pytest
import torch
from torch import Tensor

from modules import rollouts
from modules.cvae import CVAE, ModelConfig, prior_latents
from modules.data import STREAM_STORED, Recording, VideoData, derived_seed, to_unit
from modules.rollouts import STRETCH, StoredRollouts
from modules.runtime.errors import Stopped
from modules.runtime.signals import Watch

CONFIG = ModelConfig(F_dim=8, L_dim=4, N_dim=4, D_out_dim=8, frame_H=8, frame_W=8)
RECORDINGS = (Recording(0, 90), Recording(90, 91), Recording(91, 93), Recording(93, 160))
GIVEN = [r.start for r in RECORDINGS]  # never made


def data() -> VideoData:
    g = torch.Generator().manual_seed(0)
    frames, labels = torch.randint(0, 256, (2, 160, 8, 8, 3), generator=g, dtype=torch.uint8)
    return VideoData(frames, labels, RECORDINGS)


def model() -> CVAE:
    torch.manual_seed(0)
    return CVAE(CONFIG).train()


def refresh(
    stored: StoredRollouts,
    *,
    epoch: int = 1,
    seed: int = 0,
    whole: bool = True,
    watch: Watch | None = None,
) -> StoredRollouts:
    kind = {"precision": torch.float32, "watch": watch or Watch(), "whole": whole}
    stored.refresh(model(), seed=seed, epoch=epoch, **kind)
    return stored


def refreshed(video: VideoData | None = None, **kind: int) -> Tensor:
    """The frames after all were made."""
    return refresh(StoredRollouts(video or data()), **kind).frames


def stretches_of(epoch: int) -> list[tuple[int, int]]:
    return StoredRollouts(data())._stretches(derived_seed(0, epoch, STREAM_STORED) % STRETCH)


def test_every_frame_but_a_recording_s_first_is_made_once() -> None:
    for offset in range(STRETCH):
        made = [t for a, b in StoredRollouts(data())._stretches(offset) for t in range(a + 1, b)]
        assert sorted(made) == [t for t in range(160) if t not in GIVEN]
        for a, b in StoredRollouts(data())._stretches(offset):
            assert b - a <= STRETCH + 1
            assert any(r.start <= a < b <= r.stop for r in RECORDINGS)


def test_frames_are_free_running_ones() -> None:
    video, frames = data(), refreshed()
    stream, network = derived_seed(0, 1, STREAM_STORED), model().eval()
    for number, (first, stop) in enumerate(stretches_of(1)):
        labels = video.labels[first:stop, None].permute(0, 1, 4, 2, 3)
        begin = to_unit(video.frames[first : first + 1]).permute(0, 3, 1, 2)
        latents = prior_latents(CONFIG, stream, [number])
        for t, frame in enumerate(network.rollout(begin, labels, latents), first + 1):
            pixels = (frame[0] * 255).round().permute(1, 2, 0)
            assert (frames[t].float() - pixels).abs().max() <= 1  # a batch may round differently
    made = (frames != video.frames).flatten(1).any(dim=1)
    assert made.nonzero().flatten().tolist() == [t for t in range(160) if t not in GIVEN]


def test_a_share_is_made_again_and_the_rest_stays() -> None:
    """What is made again has the very frames that it has where all are made again."""
    stored, whole = refresh(StoredRollouts(data())), refreshed(epoch=2)
    before = stored.frames.clone()
    refresh(stored, epoch=2, whole=False)
    again = (stored.frames != before).flatten(1).any(dim=1)
    assert (stored.frames[again].int() - whole[again].int()).abs().max() <= 1
    stretches = stretches_of(2)
    count = sum(bool(again[a + 1 : b].any()) for a, b in stretches)
    assert count == -(-len(stretches) // 2) < len(stretches)


def test_a_function_of_weights_seed_and_epoch() -> None:
    frames = refreshed()
    assert torch.equal(refreshed(), frames)
    assert not torch.equal(refreshed(epoch=2), frames)
    assert not torch.equal(refreshed(seed=1), frames)


def test_true_frames_are_not_looked_at_but_for_the_first_of_a_stretch() -> None:
    video, other = data(), data()
    firsts = {a for a, _ in stretches_of(1)}
    for t in set(range(160)) - firsts - set(GIVEN):
        video.frames[t] = 0
    assert torch.equal(refreshed(video), refreshed())
    other.frames[min(firsts)] = 0  # the control
    assert not torch.equal(refreshed(other), refreshed())


def test_frames_that_are_not_finite_stay_true_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = CVAE._rollout_step

    def broken(self: CVAE, *inputs: Tensor) -> Tensor:
        return plain(self, *inputs) * float("nan")

    monkeypatch.setattr(CVAE, "_rollout_step", broken)
    assert torch.equal(refreshed(), data().frames)


def test_stopping_leaves_frames_and_mode_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollouts, "AT_ONCE", 1)
    stored, watch, network = StoredRollouts(data()), Watch(), model()
    kind = {"seed": 0, "epoch": 1, "precision": torch.float32, "whole": True}
    stored.refresh(network, watch=watch, **kind)
    assert network.training
    before = stored.frames.clone()
    watch._asked = 15
    with pytest.raises(Stopped):
        stored.refresh(network, watch=watch, **{**kind, "epoch": 2})
    assert torch.equal(stored.frames, before)
    assert network.training
