"""Weight gradients of steps in a row, taken for several at once: the same values, in float32."""

import pytest
import torch
from modules.layers import _Gate
from torch import nn

from modules import cvae
from modules.cvae import CVAE, ModelConfig
from modules.data import Previous
from modules.networks import ConvFFN
from modules.runtime.weight_gradients import SharedWeights

SIZES = {"F_dim": 8, "L_dim": 4, "N_dim": 4, "D_out_dim": 8, "frame_H": 8, "frame_W": 12}


def gradients(model: CVAE, *, recompute: bool, bfloat16: bool = False) -> dict[str, torch.Tensor]:
    """Of a free-running pass over clips of 8 frames, in the weights' own dtype."""
    dtype = next(model.parameters()).dtype
    g = torch.Generator().manual_seed(0)
    frames, labels = (torch.rand(8, 2, 3, 8, 12, generator=g).to(dtype) for _ in range(2))
    epsilon = torch.randn(7, 2, 4, 8, 12, generator=g).to(dtype)
    reference = (frames[3], labels[3]) if model.config.reference == "first" else None
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        out = model(
            *(frames, labels, epsilon, Previous.of(frames, teacher_forcing=False)),
            sequential=True,
            recompute=recompute,
            reference=reference,
        )
    (out.mse.mean() + 1e-3 * out.kl.mean()).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("more", [{}, {"reference": "first"}, {"prior": "learned"}])
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("frames", [2, 6, 80])
def test_gradients_are_autograd_s(
    frames: int, recompute: bool, more: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One step at a time, three (the last part is smaller), all at once; in float64."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    torch.manual_seed(0)
    model = CVAE(ModelConfig(**SIZES, **more)).double().train()
    expected = gradients(model, recompute=recompute)
    monkeypatch.setattr(cvae, "WEIGHT_FRAMES", {"cpu": frames})
    found = gradients(model, recompute=recompute)
    assert found.keys() == expected.keys() == dict(model.named_parameters()).keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-7, atol=1e-13, msg=name)


def test_a_part_left_out_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: without the last, smaller part the gradients differ."""
    from modules.runtime.weight_gradients import _Layer

    torch.manual_seed(0)
    model = CVAE(ModelConfig(**SIZES)).train()
    expected = gradients(model, recompute=False)
    monkeypatch.setattr(cvae, "WEIGHT_FRAMES", {"cpu": 6})
    monkeypatch.setattr(_Layer, "finish", lambda layer: layer.gradients)
    found = gradients(model, recompute=False)
    weight = "Generator.7.weight"
    assert not torch.allclose(found[weight], expected[weight], rtol=1e-2)


def test_sums_are_float32_under_autocast() -> None:
    """256 passes of gradient 1 and then 256 of 2⁻⁸: a sum in bfloat16 would stay at 256."""
    layer = nn.Conv2d(1, 1, 1)
    x = torch.ones(1, 1, 1, 1)

    def bias_gradient(at_once: int | None) -> float:
        layer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            weights = [1.0] * 256 + [2.0**-8] * 256
            if at_once is None:
                loss = sum(w * layer(x).float().sum() for w in weights)
            else:
                with SharedWeights(at_once):
                    loss = sum(w * layer(x).float().sum() for w in weights)
        loss.backward()
        assert layer.bias is not None and layer.bias.grad is not None
        assert layer.bias.grad.dtype == torch.float32
        return layer.bias.grad.item()

    assert bias_gradient(1) == 257.0
    assert bias_gradient(None) != 257.0  # the control: autograd adds in bfloat16


def test_gradients_are_the_same_every_time_and_after_one_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    model = CVAE(ModelConfig(**SIZES)).train()
    monkeypatch.setattr(cvae, "WEIGHT_FRAMES", {"cpu": 6})
    once, again = (gradients(model, recompute=False, bfloat16=True) for _ in range(2))
    for name, gradient in once.items():
        assert torch.equal(gradient, again[name]), name


def test_without_gradients_nothing_is_kept() -> None:
    layer, x = nn.Conv2d(2, 3, 3, padding=1), torch.rand(1, 2, 4, 4)
    expected = layer(x)
    shared = SharedWeights(2)
    with shared, torch.no_grad():
        torch.testing.assert_close(layer(x), expected)
    assert shared.layers == {}
    with shared:
        torch.testing.assert_close(layer(x), expected)
    assert len(shared.layers) == 1  # the control


def test_the_gate_of_a_gpu_is_the_same_function() -> None:
    x = torch.randn(2, 8, 3, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(_Gate.apply, x)
    a, b = x.chunk(2, dim=1)
    torch.testing.assert_close(_Gate.apply(x), a * nn.functional.leaky_relu(b, 0.1))
    assert ConvFFN(2)(torch.rand(1, 2, 3, 5)).shape == (1, 2, 3, 5)
