"""curves.png and latent.png: what is drawn, not their pixels."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from PIL import Image

from modules.figures.curves import curves_figure, draw_curves, latent_figure
from modules.figures.runs import load_run
from modules.figures.style import COLUMN, DPI
from tests.support.drawn import (
    BASELINES,
    check_layout,
    colours,
    line,
    lines,
    make_run,
    set_parent,
    texts,
)


def figure_of(folder: Path) -> Figure:
    return curves_figure(load_run(folder))


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
    assert rate.get_xlabel() == "epoch"
    assert all(axes.get_xlim() == psnr.get_xlim() for axes in figure.axes)
    # Every pair in one panel differs in line style as well as in colour.
    for axes in (psnr, loss):
        looks = [(each.get_color(), each.get_linestyle()) for each in axes.lines[:2]]
        assert looks[0][0] != looks[1][0] and looks[0][1] != looks[1][1]
    written = texts(figure)
    for text in ("train", "validation", "train total: MSE + β·KL", "train MSE", "TF on", "run"):
        assert text in written
    check_layout(figure)


def test_best_epoch_and_baselines(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "a", rows={4: {"val_psnr": 31.5}, 6: {"val_psnr": math.nan}})
    figure = figure_of(folder)
    star = line(figure, "best")
    assert (star.get_xdata()[0], star.get_ydata()[0]) == (4, 31.5)
    assert star.get_label() == "best 31.50 dB, epoch 4"
    assert [line(figure, key).get_ydata()[0] for key in BASELINES] == list(BASELINES.values())
    # Negative controls: another best, and a run that does not know its baselines.
    other = make_run(tmp_path / "b", rows={2: {"val_psnr": 30.0}}, baselines=None)
    figure = figure_of(other)
    assert line(figure, "best").get_label() == "best 30.00 dB, epoch 2"
    assert not any(lines(figure, key) for key in BASELINES)


def test_validation_by_place_is_drawn_thin(tmp_path: Path) -> None:
    run = load_run(make_run(tmp_path / "run"))
    figure = curves_figure(run)
    whole = line(figure, "val_psnr")
    parts = [line(figure, f"val_psnr_{name}") for name in ("inside", "outside")]
    for part in parts:
        np.testing.assert_array_equal(part.get_ydata(), run.metrics[part.get_gid()])
        assert part.get_linewidth() < whole.get_linewidth()
        assert part.axes is whole.axes
    looks = {(each.get_color(), str(each._dash_pattern)) for each in (whole, *parts)}
    assert len(looks) == 3
    assert {"near the skeleton", "elsewhere"} <= set(texts(figure))
    # The control: a run of an earlier version has no such values, and no entry for them.
    nothing = dict.fromkeys(("val_psnr_inside", "val_psnr_outside"), math.nan)
    old = figure_of(make_run(tmp_path / "old", rows=dict.fromkeys(range(10), nothing)))
    assert not lines(old, "val_psnr_inside") and "elsewhere" not in texts(old)


def test_findings_stand_under_the_title(tmp_path: Path) -> None:
    falling = {e: {"val_psnr": 26.0 - e, "train_psnr": 22.0 + e} for e in range(10)}
    folder = make_run(tmp_path / "a", rows=falling)
    figure = figure_of(folder)
    notes = [t.get_text().replace("\n", " ") for t in figure.texts if t.get_gid() == "note"]
    assert notes == [finding.fact for finding in load_run(folder).findings()]
    assert notes[0].startswith("validation falls while training rises")
    check_layout(figure)
    figure.canvas.draw()
    boxes = [text.get_window_extent() for text in figure.texts]  # title, then the notes
    assert all(a.y0 >= b.y1 for a, b in itertools.pairwise(boxes))
    legends = [each.get_window_extent() for each in figure.findobj(Legend)]
    assert boxes[-1].y0 > max(box.y1 for box in legends)
    assert not [t for t in figure_of(make_run(tmp_path / "b")).texts if t.get_gid() == "note"]


def test_teacher_forced_epochs_are_bands(tmp_path: Path) -> None:
    figure = figure_of(make_run(tmp_path / "run", 6))  # on in 0, 1, 3, 4; off in 2, 5
    (bands,) = [c for axes in figure.axes for c in axes.collections if c.get_gid() == "tf_active"]
    spans = [(p.vertices[:, 0].min(), p.vertices[:, 0].max()) for p in bands.get_paths()]
    assert spans == [(-0.5, 1.5), (2.5, 4.5)]


@pytest.mark.parametrize("epochs", [1, 10, 500])
def test_any_length(tmp_path: Path, epochs: int) -> None:
    folder = make_run(tmp_path / "run", epochs)
    figure = figure_of(folder)
    check_layout(figure)
    marked = line(figure, "val_psnr").get_markevery()
    assert len(marked) == (epochs if epochs <= 25 else 0)
    ticks = [t for t in figure.axes[0].get_xticks() if 0 <= t < epochs]
    assert ticks and all(t == int(t) for t in ticks)
    path = draw_curves(folder)
    assert path == folder / "curves.png"
    assert colours(path) > 20
    with Image.open(path) as image:
        assert image.width == pytest.approx(COLUMN / 2.54 * DPI, abs=1)
    assert not list(folder.glob(".*"))  # no temporary file stays


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


def test_loss_axis_is_logarithmic_where_the_range_is_wide(tmp_path: Path) -> None:
    narrow = figure_of(make_run(tmp_path / "narrow"))
    wide = figure_of(make_run(tmp_path / "wide", rows={5: {"train_loss": 40.0}}))
    assert narrow.axes[1].get_yscale() == "linear"
    assert wide.axes[1].get_yscale() == "log"
    steps = {epoch: {"lr": 1e-3 * 0.1 ** (epoch // 4)} for epoch in range(10)}
    assert figure_of(make_run(tmp_path / "lr", rows=steps)).axes[3].get_yscale() == "log"
    assert narrow.axes[3].get_yscale() == "linear"


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
    check_layout(figure)
    assert "parent" not in figure_of(old).axes[3].get_xlabel()


def test_latent_figure_shows_the_diagnostics(tmp_path: Path) -> None:
    values = {
        epoch: {"train_kl": 50.0 + epoch, "active_dims": 3 * epoch, "sigma": 0.1 / (epoch + 1)}
        for epoch in range(10)
    }
    run = load_run(make_run(tmp_path / "run", rows=values))
    figure = latent_figure(run)
    for name in ("train_kl", "active_dims", "sigma"):
        np.testing.assert_array_equal(line(figure, name).get_ydata(), run.metrics[name])
    assert not lines(figure, "train_loss")
    check_layout(figure)
    path = draw_curves(run.folder)
    assert colours(path.with_name("latent.png")) > 20


def test_likelihoods_are_not_drawn_among_mean_square_errors(tmp_path: Path) -> None:
    rows = {epoch: {"train_loss": -3.0 - epoch / 10} for epoch in range(10)}
    folder = make_run(tmp_path / "run", options={"recon": "sigma"}, rows=rows)
    assert not lines(figure_of(folder), "train_loss")
    assert lines(figure_of(make_run(tmp_path / "mse")), "train_loss")  # the control
    figure = latent_figure(load_run(folder))
    assert line(figure, "train_loss").get_ydata().tolist() == [-3.0 - e / 10 for e in range(10)]
    check_layout(figure)
