"""The gate's decision as Markdown, for ``run/gate.md``, the step summary and the pull request. Equal records give equal text."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TypeVar

from mlops.core.judgement import Judgement, Outcome, Probe, Verdict
from mlops.core.record import Record
from mlops.core.records import Evaluated, Judged, Prepared
from mlops.judging.metric_table import METRICS, SUITES
from mlops.judging.metrics import HEADLINE, kind_metrics
from mlops.judging.wording import hidden_share, number

__all__ = [
    "data_line",
    "decision_list",
    "difference",
    "find_record",
    "gate_page",
    "inline",
    "list_metrics",
    "meaning",
    "metric_values",
    "override_line",
    "roles",
    "rule_table",
    "self_test_line",
    "table",
]

R = TypeVar("R", bound=Record)

_ACTIVE = re.compile(r"[@#]|\](?=[(\[:])|\bGH(?=-\d)|\b(?:https?|ftp):(?=//)|\bwww(?=\.)|\bmailto:|\bxmpp:", re.IGNORECASE)
"""Text that GitHub turns into a mention, a reference, a link or an image."""
MARKS = {Outcome.SHOWN: "✅", Outcome.FAILED: "❌", Outcome.UNPROVEN: "❔", Outcome.INVALID: "⚠️"}
MEANING = {
    Verdict.PROMOTE: "every critical rule is shown to hold",
    Verdict.HOLD: "the evidence is insufficient; nothing is registered or deployed, and traffic stays unchanged",
    Verdict.REJECT: "a critical rule is shown to fail; nothing is registered or deployed, and traffic stays unchanged",
}


def gate_page(judged: Judged, evaluated: Evaluated, decision: Sequence[tuple[str, str]] = ()) -> str:
    """Render the verdict, the override, a summary of the decision, reasons, rules, metrics and the self-test."""
    lines = [f"## Gate: {judged.verdict.value}{', overridden' if judged.override else ''}", ""]
    if warning := override_line(judged):
        lines += ["> [!WARNING]", f"> {inline(warning)}", ""]
    lines += [f"{judged.verdict.value} means: {meaning(judged)}.", ""]
    lines += [*decision_list(decision), ""] if decision else []
    lines += [f"- {inline(line)}" for line in (*judged.reasons, *judged.notes)]
    parts = [rule_table(judged.judgements), metric_values(evaluated), _self_test(judged.self_test), _origin(judged)]
    return "\n\n".join(["\n".join(lines), *parts]) + "\n"


def decision_list(lines: Iterable[tuple[str, str]]) -> list[str]:
    """Render the summary of the decision as a list."""
    return [f"- **{label}:** {inline(text)}" for label, text in lines]


def meaning(judged: Judged) -> str:
    """Explain what the verdict means for the candidate."""
    return "the evidence is insufficient, but the candidate proceeds because of an override" if judged.override else MEANING[judged.verdict]


def override_line(judged: Judged) -> str:
    """Describe who overrode a HOLD and why, or why the override was refused; empty if none was requested."""
    if judged.override_refused:
        return f"An override was requested and refused: {judged.override_refused}"
    if judged.override is None:
        return ""
    override = judged.override
    line = f"This HOLD was OVERRIDDEN by {override.actor} at {override.overridden_at:%Y-%m-%d %H:%M} UTC: {override.reason}"
    line += "" if override.reason.endswith((".", "!", "?")) else "."
    if not override.environment:
        return f"{line} This was outside GitHub, for an ephemeral target, without approval."
    run = f" ({override.workflow_run})" if override.workflow_run else ""
    return f"{line} Approved by {', '.join(override.approvers)} in environment {override.environment}{run}."


def data_line(prepared: Prepared) -> str:
    """Describe the data: how many rows are used, and which were dropped and why."""
    rows = sum(file.rows or 0 for name, file in prepared.files.items() if name in prepared.formats)
    formats = ", ".join(dict.fromkeys(prepared.formats.values()))
    reasons: Counter[str] = Counter()
    for dropped in prepared.dropped.values():
        reasons.update(dropped)
    left_out = ", ".join(f"{count:,} {reason}" for reason, count in sorted(reasons.items()))
    listed = " (listed in `run/data/quarantine.jsonl`)" if "quarantine" in prepared.files else ""
    line = f"{prepared.dataset} ({formats}): {rows:,} rows"
    return f"{line}; left out: {left_out}{listed}" if left_out else line


def self_test_line(probes: Sequence[Probe]) -> str:
    """Describe how many mutations the gate detected in the self-test."""
    if not probes:
        return "Self-test: not run."
    detected = sum(probe.result == "detected" for probe in probes)
    missed = sum(probe.result == "missed" for probe in probes)
    others = len(probes) - detected - missed
    line = f"Self-test: the gate detected {detected} of {detected + missed} mutations of this evidence"
    return line + (f"; {others} more are not applicable." if others else ".")


def rule_table(judgements: Sequence[Judgement]) -> str:
    """Render one row per rule: candidate, baseline, difference with interval, margin, n, MDE, unseen share, outcome, and the reason."""
    header = ("rule", "candidate", "baseline", "difference", "margin", "n", "MDE", "unseen", "outcome", "why")
    return table(header, [_rule_row(judgement) for judgement in judgements])


def difference(judgement: Judgement) -> str:
    """Format candidate − baseline with its interval. The interval of a wilcoxon rule is that of the typical row, which is added."""
    text = number(judgement.difference)
    if judgement.typical_difference is not None:
        text += f"; typical row {number(judgement.typical_difference)}"
    if judgement.interval is not None:
        text += f" [{number(judgement.interval.low)}, {number(judgement.interval.high)}]"
    return text


def metric_values(evaluated: Evaluated) -> str:
    """Render the models' metrics side by side: the headline metrics, then each kind of the retention suite."""
    columns = roles(evaluated)
    names = (*HEADLINE, *kind_metrics({name for model in evaluated.models.values() for name in model.metrics}))
    rows = [(f"`{name}`", *(number(evaluated.models[role].metrics.get(name)) for role in columns)) for name in names]
    return table(("metric", *columns), rows)


