"""dataloader.py: every fault of a data set is found and named; its pixels are read exactly."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import dataloader
from modules.data import Recording, TestSequence, VideoData
from modules.runtime.errors import UserError
from tests.support.data import Damage, copy, every, folder, move, remove, write
from tests.support.scripts import done, run_script

WIDTH, HEIGHT = 8, 4
TRAIN, VAL, TEST = 12, 5, {"0": 12, "2": 3, "10": 2}  # frames; labels of each test sequence


def paint(path: Path, value: int, size: tuple[int, int] = (WIDTH, HEIGHT)) -> None:
    """An image of one colour, whose red is `value`: the frame's number in these tests."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, 100, 200)).save(path)


def build(root: Path, first: int = 0, name: str = "{}.png") -> Path:
    """A sound data set; labels are 100 brighter than frames, val begins at 50."""
    for split, count, value in (("train", TRAIN, 0), ("val", VAL, 50)):
        for i in range(count):
            paint(root / split / f"{split}_img" / name.format(first + i), value + i)
            paint(root / split / f"{split}_label" / name.format(first + i), value + i + 100)
    for sequence, count in TEST.items():
        paint(root / "test/test_img" / sequence / name.format(first), 200 + int(sequence))
        for i in range(count):
            paint(root / "test/test_label" / sequence / name.format(first + i), i)
    return root


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("data") / "sound")


@pytest.fixture
def root(template: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(template, tmp_path / "root"))


def load(root: Path, **options: float) -> tuple[VideoData, VideoData]:
    settings = {"height": HEIGHT, "width": WIDTH, "train_vi_len": 4, "val_vi_len": 630} | options
    train, val = dataloader.load_train_val(root, **settings)  # type: ignore[arg-type]
    assert train is not None
    return train, val


def load_test(root: Path) -> list[TestSequence]:
    return dataloader.load_test(root, height=HEIGHT, width=WIDTH)


def reds(frames: torch.Tensor) -> list[int]:
    return frames[:, 0, 0, 0].tolist()


# ---------------------------------------------------------------- a sound data set


def test_sound_data_in_numeric_order(root: Path) -> None:
    train, val = load(root)
    assert train.frames.shape == train.labels.shape == (TRAIN, HEIGHT, WIDTH, 3)
    assert train.frames.dtype == train.labels.dtype == torch.uint8
    assert reds(train.frames) == list(range(TRAIN))  # 2 before 10
    assert reds(train.labels) == list(range(100, 100 + TRAIN))
    assert train.frames[3, 0, 0].tolist() == [3, 100, 200]  # RGB, not BGR
    assert dataloader.image_size(root) == (HEIGHT, WIDTH)
    assert reds(val.frames) == list(range(50, 50 + VAL))
    assert train.recordings == (Recording(0, TRAIN),)
    assert val.recordings == (Recording(0, VAL),)

    sequences = load_test(root)
    assert [sequence.name for sequence in sequences] == ["0", "2", "10"]
    assert [sequence.first_frame[0, 0, 0].item() for sequence in sequences] == [200, 202, 210]
    assert [reds(sequence.labels) for sequence in sequences] == [
        list(range(TEST[s.name])) for s in sequences
    ]


@pytest.mark.parametrize(("first", "name"), [(1, "frame{}.TIFF"), (0, "Frame_{:05d}.jpeg")])
def test_names_and_first_numbers(tmp_path: Path, first: int, name: str) -> None:
    root = build(tmp_path / "root", first, name)
    (root / "train/clips.csv").write_text(f"start,stop\n{first},{first + 5}\n")
    train, val = load(root)
    expected = np.arange(5)  # JPEG is not exact, but one colour comes close
    assert np.abs(np.array(reds(train.frames)) - expected).max() <= 2
    assert train.recordings == (Recording(0, 5),)
    assert (len(val.frames), len(load_test(root))) == (VAL, len(TEST))


def test_other_files_are_ignored(root: Path) -> None:
    for where in ("", "train", "train/train_img", "val/val_label", "test/test_img", "test"):
        for name in ("Thumbs.db", ".DS_Store", "._0.png", "notes.txt"):
            (root / where / name).write_bytes(b"\0")
        for name in ("__MACOSX", "@eaDir", "lost+found"):
            (root / where / name).mkdir()
    paint(root / "test/test_img/0/7.png", 9)  # only the first frame counts
    assert (len(load(root)[0].frames), len(load_test(root))) == (TRAIN, len(TEST))


def test_validation_length_and_splits_alone(root: Path) -> None:
    shutil.rmtree(root / "train")
    val = dataloader.load_val(root, height=HEIGHT, width=WIDTH, val_vi_len=4)
    assert reds(val.frames) == [50, 51, 52, 53]
    shutil.rmtree(root / "val")
    assert len(load_test(root)) == len(TEST)


