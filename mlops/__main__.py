"""From data to a live endpoint, in stages that can be run one by one or in one go.

    mlops STAGE            prepare, validate, train, evaluate, gate, register, deploy, smoke-test, promote, teardown
    mlops evaluate-gate    evaluate, then gate
    mlops run              all of them in this order; --from STAGE and --until STAGE take a part
    mlops rollback         traffic back to the deployment that the last promotion kept
    mlops resume           carry detached trainings on
    mlops reap             what has expired or was forgotten; --delete ends it
    mlops init             put the workflows and a configuration into a repository
    mlops show             what the stages have left in run/
    mlops schema           JSON Schema of pipeline.toml
    mlops plan, comment    what the workflows call: which jobs have something to do, the pull request's comment

Every command takes --target, --config, --run and --set; `mlops COMMAND --help` tells more.
"""

from __future__ import annotations

import difflib
import importlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence

from mlops.core import console, stage
from mlops.core.errors import Detached, MlopsError, UsageError
from mlops.core.records import Record, describe
from mlops.core.run import Run

__all__ = ["STAGES", "entrypoint", "main"]

STAGES = ("prepare", "validate", "train", "evaluate", "gate", "register", "deploy", "smoke-test", "promote", "teardown")
"""In the order in which they follow from each other."""
OPERATIONS = {
    "rollback": "mlops.rollback",
    "resume": "mlops.resume",
    "reap": "mlops.reap",
    "init": "mlops.github.init",
    "plan": "mlops.github.plan",
    "comment": "mlops.github.comment",
}
"""Command that is no stage → its module."""
WIDTH = 100
"""Characters of a value that `mlops show` prints."""


def main(argv: Sequence[str]) -> int:
    """Run a command and return its exit code."""
    command, *rest = argv or ["--help"]
    if command in ("-h", "--help", "help"):
        console.info((__doc__ or "").rstrip())
        return 0
    if command in STAGES or command in OPERATIONS:
        code: int = importlib.import_module(OPERATIONS.get(command, _module(command))).main(rest)
        return code
    commands: dict[str, Callable[[Sequence[str]], int]] = {
        "evaluate-gate": _evaluate_gate,
        "run": _run,
        "show": _show,
        "schema": _schema,
    }
    if command in commands:
        return commands[command](rest)
    return stage.guarded(lambda: _unknown(command, (*STAGES, *OPERATIONS, *commands)))


def entrypoint() -> None:
    """The console script ``mlops``."""
    sys.exit(main(sys.argv[1:]))


def _evaluate_gate(argv: Sequence[str]) -> int:
    """Score the models, then judge. Exit code: 0 PROMOTE, 10 HOLD, 20 REJECT."""
    arguments = stage.parser((_evaluate_gate.__doc__ or ""), prog="mlops evaluate-gate").parse_args(argv)
    return stage.guarded(lambda: _stages(stage.settings(arguments), ("evaluate", "gate")))


def _run(argv: Sequence[str]) -> int:
    """All stages in one process. A failure or a verdict other than PROMOTE stops the chain, and its exit code is the command's.

    What a target with endpoint.ephemeral = true has made is torn down at the end, also after a failure or an interrupt; only an
    --until before teardown that is reached leaves it standing.
    """
    parser = stage.parser((_run.__doc__ or ""), prog="mlops run")
    parser.add_argument("--from", dest="first", choices=STAGES, default=STAGES[0], metavar="STAGE", help="begin here (default: prepare)")
    parser.add_argument("--until", dest="last", choices=STAGES, default=STAGES[-1], metavar="STAGE", help="end here (default: teardown)")
    parser.add_argument("--keep", action="store_true", help="leave an ephemeral target standing: a later job tears it down")
    arguments = parser.parse_args(argv)

    def chain() -> int:
        first, last = STAGES.index(arguments.first), STAGES.index(arguments.last)
        if first > last:
            raise UsageError(f"--from {arguments.first} comes after --until {arguments.last}.", f"the order is {', '.join(STAGES)}")
        given = stage.settings(arguments)
        wanted = STAGES[first : last + 1]
        try:
            code = _chained(given, [name for name in wanted if name != "teardown"])
        except Detached as told:
            # Nothing is torn down: that would cancel the training.
            console.notice(str(told))
            console.output("state", "detached")
            return told.exit_code
        if "train" in wanted and code == 0:
            console.output("state", "completed")
        ephemeral = given.config.endpoint.ephemeral and not arguments.keep
        if "teardown" in wanted if code == 0 else ephemeral:
            cleaned = stage.guarded(lambda: _stages(given, ["teardown"]))
            # The first failure is the reason; one while cleaning up has been told, and counts where there is no other.
            code = code or cleaned
        elif ephemeral:
            console.warning(f"Endpoint {given.config.endpoint.name} is left standing and bills by the hour. End it with `mlops teardown`.")
        reported = stage.guarded(lambda: _report(given.run))
        return code or reported

    return stage.guarded(chain)


