"""From a registered model to live traffic and back to nothing, through the stages, against the emulator."""

from __future__ import annotations

import dataclasses
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from mlops.cli import canary as canaries
from mlops.cli.reap import reap
from mlops.cli.recover import recover
from mlops.cli.rollback import rollback
from mlops.cloud import traffic
from mlops.cloud.endpoint_views import DeploymentView, EndpointView
from mlops.cloud.endpoints import Endpoints
from mlops.cloud.invoke import EndpointClient, ScoringResponse, build_payload
from mlops.cloud.tags import (
    ANCHOR,
    ANCHOR_ID,
    CHANGE,
    EXPIRES,
    MARK,
    PIPELINE,
    PREVIOUS,
    PREVIOUS_ID,
    PREVIOUS_UNTIL,
    RESERVED,
    SERVED_MODEL,
    TARGET,
    TRAINING_JOB,
)  # fmt: skip
from mlops.cloud.traffic_change import Busy, Change, identify, nonzero, read_change
from mlops.cloud.workspace import Workspace
from mlops.core.errors import (
    AzureError,
    CanaryStopped,
    DeploymentFailed,
    NotPromoted,
    RecordError,
    RegistrationError,
    SmokeTestFailed,
    TrafficError,
)
from mlops.core.judgement import Verdict
from mlops.core.records import Deployed, Promoted, Registered, Smoked, TornDown
from mlops.core.run import Run
from mlops.core.settings import Config, EndpointConfig
from mlops.dataset.questions import Question
from mlops.deploy import deploy, deployment_name
from mlops.emulator.server import Emulator
from mlops.promote import promote
from mlops.register import register
from mlops.smoke_test import smoke_test
from mlops.teardown import teardown
from tests.support.deployments import RULES, behind_the_gate, registered_model

Settings = Callable[..., Config]
Open = Callable[[Config], Workspace]
Fault = Callable[[str], None]

TOML = """
[targets.test.endpoint]
name = "{name}"
probe_initial_delay_s = 1
[targets.test.registration]
name = "served"
[targets.test.smoke]
requests = 3
max_new_tokens = 4
[targets.test.promotion]
{promotion}
"""
ROWS = 30
"""Enough for a comparison with this margin."""
CANARY = """steps = [5, 25, 100]
margin = 0.5
latency_floor_ms = 60_000  # a busy machine may stop for a moment
"""


class Stage:
    """An endpoint of the test's own, and the stages on it."""

    def __init__(self, emulator: Emulator, make: Settings, open_workspace: Open, tmp_path: Path, job: str, name: str) -> None:
        self.emulator = emulator
        self.make, self.open, self.tmp_path, self.job, self.name = make, open_workspace, tmp_path, job, name
        self.rows = 12
        self.promotion = "steps = [100]"
        """Settings. Most tests are not about the comparison with the old deployment."""
        self.workspace = open_workspace(self.config())

    def config(self, *overrides: str, ephemeral: bool = False) -> Config:
        text = TOML.format(name=self.name, promotion=self.promotion) + RULES
        return self.make(
            text.replace("[targets.test.endpoint]", "[targets.test.endpoint]\nephemeral = true") if ephemeral else text, *overrides
        )

    def reviewed(self) -> Config:
        text = TOML.format(name=self.name, promotion=f"{self.promotion}\nrequire_review = true") + RULES
        return self.make(text)

    def session(self, *overrides: str, ephemeral: bool = False) -> tuple[Config, Workspace]:
        config = self.config(*overrides, ephemeral=ephemeral)
        return config, self.open(config)

    def registered(self, folder: str = "run", champion: str | None = None, *overrides: str) -> Run:
        identity = self.workspace.jobs.get(self.job).identity
        run = behind_the_gate(self.tmp_path / folder, self.job, champion=champion, identity=identity, rows=self.rows)
        config, workspace = self.session(*overrides)
        register(config, run, workspace)
        return run

    def live(self, *overrides: str) -> str:
        """Take the model all the way and return the deployment that is live then."""
        config, workspace = self.session(*overrides)
        run = self.registered("champion", workspace.endpoints.get_live_model(self.name))
        deployed = deploy(config, run, workspace)
        smoke_test(config, run, workspace)
        promote(config, run, workspace)
        return deployed.deployment

    def traffic(self) -> dict[str, int]:
        endpoint = self.workspace.endpoints.find(self.name)
        return dict(endpoint.traffic) if endpoint else {}

    def delete_model(self, name: str, version: str) -> None:
        """Delete a model version, as the studio does."""
        self.emulator.azure.store.delete("model", f"{name}/{version}")

    def champion(self) -> str:
        [(name, share)] = [(name, share) for name, share in self.traffic().items() if share]
        assert share == 100
        return name


@pytest.fixture
def stage(
    inside: Emulator, settings: Settings, open_workspace: Open, tmp_path: Path, trained_job: str, request: pytest.FixtureRequest
) -> Iterator[Stage]:
    """An endpoint of the test's own, not created yet."""
    created = Stage(inside, settings, open_workspace, tmp_path, trained_job, f"e{zlib.crc32(request.node.name.encode())}")
    yield created
    created.workspace.endpoints.delete(created.name)


@pytest.fixture
def beside(inside: Emulator, settings: Settings, open_workspace: Open, tmp_path: Path, trained_job: str) -> Stage:
    """An endpoint with a champion, shared by all tests that leave it live. Deployments without traffic come and go."""
    created = Stage(inside, settings, open_workspace, tmp_path, trained_job, "common")
    if not any(created.traffic().values()):
        created.live()
    return created


