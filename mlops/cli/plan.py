"""Decide which jobs of pipeline.yml have work to do.

    mlops plan --from validate --until teardown

Writes ``run/plan.json`` and the job output ``jobs``, a JSON list that the jobs' conditions read. Plans that can't work are refused here,
before a reviewer is asked or anything costs money: records of another target, an override of anything but a HOLD, an ephemeral target with
the identity of permanent ones.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from mlops.cli import stage
from mlops.cloud.preflight import estimate_cost
from mlops.core import console
from mlops.core.config import environment_overrides
from mlops.core.errors import UsageError
from mlops.core.git import commit
from mlops.core.judgement import Verdict
from mlops.core.records import Judged
from mlops.core.run import Run, read_checked, write_atomically
from mlops.core.settings import Config
from mlops.github.client import run_url
from mlops.github.provenance import check_runs

__all__ = ["JOBS", "main", "read", "select_jobs"]

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
CONTINUED = "MLOPS_CONTINUED_RUN"
"""Environment variable with the id of the workflow run whose records are in run/; empty at the beginning."""
RESUME = "MLOPS_RESUME"
"""Environment variable, ``true`` when the schedule resumes a run: then commit and settings must be those of its plan."""
PERMANENT = "MLOPS_PERMANENT_CLIENT_ID"
"""Environment variable with the client id that permanent targets sign in with, in workflows."""
OVERRIDE = "MLOPS_OVERRIDE"
"""Environment variable with the reason for overriding a HOLD, which the gate also reads."""


def main(argv: Sequence[str]) -> int:
    """Run the command."""
    parser = stage.parser(__doc__ or "", prog="mlops plan")
    parser.add_argument("--from", dest="first", default="validate", metavar="JOB", help="the first job (default: validate)")
    parser.add_argument("--until", dest="last", default="teardown", metavar="JOB", help="the last job (default: teardown)")
    arguments = parser.parse_args(argv)

    def plan() -> dict[str, Any]:
        jobs = select_jobs(arguments.first, arguments.last)
        context = stage.load_context(arguments)
        target, settings = context.config.target, [*environment_overrides(), *arguments.set]
        if context.config.endpoint.ephemeral:
            _check_identity(target)
        continued = [run] if (run := os.environ.get(CONTINUED, "")) else []
        if continued:
            check_runs(continued, needs_gate=False)  # before anything reads the records
        earlier = read(context.run)
        if continued:
            continued += earlier.get("continued_runs", ())
            check_runs(continued, needs_gate=jobs[0] in list(JOBS)[list(JOBS).index("register") : -1])
        _check_earlier_plan(earlier, target, settings, exactly=os.environ.get(RESUME) == "true")
        if os.environ.get(OVERRIDE, "").strip():
            _check_override(context.run, jobs)
        document = {
            "target": target, "jobs": jobs, "settings": settings, "commit": commit(), "workflow_run": run_url(), "continued_runs": continued
        }  # fmt: skip
        write_atomically(context.run.path(FILE), json.dumps(document, indent=2).encode() + b"\n")
        console.output("jobs", json.dumps(jobs))
        console.info(f"  target {target} of {Path(context.config.file).name}: {', '.join(jobs)}")
        _print_costs(context.config)
        if "AZURE_CLIENT_ID" in os.environ and not os.environ["AZURE_CLIENT_ID"]:
            console.warning("The repository's variable AZURE_CLIENT_ID is empty, so no job can sign in to Azure.")
        return document

    return stage.finish(plan, as_json=arguments.json)


def _check_identity(target: str) -> None:
    """Refuse an ephemeral target with the identity of permanent ones: they would reuse what it creates as their own, without any gate."""
    permanent = os.environ.get(PERMANENT, "")
    if permanent and permanent.lower() == os.environ.get("AZURE_CLIENT_ID", "").lower():
        raise UsageError(
            f"Target {target} is ephemeral, so it must not sign in with the identity of permanent targets (AZURE_CLIENT_ID).",
            "set the repository's variable AZURE_PR_CLIENT_ID; for a target that is not named pr, also change client-id and environment in "
            "dispatch.yml",
        )


def _print_costs(config: Config) -> None:
    """Print what the run costs, before anything is paid for."""
    cost, note = estimate_cost(config.compute, config.training, config.endpoint)
    line = f"estimated cost of target {config.target}: {'unknown' if cost is None else f'{cost:,.2f} USD'} ({note})"
    console.info(f"  {line}")
    console.summary(f"{line}\n")


def select_jobs(first: str, last: str) -> list[str]:
    """Return the jobs from one to another, both included.

    Raises:
        UsageError: one of them doesn't exist, or they are in the wrong order.
    """
    names = list(JOBS)
    for option, name in (("--from", first), ("--until", last)):
        if name not in JOBS:
            raise UsageError(f"{option}: there is no job {name!r}{console.did_you_mean(name, names)}.", f"the jobs are: {', '.join(names)}")
    if names.index(first) > names.index(last):
        raise UsageError(f"--from {first} comes after --until {last}.", f"the order is {', '.join(names)}")
    return names[names.index(first) : names.index(last) + 1]


class _Plan(BaseModel):
    """The stored plan."""

    target: str
    jobs: list[str]
    settings: list[str]
    commit: str = "unknown"
    workflow_run: str = ""
    continued_runs: list[str] = Field(default_factory=list, description="workflow runs whose records it continued, the latest first")


def read(run: Run) -> dict[str, Any]:
    """Return the plan in this run directory; empty outside GitHub.

    Raises:
        RecordError: the file is damaged.
    """
    path = run.directory / FILE
    return read_checked(path, _Plan, "start from the beginning without run-id").model_dump() if path.is_file() else {}


def _check_earlier_plan(earlier: Mapping[str, Any], target: str, settings: Sequence[str], *, exactly: bool) -> None:
    """Refuse records of another target, since each target has its own rules; warn of another commit or other settings.

    Args:
        earlier: the plan of the run to continue.
        target: this run's target.
        settings: this run's.
        exactly: refuse another commit or other settings. They come from tags of a job, which others may have changed.
    """
    if not earlier:
        if exactly:
            raise UsageError("There is no plan of a run to resume.", "dispatch with action run")
        return
    run = earlier.get("workflow_run") or "an earlier run"
    if earlier["target"] != target:
        raise UsageError(
            f"The records of {run} are of target {earlier['target']}, and target {target} can't continue with them.",
            f"set target to {earlier['target']}, or start from the beginning without run-id",
        )
    origins = [(plan.get("commit", "unknown"), sorted(plan["settings"])) for plan in (earlier, {"commit": commit(), "settings": settings})]
    if origins[0] != origins[1]:
        then, now = (f"{origin}, settings {', '.join(changes) or 'none'}" for origin, changes in origins)
        if exactly:
            raise UsageError(
                f"The records of {run} are of commit {then}, but this would resume them at commit {now}.", "dispatch with action run"
            )
        console.warning(f"The records of {run} are of commit {then}. The following stages run at commit {now}.")


def _check_override(run: Run, jobs: Sequence[str]) -> None:
    """Refuse an override without a HOLD that people can look at; it can't be granted in advance."""
    if jobs[0] != "evaluate-gate":
        raise UsageError(
            f"An override continues a run whose verdict is HOLD. It starts from evaluate-gate, not from {jobs[0]}.",
            "dispatch from evaluate-gate, with the run-id of that run",
        )
    judged = run.read(Judged)
    if judged.verdict is not Verdict.HOLD:
        reason = "REJECT has no override" if judged.verdict is Verdict.REJECT else "there is nothing to override"
        raise UsageError(
            f"The verdict of the run to continue is {judged.verdict}: {reason}.", "omit the override; after REJECT train a better model"
        )
