"""--preset best and video: size of the model and epochs by data set and machine."""

import os
from pathlib import Path

import pytest
import torch
from PIL import Image

import dataloader
from modules.auto_size import (
    FULL,
    MEDIUM,
    SMALL,
    auto_sized,
    cpu_cores,
    epochs_for,
    fold_for,
    folded,
    frame_for,
    own_frame_size,
    rate_for,
    size_for,
)
from modules.cvae import CVAE
from modules.data import Recording, VideoData
from modules.options import TrainerOptions, model_config, parse_trainer
from modules.runtime import distributed
from tests.support.scripts import run_script

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def data(frames: int) -> VideoData:
    pixels = torch.zeros(frames, 4, 4, 3, dtype=torch.uint8)
    return VideoData(pixels, pixels, (Recording(0, frames),))


def fit(*typed: str, frames: int = 1000, device: torch.device = CPU, given_weights: bool = False):  # type: ignore[no-untyped-def]
    options, explicit = parse_trainer("", ["--DR", "d", *typed])
    return auto_sized(options, explicit, data(frames), device, given_weights=given_weights)


@pytest.mark.parametrize(
    ("device", "frames", "epochs", "minutes"),
    # By hand: ten minutes of a CPU are 21,600 predicted frames, twenty of a GPU 360,000.
    [
        (CPU, 2000, 11, 11 * 2000 / 2160),
        (CPU, 50, 250, 250 * 50 / 2160),
        (CPU, 12_000, 3, 3 * 12_000 / 2160),
        (CUDA, 12_000, 30, 20),
    ],
)
def test_a_run_takes_what_a_user_waits_for(
    device: torch.device, frames: int, epochs: int, minutes: float
) -> None:
    assert epochs_for(device, frames) == (epochs, pytest.approx(minutes))


def test_larger_frames_and_wider_models_get_fewer_epochs() -> None:
    many = fit("--preset", "best", frames=4000)[0].num_epoch
    assert many == 11
    assert fit("--preset", "best", "--frame_W", "128", frames=4000)[0].num_epoch == 5
    # A full-size checkpoint on a CPU: 3^1.75 = 6.8 times the arithmetic.
    assert fit("--preset", "best", frames=4000, given_weights=True)[0].num_epoch == 3


@pytest.mark.parametrize(
    ("height", "width", "fold"),
    # Those that no fold makes small enough, and odd ones.
    [(32, 64, 1), (64, 128, 2), (128, 256, 4), (512, 1024, 8), (66, 130, 2), (65, 128, 1)],
)
def test_the_frame_decides_the_fold(height: int, width: int, fold: int) -> None:
    assert fold_for(height, width) == fold
    size = f"--frame_H {height} --frame_W {width}".split()
    options, (line,) = fit("--preset", "video", *size)
    assert options.fold == fold
    assert ("fold=" in line) == (fold != 1)
    CVAE(model_config(options)).copy_previous_frame()  # which its widths allow
    assert fit("--preset", "best", *size)[0].fold == 1


@pytest.mark.parametrize(
    ("stored", "cpu", "gpu"),
    [
        ((32, 64), (32, 64), (32, 64)),
        ((128, 256), (64, 128), (128, 256)),
        ((50, 70), (50, 70), (50, 70)),
        ((480, 640), (64, 80), (120, 160)),
    ],
)
def test_frames_are_as_large_as_the_device_trains_well(
    stored: tuple[int, int], cpu: tuple[int, int], gpu: tuple[int, int]
) -> None:
    assert (frame_for(*stored, CPU), frame_for(*stored, CUDA)) == (cpu, gpu)


def test_the_video_preset_takes_the_data_set_s_own_frame_size(tmp_path: Path) -> None:
    for split, count in (("train", 6), ("val", 3)):
        for kind in ("img", "label"):
            folder = tmp_path / f"data/{split}/{split}_{kind}"
            folder.mkdir(parents=True)
            for t in range(count):
                Image.new("RGB", (256, 128), (9 * t, 90, 30)).save(folder / f"{t}.png")
    root = str(tmp_path / "data")

    def size(*typed: str, device: torch.device = CPU) -> tuple[int, int, list[str]]:
        o, lines = own_frame_size(
            *parse_trainer("", ["--DR", root, *typed]), device, dataloader.image_size
        )
        return o.frame_H, o.frame_W, lines

    video = ("--preset", "video")
    *cpu, (line,) = size(*video)
    assert cpu == [64, 128] and "128 x 64 pixels for this device" in line
    assert "--frame_W 256 --frame_H 128" in line
    assert size(*video, device=CUDA)[:2] == (128, 256)
    assert size(*video, "--frame_H", "16", "--frame_W", "32") == (16, 32, [])
    assert size("--preset", "best") == (32, 64, [])  # which has the course's size
    assert size(*video, "--DR", "nowhere") == (32, 64, [])
    command = ("Trainer.py", "--DR", root, *video, "--device", "cpu")
    result = run_script(*command, "--dry_run", "--save_root", tmp_path / "run")
    assert result.returncode == 0, result.stderr
    assert "frame_H=64  frame_W=128" in result.stdout and "fold=2" in result.stdout


