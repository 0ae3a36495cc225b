"""The model: what the training pass sees and gives, and what a rollout may not see."""

import dataclasses
import itertools
from unittest import mock

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from modules.cvae import CVAE, ClipOutput, ModelConfig, Posterior, prior_latents
from modules.data import Previous
from modules.runtime.errors import UserError
from tests.support.reference import usual_frames

CONFIG = ModelConfig(F_dim=8, L_dim=4, N_dim=4, D_out_dim=8, frame_H=8, frame_W=12)


def clips(steps: int = 5, batch: int = 2, seed: int = 0) -> tuple[torch.Tensor, ...]:
    """frames, labels, noise of a random clip."""
    g = torch.Generator().manual_seed(seed)
    frames = torch.rand(steps, batch, 3, 8, 12, generator=g)
    labels = torch.rand(steps, batch, 3, 8, 12, generator=g)
    return frames, labels, torch.randn(steps - 1, batch, 4, 8, 12, generator=g)


def measure(model: CVAE, labels: torch.Tensor) -> None:
    """Let these labels, (T, B, 3, H, W) in [0, 1], be all of the training labels."""
    pixels = (255 * labels).byte().flatten(0, 1).permute(0, 2, 3, 1)
    model.label_transformation.measure(pixels)


def passed(
    model: CVAE,
    frames: torch.Tensor,
    labels: torch.Tensor,
    epsilon: torch.Tensor,
    *,
    teacher_forcing: bool,
    forced: torch.Tensor | None = None,
    stored: torch.Tensor | None = None,
    frame_noise: torch.Tensor | None = None,
    detach: bool = False,
    recompute: bool = False,
) -> ClipOutput:
    """The training pass. forced: by step, in place of teacher_forcing; stored: previous frames."""
    previous = Previous.of(frames, teacher_forcing=teacher_forcing)._replace(noise=frame_noise)
    if forced is not None:
        previous = previous._replace(given=forced)
    if stored is not None:
        previous = previous._replace(frames=stored, true=False)
    sequential = forced is not None or not teacher_forcing
    return model(
        *(frames, labels, epsilon, previous),
        sequential=sequential,
        detach=detach,
        recompute=recompute,
    )


@pytest.fixture
def model() -> CVAE:
    torch.manual_seed(0)
    return CVAE(CONFIG).eval()


