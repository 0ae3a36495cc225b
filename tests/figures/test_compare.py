"""Reading runs back, comparing them, and `python -m modules.plots`."""

import csv
import math
from pathlib import Path

import numpy as np
import pytest

from modules.figures import compare
from modules.figures.curves import draw_curves
from modules.figures.style import COLUMN, PAGE
from modules.runlog import METRIC_COLUMNS, Run, best_frames, lineage, load_run
from modules.runtime.errors import UserError
from tests.support.drawn import BASELINES, check_layout, colours, line, make_run, set_parent
from tests.support.scripts import done

COMPARE = ("modules/plots.py", "compare")

# ---------------------------------------------------------------- a run's folder


def test_a_run_is_what_it_wrote(tmp_path: Path) -> None:
    rows = {2: {"val_psnr": 31.5}, 5: {"val_psnr": 33.25}, 6: {"val_psnr": math.inf}}
    rows |= {0: {"val_psnr": math.nan}}
    folder = make_run(tmp_path / "dance", 8, rows=rows)
    run = load_run(folder)
    assert (run.best(), run.best(within=4), run.best(within=1)) == (5, 2, None)
    # The last rows may not be in the file yet, or another value of theirs.
    late = [{**dict.fromkeys(METRIC_COLUMNS, 0.0), "epoch": e, "val_psnr": 40 + e} for e in (7, 8)]
    psnr = load_run(folder, late).metrics["val_psnr"]
    assert psnr[[2, 5, 7, 8]].tolist() == [31.5, 33.25, 47, 48] and len(psnr) == 9
    (folder / "config.json").unlink()
    assert load_run(folder).options == {}
    (folder / "psnr_per_frame.csv").unlink()
    assert best_frames(run) is None
    path = folder / "metrics.csv"  # with the columns of earlier versions
    table = [row.split(",")[:14] for row in path.read_text().splitlines()]
    path.write_text("".join(f"{','.join(row)}\n" for row in table))
    assert np.isnan(load_run(folder).metrics["val_ssim"]).all()
    draw_curves(folder)
    assert [png.name for png in folder.glob("*.png")] == ["curves.png"]


def test_faults_of_metrics_are_named(tmp_path: Path) -> None:
    header = ",".join(METRIC_COLUMNS) + "\n"
    path = make_run(tmp_path / "run") / "metrics.csv"
    for content, said in (
        ("", "is empty"),
        ("epoch,val_psnr\n0,20\n", "lacks the columns train_loss, "),
        (header + "," * (len(METRIC_COLUMNS) - 1) + "\n", "has no rows"),  # a spreadsheet's
        (header + ",".join(["x"] * len(METRIC_COLUMNS)) + "\n", "not a table of numbers"),
        (None, "missing"),
    ):
        path.unlink() if content is None else path.write_text(content)
        with pytest.raises(UserError, match=rf"metrics\.csv: .*{said}"):
            load_run(path.parent)


def test_lineage_that_cannot_be_followed(tmp_path: Path) -> None:
    def starts(run: Path) -> list[tuple[str, int]]:
        return [(part.name, int(part.epochs[0])) for part in lineage(load_run(run))]

    a, b = make_run(tmp_path / "a", 4), make_run(tmp_path / "b", 4)
    set_parent(b, tmp_path / "gone", 2)
    assert starts(b) == [("b", 0)]
    set_parent(b, Path("/elsewhere/a"), 2)  # both were moved: found next to it
    assert starts(b) == [("a", 0), ("b", 3)]
    set_parent(a, b, 1)
    set_parent(b, a, 2)  # each is the other's parent
    assert starts(a) == [("b", 0), ("a", 2)]


# ---------------------------------------------------------------- several runs


def test_a_run_is_called_by_its_folder(tmp_path: Path) -> None:
    """Whatever it is compared with; but for one of the same name."""
    a, other, b, c = (make_run(tmp_path / name) for name in ("x/a", "y/a", "b", "x/c"))
    for folders, names in (((c, a, b), ["c", "a", "b"]), ((a, b, other), ["x/a", "b", "y/a"])):
        assert [*compare.named_runs([*map(load_run, folders)])] == names


