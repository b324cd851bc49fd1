from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlops.cloud.jobs import Jobs
from mlops.cloud.tags import RUN_KEY
from mlops.cloud.watch import Watch
from mlops.cloud.workspace import Workspace
from mlops.core.errors import ConfigError, JobCanceled, JobFailed
from mlops.core.records import Parameter, Trained
from mlops.core.settings import ComputeConfig, Config
from mlops.train import display_name, run_key, train
from tests.support.deployments import ready_to_train

Settings = Callable[..., Config]
Open = Callable[[Config], Workspace]
Fault = Callable[[str], None]

TOML = """
[targets.test.compute]
name = "cluster"
[targets.test.training.parameters]
max_steps = 1
apply_deepspeed = "false"
evaluation_strategy = "disable"
max_seq_length = 64
"""


def parameters(**values: str) -> tuple[Parameter, ...]:
    return tuple(Parameter(name=name, value=value, source="default") for name, value in values.items())


def test_the_display_name_describes_the_training() -> None:
    values = parameters(
        per_device_train_batch_size="2",
        gradient_accumulation_steps="4",
        number_of_gpu_to_use_finetuning="8",
        num_nodes_finetune="2",
        lr_scheduler_type="cosine",
        apply_deepspeed="true",
        deepspeed_stage="3",
        apply_lora="true",
        save_total_limit="1",
        max_seq_length="2048",
    )
    assert (
        display_name("Phi-4", "HuggingFaceH4/ultrachat_200k", values) == "Phi-4-ultrachat_200k-bs128-cosine-ds3-lora-save_limit1-seqlen2048"
    )


def test_the_display_name_without_parameters_has_the_defaults() -> None:
    assert display_name("Phi-4", "data/mine.jsonl", ()) == "Phi-4-mine-bs1-linear-nods-nolora-save_limit-1-seqlen-1"


def key(component: str = "c", base: str = "b", size: str = "s", data: str = "d", **values: str) -> str:
    settings = Config(target="test")
    return run_key(settings, component, base, parameters(**{"seed": "1", "compute_finetune": "x", **values}), size, data)


def test_the_run_key_changes_with_everything_that_decides_the_result() -> None:
    keys = [key(), key(component="c2"), key(base="b2"), key(size="s2"), key(data="d2"), key(seed="2"), key(apply_lora="true")]
    assert len(set(keys)) == len(keys)


def test_the_run_key_does_not_depend_on_the_name_of_the_cluster() -> None:
    assert key(compute_finetune="y") == key()


def test_the_run_key_does_not_depend_on_the_order_or_source_of_parameters() -> None:
    one = (Parameter(name="a", value="1", source="default"), Parameter(name="b", value="2", source="default"))
    two = (Parameter(name="b", value="2", source="command line"), Parameter(name="a", value="1", source="pipeline.toml"))
    settings = Config(target="test")
    assert run_key(settings, "c", "b", one, "s", "d") == run_key(settings, "c", "b", two, "s", "d")


@pytest.fixture
def opened(inside: object, settings: Settings, open_workspace: Open) -> Callable[..., tuple[Config, Workspace]]:
    def session(*overrides: str) -> tuple[Config, Workspace]:
        config = settings(TOML, *overrides)
        workspace = open_workspace(config)
        workspace.compute.ensure(ComputeConfig(name="cluster"))
        return config, workspace

    return session


def attempts(config: Config, workspace: Workspace, key: str) -> list[str]:
    return [job.status for job in workspace.jobs.find(config.training.experiment, {RUN_KEY: key}, name_hint="train")]


