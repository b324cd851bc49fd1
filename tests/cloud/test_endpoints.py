"""What the stages don't reach: the rules of traffic, deletion and reading of endpoints."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mlops.cloud.endpoints import EndpointView, Live
from mlops.cloud.errors import NotFound
from mlops.cloud.invoke import payload
from mlops.cloud.workspace import Workspace
from mlops.core.config import EndpointConfig
from mlops.core.errors import AzureError, ConfigError, DeploymentFailed, TrafficError
from tests.support.deployments import registered_model

Fault = Callable[[str], None]
WANTED = EndpointConfig(name="rules", probe_initial_delay_s=1)
QUESTION = payload([{"role": "user", "content": "Which number?"}], 4)


@pytest.fixture
def two(workspace: Workspace, trained_job: str) -> Workspace:
    """An endpoint with the deployments ``blue`` (all of the traffic) and ``green`` (none)."""
    endpoints = workspace.endpoints
    if endpoints.find("rules") is None:
        endpoints.create(WANTED, {"colour": "red"})
        for name in ("blue", "green"):
            endpoints.deploy(WANTED, name, registered_model(workspace, trained_job), {})
    endpoints.set_traffic("rules", {"blue": 100})
    return workspace


def test_traffic_is_read_and_written_back_with_everything_else_as_it_was(two: Workspace) -> None:
    assert dict(two.endpoints.get("rules").traffic) == {"blue": 100, "green": 0}
    after = two.endpoints.set_traffic("rules", {"blue": 90, "green": 10}, tags={"note": "canary"})
    assert dict(after.traffic) == {"blue": 90, "green": 10}
    assert (after.tags["colour"], after.tags["note"]) == ("red", "canary")
    assert two.session.owns(after.tags)
    assert "note" not in two.endpoints.set_traffic("rules", {"blue": 100}, tags={"note": ""}).tags


def test_a_deployment_is_told_from_an_earlier_one_of_the_same_name(workspace: Workspace, trained_job: str) -> None:
    endpoints, identities = workspace.endpoints, []
    wanted = EndpointConfig(name="again", probe_initial_delay_s=1)
    for _ in range(2):
        endpoint = endpoints.create(wanted, {})
        deployment = endpoints.deploy(wanted, "blue", registered_model(workspace, trained_job), {})
        after = endpoints.set_traffic("again", {"blue": 100})
        found = endpoints.deployment("again", "blue")
        assert found is not None
        assert (after.identity, found.identity) == (endpoint.identity, deployment.identity)
        assert [each.identity for each in endpoints.deployments("again")] == [deployment.identity]
        identities += [endpoint.identity, deployment.identity]
        endpoints.delete("again")
    assert len({*identities, ""}) == 5


@pytest.mark.parametrize("traffic", [{}, {"blue": 0}, {"blue": 50}, {"blue": 100, "green": 1}, {"blue": 200}])
def test_traffic_that_does_not_add_up_is_refused(traffic: dict[str, int], two: Workspace) -> None:
    with pytest.raises(TrafficError, match="does not add up to 100 %"):
        two.endpoints.set_traffic("rules", traffic)
    assert two.endpoints.get("rules").traffic["blue"] == 100


def test_traffic_for_nobody_is_refused(two: Workspace) -> None:
    with pytest.raises(TrafficError, match="has no deployment purple"):
        two.endpoints.set_traffic("rules", {"purple": 100})
    assert two.endpoints.get("rules").traffic["blue"] == 100


def test_no_traffic_at_all_needs_to_be_meant(two: Workspace) -> None:
    assert set(two.endpoints.set_traffic("rules", {}, may_be_none=True).traffic.values()) == {0}
    assert two.endpoints.live_model("rules") is None


def test_deployments_of_one_model_are_one_model(two: Workspace) -> None:
    model = two.endpoints.live_model("rules")
    two.endpoints.set_traffic("rules", {"blue": 50, "green": 50})
    assert two.endpoints.live("rules") == Live(model=model, shares={model: 100} if model else {})


def test_what_stands_by_is_told_where_nothing_takes_traffic(two: Workspace, trained_job: str) -> None:
    two.endpoints.set_traffic("rules", {}, may_be_none=True)
    assert two.endpoints.live("rules").idle == (registered_model(two, trained_job),)
    assert two.endpoints.live("nowhere") == Live()


def test_a_deployment_with_traffic_is_not_deleted(two: Workspace) -> None:
    with pytest.raises(TrafficError, match="takes 100 % of the traffic"):
        two.endpoints.delete_deployment("rules", "blue")
    assert two.endpoints.deployment("rules", "blue") is not None


def test_the_header_reaches_one_deployment_and_does_not_stick(two: Workspace) -> None:
    scorer = two.endpoints.scorer(two.endpoints.get("rules"), 30)
    assert scorer.ask(QUESTION, "green").deployment == "green"
    # The SDK's own invoke would go on asking green.
    answer = scorer.ask(QUESTION)
    assert (answer.status, answer.deployment, answer.text) == (200, "blue", "That is a fine number.")


@pytest.mark.parametrize(("status", "meaning"), [(408, "longer than"), (424, "container failed"), (429, "too many"), (503, "503")])
def test_a_refused_request_is_an_answer_that_says_why(status: int, meaning: str, two: Workspace, fault: Fault) -> None:
    fault(f"scoring-{status}@blue x1")
    answer = two.endpoints.scorer(two.endpoints.get("rules"), 30).ask(QUESTION)
    # Sent once: a retry would hide it.
    assert answer.status == status
    assert meaning in answer.reason
    assert answer.text is None


def test_asking_a_deployment_that_is_not_there(two: Workspace) -> None:
    answer = two.endpoints.scorer(two.endpoints.get("rules"), 30).ask(QUESTION, "purple")
    assert answer.status == 404
    assert "no deployment takes this request" in answer.reason


def test_an_endpoint_that_is_not_there(workspace: Workspace) -> None:
    endpoints = workspace.endpoints
    assert endpoints.find("nowhere") is None
    assert endpoints.live_model("nowhere") is None
    assert endpoints.deployment("nowhere", "blue") is None
    endpoints.delete("nowhere")
    endpoints.delete_deployment("nowhere", "blue")
    with pytest.raises(NotFound):
        endpoints.get("nowhere")


@pytest.mark.parametrize(
    ("view", "error"),
    [
        (EndpointView(name="e", state="Succeeded", scoring_uri="", auth_mode="aml_token"), ConfigError),
        (EndpointView(name="e", state="Failed", scoring_uri="", auth_mode="key"), DeploymentFailed),
        (EndpointView(name="e", state="Updating", scoring_uri="", auth_mode="key"), DeploymentFailed),
    ],
)
def test_an_endpoint_that_cannot_be_used_is_refused(view: EndpointView, error: type[Exception], workspace: Workspace) -> None:
    with pytest.raises(error):
        workspace.endpoints.usable(view)


def test_the_logs_of_both_containers_are_read(two: Workspace) -> None:
    logs = two.endpoints.logs("rules", "blue")
    assert "--- inference-server ---" in logs


def test_an_operation_that_never_ends_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from mlops.cloud.endpoints import _wait

    class Endless:
        def done(self) -> bool:
            return False

        def wait(self, _seconds: float) -> None:
            pass

        def status(self) -> str:
            return "InProgress"

    with pytest.raises(AzureError, match="has not ended"):
        _wait(Endless(), "nothing", timeout_s=0.0)


def test_a_deletion_waits_for_what_somebody_else_still_makes_there(
    workspace: Workspace, trained_job: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run that was cancelled while it deployed: Azure goes on making the deployment, and says 409 to a deletion until it has ended."""
    from azure.ai.ml.entities import ManagedOnlineDeployment, ProbeSettings
    from azure.core.exceptions import HttpResponseError

    monkeypatch.setattr("mlops.cloud.endpoints.BUSY_PAUSE_S", 0.2)
    wanted = EndpointConfig(name="busy", probe_initial_delay_s=1)
    endpoints = workspace.endpoints

    def begun() -> None:
        endpoints.create(wanted, {})
        model = registered_model(workspace, trained_job)
        entity = ManagedOnlineDeployment(
            name="blue", endpoint_name="busy", model=model, instance_type=wanted.instance_type, instance_count=1,
            liveness_probe=ProbeSettings(initial_delay=1),
        )  # fmt: skip
        workspace.session.ml.online_deployments.begin_create_or_update(entity)

    begun()
    endpoints.delete("busy")
    assert "something else goes on there" in capsys.readouterr().out
    assert endpoints.find("busy") is None

    begun()
    monkeypatch.setattr("mlops.cloud.endpoints.BUSY_S", 0.0)
    with pytest.raises(AzureError) as raised:
        endpoints.delete("busy")
    assert isinstance(raised.value.__cause__, HttpResponseError)
    assert raised.value.__cause__.status_code == 409
    monkeypatch.setattr("mlops.cloud.endpoints.BUSY_S", 60.0)
    endpoints.delete_deployment("busy", "blue")
    assert endpoints.deployment("busy", "blue") is None
    endpoints.delete("busy")