def test_settings_that_differ(tmp_path: Path) -> None:
    def differing(*folders: Path) -> dict[str, list[str | None]]:
        return compare.differing_settings([load_run(folder) for folder in folders])

    a = make_run(tmp_path / "a")
    assert differing(a, make_run(tmp_path / "b", options={"tfr": 0.0})) == {"tfr": ["1", "0"]}
    # Options without effect here, bookkeeping, and where the run was kept, are no difference.
    same = {"num_workers": 8, "DR": f"{Path.cwd()}/data", "lr_milestones": [1], "per_save": 9}
    assert differing(a, make_run(tmp_path / "c", options=same)) == {}
    # Negative control: the same option where it has an effect.
    steps = {"lr_scheduler": "multistep", "lr_milestones": [1]}
    d, e = (
        make_run(tmp_path / n, options={**steps, "lr_milestones": [m]}) for n, m in ("d1", "e2")
    )
    assert differing(d, e) == {"lr_milestones": ["1", "2"]}
    child = make_run(tmp_path / "child")
    set_parent(child, d, 7)
    assert differing(a, child) == {"start": ["from scratch", "fine-tuned from d, epoch 7"]}
    roots = ("/data/a/dance", "/data/b/dance")
    one, two = (make_run(tmp_path / str(i), options={"DR": r}) for i, r in enumerate(roots))
    assert differing(one, two) == {"data": ["a/dance", "b/dance"]}


@pytest.fixture
def three(tmp_path: Path) -> list[Path]:
    """Runs of different lengths, in an order that is not that of their results."""
    return [
        make_run(tmp_path / "middling", 10, psnr=25.0),
        make_run(tmp_path / "worst", 4, psnr=22.0, options={"tfr": 0.0, "num_epoch": 10}),
        make_run(
            tmp_path / "best",
            30,
            psnr=28.0,
            rows={2: {"val_psnr": 26.0}},  # above its neighbours
            options={"kl_anneal_type": "Monotonic"},
        ),
    ]


