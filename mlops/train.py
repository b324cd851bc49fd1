"""Fine-tune the base model with the registry's component on Azure ML, or reuse the job that has already done so.

mlops train --target local
mlops train --target prod --set training.parameters.num_train_epochs=1
mlops train --target prod --detach 30      exit if it takes longer than 30 minutes; run this again to attach to the job
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlops.cli import stage
from mlops.cloud.assets import BaseModel, Component
from mlops.cloud.errors import translate_errors
from mlops.cloud.jobs import JobView
from mlops.cloud.parameters import COMPUTES, Parameters, resolve, typed
from mlops.cloud.tags import BASE_MODEL, COMMIT, COMPONENT, DATA_FINGERPRINT, DETACHED, RUN, RUN_KEY, SETTINGS, WAITING
from mlops.cloud.workspace import Workspace
from mlops.core import console
from mlops.core.errors import ConfigError, Detached
from mlops.core.git import commit
from mlops.core.records import Parameter, Prepared, Trained, Validated
from mlops.core.reuse import reuse_key
from mlops.core.run import Run
from mlops.core.settings import Config

__all__ = ["EXCLUDED", "display_name", "main", "run_key", "train"]

OUTPUT = "trained_model"
COMPONENT_OUTPUT = "mlflow_model_folder"
NAME_HINT = "train"
_MAX_TAG = 1000
"""Maximum number of characters in the value of a run's tag (service limits of Azure Machine Learning)."""
FINAL_METRICS = ("train_loss",)

EXCLUDED = {
    "model.registry": "part of the base model's id",
    "model.name": "part of the base model's id",
    "model.version": "part of the base model's id, which says which version `latest` was",
    "model.allow_archived": "affects whether validation accepts the model, not which one it is",
    "model.tokenizer": "only validation uses it, to count the tokens of prompts; training uses the base model's",
    "compute.name": "the same VM size under another name trains the same model; the key contains compute.trusted",
    "compute.size": "the key contains the actual size of the cluster",
    "compute.min_instances": "the number of idle nodes",
    "compute.max_instances": "the maximum number of nodes; the number that a training uses is a parameter",
    "compute.allow_low_priority": "low-priority nodes give the same result, only later",
    "compute.idle_seconds": "when an idle node is released",
    "compute.price_per_hour_usd": "only for the cost estimate",
    "training.component": "part of the component's id",
    "training.component_version": "part of the component's id, which says which version `latest` was",
    "training.experiment": "only affects where the job is listed",
    "training.parameters": "the key contains every parameter with the value that the component gets",
    "training.expected_hours": "only for the cost estimate",
    "training.detach_after_minutes": "the time that the runner watches the job",
    "training.timeout_hours": "a job that exceeds it is not Completed, and only a Completed job is reused",
}
"""Settings that don't affect the result of a training, and why. [data] is in the key as the fingerprint of the prepared files."""


