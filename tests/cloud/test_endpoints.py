"""Rules of traffic, deletion and reading of endpoints that the tests of the stages don't reach."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import pytest
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError

from mlops.cloud.answers import Answer
from mlops.cloud.endpoint_views import EndpointView, LiveModels
from mlops.cloud.endpoints import _delete, _wait
from mlops.cloud.errors import NotFound
from mlops.cloud.invoke import build_payload
from mlops.cloud.workspace import Workspace
from mlops.core.errors import AzureError, ConfigError, DeploymentFailed, TrafficError
from mlops.core.settings import EndpointConfig
from mlops.emulator.server import Emulator
from tests.support.deployments import registered_model

Fault = Callable[[str], None]
CONFIG = EndpointConfig(name="rules", probe_initial_delay_s=1)
QUESTION = build_payload([{"role": "user", "content": "Which number?"}], 4)


@pytest.fixture
def deployed(workspace: Workspace, trained_job: str) -> Workspace:
    """An endpoint with the deployments ``blue`` (all of the traffic) and ``green`` (none)."""
    endpoints = workspace.endpoints
    if endpoints.find("rules") is None:
        endpoints.create(CONFIG, {"colour": "red"})
        for name in ("blue", "green"):
            endpoints.deploy(CONFIG, name, registered_model(workspace, trained_job), {})
    endpoints.set_traffic("rules", {"blue": 100})
    return workspace


def test_setting_traffic_keeps_everything_else(deployed: Workspace) -> None:
    assert dict(deployed.endpoints.get("rules").traffic) == {"blue": 100, "green": 0}
    after = deployed.endpoints.set_traffic("rules", {"blue": 90, "green": 10}, tags={"note": "canary"})
    assert dict(after.traffic) == {"blue": 90, "green": 10}
    assert (after.tags["colour"], after.tags["note"]) == ("red", "canary")
    assert deployed.session.owns(after.tags)
    assert "note" not in deployed.endpoints.set_traffic("rules", {"blue": 100}, tags={"note": ""}).tags


def test_a_new_deployment_of_the_same_name_has_another_identity(deployed: Workspace, trained_job: str) -> None:
    endpoints = deployed.endpoints
    before = endpoints.find_deployment("rules", "green")
    assert before is not None
    endpoints.delete_deployment("rules", "green")
    after = endpoints.deploy(CONFIG, "green", registered_model(deployed, trained_job), {})
    assert len({before.identity, after.identity, ""}) == 3
    assert after.identity in [deployment.identity for deployment in endpoints.list_deployments("rules")]


def test_a_single_404_is_no_proof_that_a_deployment_is_gone(deployed: Workspace, fault: Fault) -> None:
    fault("404@arm GET */deployments/blue")
    deployment = deployed.endpoints.find_deployment("rules", "blue")
    assert deployment is not None
    assert deployment == deployed.endpoints.find_deployment("rules", "blue")
    assert deployed.endpoints.find_deployment("rules", "purple") is None
    assert deployed.endpoints.find_deployment("no-such-endpoint", "blue") is None


def test_a_single_404_is_no_proof_that_an_endpoint_is_gone(deployed: Workspace, fault: Fault) -> None:
    before = deployed.endpoints.get("rules")
    fault("404@arm GET */onlineEndpoints/rules")
    assert deployed.endpoints.find("rules") == before
    assert deployed.endpoints.find("no-such-endpoint") is None


def test_a_new_endpoint_of_the_same_name_has_another_identity(workspace: Workspace) -> None:
    config, identities = EndpointConfig(name="again"), {""}
    for _ in range(2):
        identities.add(workspace.endpoints.create(config, {}).identity)
        assert workspace.endpoints.set_traffic("again", {}, tags={"note": "same endpoint"}, allow_none=True).identity in identities
        workspace.endpoints.delete("again")
    assert len(identities) == 3


@pytest.mark.parametrize("traffic", [{}, {"blue": 0}, {"blue": 50}, {"blue": 100, "green": 1}, {"blue": 200}])
def test_traffic_that_does_not_add_up_is_refused(traffic: dict[str, int], deployed: Workspace) -> None:
    with pytest.raises(TrafficError, match="does not add up to 100 %"):
        deployed.endpoints.set_traffic("rules", traffic)
    assert deployed.endpoints.get("rules").traffic["blue"] == 100


def test_traffic_for_a_missing_deployment_is_refused(deployed: Workspace) -> None:
    with pytest.raises(TrafficError, match="has no deployment purple"):
        deployed.endpoints.set_traffic("rules", {"purple": 100})
    assert deployed.endpoints.get("rules").traffic["blue"] == 100


def test_removing_all_traffic_must_be_allowed_explicitly(deployed: Workspace) -> None:
    assert set(deployed.endpoints.set_traffic("rules", {}, allow_none=True).traffic.values()) == {0}
    assert deployed.endpoints.get_live_model("rules") is None


def test_deployments_of_one_model_are_added_up(deployed: Workspace) -> None:
    model = deployed.endpoints.get_live_model("rules")
    deployed.endpoints.set_traffic("rules", {"blue": 50, "green": 50})
    assert deployed.endpoints.get_live("rules") == LiveModels(model=model, shares={model: 100} if model else {})


def test_without_traffic_all_deployments_are_standby(deployed: Workspace, trained_job: str) -> None:
    deployed.endpoints.set_traffic("rules", {}, allow_none=True)
    assert deployed.endpoints.get_live("rules").standby == (registered_model(deployed, trained_job),)
    assert deployed.endpoints.get_live("nowhere") == LiveModels()


def test_a_deployment_with_traffic_is_not_deleted(deployed: Workspace) -> None:
    with pytest.raises(TrafficError, match="takes 100 % of the traffic"):
        deployed.endpoints.delete_deployment("rules", "blue")
    assert deployed.endpoints.find_deployment("rules", "blue") is not None


def test_the_deployment_header_applies_to_one_request(deployed: Workspace) -> None:
    client = deployed.endpoints.open_client(deployed.endpoints.get("rules"), 30)
    assert client.invoke(QUESTION, "green").deployment == "green"
    # The SDK's own invoke would keep sending requests to green.
    response = client.invoke(QUESTION)
    assert (response.status, response.deployment, response.answer()) == (200, "blue", Answer("That is a fine number.", "output"))


@pytest.mark.parametrize(("status", "meaning"), [(408, "longer than"), (424, "container failed"), (429, "too many"), (503, "503")])
def test_a_refused_request_returns_the_reason(status: int, meaning: str, deployed: Workspace, fault: Fault) -> None:
    fault(f"scoring-{status}@blue x1")
    response = deployed.endpoints.open_client(deployed.endpoints.get("rules"), 30).invoke(QUESTION)
    # The request is not retried, which would hide the failure.
    assert response.status == status
    assert meaning in response.reason


def test_a_request_to_a_missing_deployment_returns_404(deployed: Workspace) -> None:
    response = deployed.endpoints.open_client(deployed.endpoints.get("rules"), 30).invoke(QUESTION, "purple")
    assert response.status == 404
    assert "no deployment serves this request" in response.reason


def test_a_name_that_is_taken_in_the_region_names_the_settings(
    workspace: Workspace, inside: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inside.azure, "options", replace(inside.azure.options, endpoints_taken=("popular",)))
    with pytest.raises(AzureError, match="unique within a region") as caught:
        workspace.endpoints.create(EndpointConfig(name="popular"), {})
    assert "endpoint.workspace_suffix = true" in caught.value.fix


def test_a_missing_endpoint(workspace: Workspace) -> None:
    endpoints = workspace.endpoints
    assert endpoints.find("nowhere") is None
    assert endpoints.get_live_model("nowhere") is None
    assert endpoints.find_deployment("nowhere", "blue") is None
    endpoints.delete("nowhere")
    endpoints.delete_deployment("nowhere", "blue")
    with pytest.raises(NotFound):
        endpoints.get("nowhere")


@pytest.mark.parametrize(
    ("view", "error"),
    [
        (EndpointView(name="rules", state="Succeeded", scoring_uri="", auth_mode="aml_token"), ConfigError),
        (EndpointView(name="rules", state="Failed", scoring_uri="", auth_mode="key"), DeploymentFailed),
        (EndpointView(name="rules", state="Updating", scoring_uri="", auth_mode="key"), DeploymentFailed),
    ],
)
def test_an_unusable_endpoint_is_refused(view: EndpointView, error: type[Exception], workspace: Workspace) -> None:
    with pytest.raises(error):
        workspace.endpoints.check_usable(view, CONFIG)


def test_an_endpoint_is_created_with_the_configured_network_access_and_keeps_it(workspace: Workspace) -> None:
    endpoints, config = workspace.endpoints, EndpointConfig(name="behind", public_network_access="disabled")
    view = endpoints.create(config, {})
    assert endpoints.check_usable(view, config) == view
    assert endpoints.set_traffic("behind", {}, tags={"note": "x"}, allow_none=True).public_network_access == "disabled"
    with pytest.raises(ConfigError, match="Public network access of endpoint behind is disabled, but") as caught:
        endpoints.check_usable(view, EndpointConfig(name="behind"))
    assert "az ml online-endpoint update --name behind --set public_network_access=enabled" in caught.value.fix
    endpoints.delete("behind")


def test_the_logs_of_both_containers_are_read(deployed: Workspace) -> None:
    logs = deployed.endpoints.read_logs("rules", "blue")
    assert "--- inference-server ---" in logs


class Operation:
    """A long-running operation that ends, or never does."""

    def __init__(self, *, ends: bool) -> None:
        self.ends = ends

    def done(self) -> bool:
        return self.ends

    def wait(self, _seconds: float) -> None:
        pass

    def status(self) -> str:
        return "InProgress"

    def result(self) -> None:
        pass


def test_an_operation_that_never_ends_is_an_error() -> None:
    with pytest.raises(AzureError, match="has not ended"):
        _wait(Operation(ends=False), "nothing", timeout_s=0.0)


def test_a_deletion_is_retried_while_another_operation_is_running(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("mlops.cloud.endpoints.BUSY_PAUSE_S", 0.0)
    conflict = HttpResponseError("busy")
    conflict.status_code = 409
    answers: Iterator[HttpResponseError | Operation] = iter([conflict, conflict, Operation(ends=True), ResourceNotFoundError("gone")])

    def begin() -> Operation:
        answer = next(answers)
        if isinstance(answer, HttpResponseError):
            raise answer
        return answer

    _delete(begin, "deletion of it")
    assert capsys.readouterr().out.count("another operation is running") == 2
    _delete(begin, "deletion of what is gone")
    assert next(answers, None) is None


def test_a_deployment_that_is_being_created_delays_a_deletion(
    workspace: Workspace, trained_job: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """After a canceled run, Azure keeps creating its deployment, and answers 409 to a deletion until that has ended."""
    from azure.ai.ml.entities import ManagedOnlineDeployment, ProbeSettings

    monkeypatch.setattr("mlops.cloud.endpoints.BUSY_PAUSE_S", 0.2)
    config = EndpointConfig(name="busy", probe_initial_delay_s=1)
    endpoints = workspace.endpoints
    endpoints.create(config, {})
    model = registered_model(workspace, trained_job)
    entity = ManagedOnlineDeployment(
        name="blue", endpoint_name="busy", model=model, instance_type=config.instance_type, instance_count=1,
        liveness_probe=ProbeSettings(initial_delay=1),
    )  # fmt: skip
    workspace.session.ml.online_deployments.begin_create_or_update(entity)

    with monkeypatch.context() as patch:
        patch.setattr("mlops.cloud.endpoints.BUSY_TIMEOUT_S", 0.0)
        for delete in (partial(endpoints.delete, "busy"), partial(endpoints.delete_deployment, "busy", "blue")):
            with pytest.raises(AzureError) as raised:
                delete()
            assert isinstance(raised.value.__cause__, HttpResponseError)
            assert raised.value.__cause__.status_code == 409
    endpoints.delete_deployment("busy", "blue")
    assert "another operation is running" in capsys.readouterr().out
    assert endpoints.find_deployment("busy", "blue") is None
    endpoints.delete("busy")
    assert endpoints.find("busy") is None
