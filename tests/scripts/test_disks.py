"""Disks and files as users have them, through the real command lines: full, read-only, away for a
moment, corrupted, in use by another run, with names of every kind. Nothing is lost.

Each refusal is simulated, where it cannot be had, by the call that the system would refuse.
"""

import contextlib
import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import torch

import dataloader
from modules import runlog
from modules.checkpoint import load_checkpoint, load_last, save_checkpoints
from modules.runtime import files
from modules.runtime.errors import UserError
from tests.support.comparing import same
from tests.support.data import make_dataset
from tests.support.disks import is_folder, named, refusing
from tests.support.faults import contents, corrupted_copies, outcome_of_reading, read_corrupted
from tests.support.scripts import REPOSITORY, TINY_RUN, assert_refused, resume, run_script, train

slow = pytest.mark.slow


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
    monkeypatch.setattr(files, "WAITS", (0.0,) * len(files.WAITS))


def one_more(run: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """The run's third epoch."""
    return resume(run, "--num_epoch", "3", *more)


def assert_done(result: subprocess.CompletedProcess[str], run: Path, epochs: int = 3) -> None:
    """It came to its end, with nothing missing and nothing left over."""
    assert result.returncode == 0, result.stderr
    assert runlog.read_metrics(run / "metrics.csv")["epoch"].tolist() == list(range(epochs))
    assert load_checkpoint(run / "last.ckpt").last_epoch == epochs - 1
    assert not [path for path in run.iterdir() if path.name.endswith(("tmp", ".lock"))]


def state_of(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in run.iterdir()}


# ---------------------------------------------------------------- saving


def save(run: Path) -> None:
    """What the end of an epoch saves, with another content."""
    content = torch.load(run / "last.ckpt", weights_only=True)
    save_checkpoints([run / "best.ckpt", run / "last.ckpt"], {**content, "last_epoch": 7})


def assert_saved(run: Path, previous: int = 1) -> None:
    assert load_checkpoint(run / "best.ckpt").last_epoch == 7
    assert load_checkpoint(run / "last.ckpt").last_epoch == 7
    assert load_checkpoint(run / "last.prev.ckpt").last_epoch == previous
    assert not [path for path in run.iterdir() if path.name.endswith(".tmp")]


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EIO])
def test_a_folder_that_cannot_be_synced(run: Path, number: int) -> None:
    with refusing("fsync", number, when=is_folder) as refused:
        save(run)
    assert_saved(run)
    assert len(refused) == 2
    with (  # the control
        refusing("fsync", number, when=named(f"last.ckpt.{os.getpid()}.tmp")),
        pytest.raises(UserError, match=r"last\.ckpt: cannot be written .*before is intact"),
    ):
        save(run)
    assert load_checkpoint(run / "last.ckpt").last_epoch == 7


def test_a_disk_without_hard_links(run: Path) -> None:
    with refusing("link", errno.EPERM) as refused:
        save(run)
    assert_saved(run)
    assert refused


def test_a_previous_checkpoint_that_is_held_stays(run: Path) -> None:
    """A backup reads last.prev.ckpt on Windows: the new checkpoint is written all the same."""
    before = (run / "last.prev.ckpt").read_bytes()
    with refusing("replace", errno.EACCES, when=named(".last.prev.ckpt.tmp")):
        result = one_more(run)
    assert_done(result, run)
    assert "note: " in result.stdout and "last.prev.ckpt: keeps its earlier" in result.stdout
    assert (run / "last.prev.ckpt").read_bytes() == before


@pytest.mark.parametrize("number", [errno.EIO, errno.EBUSY])
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_network_drive_that_is_away_for_a_moment(run: Path, number: int, call: str) -> None:
    end = f"last.ckpt.{os.getpid()}.tmp"
    with refusing(call, number, times=1, when=named(end)) as refused:
        save(run)
    assert_saved(run)
    assert len(refused) == 1


def test_a_checkpoint_that_stays_held(run: Path) -> None:
    before = (run / "last.ckpt").read_bytes()
    with refusing("replace", errno.EACCES, when=named(f"last.ckpt.{os.getpid()}.tmp")) as refused:
        result = one_more(run)
    assert_refused(result, "last.ckpt: cannot be written (Permission denied)", "close it there")
    assert "intact" in result.stderr
    assert len(refused) == len(files.WAITS) + 1
    assert (run / "last.ckpt").read_bytes() == before
    assert_done(one_more(run), run)


