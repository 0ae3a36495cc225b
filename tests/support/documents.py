"""README.md and docs/ as tests read them: blocks, commands, links, and what languages share."""

import re
import shlex

from tests.support.scripts import REPOSITORY

# What one reads first, or for a report, is translated. The others are looked up, and change with
# the code: a translation would go stale.
TRANSLATED = (
    *("README.md", "docs/training.md", "docs/own_video.md", "docs/theory.md", "docs/report.md"),
)
UNTRANSLATED = ("docs/inputs.md", "docs/results.md", "docs/gpu.md", "docs/reliability.md")
PAGES = (*TRANSLATED, *UNTRANSLATED)
BLOCK = re.compile(r"```(\w*)\n(.*?)```", flags=re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
FIGURE = re.compile(r"!\[[^\]]+\]\(([^)\s]+)\)")
# `name` ([file](link)): a function, class or method, and where it is.
REFERENCE = re.compile(r"`([A-Za-z_][\w.]*)`\s+\(\[([^\]\s]+)\]\(([^)\s]+)\)\)")


def translation_of(page: str) -> str:
    """The page in Chinese."""
    return page.removesuffix(".md") + ".zh-TW.md"


def text_of(page: str) -> str:
    return (REPOSITORY / page).read_text(encoding="utf-8")


def without_blocks(text: str) -> str:
    """The text with its code blocks left out."""
    return BLOCK.sub("", text)


def command_lines(text: str) -> list[str]:
    """The command lines of the code blocks, comments left out, each once."""
    joined = "\n".join(block for _, block in BLOCK.findall(text)).replace("\\\n", " ")
    lines = joined.replace(" && ", "\n").splitlines()
    commands = [line for line in lines if re.match(r"(python|pip|torchrun) ", line)]
    return list(dict.fromkeys(shlex.join(shlex.split(line, comments=True)) for line in commands))


def arguments_of(script: str, text: str) -> list[list[str]]:
    """The arguments of every command line of a script, in code blocks and in `…` in the text."""
    inline = re.findall(rf"`(python {re.escape(script)} [^`…]+)`", without_blocks(text))
    starts = (f"python {script} ", f"torchrun {script} ")
    found = [*command_lines(text), *(line.replace("\n", " ") for line in inline)]
    return [shlex.split(line)[2:] for line in found if line.startswith(starts)]


def references(text: str) -> list[tuple[str, str, str]]:
    """The names of the code that a page mentions, each with the file as shown and as linked."""
    return REFERENCE.findall(text)


def formulas(text: str) -> tuple[list[str], list[str]]:
    """The displayed formulas and those within a line, code left out."""
    text = re.sub(r"`[^`\n]+`", "", text)
    displayed = re.findall(r"^\$\$\n(.+)\n\$\$$", text, flags=re.MULTILINE)
    return displayed, re.findall(r"(?<!\$)\$([^$\n]+)\$(?!\$)", text)


def numbers(text: str) -> list[str]:
    """Numbers that are results rather than words: 31.88, 23,410, 630."""
    return re.findall(r"\d+(?:[.,]\d+)+|\d{3,}", text)


def shared_facts(text: str) -> dict[str, list[str]]:
    """What a page and its translation must have in common; sentences are not among it."""
    prose = without_blocks(text)
    tables = [line for line in text.splitlines() if line.startswith("|")]
    diagrams = [block for kind, block in BLOCK.findall(text) if kind == "mermaid"]
    links = [link.split("#")[0].replace(".zh-TW.md", ".md") for link in LINK.findall(text)]
    return {
        "heading levels": re.findall(r"^#+(?= )", text, flags=re.MULTILINE),
        "columns of table rows": [str(line.count("|")) for line in tables],
        "commands": command_lines(text),
        "Python": [block for kind, block in BLOCK.findall(text) if kind == "python"],
        # Nodes and arrows; what is written on them is translated.
        "diagrams": [re.sub(r'"[^"]*"', "", diagram) for diagram in diagrams],
        "figures": FIGURE.findall(text),
        "links": sorted(set(links)),
        "options": sorted(set(re.findall(r"--[A-Za-z]\w*", prose))),
        "numbers in tables": sorted(numbers("\n".join(tables))),
        "numbers": sorted(set(numbers(re.sub(r"\]\([^)]*\)", "]", prose)))),
        "displayed formulas": formulas(text)[0],
        "code": [f"{link}: {name}" for name, _, link in references(text)],
    }


def anchor(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


def broken_links(page: str, text: str) -> list[str]:
    """The local links of a page that lead nowhere: no such file, or no such heading in it."""
    folder = (REPOSITORY / page).parent
    broken = []
    for link in LINK.findall(without_blocks(text)):
        if "://" in link:
            continue
        path, _, part = link.partition("#")
        target = folder / path if path else REPOSITORY / page
        if not target.exists():
            broken.append(link)
        elif part:
            text = without_blocks(target.read_text(encoding="utf-8"))
            headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
            if part not in map(anchor, headings):
                broken.append(link)
    return broken
