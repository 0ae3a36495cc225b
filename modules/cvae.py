"""The conditional VAE: its networks wired into a training pass and a rollout.

Shapes: T time, B batch, C channels, H, W. Clips are time-major, (T, B, 3, H, W), so that one step,
or all steps after the first, are a contiguous slice that flattens into one batch.
F, L, N, D are the channel counts F_dim, L_dim, N_dim, D_out_dim.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from modules.losses import frame_mse, kl_between, kl_to_standard_normal
from modules.networks import (
    Decoder_Fusion,
    Gaussian_Predictor,
    Generator,
    Label_Encoder,
    RGB_Encoder,
)
from modules.runtime.errors import UserError
from modules.runtime.graphs import _GraphedStep
from modules.seeds import STREAM_ROLLOUT, derived_seed
from modules.sequences import to_unit

# Labels encoded at once in a rollout: enough for one efficient batch, little memory.
LABEL_CHUNK = 32
PRIORS = ("standard", "learned")
OUTPUTS = ("linear", "clamp", "sigmoid")
# Frames, of all clips together, whose intermediate values are kept at once when they are recomputed
# with teacher forcing.
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
    prior: str = "standard"  # N(0, I); or learned: a network of the previous frame and the label
    output: str = "linear"  # of the generator: as it is, or bounded to [0, 1] in one of two ways

    def check(self) -> None:
        """Raise UserError for dimensions that the networks cannot be built with."""
        # The networks halve these up to three times, rounding down.
        least = {"F_dim": 8, "L_dim": 2, "N_dim": 4, "D_out_dim": 8, "frame_H": 4, "frame_W": 4}
        for name, bound in least.items():
            if type(getattr(self, name)) is not int:  # from a checkpoint it may be anything
                raise UserError(f"{name} {getattr(self, name)!r:.40}: must be a whole number")
            if getattr(self, name) < bound:
                raise UserError(f"--{name} {getattr(self, name)}: must be at least {bound}")
        for name, choices in (("prior", PRIORS), ("output", OUTPUTS)):
            if getattr(self, name) not in choices:
                raise UserError(f"{name} {getattr(self, name)!r:.40}: is none of {choices}")

    def to_dict(self) -> dict[str, int | str]:
        """Plain values for the checkpoint."""
        return asdict(self)


class ClipOutput(NamedTuple):
    """What a training pass over clips gives, for the T-1 predicted frames."""

    prediction: Tensor  # (T-1, B, 3, H, W), unbounded unless the model's output is bounded
    mse: Tensor  # (T-1, B) mean-square error per pixel
    kl: Tensor  # (T-1, B) nats, summed over the latent's dimensions
    mu: Tensor  # (T-1, B, N, H, W) mean of the posterior


class Feeding(NamedTuple):
    """What the T-1 steps are begun from in training, besides the model's own frames."""

    given: Tensor  # (T-1, B, 3, H, W) in [0, 1]: true frames, or stored ones
    forced: (
        Tensor | None
    )  # (T-1, B) booleans: which steps begin from a given frame; None: only step 1
    noise: Tensor | None  # (T-1, B, 3, H, W), added to whatever a step begins from

    def at(self, steps: int | slice) -> Tensor:
        """The given frames of one step, (B, 3, H, W), or of several, with their noise."""
        return with_noise(self.given[steps], None if self.noise is None else self.noise[steps])

    def after(self, made: Tensor, step: int) -> Tensor:
        """What a step after the first begins from in free running: (B, 3, H, W) in [0, 1].

        The frame that was just made, or where the clip is forced in this step the given one; with
        noise.
        """
        if self.forced is not None:
            made = torch.where(self.forced[step][:, None, None, None], self.given[step], made)
        return with_noise(made, None if self.noise is None else self.noise[step])


