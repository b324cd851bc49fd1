"""The stages against a workspace, the cheapest first. Without ``MLOPS_LIVE`` the workspace is the emulator's; see conftest.py."""

from __future__ import annotations

import time

import pytest

from mlops.cloud.invoke import build_payload
from mlops.cloud.permissions import check
from mlops.cloud.workspace import Workspace
from mlops.core.records import Validated
from mlops.core.run import Run
from tests.support.live import SIZE, LiveProject

QUESTION = ({"role": "user", "content": "What comes after two?"},)


def test_sign_in(workspace: Workspace) -> None:
    """Cost: none. Gets a token and reads the workspace."""
    assert workspace.session.location
    assert workspace.session.tracking_uri.startswith("azureml://")


def test_roles(workspace: Workspace) -> None:
    """Cost: none. Compares what the identity may do with what the commands need."""
    assert check(workspace.session, "prod", lambda: True) == []


def test_validate(project: LiveProject, workspace: Workspace) -> None:
    """Cost: none. Reads the registry, sizes and quota, and creates the cluster with zero nodes, and an endpoint without deployments."""
    assert project.mlops("prepare") == 0
    assert project.mlops("validate") == 0
    assert Run(project.folder / "run").read(Validated).base_model
    assert workspace.endpoints.find(project.endpoint) is not None


def test_register(project: LiveProject, workspace: Workspace) -> None:
    """Cost: none, apart from three kilobytes of storage. Registers a model and finds it again by its tags."""
    from azure.ai.ml.entities import Model

    tags = {**workspace.session.tags, "mlops.live": project.endpoint}
    model = Model(name=project.endpoint, version=str(int(time.time())), type="mlflow_model", path=str(project.write_model()), tags=tags)
    workspace.session.ml.models.create_or_update(model)
    found = workspace.assets.find_model(project.endpoint, {"mlops.live": project.endpoint})
    assert found is not None
    assert (found.name, found.version) == (project.endpoint, model.version)


@pytest.mark.paid
def test_deploy(project: LiveProject, workspace: Workspace) -> None:
    """Cost: about 0.10 USD: twenty minutes of one Standard_DS3_v2, most of it to build the image. Deploys the model and asks it."""
    model = workspace.assets.find_model(project.endpoint, {"mlops.live": project.endpoint})
    assert model is not None, "run test_register first"
    # This model needs no GPU.
    endpoint = workspace.session.config.endpoint.model_copy(update={"instance_type": SIZE})
    if workspace.endpoints.find(endpoint.name) is None:
        workspace.endpoints.create(endpoint, {})
    assert workspace.endpoints.deploy(endpoint, "tiny", model.id, {}).state.lower() == "succeeded"
    view = workspace.endpoints.set_traffic(endpoint.name, {"tiny": 100})
    response = workspace.endpoints.open_client(view, 60.0).invoke(build_payload(QUESTION, 8), "tiny")
    assert (response.status, response.answer().text) == (200, "That is a fine number."), response.reason


@pytest.mark.paid
def test_teardown(project: LiveProject, workspace: Workspace) -> None:
    """Cost: none. Deletes the endpoint, which ends all costs, and finds nothing left."""
    assert project.mlops("teardown") == 0
    assert workspace.endpoints.find(project.endpoint) is None
