"""The figures of one run: what is drawn, not its pixels."""

import itertools
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from modules.figures import style
from modules.figures.curves import curves_figure, draw_curves, latent_figure, regions_figure
from modules.figures.frames import (
    draw_psnr_per_frame,
    lowest_stretches,
    psnr_per_frame_figure,
    redraw_frames,
)
from modules.figures.runs import load_run
from modules.figures.schedules import (
    forcing_text,
    kl_text,
    schedule_table,
    schedules_figure,
    value_text,
)
from modules.figures.style import BLUE, PAGE, add_line, number_axis, plain_number
from modules.options import TrainerOptions
from modules.runtime.errors import UserError
from modules.schedules import teacher_forcing_drawn
from tests.support.drawn import (
    BASELINES,
    check_layout,
    colours,
    line,
    lines,
    make_run,
    set_parent,
    texts,
    video,
)
from tests.support.scripts import REPOSITORY


def figure_of(folder: Path) -> Figure:
    return curves_figure(load_run(folder))


# ---------------------------------------------------------------- lines, axes, words


def test_lines_break_where_there_is_no_number() -> None:
    axes, y = Figure().subplots(), np.array([1, 2, math.nan, 4, math.inf, 6, 7])
    add_line(axes, np.arange(7), y, "psnr", "train", color=BLUE)
    many = np.arange(200.0)
    many[[9, 11, 199]] = np.nan  # 10 stands alone; 198 ends a line
    add_line(axes, np.arange(200), many, "psnr")
    add_line(axes, np.arange(10), many[:10], "part", points=200)  # a part of a long curve
    few, long, part = axes.lines
    np.testing.assert_array_equal(few.get_ydata(), [1, 2, np.nan, 4, np.nan, 6, 7])
    assert few.get_markevery() == [0, 1, 3, 5, 6]  # few points: each has its marker
    assert long.get_markevery() == [10]
    assert long.get_linewidth() == part.get_linewidth() < few.get_linewidth()
    assert part.get_markevery() == []
    assert axes.get_legend_handles_labels()[1] == ["train"]


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
    axes = Figure().subplots()
    number_axis(axes, np.array(values))
    assert axes.get_yscale() == scale


def test_numbers_as_a_user_types_them() -> None:
    assert [plain_number(x) for x in (0.001, 20.0, 1e-5, 1 / 3)] == [
        *("0.001", "20", "1e-5", "0.333333")
    ]
    assert [value_text(x) for x in ([35, 52], 0.5, None, True)] == ["35 52", "0.5", "None", "True"]
    assert style.shorten("abcdefghij", 5) == "ab…ij"


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({}, "Cyclical, 10 cycles, ratio 1"),
        ({"kl_beta": 0.5}, "Cyclical, 10 cycles, ratio 1, β to 0.5"),
        ({"kl_anneal_type": "Monotonic", "kl_anneal_ratio": 0.25}, "Monotonic, ratio 0.25"),
        ({"kl_anneal_type": "None", "kl_beta": 0.0}, "none, β = 0"),
    ],
)
def test_kl_annealing(changed: dict[str, Any], text: str) -> None:
    usual = {"kl_anneal_type": "Cyclical", "kl_anneal_cycle": 10, "kl_anneal_ratio": 1.0}
    assert kl_text({**usual, "kl_beta": 1.0, **changed}) == text


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({}, "1, −0.1 per epoch from 10"),
        ({"tfr_d_step": 0.0}, "1 throughout"),
        ({"tfr": 0.0}, "none"),
        ({"detector_patience": 3}, "1, −0.1 per epoch from 10, detector (patience 3)"),
    ],
)
def test_teacher_forcing(changed: dict[str, Any], text: str) -> None:
    assert forcing_text({"tfr": 1.0, "tfr_sde": 10, "tfr_d_step": 0.1, **changed}) == text


