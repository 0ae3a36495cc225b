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
from modules.optim import (
    LARGEST,
    MOMENTUM,
    NEWTON_SCHULZ,
    ROUNDS,
    SCALE,
    SIZES,
    SMALLEST,
    START,
    GuardedUpdate,
    LossScale,
    Matrices,
    Muon,
    WeightAverage,
    is_matrix,
    make_optimizer,
    set_learning_rate,
    shared_sizes,
)
from modules.runtime.errors import UserError
from tests.support.small_run import new_run, options_of, part_of, run_epochs

CONFIG = ModelConfig(F_dim=8, L_dim=4, N_dim=4, D_out_dim=8, frame_H=8, frame_W=12)
CPU = torch.device("cpu")
YES, NO = torch.tensor(True), torch.tensor(False)

# ---------------------------------------------------------------- Muon


def orthogonalised(matrix: Tensor) -> Tensor:
    """Of one matrix, (rows, columns), by itself; Jordan et al. 2024, as printed there."""
    x = matrix.mT if matrix.shape[0] > matrix.shape[1] else matrix
    x = x / (torch.linalg.matrix_norm(x) + 1e-7)
    a, b, c = NEWTON_SCHULZ
    for _ in range(ROUNDS):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x.mT if matrix.shape[0] > matrix.shape[1] else x


def all_at_once(matrices: list[Tensor]) -> list[Tensor]:
    """The same of all of them, by the code that is tested."""
    kernels = [m[:, :, None, None] for m in matrices]
    together = Matrices(kernels)
    found = together.split(together.orthogonalised(together.joined(kernels)))
    return [x.flatten(1) for x in found]


def test_orthogonalised_keeps_the_singular_vectors() -> None:
    torch.manual_seed(0)
    matrices = [torch.randn(shape) for shape in ((6, 6), (4, 30), (30, 4), (5, 7))]
    for matrix, found in zip(matrices, all_at_once(matrices), strict=True):
        u, _, v = torch.linalg.svd(matrix, full_matrices=False)
        values = (u.mT @ found @ v.mT).diagonal()
        assert values.min() > 0.6 and values.max() < 1.3
        torch.testing.assert_close(u @ torch.diag(values) @ v, found, rtol=1e-3, atol=1e-3)
        assert torch.linalg.svdvals(matrix).max() > 1.5  # the control: it was not so before


def test_filling_up_with_zeros_changes_no_matrix() -> None:
    """More sizes than there are batches, so that several share one that fits none of them."""
    torch.manual_seed(0)
    shapes = [(4 + i, 5 + 3 * j) for i in range(6) for j in range(4)]
    matrices = [torch.randn(shape) for shape in shapes]
    filled = shared_sizes([(min(s), max(s)) for s in shapes], SIZES)
    assert len(set(filled.values())) <= SIZES < len({(min(s), max(s)) for s in shapes})
    assert all(a <= c and b <= d for (a, b), (c, d) in filled.items())
    for matrix, found in zip(matrices, all_at_once(matrices), strict=True):
        torch.testing.assert_close(found, orthogonalised(matrix), rtol=1e-4, atol=1e-5)


