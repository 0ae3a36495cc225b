"""The figures of a run and its schedules: what is drawn, not their pixels; the command line."""

import gc
import math
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from modules import plots
from modules.figures import runs
from modules.options import TrainerOptions
from modules.runlog import METRIC_COLUMNS
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
    return plots.curves_figure(runs.load_run(folder))


# ----------------------------------------------------------------------------------------
# curves.png


def test_curves_show_the_columns_of_metrics_csv(tmp_path: Path) -> None:
    run = runs.load_run(make_run(tmp_path / "run"))
    figure = plots.curves_figure(run)
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
    path = plots.draw_curves(folder)
    assert path == folder / "curves.png"
    assert colours(path) > 20
    with Image.open(path) as image:
        assert image.width == pytest.approx(figures.COLUMN / 2.54 * figures.DPI, abs=1)
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
    assert colours(plots.draw_curves(folder)) > 5
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
    np.testing.assert_array_equal(first.get_ydata(), runs.load_run(old).metrics["val_psnr"][:6])
    assert first.get_alpha() < 1 and own.get_alpha() is None
    marks = [each.get_xdata()[0] for each in lines(figure, "took over")]
    assert sorted(set(marks)) == [5.5, 9.5] and len(marks) == 8  # in each of the four panels
    best = int(np.argmax(runs.load_run(young).metrics["val_psnr"]))
    assert line(figure, "best").get_label().endswith(f"epoch {10 + best} (own {best})")
    assert "parent" in figure.axes[3].get_xlabel() and "o → m" in figure.axes[3].get_xlabel()
    check_layout(figure)
    assert "parent" not in figure_of(old).axes[3].get_xlabel()


def test_lineage_that_cannot_be_followed(tmp_path: Path) -> None:
    a, b = make_run(tmp_path / "a", 4), make_run(tmp_path / "b", 4)
    set_parent(b, tmp_path / "gone", 2)
    assert [part.shift for part in runs.lineage(runs.load_run(b))] == [0]
    set_parent(b, a, -1)  # the parent had not finished an epoch
    assert len(runs.lineage(runs.load_run(b))) == 1
    set_parent(b, None, 2)
    assert len(runs.lineage(runs.load_run(b))) == 1
    set_parent(b, Path("/elsewhere/a"), 2)  # both were moved: found beside it
    assert [part.shift for part in runs.lineage(runs.load_run(b))] == [0, 3]
    set_parent(a, b, 1)
    set_parent(b, a, 2)  # each is the other's parent
    assert [part.run.name for part in runs.lineage(runs.load_run(a))] == ["b", "a"]
    set_parent(a, a, 1)
    assert len(runs.lineage(runs.load_run(a))) == 1