def list_metrics() -> str:
    """Render the table of metrics for the documentation."""
    rows = []
    for metric in METRICS.values():
        tests = (
            ("paired_bootstrap", *(("mcnemar", "tango") if metric.binary else ("wilcoxon", "tail")))
            if metric.column is not None
            else ("none",)
        )
        suites = "both" if metric.suites == SUITES else ", ".join(metric.suites)
        rows.append((f"`{metric.name}`", metric.description, metric.unit, metric.better or "", suites, ", ".join(tests)))
    return table(("metric", "what", "unit", "better", "suites", "tests"), rows)


def roles(evaluated: Evaluated | None) -> list[str]:
    """Return the roles of the models that were evaluated, candidate first."""
    return [role for role in ("candidate", "champion", "anchor", "base") if evaluated and role in evaluated.models]


def find_record(records: Sequence[Record], kind: type[R]) -> R | None:
    """Return the record of this type, if there is one."""
    return next((record for record in records if isinstance(record, kind)), None)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Render a Markdown table. Cells may contain any text."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _rule_row(judgement: Judgement) -> tuple[str, ...]:
    baseline = number(judgement.reference)
    if judgement.compared_with != "none":
        baseline += f" ({judgement.compared_with})"
    return (
        judgement.title if judgement.critical else f"{judgement.title} (not critical)",
        number(judgement.candidate),
        baseline,
        difference(judgement),
        number(judgement.margin),
        "–" if judgement.n is None else f"{judgement.n:,}",
        number(judgement.mde),
        hidden_share(judgement.n),
        f"{MARKS[judgement.outcome]} {judgement.outcome.value}",
        judgement.reason,
    )


def _self_test(probes: Sequence[Probe]) -> str:
    line = self_test_line(probes)
    if not probes:
        return line
    header = ("probe", "mutation", "expected", "actual", "result")
    rows = [(probe.name, probe.mutation, probe.expected, probe.actual, probe.result) for probe in probes]
    return f"<details><summary>{line}</summary>\n\n{table(header, rows)}\n\n</details>"


def _origin(judged: Judged) -> str:
    seeds = sorted({judgement.seed for judgement in judged.judgements if judgement.seed is not None})
    seed = f" Bootstrap intervals use seed {', '.join(map(str, seeds))}." if seeds else ""
    return (
        f"Candidate: `{judged.candidate_model}`. MDE is the smallest true difference that a rule detects in about 80 of 100 runs. "
        f"Unseen: up to this share of such rows can have faults that n rows don't show (rule of three, 3 / n).{seed}"
    )


def inline(text: str) -> str:
    """Return a text on one line that GitHub shows as it is, whatever it contains: prompts and answers come from data and models.

    HTML is escaped. A zero-width space breaks links and images up, keeps ``@name`` from notifying somebody, ``#1`` from appearing on that
    issue's page, and an address from becoming a link.
    """
    line = " ".join(text.split()).replace("<", "&lt;")
    return _ACTIVE.sub(lambda match: f"{match[0]}\u200b", line)


def _cell(text: str) -> str:
    # Not a backslash: after another one it would itself be escaped, and the cell would end.
    return inline(text).replace("|", "&#124;")
