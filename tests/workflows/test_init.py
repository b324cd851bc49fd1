"""A repository that `mlops init` has set up calls this project's workflows and actions from outside."""

from __future__ import annotations

from pathlib import Path

from mlops.emulator.server import Emulator
from mlops.github.init import written
from tests.workflows.harness import ROOT, Harness, make_repository

PROJECT = "octo/project"
COMMIT = "c" * 40


def test_the_workflows_of_another_repository_run(emulator: Emulator, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    for name, text in written(ROOT, PROJECT, COMMIT, "mine").items():
        (mine / name).parent.mkdir(parents=True, exist_ok=True)
        (mine / name).write_text(text)
    make_repository(mine)
    assert not (mine / "mlops").exists()
    assert not (mine / ".github/actions").exists()

    repository = Harness(emulator, tmp_path, mine, f"{PROJECT}@{COMMIT}")
    validated = repository.dispatch("dispatch.yml", {"until": "validate"})
    assert validated.jobs == {"validate": "success"}, validated.trouble
    assert repository.schedule().jobs == {"resume": "success", "reap": "success"}
