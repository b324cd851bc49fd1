"""Decide whether the candidate may go on: PROMOTE (exit 0), HOLD (10) or REJECT (20).

    python -m mlops.gate --target prod

Judges what ``evaluate`` measured by the rules in pipeline.toml, alike every time, after proving on the same evidence that it would notice
what it must notice (exit 19 where it does not: then there is no verdict). Leaves ``run/gate.json``, ``run/gate.md``, ``run/report.html``
and the verdict as tags of the training's MLflow run. --override lets a HOLD through (exit 0) where somebody answers for it; a REJECT has no
override. The other options judge nothing anew and write nothing.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mlops.cli import gate_queries, stage
from mlops.core import console
from mlops.core.config import Config
from mlops.core.errors import AzureError, UsageError
from mlops.core.records import Evaluated, Judged, Trained, Verdict
from mlops.core.run import Run, write_atomically
from mlops.github import override as overrides
from mlops.judging.judge import judge
from mlops.report import html, markdown, verdict_tags

if TYPE_CHECKING:
    from mlops.cloud.workspace import Workspace

__all__ = ["gate", "main"]

PAGES = ("gate.md", "report.html")
"""What tells the verdict beside its record."""


def gate(config: Config, run: Run, workspace: Workspace, override: str = "") -> Judged:
    """Judge, let a HOLD through where that is asked for and allowed, and say so everywhere.

    Args:
        override: why a HOLD is to be let through; empty where it is not.

    Raises:
        RecordError: a record is missing or out of date.
        EvidenceError: the per-row scores can't be read, or are about another candidate.
        SelfTestFailed: the gate does not notice what it must notice.
        UsageError: the override's reason is no reason.
        AzureError: the candidate may go on, and MLflow can't be told.
    """
    reason = overrides.checked(override)
    # If this stops half-way, an earlier decision, perhaps under other rules, must not stand.
    run.forget(Judged)
    for page in PAGES:
        run.path(page).unlink(missing_ok=True)
    return _publish(run, _overridden(config, judge(config, run), reason), workspace)


def _overridden(config: Config, judged: Judged, reason: str) -> Judged:
    """The record with the override that was asked for, or with why there is none."""
    if not reason:
        return judged
    if judged.verdict is Verdict.PROMOTE:
        console.notice("The verdict is PROMOTE, so the override was not needed and is not recorded.")
        return judged
    try:
        given = overrides.grant(config, judged.verdict, reason)
    except overrides.Refused as refused:
        return judged.model_copy(update={"override_refused": str(refused)})
    return judged.model_copy(update={"override": given})


def _publish(run: Run, judged: Judged, workspace: Workspace) -> Judged:
    """Write the verdict down, in MLflow and in the run directory, and tell it."""
    evaluated, trained = run.read(Evaluated), run.read(Trained)
    page = markdown.gate_page(judged, evaluated)
    path = run.path("gate.md")
    write_atomically(path, page.encode())
    judged = judged.model_copy(update={"files": {"markdown": run.keep(path)}})
    _tag(workspace, trained.mlflow_run_id, judged, evaluated)
    run.write(judged)
    _tell(judged, page, html.write(run))
    return judged


def _tag(workspace: Workspace, mlflow_run: str, judged: Judged, evaluated: Evaluated) -> None:
    """Before the record is written: nothing goes through the gate that left no trace in MLflow. A verdict that stops is let stand all the
    same, for failing here would only hide it."""
    try:
        workspace.tracking.set_tags(mlflow_run, verdict_tags.tags(judged, evaluated))
    except AzureError as problem:
        if judged.admitted:
            raise
        console.warning(f"The verdict stands and is not in the history of MLflow, which could not be told. {problem}")


def _tell(judged: Judged, page: str, report: Path) -> None:
    for judgement in judged.judgements:
        console.info(f"  {judgement.outcome.value:9} {judgement.rule}{'' if judgement.critical else ' (not critical)'}")
        console.info(f"            {judgement.reason}")
    for note in judged.notes:
        console.info(f"  {note}")
    console.info(f"  {markdown.self_test_line(judged.self_test)}")
    console.summary(page)
    console.output("verdict", judged.verdict.value)
    console.output("override", str(judged.override is not None).lower())
    say = {Verdict.PROMOTE: console.notice, Verdict.HOLD: console.warning, Verdict.REJECT: console.error}[judged.verdict]
    say(f"{judged.verdict.value}: {markdown.meaning(judged)}.")
    if told := markdown.override_line(judged):
        (console.warning if judged.override else console.error)(told)
    console.info(f"  report: {report}")


def _answer_query(arguments: argparse.Namespace) -> bool:
    """Run one of the commands beside judging, if the options ask for one."""
    if arguments.rule and not arguments.what_if:
        raise UsageError("--rule edits rules for --what-if only.", "add --what-if, or edit pipeline.toml")
    if arguments.explain is not None:
        gate_queries.explain(Run(arguments.run), arguments.explain)
        return True
    if not arguments.what_if and not arguments.self_test and arguments.history is None:
        return False
    context = stage.load_context(arguments)
    if arguments.what_if:
        gate_queries.what_if(context.config, context.run, arguments.rule)
    elif arguments.history is not None:
        gate_queries.history(context.config, context.workspace, arguments.history)
    else:
        gate_queries.self_test(context.config, context.run)
    return True


def _add_options(parser: argparse.ArgumentParser) -> None:
    query = parser.add_mutually_exclusive_group()
    query.add_argument(
        "--override", default=os.environ.get("MLOPS_OVERRIDE", ""), metavar="REASON",
        help="let a HOLD through, and say why (MLOPS_OVERRIDE: the same)",
    )  # fmt: skip
    query.add_argument(
        "--explain", nargs="?", const="", metavar="METRIC", help="show how the verdict follows from the numbers, from run/gate.json alone"
    )
    query.add_argument(
        "--what-if", action="store_true", help="judge the stored evaluation by the current rules; exits with 0 whatever the verdict"
    )
    query.add_argument("--history", nargs="?", const=20, type=_count, metavar="N", help="the last N verdicts in MLflow (default: 20)")
    query.add_argument("--self-test", action="store_true", help="show what the gate says of mutated evidence")
    parser.add_argument(
        "--rule", action="append", default=[], metavar="'RULE KEY=VALUE …'",
        help="with --what-if: change settings of a rule, by its name or METRIC[@BASELINE], e.g. 'target.nll@base margin=0.02'",
    )  # fmt: skip


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of verdicts")
    return int(text)


main = stage.command(gate, needs=(Trained, Evaluated), add_options=_add_options, answer_query=_answer_query)


if __name__ == "__main__":
    sys.exit(main())
