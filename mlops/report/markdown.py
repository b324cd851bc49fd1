"""The gate's decision as Markdown: for ``run/gate.md``, the step summary and the pull request. Equal records give equal text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mlops.core.records import Evaluated, Judged, Judgement, Outcome, Verdict
from mlops.judging.wording import number

__all__ = ["FIGURES", "figures", "gate_page", "rule_table", "table"]

FIGURES = ("target.nll", "target.perplexity", "target.rouge_l", "retention.nll", "retention.kl_base")
"""The metrics that are shown before all others."""

MARKS = {Outcome.SHOWN: "✅", Outcome.FAILED: "❌", Outcome.UNPROVEN: "❔", Outcome.INVALID: "⚠️"}
MEANING = {
    Verdict.PROMOTE: "every critical rule is shown to hold",
    Verdict.HOLD: "the evidence does not reach; nothing is registered, deployed or moved",
    Verdict.REJECT: "a critical rule is shown to fail; nothing is registered, deployed or moved",
}


def gate_page(judged: Judged, evaluated: Evaluated) -> str:
    """Verdict, reasons, the rules and the figures."""
    lines = [f"## Gate: {judged.verdict.value}", "", f"{judged.verdict.value} means: {MEANING[judged.verdict]}.", ""]
    lines += [f"- {_inline(reason)}" for reason in judged.reasons]
    if judged.first_run:
        lines.append(f"- First run. {_inline(evaluated.champion_note)} Rules against the champion are answered against the base model.")
    return "\n".join([*lines, "", rule_table(judged.judgements), "", figures(evaluated), "", _origin(judged)]) + "\n"


def rule_table(judgements: Sequence[Judgement]) -> str:
    """One row per rule: candidate, baseline, difference with interval, margin, n, MDE, outcome, one plain sentence."""
    header = ("rule", "candidate", "baseline", "difference", "margin", "n", "MDE", "outcome", "why")
    return table(header, [_rule_row(judgement) for judgement in judgements])


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
    difference = number(judgement.difference)
    if judgement.interval is not None:
        difference += f" [{number(judgement.interval.low)}, {number(judgement.interval.high)}]"
    baseline = number(judgement.reference)
    if judgement.answered_against != "none":
        baseline += f" ({judgement.answered_against})"
    return (
        judgement.rule if judgement.critical else f"{judgement.rule} (not critical)",
        number(judgement.candidate),
        baseline,
        difference,
        number(judgement.margin),
        "–" if judgement.n is None else f"{judgement.n:,}",
        number(judgement.mde),
        f"{MARKS[judgement.outcome]} {judgement.outcome.value}",
        judgement.reason,
    )


def _origin(judged: Judged) -> str:
    seeds = sorted({judgement.seed for judgement in judged.judgements if judgement.seed is not None})
    seed = f" Intervals are bootstrapped with seed {', '.join(map(str, seeds))}." if seeds else ""
    return f"Candidate: `{judged.candidate_model}`. MDE is the smallest true difference that a rule shows in 80 of 100 runs.{seed}"


def _cell(text: str) -> str:
    return _inline(text).replace("|", "\\|")


def _inline(text: str) -> str:
    """On one line, and without what would be read as HTML."""
    return " ".join(text.split()).replace("<", "&lt;")