def test_channels_last_kernels_are_the_same_matrices() -> None:
    """Their columns come in another order, which Newton-Schulz does not see."""
    torch.manual_seed(0)
    kernels = [torch.randn(8, 4, 3, 3), torch.randn(12, 6, 1, 1), torch.randn(4, 8, 3, 3)]
    changes = []
    for memory in (torch.contiguous_format, torch.channels_last):
        together = Matrices([k.clone(memory_format=memory) for k in kernels])
        # Gradients may lie in memory in another way than their weights.
        joined = together.joined([k.clone(memory_format=torch.contiguous_format) for k in kernels])
        assert all(torch.equal(a, b) for a, b in zip(together.split(joined), kernels, strict=True))
        changes.append(together.split(together.orthogonalised(joined)))
    for a, b in zip(*changes, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_what_muon_takes() -> None:
    """Kernels that mix channels, but for those that make pixels, which Adam has."""
    names = {name for name, p in CVAE(CONFIG).named_parameters() if is_matrix(p)}
    assert "frame_transformation.4.conv1.weight" in names
    assert "Decoder_Fusion.0.block.1.conv.weight" in names
    assert not any("depth_conv" in name or "bias" in name for name in names)
    assert "Generator.7.weight" not in names  # three outputs: the colours
    assert len(names) > 30
    # Those of a folded model have many rows; the control is the layer before.
    model = CVAE(dataclasses.replace(CONFIG, fold=2, reference="first"))
    muon = make_optimizer(model, options_of("--optim Muon"))
    taken = {id(p) for p in muon.param_groups[1]["params"]}
    left = {name for name, p in model.named_parameters() if is_matrix(p) and id(p) not in taken}
    assert left == {"Generator.7.weight", "Background_Mask.share.weight"}


def one_step(optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    for p in parameters:
        p.grad = torch.randn(p.shape, generator=g)
    optimizer.step()


def new_parameters() -> list[nn.Parameter]:
    torch.manual_seed(1)
    shapes = ((8, 4, 3, 3), (8,), (8, 1, 3, 3), (3, 8, 1, 1), (4, 8, 1, 1))
    return [nn.Parameter(torch.randn(shape)) for shape in shapes]


def test_muon_s_steps_by_hand() -> None:
    parameters = new_parameters()
    before = [p.detach().clone() for p in parameters]
    adam = [nn.Parameter(p.clone()) for p in before]
    muon, reference = Muon(parameters, lr=0.02), torch.optim.Adam(adam, lr=0.02)
    set_learning_rate(muon, 0.01)
    set_learning_rate(reference, 0.01)
    expected = {0: before[0].clone(), 4: before[4].clone()}
    momenta = {i: torch.zeros_like(p) for i, p in expected.items()}
    for seed in range(3):
        one_step(muon, parameters, seed)
        one_step(reference, adam, seed)
        for i, p in expected.items():
            gradient = parameters[i].grad
            momenta[i] = MOMENTUM * momenta[i] + (1 - MOMENTUM) * gradient
            ahead = (1 - MOMENTUM) * gradient + MOMENTUM * momenta[i]
            change = orthogonalised(ahead.flatten(1)).view_as(p)
            expected[i] = p - 0.01 * SCALE * math.sqrt(max(p.shape[0], p[0].numel())) * change
    for i, p in expected.items():
        torch.testing.assert_close(parameters[i].detach(), p, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(parameters[i], adam[i], atol=1e-3)
    for i in (1, 2, 3):  # the rest is Adam's
        torch.testing.assert_close(parameters[i], adam[i])


@pytest.mark.parametrize(
    ("typed", "kind"),
    [("Adam", torch.optim.Adam), ("AdamW", torch.optim.AdamW), ("Muon", Muon)],
)
def test_the_optimiser_is_the_one_that_was_asked_for(typed: str, kind: type) -> None:
    state, _ = new_run(f"--optim {typed} --ema 0.7 --lr 0.02")
    assert type(state.optimizer) is kind
    assert {group["lr"] for group in state.optimizer.param_groups} == {0.02}
    assert state.average.decay == 0.7


# ---------------------------------------------------------------- the guarded update


class Straight(nn.Module):
    """A model of two weights, whose gradient is what its loss is made of."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1))

    def loss(self, *gradient: float) -> Tensor:
        return (torch.cat((self.a, self.b)) * torch.tensor(gradient)).sum()


def moved(gradient: tuple[float, ...], max_norm: float, scale: LossScale | None) -> Tensor:
    """By a step of plain gradient descent at a rate of 1."""
    model = Straight()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, fused=True)
    update = GuardedUpdate(model, optimizer, None, max_norm, scale)
    loss = model.loss(*gradient)
    outcome = update(loss, loss.detach())
    assert (outcome.overflowed is None) == (scale is None)
    assert outcome.finite == torch.isfinite(torch.tensor(gradient)).all()
    return -torch.cat((model.a, model.b)).detach()


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("limit", [0.5, 5.0, 100.0, 0.0])
def test_gradients_are_clipped_by_the_norm_of_all_of_them(limit: float, scaled: bool) -> None:
    """Unscaled: the loss's scale must not count. 0 is no clipping."""
    gradient = torch.tensor([3.0, -4.0, 12.0])  # norm 13
    expected = gradient * (min(1.0, limit / 13) if limit else 1.0)
    found = moved((3.0, -4.0, 12.0), limit, LossScale(CPU) if scaled else None)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
@pytest.mark.parametrize("limit", [0.0, 1.0])
def test_one_wrong_value_in_a_gradient_moves_nothing(limit: float, wrong: float) -> None:
    assert moved((1.0, wrong, 1.0), limit, None).abs().max() == 0


def everything(state: Any) -> list[Tensor]:
    """All that a step may change: weights, moments, the average, sums and the loss's scale."""
    found = [*state.model.state_dict().values(), state.sums.sums, state.sums.posterior]
    for own in state.optimizer.state_dict()["state"].values():
        found += own.values()
    found += [*state.average.model.state_dict().values(), state.average.steps]
    if state.scale is not None:
        found += state.scale.state_dict().values()
    return [torch.as_tensor(x).clone() for x in found]


@pytest.mark.parametrize(
    ("optimiser", "precision"),
    [("Adam", "float32"), ("AdamW", "float16"), ("Muon", "float32"), ("Muon", "float16")],
)
def test_a_step_that_is_not_to_be_changes_nothing(optimiser: str, precision: str) -> None:
    state, step = new_run(f"--ema 0.9 --optim {optimiser} --precision {precision}")
    if state.scale is not None:
        state.scale.value.fill_(2.0**8)
    step(part_of(step, [0, 5]), teacher_forcing=True)
    before, sums = everything(state), state.sums.read()
    assert sums.trained == 2

    def same() -> bool:
        return all(torch.equal(a, b) for a, b in zip(everything(state), before, strict=True))

    broken = part_of(step, [0, 5], number=1)
    broken.draws.latent[1, 0, 0, 0, 0] = math.nan  # one value of ε
    with step.disabled():  # while a graph is warmed up
        for part in (part_of(step, [7, 9], number=1), broken):
            for teacher_forcing in (True, False):
                step(part, teacher_forcing=teacher_forcing)
                assert same()
    step(broken, teacher_forcing=True)
    assert state.sums.read() == sums._replace(skipped=2.0, skipped_in_a_row=1.0)
    state.sums.restore(list(sums), before[len(state.model.state_dict()) + 1])
    assert same()
    step(part_of(step, [7, 9], number=1), teacher_forcing=True)  # the control
    assert state.sums.read().trained == 4
    changed = [not torch.equal(a, b) for a, b in zip(everything(state), before, strict=True)]
    assert sum(changed) > 0.9 * len(changed)


def test_average_of_the_weights() -> None:
    torch.manual_seed(0)
    model = CVAE(CONFIG)
    average = WeightAverage(model, 0.26)
    bias = model.Generator[7].bias
    expected = bias.detach().clone()
    count = 0
    for n, applied in enumerate((True, False, True, True)):
        with torch.no_grad():
            bias += n + 1
        average.update(torch.tensor(applied))
        if applied:
            count += 1
            decay = min(0.26, (1 + count) / (10 + count))  # 2/11, 3/12, then 0.26
            expected = decay * expected + (1 - decay) * bias.detach()
        torch.testing.assert_close(average.model.Generator[7].bias.detach(), expected)
    assert not torch.allclose(expected, bias, atol=0.1)  # the control: they differ


# ---------------------------------------------------------------- the loss's scale

ONE, INF, NAN = torch.ones(()), torch.tensor(math.inf), torch.tensor(math.nan)


def test_the_factor_moves_as_pytorch_s_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch._amp_update_scale_ with a backoff of ½ and a growth of 2, on the same outcomes."""
    monkeypatch.setattr(optim, "SOUND_STEPS", 5)
    ours, sound = LossScale(CPU), torch.zeros((), dtype=torch.int32)
    theirs = torch.full((), START)
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
        (ONE, INF, YES, START / 2, True),
        (ONE, ONE, YES, START, False),
        (NAN, NAN, YES, START, False),  # no smaller factor would help
        (ONE, INF, NO, START, True),  # a graph that is warmed up
        (ONE, INF, YES, SMALLEST, False),  # from the smallest on
        (ONE, ONE, YES, LARGEST, False),  # from the largest on, after many sound steps
    ],
)
def test_what_moves_the_factor(
    loss: Tensor, norm: Tensor, enabled: Tensor, value: float, overflowed: bool
) -> None:
    scale = LossScale(CPU)
    if value in (SMALLEST, LARGEST):
        scale.load_state_dict({"value": value, "sound": optim.SOUND_STEPS - 1})
    assert scale.update(loss, norm, enabled).item() == overflowed
    assert scale.value.item() == value


def weights(state: Any) -> Tensor:
    return torch.cat([p.detach().flatten() for p in state.model.parameters()])


@pytest.mark.parametrize("optimiser", ["Adam", "Muon"])
def test_float16_trains_nearly_as_float32(optimiser: str) -> None:
    found = {}
    for factor in (None, 2.0**10, SMALLEST):
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
    errors = {f: (found[f] - exact).norm() / exact.norm() for f in (2.0**10, SMALLEST)}
    assert errors[2.0**10] < 0.25
    # The control: a factor that makes small gradients 0, of which Adam makes steps as of others.
    assert errors[SMALLEST] > 2 * errors[2.0**10]


def test_a_step_that_overflows_is_left_out_and_is_no_failure() -> None:
    state, step = new_run("--ema 0.9 --precision float16")
    state.scale.value.fill_(2.0**31)
    before = weights(state)
    (averages,) = run_epochs(state, step, 1)
    assert torch.equal(weights(state), before) and state.average.steps == 0
    assert state.scale.value.item() == 2.0**28  # three steps
    assert (averages.skipped, averages.frames) == (0, 15)  # which frames/s counts
    assert math.isnan(averages.loss)  # nothing entered the average
    assert state.sums.read().skipped_in_a_row == 0


def test_a_run_that_diverges_is_refused_whatever_the_factor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in (losses, training):
        monkeypatch.setattr(module, "MAX_SKIPPED_STEPS", 4)
    state, step = new_run("--precision float16")
    nn.init.constant_(state.model.Generator[7].bias, math.nan)
    with pytest.raises(UserError, match=r"epoch 1: 4 training steps in a row .* diverged"):
        run_epochs(state, step)
    assert state.scale.value.item() == START


def test_the_factor_is_saved_and_resumed(tmp_path: Path) -> None:
    def go_on(resumed: bool, without: bool = False) -> tuple[Tensor, dict[str, float]]:
        state, step = new_run("--precision float16", tmp_path)
        if resumed:
            saved = load_checkpoint(tmp_path / LAST)
            assert saved.training["loss_scale"] == {"value": 2.0**9, "sound": 498.0}
            if without:  # an older checkpoint: it loads, and starts anew
                del saved.training["loss_scale"]
            state.model.load_state_dict(saved.state_dict)
            state.resume_from(saved)
        else:
            run_epochs(state, step, 1)
            state.scale.load_state_dict({"value": 2.0**9, "sound": 498.0})
            state.save()
        run_epochs(state, step, 1)
        return weights(state), state.scale.state_dict()

    alone, resumed, without = go_on(False), go_on(True), go_on(True, without=True)
    assert resumed[1] == alone[1] == {"value": 2.0**10, "sound": 1.0}  # it grew in that epoch
    assert torch.equal(resumed[0], alone[0])
    assert without[1] != alone[1]  # the control
    for precision in ("float32", "bfloat16"):
        state, _ = new_run(f"--precision {precision}", tmp_path)
        state.save()
        assert state.scale is None and "loss_scale" not in load_checkpoint(tmp_path / LAST).training
