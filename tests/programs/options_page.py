"""The page docs/options.md, made from the options themselves.

    python tests/programs/options_page.py > docs/options.md

A test makes it again and compares, so the page cannot go stale.
"""

import argparse
import dataclasses
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from modules.datasets.video_options import add_arguments
from modules.options import PRESETS, TesterOptions, TrainerOptions

OPENING = """\
# All options

<!-- Made by: python tests/programs/options_page.py > docs/options.md -->

[README](../README.md)

Every option of the three scripts, with its default. `--help` of each script prints the same texts.
An unknown or misspelt option is an error. A typed option overrides a preset, and a preset
overrides the defaults. [training.md](training.md) says which options belong together.

Three columns need a word:

- **values**: the choices, or the range of a number.
- **idle**: when the option has no effect. The Trainer prints a note if it was typed all the same.
- **resume**: `--resume` continues a run with its own options. It accepts another value only where
  this column says yes; any other change is an error. (`--test` and `--ckpt_path` cannot be combined
  with `--resume` at all.)
"""

VIDEO = """\
## dataloader.py video

`python dataloader.py video CLIP … --out ROOT`: a data set from your own video, see
[own_video.md](own_video.md).
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
    several = any(get_origin(kind) is tuple for kind in (hint, *get_args(hint)))
    if entry.metadata["choices"]:
        of = "one or more of " if several else ""
        return of + ", ".join(f"`{choice}`" for choice in entry.metadata["choices"])
    if several:
        return "one or more numbers"
    if hint is bool:
        return "flag"
    at_least, above, at_most = entry.metadata["bounds"]
    if at_least is not None and at_most is not None:
        return f"{number(at_least)} to {number(at_most)}"
    parts = [
        f"{sign} {number(bound)}"
        for sign, bound in (("≥", at_least), (">", above))
        if bound is not None
    ]
    if at_most is not None:
        parts.append(f"≤ {number(at_most)}")
    kinds = {kind for kind in get_args(hint) or (hint,) if kind is not type(None)}
    return ", ".join(parts) or ("path" if kinds == {str} else "number")


def default_of(entry: dataclasses.Field[Any]) -> str:
    """The default as --help shows it."""
    if entry.default is False:
        return "off"
    return entry.metadata["shown"] or f"`{entry.default}`"


def script_section(title: str, options: type, *, trainer: bool) -> list[str]:
    """A heading, and a table for each group of a dataclass of options."""
    hints = get_type_hints(options)
    groups: dict[str, list[list[str]]] = {}
    for entry in dataclasses.fields(options):
        meta = entry.metadata
        row = [f"`--{entry.name}`", default_of(entry), values_of(entry, hints[entry.name])]
        row.append(meta["help"])
        if trainer:
            row += [meta["needs"].idle if meta["needs"] else "", "yes" if meta["resumable"] else ""]
        groups.setdefault(meta["group"], []).append(row)
    head = ["option", "default", "values", "meaning", *["idle", "resume"] * trainer]
    lines = [f"## {title}", ""]
    for group, rows in groups.items():
        lines += [f"### {title}: {group}", "", *table(head, rows)]
    return lines


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


class Recorder(argparse.ArgumentParser):
    """A parser that remembers what was declared."""

    def __init__(self) -> None:
        self.declared: list[argparse.Action] = []
        super().__init__(add_help=False)

    def add_argument(self, *args: Any, **kwargs: Any) -> argparse.Action:
        action = super().add_argument(*args, **kwargs)
        self.declared.append(action)
        return action


def video_section() -> list[str]:
    """The table of `dataloader.py video`."""
    parser = Recorder()
    add_arguments(parser)
    rows = []
    for action in parser.declared:
        text, default = split_default(action.help or "")
        if not default:
            default = "required" if action.required else "none"
        names = ", ".join(action.option_strings) or str(action.metavar)
        if action.choices:
            values = ", ".join(f"`{choice}`" for choice in action.choices)
        elif action.nargs == 0:
            default, values = "off", "flag"
        else:
            values = f"{action.metavar}{' …' if action.nargs == '+' else ''}"
        rows.append([f"`{names}`", default, values, text])
    return [*VIDEO.splitlines(), "", *table(["option", "default", "values", "meaning"], rows)]


def split_default(text: str) -> tuple[str, str]:
    """A help text without the default at its end, and that default ("" if it names none)."""
    match = re.fullmatch(r"(.*?) \(default:? (.*)\)", text)
    return (match[1], match[2]) if match else (text, "")


def page() -> str:
    """The whole page, Markdown."""
    lines = [
        *OPENING.splitlines(),
        "",
        *script_section("Trainer.py", TrainerOptions, trainer=True),
        *preset_section(),
        *script_section("Tester.py", TesterOptions, trainer=False),
        *video_section(),
    ]
    return "\n".join(lines).rstrip("\n") + "\n"


if __name__ == "__main__":
    sys.stdout.write(page())
