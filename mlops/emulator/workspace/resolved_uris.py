"""Resolves assets to the URIs of their files: outputs of jobs (assets with generated names), data assets and models.

``batchGetResolvedUris`` of the data plane's ``dataversion`` and ``models``, as ``jobs.download`` uses them. Answers follow recorded traffic
for data, and the SDK's own client for models.
"""

from __future__ import annotations

import re

from starlette.requests import Request

from mlops.emulator.base.azure import Azure
from mlops.emulator.base.errors import not_implemented, user_error
from mlops.emulator.base.store import Document
from mlops.emulator.history import runs, runstore
from mlops.emulator.storage import blobs
from mlops.emulator.wire.app import WS, Answer, Route
from mlops.emulator.wire.resources import Body, parse_body
from mlops.emulator.workspace import data, uris
from mlops.emulator.workspace.datastores import ARTIFACT_STORE, long_uri

__all__ = ["ROUTES"]

ASSET = re.compile(
    r"azureml://locations/[^/]+/workspaces/(?P<workspace>[^/]+)/(?P<kind>data|models)/(?P<name>[^/]+)/versions/(?P<version>[^/]+)"
)


class Assets(Body):
    """``BatchGetResolvedURIs``: ids of assets."""

    values: list[str]


async def post_data(azure: Azure, request: Request) -> Answer:
    """Return the URIs of data assets."""
    assets = (await parse_body(request, Assets)).values
    resolved = {asset: _resolve(azure, asset, "data") for asset in assets}
    return {"values": {asset: {"uri": uri, "type": kind, "legacyDatasetType": None} for asset, (uri, kind) in resolved.items()}}


async def post_models(azure: Azure, request: Request) -> Answer:
    """Return the URIs of models."""
    assets = (await parse_body(request, Assets)).values
    resolved = {asset: _resolve(azure, asset, "models") for asset in assets}
    return {"values": {asset: {"path": uri, "type": kind} for asset, (uri, kind) in resolved.items()}}


def _resolve(azure: Azure, asset: str, kind: str) -> tuple[str, str]:
    """Return URI and type of an asset.

    Raises:
        AzureFault: 400, it is not the id of such an asset; 404, it does not exist; 501, it is an asset of another workspace.
    """
    match = ASSET.fullmatch(asset)
    if match is None or match["kind"] != kind:
        raise user_error(f"'{asset}' is not the id of an asset of the workspace's {kind}.")
    if match["workspace"] != azure.identity.workspace_guid:
        raise not_implemented(f"assets of another workspace, such as {asset}")
    for run in runstore.list_all(azure):
        for name, output in runs.list_outputs(azure, run).items():
            if output["assetId"] == asset:
                return long_uri(azure, _output_uri(run, name)), output["type"]
    if kind == "data":
        properties = data.get_version(azure, match["name"], match["version"])["properties"]
        return properties["dataUri"], runs.ASSET_TYPES[properties["dataType"]]
    model = uris.get_model_version(azure, match["name"], match["version"])
    return model["uri"], runs.ASSET_TYPES[model["model_type"]]


def _output_uri(run: Document, output: str) -> str:
    if output in run["outputs"]:
        uri: str = run["outputs"][output]["uri"]
        return uri
    return f"azureml://datastores/{ARTIFACT_STORE}/paths/{blobs.artifact(run['name'])}/"


ROUTES = [
    Route("api", "POST", "/data/v1.0" + WS + "/dataversion/batchGetResolvedUris", post_data),
    Route("api", "POST", "/modelregistry/v1.0" + WS + "/models/batchGetResolvedUris", post_models),
]
