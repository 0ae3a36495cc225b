"""Comparing runs: labels, the summary table, the overlaid figures."""

import csv
import math
from pathlib import Path

import numpy as np
import pytest

from modules.figures.compare import (
    COMPARISONS,
    RUN_STYLES,
    VIEWS,
    common_baselines,
    compare,
    comparison_figure,
    run_labels,
    summary_notes,
)
from modules.figures.runs import load_run
from modules.figures.style import PAGE
from modules.runtime.errors import UserError
from tests.support.drawn import BASELINES, check_layout, colours, make_run, set_parent


def labels_of(*folders: Path) -> list[str]:
    return run_labels([load_run(folder) for folder in folders])


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


def test_labels_of_many_runs_name_what_most_of_them_do_not_share(tmp_path: Path) -> None:
    changes = ({}, {"tfr": 0.0}, {"train_vi_len": 64}, {"kl_anneal_type": "None", "kl_beta": 0.0})
    folders = [make_run(tmp_path / str(i), options=change) for i, change in enumerate(changes)]
    assert labels_of(*folders) == [
        "0, with the settings of most",
        *("tfr=0", "train_vi_len=64", "kl_anneal_type=None, kl_beta=0"),
    ]
    # Where no value is that of more than half, all are named.
    assert labels_of(folders[0], folders[2]) == ["train_vi_len=16", "train_vi_len=64"]


def test_data_roots_are_told_apart_by_as_little_as_will_do(tmp_path: Path) -> None:
    roots = ("/data/a/dance", "/data/b/dance", "/data/b/walk")
    a, b, walk = (make_run(tmp_path / str(i), options={"DR": root}) for i, root in enumerate(roots))
    assert labels_of(a, b) == ["data=a/dance", "data=b/dance"]
    assert labels_of(a, walk) == ["data=dance", "data=walk"]


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
    monkeypatch.setattr("modules.figures.compare.COMPARISONS", {name: COMPARISONS[name]})


def test_summary_is_best_first(
    three: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_figure(monkeypatch, "validation_loss")
    printed = compare(three, tmp_path / "out")
    with (tmp_path / "out" / "summary.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [row["run"] for row in table] == ["best", "middling", "worst"]
    for name in ("KL annealing", "teacher forcing", "train_vi_len", "epochs", "best epoch"):
        assert name in table[0]
    metrics = load_run(three[2]).metrics["val_psnr"]
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
    assert rows[2][1] == f"{metrics.max():.2f}"
    assert len({len(row) for row in rows}) == 1
    for said in ("different lengths, in epochs: middling 10, worst 4, best 30", "4 of its 10"):
        assert said in text
        assert any(said in line for line in printed)


def test_overlaid_figures(three: list[Path]) -> None:
    runs = [load_run(folder) for folder in three]
    figure = comparison_figure("training_loss", runs)
    check_layout(figure)
    for axes, name in zip(figure.axes, ("train_mse", "train_kl", "train_loss"), strict=True):
        assert [each.get_gid() for each in axes.lines] == [name] * 3
        for each, run in zip(axes.lines, runs, strict=True):
            np.testing.assert_array_equal(each.get_ydata(), run.metrics[name])
        assert len({each.get_color() for each in axes.lines}) == 3
        assert len({each.get_marker() for each in axes.lines}) == 3
    assert [axes.get_ylabel() for axes in figure.axes][1] == "KL (nats)"
    assert len({str(style) for style in RUN_STYLES}) == 4
    entries = [
        text.get_text().replace("\n", " ")
        for legend in figure.legends
        for text in legend.get_texts()
    ]
    assert entries == run_labels(runs)  # in the order that was asked for

    named = comparison_figure("training_loss", runs, by_name=True)
    texts = [text.get_text() for legend in named.legends for text in legend.get_texts()]
    assert texts == [run.name for run in runs] != entries

    figure = comparison_figure("psnr", runs)
    check_layout(figure)
    by_time = figure.axes[1]
    assert by_time.get_xlabel() == "training time (min)"
    curves = [each for each in by_time.lines if each.get_gid() == "val_psnr"]
    np.testing.assert_allclose(curves[1].get_xdata(), [0.5, 1.0, 1.5, 2.0])
    figure = comparison_figure("overview", runs)
    check_layout(figure, PAGE)
    assert len(figure.axes) == len(VIEWS) == 9
    figure = comparison_figure("psnr_per_frame", runs)
    assert [each.get_xdata().tolist() for each in figure.axes[0].lines] == [list(range(1, 41))] * 3


def test_baselines_that_the_runs_share(tmp_path: Path) -> None:
    earlier = {name: value for name, value in BASELINES.items() if name != "nearest_pose"}
    other_data = {**BASELINES, "first_frame": 9.0}
    new, old, other = (
        load_run(make_run(tmp_path / name, baselines=values))
        for name, values in (
            ("n", BASELINES),
            ("o", earlier),
            ("x", other_data),
        )
    )
    assert common_baselines([new, new]) == BASELINES
    assert "mean-frame 22.73 dB, nearest-pose 23.50 dB." in summary_notes([new, new])[-1]
    assert common_baselines([new, old]) == common_baselines([old, new]) == earlier
    assert "mean-frame 22.73 dB." in summary_notes([old, new])[-1]
    for runs in ([new], [old, new]):
        drawn = {each.get_gid() for each in comparison_figure("psnr", runs).axes[0].lines}
        assert drawn & BASELINES.keys() == common_baselines(runs).keys()
    # Other data, or a run without any.
    assert common_baselines([new, other]) == common_baselines([old, other]) == {}
    assert common_baselines([new, load_run(make_run(tmp_path / "y", baselines=None))]) == {}


def test_compare_runs_that_lack_something(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, bare = make_run(tmp_path / "whole"), make_run(tmp_path / "bare")
    (bare / "config.json").unlink()
    (bare / "psnr_per_frame.csv").unlink()
    never = dict.fromkeys(("val_psnr", "val_loss"), math.nan)
    nan = make_run(tmp_path / "nan", 3, rows=dict.fromkeys(range(3), never), broken=(1,))
    elsewhere = make_run(tmp_path / "other", options={"DR": "/data/other"})
    printed = "\n".join(compare([nan, bare, whole, elsewhere], tmp_path / "out"))
    for said in (
        "bare has no config.json",
        "nan: no validation gave a number",
        "nan: 7 sequences were skipped",
        f"without psnr_per_frame.csv: {bare}",
        "different data roots: nan data, bare ?, whole data, other other.",
    ):
        assert said in printed
    rows = (tmp_path / "out" / "summary.csv").read_text().splitlines()
    assert rows[-1].startswith("nan,,")  # without a number it is last, whatever its place
    names = {f"{name}.png" for name in COMPARISONS} | {"summary.md", "summary.csv"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    assert all(colours(path) > 20 for path in (tmp_path / "out").glob("*.png"))
    one_figure(monkeypatch, "psnr_per_frame")
    compare([bare], tmp_path / "one")
    assert {path.name for path in (tmp_path / "one").iterdir()} == {"summary.md", "summary.csv"}
    with pytest.raises(UserError, match="given twice"):
        compare([whole, tmp_path / "nan" / ".." / "whole"], tmp_path / "two")
