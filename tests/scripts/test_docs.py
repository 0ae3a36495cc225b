"""README.md and docs/: commands parse, links lead somewhere, names exist, both languages agree."""

import dataclasses
import importlib
import re
from functools import reduce
from pathlib import Path

import pytest

import dataloader
from modules.datasets.video_options import COMMANDS
from modules.options import TesterOptions, TrainerOptions, parse, parse_trainer
from modules.plots import CompareOptions
from modules.runtime.errors import UserError
from tests.support.documents import (
    PAGES,
    TRANSLATED,
    UNTRANSLATED,
    arguments_of,
    broken_links,
    formulas,
    references,
    shared_facts,
    text_of,
    translation_of,
    without_blocks,
)
from tests.support.scripts import REPOSITORY

TRANSLATIONS = [translation_of(page) for page in TRANSLATED]
BOTH = [*PAGES, *TRANSLATIONS]
every_text = pytest.mark.parametrize("page", BOTH)
THEORY = [name for name in BOTH if "theory" in name]


def test_the_pages_that_are_translated() -> None:
    folders = (REPOSITORY, REPOSITORY / "docs")
    found = {str(f.relative_to(REPOSITORY)) for each in folders for f in each.glob("*.zh-TW.md")}
    assert found == set(TRANSLATIONS)
    for page in TRANSLATED:
        assert f"[繁體中文]({Path(translation_of(page)).name})" in text_of(page)
        assert f"[English]({Path(page).name})" in text_of(translation_of(page))
    for page in UNTRANSLATED:
        assert "[繁體中文]" not in text_of(page)


@pytest.mark.parametrize("page", TRANSLATED)
def test_both_languages_have_the_same_facts(page: str) -> None:
    english, chinese = (shared_facts(text_of(name)) for name in (page, translation_of(page)))
    for name, found in english.items():
        assert chinese[name] == found, name


def test_a_difference_is_noticed() -> None:
    """The control."""
    for page, old, new, fact in (
        ("README.md", "runs/best --resume", "runs/c --resume", "commands"),
        ("docs/theory.md", "labels --> fusion", "labels --> loss", "diagrams"),
        ("docs/theory.md", "has 22.16 dB", "has 22.61 dB", "numbers"),
    ):
        text = text_of(page)
        assert shared_facts(text)[fact] != shared_facts(text.replace(old, new, 1))[fact]


@every_text
def test_links_lead_somewhere(page: str) -> None:
    assert not broken_links(page, text_of(page))
    wrong = "[a](docs/none.md) [b](docs/theory.md#12-papers) [c](docs/theory.md#11-no)\n"
    assert broken_links("README.md", wrong) == ["docs/none.md", "docs/theory.md#11-no"]  # control


@every_text
def test_files_that_are_named_exist(page: str) -> None:
    for name in re.findall(r"`((?:[\w.]+/)*\w+\.(?:py|toml))`", without_blocks(text_of(page))):
        folders = [REPOSITORY, REPOSITORY / "modules", REPOSITORY / "modules/figures"]
        assert any((folder / name).is_file() for folder in folders), name


def unknown_options(text: str) -> set[str]:
    """Options that a page names and no script has, but for those that it says are gone."""
    every = (TrainerOptions, TesterOptions, CompareOptions, *COMMANDS.values())
    fields = [entry for options in every for entry in dataclasses.fields(options)]
    known = {"help", *(e.name for e in fields if not e.metadata["hidden"])}
    prose = re.sub(r"`(?:pip|torchrun)[^`]*`", "", without_blocks(text))
    prose = re.sub(r"^## No longer promised\n.*?(?=^## |\Z)", "", prose, flags=re.M | re.S)
    return set(re.findall(r"--([A-Za-z]\w*)", prose)) - known


@every_text
def test_options_exist(page: str) -> None:
    assert not unknown_options(text_of(page))
    # The control: outside the section about options that are gone, before and after it.
    text = "`--lr` `--a`\n\n## No longer promised\n\n- `--b`\n\n## Next\n\n`--c`\n"
    assert unknown_options(text) == {"a", "c"}


@every_text
def test_commands_parse(page: str) -> None:
    text = text_of(page)
    for arguments in arguments_of("Trainer.py", text):
        parse_trainer("", arguments)
    for arguments in arguments_of("Tester.py", text):
        parse(TesterOptions, "", arguments)
    for arguments in arguments_of("dataloader.py", text):
        if arguments[0] != "demo":  # which would make one
            # The folders do not exist here: a misspelt option would be complained of first.
            with pytest.raises(UserError, match=r"[Nn]o such|missing|no folder"):
                dataloader.main(arguments)


def test_there_are_commands_to_parse() -> None:
    """The control."""
    text = text_of("README.md")
    assert len(arguments_of("Trainer.py", text)) > 5
    assert len(arguments_of("Tester.py", text)) > 2
    assert {a[0] for a in arguments_of("dataloader.py", text)} == {"check", "video"}
    assert arguments_of("Trainer.py", "… `python Trainer.py --lr 1` …") == [["--lr", "1"]]


@pytest.mark.parametrize("page", ["README.md", "README.zh-TW.md"])
def test_readme_is_short(page: str) -> None:
    assert len(text_of(page).splitlines()) <= 150


def is_there(name: str, shown: str, link: str) -> bool:
    """Whether the file that the link shows has the name."""
    path = shown.removesuffix(".py").replace("/", ".")
    *classes, last = name.split(".")
    try:
        place = reduce(getattr, classes, importlib.import_module(path))
    except (AttributeError, ImportError):
        return False
    # A dataclass's field without a default is no attribute.
    known = hasattr(place, last) or last in getattr(place, "__annotations__", {})
    return known and link == f"../{shown}"


@pytest.mark.parametrize("page", THEORY)
def test_named_code_exists(page: str) -> None:
    text = text_of(page)
    found = references(text)
    assert len(found) > 15
    assert [each for each in found if not is_there(*each)] == []
    # One with a slip in its form would be passed over.
    assert text.count("](../modules/") == len(found)
    # The control: a renamed function, a wrong file, a link that shows another file.
    (name, shown, link), other = found[0], "modules/runlog.py"
    for wrong in ((f"{name}_", shown, link), (name, other, f"../{other}"), (name, other, link)):
        assert not is_there(*wrong)


@pytest.mark.parametrize("page", THEORY)
def test_formulas_have_the_form_that_github_draws(page: str) -> None:
    """A space before each `$`, no letter after, no backslash or underscore that Markdown takes."""
    text = without_blocks(text_of(page))
    displayed, inline = formulas(text)
    assert displayed and inline
    assert text.count("$$") == 2 * len(displayed)
    assert re.sub(r"`[^`\n]+`|\$\$", "", text).count("$") == 2 * len(inline)
    for formula in inline:
        place = re.escape(f"${formula}$")
        assert not re.search(rf"[^\s]{place}|{place}[^\W_]", text), formula
        assert formula == formula.strip()
    for formula in displayed + inline:
        assert not re.search(r"\\[^A-Za-z]|[^A-Za-z]_|[*<>]", formula), formula
