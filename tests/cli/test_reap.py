"""What vanishes while the reaper works, and what only looks expired. tests/workflows/test_schedule.py shows the rest."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from mlops.cli.reap import reap
from mlops.cloud.endpoints import Endpoints
from mlops.cloud.tags import EXPIRES, TARGET
from mlops.cloud.workspace import Workspace
from mlops.core.settings import Config, EndpointConfig

Settings = Callable[..., Config]
Open = Callable[[Config], Workspace]
PAST = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
TOML = '[targets.test.endpoint]\nname = "reaped"\nephemeral = true\n[targets.prod]\n'


def test_what_vanishes_between_listing_and_reading_is_gone_and_production_never_expires(
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
