"""Generation: what it depends on, and how its frames are scored."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode

from modules import evaluation
from modules.cvae import CVAE, ModelConfig
from modules.data import Recording, TestSequence, VideoData, to_uint8, to_unit
from modules.evaluation import generate, psnr_drift, score, validate, where_it_fits
from modules.ink import Ink
from modules.runtime.errors import Stopped
from modules.runtime.signals import Watch

CONFIG = ModelConfig(F_dim=8, L_dim=4, N_dim=4, D_out_dim=8, frame_H=8, frame_W=12)
CPU = torch.device("cpu")
ON_BLACK = Ink((0, 0, 0), 255)


@pytest.fixture
def model() -> CVAE:
    torch.manual_seed(0)
    return CVAE(CONFIG).eval()


def sequences(lengths: tuple[int, ...]) -> list[TestSequence]:
    g = torch.Generator().manual_seed(1)

    def pixels(*shape: int) -> torch.Tensor:
        return torch.randint(0, 256, shape, generator=g, dtype=torch.uint8)

    return [TestSequence("0", pixels(8, 12, 3), pixels(n, 8, 12, 3)) for n in lengths]


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_generated_pixels_do_not_depend_on_the_batch(model: CVAE, precision: torch.dtype) -> None:
    given = sequences((5, 37, 2, 9, 9))
    results = [
        generate(model, given, seed=3, device=CPU, precision=precision, batch_size=n)
        for n in (1, 2, 3, 8)
    ]
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert torch.equal(a, b)
    assert [len(v) for v in results[0]] == [5, 37, 2, 9, 9]
    for video, sequence in zip(results[0], given, strict=True):
        assert torch.equal(to_uint8(video)[0], sequence.first_frame)
    other_seed = generate(model, given, seed=4, device=CPU, precision=precision)
    assert not torch.equal(other_seed[0], results[0][0])  # the control


def test_batches_that_round_differently_are_taken_apart(
    model: CVAE, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = sequences((5, 6, 7))
    alone = generate(model, given, seed=0, device=CPU, precision=torch.float32)
    plain = model.Generator.forward

    def rounding(x: torch.Tensor) -> torch.Tensor:
        return plain(x) + (1e-6 if len(x) > 1 else 0.0)  # as if a batch summed in another order

    monkeypatch.setattr(model.Generator, "forward", rounding)
    batched = generate(model, given, seed=0, device=CPU, precision=torch.float32, batch_size=3)
    for a, b in zip(alone, batched, strict=True):
        assert torch.equal(a, b)


def test_generate_restores_the_mode(model: CVAE) -> None:
    before = {k: v.clone() for k, v in model.state_dict().items()}
    model.train()
    generate(model, sequences((4,)), seed=0, device=CPU, precision=torch.float32)
    assert model.training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_score_is_the_mean_over_frames_1_to_the_end() -> None:
    truth = torch.full((3, 4, 4, 3), 100, dtype=torch.uint8)
    prediction = torch.full((3, 3, 4, 4), 100 / 255)
    prediction[0] += 0.5  # frame 0 never counts
    prediction[1] += 0.1
    prediction[2] += 0.01
    result = score(prediction, truth, torch.zeros_like(truth), ON_BLACK)
    assert result.psnr.tolist() == pytest.approx([20.0, 40.0], abs=1e-3)
    assert result.mean_psnr == pytest.approx(30.0, abs=1e-3)
    assert result.loss == pytest.approx((0.01 + 0.0001) / 2, rel=1e-3)


def test_validation_is_the_scored_generation_of_sequence_0(model: CVAE) -> None:
    sequence = sequences((6,))[0]
    truth = torch.randint(0, 256, (6, 8, 12, 3), dtype=torch.uint8)
    truth[0] = sequence.first_frame
    video = VideoData(truth, sequence.labels, (Recording(0, 6),))
    kind = {"seed": 3, "device": CPU, "precision": torch.float32}
    result, made = validate(model, video, **kind)
    expected = generate(model, [sequence], **kind)[0]
    assert torch.equal(made, expected)
    assert result.psnr.tolist() == score(expected, truth, sequence.labels, video.ink).psnr.tolist()
    other = VideoData(truth.flip(0).contiguous(), sequence.labels, (Recording(0, 6),))
    other.frames[0] = sequence.first_frame
    again, same = validate(model, other, **kind)
    assert torch.equal(same, made)  # true frames after the first are used for the score alone
    assert again.mean_psnr != result.mean_psnr
    watch = Watch()
    watch._asked = 15
    with pytest.raises(Stopped):
        validate(model, video, **kind, watch=watch)


def test_latents_follow_seed_number_and_scale(model: CVAE) -> None:
    kind = {"device": CPU, "precision": torch.float32}
    both = generate(model, 2 * sequences((5,)), seed=3, **kind)
    assert not torch.equal(both[0], both[1])  # the same input, with the latents of another place
    second = generate(model, sequences((5,)), seed=3, numbers=[1], **kind)[0]
    assert torch.equal(second, both[1])
    still = [generate(model, sequences((5,)), seed=s, latent_scale=0.0, **kind)[0] for s in (3, 4)]
    assert torch.equal(*still)  # the prior's mean knows no seed


def test_progress_counts_every_predicted_frame(model: CVAE) -> None:
    counted: list[int] = []
    kind = {"seed": 0, "device": CPU, "precision": torch.float32, "advance": counted.append}
    generate(model, sequences((5, 5, 3)), **kind)
    assert sum(counted) == 4 + 4 + 2
    counted.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "_batch_changes_nothing", lambda *_: True)
        generate(model, sequences((5, 5)), batch_size=2, **kind)
    assert counted == [2, 2, 2, 2]


def test_ssim_is_scored_on_the_same_frames() -> None:
    g = torch.Generator().manual_seed(0)
    truth = torch.randint(0, 256, (4, 16, 16, 3), generator=g, dtype=torch.uint8)
    prediction = to_unit(truth).permute(0, 3, 1, 2).clone()
    prediction[0] = 0.0  # frame 0 never counts
    prediction[2] = 0.5
    result = score(prediction, truth, torch.zeros_like(truth), ON_BLACK)
    assert result.ssim[[0, 2]].tolist() == pytest.approx([1.0, 1.0])
    assert result.ssim[1] < 0.2
    assert result.mean_ssim == pytest.approx(result.ssim.mean())


def scene(frames: int = 4) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Prediction (perfect), truth and labels; the skeleton is a pixel in the upper left corner."""
    g = torch.Generator().manual_seed(2)
    truth = torch.randint(60, 200, (frames, 12, 16, 3), generator=g, dtype=torch.uint8)
    labels = torch.zeros_like(truth)
    labels[:, 0, 0] = 255
    return to_unit(truth).permute(0, 3, 1, 2).clone(), truth, labels


