"""The order of the stages: all of them in one process, or a part."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from mlops.cli import stage
from mlops.core import console
from mlops.core.errors import Detached, MlopsError, UsageError
from mlops.core.run import Run
from mlops.report.html import write
from mlops.report.screen import screen

__all__ = ["STAGES", "evaluate_gate", "main"]

STAGES = ("prepare", "validate", "train", "evaluate", "gate", "register", "deploy", "smoke-test", "promote", "teardown")
"""In the order in which they follow from each other."""


def main(argv: Sequence[str]) -> int:
    """All stages in one process. A failure or a verdict other than PROMOTE stops the chain, and its exit code is the command's.

    What a target with endpoint.ephemeral = true has made is torn down at the end, also after a failure or an interrupt; only an
    --until before teardown that is reached leaves it standing.
    """
    parser = stage.parser((main.__doc__ or ""), prog="mlops run")
    parser.add_argument("--from", dest="first", choices=STAGES, default=STAGES[0], metavar="STAGE", help="begin here (default: prepare)")
    parser.add_argument("--until", dest="last", choices=STAGES, default=STAGES[-1], metavar="STAGE", help="end here (default: teardown)")
    parser.add_argument("--keep", action="store_true", help="leave an ephemeral target standing: a later job tears it down")
    arguments = parser.parse_args(argv)

    def chain() -> int:
        first, last = STAGES.index(arguments.first), STAGES.index(arguments.last)
        if first > last:
            raise UsageError(f"--from {arguments.first} comes after --until {arguments.last}.", f"the order is {', '.join(STAGES)}")
        context = stage.load_context(arguments)
        wanted = STAGES[first : last + 1]
        try:
            code = _chained(context, [name for name in wanted if name != "teardown"])
        except Detached as told:
            # Nothing is torn down: that would cancel the training.
            console.notice(str(told))
            console.output("state", "detached")
            return told.exit_code
        if "train" in wanted and code == 0:
            console.output("state", "completed")
        ephemeral = context.config.endpoint.ephemeral and not arguments.keep
        if "teardown" in wanted if code == 0 else ephemeral:
            cleaned = stage.guarded(lambda: _stages(context, ["teardown"]))
            # The first failure is the reason; one while cleaning up has been told, and counts where there is no other.
            code = code or cleaned
        elif ephemeral:
            console.warning(
                f"Endpoint {context.config.endpoint.name} is left standing and bills by the hour. End it with `mlops teardown`."
            )
        reported = stage.guarded(lambda: _report(context.run))
        return code or reported

    return stage.guarded(chain)


def evaluate_gate(argv: Sequence[str]) -> int:
    """Score the models, then judge. Exit code: 0 PROMOTE, 10 HOLD, 20 REJECT."""
    arguments = stage.parser((evaluate_gate.__doc__ or ""), prog="mlops evaluate-gate").parse_args(argv)
    return stage.guarded(lambda: _stages(stage.load_context(arguments), ("evaluate", "gate")))


def _chained(context: stage.Context, names: Sequence[str]) -> int:
    """As :func:`_stages`, with failures turned into exit codes, and a training that was left to itself passed on."""
    detached: list[Detached] = []

    def chain() -> int:
        try:
            return _stages(context, names)
        except Detached as told:
            detached.append(told)
            return told.exit_code

    code = stage.guarded(chain)
    if detached:
        raise detached[0]
    return code


def _stages(context: stage.Context, names: Sequence[str]) -> int:
    """Run stages until one doesn't return 0; why one failed is kept in the run directory."""
    for name in names:
        command: stage.Command = importlib.import_module(f"mlops.{name.replace('-', '_')}").main
        try:
            code = command.execute(context)
        except Detached:
            raise
        except (MlopsError, KeyboardInterrupt) as problem:
            context.run.note_failure(name, str(problem) or "It was interrupted.")
            raise
        context.run.clear_failure(name)
        if code != 0:
            return code
    return 0


def _report(run: Run) -> int:
    """The long page beside the records, and the short screen."""
    write(run)
    console.info(screen(run))
    return 0