def test_resized_by_pillow_and_any_number_of_workers_gives_the_same(root: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (23, 31, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    image.save(root / "train/train_img/4.png")  # sizes may differ within a folder
    one, five = load(root, workers=1), load(root, workers=5)
    resized = image.resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR)
    assert np.array_equal(one[0].frames[4].numpy(), np.asarray(resized))
    for a, b in zip(one, five, strict=True):
        assert torch.equal(a.frames, b.frames) and torch.equal(a.labels, b.labels)


@pytest.mark.parametrize(
    ("clips", "partial", "expected", "recordings"),
    [
        (None, 0.29, range(3), [(0, 3)]),
        (None, 0.3, range(4), [(0, 4)]),  # of 3.6
        ("0,5\n5,12", 0.25, range(3), [(0, 3)]),
        # Frames 0 and 6 … 8 are in no row; rows come in order of their frames.
        ("9,12\n1,6", 0.75, [1, 2, 3, 4, 5, 9], [(0, 5), (5, 6)]),
    ],
)
def test_partial_and_clips_file(
    root: Path, clips: str | None, partial: float, expected: range, recordings: list
) -> None:
    if clips:
        text = "\ufeffStart, stop\r\n" + clips.replace("\n", "\r\n\r\n") + "\r\n"
        (root / "train/clips.csv").write_text(text, encoding="utf-8")
    for unused in set(range(TRAIN)) - set(expected):
        (root / f"train/train_img/{unused}.png").write_bytes(b"")  # a fault if it were read
    train, val = load(root, partial=partial, train_vi_len=2)
    assert reds(train.frames) == list(expected)
    assert reds(train.labels) == [100 + i for i in expected]
    assert [(rec.start, rec.stop) for rec in train.recordings] == recordings
    assert len(val.frames) == VAL  # never cut by --partial


# ---------------------------------------------------------------- faults


def clips(text: str) -> Damage:
    return write("train/clips.csv", text)


def both(split: str, numbers: range) -> Damage:
    """Remove images and labels, so that only the numbering suffers."""
    return remove(*(f"{split}/{split}_{k}/{i}.png" for k in ("img", "label") for i in numbers))


def deeper(name: str) -> Damage:
    """As unpacked: the whole data set in a folder of its own."""

    def apply(root: Path) -> None:
        whole = root.rename(root.with_name("whole"))
        root.mkdir()
        whole.rename(root / name)

    return apply


IMG, LABEL = "train/train_img", "train/train_label"
WITH_VAL: list[tuple[Damage, str]] = [
    # folders
    (remove(""), "root: 1 fault in the data set: the folder is missing"),
    (remove("val"), "val: the folder is missing"),
    (
        every(remove(IMG, LABEL), write("train/clips.csv", "start,stop\n0,5\n")),
        "train/train_img: the folder is missing",
    ),
    (
        write(LABEL, "text"),
        "train_label: the folder cannot be read (Not a directory); unpack an archive first",
    ),
    (folder("val/val_img"), "val/val_img: the folder has no images"),
    (deeper("data"), "its train/, val/ and test/ are in {root}/data; give that folder"),
    # numbers
    (
        every(remove(f"{IMG}/11.png"), remove(f"{LABEL}/0.png")),
        "11 images, 11 labels; without a label: 0.png; without an image: 11.png",
    ),
    (both("train", range(2, 10)), "missing: 2, 3, 4, 5, 6 and 3 more"),
    (
        copy(f"{IMG}/3.png", f"{IMG}/99999999999999999999.png"),
        "missing: 12, 13, 14, 15, 16 and 99999999999999999982 more",
    ),
    (both("val", range(2)), "val/val_img: numbering starts at 2; it must start at 0 or 1"),
    (copy(f"{IMG}/3.png", f"{IMG}/frame3.png"), "used twice: 3.png = frame3.png"),
    (copy(f"{IMG}/3.png", f"{IMG}/-1.png"), "numbering starts at -1; it must start at 0 or 1"),
    (both("val", range(1, 5)), "val: 1 frame to validate on; at least 2 are needed"),
    # images; more of them in test_images.py
    (write(f"{IMG}/3.png", "text"), f"{IMG}/3.png: is not an image that can be read"),
    # clips.csv
    (clips("0,5\n5,12\n"), "train/clips.csv: must be the header start,stop and rows"),
    (clips("start,stop\n"), "train/clips.csv: must be the header start,stop and rows"),
    (clips("start,stop\n0,5.0\n"), "train/clips.csv line 2: '0,5.0' is not start,stop: two"),
    (clips("start,stop\n0,5\n\n7,7\n"), "line 4: '7,7' is not start,stop: two integers, the first"),
    (clips("start,stop\n0,13\n"), "line 2: '0,13' is not start,stop: two integers, the first"),
    (clips("start,stop\n-1,5\n"), "the first below the second, within 0,12"),
    (clips("start,stop\n6,12\n0,7\n"), "line 2: 6,12 overlaps 0,7 of line 3"),
    (write("train/clips.csv", b"\xff\xff\0start"), "train/clips.csv: cannot be read as a CSV file"),
    (clips("start,stop\n" + "x\n" * 24), "train/clips.csv: and 4 more"),
]
OF_TEST: list[tuple[Damage, str]] = [
    (remove("test"), "test: the folder is missing"),
    (folder("test/test_label"), "test/test_label: has no folders of sequences"),
    (remove("test/test_img/2"), "test/test_img/2: the folder is missing"),
    (
        move("test/test_img/2/0.png", "test/test_img/2/1.png"),
        "test/test_img/2: the first frame is missing: the first label is 0, but the first image 1",
    ),
    (remove("test/test_label/10/1.png"), "test/test_label/10: has 1 label; a sequence needs"),
    (move("test/test_label/2", "test/test_label/two"), "is not a number: two; rename them 0, 1"),
    (move("test/test_label/10", "test/test_label/02"), "of the same number: 02, 2; keep one"),
]


ROWS = [*((load, *row) for row in WITH_VAL), *((load_test, *row) for row in OF_TEST)]


@pytest.mark.parametrize(("loader", "damage", "text"), ROWS, ids=[row[2] for row in ROWS])
def test_faults_are_named(
    root: Path, loader: Callable[[Path], object], damage: Damage, text: str
) -> None:
    loader(root)  # the control: without the damage the same data set is sound
    damage(root)
    with pytest.raises(UserError, match=re.escape(text.replace("{root}", str(root)))) as caught:
        loader(root)
    assert re.match(rf"{re.escape(str(root))}: \d+ faults? in the data set", str(caught.value))


def test_clip_longer_than_every_recording(root: Path) -> None:
    clips("start,stop\n0,7\n7,12\n")(root)
    load(root, train_vi_len=6, partial=0.5)
    text = "--train_vi_len 7 is longer than every recording (longest: 6 frames with --partial 0.5)"
    with pytest.raises(UserError, match=re.escape(text)):
        load(root, train_vi_len=7, partial=0.5)


def test_all_faults_are_listed_together(root: Path) -> None:
    for i in range(TRAIN, 30):
        paint(root / f"{IMG}/{i}.png", i)
        paint(root / f"{LABEL}/{i}.png", i)
    load(root)
    for i in range(5, 30):
        (root / f"{IMG}/{i}.png").write_bytes(b"")
    remove("val/val_img/2.png")(root)
    write("val/val_label/1.png", "text")(root)
    clips("start,stop\n0,9\n8,31\n")(root)
    with pytest.raises(UserError) as caught:
        load(root)
    lines = str(caught.value).splitlines()
    assert lines[0] == f"{root}: 29 faults in the data set"  # 1 + 1 + 1 + 25 + 1
    assert lines[1].startswith("  - train/clips.csv line 3: '8,31' is not start,stop")
    assert lines[2:4] == [
        "  - val/val_img: gaps in the numbering; missing: 2; run: python dataloader.py renumber "
        f"{root / 'val/val_img'} {root / 'val/val_label'}",
        "  - val: 4 images, 5 labels; without an image: 2.png",
    ]
    assert lines[4] == "  - train/train_img/5.png: the file is empty (0 bytes)"  # 2 before 10
    assert lines[24] == "  - train/train_img: and 5 more"
    assert lines[25].startswith("  - val/val_label/1.png: is not an image")
    assert len(lines) == 26


# ---------------------------------------------------------------- the command line


def test_check_prints_a_summary(root: Path) -> None:
    clips("start,stop\n0,7\n7,12\n")(root)
    paint(root / f"{IMG}/3.png", 1, (16, 9))
    result = run_script("dataloader.py", "check", root)
    assert (result.returncode, result.stderr) == (0, "")
    for line in (
        "train  12 frames; 2 recording(s) of 7, 5 frames\n",
        "images: 8 x 4 (11), 16 x 9 (1); labels: 8 x 4 (12)\n",
        "val    5 frames; 1 recording(s) of 5 frames\n",
        "test   17 frames; 3 sequence(s) of 12, 3, 2 frames\n",
    ):
        assert line in result.stdout
    shutil.rmtree(root / "test")
    assert "test   absent (optional)\n" in done("dataloader.py", "check", root)


@pytest.mark.parametrize(
    ("results", "split"),
    [("train", "train"), ("test/new", "test"), ("val/val_img/../x", "val"), ("link/x", "train")],
)
def test_results_in_a_split_are_refused(
    root: Path, results: str, split: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(root / "test")  # it may be made later
    (root / "link").symlink_to(root / "train")
    with pytest.raises(UserError, match=f"is inside the data set's {split}/"):
        dataloader.refuse_inside(root, root / results)
    dataloader.refuse_inside(root, root / "trained")  # the control: beside the splits
    dataloader.refuse_inside(root / "val", root / "train")
    monkeypatch.setattr(Path, "resolve", Path.absolute)  # as where case does not count
    with pytest.raises(UserError, match="is inside the data set's train/"):
        dataloader.refuse_inside(root, root / "link/x")
