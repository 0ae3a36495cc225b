"""The figures: what is drawn in them, not their pixels; the pictures; the command line."""

import csv
import gc
import itertools
import json
import math
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from modules import plots
from modules.errors import UserError
from modules.options import TrainerOptions
from modules.runlog import METRIC_COLUMNS, append_metrics, write_config, write_psnr_per_frame
from modules.schedules import teacher_forcing_drawn

REPOSITORY = Path(__file__).resolve().parents[1]
BASELINES = {"first_frame": 20.26, "mean_train_frame": 22.73}
OPTIONS: dict[str, Any] = {
    "DR": "data",
    "num_epoch": 10,
    "train_vi_len": 16,
    "val_vi_len": 630,
    "lr": 0.001,
    "lr_scheduler": "constant",
    "lr_milestones": [5, 7],
    "seed": 0,
    "tfr": 1.0,
    "tfr_sde": 2,
    "tfr_d_step": 0.1,
    "detector_patience": 0,
    "kl_anneal_type": "Cyclical",
    "kl_anneal_cycle": 10,
    "kl_anneal_ratio": 1.0,
    "kl_beta": 1.0,
    "num_workers": 2,
}


def make_run(
    folder: Path,
    epochs: int = 10,
    *,
    options: dict[str, Any] | None = None,
    broken: tuple[int, ...] = (),
    rows: dict[int, dict[str, float]] | None = None,
    psnr: float = 25.0,
    **config: Any,
) -> Path:
    """A run's folder. broken: epochs without a finite sequence; rows: values that differ."""
    folder.mkdir(parents=True)
    settings = {**OPTIONS, "num_epoch": epochs, "save_root": str(folder), **(options or {})}
    write_config(folder / "config.json", {"options": settings, "baselines": BASELINES, **config})
    rng = np.random.default_rng(epochs)
    lines = []
    for epoch in range(epochs):
        score = psnr - 6 * math.exp(-epoch / 4) + 0.1 * rng.normal()
        mse = 10 ** (-(score + 3) / 10)
        row = dict.fromkeys(METRIC_COLUMNS, 0.0) | {"epoch": epoch, "seconds": 30.0, "lr": 0.001}
        row |= {"train_mse": mse, "train_kl": 50.0, "train_loss": mse + 0.01, "beta": epoch % 5 / 5}
        row |= {"train_psnr": score + 3, "val_psnr": score, "val_loss": 10 ** (-score / 10)}
        row |= {"tfr": max(0.0, 1 - epoch / 10), "tf_active": int(epoch % 3 != 2)}
        if epoch in broken:
            names = ("train_loss", "train_mse", "train_kl", "train_psnr")
            row |= {**dict.fromkeys(names, math.nan), "skipped": 7}
        row |= (rows or {}).get(epoch, {})
        if epoch == 0:
            append_metrics(folder / "metrics.csv", row)  # the real writer's format
        else:
            lines.append(",".join(repr(row[name]) for name in METRIC_COLUMNS) + "\n")
    with (folder / "metrics.csv").open("a") as file:
        file.writelines(lines)
    write_psnr_per_frame(folder / "psnr_per_frame.csv", psnr + rng.normal(size=40))
    return folder


def figure_of(folder: Path) -> Figure:
    return plots.curves_figure(plots.load_run(folder))


def lines(figure: Figure, name: str) -> list[Any]:
    """The figure's lines that show these numbers, in the order of drawing."""
    return [line for axes in figure.axes for line in axes.lines if line.get_gid() == name]


def line(figure: Figure, name: str) -> Any:
    (found,) = lines(figure, name)
    return found


def texts(figure: Figure) -> list[str]:
    """Everything that is written in a figure."""
    figure.canvas.draw()
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def check_layout(figure: Figure, width: float = plots.COLUMN) -> None:
    """The figure has its width, nothing sticks out of it, no text is smaller than 7 pt."""
    assert figure.get_figwidth() * 2.54 == pytest.approx(width)
    assert all(text.get_fontsize() >= 7 for text in figure.findobj(Text) if text.get_text())
    box = figure.get_tightbbox()
    assert box is not None
    assert box.x0 >= 0 and box.y0 >= 0
    assert box.x1 <= figure.get_figwidth() and box.y1 <= figure.get_figheight()


