"""A verdict as tags of an MLflow run, and past verdicts read from such tags.

The tags ``mlops.verdict``, ``mlops.verdict_reasons`` and so on hold the last verdict on a training run. In addition there is one tag per
decision, so that a HOLD stays visible after a PROMOTE by more lenient rules. Equal decisions share a tag, with the time of the last one.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from mlops.core import console
from mlops.core.judgement import Outcome, Verdict
from mlops.core.records import Evaluated, Judged
from mlops.judging.wording import number

__all__ = ["SUITE", "VERDICT", "Past", "find_outdated", "find_tries", "past", "screen", "tags"]

VERDICT = "mlops.verdict"
"""The tag of the last verdict."""
SUITE = "mlops.suite.target"
"""The tag with the digest of the target suite that the verdict is based on."""
_CHAMPION, _TARGET = "mlops.champion", "mlops.verdict_target"
_DECISION = "mlops.verdict."
"""The prefix of a decision's tag, before the beginning of the record's digest."""
_MAX_LENGTH = 500
_MAX_OVERRIDE = 300
"""The length limits of the reasons and of an override in characters; Azure's limit for the tag of a run is 1,000."""
_MAX_DECISIONS = 10
"""Number of latest decisions on a training that are kept; Azure's limit is 50 tags on a run."""
_MAX_DIFFERENCES = 3


@dataclass(frozen=True)
class Past:
    """One decision."""

    at: datetime
    job: str
    target: str
    verdict: str
    override: str
    differences: tuple[tuple[str, float], ...]
    """Metric with the model that was compared with, and candidate − baseline."""
    record: str
    """The first characters of the digest of the gate's record."""


def tags(judged: Judged, evaluated: Evaluated) -> dict[str, str]:
    """Return the tags of the candidate's run."""
    digest = judged.digest()
    outcomes = Counter(judgement.outcome for judgement in judged.judgements if judgement.critical)
    candidate = evaluated.models.get("candidate")
    return {
        VERDICT: judged.verdict.value,
        "mlops.verdict_reasons": _shorten(" ".join(judged.reasons)),
        "mlops.verdict_rules": ", ".join(f"{outcomes[outcome]} {outcome.value}" for outcome in Outcome),
        _TARGET: judged.target,
        _CHAMPION: _champion(evaluated.champion),
        "mlops.gate_record": digest,
        "mlops.override": _override(judged) or "none",
        **{f"mlops.suite.{name}": digest for name, digest in sorted((candidate.suite_digests if candidate else {}).items())},
        f"{_DECISION}{digest[:12]}": json.dumps(_decision(judged), ensure_ascii=False),
    }


def past(runs: Mapping[str, Mapping[str, str]]) -> list[Past]:
    """Return the decisions in the tags of runs, newest first. Unreadable tags are ignored, because others may write tags too."""
    decisions = [
        decision
        for run, run_tags in runs.items()
        for key, value in run_tags.items()
        if key.startswith(_DECISION) and (decision := _parse(run, key.removeprefix(_DECISION), value))
    ]
    return sorted(decisions, key=lambda decision: decision.at, reverse=True)


def find_outdated(run_tags: Mapping[str, str]) -> list[str]:
    """Return the tags of a run's oldest decisions, which must be deleted to make room for one more."""
    return [f"{_DECISION}{decision.record}" for decision in past({"": run_tags})[_MAX_DECISIONS - 1 :]]


def find_tries(runs: Mapping[str, Mapping[str, str]], target: str, champion: str, own: str) -> list[str]:
    """Return the runs of the other candidates of a target that have been judged against a champion.

    Args:
        runs: MLflow run → tags, of trainings whose candidate was judged on the same target suite.
        target: the target whose rules decided.
        champion: full id of the champion; empty if there is none.
        own: the MLflow run of this candidate's training.
    """
    expected = {_TARGET: target, _CHAMPION: _champion(champion)}
    return [run for run, run_tags in runs.items() if run != own and expected.items() <= run_tags.items()]


def screen(decisions: Sequence[Past]) -> str:
    """Render decisions as a table for a terminal."""
    header = ("judged (UTC)", "verdict", "target", "training job", "record", "candidate − baseline", "override")
    return console.columns([_row(decision) for decision in decisions], header, indent=0)


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


def _champion(model: str) -> str:
    # Azure ignores case in ids.
    return model.lower() or "none"


def _decision(judged: Judged) -> dict[str, Any]:
    return {
        "at": judged.created_at.astimezone(UTC).isoformat(timespec="milliseconds"),
        "job": judged.candidate_job,
        "target": judged.target,
        "verdict": judged.verdict.value,
        "override": _override(judged),
        "differences": list(_differences(judged)),
    }


def _differences(judged: Judged) -> Iterable[tuple[str, float]]:
    """Return the differences of the first critical rules, one per metric and baseline."""
    differences: dict[str, float] = {}
    for judgement in judged.judgements:
        if judgement.critical and judgement.difference is not None and len(differences) < _MAX_DIFFERENCES:
            differences.setdefault(f"{judgement.metric} ({judgement.compared_with})", float(f"{judgement.difference:.6g}"))
    return differences.items()


def _override(judged: Judged) -> str:
    if judged.override is None:
        return ""
    override = judged.override
    approved = f", approved by {', '.join(override.approvers)}" if override.approvers else ""
    return _shorten(f"{override.reason} ({override.actor}{approved})", _MAX_OVERRIDE)


def _parse(run: str, record: str, value: str) -> Past | None:
    try:
        decision = json.loads(value)
        return Past(
            at=datetime.fromisoformat(decision["at"]).astimezone(UTC),
            job=str(decision.get("job") or run),
            target=str(decision["target"]),
            verdict=Verdict(decision["verdict"]).value,
            override=str(decision["override"]),
            differences=tuple((str(what), float(difference)) for what, difference in decision["differences"]),
            record=record,
        )
    except (ValueError, KeyError, TypeError):
        return None


def _shorten(text: str, length: int = _MAX_LENGTH) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"
