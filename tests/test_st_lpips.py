"""ST-LPIPS, the optional metric: with a stand-in package, and the real one where installed."""

import importlib.util
import sys
from contextlib import nullcontext
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from modules.runtime.errors import UserError
from modules.st_lpips import SMALLEST, load_st_lpips, st_lpips

HERE = importlib.util.find_spec("stlpips_pytorch") is not None


class Distance(nn.Module):
    """A stand-in: the mean absolute difference on the scale of [-1, 1]."""

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        assert settings == {"net": "alex", "variant": "shift_tolerant", "verbose": False}

    def forward(self, a: Tensor, b: Tensor, normalize: bool = False) -> Tensor:
        assert normalize
        return 2 * (a - b).abs().mean(dim=(1, 2, 3), keepdim=True)


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    package, module = ModuleType("stlpips_pytorch"), ModuleType("stlpips_pytorch.stlpips")
    module.LPIPS = Distance  # type: ignore[attr-defined]
    for each in (package, module):
        monkeypatch.setitem(sys.modules, each.__name__, each)


def test_each_frame_has_its_distance(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    truth = torch.zeros(70, 3, SMALLEST, 24)  # more than go through at once
    shift = torch.linspace(0, 0.5, 70)[:, None, None, None]
    found = st_lpips(load_st_lpips(32, 64), truth + shift, truth)
    np.testing.assert_allclose(found, np.linspace(0, 1, 70), atol=1e-6)


def test_small_frames_are_refused() -> None:
    with pytest.raises(UserError, match="20 × 64 are too small"):
        load_st_lpips(SMALLEST - 1, 64)


@pytest.mark.skipif(not HERE, reason="stlpips-pytorch is not installed")
def test_the_real_network_orders_distortions() -> None:
    network = load_st_lpips(32, 64)
    generator = torch.Generator().manual_seed(0)
    truth = torch.rand(2, 3, 32, 64, generator=generator)
    noise = torch.randn(truth.shape, generator=generator)
    same, near, far = (
        st_lpips(network, (truth + sigma * noise).clamp(0, 1), truth) for sigma in (0, 0.05, 0.5)
    )
    assert (same == 0).all() and (near > 0).all() and (near < far).all()
    for size in (SMALLEST, SMALLEST - 1):  # the bound is no larger than it has to be
        least = torch.rand(1, 3, size, 64, generator=generator)
        with pytest.raises(RuntimeError) if size < SMALLEST else nullcontext():
            assert st_lpips(network, least, least) == 0
