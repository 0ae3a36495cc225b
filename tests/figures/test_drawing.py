"""The figures of one run: what is drawn, not its pixels."""

import itertools
import math
import os
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from modules.diagnosis import diagnose
from modules.figures import curves, style
from modules.figures.compare import forcing_text, kl_text, value_text
from modules.options import TrainerOptions
from modules.plots import planned_run, schedules_figure
from modules.runlog import load_run
from modules.schedules import teacher_forcing_drawn
from tests.support.drawn import (
    check_layout,
    colours,
    line,
    lines,
    make_run,
    set_parent,
    texts,
    video,
)
from tests.support.scripts import python


def figure_of(folder: Path) -> Figure:
    return curves.curves_figure(load_run(folder))


def test_an_axis_is_logarithmic_where_values_span_a_factor_of_30() -> None:
    for values, scale in (
        ([1.0, 29.0], "linear"),
        ([1.0, 31.0], "log"),
        ([-5.0, 0.0, 1.0, 20.0], "linear"),  # these are not among the values that span
        ([math.nan, 2.0, math.inf], "linear"),
    ):
        axes = Figure().subplots()
        style.number_axis(axes, np.array(values))
        assert axes.get_yscale() == scale
    # Learning rates: in steps of a factor of 10, and along a cosine to zero.
    for rates, scale in ((0.1 ** (np.arange(10) // 4), "log"), (1 + np.cos(np.arange(10) / 3), "")):
        axes = Figure().subplots()
        style.rate_axis(axes, rates)
        assert axes.get_yscale() == (scale or "linear")
    assert axes.get_ylim()[0] < 0


def test_options_in_words() -> None:
    assert [value_text(x) for x in (0.001, 20.0, 1e-5, 1 / 3, [35, 52], None, True)] == [
        *("0.001", "20", "1e-5", "0.333333", "35 52", "None", "True")
    ]
    assert style.shorten("abcdefghij", 5) == "ab…ij"
    cyclical, falling = "Cyclical, 10 cycles, ratio 1", "1, −0.1 per epoch from 10"
    for changed, kl, forcing in (
        ({}, cyclical, falling),
        ({"kl_beta": 0.5, "tfr": 0.0}, f"{cyclical}, β to 0.5", "none"),
        ({"kl_anneal_type": "Monotonic", "tfr_d_step": 0}, "Monotonic, ratio 1", "1 throughout"),
        (
            {"kl_anneal_type": "None", "kl_beta": 0.0, "detector_patience": 3},
            *("none, β = 0", f"{falling}, detector (patience 3)"),
        ),
    ):
        options = {**vars(TrainerOptions()), **changed}
        assert (kl_text(options), forcing_text(options)) == (kl, forcing)


def test_no_pyplot_no_display_and_no_formulas(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "a$\\frac{$ 舞", 3)
    assert "a$\\frac{$ ?" in texts(figure_of(folder))
    code = f"""
import sys
from pathlib import Path
from modules.figures.curves import draw_curves
draw_curves(Path({str(folder)!r}))
assert "matplotlib.pyplot" not in sys.modules, "pyplot"
"""
    env = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "WAYLAND_DISPLAY")}
    env["MPLBACKEND"] = "module://a_notebook.that_is_not_here"
    done = python("-c", code, env=env)
    assert (done.returncode, done.stderr) == (0, "")  # nor a warning
    # Drawn again, here, from the same files it is the same, byte for byte.
    names = ("curves.png", "latent.png", "regions.png")
    first = [(folder / name).read_bytes() for name in names]
    curves.draw_curves(folder)
    assert [(folder / name).read_bytes() for name in names] == first
    assert all(colours(folder / name) > 20 for name in names)


# ---------------------------------------------------------------- curves.png and latent.png


def test_curves_show_the_columns_of_metrics_csv(tmp_path: Path) -> None:
    """What it shows in words and numbers: tests/programs/test_document_figures.py."""
    falling = {e: {"val_psnr": 26.0 - e, "train_psnr": 22.0 + e} for e in range(10)}
    run = load_run(make_run(tmp_path / "run", rows=falling))
    figure = curves.curves_figure(run)
    psnr, loss, forcing, rate, _ = figure.axes
    assert all(axes.get_xlim() == psnr.get_xlim() for axes in figure.axes)
    check_layout(figure, style.PAGE)
    # Four quadrants: PSNR and loss above β and rate.
    boxes = [axes.get_window_extent() for axes in (psnr, loss, forcing, rate)]
    assert boxes[0].x1 < boxes[1].x0 and boxes[2].x1 < boxes[3].x0
    assert min(box.y0 for box in boxes[:2]) > max(box.y1 for box in boxes[2:])
    # Every pair in one panel differs in line style as well as in colour.
    for axes, count in ((psnr, 2), (loss, 3)):
        looks = [(each.get_color(), str(each._dash_pattern)) for each in axes.lines[:count]]
        assert len({colour for colour, _ in looks}) == len({dash for _, dash in looks}) == count
    # The first finding stands below.
    assert figure.get_supxlabel().replace("\n", " ") == next(iter(diagnose(run).values()))
    check_layout(curves.regions_figure(run))


def bands(figure: Figure) -> list[tuple[float, float, float]]:
    """From where to where, and how dark."""
    found = [p for axes in figure.axes for p in axes.patches if p.get_gid() == "tf_active"]
    return [(p.get_x(), p.get_x() + p.get_width(), p.get_facecolor()[3]) for p in found]


def test_teacher_forced_epochs_are_bands(tmp_path: Path) -> None:
    by_epoch = figure_of(make_run(tmp_path / "run", 6))  # on in 0, 1, 3, 4; off in 2, 5
    assert bands(by_epoch) == [(-0.5, 1.5, 1), (2.5, 4.5, 1)]
    ratio = {e: {"tfr": value, "tf_active": 1} for e, value in enumerate((0.5, 0.5, 0.25))}
    figure = figure_of(make_run(tmp_path / "b", 3, rows=ratio, options={"rollout_every": 1}))
    assert bands(figure) == [(-0.5, 1.5, 0.5), (1.5, 2.5, 0.25)]
    assert "TF, fraction of steps" in texts(figure)


@pytest.mark.parametrize("epochs", [1, 500])
def test_any_length(tmp_path: Path, epochs: int) -> None:
    figure = figure_of(make_run(tmp_path / "run", epochs))
    check_layout(figure, style.PAGE)
    marked = line(figure, "val_psnr").get_markevery()
    assert len(marked) == (epochs if epochs <= 25 else 0)


def test_epochs_without_numbers(tmp_path: Path) -> None:
    figure = figure_of(make_run(tmp_path / "some", 40, broken=(3, 10, 12), resumed_at=[4, 8]))
    assert line(figure, "resumed").get_xdata().tolist() == [4, 8]
    curve = line(figure, "train_loss")
    assert np.flatnonzero(np.isnan(curve.get_ydata())).tolist() == [3, 10, 12]
    assert curve.get_markevery() == [11]  # alone between two gaps, it would not be seen
    assert line(figure, "skipped").get_xdata().tolist() == [3, 10, 12]
    assert line(figure, "skipped").get_label() == "sequences skipped (21)"
    nothing = dict.fromkeys(("val_psnr", "val_loss", "lr", "beta"), math.nan)
    rows = dict.fromkeys(range(3), nothing)
    folder = make_run(tmp_path / "all", 3, broken=(0, 1, 2), rows=rows)
    assert not lines(figure_of(folder), "best")
    assert colours(curves.draw_curves(folder)) > 5


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
    assert first.get_alpha() < 1 and own.get_alpha() is None
    assert [band[:2] for band in bands(figure)] == [
        *((-0.5, 1.5), (2.5, 4.5)),  # 5 was off
        *((5.5, 7.5), (8.5, 9.5)),
        (9.5, 11.5),
    ]
    marks = [each.get_xdata()[0] for each in lines(figure, "took over")]
    assert sorted(set(marks)) == [5.5, 9.5] and len(marks) == 8  # in each of the four panels
    best = int(np.argmax(load_run(young).metrics["val_psnr"]))
    assert line(figure, "best").get_label().endswith(f"epoch {10 + best} (own {best})")
    assert "parent" in figure.axes[3].get_xlabel() and "o → m" in figure.axes[3].get_xlabel()
    check_layout(figure, style.PAGE)


# ---------------------------------------------------------------- psnr_per_frame.png


def dips(n: int, *places: tuple[int, float]) -> np.ndarray:
    """A curve of 30 dB with dips of a given depth around frames."""
    frames = np.arange(1, n + 1)
    return 30.0 - sum(depth * np.exp(-(((frames - at) / 12) ** 2)) for at, depth in places)


def test_lowest_stretches_of_a_hand_made_curve() -> None:
    curve = dips(600, (100, 4.0), (250, 8.0), (400, 2.0), (550, 6.0))
    stretches = curves.lowest_stretches(curve)
    assert [stretch.lowest for stretch in stretches] == [250, 550, 100]  # lowest first, 400 not
    assert stretches[0] == (243, 258, 250)  # 15 frames around it
    curve[200:300] = math.nan  # missing: the fourth one is marked
    assert [stretch.lowest for stretch in curves.lowest_stretches(curve)] == [550, 100, 400]
    # A short, deep dip among long, shallow ones.
    curve = dips(629, (80, 3.0), (250, 2.0), (440, 2.0), (590, 2.5))
    curve[495:503] -= 5.0
    assert {stretch.lowest for stretch in curves.lowest_stretches(curve)} & set(range(496, 504))


@pytest.mark.parametrize(("n", "fewest"), [(1, 1), (20, 1), (5000, 3)])
def test_lowest_stretches_do_not_overlap(n: int, fewest: int) -> None:
    stretches = sorted(curves.lowest_stretches(28 + np.random.default_rng(0).normal(size=n)))
    assert fewest <= len(stretches) <= 3
    assert all(a.stop < b.start for a, b in itertools.pairwise(stretches))
    assert len(curves.lowest_stretches(np.full(n, 25.0))) <= 1
    assert curves.lowest_stretches(np.full(n, math.nan)) == []
    assert curves.lowest_stretches(-np.arange(60.0)) == [(58, 61, 60)]  # ends with the curve


@pytest.mark.parametrize("frames", [2, 3001])
def test_psnr_per_frame_of_any_length(frames: int) -> None:
    curve = 25 + np.random.default_rng(1).normal(size=frames - 1)
    inside = curve - 1
    inside[:5] = math.nan  # no skeleton there: a gap
    tall = {name: video(frames, 16, 8) for name in ("label", "prediction")}
    figure = curves.psnr_per_frame_figure(curve, inside=inside, outside=curve + 9, pictures=tall)
    check_layout(figure)
    # Above the axis of the whole frame, only its dips would show, at the edge.
    assert not lines(figure, "outside") and "elsewhere" not in texts(figure)
    assert bool(lines(figure, "inside")) == (frames > 2)
    for shown in (axes for axes in figure.axes if axes.images):
        name, number = shown.get_gid().split()
        np.testing.assert_array_equal(shown.images[0].get_array(), tall[name][int(number)])


def test_psnr_per_frame_with_missing_values_claims_no_average() -> None:
    curve = dips(100, (50, 5.0))
    curve[10:13] = math.nan
    figure = curves.psnr_per_frame_figure(curve, title="Validation")
    missing = "no average: 3 of 100 frames have no value (×)"
    assert f"PSNR per frame, {missing}\nValidation" in texts(figure)
    assert line(figure, "missing").get_xdata().tolist() == [11, 12, 13]
    assert not lines(figure, "average")
    curves.psnr_per_frame_figure(np.full(5, math.nan))


# ---------------------------------------------------------------- schedules


def test_schedules_show_what_training_will_draw() -> None:
    options = TrainerOptions(num_epoch=12, tfr=0.9, tfr_sde=3, tfr_d_step=0.2, seed=5)
    run = planned_run(options)
    figure, table = schedules_figure(run), run.metrics
    drawn = [teacher_forcing_drawn(5, e, ratio) for e, ratio in enumerate(table["tfr"])]
    assert table["tf_active"].astype(bool).tolist() == drawn
    check_layout(figure)
    said = f"bands: on, drawn with seed 5: {sum(drawn)} of 12 epochs"
    assert any(said in text for text in texts(figure))
    for name in ("beta", "tfr", "lr"):
        np.testing.assert_array_equal(line(figure, name).get_ydata(), table[name])
