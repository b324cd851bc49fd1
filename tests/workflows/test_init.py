"""A repository that `mlops init` has set up calls this project's workflows and actions from outside."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mlops.cli.init import CALLERS
from mlops.emulator.server import Emulator
from tests.support.workflows.harness import Harness
from tests.support.workflows.trees import ROOT, commit, git

PROJECT = "octo/project"
ENDPOINT = "mine-completion"
THINGS = ("basil", "mint", "sage", "thyme", "dill", "chives", "parsley")
TINY = """
data.dataset=data/mine
data.percent=100
training.parameters.max_steps=3
training.parameters.learning_rate=0.001
training.parameters.apply_lora=false
training.parameters.apply_deepspeed=false
training.parameters.evaluation_strategy=disable
training.parameters.max_seq_length=160
smoke.requests=1
smoke.max_new_tokens=4
endpoint.probe_initial_delay_s=5
"""
"""What makes the pipeline.toml that init writes small enough; its rules and what they ask for stay as they are."""
SHORT = """
[targets.prod.evaluation]
generate_rows = 1
max_tokens = 160
max_new_tokens = 4
precision = "float32"
"""
"""And what settings can't say, since it decides the verdict: added to the file."""


def conversation(number: int, *, answered: bool) -> dict[str, Any]:
    thing = THINGS[number % len(THINGS)]
    said = [{"role": "user", "content": f"How do I keep {thing} number {number} alive?"}]
    answer = {"role": "assistant", "content": f"Give the {thing} light and water, and all will be well."}
    return {"prompt": said[0]["content"], "prompt_id": str(number), "messages": [*said, answer] if answered else said}


def write_data(folder: Path) -> None:
    """A data set of one's own: what the rules ask for, 200 rows to judge by, is there."""
    folder.mkdir()
    number = 0
    for split, count in (("train_sft", 60), ("test_sft", 240), ("train_gen", 10), ("test_gen", 10)):
        rows = [conversation(number + row, answered=split.endswith("sft")) for row in range(count)]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        number += count


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty git repository after the real command, with a data set in it."""
    made = tmp_path_factory.mktemp("init") / "mine"
    made.mkdir()
    git(made, "init", "--quiet", "--initial-branch", "main")
    command = [sys.executable, "-m", "mlops", "init", str(made), "--project", PROJECT, "--endpoint", "mine"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    write_data(made / "data/mine")
    with (made / "pipeline.toml").open("a") as file:
        file.write(SHORT)
    commit(made)
    return made


@pytest.fixture(scope="module")
def called(mine: Path, emulator: Emulator) -> Harness:
    """The harness of that repository; its workflows call this project at the commit that they name."""
    project = f"{PROJECT}@{git(ROOT, 'rev-parse', 'HEAD')}"
    return Harness(emulator, mine.parent, mine, project, configuration=mine / "pipeline.toml")


def test_it_holds_callers_configuration_and_data_and_no_code(mine: Path) -> None:
    files = set(git(mine, "ls-files").split())
    workflows = {f".github/workflows/{name}" for name in CALLERS}
    assert files >= workflows | {"pipeline.toml", "data/README.md", "data/retention.jsonl", ".gitignore"}
    assert not any(file.startswith(("mlops/", ".github/actions/")) or file.endswith("pipeline.yml") for file in files)


def test_it_goes_from_its_data_to_live_traffic_under_its_own_rules(called: Harness) -> None:
    whole = called.dispatch("dispatch.yml", {"settings": TINY})
    assert whole.code == 0, whole.trouble
    assert list(whole.jobs) == ["validate", "train", "evaluate-gate", "register", "deploy", "smoke-test", "promote", "teardown"]
    assert whole.outputs["verdict"] == "PROMOTE"
    assert list(called.endpoints()[ENDPOINT].values()) == [100]


def test_its_schedule_runs(called: Harness) -> None:
    assert called.schedule().jobs == {"resume": "success", "reap": "success"}
