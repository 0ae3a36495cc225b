"""The five networks: names and shapes of existing checkpoints, and the blocks' formulas."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import modules
from modules.cvae import CVAE, ModelConfig
from modules.networks import (
    LOGVAR_MAX,
    LOGVAR_MIN,
    ConvFFN,
    DepthConv,
    Gaussian_Predictor,
    Label_Encoder,
    Residual,
)
from modules.runtime.errors import UserError

SMALL = ModelConfig(F_dim=8, L_dim=4, N_dim=4, D_out_dim=8, frame_H=8, frame_W=12)


def test_tensors_are_those_of_existing_checkpoints() -> None:
    expected = dict(line.split(" ", 1) for line in KEYS.strip().splitlines())
    found = {
        name: "x".join(map(str, value.shape)) or "scalar"
        for name, value in CVAE(ModelConfig()).state_dict().items()
    }
    assert found == expected
    assert list(found) == list(expected)  # the order too


def test_key_list_here_is_the_shared_one(shared) -> None:
    lines = (shared / "course_checkpoint_keys.txt").read_text().rstrip("\n").splitlines()
    given = [" ".join([*line.split(), "scalar"][:2]) for line in lines]
    assert given == KEYS.strip().splitlines()


def test_parameter_count() -> None:
    assert sum(p.numel() for p in CVAE(ModelConfig()).parameters()) == 1_585_620


def test_networks_are_importable_and_called_as_users_do() -> None:
    frame, label = torch.rand(2, 3, 8, 12), torch.rand(2, 3, 8, 12)
    frame_feature = modules.RGB_Encoder(3, 8)(frame)
    label_feature = modules.Label_Encoder(3, 4)(label)
    posterior = modules.Gaussian_Predictor(8 + 4, 4)
    z, mu, logvar = posterior(frame_feature, label_feature)
    fused = modules.Decoder_Fusion(8 + 4 + 4, 8)(frame_feature, label_feature, z)
    image = modules.Generator(input_nc=8, output_nc=3)(fused)
    assert frame_feature.shape == (2, 8, 8, 12)
    assert label_feature.shape == (2, 4, 8, 12)
    assert z.shape == mu.shape == logvar.shape == (2, 4, 8, 12)
    assert fused.shape == (2, 8, 8, 12)
    assert image.shape == (2, 3, 8, 12)
    assert posterior.reparameterize(mu, logvar).shape == mu.shape


def test_residual_is_its_formula() -> None:
    block, x = Residual(3, 5), torch.randn(2, 3, 6, 7)
    out = F.leaky_relu(F.conv2d(x, block.conv1.weight, block.conv1.bias, padding=1), 0.01)
    out = F.leaky_relu(F.conv2d(out, block.conv2.weight, block.conv2.bias, padding=1), 0.01)
    assert block.skip is not None
    torch.testing.assert_close(block(x), out + block.skip(x))
    same, y = Residual(3, 3), torch.randn(1, 3, 4, 4)
    assert same.skip is None
    inner = F.leaky_relu(same.conv2(F.leaky_relu(same.conv1(y), 0.01)), 0.01)
    torch.testing.assert_close(same(y), inner + y)


def test_depth_conv_is_its_formula() -> None:
    block, x = DepthConv(3, 5), torch.randn(2, 3, 6, 7)
    first = block.conv1[0]
    out = F.leaky_relu(F.conv2d(x, first.weight, first.bias), 0.01)
    depth = block.depth_conv
    out = F.conv2d(out, depth.weight, depth.bias, padding=1, groups=3)
    out = F.conv2d(out, block.conv2.weight, block.conv2.bias)
    assert block.adaptor is not None
    torch.testing.assert_close(block(x), out + block.adaptor(x))


def test_conv_ffn_is_its_formula() -> None:
    block, x = ConvFFN(3), torch.randn(2, 3, 6, 7)
    both = block.conv(x)
    gated = both[:, :6] * F.leaky_relu(both[:, 6:], 0.1)
    torch.testing.assert_close(block(x), x + block.conv_out(gated))


@pytest.mark.parametrize(
    ("network", "place"), [(Label_Encoder(3, 4), 3), (Gaussian_Predictor(12, 4), 5)]
)
def test_standalone_activations_are_identities(network: nn.Sequential, place: int) -> None:
    x = torch.randn(50)
    assert torch.equal(network[place](x), x)
    assert not torch.equal(F.leaky_relu(x, 0.01), x)  # what a usual activation would do


def test_logvar_is_bounded_and_float32() -> None:
    posterior = Gaussian_Predictor(12, 4)
    nn.init.constant_(posterior[6].bias, 1e4)
    inputs = torch.rand(1, 8, 4, 4), torch.rand(1, 4, 4, 4)
    assert posterior(*inputs)[2].max() == LOGVAR_MAX
    nn.init.constant_(posterior[6].bias, -1e4)
    assert posterior(*inputs)[2].min() == LOGVAR_MIN
    with torch.autocast("cpu", torch.bfloat16):
        z, mu, logvar = posterior(*inputs)
    assert z.dtype == mu.dtype == logvar.dtype == torch.float32


def test_reparameterize() -> None:
    posterior = Gaussian_Predictor(12, 4)
    mu, logvar = torch.full((2, 4, 32, 32), 3.0), torch.full((2, 4, 32, 32), 1.2)
    z = posterior.reparameterize(mu, logvar, torch.full_like(mu, 2.0))
    torch.testing.assert_close(z, torch.full_like(mu, 3 + 2 * 2.718281828**0.6))
    torch.manual_seed(0)
    drawn = posterior.reparameterize(mu, logvar)
    assert drawn.mean().item() == pytest.approx(3.0, abs=0.05)
    assert drawn.std().item() == pytest.approx(2.718281828**0.6, abs=0.05)


def white_labels(count: int) -> torch.Tensor:
    """Thin pale lines on white, and some labels with nothing, (N, 12, 16, 3) uint8."""
    labels = torch.full((count, 12, 16, 3), 255, dtype=torch.uint8)
    g = torch.Generator().manual_seed(0)
    for label in labels[: count // 2]:
        row, colour = int(torch.randint(12, (), generator=g)), torch.tensor([255, 150, 200])
        label[row, 3:9] = colour.to(torch.uint8)
    return labels


def plain(encoder: Label_Encoder, label: torch.Tensor) -> torch.Tensor:
    """As anybody's code computes it: layer by layer."""
    return nn.Sequential.forward(encoder, label)


