"""From the answers of all rules to one verdict."""

from __future__ import annotations

from collections.abc import Sequence

from mlops.core.records import Judgement, Outcome, Verdict

__all__ = ["combine"]


def combine(judgements: Sequence[Judgement]) -> tuple[Verdict, tuple[str, ...]]:
    """The verdict and why, worst first. Non-critical rules are told in the table and decide nothing.

    PROMOTE only if every critical rule is shown: each holds at its own confidence, so all hold at the lowest of them (an
    intersection-union test, which needs no correction). REJECT if any is shown to fail. Else, and without critical rules, HOLD.
    """
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
