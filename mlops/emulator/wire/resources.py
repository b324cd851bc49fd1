"""Common code of the workspace's resources: parsing a body strictly, rendering a resource, and the errors they share.

Shapes follow ARM common-types v3 (``TrackedResource``, ``systemData``); errors have the form that the management front end gives to those
of the inference service behind it.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError
from pydantic.alias_generators import to_camel
from starlette.requests import Request
from starlette.responses import JSONResponse

from mlops.emulator.base.azure import LOCATION, Azure
from mlops.emulator.base.clock import now
from mlops.emulator.base.errors import AzureFault, user_error
from mlops.emulator.base.store import Document
from mlops.emulator.wire.app import arm_url, read_json

__all__ = [
    "Body", "Labels", "SentResource", "add_system_data", "check_location", "conflict", "inference_error", "list_response",
    "parse_body", "put_response", "render_resource", "validate_body",
]  # fmt: skip

PROVIDER_TYPE = "Microsoft.MachineLearningServices/workspaces"


class Body(BaseModel):
    """A JSON object in a request: camelCase on the wire, without any field that the service's schema doesn't have."""

    model_config = ConfigDict(extra="forbid", alias_generator=to_camel, protected_namespaces=(), strict=True)


class SentResource(Body):
    """A resource in a request, with the read-only fields that a client sends back as it has read them, and that are ignored."""

    id: str | None = None
    name: str | None = None
    type: str | None = None
    system_data: dict[str, Any] | None = None


B = TypeVar("B", bound=BaseModel)


def _to_text(value: Any) -> Any:
    return str(value) if isinstance(value, int | float) else value


Labels = dict[str, Annotated[str | None, BeforeValidator(_to_text)]]
"""Tags or properties: the service takes null, and stores numbers as text."""


async def parse_body(request: Request, kind: type[B]) -> B:
    """Return the validated body of a request.

    Raises:
        AzureFault: 400, naming every field that is unknown, missing or of the wrong type.
    """
    return validate_body(await read_json(request), kind)


def validate_body(content: Any, kind: type[B], path: str = "") -> B:
    """Return a validated part of a body; ``path`` is where it is, e.g. ``"properties."``. Raises as :func:`parse_body`."""
    try:
        return kind.model_validate(content)
    except ValidationError as problem:
        errors = "; ".join(f"{path}{'.'.join(map(str, error['loc']))}: {error['msg']}" for error in problem.errors())
        raise user_error(f"The request is invalid: {errors}") from None


def add_system_data(azure: Azure, previous: Document | None, content: dict[str, Any]) -> Document:
    """Return ``content`` with the times and authors for ``systemData``; those of the creation come from the ``previous`` document."""
    author = {"by": azure.author, "at": now()}
    return content | {"created": previous["created"] if previous else author, "modified": author}


def render_resource(path: str, kind: str, name: str, stored: Document, /, **more: Any) -> dict[str, Any]:
    """Return a stored document as an ARM resource.

    Args:
        path: the resource's ARM id.
        kind: resource type below the workspace's, e.g. ``"models/versions"``.
        name: the resource's name.
        stored: the document, with system data.
        more: other top-level fields.
    """
    created, modified = stored["created"], stored["modified"]
    return {
        "id": path,
        "name": name,
        "type": f"{PROVIDER_TYPE}/{kind}",
        "systemData": {
            "createdAt": created["at"],
            "createdBy": created["by"],
            "createdByType": "Application",
            "lastModifiedAt": modified["at"],
            "lastModifiedBy": modified["by"],
            "lastModifiedByType": "Application",
        },
        **more,
    }


def list_response(items: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the body of a list response. It is always a single page."""
    return {"value": items, "nextLink": None}


def put_response(request: Request, resource: dict[str, Any], *, is_new: bool) -> JSONResponse:
    """Return the response to the PUT of an asset or a job: 201 with its address if it is new, and 200 without."""
    if not is_new:
        return JSONResponse(resource)
    return JSONResponse(resource, status_code=201, headers={"Location": arm_url(request, request.url.path)})


def check_location(location: str | None) -> None:
    """Refuse a resource in another region than the workspace's.

    Raises:
        AzureFault: 400.
    """
    if location is not None and location.replace(" ", "").lower() != LOCATION:
        raise user_error(f"The location {location} is not the workspace's location {LOCATION}.")


def inference_error(sentence: str) -> AzureFault:
    """Return a 400 with the inference service's own sentence where the front end puts it: as JSON text inside ``details``."""
    inner = json.dumps({"errors": {"": [sentence]}, "title": "One or more validation errors occurred."})
    return AzureFault(400, "BadRequest", "The request is invalid.", details=[("InferencingClientCallFailed", inner)])


def conflict(what: str, state: str) -> AzureFault:
    """Return a 409: another operation on the resource is in progress."""
    return AzureFault(409, "Conflict", f"{what} is in state {state}: wait until the operation in progress has ended.")
