"""Free-running generation and its score: validation, --test and Tester.py share it.

Only the decoder path runs: first frame, labels and prior latents, never a later true frame.
Shapes: T time, B batch, H, W.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from modules.cvae import CVAE, prior_latents
from modules.data import TestSequence, VideoData, nearest_rows, to_unit
from modules.ink import Ink
from modules.losses import (
    background_flicker,
    frame_mse,
    person_region,
    psnr,
    psnr_of_mse,
    region_mse,
    ssim,
)
from modules.runtime.device import autocast, exact_convolutions
from modules.runtime.errors import UserError
from modules.runtime.graphs import graphs_wanted
from modules.runtime.signals import Watch

T = TypeVar("T")

SHORTEST = 10  # frames: drift over fewer is noise


class Score(NamedTuple):
    """How well frames 1 … T-1 of a video were predicted; the given frame 0 never counts.

    All are of single frames. NaN, where the frame has no such pixels, is left out of the means.
    """

    psnr: np.ndarray  # (T-1,) dB
    mse: np.ndarray  # (T-1,) mean-square error per pixel of values in [0, 1]
    ssim: np.ndarray  # (T-1,) structural similarity
    inside: np.ndarray  # (T-1,) dB near the skeleton; NaN without a skeleton
    outside: np.ndarray  # (T-1,) dB over the background
    flicker: np.ndarray  # (T-1,) of 255, see background_flicker; NaN at frame 1

    @property
    def mean_psnr(self) -> float:
        """PSNR of the video: the mean over its frames, in dB."""
        return float(self.psnr.mean())

    @property
    def loss(self) -> float:
        """val_loss: the mean over the same frames."""
        return float(self.mse.mean())

    @property
    def mean_ssim(self) -> float:
        """SSIM of the video: the mean over the same frames."""
        return float(self.ssim.mean())

    @property
    def mean_inside(self) -> float:
        """PSNR in the skeleton's person_region, in dB."""
        return self._mean_of_known(self.inside)

    @property
    def mean_outside(self) -> float:
        """PSNR of the background, in dB."""
        return self._mean_of_known(self.outside)

    @property
    def mean_flicker(self) -> float:
        """Flicker of the background, in grey levels of 255; 0 is that of the truth."""
        return self._mean_of_known(self.flicker)

    @property
    def drift(self) -> float:
        """How PSNR changes along the video, in dB per 100 frames; see psnr_drift."""
        return psnr_drift(self.psnr)

    def _mean_of_known(self, values: np.ndarray) -> float:
        """The mean without NaN; NaN if no value is left, or if a prediction is not finite."""
        known = values[~np.isnan(values)]
        return float(known.mean()) if len(known) and np.isfinite(self.psnr).all() else math.nan

    def details(self) -> str:
        """Where in the frames and when in the video the prediction is good, in one line."""
        return (
            f"PSNR near the skeleton {self.mean_inside:.2f} dB, elsewhere "
            f"{self.mean_outside:.2f} dB; drift {self.drift:+.2f} dB per 100 frames; flicker of "
            f"the background {self.mean_flicker:+.2f} of 255"
        )


def psnr_drift(psnr: np.ndarray) -> float:
    """The least-squares slope of PSNR over the frames, in dB per 100 frames.

    psnr: (T-1,) dB of frames 1 … T-1. Below 0 quality falls along the video. NaN for a video
    of fewer than 10 frames.
    """
    if len(psnr) + 1 < SHORTEST:
        return math.nan
    time = np.arange(len(psnr)) - (len(psnr) - 1) / 2  # around its mean
    return float(100.0 * (time * psnr).sum() / (time**2).sum())


def score(prediction: Tensor, truth: Tensor, labels: Tensor, ink: Ink) -> Score:
    """Score frames 1 … T-1 where the prediction is, and bring all scores over at once.

    prediction: (T, 3, H, W) in [0, 1]; truth, labels: (T, H, W, 3) uint8, on any device; ink: of
    the data set's labels
    """
    device = prediction.device
    target = to_unit(truth.to(device)).permute(0, 3, 1, 2)
    near = person_region(labels.to(device), ink)
    x_hat, x = prediction[1:], target[1:]
    mse = frame_mse(x_hat, x)
    # The step from the given frame to the first predicted one is a change of sharpness.
    flicker = F.pad(background_flicker(x_hat, x, near[1:]), (1, 0), value=math.nan)
    with exact_convolutions():
        similarity = ssim(x_hat, x)
    terms = (
        *(psnr_of_mse(mse), mse, similarity),
        *(psnr_of_mse(region_mse(x_hat, x, region)) for region in (near[1:], ~near[1:])),
        flicker,
    )
    return Score(*torch.stack(terms).cpu().double().numpy())


