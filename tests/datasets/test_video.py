"""A person's own video: cropping, importing with labels and with known joints, resuming."""

import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import dataloader
from modules.datasets import keypoints
from modules.datasets.pose import COCO_JOINTS, LIMB_COLOURS, LIMBS, Detections
from modules.datasets.video import FILM_FRAMES, Piece, crop_box, files_by_clip, split_by_time
from modules.runtime.errors import UserError
from tests.support.clips import (
    BODY_POINTS,
    FRAMES,
    HEIGHT,
    WIDTH,
    draw,
    make_folder,
    middle,
    write_openpose,
)
from tests.support.scripts import assert_refused, run_script


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of images; not to be changed."""
    return make_folder(tmp_path_factory.mktemp("clips") / "dance")


@pytest.fixture(scope="module")
def openpose(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The person's true joints in OpenPose's files; not to be changed."""
    return write_openpose(tmp_path_factory.mktemp("labels") / "openpose")


def import_(*arguments: object) -> subprocess.CompletedProcess[str]:
    return run_script("dataloader.py", "video", *map(str, arguments))


def contents(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()
    }


def read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_crop_by_hand() -> None:
    def box(*extent: float) -> np.ndarray:
        return np.tile(extent, (50, 1))

    # A person 200 high in the middle of 1000 x 500: 15 % of 200 on each side, in the shape 2 : 1.
    box_ = crop_box(box(0.45, 0.3, 0.55, 0.7), (1000, 500), (64, 32))
    assert box_ == pytest.approx((500 - 260, 250 - 130, 500 + 260, 250 + 130))
    # At the edge it is pushed inside.
    box_ = crop_box(box(0.0, 0.6, 0.1, 1.0), (1000, 500), (64, 32))
    assert box_ == pytest.approx((0, 500 - 230, 460, 500))
    # Upright films are too narrow: the whole width, stretched, with half of the margin.
    box_ = crop_box(box(0.2, 0.2, 0.8, 0.8), (500, 1000), (64, 32))
    assert box_ == pytest.approx((0, 500 - 345, 500, 500 + 345))
    # Never smaller than the target: blowing pixels up shows nothing more.
    box_ = crop_box(box(0.5, 0.5, 0.51, 0.51), (640, 320), (64, 32))
    assert (box_[2] - box_[0], box_[3] - box_[1]) == pytest.approx((64, 32))
    # A little of the margin is given up before anything is stretched.
    box_ = crop_box(box(0.1, 0.1, 0.9, 0.9), (520, 300), (64, 32))
    assert (box_[2] - box_[0]) / (box_[3] - box_[1]) == pytest.approx(520 / 276)
    # One stray joint in a hundred frames does not make everybody small.
    extents = np.tile((0.45, 0.3, 0.55, 0.7), (300, 1))
    extents[7] = (0, 0, 1, 1)
    assert crop_box(extents, (1000, 500), (64, 32))[2] < 800


def test_split_by_hand() -> None:
    # The longest piece is cut first, and of a piece that is used up nothing stays.
    pieces = [Piece(0, 5, 35), Piece(1, 0, 50), Piece(1, 60, 80)]
    split = split_by_time(pieces, val_frames=30, test=[29])
    assert split.val == Piece(1, 20, 50)
    assert split.test == [Piece(0, 6, 35)]
    assert split.train == [Piece(1, 0, 20), Piece(1, 60, 80)]


