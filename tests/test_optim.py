"""Optimisers, the guarded update with clipping and the loss's scale, and averaged weights."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from modules import losses, optim, training
from modules.checkpoint import LAST, load_checkpoint
from modules.cvae import CVAE, ModelConfig
from modules.runtime.errors import UserError
from tests.support.small_run import new_run, options_of, part_of, run_epochs

CONFIG = ModelConfig(F_dim=8, L_dim=4, N_dim=4, D_out_dim=8, frame_H=8, frame_W=12)
CPU = torch.device("cpu")
YES, NO = torch.tensor(True), torch.tensor(False)

# ---------------------------------------------------------------- Muon


def by_singular_values(matrix: Tensor) -> Tensor:
    """Five times the polynomial of Jordan et al. 2024, of the singular values."""
    u, s, v = torch.linalg.svd(matrix.double(), full_matrices=False)
    s = s / torch.linalg.vector_norm(s)
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return (u @ torch.diag(s) @ v).float()


def test_all_matrices_at_once_are_each_by_itself() -> None:
    """More sizes than batches, so that several share one that fits none of them and are filled up;
    in any memory layout of kernels and gradients: Newton-Schulz does not see columns' order."""
    torch.manual_seed(0)
    shapes = [(4 + i, 5 + 3 * j) for i in range(6) for j in range(4)]
    filled = optim.shared_sizes([(min(s), max(s)) for s in shapes], optim.SIZES)
    assert len(set(filled.values())) <= optim.SIZES < len({(min(s), max(s)) for s in shapes})
    assert all(a <= c and b <= d for (a, b), (c, d) in filled.items())
    kernels = [torch.randn(*s, 1, 1) for s in shapes]
    kernels += [torch.randn(8, 4, 3, 3), torch.randn(4, 8, 3, 3)]
    expected = [by_singular_values(k.flatten(1)).view_as(k) for k in kernels]
    for memory in (torch.contiguous_format, torch.channels_last):
        together = optim.Matrices([k.clone(memory_format=memory) for k in kernels])
        joined = together.joined([k.clone(memory_format=torch.contiguous_format) for k in kernels])
        assert all(map(torch.equal, together.split(joined), kernels))
        found = together.split(together.orthogonalised(joined))
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_what_muon_takes() -> None:
    """Kernels that mix channels, but for those that make pixels."""
    for more in ({}, {"fold": 2, "reference": "first"}):
        model = CVAE(dataclasses.replace(CONFIG, **more))
        muon = optim.make_optimizer(model, options_of("--optim Muon"))
        taken = {id(p) for p in muon.param_groups[1]["params"]}
        mixing = {
            name
            for name, p in model.named_parameters()
            if p.dim() == 4 and "depth_conv" not in name and p.shape[1] > 1
        }
        found = {name for name, p in model.named_parameters() if id(p) in taken}
        assert len(found) > 30
        outputs = {"Generator.7.weight", "Background_Mask.share.weight"}
        assert found == {n for n in mixing - outputs if model.get_parameter(n).shape[0] > 3}


def test_muon_s_steps_by_hand() -> None:
    torch.manual_seed(1)
    shapes = ((8, 4, 3, 3), (8,), (8, 1, 3, 3), (3, 8, 1, 1), (4, 8, 1, 1))
    before = [torch.randn(shape) for shape in shapes]
    parameters, others = ([nn.Parameter(p.clone()) for p in before] for _ in "ab")
    optimizers = optim.Muon(parameters, lr=0.02), torch.optim.Adam(others, lr=0.02)
    expected = {0: before[0], 4: before[4]}
    momenta = {i: torch.zeros_like(p) for i, p in expected.items()}
    for optimizer in optimizers:
        optim.set_learning_rate(optimizer, 0.01)
    for _ in range(3):
        for p, other in zip(parameters, others, strict=True):
            p.grad = other.grad = torch.randn(p.shape)
        for optimizer in optimizers:
            optimizer.step()
        for i, p in expected.items():
            momenta[i] = 0.95 * momenta[i] + 0.05 * parameters[i].grad
            ahead = 0.05 * parameters[i].grad + 0.95 * momenta[i]
            change = by_singular_values(ahead.flatten(1)).view_as(p)
            expected[i] = p - 0.01 * 0.4 * math.sqrt(max(p.shape[0], p[0].numel())) * change
    for i, p in expected.items():
        torch.testing.assert_close(parameters[i].detach(), p, rtol=1e-3, atol=1e-4)
    for i in (1, 2, 3):  # the rest is Adam's
        torch.testing.assert_close(parameters[i], others[i])


