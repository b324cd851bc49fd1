"""The production data of a deployment: each request that it gets, written to the workspace's storage.

"Collect production data from models deployed for real-time inferencing" (learn.microsoft.com/azure/machine-learning) has paths, fields and
limits. Of its collections only ``request`` is implemented, which has the payloads as they were sent; ``response`` and those that a scoring
script fills are refused.
"""

from __future__ import annotations

import json
import random
import re
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from mlops.emulator.base.azure import BLOB_SUFFIX, Azure, arm_id
from mlops.emulator.base.errors import not_implemented, user_error
from mlops.emulator.base.store import Document
from mlops.emulator.wire.resources import Body
from mlops.emulator.workspace import uris

__all__ = ["DataCollector", "describe", "is_collected", "write"]

COLLECTION = "request"
MAX_INLINE = 4 << 20
"""Maximum bytes of an inline payload. A larger one is written to a separate file."""
FOLDERS = {"Year": "%Y", "Month": "%Y/%m", "Day": "%Y/%m/%d", "Hour": "%Y/%m/%d/%H", "Minute": "%Y/%m/%d/%H/%M"}
"""Rolling rate → folder."""
_DATA = re.compile(r"/subscriptions/.*/data/[^/]+/versions/[^/]+", re.IGNORECASE)


def _capitalize(value: Any) -> Any:
    """Accept the lower-case values that the SDK sends."""
    return value.capitalize() if isinstance(value, str) else value


class Collection(Body):
    """``Collection``."""

    client_id: str | None = None
    data_collection_mode: Annotated[Literal["Enabled", "Disabled"], BeforeValidator(_capitalize)] = "Disabled"
    data_id: str | None = None
    sampling_rate: Annotated[float, Field(ge=0, le=1)] | None = None


class RequestLogging(Body):
    """``RequestLogging``."""

    capture_headers: list[str] | None = None


class DataCollector(Body):
    """``DataCollector``."""

    collections: dict[str, Collection]
    request_logging: RequestLogging | None = None
    rolling_rate: Annotated[Literal["Year", "Month", "Day", "Hour", "Minute"], BeforeValidator(_capitalize)] | None = None


def describe(azure: Azure, collector: DataCollector | None) -> Document | None:
    """Return what a deployment stores and shows of its collector.

    Raises:
        AzureFault: 400 or 404, a data asset is not a folder in the workspace's storage; 501, the emulator doesn't implement it.
    """
    if collector is None:
        return None
    if collector.request_logging is not None and collector.request_logging.capture_headers:
        raise not_implemented("data collectors that capture headers")
    for name, collection in collector.collections.items():
        if name != COLLECTION:
            raise not_implemented(f"data collectors with the collection {name}: {COLLECTION} only")
        if collection.client_id is not None or collection.data_id is None:
            raise not_implemented("data collectors with a client id, or without a data asset")
        if not _DATA.fullmatch(collection.data_id):
            raise user_error(f"dataCollector.collections.{name}.dataId is not the id of a data asset: {collection.data_id}")
        uris.resolve(azure, collection.data_id)
    return {
        "collections": {
            name: collection.model_dump(by_alias=True)
            | {"samplingRate": 1.0 if collection.sampling_rate is None else collection.sampling_rate}
            for name, collection in collector.collections.items()
        },
        "requestLogging": None,
        "rollingRate": collector.rolling_rate or "Hour",
    }


def is_collected(deployment: Document, source: random.Random) -> bool:
    """Return whether the next request to a deployment is collected. The sampling rate is the probability."""
    collection = _collection(deployment)
    return collection is not None and source.random() < collection["samplingRate"]


def write(azure: Azure, deployment: Document, body: bytes) -> None:
    """Append a request to the file of the hour, or of what else the rolling rate is."""
    collection = _collection(deployment)
    assert collection is not None
    now, number = datetime.now(UTC), str(uuid.uuid4())
    root = uris.resolve(azure, collection["dataId"])
    folder = root / now.strftime(FOLDERS[deployment["collector"]["rollingRate"]])
    folder.mkdir(parents=True, exist_ok=True)
    source = arm_id(azure, "onlineEndpoints", deployment["endpoint"], "deployments", deployment["name"])
    event = {
        "specversion": "1.0",
        "id": number,
        "source": source,
        "type": "azureml.inference.request",
        "datacontenttype": "application/json",
        "time": now.strftime("%Y-%m-%dT%H:%M:%SZ"),
        **_payload(azure, body, folder / number),
        "path": "/score",
        "method": "POST",
        "contentrange": f"bytes 0-{len(body) - 1}/{len(body)}",
        "correlationid": number,
        "xrequestid": number,
    }
    with (folder / f"{uuid.uuid5(uuid.NAMESPACE_URL, source)}.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(event) + "\n")


def _payload(azure: Azure, body: bytes, file: Path) -> Document:
    """Return the fields with a payload; what is large or no JSON is written to a file."""
    try:
        if len(body) <= MAX_INLINE:
            return {"data": json.loads(body)}
    except ValueError:
        pass
    file.write_bytes(body)
    container = azure.folder("blobs")
    name = file.relative_to(container).as_posix()
    return {"datacontenttype": "text/plain", "data": f"https://{azure.identity.account}.{BLOB_SUFFIX}/{name}", "datainblob": "true"}


def _collection(deployment: Document) -> Document | None:
    collector = deployment.get("collector") or {"collections": {}}
    collection: Document | None = collector["collections"].get(COLLECTION)
    return collection if collection is not None and collection["dataCollectionMode"] == "Enabled" else None
