"""The model's own frames over the whole training set, stored to train on in place of true ones.

Every few epochs the model runs freely over the training recordings, without a gradient and with
latents from the prior, as at validation. Until the next time its frames stand in for the previous
frame wherever an epoch (or a step) is not teacher-forced. So training meets the model's own errors
and is still one batch over all steps. Where only a share is made again, frames of several models
are stored side by side. Ross et al. 2011, "A Reduction of Imitation Learning and Structured
Prediction to No-Regret Online Learning" (DAgger, which gathers those of all models); Venkatraman
et al. 2015, "Improving Multi-step Prediction of Learned Time Series Models" (data as demonstrator).
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from modules.cvae import CVAE, prior_latents
from modules.data import STREAM_STORED, VideoData, derived_seed, to_unit
from modules.runtime import distributed
from modules.runtime.device import autocast
from modules.runtime.errors import Stopped
from modules.runtime.graphs import Graphed, graphs_wanted
from modules.runtime.signals import Watch

# Frames that the model makes in one go from a true one, and how many such stretches at a time.
# After some ten frames its errors have reached their usual size; more would only make the first
# ones, which start from a true frame, rarer.
STRETCH, AT_ONCE = 64, 16
# Of the stretches that are made again each time. The others stay as earlier weights made them, so
# that no epoch trains on the errors of one model alone.
SHARE = 0.5


class StoredRollouts:
    """The training frames as the model last made them, (frames, H, W, 3) uint8 on the device."""

    def __init__(self, data: VideoData) -> None:
        self.data = data
        self.frames = data.frames.clone()  # true ones until the first rollout

    def refresh(
        self,
        model: CVAE,
        *,
        seed: int,
        epoch: int,
        precision: torch.dtype,
        watch: Watch,
        whole: bool,
    ) -> None:
        """Make them again with the current model; a function of its weights and (seed, epoch).

        Stretches start at a fresh offset each time, from a true frame. A frame that is not finite
        stays the true one. Raises Stopped, with the frames as they were, if the watch says so.
        whole: make all; else SHARE of the stretches, drawn at random, and the others stay
        """
        stream = derived_seed(seed, epoch, STREAM_STORED)
        stretches = self._stretches(stream % STRETCH)
        generator = torch.Generator().manual_seed(stream)
        order = torch.randperm(len(stretches), generator=generator).tolist()
        chosen = sorted(order[: math.ceil((1.0 if whole else SHARE) * len(stretches))])
        world = distributed.world_size()
        rounds = -(-len(chosen) // (world * AT_ONCE))  # equally many on all ranks
        own = chosen[distributed.rank() :: world]
        made = torch.zeros_like(self.frames)
        was_training = model.training
        model.eval()
        graphs: dict[int, Graphed] = {}  # of a step, by the number of stretches
        # The longest first, so that those that are not done yet are always the first ones.
        groups = [
            sorted(own[first : first + AT_ONCE], key=lambda n: stretches[n][0] - stretches[n][1])
            for first in range(0, rounds * AT_ONCE, AT_ONCE)
        ]
        try:
            # One context for all: the graphs read the weights that autocast cast.
            with torch.no_grad(), autocast(self.data.frames.device, precision):
                for numbers in groups:
                    if numbers:
                        latents = prior_latents(model.config, stream, numbers)
                        self._roll(
                            model, [stretches[n] for n in numbers], latents, watch, made, graphs
                        )
                    if stop := distributed.maximum(*watch.requests())[0]:
                        raise Stopped(stop)
        finally:
            model.train(was_training)
        distributed.sum_over_ranks(made)
        for first, stop in (stretches[n] for n in chosen):
            self.frames[first + 1 : stop] = made[first + 1 : stop]

    def _stretches(self, offset: int) -> list[tuple[int, int]]:
        """(first, stop) of what is made in one go, the first frame being given.

        One's last frame is the next one's first, so that every frame but a recording's first is
        made once.
        """
        stretches = []
        for recording in self.data.recordings:
            cuts = range(recording.start + (offset or STRETCH), recording.stop - 1, STRETCH)
            starts = [recording.start, *cuts]
            ends = [*starts[1:], recording.stop - 1]
            stretches += [(a, b + 1) for a, b in zip(starts, ends, strict=True) if b > a]
        return stretches

    def _roll(
        self,
        model: CVAE,
        group: list[tuple[int, int]],
        latents: Iterator[Tensor],
        watch: Watch,
        made: Tensor,
        graphs: dict[int, Graphed],
    ) -> None:
        """Make a group of stretches, the longest first, side by side; their frames go to `made`."""
        frames, labels = self.data.frames, self.data.labels
        longest = group[0][1] - group[0][0]
        rows = [[min(a + t, b - 1) for a, b in group] for t in range(longest)]
        index = torch.tensor(rows, device=frames.device)  # (T, B) frame numbers
        first = to_unit(frames[index[0]]).permute(0, 3, 1, 2)
        step = None
        if graphs_wanted(frames.device):
            step = graphs.setdefault(len(group), model.rollout_graph())
        rollout = model.rollout(first, labels[index].permute(0, 1, 4, 2, 3), latents, graph=step)
        for t, frame in enumerate(rollout, 1):
            count = sum(a + t < b for a, b in group)
            at, frame = index[t, :count], frame[:count]
            sound = torch.isfinite(frame).all(dim=(1, 2, 3), keepdim=True)
            pixels = torch.where(sound, frame * 255.0, 0.0).round().to(torch.uint8)
            made[at] = torch.where(sound, pixels, frames[at].permute(0, 3, 1, 2)).permute(
                0, 2, 3, 1
            )
            if distributed.world_size() == 1:
                watch.raise_if_asked()
