"""A gate that proves that it can fail: every judge with a fault is caught, and one without is let be."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mlops.core.config import Rule
from mlops.core.records import Judgement, Outcome, Probe, Verdict
from mlops.judging import metrics, validity, verdict
from mlops.judging.evidence import Evidence, ModelEvidence, Rows
from mlops.judging.metrics import parse
from mlops.judging.selftest import mutations
from mlops.judging.selftest.probes import self_test
from mlops.judging.verdict import Decision, decide
from tests.support.evidence import DIGESTS, evidence, model, rows, rule

RULES = (
    rule(baseline="champion", test="paired_bootstrap", min_rows=50),
    rule(baseline="base", margin=-0.05, test="paired_bootstrap", min_rows=50),
    rule("target.rouge_l", "higher", baseline="base", margin=0.2, margin_kind="absolute", test="paired_bootstrap"),
    rule("retention.nll", baseline="base", margin=0.05, test="paired_bootstrap", min_rows=50),
    rule("retention.kl_base", ceiling=0.5),
    rule("target.nll", ceiling=3.0, baseline="champion", critical=False),
)

Judge = Callable[[Sequence[Rule], Evidence], Decision]


def probes(found: Evidence, judge: Judge = decide, rules: Sequence[Rule] = RULES) -> tuple[Probe, ...]:
    return self_test(rules, found, judge(rules, found), judge)


def missed(found: Evidence, judge: Judge = decide, rules: Sequence[Rule] = RULES) -> set[str]:
    return {probe.name for probe in probes(found, judge, rules) if probe.result == "missed"}


def of(shift: float = -0.4, n: int = 60, *, champion: bool = True, seed: int = 0) -> Evidence:
    """Evidence of a candidate that is this much worse than champion and base."""
    roles = ("candidate", "champion", "base") if champion else ("candidate", "base")
    made = {role: model(role, rows(role, n=n, seed=seed, shift=shift if role == "candidate" else 0.0)) for role in roles}
    return Evidence(models=made, suite_digests=dict(DIGESTS), overlapping={})


# Judges with a fault --------------------------------------------------------------------------------------------------------------


def on_models(change: Callable[[ModelEvidence], ModelEvidence]) -> Judge:
    """A judge that reads the models wrong."""
    return lambda rules, found: decide(rules, replace(found, models={role: change(each) for role, each in found.models.items()}))


def on_rules(**changes: Any) -> Judge:
    """A judge that reads the rules wrong."""
    return lambda rules, found: decide([each.model_copy(update=changes) for each in rules], found)


def on_answers(change: Callable[[Judgement], Judgement]) -> Judge:
    """A judge that gets the answers wrong, and the verdict right from them."""

    def judge(rules: Sequence[Rule], found: Evidence) -> Decision:
        answers = tuple(change(answer) for answer in decide(rules, found).judgements)
        return Decision(*verdict.combine(answers), answers)

    return judge


def on_verdicts(change: Callable[[Decision], Verdict]) -> Judge:
    """A judge that gets the answers right, and the verdict wrong."""

    def judge(rules: Sequence[Rule], found: Evidence) -> Decision:
        decision = decide(rules, found)
        return replace(decision, verdict=change(decision))

    return judge


def cleaned(each: ModelEvidence) -> ModelEvidence:
    """NaN and infinity are left out, as numpy.nanmean does, and figures are those of what is left."""
    by_suite = {}
    for suite, scored in each.rows.items():
        whole = np.isfinite(scored.nll) & (np.isfinite(scored.kl) | (suite == "target"))
        by_suite[suite] = replace(scored, nll=np.where(whole, scored.nll, 2.0), kl=np.where(np.isfinite(scored.kl), scored.kl, 0.0))
    return recounted(replace(each, rows=by_suite))


def recounted(each: ModelEvidence) -> ModelEvidence:
    """What is reported does not matter: figures are computed from the rows."""
    names = {f"{suite}.{measure}" for suite in each.rows for measure in ("nll", "rouge_l", "kl_base")}
    values = {name: metric.value(each.rows[metric.suite]) for name in names if (metric := parse(name))}
    return replace(each, metrics={**each.metrics, **{name: value for name, value in values.items() if value is not None}})


def filled(each: ModelEvidence) -> ModelEvidence:
    """A figure that is missing is computed from the rows."""
    return replace(each, metrics={**recounted(each).metrics, **each.metrics})


def joined(rules: Sequence[Rule], found: Evidence) -> Decision:
    """Rows that are not in both are left out, and so are repetitions."""
    common = {suite: set.intersection(*(set(each.rows[suite].ids) for each in found.models.values())) for suite in DIGESTS}

    def kept(each: ModelEvidence) -> ModelEvidence:
        by_suite = {}
        for suite, scored in each.rows.items():
            places = [place for place, name in enumerate(scored.ids) if name in common[suite] and name not in scored.ids[:place]]
            by_suite[suite] = taken(scored, places)
        return recounted(replace(each, rows=by_suite))

    return on_models(kept)(rules, found)


def taken(scored: Rows, places: Sequence[int]) -> Rows:
    columns: dict[str, Any] = {}
    for field in fields(scored):
        column = getattr(scored, field.name)
        columns[field.name] = column[list(places)] if isinstance(column, np.ndarray) else tuple(column[place] for place in places)
    return Rows(**columns)


def by_position(each: ModelEvidence) -> ModelEvidence:
    """Rows are compared in the order in which they stand."""

    def numbered(scored: Rows) -> Rows:
        blank = ("",) * len(scored.ids)
        return replace(scored, ids=tuple(f"{place:06}" for place in range(len(blank))), inputs=blank, kinds=blank)

    return replace(each, rows={suite: numbered(scored) for suite, scored in each.rows.items()})


def exchanged(rules: Sequence[Rule], found: Evidence) -> Decision:
    """Candidate and baseline are mixed up."""
    for role in ("champion", "base"):
        if role in found.models and any(each.baseline == role for each in rules):
            return decide(rules, mutations.exchange_models(found, role))
    return decide(rules, found)


def renamed(rules: Sequence[Rule], found: Evidence) -> Decision:
    """Whether two models are one is not looked at."""
    named = {}
    for role, each in found.models.items():
        by_suite = {suite: jittered(scored, role) for suite, scored in each.rows.items()}
        named[role] = replace(each, model=role, run=role, weights_digest=role, rows=by_suite)
    return decide(rules, replace(found, models=named))


def jittered(scored: Rows, role: str) -> Rows:
    return replace(scored, nll=scored.nll * (1 + 1e-9 * len(role)))


def replaced(rules: Sequence[Rule], found: Evidence) -> Decision:
    """Where the champion is missing, another model answers for it without a word."""
    missing = {role: why for role, why in found.missing.items() if role != "champion"}
    return decide(rules, replace(found, missing=missing))


def first_only(rules: Sequence[Rule], found: Evidence) -> Decision:
    """Only the first rule is answered."""
    return decide(rules[:1], found)


def breaking(rules: Sequence[Rule], found: Evidence) -> Decision:
    if not all(math.isfinite(figure) for figure in found.models["candidate"].metrics.values()):
        raise ZeroDivisionError("float division by zero")
    return decide(rules, found)


def outvoted(decision: Decision) -> Verdict:
    shown = sum(answer.outcome is Outcome.SHOWN for answer in decision.judgements if answer.critical)
    return Verdict.PROMOTE if 2 * shown > len(decision.judgements) - 1 else decision.verdict


def lenient(decision: Decision) -> Verdict:
    return Verdict.PROMOTE if decision.verdict is Verdict.HOLD else decision.verdict


def absolute(answer: Judgement) -> Judgement:
    return answer.model_copy(update={"difference": None if answer.difference is None else abs(answer.difference)})


def one_sided_ends(answer: Judgement) -> Judgement:
    if answer.interval is None or answer.difference is None:
        return answer
    return answer.model_copy(update={"interval": answer.interval.model_copy(update={"low": answer.difference})})


def always_shown(answer: Judgement) -> Judgement:
    return answer.model_copy(update={"outcome": Outcome.SHOWN})


def by_the_point(answer: Judgement) -> Judgement:
    if answer.interval is None or answer.distance is None:
        return answer
    return answer.model_copy(update={"outcome": Outcome.SHOWN if answer.distance > 0 else Outcome.FAILED})


def never_failed(answer: Judgement) -> Judgement:
    return answer.model_copy(update={"outcome": Outcome.UNPROVEN}) if answer.outcome is Outcome.FAILED else answer


def doubt_helps(answer: Judgement) -> Judgement:
    return answer.model_copy(update={"outcome": Outcome.SHOWN}) if answer.outcome is Outcome.UNPROVEN else answer


def opposite(rules: Sequence[Rule], found: Evidence) -> Decision:
    """The margin's sign is mixed up: what demands an improvement tolerates a loss."""
    return decide([each.model_copy(update={"margin": -each.margin}) for each in rules], found)


