"""--arch unet: the roles of the five networks, at half the resolution and below."""

import dataclasses

import pytest
import torch

from modules import unet
from modules.cvae import CVAE, ModelConfig, Previous, prior_latents
from modules.runtime.errors import UserError

PLAIN = ModelConfig(F_dim=16, L_dim=4, N_dim=4, D_out_dim=8, frame_H=16, frame_W=24, arch="unet")
REFERRING = dataclasses.replace(PLAIN, reference="first", prior="learned")
MODES = [(False, False), (True, False), (True, True)]  # sequential, detach


def clips(steps: int = 5) -> tuple[torch.Tensor, ...]:
    g = torch.Generator().manual_seed(0)
    frames, labels = torch.rand(2, steps, 2, 3, 16, 24, generator=g)
    return frames, labels, torch.randn(steps - 1, 2, 4, 8, 12, generator=g)


def new_model(config: ModelConfig, *, active: bool = True) -> CVAE:
    """active: zero-initialised layers do something."""
    torch.manual_seed(0)
    model = CVAE(config).eval()
    if active:
        with torch.no_grad():
            for name, p in model.named_parameters():
                if any(part in name for part in ("change", "mix", "share")):
                    p.normal_(std=0.1)
    return model


def test_at_first_the_model_copies_the_previous_frame() -> None:
    frames, labels, _epsilon = clips()
    model = new_model(REFERRING, active=False)
    made = list(model.rollout(frames[0], labels, prior_latents(REFERRING, 0, [0, 1])))
    torch.testing.assert_close(made[-1], frames[0])
    model = new_model(REFERRING)  # the control
    made = list(model.rollout(frames[0], labels, prior_latents(REFERRING, 0, [0, 1])))
    assert (made[-1] - frames[0]).abs().max() > 0.1
    assert made[-1].shape == frames[0].shape


def test_features_and_latents_have_half_the_resolution() -> None:
    frames, labels, _epsilon = clips()
    model = new_model(PLAIN)
    assert PLAIN.latent_shape == (4, 8, 12)
    assert next(prior_latents(PLAIN, 0, [0])).shape == (1, 4, 8, 12)
    feature = model.frame_transformation(frames[0])
    assert feature.shape == (2, 16, 8, 12)
    unfolded = torch.nn.functional.pixel_shuffle(feature[:, : unet.COLOURS], unet.FOLD)
    assert torch.equal(unfolded, frames[0])  # the frame itself is among its features
    assert model.label_transformation(labels[0]).shape == (2, 4, 8, 12)


@pytest.mark.parametrize("config", [PLAIN, REFERRING])
@pytest.mark.parametrize(("sequential", "detach"), MODES)
def test_recomputing_changes_no_value(
    config: ModelConfig, sequential: bool, detach: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    frames, labels, epsilon = (x.double() for x in clips(steps=11))
    reference = (frames[0].flip(-1), labels[0].flip(-1)) if config is REFERRING else None
    found = []
    for recompute in (False, True):
        model = new_model(config).double().train()
        previous = Previous.of(frames, teacher_forcing=not sequential)
        out = model(
            *(frames, labels, epsilon, previous),
            sequential=sequential,
            detach=detach,
            recompute=recompute,
            reference=reference,
        )
        (out.mse.mean() + 1e-3 * out.kl.mean()).backward()
        found.append((out, {name: p.grad for name, p in model.named_parameters()}))
    (out, gradients), (again, gradients_again) = found
    for a, b in zip(out, again, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
    for name, gradient in gradients.items():
        assert gradient is not None and gradient.abs().max() > 0, name
        torch.testing.assert_close(gradients_again[name], gradient, rtol=1e-7, atol=1e-12, msg=name)


def test_the_posterior_alone_sees_the_true_frame() -> None:
    frames, labels, epsilon = clips()
    model = new_model(PLAIN)
    with torch.no_grad():
        for p in model.Gaussian_Predictor.parameters():
            p.zero_()
    previous = Previous.of(frames, teacher_forcing=False)
    base = model(frames, labels, epsilon, previous, sequential=True).prediction
    other = torch.cat((frames[:1], frames[1:].flip(0)))
    previous = Previous.of(other, teacher_forcing=False)
    assert torch.equal(base, model(other, labels, epsilon, previous, sequential=True).prediction)


@pytest.mark.parametrize(
    ("change", "words"), [({"frame_H": 20}, "--frame_H 20"), ({"F_dim": 12}, "--F_dim 12")]
)
def test_sizes_that_cannot_be_built_are_refused(change: dict[str, int], words: str) -> None:
    with pytest.raises(UserError, match=words):
        CVAE(dataclasses.replace(PLAIN, **change))