def test_a_training_is_attached_to_after_a_crash_and_reused_when_it_is_done(
    opened: Callable[..., tuple[Config, Workspace]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config, workspace = opened("training.parameters.seed=7")
    run = ready_to_train(tmp_path / "run")

    def killed(*_: object) -> None:
        raise SystemExit(137)

    with monkeypatch.context() as patch:
        patch.setattr(Workspace, "wait", killed)
        with pytest.raises(SystemExit):
            train(config, run, workspace)
    assert not run.has(Trained)

    config, workspace = opened("training.parameters.seed=7")
    done = train(config, run, workspace)
    assert "attached to" in capsys.readouterr().out
    assert (done.status, done.reused, done.gpus) == ("Completed", True, 1)
    assert done.metrics["train_loss"] > 0
    assert done.train_s is not None
    sources = {parameter.name: (parameter.value, parameter.source) for parameter in done.parameters}
    assert sources["seed"] == ("7", "command line")
    assert sources["max_steps"] == ("1", "pipeline.toml")
    assert sources["apply_lora"] == ("true", "model_specific_defaults")
    assert sources["learning_rate"] == ("5e-06", "model_specific_defaults")
    assert sources["weight_decay"] == ("0.0", "default")
    assert sources["compute_finetune"] == ("cluster", "pipeline")
    job = workspace.jobs.get(done.job)
    assert job.tags[RUN_KEY] == done.run_key
    assert workspace.session.is_from_this_run(job.tags)
    assert "trained_model" in job.outputs

    # The same again changes nothing; another folder, or another runner, pays nothing.
    assert train(config, run, workspace) == done
    assert "nothing to do" in capsys.readouterr().out
    run.write(done.model_copy(update={"identity": "of another job of this name"}))
    assert train(config, run, workspace).identity == job.identity
    elsewhere = train(config, ready_to_train(tmp_path / "elsewhere"), workspace)
    assert (elsewhere.job, elsewhere.reused) == (done.job, True)
    assert attempts(config, workspace, done.run_key) == ["Completed"]


def test_a_failed_or_canceled_training_is_an_error_and_the_next_run_tries_again(
    opened: Callable[..., tuple[Config, Workspace]], tmp_path: Path, fault: Fault
) -> None:
    config, workspace = opened("training.parameters.seed=8")
    run = ready_to_train(tmp_path / "run")

    def canceled() -> set[str]:
        jobs = workspace.jobs.list_owned()
        return {job.tags[RUN_KEY] for job in jobs if job.name.startswith("mlops-train-") and job.status == "Canceled"}

    before = canceled()
    fault("job-failed@mlops-train-*")
    with pytest.raises(JobFailed, match=r"https://ml\.azure\.com/runs/"):
        train(config, run, workspace)
    fault("job-canceled@mlops-train-*")
    with pytest.raises(JobCanceled):
        train(config, run, workspace)
    assert not run.has(Trained)
    [key] = canceled() - before  # other tests cancel trainings in this workspace, too
    assert attempts(config, workspace, key) == ["Canceled", "Failed"]


@pytest.mark.parametrize(
    ("seed", "first", "second", "ends"),
    [(20, "octo/chat/1", "octo/chat/1", True), (21, "octo/chat/1", "octo/chat/2", False), (22, "", "", False)],
)
def test_a_later_attempt_of_the_same_workflow_run_cancels_the_job_that_it_attached_to(
    seed: int,
    first: str,
    second: str,
    ends: bool,
    opened: Callable[..., tuple[Config, Workspace]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A re-run of failed jobs attaches to what the first attempt left running. It is the same run, so a cancel ends the job."""

    def inside(run: str) -> None:
        repository, _, number = run.rpartition("/")
        for name, value in (("GITHUB_ACTIONS", "true" if run else ""), ("GITHUB_REPOSITORY", repository), ("GITHUB_RUN_ID", number)):
            monkeypatch.setenv(name, value)

    def lost(*_: object) -> None:
        raise SystemExit(137)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    # A job that still runs when the second attempt comes: as many steps as nobody will see.
    steps = ("training.parameters.max_steps=100000", f"training.parameters.seed={seed}")
    inside(first)
    config, workspace = opened(*steps)
    before = {job.name for job in workspace.jobs.list_owned()}
    with monkeypatch.context() as patch:
        patch.setattr(Workspace, "wait", lost)
        with pytest.raises(SystemExit):
            train(config, ready_to_train(tmp_path / "first"), workspace)
    [job] = [job for job in workspace.jobs.list_owned() if job.name not in before]

    inside(second)
    config, workspace = opened(*steps)
    monkeypatch.setattr(Watch, "_poll_until_ended", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(config, ready_to_train(tmp_path / "second"), workspace)
    output = capsys.readouterr()
    assert f"attached to {job.name}" in output.out
    assert ("canceling job" in output.err + output.out) is ends
    assert workspace.jobs.get(job.name).is_active is not ends
    workspace.jobs.cancel(job.name)


def test_an_interrupt_right_after_the_submit_cancels_the_job(
    opened: Callable[..., tuple[Config, Workspace]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first look at a job that has just been submitted is no time to be deaf."""
    config, workspace = opened("training.parameters.max_steps=100000", "training.parameters.seed=404")
    before, look = {job.name for job in workspace.jobs.list_owned()}, Jobs.get

    def get(jobs: Jobs, name: str) -> Any:
        if jobs.may_cancel(name):
            raise KeyboardInterrupt
        return look(jobs, name)

    with monkeypatch.context() as patch:
        patch.setattr(Jobs, "get", get)
        with pytest.raises(KeyboardInterrupt):
            train(config, ready_to_train(tmp_path / "interrupted"), workspace)
    [job] = [job for job in workspace.jobs.list_owned() if job.name not in before]
    output = capsys.readouterr()
    assert f"canceling job {job.name}" in output.err + output.out
    assert job.is_over


def test_a_wrong_parameter_is_refused_before_anything_is_submitted(
    opened: Callable[..., tuple[Config, Workspace]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, workspace = opened("training.parameters.num_train_epoch=1")
    monkeypatch.setattr(Jobs, "submit", None)
    with pytest.raises(ConfigError, match="did you mean 'num_train_epochs'"):
        train(config, ready_to_train(tmp_path / "run"), workspace)


def test_a_component_without_the_models_output_is_refused(opened: Callable[..., tuple[Config, Workspace]], tmp_path: Path) -> None:
    config, workspace = opened()
    run = ready_to_train(tmp_path / "run")
    path = run.directory / "validate.json"
    path.write_text(path.read_text().replace("components/chat_completion_pipeline", "components/chat_completion_datapreprocess"))
    config = config.model_copy(update={"training": config.training.model_copy(update={"component": "chat_completion_datapreprocess"})})
    with pytest.raises(Exception, match="chat_completion_datapreprocess"):
        train(config, run, workspace)
