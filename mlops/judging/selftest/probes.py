"""Whether the gate can fail: the decision is replayed on evidence that was spoilt, and must notice every time.

Each probe spoils the evidence of this very run in one way (:mod:`mlops.judging.selftest.mutations`) and asks the critical rules that
read what was spoilt. Evidence that is no evidence must be called invalid, whatever the candidate is worth; one that is turned round must
turn the answer round; a regression that is planted must be seen as far as the report says that it can be seen. Only rules that had valid
evidence before can show anything here: where there is none, the probe is not applicable, which is not the same as passed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from mlops.core.records import Outcome, Probe, Verdict
from mlops.judging.evidence import Evidence
from mlops.judging.metrics import parse
from mlops.judging.rules import expand
from mlops.judging.selftest import mutations, scrutiny
from mlops.judging.selftest.scrutiny import Asked
from mlops.judging.verdict import Decision
from mlops.judging.wording import number

if TYPE_CHECKING:
    from mlops.core.config import Rule

__all__ = ["Judge", "self_test"]

_EDGE = 0.1
"""Of the minimum detectable effect: so near to its margin nobody can tell on which side a candidate is."""
_FIGURES = (("missing", None), ("NaN", math.nan), ("infinite", math.inf), ("minus infinite", -math.inf))


Judge = Callable[[Sequence["Rule"], Evidence], Decision]
"""What is tested: :func:`mlops.judging.verdict.decide`."""


def self_test(rules: Sequence[Rule], evidence: Evidence, decision: Decision, judge: Judge) -> tuple[Probe, ...]:
    """Replay a decision on spoilt evidence.

    Args:
        rules: as configured.
        evidence: of this run.
        decision: what the judge said of it.
        judge: what is tested; :func:`mlops.judging.verdict.decide`.
    """
    return _Bench(rules, evidence, decision, judge).probes()


class _Bench:
    """The evidence as it is, the rules' answers to it, and the judge."""

    def __init__(self, rules: Sequence[Rule], evidence: Evidence, decision: Decision, judge: Judge) -> None:
        self.rules, self.evidence, self.original, self.judge = rules, evidence, decision, judge
        concrete = [each for rule in rules for each in expand(rule, evidence)]
        found = zip(concrete, self.original.judgements, strict=False)
        parsed = [(rule, parse(rule.metric), answer) for rule, answer in found if rule.critical]
        known = [(rule, metric, answer) for rule, metric, answer in parsed if metric is not None]
        self.critical = [Asked(rule, metric, scrutiny.role_of(rule, evidence), answer) for rule, metric, answer in known]
        self.asked = len(concrete)
        # Invalid evidence can't become more invalid: what such a rule says of a sabotage shows nothing.
        self.sound = [asked for asked in self.critical if asked.answer.outcome is not Outcome.INVALID]
        self.names = {asked.metric.name for asked in self.critical}
        self.baselines = sorted({asked.role for asked in self.critical} - {"none"})

    def probes(self) -> tuple[Probe, ...]:
        return (
            self._as_it_stands(),
            *self._figures(),
            *self._rows(),
            *self._suites(),
            *self._models(),
            *self._rules(),
            *(probe for role in self.baselines for probe in (self._exchanged(role), self._turned(role))),
            *(probe for asked in self.critical if asked.rule.test != "none" for probe in self._beside_the_margin(asked)),
        )

    # Evidence that is none ---------------------------------------------------------------------------------------------------------

    def _as_it_stands(self) -> Probe:
        expected = "PROMOTE only if all critical rules are shown, REJECT only if one fails"
        wrong = scrutiny.unanswered(self.original, self.asked) or scrutiny.inconsistent(self.original) or self._misread()
        return _probe("the verdict as it stands", "nothing", expected, wrong or f"{self.original.verdict} follows from the answers", wrong)

    def _misread(self) -> str:
        """Where an answer is to another question, about other figures, or shown without the test that was asked for."""
        wrong = []
        for asked in self.sound:
            answer, roles = asked.answer, [role for role in ("candidate", asked.role) if role != "none"]
            told = [figure for figure in (answer.candidate, answer.reference) if figure is not None]
            question = (asked.metric.name, asked.role, asked.rule.test, [asked.figure(self.evidence, role) for role in roles])
            if (answer.metric, answer.answered_against, answer.test, told) != question:
                wrong.append(f"{answer.rule} was asked about {question} and answered about {told} with test {answer.test}")
            elif answer.outcome is Outcome.SHOWN and asked.rule.test != "none" and not asked.paired:
                wrong.append(f"{answer.rule} is shown without an interval")
        return "; ".join(wrong)

    def _figures(self) -> list[Probe]:
        made = []
        for told, value in _FIGURES:
            for side in ("candidate", "baseline"):
                change = self._spoilt(side, mutations.set_figures(self.names, value))
                made.append(
                    self._invalid(f"a figure of the {side} is {told}", f"every judged figure of the {side} is {told}", change, side)
                )
        better = {asked.metric.name: asked.rule.direction for asked in self.critical}
        flatter = self._spoilt("candidate", mutations.flatter(better))
        made.append(self._invalid("a figure flatters", "every judged figure of the candidate is 1 % better than its rows", flatter))
        return made

    def _rows(self) -> list[Probe]:
        made = []
        scored = [asked.metric for asked in self.critical if asked.metric.measure in mutations.COLUMNS]
        for side in ("candidate", "baseline"):
            for told, value in _FIGURES[1:]:
                change = self._spoilt(side, mutations.spoil_a_row(scored, value))
                made.append(
                    self._invalid(
                        f"a row of the {side} is {told}", f"one score of the {side} in every judged suite is {told}", change, side,
                        lambda asked: asked.metric.measure in mutations.COLUMNS,
                    )
                )  # fmt: skip
            changes: dict[str, mutations.Change] = {
                "is dropped": mutations.keep_rows(lambda rows: range(1, rows), self.names),
                "is foreign": mutations.rename_row,
            }
            for told, one in changes.items():
                change = self._spoilt(side, one)
                text = f"one row of the {side} in every suite {told}, the figures follow"
                # Without a second model to hold it against, nobody can see that; `evaluate` holds the rows against the suite's.
                made.append(self._invalid(f"a row of the {side} {told}", text, change, side, lambda asked: asked.compares))
            twice = self._spoilt(side, mutations.repeat_row(self.names))
            text = f"one row of the {side} in every suite is there twice, the figures follow"
            made.append(self._invalid(f"a row of the {side} is there twice", text, twice, side))
        read = self._spoilt("candidate", mutations.read_otherwise)
        text = "one row of the candidate in every suite was read as other tokens"
        made.append(self._invalid("rows are read as other tokens", text, read, keep=lambda asked: asked.compares))
        return made

    def _suites(self) -> list[Probe]:
        made = []
        for side in ("candidate", "baseline"):
            change = self._spoilt(side, mutations.name_other_suites)
            made.append(
                self._invalid(f"the {side} was scored on another suite", f"the suites' digests of the {side} are others", change, side)
            )
        frozen = replace(self.evidence, suite_digests=dict.fromkeys(self.evidence.suite_digests, "another"))
        made.append(self._invalid("validation froze another suite", "the digests of the frozen suites are others", frozen))
        overlapping = replace(self.evidence, overlapping=dict.fromkeys(self.evidence.suite_digests, "1 row, planted by the self-test"))
        made.append(self._invalid("the suites overlap the training data", "a row of every suite is in the training data", overlapping))
        return made

    def _models(self) -> list[Probe]:
        made = []
        for role in sorted(self.evidence.models.keys() - {"candidate"}):
            for what, told in (("model", "id"), ("weights_digest", "weights"), ("run", "scoring run"), ("scores", "score in every row")):
                change = mutations.take_identity(self.evidence, role, what)
                made.append(self._invalid(f"the candidate is the {role} ({told})", f"the candidate has the {role}'s {told}", change))
        for role in self.baselines:
            gone = {name: model for name, model in self.evidence.models.items() if name != role}
            change = replace(self.evidence, models=gone, missing={**self.evidence.missing, role: "taken away by the self-test"})
            text = f"the {role} exists and was not evaluated"
            held = [asked for asked in self.critical if asked.role == role]
            made.append(self._invalid(f"the {role} is missing", text, change, keep=held.__contains__))
        return made

    def _rules(self) -> list[Probe]:
        made = []
        if self.sound:
            unknown = [asked.rule.model_copy(update={"metric": f"{asked.metric.suite}.unheard_of"}) for asked in self.sound]
            wrong = scrutiny.others(self._ask(unknown, self.evidence), {Outcome.INVALID}, len(unknown))
            expected, found = "every rule is invalid", _count(len(unknown), "invalid")
            made.append(
                _probe("a rule names an unknown metric", "every critical rule is about a metric that nobody makes", expected, found, wrong)
            )
        made += [self._too_few(), self._one_of_many()]
        return made

    def _too_few(self) -> Probe:
        name, change = "too few rows", "one row fewer than the rule's min_rows"
        wrong = []
        for asked in self.sound:
            thin = mutations.thin_out(self.evidence, asked.metric, asked.rule.min_rows - 1)
            wrong.append(scrutiny.others(self._ask([asked.rule], thin), {Outcome.INVALID, Outcome.UNPROVEN}, 1))
        if not wrong:
            return self._nothing_to_ask(name, change, "no rule is shown or failed", self.critical)
        return _probe(name, change, "no rule is shown or failed", _count(len(wrong), "unproven or invalid"), "; ".join(filter(None, wrong)))

    def _one_of_many(self) -> Probe:
        """The whole set of rules, so that a judge is caught who lets the good ones outvote the bad one."""
        name, expected = "one rule has no evidence", "no PROMOTE"
        if not self.sound:
            return self._nothing_to_ask(name, "one judged figure is NaN", expected, self.critical)
        spoilt = self.sound[0].metric.name
        decision = self._ask(self.rules, self._spoilt("candidate", mutations.set_figures({spoilt}, math.nan)))
        promoted = "the verdict is PROMOTE" if decision.verdict is Verdict.PROMOTE else ""
        wrong = scrutiny.unanswered(decision, self.asked) or scrutiny.inconsistent(decision) or promoted
        return _probe(name, f"{spoilt} of the candidate is NaN, all else is as it was", expected, f"{decision.verdict}", wrong)

    # Evidence that is turned round --------------------------------------------------------------------------------------------------

    def _exchanged(self, role: str) -> Probe:
        name, change = f"candidate and {role} exchanged", f"the candidate is the {role}, and the {role} the candidate"
        expected = "every difference and interval is negated to the last bit; what asks for an improvement is not shown on both sides"
        asked = [each for each in self.sound if each.role == role]
        if not asked:
            return self._nothing_to_ask(name, change, expected, [each for each in self.critical if each.role == role])
        answers = self._ask([each.rule for each in asked], mutations.exchange_models(self.evidence, role))
        wrong = scrutiny.complaints(answers, asked, scrutiny.exchanged)
        return _probe(name, change, expected, _count(len(asked), "negated"), wrong)

    def _turned(self, role: str) -> Probe:
        name, change = f"direction turned, against the {role}", "what was better is worse in every rule"
        expected = "differences and intervals stay; what asks for an improvement is not shown both ways"
        asked = [each for each in self.sound if each.role == role]
        if not asked:
            return self._nothing_to_ask(name, change, expected, [each for each in self.critical if each.role == role])
        opposite = {"lower": "higher", "higher": "lower"}
        turned = [each.rule.model_copy(update={"direction": opposite[each.rule.direction]}) for each in asked]
        wrong = scrutiny.complaints(self._ask(turned, self.evidence), asked, scrutiny.turned)
        return _probe(name, change, expected, _count(len(asked), "unmoved"), wrong)

    # Evidence of something bad ------------------------------------------------------------------------------------------------------

    def _beside_the_margin(self, asked: Asked) -> list[Probe]:
        if asked.paired:
            return [self._regression(asked), self._edge(asked)]
        why = "the rule has no valid evidence to begin with" if asked.answer.outcome is Outcome.INVALID else "these rows give no interval"
        name = f"a planted regression: {asked.answer.rule}"
        return [Probe(name=name, change="nothing", expected="failed", found=why, result="not applicable")]

    def _regression(self, asked: Asked) -> Probe:
        """Worse than the baseline by twice the margin, or without a margin by twice the minimum detectable effect."""
        answer = asked.answer
        margin, mde = asked.margin(self.evidence), answer.mde or 0.0
        by = 2 * (abs(margin) or mde)
        spoilt = self._planted(asked, by - margin, scrutiny.beyond)
        told = "twice the margin" if margin else "twice the MDE"
        name, expected = f"a planted regression: {answer.rule}", "failed, or unproven where the report says that these rows can't show it"
        change = f"the candidate is worse than the {asked.role} by {number(by)}, {told}"
        decision = self._ask([asked.rule], spoilt)
        if wrong := scrutiny.unanswered(decision, 1) or scrutiny.inconsistent(decision):
            return _probe(name, change, expected, "", wrong)
        seen = decision.judgements[0]
        if seen.outcome is Outcome.INVALID:
            return _not_planted(name, change, expected, seen.reason)
        beyond, visible = scrutiny.beyond(asked, spoilt), scrutiny.visible(seen)
        if seen.outcome is Outcome.SHOWN:
            if beyond <= 0:
                return _not_planted(name, change, expected, "no score can be so bad")
            wrong = f"the rule is shown: {seen.reason}"
        elif seen.outcome is Outcome.UNPROVEN and beyond > visible:
            wrong = f"the rule is unproven, though {number(beyond)} beyond the margin is plain where {number(visible)} can be seen"
        found = f"{seen.outcome.value}, {number(beyond)} beyond the margin where {number(visible)} can be seen"
        return _probe(name, change, expected, found, wrong)

    def _edge(self, asked: Asked) -> Probe:
        """On the good side of the margin by next to nothing: two numbers would show it, an interval can't."""
        answer = asked.answer
        # Scores that are moved a long way spread less or more than they did, and a tenth of the old MDE may be plain to see.
        on_it = self._ask([asked.rule], self._planted(asked, 0.0, scrutiny.tested)).judgements
        step = _EDGE * min([answer.mde or 0.0, *(seen.mde for seen in on_it if seen.mde is not None)])
        spoilt = self._planted(asked, -step, scrutiny.tested)
        decision = self._ask([asked.rule], spoilt)
        name, expected = f"next to the margin: {answer.rule}", "not shown"
        change = f"the candidate is on the good side of its margin by {number(step)}, a tenth of the MDE there"
        if wrong := scrutiny.unanswered(decision, 1) or scrutiny.inconsistent(decision):
            return _probe(name, change, expected, "", wrong)
        seen = decision.judgements[0]
        if seen.outcome is Outcome.SHOWN:
            if scrutiny.tested(asked, spoilt) < -2 * step:
                return _not_planted(name, change, expected, "no score can be so bad")
            wrong = f"the rule is shown: {seen.reason}"
        return _probe(name, change, expected, seen.outcome.value, wrong)

    def _planted(self, asked: Asked, beyond: float, by: Callable[[Asked, Evidence], float]) -> Evidence:
        """Evidence in which the candidate is so far on the bad side of its margin, by one of the measures of :mod:`scrutiny`."""
        if asked.rule.test == "wilcoxon":
            return mutations.shift(self.evidence, asked.metric, asked.worse * (beyond - by(asked, self.evidence)))
        target = asked.figure(self.evidence, asked.role) + asked.worse * (beyond + asked.margin(self.evidence))
        return mutations.move(self.evidence, asked.metric, asked.role, target, relative=asked.rule.margin_kind == "relative")

    # Asking -------------------------------------------------------------------------------------------------------------------------

    def _ask(self, rules: Sequence[Rule], evidence: Evidence) -> Decision:
        try:
            return self.judge(rules, evidence)
        except Exception as problem:  # Whatever it is: a judge that breaks on bad evidence has not noticed it.
            return Decision(Verdict.HOLD, (f"the gate breaks: {type(problem).__name__}: {problem}".rstrip(" :"),), ())

    def _spoilt(self, side: str, change: mutations.Change) -> Evidence:
        roles = ["candidate"] if side == "candidate" else [role for role in self.evidence.models if role != "candidate"]
        return mutations.on(self.evidence, roles, change)

    def _invalid(
        self, name: str, change: str, spoilt: Evidence, side: str = "candidate", keep: Callable[[Asked], bool] = lambda _: True
    ) -> Probe:
        """Ask the rules that read what was spoilt. All of them must say that there is no valid evidence."""
        expected = "every rule that reads it is invalid"
        readers = [asked for asked in self.critical if keep(asked) and (asked.compares or side == "candidate")]
        sound = [asked for asked in readers if asked in self.sound]
        if not sound:
            return self._nothing_to_ask(name, change, expected, readers)
        decision = self._ask([asked.rule for asked in sound], spoilt)
        return _probe(name, change, expected, _count(len(sound), "invalid"), scrutiny.others(decision, {Outcome.INVALID}, len(sound)))

    def _nothing_to_ask(self, name: str, change: str, expected: str, readers: Collection[Asked]) -> Probe:
        why = "the rules that read it have no valid evidence to begin with" if readers else "no critical rule reads it"
        return Probe(name=name, change=change, expected=expected, found=why, result="not applicable")


def _probe(name: str, change: str, expected: str, found: str, wrong: str) -> Probe:
    return Probe(name=name, change=change, expected=expected, found=wrong or found, result="missed" if wrong else "passed")


def _not_planted(name: str, change: str, expected: str, why: str) -> Probe:
    return Probe(name=name, change=change, expected=expected, found=f"can't be planted: {why}", result="not applicable")


def _count(rules: int, what: str) -> str:
    return f"1 rule {what}" if rules == 1 else f"{rules} rules {what}"
