"""`python -m modules.plots`, the command line of the figures; its mistakes: test_bad_input.py."""

import subprocess
import sys
from pathlib import Path

import pytest

from modules import plots
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
