"""The role of the schedule, with any one action removed: `resume` and `reap` say what is missing, and what they may not touch stays."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mlops.__main__ import main
from mlops.cloud.permissions import make_role
from mlops.cloud.tags import DETACHED, EXPIRES, MARK, PIPELINE, PREVIOUS, PREVIOUS_ID, PREVIOUS_UNTIL, RUN, RUN_KEY, TARGET, WAITING
from mlops.cloud.workspace import Workspace
from mlops.core.settings import Config, EndpointConfig
from mlops.emulator import github_api
from mlops.emulator.base.azure import Options
from mlops.emulator.base.fork_servers import ForkServers
from mlops.emulator.server import Emulator
from tests.support.deployments import model_job, registered_model
from tests.support.project import enter
from tests.support.roles import restricted

REPOSITORY = "octo/chat"
PAST = "2001-01-01T00:00:00+00:00"
TAGS = {PIPELINE: MARK, RUN: f"{REPOSITORY}/7"}
ACTIONS = make_role("scheduled", "workspace", "/")["Actions"]
IMAGE = "azureml://registries/azureml/environments/acft-hf-nlp-gpu/versions/112"
TOML = '[targets.test.endpoint]\nname = "expired"\nephemeral = true\n[targets.prod]\n'


@pytest.fixture
def octo(tmp_path_factory: pytest.TempPathFactory, weights_cache: Path, fork_servers: ForkServers) -> Iterator[Emulator]:
    options = Options(github=REPOSITORY, weights="tiny-llama", cache=weights_cache)
    with Emulator(tmp_path_factory.mktemp("emulator"), options, fork_servers=fork_servers) as running:
        yield running


class Schedule:
    """What the schedule finds: an expired endpoint, an expired standby deployment, an abandoned job and a detached one."""

    def __init__(self, workspace: Workspace, folder: Path) -> None:
        self.workspace, self.folder, self.jobs = workspace, folder, 0
        self.model = registered_model(workspace, model_job(workspace, folder / "code"))
        self.submit("detached", "true")
        workspace.tracking.set_tags("detached", {DETACHED: WAITING})
        self.abandoned = ""

    def submit(self, name: str, command: str) -> None:
        from azure.ai.ml import command as make_command

        tags = {**TAGS, TARGET: "test", RUN_KEY: name}
        job: Any = make_command(command=command, code=str(self.folder / "code"), environment=IMAGE, compute="cluster", tags=tags)
        job.name = name
        self.workspace.session.ml.jobs.create_or_update(job)

    def restore(self) -> None:
        """Make what the last call has removed, and nothing that exists."""
        endpoints = self.workspace.endpoints
        if endpoints.find("expired") is None:
            endpoints.create(EndpointConfig(name="expired"), {**TAGS, EXPIRES: PAST})
        kept = EndpointConfig(name="kept", instance_type="Standard_DS3_v2", probe_initial_delay_s=1)
        if endpoints.find("kept") is None:
            endpoints.create(kept, {**TAGS, TARGET: "prod"})
        if endpoints.find_deployment("kept", "standby") is None:
            standby = endpoints.deploy(kept, "standby", self.model, TAGS)
            endpoints.set_traffic("kept", None, tags={PREVIOUS: "standby", PREVIOUS_ID: standby.identity, PREVIOUS_UNTIL: PAST})
        if not self.abandoned or self.workspace.jobs.get(self.abandoned).is_over:
            self.jobs += 1
            self.abandoned = f"abandoned-{self.jobs}"
            self.submit(self.abandoned, "sleep 600")

    def remaining(self) -> set[str]:
        """What costs money, and may be gone after `reap`."""
        found = {name for name in ("expired",) if self.workspace.endpoints.find(name) is not None}
        found |= {view.name for view in self.workspace.endpoints.list_deployments("kept")}
        return found | ({"abandoned"} if self.workspace.jobs.get(self.abandoned).is_active else set())


PROTECTED = {"jobs/cancel/action": "abandoned", "onlineEndpoints/delete": "expired", "onlineEndpoints/deployments/delete": "standby"}
"""Action → what stays without it."""


def test_without_one_action_the_schedule_says_what_is_missing(
    octo: Emulator,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    settings: Callable[..., Config],
    open_workspace: Callable[[Config], Workspace],
    capsys: pytest.CaptureFixture[str],
) -> None:
    enter(octo, monkeypatch)
    monkeypatch.chdir(tmp_path)
    workspace = open_workspace(settings(TOML))
    github_api.add_workflow_run(octo.azure, "7", "completed", "failure")
    schedule = Schedule(workspace, tmp_path)
    token = github_api.issue_token(octo.azure, {"actions": "write"})
    variables = {"GITHUB_ACTIONS": "true", "GITHUB_REPOSITORY": REPOSITORY, "GITHUB_TOKEN": token, "GITHUB_REF_NAME": "main"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    scope = octo.azure.workspace_id
    for action in ACTIONS:
        schedule.restore()
        before = schedule.remaining()
        assert before == {"expired", "standby", "abandoned"}
        capsys.readouterr()
        with restricted(octo, "scheduled", action):
            codes = [main([*command, "--target", "test"]) for command in (["resume"], ["reap", "--delete"])]
        assert any(codes), action
        printed = capsys.readouterr()
        text = " ".join((printed.out + printed.err).replace("%0A", " ").split())
        assert f"grant {action} at {scope}" in text, (action, text)
        assert f"--scope {scope}" in text, action
        if stays := PROTECTED.get(action.partition("/workspaces/")[2]):
            assert stays in schedule.remaining(), action
    schedule.restore()
    with restricted(octo, "scheduled"):
        assert main(["reap", "--delete", "--target", "test"]) == 0
    assert schedule.remaining() == set(), "with all actions, nothing is left"