@pytest.mark.parametrize(
    ("typed", "kind", "decay"),
    [("Adam", torch.optim.Adam, 0), ("AdamW", torch.optim.AdamW, 0.01), ("Muon", optim.Muon, 0)],
)
def test_the_optimiser_is_the_one_that_was_asked_for(typed: str, kind: type, decay: float) -> None:
    state, _ = new_run(f"--optim {typed} --ema 0.7 --lr 0.02")
    assert type(state.optimizer) is kind
    for group in state.optimizer.param_groups:
        assert (group["lr"], group["betas"], group["weight_decay"]) == (0.02, (0.9, 0.999), decay)
    assert state.average.decay == 0.7


# ---------------------------------------------------------------- the guarded update


def moved(gradient: tuple[float, ...], max_norm: float, scaled: bool = False) -> Tensor:
    """By a step of plain gradient descent at a rate of 1, of weights in two tensors."""
    model = nn.ParameterList([torch.zeros(2), torch.zeros(1)])
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, fused=True)
    scale = optim.LossScale(CPU) if scaled else None
    update = optim.GuardedUpdate(model, optimizer, None, max_norm, scale)
    loss = (torch.cat([*model]) * torch.tensor(gradient)).sum()
    outcome = update(loss, loss.detach())
    assert (outcome.overflowed is None) == (not scaled)
    assert outcome.finite == torch.isfinite(torch.tensor(gradient)).all()
    return -torch.cat([*model]).detach()


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("limit", [0.5, 5.0, 100.0, 0.0])
def test_gradients_are_clipped_by_the_norm_of_all_of_them(limit: float, scaled: bool) -> None:
    """Unscaled: the loss's scale must not count. 0 is no clipping."""
    gradient = (3.0, -4.0, 12.0)  # norm 13
    expected = torch.tensor(gradient) * (min(1.0, limit / 13) if limit else 1.0)
    torch.testing.assert_close(moved(gradient, limit, scaled), expected, rtol=1e-5, atol=0)
    for wrong in (math.nan, math.inf):  # one value of a gradient
        assert moved((1.0, wrong, 1.0), limit).abs().max() == 0


def everything(state: Any) -> list[Tensor]:
    """All that a step may change: weights, moments, the average, sums and the loss's scale."""
    found = [*state.model.state_dict().values(), state.sums.sums, state.sums.posterior]
    for own in state.optimizer.state_dict()["state"].values():
        found += own.values()
    found += [*state.average.model.state_dict().values(), state.average.steps]
    found += state.scale.state_dict().values() if state.scale else []
    return [torch.as_tensor(x).clone() for x in found]


@pytest.mark.parametrize(("optimiser", "precision"), [("AdamW", "float16"), ("Muon", "float32")])
def test_a_step_that_is_not_to_be_changes_nothing(optimiser: str, precision: str) -> None:
    state, step = new_run(f"--ema 0.9 --optim {optimiser} --precision {precision}")
    if state.scale is not None:
        state.scale.value.fill_(2.0**8)
    step(part_of(step, [0, 5]), teacher_forcing=True)
    before, sums = everything(state), state.sums.read()
    assert sums.trained == 2
    sound, broken = (part_of(step, [7, 9], number=1) for _ in "ab")
    broken.draws.latent[1, 0, 0, 0, 0] = math.nan  # one value of ε

    def changed() -> float:
        """The share that is."""
        pairs = zip(everything(state), before, strict=True)
        return sum(not torch.equal(a, b) for a, b in pairs) / len(before)

    with step.disabled():  # while a graph is warmed up
        for part in (sound, broken):
            step(part, teacher_forcing=part is sound)
            assert changed() == 0
    step(broken, teacher_forcing=True)
    assert state.sums.read() == sums._replace(skipped=2.0, skipped_in_a_row=1.0)
    state.sums.restore(list(sums), before[len(state.model.state_dict()) + 1])
    assert changed() == 0
    step(sound, teacher_forcing=True)  # the control
    assert state.sums.read().trained == 4 and changed() > 0.9


def test_average_of_the_weights() -> None:
    model = CVAE(CONFIG)
    average, bias = optim.WeightAverage(model, 0.26), model.Generator[7].bias
    expected = bias.detach().clone()
    # The first ones remember less: (1 + n) / (10 + n).
    for n, decay in enumerate((2 / 11, None, 3 / 12, 0.26)):
        with torch.no_grad():
            bias += n + 1
        average.update(torch.tensor(decay is not None))
        if decay is not None:
            expected = decay * expected + (1 - decay) * bias.detach()
        torch.testing.assert_close(average.model.Generator[7].bias.detach(), expected)


# ---------------------------------------------------------------- the loss's scale

