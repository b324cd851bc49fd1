"""Data assets: names with versions that point to files and folders in datastores, or anywhere else.

Azure Machine Learning REST, ``data`` of 2022-05-01 and later. Nothing checks that there is anything at the URI, as on Azure.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from mlops.emulator.base.azure import Azure
from mlops.emulator.base.errors import AzureFault, not_found, user_error
from mlops.emulator.base.store import Document
from mlops.emulator.wire.resources import Body, Labels, validate_body
from mlops.emulator.workspace.datastores import long_uri
from mlops.emulator.workspace.versions import Collection

__all__ = ["COLLECTION", "ROUTES", "get_version"]

IMMUTABLE = ("dataUri", "dataType")


class Data(Body):
    """``DataVersionBase``."""

    data_uri: str = Field(min_length=1)
    data_type: Literal["uri_file", "uri_folder", "mltable"] = "uri_folder"
    description: str | None = None
    tags: Labels | None = None
    properties: Labels | None = None
    is_anonymous: bool = False
    is_archived: bool = False
    referenced_uris: list[str] | None = None
    stage: str | None = None
    auto_delete_setting: dict[str, Any] | None = None
    intellectual_property: dict[str, Any] | None = Field(default=None, exclude=True)


def get_version(azure: Azure, name: str, version: str) -> Document:
    """Return the document of a version.

    Raises:
        AzureFault: 404, it does not exist.
    """
    stored = COLLECTION.get(azure, name, version)
    if stored is None:
        raise _absent(name, version)
    return stored


def _read(azure: Azure, name: str, version: str, properties: Any, existing: Document | None) -> Document:
    content = validate_body(properties, Data, "properties.").model_dump(by_alias=True)
    content["dataUri"] = long_uri(azure, content["dataUri"])
    if existing is not None and (changed := [field for field in IMMUTABLE if existing["properties"][field] != content[field]]):
        raise user_error(
            f'Failed to update data {name} since field "{changed[0]}" is immutable, try specifying a new version.',
            "BadArgument", "ArgumentInvalid", "UpdateDataFailed", status=409,
        )  # fmt: skip
    return content


def _absent(name: str, version: str) -> AzureFault:
    what = f"Data version {name}:{version} (dataContainerName:version)" if version else f"Data container with name: {name}"
    return not_found(f"{what} not found.", "NotFound", "DataNotFound")


def _show(properties: Document) -> Document:
    """Return the properties as a client sees them, with null for what is unknown."""
    optional = ("autoDeleteSetting", "stage", "intellectualProperty", *(["referencedUris"] if properties["dataType"] == "mltable" else []))
    return dict.fromkeys(optional) | properties


COLLECTION = Collection("data", _read, _absent, show=_show)
ROUTES = COLLECTION.routes()
