"""What vanishes while the reaper works, and what only looks expired. tests/workflows/test_schedule.py shows the rest."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import pytest

from mlops.cli.reap import reap
from mlops.cloud.endpoints import Endpoints
from mlops.cloud.errors import NotFound
from mlops.cloud.jobs import Jobs, JobView
from mlops.cloud.tags import EXPIRES, RUN, TARGET
from mlops.cloud.workspace import Workspace
from mlops.core.errors import AzureError, TeardownIncomplete
from mlops.core.settings import Config, EndpointConfig

Settings = Callable[..., Config]
Open = Callable[[Config], Workspace]
PAST = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
TOML = '[targets.test.endpoint]\nname = "reaped"\nephemeral = true\n[targets.prod]\n'


def test_resources_that_vanish_after_listing_count_as_gone_and_production_never_expires(
    inside: object, settings: Settings, open_workspace: Open, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("GITHUB_REPOSITORY", raising=False)
    config = settings(TOML)
    workspace = open_workspace(config)
    for name in ("reaped-1", "reaped-2", "reaped-3"):
        workspace.endpoints.create(EndpointConfig(name=name), {EXPIRES: PAST})
    workspace.endpoints.create(EndpointConfig(name="reaped-prod"), {EXPIRES: PAST, TARGET: "prod"})
    read = Endpoints.list_deployments

    def list_deployments(self: Endpoints, endpoint: str) -> object:
        if endpoint == "reaped-2":
            self.delete(endpoint)
        return read(self, endpoint)

    monkeypatch.setattr(Endpoints, "list_deployments", list_deployments)
    reasons = reap(config, workspace, delete=True)
    assert reasons["endpoint reaped-1"] == ""
    assert "target prod" in reasons["endpoint reaped-prod"]
    left = {endpoint.name for endpoint in workspace.endpoints.list_all() if endpoint.name.startswith("reaped")}
    assert left == {"reaped-prod"}
    assert re.search("endpoint reaped-prod +belongs to target prod, whose endpoints are not ephemeral", capsys.readouterr().out)
    workspace.endpoints.delete("reaped-prod")


def test_jobs_that_vanish_or_have_strange_tags_do_not_stop_the_reaper(
    workspace: Workspace, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever may submit a job may give it any tag, and cancel and delete it."""
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_REPOSITORY", "octo/chat")

    def list_all_targets(_: Jobs) -> Iterator[JobView]:
        for name, number in (("vanished", "7"), ("strange", "²"), ("elsewhere", "8")):
            repository = "octo/other" if name == "elsewhere" else "octo/chat"
            yield JobView(name=name, status="Running", tags={RUN: f"{repository}/{number}"})

    monkeypatch.setattr(Jobs, "list_all_targets", list_all_targets)
    with pytest.raises(NotFound):
        workspace.tracking.get_tags("vanished")
    read = workspace.tracking.get_tags
    monkeypatch.setattr(workspace.tracking, "get_tags", lambda name: {} if name == "strange" else read(name))
    reasons = {name: reason for name, reason in reap(settings(TOML), workspace, delete=False).items() if name.startswith("job ")}
    assert reasons == {
        "job strange": "doesn't belong to a workflow run whose status GitHub can report",
        "job elsewhere": "belongs to octo/other/8, not to octo/chat",
    }


def test_an_endpoint_that_can_not_be_read_does_not_keep_the_others_alive(
    workspace: Workspace, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GITHUB_REPOSITORY", raising=False)
    for name in ("reaped-4", "reaped-5"):
        workspace.endpoints.create(EndpointConfig(name=name), {EXPIRES: PAST})
    read = Endpoints.list_deployments

    def list_deployments(self: Endpoints, endpoint: str) -> object:
        if endpoint == "reaped-4":
            raise AzureError("ParsingError: this deployment is of a type that the SDK doesn't know")
        return read(self, endpoint)

    with monkeypatch.context() as patch:
        patch.setattr(Endpoints, "list_deployments", list_deployments)
        with pytest.raises(TeardownIncomplete, match="endpoint reaped-4: ParsingError"):
            reap(settings(TOML), workspace, delete=True)
    assert workspace.endpoints.find("reaped-5") is None
    workspace.endpoints.delete("reaped-4")
