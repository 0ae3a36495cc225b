"""Steps and epochs: graphs, steps that are not finite, and the loss of the usual loop."""

import math
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from modules.sequences import gather_clips

from modules import averages, training
from modules.checkpoint import Position, RunState
from modules.cvae import CVAE
from modules.data import Previous, Recording, VideoData, draw, to_unit
from modules.losses import EpochAverages
from modules.optim import optimizer_state
from modules.options import model_config, parse_trainer
from modules.runtime import graphs
from modules.runtime.errors import UserError
from modules.runtime.signals import Watch
from modules.schedules import Plan
from modules.training import Shard, TrainingStep, shard, train_epoch
from tests.support.reference import usual_loss

OPTIONS = (
    "--DR d --F_dim 8 --L_dim 4 --N_dim 4 --D_out_dim 8 --frame_H 8 --frame_W 8 --train_vi_len 4 "
    "--batch_size 2 --precision float32 --frame_noise 0.1 --ema 0.9"
)
FORCED = Plan(0.01, 1.0, True, 1e-3)


def moving_data() -> VideoData:
    g = torch.Generator().manual_seed(0)
    frames, labels = (
        torch.randint(0, 256, (22, 8, 8, 3), generator=g, dtype=torch.uint8) for _ in range(2)
    )
    return VideoData(frames, labels, (Recording(0, 22),))


def new_run(*more: str) -> tuple[RunState, TrainingStep]:
    options, _ = parse_trainer("", [*OPTIONS.split(), *more])
    torch.manual_seed(0)
    model, data = CVAE(model_config(options)).train(), moving_data()
    state = RunState(options, Path("unused"), model, data, data_root="", data_fingerprint="")
    return state, TrainingStep(state, data)


def shard_of(step: TrainingStep, starts: list[int], number: int = 0, plan: Plan = FORCED) -> Shard:
    """A step's clips with its random numbers; β as in the plan."""
    step.beta.fill_(plan.beta)
    clips = torch.tensor(starts)
    draws = draw(step.o, step.generator, plan, epoch=0, number=number, batch=len(clips))
    return shard(clips, draws, 0)


def run_epochs(state: RunState, step: TrainingStep, epochs: int = 3) -> list[EpochAverages]:
    """Epochs with and without teacher forcing; clips of 4 from 22 frames: batches of 2, 2 and 1."""
    results = []
    for epoch in range(epochs):
        state.plan = Plan(0.01, 0.5, epoch % 2 == 0, 1e-3)
        results.append(train_epoch(step, state, Watch()))
        state.finish_epoch(loss=1.0, psnr=0.0)
    return results


# ---------------------------------------------------------------- graphs


def recorded(compute: Callable[[], None], memory: object = None) -> Callable[[], None]:
    """What capture() does, where there is no CUDA: three runs to warm up, one to record."""
    for _ in range(4):
        compute()
    return compute


def assert_close(a: float, b: float) -> None:
    assert a == pytest.approx(b, rel=1e-4, abs=1e-7, nan_ok=True)


def test_captured_steps_equal_eager_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """The logic of CUDA graphs: static inputs, warming up and recording that change nothing, and
    a last batch that is filled up to the size of the others.

    To rounding, as the filled batch's gradients are summed in another order.
    """
    monkeypatch.setattr(graphs, "capture", recorded)
    monkeypatch.setattr(graphs, "GraphMemory", object)
    monkeypatch.setattr(training, "GraphMemory", object)
    (one, eager), (other, graphed) = new_run(), new_run()
    assert eager.why_eager is not None
    graphed.prepare_graphs()
    for a, b in zip(run_epochs(one, eager), run_epochs(other, graphed), strict=True):
        for x, y in zip(a, b, strict=True):
            assert_close(x, y)
    assert sorted(graphed.graphs) == [False, True]  # one for each mode, whatever the last batch
    for (name, a), b in zip(
        eager.model.state_dict().items(), graphed.model.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=2e-5, msg=name)
    assert one.sums.read().trained == other.sums.read().trained

    state, careless = new_run()  # the control: warming up with the step in force shows
    careless.prepare_graphs()
    monkeypatch.setattr(careless.update, "enabled", torch.ones((), dtype=torch.bool))
    monkeypatch.setattr(careless.update.enabled, "fill_", lambda value: None)
    run_epochs(state, careless)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(
            careless.model.Generator[7].weight,  # type: ignore[union-attr]
            eager.model.Generator[7].weight,  # type: ignore[union-attr]
            rtol=1e-3,
            atol=2e-5,
        )


