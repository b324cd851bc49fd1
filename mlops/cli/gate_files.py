"""`mlops gate FILES --rules FILE`: the verdict about two score files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mlops.core import console
from mlops.core.errors import UsageError
from mlops.core.records import Judgement, Verdict
from mlops.judging.score_files import judge_scores, read_rules, read_scores
from mlops.judging.verdict import Decision
from mlops.judging.wording import number

__all__ = ["announce", "judge_files", "print_judgements"]


def judge_files(files: Sequence[Path], rules: Path | None) -> Decision:
    """Judge, print and return the verdict.

    Args:
        files: the candidate's scores, and those of the base if there are any.
        rules: TOML with tables ``[rules.NAME]``.

    Raises:
        UsageError: files or rules are missing.
        ConfigError, EvidenceError, SelfTestFailed: as :mod:`mlops.judging.score_files` says.
    """
    if rules is None or not 1 <= len(files) <= 2:
        raise UsageError(
            "Score files need rules, and rules one or two files: the candidate's, and the base's.",
            "mlops gate candidate.jsonl base.jsonl --rules rules.toml",
        )
    scores = [read_scores(path) for path in files]
    decision = judge_scores(read_rules(rules), scores[0], scores[1] if len(scores) > 1 else None)
    print_judgements(decision.judgements)
    announce(decision.verdict, "; ".join(decision.reasons))
    console.output("verdict", decision.verdict.value)
    console.summary(_table(decision))
    return decision


def print_judgements(judgements: Sequence[Judgement]) -> None:
    """Print the outcome of each rule with its reason."""
    rows = []
    for judgement in judgements:
        rows.append((judgement.outcome.value, f"{judgement.title}{'' if judgement.critical else ' (not critical)'}"))
        rows.append(("", judgement.reason))
    console.table(rows)


def announce(verdict: Verdict, explanation: str) -> None:
    """Print the verdict, as GitHub should show it."""
    show = {Verdict.PROMOTE: console.notice, Verdict.HOLD: console.warning, Verdict.REJECT: console.error}[verdict]
    show(f"{verdict.value}: {explanation}")


def _table(decision: Decision) -> str:
    rows = [
        f"| {judgement.title} | {number(judgement.candidate)} | {number(judgement.reference)} | {_difference(judgement)} "
        f"| {judgement.n if judgement.n is not None else '–'} | {number(judgement.mde)} | {judgement.outcome.value} |"
        for judgement in decision.judgements
    ]
    heading = "| rule | candidate | base | difference | rows | smallest detectable | outcome |\n|---|---|---|---|---|---|---|"
    return "\n".join((f"## {decision.verdict.value}\n\n{heading}", *rows, "", *(f"- {reason}" for reason in decision.reasons)))


def _difference(judgement: Judgement) -> str:
    if judgement.interval is None:
        return number(judgement.difference)
    return f"{number(judgement.difference)} ({number(judgement.interval.low)} … {number(judgement.interval.high)})"