def test_a_rename_that_the_server_did_although_it_said_no(run: Path) -> None:
    replace, left = os.replace, [1]

    def lost(source: Path, target: Path) -> None:
        replace(source, target)
        if left[0] and str(target).endswith("last.ckpt"):
            left[0] -= 1
            raise OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", lost)
        save(run)
    assert_saved(run, previous=7)
    assert left == [0]


def die_after(number: int) -> None:
    """End this process at once after so many calls to the disk."""
    left = [number]

    def counted(call: Callable[..., object], *words: object, **more: object) -> object:
        if left[0] == 0:
            os._exit(9)
        left[0] -= 1
        return call(*words, **more)

    for name in ("open", "fsync", "replace", "link", "unlink"):
        setattr(os, name, partial(counted, getattr(os, name)))


def test_killed_between_any_two_calls(run: Path) -> None:
    """A process that dies before its n-th call to the disk leaves the old checkpoint or the new."""
    content = {**torch.load(run / "last.ckpt", weights_only=True), "last_epoch": 7}
    found = []
    for last_call in range(99):
        place = Path(shutil.copytree(run, run.with_name(f"killed{last_call}")))
        pid = os.fork()
        if pid == 0:
            die_after(last_call)
            save_checkpoints([place / "last.ckpt"], content)
            os._exit(0)
        ended = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        loaded = load_last(place)
        assert loaded.path.name == "last.ckpt"
        load_checkpoint(place / "last.prev.ckpt")
        found.append(loaded.last_epoch)
        if ended == 0:
            break
    assert ended == 0 and len(found) > 6
    assert found == sorted(found) and set(found) == {1, 7}
    assert_done(one_more(place.with_name("killed5")), place.with_name("killed5"))


# ---------------------------------------------------------------- reading


def test_a_drive_that_is_away_when_a_run_is_resumed(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with refusing("open", errno.ESTALE, times=3, when=named("last.ckpt")) as refused:
        loaded = load_last(run)
    assert len(refused) == 3
    assert (loaded.path.name, capsys.readouterr().out) == ("last.ckpt", "")  # it is not given up
    with refusing("open", errno.EIO, when=named(".ckpt")):
        result = run_script("Tester.py", "--ckpt_path", run / "best.ckpt")
    assert_refused(result, "best.ckpt: cannot be read (Input/output error)")  # not: corrupted


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda path: path.unlink(), "cannot be read (No such file or directory)"),
        (lambda path: path.write_bytes(path.read_bytes()[:40]), "header is corrupted"),
        (lambda path: (path.unlink(), path.mkdir()), "is not a file"),
    ],
)
def test_data_that_change_between_check_and_read(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Path], object],
    text: str,
) -> None:
    root, read = make_dataset(tmp_path / "data"), dataloader._read_images

    def change_first(*arguments: object, **options: object) -> None:
        change(root / "train/train_img/5.png")
        read(*arguments, **options)

    monkeypatch.setattr(dataloader, "_read_images", change_first)
    with pytest.raises(UserError, match=r"1 fault.*train/train_img/5\.png") as caught:
        dataloader.load_train_val(root, height=16, width=16, train_vi_len=4, val_vi_len=9)
    assert text in str(caught.value)


# ---------------------------------------------------------------- no room