def colours(path: Path) -> int:
    """Number of distinct colours of an image file."""
    with Image.open(path) as image:
        found = image.convert("RGB").getcolors(maxcolors=2**24)
    return len(found)


# ----------------------------------------------------------------------------------------
# curves.png


def test_curves_show_the_columns_of_metrics_csv(tmp_path: Path) -> None:
    run = plots.load_run(make_run(tmp_path / "run"))
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
        assert image.width == pytest.approx(plots.COLUMN / 2.54 * plots.DPI, abs=1)
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


def set_parent(child: Path, parent: Path | None, epoch: int) -> None:
    config = json.loads((child / "config.json").read_text())
    config["parent"] = {
        "ckpt_path": "best.ckpt",
        "run": None if parent is None else str(parent),
        "epoch": epoch,
    }
    (child / "config.json").write_text(json.dumps(config))


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
    np.testing.assert_array_equal(first.get_ydata(), plots.load_run(old).metrics["val_psnr"][:6])
    assert first.get_alpha() < 1 and own.get_alpha() is None
    marks = [each.get_xdata()[0] for each in lines(figure, "took over")]
    assert sorted(set(marks)) == [5.5, 9.5] and len(marks) == 8  # in each of the four panels
    best = int(np.argmax(plots.load_run(young).metrics["val_psnr"]))
    assert line(figure, "best").get_label().endswith(f"epoch {10 + best} (own {best})")
    assert "parent" in figure.axes[3].get_xlabel() and "o → m" in figure.axes[3].get_xlabel()
    check_layout(figure)
    assert "parent" not in figure_of(old).axes[3].get_xlabel()


def test_lineage_that_cannot_be_followed(tmp_path: Path) -> None:
    a, b = make_run(tmp_path / "a", 4), make_run(tmp_path / "b", 4)
    set_parent(b, tmp_path / "gone", 2)
    assert [part.shift for part in plots.lineage(plots.load_run(b))] == [0]
    set_parent(b, None, 2)
    assert len(plots.lineage(plots.load_run(b))) == 1
    set_parent(b, Path("/elsewhere/a"), 2)  # both were moved: found beside it
    assert [part.shift for part in plots.lineage(plots.load_run(b))] == [0, 3]
    set_parent(a, b, 1)
    set_parent(b, a, 2)  # each is the other's parent
    assert [part.run.name for part in plots.lineage(plots.load_run(a))] == ["b", "a"]
    set_parent(a, a, 1)
    assert len(plots.lineage(plots.load_run(a))) == 1


def test_names_are_no_formulas(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    folder = make_run(tmp_path / "a$\\frac{$ 舞")
    assert colours(plots.draw_curves(folder)) > 20
    runs = [plots.load_run(each) for each in (folder, make_run(tmp_path / "_b"))]
    figure = plots.comparison_figure("validation_loss", runs)
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
        lambda: plots.write_gif(folder / "a.gif", frames),
        lambda: plots.write_comparison_gif(folder / "b.gif", frames, frames, frames),
        lambda: plots.write_sheet(folder / "c.png", frames, frames, frames),
        lambda: plots.draw_psnr_per_frame(folder / "d.png", np.ones(3)),
    ):
        with pytest.raises(UserError, match="No space"):
            write()
    names = {"config.json", "curves.png", "metrics.csv", "psnr_per_frame.csv"}
    assert {path.name for path in folder.iterdir()} == names
    assert (folder / "curves.png").read_bytes() == before


# ----------------------------------------------------------------------------------------
# psnr_per_frame.png


def dips(n: int = 600, *places: tuple[int, float]) -> np.ndarray:
    """A curve of 30 dB with dips of a given depth around frames."""
    frames = np.arange(1, n + 1)
    return 30.0 - sum(depth * np.exp(-(((frames - at) / 12) ** 2)) for at, depth in places)


