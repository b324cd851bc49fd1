"""Rules: what is shown, what fails, and above all that bad evidence never shows anything."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from mlops.core.config import Rule
from mlops.core.records import Outcome, Verdict
from mlops.judging.evidence import Evidence, ModelEvidence, Rows
from mlops.judging.metrics import parse
from mlops.judging.rules import answer, expand
from mlops.judging.validity import rule_fault
from mlops.judging.verdict import combine, decide
from mlops.remote.metrics import aggregate
from tests.support.evidence import DIGESTS, RULES, evidence, model, rows, rule

CANDIDATE = rows("candidate", shift=-0.4)


def scored(changes: Callable[[dict[str, Any]], None] = lambda row: None, role: str = "candidate", **fields: Any) -> ModelEvidence:
    """A model whose rows were changed before its metrics were made from them."""
    changed = [dict(row) for row in (CANDIDATE if role == "candidate" else rows(role))]
    for row in changed:
        changes(row)
    return model(role, changed, **fields)


def verdict_of(found: Evidence, rules: tuple[Rule, ...] = RULES) -> Verdict:
    return decide(rules, found).verdict


@pytest.mark.parametrize("each", RULES, ids=lambda each: each.metric)
def test_good_evidence_shows_every_rule(each: Rule) -> None:
    judgement = answer(each, evidence())
    assert judgement.outcome is Outcome.SHOWN, judgement.reason


def test_numbers_are_those_it_follows_from() -> None:
    found = evidence()
    judgement = answer(rule(baseline="base", margin=0.1, test="paired_bootstrap"), found)
    candidate, base = (found.models[role].metrics["target.nll"] for role in ("candidate", "base"))
    assert (judgement.candidate, judgement.reference, judgement.difference) == (candidate, base, candidate - base)
    assert judgement.margin == pytest.approx(0.1 * base)
    assert judgement.n == 60
    assert judgement.seed is not None
    assert judgement.interval is not None
    assert judgement.interval.low < candidate - base < judgement.interval.high
    assert judgement.mde is not None
    assert 0 < judgement.mde < judgement.interval.high - judgement.interval.low


# Point estimates ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("direction", "margin", "kind", "candidate", "outcome"),
    [
        ("lower", 0.0, "relative", 2.0, Outcome.SHOWN),
        ("lower", 0.0, "relative", 2.0001, Outcome.FAILED),
        ("lower", 0.5, "relative", 3.0, Outcome.SHOWN),
        ("lower", 0.5, "relative", 3.01, Outcome.FAILED),
        ("lower", -0.25, "relative", 1.5, Outcome.SHOWN),
        ("lower", -0.25, "relative", 1.51, Outcome.FAILED),
        ("lower", 0.5, "absolute", 2.5, Outcome.SHOWN),
        ("lower", 0.5, "absolute", 2.51, Outcome.FAILED),
        ("higher", 0.0, "relative", 2.0, Outcome.SHOWN),
        ("higher", 0.0, "relative", 1.99, Outcome.FAILED),
        ("higher", 0.25, "relative", 1.5, Outcome.SHOWN),
        ("higher", 0.25, "relative", 1.49, Outcome.FAILED),
        ("higher", -0.5, "absolute", 2.5, Outcome.SHOWN),
        ("higher", -0.5, "absolute", 2.49, Outcome.FAILED),
    ],
)
def test_margins_are_inclusive_and_signed(direction: str, margin: float, kind: str, candidate: float, outcome: Outcome) -> None:
    def flat(value: float, role: str) -> ModelEvidence:
        # Half a token less here and there, so that the two models don't score every row alike.
        return scored(lambda row: row.update(nll=value * row["tokens"]), role)

    champion = flat(2.0, "champion")
    retention = model("candidate", CANDIDATE).rows["retention"]
    made = flat(candidate, "candidate")
    made = replace(made, rows={**made.rows, "retention": retention})
    judgement = answer(rule(direction=direction, baseline="champion", margin=margin, margin_kind=kind), evidence(made, champion))
    assert judgement.outcome is outcome, judgement.reason


@pytest.mark.parametrize(
    ("bounds", "outcome"),
    [
        ({"ceiling": 2.0}, Outcome.SHOWN),
        ({"ceiling": 1.99}, Outcome.FAILED),
        ({"floor": 2.0}, Outcome.SHOWN),
        ({"floor": 2.01}, Outcome.FAILED),
        ({"floor": 1.0, "ceiling": 3.0}, Outcome.SHOWN),
        ({"floor": 1.0, "ceiling": 1.5}, Outcome.FAILED),
    ],
)
def test_floor_and_ceiling_are_inclusive(bounds: dict[str, Any], outcome: Outcome) -> None:
    made = scored(lambda row: row.update(nll=2.0 * row["tokens"]))
    assert answer(rule(**bounds), evidence(made)).outcome is outcome


def test_floor_counts_beside_a_baseline() -> None:
    assert answer(rule(baseline="champion", floor=99.0), evidence()).outcome is Outcome.FAILED


# The whole interval ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shift", "margin", "outcome"),
    [
        (-0.4, 0.0, Outcome.SHOWN),
        (0.0, 0.0, Outcome.UNPROVEN),
        (0.0, 0.05, Outcome.SHOWN),
        (0.0, -0.05, Outcome.FAILED),
        (0.4, 0.0, Outcome.FAILED),
        (0.4, 0.05, Outcome.FAILED),
        (0.4, 0.3, Outcome.SHOWN),
    ],
)
@pytest.mark.parametrize("kind", ["relative", "absolute"])
def test_only_a_whole_interval_shows_or_fails(shift: float, margin: float, kind: str, outcome: Outcome) -> None:
    made = model("candidate", rows("candidate", shift=shift))
    given_margin = margin if kind == "relative" else margin * 2
    asked = rule(baseline="champion", margin=given_margin, margin_kind=kind, test="paired_bootstrap")
    judgement = answer(asked, evidence(made))
    assert judgement.outcome is outcome, judgement.reason


def test_unproven_says_how_many_rows_would_do() -> None:
    few = (
        model("candidate", rows("candidate", n=6, shift=-0.02)),
        model("champion", rows("champion", n=6)),
        model("base", rows("base", n=6)),
    )
    judgement = answer(rule(baseline="champion", margin=0.01, test="paired_bootstrap"), evidence(*few))
    assert judgement.outcome is Outcome.UNPROVEN
    assert "rows would show it, and there are 6" in judgement.reason


def test_rows_that_all_differ_alike_are_no_evidence() -> None:
    def flat(role: str, value: float) -> ModelEvidence:
        return scored(lambda row: row.update(nll=value * row["tokens"]) if row["suite"] == "target" else None, role)

    found = evidence(flat("candidate", 1.0), flat("champion", 2.0))
    judgement = answer(rule(baseline="champion", test="paired_bootstrap", margin_kind="absolute"), found)
    assert judgement.outcome is Outcome.UNPROVEN
    assert "no interval can be made" in judgement.reason


def test_suspicious_gain_holds() -> None:
    judgement = answer(rule(baseline="champion", max_gain=0.1, test="paired_bootstrap"), evidence())
    assert judgement.outcome is Outcome.UNPROVEN
    assert "too good to be true" in judgement.reason
    assert answer(rule(baseline="champion", max_gain=0.9), evidence()).outcome is Outcome.SHOWN


def test_rouge_is_judged_on_answered_rows_only() -> None:
    better = scored(lambda row: row.update(rouge_l=None if row["rouge_l"] is None else 0.9 + row["rouge_l"] / 10))
    judgement = answer(rule("target.rouge_l", "higher", baseline="champion", test="paired_bootstrap"), evidence(better))
    assert (judgement.outcome, judgement.n) == (Outcome.SHOWN, 20)


def test_without_a_champion_the_base_answers_and_it_is_said() -> None:
    found = evidence()
    first = replace(found, models={role: found.models[role] for role in ("candidate", "base")})
    judgement = answer(rule(baseline="champion", test="paired_bootstrap"), first)
    assert (judgement.outcome, judgement.baseline, judgement.answered_against) == (Outcome.SHOWN, "champion", "base")
    assert "no champion yet" in judgement.reason
    worse = model("candidate", rows("candidate", shift=0.4))
    assert answer(rule(baseline="champion"), replace(first, models={**first.models, "candidate": worse})).outcome is Outcome.FAILED


# Invalid evidence -----------------------------------------------------------------------------------------------------------------


def without(role: str) -> Evidence:
    return replace(evidence(), models={name: found for name, found in evidence().models.items() if name != role})


def with_rows(by_suite: dict[str, list[dict[str, Any]]]) -> Evidence:
    """All models with other rows in some suites."""
    found = evidence()
    rows_of = {suite: Rows.of(made) for suite, made in by_suite.items()}
    return replace(found, models={role: replace(each, rows={**each.rows, **rows_of}) for role, each in found.models.items()})


def dropped(metric: str, role: str = "candidate") -> ModelEvidence:
    whole = scored(role=role)
    return replace(whole, metrics={name: value for name, value in whole.metrics.items() if name != metric})


def reported(metric: str, value: float, role: str = "candidate") -> ModelEvidence:
    whole = scored(role=role)
    return replace(whole, metrics={**whole.metrics, metric: value})


def planted(value: float, role: str = "candidate", **fields: Any) -> ModelEvidence:
    return scored(lambda row: row.update(nll=value) if row["id"] == "target-00007" else None, role, **fields)


def without_row(role: str) -> ModelEvidence:
    return model(role, [row for row in rows(role, shift=-0.4 if role == "candidate" else 0) if row["id"] != "target-00003"])


def twice(role: str) -> ModelEvidence:
    made = rows(role, shift=-0.4 if role == "candidate" else 0)
    return model(role, [*made, made[3]])


NLL = rule(baseline="champion", test="paired_bootstrap")
INVALID: dict[str, tuple[Rule, Callable[[], Evidence], str]] = {
    "metric missing": (NLL, lambda: evidence(dropped("target.nll")), "target.nll of the candidate is missing"),
    "NaN reported": (NLL, lambda: evidence(reported("target.nll", math.nan)), "target.nll of the candidate is nan"),
    "infinity reported": (NLL, lambda: evidence(reported("target.nll", -math.inf)), "of the candidate is -inf"),
    "NaN of the champion": (NLL, lambda: evidence(champion=reported("target.nll", math.nan, "champion")), "of the champion is nan"),
    "infinite champion": (NLL, lambda: evidence(champion=reported("target.nll", math.inf, "champion")), "of the champion is inf"),
    "infinite perplexity of the champion": (
        rule("target.perplexity", baseline="champion"),
        lambda: evidence(champion=scored(lambda row: row.update(nll=1e3 * row["tokens"]), "champion")),
        "target.perplexity of the champion is inf",
    ),
    "NaN in a row": (NLL, lambda: evidence(planted(math.nan)), "is nan"),
    "infinity in a champion's row": (NLL, lambda: evidence(champion=planted(math.inf, "champion")), "of the champion is inf"),
    "negative loss in a row": (NLL, lambda: evidence(planted(-5.0)), "can't be"),
    "metric not from its rows": (NLL, lambda: evidence(reported("target.nll", 0.5)), "does not follow from its rows"),
    "row missing": (NLL, lambda: evidence(without_row("candidate")), "different rows: 1 are in one only"),
    "champion's row missing": (NLL, lambda: evidence(champion=without_row("champion")), "different rows"),
    "row twice": (NLL, lambda: evidence(twice("candidate")), "there twice"),
    "foreign row": (
        NLL,
        lambda: evidence(scored(lambda row: row.update(id="foreign") if row["id"] == "target-00003" else None)),
        "different rows: 2 are in one only",
    ),
    "other tokens": (
        NLL,
        lambda: evidence(scored(lambda row: row.update(input="other") if row["id"] == "target-00003" else None)),
        "read the rows as different tokens",
    ),
    "other token count": (
        NLL,
        lambda: evidence(scored(lambda row: row.update(tokens=row["tokens"] + 1) if row["id"] == "target-00003" else None)),
        "read the rows as different tokens",
    ),
    "other answers": (
        rule("target.rouge_l", "higher", baseline="champion"),
        lambda: evidence(scored(lambda row: row.update(rouge_l=None) if row["id"] == "target-00003" else None)),
        "answered different rows",
    ),
    "other suite": (NLL, lambda: evidence(scored(suite_digests={**DIGESTS, "target": "x" * 64})), "another target suite"),
    "champion's other suite": (
        NLL,
        lambda: evidence(champion=scored(role="champion", suite_digests={**DIGESTS, "target": "x" * 64})),
        "the champion was scored on another target suite",
    ),
    "suite not frozen": (NLL, lambda: replace(evidence(), suite_digests={}), "froze no target suite"),
    "other kinds": (
        rule("retention.nll", baseline="base", margin=0.1),
        lambda: evidence(scored(lambda row: row.update(kind="poems") if row["id"] == "retention-00003" else None)),
        "rows of different kinds",
    ),
    "ROUGE above 1": (
        rule("target.rouge_l", "higher", baseline="champion"),
        lambda: evidence(scored(lambda row: row.update(rouge_l=1.5) if row["id"] == "target-00003" else None)),
        "a rouge_l that can't be",
    ),
    "no rows": (NLL, lambda: evidence(scored(rows={})), "no per-row scores"),
    "overlap": (NLL, lambda: replace(evidence(), overlapping={"target": "3 rows"}), "overlaps the training data: 3 rows"),
    "same model": (NLL, lambda: evidence(scored(model="azureml://models/champion")), "the candidate is the champion: both are"),
    "same run": (NLL, lambda: evidence(scored(run="run-champion")), "the candidate is the champion: both were scored by"),
    "same weights": (NLL, lambda: evidence(scored(weights_digest="weights-champion")), "their weights are equal"),
    "same weights as the base": (NLL, lambda: evidence(scored(weights_digest="weights-base")), "the candidate is the base"),
    "same scores": (NLL, lambda: evidence(champion=model("champion", CANDIDATE)), "they score every row alike"),
    "unknown weights": (NLL, lambda: evidence(scored(weights_digest="")), "not known which model the candidate is"),
    "unknown metric": (rule("target.accuracy", baseline="champion"), evidence, "no evaluation makes a metric called 'target.accuracy'"),
    "unknown suite": (rule("test.nll", baseline="champion"), evidence, "no evaluation makes"),
    "unknown kind": (rule("retention.poems.nll", baseline="base"), evidence, "retention.poems.nll of the candidate is missing"),
    "asks nothing": (rule(), evidence, "asks for nothing"),
    "margin without baseline": (rule(ceiling=9.0, margin=0.1), evidence, "a margin and no baseline"),
    "test without baseline": (rule(ceiling=9.0, test="paired_bootstrap"), evidence, "a test and no baseline"),
    "gain without baseline": (rule(ceiling=9.0, max_gain=0.1), evidence, "a max_gain and no baseline"),
    "wins and losses of a loss": (rule(baseline="champion", test="mcnemar"), evidence, "nll has none: judge exact_match, or use"),
    "wins and losses with a margin": (
        rule("target.exact_match", "higher", baseline="champion", margin=0.01, test="mcnemar"),
        evidence,
        'knows no margin: set margin = 0, or use test = "paired_bootstrap"',
    ),
    "ranks of wins and losses": (
        rule("target.exact_match", "higher", baseline="champion", test="wilcoxon"),
        evidence,
        'use test = "mcnemar" or "paired_bootstrap"',
    ),
    "ranks without baseline": (rule(ceiling=9.0, test="wilcoxon"), evidence, "a test and no baseline"),
    "more first choices than tokens": (
        rule("target.token_accuracy", "higher", baseline="champion"),
        lambda: evidence(scored(lambda row: row.update(greedy_tokens=row["tokens"] + 1) if row["id"] == "target-00003" else None)),
        "a token_accuracy that can't be",
    ),
    "no match but more first choices than tokens": (
        rule("target.exact_match", "higher", baseline="champion"),
        lambda: evidence(scored(lambda row: row.update(greedy_tokens=row["tokens"] + 1) if row["id"] == "target-00003" else None)),
        "an exact_match that can't be",
    ),
    "every kind of a suite without kinds": (
        rule("target.*.nll", baseline="champion"),
        evidence,
        "60 rows of the target suite have no kind, so it can't be judged kind by kind",
    ),
    "every kind of a suite without rows": (
        rule("retention.*.nll", baseline="base"),
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
        lambda: replace(evidence(), missing={"champion": "its rows are of another day"}),
        "the champion was not evaluated: its rows are of another day",
    ),
    "base could not be evaluated": (
        rule(ceiling=9.0),
        lambda: replace(without("base"), missing={"base": "gone from the registry"}),
        "the base was not evaluated: gone from the registry",
    ),
    "infinity in a row": (NLL, lambda: evidence(planted(math.inf)), "target.nll of the candidate is inf"),
    "NaN in a row that is not reported": (NLL, lambda: evidence(planted(math.nan, metrics=scored().metrics)), "an nll that can't be"),
    "champion's metric missing": (
        NLL,
        lambda: evidence(champion=dropped("target.nll", "champion")),
        "target.nll of the champion is missing",
    ),
    "champion's row twice": (NLL, lambda: evidence(champion=twice("champion")), "rows of the champion on the target suite are there twice"),
    "same model in other letters": (
        NLL,
        lambda: evidence(scored(model="azureml://MODELS/Champion")),
        "the candidate is the champion: both",
    ),
    "its own base": (
        rule(ceiling=9.0),
        lambda: evidence(scored(run="run-base")),
        "the candidate is the base: both were scored by run run-base",
    ),
    "bootstrap of a perplexity": (
        rule("target.perplexity", baseline="champion", test="paired_bootstrap"),
        evidence,
        "perplexity has no per-row scores",
    ),
    "relative to the drift of the base from itself": (rule("retention.kl_base", baseline="base"), evidence, "relative to 0 means nothing"),
    "relative to zero": (
        rule("target.exact_match", "higher", baseline="champion"),
        lambda: evidence(champion=scored(lambda row: row.update(greedy_tokens=0), "champion")),
        "target.exact_match of the champion is 0, and a margin relative to 0 means nothing",
    ),
    "nothing between the bounds": (rule(floor=2.0, ceiling=1.0), evidence, "nothing lies between the floor 2 and the ceiling 1"),
    "base not evaluated": (NLL, lambda: without("base"), "the base was not evaluated."),
    "candidate not evaluated": (NLL, lambda: without("candidate"), "the candidate was not evaluated."),
}


OF_THE_RULE = (
    "relative to the drift",
    "between the bounds",
    "unknown",
    "asks nothing",
    "without baseline",
    "wins and losses",
    "ranks",
    "bootstrap of a perplexity",
)


@pytest.mark.parametrize("name", INVALID)
def test_what_is_wrong_with_a_rule_is_known_without_evidence(name: str) -> None:
    asked, _, reason = INVALID[name]
    found = rule_fault(asked)
    assert (found is not None) == (any(part in name for part in OF_THE_RULE) and name != "unknown weights" and name != "unknown kind")
    assert found is None or reason in found


@pytest.mark.parametrize(
    ("metric", "right"),
    [
        ("target.nll", "lower"), ("retention.fact.perplexity", "lower"), ("retention.*.kl_base", "lower"),
        ("target.token_accuracy", "higher"), ("target.exact_match", "higher"), ("target.rouge_l", "higher"),
    ],
)  # fmt: skip
def test_a_rule_that_asks_for_a_worse_model_is_a_mistake(metric: str, right: str) -> None:
    wrong = {"lower": "higher", "higher": "lower"}[right]
    assert rule_fault(rule(metric, right, baseline="champion")) is None
    assert f"a better model has a {right} {metric.rpartition('.')[2]}" in (rule_fault(rule(metric, wrong, baseline="champion")) or "")
    # Bounds don't look at the direction: a floor under the loss finds leaks. Counts are neither good nor bad.
    assert rule_fault(rule(metric, wrong, floor=0.1)) is None
    assert rule_fault(rule("target.tokens", wrong, baseline="champion")) is None


@pytest.mark.parametrize("name", INVALID)
def test_invalid_evidence_is_named_and_never_promotes(name: str) -> None:
    asked, make, reason = INVALID[name]
    found = make()
    judgement = answer(asked, found)
    assert judgement.outcome is Outcome.INVALID
    assert reason in judgement.reason
    assert verdict_of(found, (*RULES, asked)) is not Verdict.PROMOTE
    assert combine([judgement])[0] is Verdict.HOLD


def test_a_model_that_scores_every_row_alike_is_the_same_though_a_score_is_none() -> None:
    """NaN is equal to nothing, and a champion that was registered again must not be taken for another model because of it."""
    spoil = partial(scored, lambda row: row.update(nll=math.nan) if row["id"] == "retention-00003" else None)
    found = evidence(candidate=spoil("champion", model="another id", run="another run", weights_digest="other"), champion=spoil("champion"))
    assert "the candidate is the champion: they score every row alike" in answer(NLL, found).reason


def test_too_few_rows_are_unproven_and_never_promote() -> None:
    asked = rule(baseline="champion", min_rows=61)
    judgement = answer(asked, evidence())
    assert judgement.outcome is Outcome.UNPROVEN
    assert "60 rows count, and the rule wants 61" in judgement.reason
    assert answer(rule(baseline="champion", min_rows=60), evidence()).outcome is Outcome.SHOWN
    worse = model("candidate", rows("candidate", shift=1.0))
    assert answer(asked, evidence(worse)).outcome is Outcome.UNPROVEN


def test_a_kind_counts_its_own_rows() -> None:
    assert answer(rule("retention.facts.nll", baseline="base", margin=0.1, min_rows=31), evidence()).outcome is Outcome.UNPROVEN
    assert answer(rule("retention.facts.nll", baseline="base", margin=0.1, min_rows=30), evidence()).outcome is Outcome.SHOWN


# Ranks ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shift", "margin", "outcome"),
    [
        (-0.4, 0.0, Outcome.SHOWN),
        (0.0, 0.0, Outcome.UNPROVEN),
        (0.0, 0.05, Outcome.SHOWN),
        (0.0, -0.05, Outcome.FAILED),
        (0.4, 0.05, Outcome.FAILED),
        (0.4, 0.3, Outcome.SHOWN),
    ],
)
@pytest.mark.parametrize("kind", ["relative", "absolute"])
def test_ranks_show_and_fail_as_intervals_do(shift: float, margin: float, kind: str, outcome: Outcome) -> None:
    made = model("candidate", rows("candidate", shift=shift))
    given_margin = margin if kind == "relative" else margin * 2
    judgement = answer(rule(baseline="champion", margin=given_margin, margin_kind=kind, test="wilcoxon"), evidence(made))
    assert judgement.outcome is outcome, judgement.reason
    assert judgement.seed is None
    assert judgement.interval is not None
    assert judgement.typical_difference is not None
    assert judgement.interval.low < judgement.typical_difference < judgement.interval.high


def test_ranks_are_of_figures_per_token() -> None:
    """Rows of very unequal length that all differ by about 0.1 nats a token."""

    def stretched(role: str, shift: float) -> ModelEvidence:
        made = rows(role)
        for number, row in enumerate(made):
            row.update(tokens=1 + number * 50, nll=(1 + number * 50) * (2.0 + shift + 0.001 * (number % 7)))
        return model(role, made)

    found = evidence(stretched("candidate", -0.1), stretched("champion", 0.0), stretched("base", 0.01))
    found.models["candidate"].rows["target"].nll[0] -= 0.01  # they must not all differ by the very same
    judgement = answer(rule(baseline="champion", test="wilcoxon"), evidence(*(found.models[role] for role in found.models)))
    assert judgement.typical_difference == pytest.approx(-0.1, abs=1e-6)
    assert "the typical row differs by -0.1 per token" in judgement.reason


def test_the_typical_row_does_not_outvote_the_tokens() -> None:
    """Most rows are a little better and a few long ones much worse: ranks would say better, the metric says worse."""
    made = rows("champion")
    for number, row in enumerate(row for row in made if row["suite"] == "target"):
        row["nll"] += -0.1 * row["tokens"] if number % 10 else 3.0 * row["tokens"]
    judgement = answer(rule(baseline="champion", test="wilcoxon", margin_kind="absolute"), evidence(model("candidate", made)))
    assert judgement.interval is not None
    assert judgement.difference is not None
    assert judgement.interval.high < 0 < judgement.difference
    assert judgement.outcome is Outcome.UNPROVEN
    assert "beyond the margin on one side, and the figures over all tokens are not" in judgement.reason


@pytest.mark.parametrize("test", ["paired_bootstrap", "wilcoxon"])
def test_a_relative_margin_counts_the_uncertainty_of_the_baseline(test: str) -> None:
    """Every row is worse by a little less than 10 % of the average baseline: whether it is less depends on which rows were drawn."""
    base, candidate = rows("base", n=20), rows("base", n=20)
    for number, (row, worse) in enumerate(zip(base, candidate, strict=True)):
        row["nll"] = row["tokens"] * (0.5 if number % 2 else 3.5)
        worse["nll"] = row["nll"] + row["tokens"] * (0.17 + 0.0001 * (number % 5))
    found = evidence(model("candidate", candidate), base=model("base", base))
    relative = answer(rule(baseline="base", margin=0.1, test=test), found)
    absolute = answer(rule(baseline="base", margin=relative.margin, margin_kind="absolute", test=test), found)
    assert absolute.outcome is Outcome.SHOWN
    assert relative.outcome is Outcome.UNPROVEN
    assert relative.distance_interval is not None
    assert relative.distance_interval.low < 0 < relative.distance_interval.high


# Wins and losses ------------------------------------------------------------------------------------------------------------------


def matching(role: str, right: Callable[[int], bool]) -> ModelEvidence:
    """A model that matches those rows of the target suite exactly, and no others."""

    def change(row: dict[str, Any]) -> None:
        row["greedy_tokens"] = row["tokens"] - (not right(int(row["id"].rpartition("-")[2])))

    return scored(change, role)


@pytest.mark.parametrize("test", ["mcnemar", "paired_bootstrap"])
@pytest.mark.parametrize(
    ("right", "outcome"),
    [
        (lambda number: number < 45, Outcome.SHOWN),
        (lambda number: number < 31, Outcome.UNPROVEN),
        (lambda number: 29 <= number < 59, Outcome.UNPROVEN),  # as many wins as losses
        (lambda number: number < 15, Outcome.FAILED),
    ],
)
def test_exact_matches_are_won_and_lost(right: Callable[[int], bool], outcome: Outcome, test: str) -> None:
    found = evidence(matching("candidate", right), matching("champion", lambda number: number < 30))
    judgement = answer(rule("target.exact_match", "higher", baseline="champion", test=test), found)
    assert judgement.outcome is outcome, judgement.reason
    assert judgement.reference == 0.5


def test_token_accuracy_is_judged_with_a_margin() -> None:
    found = evidence(matching("candidate", lambda number: number < 15), matching("champion", lambda number: number < 30))
    asked = rule("target.token_accuracy", "higher", baseline="champion", margin=0.05, margin_kind="absolute", test="paired_bootstrap")
    assert answer(asked, found).outcome is Outcome.SHOWN
    assert answer(asked.model_copy(update={"margin": 0.001}), found).outcome is Outcome.FAILED


# Metrics --------------------------------------------------------------------------------------------------------------------------


def test_every_metric_that_is_reported_can_be_judged_and_follows_from_its_rows() -> None:
    made = scored()
    assert made.metrics == aggregate(CANDIDATE)
    for name, value in made.metrics.items():
        metric = parse(name)
        assert metric is not None, name
        assert metric.value(made.rows[metric.suite]) == pytest.approx(value, rel=1e-12), name
    assert {"target.exact_match", "target.token_accuracy", "retention.facts.exact_match"} <= made.metrics.keys()


# Every kind -----------------------------------------------------------------------------------------------------------------------

EVERY_KIND = rule("retention.*.nll", baseline="base", margin=0.1, test="paired_bootstrap", min_rows=30)


def relabelled(role: str, kind: Callable[[int], str]) -> ModelEvidence:
    return scored(lambda row: row.update(kind=kind(int(row["id"].rpartition("-")[2])) if row["suite"] == "retention" else ""), role)


def test_a_rule_for_every_kind_is_one_per_kind() -> None:
    asked = expand(EVERY_KIND, evidence())
    assert [each.metric for each in asked] == ["retention.facts.nll", "retention.refusal.nll"]
    judgements = decide([NLL, EVERY_KIND], evidence()).judgements
    assert [judgement.metric for judgement in judgements] == ["target.nll", "retention.facts.nll", "retention.refusal.nll"]
    assert [judgement.n for judgement in judgements] == [60, 30, 30]
    assert decide([EVERY_KIND], evidence()).verdict is Verdict.PROMOTE
    assert expand(NLL, evidence()) == (NLL,)


def test_one_kind_that_is_lost_is_enough_to_reject() -> None:
    def forget(row: dict[str, Any]) -> None:
        row["nll"] *= 2 if row["kind"] == "refusal" else 0.8

    decision = decide([EVERY_KIND], evidence(scored(forget)))
    assert decision.verdict is Verdict.REJECT
    assert [judgement.outcome for judgement in decision.judgements] == [Outcome.SHOWN, Outcome.FAILED]
    assert "retention.refusal.nll" in decision.reasons[0]


def test_every_kind_counts_its_own_rows() -> None:
    decision = decide([EVERY_KIND.model_copy(update={"min_rows": 31})], evidence())
    assert {judgement.outcome for judgement in decision.judgements} == {Outcome.UNPROVEN}
    assert [judgement.rows_needed for judgement in decision.judgements] == [31, 31]


@pytest.mark.parametrize("role", ["candidate", "base"])
def test_a_kind_that_one_side_lacks_is_invalid(role: str) -> None:
    found = evidence()
    odd = relabelled(role, lambda number: "poems" if number == 3 else ("facts", "refusal")[number % 2])
    decision = decide([EVERY_KIND], replace(found, models={**found.models, role: odd}))
    assert [judgement.metric for judgement in decision.judgements] == [f"retention.{kind}.nll" for kind in ("facts", "poems", "refusal")]
    assert {judgement.outcome for judgement in decision.judgements} == {Outcome.INVALID}
    assert decision.verdict is Verdict.HOLD


def test_rows_without_a_kind_are_not_left_out_in_silence() -> None:
    def kind(number: int) -> str:
        return "" if number == 3 else "facts"

    found = evidence(*(relabelled(role, kind) for role in ("candidate", "champion", "base")))
    (judgement,) = decide([EVERY_KIND], found).judgements
    assert judgement.outcome is Outcome.INVALID
    assert "1 rows of the retention suite have no kind" in judgement.reason


# What the record says --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "shift"),
    [
        (rule(baseline="champion", margin=0.02, test="paired_bootstrap"), -0.4),
        (rule(baseline="champion", margin=0.02, test="paired_bootstrap"), 0.4),
        (rule(baseline="champion", margin=0.02, test="wilcoxon"), 0.0),
        (rule(baseline="champion", margin=0.02, margin_kind="absolute", test="wilcoxon"), 0.4),
        (rule("target.exact_match", "higher", baseline="champion", test="mcnemar"), -0.4),
        (rule("target.exact_match", "higher", baseline="champion", margin=0.1, test="paired_bootstrap"), 0.0),
    ],
)
def test_an_outcome_follows_from_the_numbers_in_the_record(asked: Rule, shift: float) -> None:
    judgement = answer(asked, evidence(model("candidate", rows("candidate", shift=shift))))
    interval, distance = judgement.distance_interval, judgement.distance
    assert interval is not None
    assert distance is not None
    assert judgement.p_value is not None
    sides = {distance > 0 for distance in (distance, interval.low, interval.high)}
    expected = Outcome.UNPROVEN if len(sides) > 1 else (Outcome.SHOWN if sides == {True} else Outcome.FAILED)
    assert judgement.outcome is expected
    assert (judgement.p_value <= 0.025) == (expected is Outcome.FAILED)
    assert (judgement.confidence, judgement.margin_kind) == (0.95, asked.margin_kind)


def test_rows_needed_are_told_on_either_side_of_the_margin() -> None:
    for shift, told in ((-0.005, "rows would show it,"), (0.005, "rows would show that it fails,")):
        judgement = answer(rule(baseline="champion", test="paired_bootstrap"), evidence(model("candidate", rows("candidate", shift=shift))))
        assert judgement.outcome is Outcome.UNPROVEN
        assert judgement.rows_needed is not None
        assert judgement.rows_needed > 60
        assert f"about {judgement.rows_needed:,} {told} and there are 60" in judgement.reason
