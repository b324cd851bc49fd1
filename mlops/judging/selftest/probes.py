"""Tests whether the gate can reject: the decision is replayed on mutated evidence, and the gate must detect every mutation.

Each probe mutates the evidence of this run in one way (:mod:`mlops.judging.selftest.mutations`) and replays the critical rules that depend
on it. Invalid evidence must be called invalid, however good the candidate is. Swapped models must reverse the judgement. A planted
regression must be detected as far as the report claims that it can be detected. Only rules with valid evidence can show anything here;
without one, the probe is not applicable, which is not the same as detected.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from mlops.core.judgement import Outcome, Probe, Verdict
from mlops.core.settings import Rule
from mlops.judging.evidence import Evidence
from mlops.judging.metrics import parse
from mlops.judging.rules import expand
from mlops.judging.selftest import checks, mutations
from mlops.judging.selftest.checks import RuleCase
from mlops.judging.selftest.draft import Draft
from mlops.judging.selftest.regressions import Judge, probe_margin
from mlops.judging.verdict import Decision
from mlops.judging.wording import number

__all__ = ["self_test"]

_MODERATE = 0.5
"""Nats per token: each token is 39 % less likely. Rules that let such a model through are worthless."""
_BAD_VALUES = (("missing", None), ("NaN", math.nan), ("infinite", math.inf), ("minus infinite", -math.inf))


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
            *(probe for case in self.cases if case.rule.test != "none" for probe in probe_margin(case, self.evidence, self._judge)),
        )

    # Invalid evidence -----------------------------------------------------------------------------------------------------------------

    def _original_verdict(self) -> Probe:
        expected = "PROMOTE only if all critical rules are shown, REJECT only if one fails"
        problem = checks.check_decision(self.original, self.rule_count) or self._mismatches()
        draft = Draft("the original verdict", "nothing", expected)
        return draft.judged(f"{self.original.verdict} follows from the judgements", problem)

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
            draft = Draft("a rule names an unknown metric", text, "every rule is invalid")
            probes.append(draft.judged(_count_rules(len(unknown), "invalid"), problem))
        return [*probes, self._too_few_rows(), self._one_invalid_rule()]

    def _too_few_rows(self) -> Probe:
        draft = Draft("too few rows", "one row fewer than the rule's min_rows", "no rule is shown or failed")
        problems = []
        for case in self.valid:
            mutated = mutations.reduce_rows(self.evidence, case.metric, case.rule.min_rows - 1)
            problems.append(checks.check_outcomes(self._judge([case.rule], mutated), {Outcome.INVALID, Outcome.UNPROVEN}, 1))
        if not problems:
            return draft.not_applicable(self.cases)
        return draft.judged(_count_rules(len(problems), "unproven or invalid"), "; ".join(filter(None, problems)))

    def _one_invalid_rule(self) -> Probe:
        """Judge all rules together, to detect a judge that lets the good ones outvote the bad one."""
        name, expected = "one rule has no valid evidence", "no PROMOTE"
        if not self.valid:
            return Draft(name, "one judged metric value is NaN", expected).not_applicable(self.cases)
        metric = self.valid[0].metric.name
        decision = self._judge(self.rules, self._mutate("candidate", mutations.set_values({metric}, math.nan)))
        promoted = "the verdict is PROMOTE" if decision.verdict is Verdict.PROMOTE else ""
        problem = checks.check_decision(decision, self.rule_count) or promoted
        return Draft(name, f"only {metric} of the candidate is NaN", expected).judged(f"{decision.verdict}", problem)

    # Reversed evidence ----------------------------------------------------------------------------------------------------------------

    def _probe_swap(self, role: str) -> Probe:
        expected = "every difference and interval is exactly negated; a required improvement is not shown in both directions"
        draft = Draft(f"candidate and {role} swapped", f"the candidate is the {role}, and the {role} is the candidate", expected)
        cases = [case for case in self.valid if case.role == role]
        if not cases:
            return draft.not_applicable([case for case in self.cases if case.role == role])
        decision = self._judge([case.rule for case in cases], mutations.swap_models(self.evidence, role))
        problem = checks.check_all(decision, cases, checks.check_swapped)
        return draft.judged(_count_rules(len(cases), "negated"), problem)

    def _probe_reversal(self, role: str) -> Probe:
        expected = "differences and intervals stay the same; a required improvement is not shown in both directions"
        draft = Draft(f"direction reversed, against the {role}", "every rule has the opposite direction", expected)
        cases = [case for case in self.valid if case.role == role]
        if not cases:
            return draft.not_applicable([case for case in self.cases if case.role == role])
        opposite = {"lower": "higher", "higher": "lower"}
        rules = [case.rule.model_copy(update={"direction": opposite[case.rule.direction]}) for case in cases]
        problem = checks.check_all(self._judge(rules, self.evidence), cases, checks.check_reversed)
        return draft.judged(_count_rules(len(cases), "unchanged"), problem)

    def _probe_ruin(self, suite: str) -> Probe:
        """Show that these rules can stop anything at all, since they can be written in a way that stops nothing."""
        mutation = f"the candidate has twice the worst loss and no right answer in the {suite} suite"
        draft = Draft(f"a ruined candidate: {suite} suite", mutation, "no PROMOTE by the critical rules about this suite")
        dependent = [case for case in self.cases if case.metric.suite == suite]
        valid = [case for case in dependent if case in self.valid]
        if not valid or suite not in self.evidence.models["candidate"].rows:
            return draft.not_applicable(dependent)
        decision = self._judge([case.rule for case in valid], mutations.ruin(self.evidence, suite, self.names))
        problem = checks.check_decision(decision, len(valid))
        if not problem and decision.verdict is Verdict.PROMOTE:
            problem = "the verdict is PROMOTE, so these rules can't stop anything"
        return draft.judged(f"{decision.verdict}", problem)

    def _probe_regression(self, suite: str) -> Probe:
        """Show that the rules stop a candidate that is plainly worse on a suite. A suite without a rule fails this probe."""
        mutation = f"the candidate is {number(_MODERATE)} nats per token worse than every other model in each row of the {suite} suite"
        draft = Draft(f"a worse candidate: {suite} suite", mutation, "no PROMOTE by the critical rules about this suite")
        dependent = [case for case in self.cases if case.metric.suite == suite]
        if not dependent:
            return draft.judged("", f"no critical rule is about the {suite} suite")
        valid = [case for case in dependent if case in self.valid]
        compared = [role for role, model in self.evidence.models.items() if suite in model.rows]
        if len(valid) < len(dependent) or "candidate" not in compared or len(compared) < 2:
            return draft.not_applicable(dependent)
        decision = self._judge([case.rule for case in valid], mutations.regress(self.evidence, suite, self.names, _MODERATE))
        problem = checks.check_decision(decision, len(valid))
        if not problem and decision.verdict is Verdict.PROMOTE:
            problem = "the verdict is PROMOTE, so these rules are too lenient"
        return draft.judged(f"{decision.verdict}", problem)

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
        draft = Draft(name, mutation, "every rule that depends on it is invalid")
        dependent = [case for case in self.cases if applies_to(case) and (case.compares or side == "candidate")]
        valid = [case for case in dependent if case in self.valid]
        if not valid:
            return draft.not_applicable(dependent)
        decision = self._judge([case.rule for case in valid], mutated)
        problem = checks.check_outcomes(decision, {Outcome.INVALID}, len(valid))
        return draft.judged(_count_rules(len(valid), "invalid"), problem)


def _count_rules(count: int, what: str) -> str:
    return f"1 rule {what}" if count == 1 else f"{count} rules {what}"
