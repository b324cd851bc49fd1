"""Limits on tags, parameters and metrics, which a client only meets on the real service.

Figures: "Service limits in Azure Machine Learning" (aka.ms/azure-machine-learning-limits), and for resources of ARM "Use tags to organize
your Azure resources". The text of the first is that of mlflow/mlflow#11462 and Azure/azure-sdk-for-python#35685.
"""

from __future__ import annotations

import re
import uuid
from collections import Counter
from collections.abc import Collection, Mapping
from typing import Annotated, Any

from pydantic import AfterValidator

from mlops.emulator.base.azure import LOCATION
from mlops.emulator.base.clock import now
from mlops.emulator.base.errors import AzureFault, user_error

__all__ = ["AssetTags", "ResourceTags", "check_asset_tags", "check_metrics", "check_parameters", "check_run_tags", "mlflow_fault"]

Tags = dict[str, str | None] | None

MAX_TAGS = 50
RESOURCE_KEY, RESOURCE_VALUE = 512, 256
RUN_KEY, VALUE = 100, 1000
RESERVED = re.compile(r"[<>%&\\?/\x00-\x1f]")
MAX_PARAMETERS = 200
MAX_POINTS = 250
"""Values of one metric in a batch."""
METRIC_NAME = re.compile(r"[\w.\- /]{1,250}", re.ASCII)


def _check_resource_tags(tags: Tags) -> Tags:
    tags = tags or {}
    if len(tags) > MAX_TAGS:
        raise AzureFault(400, "InvalidTags", f"The resource has {len(tags)} tags. A resource can have at most {MAX_TAGS} tags.")
    for key, value in tags.items():
        if RESERVED.search(key):
            raise AzureFault(
                400,
                "InvalidTagNameCharacters",
                f"The tag names '{key}' have reserved characters '<,>,%,&,\\,?,/' or control characters.",
            )
        if len(key) > RESOURCE_KEY:
            raise AzureFault(400, "InvalidTags", f"The tag name '{key}' has {len(key)} characters; {RESOURCE_KEY} are allowed.")
        if len(value or "") > RESOURCE_VALUE:
            raise AzureFault(
                400, "InvalidTags", f"The value of tag '{key}' has {len(value or '')} characters; {RESOURCE_VALUE} are allowed."
            )
    return tags


def check_asset_tags(tags: Tags) -> Tags:
    """Return the tags of an asset.

    Raises:
        AzureFault: 400, they are too many or too long.
    """
    if problem := _find_excess(tags or {}, RESOURCE_KEY):
        raise user_error(problem)
    return tags


# Pydantic passes on what is not a ValueError, so the client sees the fault.
ResourceTags = Annotated[Tags, AfterValidator(_check_resource_tags)]
"""Tags of a resource that ARM keeps (a compute, an endpoint, a deployment), in a body. Too many or too long ones are answered with 400."""
AssetTags = Annotated[Tags, AfterValidator(check_asset_tags)]
"""Tags of an asset (a model), in a body."""


def check_run_tags(tags: Mapping[str, Any]) -> str:
    """Return what is wrong with the tags of a run, in the service's words; empty if nothing is. MLflow's own tags don't count."""
    return _find_excess({key: value for key, value in tags.items() if not key.startswith("mlflow.")}, RUN_KEY)


def check_parameters(names: Collection[str]) -> str:
    """Return what is wrong with the parameters of a run, in the service's words; empty if nothing is."""
    return _describe("Parameters", MAX_PARAMETERS, len(names)) if len(names) > MAX_PARAMETERS else ""


def check_metrics(names: Collection[str]) -> str:
    """Return what is wrong with the metrics of a request, one name per value; empty if nothing is."""
    for name, count in sorted(Counter(names).items()):
        if not METRIC_NAME.fullmatch(name):
            return (
                f"Invalid metric name: '{name}'. Names may only contain alphanumerics, underscores (_), dashes (-), periods (.), spaces ( )"
                " and slashes (/), and at most 250 characters."
            )
        if count > MAX_POINTS:
            return _describe("MetricV2Dto.Value/Count", MAX_POINTS, count)
    return ""


def mlflow_fault(problem: str, error_code: str = "INVALID_PARAMETER_VALUE", status: int = 400, code: str = "ValidationError") -> AzureFault:
    """Return an error in the envelope of the workspace's MLflow service, which has no ``message`` of its own.

    Args:
        problem: the sentence that the user sees.
        error_code: MLflow's, e.g. ``"RESOURCE_DOES_NOT_EXIST"``.
        status: HTTP status.
        code: the class of error, ``ValidationError`` or ``UserError``.
    """
    empty = dict.fromkeys(("Severity", "MessageFormat", "MessageParameters", "ReferenceCode", "DetailsUri", "Target", "InnerError"))
    return AzureFault(
        status,
        code,
        problem,
        body={
            "Error": {"Code": code, "Message": problem, "Details": [], **empty},
            "Correlation": {"operation": uuid.uuid4().hex, "request": uuid.uuid4().hex[:16]},
            "Environment": LOCATION,
            "Location": LOCATION,
            "Time": now(),
            "ComponentName": "mlflow",
            "statusCode": status,
            "error_code": error_code,
        },
    )


def _find_excess(tags: Mapping[str, Any], longest_key: int) -> str:
    if len(tags) > MAX_TAGS:
        return _describe("Tags", MAX_TAGS, len(tags))
    for key, value in tags.items():
        if len(key) > longest_key:
            return _describe("Tags.Key", longest_key, len(key))
        if len(str(value or "")) > VALUE:
            return _describe("Tags.Value", VALUE, len(str(value)))
    return ""


def _describe(field: str, limit: int, size: int) -> str:
    return (
        f"A field of the entity is over the size limit. FieldName={field}, Limit={limit}, Size={size}."
        " See https://aka.ms/azure-machine-learning-limits for service limits documentation."
    )