def test_lowest_stretches_of_a_hand_made_curve() -> None:
    curve = dips(600, (100, 4.0), (250, 8.0), (400, 2.0), (550, 6.0))
    stretches = plots.lowest_stretches(curve)
    assert [stretch.lowest for stretch in stretches] == [250, 550, 100]  # lowest first, 400 not
    for start, stop, lowest in stretches:
        assert 1 <= start <= lowest < stop <= 601
        assert stop - start == 15
    assert stretches == plots.lowest_stretches(curve.copy())
    # Negative control: without the deepest dip, the fourth one is marked.
    others = dips(600, (100, 4.0), (400, 2.0), (550, 6.0))
    assert [stretch.lowest for stretch in plots.lowest_stretches(others)] == [550, 100, 400]


def test_a_short_deep_dip_is_found_beside_long_shallow_ones() -> None:
    curve = dips(629, (80, 3.0), (250, 2.0), (440, 2.0), (590, 2.5))
    curve[495:503] -= 5.0
    assert {stretch.lowest for stretch in plots.lowest_stretches(curve)} & set(range(496, 504))


def test_lowest_stretches_do_not_overlap() -> None:
    rng = np.random.default_rng(0)
    for n in (2, 5, 20, 61, 629, 5000):
        stretches = sorted(plots.lowest_stretches(28 + rng.normal(size=n)))
        assert 1 <= len(stretches) <= 3
        assert all(a.stop < b.start for a, b in itertools.pairwise(stretches))
    assert len(plots.lowest_stretches(28 + rng.normal(size=629))) == 3
    assert len(plots.lowest_stretches(np.array([20.0]))) == 1
    assert len(plots.lowest_stretches(np.full(100, 25.0))) <= 1
    assert plots.lowest_stretches(np.full(100, math.nan)) == []


def test_lowest_stretches_leave_out_missing_values() -> None:
    curve = dips(600, (100, 4.0), (250, 8.0), (550, 6.0))
    curve[200:300] = math.nan
    lowest = [stretch.lowest for stretch in plots.lowest_stretches(curve)]
    assert lowest[:2] == [550, 100]
    assert all(np.isfinite(curve[frame - 1]) for frame in lowest)


def video(frames: int, height: int = 8, width: int = 12, seed: int = 0) -> np.ndarray:
    shape = (frames, height, width, 3)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def test_psnr_per_frame_with_pictures(tmp_path: Path) -> None:
    curve = dips(400, (60, 4.0), (180, 8.0), (300, 6.0))
    pictures = {name: video(401, seed=i) for i, name in enumerate(("label", "truth", "prediction"))}
    figure = plots.psnr_per_frame_figure(curve, title_prefix="Validation", pictures=pictures)
    written = texts(figure)
    assert f"Validation PSNR per frame, average {curve.mean():.2f} dB" in written
    assert line(figure, "psnr").get_xdata().tolist() == list(range(1, 401))
    assert [each.get_xdata()[0] for each in lines(figure, "lowest")] == [180, 300, 60]
    shown = {axes.get_gid(): axes.images[0] for axes in figure.axes if axes.images}
    assert list(shown) == [f"{name} {t}" for t in (180, 300, 60) for name in pictures]
    for name, frames in pictures.items():
        image = shown[f"{name} 300"]
        np.testing.assert_array_equal(image.get_array(), frames[300])
        assert image.get_interpolation() == "nearest"
    assert f"1: frame\n180\n{curve[179]:.2f} dB" in written
    check_layout(figure)
    out = plots.draw_psnr_per_frame(
        tmp_path / "p.png", curve, labels=pictures["label"], prediction=pictures["prediction"]
    )
    assert colours(out) > 100


