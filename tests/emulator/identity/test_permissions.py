"""The permission that each route needs, held against the list of operations that Azure publishes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mlops.emulator.history.mlflow_api import SERVED
from mlops.emulator.identity.permissions import _is_unrestricted, check_routes, find_action
from mlops.emulator.server import GITHUB_MODULES, MODULES, load_routes
from mlops.emulator.wire import operations
from mlops.emulator.wire.app import WS, Answer, Route

MLFLOW = "/mlflow/v1.0" + WS + "/api/2.0/mlflow/"
JOBS = "Microsoft.MachineLearningServices/workspaces/"


def test_every_module_with_routes_is_served() -> None:
    """A module that is missing in the list would be silently absent: its paths answer 501, its roles file is ignored."""
    folder = Path(operations.__file__).parents[1]
    modules = {
        ".".join(path.relative_to(folder).with_suffix("").parts)
        for path in folder.rglob("*.py")
        if re.search(r"^(ROUTES\b.*=|async def startup)", path.read_text(), re.MULTILINE)
    }
    assert modules - {*MODULES, *GITHUB_MODULES} <= {"wire.operations", "history.mlflow_server"}


def test_every_route_has_a_permission_or_a_reason_for_needing_none() -> None:
    routes = load_routes(github=True)
    check_routes(routes)
    for method, paths in SERVED.items():
        for path in paths:
            assert find_action("api", method, MLFLOW + path)[0].startswith(f"{JOBS}experiments/")
    catch_alls = {route.path for route in routes if ":path}" in route.path and not _is_unrestricted(route.host, route.path)}
    assert catch_alls == {"/{container}/{blob:path}", "/mlflow/{version}" + WS + "/api/2.0/mlflow/{path:path}"}


def test_a_route_without_a_permission_keeps_the_emulator_from_starting() -> None:
    async def handler(*_: object) -> Answer:
        return None

    with pytest.raises(ValueError, match="GET /somewhere/new of host api has no permission"):
        check_routes([Route("api", "GET", "/somewhere/new", handler)])


@pytest.mark.parametrize(
    ("host", "method", "path", "action"),
    [
        ("arm", "GET", WS, "read"),
        ("arm", "GET", WS + "/jobs", "jobs/read"),
        ("arm", "PUT", WS + "/jobs/{job}", "jobs/write"),
        ("arm", "POST", WS + "/jobs/{job}/cancel", "jobs/cancel/action"),
        ("arm", "PATCH", WS + "/onlineEndpoints/{endpoint}", "onlineEndpoints/write"),
        ("arm", "DELETE", WS + "/onlineEndpoints/{e}/deployments/{d}", "onlineEndpoints/deployments/delete"),
        ("arm", "POST", WS + "/onlineEndpoints/{e}/deployments/{d}/getLogs", "onlineEndpoints/deployments/getLogs/action"),
        ("arm", "GET", WS + "/models/{m}/versions", "models/versions/read"),
        ("arm", "POST", WS + "/datastores/{d}/listSecrets", "datastores/listSecrets/action"),
        ("api", "POST", MLFLOW + "runs/search", "experiments/runs/read"),
        ("api", "POST", MLFLOW + "runs/log-batch", "experiments/runs/write"),
        ("api", "POST", MLFLOW + "experiments/search", "experiments/read"),
        ("api", "POST", MLFLOW + "experiments/create", "experiments/write"),
        ("api", "GET", MLFLOW + "registered-models/search", "models/read"),
        ("api", "POST", MLFLOW + "registered-models/get-latest-versions", "models/read"),
        ("api", "POST", MLFLOW + "model-versions/create", "models/write"),
        ("api", "PATCH", MLFLOW + "model-versions/update", "models/write"),
        ("api", "DELETE", MLFLOW + "model-versions/delete", "models/delete"),
        ("api", "POST", "/artifact/v2.0" + WS + "/artifacts/{origin}/{container}/batch/metadata", "metadata/artifacts/write"),
        ("api", "GET", "/history/v1.0" + WS + "/experiments/{e}/runs/{run}/artifacts/contentinfo", "metadata/artifacts/read"),
        ("api", "POST", "/history/v1.0" + WS + "/experiments/{e}/runs/{run}/artifacts/batch/metadata", "metadata/artifacts/write"),
        ("api", "PATCH", "/history/v1.0" + WS + "/experimentids/{e}/runs/{run}/tags", "experiments/runs/write"),
        ("api", "POST", "/history/v1.0" + WS + "/rundata", "experiments/runs/read"),
    ],
)
def test_the_action_is_the_one_in_the_list_of_operations(host: str, method: str, path: str, action: str) -> None:
    assert find_action(host, method, path) == (f"{JOBS}{action}", False)


def test_paths_outside_the_workspace() -> None:
    provider = "/subscriptions/{s}/providers/Microsoft.MachineLearningServices"
    sizes = find_action("arm", "GET", provider + "/locations/{location}/vmSizes")
    assert sizes == ("Microsoft.MachineLearningServices/locations/vmSizes/read", False)
    assert find_action("arm", "GET", WS + "/providers/Microsoft.Authorization/permissions") == (
        "Microsoft.Authorization/permissions/read",
        False,
    )
    assert find_action("arm", "GET", "/subscriptions/{s}/resourceGroups/{g}") == (
        "Microsoft.Resources/subscriptions/resourceGroups/read",
        False,
    )
