"""Overrides a HOLD, if the right people have approved it. A REJECT can't be overridden.

In a workflow this takes a GitHub environment with required reviewers, and a reviewer who has approved this run. Outside GitHub only a
HOLD of an ephemeral target can be overridden.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from mlops.core import console
from mlops.core.errors import CredentialError, GitHubRefused, UsageError
from mlops.core.judgement import Override, Verdict
from mlops.core.settings import Config
from mlops.core.user import current_user
from mlops.github.client import Repository, run_url
from mlops.github.oidc import request_claims

__all__ = ["OverrideRefused", "check_reason", "confirm", "grant"]

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
            f"target {config.target} can only be overridden on GitHub, where reviewers must approve: run dispatch.yml with `override`."
            " Outside GitHub, this is only possible for targets with endpoint.ephemeral = true."
        )
    return Override(reason=reason, actor=current_user())


def confirm(config: Config, override: Override) -> None:
    """Ask GitHub whether the people whom a record names have approved the override. Anybody can write a name into a file.

    Raises:
        OverrideRefused: they have not, or GitHub can't be asked.
    """
    environment = config.gate.override_environment
    if override.environment != environment:
        raise OverrideRefused(f"it was approved for environment {override.environment}, and overrides are only allowed in {environment}.")
    if not console.in_github():
        raise OverrideRefused("outside GitHub nobody can tell who approved it: continue in the workflow.")
    run = override.workflow_run.rpartition("/")[2]
    if not run.isdigit() or override.workflow_run != run_url(run):
        raise OverrideRefused(f"it names no workflow run of this repository: {override.workflow_run or 'nothing'}.")
    try:
        approvers = _approvers(Repository(), environment, run, override.actor)
    except (UsageError, GitHubRefused) as problem:
        raise OverrideRefused(f"it can't be determined who approved it. {problem}") from problem
    if strangers := sorted(set(override.approvers) - approvers):
        raise OverrideRefused(f"{', '.join(strangers)} did not approve workflow run {run} for environment {environment}.")


def _approvers(repository: Repository, environment: str, run: str, requester: str) -> set[str]:
    """Return who has approved a run for an environment that requires reviewers, besides whoever requested it.

    Raises:
        OverrideRefused: the environment has no reviewers, or nobody else has approved.
    """
    protection = repository.protection(environment)
    if protection is None or not protection.reviewers:
        raise OverrideRefused(
            f"environment {environment} has no required reviewers, so anybody could override."
            f" Set them up: repository settings, Environments, {environment}, Required reviewers."
        )
    everybody = {approval.user for approval in repository.approvals(int(run)) if approval.environment == environment}
    if not everybody:
        raise OverrideRefused(
            f"no reviewer has approved run {run} for environment {environment}: run dispatch.yml with `override`, and have it reviewed."
        )
    others = {user for user in everybody if user.lower() != requester.lower()}
    if not others:
        raise OverrideRefused(
            f'{requester} requested it and is the only one who approved run {run}: somebody else must review it. Select "Prevent'
            f' self-review" in the settings of environment {environment}.'
        )
    return others


def _grant_in_github(environment: str, reason: str) -> Override:
    """Use GitHub's signed claims about this run instead of environment variables, which the job can set."""
    try:
        claims = request_claims()
        _check_claims(claims, environment)
        run, actor = str(claims["run_id"]), str(claims["actor"])
        approvers = _approvers(Repository(), environment, run, actor)
    except (CredentialError, UsageError, GitHubRefused, KeyError, ValueError) as problem:
        raise OverrideRefused(f"it can't be determined who approved this job for environment {environment}. {problem}") from problem
    return Override(
        reason=reason,
        actor=actor,
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
