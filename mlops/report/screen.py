"""The summary at the end of a run, for a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from mlops.core import console
from mlops.core.record import Record
from mlops.core.records import Deployed, Evaluated, Judged, Promoted, Smoked, TornDown, Trained, Validated
from mlops.core.run import Run
from mlops.judging.metrics import HEADLINE
from mlops.judging.wording import number
from mlops.report.decision import decision, find_largest_change
from mlops.report.markdown import find_record, meaning, override_line, roles, self_test_line

__all__ = ["screen"]

MAX_TEXT = 300
"""Longer questions and answers are cut after this many characters."""


def screen(run: Run, mlflow_page: str = "") -> str:
    """Render the verdict and its reasons, the metrics, a question with the old and the new answer, the cost, and where to find more.

    Args:
        run: the run directory; sections whose record is missing are omitted.
        mlflow_page: the command that opens the MLflow page; if empty, the studio URL of the training job is shown.
    """
    records = list(run.records())
    parts = [_verdict(records), _metrics(records), _sample(records), _live(records), _cost(records)]
    return "\n\n".join(part for part in [*parts, _places(run, records, mlflow_page)] if part) + "\n"


def _verdict(records: Sequence[Record]) -> str:
    judged = find_record(records, Judged)
    if judged is None:
        return "No verdict yet: the gate has not judged this run."
    lines = [f"{judged.verdict.value}: {meaning(judged)}"]
    if warning := override_line(judged):
        lines.append(console.columns([("!", warning)], gap=1))
    lines.append(console.columns(decision(judged, records)))
    lines.append(console.columns([("-", text) for text in (*judged.reasons, *judged.notes, self_test_line(judged.self_test))], gap=1))
    return "\n".join(lines)


def _metrics(records: Sequence[Record]) -> str:
    evaluated = find_record(records, Evaluated)
    if evaluated is None:
        return ""
    models = roles(evaluated)
    rows = [(name, *(number(evaluated.models[role].metrics.get(name)) for role in models)) for name in HEADLINE]
    return console.columns(rows, ("", *models), indent=0, numbers=True)


def _sample(records: Sequence[Record]) -> str:
    """Show the question whose answers by the old and the new model have the least in common."""
    current, sample = find_largest_change(find_record(records, Evaluated))
    if sample is None:
        return ""
    rows = (("question", sample.prompt), (f"old ({current})", sample.before), ("new (candidate)", sample.after))
    return console.columns([(label, textwrap.shorten(text, MAX_TEXT, placeholder=" …") or "(nothing)") for label, text in rows], indent=0)


def _live(records: Sequence[Record]) -> str:
    lines = []
    if smoked := find_record(records, Smoked):
        lines.append(
            f"smoke test: {smoked.requests} requests, {smoked.failures} failures, "
            f"p50 {smoked.latency_p50_ms:,.0f} ms, p95 {smoked.latency_p95_ms:,.0f} ms"
        )
    promoted, deployed = find_record(records, Promoted), find_record(records, Deployed)
    if promoted or deployed:
        last = promoted or deployed
        assert last is not None
        lines.append(f"endpoint {last.endpoint}, traffic {last.traffic_now}")
    if torn := find_record(records, TornDown):
        lines.append(f"torn down: {len(torn.deleted)} deleted, {len(torn.refused)} left alone, {len(torn.remaining)} remaining")
    return "\n".join(lines)


def _cost(records: Sequence[Record]) -> str:
    validated, trained = find_record(records, Validated), find_record(records, Trained)
    lines = []
    if validated is not None:
        estimate = "unknown" if validated.cost_estimate_usd is None else f"{validated.cost_estimate_usd:,.2f} USD"
        lines.append(f"estimated cost on Azure: {estimate} ({validated.cost_note})")
    if trained is not None and trained.gpu_hours is not None:
        lines.append(f"training: {trained.gpu_hours:.3g} GPU hours")
    return "\n".join(lines)


def _places(run: Run, records: Sequence[Record], mlflow_page: str) -> str:
    report, trained = run.directory / "report.html", find_record(records, Trained)
    # Not wrapped: a link must stay in one piece.
    lines = [f"report   {report}"] if report.is_file() else []
    if mlflow_page or trained:
        lines.append(f"MLflow   {mlflow_page or (trained.studio_url if trained else '')}")
    return "\n".join([*lines, f"records  {run.directory}/   (read them with `mlops show`)"])
