"""The gate's decision as Markdown: for ``run/gate.md``, the step summary and the pull request. Equal records give equal text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mlops.core.records import Evaluated, Judged, Judgement, Outcome, Probe, Verdict
from mlops.judging.wording import number

__all__ = ["FIGURES", "difference", "figures", "gate_page", "meaning", "override_line", "rule_table", "self_test_line", "table"]

FIGURES = ("target.nll", "target.perplexity", "target.rouge_l", "retention.nll", "retention.kl_base")
"""The metrics that are shown before all others."""

MARKS = {Outcome.SHOWN: "✅", Outcome.FAILED: "❌", Outcome.UNPROVEN: "❔", Outcome.INVALID: "⚠️"}
MEANING = {
    Verdict.PROMOTE: "every critical rule is shown to hold",
    Verdict.HOLD: "the evidence does not reach; nothing is registered, deployed or moved",
    Verdict.REJECT: "a critical rule is shown to fail; nothing is registered, deployed or moved",
}


def gate_page(judged: Judged, evaluated: Evaluated) -> str:
    """Verdict, override, reasons, the rules, the figures and the self-test."""
    lines = [f"## Gate: {judged.verdict.value}{', overridden' if judged.override else ''}", ""]
    if told := override_line(judged):
        lines += ["> [!WARNING]", f"> {_inline(told)}", ""]
    lines += [f"{judged.verdict.value} means: {meaning(judged)}.", ""]
    lines += [f"- {_inline(told)}" for told in (*judged.reasons, *judged.notes)]
    parts = [rule_table(judged.judgements), figures(evaluated), _self_test(judged.self_test), _origin(judged)]
    return "\n\n".join(["\n".join(lines), *parts]) + "\n"


def meaning(judged: Judged) -> str:
    """What the verdict means for the candidate."""
    return "the evidence does not reach; the candidate goes on all the same, by override" if judged.override else MEANING[judged.verdict]


def override_line(judged: Judged) -> str:
    """Who let a HOLD through and why, or why nobody was let; empty where nobody asked."""
    if judged.override_refused:
        return f"An override was asked for and refused: {judged.override_refused}"
    if judged.override is None:
        return ""
    given = judged.override
    told = f"This HOLD was OVERRIDDEN by {given.actor} at {given.overridden_at:%Y-%m-%d %H:%M} UTC: {given.reason}"
    told += "" if given.reason.endswith((".", "!", "?")) else "."
    if not given.environment:
        return f"{told} Outside GitHub, for an ephemeral target: nobody has approved it."
    alone = " Nobody else has looked at it." if set(given.approvers) == {given.actor} else ""
    run = f" ({given.workflow_run})" if given.workflow_run else ""
    return f"{told} Approved by {', '.join(given.approvers)} in environment {given.environment}{run}.{alone}"


def self_test_line(probes: Sequence[Probe]) -> str:
    """How many of the self-test's probes the gate has noticed."""
    if not probes:
        return "Self-test: not made."
    passed = sum(probe.result == "passed" for probe in probes)
    missed = sum(probe.result == "missed" for probe in probes)
    nothing = len(probes) - passed - missed
    told = f"Self-test: the gate noticed {passed} of {passed + missed} sabotages of this evidence"
    return told + (f"; {nothing} more are not applicable." if nothing else ".")


def rule_table(judgements: Sequence[Judgement]) -> str:
    """One row per rule: candidate, baseline, difference with interval, margin, n, MDE, outcome, one plain sentence."""
    header = ("rule", "candidate", "baseline", "difference", "margin", "n", "MDE", "outcome", "why")
    return table(header, [_rule_row(judgement) for judgement in judgements])


def difference(judgement: Judgement) -> str:
    """Candidate − baseline with its interval; of a wilcoxon rule the typical row's beside it, since that is what the interval is about."""
    told = number(judgement.difference)
    if judgement.typical_difference is not None:
        told += f"; typical row {number(judgement.typical_difference)}"
    if judgement.interval is not None:
        told += f" [{number(judgement.interval.low)}, {number(judgement.interval.high)}]"
    return told


def figures(evaluated: Evaluated) -> str:
    """The models' metrics side by side: the main ones, then each kind of the retention suite."""
    roles = [role for role in ("candidate", "champion", "base") if role in evaluated.models]
    names = sorted({name for model in evaluated.models.values() for name in model.metrics if name.startswith("retention.")} - set(FIGURES))
    kinds = [name for name in names if name.endswith((".nll", ".kl_base"))]
    rows = [(f"`{name}`", *(number(evaluated.models[role].metrics.get(name)) for role in roles)) for name in (*FIGURES, *kinds)]
    return table(("metric", *roles), rows)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; cells may hold anything."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _rule_row(judgement: Judgement) -> tuple[str, ...]:
    baseline = number(judgement.reference)
    if judgement.answered_against != "none":
        baseline += f" ({judgement.answered_against})"
    return (
        judgement.rule if judgement.critical else f"{judgement.rule} (not critical)",
        number(judgement.candidate),
        baseline,
        difference(judgement),
        number(judgement.margin),
        "–" if judgement.n is None else f"{judgement.n:,}",
        number(judgement.mde),
        f"{MARKS[judgement.outcome]} {judgement.outcome.value}",
        judgement.reason,
    )


def _self_test(probes: Sequence[Probe]) -> str:
    line = self_test_line(probes)
    if not probes:
        return line
    header = ("probe", "what was done", "expected", "found", "result")
    rows = [(probe.name, probe.change, probe.expected, probe.found, probe.result) for probe in probes]
    return f"<details><summary>{line}</summary>\n\n{table(header, rows)}\n\n</details>"


def _origin(judged: Judged) -> str:
    seeds = sorted({judgement.seed for judgement in judged.judgements if judgement.seed is not None})
    seed = f" Intervals are bootstrapped with seed {', '.join(map(str, seeds))}." if seeds else ""
    return f"Candidate: `{judged.candidate_model}`. MDE is the smallest true difference that a rule shows in about 80 of 100 runs.{seed}"


def _cell(text: str) -> str:
    return _inline(text).replace("|", "\\|")


def _inline(text: str) -> str:
    """On one line, and without what would be read as HTML."""
    return " ".join(text.split()).replace("<", "&lt;")