def test_statistics_are_those_of_all_training_labels() -> None:
    """Against the convolution of all of them in float64; for whatever weights."""
    torch.manual_seed(0)
    labels = white_labels(400)  # more than are taken at once
    encoder = Label_Encoder(3, 8).train()
    encoder.measure(labels)
    for _ in range(2):
        with torch.no_grad():
            encoder[1].weight.mul_(3).add_(torch.randn_like(encoder[1].weight))
        pixels = labels.permute(0, 3, 1, 2).double() / 255
        first = nn.Sequential(encoder[0], encoder[1]).double()(pixels)
        encoder.float()
        mean, variance = encoder.statistics()
        torch.testing.assert_close(mean.double(), first.mean(dim=(0, 2, 3)), rtol=1e-5, atol=1e-5)
        exact = first.var(dim=(0, 2, 3), correction=0)
        torch.testing.assert_close(variance.double(), exact, rtol=1e-4, atol=1e-7)
    assert mean.requires_grad
    assert variance.requires_grad


def test_folded_labels_are_measured_as_they_are_seen() -> None:
    torch.manual_seed(0)
    labels = white_labels(40)
    encoder = Label_Encoder(12, 8).train()
    encoder.measure(labels, 2)
    pixels = nn.functional.pixel_unshuffle(labels.permute(0, 3, 1, 2) / 255, 2)
    mean, variance = encoder.statistics()
    first = encoder[1](encoder[0](pixels))
    torch.testing.assert_close(mean, first.mean(dim=(0, 2, 3)), rtol=1e-4, atol=1e-5)
    exact = first.var(dim=(0, 2, 3), correction=0)
    torch.testing.assert_close(variance, exact, rtol=1e-3, atol=1e-7)


