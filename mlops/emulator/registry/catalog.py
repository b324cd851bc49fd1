"""Contents of the ``azureml`` registry: base models, the fine-tuning component and its environment.

Facts from Azure/azureml-assets: ``assets/models/system/*/spec.yaml`` at 85d093ef51 (2025-02-15) for ``tutorial``, at 72891e189a
(2026-07-01) for ``current``. The tutorial predates the two keys of :data:`RATE_LIMITS`. The models' weights are stand-ins; each
model's tags say which.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, cast

from mlops.emulator.base.azure import Options
from mlops.emulator.component import spec
from mlops.emulator.registry import weights

__all__ = [
    "CATALOGS",
    "DEFAULT_IMAGE_TRANSFORMERS",
    "SERVING_IMAGES",
    "Component",
    "Environment",
    "Model",
    "components",
    "environments",
    "models",
]

A100 = (
    "Standard_NC24ads_A100_v4", "Standard_NC48ads_A100_v4", "Standard_NC96ads_A100_v4", "Standard_ND96asr_v4", "Standard_ND96amsr_A100_v4",
)  # fmt: skip
H100 = ("Standard_NC40ads_H100_v5", "Standard_NC80adis_H100_v5", "Standard_ND96isr_H100_v5")
V100 = ("Standard_NC6s_v3", "Standard_NC12s_v3", "Standard_NC24s_v3", "Standard_ND40rs_v2")

DEFAULTS: Mapping[str, Any] = {
    "apply_deepspeed": "true",
    "deepspeed_stage": 2,
    "apply_lora": "true",
    "apply_ort": "false",
    "precision": 16,
    "ignore_mismatched_sizes": "false",
    "num_train_epochs": 1,
    "per_device_train_batch_size": 1,
    "per_device_eval_batch_size": 1,
    "gradient_accumulation_steps": 1,
    # YAML 1.1 reads 5e-6, which has no dot, as a string, so the tag has a string.
    "learning_rate": "5e-6",
    "lr_scheduler_type": "cosine",
    "logging_strategy": "steps",
    "logging_steps": 10,
    "save_total_limit": 1,
}
# Added in 85d093ef51; the component has no such inputs.
RATE_LIMITS: Mapping[str, Any] = {"learning_rate_min": "5e-7", "learning_rate_max": "5e-5"}
RETIRED = {
    "finetuneDeprecationDate": "2025-06-30T00:00:00.000000Z",
    "finetuneRetirementDate": "2025-08-30T00:00:00.000000Z",
    "inferenceDeprecationDate": "2025-06-30T00:00:00.000000Z",
    "inferenceLegacyDate": "2025-06-09T00:00:00.000000Z",
    "inferenceRetirementDate": "2025-08-30T00:00:00.000000Z",
}


DEFAULT_IMAGE_TRANSFORMERS = "4.46"
"""Version of transformers in the image that serves an MLflow model without code."""
SERVING_IMAGES: Mapping[str, str] = {
    f"azureml://registries/azureml/environments/foundation-model-inference/versions/{version}": transformers
    for version, transformers in {"87": "4.56.0", "93": "5.5.1", "94": "5.5.1"}.items()
}
"""Environment of a serving image → the oldest transformers that it may contain. They serve MLflow models without code."""


@dataclasses.dataclass(frozen=True)
class Model:
    """One version of a base model.

    Args:
        tags: values of any type; see :meth:`wire_tags`.
        metadata: system metadata.
    """

    name: str
    version: str
    archived: bool
    tags: Mapping[str, Any]
    properties: Mapping[str, str]
    metadata: Mapping[str, Any]
    weights: str

    def wire_tags(self) -> dict[str, str]:
        """Return the tags as strings: a mapping as JSON, everything else, including lists, as Python's ``str``."""
        return {name: json.dumps(value) if isinstance(value, Mapping) else str(value) for name, value in self.tags.items()}


