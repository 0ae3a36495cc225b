"""Names of files: which number is the frame's, and which images of a folder are frames."""

import re
import shlex
from pathlib import Path

import pytest
from PIL import Image

from modules.datasets.label_files import open_labels
from modules.datasets.naming import frame_numbers, frames_in, renumber
from modules.datasets.source import open_clip
from modules.runtime.errors import UserError
from tests.support.data import make_dataset
from tests.support.scripts import assert_refused, run_script


@pytest.mark.parametrize(
    ("stems", "numbers"),
    [
        (["frame12", "Frame13", "14"], [12, 13, 14]),
        (["img-1", "img-2"], [1, 2]),
        (["dance2_0001", "dance2_0002"], [1, 2]),  # the 2 never changes
        (["1_of_100", "2_of_100"], [1, 2]),  # so the last number is not it
        (["take2_0007"], [7]),
        (["take1_4", "take2_4", "take2_5"], None),  # two numbers change
        (["img1", "frame1"], None),  # two kinds of names
        (["cover"], None),
        (["f-19", "f-2", "f0", "f7"], [-19, -2, 0, 7]),
        (["2024-01-05", "2024-01-06"], [5, 6]),  # hyphens
        (["0.04", "0.1", "1.0"], [4, 10, 100]),  # seconds
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


def numbered(folder: Path, names: list[str]) -> Path:
    """A folder of images whose red is the place of their name in the list."""
    folder.mkdir()
    for i, name in enumerate(names):
        Image.new("RGB", (2, 2), (i, 0, 0)).save(folder / name)
    return folder


def test_the_command_that_renames_is_shown_and_works(tmp_path: Path) -> None:
    root = make_dataset(tmp_path / "my data", train=12, val=6, tests=(3,))
    for kind in ("img", "label"):
        for number in (0, 1, 3):
            (root / f"val/val_{kind}/{number}.png").unlink()
    result = run_script("dataloader.py", "check", root)
    assert_refused(result, "numbering starts at 2", "missing: 3")
    (command, *_) = re.findall(r"run: python (dataloader\.py renumber .*)", result.stderr)
    result = run_script(*shlex.split(command))
    assert result.returncode == 0 and "gaps before: 1;" in result.stdout
    assert run_script("dataloader.py", "check", root).returncode == 0


@pytest.mark.parametrize(
    "names",
    [
        ["img_0.PNG", "img_1.png", "img_5.png", "img_10.png"],
        ["0.5.png", "1.png", "2.png", "10.png"],  # some take names that others have
        ["-3.png", "1.png", "2.png", "3.png"],
    ],
)
def test_renumber_keeps_the_order(names: list[str], tmp_path: Path) -> None:
    images = numbered(tmp_path / "i", names)
    (images / "notes.txt").touch()
    renumber([images])
    assert sorted(path.name for path in images.iterdir()) == [
        *(f"{i}.png" for i in range(4)),
        "notes.txt",
    ]
    assert [Image.open(images / f"{i}.png").getpixel((0, 0)) for i in range(4)] == [
        (i, 0, 0) for i in range(4)
    ]


def test_renumber_refuses_what_would_mix_up(tmp_path: Path) -> None:
    images = numbered(tmp_path / "i", ["0.png", "1.png", "3.png", "4.png"])
    labels = numbered(tmp_path / "l", ["0.png", "1.png", "2.png", "3.png"])
    with pytest.raises(UserError, match="has other frame numbers than"):
        renumber([images, labels])
    assert sorted(frames_in(images)) == [0, 1, 3, 4]
    with pytest.raises(UserError, match="not clear which number"):
        renumber([numbered(tmp_path / "o", ["a1_2.png", "a2_3.png"])])
    with pytest.raises(UserError, match="cannot be read"):
        renumber([tmp_path / "none"])


@pytest.mark.parametrize(
    ("beside", "words"),
    [
        (["12(1).png", "5 - Copy.png"], "not a frame number: 12(1).png, 5 - Copy.png; move them"),
        ([f"{i}_mask.png" for i in range(12)], "not a frame number: 0_mask.png, 10_mask.png, 11_"),
        ([f"{i}.jpg" for i in range(12)], "used twice: 0.jpg = 0.png, 1.jpg = 1.png, 2.jpg"),
        (["03.webp"], "frame numbers used twice: 03.webp = 3.png; keep one of each"),
        (["12.heic"], "1 .heic files are not read: convert them to PNG"),
    ],
)
def test_every_image_is_a_frame_or_a_fault(tmp_path: Path, beside: list[str], words: str) -> None:
    """In a folder given as a clip, and as labels."""
    folder = numbered(tmp_path / "clip", [f"{i}.png" for i in range(12)])
    clip = open_clip(folder, None)
    for name in beside:
        (folder / name).write_bytes((folder / "0.png").read_bytes())
    for call in (lambda: open_clip(folder, None), lambda: open_labels(folder, clip)):
        with pytest.raises(UserError, match=re.escape(words)):
            call()
    for name in beside:
        (folder / name).unlink()
    (folder / "@eaDir").mkdir()  # the control: what systems leave, and other files
    for name in ("._0.png", "Thumbs.db", ".DS_Store", "notes.txt", "all.mp4"):
        (folder / name).write_bytes(b"0")
    assert open_clip(folder, None).frames == len(open_labels(folder, clip).images) == 12


def test_frames_of_a_clip_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    names = [f"f{i - 6}.png" for i in range(12)]
    clip = open_clip(numbered(tmp_path / "clip", names), None)
    assert [path.name for path in clip.files] == names and clip.notes == ()
    clip.files[3].unlink()
    (note,) = open_clip(tmp_path / "clip", None).notes
    assert f"numbers are missing before {names[4]}" in note


def test_what_a_folder_has_in_place_of_images(tmp_path: Path) -> None:
    (tmp_path / "frames").mkdir()
    for name in ("a.mp4", "a.zip"):
        (tmp_path / name).touch()
    with pytest.raises(UserError) as found:
        frames_in(tmp_path)
    for words in (
        "has no images (0.png, 1.png, …), but 1 .mp4, 1 .zip: unpack archives",
        "do they lie deeper, in frames?",
    ):
        assert words in str(found.value)
