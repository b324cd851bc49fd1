"""The anchor: the best model that an endpoint has served, as the endpoint's tags say.

A rule that compares with the champion may tolerate a small loss, and the next candidate is compared with that slightly worse champion. The
anchor stays until a candidate is shown to be better, so many small losses can't add up to more than the margin of a rule about it.
"""

from __future__ import annotations

from mlops.cloud.champion import Champion, look_up
from mlops.cloud.endpoint_views import EndpointView
from mlops.cloud.errors import NotFound
from mlops.cloud.tags import ANCHOR, ANCHOR_ID, shorten_model
from mlops.cloud.workspace import Workspace
from mlops.core.judgement import Judgement, Outcome
from mlops.core.records import Evaluated, Judged, Registered

__all__ = ["ANCHOR_TAGS", "find_anchor", "promotion_tags", "read_anchor", "rollback_tags"]

ANCHOR_TAGS = (ANCHOR, ANCHOR_ID)


def read_anchor(workspace: Workspace, endpoint: EndpointView) -> str:
    """Return the full id of the anchor, or an empty string if it is the model that is live."""
    model = endpoint.tags.get(ANCHOR, "")
    name, _, version = model.partition(":")
    return model if "/" in model or not version else f"{workspace.session.arm_id}/models/{name}/versions/{version}"


def find_anchor(workspace: Workspace, endpoint: EndpointView | None, champion: Champion) -> Champion | None:
    """Look up the anchor in the registry. Return None if it is the champion.

    Raises:
        AzureError, CredentialError: the registry can't be read.
    """
    model = read_anchor(workspace, endpoint) if endpoint is not None else ""
    if endpoint is None or not model or not champion.model:
        return None
    recorded = endpoint.tags.get(ANCHOR_ID, "")
    if model.lower() == champion.model.lower() and recorded == champion.identity:
        return None
    try:
        identity, _ = look_up(workspace, model)
    except NotFound:
        return Champion(model=model, unavailable=_explain(endpoint.name, model, "can no longer be read"))
    if identity != recorded:
        return Champion(model=model, unavailable=_explain(endpoint.name, model, "has been deleted and registered again"))
    return Champion(model=model, identity=identity)


def _explain(endpoint: str, model: str, what: str) -> str:
    return (
        f"The best model that endpoint {endpoint} has served is {model}, which {what}, and there is no earlier score of it to reuse."
        f" Register it again under this name and version; or, to compare with the champion alone from now on, remove the tags"
        f" {ANCHOR} and {ANCHOR_ID} of the endpoint. Then run `mlops evaluate-gate` again."
    )


def promotion_tags(judged: Judged, evaluated: Evaluated, registered: Registered) -> dict[str, str]:
    """Return the endpoint's tags after a promotion: the candidate is the anchor if it is shown to be better than the one before.

    Without a rule about the anchor, there is none.
    """
    compared = [judgement for judgement in judged.judgements if judgement.baseline == "anchor" and judgement.critical]
    if not compared:
        return dict.fromkeys(ANCHOR_TAGS, "")
    all_hold = all(judgement.outcome is Outcome.SHOWN for judgement in compared)
    is_better = all_hold and any(_shown_gain(judgement) > 0 for judgement in compared)
    if evaluated.anchor and not is_better:
        return {}
    champion = evaluated.models.get("champion")
    best = registered if is_better or champion is None else champion
    return {ANCHOR: shorten_model(best.model), ANCHOR_ID: best.identity}


def _shown_gain(judgement: Judgement) -> float:
    """Return the least by which the candidate is better: the end of the interval, or the difference of a rule without a test."""
    low = high = judgement.difference if judgement.test == "none" else None
    if judgement.interval is not None:
        low, high = judgement.interval.low, judgement.interval.high
    if low is None or high is None:
        return 0.0
    return -high if judgement.direction == "lower" else low


def rollback_tags(workspace: Workspace, endpoint: EndpointView, replaced: str) -> dict[str, str]:
    """Return the endpoint's tags after a rollback: a model that was rolled back is not the best. ``replaced``: its full id."""
    is_anchor = read_anchor(workspace, endpoint).lower() == replaced.lower()
    return dict.fromkeys(ANCHOR_TAGS, "") if is_anchor else {}
