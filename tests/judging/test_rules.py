"""Rules: what is shown, what fails, and above all that bad evidence never shows anything."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops.core.config import Rule
from mlops.core.records import Outcome, Verdict
from mlops.judging.evidence import Evidence, ModelEvidence
from mlops.judging.rules import answer
from mlops.judging.verdict import combine
from tests.judging.making import DIGESTS, RULES, evidence, model, rows, rule

CANDIDATE = rows("candidate", shift=-0.4)


def scored(changes: Callable[[dict[str, Any]], None] = lambda row: None, role: str = "candidate", **fields: Any) -> ModelEvidence:
    """A model whose rows were changed before its metrics were made from them."""
    changed = [dict(row) for row in (CANDIDATE if role == "candidate" else rows(role))]
    for row in changed:
        changes(row)
    return model(role, changed, **fields)


def verdict_of(found: Evidence, rules: tuple[Rule, ...] = RULES) -> Verdict:
    return combine([answer(each, found) for each in rules])[0]


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


def dropped(metric: str) -> ModelEvidence:
    whole = scored()
    return replace(whole, metrics={name: value for name, value in whole.metrics.items() if name != metric})


def reported(metric: str, value: float, role: str = "candidate") -> ModelEvidence:
    whole = scored(role=role)
    return replace(whole, metrics={**whole.metrics, metric: value})


def planted(value: float, role: str = "candidate") -> ModelEvidence:
    return scored(lambda row: row.update(nll=value) if row["id"] == "target-00007" else None, role)


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
    "wilcoxon": (rule(baseline="champion", test="wilcoxon"), evidence, "not available yet"),
    "mcnemar": (rule(baseline="champion", test="mcnemar"), evidence, "not available yet"),
    "bootstrap of a perplexity": (
        rule("target.perplexity", baseline="champion", test="paired_bootstrap"),
        evidence,
        "perplexity has no per-row scores",
    ),
    "relative to zero": (rule("retention.kl_base", baseline="base"), evidence, "relative to 0 means nothing"),
    "base not evaluated": (
        NLL,
        lambda: replace(evidence(), models={role: m for role, m in evidence().models.items() if role != "base"}),
        "the base was not evaluated",
    ),
    "candidate not evaluated": (
        NLL,
        lambda: replace(evidence(), models={role: m for role, m in evidence().models.items() if role != "candidate"}),
        "the candidate was not evaluated",
    ),
}


@pytest.mark.parametrize("name", INVALID)
def test_invalid_evidence_is_named_and_never_promotes(name: str) -> None:
    asked, make, reason = INVALID[name]
    found = make()
    judgement = answer(asked, found)
    assert judgement.outcome is Outcome.INVALID
    assert reason in judgement.reason
    assert verdict_of(found, (*RULES, asked)) is not Verdict.PROMOTE
    assert combine([judgement])[0] is Verdict.HOLD


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


# Properties -----------------------------------------------------------------------------------------------------------------------

SHIFTS = st.floats(-0.5, 0.5)
MARGINS = st.floats(-0.3, 0.3)
BAD = st.sampled_from([math.nan, math.inf, -math.inf, -1.0, None])


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 59), st.sampled_from(["candidate", "champion", "base"]), BAD, st.sampled_from(["target", "retention"]))
def test_a_bad_loss_in_any_row_never_promotes(number: int, role: str, bad: float | None, suite: str) -> None:
    models = dict(evidence().models)
    row_id = f"{suite}-{number:05d}"
    made = [dict(row) for row in (CANDIDATE if role == "candidate" else rows(role))]
    if bad is None:
        models[role] = model(role, [row for row in made if row["id"] != row_id])
    else:
        models[role] = model(role, [row | {"nll": bad} if row["id"] == row_id else row for row in made])
    rules = tuple(
        rule(f"{suite}.nll", baseline=baseline, margin=0.25, test=test)
        for baseline in ("champion", "base")
        for test in ("none", "paired_bootstrap")
    )
    assert verdict_of(replace(evidence(), models=models), rules) is Verdict.HOLD


@settings(max_examples=25, deadline=None)
@given(SHIFTS, st.sampled_from(["none", "paired_bootstrap"]), st.sampled_from(["relative", "absolute"]), MARGINS, st.integers(0, 5))
def test_swapping_negates_difference_and_interval_exactly(shift: float, test: str, kind: str, margin: float, seed: int) -> None:
    one, other = rows("candidate", n=25, seed=seed, shift=shift), rows("champion", n=25, seed=seed)
    base = model("base", rows("base", n=25, seed=seed))
    asked = rule(baseline="champion", test=test, margin=margin, margin_kind=kind)
    there = answer(asked, evidence(model("candidate", one), model("champion", other), base))
    back = answer(asked, evidence(model("candidate", other), model("champion", one), base))
    assert there.difference is not None
    assert back.difference == -there.difference
    if there.interval is not None:
        assert back.interval is not None
        assert (back.interval.low, back.interval.high) == (-there.interval.high, -there.interval.low)
    if margin < 0:
        assert Outcome.SHOWN not in (there.outcome, back.outcome) or there.outcome is not back.outcome


@settings(max_examples=25, deadline=None)
@given(st.randoms(use_true_random=False), SHIFTS)
def test_row_order_and_rule_order_decide_nothing(random: Any, shift: float) -> None:
    ordered = {role: rows(role, n=30, shift=shift if role == "candidate" else 0) for role in ("candidate", "champion", "base")}
    shuffled = {role: random.sample(made, len(made)) for role, made in ordered.items()}
    first, second = (evidence(*(model(role, made) for role, made in each.items())) for each in (ordered, shuffled))
    assert [answer(each, first) for each in RULES] == [answer(each, second) for each in RULES]
    assert verdict_of(first, RULES) is verdict_of(second, tuple(random.sample(RULES, len(RULES))))


@settings(max_examples=25, deadline=None)
@given(SHIFTS, MARGINS, st.floats(0, 0.3), st.sampled_from(["none", "paired_bootstrap"]), st.sampled_from(["relative", "absolute"]))
def test_a_wider_margin_never_turns_shown_into_something_else(shift: float, margin: float, more: float, test: str, kind: str) -> None:
    found = evidence(
        *(model(role, rows(role, n=25, shift=shift if role == "candidate" else 0)) for role in ("candidate", "champion", "base"))
    )
    narrow, wide = (
        answer(rule(baseline="champion", margin=m, margin_kind=kind, test=test), found).outcome for m in (margin, margin + more)
    )
    order = [Outcome.FAILED, Outcome.UNPROVEN, Outcome.SHOWN]
    assert order.index(wide) >= order.index(narrow)


@settings(max_examples=25, deadline=None)
@given(SHIFTS, MARGINS, st.sampled_from(["lower", "higher"]), st.sampled_from(["none", "paired_bootstrap"]))
def test_never_shown_with_the_point_on_the_wrong_side(shift: float, margin: float, direction: str, test: str) -> None:
    found = evidence(
        *(model(role, rows(role, n=12, shift=shift if role == "candidate" else 0)) for role in ("candidate", "champion", "base"))
    )
    judgement = answer(rule(direction=direction, baseline="champion", margin=margin, test=test), found)
    assert judgement.difference is not None
    assert judgement.margin is not None
    gain = judgement.difference if direction == "higher" else -judgement.difference
    if judgement.outcome is Outcome.SHOWN:
        assert gain >= -judgement.margin
    if judgement.outcome is Outcome.FAILED:
        assert gain < -judgement.margin


@settings(max_examples=15, deadline=None)
@given(SHIFTS, MARGINS, st.sampled_from([0.25, 2.0, 1024.0]), st.sampled_from(["none", "paired_bootstrap"]))
def test_scaling_all_scores_leaves_relative_rules_unchanged(shift: float, margin: float, scale: float, test: str) -> None:
    made = {role: rows(role, n=25, shift=shift if role == "candidate" else 0) for role in ("candidate", "champion", "base")}
    scaled = {role: [row | {"nll": row["nll"] * scale} for row in each] for role, each in made.items()}
    asked = rule(baseline="champion", margin=margin, test=test)
    plain, larger = (answer(asked, evidence(*(model(role, each) for role, each in of.items()))) for of in (made, scaled))
    assert plain.outcome is larger.outcome
