"""Invalid evidence: every problem has its own message, and none promotes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from mlops.core.judgement import Outcome, Verdict
from mlops.core.settings import Rule
from mlops.judging.evidence import Evidence, ModelEvidence, Rows
from mlops.judging.rules import judge_rule
from mlops.judging.validity import rule_problem
from mlops.judging.verdict import combine, decide
from tests.support.evidence import CANDIDATE, DIGESTS, RULES, change_model, make_evidence, make_model, make_rows, make_rule


def without(role: str) -> Evidence:
    return replace(make_evidence(), models={name: evidence for name, evidence in make_evidence().models.items() if name != role})


def with_rows(by_suite: dict[str, list[dict[str, Any]]]) -> Evidence:
    """Make evidence in which all models have these rows in some suites."""
    evidence = make_evidence()
    columns = {suite: Rows.of(rows) for suite, rows in by_suite.items()}
    return replace(evidence, models={role: replace(each, rows={**each.rows, **columns}) for role, each in evidence.models.items()})


def without_metric(metric: str, role: str = "candidate") -> ModelEvidence:
    model = change_model(role=role)
    return replace(model, metrics={name: value for name, value in model.metrics.items() if name != metric})


def with_metric(metric: str, value: float, role: str = "candidate") -> ModelEvidence:
    model = change_model(role=role)
    return replace(model, metrics={**model.metrics, metric: value})


def with_nll(value: float, role: str = "candidate", **fields: Any) -> ModelEvidence:
    return change_model(lambda row: row.update(nll=value) if row["id"] == "target-00007" else None, role, **fields)


def without_row(role: str) -> ModelEvidence:
    return make_model(role, [row for row in make_rows(role, shift=-0.4 if role == "candidate" else 0) if row["id"] != "target-00003"])


def with_duplicate(role: str) -> ModelEvidence:
    rows = make_rows(role, shift=-0.4 if role == "candidate" else 0)
    return make_model(role, [*rows, rows[3]])


NLL = make_rule(baseline="champion", test="paired_bootstrap")
INVALID: dict[str, tuple[Rule, Callable[[], Evidence], str]] = {
    "metric missing": (NLL, lambda: make_evidence(without_metric("target.nll")), "target.nll of the candidate is missing"),
    "NaN reported": (NLL, lambda: make_evidence(with_metric("target.nll", math.nan)), "target.nll of the candidate is nan"),
    "infinity reported": (NLL, lambda: make_evidence(with_metric("target.nll", -math.inf)), "of the candidate is -inf"),
    "NaN of the champion": (NLL, lambda: make_evidence(champion=with_metric("target.nll", math.nan, "champion")), "of the champion is nan"),
    "infinite champion": (NLL, lambda: make_evidence(champion=with_metric("target.nll", math.inf, "champion")), "of the champion is inf"),
    "infinite perplexity of the champion": (
        make_rule("target.perplexity", baseline="champion"),
        lambda: make_evidence(champion=change_model(lambda row: row.update(nll=1e3 * row["tokens"]), "champion")),
        "target.perplexity of the champion is inf",
    ),
    "NaN in a row": (NLL, lambda: make_evidence(with_nll(math.nan)), "is nan"),
    "infinity in a champion's row": (NLL, lambda: make_evidence(champion=with_nll(math.inf, "champion")), "of the champion is inf"),
    "negative loss in a row": (NLL, lambda: make_evidence(with_nll(-5.0)), "an impossible nll"),
    "metric not from its rows": (NLL, lambda: make_evidence(with_metric("target.nll", 0.5)), "does not follow from its rows"),
    "row missing": (NLL, lambda: make_evidence(without_row("candidate")), "different rows: 1 rows occur in only one of them"),
    "champion's row missing": (NLL, lambda: make_evidence(champion=without_row("champion")), "different rows"),
    "row twice": (NLL, lambda: make_evidence(with_duplicate("candidate")), "duplicate rows"),
    "foreign row": (
        NLL,
        lambda: make_evidence(change_model(lambda row: row.update(id="foreign") if row["id"] == "target-00003" else None)),
        "different rows: 2 rows occur in only one of them",
    ),
    "other tokens": (
        NLL,
        lambda: make_evidence(change_model(lambda row: row.update(input="other") if row["id"] == "target-00003" else None)),
        "read the rows as different tokens",
    ),
    "other token count": (
        NLL,
        lambda: make_evidence(change_model(lambda row: row.update(tokens=row["tokens"] + 1) if row["id"] == "target-00003" else None)),
        "read the rows as different tokens",
    ),
    "other answers": (
        make_rule("target.rouge_l", "higher", baseline="champion"),
        lambda: make_evidence(change_model(lambda row: row.update(rouge_l=None) if row["id"] == "target-00003" else None)),
        "answered different rows",
    ),
    "other suite": (NLL, lambda: make_evidence(change_model(suite_digests={**DIGESTS, "target": "x" * 64})), "a different target suite"),
    "champion's other suite": (
        NLL,
        lambda: make_evidence(champion=change_model(role="champion", suite_digests={**DIGESTS, "target": "x" * 64})),
        "the champion was scored on a different target suite",
    ),
    "suite not frozen": (NLL, lambda: replace(make_evidence(), suite_digests={}), "froze no target suite"),
    "other kinds": (
        make_rule("retention.nll", baseline="base", margin=0.1),
        lambda: make_evidence(change_model(lambda row: row.update(kind="poems") if row["id"] == "retention-00003" else None)),
        "rows of different kinds",
    ),
    "ROUGE above 1": (
        make_rule("target.rouge_l", "higher", baseline="champion"),
        lambda: make_evidence(change_model(lambda row: row.update(rouge_l=1.5) if row["id"] == "target-00003" else None)),
        "an impossible rouge_l",
    ),
    "no rows": (NLL, lambda: make_evidence(change_model(rows={})), "no per-row scores"),
    "overlap": (NLL, lambda: replace(make_evidence(), overlapping={"target": "3 rows"}), "overlaps the training data: 3 rows"),
    "same model": (NLL, lambda: make_evidence(change_model(model="azureml://models/champion")), "the candidate is the champion: both are"),
    "same run": (NLL, lambda: make_evidence(change_model(run="run-champion")), "the candidate is the champion: both were scored by"),
    "same weights": (NLL, lambda: make_evidence(change_model(weights_digest="weights-champion")), "their weights are equal"),
    "same weights as the base": (NLL, lambda: make_evidence(change_model(weights_digest="weights-base")), "the candidate is the base"),
    "same scores": (NLL, lambda: make_evidence(champion=make_model("champion", CANDIDATE)), "they have the same score in every row"),
    "unknown weights": (NLL, lambda: make_evidence(change_model(weights_digest="")), "the candidate can't be identified"),
    "unknown metric": (
        make_rule("target.accuracy", baseline="champion"),
        make_evidence,
        "no evaluation computes a metric called 'target.accuracy'",
    ),
    "unknown suite": (make_rule("test.nll", baseline="champion"), make_evidence, "no evaluation computes"),
    "unknown kind": (make_rule("retention.poems.nll", baseline="base"), make_evidence, "retention.poems.nll of the candidate is missing"),
    "requires nothing": (make_rule(), make_evidence, "requires nothing"),
    "margin without baseline": (make_rule(ceiling=9.0, margin=0.1), make_evidence, "a margin but no baseline"),
    "test without baseline": (make_rule(ceiling=9.0, test="paired_bootstrap"), make_evidence, "a test but no baseline"),
    "gain without baseline": (make_rule(ceiling=9.0, max_gain=0.1), make_evidence, "a max_gain but no baseline"),
    "mcnemar of a loss": (make_rule(baseline="champion", test="mcnemar"), make_evidence, "nll has none: judge passed"),
    "mcnemar with a margin": (
        make_rule("retention.passed", "higher", baseline="champion", margin=0.01, test="mcnemar"),
        make_evidence,
        'supports no margin: set margin = 0, or use test = "paired_bootstrap"',
    ),
    "wilcoxon of a binary metric": (
        make_rule("retention.passed", "higher", baseline="champion", test="wilcoxon"),
        make_evidence,
        'use test = "mcnemar", "tango" or "paired_bootstrap"',
    ),
    "tail without a share": (
        make_rule(baseline="champion", margin=1.0, margin_kind="absolute", test="tail"),
        make_evidence,
        "needs max_share",
    ),
    "share without a tail": (make_rule(baseline="champion", max_share=0.1), make_evidence, "no other test has one"),
    "relative tail": (make_rule(baseline="champion", margin=0.1, test="tail", max_share=0.1), make_evidence, 'margin_kind = "absolute"'),
    "tail without a margin": (
        make_rule(baseline="champion", margin_kind="absolute", test="tail", max_share=0.1),
        make_evidence,
        "set a margin > 0",
    ),
    "tail of a binary metric": (
        make_rule("retention.passed", "higher", baseline="champion", margin=0.5, margin_kind="absolute", test="tail", max_share=0.1),
        make_evidence,
        "needs differences of any size",
    ),
    "wilcoxon without baseline": (make_rule(ceiling=9.0, test="wilcoxon"), make_evidence, "a test but no baseline"),
    "more first choices than tokens": (
        make_rule("target.token_accuracy", "higher", baseline="champion"),
        lambda: make_evidence(
            change_model(lambda row: row.update(greedy_tokens=row["tokens"] + 1) if row["id"] == "target-00003" else None)
        ),
        "an impossible token_accuracy",
    ),
    "more than one passed answer to a row": (
        make_rule("retention.passed", "higher", baseline="champion"),
        lambda: make_evidence(change_model(lambda row: row.update(passed=1.5) if row["id"] == "retention-00003" else None)),
        "an impossible passed",
    ),
    "every kind of a suite without kinds": (
        make_rule("target.*.nll", baseline="champion"),
        make_evidence,
        "60 rows of the target suite have no kind, so it can't be judged kind by kind",
    ),
    "every kind of a suite without rows": (
        make_rule("retention.*.nll", baseline="base"),
        lambda: with_rows({"retention": []}),
        "the retention suite has no kinds",
    ),
    "champion could not be evaluated": (
        NLL,
        lambda: replace(without("champion"), missing={"champion": "its endpoint has no model"}),
        "the champion was not evaluated: its endpoint has no model",
    ),
    "champion half evaluated": (
        NLL,
        lambda: replace(make_evidence(), missing={"champion": "its rows are of another day"}),
        "the champion was not evaluated: its rows are of another day",
    ),
    "base could not be evaluated": (
        make_rule(ceiling=9.0),
        lambda: replace(without("base"), missing={"base": "gone from the registry"}),
        "the base was not evaluated: gone from the registry",
    ),
    "infinity in a row": (NLL, lambda: make_evidence(with_nll(math.inf)), "target.nll of the candidate is inf"),
    "NaN in a row that is not reported": (
        NLL,
        lambda: make_evidence(with_nll(math.nan, metrics=change_model().metrics)),
        "an impossible nll",
    ),
    "champion's metric missing": (
        NLL,
        lambda: make_evidence(champion=without_metric("target.nll", "champion")),
        "target.nll of the champion is missing",
    ),
    "champion's row twice": (
        NLL,
        lambda: make_evidence(champion=with_duplicate("champion")),
        "the champion has duplicate rows on the target suite",
    ),
    "same model in other letters": (
        NLL,
        lambda: make_evidence(change_model(model="azureml://MODELS/Champion")),
        "the candidate is the champion: both",
    ),
    "its own base": (
        make_rule(ceiling=9.0),
        lambda: make_evidence(change_model(run="run-base")),
        "the candidate is the base: both were scored by run run-base",
    ),
    "bootstrap of a perplexity": (
        make_rule("target.perplexity", baseline="champion", test="paired_bootstrap"),
        make_evidence,
        "perplexity has no per-row scores",
    ),
    "relative to the drift of the base from itself": (
        make_rule("retention.kl_base", baseline="base"),
        make_evidence,
        "relative to 0 is meaningless",
    ),
    "relative to zero": (
        make_rule("retention.passed", "higher", baseline="champion"),
        lambda: make_evidence(champion=change_model(lambda row: row.update(passed=row["passed"] and 0.0), "champion")),
        "retention.passed of the champion is 0, and a margin relative to 0 is meaningless",
    ),
    "nothing between the bounds": (make_rule(floor=2.0, ceiling=1.0), make_evidence, "nothing lies between the floor 2 and the ceiling 1"),
    "base not evaluated": (NLL, lambda: without("base"), "the base was not evaluated."),
    "candidate not evaluated": (NLL, lambda: without("candidate"), "the candidate was not evaluated."),
}


@pytest.mark.parametrize(("factor", "outcome"), [(1 + 1e-7, Outcome.SHOWN), (1 - 1e-7, Outcome.SHOWN), (1 - 1e-4, Outcome.INVALID)])
def test_a_reported_value_may_differ_from_its_rows_by_rounding(factor: float, outcome: Outcome) -> None:
    value = change_model().metrics["target.nll"]
    assert judge_rule(NLL, make_evidence(with_metric("target.nll", value * factor))).outcome is outcome


def test_rows_without_tokens_do_not_count() -> None:
    def empty(row: dict[str, Any]) -> None:
        if row["id"] in ("target-00003", "target-00004"):
            row.update(tokens=0, nll=0.0, greedy_tokens=0)

    judgement = judge_rule(NLL, make_evidence(*(change_model(empty, role) for role in ("candidate", "champion", "base"))))
    assert (judgement.outcome, judgement.n) == (Outcome.SHOWN, 58)


@pytest.mark.parametrize(
    ("rule", "problem"),
    [
        (make_rule("target.empty", baseline="base", margin=0.25, margin_kind="absolute"), None),
        (make_rule("target.empty", baseline="base", margin=0.26, margin_kind="absolute"), "between -0.25 and 0.25"),
        (make_rule("target.rouge_l", "higher", baseline="base", margin=0.26, margin_kind="absolute"), "between -0.25 and 0.25"),
        (make_rule("target.nll", baseline="base", margin=0.51, margin_kind="absolute"), "between -0.5 and 0.5"),
        (make_rule("retention.kl_base", baseline="champion", margin=0.51, margin_kind="absolute"), "between -0.5 and 0.5"),
        (make_rule("target.perplexity", baseline="champion", margin=10.1, margin_kind="absolute"), "between -10 and 10"),
        (make_rule(baseline="base", margin=1.9, margin_kind="absolute", test="tail", max_share=0.1), None),
        (make_rule(baseline="base", margin=2.1, margin_kind="absolute", test="tail", max_share=0.1), "between -2 and 2"),
        (make_rule("target.empty", "higher", baseline="base"), "a better model has a lower empty"),
        (make_rule("retention.passed", baseline="base"), "a better model has a higher passed"),
        (make_rule("target.length_ratio", "higher", baseline="base"), None),
    ],
)
def test_a_rule_about_shares_has_a_margin_and_a_direction_that_can_be_meant(rule: Rule, problem: str | None) -> None:
    actual = rule_problem(rule)
    assert actual is None if problem is None else problem in (actual or "")


def test_drift_is_checked_by_rules_about_drift_only() -> None:
    evidence = make_evidence(change_model(lambda row: row.update(kl=row["kl"] and 0.0)))
    drift = judge_rule(make_rule("retention.kl_base", ceiling=0.5), evidence)
    assert drift.outcome is Outcome.INVALID
    assert "have no divergence from the base model" in drift.reason
    assert judge_rule(make_rule("retention.nll", baseline="base"), evidence).outcome is Outcome.SHOWN


RULE_PROBLEMS = (
    "relative to the drift",
    "between the bounds",
    "unknown",
    "requires nothing",
    "without baseline",
    "mcnemar",
    "wilcoxon",
    "tail",
    "bootstrap of a perplexity",
)


@pytest.mark.parametrize("name", INVALID)
def test_an_invalid_rule_is_recognized_without_evidence(name: str) -> None:
    rule, _, reason = INVALID[name]
    problem = rule_problem(rule)
    assert (problem is not None) == (any(part in name for part in RULE_PROBLEMS) and name != "unknown weights" and name != "unknown kind")
    assert problem is None or reason in problem


@pytest.mark.parametrize(
    ("metric", "right"),
    [
        ("target.nll", "lower"), ("retention.fact.perplexity", "lower"), ("retention.*.kl_base", "lower"),
        ("target.token_accuracy", "higher"), ("retention.passed", "higher"), ("target.rouge_l", "higher"),
    ],
)  # fmt: skip
def test_a_rule_that_demands_a_worse_model_is_refused(metric: str, right: str) -> None:
    wrong = {"lower": "higher", "higher": "lower"}[right]
    assert rule_problem(make_rule(metric, right, baseline="champion")) is None
    assert f"a better model has a {right} {metric.rpartition('.')[2]}" in (
        rule_problem(make_rule(metric, wrong, baseline="champion")) or ""
    )
    # Bounds ignore the direction: a floor for the loss detects leaks. Counts are neither good nor bad.
    assert rule_problem(make_rule(metric, wrong, floor=0.1)) is None
    assert rule_problem(make_rule("target.tokens", wrong, baseline="champion")) is None


@pytest.mark.parametrize("name", INVALID)
def test_invalid_evidence_is_named_and_never_promotes(name: str) -> None:
    rule, make, reason = INVALID[name]
    evidence = make()
    judgement = judge_rule(rule, evidence)
    assert judgement.outcome is Outcome.INVALID
    assert reason in judgement.reason
    assert decide((*RULES, rule), evidence).verdict is not Verdict.PROMOTE
    assert combine([judgement])[0] is Verdict.HOLD


def test_models_with_the_same_scores_are_the_same_even_if_a_score_is_nan() -> None:
    """NaN is not equal to itself, but a champion that was registered again must be recognized all the same."""
    with_nan = partial(change_model, lambda row: row.update(nll=math.nan) if row["id"] == "retention-00003" else None)
    evidence = make_evidence(
        candidate=with_nan("champion", model="another id", run="another run", weights_digest="other"), champion=with_nan("champion")
    )
    assert "the candidate is the champion: they have the same score in every row" in judge_rule(NLL, evidence).reason
