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
from modules.runtime.errors import Stopped
from modules.runtime.signals import Watch

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


def test_a_video_is_the_model_s_rollout_after_its_first_frame(model: CVAE) -> None:
    """In evaluation mode, whatever the model was in; and it changes nothing of it."""
    (given,) = sequences(7)
    first = to_unit(given.first_frame[None]).permute(0, 3, 1, 2)
    latents = prior_latents(CONFIG, 3, [0])
    labels = given.labels[:, None].permute(0, 1, 4, 2, 3)
    expected = torch.cat([first, *model.rollout(first, labels, latents)])
    before = {k: v.clone() for k, v in model.state_dict().items()}
    for training in (False, True):
        model.train(training)
        (made,) = generate(model, [given], **KIND)
        assert torch.equal(made, expected)
        assert model.training == training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_the_background_may_come_from_another_frame() -> None:
    torch.manual_seed(0)
    model = CVAE(dataclasses.replace(CONFIG, reference="first"))
    for name, weights in model.named_parameters():
        if name.startswith(("Reference_Fusion", "Background_Mask")):  # which start at zero
            weights.data += 0.05 * torch.randn_like(weights)
    (given,) = sequences(4)
    own = dataclasses.replace(given, reference=(given.first_frame, given.labels[0]))
    other = dataclasses.replace(own, reference=(255 - given.first_frame, given.labels[0]))
    made = [generate(model, [sequence], **KIND)[0] for sequence in (given, own, other)]
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0][1], made[2][1]) and torch.isfinite(made[2]).all()


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_generated_pixels_do_not_depend_on_the_batch(model: CVAE, precision: torch.dtype) -> None:
    given = sequences(5, 34, 2, 9)  # one beyond a chunk of labels
    kind = {**KIND, "precision": precision}
    results = [generate(model, given, **kind, batch_size=n) for n in (1, 3, 8)]
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert torch.equal(a, b)
    assert [len(v) for v in results[0]] == [5, 34, 2, 9]
    for video, sequence in zip(results[0], given, strict=True):
        assert torch.equal(to_uint8(video)[0], sequence.first_frame)


