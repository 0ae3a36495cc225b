"""Optimisers, clipping and averaged weights."""

import copy
import dataclasses
import math

import pytest
import torch
from modules.optimizers import (
    MOMENTUM,
    NEWTON_SCHULZ,
    ROUNDS,
    SCALE,
    SIZES,
    Matrices,
    clip_gradient,
    shared_sizes,
)

from modules.cvae import CVAE, ModelConfig
from modules.optim import Muon, WeightAverage, is_matrix

CONFIG = ModelConfig(F_dim=8, L_dim=4, N_dim=4, D_out_dim=8, frame_H=8, frame_W=12)


def orthogonalised(matrix: torch.Tensor) -> torch.Tensor:
    """Of one matrix, (rows, columns), by itself; Jordan et al. 2024, as printed there."""
    x = matrix.mT if matrix.shape[0] > matrix.shape[1] else matrix
    x = x / (torch.linalg.matrix_norm(x) + 1e-7)
    a, b, c = NEWTON_SCHULZ
    for _ in range(ROUNDS):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x.mT if matrix.shape[0] > matrix.shape[1] else x


def all_at_once(matrices: list[torch.Tensor]) -> list[torch.Tensor]:
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
        assert values.min() > 0.6
        assert values.max() < 1.3
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


def test_sizes_stay_apart_where_there_are_few() -> None:
    assert shared_sizes([(2, 3), (2, 3), (4, 9)], 2) == {(2, 3): (2, 3), (4, 9): (4, 9)}
    # Of three that share two, those are joined that it costs least to fill up.
    assert shared_sizes([(2, 3), (2, 4), (9, 9)], 2) == {
        (2, 3): (2, 4),
        (2, 4): (2, 4),
        (9, 9): (9, 9),
    }


