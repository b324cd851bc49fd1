"""Command jobs: a command line with a snapshot of code, inputs, outputs and environment variables, run by a shell as on a node.

Inputs are given in place rather than mounted or copied, whatever their mode; outputs are written straight into the datastore. The
environment is recorded and does not act: ``python`` is the emulator's own.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

from pydantic import Field

from mlops.emulator.base.azure import Azure
from mlops.emulator.base.errors import AzureFault, not_implemented, user_error
from mlops.emulator.base.store import Document
from mlops.emulator.history import runstore
from mlops.emulator.jobs import environment
from mlops.emulator.jobs.body import Asset, JobProperties, Output, Resources
from mlops.emulator.jobs.scheduler import SERVERLESS, JobFailure, Worker
from mlops.emulator.storage import blobs
from mlops.emulator.wire.resources import Body
from mlops.emulator.workspace import assets, compute, uris

__all__ = ["CommandProperties", "check", "compute_name", "run"]

LOG = "user_logs/std_log.txt"
TAIL_LINES = 40
REFERENCE = re.compile(r"\$\{\{\s*(inputs|outputs)\.([^}\s]+)\s*\}\}")
ANY_EXPRESSION = re.compile(r"\$\{\{(.*?)\}\}")
DURATION = r"P(?!$)(?:(?P<D>\d+)D)?(?:T(?:(?P<H>\d+)H)?(?:(?P<M>\d+)M)?(?:(?P<S>\d+(?:\.\d+)?)S)?)?"
UNITS = {"D": 86400, "H": 3600, "M": 60, "S": 1}
OPTIONAL = re.compile(r"\$\[\[(.*?)\]\]", re.DOTALL)


class Limits(Body):
    """``limits``."""

    job_limits_type: str = "Command"
    timeout: str | None = None

    @property
    def seconds(self) -> float | None:
        """How long the job may run, if that is limited."""
        match = re.fullmatch(DURATION, self.timeout or "")
        return sum(float(match[unit] or 0) * seconds for unit, seconds in UNITS.items()) if match else None


class CommandProperties(JobProperties):
    """``properties`` of a command job, 2025-01-01-preview."""

    command: str = Field(min_length=1)
    code_id: str | None = None
    environment_id: str
    environment_variables: dict[str, str] = Field(default_factory=dict)
    distribution: dict[str, Any] | None = None
    autologger_settings: dict[str, Any] | None = None
    limits: Limits | None = None
    queue_settings: dict[str, Any] | None = None
    resources: Resources = Resources()
    parameters: dict[str, Any] | None = None


def check(azure: Azure, job: CommandProperties) -> None:
    """Refuse what can't run.

    Raises:
        AzureFault: 400 or 404, with what is wrong; 501 for what the emulator doesn't do.
    """
    if job.limits and job.limits.timeout and job.limits.seconds is None:
        raise user_error(f"The time limit '{job.limits.timeout}' is no ISO 8601 duration.")
    if job.distribution:
        raise not_implemented("command jobs with a distribution")
    name = compute_name(job)
    if name != SERVERLESS and compute.find(azure, name) is None:
        raise user_error(f"Compute {name} not found.", "NotFound", "ComputeNotFound", status=404)
    if not assets.has_environment(azure, job.environment_id):
        raise user_error(f"Environment {job.environment_id} not found.", "NotFound", "EnvironmentNotFound", status=404)
    if job.code_id:
        assets.code_folder(azure, job.code_id)
    for item in job.inputs.values():
        if isinstance(item, Asset):
            uris.check(azure, item.uri)
    for output in job.outputs.values():
        if output.uri:
            uris.resolve(azure, output.uri)
    _check_references(job)


def compute_name(job: CommandProperties) -> str:
    """Which compute it runs on."""
    return (job.compute_id or SERVERLESS).rpartition("/")[2]


async def run(worker: Worker, job: CommandProperties) -> None:
    """Do the work.

    Raises:
        JobFailure: it ends with another exit code than 0.
        Stopped: the job has been cancelled.
    """
    azure = worker.azure
    known = runstore.get(azure, worker.name)
    assert known is not None
    async with worker.nodes(worker.name, compute_name(job), job.resources.instance_count):
        values, variables = await _places(worker, job, known)
        folder = _snapshot(azure, worker.name, job)
        log = blobs.path(azure, blobs.ARTIFACTS, f"ExperimentRun/dcid.{worker.name}/{LOG}")
        log.parent.mkdir(parents=True, exist_ok=True)
        await runstore.move(azure, worker.name, "Running")
        command = render(job.command, values)
        limit = job.limits.seconds if job.limits else None
        variables |= job.environment_variables
        code = await worker.execute(["/bin/bash", "-c", command], cwd=folder, environment=variables, output=log, limit_s=limit)
    if code != 0:
        tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL_LINES:])
        how = f"was ended by signal {code - 128}" if code > 128 else f"exited with status code {code}"
        raise JobFailure(
            "UserError",
            f"Execution failed. User process '{command.split()[0]}' {how}. Please check log file '{LOG}' for error details. Error: {tail}",
            "UserProcessError",
        )
    await runstore.move(azure, worker.name, "Finalizing")


def render(command: str, values: dict[str, dict[str, str]]) -> str:
    """The command with inputs and outputs filled in; an optional part ``$[[…]]`` stays only if every input in it is given."""

    def optional(match: re.Match[str]) -> str:
        given = all(name in values[kind] for kind, name in REFERENCE.findall(match[1]))
        return match[1] if given else ""

    return REFERENCE.sub(lambda match: values[match[1]][match[2]], OPTIONAL.sub(optional, command))


def _check_references(job: CommandProperties) -> None:
    required = OPTIONAL.sub("", job.command)
    for expression in ANY_EXPRESSION.findall(job.command):
        match = REFERENCE.fullmatch("${{" + expression + "}}")
        if match is None:
            raise _bad_expression(f"Invalid expression {expression.strip()}. Only inputs and outputs of the job can be used in a command.")
        known = job.inputs if match[1] == "inputs" else job.outputs
        if match[2] not in known and match[0] in required:
            raise _bad_expression(f"Invalid expression {expression.strip()}: the job has no {match[1]} of that name.")


def _bad_expression(message: str) -> AzureFault:
    return user_error(message, "BadArgument", "ArgumentInvalid", "InvalidExpressionInJob")


async def _places(worker: Worker, job: CommandProperties, known: Document) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
    azure = worker.azure
    values: dict[str, dict[str, str]] = {"inputs": {}, "outputs": {}}
    for name, item in job.inputs.items():
        values["inputs"][name] = str(await uris.locate(azure, item.uri)) if isinstance(item, Asset) else item.value
    for name, output in job.outputs.items():
        values["outputs"][name] = str(_output_place(azure, known, name, output))
    variables = environment.for_job(azure, known)
    for kind in values:
        for name, value in values[kind].items():
            variables[f"AZURE_ML_{kind[:-1].upper()}_{name}"] = value
    return values, variables


def _output_place(azure: Azure, known: Document, name: str, output: Output) -> Path:
    place = uris.resolve(azure, known["outputs"][name]["uri"])
    (place.parent if output.job_output_type == "uri_file" else place).mkdir(parents=True, exist_ok=True)
    return place


def _snapshot(azure: Azure, name: str, job: CommandProperties) -> Path:
    """A working folder with the code; ``outputs/`` and ``logs/`` in it lead to the run's artifacts, as on Azure."""
    folder = azure.folder("jobs", name) / "wd"
    if job.code_id:
        shutil.copytree(assets.code_folder(azure, job.code_id), folder)
    else:
        folder.mkdir()
    for kept in ("outputs", "logs"):
        target = blobs.path(azure, blobs.ARTIFACTS, f"ExperimentRun/dcid.{name}/{kept}")
        if not (folder / kept).exists():
            target.mkdir(parents=True, exist_ok=True)
            (folder / kept).symlink_to(target)
    (folder.parent / "command.json").write_text(json.dumps({"command": job.command}), encoding="utf-8")
    return folder
