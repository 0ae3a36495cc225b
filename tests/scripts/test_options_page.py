"""docs/options.md is what its generator makes of the options."""

import dataclasses

from modules.datasets.video_options import COMMANDS
from modules.options import TesterOptions, TrainerOptions
from tests.programs import options_page
from tests.support.documents import text_of


def test_the_page_is_up_to_date() -> None:
    """Otherwise: python tests/programs/options_page.py > docs/options.md."""
    assert text_of("docs/options.md") == options_page.page()


def test_every_option_is_there_once_for_each_script() -> None:
    trainer, rest = options_page.page().split("\n## Presets")
    tester, *commands = rest.split("\n## Tester.py")[1].split("\n## dataloader.py ")
    parts = [(TrainerOptions, trainer), (TesterOptions, tester)]
    for script, text in [*parts, *zip(COMMANDS.values(), commands, strict=True)]:
        for entry in dataclasses.fields(script):
            positional = entry.metadata["positional"]
            name = entry.metadata["metavar"] if positional else f"--{entry.name}"
            assert text.count(f"\n| `{name}` |") == 1
