"""Properties that every verdict must have, over evidence of many sizes and shapes.

Derandomized: the examples are the same on every machine, so a failure is never chance.
"""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mlops.core.judgement import Judgement, Outcome, Verdict
from mlops.core.settings import Rule
from mlops.judging import comparison
from mlops.judging.evidence import Evidence, ModelEvidence
from mlops.judging.metrics import parse
from mlops.judging.rules import judge_rule
from mlops.judging.statistics.bootstrap import paired_bootstrap
from mlops.judging.validity import MAX_RELATIVE_MARGIN
from mlops.judging.verdict import decide
from mlops.remote.metrics import aggregate
from tests.support.evidence import make_evidence, make_model, make_rule

Floats = npt.NDArray[np.float64]
Row = dict[str, Any]

ROLES = ("candidate", "champion", "base")
WORSE_TO_BETTER = (Outcome.FAILED, Outcome.UNPROVEN, Outcome.SHOWN)
VERDICTS = (Verdict.REJECT, Verdict.HOLD, Verdict.PROMOTE)


@pytest.fixture(scope="module", autouse=True)
def few_resamples() -> Iterator[None]:
    """Draw fewer resamples: none of these properties depends on their number."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comparison, "paired_bootstrap", functools.partial(paired_bootstrap, resamples=999))
        yield


def profile(examples: int) -> settings:
    return settings(derandomize=True, database=None, max_examples=examples)


# Evidence of many shapes ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shape:
    """How to generate scores. ``shift`` moves the candidate's rows, ``noise`` is the spread of each model's own rows."""

    n: int
    seed: int
    tails: Literal["normal", "student", "lognormal", "constant", "ties"]
    lengths: Literal["equal", "uneven", "heavy"]
    noise: float
    shift: float
    moved: Literal["all", "long", "hard"]

    def rows(self, role: str) -> list[Row]:
        shared, own = np.random.default_rng(self.seed), np.random.default_rng([self.seed, *role.encode()])
        rows = []
        for suite in ("target", "retention"):
            tokens = self._tokens(shared)
            difficulty = 1.0 + np.abs(self._draw(shared))
            move = {"all": np.ones(self.n), "long": 2.0 * (tokens > np.median(tokens)), "hard": difficulty - 0.9}[self.moved]
            shift = self.shift * move if role == "candidate" else np.full(self.n, 0.03 if role == "base" else 0.0)
            change = self.noise * self._draw(own) + shift
            per_token = np.maximum(difficulty + change, 0.001)
            greedy = own.binomial(tokens, np.exp(-(per_token**2) / 8))
            kl = 0.0 if role == "base" else 0.01 + np.abs(change)
            rows += [
                {
                    "suite": suite,
                    "id": f"{suite}-{number:03d}",
                    "kind": ("facts", "refusal")[number % 2] if suite == "retention" else "",
                    "input": f"{suite}{number}",
                    "tokens": int(tokens[number]),
                    "nll": float(tokens[number] * per_token[number]),
                    "kl": float((tokens * kl)[number]) if suite == "retention" else None,
                    "greedy_tokens": int(greedy[number]),
                    "rouge_l": float(np.exp(-per_token[number])) if suite == "target" else None,
                    "passed": float(greedy[number] == tokens[number]) if suite == "retention" else None,
                    "looping": float(per_token[number] > 2) if suite == "target" else None,
                }
                for number in range(self.n)
            ]
        return rows

    def _draw(self, generator: np.random.Generator) -> Floats:
        if self.tails == "constant":
            return np.full(self.n, float(generator.normal()))
        if self.tails == "ties":
            return generator.integers(-2, 3, self.n) / 4
        if self.tails == "student":
            return np.clip(generator.standard_t(2, self.n), -50, 50)
        return generator.normal(size=self.n) if self.tails == "normal" else generator.lognormal(size=self.n) - 1.5

    def _tokens(self, generator: np.random.Generator) -> npt.NDArray[np.int64]:
        if self.lengths == "equal":
            return np.full(self.n, 4)
        drawn = generator.integers(1, 9, self.n) if self.lengths == "uneven" else 1 + generator.lognormal(1.0, 1.5, self.n).astype(int)
        return np.asarray(drawn, dtype=np.int64)


CASES = [
    ("target.nll", "lower", "none"),
    ("target.nll", "lower", "paired_bootstrap"),
    ("target.nll", "lower", "wilcoxon"),
    ("target.nll", "higher", "paired_bootstrap"),
    ("retention.facts.nll", "lower", "paired_bootstrap"),
    ("retention.kl_base", "lower", "wilcoxon"),
    ("target.rouge_l", "higher", "paired_bootstrap"),
    ("target.rouge_l", "higher", "wilcoxon"),
    ("target.perplexity", "lower", "none"),
    ("target.token_accuracy", "higher", "paired_bootstrap"),
    ("target.token_accuracy", "higher", "wilcoxon"),
    ("retention.passed", "higher", "paired_bootstrap"),
    ("retention.passed", "higher", "mcnemar"),
    ("retention.passed", "higher", "none"),
    ("retention.passed", "higher", "tango"),
    ("target.looping", "lower", "tango"),
]
"""Metric, direction and test: every test, and every metric that ranks models."""
TESTS = {"none": 100, "paired_bootstrap": 150, "wilcoxon": 30, "mcnemar": 100, "tango": 60}
"""Test → number of examples."""
MARGIN_DISTANCES = (0.0, 1e-15, 1e-9, 0.003, 0.01, 0.03, 0.1, 0.5)
"""How far a margin is from the difference between the scores."""


def draw_shape(dice: random.Random) -> Shape:
    return Shape(
        # Few different n, so that resamples are drawn only once for each.
        n=dice.choice([60, 60, 60, 60, 30, 30, 14, 7, 2, 1]),
        seed=dice.randrange(10**6),
        tails=dice.choice(["normal", "student", "lognormal", "normal", "student", "lognormal", "ties", "constant"]),
        lengths=dice.choice(["equal", "uneven", "heavy", "heavy"]),
        noise=dice.choice([0.1, 0.01, 0.1, 0.01, 0.1, 0.01, 1.0, 0.0]),
        shift=dice.choice([0.02, 0.05, 0.1, 0.2, 0.5]) * dice.choice([1, -1]),
        moved=dice.choice(["all", "long", "hard"]),
    )


def draw_rule(dice: random.Random, rows: Mapping[str, Sequence[Row]], baseline: str, tests: Sequence[str], scale_free: bool) -> Rule:
    """Draw a rule with a baseline. In most cases its margin is close to the actual difference, where it matters."""
    in_nats = (".nll", ".kl_base")
    metric, direction, test = dice.choice([each for each in CASES if each[2] in tests and (not scale_free or each[0].endswith(in_nats))])
    margin, kind = 0.0, "relative" if scale_free else "absolute" if test == "tango" else dice.choice(["relative", "absolute"])
    if test != "mcnemar" and dice.random() < 0.8:
        candidate, reference = (aggregate(rows[role])[metric] for role in ("candidate", baseline))
        loss = candidate - reference if direction == "lower" else reference - candidate
        margin = (loss / reference if kind == "relative" and reference else loss) + dice.choice([1, -1]) * dice.choice(MARGIN_DISTANCES)
    confidence = dice.choice([0.8, 0.9, 0.95, 0.99])
    margin = min(max(margin, -widest(metric, kind)), widest(metric, kind))
    return make_rule(metric, direction, baseline=baseline, test=test, margin=margin, margin_kind=kind, confidence=confidence)


def widest(metric: str, kind: str) -> float:
    """Return the largest margin that a rule about this metric may have."""
    parsed = parse(metric)
    assert parsed is not None
    return MAX_RELATIVE_MARGIN if kind == "relative" else parsed.definition.max_margin


def widen(rule: Rule, more: float) -> Rule:
    return rule.model_copy(update={"margin": min(rule.margin + more, widest(rule.metric, rule.margin_kind))})


def draw_case(seed: int, tests: Sequence[str], rules: int, scale_free: bool) -> tuple[Shape, tuple[Rule, ...]]:
    dice = random.Random(seed)
    shape = draw_shape(dice)
    rows = {role: shape.rows(role) for role in ROLES}
    baselines = ["champion"] if rules == 1 else ["champion", "base"]
    count = dice.randint(1, rules)
    return shape, tuple(draw_rule(dice, rows, dice.choice(baselines), tests, scale_free) for _ in range(count))


def cases(*tests: str, rules: int = 1, scale_free: bool = False) -> st.SearchStrategy[tuple[Shape, tuple[Rule, ...]]]:
    """Draw scores and rules from one seed. Hypothesis on its own prefers simple values, few of which are close to a margin."""
    return st.integers(0, 2**48).map(lambda seed: draw_case(seed, tests or tuple(TESTS), rules, scale_free))


def evidence_from(rows: Mapping[str, Sequence[Row]]) -> Evidence:
    return make_evidence(*(make_model(role, rows[role]) for role in ROLES))


@functools.lru_cache(maxsize=4)
def evidence_of(shape: Shape) -> Evidence:
    return evidence_from({role: shape.rows(role) for role in ROLES})


# Invalid evidence -----------------------------------------------------------------------------------------------------------------

BETTER = Shape(n=30, seed=5, tails="normal", lengths="uneven", noise=0.05, shift=-0.4, moved="all")


def rules_on_all_columns(test: str) -> tuple[Rule, ...]:
    """Return rules that are all shown by BETTER. Together they depend on every role and suite, and on the columns in FIELDS."""
    return (
        make_rule(baseline="champion", test=test),
        make_rule(baseline="base", margin=-0.05),
        make_rule("target.rouge_l", "higher", baseline="champion", test=test),
        make_rule("target.token_accuracy", "higher", baseline="champion", margin=0.5),
        make_rule("retention.passed", "higher", baseline="champion", margin=0.25, margin_kind="absolute"),
        make_rule("retention.*.nll", baseline="base", margin=0.1, test="paired_bootstrap"),
        make_rule("retention.kl_base", ceiling=2.0),
    )


RULES = rules_on_all_columns("paired_bootstrap")
FIELDS = [
    *(("nll", suite, role) for suite in ("target", "retention") for role in ("candidate", "base")),
    ("nll", "target", "champion"),
    ("rouge_l", "target", "candidate"),
    ("rouge_l", "target", "champion"),
    ("greedy_tokens", "target", "candidate"),
    ("greedy_tokens", "target", "champion"),
    ("kl", "retention", "candidate"),
    ("passed", "retention", "candidate"),
    ("passed", "retention", "champion"),
]
"""Column, suite and role that a rule of RULES depends on."""
IMPOSSIBLE = {"nll": (), "kl": (), "rouge_l": (1.5,), "passed": (1.5,), "greedy_tokens": (1e6,)}
BAD = st.sampled_from(FIELDS).flatmap(
    lambda field: st.tuples(st.just(field), st.sampled_from([math.nan, math.inf, -math.inf, -1.0, -1e300, *IMPOSSIBLE[field[0]]]))
)


@pytest.mark.parametrize("test", ["none", "paired_bootstrap", "wilcoxon"])
def test_valid_evidence_promotes(test: str) -> None:
    """Otherwise the properties below would hold trivially."""
    decision = decide(rules_on_all_columns(test), evidence_of(BETTER))
    assert decision.verdict is Verdict.PROMOTE, decision.reasons


@profile(100)
@given(BAD, st.integers(0, 29), st.booleans(), st.booleans(), st.sampled_from(["none", "paired_bootstrap", "wilcoxon"]))
def test_a_bad_score_in_any_row_of_any_role_never_promotes(
    where: tuple[tuple[str, str, str], float], row: int, reported: bool, everywhere: bool, test: str
) -> None:
    """The values bypass the reader of the files. Reported metrics stay unchanged or follow, in one model or in all."""
    (column, suite, role), bad = where
    evidence = evidence_of(BETTER)
    models = dict(evidence.models)
    for name in ROLES if everywhere else (role,):
        models[name] = set_value(models[name], suite, column, row, bad, reported)
    assert decide(rules_on_all_columns(test), replace(evidence, models=models)).verdict is not Verdict.PROMOTE


def set_value(model: ModelEvidence, suite: str, column: str, row: int, bad: float, reported: bool) -> ModelEvidence:
    rows = model.rows[suite]
    values = rows.columns[column].copy()
    values[row] = bad
    rows = rows.with_column(column, values)
    metrics = dict(model.metrics)
    if reported:
        with np.errstate(all="ignore"):
            for name in metrics:
                metric = parse(name)
                if metric is not None and metric.suite == suite:
                    metrics[name] = metric.value(rows) or 0.0
    return replace(model, rows={**model.rows, suite: rows}, metrics=metrics)


def drop(rows: list[Row], row: int) -> None:
    del rows[row]


def duplicate(rows: list[Row], row: int) -> None:
    rows.append(dict(rows[row]))


def duplicate_with_another_score(rows: list[Row], row: int) -> None:
    rows.append(rows[row] | {"nll": rows[row]["nll"] / 2})


def swap_for_a_foreign_row(rows: list[Row], row: int) -> None:
    rows[row]["id"] = "foreign"


def add_a_foreign_row(rows: list[Row], row: int) -> None:
    rows.append(rows[row] | {"id": "foreign"})


def read_other_tokens(rows: list[Row], row: int) -> None:
    rows[row]["input"] = "other"


def score_other_tokens(rows: list[Row], row: int) -> None:
    rows[row]["tokens"] += 1


def leave_unanswered(rows: list[Row], row: int) -> None:
    rows[row]["rouge_l"] = None


BREAKS = [drop, duplicate, duplicate_with_another_score, swap_for_a_foreign_row, add_a_foreign_row, read_other_tokens, score_other_tokens]


@profile(80)
@given(st.sampled_from(BREAKS), st.sampled_from(ROLES), st.sampled_from(["target", "retention"]), st.integers(0, 29))
def test_different_rows_never_promote(break_rows: Callable[[list[Row], int], None], role: str, suite: str, row: int) -> None:
    assume((role, suite) != ("champion", "retention"))  # no rule depends on these
    rows = {each: BETTER.rows(each) for each in ROLES}
    break_rows(rows[role], row + (0 if suite == "target" else 30))
    assert decide(RULES, evidence_from(rows)).verdict is Verdict.HOLD


@profile(20)
@given(st.sampled_from([duplicate, duplicate_with_another_score]), st.sampled_from(["target", "retention"]), st.integers(0, 29))
def test_duplicate_rows_in_all_models_never_promote(break_rows: Callable[[list[Row], int], None], suite: str, row: int) -> None:
    rows = {each: BETTER.rows(each) for each in ROLES}
    for each in rows.values():
        break_rows(each, row + (0 if suite == "target" else 30))
    assert decide(RULES, evidence_from(rows)).verdict is Verdict.HOLD


@profile(10)
@given(st.sampled_from(["candidate", "champion"]), st.integers(0, 29))
def test_answers_to_other_rows_never_promote(role: str, row: int) -> None:
    rows = {each: BETTER.rows(each) for each in ROLES}
    leave_unanswered(rows[role], row)
    assert decide(RULES, evidence_from(rows)).verdict is Verdict.HOLD


REPORTED = [
    *(("target.nll", role) for role in ROLES),
    *((name, "candidate") for name in ("target.rouge_l", "target.token_accuracy", "retention.passed", "retention.kl_base")),
    *((f"retention.{kind}.nll", role) for kind in ("facts", "refusal") for role in ("candidate", "base")),
]


@profile(60)
@given(st.sampled_from(REPORTED), st.sampled_from([None, math.nan, math.inf, -math.inf, 0.0, 0.5]))
def test_a_reported_value_that_does_not_follow_from_the_rows_never_promotes(which: tuple[str, str], value: float | None) -> None:
    name, role = which
    evidence = evidence_of(BETTER)
    metrics = dict(evidence.models[role].metrics)
    if value is None:
        del metrics[name]
    else:
        metrics[name] = value
    models = {**evidence.models, role: replace(evidence.models[role], metrics=metrics)}
    assert decide(RULES, replace(evidence, models=models)).verdict is not Verdict.PROMOTE


@profile(30)
@given(st.sampled_from(["target", "retention"]), st.sampled_from([*ROLES, "frozen"]), st.sampled_from([None, "x" * 64]))
def test_unequal_suite_digests_never_promote(suite: str, role: str, digest: str | None) -> None:
    assume((role, suite) != ("champion", "retention"))
    evidence = evidence_of(BETTER)
    digests = {name: value for name, value in evidence.suite_digests.items() if name != suite} | ({suite: digest} if digest else {})
    if role == "frozen":
        evidence = replace(evidence, suite_digests=digests)
    else:
        evidence = replace(evidence, models={**evidence.models, role: replace(evidence.models[role], suite_digests=digests)})
    assert decide(RULES, evidence).verdict is Verdict.HOLD


@profile(30)
@given(st.sampled_from(ROLES), st.booleans())
def test_a_model_that_is_missing_never_promotes(role: str, present: bool) -> None:
    evidence = evidence_of(BETTER)
    models = {name: each for name, each in evidence.models.items() if present or name != role}
    decision = decide(RULES, replace(evidence, models=models, missing={role: "it is gone"}))
    assert decision.verdict is Verdict.HOLD
    assert f"the {role} was not evaluated: it is gone" in decision.reasons[0]


@profile(30)
@given(st.sampled_from(["champion", "base"]), st.sampled_from(["model", "run", "weights_digest", "rows"]))
def test_a_candidate_identical_to_another_model_never_promotes(role: str, what: str) -> None:
    evidence, rules = (
        evidence_of(BETTER),
        (make_rule(baseline="champion"), make_rule(baseline="base", margin=0.3)),
    )  # equal models would pass
    other = evidence.models[role]
    same = replace(evidence.models["candidate"], **{what: getattr(other, what)})
    if what == "rows":
        same = replace(same, metrics=other.metrics)
    assert decide(rules, evidence).verdict is Verdict.PROMOTE
    assert decide(rules, replace(evidence, models={**evidence.models, "candidate": same})).verdict is Verdict.HOLD


# Swapping -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("test", TESTS)
def test_swapping_candidate_and_baseline_negates_difference_and_interval_exactly(test: str) -> None:
    @profile(TESTS[test])
    @given(cases(test))
    def check(case: tuple[Shape, tuple[Rule, ...]]) -> None:
        shape, (rule,) = case
        rows = {role: shape.rows(role) for role in ROLES}
        there = judge_rule(rule, evidence_from(rows))
        back = judge_rule(rule, evidence_from({**rows, "candidate": rows["champion"], "champion": rows["candidate"]}))
        assert (there.outcome is Outcome.INVALID) == (back.outcome is Outcome.INVALID) or rule.margin_kind == "relative"  # relative to 0
        if Outcome.INVALID in (there.outcome, back.outcome):
            return
        assert there.difference is not None
        assert back.difference == -there.difference
        assert (there.interval is None) == (back.interval is None) or (rule.test, rule.margin_kind) == ("wilcoxon", "relative")
        if there.interval is not None and back.interval is not None:
            assert (back.interval.low, back.interval.high) == (-there.interval.high, -there.interval.low)
        if there.typical_difference is not None and back.typical_difference is not None:
            assert back.typical_difference == -there.typical_difference
        if rule.margin < 0:
            # An improvement can't hold both ways.
            assert (there.outcome, back.outcome) != (Outcome.SHOWN, Outcome.SHOWN)

    check()


# The difference -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("test", TESTS)
def test_a_rule_is_never_shown_or_failed_with_its_difference_on_the_wrong_side(test: str) -> None:
    @profile(TESTS[test])
    @given(cases(test))
    def check(case: tuple[Shape, tuple[Rule, ...]]) -> None:
        shape, (rule,) = case
        judgement = judge_rule(rule, evidence_of(shape))
        if judgement.outcome in (Outcome.INVALID, Outcome.UNPROVEN):
            return
        assert judgement.difference is not None
        assert judgement.margin is not None
        gain = judgement.difference if rule.direction == "higher" else -judgement.difference
        if rule.test == "none":
            assert (gain >= -judgement.margin) == (judgement.outcome is Outcome.SHOWN)
        else:
            assert gain > -judgement.margin if judgement.outcome is Outcome.SHOWN else gain < -judgement.margin
            _assert_numbers_agree(judgement)

    check()


def _assert_numbers_agree(judgement: Judgement) -> None:
    assert judgement.distance_interval is not None
    assert judgement.p_value is not None
    assert judgement.confidence is not None
    if judgement.outcome is Outcome.SHOWN:
        assert judgement.distance_interval.low > 0
    else:
        assert judgement.distance_interval.high < 0
        assert judgement.p_value <= (1 - judgement.confidence) / 2 + 1e-9


# Order ----------------------------------------------------------------------------------------------------------------------------


@profile(40)
@given(cases(rules=4), st.integers(0, 10**6))
def test_the_order_of_rows_and_rules_does_not_matter(case: tuple[Shape, tuple[Rule, ...]], seed: int) -> None:
    shape, rules = case
    shuffle = random.Random(seed)
    rows = {role: shape.rows(role) for role in ROLES}
    first = decide(rules, evidence_from(rows))
    order = shuffle.sample(range(len(rules)), len(rules))
    shuffled = {role: shuffle.sample(each, len(each)) for role, each in rows.items()}
    second = decide([rules[index] for index in order], evidence_from(shuffled))
    assert second.verdict is first.verdict
    assert sorted(second.reasons) == sorted(first.reasons)
    assert list(second.judgements) == [first.judgements[index] for index in order]


@profile(40)
@given(cases(rules=4))
def test_an_additional_rule_never_opens_the_gate(case: tuple[Shape, tuple[Rule, ...]]) -> None:
    shape, rules = case
    evidence = evidence_of(shape)
    if decide(rules, evidence).verdict is Verdict.PROMOTE:
        assert len(rules) == 1 or decide(rules[:-1], evidence).verdict is Verdict.PROMOTE


# Margins --------------------------------------------------------------------------------------------------------------------------


WIDER = st.sampled_from([1.0, 0.1, 0.01, 0.3, 0.03, 1e-9, 1e-15])


@pytest.mark.parametrize("test", [test for test in TESTS if test != "mcnemar"])  # which supports no margin
def test_a_wider_margin_never_makes_an_outcome_worse(test: str) -> None:
    @profile(TESTS[test])
    @given(cases(test), WIDER)
    def check(case: tuple[Shape, tuple[Rule, ...]], more: float) -> None:
        shape, (rule,) = case
        evidence = evidence_of(shape)
        narrow, wide = (judge_rule(each, evidence).outcome for each in (rule, widen(rule, more)))
        if Outcome.INVALID in (narrow, wide):
            assert narrow is wide
        else:
            assert WORSE_TO_BETTER.index(wide) >= WORSE_TO_BETTER.index(narrow)

    check()


@profile(40)
@given(cases(rules=4), st.integers(0, 3), WIDER)
def test_a_wider_margin_never_makes_the_verdict_worse(case: tuple[Shape, tuple[Rule, ...]], which: int, more: float) -> None:
    """Holm's correction considers all rules together, so one rule's outcome depends on the others."""
    shape, rules = case
    evidence, which = evidence_of(shape), which % len(rules)
    assume(rules[which].test != "mcnemar")
    wider = [widen(each, more) if index == which else each for index, each in enumerate(rules)]
    narrow, wide = decide(rules, evidence), decide(wider, evidence)
    assert VERDICTS.index(wide.verdict) >= VERDICTS.index(narrow.verdict)


# Scale ----------------------------------------------------------------------------------------------------------------------------


def scaled(shape: Shape, factor: float) -> Evidence:
    rows = {role: shape.rows(role) for role in ROLES}
    for row in (row for each in rows.values() for row in each):
        row["nll"] *= factor
        row["kl"] = row["kl"] if row["kl"] is None else row["kl"] * factor
    return evidence_from(rows)


def scale_free() -> st.SearchStrategy[tuple[Shape, tuple[Rule, ...]]]:
    """Draw cases with a relative rule about a sum of nats."""
    return cases("paired_bootstrap", "wilcoxon", "none", scale_free=True)


@profile(40)
@given(scale_free(), st.sampled_from([2.0**-20, 0.5, 4.0, 2.0**20]))
def test_scaling_by_a_power_of_two_does_not_change_a_relative_rule(case: tuple[Shape, tuple[Rule, ...]], factor: float) -> None:
    shape, (rule,) = case
    plain, other = judge_rule(rule, evidence_of(shape)), judge_rule(rule, scaled(shape, factor))
    assert other.outcome is plain.outcome
    assert other.p_value == plain.p_value
    assert other.distance == plain.distance
    assert other.distance_interval == plain.distance_interval
    assert other.rows_needed == plain.rows_needed
    if plain.interval is not None and other.interval is not None and plain.mde is not None:
        assert (other.interval.low, other.interval.high) == (plain.interval.low * factor, plain.interval.high * factor)
        assert other.mde == plain.mde * factor


@profile(40)
@given(scale_free(), st.floats(1e-3, 1e3))
def test_scaling_by_any_factor_changes_a_relative_rule_by_rounding_only(case: tuple[Shape, tuple[Rule, ...]], factor: float) -> None:
    shape, (rule,) = case
    plain, other = judge_rule(rule, evidence_of(shape)), judge_rule(rule, scaled(shape, factor))
    if plain.distance_interval is None or other.distance_interval is None or plain.distance is None:
        return
    assert other.distance == pytest.approx(plain.distance, rel=1e-6, abs=1e-12)
    ends = plain.distance_interval.low, plain.distance_interval.high
    assert (other.distance_interval.low, other.distance_interval.high) == pytest.approx(ends, rel=1e-6, abs=1e-9)
    if all(abs(value) > 1e-9 for value in (plain.distance, *ends)):
        assert other.outcome is plain.outcome
