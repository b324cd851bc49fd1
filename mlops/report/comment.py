"""The pull request's comment as Markdown. The same text goes on the workflow run's page."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import TypeVar

from mlops.core.records import Deployed, Evaluated, Judged, Outcome, Promoted, Record, Smoked, TornDown, Trained, Validated, Verdict
from mlops.core.run import Run
from mlops.report.markdown import figures, meaning, override_line, rule_table, self_test_line, table
from mlops.report.samples import exchanges

__all__ = ["LIMIT", "MARKER", "text"]

R = TypeVar("R", bound=Record)

MARKER = "<!-- azureml-chat-mlops: the pipeline's comment -->"
"""Invisible; by it the comment is found again."""
LIMIT = 60_000
"""Characters; GitHub takes 65,536."""
SHOWN = 3
"""Sample answers."""
RULES = 8
"""So many rules are shown as they are."""
ANSWER = 600
MARKS = {Verdict.PROMOTE: "✅", Verdict.HOLD: "⏸️", Verdict.REJECT: "❌"}


def text(run: Run, *, planned: bool, workflow_run: str) -> str:
    """Write the comment. Equal records give equal text.

    Args:
        run: the run directory.
        planned: whether the workflow made a plan for this run; without one, records come from the offline run on the emulator.
        workflow_run: URL of the workflow run; empty outside GitHub.
    """
    records = list(run.records())
    parts = [MARKER, *_heading(run, records, offline=bool(records) and not planned)]
    if judged := _one(records, Judged):
        parts += _judgement(judged)
    if evaluated := _one(records, Evaluated):
        parts += [_folded("Figures", figures(evaluated)), _samples(evaluated)]
    parts += [_serving(records), _cost(records), _links(records, workflow_run)]
    whole = "\n\n".join(part for part in parts if part) + "\n"
    if len(whole) <= LIMIT:
        return whole
    return whole[:LIMIT].rsplit("\n", 1)[0] + "\n\n… cut here; the whole report is in the run's artifact `run`.\n"


def _heading(run: Run, records: Sequence[Record], *, offline: bool) -> list[str]:
    judged, failure = _one(records, Judged), run.failure()
    lines = []
    if failure is not None:
        lines = [f"## ❌ {failure[0]} failed", _fenced(failure[1])]
        if judged is not None:
            lines.append(f"The gate had said {judged.verdict}{', overridden' if judged.override else ''}.")
    elif judged is not None:
        mark, overridden = ("⚠️", ", overridden") if judged.override else (MARKS[judged.verdict], "")
        lines = [f"## {mark} {judged.verdict}{overridden}: {meaning(judged)}"]
    else:
        lines = ["## No verdict", "The pipeline ended before the gate, or was stopped."]
    if offline:
        lines.append(
            "This ran **offline, on the emulator**: the pull request comes from a fork, or the repository has no Azure variables. The"
            " pipeline is the same; model and figures are those of the small stand-in of target `local`."
        )
    return lines


def _judgement(judged: Judged) -> list[str]:
    """What a reader must not miss first; then why, and the rules: with many, those in doubt are shown and the whole table is folded."""
    warning = override_line(judged)
    told = [*judged.reasons, *judged.notes, self_test_line(judged.self_test)]
    parts = [f"> [!WARNING]\n> {_line(warning)}"] if warning else []
    parts.append("\n".join(f"- {_line(line)}" for line in told))
    if len(judged.judgements) <= RULES:
        return [*parts, rule_table(judged.judgements)]
    doubtful = [judgement for judgement in judged.judgements if judgement.outcome is not Outcome.SHOWN]
    whole = _folded(f"All {len(judged.judgements)} rules, {len(doubtful)} of them not shown to hold", rule_table(judged.judgements))
    return [*parts, *([rule_table(doubtful)] if doubtful else []), whole]


def _samples(evaluated: Evaluated) -> str:
    """Questions with the answers before and after."""
    old, asked = exchanges(evaluated)
    rows = [(_short(one.prompt), _short(one.before), _short(one.after)) for one in asked[:SHOWN]]
    header = ("question", f"before ({old})", "after (candidate)")
    return _folded("Sample answers, before and after", table(header, rows)) if rows else ""


def _serving(records: Sequence[Record]) -> str:
    lines = []
    if smoked := _one(records, Smoked):
        lines.append(
            f"Smoke test: {smoked.requests} requests, {smoked.failures} failures, p50 {smoked.latency_p50_ms:,.0f} ms,"
            f" p95 {smoked.latency_p95_ms:,.0f} ms."
        )
    deployed, promoted, torn = _one(records, Deployed), _one(records, Promoted), _one(records, TornDown)
    if deployed is not None:
        traffic = (promoted or deployed).traffic_now
        lines.append(f"Endpoint `{deployed.endpoint}`, deployment `{deployed.deployment}`, traffic {json.dumps(traffic)}.")
    if torn is not None:
        gone = ", ".join(f"`{what}`" for what in torn.deleted) or "nothing"
        lines.append(f"Torn down: {gone}. Remaining: {'; '.join(torn.remaining) or 'nothing'}.")
    return "\n".join(f"- {line}" for line in lines)


def _cost(records: Sequence[Record]) -> str:
    validated, trained = _one(records, Validated), _one(records, Trained)
    lines = []
    if validated is not None:
        estimate = "unknown" if validated.cost_estimate_usd is None else f"{validated.cost_estimate_usd:,.2f} USD"
        lines.append(f"- Estimated cost: {estimate} ({_line(validated.cost_note)})")
    if trained is not None and trained.gpu_hours is not None:
        again = ", of an earlier job that was used again: nothing was paid for" if trained.reused else ""
        lines.append(f"- Training: {trained.gpu_hours:.3g} GPU hours{again}")
    return "\n".join(lines)


def _links(records: Sequence[Record], workflow_run: str) -> str:
    links = []
    if workflow_run:
        links.append(f"[workflow run, with the report in artifact `run`]({workflow_run})")
    if trained := _one(records, Trained):
        links.append(f"[training job]({trained.studio_url})")
    return " · ".join(links)


def _folded(title: str, content: str) -> str:
    return f"<details><summary>{title}</summary>\n\n{content}\n\n</details>"


def _fenced(told: str) -> str:
    """As it is, whatever is in it: nothing breaks out of a fence that is longer than any run of backquotes in the text."""
    longest = max((len(found) for found in re.findall(r"`+", told)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{told.strip()[:4000]}\n{fence}"


def _short(answer: str) -> str:
    line = " ".join(answer.split()) or "(nothing)"
    return line if len(line) <= ANSWER else f"{line[:ANSWER]} …"


def _line(told: str) -> str:
    return " ".join(told.split()).replace("<", "&lt;")


def _one(records: Sequence[Record], kind: type[R]) -> R | None:
    return next((record for record in records if isinstance(record, kind)), None)
