"""GitHub's REST API, as the job that we are in; through PyGithub."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from mlops.core.errors import GitHubRefused, UsageError

__all__ = ["Approval", "GitHubRefused", "Protection", "Repository", "run_url"]


@dataclass(frozen=True)
class Protection:
    """Who must let a job into an environment."""

    reviewers: tuple[str, ...]
    """Logins of people, ``@team`` for teams; empty where anybody is let in."""


@dataclass(frozen=True)
class Approval:
    """Who let a run's jobs into an environment, and what they wrote with it."""

    environment: str
    user: str
    comment: str


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
                "GITHUB_REPOSITORY or GITHUB_TOKEN is not set.", "in a workflow, give the step `env: GITHUB_TOKEN: ${{ github.token }}`"
            )
        from github import Auth, Github

        api = os.environ.get("GITHUB_API_URL") or "https://api.github.com"
        self._repository: Any = Github(auth=Auth.Token(token), base_url=api, lazy=True).get_repo(self.name)

    def keep_comment(self, pull_request: int, marker: str, text: str) -> str:
        """Write a comment on a pull request, or change the one of a bot's that holds ``marker``; its URL.

        Raises:
            GitHubRefused: e.g. the token of a fork's run, which may only read.
        """
        with _told("pull-requests: write"):
            issue = self._repository.get_issue(pull_request)
            for comment in issue.get_comments():
                # A person may quote the marker; a person's comment is not ours to change.
                if comment.user.type == "Bot" and marker in comment.body:
                    if comment.body != text:
                        comment.edit(text)
                    return str(comment.html_url)
            return str(issue.create_comment(text).html_url)

    def workflow_run(self, run: int) -> tuple[str, str]:
        """Status (``completed``, …) and conclusion (``cancelled``, …, empty while it goes on) of a workflow run."""
        with _told("actions: read"):
            found = self._repository.get_workflow_run(run)
            return str(found.status), str(found.conclusion or "")

    def protection(self, environment: str) -> Protection | None:
        """An environment's required reviewers, or None where there is no such environment."""
        from github import UnknownObjectException

        with _told("actions: read"):
            try:
                rules = self._repository.get_environment(environment).protection_rules
            except UnknownObjectException:
                return None
            rules = [rule for rule in rules if rule.type == "required_reviewers"]
            named = [one.reviewer.login if one.type == "User" else f"@{one.reviewer.slug}" for rule in rules for one in rule.reviewers]
            return Protection(tuple(named))

    def approvals(self, run: int) -> list[Approval]:
        """Who has let jobs of a workflow run into environments, oldest first."""
        with _told("actions: read"):
            _, answer = self._repository.requester.requestJsonAndCheck("GET", f"{self._repository.url}/actions/runs/{run}/approvals")
            return [
                Approval(place["name"], one["user"]["login"], one.get("comment") or "")
                for one in answer
                if one["state"] == "approved"
                for place in one["environments"]
            ]

    def dispatch(self, workflow: str, ref: str, inputs: dict[str, str]) -> None:
        """Start a workflow that has ``on: workflow_dispatch``."""
        with _told("actions: write"):
            self._repository.get_workflow(workflow).create_dispatch(ref, inputs, throw=True)


def run_url(run: str = "") -> str:
    """The page of a workflow run (of this one); empty outside GitHub."""
    server, repository = os.environ.get("GITHUB_SERVER_URL", "https://github.com"), os.environ.get("GITHUB_REPOSITORY", "")
    number = run or os.environ.get("GITHUB_RUN_ID", "")
    return f"{server}/{repository}/actions/runs/{number}" if repository and number else ""


@contextmanager
def _told(permission: str) -> Iterator[None]:
    from github import GithubException
    from requests import RequestException

    try:
        yield
    except RequestException as problem:
        raise GitHubRefused(f"GitHub can't be reached: {problem}.", "run the job again") from problem
    except GithubException as problem:
        said = problem.data.get("message") if isinstance(problem.data, dict) else problem.data
        fix = (
            f"give the job `permissions: {permission}`, and the job that calls a reusable workflow, too"
            if problem.status in (401, 403)
            else ""
        )
        raise GitHubRefused(f"GitHub answered {problem.status}: {said}.", fix) from problem
