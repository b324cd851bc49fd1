"""Which jobs of pipeline.yml have something to do.

    mlops plan --from validate --until teardown

Leaves ``run/plan.json`` and the job output ``jobs``, a JSON list that the jobs' conditions read.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mlops.core import console, stage
from mlops.core.errors import UsageError
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


def main(argv: Sequence[str]) -> int:
    """Tell which jobs of the workflow have something to do."""
    parser = stage.parser(__doc__ or "", prog="mlops plan")
    parser.add_argument("--from", dest="first", default="validate", metavar="JOB", help="the first job (default: validate)")
    parser.add_argument("--until", dest="last", default="teardown", metavar="JOB", help="the last job (default: teardown)")
    arguments = parser.parse_args(argv)

    def plan() -> int:
        jobs = planned(arguments.first, arguments.last)
        given = stage.settings(arguments)
        document = {"target": given.config.target, "jobs": jobs, "settings": arguments.set, "workflow_run": run_url()}
        write_atomically(given.run.path(FILE), json.dumps(document, indent=2).encode() + b"\n")
        console.output("jobs", json.dumps(jobs))
        console.info(f"  target {given.config.target} of {Path(given.config.file).name}: {', '.join(jobs)}")
        if "AZURE_CLIENT_ID" in os.environ and not os.environ["AZURE_CLIENT_ID"]:
            console.warning("The repository's variable AZURE_CLIENT_ID is empty: nobody can be signed in to Azure.")
        return 0

    return stage.guarded(plan)
