"""Request bodies of jobs: the fields that all kinds share (OpenAPI ``JobBase``, 2024-01-01-preview and later), strictly validated."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BeforeValidator, Discriminator, Field, Tag

from mlops.emulator.wire.resources import Body, Labels
from mlops.emulator.workspace import uris

__all__ = ["AssetInput", "Filled", "Input", "JobProperties", "LiteralInput", "Output", "Resources"]

AssetType = Literal["uri_file", "uri_folder", "mltable", "mlflow_model", "custom_model", "triton_model"]
InputMode = Literal["ReadOnlyMount", "ReadWriteMount", "Download", "Direct", "EvalMount", "EvalDownload"]
OutputMode = Literal["ReadWriteMount", "Upload", "Direct"]


T = TypeVar("T")
Filled = Annotated[T, BeforeValidator(lambda value: {} if value is None else value)]
"""A mapping for which null means that it is empty."""


class LiteralInput(Body):
    """A literal input. All literals are strings on the wire."""

    job_input_type: Literal["literal"]
    value: str | None = None
    mode: InputMode | None = None
    description: str | None = None


class AssetInput(Body):
    """An input that is a file, a folder or a model."""

    job_input_type: AssetType
    uri: str = Field(min_length=1)
    mode: InputMode | None = None
    path_on_compute: str | None = None
    description: str | None = None


def _input_kind(value: Any) -> str:
    kind = value.get("jobInputType") if isinstance(value, dict) else getattr(value, "job_input_type", None)
    return "literal" if kind == "literal" else "asset"


Input = Annotated[Annotated[LiteralInput, Tag("literal")] | Annotated[AssetInput, Tag("asset")], Discriminator(_input_kind)]


class Output(Body):
    """An output."""

    job_output_type: AssetType
    mode: OutputMode | None = None
    uri: str | None = None
    description: str | None = None
    asset_name: str | None = None
    asset_version: str | None = None
    path_on_compute: str | None = None
    auto_delete_setting: dict[str, Any] | None = None


class Resources(Body):
    """``resources``. The emulator uses the number of nodes and ignores the rest."""

    instance_count: int = Field(default=1, ge=1)
    instance_type: str | None = None
    properties: dict[str, Any] | None = None
    docker_args: str | None = None
    shm_size: str | None = "2g"
    locations: list[str] | None = None
    max_instance_count: int | None = None


class JobProperties(Body):
    """``properties`` of any job."""

    job_type: str
    display_name: str | None = None
    description: str | None = None
    experiment_name: str = "Default"
    compute_id: str | None = None
    component_id: str | None = None
    identity: dict[str, Any] | None = None
    is_archived: bool = False
    tags: Filled[Labels] = Field(default_factory=dict)
    properties: Filled[Labels] = Field(default_factory=dict)
    services: dict[str, Any] | None = None
    notification_setting: dict[str, Any] | None = None
    secrets_configuration: dict[str, Any] | None = None
    inputs: Filled[dict[str, Input]] = Field(default_factory=dict)
    outputs: Filled[dict[str, Output]] = Field(default_factory=dict)
    status: str | None = Field(default=None, exclude=True)
    """Read-only: accepted, because a client sends back what it has read, and ignored."""

    def asset_names(self) -> dict[str, tuple[str | None, str | None]]:
        """Return output → name and version of the asset that it becomes."""
        return {name: (output.asset_name, output.asset_version) for name, output in self.outputs.items()}

    def output_locations(self, job: str) -> dict[str, dict[str, str]]:
        """Return type and URI of each output, for a job or step of this name."""
        return {
            name: {"type": output.job_output_type, "uri": uris.datastore_uri(job, name, output.uri)}
            for name, output in self.outputs.items()
        }
