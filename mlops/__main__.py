"""From data to a live endpoint, in stages that can be run one by one or in one go.

    mlops STAGE            prepare, validate, train, evaluate, gate, register, deploy, smoke-test, promote, teardown
    mlops evaluate-gate    evaluate, then gate
    mlops run              run all of them in this order; --from STAGE and --until STAGE select a part
    mlops rollback         move traffic back to what was live before; --to names a deployment or a model
    mlops recover          finish or undo a traffic change that was interrupted
    mlops costs            show what is running now, whose it is, and what it costs
    mlops resume           continue the pipelines of detached training jobs
    mlops reap             list expired endpoints and abandoned jobs; --delete removes them
    mlops init             add the workflows and a configuration to a repository
    mlops show             show the records in run/
    mlops data show        show statistics and conversations of the prepared data
    mlops schema           print the JSON Schema of pipeline.toml
    mlops roles            print the smallest custom role in Azure for a pull request, a push or the schedule
    mlops completion       print a script that completes commands and options in bash, zsh or fish
    mlops plan, comment    for workflows: decide which jobs have work to do; comment on a pull request

Every command that needs them takes --target, --config, --run and --set, and every command --json; see `mlops COMMAND --help`.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.metadata import version

try:
    from mlops.cli import stage
    from mlops.cli.commands import COMMANDS
    from mlops.core import console
    from mlops.core.errors import OUTPUT_CLOSED, UsageError
except ModuleNotFoundError as missing:
    # A fresh checkout, in which the first command is often `python -m mlops init`.
    if (missing.name or "mlops").startswith("mlops"):
        raise
    message = f"error: The package {missing.name} is not installed.\nFix: python -m pip install --require-hashes -r requirements/azure.lock"
    sys.stderr.write(f"{message}\n")
    sys.exit(2)

__all__ = ["COMMANDS", "entrypoint", "main"]


def main(argv: Sequence[str]) -> int:
    """Run a command and return its exit code."""
    command, *rest = argv or ["--help"]
    if command in ("-h", "--help", "help"):
        console.info((__doc__ or "").rstrip())
        return 0
    if command == "--version":
        console.info(f"mlops {version('azureml-chat-mlops')}")
        return 0
    if command not in COMMANDS:
        return stage.finish(lambda: _unknown(command), as_json="--json" in rest)
    module, function = COMMANDS[command]
    code: int = getattr(importlib.import_module(module), function)(rest)
    return code


def entrypoint() -> None:
    """Run the console script ``mlops``."""
    try:
        code = main(sys.argv[1:])
    except console.OutputClosed:
        code = OUTPUT_CLOSED
    sys.exit(code)


def _unknown(command: str) -> int:
    raise UsageError(
        f"There is no command {command!r}{console.did_you_mean(command, COMMANDS)}.", f"the commands are: {', '.join(COMMANDS)}"
    )


if __name__ == "__main__":
    entrypoint()