def test_names_are_no_formulas(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    folder = make_run(tmp_path / "a$\\frac{$ 舞")
    assert colours(plots.draw_curves(folder)) > 20
    both = [runs.load_run(each) for each in (folder, make_run(tmp_path / "_b"))]
    figure = report.comparison_figure("validation_loss", both)
    assert {"a$\\frac{$ ?", " _b"} <= set(texts(figure))
    assert not recwarn.list


def test_no_pyplot_no_display_any_thread_no_growth(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", 3)
    code = f"""
import sys, threading
from pathlib import Path
from modules import plots
thread = threading.Thread(target=plots.draw_curves, args=(Path({str(folder)!r}),))
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
        plots.draw_curves(folder)
    gc.collect()
    assert sum(type(thing) is Figure for thing in gc.get_objects()) <= 1


def test_files_are_written_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_run(tmp_path / "run")
    before = plots.draw_curves(folder).read_bytes()

    def refuse(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    frames = video(4)
    monkeypatch.setattr(Path, "replace", refuse)
    for write in (
        lambda: plots.draw_curves(folder),
        lambda: pictures.write_gif(folder / "a.gif", frames),
        lambda: pictures.write_comparison_gif(folder / "b.gif", frames, frames, frames),
        lambda: pictures.write_sheet(folder / "c.png", frames, frames, frames),
        lambda: pictures.draw_psnr_per_frame(folder / "d.png", np.ones(3)),
    ):
        with pytest.raises(UserError, match="No space"):
            write()
    names = {"config.json", "curves.png", "latent.png", "metrics.csv", "psnr_per_frame.csv"}
    assert {path.name for path in folder.iterdir()} == names
    assert (folder / "curves.png").read_bytes() == before


# ----------------------------------------------------------------------------------------
# schedules


def test_schedules_of_fu_et_al() -> None:
    options = TrainerOptions(num_epoch=40_000, kl_anneal_type="Monotonic", kl_anneal_ratio=0.25)
    beta = plots.schedule_table(options)["beta"]
    assert beta[[0, 2_500, 5_000, 10_000, 25_000, 39_999]].tolist() == [0, 0.25, 0.5, 1, 1, 1]
    cyclical = TrainerOptions(num_epoch=40_000, kl_anneal_cycle=4, kl_anneal_ratio=0.5)
    beta = plots.schedule_table(cyclical)["beta"]
    at = [0, 2_500, 5_000, 9_999, 10_000, 12_500, 20_000, 39_999]
    assert beta[at].tolist() == [0, 0.5, 1, 1, 0, 0.5, 0, 1]
    figure = plots.fu_figure()
    check_layout(figure)
    first, second = lines(figure, "beta")
    assert first.get_ydata()[5_000] == 0.5
    np.testing.assert_array_equal(second.get_ydata(), beta)
    assert figure.axes[1].get_xlabel() == "iteration"
    assert {"Monotonic, ratio 0.25", "Cyclical, 4 cycles, ratio 0.5"} <= set(texts(figure))


def test_schedules_of_any_options() -> None:
    options = TrainerOptions(
        num_epoch=12, tfr=0.9, tfr_sde=3, tfr_d_step=0.2, lr_scheduler="multistep", seed=5
    )
    options.lr_milestones = (4, 8)
    table = plots.schedule_table(options)
    assert table["tfr"].tolist() == [0.9, 0.9, 0.9, 0.7, 0.5, 0.3, 0.1, 0, 0, 0, 0, 0]
    np.testing.assert_allclose(table["lr"], [1e-3] * 4 + [1e-4] * 4 + [1e-5] * 4)
    drawn = [teacher_forcing_drawn(5, e, ratio) for e, ratio in enumerate(table["tfr"])]
    assert table["tf_active"].astype(bool).tolist() == drawn
    figure = plots.schedules_figure(options)
    check_layout(figure)
    assert f"TF on, drawn with seed 5: {sum(drawn)} of 12" in texts(figure)
    for name in ("beta", "tfr", "lr"):
        np.testing.assert_array_equal(line(figure, name).get_ydata(), table[name])


# ----------------------------------------------------------------------------------------
# Command line


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "modules.plots", *map(str, arguments)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )


def test_commands_as_a_user_types_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, other = make_run(tmp_path / "run"), make_run(tmp_path / "b", options={"lr": 0.01})
    done = command("compare", run, other, "--out", tmp_path / "new" / "out")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"wrote {tmp_path / 'new' / 'out' / 'summary.md'}" in done.stdout
    call(monkeypatch, "curves", run, other)
    printed = f"wrote {run / 'curves.png'}\nwrote {other / 'curves.png'}\n"
    assert capsys.readouterr().out == printed
    (run / "psnr_per_frame.png").write_bytes(b"with pictures")
    call(monkeypatch, "frames", run)
    assert colours(run / "psnr_per_frame_curve.png") > 20
    assert (run / "psnr_per_frame.png").read_bytes() == b"with pictures"


def call(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["plots.py", *map(str, arguments)])
    plots.main()


def test_schedules_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "s.png"
    call(monkeypatch, "schedules", "--num_epoch", 20, "--kl_anneal_cycle", 4, "--out", out)
    assert capsys.readouterr().out == f"wrote {out}\n"
    assert colours(out) > 20
    call(monkeypatch, "schedules", "--lr_gamma", 0.5, "--detector_patience", 3, "--out", out)
    printed = capsys.readouterr().out
    assert "--lr_gamma has no effect" in printed and "detector" in printed
    call(monkeypatch, "schedules", "--fu_figure", "--out", out)
    for wrong in (["--fu_figure", "--lr", 1], ["--out", "x.jpg"], ["--tfr", 2], ["--lrr", 1]):
        with pytest.raises(UserError):
            call(monkeypatch, "schedules", *wrong)


def test_mistakes_end_with_one_line(tmp_path: Path) -> None:
    empty = make_run(tmp_path / "empty")
    (empty / "metrics.csv").write_text("")
    cases: list[tuple[tuple[object, ...], str]] = [
        (("curves", tmp_path / "missing"), "missing: there is no such folder"),
        (("compare", empty, "--out", tmp_path / "out"), "metrics.csv: is empty"),
        (("schedules", "--num_epochs", 5), "unrecognized arguments: --num_epochs"),
    ]
    with ThreadPoolExecutor() as pool:
        results = pool.map(lambda case: command(*case[0]), cases)
    for done, (_, said) in zip(results, cases, strict=True):
        assert done.returncode == 2
        assert done.stderr.startswith("error: ") and said in done.stderr
        assert done.stderr.count("\n") == 1 and not done.stdout


def test_faults_of_a_run_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    header = ",".join(METRIC_COLUMNS)
    run = make_run(tmp_path / "run")
    for content, said in (
        (header + "\n", "no rows"),
        ("epoch,val_psnr\n0,20\n", "lacks the columns"),
        (header + "\n" + ",".join(["x"] * len(METRIC_COLUMNS)) + "\n", "no table of numbers"),
        (header + "\n" + "," * (len(METRIC_COLUMNS) - 1) + "\n", "number of its epoch"),
    ):
        (run / "metrics.csv").write_text(content)
        with pytest.raises(UserError, match=rf"metrics\.csv: .*{said}"):
            call(monkeypatch, "curves", run)
    (run / "metrics.csv").write_bytes(b"\xff\xfe\x00binary")
    with pytest.raises(UserError, match=r"metrics\.csv"):
        call(monkeypatch, "curves", run)
    (run / "metrics.csv").unlink()
    with pytest.raises(UserError, match=r"metrics\.csv: missing"):
        call(monkeypatch, "curves", run)
    good = make_run(tmp_path / "good")
    (good / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json"):
        call(monkeypatch, "curves", good)
    (good / "psnr_per_frame.csv").write_text("frame,psnr\n")
    with pytest.raises(UserError, match=r"psnr_per_frame\.csv: has no rows"):
        call(monkeypatch, "frames", good)
    (good / "psnr_per_frame.csv").unlink()
    with pytest.raises(UserError, match=r"psnr_per_frame\.csv: missing"):
        call(monkeypatch, "frames", good)
    (tmp_path / "file").write_text("")
    other = make_run(tmp_path / "other")
    with pytest.raises(UserError, match="file"):
        call(monkeypatch, "compare", other, "--out", tmp_path / "file")
    with pytest.raises(UserError, match="--out"):
        call(monkeypatch, "compare", other)
    with pytest.raises(UserError):
        call(monkeypatch, "draw", other)


def test_drawing_in_two_threads(tmp_path: Path) -> None:
    folders = [make_run(tmp_path / name) for name in "ab"]
    threads = [threading.Thread(target=plots.draw_curves, args=(folder,)) for folder in folders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(colours(folder / "curves.png") > 20 for folder in folders)


# ----------------------------------------------------------------------------------------
# latent.png


def test_latent_figure_shows_the_diagnostics(tmp_path: Path) -> None:
    values = {
        epoch: {"train_kl": 50.0 + epoch, "active_dims": 3 * epoch, "sigma": 0.1 / (epoch + 1)}
        for epoch in range(10)
    }
    run = runs.load_run(make_run(tmp_path / "run", rows=values))
    figure = plots.latent_figure(run)
    for name in ("train_kl", "active_dims", "sigma"):
        np.testing.assert_array_equal(line(figure, name).get_ydata(), run.metrics[name])
    assert not lines(figure, "train_loss")
    check_layout(figure)
    path = plots.draw_curves(run.folder)
    assert colours(path.with_name("latent.png")) > 20


def test_likelihoods_are_not_drawn_among_mean_square_errors(tmp_path: Path) -> None:
    rows = {epoch: {"train_loss": -3.0 - epoch / 10} for epoch in range(10)}
    folder = make_run(tmp_path / "run", options={"recon": "sigma"}, rows=rows)
    assert not lines(figure_of(folder), "train_loss")
    assert lines(figure_of(make_run(tmp_path / "mse")), "train_loss")  # the control
    figure = plots.latent_figure(runs.load_run(folder))
    assert line(figure, "train_loss").get_ydata().tolist() == [-3.0 - e / 10 for e in range(10)]
    check_layout(figure)


def test_runs_of_earlier_versions_have_no_diagnostics(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    table = [row.split(",") for row in (folder / "metrics.csv").read_text().splitlines()]
    (folder / "metrics.csv").write_text("".join(",".join(row[:14]) + "\n" for row in table))
    assert runs.load_run(folder).metrics["val_ssim"].tolist() == pytest.approx(
        [math.nan] * 10, nan_ok=True
    )
    plots.draw_curves(folder)
    assert not (folder / "latent.png").exists()
