"""The usual way to train this model, kept as what the Trainer is measured and checked against.

As public solutions of the task have it: a DataLoader decodes and resizes PNGs in every epoch, and a
clip is worked through frame by frame, in float32: encode the previous frame, the true frame and the
label, posterior, decoder, loss. No batching over time, no mixed precision, and the loop waits for
the device at each step, where it reads the loss for its progress bar.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from modules.cvae import CVAE
from modules.losses import kl_to_standard_normal


class ClipFolder(Dataset):
    """Consecutive clips of a training folder, read from its PNGs at every access."""

    def __init__(self, root: Path, length: int, size: tuple[int, int]) -> None:
        self.root, self.length, self.size = root, length, size

    def __len__(self) -> int:
        return len(list((self.root / "train/train_img").iterdir())) // self.length

    def __getitem__(self, index: int) -> list[Tensor]:
        clip = []  # 2 × (T, 3, H, W)
        for kind in ("img", "label"):
            pictures = []
            for i in range(index * self.length, (index + 1) * self.length):
                with Image.open(self.root / f"train/train_{kind}/{i}.png") as image:
                    pictures.append(np.array(image.convert("RGB").resize(self.size[::-1])))
            clip.append(torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255.0)
        return clip


def usual_step(
    model: CVAE, optimizer: Any, frames: Tensor, labels: Tensor, *, forced: bool, beta: float
) -> float:
    """One step of training on clips (B, T, 3, H, W), frame by frame; the loss as a number.

    forced: teacher forcing, or free running
    """
    mse = kl = torch.zeros((), device=frames.device)
    previous, steps = frames[:, 0], frames.shape[1] - 1
    for t in range(1, frames.shape[1]):
        previous_feature = model.frame_transformation(previous)
        true_feature = model.frame_transformation(frames[:, t])
        label_feature = model.label_transformation(labels[:, t])
        mu, logvar = model.Gaussian_Predictor.moments(true_feature, label_feature)
        z = mu + torch.exp(0.5 * logvar) * torch.randn_like(mu)
        made = model.Generator(model.Decoder_Fusion(previous_feature, label_feature, z))
        mse = mse + torch.nn.functional.mse_loss(made, frames[:, t]) / steps
        kl = kl + kl_to_standard_normal(mu, logvar).mean() / steps
        previous = frames[:, t] if forced else made.clamp(0.0, 1.0)
    loss = mse + beta * kl
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss.item()


@torch.no_grad()
def usual_rollout(model: CVAE, frames: Tensor, labels: Tensor) -> Tensor:
    """Validation of one video, (T, 3, H, W) twice: encodes every frame and label by itself."""
    previous, made = frames[:1], []
    for t in range(1, len(labels)):
        feature = model.frame_transformation(previous)
        label_feature = model.label_transformation(labels[t : t + 1])
        shape = (1, model.config.N_dim, *frames.shape[-2:])
        z = torch.randn(shape, device=frames.device)
        previous = model.Generator(model.Decoder_Fusion(feature, label_feature, z)).clamp(0.0, 1.0)
        made.append(previous)
    return torch.cat(made)
