"""The data set of --preset demo: made once, used again, never in the place of other data."""

from pathlib import Path

import pytest

from modules.datasets import demo
from modules.datasets.demo import demo_data
from modules.datasets.synthetic import make_demo
from modules.runtime.errors import UserError
from tests.support.scripts import run_script

SIZE = {"height": 16, "width": 16}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """A few frames in the place of thousands; the folders that were made."""
    made: list[Path] = []

    def make(root: Path, *, height: int, width: int) -> None:
        make_demo(root, train=3, val=2, test=1, test_length=2, seed=0, height=height, width=width)
        made.append(root)

    def matches(root: Path, *, height: int, width: int) -> bool:
        return (root / "train").is_dir() and (height, width) == (16, 16)

    monkeypatch.setattr(demo, "make_demo", make)
    monkeypatch.setattr(demo, "demo_matches", matches)
    return made


def test_made_once_and_then_used_again(
    tmp_path: Path, small: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "demo"
    for _ in range(2):
        with demo_data(root, **SIZE, keep=True) as found:
            assert found == root
            assert (root / "train/train_img/0.png").exists()
    assert small == [root]
    assert capsys.readouterr().out.count(str(root)) == 1


def test_a_dry_run_leaves_nothing(tmp_path: Path, small: list[Path]) -> None:
    with demo_data(tmp_path / "demo", **SIZE, keep=False) as found:
        assert found != tmp_path / "demo"
        assert (found / "train/train_img/0.png").exists()
    assert not found.exists()
    assert list(tmp_path.iterdir()) == []


def test_other_data_are_left_alone(tmp_path: Path, small: list[Path]) -> None:
    with demo_data(tmp_path / "demo", **SIZE, keep=True):
        pass
    (tmp_path / "mine").mkdir()
    for root, size in ((tmp_path / "mine", SIZE), (tmp_path / "demo", {"height": 16, "width": 24})):
        for keep in (True, False):
            with (
                pytest.raises(UserError, match=f"{root} is not the demo's data.*--DR"),
                demo_data(root, **size, keep=keep),
            ):
                pass
    assert list((tmp_path / "mine").iterdir()) == []
    assert small == [tmp_path / "demo"]


def test_preset_demo_names_its_folders(tmp_path: Path, small: list[Path]) -> None:
    """Through Trainer.py: nothing else needs to be typed."""
    options = "--frame_H 16 --frame_W 16 --train_vi_len 2 --val_vi_len 2 --device cpu --dry_run"
    result = run_script("Trainer.py", "--preset", "demo", *options.split(), cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "runs/demo" in result.stdout
    assert list(tmp_path.iterdir()) == []
