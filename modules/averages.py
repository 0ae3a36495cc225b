"""What the steps of an epoch add up, and the averages that come of it."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from modules.runtime import distributed

# A run whose steps fail this many times in a row has diverged; more will not bring it back.
MAX_SKIPPED_STEPS = 50
# A latent dimension counts as active when the posterior's mean varies at least this much over the
# frames (Burda et al. 2016, "Importance Weighted Autoencoders", section 5).
ACTIVE_VARIANCE = 0.01


class Sums(NamedTuple):
    """The sums as plain numbers."""

    loss: float  # this and the next three: sums over the sequences that were trained on
    mse: float
    kl: float
    psnr: float
    trained: float  # sequences
    skipped: float  # sequences whose step was not finite
    skipped_in_a_row: float  # steps; outlasts the epoch


class EpochAverages(NamedTuple):
    """Means over the predicted frames of an epoch's training."""

    loss: float
    mse: float
    kl: float
    psnr: float
    skipped: int  # sequences whose step was not finite
    active_dims: int  # latent dimensions whose posterior mean varies from frame to frame
    frames: int  # that were predicted


class RunningSums:
    """Sums over the steps of an epoch, kept on the device so that no step is waited for."""

    def __init__(self, latent: tuple[int, int, int], device: torch.device) -> None:
        """latent: (N, H, W)."""
        # In the order of Sums. float64: an epoch has many steps.
        self.sums = torch.zeros(len(Sums._fields), dtype=torch.float64, device=device)
        # Sums over this rank's frames of the posterior's mean, and of its square.
        self.posterior = torch.zeros((2, *latent), dtype=torch.float64, device=device)

    def add(
        self, terms: Tensor, mu: Tensor, finite: Tensor, enabled: Tensor, batch: Tensor
    ) -> None:
        """Add a step, in place.

        terms:   (4,) float64: loss, MSE, KL and PSNR of the whole batch, in the order of Sums
        mu:      (T-1, B, N, H, W) float64, the posterior's mean for this rank's clips
        finite:  boolean on the device, whether the step's loss and gradient were
        enabled: boolean on the device, False while a graph is warmed up: then nothing is added
        batch:   clips of the whole batch, a number on the device
        """
        good, bad = finite.double(), (~finite).double()
        # `where`, as 0 · NaN is NaN.
        added = torch.where(finite, terms * batch, 0.0)
        # Once too many, always too many: a GPU's sums are not looked at after every step.
        row = self.sums[6]
        row = torch.where(row >= MAX_SKIPPED_STEPS, row, (row + 1.0) * bad)
        counted = torch.stack((self.sums[4] + batch * good, self.sums[5] + batch * bad, row))
        new = torch.cat((self.sums[:4] + added, counted))
        self.sums.copy_(torch.where(enabled, new, self.sums))
        moments = torch.stack((mu.sum(dim=(0, 1)), mu.square().sum(dim=(0, 1))))
        self.posterior += torch.where(finite & enabled, moments, 0.0)

    def start_epoch(self) -> None:
        """Back to zero, but for the steps in a row that were not finite."""
        self.sums[:6] = 0.0
        self.posterior.zero_()

    def read(self) -> Sums:
        """The sums so far. Waits for the device."""
        return Sums(*self.sums.tolist())

    def read_posterior(self) -> Tensor:
        """The posterior's sums over the frames of all ranks, on the CPU. Every rank must ask."""
        return distributed.add_up(self.posterior.clone()).cpu()

    def restore(self, sums: list[float], posterior: Tensor | None) -> None:
        """Continue from sums that were read; posterior: None at the start of an epoch."""
        self.sums.copy_(torch.tensor(sums, dtype=torch.float64))
        if posterior is None or not distributed.is_main():  # rank 0's stand for all ranks'
            self.posterior.zero_()
        else:
            self.posterior.copy_(posterior)

    def averages(self, *, steps: int) -> EpochAverages:
        """The epoch's averages; NaN where no sequence was trained on. Every rank must ask.

        steps: predicted frames of a clip
        """
        sums, posterior = self.read(), self.read_posterior()
        trained = sums.trained
        loss, mse, kl, psnr = (x / trained if trained else math.nan for x in sums[:4])
        active = 0
        if trained:
            mean, square = posterior / (trained * steps)  # 2 × (N, H, W)
            active = int((square - mean**2 > ACTIVE_VARIANCE).sum())
        frames = int(trained + sums.skipped) * steps
        return EpochAverages(loss, mse, kl, psnr, int(sums.skipped), active, frames)
