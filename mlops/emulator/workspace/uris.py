"""Where things are: the folder or file that an asset's URI means, for jobs that read it and for models that are made of it.

URI forms are those of azure-ai-ml: datastores (short and long), job outputs, registry models, workspace models by ARM id or short name.
"""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path
from typing import cast

from mlops.emulator.base.azure import Azure
from mlops.emulator.base.errors import AzureFault, not_found, user_error
from mlops.emulator.history import runstore
from mlops.emulator.jobs import environment
from mlops.emulator.registry import weights
from mlops.emulator.registry.registry import base_model
from mlops.emulator.storage import blobs
from mlops.emulator.storage.files import BlobProblem

__all__ = ["check", "datastore_path", "datastore_uri", "locate", "output_path", "resolve"]

_DATASTORE = re.compile(
    r"azureml://(?:subscriptions/[^/]+/resourcegroups/[^/]+/(?:providers/[^/]+/)?workspaces/[^/]+/)?datastores/(?P<store>[^/]+)/paths/(?P<path>.*)",
    re.IGNORECASE,
)
_OUTPUT = re.compile(r"azureml://jobs/(?P<job>[^/]+)/outputs/(?P<output>[^/]+)(?:/paths/(?P<path>.*))?/?", re.IGNORECASE)
_RUN = re.compile(r"runs:/(?P<job>[^/]+)/(?P<path>.+)")
_REGISTRY_MODEL = re.compile(r"azureml://registries/(?P<registry>[^/]+)/models/(?P<name>[^/]+)/versions/(?P<version>[^/]+)", re.IGNORECASE)
_MODEL = re.compile(r"(?:azureml:)?/subscriptions/.*/models/(?P<name>[^/]+)/versions/(?P<version>[^/]+)", re.IGNORECASE)
_SHORT_MODEL = re.compile(r"azureml:(?P<name>[^/:]+):(?P<version>[^/:]+)")

DATASTORE_URI = "azureml://datastores/workspaceblobstore/paths/"


def resolve(azure: Azure, uri: str) -> Path:
    """The file or folder that a URI means; whether anything is there yet is not asked.

    Raises:
        AzureFault: 400 for a form that the emulator doesn't know, 404 for a job, output or model that there is not.
    """
    if match := _DATASTORE.fullmatch(uri):
        return datastore_path(azure, match["store"], match["path"])
    if match := _OUTPUT.fullmatch(uri):
        return _within(output_path(azure, match["job"], match["output"]), match["path"] or "", uri)
    if match := _RUN.fullmatch(uri):
        return _blob(azure, blobs.ARTIFACTS, f"ExperimentRun/dcid.{match['job']}/{match['path']}", uri)
    if match := _REGISTRY_MODEL.fullmatch(uri):
        _check_registry_model(azure, match)
        return weights.standin(cast(weights.Kind, azure.options.weights), azure.options.cache)
    if match := _MODEL.fullmatch(uri) or _SHORT_MODEL.fullmatch(uri):
        return _model(azure, match["name"], match["version"])
    raise user_error(f"The emulator can't resolve the URI '{uri}': it knows datastore paths, job outputs and models.")


def check(azure: Azure, uri: str) -> None:
    """Whether there is something where a URI points. Doesn't make a base model's weights for it.

    Raises:
        AzureFault: as :func:`resolve`, and 404 if there is nothing.
    """
    if match := _REGISTRY_MODEL.fullmatch(uri):
        _check_registry_model(azure, match)
    elif not resolve(azure, uri).exists():
        raise user_error(f"The path of the asset '{uri}' does not exist or is not accessible.", "NotFound", "DataPathNotFound", status=404)


async def locate(azure: Azure, uri: str) -> Path:
    """As :func:`resolve`, off the event loop: weights of a base model are made, in a child, when they are needed first.

    Raises:
        AzureFault: as :func:`resolve`, and 500 if the weights can't be made.
    """
    if match := _REGISTRY_MODEL.fullmatch(uri):
        _check_registry_model(azure, match)
        await _make_weights(azure)
    return resolve(azure, uri)


def datastore_path(azure: Azure, store: str, path: str) -> Path:
    """A path in a datastore.

    Raises:
        AzureFault: 404, there is no such datastore.
    """
    containers = {"workspaceblobstore": blobs.datastore_container(azure), "workspaceartifactstore": blobs.ARTIFACTS}
    if store not in containers:
        raise not_found(f"Could not find datastore: {store}.", "NotFoundError")
    return _blob(azure, containers[store], path, f"azureml://datastores/{store}/paths/{path}")


def datastore_uri(run: str, output: str) -> str:
    """Where an output goes that names no place: ``azureml/{run}/{output}/`` of the default datastore."""
    return f"{DATASTORE_URI}azureml/{run}/{output}/"


def output_path(azure: Azure, job: str, output: str) -> Path:
    """A job's output.

    Raises:
        AzureFault: 404, there is no such job, or it has no such output.
    """
    run = runstore.get(azure, job)
    if run is None:
        raise not_found(f"Job {job} not found.", "NotFound", "JobNotFound")
    if output == "artifacts":
        return blobs.path(azure, blobs.ARTIFACTS, f"ExperimentRun/dcid.{job}")
    if output not in run["outputs"]:
        raise not_found(f"Output {output} of job {job} not found.", "NotFound", "JobOutputNotFound")
    return resolve(azure, run["outputs"][output]["uri"])


def _check_registry_model(azure: Azure, match: re.Match[str]) -> None:
    registry = match["registry"]
    if registry != "azureml":
        raise AzureFault(
            401, "UserError", f"User/tenant/subscription is not allowed to access registry {registry}", inner=("Unauthorized",)
        )
    if base_model(azure, match["name"], match["version"]) is None:
        raise not_found(f"Could not find asset with ID: {match[0]}", "NotFound")


async def _make_weights(azure: Azure) -> None:
    # A child, so that torch doesn't stay in the emulator's memory.
    log = azure.folder("weights") / "standin.log"
    script = "import sys, pathlib; from mlops.emulator.registry import weights; weights.standin(sys.argv[1], pathlib.Path(sys.argv[2]))"
    command = [sys.executable, "-c", script, azure.options.weights, str(azure.options.cache)]
    child = azure.children.start(command, cwd=log.parent, environment=environment.for_component(), log=log)
    while child.returncode is None:
        await asyncio.sleep(0.05)
    if child.returncode != 0:
        tail = log.read_text(encoding="utf-8", errors="replace")[-1000:]
        raise AzureFault(500, "ServiceError", f"The base model's weights can't be made: {tail}")


def _model(azure: Azure, name: str, version: str) -> Path:
    from mlops.emulator.workspace.models import model_path

    return model_path(azure, name, version)


def _blob(azure: Azure, container: str, blob: str, uri: str) -> Path:
    try:
        return blobs.path(azure, container, blob)
    except BlobProblem as problem:
        raise user_error(f"The path '{uri}' is not valid: {problem.message}") from None


def _within(root: Path, path: str, uri: str) -> Path:
    found = root / path
    if not found.resolve().is_relative_to(root.resolve()):
        raise user_error(f"The path '{uri}' leads out of the output.")
    return found
