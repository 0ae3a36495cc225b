"""Names of files: which number is the frame's, and which label belongs to which frame."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from modules.datasets.label_files import open_labels
from modules.datasets.naming import (
    frame_numbers,
    list_files,
    natural_order,
    renumber,
)
from modules.datasets.source import open_clip
from modules.runtime.errors import UserError
from tests.support.data import make_dataset
from tests.support.scripts import assert_refused, run_script


@pytest.mark.parametrize(
    ("stems", "numbers"),
    [
        (["0", "1", "10"], [0, 1, 10]),
        (["00001", "00002"], [1, 2]),
        (["frame12", "Frame13", "14"], [12, 13, 14]),
        (["frame_0001", "frame_0002"], [1, 2]),
        (["img-1", "img-2"], [1, 2]),
        (["IMG 7", "img 8"], [7, 8]),
        (["dance2_0001", "dance2_0002"], [1, 2]),  # the 2 never changes
        (["1_of_100", "2_of_100"], [1, 2]),  # so the last number is not it
        (["20240101_120000_3", "20240101_120000_4"], [3, 4]),
        (["take2_0007"], [7]),
        (["take1_4", "take2_4", "take2_5"], None),  # two numbers change
        (["img1", "frame1"], None),  # two kinds of names
        (["img1", "cover"], None),
        (["cover"], None),
        (["-1", "0"], [-1, 0]),
        (["f-19", "f-2", "f0", "f7"], [-19, -2, 0, 7]),
        (["2024-01-05", "2024-01-06"], [5, 6]),  # hyphens
        (["0.04", "0.1", "1.0"], [4, 10, 100]),  # seconds
        (["0", "0.5", "1"], [0, 5, 10]),
        (["frame0.98", "frame0.99", "frame1.00"], [98, 99, 100]),
        (["0.1", "0.30000000000000004"], [10**16, 3 * 10**16 + 4]),
        (["shot2.0009", "shot2.0010"], [9, 10]),
        (["take2.9", "take2.10"], [9, 10]),  # nobody writes the last zero of a fraction
        (["1.9", "1.10", "2.1"], None),
        (["12(1)", "12"], None),
        ([], []),
    ],
)
def test_frame_numbers(stems: list[str], numbers: list[int] | None) -> None:
    assert frame_numbers(stems) == numbers


def test_2_comes_before_10(tmp_path: Path) -> None:
    for name in (".hidden.png", "notes.txt", "4.pngx", "frame10.png", "frame2.png", "1.jpeg"):
        (tmp_path / name).touch()
    assert [p.name for p in list_files(tmp_path, (".png", ".jpeg"))] == [
        *("1.jpeg", "frame2.png", "frame10.png")
    ]
    (tmp_path / "cover.png").touch()
    found = [path.name for path in list_files(tmp_path, (".png", ".jpeg"))]
    assert found.index("frame2.png") < found.index("frame10.png")
    with pytest.raises(UserError, match=r"none: cannot be read \(No such file"):
        list_files(tmp_path / "none", (".png",))


# ---------------------------------------------------------------- the layout


def test_the_command_that_renames_is_shown_and_works(tmp_path: Path) -> None:
    root = make_dataset(tmp_path / "my data", train=12, val=6, tests=(3,))
    for kind in ("img", "label"):
        (root / f"val/val_{kind}/3.png").unlink()
        (root / f"val/val_{kind}/0.png").unlink()
        (root / f"val/val_{kind}/1.png").unlink()
    result = run_script("dataloader.py", "check", root)
    assert_refused(result, "numbering starts at 2", "missing: 3")
    (command, *_) = re.findall(r"run: python (dataloader\.py renumber .*)", result.stderr)
    assert run_script(*shlex.split(command)).returncode == 0
    assert run_script("dataloader.py", "check", root).returncode == 0


# ---------------------------------------------------------------- renumber


def numbered(folder: Path, names: list[str]) -> Path:
    folder.mkdir()
    for i, name in enumerate(names):
        Image.new("RGB", (2, 2), (i, 0, 0)).save(folder / name)
    return folder


def reds(folder: Path) -> list[int]:
    return [Image.open(folder / f"{i}.png").getpixel((0, 0))[0] for i in range(4)]  # type: ignore[index]


def test_renumber_keeps_the_order_and_names_gaps(tmp_path: Path) -> None:
    images = numbered(tmp_path / "i", ["img_5.png", "img_10.png", "img_0.png", "img_1.png"])
    labels = numbered(tmp_path / "l", ["p5.png", "p10.png", "p0.png", "p1.png"])
    result = run_script("dataloader.py", "renumber", images, labels)
    assert result.returncode == 0, result.stderr
    assert "gaps before: 2, 3" in result.stdout
    assert reds(images) == reds(labels) == [2, 3, 0, 1]
    assert len(list(images.iterdir())) == 4


@pytest.mark.parametrize("renames", range(9))
def test_renumber_finishes_what_was_interrupted(
    tmp_path: Path, renames: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = numbered(tmp_path / "i", ["img_5.png", "img_10.png", "img_0.png", "img_1.png"])
    labels = numbered(tmp_path / "l", ["p5.png", "p10.png", "p0.png", "p1.png"])
    left, rename = [renames], Path.rename

    def fails(path: Path, target: Path) -> Path:
        left[0] -= 1
        if left[0] < 0:
            raise OSError("pulled out")
        return rename(path, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", fails)
        with pytest.raises(OSError, match="pulled out"):
            renumber([images, labels])
    if renames == 8:  # between the folders nothing tells that it was interrupted
        with pytest.raises(UserError, match="has other frame numbers than"):
            renumber([images, labels])
        renumber([labels])
    else:
        renumber([images, labels])
    assert reds(images) == reds(labels) == [2, 3, 0, 1]
    assert len(list(images.iterdir())) == 4


def test_renumber_refuses_what_would_mix_up(tmp_path: Path) -> None:
    images = numbered(tmp_path / "i", ["0.png", "1.png", "3.png", "4.png"])
    labels = numbered(tmp_path / "l", ["0.png", "1.png", "2.png", "3.png"])
    before = sorted(path.name for path in images.iterdir())
    with pytest.raises(UserError, match="has other frame numbers than"):
        renumber([images, labels])
    assert sorted(path.name for path in images.iterdir()) == before
    assert renumber([images]) == [2]
    odd = numbered(tmp_path / "o", ["a1_2.png", "a2_3.png"])
    with pytest.raises(UserError, match="not clear which number"):
        renumber([odd])
    with pytest.raises(UserError, match="cannot be read"):
        renumber([tmp_path / "none"])


# ---------------------------------------------------------------- what lies in a folder

SOUND = [f"{i}.png" for i in range(12)]


@pytest.mark.parametrize(
    ("beside", "words"),
    [
        (["12(1).png", "5 - Copy.png"], "not a frame number: 12(1).png, 5 - Copy.png; move them"),
        (["0_mask.png", "background.png"], "not a frame number: 0_mask.png, background.png; move"),
        ([f"{i}_mask.png" for i in range(12)], "not a frame number: 0_mask.png, 10_mask.png, 11_"),
        ([f"{i}.jpg" for i in range(12)], "used twice: 0.jpg = 0.png, 1.jpg = 1.png, 2.jpg"),
        (["03.webp"], "frame numbers used twice: 03.webp = 3.png; keep one of each"),
        (["12.heic"], "1 .heic files are not read: convert them to PNG"),
    ],
)
def test_every_image_is_a_frame_or_a_fault(tmp_path: Path, beside: list[str], words: str) -> None:
    """Of a folder given as a clip, as labels, to renumber, and in the layout."""
    folder = numbered(tmp_path / "clip", SOUND)
    clip = open_clip(folder, None)
    root = make_dataset(tmp_path / "data", train=12, val=12, tests=())
    for name in beside:
        for place in (folder, root / "val/val_img"):
            (place / name).write_bytes((folder / "0.png").read_bytes())
    for call in (lambda: open_clip(folder, None), lambda: open_labels(folder, clip)):
        with pytest.raises(UserError, match=re.escape(words)):
            call()
    assert_refused(run_script("dataloader.py", "renumber", folder), words)
    result = run_script("dataloader.py", "check", root)
    assert_refused(result, "1 fault in the data set: val/val_img: ", words)
    for name in beside:
        (folder / name).unlink()
    (folder / "@eaDir").mkdir()  # the control: what systems leave, and other files
    for name in ("._0.png", "Thumbs.db", ".DS_Store", "notes.txt", "all.mp4"):
        (folder / name).write_bytes(b"0")
    assert open_clip(folder, None).frames == len(open_labels(folder, clip).images) == 12


@pytest.mark.parametrize(
    "names",
    [
        [f"{round(0.04 * i, 4)}.png" for i in range(12)],
        [f"f{i - 6}.png" for i in range(12)],
        [f"shot2.{i:04}.png" for i in range(12)],
    ],
)
def test_frames_of_a_clip_are_in_the_order_of_their_numbers(
    tmp_path: Path, names: list[str]
) -> None:
    clip = open_clip(numbered(tmp_path / "clip", names), None)
    assert [path.name for path in clip.files] == names
    natural = sorted(map(Path, names), key=natural_order)
    assert [path.name for path in natural] != names or "shot" in names[0]  # the control
    assert clip.notes == ()
    clip.files[3].unlink()
    (note,) = open_clip(tmp_path / "clip", None).notes
    assert f"numbers are missing before {names[4]}" in note


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda f: (f / "frames").mkdir(),
            "has no images (0.png, 1.png, …); do they lie deeper",
        ),
        (lambda f: (f / "a.mp4").touch(), "1 .mp4 file(s): the command video takes a film by its"),
        (lambda f: (f / "a.zip").touch(), "1 .zip file(s): unpack them"),
        (lambda f: None, "the folder has no images"),
    ],
)
def test_what_a_folder_has_in_place_of_images(
    tmp_path: Path, make: Callable[[Path], object], words: str
) -> None:
    (folder := tmp_path / "clip").mkdir()
    make(folder)
    result = run_script("dataloader.py", "video", folder, "--out", tmp_path / "out")
    assert_refused(result, words)
    assert result.stderr.count("\n") == 1 and not (tmp_path / "out").exists()
