"""Run several stages, or all of them, in one process."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from mlops.cli import stage
from mlops.core import console
from mlops.core.errors import Detached, MlopsError, UsageError
from mlops.core.records import Deployed, Judged
from mlops.core.run import Run
from mlops.report.html import write
from mlops.report.screen import screen

__all__ = ["STAGES", "evaluate_gate", "main"]

STAGES = ("prepare", "validate", "train", "evaluate", "gate", "register", "deploy", "smoke-test", "promote", "teardown")
"""The stages, in the order in which they run."""


def main(argv: Sequence[str]) -> int:
    """Run all stages in one process. A failure or a verdict other than PROMOTE stops the chain and sets the exit code.

    The resources of a target with endpoint.ephemeral = true are torn down at the end, even after a failure or an interrupt; only
    --until a stage before teardown keeps them, if that stage is reached.
    """
    parser = stage.parser((main.__doc__ or ""), prog="mlops run")
    parser.add_argument(
        "--from", dest="first", choices=STAGES, default=STAGES[0], metavar="STAGE", help="the first stage (default: prepare)"
    )
    parser.add_argument(
        "--until", dest="last", choices=STAGES, default=STAGES[-1], metavar="STAGE", help="the last stage (default: teardown)"
    )
    parser.add_argument("--keep", action="store_true", help="don't tear down an ephemeral target, because a later job does")
    arguments = parser.parse_args(argv)

    def chain() -> stage.Answer:
        first, last = STAGES.index(arguments.first), STAGES.index(arguments.last)
        if first > last:
            raise UsageError(f"--from {arguments.first} comes after --until {arguments.last}.", f"the order is {', '.join(STAGES)}")
        context = stage.load_context(arguments)
        failures: list[MlopsError] = []
        with context.run.locked():
            code = run_selected(context, STAGES[first : last + 1], failures)
        decisive = next((failure for failure in failures if failure.exit_code == code), None)
        records = {} if decisive else {record.stage: record for record in context.run.records()}
        return stage.Answer(records, exit_code=code, failure=decisive)

    def run_selected(context: stage.Context, selected: Sequence[str], failures: list[MlopsError]) -> int:
        code = stage.run_and_report(lambda: _run_stages(context, [name for name in selected if name != "teardown"]), failures)
        if failures and isinstance(failures[0], Detached):
            # Nothing is torn down, since that would cancel the training job.
            console.output("state", "detached")
            return code
        if "train" in selected and code == 0:
            console.output("state", "completed")
        ephemeral = context.config.endpoint.ephemeral and not arguments.keep
        if "teardown" in selected if code == 0 else ephemeral:
            cleanup_code = stage.run_and_report(lambda: _run_stages(context, ["teardown"]), failures)
            # The first failure decides. A failure during the cleanup was reported already, and only counts if there is no other.
            code = code or cleanup_code
        elif ephemeral and context.run.has(Deployed):
            console.warning(
                f"Endpoint {context.config.endpoint.name} still exists and is billed by the hour. Delete it with `mlops teardown`."
            )
        report_code = stage.run_and_report(lambda: _report(context.run), failures)
        return code or report_code

    return stage.finish(chain, as_json=arguments.json)


def evaluate_gate(argv: Sequence[str]) -> int:
    """Score the models, then judge them. Exit code: 0 PROMOTE, 10 HOLD, 20 REJECT."""
    arguments = stage.parser((evaluate_gate.__doc__ or ""), prog="mlops evaluate-gate").parse_args(argv)

    def chain() -> Judged:
        context = stage.load_context(arguments)
        _run_stages(context, ("evaluate", "gate"))
        return context.run.read_unchecked(Judged)

    return stage.finish(chain, as_json=arguments.json)


def _run_stages(context: stage.Context, names: Sequence[str]) -> int:
    """Run stages until one doesn't return 0. The reason for a failure is recorded in the run directory."""
    for name in names:
        command: stage.Command = importlib.import_module(f"mlops.{name.replace('-', '_')}").main
        try:
            code = int(getattr(command.execute(context), "exit_code", 0))
        except Detached:
            raise
        except (MlopsError, KeyboardInterrupt) as problem:
            context.run.record_failure(name, str(problem) or "It was interrupted.")
            raise
        context.run.clear_failure(name)
        if code != 0:
            return code
    return 0


def _report(run: Run) -> int:
    """Write the report page next to the records and print the summary."""
    write(run)
    console.info(screen(run))
    return 0
