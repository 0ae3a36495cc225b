"""One epoch's parts: the plan, gradient clipping, and steps that are not finite."""

import math
import time
from collections.abc import Callable

import pytest
import torch

from modules import training
from modules.cvae import CVAE
from modules.optimizers import WeightAverage, clip_gradient, make_optimizer, optimizer_state
from modules.options import TrainerOptions, model_config, parse_trainer
from modules.rollouts import StoredRollouts
from modules.runtime.errors import UserError
from modules.runtime.stopping import Watch
from modules.sequences import Recording, VideoData, gather_clips, to_unit
from modules.training import (
    EpochResult,
    Plan,
    Position,
    TrainingStep,
    decoder_sigma,
    epoch_plan,
    step_lr,
    train_epoch,
)
from tests.support.reference import usual_loss


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


# ---------------------------------------------------------------- the step

OPTIONS = (
    "--DR d --F_dim 8 --L_dim 4 --N_dim 4 --D_out_dim 8 --frame_H 8 --frame_W 8 --train_vi_len 4 "
    "--batch_size 2 --precision float32 --frame_noise 0.1 --ema 0.9"
)


FORCED = Plan(0.01, 1.0, True, 1e-3, 4)


def moving_data() -> VideoData:
    g = torch.Generator().manual_seed(0)
    frames, labels = (
        torch.randint(0, 256, (22, 8, 8, 3), generator=g, dtype=torch.uint8) for _ in range(2)
    )
    return VideoData(frames, labels, (Recording(0, 22),))


def new_step(*more: str) -> TrainingStep:
    options, _ = parse_trainer("", [*OPTIONS.split(), *more])
    torch.manual_seed(0)
    model = CVAE(model_config(options)).train()
    average = WeightAverage(model, options.ema)
    return TrainingStep(model, make_optimizer(model, options), moving_data(), options, average)


def run_epochs(step: TrainingStep, epochs: int = 3) -> list[EpochResult]:
    """Epochs with and without teacher forcing; clips of 4 from 22 frames: batches of 2, 2 and 1."""
    position, results = Position(), []
    for epoch in range(epochs):
        plan = Plan(0.01, 0.5, epoch % 2 == 0, 1e-3, 4)
        result, end = train_epoch(step, position, plan, Watch(), lambda position: None)
        results.append(result)
        position = end.next_epoch()
    return results


def recorded(compute: Callable[[], None]) -> Callable[[], None]:
    """What capture() does, where there is no CUDA: three runs to warm up, one to record."""
    for _ in range(4):
        compute()
    return compute


def test_captured_steps_equal_eager_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """The logic of CUDA graphs: static inputs, and warming up and recording that change nothing."""
    monkeypatch.setattr(training, "capture", recorded)
    eager, graphed = new_step(), new_step()
    assert eager.why_eager is not None
    graphed.why_eager = None
    assert run_epochs(eager)[0][:4] == run_epochs(graphed)[0][:4]
    assert sorted(graphed.graphs) == [*((1, False, 4), (1, True, 4), (2, False, 4), (2, True, 4))]
    for (name, a), b in zip(
        eager.model.state_dict().items(), graphed.model.state_dict().values(), strict=True
    ):
        assert torch.equal(a, b), name
    assert eager.average is not None and graphed.average is not None
    for a, b in zip(
        eager.average.model.parameters(), graphed.average.model.parameters(), strict=True
    ):
        assert torch.equal(a, b)
    assert eager.read_counts() == graphed.read_counts()

    careless = new_step()  # the control: warming up with the step in force shows
    careless.why_eager = None
    careless.enabled.fill_ = lambda value: None  # type: ignore[method-assign]
    run_epochs(careless)
    assert not torch.equal(
        careless.model.Generator[7].weight,  # type: ignore[union-attr]
        eager.model.Generator[7].weight,  # type: ignore[union-attr]
    )


