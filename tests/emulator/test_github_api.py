"""The emulated GitHub: a token has its job's permissions, and unsupported requests are refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
import requests

from mlops.emulator import github_api
from mlops.emulator.__main__ import main
from mlops.emulator.base.azure import Options
from mlops.emulator.identity import github_oidc
from mlops.emulator.identity.github_oidc import WorkflowRun, job_environment
from mlops.emulator.server import Emulator
from tests.support.project import enter

API = "https://api.github.com"
COMMENTS = "/repos/octo/chat/issues/3/comments"


@pytest.fixture(scope="module")
def octo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    with Emulator(tmp_path_factory.mktemp("github"), Options(github="octo/chat")) as running:
        github_api.open_pull_request(running.azure, 3)
        yield running


@pytest.fixture(autouse=True)
def inside(octo: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    enter(octo, monkeypatch)


def call(octo: Emulator, method: str, path: str, body: Any = None, **permissions: str) -> requests.Response:
    token = github_api.issue_token(octo.azure, {name.replace("_", "-"): level for name, level in permissions.items()})
    return requests.request(method, API + path, json=body, headers={"Authorization": f"token {token}"}, timeout=30)


def test_a_comment_is_created_read_and_changed(octo: Emulator) -> None:
    created = call(octo, "POST", COMMENTS, {"body": "one"}, pull_requests="write")
    assert created.status_code == 201
    changed = call(octo, "PATCH", f"/repos/octo/chat/issues/comments/{created.json()['id']}", {"body": "two"}, pull_requests="write")
    assert changed.json()["body"] == "two"
    assert [comment["body"] for comment in call(octo, "GET", COMMENTS, pull_requests="read").json()] == ["two"]


@pytest.mark.parametrize(
    ("method", "path", "body", "permissions", "status"),
    [
        ("POST", COMMENTS, {"body": "x"}, {"pull_requests": "read"}, 403),
        ("GET", COMMENTS, None, {"actions": "write"}, 403),
        ("GET", COMMENTS.replace("octo/chat", "octo/other"), None, {"pull_requests": "read"}, 404),
        ("GET", COMMENTS.replace("/3/", "/4/"), None, {"pull_requests": "read"}, 404),
        ("POST", COMMENTS, {"body": "x" * 65537}, {"pull_requests": "write"}, 422),
        ("POST", COMMENTS, {}, {"pull_requests": "write"}, 422),
        ("POST", "/repos/octo/chat/actions/workflows/x.yml/dispatches", {"ref": "main"}, {"actions": "read"}, 403),
        ("POST", "/repos/octo/chat/actions/workflows/x.yml/dispatches", {"inputs": {}}, {"actions": "write"}, 422),
        ("POST", "/repos/octo/chat/actions/workflows/x.yml/dispatches", {"ref": "main", "inputs": {"a": 1}}, {"actions": "write"}, 422),
        ("GET", "/repos/octo/chat/actions/runs/404", None, {"actions": "read"}, 404),
        ("DELETE", "/repos/octo/chat", None, {"actions": "write"}, 501),
    ],
)
def test_invalid_requests_are_refused(octo: Emulator, method: str, path: str, body: Any, permissions: dict[str, str], status: int) -> None:
    assert call(octo, method, path, body, **permissions).status_code == status


def test_an_unknown_token_is_refused() -> None:
    assert requests.get(API + COMMENTS, headers={"Authorization": "token ghs_other"}, timeout=30).status_code == 401
    assert requests.get(API + COMMENTS, timeout=30).status_code == 401


@pytest.mark.parametrize(
    ("run", "environment", "subject"),
    [
        (WorkflowRun("1"), "prod", "repo:octo/chat:environment:prod"),
        (WorkflowRun("1"), "", "repo:octo/chat:ref:refs/heads/main"),
        (WorkflowRun("1", event="pull_request", ref="refs/pull/3/merge"), "", "repo:octo/chat:pull_request"),
        (WorkflowRun("1", event="pull_request", ref="refs/pull/3/merge"), "pr", "repo:octo/chat:environment:pr"),
    ],
)
def test_a_token_is_signed_with_a_key_from_discovery(octo: Emulator, run: WorkflowRun, environment: str, subject: str) -> None:
    job = job_environment(octo.azure, run, environment)
    headers = {"Authorization": f"Bearer {job['ACTIONS_ID_TOKEN_REQUEST_TOKEN']}"}
    token = requests.get(job["ACTIONS_ID_TOKEN_REQUEST_URL"] + "&audience=somebody", headers=headers, timeout=30).json()["value"]
    keys = requests.get(
        requests.get(f"{github_oidc.ISSUER}/.well-known/openid-configuration", timeout=30).json()["jwks_uri"], timeout=30
    ).json()
    key = jwt.PyJWKSet.from_dict(keys)[jwt.get_unverified_header(token)["kid"]]
    claims = jwt.decode(token, key, algorithms=["RS256"], audience="somebody", issuer=github_oidc.ISSUER)
    assert claims["sub"] == subject
    assert claims["exp"] - claims["iat"] <= 600


def test_a_request_token_is_valid_for_one_run_and_expires(octo: Emulator) -> None:
    own, other = job_environment(octo.azure, WorkflowRun("1")), job_environment(octo.azure, WorkflowRun("2"))
    expired = job_environment(octo.azure, WorkflowRun("1"), seconds=-1)
    url = own["ACTIONS_ID_TOKEN_REQUEST_URL"]
    for wrong, status in ((other, 400), (expired, 401)):
        headers = {"Authorization": f"Bearer {wrong['ACTIONS_ID_TOKEN_REQUEST_TOKEN']}"}
        assert requests.get(url, headers=headers, timeout=30).status_code == status
    assert requests.get(url, timeout=30).status_code == 401


def test_github_is_not_emulated_without_the_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Emulator(tmp_path) as plain:
        enter(plain, monkeypatch)
        with pytest.raises(requests.exceptions.ProxyError):
            requests.get(API, timeout=30)
        assert plain.contacted_hosts == {"api.github.com": False}


def test_subjects_without_an_issuer_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--federated-subject", "repo:octo/chat:environment:prod", "--", "true"])
    assert "--github OWNER/NAME" in capsys.readouterr().err