def test_channels_last_kernels_are_the_same_matrices() -> None:
    """Their columns come in another order, which Newton-Schulz does not see."""
    torch.manual_seed(0)
    kernels = [torch.randn(8, 4, 3, 3), torch.randn(12, 6, 1, 1), torch.randn(4, 8, 3, 3)]
    changes = []
    for memory in (torch.contiguous_format, torch.channels_last):
        laid = [k.clone(memory_format=memory) for k in kernels]
        together = Matrices(laid)
        # Gradients may lie in memory in another way than their weights.
        joined = together.joined([k.clone(memory_format=torch.contiguous_format) for k in kernels])
        assert all(torch.equal(a, b) for a, b in zip(together.split(joined), kernels, strict=True))
        changes.append(together.split(together.orthogonalised(joined)))
    for a, b in zip(*changes, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_kernels_that_mix_channels_are_matrices() -> None:
    names = {name for name, p in CVAE(CONFIG).named_parameters() if is_matrix(p)}
    assert "frame_transformation.4.conv1.weight" in names
    assert "Decoder_Fusion.0.block.1.conv.weight" in names
    assert not any("depth_conv" in name or "bias" in name for name in names)
    assert "Generator.7.weight" not in names  # three outputs: the colours
    assert len(names) > 30


def test_layers_that_make_pixels_are_left_to_adam() -> None:
    """Those of a folded model have many rows; the control is the layer before."""
    model = CVAE(dataclasses.replace(CONFIG, fold=2, reference="first"))
    muon = Muon(model.parameters(), model.output_kernels())
    taken = {id(p) for p in muon.param_groups[1]["params"]}
    made = {name for name, p in model.named_parameters() if is_matrix(p) and id(p) not in taken}
    assert made == {"Generator.7.weight", "Background_Mask.share.weight"}
    assert id(model.get_parameter("Generator.6.block.1.conv_out.weight")) in taken


def one_step(optimizer: torch.optim.Optimizer, parameters: list[torch.Tensor], seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    for p in parameters:
        p.grad = torch.randn(p.shape, generator=g)
    optimizer.step()


def new_parameters() -> list[torch.nn.Parameter]:
    torch.manual_seed(1)
    shapes = ((8, 4, 3, 3), (8,), (8, 1, 3, 3), (3, 8, 1, 1))
    return [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]


def test_steps_by_hand() -> None:
    parameters = new_parameters()
    before = [p.detach().clone() for p in parameters]
    adam = [torch.nn.Parameter(p.clone()) for p in before]
    muon = Muon(parameters, lr=0.01)
    reference = torch.optim.Adam(adam, lr=0.01)
    momentum = torch.zeros_like(before[0])
    expected = before[0].clone()
    for seed in range(3):
        one_step(muon, parameters, seed)
        one_step(reference, adam, seed)
        gradient = parameters[0].grad
        assert gradient is not None
        momentum = MOMENTUM * momentum + (1 - MOMENTUM) * gradient
        ahead = (1 - MOMENTUM) * gradient + MOMENTUM * momentum
        change = orthogonalised(ahead.reshape(8, 36)).reshape(8, 4, 3, 3)
        expected = expected - 0.01 * SCALE * 6.0 * change  # √36
    torch.testing.assert_close(parameters[0].detach(), expected, rtol=1e-4, atol=1e-5)
    for ours, theirs in zip(parameters[1:], adam[1:], strict=True):  # the rest is Adam's
        torch.testing.assert_close(ours, theirs)
    assert not torch.allclose(parameters[0], adam[0], atol=1e-3)


def test_what_was_found_infinite_changes_nothing() -> None:
    parameters = new_parameters()
    muon = Muon(parameters, lr=0.01, fused=True)
    one_step(muon, parameters, 0)
    kept = [p.detach().clone() for p in parameters]
    state = copy.deepcopy(muon.state_dict()["state"])
    for skip in (1.0, 0.0):
        muon.found_inf, muon.grad_scale = torch.tensor(skip), None  # type: ignore[attr-defined]
        for p in parameters:
            p.grad = torch.full(p.shape, float("nan") if skip else 1.0)
        muon.step()
        same = all(torch.equal(p, k) for p, k in zip(parameters, kept, strict=True))
        assert same == bool(skip)
        after = muon.state_dict()["state"]
        same = all(torch.equal(after[i][key], state[i][key]) for i in state for key in state[i])
        assert same == bool(skip)
    assert all(p.isfinite().all() for p in parameters)


def test_a_saved_state_goes_on_as_if_nothing_had_been() -> None:
    parameters = new_parameters()
    muon = Muon(parameters, lr=0.01)
    one_step(muon, parameters, 0)
    again = [torch.nn.Parameter(p.detach().clone()) for p in parameters]
    resumed, fresh = Muon(again, lr=0.01), [torch.nn.Parameter(p.detach().clone()) for p in again]
    resumed.load_state_dict(copy.deepcopy(muon.state_dict()))
    for optimizer, own in ((muon, parameters), (resumed, again), (Muon(fresh, lr=0.01), fresh)):
        one_step(optimizer, own, 1)
    assert all(torch.equal(a, b) for a, b in zip(parameters, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(parameters, fresh, strict=True))


# ---------------------------------------------------------------- clipping


def weights(*gradients: list[float]) -> list[torch.nn.Parameter]:
    """Parameters with these gradients."""
    made = []
    for values in gradients:
        p = torch.nn.Parameter(torch.zeros(len(values)))
        p.grad = torch.tensor(values)
        made.append(p)
    return made


@pytest.mark.parametrize("limit", [0.5, 5.0, 100.0, math.inf])
def test_clipping_is_torch_s(limit: float) -> None:
    values = [3.0, -1.0, 2.0], [7.0], [0.0, 0.5]
    ours, theirs = weights(*values), weights(*values)
    norm = clip_gradient(ours, limit)
    expected = torch.nn.utils.clip_grad_norm_(theirs, limit)
    torch.testing.assert_close(norm.float(), expected)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_clipping_survives_squares_beyond_float32() -> None:
    ours = weights([3e25, 0.0], [4e25])
    assert clip_gradient(ours, 1.0).item() == pytest.approx(5e25)
    assert torch.cat([p.grad for p in ours]).tolist() == pytest.approx([0.6, 0.0, 0.8])
    theirs = weights([3e25, 0.0], [4e25])
    assert torch.isinf(torch.nn.utils.clip_grad_norm_(theirs, 1.0))  # the control


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_one_wrong_value_shows_in_the_norm(wrong: float) -> None:
    assert not torch.isfinite(clip_gradient(weights([1.0, wrong], [1.0]), 1.0))
    assert not torch.isfinite(clip_gradient(weights([1.0, wrong], [1.0]), math.inf))


# ---------------------------------------------------------------- averaged weights


def test_average_of_the_weights() -> None:
    torch.manual_seed(0)
    model = CVAE(CONFIG)
    average = WeightAverage(model, 0.5)
    bias = model.Generator[7].bias
    values = [bias.detach().clone()]
    expected = values[0].clone()
    for n, applied in enumerate((True, False, True, True)):
        with torch.no_grad():
            bias += n + 1
        average.update(torch.tensor(applied))
        if applied:
            values.append(bias.detach().clone())
            count = len(values) - 1
            decay = min(0.5, (1 + count) / (10 + count))  # 2/11, 3/12, 4/13
            expected = decay * expected + (1 - decay) * values[-1]
        torch.testing.assert_close(average.model.Generator[7].bias, expected)
    assert not torch.allclose(expected, bias, atol=0.1)  # the control: they differ