def test_what_cannot_be_captured_is_trained_eagerly_and_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(compute: Callable[[], None]) -> Callable[[], None]:
        try:
            raise RuntimeError("operation not permitted when stream is capturing\nmore")
        finally:  # as torch.cuda.graph does when it clears up
            raise RuntimeError("capture failed due to a previous error")

    monkeypatch.setattr(training, "capture", refuse)
    eager, refused = new_step(), new_step()
    refused.why_eager = None
    run_epochs(eager), run_epochs(refused)
    said = capsys.readouterr().out
    assert said.count("note: training without CUDA graphs (operation not permitted") == 1
    assert refused.graphs == {}
    assert refused.read_counts() == eager.read_counts()


def test_a_step_that_is_not_finite_changes_nothing_on_the_device() -> None:
    step = new_step()
    run_epochs(step, 1)
    good = {name: value.clone() for name, value in step.model.state_dict().items()}
    moments = optimizer_state(step.optimizer)["state"]
    before = {i: {k: v.clone() for k, v in s.items()} for i, s in moments.items()}
    counts = step.read_counts()
    starts = torch.tensor([0, 5])
    draws = step.draw(0, 0, 2, FORCED)
    draws.latent[1, 0, 0, 0, 0] = math.nan  # one value of ε
    step.run_share(starts, draws, FORCED)
    for name, value in step.model.state_dict().items():
        assert torch.equal(value, good[name]), name
    for i, state in step.optimizer.state_dict()["state"].items():
        for key, value in state.items():
            assert torch.equal(value, before[i][key]), key
    after = step.read_counts()
    assert after == counts._replace(skipped=counts.skipped + 2, skipped_in_a_row=1.0)
    step.run_share(starts, step.draw(0, 0, 2, FORCED), FORCED)  # the control
    assert not torch.equal(step.model.Generator[7].weight, good["Generator.7.weight"])  # type: ignore[union-attr]
    assert step.read_counts().skipped_in_a_row == 0
    assert step.read_counts().trained == counts.trained + 2


def test_too_many_in_a_row_are_not_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU's counts are looked at now and then only: a good step after them must not hide them."""
    monkeypatch.setattr(training, "MAX_SKIPPED_STEPS", 2)
    step, starts = new_step(), torch.tensor([0, 5])
    for number, (broken, expected) in enumerate(
        ((True, 1), (False, 0), (True, 1), (True, 2), (False, 2))
    ):
        draws = step.draw(0, number, 2, FORCED)
        if broken:
            draws.latent[0, 0, 0, 0, 0] = math.nan
        step.run_share(starts, draws, FORCED)
        assert step.read_counts().skipped_in_a_row == expected


@pytest.mark.parametrize(("waited", "expected"), [(0.0, []), (1000.0, [1])])
def test_a_save_in_mid_epoch_is_due_once_a_period(waited: float, expected: list[int]) -> None:
    step, watch = new_step(), Watch(10)
    watch._saved_at -= waited  # seconds; the period is 600
    saves: list[int] = []
    train_epoch(step, Position(), FORCED, watch, lambda position: saves.append(position.step))
    assert saves == expected


def test_time_of_stored_rollouts_is_of_the_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    step = new_step("--rollout_every", "1")
    step.stored = StoredRollouts(step.data)

    def waits(*_: object, **__: object) -> None:
        time.sleep(0.5)

    monkeypatch.setattr(step.stored, "refresh", waits)
    _, end = train_epoch(step, Position(1), FORCED, Watch(), lambda position: None)
    assert end.seconds > 0.5


def test_average_of_the_weights() -> None:
    options, _ = parse_trainer("", OPTIONS.split())
    torch.manual_seed(0)
    model = CVAE(model_config(options))
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
        torch.testing.assert_close(average.averaged().Generator[7].bias, expected)
    assert not torch.allclose(expected, bias, atol=0.1)  # the control: they differ


