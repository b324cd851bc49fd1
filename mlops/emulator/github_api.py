"""The part of GitHub's REST API that the workflows call: comments on pull requests, workflow runs, dispatches, environments, commits.

Shapes and status codes follow https://docs.github.com/en/rest (api-version 2022-11-28). A token has the permissions of its job, so a call
that the job's ``permissions:`` don't cover is refused, as on GitHub.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from mlops.emulator.base.azure import Azure
from mlops.emulator.base.errors import AzureFault
from mlops.emulator.wire.app import Answer, Route, read_json

__all__ = [
    "ROUTES",
    "add_commit",
    "add_environment",
    "add_file",
    "add_workflow_run",
    "approve",
    "comments",
    "dispatches",
    "issue_token",
    "open_pull_request",
]

API = "https://api.github.com"
BOT = {"login": "github-actions[bot]", "id": 41898282, "type": "Bot"}
LIMIT = 65536
"""Maximum length of a comment in characters."""
PAGE = 30


def issue_token(azure: Azure, permissions: Mapping[str, str]) -> str:
    """Return a new token for a job with these ``permissions:``, e.g. ``{"pull-requests": "write"}``."""
    token = f"ghs_{secrets.token_hex(18)}"
    azure.store.put("github-token", token, {"permissions": dict(permissions)})
    return token


def add_file(azure: Azure, path: str, text: str, ref: str = "main") -> None:
    """Put a file on a branch."""
    azure.store.put("github-file", f"{ref}/{path}", {"text": text})


def add_commit(azure: Azure, sha: str, *parents: str) -> None:
    """Create a commit. Its parents must exist."""
    azure.store.put("github-commit", sha, {"parents": list(parents)})


def open_pull_request(azure: Azure, number: int, title: str = "A change") -> None:
    """Create a pull request."""
    azure.store.put("github-issue", str(number), {"number": number, "title": title})


def add_workflow_run(
    azure: Azure,
    run: str,
    status: str,
    conclusion: str | None,
    *,
    file: str = "train.yml",
    event: str = "push",
    branch: str = "main",
    repository: str = "",
    sha: str = "0" * 40,
    jobs: Mapping[str, str] | None = None,
) -> None:
    """Create a workflow run.

    Args:
        azure: the emulated Azure.
        run: its id.
        status: queued, in_progress or completed.
        conclusion: success, failure, cancelled or None.
        file: name of the workflow file.
        event: what started it.
        branch: where; the name of a tag for the push of a tag, as on GitHub.
        sha: the commit that ran.
        repository: of the commit that ran; by default the emulated one.
        jobs: name → conclusion; a job of a called workflow is named ``CALLER / JOB``.
    """
    document = {
        "id": int(run), "status": status, "conclusion": conclusion, "path": f".github/workflows/{file}", "event": event,
        "head_branch": branch, "head_sha": sha, "head_repository": {"full_name": repository or azure.options.github},
    }  # fmt: skip
    azure.store.put("github-run", run, document)
    azure.store.put("github-jobs", run, {"jobs": dict(jobs or {})})


def add_environment(azure: Azure, name: str, reviewers: Sequence[str] = (), *, prevent_self_review: bool = True) -> None:
    """Create an environment. One of the ``reviewers`` (logins) must approve a job; without reviewers every job is approved."""
    azure.store.put("github-environment", name, {"name": name, "reviewers": list(reviewers), "prevent_self_review": prevent_self_review})


def approve(azure: Azure, run: str, environment: str, user: str, comment: str = "") -> None:
    """Approve a workflow run's jobs for an environment, as a reviewer does."""
    number = len(azure.store.list("github-approval"))
    azure.store.put("github-approval", f"{run}/{number}", {"environment": environment, "user": user, "comment": comment})


def comments(azure: Azure, number: int) -> list[dict[str, Any]]:
    """Return the comments on a pull request, oldest first."""
    matching = (comment for _, comment in azure.store.list("github-comment") if comment["issue"] == number)
    return sorted(matching, key=lambda comment: comment["id"])