def test_the_error_is_told_apart_by_place() -> None:
    prediction, truth, labels = scene()
    prediction[1, :, :4, :4] += 0.1  # all that is near the skeleton
    prediction[2, :, 4:] += 0.01  # elsewhere, but for 4 rows of 12 columns
    result = score(prediction, truth, labels, ON_BLACK)
    assert result.inside.tolist() == pytest.approx([20.0, 100.0, 100.0], abs=1e-3)
    part = 8 * 16 / (12 * 16 - 16)
    expected = [100.0, 40 - 10 * math.log10(part), 100.0]
    assert result.outside.tolist() == pytest.approx(expected, abs=1e-3)
    assert result.mean_inside == pytest.approx(220 / 3, abs=1e-3)
    assert result.mean_outside == pytest.approx(sum(expected) / 3, abs=1e-3)
    # The control: with the skeleton in the other corner it is the other way round.
    swapped = score(prediction, truth, labels.flip((1, 2)), ON_BLACK)
    assert swapped.inside[0] == pytest.approx(100.0) and swapped.outside[0] < 31


def test_frames_without_a_skeleton_are_left_out() -> None:
    prediction, truth, labels = scene()
    labels[:] = 0
    labels[2, 0, 0] = 255
    prediction[2, :, 0, 0] += 0.1
    result = score(prediction, truth, labels, ON_BLACK)
    assert np.isnan(result.inside).tolist() == [True, False, True]
    assert result.mean_inside == pytest.approx(result.inside[1])
    assert not np.isnan(result.outside).any()
    nothing = score(prediction, truth, torch.zeros_like(labels), ON_BLACK)
    assert math.isnan(nothing.mean_inside) and math.isfinite(nothing.mean_outside)
    everything = score(prediction, truth, torch.full_like(labels, 255), ON_BLACK)
    assert math.isnan(everything.mean_outside) and math.isnan(everything.mean_flicker)
    # A prediction that is not finite must not pass for a frame without a skeleton.
    prediction[3] = math.nan
    assert math.isnan(score(prediction, truth, labels, ON_BLACK).mean_inside)


