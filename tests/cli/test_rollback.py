"""The way back, against the emulator: traffic moves only to what answers, and only once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlops.__main__ import main
from mlops.cli.recover import recover
from mlops.cli.rollback import rollback
from mlops.cloud import traffic
from mlops.cloud.tags import (
    OVERRIDE,
    PREVIOUS,
    PREVIOUS_ID,
    PREVIOUS_MODEL,
    ROLLED_BACK,
    ROLLED_BACK_BY,
    SERVED_MODEL,
    TARGET,
    VERDICT,
    fit,
)
from mlops.cloud.traffic_change import identify
from mlops.cloud.workspace import Workspace
from mlops.core.errors import TrafficError
from mlops.core.run import Run
from mlops.core.settings import Config, EndpointConfig
from mlops.emulator.identity import entra
from mlops.emulator.server import Emulator
from mlops.teardown import teardown
from tests.support.deployments import registered_model

Settings = Callable[..., Config]
Open = Callable[[Config], Workspace]
Fault = Callable[[str], None]

NAME = "way-back"
TOML = f'[targets.test.endpoint]\nname = "{NAME}"\n'
Session = Callable[[], tuple[Config, Workspace]]


@pytest.fixture
def session(inside: object, settings: Settings, open_workspace: Open, trained_job: str, monkeypatch: pytest.MonkeyPatch) -> Session:
    """An endpoint whose ``old`` deployment was kept when ``new`` was promoted. Opens a session with the current environment."""
    for name in ("GITHUB_ACTIONS", "GITHUB_RUN_ID", "GITHUB_REPOSITORY"):
        monkeypatch.delenv(name, raising=False)

    def opened() -> tuple[Config, Workspace]:
        config = settings(TOML)
        return config, open_workspace(config)

    _, workspace = opened()
    if workspace.endpoints.find(NAME) is None:
        workspace.endpoints.create(EndpointConfig(name=NAME), {})
    for name in ("old", "new"):
        if workspace.endpoints.find_deployment(NAME, name) is None:
            endpoint = EndpointConfig(name=NAME, probe_initial_delay_s=1)
            workspace.endpoints.deploy(endpoint, name, registered_model(workspace, trained_job), {})
    tags = {PREVIOUS: "old", PREVIOUS_ID: identity(workspace, "old"), PREVIOUS_MODEL: "", ROLLED_BACK: "", ROLLED_BACK_BY: ""}
    workspace.endpoints.set_traffic(NAME, {"new": 100}, tags=tags)
    return opened


def identity(workspace: Workspace, name: str) -> str:
    deployment = workspace.endpoints.find_deployment(NAME, name)
    assert deployment is not None
    return deployment.identity


def state(workspace: Workspace) -> tuple[dict[str, int], str]:
    """Traffic, and the previous deployment."""
    endpoint = workspace.endpoints.get(NAME)
    return {name: share for name, share in endpoint.traffic.items() if share}, endpoint.tags.get(PREVIOUS, "")


def test_a_second_rollback_does_not_go_forward_and_undoing_it_is_explicit(session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    config, workspace = session()
    rollback(config, workspace)
    assert state(workspace) == ({"old": 100}, "new")
    assert workspace.endpoints.get(NAME).traffic["new"] == 0, "the replaced deployment stays at 0 %"
    rollback(config, workspace)
    assert state(workspace) == ({"old": 100}, "new")
    assert "`mlops rollback --target test --to new`" in capsys.readouterr().err
    torn = teardown(config, Run(Path(config.file).parent / "run"), workspace)
    assert torn.refused[f"deployment new of {NAME}"] == "is kept for rollback"
    rollback(config, workspace, "new")
    assert state(workspace) == ({"new": 100}, "old")


def test_a_rollback_that_was_killed_is_finished_as_a_rollback(session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    """Or the next one would go forward to the bad model."""
    config, workspace = session()
    # What is there when the process is killed right after the request that moves the traffic.
    old = workspace.endpoints.find_deployment(NAME, "old")
    assert old is not None
    traffic.change_traffic(workspace, workspace.endpoints.get(NAME), "old", identity=identify(old.identity, old.creator), back=True)
    recover(config, workspace)
    assert state(workspace) == ({"old": 100}, "new")
    rollback(config, workspace)
    assert state(workspace) == ({"old": 100}, "new")
    assert "has already been rolled back from new" in capsys.readouterr().err


def test_an_interrupt_right_after_a_rollback_was_confirmed_undoes_nothing(
    session: Session, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the tags of the rollback on the traffic from before, the next rollback would do nothing, and the bad model stay."""
    config, workspace = session()
    finish = traffic.finish

    def interrupted(*arguments: Any) -> None:
        finish(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(traffic, "finish", interrupted)
        with pytest.raises(KeyboardInterrupt):
            rollback(config, workspace)
    assert "old was already confirmed and stays live" in capsys.readouterr().err
    assert state(workspace) == ({"old": 100}, "new")
    rollback(config, workspace)
    assert state(workspace) == ({"old": 100}, "new")


def test_a_workflow_run_rolls_back_once(session: Session, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """If somebody re-runs the job to be sure, nothing happens, even if it names a deployment."""
    for name, value in (("GITHUB_ACTIONS", "true"), ("GITHUB_REPOSITORY", "octo/chat"), ("GITHUB_RUN_ID", "1")):
        monkeypatch.setenv(name, value)
    config, workspace = session_again(session, capsys)
    for to in ("", "", "new"):
        rollback(config, workspace, to)
        assert state(workspace) == ({"old": 100}, "new")
    assert "has already rolled way-back back" in capsys.readouterr().out


def test_a_deployment_that_is_gone_is_deployed_again_from_its_model(session: Session, trained_job: str, fault: Fault) -> None:
    config, workspace = session()
    name, version = registered_model(workspace, trained_job).split("/models/")[1].split("/versions/")
    workspace.endpoints.set_traffic(NAME, {"new": 100}, tags={PREVIOUS_MODEL: f"{name}:{version}"})
    workspace.endpoints.delete_deployment(NAME, "old")
    before = state(workspace)
    fault("scoring-424@d-back-* x1")
    with pytest.raises(TrafficError, match="does not answer"):
        rollback(config, workspace)
    assert state(workspace) == before
    assert set(workspace.endpoints.get(NAME).traffic) == {"new"}, "what was deployed for it is deleted"
    rollback(config, workspace)
    ((live, share),) = state(workspace)[0].items()
    assert (live.startswith("d-back-"), share) == (True, 100)
    # By its name or by its model, whatever the tags say.
    rollback(config, workspace, "new")
    assert state(workspace)[0] == {"new": 100}
    workspace.endpoints.delete_deployment(NAME, live)


@pytest.fixture
def intruder(inside: Emulator, settings: Settings, open_workspace: Open, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """The same workspace and target, as another identity."""
    with monkeypatch.context() as patch:
        for name, value in entra.add_application(inside.azure).items():
            patch.setenv(name, value)
        workspace = open_workspace(settings(TOML))
        # Sign in before the environment changes back.
        assert workspace.session.creator
        assert workspace.session.ml
    return workspace


def register(workspace: Workspace, job: str, name: str, **tags: str) -> str:
    """Register a model of the job; return its full id. The gate admits it, unless its tags say otherwise."""
    path = f"azureml://jobs/{job}/outputs/trained_model"
    return workspace.assets.register_model(name=name, version="1", path=path, description="", tags={VERDICT: "PROMOTE"} | tags).id


@pytest.mark.parametrize(
    ("is_foreign", "says"), [(True, "which this target does not trust"), (False, "this pipeline did not create it for this target")]
)
def test_a_deployment_that_this_target_did_not_create_gets_no_traffic(
    session: Session, intruder: Workspace, trained_job: str, is_foreign: bool, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither by its name, nor because the endpoint's tags name it, nor because it serves the model that is asked for."""
    config, workspace = session()
    creator = intruder if is_foreign else session()[1]
    if not is_foreign:
        creator.session.tags[TARGET] = "pr"
    model = registered_model(workspace, trained_job)
    creator.endpoints.deploy(EndpointConfig(name=NAME, probe_initial_delay_s=1), "a-planted", model, {})
    with pytest.raises(TrafficError, match=says):
        rollback(config, workspace, "a-planted")
    planted = {PREVIOUS: "a-planted", PREVIOUS_ID: identity(workspace, "a-planted")}
    workspace.endpoints.set_traffic(NAME, {"new": 100}, tags=planted)
    with pytest.raises(TrafficError, match="it does not record what was live before"):
        rollback(config, workspace)
    assert says in capsys.readouterr().err
    assert state(workspace) == ({"new": 100}, "a-planted")
    name, version = model.split("/models/")[1].split("/versions/")
    rollback(config, workspace, f"{name}:{version}")
    assert state(workspace)[0] == {"new": 100}, "it serves this model already"
    workspace.endpoints.set_traffic(NAME, {}, allow_none=True)
    rollback(config, workspace, f"{name}:{version}")
    assert state(workspace)[0].keys() <= {"new", "old"}
    workspace.endpoints.delete_deployment(NAME, "a-planted")


@pytest.mark.parametrize("is_foreign", [True, False])
def test_a_deployment_with_the_name_of_an_interrupted_attempt_gets_no_traffic(
    session: Session, intruder: Workspace, trained_job: str, is_foreign: bool
) -> None:
    config, workspace = session()
    creator = intruder if is_foreign else workspace
    good = register(workspace, trained_job, "asked-for")
    served = good if is_foreign else register(workspace, trained_job, "not-asked-for")
    name = f"d-back-{hashlib.sha256(good.lower().encode()).hexdigest()[:8]}"
    creator.endpoints.deploy(EndpointConfig(name=NAME, probe_initial_delay_s=1), name, served, {SERVED_MODEL: fit(served)})
    with pytest.raises(TrafficError, match=f"has a deployment {name} that"):
        rollback(config, workspace, "asked-for:1")
    assert state(workspace) == ({"new": 100}, "old")
    workspace.endpoints.delete_deployment(NAME, name)


@pytest.mark.parametrize(
    ("name", "tags", "says"),
    [
        ("planted-back", None, "which this target does not trust"),
        ("of-pr", {TARGET: "pr"}, "was registered for target pr"),
        ("rejected", {VERDICT: "REJECT"}, "verdict is REJECT"),
        ("held", {VERDICT: "HOLD", OVERRIDE: "none"}, "verdict is HOLD"),
        ("rejected-by-force", {VERDICT: "REJECT", OVERRIDE: "we want it"}, "verdict is REJECT"),
        ("without-verdict", {VERDICT: ""}, "verdict is unknown"),
    ],
)
def test_a_model_that_the_gate_did_not_admit_for_this_target_is_not_deployed(
    session: Session, intruder: Workspace, trained_job: str, name: str, tags: dict[str, str] | None, says: str
) -> None:
    config, workspace = session()
    register(intruder if tags is None else workspace, trained_job, name, **tags or {})
    workspace.endpoints.set_traffic(NAME, {"new": 100}, tags={PREVIOUS: "", PREVIOUS_MODEL: f"{name}:1"})
    for to in ("", f"{name}:1"):
        with pytest.raises(TrafficError, match=says):
            rollback(config, workspace, to)
    assert state(workspace) == ({"new": 100}, "")


def test_a_hold_that_was_overridden_is_deployed_again_however_long_its_id_is(session: Session, trained_job: str) -> None:
    config, workspace = session()
    name = "overridden-" + 150 * "x"
    model = register(workspace, trained_job, name, **{VERDICT: "HOLD", OVERRIDE: "we want it (me, you)"})
    assert len(model) > 256, "Azure would refuse it as the value of a tag"
    rollback(config, workspace, f"{name}:1")
    ((live, share),) = state(workspace)[0].items()
    deployment = workspace.endpoints.find_deployment(NAME, live)
    assert deployment is not None
    assert (share, deployment.model, deployment.tags[SERVED_MODEL]) == (100, model, fit(model))
    workspace.endpoints.set_traffic(NAME, {"new": 100})
    workspace.endpoints.delete_deployment(NAME, live)


@pytest.mark.parametrize(("to", "says"), [("older", "has no deployment older"), ("answering:77", "model answering:77 does not exist")])
def test_a_missing_target_of_a_rollback_is_named_with_the_choices(session: Session, to: str, says: str) -> None:
    config, workspace = session()
    with pytest.raises(TrafficError, match=says) as raised:
        rollback(config, workspace, to)
    assert "it has new, old" in raised.value.fix
    assert state(workspace) == ({"new": 100}, "old")


def session_again(session: Session, capsys: pytest.CaptureFixture[str]) -> tuple[Config, Workspace]:
    capsys.readouterr()
    return session()


def test_the_previous_deployment_gets_traffic_even_if_none_has_it(session: Session) -> None:
    config, workspace = session()
    workspace.endpoints.set_traffic(NAME, {}, allow_none=True)
    rollback(config, workspace)
    assert state(workspace) == ({"old": 100}, "")


def test_without_anything_recorded_no_traffic_moves(session: Session) -> None:
    config, workspace = session()
    for previous in ("", "older"):
        workspace.endpoints.set_traffic(NAME, {"new": 100}, tags={PREVIOUS: previous})
        with pytest.raises(TrafficError, match=r"it does not record what was live before. Its traffic is unchanged: \{'new': 100\}"):
            rollback(config, workspace)
    assert state(workspace) == ({"new": 100}, "older")


def test_a_previous_deployment_that_was_created_again_gets_no_traffic(
    session: Session, trained_job: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config, workspace = session()
    workspace.endpoints.delete_deployment(NAME, "old")
    settings = EndpointConfig(name=NAME, probe_initial_delay_s=1)
    workspace.endpoints.deploy(settings, "old", registered_model(workspace, trained_job), {})
    with pytest.raises(TrafficError, match="it does not record what was live before"):
        rollback(config, workspace)
    assert "old was deleted and created again, so it is untested" in capsys.readouterr().err
    assert state(workspace) == ({"new": 100}, "old")


def test_a_previous_deployment_that_serves_another_model_than_recorded_gets_no_traffic(
    session: Session, trained_job: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A deployment can be updated: then it has the same creator and tags, and another model."""
    config, workspace = session()
    workspace.endpoints.set_traffic(NAME, {"new": 100}, tags={PREVIOUS_MODEL: "other:1"})
    with pytest.raises(TrafficError, match="model other:1 does not exist"):
        rollback(config, workspace)
    assert "old gets no traffic: it should serve other:1, but serves" in capsys.readouterr().err
    workspace.endpoints.set_traffic(NAME, {"new": 100}, tags={PREVIOUS_MODEL: registered_model(workspace, trained_job)})
    rollback(config, workspace)
    assert state(workspace) == ({"old": 100}, "new")


def test_a_previous_deployment_that_does_not_answer_gets_no_traffic(session: Session, fault: Fault) -> None:
    config, workspace = session()
    fault("scoring-424@old x1")
    with pytest.raises(TrafficError, match="old does not answer"):
        rollback(config, workspace)
    assert state(workspace) == ({"new": 100}, "old")


def test_a_deployment_that_is_live_already_stays_live(session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    config, workspace = session()
    workspace.endpoints.set_traffic(NAME, {"old": 100})
    rollback(config, workspace)
    assert "nothing to do: old takes all of the traffic" in capsys.readouterr().out


def test_the_command_ends_with_the_code_of_traffic(
    session: Session, monkeypatch: pytest.MonkeyPatch, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    _, workspace = session()
    workspace.endpoints.set_traffic(NAME, {"new": 100}, tags={PREVIOUS: ""})
    assert main(["rollback", "--target", "test", "--config", str(settings(TOML).file)]) == TrafficError.exit_code
    assert "can't be rolled back" in capsys.readouterr().err
