"""What every figure keeps to: text, lines, axes, files; no pyplot, any thread."""

import gc
import math
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from modules.figures.compare import comparison_figure
from modules.figures.curves import draw_curves
from modules.figures.frames import draw_psnr_per_frame, write_sheet
from modules.figures.gifs import write_comparison_gif, write_gif
from modules.figures.runs import load_run
from modules.figures.style import (
    BLUE,
    DPI,
    PAGE,
    Panel,
    add_baselines,
    add_line,
    add_marks,
    arrange,
    legend_rows,
    new_figure,
    new_panel,
    number_axis,
    rate_axis,
    save,
    whole_number_axis,
)
from modules.runtime.errors import UserError
from tests.support.drawn import (
    check_layout,
    colours,
    make_run,
    texts,
    video,
)
from tests.support.scripts import REPOSITORY


def a_panel() -> Panel:
    return new_panel(new_figure(), "dB", xlabel="epoch")


def test_lines_break_where_there_is_no_number() -> None:
    panel, y = a_panel(), np.array([1, 2, math.nan, 4, math.inf, 6, 7])
    add_line(panel, np.arange(7), y, "psnr", "train", color=BLUE)
    (line,) = panel.axes.lines
    assert line.get_gid() == "psnr"
    np.testing.assert_array_equal(line.get_ydata(), [1, 2, np.nan, 4, np.nan, 6, 7])
    assert line.get_markevery() == [0, 1, 3, 5, 6]  # few points: each has its marker
    (entry,) = panel.handles
    assert (entry.get_label(), entry.get_color(), entry.get_marker()) == ("train", BLUE, "o")


def test_many_points_have_no_markers_but_where_one_stands_alone() -> None:
    panel, y = a_panel(), np.arange(200.0)
    y[[9, 11, 199]] = np.nan  # 10 stands alone; 198 ends a line
    add_line(panel, np.arange(200), y, "psnr", "train")
    add_line(panel, np.arange(10), y[:10], "part", points=200)  # a part of a long curve
    long, part = panel.axes.lines
    assert long.get_markevery() == [10]
    assert long.get_linewidth() == part.get_linewidth() < 1
    assert part.get_markevery() == []
    assert [entry.get_marker() for entry in panel.handles] == ["None"]  # the part has no entry


def test_marks_at_values_or_at_a_height_of_the_panel() -> None:
    panel = a_panel()
    panel.axes.set_ylim(0, 50)
    add_marks(panel, [2, 5], [20, 30], "best", "best epochs", marker="*")
    add_marks(panel, [3, 4], 0.5, "skipped", marker="x")
    at_values, at_height = panel.axes.lines
    assert list(at_values.get_ydata()) == [20, 30]
    assert [entry.get_label() for entry in panel.handles] == ["best epochs"]
    pixels = at_height.get_transform().transform(at_height.get_xydata())
    heights = panel.axes.transAxes.inverted().transform(pixels)[:, 1]
    np.testing.assert_allclose(heights, 0.5)  # and not at 0.5 dB


@pytest.mark.parametrize(
    ("values", "scale"),
    [
        ([1.0, 29.0], "linear"),
        ([1.0, 31.0], "log"),
        ([0.0, 1.0, 20.0], "linear"),  # zero is not one of the values that span
        ([-5.0, 1e-3, 1.0], "log"),
        ([math.nan, 2.0, math.inf], "linear"),
        ([math.nan], "linear"),
        ([], "linear"),
    ],
)
def test_axis_is_logarithmic_where_values_span_a_factor_of_30(
    values: list[float], scale: str
) -> None:
    axes = a_panel().axes
    number_axis(axes, np.array(values))
    assert axes.get_yscale() == scale


def test_axis_of_learning_rates() -> None:
    steps, cosine = a_panel().axes, a_panel().axes
    rate_axis(steps, np.array([1e-3] * 5 + [1e-4] * 5))
    assert steps.get_yscale() == "log"
    rates = 0.5e-3 * (1 + np.cos(np.pi * np.arange(100) / 100))
    rate_axis(cosine, rates)  # spans a factor of thousands too, but falls smoothly to zero
    assert cosine.get_yscale() == "linear"
    low, high = cosine.get_ylim()
    assert low < 0 and high == pytest.approx(1.06e-3)


@pytest.mark.parametrize("last", [0, 1, 9, 69, 499])
def test_epochs_are_whole_numbers(last: int) -> None:
    axes = a_panel().axes
    whole_number_axis(axes, 0, last)
    low, high = axes.get_xlim()
    assert low <= -0.5 and high >= last + 0.5
    ticks = [tick for tick in axes.get_xticks() if low <= tick <= high]
    assert 1 <= len(ticks) <= 9
    assert all(tick == round(tick) for tick in ticks)


