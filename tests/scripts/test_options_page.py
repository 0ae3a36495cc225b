"""docs/options.md is what its generator makes of the options."""

import dataclasses
import subprocess
import sys

import pytest

from modules import options
from modules.datasets.video_options import COMMANDS
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
    trainer, rest = options_page.page().split("\n## Presets")
    tester, *commands = rest.split("\n## Tester.py")[1].split("\n## dataloader.py ")
    parts = [(TrainerOptions, trainer), (TesterOptions, tester)]
    for script, text in [*parts, *zip(COMMANDS.values(), commands, strict=True)]:
        for entry in dataclasses.fields(script):
            positional = entry.metadata["positional"]
            name = entry.metadata["metavar"] if positional else f"--{entry.name}"
            assert text.count(f"\n| `{name}` |") == 1


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