def frame_by_frame(
    model: CVAE, frames: torch.Tensor, labels: torch.Tensor, noise: torch.Tensor, forced: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """The task's definition: predictions and KL."""
    clips = (x.transpose(0, 1) for x in (frames, labels))
    made, kl = zip(*usual_frames(model, *clips, teacher_forcing=forced, noise=noise), strict=True)
    return torch.stack(made), torch.stack(kl)


@pytest.mark.parametrize("forced", [True, False])
def test_batched_pass_equals_frame_by_frame(model: CVAE, forced: bool) -> None:
    frames, labels, noise = clips()
    out = passed(model, frames, labels, noise, teacher_forcing=forced)
    prediction, kl = frame_by_frame(model, frames, labels, noise, forced)
    torch.testing.assert_close(out.prediction, prediction, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(out.kl, kl, rtol=1e-4, atol=1e-3)
    mse = (prediction - frames[1:]).square().mean(dim=(2, 3, 4))
    torch.testing.assert_close(out.mse, mse, rtol=1e-4, atol=1e-6)
    assert out.mse.shape == out.kl.shape == (4, 2)


@pytest.mark.parametrize("forced", [True, False])
def test_gradients_equal_those_of_frame_by_frame(model: CVAE, forced: bool) -> None:
    frames, labels, noise = clips()
    out = passed(model, frames, labels, noise, teacher_forcing=forced)
    (out.mse.mean() + 1e-3 * out.kl.mean()).backward()
    ours = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    prediction, kl = frame_by_frame(model, frames, labels, noise, forced)
    ((prediction - frames[1:]).square().mean() + 1e-3 * kl.mean()).backward()
    for name, p in model.named_parameters():
        torch.testing.assert_close(ours[name], p.grad, rtol=1e-3, atol=1e-6, msg=name)


def test_detached_pass_feeds_the_same_frames_back_without_their_gradient(model: CVAE) -> None:
    frames, labels, noise = clips()
    through = passed(model, frames, labels, noise, teacher_forcing=False)
    cut = passed(model, frames, labels, noise, teacher_forcing=False, detach=True)
    torch.testing.assert_close(cut.prediction, through.prediction, rtol=1e-4, atol=1e-5)

    def last_frame_s_gradient(detach: bool) -> torch.Tensor:
        """Of the last prediction with respect to the first frame: only by way of those between."""
        first = frames[:1].clone().requires_grad_()
        clip = torch.cat((first, frames[1:]))
        out = passed(model, clip, labels, noise, teacher_forcing=False, detach=detach)
        (gradient,) = torch.autograd.grad(out.prediction[-1].sum(), first)
        return gradient

    assert last_frame_s_gradient(detach=True).abs().max() == 0
    assert last_frame_s_gradient(detach=False).abs().max() > 0


def test_detached_gradients_reach_every_weight_in_bfloat16(model: CVAE) -> None:
    # autocast keeps casted weights; those of the pass without gradient must not be used again.
    frames, labels, noise = clips()
    norms = {}
    for precision in (False, True):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision):
            out = passed(model, frames, labels, noise, teacher_forcing=False, detach=True)
        (out.mse.mean() + 1e-3 * out.kl.mean()).backward()
        norms[precision] = [p.grad.norm().item() for p in model.parameters()]
    assert min(norms[True]) > 0
    assert sum(norms[True]) == pytest.approx(sum(norms[False]), rel=0.1)


@pytest.mark.parametrize("mode", ["forced", "through", "detached"])
def test_frame_noise_is_added_to_what_frames_are_made_from(model: CVAE, mode: str) -> None:
    frames, labels, noise = clips()
    g = torch.Generator().manual_seed(5)
    frame_noise = 0.2 * torch.randn(4, 2, 3, 8, 12, generator=g)
    options = {"teacher_forcing": mode == "forced", "detach": mode == "detached"}
    out = passed(model, frames, labels, noise, frame_noise=frame_noise, **options)
    previous = frames[0]
    for t in range(1, 5):  # by hand
        label = model.label_transformation(labels[t])
        mu, logvar = model.Gaussian_Predictor.moments(model.frame_transformation(frames[t]), label)
        z = model.Gaussian_Predictor.reparameterize(mu, logvar, noise[t - 1])
        noisy = (previous.clamp(0, 1) + frame_noise[t - 1]).clamp(0, 1)
        made = model.decode(model.frame_transformation(noisy), label, z)
        torch.testing.assert_close(out.prediction[t - 1], made, rtol=1e-4, atol=1e-5)
        previous = frames[t] if mode == "forced" else made
    plain = passed(model, frames, labels, noise, **options)
    assert not torch.allclose(plain.prediction, out.prediction, atol=1e-3)
    torch.testing.assert_close(plain.kl, out.kl, rtol=1e-4, atol=1e-3)  # the posterior sees none


@pytest.mark.parametrize("with_frame_noise", [False, True])
@pytest.mark.parametrize("mode", ["forced", "through", "detached"])
def test_recomputing_changes_no_value(
    mode: str, with_frame_noise: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float64 throughout: in float32 rounding grows through ten steps to a percent."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    frames, labels, noise = (x.double() for x in clips(steps=11))  # parts of 4, 4 and 2 steps
    frame_noise = 0.1 * torch.randn(10, 2, 3, 8, 12).double() if with_frame_noise else None
    found = []
    for recompute in (False, True):
        torch.manual_seed(0)
        model = CVAE(CONFIG).double().train()
        measure(model, labels)
        out = passed(
            model,
            *(frames, labels, noise),
            teacher_forcing=mode == "forced",
            detach=mode == "detached",
            frame_noise=frame_noise,
            recompute=recompute,
        )
        (out.mse.mean() + 1e-3 * out.kl.mean()).backward()
        gradients = {name: p.grad for name, p in model.named_parameters()}
        found.append((out, gradients))
    (out, gradients), (out_again, gradients_again) = found
    for a, b in zip(out, out_again, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradients_again[name], gradient, rtol=1e-7, atol=1e-13, msg=name)


@pytest.mark.parametrize("forced", [True, False])
def test_recomputing_keeps_little_of_each_frame(model: CVAE, forced: bool) -> None:
    def kept_bytes(steps: int, recompute: bool) -> int:
        """Of what the forward pass keeps for the backward pass, each storage once."""
        storages: dict[int, torch.UntypedStorage] = {}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            passed(model, *clips(steps), teacher_forcing=forced, recompute=recompute)
        return sum(s.nbytes() for s in storages.values())

    measure(model, clips(17)[1])
    growth = {r: kept_bytes(33, r) - kept_bytes(17, r) for r in (False, True)}
    assert growth[False] > 0
    assert growth[True] < 0.1 * growth[False]


def changed(x: torch.Tensor, t: int) -> torch.Tensor:
    """x with another frame t."""
    other = x.clone()
    other[t] = torch.rand(x[t].shape, generator=torch.Generator().manual_seed(99))
    return other


def test_frame_t_uses_label_t_and_the_posterior_frame_t(model: CVAE) -> None:
    frames, labels, noise = clips()
    base = passed(model, frames, labels, noise, teacher_forcing=True)

    def moved(frames: torch.Tensor, labels: torch.Tensor) -> tuple[list[int], list[int]]:
        """Which predicted frames and which KL terms change, as frame numbers."""
        out = passed(model, frames, labels, noise, teacher_forcing=True)
        prediction = (out.prediction - base.prediction).abs().amax(dim=(1, 2, 3, 4))
        kl = (out.kl - base.kl).abs().amax(dim=1)
        return [[t + 1 for t in range(4) if d[t] > 0] for d in (prediction, kl)]

    assert moved(frames, changed(labels, 2)) == [[2], [2]]
    assert moved(frames, changed(labels, 0)) == [[], []]
    # Frame 2 is what the posterior of step 2 sees, and the previous frame of step 3.
    assert moved(changed(frames, 2), labels) == [[2, 3], [2]]
    assert moved(changed(frames, 0), labels) == [[1], []]  # frame 0 is no target and has no KL


def test_free_running_feeds_predictions_back(model: CVAE) -> None:
    frames, labels, noise = clips()
    with torch.no_grad():
        for p in model.Gaussian_Predictor.parameters():
            p.zero_()  # cut the posterior's view of the true frames
    base = passed(model, frames, labels, noise, teacher_forcing=False).prediction
    other = passed(model, changed(frames, 2), labels, noise, teacher_forcing=False).prediction
    assert torch.equal(base, other)  # true frames after the first play no part
    other = passed(model, changed(frames, 0), labels, noise, teacher_forcing=False).prediction
    assert (base - other).abs().amax(dim=(1, 2, 3, 4)).min() > 0  # the first one reaches all
    forced = passed(model, frames, labels, noise, teacher_forcing=True).prediction
    assert torch.equal(base[0], forced[0])
    assert not torch.allclose(base[1:], forced[1:])


def test_teacher_forcing_does_not_change_the_target(model: CVAE) -> None:
    frames, labels, noise = clips()
    for forced in (True, False):
        out = passed(model, frames, labels, noise, teacher_forcing=forced)
        mse = (out.prediction - frames[1:]).square().mean(dim=(2, 3, 4))
        torch.testing.assert_close(out.mse, mse)


def roll(model: CVAE, frames: torch.Tensor, labels: torch.Tensor, seed: int = 0) -> torch.Tensor:
    latents = prior_latents(CONFIG, seed, list(range(frames.shape[1])))
    return torch.stack(list(model.rollout(frames[0], labels, latents)))


def test_rollout_sees_no_true_frame_but_the_first(model: CVAE) -> None:
    frames, labels, _ = clips(steps=40)
    base = roll(model, frames, labels)
    assert base.shape == (39, 2, 3, 8, 12)
    assert base.min() >= 0
    assert base.max() <= 1
    assert not torch.equal(base[0], roll(model, changed(frames, 0), labels)[0])
    moved = roll(model, frames, changed(labels, 35))  # beyond one chunk of labels
    assert torch.equal(base[:34], moved[:34])  # frames 1 … 34
    assert not torch.equal(base[34], moved[34])  # frame 35 is made with label 35
    assert torch.equal(base, roll(model, frames, changed(labels, 0)))


def test_rollout_never_runs_the_posterior(model: CVAE, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object) -> None:
        raise AssertionError("the posterior ran")

    frames, labels, noise = clips()
    monkeypatch.setattr(model.Gaussian_Predictor, "moments", forbidden)
    monkeypatch.setattr(model.Gaussian_Predictor, "forward", forbidden)
    roll(model, frames, labels)
    with pytest.raises(AssertionError):  # the control: training does
        passed(model, frames, labels, noise, teacher_forcing=True)


def test_rollout_feeds_back_what_it_returns(model: CVAE) -> None:
    frames, labels, _ = clips()
    with torch.no_grad():
        model.Generator[7].bias.fill_(5.0)  # far above 1: unclamped feedback would differ
    made = roll(model, frames, labels)
    assert made.max() == 1.0
    latents = prior_latents(CONFIG, 0, [0, 1])
    next(latents)
    label = model.label_transformation(labels[2])
    again = model.decode(model.frame_transformation(made[0]), label, next(latents)).clamp(0, 1)
    torch.testing.assert_close(again, made[1])


def test_rollout_refuses_training_mode(model: CVAE) -> None:
    frames, labels, _ = clips()
    with pytest.raises(RuntimeError, match="evaluation mode"):
        roll(model.train(), frames, labels)


def test_latents_are_by_seed_and_sequence() -> None:
    both, second = prior_latents(CONFIG, 3, [0, 1]), prior_latents(CONFIG, 3, [1])
    for _ in range(3):
        assert torch.equal(next(both)[1:], next(second))
    assert not torch.equal(next(prior_latents(CONFIG, 4, [1])), next(prior_latents(CONFIG, 3, [1])))
    first = next(prior_latents(CONFIG, 3, [0]))
    assert torch.equal(next(prior_latents(CONFIG, 3, [0], scale=0.5)), 0.5 * first)
    assert next(prior_latents(CONFIG, 3, [0], scale=0.0)).abs().max() == 0


# ---------------------------------------------------------------- learned prior, bounded output


LEARNED = dataclasses.replace(CONFIG, prior="learned")


def test_learned_prior_is_a_network_of_its_own_that_sees_frame_t_minus_1() -> None:
    torch.manual_seed(0)
    model = CVAE(LEARNED).eval()
    plain = set(CVAE(CONFIG).state_dict())
    assert {n.split(".")[0] for n in set(model.state_dict()) - plain} == {"Prior_Predictor"}
    frames, labels, noise = clips()
    for mode in ({"teacher_forcing": True}, {"teacher_forcing": False, "detach": True}):
        out = passed(model, frames, labels, noise, **mode)
        previous = frames[0]
        for t in range(1, 5):  # by hand
            label = model.label_transformation(labels[t])
            feature = model.frame_transformation(previous)
            q = model.Gaussian_Predictor.moments(model.frame_transformation(frames[t]), label)
            assert model.Prior_Predictor is not None
            p = model.Prior_Predictor.moments(feature, label)
            gaussians = [Normal(mu, (0.5 * logvar).exp()) for mu, logvar in (q, p)]
            kl = kl_divergence(*gaussians).sum(dim=(1, 2, 3))
            torch.testing.assert_close(out.kl[t - 1], kl, rtol=1e-4, atol=1e-3)
            torch.testing.assert_close(out.mu[t - 1], q[0], rtol=1e-4, atol=1e-5)
            made = model.decode(feature, label, q[0] + (0.5 * q[1]).exp() * noise[t - 1])
            previous = frames[t] if mode["teacher_forcing"] else made.clamp(0, 1)
    through = passed(model, frames, labels, noise, teacher_forcing=False)
    torch.testing.assert_close(through.kl, out.kl, rtol=1e-4, atol=1e-3)


def test_rollout_draws_from_the_learned_prior() -> None:
    torch.manual_seed(0)
    model = CVAE(LEARNED).eval()
    frames, labels, _ = clips()
    made = roll(model, frames, labels)
    latents = prior_latents(CONFIG, 0, [0, 1])
    previous = frames[0]
    for t in range(1, 5):  # by hand
        feature = model.frame_transformation(previous)
        label = model.label_transformation(labels[t])
        assert model.Prior_Predictor is not None
        mu, logvar = model.Prior_Predictor.moments(feature, label)
        z = mu + (0.5 * logvar).exp() * next(latents)
        previous = model.decode(feature, label, z).clamp(0, 1)
        torch.testing.assert_close(made[t - 1], previous, rtol=1e-4, atol=1e-5)
    with torch.no_grad():  # latent_scale 0 is the prior's mean, not a latent of 0
        model.Prior_Predictor[6].bias += 1.0  # type: ignore[union-attr]
    zero = prior_latents(CONFIG, 0, [0, 1], scale=0.0)
    mean = torch.stack(list(model.rollout(frames[0], labels, zero)))
    feature, label = model.frame_transformation(frames[0]), model.label_transformation(labels[1])
    mu, _ = model.Prior_Predictor.moments(feature, label)
    expected = model.decode(feature, label, mu).clamp(0, 1)
    torch.testing.assert_close(mean[0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("output", ["clamp", "sigmoid"])
def test_bounded_output(model: CVAE, output: str) -> None:
    bounded = CVAE(dataclasses.replace(CONFIG, output=output)).eval()
    bounded.load_state_dict(model.state_dict())
    frames, labels, noise = clips()
    with torch.no_grad():
        for m in (model, bounded):
            m.Generator[7].bias[0] = 2.0  # type: ignore[union-attr]
    plain = passed(model, frames, labels, noise, teacher_forcing=True).prediction
    made = passed(bounded, frames, labels, noise, teacher_forcing=True).prediction
    assert plain.max() > 1
    expected = plain.clamp(0, 1) if output == "clamp" else plain.sigmoid()
    torch.testing.assert_close(made, expected)
    if output == "clamp":  # what went out of bounds comes back
        out = passed(bounded, frames, labels, noise, teacher_forcing=True)
        out.mse.sum().backward()
        bias = bounded.Generator[7].bias
        assert isinstance(bias, torch.nn.Parameter) and bias.grad is not None
        assert bias.grad[0] > 1
    with pytest.raises(UserError, match="output"):
        dataclasses.replace(CONFIG, output="tanh").check()


# ---------------------------------------------------------------- what a step starts from


@pytest.mark.parametrize("mode", ["through", "detached", "recomputed"])
def test_each_step_is_forced_or_not_by_itself(model: CVAE, mode: str) -> None:
    frames, labels, noise = clips()
    g = torch.Generator().manual_seed(8)
    frame_noise = 0.1 * torch.randn(4, 2, 3, 8, 12, generator=g)
    forced = torch.tensor([[False, True], [True, False], [False, False], [False, True]])
    out = passed(
        model,
        *(frames, labels, noise),
        teacher_forcing=True,
        forced=forced,
        detach=mode == "detached",
        recompute=mode == "recomputed",
        frame_noise=frame_noise,
    )
    previous = frames[0]  # the first step always begins from the given frame
    for t in range(1, 5):  # by hand
        label = model.label_transformation(labels[t])
        mu, logvar = model.Gaussian_Predictor.moments(model.frame_transformation(frames[t]), label)
        z = model.Gaussian_Predictor.reparameterize(mu, logvar, noise[t - 1])
        if t > 1:
            chosen = forced[t - 1][:, None, None, None]
            previous = torch.where(chosen, frames[t - 1], previous)
        noisy = (previous.clamp(0, 1) + frame_noise[t - 1]).clamp(0, 1)
        made = model.decode(model.frame_transformation(noisy), label, z)
        torch.testing.assert_close(out.prediction[t - 1], made, rtol=1e-4, atol=1e-5)
        previous = made


@pytest.mark.parametrize("recompute", [False, True])
def test_stored_frames_take_the_place_of_true_ones(model: CVAE, recompute: bool) -> None:
    frames, labels, noise = clips()
    stored = torch.rand(4, 2, 3, 8, 12, generator=torch.Generator().manual_seed(7))
    options = {"teacher_forcing": True, "recompute": recompute}
    out = passed(model, frames, labels, noise, stored=stored, **options)
    other = passed(model, torch.cat((stored, frames[4:])), labels, noise, **options)
    torch.testing.assert_close(out.prediction[3], other.prediction[3], rtol=1e-4, atol=1e-5)
    plain = passed(model, frames, labels, noise, **options)
    torch.testing.assert_close(out.kl, plain.kl, rtol=1e-4, atol=1e-3)  # the posterior sees truth
    assert not torch.allclose(out.prediction, plain.prediction, atol=1e-3)
    mse = (out.prediction - frames[1:]).square().mean(dim=(2, 3, 4))  # and so does the loss
    torch.testing.assert_close(out.mse, mse)
    same = passed(model, frames, labels, noise, stored=frames[:-1], **options)
    torch.testing.assert_close(same.prediction, plain.prediction, rtol=1e-4, atol=1e-5)


# ---------------------------------------------------------------- reference frame

REFERRING = dataclasses.replace(CONFIG, reference="first")


def referring(weights: CVAE, *, active: bool) -> CVAE:
    """A model with a reference and these five networks; active: its own parts do something."""
    torch.manual_seed(1)
    model = CVAE(REFERRING).eval()
    model.load_state_dict({**model.state_dict(), **weights.state_dict()})
    return activated(model) if active else model


@torch.no_grad()
def activated(model: CVAE) -> CVAE:
    """Its parts for the reference do something."""
    assert model.Background_Mask is not None and model.Reference_Fusion is not None
    model.Reference_Fusion.weight.normal_(std=0.1)
    model.Background_Mask.share.weight.normal_(std=0.3)
    model.Background_Mask.share.bias.fill_(0.4)  # type: ignore[union-attr]
    return model


def given_reference(seed: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    frame, label = torch.rand(2, 2, 3, 8, 12, generator=g)
    return frame, label


MODES = [
    {"teacher_forcing": True, "sequential": False},
    {"teacher_forcing": False, "sequential": True},
    {"teacher_forcing": False, "sequential": True, "detach": True},
]


@pytest.mark.parametrize("mode", MODES)
def test_a_reference_changes_nothing_at_first(model: CVAE, mode: dict[str, bool]) -> None:
    frames, labels, noise = clips()
    forced, *rest = mode.items()
    previous = Previous.of(frames, teacher_forcing=forced[1])
    plain = model(frames, labels, noise, previous, **dict(rest))
    silent, active = referring(model, active=False), referring(model, active=True)
    reference = given_reference()
    out = silent(frames, labels, noise, previous, **dict(rest), reference=reference)
    as_shown = plain.prediction.clamp(0, 1)
    torch.testing.assert_close(out.prediction, as_shown, rtol=1e-5, atol=1e-6)
    out = active(frames, labels, noise, previous, **dict(rest), reference=reference)  # the control
    assert not torch.allclose(out.prediction, as_shown, atol=1e-2)
    torch.testing.assert_close(out.kl, plain.kl, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("mode", MODES)
def test_composite_by_hand(model: CVAE, mode: dict[str, bool]) -> None:
    active = referring(model, active=True)
    frames, labels, noise = clips()
    frame, label_0 = given_reference()
    forced, *rest = mode.items()
    previous = Previous.of(frames, teacher_forcing=forced[1])
    out = active(frames, labels, noise, previous, **dict(rest), reference=(frame, label_0))
    start = frames[0]
    assert active.Background_Mask is not None and active.Reference_Fusion is not None
    for t in range(1, 5):
        label, label_r = (active.label_transformation(x) for x in (labels[t], label_0))
        mu, logvar = active.Gaussian_Predictor.moments(
            active.frame_transformation(frames[t]), label
        )
        z = mu + (0.5 * logvar).exp() * noise[t - 1]
        feature = active.frame_transformation(start) + active.Reference_Fusion(
            active.frame_transformation(frame), label_r
        )
        last = active.Decoder_Fusion(feature, label, z)
        for layer in list(active.Generator)[:-1]:
            last = layer(last)
        generated = active.Generator[-1](last).clamp(0, 1)
        m = active.Background_Mask(last, generated, frame, label, label_r)
        assert m.min() >= 0 and m.max() <= 1 and m.std() > 0.01
        made = (1 - m) * generated + m * frame
        torch.testing.assert_close(out.prediction[t - 1], made, rtol=1e-4, atol=1e-5)
        start = frames[t] if forced[1] else made.clamp(0, 1)


def test_what_the_reference_covers_cannot_ruin_a_step(model: CVAE) -> None:
    """Where it is covered nothing holds the generator back: 1e12 must stay harmless."""
    active = referring(model, active=True)
    frames, labels, noise = clips()
    last = active.Generator[-1]
    assert isinstance(last, torch.nn.Conv2d) and last.bias is not None
    with torch.no_grad():
        last.bias.fill_(1e12)
    previous = Previous.of(frames, teacher_forcing=True)
    out = active(frames, labels, noise, previous, sequential=False, reference=given_reference())
    assert out.prediction.min() >= 0 and out.prediction.max() <= 1
    out.mse.sum().backward()
    assert last.bias.grad is not None and (last.bias.grad > 0).all()  # so it comes back


@pytest.mark.parametrize("mode", MODES)
def test_recomputing_with_a_reference_changes_no_value(
    mode: dict[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    frames, labels, noise = (x.double() for x in clips(steps=11))
    reference = tuple(x.double() for x in given_reference())
    forced, *rest = mode.items()
    found = []
    for recompute in (False, True):
        torch.manual_seed(0)
        network = referring(CVAE(CONFIG), active=True).double().train()
        measure(network, labels)
        previous = Previous.of(frames, teacher_forcing=forced[1])
        out = network(
            *(frames, labels, noise, previous),
            **dict(rest),
            recompute=recompute,
            reference=reference,
        )
        (out.mse.mean() + 1e-3 * out.kl.mean()).backward()
        found.append((out, {name: p.grad for name, p in network.named_parameters()}))
    (out, gradients), (again, gradients_again) = found
    for a, b in zip(out, again, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradients_again[name], gradient, rtol=1e-7, atol=1e-12, msg=name)


# ---------------------------------------------------------------- folded


def folded_model(fold: int) -> CVAE:
    """With a reference whose parts do something."""
    torch.manual_seed(2)
    size = {"F_dim": 12, "D_out_dim": 12, "frame_H": 16, "frame_W": 32}
    return activated(CVAE(dataclasses.replace(REFERRING, fold=fold, **size)).eval())


def fold_by_hand(x: torch.Tensor, fold: int) -> torch.Tensor:
    """(B, 3, H, W) → (B, 3·fold², H/fold, W/fold), the pixels of a colour row by row."""
    places = itertools.product(range(fold), repeat=2)
    parts = torch.stack([x[..., i::fold, j::fold] for i, j in places], dim=2)
    return parts.flatten(1, 2)


@pytest.mark.parametrize("fold", [2, 4])
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("forced", [True, False])
def test_a_folded_model_is_its_networks_on_folded_pixels(
    fold: int, recompute: bool, forced: bool
) -> None:
    model, config = folded_model(fold), folded_model(fold).config
    assert config.latent_shape == (4, 16 // fold, 32 // fold)
    g = torch.Generator().manual_seed(0)
    frames, labels, added = torch.rand(3, 3, 2, 3, 16, 32, generator=g)
    epsilon, added = torch.randn(2, 2, *config.latent_shape, generator=g), 0.1 * added[1:]
    previous = Previous.of(frames, teacher_forcing=forced)._replace(noise=added)
    reference = (frames[2], labels[2])
    out = model(
        *(frames, labels, epsilon, previous),
        sequential=not forced,
        recompute=recompute,
        reference=reference,
    )
    assert model.Background_Mask is not None and model.Reference_Fusion is not None
    frame, label_r = (fold_by_hand(x, fold) for x in reference)
    label_r = model.label_transformation(label_r)
    start = frames[0]
    for t in (1, 2):
        start = (start + added[t - 1]).clamp(0, 1)
        target, label = fold_by_hand(frames[t], fold), fold_by_hand(labels[t], fold)
        label = model.label_transformation(label)
        mu, logvar = model.Gaussian_Predictor.moments(model.frame_transformation(target), label)
        z = mu + (0.5 * logvar).exp() * epsilon[t - 1]
        feature = model.frame_transformation(fold_by_hand(start, fold))
        feature = feature + model.Reference_Fusion(model.frame_transformation(frame), label_r)
        last = model.Generator.last_features(model.Decoder_Fusion(feature, label, z))
        made = model.Generator[-1](last).clamp(0, 1)
        share = model.Background_Mask(last, made, frame, label, label_r)
        unfolded, share = torch.empty_like(frames[0]), share[:, None].expand(-1, 3, -1, -1, -1)
        made, behind = made.unflatten(1, (3, -1)), frame.unflatten(1, (3, -1))
        for k, (i, j) in enumerate(itertools.product(range(fold), repeat=2)):
            m = share[:, :, k]  # one share for the three colours of a pixel
            unfolded[..., i::fold, j::fold] = (1 - m) * made[:, :, k] + m * behind[:, :, k]
        torch.testing.assert_close(out.prediction[t - 1], unfolded, rtol=1e-4, atol=1e-5)
        mse = (unfolded - frames[t]).square().mean(dim=(1, 2, 3))
        torch.testing.assert_close(out.mse[t - 1], mse, rtol=1e-4, atol=1e-6)
        start = frames[t] if forced else unfolded.detach().clamp(0, 1)


@pytest.mark.parametrize("fold", [2, 4])
def test_a_folded_rollout_feeds_back_what_it_returns(fold: int) -> None:
    model = folded_model(fold)
    g = torch.Generator().manual_seed(0)
    frames, labels = torch.rand(2, 4, 1, 3, 16, 32, generator=g)
    labels = (255 * labels).byte()

    made = list(model.rollout(frames[0], labels, prior_latents(model.config, 0, [0])))
    assert [frame.shape for frame in made] == [(1, 3, 16, 32)] * 3
    previous = Previous(torch.stack((frames[0], *made[:2])), torch.ones(3, 1, dtype=torch.bool))
    z = torch.stack(list(itertools.islice(prior_latents(model.config, 0, [0]), 3)))
    with mock.patch.object(CVAE, "_posterior", only_prior):
        out = model(
            *(torch.stack((frames[0], *made)), labels / 255, z, previous),
            sequential=False,
            reference=(frames[0], labels[0] / 255),
        )
    torch.testing.assert_close(out.prediction, torch.stack(made), rtol=1e-4, atol=1e-5)


def only_prior(
    _: CVAE, frame_features: torch.Tensor, label_features: torch.Tensor, epsilon: torch.Tensor
) -> Posterior:
    """ε in place of the posterior's z."""
    z = epsilon.flatten(0, 1)
    return Posterior(label_features, z, z, z)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"fold": 3}, "fold 3: is not one of"),
        ({"fold": 4, "frame_H": 30}, "--fold 4: --frame_H .* multiple of 4 .*: 28 or 32"),
        ({"fold": 8, "frame_W": 24}, "--frame_W .* at least 32, not 24: 32"),
    ],
)
def test_frames_that_cannot_be_folded_are_refused(wrong: dict[str, int], says: str) -> None:
    with pytest.raises(UserError, match=says):
        CVAE(ModelConfig(**wrong))


def test_rollout_refers_to_the_first_frame_and_label(model: CVAE) -> None:
    active = referring(model, active=True)
    frames, labels, _ = clips(steps=40)
    base = roll(active, frames, labels)
    again = roll(active, frames, changed(labels, 0))  # label 0 is the reference's
    assert (base - again).abs().amax(dim=(1, 2, 3, 4)).min() > 0
    assert torch.equal(base, roll(active, changed(frames, 7), labels))
    unsigned = (labels * 255).round().to(torch.uint8)
    exact = unsigned.float() / 255
    torch.testing.assert_close(roll(active, frames, unsigned), roll(active, frames, exact))


def test_every_part_of_a_reference_learns(model: CVAE) -> None:
    network = referring(model, active=False).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    frames, labels, noise = clips()
    previous = Previous.of(frames, teacher_forcing=True)
    for _ in range(2):  # zero-initialised last layers learn first, what is before them then
        optimizer.zero_grad()
        out = network(
            *(frames, labels, noise, previous), sequential=False, reference=given_reference()
        )
        out.mse.mean().backward()
        optimizer.step()
    for name, p in network.named_parameters():
        if name.startswith(("Reference_Fusion", "Background_Mask")):
            assert p.grad is not None and p.grad.abs().max() > 0, name