@pytest.mark.parametrize("frames", [2, 5, 3001])
def test_psnr_per_frame_of_any_length(tmp_path: Path, frames: int) -> None:
    curve = 25 + np.random.default_rng(1).normal(size=frames - 1)
    figure = plots.psnr_per_frame_figure(curve)
    check_layout(figure)
    assert figure.axes[0].get_xlabel() == "frame"
    assert texts(figure)[0]
    assert colours(plots.draw_psnr_per_frame(tmp_path / "p.png", curve)) > 5


def test_psnr_per_frame_with_missing_values_claims_no_average() -> None:
    curve = dips(100, (50, 5.0))
    assert not lines(plots.psnr_per_frame_figure(curve), "missing")
    curve[10:13] = math.nan
    figure = plots.psnr_per_frame_figure(curve, title_prefix="Validation ")
    title = next(text for text in texts(figure) if text.startswith("Validation"))
    assert title.startswith("Validation PSNR per frame, no average:\n3 of 100 frames")
    assert line(figure, "missing").get_xdata().tolist() == [11, 12, 13]
    assert not lines(figure, "average")
    plots.psnr_per_frame_figure(np.full(5, math.nan))


def test_psnr_per_frame_refuses_other_shapes(tmp_path: Path) -> None:
    out = tmp_path / "p.png"
    for psnr, pictures in (
        (np.ones((3, 2)), {}),
        (np.ones(0), {}),
        (np.ones(9), {"labels": video(9)}),
        (np.ones(9), {"truth": video(10), "prediction": video(10, width=4)}),
        (np.ones(9), {"truth": video(10).astype(float)}),
    ):
        with pytest.raises(ValueError):
            plots.draw_psnr_per_frame(out, psnr, **pictures)
    assert not out.exists()


# ----------------------------------------------------------------------------------------
# GIFs and contact sheet


def gif_frames(path: Path) -> tuple[np.ndarray, list[int]]:
    """Frames (T, H, W, 3) as a viewer shows them, and their durations in ms."""
    frames, durations = [], []
    with Image.open(path) as image:
        for t in range(image.n_frames):
            image.seek(t)
            frames.append(np.asarray(image.convert("RGB")))
            durations.append(image.info["duration"])
    return np.stack(frames), durations


def moving_square(frames: int, noise: float = 0.0) -> np.ndarray:
    """A red square on a grey gradient, with a sensor's noise."""
    rng = np.random.default_rng(0)
    pictures = np.tile(np.linspace(60, 200, 64), (frames, 32, 1))[..., None].repeat(3, axis=3)
    for t in range(frames):
        pictures[t, 10:20, t % 54 : t % 54 + 10] = (200, 30, 30)
    return np.clip(pictures + noise * rng.normal(size=pictures.shape), 0, 255).astype(np.uint8)


def test_comparison_gif(tmp_path: Path) -> None:
    truth = moving_square(30)
    labels, prediction = truth[..., ::-1].copy(), truth[:, :, ::-1].copy()
    path = plots.write_comparison_gif(tmp_path / "val.gif", labels, truth, prediction, fps=15)
    frames, durations = gif_frames(path)
    assert len(frames) == 30
    assert sum(durations) == 2000 and set(durations) == {60, 70}  # hundredths of a second
    bar = frames.shape[1] - 128
    assert frames.shape[2] == 3 * 256 + 2 * 4 and 10 < bar < 30
    for column, pictures in enumerate((labels, truth, prediction)):
        panel = frames[:, bar:, column * 260 : column * 260 + 256]
        np.testing.assert_array_equal(panel, panel[:, ::4, ::4].repeat(4, 1).repeat(4, 2))
        error = panel[:, ::4, ::4].astype(int) - pictures
        assert np.abs(error).max() <= 16, column
    assert (frames[:, bar:, 256:260] == 255).all()  # the separators
    captions = frames[:, :bar]
    assert all((captions[t] != captions[t + 1]).any() for t in range(29))  # the frame's number
    assert (captions[3][:, 260:] == captions[4][:, 260:]).all()
    narrow, _ = gif_frames(plots.write_comparison_gif(path, labels, None, prediction, scale=2))
    assert narrow.shape[1:] == (64 + bar, 2 * 128 + 4, 3)


