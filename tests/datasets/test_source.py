"""Source videos: folders, GIFs and mp4 files, and their frames at another rate."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from modules.datasets.source import count_sampled, frame_step, open_clip, read_frames, sampled
from modules.runtime.errors import UserError
from tests.support.clips import HEIGHT, WIDTH, draw, make_folder, middle
from tests.support.scripts import assert_refused, run_script


def test_frame_rates_by_hand(tmp_path: Path) -> None:
    clip = make_folder(tmp_path / "dance")
    opened = open_clip(clip, source_fps=30)
    assert [i for i, _ in sampled(opened, 15)] == list(range(0, 60, 2))
    assert [i for i, _ in sampled(opened, 12)][:6] == [0, 3, 5, 8, 10, 13]  # 0, 2.5, 5, 7.5 …
    assert [i for i, _ in sampled(opened, 30)] == list(range(60))
    assert [i for i, _ in sampled(opened, 50)] == list(range(60))  # no frame twice
    assert [i for i, _ in sampled(open_clip(clip, None), 15)] == list(range(60))
    for fps in (7, 12, 15, 29, 30):
        step = frame_step(opened, fps)
        assert count_sampled(60, step) == len(list(sampled(opened, fps)))


def test_gif_has_its_own_rate(tmp_path: Path) -> None:
    images = [Image.fromarray(draw(t)).quantize(64) for t in range(12)]
    path = tmp_path / "dance.gif"
    images[0].save(path, save_all=True, append_images=images[1:], duration=50, loop=0)
    opened = open_clip(path, None)
    assert (opened.kind, opened.fps, opened.frames) == ("images", 20, 12)
    frames = list(read_frames(opened))
    assert all(frame.shape == (HEIGHT, WIDTH, 3) for frame in frames)
    x, y = (round(v) for v in middle(7))
    assert abs(int(frames[7][y, x, 0]) - 107) < 12
    assert [i for i, _ in sampled(opened, 10)] == [0, 2, 4, 6, 8, 10]


def test_mp4_is_read_whole_and_upright(tmp_path: Path) -> None:
    ffmpeg = pytest.importorskip("imageio_ffmpeg", reason="no mp4 without imageio-ffmpeg")
    import imageio.v3 as iio

    path, turned = tmp_path / "dance.mp4", tmp_path / "turned.mp4"
    iio.imwrite(path, np.stack([draw(t) for t in range(40)]), plugin="FFMPEG", fps=30)
    opened = open_clip(path, None)
    assert (opened.kind, opened.fps, opened.size) == ("video", 30, (WIDTH, HEIGHT))
    frames = list(read_frames(opened))
    assert len(frames) == 40
    x, y = (round(v) for v in middle(33))
    assert abs(int(frames[33][y, x, 0]) - 133) < 25  # chroma is stored at half the size
    # As a telephone does it: stored on its side, with a note to turn it.
    command = [ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-display_rotation", "90"]
    subprocess.run([*command, "-i", str(path), "-c", "copy", str(turned)], check=True)
    opened = open_clip(turned, None)
    assert opened.size == (HEIGHT, WIDTH)
    assert next(read_frames(opened)).shape == (WIDTH, HEIGHT, 3)
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(UserError, match=r"dance\.mp4"):
        list(read_frames(open_clip(path, None)))


def test_mp4_without_its_package_names_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    (tmp_path / "a.mp4").write_bytes(b"not opened")
    result = run_script("dataloader.py", "video", tmp_path / "a.mp4", "--out", tmp_path / "out")
    assert_refused(result, "a.mp4", "pip install imageio-ffmpeg")
    assert not (tmp_path / "out").exists()