class CVAE(nn.Module):
    """p(x_t | x_{t-1}, P_t, z_t), the posterior q(z_t | x_t, P_t) and the prior p(z_t).

    The prior is N(0, I), or with config.prior "learned" a sixth network's p(z_t | x_{t-1}, P_t) as
    in Denton & Fergus 2018, "Stochastic Video Generation with a Learned Prior".
    """

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
        # The same network as the posterior's; it sees frame t-1 in the place of frame t.
        self.Prior_Predictor = (
            Gaussian_Predictor(f + config.L_dim, latent) if config.prior == "learned" else None
        )

    def decode(self, frame_feature: Tensor, label_feature: Tensor, z: Tensor) -> Tensor:
        """Frame t from the features of frame t-1 and label t and the latent; (B, 3, H, W) float32.

        (B, F, H, W), (B, L, H, W), (B, N, H, W) → unbounded, unless config.output bounds it;
        callers clamp what they show or feed.
        """
        made = self.Generator(self.Decoder_Fusion(frame_feature, label_feature, z)).float()
        if self.config.output == "sigmoid":
            return made.sigmoid()
        return made.clamp(0.0, 1.0) if self.config.output == "clamp" else made

    def kl(self, mu: Tensor, logvar: Tensor, previous: Tensor, label_feature: Tensor) -> Tensor:
        """KL(q ‖ p) in nats of posteriors with these moments: (B, N, H, W) twice → (B,).

        previous, label_feature: what a learned prior sees, (B, F, H, W) and (B, L, H, W).
        """
        if self.Prior_Predictor is None:
            return kl_to_standard_normal(mu, logvar)
        return kl_between(mu, logvar, *self.Prior_Predictor.moments(previous, label_feature))

    def forward(
        self,
        frames: Tensor,
        labels: Tensor,
        noise: Tensor,
        *,
        teacher_forcing: bool,
        detach: bool = False,
        forced: Tensor | None = None,
        stored: Tensor | None = None,
        frame_noise: Tensor | None = None,
        recompute: bool = False,
    ) -> ClipOutput:
        """All frames of the clips, for training.

        frames, labels: (T, B, 3, H, W) in [0, 1]; noise: ε, (T-1, B, N, H, W) from N(0, I).
        Frame t is made from frame t-1 (the true one, or the model's own, clamped to [0, 1] as at
        validation), label t and z_t from the posterior, which sees the true frame t and label t.
        Frame 0 is given and never a target. The target is the true frame t either way.
        detach: free running treats the fed-back frames as given, with no gradient through them.
        forced: (T-1, B) booleans instead of teacher_forcing, one for each step: whether it begins
        from a true frame (scheduled sampling, Bengio et al. 2015). Step 1 always does.
        stored: (T-1, B, 3, H, W) stand in for the true frames 0 … T-2 as what others are made from:
        the model's own, of an earlier rollout (see modules/rollouts.py).
        frame_noise: (T-1, B, 3, H, W) is added to the frames that others are made from, forced or
        fed back, so that teacher forcing too learns to mend what its own errors will look like
        (noise augmentation, as in Valevski et al. 2024, "Diffusion Models Are Real-Time Game
        Engines", section 3.2.1).
        recompute: the same values with less memory, see _forward_in_parts.
        """
        given = frames[:-1] if stored is None else stored  # (T-1, B, 3, H, W)
        if forced is not None:
            teacher_forcing = False
        feeding = Feeding(given, forced, frame_noise)
        # Each true frame is then both what the next one is made from and a target.
        reused = teacher_forcing and stored is None and frame_noise is None
        if recompute:
            return self._forward_in_parts(
                frames, labels, noise, feeding, reused, teacher_forcing, detach
            )
        steps, batch = frames.shape[0] - 1, frames.shape[1]
        # One batch for all true frames and one for all labels: only free-running decoding is
        # sequential. Frame 0 is among them only where it is needed as it is.
        seen = frames if reused else frames[1:]
        frame_features = self.frame_transformation(seen.flatten(0, 1))  # (T·B or (T-1)·B, F, H, W)
        label_features = self.label_transformation(labels[1:].flatten(0, 1))  # ((T-1)·B, L, H, W)
        mu, logvar = self.Gaussian_Predictor.moments(
            frame_features[-steps * batch :], label_features
        )  # 2 × ((T-1)·B, N, H, W)
        z = self.Gaussian_Predictor.reparameterize(mu, logvar, noise.flatten(0, 1))

        if not (teacher_forcing or detach):
            made, previous = self._free_running(feeding, label_features, z, steps)
            prediction = torch.stack(made).flatten(0, 1)  # ((T-1)·B, 3, H, W)
        else:
            if reused:
                previous = frame_features[: steps * batch]  # ((T-1)·B, F, H, W)
            else:
                if teacher_forcing:
                    begin = feeding.at(slice(None))  # (T-1, B, 3, H, W)
                else:
                    # Without a gradient through the fed-back frames only making them is
                    # sequential; the pass that is differentiated is then one batch.
                    with torch.no_grad():
                        begin = self._fed_back(feeding, label_features, z, steps)
                    # Up to PyTorch 2.8 at least, autocast would use weights that it cast without a
                    # graph again in the pass below, and they would get no gradient.
                    torch.clear_autocast_cache()
                previous = self.frame_transformation(begin.flatten(0, 1))  # ((T-1)·B, F, H, W)
            prediction = self.decode(previous, label_features, z)  # ((T-1)·B, 3, H, W)
        kl = self.kl(mu, logvar, previous, label_features)  # ((T-1)·B,)
        prediction, kl, mu = (x.unflatten(0, (steps, batch)) for x in (prediction, kl, mu))
        return ClipOutput(prediction, frame_mse(prediction, frames[1:]), kl, mu)

    def _fed_back(self, feeding: Feeding, label_features: Tensor, z: Tensor, steps: int) -> Tensor:
        """The frames that the steps begin from in free running: (T-1, B, 3, H, W) in [0, 1].

        label_features, z: of steps 1 … T-1, ((T-1)·B, …).
        """
        batch = feeding.given.shape[1]
        label_t, z_t = label_features.split(batch), z.split(batch)
        begin = [feeding.at(0)]
        for t in range(steps - 1):
            made = self.decode(self.frame_transformation(begin[-1]), label_t[t], z_t[t])
            begin.append(feeding.after(made, t + 1))
        return torch.stack(begin)

    def _free_running(
        self, feeding: Feeding, label_features: Tensor, z: Tensor, steps: int
    ) -> tuple[list[Tensor], Tensor]:
        """Frames 1 … T-1, each from the one before, with gradients through all of them.

        label_features, z: of steps 1 … T-1, ((T-1)·B, …). Returns T-1 times (B, 3, H, W), and the
        features that they were made from, ((T-1)·B, F, H, W).
        """
        batch = feeding.given.shape[1]
        label_t, z_t = label_features.split(batch), z.split(batch)
        begin = feeding.at(0)
        made: list[Tensor] = []
        features: list[Tensor] = []
        for t in range(steps):
            features.append(self.frame_transformation(begin))  # (B, F, H, W)
            made.append(self.decode(features[-1], label_t[t], z_t[t]))  # (B, 3, H, W)
            if t + 1 < steps:
                begin = feeding.after(made[-1], t + 1)  # (B, 3, H, W)
        return made, torch.cat(features)

    def _forward_in_parts(
        self,
        frames: Tensor,
        labels: Tensor,
        noise: Tensor,
        feeding: Feeding,
        reused: bool,
        teacher_forcing: bool,
        detach: bool,
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

        def part(seen: Tensor, hidden: Tensor, noise: Tensor) -> ClipOutput:
            # hidden, noise: of steps t, (t, B, …); seen: the frames t-1 to start from, then the
            # frames t that are not among those
            count = hidden.shape[0]
            label_feature = nn.Sequential(*rest)(hidden.flatten(0, 1))  # (t·B, L, H, W)
            features = self.frame_transformation(seen.flatten(0, 1))
            previous_feature = features[: count * batch]  # (t·B, F, H, W)
            target_feature = features[-count * batch :]
            mu, logvar = self.Gaussian_Predictor.moments(target_feature, label_feature)
            z = self.Gaussian_Predictor.reparameterize(mu, logvar, noise.flatten(0, 1))
            made = self.decode(previous_feature, label_feature, z)
            kl = self.kl(mu, logvar, previous_feature, label_feature)
            made, kl, mu = (x.unflatten(0, (count, batch)) for x in (made, kl, mu))
            return ClipOutput(made, frame_mse(made, seen[-count:]), kl, mu)

        at_once = max(1, RECOMPUTE_FRAMES // batch) if teacher_forcing else 1
        parts: list[ClipOutput] = []
        previous = feeding.at(slice(1))
        for start in range(0, steps, at_once):
            stop = min(start + at_once, steps)
            if teacher_forcing:
                previous = feeding.at(slice(start, stop))
            target = frames[start + 1 : stop + 1]
            seen = frames[start : stop + 1] if reused else torch.cat((previous, target))
            inputs = seen, hidden[start:stop], noise[start:stop]
            # Nothing random happens inside: no random state needs to be kept.
            out = checkpoint(part, *inputs, use_reentrant=False, preserve_rng_state=False)
            parts.append(out)
            if not teacher_forcing and stop < steps:
                made = (out.prediction.detach() if detach else out.prediction)[0]
                previous = feeding.after(made, stop)[None]
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
        latents: ε, one (B, N, H, W) for each step, from N(0, I) times the latent's scale: a learned
        prior makes z of it, μ + σ·ε. Yields (B, 3, H, W) in [0, 1] per step: predictions
        are clamped both as fed back and as returned. The network must be in evaluation mode.
        graph: run the step as a CUDA graph; RuntimeError where that cannot be.
        """
        if self.training:
            raise RuntimeError("rollout needs evaluation mode: call eval() first")
        step = _GraphedStep(self._rollout_step) if graph else self._rollout_step
        frame = first_frame
        for start in range(1, labels.shape[0], LABEL_CHUNK):
            chunk = labels[start : start + LABEL_CHUNK]  # (≤ 32, B, 3, H, W)
            steps = len(chunk)
            # Always as many labels, so that kernels do not change with the video's length.
            chunk = torch.cat((chunk, chunk[-1:].expand(LABEL_CHUNK - steps, -1, -1, -1, -1)))
            if chunk.dtype == torch.uint8:
                chunk = to_unit(chunk)
            features = self.label_transformation(chunk.flatten(0, 1)).split(chunk.shape[1])[:steps]
            # One transfer for all of the chunk's latents.
            zs = torch.stack([next(latents) for _ in features]).to(frame.device, non_blocking=True)
            for label_feature, z in zip(features, zs, strict=True):  # (B, L, H, W), (B, N, H, W)
                frame = step(frame, label_feature, z)  # (B, 3, H, W)
                yield frame

    def _rollout_step(self, frame: Tensor, label_feature: Tensor, epsilon: Tensor) -> Tensor:
        """Frame t in [0, 1] from frame t-1, the feature of label t and ε_t."""
        feature = self.frame_transformation(frame)  # (B, F, H, W)
        z = epsilon
        if self.Prior_Predictor is not None:
            mu, logvar = self.Prior_Predictor.moments(feature, label_feature)
            z = self.Prior_Predictor.reparameterize(mu, logvar, epsilon)
        return self.decode(feature, label_feature, z).clamp(0.0, 1.0)  # (B, 3, H, W)


def with_noise(frames: Tensor, noise: Tensor | None) -> Tensor:
    """Frames as they are forced or fed back: in [0, 1], with noise of the same shape or none."""
    clamped = frames.clamp(0.0, 1.0)
    return clamped if noise is None else (clamped + noise).clamp(0.0, 1.0)


def prior_latents(
    config: ModelConfig, seed: int, sequences: list[int], scale: float = 1.0
) -> Iterator[Tensor]:
    """Endless ε from N(0, I), times `scale`: (B, N, H, W) for each step, on the CPU.

    They are the latents themselves where the prior is the standard one.

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
