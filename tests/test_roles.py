"""The smallest role, with any one action removed: the run stops before it costs anything, and says what is missing and how to grant it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mlops.cloud.errors import Forbidden
from mlops.cloud.permissions import READ_OWN, make_role
from mlops.core.records import Validated
from mlops.emulator.base.azure import Options
from mlops.emulator.server import Emulator
from tests.support.project import Project, client_of
from tests.support.roles import restricted
from tests.test_pipeline import make_project

ACTIONS = [action for action in make_role("prod", "workspace", "/")["Actions"] if action != READ_OWN]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, weights_cache: Path) -> Iterator[Project]:
    """A project with data, in a workspace in which nothing has been made."""
    folder = tmp_path_factory.mktemp("project")
    with (
        Emulator(tmp_path_factory.mktemp("emulator"), Options(weights="tiny-llama", cache=weights_cache)) as emulator,
        client_of(emulator, folder),
    ):
        project = make_project(folder, emulator)
        assert project.mlops("prepare") == 0
        yield project


def computes(project: Project) -> list[str]:
    return [key for key, _ in project.emulator.azure.store.list("compute")]


@pytest.mark.parametrize("action", ACTIONS, ids=lambda action: action.partition("/")[2])
def test_without_one_action_the_run_stops_before_it_costs_anything(
    prepared: Project, action: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with restricted(prepared.emulator, "prod", action):
        assert prepared.mlops("validate") in (5, 6)
    printed = capsys.readouterr()
    text = " ".join((printed.out + printed.err).split())
    assert action.rstrip("*") in text
    workspace = prepared.emulator.azure.workspace_id
    assert f"at {workspace}" in text
    assert "az role assignment create --assignee" in text
    assert f"--scope {workspace}" in text
    assert not prepared.records().has(Validated)
    assert prepared.assets() == (set(), set(), set())
    assert computes(prepared) == []


def test_unreadable_permissions_are_not_checked(prepared: Project, capsys: pytest.CaptureFixture[str]) -> None:
    """An identity that can't read its own permissions, as with the built-in role AzureML Data Scientist, may still have all of them."""
    with restricted(prepared.emulator, "prod", READ_OWN):
        assert prepared.mlops("validate") == 0
    assert f"not checked: whether our identity has all permissions ({READ_OWN}" in capsys.readouterr().out
    assert len(computes(prepared)) == 1
    # The cluster exists now, so nobody needs to be able to create it.
    create = "Microsoft.MachineLearningServices/workspaces/computes/write"
    with restricted(prepared.emulator, "prod", create):
        assert prepared.mlops("validate") == 0


def test_a_deployment_that_is_refused_later_says_what_is_missing(prepared: Project) -> None:
    """A role may be taken away after `validate`."""
    action = "Microsoft.MachineLearningServices/workspaces/onlineEndpoints/deployments/write"
    workspace = prepared.workspace()
    config = workspace.session.config.endpoint
    workspace.endpoints.create(config, {})
    try:
        with restricted(prepared.emulator, "prod", action), pytest.raises(Forbidden, match="creating deployment") as raised:
            workspace.endpoints.deploy(config, "one", "azureml:model:1", {})
        assert f"grant {action} at " in raised.value.fix
        assert workspace.endpoints.list_deployments(config.name) == []
    finally:
        workspace.endpoints.delete(config.name)
