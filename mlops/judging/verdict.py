"""From rules and evidence to one verdict.

PROMOTE asks that every critical rule is shown. Each holds at its own confidence, so all hold at the lowest of them: an
intersection-union test (Berger 1982), which needs no correction. REJECT asks that any critical rule is shown to fail. With many rules
one of them will seem to by chance, so failures are corrected together (Holm 1979), over all critical rules that have a p-value. A rule
that compares two numbers (a floor, a ceiling, ``test = "none"``) has none: it fails without statistics and stands outside.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING

from mlops.core.records import Judgement, Outcome, Verdict
from mlops.judging.evidence import Evidence
from mlops.judging.rules import answer, expand
from mlops.judging.statistics.bootstrap import POWER, level
from mlops.judging.statistics.holm import holm
from mlops.judging.wording import number

if TYPE_CHECKING:
    from mlops.core.config import Rule

__all__ = ["Decision", "combine", "correct", "decide"]


@dataclass(frozen=True)
class Decision:
    """A verdict, why, and the answers that it follows from."""

    verdict: Verdict
    reasons: tuple[str, ...]
    judgements: tuple[Judgement, ...]


def decide(rules: Sequence[Rule], evidence: Evidence) -> Decision:
    """Answer all rules, in their order, and combine the answers.

    Args:
        rules: as configured; one about every kind of a suite's rows (``retention.*.nll``) becomes one per kind.
        evidence: what was measured.
    """
    judgements = correct([answer(each, evidence) for rule in rules for each in expand(rule, evidence)])
    verdict, reasons = combine(judgements)
    return Decision(verdict, reasons, judgements)


def correct(judgements: Sequence[Judgement]) -> tuple[Judgement, ...]:
    """Holm's correction: a critical rule that fails on its own, but not among all critical rules that were tested, is unproven."""
    family = [place for place, judgement in enumerate(judgements) if judgement.critical and judgement.p_value is not None]
    corrected = list(judgements)
    adjusted = holm([judgements[place].p_value or 0.0 for place in family])
    for place, p_holm in zip(family, adjusted, strict=True):
        corrected[place] = _corrected(judgements[place], p_holm, len(family))
    return tuple(corrected)


def _corrected(judgement: Judgement, p_holm: float, tests: int) -> Judgement:
    assert judgement.confidence is not None  # who has a p-value has one
    allowed = level(judgement.confidence)
    if judgement.outcome is not Outcome.FAILED or p_holm <= allowed:
        return judgement.model_copy(update={"p_holm": p_holm})
    needed = _rows_needed(judgement, allowed, tests)
    doubt = (
        f" That is shown for this rule alone (p = {number(judgement.p_value)}), and not among all {tests} critical rules that were tested "
        f"(p = {number(p_holm)} after Holm's correction, where {number(allowed)} would do), so it is unproven"
    )
    doubt += "." if needed is None else f"; if the difference stays, about {needed:,} rows would do."
    changes = {"p_holm": p_holm, "outcome": Outcome.UNPROVEN, "rows_needed": needed, "reason": judgement.reason + doubt}
    return judgement.model_copy(update=changes)


def _rows_needed(judgement: Judgement, allowed: float, tests: int) -> int | None:
    """Rows that would show the failure among all tests at Bonferroni's level; Holm asks for no more."""
    if judgement.n is None or judgement.mde is None or not judgement.distance:
        return None
    unit = abs(judgement.reference or 0.0) if judgement.margin_kind == "relative" else 1.0
    quantile = NormalDist().inv_cdf
    stricter = (quantile(1 - allowed / tests) + quantile(POWER)) / (quantile(1 - allowed) + quantile(POWER))
    return max(judgement.n + 1, math.ceil(judgement.n * (stricter * judgement.mde / (judgement.distance * unit)) ** 2))


def combine(judgements: Sequence[Judgement]) -> tuple[Verdict, tuple[str, ...]]:
    """The verdict and why, worst first. Non-critical rules are told in the table and decide nothing; without critical rules it is HOLD."""
    critical = [judgement for judgement in judgements if judgement.critical]
    if not critical:
        return Verdict.HOLD, ("There is no critical rule, so nothing was asked of the candidate: add [[gate.rules]] to pipeline.toml.",)
    failed = [f"{judgement.metric}: {judgement.reason}" for judgement in critical if judgement.outcome is Outcome.FAILED]
    doubtful = [
        f"{judgement.metric}: {judgement.reason}" for judgement in critical if judgement.outcome in (Outcome.INVALID, Outcome.UNPROVEN)
    ]
    if failed:
        return Verdict.REJECT, (*failed, *doubtful)
    if all(judgement.outcome is Outcome.SHOWN for judgement in critical):
        return Verdict.PROMOTE, (f"All {len(critical)} critical rules are shown to hold.",)
    return Verdict.HOLD, tuple(doubtful)
