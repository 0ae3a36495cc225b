"""Generate videos with a trained checkpoint: frames, GIFs and the submission file.

    python Tester.py --ckpt_path runs/demo/best.ckpt                # the test sequences
    python Tester.py --ckpt_path runs/demo/best.ckpt --split val    # the validation video, scored
    python Tester.py --ckpt_path runs/demo/best.ckpt --export best.pth    # weights for other code

Only the decoder path runs: first frame, labels, and latents from the prior with a fixed seed.
Writes pred_seq{i}.gif, also as .mp4 where imageio-ffmpeg is installed, frames/{i}/{t}.png (exact
pixels; frame 0 is the given one) and submission.csv; with --split val also psnr_per_frame.csv
and .png.
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from tqdm import tqdm

import dataloader
from modules import runlog
from modules.checkpoint import Checkpoint, export, load_checkpoint, with_frame_size
from modules.cvae import CVAE
from modules.evaluation import Score, generate, score
from modules.ink import Ink, find_ink
from modules.layout import place
from modules.losses import frame_mse, psnr_of_mse
from modules.options import TesterOptions, as_lines, parse
from modules.origins import telling_origins
from modules.runtime.device import choose_device, choose_precision, describe, set_float32
from modules.runtime.errors import UserError
from modules.runtime.files import write_atomically
from modules.runtime.scripts import run_as_script
from modules.sequences import TestSequence, to_uint8, to_unit
from modules.st_lpips import load_st_lpips, st_lpips

# Submissions are scored on this many predicted frames of a sequence, as integers.
SUBMISSION_FRAMES = 600

# ---------------------------------------------------------------- options


def all_options() -> tuple[TesterOptions, frozenset[str], Checkpoint]:
    """The options with what the checkpoint decides filled in, the names of those that were typed,
    and the checkpoint.

    Raises UserError for what can be refused before anything costs time.
    """
    o, typed = parse(TesterOptions, (__doc__ or "").strip())
    if o.n_samples > 1 and o.split != "val":
        raise UserError(f"--n_samples {o.n_samples}: only --split val has a truth to score against")
    if o.st_lpips and o.split != "val":
        raise UserError("--st_lpips: only --split val has a truth to score against")
    if o.ckpt_path is None:
        raise UserError("no checkpoint: name it with --ckpt_path, e.g. runs/demo/best.ckpt")
    path = Path(o.ckpt_path)
    checkpoint = load_checkpoint(path, o.weights)
    print(checkpoint.says(), flush=True)
    checkpoint.check_finite()
    checkpoint = with_frame_size(checkpoint, o.frame_H, o.frame_W)
    if o.export is not None:
        return o, typed, checkpoint
    data_root = o.DR or checkpoint.data_root
    if data_root is None:
        raise UserError(f"{path} does not say where its data set is: give --DR")
    save_root = o.save_root or str(path.parent / o.split)
    height, width = checkpoint.config.frame_H, checkpoint.config.frame_W
    decided = {"DR": data_root, "save_root": save_root, "frame_H": height, "frame_W": width}
    o = dataclasses.replace(o, **decided)  # type: ignore[arg-type]
    with telling_origins(o, typed, checkpoint):
        dataloader.refuse_inside(Path(data_root), Path(save_root))
    return o, typed, checkpoint


# ---------------------------------------------------------------- data


@dataclass(frozen=True)
class Video:
    """What to generate; truth where it is known."""

    sequence: TestSequence
    truth: torch.Tensor | None  # (T, H, W, 3) uint8
    ink: Ink  # of the labels

    @property
    def name(self) -> str:
        """Its folder's number."""
        return self.sequence.name


def load_videos(o: TesterOptions, checkpoint: Checkpoint) -> list[Video]:
    """The sequences of the split, in numeric order.

    Raises UserError on faults of the data, and where its labels are not drawn as those that the
    checkpoint was trained on.
    """
    assert o.DR is not None and o.frame_H is not None and o.frame_W is not None
    size = {"height": o.frame_H, "width": o.frame_W, "workers": o.num_workers}
    if o.split == "val":
        # Longer than any video: the whole one is wanted.
        video = dataloader.load_val(Path(o.DR), val_vi_len=2**31, **size)
        ink = checkpoint.ink_for(video.ink, o.DR)
        return [Video(TestSequence("0", video.frames[0], video.labels), video.frames, ink)]
    return [
        Video(s, None, checkpoint.ink_for(find_ink(s.labels.numpy()), o.DR))
        for s in dataloader.load_test(Path(o.DR), **size)
    ]


