"""Source videos: folders, GIFs and mp4 files, and their frames at another rate."""

import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from modules.datasets.source import (
    Clip,
    data_rate,
    frames_at,
    open_clip,
    sampled,
    sampled_indices,
)
from modules.runtime.errors import UserError
from tests.support.clips import HEIGHT, WIDTH, draw, make_folder, middle
from tests.support.scripts import assert_refused, run_script


def every(clip: Clip) -> Iterator[np.ndarray]:
    return frames_at(clip, range(clip.frames))


def test_frame_rates_by_hand(tmp_path: Path) -> None:
    clip = make_folder(tmp_path / "dance")
    opened = open_clip(clip, source_fps=30)
    assert [i for i, _ in sampled(opened, 15)] == list(range(0, 60, 2))
    assert [i for i, _ in sampled(opened, 12)][:6] == [0, 3, 5, 8, 10, 13]  # 0, 2.5, 5, 7.5 …
    assert [i for i, _ in sampled(opened, 30)] == list(range(60))
    assert [i for i, _ in sampled(opened, 50)] == list(range(60))  # no frame twice
    assert [i for i, _ in sampled(open_clip(clip, None), 15)] == list(range(60))
    for fps in (7, 12, 15, 29, 30):
        assert len(sampled_indices(opened, fps)) == len(list(sampled(opened, fps)))


def test_gif_has_its_own_rate(tmp_path: Path) -> None:
    images = [Image.fromarray(draw(t)).quantize(64) for t in range(12)]
    path = tmp_path / "dance.gif"
    images[0].save(path, save_all=True, append_images=images[1:], duration=50, loop=0)
    opened = open_clip(path, None)
    assert (opened.kind, opened.fps, opened.frames) == ("images", 20, 12)
    frames = list(every(opened))
    assert all(frame.shape == (HEIGHT, WIDTH, 3) for frame in frames)
    x, y = (round(v) for v in middle(7))
    assert abs(int(frames[7][y, x, 0]) - 107) < 12
    assert [i for i, _ in sampled(opened, 10)] == [0, 2, 4, 6, 8, 10]


def test_mp4_without_its_package_names_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    (tmp_path / "a.mp4").write_bytes(b"\0 not opened")
    result = run_script("dataloader.py", "video", tmp_path / "a.mp4", "--out", tmp_path / "out")
    assert_refused(result, "a.mp4", "pip install -r requirements-video.txt")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("source_fps", [16.0, 23.976, 25.0, 29.97, 50.0, 59.94, 120.0])
def test_the_frame_nearest_in_time_is_taken(tmp_path: Path, source_fps: float) -> None:
    clip = Clip(tmp_path, "folder", [], source_fps, (1, 1), 240, "")
    taken = sampled_indices(clip, 15)
    times = np.arange(240) / source_fps
    for t, index in enumerate(taken):
        assert abs(times[index] - t / 15) <= np.abs(times - t / 15).min() + 1e-9
    assert len(set(taken)) == len(taken)
    # As many as there are, and no more: the next instant would be nearer to a frame 240.
    assert taken[-1] < 240 <= round(len(taken) * source_fps / 15 + 1e-6)


def test_a_clip_that_is_hardly_faster_keeps_every_frame(tmp_path: Path) -> None:
    def opened(fps: float | None) -> Clip:
        return Clip(tmp_path, "folder", [], fps, (1, 1), 63, "")

    for fps in (None, 10, 15, 15.7):
        assert sampled_indices(opened(fps), 15) == list(range(63))
        assert data_rate(opened(fps), 15) == pytest.approx(fps or 15)
    assert len(sampled_indices(opened(15.8), 15)) == 60
    assert sampled_indices(opened(30), 15) == list(range(0, 63, 2))
    assert data_rate(opened(30), 15) == 15


def test_identity_follows_the_content(tmp_path: Path) -> None:
    """By it an interrupted import knows its clips again."""
    folder = make_folder(tmp_path / "folder", 4)
    before = open_clip(folder, None).identity
    moved = Path(shutil.copytree(folder, tmp_path / "moved"))
    assert open_clip(moved, 30).identity == before
    (moved / "3.png").write_bytes((moved / "3.png").read_bytes() + b"\0")
    assert open_clip(moved, None).identity != before
    (folder / "3.png").rename(folder / "4.png")
    assert open_clip(folder, None).identity != before

    images = [Image.fromarray(draw(t)).quantize(64) for t in range(4)]
    one, two = tmp_path / "one.gif", tmp_path / "two.gif"
    for path, frames in ((one, images), (two, images[:3])):
        frames[0].save(path, save_all=True, append_images=frames[1:], duration=50)
    identities = {open_clip(path, None).identity for path in (one, two)}
    assert len(identities) == 2
    two.write_bytes(one.read_bytes())
    assert open_clip(two, None).identity == open_clip(one, None).identity


def test_rate_of_a_gif_without_durations_is_the_user_s(tmp_path: Path) -> None:
    images = [Image.fromarray(draw(t)).quantize(64) for t in range(4)]
    images[0].save(tmp_path / "a.gif", save_all=True, append_images=images[1:])
    assert open_clip(tmp_path / "a.gif", 12).fps == 12
    assert open_clip(tmp_path / "a.gif", None).fps is None


def test_sources_that_cannot_be_opened_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty.gif").touch()
    np.savez(tmp_path / "a.npz", np.zeros(3))
    (tmp_path / "a.zip").write_bytes(b"PK\3\4" + bytes(40))
    (tmp_path / "a.pkl").write_bytes(pickle.dumps([1]))
    (tmp_path / "a.txt").write_text("0.png\n1.png\n")
    make_folder(tmp_path / "single", 1)
    Image.new("RGB", (9, 9)).save(tmp_path / "one.png")
    for name, said in (
        ("none.mp4", "there is no such video or folder"),
        ("empty.gif", "the file is empty"),
        ("single", "the folder has 1 image;"),
        ("one.png", "is a single image, not a video; give the folder"),
        ("frames/%04d.png", ".* a pattern of names: give the folder that holds the images"),
        ("a.zip", "is not a video; it is an archive; unpack it"),
        ("a.npz", "is not a video; it holds arrays of numpy; save them as 0.png"),
        ("a.pkl", "is not a video; it is a pickle; save its pictures"),
        ("a.txt", "is not a video; it is a text file; give the pictures themselves"),
    ):
        with pytest.raises(UserError, match=f"{name}: {said}"):
            open_clip(tmp_path / name, None)
    with pytest.raises(UserError, match="an address on the web: download the film first"):
        open_clip(Path("https://example.org/a.mp4"), None)


def test_frames_of_a_folder_are_one_size_and_in_numeric_order(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "folder", 12)
    clip = open_clip(folder, None)
    for t, frame in enumerate(every(clip)):
        np.testing.assert_array_equal(frame, draw(t))  # 2 before 10
    Image.new("RGB", (9, 9)).save(folder / "7.png")
    frames = every(clip)
    assert [next(frames).shape for _ in range(7)] == [(HEIGHT, WIDTH, 3)] * 7
    with pytest.raises(UserError, match=rf"7\.png: is 9 x 9 pixels.*{WIDTH} x {HEIGHT}"):
        next(frames)


def test_a_corrupted_gif_ends_with_an_error_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / "dance.gif"
    images = [Image.fromarray(draw(t)).quantize(64) for t in range(4)]
    images[0].save(path, save_all=True, append_images=images[1:], duration=50)
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
