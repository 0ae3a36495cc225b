"""docs/options.md is what its generator makes of the options."""

import dataclasses
import subprocess
import sys

import pytest

from modules import options
from modules.options import TesterOptions, TrainerOptions
from tests.programs import options_page
from tests.support.documents import text_of
from tests.support.scripts import REPOSITORY


def test_the_page_is_up_to_date() -> None:
    """Otherwise: python tests/programs/options_page.py > docs/options.md."""
    assert text_of("docs/options.md") == options_page.page()


def test_the_command_writes_the_page() -> None:
    command = [sys.executable, "tests/programs/options_page.py"]
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == options_page.page()


def test_every_option_is_there_once_for_each_script() -> None:
    page = options_page.page()
    trainer, tester = page.split("## Tester.py\n")
    for script, text in ((TrainerOptions, trainer.split("## Presets")[0]), (TesterOptions, tester)):
        for entry in dataclasses.fields(script):
            assert text.split("## dataloader.py")[0].count(f"\n| `--{entry.name}` |") == 1
    for name in ("CLIP", "--out", "--labels", "--max_gap"):
        assert f"\n| `{name}` |" in page.split("## dataloader.py video")[1]


def test_a_change_of_an_option_or_preset_changes_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control."""
    before = options_page.page()
    monkeypatch.setitem(options.PRESETS["demo"], "num_epoch", 11)
    assert options_page.page() != before
    monkeypatch.undo()
    assert options_page.page() == before

    @dataclasses.dataclass
    class Changed(TrainerOptions):
        lr: float = dataclasses.field(
            default=0.5, metadata=TrainerOptions.__dataclass_fields__["lr"].metadata
        )

    monkeypatch.setattr(options_page, "TrainerOptions", Changed)
    assert "| `--lr` | `0.5` |" in options_page.page()
    assert "| `--lr` | `0.001` |" in before


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("seconds left out (default 1)", ("seconds left out", "1")),
        ("weights (default: fetched, 226 MB, once)", ("weights", "fetched, 226 MB, once")),
        ("folder of the new data set", ("folder of the new data set", "")),
    ],
)
def test_defaults_in_help_texts(text: str, parts: tuple[str, str]) -> None:
    assert options_page.split_default(text) == parts
