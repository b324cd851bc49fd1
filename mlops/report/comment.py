"""The pull request's comment as Markdown. The same text is shown on the workflow run's page."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from mlops.core.judgement import Outcome, Verdict
from mlops.core.record import Record
from mlops.core.records import Deployed, Evaluated, Judged, Prepared, Promoted, Smoked, TornDown, Trained, Validated
from mlops.core.run import Run
from mlops.report.decision import decision, find_largest_change
from mlops.report.markdown import (
    data_line,
    decision_list,
    find_record,
    inline,
    meaning,
    metric_values,
    override_line,
    rule_table,
    self_test_line,
    table,
)
from mlops.report.samples import exchanges

__all__ = ["LIMIT", "MARKER", "text"]

MARKER = "<!-- azureml-chat-mlops: the pipeline's comment -->"
"""An invisible marker that identifies the comment."""
LIMIT = 60_000
"""The length limit in characters; GitHub's is 65,536."""
MAX_SAMPLES = 3
MAX_RULES = 8
"""With more rules than this, the complete table is folded."""
MAX_ANSWER = 600
"""The length limit for a sample answer, in characters."""
_ADDRESS = re.compile(r"https://[^\s()<>]+")
MARKS = {Verdict.PROMOTE: "✅", Verdict.HOLD: "⏸️", Verdict.REJECT: "❌"}


def text(run: Run, *, planned: bool, workflow_run: str, changes: str = "") -> str:
    """Render the comment. Equal records give equal text.

    Args:
        run: the run directory.
        planned: whether the workflow made a plan for this run. If not, the records are those of the offline run on the emulator.
        workflow_run: URL of the workflow run; empty outside GitHub.
        changes: what a pull request changes in the settings that affect the verdict; shown first.
    """
    records = list(run.records())
    parts = [MARKER, changes, *_heading(run, records, offline=bool(records) and not planned)]
    if judged := find_record(records, Judged):
        parts += _judgement(judged, records)
    if evaluated := find_record(records, Evaluated):
        parts += [_fold("Metrics", metric_values(evaluated)), _samples(evaluated)]
    parts += [_serving(records), _cost(records), _links(records, workflow_run)]
    whole = "\n\n".join(part for part in parts if part) + "\n"
    if len(whole) <= LIMIT:
        return whole
    return whole[:LIMIT].rsplit("\n", 1)[0] + "\n\n… truncated; the full report is in the artifact `run` of the workflow run.\n"


def _heading(run: Run, records: Sequence[Record], *, offline: bool) -> list[str]:
    judged, failure = find_record(records, Judged), run.failure()
    lines = []
    if failure is not None:
        lines = [f"## ❌ {failure[0]} failed", _fence(failure[1])]
        if judged is not None:
            lines.append(f"The gate's verdict was {judged.verdict}{', overridden' if judged.override else ''}.")
    elif judged is not None:
        mark, overridden = ("⚠️", ", overridden") if judged.override else (MARKS[judged.verdict], "")
        lines = [f"## {mark} {judged.verdict}{overridden}: {meaning(judged)}"]
    else:
        lines = ["## No verdict", "The pipeline ended before the gate or was stopped."]
    if offline:
        lines.append(
            "This ran **offline, on the emulator**, because the pull request comes from a fork or the repository has no Azure variables."
            " The pipeline is the same, but the model is the small one of target `local`."
        )
    return lines


def _judgement(judged: Judged, records: Sequence[Record]) -> list[str]:
    """Render warnings, the decision, reasons and rules. If there are many, only rules in doubt are shown, and the full table is folded."""
    warning = override_line(judged)
    bullets = [*judged.reasons, *judged.notes, self_test_line(judged.self_test)]
    parts = [f"> [!WARNING]\n> {inline(warning)}"] if warning else []
    parts += ["\n".join(decision_list(decision(judged, records))), _render_largest_change(find_record(records, Evaluated))]
    parts.append("\n".join(f"- {inline(line)}" for line in bullets))
    if len(judged.judgements) <= MAX_RULES:
        return [*parts, rule_table(judged.judgements)]
    doubtful = [judgement for judgement in judged.judgements if judgement.outcome is not Outcome.SHOWN]
    complete = _fold(f"All {len(judged.judgements)} rules, {len(doubtful)} of them not shown to hold", rule_table(judged.judgements))
    return [*parts, *([rule_table(doubtful)] if doubtful else []), complete]


