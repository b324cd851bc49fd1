"""The champion: what production serves now, whether it can still be read, and what it was trained on."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlops.cloud.errors import NotFound
from mlops.cloud.outputs import Outputs
from mlops.cloud.tags import DATA_FINGERPRINT

if TYPE_CHECKING:
    from mlops.cloud.endpoints import Live
    from mlops.cloud.workspace import Workspace

__all__ = ["Champion", "find"]


_OF_WORKSPACE = re.compile(
    r"(?:azureml:)?(?P<workspace>/subscriptions/.+)/models/(?P<name>[^/]+)/versions/(?P<version>[^/]+)", re.IGNORECASE
)
_OF_REGISTRY = re.compile(
    r"azureml://registries/(?P<registry>[^/]+)/models/(?P<name>[^/]+)/versions/(?P<version>[^/]+)", re.IGNORECASE
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Champion:
    """What a candidate is held against."""

    model: str
    """Full id; empty where nothing takes traffic."""
    lost: str = ""
    """Why no scoring job can read it, and what to do; empty where one can, or where there is none."""
    notes: tuple[str, ...] = ()
    """What a reader must know who compares with it."""


def find(workspace: Workspace, endpoint: str, live: Live, *, own: str, base: str, data_fingerprint: str) -> Champion:
    """Look the live model up in the registry.

    Only "it does not exist" (HTTP 404) makes it lost. Any other trouble is an error: what can't be read for a moment must not make a
    candidate's way easier.

    Args:
        workspace: where the endpoint is.
        endpoint: its name.
        live: what it serves.
        own: the candidate's id in lower case, empty where it is not registered: its deployment, still without traffic, is no champion.
        base: the base model's id; an endpoint that serves it needs no look-up.
        data_fingerprint: of the candidate's data.

    Raises:
        AzureError, CredentialError: the registry can't be read.
    """
    if live.model is None:
        others = [model for model in live.idle if model.lower() != own]
        return Champion(model="", lost=_idle(endpoint, others) if others else "")
    if live.model.lower() == base.lower():
        return Champion(model=base, notes=_split(endpoint, live))
    try:
        tags = _tags(workspace, live.model)
    except NotFound:
        return Champion(model=live.model, lost=_lost(endpoint, live.model), notes=(*_split(endpoint, live), *_data(live.model, {}, "")))
    return Champion(model=live.model, notes=(*_split(endpoint, live), *_data(live.model, tags, data_fingerprint)))


def _tags(workspace: Workspace, model: str) -> Mapping[str, str]:
    """The tags of a model whose files are there.

    Raises:
        NotFound: there is no such model, its files are gone, or the id is none that this workspace can look up.
    """
    if match := _OF_REGISTRY.fullmatch(model):
        return workspace.assets.base_model(match["registry"], match["name"], match["version"]).tags
    match = _OF_WORKSPACE.fullmatch(model)
    if match is None or match["workspace"].lower() != workspace.arm_id.lower():
        raise NotFound(f"{model} is no model of this workspace or of a registry.")
    found = workspace.assets.model(match["name"], match["version"])
    if not Outputs(workspace).has_files(found.path):
        raise NotFound(f"The files of model {model} are gone from {found.path}.")
    return found.tags


def _lost(endpoint: str, model: str) -> str:
    return (
        f"Endpoint {endpoint} serves {model}, which can't be read any more (its registration or its files were deleted, or it is no model"
        " of this workspace), and no equal earlier score of it is left. Register it again under this name and version, or give the"
        " traffic to a deployment whose model is registered (`mlops rollback`), and run `mlops evaluate-gate` again."
    )


def _idle(endpoint: str, models: Sequence[str]) -> str:
    return (
        f"Endpoint {endpoint} gives no traffic to any of its deployments (models: {', '.join(models)}), so it can't be told whether one"
        " of them is the champion. Give the traffic back to the one that is; if none ever took traffic, delete them (`mlops teardown`"
        " deletes those of this pipeline). Then run `mlops evaluate-gate` again."
    )


def _split(endpoint: str, live: Live) -> tuple[str, ...]:
    if len(live.shares) == 1:
        return ()
    shares = ", ".join(f"{model} {share} %" for model, share in sorted(live.shares.items(), key=lambda item: (-item[1], item[0])))
    return (f"Endpoint {endpoint} splits its traffic: {shares}. The champion is the one with more than half.",)


def _data(model: str, tags: Mapping[str, str], fingerprint: str) -> tuple[str, ...]:
    # Rows that it has seen make it look better, and nothing else does: the doubt is against the candidate.
    doubt = "so rows of today's suites may have been among its training rows. That could only favour it"
    trained_on = tags.get(DATA_FINGERPRINT)
    if not trained_on:
        return (f"Which data the champion {model} was trained on is unknown (no tag {DATA_FINGERPRINT} can be read), {doubt}.",)
    if trained_on != fingerprint:
        return (f"The champion {model} was trained on other data than the candidate ({trained_on}, not {fingerprint}), {doubt}.",)
    return ()
