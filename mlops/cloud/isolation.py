"""Checks that permanent targets are isolated from whoever may run ephemeral ones, and that somebody reviews promotions."""

from __future__ import annotations

from pathlib import Path

from mlops.cloud.preflight import Locate, make_finding
from mlops.cloud.tags import MARK, PIPELINE, TARGET
from mlops.cloud.workspace import Workspace
from mlops.core import console
from mlops.core.config import ephemeral_targets, targets
from mlops.core.records import Finding
from mlops.core.settings import Config

__all__ = ["check_cluster_creator", "check_review", "check_shared_workspace"]


def check_cluster_creator(workspace: Workspace, cluster: str, locate: Locate) -> list[Finding]:
    """Check that an existing cluster may be used by what its creator could do to its nodes."""
    problem = workspace.compute.explain_distrust(cluster)
    return [make_finding("compute.creator", locate("compute.name"), " ".join(problem))] if problem else []


def check_shared_workspace(config: Config, workspace: Workspace, where: str) -> list[Finding]:
    """Warn about an ephemeral target in the workspace of a permanent one.

    Roles of Azure have no scope below a workspace, so whoever may deploy for a pull request may also move production's traffic there.

    Args:
        config: the target's settings.
        workspace: where it runs.
        where: the place that the finding names.
    """
    if not config.endpoint.ephemeral:
        return []
    path = Path(config.file)
    permanent = set(targets(path)) - ephemeral_targets(path)
    owned = (endpoint for endpoint in workspace.endpoints.list_all() if endpoint.tags.get(PIPELINE) == MARK)
    return [
        make_finding(
            "workspace.shared",
            where,
            f"endpoint {endpoint.name} of target {endpoint.tags[TARGET]} is in this workspace, so whoever may run target {config.target} "
            "could change its traffic: give pull requests their own workspace (docs/workflows.md, Set up)",
            "warning",
        )
        for endpoint in owned
        if endpoint.tags.get(TARGET) in permanent
    ]


def check_review(config: Config, locate: Locate) -> list[Finding]:
    """Warn about a permanent target whose promotions need no reviewer. Outside GitHub nobody could review them."""
    if config.endpoint.ephemeral or config.promotion.require_review or not console.in_github():
        return []
    message = (
        f"promotions of target {config.target} are only reviewed if the environment of the job `promote` has reviewers, and nothing "
        f"checks that: set promotion.require_review = true under [targets.{config.target}], so that `promote` stops if it has none"
    )
    return [make_finding("promotion.review", locate("promotion.require_review"), message, "warning")]
