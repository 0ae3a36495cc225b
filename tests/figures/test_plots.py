"""`python -m modules.plots`, the command line of the figures."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from modules import plots
from modules.runlog import METRIC_COLUMNS
from modules.runtime.errors import UserError
from tests.support.drawn import (
    colours,
    make_run,
)
from tests.support.scripts import REPOSITORY


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
        (header + "\n" + ",".join(["x"] * len(METRIC_COLUMNS)) + "\n", "not a valid CSV file"),
        (header + "\n" + "," * (len(METRIC_COLUMNS) - 1) + "\n", "without an epoch number"),
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