def validate(
    model: CVAE,
    video: VideoData,
    *,
    seed: int,
    device: torch.device,
    precision: torch.dtype,
    latent_scale: float = 1.0,
    watch: Watch | None = None,
) -> tuple[Score, Tensor]:
    """Free-running prediction of the validation video with prior latents, and its score.

    The true frames after the first are used for scoring alone. Returns the score and the
    prediction on the device, (T, 3, H, W) in [0, 1] (or not finite). Raises Stopped if the watch
    says so.
    """
    sequence = TestSequence("0", video.frames[0], video.labels)
    with tqdm(total=len(video.labels) - 1, desc="validation", leave=False, disable=None) as bar:

        def advance(count: int) -> None:
            bar.update(count)
            if watch is not None:
                watch.raise_if_asked()

        kind: dict[str, Any] = {"seed": seed, "device": device, "precision": precision}
        kind["latent_scale"] = latent_scale
        made = generate(model, [sequence], **kind, advance=advance, keep=True)
    scored = where_it_fits(lambda x: score(x, video.frames, video.labels, video.ink), made[0])
    return scored, made[0]


def where_it_fits(function: Callable[[Tensor], T], video: Tensor) -> T:
    """function(video), on the CPU if the device's memory is too small for it."""
    try:
        return function(video)
    except torch.OutOfMemoryError:
        pass  # out here what was made so far is gone
    return function(video.cpu())


def generate(
    model: CVAE,
    sequences: list[TestSequence],
    *,
    seed: int,
    device: torch.device,
    precision: torch.dtype,
    latent_scale: float = 1.0,
    batch_size: int = 1,
    numbers: list[int] | None = None,
    keep: bool = False,
    advance: Callable[[int], object] = lambda frames: None,
) -> list[Tensor]:
    """Generate each sequence from its first frame: (T, 3, H, W) float32 in [0, 1] on the CPU.

    Frame 0 is the given one. Latents depend on the seed and the sequence's number alone (its place
    in the list unless `numbers` says otherwise), pixels not on the batch: where this hardware's
    kernels round differently in a batch, sequences are made one at a time.
    keep: leave the videos on the device.
    advance: called with the number of frames made, for a progress bar.
    """
    numbers = list(range(len(sequences))) if numbers is None else numbers
    was_training = model.training
    model.eval()
    try:
        made: list[Tensor] = []
        with torch.no_grad(), autocast(device, precision):
            for group_numbers, group in _groups(model, sequences, numbers, batch_size, device):
                first, labels, reference = _stack(group, device)
                latents = prior_latents(model.config, seed, group_numbers, latent_scale)
                graph = model.rollout_graph() if graphs_wanted(device) else None
                frames = [first]
                try:
                    how: dict[str, Any] = {"reference": reference, "graph": graph}
                    for frame in model.rollout(first, labels, latents, **how):
                        frames.append(frame)
                        advance(len(group))
                    video = torch.stack(frames, dim=1)  # (B, T, 3, H, W)
                except torch.OutOfMemoryError as error:
                    count, (height, width) = len(group), first.shape[2:]
                    raise UserError(
                        f"generating {count} sequence{'s' * (count > 1)} of {len(labels)} frames "
                        f"of {width} x {height} pixels does not fit into the GPU's memory; a "
                        "smaller --batch_size needs less, or use --device cpu"
                    ) from error
                video = video if keep else video.cpu()
                made += [v[: len(s.labels)] for v, s in zip(video, group, strict=True)]
        return made
    finally:
        model.train(was_training)


def _groups(
    model: CVAE,
    sequences: list[TestSequence],
    numbers: list[int],
    batch_size: int,
    device: torch.device,
) -> list[tuple[list[int], list[TestSequence]]]:
    """(numbers, sequences) of each batch: of batch_size, or of one where a batch would round."""
    groups = []
    for start in range(0, len(sequences), batch_size):
        part = slice(start, start + batch_size)
        group, group_numbers = sequences[part], numbers[part]
        if len(group) == 1 or _batch_changes_nothing(model, group, device):
            groups.append((group_numbers, group))
        else:
            groups += [([n], [s]) for n, s in zip(group_numbers, group, strict=True)]
    return groups


