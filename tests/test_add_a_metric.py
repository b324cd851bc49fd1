"""docs/add-a-metric.md, executed on a copy of the project."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "add-a-metric.md"
CHECK = """
import sys
from pathlib import Path

import mlops
from mlops.core.config import load
from mlops.core.judgement import Verdict
from mlops.report.markdown import list_metrics
from mlops.report.screen import screen
from tests.support.evidence import RULES, make_rows
from tests.support.run_directories import judge_run, make_run

root = Path(sys.argv[1])
assert Path(mlops.__file__).is_relative_to(root), "the copy is tested, not the original"
rule = load(root / "pipeline.toml", "prod", environment={}).gate.enabled_rules["shouting"]
assert "| `shouting` | share of generated answers in capital letters |" in list_metrics()
for bad, verdict in ((False, Verdict.PROMOTE), (True, Verdict.REJECT)):
    scores = {role: make_rows(role, shift=-0.4 if role == "candidate" else 0.0) for role in ("candidate", "champion", "base")}
    for role, rows in scores.items():
        share = 0.75 if bad == (role == "candidate") else 0.1
        for number, row in enumerate(row for row in rows if row["shouting"] is not None):
            row["shouting"] = float(number < share * 20)
    run = make_run(root / verdict.value, scores)
    judged = judge_run(run, rule, *RULES)
    assert judged.verdict is verdict, judged.reasons
    assert "missed" not in {probe.result for probe in judged.self_test}, judged.self_test
    for text in (screen(run), (run.directory / "gate.md").read_text(), (run.directory / "report.html").read_text()):
        assert "target.shouting" in text
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Copy the project and apply the edits of the page, exactly as it states them."""
    ignore = shutil.ignore_patterns("__pycache__")
    for folder in ("mlops", "tests/support", "tests/remote", "tests/judging"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=ignore)
    shutil.copy(ROOT / "pipeline.toml", tmp_path)
    blocks = re.findall(r"^(In|Create) `([^`]+)`:\n\n```(\w+)\n(.*?)```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) == PAGE.read_text().count("```") // 2, "every code block states its file"
    for action, name, language, block in blocks:
        path = tmp_path / name
        assert path.exists() is (action == "In"), name
        if language == "diff":
            before = "".join(line[1:] for line in block.splitlines(keepends=True) if line[0] == " ")
            after = "".join(line[1:] for line in block.splitlines(keepends=True))
            assert path.read_text().count(before) == 1, f"{name} does not have these lines exactly once:\n{before}"
            path.write_text(path.read_text().replace(before, after))
        else:
            with path.open("a") as file:
                file.write(block if action == "Create" else f"\n{block}")
    return tmp_path


def run_python(project: Path, *arguments: str) -> None:
    result = subprocess.run(
        [sys.executable, *arguments],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(project)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_gate_judges_the_new_metric_and_reports_show_it(project: Path) -> None:
    run_python(project, "-c", CHECK, str(project))


def test_the_tests_of_the_page_pass_and_so_do_those_of_all_metrics(project: Path) -> None:
    files = [f"tests/{name}.py" for name in ("judging/test_shouting", "remote/test_metrics", "judging/test_rules", "judging/test_validity")]
    run_python(project, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--import-mode=importlib", "--rootdir", str(project), *files)