@pytest.mark.parametrize("mode", [("--tfr", "1"), ("--tfr", "0"), ("--tfr", "0", "--recompute")])
def test_loss_and_gradients_are_those_of_the_usual_loop(mode: tuple[str, ...]) -> None:
    """In float32, batch-norm statistics fixed: the usual loop takes them over one frame at a time,
    which is another normalisation, not another rounding."""
    step = new_step(*mode, "--frame_noise", "0", "--grad_clip", "0")
    step.model.label_transformation[2].eval()  # type: ignore[union-attr]
    forced = mode[1] == "1"
    plan = Plan(0.01, float(forced), forced, 1e-3, 4)
    starts, draws = torch.tensor([3, 11]), step.draw(0, 0, 2, plan)
    reference = CVAE(step.model.config).train()
    reference.load_state_dict(step.model.state_dict())
    reference.label_transformation[2].eval()
    step.run_share(starts, draws, plan)
    frames, labels = (
        to_unit(x).transpose(0, 1) for x in gather_clips(step.data, starts, 4)
    )  # 2 × (B, T, 3, H, W)
    loss, mse, kl = usual_loss(
        reference, frames, labels, teacher_forcing=forced, beta=0.01, noise=draws.latent
    )
    loss.backward()
    counts = step.read_counts()
    assert [counts.loss / 2, counts.mse / 2, counts.kl / 2] == pytest.approx(
        [loss.item(), mse.item(), kl.item()], rel=1e-5
    )
    for (name, p), q in zip(reference.named_parameters(), step.model.parameters(), strict=True):
        torch.testing.assert_close(q.grad, p.grad, rtol=1e-3, atol=1e-6, msg=name)


# ---------------------------------------------------------------- options of the objective


def options_of(typed: str) -> TrainerOptions:
    return parse_trainer("", ["--DR", "d", *typed.split()])[0]


def test_learning_rate_of_a_step() -> None:
    cosine = options_of("--num_epoch 4 --lr 0.01 --lr_scheduler cosine")
    assert step_lr(cosine, 0, 0, 10) == 0.01
    assert step_lr(cosine, 2, 0, 10) == pytest.approx(0.005)  # half way
    assert step_lr(cosine, 2, 5, 10) == pytest.approx(0.005 * (1 + math.cos(math.pi * 2.5 / 4)))
    warmed = options_of("--num_epoch 4 --lr 0.01 --lr_warmup 20")
    found = [step_lr(warmed, e, n, 10) for e, n in ((0, 0), (0, 9), (1, 4), (1, 9), (3, 9))]
    assert found == pytest.approx([0.0005, 0.005, 0.0075, 0.01, 0.01])
    multistep = options_of("--num_epoch 4 --lr 0.01 --lr_scheduler multistep --lr_milestones 2")
    assert step_lr(multistep, 1, 9, 10) == 0.01
    assert step_lr(multistep, 2, 0, 10) == pytest.approx(0.001)


@pytest.mark.parametrize(
    ("options", "scale"),
    [
        ((), 1.0),
        (("--kl_norm", "mean"), 1 / (4 * 8 * 8)),
        (("--recon", "sigma"), 1 / (3 * 8 * 8)),
        (("--recon", "sigma", "--kl_norm", "mean"), 1 / (4 * 8 * 8)),
    ],
)
def test_loss_by_the_terms_that_were_counted(options: tuple[str, ...], scale: float) -> None:
    step = new_step(*options, "--frame_noise", "0")
    step.run_share(torch.tensor([3]), step.draw(0, 0, 1, FORCED), FORCED)
    counts = step.read_counts()
    frames, labels = (to_unit(x) for x in gather_clips(step.data, torch.tensor([3]), 4))
    torch.manual_seed(0)
    model = CVAE(step.model.config).train()  # the weights before the step
    out = model(frames, labels, step.draw(0, 0, 1, FORCED).latent, teacher_forcing=True)
    term = 0.5 * out.mse.log() if "sigma" in options else out.mse
    expected = term.mean() + 0.01 * scale * out.kl.mean()
    assert counts.loss == pytest.approx(expected.item(), rel=1e-5)
    assert counts.kl == pytest.approx(out.kl.mean().item(), rel=1e-5)  # nats, whatever the loss
    assert counts.mse == pytest.approx(out.mse.mean().item(), rel=1e-5)


