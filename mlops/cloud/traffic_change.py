"""The tag that describes an unfinished traffic change, so that another machine can finish or undo it.

Azure has no transactions, but it stores an endpoint's traffic and tags with one request. So the request that moves the traffic also
writes the tag :data:`mlops.cloud.tags.CHANGE`, which says who moves it, from what and to what. The tag exists exactly while a change is
neither confirmed nor undone. Until it expires, it keeps everybody else from changing the traffic.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from mlops.cloud.endpoint_views import EndpointView
from mlops.cloud.tags import CHANGE
from mlops.core.errors import TrafficError

__all__ = [
    "LEASE",
    "Busy",
    "Change",
    "check_idle",
    "check_mirroring",
    "check_same",
    "check_unchanged",
    "end_mirroring_command",
    "identify",
    "nonzero",
    "read_change",
]

LEASE = timedelta(minutes=30)
"""A change counts as abandoned after this time, which is the time limit of the job that makes it."""

CLOCKS = timedelta(minutes=5)
"""The largest difference that is expected between the clocks of two machines."""


class Busy(TrafficError):
    """Somebody else is changing the traffic, or has changed it. Their change was left alone."""


class Change(BaseModel):
    """An unfinished change of an endpoint's traffic, as stored in its tag. Azure allows 256 characters, so the names are short."""

    model_config = ConfigDict(frozen=True)

    run: str
    """The run of the pipeline that makes it."""
    until: AwareDatetime
    """The time at which it counts as abandoned, by the clock of its run."""
    was: dict[str, int]
    """Deployment → percent before, without those at 0 %."""
    to: str
    """The deployment that gets the traffic."""
    id: str = ""
    """Distinguishes it from another deployment of the same name: see :func:`identify`."""
    share: int = 100
    """Its share of the traffic, in percent; less than 100 is a step of the change, after which it continues."""
    mirror: int = 0
    """If not 0, it gets no traffic, but a copy of this percentage of the requests while it is compared."""
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

    def continues(self, earlier: Change) -> bool:
        """Return whether this is a later step of the same change."""
        return earlier == self.model_copy(update={"until": earlier.until, "share": earlier.share})

    @property
    def is_abandoned(self) -> bool:
        """Whether its run has had enough time, or its end is later than any run writes whose clock is right.

        It is safe to take a change over too early, since its run then finds another tag than its own and changes nothing more. To wait for
        a clock that is hours ahead would keep everybody from rolling back.
        """
        return not timedelta() < self.until - datetime.now(UTC) <= LEASE + CLOCKS


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


def check_same(expected: EndpointView, now: EndpointView) -> None:
    """Refuse to change an endpoint whose traffic somebody else has changed, or has begun to change, since it was read.

    Raises:
        Busy: they have.
    """
    if (nonzero(now.traffic), now.tags.get(CHANGE)) != (nonzero(expected.traffic), expected.tags.get(CHANGE)):
        raise Busy(
            f"Somebody else is changing the traffic of {now.name} at the same time: it was {nonzero(expected.traffic) or 'none'} and is"
            f" {nonzero(now.traffic) or 'none'} now. Their change stays.",
            "wait until the other change has ended and run the command again",
        )


def check_unchanged(now: EndpointView, expected: Mapping[str, int]) -> None:
    """Refuse an endpoint whose traffic is not as expected.

    Raises:
        Busy: somebody else has changed it.
    """
    if nonzero(now.traffic) != expected:
        raise Busy(
            f"The traffic of {now.name} was {expected or 'none'} and is {nonzero(now.traffic) or 'none'} now: somebody else"
            " has changed it.",
            "run the command again",
        )


def check_mirroring(endpoint: EndpointView, deployment: str = "") -> None:
    """Refuse an endpoint that already mirrors its traffic: to this deployment, or to any if none is named.

    Raises:
        Busy: it does.
    """
    for name, share in endpoint.mirror.items():
        if deployment in ("", name):
            other = "" if deployment else ", or set promotion.mirror = 0 in pipeline.toml"
            raise Busy(
                f"Endpoint {endpoint.name} already mirrors {share} % of its traffic to {name}, which this pipeline did not begin. Azure"
                " only mirrors to one deployment, and gives it no other traffic. Nothing was changed here.",
                f"end it: `{end_mirroring_command(endpoint.name, name)}`{other}",
            )


def end_mirroring_command(endpoint: str, deployment: str) -> str:
    """Return the Azure CLI's command that ends what an endpoint mirrors to a deployment."""
    return f"az ml online-endpoint update -n {endpoint} --mirror-traffic {deployment}=0"


def identify(creation_id: str, creator: str) -> str:
    """Return what distinguishes a deployment from others of the same name, even if another identity gave those the same tags.

    Args:
        creation_id: its tag :data:`mlops.cloud.tags.CREATION_ID`.
        creator: who created it, according to Azure.

    Returns:
        16 hex digits, because with more, the change might not fit into a tag.
    """
    return hashlib.sha256(f"{creation_id}\n{creator}".encode()).hexdigest()[:16]


def nonzero(traffic: Mapping[str, int]) -> dict[str, int]:
    """Return the deployments that take traffic."""
    return {name: share for name, share in traffic.items() if share}
