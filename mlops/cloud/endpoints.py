"""Online endpoints: deployments and traffic."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mlops.cloud.deployment_failures import classify
from mlops.cloud.entities import word
from mlops.cloud.errors import NotFound, ServiceRefusal, explain, translated
from mlops.cloud.invoke import Scorer
from mlops.cloud.session import Session
from mlops.cloud.tags import CREATION_ID
from mlops.core import console
from mlops.core.config import EndpointConfig
from mlops.core.errors import AzureError, ConfigError, DeploymentFailed, TrafficError

__all__ = ["DeploymentView", "EndpointView", "Endpoints", "Live"]

SETTLED = frozenset({"Succeeded", "Failed", "Canceled"})
"""Provisioning states in which nothing goes on."""
LOG_LINES = 200
PROGRESS_S = 15.0
BUSY_S = 1800.0
"""How long a deletion waits for what else goes on at an endpoint; a deployment that never gets healthy ends by itself within that."""
BUSY_PAUSE_S = 5.0


@dataclass(frozen=True, kw_only=True)
class EndpointView:
    """An endpoint as it stands."""

    name: str
    state: str
    """Provisioning state."""
    scoring_uri: str
    auth_mode: str
    traffic: Mapping[str, int] = field(default_factory=dict)
    """Deployment → percent; every deployment is in it, those without traffic at 0."""
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def identity(self) -> str:
        """What tells this endpoint from an earlier or later one of the same name; empty where the pipeline did not create it."""
        return self.tags.get(CREATION_ID, "")


@dataclass(frozen=True, kw_only=True)
class DeploymentView:
    """A deployment as it stands."""

    name: str
    state: str
    """Provisioning state."""
    model: str
    """Full id of the model that it serves."""
    sku: str
    instances: int
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def identity(self) -> str:
        """What tells this deployment from an earlier or later one of the same name; empty where the pipeline did not create it."""
        return self.tags.get(CREATION_ID, "")


@dataclass(frozen=True, kw_only=True)
class Live:
    """What an endpoint serves. Models stand with their full id; where a deployment names none (it is inside its image), with its own."""

    model: str | None = None
    """What gets more than half of the traffic; None where nothing takes any."""
    shares: Mapping[str, int] = field(default_factory=dict)
    """Model → percent of the traffic, of all that take some."""
    idle: tuple[str, ...] = ()
    """Where nothing takes traffic: what stands by."""


class Endpoints:
    """The workspace's online endpoints. Use it as ``workspace.endpoints``."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def find(self, endpoint: str) -> EndpointView | None:
        """The endpoint of this name, or None."""
        try:
            with translated(f"reading endpoint {endpoint}"):
                return _endpoint(self._session.ml.online_endpoints.get(endpoint))
        except NotFound:
            return None

    def get(self, endpoint: str) -> EndpointView:
        """The endpoint of this name.

        Raises:
            NotFound: there is none.
        """
        with translated(f"reading endpoint {endpoint}"):
            return _endpoint(self._session.ml.online_endpoints.get(endpoint))

    def all(self) -> list[EndpointView]:
        """Every endpoint of the workspace. Their traffic lacks deployments at 0 %."""
        with translated("listing endpoints"):
            return [_endpoint(endpoint) for endpoint in self._session.ml.online_endpoints.list()]

    def create(self, wanted: EndpointConfig, tags: Mapping[str, str]) -> EndpointView:
        """Create an endpoint with key authentication and wait for it."""
        from azure.ai.ml.entities import ManagedOnlineEndpoint

        entity = ManagedOnlineEndpoint(name=wanted.name, auth_mode="key", tags=self._tags_at_creation(tags))
        console.info(f"  creating endpoint {wanted.name}")
        with translated(
            f"creating endpoint {wanted.name}", "endpoint names are unique in a region: set another endpoint.name in pipeline.toml"
        ):
            poller = self._session.ml.online_endpoints.begin_create_or_update(entity)
            _wait(poller, f"endpoint {wanted.name}")
        made = self.get(wanted.name)
        if made.state != "Succeeded":
            raise DeploymentFailed(f"Endpoint {wanted.name} was created but is {made.state}.", "look at its page in the studio")
        return made

    def usable(self, view: EndpointView) -> EndpointView:
        """The endpoint itself, checked: it must be healthy and take keys."""
        if view.auth_mode.lower() != "key":
            raise ConfigError(
                f"Endpoint {view.name} takes {view.auth_mode}, not keys.", "set another endpoint.name in pipeline.toml, or make it anew"
            )
        if view.state != "Succeeded":
            raise DeploymentFailed(
                f"Endpoint {view.name} is {view.state}.", "wait until nothing goes on there; if it is Failed, delete it and run again"
            )
        return view

    def deployments(self, endpoint: str) -> list[DeploymentView]:
        """An endpoint's deployments."""
        with translated(f"listing the deployments of {endpoint}"):
            return [_deployment(deployment) for deployment in self._session.ml.online_deployments.list(endpoint)]

    def deployment(self, endpoint: str, deployment: str) -> DeploymentView | None:
        """A deployment, or None."""
        try:
            with translated(f"reading deployment {deployment} of {endpoint}"):
                return _deployment(self._session.ml.online_deployments.get(deployment, endpoint))
        except NotFound:
            return None

    def deploy(self, wanted: EndpointConfig, deployment: str, model: str, tags: Mapping[str, str]) -> DeploymentView:
        """Create a deployment and wait until it is healthy. The endpoint's traffic stays as it is.

        Raises:
            DeploymentFailed: it did not become healthy; with the class of the failure, advice and the containers' logs. The half-made
                deployment is still there.
        """
        from azure.ai.ml.entities import ManagedOnlineDeployment, OnlineRequestSettings, ProbeSettings

        entity = ManagedOnlineDeployment(
            name=deployment,
            endpoint_name=wanted.name,
            model=model,
            instance_type=wanted.instance_type,
            instance_count=wanted.instance_count,
            liveness_probe=ProbeSettings(initial_delay=wanted.probe_initial_delay_s),
            request_settings=OnlineRequestSettings(request_timeout_ms=wanted.request_timeout_ms),
            tags=self._tags_at_creation(tags),
        )
        console.info(f"  creating deployment {deployment}: {wanted.instance_count} × {wanted.instance_type}, no traffic")
        from azure.core.exceptions import AzureError as CoreError

        try:
            with translated(f"creating deployment {deployment}"):
                poller = self._session.ml.online_deployments.begin_create_or_update(entity)
                _wait(poller, f"deployment {deployment}", wanted.deploy_timeout_minutes * 60)
        except AzureError as problem:
            cause = problem.__cause__
            refusal = explain(cause) if isinstance(cause, CoreError) else ServiceRefusal(0, None, problem.what)
            raise self._failure(wanted.name, deployment, refusal) from problem
        return self.healthy(wanted, deployment)

    def healthy(self, wanted: EndpointConfig, deployment: str) -> DeploymentView:
        """Wait until nothing goes on at a deployment and return it if it Succeeded.

        Raises:
            DeploymentFailed: it is in another state, is gone, or takes longer than ``deploy_timeout_minutes``.
        """
        deadline = time.monotonic() + wanted.deploy_timeout_minutes * 60
        while True:
            view = self.deployment(wanted.name, deployment)
            state = view.state if view is not None else "gone"
            if view is not None and state == "Succeeded":
                return view
            if view is None or state in SETTLED or time.monotonic() >= deadline:
                raise self._failure(wanted.name, deployment, ServiceRefusal(0, None, f"its state is {state}"))
            time.sleep(2.0)

    def logs(self, endpoint: str, deployment: str, lines: int = LOG_LINES) -> str:
        """The containers' last log lines: storage initializer (downloads the model) and inference server."""
        parts = []
        for container in ("storage-initializer", "inference-server"):
            try:
                with translated(f"reading the {container} log of {deployment}"):
                    text = self._session.ml.online_deployments.get_logs(deployment, endpoint, lines, container_type=container)
            except AzureError as problem:
                text = f"(could not be read: {problem.what})"
            if text.strip():
                parts.append(f"--- {container} ---\n{text.rstrip()}")
        return "\n".join(parts)

    def set_traffic(
        self, endpoint: str, traffic: Mapping[str, int], *, tags: Mapping[str, str] | None = None, may_be_none: bool = False
    ) -> EndpointView:
        """Give each deployment its percentage, and read back that the service has done so.

        The endpoint is read and written back with nothing but the traffic changed: a PUT made from scratch would take the traffic of
        everybody else away.

        Args:
            endpoint: its name.
            traffic: deployment → percent; those that are left out get 0.
            tags: put on the endpoint with the same request; one with an empty value is taken off.
            may_be_none: whether the endpoint may end up serving nobody.

        Raises:
            TrafficError: percentages that don't add up, an unknown deployment, or the service has something else afterwards.
        """
        wanted = {name: share for name, share in traffic.items() if share}
        if sum(wanted.values()) != 100 and (wanted or not may_be_none):
            raise TrafficError(f"Traffic {dict(traffic)} of endpoint {endpoint} does not add up to 100 %.")
        with translated(f"setting the traffic of {endpoint}"):
            entity = self._session.ml.online_endpoints.get(endpoint)
            if unknown := wanted.keys() - set(entity.traffic):
                raise TrafficError(f"Endpoint {endpoint} has no deployment {', '.join(sorted(unknown))}.", "run `mlops deploy`")
            entity.traffic = dict(wanted)
            entity.tags = {name: value for name, value in {**(entity.tags or {}), **(tags or {})}.items() if value}
            _wait(self._session.ml.online_endpoints.begin_create_or_update(entity), f"traffic of {endpoint}")
        after = self.get(endpoint)
        if {name: share for name, share in after.traffic.items() if share} != wanted:
            raise TrafficError(
                f"Endpoint {endpoint} should have traffic {wanted} and has {dict(after.traffic)}.", "look at its page in the studio"
            )
        return after

    def delete_deployment(self, endpoint: str, deployment: str) -> None:
        """Delete a deployment and wait until it is gone.

        Raises:
            TrafficError: it still takes traffic.
        """
        view = self.find(endpoint)
        if view is None:
            return
        if view.traffic.get(deployment):
            raise TrafficError(
                f"Deployment {deployment} takes {view.traffic[deployment]} % of the traffic of {endpoint} and was not deleted.",
                "move the traffic first (`mlops promote`), or delete the whole endpoint",
            )
        console.info(f"  deleting deployment {deployment} of {endpoint}")
        with translated(f"deleting deployment {deployment}", f"run `az ml online-deployment delete -n {deployment} -e {endpoint}`"):
            _delete(lambda: self._session.ml.online_deployments.begin_delete(deployment, endpoint), f"deletion of {deployment}")

    def delete(self, endpoint: str) -> None:
        """Delete an endpoint with all of its deployments and wait until it is gone."""
        console.info(f"  deleting endpoint {endpoint}")
        with translated(f"deleting endpoint {endpoint}", f"run `az ml online-endpoint delete -n {endpoint}`"):
            _delete(lambda: self._session.ml.online_endpoints.begin_delete(endpoint), f"deletion of {endpoint}")

    def scorer(self, endpoint: EndpointView, timeout_s: float) -> Scorer:
        """Send requests to an endpoint."""
        return Scorer(self._session, endpoint.name, endpoint.scoring_uri, timeout_s)

    def live(self, endpoint: str) -> Live:
        """What an endpoint serves now.

        Raises:
            TrafficError: a deployment takes traffic and does not exist, or no model has more than half of the traffic: then nobody can
                say which of them is the champion.
        """
        view = self.find(endpoint)
        if view is None:
            return Live()
        taking = {name: share for name, share in view.traffic.items() if share}
        if not taking:
            return Live(idle=tuple(sorted({self._serves(endpoint, found) for found in self.deployments(endpoint)})))
        shares: dict[str, int] = {}
        for name, share in taking.items():
            deployment = self.deployment(endpoint, name)
            if deployment is None:
                raise TrafficError(
                    f"Endpoint {endpoint} sends {share} % of its traffic to {name}, which does not exist.",
                    "move the traffic to a deployment that exists",
                )
            model = self._serves(endpoint, deployment)
            # Azure does not tell ids apart by case.
            known = next((other for other in shares if other.lower() == model.lower()), model)
            shares[known] = shares.get(known, 0) + share
        busiest = max(shares, key=lambda model: shares[model])
        if 2 * shares[busiest] <= sum(shares.values()):
            raise TrafficError(
                f"Endpoint {endpoint} splits its traffic so that no model has more than half of it: {shares}. Which one is the champion"
                " can't be told.",
                "finish what goes on there: give one deployment more than half of the traffic (studio, or `mlops rollback`)",
            )
        return Live(model=busiest, shares=shares)

    def live_model(self, endpoint: str) -> str | None:
        """Full id of what gets more than half of the traffic, or None where nothing takes any; raises as :meth:`live`."""
        return self.live(endpoint).model

    def _tags_at_creation(self, tags: Mapping[str, str]) -> dict[str, str]:
        return {**self._session.tags, **tags, CREATION_ID: uuid.uuid4().hex}

    def _serves(self, endpoint: str, deployment: DeploymentView) -> str:
        return deployment.model or f"{self._session.arm_id}/onlineEndpoints/{endpoint}/deployments/{deployment.name}"

    def _failure(self, endpoint: str, deployment: str, refusal: ServiceRefusal) -> DeploymentFailed:
        logs = self.logs(endpoint, deployment)
        kind = classify(refusal.codes, refusal.message, logs)
        return DeploymentFailed(
            f"Deployment {deployment} of endpoint {endpoint} is not healthy. {kind.name}: {kind.means}.\n"
            f"The service says: {refusal}\n{logs or 'Its containers have no log.'}",
            kind.advice,
        )


