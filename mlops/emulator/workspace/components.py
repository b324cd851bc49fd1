"""Components of the workspace: specifications of commands and pipelines, by name and version.

Azure Machine Learning REST, ``components`` of 2022-05-01 and later. Components of every type are stored; jobs run some of them.
"""

from __future__ import annotations

import json
import re
import uuid
from typing import Any

from pydantic import Field

from mlops.emulator.base.azure import Azure
from mlops.emulator.base.errors import AzureFault, not_found, user_error
from mlops.emulator.base.store import Document
from mlops.emulator.wire.resources import Body, Labels, validate_body
from mlops.emulator.workspace import assets, curated
from mlops.emulator.workspace.versions import Collection

__all__ = ["INTERNAL", "ROUTES", "find"]

ID = re.compile(r"(?:azureml:)?/subscriptions/.*/components/(?P<name>[^/]+)/(?P<kind>versions|labels)/(?P<version>[^/]+)", re.IGNORECASE)
SHORT = re.compile(r"azureml:(?P<name>[^/:@]+):(?P<version>[^/:@]+)")
IMMUTABLE = ("command", "code", "environment", "inputs", "outputs", "type", "jobs")
CLIENT_FIELDS = ("_source", "compute", "experiment_name", "settings", "source_job_id", "sourceJobId")
"""Fields of a specification that the service does not keep."""
ANONYMOUS = "azureml_anonymous"
"""Name of all components that a client doesn't name."""
ADDED: Document = {
    "parallel": {"retry_settings": {"max_retries": 3, "timeout": 60}, "error_threshold": -1, "logging_level": "INFO"},
    "CommandComponent": {"successful_return_code": "Zero"},
    "DataTransferComponent": {"datatransfer": {"allow_overwrite": "True"}},
}
"""Type of a component → what the service adds to its specification."""
INTERNAL = (
    "AE365ExePoolComponent", "AetherBridgeComponent", "CommandComponent", "DataTransferComponent", "DistributedComponent",
    "HDInsightComponent", "HemeraComponent", "ParallelComponent", "ScopeComponent", "StarliteComponent",
    "ae365exepool", "aetherbridge", "hdinsight", "hemera", "scope", "starlite",
)  # fmt: skip
"""Types of components that only exist inside Microsoft, in the service's older and newer spelling."""
MOUNTED = ("CommandComponent", "DistributedComponent", "ParallelComponent")
SCOPES = ("ScopeComponent", "scope")
LITERALS = {"string": "String", "integer": "Integer", "float": "Float", "boolean": "Boolean", "enum": "Enum"}
"""Types of literal inputs, as the service spells them for internal types in the older spelling."""
DISTRIBUTIONS = {"mpi": "Mpi", "pytorch": "Pytorch", "tensorflow": "TensorFlow"}
"""Type of a distribution in lower case → as the service spells it."""
NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_\-.]{0,254}")


class Component(Body):
    """``ComponentVersion``."""

    component_spec: dict[str, Any]
    description: str | None = None
    tags: Labels | None = None
    properties: Labels | None = None
    is_anonymous: bool = False
    is_archived: bool = False
    stage: str | None = None
    auto_delete_setting: dict[str, Any] | None = None
    provisioning_state: str | None = Field(default=None, exclude=True)
    intellectual_property: dict[str, Any] | None = Field(default=None, exclude=True)


def find(azure: Azure, component_id: str) -> tuple[str, str, Document]:
    """Return name, version and specification of the component with this ARM id or short name, in whatever case; its scalars are strings.

    Raises:
        AzureFault: 404, it does not exist.
    """
    match = ID.fullmatch(component_id) or SHORT.fullmatch(component_id)
    name, version = (match["name"], match["version"]) if match else (component_id, "")
    name = next((key.partition("/")[0] for key, _ in azure.store.list("components") if key.lower().startswith(f"{name}/".lower())), name)
    if match and match.groupdict().get("kind") == "labels":
        version = COLLECTION.find_latest(azure, name) or version
    stored = COLLECTION.get(azure, name, version)
    if stored is None:
        message = f"key: {component_id}, Message: Not found component {name} (version: {version})."
        raise AzureFault(404, "NotFound", message, inner=("NotFound", "ComponentNotFound"))
    spec: Document = stored["properties"]["componentSpec"]
    return name, version, spec


def _show(properties: Document) -> Document:
    """Return the properties as a client sees them: without the nodes of a pipeline."""
    spec = {key: value for key, value in properties["componentSpec"].items() if key != "jobs"}
    return properties | {"componentSpec": {key: value for key, value in spec.items() if value != {}}}


