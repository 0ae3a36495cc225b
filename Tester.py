"""Generate videos with a trained checkpoint: frames, GIFs and the submission file.

    python Tester.py --ckpt_path runs/demo/best.ckpt                # the test sequences
    python Tester.py --ckpt_path runs/demo/best.ckpt --split val    # the validation video, scored
    python Tester.py --ckpt_path runs/demo/best.ckpt --export best.pth    # weights for other code

Only the decoder path runs: first frame, labels, and latents from the prior with a fixed seed.
Writes pred_seq{i}.gif, film_seq{i}.gif (label | truth | generated, or label | generated where no
truth is given), the film also as .mp4 where PyAV is installed, frames/{i}/{t}.png (exact pixels;
frame 0 is the given one) and submission.csv; with --split val also psnr_per_frame.csv and .png.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from tqdm import tqdm

import dataloader
from modules.checkpoint import Checkpoint, export, load_weights
from modules.cvae import CVAE
from modules.data import TestSequence, VideoData, to_uint8, to_unit
from modules.datasets.person import frames_per_second
from modules.evaluation import Score, generate, score, validate
from modules.figures.records import validation_files
from modules.ink import find_ink
from modules.losses import frame_mse, psnr_of_mse
from modules.options import TesterOptions, as_lines, parse, telling_origins
from modules.runtime.device import choose_device, choose_precision, describe, place, set_float32
from modules.runtime.errors import UserError
from modules.runtime.files import write_atomically
from modules.runtime.scripts import run_as_script
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
    for name, wanted in (("n_samples", o.n_samples > 1), ("st_lpips", o.st_lpips)):
        if wanted and o.split != "val":
            raise UserError(f"--{name}: only --split val has ground truth to score against")
    if o.ckpt_path is None:
        raise UserError("no checkpoint: name it with --ckpt_path, e.g. runs/demo/best.ckpt")
    path = Path(o.ckpt_path)
    checkpoint = load_weights(path).with_options(o, typed)
    if o.export is not None:
        return o, typed, checkpoint
    data_root = o.DR or checkpoint.data_root
    if data_root is None:
        raise UserError(f"{path} does not say where its data set is: give --DR")
    save_root = o.save_root or str(path.parent / o.split)
    height, width = checkpoint.config.frame_H, checkpoint.config.frame_W
    decided = {"DR": data_root, "save_root": save_root, "frame_H": height, "frame_W": width}
    decided["val_vi_len"] = o.val_vi_len or checkpoint.options.get("val_vi_len", 630)
    o = dataclasses.replace(o, **decided)  # type: ignore[arg-type]
    with telling_origins(o, typed, checkpoint):
        dataloader.refuse_inside(Path(data_root), Path(save_root))
    return o, typed, checkpoint


# ---------------------------------------------------------------- data


def load_data(
    o: TesterOptions, checkpoint: Checkpoint
) -> tuple[list[TestSequence], VideoData | None]:
    """The sequences of the split, in numeric order, and with --split val the true video.

    Raises UserError on faults of the data, and where its labels are not drawn as those that the
    checkpoint was trained on.
    """
    root = Path(o.DR or "")
    size: dict[str, Any] = {"height": o.frame_H, "width": o.frame_W, "workers": o.num_workers}
    if o.split == "test":
        sequences = dataloader.load_test(root, **size)
        for sequence in sequences:
            checkpoint.ink_for(find_ink(sequence.labels.numpy()), o.DR)
        return sequences, None
    video = dataloader.load_val(root, **size, val_vi_len=o.val_vi_len)
    video = dataclasses.replace(video, train_ink=checkpoint.ink_for(video.ink, o.DR))
    return [TestSequence("0", video.frames[0], video.labels, video.frames)], video


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


def remove_frames(folder: Path, first: int) -> None:
    """Remove {t}.png of t ≥ first, which an earlier and longer video left, and no other file."""
    for path in folder.glob("*.png"):
        if path.stem.isdecimal() and int(path.stem) >= first:
            path.unlink()


def remove_earlier(root: Path, names: list[str]) -> None:
    """Remove what an earlier run of the Tester left of sequences that are not among the names."""
    for gif in root.glob("pred_seq*.gif"):
        name = gif.stem.removeprefix("pred_seq")
        if name.isdecimal() and name not in names:
            folder = root / "frames" / name
            remove_frames(folder, 0)
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
            for film in root.glob(f"film_seq{name}.*"):
                film.unlink()
            gif.with_suffix(".mp4").unlink(missing_ok=True)  # of an earlier version
            gif.unlink()  # the last, as it tells that the rest is the Tester's
    for table in ("samples.csv", "st_lpips.csv"):
        (root / table).unlink(missing_ok=True)


def write_results(
    root: Path, sequences: list[TestSequence], made: list[np.ndarray], fps: float
) -> None:
    """Frames and submission.csv, then GIFs and films. UserError when disk or folder refuses."""
    names = [sequence.name for sequence in sequences]
    try:
        remove_earlier(root, names)
        for name, frames in zip(names, made, strict=True):
            folder = root / "frames" / name
            folder.mkdir(parents=True, exist_ok=True)
            remove_frames(folder, len(frames))
            for t, frame in enumerate(frames):
                Image.fromarray(frame).save(folder / f"{t}.png")
        write_atomically(root / "submission.csv", "".join(submission_lines(made)).encode())

        from modules.figures import media  # what cannot be drawn costs no result

        for sequence, frames in zip(sequences, made, strict=True):
            media.write_gif(root / f"pred_seq{sequence.name}.gif", frames, fps=min(fps, 50))
            labels, truth = sequence.labels.numpy(), sequence.truth
            shown = None if truth is None else truth.numpy()
            media.write_film(root / f"film_seq{sequence.name}", labels, shown, frames, fps=fps)
    except OSError as error:
        raise UserError(f"{root}: results cannot be written ({error.strerror})") from error


def submitted_psnr(pixels: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """PSNR in dB of frames 1 … 600 as integers, which is how submissions are scored.

    pixels, truth: (T, H, W, 3) uint8. The given frame 0 does not count.
    """
    part = slice(1, SUBMISSION_FRAMES + 1)
    made, true = (torch.from_numpy(frames[part]).permute(0, 3, 1, 2) for frames in (pixels, truth))
    return psnr_of_mse(frame_mse(made / 255.0, true / 255.0)).double().numpy()


def report_score(root: Path, video: VideoData, result: Score, made: torch.Tensor) -> None:
    """psnr_per_frame.csv and .png, and the two averages in words. made: (T, 3, H, W) in [0, 1]"""
    for write in validation_files(root, result, video, made, visualize=False).values():
        write()
    submitted = submitted_psnr(to_uint8(made).numpy(), video.frames.numpy())
    print(
        f"PSNR {result.mean_psnr:.4f} dB, SSIM {result.mean_ssim:.4f}, average over frames "
        f"1-{len(result.psnr)}\n"
        f"PSNR {submitted.mean():.4f} dB, average over frames 1-{len(submitted)} rounded to "
        f"integers (as submissions are scored)\n{result.details()}"
    )


def report_st_lpips(
    root: Path, network: nn.Module, truth: torch.Tensor, made: torch.Tensor
) -> None:
    """st_lpips.csv, of frames 1 … T-1, and its average in words. truth: (T, H, W, 3) uint8."""
    distances = st_lpips(network, made[1:], to_unit(truth[1:]).permute(0, 3, 1, 2))
    lines = ["frame,st_lpips", *(f"{t},{float(d)!r}" for t, d in enumerate(distances, 1))]
    write_atomically(root / "st_lpips.csv", ("\n".join(lines) + "\n").encode())
    print(f"ST-LPIPS {distances.mean():.4f}, average over frames 1-{len(distances)}; 0 = identical")


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


def settings(model: CVAE, o: TesterOptions) -> dict[str, Any]:
    """How everything is generated here."""
    device = next(model.parameters()).device
    how = {"device": device, "precision": choose_precision(o.precision, device)}
    return {**how, "seed": o.seed, "latent_scale": o.latent_scale}


def generate_all(
    model: CVAE, sequences: list[TestSequence], numbers: list[int], o: TesterOptions
) -> list[torch.Tensor]:
    """Each sequence from its first frame, (T, 3, H, W) in [0, 1]; numbers: for their latents."""
    total = sum(len(sequence.labels) - 1 for sequence in sequences)
    batch: dict[str, Any] = {"numbers": numbers, "batch_size": o.batch_size}
    with tqdm(total=total, desc="frames", leave=False, disable=None) as bar:
        return generate(model, sequences, **settings(model, o), **batch, advance=bar.update)


def sample_futures(
    model: CVAE, sequence: TestSequence, video: VideoData, o: TesterOptions
) -> list[Score]:
    """The scores of --n_samples futures of the validation video but for the first.

    Future k has the latents of sequence number k, which no other sequence of this split uses.
    """
    scores: list[Score] = []
    for first in range(1, o.n_samples, o.batch_size):
        numbers = list(range(first, min(first + o.batch_size, o.n_samples)))
        futures = generate_all(model, [sequence] * len(numbers), numbers, o)
        scores += [score(made, video.frames, video.labels, video.ink) for made in futures]
    return scores


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
            raise UserError(f"--save_root {root}: cannot be created ({error.strerror})") from error
        size = checkpoint.config.frame_H, checkpoint.config.frame_W
        perceptual = load_st_lpips(*size) if o.st_lpips else None
        print("\n".join(as_lines(o)), flush=True)

        # -------------------------------------------------------- data
        sequences, video = load_data(o, checkpoint)
    total = sum(len(sequence.labels) - 1 for sequence in sequences)

    # ------------------------------------------------------------ model
    model = place(checkpoint.build_model(), device)
    print(f"{len(sequences)} sequences, {total} frames to render on {describe(device, precision)}")

    # ------------------------------------------------------------ run
    result = None
    if video:  # as Trainer.py validates
        result, prediction = validate(model, video, **settings(model, o))
        made = [prediction.cpu()]
    else:
        made = generate_all(model, sequences, [int(each.name) for each in sequences], o)
    if not all(torch.isfinite(frames).all() for frames in made):
        cause = f" (with --latent_scale {o.latent_scale})" if o.latent_scale > 1 else ""
        raise UserError(f"{o.ckpt_path}: its weights produce non-finite frames{cause}")
    pixels = [to_uint8(frames).numpy() for frames in made]
    write_results(root, sequences, pixels, frames_per_second(Path(o.DR or "")) or 15)
    if video and result:
        report_score(root, video, result, made[0])
        if perceptual:
            report_st_lpips(root, perceptual, video.frames, made[0])
        if o.n_samples > 1:
            report_samples(root, [result, *sample_futures(model, sequences[0], video, o)])
    print(f"frames, films and submission.csv are in {root}")


if __name__ == "__main__":
    run_as_script(main)
