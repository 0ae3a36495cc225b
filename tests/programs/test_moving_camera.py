"""The data set of a moving camera: its layout, and each of its difficulties in the pixels."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from modules.datasets import pose as openpose
from modules.datasets.canvas import shrink
from tests.programs import moving_camera
from tests.programs.moving_camera import (
    VIEW,
    Take,
    areas,
    background,
    dress,
    drift,
    hang,
    joints_seen,
    light,
    paint_place,
    person_canvas,
    record,
    render,
)
from tests.support.scripts import run_script

PROGRAM = "tests/programs/moving_camera.py"
TINY = ["--train", "9", "--val", "5", "--test_length", "4"]
PIXELS = moving_camera.FINENESS * moving_camera.PERSON * 32  # background samples per stature


def contents(root: Path) -> dict[str, bytes]:
    files = (path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


def take(seed: int = 0, frames: int = 40, *, still: bool = False) -> Take:
    return record([seed, 1, 0], frames, 32, 64, still=still)


def mask(one: Take, t: int) -> np.ndarray:
    """Where the person covers most of a pixel, (H, W)."""
    canvas, inside = person_canvas(one, t), np.zeros((one.height, one.width), bool)
    covered = shrink((canvas.paint >= 0)[..., None].astype(float), canvas.fineness)[..., 0]
    inside[canvas.top : canvas.bottom, canvas.left : canvas.right] = covered > 0.5
    return inside


# --- Files ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    root = tmp_path_factory.mktemp("moving") / "new" / "data"
    result = run_script(PROGRAM, root, *TINY)
    assert result.returncode == 0, result.stderr
    return root, result.stdout


def test_layout_passes_the_check(written: tuple[Path, str]) -> None:
    root, printed = written
    result = run_script("dataloader.py", "check", root)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "3 recording(s) of 3, 3, 3 frames" in result.stdout
    assert "2 sequence(s) of 4, 4 frames" in result.stdout
    assert len(list((root / "val/val_img").iterdir())) == 5
    with Image.open(root / "val/val_img/0.png") as picture:
        assert (picture.mode, picture.size) == ("RGB", (64, 32))
    assert [path.name for path in root.parent.iterdir()] == ["data"]  # no temporary folder stays
    values = dict(line.removesuffix(" dB").split(": ") for line in printed.splitlines())
    assert {"copy-first-frame", "mean-frame", "copy-previous-true-frame"} <= values.keys()
    assert all(float(value) > 10 for value in values.values())


def test_the_seed_decides_every_pixel(written: tuple[Path, str], tmp_path: Path) -> None:
    same, other = tmp_path / "same", tmp_path / "other"
    same.mkdir()  # an empty folder is taken
    run_script(PROGRAM, same, *TINY)
    assert contents(same) == contents(written[0])
    run_script(PROGRAM, other, *TINY, "--seed", "1")
    images = [name for name in contents(other) if name.endswith(".png")]
    assert all(contents(other)[name] != contents(same)[name] for name in images)


def test_recordings_are_takes_of_their_own(written: tuple[Path, str]) -> None:
    files = contents(written[0])
    firsts = [f"train/train_label/{i}.png" for i in (0, 3, 6)]
    firsts += ["val/val_label/0.png", "test/test_label/0/0.png", "test/test_label/1/0.png"]
    assert len({files[name] for name in firsts}) == len(firsts)


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (TINY, "already exists and is not empty"),
        (["--val", "1"], "--val must be at least 2"),
        (["--frame_H", "64"], "--frame_W must be between"),
    ],
)
def test_a_mistake_is_one_line(tmp_path: Path, arguments: list[str], fragment: str) -> None:
    root = tmp_path / "data"
    if arguments == TINY:
        root.mkdir()
        (root / "mine.txt").write_text("mine")
    result = run_script(PROGRAM, root, *arguments)
    assert result.returncode == 2
    assert fragment in result.stderr
    assert result.stderr.count("\n") == 1
    assert contents(root) == ({"mine.txt": b"mine"} if arguments == TINY else {})


# --- Camera and background --------------------------------------------------------------------


def shift_of(before: np.ndarray, after: np.ndarray) -> int:
    """Columns by which a row profile (W, C) has moved to the left, at most 12."""
    width = len(before)
    errors = {
        s: np.square(before[12 + s : width - 12 + s] - after[12 : width - 12]).mean()
        for s in range(-12, 13)
    }
    return min(errors, key=lambda s: errors[s])


def test_the_background_moves_with_the_camera_and_only_then() -> None:
    place = paint_place(np.random.default_rng(0), PIXELS)
    for still in (False, True):
        one = take(frames=600, still=still)
        middle = one.window.corner[:, 0] + 32 / one.window.zoom  # of the frame, statures
        moved = (middle - middle[0]) * one.window.zoom  # columns
        farthest = int(np.abs(moved).argmax())
        first, last = (background(one, place, PIXELS, t)[:8].mean(axis=0) for t in (0, farthest))
        seen = shift_of(first, last)
        if still:
            assert (one.window.corner == one.window.corner[0]).all()
            assert np.ptp(one.window.zoom) == 0
            assert seen == 0
        else:
            assert 1.5 < abs(moved[farthest]) < 12
            assert seen == pytest.approx(moved[farthest], abs=1)
            assert np.ptp(one.window.zoom) / one.window.zoom.mean() > 0.01
            assert np.abs(np.diff(moved)).max() < 0.6  # a pan, not a jump


@pytest.mark.parametrize("seed", range(3))
def test_the_person_stays_in_view(seed: int) -> None:
    for still in (False, True):
        one = take(seed, 300, still=still)
        points = (one.pose.joints @ VIEW.T)[..., :2] - one.window.corner[:, None]
        points *= one.window.zoom[:, None, None]
        assert points.min() >= 0
        assert (points.max(axis=(0, 1)) <= (64, 32)).all()


def test_areas_are_those_of_the_pixels() -> None:
    at, weights = areas(1.25, 2.0, 3, 20)  # pixels 1.25-3.25, 3.25-5.25, 5.25-7.25
    assert (at.start, at.stop) == (1, 8)
    assert weights.sum(axis=1) == pytest.approx(1)
    assert weights[0] == pytest.approx([0.375, 0.5, 0.125, 0, 0, 0, 0])
    # A ramp keeps its values at the pixels' centres, wherever the window starts.
    assert weights @ (np.arange(20) + 0.5)[at] == pytest.approx([2.25, 4.25, 6.25])


def test_the_texture_has_high_frequencies_below_and_large_forms_above() -> None:
    picture = paint_place(np.random.default_rng(0), PIXELS)
    horizon = round((moving_camera.HORIZON - moving_camera.PLACE[1]) * PIXELS)
    grass, trees = picture[horizon + 20 :, :, 1], picture[: horizon - 5, :, 1]
    step = round(PIXELS / 20)  # about one pixel of a frame

    def roughness(part: np.ndarray) -> float:
        return float(np.abs(part[:, step:] - part[:, :-step]).mean() / part.std())

    assert roughness(grass) > 1.2 * roughness(trees)
    assert trees.std() > 0.05
    assert picture[:15].mean() > picture[horizon + 20 :].mean() + 0.1  # the sky is brighter


def test_light_drifts_slowly_by_some_per_cent() -> None:
    gains = light(np.random.default_rng(0), 2000)
    assert 0.01 < np.log(gains).std() < 0.08
    assert 0.003 < np.log(gains[:, 0] / gains[:, 2]).std() < 0.05
    assert np.abs(np.diff(np.log(gains), axis=0)).max() < 0.01
    curve = drift(np.random.default_rng(1), 20_000, 20, 2)
    assert curve.shape == (20_000, 2)
    assert curve.std() == pytest.approx(1, abs=0.05)


# --- Person and labels ------------------------------------------------------------------------


def test_labels_lie_on_the_person() -> None:
    one = take(frames=60)
    labels = list(openpose.draw_labels(*joints_seen(one), height=32, width=64))
    on, off = [], []
    for t in range(0, 60, 6):
        drawn = labels[t].max(axis=2) > 128
        on.append(mask(one, t)[drawn].mean())
        off.append(mask(one, t)[np.roll(drawn, 14, axis=1)].mean())
        assert 100 < mask(one, t).sum() < 400  # of 2,048 pixels
    assert np.mean(on) > 0.85
    assert np.mean(off) < 0.3  # control: labels 14 columns off


def test_pixels_of_the_person_are_white_cloth() -> None:
    one = take(frames=1)
    place = paint_place(np.random.default_rng(0), PIXELS)
    frame = next(render(one, place, PIXELS, 1))
    inside = mask(one, 0)
    assert frame[inside].mean() > frame[~inside].mean() + 0.1
    assert (np.ptp(frame[inside], axis=1) < 0.12).mean() > 0.7  # grey or white


def test_chains_lag_overshoot_and_come_to_rest() -> None:
    anchors = np.zeros((150, 1, 3))
    anchors[10:, 0, 0] = 0.05  # a step to the right
    rest = np.broadcast_to([0.0, -0.1, 0.0], (150, 1, 2, 3))
    chains = hang(anchors, rest, np.zeros((150, 3)), hertz=1.7, damping=0.2)
    assert chains.shape == (150, 1, 3, 3)
    end = chains[:, 0, 2, 0]
    assert end[9] == 0
    assert end[12] < 0.02  # lags
    assert end.max() > 0.055  # overshoots
    assert end[-1] == pytest.approx(0.05, abs=1e-3)
    lengths = np.linalg.norm(np.diff(chains[:, 0], axis=1), axis=-1)
    assert lengths.max() < 0.1051  # cloth does not stretch


def test_the_pose_of_one_frame_does_not_tell_the_shape_of_the_cloth() -> None:
    """The same last pose after two histories: a standing person and a moving one."""
    pose = take(frames=60).pose
    frozen = pose._replace(
        joints=np.repeat(pose.joints[-1:], 60, axis=0), axes=np.repeat(pose.axes[-1:], 60, axis=0)
    )
    moving, standing = (dress(np.random.default_rng(0), each) for each in (pose, frozen))
    body = len(moving_camera.RODS)
    apart = np.linalg.norm(moving.ends[-1] - standing.ends[-1], axis=-1) * 20  # pixels
    assert apart[:body].max() < 1e-9
    assert apart[body:].max() > 1.5
