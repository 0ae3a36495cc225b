"""Generation: what it depends on, how its frames are scored, and what scores without a model."""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from modules.cvae import CVAE, ModelConfig, prior_latents
from modules.data import Recording, TestSequence, VideoData, nearest_rows, to_uint8, to_unit
from modules.evaluation import (
    baselines,
    blurred,
    generate,
    psnr_drift,
    score,
    validate,
    where_it_fits,
)
from modules.ink import Ink
from modules.runtime.errors import UserError

CONFIG = ModelConfig(F_dim=8, L_dim=4, N_dim=4, D_out_dim=8, frame_H=8, frame_W=12)
CPU = torch.device("cpu")
KIND: dict[str, Any] = {"seed": 3, "device": CPU, "precision": torch.float32}
ON_BLACK = Ink((0, 0, 0), 255)


@pytest.fixture
def model() -> CVAE:
    torch.manual_seed(0)
    return CVAE(CONFIG).eval()


def sequences(*lengths: int) -> list[TestSequence]:
    g = torch.Generator().manual_seed(1)

    def pixels(*shape: int) -> Tensor:
        return torch.randint(0, 256, shape, generator=g, dtype=torch.uint8)

    return [TestSequence("0", pixels(8, 12, 3), pixels(n, 8, 12, 3)) for n in lengths]


# ---------------------------------------------------------------- generation


@pytest.mark.parametrize(("seed", "scale"), [(3, 1.0), (4, 1.0), (3, 0.5), (4, 0.0)])
def test_a_video_is_the_model_s_rollout_after_its_first_frame(
    model: CVAE, seed: int, scale: float
) -> None:
    """In evaluation mode, whatever the model was in; and it changes nothing of it."""
    (given,) = sequences(7)
    first = to_unit(given.first_frame[None]).permute(0, 3, 1, 2)
    labels = given.labels[:, None].permute(0, 1, 4, 2, 3)
    expected = [first, *model.rollout(first, labels, prior_latents(CONFIG, seed, [0], scale))]
    before = {k: v.clone() for k, v in model.state_dict().items()}
    for training in (False, True):
        model.train(training)
        (made,) = generate(model, [given], **{**KIND, "seed": seed}, latent_scale=scale)
        assert torch.equal(made, torch.cat(expected))
        assert model.training == training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_the_background_may_come_from_another_frame() -> None:
    torch.manual_seed(0)
    model = CVAE(dataclasses.replace(CONFIG, reference="first"))
    for weights in (model.Reference_Fusion.weight, model.Background_Mask.share.weight):
        weights.data += 0.05 * torch.randn_like(weights)  # which start at zero
    (given,) = sequences(4)
    own = dataclasses.replace(given, reference=(given.first_frame, given.labels[0]))
    other = dataclasses.replace(own, reference=(255 - given.first_frame, given.labels[0]))
    made = [generate(model, [sequence], **KIND)[0] for sequence in (given, own, other)]
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0][1], made[2][1])


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_generated_pixels_do_not_depend_on_the_batch(model: CVAE, precision: torch.dtype) -> None:
    given = sequences(5, 34, 2, 9)  # one beyond a chunk of labels
    kind = {**KIND, "precision": precision}
    alone, *others = (generate(model, given, **kind, batch_size=n) for n in (1, 3))
    for other in others:
        assert all(map(torch.equal, alone, other))
    for video, sequence in zip(alone, given, strict=True):
        assert len(video) == len(sequence.labels)
        assert torch.equal(to_uint8(video)[0], sequence.first_frame)


