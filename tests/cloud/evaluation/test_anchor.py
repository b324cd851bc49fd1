"""The best model that an endpoint has served is scored too, and moves only when a candidate is shown to be better."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest

from mlops.cloud.anchor import promotion_tags, read_anchor, rollback_tags
from mlops.cloud.endpoint_views import EndpointView
from mlops.cloud.tags import ANCHOR, ANCHOR_ID
from mlops.cloud.workspace import Workspace
from mlops.core.judgement import Interval, Judgement, Outcome
from mlops.core.records import Evaluated, Judged, ModelScores, Registered
from mlops.judging.judge import gather_evidence
from mlops.judging.rules import judge_rule
from tests.support.evaluation import ALL, MODEL_NAME, VERSIONS, Evaluation, Make
from tests.support.evidence import make_evidence, make_rule

RULE = "gate.rules.drift={metric='target.nll', direction='lower', baseline='anchor', margin=0.02}"
GREEN = f"{MODEL_NAME}:{VERSIONS['green']}"


@contextmanager
def anchored(evaluation: Evaluation, model: str, identity: str | None = None) -> Iterator[None]:
    """Say on the endpoint that this model is the best; its real identity by default."""
    name, version = model.split(":")
    identity = evaluation.workspace.assets.get_model(name, version).identity if identity is None else identity
    endpoints, endpoint = evaluation.workspace.endpoints, evaluation.config.champion_endpoint
    endpoints.set_traffic(endpoint, endpoints.get(endpoint).traffic, tags={ANCHOR: model, ANCHOR_ID: identity})
    try:
        yield
    finally:
        endpoints.set_traffic(endpoint, endpoints.get(endpoint).traffic, tags={ANCHOR: "", ANCHOR_ID: ""}, allow_none=True)


def test_the_anchor_is_scored_if_a_rule_compares_with_it(make: Make) -> None:
    evaluation = make(RULE, live="blue")
    with anchored(evaluation, GREEN):
        record = evaluation.evaluate()
    assert evaluation.scored() == sorted([*ALL, "anchor"])
    assert (record.anchor, record.models["anchor"].model) == (evaluation.model("green"), evaluation.model("green"))
    assert record.champion == evaluation.model("blue")
    evidence = gather_evidence(evaluation.config, evaluation.run, record, evaluation.validated)
    assert evidence.reference(evaluation.config.gate.rules["drift"]) == "anchor"


def test_the_anchor_costs_nothing_without_a_rule_or_if_it_is_live(make: Make) -> None:
    evaluation = make(live="blue")
    with anchored(evaluation, GREEN):
        assert evaluation.evaluate().anchor == ""
    evaluation = make(RULE, live="green", folder="green")
    with anchored(evaluation, GREEN):
        record = evaluation.evaluate()
    assert (record.anchor, "anchor" in record.models) == ("", False)
    evidence = gather_evidence(evaluation.config, evaluation.run, record, evaluation.validated)
    assert evidence.reference(evaluation.config.gate.rules["drift"]) == "champion"
    assert "anchor" not in evaluation.scored()


@pytest.mark.parametrize(
    ("model", "identity", "says"), [(GREEN, "2020-01-01T00:00:00+00:00", "registered again"), ("gone:7", "2020", "no longer be read")]
)
def test_an_anchor_that_is_gone_is_missing_and_no_other_model_replaces_it(model: str, identity: str, says: str, make: Make) -> None:
    evaluation = make(RULE, live="blue")
    with anchored(evaluation, model, identity):
        record = evaluation.evaluate()
    assert says in record.missing["anchor"]
    assert f"remove the tags {ANCHOR}" in record.missing["anchor"]
    evidence = gather_evidence(evaluation.config, evaluation.run, record, evaluation.validated)
    judgement = judge_rule(evaluation.config.gate.rules["drift"], evidence)
    assert (judgement.outcome, judgement.compared_with) == (Outcome.INVALID, "anchor")


def test_scores_of_the_anchor_that_were_deleted_or_exchanged_are_noticed(make: Make) -> None:
    evaluation = make(RULE, live="blue")
    with anchored(evaluation, GREEN):
        record = evaluation.evaluate()
    rule = evaluation.config.gate.rules["drift"]
    for change, says in (
        ({"models": {role: scores for role, scores in record.models.items() if role != "anchor"}}, "has no scores of it"),
        ({"anchor": "another"}, "was evaluated as the anchor"),
    ):
        evidence = gather_evidence(evaluation.config, evaluation.run, record.model_copy(update=change), evaluation.validated)
        judgement = judge_rule(rule, evidence)
        assert judgement.outcome is Outcome.INVALID
        assert says in judgement.reason


WORKSPACE = cast(Workspace, SimpleNamespace(session=SimpleNamespace(arm_id="/subscriptions/s/workspaces/w")))
NEW = Registered(name="chat", version="9", model="/subscriptions/s/workspaces/w/models/chat/versions/9", identity="of 9", tags={})
TO_CANDIDATE = {ANCHOR: "chat:9", ANCHOR_ID: "of 9"}
TO_CHAMPION = {ANCHOR: "chat:8", ANCHOR_ID: "of 8"}


def evaluated(champion: str = "8", anchor: str = "") -> Evaluated:
    path = "/subscriptions/s/workspaces/w/models/chat/versions/"
    scores = ModelScores(
        role="champion", model=path + champion, identity=f"of {champion}", weights_digest="w", job="j", mlflow_run_id="r", metrics={},
        rows={}, suite_digests={}, scores="scores.champion",
    )  # fmt: skip
    return Evaluated(
        evaluation_version="v",
        models={"champion": scores} if champion else {},
        champion=path + champion if champion else "",
        anchor=path + anchor if anchor else "",
    )


def judged(interval: tuple[float, float] | None, outcome: Outcome = Outcome.SHOWN, **changes: Any) -> Judged:
    fields: dict[str, Any] = {
        "rule": "drift", "metric": "target.nll", "direction": "lower", "test": "paired_bootstrap", "baseline": "anchor",
        "compared_with": "anchor", "critical": True, "candidate": 1.0, "reference": 1.1, "difference": -0.1, "margin": 0.02, "n": 500,
        "outcome": outcome, "reason": "", **changes,
        "interval": Interval(low=interval[0], high=interval[1], confidence=0.95) if interval else None,
    }  # fmt: skip
    return Judged(
        target="prod",
        verdict="PROMOTE",
        reasons=(),
        judgements=(Judgement(**fields),),
        candidate_job="j",
        candidate_model="m",
        first_run=False,
    )


@pytest.mark.parametrize(
    ("judgement", "evaluation", "tags"),
    [
        (judged((-0.2, -0.01)), evaluated(anchor="7"), TO_CANDIDATE),
        (judged((-0.2, 0.01)), evaluated(anchor="7"), {}),
        (judged((-0.2, 0.01)), evaluated(), TO_CHAMPION),
        (judged((0.01, 0.2), direction="higher"), evaluated(anchor="7"), TO_CANDIDATE),
        (judged((-0.2, -0.01), direction="higher"), evaluated(anchor="7"), {}),
        (judged((-0.2, -0.01), Outcome.UNPROVEN), evaluated(anchor="7"), {}),
        (judged((-0.2, 0.01)), evaluated(champion=""), TO_CANDIDATE),
        (judged(None, test="none"), evaluated(anchor="7"), TO_CANDIDATE),
        (judged(None), evaluated(anchor="7"), {}),
        (judged((-0.2, -0.01), baseline="champion"), evaluated(), {ANCHOR: "", ANCHOR_ID: ""}),
        (judged((-0.2, -0.01), critical=False), evaluated(), {ANCHOR: "", ANCHOR_ID: ""}),
    ],
    ids=["better", "equal", "equal to the champion, which is the best", "higher", "worse", "better but too good to be true", "first run",
         "two numbers", "no interval", "no rule about it", "only reported"],
)  # fmt: skip
def test_the_anchor_moves_only_to_a_candidate_that_is_shown_to_be_better(
    judgement: Judged, evaluation: Evaluated, tags: dict[str, str]
) -> None:
    assert promotion_tags(judgement, evaluation, NEW) == tags


def test_a_model_that_was_rolled_back_is_not_an_anchor() -> None:
    endpoint = EndpointView(name="e", state="Succeeded", scoring_uri="", auth_mode="key", traffic={}, tags=TO_CANDIDATE)
    assert read_anchor(WORKSPACE, endpoint) == NEW.model
    assert rollback_tags(WORKSPACE, endpoint, NEW.model.upper()) == {ANCHOR: "", ANCHOR_ID: ""}
    assert rollback_tags(WORKSPACE, endpoint, "another") == {}


def test_without_an_anchor_the_champion_is_the_best() -> None:
    judgement = judge_rule(make_rule(baseline="anchor", test="paired_bootstrap"), make_evidence())
    assert (judgement.outcome, judgement.baseline, judgement.compared_with) == (Outcome.SHOWN, "anchor", "champion")
    assert judgement.reason.endswith("The champion is the best model so far.")