JUDGES: dict[str, tuple[Judge, str]] = {
    "always says yes": (on_verdicts(lambda _: Verdict.PROMOTE), "the verdict as it stands|a figure of the candidate is NaN"),
    "says that all is shown": (on_answers(always_shown), "a figure of the candidate is NaN"),
    "takes doubt for a yes": (on_answers(doubt_helps), "too few rows"),
    "takes HOLD for PROMOTE": (on_verdicts(lenient), "one rule has no evidence"),
    "lets the good rules outvote the bad": (on_verdicts(outvoted), "one rule has no evidence"),
    "never rejects": (on_answers(never_failed), "a planted regression: target.nll: not worse than the champion"),
    "answers the first rule only": (first_only, "the verdict as it stands"),
    "leaves NaN out": (on_models(cleaned), "a row of the candidate is NaN"),
    "fills in what is missing": (on_models(filled), "a figure of the candidate is missing"),
    "breaks on NaN": (breaking, "a figure of the candidate is NaN"),
    "believes the rows and not the report": (on_models(recounted), "a figure flatters"),
    "swaps candidate and baseline": (exchanged, "a planted regression: target.nll: not worse than the champion"),
    "takes the difference without its sign": (on_answers(absolute), "candidate and champion exchanged"),
    "has lopsided intervals": (on_answers(one_sided_ends), "candidate and champion exchanged"),
    "holds higher for better": (on_rules(direction="higher"), "a planted regression: retention.nll: at most 5 % worse than the base"),
    "holds lower for better": (on_rules(direction="lower"), "a planted regression: target.rouge_l: at most 0.2 worse than the base"),
    "mixes up the margin's sign": (opposite, "next to the margin: target.nll: at most 5 % worse than the base"),
    "makes no test": (on_rules(test="none"), "the verdict as it stands"),
    "makes a test and looks at two numbers": (on_answers(by_the_point), "next to the margin: target.nll: not worse than the champion"),
    "ignores digests": (on_models(lambda each: replace(each, suite_digests=dict(DIGESTS))), "the candidate was scored on another suite"),
    "ignores overlaps": (lambda rules, found: decide(rules, replace(found, overlapping={})), "the suites overlap the training data"),
    "ignores min_rows": (on_rules(min_rows=1), "too few rows"),
    "ignores who is who": (renamed, "the candidate is the champion (id)"),
    "joins the rows": (joined, "a row of the candidate is foreign"),
    "compares by position": (on_models(by_position), "a row of the candidate is foreign"),
    "replaces a missing champion": (replaced, "the champion is missing"),
    "remembers": (lambda rules, _: decide(rules, of()), "a figure of the candidate is NaN"),
}  # fmt: skip


