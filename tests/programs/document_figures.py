"""Every figure of the documents, redrawn from what the runs in it have recorded.

    python tests/programs/document_figures.py                   # all of docs/
    python tests/programs/document_figures.py ablation.png      # some of them
    python tests/programs/document_figures.py --record runs/x   # keep what a run has recorded

docs/recorded/ holds of each run, under the name of its folder, metrics.csv, the options and
baselines of config.json, psnr_per_frame.csv, and some frames of its best validation as they are: a
column for each frame, rows label, truth and prediction. --record takes all this from the run's
folder after `Tester.py --ckpt_path RUN/best.ckpt --split val`. Of a run of the ablation metrics.csv
is enough; it lies in docs/recorded/ablation_DATA/ROW_SEED/.

What matplotlib draws carries in the PNG what it shows, so a test sees whether it is up to date.
"""

import json
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image
from PIL.PngImagePlugin import PngInfo

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import dataloader
from modules.figures import curves, style
from modules.figures.compare import comparison_figure, named_runs
from modules.figures.media import write_comparison_gif, write_sheet
from modules.figures.records import validation_title
from modules.runlog import FrameTable, Run, load_run, read_metrics, read_psnr_per_frame
from modules.runtime.scripts import ArgumentParser, path_argument, run_as_script
from tests.programs.ablation import ROWS
from tests.programs.batch_norm import statistics_figure

DOCS = Path(__file__).resolve().parents[2] / "docs"
RECORDED = DOCS / "recorded"
# Which frames of a run's validation are kept, given the PSNR of frames 1 … T-1; and of which runs.
FRAMES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "start": lambda psnr: np.arange(60),
    "sheet": lambda psnr: np.unique(np.linspace(0, len(psnr), 8).round().astype(int)),
    "lowest": lambda psnr: np.array([stretch.lowest for stretch in curves.lowest_stretches(psnr)]),
}
SHEETS = ("moving_best", "moving_video", "fold_128", "fold_256")
KEPT = {"demo": ("start",), "finetuned": ("sheet", "lowest"), **dict.fromkeys(SHEETS, ("sheet",))}


def frame_table(folder: Path) -> FrameTable:
    return read_psnr_per_frame(folder / "psnr_per_frame.csv")


def record(run: Path) -> None:
    """Keep in docs/recorded/ what a run and its validation by Tester.py have in their folders."""
    out = RECORDED / run.resolve().name
    out.mkdir(parents=True, exist_ok=True)
    config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    options, parent = config["options"], config["parent"]
    paths = ("DR", "save_root", "ckpt_path")
    kept = {"options": {name: value for name, value in options.items() if name not in paths}}
    kept |= {"baselines": config["baselines"], "parent": parent}
    if parent:
        kept["parent"] = {"run": Path(parent["run"]).name, "epoch": parent["epoch"]}
    (out / "config.json").write_text(json.dumps(kept) + "\n", encoding="utf-8")
    (out / "metrics.csv").write_bytes((run / "metrics.csv").read_bytes())
    table = frame_table(run / "val")
    digits = ["%d", *["%.5g"] * (len(table) - 1)]
    path, names = out / "psnr_per_frame.csv", ",".join(table._fields)
    np.savetxt(path, np.stack(table, axis=1), digits, ",", header=names, comments="")
    size = {"height": options["frame_H"], "width": options["frame_W"]}
    for kind in KEPT.get(out.name, ()):
        _, video = dataloader.load_train_val(
            Path(config["data_root"]), **size, val_vi_len=len(table.psnr) + 1, need_train=False
        )
        shown = FRAMES[kind](table.psnr)
        made = [np.asarray(Image.open(run / f"val/frames/0/{t}.png")) for t in shown]
        rows = [video.labels.numpy()[shown], video.frames.numpy()[shown], np.stack(made)]
        strip = np.concatenate([np.concatenate([*row], axis=1) for row in rows])
        Image.fromarray(strip).save(out / f"{kind}.png", optimize=True)


def recorded_videos(name: str, kind: str) -> dict[str, np.ndarray]:
    """A run's label, truth and prediction, (T, H, W, 3) uint8 each, black where not recorded."""
    psnr = frame_table(RECORDED / name).psnr
    shown = FRAMES[kind](psnr)
    with Image.open(RECORDED / name / f"{kind}.png") as image:
        strip = np.asarray(image.convert("RGB"))
    rows = [np.split(row, len(shown), axis=1) for row in np.split(strip, 3)]
    videos = np.zeros((3, len(psnr) + 1, *rows[0][0].shape), np.uint8)
    videos[:, shown] = rows
    return dict(zip(("label", "truth", "prediction"), videos, strict=True))


def recorded(name: str) -> Run:
    return load_run(RECORDED / name)


def report(name: str) -> Figure:
    """A figure of `compare` with the runs of the report."""
    runs = ("cyclical", "monotonic", "no_kl", "no_forcing", "finetuned")
    return comparison_figure(name, named_runs([*map(recorded, runs)]))


def drift() -> Figure:
    """PSNR per frame of two rows of the ablation, in its words."""
    words = {"true_frames_0": "true frames", "noise_alone_0": "true frames with noise"}
    return comparison_figure("psnr_per_frame", {w: recorded(n) for n, w in words.items()})


