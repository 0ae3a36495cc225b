"""Weight gradients of passes in a row, taken for several at once; of a model, see test_cvae.py."""

import pytest
import torch
from torch import Tensor, nn

from modules.runtime.weight_gradients import SharedWeights

WEIGHTS = [1.0] * 256 + [2.0**-8] * 256


def gradients(layer: nn.Conv2d, x: Tensor, weights: list[float], at_once: int) -> list[Tensor]:
    """Of a sum of passes over x, each with its weight. at_once 0: as autograd takes them."""
    layer.zero_grad()
    if at_once:
        shared = SharedWeights(at_once)
        loss = torch.zeros((), dtype=x.dtype)
        for w in weights:
            with shared:  # it may be entered again and again
                loss = loss + w * layer(x).to(x.dtype).square().sum()
    else:
        loss = sum(w * layer(x).to(x.dtype).square().sum() for w in weights)
    loss.backward()
    return [p.grad.clone() for p in layer.parameters()]


@pytest.mark.parametrize("at_once", [1, 3, 5, 80])
@pytest.mark.parametrize("settings", [{"padding": 1}, {"groups": 2, "stride": 2}])
def test_gradients_are_autograd_s(at_once: int, settings: dict[str, int]) -> None:
    """Every pass counts, the last part that does not come out even too; and twice the same."""
    torch.manual_seed(0)
    layer = nn.Conv2d(2, 4, 3, dtype=torch.float64, **settings)
    x = torch.rand(2, 2, 6, 7, dtype=torch.float64)
    weights = [1.0, 2.0, 4.0, 8.0, 16.0]
    expected = gradients(layer, x, weights, 0)
    for _ in range(2):
        torch.testing.assert_close(gradients(layer, x, weights, at_once), expected)


def test_sums_are_float32_under_autocast() -> None:
    """256 passes of gradient 1 and then 256 of 2⁻⁸: a sum in bfloat16 would stay at 256."""
    layer, x = nn.Conv2d(1, 1, 1), torch.ones(1, 1, 1, 1)
    nn.init.zeros_(layer.weight)
    nn.init.constant_(layer.bias, 0.5)  # the gradient of its square is 1
    with torch.autocast("cpu", torch.bfloat16):
        found, by_autograd = (gradients(layer, x, WEIGHTS, n)[1] for n in (1, 0))
    assert found.dtype == torch.float32
    assert found.item() == 257.0
    assert by_autograd.item() != 257.0  # the control


def test_without_gradients_nothing_is_kept() -> None:
    layer, x, shared = nn.Conv2d(2, 3, 3, padding=1), torch.rand(1, 2, 4, 4), SharedWeights(2)
    expected = layer(x)
    for kept, gradient in enumerate((torch.no_grad(), torch.enable_grad())):  # and the control
        with shared, gradient:
            torch.testing.assert_close(layer(x), expected)
        assert len(shared.layers) == kept