@contextlib.contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """No file of this process may grow beyond so many bytes, as on a disk that is nearly full.

    The system then answers "File too large" where a full disk says "No space left on device".
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


def test_files_that_do_not_fit(run: Path, tmp_path: Path) -> None:
    before, size = (run / "last.ckpt").read_bytes(), (run / "metrics.csv").stat().st_size
    table = runlog.MetricsTable(run / "metrics.csv", [])
    with files_of_at_most(size + 30):
        table.add(dict.fromkeys(runlog.METRIC_COLUMNS, 0.5) | {"epoch": 2})
    # A part of the line is there: readers leave it out, and a resumed run drops it.
    assert (run / "metrics.csv").stat().st_size == size + 30
    assert runlog.read_metrics(run / "metrics.csv")["epoch"].tolist() == [0, 1]
    with files_of_at_most(len(before) - 1000):  # figures fit, checkpoints do not
        result = one_more(run)
    assert_refused(result, "ckpt: cannot be written", "make room", "intact")
    assert len(result.stderr.strip().splitlines()) == 1
    assert (run / "last.ckpt").read_bytes() == before
    assert_done(one_more(run), run)
    out = tmp_path / "out"
    with files_of_at_most(5_000):
        result = run_script("Tester.py", "--ckpt_path", run / "best.ckpt", "--save_root", out)
    assert_refused(result, f"{out}", "cannot be written")
    assert not list(out.glob("*submission*"))


@pytest.mark.parametrize("number", [errno.EDQUOT, errno.ENOSPC], ids=errno.errorcode.get)
def test_a_quota_or_a_full_disk(run: Path, number: int) -> None:
    before = (run / "last.ckpt").read_bytes()
    with refusing("fsync", number, when=named(f"last.ckpt.{os.getpid()}.tmp")) as refused:
        result = one_more(run)
    assert_refused(result, os.strerror(number), "make room", "intact")
    assert len(refused) == 1  # no waiting mends it
    assert (run / "last.ckpt").read_bytes() == before


@contextlib.contextmanager
def mounted(*arguments: str | Path) -> Iterator[None]:
    """Something on the last of the arguments, a folder; the test is skipped where it may not be."""
    command = ["mount", *map(str, arguments)]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("nothing may be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", str(arguments[-1])], check=True)


def test_a_disk_that_fills_up(run: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    with mounted("-t", "tmpfs", "-o", "size=2m", "none", disk):
        here = disk / "run"
        here.mkdir()
        for name in ("last.ckpt", "metrics.csv", "config.json"):
            shutil.copy(run / name, here)
        before = (here / "last.ckpt").read_bytes()
        # All but a little is taken: a checkpoint does not fit, the rest does.
        filler = disk / "filler"
        filler.write_bytes(bytes(max(0, shutil.disk_usage(here).free - 300_000)))
        result = one_more(here)
        assert_refused(result, "cannot be written (No space left on device)", "intact")
        assert len(result.stderr.strip().splitlines()) == 1
        assert (here / "last.ckpt").read_bytes() == before
        filler.unlink()
        assert_done(one_more(here), here)


def test_a_folder_that_may_only_be_read(dataset: Path, run: Path, tmp_path: Path) -> None:
    """Mounted so, which holds for root too: a run, and data."""
    folder, data = tmp_path / "readonly", tmp_path / "data"
    for path, source in ((folder, run), (data, dataset)):
        path.mkdir()
        read_only = ["mount", "-o", "remount,ro,bind", str(path)]
        with mounted("--bind", source, path):
            subprocess.run(read_only, check=True, capture_output=True)
            with pytest.raises(OSError):  # the control
                (path / "x").touch()
            if path == folder:
                before = state_of(folder)
                words = "cannot be written (Read-only file system)"
                assert_refused(one_more(folder), f"{folder}", words)
                result = run_script("Tester.py", "--ckpt_path", folder / "best.ckpt")
                assert_refused(result, f"{folder}", "Read-only file system")
                assert state_of(folder) == before
            else:
                train(data, tmp_path / "new", "--num_epoch", "1")
                made = run_script("Tester.py", "--ckpt_path", tmp_path / "new/last.ckpt")
                assert made.returncode == 0, made.stderr
                inside = run_script("dataloader.py", "check", data, "--picture", data / "a.png")
                assert_refused(inside, "a.png", "Read-only file system")
    assert_done(one_more(run), run)  # the control


# ---------------------------------------------------------------- two runs, and killed ones


def test_leftovers_go_with_the_next_start(run: Path) -> None:
    left = [run / ".last.ckpt.4711.tmp", run / ".last.prev.ckpt.tmp", run / ".curves.png.1.tmp"]
    for path in left:
        path.write_bytes(b"half of it")
    (run / ".notes").touch()
    assert_refused(one_more(run, "--lr", "0.5"), "--lr")
    assert all(path.exists() for path in left)  # a refused start touches nothing
    assert_done(one_more(run), run)
    assert (run / ".notes").exists()
    # They are never taken for a checkpoint.
    (run / "last.ckpt").rename(left[0])
    (run / "last.prev.ckpt").unlink()
    assert_refused(one_more(run), "no run to continue")


def test_a_second_run_in_the_folder_is_refused(dataset: Path, tmp_path: Path) -> None:
    """Until the first is killed: then the same command goes on from what it has saved."""
    run = tmp_path / "run"
    started = ["--DR", str(dataset), "--save_root", str(run), *TINY_RUN, "--num_epoch", "9999"]
    command = [sys.executable, str(REPOSITORY / "Trainer.py"), *started]
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    for _ in range(600):
        if first.poll() is not None or len(list(run.glob("last*.ckpt"))) > 1:
            break
        time.sleep(0.1)
    (run / ".last.ckpt.4711.tmp").touch()
    for words in (
        ["--save_root", str(run), "--resume"],
        [*started, "--resume_if_any"],
        [*started],
    ):
        lock = json.loads((run / "run.lock").read_text())
        assert lock["process"] == first.pid
        assert_refused(
            run_script("Trainer.py", *words),
            f"run.lock: process {first.pid} on {lock['host']} is a run in this folder",
        )
    assert (run / ".last.ckpt.4711.tmp").exists()  # it may be what the first is writing
    first.kill()
    assert first.communicate()[1] == "" and first.returncode == -9  # nothing disturbed it
    assert (run / "run.lock").exists()
    done = load_last(run).last_epoch + 3
    resumed = run_script("Trainer.py", *started[:-1], str(done), "--resume_if_any")
    assert_done(resumed, run, done)


# ---------------------------------------------------------------- corrupted checkpoints


@slow
def test_none_of_250_corrupted_ones_is_loaded_with_other_content(run: Path) -> None:
    source, target = run / "last.ckpt", run / "corrupted.ckpt"
    counts, bad = read_corrupted(source, target, flips=200, cuts=50, seed=0)
    assert (bad, counts.total()) == ([], 250)
    # Bytes without meaning, such as padding: with them all content is what was saved. They are
    # a minority, and no cut is among them, or the damage would not be worth its name.
    assert counts["refused"] >= 150


def test_every_cut_is_refused(run: Path) -> None:
    counts, bad = read_corrupted(run / "last.ckpt", run / "c.ckpt", flips=0, cuts=50, seed=1)
    assert (counts, bad) == ({"refused": 50}, [])


def test_what_the_checksums_do_not_cover(run: Path) -> None:
    """The directory of the archive: every byte of a record's entry, set to other values."""
    source, target = run / "last.ckpt", run / "corrupted.ckpt"
    original, data = contents(source), source.read_bytes()
    begin = data.rindex(b"PK\x01\x02", 0, data.rindex(b"archive/data/5"))
    wrong = []
    for place in range(begin, begin + 46):
        for mask in (0x10, 0xFF):  # 0x10 among the attributes: the record is a folder
            changed = bytes([data[place] ^ mask])
            target.write_bytes(data[:place] + changed + data[place + 1 :])
            if (found := outcome_of_reading(target, original)) not in ("refused", "identical"):
                wrong.append((place - begin, mask, found))
    assert wrong == []


