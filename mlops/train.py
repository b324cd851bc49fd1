"""Fine-tune the base model with the registry's component on Azure ML, or find the job that has done so already.

python -m mlops.train --target local
mlops train --target prod --set training.parameters.num_train_epochs=1
mlops train --target prod --detach 30      leaves it to itself if it takes longer than 30 minutes; run it again to attach
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlops.cli import stage
from mlops.cloud.tags import BASE_MODEL, COMMIT, COMPONENT, DATA_FINGERPRINT, DETACHED, RUN, RUN_KEY, SETTINGS, WAITING
from mlops.core import console
from mlops.core.config import Config
from mlops.core.errors import ConfigError, Detached
from mlops.core.git import commit
from mlops.core.records import Parameter, Prepared, Trained, Validated
from mlops.core.run import Run

if TYPE_CHECKING:
    from mlops.cloud.assets import BaseModel, Component
    from mlops.cloud.jobs import JobView
    from mlops.cloud.parameters import Resolved
    from mlops.cloud.workspace import Workspace

__all__ = ["display_name", "main", "run_key", "train"]

OUTPUT = "trained_model"
COMPONENT_OUTPUT = "mlflow_model_folder"
NAME_HINT = "train"
METRICS_AT_THE_END = ("train_loss",)


def train(config: Config, run: Run, workspace: Workspace) -> Trained:
    """Submit the training, or attach to the job of the same run key, and come back when it is Completed.

    Raises:
        JobFailed, JobCanceled, JobStatusUnknown: the job ended otherwise.
        Detached: it takes longer than ``training.detach_after_minutes`` and goes on; its tags say how to carry the pipeline on.
        ConfigError: the component does not take a parameter.
    """
    from mlops.cloud.parameters import resolve

    prepared, validated = run.read(Prepared), run.read(Validated)
    base = workspace.assets.base_model(config.model.registry, config.model.name, _pinned(validated.base_model))
    component = workspace.assets.component(config.model.registry, config.training.component, _pinned(validated.component))
    gpus = max(1, validated.gpus_per_node)
    resolved = resolve(component, base.defaults, config.training, config.command_line_parameters, config.compute.name, gpus)
    key = run_key(component.id, base.id, resolved.parameters, validated.compute_size, prepared.fingerprint)
    _tell(resolved)

    job, reused = _found(config, workspace, key)
    before = run.find(Trained)
    if before is not None and job is not None and (before.job, before.run_key, before.status) == (job.name, key, job.status):
        console.info(f"  nothing to do: {job.name} is {job.status}")
        return before
    name = display_name(config.model.name, config.data.dataset, resolved.parameters)
    if job is None:
        pipeline = _pipeline(run, prepared, base, component, resolved)
        tags = _tags(key, base, component, prepared)
        submitted = workspace.jobs.submit_pipeline(
            pipeline, name_hint=NAME_HINT, tags=tags, experiment=config.training.experiment, display_name=name
        )
        # Waited for at once: between the submit and the watch nobody would hear an interrupt, and the job would go on.
        job = _waited(config, workspace, submitted)
    elif job.status != "Completed":
        # Also where it has ended already: only a Completed job comes back from being waited for.
        job = _waited(config, workspace, job.name)
    if job.tags.get(DETACHED) == WAITING:
        workspace.tracking.set_tags(job.name, {DETACHED: workspace.session.tags[RUN]})
    seconds = workspace.history.details(job.name).seconds
    gpus = _gpus(resolved)
    return run.write(
        Trained(
            inputs={"prepare": prepared.digest(), "validate": validated.digest()},
            run_key=key,
            job=job.name,
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
            reused=reused,
            train_s=seconds,
            gpus=gpus,
            gpu_hours=None if seconds is None else seconds / 3600 * gpus,
            metrics=_metrics(workspace, job.name),
        )
    )


def run_key(component: str, base_model: str, parameters: Sequence[Parameter], compute_size: str, data_fingerprint: str) -> str:
    """Hex sha256 over everything that decides what comes out of the training. The cluster's name does not, its VM size may."""
    from mlops.cloud.parameters import COMPUTES

    content = {
        "component": component,
        "base_model": base_model,
        "parameters": {parameter.name: parameter.value for parameter in parameters if parameter.name not in COMPUTES},
        "compute_size": compute_size,
        "data": data_fingerprint,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def display_name(model: str, dataset: str, parameters: Sequence[Parameter]) -> str:
    """Base model, data, global batch size, scheduler, DeepSpeed stage, LoRA, checkpoints kept and sequence length, as the tutorial has it.

    For example ``Phi-3-mini-4k-instruct-ultrachat_200k-bs1-cosine-ds2-lora-save_limit1-seqlen2048``.
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


def _found(config: Config, workspace: Workspace, key: str) -> tuple[JobView | None, bool]:
    """The job of this key that has completed, or else one that still can; failed and cancelled ones are no reason not to try again."""

    jobs = workspace.jobs.find(config.training.experiment, {RUN_KEY: key}, name_hint=NAME_HINT)
    for job in jobs:
        if job.status == "Completed":
            console.info(f"  {job.name} has done this training: {job.studio_url}")
            return job, True
    for job in jobs:
        if job.active:
            workspace.jobs.take_over(job)
            console.info(f"  attached to {job.name}, which is {job.status}: {job.studio_url}")
            return job, True
    if jobs:
        console.info(f"  the last attempt, {jobs[0].name}, is {jobs[0].status}; making a new one")
    return None, False


def _waited(config: Config, workspace: Workspace, job: str) -> JobView:

    minutes = config.training.detach_after_minutes
    try:
        return workspace.wait(job, config.training.timeout_hours * 3600, None if minutes is None else minutes * 60)
    except Detached as told:
        # The mark comes last: who finds it must find what the training is to be carried on with.
        marks = {COMMIT: commit(), SETTINGS: os.environ.get("MLOPS_SET", ""), DETACHED: WAITING}
        workspace.tracking.set_tags(job, {name: value for name, value in marks.items() if value})
        raise Detached(
            f"{told.what}\nschedule.yml carries the pipeline on when it has completed; by hand: `mlops run --from train`."
        ) from told


def _pipeline(run: Run, prepared: Prepared, base: BaseModel, component: Component, resolved: Resolved) -> Any:
    """The pipeline job: one node, the registry's component."""
    from azure.ai.ml import Input
    from azure.ai.ml.dsl import pipeline

    from mlops.cloud.errors import translated
    from mlops.cloud.parameters import typed

    if COMPONENT_OUTPUT not in component.outputs:
        raise ConfigError(
            f"{component.name} {component.version} has no output {COMPONENT_OUTPUT} (it has: {', '.join(component.outputs)}).",
            "set training.component_version in pipeline.toml",
        )
    literals = {name: typed(component.inputs[name], value) for name, value in resolved.given().items()}
    files = {
        "train_file_path": Input(type="uri_file", path=_data(run, prepared, "train_sft")),
        "test_file_path": Input(type="uri_file", path=_data(run, prepared, "test_sft")),
        "mlflow_model_path": Input(type="mlflow_model", path=base.id),
    }

    with translated("building the training pipeline"):

        @pipeline()  # type: ignore[untyped-decorator,unused-ignore]
        def chat_completion() -> Mapping[str, Any]:
            node = component.sdk(**files, **literals)
            return {OUTPUT: getattr(node.outputs, COMPONENT_OUTPUT)}

        job = chat_completion()
    # Azure reuses the outputs of earlier steps where it thinks that nothing has changed; what is reused is for the run key to say.
    job.settings.force_rerun = True
    job.settings.continue_on_step_failure = False
    return job


def _data(run: Run, prepared: Prepared, split: str) -> str:
    try:
        return str((run.directory / prepared.files[split].path).resolve())
    except KeyError:
        raise ConfigError(f"The prepared data has no split {split}.", "run `mlops prepare` with a data set that has one") from None


def _tags(key: str, base: BaseModel, component: Component, prepared: Prepared) -> dict[str, str]:

    return {RUN_KEY: key, BASE_MODEL: base.id, COMPONENT: component.id, DATA_FINGERPRINT: prepared.fingerprint}


def _metrics(workspace: Workspace, job: str) -> dict[str, float]:
    metrics = workspace.tracking.metrics(job, METRICS_AT_THE_END)
    if missing := set(METRICS_AT_THE_END) - metrics.keys():
        console.warning(f"Job {job} has no metric {', '.join(sorted(missing))}; the gate judges by its own evaluation all the same.")
    return metrics


def _gpus(resolved: Resolved) -> int:
    """Over all nodes."""
    values = {parameter.name: parameter.value for parameter in resolved.parameters}
    return int(values["number_of_gpu_to_use_finetuning"]) * int(values.get("num_nodes_finetune", "1"))


def _tell(resolved: Resolved) -> None:
    rows = [parameter for parameter in resolved.parameters if parameter.source != "default"]
    width = max((len(row.name) for row in rows), default=0)
    value_width = max((len(row.value) for row in rows), default=0)
    for row in rows:
        console.info(f"  {row.name:<{width}}  {row.value:<{value_width}}  {row.source}")
    console.info(f"  and {len(resolved.parameters) - len(rows)} inputs at the component's own defaults")
    if resolved.dropped:
        console.info(f"  the component doesn't take these defaults of the model, so they are dropped: {', '.join(resolved.dropped)}")


def _pinned(asset: str) -> str:
    """The version at the end of an asset's id: what was validated is what is trained, even where pipeline.toml says ``latest``."""
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
