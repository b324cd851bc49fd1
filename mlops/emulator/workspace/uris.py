"""Asset URIs: resolves them to folders or files, for jobs that read these and for models that are registered from them.

URI forms are those of azure-ai-ml: datastores (short and long), registry models, workspace models by ARM id or short name. Models can also
be registered from the outputs of jobs by the job's name; jobs can't read those.
"""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path
from typing import cast

from mlops.emulator.base.azure import Azure
from mlops.emulator.base.children import package_environment
from mlops.emulator.base.errors import AzureFault, not_found, not_implemented, user_error
from mlops.emulator.base.libraries import preload_for_package
from mlops.emulator.base.store import Document
from mlops.emulator.history import runstore
from mlops.emulator.registry import weights
from mlops.emulator.registry.registry import find_base_model
from mlops.emulator.storage import blobs
from mlops.emulator.storage.files import BlobError
from mlops.emulator.workspace.data import get_version
from mlops.emulator.workspace.datastores import BLOB_STORE, containers

__all__ = [
    "check_exists", "datastore_path", "datastore_uri", "get_model", "get_model_version", "is_remote", "materialize", "model_path",
    "output_path", "refuse_job_output", "resolve", "resolve_model",
]  # fmt: skip

_DATASTORE = re.compile(
    r"azureml://(?:subscriptions/[^/]+/resourcegroups/[^/]+/(?:providers/[^/]+/)?workspaces/[^/]+/)?datastores/(?P<store>[^/]+)/paths/(?P<path>.*)",
    re.IGNORECASE,
)
_OUTPUT = re.compile(r"azureml://jobs/(?P<job>[^/]+)/outputs/(?P<output>[^/]+)(?:/paths/(?P<path>.*))?/?", re.IGNORECASE)
_RUN = re.compile(r"runs:/(?P<job>[^/]+)/(?P<path>.+)")
_REGISTRY_MODEL = re.compile(r"azureml://registries/(?P<registry>[^/]+)/models/(?P<name>[^/]+)/versions/(?P<version>[^/]+)", re.IGNORECASE)
_MODEL = re.compile(r"(?:azureml:)?/subscriptions/.*/models/(?P<name>[^/]+)/versions/(?P<version>[^/]+)", re.IGNORECASE)
_DATA = re.compile(r"(?:azureml:)?/subscriptions/.*/data/(?P<name>[^/]+)/versions/(?P<version>[^/]+)", re.IGNORECASE)
_SHORT_MODEL = re.compile(r"azureml:(?P<name>[^/:]+):(?P<version>[^/:]+)")
_PLACEHOLDER = re.compile(r"\$\{\{\s*(name|output_name|default_datastore)\s*\}\}")

DATASTORE_URI = "azureml://datastores/workspaceblobstore/paths/"

REMOTE = ("https://", "http://", "wasbs://", "wasb://", "abfss://", "abfs://", "adl://")

POLL_S = 0.02


def resolve(azure: Azure, uri: str) -> Path:
    """Return the file or folder that a URI points to, whether or not anything exists there.

    Raises:
        AzureFault: 400, the emulator does not support this form of URI; 404, the model does not exist; 501, as :func:`refuse_job_output`.
    """
    if match := _DATASTORE.fullmatch(uri):
        return datastore_path(azure, match["store"], match["path"])
    refuse_job_output(uri)
    if match := _RUN.fullmatch(uri):
        return _blob_path(azure, blobs.ARTIFACTS, blobs.artifact(match["job"], match["path"]), uri)
    if match := _REGISTRY_MODEL.fullmatch(uri):
        _check_registry_model(azure, match)
        return weights.ensure_standin(cast(weights.Kind, azure.options.weights), azure.options.cache)
    if match := _DATA.fullmatch(uri):
        return resolve(azure, get_version(azure, match["name"], match["version"])["properties"]["dataUri"])
    if match := _MODEL.fullmatch(uri) or _SHORT_MODEL.fullmatch(uri):
        return model_path(azure, match["name"], match["version"])
    if is_remote(uri):
        raise user_error(f"The data at '{uri}' is not accessible: the emulator only reads data in the workspace.")
    raise user_error(f"The emulator can't resolve the URI '{uri}'. It supports datastore paths and models.")


def refuse_job_output(uri: str) -> None:
    """Refuse a job's output by the job's name.

    Raises:
        AzureFault: 501. The service documents the form for registering models only; what it answers elsewhere is unknown.
    """
    if _OUTPUT.fullmatch(uri):
        raise not_implemented(
            f"the URI {uri} for anything but registering a model: jobs read an output at its URI in the datastore,"
            " azureml://datastores/…/paths/azureml/RUN/OUTPUT/"
        )


def resolve_model(azure: Azure, uri: str) -> Path:
    """Return the file or folder that a model is registered from, which may be an output named by its job. Raises as :func:`resolve`."""
    if match := _OUTPUT.fullmatch(uri):
        return _join(output_path(azure, match["job"], match["output"]), match["path"] or "", uri)
    return resolve(azure, uri)


def is_remote(uri: str) -> bool:
    """Return whether a URI leads out of the workspace. A job that reads it is accepted, as on Azure, and fails: nothing here is online."""
    return uri.startswith(REMOTE)


