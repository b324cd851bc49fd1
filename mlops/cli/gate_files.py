"""`mlops gate FILES --rules FILE`: judge score files of any program."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mlops.core import console
from mlops.core.errors import UsageError
from mlops.core.judgement import Judgement, Verdict
from mlops.judging.score_files import judge_scores, read_rules
from mlops.judging.score_rows import Scores, describe_rows, read_scores
from mlops.judging.verdict import Decision
from mlops.judging.wording import hidden_share, number
from mlops.report.decision import MAX_CHANGES, NOTICEABLE, describe_change, describe_margin_distance, find_nearest
from mlops.report.markdown import decision_list

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
            "Score files need --rules, and --rules needs one or two score files: the candidate's and the base's.",
            "mlops gate candidate.jsonl base.jsonl --rules rules.toml",
        )
    candidate, *others = [read_scores(path) for path in files]
    base = others[0] if others else None
    decision = judge_scores(read_rules(rules), candidate, base)
    block = _block(decision, candidate, base)
    announce(decision.verdict, "; ".join(decision.reasons))
    console.table(block)
    print_judgements(decision.judgements)
    console.output("verdict", decision.verdict.value)
    console.summary(_table(decision, block))
    return decision


def _block(decision: Decision, candidate: Scores, base: Scores | None) -> list[tuple[str, str]]:
    """Return the lines of the summary as (label, text)."""
    lines = [
        ("verdict", decision.verdict.value),
        ("candidate", f"{candidate.path}, {f'compared with {base.path}' if base else 'compared with no other file'}"),
        ("rows", describe_rows(candidate)),
    ]
    if (nearest := find_nearest(decision.judgements)) is not None:
        lines.append(("closest rule", f"{nearest.title}: {describe_margin_distance(nearest)}"))
    lines.append(("also changed", "; ".join(_find_other_changes(decision, candidate, base)) or "nothing by 2 % or more"))
    if counts := [judgement.n for judgement in decision.judgements if judgement.critical and judgement.n]:
        lines.append(
            (
                "unseen",
                f"up to {hidden_share(min(counts))} of such rows can have faults that {min(counts):,} rows don't show (rule of three)",
            )
        )
    return lines


def _find_other_changes(decision: Decision, candidate: Scores, base: Scores | None) -> list[str]:
    """Describe metrics that no critical rule is about and that differ. Without a rule nobody knows which values are better."""
    judged = {each.metric for each in decision.judgements if each.critical}
    after, before = _means(candidate), _means(base) if base else {}
    changed = []
    for name in sorted((after.keys() | before.keys()) - judged):
        old, new = before.get(name), after.get(name)
        if old is not None and new is not None:
            change = abs(new - old) / (abs(old) or 1.0)
            if change >= NOTICEABLE:
                changed.append((change, describe_change(name, old, new)))
        elif base is not None:
            changed.append((math.inf, f"{name} is only in {(candidate if old is None else base).path}"))
    texts = [text for _, text in sorted(changed, key=lambda each: -each[0])]
    return texts if len(texts) <= MAX_CHANGES else [*texts[:MAX_CHANGES], f"and {len(texts) - MAX_CHANGES} more"]


def _means(scores: Scores) -> dict[str, float]:
    """Return the mean of each metric over the rows that have a value."""
    present = {name: values[np.isfinite(values)] for name, values in scores.columns.items()}
    return {name: math.fsum(values / values.size) for name, values in present.items() if values.size}


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


def _table(decision: Decision, block: Sequence[tuple[str, str]]) -> str:
    rows = [
        f"| {judgement.title} | {number(judgement.candidate)} | {number(judgement.reference)} | {_difference(judgement)} "
        f"| {judgement.n if judgement.n is not None else '–'} | {number(judgement.mde)} | {hidden_share(judgement.n)} "
        f"| {judgement.outcome.value} |"
        for judgement in decision.judgements
    ]
    heading = "| rule | candidate | base | difference | rows | smallest detectable | unseen | outcome |\n|---|---|---|---|---|---|---|---|"
    reasons = [f"- {reason}" for reason in decision.reasons]
    return "\n".join((f"## {decision.verdict.value}", "", *decision_list(block), "", heading, *rows, "", *reasons))


def _difference(judgement: Judgement) -> str:
    if judgement.interval is None:
        return number(judgement.difference)
    return f"{number(judgement.difference)} ({number(judgement.interval.low)} … {number(judgement.interval.high)})"
