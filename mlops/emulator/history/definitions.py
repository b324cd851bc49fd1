"""Definitions of runs in run history: of a pipeline in PascalCase, of a command as the run configuration that the compute reads.

Shapes and constants follow recorded traffic. An environment has its name and Azure's defaults, but not its image.
"""

from __future__ import annotations

import re
from typing import Any

from mlops.emulator.base.store import Document

__all__ = ["of_run"]

REFERENCE = re.compile(r"\$\{\{\s*(inputs|outputs)\.([^}\s]+)\s*\}\}")
TYPES = {"uri_file": "UriFile", "uri_folder": "UriFolder", "mltable": "MLTable"}
NUMBERS = {"uri_folder": 3, "ReadWriteMount": 0}
"""Enumerations that are numbers in a pipeline's definition. Only the numbers that were recorded are known; other values stay names."""
COMMUNICATORS = {"Mpi": "Mpi", "PyTorch": "Nccl", "TensorFlow": "ParameterServer"}
OUTPUT = ("Uri", "AssetName", "AssetVersion", "Description")
OUTPUT_BINDING = ("DatastoreId", "PathOnDatastore", "PathOnCompute", "AssetUri", *OUTPUT)
"""Fields of a pipeline's outputs that are null if the job doesn't set them."""
UNUSED: Document = {
    "script": None,
    "useAbsolutePath": False,
    "arguments": [],
    "sourceDirectoryDataStore": None,
    "framework": "Python",
    "dataReferences": {},
    "datacaches": [],
    "jobName": None,
    "instanceTypes": [],
    "priority": None,
    "credentialPassthrough": False,
    "history": {"outputCollection": True, "directoriesToWatch": ["logs"], "enableMLflowTracking": False},
    "spark": {"configuration": {}},
    "parallelTask": {"maxRetriesPerWorker": 0, "workerCountPerNode": 1, "terminalExitCodes": None, "configuration": {}},
    "aiSuperComputer": {
        "instanceType": "D2", "imageVersion": "pytorch-1.7.0", "location": None, "aiSuperComputerStorageData": None, "interactive": False,
        "scalePolicy": None, "virtualClusterArmId": None, "tensorboardLogDirectory": None, "sshPublicKey": None, "sshPublicKeys": None,
        "enableAzmlInt": True, "priority": "Medium", "slaTier": "Standard", "userAlias": None,
    },
    "kubernetesCompute": {"instanceType": None},
    "hdi": {"yarnDeployMode": "None"},
    "containerInstance": {"region": None, "cpuCores": 2.0, "memoryGb": 3.5},
    "exposedPorts": None,
    "cmk8sCompute": {"configuration": {}},
    "globalJobDispatcher": {"myResourceOnly": False, "lowPriorityVMTolerant": True},
    "commandReturnCodeConfig": {"returnCode": "Zero", "successfulReturnCodes": []},
    "applicationEndpoints": {},
    "parameters": [],
    "dataBricks": {
        "workers": 0, "minimumWorkerCount": 0, "maxMumWorkerCount": 0, "sparkVersion": "4.0.x-scala2.11", "nodeTypeId": "Standard_D3_v2",
        "sparkConf": {}, "sparkEnvVars": {}, "instancePoolId": None, "timeoutSeconds": 0, "jarLibraries": [], "eggLibraries": [],
        "whlLibraries": [], "pypiLibraries": [], "rCranLibraries": [], "mavenLibraries": [], "linkedADBWorkspaceMetadata": None,
        "databrickResourceId": None, "autoScale": False,
    },
}  # fmt: skip
"""Fields of a run configuration for features that no job of the emulator uses."""


def of_run(run: Document) -> Document | None:
    """Return the definition of a run, or None for the run of an MLflow client."""
    if run["kind"] == "mlflow":
        return None
    job = run["job"] or run.get("command") or {}
    return _pipeline(run, job) if job.get("jobType") == "Pipeline" else _configuration(run, job)


def _pipeline(run: Document, job: Document) -> Document:
    inputs = {name: _pascal(item) for name, item in (job.get("inputs") or {}).items()}
    outputs = {name: _pascal({"mode": "ReadWriteMount"} | item) for name, item in (job.get("outputs") or {}).items()}
    return {
        "JobType": "Pipeline",
        "PipelineJobType": "AzureML",
        "Pipeline": None,
        "ComputeId": job.get("computeId"),
        "RunId": None,
        "Settings": job.get("settings") or {},
        "ComponentJobs": None,
        "Inputs": inputs,
        "Outputs": {name: dict.fromkeys(OUTPUT) | _number(item, "JobOutputType", "Mode") for name, item in outputs.items()},
        "Bindings": None,
        "Jobs": job.get("jobs") or {},
        "InputBindings": inputs,
        "OutputBindings": {
            name: dict.fromkeys(OUTPUT_BINDING) | {"IsAssetJobOutput": True} | _number(item, "JobOutputType")
            for name, item in outputs.items()
        },
        "SourceJobId": job.get("sourceJobId"),
        "ProvisioningState": "Succeeded",
        "ParentJobName": None,
        "DisplayName": run["display_name"],
        "ExperimentName": run["experiment"],
        "Status": "NotStarted",
        "InteractionEndpoints": None,
        "Identity": job.get("identity"),
        "Compute": None,
        "Priority": None,
        "Output": None,
        "IsArchived": run["hidden"],
        "Schedule": None,
        "ComponentId": job.get("componentId"),
        "NotificationSetting": job.get("notificationSetting"),
        "SecretsConfiguration": job.get("secretsConfiguration"),
        "Description": run["description"],
        "Tags": job.get("tags") or {},
        "Properties": job.get("properties") or {},
    }