def test_names_are_no_formulas(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    folder = make_run(tmp_path / "a$\\frac{$ 舞")
    assert colours(draw_curves(folder)) > 20
    assert "a$\\frac{$ ?" in texts(figure_of(folder))
    assert style.drawable("_b") == " _b"
    assert not recwarn.list


def test_no_pyplot_and_no_display(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", 3)
    code = f"""
import sys
from pathlib import Path
from modules.figures.curves import draw_curves
draw_curves(Path({str(folder)!r}))
assert "matplotlib.pyplot" not in sys.modules, "pyplot"
"""
    env = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "WAYLAND_DISPLAY")}
    env["MPLBACKEND"] = "module://a_notebook.that_is_not_here"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert (folder / "curves.png").stat().st_size > 10_000


# ---------------------------------------------------------------- curves.png and latent.png


def test_curves_show_the_columns_of_metrics_csv(tmp_path: Path) -> None:
    run = load_run(make_run(tmp_path / "run"))
    figure = curves_figure(run)
    names = ("train_psnr", "val_psnr", "train_loss", "train_mse", "val_loss", "beta", "tfr", "lr")
    for name in names:
        assert line(figure, name).get_xdata().tolist() == list(range(10))
        np.testing.assert_array_equal(line(figure, name).get_ydata(), run.metrics[name])
    psnr, loss, forcing, rate, twin = figure.axes
    units = [axes.get_ylabel() for axes in (psnr, loss, forcing, twin, rate)]
    assert units == [
        *("PSNR (dB)", "loss (pixels 0 to 1)", "β (KL weight)", "TF ratio (0 to 1)"),
        "learning rate",
    ]
    assert all(axes.get_xlabel() == "epoch" for axes in (psnr, loss, forcing, rate))
    assert all(axes.get_xlim() == psnr.get_xlim() for axes in figure.axes)
    # Four quadrants: PSNR and loss above β and rate.
    figure.canvas.draw()
    boxes = [axes.get_window_extent() for axes in (psnr, loss, forcing, rate)]
    assert boxes[0].x1 < boxes[1].x0 and boxes[2].x1 < boxes[3].x0
    assert min(box.y0 for box in boxes[:2]) > max(box.y1 for box in boxes[2:])
    # Every pair in one panel differs in line style as well as in colour.
    for axes, count in ((psnr, 2), (loss, 3)):
        looks = [(each.get_color(), str(each._dash_pattern)) for each in axes.lines[:count]]
        assert len({colour for colour, _ in looks}) == len({dash for _, dash in looks}) == count
    written = texts(figure)
    for text in ("training", "validation", "training, MSE + β·KL", "validation, MSE", "TF on"):
        assert text in written
    assert len(figure.subfigs) == 4
    for quadrant in figure.subfigs:
        assert all(len(legend.get_texts()) <= 4 for legend in quadrant.legends)
    check_layout(figure, PAGE)
    # Drawn again from the same files it is the same, byte for byte.
    first = draw_curves(run.folder).read_bytes()
    with Image.open(run.folder / "curves.png") as image:
        assert image.width > image.height
    assert draw_curves(run.folder).read_bytes() == first


def test_best_epoch_and_baselines(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "a", rows={4: {"val_psnr": 31.5}, 6: {"val_psnr": math.nan}})
    figure = figure_of(folder)
    star = line(figure, "best")
    assert (star.get_xdata()[0], star.get_ydata()[0]) == (4, 31.5)
    assert star.get_label() == "best 31.50 dB, epoch 4"
    assert line(figure, "nearest_pose").get_ydata()[0] == BASELINES["nearest_pose"]  # the highest
    assert not lines(figure, "first_frame")
    # Negative controls: another best, and a run that does not know its baselines.
    other = make_run(tmp_path / "b", rows={2: {"val_psnr": 30.0}}, baselines=None)
    figure = figure_of(other)
    assert line(figure, "best").get_label() == "best 30.00 dB, epoch 2"
    assert not any(lines(figure, key) for key in BASELINES)


