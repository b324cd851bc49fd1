"""Every operation of Azure's published REST API is served, or refused in Azure's envelope, as the page in the documentation says."""

from __future__ import annotations

import re

import pytest
import requests

from mlops.emulator.identity.entra import MANAGEMENT, issue
from mlops.emulator.server import Emulator, load_routes
from mlops.emulator.wire.app import Route, Router
from tests.support.api_coverage import REGISTRY_FRONT_END, Operation, find_route, load_operations

HOSTS = {"arm": "https://management.azure.com", "api": "https://eastus.api.azureml.ms"}


@pytest.fixture(scope="module")
def operations() -> dict[Operation, Route | None]:
    """Operation → the route that serves it."""
    router = Router(load_routes())
    return {operation: find_route(router, operation) for operation in load_operations()}


def send(session: requests.Session, emulator: Emulator, operation: Operation, route: Route | None) -> requests.Response:
    """Send an operation's request for something that doesn't exist, and with an empty body."""
    i = emulator.azure.identity
    own = {"subscriptionId": i.subscription, "resourceGroupName": i.group, "workspaceName": i.workspace, "location": "eastus"}
    path = re.sub(r"\{(\w+)\}", lambda match: own.get(match[1], "absent"), operation.path)
    host = operation.host
    if route is not None and route.host != host:
        host, path = route.host, REGISTRY_FRONT_END + path
    query = {"api-version": max(route.versions)} if route is not None and route.versions else {}
    body: dict[str, str] | None = {} if operation.method in ("POST", "PUT", "PATCH") else None
    return session.request(operation.method, HOSTS[host] + path, params=query, json=body, timeout=30)


@pytest.fixture
def session(emulator: Emulator, environment: object) -> requests.Session:
    """One connection for all requests, with a token."""
    session = requests.Session()
    session.headers["Authorization"] = f"Bearer {issue(emulator.azure, MANAGEMENT)}"
    return session


def test_the_clients_of_the_sdk_are_read_whole(operations: dict[Operation, Route | None]) -> None:
    """A client that is written in another way must not shrink the page unnoticed."""
    paths = {f"{operation.method} {operation.path}" for operation in operations}
    assert len(operations) > 350
    assert any(path.startswith("GET ") and path.endswith("/onlineEndpoints/{endpointName}") for path in paths)
    assert not any("{" in re.sub(r"\{\w+\}", "", path) for path in paths)


def test_a_refused_operation_is_answered_with_501_and_its_name(
    session: requests.Session, emulator: Emulator, operations: dict[Operation, Route | None]
) -> None:
    refused = [operation for operation, route in operations.items() if route is None]
    assert refused
    for operation in refused:
        answer = send(session, emulator, operation, None)
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (501, "NotImplementedByEmulator"), operation
        assert f"{operation.method} {answer.request.url}".partition("?")[0] in error["message"]


def test_a_served_operation_is_never_answered_with_501(
    session: requests.Session, emulator: Emulator, operations: dict[Operation, Route | None]
) -> None:
    served = {operation: route for operation, route in operations.items() if route is not None}
    statuses = {operation: send(session, emulator, operation, route).status_code for operation, route in served.items()}
    assert {operation: status for operation, status in statuses.items() if status >= 500} == {}
    assert set(statuses.values()) >= {200, 400, 404}