def test_by_default_nothing_is_lost_and_the_film_is_the_whole_clip() -> None:
    pieces = [Piece(0, 10, 160), Piece(0, 170, 200)]
    short = split_by_time(pieces, val_frames=None, test=None)
    assert short.val == Piece(0, 124, 160)  # a fifth of all
    assert short.train == [Piece(0, 10, 124), Piece(0, 170, 200)]
    assert short.test == pieces
    files = files_by_clip(short, 1)[0]
    assert sorted(files) == [*range(10, 160), *range(170, 200)]
    assert files[10] == ["train/train_{}/0.png", "test/test_{}/0/0.png"]
    assert files[125] == ["val/val_{}/1.png", "test/test_{}/0/115.png"]
    assert files[171] == ["train/train_{}/115.png", "test/test_{}/1/1.png"]
    long = split_by_time([Piece(0, 0, 700), Piece(1, 0, 20_000)], val_frames=None, test=None)
    assert long.val.frames == 630
    assert long.test == [Piece(0, 0, 700), Piece(1, 0, FILM_FRAMES - 700)]
    assert split_by_time([Piece(0, 0, 50)], val_frames=9, test=[0]).test == []


def test_too_few_frames() -> None:
    with pytest.raises(UserError, match=r"--test 31: the longest unbroken piece .* has 30 frames"):
        split_by_time([Piece(0, 0, 50)], val_frames=20, test=[31])
    with pytest.raises(UserError, match="no frames are left to train on"):
        split_by_time([Piece(0, 0, 50)], val_frames=30, test=[20])
    with pytest.raises(UserError, match=r"5 frames .* too few"):
        split_by_time([Piece(0, 0, 5)], val_frames=None, test=None)


def test_openpose_joints_to_labels(clip: Path, openpose: Path, tmp_path: Path) -> None:
    before = contents(clip), contents(openpose)
    root = tmp_path / "data"
    options = ["--labels", openpose, "--fit", "stretch", "--size", "64x32", "--smooth", "0"]
    result = import_(clip, "--out", root, *options, "--val_frames", 12, "--test", 6, 4)  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""  # no bar where nobody watches
    assert (contents(clip), contents(openpose)) == before
    assert "person in 60 (100.0%), 1 recording" in result.stdout
    assert "38 frames to train on; 12 to validate on, from 3.2 s to 4.0 s" in result.stdout
    assert "warning: only 38 training frames" in result.stdout  # what to expect of so few
    assert "no faults" not in result.stdout
    assert (root / "contact_sheet.png").stat().st_size > 5000
    assert (root / "train/clips.csv").read_text() == "start,stop\n0,38\n"

    train, val = dataloader.load_train_val(root, height=32, width=64, train_vi_len=4, val_vi_len=99)
    assert train is not None
    assert (len(train.frames), len(val.frames)) == (38, 12)
    sequences = dataloader.load_test(root, height=32, width=64)
    assert [len(sequence.labels) for sequence in sequences] == [6, 4]
    # Frame and label t show the same instant: red of the box, place of the limbs.
    starts = [(train.frames, train.labels, 0), (val.frames, val.labels, 48)]
    starts += [
        (sequences[i].first_frame[None], sequences[i].labels, t) for i, t in ((0, 42), (1, 38))
    ]
    for frames, labels, start in starts:
        for i in range(len(frames)):
            x, y = (v * 2 / 3 for v in middle(start + i))  # 96 x 48 → 64 x 32
            assert abs(int(frames[i, int(y + 1), int(x), 0]) - (100 + start + i)) <= 3
            for limb in (3, 8):  # a forearm and a lower leg
                ends = [BODY_POINTS[joint] + middle(start + i) for joint in LIMBS[limb]]
                px, py = np.mean(ends, axis=0) * 2 / 3
                colour = labels[i, int(py), int(px)].numpy() / 255
                assert np.abs(colour - LIMB_COLOURS[limb]).max() < 0.35, (i, limb)
    assert train.labels.float().mean() < 40  # on black