def check_exists(azure: Azure, uri: str) -> None:
    """Refuse a URI that points to nothing. Does not make a base model's weights.

    Raises:
        AzureFault: as :func:`resolve`, and 404 if nothing exists there.
    """
    if match := _REGISTRY_MODEL.fullmatch(uri):
        _check_registry_model(azure, match)
    elif not resolve(azure, uri).exists():
        raise user_error(f"The path of the asset '{uri}' does not exist or is not accessible.", "NotFound", "DataPathNotFound", status=404)


async def materialize(azure: Azure, uri: str) -> Path:
    """Resolve a URI and make sure that a base model's weights exist: they are made, in a child process, at their first use.

    Raises:
        AzureFault: as :func:`resolve`, and 500 if the weights can't be made.
    """
    if match := _REGISTRY_MODEL.fullmatch(uri):
        _check_registry_model(azure, match)
        await _make_weights(azure)
    return resolve(azure, uri)


def datastore_path(azure: Azure, store: str, path: str) -> Path:
    """Return a path in a datastore.

    Raises:
        AzureFault: 404, the datastore does not exist.
    """
    container = containers(azure).get(store)
    if container is None:
        raise not_found(f"Could not find datastore: {store}.", "NotFoundError")
    return _blob_path(azure, container, path, f"azureml://datastores/{store}/paths/{path}")


def datastore_uri(run: str, output: str, template: str | None = None) -> str:
    """Return the URI of a run's output: ``azureml/{run}/{output}/`` in the default datastore, or a ``template`` with the names in it."""
    if template is None:
        return f"{DATASTORE_URI}azureml/{run}/{output}/"
    values = {"name": run, "output_name": output, "default_datastore": BLOB_STORE}
    return _PLACEHOLDER.sub(lambda match: values[match[1]], template)


def output_path(azure: Azure, job: str, output: str) -> Path:
    """Return the path of a job's output.

    Raises:
        AzureFault: 404, the job does not exist or has no such output, or no step of the pipeline has begun to write it.
    """
    run = runstore.get(azure, job)
    if run is None:
        raise not_found(f"Job {job} not found.", "NotFound", "JobNotFound")
    if output == "artifacts":
        return blobs.path(azure, blobs.ARTIFACTS, blobs.artifact(job))
    if not run["outputs"].get(output, {}).get("uri"):
        raise not_found(f"Output {output} of job {job} not found.", "NotFound", "JobOutputNotFound")
    return resolve(azure, run["outputs"][output]["uri"])


def get_model(azure: Azure, name: str) -> Document:
    """Return the document of a workspace model, without its versions.

    Raises:
        AzureFault: 404, it does not exist.
    """
    stored = azure.store.get("model-container", name)
    if stored is None:
        raise _model_not_found(f"Model container with name: {name} not found.")
    return stored


def get_model_version(azure: Azure, name: str, version: str) -> Document:
    """Return the document of a workspace model's version.

    Raises:
        AzureFault: 404, it does not exist.
    """
    get_model(azure, name)
    stored = azure.store.get("model", f"{name}/{version}")
    if stored is None:
        raise _model_not_found(f"Model version {version} of model {name} not found.")
    return stored


def model_path(azure: Azure, name: str, version: str) -> Path:
    """Return where the files of a workspace model's version are on this machine.

    Raises:
        AzureFault: 404, it does not exist.
    """
    return resolve(azure, get_model_version(azure, name, version)["uri"])


def _model_not_found(message: str) -> AzureFault:
    return not_found("The specified resource was not found.", details=[("ModelNotFound", message)])


def _check_registry_model(azure: Azure, match: re.Match[str]) -> None:
    registry = match["registry"]
    if registry != "azureml":
        raise AzureFault(
            401, "UserError", f"User/tenant/subscription is not allowed to access registry {registry}", inner=("Unauthorized",)
        )
    if find_base_model(azure, match["name"], match["version"]) is None:
        raise not_found(f"Could not find asset with ID: {match[0]}", "NotFound")


async def _make_weights(azure: Azure) -> None:
    kind, cache = cast(weights.Kind, azure.options.weights), azure.options.cache
    if await asyncio.to_thread(weights.find_standin, kind, cache) is not None:
        return
    # In a child process, so that torch doesn't stay in the emulator's memory.
    log = azure.folder("weights") / "standin.log"
    command = [sys.executable, "-m", "mlops.emulator.registry.weights", kind, str(cache)]
    preload = preload_for_package()
    child = azure.children.start(command, cwd=log.parent, environment=package_environment(), log=log, preload=preload)
    while child.returncode is None:
        await asyncio.sleep(POLL_S)
    if child.returncode != 0:
        tail = log.read_text(encoding="utf-8", errors="replace")[-1000:]
        raise AzureFault(500, "ServiceError", f"The base model's weights can't be made: {tail}")


def _blob_path(azure: Azure, container: str, blob: str, uri: str) -> Path:
    try:
        return blobs.path(azure, container, blob)
    except BlobError as problem:
        raise user_error(f"The path '{uri}' is not valid: {problem.message}") from None


def _join(root: Path, path: str, uri: str) -> Path:
    joined = root / path
    if not joined.resolve().is_relative_to(root.resolve()):
        raise user_error(f"The path '{uri}' leads out of the output.")
    return joined
