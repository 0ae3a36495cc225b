"""The conditional VAE: the five networks wired into a training pass and a rollout.

Shapes: T time, B batch, C channels, H, W. Clips are time-major, (T, B, 3, H, W), so that one step,
or all steps after the first, are a contiguous slice that flattens into one batch.
F, L, N, D are the channel counts F_dim, L_dim, N_dim, D_out_dim.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from modules.device import capture
from modules.errors import UserError
from modules.losses import frame_mse, kl_to_standard_normal
from modules.modules import (
    Decoder_Fusion,
    Gaussian_Predictor,
    Generator,
    Label_Encoder,
    RGB_Encoder,
)
from modules.schedules import STREAM_ROLLOUT, derived_seed

# Labels encoded at once in a rollout: enough for one efficient batch, little memory.
LABEL_CHUNK = 32
# Frames whose intermediate values are kept at once when they are recomputed with teacher forcing.
RECOMPUTE_FRAMES = 8


@dataclass(frozen=True)
class ModelConfig:
    """What is needed to build the model; stored beside its weights."""

    F_dim: int = 128
    L_dim: int = 32
    N_dim: int = 12
    D_out_dim: int = 192
    frame_H: int = 32
    frame_W: int = 64

    def check(self) -> None:
        """Raise UserError for dimensions that the networks cannot be built with."""
        # The networks halve these up to three times, rounding down.
        least = {"F_dim": 8, "L_dim": 2, "N_dim": 4, "D_out_dim": 8, "frame_H": 4, "frame_W": 4}
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise UserError(f"--{name} {getattr(self, name)}: must be at least {bound}")

    def to_dict(self) -> dict[str, int]:
        """Plain values for the checkpoint."""
        return asdict(self)


class ClipOutput(NamedTuple):
    """What a training pass over clips gives, for the T-1 predicted frames."""

    prediction: Tensor  # (T-1, B, 3, H, W), unbounded
    mse: Tensor  # (T-1, B) mean-square error per pixel
    kl: Tensor  # (T-1, B) nats, summed over the latent's dimensions


class CVAE(nn.Module):
    """p(x_t | x_{t-1}, P_t, z_t) with the posterior q(z_t | x_t, P_t) and the prior N(0, I)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        config.check()
        self.config = config
        f, latent = config.F_dim, config.N_dim
        self.frame_transformation = RGB_Encoder(3, f)
        self.label_transformation = Label_Encoder(3, config.L_dim)
        self.Gaussian_Predictor = Gaussian_Predictor(f + config.L_dim, latent)
        self.Decoder_Fusion = Decoder_Fusion(f + config.L_dim + latent, config.D_out_dim)
        self.Generator = Generator(config.D_out_dim, 3)

    def decode(self, frame_feature: Tensor, label_feature: Tensor, z: Tensor) -> Tensor:
        """Frame t from the features of frame t-1 and label t and the latent; (B, 3, H, W) float32.

        (B, F, H, W), (B, L, H, W), (B, N, H, W) → unbounded; callers clamp what they show or feed.
        """
        return self.Generator(self.Decoder_Fusion(frame_feature, label_feature, z)).float()

    def forward(
        self,
        frames: Tensor,
        labels: Tensor,
        noise: Tensor,
        *,
        teacher_forcing: bool,
        detach: bool = False,
        frame_noise: Tensor | None = None,
        recompute: bool = False,
    ) -> ClipOutput:
        """All frames of the clips, for training.

        frames, labels: (T, B, 3, H, W) in [0, 1]; noise: ε, (T-1, B, N, H, W) from N(0, I).
        Frame t is made from frame t-1 (the true one, or the model's own, clamped to [0, 1] as at
        validation), label t and z_t from the posterior, which sees the true frame t and label t.
        Frame 0 is given and never a target. The target is the true frame t either way.
        detach: free running treats the fed-back frames as given, with no gradient through them.
        frame_noise: (T-1, B, 3, H, W) is added to the frames that others are made from, forced or
        fed back, so that teacher forcing too learns to mend what its own errors will look like
        (noise augmentation, as in Valevski et al. 2024, "Diffusion Models Are Real-Time Game
        Engines", section 3.2.1).
        recompute: the same values with less memory, see _forward_in_parts.
        """
        if recompute:
            return self._forward_in_parts(
                frames, labels, noise, teacher_forcing, detach, frame_noise
            )
        steps, batch = frames.shape[0] - 1, frames.shape[1]
        # One batch for all true frames and one for all labels: only free-running decoding is
        # sequential.
        frame_features = self.frame_transformation(frames.flatten(0, 1)).unflatten(0, (-1, batch))
        label_features = self.label_transformation(labels[1:].flatten(0, 1))  # ((T-1)·B, L, H, W)
        mu, logvar = self.Gaussian_Predictor.moments(
            frame_features[1:].flatten(0, 1), label_features
        )  # 2 × ((T-1)·B, N, H, W)
        z = self.Gaussian_Predictor.reparameterize(mu, logvar, noise.flatten(0, 1))
        kl = kl_to_standard_normal(mu, logvar).unflatten(0, (steps, batch))  # (T-1, B)

        first = frame_features[0]  # (B, F, H, W)
        if frame_noise is not None and not teacher_forcing:
            first = self.frame_transformation(with_noise(frames[0], frame_noise[0]))
        if teacher_forcing:
            previous = frame_features[:-1].flatten(0, 1)  # ((T-1)·B, F, H, W)
            if frame_noise is not None:
                noisy = with_noise(frames[:-1], frame_noise)
                previous = self.frame_transformation(noisy.flatten(0, 1))
            prediction = self.decode(previous, label_features, z).unflatten(0, (steps, batch))
        elif detach:
            # Without a gradient through the fed-back frames only making them is sequential; the
            # pass that is differentiated is then one batch, as with teacher forcing.
            with torch.no_grad():
                made = self._free_running(first, label_features, z, steps, frame_noise)
            # Up to PyTorch 2.8 at least, autocast would use weights that it cast without a graph
            # again in the pass below, and they would get no gradient.
            torch.clear_autocast_cache()
            previous = first
            if steps > 1:
                noise_after = None if frame_noise is None else frame_noise[1:]
                fed_back = with_noise(torch.stack(made[:-1]), noise_after)  # (T-2, B, 3, H, W)
                features = self.frame_transformation(fed_back.flatten(0, 1))
                previous = torch.cat((first, features))  # ((T-1)·B, F, H, W)
            prediction = self.decode(previous, label_features, z).unflatten(0, (steps, batch))
        else:
            made = self._free_running(first, label_features, z, steps, frame_noise)
            prediction = torch.stack(made)  # (T-1, B, 3, H, W)
        return ClipOutput(prediction, frame_mse(prediction, frames[1:]), kl)

    def _free_running(
        self,
        feature: Tensor,
        label_features: Tensor,
        z: Tensor,
        steps: int,
        frame_noise: Tensor | None,
    ) -> list[Tensor]:
        """Frames 1 … T-1, each from the one before: T-1 times (B, 3, H, W), unbounded.

        feature: of frame 0, (B, F, H, W); label_features, z: of steps 1 … T-1, ((T-1)·B, …).
        """
        batch = feature.shape[0]
        label_t, z_t = label_features.split(batch), z.split(batch)
        made: list[Tensor] = []
        for t in range(steps):
            made.append(self.decode(feature, label_t[t], z_t[t]))  # (B, 3, H, W)
            if t + 1 < steps:
                noise = None if frame_noise is None else frame_noise[t + 1]
                feature = self.frame_transformation(with_noise(made[-1], noise))  # (B, F, H, W)
        return made

    def _forward_in_parts(
        self,
        frames: Tensor,
        labels: Tensor,
        noise: Tensor,
        teacher_forcing: bool,
        detach: bool,
        frame_noise: Tensor | None,
    ) -> ClipOutput:
        """forward() part by part along time, keeping of each part only what it began with.

        The backward pass makes each part's intermediate values again (Chen et al. 2016, "Training
        Deep Nets with Sublinear Memory Cost"), so that memory holds those of one part at a time: of
        one step in free running, and with teacher forcing, where steps do not wait for each other,
        of as many as make an efficient batch. What grows with T is the images, the latents and the
        first layers of the label encoder, whose batch-norm statistics are the whole clip's.
        """
        steps, batch = frames.shape[0] - 1, frames.shape[1]
        pad, convolution, norm, *rest = self.label_transformation
        hidden = norm(convolution(pad(labels[1:].flatten(0, 1)))).unflatten(0, (steps, batch))

        def part(previous: Tensor, target: Tensor, hidden: Tensor, noise: Tensor) -> ClipOutput:
            # (t, B, …) each: the frames t-1 to start from, frames t, what becomes of labels t, ε
            count = previous.shape[0]
            label_feature = nn.Sequential(*rest)(hidden.flatten(0, 1))  # (t·B, L, H, W)
            both = torch.cat((previous, target)).flatten(0, 1)
            previous_feature, target_feature = self.frame_transformation(both).chunk(2)
            mu, logvar = self.Gaussian_Predictor.moments(target_feature, label_feature)
            z = self.Gaussian_Predictor.reparameterize(mu, logvar, noise.flatten(0, 1))
            made = self.decode(previous_feature, label_feature, z).unflatten(0, (count, batch))
            kl = kl_to_standard_normal(mu, logvar).unflatten(0, (count, batch))
            return ClipOutput(made, frame_mse(made, target), kl)

        at_once = max(1, RECOMPUTE_FRAMES // batch) if teacher_forcing else 1
        parts: list[ClipOutput] = []
        previous = frames[:1]
        for start in range(0, steps, at_once):
            stop = min(start + at_once, steps)
            if teacher_forcing:
                previous = frames[start:stop]
            if frame_noise is not None:
                previous = with_noise(previous, frame_noise[start:stop])
            inputs = previous, frames[start + 1 : stop + 1], hidden[start:stop], noise[start:stop]
            # Nothing random happens inside: no random state needs to be kept.
            out = checkpoint(part, *inputs, use_reentrant=False, preserve_rng_state=False)
            parts.append(out)
            if not teacher_forcing:
                previous = (out.prediction.detach() if detach else out.prediction).clamp(0.0, 1.0)
        return ClipOutput(*(torch.cat(values) for values in zip(*parts, strict=True)))

    @torch.no_grad()
    def rollout(
        self,
        first_frame: Tensor,
        labels: Tensor,
        latents: Iterator[Tensor],
        *,
        graph: bool = False,
    ) -> Iterator[Tensor]:
        """Free-running frames 1 … T-1 from the decoder path alone: no true frame but the first.

        first_frame: (B, 3, H, W) in [0, 1]; labels: (T, B, 3, H, W) uint8 or in [0, 1];
        latents: one (B, N, H, W) for each step. Yields (B, 3, H, W) in [0, 1] per step: predictions
        are clamped both as fed back and as returned. The network must be in evaluation mode.
        graph: run the step as a CUDA graph; RuntimeError where that cannot be.
        """
        if self.training:
            raise RuntimeError("rollout needs evaluation mode: call eval() first")
        step = _GraphedStep(self._rollout_step) if graph else self._rollout_step
        frame = first_frame
        for start in range(1, labels.shape[0], LABEL_CHUNK):
            chunk = labels[start : start + LABEL_CHUNK]  # (≤ 32, B, 3, H, W)
            if chunk.dtype == torch.uint8:
                chunk = chunk.float() / 255.0
            features = self.label_transformation(chunk.flatten(0, 1)).split(chunk.shape[1])
            # One transfer for all of the chunk's latents.
            zs = torch.stack([next(latents) for _ in features]).to(frame.device, non_blocking=True)
            for label_feature, z in zip(features, zs, strict=True):  # (B, L, H, W), (B, N, H, W)
                frame = step(frame, label_feature, z)  # (B, 3, H, W)
                yield frame

    def _rollout_step(self, frame: Tensor, label_feature: Tensor, z: Tensor) -> Tensor:
        """Frame t in [0, 1] from frame t-1, the feature of label t and z_t."""
        feature = self.frame_transformation(frame)  # (B, F, H, W)
        return self.decode(feature, label_feature, z).clamp(0.0, 1.0)  # (B, 3, H, W)


class _GraphedStep:
    """A function of tensors of fixed shapes as a CUDA graph, captured when it is first called."""

    def __init__(self, compute: Callable[..., Tensor]) -> None:
        self.compute = compute
        self.inputs: list[Tensor] = []
        self.output: Tensor | None = None
        self.replay: Callable[[], None] | None = None

    def _run(self) -> None:
        self.output = self.compute(*self.inputs)

    def __call__(self, *values: Tensor) -> Tensor:
        if self.replay is None:
            self.inputs = [value.clone() for value in values]
            self.replay = capture(self._run)
        for static, value in zip(self.inputs, values, strict=True):
            static.copy_(value)
        self.replay()
        assert self.output is not None
        return self.output.clone()  # the next replay writes over it


def with_noise(frames: Tensor, noise: Tensor | None) -> Tensor:
    """Frames as they are forced or fed back: in [0, 1], with noise of the same shape or none."""
    return (frames if noise is None else frames + noise).clamp(0.0, 1.0)


def prior_latents(
    config: ModelConfig, seed: int, sequences: list[int], scale: float = 1.0
) -> Iterator[Tensor]:
    """Endless latents from N(0, I), times `scale`: (B, N, H, W) for each step, on the CPU.

    Each sequence has a generator of its own, seeded by (seed, sequence number), so its latents do
    not depend on the device, the batch or the order in which sequences are made.
    """
    shape = (config.N_dim, config.frame_H, config.frame_W)
    generators = [
        torch.Generator().manual_seed(derived_seed(seed, STREAM_ROLLOUT, number))
        for number in sequences
    ]
    while True:
        yield scale * torch.stack([torch.randn(shape, generator=g) for g in generators])
