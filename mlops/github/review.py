"""Checks that somebody must approve a job before it runs.

Required reviewers of an environment need GitHub Enterprise for a private repository. On other plans the environment exists without them,
and every job in it runs unreviewed.
"""

from __future__ import annotations

from mlops.core import console
from mlops.core.errors import CredentialError, GitHubRefused, NotPromoted, UsageError
from mlops.github.client import Repository
from mlops.github.oidc import request_claims

__all__ = ["require_review"]


def require_review() -> None:
    """Refuse to continue unless this job runs in a GitHub environment with required reviewers.

    Raises:
        NotPromoted: it doesn't, or GitHub doesn't say.
    """
    if not console.in_github():
        raise NotPromoted(
            "promotion.require_review is set, but only a job on GitHub can be reviewed. The traffic is unchanged.",
            "push, or run dispatch.yml; to promote from here, set promotion.require_review = false",
        )
    try:
        # GitHub signs the environment's name; environment variables can be set by the job itself.
        environment = str(request_claims().get("environment") or "")
        protection = Repository().protection(environment) if environment else None
    except (CredentialError, UsageError, GitHubRefused) as problem:
        raise NotPromoted(
            "promotion.require_review is set, but GitHub does not say whether this job was reviewed."
            f" The traffic is unchanged. {problem.what}",
            problem.fix,
        ) from problem
    if protection is None or not protection.reviewers:
        where = f"environment {environment}, which has no required reviewers" if environment else "no environment"
        raise NotPromoted(
            f"promotion.require_review is set, but this job runs in {where}, so nobody has reviewed it. The traffic is unchanged.",
            "add reviewers: repository settings, Environments, Required reviewers (private repositories need GitHub Enterprise); or set"
            " promotion.require_review = false",
        )