def test_gifs_keep_every_frame(tmp_path: Path) -> None:
    equal = video(1).repeat(40, axis=0)
    equal[20:23] = 255 - equal[0]
    frames, durations = gif_frames(plots.write_gif(tmp_path / "a.gif", equal, fps=20, scale=3))
    assert frames.shape == (40, 24, 36, 3) and durations == [50] * 40
    np.testing.assert_array_equal(frames[0], frames[19])
    np.testing.assert_array_equal(frames[20], frames[22])
    assert np.abs(frames[:, ::3, ::3].astype(int) - equal).max() <= 16
    # Negative control: written the plain way, equal frames become one.
    pictures = [Image.fromarray(frame) for frame in equal]
    pictures[0].save(tmp_path / "b.gif", save_all=True, append_images=pictures[1:], duration=50)
    with Image.open(tmp_path / "b.gif") as image:
        assert image.n_frames < 40
    assert len(gif_frames(plots.write_gif(tmp_path / "c.gif", equal[:1]))[0]) == 1
    path = plots.write_comparison_gif(tmp_path / "d.gif", equal, equal, equal)
    assert len(gif_frames(path)[0]) == 40


def test_comparison_gif_of_a_whole_validation_video_stays_small(tmp_path: Path) -> None:
    truth, prediction = moving_square(630, noise=1.0), moving_square(630, noise=3.0)
    path = plots.write_comparison_gif(tmp_path / "val.gif", moving_square(630), truth, prediction)
    assert path.stat().st_size < 6e6
    with Image.open(path) as image:
        assert image.n_frames == 630


