"""Imports point one way, computed from the source, so that a new file is covered by default.

modules/runtime and networks know nobody; the other files of modules/ itself (the model and its
training) know those and each other; modules/datasets knows these, modules/figures both; the scripts
know all, and nothing imports a script. Imports inside functions and under TYPE_CHECKING count too.
"""

import ast
import re
import sys
from collections.abc import Collection, Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.support.scripts import REPOSITORY, python

Graph = dict[str, set[str]]  # each file as a module's name → the modules of this project it imports

SCRIPTS = ("Trainer", "Tester", "dataloader")
COMMANDS = "modules.plots"  # the command line of the figures: `python -m modules.plots`
BASE = {"core", "networks", "runtime"}
MAY_IMPORT = {
    "runtime": {"runtime"},
    "networks": {"networks"},
    "core": BASE,
    "datasets": {"datasets", *BASE},
    "figures": {"datasets", "figures", *BASE},
    "commands": {"figures", *BASE},
    "script": {"datasets", "figures", *BASE},
}


def sources() -> dict[str, str]:
    """The scripts and everything under modules/ by the names that imports use."""
    files = {}
    for path in (*REPOSITORY.glob("*.py"), *(REPOSITORY / "modules").rglob("*.py")):
        name = ".".join(path.relative_to(REPOSITORY).with_suffix("").parts)
        files[name.removesuffix(".__init__")] = path.read_text()
    return files


def imported(source: str, known: Collection[str]) -> Iterator[str]:
    """Which of the known modules a file imports.

    `from a import b` is an import of the module a.b if there is one, else of the module a.
    """
    for node in ast.walk(ast.parse(source)):
        names = [(text,) for text in named_by(node)]
        if isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute here"
            names = [(f"{node.module}.{alias.name}", node.module) for alias in node.names]
        for choices in names:
            yield from [name for name in choices if name in known][:1]


def named_by(node: ast.AST) -> list[str]:
    """The modules that a statement names."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [node.module or ""]
    if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
        return [getattr(a, "value", "") for a in node.args[:1]]
    return []


def import_graph(files: dict[str, str]) -> Graph:
    return {name: set(imported(source, files)) - {name} for name, source in files.items()}


def room_of(name: str) -> str:
    """The room that a module belongs to: a folder of modules/, networks, core or script."""
    if not name.startswith("modules"):
        return "script"
    room = name.split(".")[1:2]
    own = {COMMANDS: "commands", "modules.networks": "networks"}
    return own.get(name, room[0] if room and room[0] in MAY_IMPORT else "core")


def violations(graph: Graph) -> list[str]:
    """Every import that points the wrong way, in words; empty where the rule holds."""
    found = [
        f"{name} imports {other}"
        for name, others in graph.items()
        for other in others
        if room_of(other) not in MAY_IMPORT[room_of(name)]
        and not (other == "dataloader" and name in ("Trainer", "Tester"))
    ]
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        found.append("cycle: " + " → ".join(error.args[1]))
    return found


def test_imports_point_one_way() -> None:
    graph = import_graph(sources())
    assert violations(graph) == []
    assert {*SCRIPTS, COMMANDS, "modules"} <= graph.keys()  # what is looked at is what there is
    # What a step is made of knows little: these and runtime.
    step = {"networks": "", "data": "ink", "losses": "ink", "cvae": "data networks losses"}
    for name, known in step.items():
        others = {n.removeprefix("modules.") for n in graph[f"modules.{name}"]}
        assert {n for n in others if not n.startswith("runtime")} == {*known.split()}


@pytest.mark.parametrize(
    ("name", "line", "found"),
    [
        ("modules.cvae", "import dataloader", "modules.cvae imports dataloader"),
        (
            "modules.data",
            "def f():\n    from modules.figures import curves",
            "imports modules.figures",
        ),
        ("modules.cvae", "import importlib\nimportlib.import_module('Tester')", "Tester"),
        ("modules.runtime.errors", "from modules.runtime.scripts import A", "cycle: "),
    ],
)
def test_each_wrong_direction_is_noticed(name: str, line: str, found: str) -> None:
    files = sources()
    files[name] += f"\n{line}\n"
    assert any(found in violation for violation in violations(import_graph(files)))


def packages(requirements: Path) -> set[str]:
    """The names that a requirements file installs, as imports write them."""
    names = {
        re.split(r"[<>=~!; ]", line)[0]
        for line in requirements.read_text(encoding="utf-8").split("\n")
        if line and not line.startswith(("#", "-"))
    }
    return {{"pillow": "PIL"}.get(name, name).replace("-", "_") for name in names}


def test_running_needs_what_requirements_say() -> None:
    used: set[str] = set()
    for source in sources().values():
        statements = (n for n in ast.walk(ast.parse(source)) if not isinstance(n, ast.Call))
        used |= {name.split(".")[0] for node in statements for name in named_by(node)}
    required = packages(REPOSITORY / "requirements.txt")
    extras = set().union(*map(packages, REPOSITORY.glob("requirements-*.txt")))
    used -= set(sys.stdlib_module_names) | {"modules", *SCRIPTS}
    assert required <= used <= required | extras
    assert packages(REPOSITORY / "tests/requirements.txt") == {"pytest", "ruff", "mypy", "av"}


def test_scripts_start_without_what_they_may_not_need() -> None:
    """Each of these takes a second or so of every start; the control is the figures' command."""
    heavy = ("matplotlib", "av", "torchvision", "torch._dynamo")
    code = f"""
import sys, Trainer, Tester, dataloader
print([name for name in {heavy} if name in sys.modules])
import modules.plots
print("matplotlib" in sys.modules)
"""
    assert python("-c", code).stdout.split() == ["[]", "True"]
