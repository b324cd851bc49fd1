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
import sys
from collections.abc import Sequence

from mlops.cli import stage
from mlops.cli.run import STAGES
from mlops.core import console
from mlops.core.errors import UsageError

__all__ = ["COMMANDS", "entrypoint", "main"]

COMMANDS = {
    **{name: (f"mlops.{name.replace('-', '_')}", "main") for name in STAGES},
    "evaluate-gate": ("mlops.cli.run", "evaluate_gate"),
    "schema": ("mlops.cli.show", "schema"),
    **{name: (f"mlops.cli.{name}", "main") for name in ("run", "show", "rollback", "resume", "reap", "init", "plan", "comment")},
}
"""Command → its module and function."""


def main(argv: Sequence[str]) -> int:
    """Run a command and return its exit code."""
    command, *rest = argv or ["--help"]
    if command in ("-h", "--help", "help"):
        console.info((__doc__ or "").rstrip())
        return 0
    if command not in COMMANDS:
        return stage.guarded(lambda: _unknown(command))
    module, function = COMMANDS[command]
    code: int = getattr(importlib.import_module(module), function)(rest)
    return code


def entrypoint() -> None:
    """The console script ``mlops``."""
    sys.exit(main(sys.argv[1:]))


def _unknown(command: str) -> int:
    near = difflib.get_close_matches(command, COMMANDS, n=1)
    hint = f" Did you mean `mlops {near[0]}`?" if near else ""
    raise UsageError(f"There is no command {command!r}.{hint}", f"the commands are: {', '.join(COMMANDS)}")


if __name__ == "__main__":
    entrypoint()
