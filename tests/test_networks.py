"""The five networks: names and shapes of existing checkpoints, and the blocks' formulas."""

import hashlib
import itertools
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import modules
from modules.cvae import CVAE, ModelConfig
from modules.networks import (
    LOGVAR_MAX,
    LOGVAR_MIN,
    ConvFFN,
    DepthConv,
    DepthConvBlock,
    Gaussian_Predictor,
    Label_Encoder,
    Residual,
    bounded,
    fold_pixels,
    unfold_pixels,
)

# ---------------------------------------------------------------- tensors

# SHA-256, its first twelve digits, of a network's lines of shared/course_checkpoint_keys.txt.
TENSORS = {
    "frame_transformation": "fcdcc8fafdb3",
    "label_transformation": "4a9691119da6",
    "Gaussian_Predictor": "4eb989824603",
    "Decoder_Fusion": "2b4c3d7755da",
    "Generator": "168ef9d3ee91",
}


def by_network(lines: list[str]) -> dict[str, list[str]]:
    """Lines "name shape" in their order, by the first part of the name."""
    return {k: list(group) for k, group in itertools.groupby(lines, lambda s: s.split(".")[0])}


def digest(lines: list[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]


def tensors_of(model: CVAE) -> list[str]:
    """As in the shared list: "16x3x3x3"; nothing for a single number."""
    return [f"{k} {'x'.join(map(str, v.shape))}".strip() for k, v in model.state_dict().items()]


def test_tensors_are_those_of_existing_checkpoints() -> None:
    model = CVAE(ModelConfig())
    found = by_network(tensors_of(model))
    assert {name: digest(lines) for name, lines in found.items()} == TENSORS
    assert list(found) == list(TENSORS)  # the order too
    assert sum(p.numel() for p in model.parameters()) == 1_585_620
    found["Generator"][-1] = "Generator.7.bias 4"  # the control
    assert digest(found["Generator"]) != TENSORS["Generator"]


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


# ---------------------------------------------------------------- blocks


def test_residual_is_its_formula() -> None:
    block, x = Residual(3, 5), torch.randn(2, 3, 6, 7)
    out = F.leaky_relu(F.conv2d(x, block.conv1.weight, block.conv1.bias, padding=1), 0.01)
    out = F.leaky_relu(F.conv2d(out, block.conv2.weight, block.conv2.bias, padding=1), 0.01)
    torch.testing.assert_close(block(x), out + block.skip(x))
    same, y = Residual(3, 3), torch.randn(1, 3, 4, 4)
    assert same.skip is None
    inner = F.leaky_relu(same.conv2(F.leaky_relu(same.conv1(y), 0.01)), 0.01)
    torch.testing.assert_close(same(y), inner + y)


def test_depth_conv_block_is_its_formula() -> None:
    x = torch.randn(2, 3, 6, 7)
    for out_chans in (5, 3):
        block = DepthConv(3, out_chans)
        out = F.leaky_relu(F.conv2d(x, block.conv1[0].weight, block.conv1[0].bias), 0.01)
        depth = block.depth_conv
        out = F.conv2d(out, depth.weight, depth.bias, padding=1, groups=3)
        out = F.conv2d(out, block.conv2.weight, block.conv2.bias)
        around = x if block.adaptor is None else block.adaptor(x)
        assert (block.adaptor is None) == (out_chans == 3)
        torch.testing.assert_close(block(x), out + around)
    gate = ConvFFN(3)
    both = gate.conv(x)
    gated = both[:, :6] * F.leaky_relu(both[:, 6:], 0.1)
    torch.testing.assert_close(gate(x), x + gate.conv_out(gated))
    whole = DepthConvBlock(3, 5)
    torch.testing.assert_close(whole(x), whole.block[1](whole.block[0](x)))


@pytest.mark.parametrize(
    ("network", "place"), [(Label_Encoder(3, 4), 3), (Gaussian_Predictor(12, 4), 5)]
)
def test_standalone_activations_are_identities(network: nn.Sequential, place: int) -> None:
    x = torch.randn(50)
    assert torch.equal(network[place](x), x)
    assert not torch.equal(F.leaky_relu(x, 0.01), x)  # what a usual activation would do


def test_what_is_out_of_bounds_can_only_come_back() -> None:
    x = torch.tensor([-1e12, -0.5, 0.3, 1.5, 1e12], requires_grad=True)
    made = bounded(x, 0, 1)
    assert torch.equal(made, x.clamp(0, 1))
    for sign, gradient in ((1.0, [0, 0, 1, 1, 1]), (-1.0, [-1, -1, -1, 0, 0])):  # x falls, rises
        (found,) = torch.autograd.grad(sign * made.sum(), x, retain_graph=True)
        assert found.tolist() == gradient


def test_folded_pixels_lie_colour_by_colour_and_row_by_row() -> None:
    x = torch.rand(2, 3, 4, 6)
    folded = fold_pixels(x, 2)
    assert folded.shape == (2, 12, 2, 3)
    for colour, i, j in itertools.product(range(3), range(2), range(2)):
        assert torch.equal(folded[:, 4 * colour + 2 * i + j], x[:, colour, i::2, j::2])
    assert torch.equal(unfold_pixels(folded, 2), x)
    assert fold_pixels(x, 1) is x and unfold_pixels(x, 1) is x


# ---------------------------------------------------------------- the posterior


def test_moments_are_bounded_and_float32() -> None:
    posterior = Gaussian_Predictor(12, 4)
    inputs = torch.rand(1, 8, 4, 4), torch.rand(1, 4, 4, 4)
    out = nn.Sequential.forward(posterior, torch.cat(inputs, dim=1))
    mu, logvar = posterior.moments(*inputs)
    torch.testing.assert_close((mu, logvar), (out[:, :4], out[:, 4:]))
    with torch.autocast("cpu", torch.bfloat16):
        z, mu, logvar = posterior(*inputs)
    assert z.dtype == mu.dtype == logvar.dtype == torch.float32
    for bias, bound in ((1e4, LOGVAR_MAX), (-1e4, LOGVAR_MIN)):
        nn.init.constant_(posterior[6].bias, bias)
        assert (posterior(*inputs)[2] == bound).all()


def test_reparameterize() -> None:
    posterior = Gaussian_Predictor(12, 4)
    mu, logvar = torch.full((2, 4, 32, 32), 3.0), torch.full((2, 4, 32, 32), 1.2)
    z = posterior.reparameterize(mu, logvar, torch.full_like(mu, 2.0))
    torch.testing.assert_close(z, torch.full_like(mu, 3 + 2 * math.exp(0.6)))
    torch.manual_seed(0)
    drawn = posterior.reparameterize(mu, logvar)
    assert drawn.mean().item() == pytest.approx(3.0, abs=0.05)
    assert drawn.std().item() == pytest.approx(math.exp(0.6), abs=0.05)


# ---------------------------------------------------------------- the labels' statistics


def white_labels(count: int) -> Tensor:
    """Thin pale lines on white, and some labels with nothing, (N, 12, 16, 3) uint8."""
    labels = torch.full((count, 12, 16, 3), 255, dtype=torch.uint8)
    g = torch.Generator().manual_seed(0)
    for label in labels[: count // 2]:
        row, colour = int(torch.randint(12, (), generator=g)), torch.tensor([255, 150, 200])
        label[row, 3:9] = colour.to(torch.uint8)
    return labels


def plain(encoder: Label_Encoder, label: Tensor) -> Tensor:
    """As anybody's code computes it: layer by layer."""
    return nn.Sequential.forward(encoder, label)


@pytest.mark.parametrize("fold", [1, 2])
def test_statistics_are_those_of_all_training_labels(fold: int) -> None:
    """Against the convolution of all of them in float64; for whatever weights."""
    torch.manual_seed(0)
    labels = white_labels(400)  # more than are taken at once
    encoder = Label_Encoder(3 * fold**2, 8).train()
    encoder.measure(labels, fold)
    for _ in range(2):
        with torch.no_grad():
            encoder[1].weight.mul_(3).add_(torch.randn_like(encoder[1].weight))
        pixels = fold_pixels(labels.permute(0, 3, 1, 2).double() / 255, fold)
        first = nn.Sequential(encoder[0], encoder[1]).double()(pixels)
        encoder.float()
        mean, variance = encoder.statistics()
        torch.testing.assert_close(mean.double(), first.mean(dim=(0, 2, 3)), rtol=1e-5, atol=1e-5)
        exact = first.var(dim=(0, 2, 3), correction=0)
        torch.testing.assert_close(variance.double(), exact, rtol=1e-4, atol=1e-6)
    assert mean.requires_grad and variance.requires_grad


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
    encoder, label = Label_Encoder(3, 4).eval(), torch.rand(2, 3, 8, 12)
    before = encoder.norm.running_mean.clone()
    alone = encoder(label[:1])
    torch.testing.assert_close(encoder(label)[:1], alone)
    assert torch.equal(encoder.norm.running_mean, before)
    encoder.train()  # the control: without measure() the batch decides, and statistics move
    assert not torch.allclose(encoder(label)[:1], alone)
    assert not torch.equal(encoder.norm.running_mean, before)
    assert CVAE.eval is nn.Module.eval and CVAE.train is nn.Module.train
