"""A job as Azure's resource: what was submitted, filled with the service's defaults, and the state of its run."""

from __future__ import annotations

from typing import Any

from mlops.emulator.base.azure import Azure, arm_id
from mlops.emulator.base.store import Document
from mlops.emulator.history import runs
from mlops.emulator.storage import blobs
from mlops.emulator.workspace.datastores import ARTIFACT_STORE

__all__ = ["fill", "find_change", "render"]

COMMON = ("description", "computeId", "componentId", "identity", "notificationSetting", "secretsConfiguration")
"""Fields that are null if they weren't sent."""
COMMAND = ("codeId", "distribution", "autologgerSettings", "limits")
RESOURCES = {"instanceCount": 1, "instanceType": None, "properties": None, "shmSize": "2g", "dockerArgs": None}


def fill(properties: Document) -> Document:
    """Return the submitted ``properties`` with the service's defaults. Filling twice changes nothing."""
    is_command = properties["jobType"] == "Command"
    filled: Document = dict.fromkeys(COMMON) | ({} if is_command else {"sourceJobId": None})
    filled |= (dict.fromkeys(COMMAND) | {"environmentVariables": {}, "parameters": {}}) if is_command else {}
    filled |= {"experimentName": "Default", "isArchived": False} | properties
    inputs = {name: _fill_input(item) for name, item in (properties.get("inputs") or {}).items()}
    outputs = {name: _fill_output(item) for name, item in (properties.get("outputs") or {}).items()}
    filled |= {"inputs": inputs, "outputs": outputs, "tags": properties.get("tags") or {}, "properties": properties.get("properties") or {}}
    if is_command:
        filled["resources"] = RESOURCES | (properties.get("resources") or {})
        filled["environmentVariables"] = properties.get("environmentVariables") or {}
        filled["parameters"] = properties.get("parameters") or {}
    return filled


def render(azure: Azure, run: Document) -> dict[str, Any]:
    """Return a job. A step of a pipeline has no properties here. A job's tags are another store than those of its run."""
    resource: dict[str, Any] = {
        "id": arm_id(azure, "jobs", run["name"]),
        "name": run["name"],
        "type": "Microsoft.MachineLearningServices/workspaces/jobs",
        "properties": None,
        "systemData": {"createdAt": run["created"], "createdBy": run["author"], "createdByType": "Application"},
    }
    if run["job"] is None:
        return resource
    properties = fill(run["job"])
    for name, output in properties["outputs"].items():
        # A pipeline never says where its outputs are: run history knows it.
        if run["status"] == "Completed" and properties["jobType"] == "Command":
            output["uri"] = run["outputs"][name]["uri"]
    if properties["jobType"] == "Command":
        uri = f"azureml://datastores/{ARTIFACT_STORE}/{blobs.artifact(run['name'])}"
        properties["outputs"][runs.DEFAULT_OUTPUT] = _fill_output({"uri": uri, "jobOutputType": "uri_folder"})
    resource["properties"] = properties | {
        "displayName": run["display_name"],
        "description": run["description"],
        "experimentName": run["experiment"],
        "status": run["status"],
        "properties": run["properties"],
        "isArchived": run["hidden"],
        "services": runs.job_services(azure, run),
    }
    return resource


def find_change(azure: Azure, run: Document, sent: Document, mutable: set[str]) -> str | None:
    """Return the first field of ``sent`` that differs from the job and isn't ``mutable``, or None.

    What the service has filled in may be sent back as it was read.
    """
    existing, again = render(azure, run)["properties"], fill(sent)
    for name, output in again["outputs"].items():
        if output["uri"] is None and name in existing["outputs"]:
            output["uri"] = existing["outputs"][name]["uri"]
    if runs.DEFAULT_OUTPUT in existing["outputs"]:
        again["outputs"].setdefault(runs.DEFAULT_OUTPUT, existing["outputs"][runs.DEFAULT_OUTPUT])
    fields = sorted((existing.keys() | again.keys()) - mutable)
    return next((field for field in fields if existing.get(field) != again.get(field)), None)


def _fill_input(item: Document) -> Document:
    mode = {} if item.get("jobInputType") == "literal" else {"mode": item.get("mode") or "ReadOnlyMount"}
    return {"description": None} | item | mode


def _fill_output(item: Document) -> Document:
    optional = dict.fromkeys(("description", "uri", "assetName", "assetVersion", "autoDeleteSetting"))
    return optional | item | {"mode": item.get("mode") or "ReadWriteMount"}
