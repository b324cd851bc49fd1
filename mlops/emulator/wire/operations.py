"""ARM's long-running operations: an immediate response, and a status URL that the client polls until the work is done.

Protocol: Azure Resource Manager asynchronous operations (``Azure-AsyncOperation`` header, then GET until a terminal status). An operation
takes as long as its work, plus the number of polls in the emulator's options; nothing sleeps.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable, Coroutine
from typing import Any, Literal

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from mlops.emulator.base.azure import LOCATION, Azure
from mlops.emulator.base.clock import now
from mlops.emulator.base.errors import AzureFault, not_found
from mlops.emulator.base.store import Document
from mlops.emulator.wire.app import PROVIDER, Answer, Route, arm_url

__all__ = ["RESULTS", "ROUTES", "accept", "fail_interrupted", "start", "start_cancellation", "start_deletion"]

RESULTS: Literal["mfeOperationResults"] = "mfeOperationResults"
"""Resource type of an operation's result."""
Kind = Literal["computeOperationsStatus", "mfeOperationsStatus", "mfeOperationResults"]

RETRY_AFTER = {"Retry-After": "1"}
"""Azure sends none with a status, and the SDK then waits 30 seconds; it ignores 0."""

APPLIED = "operation-applied"
"""Fault of an operation that does its work before it fails."""
FAULTS = {
    "operation-failed": ("Failed", "InternalServerError", "The operation on {} has failed."),
    "operation-canceled": ("Canceled", "OperationCanceled", "The operation on {} was canceled."),
    APPLIED: ("Failed", "InternalServerError", "The operation on {} has failed."),
}
"""Fault → final status of an accepted operation, and the code and text of its error."""
SLOW_POLLS = 3
"""Additional status reads of an operation that the fault ``operation-slow`` hits."""

log = logging.getLogger("mlops.emulator")


def start(
    azure: Azure,
    kind: Kind,
    prefix: str,
    work: Coroutine[Any, Any, None],
    subject: str = "",
    *,
    name: str = "",
    end: Callable[[str], object] = lambda _: None,
) -> str:
    """Start ``work`` in the background and return the path of its status.

    Args:
        azure: the emulated Azure.
        kind: resource type of the status.
        prefix: prefix of the operation's id, e.g. ``"od:"`` for an online deployment; empty for compute.
        work: ends when the resource is ready, or raises AzureFault with the reason why it never will be.
        subject: the resource's name, for the faults whose names begin with ``operation-``.
        name: last part of the operation's id; random by default.
        end: is called with ``Failed`` or ``Canceled`` if such a fault takes the place of the work; marks the resource.
    """
    fault = next((each for each in FAULTS if azure.faults.take(each, subject)), None)
    polls = azure.options.polls + (SLOW_POLLS if azure.faults.take("operation-slow", subject) else 0)
    name = name or str(uuid.uuid4())
    operation = f"{prefix}{azure.identity.workspace_guid}:{name}" if prefix else name
    document = {"status": "InProgress", "polls": polls, "start": now(), "end": None, "error": None}
    azure.store.put("operation", operation, document)
    if fault == APPLIED:
        work = _fail_after(work, subject)
    elif fault is not None:
        work.close()
        work = _end(fault, subject, end)
    azure.start_task(_finish(azure, operation, work, FAULTS[fault][0] if fault is not None else "Failed"))
    return f"/subscriptions/{azure.identity.subscription}{PROVIDER}/locations/{LOCATION}/{kind}/{operation}"


def accept(request: Request, status: int, path: str, content: Any, location: str = "") -> Response:
    """Return the first response: 201 with the resource after PUT, 202 without a body after DELETE.

    Args:
        request: that started the operation.
        status: HTTP status.
        path: of the operation's status.
        content: the body; None for none.
        location: path of what the client gets in the end.
    """
    is_compute = "computeOperationsStatus" in path
    headers = {"Azure-AsyncOperation": arm_url(request, path) + ("&service=new" if is_compute else "")}
    if not is_compute:
        headers["x-ms-async-operation-timeout"] = "PT30M"
    if location:
        headers["Location"] = arm_url(request, location)
    return (
        JSONResponse(content, status_code=status, headers=headers) if content is not None else Response(status_code=status, headers=headers)
    )