def lowest_frames(name: str) -> Figure:
    """A run's psnr_per_frame.png."""
    table, run = frame_table(RECORDED / name), recorded(name)
    return curves.psnr_per_frame_figure(
        table.psnr,
        inside=table.inside,
        outside=table.outside,
        title=validation_title(run.best()),
        pictures=recorded_videos(name, "lowest"),
    )


def ablation() -> Figure:
    """Validation PSNR of each row of the ablation, one line for each seed, by data set."""
    data = sorted(RECORDED.glob("ablation_*"))
    rows = [row for row in ROWS if any((data[0]).glob(f"{row}_[0-9]*"))]
    figure = style.new_figure(1.6 + 0.75 * len(rows), width=style.PAGE)
    panels = figure.subplots(1, len(data), sharey=True, squeeze=False).ravel()
    for axes, folder in zip(panels, data, strict=True):
        for place, row in enumerate(rows):
            runs = sorted(folder.glob(f"{row}_[0-9]*"))
            for seed, run in enumerate(runs):
                aside = 0.3 * (seed - (len(runs) - 1) / 2)
                psnr = read_metrics(run / "metrics.csv")["val_psnr"]
                at = np.full(len(psnr), place + aside)
                label = None if place or aside > 0 else "after each epoch, the last one filled"
                look = {"color": style.BLUE, "lw": 0.8, "mfc": "white", "mew": 0.8, "ms": 4}
                style.add_line(axes, psnr, at, run.name, label, **look)
                style.add_line(axes, psnr[-1:], at[-1:], "last", color=style.BLUE, ms=5)
                if row == "best":
                    axes.axvline(
                        psnr[-1], gid="best", color=style.GREY, ls=style.DOTTED, lw=0.8, zorder=0
                    )
        axes.set(title=folder.name.replace("ablation", "mocap"), xlabel="validation PSNR (dB)")
        axes.margins(x=0.08)
    words = [ROWS[row].text.replace("`", "") for row in rows]
    panels[0].set_yticks(range(len(rows)), words)
    for axes in panels:
        axes.tick_params(axis="y", length=0)
    panels[0].invert_yaxis()
    style.legend_above(figure, panels[0])
    return figure


FIGURES: dict[str, Callable[[], Figure]] = {
    "curves.png": lambda: curves.curves_figure(recorded("demo")),
    "latent.png": lambda: curves.latent_figure(recorded("demo")),
    "report_overview.png": partial(report, "overview"),
    "report_frames_all.png": partial(report, "psnr_per_frame"),
    "report_curves.png": lambda: curves.curves_figure(recorded("cyclical")),
    "report_finetuned.png": lambda: curves.curves_figure(recorded("finetuned")),
    "report_frames.png": partial(lowest_frames, "finetuned"),
    "theory_drift.png": drift,
    # Measured with an earlier version.
    "batch_norm.png": lambda: statistics_figure(RECORDED / "batch_norm.csv"),
    "ablation.png": ablation,
}


def shown_in(figure: Figure) -> dict[str, Any]:
    """What a figure shows: its words, and its curves' values. Numbers at axes are left out."""
    figure.canvas.draw()
    words = [text.get_text() for text in figure.findobj(Text)]
    lines = [
        [str(line.get_gid()), *([float(f"{v:.5g}") for v in part] for part in line.get_data())]
        for axes in figure.axes
        for line in axes.lines
    ]
    return {"words": [w for w in words if re.search("[^-−.0-9e]", w)], "lines": lines}


def save_figure(figure: Figure, path: Path) -> None:
    """Write the PNG, with what it shows in it."""
    info = PngInfo()
    info.add_text("shows", json.dumps(shown_in(figure)), zip=True)
    figure.savefig(path, format="png", pil_kwargs={"pnginfo": info, "optimize": True})


def save_pictures(name: str, kind: str, path: Path) -> None:
    """A run's val_sheet.png, or the first seconds of its val.gif."""
    run, psnr = recorded(name), frame_table(RECORDED / name).psnr
    title = validation_title(run.best(), psnr.mean())
    videos = recorded_videos(name, kind).values()
    if kind == "sheet":
        write_sheet(path, *videos, psnr, title=title)
    else:
        first = FRAMES[kind](psnr)
        write_comparison_gif(path, *(video[first] for video in videos), psnr, title=title)


PICTURES: dict[str, Callable[[Path], None]] = {
    "val.gif": partial(save_pictures, "demo", "start"),
    "report_sheet.png": partial(save_pictures, "finetuned", "sheet"),
    **{f"{name}.png": partial(save_pictures, name, "sheet") for name in SHEETS},
}


def main() -> None:
    parser = ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    names = [*FIGURES, *PICTURES]
    parser.add_argument("names", nargs="*", metavar="FIGURE", help=", ".join(names))
    parser.add_argument("--record", type=path_argument, metavar="RUN", help="folder of a run")
    given = parser.parse_args()
    if given.record:
        record(given.record)
        return
    if unknown := {*given.names} - {*names}:
        parser.error(f"no such figure: {', '.join(sorted(unknown))}")
    for name in given.names or names:
        if name in FIGURES:
            save_figure(FIGURES[name](), DOCS / name)
        else:
            PICTURES[name](DOCS / name)
        print(f"wrote docs/{name}", flush=True)


if __name__ == "__main__":
    run_as_script(main)
