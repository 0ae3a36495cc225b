"""The five networks: names and shapes of existing checkpoints, and the blocks' formulas."""

import hashlib
import itertools
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import modules
from modules import networks
from modules.cvae import CVAE, ModelConfig


def test_tensors_are_those_of_existing_checkpoints() -> None:
    """All lines of shared/course_checkpoint_keys.txt, by the start of their SHA-256."""
    model = CVAE(ModelConfig())
    shapes = {k: "x".join(map(str, v.shape)) for k, v in model.state_dict().items()}
    lines = "\n".join(f"{name} {shape}".strip() for name, shape in shapes.items())
    assert hashlib.sha256(lines.encode()).hexdigest()[:12] == "aac0ddee1427"
    assert sum(p.numel() for p in model.parameters()) == 1_585_620


def test_networks_are_importable_and_called_as_users_do() -> None:
    frame, label = torch.rand(2, 3, 8, 12), torch.rand(2, 3, 8, 12)
    frame_feature = modules.RGB_Encoder(3, 8)(frame)
    label_feature = modules.Label_Encoder(3, 4)(label)
    posterior = modules.Gaussian_Predictor(8 + 4, 4)
    z, mu, logvar = posterior(frame_feature, label_feature)
    fusion = modules.Decoder_Fusion(8 + 4 + 4, 8)
    fused = fusion(frame_feature, label_feature, z)
    joined = torch.cat((frame_feature, label_feature, z), dim=1)  # in existing checkpoints' order
    torch.testing.assert_close(fused, nn.Sequential.forward(fusion, joined))
    image = modules.Generator(input_nc=8, output_nc=3)(fused)
    shown = (frame_feature, label_feature, z, mu, logvar, fused, image)
    assert [x.shape[1] for x in shown] == [8, 4, 4, 4, 4, 8, 3]
    assert {(len(x), *x.shape[2:]) for x in shown} == {(2, 8, 12)}
    assert posterior.reparameterize(mu, logvar).shape == mu.shape


def convolved(x: Tensor, layer: nn.Module, **kind: int) -> Tensor:
    return F.conv2d(x, layer.weight, layer.bias, **kind)


@pytest.mark.parametrize("out_chans", [5, 3])
def test_blocks_are_their_formulas(out_chans: int) -> None:
    """With a way around of their own where the number of channels changes."""
    x = torch.randn(2, 3, 6, 7)
    block = networks.Residual(3, out_chans)
    out = F.leaky_relu(convolved(x, block.conv1, padding=1), 0.01)
    out = F.leaky_relu(convolved(out, block.conv2, padding=1), 0.01)
    assert (block.skip is None) == (out_chans == 3)
    torch.testing.assert_close(block(x), out + (block.skip(x) if block.skip else x))
    whole = networks.DepthConvBlock(3, out_chans)
    depth, gate = whole.block
    out = F.leaky_relu(convolved(x, depth.conv1[0]), 0.01)
    out = convolved(convolved(out, depth.depth_conv, padding=1, groups=3), depth.conv2)
    assert (depth.adaptor is None) == (out_chans == 3)
    out = out + (depth.adaptor(x) if depth.adaptor else x)
    torch.testing.assert_close(depth(x), out)
    both = gate.conv(out)
    gated = both[:, : 2 * out_chans] * F.leaky_relu(both[:, 2 * out_chans :], 0.1)
    torch.testing.assert_close(whole(x), out + gate.conv_out(gated))


@pytest.mark.parametrize(
    ("network", "place"),
    [(networks.Label_Encoder(3, 4), 3), (networks.Gaussian_Predictor(12, 4), 5)],
)
def test_standalone_activations_are_identities(network: nn.Sequential, place: int) -> None:
    x = torch.randn(50)
    assert torch.equal(network[place](x), x)
    assert not torch.equal(F.leaky_relu(x, 0.01), x)  # what a usual activation would do


def test_what_is_out_of_bounds_can_only_come_back() -> None:
    x = torch.tensor([-1e12, -0.5, 0.3, 1.5, 1e12], requires_grad=True)
    made = networks.bounded(x, 0, 1)
    assert torch.equal(made, x.clamp(0, 1))
    for sign, gradient in ((1.0, [0, 0, 1, 1, 1]), (-1.0, [-1, -1, -1, 0, 0])):  # x falls, rises
        (found,) = torch.autograd.grad(sign * made.sum(), x, retain_graph=True)
        assert found.tolist() == gradient


def test_folded_pixels_lie_colour_by_colour_and_row_by_row() -> None:
    x = torch.rand(2, 3, 4, 6)
    folded = networks.fold_pixels(x, 2)
    assert folded.shape == (2, 12, 2, 3)
    for colour, i, j in itertools.product(range(3), range(2), range(2)):
        assert torch.equal(folded[:, 4 * colour + 2 * i + j], x[:, colour, i::2, j::2])
    assert torch.equal(networks.unfold_pixels(folded, 2), x)
    assert networks.fold_pixels(x, 1) is x and networks.unfold_pixels(x, 1) is x


