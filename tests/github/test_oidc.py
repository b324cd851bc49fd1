"""The identity token of a job, from an emulated GitHub."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mlops.core.errors import CredentialError
from mlops.emulator.base.azure import Options
from mlops.emulator.identity.github_oidc import job_environment
from mlops.emulator.server import Emulator
from mlops.github.oidc import decode_claims, request_claims
from tests.support.github_job import REPOSITORY, RUN, enter_job


@pytest.fixture(scope="module")
def github(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    with Emulator(tmp_path_factory.mktemp("github"), Options(github=REPOSITORY, weights="tiny-llama")) as running:
        yield running


def test_the_claims_name_repository_run_and_environment(
    github: Emulator, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    enter_job(github, monkeypatch, environment="gate-override")
    claims = request_claims()
    assert (claims["repository"], claims["environment"], claims["run_id"]) == (REPOSITORY, "gate-override", "17")
    assert "::add-mask::eyJ" in capsys.readouterr().out
    enter_job(github, monkeypatch, environment="")
    assert "environment" not in request_claims()


def test_a_missing_permission_is_named(github: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    enter_job(github, monkeypatch)
    monkeypatch.delenv("ACTIONS_ID_TOKEN_REQUEST_URL")
    with pytest.raises(CredentialError) as raised:
        request_claims()
    assert "id-token: write" in raised.value.fix


def test_the_permission_to_request_a_token_expires(github: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    enter_job(github, monkeypatch, RUN, "train", **job_environment(github.azure, RUN, "train", seconds=-1))
    with pytest.raises(CredentialError, match="six hours") as raised:
        request_claims()
    assert "detach_after_minutes" in raised.value.fix


def test_a_temporary_failure_is_retried(github: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    enter_job(github, monkeypatch)
    github.azure.faults.add("503@oidc GET /idtoken/* x1")
    assert request_claims()
    assert not github.azure.faults.pending()


@pytest.mark.parametrize("token", ["", "no-dots", "a.!!.c", "a.WzFd.c"])
def test_unreadable_claims_are_empty(token: str) -> None:
    assert decode_claims(token) == {}
