"""Override a HOLD: who may, and who is responsible for it. A REJECT can't be overridden.

In a workflow this takes a GitHub environment with required reviewers, and a reviewer who has approved this run. Outside GitHub only a
HOLD of an ephemeral target can be overridden.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from mlops.core import console
from mlops.core.config import Config
from mlops.core.errors import CredentialError, GitHubRefused, UsageError
from mlops.core.records import Override, Verdict
from mlops.core.user import current_user
from mlops.github.client import Repository, run_url
from mlops.github.oidc import request_claims

__all__ = ["OverrideRefused", "check_reason", "grant"]

MIN_LENGTH = 10
"""Minimum number of characters of a reason."""


class OverrideRefused(Exception):
    """The override is not allowed; the message says why, and what to set up."""


def check_reason(reason: str) -> str:
    """Return the reason without superfluous blanks; empty if no override is requested.

    Raises:
        UsageError: it is too short to be useful.
    """
    stripped = " ".join(reason.split())
    if reason and len(stripped) < MIN_LENGTH:
        raise UsageError(
            f"The override's reason {reason!r} is too short. Others will read it to learn why this model is live.",
            f'explain it in {MIN_LENGTH} characters or more: mlops gate --override "…" (or MLOPS_OVERRIDE)',
        )
    return stripped


def grant(config: Config, verdict: Verdict, reason: str) -> Override:
    """Return the override if it is allowed.

    Raises:
        OverrideRefused: with what to set up.
    """
    if verdict is not Verdict.HOLD:
        raise OverrideRefused(f"{verdict} has no override.")
    if console.in_github():
        return _grant_in_github(config.gate.override_environment, reason)
    if not config.endpoint.ephemeral:
        raise OverrideRefused(
            f"target {config.target} can be overridden in GitHub only, where reviewers have to approve: run dispatch.yml with `override`."
            " Outside GitHub only targets with endpoint.ephemeral = true can."
        )
    return Override(reason=reason, actor=current_user())


def _grant_in_github(environment: str, reason: str) -> Override:
    """Rely on what GitHub says about this run, not on environment variables, which the job can set."""
    try:
        claims = request_claims()
        _check_claims(claims, environment)
        repository = Repository()
        protection = repository.protection(environment)
        if protection is None or not protection.reviewers:
            raise OverrideRefused(
                f"environment {environment} has no required reviewers, so anybody could override."
                f" Set them up: repository settings, Environments, {environment}, Required reviewers."
            )
        run = str(claims["run_id"])
        approvers = {approval.user for approval in repository.approvals(int(run)) if approval.environment == environment}
    except (CredentialError, UsageError, GitHubRefused, KeyError, ValueError) as problem:
        raise OverrideRefused(f"it can't be determined who approved this job for environment {environment}. {problem}") from problem
    if not approvers:
        raise OverrideRefused(
            f"no reviewer has approved run {run} for environment {environment}: run dispatch.yml with `override`, and have it reviewed."
        )
    return Override(
        reason=reason,
        actor=str(claims.get("actor") or "unknown"),
        approvers=tuple(sorted(approvers)),
        environment=environment,
        workflow_run=run_url(run),
    )


def _check_claims(claims: Mapping[str, Any], environment: str) -> None:
    """Check that GitHub's token is about this run, and that this run is in the environment."""
    actual = claims.get("environment")
    if actual != environment:
        raise OverrideRefused(
            f"this job runs in {f'environment {actual}' if actual else 'no environment'}, but overrides are only allowed in {environment}"
            " (gate.override_environment): run dispatch.yml with `override`."
        )
    for claim, variable in (("repository", "GITHUB_REPOSITORY"), ("run_id", "GITHUB_RUN_ID")):
        if str(claims.get(claim)) != os.environ.get(variable):
            raise OverrideRefused(f"GitHub's token is about {claim} {claims.get(claim)}, but {variable} is {os.environ.get(variable)}.")
