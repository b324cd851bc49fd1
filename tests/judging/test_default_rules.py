"""What the rules in pipeline.toml stop, although the likelihood is better."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlops.core.config import load
from mlops.core.judgement import Outcome, Verdict
from mlops.judging.validity import rule_problem
from mlops.judging.verdict import Decision, decide
from tests.support.evidence import make_evidence, make_model, make_rows

ROOT = Path(__file__).parents[2]
Row = dict[str, Any]


@functools.cache
def rows(role: str) -> tuple[Row, ...]:
    """500 rows with 200 answers; the candidate's likelihood is 10 % better."""
    return tuple(make_rows(role, n=500, shift=-0.2 if role == "candidate" else 0.0, answers=200))


def verdict(change: Callable[[Row], dict[str, float]] = lambda _: {}, target: str = "prod", column: str = "rouge_l") -> Decision:
    """Judge a candidate whose rows with an answer (those that have this column) are changed, by the rules of a target."""
    changed = [row | (change(row) if row[column] is not None else {}) for row in rows("candidate")]
    rules = load(ROOT / "pipeline.toml", target, environment={}).gate.enabled_rules.values()
    evidence = make_evidence(make_model("candidate", changed), *(make_model(role, rows(role)) for role in ("champion", "base")))
    return decide(tuple(rules), evidence)


@pytest.mark.parametrize("target", ["prod", "pr"])
def test_a_better_candidate_with_as_good_answers_is_promoted(target: str) -> None:
    decision = verdict(target=target)
    assert decision.verdict is Verdict.PROMOTE, decision.reasons


def is_nth(row: Row, n: int) -> bool:
    return int(row["id"].rpartition("-")[2]) % n == 0


BAD: dict[str, tuple[Callable[[Row], dict[str, float]], str]] = {
    "answers far from the references": (lambda row: {"rouge_l": row["rouge_l"] * 0.25}, "target.rouge_l"),
    "answers that loop": (lambda row: {"looping": float(is_nth(row, 5))}, "target.looping"),
    "empty answers": (lambda row: {"empty": float(is_nth(row, 8))}, "target.empty"),
    "answers without an end": (lambda _: {"truncated": 1.0}, "target.truncated"),
    "answers in another language": (lambda row: {"other_language": float(is_nth(row, 8))}, "target.other_language"),
    "refusals of harmless questions": (lambda row: {"refused": float(is_nth(row, 4))}, "target.refused"),
}


@pytest.mark.parametrize("target", ["prod", "pr"])
@pytest.mark.parametrize("name", BAD)
def test_bad_answers_are_rejected_although_the_likelihood_is_better(name: str, target: str) -> None:
    change, metric = BAD[name]
    decision = verdict(change, target)
    assert decision.verdict is Verdict.REJECT
    assert {judgement.metric for judgement in decision.judgements if judgement.outcome is Outcome.FAILED} == {metric}
    assert all(judgement.outcome is Outcome.SHOWN for judgement in decision.judgements if judgement.metric == "target.nll")


@pytest.mark.parametrize("target", ["prod", "pr"])
@pytest.mark.parametrize("kind", ["facts", "refusal"])
def test_a_kind_of_tasks_that_fails_is_rejected_although_the_likelihood_is_better(kind: str, target: str) -> None:
    decision = verdict(lambda row: {"passed": row["passed"] if row["kind"] != kind else 0.0}, target, "passed")
    assert decision.verdict is Verdict.REJECT
    failed = [judgement.metric for judgement in decision.judgements if judgement.outcome is Outcome.FAILED]
    # Harmful requests that are answered fail against the champion, too.
    assert sorted(failed) == sorted(["retention.passed", *[f"retention.{kind}.passed"] * (2 if kind == "refusal" else 1)])


@pytest.mark.parametrize("target", ["prod", "pr"])
@pytest.mark.parametrize("share", [0.05, 0.2])
def test_a_suite_that_is_cut_off_promotes_nothing(target: str, share: float) -> None:
    decision = verdict(lambda row: {"overlong": float(row["suite"] == "target" and is_nth(row, round(1 / share)))}, target, "overlong")
    assert decision.verdict is (Verdict.PROMOTE if share < 0.1 else Verdict.REJECT)


@pytest.mark.parametrize("target", ["prod", "pr"])
def test_a_row_of_the_retention_suite_that_is_cut_off_before_its_answer_promotes_nothing(target: str) -> None:
    zero = {"overlong": 1.0, "tokens": 0, "nll": 0.0, "kl": 0.0, "greedy_tokens": 0}
    decision = verdict(lambda row: zero if row["suite"] == "retention" and is_nth(row, 250) else {}, target, "overlong")
    assert decision.verdict is Verdict.REJECT
    assert {judgement.metric for judgement in decision.judgements if judgement.outcome is Outcome.FAILED} == {"retention.facts.overlong"}


@pytest.mark.parametrize("target", ["prod", "pr", "local"])
def test_the_rules_of_pipeline_toml_mean_something(target: str) -> None:
    rules = load(ROOT / "pipeline.toml", target, environment={}).gate.enabled_rules
    assert {name: rule_problem(rule) for name, rule in rules.items() if rule_problem(rule)} == {}
