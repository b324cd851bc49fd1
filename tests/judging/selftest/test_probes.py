"""The self-test detects every faulty judge and raises no false alarm for a correct one."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mlops.core.judgement import Judgement, Outcome, Probe, Verdict
from mlops.core.settings import Rule
from mlops.judging import comparison, validity, verdict
from mlops.judging.evidence import Evidence, ModelEvidence, Rows
from mlops.judging.metrics import parse
from mlops.judging.selftest import mutations
from mlops.judging.selftest.probes import self_test
from mlops.judging.statistics.bootstrap import paired_bootstrap
from mlops.judging.verdict import Decision, decide
from tests.support.evidence import DIGESTS, RETENTION, freeze, make_evidence, make_model, make_rows, make_rule

RULES = (
    make_rule(baseline="champion", test="paired_bootstrap", min_rows=50),
    make_rule(baseline="base", margin=-0.05, test="paired_bootstrap", min_rows=50),
    make_rule("target.rouge_l", "higher", baseline="base", margin=0.2, margin_kind="absolute", test="paired_bootstrap"),
    make_rule("retention.nll", baseline="base", margin=0.05, test="paired_bootstrap", min_rows=50),
    make_rule("retention.kl_base", ceiling=0.5),
    make_rule("target.nll", ceiling=3.0, baseline="champion", critical=False),
)

Judge = Callable[[Sequence[Rule], Evidence], Decision]


@pytest.fixture(scope="module", autouse=True)
def few_resamples() -> Iterator[None]:
    """Draw fewer resamples: what is detected does not depend on their number. One test below draws all of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comparison, "paired_bootstrap", functools.partial(paired_bootstrap, resamples=999))
        yield


def probes(evidence: Evidence, judge: Judge = decide, rules: Sequence[Rule] = RULES) -> tuple[Probe, ...]:
    return self_test(rules, evidence, judge(rules, evidence), judge)


def missed(evidence: Evidence, judge: Judge = decide, rules: Sequence[Rule] = RULES) -> set[str]:
    return {probe.name for probe in probes(evidence, judge, rules) if probe.result == "missed"}


def evidence_of(shift: float = -0.4, n: int = 60, *, champion: bool = True, seed: int = 0) -> Evidence:
    """Make evidence of a candidate that is worse than champion and base by ``shift`` nats per token."""
    roles = ("candidate", "champion", "base") if champion else ("candidate", "base")
    models = {role: make_model(role, make_rows(role, n=n, seed=seed, shift=shift if role == "candidate" else 0.0)) for role in roles}
    return Evidence(models=models, suite_digests=dict(DIGESTS), overlapping={}, suites=freeze(models["base"]))


# Faulty judges --------------------------------------------------------------------------------------------------------------------


def on_models(change: Callable[[ModelEvidence], ModelEvidence]) -> Judge:
    """Make a judge that misreads the models, and takes what it has read for the frozen suites."""

    def judge(rules: Sequence[Rule], evidence: Evidence) -> Decision:
        models = {role: change(each) for role, each in evidence.models.items()}
        return decide(rules, replace(evidence, models=models, suites=freeze(models["candidate"])))

    return judge


def on_rules(**changes: Any) -> Judge:
    """Make a judge that misreads the rules."""
    return lambda rules, evidence: decide([each.model_copy(update=changes) for each in rules], evidence)


def on_judgements(change: Callable[[Judgement], Judgement]) -> Judge:
    """Make a judge whose judgements are wrong, and whose verdict follows from them."""

    def judge(rules: Sequence[Rule], evidence: Evidence) -> Decision:
        judgements = tuple(change(judgement) for judgement in decide(rules, evidence).judgements)
        return Decision(*verdict.combine(judgements), judgements)

    return judge


def on_verdicts(change: Callable[[Decision], Verdict]) -> Judge:
    """Make a judge whose judgements are right and whose verdict is wrong."""

    def judge(rules: Sequence[Rule], evidence: Evidence) -> Decision:
        decision = decide(rules, evidence)
        return replace(decision, verdict=change(decision))

    return judge


