"""The model against its definition, written out step by step from its networks alone."""

import dataclasses
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from modules import cvae
from modules.cvae import CVAE, ModelConfig, prior_latents
from modules.data import Previous, to_unit
from modules.losses import psnr
from modules.networks import fold_pixels, unfold_pixels
from modules.runtime.errors import UserError
from tests.support.small_run import starts_of

SIZES = {"F_dim": 12, "L_dim": 4, "N_dim": 4, "D_out_dim": 12, "frame_H": 8, "frame_W": 12}
CONFIG = ModelConfig(**SIZES)
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "learned prior": {"prior": "learned"},
    "reference": {"reference": "first", "output": "sigmoid"},
    "fold 2": {"fold": 2, "reference": "first", "prior": "learned"},
}


def new_model(kind: str = "plain") -> CVAE:
    """Fresh weights; the parts for a reference, zero-initialised, do something."""
    torch.manual_seed(0)
    model = CVAE(dataclasses.replace(CONFIG, **KINDS[kind]))
    with torch.no_grad():
        # Some of the values go out of [0, 1], and of the [-1, 2] that frames with a reference have.
        model.Generator[7].bias[:2] = torch.tensor([1.1, 2.2])
        if model.Reference_Fusion is not None:
            model.Reference_Fusion.weight.normal_(std=0.1)
            model.Background_Mask.share.weight.normal_(std=0.3)
            model.Background_Mask.share.bias.fill_(0.4)
    return model


def clips(steps: int = 5) -> tuple[Tensor, Tensor]:
    """Frames and labels, (T, 2, 3, H, W)."""
    g = torch.Generator().manual_seed(0)
    frames, labels = torch.rand(2, steps, 2, 3, 8, 12, generator=g)
    return frames, labels


def latents_of(config: ModelConfig, steps: int = 4) -> Tensor:
    return torch.randn(steps, 2, *config.latent_shape, generator=torch.Generator().manual_seed(1))


def measure(model: CVAE, labels: Tensor) -> None:
    """Let these labels, (T, B, 3, H, W) in [0, 1], be all of the training labels."""
    pixels = (255 * labels).byte().flatten(0, 1).permute(0, 2, 3, 1)
    model.label_transformation.measure(pixels, model.config.fold)


# ---------------------------------------------------------------- the definition


def moments(network: Any, frame_feature: Tensor, label_feature: Tensor) -> Normal:
    """The Gaussian that a posterior or a prior predicts."""
    mu, logvar = network.moments(frame_feature, label_feature)
    return Normal(mu, (0.5 * logvar).exp())


def decoded(model: CVAE, start: Tensor, label: Tensor, z: Tensor, reference: Any) -> Tensor:
    """Frame t from what the step starts from, label t and the latent; (B, 3, H, W)."""
    fold, output = model.config.fold, model.config.output
    feature = model.frame_transformation(fold_pixels(start, fold))
    label_feature = model.label_transformation(fold_pixels(label, fold))
    if model.Reference_Fusion is not None:
        behind = fold_pixels(reference[0], fold)
        behind_label = model.label_transformation(fold_pixels(reference[1], fold))
        feature = feature + model.Reference_Fusion(model.frame_transformation(behind), behind_label)
    hidden = model.Decoder_Fusion(feature, label_feature, z)
    for layer in list(model.Generator)[:-1]:
        hidden = layer(hidden)
    raw = model.Generator[-1](hidden)
    raw = raw.sigmoid() if output == "sigmoid" else raw
    if model.Reference_Fusion is None:
        return unfold_pixels(raw, fold)
    raw = raw + (raw.clamp(-1, 2) - raw).detach()  # the gradient goes on
    made = raw.clamp(0, 1)
    share = model.Background_Mask(hidden, made, behind, label_feature, behind_label)
    share = unfold_pixels(share, fold)  # (B, 1, H, W): one share for a pixel's three colours
    frame = (1 - share) * unfold_pixels(made, fold) + share * unfold_pixels(behind, fold)
    return frame + unfold_pixels(raw - made, fold) if model.training else frame


def by_hand(
    model: CVAE, frames: Tensor, labels: Tensor, epsilon: Tensor, previous: Previous, reference: Any
) -> list[Tensor]:
    """Prediction, MSE, KL and the posterior's mean, as ClipOutput has them."""
    fold, made, found = model.config.fold, None, []
    for t in range(1, len(frames)):
        start = previous.frames[t - 1]
        if t > 1:  # the first step always starts from a given frame
            given = previous.given[t - 1][:, None, None, None]
            start = torch.where(given, start, made.clamp(0, 1))
        if previous.noise is not None:
            start = (start + previous.noise[t - 1]).clamp(0, 1)
        label = model.label_transformation(fold_pixels(labels[t], fold))
        q = moments(
            *(model.Gaussian_Predictor, model.frame_transformation(fold_pixels(frames[t], fold))),
            label,
        )
        p = Normal(torch.zeros_like(q.mean), torch.ones_like(q.mean))
        if model.Prior_Predictor is not None:
            before = model.frame_transformation(fold_pixels(start, fold))
            p = moments(model.Prior_Predictor, before, label)
        made = decoded(model, start, labels[t], q.mean + q.stddev * epsilon[t - 1], reference)
        mse = (made - frames[t]).square().mean(dim=(1, 2, 3))
        found.append((made, mse, kl_divergence(q, p).sum(dim=(1, 2, 3)), q.mean))
    return [torch.stack(terms) for terms in zip(*found, strict=True)]


