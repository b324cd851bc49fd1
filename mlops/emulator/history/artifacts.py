"""Run artifacts, as azureml-mlflow 1.62 uploads, lists and downloads them: metadata here, bytes by signed URL from blob storage.

A run's artifacts are the blobs ``ExperimentRun/dcid.{run}/…`` of container ``azureml``; nothing else is stored of them.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request

from mlops.emulator.base.azure import LOCATION, Azure
from mlops.emulator.base.errors import AzureFault, not_found, user_error
from mlops.emulator.base.store import Document
from mlops.emulator.history import runstore
from mlops.emulator.storage import blobs
from mlops.emulator.storage.files import Blob, BlobError, find, walk
from mlops.emulator.wire.app import WS, Answer, Route, read_json

__all__ = ["ROUTES", "container_name"]

ORIGIN = "ExperimentRun"
PAGE = 500
MISSING = ("NotFound", "NotFoundError")


def container_name(run: str) -> str:
    """Return the name of a run's data container, e.g. ``dcid.frosty_pear_1``."""
    return f"dcid.{run}"


async def create_artifacts(azure: Azure, request: Request) -> Answer:
    """Return a signed upload URL for each path in the body, or an error for one that exists already and stays as it is."""
    run = _get_run(azure, request)
    paths = (await read_json(request)).get("paths")
    if not isinstance(paths, list) or not all(isinstance(entry, dict) and isinstance(entry.get("path"), str) for entry in paths):
        raise user_error("The request is invalid: paths must be a list of objects with a path.")
    artifacts, contents, errors = {}, {}, {}
    for path in (entry["path"] for entry in paths):
        try:
            file = blobs.path(azure, blobs.ARTIFACTS, _blob(run["name"], path) + "/")
        except BlobError:
            raise user_error(f"Invalid artifact path: {path!r}.") from None
        if file.exists():
            conflict = f"Resource Conflict: ArtifactId {ORIGIN}/{container_name(run['name'])}/{path} already exists."
            errors[path] = AzureFault(409, "UserError", conflict).envelope(LOCATION)
        else:
            artifacts[path] = _artifact(run["name"], path)
            contents[path] = _content(azure, run["name"], path, "rcw")
    return {"artifacts": artifacts, "artifactContentInformation": contents, "errors": errors}


async def list_artifacts(azure: Azure, request: Request) -> Answer:
    """List all artifacts of the run, page by page."""
    return _page(azure, request, "", lambda run, blob: _artifact(run, _path(run, blob.name), blob))


async def list_artifacts_in_path(azure: Azure, request: Request) -> Answer:
    """List the artifacts below a path."""
    prefix = request.query_params.get("path", "").strip("/")
    return _page(azure, request, f"{prefix}/" if prefix else "", lambda run, blob: _artifact(run, _path(run, blob.name), blob))


async def list_contents(azure: Azure, request: Request) -> Answer:
    """List signed URLs of the artifacts below a path."""
    prefix = request.query_params.get("path", "").strip("/")
    return _page(azure, request, prefix, lambda run, blob: _content(azure, run, _path(run, blob.name), "r"))


async def get_artifact(azure: Azure, request: Request) -> Answer:
    """Return one artifact's metadata."""
    run, path, blob = _find_artifact(azure, request)
    return _artifact(run, path, blob)


async def get_content(azure: Azure, request: Request) -> Answer:
    """Return one artifact's signed URL, with its path."""
    run, path, _ = _find_artifact(azure, request)
    return _content(azure, run, path, "r")


def _page(azure: Azure, request: Request, prefix: str, entry: Any) -> dict[str, Any]:
    run = _get_run(azure, request)["name"]
    after = request.query_params.get("continuationToken", "")
    page: list[Blob] = []
    for blob in walk(azure, blobs.ARTIFACTS, _blob(run, prefix), "", after):
        if len(page) == PAGE:
            last = page[-1].name
            next_link = str(request.url.include_query_params(continuationToken=last))
            return {"value": [entry(run, item) for item in page], "continuationToken": last, "nextLink": next_link}
        if isinstance(blob, Blob):
            page.append(blob)
    return {"value": [entry(run, item) for item in page], "continuationToken": None, "nextLink": None}


def _get_run(azure: Azure, request: Request) -> Document:
    name, experiment = request.path_params["run"], request.path_params["experiment"]
    run = runstore.get(azure, name)
    if run is None or experiment not in (run["experiment"], run["experiment_id"]):
        raise not_found(f"Run {name} not found.", *MISSING)
    return run


def _find_artifact(azure: Azure, request: Request) -> tuple[str, str, Blob]:
    run, path = _get_run(azure, request)["name"], request.query_params.get("path", "")
    try:
        return run, path, find(azure, blobs.ARTIFACTS, _blob(run, path))
    except BlobError:
        raise not_found(
            f"Resource of type Artifact with name ArtifactId {ORIGIN}/{container_name(run)}/{path} not found.", *MISSING
        ) from None


def _blob(run: str, path: str) -> str:
    return f"{ORIGIN}/{container_name(run)}/{path}"


def _path(run: str, blob: str) -> str:
    return blob.removeprefix(_blob(run, ""))


def _artifact(run: str, path: str, blob: Blob | None = None) -> dict[str, Any]:
    created = datetime.fromtimestamp(blob.modified_ns / 1e9, UTC) if blob else datetime.now(UTC)
    return {
        "artifactId": f"{ORIGIN}/{container_name(run)}/{path}",
        "origin": ORIGIN,
        "container": container_name(run),
        "path": path,
        "etag": blob.etag if blob else None,
        "createdTime": created.isoformat(),
        "dataPath": {"dataStoreName": "workspaceartifactstore", "relativePath": _blob(run, path)},
        "tags": None,
    }


def _content(azure: Azure, run: str, path: str, permissions: str) -> dict[str, Any]:
    uri = blobs.sas_url(azure, blobs.ARTIFACTS, _blob(run, path), permissions)
    return {"contentUri": uri, "origin": ORIGIN, "container": container_name(run), "path": path, "tags": None}


def _routes(base: str) -> list[Route]:
    return [
        Route("api", "GET", base, list_artifacts),
        Route("api", "GET", base + "/path", list_artifacts_in_path),
        Route("api", "GET", base + "/metadata", get_artifact),
        Route("api", "GET", base + "/contentinfo", get_content),
        Route("api", "GET", base + "/prefix/contentinfo", list_contents),
        Route("api", "POST", base + "/batch/metadata", create_artifacts),
    ]


# MLflow artifact URIs carry the experiment's id, clients send its name: both find the run.
ROUTES = _routes("/history/v1.0" + WS + "/experiments/{experiment}/runs/{run}/artifacts") + _routes(
    "/history/v1.0" + WS + "/experimentids/{experiment}/runs/{run}/artifacts"
)
