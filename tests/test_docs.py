"""What the documents say is held against what is there.

``pytest tests/test_docs.py --write-docs`` brings the generated parts up to date.
"""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from mlops.__main__ import COMMANDS
from mlops.cli.reference import markdown
from mlops.cli.run import STAGES
from mlops.cloud import serving_images
from mlops.core.config import json_schema, load
from mlops.emulator.base.faults import FAULTS
from mlops.emulator.component.spec import INPUTS
from mlops.report.markdown import list_metrics
from tests.support import api_coverage

ROOT = Path(__file__).parent.parent
DOCS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "data" / "README.md"])


def inputs_table() -> str:
    rows = ["| input | default | used | effect in the emulator |", "|---|---|---|---|"]
    for item in INPUTS.values():
        default = "" if item.default is None else f"`{item.default}`"
        rows.append(f"| `{item.name}` | {default} | {'yes' if item.has_effect else 'recorded'} | {item.effect} |")
    return "\n".join(rows)


def between(text: str, name: str, new: str) -> str:
    """``text`` with what stands between the marks of ``name`` replaced."""
    pattern = re.compile(rf"(<!-- {name}:[^\n]*-->\n).*?(<!-- /{name} -->)", re.DOTALL)
    assert pattern.search(text)
    return pattern.sub(lambda match: f"{match[1]}{new}\n{match[2]}", text)


def generated() -> dict[Path, str]:
    emulator, gate, serving = (ROOT / "docs" / f"{name}.md" for name in ("emulator", "gate", "serving"))
    return {
        ROOT / "docs" / "configuration.md": markdown(),
        ROOT / "docs" / "emulator-coverage.md": api_coverage.page(),
        ROOT / "docs" / "pipeline.schema.json": json.dumps(json_schema(), indent=2) + "\n",
        emulator: between(emulator.read_text(), "inputs", inputs_table()),
        serving: between(serving.read_text(), "images", serving_images.tables()),
        gate: between(gate.read_text(), "metrics", list_metrics()),
    }


def test_a_pull_request_is_small_and_leaves_nothing() -> None:
    """As pipeline.toml comes: little data, few steps, an endpoint of its own that goes again, judged by what production serves."""
    pr, prod = (load(ROOT / "pipeline.toml", target, environment={}) for target in ("pr", "prod"))
    assert pr.data.percent < prod.data.percent
    assert pr.data.max_rows["train_sft"] <= 1000
    assert 0 < int(pr.training.parameters["max_steps"]) <= 20
    assert pr.endpoint.ephemeral
    assert pr.endpoint.expires_after_hours is not None
    assert pr.champion_endpoint == prod.champion_endpoint == prod.endpoint.name != pr.endpoint.name
    assert not prod.endpoint.ephemeral
    # A pull request does not wait behind a training of hours, and no step waits for a node that was released a moment ago.
    assert pr.compute.name != prod.compute.name
    assert min(pr.compute.idle_seconds, prod.compute.idle_seconds) >= 900


def test_generated_documents_are_fresh(request: pytest.FixtureRequest) -> None:
    for path, fresh in generated().items():
        if request.config.getoption("--write-docs"):
            path.write_text(fresh)
        assert path.read_text() == fresh, f"{path} is stale: pytest tests/test_docs.py --write-docs"


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("azure", "Only Azure's public cloud is supported"),
        ("azure", "## If your workspace has no storage keys"),
        ("azure", "## If your workspace is private"),
        ("workflows", "GitHub Enterprise for a private one"),
        ("workflows", "without a commit for 60 days"),
    ],
)
def test_what_the_code_cannot_change_is_documented(page: str, text: str) -> None:
    assert text in " ".join((ROOT / "docs" / f"{page}.md").read_text().split())


def test_all_inputs_of_the_component_are_documented() -> None:
    assert len(INPUTS) == 69
    assert all(item.effect for item in INPUTS.values())


@pytest.mark.parametrize("target", tomllib.loads((ROOT / "pipeline.toml").read_text())["targets"])
def test_every_target_of_pipeline_toml_loads(target: str) -> None:
    assert load(ROOT / "pipeline.toml", target, environment={}).gate.rules


@pytest.mark.parametrize("path", DOCS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", path.read_text()):
        assert (path.parent / target).exists(), f"{path} links to {target}"


def test_the_file_tree_in_the_readme_is_the_truth() -> None:
    tree = re.search(r"```text\n(\.github/\n.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert tree, "README.md has no file tree"
    drawn: set[str] = set()
    parents: list[str] = []
    for line in tree[1].splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        names = [name.rstrip("/") for name in re.split(r"\s{2,}", line.strip())[0].split()]
        parents[depth:] = names[:1]
        drawn |= {"/".join([*parents[:depth], name]) for name in names}
    tracked = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    files = {Path(line) for line in tracked.splitlines()}
    there = {str(path) for path in files} | {str(parent) for path in files for parent in path.parents}
    assert drawn <= there, f"in the README's tree but not there: {sorted(drawn - there)}"
    top = {path.parts[0] for path in files} - {".gitignore", ".ci", ".pre-commit-config.yaml", "LICENSE"}
    assert top <= drawn, f"missing in the README's tree: {sorted(top - drawn)}"
    stages = {f"mlops/{stage.replace('-', '_')}.py" for stage in STAGES}
    assert stages <= drawn


def test_every_stage_and_fault_that_a_document_names_exists() -> None:
    for path in DOCS:
        text = path.read_text()
        for command in re.findall(r"mlops ([a-z][a-z-]*)(?= --|`|\n|  )", text):
            assert command in COMMANDS or "mlops." in command, f"{path}: mlops {command}"
        for fault in re.findall(r"--fault '?([a-z0-9-]+)", text):
            assert fault in FAULTS, f"{path}: --fault {fault}"