def test_dropped_frames_cuts_and_clips_break_recordings(clip: Path, tmp_path: Path) -> None:
    missing = [10, 11, *range(20, 26)]  # a gap of two is filled, one of six is not
    labels = write_openpose(tmp_path / "labels", missing=missing)
    other = make_folder(tmp_path / "cut", picture=lambda t: draw(t) if t < 30 else 255 - draw(t))
    whole = write_openpose(tmp_path / "whole")
    root = tmp_path / "data"
    options = ["--max_gap", 0.2, "--val_frames", 5, "--test", 0]
    result = import_(clip, other, "--out", root, "--labels", labels, whole, *options)
    assert result.returncode == 0, result.stderr
    assert "person in 54 (90.0%), 2 recording(s)" in result.stdout
    assert "2 recording(s), 1 cut(s)" in result.stdout
    rows = [line.split(",") for line in (root / "train/clips.csv").read_text().split()[1:]]
    lengths = [int(stop) - int(start) for start, stop in rows]
    assert lengths == [20, 29, 30, 30]  # the validation video is the end of the longest
    assert "jumps" not in result.stdout
    assert result.stdout.count("another person") == 1  # after the cut, in other colours
    assert "blank labels: 0 of 109" in result.stdout
    assert not (root / "test").exists()


@pytest.mark.parametrize("ground", [0, 255])
def test_skeleton_images_keep_their_colours(clip: Path, tmp_path: Path, ground: int) -> None:
    """Thin lines in a large picture, one label blank, for frames at the same rate."""

    def skeleton(t: int) -> np.ndarray:
        label = np.full((4 * HEIGHT, 4 * WIDTH, 3), ground, np.uint8)
        x, y = (round(4 * v) for v in middle(t))
        if t != 30:
            label[y - 50 : y + 62, x : x + 3] = (0, 255, 0)
        return label

    labels = make_folder(tmp_path / "labels", picture=skeleton)
    options = ["--source_fps", 30, "--size", "48x24", "--fit", "stretch"]
    result = import_(clip, "--labels", labels, "--out", tmp_path / "data", *options)
    assert result.returncode == 0, result.stderr
    assert "60 frames at 30 frames/s → 30 at 15; a person in 29" in result.stdout
    label = read(tmp_path / "data/train/train_label/3.png")
    assert label.shape == (24, 48, 3)
    x, y = (v / 2 for v in middle(6))
    assert (label[:, -8:] == ground).all()
    plain = Image.fromarray(skeleton(6)).resize((48, 24), Image.Resampling.BILINEAR)
    place = int(y), int(x + 0.2)
    kept, sunk = (
        np.abs(np.subtract(p[place], (0, 255, 0), dtype=int)).max()
        for p in (label, np.asarray(plain))
    )
    assert kept < 40 and sunk > 60, (kept, sunk)  # the control: plain resizing


