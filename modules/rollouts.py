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
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from itertools import islice

import torch
from torch import Tensor

from modules.cvae import CVAE, ModelConfig, prior_latents
from modules.runtime import distributed
from modules.runtime.device import autocast
from modules.runtime.errors import Stopped
from modules.runtime.graphs import Graphed, reason
from modules.runtime.signals import Watch
from modules.seeds import STREAM_STORED, derived_seed
from modules.sequences import VideoData, to_unit

# Frames that the model makes in one go from a true one, and how many such stretches at a time.
# After some ten frames its errors have reached their usual size; more would only make the first
# ones, which start from a true frame, rarer.
STRETCH, AT_ONCE = 64, 16


class CannotCapture(Exception):
    """A step of a rollout cannot be a CUDA graph; says why."""


def _captured(rollout: Iterator[Tensor]) -> Iterator[Tensor]:
    """The rollout; CannotCapture if its first frame, with which the graph is captured, fails."""
    try:
        frame = next(rollout)
    except RuntimeError as error:
        raise CannotCapture(reason(error)) from None
    yield frame
    yield from rollout


def latents_of_groups(
    config: ModelConfig, seed: int, groups: list[list[int]], *, steps: int, ahead: bool
) -> Generator[Callable[[], Iterator[Tensor]], None, None]:
    """For each group of stretches what gives prior_latents() of their numbers, from the first on.

    steps: of the longest stretch at most
    ahead: those of the next group are drawn while a GPU makes this group's frames
    """

    def all_of(numbers: list[int]) -> list[Tensor]:
        return list(islice(prior_latents(config, seed, numbers), steps if numbers else 0))

    if not (ahead and groups):
        for numbers in groups:
            yield partial(prior_latents, config, seed, numbers)
        return
    with ThreadPoolExecutor(1, "latents") as pool:
        coming = pool.submit(all_of, groups[0])
        for following in (*groups[1:], []):
            latents, coming = coming, pool.submit(all_of, following)
            yield partial(iter, latents.result())


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
        share: float = 1.0,
        graph: bool = False,
    ) -> None:
        """Make them again with the current model; a function of its weights and (seed, epoch).

        Stretches start at a fresh offset each time, from a true frame. A frame that is not finite
        stays the true one. Raises Stopped, with the frames as they were, if the watch says so.
        share: of the stretches, drawn at random; the other frames stay as they are
        graph: run the steps as CUDA graphs, where that can be
        """
        stream = derived_seed(seed, epoch, STREAM_STORED)
        stretches = self._stretches(stream % STRETCH)
        generator = torch.Generator().manual_seed(stream)
        order = torch.randperm(len(stretches), generator=generator).tolist()
        chosen = sorted(order[: math.ceil(share * len(stretches))])
        world = distributed.world_size()
        rounds = -(-len(chosen) // (world * AT_ONCE))  # equally many on all ranks
        own = chosen[distributed.rank() :: world]
        made = torch.zeros_like(self.frames)
        was_training = model.training
        model.eval()
        graphs: dict[int, Graphed] | None = {} if graph else None
        # The longest first, so that those that are not done yet are always the first ones.
        groups = [
            sorted(own[first : first + AT_ONCE], key=lambda n: stretches[n][0] - stretches[n][1])
            for first in range(0, rounds * AT_ONCE, AT_ONCE)
        ]
        drawn = latents_of_groups(
            *(model.config, stream, groups),
            steps=STRETCH,
            ahead=self.data.frames.is_cuda and graph,
        )
        try:
            # One context for all: the graphs read the weights that autocast cast.
            with (
                torch.no_grad(),
                autocast(self.data.frames.device, precision),
                closing(drawn),
            ):
                for numbers, latents in zip(groups, drawn, strict=True):
                    if group := [stretches[n] for n in numbers]:
                        try:
                            self._roll(model, group, latents(), watch, made, graphs)
                        except CannotCapture as error:
                            print(
                                f"note: stored rollouts without CUDA graphs ({error})", flush=True
                            )
                            graphs = None
                            self._roll(model, group, latents(), watch, made, graphs)
                    if stop := distributed.maximum(*watch.requests())[0]:
                        raise Stopped(stop)
        finally:
            model.train(was_training)
        distributed.add_up(made)
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
        graphs: dict[int, Graphed] | None,
    ) -> None:
        """Make a group of stretches, the longest first, side by side; their frames go to `made`.

        graphs: of a step, by the number of stretches; None: without. Raises CannotCapture.
        """
        frames, labels = self.data.frames, self.data.labels
        longest = group[0][1] - group[0][0]
        rows = [[min(a + t, b - 1) for a, b in group] for t in range(longest)]
        index = torch.tensor(rows, device=frames.device)  # (T, B) frame numbers
        first = to_unit(frames[index[0]]).permute(0, 3, 1, 2)
        step: Graphed | bool = False
        if graphs is not None:
            step = graphs.setdefault(len(group), model.rollout_graph())
        rollout = model.rollout(first, labels[index].permute(0, 1, 4, 2, 3), latents, graph=step)
        if graphs is not None:
            rollout = _captured(rollout)
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

    def clips(self, starts: Tensor, length: int) -> Tensor:
        """What the frames of clips are made from: (T-1, B, 3, H, W) in [0, 1]."""
        index = starts[None, :] + torch.arange(length - 1, device=starts.device)[:, None]
        return to_unit(self.frames[index]).permute(0, 1, 4, 2, 3)
