"""The workspace as the stages use it: a session, and one service per kind of resource."""

from __future__ import annotations

from collections.abc import Mapping

from mlops.cloud.assets import Assets
from mlops.cloud.compute import Computes
from mlops.cloud.endpoints import Endpoints
from mlops.cloud.jobs import Jobs, JobView
from mlops.cloud.network import Network
from mlops.cloud.outputs import Outputs
from mlops.cloud.run_history import RunHistory
from mlops.cloud.session import Session
from mlops.cloud.tags import MARK, PIPELINE, TARGET
from mlops.cloud.tracking import Tracking
from mlops.cloud.watch import Watch
from mlops.core.errors import NotPromoted
from mlops.core.settings import Config

__all__ = ["Workspace"]


class Workspace:
    """An Azure ML workspace: a session, and one service per kind of resource.

    Attributes:
        session: the connection, and the tags that mark what we create.
        jobs: submit, find and cancel jobs.
        history: run history: details, children, logs.
        tracking: MLflow.
        outputs: find and download the files that jobs leave.
        network: whether the workspace is private, and whether this machine reaches it.
        assets: base models, components, registered models.
        compute: clusters and VM sizes.
        endpoints: endpoints, deployments, traffic, scoring.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self.jobs = Jobs(session)
        self.history = RunHistory(session)
        self.tracking = Tracking(session, self.history)
        self.outputs = Outputs(session, self.history)
        self.network = Network(session, self.history, self.outputs)
        self.assets = Assets(session)
        self.compute = Computes(session)
        self.endpoints = Endpoints(session)

    @classmethod
    def open(cls, config: Config) -> Workspace:
        """Open a session and the workspace's services. Raises what :meth:`Session.open` raises."""
        return cls(Session.open(config))

    def wait(self, job: str, timeout_s: float, detach_s: float | None = None) -> JobView:
        """Watch a job until it ends, print its log, and return only if it Completed. See :meth:`Watch.wait`."""
        return Watch(self.jobs, self.history, job).wait(timeout_s, detach_s)

    def check_endpoint(self, name: str, tags: Mapping[str, str]) -> None:
        """Refuse to work on an endpoint that the pipeline did not create for this target.

        Another target may require reviewers that this one does not, and whoever created an endpoint by hand may not expect a pipeline to
        move its traffic. Tags hand it over.

        Raises:
            NotPromoted: the endpoint does not belong to this target.
        """
        config = self.session.config
        if self.session.owns(tags):
            return
        owner = tags.get(TARGET, "") if tags.get(PIPELINE) == MARK else None
        creator = "by hand, outside this pipeline" if owner is None else f"for target {owner or '(unknown)'}"
        ephemeral = ", which is ephemeral" if config.endpoint.ephemeral else ""
        raise NotPromoted(
            f"Endpoint {name} was created {creator}, but this is target {config.target}{ephemeral}. Its traffic is unchanged.",
            "set endpoint.name to an endpoint of this target, or to a new name"
            + (f"; to hand {name} over, add the tags {PIPELINE}={MARK} and {TARGET}={config.target} to it" if owner is None else ""),
        )
