"""Run artifacts, as azureml-mlflow 1.62 uploads, lists and downloads them: metadata here, bytes by signed URL from blob storage.

A run's artifacts are the blobs ``ExperimentRun/dcid.{run}/…`` of container ``azureml``, and nothing else is kept of them.
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
from mlops.emulator.storage.files import Blob, BlobProblem, find, walk
from mlops.emulator.wire.app import WS, Answer, Route, body

__all__ = ["ROUTES", "container"]

ORIGIN = "ExperimentRun"
PAGE = 500
MISSING = ("NotFound", "NotFoundError")


def container(run: str) -> str:
    """The data container of a run, e.g. ``dcid.frosty_pear_1``."""
    return f"dcid.{run}"


async def create_artifacts(azure: Azure, request: Request) -> Answer:
    """For each path of the body a signed URL to upload it to; an error for those that are there already, which stay as they are."""
    run = _run(azure, request)
    paths = (await body(request)).get("paths")
    if not isinstance(paths, list) or not all(isinstance(entry, dict) and isinstance(entry.get("path"), str) for entry in paths):
        raise user_error("The request is invalid: paths must be a list of objects with a path.")
    artifacts, contents, errors = {}, {}, {}
    for path in (entry["path"] for entry in paths):
        try:
            file = blobs.path(azure, blobs.ARTIFACTS, _blob(run["name"], path) + "/")
        except BlobProblem:
            raise user_error(f"Invalid artifact path: {path!r}.") from None
        if file.exists():
            conflict = f"Resource Conflict: ArtifactId {ORIGIN}/{container(run['name'])}/{path} already exists."
            errors[path] = AzureFault(409, "UserError", conflict).envelope(LOCATION)
        else:
            artifacts[path] = _artifact(run["name"], path)
            contents[path] = _content(azure, run["name"], path, "rcw")
    return {"artifacts": artifacts, "artifactContentInformation": contents, "errors": errors}


async def list_artifacts(azure: Azure, request: Request) -> Answer:
    """All artifacts of the run, page by page."""
    return _page(azure, request, "", lambda run, blob: _artifact(run, _path(run, blob.name), blob))


async def list_artifacts_in_path(azure: Azure, request: Request) -> Answer:
    """Those below a path."""
    prefix = request.query_params.get("path", "").strip("/")
    return _page(azure, request, f"{prefix}/" if prefix else "", lambda run, blob: _artifact(run, _path(run, blob.name), blob))


async def list_contents(azure: Azure, request: Request) -> Answer:
    """Signed URLs of those below a path."""
    prefix = request.query_params.get("path", "").strip("/")
    return _page(azure, request, prefix, lambda run, blob: _content(azure, run, _path(run, blob.name), "r"))


async def get_artifact(azure: Azure, request: Request) -> Answer:
    """One artifact's metadata."""
    run, path, blob = _found(azure, request)
    return _artifact(run, path, blob)


async def get_content(azure: Azure, request: Request) -> Answer:
    """One artifact's signed URL, with what it is."""
    run, path, _ = _found(azure, request)
    return _content(azure, run, path, "r")


def _page(azure: Azure, request: Request, prefix: str, entry: Any) -> dict[str, Any]:
    run = _run(azure, request)["name"]
    after = request.query_params.get("continuationToken", "")
    found: list[Blob] = []
    for blob in walk(azure, blobs.ARTIFACTS, _blob(run, prefix), "", after):
        if len(found) == PAGE:
            last = found[-1].name
            following = str(request.url.include_query_params(continuationToken=last))
            return {"value": [entry(run, item) for item in found], "continuationToken": last, "nextLink": following}
        if isinstance(blob, Blob):
            found.append(blob)
    return {"value": [entry(run, item) for item in found], "continuationToken": None, "nextLink": None}


def _run(azure: Azure, request: Request) -> Document:
    name, experiment = request.path_params["run"], request.path_params["experiment"]
    run = runstore.get(azure, name)
    if run is None or experiment not in (run["experiment"], run["experiment_id"]):
        raise not_found(f"Run {name} not found.", *MISSING)
    return run


def _found(azure: Azure, request: Request) -> tuple[str, str, Blob]:
    run, path = _run(azure, request)["name"], request.query_params.get("path", "")
    try:
        return run, path, find(azure, blobs.ARTIFACTS, _blob(run, path))
    except BlobProblem:
        raise not_found(f"Resource of type Artifact with name ArtifactId {ORIGIN}/{container(run)}/{path} not found.", *MISSING) from None


def _blob(run: str, path: str) -> str:
    return f"{ORIGIN}/{container(run)}/{path}"


def _path(run: str, blob: str) -> str:
    return blob.removeprefix(_blob(run, ""))


def _artifact(run: str, path: str, blob: Blob | None = None) -> dict[str, Any]:
    created = datetime.fromtimestamp(blob.modified_ns / 1e9, UTC) if blob else datetime.now(UTC)
    return {
        "artifactId": f"{ORIGIN}/{container(run)}/{path}",
        "origin": ORIGIN,
        "container": container(run),
        "path": path,
        "etag": blob.etag if blob else None,
        "createdTime": created.isoformat(),
        "dataPath": {"dataStoreName": "workspaceartifactstore", "relativePath": _blob(run, path)},
        "tags": None,
    }


def _content(azure: Azure, run: str, path: str, permissions: str) -> dict[str, Any]:
    uri = blobs.sas_url(azure, blobs.ARTIFACTS, _blob(run, path), permissions)
    return {"contentUri": uri, "origin": ORIGIN, "container": container(run), "path": path, "tags": None}


def _routes(base: str) -> list[Route]:
    return [
        Route("api", "GET", base, list_artifacts),
        Route("api", "GET", base + "/path", list_artifacts_in_path),
        Route("api", "GET", base + "/metadata", get_artifact),
        Route("api", "GET", base + "/contentinfo", get_content),
        Route("api", "GET", base + "/prefix/contentinfo", list_contents),
        Route("api", "POST", base + "/batch/metadata", create_artifacts),
    ]


# MLflow artifact URIs carry the experiment's id where the client fills in a name: either finds the run.
ROUTES = _routes("/history/v1.0" + WS + "/experiments/{experiment}/runs/{run}/artifacts") + _routes(
    "/history/v1.0" + WS + "/experimentids/{experiment}/runs/{run}/artifacts"
)