class KnownJoints:
    """Stands for Keypoint R-CNN: reads the frame's number off its red and says where joints are."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.seen: list[int] = []
        self.batches: list[int] = []
        self.stop_after = stop_after

    def __call__(self, frames: Sequence[np.ndarray], near: object = None) -> list[Detections]:
        self.batches.append(len(frames))
        return [self.look(frame) for frame in frames]

    def look(self, frame: np.ndarray) -> Detections:
        t = int(frame[..., 0].max()) - 100
        if self.stop_after is not None and len(self.seen) >= self.stop_after:
            raise KeyboardInterrupt
        self.seen.append(t)
        points = (BODY_POINTS + middle(t))[list(COCO_JOINTS)]
        rows = np.column_stack([points, np.full(17, 8.0)])
        x, y = middle(t)
        small = np.array([1, 1, 5, 9])  # somebody in the background, more certain
        boxes = np.array([small, [x - 11, y - 13, x + 11, y + 15]])
        joints = np.stack([rows * 0.1 + [0, 0, 8], rows])
        return Detections(
            boxes.astype(np.float32), np.array([0.99, 0.9], np.float32), joints.astype(np.float32)
        )


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Callable[..., KnownJoints]:
    def install(stop_after: int | None = None) -> KnownJoints:
        known = KnownJoints(stop_after)
        monkeypatch.setattr(keypoints, "load_keypoint_model", lambda *_, **__: known)
        return known

    return install


SMALL = ["--detector", "rcnn", "--device", "cpu", "--val_frames", "8", "--smooth", "0"]


def test_detected_joints_are_those_of_the_labels(
    clip: Path, openpose: Path, tmp_path: Path, stub: Callable[..., KnownJoints]
) -> None:
    known = stub()
    result = import_(clip, "--out", tmp_path / "found", *SMALL)
    assert result.returncode == 0, result.stderr
    assert known.seen == list(range(FRAMES))
    assert known.batches == [4] * 15
    result = import_(clip, "--out", tmp_path / "given", *SMALL[2:], "--labels", openpose)
    assert result.returncode == 0, result.stderr
    found, given = contents(tmp_path / "found"), contents(tmp_path / "given")
    images = [name for name in given if name.endswith(".png") and "sheet" not in name]
    assert len(images) > 80
    for name in images:
        a, b = read(tmp_path / "found" / name), read(tmp_path / "given" / name)
        # Joints are written down to a hundredth of a pixel, which moves rows of a limb's samples.
        difference = np.abs(a.astype(int) - b)
        assert difference.max() <= (130 if "label" in name else 1), name
        assert difference.mean() < 0.3, name
    assert "shows 96 x 48" not in result.stdout
    assert set(found) - set(given) == {n for n in found if n.startswith("detections/")}


def test_interrupted_import_resumes_and_ends_the_same(
    clip: Path, tmp_path: Path, stub: Callable[..., KnownJoints], monkeypatch: pytest.MonkeyPatch
) -> None:
    stub()
    assert import_(clip, "--out", tmp_path / "whole/data", *SMALL).returncode == 0
    root = tmp_path / "parts/data"
    first = stub(stop_after=22)
    result = import_(clip, "--out", root, *SMALL)
    assert (result.returncode, result.stderr.strip()) == (130, "interrupted")
    assert not (root / "train").exists()
    (kept,) = (root / "detections").iterdir()
    good = kept.read_text()
    assert len(good.splitlines()) == 20  # whole batches of four
    kept.write_text("oops\n" + good)
    assert_refused(import_(clip, "--out", root, *SMALL), str(kept), "corrupted")
    kept.write_text(good[:-30])  # as a kill in the middle of writing leaves it
    second, saved, save = stub(), [], Image.Image.save

    def stops(image: Image.Image, path: object, *arguments: object, **options: object) -> None:
        saved.append(path)
        if len(saved) == 31:  # among the images
            raise KeyboardInterrupt
        save(image, path, *arguments, **options)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "save", stops)
        assert import_(clip, "--out", root, *SMALL).returncode == 130
    assert first.seen[:19] + second.seen == list(range(FRAMES))
    assert_refused(run_script("dataloader.py", "check", root), "train")  # not taken for whole
    last = stub()
    assert import_(clip, "--out", root, *SMALL).returncode == 0
    assert contents(root) == contents(tmp_path / "whole/data")

    before = contents(root)
    result = import_(clip, "--out", root, *SMALL)
    assert result.returncode == 0
    assert "already finished" in result.stdout
    assert "only 52 training frames" in result.stdout and "no faults" not in result.stdout
    assert last.seen == []
    assert contents(root) == before


def test_joints_of_a_clip_that_was_replaced_are_found_again(
    tmp_path: Path, stub: Callable[..., KnownJoints]
) -> None:
    """By another of the same names and sizes, while its import is unfinished."""
    clip = tmp_path / "clip"
    clip.mkdir()
    for offset, stop in ((0, 10), (3, 10), (3, None)):
        for t in range(20):
            Image.fromarray(draw(t + offset)).save(clip / f"{t}.bmp")
        known = stub(stop)
        import_(clip, "--out", tmp_path / "data", *SMALL)
        assert known.seen[0] == (8 + 3 if stop is None else offset)


def test_another_command_into_the_same_folder_is_refused(
    clip: Path, openpose: Path, tmp_path: Path, stub: Callable[..., KnownJoints]
) -> None:
    root = tmp_path / "data"
    stub(stop_after=10)
    assert import_(clip, "--out", root, *SMALL).returncode == 130
    # Nothing was split yet: a wrong option may be corrected without another search.
    known = stub()
    wrong = import_(clip, "--out", root, *SMALL, "--val_frames", 900)
    assert_refused(wrong, "--val_frames 900", "has 60 frames")
    assert len(known.seen) == FRAMES - 8
    known = stub()
    assert import_(clip, "--out", root, *SMALL).returncode == 0
    assert known.seen == []
    before = contents(root)
    again = import_(clip, "--out", root, *SMALL, "--size", "32x32")
    assert_refused(again, "was made with other size; give another folder (copy")
    assert_refused(import_(clip, clip, "--out", root, *SMALL), "other clips")
    assert_refused(import_(clip, "--out", root, *SMALL[2:], "--labels", openpose), "other labels")
    assert contents(root) == before
    # A copy of what was found serves another size.
    shutil.copytree(root / "detections", tmp_path / "other/detections")
    known = stub()
    result = import_(clip, "--out", tmp_path / "other", *SMALL, "--size", "32x32")
    assert result.returncode == 0, result.stderr
    assert known.seen == []
    assert read(tmp_path / "other/val/val_img/0.png").shape == (32, 32, 3)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--size", "64"], "--size 64: must be WIDTHxHEIGHT"),
        (["--size", "4x4"], "at least 8x8"),
        (["--test", "5", "1"], "--test 1 is too small"),
        (["--labels", "a", "b"], "2 for 1 clips"),
        (["--labels", "a", "--detector", "rcnn"], "are mutually exclusive"),
        (["--labels", "nowhere"], "--labels nowhere: there is no such"),
        (["--weights", "nowhere"], "nowhere: cannot be read (No such file"),
    ],
)
def test_options_are_checked(clip: Path, tmp_path: Path, options: list[str], words: str) -> None:
    result = import_(clip, "--out", tmp_path / "out", "--device", "cpu", *options)
    assert_refused(result, words)
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_nothing_is_written_where_something_is(clip: Path, openpose: Path, tmp_path: Path) -> None:
    labels = ["--labels", openpose]
    assert_refused(import_(clip, "--out", clip / "data", *labels), "nothing is written into")
    assert_refused(import_(clip, "--out", openpose, *labels), "nothing is written into")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thesis.txt").write_text("years")
    assert_refused(import_(clip, "--out", tmp_path / "full", *labels), "is not empty")
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["thesis.txt"]


@pytest.fixture
def changed(
    clip: Path, tmp_path: Path, stub: Callable[..., KnownJoints]
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Imports a clip in whose frames something else is found: change(what is there, frame)."""

    def run(change: Callable[[Detections, int], Detections], clip: Path = clip):  # type: ignore[no-untyped-def]
        known = stub()
        look = known.look
        known.look = lambda frame: change(look(frame), known.seen[-1])  # type: ignore[method-assign]
        return import_(clip, "--out", tmp_path / change.__name__, *SMALL)

    return run