ONE, INF, NAN = torch.ones(()), torch.tensor(math.inf), torch.tensor(math.nan)


def test_the_factor_moves_as_pytorch_s_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch._amp_update_scale_ with a backoff of ½ and a growth of 2, on the same outcomes."""
    monkeypatch.setattr(optim, "SOUND_STEPS", 5)
    ours, sound = optim.LossScale(CPU), torch.zeros((), dtype=torch.int32)
    theirs = torch.full((), optim.START)
    g, values = torch.Generator().manual_seed(0), set()
    for _ in range(200):
        wrong = torch.rand((), generator=g) < 0.1
        assert ours.update(ONE, NAN if wrong else ONE, YES).item() == wrong.item()
        torch._amp_update_scale_(theirs, sound, wrong.float(), 2.0, 0.5, 5)
        assert (ours.value.item(), ours.sound.item()) == (theirs.item(), sound.item())
        values.add(theirs.item())
    assert len(values) > 3  # the control: it moved


@pytest.mark.parametrize(
    ("loss", "norm", "enabled", "value", "overflowed"),
    [
        (NAN, NAN, YES, optim.START, False),  # no smaller factor would help
        (ONE, INF, NO, optim.START, True),  # a graph that is warmed up
        (ONE, INF, YES, optim.SMALLEST, False),  # from the smallest on
        (ONE, ONE, YES, optim.LARGEST, False),  # from the largest on, after many sound steps
    ],
)
def test_what_moves_the_factor(
    loss: Tensor, norm: Tensor, enabled: Tensor, value: float, overflowed: bool
) -> None:
    scale = optim.LossScale(CPU)
    if value in (optim.SMALLEST, optim.LARGEST):
        scale.load_state_dict({"value": value, "sound": optim.SOUND_STEPS - 1})
    assert scale.update(loss, norm, enabled).item() == overflowed
    assert scale.value.item() == value


def weights(state: Any) -> Tensor:
    return torch.cat([p.detach().flatten() for p in state.model.parameters()])


@pytest.mark.parametrize("optimiser", ["Adam", "Muon"])
def test_float16_trains_nearly_as_float32(optimiser: str) -> None:
    found = {}
    for factor in (None, 2.0**10, optim.SMALLEST):
        precision = "float16" if factor else "float32"
        state, step = new_run(f"--optim {optimiser} --precision {precision}")
        assert (state.scale is None) == (factor is None)
        if factor:
            state.scale.value.fill_(factor)
        before = weights(state)
        (averages,) = run_epochs(state, step, 1)
        assert (averages.skipped, averages.frames) == (0, 15)
        found[factor] = weights(state) - before
    exact = found[None]
    errors = {f: (found[f] - exact).norm() / exact.norm() for f in (2.0**10, optim.SMALLEST)}
    assert errors[2.0**10] < 0.25
    # The control: a factor that makes small gradients 0, of which Adam makes steps as of others.
    assert errors[optim.SMALLEST] > 2 * errors[2.0**10]


def test_a_step_that_overflows_is_left_out_and_is_no_failure() -> None:
    state, step = new_run("--ema 0.9 --precision float16")
    state.scale.value.fill_(2.0**31)
    before = weights(state)
    (averages,) = run_epochs(state, step, 1)
    assert torch.equal(weights(state), before) and state.average.steps == 0
    assert state.scale.value.item() == 2.0**28  # three steps
    assert (averages.skipped, averages.frames) == (0, 15)  # which frames/s counts
    assert math.isnan(averages.loss) and state.sums.read().skipped_in_a_row == 0


def test_a_run_that_diverges_is_refused_whatever_the_factor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in (losses, training):
        monkeypatch.setattr(module, "MAX_SKIPPED_STEPS", 4)
    state, step = new_run("--precision float16")
    nn.init.constant_(state.model.Generator[7].bias, math.nan)
    with pytest.raises(UserError, match=r"epoch 1: 4 training steps in a row .* diverged"):
        run_epochs(state, step)
    assert state.scale.value.item() == optim.START


def test_the_factor_is_saved_and_resumed(tmp_path: Path) -> None:
    state, _ = new_run("--precision float16", tmp_path)
    own = {"value": 2.0**9, "sound": 498.0}
    state.scale.load_state_dict(own)
    state.save()
    saved = load_checkpoint(tmp_path / LAST)
    for expected in (own, {"value": optim.START, "sound": 0.0}):
        state, _ = new_run("--precision float16", tmp_path)
        state.resume_from(saved)
        assert state.scale.state_dict() == expected
        saved.training.pop("loss_scale", None)  # an older checkpoint: it starts anew
    assert new_run("--precision bfloat16")[0].scale is None