def test_a_filled_batch_is_the_smaller_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loss, gradients and sums; the control is a filler that counts."""
    found = []
    for fill, weight in ((0, 1.0), (3, 0.0), (3, 1.0)):
        state, step = new_run("--augment", "shift", "--jump", "0.5", "--reference", "first")
        clips = torch.tensor([3])
        draws = draw(step.o, step.generator, FORCED, epoch=0, number=0, batch=1)
        part = shard(clips, draws, fill)
        part.weights[1:] = weight
        assert len(part.starts) == max(1, fill)
        step.compute(part, teacher_forcing=True)
        gradients = [p.grad for p in step.model.parameters() if p.grad is not None]
        found.append((gradients, list(state.sums.read()), state.sums.posterior))
    small, filled, counted = found
    torch.testing.assert_close(small, filled, rtol=1e-3, atol=1e-5)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(small, counted, rtol=1e-3, atol=1e-5)


def test_what_cannot_be_captured_is_trained_eagerly_with_a_note(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(compute: Callable[[], None], memory: object = None) -> Callable[[], None]:
        try:
            raise RuntimeError("operation not permitted when stream is capturing\nmore")
        finally:  # as torch.cuda.graph does when it clears up
            raise RuntimeError("capture failed due to a previous error")

    monkeypatch.setattr(graphs, "capture", refuse)
    monkeypatch.setattr(training, "GraphMemory", object)
    monkeypatch.setattr(training, "free_memory", lambda: 0)
    (one, eager), (other, refused) = new_run(), new_run()
    refused.why_eager, refused.clips = None, 0
    assert run_epochs(one, eager) == run_epochs(other, refused)
    printed = capsys.readouterr().out
    assert printed.count("note: training without CUDA graphs (operation not permitted") == 1
    assert refused.graphs == {}
    assert one.sums.read() == other.sums.read()


@pytest.mark.parametrize("times", [0, 1, 2])
def test_out_of_memory_in_a_capture_is_tried_once_more_without_the_other_graphs(
    times: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    state, step = new_run()
    captures: list[int] = []

    def capture(compute: Callable[[], None], memory: object = None) -> Callable[[], None]:
        captures.append(len(step.graphs))
        if 1 < len(captures) <= 1 + times:
            try:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB. More")
            finally:
                raise RuntimeError("capture failed due to a previous error")
        return recorded(compute)

    monkeypatch.setattr(graphs, "capture", capture)
    monkeypatch.setattr(training, "GraphMemory", object)
    monkeypatch.setattr(training, "free_memory", lambda: 0)
    step.prepare_graphs()
    run_epochs(state, step, 2)  # with teacher forcing, then without
    note = "note: training without CUDA graphs (CUDA out of memory. Tried to allocate 1 GiB)\n"
    assert capsys.readouterr().out == (note if times == 2 else "")
    assert captures == [0, 1, 0][: 2 + min(times, 1)]
    assert sorted(step.graphs) == [[False, True], [False], []][times]


def test_all_ranks_replay_graphs_or_none_does(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(graphs, "capture", recorded)
    monkeypatch.setattr(training, "GraphMemory", object)
    monkeypatch.setattr(training, "free_memory", lambda: 0)
    for others_failed in (0, 1):
        asked: list[int] = []

        def maximum(own: int, asked: list[int] = asked, others: int = others_failed) -> list[int]:
            asked.append(own)
            return [max(own, others)]

        state, step = new_run()
        step.prepare_graphs()
        monkeypatch.setattr(training.distributed, "maximum", maximum)
        for number in range(3):
            step.dispatch(shard_of(step, [0, 5], number), teacher_forcing=True)
        assert asked == [0]  # when a graph is captured, and not at every step
        assert len(step.graphs) == 1 - others_failed
        note = "note: training without CUDA graphs (another process could not capture its step)"
        assert (note in capsys.readouterr().out) == bool(others_failed)
        assert state.sums.read().trained == 6  # either way


def test_a_rank_whose_memory_runs_out_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others wait for it in their warm-up: it must not go on by itself."""

    def full(compute: Callable[[], None], memory: object = None) -> Callable[[], None]:
        raise torch.OutOfMemoryError("CUDA out of memory")

    _, step = new_run()
    step.prepare_graphs()
    monkeypatch.setattr(graphs, "capture", full)
    monkeypatch.setattr(training, "GraphMemory", object)
    part = shard_of(step, [0, 5])
    monkeypatch.setattr(training.distributed, "world_size", lambda: 2)
    with pytest.raises(UserError, match="does not fit into a GPU's memory"):
        step.dispatch(part, teacher_forcing=True)


