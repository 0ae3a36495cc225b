"""README says what the program does: its options and files exist, its commands parse."""

import dataclasses
import re
import shlex

import pytest

import dataloader
from modules.options import TesterOptions, TrainerOptions, parse, parse_trainer
from modules.runtime.errors import UserError
from tests.support.scripts import REPOSITORY

README = (REPOSITORY / "README.md").read_text()
REPORT = (REPOSITORY / "docs/report.md").read_text()


def commands(script: str) -> list[list[str]]:
    """The arguments of every command line of this script in the code blocks of both texts."""
    blocks = re.findall(r"```\w*\n(.*?)```", README + REPORT, flags=re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [
        shlex.split(line, comments=True)[2:]
        for line in lines
        if line.startswith(f"python {script} ")
    ]


@pytest.mark.parametrize("options", [TrainerOptions, TesterOptions])
def test_every_option_stands_with_its_default(options: type) -> None:
    for entry in dataclasses.fields(options):
        default = "off" if entry.default is False else entry.metadata["shown"] or entry.default
        assert f"| `--{entry.name}` | {default} | {entry.metadata['help']}" in README


def test_no_option_stands_that_does_not_exist() -> None:
    real = {e.name for o in (TrainerOptions, TesterOptions) for e in dataclasses.fields(o)}
    listed = set(re.findall(r"^\| `--(\w+)`", README, flags=re.MULTILINE))
    assert listed == real


def test_commands_parse() -> None:
    trainer, tester = commands("Trainer.py"), commands("Tester.py")
    assert len(trainer) > 5
    assert len(tester) > 2
    for arguments in trainer:
        parse_trainer("", arguments)
    for arguments in tester:
        parse(TesterOptions, "", arguments)


def test_dataloader_commands_parse() -> None:
    typed = commands("dataloader.py")
    assert {arguments[0] for arguments in typed} == {"check", "video"}
    for arguments in typed:
        # The folders do not exist here: a misspelt option would be complained of first.
        with pytest.raises(UserError, match=r"no such|missing|no folder"):
            dataloader.main(arguments)


def test_files_and_figures_exist() -> None:
    for name in re.findall(r"\]\((docs/[\w.]+)\)", README):
        assert (REPOSITORY / name).stat().st_size > 1000, name
    for name in re.findall(r"`((?:modules/)?\w+\.py)`", README):
        assert (REPOSITORY / name).exists(), name


def test_translation_has_the_same_commands_options_figures_and_numbers() -> None:
    translation = (REPOSITORY / "README.zh-TW.md").read_text()

    def facts(text: str) -> dict[str, list[str]]:
        tables = [line for line in text.splitlines() if line.startswith("|")]
        return {
            "code": re.findall(r"```\w*\n.*?```", text, flags=re.DOTALL),
            "options": re.findall(r"^\| `(--\w+)` \|", text, flags=re.MULTILINE),
            "figures": re.findall(r"\]\((docs/[\w.]+png|docs/[\w.]+gif)\)", text),
            "headings": [str(len(re.findall(r"^#+ ", text, flags=re.MULTILINE)))],
            "rows": [str(len(tables))],
            "decibels": sorted(re.findall(r"\d+\.\d\d", "".join(tables))),
        }

    english, chinese = facts(README), facts(translation)
    for name, found in english.items():
        assert chinese[name] == found, name
    changed = facts(translation.replace("--precision", "--precisions"))  # the control
    assert changed != english


def test_nothing_is_left_to_fill_in() -> None:
    assert not re.findall(r"@[A-Z]+@", README)