@pytest.mark.parametrize("apart", [False, True])
def test_latents_follow_the_sequence_s_number(
    apart: bool, model: CVAE, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In batches, and in batches that are taken apart since they would round differently."""
    (sequence,) = sequences(5)
    alone = [generate(model, [sequence], **KIND, numbers=[n])[0] for n in range(5)]
    assert not any(torch.equal(alone[0], other) for other in alone[1:])
    by_place = generate(model, 5 * [sequence], **KIND)
    assert all(torch.equal(a, b) for a, b in zip(by_place, alone, strict=True))
    if apart:
        plain = model.Generator.forward

        def rounding(x: Tensor) -> Tensor:
            return plain(x) + (1e-6 if len(x) > 1 else 0.0)  # as if it summed in another order

        monkeypatch.setattr(model.Generator, "forward", rounding)
    numbers = [4, 0, 2, 1]
    found = generate(model, 4 * [sequence], **KIND, numbers=numbers, batch_size=3)
    for n, video in zip(numbers, found, strict=True):
        assert torch.equal(video, alone[n])


def test_latents_follow_seed_and_scale(model: CVAE) -> None:
    def made(seed: int, scale: float = 1.0) -> Tensor:
        kind = {**KIND, "seed": seed, "latent_scale": scale}
        return generate(model, sequences(5), **kind)[0]

    assert not torch.equal(made(3), made(4))
    assert torch.equal(made(3, 0.0), made(4, 0.0))  # the prior's mean knows no seed
    assert len({made(3, scale).sum().item() for scale in (0.0, 0.5, 1.0)}) == 3


def test_validation_is_the_scored_generation_of_sequence_0(model: CVAE) -> None:
    sequence = sequences(6)[0]
    truth = torch.randint(0, 256, (6, 8, 12, 3), dtype=torch.uint8)
    truth[0] = sequence.first_frame
    video = VideoData(truth, sequence.labels, (Recording(0, 6),))
    result, made = validate(model.train(), video, **KIND)
    expected = generate(model.eval(), [sequence], **KIND)[0]
    assert torch.equal(made, expected)
    assert result.psnr.tolist() == score(expected, truth, sequence.labels, video.ink).psnr.tolist()
    other = VideoData(truth.flip(0).contiguous(), sequence.labels, (Recording(0, 6),))
    other.frames[0] = sequence.first_frame
    again, same = validate(model, other, **KIND)
    assert torch.equal(same, made)  # true frames after the first are used for the score alone
    assert again.mean_psnr != result.mean_psnr
    watch = Watch()
    watch._asked = 15
    with pytest.raises(Stopped):
        validate(model, video, **KIND, watch=watch)


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
    result = score(prediction, truth, labels, ON_BLACK)
    assert result.ssim[[0, 1]].max() < 1.0 and result.ssim[2] == pytest.approx(1.0)
    assert result.mean_ssim == pytest.approx(result.ssim.mean())
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
    bumpy = 30 - 0.02 * frames + np.sin(frames)
    assert psnr_drift(bumpy) == pytest.approx(100 * np.polyfit(frames, bumpy, 1)[0])
    assert math.isfinite(psnr_drift(np.ones(9))) and math.isnan(psnr_drift(np.ones(8)))
    assert math.isnan(psnr_drift(np.array([*np.ones(20), math.nan])))
    prediction, truth, labels = scene(12)
    prediction[1:] += 0.1 * 10 ** (torch.arange(11) / 20)[:, None, None, None]  # a dB a frame
    result = score(prediction, truth, labels, ON_BLACK)
    assert result.drift == pytest.approx(-100, abs=0.1)
    assert "drift -100.0" in result.details()


def test_what_moves_near_the_skeleton_is_no_flicker() -> None:
    """The skeleton of the same frame, not of the one before."""
    prediction, truth, labels = scene()
    truth[:], prediction[:] = truth[:1], prediction[:1]
    labels[3] = 0
    labels[3, 11, 15] = 255  # it jumps to the other corner
    prediction[3, :, 9:, 13:] += 0.1
    assert score(prediction, truth, labels, ON_BLACK).flicker[-1] == pytest.approx(0, abs=1e-6)
    labels[3] = labels[2]  # the control
    assert score(prediction, truth, labels, ON_BLACK).flicker[-1] > 0.1


def test_scores_that_do_not_fit_are_made_on_the_cpu() -> None:
    tried: list[Tensor] = []

    def too_much(video: Tensor) -> int:
        tried.append(video)
        if len(tried) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return len(video)

    assert where_it_fits(too_much, torch.zeros(5)) == 5
    assert len(tried) == 2
    with pytest.raises(ValueError, match="shape"):  # the control: of memory alone
        where_it_fits(lambda _: (_ for _ in ()).throw(ValueError("shape")), torch.zeros(5))


# ---------------------------------------------------------------- baselines


def video(*values: int) -> VideoData:
    """Frames of one brightness each, 2 × 2 pixels; the labels are the frames."""
    frames = torch.tensor(values, dtype=torch.uint8)[:, None, None, None].repeat(1, 2, 2, 3)
    return VideoData(frames, frames.clone(), (Recording(0, len(values)),))


def test_baselines_by_hand() -> None:
    result = baselines(video(10, 20), video(0, 15, 51))
    decibels = {error: -20 * np.log10(error / 255) for error in (15, 51, 36, 5, 31)}
    expected = {
        "first_frame": (decibels[15] + decibels[51]) / 2,
        "mean_train_frame": (100 + decibels[36]) / 2,  # 15: equal, which counts 100 dB
        "nearest_pose": (decibels[5] + decibels[31]) / 2,  # labels are the frames: 20 both times
    }
    assert result == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("size", [(8, 8), (33, 80), (300, 100)])
@pytest.mark.parametrize(("ground", "line"), [(0, 140), (255, 145)])
def test_the_nearest_pose_of_an_upright_line(size: tuple[int, int], ground: int, line: int) -> None:
    """A thin line that moves: its places in val are a few pixels beside those of train."""
    height, width = size
    step = width // 8

    def moving(poses: list[int], beside: int, lighter: int) -> VideoData:
        """Pose 0: nobody is there. Each pose has a frame of its own brightness."""
        labels = torch.full((len(poses), height, width, 3), ground, dtype=torch.uint8)
        for label, pose in zip(labels, poses, strict=True):
            if pose:
                label[height // 4 :, step * pose + beside, :2] = line
        brightness = 10 * torch.tensor(poses)[:, None, None, None] + lighter
        return VideoData(brightness.expand_as(labels).byte(), labels, (Recording(0, len(poses)),))

    train = moving([0, *range(1, 8), 0], 0, 0)
    poses = [5, 7, 2, 0, 4, 1, 6, 0, 3]
    val = moving(poses, step // 6, 5)
    _, place = nearest_rows(blurred(val.labels), blurred(train.labels))
    assert place.tolist() == poses  # of those without anybody the first
    assert blurred(val.labels).shape[1] < 1000
    nearest = baselines(train, val)["nearest_pose"]
    assert nearest == pytest.approx(-20 * np.log10(5 / 255), abs=1e-4)


def test_the_nearest_pose_does_not_depend_on_the_background() -> None:
    labels = torch.zeros(60, 32, 64, 3, dtype=torch.uint8)
    for label, (row, column, colour) in zip(
        labels, np.random.default_rng(0).integers(0, (20, 50, 3), (60, 3)), strict=True
    ):
        label[row : row + 12, column : column + 2, colour] = 100

    def nearest(labels: Tensor) -> list[int]:
        return nearest_rows(blurred(labels[:20]), blurred(labels[20:]))[1].tolist()

    on_black = nearest(labels)
    assert len(set(on_black)) > 10
    assert nearest(labels + 155) == on_black  # on grey
    assert nearest(255 - labels) == on_black  # on white