def dispatches(azure: Azure) -> list[dict[str, Any]]:
    """Return the requested workflow dispatches, oldest first: ``workflow``, ``ref``, ``inputs``."""
    return [dispatch for _, dispatch in sorted(azure.store.list("github-dispatch"), key=lambda pair: int(pair[0]))]


async def get_issue(azure: Azure, request: Request) -> Answer:
    """Return an issue or pull request."""
    _check_permission(azure, request, "pull-requests", "issues")
    issue, base = _issue(azure, request), _base(request)
    url = f"{base}/issues/{issue['number']}"
    return {
        "id": issue["number"], "number": issue["number"], "title": issue["title"], "state": "open", "url": url,
        "comments_url": f"{url}/comments", "repository_url": base, "user": BOT, "pull_request": {"url": f"{base}/pulls/{issue['number']}"},
    }  # fmt: skip


async def list_comments(azure: Azure, request: Request) -> Answer:
    """Return a page of comments, oldest first."""
    _check_permission(azure, request, "pull-requests", "issues")
    everything = comments(azure, _issue(azure, request)["number"])
    size, page = int(request.query_params.get("per_page", PAGE)), int(request.query_params.get("page", 1))
    items = [_comment(request, comment) for comment in everything[(page - 1) * size : page * size]]
    links = {}
    if len(everything) > page * size:
        next_url = f"{API}{request.url.path}?per_page={size}&page={page + 1}"
        links = {"Link": f'<{next_url}>; rel="next"'}
    return JSONResponse(items, headers=links)


async def post_comment(azure: Azure, request: Request) -> Answer:
    """Create a comment."""
    _check_permission(azure, request, "pull-requests", "issues", write=True)
    issue, text = _issue(azure, request), await _read_text(request)
    number = 1000 + len(azure.store.list("github-comment"))
    comment = azure.store.put(
        "github-comment", str(number), {"id": number, "issue": issue["number"], "body": text, "edits": 0, "user": BOT}
    )
    return JSONResponse(_comment(request, comment), status_code=201)


async def patch_comment(azure: Azure, request: Request) -> Answer:
    """Change a comment."""
    _check_permission(azure, request, "pull-requests", "issues", write=True)
    text = await _read_text(request)
    try:
        with azure.store.change("github-comment", request.path_params["comment"]) as comment:
            comment["body"], comment["edits"] = text, comment["edits"] + 1
    except KeyError:
        raise _not_found() from None
    return _comment(request, comment)


async def get_contents(azure: Azure, request: Request) -> Answer:
    """Return a file on a branch."""
    _check_permission(azure, request, "contents")
    path, ref = request.path_params["path"], request.query_params.get("ref", "main")
    file = azure.store.get("github-file", f"{ref}/{path}")
    if file is None:
        raise _not_found()
    content = file["text"].encode()
    url = f"{_base(request)}/contents/{path}?ref={ref}"
    return {
        "type": "file", "encoding": "base64", "size": len(content), "name": path.rpartition("/")[2], "path": path, "url": url,
        "content": base64.encodebytes(content).decode(),
        "sha": hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest(),
    }  # fmt: skip


async def compare_commits(azure: Azure, request: Request) -> Answer:
    """Compare two commits, ``BASE...HEAD``: which of them contains the other."""
    _check_permission(azure, request, "contents")
    base, separator, head = request.path_params["basehead"].partition("...")
    histories = [_history(azure, sha) for sha in (base, head)]
    common = [sha for sha in histories[0] if sha in histories[1]]
    if not separator or not common:
        raise _not_found()
    ahead, behind = ([sha for sha in one if sha not in other] for one, other in (histories[::-1], histories))
    status = {(True, True): "diverged", (True, False): "ahead", (False, True): "behind", (False, False): "identical"}
    url = f"{_base(request)}/compare/{base}...{head}"
    commits = [{"sha": sha, "url": f"{_base(request)}/commits/{sha}"} for sha in (base, common[0], *reversed(ahead))]
    return {
        "url": url, "status": status[bool(ahead), bool(behind)], "ahead_by": len(ahead), "behind_by": len(behind),
        "total_commits": len(ahead), "base_commit": commits[0], "merge_base_commit": commits[1], "commits": commits[2:], "files": [],
    }  # fmt: skip


