"""What must hold of every verdict, over evidence of many sizes and shapes.

Derandomised: the same examples everywhere, so a red build is never chance.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mlops.core.config import Rule
from mlops.core.records import Judgement, Outcome, Verdict
from mlops.judging.evidence import Evidence, ModelEvidence
from mlops.judging.metrics import parse
from mlops.judging.rules import answer
from mlops.judging.verdict import decide
from mlops.remote.metrics import aggregate
from tests.support.evidence import evidence, model, rule

Floats = npt.NDArray[np.float64]
Made = dict[str, Any]

ROLES = ("candidate", "champion", "base")
WORSE_TO_BETTER = (Outcome.FAILED, Outcome.UNPROVEN, Outcome.SHOWN)
VERDICTS = (Verdict.REJECT, Verdict.HOLD, Verdict.PROMOTE)


def profile(examples: int) -> settings:
    return settings(derandomize=True, deadline=None, database=None, max_examples=examples)


# Evidence of many shapes ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shape:
    """How scores are made. ``shift`` moves the candidate's rows, ``noise`` is what each model's do on their own."""

    n: int
    seed: int
    tails: Literal["normal", "student", "lognormal", "constant", "ties"]
    lengths: Literal["equal", "uneven", "heavy"]
    noise: float
    shift: float
    moved: Literal["all", "long", "hard"]

    def rows(self, role: str) -> list[Made]:
        shared, own = np.random.default_rng(self.seed), np.random.default_rng([self.seed, *role.encode()])
        made = []
        for suite in ("target", "retention"):
            tokens = self._tokens(shared)
            difficulty = 1.0 + np.abs(self._draw(shared))
            move = {"all": np.ones(self.n), "long": 2.0 * (tokens > np.median(tokens)), "hard": difficulty - 0.9}[self.moved]
            shift = self.shift * move if role == "candidate" else np.full(self.n, 0.03 if role == "base" else 0.0)
            change = self.noise * self._draw(own) + shift
            per_token = np.maximum(difficulty + change, 0.001)
            greedy = own.binomial(tokens, np.exp(-(per_token**2) / 8))
            kl = 0.0 if role == "base" else 0.01 + np.abs(change)
            made += [
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
                }
                for number in range(self.n)
            ]
        return made

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


QUESTIONS = [
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
    ("target.exact_match", "higher", "paired_bootstrap"),
    ("target.exact_match", "higher", "mcnemar"),
    ("target.exact_match", "higher", "none"),
]
"""Metric, direction and test: every test, and every metric that is a figure of merit."""
TESTS = {"none": 100, "paired_bootstrap": 150, "wilcoxon": 60, "mcnemar": 150}
"""Test → how many examples of it: ranks take their time."""
BESIDE = (0.0, 1e-15, 1e-9, 0.003, 0.01, 0.03, 0.1, 0.5)
"""How far a margin lies from the difference that the scores have."""


def draw_shape(dice: random.Random) -> Shape:
    return Shape(
        # Few different n, so that resamples are drawn once for each of them.
        n=dice.choice([60, 60, 60, 60, 30, 30, 14, 7, 2, 1]),
        seed=dice.randrange(10**6),
        tails=dice.choice(["normal", "student", "lognormal", "normal", "student", "lognormal", "ties", "constant"]),
        lengths=dice.choice(["equal", "uneven", "heavy", "heavy"]),
        noise=dice.choice([0.1, 0.01, 0.1, 0.01, 0.1, 0.01, 1.0, 0.0]),
        shift=dice.choice([0.02, 0.05, 0.1, 0.2, 0.5]) * dice.choice([1, -1]),
        moved=dice.choice(["all", "long", "hard"]),
    )


def draw_rule(dice: random.Random, made: Mapping[str, Sequence[Made]], baseline: str, tests: Sequence[str]) -> Rule:
    """A rule against a baseline, most of the time with its margin where it matters: beside the difference that the scores have."""
    metric, direction, test = dice.choice([each for each in QUESTIONS if each[2] in tests])
    margin, kind = 0.0, dice.choice(["relative", "absolute"])
    if test != "mcnemar" and dice.random() < 0.8:
        candidate, reference = (aggregate(made[role])[metric] for role in ("candidate", baseline))
        loss = candidate - reference if direction == "lower" else reference - candidate
        margin = (loss / reference if kind == "relative" and reference else loss) + dice.choice([1, -1]) * dice.choice(BESIDE)
    confidence = dice.choice([0.8, 0.9, 0.95, 0.99])
    return rule(metric, direction, baseline=baseline, test=test, margin=margin, margin_kind=kind, confidence=confidence)


def draw_case(seed: int, tests: Sequence[str], rules: int) -> tuple[Shape, tuple[Rule, ...]]:
    dice = random.Random(seed)
    shape = draw_shape(dice)
    made = {role: shape.rows(role) for role in ROLES}
    baselines = ["champion"] if rules == 1 else ["champion", "base"]
    count = dice.randint(1, rules)
    return shape, tuple(draw_rule(dice, made, dice.choice(baselines), tests) for _ in range(count))


def cases(*tests: str, rules: int = 1) -> st.SearchStrategy[tuple[Shape, tuple[Rule, ...]]]:
    """Scores, and rules about them. Drawn from one seed: left to itself, hypothesis tries simple values, of which few are near a margin."""
    return st.integers(0, 2**48).map(lambda seed: draw_case(seed, tests or tuple(TESTS), rules))


def all_of(made: Mapping[str, Sequence[Made]]) -> Evidence:
    return evidence(*(model(role, made[role]) for role in ROLES))


def of(shape: Shape) -> Evidence:
    return all_of({role: shape.rows(role) for role in ROLES})


# Invalid evidence -----------------------------------------------------------------------------------------------------------------

BETTER = Shape(n=30, seed=5, tails="normal", lengths="uneven", noise=0.05, shift=-0.4, moved="all")


def reading(test: str) -> tuple[Rule, ...]:
    """Rules that are all shown by BETTER. Together they read every role and suite, and the fields that are named in FIELDS."""
    return (
        rule(baseline="champion", test=test),
        rule(baseline="base", margin=-0.05),
        rule("target.rouge_l", "higher", baseline="champion", test=test),
        rule("target.token_accuracy", "higher", baseline="champion", margin=0.5),
        rule("target.exact_match", "higher", baseline="champion", margin=0.5, margin_kind="absolute"),
        rule("retention.*.nll", baseline="base", margin=0.1, test="paired_bootstrap"),
        rule("retention.kl_base", ceiling=2.0),
    )


READ = reading("paired_bootstrap")
FIELDS = [
    *(("nll", suite, role) for suite in ("target", "retention") for role in ("candidate", "base")),
    ("nll", "target", "champion"),
    ("rouge_l", "target", "candidate"),
    ("rouge_l", "target", "champion"),
    ("greedy_tokens", "target", "candidate"),
    ("greedy_tokens", "target", "champion"),
    ("kl", "retention", "candidate"),
]
"""Column, suite and role that a rule of READ looks at."""
IMPOSSIBLE = {"nll": (), "kl": (), "rouge_l": (1.5,), "greedy_tokens": (1e6,)}
BAD = st.sampled_from(FIELDS).flatmap(
    lambda field: st.tuples(st.just(field), st.sampled_from([math.nan, math.inf, -math.inf, -1.0, -1e300, *IMPOSSIBLE[field[0]]]))
)


@pytest.mark.parametrize("test", ["none", "paired_bootstrap", "wilcoxon"])
def test_without_a_fault_it_promotes(test: str) -> None:
    """Or the properties below would hold of anything."""
    decision = decide(reading(test), of(BETTER))
    assert decision.verdict is Verdict.PROMOTE, decision.reasons


@profile(100)
@given(BAD, st.integers(0, 29), st.booleans(), st.booleans(), st.sampled_from(["none", "paired_bootstrap", "wilcoxon"]))
def test_a_bad_score_in_any_row_of_any_role_never_promotes(
    where: tuple[tuple[str, str, str], float], row: int, reported: bool, everywhere: bool, test: str
) -> None:
    """Planted below what reads files, with the metrics as they were or as they follow; in one model or in all."""
    (column, suite, role), bad = where
    found = of(BETTER)
    models = dict(found.models)
    for name in ROLES if everywhere else (role,):
        models[name] = planted(models[name], suite, column, row, bad, reported)
    assert decide(reading(test), replace(found, models=models)).verdict is not Verdict.PROMOTE


def planted(whole: ModelEvidence, suite: str, column: str, row: int, bad: float, reported: bool) -> ModelEvidence:
    rows = whole.rows[suite]
    values = getattr(rows, column).copy()
    values[row] = bad
    rows = replace(rows, **{column: values})
    metrics = dict(whole.metrics)
    if reported:
        with np.errstate(all="ignore"):
            for name in metrics:
                metric = parse(name)
                if metric is not None and metric.suite == suite:
                    metrics[name] = metric.value(rows) or 0.0
    return replace(whole, rows={**whole.rows, suite: rows}, metrics=metrics)


def drop(made: list[Made], row: int) -> None:
    del made[row]


def double(made: list[Made], row: int) -> None:
    made.append(dict(made[row]))


def double_with_another_score(made: list[Made], row: int) -> None:
    made.append(made[row] | {"nll": made[row]["nll"] / 2})


def swap_for_a_foreign_row(made: list[Made], row: int) -> None:
    made[row]["id"] = "foreign"


def add_a_foreign_row(made: list[Made], row: int) -> None:
    made.append(made[row] | {"id": "foreign"})


def read_other_tokens(made: list[Made], row: int) -> None:
    made[row]["input"] = "other"


def score_other_tokens(made: list[Made], row: int) -> None:
    made[row]["tokens"] += 1


def leave_unanswered(made: list[Made], row: int) -> None:
    made[row]["rouge_l"] = None


BREAKS = [drop, double, double_with_another_score, swap_for_a_foreign_row, add_a_foreign_row, read_other_tokens, score_other_tokens]


@profile(80)
@given(st.sampled_from(BREAKS), st.sampled_from(ROLES), st.sampled_from(["target", "retention"]), st.integers(0, 29))
def test_rows_that_are_not_the_same_never_promote(break_rows: Callable[[list[Made], int], None], role: str, suite: str, row: int) -> None:
    assume((role, suite) != ("champion", "retention"))  # no rule reads these
    made = {each: BETTER.rows(each) for each in ROLES}
    break_rows(made[role], row + (0 if suite == "target" else 30))
    assert decide(READ, all_of(made)).verdict is Verdict.HOLD


@profile(20)
@given(st.sampled_from([double, double_with_another_score]), st.sampled_from(["target", "retention"]), st.integers(0, 29))
def test_rows_that_are_there_twice_in_all_models_never_promote(break_rows: Callable[[list[Made], int], None], suite: str, row: int) -> None:
    made = {each: BETTER.rows(each) for each in ROLES}
    for each in made.values():
        break_rows(each, row + (0 if suite == "target" else 30))
    assert decide(READ, all_of(made)).verdict is Verdict.HOLD


@profile(10)
@given(st.sampled_from(["candidate", "champion"]), st.integers(0, 29))
def test_answers_to_other_rows_never_promote(role: str, row: int) -> None:
    made = {each: BETTER.rows(each) for each in ROLES}
    leave_unanswered(made[role], row)
    assert decide(READ, all_of(made)).verdict is Verdict.HOLD


REPORTED = [
    *(("target.nll", role) for role in ROLES),
    *((name, "candidate") for name in ("target.rouge_l", "target.token_accuracy", "target.exact_match", "retention.kl_base")),
    *((f"retention.{kind}.nll", role) for kind in ("facts", "refusal") for role in ("candidate", "base")),
]


@profile(60)
@given(st.sampled_from(REPORTED), st.sampled_from([None, math.nan, math.inf, -math.inf, 0.0, 0.5]))
def test_a_report_that_does_not_follow_never_promotes(which: tuple[str, str], value: float | None) -> None:
    name, role = which
    found = of(BETTER)
    metrics = dict(found.models[role].metrics)
    if value is None:
        del metrics[name]
    else:
        metrics[name] = value
    models = {**found.models, role: replace(found.models[role], metrics=metrics)}
    assert decide(READ, replace(found, models=models)).verdict is not Verdict.PROMOTE


@profile(30)
@given(st.sampled_from(["target", "retention"]), st.sampled_from([*ROLES, "frozen"]), st.sampled_from([None, "x" * 64]))
def test_unequal_suite_digests_never_promote(suite: str, role: str, digest: str | None) -> None:
    assume((role, suite) != ("champion", "retention"))
    found = of(BETTER)
    digests = {name: value for name, value in found.suite_digests.items() if name != suite} | ({suite: digest} if digest else {})
    if role == "frozen":
        found = replace(found, suite_digests=digests)
    else:
        found = replace(found, models={**found.models, role: replace(found.models[role], suite_digests=digests)})
    assert decide(READ, found).verdict is Verdict.HOLD


@profile(30)
@given(st.sampled_from(ROLES), st.booleans())
def test_a_model_that_is_missing_never_promotes(role: str, present: bool) -> None:
    found = of(BETTER)
    models = {name: each for name, each in found.models.items() if present or name != role}
    decision = decide(READ, replace(found, models=models, missing={role: "it is gone"}))
    assert decision.verdict is Verdict.HOLD
    assert f"the {role} was not evaluated: it is gone" in decision.reasons[0]


@profile(30)
@given(st.sampled_from(["champion", "base"]), st.sampled_from(["model", "run", "weights_digest", "rows"]))
def test_a_candidate_that_is_another_model_never_promotes(role: str, what: str) -> None:
    found, rules = of(BETTER), (rule(baseline="champion"), rule(baseline="base", margin=0.3))  # equal models would pass
    other = found.models[role]
    same = replace(found.models["candidate"], **{what: getattr(other, what)})
    if what == "rows":
        same = replace(same, metrics=other.metrics)
    assert decide(rules, found).verdict is Verdict.PROMOTE
    assert decide(rules, replace(found, models={**found.models, "candidate": same})).verdict is Verdict.HOLD


# Swapping -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("test", TESTS)
def test_swapping_candidate_and_baseline_negates_difference_and_interval_exactly(test: str) -> None:
    @profile(TESTS[test])
    @given(cases(test))
    def check(case: tuple[Shape, tuple[Rule, ...]]) -> None:
        shape, (asked,) = case
        made = {role: shape.rows(role) for role in ROLES}
        there = answer(asked, all_of(made))
        back = answer(asked, all_of({**made, "candidate": made["champion"], "champion": made["candidate"]}))
        assert (there.outcome is Outcome.INVALID) == (back.outcome is Outcome.INVALID) or asked.margin_kind == "relative"  # relative to 0
        if Outcome.INVALID in (there.outcome, back.outcome):
            return
        assert there.difference is not None
        assert back.difference == -there.difference
        assert (there.interval is None) == (back.interval is None) or (asked.test, asked.margin_kind) == ("wilcoxon", "relative")
        if there.interval is not None and back.interval is not None:
            assert (back.interval.low, back.interval.high) == (-there.interval.high, -there.interval.low)
        if there.typical_difference is not None and back.typical_difference is not None:
            assert back.typical_difference == -there.typical_difference
        if asked.margin < 0:
            # Who has to be better can't be so both ways.
            assert (there.outcome, back.outcome) != (Outcome.SHOWN, Outcome.SHOWN)

    check()


# The point estimate ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("test", TESTS)
def test_a_rule_never_passes_or_fails_with_its_point_on_the_wrong_side(test: str) -> None:
    @profile(TESTS[test])
    @given(cases(test))
    def check(case: tuple[Shape, tuple[Rule, ...]]) -> None:
        shape, (asked,) = case
        judgement = answer(asked, of(shape))
        if judgement.outcome in (Outcome.INVALID, Outcome.UNPROVEN):
            return
        assert judgement.difference is not None
        assert judgement.margin is not None
        gain = judgement.difference if asked.direction == "higher" else -judgement.difference
        if asked.test == "none":
            assert (gain >= -judgement.margin) == (judgement.outcome is Outcome.SHOWN)
        else:
            assert gain > -judgement.margin if judgement.outcome is Outcome.SHOWN else gain < -judgement.margin
            _the_numbers_say_so(judgement)

    check()


def _the_numbers_say_so(judgement: Judgement) -> None:
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
def test_order_of_rows_and_rules_decides_nothing(case: tuple[Shape, tuple[Rule, ...]], seed: int) -> None:
    shape, rules = case
    shuffle = random.Random(seed)
    made = {role: shape.rows(role) for role in ROLES}
    first = decide(rules, all_of(made))
    places = shuffle.sample(range(len(rules)), len(rules))
    shuffled = {role: shuffle.sample(each, len(each)) for role, each in made.items()}
    second = decide([rules[place] for place in places], all_of(shuffled))
    assert second.verdict is first.verdict
    assert sorted(second.reasons) == sorted(first.reasons)
    assert list(second.judgements) == [first.judgements[place] for place in places]


@profile(40)
@given(cases(rules=4))
def test_one_more_rule_never_opens_the_gate(case: tuple[Shape, tuple[Rule, ...]]) -> None:
    shape, rules = case
    found = of(shape)
    if decide(rules, found).verdict is Verdict.PROMOTE:
        assert len(rules) == 1 or decide(rules[:-1], found).verdict is Verdict.PROMOTE


# Margins --------------------------------------------------------------------------------------------------------------------------


WIDER = st.sampled_from([1.0, 0.1, 0.01, 0.3, 0.03, 1e-9, 1e-15])


@pytest.mark.parametrize("test", [test for test in TESTS if test != "mcnemar"])  # which knows no margin
def test_a_wider_margin_never_turns_a_pass_into_anything_else(test: str) -> None:
    @profile(TESTS[test])
    @given(cases(test), WIDER)
    def check(case: tuple[Shape, tuple[Rule, ...]], more: float) -> None:
        shape, (asked,) = case
        found = of(shape)
        narrow, wide = (
            answer(asked.model_copy(update={"margin": margin}), found).outcome for margin in (asked.margin, asked.margin + more)
        )
        if Outcome.INVALID in (narrow, wide):
            assert narrow is wide
        else:
            assert WORSE_TO_BETTER.index(wide) >= WORSE_TO_BETTER.index(narrow)

    check()


@profile(40)
@given(cases(rules=4), st.integers(0, 3), WIDER)
def test_a_wider_margin_never_makes_the_verdict_worse(case: tuple[Shape, tuple[Rule, ...]], which: int, more: float) -> None:
    """Holm's correction looks at all rules at once, so what one of them says changes with the others."""
    shape, rules = case
    found, which = of(shape), which % len(rules)
    assume(rules[which].test != "mcnemar")
    wider = [each.model_copy(update={"margin": each.margin + more}) if place == which else each for place, each in enumerate(rules)]
    narrow, wide = decide(rules, found), decide(wider, found)
    assert VERDICTS.index(wide.verdict) >= VERDICTS.index(narrow.verdict)