def _stack(
    group: list[TestSequence], device: torch.device
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
    """(B, 3, H, W) first frames in [0, 1], (T, B, 3, H, W) uint8 labels, and frames and labels that
    the background comes from, (B, 3, H, W) in [0, 1], of sequences.

    Shorter ones are filled up with their last label; what is made from it is cut off again.
    """

    def images(pictures: list[Tensor]) -> Tensor:
        return to_unit(torch.stack(pictures).to(device)).permute(0, 3, 1, 2)

    behind = [s.reference or (s.first_frame, s.labels[0]) for s in group]
    longest = max(len(s.labels) for s in group)
    filled = [
        torch.cat((s.labels, s.labels[-1:].expand(longest - len(s.labels), -1, -1, -1)))
        for s in group
    ]
    labels = torch.stack(filled, dim=1).to(device)  # (T, B, H, W, 3)
    reference = images([frame for frame, _ in behind]), images([label for _, label in behind])
    return images([s.first_frame for s in group]), labels.permute(0, 1, 4, 2, 3), reference


def _batch_changes_nothing(model: CVAE, group: list[TestSequence], device: torch.device) -> bool:
    """Whether one step of these sequences together equals the same steps one by one, bit for bit.

    Kernels are chosen by shape, and some sum in another order for another batch. Then nearly every
    value differs in its last bits after one step, so one step on real input tells.
    """

    def step(sequences: list[TestSequence], numbers: list[int]) -> Tensor:
        first, labels, reference = _stack(sequences, device)
        latents = prior_latents(model.config, 0, numbers)
        return next(model.rollout(first, labels, latents, reference=reference))

    together = step(group, list(range(len(group))))
    return all(torch.equal(together[i : i + 1], step([s], [i])) for i, s in enumerate(group))


# ---------------------------------------------------------------- baselines


def blurred(labels: Tensor) -> NDArray[np.float32]:
    """Labels as blurred, small rows of about 400 numbers: (N, H, W, 3) uint8 → (N, D) in 0-255.

    About 512 square cells make a frame. Each gets the mean of the 3 × 3 around it, twice, and every
    second one is kept: thin lines that lie beside each other overlap, and by how much tells how far
    apart they are. Outside counts as 0, which like the background's colour cancels in a difference
    of two labels. Multiples of 1/16, so that `nearest_rows` is exact.
    """
    height, width = labels.shape[1:3]
    cell = max(1, round((height * width / 512) ** 0.5))  # its side in pixels
    rows = []
    for part in labels.cpu().split(max(1, 2**19 // (height * width))):  # little memory, and faster
        pixels = part.permute(0, 3, 1, 2).float()
        small = F.avg_pool2d(pixels, cell, ceil_mode=True, divisor_override=cell**2)
        small = F.avg_pool2d(F.avg_pool2d(small, 3, 1, padding=1), 3, stride=2, padding=1)
        rows.append((small * 16).round().div(16).flatten(1).numpy())
    return np.concatenate(rows)


def baselines(train: VideoData, val: VideoData) -> dict[str, float]:
    """Average PSNR in dB over validation frames 1 … T−1 of three predictions that need no model.

    "first_frame" repeats the given frame; "mean_train_frame" shows the mean training frame;
    "nearest_pose" shows the training frame whose blurred label is nearest to label t, the first of
    several.
    """
    truth = to_unit(val.frames.cpu()).permute(0, 3, 1, 2)  # (T, 3, H, W)
    mean = train.frames.cpu().numpy().mean(axis=0, dtype=np.float64) / 255.0
    average = torch.from_numpy(mean).float().permute(2, 0, 1)  # (3, H, W)
    _, place = nearest_rows(blurred(val.labels)[1:], blurred(train.labels))
    nearest = to_unit(train.frames.cpu()[torch.from_numpy(place)]).permute(0, 3, 1, 2)
    return {
        "first_frame": psnr(truth[:1], truth[1:]).double().mean().item(),
        "mean_train_frame": psnr(average[None], truth[1:]).double().mean().item(),
        "nearest_pose": psnr(nearest, truth[1:]).double().mean().item(),
    }