@pytest.mark.parametrize("apart", [False, True])
def test_latents_follow_the_sequence_s_number(
    apart: bool, model: CVAE, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In batches, and in batches that are taken apart since they would round differently."""
    (sequence,) = sequences(5)
    alone = generate(model, 5 * [sequence], **KIND)  # by place, where no numbers are given
    assert not any(torch.equal(alone[0], other) for other in alone[1:])
    plain, numbers = model.Generator.forward, [4, 0, 2, 1]
    if apart:  # as if it summed in another order
        rounding = lambda x: plain(x) + (1e-6 if len(x) > 1 else 0.0)  # noqa: E731
        monkeypatch.setattr(model.Generator, "forward", rounding)
    found = generate(model, 4 * [sequence], **KIND, numbers=numbers, batch_size=3)
    assert all(torch.equal(alone[n], video) for n, video in zip(numbers, found, strict=True))


def test_progress_counts_the_frames_of_a_whole_batch(
    model: CVAE, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("modules.evaluation._batch_changes_nothing", lambda *_: True)
    counted: list[int] = []
    generate(model, 4 * sequences(5), **KIND, batch_size=3, advance=counted.append)
    assert sum(counted) == 4 * 4


def test_a_generation_that_does_not_fit_is_a_user_s_error(
    model: CVAE, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(model.Generator, "forward", full)
    with pytest.raises(UserError, match="generating 1 sequence of 5 frames of 12 x 8 pixels does"):
        generate(model, sequences(5), **KIND)


def test_validation_is_the_scored_generation_of_sequence_0(model: CVAE) -> None:
    sequence = sequences(6)[0]
    truth = torch.randint(0, 256, (6, 8, 12, 3), dtype=torch.uint8)
    truth[0] = sequence.first_frame
    video = VideoData(truth, sequence.labels, (Recording(0, 6),))
    kind = {**KIND, "latent_scale": 0.5}
    result, made = validate(model.train(), video, **kind)
    expected = generate(model.eval(), [sequence], **kind)[0]
    assert torch.equal(made, expected)
    assert result.psnr.tolist() == score(expected, truth, sequence.labels, video.ink).psnr.tolist()
    truth[1:] = 255 - truth[1:]
    again, same = validate(model, video, **kind)
    assert torch.equal(same, made)  # true frames after the first are used for the score alone
    assert again.mean_psnr != result.mean_psnr


# ---------------------------------------------------------------- scores


def test_score_is_the_mean_over_frames_1_to_the_end() -> None:
    truth = torch.full((3, 4, 4, 3), 100, dtype=torch.uint8)
    prediction = torch.full((3, 3, 4, 4), 100 / 255)
    prediction[0] += 0.5  # frame 0 never counts
    prediction[1] += 0.1
    prediction[2] += 0.01
    result = score(prediction, truth, torch.zeros_like(truth), ON_BLACK)
    assert result.psnr.tolist() == pytest.approx([20.0, 40.0], abs=1e-3)
    assert result.mean_psnr == pytest.approx(30.0, abs=1e-3)  # not that of the mean error
    assert result.loss == pytest.approx((0.01 + 0.0001) / 2, rel=1e-3)
    assert len(result.ssim) == len(result.outside) == len(result.flicker) == 2


def scene(frames: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """Prediction (perfect), truth and labels; the skeleton is a pixel in the upper left corner."""
    g = torch.Generator().manual_seed(2)
    truth = torch.randint(60, 200, (frames, 12, 16, 3), generator=g, dtype=torch.uint8)
    labels = torch.zeros_like(truth)
    labels[:, 0, 0] = 255
    return to_unit(truth).permute(0, 3, 1, 2).clone(), truth, labels


def test_the_error_is_told_apart_by_place() -> None:
    prediction, truth, labels = scene()
    prediction[0] = 0.0  # frame 0 never counts
    prediction[1, :, :4, :4] += 0.1  # all that is near the skeleton
    prediction[2, :, 4:] += 0.01  # elsewhere, but for 4 rows of 12 columns
    prediction[3, :, :4, :4] += 0.1  # where the skeleton has been in frame 0
    labels[3] = labels[3].flip((0, 1))
    result = score(prediction, truth, labels, ON_BLACK)
    assert result.ssim.max() < 1.0 and result.mean_ssim == pytest.approx(result.ssim.mean())
    inside = [20.0, 100.0, 20 + 10 * math.log10(2)]  # of twice as many pixels
    assert result.inside.tolist() == pytest.approx(inside, abs=1e-3)
    outside = [100.0, 40 - 10 * math.log10(8 * 16 / (12 * 16 - 16)), 100.0]
    assert result.outside.tolist() == pytest.approx(outside, abs=1e-3)
    assert result.mean_inside == pytest.approx(sum(inside) / 3, abs=1e-3)
    assert result.mean_outside == pytest.approx(sum(outside) / 3, abs=1e-3)


def test_frames_without_a_skeleton_are_left_out() -> None:
    prediction, truth, labels = scene()
    labels[[0, 1, 3]] = 0
    prediction[2, :, 0, 0] += 0.1
    result = score(prediction, truth, labels, ON_BLACK)
    assert np.isnan(result.inside).tolist() == [True, False, True]
    assert result.mean_inside == result.inside[1] and not np.isnan(result.outside).any()
    nothing = score(prediction, truth, torch.zeros_like(labels), ON_BLACK)
    assert math.isnan(nothing.mean_inside) and math.isfinite(nothing.mean_outside)
    everything = score(prediction, truth, torch.full_like(labels, 255), ON_BLACK)
    assert math.isnan(everything.mean_outside) and math.isnan(everything.mean_flicker)
    # A prediction that is not finite must not pass for a frame without a skeleton.
    prediction[3] = math.nan
    assert math.isnan(score(prediction, truth, labels, ON_BLACK).mean_inside)


def test_flicker_counts_from_the_first_predicted_frame() -> None:
    """And not near the skeleton of the same frame."""
    prediction, truth, labels = scene()
    truth[:], prediction[:] = truth[:1], prediction[:1]
    prediction[1:] += 0.1  # a step from the given frame, and none after it
    labels[3] = labels[3].flip((0, 1))  # it jumps to the other corner

    def flicker(frames: int = 4) -> list[float]:
        result = score(prediction[:frames], truth[:frames], labels[:frames], ON_BLACK)
        assert math.isnan(result.flicker[0]) and math.isfinite(result.mean_psnr)
        return [*result.flicker[1:], result.mean_flicker]

    prediction[3, :, 9:, 13:] += 0.1
    assert flicker() == pytest.approx([0, 0, 0], abs=1e-6)
    labels[3] = labels[2]
    assert flicker()[1] > 0.1  # the control
    prediction[2:] += 2 / 255
    assert flicker()[0] == pytest.approx(2.0, abs=1e-3)
    assert math.isnan(flicker(2)[-1])


def test_drift_is_the_slope_over_the_frames() -> None:
    """In dB per 100 frames; that of few frames is noise."""
    frames = np.arange(1, 630)
    bumpy = 30 - 0.02 * frames + np.sin(frames)
    assert psnr_drift(bumpy) == pytest.approx(100 * np.polyfit(frames, bumpy, 1)[0])
    assert math.isfinite(psnr_drift(np.ones(9))) and math.isnan(psnr_drift(np.ones(8)))
    prediction, truth, labels = scene(12)
    prediction[1:] += 0.1 * 10 ** (torch.arange(11) / 20)[:, None, None, None]  # a dB a frame
    result = score(prediction, truth, labels, ON_BLACK)
    assert result.drift == pytest.approx(-100, abs=0.1)
    assert "drift -100.0" in result.details()


def test_scores_that_do_not_fit_are_made_on_the_cpu() -> None:
    tried: list[Tensor] = []

    def too_much(video: Tensor) -> int:
        tried.append(video)
        if len(tried) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return len(video)

    assert where_it_fits(too_much, torch.zeros(5)) == 5
    assert len(tried) == 2


# ---------------------------------------------------------------- baselines


def video(*values: int) -> VideoData:
    """Frames of one brightness each, 2 × 2 pixels; the labels are the frames."""
    frames = torch.tensor(values, dtype=torch.uint8)[:, None, None, None].repeat(1, 2, 2, 3)
    return VideoData(frames, frames, (Recording(0, len(values)),))


def test_baselines_by_hand() -> None:
    """Labels are the frames: the nearest pose to 15 is 10 or 20, and to 51 it is 20."""
    result = baselines(video(10, 20, 20, 10), video(0, 15, 51))
    decibels = {error: -20 * np.log10(error / 255) for error in (15, 51, 36, 5, 31)}
    expected = {
        "first_frame": (decibels[15] + decibels[51]) / 2,
        "mean_train_frame": (100 + decibels[36]) / 2,  # 15: equal, which counts 100 dB
        "nearest_pose": (decibels[5] + decibels[31]) / 2,
    }
    assert result == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("size", [(8, 8), (33, 80), (300, 100)])
@pytest.mark.parametrize(("ground", "line"), [(0, 140), (255, 145)])
def test_the_nearest_pose_of_an_upright_line(size: tuple[int, int], ground: int, line: int) -> None:
    """A thin line that moves: its places in val are a few pixels beside those of train."""
    height, width = size
    step = width // 8

    def moving(poses: list[int], beside: int) -> Tensor:
        """Labels; pose 0: nobody is there."""
        labels = torch.full((len(poses), height, width, 3), ground, dtype=torch.uint8)
        for label, pose in zip(labels, poses, strict=True):
            if pose:
                label[height // 4 :, step * pose + beside, :2] = line
        return labels

    poses = [5, 7, 2, 0, 4, 1, 6, 0, 3]
    rows = blurred(moving(poses, step // 6))
    _, place = nearest_rows(rows, blurred(moving([0, *range(1, 8), 0], 0)))
    assert place.tolist() == poses  # of those without anybody the first
    assert rows.shape[1] < 1000