def test_evaluation_computes_what_training_does() -> None:
    """Also layer by layer, as other code has it; the control are running averages, as they were."""
    torch.manual_seed(0)
    labels = white_labels(64)
    clip = labels[30:34].permute(0, 3, 1, 2) / 255
    for measured in (True, False):
        encoder, average = Label_Encoder(3, 8).train(), Label_Encoder(3, 8).train()
        if measured:
            encoder.measure(labels)
            average.measure(labels)
        for batch in labels.split(4):  # training
            with torch.no_grad():
                encoder[1].weight.add_(0.02 * torch.randn_like(encoder[1].weight))
            encoder(batch.permute(0, 3, 1, 2) / 255)
        with torch.no_grad():  # the average of the first and the last weights
            average[1].weight.add_(encoder[1].weight).mul_(0.5)
        if measured:
            average.settle()
        else:
            average[2].running_mean.copy_(encoder[2].running_mean)
            average[2].running_var.copy_(encoder[2].running_var)
        trained = average(clip)
        average.eval()
        close = torch.allclose(average(clip), trained, rtol=1e-3, atol=1e-4)
        assert close == measured
        torch.testing.assert_close(plain(average, clip), average(clip), rtol=1e-3, atol=1e-4)


def test_white_labels_keep_their_lines_in_bfloat16() -> None:
    """The control is the plain way, whose first outputs are rounded with their mean."""
    torch.manual_seed(0)
    labels = white_labels(64)
    encoder = Label_Encoder(3, 8)
    with torch.no_grad():  # lines are weak, as thin pale ones are
        encoder[1].weight.abs_()
    encoder.measure(labels)
    encoder.settle()
    encoder.eval()
    clip = labels[:4].permute(0, 3, 1, 2) / 255
    exact = encoder(clip)
    with torch.autocast("cpu", torch.bfloat16):
        ours, rounded = encoder(clip).float(), plain(encoder, clip).float()
    error, control = ((x - exact).square().mean().sqrt() for x in (ours, rounded))
    assert error < 0.01 * exact.std()
    assert control > 5 * error


def test_batch_norm_uses_running_statistics_outside_training() -> None:
    model = CVAE(SMALL).eval()
    label = torch.rand(2, 3, 8, 12)
    before = model.label_transformation[2].running_mean.clone()
    alone = model.label_transformation(label[:1])
    torch.testing.assert_close(model.label_transformation(label)[:1], alone)
    assert torch.equal(model.label_transformation[2].running_mean, before)
    model.train()  # the control: in training the batch decides and statistics move
    assert not torch.allclose(model.label_transformation(label)[:1], alone)
    assert not torch.equal(model.label_transformation[2].running_mean, before)
    assert type(model).eval is nn.Module.eval
    assert type(model).train is nn.Module.train


@pytest.mark.parametrize(
    "wrong",
    [{"F_dim": 7}, {"L_dim": 1}, {"N_dim": 3}, {"D_out_dim": 4}, {"frame_H": 3}, {"frame_W": 0}],
)
def test_dimensions_that_cannot_be_built_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(UserError, match=next(iter(wrong))):
        CVAE(ModelConfig(**wrong))


