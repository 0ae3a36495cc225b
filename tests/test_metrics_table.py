"""metrics.csv that cannot be written for a while: no row is lost, none is there twice."""

import errno
import itertools
from pathlib import Path
from typing import Any

import pytest

from modules import runlog
from modules.metrics_table import MetricsTable
from modules.runtime import attempts
from modules.runtime.errors import UserError
from tests.support.refusing import held

NAME = "metrics.csv"


@pytest.fixture(autouse=True)
def no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "WAITS", (0.0, 0.0))


def row(epoch: int, **values: float) -> dict[str, Any]:
    return dict.fromkeys(runlog.METRIC_COLUMNS, 0.5) | {"epoch": epoch, **values}


def epochs(folder: Path, name: str = NAME) -> list[int]:
    return [int(line.split(",")[0]) for line in (folder / name).read_text().splitlines()[1:]]


@pytest.fixture
def table(tmp_path: Path) -> MetricsTable:
    table = MetricsTable(tmp_path / NAME, [])
    table.add(row(0))
    return table


def test_a_moment_is_waited_for(
    table: MetricsTable, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with held(NAME, times=2) as refused:
        table.add(row(1))
    assert len(refused) == 2
    assert epochs(tmp_path) == [0, 1]
    assert (table.unwritten, capsys.readouterr().out) == ([], "")


def test_rows_are_kept_and_appended_in_order(
    table: MetricsTable, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with held(NAME):
        for epoch in (1, 2, 3):
            table.add(row(epoch))
        assert epochs(tmp_path) == [0]
        assert [kept["epoch"] for kept in table.unwritten] == [1, 2, 3]
    assert capsys.readouterr().out.count("warning: ") == 1  # once, in one line
    table.add(row(4))
    assert epochs(tmp_path) == [0, 1, 2, 3, 4]
    assert table.unwritten == []
    assert capsys.readouterr().out.startswith("note: ")
    table.finish()
    assert {path.name for path in tmp_path.iterdir()} == {NAME}


def test_at_the_end_they_go_into_a_file_beside_it(
    table: MetricsTable, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with held(NAME):
        table.add(row(1))
        table.finish()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert "metrics.unwritten.csv" in lines[1] and "epochs 1 " in lines[1]
    assert epochs(tmp_path, "metrics.unwritten.csv") == [1]
    # The last checkpoint holds them; a resumed run puts them in their place.
    resumed = MetricsTable(tmp_path / NAME, list(table.unwritten))
    resumed.resume(1)
    assert epochs(tmp_path) == [0, 1]
    assert {path.name for path in tmp_path.iterdir()} == {NAME}


def test_not_even_beside_it(
    table: MetricsTable, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with held(NAME, "metrics.unwritten.csv", code=errno.ENOSPC):
        table.add(row(1))
        table.finish()
    assert "in the checkpoint only" in capsys.readouterr().out
    assert [kept["epoch"] for kept in table.unwritten] == [1]


@pytest.mark.parametrize("part", [1, 20, -1])
def test_half_a_line_goes_before_the_next(
    table: MetricsTable, tmp_path: Path, part: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that fills up within a line, and does not even let it be taken away again."""
    whole = runlog.metrics_line(row(1, val_flicker=0.123456))
    path = tmp_path / NAME

    def half(*_: Any, **__: Any) -> None:
        with path.open("a") as file:
            file.write(whole[:part])
        raise UserError("full") from OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(attempts, "WAITS", ())
        patch.setattr("modules.metrics_table.append_metrics", half)
        table.add(row(1, val_flicker=0.123456))
    table.add(row(2))
    assert epochs(tmp_path) == [0, 1, 2]
    assert path.read_text().splitlines()[2] == whole
    assert runlog.read_metrics(path)["val_flicker"][1] == 0.123456


def test_a_table_without_its_last_line_end(table: MetricsTable, tmp_path: Path) -> None:
    """As some programs save it: a whole line is no half one."""
    path = tmp_path / NAME
    path.write_text(path.read_text().rstrip("\n"))
    table.add(row(1))
    assert epochs(tmp_path) == [0, 1]


def test_killed_at_any_moment(tmp_path: Path) -> None:
    """A run of six epochs, the file held in any of them, killed before or after any save.

    A checkpoint is what --resume finds: the last epoch, and the rows that were not written then.
    """
    for case, (kept_from, kept_until, killed, saved) in enumerate(
        itertools.product(range(6), range(6), range(6), (False, True))
    ):
        folder = tmp_path / str(case)
        folder.mkdir()
        checkpoint: tuple[int, list[dict[str, Any]]] = (-1, [])
        table = MetricsTable(folder / NAME, [])
        epoch, kills = 0, 0
        while epoch < 6:
            with held(*[NAME] * (kept_from <= epoch < kept_until)):
                table.add(row(epoch, seconds=float(kills)))
            dies = epoch == killed and not kills
            if saved or not dies:
                checkpoint = (epoch, [dict(one) for one in table.unwritten])
            epoch += 1
            if dies:
                kills += 1
                epoch = checkpoint[0] + 1
                table = MetricsTable(folder / NAME, checkpoint[1])
                with held(*[NAME] * (kept_from <= epoch < kept_until)):
                    table.resume(checkpoint[0])
        table.finish()
        assert epochs(folder) == list(range(6)), (kept_from, kept_until, killed, saved)
        # Rows after the kill are those of the run that went on.
        seconds = runlog.read_metrics(folder / NAME)["seconds"].tolist()
        first = killed + saved
        assert seconds == [0.0] * first + [1.0] * (6 - first)


def test_a_table_that_is_held_when_a_run_is_resumed(
    table: MetricsTable, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table.add(row(1, seconds=9.0))  # after the checkpoint
    resumed = MetricsTable(tmp_path / NAME, [])
    with held(NAME):
        resumed.resume(0)
        resumed.add(row(1))
        assert epochs(tmp_path) == [0, 1]
    assert "warning: " in capsys.readouterr().out
    resumed.add(row(2))
    assert epochs(tmp_path) == [0, 1, 2]
    assert runlog.read_metrics(tmp_path / NAME)["seconds"].tolist() == [0.5, 0.5, 0.5]


def test_a_sound_table_is_not_touched_by_resuming(table: MetricsTable, tmp_path: Path) -> None:
    before = (tmp_path / NAME).stat().st_mtime_ns
    with held(NAME) as refused:
        MetricsTable(tmp_path / NAME, []).resume(0)
    assert refused == []
    assert (tmp_path / NAME).stat().st_mtime_ns == before


def test_another_table_is_still_refused(tmp_path: Path) -> None:
    (tmp_path / NAME).write_text("name,mark\na,1\n")
    with pytest.raises(UserError, match="not a table of this run"):
        MetricsTable(tmp_path / NAME, []).resume(3)


def test_without_the_rows_kept_they_would_be_lost(tmp_path: Path) -> None:
    """The control: a checkpoint that forgets them leaves a gap that the tests above would see."""
    table = MetricsTable(tmp_path / NAME, [])
    with held(NAME):
        table.add(row(0))
    resumed = MetricsTable(tmp_path / NAME, [])
    resumed.resume(0)
    resumed.add(row(1))
    assert epochs(tmp_path) == [1]
