"""Command jobs: a command line with a code snapshot, inputs, outputs and environment variables, run by a shell as on a compute node.

Whatever their mode, inputs are used where they are instead of being mounted or copied, and outputs are written directly to the datastore.
The environment is recorded but has no effect: ``python`` has the emulator's packages, and what the job installs.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from mlops.emulator.base.azure import Azure
from mlops.emulator.base.errors import AzureFault, user_error
from mlops.emulator.base.libraries import preload_for_job, split_command
from mlops.emulator.base.store import Document
from mlops.emulator.history import runstore
from mlops.emulator.jobs.body import AssetInput, Filled, JobProperties, Output, Resources
from mlops.emulator.jobs.environment import job_environment
from mlops.emulator.jobs.overlay import create_overlay
from mlops.emulator.jobs.registration import register_outputs
from mlops.emulator.jobs.scheduler import SERVERLESS, STD_LOG, JobFailure, Worker, check_compute, describe_exit, is_virtual_cluster, not_run
from mlops.emulator.storage import blobs
from mlops.emulator.wire.resources import Body
from mlops.emulator.workspace import assets, uris

__all__ = ["CommandProperties", "compute_name", "execute", "run", "validate"]

REFERENCE = re.compile(r"\$\{\{\s*(inputs|outputs)\.([^}\s]+)\s*\}\}")
EXPRESSION = re.compile(r"\$\{\{(.*?)\}\}")
OPTIONAL = re.compile(r"\$\[\[(.*?)\]\]", re.DOTALL)
DURATION = r"P(?!$)(?:(?P<D>\d+)D)?(?:T(?:(?P<H>\d+)H)?(?:(?P<M>\d+)M)?(?:(?P<S>\d+(?:\.\d+)?)S)?)?"
UNIT_SECONDS = {"D": 86400, "H": 3600, "M": 60, "S": 1}


class Limits(Body):
    """``limits``."""

    job_limits_type: str = "Command"
    timeout: str | None = None

    @property
    def timeout_s(self) -> float | None:
        """The time limit in seconds, or None if there is no valid one."""
        match = re.fullmatch(DURATION, self.timeout or "")
        return sum(float(match[unit] or 0) * seconds for unit, seconds in UNIT_SECONDS.items()) if match else None


class Distribution(Body):
    """``distribution``. One process stands for all of them, whatever their number."""

    distribution_type: Literal["PyTorch", "Mpi", "TensorFlow", "Ray"]
    process_count_per_instance: int | None = None
    worker_count: int | None = None
    parameter_server_count: int | None = None
    port: int | None = None
    address: str | None = None
    dashboard_port: int | None = None
    include_dashboard: bool | None = None
    head_node_additional_args: str | None = None
    worker_node_additional_args: str | None = None

    def variables(self) -> dict[str, str]:
        """Return the variables by which a process knows that it is the only one."""
        if self.distribution_type == "PyTorch":
            names = {"RANK": "0", "LOCAL_RANK": "0", "NODE_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
            return names | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "6105"}
        if self.distribution_type == "Mpi":
            return {f"OMPI_COMM_WORLD_{name}": value for name, value in (("RANK", "0"), ("LOCAL_RANK", "0"), ("SIZE", "1"))}
        return {}


class CommandProperties(JobProperties):
    """``properties`` of a command job, 2025-01-01-preview."""

    command: str = Field(min_length=1)
    code_id: str | None = None
    environment_id: str
    environment_variables: Filled[dict[str, str]] = Field(default_factory=dict)
    distribution: Distribution | None = None
    autologger_settings: dict[str, Any] | None = None
    limits: Limits | None = None
    queue_settings: dict[str, Any] | None = None
    resources: Filled[Resources] = Resources()
    parameters: dict[str, Any] | None = None


def validate(azure: Azure, job: CommandProperties) -> None:
    """Check that a job can run.

    Raises:
        AzureFault: 400 or 404, the job is invalid; 501, the emulator doesn't implement it.
    """
    if job.limits and job.limits.timeout and job.limits.timeout_s is None:
        raise user_error(f"The time limit '{job.limits.timeout}' is not an ISO 8601 duration.")
    check_compute(azure, compute_name(job), job.compute_id)
    if not assets.has_environment(azure, job.environment_id):
        raise user_error(f"Environment {job.environment_id} not found.", "NotFound", "EnvironmentNotFound", status=404)
    if job.code_id:
        assets.code_folder(azure, job.code_id)
    for item in job.inputs.values():
        if isinstance(item, AssetInput) and not uris.is_remote(item.uri):
            uris.check_exists(azure, item.uri)
    for output in job.outputs.values():
        if output.uri:
            uris.resolve(azure, uris.datastore_uri("run", "output", output.uri))
    _check_references(job)


def compute_name(job: CommandProperties) -> str:
    """Return the name of the compute that a job runs on."""
    return (job.compute_id or SERVERLESS).rpartition("/")[2].removeprefix("azureml:")


async def run(worker: Worker, job: CommandProperties) -> None:
    """Run a job to its end.

    Raises:
        JobFailure: the process exited with a code other than 0.
        JobCanceled: the job has been canceled.
    """
    document = runstore.get(worker.azure, worker.name)
    assert document is not None
    await execute(worker, document, job)
    await runstore.set_status(worker.azure, worker.name, "Finalizing")
    register_outputs(worker.azure, worker.name, job.asset_names())


async def execute(worker: Worker, document: Document, job: CommandProperties) -> None:
    """Run the command of a job, or of a pipeline's node with the run ``document``. Raises as :func:`run`."""
    azure, name = worker.azure, document["name"]
    if is_virtual_cluster(job.compute_id):
        raise not_run(f"jobs on virtual clusters, such as {job.compute_id}")
    async with worker.nodes(name, compute_name(job), job.resources.instance_count):
        values = await _argument_values(worker, job, document)
        folder = _create_working_folder(azure, name, job)
        log = blobs.path(azure, blobs.ARTIFACTS, blobs.artifact(name, STD_LOG))
        log.parent.mkdir(parents=True, exist_ok=True)
        await runstore.set_status(azure, name, "Running")
        distribution = job.distribution.variables() if job.distribution else {}
        command = render_command(job.command, values)
        timeout_s = job.limits.timeout_s if job.limits else None
        own_python = create_overlay(folder.parent / "python")
        environment = job_environment(azure, document) | own_python | _argument_variables(values) | distribution | job.environment_variables
        words, preload = ["/bin/bash", "-c", command], None
        if (module := split_command(command, f"{own_python['VIRTUAL_ENV']}/bin/python")) and environment["PATH"] == own_python["PATH"]:
            # For a single command, the shell becomes it.
            words, preload = module, preload_for_job(job.environment_variables)
            environment |= {"PWD": str(folder), "SHLVL": "0", "_": module[0]}
        code = await worker.execute(
            words, run=name, compute_name=compute_name(job), cwd=folder, environment=environment, output=log, timeout_s=timeout_s,
            preload=preload,
        )  # fmt: skip
    if code != 0:
        raise JobFailure("UserError", describe_exit(command.split()[0], code, log), "UserProcessError")


