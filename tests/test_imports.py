"""Imports point one way, computed from the source, so that a new file is covered by default.

modules/runtime and networks know nobody; the other files of modules/ itself (the
model and its training) know those and each other; modules/datasets and modules/figures know these
but not each other; the scripts know all, and nothing imports a script. Imports inside functions and
under TYPE_CHECKING count too.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Collection, Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.support.scripts import REPOSITORY

Graph = dict[str, set[str]]  # each file as a module's name → the modules of this project it imports

SCRIPTS = ("Trainer", "Tester", "dataloader")
READS_DATA = {"Trainer", "Tester"}  # they may import dataloader, and nothing else may
COMMANDS = "modules.plots"  # the command line of the figures: `python -m modules.plots`
ROOMS = ("runtime", "datasets", "figures")  # folders of modules/
NETWORKS = {"modules.networks"}


# ---------------------------------------------------------------- the graph


def module_files(root: Path) -> dict[str, Path]:
    """The scripts and everything under modules/, by the names that imports use."""
    files = {path.stem: path for path in root.glob("*.py")}
    for path in (root / "modules").rglob("*.py"):
        parts = path.relative_to(root).with_suffix("").parts
        files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return files


def imported(source: str, package: str, known: Collection[str]) -> Iterator[str]:
    """Which of the known modules a file imports. package: the one that the file is in.

    `from a import b` is an import of the module a.b if there is one, else of the module a.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [(alias.name,) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            parts = parts[: len(parts) - node.level + 1] if node.level else []
            base = ".".join([*parts, *filter(None, [node.module])])
            names = [(f"{base}.{alias.name}", base) for alias in node.names]
        elif isinstance(node, ast.Call):  # importlib.import_module("…") and __import__("…")
            function = getattr(node.func, "attr", getattr(node.func, "id", ""))
            dynamic = function in ("import_module", "__import__")
            names = [(getattr(a, "value", ""),) for a in node.args[:1] if dynamic]
        else:
            continue
        for choices in names:
            yield from [name for name in choices if name in known][:1]


def import_graph(root: Path) -> Graph:
    """Who imports whom, within the project."""
    files = module_files(root)
    graph: Graph = {}
    for name, path in files.items():
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        graph[name] = set(imported(path.read_text(), package, files)) - {name}
    return graph


# ---------------------------------------------------------------- the rule


def room_of(name: str) -> str:
    """The room that a module belongs to: a folder of modules/, networks, core or script."""
    if not name.startswith("modules"):
        return "script"
    if name == COMMANDS:
        return "commands"
    if name in NETWORKS:
        return "networks"
    room = name.split(".")[1:2]
    return room[0] if room and room[0] in ROOMS else "core"


MAY_IMPORT = {
    "runtime": {"runtime"},
    "networks": {"networks"},
    "core": {"core", "networks", "runtime"},
    "datasets": {"datasets", "core", "networks", "runtime"},
    "figures": {"figures", "core", "networks", "runtime"},
    "commands": {"figures", "core", "networks", "runtime"},
    "script": {"datasets", "figures", "core", "networks", "runtime"},
}


def violations(graph: Graph) -> list[str]:
    """Every import that points the wrong way, in words; empty where the rule holds."""
    found = [
        f"{name} imports {other}"
        for name, others in graph.items()
        for other in others
        if room_of(other) not in MAY_IMPORT[room_of(name)]
        and not (other == "dataloader" and name in READS_DATA)
    ]
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        found.append("cycle: " + " → ".join(error.args[1]))
    return found


def test_imports_point_one_way() -> None:
    graph = import_graph(REPOSITORY)
    assert violations(graph) == []
    # What is looked at is what there is.
    assert {*SCRIPTS, *NETWORKS, COMMANDS, "modules"} <= graph.keys()
    assert len(graph) == len([*REPOSITORY.glob("*.py"), *(REPOSITORY / "modules").rglob("*.py")])
    assert "modules.networks" in graph["modules.cvae"] and "modules.data" in graph["dataloader"]


def test_what_a_step_is_made_of_knows_little() -> None:
    """Its five files: each knows those that it names here and runtime."""
    graph = import_graph(REPOSITORY)
    for name, known in (
        ("networks", set()),
        ("data", {"ink"}),
        ("losses", {"ink"}),
        ("cvae", {"data", "networks", "losses"}),
    ):
        others = {n.removeprefix("modules.") for n in graph[f"modules.{name}"]}
        assert {n for n in others if not n.startswith("runtime")} == known


@pytest.mark.parametrize(
    ("name", "line", "found"),
    [
        ("modules/cvae.py", "import dataloader", "modules.cvae imports dataloader"),
        ("Tester.py", "import Trainer", "Tester imports Trainer"),
        ("modules/new.py", "from modules import datasets", "modules.new imports modules.datasets"),
        ("modules/data.py", "def f():\n    from .figures import curves", "imports modules.figures"),
        ("modules/networks.py", "from modules.runtime import errors", "imports modules.runtime"),
        ("modules/cvae.py", "import importlib\nimportlib.import_module('Tester')", "Tester"),
        ("modules/runtime/errors.py", "from modules.runtime.scripts import A", "cycle: "),
    ],
)
def test_each_wrong_direction_is_noticed(tmp_path: Path, name: str, line: str, found: str) -> None:
    for path in module_files(REPOSITORY).values():
        copy = tmp_path / path.relative_to(REPOSITORY)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    with (tmp_path / name).open("a", encoding="utf-8") as file:
        file.write(f"\n{line}\n")
    assert any(found in violation for violation in violations(import_graph(tmp_path)))


# ---------------------------------------------------------------- packages


def packages(requirements: Path) -> set[str]:
    """The names that a requirements file installs, as imports write them."""
    names = {
        re.split(r"[<>=~!; ]", line)[0]
        for line in requirements.read_text(encoding="utf-8").split("\n")
        if line and not line.startswith(("#", "-"))
    }
    return {{"pillow": "PIL"}.get(name, name).replace("-", "_") for name in names}


def test_running_needs_what_requirements_say() -> None:
    files = [*REPOSITORY.glob("*.py"), *(REPOSITORY / "modules").rglob("*.py")]
    used: set[str] = set()
    for path in files:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                used |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                used.add((node.module or "").split(".")[0])
    own = {"modules", *SCRIPTS}
    required = packages(REPOSITORY / "requirements.txt")
    extras = set().union(*map(packages, REPOSITORY.glob("requirements-*.txt")))
    used -= set(sys.stdlib_module_names) | own
    assert required <= used <= required | extras
    assert packages(REPOSITORY / "tests/requirements.txt") == {"pytest", "ruff", "mypy"}


def test_ci_runs_what_the_readme_says() -> None:
    lines = (REPOSITORY / ".ci/run").read_text().splitlines()
    install = "pip install -r tests/requirements.txt"
    for page in ("README.md", "README.zh-TW.md"):
        text = (REPOSITORY / page).read_text()
        assert f"{install} && python -m pytest\n" in text
    assert install in lines and "python -m pytest" in lines


# ---------------------------------------------------------------- start-up


def test_scripts_start_without_what_they_may_not_need() -> None:
    """Each of these takes a second or so of every start."""
    heavy = ("matplotlib", "av", "torchvision", "torch._dynamo")
    code = "import sys; import {}; print(*[name for name in {} if name in sys.modules])"
    found = [
        subprocess.run(
            [sys.executable, "-c", code.format(names, heavy)],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        for names in ("Trainer, Tester, dataloader", "modules.plots")
    ]
    assert found[0] == []
    assert "matplotlib" in found[1]  # the control