def start_deletion(
    azure: Azure, request: Request, prefix: str, work: Coroutine[Any, Any, None], subject: str, end: Callable[[str], object]
) -> Response:
    """Start a deletion: respond 202 with the URLs of its status and of its result. Arguments as for :func:`start`."""
    path = start(azure, "mfeOperationsStatus", prefix, work, subject, end=end)
    return accept(request, 202, path, None, path.replace("mfeOperationsStatus", RESULTS))


def start_cancellation(azure: Azure, request: Request, work: Coroutine[Any, Any, None], job: str) -> Response:
    """Start the cancellation of a job: respond 202 with the URL of its result, which is all there is."""
    path = start(azure, RESULTS, "jc:", work, job, name=job)
    headers = {"Location": arm_url(request, path), "x-ms-async-operation-timeout": "PT1H"}
    return JSONResponse(None, status_code=202, headers=headers)


async def get_status(azure: Azure, request: Request) -> Answer:
    """Return the status of an operation."""
    operation = request.path_params["operation"]
    document = _poll(azure, operation)
    is_compute = "computeOperationsStatus" in request.url.path
    # Of an endpoint or a deployment also while it is being created, as recorded.
    status = document["status"] if document["is_done"] else "InProgress" if is_compute else "Updating"
    answer: dict[str, Any] = {"status": status}
    if not is_compute:
        answer = {"id": request.url.path, "name": operation, "status": status, "startTime": document["start"], "percentComplete": 0.0}
        if document["is_done"]:
            answer["endTime"] = document["end"]
    if document["is_done"]:
        answer["percentComplete"] = 100.0
    if document["is_done"] and document["error"]:
        answer["error"] = document["error"]
    return JSONResponse(answer, headers=RETRY_AFTER)


async def get_result(azure: Azure, request: Request) -> Answer:
    """Return the result of a deletion or cancellation: 202 while it is in progress, then 200 without a body."""
    document = _poll(azure, request.path_params["operation"])
    if not document["is_done"]:
        return JSONResponse({}, status_code=202, headers=RETRY_AFTER | {"Location": str(request.url)})
    if document["error"]:
        raise AzureFault(400, document["error"]["code"], document["error"]["message"], body={"error": document["error"]})
    return Response()


def fail_interrupted(azure: Azure) -> None:
    """Mark operations that were in progress when the emulator stopped as failed. Call this after a restart."""
    for operation, document in azure.store.list("operation"):
        if document["status"] == "InProgress":
            fault = AzureFault(500, "OperationCanceled", "The emulator was stopped while the operation was in progress.")
            azure.store.put(
                "operation", operation, document | {"status": "Failed", "end": now(), "error": fault.envelope(LOCATION)["error"]}
            )


def _poll(azure: Azure, operation: str) -> Document:
    """Count a read of an operation. Return its document as the client may see it, with ``is_done``.

    Raises:
        AzureFault: 404, it does not exist.
    """
    try:
        with azure.store.change("operation", operation) as document:
            is_done = document["status"] != "InProgress"
            if is_done and document["polls"] > 0:
                document["polls"] -= 1
                is_done = False
    except KeyError:
        raise not_found(f"Operation {operation} not found.", "NotFound", "OperationNotFound") from None
    return document | {"is_done": is_done}


async def _end(fault: str, subject: str, end: Callable[[str], object]) -> None:
    """Take the place of an operation's work."""
    status, code, text = FAULTS[fault]
    end(status)
    raise AzureFault(500, code, text.format(subject))


async def _fail_after(work: Coroutine[Any, Any, None], subject: str) -> None:
    """Do the work of an operation, and then let it fail."""
    await work
    _, code, text = FAULTS[APPLIED]
    raise AzureFault(500, code, text.format(subject))


async def _finish(azure: Azure, operation: str, work: Coroutine[Any, Any, None], failed: str) -> None:
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
        document |= {"status": failed if error else "Succeeded", "end": now(), "error": error}


_STATUS = "/subscriptions/{subscription}" + PROVIDER + "/locations/{location}"
ROUTES = [
    Route("arm", "GET", _STATUS + "/computeOperationsStatus/{operation}", get_status),
    Route("arm", "GET", _STATUS + "/mfeOperationsStatus/{operation}", get_status),
    Route("arm", "GET", _STATUS + f"/{RESULTS}/{{operation}}", get_result),
]