def test_summary_is_best_first(
    three: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "new/out"
    monkeypatch.setattr(compare, "COMPARISONS", {"ssim": compare.COMPARISONS["ssim"]})
    printed = done(*COMPARE, *three, "--out", out)
    with (out / "summary.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [row["run"] for row in table] == ["best", "middling", "worst"]
    metrics = load_run(three[2]).metrics["val_psnr"]
    assert float(table[0]["average PSNR (dB)"]) == pytest.approx(metrics.max(), abs=1e-4)
    assert int(table[0]["best epoch"]) == metrics.argmax()
    assert float(table[0]["last PSNR (dB)"]) == pytest.approx(metrics[-1], abs=1e-4)
    early = table[0]["best of first 4 epochs (dB)"]
    assert float(early) == pytest.approx(metrics[:4].max(), abs=1e-4)
    assert [row["epochs"] for row in table] == ["30", "10", "4"]
    assert [row["minutes"] for row in table] == ["15.0000", "5.0000", "2.0000"]  # 30 s each
    assert table[0]["KL annealing"] == "Monotonic, ratio 1"
    assert table[2]["teacher forcing"] == "none"
    text = (out / "summary.md").read_text()
    rows = [row.split(" | ")[:2] for row in text.splitlines() if row.startswith("|")]
    assert [row[0] for row in rows] == ["| run", "| ---", "| best", "| middling", "| worst"]
    assert rows[2][1] == f"{metrics.max():.2f}"
    assert all("worst has 4 of its 10 epochs" in said for said in (text, printed))
    assert f"wrote {out / 'ssim.png'}" in printed and f"wrote {out / 'summary.md'}" in printed


def test_table_curves_and_frames_show_the_same_epoch(tmp_path: Path) -> None:
    """Of a run whose last epoch is worse than its best."""
    falling = {e: {"val_psnr": 26.0 - abs(e - 3)} for e in range(10)}
    named = {"best": load_run(make_run(tmp_path / "best", rows=falling))}
    (row,) = compare.summary_rows(named)
    assert (row["average PSNR (dB)"], row["best epoch"], row["last PSNR (dB)"]) == (26, 3, 20)
    star = line(compare.comparison_figure("psnr", named), "best")
    assert (star.get_xdata()[0], star.get_ydata()[0]) == (3, 26)
    # The control: one whose table is of the last epoch.
    named["last"] = load_run(make_run(tmp_path / "last", rows=falling, frames=20.0))
    curves = compare.comparison_figure("psnr_per_frame", named).axes[0].lines
    assert [curve.get_ydata().mean() for curve in curves] == [pytest.approx(26)]


def test_the_table_of_latex() -> None:
    row = {"run": "a_b & 50%", "average PSNR (dB)": 31.236, "KL annealing": "none, β = 0"}
    row |= {"teacher forcing": "1, −0.1", "train_vi_len": 16, "epochs": 9, "best epoch": None}
    table = compare.summary_latex([{**row, "minutes": 3.0}])
    header, rule, head, _, first, _, end = table.splitlines()
    assert (header, rule, end) == (r"\begin{tabular}{lrllrrr}", r"\hline", r"\end{tabular}")
    assert head.endswith(r"& train\_vi\_len & epochs & best epoch \\")
    assert first == r"a\_b \& 50\% & 31.24 & none, $\beta$ = 0 & 1, $-$0.1 & 16 & 9 & -- \\"


def test_overlaid_figures(three: list[Path]) -> None:
    """What they show in words and numbers: tests/programs/test_document_figures.py."""
    named = compare.named_runs([load_run(folder) for folder in three])
    for name in ("overview", "psnr_per_frame", "psnr_by_time"):
        figure, columns = compare.comparison_figure(name, named), compare.COMPARISONS[name]
        check_layout(figure, PAGE if len(columns) > 1 else COLUMN)
        limits: dict[str, set[tuple[float, float]]] = {}
        for axes, column in zip(figure.axes, columns, strict=True):
            assert len([each for each in axes.lines if each.get_gid() == column]) == 3
            limits.setdefault(axes.get_ylabel(), set()).add(axes.get_ylim())
        assert all(len(found) == 1 for found in limits.values())  # one unit, one scale
    curves = [each for each in figure.axes[0].lines if each.get_gid() == "seconds"]
    np.testing.assert_allclose(curves[1].get_xdata(), [0.5, 1.0, 1.5, 2.0])
    assert figure.axes[0].get_xlim()[0] == 0


def test_many_runs(tmp_path: Path) -> None:
    one = load_run(make_run(tmp_path / "one", 3))
    runs = {f"a rather long name of run {i}": Run(tmp_path, {}, one.metrics) for i in range(28)}
    figure = compare.comparison_figure("overview", runs)
    check_layout(figure, PAGE)
    shown = [each for each in figure.axes[0].lines if each.get_gid() == "val_psnr"]
    looks = {(each.get_color(), str(each._dash_pattern)) for each in shown}
    assert len(looks) == len(shown) == 28  # each has one of its own
    boxes = [axes.get_window_extent() for axes in figure.axes]
    (legend,) = figure.legends
    assert legend.get_window_extent().y0 >= max(box.y1 for box in boxes)
    assert min(box.height for box in boxes) > 200  # pixels: not squeezed by the legend


def test_baselines_that_the_runs_share(tmp_path: Path) -> None:
    earlier = {name: value for name, value in BASELINES.items() if name != "nearest_pose"}
    tables = {"new": BASELINES, "old": earlier, "other": {**BASELINES, "first_frame": 9.0}}
    runs = {n: load_run(make_run(tmp_path / n, baselines=v)) for n, v in tables.items()}
    named = {n: runs[n] for n in ("new", "old")}
    assert compare.common_baselines([*named.values()]) == earlier
    assert "copy-first-frame 20.26 dB, mean-frame 22.73 dB." in compare.summary_notes(named)[-1]
    drawn = {each.get_gid() for each in compare.comparison_figure("psnr", named).axes[0].lines}
    assert drawn & BASELINES.keys() == {"mean_train_frame"}  # the highest
    assert compare.common_baselines([*runs.values()]) == {}  # other data


def test_compare_runs_that_lack_something(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, bare = make_run(tmp_path / "whole"), make_run(tmp_path / "bare")
    (bare / "config.json").unlink()
    (bare / "psnr_per_frame.csv").unlink()
    never = dict.fromkeys(("val_psnr", "val_loss"), math.nan)
    nan = make_run(tmp_path / "nan", 3, rows=dict.fromkeys(range(3), never), broken=(1,))
    elsewhere = make_run(tmp_path / "other", options={"DR": "/data/other"})
    printed = done(*COMPARE, nan, bare, whole, elsewhere, "--out", tmp_path / "out")
    for said in (
        "bare has no config.json",
        "nan: no validation gave a number",
        "nan: 7 sequences were skipped",
        "of their best validation: nan, bare.",
        "different data roots: nan data, bare ?, whole data, other other.",
    ):
        assert said in printed
    rows = (tmp_path / "out" / "summary.csv").read_text().splitlines()
    assert rows[-1].startswith("nan,,")  # without a number it is last, whatever its place
    tables = {f"summary.{ending}" for ending in ("md", "csv", "tex")}
    names = {f"{name}.png" for name in compare.COMPARISONS} | tables
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    only = {"psnr_per_frame": compare.COMPARISONS["psnr_per_frame"]}
    monkeypatch.setattr(compare, "COMPARISONS", only)
    done(*COMPARE, bare, "--out", tmp_path / "one")
    assert {path.name for path in (tmp_path / "one").iterdir()} == tables


def test_schedules_command(tmp_path: Path) -> None:
    out, options = tmp_path / "new/s.png", ("--lr_gamma", "0.5", "--detector_patience", "3")
    printed = done("modules/plots.py", "schedules", *options, "--out", out)
    assert printed.endswith(f"wrote {out}\n") and colours(out) > 20
    assert "--lr_gamma has no effect" in printed and "detector" in printed