def _read(azure: Azure, name: str, version: str, properties: Any, existing: Document | None) -> Document:
    body = validate_body(properties, Component, "properties.")
    if not NAME.fullmatch(name) or not NAME.fullmatch(version):
        raise user_error(f"The component name {name} or its version {version} has characters that are not allowed.")
    own = {} if name == ANONYMOUS else {"name": name, "version": version}
    spec = _normalize(own | body.component_spec)
    if spec.get("type") == "command":
        _check_task(azure, spec, "command")
    if spec.get("type") == "parallel":
        _check_task(azure, spec.get("task") or {}, "entry_script")
    if existing is not None:
        previous = existing["properties"]["componentSpec"]
        if changed := [field for field in IMMUTABLE if previous.get(field) != spec.get(field)]:
            raise user_error(
                f'Failed to update component {name} since field "{changed[0]}" is immutable, try specifying a new version.',
                "BadArgument", "ArgumentInvalid", "UpdateComponentFailed",
            )  # fmt: skip
    return body.model_dump(by_alias=True, exclude={"description"}) | {"componentSpec": spec}


def _check_task(azure: Azure, spec: Document, program: str) -> None:
    for field in (program, "environment"):
        if not isinstance(spec.get(field), str | dict):
            raise user_error(f"The component has no {field}.", "BadArgument", "ArgumentInvalid", "InvalidComponentSpec")
    if isinstance(spec["environment"], str) and not assets.has_environment(azure, spec["environment"]):
        raise user_error(f"Environment {spec['environment']} not found.", "NotFound", "EnvironmentNotFound", status=404)
    if spec.get("code"):
        assets.code_folder(azure, spec["code"])


def _normalize(spec: Document) -> Document:
    """Return a specification as the service stores it: with its defaults, scalars as strings, without what only the SDK needs."""
    kind = str(spec.get("type"))
    defaults: Document = {"version": "1", "is_deterministic": kind != "pipeline"} | ADDED.get(kind, {})
    normal: Document = {key: _to_text(value) for key, value in (defaults | spec).items() if key not in CLIENT_FIELDS}
    normal["inputs"] = {
        name: {"optional": "False"} | _normalize_port(kind, item, "Mount") for name, item in (normal.get("inputs") or {}).items()
    }
    normal["outputs"] = {
        name: {"type": "uri_folder"} | _normalize_port(kind, item, "Upload") for name, item in (normal.get("outputs") or {}).items()
    }
    if isinstance(distribution := normal.get("distribution"), dict) and "type" in distribution:
        normal["distribution"] = distribution | {"type": DISTRIBUTIONS.get(distribution["type"].lower(), distribution["type"])}
    if kind == "command":
        normal["resources"] = {"instance_count": "1"} | (normal.get("resources") or {})
    for task in (normal, normal.get("task")):
        if isinstance(task, dict):
            name, _, version = str(task.get("environment")).removeprefix("azureml:").partition(":")
            if curated.has(name, version):
                task["environment"] = f"azureml://registries/azureml/environments/{name}/versions/{version}"
    return normal


def _normalize_port(component: str, port: Document, mode: str) -> Document:
    """Return an input or output as the service stores it. The node decides how it is read or written, except for internal types."""
    dropped = ("mode", "datastore_mode") if component == "spark" else ("mode",)
    normal = {key: value for key, value in port.items() if key not in dropped}
    if component not in INTERNAL:
        return normal
    if component in MOUNTED and normal.get("type") == "path":
        normal = {"datastore_mode": mode} | normal
    if component in SCOPES and isinstance(normal.get("type"), list):
        normal = {"is_resource": "False"} | normal
    if normal.get("default") == "":
        del normal["default"]
    kind = normal.get("type")
    return normal | ({"type": LITERALS[kind]} if component.endswith("Component") and isinstance(kind, str) and kind in LITERALS else {})


def _to_text(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _to_text(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_to_text(item) for item in value]
    return str(value) if isinstance(value, bool | int | float) else value


def _absent(name: str, version: str) -> AzureFault:
    return not_found(f"Not found component {name}.", "NotFound", "ComponentNotFound")


def _anonymous_version(name: str, properties: Any) -> str | None:
    """Return the version of an anonymous component. It follows from the content, so equal ones are one, as on Azure."""
    spec = properties.get("componentSpec") if isinstance(properties, dict) else None
    if name != ANONYMOUS or not isinstance(spec, dict):
        return None
    content = {key: value for key, value in spec.items() if key != "name"}
    return str(uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(content, sort_keys=True)))


COLLECTION = Collection("components", _read, _absent, version_of=_anonymous_version, show=_show)
ROUTES = COLLECTION.routes()