def skip_nan(each: ModelEvidence) -> ModelEvidence:
    """Replace NaN and infinity, as numpy.nanmean ignores them, and recompute the metrics."""
    by_suite = {}
    for suite, rows in each.rows.items():
        nll, kl = rows.columns["nll"], rows.columns["kl"]
        is_finite = np.isfinite(nll) & (np.isfinite(kl) | (suite == "target"))
        rows = rows.with_column("nll", np.where(is_finite, nll, 2.0))
        by_suite[suite] = rows.with_column("kl", np.where(np.isfinite(kl), kl, 0.0))
    return recompute_from_rows(replace(each, rows=by_suite))


def recompute_from_rows(each: ModelEvidence) -> ModelEvidence:
    """Ignore the reported metrics and compute them from the rows."""
    names = {f"{suite}.{measure}" for suite in each.rows for measure in ("nll", "rouge_l", "kl_base")}
    values = {name: metric.value(each.rows[metric.suite]) for name in names if (metric := parse(name))}
    return replace(each, metrics={**each.metrics, **{name: value for name, value in values.items() if value is not None}})


def fill_in_missing(each: ModelEvidence) -> ModelEvidence:
    """Compute missing metrics from the rows."""
    return replace(each, metrics={**recompute_from_rows(each).metrics, **each.metrics})


def join_rows(rules: Sequence[Rule], evidence: Evidence) -> Decision:
    """Drop rows that are not in all models, and duplicates."""
    common = {suite: set.intersection(*(set(each.rows[suite].ids) for each in evidence.models.values())) for suite in DIGESTS}

    def keep_common(each: ModelEvidence) -> ModelEvidence:
        by_suite = {}
        for suite, rows in each.rows.items():
            indices = [index for index, name in enumerate(rows.ids) if name in common[suite] and name not in rows.ids[:index]]
            by_suite[suite] = mutations.take_rows(rows, indices)
        return recompute_from_rows(replace(each, rows=by_suite))

    return on_models(keep_common)(rules, evidence)


def by_position(each: ModelEvidence) -> ModelEvidence:
    """Compare rows by position and ignore their ids."""

    def numbered(rows: Rows) -> Rows:
        places = tuple(f"{index:06}" for index in range(len(rows.ids)))
        return replace(rows, ids=places, inputs=places, kinds=("",) * len(places))

    return replace(each, rows={suite: numbered(rows) for suite, rows in each.rows.items()})


def swap_models(rules: Sequence[Rule], evidence: Evidence) -> Decision:
    """Confuse candidate and baseline."""
    for role in ("champion", "base"):
        if role in evidence.models and any(each.baseline == role for each in rules):
            return decide(rules, mutations.swap_models(evidence, role))
    return decide(rules, evidence)


def ignore_identity(rules: Sequence[Rule], evidence: Evidence) -> Decision:
    """Don't check whether two models are the same."""
    models = {}
    for role, each in evidence.models.items():
        by_suite = {suite: jitter(rows, role) for suite, rows in each.rows.items()}
        models[role] = replace(each, model=role, run=role, weights_digest=role, rows=by_suite)
    return decide(rules, replace(evidence, models=models))


def jitter(rows: Rows, role: str) -> Rows:
    return rows.with_column("nll", rows.columns["nll"] * (1 + 1e-4 * len(role)))


def replace_champion(rules: Sequence[Rule], evidence: Evidence) -> Decision:
    """Silently replace a missing champion."""
    missing = {role: why for role, why in evidence.missing.items() if role != "champion"}
    return decide(rules, replace(evidence, missing=missing))


def first_only(rules: Sequence[Rule], evidence: Evidence) -> Decision:
    """Judge only the first rule."""
    return decide(rules[:1], evidence)


def raise_on_nan(rules: Sequence[Rule], evidence: Evidence) -> Decision:
    if not all(math.isfinite(value) for value in evidence.models["candidate"].metrics.values()):
        raise ZeroDivisionError("float division by zero")
    return decide(rules, evidence)


