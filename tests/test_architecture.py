"""Imports go down only, and nothing but the emulator knows of the emulator."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlops.cli.run import STAGES

ROOT = Path(__file__).parent.parent / "mlops"
ALLOWED: dict[str, set[str]] = {
    "core": set(),
    "cloud": {"core"},
    "dataset": {"core"},
    "judging": {"core"},
    "gating": {"core", "cloud", "dataset", "judging", "report", "github"},
    "remote": set(),
    "report": {"core", "judging"},
    "github": {"core", "report"},
    "emulator": {"core"},
}
"""Folder → what of ours it may import beside itself."""


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """(line, module) of everything of ours that a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names if alias.name.startswith("mlops"))
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("mlops"):
            names = [f"mlops.{alias.name}" for alias in node.names] if node.module == "mlops" else [node.module]
            yield from ((node.lineno, name) for name in names)


@pytest.mark.parametrize("folder", ALLOWED)
def test_a_folder_imports_downwards(folder: str) -> None:
    for path in sorted((ROOT / folder).rglob("*.py")):
        for line, module in imports(path):
            part = module.split(".")[1]
            assert part in {folder, *ALLOWED[folder]} or (folder, part) == ("core", "cloud"), f"{path}:{line} imports {module}"


def test_core_opens_the_workspace_in_one_place_only() -> None:
    found = {path.name for path in (ROOT / "core").glob("*.py") for _, module in imports(path) if module.startswith("mlops.cloud")}
    assert found == {"stage.py"}


def test_no_stage_imports_another_or_the_emulator() -> None:
    stages = {name.replace("-", "_") for name in STAGES}
    for name in stages:
        for line, module in imports(ROOT / f"{name}.py"):
            part = module.split(".")[1]
            assert part not in (stages - {name}) | {"emulator", "remote"}, f"{name}.py:{line} imports {module}"


def test_every_folder_has_its_rule() -> None:
    assert {path.name for path in ROOT.iterdir() if (path / "__init__.py").is_file()} == set(ALLOWED)