def test_several_people_jitter_and_gaps_are_said(changed: Callable) -> None:
    rng = np.random.default_rng(0)

    def calm(found: Detections, _: int) -> Detections:
        return found

    def busy(found: Detections, _: int) -> Detections:
        boxes, joints = found.boxes.copy(), found.joints.copy()
        boxes[0], joints[0] = boxes[1] + [4, 0, 4, 0], joints[1] + [4, 0, 0]  # somebody beside
        joints[1, :, :2] += rng.normal(0, 1.0, (17, 2))
        return Detections(boxes, np.array([0.5, 0.9], np.float32), joints)

    def blurred(found: Detections, _: int) -> Detections:
        joints = found.joints.copy()
        joints[:, [*range(5), *range(9, 17)], 2] = -9.0  # arms alone are seen, and so the neck
        return found._replace(joints=joints)

    def upwards(found: Detections, _: int) -> Detections:
        return found._replace(joints=found.joints * [1, -1, 1] + [0, HEIGHT, 0])

    assert "the neck is not above the hips in 60 frames" in changed(upwards).stdout
    said = changed(calm).stdout
    of_the_clip, _, of_the_result = said.partition("sizes are")
    assert of_the_clip.count("warning") == 1 and "only 52 training frames" in of_the_clip
    assert "no faults" not in of_the_result
    assert "longest time without the person 0.0 s; joints jitter by" in said
    said = changed(busy).stdout
    assert "another person of similar size is in 60 frames" in said
    ((pixels, share),) = re.findall(r"jitter by ([\d.]+) pixels \(([\d.]+)%", said)
    assert float(share) == pytest.approx(100 * float(pixels) / 28, abs=0.3)  # the box is 22 x 28
    assert "a larger --smooth may help" in said
    assert "of 18 joints" not in said and "by place, size or" not in said
    assert "half of the frames have no more than 5 of 18 joints" in changed(blurred).stdout