def outvote(decision: Decision) -> Verdict:
    shown = sum(judgement.outcome is Outcome.SHOWN for judgement in decision.judgements if judgement.critical)
    return Verdict.PROMOTE if 2 * shown > len(decision.judgements) - 1 else decision.verdict


def lenient(decision: Decision) -> Verdict:
    return Verdict.PROMOTE if decision.verdict is Verdict.HOLD else decision.verdict


def absolute(judgement: Judgement) -> Judgement:
    return judgement.model_copy(update={"difference": None if judgement.difference is None else abs(judgement.difference)})


def one_sided_ends(judgement: Judgement) -> Judgement:
    if judgement.interval is None or judgement.difference is None:
        return judgement
    return judgement.model_copy(update={"interval": judgement.interval.model_copy(update={"low": judgement.difference})})


def always_shown(judgement: Judgement) -> Judgement:
    return judgement.model_copy(update={"outcome": Outcome.SHOWN})


def by_the_point(judgement: Judgement) -> Judgement:
    if judgement.interval is None or judgement.distance is None:
        return judgement
    return judgement.model_copy(update={"outcome": Outcome.SHOWN if judgement.distance > 0 else Outcome.FAILED})


def never_failed(judgement: Judgement) -> Judgement:
    return judgement.model_copy(update={"outcome": Outcome.UNPROVEN}) if judgement.outcome is Outcome.FAILED else judgement


def doubt_helps(judgement: Judgement) -> Judgement:
    return judgement.model_copy(update={"outcome": Outcome.SHOWN}) if judgement.outcome is Outcome.UNPROVEN else judgement


def opposite(rules: Sequence[Rule], evidence: Evidence) -> Decision:
    """Confuse the margin's sign: what demands an improvement tolerates a loss."""
    return decide([each.model_copy(update={"margin": -each.margin}) for each in rules], evidence)


JUDGES: dict[str, tuple[Judge, str]] = {
    "always says yes": (on_verdicts(lambda _: Verdict.PROMOTE), "the original verdict|a metric value of the candidate is NaN"),
    "says that everything is shown": (on_judgements(always_shown), "a metric value of the candidate is NaN"),
    "treats doubt as yes": (on_judgements(doubt_helps), "too few rows"),
    "treats HOLD as PROMOTE": (on_verdicts(lenient), "one rule has no valid evidence"),
    "lets the good rules outvote the bad": (on_verdicts(outvote), "one rule has no valid evidence"),
    "never rejects": (on_judgements(never_failed), "a planted regression: target.nll: not worse than the champion"),
    "judges only the first rule": (first_only, "the original verdict"),
    "skips NaN": (on_models(skip_nan), "a row of the candidate is NaN"),
    "fills in what is missing": (on_models(fill_in_missing), "a metric value of the candidate is missing"),
    "raises on NaN": (raise_on_nan, "a metric value of the candidate is NaN"),
    "ignores the reported metrics": (on_models(recompute_from_rows), "metric values are better than the rows"),
    "swaps candidate and baseline": (swap_models, "a planted regression: target.nll: not worse than the champion"),
    "drops the sign of the difference": (on_judgements(absolute), "candidate and champion swapped"),
    "has lopsided intervals": (on_judgements(one_sided_ends), "candidate and champion swapped"),
    "believes that higher is better": (on_rules(direction="higher"), "a planted regression: retention.nll: at most 5 % worse"),
    "believes that lower is better": (on_rules(direction="lower"), "a planted regression: target.rouge_l: at most 0.2 worse than the base"),
    "confuses the margin's sign": (opposite, "next to the margin: target.nll: at most 5 % worse than the base"),
    "runs no test": (on_rules(test="none"), "the original verdict"),
    "runs a test but compares two numbers": (on_judgements(by_the_point), "next to the margin: target.nll: not worse than the champion"),
    "ignores digests": (on_models(lambda each: replace(each, suite_digests=dict(DIGESTS))), "the candidate was scored on a different"),
    "ignores overlaps": (lambda rules, evidence: decide(rules, replace(evidence, overlapping={})), "the suites overlap the training data"),
    "ignores min_rows": (on_rules(min_rows=1), "too few rows"),
    "ignores identities": (ignore_identity, "the candidate is the champion (id)"),
    "joins the rows": (join_rows, "a row of the candidate is foreign"),
    "compares by position": (on_models(by_position), "a row of the candidate is foreign"),
    "replaces a missing champion": (replace_champion, "the champion is missing"),
    "judges fixed evidence": (lambda rules, _: decide(rules, evidence_of()), "a metric value of the candidate is NaN"),
}  # fmt: skip


