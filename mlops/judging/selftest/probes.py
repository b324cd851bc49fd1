"""Tests whether the gate can reject: the decision is replayed on mutated evidence, and the gate must detect every mutation.

Each probe mutates the evidence of this run in one way (:mod:`mlops.judging.selftest.mutations`) and replays the critical rules that depend
on it. Invalid evidence must be called invalid, however good the candidate is. Swapped models must reverse the judgement. A planted
regression must be detected as far as the report claims that it can be detected. Only rules with valid evidence can show anything here;
without one, the probe is not applicable, which is not the same as detected.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

from mlops.core.records import Outcome, Probe, Verdict
from mlops.core.settings import Rule
from mlops.judging.evidence import Evidence
from mlops.judging.metrics import parse
from mlops.judging.rules import expand
from mlops.judging.selftest import checks, mutations
from mlops.judging.selftest.checks import RuleCase
from mlops.judging.verdict import Decision
from mlops.judging.wording import number

__all__ = ["Judge", "self_test"]

_STEP = 0.1
"""A fraction of the minimum detectable effect that no test can detect: so close to the margin, both sides look alike."""
_MODERATE = 0.5
"""Nats per token: each token is 39 % less likely. Rules that let such a model through are worthless."""
_BAD_VALUES = (("missing", None), ("NaN", math.nan), ("infinite", math.inf), ("minus infinite", -math.inf))

Judge = Callable[[Sequence[Rule], Evidence], Decision]
"""The function under test: :func:`mlops.judging.verdict.decide`."""


def self_test(rules: Sequence[Rule], evidence: Evidence, decision: Decision, judge: Judge) -> tuple[Probe, ...]:
    """Replay a decision on mutated evidence.

    Args:
        rules: as configured.
        evidence: the evidence of this run.
        decision: the judge's decision on it.
        judge: the function under test; :func:`mlops.judging.verdict.decide`.
    """
    return _SelfTest(rules, evidence, decision, judge).run()


class _SelfTest:
    """The original evidence, the judgements on it, and the judge."""

    def __init__(self, rules: Sequence[Rule], evidence: Evidence, decision: Decision, judge: Judge) -> None:
        self.rules, self.evidence, self.original, self.judge = rules, evidence, decision, judge
        expanded = [each for rule in rules for each in expand(rule, evidence)]
        judgements = zip(expanded, self.original.judgements, strict=False)
        parsed = [(rule, parse(rule.metric), judgement) for rule, judgement in judgements if rule.critical]
        self.cases = [
            RuleCase(rule, metric, evidence.reference(rule), judgement) for rule, metric, judgement in parsed if metric is not None
        ]
        self.rule_count = len(expanded)
        # Invalid evidence can't become more invalid, so the judgement of such a rule on a mutation shows nothing.
        self.valid = [case for case in self.cases if case.judgement.outcome is not Outcome.INVALID]
        self.names = {case.metric.name for case in self.cases}
        self.baselines = sorted({case.role for case in self.cases} - {"none"})

    def run(self) -> tuple[Probe, ...]:
        return (
            self._original_verdict(),
            *self._metric_values(),
            *self._rows(),
            *self._suites(),
            *self._identities(),
            *self._rules(),
            *(self._probe_ruin(suite) for suite in sorted({case.metric.suite for case in self.cases})),
            *(self._probe_regression(suite) for suite in sorted(self.evidence.suite_digests) if self.cases),
            *(probe for role in self.baselines for probe in (self._probe_swap(role), self._probe_reversal(role))),
            *(probe for case in self.cases if case.rule.test != "none" for probe in self._at_the_margin(case)),
        )

    # Invalid evidence -----------------------------------------------------------------------------------------------------------------

    def _original_verdict(self) -> Probe:
        expected = "PROMOTE only if all critical rules are shown, REJECT only if one fails"
        problem = checks.check_count(self.original, self.rule_count) or checks.check_consistency(self.original) or self._mismatches()
        return _probe("the original verdict", "nothing", expected, f"{self.original.verdict} follows from the judgements", problem)

    def _mismatches(self) -> str:
        """Find judgements of another metric, model, test or value than the rule's, and those shown without the rule's test."""
        problems = []
        for case in self.valid:
            judgement, roles = case.judgement, [role for role in ("candidate", case.role) if role != "none"]
            values = [value for value in (judgement.candidate, judgement.reference) if value is not None]
            expected = (case.metric.name, case.role, case.rule.test, [case.value(self.evidence, role) for role in roles])
            actual = (judgement.metric, judgement.compared_with, judgement.test, values)
            if actual != expected:
                problems.append(f"{judgement.rule} should judge {expected} but judged {actual}")
            elif judgement.outcome is Outcome.SHOWN and case.rule.test != "none" and not case.has_interval:
                problems.append(f"{judgement.rule} is shown without an interval")
        return "; ".join(problems)

    def _metric_values(self) -> list[Probe]:
        probes = []
        for label, value in _BAD_VALUES:
            for side in ("candidate", "baseline"):
                mutated = self._mutate(side, mutations.set_values(self.names, value))
                text = f"every judged metric value of the {side} is {label}"
                probes.append(self._expect_invalid(f"a metric value of the {side} is {label}", text, mutated, side))
        directions = {case.metric.name: case.rule.direction for case in self.cases}
        mutated = self._mutate("candidate", mutations.flatter(directions))
        text = "every judged metric value of the candidate is 1 % better than its rows"
        probes.append(self._expect_invalid("metric values are better than the rows", text, mutated))
        return probes

    def _rows(self) -> list[Probe]:
        probes = []
        scored = [case.metric for case in self.cases if case.metric.column is not None]
        for side in ("candidate", "baseline"):
            for label, value in _BAD_VALUES[1:]:
                mutated = self._mutate(side, mutations.set_row_value(scored, value))
                text = f"one score of the {side} in every judged suite is {label}"
                name = f"a row of the {side} is {label}"
                probes.append(self._expect_invalid(name, text, mutated, side, lambda case: case.metric.column is not None))
            row_mutations: dict[str, mutations.ModelMutation] = {
                "is dropped": mutations.select_rows(lambda rows: range(1, rows), self.names),
                "is foreign": mutations.rename_row,
            }
            for label, mutation in row_mutations.items():
                mutated = self._mutate(side, mutation)
                text = f"one row of the {side} in every suite {label}, and the metric values follow"
                probes.append(self._expect_invalid(f"a row of the {side} {label}", text, mutated, side))
            mutated = self._mutate(side, mutations.duplicate_row(self.names))
            text = f"one row of the {side} in every suite is duplicated, and the metric values follow"
            probes.append(self._expect_invalid(f"a row of the {side} is duplicated", text, mutated, side))
        mutated = self._mutate("candidate", mutations.change_inputs)
        text = "the candidate read one row of every suite as different tokens"
        probes.append(self._expect_invalid("a row is read as different tokens", text, mutated, applies_to=lambda case: case.compares))
        return [*probes, *self._rows_of_all_models()]

    def _rows_of_all_models(self) -> list[Probe]:
        """Faults in all models' rows alike only show in comparison with the frozen suite."""
        alike: dict[str, tuple[str, mutations.ModelMutation]] = {
            "is dropped": ("is dropped, and the metric values follow", mutations.select_rows(lambda rows: range(1, rows), self.names)),
            "is foreign": ("is foreign", mutations.rename_row),
            "is of another kind": ("has another kind than in the frozen suite", mutations.relabel_kinds),
        }
        probes = []
        for label, (text, mutation) in alike.items():
            mutated = mutations.on_models(self.evidence, list(self.evidence.models), mutation)
            probes.append(self._expect_invalid(f"a row of all models {label}", f"one row of every suite {text} in all models", mutated))
        text = "half of the rows of every suite are copies of the others under other ids, in all models"
        copied = mutations.copy_rows(self.evidence, self.names)
        rows = copied.models["candidate"].rows
        has_copies = {case.metric.name: bool((case.metric.selects(rows[case.metric.suite]) & rows[case.metric.suite].is_copy).any())
                      for case in self.valid}  # fmt: skip
        probe = self._expect_invalid(
            "rows are copies of others", text, copied, applies_to=lambda case: has_copies.get(case.metric.name, True)
        )
        return [*probes, probe]

    def _suites(self) -> list[Probe]:
        probes = []
        for side in ("candidate", "baseline"):
            mutated = self._mutate(side, mutations.change_suite_digests)
            text = f"the suite digests of the {side} are different"
            probes.append(self._expect_invalid(f"the {side} was scored on a different suite", text, mutated, side))
        frozen = replace(self.evidence, suite_digests=dict.fromkeys(self.evidence.suite_digests, "another"))
        text = "the digests of the frozen suites are different"
        probes.append(self._expect_invalid("validation froze a different suite", text, frozen))
        overlapping = replace(self.evidence, overlapping=dict.fromkeys(self.evidence.suite_digests, "1 row, planted by the self-test"))
        text = "a row of every suite is in the training data"
        probes.append(self._expect_invalid("the suites overlap the training data", text, overlapping))
        return probes

    def _identities(self) -> list[Probe]:
        probes = []
        for role in sorted(self.evidence.models.keys() - {"candidate"}):
            for field, label in (("model", "id"), ("weights_digest", "weights"), ("run", "scoring run"), ("scores", "score in every row")):
                mutated = mutations.copy_identity(self.evidence, role, field)
                probes.append(
                    self._expect_invalid(f"the candidate is the {role} ({label})", f"the candidate has the {role}'s {label}", mutated)
                )
        for role in self.baselines:
            others = {name: model for name, model in self.evidence.models.items() if name != role}
            mutated = replace(self.evidence, models=others, missing={**self.evidence.missing, role: "removed by the self-test"})
            comparing = [case for case in self.cases if case.role == role]
            text = f"the {role} exists but was not evaluated"
            probes.append(self._expect_invalid(f"the {role} is missing", text, mutated, applies_to=comparing.__contains__))
        return probes

    def _rules(self) -> list[Probe]:
        probes = []
        if self.valid:
            unknown = [case.rule.model_copy(update={"metric": f"{case.metric.suite}.unknown_metric"}) for case in self.valid]
            problem = checks.check_outcomes(self._judge(unknown, self.evidence), {Outcome.INVALID}, len(unknown))
            text = "every critical rule names a metric that no evaluation computes"
            actual = _count_rules(len(unknown), "invalid")
            probes.append(_probe("a rule names an unknown metric", text, "every rule is invalid", actual, problem))
        return [*probes, self._too_few_rows(), self._one_invalid_rule()]

    def _too_few_rows(self) -> Probe:
        name, mutation, expected = "too few rows", "one row fewer than the rule's min_rows", "no rule is shown or failed"
        problems = []
        for case in self.valid:
            mutated = mutations.reduce_rows(self.evidence, case.metric, case.rule.min_rows - 1)
            problems.append(checks.check_outcomes(self._judge([case.rule], mutated), {Outcome.INVALID, Outcome.UNPROVEN}, 1))
        if not problems:
            return self._report_not_applicable(name, mutation, expected, self.cases)
        actual = _count_rules(len(problems), "unproven or invalid")
        return _probe(name, mutation, expected, actual, "; ".join(filter(None, problems)))

    def _one_invalid_rule(self) -> Probe:
        """Judge all rules together, to detect a judge that lets the good ones outvote the bad one."""
        name, expected = "one rule has no valid evidence", "no PROMOTE"
        if not self.valid:
            return self._report_not_applicable(name, "one judged metric value is NaN", expected, self.cases)
        metric = self.valid[0].metric.name
        decision = self._judge(self.rules, self._mutate("candidate", mutations.set_values({metric}, math.nan)))
        promoted = "the verdict is PROMOTE" if decision.verdict is Verdict.PROMOTE else ""
        problem = checks.check_count(decision, self.rule_count) or checks.check_consistency(decision) or promoted
        return _probe(name, f"only {metric} of the candidate is NaN", expected, f"{decision.verdict}", problem)

    # Reversed evidence ----------------------------------------------------------------------------------------------------------------

    def _probe_swap(self, role: str) -> Probe:
        name, mutation = f"candidate and {role} swapped", f"the candidate is the {role}, and the {role} is the candidate"
        expected = "every difference and interval is exactly negated; a required improvement is not shown in both directions"
        cases = [case for case in self.valid if case.role == role]
        if not cases:
            return self._report_not_applicable(name, mutation, expected, [case for case in self.cases if case.role == role])
        decision = self._judge([case.rule for case in cases], mutations.swap_models(self.evidence, role))
        problem = checks.check_all(decision, cases, checks.check_swapped)
        return _probe(name, mutation, expected, _count_rules(len(cases), "negated"), problem)

    def _probe_reversal(self, role: str) -> Probe:
        name, mutation = f"direction reversed, against the {role}", "every rule has the opposite direction"
        expected = "differences and intervals stay the same; a required improvement is not shown in both directions"
        cases = [case for case in self.valid if case.role == role]
        if not cases:
            return self._report_not_applicable(name, mutation, expected, [case for case in self.cases if case.role == role])
        opposite = {"lower": "higher", "higher": "lower"}
        rules = [case.rule.model_copy(update={"direction": opposite[case.rule.direction]}) for case in cases]
        problem = checks.check_all(self._judge(rules, self.evidence), cases, checks.check_reversed)
        return _probe(name, mutation, expected, _count_rules(len(cases), "unchanged"), problem)

    def _probe_ruin(self, suite: str) -> Probe:
        """Show that these rules can stop anything at all, since they can be written in a way that stops nothing."""
        name, mutation = (
            f"a ruined candidate: {suite} suite",
            f"the candidate has twice the worst loss and no right answer in the {suite} suite",
        )
        expected = "no PROMOTE by the critical rules about this suite"
        dependent = [case for case in self.cases if case.metric.suite == suite]
        valid = [case for case in dependent if case in self.valid]
        if not valid or suite not in self.evidence.models["candidate"].rows:
            return self._report_not_applicable(name, mutation, expected, dependent)
        decision = self._judge([case.rule for case in valid], mutations.ruin(self.evidence, suite, self.names))
        problem = checks.check_count(decision, len(valid)) or checks.check_consistency(decision)
        if not problem and decision.verdict is Verdict.PROMOTE:
            problem = "the verdict is PROMOTE, so these rules can't stop anything"
        return _probe(name, mutation, expected, f"{decision.verdict}", problem)

    def _probe_regression(self, suite: str) -> Probe:
        """Show that the rules stop a candidate that is plainly worse on a suite. A suite without a rule fails this probe."""
        name = f"a worse candidate: {suite} suite"
        mutation = f"the candidate is {number(_MODERATE)} nats per token worse than every other model in each row of the {suite} suite"
        expected = "no PROMOTE by the critical rules about this suite"
        dependent = [case for case in self.cases if case.metric.suite == suite]
        if not dependent:
            return _probe(name, mutation, expected, "", f"no critical rule is about the {suite} suite")
        valid = [case for case in dependent if case in self.valid]
        compared = [role for role, model in self.evidence.models.items() if suite in model.rows]
        if len(valid) < len(dependent) or "candidate" not in compared or len(compared) < 2:
            return self._report_not_applicable(name, mutation, expected, dependent)
        decision = self._judge([case.rule for case in valid], mutations.regress(self.evidence, suite, self.names, _MODERATE))
        problem = checks.check_count(decision, len(valid)) or checks.check_consistency(decision)
        if not problem and decision.verdict is Verdict.PROMOTE:
            problem = "the verdict is PROMOTE, so these rules are too lenient"
        return _probe(name, mutation, expected, f"{decision.verdict}", problem)

    # A worse candidate ----------------------------------------------------------------------------------------------------------------

    def _at_the_margin(self, case: RuleCase) -> list[Probe]:
        if case.has_interval and case.rule.test == "tail":
            return [self._spoil_rows(case)]
        if case.has_interval:
            return [self._plant_regression(case), self._next_to_the_margin(case)]
        invalid = case.judgement.outcome is Outcome.INVALID
        why = "the rule has no valid evidence even without a mutation" if invalid else "these rows have no interval"
        name = f"a planted regression: {case.judgement.rule}"
        return [Probe(name=name, mutation="nothing", expected="failed", actual=why, result="not applicable")]

    def _plant_regression(self, case: RuleCase) -> Probe:
        """Make the candidate worse than the baseline by twice the margin or, without a margin, by twice the minimum detectable effect."""
        judgement = case.judgement
        margin, mde = case.margin(self.evidence), judgement.mde or 0.0
        by = 2 * (abs(margin) or mde)
        mutated = self._plant(case, by - margin, checks.distance_beyond_margin)
        name, expected = f"a planted regression: {judgement.rule}", "failed, or unproven if the report says that these rows can't show it"
        mutation = f"the candidate is worse than the {case.role} by {number(by)}, {'twice the margin' if margin else 'twice the MDE'}"
        decision = self._judge([case.rule], mutated)
        if problem := checks.check_count(decision, 1) or checks.check_consistency(decision):
            return _probe(name, mutation, expected, "", problem)
        replayed = decision.judgements[0]
        if replayed.outcome is Outcome.INVALID:
            return _report_not_planted(name, mutation, expected, replayed.reason)
        beyond, detectable = checks.distance_beyond_margin(case, mutated), checks.detectable(replayed)
        problem = ""
        if replayed.outcome is Outcome.SHOWN:
            if beyond <= 0:
                return _report_not_planted(name, mutation, expected, "no score can be that bad")
            problem = f"the rule is shown: {replayed.reason}"
        elif replayed.outcome is Outcome.UNPROVEN and beyond > detectable:
            problem = f"the rule is unproven, although it is {number(beyond)} beyond the margin and {number(detectable)} is detectable"
        actual = f"{replayed.outcome.value}, {number(beyond)} beyond the margin; {number(detectable)} is detectable"
        return _probe(name, mutation, expected, actual, problem)

    def _spoil_rows(self, case: RuleCase) -> Probe:
        """Make one row more than the rule tolerates worse."""
        allowed, rows = case.rule.max_share or 0.0, case.judgement.n or 1
        share = min(1.0, allowed + 1 / rows)
        by = case.worse * 2 * case.rule.margin
        mutated = mutations.spoil_rows(self.evidence, case.metric, case.role, share, by)
        name, expected = f"spoiled rows: {case.judgement.rule}", "not shown"
        mutation = f"{number(share * 100)} % of the rows of the candidate are worse than those of the {case.role} by twice the margin"
        decision = self._judge([case.rule], mutated)
        problem = checks.check_count(decision, 1) or checks.check_consistency(decision)
        if not problem and decision.judgements[0].outcome is Outcome.SHOWN:
            if checks.count_spoiled(case, mutated) <= allowed * rows:
                return _report_not_planted(name, mutation, expected, "no score can be that bad")
            problem = f"the rule is shown: {decision.judgements[0].reason}"
        return _probe(name, mutation, expected, decision.judgements[0].outcome.value if decision.judgements else "", problem)

    def _next_to_the_margin(self, case: RuleCase) -> Probe:
        """Put the candidate on the good side of the margin by almost nothing: two numbers would show it, an interval can't."""
        # Scores that are moved far have a different spread, and a tenth of the original MDE might be detectable.
        at_margin = self._judge([case.rule], self._plant(case, 0.0, checks.tested_distance)).judgements
        step = _STEP * min([case.judgement.mde or 0.0, *(judgement.mde for judgement in at_margin if judgement.mde is not None)])
        mutated = self._plant(case, -step, checks.tested_distance)
        decision = self._judge([case.rule], mutated)
        name, expected = f"next to the margin: {case.judgement.rule}", "not shown"
        mutation = f"the candidate is on the good side of its margin by {number(step)}, a tenth of the MDE there"
        if problem := checks.check_count(decision, 1) or checks.check_consistency(decision):
            return _probe(name, mutation, expected, "", problem)
        replayed = decision.judgements[0]
        problem = ""
        if replayed.outcome is Outcome.SHOWN:
            if checks.tested_distance(case, mutated) < -2 * step:
                return _report_not_planted(name, mutation, expected, "no score can be that bad")
            problem = f"the rule is shown: {replayed.reason}"
        return _probe(name, mutation, expected, replayed.outcome.value, problem)

    def _plant(self, case: RuleCase, beyond: float, distance: Callable[[RuleCase, Evidence], float]) -> Evidence:
        """Move the candidate to this distance on the bad side of its margin, as measured by a function of :mod:`checks`."""
        if case.rule.test == "wilcoxon":
            return mutations.shift_rows(self.evidence, case.metric, case.worse * (beyond - distance(case, self.evidence)))
        target = case.value(self.evidence, case.role) + case.worse * (beyond + case.margin(self.evidence))
        return mutations.move_to(self.evidence, case.metric, case.role, target, relative=case.rule.margin_kind == "relative")

    # Judging --------------------------------------------------------------------------------------------------------------------------

    def _judge(self, rules: Sequence[Rule], evidence: Evidence) -> Decision:
        try:
            return self.judge(rules, evidence)
        except Exception as problem:  # a judge that raises on bad evidence hasn't detected it
            return Decision(Verdict.HOLD, (f"the gate raised {type(problem).__name__}: {problem}".rstrip(" :"),), ())

    def _mutate(self, side: str, mutation: mutations.ModelMutation) -> Evidence:
        roles = ["candidate"] if side == "candidate" else [role for role in self.evidence.models if role != "candidate"]
        return mutations.on_models(self.evidence, roles, mutation)

    def _expect_invalid(
        self,
        name: str,
        mutation: str,
        mutated: Evidence,
        side: str = "candidate",
        applies_to: Callable[[RuleCase], bool] = lambda _: True,
    ) -> Probe:
        """Judge the rules that depend on the mutation. All of them must be invalid."""
        expected = "every rule that depends on it is invalid"
        dependent = [case for case in self.cases if applies_to(case) and (case.compares or side == "candidate")]
        valid = [case for case in dependent if case in self.valid]
        if not valid:
            return self._report_not_applicable(name, mutation, expected, dependent)
        decision = self._judge([case.rule for case in valid], mutated)
        problem = checks.check_outcomes(decision, {Outcome.INVALID}, len(valid))
        return _probe(name, mutation, expected, _count_rules(len(valid), "invalid"), problem)

    def _report_not_applicable(self, name: str, mutation: str, expected: str, dependent: Collection[RuleCase]) -> Probe:
        why = "the rules that depend on it have no valid evidence even without it" if dependent else "no critical rule depends on it"
        return Probe(name=name, mutation=mutation, expected=expected, actual=why, result="not applicable")


def _probe(name: str, mutation: str, expected: str, actual: str, problem: str) -> Probe:
    return Probe(name=name, mutation=mutation, expected=expected, actual=problem or actual, result="missed" if problem else "detected")


def _report_not_planted(name: str, mutation: str, expected: str, why: str) -> Probe:
    return Probe(name=name, mutation=mutation, expected=expected, actual=f"can't be planted: {why}", result="not applicable")


def _count_rules(count: int, what: str) -> str:
    return f"1 rule {what}" if count == 1 else f"{count} rules {what}"
