"""The permission that each request needs: an action, as Azure's resource provider operations name it, at a scope.

For Azure Resource Manager it follows from method and path, as ARM derives it: the types in the path, then ``read``, ``write``, ``delete``,
or the last part of a POST and ``action``. For the workspace's data plane (run history, artifacts, MLflow), which has no such rule, it is
a table; sources: "Manage access to Azure Machine Learning workspaces" (MLflow operations) and "Azure permissions for AI + machine
learning" on learn.microsoft.com. For blobs it follows "Permissions for calling data operations" of Azure Storage.
"""

from __future__ import annotations

import dataclasses
import re

from starlette.requests import Request

from mlops.emulator.base.azure import Azure
from mlops.emulator.wire.app import PROVIDER, WS, Route

__all__ = ["Permission", "blob_scope", "check_routes", "find_action", "find_permissions"]

WORKSPACES = "Microsoft.MachineLearningServices/workspaces"
BLOBS = "Microsoft.Storage/storageAccounts/blobServices/containers"
VERBS = {"GET": "read", "HEAD": "read", "PUT": "write", "PATCH": "write", "DELETE": "delete"}

UNRESTRICTED = {
    "login": "it proves identities",
    "oidc": "it is GitHub's",
    "github": "it is GitHub's",
    "scoring": "keys and endpoint tokens authorize; a Microsoft Entra token needs onlineEndpoints/score/action, checked by the endpoint",
}
"""Hosts whose routes need no role → why."""
UNRESTRICTED_PATHS = {
    r"/metadata/endpoints": "the clouds are public",
    r"/discovery": "the workspace's addresses are public",
    rf"/subscriptions/[^/]+{PROVIDER}/locations/[^/]+/(computeOperationsStatus|mfeOperationsStatus|mfeOperationResults)/.*": (
        "roles at the workspace suffice to create endpoints and clusters, and can't cover a path outside it"
    ),
    r"/registrymanagement/.*": "the system registry is public",
    r"/mferp/managementfrontend/.*/registries/.*": "the system registry is public",
    r"/mlflow/.*/mlflow/(logged-models|traces)(/.*)?": "the workspace does not serve them",
}
"""Paths that need no role → why."""

DATA_PLANE = (
    (r"GET .*/artifacts(/.*)?", "metadata/artifacts/read"),
    (r"POST .*/artifacts/.*", "metadata/artifacts/write"),
    (r"(GET|POST) .*/mlflow/experiments/(get|get-by-name|search)", "experiments/read"),
    (r"POST .*/mlflow/experiments/delete", "experiments/delete"),
    (r"POST .*/mlflow/experiments/.*", "experiments/write"),
    (r"(GET|POST) .*/mlflow/(runs/(get|search|get-run-data-status)|metrics/.*)", "experiments/runs/read"),
    (r"(POST|PATCH|DELETE) .*/mlflow/runs(/.*)?", "experiments/runs/write"),
    (r"GET .*/mlflow/(registered-models|model-versions)/.*|POST .*/(registered-models|model-versions)/(search|get-.*)", "models/read"),
    (r"DELETE .*/mlflow/(registered-models|model-versions)/.*", "models/delete"),
    (r"(POST|PATCH) .*/mlflow/(registered-models|model-versions)/.*", "models/write"),
    (r"POST /dataversion/batchGetResolvedUris", "data/versions/read"),
    (r"POST /models/batchGetResolvedUris", "models/read"),
    (r"GET .*/runs/.*", "experiments/runs/read"),
    (r"POST /(batch)?rundata", "experiments/runs/read"),
    (r"(PATCH|POST|PUT|DELETE) .*/runs(/.*)?", "experiments/runs/write"),
)
"""Method and path below the workspace's → action below the workspace's. The first row that matches counts."""

IMPLIED = {
    f"{WORKSPACES}/jobs/write": (
        "environments/write",
        "environments/build/action",
        "environments/readSecrets/action",
        "metadata/artifacts/write",
    )
}
"""Action → others below the workspace's that the service checks too, because it does more in the name of the user ("Submitting any type of
run (V2)" in the first source)."""