@dataclasses.dataclass(frozen=True)
class Component:
    """One version of a component, with its spec as on the wire."""

    name: str
    version: str
    spec: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Environment:
    """One version of an environment."""

    name: str
    version: str
    image: str


def _tutorial(options: Options) -> list[Model]:
    finetune, inference = A100, (*V100, *A100)
    return [
        Model(
            name="Phi-3-mini-4k-instruct",
            version="15",
            archived=False,
            tags={
                "task": "chat-completion",
                "license": "mit",
                "author": "Microsoft",
                "inference_compute_allow_list": list(inference),
                "finetune_compute_allow_list": list(finetune),
                "inference_supported_envs": ["vllm"],
                "model_specific_defaults": dict(DEFAULTS),
                **_standin(options),
            },
            properties={
                "SharedComputeCapacityEnabled": "True",
                "languages": "en",
                "finetuning-tasks": "chat-completion",
                "inference-min-sku-spec": "6|1|112|64",
                "inference-recommended-sku": ", ".join(inference),
                "finetune-min-sku-spec": "24|1|220|64",
                "finetune-recommended-sku": ", ".join(finetune),
            },
            metadata=_limits(options),
            weights=options.weights,
        )
    ]


def _current(options: Options) -> list[Model]:
    vanity = {"_aml_system_vanity_registry": "azureml-phi"}
    phi3 = Model(
        name="Phi-3-mini-4k-instruct",
        version="15",
        archived=True,
        tags=vanity | {"model_specific_defaults": {**DEFAULTS, **RATE_LIMITS}} | _standin(options),
        properties={},
        metadata=_metadata((*V100, *A100), A100) | _limits(options) | {"deprecation": RETIRED},
        weights=options.weights,
    )
    phi4 = Model(
        name="Phi-4",
        version="8",
        archived=False,
        tags={"model_specific_defaults": {**DEFAULTS, "deepspeed_stage": 3}, **_standin(options)},
        properties={},
        metadata=_metadata((*A100, *H100), (*A100, *H100)) | _limits(options),
        weights=options.weights,
    )
    return [phi3, phi4]


CATALOGS = {"tutorial": _tutorial, "current": _current}
"""``tutorial``: the registry at the time of the tutorial, allow-lists in tags; ``current``: Phi-3 archived, allow-lists in system
metadata, Phi-4."""


def models(options: Options) -> list[Model]:
    """Return the base models, oldest first."""
    return CATALOGS[options.catalog](options)


def components(options: Options) -> list[Component]:
    """Return the versions of the only component, oldest first. The tutorial is older than the newest one."""
    versions = [version for version in spec.RELEASES if version != spec.VERSION or options.catalog == "current"]
    return [Component(spec.NAME, version, spec.to_wire(version)) for version in versions]


def environments() -> list[Environment]:
    """Return the environments of the component's nodes and those of serving images, oldest first."""
    ids = [release.environment for release in spec.RELEASES.values()] + list(SERVING_IMAGES)
    pairs = [each.partition("/environments/")[2].split("/versions/") for each in ids]
    return [Environment(name, version, f"mcr.microsoft.com/azureml/curated/{name}:{version}") for name, version in pairs]


def _limits(options: Options) -> dict[str, Any]:
    """Return the stand-in's own context length, because the component cuts conversations there."""
    return {"textContextWindow": weights.context_length(cast(weights.Kind, options.weights))}


def _metadata(inference: tuple[str, ...], finetune: tuple[str, ...]) -> dict[str, Any]:
    return {
        "publisher": "Microsoft",
        "license": "MIT",
        "tasks": {"fineTuningTasks": ["chat-completion"], "inferenceTasks": ["chat-completion"]},
        "supportedComputes": {"inferenceComputes": list(inference), "finetuneComputes": list(finetune)},
        "inferenceSupportedEnvs": ["vllm"],
    }


def _standin(options: Options) -> dict[str, str]:
    return {f"emulator.{name}": value for name, value in weights.describe(cast(weights.Kind, options.weights)).items()}
