"""Source videos: folders, GIFs and mp4 files; which frames are taken at another rate."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from modules.datasets.films import Timing
from modules.datasets.source import Clip, frames_at, open_clip, sampled_indices
from modules.runtime.errors import UserError
from tests.support.clips import draw, make_folder
from tests.support.scripts import assert_refused, run_script


def every(clip: Clip) -> Iterator[np.ndarray]:
    return frames_at(clip, range(clip.frames))


def make_gif(path: Path, frames: int = 4, **options: int) -> Path:
    first, *others = (Image.fromarray(draw(t)).quantize(64) for t in range(frames))
    first.save(path, save_all=True, append_images=others, **options)
    return path


def test_mp4_without_its_package_names_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    (tmp_path / "a.mp4").write_bytes(b"\0 not opened")
    result = run_script("dataloader.py", "video", tmp_path / "a.mp4", "--out", tmp_path / "out")
    assert_refused(result, "a.mp4", "pip install -r requirements-video.txt")
    assert not (tmp_path / "out").exists()


def test_identity_follows_the_content(tmp_path: Path) -> None:
    """By it an interrupted import knows its clips again."""
    folder = make_folder(tmp_path / "folder", 4)
    (folder / ".hidden").touch()
    before = open_clip(folder, None).identity
    moved = Path(shutil.copytree(folder, tmp_path / "moved"))
    (moved / ".hidden").unlink()
    assert open_clip(moved, 30).identity == before
    (moved / "3.png").write_bytes((moved / "3.png").read_bytes() + b"\0")
    assert open_clip(moved, None).identity != before
    gif, found = make_gif(tmp_path / "a.gif"), set()
    for frame in (draw(1), draw(2)):  # another of the same name and size
        Image.fromarray(frame).save(moved / "3.png", "BMP")
        gif.write_bytes(gif.read_bytes() + b"\0")
        found |= {open_clip(path, None).identity for path in (gif, moved)}
    assert len(found) == 4


def test_clips_without_a_rate_have_the_user_s(tmp_path: Path) -> None:
    for path in (make_gif(tmp_path / "a.gif"), make_folder(tmp_path / "folder", 4)):
        assert open_clip(path, None).timing is None
        assert sampled_indices(open_clip(path, 30), 15) == [0, 2]
        assert sampled_indices(open_clip(path, None), 15) == [0, 1, 2, 3]


def test_a_corrupted_gif_ends_with_an_error_that_names_it(tmp_path: Path) -> None:
    path = make_gif(tmp_path / "dance.gif", duration=50)
    assert len(list(every(open_clip(path, None)))) == 4  # the control
    data, rng = path.read_bytes(), np.random.default_rng(0)
    places = rng.integers(0, len(data), 200).tolist()
    flipped = [data[:i] + bytes([data[i] ^ 0xFF]) + data[i + 1 :] for i in places]
    refused = 0
    for content in (*(data[:length] for length in range(1, len(data), 29)), *flipped):
        path.write_bytes(content)
        try:
            list(every(open_clip(path, None)))
        except UserError as error:
            refused += 1
            assert "dance.gif: " in str(error) and "\n" not in str(error)
    assert refused > 200


def test_a_constant_clip_by_hand() -> None:
    timing = Timing.constant(60, 30)
    assert (timing.is_constant, timing.rate) == (True, pytest.approx(30))
    assert timing.indices(15) == list(range(0, 60, 2))
    assert timing.indices(12)[:6] == [0, 3, 5, 8, 10, 13]  # 0, 2.5, 5, 7.5 …
    assert timing.data_rate(15) == 15
    assert timing.indices(50) == list(range(60))  # a slower clip keeps its rate, no frame twice
    assert timing.data_rate(50) == pytest.approx(30)


@pytest.mark.parametrize("source_fps", [16.0, 23.976, 59.94])
def test_the_frame_nearest_in_time_is_taken(source_fps: float) -> None:
    taken = Timing.constant(240, source_fps).indices(15)
    times = np.arange(240) / source_fps
    for t, index in enumerate(taken):
        assert abs(times[index] - t / 15) <= np.abs(times - t / 15).min() + 1e-9
    assert len(set(taken)) == len(taken)
    # As many as there are, and no more: the next instant would be nearer to a frame 240.
    assert taken[-1] < 240 <= round(len(taken) * source_fps / 15 + 1e-6)


def test_a_clip_that_is_hardly_faster_keeps_every_frame() -> None:
    for fps in (10, 15, 15.7):
        assert Timing.constant(63, fps).indices(15) == list(range(63))
        assert Timing.constant(63, fps).data_rate(15) == pytest.approx(fps)
    assert len(Timing.constant(63, 15.8).indices(15)) == 60
