"""Online endpoints: deployments and traffic."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from mlops.cloud.endpoint_views import (
    COLLECTION,
    TERMINAL_STATES,
    DeploymentView,
    EndpointView,
    LiveModels,
    deployment_view,
    endpoint_view,
)
from mlops.cloud.errors import ErrorDetails, Forbidden, find, parse_error, translate_errors
from mlops.cloud.failures import classify
from mlops.cloud.invoke import EndpointClient
from mlops.cloud.network import describe_difference
from mlops.cloud.session import Session
from mlops.cloud.tags import CHANGE, CREATION_ID, EXPIRES, RESERVED
from mlops.cloud.traffic_change import Busy, end_mirroring_command, nonzero
from mlops.core import console
from mlops.core.errors import AzureError, ConfigError, DeploymentFailed, TrafficError
from mlops.core.settings import EndpointConfig

__all__ = ["Endpoints", "expiry_tags"]

LOG_LINES = 200
PROGRESS_S = 15.0
POLL_S = 2.0
BUSY_TIMEOUT_S = 1800.0
"""How long a deletion waits for other operations on the endpoint. Even a deployment that never becomes healthy fails within that time."""
BUSY_PAUSE_S = 5.0


class Endpoints:
    """The workspace's online endpoints. Use it as ``workspace.endpoints``."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def find(self, endpoint: str) -> EndpointView | None:
        """Return the endpoint of this name, or None. To create one that exists would take away its traffic."""
        return find(lambda: self.get(endpoint), lambda: any(view.name == endpoint for view in self.list_all()))

    def get(self, endpoint: str) -> EndpointView:
        """Read an endpoint.

        Raises:
            NotFound: there is no endpoint of this name.
        """
        with translate_errors(f"reading endpoint {endpoint}"):
            return endpoint_view(self._session.ml.online_endpoints.get(endpoint))

    def list_all(self) -> list[EndpointView]:
        """List the endpoints of the workspace. Their traffic lacks deployments at 0 %."""
        with translate_errors("listing endpoints"):
            return [endpoint_view(entity) for entity in self._session.ml.online_endpoints.list()]

    def create(self, config: EndpointConfig, tags: Mapping[str, str]) -> EndpointView:
        """Create an endpoint with key authentication and wait for it. Without deployments, it costs nothing.

        Raises:
            AzureError: also if somebody else in the region has an endpoint of this name.
            DeploymentFailed: it exists now, but is not healthy.
        """
        from azure.ai.ml.entities import ManagedOnlineEndpoint

        entity = ManagedOnlineEndpoint(
            name=config.name,
            auth_mode="key",
            public_network_access=config.public_network_access.capitalize(),
            tags=self._creation_tags({**expiry_tags(config), **tags}),
        )
        console.info(f"  creating endpoint {config.name}")
        with translate_errors(
            f"creating endpoint {config.name}",
            "endpoint names are unique in a region: set another endpoint.name, or endpoint.workspace_suffix = true, in pipeline.toml",
        ):
            poller = self._session.ml.online_endpoints.begin_create_or_update(entity)
            _wait(poller, f"endpoint {config.name}")
        endpoint = self.get(config.name)
        if endpoint.state != "Succeeded":
            raise DeploymentFailed(f"Endpoint {config.name} was created but is {endpoint.state}.", "look at its page in the studio")
        return endpoint

    def is_reserved(self, endpoint: EndpointView) -> bool:
        """Return whether an endpoint was only created to reserve its name, and nothing has been deployed to it."""
        return RESERVED in endpoint.tags and not self.list_deployments(endpoint.name)

    def check_usable(self, endpoint: EndpointView, config: EndpointConfig) -> EndpointView:
        """Return the endpoint if it is healthy, uses key authentication and can be reached from where the settings say.

        Raises:
            ConfigError: it uses another kind of authentication, or is public where it should be private or the other way around.
            DeploymentFailed: it is not healthy.
        """
        if endpoint.auth_mode.lower() != "key":
            raise ConfigError(
                f"Endpoint {endpoint.name} uses {endpoint.auth_mode} authentication, not keys.",
                "set another endpoint.name in pipeline.toml, or delete the endpoint so that it is created again",
            )
        if difference := describe_difference(endpoint.name, endpoint.public_network_access, config.public_network_access):
            raise ConfigError(*difference)
        if endpoint.state != "Succeeded":
            raise DeploymentFailed(
                f"Endpoint {endpoint.name} is {endpoint.state}.",
                "wait until no operation is running there, and run the command again; otherwise look at its page in the studio",
            )
        return endpoint

    def list_deployments(self, endpoint: str) -> list[DeploymentView]:
        """List an endpoint's deployments."""
        with translate_errors(f"listing the deployments of {endpoint}"):
            return [deployment_view(entity) for entity in self._session.ml.online_deployments.list(endpoint)]

    def find_deployment(self, endpoint: str, deployment: str) -> DeploymentView | None:
        """Return a deployment, or None."""

        def get() -> DeploymentView:
            with translate_errors(f"reading deployment {deployment} of {endpoint}"):
                return deployment_view(self._session.ml.online_deployments.get(deployment, endpoint))

        return find(get, lambda: any(view.name == deployment for view in self.list_deployments(endpoint)))

    def deploy(self, config: EndpointConfig, deployment: str, model: str, tags: Mapping[str, str]) -> DeploymentView:
        """Create a deployment and wait until it is healthy. The endpoint's traffic does not change.

        Raises:
            DeploymentFailed: it did not become healthy; with the failure class, advice and the containers' logs. The failed deployment
                still exists.
            Forbidden: our identity may not create it.
        """
        from azure.ai.ml.entities import (
            DataCollector,
            DeploymentCollection,
            ManagedOnlineDeployment,
            OnlineRequestSettings,
            ProbeSettings,
        )
        from azure.core.exceptions import AzureError as CoreError

        collector = DataCollector({COLLECTION: DeploymentCollection(enabled="true")}, sampling_rate=1.0, rolling_rate="hour")
        entity = ManagedOnlineDeployment(
            name=deployment,
            endpoint_name=config.name,
            model=model,
            environment=config.environment or None,
            instance_type=config.instance_type,
            instance_count=config.instance_count,
            liveness_probe=ProbeSettings(initial_delay=config.probe_initial_delay_s),
            request_settings=OnlineRequestSettings(request_timeout_ms=config.request_timeout_ms),
            data_collector=collector if config.collect_requests else None,
            tags=self._creation_tags(tags),
        )
        console.info(f"  creating deployment {deployment}: {config.instance_count} × {config.instance_type}, no traffic")
        try:
            with translate_errors(f"creating deployment {deployment}"):
                poller = self._session.ml.online_deployments.begin_create_or_update(entity)
                _wait(poller, f"deployment {deployment}", config.deploy_timeout_minutes * 60)
        except Forbidden:
            raise  # nothing was created, so there is no log to read
        except AzureError as problem:
            cause = problem.__cause__
            details = parse_error(cause) if isinstance(cause, CoreError) else ErrorDetails(0, None, problem.what)
            raise self._failure(config.name, deployment, details) from problem
        return self.wait_until_healthy(config, deployment)

    def wait_until_healthy(self, config: EndpointConfig, deployment: str) -> DeploymentView:
        """Wait until no operation is running on a deployment, and return it if it Succeeded.

        Raises:
            DeploymentFailed: it is in another state, is gone, or takes longer than ``deploy_timeout_minutes``.
        """
        deadline = time.monotonic() + config.deploy_timeout_minutes * 60
        while True:
            view = self.find_deployment(config.name, deployment)
            state = view.state if view is not None else "gone"
            if view is not None and state == "Succeeded":
                return view
            if view is None or state in TERMINAL_STATES or time.monotonic() >= deadline:
                raise self._failure(config.name, deployment, ErrorDetails(0, None, f"its state is {state}"))
            time.sleep(POLL_S)

    def read_logs(self, endpoint: str, deployment: str) -> str:
        """Return the last log lines of the containers: storage initializer (downloads the model) and inference server."""
        parts = []
        for container in ("storage-initializer", "inference-server"):
            try:
                with translate_errors(f"reading the {container} log of {deployment}"):
                    text = self._session.ml.online_deployments.get_logs(deployment, endpoint, LOG_LINES, container_type=container)
            except AzureError as problem:
                text = f"(could not be read: {problem.what})"
            if text.strip():
                parts.append(f"--- {container} ---\n{text.rstrip()}")
        return "\n".join(parts)

    def set_traffic(
        self,
        endpoint: str,
        traffic: Mapping[str, int] | None,
        *,
        mirror: Mapping[str, int] | None = None,
        tags: Mapping[str, str] | None = None,
        allow_none: bool = False,
        check: Callable[[EndpointView], None] = lambda _: None,
    ) -> EndpointView:
        """Set the percentage of each deployment, and verify that the service applied it.

        The endpoint is read and written back with only its traffic and tags changed; a PUT from scratch would remove all other traffic.
        Azure documents no conditional request for endpoints, so somebody else's change between the two can't be prevented, only noticed.

        Args:
            endpoint: its name.
            traffic: deployment → percent; all others get 0. None leaves it as it is.
            mirror: deployment → percent of which it gets a copy, without those at 0; None leaves it as it is.
            tags: set on the endpoint with the same request; a tag with an empty value is removed.
            allow_none: whether all deployments may end up without traffic.
            check: called with the endpoint as read right before the request; if it raises, nothing is changed.

        Raises:
            Busy: somebody else has begun or ended a change of the traffic right after this one.
            TrafficError: the percentages don't add up, a deployment does not exist, or the service did not apply the traffic.
        """
        with translate_errors(f"setting the traffic of {endpoint}"):
            entity = self._session.ml.online_endpoints.get(endpoint)
            check(endpoint_view(entity))
            shares = nonzero((entity.traffic or {}) if traffic is None else traffic)
            if sum(shares.values()) != 100 and (shares or not (allow_none or traffic is None)):
                raise TrafficError(f"Traffic {shares} of endpoint {endpoint} does not add up to 100 %. Nothing was changed.")
            if missing := shares.keys() - set(entity.traffic):
                raise TrafficError(f"Endpoint {endpoint} has no deployment {', '.join(sorted(missing))}.", "run `mlops deploy`")
            entity.traffic = dict(shares)
            if mirror is not None:
                entity.mirror_traffic = dict(mirror)
            entity.tags = {name: value for name, value in {**(entity.tags or {}), **(tags or {})}.items() if value}
            change = entity.tags.get(CHANGE)
            _wait(self._session.ml.online_endpoints.begin_create_or_update(entity), f"traffic of {endpoint}")
        after = self.get(endpoint)
        if after.tags.get(CHANGE) != change:
            raise Busy(
                f"Somebody else changed the traffic of {endpoint} at the same time: it is {nonzero(after.traffic) or 'none'} now, not"
                f" {shares or 'none'}. Their change stays.",
                "wait until the other change has ended and run the command again",
            )
        if nonzero(after.traffic) != shares:
            raise TrafficError(
                f"Endpoint {endpoint} should have traffic {shares} but has {dict(after.traffic)}.", "look at its page in the studio"
            )
        if mirror is not None and after.mirror != mirror:
            raise TrafficError(
                f"Endpoint {endpoint} should mirror its traffic to {dict(mirror) or 'nothing'} but mirrors it to"
                f" {dict(after.mirror) or 'nothing'}.",
                f"run `az ml online-endpoint show -n {endpoint}`",
            )
        return after

    def delete_deployment(self, endpoint: str, deployment: str) -> None:
        """Delete a deployment and wait until it is gone.

        Raises:
            TrafficError: it still takes traffic, or gets a copy of it.
        """
        view = self.find(endpoint)
        if view is None:
            return
        if view.traffic.get(deployment):
            raise TrafficError(
                f"Deployment {deployment} takes {view.traffic[deployment]} % of the traffic of {endpoint} and was not deleted.",
                "move the traffic first (`mlops promote`), or delete the whole endpoint",
            )
        if view.mirror.get(deployment):
            raise TrafficError(
                f"Deployment {deployment} gets a copy of {view.mirror[deployment]} % of the traffic of {endpoint} and was not deleted.",
                f"end the mirroring first: `{end_mirroring_command(endpoint, deployment)}`",
            )
        console.info(f"  deleting deployment {deployment} of {endpoint}")
        with translate_errors(f"deleting deployment {deployment}", f"run `az ml online-deployment delete -n {deployment} -e {endpoint}`"):
            _delete(lambda: self._session.ml.online_deployments.begin_delete(deployment, endpoint), f"deletion of {deployment}")

    def delete(self, endpoint: str) -> None:
        """Delete an endpoint with all of its deployments and wait until it is gone."""
        console.info(f"  deleting endpoint {endpoint}")
        with translate_errors(f"deleting endpoint {endpoint}", f"run `az ml online-endpoint delete -n {endpoint}`"):
            _delete(lambda: self._session.ml.online_endpoints.begin_delete(endpoint), f"deletion of {endpoint}")

    def open_client(self, endpoint: EndpointView, timeout_s: float) -> EndpointClient:
        """Return a client that sends requests to an endpoint."""
        return EndpointClient(self._session, endpoint.name, endpoint.scoring_uri, timeout_s)

    def get_live(self, endpoint: str) -> LiveModels:
        """Read which models an endpoint serves now.

        Raises:
            TrafficError: a deployment takes traffic but does not exist, or no model has more than half of the traffic, so that it is
                unclear which one is the champion.
        """
        view = self.find(endpoint)
        if view is None:
            return LiveModels()
        traffic = nonzero(view.traffic)
        if not traffic:
            return LiveModels(standby=tuple(sorted({self._served_model(endpoint, each) for each in self.list_deployments(endpoint)})))
        shares: dict[str, int] = {}
        for name, share in traffic.items():
            deployment = self.find_deployment(endpoint, name)
            if deployment is None:
                raise TrafficError(
                    f"Endpoint {endpoint} sends {share} % of its traffic to {name}, which does not exist.",
                    "move the traffic to a deployment that exists",
                )
            model = self._served_model(endpoint, deployment)
            # Azure ignores case in ids.
            model = next((other for other in shares if other.lower() == model.lower()), model)
            shares[model] = shares.get(model, 0) + share
        busiest = max(shares, key=lambda model: shares[model])
        if 2 * shares[busiest] <= sum(shares.values()):
            raise TrafficError(
                f"Endpoint {endpoint} splits its traffic so that no model has more than half of it: {shares}. It is unclear which one is"
                " the champion.",
                "finish the rollout: give one deployment more than half of the traffic (studio, or `mlops rollback`)",
            )
        return LiveModels(model=busiest, shares=shares)

    def get_live_model(self, endpoint: str) -> str | None:
        """Return the full id of the model with more than half of the traffic, or None. Raises what :meth:`get_live` raises."""
        return self.get_live(endpoint).model

    def _creation_tags(self, tags: Mapping[str, str]) -> dict[str, str]:
        return {**self._session.tags, **tags, CREATION_ID: uuid.uuid4().hex}

    def _served_model(self, endpoint: str, deployment: DeploymentView) -> str:
        return deployment.model or f"{self._session.arm_id}/onlineEndpoints/{endpoint}/deployments/{deployment.name}"

    def _failure(self, endpoint: str, deployment: str, details: ErrorDetails) -> DeploymentFailed:
        logs = self.read_logs(endpoint, deployment)
        failure = classify(details.codes, details.message, logs)
        return DeploymentFailed(
            f"Deployment {deployment} of endpoint {endpoint} is not healthy. {failure.name}: {failure.meaning}.\n"
            f"The service says: {details}\n{logs or 'Its containers have no log.'}",
            failure.advice,
        )