def test_a_folded_model_is_wide_enough_for_its_pixels() -> None:
    assert folded(SMALL, 2) == SMALL
    assert folded(SMALL, 8) == (192, 28, 4, 192)
    options, _ = fit("--preset", "video", "--frame_H", "128", "--frame_W", "256", "--F_dim", "40")
    assert (options.F_dim, options.fold) == (40, 2)  # 48 colours would not go through


def test_the_machine_decides_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the number of threads: torchrun's OMP_NUM_THREADS=1 must not choose another model."""
    cores, threads = cpu_cores(), torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 2)
        assert cpu_cores() == cores
    finally:
        torch.set_num_threads(threads)
    with monkeypatch.context() as patch:  # ranks take those of rank 0
        patch.setattr(distributed, "from_main", lambda *_: [8.0])
        assert fit("--preset", "best")[0].F_dim == MEDIUM.F_dim
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0}, raising=False)
    assert cpu_cores() == 1  # of a job that was given one core of the machine


def test_presets_choose_and_say_what_they_chose() -> None:
    assert (size_for(CPU, 2), size_for(CPU, 16), size_for(CUDA, 2)) == (SMALL, MEDIUM, FULL)
    defaults = TrainerOptions()
    assert FULL._asdict() == {name: getattr(defaults, name) for name in FULL._fields}
    options, (line,) = fit("--preset", "video")
    size = size_for(CPU, cpu_cores())
    assert size._asdict() == {name: getattr(options, name) for name in size._fields}
    assert options.num_epoch == 43  # of 500 predicted frames of 64 x 32
    assert "num_epoch=43  lr=0.0026 for 1,000 training frames" in line
    assert line.endswith("10 minutes or so")


def test_what_is_typed_stays() -> None:
    options, (line,) = fit("--preset", "video", "--F_dim", "40", "--num_epoch", "2")
    assert (options.F_dim, options.num_epoch) == (40, 2)
    assert options.L_dim != TrainerOptions().L_dim
    assert "F_dim=" not in line and "num_epoch" not in line and "minutes" not in line
    sizes = "--F_dim 40 --L_dim 8 --N_dim 4 --D_out_dim 40 --num_epoch 2"
    assert fit("--preset", "video", *sizes.split())[1] == []


def test_the_rate_of_a_preset_follows_the_width() -> None:
    # The spectral norm of a step's change of twice 48 channels is rate · √channels.
    assert rate_for(96, 0.003) * 96**0.5 == pytest.approx(0.003 * 48**0.5)
    options, (line,) = fit("--preset", "best", device=CUDA)
    assert options.lr == 0.0015
    assert "lr=0.0015" in line
    assert fit("--preset", "best", "--D_out_dim", "96")[0].lr == 0.0021
    assert fit("--preset", "best", "--D_out_dim", "48")[0].lr == 0.003
    assert fit("--preset", "best", "--lr", "0.003", device=CUDA)[0].lr == 0.003
    assert fit("--preset", "best", "--optim", "Adam", device=CUDA)[0].lr == 0.003
    assert fit("--optim", "Muon", device=CUDA)[0].lr == TrainerOptions().lr


def test_where_nothing_is_chosen() -> None:
    options, lines = fit()
    assert (options.F_dim, options.num_epoch, lines) == (128, 70, [])
    options, (line,) = fit("--preset", "best", given_weights=True)  # a checkpoint has its size
    assert options.F_dim == TrainerOptions().F_dim
    assert "F_dim" not in line and "num_epoch=6" in line
    options, explicit = parse_trainer("", ["--resume", "--save_root", "r", "--preset", "best"])
    assert auto_sized(options, explicit, data(1000), CPU) == (options, [])
