"""README.md and docs/: commands parse, links lead somewhere, names exist, both languages agree."""

import ast
import dataclasses
import re
import shlex
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
    Reference,
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
every_page = pytest.mark.parametrize("page", PAGES)
every_text = pytest.mark.parametrize("page", BOTH)
THEORY = [name for name in BOTH if "theory" in name]


# ---------------------------------------------------------------- both languages


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


@pytest.mark.parametrize(
    ("page", "old", "new", "fact"),
    [
        ("README.md", "runs/best --resume", "runs/c --resume", "commands"),
        ("docs/theory.md", "labels --> fusion", "labels --> loss", "diagrams"),
        ("docs/theory.md", "has 22.16 dB", "has 22.61 dB", "numbers"),
    ],
)
def test_a_difference_is_noticed(page: str, old: str, new: str, fact: str) -> None:
    """The control."""
    text = text_of(page)
    assert old in text
    before, after = shared_facts(text), shared_facts(text.replace(old, new, 1))
    assert before[fact] != after[fact]


# ---------------------------------------------------------------- links, files, options


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


def test_an_option_that_is_gone_is_noticed() -> None:
    """The control: outside the section about such options, before and after it."""
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


def test_cells_of_notebooks_parse() -> None:
    text = text_of("docs/training.md").replace("\\\n", " ")
    train, test = map(shlex.split, re.findall(r"^!python (.*)", text, re.M))
    assert (train[0], test[0]) == ("Trainer.py", "Tester.py")
    parse_trainer("", train[1:])
    parse(TesterOptions, "", test[1:])


def test_there_are_commands_to_parse() -> None:
    """The control."""
    text = text_of("README.md")
    assert len(arguments_of("Trainer.py", text)) > 5
    assert len(arguments_of("Tester.py", text)) > 2
    assert {a[0] for a in arguments_of("dataloader.py", text)} == {"check", "video"}
    assert arguments_of("Trainer.py", "… `python Trainer.py --lr 1` …") == [["--lr", "1"]]


# ---------------------------------------------------------------- form


@pytest.mark.parametrize("page", ["README.md", "README.zh-TW.md"])
def test_readme_is_short(page: str) -> None:
    assert len(text_of(page).splitlines()) <= 150


@every_page
def test_lines_of_prose_are_short(page: str) -> None:
    prose = re.sub(r"^\$\$\n.*?\n\$\$$", "", without_blocks(text_of(page)), flags=re.M | re.S)
    programs = "- average PSNR: ", "- The runs have "  # the report's quotation of summary.md
    lines = [line for line in prose.splitlines() if not line.startswith(("|", "![", *programs))]
    assert not [line for line in lines if len(line) > 100]


@every_text
def test_nothing_is_left_to_fill_in(page: str) -> None:
    assert not re.findall(r"@[A-Z]+@|TODO|FIXME", text_of(page))


# ---------------------------------------------------------------- theory


def names_in(source: str) -> set[str]:
    """The functions, classes, methods and constants of a file, methods as Class.method."""
    found: set[str] = set()
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            inner = [n for n in node.body if isinstance(n, ast.FunctionDef)]
            found |= {f"{node.name}.{n.name}" for n in inner}
            fields = [n.target for n in node.body if isinstance(n, ast.AnnAssign)]
            found |= {f"{node.name}.{n.id}" for n in fields if isinstance(n, ast.Name)}
        if isinstance(node, ast.Assign):
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return found


def missing(found: list[Reference], folder: Path) -> list[Reference]:
    """References whose file does not have the name, or is not the one that the link shows."""
    return [
        each
        for each in found
        if each.link != f"../{each.shown}"
        or each.name not in names_in((folder / each.link).read_text(encoding="utf-8"))
    ]


@pytest.mark.parametrize("page", THEORY)
def test_named_code_exists(page: str) -> None:
    text = text_of(page)
    found = references(text)
    assert len(found) > 15
    assert not missing(found, REPOSITORY / "docs")
    # One with a slip in its form would be passed over.
    assert text.count("](../modules/") == len(found)


def test_a_name_that_is_gone_would_be_noticed() -> None:
    """The control: a renamed function, a wrong file, a link that shows another file."""
    found = references(text_of("docs/theory.md"))
    first = found[0]
    wrong = [
        first._replace(name=first.name + "_"),
        first._replace(shown="modules/runlog.py", link="../modules/runlog.py"),
        first._replace(shown="modules/runlog.py"),
    ]
    assert missing([first, *wrong], REPOSITORY / "docs") == wrong


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
