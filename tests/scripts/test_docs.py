"""docs/: quoted code still stands, links lead somewhere, and both languages say the same."""

import dataclasses
import re

import pytest

from modules.options import TesterOptions, TrainerOptions
from tests.support.scripts import REPOSITORY

FOLDER = REPOSITORY / "docs"
NAMES = ("theory.md", "theory.zh-TW.md")
REPORTS = ("report.md", "report.zh-TW.md")
QUOTE = re.compile(r"`([^`\n]+)` \(\[([^\]\n]+)\]\(\.\./([^)\n]+)\)\)")
FIGURE = re.compile(r"!\[[^\]\n]+\]\(([^)\n]+)\)")
LINK = re.compile(r"\]\(([^)\n]+)\)")
both = pytest.mark.parametrize("name", NAMES)


def text_of(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")


def quotes(text: str) -> list[tuple[str, str]]:
    """(line of code, file in which it stands) of each quotation, in order."""
    return [(code, path) for code, _, path in QUOTE.findall(text)]


def stands(code: str, source: str) -> bool:
    """Whether the source has this line, whatever its indentation."""
    return code in map(str.strip, source.splitlines())


def formulas(text: str) -> tuple[list[str], list[str]]:
    """The displayed formulas and those within a line, code left out."""
    text = re.sub(r"`[^`\n]+`", "", text)
    displayed = re.findall(r"^\$\$\n(.+)\n\$\$$", text, flags=re.MULTILINE)
    return displayed, re.findall(r"(?<!\$)\$([^$\n]+)\$(?!\$)", text)


def outline(text: str) -> dict[str, list[str]]:
    """What must be the same in both languages, in order."""
    lines = text.splitlines()
    table = [line for line in lines if line.startswith("|")]
    return {
        "headings": re.findall(r"^#+ (?=[^\n]+)", text, flags=re.MULTILINE),
        "columns of table rows": [str(line.count("|")) for line in table],
        "code": [f"{path}: {code}" for code, path in quotes(text)],
        "figures": FIGURE.findall(text),
        "displayed formulas": formulas(text)[0],
        "options": sorted(re.findall(r"--\w+", text)),
    }


@both
def test_every_quoted_line_stands_in_its_file(name: str) -> None:
    found = QUOTE.findall(text_of(name))
    assert len(found) > 20
    for code, shown, path in found:
        assert shown == path, f"{shown} links to {path}"
        source = (REPOSITORY / path).read_text(encoding="utf-8")
        assert stands(code, source), f"{name} quotes a line that is not in {path}: {code}"


@both
def test_every_line_that_mentions_a_module_is_a_quotation(name: str) -> None:
    """A quotation with a slip in its form would be passed over by the test above."""
    text = text_of(name)
    assert text.count("](../modules/") == len(quotes(text))


def test_a_changed_line_would_be_noticed() -> None:
    code, path = quotes(text_of(NAMES[0]))[0]
    source = (REPOSITORY / path).read_text(encoding="utf-8")
    assert not stands(code, source.replace(code, code + " + 0"))
    assert not stands(code[:-1], source)


def test_both_languages_have_the_same_parts() -> None:
    english, chinese = (outline(text_of(name)) for name in NAMES)
    for part, items in english.items():
        assert items, part
        assert items == chinese[part], part


@pytest.mark.parametrize("name", [*NAMES, *REPORTS])
def test_linked_files_exist(name: str) -> None:
    local = [link for link in LINK.findall(text_of(name)) if "://" not in link]
    assert local
    for link in local:
        assert (FOLDER / link.split("#")[0]).is_file(), f"{name}: {link}"


def test_both_reports_have_the_same_commands_figures_and_numbers() -> None:
    def facts(text: str) -> dict[str, list[str]]:
        return {
            "code": re.findall(r"```\n.*?```", text, flags=re.DOTALL),
            "figures": FIGURE.findall(text),
            "numbers": sorted(re.findall(r"\d+\.\d\d", text)),
        }

    english, chinese = (facts(text_of(name)) for name in REPORTS)
    for part, items in english.items():
        assert items, part
        assert items == chinese[part], part


@pytest.mark.parametrize("name", [*NAMES, *REPORTS])
def test_options_exist(name: str) -> None:
    known = {e.name for o in (TrainerOptions, TesterOptions) for e in dataclasses.fields(o)}
    elsewhere = {"picture", "out", "by_name"}  # of dataloader.py check, modules.plots compare
    assert set(re.findall(r"--(\w+)", text_of(name))) <= known | elsewhere


@both
def test_formulas_have_the_form_that_github_draws(name: str) -> None:
    """A space before each `$`, no letter after, no backslash or underscore that Markdown takes."""
    text = text_of(name)
    displayed, inline = formulas(text)
    assert text.count("$$") == 2 * len(displayed)
    assert re.sub(r"`[^`\n]+`|\$\$", "", text).count("$") == 2 * len(inline)
    for formula in inline:
        place = re.escape(f"${formula}$")
        assert not re.search(rf"[^\s]{place}|{place}[^\W_]", text), formula
        assert formula == formula.strip()
    for formula in displayed + inline:
        assert not re.search(r"\\[^A-Za-z]|[^A-Za-z]_|[*<>]", formula), formula
