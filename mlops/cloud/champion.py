"""The champion: the model that production serves now, whether it can still be read, and what it was trained on."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mlops.cloud.endpoint_views import LiveModels
from mlops.cloud.errors import NotFound
from mlops.cloud.tags import DATA_FINGERPRINT
from mlops.cloud.workspace import Workspace

__all__ = ["Champion", "find", "look_up"]

_OF_WORKSPACE = re.compile(
    r"(?:azureml:)?(?P<workspace>/subscriptions/.+)/models/(?P<name>[^/]+)/versions/(?P<version>[^/]+)", re.IGNORECASE
)
_OF_REGISTRY = re.compile(
    r"azureml://registries/(?P<registry>[^/]+)/models/(?P<name>[^/]+)/versions/(?P<version>[^/]+)", re.IGNORECASE
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Champion:
    """The model that a candidate is compared with."""

    model: str
    """Full id; empty if no deployment takes traffic."""
    identity: str = ""
    """Distinguishes it from another model with the same id; empty if unreadable, and for a registry's models, which can't change."""
    unavailable: str = ""
    """Why scoring jobs can't read it, and what to do; empty if they can, or if there is no champion."""
    notes: tuple[str, ...] = ()
    """Notes for readers of the comparison."""


def find(workspace: Workspace, endpoint: str, live: LiveModels, *, own: str, base: str, data_fingerprint: str) -> Champion:
    """Look up the live model in the registry.

    Only "it does not exist" (HTTP 404) makes it unavailable. Any other problem is an error: a temporary failure must not make it easier for
    the candidate.

    Args:
        workspace: where the endpoint is.
        endpoint: its name.
        live: the models that it serves.
        own: the candidate's id in lower case, empty if it is not registered: its own deployment without traffic is not a champion.
        base: the base model's id; an endpoint that serves it needs no look-up.
        data_fingerprint: of the candidate's data.

    Raises:
        AzureError, CredentialError: the registry can't be read.
    """
    if live.model is None:
        others = [model for model in live.standby if model.lower() != own]
        return Champion(model="", unavailable=_explain_idle(endpoint, others) if others else "")
    if live.model.lower() == base.lower():
        return Champion(model=base, notes=_note_split(endpoint, live))
    try:
        identity, tags = look_up(workspace, live.model)
    except NotFound:
        return Champion(
            model=live.model,
            unavailable=_explain_missing(endpoint, live.model),
            notes=(*_note_split(endpoint, live), *_note_data(live.model, {}, "")),
        )
    return Champion(
        model=live.model, identity=identity, notes=(*_note_split(endpoint, live), *_note_data(live.model, tags, data_fingerprint))
    )


def look_up(workspace: Workspace, model: str) -> tuple[str, Mapping[str, str]]:
    """Return the identity and tags of a model whose files exist.

    Raises:
        NotFound: there is no such model, its files are gone, or this workspace can't look the id up.
    """
    if match := _OF_REGISTRY.fullmatch(model):
        return "", workspace.assets.get_base_model(match["registry"], match["name"], match["version"]).tags
    match = _OF_WORKSPACE.fullmatch(model)
    if match is None or match["workspace"].lower() != workspace.session.arm_id.lower():
        raise NotFound(f"{model} is not a model of this workspace or of a registry.")
    registered = workspace.assets.get_model(match["name"], match["version"])
    if not workspace.outputs.has_files(registered.path):
        raise NotFound(f"The files of model {model} are gone from {registered.path}.")
    return registered.identity, registered.tags


def _explain_missing(endpoint: str, model: str) -> str:
    return (
        f"Endpoint {endpoint} serves {model}, which can no longer be read (its registration or its files were deleted, or it is not a model"
        " of this workspace), and there is no earlier score of it to reuse. Register it again under this name and version, or move the"
        " traffic to a deployment whose model is registered (`mlops rollback`), and run `mlops evaluate-gate` again."
    )


def _explain_idle(endpoint: str, models: Sequence[str]) -> str:
    return (
        f"Endpoint {endpoint} sends no traffic to any of its deployments (models: {', '.join(models)}), so it is unclear whether one of"
        " them is the champion. Move the traffic back to the champion; if none of them ever took traffic, delete them (`mlops teardown`"
        " deletes those of this pipeline). Then run `mlops evaluate-gate` again."
    )


def _note_split(endpoint: str, live: LiveModels) -> tuple[str, ...]:
    if len(live.shares) == 1:
        return ()
    shares = ", ".join(f"{model} {share} %" for model, share in sorted(live.shares.items(), key=lambda item: (-item[1], item[0])))
    return (f"Endpoint {endpoint} splits its traffic: {shares}. The champion is the one with more than half.",)


def _note_data(model: str, tags: Mapping[str, str], fingerprint: str) -> tuple[str, ...]:
    # Rows that the champion has seen in training improve its scores, never the candidate's.
    doubt = "so rows of today's suites may have been among its training rows. That could only favor it"
    trained_on = tags.get(DATA_FINGERPRINT)
    if not trained_on:
        return (f"The data that the champion {model} was trained on is unknown (no tag {DATA_FINGERPRINT} can be read), {doubt}.",)
    if trained_on != fingerprint:
        return (f"The champion {model} was trained on other data than the candidate ({trained_on}, not {fingerprint}), {doubt}.",)
    return ()
