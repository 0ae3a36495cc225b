"""--preset best and video: size of the model and epochs by data set and machine."""

import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import dataloader
from modules import auto_size
from modules.cvae import CVAE
from modules.data import Recording, VideoData
from modules.options import TrainerOptions, model_config, parse_trainer
from modules.runtime import device as device_module
from modules.runtime import distributed
from tests.support.data import make_dataset
from tests.support.scripts import done

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(autouse=True)
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_interop_threads", lambda: 2)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(4), raising=False)
    monkeypatch.setattr(device_module, "_has_bfloat16", lambda _: True)


def fit(
    typed: str, *, frames: int = 1000, device: torch.device = CPU, given_weights: bool = False
) -> tuple[TrainerOptions, list[str]]:
    options, explicit = parse_trainer("", ["--DR", "d", *typed.split()])
    pixels = torch.zeros(frames, 4, 4, 3, dtype=torch.uint8)
    data = VideoData(pixels, pixels, (Recording(0, frames),))
    kind: dict[str, Any] = {"val": min(630, frames // 5), "given_weights": given_weights}
    return auto_size.auto_sized(options, explicit, data, device, **kind)


GPU, WEIGHTS, MANY = {"device": CUDA}, {"given_weights": True}, {"frames": 4000}
SMALL_ONE = auto_size.SMALL._asdict()
VIDEO = "--preset video --frame_H {} --frame_W {}".format


@pytest.mark.parametrize(
    ("typed", "kind", "chosen"),
    [
        # By hand: ten minutes of a CPU are 25,200 trained frames, twenty of a GPU 372,000; half of
        # the frames of these presets are trained on, and 0.4 of those of validation and a stretch
        # of 64 count as well: 2,278 of 4,000, 84 of 100, 12,278 of 24,000.
        ("--preset best", MANY, {**SMALL_ONE, "num_epoch": 11, "lr": 0.0026}),
        ("--preset best", {"frames": 100}, {"num_epoch": 250}),
        ("--preset best", {"frames": 24_000}, {"num_epoch": 3}),
        ("--preset best --precision float32", {}, {"num_epoch": 10}),  # of 606, 6,000 in all
        ("--preset best", GPU | {"frames": 24_000}, {"num_epoch": 30}),
        ("--preset best --frame_W 128", MANY, {**SMALL_ONE, "num_epoch": 6, "lr": 0.0026}),
        # A full-size checkpoint on a CPU: 3^1.75 = 6.8 times the arithmetic.
        ("--preset best", MANY | WEIGHTS, {"num_epoch": 3, "lr": 0.0015}),
        ("--preset best", GPU, {**auto_size.FULL._asdict(), "num_epoch": 250, "lr": 0.0015}),
        # The frame decides the fold; no fold makes some small enough, and others are odd.
        *(
            (VIDEO(*size), {}, {**auto_size.folded(auto_size.SMALL, fold)._asdict(), "fold": fold})
            for size, fold in (((64, 128), 2), ((128, 256), 4), ((512, 1024), 8), ((66, 130), 2))
        ),
        (VIDEO(65, 128), {}, {**SMALL_ONE, "fold": 1}),
        (VIDEO(128, 256) + " --F_dim 40", {}, {"fold": 2}),  # 48 colours would not go through
        # What is typed stays, and the rate follows a typed width too.
        ("--preset best --D_out_dim 96", {}, {"lr": 0.0021}),
        ("--preset best --D_out_dim 48", {}, {"lr": 0.003}),
        ("--preset best --lr 0.003", GPU, {"lr": 0.003}),
        ("--preset best --optim Adam", GPU, {"lr": 0.003}),
        ("--preset video --F_dim 40 --num_epoch 2", {}, {"L_dim": 28}),
        ("--optim Muon", GPU, {"lr": 0.001, "num_epoch": 70, "F_dim": 128}),
    ],
)
def test_what_is_chosen(typed: str, kind: dict[str, Any], chosen: dict[str, Any]) -> None:
    options, lines = fit(typed, **kind)
    assert {name: getattr(options, name) for name in chosen} == chosen
    said = dict(re.findall(r"(\w+)=(\S+)", "".join(lines)))
    assert all(str(getattr(options, name)) == value for name, value in said.items())
    assert not {*said} & {word[2:] for word in typed.split()}
    assert ("minutes or so" in "".join(lines)) == ("num_epoch" in said)
    assert ("preset" in typed) == bool(lines)
    CVAE(model_config(options)).copy_previous_frame()  # which its widths allow


def test_presets_choose_and_say_what_they_chose() -> None:
    (line,) = fit("--preset video")[1]
    assert "num_epoch=42  lr=0.0026 for 1,000 training frames on 2 CPU cores" in line
    assert line.endswith("10 minutes or so")  # 500 trained frames, and 0.4 of 264 others
    chosen = [auto_size.size_for(*machine) for machine in ((CPU, 2), (CPU, 16), (CUDA, 2))]
    assert chosen == [auto_size.SMALL, auto_size.MEDIUM, auto_size.FULL]
    # The spectral norm of a step's change of twice 48 channels is rate · √channels.
    assert auto_size.rate_for(96, 0.003) * 96**0.5 == pytest.approx(0.003 * 48**0.5)
    options, explicit = parse_trainer("", ["--resume", "--save_root", "r", "--preset", "best"])
    assert auto_size.auto_sized(options, explicit, None, CPU, val=0) == (options, [])


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
    assert (auto_size.frame_for(*stored, CPU), auto_size.frame_for(*stored, CUDA)) == (cpu, gpu)


def test_the_video_preset_takes_the_data_set_s_own_frame_size(tmp_path: Path) -> None:
    root = str(make_dataset(tmp_path / "data", train=4, val=2, tests=(), size=256))

    def size(typed: str, device: torch.device = CPU) -> tuple[int, int, list[str]]:
        given = parse_trainer("", ["--DR", root, *typed.split()])
        o, lines = auto_size.own_frame_size(*given, device, dataloader.image_size)
        return o.frame_H, o.frame_W, lines

    height, width, (line,) = size("--preset video", CUDA)
    assert (height, width) == (128, 128) and "chose frames of 128 x 128 pixels for this" in line
    assert "--frame_W 256 --frame_H 256" in line
    assert size("--preset video --frame_H 16 --frame_W 32") == (16, 32, [])
    assert size("--preset best") == (32, 64, [])  # which has the course's size
    assert size("--preset video --DR nowhere") == (32, 64, [])
    assert size("--preset video --ckpt_path best.ckpt") == (32, 64, [])  # which decides
    command = ("Trainer.py", "--DR", root, "--preset", "video", "--device", "cpu")
    said = done(*command, "--dry_run", "--save_root", tmp_path / "run")
    assert "frame_H=64  frame_W=64" in said and "fold=2" in said


def test_the_machine_decides_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the number of threads: torchrun's OMP_NUM_THREADS=1 must not choose another model."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert auto_size.cpu_cores() == 2
    monkeypatch.setattr(torch, "get_num_interop_threads", lambda: 16)
    assert auto_size.cpu_cores() == 4  # of a job that was given a part of the machine
    # Ranks take those of rank 0, and its speed: of 8 frames/s, 4,800 in all.
    monkeypatch.setattr(distributed, "from_main", lambda *_: [8.0])
    chosen = fit("--preset best")[0]
    assert (chosen.F_dim, chosen.num_epoch) == (auto_size.MEDIUM.F_dim, 8)