@dataclasses.dataclass(frozen=True)
class Permission:
    """The permission that a request needs.

    Args:
        action: e.g. ``Microsoft.MachineLearningServices/workspaces/jobs/write``.
        scope: ARM id of the resource that it is needed for.
        is_data: whether it is a data action, which ``actions`` of a role never grant.
    """

    action: str
    scope: str
    is_data: bool = False


def check_routes(routes: list[Route]) -> None:
    """Check that the permission of every route is known.

    Raises:
        ValueError: it isn't. The emulator doesn't start, since it would allow what Azure refuses.
    """
    for route in routes:
        # What a catch-all serves is only known when a request comes; see MLflow's API.
        if ":path}" not in route.path and not _is_unrestricted(route.host, route.path):
            find_action(route.host, route.method, route.path)


def find_action(host: str, method: str, path: str) -> tuple[str, bool]:
    """Return the action that a request needs, and whether it is a data action.

    Args:
        host: as in :class:`~mlops.emulator.wire.app.Route`.
        method: HTTP method.
        path: path of the route, with names or with placeholders.

    Raises:
        ValueError: there is no rule for it.
    """
    if host == "arm":
        provider, pairs, operation = _split(path)
        types = [kind for kind, _ in pairs]
        if method == "POST":
            return "/".join((provider, *types, operation, "action")), False
        return "/".join((provider, *types, *([operation] if operation else []), VERBS[method])), False
    if host == "blob":
        is_container = path.count("/") == 1
        return f"{BLOBS}/blobs/{'read' if is_container else VERBS[method]}", True
    below = re.split(r"/workspaces/[^/]+", path, maxsplit=1, flags=re.IGNORECASE)[-1]
    for pattern, action in DATA_PLANE:
        if re.fullmatch(pattern, f"{method} {below}"):
            return f"{WORKSPACES}/{action}", False
    raise ValueError(f"{method} {path} of host {host} has no permission: add a row to DATA_PLANE or UNRESTRICTED_PATHS.")


def find_permissions(azure: Azure, route: Route, request: Request) -> tuple[Permission, ...]:
    """Return everything that a request needs; nothing if it needs no role."""
    first = _find_permission(azure, route, request)
    if first is None:
        return ()
    others = IMPLIED.get(first.action, ())
    return first, *(Permission(f"{WORKSPACES}/{action}", azure.workspace_id) for action in others)


def _find_permission(azure: Azure, route: Route, request: Request) -> Permission | None:
    path = request.url.path
    if _is_unrestricted(route.host, path):
        return None
    try:
        action, is_data = find_action(route.host, request.method, path if ":path}" in route.path and route.host == "api" else route.path)
    except ValueError:
        return None  # a part of a catch-all that isn't served: the handler says so
    if route.host == "arm":
        below_scope = _split(path)[2]
        return Permission(action, path.removesuffix(f"/{below_scope}") if below_scope else path)
    if route.host == "blob":
        container = request.path_params["container"]
        if "blob" not in request.path_params and request.query_params.get("comp") != "list":
            return Permission(f"{BLOBS}/read", blob_scope(azure, container))
        return Permission(action, blob_scope(azure, container), is_data)
    names = {name: request.path_params[name] for name in ("subscription", "group", "workspace")}
    return Permission(action, WS.format(**names))


def blob_scope(azure: Azure, container: str) -> str:
    """Return the ARM id of a container of the workspace's storage account."""
    i = azure.identity
    account = f"/subscriptions/{i.subscription}/resourceGroups/{i.group}/providers/Microsoft.Storage/storageAccounts/{i.account}"
    return f"{account}/blobServices/default/containers/{container}"


def _split(path: str) -> tuple[str, list[tuple[str, str]], str]:
    """Split a path of ARM: the last provider, its (type, name) pairs, and what follows them."""
    base, *providers = re.split(r"/providers/", path, flags=re.IGNORECASE)
    provider, *parts = (providers[-1] if providers else f"Microsoft.Resources{base}").split("/")
    pairs = list(zip(parts[::2], parts[1::2], strict=False))
    return provider, pairs, parts[-1] if len(parts) % 2 else ""


def _is_unrestricted(host: str, path: str) -> bool:
    return host in UNRESTRICTED or any(re.fullmatch(pattern, path, re.IGNORECASE) for pattern in UNRESTRICTED_PATHS)
