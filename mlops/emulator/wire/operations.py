"""ARM's long-running operations: an immediate response, and a status URL that the client polls until the work is done.

Protocol: Azure Resource Manager asynchronous operations (``Azure-AsyncOperation`` header, then GET until a terminal status). An operation
takes as long as its work, plus the number of polls in the emulator's options; nothing sleeps.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Awaitable
from datetime import UTC, datetime
from typing import Any, Literal

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from mlops.emulator.base.azure import LOCATION, Azure
from mlops.emulator.base.errors import AzureFault, not_found
from mlops.emulator.wire.app import PROVIDER, Answer, Route

__all__ = ["ROUTES", "accept", "fail_interrupted", "start", "start_deletion"]

RETRY_AFTER = {"Retry-After": "1"}
"""The SDK ignores 0, and waits 30 seconds without the header."""

SLOW_POLLS = 3
"""Additional status reads of an operation that the fault ``operation-slow`` hits."""

log = logging.getLogger("mlops.emulator")


def start(
    azure: Azure, kind: Literal["computeOperationsStatus", "mfeOperationsStatus"], prefix: str, work: Awaitable[None], subject: str = ""
) -> str:
    """Start ``work`` in the background and return the path of its status.

    Args:
        azure: the emulated Azure.
        kind: resource type of the status.
        prefix: prefix of the operation's id, e.g. ``"od:"`` for an online deployment.
        work: ends when the resource is ready, or raises AzureFault with the reason why it never will be.
        subject: the resource's name, for the fault ``operation-slow``.
    """
    polls = azure.options.polls + (SLOW_POLLS if azure.faults.take("operation-slow", subject) else 0)
    operation = f"{prefix}{azure.identity.workspace_guid}:{uuid.uuid4()}" if prefix else str(uuid.uuid4())
    azure.store.put("operation", operation, {"status": "InProgress", "polls": polls, "start": _now(), "end": None, "error": None})
    azure.start_task(_finish(azure, operation, work))
    return f"/subscriptions/{azure.identity.subscription}{PROVIDER}/locations/{LOCATION}/{kind}/{operation}"


def accept(status: int, path: str, version: str, content: Any, location: str | None = None) -> Response:
    """Return the first response: 201 with the resource after PUT, 202 without a body after DELETE."""
    service = "&service=new" if "computeOperationsStatus" in path else ""
    url = f"https://management.azure.com{path}?api-version={version}{service}"
    headers = {"Azure-AsyncOperation": url, "x-ms-async-operation-timeout": "PT30M", **RETRY_AFTER}
    if location is not None:
        headers["Location"] = location
    return (
        JSONResponse(content, status_code=status, headers=headers) if content is not None else Response(status_code=status, headers=headers)
    )


def start_deletion(azure: Azure, request: Request, prefix: str, work: Awaitable[None], subject: str) -> Response:
    """Start a deletion: respond 202 with a Location that returns 202 while it runs, then 204. Arguments as for :func:`start`."""
    path, version = start(azure, "mfeOperationsStatus", prefix, work, subject), request.query_params["api-version"]
    location = f"https://management.azure.com{path.replace('mfeOperationsStatus', 'mfeOperationResults')}?api-version={version}"
    return accept(202, path, version, None, location)


async def get_status(azure: Azure, request: Request) -> Answer:
    """Return the status of an operation."""
    operation = request.path_params["operation"]
    try:
        with azure.store.change("operation", operation) as document:
            done = document["status"] != "InProgress"
            is_delayed = done and document["polls"] > 0
            if is_delayed:
                document["polls"] -= 1
            status = "InProgress" if is_delayed or not done else document["status"]
    except KeyError:
        raise not_found(f"Operation {operation} not found.", "NotFound", "OperationNotFound") from None
    answer: dict[str, Any] = {"id": request.url.path, "name": operation, "status": status, "startTime": document["start"]}
    if status != "InProgress":
        answer |= {"endTime": document["end"], "percentComplete": 100.0}
    if status == "Failed":
        answer["error"] = document["error"]
    return JSONResponse(answer, headers=RETRY_AFTER)


def fail_interrupted(azure: Azure) -> None:
    """Mark operations that were in progress when the emulator stopped as failed. Call this after a restart."""
    for operation, document in azure.store.list("operation"):
        if document["status"] == "InProgress":
            fault = AzureFault(500, "OperationCanceled", "The emulator was stopped while the operation was in progress.")
            azure.store.put(
                "operation", operation, document | {"status": "Failed", "end": _now(), "error": fault.envelope(LOCATION)["error"]}
            )


async def _finish(azure: Azure, operation: str, work: Awaitable[None]) -> None:
    error = None
    try:
        await work
    except AzureFault as fault:
        error = fault.envelope(LOCATION)["error"]
    except asyncio.CancelledError:
        raise
    except Exception as problem:
        log.exception("operation %s", operation)
        error = AzureFault(500, "InternalServerError", f"{type(problem).__name__}: {problem}").envelope(LOCATION)["error"]
    with azure.store.change("operation", operation) as document:
        document |= {"status": "Failed" if error else "Succeeded", "end": _now(), "error": error}


def _now() -> str:
    return datetime.now(UTC).isoformat()


_STATUS = "/subscriptions/{subscription}" + PROVIDER + "/locations/{location}"
ROUTES = [
    Route("arm", "GET", _STATUS + "/computeOperationsStatus/{operation}", get_status),
    Route("arm", "GET", _STATUS + "/mfeOperationsStatus/{operation}", get_status),
]
