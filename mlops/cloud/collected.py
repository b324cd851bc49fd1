"""Users' requests that Azure collected from a deployment, so that another deployment can answer them too.

They are personal data: they stay in the memory of this process, and nothing of them is printed, recorded or written to a file but their
number and a digest. Format and paths: "Collect production data from models deployed for real-time inferencing"
(learn.microsoft.com/azure/machine-learning). The collection ``request`` has the payloads as they were sent, whatever the serving image;
``model_inputs`` has tables in which requests may be put together, and with an image of one's own only what its script collects.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from mlops.cloud.endpoint_views import COLLECTION
from mlops.cloud.outputs import Outputs

__all__ = ["CollectedRequests", "digest", "read_requests"]

FOLDER = "azureml://datastores/workspaceblobstore/paths/modelDataCollector"
"""The folder that the SDK sets for a collection."""
MAX_BYTES = 32 << 20
"""Bytes read from the end of a file, where the newest requests are."""


@dataclass(frozen=True)
class CollectedRequests:
    """Requests of users, the newest first."""

    payloads: tuple[Mapping[str, Any], ...] = field(repr=False)
    unreadable: int
    """Number of skipped lines: incomplete, not JSON, or too large to be in the file."""

    @property
    def digest(self) -> str:
        """Identifies the requests without showing any of them (sha256)."""
        return hashlib.sha256("".join(map(digest, self.payloads)).encode()).hexdigest() if self.payloads else ""


def digest(payload: Mapping[str, Any]) -> str:
    """Return the sha256 of a payload, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(payload, sort_keys=True).encode()).hexdigest()


def read_requests(outputs: Outputs, endpoint: str, deployment: str, count: int, own: Collection[str]) -> CollectedRequests:
    """Read the newest requests that a deployment has collected, each once.

    Args:
        outputs: reads the workspace's storage.
        endpoint, deployment: their names.
        count: how many, at most.
        own: digests of requests that the pipeline itself sends, which are skipped.

    Raises:
        AzureError: the storage can't be read.
    """
    chosen: dict[str, Mapping[str, Any]] = {}
    unreadable = 0
    for content in outputs.read_newest(f"{FOLDER}/{endpoint}/{deployment}/{COLLECTION}", MAX_BYTES):
        for line in reversed(content.splitlines()):
            payload = _payload(line)
            if payload is None:
                unreadable += bool(line.strip())
            elif (key := digest(payload)) not in own and len(chosen) < count:
                chosen.setdefault(key, payload)
        if len(chosen) == count:
            break
    return CollectedRequests(tuple(chosen.values()), unreadable)


def _payload(line: bytes) -> Mapping[str, Any] | None:
    try:
        event = json.loads(line)
        data = event["data"]
        if event.get("datainblob") == "true" or event["type"] != f"azureml.inference.{COLLECTION}":
            return None
        payload = json.loads(data) if isinstance(data, str) else data
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return payload if isinstance(payload, dict) else None