def test_from_the_gate_to_live_traffic_with_every_stage_run_twice(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    run = stage.registered()
    config, workspace = stage.session()
    again = register(config, run, workspace)
    assert workspace.assets.find_model("served", {TRAINING_JOB: stage.job}) is not None
    assert again.tags["mlops.verdict"] == "PROMOTE"
    assert again.lineage.endswith(f"/mlops/models/served/{again.version}.json")

    deployed = deploy(config, run, workspace)
    assert (deployed.endpoint_created, deployed.traffic_now) == (True, {deployed.deployment: 0})
    assert deploy(config, run, workspace) == deployed

    smoked = smoke_test(config, run, workspace)
    assert (smoked.requests, smoked.failures) == (3, 0)
    assert smoked.samples[0].answer
    assert run.directory.joinpath(smoked.files["answers"].path).read_text().count("\n") == 3
    assert smoke_test(config, run, workspace) == smoked

    with pytest.raises(NotPromoted, match="only a job on GitHub can be reviewed"):
        promote(stage.reviewed(), run, workspace)
    assert stage.traffic() == {deployed.deployment: 0}
    promoted = promote(config, run, workspace)
    assert stage.traffic() == {deployed.deployment: 100}
    assert (promoted.previous, promoted.previous_kept, promoted.steps) == (None, False, ({deployed.deployment: 100},))
    assert promote(config, run, workspace) == promoted
    assert workspace.endpoints.get_live_model(stage.name) == deployed.model
    capsys.readouterr()

    # Not ephemeral: what is live stays.
    torn = teardown(config, run, workspace)
    assert torn.deleted == ()
    assert torn.refused == {f"deployment {deployed.deployment} of {stage.name}": "takes 100 % of the traffic"}
    assert any(stage.name in line for line in torn.remaining)
    assert stage.traffic() == {deployed.deployment: 100}

    # Ephemeral: it goes, wholly.
    config, workspace = stage.session(ephemeral=True)
    torn = teardown(config, run, workspace)
    assert torn.deleted == (f"endpoint {stage.name}",)
    assert workspace.endpoints.find(stage.name) is None
    assert not any(stage.name in line for line in torn.remaining)
    assert teardown(config, run, workspace).deleted == ()


def recreate(workspace: Workspace, config: Config, deployment: str, model: str) -> None:
    """Delete a deployment, and create another one that differs in nothing but its identity."""
    workspace.endpoints.delete_deployment(config.endpoint.name, deployment)
    workspace.endpoints.deploy(config.endpoint, deployment, model, {SERVED_MODEL: model})


def test_a_deployment_that_was_created_again_is_tested_again_before_it_is_promoted(
    stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    run = stage.registered()
    config, workspace = stage.session()
    first = deploy(config, run, workspace)
    smoked = smoke_test(config, run, workspace)
    recreate(workspace, config, first.deployment, first.model)

    with pytest.raises(RecordError, match="so it is untested"):
        promote(config, run, workspace)
    with pytest.raises(RecordError, match="was created again after") as caught:
        smoke_test(config, run, workspace)
    assert "mlops deploy" in caught.value.fix
    assert stage.traffic() == {first.deployment: 0}

    second = deploy(config, run, workspace)
    assert (second.deployment, second.reused) == (first.deployment, True)
    assert second.identity != first.identity
    with pytest.raises(RecordError, match="run `mlops smoke-test` again"):
        promote(config, run, workspace)
    capsys.readouterr()
    assert smoke_test(config, run, workspace).created_at > smoked.created_at
    assert "nothing to do" not in capsys.readouterr().out
    promote(config, run, workspace)
    assert stage.traffic() == {first.deployment: 100}


def test_other_smoke_settings_or_a_new_endpoint_of_the_same_name_test_again(stage: Stage) -> None:
    run = stage.registered()
    config, workspace = stage.session()
    first = deploy(config, run, workspace)
    assert smoke_test(config, run, workspace).requests == 3
    config, workspace = stage.session("smoke.requests=2")
    smoked = smoke_test(config, run, workspace)
    assert smoked.requests == 2
    workspace.endpoints.delete(stage.name)
    second = deploy(config, run, workspace)
    assert second.deployment == first.deployment
    assert smoke_test(config, run, workspace).created_at > smoked.created_at


def test_a_failed_smoke_test_keeps_an_endpoint_that_somebody_else_created_since(stage: Stage) -> None:
    run = stage.registered()
    config, workspace = stage.session("smoke.max_latency_ms=0.001")
    workspace.endpoints.create(config.endpoint, {})
    deployed = deploy(config, run, workspace)
    # As if this run had created an endpoint of this name that was deleted since.
    run.write(deployed.model_copy(update={"endpoint_created": True, "endpoint_identity": "of another one"}))
    with pytest.raises(SmokeTestFailed):
        smoke_test(config, run, workspace)
    assert stage.traffic() == {}
    assert workspace.endpoints.find(stage.name) is not None


def test_a_model_version_that_was_created_again_is_deployed_again(stage: Stage) -> None:
    run = stage.registered("run", None, "registration.name=recreated")
    config, workspace = stage.session("registration.name=recreated")
    first = run.read(Registered)
    assert register(config, run, workspace) == first
    stage.delete_model("recreated", first.version)
    # Another run registers the same job under the same version.
    stage.registered("other", None, "registration.name=recreated")
    second = register(config, run, workspace)
    assert second.model == first.model
    assert second.identity != first.identity
    assert deployment_name(config.endpoint, second.model, second.identity) != deployment_name(config.endpoint, first.model, first.identity)


def test_a_training_job_that_was_created_again_is_not_registered(stage: Stage) -> None:
    run = behind_the_gate(stage.tmp_path / "run", stage.job, identity="2020-01-01T00:00:00+00:00")
    config, workspace = stage.session()
    with pytest.raises(RegistrationError, match="was created again at") as caught:
        register(config, run, workspace)
    assert "--from train" in caught.value.fix


def test_teardown_deletes_a_deployment_that_only_has_the_name_of_the_one_kept_for_rollback(beside: Stage) -> None:
    champion = beside.champion()
    config, workspace = beside.session("endpoint.deployment_prefix=kept")
    run = beside.registered("run", workspace.endpoints.get_live_model(beside.name))
    deployed = deploy(config, run, workspace)
    resource = f"deployment {deployed.deployment} of {beside.name}"
    for identity, expected in ((deployed.identity, ()), ("of another one", (resource,))):
        tags = {PREVIOUS: deployed.deployment, PREVIOUS_ID: identity}
        workspace.endpoints.set_traffic(beside.name, {champion: 100}, tags=tags)
        torn = teardown(config, run, workspace)
        assert [name for name in torn.deleted if name.startswith("deployment")] == list(expected)
        assert (torn.refused.get(resource) == "is kept for rollback") is (expected == ())
    assert beside.champion() == champion
    workspace.endpoints.set_traffic(beside.name, {champion: 100}, tags={PREVIOUS: "", PREVIOUS_ID: ""})


def test_a_second_promotion_keeps_or_deletes_the_previous_deployment(stage: Stage) -> None:
    first = stage.live()
    second = stage.live("endpoint.deployment_prefix=second")
    assert stage.traffic() == {first: 0, second: 100}
    endpoint, kept = stage.workspace.endpoints.get(stage.name), stage.workspace.endpoints.find_deployment(stage.name, first)
    assert kept is not None
    assert (endpoint.tags[PREVIOUS], endpoint.tags[PREVIOUS_ID]) == (first, kept.identity)

    # What is kept for rollback is not for teardown to take, and what is live even less.
    config, workspace = stage.session()
    torn = teardown(config, Run(stage.tmp_path / "champion"), workspace)
    assert torn.deleted == ()
    assert set(torn.refused.values()) == {"is kept for rollback", "takes 100 % of the traffic"}

    # The first one, nobody's way back any more, is removed before the third is created: both would need quota.
    third = stage.live("endpoint.deployment_prefix=third")
    assert stage.traffic() == {second: 0, third: 100}

    # The second one costs as much as a live one, so it is kept for a day only, and then removed by the reaper.
    endpoint = workspace.endpoints.get(stage.name)
    left = datetime.fromisoformat(endpoint.tags[PREVIOUS_UNTIL]) - datetime.now(UTC)
    assert timedelta(hours=23) < left <= timedelta(hours=24)
    reap(config, workspace, delete=True)
    assert stage.traffic() == {second: 0, third: 100}
    past = (datetime.now(UTC) - timedelta(minutes=1)).isoformat()
    workspace.endpoints.set_traffic(stage.name, {third: 100}, tags={PREVIOUS_UNTIL: past})
    reap(config, workspace, delete=False)
    assert stage.traffic() == {second: 0, third: 100}
    reap(config, workspace, delete=True)
    assert stage.traffic() == {third: 100}

    fourth = stage.live("endpoint.deployment_prefix=fourth", "endpoint.keep_previous=false")
    assert stage.traffic() == {fourth: 100}


@pytest.mark.parametrize(
    ("fault_name", "kind", "is_reserved"),
    [
        ("deployment-unhealthy", "ResourceNotReady", True),
        ("deployment-quota", "OutOfQuota", False),
        ("deployment-image", "ImageBuildFailure", False),
    ],
)
def test_a_first_deployment_that_fails_leaves_nothing_behind(
    fault_name: str, kind: str, is_reserved: bool, stage: Stage, fault: Fault
) -> None:
    run = stage.registered()
    config, workspace = stage.session()
    if is_reserved:
        # As validate does, so that a name that is taken is noticed before the training.
        workspace.endpoints.create(config.endpoint, {RESERVED: "true"})
    fault(f"{fault_name}@*")
    with pytest.raises(DeploymentFailed, match=kind) as caught:
        deploy(config, run, workspace)
    assert caught.value.fix
    assert f"Endpoint {stage.name}, which this run created, was deleted" in str(caught.value)
    assert workspace.endpoints.find(stage.name) is None
    assert not run.has(Deployed)


def test_a_reserved_endpoint_to_which_another_run_has_deployed_meanwhile_is_kept(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    run = stage.registered()
    config, workspace = stage.session()
    workspace.endpoints.create(config.endpoint, {RESERVED: "true"})
    create = Endpoints.deploy

    def deploy_beside(self: Endpoints, settings: EndpointConfig, name: str, model: str, tags: dict[str, str]) -> None:
        create(self, settings, "faster", model, tags)
        raise DeploymentFailed("Too slow.")

    monkeypatch.setattr(Endpoints, "deploy", deploy_beside)
    with pytest.raises(DeploymentFailed, match="another run has deployed to it in the meantime"):
        deploy(config, run, workspace)
    assert [view.name for view in workspace.endpoints.list_deployments(stage.name)] == ["faster"]


def test_a_failed_deployment_leaves_the_champion_alone(beside: Stage, fault: Fault) -> None:
    champion = beside.champion()
    run = beside.registered("run", beside.workspace.endpoints.get_live_model(beside.name))
    fault("deployment-unhealthy@*")
    config, workspace = beside.session("endpoint.deployment_prefix=sick")
    with pytest.raises(DeploymentFailed, match=r"traffic of \w+ is unchanged"):
        deploy(config, run, workspace)
    assert beside.champion() == champion
    assert not any(name.startswith("sick") for name in beside.traffic())


def test_a_failed_promotion_restores_the_traffic(beside: Stage, monkeypatch: pytest.MonkeyPatch, fault: Fault) -> None:
    champion = beside.champion()
    config, workspace = beside.session("endpoint.deployment_prefix=next")
    run = beside.registered("run", workspace.endpoints.get_live_model(beside.name))
    deployed = deploy(config, run, workspace)
    smoke_test(config, run, workspace)
    monkeypatch.setattr("mlops.cloud.traffic.PAUSE_S", 0.01)
    fault(f"scoring-503@{deployed.deployment} x5")
    with pytest.raises(TrafficError, match="does not serve requests to") as caught:
        promote(config, run, workspace)
    assert "The traffic was restored" in str(caught.value)
    assert beside.champion() == champion
    assert PREVIOUS not in workspace.endpoints.get(beside.name).tags
    assert not run.has(Promoted)


def identity_of(workspace: Workspace, endpoint: str, deployment: str) -> str:
    view = workspace.endpoints.find_deployment(endpoint, deployment)
    assert view is not None
    return identify(view.identity, view.creator)


def stop_after_the_switch(stage: Stage, monkeypatch: pytest.MonkeyPatch, run: Run, *overrides: str) -> None:
    """Promote, and lose the runner right after the traffic has moved: not even clean-up code runs."""
    config, workspace = stage.session(*overrides)
    with monkeypatch.context() as patch:
        patch.setattr("mlops.promote._verify", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        patch.setattr("mlops.cloud.traffic.undo", lambda *_, **__: "")
        with pytest.raises(KeyboardInterrupt):
            promote(config, run, workspace)


def test_a_promotion_that_was_killed_is_finished_or_undone_by_another_machine(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, fault: Fault, capsys: pytest.CaptureFixture[str]
) -> None:
    first = stage.live()
    prefix = "endpoint.deployment_prefix=next"
    config, workspace = stage.session(prefix)
    run = stage.registered("run", workspace.endpoints.get_live_model(stage.name))
    second = deploy(config, run, workspace).deployment
    smoke_test(config, run, workspace)
    stop_after_the_switch(stage, monkeypatch, run, prefix)
    assert stage.traffic() == {first: 0, second: 100}

    # Another run: it must not touch anything while that one may be at work.
    monkeypatch.setenv("GITHUB_RUN_ID", "another")
    config, workspace = stage.session(prefix)
    with pytest.raises(TrafficError, match="is moving the traffic of"):
        promote(config, run, workspace)
    with pytest.raises(TrafficError, match="is moving the traffic of"):
        rollback(config, workspace)
    recover(config, workspace)
    assert "nothing to do: Run " in capsys.readouterr().out
    torn = teardown(config, Run(stage.tmp_path / "champion"), workspace)
    assert "run `mlops recover`" in torn.refused[f"deployment {first} of {stage.name}"]
    assert CHANGE in workspace.endpoints.get(stage.name).tags

    # Its time is over, and the new deployment doesn't answer: undone.
    expire(workspace, stage.name)
    monkeypatch.setattr("mlops.cloud.traffic.PAUSE_S", 0.01)
    fault(f"scoring-503@{second} x5")
    recover(config, workspace)
    assert stage.traffic() == {first: 100, second: 0}
    assert CHANGE not in workspace.endpoints.get(stage.name).tags
    recover(config, workspace)

    # Killed again, and it answers: finished, with the way back.
    stop_after_the_switch(stage, monkeypatch, run, prefix)
    expire(workspace, stage.name)
    recover(config, workspace)
    assert stage.traffic() == {first: 0, second: 100}
    tags = workspace.endpoints.get(stage.name).tags
    assert (CHANGE in tags, tags[PREVIOUS]) == (False, first)
    # The run itself, started again, has nothing left to do.
    assert promote(config, run, workspace).previous == first
    assert stage.traffic() == {first: 0, second: 100}


@pytest.fixture
def canary(beside: Stage, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Config, Run, Workspace, str]]:
    """A deployment that has passed its smoke test, before it is compared with the champion, with rows enough for that."""
    monkeypatch.setattr(beside, "rows", ROWS)
    monkeypatch.setattr(beside, "promotion", CANARY)
    monkeypatch.setattr("mlops.cloud.traffic.PAUSE_S", 0.01)
    champion = beside.champion()
    config, workspace = beside.session("endpoint.deployment_prefix=canary")
    run = beside.registered("run", workspace.endpoints.get_live_model(beside.name))
    new = deploy(config, run, workspace).deployment
    smoke_test(config, run, workspace)
    yield config, run, workspace, new
    if beside.traffic()[champion] != 100:
        workspace.endpoints.set_traffic(beside.name, {champion: 100}, tags={CHANGE: "", PREVIOUS: "", PREVIOUS_ID: ""})


Rollout = tuple[Config, Run, Workspace, str]


@contextmanager
def users(stage: Stage, pause_s: float = 0.0) -> Iterator[list[ScoringResponse]]:
    """Somebody who sends one request after another, without naming a deployment; the responses, complete after the block."""
    responses: list[ScoringResponse] = []
    client = stage.workspace.endpoints.open_client(stage.workspace.endpoints.get(stage.name), timeout_s=30)
    is_over = threading.Event()

    def send() -> None:
        while not is_over.is_set():
            responses.append(client.invoke(build_payload([{"role": "user", "content": "Hello?"}], 4)))
            is_over.wait(pause_s)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield responses
    finally:
        is_over.set()
        thread.join()


def test_users_notice_nothing_of_a_canary_a_rollback_and_a_new_deployment(
    beside: Stage, canary: Rollout, capsys: pytest.CaptureFixture[str]
) -> None:
    champion = beside.champion()
    config, run, workspace, new = canary
    with users(beside, pause_s=0.02) as responses:
        promoted = promote(config, run, workspace)
        assert promoted.steps == ({champion: 95, new: 5}, {champion: 75, new: 25}, {new: 100})
        assert nonzero(beside.traffic()) == {new: 100}
        wait_for_an_answer_of(new, responses)
        rollback(config, workspace)
        assert nonzero(beside.traffic()) == {champion: 100}
        wait_for_an_answer_of(champion, responses)
        # The deployment that was rolled back is deleted first, since both need quota.
        config, workspace = beside.session("endpoint.deployment_prefix=again")
        again = deploy(config, run, workspace).deployment
        smoke_test(config, run, workspace)
        assert new not in beside.traffic()
        promote(config, run, workspace)
        wait_for_an_answer_of(again, responses)
    assert [response.reason for response in responses if response.status != 200] == []
    assert {response.deployment for response in responses} == {champion, new, again}
    assert promoted.canary is not None
    assert {measure.name: (measure.difference, measure.finding) for measure in promoted.canary.measures} == dict.fromkeys(
        ("usable answers", "ROUGE-L", "answers in time"), (0.0, "not worse")
    )
    assert CHANGE not in workspace.endpoints.get(beside.name).tags
    assert f"{new} takes 25 %" in capsys.readouterr().out
    # The records are those of the last promotion.
    assert Run(run.directory).read(Promoted).deployment == again


def wait_for_an_answer_of(deployment: str, responses: list[ScoringResponse]) -> None:
    """Wait until a user has got an answer of a deployment, not counting those before now."""
    seen = len(responses)
    while deployment not in {response.deployment for response in responses[seen:]} and len(responses) < seen + 1000:
        time.sleep(0.01)


def test_a_deployment_that_is_much_slower_is_stopped_before_it_has_traffic(
    beside: Stage, canary: Rollout, monkeypatch: pytest.MonkeyPatch
) -> None:
    champion = beside.champion()
    config, run, workspace, new = canary
    config = config.model_copy(update={"promotion": config.promotion.model_copy(update={"latency_floor_ms": 30_000.0})})
    invoke = EndpointClient.invoke

    def invoke_slowly(self: EndpointClient, body: Mapping[str, Any], deployment: str | None = None) -> ScoringResponse:
        response = invoke(self, body, deployment)
        return dataclasses.replace(response, latency_ms=55_000.0) if deployment == new else response

    monkeypatch.setattr(EndpointClient, "invoke", invoke_slowly)
    with pytest.raises(CanaryStopped, match=r"answers in time -\d+\.\d points in \d+ pairs: worse.*is 55000 ms.*the limit is 30000 ms"):
        promote(config, run, workspace)
    assert nonzero(beside.traffic()) == {champion: 100}


def test_a_deployment_that_is_replaced_during_the_comparison_gets_no_traffic(
    beside: Stage, canary: Rollout, monkeypatch: pytest.MonkeyPatch
) -> None:
    champion = beside.champion()
    config, run, workspace, new = canary
    model = run.read(Deployed).model
    compare = canaries.Rollout.compare

    def replace_it(self: canaries.Rollout) -> None:
        compare(self)
        recreate(workspace, config, new, model)

    monkeypatch.setattr(canaries.Rollout, "compare", replace_it)
    with pytest.raises(TrafficError, match=r"was deleted and created again .* so it is untested\. The traffic is unchanged"):
        promote(config, run, workspace)
    assert nonzero(beside.traffic()) == {champion: 100}
    assert CHANGE not in workspace.endpoints.get(beside.name).tags


def test_a_worse_deployment_is_stopped_before_it_has_traffic(beside: Stage, canary: Rollout, fault: Fault) -> None:
    champion = beside.champion()
    config, run, workspace, new = canary
    fault(f"scoring-424@{new} x10")
    message = f"{new} is worse than {champion} .usable answers -100.0 points in 10 pairs"
    with users(beside) as responses, pytest.raises(CanaryStopped, match=message) as stopped:
        promote(config, run, workspace)
    assert {(response.status, response.deployment) for response in responses} == {(200, champion)}
    assert "had no traffic" in stopped.value.what
    assert nonzero(beside.traffic()) == {champion: 100}
    assert not run.has(Promoted)
    assert f"deployment {new} of {beside.name}" in teardown(config, run, workspace).deleted


def test_a_deployment_that_gets_worse_at_a_step_loses_its_traffic(beside: Stage, canary: Rollout, monkeypatch: pytest.MonkeyPatch) -> None:
    """It answers at 0 %, but the container fails as soon as it has traffic."""
    champion = beside.champion()
    config, run, workspace, new = canary
    seen: list[dict[str, int]] = []

    def fail_from_now_on(*arguments: Any, **options: Any) -> EndpointView:
        after = change_traffic(*arguments, **options)
        seen.append(nonzero(after.traffic))
        beside.emulator.azure.faults.add(f"scoring-424@{new} x5")
        return after

    change_traffic = traffic.change_traffic
    monkeypatch.setattr(traffic, "change_traffic", fail_from_now_on)
    monkeypatch.setattr("mlops.cli.canary.PAIRS_PER_STEP", 5)
    with pytest.raises(CanaryStopped) as stopped:
        promote(config, run, workspace)
    assert "The traffic was restored" in stopped.value.what
    assert seen[0] == {champion: 95, new: 5}
    assert nonzero(beside.traffic()) == {champion: 100}
    assert CHANGE not in workspace.endpoints.get(beside.name).tags


def test_too_few_rows_or_pairs_that_differ_too_much_show_nothing_and_stop_it(beside: Stage, canary: Rollout, fault: Fault) -> None:
    champion = beside.champion()
    config, run, workspace, new = canary
    strict = config.model_copy(update={"promotion": config.promotion.model_copy(update={"margin": 0.05})})
    with pytest.raises(CanaryStopped, match="30 rows of the target suite are too few to show that it is not 5 points worse; at least 121"):
        promote(strict, run, workspace)
    # A single failure of 20 is too little to call it worse, and too much to exclude that it is.
    fault(f"scoring-424@{new} x1")
    with pytest.raises(CanaryStopped, match="20 pairs don't show"):
        promote(config.model_copy(update={"promotion": config.promotion.model_copy(update={"margin": 0.35})}), run, workspace)
    assert nonzero(beside.traffic()) == {champion: 100}


def test_a_canary_that_was_killed_at_a_step_is_undone_and_no_user_notices(
    beside: Stage, canary: Rollout, monkeypatch: pytest.MonkeyPatch
) -> None:
    champion = beside.champion()
    config, run, workspace, new = canary
    with users(beside) as responses:
        with monkeypatch.context() as patch:
            patch.setattr("mlops.cli.canary.Rollout.watch", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            patch.setattr("mlops.cloud.traffic.undo", lambda *_, **__: "")
            with pytest.raises(KeyboardInterrupt):
                promote(config, run, workspace)
        assert nonzero(beside.traffic()) == {champion: 95, new: 5}
        # Another run must not touch it before its time is over.
        monkeypatch.setenv("GITHUB_RUN_ID", "another")
        recover(config, beside.open(config))
        assert nonzero(beside.traffic()) == {champion: 95, new: 5}
        while new not in {response.deployment for response in responses} and len(responses) < 1000:
            time.sleep(0.01)
        expire(workspace, beside.name)
        recover(config, beside.open(config))
    assert nonzero(beside.traffic()) == {champion: 100}
    assert CHANGE not in workspace.endpoints.get(beside.name).tags
    assert {response.deployment for response in responses} == {champion, new}
    assert [response.reason for response in responses if response.status != 200] == []


def mirroring(config: Config, share: int = 50) -> Config:
    return config.model_copy(update={"promotion": config.promotion.model_copy(update={"mirror": share})})


def answers_of(workspace: Workspace, endpoint: str, deployment: str) -> int:
    log = workspace.session.ml.online_deployments.get_logs(deployment, endpoint, lines=5000)
    return str(log).count("POST /score 200")


def test_the_new_deployment_is_compared_while_it_gets_a_copy_of_the_requests(
    beside: Stage, canary: Rollout, monkeypatch: pytest.MonkeyPatch
) -> None:
    champion = beside.champion()
    config, run, workspace, new = canary
    changes: list[tuple[dict[str, int], dict[str, int]]] = []
    copies: list[int] = []
    apply, ask = Endpoints.set_traffic, canaries.Rollout._ask

    def record(self: Endpoints, *arguments: Any, **options: Any) -> EndpointView:
        after = apply(self, *arguments, **options)
        changes.append((nonzero(after.traffic), dict(after.mirror)))
        return after

    def ask_when_copies_have_arrived(self: canaries.Rollout, question: Question) -> None:
        while not copies:
            copies.extend(range(answers_of(workspace, beside.name, new) - before))
        ask(self, question)

    before = answers_of(workspace, beside.name, new)
    monkeypatch.setattr(Endpoints, "set_traffic", record)
    monkeypatch.setattr(canaries.Rollout, "_ask", ask_when_copies_have_arrived)
    with users(beside, pause_s=0.1) as responses:
        promoted = promote(mirroring(config), run, workspace)
    assert [response.reason for response in responses if response.status != 200] == []
    assert changes == [
        ({champion: 100}, {new: 50}),
        ({champion: 100}, {}),
        ({champion: 95, new: 5}, {}),
        ({champion: 75, new: 25}, {}),
        ({new: 100}, {}),
        ({new: 100}, {}),
    ]
    assert copies, "the first request that it got was a copy of a user's"
    assert promoted.canary is not None
    assert promoted.canary.mirrored == 50


def test_the_copies_end_when_the_comparison_fails(beside: Stage, canary: Rollout, fault: Fault) -> None:
    champion = beside.champion()
    config, run, workspace, new = canary
    fault(f"scoring-424@{new} x10")
    with pytest.raises(CanaryStopped, match=f"{new} is worse than .* {new} no longer gets copies of requests"):
        promote(mirroring(config), run, workspace)
    endpoint = workspace.endpoints.get(beside.name)
    assert (nonzero(endpoint.traffic), dict(endpoint.mirror), CHANGE in endpoint.tags) == ({champion: 100}, {}, False)


def test_copies_of_a_comparison_that_was_killed_are_ended_by_another_machine(
    beside: Stage, canary: Rollout, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    champion = beside.champion()
    config, run, workspace, new = canary
    config = mirroring(config, 10)

    def kill() -> None:
        """Lose the runner: not even clean-up code runs."""
        with monkeypatch.context() as patch:
            patch.setattr(canaries.Rollout, "_compare", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            patch.setattr("mlops.cloud.traffic._try_to_end_mirroring", lambda *_: "")
            with pytest.raises(KeyboardInterrupt):
                promote(config, run, workspace)
        assert workspace.endpoints.get(beside.name).mirror == {new: 10}

    kill()
    torn = teardown(config, Run(beside.tmp_path / "champion"), workspace)
    assert torn.refused[f"deployment {new} of {beside.name}"] == "gets a copy of 10 % of the traffic"
    with pytest.raises(TrafficError, match="gets a copy of 10 % of the traffic of common and was not deleted"):
        workspace.endpoints.delete_deployment(beside.name, new)
    # Another run must not touch it before its time is over.
    with monkeypatch.context() as patch:
        patch.setenv("GITHUB_RUN_ID", "another")
        other = beside.open(config)
        with pytest.raises(Busy, match=f"is comparing {new} with a copy of 10 % of the requests to common"):
            rollback(config, other)
        recover(config, other)
        assert workspace.endpoints.get(beside.name).mirror == {new: 10}
        expire(workspace, beside.name)
        recover(config, other)
    endpoint = workspace.endpoints.get(beside.name)
    assert (nonzero(endpoint.traffic), dict(endpoint.mirror), CHANGE in endpoint.tags) == ({champion: 100}, {}, False)
    assert f"stopped while {new} got a copy of 10 % of the requests to common. The mirroring was ended" in capsys.readouterr().err
    # The same run, started again, ends it itself and compares again.
    kill()
    promoted = promote(config, run, workspace)
    assert promoted.canary is not None
    assert (promoted.canary.mirrored, dict(workspace.endpoints.get(beside.name).mirror)) == (10, {})


def test_the_users_own_mirroring_is_left_alone(beside: Stage, canary: Rollout, monkeypatch: pytest.MonkeyPatch) -> None:
    champion = beside.champion()
    config, run, workspace, new = canary
    workspace.endpoints.set_traffic(beside.name, {champion: 100}, mirror={new: 20})
    for settings in (config, mirroring(config)):
        with pytest.raises(Busy, match=f"already mirrors 20 % of its traffic to {new}, which this pipeline did not begin"):
            promote(settings, run, workspace)
    with pytest.raises(Busy, match="already mirrors") as refused:
        traffic.change_traffic(workspace, workspace.endpoints.get(beside.name), new, identity=identity_of(workspace, beside.name, new))
    assert refused.value.fix == f"end it: `az ml online-endpoint update -n common --mirror-traffic {new}=0`"
    assert workspace.endpoints.get(beside.name).mirror == {new: 20}

    # Mirrored to somebody else: fine without promotion.mirror, and it stays.
    shadow = workspace.endpoints.find_deployment(beside.name, new)
    assert shadow is not None
    workspace.endpoints.deploy(config.endpoint, "shadow", shadow.model, {})
    workspace.endpoints.set_traffic(beside.name, {champion: 100}, mirror={"shadow": 20})
    with pytest.raises(Busy, match="to shadow, which this pipeline did not begin") as refused:
        promote(mirroring(config), run, workspace)
    assert "or set promotion.mirror = 0" in refused.value.fix
    promoted = promote(config, run, workspace)
    assert (promoted.traffic_now[new], workspace.endpoints.get(beside.name).mirror) == (100, {"shadow": 20})
    workspace.endpoints.set_traffic(beside.name, {champion: 100}, mirror={}, tags={PREVIOUS: "", PREVIOUS_ID: ""})

    # Changed by hand during the comparison: what it has shown is not what was asked for.
    def interfere(self: canaries.Rollout) -> None:
        workspace.endpoints.set_traffic(beside.name, {champion: 100}, mirror={"shadow": 5})

    monkeypatch.setattr(canaries.Rollout, "_compare", interfere)
    with pytest.raises(TrafficError, match="Somebody else changed the mirroring of common"):
        promote(mirroring(config), run, workspace)
    after = workspace.endpoints.get(beside.name)
    assert (dict(after.mirror), CHANGE in after.tags, after.traffic[new]) == ({"shadow": 5}, False, 0)
    workspace.endpoints.set_traffic(beside.name, {champion: 100}, mirror={})
    workspace.endpoints.delete_deployment(beside.name, "shadow")


@pytest.mark.parametrize(
    ("was", "share", "expected"),
    [
        ({}, 100, {"new": 100}),
        ({"old": 100}, 5, {"old": 95, "new": 5}),
        ({"old": 100}, 100, {"new": 100}),
        ({"a": 50, "b": 49, "new": 1}, 25, {"a": 38, "b": 37, "new": 25}),
    ],
)
def test_the_others_share_the_rest_of_the_traffic(was: dict[str, int], share: int, expected: dict[str, int]) -> None:
    assert Change(run="r", until=datetime.now(UTC), was=was, to="new", share=share).traffic == expected


def expire(workspace: Workspace, endpoint: str) -> None:
    """Let the unfinished change of an endpoint be abandoned."""
    view = workspace.endpoints.get(endpoint)
    change = read_change(view)
    assert change is not None
    old = change.model_copy(update={"until": datetime.now(UTC) - timedelta(minutes=1)})
    workspace.endpoints.set_traffic(endpoint, view.traffic, tags={CHANGE: old.model_dump_json()})


def test_a_change_of_the_traffic_by_somebody_else_is_respected(beside: Stage) -> None:
    champion = beside.champion()
    config, workspace = beside.session()
    before = workspace.endpoints.get(beside.name)
    other = dataclasses.replace(before, traffic={"somebody-else": 100})
    with pytest.raises(Busy, match="somebody else has changed it"):
        traffic.change_traffic(workspace, other, champion, identity=identity_of(workspace, beside.name, champion))
    assert beside.champion() == champion
    workspace.endpoints.set_traffic(beside.name, {champion: 100}, tags={CHANGE: "not json"})
    with pytest.raises(TrafficError, match="is not a change of its traffic"):
        recover(config, workspace)
    workspace.endpoints.set_traffic(beside.name, {champion: 100}, tags={CHANGE: ""})


def test_without_keep_previous_an_interrupted_deletion_leaves_nothing_that_teardown_keeps(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = stage.live()
    options = ("endpoint.deployment_prefix=next", "endpoint.keep_previous=false")
    config, workspace = stage.session(*options)

    def refuse(*_: object) -> None:
        raise AzureError("HTTP 403 AuthorizationFailed")

    with monkeypatch.context() as patch:
        patch.setattr(Endpoints, "delete_deployment", refuse)
        with pytest.raises(AzureError, match="403"):
            stage.live(*options)
    assert stage.traffic()[first] == 0
    assert teardown(config, Run(stage.tmp_path / "champion"), workspace).deleted == (f"deployment {first} of {stage.name}",)


@pytest.mark.parametrize(("fault_name", "state"), [("endpoint-failed", "Failed"), ("operation-canceled", "Canceled")])
def test_an_endpoint_whose_creation_failed_is_created_again(stage: Stage, fault: Fault, fault_name: str, state: str) -> None:
    run = stage.registered()
    config, workspace = stage.session()
    fault(f"{fault_name}@{stage.name}")
    with pytest.raises(AzureError):
        deploy(config, run, workspace)
    left = workspace.endpoints.find(stage.name)
    assert left is not None
    assert left.state == state
    assert deploy(config, run, workspace).endpoint_created
    assert workspace.endpoints.get(stage.name).state == "Succeeded"


def test_a_live_endpoint_whose_last_update_failed_serves_and_is_deployed_to(beside: Stage, fault: Fault) -> None:
    champion = beside.champion()
    config, workspace = beside.session("endpoint.deployment_prefix=next")
    before = workspace.endpoints.get(beside.name)
    for name, state in (("operation-failed", "Failed"), ("operation-canceled", "Canceled")):
        fault(f"{name}@{beside.name}")
        with pytest.raises(AzureError, match=f"The operation on {beside.name}"):
            workspace.endpoints.set_traffic(beside.name, before.traffic, tags={"note": "x"})
        assert workspace.endpoints.get(beside.name).state == state
        deploy(config, beside.registered(state, workspace.endpoints.get_live_model(beside.name)), workspace)
        after = workspace.endpoints.get(beside.name)
        assert (after.state, after.identity, beside.champion()) == ("Succeeded", before.identity, champion)


def test_production_is_deleted_only_on_request(stage: Stage) -> None:
    config, workspace = stage.session()
    workspace.endpoints.create(config.endpoint, {})
    run = Run(stage.tmp_path / "run")
    assert teardown(config, run, workspace).deleted == ()
    assert workspace.endpoints.find(stage.name) is not None
    assert teardown(config, run, workspace, yes_delete_production=True).deleted == (f"endpoint {stage.name}",)


def test_resources_that_vanish_during_teardown_count_as_deleted(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    config, workspace = stage.session(ephemeral=True)
    workspace.endpoints.create(config.endpoint, {})
    read = Endpoints.list_deployments

    def list_deployments(self: Endpoints, endpoint: str) -> object:
        self.delete(endpoint)
        return read(self, endpoint)

    with monkeypatch.context() as patch:
        patch.setattr(Endpoints, "list_deployments", list_deployments)
        torn = teardown(config, Run(stage.tmp_path / "run"), workspace)
    assert torn.refused == {}
    assert workspace.endpoints.find(stage.name) is None


def test_a_verdict_against_another_champion_is_refused(beside: Stage) -> None:
    champion = beside.champion()
    config, workspace = beside.session("endpoint.deployment_prefix=next")
    # Judged as a first run, while somebody else went live.
    run = beside.registered("run", None)
    deploy(config, run, workspace)
    smoke_test(config, run, workspace)
    with pytest.raises(NotPromoted, match="evaluate-gate"):
        promote(config, run, workspace)
    assert beside.champion() == champion


def test_the_endpoint_names_the_best_model_that_it_has_served(stage: Stage) -> None:
    stage.live()
    first = Run(stage.tmp_path / "champion").read(Registered)
    config, workspace = stage.session("endpoint.deployment_prefix=next")

    def anchor() -> tuple[str, str]:
        tags = workspace.endpoints.get(stage.name).tags
        return tags.get(ANCHOR, ""), tags.get(ANCHOR_ID, "")

    assert anchor() == (f"{first.name}:{first.version}", first.identity)
    run = stage.registered("run", workspace.endpoints.get_live_model(stage.name), "registration.name=second")
    deploy(config, run, workspace)
    smoke_test(config, run, workspace)
    traffic_now = workspace.endpoints.get(stage.name).traffic
    workspace.endpoints.set_traffic(stage.name, traffic_now, tags={ANCHOR: "another:1", ANCHOR_ID: "x"})
    with pytest.raises(NotPromoted, match=r"as the best model so far, but the tags of \S+ now name \S+/another/versions/1"):
        promote(config, run, workspace)
    workspace.endpoints.set_traffic(stage.name, traffic_now, tags={ANCHOR: f"{first.name}:{first.version}", ANCHOR_ID: first.identity})
    promote(config, run, workspace)
    second = run.read(Registered)
    assert anchor() == (f"{second.name}:{second.version}", second.identity)
    # What was rolled back is not the best model any more; the champion is.
    rollback(config, workspace)
    assert anchor() == ("", "")


def test_a_failed_smoke_test_deletes_the_deployment_and_not_the_champion(beside: Stage, fault: Fault) -> None:
    champion = beside.champion()
    config, workspace = beside.session("endpoint.deployment_prefix=next")
    run = beside.registered("run", workspace.endpoints.get_live_model(beside.name))
    deployed = deploy(config, run, workspace)
    fault(f"scoring-424@{deployed.deployment} x1")
    with pytest.raises(SmokeTestFailed, match="1 of 3 answers failed") as caught:
        smoke_test(config, run, workspace)
    assert "HTTP 424" in str(caught.value)
    assert beside.champion() == champion
    assert deployed.deployment not in beside.traffic()
    assert not run.has(Deployed)
    assert not run.has(Smoked)
    # The answers are kept: they are what the user needs now.
    assert (run.directory / "smoke.jsonl").read_text().count("\n") == 3


def test_a_failed_smoke_test_of_a_first_deployment_deletes_the_endpoint(stage: Stage) -> None:
    run = stage.registered()
    config, workspace = stage.session("smoke.max_latency_ms=0.001")
    deploy(config, run, workspace)
    with pytest.raises(SmokeTestFailed, match="95 % of the answers took"):
        smoke_test(config, run, workspace)
    assert workspace.endpoints.find(stage.name) is None


def test_a_first_promotion_that_fails_or_is_interrupted_ends_without_traffic(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, fault: Fault
) -> None:
    run = stage.registered()
    config, workspace = stage.session()
    deployed = deploy(config, run, workspace)
    smoke_test(config, run, workspace)
    monkeypatch.setattr("mlops.cloud.traffic.PAUSE_S", 0.01)
    fault(f"scoring-503@{deployed.deployment} x5")
    with pytest.raises(TrafficError):
        promote(config, run, workspace)
    assert stage.traffic() == {deployed.deployment: 0}

    def interrupted(*_: object) -> None:
        assert stage.traffic() == {deployed.deployment: 100}
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("mlops.promote._verify", interrupted)
        with pytest.raises(KeyboardInterrupt):
            promote(config, run, workspace)
    assert stage.traffic() == {deployed.deployment: 0}


def test_a_first_promotion_that_is_interrupted_after_it_was_confirmed_stays_live(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    run = stage.registered()
    config, workspace = stage.session()
    deployed = deploy(config, run, workspace)
    smoke_test(config, run, workspace)
    confirm = traffic.finish

    def interrupted(*arguments: Any) -> None:
        confirm(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("mlops.promote.traffic.finish", interrupted)
        with pytest.raises(KeyboardInterrupt):
            promote(config, run, workspace)
    assert stage.traffic() == {deployed.deployment: 100}
    assert promote(config, run, workspace).traffic_now == {deployed.deployment: 100}


@pytest.mark.parametrize("verdict", [Verdict.HOLD, Verdict.REJECT])
def test_without_promote_nothing_is_registered_deployed_or_promoted(verdict: Verdict, stage: Stage) -> None:
    run = behind_the_gate(stage.tmp_path / "run", stage.job, verdict)
    config, workspace = stage.session("registration.name=never-registered")
    for step in (register, deploy, promote):
        with pytest.raises(NotPromoted, match=f"The gate says {verdict}"):
            step(config, run, workspace)
    assert workspace.assets.find_model("never-registered", {}) is None
    assert workspace.endpoints.find(stage.name) is None


def test_a_verdict_about_another_job_registers_nothing(stage: Stage) -> None:
    run = behind_the_gate(stage.tmp_path / "run", stage.job)
    judged = run.directory / "gate.json"
    judged.write_text(judged.read_text().replace(f'"candidate_job": "{stage.job}"', '"candidate_job": "other"'))
    config, workspace = stage.session()
    with pytest.raises(NotPromoted, match=r"candidate_job is 'other'"):
        register(config, run, workspace)


def test_an_endpoint_left_behind_by_an_earlier_run_gets_a_new_expiry(stage: Stage) -> None:
    late = "2020-01-01T00:00:00+00:00"
    stage.workspace.endpoints.create(stage.config().endpoint, {EXPIRES: late})
    config, workspace = stage.session("endpoint.expires_after_hours=6")
    deploy(config, stage.registered(), workspace)
    endpoint = workspace.endpoints.get(stage.name)
    left = datetime.fromisoformat(endpoint.tags[EXPIRES]) - datetime.now(UTC)
    assert timedelta(hours=5) < left <= timedelta(hours=6)
    assert not any(endpoint.traffic.values())


@pytest.mark.parametrize(
    ("tags", "ephemeral", "says"),
    [
        ({PIPELINE: MARK, TARGET: "prod"}, False, "was created for target prod, but this is target test"),
        ({PIPELINE: MARK, TARGET: "prod"}, True, "was created for target prod, but this is target test, which is ephemeral"),
        ({"made-by": "hand"}, True, "was created by hand, outside this pipeline, but this is target test, which is ephemeral"),
        ({"made-by": "hand"}, False, "was created by hand, outside this pipeline, but this is target test. Its"),
        ({PIPELINE: MARK, TARGET: "test"}, True, ""),
    ],
)
def test_the_traffic_of_another_targets_endpoint_is_not_touched(stage: Stage, tags: dict[str, str], ephemeral: bool, says: str) -> None:
    """Each target has reviewers of its own, and `--set endpoint.name=` must not lead round them."""
    _, workspace = stage.session(ephemeral=ephemeral)
    if not says:
        workspace.check_endpoint(stage.name, tags)
        return
    from azure.ai.ml.entities import ManagedOnlineEndpoint

    with pytest.raises(NotPromoted, match=says):
        workspace.check_endpoint(stage.name, tags)
    endpoint = ManagedOnlineEndpoint(name=stage.name, auth_mode="key", tags=tags)
    stage.workspace.session.ml.online_endpoints.begin_create_or_update(endpoint).result()
    config, workspace = stage.session(ephemeral=ephemeral)
    with pytest.raises(NotPromoted, match=says):
        deploy(config, stage.registered(), workspace)
    with pytest.raises(NotPromoted, match=says):
        rollback(config, workspace)
    assert stage.traffic() == {}


def test_teardown_does_not_delete_what_is_not_ours(stage: Stage) -> None:
    from azure.ai.ml.entities import ManagedOnlineEndpoint

    ml = stage.workspace.session.ml
    ml.online_endpoints.begin_create_or_update(ManagedOnlineEndpoint(name=stage.name, auth_mode="key", tags={"made-by": "hand"})).result()
    config, workspace = stage.session(ephemeral=True)
    torn = teardown(config, Run(stage.tmp_path / "run"), workspace)
    assert torn.deleted == ()
    assert "not created by this pipeline" in torn.refused[f"endpoint {stage.name}"]
    assert workspace.endpoints.find(stage.name) is not None


def test_a_single_404_does_not_hide_deployments_that_are_not_ours(stage: Stage, fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    from azure.ai.ml.entities import ManagedOnlineDeployment

    config, workspace = stage.session(ephemeral=True)
    workspace.endpoints.create(config.endpoint, {})
    deployment = ManagedOnlineDeployment(
        name="theirs",
        endpoint_name=stage.name,
        model=registered_model(workspace, stage.job),
        instance_type=config.endpoint.instance_type,
        instance_count=1,
    )
    workspace.session.ml.online_deployments.begin_create_or_update(deployment).result()
    read, faults = Endpoints.list_deployments, ["404@arm GET */deployments"]

    def list_deployments(self: Endpoints, endpoint: str) -> list[DeploymentView]:
        if faults:
            fault(faults.pop())
        return read(self, endpoint)

    with monkeypatch.context() as patch:
        # The SDK lists the deployments when it reads the endpoint, so the fault is injected later.
        patch.setattr(Endpoints, "list_deployments", list_deployments)
        torn = teardown(config, Run(stage.tmp_path / "run"), workspace)
    assert torn.deleted == ()
    assert torn.refused[f"endpoint {stage.name}"] == "has deployments that this pipeline did not create: theirs"
    assert workspace.endpoints.find_deployment(stage.name, "theirs") is not None


def test_teardown_cancels_this_runs_jobs_and_no_others(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.cloud.test_jobs import ended, submit

    config, workspace = stage.session()
    (stage.tmp_path / "ours").mkdir()
    (stage.tmp_path / "theirs").mkdir()
    ours = submit(workspace, stage.tmp_path / "ours", WAIT="1")
    with monkeypatch.context() as patch:
        patch.setenv("GITHUB_RUN_ID", "another")
        other = stage.open(config)
        theirs = submit(other, stage.tmp_path / "theirs", WAIT="1")
    torn = teardown(config, Run(stage.tmp_path / "run"), workspace)
    assert torn.deleted == (f"job {ours} (canceled)",)
    assert "another run of the pipeline" in torn.refused[f"job {theirs}"]
    assert ended(workspace, ours) == "Canceled"
    assert workspace.jobs.get(theirs).is_active
    workspace.jobs.cancel(theirs)
    assert isinstance(Run(stage.tmp_path / "run").read(TornDown), TornDown)


@pytest.mark.parametrize("ephemeral", [False, True])
def test_in_a_workflow_a_running_job_is_left_for_a_re_run_to_attach_to(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, ephemeral: bool
) -> None:
    """Its runner was lost. A pull request's job is ended all the same: nobody waits for it."""
    from tests.cloud.test_jobs import ended, submit

    for name, value in (("GITHUB_ACTIONS", "true"), ("GITHUB_REPOSITORY", "octo/chat"), ("GITHUB_RUN_ID", "7")):
        monkeypatch.setenv(name, value)
    config, workspace = stage.session(ephemeral=ephemeral)
    (stage.tmp_path / "job").mkdir()
    job = submit(workspace, stage.tmp_path / "job", WAIT="1")
    torn = teardown(config, Run(stage.tmp_path / "run"), workspace)
    if ephemeral:
        assert torn.deleted == (f"job {job} (canceled)",)
        assert ended(workspace, job) == "Canceled"
    else:
        assert "re-running the failed jobs attaches to it" in torn.refused[f"job {job}"]
        assert any(line.startswith(f"job {job}: ") for line in torn.remaining)
        assert workspace.jobs.get(job).is_active
        workspace.jobs.cancel(job)


def test_an_endpoint_that_says_it_is_deleted_and_is_not_fails_teardown(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlops.core.errors import TeardownIncomplete

    stage.workspace.endpoints.create(stage.config().endpoint, {})
    config, workspace = stage.session(ephemeral=True)
    with monkeypatch.context() as patch:
        patch.setattr(Endpoints, "delete", lambda *_: None)
        with pytest.raises(TeardownIncomplete, match=stage.name):
            teardown(config, Run(stage.tmp_path / "run"), workspace)


def test_teardown_needs_no_permission_at_the_subscription(stage: Stage, fault: Callable[[str], None]) -> None:
    config, workspace = stage.session("compute.name=torn", ephemeral=True)
    workspace.compute.ensure(config.compute)
    fault("403@arm GET */vmSizes")
    _, workspace = stage.session("compute.name=torn", ephemeral=True)
    remaining = teardown(config, Run(stage.tmp_path / "run"), workspace).remaining
    assert "compute torn: Standard_NC24ads_A100_v4, costs nothing while it is idle" in remaining
