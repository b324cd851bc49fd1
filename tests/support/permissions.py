"""Record which permissions each command needs, from the requests that it makes in whole runs.

    python -m tests.support.permissions            rewrite mlops/cloud/permissions.json (some minutes)
    python -m tests.support.permissions --check    compare instead; exits with 1 if the file is stale

The runs contain what a clean run doesn't: a deployment that fails, a second model beside a champion, a rollback, expired endpoints,
abandoned and detached jobs.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlops.cli.run import STAGES
from mlops.cloud.permissions import FILE
from mlops.cloud.tags import DETACHED, RUN, RUN_KEY, WAITING
from mlops.core.settings import ComputeConfig
from mlops.emulator import github_api
from mlops.emulator.base.azure import Options
from mlops.emulator.identity.roles import Ledger
from mlops.emulator.server import Emulator
from tests.support.project import Project, client_of
from tests.test_pipeline import LENIENT, TOML, make_project

REPOSITORY = "octo/chat"
UNTIL_PROMOTE = [stage for stage in STAGES if stage != "teardown"]


class Recorder:
    """Runs commands and keeps the actions that each needed."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self.actions: dict[str, set[str]] = {}

    def run(self, command: str, *options: str, code: int = 0, **where: str) -> None:
        """Run a command, which must end with this exit code."""
        ledger = self.project.emulator.azure.services.get(Ledger)
        ledger.permissions.clear()
        assert self.project.mlops(command, *options, **where) == code, command
        self.actions.setdefault(command, set()).update(permission.action for permission in ledger.permissions)

    def content(self) -> dict[str, list[str]]:
        return {command: sorted(actions) for command, actions in sorted(self.actions.items()) if actions}


def record(folder: Path, weights: Path) -> dict[str, list[str]]:
    """Run everything and return command → actions."""
    options = Options(weights="tiny-llama", cache=weights, github=REPOSITORY)
    with Emulator(folder / "azure", options) as emulator, client_of(emulator, folder):
        recorder = Recorder(make_project(folder, emulator))
        _run_pipeline(recorder)
        _run_ephemeral_target(recorder)
        _run_schedule(recorder)
    return recorder.content()


def _run_pipeline(recorder: Recorder) -> None:
    for command in UNTIL_PROMOTE:
        if command == "deploy":
            recorder.project.emulator.azure.faults.add("deployment-unhealthy")
            recorder.run(command, code=13)
        recorder.run(command)
    first, last = TOML.index("[defaults.gate.rules."), TOML.index("[defaults.endpoint]")
    (recorder.project.folder / "lenient.toml").write_text(TOML[:first] + LENIENT + TOML[last:])
    for command in UNTIL_PROMOTE:
        recorder.run(command, "--config", "lenient.toml", "--set", "training.parameters.seed=7", run="again")
    # The deployment that it keeps has expired when the schedule runs.
    recorder.run("rollback", "--set", "endpoint.keep_previous_hours=0.0001")
    recorder.run("teardown")


def _run_ephemeral_target(recorder: Recorder) -> None:
    project = recorder.project
    for command in UNTIL_PROMOTE:
        recorder.run(command, target="ephemeral", run="pr")
    session = project.workspace("ephemeral").session
    _submit(project, "running", "sleep 600", session.tags | {RUN_KEY: "running"}, target="ephemeral")
    recorder.run("teardown", target="ephemeral", run="pr")
    recorder.run("deploy", "--set", "endpoint.expires_after_hours=0.0001", target="ephemeral", run="pr")


def _run_schedule(recorder: Recorder) -> None:
    project = recorder.project
    azure = project.emulator.azure
    github_api.add_workflow_run(azure, "7", "completed", "failure")
    variables = {
        "GITHUB_ACTIONS": "true",
        "GITHUB_REPOSITORY": REPOSITORY,
        "GITHUB_TOKEN": github_api.issue_token(azure, {"actions": "write"}),
        "GITHUB_REF_NAME": "main",
    }
    tags = project.workspace().session.tags | {RUN: f"{REPOSITORY}/7"}
    _submit(project, "detached", "true", tags | {RUN_KEY: "detached", DETACHED: WAITING})
    _submit(project, "abandoned", "sleep 600", tags | {RUN_KEY: "abandoned"})
    project.workspace().wait("detached", 120)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        recorder.run("resume")
        recorder.run("reap", "--delete")
    # Outside of GitHub, what has expired belongs to this user.
    recorder.run("reap", "--delete")
    assert not any(key.startswith("pipeline-test-pr") for key in project.endpoints())
    assert len([key for key in project.endpoints() if key.startswith("pipeline-test/")]) == 1
    assert project.jobs()["abandoned"] in ("CancelRequested", "Canceled")


def _submit(project: Project, name: str, command: str, tags: dict[str, str], target: str = "") -> None:
    from azure.ai.ml import command as make_command

    workspace = project.workspace(target)
    workspace.compute.ensure(ComputeConfig(name="for-jobs", max_instances=9))
    folder = project.folder / "code"
    folder.mkdir(exist_ok=True)
    (folder / "nothing.txt").touch()
    environment = "azureml://registries/azureml/environments/acft-hf-nlp-gpu/versions/112"
    job: Any = make_command(command=command, code=str(folder), environment=environment, compute="for-jobs", tags=tags)
    job.name = name
    workspace.session.ml.jobs.create_or_update(job)


def main(arguments: list[str], run: Callable[[Path, Path], dict[str, list[str]]] = record) -> int:
    """Run the command line."""
    with tempfile.TemporaryDirectory() as folder:
        content = json.dumps(run(Path(folder), Path(folder) / "weights"), indent=1) + "\n"
    if "--check" in arguments:
        return 0 if FILE.read_text() == content else 1
    FILE.write_text(content)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
