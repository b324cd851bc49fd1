"""Derives one verdict from rules and evidence.

PROMOTE requires that every critical rule is shown. Each is shown at its own confidence, so all hold at the lowest of them: this is an
intersection-union test (Berger 1982), which needs no correction. REJECT requires that at least one critical rule is shown to fail. With
many rules one may seem to fail by chance, so failures are corrected together (Holm 1979) over all critical rules that have a p-value. A
rule that compares two numbers (a floor, a ceiling, ``test = "none"``) has no p-value: it fails without statistics and is not part of the
correction.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

from mlops.core.judgement import Judgement, Outcome, Verdict
from mlops.core.settings import Rule
from mlops.judging.evidence import Evidence
from mlops.judging.rules import expand, judge_rule
from mlops.judging.statistics.estimate import POWER, significance_level
from mlops.judging.statistics.holm import holm
from mlops.judging.wording import number

__all__ = ["Decision", "combine", "correct", "decide"]


@dataclass(frozen=True)
class Decision:
    """A verdict, the reasons for it, and the judgements that it follows from."""

    verdict: Verdict
    reasons: tuple[str, ...]
    judgements: tuple[Judgement, ...]


def decide(rules: Sequence[Rule], evidence: Evidence) -> Decision:
    """Judge all rules in their order, and combine the judgements.

    Args:
        rules: as configured; a rule for every kind of a suite's rows (``retention.*.nll``) becomes one rule per kind.
        evidence: the measurements.
    """
    judgements = correct([judge_rule(each, evidence) for rule in rules for each in expand(rule, evidence)])
    verdict, reasons = combine(judgements)
    return Decision(verdict, reasons, judgements)


def correct(judgements: Sequence[Judgement]) -> tuple[Judgement, ...]:
    """Apply Holm's correction: a critical rule that fails on its own, but not among all critical rules with a test, is unproven."""
    family = [index for index, judgement in enumerate(judgements) if judgement.critical and judgement.p_value is not None]
    corrected = list(judgements)
    adjusted = holm([judgements[index].p_value or 0.0 for index in family])
    for index, p_holm in zip(family, adjusted, strict=True):
        corrected[index] = _correct_judgement(judgements[index], p_holm, len(family))
    return tuple(corrected)


def _correct_judgement(judgement: Judgement, p_holm: float, tests: int) -> Judgement:
    assert judgement.confidence is not None  # a judgement with a p-value has a confidence
    limit = significance_level(judgement.confidence)
    if judgement.outcome is not Outcome.FAILED or p_holm <= limit:
        return judgement.model_copy(update={"p_holm": p_holm})
    needed = _rows_needed(judgement, limit, tests)
    doubt = (
        f" This rule fails on its own (p = {number(judgement.p_value)}), but not among all {tests} critical rules with a test "
        f"(p = {number(p_holm)} after Holm's correction, and {number(limit)} is required), so it is unproven"
    )
    doubt += "." if needed is None else f"; if the difference stays the same, about {needed:,} rows would be enough."
    changes = {"p_holm": p_holm, "outcome": Outcome.UNPROVEN, "rows_needed": needed, "reason": judgement.reason + doubt}
    return judgement.model_copy(update=changes)


def _rows_needed(judgement: Judgement, limit: float, tests: int) -> int | None:
    """Return how many rows would show the failure at Bonferroni's level for all tests, which is at least as strict as Holm's."""
    if judgement.n is None or judgement.mde is None or not judgement.distance:
        return None
    unit = abs(judgement.reference or 0.0) if judgement.margin_kind == "relative" else 1.0
    quantile = NormalDist().inv_cdf
    stricter = (quantile(1 - limit / tests) + quantile(POWER)) / (quantile(1 - limit) + quantile(POWER))
    return max(judgement.n + 1, math.ceil(judgement.n * (stricter * judgement.mde / (judgement.distance * unit)) ** 2))


def combine(judgements: Sequence[Judgement]) -> tuple[Verdict, tuple[str, ...]]:
    """Return the verdict and the reasons, worst first. Only critical rules decide; if there are none, the verdict is HOLD."""
    critical = [judgement for judgement in judgements if judgement.critical]
    if not critical:
        return Verdict.HOLD, ("There is no critical rule, so nothing is judged: add [defaults.gate.rules.NAME] to pipeline.toml.",)
    failed = [f"{judgement.metric}: {judgement.reason}" for judgement in critical if judgement.outcome is Outcome.FAILED]
    doubtful = [
        f"{judgement.metric}: {judgement.reason}" for judgement in critical if judgement.outcome in (Outcome.INVALID, Outcome.UNPROVEN)
    ]
    if failed:
        return Verdict.REJECT, (*failed, *doubtful)
    if all(judgement.outcome is Outcome.SHOWN for judgement in critical):
        return Verdict.PROMOTE, (f"All {len(critical)} critical rules are shown to hold.",)
    return Verdict.HOLD, tuple(doubtful)