# ---------------------------------------------------------------- run: output


def submission_lines(videos: list[np.ndarray]) -> Iterator[str]:
    """submission.csv: a row for each frame, the given one included, sequence after sequence.

    videos: (T, H, W, 3) uint8 each. A row is the frame as (3, H, W) flattened: all R, then G,
    then B.
    """
    digits = [str(value) for value in range(256)]
    yield "id," + ",".join(map(str, range(videos[0][0].size))) + "\n"
    row = 0
    for video in videos:
        for frame in video:
            values = frame.transpose(2, 0, 1).ravel().tolist()
            yield f"{row}," + ",".join([digits[value] for value in values]) + "\n"
            row += 1


def write_frames(folder: Path, video: np.ndarray) -> None:
    """{t}.png for each frame of (T, H, W, 3) uint8; frames of an earlier, longer video go."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.png"):
        if old.stem.isdecimal() and int(old.stem) >= len(video):
            old.unlink()
    for t, frame in enumerate(video):
        Image.fromarray(frame).save(folder / f"{t}.png")


def write_results(root: Path, videos: list[Video], made: list[np.ndarray], fps: float) -> None:
    """GIFs, MP4s, frames and submission.csv. Raises UserError when the disk or folder refuses."""
    from modules.figures import media  # drawing is imported when there is something to draw

    try:
        for video, frames in zip(videos, made, strict=True):
            write_frames(root / "frames" / video.name, frames)
            media.write_gif(root / f"pred_seq{video.name}.gif", frames, fps=min(fps, 50))
            media.write_mp4(root / f"pred_seq{video.name}.mp4", frames, fps=fps)
        table = "".join(submission_lines(made)).encode()
        write_atomically(root / "submission.csv", table)
    except OSError as error:
        raise UserError(f"{root}: results cannot be written ({error.strerror})") from error


def report_score(root: Path, video: Video, made: torch.Tensor, pixels: np.ndarray) -> None:
    """psnr_per_frame.csv and .png, and the two averages in words."""
    from modules.figures import frames

    assert video.truth is not None
    result = score(made, video.truth, video.sequence.labels, video.ink)
    of_frames = result.psnr, result.inside, result.outside
    runlog.write_psnr_per_frame(root / "psnr_per_frame.csv", *of_frames)
    frames.draw_psnr_per_frame(
        root / "psnr_per_frame.png",
        result.psnr,
        inside=result.inside,
        outside=result.outside,
        labels=video.sequence.labels.numpy(),
        truth=video.truth.numpy(),
        prediction=pixels,
    )
    rounded = torch.from_numpy(pixels).permute(0, 3, 1, 2)[1 : SUBMISSION_FRAMES + 1] / 255.0
    target = video.truth.permute(0, 3, 1, 2)[1 : SUBMISSION_FRAMES + 1] / 255.0
    submitted = psnr_of_mse(frame_mse(rounded, target)).double().mean().item()
    print(
        f"PSNR {result.mean_psnr:.4f} dB, SSIM {result.mean_ssim:.4f}, average over frames "
        f"1-{len(result.psnr)}\n"
        f"PSNR {submitted:.4f} dB, average over frames 1-{len(rounded)} rounded to integers "
        f"(as submissions are scored)\n{result.details()}"
    )


def report_st_lpips(root: Path, network: nn.Module, video: Video, made: torch.Tensor) -> None:
    """st_lpips.csv, of frames 1 … T-1, and its average in words."""
    assert video.truth is not None
    distances = st_lpips(network, made[1:], to_unit(video.truth[1:]).permute(0, 3, 1, 2))
    lines = ["frame,st_lpips", *(f"{t},{float(d)!r}" for t, d in enumerate(distances, 1))]
    write_atomically(root / "st_lpips.csv", ("\n".join(lines) + "\n").encode())
    print(f"ST-LPIPS {distances.mean():.4f}, average over frames 1-{len(distances)}; 0 = equal")


def report_samples(root: Path, scores: list[Score]) -> None:
    """samples.csv, and best, mean and spread of the sampled futures in words.

    As Denton & Fergus 2018, section 5, and Franceschi et al. 2020, section 5, report them: of
    several futures the best one, since the true one is just one of the possible ones.
    """
    lines = ["sample,psnr,ssim"]
    lines += [f"{k},{s.mean_psnr!r},{s.mean_ssim!r}" for k, s in enumerate(scores)]
    write_atomically(root / "samples.csv", ("\n".join(lines) + "\n").encode())
    for name, unit, values in (
        ("PSNR", " dB", np.array([s.mean_psnr for s in scores])),
        ("SSIM", "", np.array([s.mean_ssim for s in scores])),
    ):
        print(
            f"{len(scores)} samples, {name}: best {values.max():.4f}{unit}, "
            f"mean {values.mean():.4f}{unit}, standard deviation {values.std(ddof=1):.4f}{unit}"
        )


# ---------------------------------------------------------------- run: generation


def sample_futures(model: CVAE, video: Video, o: TesterOptions, made: torch.Tensor) -> list[Score]:
    """The scores of --n_samples futures of the validation video, the given one first.

    Future k has the latents of sequence number k, which no other sequence of this split uses.
    """
    assert video.truth is not None
    device = next(model.parameters()).device
    labels = video.sequence.labels
    scores = [score(made, video.truth, labels, video.ink)]
    steps = len(video.sequence.labels) - 1
    with tqdm(total=(o.n_samples - 1) * steps, desc="samples", leave=False, disable=None) as bar:
        for first in range(1, o.n_samples, o.batch_size):
            numbers = list(range(first, min(first + o.batch_size, o.n_samples)))
            futures = generate(
                model,
                [video.sequence] * len(numbers),
                numbers=numbers,
                seed=o.seed,
                device=device,
                precision=choose_precision(o.precision, device),
                latent_scale=o.latent_scale,
                batch_size=o.batch_size,
                graph=True,
                advance=bar.update,
            )
            scores += [score(future, video.truth, labels, video.ink) for future in futures]
    return scores


def generate_all(model: CVAE, videos: list[Video], o: TesterOptions) -> list[torch.Tensor]:
    """Each video from its first frame, (T, 3, H, W) in [0, 1]. Raises UserError if not finite."""
    device = next(model.parameters()).device
    total = sum(len(video.sequence.labels) - 1 for video in videos)
    with tqdm(total=total, desc="frames", leave=False, disable=None) as bar:
        made = generate(
            model,
            [video.sequence for video in videos],
            numbers=[int(video.name) for video in videos],
            seed=o.seed,
            device=device,
            precision=choose_precision(o.precision, device),
            latent_scale=o.latent_scale,
            batch_size=o.batch_size,
            graph=True,
            advance=bar.update,
        )
    if not all(torch.isfinite(video).all() for video in made):
        cause = f" (with --latent_scale {o.latent_scale})" if o.latent_scale > 1 else ""
        raise UserError(f"{o.ckpt_path}: its weights give frames that are not finite{cause}")
    return made


def main() -> None:
    # ------------------------------------------------------------ options
    o, typed, checkpoint = all_options()
    if o.export is not None:
        print("\n".join(export(checkpoint, Path(o.export))))
        return

    # ------------------------------------------------------------ setup
    with telling_origins(o, typed, checkpoint):
        device = choose_device(o.device)
        precision = choose_precision(o.precision, device)
        set_float32(device, o.precision)
        root = Path(o.save_root or "")
        try:
            root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--save_root {root}: cannot be made ({error.strerror})") from error
        size = checkpoint.config.frame_H, checkpoint.config.frame_W
        perceptual = load_st_lpips(*size) if o.st_lpips else None
        print("\n".join(as_lines(o)), flush=True)

        # -------------------------------------------------------- data
        videos = load_videos(o, checkpoint)
    total = sum(len(video.sequence.labels) - 1 for video in videos)

    # ------------------------------------------------------------ model
    model = place(checkpoint.build_model(), device, precision)
    print(f"{len(videos)} sequences, {total} frames to make on {describe(device, precision)}")

    # ------------------------------------------------------------ run
    made = generate_all(model, videos, o)
    pixels = [to_uint8(video).numpy() for video in made]
    write_results(root, videos, pixels, dataloader.frames_per_second(Path(o.DR or "")) or 15)
    if o.split == "val":
        report_score(root, videos[0], made[0], pixels[0])
        if perceptual:
            report_st_lpips(root, perceptual, videos[0], made[0])
        if o.n_samples > 1:
            report_samples(root, sample_futures(model, videos[0], o, made[0]))
    print(f"frames, videos and submission.csv are in {root}")


if __name__ == "__main__":
    run_as_script(main)