def test_flicker_counts_from_the_first_predicted_frame() -> None:
    prediction, truth, labels = scene()
    truth[:] = truth[0]
    prediction[:] = prediction[0]
    prediction[1:] += 0.1  # a step from the given frame, and none after it
    result = score(prediction, truth, labels, ON_BLACK)
    assert math.isnan(result.flicker[0]) and result.flicker[1:].tolist() == [0, 0]
    prediction[2] += 2 / 255
    assert score(prediction, truth, labels, ON_BLACK).mean_flicker == pytest.approx(2.0, abs=1e-3)
    two = score(prediction[:2], truth[:2], labels[:2], ON_BLACK)
    assert math.isnan(two.mean_flicker) and math.isfinite(two.mean_psnr)


def test_drift_is_the_slope_over_the_frames() -> None:
    frames = np.arange(1, 630)
    assert psnr_drift(30 - 0.02 * frames) == pytest.approx(-2.0)  # dB per 100 frames
    assert psnr_drift(np.full(629, 30.0)) == pytest.approx(0.0)
    bumpy = 30 - 0.02 * frames + np.sin(frames)
    assert psnr_drift(bumpy) == pytest.approx(100 * np.polyfit(frames, bumpy, 1)[0])
    assert psnr_drift(bumpy[::-1]) == pytest.approx(-psnr_drift(bumpy))
    assert math.isfinite(psnr_drift(np.ones(9))) and math.isnan(psnr_drift(np.ones(8)))
    assert math.isnan(psnr_drift(np.array([*np.ones(20), math.nan])))
    prediction, truth, labels = scene(12)
    prediction[1:] += 0.1 * 10 ** (torch.arange(11) / 20)[:, None, None, None]  # a dB a frame
    result = score(prediction, truth, labels, ON_BLACK)
    assert result.drift == pytest.approx(-100, abs=0.1)
    assert "drift -100.0" in result.details()


class Transfers(TorchFunctionMode):
    """Counts what would wait for a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += getattr(func, "__name__", "") in ("cpu", "item", "tolist", "__bool__")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("frames", [2, 40])
def test_all_scores_come_over_at_once(frames: int) -> None:
    prediction = torch.rand(frames, 3, 16, 16)
    truth = torch.randint(0, 256, (frames, 16, 16, 3), dtype=torch.uint8)
    with Transfers() as transfers:
        result = score(prediction, truth, truth, ON_BLACK)
    assert transfers.count == 1
    assert len(result.psnr) == frames - 1
    with Transfers() as transfers:  # the control
        for value in prediction[1:].mean(dim=(1, 2, 3)):
            value.item()
    assert transfers.count == frames - 1


def test_scores_that_do_not_fit_are_made_on_the_cpu() -> None:
    tried: list[torch.Tensor] = []

    def too_much(video: torch.Tensor) -> int:
        tried.append(video)
        if len(tried) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return len(video)

    assert where_it_fits(too_much, torch.zeros(5)) == 5
    assert len(tried) == 2
    with pytest.raises(ValueError, match="shape"):  # the control: of memory alone
        where_it_fits(lambda _: (_ for _ in ()).throw(ValueError("shape")), torch.zeros(5))