def test_sheet_shows_exact_pixels(tmp_path: Path) -> None:
    labels, truth, prediction = (video(50, 32, 64, seed) for seed in range(3))
    path = plots.write_sheet(
        tmp_path / "s.png", labels, truth, prediction, np.linspace(20, 30, 49), columns=4
    )
    with Image.open(path) as image:
        sheet = np.asarray(image)
    found = []
    for pictures in (labels, truth, prediction):
        for t in (0, 16, 33, 49):
            big = pictures[t].repeat(4, 0).repeat(4, 1)
            corners = np.argwhere((sheet[:, :, :] == big[0, 0]).all(axis=2))
            places = [
                (y, x)
                for y, x in corners
                if sheet[y : y + 128, x : x + 256].shape == big.shape
                and (sheet[y : y + 128, x : x + 256] == big).all()
            ]
            assert len(places) == 1, t
            found.append(places[0])
    rows, columns = [y for y, _ in found[::4]], [x for _, x in found[:4]]
    assert rows == sorted(rows) and columns == sorted(columns)
    assert all(y == found[i // 4 * 4][0] for i, (y, _) in enumerate(found))
    few = plots.write_sheet(tmp_path / "few.png", labels[:3], None, prediction[:3])
    with Image.open(few) as image:
        assert image.width < sheet.shape[1]


def test_pictures_refuse_other_shapes_and_values(tmp_path: Path) -> None:
    good, out = video(5), tmp_path / "x"
    too_bright = good.astype(np.int64) + 4  # as uint8 this would wrap around to black
    for bad in (too_bright, good / 255.0, good[0], good[..., :1], good[:0], good.tolist()):
        for write in (
            lambda bad=bad: plots.write_gif(out, bad),
            lambda bad=bad: plots.write_comparison_gif(out, good, bad, good),
            lambda bad=bad: plots.write_sheet(out, good, good, bad),
        ):
            with pytest.raises(ValueError):
                write()
    for write in (
        lambda: plots.write_comparison_gif(out, good, good[:4], good),
        lambda: plots.write_sheet(out, good, good, good, np.ones(5)),
        lambda: plots.write_sheet(out, good, good, good, columns=0),
        lambda: plots.write_gif(out, good, fps=0),
        lambda: plots.write_gif(out, good, fps=90),
        lambda: plots.write_gif(out, good, scale=0),
    ):
        with pytest.raises(ValueError):
            write()
    assert not list(tmp_path.iterdir())


# ----------------------------------------------------------------------------------------
# compare


def labels_of(*folders: Path) -> list[str]:
    return plots.run_labels([plots.load_run(folder) for folder in folders])


def test_labels_say_just_what_differs(tmp_path: Path) -> None:
    a = make_run(tmp_path / "a")
    assert labels_of(a, make_run(tmp_path / "b", options={"tfr": 0.0})) == ["tfr=1", "tfr=0"]
    # Options without effect here, bookkeeping, and where the run was kept, are no difference.
    same = {"num_workers": 8, "DR": f"{Path.cwd()}/data", "lr_milestones": [1], "per_save": 9}
    assert labels_of(a, make_run(tmp_path / "c", options=same)) == ["a", "c"]
    # Negative control: the same option where it has an effect.
    steps = {"lr_scheduler": "multistep", "lr_milestones": [1]}
    d, e = (
        make_run(tmp_path / n, options={**steps, "lr_milestones": [m]}) for n, m in ("d1", "e2")
    )
    assert labels_of(d, e) == ["lr_milestones=1", "lr_milestones=2"]
    assert labels_of(a, d) == ["lr_scheduler=constant", "lr_scheduler=multistep"]
    cyclical, none = (
        {"kl_anneal_type": k, "kl_beta": b} for k, b in (("Cyclical", 1), ("None", 0))
    )
    f, g = make_run(tmp_path / "f", options=cyclical), make_run(tmp_path / "g", options=none)
    assert labels_of(f, g) == [
        *("kl_anneal_type=Cyclical, kl_beta=1", "kl_anneal_type=None, kl_beta=0"),
    ]


def test_labels_are_unique(tmp_path: Path) -> None:
    folders = [make_run(tmp_path / n, options={"tfr": t}) for n, t in (("x/a", 1), ("y/a", 1))]
    other = make_run(tmp_path / "z", options={"tfr": 0.5})
    assert labels_of(*folders) == [f"a ({folder})" for folder in folders]
    labels = labels_of(*folders, other)
    assert len(set(labels)) == 3 and labels[2] == "tfr=0.5"
    child = make_run(tmp_path / "child")
    set_parent(child, other, 7)
    assert labels_of(make_run(tmp_path / "b"), child) == [
        "from scratch",
        "fine-tuned from z, epoch 7",
    ]


@pytest.fixture
def three(tmp_path: Path) -> list[Path]:
    """Runs of different lengths, in an order that is not that of their results."""
    return [
        make_run(tmp_path / "middling", 10, psnr=25.0),
        make_run(tmp_path / "worst", 4, psnr=22.0, options={"tfr": 0.0, "num_epoch": 10}),
        make_run(tmp_path / "best", 30, psnr=28.0, options={"kl_anneal_type": "Monotonic"}),
    ]


def one_figure(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Let `compare` draw this figure alone, to save time."""
    monkeypatch.setattr(plots, "COMPARISONS", {name: plots.COMPARISONS[name]})


def test_summary_is_best_first(
    three: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_figure(monkeypatch, "validation_loss")
    printed = plots.compare(three, tmp_path / "out")
    with (tmp_path / "out" / "summary.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [row["run"] for row in table] == ["best", "middling", "worst"]
    for name in ("KL annealing", "teacher forcing", "train_vi_len", "epochs", "best epoch"):
        assert name in table[0]
    metrics = plots.load_run(three[2]).metrics["val_psnr"]
    assert float(table[0]["average PSNR (dB)"]) == pytest.approx(metrics.max(), abs=1e-4)
    assert int(table[0]["best epoch"]) == metrics.argmax()
    assert float(table[0]["last PSNR (dB)"]) == pytest.approx(metrics[-1], abs=1e-4)
    early = table[0]["best of first 4 epochs (dB)"]
    assert float(early) == pytest.approx(metrics[:4].max(), abs=1e-4)
    assert [row["epochs"] for row in table] == ["30", "10", "4"]
    assert (
        table[0]["KL annealing"] == "Monotonic, ratio 1" and table[2]["teacher forcing"] == "none"
    )
    text = (tmp_path / "out" / "summary.md").read_text()
    rows = [row.split(" | ") for row in text.splitlines() if row.startswith("|")]
    assert [row[0] for row in rows] == ["| run", "| ---", "| best", "| middling", "| worst"]
    assert rows[2][1] == f"{metrics.max():.2f} (epoch {metrics.argmax()})"
    assert len({len(row) for row in rows}) == 1
    for said in ("different lengths, in epochs: middling 10, worst 4, best 30", "4 of its 10"):
        assert said in text
        assert any(said in line for line in printed)


def test_overlaid_figures(three: list[Path]) -> None:
    runs = [plots.load_run(folder) for folder in three]
    figure = plots.comparison_figure("training_loss", runs)
    check_layout(figure)
    for axes, name in zip(figure.axes, ("train_mse", "train_kl", "train_loss"), strict=True):
        assert [each.get_gid() for each in axes.lines] == [name] * 3
        for each, run in zip(axes.lines, runs, strict=True):
            np.testing.assert_array_equal(each.get_ydata(), run.metrics[name])
        assert len({each.get_color() for each in axes.lines}) == 3
        assert len({each.get_marker() for each in axes.lines}) == 3
    assert [axes.get_ylabel() for axes in figure.axes][1] == "KL (nats)"
    assert len({str(style) for style in plots.RUN_STYLES}) == 4
    entries = [
        text.get_text().replace("\n", " ")
        for legend in figure.legends
        for text in legend.get_texts()
    ]
    assert entries == plots.run_labels(runs)  # in the order that was asked for

    figure = plots.comparison_figure("psnr", runs)
    check_layout(figure)
    by_time = figure.axes[1]
    assert by_time.get_xlabel() == "training time (min)"
    curves = [each for each in by_time.lines if each.get_gid() == "val_psnr"]
    np.testing.assert_allclose(curves[1].get_xdata(), [0.5, 1.0, 1.5, 2.0])
    figure = plots.comparison_figure("overview", runs)
    check_layout(figure, plots.PAGE)
    assert len(figure.axes) == 8
    figure = plots.comparison_figure("psnr_per_frame", runs)
    assert [each.get_xdata().tolist() for each in figure.axes[0].lines] == [list(range(1, 41))] * 3


def test_compare_runs_that_lack_something(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, bare = make_run(tmp_path / "whole"), make_run(tmp_path / "bare")
    (bare / "config.json").unlink()
    (bare / "psnr_per_frame.csv").unlink()
    never = dict.fromkeys(("val_psnr", "val_loss"), math.nan)
    nan = make_run(tmp_path / "nan", 3, rows=dict.fromkeys(range(3), never), broken=(1,))
    elsewhere = make_run(tmp_path / "other", options={"DR": "/data/other"})
    printed = "\n".join(plots.compare([nan, bare, whole, elsewhere], tmp_path / "out"))
    for said in (
        "bare has no config.json",
        "nan: no validation gave a number",
        "nan: 7 sequences were skipped",
        f"for want of its csv file: {bare}",
        "different data roots",
        "/data/other",
    ):
        assert said in printed
    rows = (tmp_path / "out" / "summary.csv").read_text().splitlines()
    assert rows[-1].startswith("nan,,")  # without a number it is last, whatever its place
    names = {f"{name}.png" for name in plots.COMPARISONS} | {"summary.md", "summary.csv"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    assert all(colours(path) > 20 for path in (tmp_path / "out").glob("*.png"))
    one_figure(monkeypatch, "psnr_per_frame")
    plots.compare([bare], tmp_path / "one")
    assert {path.name for path in (tmp_path / "one").iterdir()} == {"summary.md", "summary.csv"}
    with pytest.raises(UserError, match="named twice"):
        plots.compare([whole, tmp_path / "nan" / ".." / "whole"], tmp_path / "two")


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
