"""A change of an endpoint's traffic, as a tag describes it, so that another machine can finish or undo it.

Azure has no transactions, but it stores an endpoint's traffic and tags with one request. So the request that moves the traffic also
writes the tag :data:`mlops.cloud.tags.CHANGE`, which says who moves it, from what and to what. It is there exactly while a change is
neither confirmed nor undone, and keeps everybody else from changing the traffic, until it expires.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from pydantic import BaseModel, ConfigDict, ValidationError

from mlops.cloud.endpoint_views import EndpointView
from mlops.cloud.tags import CHANGE
from mlops.core.errors import TrafficError

__all__ = ["LEASE", "Busy", "Change", "check_idle", "nonzero", "read_change"]

LEASE = timedelta(minutes=30)
"""After this time a change counts as abandoned: it is the time limit of the job that makes it."""


class Busy(TrafficError):
    """Somebody else is changing the traffic. Nothing was changed here."""


class Change(BaseModel):
    """An unfinished change of an endpoint's traffic, as its tag has it. Azure allows 256 characters, so the names are short."""

    model_config = ConfigDict(frozen=True)

    run: str
    """The run of the pipeline that makes it."""
    until: datetime
    """When it counts as abandoned."""
    was: dict[str, int]
    """Deployment → percent before, without those at 0 %."""
    to: str
    """The deployment that gets the traffic."""
    share: int = 100
    """How much of it, in percent; less than all is a step on the way, after which the change goes on."""
    mirror: int = 0
    """If not 0, it gets no traffic, but a copy of so many percent of the requests, as long as it is compared."""
    back: bool = False
    """Whether it is a rollback."""

    @property
    def traffic(self) -> dict[str, int]:
        """Deployment → percent that this change sets. The others share the rest as before; the busiest takes what can't be divided."""
        if self.mirror:
            return self.was
        if not self.was:
            return {self.to: self.share}
        rest = 100 - self.share
        others = {name: share for name, share in self.was.items() if name != self.to}
        parts = {name: rest * share // sum(others.values()) for name, share in others.items()}
        if parts:
            parts[max(others, key=lambda name: others[name])] += rest - sum(parts.values())
        return nonzero({**parts, self.to: self.share})

    @property
    def is_abandoned(self) -> bool:
        """Whether its run has had enough time."""
        return datetime.now(UTC) >= self.until


def read_change(endpoint: EndpointView) -> Change | None:
    """Return the unfinished change of an endpoint, or None.

    Raises:
        TrafficError: the tag can't be read.
    """
    text = endpoint.tags.get(CHANGE, "")
    if not text:
        return None
    try:
        return Change.model_validate_json(text)
    except ValidationError as problem:
        raise TrafficError(
            f"Tag {CHANGE} of endpoint {endpoint.name} is not a change of its traffic: {text!r}. The traffic is unchanged.",
            "look at the endpoint's traffic in the studio, then remove the tag",
        ) from problem


def check_idle(endpoint: EndpointView) -> None:
    """Refuse to begin a change while another one is unfinished.

    Raises:
        Busy: a run is changing the traffic, or has stopped in the middle.
    """
    change = read_change(endpoint)
    if change is not None:
        action = (
            f"comparing {change.to} with a copy of {change.mirror} % of the requests to {endpoint.name}"
            if change.mirror
            else f"moving the traffic of {endpoint.name} from {change.was or 'nothing'} to {change.to}"
        )
        raise Busy(
            f"Run {change.run} is {action}. Nothing was changed here.",
            f"wait until it has ended and run the command again; if it was stopped, run `mlops recover` after {change.until:%H:%M} UTC",
        )


def nonzero(traffic: Mapping[str, int]) -> dict[str, int]:
    """Return the deployments that take traffic."""
    return {name: share for name, share in traffic.items() if share}
