"""Which jobs of pipeline.yml have something to do.

    mlops plan --from validate --until teardown

Leaves ``run/plan.json`` and the job output ``jobs``, a JSON list that the jobs' conditions read. What makes no sense is refused here,
before a reviewer is asked or anything is paid for: records of another target, an override of something else than a HOLD.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlops.cli import stage
from mlops.core import console
from mlops.core.errors import UsageError
from mlops.core.git import commit
from mlops.core.records import Judged, Verdict
from mlops.core.run import Run, write_atomically
from mlops.github.client import run_url

__all__ = ["JOBS", "main", "planned", "read"]

JOBS = {
    "validate": ("prepare", "validate"),
    "train": ("train",),
    "evaluate-gate": ("evaluate", "gate"),
    "register": ("register",),
    "deploy": ("deploy",),
    "smoke-test": ("smoke-test",),
    "promote": ("promote",),
    "teardown": ("teardown",),
}
"""Job of pipeline.yml → its stages, in order."""
FILE = "plan.json"
OVERRIDE = "MLOPS_OVERRIDE"
"""Environment: why a HOLD is promoted all the same; what the gate reads, too."""


def planned(first: str, last: str) -> list[str]:
    """The jobs from one to another, both included.

    Raises:
        UsageError: one of them doesn't exist, or they stand in the wrong order.
    """
    names = list(JOBS)
    for option, name in (("from", first), ("until", last)):
        if name not in JOBS:
            raise UsageError(f"There is no job {name!r} to go on {option}.", f"the jobs are: {', '.join(names)}")
    if names.index(first) > names.index(last):
        raise UsageError(f"from {first} comes after until {last}.", f"the order is {', '.join(names)}")
    return names[names.index(first) : names.index(last) + 1]


def read(run: Run) -> dict[str, Any]:
    """The plan that this run directory was made under; empty outside GitHub."""
    path = run.directory / FILE
    return dict(json.loads(path.read_bytes())) if path.is_file() else {}


def _fits(before: Mapping[str, Any], target: str, settings: Sequence[str]) -> None:
    """The records that are carried on must be of this target: each target has rules of its own, and a verdict is one by these."""
    if not before:
        return
    where = before.get("workflow_run") or "an earlier run"
    if before["target"] != target:
        raise UsageError(
            f"The records of {where} are of target {before['target']}, and target {target} shall go on with them.",
            f"set target to {before['target']}, or begin anew without run-id",
        )
    then, now = ((made.get("commit", "unknown"), sorted(made["settings"])) for made in (before, {"commit": commit(), "settings": settings}))
    if then != now:
        told = [f"{made}, settings {', '.join(given) or 'none'}" for made, given in (then, now)]
        console.warning(f"The records of {where} are of commit {told[0]}. What follows is of commit {told[1]}.")


def _overridable(run: Run, jobs: Sequence[str]) -> None:
    """An override answers a verdict that is there for people to see; it is no leave that is given in advance."""
    if jobs[0] != "evaluate-gate":
        raise UsageError(
            f"An override goes with a run that was held, and begins from evaluate-gate, not from {jobs[0]}.",
            "dispatch from evaluate-gate, with the run-id of the run that was held",
        )
    judged = run.read(Judged)
    if judged.verdict is not Verdict.HOLD:
        why = "REJECT has no override" if judged.verdict is Verdict.REJECT else "there is nothing to override"
        raise UsageError(
            f"The gate said {judged.verdict} in the run that is carried on: {why}.",
            "leave the override out; after REJECT train a better model",
        )


def main(argv: Sequence[str]) -> int:
    """Tell which jobs of the workflow have something to do."""
    parser = stage.parser(__doc__ or "", prog="mlops plan")
    parser.add_argument("--from", dest="first", default="validate", metavar="JOB", help="the first job (default: validate)")
    parser.add_argument("--until", dest="last", default="teardown", metavar="JOB", help="the last job (default: teardown)")
    arguments = parser.parse_args(argv)

    def plan() -> int:
        jobs = planned(arguments.first, arguments.last)
        context = stage.load_context(arguments)
        _fits(read(context.run), context.config.target, arguments.set)
        if os.environ.get(OVERRIDE, "").strip():
            _overridable(context.run, jobs)
        document = {
            "target": context.config.target,
            "jobs": jobs,
            "settings": arguments.set,
            "commit": commit(),
            "workflow_run": run_url(),
        }
        write_atomically(context.run.path(FILE), json.dumps(document, indent=2).encode() + b"\n")
        console.output("jobs", json.dumps(jobs))
        console.info(f"  target {context.config.target} of {Path(context.config.file).name}: {', '.join(jobs)}")
        if "AZURE_CLIENT_ID" in os.environ and not os.environ["AZURE_CLIENT_ID"]:
            console.warning("The repository's variable AZURE_CLIENT_ID is empty: nobody can be signed in to Azure.")
        return 0

    return stage.guarded(plan)