def test_silent_loading_would_be_noticed(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The controls: without the archive's checksums flipped bytes load as other numbers."""
    data = bytes(range(256)) * 4
    made = [corrupted for _, corrupted in corrupted_copies(data, flips=30, cuts=10, seed=0)]
    for flipped in made[:30]:
        assert sum(a != b for a, b in zip(flipped, data, strict=True)) == 1
    assert made[30] == b""
    assert all(data.startswith(short) and len(short) < len(data) for short in made[30:])
    zero = torch.zeros(2)
    assert same({"a": [zero, 1]}, {"a": [zero.clone(), 1]})
    for other in (-zero, zero.double(), torch.zeros(2, 1)):
        assert not same(zero, other)
    path = run / "last.ckpt"
    original = contents(path)
    assert outcome_of_reading(path, {**original, "last_epoch": 7}) == "silent"
    with monkeypatch.context() as patch:
        patch.setattr(zipfile, "is_zipfile", lambda _: False)
        counts, bad = read_corrupted(path, run / "c.ckpt", flips=12, cuts=0, seed=0)
    assert counts["silent"] > 0 and any(line.endswith("silent") for line in bad)
    for error, outcome in (
        (UserError("a file is corrupted"), "unnamed"),
        (UserError(f"{path}: corrupted\nand more"), "unnamed"),
        (KeyError("x"), "crash"),
    ):

        def fail(_: Path, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr("tests.support.faults.load_checkpoint", fail)
        assert outcome_of_reading(path, original) == outcome


def test_a_damaged_config_is_named(run: Path) -> None:
    path = run / "config.json"
    path.write_bytes(path.read_bytes()[:40])
    before = state_of(run)
    assert_refused(one_more(run), f"{path}: cannot be read as JSON")
    assert state_of(run) == before
    path.unlink()
    assert_done(one_more(run), run)


# ---------------------------------------------------------------- names

NAMES = [
    pytest.param(os.fsdecode(b"-r\xfcn $x_i^2$ \xe8\x88\x9e"), id="dash, not UTF-8"),
    pytest.param(" my run 💃[1]*?%d{0}", id="spaces, emoji, glob", marks=slow),
    pytest.param('it\'s "a"\nb.v1.ckpt', id="quotes, newline, dots", marks=slow),
]


@pytest.mark.parametrize("name", NAMES)
def test_folders_of_any_name(dataset: Path, finished: Path, tmp_path: Path, name: str) -> None:
    """Data, run and results in such folders; training, resuming, testing, comparing."""
    place = tmp_path / name
    shutil.copytree(dataset, place / "data")
    here, epoch = f"{name}/{name}", ("--num_epoch", "1", "--store_visualization")
    for command in (
        ("Trainer.py", f"--DR={name}/data", f"--save_root={here}", *TINY_RUN, *epoch),
        ("Trainer.py", f"--save_root={here}", "--resume", "--num_epoch", "2"),
        ("Tester.py", f"--ckpt_path={here}/last.ckpt"),
        ("modules/plots.py", "curves", "--", here),
        ("modules/plots.py", "compare", f"--out={name}/report", "--", here, str(finished)),
    ):
        result = run_script(*command, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
    assert_done(result, place / name, 2)
    assert (place / name / "test/submission.csv").exists()
    (place / "report/summary.md").read_text(encoding="utf-8", errors="strict")


@pytest.mark.parametrize(
    ("script", "option"),
    [
        ("Trainer.py", "--DR"),
        ("Trainer.py", "--save_root"),
        ("Trainer.py", "--ckpt_path"),
        ("Tester.py", "--ckpt_path"),
        ("Tester.py", "--save_root"),
        ("dataloader.py", "check"),
        ("modules/plots.py", "curves"),
    ],
)
def test_a_name_that_is_too_long_is_one_line(
    dataset: Path, finished: Path, tmp_path: Path, script: str, option: str
) -> None:
    given = {
        "Trainer.py": {"--DR": str(dataset), "--save_root": str(tmp_path / "new")},
        "Tester.py": {"--ckpt_path": str(finished / "best.ckpt")},
    }.get(script, {})
    words = [word for pair in {**given, option: f"{tmp_path}/{'x' * 300}"}.items() for word in pair]
    result = run_script(script, *words, *(TINY_RUN if script == "Trainer.py" else ()))
    assert_refused(result, "x" * 300, "long")
    assert len(result.stderr.splitlines()) == 1


def test_one_folder_by_two_names(dataset: Path, tmp_path: Path) -> None:
    """As on macOS and Windows, where case does not count; simulated by links and mounts."""
    data = Path(shutil.copytree(dataset, tmp_path / "data"))
    train(dataset, tmp_path / "Run", "--num_epoch", "1")
    (tmp_path / "run").symlink_to(tmp_path / "Run")
    other = tmp_path / "TRAIN"
    other.symlink_to(data / "train")
    for save_root, words in (
        (tmp_path / "run", "already holds a run"),
        (other / "run", "inside the data set's train/"),
    ):
        result = run_script("Trainer.py", "--DR", data, "--save_root", save_root, *TINY_RUN)
        assert_refused(result, words)
    other.unlink()
    other.mkdir()
    with mounted("--bind", data / "train", other):
        result = run_script("Trainer.py", "--DR", data, "--save_root", other / "run", *TINY_RUN)
        assert_refused(result, "inside the data set's train/")
        assert not (other / "run").exists()
    train(data, other / "run", "--num_epoch", "1")  # the control: now it is another folder
