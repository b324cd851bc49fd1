"""Azure's rules for names and tags, so that an invalid one is reported before anything is paid for.

Sources: the rules of Azure Machine Learning for assets, jobs, computes and online endpoints, and Azure Resource Manager's limits for tags.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated

from pydantic import AfterValidator

__all__ = [
    "ComputeName",
    "DeploymentPrefix",
    "EndpointName",
    "ExperimentName",
    "ManagedIdentity",
    "ModelName",
    "NonEmpty",
    "OptionalEndpointName",
    "Tags",
]

MAX_TAGS = 15
"""Azure allows 50 per resource or run; the pipeline needs up to 35 on the run of a training."""
RESERVED_TAGS = ("mlops.", "azure", "microsoft", "windows", "hidden-")


def _rule(pattern: str, what: str, description: str) -> Callable[[str], str]:
    def check(name: str) -> str:
        if not re.fullmatch(pattern, name, re.ASCII):
            raise ValueError(f"{name!r} is not a valid {what}: {description}")
        return name

    return check


def _check_not_empty(text: str) -> str:
    if not text.strip():
        raise ValueError("it is empty")
    return text


def _check_tags(tags: dict[str, str]) -> dict[str, str]:
    if len(tags) > MAX_TAGS:
        raise ValueError(f"there are {len(tags)} tags; at most {MAX_TAGS} are allowed")
    for key, value in tags.items():
        if not key.strip() or len(key) > 100 or re.search(r"[<>%&\\?/\x00-\x1f]", key):
            raise ValueError(f"{key!r} is not a valid name for a tag: 1 to 100 characters, none of <>%&\\?/")
        if key.lower().startswith(RESERVED_TAGS):
            raise ValueError(f"the tag {key!r} is reserved: names must not begin with {', '.join(RESERVED_TAGS)}")
        if len(value) > 256:
            raise ValueError(f"the value of tag {key!r} has {len(value)} characters; at most 256 are allowed")
    return tags


_ENDPOINT = "3 to 32 letters, digits and hyphens, a letter first, no hyphen at the end"
_ENDPOINT_PATTERN = r"[a-zA-Z][-a-zA-Z0-9]{1,30}[a-zA-Z0-9]"

NonEmpty = Annotated[str, AfterValidator(_check_not_empty)]
ModelName = Annotated[
    str,
    AfterValidator(
        _rule(r"[a-zA-Z0-9][\w.-]{0,254}", "model name", "up to 255 letters, digits, '-', '_' and '.', a letter or digit first")
    ),
]
ExperimentName = Annotated[
    str,
    AfterValidator(_rule(r"[a-zA-Z0-9][\w-]{0,254}", "experiment name", "up to 255 letters, digits, '-' and '_', a letter or digit first")),
]
ComputeName = Annotated[str, AfterValidator(_rule(r"[a-zA-Z][a-zA-Z0-9-]{1,22}[a-zA-Z0-9]", "compute name", _ENDPOINT.replace("32", "24")))]
ManagedIdentity = Annotated[
    str,
    AfterValidator(
        _rule(
            r"(?:(?i:/subscriptions/[^/\s]+/resourceGroups/[^/\s]+/providers/Microsoft\.ManagedIdentity/userAssignedIdentities)/[^/\s]+)?",
            "id of a user-assigned managed identity",
            "/subscriptions/…/resourceGroups/…/providers/Microsoft.ManagedIdentity/userAssignedIdentities/NAME",
        )
    ),
]
EndpointName = Annotated[str, AfterValidator(_rule(_ENDPOINT_PATTERN, "endpoint name", _ENDPOINT))]
OptionalEndpointName = Annotated[str, AfterValidator(_rule(rf"(?:{_ENDPOINT_PATTERN})?", "endpoint name", _ENDPOINT))]
DeploymentPrefix = Annotated[
    str,
    AfterValidator(
        _rule(
            r"[a-zA-Z][a-zA-Z0-9-]{0,20}",
            "prefix of deployment names",
            "1 to 21 letters, digits and hyphens, a letter first (11 more characters follow)",
        )
    ),
]
Tags = Annotated[dict[str, str], AfterValidator(_check_tags)]