# Whether a mode's steps are made one by one.
MODES = {
    **{"forced": False, "forced, noisy": False, "stored, noisy": False},
    **{"free": True, "mixed, noisy": True},
}


def previous_of(mode: str, frames: Tensor) -> Previous:
    """What the steps of clips of five frames start from."""
    g = torch.Generator().manual_seed(2)
    previous = starts_of(frames, teacher_forcing=not MODES[mode])
    others, noise = (torch.randn(frames[1:].shape, generator=g).to(frames) for _ in "ab")
    if "stored" in mode:
        previous = previous._replace(frames=(0.5 + others).clamp(0, 1), true=False)
    if "mixed" in mode:
        given = [[False, True], [True, False], [False, False], [False, True]]
        previous = previous._replace(given=torch.tensor(given))
    return previous._replace(noise=0.2 * noise) if "noisy" in mode else previous


CASES = [(kind, mode, "at once") for kind in KINDS for mode in MODES]
# "fold 2" has all parts. Weights are shared only where frames are made one by one.
CASES += [("fold 2", mode, "recompute") for mode in MODES]
CASES += [(kind, "mixed, noisy", "shared weights") for kind in ("plain", "fold 2")]


@pytest.mark.parametrize(("kind", "mode", "way"), CASES)
def test_a_training_pass_is_its_definition(
    kind: str, mode: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Values and gradients, in float64; in parts that do not come out even."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    monkeypatch.setattr(cvae, "RECOMPUTE_FRAMES", 3)  # 8 frames: 3, 3 and 2
    if way == "shared weights":
        monkeypatch.setattr(cvae, "WEIGHT_FRAMES", {"cpu": 6})  # 4 steps: 3 and 1
    model = new_model(kind).double().train()
    frames, labels = (x.double() for x in clips())
    epsilon = latents_of(model.config).double()
    measure(model, labels)
    reference = (frames[4].flip(0), labels[1]) if model.Reference_Fusion is not None else None
    previous = previous_of(mode, frames)
    kept = [x.clone() for x in (frames, labels, epsilon, previous.frames)]
    inputs = (frames, labels, epsilon, previous)

    def gradients(terms: Any) -> dict[str, Tensor]:
        model.zero_grad()
        (terms[1].mean() + 1e-3 * terms[2].mean()).backward()
        return {name: p.grad.clone() for name, p in model.named_parameters()}

    how = {"sequential": MODES[mode], "recompute": way == "recompute"}
    out = model(*inputs, **how, reference=reference)
    found = gradients(out)
    expected = by_hand(model, *inputs, reference=reference)
    torch.testing.assert_close([*out], expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found, gradients(expected), rtol=1e-7, atol=1e-13)
    for x, before in zip((frames, labels, epsilon, previous.frames), kept, strict=True):
        assert torch.equal(x, before)  # in particular the targets


def test_the_definition_s_modes_differ() -> None:
    """The control."""
    model, (frames, labels) = new_model().eval(), clips()
    inputs = (frames, labels, latents_of(CONFIG))
    made = [by_hand(model, *inputs, previous_of(mode, frames), reference=None)[0] for mode in MODES]
    for a, b in itertools.combinations(made, 2):
        assert not torch.allclose(a, b, atol=1e-4)


@pytest.mark.parametrize("forced", [True, False])
def test_recomputing_keeps_little_of_each_frame(forced: bool) -> None:
    model, (frames, labels) = new_model().eval(), clips(17)

    def kept_bytes(recompute: bool) -> int:
        """Of what the forward pass keeps for the backward pass, each storage once."""
        storages: dict[int, torch.UntypedStorage] = {}

        def pack(tensor: Tensor) -> Tensor:
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
            return tensor

        inputs = (frames, labels, latents_of(CONFIG, 16), starts_of(frames, teacher_forcing=forced))
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            out = model(*inputs, sequential=not forced, recompute=recompute)
        assert out.mse.requires_grad
        return sum(s.nbytes() for s in storages.values())

    assert kept_bytes(True) < 0.2 * kept_bytes(False)  # inputs, features, those of the posterior


# ---------------------------------------------------------------- rollouts


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_a_rollout_is_its_definition(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the first frame, labels and latents alone; it feeds back what it returns, clamped."""
    monkeypatch.setattr(cvae, "LABEL_CHUNK", 4)
    model, (frames, labels) = new_model(kind).eval(), clips(11)  # two and a half of these
    measure(model, labels)
    model.label_transformation.settle()
    pixels = (255 * labels).round().byte()

    def rolled(labels: Tensor, scale: float = 1.0) -> Tensor:
        latents = prior_latents(model.config, 3, [0, 1], scale)
        return torch.stack(list(model.rollout(frames[0], labels, latents)))

    made, start = rolled(pixels), frames[0]
    assert made.shape == (10, 2, 3, 8, 12) and made.min() >= 0 and made.max() <= 1
    latents, labels = prior_latents(model.config, 3, [0, 1]), to_unit(pixels)
    assert torch.equal(rolled(labels), made)  # whatever their type
    for t in range(1, 11):
        z = next(latents)
        if model.Prior_Predictor is not None:
            feature = model.frame_transformation(fold_pixels(start, model.config.fold))
            label = model.label_transformation(fold_pixels(labels[t], model.config.fold))
            prior = moments(model.Prior_Predictor, feature, label)
            z = prior.mean + prior.stddev * z
        expected = decoded(model, start, labels[t], z, (frames[0], labels[0])).clamp(0, 1)
        torch.testing.assert_close(made[t - 1], expected, rtol=1e-4, atol=1e-4)
        start = made[t - 1]
    if kind == "learned prior":  # scale 0 is the prior's mean, not a latent of 0
        other = decoded(model, frames[0], labels[1], torch.zeros_like(z), None).clamp(0, 1)
        assert not torch.allclose(rolled(labels, 0.0)[0], other, atol=1e-4)
    with pytest.raises(RuntimeError, match="evaluation mode"):
        model.train()
        rolled(pixels)


def test_latents_are_by_seed_and_sequence() -> None:
    both, second = prior_latents(CONFIG, 3, [0, 1]), prior_latents(CONFIG, 3, [1])
    drawn = []
    for _ in range(3):
        drawn.append(next(both))
        assert torch.equal(drawn[-1][1:], next(second))
    every = torch.cat([*drawn, next(prior_latents(CONFIG, 4, [0, 1]))])
    assert len({tuple(x.flatten().tolist()) for x in every}) == 8  # each step, sequence and seed
    assert torch.cat(drawn).std().item() == pytest.approx(1.0, abs=0.05)
    for scale in (0.5, 0.0):
        scaled = next(prior_latents(CONFIG, 3, [0], scale))
        assert torch.equal(scaled, scale * drawn[0][:1])


# ---------------------------------------------------------------- optional parts


def test_fresh_parts_learn() -> None:
    """That they change nothing at first is tested where checkpoints without them are loaded."""
    model, (frames, labels) = CVAE(dataclasses.replace(CONFIG, reference="first")), clips()
    inputs = (frames, labels, latents_of(CONFIG), starts_of(frames, teacher_forcing=True))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):  # zero-initialised last layers learn first, what is before them then
        optimizer.zero_grad()
        out = model(*inputs, sequential=False, reference=(frames[4], labels[4]))
        out.mse.mean().backward()
        optimizer.step()
    for name, p in model.named_parameters():
        if name.startswith(("Reference_Fusion", "Background_Mask")):
            assert p.grad is not None and p.grad.abs().max() > 0, name


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        *(({name: 1}, f"{name} 1: must be at least") for name in SIZES),
        ({"F_dim": 8.0}, "F_dim 8.0: must be a whole number"),
        ({"fold": 3}, "fold 3: is not one of"),
        ({"fold": 4, "frame_H": 30}, "fold 4: --frame_H .* multiple of 4 .*: 28 or 32"),
        ({"fold": 8, "frame_W": 24}, "--frame_W .* at least 32, not 24: 32"),
        *(({name: "so"}, f"{name} 'so'") for name in ("prior", "output", "reference")),
    ],
)
def test_models_that_cannot_be_built_are_refused(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        CVAE(ModelConfig(**wrong))


# ---------------------------------------------------------------- a copying start

COPYING = [
    ModelConfig(F_dim=24, L_dim=4, N_dim=4, D_out_dim=24, frame_H=8, frame_W=12),
    ModelConfig(F_dim=16, L_dim=4, N_dim=4, D_out_dim=16, frame_H=8, frame_W=12, fold=2),
]


@pytest.mark.parametrize("config", COPYING)
def test_a_copying_model_repeats_the_first_frame(config: ModelConfig) -> None:
    frames, labels = clips()
    torch.manual_seed(0)
    copying, usual = CVAE(config).eval(), CVAE(config).eval()
    last, colours = copying.frame_transformation[6].weight, config.colours
    before = last.clone()
    copying.copy_previous_frame()
    assert torch.equal(last[colours:], before[colours:])  # the other channels learn as ever

    def last_frame(model: CVAE) -> Tensor:
        return list(model.rollout(frames[0], labels, prior_latents(config, 0, [0, 1])))[-1]

    assert psnr(last_frame(copying), frames[0]).min() > 25
    assert psnr(last_frame(usual), frames[0]).max() < 10  # the control


@pytest.mark.parametrize("other", [{"F_dim": 23}, {"D_out_dim": 23}, {"output": "sigmoid"}])
def test_where_there_is_no_way_for_the_colours_weights_stay(other: dict[str, Any]) -> None:
    model = CVAE(dataclasses.replace(COPYING[0], **other))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.copy_previous_frame()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
