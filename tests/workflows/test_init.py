"""A repository that `mlops init` has set up calls this project's workflows and actions."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import tomlkit

from mlops.cli.init import CALLERS
from mlops.emulator.base.fork_servers import ForkServers
from mlops.emulator.server import Emulator
from tests.support.workflows.harness import Harness
from tests.support.workflows.trees import ROOT, commit, git

PROJECT = "octo/project"
ENDPOINT = "mine-completion"
THINGS = ("basil", "mint", "sage", "thyme", "dill", "chives", "parsley")
TINY = """
training.parameters.max_steps=3
training.parameters.learning_rate=0.001
training.parameters.apply_lora=false
training.parameters.apply_deepspeed=false
training.parameters.evaluation_strategy=disable
training.parameters.max_seq_length=160
endpoint.probe_initial_delay_s=5
"""
"""Settings that make the generated pipeline.toml small enough; its gate rules stay as they are, but for those in SHORT."""
SHORT = """
[targets.prod.data]
dataset = "data/mine"
percent = 100
[targets.prod.smoke]
requests = 1
max_new_tokens = 4
[targets.prod.evaluation]
retention_rows = 256
generate_rows = 120
task_rows = 0
max_tokens = 1152
max_new_tokens = 4
precision = "float32"
[targets.prod.gate.rules.answers-like-reference]
enabled = false
[targets.prod.gate.rules]
answers-language.enabled = false
retention-per-kind.min_rows = 32
target-tail = { min_rows = 200, max_share = 0.1 }
tasks.enabled = false
tasks-per-kind.enabled = false
harmful-refused.enabled = false
"""
"""Settings that a workflow may not change, so they are written to the file. The toy model's four tokens of noise are like no reference and
pass no check."""


def conversation(number: int, *, answered: bool) -> dict[str, Any]:
    thing = THINGS[number % len(THINGS)]
    question = [{"role": "user", "content": f"How do I keep {thing} number {number} alive?"}]
    answer = {"role": "assistant", "content": f"Give the {thing} light and water, and all will be well."}
    return {"prompt": question[0]["content"], "prompt_id": str(number), "messages": [*question, answer] if answered else question}


def write_data(folder: Path) -> None:
    """Write a data set with the 200 evaluation rows that the rules need."""
    folder.mkdir()
    number = 0
    for split, count in (("train_sft", 60), ("test_sft", 240), ("train_gen", 10), ("test_gen", 10)):
        rows = [conversation(number + row, answered=split.endswith("sft")) for row in range(count)]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        number += count


def update(table: Any, changes: dict[str, Any]) -> None:
    for name, value in changes.items():
        if isinstance(value, dict) and name in table:
            update(table[name], value)
        else:
            table[name] = value


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty git repository after `mlops init`, with a data set."""
    folder = tmp_path_factory.mktemp("init") / "mine"
    folder.mkdir()
    git(folder, "init", "--quiet", "--initial-branch", "main")
    command = [sys.executable, "-m", "mlops", "init", str(folder), "--project", PROJECT, "--endpoint", "mine"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    write_data(folder / "data/mine")
    settings = tomlkit.parse((folder / "pipeline.toml").read_text())
    update(settings, tomllib.loads(SHORT))
    (folder / "pipeline.toml").write_text(tomlkit.dumps(settings))
    commit(folder)
    return folder


@pytest.fixture(scope="module")
def called(mine: Path, emulator: Emulator, fork_servers: ForkServers) -> Harness:
    """The harness of that repository. Its workflows call this project at the commit that they name."""
    project = f"{PROJECT}@{git(ROOT, 'rev-parse', 'HEAD')}"
    return Harness(emulator, mine.parent, mine, project, configuration=mine / "pipeline.toml", fork_servers=fork_servers)


def test_it_holds_callers_configuration_and_data_and_no_code(mine: Path) -> None:
    files = set(git(mine, "ls-files").split())
    workflows = {f".github/workflows/{name}" for name in CALLERS}
    assert files >= workflows | {"pipeline.toml", "data/README.md", "data/retention.jsonl", ".gitignore"}
    assert not any(file.startswith(("mlops/", ".github/actions/")) or file.endswith("pipeline.yml") for file in files)


def test_it_runs_from_its_own_data_to_live_traffic(called: Harness) -> None:
    whole = called.dispatch("dispatch.yml", {"settings": TINY})
    assert whole.code == 0, whole.trouble
    assert list(whole.jobs) == ["validate", "train", "evaluate-gate", "register", "deploy", "smoke-test", "promote", "teardown"]
    assert whole.outputs["verdict"] == "PROMOTE"
    [(endpoint, traffic)] = called.endpoints().items()
    assert endpoint.startswith(f"{ENDPOINT}-"), "with the workspace's suffix"
    assert list(traffic.values()) == [100]


def test_its_schedule_runs(called: Harness) -> None:
    assert called.schedule().jobs == {"resume": "success", "reap": "success", "reap-pr": "success"}
