"""ST-LPIPS, a learned perceptual distance that small shifts hardly change. An optional extra.

Ghildyal & Liu 2022, "Shift-Tolerant Perceptual Similarity Metric": the package stlpips-pytorch
brings its weights along (AlexNet trunk). It is not LPIPS, and its values cannot be compared with
those of LPIPS. It scores results; nothing is trained on it.
"""

import warnings

import numpy as np
import torch
from torch import Tensor, nn

from modules.runtime.errors import UserError

INSTALL = "pip install -r requirements-metrics.txt"
AT_ONCE = 32  # frames
SMALLEST = 21  # pixels of a side, below which the network's padding does not fit its features


def load_st_lpips(height: int, width: int) -> nn.Module:
    """The network, on the CPU, for frames of this size in pixels.

    Raises UserError for frames that are too small, and where it cannot be loaded, with what to do.
    """
    if min(height, width) < SMALLEST:
        size = f"{height} × {width}"
        raise UserError(f"--st_lpips: frames of {size} are too small, below {SMALLEST} pixels")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torchvision, about how the package calls it
            from stlpips_pytorch.stlpips import LPIPS

            network: nn.Module = LPIPS(net="alex", variant="shift_tolerant", verbose=False)
    except ImportError as error:
        raise UserError(f"--st_lpips needs another package ({error}): {INSTALL}") from error
    except (OSError, RuntimeError) as error:
        first = str(error).partition("\n")[0]
        raise UserError(f"--st_lpips: its weights cannot be read ({first}): {INSTALL}") from error
    return network.eval().requires_grad_(False)


@torch.no_grad()
def st_lpips(network: nn.Module, prediction: Tensor, truth: Tensor) -> np.ndarray:
    """The distance of each frame to the true one, 0 for equal frames: (T,) float64.

    prediction, truth: (T, 3, H, W) in [0, 1].
    """
    # normalize: from [0, 1] to the [-1, 1] that the network expects
    distances = [
        network(made.float(), true.float(), normalize=True).flatten()
        for made, true in zip(prediction.split(AT_ONCE), truth.split(AT_ONCE), strict=True)
    ]
    return torch.cat(distances).double().numpy()
