"""The distribution of an endpoint's traffic over its deployments, as the service accepts it.

The percentages sum to 0 or 100, and only deployments that have Succeeded receive traffic. Up to half of it can be mirrored to one
deployment that receives none itself.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from mlops.emulator.base.azure import Azure
from mlops.emulator.base.store import Document
from mlops.emulator.wire.resources import inference_error

__all__ = ["Traffic", "validate_traffic"]

MAX_MIRRORED = 50
"""Maximum percentage of the traffic that is mirrored (Microsoft, "Safe rollout for online endpoints")."""
Traffic = dict[str, Annotated[int, Field(ge=0, le=100)]]
"""Deployment → percent."""


def validate_traffic(azure: Azure, key: str, traffic: dict[str, int], mirror: dict[str, int]) -> dict[str, dict[str, int]]:
    """Return ``traffic`` and ``mirror`` with the deployments' own names (the SDK converts them to lower case).

    Raises:
        AzureFault: 400, the service would refuse these percentages.
    """
    deployments = {stored["name"].lower(): stored for _, stored in azure.store.list("deployment", f"{key}/")}
    live, mirrored = (_resolve_names(key, deployments, percentages) for percentages in (traffic, mirror))
    total = sum(live.values())
    if total not in (0, 100):
        raise inference_error(f"Traffic percentages must sum to 0 or 100, but sum to {total}.")
    receivers = [name for name, percent in mirrored.items() if percent]
    if len(receivers) > 1:
        raise inference_error(f"Traffic can be mirrored to only one deployment, not to [{', '.join(receivers)}].")
    for name in receivers:
        if mirrored[name] > MAX_MIRRORED:
            raise inference_error(f"At most {MAX_MIRRORED} % of the traffic can be mirrored, not {mirrored[name]} %.")
        if live.get(name):
            raise inference_error(f"Deployment [{name}] can receive either live or mirrored traffic, not both.")
    return {"traffic": live, "mirror": mirrored}


def _resolve_names(key: str, deployments: dict[str, Document], percentages: dict[str, int]) -> dict[str, int]:
    resolved: dict[str, int] = {}
    for name, percent in percentages.items():
        stored = deployments.get(name.lower())
        if stored is None:
            raise inference_error(f"Traffic refers to deployment [{name}], which does not exist in endpoint [{key}].")
        if percent and stored["state"] != "Succeeded":
            raise inference_error(f"Traffic refers to deployment [{name}], whose provisioning state is {stored['state']}, not Succeeded.")
        resolved[stored["name"]] = percent
    return resolved
