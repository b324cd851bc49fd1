"""Let a HOLD through: who may, and who answers for it. A REJECT is never let through.

In a workflow, only inside a GitHub environment that lets nobody in without a reviewer, and only if a reviewer has let this run in.
Elsewhere, only for a target whose endpoint goes away again.
"""

from __future__ import annotations

import getpass
import os
from typing import TYPE_CHECKING

from mlops.cloud.federated import identity_claims
from mlops.core import console
from mlops.core.config import Config
from mlops.core.errors import CredentialError, UsageError
from mlops.core.records import Override, Verdict
from mlops.github.client import GitHubRefused, Repository, run_url

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

__all__ = ["Refused", "checked", "grant"]

SHORTEST = 10
"""Characters of a reason."""


class Refused(Exception):
    """Nobody may override here; the message tells why, and what to set up."""


def checked(reason: str) -> str:
    """The reason without blanks around it; empty where no override is asked for.

    Raises:
        UsageError: it is too short to tell anybody anything.
    """
    told = " ".join(reason.split())
    if reason and len(told) < SHORTEST:
        raise UsageError(
            f"The override's reason {reason!r} is too short: it is what others will read who ask why this model is live.",
            f'say why in {SHORTEST} characters or more: mlops gate --override "…" (or MLOPS_OVERRIDE)',
        )
    return told


def grant(config: Config, verdict: Verdict, reason: str) -> Override:
    """The override, if it may be.

    Raises:
        Refused: with what to set up.
    """
    if verdict is not Verdict.HOLD:
        raise Refused(f"{verdict} has no override.")
    if console.in_github():
        return _in_github(config.gate.override_environment, reason)
    if not config.endpoint.ephemeral:
        raise Refused(
            f"target {config.target} is overridden in GitHub only, where reviewers have to agree: run dispatch.yml with `override`."
            " Outside, only targets with endpoint.ephemeral = true are."
        )
    return Override(reason=reason, actor=getpass.getuser())


def _in_github(environment: str, reason: str) -> Override:
    """As GitHub tells it, not as this job's variables do."""
    try:
        claims = identity_claims()
        _here(claims, environment)
        repository = Repository()
        protection = repository.protection(environment)
        if protection is None or not protection.reviewers:
            raise Refused(
                f"environment {environment} has no required reviewers, so anybody could override."
                f" Set them up: repository settings, Environments, {environment}, Required reviewers."
            )
        run = str(claims["run_id"])
        approvers = {approval.user for approval in repository.approvals(int(run)) if approval.environment == environment}
    except (CredentialError, UsageError, GitHubRefused, KeyError, ValueError) as problem:
        raise Refused(f"it can't be seen who has let this job into environment {environment}. {problem}") from problem
    if not approvers:
        raise Refused(
            f"no reviewer has let run {run} into environment {environment}: run dispatch.yml with `override`, and have it reviewed."
        )
    return Override(
        reason=reason,
        actor=str(claims.get("actor") or "unknown"),
        approvers=tuple(sorted(approvers)),
        environment=environment,
        workflow_run=run_url(run),
    )


def _here(claims: Mapping[str, Any], environment: str) -> None:
    """Whether GitHub's token is about this run, and this run in the environment."""
    where = claims.get("environment")
    if where != environment:
        raise Refused(
            f"this job runs in {f'environment {where}' if where else 'no environment'}, and overrides are for {environment}"
            " (gate.override_environment) only: run dispatch.yml with `override`."
        )
    for claim, variable in (("repository", "GITHUB_REPOSITORY"), ("run_id", "GITHUB_RUN_ID")):
        if str(claims.get(claim)) != os.environ.get(variable):
            raise Refused(f"GitHub's token is about {claim} {claims.get(claim)}, and {variable} says {os.environ.get(variable)}.")