# Scale ----------------------------------------------------------------------------------------------------------------------------


def scaled(shape: Shape, factor: float) -> Evidence:
    made = {role: shape.rows(role) for role in ROLES}
    for row in (row for each in made.values() for row in each):
        row["nll"] *= factor
        row["kl"] = row["kl"] if row["kl"] is None else row["kl"] * factor
    return all_of(made)


def scale_free() -> st.SearchStrategy[tuple[Shape, tuple[Rule, ...]]]:
    """Cases with a relative rule about a sum of nats."""
    found = cases("paired_bootstrap", "wilcoxon", "none")
    return found.filter(lambda case: case[1][0].margin_kind == "relative" and case[1][0].metric.endswith((".nll", ".kl_base")))


@profile(60)
@given(scale_free(), st.sampled_from([2.0**-20, 0.5, 4.0, 2.0**20]))
def test_scaling_by_a_power_of_two_changes_nothing_of_a_relative_rule(case: tuple[Shape, tuple[Rule, ...]], factor: float) -> None:
    shape, (asked,) = case
    plain, other = answer(asked, of(shape)), answer(asked, scaled(shape, factor))
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
    shape, (asked,) = case
    plain, other = answer(asked, of(shape)), answer(asked, scaled(shape, factor))
    if plain.distance_interval is None or other.distance_interval is None or plain.distance is None:
        return
    assert other.distance == pytest.approx(plain.distance, rel=1e-6, abs=1e-12)
    ends = plain.distance_interval.low, plain.distance_interval.high
    assert (other.distance_interval.low, other.distance_interval.high) == pytest.approx(ends, rel=1e-6, abs=1e-9)
    if all(abs(value) > 1e-9 for value in (plain.distance, *ends)):
        assert other.outcome is plain.outcome
