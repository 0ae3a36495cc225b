"""One epoch's parts: the plan, gradient clipping, and steps that are not finite."""

import math

import pytest
import torch

from modules.options import parse_trainer
from modules.training import clip_gradient, epoch_plan


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


def test_plan_follows_the_schedules() -> None:
    typed = (
        "--DR d --num_epoch 8 --tfr 1 --tfr_sde 2 --tfr_d_step 0.5 --kl_anneal_type Cyclical "
        "--kl_anneal_cycle 2 --kl_anneal_ratio 0.5 --kl_beta 0.1 --lr 0.01 "
        "--lr_scheduler multistep --lr_milestones 4 --lr_gamma 0.1"
    )
    options, _ = parse_trainer("", typed.split())
    plans = [epoch_plan(options, e) for e in range(8)]
    assert [p.tfr for p in plans] == [1, 1, 0.5, 0, 0, 0, 0, 0]
    assert [p.beta for p in plans] == pytest.approx([0, 0.05, 0.1, 0.1] * 2)
    assert [p.lr for p in plans] == pytest.approx([0.01] * 4 + [0.001] * 4)
    assert [p.teacher_forcing for p in plans[:2]] == [True, True]
    assert not any(p.teacher_forcing for p in plans[3:])
    raised = epoch_plan(options, 6, raised_at=5)
    assert raised.tfr == 0.5
