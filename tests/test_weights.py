"""The networks' tensors are found in whatever holds them; what does not fit is told apart."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from modules.checkpoint import load_checkpoint
from modules.cvae import CVAE, ModelConfig
from modules.runtime.errors import UserError
from modules.weights import NoNetworks, find_networks, plain_form
from tests.support.comparing import same
from tests.support.wrappings import (
    CLOSE,
    ROUNDED,
    WRAPPINGS,
    by_network,
    noise,
    prefixed,
    safetensors_bytes,
    state_of,
)

CONFIG = ModelConfig(F_dim=16, L_dim=6, N_dim=8, D_out_dim=24)


@pytest.fixture
def model() -> CVAE:
    torch.manual_seed(3)
    return CVAE(CONFIG).eval()


@pytest.mark.parametrize("name", WRAPPINGS)
def test_every_wrapping_loads_to_the_same_bits(name: str, model: CVAE, tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    before = state_of(model)
    WRAPPINGS[name](model, path)
    found = load_checkpoint(path)
    assert found.config == CONFIG
    if name.endswith(CLOSE) or name == "pruned":
        assert all(not n.endswith(("_v", "_orig", "original0")) for n in found.state_dict)
        layers = {n: m for n, m in model.named_modules() if isinstance(m, nn.Conv2d)}
        for layer, module in layers.items():
            module(torch.zeros(1, module.in_channels, 9, 9))  # computes its weight
            weight = found.state_dict[f"{layer}.weight"]
            torch.testing.assert_close(weight, module.weight, rtol=1e-5, atol=1e-6)
        return
    rounded = ROUNDED.get(name)
    expected = {
        n: v.to(rounded).float() if rounded and v.is_floating_point() else v
        for n, v in before.items()
    }
    assert same(found.build_model().state_dict(), expected)
    # The control: other weights would be noticed.
    assert not same(found.build_model().state_dict(), noise(expected))


def test_the_run_says_what_it_took(model: CVAE, tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    for name, words in (
        ("older dictionary", "x.ckpt, epoch 7: state_dict"),
        ("module._orig_mod.", "state_dict; without module., _orig_mod."),
        ("Lightning", "state_dict.model; Python objects left out (argparse.Namespace)"),
        ("Lightning", "(argparse.Namespace); left out: lpips, val_psnr"),
        ("AveragedModel", "left out: n_averaged"),
        ("with a discriminator", "the networks; left out: discriminator"),
        ("bfloat16", "state_dict; bfloat16 taken as float32"),
        ("safetensors", "the networks; safetensors"),
        ("gzip", "unpacked (gzip)"),
        ("weights and their average", "model; not taken: ema (--weights ema takes it)"),
    ):
        WRAPPINGS[name](model, path)
        said = load_checkpoint(path).says()
        assert words in said and "\n" not in said


def test_a_number_beside_the_networks_is_no_network(model: CVAE, tmp_path: Path) -> None:
    torch.save({**state_of(model), "lr": torch.tensor(0.1)}, tmp_path / "x.pt")
    assert "left out: lr" in load_checkpoint(tmp_path / "x.pt").says()


def test_one_of_several_copies_can_be_named(model: CVAE, tmp_path: Path) -> None:
    path, state = tmp_path / "x.ckpt", state_of(model)
    torch.save({"state_dict": state, "ema": {"module": noise(state)}}, path)
    assert same(load_checkpoint(path).state_dict, state)
    assert same(load_checkpoint(path, "state_dict").state_dict, state)
    averaged = load_checkpoint(path, "ema").state_dict
    assert not same(averaged, state)
    assert torch.equal(averaged["Generator.7.bias"], state["Generator.7.bias"] + 1)
    with pytest.raises(UserError, match=r"--weights swa: there are none in .*: state_dict, ema"):
        load_checkpoint(path, "swa")


def test_optional_parts_are_seen_without_a_config(tmp_path: Path) -> None:
    for more in ({"prior": "learned"}, {"reference": "first"}, {"fold": 2}):
        config = ModelConfig(**{**CONFIG.to_dict(), **more})  # type: ignore[arg-type]
        torch.save(CVAE(config).state_dict(), tmp_path / "x.pt")
        assert load_checkpoint(tmp_path / "x.pt").config == config


def saved(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], object]:
    def write(path: Path) -> None:
        content = state_of(CVAE(CONFIG))
        torch.save(change(content) or content, path)

    return write


def other(**values: int) -> dict[str, torch.Tensor]:
    return state_of(CVAE(ModelConfig(**{**CONFIG.to_dict(), **values})))  # type: ignore[arg-type]


def mixed(network: str, **values: int) -> Callable[[dict[str, Any]], None]:
    """One network of another model."""
    return lambda s: s.update({n: v for n, v in other(**values).items() if n.startswith(network)})


def without(name: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda s: {n: v for n, v in s.items() if n != name}


def with_config(**values: int) -> Callable[[dict[str, Any]], Any]:
    return lambda s: {"state_dict": s, "config": {**CONFIG.to_dict(), **values}}


class TestWhatDoesNotFit:
    @pytest.mark.parametrize(
        ("change", "words"),
        [
            (
                mixed("Generator", D_out_dim=32),
                "the input of Generator fits --D_out_dim = 32, not 24",
            ),
            (
                mixed("Decoder_Fusion", N_dim=12),
                "Decoder_Fusion fits --F_dim + --L_dim + --N_dim = 34",
            ),
            (
                mixed("frame_transformation", F_dim=32),
                "Gaussian_Predictor fits --F_dim + --L_dim = 22",
            ),
            (with_config(N_dim=12), "Gaussian_Predictor fits --N_dim 8, not 12"),
            (with_config(D_out_dim=32), "wrong sizes: Decoder_Fusion.4.block"),
            (lambda s: s.update({"Generator.7.bias": torch.zeros(4)}), "bias is 4, not 3"),
            (without("Generator.7.bias"), "Generator.7.bias is missing"),
            (
                lambda s: s.update({"Generator.8.bias": torch.zeros(4)}),
                "Generator.8.bias is unknown",
            ),
            (
                lambda s: {n: v for n, v in s.items() if n[0] != "G"},
                "networks are missing: Gaussian_Predictor, Generator",
            ),
            (lambda s: s.update({"Refiner.0.bias": torch.ones(1)}), "this model lacks: Refiner"),
            (lambda s: s.update({"mean": torch.ones(3)}), "this model lacks: mean"),
            (
                lambda s: prefixed("model.")({**s, "Refiner.0.bias": torch.ones(1)}),
                "this model lacks: Refiner",
            ),
            (lambda s: by_network({n: v for n, v in s.items() if n[0] != "D"}), "Decoder_Fusion"),
            (lambda s: nn.Linear(2, 2).state_dict(), "none of the five networks is in it"),
            (lambda s: nn.Linear(2, 2).state_dict(), "its tensors: weight, bias"),
            (lambda s: {"epoch": 3}, "it has no tensors"),
            (lambda s: {n: v.to(torch.int8) for n, v in s.items()}, "weight is int8; save"),
            (
                lambda s: {n: v.to(torch.complex64) for n, v in s.items()},
                "weight is complex64; save",
            ),
            (
                lambda s: {n: v.to_sparse() for n, v in s.items() if v.dim()},
                "weight is sparse; save",
            ),
            (lambda s: {n: v.to("meta") for n, v in s.items()}, "weight is empty; save"),
        ],
    )
    def test_is_told_apart(
        self, change: Callable[[dict[str, Any]], Any], words: str, tmp_path: Path
    ) -> None:
        path = tmp_path / "x.ckpt"
        saved(lambda s: s)(path)
        load_checkpoint(path)  # the control
        saved(change)(path)
        with pytest.raises(UserError) as caught:
            load_checkpoint(path)
        assert str(caught.value).startswith(f"{path}: ")
        assert words in str(caught.value) and "\n" not in str(caught.value)


def test_content_that_refers_to_itself_ends() -> None:
    endless: dict[str, Any] = {"a": []}
    endless["a"].append(endless)
    with pytest.raises(NoNetworks):
        find_networks(endless)
    wide: Any = {}
    for _ in range(200):  # 2^200 paths
        wide = {"a": wide, "b": wide}
    with pytest.raises(NoNetworks):
        find_networks(wide)


def test_reparametrised_weights_by_hand() -> None:
    state = {"a.weight_g": torch.tensor([[10.0]]), "a.weight_v": torch.tensor([[3.0, 4.0]])}
    assert plain_form(state)["a.weight"].tolist() == [[6.0, 8.0]]  # 10 · (3, 4) / 5
    assert list(plain_form(state)) == ["a.weight"]
    assert list(plain_form({"a.weight_g": torch.ones(1)})) == ["a.weight_g"]  # half of a pair
    spectral = {
        "a.weight_orig": torch.tensor([[2.0, 0.0], [0.0, 1.0]]),
        "a.weight_u": torch.tensor([1.0, 0.0]),
        "a.weight_v": torch.tensor([1.0, 0.0]),
    }
    assert plain_form(spectral)["a.weight"].tolist() == [[1.0, 0.0], [0.0, 0.5]]  # σ = 2


def test_safetensors_of_the_reference_implementation(model: CVAE, tmp_path: Path) -> None:
    library = pytest.importorskip("safetensors.torch")
    state = state_of(model)
    library.save_file(state, tmp_path / "a.safetensors")
    assert same(load_checkpoint(tmp_path / "a.safetensors").state_dict, state)
    read = library.load(safetensors_bytes(state))  # and ours is one
    assert same(dict(sorted(read.items())), dict(sorted(state.items())))
