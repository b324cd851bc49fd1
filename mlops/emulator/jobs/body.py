"""Bodies of jobs: what all kinds have in common, checked field by field (OpenAPI ``JobBase``, 2024-01-01-preview and later)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from mlops.emulator.wire.resources import Body

__all__ = ["ASSET_TYPES", "Asset", "Input", "JobProperties", "Output", "Resources", "Value"]

ASSET_TYPES = ("uri_file", "uri_folder", "mltable", "mlflow_model", "custom_model")
InputMode = Literal["ReadOnlyMount", "ReadWriteMount", "Download", "Direct", "EvalMount", "EvalDownload"]
OutputMode = Literal["ReadWriteMount", "Upload", "Direct"]


class Value(Body):
    """A literal input. All literals travel as strings."""

    job_input_type: Literal["literal"]
    value: str
    description: str | None = None


class Asset(Body):
    """An input that is a file, a folder or a model."""

    job_input_type: Literal["uri_file", "uri_folder", "mltable", "mlflow_model", "custom_model"]
    uri: str = Field(min_length=1)
    mode: InputMode | None = None
    path_on_compute: str | None = None
    description: str | None = None


def _input_kind(value: Any) -> str:
    kind = value.get("jobInputType") if isinstance(value, dict) else getattr(value, "job_input_type", None)
    return "literal" if kind == "literal" else "asset"


Input = Annotated[Annotated[Value, Tag("literal")] | Annotated[Asset, Tag("asset")], Discriminator(_input_kind)]


class Output(Body):
    """An output."""

    job_output_type: Literal["uri_file", "uri_folder", "mltable", "mlflow_model", "custom_model"]
    mode: OutputMode | None = None
    uri: str | None = None
    description: str | None = None
    asset_name: str | None = None
    asset_version: str | None = None
    path_on_compute: str | None = None
    auto_delete_setting: dict[str, Any] | None = None


class Resources(Body):
    """``resources``; only the number of nodes acts."""

    instance_count: int = Field(default=1, ge=1)
    instance_type: str | None = None
    properties: dict[str, Any] | None = None
    docker_args: str | None = None
    shm_size: str | None = None
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
    tags: dict[str, str] = Field(default_factory=dict)
    properties: dict[str, str] = Field(default_factory=dict)
    services: dict[str, Any] | None = None
    notification_setting: dict[str, Any] | None = None
    secrets_configuration: dict[str, Any] | None = None
    inputs: dict[str, Input] = Field(default_factory=dict)
    outputs: dict[str, Output] = Field(default_factory=dict)
