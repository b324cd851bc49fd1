"""A verdict as tags of an MLflow run, and past verdicts read from them.

The tags ``mlops.verdict`` and so on tell the last verdict on a training. Beside them stands one tag for each decision, so that a HOLD does
not vanish behind the PROMOTE of laxer rules. Equal decisions share a tag, which then tells when the last of them was made.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from mlops.core.records import Evaluated, Judged, Outcome, Verdict
from mlops.judging.wording import number

__all__ = ["VERDICT", "Past", "past", "screen", "tags"]

VERDICT = "mlops.verdict"
"""Tag: the last verdict."""
_DECISION = "mlops.verdict."
"""Tag of one decision: this, and the beginning of the record's digest."""
_LONGEST = 500
"""Characters of the reasons; MLflow takes 5,000 in a tag."""
_DIFFERENCES = 3


@dataclass(frozen=True)
class Past:
    """One decision."""

    at: datetime
    job: str
    target: str
    verdict: str
    override: str
    differences: tuple[tuple[str, float], ...]
    """Metric and what it was held against → candidate − baseline."""
    record: str
    """Digest of the gate's record, its first characters."""


def tags(judged: Judged, evaluated: Evaluated) -> dict[str, str]:
    """What is put on the candidate's run."""
    digest = judged.digest()
    outcomes = Counter(judgement.outcome for judgement in judged.judgements if judgement.critical)
    candidate = evaluated.models.get("candidate")
    return {
        VERDICT: judged.verdict.value,
        "mlops.verdict_reasons": _short(" ".join(judged.reasons)),
        "mlops.verdict_rules": ", ".join(f"{outcomes[outcome]} {outcome.value}" for outcome in Outcome),
        "mlops.verdict_target": judged.target,
        "mlops.gate_record": digest,
        "mlops.override": _override(judged) or "none",
        **{f"mlops.suite.{name}": digest for name, digest in sorted((candidate.suite_digests if candidate else {}).items())},
        f"{_DECISION}{digest[:12]}": json.dumps(_decision(judged)),
    }


def past(runs: Mapping[str, Mapping[str, str]]) -> list[Past]:
    """The decisions in the tags of runs, newest first. A tag that can't be read is passed over: others may write tags, too."""
    found = [
        decision
        for run, given in runs.items()
        for key, value in given.items()
        if key.startswith(_DECISION) and (decision := _read(run, key.removeprefix(_DECISION), value))
    ]
    return sorted(found, key=lambda decision: decision.at, reverse=True)


def screen(decisions: Sequence[Past]) -> str:
    """A table for a terminal."""
    header = ("judged (UTC)", "verdict", "target", "training job", "record", "candidate − baseline", "override")
    rows = [header, *(_row(decision) for decision in decisions)]
    widths = [max(len(row[place]) for row in rows) for place in range(len(header))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)


def _row(decision: Past) -> tuple[str, ...]:
    return (
        f"{decision.at:%Y-%m-%d %H:%M}",
        decision.verdict,
        decision.target,
        decision.job,
        decision.record,
        ", ".join(f"{what} {number(value)}" for what, value in decision.differences) or "–",
        decision.override or "–",
    )


def _decision(judged: Judged) -> dict[str, Any]:
    return {
        "at": judged.made_at.astimezone(UTC).isoformat(timespec="milliseconds"),
        "job": judged.candidate_job,
        "target": judged.target,
        "verdict": judged.verdict.value,
        "override": _override(judged),
        "differences": list(_differences(judged)),
    }


def _differences(judged: Judged) -> Iterable[tuple[str, float]]:
    """Of the first critical rules; one metric against one baseline once."""
    told: dict[str, float] = {}
    for judgement in judged.judgements:
        if judgement.critical and judgement.difference is not None and len(told) < _DIFFERENCES:
            told.setdefault(f"{judgement.metric} ({judgement.answered_against})", float(f"{judgement.difference:.6g}"))
    return told.items()


def _override(judged: Judged) -> str:
    if judged.override is None:
        return ""
    override = judged.override
    approved = f", approved by {', '.join(override.approvers)}" if override.approvers else ""
    return _short(f"{override.reason} ({override.actor}{approved})")


def _read(run: str, record: str, value: str) -> Past | None:
    try:
        told = json.loads(value)
        return Past(
            at=datetime.fromisoformat(told["at"]).astimezone(UTC),
            job=str(told.get("job") or run),
            target=str(told["target"]),
            verdict=Verdict(told["verdict"]).value,
            override=str(told["override"]),
            differences=tuple((str(what), float(difference)) for what, difference in told["differences"]),
            record=record,
        )
    except (ValueError, KeyError, TypeError):
        return None


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
