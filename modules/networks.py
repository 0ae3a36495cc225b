"""The five networks, tensor for tensor as in existing checkpoints. All keep H and W.

Shapes: B batch (or batch x time), F, L, N, D the channel counts F_dim, L_dim, N_dim, D_out_dim.

A folded model (see cvae.py) has the same networks for fewer, larger pixels of C·fold² channels. At
their narrow ends they are then never narrower than such a pixel, `least` channels.

The stand-alone activations of Label_Encoder and Gaussian_Predictor are identities: the code that
wrote existing checkpoints gave them a negative slope of 1.0, and its weights only make sense with
that. They keep their place in the sequence, since the tensors are named by position.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# exp(±) of these stays finite in float32 even summed over every latent value of a large frame,
# and no useful posterior lies outside: a standard deviation of e^-15 … e^10.
LOGVAR_MIN, LOGVAR_MAX = -30.0, 20.0
MEASURED_AT_ONCE = 2**16  # windows of labels, in pixels: memory of some 40 MB
MEASURED = 512  # labels that a folded model measures at least, where there are as many

# ---------------------------------------------------------------- blocks


class _Bounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, low: float, high: float) -> Tensor:
        made = x.clamp(low, high)
        ctx.save_for_backward(x, made)
        return made

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        x, made = ctx.saved_tensors
        outwards = (x - made) * gradient < 0  # where a step down the gradient goes further out
        return torch.where(outwards, 0.0, gradient), None, None


def bounded(x: Tensor, low: float = 0.0, high: float = 1.0) -> Tensor:
    """x clamped to [low, high], of any shape, with its gradient unless that leads further out.

    So what went out of bounds can come back, which a clamp prevents, and nothing drives it on, as a
    straight-through gradient does (Bengio et al. 2013, "Estimating or Propagating Gradients Through
    Stochastic Neurons"): in long runs to where training diverges.
    """
    return _Bounded.apply(x, low, high)


def fold_pixels(x: Tensor, fold: int) -> Tensor:
    """(…, C, H, W) → (…, C·fold², H/fold, W/fold), a colour's pixels row by row; 1: x itself."""
    return x if fold == 1 else F.pixel_unshuffle(x, fold)


def unfold_pixels(x: Tensor, fold: int) -> Tensor:
    """Inverse of fold_pixels."""
    return x if fold == 1 else F.pixel_shuffle(x, fold)


class Residual(nn.Module):
    """conv3 → LeakyReLU → conv3 → LeakyReLU, plus identity (or a 1×1 convolution when i ≠ o)."""

    def __init__(self, in_chans: int, out_chans: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_chans, out_chans, kernel_size=3, padding=1)
        self.conv2 = nn.Conv2d(out_chans, out_chans, kernel_size=3, padding=1)
        self.relu = nn.LeakyReLU(0.01, inplace=True)
        self.skip = nn.Conv2d(in_chans, out_chans, 1) if in_chans != out_chans else None

    def forward(self, x: Tensor) -> Tensor:  # (B, in, H, W)
        out = self.relu(self.conv1(x))  # (B, out, H, W)
        out = self.relu(self.conv2(out))  # (B, out, H, W)
        return out + (x if self.skip is None else self.skip(x))  # (B, out, H, W)


class DepthConv(nn.Module):
    """1×1 → LeakyReLU → depthwise 3×3 → 1×1, plus identity (or a 1×1 adaptor when i ≠ o)."""

    def __init__(self, in_chans: int, out_chans: int) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(
            nn.Conv2d(in_chans, in_chans, 1), nn.LeakyReLU(0.01, inplace=True)
        )
        self.depth_conv = nn.Conv2d(in_chans, in_chans, 3, padding=1, groups=in_chans)
        self.conv2 = nn.Conv2d(in_chans, out_chans, 1)
        self.adaptor = nn.Conv2d(in_chans, out_chans, 1) if in_chans != out_chans else None
        self.contiguous = False

    @torch.no_grad()
    def compute_contiguously(self) -> None:
        """From here on the depthwise convolution is computed in PyTorch's usual memory layout.

        Where its engines for channels-last are missing; the values are the same.
        """
        self.contiguous = True
        weight = self.depth_conv.weight
        # contiguous() would leave it: with one input channel it is both, and counts as the other.
        weight.data = torch.empty(weight.shape, device=weight.device).copy_(weight)

    def forward(self, x: Tensor) -> Tensor:  # (B, in, H, W)
        hidden = self.conv1(x)  # (B, in, H, W)
        if self.contiguous:
            hidden = hidden.contiguous()
        out = self.conv2(self.depth_conv(hidden))  # (B, out, H, W)
        return out + (x if self.adaptor is None else self.adaptor(x))  # (B, out, H, W)


class ConvFFN(nn.Module):
    """Gated feed-forward: 1×1 to 4C in halves a, b; a·LeakyReLU₀.₁(b); 1×1 to C; plus identity."""

    def __init__(self, chans: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(chans, 4 * chans, 1)
        self.conv_out = nn.Conv2d(2 * chans, chans, 1)

    def forward(self, x: Tensor) -> Tensor:  # (B, C, H, W)
        a, b = self.conv(x).chunk(2, dim=1)  # 2 × (B, 2C, H, W)
        return x + self.conv_out(a * F.leaky_relu(b, 0.1))  # (B, C, H, W)


class DepthConvBlock(nn.Module):
    """DepthConv then ConvFFN."""

    def __init__(self, in_chans: int, out_chans: int) -> None:
        super().__init__()
        self.block = nn.Sequential(DepthConv(in_chans, out_chans), ConvFFN(out_chans))

    def forward(self, x: Tensor) -> Tensor:  # (B, in, H, W)
        return self.block(x)  # (B, out, H, W)


# ---------------------------------------------------------------- the five networks


class RGB_Encoder(nn.Sequential):
    """Frame → frame feature: (B, 3, H, W) in [0, 1] → (B, F, H, W). F ≥ 8."""

    def __init__(self, in_chans: int, out_chans: int, least: int = 1) -> None:
        f = out_chans
        eighth, quarter, half = (max(f // n, least) for n in (8, 4, 2))
        super().__init__(
            Residual(in_chans, eighth),
            DepthConvBlock(eighth, eighth),
            Residual(eighth, quarter),
            DepthConvBlock(quarter, quarter),
            Residual(quarter, half),
            DepthConvBlock(half, half),
            nn.Conv2d(half, f, 3, padding=1),
        )


class Label_Encoder(nn.Sequential):
    """Skeleton image → label feature: (B, 3, H, W) in [0, 1] → (B, L, H, W). L ≥ 2; H, W ≥ 4.

    What is normalised is linear in the label, so its mean and variance over all training labels
    follow from those of the numbers under a 7 × 7 window: with μ and Σ their mean and covariance,
    a row w of the weights and its bias b, the mean is w·μ + b and the variance w·Σ·wᵀ. measure()
    takes μ and Σ once; from then on training normalises with these exact statistics of its current
    weights, with a gradient, and settle() makes evaluation do the same. Without measure() the layer
    is an ordinary BatchNorm2d. docs/theory.md says what goes wrong with running averages.
    """

    def __init__(self, in_chans: int, out_chans: int) -> None:
        half = out_chans // 2
        super().__init__(
            nn.ReflectionPad2d(3),
            nn.Conv2d(in_chans, half, kernel_size=7),
            nn.BatchNorm2d(half),
            nn.Identity(),
            Residual(half, out_chans),
        )
        # μ, (147,), and Σ, (147, 147): of the data, not of the model, so no checkpoint has them.
        self.window_mean: Tensor | None
        self.window_covariance: Tensor | None
        self.register_buffer("window_mean", None, persistent=False)
        self.register_buffer("window_covariance", None, persistent=False)

    @property
    def linear(self) -> tuple[Tensor, Tensor]:
        """Weight, (L/2, 3, 7, 7), and bias, (L/2,), of the layer before the normalisation."""
        assert isinstance(self[1], nn.Conv2d)
        assert self[1].bias is not None
        return self[1].weight, self[1].bias

    @property
    def norm(self) -> nn.BatchNorm2d:
        """The normalisation."""
        assert isinstance(self[2], nn.BatchNorm2d)
        return self[2]

    @torch.no_grad()
    def measure(self, labels: Tensor, fold: int = 1) -> None:
        """Take μ and Σ over all windows of the training labels, (N, H, W, 3) uint8.

        fold: of the model. With fold² as many numbers in a window the products are fold⁴ as many,
        so every fold²-th label is measured, of few labels more.
        """
        size = self.linear[0][0].numel()  # numbers under a window
        labels = labels[:: max(1, min(fold**2, len(labels) // MEASURED))]
        # Around the first pixel, nearly always the background: a window without anything else adds
        # nothing, and squares do not cancel. In whole numbers, which TF32 keeps as they are.
        centre = labels[0, 0, 0].float()  # (3,)
        total = torch.zeros(size, dtype=torch.float64)
        square = torch.zeros(size, size, dtype=torch.float64)
        for some in labels.split(max(1, MEASURED_AT_ONCE // labels[0, :, :, 0].numel())):
            padded = self[0](fold_pixels((some.float() - centre).permute(0, 3, 1, 2), fold))
            windows = F.unfold(padded, 7).mT.flatten(0, 1)  # (n·H·W, 147)
            if windows.device.type == "cpu":  # a GPU would wait for their number
                windows = windows[windows.any(dim=1)]
            total += windows.sum(dim=0).cpu()
            square += (windows.mT @ windows).cpu()
        count = labels.shape[:3].numel() / fold**2
        mean = total / count
        covariance = square / count - mean.outer(mean)
        mean += centre.cpu().repeat_interleave(size // len(centre))
        weight, _ = self.linear
        self.window_mean = (mean / 255).to(weight)
        self.window_covariance = (covariance / 255**2).to(weight)

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and variance of what is normalised, (L/2,) twice, over all training labels."""
        assert self.window_mean is not None
        assert self.window_covariance is not None
        weight, bias = self.linear
        rows = weight.flatten(1)  # (L/2, 147)
        mean = rows @ self.window_mean + bias
        return mean, ((rows @ self.window_covariance) * rows).sum(dim=1)

    @torch.no_grad()
    def settle(self) -> None:
        """Write the statistics of the current weights to where evaluation takes them from."""
        self.norm.running_mean, self.norm.running_var = self.statistics()

    def forward(self, label: Tensor) -> Tensor:
        if self.training and self.window_mean is None:
            return super().forward(label)
        # One convolution, in float32: on white the layer's outputs may have a mean of sixty
        # standard deviations, of which bfloat16 keeps the mean alone.
        with torch.autocast(label.device.type, enabled=False):
            norm, (weight, bias) = self.norm, self.linear
            if self.training:
                mean, variance = self.statistics()
            else:
                assert norm.running_mean is not None
                assert norm.running_var is not None
                mean, variance = norm.running_mean, norm.running_var
            scale = norm.weight * torch.rsqrt(variance + norm.eps)  # (L/2,)
            weight = weight * scale[:, None, None, None]
            bias = norm.bias + scale * (bias - mean)
            features = F.conv2d(self[0](label.float()), weight, bias)  # (B, L/2, H, W)
        return self[4](features)  # (B, L, H, W)


class Gaussian_Predictor(nn.Sequential):
    """Posterior q(z | x_t, P_t): features of frame t and label t → z, mu, logvar.

    (B, F, H, W), (B, L, H, W) → three (B, N, H, W), float32. N ≥ 4. in_chans is F + L.
    """

    def __init__(self, in_chans: int, out_chans: int) -> None:
        n = out_chans
        super().__init__(
            Residual(in_chans, n // 4),
            DepthConvBlock(n // 4, n // 4),
            Residual(n // 4, n // 2),
            DepthConvBlock(n // 2, n // 2),
            Residual(n // 2, n),
            nn.Identity(),
            nn.Conv2d(n, 2 * n, 1),
        )

    def moments(self, frame_feature: Tensor, label_feature: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and bounded log variance of q, both (B, N, H, W) float32."""
        features = torch.cat((frame_feature, label_feature), dim=1)  # (B, F+L, H, W)
        # float32 from here on: half precision turns a small KL into -0.0 and overflows in exp.
        mu, logvar = super().forward(features).float().chunk(2, dim=1)  # 2 × (B, N, H, W)
        return mu, logvar.clamp(LOGVAR_MIN, LOGVAR_MAX)

    def reparameterize(self, mu: Tensor, logvar: Tensor, noise: Tensor | None = None) -> Tensor:
        """z = mu + exp(½·logvar)·ε with ε ~ N(0, I), Kingma & Welling 2014, section 2.4.

        noise: ε of mu's shape; drawn from torch's global generator when None.
        """
        return mu + torch.exp(0.5 * logvar) * (torch.randn_like(mu) if noise is None else noise)

    def forward(  # type: ignore[override]
        self, frame_feature: Tensor, label_feature: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        mu, logvar = self.moments(frame_feature, label_feature)
        return self.reparameterize(mu, logvar), mu, logvar


class Decoder_Fusion(nn.Sequential):
    """Features of frame t-1 and label t, latent z_t → fused feature (B, D, H, W).

    in_chans is F + L + N.
    """

    def __init__(self, in_chans: int, out_chans: int, least: int = 1) -> None:
        i, d = in_chans, out_chans
        quarter, half, out = (max(n, least) for n in (i // 4, i // 2, d // 2))
        super().__init__(
            DepthConvBlock(i, i),
            Residual(i, quarter),
            DepthConvBlock(quarter, half),
            Residual(half, half),
            DepthConvBlock(half, out),
            nn.Conv2d(out, d, 1),
        )

    def forward(  # type: ignore[override]
        self, frame_feature: Tensor, label_feature: Tensor, z: Tensor
    ) -> Tensor:
        z = z.to(frame_feature.dtype)
        return super().forward(torch.cat((frame_feature, label_feature, z), dim=1))  # (B, D, H, W)


class Generator(nn.Sequential):
    """Fused feature → frame: (B, D, H, W) → (B, 3, H, W), unbounded. D ≥ 8."""

    def __init__(self, input_nc: int, output_nc: int, least: int = 1) -> None:
        d = input_nc
        half, quarter, eighth = (max(d // n, least) for n in (2, 4, 8))
        super().__init__(
            DepthConvBlock(d, d),
            Residual(d, half),
            DepthConvBlock(half, half),
            Residual(half, quarter),
            DepthConvBlock(quarter, quarter),
            Residual(quarter, eighth),
            DepthConvBlock(eighth, eighth),
            nn.Conv2d(eighth, output_nc, 1),
        )

    def last_features(self, fused: Tensor) -> Tensor:
        """What the last layer sees: (B, D, H, W) → (B, max(D/8, least), H, W)."""
        for layer in list(self)[:-1]:
            fused = layer(fused)
        return fused


# ---------------------------------------------------------------- optional parts of the model


class Reference_Fusion(nn.Conv2d):
    """Features of a reference frame and its label → what is added to a frame's feature.

    (B, F, H, W), (B, L, H, W) → (B, F, H, W). Zero-initialised: at first nothing is added.
    """

    def __init__(self, frame_chans: int, label_chans: int) -> None:
        super().__init__(frame_chans + label_chans, frame_chans, 1)
        for p in self.parameters():
            nn.init.zeros_(p)

    def forward(  # type: ignore[override]
        self, frame_feature: Tensor, label_feature: Tensor
    ) -> Tensor:
        return super().forward(torch.cat((frame_feature, label_feature), dim=1))


class Background_Mask(nn.Module):
    """How much of each pixel is the reference frame's: (B, S, H, W) in [0, 1], float32.

    S is the number of pixels that one stands for, 1 unless the model is folded.

    It sees the generator's last features, the generated and the reference frame, and the features
    of both labels: the background is where neither label has the person. Zero-initialised: at first
    nothing is the reference's.
    """

    def __init__(self, generator_chans: int, label_chans: int, pixels: int = 1) -> None:
        super().__init__()
        self.features = Residual(generator_chans + 6 * pixels + 2 * label_chans, 16)
        self.share = nn.Conv2d(16, pixels, 1)
        for p in self.share.parameters():
            nn.init.zeros_(p)

    def forward(self, *inputs: Tensor) -> Tensor:  # each (B, …, H, W)
        joined = torch.cat([x.to(inputs[0].dtype) for x in inputs], dim=1)
        return bounded(self.share(self.features(joined)).float())  # (B, S, H, W)


# ---------------------------------------------------------------- initialisation

# Initial spread of the output's other inputs, small against the colours.
OUTPUT_SPREAD = 0.02


@torch.no_grad()
def copy_colours(encoder: RGB_Encoder, fusion: Decoder_Fusion, generator: Generator) -> None:
    """Change fresh weights in place so that a decoded frame is the previous frame, not noise.

    Every block has a way around its branches: an identity, or a 1×1 convolution where the number of
    channels changes. The colours travel along these, untouched by the branches; every other channel
    keeps its usual initial weights, of which those of the last layer add a little. What stands
    still in a video, the room, is then there from the first step on. (Le et al. 2015, "A Simple Way
    to Initialize Recurrent Networks of Rectified Linear Units", initialise recurrent networks with
    the identity; Zagoruyko & Komodakis 2017, "DiracNets", convolutions.) Draws from torch's global
    generator.
    """
    output = generator[-1]
    assert isinstance(output, nn.Conv2d)
    colours = output.out_channels
    for layer in (*encoder, *fusion, *generator):
        if isinstance(layer, Residual):
            _zero(layer.conv2, colours)
            _pass_on(layer.skip, colours)
        elif isinstance(layer, DepthConvBlock):
            depth, feed_forward = layer.block
            assert isinstance(depth, DepthConv)
            assert isinstance(feed_forward, ConvFFN)
            _zero(depth.conv2, colours)
            _pass_on(depth.adaptor, colours)
            _zero(feed_forward.conv_out, colours)
        else:
            assert isinstance(layer, nn.Conv2d)
            _pass_on(layer, colours)
    output.weight[:, colours:].normal_(std=OUTPUT_SPREAD)


def _zero(convolution: nn.Conv2d, colours: int) -> None:
    """A branch's last layer adds nothing to the colours."""
    for p in convolution.parameters():
        p[:colours] = 0.0


def _pass_on(convolution: nn.Conv2d | None, colours: int) -> None:
    """The first channels go through as they are; None: an identity does so already."""
    if convolution is not None:
        _zero(convolution, colours)
        nn.init.dirac_(convolution.weight[:colours])
