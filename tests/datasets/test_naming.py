"""Names of files: which number is the frame's."""

import re
import shlex
from pathlib import Path

import pytest
from PIL import Image

import dataloader
from modules.datasets.naming import frame_numbers, renumber
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
        (["-1", "0"], None),
        (["1.5", "2.5"], [1, 2]),
        ([], []),
    ],
)
def test_frame_numbers(stems: list[str], numbers: list[int] | None) -> None:
    assert frame_numbers(stems) == numbers


# ---------------------------------------------------------------- the layout


@pytest.mark.parametrize("name", ["frame_{:04}", "img-{}", "{:05}", "dance2_{}", "IMG {}"])
def test_the_layout_reads_names_of_many_kinds(tmp_path: Path, name: str) -> None:
    root = make_dataset(tmp_path / "data", train=12, val=4, tests=(3,))
    before = dataloader.load_val(root, height=16, width=16, val_vi_len=9)
    for kind in ("img", "label"):
        for i in range(4):
            path = root / f"val/val_{kind}/{i}.png"
            path.rename(path.with_stem(name.format(i + 1)))
    after = dataloader.load_val(root, height=16, width=16, val_vi_len=9)
    assert (after.frames == before.frames).all() and (after.labels == before.labels).all()


def test_names_of_two_kinds_are_a_fault(tmp_path: Path) -> None:
    root = make_dataset(tmp_path / "data", train=12, val=4, tests=(3,))
    (root / "val/val_img/1.png").rename(root / "val/val_img/img_1.png")
    assert_refused(run_script("dataloader.py", "check", root), "not a frame number: img_1.png")


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
    with pytest.raises(UserError, match="same frame number"):
        renumber([numbered(tmp_path / "t", ["1.png", "01.png"])])
    with pytest.raises(UserError, match="there is no such folder"):
        renumber([tmp_path / "none"])
