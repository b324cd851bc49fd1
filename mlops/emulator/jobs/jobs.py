"""The resource ``jobs``: submit, read, list, cancel. Each kind of job has its own module; ``scheduler`` runs them."""

from __future__ import annotations

import asyncio
import functools
import json
import re

import jwt
from starlette.requests import Request

from mlops.emulator.base.azure import Azure
from mlops.emulator.base.errors import AzureFault, not_found, not_implemented, user_error
from mlops.emulator.base.store import Document
from mlops.emulator.history import runstore
from mlops.emulator.identity import entra
from mlops.emulator.jobs import command_jobs, pipeline_jobs, resource, scheduler
from mlops.emulator.jobs.body import LiteralInput
from mlops.emulator.jobs.command_jobs import CommandProperties
from mlops.emulator.jobs.pipeline_jobs import PipelineProperties
from mlops.emulator.wire import limits, operations
from mlops.emulator.wire.app import WS, Answer, Route, read_json
from mlops.emulator.wire.resources import put_response, validate_body
from mlops.emulator.wire.versions import published_since
from mlops.emulator.workspace.datastores import BLOB_STORE

__all__ = ["ROUTES"]

VERSIONS = published_since("2022-02-01-preview")
NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_-]{0,254}")
KINDS: dict[str, type[CommandProperties] | type[PipelineProperties]] = {"Command": CommandProperties, "Pipeline": PipelineProperties}
MUTABLE_FIELDS = {"displayName", "description", "tags", "properties", "isArchived", "services", "status"}
"""Fields that a second PUT may change."""
PAGE_SIZE = 100
LIST_PARAMETERS = {"api-version", "listViewType", "tag", "jobType", "$skip"}


class _Submissions:
    """A lock for each job name."""

    def __init__(self) -> None:
        self.locks: dict[str, asyncio.Lock] = {}


async def put_job(azure: Azure, request: Request) -> Answer:
    """Submit a job. If a job of that name exists, change its display name, description and tags."""
    name = request.path_params["job"]
    if not NAME.fullmatch(name):
        raise user_error(f"Job name '{name}' is invalid: letters, digits, '-' and '_', up to 255, a letter or a digit first.")
    job, properties = await _parse_body(request)
    if isinstance(job, PipelineProperties):
        _check_user_token(azure, request)
    # A client that times out repeats its request, which must not start a second job.
    async with azure.services.get(_Submissions).locks.setdefault(name, asyncio.Lock()):
        if (existing := runstore.get(azure, name)) is not None:
            return await _update(azure, existing, properties)
        await _submit(azure, name, job, properties)
    return put_response(request, resource.render(azure, _get_existing(azure, name)), is_new=True)


async def get_job(azure: Azure, request: Request) -> Answer:
    """Return one job. A step of a pipeline has no properties here: clients read those from run history."""
    runstore.get_for_client(azure, request.path_params["job"])
    return resource.render(azure, _get_existing(azure, request.path_params["job"]))


async def list_jobs(azure: Azure, request: Request) -> Answer:
    """List jobs page by page, newest first, filtered by kind and by tag (``key`` or ``key=value``)."""
    query = request.query_params
    if unsupported := sorted(set(query) - LIST_PARAMETERS):
        raise not_implemented(f"listing jobs by {', '.join(unsupported)}")
    view = query.get("listViewType", "ActiveOnly").lower()
    if view not in ("activeonly", "archivedonly", "all"):
        raise user_error(f"listViewType must be ActiveOnly, ArchivedOnly or All, not '{view}'.")
    tag, equals, value = query.get("tag", "").partition("=")
    jobs = [
        run
        for run in reversed(runstore.list_all(azure))
        if run["kind"] == "job"
        and (view == "all" or run["hidden"] == (view == "archivedonly"))
        and ("jobType" not in query or run["job"]["jobType"].lower() == query["jobType"].lower())
        and (not tag or (tag in _tags(run) and (not equals or _tags(run)[tag] == value)))
    ]
    begin = int(query.get("$skip", "0"))
    end = begin + PAGE_SIZE
    next_link = str(request.url.include_query_params(**{"$skip": end})) if end < len(jobs) else None
    return {"value": [resource.render(azure, run) for run in jobs[begin:end]], "nextLink": next_link}


async def cancel_job(azure: Azure, request: Request) -> Answer:
    """Cancel a job. The request is accepted immediately; the operation succeeds when the job has ended."""
    name = request.path_params["job"]
    run = _get_existing(azure, name)
    if run["kind"] != "job":
        raise user_error(f"The step {name} can't be canceled: cancel its pipeline {run['root']}.")
    if scheduler.is_finished(azure, name):
        kind = "pipeline run" if run["job"]["jobType"] == "Pipeline" else "run"
        raise user_error(
            f"The {kind} {name} is in terminal status, it can't be canceled.",
            "BadArgument", "ArgumentInvalid", "CancelPipelineRunInTerminalStatus",
        )  # fmt: skip
    return operations.start_cancellation(azure, request, scheduler.cancel(azure, name), name)