KEYS = """
frame_transformation.0.conv1.weight 16x3x3x3
frame_transformation.0.conv1.bias 16
frame_transformation.0.conv2.weight 16x16x3x3
frame_transformation.0.conv2.bias 16
frame_transformation.0.skip.weight 16x3x1x1
frame_transformation.0.skip.bias 16
frame_transformation.1.block.0.conv1.0.weight 16x16x1x1
frame_transformation.1.block.0.conv1.0.bias 16
frame_transformation.1.block.0.depth_conv.weight 16x1x3x3
frame_transformation.1.block.0.depth_conv.bias 16
frame_transformation.1.block.0.conv2.weight 16x16x1x1
frame_transformation.1.block.0.conv2.bias 16
frame_transformation.1.block.1.conv.weight 64x16x1x1
frame_transformation.1.block.1.conv.bias 64
frame_transformation.1.block.1.conv_out.weight 16x32x1x1
frame_transformation.1.block.1.conv_out.bias 16
frame_transformation.2.conv1.weight 32x16x3x3
frame_transformation.2.conv1.bias 32
frame_transformation.2.conv2.weight 32x32x3x3
frame_transformation.2.conv2.bias 32
frame_transformation.2.skip.weight 32x16x1x1
frame_transformation.2.skip.bias 32
frame_transformation.3.block.0.conv1.0.weight 32x32x1x1
frame_transformation.3.block.0.conv1.0.bias 32
frame_transformation.3.block.0.depth_conv.weight 32x1x3x3
frame_transformation.3.block.0.depth_conv.bias 32
frame_transformation.3.block.0.conv2.weight 32x32x1x1
frame_transformation.3.block.0.conv2.bias 32
frame_transformation.3.block.1.conv.weight 128x32x1x1
frame_transformation.3.block.1.conv.bias 128
frame_transformation.3.block.1.conv_out.weight 32x64x1x1
frame_transformation.3.block.1.conv_out.bias 32
frame_transformation.4.conv1.weight 64x32x3x3
frame_transformation.4.conv1.bias 64
frame_transformation.4.conv2.weight 64x64x3x3
frame_transformation.4.conv2.bias 64
frame_transformation.4.skip.weight 64x32x1x1
frame_transformation.4.skip.bias 64
frame_transformation.5.block.0.conv1.0.weight 64x64x1x1
frame_transformation.5.block.0.conv1.0.bias 64
frame_transformation.5.block.0.depth_conv.weight 64x1x3x3
frame_transformation.5.block.0.depth_conv.bias 64
frame_transformation.5.block.0.conv2.weight 64x64x1x1
frame_transformation.5.block.0.conv2.bias 64
frame_transformation.5.block.1.conv.weight 256x64x1x1
frame_transformation.5.block.1.conv.bias 256
frame_transformation.5.block.1.conv_out.weight 64x128x1x1
frame_transformation.5.block.1.conv_out.bias 64
frame_transformation.6.weight 128x64x3x3
frame_transformation.6.bias 128
label_transformation.1.weight 16x3x7x7
label_transformation.1.bias 16
label_transformation.2.weight 16
label_transformation.2.bias 16
label_transformation.2.running_mean 16
label_transformation.2.running_var 16
label_transformation.2.num_batches_tracked scalar
label_transformation.4.conv1.weight 32x16x3x3
label_transformation.4.conv1.bias 32
label_transformation.4.conv2.weight 32x32x3x3
label_transformation.4.conv2.bias 32
label_transformation.4.skip.weight 32x16x1x1
label_transformation.4.skip.bias 32
Gaussian_Predictor.0.conv1.weight 3x160x3x3
Gaussian_Predictor.0.conv1.bias 3
Gaussian_Predictor.0.conv2.weight 3x3x3x3
Gaussian_Predictor.0.conv2.bias 3
Gaussian_Predictor.0.skip.weight 3x160x1x1
Gaussian_Predictor.0.skip.bias 3
Gaussian_Predictor.1.block.0.conv1.0.weight 3x3x1x1
Gaussian_Predictor.1.block.0.conv1.0.bias 3
Gaussian_Predictor.1.block.0.depth_conv.weight 3x1x3x3
Gaussian_Predictor.1.block.0.depth_conv.bias 3
Gaussian_Predictor.1.block.0.conv2.weight 3x3x1x1
Gaussian_Predictor.1.block.0.conv2.bias 3
Gaussian_Predictor.1.block.1.conv.weight 12x3x1x1
Gaussian_Predictor.1.block.1.conv.bias 12
Gaussian_Predictor.1.block.1.conv_out.weight 3x6x1x1
Gaussian_Predictor.1.block.1.conv_out.bias 3
Gaussian_Predictor.2.conv1.weight 6x3x3x3
Gaussian_Predictor.2.conv1.bias 6
Gaussian_Predictor.2.conv2.weight 6x6x3x3
Gaussian_Predictor.2.conv2.bias 6
Gaussian_Predictor.2.skip.weight 6x3x1x1
Gaussian_Predictor.2.skip.bias 6
Gaussian_Predictor.3.block.0.conv1.0.weight 6x6x1x1
Gaussian_Predictor.3.block.0.conv1.0.bias 6
Gaussian_Predictor.3.block.0.depth_conv.weight 6x1x3x3
Gaussian_Predictor.3.block.0.depth_conv.bias 6
Gaussian_Predictor.3.block.0.conv2.weight 6x6x1x1
Gaussian_Predictor.3.block.0.conv2.bias 6
Gaussian_Predictor.3.block.1.conv.weight 24x6x1x1
Gaussian_Predictor.3.block.1.conv.bias 24
Gaussian_Predictor.3.block.1.conv_out.weight 6x12x1x1
Gaussian_Predictor.3.block.1.conv_out.bias 6
Gaussian_Predictor.4.conv1.weight 12x6x3x3
Gaussian_Predictor.4.conv1.bias 12
Gaussian_Predictor.4.conv2.weight 12x12x3x3
Gaussian_Predictor.4.conv2.bias 12
Gaussian_Predictor.4.skip.weight 12x6x1x1
Gaussian_Predictor.4.skip.bias 12
Gaussian_Predictor.6.weight 24x12x1x1
Gaussian_Predictor.6.bias 24
Decoder_Fusion.0.block.0.conv1.0.weight 172x172x1x1
Decoder_Fusion.0.block.0.conv1.0.bias 172
Decoder_Fusion.0.block.0.depth_conv.weight 172x1x3x3
Decoder_Fusion.0.block.0.depth_conv.bias 172
Decoder_Fusion.0.block.0.conv2.weight 172x172x1x1
Decoder_Fusion.0.block.0.conv2.bias 172
Decoder_Fusion.0.block.1.conv.weight 688x172x1x1
Decoder_Fusion.0.block.1.conv.bias 688
Decoder_Fusion.0.block.1.conv_out.weight 172x344x1x1
Decoder_Fusion.0.block.1.conv_out.bias 172
Decoder_Fusion.1.conv1.weight 43x172x3x3
Decoder_Fusion.1.conv1.bias 43
Decoder_Fusion.1.conv2.weight 43x43x3x3
Decoder_Fusion.1.conv2.bias 43
Decoder_Fusion.1.skip.weight 43x172x1x1
Decoder_Fusion.1.skip.bias 43
Decoder_Fusion.2.block.0.conv1.0.weight 43x43x1x1
Decoder_Fusion.2.block.0.conv1.0.bias 43
Decoder_Fusion.2.block.0.depth_conv.weight 43x1x3x3
Decoder_Fusion.2.block.0.depth_conv.bias 43
Decoder_Fusion.2.block.0.conv2.weight 86x43x1x1
Decoder_Fusion.2.block.0.conv2.bias 86
Decoder_Fusion.2.block.0.adaptor.weight 86x43x1x1
Decoder_Fusion.2.block.0.adaptor.bias 86
Decoder_Fusion.2.block.1.conv.weight 344x86x1x1
Decoder_Fusion.2.block.1.conv.bias 344
Decoder_Fusion.2.block.1.conv_out.weight 86x172x1x1
Decoder_Fusion.2.block.1.conv_out.bias 86
Decoder_Fusion.3.conv1.weight 86x86x3x3
Decoder_Fusion.3.conv1.bias 86
Decoder_Fusion.3.conv2.weight 86x86x3x3
Decoder_Fusion.3.conv2.bias 86
Decoder_Fusion.4.block.0.conv1.0.weight 86x86x1x1
Decoder_Fusion.4.block.0.conv1.0.bias 86
Decoder_Fusion.4.block.0.depth_conv.weight 86x1x3x3
Decoder_Fusion.4.block.0.depth_conv.bias 86
Decoder_Fusion.4.block.0.conv2.weight 96x86x1x1
Decoder_Fusion.4.block.0.conv2.bias 96
Decoder_Fusion.4.block.0.adaptor.weight 96x86x1x1
Decoder_Fusion.4.block.0.adaptor.bias 96
Decoder_Fusion.4.block.1.conv.weight 384x96x1x1
Decoder_Fusion.4.block.1.conv.bias 384
Decoder_Fusion.4.block.1.conv_out.weight 96x192x1x1
Decoder_Fusion.4.block.1.conv_out.bias 96
Decoder_Fusion.5.weight 192x96x1x1
Decoder_Fusion.5.bias 192
Generator.0.block.0.conv1.0.weight 192x192x1x1
Generator.0.block.0.conv1.0.bias 192
Generator.0.block.0.depth_conv.weight 192x1x3x3
Generator.0.block.0.depth_conv.bias 192
Generator.0.block.0.conv2.weight 192x192x1x1
Generator.0.block.0.conv2.bias 192
Generator.0.block.1.conv.weight 768x192x1x1
Generator.0.block.1.conv.bias 768
Generator.0.block.1.conv_out.weight 192x384x1x1
Generator.0.block.1.conv_out.bias 192
Generator.1.conv1.weight 96x192x3x3
Generator.1.conv1.bias 96
Generator.1.conv2.weight 96x96x3x3
Generator.1.conv2.bias 96
Generator.1.skip.weight 96x192x1x1
Generator.1.skip.bias 96
Generator.2.block.0.conv1.0.weight 96x96x1x1
Generator.2.block.0.conv1.0.bias 96
Generator.2.block.0.depth_conv.weight 96x1x3x3
Generator.2.block.0.depth_conv.bias 96
Generator.2.block.0.conv2.weight 96x96x1x1
Generator.2.block.0.conv2.bias 96
Generator.2.block.1.conv.weight 384x96x1x1
Generator.2.block.1.conv.bias 384
Generator.2.block.1.conv_out.weight 96x192x1x1
Generator.2.block.1.conv_out.bias 96
Generator.3.conv1.weight 48x96x3x3
Generator.3.conv1.bias 48
Generator.3.conv2.weight 48x48x3x3
Generator.3.conv2.bias 48
Generator.3.skip.weight 48x96x1x1
Generator.3.skip.bias 48
Generator.4.block.0.conv1.0.weight 48x48x1x1
Generator.4.block.0.conv1.0.bias 48
Generator.4.block.0.depth_conv.weight 48x1x3x3
Generator.4.block.0.depth_conv.bias 48
Generator.4.block.0.conv2.weight 48x48x1x1
Generator.4.block.0.conv2.bias 48
Generator.4.block.1.conv.weight 192x48x1x1
Generator.4.block.1.conv.bias 192
Generator.4.block.1.conv_out.weight 48x96x1x1
Generator.4.block.1.conv_out.bias 48
Generator.5.conv1.weight 24x48x3x3
Generator.5.conv1.bias 24
Generator.5.conv2.weight 24x24x3x3
Generator.5.conv2.bias 24
Generator.5.skip.weight 24x48x1x1
Generator.5.skip.bias 24
Generator.6.block.0.conv1.0.weight 24x24x1x1
Generator.6.block.0.conv1.0.bias 24
Generator.6.block.0.depth_conv.weight 24x1x3x3
Generator.6.block.0.depth_conv.bias 24
Generator.6.block.0.conv2.weight 24x24x1x1
Generator.6.block.0.conv2.bias 24
Generator.6.block.1.conv.weight 96x24x1x1
Generator.6.block.1.conv.bias 96
Generator.6.block.1.conv_out.weight 24x48x1x1
Generator.6.block.1.conv_out.bias 24
Generator.7.weight 3x24x1x1
Generator.7.bias 3
"""
