"""Common code for the steps of pipelines: properties, tags and final status of their runs, and the pipeline's execution log."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Mapping

from mlops.emulator.base.azure import Azure
from mlops.emulator.base.clock import now
from mlops.emulator.base.errors import AzureFault
from mlops.emulator.base.store import Document
from mlops.emulator.history import runstore
from mlops.emulator.jobs.scheduler import JobCanceled, JobFailure, error_object
from mlops.emulator.storage import blobs

__all__ = ["ExecutionLog", "link_outputs", "record_stages", "record_status", "step_properties", "step_tags"]

EXECUTION_LOG = "logs/azureml/executionlogs.txt"
CHILD_FAILED = "Pipeline has failed child jobs. For more details and logs, please go to the job detail page and check the child jobs."
"""What the service says of a pipeline, before the names of the nodes that have failed."""


class ExecutionLog:
    """``logs/azureml/executionlogs.txt``, the log that ``jobs.stream`` prints for a pipeline."""

    def __init__(self, azure: Azure, name: str) -> None:
        self._path = blobs.path(azure, blobs.ARTIFACTS, blobs.artifact(name, EXECUTION_LOG))
        self._path.parent.mkdir(parents=True, exist_ok=True)
        for other in ("stderrlogs.txt", "stdoutlogs.txt"):
            (self._path.parent / other).touch()

    def write(self, text: str) -> None:
        """Append a line."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(f"[{now()[:19].replace('T', ' ')}Z] {text}\n")


def step_properties(step: str, pipeline: str, component: str, name: str, version: str) -> dict[str, str]:
    """Return the properties of a step's run.

    Args:
        step: name of the step's run.
        pipeline: name of the pipeline's run.
        component: id of the component.
        name: its name.
        version: its version.
    """
    return {
        "azureml.DevPlatv2": "true",
        "azureml.DatasetAccessMode": "Asset",
        "ContentSnapshotId": "",
        "StepType": "PythonScriptStep",
        "ComputeTargetType": "AmlCompute",
        "azureml.moduleid": component,
        "azureml.moduleName": name,
        "azureml.moduleVersion": version,
        "azureml.runsource": "azureml.StepRun",
        "azureml.nodeid": step[:8],
        "azureml.pipelinerunid": pipeline,
        "azureml.pipeline": pipeline,
        "azureml.pipelineComponent": "masterescloud",
        "_azureml.ComputeTargetType": "amlctrain",
        "ProcessInfoFile": "azureml-logs/process_info.json",
        "ProcessStatusFile": "azureml-logs/process_status.json",
    }


def step_tags(step: str, pipeline: str) -> dict[str, str]:
    """Return the tags that the service gives to a step's run."""
    target = {"AllocationState": "steady", "PreparingNodeCount": 0, "RunningNodeCount": 1, "CurrentNodeCount": 1}
    return {
        "azureml.nodeid": step[:8],
        "azureml.pipeline": pipeline,
        "_aml_system_ComputeTargetStatus": json.dumps(target, separators=(",", ":")),
    }


@contextlib.asynccontextmanager
async def record_status(azure: Azure, step: str) -> AsyncIterator[None]:
    """Record that the run of a step begins, and how it ends. If a request of the step is refused, the step fails.

    Raises:
        JobCanceled: the job was canceled.
        JobFailure: the step has failed.
    """
    try:
        await runstore.set_status(azure, step, "Preparing")
        yield
        await runstore.set_status(azure, step, "Finalizing")
    except JobCanceled:
        await runstore.set_status(azure, step, "Canceled")
        raise
    except (AzureFault, JobFailure) as problem:
        failure = problem if isinstance(problem, JobFailure) else JobFailure("UserError", problem.message, *problem.inner)
        await runstore.set_status(azure, step, "Failed", error_object(failure))
        raise failure from problem
    await runstore.set_status(azure, step, "Completed")


def link_outputs(azure: Azure, pipeline: str, step: Document, bindings: Mapping[str, str]) -> None:
    """Record which outputs of a pipeline a step writes: ``bindings`` maps an output of the step to one of the pipeline."""
    with runstore.change(azure, pipeline) as document:
        for output, name in bindings.items():
            # What a node writes that is a pipeline, is an output of a node of that pipeline.
            document["outputs"][name] = {"run": step["name"], "output": output} | step["outputs"][output]


def record_stages(azure: Azure, name: str) -> None:
    """Record in the properties of a pipeline when it ran."""
    with runstore.change(azure, name) as document:
        stages = {"Initialization": None, "Execution": {"StartTime": document["start"], "EndTime": now(), "Status": "Finished"}}
        document["properties"]["azureml.pipelines.stages"] = json.dumps(stages)
