"""The project's own configuration is consistent: pre-commit hooks, locks and the Python versions of CI."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent
HOOKS: list[dict[str, Any]] = [
    hook for repo in yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"] for hook in repo["hooks"]
]


def test_the_pre_commit_hooks_have_the_versions_of_the_lock() -> None:
    locked = set(re.findall(r"^[\w.-]+==[\w.]+", (ROOT / "requirements" / "lint.lock").read_text(), re.MULTILINE))
    pins = {pin for hook in HOOKS for pin in hook["additional_dependencies"]}
    assert pins <= locked, f"not in requirements/lint.lock: {sorted(pins - locked)}"


def test_the_pre_commit_hooks_are_the_linters_of_nox() -> None:
    noxfile = (ROOT / "noxfile.py").read_text()
    lint = noxfile[noxfile.index("def lint(") :].partition("@nox.session")[0]
    assert {hook["entry"].split()[0] for hook in HOOKS} == set(re.findall(r'session\.run\("([\w-]+)"', lint))
    schemas = re.findall(r'"([\w-]+)": "[\w/*.]+\.yml"', noxfile)
    assert {word for hook in HOOKS for word in hook["entry"].split() if word.startswith("vendor.")} == {
        f"vendor.{name}" for name in schemas
    }


def test_ci_runs_on_every_supported_python_version() -> None:
    matrix = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"]["check"]["strategy"]["matrix"]
    required = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    minors = [int(version.removeprefix("3.")) for version in matrix["python"]]
    assert minors == list(range(minors[0], minors[-1] + 1))
    assert required == f">=3.{minors[0]},<3.{minors[-1] + 1}"
    for document in ("README.md", "docs/azure.md", "docs/first-run-on-azure.md", "docs/workflows.md"):
        assert f"Python 3.{minors[0]} to 3.{minors[-1]}" in (ROOT / document).read_text().replace("\n", " "), document
