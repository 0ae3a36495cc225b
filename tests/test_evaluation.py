"""Generation: what it depends on, and how its frames are scored."""

import pytest
import torch

from modules import evaluation
from modules.cvae import CVAE, ModelConfig
from modules.evaluation import generate, score, validate
from modules.runtime.errors import Stopped
from modules.runtime.stopping import Watch
from modules.sequences import Recording, TestSequence, VideoData, to_uint8, to_unit

CONFIG = ModelConfig(F_dim=8, L_dim=4, N_dim=4, D_out_dim=8, frame_H=8, frame_W=12)
CPU = torch.device("cpu")


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
    result = score(prediction, truth)
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
    assert result.psnr.tolist() == score(expected, truth).psnr.tolist()
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
    result = score(prediction, truth)
    assert result.ssim[[0, 2]].tolist() == pytest.approx([1.0, 1.0])
    assert result.ssim[1] < 0.2
    assert result.mean_ssim == pytest.approx(result.ssim.mean())
