"""The page docs/options.md, made from the options themselves.

    python tests/programs/options_page.py > docs/options.md

A test makes it again and compares, so the page cannot go stale.
"""

import dataclasses
import itertools
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from modules.datasets.video_options import COMMANDS
from modules.options import PRESETS, REQUIRED, TesterOptions, TrainerOptions

OPENING = """\
# All options

<!-- Made by: python tests/programs/options_page.py > docs/options.md -->

[README](../README.md)

The same texts as `--help` of each script. An unknown or misspelt option is an error. Options given
explicitly take precedence over a preset, and a preset over the defaults.

- **values**: the choices, or the range of a number.
- **no effect**: when the option has none. The Trainer says so if it was given.
- **resume**: `--resume` continues a run with its own options and accepts another value only where
  this column says yes. `--test` and `--ckpt_path` cannot be combined with it.
"""


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A Markdown table, a line each, with an empty line after it."""
    lines = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines] + [""]


def number(value: float) -> str:
    """A bound as it is typed: 0.5, 8192, 1000000."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def values_of(entry: dataclasses.Field[Any], hint: Any) -> str:
    """What may be typed after an option: its choices, or the range of a number."""
    facts = entry.metadata
    several = any(get_origin(kind) is tuple for kind in (hint, *get_args(hint)))
    several = several and not facts["convert"]
    of = "one or more, each " if several else ""
    if facts["choices"]:
        return of.replace(", each", " of") + ", ".join(f"`{choice}`" for choice in facts["choices"])
    if hint is bool:
        return "flag"
    at_least, above, at_most = (facts[name] for name in ("at_least", "above", "at_most"))
    if at_least is not None and at_most is not None:
        return f"{of}{number(at_least)} to {number(at_most)}"
    bounds = (("≥", at_least), (">", above), ("≤", at_most))
    parts = [f"{sign} {number(bound)}" for sign, bound in bounds if bound is not None]
    if parts:
        return of + ", ".join(parts)
    if facts["metavar"]:
        return f"{facts['metavar']}{' …' if several else ''}"
    kinds = {kind for kind in get_args(hint) or (hint,) if kind is not type(None)}
    return "path" if kinds == {str} else "number"


def default_of(entry: dataclasses.Field[Any]) -> str:
    """The default as --help shows it."""
    if entry.default is REQUIRED:
        return "required"
    if entry.default is False:
        return "off"
    return entry.metadata["shown"] or f"`{entry.default}`"


def section(title: str, options: type, *, trainer: bool = False) -> list[str]:
    """A heading, and a table of a dataclass of options, a row for each and one for each group."""
    hints = get_type_hints(options)
    groups: dict[str, list[list[str]]] = {}
    for entry in dataclasses.fields(options):
        meta = entry.metadata
        name = meta["metavar"] if meta["positional"] else f"--{entry.name}"
        row = [f"`{name}`", default_of(entry), values_of(entry, hints[entry.name])]
        row.append(meta["help"])
        if trainer:
            row += [meta["needs"].idle if meta["needs"] else "", "yes" if meta["resumable"] else ""]
        groups.setdefault(meta["group"], []).append(row)
    head = ["option", "default", "values", "meaning", *["no effect", "resume"] * trainer]
    rows = [
        row
        for group, members in groups.items()
        for row in ([f"**{group}**", *[""] * (len(head) - 1)], *members)
    ]
    return [f"## {title}", "", *table(head, rows)]


def preset_section() -> list[str]:
    """What each preset sets, beside the defaults."""
    defaults = {entry.name: default_of(entry) for entry in dataclasses.fields(TrainerOptions)}
    named = [name for name in defaults if any(name in preset for preset in PRESETS.values())]
    rows = [
        [
            f"`--{name}`",
            defaults[name],
            *(shown(preset[name]) if name in preset else "" for preset in PRESETS.values()),
        ]
        for name in named
    ]
    head = ["option", "default", *(f"`--preset {name}`" for name in PRESETS)]
    text = "What each preset sets; where a cell is empty it leaves the default."
    return ["## Presets", "", text, "", *table(head, rows)]


def shown(value: Any) -> str:
    """A preset's value as it would be typed."""
    return ("on" if value else "off") if isinstance(value, bool) else f"`{value}`"


def page() -> str:
    """The whole page, Markdown."""
    commands = (section(f"dataloader.py {name}", o) for name, o in COMMANDS.items())
    lines = [
        *OPENING.splitlines(),
        "",
        *section("Trainer.py", TrainerOptions, trainer=True),
        *preset_section(),
        *section("Tester.py", TesterOptions),
        *itertools.chain(*commands),
    ]
    return "\n".join(lines).rstrip("\n") + "\n"


if __name__ == "__main__":
    sys.stdout.write(page())
