"""Another architecture in the roles of the five networks: a U-Net at 1/2, 1/4, 1/8 resolution.

The five networks work at full resolution throughout, where 32 channels cost what 64 do at half and
128 at a quarter of it. Here frames and labels are folded first: each 2 × 2 pixels become channels
of one (Shi et al. 2016, "Real-Time Single Image and Video Super-Resolution Using an Efficient
Sub-Pixel Convolutional Neural Network"), and the decoder is a U-Net (Ronneberger et al. 2015) that
corrects the previous frame. The classes are constructed and called like those of networks.py.

Shapes: B batch (or batch x time), F, L, N, D the channel counts; h = H/2, w = W/2.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modules.layers import DepthConvBlock, Residual

FOLD = 2  # pixels to a side that become channels
COLOURS = 3 * FOLD**2  # channels of a folded frame
MULTIPLE = 8  # height and width in pixels must be divisible by this


class Frame_Encoder(nn.Module):
    """Frame → folded frame and features: (B, 3, H, W) in [0, 1] → (B, F, h, w). F > 12."""

    def __init__(self, in_chans: int, out_chans: int) -> None:
        super().__init__()
        folded = in_chans * FOLD**2
        self.first = Residual(folded, out_chans - folded)

    def forward(self, frame: Tensor) -> Tensor:  # (B, 3, H, W)
        folded = F.pixel_unshuffle(frame, FOLD)  # (B, 12, h, w)
        features = self.first(folded)
        return torch.cat((folded.to(features.dtype), features), dim=1)  # (B, F, h, w)


class Label_Encoder(nn.Sequential):
    """Skeleton image → label feature: (B, 3, H, W) in [0, 1] → (B, L, h, w). L ≥ 2."""

    def __init__(self, in_chans: int, out_chans: int) -> None:
        super().__init__(
            nn.PixelUnshuffle(FOLD),
            nn.Conv2d(in_chans * FOLD**2, out_chans, 3, padding=1),
            nn.BatchNorm2d(out_chans),
            nn.Identity(),
            Residual(out_chans, out_chans),
        )


class Decoder_Fusion(nn.Module):
    """The U-Net: features of frame t-1 and label t, latent z_t → (B, 12 + D, h, w).

    in_chans is F + L + N. The first 12 channels are the folded previous frame as it came.
    """

    def __init__(self, in_chans: int, out_chans: int) -> None:
        super().__init__()
        d = out_chans
        self.enter = Residual(in_chans, d)
        self.down_2 = nn.Conv2d(d, 2 * d, 4, stride=2, padding=1)
        self.block_2 = Residual(2 * d, 2 * d)
        self.down_3 = nn.Conv2d(2 * d, 2 * d, 4, stride=2, padding=1)
        self.block_3 = nn.Sequential(Residual(2 * d, 2 * d), DepthConvBlock(2 * d, 2 * d))
        self.up_2 = Residual(4 * d, 2 * d)
        self.up_1 = Residual(3 * d, d)

    def forward(self, frame_feature: Tensor, label_feature: Tensor, z: Tensor) -> Tensor:
        z = z.to(frame_feature.dtype)
        x1 = self.enter(torch.cat((frame_feature, label_feature, z), dim=1))  # (B, D, h, w)
        x2 = self.block_2(self.down_2(x1))  # (B, 2D, h/2, w/2)
        x3 = self.block_3(self.down_3(x2))  # (B, 2D, h/4, w/4)
        x2 = self.up_2(torch.cat((x2, _doubled(x3)), dim=1))  # (B, 2D, h/2, w/2)
        x1 = self.up_1(torch.cat((x1, _doubled(x2)), dim=1))  # (B, D, h, w)
        return torch.cat((frame_feature[:, :COLOURS], x1), dim=1)


def _doubled(x: Tensor) -> Tensor:
    """Twice the height and width, each value repeated."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


class Generator(nn.Sequential):
    """Fused feature → frame: (B, 12 + D, h, w) → (B, 3, H, W), unbounded.

    Zero-initialised: at first it is the previous frame.
    """

    def __init__(self, input_nc: int, output_nc: int) -> None:
        super().__init__(_Correction(input_nc, output_nc))

    def last_features(self, fused: Tensor) -> Tensor:
        """What the last layer sees: the fused feature itself."""
        return fused


class _Correction(nn.Module):
    """The folded previous frame plus a correction, unfolded."""

    def __init__(self, input_nc: int, output_nc: int) -> None:
        super().__init__()
        self.change = nn.Conv2d(input_nc, output_nc * FOLD**2, 3, padding=1)
        nn.init.zeros_(self.change.weight)
        assert self.change.bias is not None
        nn.init.zeros_(self.change.bias)

    def forward(self, fused: Tensor) -> Tensor:  # (B, 12 + D, h, w)
        return F.pixel_shuffle(fused[:, :COLOURS] + self.change(fused), FOLD)  # (B, 3, H, W)


class Reference_Fusion(nn.Module):
    """As of networks.py; nothing is added to the folded frame's own channels."""

    def __init__(self, frame_chans: int, label_chans: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(frame_chans + label_chans, frame_chans - COLOURS, 1)
        nn.init.zeros_(self.mix.weight)
        assert self.mix.bias is not None
        nn.init.zeros_(self.mix.bias)

    def forward(self, frame_feature: Tensor, label_feature: Tensor) -> Tensor:
        added = self.mix(torch.cat((frame_feature, label_feature), dim=1))
        return F.pad(added, (0, 0, 0, 0, COLOURS, 0))  # (B, F, h, w)


class Background_Mask(nn.Module):
    """As of networks.py: how much of each pixel is the reference's, (B, 1, H, W) float32."""

    def __init__(self, generator_chans: int, label_chans: int) -> None:
        super().__init__()
        self.features = Residual(generator_chans + 2 * COLOURS + 2 * label_chans, 16)
        self.share = nn.Conv2d(16, FOLD**2, 3, padding=1)
        nn.init.zeros_(self.share.weight)
        assert self.share.bias is not None
        nn.init.zeros_(self.share.bias)

    def forward(
        self, last: Tensor, made: Tensor, frame: Tensor, label: Tensor, frame_label: Tensor
    ) -> Tensor:
        folded = (F.pixel_unshuffle(x, FOLD).to(last.dtype) for x in (made, frame))
        features = self.features(torch.cat((last, *folded, label, frame_label), dim=1))
        share = F.pixel_shuffle(self.share(features), FOLD).float()  # (B, 1, H, W)
        return share + (share.clamp(0.0, 1.0) - share).detach()
