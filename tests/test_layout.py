"""Where depthwise convolutions in channels-last do not run, they alone are laid out otherwise."""

from typing import Any

import pytest
import torch

from modules import layout
from modules.cvae import CVAE, ModelConfig
from modules.data import Previous
from modules.layout import one_of_each_width, place, runs
from modules.networks import DepthConv

CONFIG = ModelConfig(F_dim=32, L_dim=4, N_dim=8, D_out_dim=32, frame_H=8, frame_W=12)
CPU = torch.device("cpu")


def new_model() -> CVAE:
    torch.manual_seed(0)
    return CVAE(CONFIG).train()


class Card:
    """A CPU that says it is a CUDA card."""

    type = "cuda"


def placed(
    capability: tuple[int, int], monkeypatch: pytest.MonkeyPatch, works: bool = False
) -> tuple[CVAE, list[torch.nn.Module]]:
    """A model on a card of this capability, and the layers that were tried there."""
    tried: list[torch.nn.Module] = []

    def probe(layer: torch.nn.Conv2d, *_: Any) -> bool:
        tried.append(layer)
        return works

    monkeypatch.setattr(layout, "runs", probe)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(CVAE, "to", lambda self, *a, **k: _to(self, *a, **k))
    return place(new_model(), Card(), torch.float16), tried  # type: ignore[arg-type]


def _to(model: CVAE, *arguments: Any, **options: Any) -> CVAE:
    if arguments and isinstance(arguments[0], Card):
        return model
    return torch.nn.Module.to(model, *arguments, **options)


def inputs_of_depthwise(model: CVAE) -> list[torch.Tensor]:
    """What its depthwise layers are given in a step, with the gradient that they get."""
    seen: list[torch.Tensor] = []
    for module in model.modules():
        if isinstance(module, DepthConv):
            module.depth_conv.register_forward_hook(lambda _, given, out: seen.append(given[0]))
    clips = [torch.rand(3, 2, 8, 12, 3).permute(0, 1, 4, 2, 3) for _ in range(2)]
    noise = torch.randn(2, 2, 8, 8, 12)
    previous = Previous.of(clips[0], teacher_forcing=True)
    model(*clips, noise, previous, sequential=False).mse.mean().backward()
    return seen


@pytest.mark.parametrize(
    ("capability", "works", "contiguous"),
    [((7, 5), False, True), ((7, 5), True, False), ((8, 0), False, False)],
)
def test_only_where_the_probe_fails(
    capability: tuple[int, int], works: bool, contiguous: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tried = placed(capability, monkeypatch, works)
    assert bool(tried) == (capability < (8, 0))
    layers = [m for m in model.modules() if isinstance(m, DepthConv)]
    assert {layer.contiguous for layer in layers} == {contiguous}
    monkeypatch.undo()
    seen = inputs_of_depthwise(model)
    assert len(seen) > 10
    assert {x.is_contiguous() for x in seen} == {contiguous}
    # Other layers keep channels-last.
    assert model.Generator[1].conv1.weight.is_contiguous(memory_format=torch.channels_last)
    for layer in layers:  # as PyTorch asks when it chooses: a kernel for one channel is both
        strides = layer.depth_conv.weight.stride()
        assert (strides[1] == strides[0]) == contiguous


def test_the_values_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    changed, _ = placed((7, 0), monkeypatch)
    monkeypatch.undo()
    plain = new_model()
    for name, value in plain.state_dict().items():
        assert torch.equal(changed.state_dict()[name], value)
    torch.manual_seed(1)
    inputs_of_depthwise(changed)
    torch.manual_seed(1)
    inputs_of_depthwise(plain)
    for (name, a), b in zip(changed.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-5, msg=name)


def test_an_apple_gpu_has_the_usual_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CVAE, "to", lambda self, *a, **k: self if a else _to(self, **k))
    model = place(new_model(), torch.device("mps"), torch.float32)
    assert all(p.is_contiguous() for p in model.parameters())
    monkeypatch.undo()
    control, _ = placed((8, 0), monkeypatch)
    assert not all(p.is_contiguous() for p in control.parameters())


def test_every_width_is_tried_once() -> None:
    layers = [m for m in new_model().modules() if isinstance(m, DepthConv)]
    widths = [layer.depth_conv.in_channels for layer in one_of_each_width(layers)]
    assert len(widths) == len(set(widths)) < len(layers)
    assert set(widths) == {layer.depth_conv.in_channels for layer in layers}


def test_the_probe_changes_nothing_and_hears_an_engine_that_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    layer = torch.nn.Conv2d(6, 6, 3, padding=1, groups=6).to(memory_format=torch.channels_last)
    assert runs(layer, CPU, torch.bfloat16)
    assert all(p.grad is None for p in layer.parameters())

    class Missing(torch.autograd.Function):
        @staticmethod
        def forward(_: Any, x: torch.Tensor) -> torch.Tensor:
            return x.clone()

        @staticmethod
        def backward(_: Any, gradient: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("GET was unable to find an engine to execute this computation")

    whole = torch.nn.Conv2d.forward
    monkeypatch.setattr(torch.nn.Conv2d, "forward", lambda s, x: Missing.apply(whole(s, x)))
    assert not runs(layer, CPU, torch.float32)
    assert layer(torch.zeros(1, 6, 4, 4)).shape == (1, 6, 4, 4)  # its forward pass alone runs