def test_moments_are_bounded_and_float32() -> None:
    posterior = networks.Gaussian_Predictor(12, 4)
    inputs = torch.rand(1, 8, 4, 4), torch.rand(1, 4, 4, 4)
    out = nn.Sequential.forward(posterior, torch.cat(inputs, dim=1))
    mu, logvar = posterior.moments(*inputs)
    torch.testing.assert_close((mu, logvar), (out[:, :4], out[:, 4:]))
    with torch.autocast("cpu", torch.bfloat16):
        z, mu, logvar = posterior(*inputs)
    assert z.dtype == mu.dtype == logvar.dtype == torch.float32
    for bias, bound in ((1e4, networks.LOGVAR_MAX), (-1e4, networks.LOGVAR_MIN)):
        nn.init.constant_(posterior[6].bias, bias)
        assert (posterior(*inputs)[2] == bound).all()


def test_reparameterize() -> None:
    posterior = networks.Gaussian_Predictor(12, 4)
    mu, logvar = torch.full((2, 4, 32, 32), 3.0), torch.full((2, 4, 32, 32), 1.2)
    z = posterior.reparameterize(mu, logvar, torch.full_like(mu, 2.0))
    torch.testing.assert_close(z, torch.full_like(mu, 3 + 2 * math.exp(0.6)))
    torch.manual_seed(0)
    drawn = posterior.reparameterize(mu, logvar)
    assert drawn.mean().item() == pytest.approx(3.0, abs=0.05)
    assert drawn.std().item() == pytest.approx(math.exp(0.6), abs=0.05)


def white_labels(count: int) -> Tensor:
    """Thin pale lines on a warm white, and some labels with nothing, (N, 12, 16, 3) uint8."""
    labels = torch.tensor([255, 245, 225], dtype=torch.uint8).repeat(count, 12, 16, 1)
    g = torch.Generator().manual_seed(0)
    for label in labels[: count // 2]:
        row, colour = int(torch.randint(12, (), generator=g)), torch.tensor([255, 150, 200])
        label[row, 3:9] = colour.to(torch.uint8)
    return labels


@pytest.mark.parametrize("fold", [1, 2])
def test_labels_are_normalised_with_the_statistics_of_all(fold: int) -> None:
    """As an ordinary BatchNorm does in training that sees all labels at once, for whatever weights,
    with its gradients; in evaluation the same, also layer by layer, as other code has it."""
    torch.manual_seed(0)
    labels = white_labels(400)  # more than are taken at once
    encoder, usual = (networks.Label_Encoder(3 * fold**2, 8).train() for _ in "ab")
    encoder.measure(labels, fold)
    with torch.no_grad():
        encoder[1].weight.mul_(3).add_(torch.randn_like(encoder[1].weight))
    usual.load_state_dict(encoder.state_dict())
    usual.double()
    pixels = networks.fold_pixels(labels.permute(0, 3, 1, 2).double() / 255, fold)
    weights = torch.randn(8, 12 // fold, 16 // fold)
    clip = slice(190, 210)
    expected, found = usual(pixels)[clip], encoder(pixels[clip].float())
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-3)
    for out in (expected, found):
        (out * weights).sum().backward()
    for p, q in zip(encoder.parameters(), usual.parameters(), strict=True):
        error = (p.grad.double() - q.grad).norm()
        assert error <= 1e-3 * q.grad.norm() or q.grad.norm() < 1e-3
    encoder.settle()
    encoder.eval()
    for out in (encoder(pixels[clip].float()), plain(encoder, pixels[clip].float())):
        torch.testing.assert_close(out, found, rtol=1e-3, atol=1e-3)


def test_a_folded_model_measures_labels_of_the_whole_video() -> None:
    """Every fourth; lines are in the first half alone."""
    encoder, labels = networks.Label_Encoder(12, 8), white_labels(2400)
    found = []
    for some in (labels, labels[::4]):
        encoder.measure(some, 2)
        found.append(encoder.window_mean)
    assert torch.equal(*found)


def test_labels_without_a_line_are_normalised_as_well() -> None:
    encoder, labels = networks.Label_Encoder(3, 8).train(), white_labels(2)[1:]
    encoder.measure(labels)
    assert encoder(labels.permute(0, 3, 1, 2) / 255).isfinite().all()


def plain(encoder: networks.Label_Encoder, label: Tensor) -> Tensor:
    """As anybody's code computes it: layer by layer."""
    return nn.Sequential.forward(encoder, label)


def test_white_labels_keep_their_lines_in_bfloat16() -> None:
    """The control is the plain way, whose first outputs are rounded with their mean."""
    torch.manual_seed(0)
    labels = white_labels(64)
    encoder = networks.Label_Encoder(3, 8)
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
    encoder, label = networks.Label_Encoder(3, 4), torch.rand(2, 3, 8, 12)
    for training in (False, True):  # in training, without measure(), the batch decides
        encoder.train(training)
        before = encoder.norm.running_mean.clone()
        alone = encoder(label[:1])
        assert torch.equal(encoder.norm.running_mean, before) != training
        assert torch.allclose(encoder(label)[:1], alone, atol=1e-5) != training
    assert CVAE.eval is nn.Module.eval and CVAE.train is nn.Module.train