def test_a_step_that_does_not_fit_is_a_user_s_error(monkeypatch: pytest.MonkeyPatch) -> None:
    _, step = new_run()
    peaks = iter((2**30, 2**31))
    monkeypatch.setattr(training, "free_memory", lambda: 2**30)
    monkeypatch.setattr(step, "_peak", lambda *_: next(peaks, None))
    part = shard_of(step, [0, 5])

    def compute(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(step, "compute", compute)
    with pytest.raises(UserError, match=r"takes about 2\.00 GiB.*--batch_size 1 takes about 1\.00"):
        step.dispatch(part, teacher_forcing=True)
    monkeypatch.setattr(step, "compute", lambda *_, **__: 1 // 0)  # the control: another fault
    with pytest.raises(ZeroDivisionError):
        step.dispatch(part, teacher_forcing=True)


# ---------------------------------------------------------------- steps that are not finite


def test_a_step_that_is_not_finite_changes_nothing_on_the_device() -> None:
    state, step = new_run()
    run_epochs(state, step, 1)
    good = {name: value.clone() for name, value in step.model.state_dict().items()}
    moments = optimizer_state(step.optimizer)["state"]
    before = {i: {k: v.clone() for k, v in s.items()} for i, s in moments.items()}
    assert state.average is not None
    average = [p.clone() for p in state.average.model.parameters()]
    sums = state.sums.read()
    part = shard_of(step, [0, 5])
    part.draws.latent[1, 0, 0, 0, 0] = math.nan  # one value of ε
    step.dispatch(part, teacher_forcing=True)
    for name, value in step.model.state_dict().items():
        assert torch.equal(value, good[name]), name
    for i, saved in step.optimizer.state_dict()["state"].items():
        for key, value in saved.items():
            assert torch.equal(value, before[i][key]), key
    for p, kept in zip(state.average.model.parameters(), average, strict=True):
        assert torch.equal(p, kept)
    after = state.sums.read()
    assert after == sums._replace(skipped=sums.skipped + 2, skipped_in_a_row=1.0)
    step.dispatch(shard_of(step, [0, 5]), teacher_forcing=True)  # the control
    assert not torch.equal(step.model.Generator[7].weight, good["Generator.7.weight"])  # type: ignore[union-attr]
    assert state.sums.read().skipped_in_a_row == 0
    assert state.sums.read().trained == sums.trained + 2


def test_too_many_in_a_row_are_not_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU's sums are looked at now and then only: a good step after them must not hide them."""
    monkeypatch.setattr(averages, "MAX_SKIPPED_STEPS", 2)
    state, step = new_run()
    for number, (broken, expected) in enumerate(
        ((True, 1), (False, 0), (True, 1), (True, 2), (False, 2))
    ):
        part = shard_of(step, [0, 5], number)
        if broken:
            part.draws.latent[0, 0, 0, 0, 0] = math.nan
        step.dispatch(part, teacher_forcing=True)
        assert state.sums.read().skipped_in_a_row == expected


# ---------------------------------------------------------------- an epoch


@pytest.mark.parametrize(("waited", "expected"), [(0.0, []), (1000.0, [1])])
def test_a_save_in_mid_epoch_is_due_once_a_period(
    waited: float, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    (state, step), watch = new_run(), Watch(10)
    watch._saved_at -= waited  # seconds; the period is 600
    saves: list[int] = []
    monkeypatch.setattr(state, "save_at", lambda position: saves.append(position.step))
    state.plan = FORCED
    train_epoch(step, state, watch)
    assert saves == expected
    assert (state.position.epoch, state.position.step) == (0, 3)


def test_time_of_stored_rollouts_is_of_the_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    state, step = new_run("--rollout_every", "1")

    def waits(*_: object, **__: object) -> None:
        time.sleep(0.5)

    monkeypatch.setattr(state.stored, "refresh", waits)
    state.position, state.plan = Position(1), FORCED
    train_epoch(step, state, Watch())
    assert state.position.seconds > 0.5


# ---------------------------------------------------------------- the loss


@pytest.mark.parametrize("mode", [("--tfr", "1"), ("--tfr", "0"), ("--tfr", "0", "--recompute")])
def test_loss_and_gradients_are_those_of_the_usual_loop(mode: tuple[str, ...]) -> None:
    """In float32, with the same statistics of the labels."""
    state, step = new_run(*mode, "--frame_noise", "0", "--grad_clip", "0")
    forced = mode[1] == "1"
    part = shard_of(step, [3, 11])
    reference = CVAE(step.model.config).train()
    reference.load_state_dict(step.model.state_dict())
    reference.label_transformation.measure(step.data.labels)
    step.dispatch(part, teacher_forcing=forced)
    frames, labels = (
        to_unit(x).transpose(0, 1) for x in gather_clips(step.data, part.starts, 4)
    )  # 2 × (B, T, 3, H, W)
    loss, mse, kl = usual_loss(
        reference, frames, labels, teacher_forcing=forced, beta=0.01, noise=part.draws.latent
    )
    loss.backward()
    sums = state.sums.read()
    assert [sums.loss / 2, sums.mse / 2, sums.kl / 2] == pytest.approx(
        [loss.item(), mse.item(), kl.item()], rel=1e-5
    )
    for (name, p), q in zip(reference.named_parameters(), step.model.parameters(), strict=True):
        torch.testing.assert_close(q.grad, p.grad, rtol=1e-3, atol=1e-6, msg=name)


def test_what_is_validated_and_saved_has_statistics_of_its_own_weights() -> None:
    """Of the averaged weights, over all training labels; those of training are the control."""
    state, step = new_run()
    run_epochs(state, step, 2)
    labels = step.data.labels.permute(0, 3, 1, 2).double() / 255
    saved = state._content(None)
    for weights, own in ((saved["state_dict"], True), (saved["training"]["weights"], False)):
        model = CVAE(step.model.config).double()
        model.load_state_dict(weights)
        encoder = model.label_transformation
        first = torch.nn.Sequential(encoder[0], encoder[1])(labels)
        expected = first.mean(dim=(0, 2, 3)), first.var(dim=(0, 2, 3), correction=0)
        running = (
            saved["state_dict"][f"label_transformation.2.running_{n}"] for n in ("mean", "var")
        )
        same = all(
            torch.allclose(a.double(), b, rtol=1e-4) for a, b in zip(running, expected, strict=True)
        )
        assert same == own


@pytest.mark.parametrize(("recon", "scale"), [("mse", 1.0), ("sigma", 1 / (3 * 8 * 8))])
def test_loss_by_the_terms_that_were_summed(recon: str, scale: float) -> None:
    state, step = new_run("--recon", recon, "--frame_noise", "0")
    part = shard_of(step, [3])
    step.dispatch(part, teacher_forcing=True)
    sums = state.sums.read()
    frames, labels = (to_unit(x) for x in gather_clips(step.data, part.starts, 4))
    torch.manual_seed(0)
    model = CVAE(step.model.config).train()  # the weights before the step
    model.label_transformation.measure(step.data.labels)
    previous = Previous.of(frames, teacher_forcing=True)
    out = model(frames, labels, part.draws.latent, previous, sequential=False)
    term = 0.5 * out.mse.log() if recon == "sigma" else out.mse
    expected = term.mean() + 0.01 * scale * out.kl.mean()
    assert sums.loss == pytest.approx(expected.item(), rel=1e-5)
    assert sums.kl == pytest.approx(out.kl.mean().item(), rel=1e-5)  # nats, whatever the loss
    assert sums.mse == pytest.approx(out.mse.mean().item(), rel=1e-5)


def test_active_dimensions_are_those_whose_mean_varies(monkeypatch: pytest.MonkeyPatch) -> None:
    state, step = new_run("--frame_noise", "0", "--lr", "1e-12")  # the weights stay
    means: list[torch.Tensor] = []
    plain = step.model.Gaussian_Predictor.moments

    def noted(*features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mu, logvar = plain(*features)
        means.append(mu.detach())
        return mu, logvar

    monkeypatch.setattr(step.model.Gaussian_Predictor, "moments", noted)

    def active() -> int:
        state.position, state.plan = Position(), FORCED
        state.sums.start_epoch()
        return train_epoch(step, state, Watch()).active_dims

    assert active() == 0  # fresh weights hardly tell one frame from another
    variance = torch.cat(means).double().var(dim=0, correction=0)  # (N, H, W)
    assert 0 < variance.max() < averages.ACTIVE_VARIANCE
    threshold = float(variance.median()) * (1 + 1e-6)
    monkeypatch.setattr(averages, "ACTIVE_VARIANCE", threshold)
    assert active() == int((variance > threshold).sum()) == 128  # half of 4 x 8 x 8
    with torch.no_grad():  # a posterior that is the same for every frame
        step.model.Gaussian_Predictor[6].weight.zero_()  # type: ignore[operator, union-attr]
    assert active() == 0