def test_the_real_judge_detects_every_mutation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "paired_bootstrap", paired_bootstrap)
    results = probes(evidence_of())
    assert {probe.result for probe in results} == {"detected"}
    assert len({probe.name for probe in results}) == len(results)


@pytest.mark.parametrize("name", JUDGES)
def test_a_faulty_judge_is_caught(name: str) -> None:
    judge, expected = JUDGES[name]
    probes = missed(evidence_of(), judge)
    assert any(each.startswith(tuple(expected.split("|"))) for each in probes), probes


@pytest.mark.parametrize("name", sorted(JUDGES.keys() - {"lets the good rules outvote the bad"}))
def test_a_faulty_judge_is_caught_even_if_its_verdict_is_right(name: str) -> None:
    """The candidate is bad, so a faulty gate also says REJECT. (If most rules fail, they can't be outvoted.)"""
    judge, _ = JUDGES[name]
    assert missed(evidence_of(0.4), judge)


def test_a_judge_that_overlooks_rows_that_got_much_worse_is_caught() -> None:
    rule = make_rule(baseline="champion", margin=0.5, margin_kind="absolute", test="tail", max_share=0.2)
    rules = (rule, make_rule(baseline="champion", margin=0.1), RETENTION)
    assert not missed(evidence_of(), rules=rules)
    [name] = missed(evidence_of(), on_rules(max_share=0.99), rules=rules)
    assert name.startswith("spoiled rows: target.nll: worse than the champion by more than 0.5")


def test_a_judge_that_believes_the_models_about_the_digest_of_a_frozen_suite_is_caught() -> None:
    def judge(rules: Sequence[Rule], evidence: Evidence) -> Decision:
        """Judge what the candidate was scored on, if validation froze a suite of that name."""
        digests = {suite: evidence.models["candidate"].suite_digests[suite] for suite in evidence.suite_digests.keys() & DIGESTS}
        return decide(rules, replace(evidence, suite_digests=digests))

    assert "validation froze a different suite" in missed(evidence_of(), judge)


def test_a_judge_that_shows_a_rule_without_its_interval_is_caught() -> None:
    judge = on_judgements(lambda judgement: judgement.model_copy(update={"interval": None, "mde": None}))
    [probe] = [probe for probe in probes(evidence_of(), judge) if probe.name == "the original verdict"]
    assert probe.result == "missed"
    assert "target.nll: not worse than the champion is shown without an interval" in probe.actual