def test_the_first_finding_stands_below(tmp_path: Path) -> None:
    falling = {e: {"val_psnr": 26.0 - e, "train_psnr": 22.0 + e} for e in range(10)}
    folder = make_run(tmp_path / "a", rows=falling)
    figure = figure_of(folder)
    found = load_run(folder).findings()
    assert len(found) == 2 and figure.get_supxlabel().replace("\n", " ") == found[0].fact
    check_layout(figure, PAGE)
    assert figure_of(make_run(tmp_path / "b")).get_supxlabel() == ""


def test_teacher_forced_epochs_are_bands(tmp_path: Path) -> None:
    def bands(figure: Figure) -> list[tuple[float, float, float]]:
        found = [p for axes in figure.axes for p in axes.patches if p.get_gid() == "tf_active"]
        return [(p.get_x(), p.get_x() + p.get_width(), p.get_facecolor()[3]) for p in found]

    by_epoch = figure_of(make_run(tmp_path / "run", 6))  # on in 0, 1, 3, 4; off in 2, 5
    assert bands(by_epoch) == [(-0.5, 1.5, 1), (2.5, 4.5, 1)]
    ratio = {e: {"tfr": value, "tf_active": 1} for e, value in enumerate((0.5, 0.5, 0.25))}
    for options in ({"rollout_every": 1}, {"tf_draw": "step"}):  # the other of earlier versions
        folder = make_run(tmp_path / str(*options), 3, rows=ratio, options=options)
        figure = figure_of(folder)
        assert bands(figure) == [(-0.5, 1.5, 0.5), (1.5, 2.5, 0.25)]
        assert "TF, part of steps" in texts(figure)


@pytest.mark.parametrize("epochs", [1, 500])
def test_any_length(tmp_path: Path, epochs: int) -> None:
    figure = figure_of(make_run(tmp_path / "run", epochs))
    check_layout(figure, PAGE)
    marked = line(figure, "val_psnr").get_markevery()
    assert len(marked) == (epochs if epochs <= 25 else 0)
    ticks = [t for t in figure.axes[0].get_xticks() if 0 <= t < epochs]
    assert ticks and all(t == int(t) for t in ticks)


def test_epochs_without_numbers(tmp_path: Path) -> None:
    figure = figure_of(make_run(tmp_path / "some", 40, broken=(3, 10, 12)))
    curve = line(figure, "train_loss")
    assert np.flatnonzero(np.isnan(curve.get_ydata())).tolist() == [3, 10, 12]
    assert curve.get_markevery() == [11]  # alone between two gaps, it would not be seen
    assert line(figure, "skipped").get_xdata().tolist() == [3, 10, 12]
    assert line(figure, "skipped").get_label() == "sequences skipped (21)"
    assert not lines(figure_of(make_run(tmp_path / "none", 40)), "skipped")
    nothing = {
        epoch: dict.fromkeys(("val_psnr", "val_loss", "lr", "beta"), math.nan) for epoch in range(3)
    }
    folder = make_run(tmp_path / "all", 3, broken=(0, 1, 2), rows=nothing)
    assert not lines(figure_of(folder), "best")
    assert colours(draw_curves(folder)) > 5
    infinite = make_run(tmp_path / "infinite", 3, rows={1: {"val_psnr": math.inf}})
    assert line(figure_of(infinite), "best").get_xdata()[0] == 2