async def _parse_body(request: Request) -> tuple[CommandProperties | PipelineProperties, Document]:
    properties = (await read_json(request)).get("properties")
    if not isinstance(properties, dict):
        raise user_error("The request is invalid: properties is missing.")
    kind = str(properties.get("jobType"))
    if kind not in KINDS:
        raise not_implemented(f"jobs of type {kind}, only {' and '.join(KINDS)} jobs")
    return validate_body(properties, KINDS[kind]), properties


async def _submit(azure: Azure, name: str, job: CommandProperties | PipelineProperties, properties: Document) -> None:
    if problem := limits.check_run_tags(job.tags):
        raise user_error(problem)
    if isinstance(job, CommandProperties):
        command_jobs.validate(azure, job)
        target, nodes, work = command_jobs.compute_name(job), job.resources.instance_count, functools.partial(command_jobs.run, job=job)
    else:
        pipeline_jobs.validate(azure, job)
        target, nodes, work = None, 1, functools.partial(pipeline_jobs.run, job=job)
    await runstore.create(
        azure,
        name,
        job.experiment_name,
        kind="job",
        status="Starting" if isinstance(job, CommandProperties) else "Preparing",
        job=properties,
        display_name=job.display_name or name,
        description=job.description,
        tags=dict(job.tags),
        properties=job.properties | _system_properties(job),
        compute=target,
        nodes=nodes,
        outputs=job.output_locations(name),
        hidden=job.is_archived,
    )
    scheduler.submit(azure, name, work)


async def _update(azure: Azure, run: Document, properties: Document) -> Answer:
    name = run["name"]
    if run["kind"] != "job":
        raise user_error(f"Job {name} can't be changed: it is a part of {run['root']}.")
    if field := resource.find_change(azure, run, properties, MUTABLE_FIELDS):
        raise user_error(
            f'Failed to update job {name} since field "{field}" is immutable, try specifying a new name.',
            "BadArgument", "ArgumentInvalid", "UpdateJobFailed",
        )  # fmt: skip
    with runstore.change(azure, name) as document:
        document["display_name"] = properties.get("displayName") or document["display_name"]
        document["description"] = properties.get("description") or document["description"]
        document["hidden"] = properties.get("isArchived", document["hidden"])
        # Not the run's tags: those are copied when the job is created, and belong to MLflow from then on.
        document["job"]["tags"] = properties.get("tags") or _tags(document)
        document["properties"] |= properties.get("properties") or {}
    await runstore.send_tags(azure, name, {}, properties.get("displayName"))
    return resource.render(azure, _get_existing(azure, name))


def _check_user_token(azure: Azure, request: Request) -> None:
    """Check the user's own token, which a client sends with a pipeline job."""
    token = request.headers.get("x-azureml-token", "")
    try:
        jwt.decode(token, azure.identity.token_key, algorithms=["HS256"], audience=entra.ML)
    except jwt.InvalidTokenError as problem:
        raise AzureFault(
            401,
            "UserError",
            f"The header x-azureml-token does not hold a valid token for the audience {entra.ML}: {problem}.",
            inner=("Unauthorized", "InvalidToken"),
        ) from None


def _get_existing(azure: Azure, name: str) -> Document:
    run = runstore.get(azure, name)
    if run is None or run["kind"] == "mlflow":
        raise not_found(f"Job {name} not found.", "NotFound", "JobNotFound")
    return run


def _tags(run: Document) -> dict[str, str]:
    """Return the tags of the job, which are another store than the tags of its run."""
    return run["job"].get("tags") or {}


def _system_properties(job: CommandProperties | PipelineProperties) -> dict[str, str]:
    if isinstance(job, CommandProperties):
        return {"_azureml.ComputeTargetType": "amlctrain", "azureml.DevPlatv2": "true", "ContentSnapshotId": job.code_id or ""}
    settings = job.settings
    default = settings.default_compute or job.compute_id
    source = {"azureml.SourceComponentId": job.component_id} if job.component_id else {}
    return (
        source
        | {
            "azureml.DevPlatv2": "true",
            "azureml.DatasetAccessMode": "Asset",
            "azureml.runsource": "azureml.PipelineRun",
            "runSource": "MFE",
            "runType": "HTTP",
            "azureml.parameters": json.dumps(
                {name: item.value for name, item in job.inputs.items() if isinstance(item, LiteralInput)}, separators=(",", ":")
            ),
            "azureml.continue_on_step_failure": str(settings.continue_on_step_failure is not False),
            "azureml.continue_on_failed_optional_input": "True",
            "azureml.enforceRerun": str(settings.force_rerun),
            "azureml.defaultDataStoreName": settings.default_datastore or BLOB_STORE,
            "azureml.pipelineComponent": "pipelinerun",
        }
        | ({"azureml.defaultComputeName": default.rpartition("/")[2]} if default else {})
    )


_JOB = WS + "/jobs/{job}"
ROUTES = [
    Route("arm", "GET", WS + "/jobs", list_jobs, VERSIONS),
    Route("arm", "PUT", _JOB, put_job, VERSIONS),
    Route("arm", "GET", _JOB, get_job, VERSIONS),
    Route("arm", "POST", _JOB + "/cancel", cancel_job, VERSIONS),
]
