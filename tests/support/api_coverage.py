"""Which operations of Azure's published REST API the emulator serves.

The operations are those of the generated clients in the installed ``azure-ai-ml``: each has a function that builds its request from a
method and a path. Whether one is served, the emulator's own router says.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from mlops.emulator.base.errors import AzureFault
from mlops.emulator.server import load_routes
from mlops.emulator.wire.app import Route, Router
from mlops.emulator.wire.versions import PUBLISHED, published_since

__all__ = ["Operation", "find_route", "load_operations", "page"]

CLIENTS = {
    "arm_ml_service": ("Resource provider", "arm"),
    "runhistory": ("Run history", "api"),
    "dataset_dataplane": ("Data", "api"),
    "model_dataplane": ("Models and assets", "api"),
    "registry_discovery": ("Registry discovery", "api"),
    "workspace_dataplane": ("Hubs", "api"),
    "azure_ai_assets_v2024_04_01/azureaiassetsv20240401": ("Assets of AI projects", "api"),
}
"""Folder of a generated client → its title on the page, and the host (see ``Route``) that it sends its requests to."""
REGISTRY_FRONT_END = "/mferp/managementfrontend"
"""The SDK reads a registry through this prefix on the host of the data plane, under the paths of the resource provider."""
PREFIXES = {
    "/subscriptions/{subscriptionId}/resourceGroups/{resourceGroupName}/providers/Microsoft.MachineLearningServices"
    "/workspaces/{workspaceName}": "{workspace}",
    "/subscriptions/{subscriptionId}/resourceGroups/{resourceGroupName}/providers/Microsoft.MachineLearningServices": "{group}",
    "/subscriptions/{subscriptionId}/providers/Microsoft.MachineLearningServices": "{subscription}",
}
"""Beginning of a path → how the page abbreviates it."""
GROUP = re.compile(r"^class _?(\w*)Operations(?:Mixin)?\b", re.MULTILINE)
BUILDER = re.compile(r"^def build_(?P<name>\w+)_request\(.*?^    return HttpRequest\(.*?$", re.MULTILINE | re.DOTALL)
PATH = re.compile(r'^    _url = \(?\s*"([^"]+)"', re.MULTILINE)
METHOD = re.compile(r'^    return HttpRequest\(\s*method="(\w+)"', re.MULTILINE)
"""The source of a generated client: a class for each operation group, a function that builds the request of each operation."""
INTRODUCTION = """# Operations of the emulator

This page lists which requests the emulator serves.

The tables contain every operation of the clients in `azure-ai-ml` that are generated from Azure's published REST API. An operation that
isn't served gets 501 and a message that names it, in Azure's error envelope, whether it is in these tables or not. The emulator also
serves blob storage, MLflow, sign-in and scoring ([the emulator](emulator.md)), which are not in these tables.

The last column has the api-versions of a served operation: *since* means that version and every later one that was published, up to
%s. In the emulator, operations of the data plane have no api-version. In the paths, `{subscription}`, `{group}` and `{workspace}` stand for
`/subscriptions/{subscriptionId}/providers/Microsoft.MachineLearningServices`,
`/subscriptions/{subscriptionId}/resourceGroups/{resourceGroupName}/providers/Microsoft.MachineLearningServices`, and the latter with
`/workspaces/{workspaceName}`.
"""


@dataclasses.dataclass(frozen=True)
class Operation:
    """An operation of a generated client.

    Args:
        client: key in ``CLIENTS``.
        group: name of its operation group, e.g. ``OnlineEndpoints``.
        name: its name in the group, e.g. ``list_keys``.
        method: HTTP method.
        path: path with parameters in braces.
    """

    client: str
    group: str
    name: str
    method: str
    path: str

    @property
    def host(self) -> str:
        """The host that it is sent to, as in ``Route``."""
        return CLIENTS[self.client][1]


def load_operations() -> list[Operation]:
    """Return all operations, in the order of the clients' source."""
    return [operation for client in CLIENTS for operation in _read_client(client)]


def find_route(router: Router, operation: Operation) -> Route | None:
    """Return the route that serves an operation; None if it is refused."""
    places = [(operation.host, operation.path)]
    if operation.host == "arm" and "/registries/" in operation.path:
        places.append(("api", REGISTRY_FRONT_END + operation.path))
    for host, path in places:
        try:
            route, parameters = router.find(host, operation.method, path)
        except AzureFault:
            continue
        # A fixed part of the operation's path is no value of a parameter: that would be another operation.
        if all(re.fullmatch(r"\{\w+\}", value) for value in parameters.values()):
            return route
    return None


def page() -> str:
    """Return the page: how many operations are served, then a table per operation group."""
    router, operations = Router(load_routes()), load_operations()
    routes = {operation: find_route(router, operation) for operation in operations}
    lines = [INTRODUCTION % PUBLISHED[-1], *_count_clients(routes)]
    for client, (title, _) in CLIENTS.items():
        lines += ["", f"## {title}"]
        of_client = [operation for operation in operations if operation.client == client]
        for group, members in itertools.groupby(sorted(of_client, key=lambda item: item.group), lambda item: item.group):
            lines += _describe_group(group, [(operation, routes[operation]) for operation in members])
    return "\n".join(lines) + "\n"


def _count_clients(routes: dict[Operation, Route | None]) -> Iterator[str]:
    yield "| API | operations | served | refused (501) |"
    yield "|---|---|---|---|"
    rows = [(title, [route for operation, route in routes.items() if operation.client == client]) for client, (title, _) in CLIENTS.items()]
    for title, found in [*rows, ("**all**", list(routes.values()))]:
        served = sum(route is not None for route in found)
        yield f"| {title} | {len(found)} | {served} | {len(found) - served} |"


def _describe_group(group: str, rows: Sequence[tuple[Operation, Route | None]]) -> Iterator[str]:
    served = sum(route is not None for _, route in rows)
    yield f"\n### {group}: {served} of {len(rows)} served\n"
    yield "| operation | request | served |"
    yield "|---|---|---|"
    for operation, route in rows:
        yield f"| {operation.name} | `{operation.method} {_abbreviate(operation.path)}` | {_describe_state(route)} |"


def _describe_state(route: Route | None) -> str:
    if route is None:
        return "refused (501)"
    if route.versions is None:
        return "yes"
    first = min(route.versions)
    is_open = first in PUBLISHED and route.versions == published_since(first)
    return f"since {first}" if is_open else "only " + ", ".join(sorted(route.versions))


def _abbreviate(path: str) -> str:
    for prefix, name in PREFIXES.items():
        path = path.replace(prefix, name)
    return path


def _read_client(client: str) -> Iterator[Operation]:
    package = importlib.util.find_spec("azure.ai.ml")  # without importing it, which is slow
    assert package is not None
    assert package.origin is not None
    source = (Path(package.origin).parent / "_restclient" / client / "operations" / "_operations.py").read_text()
    groups = [name for name in GROUP.findall(source) if name]
    for builder in BUILDER.finditer(source):
        name = builder["name"]
        group = max((group for group in groups if name.startswith(_snake(group) + "_")), key=len, default="Operations")
        (path,), (method,) = PATH.findall(builder[0]), METHOD.findall(builder[0])
        yield Operation(client, group, name.removeprefix(_snake(group) + "_"), method, path)


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()
