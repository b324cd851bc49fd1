"""Jobs: submit, read, list, cancel. What they do lies in ``pipelines`` and ``commands``; how they are run, in ``supervisor``."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import jwt
from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse

from mlops.emulator.base.azure import Azure, arm_id
from mlops.emulator.base.errors import AzureFault, not_found, not_implemented, user_error
from mlops.emulator.base.store import Document
from mlops.emulator.history import runs, runstore
from mlops.emulator.identity import entra
from mlops.emulator.jobs import command_jobs, pipeline_jobs, scheduler
from mlops.emulator.jobs.command_jobs import CommandProperties
from mlops.emulator.jobs.pipeline_jobs import PipelineProperties
from mlops.emulator.jobs.scheduler import Worker
from mlops.emulator.wire import operations
from mlops.emulator.wire.app import WS, Answer, Route, body
from mlops.emulator.workspace import assets, uris

__all__ = ["ROUTES"]

VERSIONS = {"2023-02-01-preview", "2023-04-01-preview", "2024-01-01-preview", "2024-10-01-preview", "2025-01-01-preview"}
NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_-]{0,254}")
KINDS: dict[str, type[CommandProperties] | type[PipelineProperties]] = {"Command": CommandProperties, "Pipeline": PipelineProperties}
CHANGEABLE = {"displayName", "description", "tags", "properties", "isArchived", "services"}
"""What a second PUT may change."""
PAGE = 100
_submitting: dict[tuple[Path, str], asyncio.Lock] = {}
FILTERS = {"api-version", "listViewType", "tag", "jobType", "$skip"}


async def put_job(azure: Azure, request: Request) -> Answer:
    """Submit a job; the same name again changes name, description and tags of the job that there is."""
    name = request.path_params["job"]
    if not NAME.fullmatch(name):
        raise user_error(f"Job name '{name}' is invalid: letters, digits, '-' and '_', up to 255, a letter or a digit first.")
    job, given = await _read(request)
    if isinstance(job, PipelineProperties):
        _check_user_token(azure, request)
    # A client that gives up waiting sends the same again, and must not get a second job.
    async with _submitting.setdefault((azure.state, name), asyncio.Lock()):
        if (known := runstore.get(azure, name)) is not None:
            return await _change(azure, known, given)
        await _submit(azure, name, job, given)
    return JSONResponse(_resource(azure, _known(azure, name)), status_code=201)


async def _submit(azure: Azure, name: str, job: CommandProperties | PipelineProperties, given: Document) -> None:
    if isinstance(job, CommandProperties):
        command_jobs.check(azure, job)
        target, nodes, work = command_jobs.compute_name(job), job.resources.instance_count, _bind(command_jobs.run, job)
        outputs = {
            output: {"type": wanted.job_output_type, "uri": wanted.uri or uris.datastore_uri(name, output)}
            for output, wanted in job.outputs.items()
        }
    else:
        pipeline_jobs.check(azure, job)
        target, nodes, work, outputs = None, 1, _bind(pipeline_jobs.run, job), pipeline_jobs.outputs(job, name)
    await runstore.create(
        azure,
        name,
        job.experiment_name,
        kind="job",
        job=given,
        display_name=job.display_name or name,
        description=job.description,
        tags=dict(job.tags),
        properties=job.properties | _system_properties(job),
        compute=target,
        nodes=nodes,
        outputs=outputs,
        hidden=job.is_archived,
    )
    scheduler.submit(azure, name, work)


async def get_job(azure: Azure, request: Request) -> Answer:
    """One job. A step of a pipeline has no properties here: clients read those from run history."""
    runstore.seen(azure, request.path_params["job"])
    return _resource(azure, _known(azure, request.path_params["job"]))


async def list_jobs(azure: Azure, request: Request) -> Answer:
    """Jobs, newest first, page by page; filtered by kind and by tag (``key`` or ``key=value``)."""
    query = request.query_params
    if unknown := sorted(set(query) - FILTERS):
        raise not_implemented(f"listing jobs by {', '.join(unknown)}")
    view = query.get("listViewType", "ActiveOnly").lower()
    if view not in ("activeonly", "archivedonly", "all"):
        raise user_error(f"listViewType must be ActiveOnly, ArchivedOnly or All, not '{view}'.")
    tag, equals, value = query.get("tag", "").partition("=")
    found = [
        run
        for run in reversed(runstore.everything(azure))
        if run["kind"] == "job"
        and (view == "all" or run["hidden"] == (view == "archivedonly"))
        and ("jobType" not in query or run["job"]["jobType"].lower() == query["jobType"].lower())
        and (not tag or (tag in run["tags"] and (not equals or run["tags"][tag] == value)))
    ]
    begin = int(query.get("$skip", "0"))
    end = begin + PAGE
    following = str(request.url.include_query_params(**{"$skip": end})) if end < len(found) else None
    return {"value": [_resource(azure, run) for run in found[begin:end]], "nextLink": following}


async def cancel_job(azure: Azure, request: Request) -> Answer:
    """Ask a job to end. Accepted at once; the operation succeeds when it has ended."""
    name = request.path_params["job"]
    run = _known(azure, name)
    if run["kind"] != "job":
        raise user_error(f"The step {name} can't be canceled: cancel its pipeline {run['root']}.")
    if scheduler.ended(azure, name):
        kind = "pipeline run" if run["job"]["jobType"] == "Pipeline" else "run"
        raise user_error(
            f"The {kind} {name} is in terminal status, it can't be canceled.",
            "BadArgument", "ArgumentInvalid", "CancelPipelineRunInTerminalStatus",
        )  # fmt: skip
    path = operations.start(azure, "mfeOperationsStatus", "jc:", scheduler.cancel(azure, name), subject=name)
    version = request.query_params["api-version"]
    return operations.accepted(202, path, version, None)


async def _read(request: Request) -> tuple[CommandProperties | PipelineProperties, Document]:
    given = (await body(request)).get("properties")
    if not isinstance(given, dict):
        raise user_error("The request is invalid: properties is missing.")
    kind = str(given.get("jobType"))
    if kind not in KINDS:
        raise not_implemented(f"jobs of type {kind}: it runs {' and '.join(KINDS)} jobs")
    try:
        return KINDS[kind].model_validate(given), given
    except ValidationError as problem:
        found = "; ".join(f"{'.'.join(map(str, error['loc']))}: {error['msg']}" for error in problem.errors())
        raise user_error(f"The request is invalid: {found}") from None


async def _change(azure: Azure, known: Document, given: Document) -> Answer:
    name = known["name"]
    if known["kind"] != "job":
        raise user_error(f"Job {name} can't be changed: it is a part of {known['root']}.")
    for field in sorted((given.keys() | known["job"].keys()) - CHANGEABLE):
        if given.get(field) != known["job"].get(field):
            raise user_error(
                f'Failed to update job {name} since field "{field}" is immutable, try specifying a new name.',
                "BadArgument", "ArgumentInvalid", "UpdateJobFailed",
            )  # fmt: skip
    with runstore.change(azure, name) as document:
        document["display_name"] = given.get("displayName") or document["display_name"]
        document["description"] = given.get("description") or document["description"]
        document["hidden"] = given.get("isArchived", document["hidden"])
        document["tags"] = given.get("tags") or document["tags"]
        document["properties"] |= given.get("properties") or {}
    await runstore.tell_tags(azure, name, given.get("tags") or {}, given.get("displayName"))
    return _resource(azure, _known(azure, name))


def _bind(work: Any, job: Any) -> Any:
    async def bound(worker: Worker) -> None:
        await work(worker, job)

    return bound


def _check_user_token(azure: Azure, request: Request) -> None:
    """The user's own token, which pipelines are submitted with."""
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


