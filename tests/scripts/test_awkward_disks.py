"""Disks as users have them, through the real command lines: mounts that cannot sync a folder or
link a file, that are away for a while, files that others hold, quotas, names of every kind.

Each refusal is simulated, where it cannot be had, by the call that the system would refuse.
"""

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from modules import runlog
from modules.checkpoint import load_checkpoint, load_last, save_checkpoints
from modules.runtime.errors import UserError
from tests.support.disks import AWAY, NO_FOLDER_SYNC, is_folder, named, refusing
from tests.support.scripts import REPOSITORY, TINY_RUN, assert_refused, resume, run_script, train


@pytest.fixture(scope="module")
def finished(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two epochs; not to be changed."""
    run = tmp_path_factory.mktemp("disks") / "run"
    train(dataset, run, "--num_epoch", "2", "--auto_save")
    return run


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of that run."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many attempts as ever, without the time between them."""
    patience = pytest.importorskip("modules.runtime.patience")
    monkeypatch.setattr(patience, "DELAYS", (0.0,) * len(patience.DELAYS))
    monkeypatch.setattr(patience, "_gave_up_at", -patience.WEARY_SECONDS)


def one_more(run: Path) -> subprocess.CompletedProcess[str]:
    """The run's third epoch."""
    return resume(run, "--num_epoch", "3")


def assert_done(result: subprocess.CompletedProcess[str], run: Path, epochs: int = 3) -> None:
    """It came to its end, with nothing missing and nothing left over."""
    assert result.returncode == 0, result.stderr
    assert runlog.read_metrics(run / "metrics.csv")["epoch"].tolist() == list(range(epochs))
    assert load_checkpoint(run / "last.ckpt").last_epoch == epochs - 1
    assert not [path for path in run.iterdir() if path.name.endswith(".tmp")]


# ---------------------------------------------------------------- folders that cannot be synced


def save(run: Path) -> None:
    """What the end of an epoch saves, with another content."""
    content = torch.load(run / "last.ckpt", weights_only=True)
    save_checkpoints([run / "best.ckpt", run / "last.ckpt"], {**content, "last_epoch": 7})


def assert_saved(run: Path) -> None:
    assert load_checkpoint(run / "last.ckpt").last_epoch == 7
    assert load_checkpoint(run / "last.prev.ckpt").last_epoch == 1
    assert not [path for path in run.iterdir() if path.name.endswith(".tmp")]


def test_a_run_where_no_folder_can_be_synced(run: Path) -> None:
    with refusing("fsync", errno.EINVAL, when=is_folder) as refused:
        result = one_more(run)
    assert_done(result, run)
    assert refused  # the control: it was asked


@pytest.mark.parametrize("call", ["fsync", "open"])
@pytest.mark.parametrize("number", NO_FOLDER_SYNC, ids=errno.errorcode.get)
def test_a_folder_that_cannot_be_synced(run: Path, number: int, call: str) -> None:
    """Or not even be opened: on Windows, and where a folder may be written but not listed."""
    opened = os.open
    with pytest.MonkeyPatch.context() as patch, refusing(call, number, when=is_folder):

        def refuse(path: str | Path, *rest: int) -> int:
            if is_folder(Path(path)):
                raise OSError(number, os.strerror(number), str(path))
            return opened(path, *rest)

        if call == "open":
            patch.setattr(os, "open", refuse)
        save(run)
    assert_saved(run)


@pytest.mark.parametrize("number", NO_FOLDER_SYNC, ids=errno.errorcode.get)
def test_a_file_that_cannot_be_synced_is_an_error(run: Path, number: int) -> None:
    """The control: what is tolerated of a folder is not of a checkpoint."""
    before = (run / "last.ckpt").read_bytes()
    with (
        refusing("fsync", number, when=named(f"last.ckpt.{os.getpid()}.tmp")),
        pytest.raises(UserError, match=r"last\.ckpt: cannot be written .*before is intact"),
    ):
        save(run)
    assert (run / "last.ckpt").read_bytes() == before


def test_a_folder_sync_that_fails_says_what_is_on_the_disk(run: Path) -> None:
    with refusing("fsync", errno.EIO, when=is_folder):
        result = one_more(run)
    assert_refused(result, "has its new content", "Input/output error")
    assert "intact" not in result.stderr
    assert_done(one_more(run), run)


# ---------------------------------------------------------------- no hard links


@pytest.mark.parametrize(
    "number", [errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK], ids=errno.errorcode.get
)
def test_a_disk_without_hard_links(run: Path, number: int) -> None:
    with refusing("link", number) as refused:
        save(run)
    assert_saved(run)
    assert refused


def test_a_previous_checkpoint_that_is_held_stays(run: Path) -> None:
    """A backup reads last.prev.ckpt on Windows: the new checkpoint is written all the same."""
    before = (run / "last.prev.ckpt").read_bytes()
    with refusing("unlink", errno.EACCES, when=named("last.prev.ckpt")):
        result = one_more(run)
    assert_done(result, run)
    assert "note: " in result.stdout and "last.prev.ckpt: keeps its earlier" in result.stdout
    assert (run / "last.prev.ckpt").read_bytes() == before


# ---------------------------------------------------------------- held, or away for a while


@pytest.mark.parametrize(
    "number", [errno.EACCES, errno.EPERM, errno.EBUSY, errno.ETXTBSY], ids=errno.errorcode.get
)
def test_a_file_that_is_held_for_a_moment(run: Path, number: int) -> None:
    with refusing("replace", number, times=3) as refused:
        save(run)
    assert_saved(run)
    assert len(refused) == 3


def test_a_checkpoint_that_stays_held(run: Path) -> None:
    before = (run / "last.ckpt").read_bytes()
    with refusing("replace", errno.EACCES, when=named(f"last.ckpt.{os.getpid()}.tmp")) as refused:
        result = one_more(run)
    assert_refused(result, "last.ckpt: cannot be written (Permission denied)", "close it there")
    assert "intact" in result.stderr
    assert 2 < len(refused) < 20  # with a limit
    assert (run / "last.ckpt").read_bytes() == before
    assert_done(one_more(run), run)


@pytest.mark.parametrize("number", AWAY, ids=errno.errorcode.get)
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_mount_that_is_away_while_a_run_saves(run: Path, number: int, call: str) -> None:
    with refusing(call, number, times=3) as refused:
        save(run)
    assert_saved(run)
    assert len(refused) == 3


def test_a_rename_that_the_server_did_before_it_was_away(run: Path) -> None:
    """Its answer is lost, and asked again it says that there is no such file."""
    replace, left = os.replace, [1]

    def lost(source: Path, target: Path) -> None:
        replace(source, target)
        if left[0] and str(target).endswith("last.ckpt"):
            left[0] -= 1
            raise OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", lost)
        save(run)
    assert_saved(run)
    assert left == [0]


@pytest.mark.parametrize("number", AWAY, ids=errno.errorcode.get)
def test_a_mount_that_is_away_while_frames_are_read(dataset: Path, number: int) -> None:
    with refusing("open", number, times=3, when=named("5.png")) as refused:
        result = run_script("dataloader.py", "check", dataset)
    assert result.returncode == 0, result.stderr
    assert len(refused) == 3


def test_a_mount_that_stays_away(dataset: Path, tmp_path: Path) -> None:
    with refusing("open", errno.ETIMEDOUT, when=named(".png")) as refused:
        arguments = ("--DR", dataset, "--save_root", tmp_path / "run", *TINY_RUN)
        result = run_script("Trainer.py", *arguments)
    assert_refused(result, "train/train_img/0.png: cannot be read (Connection timed out)")
    # Not every file is waited for.
    assert len(refused) < 2 * len(list(dataset.rglob("*.png")))


@pytest.mark.parametrize("number", AWAY, ids=errno.errorcode.get)
def test_a_mount_that_is_away_when_a_run_is_resumed(
    run: Path, number: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with refusing("open", number, times=3, when=named("last.ckpt")) as refused:
        loaded = load_last(run)
    assert len(refused) == 3
    assert loaded.path.name == "last.ckpt"  # a sound checkpoint is not given up
    assert capsys.readouterr().out == ""


def test_a_checkpoint_that_cannot_be_read_is_not_called_corrupted(run: Path) -> None:
    with refusing("open", errno.EIO, when=named(".ckpt")):
        result = run_script("Tester.py", "--ckpt_path", run / "best.ckpt")
    assert_refused(result, "best.ckpt: cannot be read (Input/output error)")


def test_a_folder_that_is_away_while_it_is_listed(dataset: Path) -> None:
    with refusing("scandir", errno.ESTALE, times=3, when=named("train_img")) as refused:
        result = run_script("dataloader.py", "check", dataset)
    assert result.returncode == 0, result.stderr
    assert len(refused) == 3


# ---------------------------------------------------------------- no room


@pytest.mark.parametrize("number", [errno.EDQUOT, errno.ENOSPC], ids=errno.errorcode.get)
def test_a_quota_or_a_full_disk(run: Path, number: int) -> None:
    before = (run / "last.ckpt").read_bytes()
    with refusing("fsync", number, when=named(f"last.ckpt.{os.getpid()}.tmp")) as refused:
        result = one_more(run)
    assert_refused(result, os.strerror(number), "make room", "intact")
    assert len(refused) == 2  # once more after figures gave way; no waiting mends it
    assert (run / "last.ckpt").read_bytes() == before


# ---------------------------------------------------------------- read-only data


def test_data_that_may_not_be_written(dataset: Path, tmp_path: Path) -> None:
    """Mounted read-only, which holds for root too."""
    data = tmp_path / "data"
    data.mkdir()
    bind = ["mount", "--bind", str(dataset), str(data)]
    if not shutil.which("mount") or subprocess.run(bind, capture_output=True).returncode:
        pytest.skip("no folder may be mounted here")
    try:
        again = ["mount", "-o", "remount,ro,bind", str(data)]
        subprocess.run(again, check=True, capture_output=True)
        with pytest.raises(OSError):  # the control
            (data / "x").touch()
        run = tmp_path / "run"
        train(data, run, "--num_epoch", "1")
        for arguments in (("--split", "val"), ()):
            made = run_script("Tester.py", "--ckpt_path", run / "last.ckpt", *arguments)
            assert made.returncode == 0, made.stderr
        assert run_script("dataloader.py", "check", data).returncode == 0
        inside = run_script("dataloader.py", "check", data, "--picture", data / "a.png")
        assert_refused(inside, "a.png", "Read-only file system")
    finally:
        subprocess.run(["umount", str(data)], check=True)


# ---------------------------------------------------------------- names

slow = pytest.mark.slow
NAMES = [
    pytest.param(os.fsdecode(b"r\xfcn\xff"), id="not UTF-8"),
    pytest.param("-run $x_i^2$ 舞", id="dash"),
    pytest.param("my first run ", id="spaces", marks=slow),
    pytest.param("run 💃", id="emoji", marks=slow),
    pytest.param("run[1]*?", id="glob", marks=slow),
    pytest.param("run%d{0}", id="percent", marks=slow),
    pytest.param('it\'s "a" run', id="quotes", marks=slow),
    pytest.param("a\nb", id="newline", marks=slow),
    pytest.param("run.v1.ckpt", id="dots", marks=slow),
]


@pytest.mark.parametrize("name", NAMES)
def test_folders_of_any_name(dataset: Path, finished: Path, tmp_path: Path, name: str) -> None:
    """Data, run and results in such folders; training, resuming, testing, comparing."""
    place = tmp_path / name
    shutil.copytree(dataset, place / "data")
    run, here = place / name, f"{name}/{name}"
    epoch = ("--num_epoch", "1", "--store_visualization")
    for command in (
        ("Trainer.py", f"--DR={name}/data", f"--save_root={here}", *TINY_RUN, *epoch),
        ("Trainer.py", f"--save_root={here}", "--resume", "--num_epoch", "2"),
        ("Tester.py", f"--ckpt_path={here}/last.ckpt"),
        ("modules/plots.py", "curves", "--", here),
        ("modules/plots.py", "compare", f"--out={name}/report", "--", here, str(finished)),
    ):
        result = run_script(*command, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
    assert runlog.read_metrics(run / "metrics.csv")["epoch"].tolist() == [0, 1]
    assert (run / "test/submission.csv").exists()
    (place / "report/summary.md").read_text(encoding="utf-8", errors="strict")


@pytest.mark.parametrize(
    "encoding",
    ["ascii", *(pytest.param(name, marks=slow) for name in ("cp950", "cp1252", "utf-8"))],
)
def test_names_on_any_console(run: Path, tmp_path: Path, encoding: str) -> None:
    """A process of its own, whose output has an encoding that lacks the name."""
    place = tmp_path / os.fsdecode(b"\xff \xe8\x88\x9e")  # a byte of no text, and one Chinese sign
    run.rename(place)
    result = subprocess.run(
        [sys.executable, REPOSITORY / "Trainer.py", "--save_root", place, "--resume"],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": encoding},
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert b"\\xff" in result.stdout


@pytest.mark.parametrize(
    ("script", "option"),
    [
        ("Trainer.py", "--DR"),
        ("Trainer.py", "--save_root"),
        ("Trainer.py", "--ckpt_path"),
        ("Tester.py", "--ckpt_path"),
        ("Tester.py", "--DR"),
        ("Tester.py", "--save_root"),
        ("dataloader.py", "check"),
        ("plots", "curves"),
    ],
)
def test_a_name_that_is_too_long_is_one_line(
    dataset: Path, run: Path, tmp_path: Path, script: str, option: str
) -> None:
    long = str(tmp_path / ("x" * 300))
    if script == "Trainer.py":
        given = {"--DR": str(dataset), "--save_root": str(tmp_path / "new"), option: long}
        words = [*(word for pair in given.items() for word in pair), *TINY_RUN]
    elif script == "Tester.py":
        given = {"--ckpt_path": str(run / "best.ckpt"), option: long}
        words = [word for pair in given.items() for word in pair]
    else:
        words = [option, long]
    path = "modules/plots.py" if script == "plots" else script
    result = run_script(path, *words)
    assert_refused(result, "x" * 300)
    assert len(result.stderr.splitlines()) == 1
    assert "long" in result.stderr


def test_a_name_that_is_just_short_enough(run: Path, tmp_path: Path) -> None:
    """The file has room for its name; its temporary one must not need more."""
    out = tmp_path / ("x" * 251 + ".png")
    made = run_script("modules/plots.py", "schedules", "--num_epoch", "3", "--out", out)
    assert made.returncode == 0, made.stderr
    assert out.exists()


# ---------------------------------------------------------------- upper and lower case


def test_names_that_differ_in_case_alone(dataset: Path, tmp_path: Path) -> None:
    """Where both are one folder (macOS, Windows: simulated by a link), the second is refused."""
    upper, lower = tmp_path / "Run", tmp_path / "run"
    train(dataset, upper, "--num_epoch", "1")
    lower.symlink_to(upper)
    result = run_script("Trainer.py", "--DR", dataset, "--save_root", lower, *TINY_RUN)
    assert_refused(result, "already holds a run")
    lower.unlink()
    train(dataset, lower, "--num_epoch", "1")  # the control: where they are two, both are used
    assert torch.load(lower / "last.ckpt", weights_only=True)["last_epoch"] == 0


def test_results_in_a_split_that_is_written_in_other_case(dataset: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(dataset, tmp_path / "data"))
    (data / "TRAIN").symlink_to(data / "train")  # as if the two were one
    result = run_script("Trainer.py", "--DR", data, "--save_root", data / "TRAIN/run", *TINY_RUN)
    assert_refused(result, "inside the data set's")


def test_results_in_a_split_by_another_name(dataset: Path, tmp_path: Path) -> None:
    """The same folder under two names, neither of them a link: what macOS makes of two cases."""
    data = Path(shutil.copytree(dataset, tmp_path / "data"))
    other = tmp_path / "TRAIN"
    other.mkdir()
    bind = ["mount", "--bind", str(data / "train"), str(other)]
    if not shutil.which("mount") or subprocess.run(bind, capture_output=True).returncode:
        pytest.skip("no folder may be mounted here")
    try:
        result = run_script("Trainer.py", "--DR", data, "--save_root", other / "run", *TINY_RUN)
        assert_refused(result, "inside the data set's train/")
        assert not (other / "run").exists()
    finally:
        subprocess.run(["umount", str(other)], check=True)
    train(data, other / "run", "--num_epoch", "1")  # the control: now it is another folder
