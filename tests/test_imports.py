"""Imports point one way, computed from the source, so that a new file is covered by default.

modules/runtime and networks know nobody; the other files of modules/ itself (the
model and its training) know those and each other; modules/datasets and modules/figures know these
but not each other; the scripts know all, and nothing imports a script. Imports inside functions and
under TYPE_CHECKING count too.
"""

import ast
import itertools
import re
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator
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


def reached(graph: Graph, start: str) -> dict[str, str]:
    """All modules that importing `start` leads to, each with the chain of imports."""
    chains = {start: start}
    waiting = [start]
    while waiting:
        name = waiting.pop()
        for other in sorted(graph[name]):
            if other not in chains:
                chains[other] = f"{chains[name]} → {other}"
                waiting.append(other)
    del chains[start]
    return chains


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


MAY_REACH = {
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
    found = []
    for name in sorted(graph):
        room = room_of(name)
        for other, chain in sorted(reached(graph, name).items()):
            reads_data = other == "dataloader" and name in READS_DATA
            if room_of(other) not in MAY_REACH[room] and not reads_data:
                found.append(f"{room} reaches {room_of(other)}: {chain}")
        back = [reached(graph, other).get(name) for other in sorted(graph[name])]
        found += [f"cycle: {name} → {chain}" for chain in back if chain]
    return found


def test_imports_point_one_way() -> None:
    graph = import_graph(REPOSITORY)
    assert violations(graph) == []
    # What is looked at is what there is.
    assert {*SCRIPTS, *NETWORKS, COMMANDS, "modules"} <= graph.keys()
    files = [*REPOSITORY.glob("*.py"), *(REPOSITORY / "modules").rglob("*.py")]
    assert len(graph) == len(files)
    for chain in (
        ("Trainer", "modules.training", "modules.cvae", "modules.networks"),
        ("dataloader", "modules.data"),
        ("modules.plots", "modules.figures.curves", "modules.runtime.files"),
    ):
        for name, other in itertools.pairwise(chain):
            assert other in reached(graph, name)


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


# ---------------------------------------------------------------- controls


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small project in which the rule holds."""
    files = {
        "Trainer.py": "import dataloader\nfrom modules import training\n",
        "Tester.py": "from modules.figures.curves import draw\n",
        "dataloader.py": "from modules.datasets import images\n",
        "modules/__init__.py": "from modules.networks import Encoder\n",
        "modules/networks.py": "import torch\n",
        "modules/cvae.py": "from modules import Encoder\nfrom modules.runtime import errors\n",
        "modules/training.py": "def f():\n    from modules import cvae\n",
        "modules/plots.py": "from modules.figures import curves\nimport modules.runtime.scripts\n",
        "modules/datasets/__init__.py": "",
        "modules/datasets/images.py": "from ..runtime.errors import UserError\n",
        "modules/figures/__init__.py": "",
        "modules/figures/curves.py": "from modules import cvae\n",
        "modules/runtime/__init__.py": "",
        "modules/runtime/errors.py": "import os\n",
        "modules/runtime/scripts.py": "from modules.runtime.errors import UserError\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_a_sound_project_has_no_violations(tree: Path) -> None:
    graph = import_graph(tree)
    assert violations(graph) == []
    assert graph["modules.cvae"] == {"modules", "modules.runtime.errors"}
    assert graph["modules.training"] == {"modules.cvae"}
    assert graph["modules.datasets.images"] == {"modules.runtime.errors"}
    assert graph["modules.plots"] == {"modules.figures.curves", "modules.runtime.scripts"}


@pytest.mark.parametrize(
    ("name", "line", "found"),
    [
        ("modules/cvae.py", "import dataloader", "core reaches script: modules.cvae → dataloader"),
        ("modules/figures/curves.py", "from Trainer import main", "figures reaches script"),
        ("Tester.py", "import Trainer", "script reaches script: Tester → Trainer"),
        ("dataloader.py", "from Tester import main", "script reaches script: dataloader → Tester"),
        ("modules/new.py", "import modules.datasets.images", "core reaches datasets: modules.new"),
        ("modules/new.py", "from modules import datasets", "core reaches datasets: modules.new"),
        ("modules/cvae.py", "from modules.figures import curves", "core reaches figures"),
        ("modules/cvae.py", "from .figures.curves import draw", "core reaches figures"),
        ("modules/__init__.py", "from modules import plots", "core reaches commands"),
        # only by way of another file
        (
            "modules/runtime/errors.py",
            "from modules.figures import curves",
            "core reaches figures: modules.training → modules.cvae → modules.runtime.errors →",
        ),
        ("modules/runtime/errors.py", "from modules.cvae import CVAE", "runtime reaches core"),
        ("modules/networks.py", "from modules.runtime import errors", "networks reaches runtime"),
        ("modules/networks.py", "import modules.cvae", "networks reaches core"),
        ("modules/datasets/images.py", "from ..figures import curves", "datasets reaches figures"),
        ("modules/figures/curves.py", "import modules.datasets.images", "figures reaches datasets"),
        ("modules/plots.py", "import modules.datasets.images", "commands reaches datasets"),
        (
            "modules/runtime/errors.py",
            "from modules.runtime.scripts import run",
            "cycle: modules.runtime.errors → modules.runtime.scripts → modules.runtime.errors",
        ),
        ("modules/cvae.py", "from modules import training", "cycle: modules.cvae → modules.train"),
        # imports that other tools overlook
        ("modules/cvae.py", "def f():\n    import modules.datasets", "core reaches datasets"),
        (
            "modules/cvae.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import dataloader",
            "core reaches script",
        ),
        (
            "modules/cvae.py",
            "import importlib\nimportlib.import_module('Tester')",
            "reaches script",
        ),
        ("modules/cvae.py", "__import__('modules.figures.curves')", "core reaches figures"),
    ],
)
def test_each_wrong_direction_is_noticed(tree: Path, name: str, line: str, found: str) -> None:
    path = tree / name
    before = path.read_text() if path.exists() else ""
    path.write_text(f"{before}{line}\n")
    assert any(found in violation for violation in violations(import_graph(tree)))


@pytest.mark.parametrize(
    "change",
    [
        lambda tree: (tree / "modules/data.py").write_text("import modules.runtime.files\n"),
        lambda tree: (tree / "modules/runtime/files.py").write_text("from . import errors\n"),
        lambda tree: (tree / "modules/figures/gifs.py").write_text("import numpy\n"),
    ],
)
def test_more_files_are_no_violation(tree: Path, change: Callable[[Path], object]) -> None:
    change(tree)
    assert violations(import_graph(tree)) == []


# ---------------------------------------------------------------- packages


def packages(requirements: Path) -> set[str]:
    """The names that a requirements file installs, as imports write them."""
    names = {
        re.split(r"[<>=~!; ]", line)[0]
        for line in requirements.read_text(encoding="utf-8").split("\n")
        if line and not line.startswith("#")
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
    for_tests = packages(REPOSITORY / "tests/requirements.txt")
    assert for_tests == {"pytest", "ruff", "mypy"}


def test_ci_runs_what_the_readme_says() -> None:
    lines = (REPOSITORY / ".ci/run").read_text().splitlines()
    install = "pip install -r requirements.txt -r tests/requirements.txt"
    for page in ("README.md", "README.zh-TW.md"):
        text = (REPOSITORY / page).read_text()
        assert f"{install}\npython -m pytest\n" in text
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
