"""What a validation writes: PSNR of each frame, and with pictures of labels, truth, prediction."""

from pathlib import Path

import torch

from modules.data import VideoData, to_uint8
from modules.evaluation import Score, where_it_fits
from modules.figures.drawing import Validation


def drawing_of(
    result: Score, video: VideoData, made: torch.Tensor, *, visualize: bool
) -> Validation:
    """What is to be drawn of a validation.

    made: (T, 3, H, W) in [0, 1]; pictures of frames that are not finite are left out.
    """
    images = {}
    if torch.isfinite(made).all():
        images = {
            "labels": video.labels.numpy(),
            "truth": video.frames.numpy(),
            "prediction": where_it_fits(to_uint8, made).cpu().numpy(),
        }
    return Validation(result.psnr, result.inside, result.outside, images, visualize)


def write_validation(
    root: Path, result: Score, video: VideoData, made: torch.Tensor, *, visualize: bool
) -> None:
    """psnr_per_frame.csv and .png, and to visualize val.gif and val_sheet.png.

    made: as drawing_of takes it. Raises what goes wrong with any of them.
    """
    for draw in drawing_of(result, video, made, visualize=visualize).pictures(root).values():
        draw()