def _wait(poller: Any, what: str, timeout_s: float = 3600.0) -> None:
    """Wait for a long-running operation, and say now and then that it still goes on.

    Raises:
        AzureError: it takes longer than ``timeout_s``; what it raises itself passes through.
    """
    start = time.monotonic()
    while not poller.done():
        poller.wait(min(PROGRESS_S, timeout_s))
        took = time.monotonic() - start
        if not poller.done():
            if took >= timeout_s:
                raise AzureError(f"The operation on {what} has not ended after {took / 60:.0f} minutes.", "look at it in the studio")
            console.info(f"  {what}: {poller.status()} after {took:.0f} s")
    poller.result()


def _delete(begin: Callable[[], Any], what: str) -> None:
    """Delete, and take it for done where nothing is there.

    What somebody else is still making (a run that was cancelled while it deployed) can't be deleted before that has ended: the service says
    409 until then, so it is asked again, for :data:`BUSY_S` at most.
    """
    from azure.core.exceptions import HttpResponseError, ResourceNotFoundError

    deadline = time.monotonic() + BUSY_S
    while True:
        try:
            return _wait(begin(), what)
        except ResourceNotFoundError:
            return None
        except HttpResponseError as problem:
            if problem.status_code != 409 or time.monotonic() >= deadline:
                raise
            console.info(f"  {what}: something else goes on there; trying again in {BUSY_PAUSE_S:.0f} s")
        time.sleep(BUSY_PAUSE_S)


def _endpoint(entity: Any) -> EndpointView:
    return EndpointView(
        name=str(entity.name),
        state=word(entity.provisioning_state, "Unknown"),
        scoring_uri=word(entity.scoring_uri),
        auth_mode=word(entity.auth_mode),
        traffic={str(name): int(share) for name, share in (entity.traffic or {}).items()},
        tags=dict(entity.tags or {}),
    )


def _deployment(entity: Any) -> DeploymentView:
    model = entity.model
    return DeploymentView(
        name=str(entity.name),
        state=word(entity.provisioning_state, "Unknown"),
        model=word(getattr(model, "id", None) or model),
        sku=word(entity.instance_type),
        instances=int(entity.instance_count or 0),
        tags=dict(entity.tags or {}),
    )
