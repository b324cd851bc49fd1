"""Artifacts, as azureml-mlflow 1.62 uploads, lists and downloads them: metadata here, bytes by signed URL from blob storage.

An artifact is the blob ``{origin}/{container}/{path}`` of container ``azureml``; nothing else is stored of it. A run's artifacts have the
origin ``ExperimentRun`` and the container ``dcid.{run}``; a model that MLflow registers from a local folder has the origin ``LocalUpload``
and a container of its own.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, NamedTuple

from starlette.requests import Request

from mlops.emulator.base.azure import LOCATION, Azure
from mlops.emulator.base.errors import AzureFault, not_found, not_implemented, user_error
from mlops.emulator.history import runstore
from mlops.emulator.storage import blobs
from mlops.emulator.storage.files import Blob, BlobError, find, walk
from mlops.emulator.wire.app import WS, Answer, Route, read_json

__all__ = ["ROUTES", "container_name"]

RUNS, UPLOADS = "ExperimentRun", "LocalUpload"
"""Origins of artifacts."""
PAGE = 500
MISSING = ("NotFound", "NotFoundError")


class Container(NamedTuple):
    """The location of artifacts: their origin, and the name of the container, which is a folder of blobs."""

    origin: str
    name: str

    def blob(self, path: str) -> str:
        """Return the name of an artifact's blob. It is the artifact's id too."""
        return f"{self.origin}/{self.name}/{path}"

    def path(self, blob: str) -> str:
        """Return the path of the artifact that a blob is."""
        return blob.removeprefix(self.blob(""))


def container_name(run: str) -> str:
    """Return the name of a run's data container, e.g. ``dcid.frosty_pear_1``."""
    return f"dcid.{run}"


async def create_artifacts(azure: Azure, request: Request) -> Answer:
    """Return a signed upload URL for each path in the body, or an error for one that exists already and stays as it is."""
    container = _get_container(azure, request)
    paths = (await read_json(request)).get("paths")
    if not isinstance(paths, list) or not all(isinstance(entry, dict) and isinstance(entry.get("path"), str) for entry in paths):
        raise user_error("The request is invalid: paths must be a list of objects with a path.")
    artifacts, contents, errors = {}, {}, {}
    for path in (entry["path"] for entry in paths):
        try:
            file = blobs.path(azure, blobs.ARTIFACTS, container.blob(path) + "/")
        except BlobError:
            raise user_error(f"Invalid artifact path: {path!r}.") from None
        if file.exists():
            conflict = f"Resource Conflict: ArtifactId {container.blob(path)} already exists."
            errors[path] = AzureFault(409, "UserError", conflict).envelope(LOCATION)
        else:
            artifacts[path] = _artifact(container, path)
            contents[path] = _content(azure, container, path, "rcw")
    return {"artifacts": artifacts, "artifactContentInformation": contents, "errors": errors}


async def list_artifacts(azure: Azure, request: Request) -> Answer:
    """List all artifacts of the container, page by page."""
    return _page(azure, request, "", lambda container, blob: _artifact(container, container.path(blob.name), blob))


async def list_artifacts_in_path(azure: Azure, request: Request) -> Answer:
    """List the artifacts below a path."""
    prefix = request.query_params.get("path", "").strip("/")
    return _page(
        azure, request, f"{prefix}/" if prefix else "", lambda container, blob: _artifact(container, container.path(blob.name), blob)
    )


async def list_contents(azure: Azure, request: Request) -> Answer:
    """List signed URLs of the artifacts below a path."""
    prefix = request.query_params.get("path", "").strip("/")
    return _page(azure, request, prefix, lambda container, blob: _content(azure, container, container.path(blob.name), "r"))


async def get_artifact(azure: Azure, request: Request) -> Answer:
    """Return one artifact's metadata."""
    container, path, blob = _find_artifact(azure, request)
    return _artifact(container, path, blob)


async def get_content(azure: Azure, request: Request) -> Answer:
    """Return one artifact's signed URL, with its path."""
    container, path, _ = _find_artifact(azure, request)
    return _content(azure, container, path, "r")


def _page(azure: Azure, request: Request, prefix: str, entry: Any) -> dict[str, Any]:
    container = _get_container(azure, request)
    after = request.query_params.get("continuationToken", "")
    page: list[Blob] = []
    for blob in walk(azure, blobs.ARTIFACTS, container.blob(prefix), "", after):
        if len(page) == PAGE:
            last = page[-1].name
            next_link = str(request.url.include_query_params(continuationToken=last))
            return {"value": [entry(container, item) for item in page], "continuationToken": last, "nextLink": next_link}
        if isinstance(blob, Blob):
            page.append(blob)
    return {"value": [entry(container, item) for item in page], "continuationToken": None, "nextLink": None}


def _get_container(azure: Azure, request: Request) -> Container:
    if "run" in request.path_params:
        name, experiment = request.path_params["run"], request.path_params["experiment"]
        run = runstore.get(azure, name)
        if run is None or experiment not in (run["experiment"], run["experiment_id"]):
            raise not_found(f"Run {name} not found.", *MISSING)
        return Container(RUNS, container_name(name))
    container = Container(request.path_params["origin"], request.path_params["container"])
    if container.origin not in (RUNS, UPLOADS):
        raise not_implemented(f"artifacts of origin {container.origin}")
    return container


def _find_artifact(azure: Azure, request: Request) -> tuple[Container, str, Blob]:
    container, path = _get_container(azure, request), request.query_params.get("path", "")
    try:
        return container, path, find(azure, blobs.ARTIFACTS, container.blob(path))
    except BlobError:
        raise not_found(f"Resource of type Artifact with name ArtifactId {container.blob(path)} not found.", *MISSING) from None


def _artifact(container: Container, path: str, blob: Blob | None = None) -> dict[str, Any]:
    created = datetime.fromtimestamp(blob.modified_ns / 1e9, UTC) if blob else datetime.now(UTC)
    return {
        "artifactId": container.blob(path),
        "origin": container.origin,
        "container": container.name,
        "path": path,
        "etag": blob.etag if blob else None,
        "createdTime": created.isoformat(),
        "dataPath": {"dataStoreName": "workspaceartifactstore", "relativePath": container.blob(path)},
        "tags": None,
    }


def _content(azure: Azure, container: Container, path: str, permissions: str) -> dict[str, Any]:
    uri = blobs.sas_url(azure, blobs.ARTIFACTS, container.blob(path), permissions)
    return {"contentUri": uri, "origin": container.origin, "container": container.name, "path": path, "tags": None}


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
ROUTES = [
    *_routes("/history/v1.0" + WS + "/experiments/{experiment}/runs/{run}/artifacts"),
    *_routes("/history/v1.0" + WS + "/experimentids/{experiment}/runs/{run}/artifacts"),
    *_routes("/artifact/v2.0" + WS + "/artifacts/{origin}/{container}"),
]
