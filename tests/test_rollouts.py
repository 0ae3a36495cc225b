"""Stored rollouts: each frame is made from the one before, from labels and prior latents alone."""

import threading
from collections.abc import Callable
from itertools import islice

import pytest
import torch

from modules import rollouts
from modules.cvae import CVAE, ModelConfig, prior_latents
from modules.data import STREAM_STORED, Recording, VideoData, derived_seed, to_unit
from modules.rollouts import STRETCH, StoredRollouts, latents_of_groups
from modules.runtime.errors import Stopped
from modules.runtime.signals import Watch

CONFIG = ModelConfig(F_dim=8, L_dim=4, N_dim=4, D_out_dim=8, frame_H=8, frame_W=8)
RECORDINGS = (Recording(0, 90), Recording(90, 91), Recording(91, 93), Recording(93, 160))


def data() -> VideoData:
    g = torch.Generator().manual_seed(0)
    frames, labels = torch.randint(0, 256, (2, 160, 8, 8, 3), generator=g, dtype=torch.uint8)
    return VideoData(frames, labels, RECORDINGS)


def model() -> CVAE:
    torch.manual_seed(0)
    return CVAE(CONFIG).train()


def refreshed(
    epoch: int = 1, video: VideoData | None = None, graph: bool = False
) -> StoredRollouts:
    stored = StoredRollouts(video or data())
    kind = {"precision": torch.float32, "watch": Watch(), "graph": graph}
    stored.refresh(model(), seed=0, epoch=epoch, **kind)
    return stored


def test_every_frame_but_a_recording_s_first_is_made_once() -> None:
    for offset in range(STRETCH):
        made = [t for a, b in StoredRollouts(data())._stretches(offset) for t in range(a + 1, b)]
        assert sorted(made) == [t for t in range(160) if t not in (0, 90, 91, 93)]
        for a, b in StoredRollouts(data())._stretches(offset):
            assert b - a <= STRETCH + 1
            assert any(r.start <= a < b <= r.stop for r in RECORDINGS)


@pytest.mark.parametrize("groups", [[], [[3, 1]], [[3, 1], [2], []]])
def test_latents_drawn_ahead_are_the_same(groups: list[list[int]]) -> None:
    def first(ahead: bool) -> list[list[torch.Tensor]]:
        drawn = latents_of_groups(CONFIG, 5, groups, steps=4, ahead=ahead)
        return [
            list(islice(latents(), 4)) if numbers else []
            for numbers, latents in zip(groups, drawn, strict=True)
        ]

    plain, ahead = first(ahead=False), first(ahead=True)
    assert len(ahead) == len(groups)
    for a, b in zip(plain, ahead, strict=True):
        assert [torch.equal(x, y) for x, y in zip(a, b, strict=True)] == [True] * len(a)
    assert not any(thread.name.startswith("latents") for thread in threading.enumerate())


def test_frames_are_free_running_ones() -> None:
    video, stored = data(), refreshed()
    stream = derived_seed(0, 1, STREAM_STORED)
    network = model().eval()
    for number, (first, stop) in list(enumerate(stored._stretches(stream % STRETCH)))[:2]:
        labels = video.labels[first:stop, None].permute(0, 1, 4, 2, 3)
        begin = to_unit(video.frames[first : first + 1]).permute(0, 3, 1, 2)
        latents = prior_latents(CONFIG, stream, [number])
        for t, frame in enumerate(network.rollout(begin, labels, latents), first + 1):
            pixels = (frame[0] * 255).round().permute(1, 2, 0)
            difference = (stored.frames[t].float() - pixels).abs().max()
            assert difference <= 1  # a batch may round differently
    assert not torch.equal(stored.frames, video.frames)
    for first in (0, 90, 91, 93):  # given, never made
        assert torch.equal(stored.frames[first], video.frames[first])


def test_a_share_is_made_again_and_the_rest_stays() -> None:
    """What is made again has the very frames that it has where all are made again."""
    stored, whole = refreshed(), refreshed(epoch=2)
    before = stored.frames.clone()
    stored.refresh(model(), seed=0, epoch=2, precision=torch.float32, watch=Watch(), share=0.5)
    again = (stored.frames != before).flatten(1).any(dim=1)
    assert (stored.frames[~again] == before[~again]).all()
    near = (stored.frames[again].int() - whole.frames[again].int()).abs()
    assert near.max() <= 1  # a batch may round differently
    stretches = stored._stretches(derived_seed(0, 2, STREAM_STORED) % STRETCH)
    count = sum(bool(again[a + 1 : b].any()) for a, b in stretches)
    assert count == -(-len(stretches) // 2) < len(stretches)


def test_a_function_of_weights_seed_and_epoch() -> None:
    assert torch.equal(refreshed().frames, refreshed().frames)
    assert not torch.equal(refreshed().frames, refreshed(epoch=2).frames)


def test_true_frames_are_not_looked_at_but_for_the_first_of_a_stretch() -> None:
    stretches = refreshed()._stretches(derived_seed(0, 1, STREAM_STORED) % STRETCH)
    video = data()
    firsts = {a for a, _ in stretches}
    for t in set(range(160)) - firsts - {r.start for r in RECORDINGS}:
        video.frames[t] = 0
    assert torch.equal(refreshed(video=video).frames, refreshed().frames)
    other = data()
    other.frames[min(firsts)] = 0  # the control
    assert not torch.equal(refreshed(video=other).frames, refreshed().frames)


def test_clips_are_the_frames_that_steps_start_from() -> None:
    stored = refreshed()
    clips = stored.clips(torch.tensor([3, 100]), 5)
    assert clips.shape == (4, 2, 3, 8, 8)
    expected = stored.frames[[4, 101]].permute(0, 3, 1, 2).float() / 255
    torch.testing.assert_close(clips[1], expected)


def test_frames_that_are_not_finite_stay_true_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = CVAE._rollout_step

    def broken(self: CVAE, *inputs: torch.Tensor) -> torch.Tensor:
        return plain(self, *inputs) * float("nan")

    monkeypatch.setattr(CVAE, "_rollout_step", broken)
    assert torch.equal(refreshed().frames, data().frames)


def test_stopping_leaves_the_frames_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollouts, "AT_ONCE", 1)
    stored, watch = StoredRollouts(data()), Watch()
    network = model()
    watch._asked = 15
    with pytest.raises(Stopped):
        stored.refresh(network, seed=0, epoch=1, precision=torch.float32, watch=watch)
    assert torch.equal(stored.frames, data().frames)
    assert network.training


def test_graphs_are_shared_by_groups_of_one_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollouts, "AT_ONCE", 1)
    made = []

    class Recorded:
        def __init__(self, compute: Callable[..., torch.Tensor]) -> None:
            self.compute, self.calls = compute, 0
            made.append(self)

        def __call__(self, *values: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            return self.compute(*values)

    monkeypatch.setattr(CVAE, "rollout_graph", lambda model: Recorded(model._rollout_step))
    expected = refreshed().frames
    assert not made
    assert torch.equal(refreshed(graph=True).frames, expected)
    used = [graph for graph in made if graph.calls]
    assert len(used) == 1  # all groups are of one stretch
    assert used[0].calls == 160 - len(RECORDINGS)


def test_what_cannot_be_captured_is_made_without_graphs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing(*_values: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(CVAE, "rollout_graph", lambda model: failing)
    expected = refreshed().frames
    capsys.readouterr()
    assert torch.equal(refreshed(graph=True).frames, expected)
    printed = capsys.readouterr().out
    assert printed.count("note: stored rollouts without CUDA graphs (operation not permitted") == 1
