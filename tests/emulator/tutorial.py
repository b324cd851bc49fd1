"""Fine-tune a chat model on Azure Machine Learning, deploy it, and send it a question.

    python tutorial.py train_sft.jsonl test_sft.jsonl test_gen.jsonl

The steps of Microsoft's chat-completion fine-tuning sample, as one script. It needs AZURE_SUBSCRIPTION_ID, AZUREML_RESOURCE_GROUP and
AZUREML_WORKSPACE, and a credential for DefaultAzureCredential.
"""

from __future__ import annotations

import ast
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import mlflow
from azure.ai.ml import Input, MLClient
from azure.ai.ml.constants import AssetTypes
from azure.ai.ml.dsl import pipeline
from azure.ai.ml.entities import AmlCompute, ManagedOnlineDeployment, ManagedOnlineEndpoint, Model, OnlineRequestSettings, ProbeSettings
from azure.core.exceptions import ResourceNotFoundError
from azure.identity import DefaultAzureCredential

EXPERIMENT = "chat_completion_ultrachat"
CLUSTER = "gpu-cluster-big"
CLUSTER_SIZE = "Standard_NC24ads_A100_v4"
SERVING_SIZE = "Standard_NC6s_v3"
STAMP = str(int(time.time()))


def sign_in() -> tuple[MLClient, MLClient, DefaultAzureCredential]:
    """Return clients of the workspace and of the registry with the base models."""
    credential = DefaultAzureCredential()
    credential.get_token("https://management.azure.com/.default")
    subscription, group = os.environ["AZURE_SUBSCRIPTION_ID"], os.environ["AZUREML_RESOURCE_GROUP"]
    workspace = MLClient(
        credential, subscription_id=subscription, resource_group_name=group, workspace_name=os.environ["AZUREML_WORKSPACE"]
    )
    return workspace, MLClient(credential, registry_name="azureml"), credential


def ensure_cluster(client: MLClient) -> AmlCompute:
    """Return the training cluster, creating it if necessary."""
    try:
        cluster = client.compute.get(CLUSTER)
    except ResourceNotFoundError:
        settings = {"name": CLUSTER, "size": CLUSTER_SIZE, "max_instances": 2}
        try:
            cluster = client.compute.begin_create_or_update(AmlCompute(tier="Dedicated", **settings)).result()
        except Exception as problem:
            print("no dedicated nodes:", problem)
            cluster = client.compute.begin_create_or_update(AmlCompute(tier="LowPriority", **settings)).result()
    if cluster.provisioning_state.lower() == "failed":
        raise ValueError(f"{CLUSTER} could not be provisioned")
    return cluster


def check_cluster(cluster: AmlCompute, base: Model) -> None:
    """Check that the base model can be fine-tuned on the cluster's VM size."""
    if "finetune_compute_allow_list" in base.tags:
        allowed = [size.lower() for size in ast.literal_eval(base.tags["finetune_compute_allow_list"])]
        if cluster.size.lower() not in allowed:
            raise ValueError(f"{cluster.size} is not one of {allowed}")
    elif cluster.size.lower() in ("standard_nc6", "standard_nc12", "standard_nc24", "standard_nc24r"):
        raise ValueError(f"{cluster.size} is too old for fine-tuning")


def gpus_per_node(client: MLClient, cluster: AmlCompute) -> int:
    """Return the number of GPUs of one node."""
    for size in client.compute.list_sizes():
        if size.name.lower() == cluster.size.lower():
            return int(size.gpus)
    raise ValueError(f"the region has no {cluster.size}")


def choose_parameters(base: Model) -> dict[str, Any]:
    """Return the training parameters: our own, and the defaults of the model's publisher."""
    chosen: dict[str, Any] = {
        "num_train_epochs": 3,
        "per_device_train_batch_size": 1,
        "per_device_eval_batch_size": 1,
        "learning_rate": 5e-6,
        "lr_scheduler_type": "cosine",
        "apply_lora": "true",
        "apply_deepspeed": "true",
        "deepspeed_stage": 2,
    }
    if "model_specific_defaults" in base.tags:
        chosen.update(ast.literal_eval(base.tags["model_specific_defaults"]))
    return chosen


