"""The action `gate` in a workflow of somebody's own: two score files, no Azure."""

from __future__ import annotations

import json

from mlops.emulator.server import Emulator
from tests.support.workflows.harness import Harness
from tests.support.workflows.trees import read_workflow

WORKFLOW = """
name: Judge
on: push
permissions: {}
jobs:
  better:
    runs-on: ubuntu-latest
    permissions: {contents: read}
    outputs:
      verdict: ${{ steps.gate.outputs.verdict }}
    steps:
      - uses: CHECKOUT
        with: {persist-credentials: false}
      - id: gate
        uses: $/.github/actions/gate
        with: {candidate: scores/low.jsonl, base: scores/high.jsonl, rules: scores/rules.toml}
      - run: test "$VERDICT" = PROMOTE
        env:
          VERDICT: ${{ steps.gate.outputs.verdict }}
  worse:
    runs-on: ubuntu-latest
    permissions: {contents: read}
    steps:
      - uses: CHECKOUT
        with: {persist-credentials: false}
      - uses: $/.github/actions/gate
        with: {candidate: scores/high.jsonl, base: scores/low.jsonl, rules: scores/rules.toml}
"""
RULES = """
[rules.loss]
metric = "loss"
direction = "lower"
baseline = "base"
test = "paired_bootstrap"
min_rows = 50
"""


def test_the_verdict_decides_whether_the_job_succeeds(repository: Harness, emulator: Emulator) -> None:
    folder = repository.tree / "scores"
    folder.mkdir()
    for name, loss in (("low", 1.0), ("high", 1.5)):
        scores = ({"id": number, "loss": loss + number % 7 / 10 + number % 3 / 100 * loss} for number in range(60))
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in scores))
    (folder / "rules.toml").write_text(RULES)
    steps = read_workflow(repository.tree / ".github/workflows/pipeline.yml")["jobs"]["validate"]["steps"]
    checkout = next(step["uses"] for step in steps if step.get("uses", "").startswith("actions/checkout@"))
    repository.add_workflow("judge.yml", WORKFLOW.replace("CHECKOUT", checkout))
    result = repository.run("push", "judge.yml", {"ref": "refs/heads/main"}, configured=False)
    assert result.jobs == {"better": "success", "worse": "failure"}, result.trouble
    assert "## REJECT" in result.summary
    assert emulator.contacted_hosts == {}
