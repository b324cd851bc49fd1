"""Decide whether to admit the candidate: PROMOTE (exit 0), HOLD (10) or REJECT (20).

    mlops gate --target prod

Judges the evaluation by the rules in pipeline.toml. First, a self-test on the same evidence must show that the gate detects every mutation;
otherwise there is no verdict (exit 19). Writes ``run/gate.json``, ``run/gate.md``, ``run/report.html``, and the verdict as tags of the
training's MLflow run. --override admits a HOLD (exit 0) on the user's responsibility; a REJECT can't be overridden. The other options don't
produce a new verdict, and write nothing.

    mlops gate candidate.jsonl base.jsonl --rules rules.toml

judges any two score files, without a run directory or Azure. They have one JSON object per line, with an id and the values of metrics.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from mlops.cli import gate_files, gate_queries, stage
from mlops.cloud.workspace import Workspace
from mlops.core import console
from mlops.core.errors import AzureError, UsageError
from mlops.core.judgement import Verdict
from mlops.core.records import Evaluated, Judged, Trained
from mlops.core.run import Run, write_atomically
from mlops.core.settings import Config
from mlops.github import override as overrides
from mlops.judging.judge import judge
from mlops.report import html, markdown, verdict_tags
from mlops.report.decision import decision

__all__ = ["gate", "main"]

PAGES = ("gate.md", "report.html")
"""The files that show the verdict, besides its record."""


def gate(config: Config, run: Run, workspace: Workspace, override: str = "") -> Judged:
    """Judge the candidate, override a HOLD if that is requested and allowed, and publish the verdict.

    Args:
        config: the target's settings.
        run: with the records up to the evaluation's.
        workspace: where the training's MLflow run is.
        override: the reason for admitting a HOLD; empty for no override.

    Raises:
        RecordError: a record is missing or out of date.
        EvidenceError: the per-row scores can't be read, or are about another candidate.
        SelfTestFailed: the gate does not detect what it must detect.
        UsageError: the override's reason is not a valid reason.
        AzureError: the candidate was admitted, but MLflow can't be updated.
    """
    reason = overrides.check_reason(override)
    # If this is interrupted, an earlier verdict, perhaps by other rules, must not remain.
    run.delete(Judged)
    for page in PAGES:
        run.path(page).unlink(missing_ok=True)
    return _publish(run, _apply_override(config, judge(config, run), reason), workspace)


def _apply_override(config: Config, judged: Judged, reason: str) -> Judged:
    """Return the record with the requested override, or with the reason why it was refused."""
    if not reason:
        return judged
    if judged.verdict is Verdict.PROMOTE:
        console.notice("The verdict is PROMOTE, so the override was not needed and is not recorded.")
        return judged
    try:
        override = overrides.grant(config, judged.verdict, reason)
    except overrides.OverrideRefused as refusal:
        return judged.model_copy(update={"override_refused": str(refusal)})
    return judged.model_copy(update={"override": override})


def _publish(run: Run, judged: Judged, workspace: Workspace) -> Judged:
    """Store the verdict in MLflow and in the run directory, and print it."""
    evaluated, trained = run.read(Evaluated), run.read(Trained)
    block = decision(judged, list(run.records()))
    page = markdown.gate_page(judged, evaluated, block)
    path = run.path("gate.md")
    write_atomically(path, page.encode())
    judged = judged.model_copy(update={"files": {"markdown": run.describe_file(path)}})
    _tag_training(workspace, trained.mlflow_run_id, judged, evaluated)
    run.write(judged)
    _print_verdict(judged, block, page, html.write(run))
    return judged


def _tag_training(workspace: Workspace, mlflow_run: str, judged: Judged, evaluated: Evaluated) -> None:
    """Tag the training's MLflow run with the verdict, before the record is written: nothing is admitted without a trace in MLflow.

    A verdict that stops the pipeline stands even if the tags can't be written, because an error here would only hide it.
    """
    try:
        workspace.tracking.delete_tags(mlflow_run, verdict_tags.find_outdated(workspace.tracking.get_tags(mlflow_run)))
        workspace.tracking.set_tags(mlflow_run, verdict_tags.tags(judged, evaluated))
    except AzureError as problem:
        if judged.is_admitted:
            raise
        console.warning(f"The verdict is valid, but it is missing from the history in MLflow, which could not be updated. {problem}")


def _print_verdict(judged: Judged, block: Sequence[tuple[str, str]], page: str, report: Path) -> None:
    gate_files.announce(judged.verdict, f"{markdown.meaning(judged)}.")
    if line := markdown.override_line(judged):
        (console.warning if judged.override else console.error)(line)
    console.table([("verdict", judged.verdict.value), *block])
    gate_files.print_judgements(judged.judgements)
    for note in judged.notes:
        console.info(f"  {note}")
    console.info(f"  {markdown.self_test_line(judged.self_test)}")
    console.summary(page)
    console.output("verdict", judged.verdict.value)
    console.output("override", str(judged.override is not None).lower())
    console.info(f"  report: {report}")


def _answer_query(arguments: argparse.Namespace) -> stage.Answer | None:
    """Judge score files, or answer a query about verdicts, if the arguments request one."""
    if arguments.files or arguments.rules:
        _refuse_other_options(arguments)
        decision = gate_files.judge_files(arguments.files, arguments.rules)
        return stage.Answer(decision, exit_code=decision.verdict.exit_code)
    if arguments.rule and not arguments.what_if:
        raise UsageError("--rule edits rules for --what-if only.", "add --what-if, or edit pipeline.toml")
    if arguments.explain is not None:
        return gate_queries.explain(Run(arguments.run), arguments.explain)
    if not arguments.what_if and not arguments.self_test and arguments.history is None:
        return None
    context = stage.load_context(arguments)
    if arguments.what_if:
        return gate_queries.what_if(context.config, context.run, arguments.rule)
    if arguments.history is not None:
        return gate_queries.history(context.config, context.workspace, arguments.history)
    return gate_queries.self_test(context.config, context.run)


def _refuse_other_options(arguments: argparse.Namespace) -> None:
    """Refuse options that don't apply to score files instead of ignoring them: nobody would check a record of such an override."""
    unset: dict[str, object] = {"override": "", "explain": None, "what_if": False, "history": None, "self_test": False, "rule": []}
    options = [f"--{name.replace('_', '-')}" for name, value in unset.items() if getattr(arguments, name) != value]
    if options:
        source = " (MLOPS_OVERRIDE sets it)" if os.environ.get("MLOPS_OVERRIDE") and "--override" in options else ""
        raise UsageError(
            f"{options[0]}{source} does not apply to score files; nothing was judged.",
            "leave it out. A HOLD about score files can't be overridden: add evidence, or change the rules",
        )


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE", help="score files: the candidate's, and the base's")
    parser.add_argument("--rules", type=Path, metavar="FILE", help="the rules for score files, a TOML file with tables [rules.NAME]")
    query = parser.add_mutually_exclusive_group()
    query.add_argument(
        "--override", default=os.environ.get("MLOPS_OVERRIDE", ""), metavar="REASON",
        help="admit a HOLD, for this reason (same as MLOPS_OVERRIDE)",
    )  # fmt: skip
    query.add_argument(
        "--explain",
        nargs="?",
        const="",
        metavar="METRIC",
        help="explain how the verdict follows from the numbers; only needs run/gate.json",
    )
    query.add_argument(
        "--what-if", action="store_true", help="judge the stored evaluation by the current rules; exits with 0 whatever the verdict"
    )
    query.add_argument("--history", nargs="?", const=20, type=_count, metavar="N", help="show the last N verdicts in MLflow (default: 20)")
    query.add_argument("--self-test", action="store_true", help="run only the self-test, and show every probe")
    parser.add_argument(
        "--rule", action="append", default=[], metavar="'RULE KEY=VALUE …'",
        help="with --what-if: change settings of a rule, by its name or METRIC[@BASELINE], e.g. 'target.nll@base margin=0.02'",
    )  # fmt: skip


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return int(text)


main = stage.command(gate, needs=(Trained, Evaluated), add_options=_add_options, answer_query=_answer_query)


if __name__ == "__main__":
    sys.exit(main())
