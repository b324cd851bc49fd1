"""Whether the workspace is private, and whether this machine reaches it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mlops.cloud import retries
from mlops.cloud.network import NetworkView
from mlops.cloud.workspace import Workspace
from mlops.emulator.server import Emulator
from tests.support.network import Network
from tests.support.roles import restricted


@pytest.fixture
def network(inside: Emulator, monkeypatch: pytest.MonkeyPatch) -> Network:
    """Sets the network of the workspace, for this test."""
    return Network(inside, monkeypatch)


@pytest.mark.parametrize(
    ("name", "managed", "expected"),
    [
        ("public", True, NetworkView(is_private=False, has_managed_network=False, has_private_endpoint=False)),
        ("private", True, NetworkView(is_private=True, has_managed_network=True, has_private_endpoint=True)),
        ("private-outside", False, NetworkView(is_private=True, has_managed_network=False, has_private_endpoint=True)),
    ],
)
def test_the_settings_of_the_workspace_are_read(
    name: str, managed: bool, expected: NetworkView, workspace: Workspace, network: Network
) -> None:
    network(name, managed=managed)
    assert workspace.network.get() == expected


def test_a_client_inside_the_network_meets_no_obstacle(workspace: Workspace, network: Network) -> None:
    network("private")
    assert workspace.network.find_obstacle() == ""


def test_the_data_plane_is_an_obstacle_from_outside(workspace: Workspace, network: Network) -> None:
    network("private-outside")
    assert "Access to workspace was denied based on workspace private link configuration" in workspace.network.find_obstacle()


def test_so_is_the_storage(workspace: Workspace, network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    network("private-outside")
    monkeypatch.setattr(workspace.history, "get_outputs", lambda run: {})
    assert "AuthorizationFailure: This request is not authorized" in workspace.network.find_obstacle()


def test_a_service_that_does_not_answer_is_an_obstacle(
    workspace: Workspace, fault: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "DEADLINE_S", 0.0)
    fault("503@api POST */rundata x1")
    assert "reading the outputs" in workspace.network.find_obstacle()


def test_a_missing_permission_gives_none(inside: Emulator, workspace: Workspace, network: Network) -> None:
    network("private")
    with restricted(inside, "prod", "Microsoft.MachineLearningServices/workspaces/experiments/runs/read"):
        assert workspace.network.find_obstacle() == ""