def test_a_judge_without_a_fault_is_let_be() -> None:
    made = probes(of())
    assert {probe.result for probe in made} == {"passed"}
    assert len({probe.name for probe in made}) == len(made)


@pytest.mark.parametrize("name", JUDGES)
def test_a_judge_with_a_fault_is_caught(name: str) -> None:
    judge, caught = JUDGES[name]
    found = missed(of(), judge)
    assert any(each.startswith(tuple(caught.split("|"))) for each in found), found


@pytest.mark.parametrize("name", sorted(JUDGES.keys() - {"lets the good rules outvote the bad"}))
def test_a_judge_with_a_fault_is_caught_even_where_it_would_change_nothing(name: str) -> None:
    """The candidate is bad, so that a wrong gate says REJECT, too. (Bad rules that are in the majority can't be outvoted.)"""
    judge, _ = JUDGES[name]
    assert missed(of(0.4), judge)


PARTS = {
    "_of_the_models": "the candidate is the base (id)",
    "_same": "the candidate is the champion (scoring run)",
    "_of_the_suite": "the candidate was scored on another suite",
    "_of_the_pair": "a row of the candidate is foreign",
    "_of_the_value": "a figure of the candidate is infinite",
    "_possible": "a row of the candidate is minus infinite",
}


@pytest.mark.parametrize("part", PARTS)
def test_every_check_of_the_gate_is_missed_when_it_is_gone(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not invented faults, but the gate itself with a check taken out."""
    rules = (*RULES, rule("target.exact_match", "higher", baseline="champion", test="mcnemar"))
    found = of()
    assert not missed(found, rules=rules)
    empty: Any = {"_same": lambda *_: "", "_possible": lambda *_: True}.get(part, lambda *_: iter(()))
    monkeypatch.setattr(validity, part, empty)
    assert PARTS[part] in missed(found, rules=rules)


def test_a_message_names_the_rule_and_what_it_said() -> None:
    [wrong] = [probe for probe in probes(of(), JUDGES["ignores overlaps"][0]) if probe.result == "missed"]
    assert wrong.expected == "every rule that reads it is invalid"
    assert "target.nll: not worse than the champion is shown" in wrong.found


# A judge without ------------------------------------------------------------------------------------------------------------------

KINDS_OF_RULES = (
    rule("retention.*.nll", baseline="base", margin=0.05, test="paired_bootstrap"),
    rule(baseline="champion", margin=0.02, test="wilcoxon"),
    rule(baseline="champion", margin=0.05, margin_kind="absolute", test="wilcoxon"),
    rule("target.exact_match", "higher", baseline="champion", test="mcnemar"),
    rule("target.exact_match", "higher", baseline="champion", margin=0.1, margin_kind="absolute", test="paired_bootstrap"),
    rule("retention.token_accuracy", "higher", baseline="base", margin=0.03, test="paired_bootstrap"),
    rule("target.perplexity", baseline="champion", margin=0.1),
    rule("target.tokens", "higher", floor=1.0),
    rule("target.nll", baseline="champion", margin=0.2, test="paired_bootstrap", ceiling=9.0, max_gain=0.5, min_rows=4),
    rule("target.nll", "higher", baseline="champion", margin=0.2, test="paired_bootstrap"),
)


@pytest.mark.parametrize("champion", [True, False], ids=["champion", "first run"])
@pytest.mark.parametrize("shift", [-0.4, 0.0, 0.4])
@pytest.mark.parametrize("n", [2, 6, 60])
def test_whatever_the_verdict_nothing_is_missed(n: int, shift: float, champion: bool) -> None:
    assert not missed(of(shift, n, champion=champion), rules=(*RULES, *KINDS_OF_RULES))


def test_a_candidate_that_is_ruined_makes_no_false_alarm() -> None:
    # Its rows spread so far that a tenth of the MDE is wide, until they are moved back to the margin.
    sure, ruined = rows("base", n=60), rows("candidate", n=60)
    for place, (row, other) in enumerate(zip(sure, ruined, strict=True)):
        row["nll"] *= 0.1
        other["nll"] = row["nll"] * 1.01 + row["tokens"] * (4 + place % 13)
    spoilt = evidence(candidate=model("candidate", ruined), base=model("base", sure))
    assert not missed(spoilt, rules=[rule("retention.nll", baseline="base", margin=0.2, test="paired_bootstrap")])


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 10_000), st.floats(-0.5, 0.5), st.floats(-0.2, 0.2), st.sampled_from(["relative", "absolute"]))
def test_no_margin_and_no_candidate_makes_a_false_alarm(seed: int, shift: float, margin: float, kind: str) -> None:
    asked = [rule(baseline="champion", margin=margin, margin_kind=kind, test=test) for test in ("paired_bootstrap", "wilcoxon")]
    assert not missed(of(shift, 30, seed=seed), rules=asked)


@example(1, 0.1, 0.8, 0.15, "relative")
@settings(max_examples=12, deadline=None)
@given(
    st.integers(0, 10_000),
    st.sampled_from([0.02, 0.1, 0.3]),
    st.floats(0.3, 1.0),
    st.floats(-0.1, 0.2),
    st.sampled_from(["relative", "absolute"]),
)
def test_rows_of_unequal_difficulty_make_no_false_alarm(seed: int, gain: float, spread: float, margin: float, kind: str) -> None:
    """The typical row is somewhere else than the figure over all tokens, and a relative margin is another one for every row."""
    made = {role: rows(role, n=80, seed=seed) for role in ("candidate", "champion", "base")}
    factors = np.exp(spread * np.random.default_rng(seed).standard_normal(len(made["base"])))
    for role, scored in made.items():
        for row, factor in zip(scored, factors, strict=True):
            row["nll"] *= factor * (1 - gain if role == "candidate" else 1)
    asked = [rule(baseline="champion", margin=margin, margin_kind=kind, test=test) for test in ("wilcoxon", "paired_bootstrap")]
    assert not missed(evidence(*(model(role, scored) for role, scored in made.items())), rules=asked)


def test_what_no_rule_reads_is_not_passed() -> None:
    made = {probe.name: probe for probe in probes(of(), rules=(rule("retention.kl_base", ceiling=0.5),))}
    for name in ("a figure of the baseline is NaN", "a row of the candidate is dropped", "rows are read as other tokens"):
        assert (made[name].result, made[name].found) == ("not applicable", "no critical rule reads it")
    assert made["a figure of the candidate is NaN"].result == "passed"


def test_evidence_that_is_invalid_already_proves_nothing() -> None:
    found = replace(of(), overlapping={"target": "all of it", "retention": "all of it"})
    made = {probe.name: probe for probe in probes(found)}
    assert made.pop("the verdict as it stands").result == "passed"
    assert {probe.result for probe in made.values()} == {"not applicable"}
    assert "no valid evidence to begin with" in made["a figure of the candidate is NaN"].found


def test_without_critical_rules_there_is_nothing_to_prove() -> None:
    for rules in ((), (rule(ceiling=3.0, critical=False),)):
        results = [probe.result for probe in probes(of(), rules=rules)]
        assert results[0] == "passed"
        assert set(results[1:]) == {"not applicable"}


def test_a_regression_too_small_for_these_rows_is_held() -> None:
    asked = rule(baseline="champion", margin=0.001, test="paired_bootstrap")
    made = {probe.name: probe for probe in probes(of(0.0, 20), rules=(asked,))}
    probe = made["a planted regression: target.nll: at most 0.1 % worse than the champion"]
    assert probe.result == "passed"
    assert probe.found.startswith("unproven, 0.00")


# The sabotages --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("relative", [True, False])
@pytest.mark.parametrize(
    ("name", "target"),
    [("target.nll", 2.5), ("target.nll", 1.0), ("retention.kl_base", 0.3), ("retention.facts.nll", 3.0), ("retention.token_accuracy", 0.5),
     ("target.rouge_l", 0.2), ("target.rouge_l", 0.9)],
)  # fmt: skip
def test_a_figure_is_moved_to_where_it_was_asked(name: str, target: float, relative: bool) -> None:
    found, metric = of(), parse(name)
    assert metric is not None
    moved = mutations.move(found, metric, "champion", target, relative=relative).models["candidate"]
    # Scores in [0, 1] can't all grow.
    assert moved.metrics[name] == pytest.approx(target, abs=0.2 if target == 0.9 else 1e-9)
    assert metric.value(moved.rows[metric.suite]) == moved.metrics[name]


def test_right_rows_are_flipped() -> None:
    found, metric = of(), parse("target.exact_match")
    assert metric is not None
    for right in (0, 7, 60):
        moved = mutations.move(found, metric, "champion", right / 60, relative=False).models["candidate"]
        assert moved.metrics["target.exact_match"] == pytest.approx(right / 60)


def test_the_evidence_stays_as_it_is() -> None:
    found, same = of(), of()
    probes(found, rules=(*RULES, *KINDS_OF_RULES))
    for role, each in found.models.items():
        assert each.metrics == same.models[role].metrics
        for suite, scored in each.rows.items():
            for field in fields(scored):
                np.testing.assert_array_equal(getattr(scored, field.name), getattr(same.models[role].rows[suite], field.name))


def test_every_measure_with_scores_can_be_spoilt() -> None:
    assert mutations.COLUMNS.keys() == set(metrics._COMMON) - {"rows", "tokens"} | {"rouge_l", "kl_base"}