def test_sigma_of_the_decoder() -> None:
    # The usual convention at full size: β = 2σ²/6144.
    assert decoder_sigma(options_of(""), 0.01, 1.0) == pytest.approx(math.sqrt(3072))
    assert decoder_sigma(options_of(""), 0.01, 0.0) == 0.0
    mean = decoder_sigma(options_of("--kl_norm mean"), 0.01, 1.0)
    assert mean == pytest.approx(math.sqrt(3072 / 24576))
    assert decoder_sigma(options_of("--recon sigma"), 0.01, 1.0) == pytest.approx(0.1)


def test_active_dimensions_are_those_whose_mean_varies(monkeypatch: pytest.MonkeyPatch) -> None:
    step = new_step("--frame_noise", "0", "--lr", "1e-12")  # the weights stay
    means: list[torch.Tensor] = []
    plain = step.model.Gaussian_Predictor.moments

    def noted(*features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mu, logvar = plain(*features)
        means.append(mu.detach())
        return mu, logvar

    monkeypatch.setattr(step.model.Gaussian_Predictor, "moments", noted)

    def active() -> int:
        result, _ = train_epoch(step, Position(), FORCED, Watch(), lambda position: None)
        return result.active_dims

    assert active() == 0  # fresh weights hardly tell one frame from another
    variance = torch.cat(means).double().var(dim=0, correction=0)  # (N, H, W)
    assert 0 < variance.max() < training.ACTIVE_VARIANCE
    threshold = float(variance.median()) * (1 + 1e-6)
    monkeypatch.setattr(training, "ACTIVE_VARIANCE", threshold)
    assert active() == int((variance > threshold).sum()) == 128  # half of 4 x 8 x 8
    with torch.no_grad():  # a posterior that says the same of every frame
        step.model.Gaussian_Predictor[6].weight.zero_()  # type: ignore[operator, union-attr]
    assert active() == 0


def test_steps_draw_teacher_forcing_for_themselves() -> None:
    step = new_step("--tf_draw", "step")
    plan = Plan(0.01, 0.3, True, 1e-3, 4)
    forced = torch.stack([step.draw(0, n, 50, plan).forced for n in range(20)])  # type: ignore[misc]
    assert forced.shape == (20, 3, 50)
    assert 0.25 < forced.float().mean().item() < 0.35
    assert torch.equal(forced[3], step.draw(0, 3, 50, plan).forced)  # type: ignore[arg-type]
    none = step.draw(0, 0, 50, plan._replace(tfr=0.0)).forced
    assert none is not None and not none.any()
    assert new_step().draw(0, 0, 50, plan).forced is None  # by the epoch
    options = options_of("--tf_draw step --tfr 0.5")
    assert all(epoch_plan(options, e).teacher_forcing for e in range(5))


def test_clips_grow() -> None:
    options = options_of("--train_vi_len 16 --grow_from 4 --grow_epochs 6")
    assert [epoch_plan(options, e).vi_len for e in range(8)] == [4, 6, 8, 10, 12, 14, 16, 16]
    with pytest.raises(UserError, match="grow_from 20"):
        options_of("--train_vi_len 16 --grow_from 20")
    step = new_step()
    short = FORCED._replace(vi_len=3)
    result, end = train_epoch(step, Position(), short, Watch(), lambda position: None)
    assert end.counts.trained == 22 // 3
    assert result.frames_per_second == pytest.approx(7 * 2 / end.seconds, rel=1e-3)
