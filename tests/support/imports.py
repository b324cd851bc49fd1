"""What the package imports of itself, read from its source: arrows, circles and levels, and the picture of docs/architecture.md.

python -m tests.support.imports [FOLDER]      figures of mlops/, or of the package in another folder
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

__all__ = ["Import", "Package", "circles", "levels", "mermaid"]

ROOT = Path(__file__).parents[2]
Graph = Mapping[str, set[str]]
"""Name → the names that it imports; every name is a key."""


@dataclass(frozen=True)
class Import:
    """One import of a module of the package by another."""

    importer: str
    imported: str
    path: Path
    line: int
    at_top: bool
    """Whether it is executed when the importing module is; not inside a function or under ``TYPE_CHECKING``."""


class Package:
    """A package as its source files say.

    Args:
        folder: the package's folder; its name is the package's.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files = sorted(folder.rglob("*.py"))
        self.paths = {self._module(path): path for path in self._files if path.stat().st_size or path.name != "__init__.py"}
        """Module → its file; empty ``__init__`` files left out."""

    @cached_property
    def imports(self) -> list[Import]:
        """All imports of the package by itself. To parse it takes a second."""
        return [found for path in self._files for found in self._imports(path)]

    def rooms(self) -> Graph:
        """The imports between folders; a file directly in the package is a room of its own."""
        return self._grouped(lambda module: module.split(".")[1] if "." in module else module)

    def rooms_of(self, folder: str) -> Graph:
        """The same inside one folder of the package."""
        prefix = f"{self.folder.name}.{folder}."
        inside = [module for module in self.paths if module.startswith(prefix)]
        return self._grouped(lambda module: module.removeprefix(prefix).split(".")[0], inside)

    def modules(self) -> Graph:
        """The imports between modules."""
        graph: dict[str, set[str]] = {module: set() for module in self.paths}
        for found in self.imports:
            if found.importer != found.imported and found.imported in graph:
                graph.setdefault(found.importer, set()).add(found.imported)
        return graph

    def _grouped(self, group: object, modules: Iterable[str] | None = None) -> Graph:
        assert callable(group)
        chosen = set(self.paths if modules is None else modules)
        graph: dict[str, set[str]] = {group(module): set() for module in chosen}
        for found in self.imports:
            if found.importer in chosen and found.imported in chosen and group(found.importer) != group(found.imported):
                graph[group(found.importer)].add(group(found.imported))
        return graph

    def _module(self, path: Path) -> str:
        parts = path.relative_to(self.folder.parent).with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    def _imports(self, path: Path) -> Iterator[Import]:
        module = self._module(path)
        tree = ast.parse(path.read_text(encoding="utf-8"))
        blocks = [node for node in ast.walk(tree) if _is_deferred(node)]
        deferred = {id(inner) for block in blocks for inner in ast.walk(block)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = [self._target(node.module, alias.name) for alias in node.names]
            else:
                continue
            for name in dict.fromkeys(names):
                if name.split(".")[0] == self.folder.name:
                    yield Import(module, name, path, node.lineno, id(node) not in deferred)

    def _target(self, module: str, name: str) -> str:
        """The module that ``from module import name`` takes: the name itself may be one."""
        inner = self.folder.parent.joinpath(*module.split("."), name)
        return f"{module}.{name}" if inner.with_suffix(".py").is_file() or (inner / "__init__.py").is_file() else module


def _is_deferred(node: ast.AST) -> bool:
    if isinstance(node, ast.If):
        return "TYPE_CHECKING" in ast.dump(node.test)
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)


def circles(graph: Graph) -> list[list[str]]:
    """The strongly connected groups of more than one name (Tarjan's algorithm)."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        order[name] = low[name] = len(order)
        stack.append(name)
        for other in sorted(graph[name]):
            if other not in order:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], order[other])
        if low[name] == order[name]:
            at = stack.index(name)
            group, stack[at:] = stack[at:], []
            if len(group) > 1:
                found.append(sorted(group))

    for name in sorted(graph):
        if name not in order:
            visit(name)
    return found


def levels(graph: Graph) -> dict[str, int]:
    """Name → its level: 1 imports nothing, any other is one above the highest that it imports. A circle counts as one level."""
    group = {name: name for name in graph} | {name: circle[0] for circle in circles(graph) for name in circle}
    merged: dict[str, set[str]] = {name: set() for name in set(group.values())}
    for name, others in graph.items():
        merged[group[name]] |= {group[other] for other in others} - {group[name]}
    level: dict[str, int] = {}

    def of(name: str) -> int:
        if name not in level:
            level[name] = 1 + max((of(other) for other in merged[name]), default=0)
        return level[name]

    return {name: of(group[name]) for name in graph}


def reduced(graph: Graph) -> Graph:
    """The arrows that don't follow from others: a → c goes where a → b → c is there."""

    def reach(name: str) -> set[str]:
        return graph[name] | {far for other in graph[name] for far in reach(other)}

    return {name: {o for o in others if not any(o in reach(between) for between in others - {o})} for name, others in graph.items()}


def mermaid(package: Package, stages: Iterable[str]) -> str:
    """The rooms and arrows as a Mermaid flowchart: the stages as one box, the emulator with its rooms inside. Without what follows."""
    stages = set(stages)
    rooms: dict[str, set[str]] = {"stages": set()}
    for room, others in package.rooms().items():
        if room not in ("__main__", package.folder.name):
            rooms.setdefault("stages" if room in stages else room, set()).update(others - stages)
    lines = ["flowchart TD"]
    for room in sorted(set(rooms) - {"emulator"}):
        label = "the ten stages" if room == "stages" else f"{room}/"
        lines.append(f'  {room}["{label}"]')
    inside = {room: others for room, others in package.rooms_of("emulator").items() if room != "__main__"}
    lines.append('  subgraph emulator["emulator/"]')
    folders = {room for room in inside if (package.folder / "emulator" / room).is_dir()}
    lines += [f'    emulator_{room}["{room}{"/" * (room in folders)}"]' for room in sorted(inside)]
    arrows = reduced(inside)
    lines += [f"    emulator_{room} --> emulator_{other}" for room in sorted(arrows) for other in sorted(arrows[room])]
    lines.append("  end")
    down = reduced(rooms)
    lines += [f"  {room} --> {other}" for room in sorted(down) for other in sorted(down[room])]
    return "\n".join(lines)


def main(folder: Path) -> None:
    """Print the figures of a package."""
    package = Package(folder)
    lines = sum(len(path.read_text().splitlines()) for path in package.paths.values())
    print(f"{len(package.paths)} files, {lines} lines, {sum(not one.at_top for one in package.imports)} imports inside functions")
    files = package.modules()
    emulator = {name: {other for other in others if ".emulator." in other} for name, others in files.items() if ".emulator." in name}
    graphs = {
        "files": files,
        "rooms": package.rooms(),
        "files of the emulator": emulator,
        "rooms of the emulator": package.rooms_of("emulator"),
    }
    for name, graph in graphs.items():
        arrows, high = sum(map(len, graph.values())), max(levels(graph).values())
        print(f"{name}: {len(graph)}, {arrows} arrows, {high} levels, cycles: {circles(graph) or 'none'}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "mlops")
