"""The short screen at the end of a run, for a terminal."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Sequence
from typing import TypeVar

from mlops.core.records import Deployed, Evaluated, Judged, Promoted, Record, Smoked, TornDown, Trained, Validated
from mlops.core.run import Run
from mlops.judging.wording import number
from mlops.report.markdown import FIGURES, meaning, override_line, self_test_line
from mlops.report.samples import exchanges

__all__ = ["screen"]

R = TypeVar("R", bound=Record)


def screen(run: Run, mlflow_page: str = "") -> str:
    """Verdict and why, the models' figures, a question with the old and the new answer, the cost, and where to look.

    Args:
        run: the run directory; what is not there yet is left out.
        mlflow_page: the command that opens the MLflow page; without it, the studio's address of the training job is shown.
    """
    records = list(run.records())
    width = max(60, min(100, shutil.get_terminal_size().columns))
    parts = [_verdict(records, width), _figures(records), _sample(records, width), _live(records), _cost(records)]
    return "\n\n".join(part for part in [*parts, _places(run, records, mlflow_page)] if part) + "\n"


def _verdict(records: Sequence[Record], width: int) -> str:
    judged = _one(records, Judged)
    if judged is None:
        return "No verdict yet: the gate has not judged this run."
    lines = [f"{judged.verdict.value}: {meaning(judged)}"]
    if told := override_line(judged):
        lines.append(textwrap.fill(told, width, initial_indent="  ! ", subsequent_indent="    "))
    told_lines = (*judged.reasons, *judged.notes, self_test_line(judged.self_test))
    lines += [textwrap.fill(line, width, initial_indent="  - ", subsequent_indent="    ") for line in told_lines]
    return "\n".join(lines)


def _figures(records: Sequence[Record]) -> str:
    evaluated = _one(records, Evaluated)
    if evaluated is None:
        return ""
    roles = [role for role in ("candidate", "champion", "base") if role in evaluated.models]
    lines = [f"{'':20}" + "".join(f"{role:>12}" for role in roles)]
    for name in FIGURES:
        lines.append(f"{name:20}" + "".join(f"{number(evaluated.models[role].metrics.get(name)):>12}" for role in roles))
    return "\n".join(lines)


def _sample(records: Sequence[Record], width: int) -> str:
    """The first question that old and new model answer differently, else the first."""
    old, asked = exchanges(_one(records, Evaluated))
    if not asked:
        return ""
    rows = (("question", asked[0].prompt), (f"old ({old})", asked[0].before), ("new (candidate)", asked[0].after))
    return "\n".join(_labelled(label, text, width) for label, text in rows)


def _live(records: Sequence[Record]) -> str:
    lines = []
    if smoked := _one(records, Smoked):
        lines.append(
            f"smoke test: {smoked.requests} requests, {smoked.failures} failures, "
            f"p50 {smoked.latency_p50_ms:,.0f} ms, p95 {smoked.latency_p95_ms:,.0f} ms"
        )
    promoted, deployed = _one(records, Promoted), _one(records, Deployed)
    if promoted or deployed:
        last = promoted or deployed
        assert last is not None
        lines.append(f"endpoint {last.endpoint}, traffic {last.traffic_now}")
    if torn := _one(records, TornDown):
        lines.append(f"torn down: {len(torn.deleted)} deleted, {len(torn.refused)} left alone, {len(torn.remaining)} remaining")
    return "\n".join(lines)


def _cost(records: Sequence[Record]) -> str:
    validated, trained = _one(records, Validated), _one(records, Trained)
    lines = []
    if validated is not None:
        estimate = "unknown" if validated.cost_estimate_usd is None else f"{validated.cost_estimate_usd:,.2f} USD"
        lines.append(f"on Azure it would have cost {estimate} ({validated.cost_note})")
    if trained is not None and trained.gpu_hours is not None:
        lines.append(f"the training took {trained.gpu_hours:.3g} GPU hours")
    return "\n".join(lines)


def _places(run: Run, records: Sequence[Record], mlflow_page: str) -> str:
    report, trained = run.directory / "report.html", _one(records, Trained)
    lines = [f"report   {report}"] if report.is_file() else []
    if mlflow_page or trained:
        lines.append(f"MLflow   {mlflow_page or (trained.studio_url if trained else '')}")
    return "\n".join([*lines, f"records  {run.directory}/   (read them with `mlops show`)"])


def _labelled(label: str, text: str, width: int) -> str:
    wrapped = textwrap.wrap(" ".join(text.split()) or "(nothing)", width - 18, max_lines=4, placeholder=" …")
    return "\n".join(f"{label if number == 0 else '':18}{line}" for number, line in enumerate(wrapped))


def _one(records: Sequence[Record], kind: type[R]) -> R | None:
    return next((record for record in records if isinstance(record, kind)), None)