def _render_largest_change(evaluated: Evaluated | None) -> str:
    """Render the question whose answers changed most, side by side."""
    current, sample = find_largest_change(evaluated)
    if sample is None:
        return ""
    row = tuple(_shorten(text) for text in (sample.prompt, sample.before, sample.after))
    return table(("question", f"before ({current})", "after (candidate)"), [row])


def _samples(evaluated: Evaluated) -> str:
    """Render questions with the answers before and after."""
    current, samples = exchanges(evaluated)
    rows = [(_shorten(one.prompt), _shorten(one.before), _shorten(one.after)) for one in samples[:MAX_SAMPLES]]
    header = ("question", f"before ({current})", "after (candidate)")
    return _fold("Sample answers, before and after", table(header, rows)) if rows else ""


def _serving(records: Sequence[Record]) -> str:
    lines = []
    if smoked := find_record(records, Smoked):
        lines.append(
            f"Smoke test: {smoked.requests} requests, {smoked.failures} failures, p50 {smoked.latency_p50_ms:,.0f} ms,"
            f" p95 {smoked.latency_p95_ms:,.0f} ms."
        )
    deployed, promoted, torn = find_record(records, Deployed), find_record(records, Promoted), find_record(records, TornDown)
    if deployed is not None:
        traffic = (promoted or deployed).traffic_now
        lines.append(
            f"Endpoint {_code(deployed.endpoint)}, deployment {_code(deployed.deployment)}, traffic {inline(json.dumps(traffic))}."
        )
    if torn is not None:
        deleted = ", ".join(map(_code, torn.deleted)) or "nothing"
        lines.append(f"Torn down: {deleted}. Remaining: {inline('; '.join(torn.remaining)) or 'nothing'}.")
    return "\n".join(f"- {line}" for line in lines)


def _cost(records: Sequence[Record]) -> str:
    validated, trained = find_record(records, Validated), find_record(records, Trained)
    prepared = find_record(records, Prepared)
    lines = [f"- Data: {inline(data_line(prepared))}"] if prepared is not None and prepared.formats else []
    if validated is not None:
        estimate = "unknown" if validated.cost_estimate_usd is None else f"{validated.cost_estimate_usd:,.2f} USD"
        lines.append(f"- Estimated cost: {estimate} ({inline(validated.cost_note)})")
    if trained is not None and trained.gpu_hours is not None:
        reused = ", from an earlier job that was reused at no cost" if trained.reused else ""
        lines.append(f"- Training: {trained.gpu_hours:.3g} GPU hours{reused}")
    return "\n".join(lines)


def _links(records: Sequence[Record], workflow_run: str) -> str:
    links = []
    if workflow_run:
        links.append(f"[workflow run, with the report in artifact `run`]({workflow_run})")
    if (trained := find_record(records, Trained)) and _ADDRESS.fullmatch(trained.studio_url):
        links.append(f"[training job]({trained.studio_url})")
    return " · ".join(links)


def _fold(title: str, content: str) -> str:
    return f"<details><summary>{title}</summary>\n\n{content}\n\n</details>"


def _fence(text: str) -> str:
    """Render text as a code block. The fence is longer than any run of backquotes, so that no text can end the block."""
    longest = max((len(backquotes) for backquotes in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text.strip()[:4000]}\n{fence}"


def _code(name: str) -> str:
    return f"`{name.replace('`', '')}`"


def _shorten(answer: str) -> str:
    line = " ".join(answer.split()) or "(nothing)"
    return line if len(line) <= MAX_ANSWER else f"{line[:MAX_ANSWER]} …"