def test_scales(tmp_path: Path) -> None:
    narrow = figure_of(make_run(tmp_path / "narrow"))
    wide = figure_of(make_run(tmp_path / "wide", rows={5: {"train_loss": 40.0}}))
    assert narrow.axes[1].get_yscale() == "linear"
    assert wide.axes[1].get_yscale() == "log"
    steps = {epoch: {"lr": 1e-3 * 0.1 ** (epoch // 4)} for epoch in range(10)}
    assert figure_of(make_run(tmp_path / "lr", rows=steps)).axes[3].get_yscale() == "log"
    cosine = {e: {"lr": 0.5e-3 * (1 + math.cos(math.pi * e / 10))} for e in range(10)}
    smooth = figure_of(make_run(tmp_path / "smooth", rows=cosine)).axes[3]
    assert smooth.get_yscale() == "linear" and smooth.get_ylim()[0] < 0


def test_resumed_run(tmp_path: Path) -> None:
    figure = figure_of(make_run(tmp_path / "run", resumed_at=[3, 8]))
    assert line(figure, "resumed").get_xdata().tolist() == [3, 8]
    assert line(figure, "val_psnr").get_xdata().tolist() == list(range(10))
    assert not lines(figure_of(make_run(tmp_path / "other", resumed_at=[])), "resumed")


def test_fine_tuned_run_follows_its_parents(tmp_path: Path) -> None:
    old, middle, young = (
        make_run(tmp_path / name, n) for name, n in (("o", 8), ("m", 5), ("y", 3))
    )
    set_parent(middle, old, 5)
    set_parent(young, middle, 3)
    figure = figure_of(young)
    first, second, own = lines(figure, "val_psnr")
    assert first.get_xdata().tolist() == [0, 1, 2, 3, 4, 5]
    assert second.get_xdata().tolist() == [6, 7, 8, 9]
    assert own.get_xdata().tolist() == [10, 11, 12]
    np.testing.assert_array_equal(first.get_ydata(), load_run(old).metrics["val_psnr"][:6])
    assert first.get_alpha() < 1 and own.get_alpha() is None
    marks = [each.get_xdata()[0] for each in lines(figure, "took over")]
    assert sorted(set(marks)) == [5.5, 9.5] and len(marks) == 8  # in each of the four panels
    best = int(np.argmax(load_run(young).metrics["val_psnr"]))
    assert line(figure, "best").get_label().endswith(f"epoch {10 + best} (own {best})")
    assert "parent" in figure.axes[3].get_xlabel() and "o → m" in figure.axes[3].get_xlabel()
    check_layout(figure, PAGE)
    assert "parent" not in figure_of(old).axes[3].get_xlabel()


def test_diagnostics_have_figures_of_their_own(tmp_path: Path) -> None:
    values = {
        epoch: {"train_kl": 50.0 + epoch, "active_dims": 3 * epoch, "sigma": 0.1 / (epoch + 1)}
        for epoch in range(10)
    }
    run = load_run(make_run(tmp_path / "run", rows=values))
    draw_curves(run.folder)
    for draw, file, names in (
        (latent_figure, "latent.png", ("train_kl", "active_dims", "sigma")),
        (regions_figure, "regions.png", ("val_psnr", "val_psnr_inside", "val_psnr_outside")),
    ):
        figure = draw(run)
        for name in names:
            np.testing.assert_array_equal(line(figure, name).get_ydata(), run.metrics[name])
        assert not lines(figure, "train_loss")
        check_layout(figure)
        assert colours(run.folder / file) > 20


# ---------------------------------------------------------------- psnr_per_frame.png


def dips(n: int = 600, *places: tuple[int, float]) -> np.ndarray:
    """A curve of 30 dB with dips of a given depth around frames."""
    frames = np.arange(1, n + 1)
    return 30.0 - sum(depth * np.exp(-(((frames - at) / 12) ** 2)) for at, depth in places)


def test_lowest_stretches_of_a_hand_made_curve() -> None:
    curve = dips(600, (100, 4.0), (250, 8.0), (400, 2.0), (550, 6.0))
    stretches = lowest_stretches(curve)
    assert [stretch.lowest for stretch in stretches] == [250, 550, 100]  # lowest first, 400 not
    for start, stop, lowest in stretches:
        assert 1 <= start <= lowest < stop <= 601
        assert stop - start == 15
    assert stretches == lowest_stretches(curve.copy())
    # Negative control: without the deepest dip, the fourth one is marked.
    others = dips(600, (100, 4.0), (400, 2.0), (550, 6.0))
    assert [stretch.lowest for stretch in lowest_stretches(others)] == [550, 100, 400]


def test_a_short_deep_dip_is_found_among_long_shallow_ones() -> None:
    curve = dips(629, (80, 3.0), (250, 2.0), (440, 2.0), (590, 2.5))
    curve[495:503] -= 5.0
    assert {stretch.lowest for stretch in lowest_stretches(curve)} & set(range(496, 504))


def test_lowest_stretches_do_not_overlap() -> None:
    rng = np.random.default_rng(0)
    for n in (2, 5, 20, 61, 629, 5000):
        stretches = sorted(lowest_stretches(28 + rng.normal(size=n)))
        assert 1 <= len(stretches) <= 3
        assert all(a.stop < b.start for a, b in itertools.pairwise(stretches))
    assert len(lowest_stretches(28 + rng.normal(size=629))) == 3
    assert len(lowest_stretches(np.array([20.0]))) == 1
    assert len(lowest_stretches(np.full(100, 25.0))) <= 1
    assert lowest_stretches(np.full(100, math.nan)) == []


def test_lowest_stretches_leave_out_missing_values() -> None:
    curve = dips(600, (100, 4.0), (250, 8.0), (550, 6.0))
    curve[200:300] = math.nan
    lowest = [stretch.lowest for stretch in lowest_stretches(curve)]
    assert lowest[:2] == [550, 100]
    assert all(np.isfinite(curve[frame - 1]) for frame in lowest)


@pytest.mark.parametrize("size", [(8, 12), (16, 8)])
def test_psnr_per_frame_with_pictures(tmp_path: Path, size: tuple[int, int]) -> None:
    curve = dips(400, (60, 4.0), (180, 8.0), (300, 6.0))
    names = ("label", "truth", "prediction")
    videos = {name: video(401, *size, seed=i) for i, name in enumerate(names)}
    inside = curve - 3
    inside[:5] = math.nan  # no skeleton there: a gap
    regions = {"inside": inside, "outside": curve + 4}
    title = "Best validation, epoch 17"
    figure = psnr_per_frame_figure(curve, title=title, pictures=videos, **regions)
    written = texts(figure)
    assert f"PSNR per frame, average {curve.mean():.2f} dB (dashed)\n{title}" in written
    main = line(figure, "psnr")
    assert "whole frame" in written and main.get_alpha() is None
    low, high = figure.axes[0].get_ylim()  # of the curve of the whole frame
    assert curve.min() - 2 < low < curve.min() and curve.max() < high < curve.max() + 2
    for name in regions:
        assert line(figure, name).get_alpha() == 0.5
        assert line(figure, name).get_zorder() < main.get_zorder()
    assert line(figure, "psnr").get_xdata().tolist() == list(range(1, 401))
    for name, values in regions.items():
        np.testing.assert_array_equal(line(figure, name).get_ydata(), values)
    assert [each.get_xdata()[0] for each in lines(figure, "lowest")] == [180, 300, 60]
    shown = {axes.get_gid(): axes.images[0] for axes in figure.axes if axes.images}
    assert list(shown) == [f"{name} {t}" for t in (180, 300, 60) for name in videos]
    for name, frames in videos.items():
        np.testing.assert_array_equal(shown[f"{name} 300"].get_array(), frames[300])
    assert f"1: frame 180\n{curve[179]:.2f} dB" in written
    check_layout(figure)


@pytest.mark.parametrize("frames", [2, 3001])
def test_psnr_per_frame_of_any_length(frames: int) -> None:
    curve = 25 + np.random.default_rng(1).normal(size=frames - 1)
    figure = psnr_per_frame_figure(curve)
    check_layout(figure)
    assert (figure.axes[0].get_xlabel(), figure.axes[0].get_ylabel()) == ("frame", "PSNR (dB)")
    assert not lines(figure, "inside")  # not known


def test_psnr_per_frame_with_missing_values_claims_no_average() -> None:
    curve = dips(100, (50, 5.0))
    assert not lines(psnr_per_frame_figure(curve), "missing")
    curve[10:13] = math.nan
    figure = psnr_per_frame_figure(curve, title="Validation")
    missing = "no average: 3 of 100 frames have no value (×)"
    assert f"PSNR per frame, {missing}\nValidation" in texts(figure)
    assert line(figure, "missing").get_xdata().tolist() == [11, 12, 13]
    assert not lines(figure, "average")
    psnr_per_frame_figure(np.full(5, math.nan))


def test_psnr_per_frame_refuses_other_shapes(tmp_path: Path) -> None:
    out = tmp_path / "p.png"
    for psnr, videos in (
        (np.ones((3, 2)), {}),
        (np.ones(0), {}),
        (np.ones(9), {"labels": video(9)}),
        (np.ones(9), {"truth": video(10), "prediction": video(10, width=4)}),
        (np.ones(9), {"truth": video(10).astype(float)}),
    ):
        with pytest.raises(ValueError):
            draw_psnr_per_frame(out, psnr, **videos)
    assert not out.exists()


def test_redrawn_from_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The epoch is named where the table is known to be that of the best one."""
    titles: list[str] = []
    monkeypatch.setattr(
        "modules.figures.frames.draw_psnr_per_frame", lambda *_, title, **__: titles.append(title)
    )
    folder = make_run(tmp_path / "run", rows={4: {"val_psnr": 30.0}})
    redraw_frames(folder)
    (folder / "psnr_per_frame.csv").write_text("frame,psnr\n1,20.5\n2,21.5\n")  # of older code
    redraw_frames(folder)
    (folder / "metrics.csv").unlink()  # as in Tester's folder
    redraw_frames(folder)
    assert titles == ["Best validation, epoch 4", "Validation", "Validation"]
    (folder / "psnr_per_frame.csv").write_text("frame,psnr\n1,20.5\n3,21.5\n")
    with pytest.raises(UserError, match="not 1, 2, 3"):
        redraw_frames(folder)


# ---------------------------------------------------------------- schedules


def test_schedules_of_fu_et_al() -> None:
    options = TrainerOptions(num_epoch=40_000, kl_anneal_type="Monotonic", kl_anneal_ratio=0.25)
    beta = schedule_table(options)["beta"]
    assert beta[[0, 2_500, 5_000, 10_000, 25_000, 39_999]].tolist() == [0, 0.25, 0.5, 1, 1, 1]
    cyclical = TrainerOptions(num_epoch=40_000, kl_anneal_cycle=4, kl_anneal_ratio=0.5)
    beta = schedule_table(cyclical)["beta"]
    at = [0, 2_500, 5_000, 9_999, 10_000, 12_500, 20_000, 39_999]
    assert beta[at].tolist() == [0, 0.5, 1, 1, 0, 0.5, 0, 1]


def test_schedules_of_any_options() -> None:
    options = TrainerOptions(
        num_epoch=12, tfr=0.9, tfr_sde=3, tfr_d_step=0.2, lr_scheduler="multistep", seed=5
    )
    options.lr_milestones = (4, 8)
    table = schedule_table(options)
    assert table["tfr"].tolist() == [0.9, 0.9, 0.9, 0.7, 0.5, 0.3, 0.1, 0, 0, 0, 0, 0]
    np.testing.assert_allclose(table["lr"], [1e-3] * 4 + [1e-4] * 4 + [1e-5] * 4)
    drawn = [teacher_forcing_drawn(5, e, ratio) for e, ratio in enumerate(table["tfr"])]
    assert table["tf_active"].astype(bool).tolist() == drawn
    figure = schedules_figure(options)
    check_layout(figure)
    said = f"bands: on, drawn with seed 5: {sum(drawn)} of 12 epochs"
    assert any(said in text for text in texts(figure))
    for name in ("beta", "tfr", "lr"):
        np.testing.assert_array_equal(line(figure, name).get_ydata(), table[name])
