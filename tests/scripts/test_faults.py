"""Faults from outside: corrupted files, a full disk, a folder that may not be written or that
changes, weights and gradients that are not finite. Nothing is lost, and nothing goes unnoticed."""

import contextlib
import resource
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import dataloader
from modules import runlog
from modules.checkpoint import load_checkpoint, save_checkpoints
from modules.runtime.errors import UserError
from tests.support.comparing import same
from tests.support.data import make_dataset
from tests.support.faults import contents, corrupted_copies, outcome_of_reading, read_corrupted
from tests.support.scripts import TINY_RUN, assert_refused, run_script, train


@pytest.fixture(scope="module")
def trained(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two epochs; not to be changed."""
    run = tmp_path_factory.mktemp("runs") / "trained"
    train(dataset, run, "--num_epoch", "2", "--auto_save")
    return run


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of that run."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def resume(run: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return run_script("Trainer.py", "--save_root", run, "--resume", "--num_epoch", "3", *more)


# ---------------------------------------------------------------- corrupted checkpoints


class TestCorruptedCheckpoints:
    @pytest.mark.slow
    def test_none_of_250_is_loaded_with_other_content(self, trained: Path, tmp_path: Path) -> None:
        source, target = trained / "last.ckpt", tmp_path / "corrupted.ckpt"
        counts, bad = read_corrupted(source, target, flips=200, cuts=50, seed=0)
        assert bad == []
        assert counts.total() == 250
        # Bytes without meaning, such as padding: with them all content is what was saved. They are
        # a minority, and no cut is among them, or the damage would not be worth its name.
        assert counts["refused"] >= 150

    def test_every_cut_is_refused(self, trained: Path, tmp_path: Path) -> None:
        source, target = trained / "last.ckpt", tmp_path / "cut.ckpt"
        counts, bad = read_corrupted(source, target, flips=0, cuts=50, seed=1)
        assert (counts, bad) == ({"refused": 50}, [])

    def test_what_the_checksums_do_not_cover(self, trained: Path, tmp_path: Path) -> None:
        """The directory of the archive: every byte of a record's entry, set to other values."""
        source, target = trained / "last.ckpt", tmp_path / "corrupted.ckpt"
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
        # The control: where attributes are corrupted, PyTorch alone loads other numbers, unless
        # what its memory happened to hold was the same. So twenty records are tried.
        sound, differing, entry = torch.load(source, weights_only=True), 0, begin
        for _ in range(20):
            place = entry + 38
            target.write_bytes(data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :])
            differing += not same(torch.load(target, weights_only=True), sound)
            entry = data.rindex(b"PK\x01\x02", 0, entry)
        assert differing > 0

    def test_the_damage_is_what_it_says(self) -> None:
        data = bytes(range(256)) * 4
        made = [corrupted for _, corrupted in corrupted_copies(data, flips=30, cuts=10, seed=0)]
        assert len(made) == 40
        for flipped in made[:30]:
            assert len(flipped) == len(data)
            assert sum(a != b for a, b in zip(flipped, data, strict=True)) == 1
        for short in made[30:]:
            assert len(short) < len(data)
            assert data.startswith(short)
        assert made[30] == b""

    def test_silent_loading_would_be_noticed(
        self, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # Without the archive's checksums, flipped bytes of tensors load as other numbers.
        monkeypatch.setattr(zipfile, "is_zipfile", lambda _: False)
        source, target = trained / "last.ckpt", tmp_path / "corrupted.ckpt"
        counts, bad = read_corrupted(source, target, flips=12, cuts=0, seed=0)
        assert counts["silent"] > 0
        assert any(line.endswith("silent") for line in bad)

    def test_other_outcomes_would_be_noticed(
        self, trained: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = trained / "last.ckpt"
        original = contents(path)
        assert outcome_of_reading(path, original) == "identical"
        changed = {**original, "last_epoch": 7}
        assert outcome_of_reading(path, changed) == "silent"
        for error, outcome in (
            (UserError("a file is corrupted"), "unnamed"),
            (UserError(f"{path}: corrupted\nand more"), "unnamed"),
            (UserError(f"{path}: corrupted"), "refused"),
            (KeyError("x"), "crash"),
        ):

            def fail(_: Path, error: Exception = error) -> None:
                raise error

            monkeypatch.setattr("tests.support.faults.load_checkpoint", fail)
            assert outcome_of_reading(path, original) == outcome

    def test_same_is_bit_for_bit(self) -> None:
        zero = torch.zeros(2)
        assert same({"a": [zero, 1]}, {"a": [zero.clone(), 1]})
        assert same(torch.tensor(float("nan")), torch.tensor(float("nan")))
        assert not same(zero, -zero)
        assert not same(zero, zero.double())
        assert not same(zero, torch.zeros(2, 1))
        assert not same([1], [1.0])
        assert not same({"a": 1}, {"b": 1})


# ---------------------------------------------------------------- a full disk


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


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(folder)]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("no file system may be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def state_of_run(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in run.iterdir()}


class TestFullDisk:
    def test_a_save_that_does_not_fit_leaves_the_earlier_file(self, run: Path) -> None:
        path = run / "last.ckpt"
        before = state_of_run(run)
        content = torch.load(path, weights_only=True)
        with (
            files_of_at_most(100_000),
            pytest.raises(UserError, match=r"last\.ckpt: cannot be written .*is intact") as caught,
        ):
            save_checkpoints([path], content)
        assert "\n" not in str(caught.value)
        after = state_of_run(run)
        assert after["last.ckpt"] == before["last.ckpt"]
        assert not [name for name in after if "tmp" in name]
        load_checkpoint(path)
        save_checkpoints([path], content)  # the control: with room it is written

    def test_a_run_ends_with_one_line_and_can_be_resumed(self, run: Path) -> None:
        before = (run / "last.ckpt").read_bytes()
        # Figures fit, checkpoints do not.
        with files_of_at_most(len(before) - 1000):
            result = resume(run)
        assert_refused(result, "ckpt: cannot be written", "intact")
        assert len(result.stderr.strip().splitlines()) == 1
        assert (run / "last.ckpt").read_bytes() == before
        result = resume(run)
        assert result.returncode == 0, result.stderr
        assert runlog.read_metrics(run / "metrics.csv")["epoch"].tolist() == [0, 1, 2]
        assert load_checkpoint(run / "last.ckpt").last_epoch == 2

    def test_metrics_that_do_not_fit(self, run: Path) -> None:
        size = (run / "metrics.csv").stat().st_size
        row = dict.fromkeys(runlog.METRIC_COLUMNS, 0.5) | {"epoch": 2}
        with files_of_at_most(size + 30), pytest.raises(UserError, match=r"metrics\.csv"):
            runlog.append_metrics(run / "metrics.csv", row)
        # A part of the line is there; readers leave it out and a resumed run drops it.
        assert runlog.read_metrics(run / "metrics.csv")["epoch"].tolist() == [0, 1]
        result = resume(run)
        assert result.returncode == 0, result.stderr
        assert runlog.read_metrics(run / "metrics.csv")["epoch"].tolist() == [0, 1, 2]

    def test_results_that_do_not_fit(self, run: Path, tmp_path: Path) -> None:
        arguments = ("--ckpt_path", run / "best.ckpt", "--save_root", tmp_path / "out")
        with files_of_at_most(5_000):
            result = run_script("Tester.py", *arguments)
        assert_refused(result, f"{tmp_path / 'out'}", "cannot be written")
        assert not list((tmp_path / "out").glob("*submission*"))
        assert run_script("Tester.py", *arguments).returncode == 0
        assert (tmp_path / "out/submission.csv").exists()
        assert not [path for path in (tmp_path / "out").rglob("*") if "tmp" in path.name]

    def test_a_disk_that_fills_up(self, small_disk: Path, run: Path) -> None:
        here = small_disk / "run"
        here.mkdir()
        for name in ("last.ckpt", "metrics.csv", "config.json"):
            shutil.copy(run / name, here)
        before = (here / "last.ckpt").read_bytes()
        # All but a little is taken: a checkpoint does not fit, the rest does.
        free = shutil.disk_usage(here).free
        filler = small_disk / "filler"
        filler.write_bytes(bytes(max(0, free - 300_000)))
        result = resume(here)
        assert_refused(result, "cannot be written (No space left on device)", "intact")
        assert len(result.stderr.strip().splitlines()) == 1
        assert (here / "last.ckpt").read_bytes() == before
        assert not [path for path in here.iterdir() if "tmp" in path.name]
        filler.unlink()
        result = resume(here)
        assert result.returncode == 0, result.stderr
        assert load_checkpoint(here / "last.ckpt").last_epoch == 2


class TestLeftovers:
    """What a process leaves half-written when it is killed while it writes."""

    def test_go_with_the_next_start(self, run: Path) -> None:
        left = [run / ".last.ckpt.4711.tmp", run / ".last.prev.ckpt.tmp", run / ".curves.png.1.tmp"]
        for path in left:
            path.write_bytes(b"half of it")
        others = run / ".notes"
        others.touch()
        assert_refused(resume(run, "--lr", "0.5"), "--lr")
        assert all(path.exists() for path in left)  # a refused start touches nothing
        result = resume(run)
        assert result.returncode == 0, result.stderr
        assert not any(path.exists() for path in left)
        assert others.exists()

    def test_are_never_taken_for_a_checkpoint(self, run: Path) -> None:
        (run / "last.ckpt").rename(run / ".last.ckpt.4711.tmp")
        (run / "last.prev.ckpt").unlink()
        assert_refused(resume(run), "no run to continue")


class TestReadOnlyFolder:
    def test_a_folder_that_may_not_be_written(self, run: Path, tmp_path: Path) -> None:
        """A file system that is mounted read-only, which holds for root too."""
        folder = tmp_path / "readonly"
        folder.mkdir()
        bind = ["mount", "--bind", str(run), str(folder)]
        if not shutil.which("mount") or subprocess.run(bind, capture_output=True).returncode:
            pytest.skip("no folder may be mounted here")
        try:
            again = ["mount", "-o", "remount,ro,bind", str(folder)]
            subprocess.run(again, check=True, capture_output=True)
            before = state_of_run(folder)
            result = resume(folder)
            assert_refused(result, f"{folder}", "cannot be written (Read-only file system)")
            result = run_script("Tester.py", "--ckpt_path", folder / "best.ckpt")
            assert_refused(result, f"{folder}", "Read-only file system")
            with pytest.raises(UserError, match=r"last\.ckpt: cannot be written .*intact"):
                save_checkpoints([folder / "last.ckpt"], {"a": 1})
            assert state_of_run(folder) == before
        finally:
            subprocess.run(["umount", str(folder)], check=True)
        assert resume(run).returncode == 0  # the control


# ---------------------------------------------------------------- data that change


class TestDataThatChange:
    """Between the check of the structure and the reading of the pixels, or during a run."""

    CHANGES = (
        (lambda path: path.unlink(), "cannot be read (No such file or directory)"),
        (lambda path: path.write_bytes(b""), "the file is empty"),
        (lambda path: path.write_bytes(path.read_bytes()[:40]), "header is corrupted"),
        (lambda path: (path.unlink(), path.mkdir()), "is not a file"),
    )

    @pytest.mark.parametrize(("change", "text"), CHANGES, ids=[text for _, text in CHANGES])
    def test_between_check_and_read(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Any, text: str
    ) -> None:
        root = make_dataset(tmp_path / "data")
        read = dataloader._read_images

        def change_first(*arguments: Any, **options: Any) -> None:
            change(root / "train/train_img/5.png")
            read(*arguments, **options)

        settings = {"height": 16, "width": 16, "train_vi_len": 4, "val_vi_len": 9}
        dataloader.load_train_val(root, **settings)  # the control
        monkeypatch.setattr(dataloader, "_read_images", change_first)
        with pytest.raises(UserError, match=r"1 fault.*train/train_img/5\.png") as caught:
            dataloader.load_train_val(root, **settings)
        assert text in str(caught.value)

    def test_a_whole_folder_that_goes_away(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        root = make_dataset(tmp_path / "data")
        read = dataloader._read_images

        def remove_first(*arguments: Any, **options: Any) -> None:
            shutil.rmtree(root)
            read(*arguments, **options)

        monkeypatch.setattr(dataloader, "_read_images", remove_first)
        with pytest.raises(UserError, match="faults in the data set") as caught:
            dataloader.load_test(root, height=16, width=16)
        assert "test/test_label/1/8.png: cannot be read" in str(caught.value)

    @pytest.mark.slow
    def test_data_that_change_during_a_run_do_not_matter(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # They were read once. A resumed run, which reads them again, refuses other data.
        import Trainer

        root = make_dataset(tmp_path / "data")
        monkeypatch.setattr(
            Trainer, "validate", _first(lambda: _paint(root / "train/train_img/5.png"))(
                Trainer.validate
            )
        )  # fmt: skip
        whole = make_dataset(tmp_path / "whole")
        found = []
        for data, name in ((root, "a"), (whole, "b")):
            arguments = ["--DR", str(data), "--save_root", str(tmp_path / name), *TINY_RUN]
            monkeypatch.setattr(sys, "argv", ["Trainer.py", *arguments, "--num_epoch", "2"])
            Trainer.main()
            found.append(contents(tmp_path / name / "last.ckpt")["state_dict"])
        assert same(*found)
        monkeypatch.undo()
        assert_refused(resume(tmp_path / "a"), "is not what this run was trained on")
        assert resume(tmp_path / "b").returncode == 0  # the control


def _paint(path: Path) -> None:
    Image.new("RGB", (16, 16), (1, 2, 3)).save(path)


def _first(action: Any) -> Any:
    """A decorator: do something before the first call."""

    def decorate(function: Any) -> Any:
        done = []

        def wrapper(*arguments: Any, **options: Any) -> Any:
            if not done:
                done.append(action())
            return function(*arguments, **options)

        return wrapper

    return decorate


# ---------------------------------------------------------------- not finite


class TestNotFinite:
    """Frames are bytes, so that what is not finite comes from weights or gradients."""

    def test_weights(self, run: Path, tmp_path: Path) -> None:
        content = torch.load(run / "best.ckpt", weights_only=True)
        content["state_dict"]["Generator.7.bias"][1] = float("nan")
        torch.save(content, run / "bad.ckpt")
        out = tmp_path / "out"
        for script, more in (("Tester.py", ()), ("Trainer.py", ("--test", "--device", "cpu"))):
            arguments = ("--ckpt_path", run / "bad.ckpt", "--save_root", out, *more)
            result = run_script(script, *arguments)
            assert_refused(result, "bad.ckpt", "not finite")
            assert not [path for path in out.rglob("*") if path.is_file()]
            result = run_script(script, *("--ckpt_path", run / "best.ckpt"), *arguments[2:])
            assert result.returncode == 0, result.stderr  # the control
            shutil.rmtree(out)

    def test_one_gradient(
        self, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A single NaN in the last step's gradient: that step changes nothing and is counted."""
        import Trainer

        steps_of_epoch = 3
        backward = torch.Tensor.backward

        def changed(name: str, spoil: bool) -> tuple[list[float], bool, dict[str, Any]]:
            """(sequences skipped, whether the last step changed weights, final weights)."""
            steps: list[int] = []
            before: list[torch.Tensor] = []

            def watched(self: torch.Tensor, *arguments: Any, **options: Any) -> None:
                weights = _leaves(self)
                backward(self, *arguments, **options)
                steps.append(1)
                if len(steps) == steps_of_epoch:
                    before.extend(weight.detach().clone() for weight in weights)
                    gradient = weights[0].grad
                    assert gradient is not None
                    if spoil:
                        gradient.view(-1)[0] = float("nan")

            with monkeypatch.context() as patch:
                patch.setattr(torch.Tensor, "backward", watched)
                arguments = ["--DR", str(dataset), "--save_root", str(tmp_path / name)]
                arguments += [*TINY_RUN, "--num_epoch", "1"]
                patch.setattr(sys, "argv", ["Trainer.py", *arguments])
                Trainer.main()
            assert len(steps) == steps_of_epoch
            weights = contents(tmp_path / name / "last.ckpt")["state_dict"]
            kept = all(any(same(old, new) for new in weights.values()) for old in before)
            skipped = runlog.read_metrics(tmp_path / name / "metrics.csv")["skipped"].tolist()
            return skipped, not kept, weights

        assert changed("sound", spoil=False)[:2] == ([0], True)  # the control
        skipped, moved, weights = changed("spoiled", spoil=True)
        assert (skipped, moved) == ([2], False)
        assert all(torch.isfinite(value).all() for value in weights.values())


def _leaves(loss: torch.Tensor) -> list[torch.Tensor]:
    """The parameters that a loss depends on."""
    seen: set[Any] = set()
    waiting = [loss.grad_fn]
    found = []
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.append(node.variable)
        waiting += [parent for parent, _ in node.next_functions]
    return found
