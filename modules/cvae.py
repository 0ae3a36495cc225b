"""The conditional VAE: its networks wired into a training pass and a rollout.

Shapes: T time, B batch, C channels, H, W. Clips are time-major, (T, B, 3, H, W), so that one step,
or all steps after the first, are a contiguous slice that flattens into one batch.
F, L, N, D are the channel counts F_dim, L_dim, N_dim, D_out_dim.

A folded model sees fold × fold pixels as one of fold² as many channels: forward() and rollout()
fold what they get and unfold what they give, and everything between has C = 3·fold² and the folded
H and W (sub-pixel convolution, Shi et al. 2016, "Real-Time Single Image and Video Super-Resolution
Using an Efficient Sub-Pixel Convolutional Neural Network"). Its networks are the same, for 1/fold²
of the pixels.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from modules.data import STREAM_ROLLOUT, Previous, derived_seed, to_unit
from modules.losses import frame_mse, kl_between, kl_to_standard_normal
from modules.networks import (
    Background_Mask,
    Decoder_Fusion,
    Gaussian_Predictor,
    Generator,
    Label_Encoder,
    Reference_Fusion,
    RGB_Encoder,
    bounded,
    copy_colours,
    fold_pixels,
    unfold_pixels,
)
from modules.runtime.errors import UserError
from modules.runtime.graphs import Graphed
from modules.runtime.weight_gradients import SharedWeights

# Labels encoded at once in a rollout: enough for one efficient batch, little memory.
LABEL_CHUNK = 32
COLOURS = 3
PRIORS, REFERENCES = ("standard", "learned"), ("none", "first")
OUTPUTS, FOLDS = ("linear", "sigmoid"), (1, 2, 4, 8)
# Networks beyond the five; a checkpoint of the five alone loads into a model with them.
OPTIONAL_PARTS = ("Prior_Predictor", "Reference_Fusion", "Background_Mask")
# Frames, of all clips together, whose activations are recomputed at once.
RECOMPUTE_FRAMES = 16
# Frames, of all clips together, that a layer's weight gradient is taken of at once in free running:
# the more, the fewer kernels and the more memory. A CPU loses in gathering what it gains.
WEIGHT_FRAMES = {"cuda": 80}


@dataclass(frozen=True)
class ModelConfig:
    """What is needed to build the model; stored with its weights."""

    F_dim: int = 128
    L_dim: int = 32
    N_dim: int = 12
    D_out_dim: int = 192
    frame_H: int = 32
    frame_W: int = 64
    prior: str = "standard"  # N(0, I); or learned: a network of the previous frame and the label
    output: str = "linear"  # of the generator; or sigmoid
    reference: str = "none"  # or first: every frame also sees the video's first one, clean
    fold: int = 1  # pixels on a side that the networks see as one

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(N, H, W) of a latent."""
        return self.N_dim, self.frame_H // self.fold, self.frame_W // self.fold

    @property
    def colours(self) -> int:
        """Channels of a frame as the networks see it."""
        return COLOURS * self.fold**2

    def check(self) -> None:
        """Raise UserError for dimensions that the networks cannot be built with."""
        # The networks halve these up to three times, rounding down.
        least = {"F_dim": 8, "L_dim": 2, "N_dim": 4, "D_out_dim": 8, "frame_H": 4, "frame_W": 4}
        for name, bound in least.items():
            if type(getattr(self, name)) is not int:  # from a checkpoint it may be anything
                raise UserError(f"{name} {getattr(self, name)!r:.40}: must be a whole number")
            if getattr(self, name) < bound:
                raise UserError(f"--{name} {getattr(self, name)}: must be at least {bound}")
        choices_of: dict[str, tuple[object, ...]] = {
            "prior": PRIORS,
            "output": OUTPUTS,
            "reference": REFERENCES,
            "fold": FOLDS,
        }
        for name, choices in choices_of.items():
            if getattr(self, name) not in choices:
                raise UserError(f"{name} {getattr(self, name)!r:.40}: is not one of {choices}")
        for name in ("frame_H", "frame_W"):
            size, least_size = getattr(self, name), 4 * self.fold
            if size % self.fold or size < least_size:
                near = {max(least_size, size // self.fold * self.fold + n) for n in (0, self.fold)}
                raise UserError(
                    f"--fold {self.fold}: --{name} must be a multiple of {self.fold} and at least "
                    f"{least_size}, not {size}: {' or '.join(map(str, sorted(near)))}"
                )

    def to_dict(self) -> dict[str, int | str]:
        """Plain values for the checkpoint."""
        return asdict(self)


class ClipOutput(NamedTuple):
    """What a training pass over clips gives, for the T-1 predicted frames."""

    prediction: Tensor  # (T-1, B, 3, H, W), unbounded without output bounds or a reference
    mse: Tensor  # (T-1, B) mean-square error per pixel
    kl: Tensor  # (T-1, B) nats, summed over the latent's dimensions
    mu: Tensor  # (T-1, B, N, H, W) mean of the posterior


class Reference(NamedTuple):
    """A frame of the same recording that the background may be taken from, for each clip."""

    frame: Tensor  # (B, 3, H, W) in [0, 1]
    added: Tensor  # (B, F, H, W) what is added to a previous frame's feature
    label_feature: Tensor  # (B, L, H, W)


class CVAE(nn.Module):
    """p(x_t | x_{t-1}, P_t, z_t), the posterior q(z_t | x_t, P_t) and the prior p(z_t).

    The prior is N(0, I), or with config.prior "learned" a sixth network's p(z_t | x_{t-1}, P_t) as
    in Denton & Fergus 2018, "Stochastic Video Generation with a Learned Prior".
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        config.check()
        self.config = config
        f, latent, colours = config.F_dim, config.N_dim, config.colours
        least = 1 if config.fold == 1 else colours  # channels at the narrow ends
        self.frame_transformation = RGB_Encoder(colours, f, least)
        self.label_transformation = Label_Encoder(colours, config.L_dim)
        self.Gaussian_Predictor = Gaussian_Predictor(f + config.L_dim, latent)
        self.Decoder_Fusion = Decoder_Fusion(f + config.L_dim + latent, config.D_out_dim, least)
        self.Generator = Generator(config.D_out_dim, colours, least)
        # The same network as the posterior's; it sees frame t-1 in the place of frame t.
        self.Prior_Predictor = (
            Gaussian_Predictor(f + config.L_dim, latent) if config.prior == "learned" else None
        )
        referring = config.reference == "first"
        self.Reference_Fusion = Reference_Fusion(f, config.L_dim) if referring else None
        self.Background_Mask = (
            Background_Mask(max(config.D_out_dim // 8, least), config.L_dim, config.fold**2)
            if referring
            else None
        )

    def output_kernels(self) -> list[Tensor]:
        """Weights of the layers that make pixels: of the frame, and of the background's share."""
        mask = self.Background_Mask
        layers = (self.Generator[-1], *(() if mask is None else (mask.share,)))
        return [layer.weight for layer in layers if isinstance(layer, nn.Conv2d)]

    def copy_previous_frame(self) -> None:
        """Initialise fresh weights in place so that a decoded frame is the previous frame.

        Where the narrowest layers have no room for the colours, or a sigmoid would bend them,
        nothing changes.
        """
        narrowest = min(self.config.F_dim, self.config.D_out_dim)
        needed = self.config.colours * (8 if self.config.fold == 1 else 1)
        if narrowest >= needed and self.config.output != "sigmoid":
            copy_colours(self.frame_transformation, self.Decoder_Fusion, self.Generator)

    @torch.no_grad()
    def zero_prior(self) -> None:
        """Make a learned prior N(0, I), whatever it sees."""
        if self.Prior_Predictor is not None:
            output = self.Prior_Predictor[6]
            assert isinstance(output, nn.Conv2d) and output.bias is not None
            output.weight.zero_()
            output.bias.zero_()

    def decode(
        self,
        frame_feature: Tensor,
        label_feature: Tensor,
        z: Tensor,
        *reference: Tensor,
    ) -> Tensor:
        """Frame t from the features of frame t-1 and label t and the latent; (B, 3, H, W) float32.

        (B, F, H, W), (B, L, H, W), (B, N, H, W) → unbounded, unless config.output bounds it;
        callers clamp what they show or feed. With a Reference the frame, clamped, is composited
        over it, as in Lee et al. 2018, "Stochastic Adversarial Video Prediction", section 3.3, and
        Wang et al. 2018, "Video-to-Video Synthesis", section 3.2.
        """
        if not reference:
            return self._activated(
                self.Generator(self.Decoder_Fusion(frame_feature, label_feature, z))
            )
        assert self.Background_Mask is not None
        behind = Reference(*reference)
        fused = self.Decoder_Fusion(frame_feature + behind.added, label_feature, z)
        last = self.Generator.last_features(fused)  # (B, D/8, H, W)
        # Bounded, so that one clip cannot be all of an epoch's loss.
        raw = bounded(self._activated(self.Generator[-1](last)), -1.0, 2.0)  # (B, 3, H, W)
        made = raw.clamp(0.0, 1.0)
        share = self.Background_Mask(
            last, made, behind.frame, label_feature, behind.label_feature
        )  # (B, fold², H, W)
        share = share.repeat(1, COLOURS, 1, 1) if self.config.fold > 1 else share
        composited = made + share * (behind.frame - made)
        # In training what is out of [0, 1] is an error, behind the reference too. With nothing to
        # hold it back it grows, in long runs to 1e8 and more, and its gradient ruins all weights.
        return composited + (raw - made) if self.training else composited

    def _activated(self, raw: Tensor) -> Tensor:
        """The generator's frame after its output activation, float32."""
        return raw.float().sigmoid() if self.config.output == "sigmoid" else raw.float()

    def _referred(self, frame: Tensor, label: Tensor) -> Reference:
        """frame, and its label: (B, 3, H, W) in [0, 1] twice."""
        assert self.Reference_Fusion is not None
        label_feature = self.label_transformation(label)  # (B, L, H, W)
        added = self.Reference_Fusion(self.frame_transformation(frame), label_feature)
        return Reference(frame, added, label_feature)

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
        epsilon: Tensor,
        previous: Previous,
        *,
        sequential: bool,
        recompute: bool = False,
        reference: tuple[Tensor, Tensor] | None = None,
    ) -> ClipOutput:
        """All frames of the clips, for training.

        frames, labels: (T, B, 3, H, W) in [0, 1]; epsilon: ε, (T-1, B, N, H, W) from N(0, I).
        Frame t is made from what `previous` says (a given frame, or the model's own frame t-1,
        clamped to [0, 1] as at validation; with a reference it still has what decode() adds in
        training), label t and z_t from the posterior, which sees the true frame t and label t.
        Frame 0 is given and never a target. The target is always the true frame t.
        sequential: some steps start from the model's own frames, so they are made one by one; else
        all are one batch, and previous.given is ignored.
        recompute: the same values with less memory: the backward pass computes the activations of
        encoders and decoder again, for a few frames at a time (Chen et al. 2016, "Training Deep
        Nets with Sublinear Memory Cost").
        reference: with config.reference, a frame of each clip's recording that is not a target, and
        its label, (B, 3, H, W) in [0, 1] twice.
        """
        fold = self.config.fold
        frames, labels = fold_pixels(frames, fold), fold_pixels(labels, fold)
        previous = previous.map(partial(fold_pixels, fold=fold))
        steps, batch = frames.shape[0] - 1, frames.shape[1]
        run = recomputed if recompute else computed
        encode, decode = partial(run, self.frame_transformation), partial(run, self.decode)
        # With clean teacher forcing each true frame is what the next is made from and a target.
        encode_once = not sequential and previous.true and previous.noise is None
        seen = frames if encode_once else frames[1:]
        features = encode(seen.flatten(0, 1))  # (T·B or S, F, H, W)
        label_features = run(self.label_transformation, labels[1:].flatten(0, 1))  # (S, L, …)
        referred: tuple[Tensor, ...] = ()
        if reference is not None:
            referred = self._referred(*(fold_pixels(x, fold) for x in reference))
        mu, logvar = self.Gaussian_Predictor.moments(features[-steps * batch :], label_features)
        z = self.Gaussian_Predictor.reparameterize(mu, logvar, epsilon.flatten(0, 1))  # (S, N, …)
        if sequential:
            with nullcontext() if recompute else shared_weights(frames):
                start, made = self._unroll(previous, label_features, z, referred, encode, decode)
        else:
            given = features[: steps * batch]
            start = given if encode_once else encode(previous.all().flatten(0, 1))  # (S, F, H, W)
            behind = (x.repeat(steps, 1, 1, 1) for x in referred)
            made = decode(start, label_features, z, *behind)  # (S, 3, H, W)
        kl = self.kl(mu, logvar, start, label_features)  # (S,)
        made, kl, mu = (x.unflatten(0, (steps, batch)) for x in (made, kl, mu))
        return ClipOutput(unfold_pixels(made, fold), frame_mse(made, frames[1:]), kl, mu)

    def _unroll(
        self,
        previous: Previous,
        label_features: Tensor,
        z: Tensor,
        referred: tuple[Tensor, ...],
        encode: Callable[..., Tensor],
        decode: Callable[..., Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Frames 1 … T-1, each from the one before, with gradients through all of them.

        Returns the features that the steps start from, (S, F, H, W), and the frames, (S, 3, H, W).
        """
        batch = previous.frames.shape[1]
        label_t, z_t = label_features.split(batch), z.split(batch)  # T-1 times (B, …)
        frame = previous.first()
        features: list[Tensor] = []
        made: list[Tensor] = []
        for t in range(len(z_t)):
            features.append(encode(frame))  # (B, F, H, W)
            made.append(decode(features[t], label_t[t], z_t[t], *referred))
            if t + 1 < len(z_t):
                frame = previous.after(made[t], t + 1)  # (B, 3, H, W)
        return torch.cat(features), torch.cat(made)

    @torch.no_grad()
    def rollout(
        self,
        first_frame: Tensor,
        labels: Tensor,
        latents: Iterator[Tensor],
        *,
        reference: tuple[Tensor, Tensor] | None = None,
        graph: Graphed | None = None,
    ) -> Iterator[Tensor]:
        """Free-running frames 1 … T-1 from the decoder path alone: no true frame but the first.

        first_frame: (B, 3, H, W) in [0, 1]; labels: (T, B, 3, H, W) uint8 or in [0, 1];
        latents: ε, one (B, N, H, W) for each step, from N(0, I) times the latent's scale: a learned
        prior makes z of it, μ + σ·ε. Yields (B, 3, H, W) in [0, 1] per step: predictions
        are clamped both as fed back and as returned. The network must be in evaluation mode.
        reference: with config.reference, the frame in [0, 1] and the label that the background
        comes from, (B, 3, H, W) twice; None: the first of each.
        graph: rollout_graph(), for rollouts of one batch size within one autocast context: the step
        runs as a CUDA graph.
        """
        if self.training:
            raise RuntimeError("rollout needs evaluation mode: call eval() first")
        fold = self.config.fold
        referred: tuple[Tensor, ...] = ()
        if self.Reference_Fusion is not None:
            behind, label = reference or (first_frame, labels[0])
            label = to_unit(label) if label.dtype == torch.uint8 else label
            referred = self._referred(fold_pixels(behind, fold), fold_pixels(label, fold))
        first_frame, labels = fold_pixels(first_frame, fold), fold_pixels(labels, fold)
        step: Callable[..., Tensor] = graph or self._rollout_step
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
            zs = torch.stack([next(latents) for _ in features])
            # A copy to an Apple GPU that is not waited for reads memory that is given back
            # meanwhile (PyTorch's issue 189690).
            zs = zs.to(frame.device, non_blocking=frame.is_cuda)
            for label_feature, z in zip(features, zs, strict=True):  # (B, L, H, W), (B, N, H, W)
                frame = step(frame, label_feature, z, *referred)  # (B, C, H, W)
                yield unfold_pixels(frame, fold)

    def rollout_graph(self) -> Graphed:
        """The step of rollouts as a CUDA graph, captured when it is first used."""
        return Graphed(self._rollout_step)

    def _rollout_step(
        self, frame: Tensor, label_feature: Tensor, epsilon: Tensor, *referred: Tensor
    ) -> Tensor:
        """Frame t in [0, 1] from frame t-1, the feature of label t, ε_t and a Reference, if any."""
        feature = self.frame_transformation(frame)  # (B, F, H, W)
        z = epsilon
        if self.Prior_Predictor is not None:
            mu, logvar = self.Prior_Predictor.moments(feature, label_feature)
            z = self.Prior_Predictor.reparameterize(mu, logvar, epsilon)
        return self.decode(feature, label_feature, z, *referred).clamp(0.0, 1.0)  # (B, 3, H, W)


def computed(function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """function(*inputs)."""
    return function(*inputs)


def recomputed(function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """The same, keeping for the backward pass only the inputs: it computes part by part again."""
    parts = zip(*(x.split(RECOMPUTE_FRAMES) for x in inputs), strict=True)
    # Nothing random happens inside: no random state needs to be kept.
    kept = partial(checkpoint, function, use_reentrant=False, preserve_rng_state=False)
    return torch.cat([kept(*part) for part in parts])


def shared_weights(frames: Tensor) -> AbstractContextManager[object]:
    """The context in which clips like these, (T, B, 3, H, W), are made step by step."""
    at_once = WEIGHT_FRAMES.get(frames.device.type, 0)
    return SharedWeights(max(1, at_once // frames.shape[1])) if at_once else nullcontext()


def prior_latents(
    config: ModelConfig, seed: int, sequences: list[int], scale: float = 1.0
) -> Iterator[Tensor]:
    """Endless ε from N(0, I), times `scale`: (B, N, H, W) for each step, on the CPU.

    They are the latents themselves where the prior is the standard one.

    Each sequence has a generator of its own, seeded by (seed, sequence number), so its latents do
    not depend on the device, the batch or the order in which sequences are made.
    """
    shape = config.latent_shape
    generators = [
        torch.Generator().manual_seed(derived_seed(seed, STREAM_ROLLOUT, number))
        for number in sequences
    ]
    while True:
        yield scale * torch.stack([torch.randn(shape, generator=g) for g in generators])
