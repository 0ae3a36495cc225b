"""What a validation writes: PSNR of each frame, and with pictures of labels, truth, prediction."""

from pathlib import Path
from typing import Any

import torch

from modules.evaluation import Score
from modules.figures.frames import draw_psnr_per_frame, write_sheet
from modules.figures.gifs import write_comparison_gif
from modules.runlog import write_psnr_per_frame
from modules.sequences import VideoData, to_uint8


def write_validation(
    root: Path, result: Score, video: VideoData, made: torch.Tensor, *, visualize: bool
) -> None:
    """psnr_per_frame.csv and .png, and to visualize val.gif and val_sheet.png.

    made: (T, 3, H, W) in [0, 1]; pictures of frames that are not finite are left out.
    """
    write_psnr_per_frame(root / "psnr_per_frame.csv", result.psnr, result.inside, result.outside)
    images: dict[str, Any] = {}
    if torch.isfinite(made).all():
        images = {
            "labels": video.labels.numpy(),
            "truth": video.frames.numpy(),
            "prediction": to_uint8(made).numpy(),
        }
    draw_psnr_per_frame(
        root / "psnr_per_frame.png",
        result.psnr,
        inside=result.inside,
        outside=result.outside,
        title_prefix="Validation",
        **images,
    )
    if visualize and images:
        write_comparison_gif(root / "val.gif", **images)
        write_sheet(root / "val_sheet.png", **images, psnr=result.psnr)