def _history(azure: Azure, sha: str) -> dict[str, None]:
    """Return a commit and all before it, the latest first; empty if there is no such commit."""
    history: dict[str, None] = {}
    waiting = [sha]
    while waiting:
        commit = azure.store.get("github-commit", sha := waiting.pop(0))
        if commit is not None and sha not in history:
            history[sha] = None
            waiting += commit["parents"]
    return history


async def get_run(azure: Azure, request: Request) -> Answer:
    """Return a workflow run."""
    _check_permission(azure, request, "actions")
    run = azure.store.get("github-run", request.path_params["run"])
    if run is None:
        raise _not_found()
    return {
        **run,
        "url": f"{_base(request)}/actions/runs/{run['id']}",
        "html_url": f"https://github.com/{azure.options.github}/actions/runs/{run['id']}",
        "jobs_url": f"{_base(request)}/actions/runs/{run['id']}/jobs",
    }


async def list_run_jobs(azure: Azure, request: Request) -> Answer:
    """Return the jobs of a workflow run's latest attempt."""
    _check_permission(azure, request, "actions")
    run = request.path_params["run"]
    stored = azure.store.get("github-jobs", run)
    if stored is None:
        raise _not_found()
    jobs = [
        {"id": number, "run_id": int(run), "name": name, "status": "completed", "conclusion": conclusion}
        for number, (name, conclusion) in enumerate(stored["jobs"].items(), start=1)
    ]
    return {"total_count": len(jobs), "jobs": jobs}


async def get_approvals(azure: Azure, request: Request) -> Answer:
    """Return the approvals of a run's jobs for environments."""
    _check_permission(azure, request, "actions")
    run = request.path_params["run"]
    if azure.store.get("github-run", run) is None:
        raise _not_found()
    return JSONResponse(
        [
            {
                "environments": [{"name": approval["environment"]}],
                "state": "approved",
                "user": _user(approval["user"]),
                "comment": approval["comment"],
            }
            for _, approval in azure.store.list("github-approval", f"{run}/")
        ]
    )


async def get_environment(azure: Azure, request: Request) -> Answer:
    """Return an environment with its protection rules."""
    _check_permission(azure, request, "actions")
    environment = azure.store.get("github-environment", request.path_params["environment"])
    if environment is None:
        raise _not_found()
    rule = {
        "id": 1, "type": "required_reviewers", "prevent_self_review": environment["prevent_self_review"],
        "reviewers": [{"type": "User", "reviewer": _user(login)} for login in environment["reviewers"]],
    }  # fmt: skip
    name = environment["name"]
    return {
        "id": 1, "name": name, "url": f"{_base(request)}/environments/{name}", "deployment_branch_policy": None,
        "html_url": f"https://github.com/{azure.options.github}/deployments/activity_log?environments_filter={name}",
        "protection_rules": [rule] if environment["reviewers"] else [],
    }  # fmt: skip


async def get_workflow(azure: Azure, request: Request) -> Answer:
    """Return the workflow with this file name."""
    _check_permission(azure, request, "actions")
    name = request.path_params["workflow"]
    return {
        "id": 1,
        "name": name,
        "path": f".github/workflows/{name}",
        "state": "active",
        "url": f"{_base(request)}/actions/workflows/{name}",
    }


async def post_dispatch(azure: Azure, request: Request) -> Answer:
    """Record the dispatch of a workflow. The emulator doesn't run it."""
    _check_permission(azure, request, "actions", write=True)
    dispatch = await read_json(request)
    if unknown := sorted(dispatch.keys() - {"ref", "inputs"}):
        raise _github_error(422, f"Invalid request. {', '.join(unknown)} is not a permitted key.")
    inputs = dispatch.get("inputs") or {}
    if not dispatch.get("ref") or not isinstance(inputs, dict) or len(inputs) > 25 or not all(isinstance(v, str) for v in inputs.values()):
        raise _github_error(422, "Invalid request.")
    number = str(len(azure.store.list("github-dispatch")))
    azure.store.put("github-dispatch", number, {"workflow": request.path_params["workflow"], "ref": dispatch["ref"], "inputs": inputs})
    return Response(status_code=204)


