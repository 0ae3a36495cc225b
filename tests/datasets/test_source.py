"""Source videos: folders, GIFs and mp4 files, and their frames at another rate."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

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
    paths = [make_gif(tmp_path / f"{frames}.gif", frames) for frames in (3, 4)]
    assert len({open_clip(path, None).identity for path in paths}) == 2


def test_clips_without_a_rate_have_the_user_s(tmp_path: Path) -> None:
    for path in (make_gif(tmp_path / "a.gif"), make_folder(tmp_path / "folder", 4)):
        assert open_clip(path, None).timing is None
        assert sampled_indices(open_clip(path, 30), 15) == [0, 2]
        assert sampled_indices(open_clip(path, None), 15) == [0, 1, 2, 3]


def test_sources_that_cannot_be_opened_are_named(tmp_path: Path) -> None:
    make_folder(tmp_path / "single", 1)
    Image.new("RGB", (9, 9)).save(tmp_path / "one.png")
    for name, said in (
        ("none.mp4", "there is no such video or folder"),
        ("single", "the folder has 1 image;"),
        ("one.png", "is a single image, not a video; give the folder"),
    ):
        with pytest.raises(UserError, match=f"{name}: {said}"):
            open_clip(tmp_path / name, None)


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