def test_baselines_are_drawn_where_they_are_known() -> None:
    panel = a_panel()
    some = {"first_frame": 20.264, "mean_train_frame": math.nan, "nearest_pose": 24.4}
    add_baselines(panel, some)
    add_baselines(panel, None)
    assert [line.get_gid() for line in panel.axes.lines] == ["first_frame", "nearest_pose"]
    assert [list(line.get_ydata()) for line in panel.axes.lines] == [[20.264] * 2, [24.4] * 2]
    assert "20.26 dB" in panel.handles[0].get_label()


def test_panels_do_not_overlap_and_legends_are_broken_into_rows() -> None:
    figure = new_figure()
    panels = [new_panel(figure, "dB", height=2.0, xlabel="epoch") for _ in range(4)]
    for number in range(8):
        add_line(panels[0], np.arange(3), np.arange(3), "x", f"a legend entry, number {number}")
    height = arrange(figure, panels, title="title", columns=2)
    assert figure.get_figwidth() * 2.54 == pytest.approx(PAGE)
    assert figure.get_figheight() * 2.54 == pytest.approx(height)
    boxes = [panel.axes.get_position() for panel in panels]
    for box in boxes:
        assert box.height * height == pytest.approx(2.0)
    assert boxes[0].y0 == boxes[1].y0 > boxes[2].y1 and boxes[0].x1 < boxes[1].x0
    rows = legend_rows(figure, panels[0].handles, PAGE / 2 - 0.5)
    assert [handle for row in rows for handle in row] == panels[0].handles
    assert len(rows) > 2
    check_layout(figure, PAGE)


def test_figures_without_pictures_have_a_palette(tmp_path: Path) -> None:
    figure = new_figure()
    panel = new_panel(figure, "dB", xlabel="epoch")
    add_line(panel, np.arange(3), np.arange(3), "x", "x", color=BLUE)
    arrange(figure, [panel], title="title")
    with Image.open(save(figure, tmp_path / "a.png")) as image:
        assert image.mode == "P"
        assert image.info["dpi"] == pytest.approx((DPI, DPI), abs=0.1)
        assert image.convert("RGB").getpixel((0, 0)) == (255, 255, 255)
    panel.axes.imshow(video(1)[0])
    with Image.open(save(figure, tmp_path / "b.png")) as image:
        assert image.mode == "RGB"  # the control: a picture keeps its colours


def test_names_are_no_formulas(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    folder = make_run(tmp_path / "a$\\frac{$ 舞")
    assert colours(draw_curves(folder)) > 20
    both = [load_run(each) for each in (folder, make_run(tmp_path / "_b"))]
    figure = comparison_figure("validation_loss", both)
    assert {"a$\\frac{$ ?", " _b"} <= set(texts(figure))
    assert not recwarn.list


def test_no_pyplot_no_display_any_thread_no_growth(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", 3)
    code = f"""
import sys, threading
from pathlib import Path
from modules.figures.curves import draw_curves
thread = threading.Thread(target=draw_curves, args=(Path({str(folder)!r}),))
thread.start(); thread.join()
assert "matplotlib.pyplot" not in sys.modules, "pyplot"
assert Path({str(folder)!r}, "curves.png").stat().st_size > 10_000
"""
    env = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "WAYLAND_DISPLAY")}
    env["MPLBACKEND"] = "TkAgg"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    for _ in range(12):
        draw_curves(folder)
    gc.collect()
    assert sum(type(thing) is Figure for thing in gc.get_objects()) <= 1


def test_files_are_written_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_run(tmp_path / "run")
    before = draw_curves(folder).read_bytes()

    def refuse(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    frames = video(4)
    monkeypatch.setattr(Path, "replace", refuse)
    for write in (
        lambda: draw_curves(folder),
        lambda: write_gif(folder / "a.gif", frames),
        lambda: write_comparison_gif(folder / "b.gif", frames, frames, frames),
        lambda: write_sheet(folder / "c.png", frames, frames, frames),
        lambda: draw_psnr_per_frame(folder / "d.png", np.ones(3)),
    ):
        with pytest.raises(UserError, match="No space"):
            write()
    names = {"config.json", "curves.png", "latent.png", "metrics.csv", "psnr_per_frame.csv"}
    assert {path.name for path in folder.iterdir()} == names
    assert (folder / "curves.png").read_bytes() == before


def test_drawing_in_two_threads(tmp_path: Path) -> None:
    folders = [make_run(tmp_path / name) for name in "ab"]
    threads = [threading.Thread(target=draw_curves, args=(folder,)) for folder in folders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(colours(folder / "curves.png") > 20 for folder in folders)