def _known(azure: Azure, name: str) -> Document:
    run = runstore.get(azure, name)
    if run is None or run["kind"] == "mlflow":
        raise not_found(f"Job {name} not found.", "NotFound", "JobNotFound")
    return run


def _system_properties(job: CommandProperties | PipelineProperties) -> dict[str, str]:
    if isinstance(job, CommandProperties):
        return {"_azureml.ComputeTargetType": "amlctrain", "azureml.DevPlatv2": "true", "ContentSnapshotId": job.code_id or ""}
    return {
        "azureml.DevPlatv2": "true",
        "azureml.runsource": "azureml.PipelineRun",
        "runSource": "MFE",
        "runType": "HTTP",
        "azureml.parameters": json.dumps({name: getattr(given, "value", None) for name, given in job.inputs.items()}),
        "azureml.continue_on_step_failure": str(job.settings.continue_on_step_failure),
        "azureml.continue_on_failed_optional_input": "True",
        "azureml.defaultComputeName": job.settings.default_compute or "",
        "azureml.defaultDataStoreName": job.settings.default_datastore or "workspaceblobstore",
        "azureml.pipelineComponent": "pipelinerun",
    }


def _resource(azure: Azure, run: Document) -> dict[str, Any]:
    author = {"createdAt": run["created"], "createdBy": azure.identity.client, "createdByType": "Application"}
    told: dict[str, Any] = {
        "id": arm_id(azure, "jobs", run["name"]),
        "name": run["name"],
        "type": "Microsoft.MachineLearningServices/workspaces/jobs",
        "properties": None,
        "systemData": author,
    }
    if run["job"] is None:
        return told
    outputs = {
        name: {"description": None}
        | dict(wanted)
        | {"uri": run["outputs"][name]["uri"] if run["status"] == "Completed" else wanted.get("uri")}
        for name, wanted in (run["job"].get("outputs") or {}).items()
    }
    told["properties"] = {"inputs": {}, "description": None, "computeId": None} | run["job"] | {
        "displayName": run["display_name"],
        "description": run["description"],
        "experimentName": run["experiment"],
        "status": run["status"],
        "tags": run["tags"],
        "properties": run["properties"],
        "isArchived": run["hidden"],
        "services": runs.services(azure, run),
        "outputs": outputs,
    }  # fmt: skip
    return told


_JOB = WS + "/jobs/{job}"
ROUTES = [
    Route("arm", "GET", WS + "/jobs", list_jobs, VERSIONS),
    Route("arm", "PUT", _JOB, put_job, VERSIONS),
    Route("arm", "GET", _JOB, get_job, VERSIONS),
    Route("arm", "POST", _JOB + "/cancel", cancel_job, VERSIONS),
    *assets.ROUTES,
]