def expiry_tags(config: EndpointConfig) -> dict[str, str]:
    """Return the tag that says when the reaper may delete an endpoint that is used now (ISO 8601, UTC); none for never."""
    if config.expires_after_hours is None:
        return {}
    return {EXPIRES: (datetime.now(UTC) + timedelta(hours=config.expires_after_hours)).isoformat(timespec="seconds")}


def _wait(poller: Any, what: str, timeout_s: float = 3600.0) -> None:
    """Wait for a long-running operation and report its progress.

    Raises:
        AzureError: it takes longer than ``timeout_s``. Exceptions of the operation itself pass through.
    """
    start = time.monotonic()
    while not poller.done():
        poller.wait(min(PROGRESS_S, timeout_s))
        elapsed = time.monotonic() - start
        if not poller.done():
            if elapsed >= timeout_s:
                raise AzureError(f"The operation on {what} has not ended after {elapsed / 60:.0f} minutes.", "look at it in the studio")
            console.info(f"  {what}: {poller.status()} after {elapsed:.0f} s")
    poller.result()


def _delete(begin: Callable[[], Any], what: str) -> None:
    """Delete a resource. A missing resource counts as deleted.

    The service answers 409 while another operation is running, e.g. of a canceled run that was deploying, so the deletion is retried for up
    to :data:`BUSY_TIMEOUT_S`.
    """
    from azure.core.exceptions import HttpResponseError, ResourceNotFoundError

    deadline = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            return _wait(begin(), what)
        except ResourceNotFoundError:
            return None
        except HttpResponseError as problem:
            if problem.status_code != 409 or time.monotonic() >= deadline:
                raise
            console.info(f"  {what}: another operation is running; retrying in {BUSY_PAUSE_S:.0f} s")
        time.sleep(BUSY_PAUSE_S)