def _pascal(item: Document) -> Document:
    return {key[:1].upper() + key[1:]: value for key, value in item.items()}


def _number(item: Document, *names: str) -> Document:
    return item | {name: NUMBERS.get(item[name], item[name]) for name in names}


def _configuration(run: Document, job: Document) -> Document:
    inputs = {name: item for name, item in (job.get("inputs") or {}).items() if item["jobInputType"] != "literal"}
    literals = {name: item.get("value") for name, item in (job.get("inputs") or {}).items() if name not in inputs}
    resources, distribution = job.get("resources") or {}, job.get("distribution") or {}
    kind, processes = distribution.get("distributionType", ""), distribution.get("processCountPerInstance")

    def render(match: re.Match[str]) -> str:
        kind, name = match.groups()
        if kind == "outputs":
            return f"DatasetOutputConfig:{name}"
        return str(literals[name]) if name in literals else f"DatasetConsumptionConfig:{name}"

    parameters = {f"AZUREML_PARAMETER_{name}": str(value) for name, value in literals.items() if value is not None}
    count = {"AZUREML_PARAMETER_Node_Count": str(run["nodes"])} if run["kind"] == "step" else {}
    outputs = job.get("outputs") or {}
    return UNUSED | {
        "command": REFERENCE.sub(render, job["command"]) if "command" in job else None,
        "communicator": COMMUNICATORS.get(kind, "None"),
        "target": run["compute"],
        "data": {name: _data(name, item) for name, item in inputs.items()},
        "outputData": {name: _output_data(name, item, outputs.get(name) or {}) for name, item in run["outputs"].items()},
        "maxRunDurationSeconds": None,
        "nodeCount": run["nodes"],
        "identity": job.get("identity"),
        "environment": _environment(job.get("environmentId") or ""),
        "amlCompute": {"name": None, "vmSize": resources.get("instanceType"), "retainCluster": False, "clusterMaxNodeCount": run["nodes"]},
        "tensorflow": {
            "workerCount": distribution.get("workerCount") or 0,
            "parameterServerCount": distribution.get("parameterServerCount") or 0,
        },
        "mpi": {"processCountPerNode": processes or 1},
        "pyTorch": {"communicationBackend": None, "processCount": processes if kind == "PyTorch" else None},
        "docker": {"useDocker": True, "sharedVolumes": True, "shmSize": resources.get("shmSize") or "2g", "arguments": []},
        "environmentVariables": count | parameters | (job.get("environmentVariables") or {}),
        "componentConfiguration": {"componentIdentifier": run["properties"].get("azureml.moduleid") or job.get("componentId")},
    }


def _data(name: str, item: Document) -> Document:
    return {
        "dataLocation": _location(item["uri"], item["jobInputType"]),
        "mechanism": _mechanism(item),
        "environmentVariableName": f"AZURE_ML_INPUT_{name}",
        "createOutputDirectories": False,
        "pathOnCompute": item.get("pathOnCompute"),
        "overwrite": False,
        "options": None,
    }


def _output_data(name: str, location: Document, item: Document) -> Document:
    registration = dict.fromkeys(("name", "description", "tags")) | {"datasetRegistrationOptions": None}
    return {
        "outputLocation": _location(location["uri"], location["type"]),
        "mechanism": _mechanism(item),
        "additionalOptions": {
            "pathOnCompute": item.get("pathOnCompute"),
            "registrationOptions": registration | {"name": item.get("assetName")},
            "uploadOptions": None,
            "mountOptions": None,
        },
        "environmentVariableName": f"AZURE_ML_OUTPUT_{name}",
    }


def _mechanism(item: Document) -> str:
    mode: str = item.get("mode") or "Mount"
    return "Mount" if mode.endswith("Mount") else mode


def _location(uri: str, kind: str) -> Document:
    return {"dataset": None, "dataPath": None, "uri": {"path": uri, "isFile": kind == "uri_file"}, "type": TYPES.get(kind, kind)}


def _environment(asset: str) -> dict[str, Any]:
    match = re.search(r"environments/([^/]+)/versions/([^/]+)", asset) or re.fullmatch(r"azureml:([^:]+):(.+)", asset)
    name, version = match.groups() if match else (None, None)
    return {
        "name": name,
        "version": version,
        "assetId": asset or None,
        "autoRebuild": True,
        "python": {
            "interpreterPath": "python",
            "userManagedDependencies": True,
            "condaDependencies": {
                "name": "project_environment",
                "dependencies": ["python=3.6.2", {"pip": ["azureml-defaults"]}],
                "channels": ["anaconda", "conda-forge"],
            },
            "baseCondaEnvironment": None,
        },
        "environmentVariables": {"EXAMPLE_ENV_VAR": "EXAMPLE_VALUE"},
        "docker": {
            "baseImage": None,
            "platform": {"os": "Linux", "architecture": "amd64"},
            "baseDockerfile": None,
            "baseImageRegistry": dict.fromkeys(("address", "username", "password")),
            "enabled": False,
            "arguments": [],
        },
        "spark": {"repositories": [], "packages": [], "precachePackages": True},
        "inferencingStackVersion": None,
    }