def train(config: Config, run: Run, workspace: Workspace) -> Trained:
    """Submit the training, or attach to the job with the same run key, and return once it is Completed.

    Raises:
        JobFailed, JobCanceled, JobStatusUnknown: the job ended otherwise.
        Detached: it takes longer than ``training.detach_after_minutes`` and continues; its tags say how to continue the pipeline.
        ConfigError: the component doesn't have a parameter, or the cluster is not the one that was validated.
    """
    prepared, validated = run.read(Prepared), run.read(Validated)
    base = workspace.assets.get_base_model(config.model.registry, config.model.name, _version(validated.base_model))
    component = workspace.assets.get_component(config.model.registry, config.training.component, _version(validated.component))
    gpus_per_node = max(1, validated.gpus_per_node)
    resolved = resolve(component, base.defaults, config.training, config.command_line_parameters, config.compute.name, gpus_per_node)
    key = run_key(config, component.id, base.id, resolved.parameters, validated.compute_size, prepared.fingerprint)
    _print_parameters(resolved)

    job = _find_job(config, workspace, key)
    reused = job is not None
    before = run.find(Trained)
    if (
        before is not None
        and job is not None
        and (before.job, before.identity, before.run_key, before.status) == (job.name, job.identity, key, job.status)
    ):
        console.info(f"  nothing to do: {job.name} is {job.status}")
        return before
    name = display_name(config.model.name, config.data.dataset, resolved.parameters)
    if job is None:
        _check_settings(config)
        workspace.compute.check_unchanged(config.compute.name, validated.compute_size)
        pipeline = _build_pipeline(run, prepared, base, component, resolved)
        tags = {RUN_KEY: key, BASE_MODEL: base.id, COMPONENT: component.id, DATA_FINGERPRINT: prepared.fingerprint}
        submitted = workspace.jobs.submit(
            pipeline, name_hint=NAME_HINT, tags=tags, experiment=config.training.experiment, display_name=name
        )
        # Nothing may happen between submitting and waiting: an interrupt there would leave the job running.
        job = _wait_or_detach(config, workspace, submitted)
    elif job.status != "Completed":
        # Also if it has ended in the meantime: waiting returns Completed jobs only.
        job = _wait_or_detach(config, workspace, job.name)
    if workspace.tracking.get_tags(job.name).get(DETACHED) == WAITING:
        workspace.tracking.set_tags(job.name, {DETACHED: workspace.session.tags[RUN]})
    seconds = workspace.history.get_details(job.name).seconds
    gpus = _total_gpus(resolved)
    return run.write(
        Trained(
            inputs={"prepare": prepared.digest(), "validate": validated.digest()},
            run_key=key,
            job=job.name,
            identity=job.identity,
            display_name=job.display_name or name,
            experiment=config.training.experiment,
            status="Completed",
            studio_url=job.studio_url,
            mlflow_run_id=job.name,
            model_output=f"azureml://jobs/{job.name}/outputs/{OUTPUT}",
            base_model=base.id,
            component=component.id,
            data_fingerprint=prepared.fingerprint,
            parameters=resolved.parameters,
            dropped_defaults=resolved.dropped,
            commit=commit(),
            reused=reused,
            train_s=seconds,
            gpus=gpus,
            gpu_hours=None if seconds is None else seconds / 3600 * gpus,
            metrics=_read_metrics(workspace, job.name),
        )
    )


def run_key(
    config: Config, component: str, base_model: str, parameters: Sequence[Parameter], compute_size: str, data_fingerprint: str
) -> str:
    """Return the sha256 over everything that affects the result of the training."""
    return reuse_key(
        {"model": config.model, "compute": config.compute, "training": config.training},
        EXCLUDED,
        component=component,
        base_model=base_model,
        # The inputs that name a cluster are excluded for the same reason as compute.name.
        parameters={parameter.name: parameter.value for parameter in parameters if parameter.name not in COMPUTES},
        compute_size=compute_size,
        data=data_fingerprint,
    )


def display_name(model: str, dataset: str, parameters: Sequence[Parameter]) -> str:
    """Return the job's display name, in the tutorial's format.

    It has the base model, data, global batch size, scheduler, DeepSpeed stage, LoRA, number of checkpoints and sequence length, for example
    ``Phi-4-ultrachat_200k-bs1-cosine-ds3-lora-save_limit1-seqlen2048``.
    """
    values = {parameter.name: parameter.value for parameter in parameters}

    def number(name: str) -> int:
        return int(values.get(name, "1"))

    batch = number("per_device_train_batch_size") * number("gradient_accumulation_steps")
    batch *= number("number_of_gpu_to_use_finetuning") * number("num_nodes_finetune")
    parts = (
        model,
        Path(dataset).stem,
        f"bs{batch}",
        values.get("lr_scheduler_type", "linear"),
        f"ds{values.get('deepspeed_stage', '2')}" if values.get("apply_deepspeed") == "true" else "nods",
        "lora" if values.get("apply_lora") == "true" else "nolora",
        f"save_limit{values.get('save_total_limit', '-1')}",
        f"seqlen{values.get('max_seq_length', '-1')}",
    )
    return "-".join(parts)


def _find_job(config: Config, workspace: Workspace, key: str) -> JobView | None:
    """Return a Completed job with this key, or else one that can still complete. Failed and canceled jobs are tried again."""
    jobs = workspace.jobs.find(config.training.experiment, {RUN_KEY: key}, name_hint=NAME_HINT)
    for job in jobs:
        if job.status == "Completed":
            console.info(f"  {job.name} has already done this training: {job.studio_url}")
            return job
    for job in jobs:
        if job.is_active:
            workspace.jobs.take_over(job)
            console.info(f"  attached to {job.name}, which is {job.status}: {job.studio_url}")
            return job
    if jobs:
        console.info(f"  the last attempt, {jobs[0].name}, is {jobs[0].status}; starting a new one")
    return None


