"""What the workspace's models, endpoints and deployments have in common: reading a body strictly, answering as a resource, saying no.

Shapes follow ARM common-types v3 (``TrackedResource``, ``systemData``); refusals come as the management front end words those of the
inference service behind it.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.alias_generators import to_camel
from starlette.requests import Request

from mlops.emulator.base.azure import Azure
from mlops.emulator.base.errors import AzureFault, user_error
from mlops.emulator.base.store import Document
from mlops.emulator.wire.app import body

__all__ = ["Body", "conflict", "document", "now", "page", "read", "refused", "resource"]

PROVIDER_TYPE = "Microsoft.MachineLearningServices/workspaces"


class Body(BaseModel):
    """A JSON object in a request: camelCase on the wire, and nothing in it that the service's schema doesn't name."""

    model_config = ConfigDict(extra="forbid", alias_generator=to_camel, protected_namespaces=(), strict=True)


B = TypeVar("B", bound=Body)


async def read(request: Request, kind: type[B]) -> B:
    """The request's body, checked.

    Raises:
        AzureFault: 400 that names every field that is unknown, missing or of a wrong type.
    """
    try:
        return kind.model_validate(await body(request))
    except ValidationError as problem:
        found = "; ".join(f"{'.'.join(map(str, error['loc']))}: {error['msg']}" for error in problem.errors())
        raise user_error(f"The request is invalid: {found}") from None


def now() -> str:
    """UTC, ISO 8601 as in ``systemData``."""
    return datetime.now(UTC).isoformat()


def document(azure: Azure, known: Document | None, content: dict[str, Any]) -> Document:
    """``content`` with the times and authors that ``systemData`` tells; creation is kept from the ``known`` document."""
    author = {"by": azure.identity.client, "at": now()}
    return content | {"created": known["created"] if known else author, "modified": author}


def resource(path: str, kind: str, name: str, stored: Document, /, **more: Any) -> dict[str, Any]:
    """A stored document as ARM answers it.

    Args:
        path: its ARM id.
        kind: type under the workspace's, e.g. ``"models/versions"``.
        more: further top-level fields.
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


def page(items: list[dict[str, Any]]) -> dict[str, Any]:
    """A list answer; the emulator has no second page."""
    return {"value": items, "nextLink": None}


def refused(sentence: str) -> AzureFault:
    """400, with the inference service's own sentence where the front end puts it: as JSON text inside ``details``."""
    inner = json.dumps({"errors": {"": [sentence]}, "title": "One or more validation errors occurred."})
    return AzureFault(400, "BadRequest", "The request is invalid.", details=[("InferencingClientCallFailed", inner)])


def conflict(what: str, state: str) -> AzureFault:
    """409: another operation on the resource is under way."""
    return AzureFault(409, "Conflict", f"{what} is in state {state}: wait until the operation that is under way has ended.")