def train(client: MLClient, registry: MLClient, base: Model, files: list[str]) -> Any:
    """Run the fine-tuning pipeline and return the finished job."""
    cluster = ensure_cluster(client)
    check_cluster(cluster, base)
    per_node = gpus_per_node(client, cluster)
    print(f"{cluster.name}: {cluster.size}, {per_node} GPU(s) a node")
    component = registry.components.get("chat_completion_pipeline", label="latest")
    print("component", component.name, component.version)

    @pipeline(name=f"{base.name} ultrachat")  # type: ignore[untyped-decorator]
    def fine_tuning() -> dict[str, Any]:
        step = component(
            mlflow_model_path=base.id,
            compute_model_import=CLUSTER,
            compute_preprocess=CLUSTER,
            compute_finetune=CLUSTER,
            compute_model_evaluation=CLUSTER,
            train_file_path=Input(type=AssetTypes.URI_FILE, path=files[0]),
            test_file_path=Input(type=AssetTypes.URI_FILE, path=files[1]),
            number_of_gpu_to_use_finetuning=per_node,
            **choose_parameters(base),
        )
        return {"trained_model": step.outputs.mlflow_model_folder}

    job = fine_tuning()
    job.settings.force_rerun = True
    job.settings.continue_on_step_failure = False
    job = client.jobs.create_or_update(job, experiment_name=EXPERIMENT)
    print("job", job.name, job.studio_url)
    client.jobs.stream(job.name)
    job = client.jobs.get(job.name)
    print("status", job.status)
    if job.status != "Completed":
        raise RuntimeError(f"{job.name} ended as {job.status}")
    return job


def print_metrics(client: MLClient, job: str) -> None:
    """Print what the training has logged."""
    mlflow.set_tracking_uri(client.workspaces.get(client.workspace_name).mlflow_tracking_uri)
    run = mlflow.MlflowClient().get_run(job)
    for name, value in sorted(run.data.metrics.items()):
        print(f"metric {name} = {value:.6g}")
    losses = mlflow.MlflowClient().get_metric_history(job, "loss")
    print(f"loss was logged {len(losses)} times")


def deploy(client: MLClient, base: Model, job: str) -> str:
    """Register the model, deploy it to a new endpoint, and return the endpoint's name."""
    path = f"azureml://jobs/{job}/outputs/trained_model"
    model = client.models.create_or_update(
        Model(name="ultrachat-phi-3", version=STAMP, type=AssetTypes.MLFLOW_MODEL, path=path, description=f"{base.name}, fine-tuned")
    )
    print("registered", model.name, model.version)
    if "inference_compute_allow_list" in base.tags and SERVING_SIZE not in base.tags["inference_compute_allow_list"]:
        print(f"warning: {SERVING_SIZE} is not one of the sizes that the publisher has tested")
    name = f"ultrachat-completion-{STAMP}"
    client.begin_create_or_update(ManagedOnlineEndpoint(name=name, description="fine-tuned chat model", auth_mode="key")).wait()
    deployment = ManagedOnlineDeployment(
        name="demo",
        endpoint_name=name,
        model=model.id,
        instance_type=SERVING_SIZE,
        instance_count=1,
        liveness_probe=ProbeSettings(initial_delay=600),
        request_settings=OnlineRequestSettings(request_timeout_ms=90000),
    )
    client.online_deployments.begin_create_or_update(deployment).wait()
    endpoint = client.online_endpoints.get(name)
    endpoint.traffic = {"demo": 100}
    client.begin_create_or_update(endpoint).result()
    print("endpoint", name, client.online_endpoints.get(name).traffic)
    return name


def send_question(client: MLClient, endpoint: str, file: str) -> str:
    """Send the first conversation of a file without its last answer, and return the model's."""
    messages = json.loads(Path(file).read_text(encoding="utf-8").splitlines()[0])["messages"]
    request = {
        "input_data": {
            "input_string": [messages[:-1]],
            "parameters": {"temperature": 0.6, "top_p": 0.9, "do_sample": True, "max_new_tokens": 20},
        },
        "params": {},
    }
    Path("sample_score.json").write_text(json.dumps(request), encoding="utf-8")
    return str(client.online_endpoints.invoke(endpoint, request_file="sample_score.json", deployment_name="demo"))


def main(files: list[str]) -> None:
    """Train, deploy, send a question, and delete the endpoint."""
    client, registry, _ = sign_in()
    base = registry.models.get("Phi-3-mini-4k-instruct", label="latest")
    print("base model", base.id)
    job = train(client, registry, base, files)
    print_metrics(client, job.name)
    endpoint = deploy(client, base, job.name)
    try:
        print("answer", send_question(client, endpoint, files[2]))
        print(client.online_deployments.get_logs("demo", endpoint, lines=50))
    finally:
        client.online_endpoints.begin_delete(endpoint).wait()
    print("deleted", endpoint)


if __name__ == "__main__":
    main(sys.argv[1:])
