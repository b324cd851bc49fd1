"""The way back, against the emulator: traffic moves only to what answers, and only once."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mlops.__main__ import main
from mlops.cli.rollback import rollback
from mlops.cloud.tags import PREVIOUS, PREVIOUS_ID
from mlops.cloud.workspace import Workspace
from mlops.core.config import Config, EndpointConfig
from mlops.core.errors import TrafficError
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
    tags = {PREVIOUS: "old", PREVIOUS_ID: identity(workspace, "old"), "mlops.rollback": ""}
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


def test_the_traffic_moves_back_and_can_be_moved_again(session: Session) -> None:
    config, workspace = session()
    rollback(config, workspace)
    assert state(workspace) == ({"old": 100}, "new")
    assert workspace.endpoints.get(NAME).traffic["new"] == 0, "the replaced deployment stays at 0 %"
    rollback(config, workspace)
    assert state(workspace) == ({"new": 100}, "old")


def test_a_workflow_run_rolls_back_once(session: Session, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """If somebody re-runs the job to be sure, the broken deployment must not get the traffic again."""
    for name, value in (("GITHUB_ACTIONS", "true"), ("GITHUB_REPOSITORY", "octo/chat"), ("GITHUB_RUN_ID", "1")):
        monkeypatch.setenv(name, value)
    for _ in range(2):
        config, workspace = session_again(session, capsys)
        rollback(config, workspace)
        assert state(workspace) == ({"old": 100}, "new")
    assert "has already rolled way-back back" in capsys.readouterr().out
    monkeypatch.setenv("GITHUB_RUN_ID", "2")
    config, workspace = session_again(session, capsys)
    rollback(config, workspace)
    assert state(workspace) == ({"new": 100}, "old"), "another run rolls back again"


def session_again(session: Session, capsys: pytest.CaptureFixture[str]) -> tuple[Config, Workspace]:
    capsys.readouterr()
    return session()


def test_the_previous_deployment_gets_traffic_even_if_none_has_it(session: Session) -> None:
    config, workspace = session()
    workspace.endpoints.set_traffic(NAME, {}, allow_none=True)
    rollback(config, workspace)
    assert state(workspace) == ({"old": 100}, "")


def test_without_a_previous_deployment_no_traffic_moves(session: Session) -> None:
    config, workspace = session()
    workspace.endpoints.set_traffic(NAME, {"new": 100}, tags={PREVIOUS: ""})
    with pytest.raises(TrafficError, match=r"was not kept. Its traffic is unchanged: \{'new': 100\}") as raised:
        rollback(config, workspace)
    assert "keep_previous = true" in raised.value.fix
    workspace.endpoints.set_traffic(NAME, {"new": 100}, tags={PREVIOUS: "older"})
    with pytest.raises(TrafficError, match="older no longer exists"):
        rollback(config, workspace)
    assert state(workspace) == ({"new": 100}, "older")


def test_a_previous_deployment_that_was_created_again_gets_no_traffic(session: Session, trained_job: str) -> None:
    config, workspace = session()
    workspace.endpoints.delete_deployment(NAME, "old")
    settings = EndpointConfig(name=NAME, probe_initial_delay_s=1)
    workspace.endpoints.deploy(settings, "old", registered_model(workspace, trained_job), {})
    with pytest.raises(TrafficError, match="old was deleted and created again, so it is untested"):
        rollback(config, workspace)
    assert state(workspace) == ({"new": 100}, "old")


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
