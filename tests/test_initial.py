"""--init copy: the model starts as a copy of the previous frame, and can still learn."""

import pytest
import torch

from modules.cvae import CVAE, ModelConfig, prior_latents
from modules.data import Previous
from modules.losses import psnr

CONFIGS = [
    ModelConfig(F_dim=24, L_dim=4, N_dim=4, D_out_dim=24, frame_H=8, frame_W=12),
    ModelConfig(F_dim=32, L_dim=16, N_dim=12, D_out_dim=48, frame_H=8, frame_W=12),
    ModelConfig(F_dim=16, L_dim=4, N_dim=4, D_out_dim=16, frame_H=8, frame_W=12, fold=2),
]


def clips() -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    frames, labels = torch.rand(2, 6, 2, 3, 8, 12, generator=g)
    return frames, labels


@pytest.mark.parametrize("config", CONFIGS)
def test_the_first_frame_is_repeated(config: ModelConfig) -> None:
    frames, labels = clips()
    torch.manual_seed(0)
    copying, usual = CVAE(config).eval(), CVAE(config).eval()
    copying.copy_previous_frame()

    def last_frame(model: CVAE) -> torch.Tensor:
        return list(model.rollout(frames[0], labels, prior_latents(config, 0, [0, 1])))[-1]

    assert psnr(last_frame(copying), frames[0]).min() > 25
    assert psnr(last_frame(usual), frames[0]).max() < 10  # the control


def test_every_weight_still_learns() -> None:
    frames, labels = clips()
    torch.manual_seed(0)
    model = CVAE(CONFIGS[1]).train()
    model.copy_previous_frame()
    noise = torch.randn(5, 2, 12, 8, 12)
    previous = Previous.of(frames, teacher_forcing=True)
    out = model(frames, labels, noise, previous, sequential=False)
    (out.mse.mean() + 1e-3 * out.kl.mean()).backward()
    for name, p in model.named_parameters():
        assert p.grad is not None, name
        assert p.grad.abs().max() > 0, name