def test_a_thing_is_no_person(changed: Callable, tmp_path: Path) -> None:
    """As BlazePose does it on a mug: joints elsewhere in every frame, over a quarter of its size"""
    rng = np.random.default_rng(0)

    def mug(found: Detections, _: int) -> Detections:
        joints = found.joints.copy()
        joints[1, :, :2] += rng.normal(0, 5, (17, 2))
        return found._replace(joints=joints)

    def sound(found: Detections, _: int) -> Detections:
        return found

    def at_first(found: Detections, t: int) -> Detections:
        return mug(found, t) if t < 20 else found

    refused = changed(mug)
    assert_refused(refused, "no person: joints were found in 60 of 60 frames, but they jump about")
    assert_refused(changed(sound, make_folder(tmp_path / "few", 5)), "too few to split")
    assert not (tmp_path / "mug").exists() and not (tmp_path / "sound").exists()
    result = changed(at_first)
    assert result.returncode == 0, result.stderr
    assert "frames whose joints jump about" in result.stdout


def test_another_person_ends_a_recording_and_is_said(changed: Callable, tmp_path: Path) -> None:
    """One leaves, another comes in other clothes; then the skeleton jumps to a third."""

    def dressed(t: int) -> np.ndarray:
        frame = draw(t)
        x, y = (round(v) for v in middle(t))
        if t >= 25:
            frame[y - 8 : y + 10, x - 3 : x + 4, 1:] = 190
        return frame

    def others(found: Detections, t: int) -> Detections:
        if 20 <= t < 30:  # nobody
            return Detections(np.zeros((0, 4)), np.zeros(0), np.zeros((0, 17, 3)))
        if t >= 45:
            there = found.joints + np.array([40, 0, 0])
            return found._replace(boxes=found.boxes + 40, joints=there)
        return found

    clip = make_folder(tmp_path / "clip", picture=dressed)
    result = changed(others, clip)
    assert result.returncode == 0, result.stderr
    assert "3 recording(s)" in result.stdout
    said = f"warning: {clip}: another person, by place, size or clothes, is followed from"
    assert f"{said} 2.0 s, 3.0 s on" in result.stdout
    assert "longest time without the person 0.7 s" in result.stdout  # ten frames
    assert "no faults" not in result.stdout


def test_clips_of_different_speed_are_said(clip: Path, openpose: Path, tmp_path: Path) -> None:
    frames = [Image.fromarray(draw(t)) for t in range(30)]
    slow = tmp_path / "slow.gif"
    frames[0].save(slow, save_all=True, append_images=frames[1:], duration=100)
    labels = write_openpose(tmp_path / "labels", 30)
    options = ["--labels", openpose, labels]
    result = import_(clip, slow, "--out", tmp_path / "data", *options)
    assert result.returncode == 0, result.stderr
    assert f"warning: {slow}: 10 frames/s, not 15" in result.stdout
    assert "with --fps 10 all have the same speed" in result.stdout