def render_command(command: str, values: dict[str, dict[str, str]]) -> str:
    """Return the command with the values of inputs and outputs.

    An optional part ``$[[…]]`` is included only if all inputs in it have a value.
    """

    def render_optional(match: re.Match[str]) -> str:
        return match[1] if all(name in values[kind] for kind, name in REFERENCE.findall(match[1])) else ""

    return REFERENCE.sub(lambda match: values[match[1]][match[2]], OPTIONAL.sub(render_optional, command))


def _check_references(job: CommandProperties) -> None:
    required = OPTIONAL.sub("", job.command)
    for expression in EXPRESSION.findall(job.command):
        match = REFERENCE.fullmatch("${{" + expression + "}}")
        if match is None:
            raise _invalid_expression(expression, ". Only inputs and outputs of the job can be used in a command.")
        names = job.inputs if match[1] == "inputs" else job.outputs
        if match[2] not in names and match[0] in required:
            raise _invalid_expression(expression, f": the job has no {match[1]} of that name.")


def _invalid_expression(expression: str, reason: str) -> AzureFault:
    message = f"Invalid expression {expression.strip()}{reason}"
    return user_error(message, "BadArgument", "ArgumentInvalid", "InvalidExpressionInJob")


async def _argument_values(worker: Worker, job: CommandProperties, document: Document) -> dict[str, dict[str, str]]:
    """Return literals and local paths: ``{"inputs": {name: value}, "outputs": {name: value}}``."""
    values: dict[str, dict[str, str]] = {"inputs": {}, "outputs": {}}
    for name, item in job.inputs.items():
        if isinstance(item, AssetInput):
            values["inputs"][name] = str(await worker.unless_canceled(uris.materialize(worker.azure, item.uri)))
        elif item.value is not None:
            values["inputs"][name] = item.value
    for name, output in job.outputs.items():
        values["outputs"][name] = str(_create_output_path(worker.azure, document["outputs"][name]["uri"], output))
    return values


def _argument_variables(values: dict[str, dict[str, str]]) -> dict[str, str]:
    return {f"AZURE_ML_{kind[:-1].upper()}_{name}": value for kind in values for name, value in values[kind].items()}


def _create_output_path(azure: Azure, uri: str, output: Output) -> Path:
    path = uris.resolve(azure, uri)
    (path.parent if output.job_output_type == "uri_file" else path).mkdir(parents=True, exist_ok=True)
    return path


def _create_working_folder(azure: Azure, name: str, job: CommandProperties) -> Path:
    """Create a folder with the code; ``outputs/`` and ``logs/`` in it are links to the run's artifacts, as on Azure."""
    folder = azure.folder("jobs", name) / "wd"
    if job.code_id:
        code = assets.code_folder(azure, job.code_id)
        if not code.is_dir():
            raise JobFailure("UserError", f"The code of the job, {job.code_id}, has no files: nothing was uploaded.", "NotFound")
        shutil.copytree(code, folder)
    else:
        folder.mkdir()
    for artifacts in ("outputs", "logs"):
        target = blobs.path(azure, blobs.ARTIFACTS, blobs.artifact(name, artifacts))
        if not (folder / artifacts).exists():
            target.mkdir(parents=True, exist_ok=True)
            (folder / artifacts).symlink_to(target)
    (folder.parent / "command.json").write_text(json.dumps({"command": job.command}), encoding="utf-8")
    return folder
