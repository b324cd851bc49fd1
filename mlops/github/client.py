"""GitHub's REST API with the identity of the current job, through PyGithub."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from mlops.core.errors import GitHubRefused, UsageError

__all__ = ["Approval", "Protection", "Repository", "WorkflowRun", "run_url"]


@dataclass(frozen=True)
class Protection:
    """The reviewers who must approve a job before it may use an environment."""

    reviewers: tuple[str, ...]
    """Logins of people, ``@team`` for teams; empty if no approval is needed."""


@dataclass(frozen=True)
class Approval:
    """An approval of a run's jobs for an environment, with the reviewer's comment."""

    environment: str
    user: str
    comment: str


@dataclass(frozen=True)
class WorkflowRun:
    """A workflow run as GitHub recorded it."""

    file: str
    """Path of the workflow file in the repository."""
    event: str
    branch: str
    """Its branch; for the push of a tag, the tag's name."""
    commit: str
    """The commit whose workflow file ran."""
    repository: str
    """The repository of the commit that ran; for a fork's pull request, the fork."""
    jobs: Mapping[str, str] = field(default_factory=dict)
    """Job → conclusion; empty until it ends. Jobs of called workflows have their own names, without the caller's."""


class Repository:
    """The repository that the workflow runs in: GITHUB_REPOSITORY, with GITHUB_TOKEN.

    Raises:
        UsageError: one of the two is not set.
    """

    def __init__(self) -> None:
        self.name = os.environ.get("GITHUB_REPOSITORY", "")
        token = os.environ.get("GITHUB_TOKEN", "")
        if not self.name or not token:
            raise UsageError(
                "GITHUB_REPOSITORY or GITHUB_TOKEN is not set.", "in a workflow, add `env: GITHUB_TOKEN: ${{ github.token }}` to the step"
            )
        from github import Auth, Github

        api = os.environ.get("GITHUB_API_URL") or "https://api.github.com"
        self._repository: Any = Github(auth=Auth.Token(token), base_url=api, lazy=True).get_repo(self.name)

    def update_comment(self, pull_request: int, marker: str, text: str) -> str:
        """Update the comment on a pull request in which a bot wrote ``marker``, or create it, and return its URL.

        Raises:
            GitHubRefused: e.g. the token of a fork's run, which may only read.
        """
        with _refusals("pull-requests: write"):
            issue = self._repository.get_issue(pull_request)
            for comment in issue.get_comments():
                # A person may quote the marker, but only a bot's comment may be changed.
                if comment.user.type == "Bot" and marker in comment.body:
                    if comment.body != text:
                        comment.edit(text)
                    return str(comment.html_url)
            return str(issue.create_comment(text).html_url)

    def read_file(self, path: str, ref: str) -> str | None:
        """Return the text of a file on a branch, or None if it has no such file."""
        from github import UnknownObjectException

        with _refusals("contents: read"):
            try:
                return str(self._repository.get_contents(path, ref=ref).decoded_content.decode())
            except UnknownObjectException:
                return None

    def contains(self, commit: str, ancestor: str) -> bool:
        """Return whether a commit is the same as another one, or a descendant of it."""
        from github import UnknownObjectException

        with _refusals("contents: read"):
            try:
                # GitHub answers 404 for unknown commits, and for those without any common history.
                return str(self._repository.compare(ancestor, commit).status) in ("ahead", "identical")
            except UnknownObjectException:
                return False

    def workflow_run(self, run: int) -> tuple[str, str]:
        """Return the status (``completed``, …) and conclusion (``cancelled``, …; empty until it ends) of a workflow run."""
        with _refusals("actions: read"):
            workflow_run = self._repository.get_workflow_run(run)
            return str(workflow_run.status), str(workflow_run.conclusion or "")

    def describe_run(self, run: int) -> WorkflowRun:
        """Return where a workflow run came from, and how its jobs ended."""
        with _refusals("actions: read"):
            workflow_run = self._repository.get_workflow_run(run)
            return WorkflowRun(
                file=str(workflow_run.path).partition("@")[0],
                event=str(workflow_run.event),
                branch=str(workflow_run.head_branch),
                commit=str(workflow_run.head_sha),
                repository=str(workflow_run.head_repository.full_name),
                jobs={str(job.name).rpartition(" / ")[2]: str(job.conclusion or "") for job in workflow_run.jobs()},
            )

    def protection(self, environment: str) -> Protection | None:
        """Return an environment's required reviewers, or None if there is no such environment."""
        from github import UnknownObjectException

        with _refusals("actions: read"):
            try:
                rules = self._repository.get_environment(environment).protection_rules
            except UnknownObjectException:
                return None
            rules = [rule for rule in rules if rule.type == "required_reviewers"]
            reviewers = [item for rule in rules for item in rule.reviewers]
            return Protection(tuple(item.reviewer.login if item.type == "User" else f"@{item.reviewer.slug}" for item in reviewers))

    def approvals(self, run: int) -> list[Approval]:
        """Return the approvals of a workflow run's jobs, oldest first."""
        with _refusals("actions: read"):
            _, answer = self._repository.requester.requestJsonAndCheck("GET", f"{self._repository.url}/actions/runs/{run}/approvals")
            return [
                Approval(environment["name"], review["user"]["login"], review.get("comment") or "")
                for review in answer
                if review["state"] == "approved"
                for environment in review["environments"]
            ]

    def dispatch(self, workflow: str, ref: str, inputs: dict[str, str]) -> None:
        """Start a workflow that has the trigger ``workflow_dispatch``."""
        with _refusals("actions: write"):
            self._repository.get_workflow(workflow).create_dispatch(ref, inputs, throw=True)


def run_url(run: str = "") -> str:
    """Return the URL of a workflow run (by default the current one); empty outside GitHub."""
    server, repository = os.environ.get("GITHUB_SERVER_URL", "https://github.com"), os.environ.get("GITHUB_REPOSITORY", "")
    number = run or os.environ.get("GITHUB_RUN_ID", "")
    return f"{server}/{repository}/actions/runs/{number}" if repository and number else ""


@contextmanager
def _refusals(permission: str) -> Iterator[None]:
    """Turn errors of the API into GitHubRefused, with the permission that the job needs."""
    from github import GithubException
    from requests import RequestException

    try:
        yield
    except RequestException as problem:
        raise GitHubRefused(f"GitHub can't be reached: {problem}.", "run the job again") from problem
    except GithubException as problem:
        message = problem.data.get("message") if isinstance(problem.data, dict) else problem.data
        fix = (
            f"add `permissions: {permission}` to the job, and to the job that calls a reusable workflow"
            if problem.status in (401, 403)
            else ""
        )
        raise GitHubRefused(f"GitHub answered {problem.status}: {message}.", fix) from problem
