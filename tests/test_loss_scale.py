"""float16: the loss is scaled, and a step that only found the scale too large is no failure."""

import math
from pathlib import Path

import pytest
import torch
from modules.loss_scale import LARGEST, SMALLEST, START

from modules import loss_scale
from modules.checkpoint import LAST, RunState, load_checkpoint
from modules.cvae import CVAE
from modules.data import Recording, VideoData
from modules.losses import EpochAverages
from modules.optim import LossScale
from modules.options import model_config, parse_trainer
from modules.runtime.errors import UserError
from modules.runtime.signals import Watch
from modules.schedules import Plan
from modules.training import TrainingStep, train_epoch

CPU = torch.device("cpu")
OPTIONS = (
    "--DR d --F_dim 8 --L_dim 4 --N_dim 4 --D_out_dim 8 --frame_H 8 --frame_W 8 --train_vi_len 4 "
    "--batch_size 2 --precision float16"
)
ONE, INF, NAN = torch.ones(()), torch.tensor(math.inf), torch.tensor(math.nan)
ON, OFF = torch.tensor(True), torch.tensor(False)


# ---------------------------------------------------------------- the factor


def test_the_factor_moves_as_pytorch_s_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch._amp_update_scale_ with a backoff of ½ and a growth of 2, on the same outcomes."""
    monkeypatch.setattr(loss_scale, "SOUND_STEPS", 5)
    ours, sound = LossScale(CPU), torch.zeros((), dtype=torch.int32)
    theirs = torch.full((), START)
    g, values = torch.Generator().manual_seed(0), set()
    for _ in range(200):
        wrong = torch.rand((), generator=g) < 0.1
        norm = NAN if wrong else ONE
        assert ours.update(ONE, norm, ON).item() == wrong.item()
        torch._amp_update_scale_(theirs, sound, wrong.float(), 2.0, 0.5, 5)
        assert (ours.value.item(), ours.sound.item()) == (theirs.item(), sound.item())
        values.add(theirs.item())
    assert len(values) > 3  # the control: it moved


@pytest.mark.parametrize(
    ("loss", "norm", "enabled", "value", "overflowed"),
    [
        (ONE, INF, ON, START / 2, True),
        (ONE, ONE, ON, START, False),
        (NAN, NAN, ON, START, False),  # no smaller factor would help
        (ONE, INF, OFF, START, True),  # a graph that is warmed up
        (ONE, INF, ON, SMALLEST, False),  # from the smallest on
        (ONE, ONE, ON, LARGEST, False),  # from the largest on, after many sound steps
    ],
)
def test_what_moves_the_factor(
    loss: torch.Tensor, norm: torch.Tensor, enabled: torch.Tensor, value: float, overflowed: bool
) -> None:
    scale = LossScale(CPU)
    if value in (SMALLEST, LARGEST):
        scale.load_state_dict({"value": value, "sound": loss_scale.SOUND_STEPS - 1})
    assert scale.update(loss, norm, enabled).item() == overflowed
    assert scale.value.item() == value


# ---------------------------------------------------------------- training


def new_run(root: Path, *more: str) -> tuple[RunState, TrainingStep]:
    options, _ = parse_trainer("", [*OPTIONS.split(), *more])
    torch.manual_seed(0)
    g = torch.Generator().manual_seed(0)
    stacks = [torch.randint(0, 256, (20, 8, 8, 3), generator=g, dtype=torch.uint8) for _ in "ab"]
    data = VideoData(*stacks, (Recording(0, 20),))
    model = CVAE(model_config(options)).train()
    state = RunState(options, root, model, data, data_root="", data_fingerprint="")
    return state, TrainingStep(state, data)


def epochs(state: RunState, step: TrainingStep, count: int) -> list[EpochAverages]:
    """Five clips an epoch: three steps, the last of one clip."""
    found = []
    for _ in range(count):
        state.plan = Plan(0.01, 0.5, state.position.epoch % 2 == 0, 1e-3)
        found.append(train_epoch(step, state, Watch()))
        state.finish_epoch(loss=1.0, psnr=0.0)
    return found


def weights(state: RunState) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in state.model.parameters()])


@pytest.mark.parametrize("optimiser", ["Adam", "AdamW", "Muon"])
def test_float16_trains_nearly_as_float32(optimiser: str, tmp_path: Path) -> None:
    moved = {}
    for precision, factor in (("float32", None), ("float16", 2.0**10), ("float16", SMALLEST)):
        more = ("--precision", precision, "--optim", optimiser, "--ema", "0.9")
        state, step = new_run(tmp_path, *more)
        before = weights(state)
        assert (state.scale is None) == (factor is None)
        if factor:
            state.scale.value.fill_(factor)
        (averages,) = epochs(state, step, 1)
        assert averages.skipped == 0
        assert averages.frames == 15
        moved[precision, factor] = weights(state) - before
    exact = moved["float32", None]
    errors = {f: ((moved["float16", f] - exact).norm() / exact.norm()) for f in (2.0**10, SMALLEST)}
    assert errors[2.0**10] < 0.25
    # The control: a factor that makes small gradients 0, of which Adam makes steps as of others.
    assert errors[SMALLEST] > 2 * errors[2.0**10]


def test_a_step_that_overflows_is_left_out_and_is_no_failure(tmp_path: Path) -> None:
    state, step = new_run(tmp_path, "--ema", "0.9")
    state.scale.value.fill_(2.0**31)
    before = weights(state)
    (averages,) = epochs(state, step, 1)
    assert torch.equal(weights(state), before)
    assert state.scale.value.item() == 2.0**28  # three steps
    assert averages.skipped == 0
    assert averages.frames == 15  # which frames/s counts
    assert math.isnan(averages.loss)  # nothing entered the average
    assert state.sums.read().skipped_in_a_row == 0
    state.scale.value.fill_(2.0**10)  # the control
    (averages,) = epochs(state, step, 1)
    assert not torch.equal(weights(state), before)
    assert math.isfinite(averages.loss)


def test_a_run_that_diverges_is_still_refused(tmp_path: Path) -> None:
    """Whatever the factor: with a loss that is not finite, or with the smallest factor."""
    state, step = new_run(tmp_path)
    with torch.no_grad():
        state.model.Generator[7].bias.fill_(math.nan)
    with pytest.raises(UserError, match="diverged"):
        epochs(state, step, 40)
    assert state.scale.value.item() == START


def test_the_factor_is_saved_and_resumed(tmp_path: Path) -> None:
    state, step = new_run(tmp_path)
    epochs(state, step, 2)
    state.scale.load_state_dict({"value": 2.0**9, "sound": 498.0})
    state.save()
    saved = load_checkpoint(tmp_path / LAST)
    assert saved.training["loss_scale"] == {"value": 2.0**9, "sound": 498.0}
    ends = []
    for factor in ("as saved", "without", "never stopped"):
        if factor != "never stopped":
            state, step = new_run(tmp_path)
            state.model.load_state_dict(saved.state_dict)
            if factor == "without":  # an older checkpoint: it loads, and starts anew
                del saved.training["loss_scale"]
                saved.training["position"]["counts"] = saved.training["position"]["counts"][:7]
            state.resume_from(saved)
        else:
            state, step = new_run(tmp_path)
            epochs(state, step, 2)
            state.scale.load_state_dict({"value": 2.0**9, "sound": 498.0})
        epochs(state, step, 1)
        ends.append((weights(state), state.scale.state_dict()))
    resumed, without, alone = ends
    assert resumed[1] == alone[1] == {"value": 2.0**10, "sound": 1.0}  # it grew in that epoch
    assert torch.equal(resumed[0], alone[0])
    assert without[1] != alone[1]  # the control


def test_float32_and_bfloat16_have_no_factor(tmp_path: Path) -> None:
    for precision in ("float32", "bfloat16"):
        state, _ = new_run(tmp_path, "--precision", precision)
        assert state.scale is None
        state.save()
        assert "loss_scale" not in load_checkpoint(tmp_path / LAST).training
