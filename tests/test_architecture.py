"""Imports go one way, at the top of the file, and nothing but the emulator knows of the emulator."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlops.cli.run import STAGES
from tests.support.imports import Import, Package, circles, levels, mermaid

ROOT = Path(__file__).parent.parent
PACKAGE = Package(ROOT / "mlops")
STAGE_FILES = {name.replace("-", "_") for name in STAGES}
ROOMS: dict[str, set[str]] = {
    "core": set(),
    "github": {"core"},
    "cloud": {"core", "github"},
    "dataset": {"core"},
    "judging": {"core", "dataset"},
    "report": {"core", "judging"},
    "cli": {"core", "github", "cloud", "dataset", "judging", "report"},
    "remote": set(),
    "emulator": set(),
    **{stage: {"core", "github", "cloud", "dataset", "judging", "report", "cli"} for stage in STAGE_FILES},
    "__main__": {"core", "cli"},
}
"""Folder or file of ``mlops`` → what of ours it may import beside itself."""
EXCEPTIONS = {
    ("emulator", "mlops.core.console"),
    ("cli", "mlops.remote.health"),
    ("cli", "mlops.remote.rouge"),
    ("dataset", "mlops.remote.tasks"),
}
"""The emulator prints as the rest of the package does. The answers of two deployments are scored by the code that scored the suites, and
the checks in a suite are read by the code that applies them."""
EMULATOR: dict[str, set[str]] = {
    "base": set(),
    "wire": {"base"},
    "identity": {"base", "wire"},
    "storage": {"base", "wire"},
    "component": {"base", "wire"},
    "registry": {"base", "wire", "identity", "storage", "component"},
    "history": {"base", "wire", "identity", "storage", "component", "registry"},
    "workspace": {"base", "wire", "identity", "storage", "component", "registry", "history"},
    "jobs": {"base", "wire", "identity", "storage", "component", "registry", "history", "workspace"},
    "serving": {"base", "wire", "identity", "storage", "component", "registry", "history", "workspace"},
    "github_api": {"base", "wire", "identity"},
    "server": {"base", "wire"},  # it finds the services by the names in MODULES
    "command": {"base", "wire", "identity", "history", "workspace", "server"},
    "__main__": {"base"},  # it imports the command by name: --help must be fast
}
"""The same inside ``mlops/emulator``."""
MUTABLE = (ast.List, ast.Dict, ast.Set, ast.ListComp, ast.DictComp, ast.SetComp)
CONTAINERS = {
    "dict",
    "list",
    "set",
    "defaultdict",
    "deque",
    "Counter",
    "WeakKeyDictionary",
    "WeakValueDictionary",
    "Lock",
    "RLock",
    "Event",
}


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def inner_room(module: str) -> str:
    return [*module.split("."), ""][2]


def shown(found: Import) -> str:
    return f"{found.path.relative_to(ROOT)}:{found.line} imports {found.imported}"


def test_each_folder_imports_only_what_it_may() -> None:
    wrong = [
        found
        for found in PACKAGE.imports
        if room(found.imported) not in ROOMS[room(found.importer)] | {room(found.importer), ""}
        and (room(found.importer), found.imported) not in EXCEPTIONS
    ]
    assert [shown(found) for found in wrong] == []


def test_judging_reads_data_in_one_file_only() -> None:
    readers = {found.importer for found in PACKAGE.imports if room(found.importer) == "judging" and room(found.imported) == "dataset"}
    assert readers <= {"mlops.judging.judge"}


def test_each_folder_of_the_emulator_imports_only_what_it_may() -> None:
    inside = [found for found in PACKAGE.imports if room(found.importer) == room(found.imported) == "emulator"]
    wrong = [
        found for found in inside if inner_room(found.imported) not in EMULATOR[inner_room(found.importer)] | {inner_room(found.importer)}
    ]
    assert [shown(found) for found in wrong] == []


def test_every_room_has_its_rule() -> None:
    assert {room(module) for module in PACKAGE.paths} - {""} == set(ROOMS)
    assert {inner_room(module) for module in PACKAGE.paths if room(module) == "emulator"} - {""} == set(EMULATOR)


def test_no_circle_between_files_or_rooms() -> None:
    assert circles(PACKAGE.modules()) == []
    assert circles(PACKAGE.rooms()) == []
    assert circles(PACKAGE.rooms_of("emulator")) == []


def test_own_imports_are_at_the_top_of_the_file() -> None:
    assert [shown(found) for found in PACKAGE.imports if not found.at_top] == []


def module_state(source: str) -> Iterator[tuple[int, str]]:
    """Containers and locks that a module keeps under a lower-case name, and names that its functions declare ``global``."""
    tree = ast.parse(source)
    for node in tree.body:
        if not isinstance(node, ast.Assign | ast.AnnAssign) or node.value is None:
            continue
        value = node.value
        called = value.func if isinstance(value, ast.Call) else None
        name = called.attr if isinstance(called, ast.Attribute) else called.id if isinstance(called, ast.Name) else ""
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        for target in targets:
            if not isinstance(target, ast.Name) or target.id.strip("_").isupper() or target.id == "__all__":
                continue
            if isinstance(value, MUTABLE) or name in CONTAINERS:
                yield node.lineno, target.id
    for inner in ast.walk(tree):
        if isinstance(inner, ast.Global):
            yield inner.lineno, f"global {', '.join(inner.names)}"


def changed_constants(source: str) -> Iterator[tuple[int, str]]:
    """Upper-case containers of a module that its own functions write to: state under the name of a constant."""
    tree = ast.parse(source)
    names = {t.id for node in tree.body if isinstance(node, ast.Assign) for t in node.targets if isinstance(t, ast.Name)}
    names |= {node.target.id for node in tree.body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)}
    changing = {"append", "add", "update", "pop", "setdefault", "clear", "extend", "insert", "remove", "discard", "popitem"}
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        for node in ast.walk(function):
            target: ast.expr | None = None
            if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store | ast.Del):
                target = node.value
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in changing:
                target = node.func.value
            if isinstance(target, ast.Name) and target.id in names:
                yield target.lineno, target.id


def test_state_of_the_emulator_belongs_to_its_azure_object() -> None:
    found = []
    for module, path in PACKAGE.paths.items():
        if room(module) == "emulator":
            source = path.read_text(encoding="utf-8")
            state = (*module_state(source), *changed_constants(source))
            found += [f"{path.relative_to(ROOT)}:{line} {name}" for line, name in state]
    assert found == []


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("_tasks: dict[str, int] = {}\n", "_tasks"),
        ("import threading\n_lock = threading.Lock()\n", "_lock"),
        ("_now = None\ndef f():\n    global _now\n    _now = 1\n", "global _now"),
        ("SEEN = set()\ndef f(x):\n    SEEN.add(x)\n", "SEEN"),
        ("ROUTES = {}\ndef f(x):\n    ROUTES[x] = 1\n", "ROUTES"),
    ],
)
def test_module_state_is_noticed(source: str, says: str) -> None:
    assert [line for _, line in (*module_state(source), *changed_constants(source))] == [says]


def test_circles_and_levels_are_noticed() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}
    assert circles(graph) == [["b", "c"]]
    assert levels(graph) == {"a": 2, "b": 1, "c": 1, "d": 3}


def test_the_picture_shows_the_rooms_as_they_are(request: pytest.FixtureRequest) -> None:
    path = ROOT / "docs" / "architecture.md"
    before, _, rest = path.read_text().partition("```mermaid\n")
    fresh = f"{before}```mermaid\n{mermaid(PACKAGE, STAGE_FILES)}\n```{rest.partition('```')[2]}"
    if request.config.getoption("--write-docs"):
        path.write_text(fresh)
    assert path.read_text() == fresh, "docs/architecture.md is stale: pytest tests/test_architecture.py --write-docs"