def _check_permission(azure: Azure, request: Request, *scopes: str, write: bool = False) -> None:
    """Check that the token is valid and grants one of the scopes, and that the repository is the emulated one."""
    token = request.headers.get("authorization", "").rpartition(" ")[2]
    document = azure.store.get("github-token", token) if token else None
    if document is None:
        raise _github_error(401, "Bad credentials")
    if f"{request.path_params['owner']}/{request.path_params['repository']}".lower() != azure.options.github.lower():
        raise _not_found()
    levels = ("write",) if write else ("read", "write")
    if not any(document["permissions"].get(scope) in levels for scope in scopes):
        raise _github_error(403, "Resource not accessible by integration")


def _user(login: str) -> dict[str, Any]:
    return {"login": login, "id": int.from_bytes(login.encode()[:4], "big"), "type": "User"}


def _issue(azure: Azure, request: Request) -> dict[str, Any]:
    issue = azure.store.get("github-issue", request.path_params["number"])
    if issue is None:
        raise _not_found()
    return issue


async def _read_text(request: Request) -> str:
    text = (await read_json(request)).get("body")
    if not isinstance(text, str) or not text:
        raise _github_error(422, "Validation Failed")
    if len(text) > LIMIT:
        raise _github_error(422, f"Body is too long (maximum is {LIMIT} characters)")
    return text


def _comment(request: Request, comment: Mapping[str, Any]) -> dict[str, Any]:
    url = f"{_base(request)}/issues/comments/{comment['id']}"
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "id": comment["id"], "url": url, "html_url": f"https://github.com/#issuecomment-{comment['id']}", "body": comment["body"],
        "user": comment["user"], "created_at": now, "updated_at": now, "issue_url": f"{_base(request)}/issues/{comment['issue']}",
    }  # fmt: skip


def _base(request: Request) -> str:
    return f"{API}/repos/{request.path_params['owner']}/{request.path_params['repository']}"


def _not_found() -> AzureFault:
    return _github_error(404, "Not Found")


def _github_error(status: int, message: str) -> AzureFault:
    return AzureFault(
        status, str(status), message, body={"message": message, "documentation_url": "https://docs.github.com/rest", "status": str(status)}
    )


_REPOSITORY = "/repos/{owner}/{repository}"
ROUTES = [
    Route("github", "GET", _REPOSITORY + "/issues/{number}", get_issue, public=True),
    Route("github", "GET", _REPOSITORY + "/issues/{number}/comments", list_comments, public=True),
    Route("github", "POST", _REPOSITORY + "/issues/{number}/comments", post_comment, public=True),
    Route("github", "PATCH", _REPOSITORY + "/issues/comments/{comment}", patch_comment, public=True),
    Route("github", "GET", _REPOSITORY + "/contents/{path:path}", get_contents, public=True),
    Route("github", "GET", _REPOSITORY + "/compare/{basehead}", compare_commits, public=True),
    Route("github", "GET", _REPOSITORY + "/actions/runs/{run}", get_run, public=True),
    Route("github", "GET", _REPOSITORY + "/actions/runs/{run}/jobs", list_run_jobs, public=True),
    Route("github", "GET", _REPOSITORY + "/actions/runs/{run}/approvals", get_approvals, public=True),
    Route("github", "GET", _REPOSITORY + "/environments/{environment}", get_environment, public=True),
    Route("github", "GET", _REPOSITORY + "/actions/workflows/{workflow}", get_workflow, public=True),
    Route("github", "POST", _REPOSITORY + "/actions/workflows/{workflow}/dispatches", post_dispatch, public=True),
]