def _check_settings(config: Config) -> None:
    """Refuse ``--set`` options that a detached training could not keep for the run that continues its pipeline."""
    length = len(os.environ.get("MLOPS_SET", ""))
    if config.training.detach_after_minutes is not None and length > _MAX_TAG:
        raise ConfigError(
            f"MLOPS_SET has {length} characters, but a training that detaches can only keep {_MAX_TAG}. Nothing was submitted.",
            "put the settings into pipeline.toml, or unset training.detach_after_minutes",
        )


def _wait_or_detach(config: Config, workspace: Workspace, job: str) -> JobView:
    minutes = config.training.detach_after_minutes
    try:
        return workspace.wait(job, config.training.timeout_hours * 3600, None if minutes is None else minutes * 60)
    except Detached as detached:
        # DETACHED comes last: whoever sees that tag needs the others to continue the pipeline.
        tags = {COMMIT: commit(), SETTINGS: os.environ.get("MLOPS_SET", ""), DETACHED: WAITING}
        workspace.tracking.set_tags(job, {name: value for name, value in tags.items() if value})
        raise Detached(
            f"{detached.what}\nschedule.yml continues the pipeline once it has completed; to do so by hand: `mlops run --from train`."
        ) from detached


def _build_pipeline(run: Run, prepared: Prepared, base: BaseModel, component: Component, resolved: Parameters) -> Any:
    """Build the pipeline job, whose only node is the registry's component."""
    from azure.ai.ml import Input
    from azure.ai.ml.dsl import pipeline

    if COMPONENT_OUTPUT not in component.outputs:
        raise ConfigError(
            f"{component.name} {component.version} has no output {COMPONENT_OUTPUT} (it has: {', '.join(component.outputs)}).",
            "set training.component_version in pipeline.toml",
        )
    literals = {name: typed(component.inputs[name], value) for name, value in resolved.overrides().items()}
    files = {
        "train_file_path": Input(type="uri_file", path=str(prepared.path("train_sft", run.directory).resolve())),
        "test_file_path": Input(type="uri_file", path=str(prepared.path("test_sft", run.directory).resolve())),
        "mlflow_model_path": Input(type="mlflow_model", path=base.id),
    }

    with translate_errors("building the training pipeline"):

        @pipeline()  # type: ignore[untyped-decorator,unused-ignore]
        def chat_completion() -> Mapping[str, Any]:
            node = component.sdk(**files, **literals)
            return {OUTPUT: getattr(node.outputs, COMPONENT_OUTPUT)}

        job = chat_completion()
    # Otherwise Azure would reuse the outputs of steps that it considers unchanged, but only the run key may decide that.
    job.settings.force_rerun = True
    job.settings.continue_on_step_failure = False
    return job


def _read_metrics(workspace: Workspace, job: str) -> dict[str, float]:
    metrics = workspace.tracking.wait_for_metrics(job, FINAL_METRICS)
    if missing := set(FINAL_METRICS) - metrics.keys():
        console.warning(f"Job {job} has no metric {', '.join(sorted(missing))}. The gate is not affected: it uses its own evaluation.")
    return metrics


def _total_gpus(resolved: Parameters) -> int:
    """Return the number of GPUs over all nodes."""
    values = {parameter.name: parameter.value for parameter in resolved.parameters}
    return int(values["number_of_gpu_to_use_finetuning"]) * int(values.get("num_nodes_finetune", "1"))


def _print_parameters(resolved: Parameters) -> None:
    rows = [parameter for parameter in resolved.parameters if parameter.source != "default"]
    console.table([(row.name, row.value, row.source) for row in rows])
    console.info(f"  and {len(resolved.parameters) - len(rows)} inputs at the component's own defaults")
    if resolved.dropped:
        console.info(f"  dropped, because the component doesn't have these defaults of the model as inputs: {', '.join(resolved.dropped)}")


def _version(asset: str) -> str:
    """Return the version in an asset's id: the validated version is the one that is trained, even if pipeline.toml says ``latest``."""
    return asset.rsplit("/", 1)[-1]


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--detach", dest="set", action="append", nargs="?", const="0", type=_detach_setting, metavar="MINUTES",
        help="leave the training job running in Azure and exit, at once or after MINUTES",
    )  # fmt: skip


def _detach_setting(minutes: str) -> str:
    return f"training.detach_after_minutes={float(minutes)}"


main = stage.command(train, needs=(Prepared, Validated), add_options=_add_options)


if __name__ == "__main__":
    sys.exit(main())