def test_copies_of_rows_of_another_kind_cause_no_false_alarm() -> None:
    def sort_kinds(each: ModelEvidence) -> ModelEvidence:
        rows = each.rows["retention"]
        kinds = ("facts",) * (len(rows.ids) // 2) + ("refusal",) * (len(rows.ids) // 2)
        return replace(each, rows={**each.rows, "retention": replace(rows, kinds=kinds)})

    models = {role: sort_kinds(each) for role, each in evidence_of().models.items()}
    for role, each in models.items():
        nll = parse("retention.facts.nll")
        assert nll is not None
        models[role] = replace(each, metrics={**each.metrics, nll.name: nll.value(each.rows["retention"]) or 0.0})
    evidence = replace(evidence_of(), models=models, suites=freeze(models["base"]))
    rule = make_rule("retention.facts.nll", baseline="base", margin=0.05, test="paired_bootstrap")
    results = {probe.name: probe.result for probe in probes(evidence, rules=(rule,))} | dict.fromkeys(WORSE)
    assert "missed" not in results.values()
    assert results["rows are copies of others"] == "not applicable"


def test_a_judge_that_checks_the_candidate_only_is_caught() -> None:
    def judge(rules: Sequence[Rule], evidence: Evidence) -> Decision:
        return decide(
            rules, replace(evidence, models={role: each if role == "candidate" else repair(each) for role, each in evidence.models.items()})
        )

    def repair(each: ModelEvidence) -> ModelEvidence:
        return recompute_from_rows(skip_nan(each))

    names = missed(evidence_of(), judge)
    assert {"a row of the baseline is NaN", "a metric value of the baseline is missing"} <= names
    assert not any("candidate" in name and "swapped" not in name for name in names)


def test_a_model_recorded_as_missing_has_no_scores() -> None:
    replayed: list[Evidence] = []

    def judge(rules: Sequence[Rule], evidence: Evidence) -> Decision:
        replayed.append(evidence)
        return decide(rules, evidence)

    probes(evidence_of(), judge)
    without = [(role, set(evidence.models)) for evidence in replayed for role in evidence.missing]
    assert without == [("base", {"candidate", "champion"}), ("champion", {"candidate", "base"})]


def test_rules_that_can_stop_nothing_are_caught() -> None:
    assert missed(evidence_of(), rules=(make_rule(ceiling=19.0), RETENTION)) == {
        f"a {what} candidate: target suite" for what in ("ruined", "worse")
    }
    assert not missed(evidence_of(), rules=(make_rule(ceiling=2.2), RETENTION))


WORSE = {f"a worse candidate: {suite} suite" for suite in DIGESTS}
TOO_LENIENT: dict[str, tuple[Rule, ...]] = {
    "a tolerance of half the loss": (make_rule(baseline="champion", test="paired_bootstrap", margin=0.5), RETENTION),
    "a large margin": (make_rule("target.perplexity", baseline="champion", margin_kind="absolute", margin=10.0), RETENTION),
    "rows that may be 1 nat worse": (
        make_rule(baseline="champion", margin=1.0, margin_kind="absolute", test="tail", max_share=0.2), RETENTION,
    ),
    "a high ceiling": (make_rule("target.perplexity", ceiling=1000.0), RETENTION),
    "answers of any length": (make_rule("target.length_ratio", "higher", floor=0.1), RETENTION),
}  # fmt: skip


@pytest.mark.parametrize("name", TOO_LENIENT)
def test_rules_that_let_a_plainly_worse_candidate_through_are_caught(name: str) -> None:
    """A ruined candidate fails by some of them; one that is half a nat worse does not."""
    assert "a worse candidate: target suite" in missed(evidence_of(), rules=TOO_LENIENT[name])


@pytest.mark.parametrize("rule", [make_rule(baseline="champion", test="paired_bootstrap"), make_rule("retention.kl_base", ceiling=0.5)])
def test_each_suite_needs_a_critical_rule_that_stops_a_worse_candidate(rule: Rule) -> None:
    reported = RETENTION.model_copy(update={"critical": False})
    dropped = WORSE - {"a worse candidate: target suite"} if rule.metric == "target.nll" else WORSE
    assert missed(evidence_of(), rules=(rule,)) == missed(evidence_of(), rules=(rule, reported)) == dropped
    [probe, *_] = [probe for probe in probes(evidence_of(), rules=(rule,)) if probe.result == "missed"]
    assert rule.metric != "target.nll" or probe.actual == "no critical rule is about the retention suite"


def test_without_critical_rules_or_valid_evidence_no_worse_candidate_is_planted() -> None:
    rules = (make_rule(ceiling=19.0), RETENTION)
    assert not WORSE & {
        probe.name for probe in probes(evidence_of(), rules=[each.model_copy(update={"critical": False}) for each in rules])
    }
    overlapping = replace(evidence_of(), overlapping={"target": "1 row"})
    results = {probe.name: probe.result for probe in probes(overlapping, rules=rules)}
    assert [results[name] for name in sorted(WORSE)] == ["detected", "not applicable"]


def test_a_worse_candidate_is_worse_than_every_other_model_in_each_row() -> None:
    worse = mutations.regress(evidence_of(-1.5), "target", {"target.nll", "target.token_accuracy"}, 0.5).models
    candidate, base, champion = (worse[role].rows["target"] for role in ("candidate", "base", "champion"))
    for other in (base, champion):
        assert (candidate.columns["nll"] >= other.columns["nll"] + 0.499 * other.tokens).all()
        assert (candidate.columns["greedy_tokens"] <= other.columns["greedy_tokens"] / 2).all()
    assert worse["candidate"].metrics["target.nll"] > worse["base"].metrics["target.nll"] + 0.499
    assert worse["candidate"].rows["retention"] is not None
    assert (candidate.columns["nll"] - np.fmax(base.columns["nll"], champion.columns["nll"]) <= 0.501 * base.tokens).all()


def test_a_judge_that_judges_a_ruined_candidate_inconsistently_is_caught() -> None:
    judge = on_verdicts(lambda decision: Verdict.HOLD if decision.verdict is Verdict.REJECT else decision.verdict)
    assert "a ruined candidate: target suite" in missed(evidence_of(), judge, rules=(make_rule(ceiling=2.2), RETENTION))


def test_a_regression_that_ends_exactly_on_the_margin_is_not_planted() -> None:
    """A share can't be worse than 0, and there the candidate is worse by exactly the margin."""
    rule = make_rule("retention.passed", "higher", baseline="base", margin=0.25, margin_kind="absolute", test="tango")
    rows = {role: make_rows(role) for role in ("candidate", "base")}
    for each in rows.values():
        for number, row in enumerate(row for row in each if row["suite"] == "retention"):
            row["passed"] = float(number % 4 == 0)
    evidence = make_evidence(
        *(make_model(role, rows["base" if role == "base" else "candidate"]) for role in ("candidate", "champion", "base"))
    )
    evidence = replace(evidence, models={role: model for role, model in evidence.models.items() if role != "champion"})
    results = {probe.name.split(":")[0]: probe for probe in probes(evidence, on_judgements(always_shown), rules=(rule,))}
    assert results["a planted regression"].actual == "can't be planted: no score can be that bad"
    assert results["a planted regression"].result == "not applicable"


def test_the_reason_why_nothing_is_planted_is_stated() -> None:
    rule = make_rule(baseline="champion", test="paired_bootstrap", min_rows=100)

    def actual(evidence: Evidence) -> str:
        [probe] = [probe for probe in probes(evidence, rules=(rule,)) if probe.name.startswith("a planted regression")]
        assert probe.result == "not applicable"
        return probe.actual

    assert actual(evidence_of()) == "these rows have no interval"
    assert actual(replace(evidence_of(), overlapping={"target": "1 row"})) == "the rule has no valid evidence even without a mutation"


CHECKS = {
    "_check_models": "the candidate is the base (id)",
    "_identical": "the candidate is the champion (scoring run)",
    "_check_suite": "the candidate was scored on a different suite",
    "_check_pairs": "a row is read as different tokens",
    "_check_rows": "a row of all models is dropped",
    "_check_value": "a metric value of the candidate is infinite",
}


@pytest.mark.parametrize("name", CHECKS)
def test_a_gate_without_one_of_its_checks_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real gate with one check removed."""
    rules = (*RULES, make_rule("retention.passed", "higher", baseline="champion", test="mcnemar"))
    evidence = evidence_of()
    assert not missed(evidence, rules=rules)
    empty: Any = {"_identical": lambda *_: ""}.get(name, lambda *_: iter(()))
    monkeypatch.setattr(validity, name, empty)
    assert CHECKS[name] in missed(evidence, rules=rules)


def test_a_missed_probe_names_the_rule_and_its_outcome() -> None:
    [wrong] = [probe for probe in probes(evidence_of(), JUDGES["ignores overlaps"][0]) if probe.result == "missed"]
    assert wrong.expected == "every rule that depends on it is invalid"
    assert "target.nll: not worse than the champion is shown" in wrong.actual


# A correct judge ------------------------------------------------------------------------------------------------------------------

ALL_KINDS_OF_RULES = (
    make_rule("retention.*.nll", baseline="base", margin=0.05, test="paired_bootstrap"),
    make_rule(baseline="champion", margin=0.02, test="wilcoxon"),
    make_rule(baseline="champion", margin=0.05, margin_kind="absolute", test="wilcoxon"),
    make_rule("retention.passed", "higher", baseline="champion", test="mcnemar"),
    make_rule("retention.passed", "higher", baseline="champion", margin=0.1, margin_kind="absolute", test="paired_bootstrap"),
    make_rule("retention.token_accuracy", "higher", baseline="base", margin=0.03, test="paired_bootstrap"),
    make_rule("target.perplexity", baseline="champion", margin=0.1),
    make_rule("target.tokens", "higher", floor=1.0),
    make_rule("target.nll", baseline="champion", margin=0.2, test="paired_bootstrap", ceiling=9.0, max_gain=0.5, min_rows=4),
    make_rule("target.nll", "higher", baseline="champion", margin=0.2, test="paired_bootstrap"),
    make_rule("target.truncated", baseline="champion", margin=0.25, margin_kind="absolute", test="tango"),
    make_rule(baseline="champion", margin=0.5, margin_kind="absolute", test="tail", max_share=0.2),
    make_rule("retention.token_accuracy", "higher", baseline="base", margin=0.3, margin_kind="absolute", test="tail", max_share=0.2),
    make_rule("target.looping", baseline="base", margin=0.25, margin_kind="absolute", test="tango", min_rows=20),
)


@pytest.mark.parametrize("champion", [True, False], ids=["champion", "first run"])
@pytest.mark.parametrize("shift", [-0.4, 0.0, 0.4])
@pytest.mark.parametrize("n", [2, 6, 60])
def test_nothing_is_missed_whatever_the_verdict(n: int, shift: float, champion: bool) -> None:
    assert not missed(evidence_of(shift, n, champion=champion), rules=(*RULES, *ALL_KINDS_OF_RULES))


def test_a_ruined_candidate_causes_no_false_alarm() -> None:
    # Its rows have such a large spread that a tenth of the MDE is detectable once they are moved to the margin.
    sure, ruined = make_rows("base", n=60), make_rows("candidate", n=60)
    for place, (row, other) in enumerate(zip(sure, ruined, strict=True)):
        row["nll"] *= 0.1
        other["nll"] = row["nll"] * 1.01 + row["tokens"] * (4 + place % 13)
    evidence = make_evidence(candidate=make_model("candidate", ruined), base=make_model("base", sure))
    rules = [make_rule("retention.nll", baseline="base", margin=0.2, test="paired_bootstrap"), make_rule(baseline="base")]
    assert not missed(evidence, rules=rules)


@settings(max_examples=8)
@given(st.integers(0, 10_000), st.floats(-0.5, 0.5), st.floats(-0.2, 0.2), st.sampled_from(["relative", "absolute"]))
def test_no_margin_and_no_candidate_cause_a_false_alarm(seed: int, shift: float, margin: float, kind: str) -> None:
    rules = [make_rule(baseline="champion", margin=margin, margin_kind=kind, test=test) for test in ("paired_bootstrap", "wilcoxon")]
    rules.append(RETENTION)
    assert not missed(evidence_of(shift, 30, seed=seed), rules=rules)


@example(1, 0.1, 0.8, 0.15, "relative")
@settings(max_examples=12)
@given(
    st.integers(0, 10_000),
    st.sampled_from([0.02, 0.1, 0.3]),
    st.floats(0.3, 1.0),
    st.floats(-0.1, 0.2),
    st.sampled_from(["relative", "absolute"]),
)
def test_rows_of_unequal_difficulty_cause_no_false_alarm(seed: int, gain: float, spread: float, margin: float, kind: str) -> None:
    """The typical row differs from the value over all tokens, and a relative margin differs from row to row."""
    rows_by_role = {role: make_rows(role, n=80, seed=seed) for role in ("candidate", "champion", "base")}
    factors = np.exp(spread * np.random.default_rng(seed).standard_normal(len(rows_by_role["base"])))
    for role, rows in rows_by_role.items():
        for row, factor in zip(rows, factors, strict=True):
            row["nll"] *= factor * (1 - gain if role == "candidate" else 1)
    rules = [make_rule(baseline="champion", margin=margin, margin_kind=kind, test=test) for test in ("wilcoxon", "paired_bootstrap")]
    rules.append(RETENTION)
    assert not missed(make_evidence(*(make_model(role, rows) for role, rows in rows_by_role.items())), rules=rules)


def test_a_mutation_that_no_rule_depends_on_is_not_applicable() -> None:
    results = {probe.name: probe for probe in probes(evidence_of(), rules=(make_rule("retention.kl_base", ceiling=0.5),))}
    for name in ("a metric value of the baseline is NaN", "a row of the baseline is dropped", "a row is read as different tokens"):
        assert (results[name].result, results[name].actual) == ("not applicable", "no critical rule depends on it")
    assert results["a metric value of the candidate is NaN"].result == "detected"


def test_invalid_evidence_proves_nothing() -> None:
    evidence = replace(evidence_of(), overlapping={"target": "all of it", "retention": "all of it"})
    results = {probe.name: probe for probe in probes(evidence)}
    assert results.pop("the original verdict").result == "detected"
    assert {probe.result for probe in results.values()} == {"not applicable"}
    assert "no valid evidence even without it" in results["a metric value of the candidate is NaN"].actual


def test_without_critical_rules_nothing_is_applicable() -> None:
    for rules in ((), (make_rule(ceiling=3.0, critical=False),)):
        results = [probe.result for probe in probes(evidence_of(), rules=rules)]
        assert results[0] == "detected"
        assert set(results[1:]) == {"not applicable"}


def test_a_regression_too_small_for_these_rows_is_held() -> None:
    rules = make_rule(baseline="champion", margin=0.001, test="paired_bootstrap")
    results = {probe.name: probe for probe in probes(evidence_of(0.0, 20), rules=(rules,))}
    probe = results["a planted regression: target.nll: at most 0.1 % worse than the champion"]
    assert probe.result == "detected"
    assert probe.actual.startswith("unproven, 0.00")


# Mutations --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("relative", [True, False])
@pytest.mark.parametrize(
    ("name", "target"),
    [("target.nll", 2.5), ("target.nll", 1.0), ("retention.kl_base", 0.3), ("retention.facts.nll", 3.0), ("retention.token_accuracy", 0.5),
     ("target.rouge_l", 0.2), ("target.rouge_l", 0.9)],
)  # fmt: skip
def test_a_metric_value_is_moved_to_the_target(name: str, target: float, relative: bool) -> None:
    evidence, metric = evidence_of(), parse(name)
    assert metric is not None
    moved = mutations.move_to(evidence, metric, "champion", target, relative=relative).models["candidate"]
    # Scores in [0, 1] can't all be raised.
    assert moved.metrics[name] == pytest.approx(target, abs=0.2 if target == 0.9 else 1e-9)
    assert metric.value(moved.rows[metric.suite]) == moved.metrics[name]


def test_rows_of_a_binary_metric_are_flipped() -> None:
    evidence, metric = evidence_of(), parse("retention.passed")
    assert metric is not None
    for right in (0, 7, 60):
        moved = mutations.move_to(evidence, metric, "champion", right / 60, relative=False).models["candidate"]
        assert moved.metrics["retention.passed"] == pytest.approx(right / 60)


def test_the_original_evidence_is_unchanged() -> None:
    evidence, same = evidence_of(), evidence_of()
    probes(evidence, rules=(*RULES, *ALL_KINDS_OF_RULES))
    for role, each in evidence.models.items():
        assert each.metrics == same.models[role].metrics
        for suite, rows in each.rows.items():
            other = same.models[role].rows[suite]
            assert (rows.ids, rows.kinds, rows.inputs) == (other.ids, other.kinds, other.inputs)
            np.testing.assert_array_equal(rows.tokens, other.tokens)
            for column in rows.columns:
                np.testing.assert_array_equal(rows.columns[column], other.columns[column])
                np.testing.assert_array_equal(rows.measured[column], other.measured[column])