def _chained(given: stage.Settings, names: Sequence[str]) -> int:
    """As :func:`_stages`, with failures turned into exit codes, and a training that was left to itself passed on."""
    detached: list[Detached] = []

    def chain() -> int:
        try:
            return _stages(given, names)
        except Detached as told:
            detached.append(told)
            return told.exit_code

    code = stage.guarded(chain)
    if detached:
        raise detached[0]
    return code


def _stages(given: stage.Settings, names: Sequence[str]) -> int:
    """Run stages until one doesn't return 0; why one failed is kept in the run directory."""
    for name in names:
        function = getattr(importlib.import_module(_module(name)), name.replace("-", "_"))
        try:
            code = stage.step(given, name, function)
        except Detached:
            raise
        except (MlopsError, KeyboardInterrupt) as problem:
            given.run.note_failure(name, str(problem) or "It was interrupted.")
            raise
        given.run.clear_failure(name)
        if code != 0:
            return code
    return 0


def _report(run: Run) -> int:
    """The long page beside the records, and the short screen."""
    from mlops.report.html import write
    from mlops.report.screen import screen

    write(run)
    console.info(screen(run))
    return 0


def _show(argv: Sequence[str]) -> int:
    """Show what the stages have left in the run directory."""
    arguments = stage.parser((_show.__doc__ or ""), prog="mlops show").parse_args(argv)

    def show() -> int:
        records = list(Run(arguments.run).records())
        if not records:
            console.info(f"{arguments.run} holds no records yet; `mlops prepare` makes the first one.")
        for record in records:
            console.info(f"▸ {record.stage}  ({record.made_at:%Y-%m-%d %H:%M:%S} UTC)")
            for line in _lines(record):
                console.info(f"  {line}")
        return 0

    return stage.guarded(show)


def _lines(record: Record) -> list[str]:
    content = {key: value for key, value in describe(record).items() if key not in ("schema_version", "made_at", "inputs", "self_test")}
    width = max(len(key) for key in content)
    lines = []
    for key, value in content.items():
        if isinstance(value, list) and value and isinstance(value[0], Mapping):
            lines.append(f"{key}:")
            lines += [f"  - {_short(', '.join(f'{name}={_plain(part)}' for name, part in entry.items()))}" for entry in value]
        else:
            lines.append(f"{key:<{width}}  {_short(_plain(value))}")
    return lines


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= WIDTH else f"{line[: WIDTH - 1]}…"


def _schema(argv: Sequence[str]) -> int:
    """Print the JSON Schema of pipeline.toml."""
    from mlops.core.config import json_schema

    stage.parser((_schema.__doc__ or ""), prog="mlops schema").parse_args(argv)
    console.info(json.dumps(json_schema(), indent=2))
    return 0


def _unknown(command: str, known: Sequence[str]) -> int:
    near = difflib.get_close_matches(command, known, n=1)
    hint = f" Did you mean `mlops {near[0]}`?" if near else ""
    raise UsageError(f"There is no command {command!r}.{hint}", f"the commands are: {', '.join(known)}")


def _module(name: str) -> str:
    return f"mlops.{name.replace('-', '_')}"


if __name__ == "__main__":
    entrypoint()
