"""GitHub's OpenID Connect issuer: tokens that say which workflow run asks, signed so that Entra can check them.

Follows https://docs.github.com/en/actions/reference/security/oidc: a job with ``id-token: write`` asks ``ACTIONS_ID_TOKEN_REQUEST_URL``
with ``ACTIONS_ID_TOKEN_REQUEST_TOKEN`` and gets a JWT that lives five minutes. The subject follows from the job's environment, else from
the event; with immutable subjects it names owner and repository by their ids as well.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
import uuid
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from starlette.requests import Request

from mlops.emulator.base.azure import Azure
from mlops.emulator.base.errors import AzureFault
from mlops.emulator.identity import entra
from mlops.emulator.wire.app import Answer, Route

__all__ = ["ISSUER", "ROUTES", "WorkflowRun", "job_environment", "startup", "subject"]

ISSUER = "https://token.actions.githubusercontent.com"
REQUESTS = "https://pipelines.actions.githubusercontent.com"
LIFETIME_S = 300
REQUEST_LIFETIME_S = 6 * 3600 + 600
"""How long a job may ask for tokens."""


@dataclasses.dataclass(frozen=True)
class WorkflowRun:
    """What a token says about the run that asks.

    Args:
        run_id: of the workflow run.
        event: ``push``, ``pull_request``, ``workflow_dispatch`` or ``schedule``.
        ref: ``refs/heads/main``, ``refs/pull/12/merge``, …
        sha: the commit.
        actor: who started it.
        workflow: the workflow's name.
    """

    run_id: str
    event: str = "push"
    ref: str = "refs/heads/main"
    sha: str = "0" * 40
    actor: str = "octocat"
    workflow: str = "Train"


def subject(azure: Azure, run: WorkflowRun, environment: str) -> str:
    """``repo:O/R:environment:E``, ``repo:O/R:pull_request`` or ``repo:O/R:ref:REF``; exact and case-sensitive."""
    owner, _, name = azure.options.github.partition("/")
    if azure.options.immutable_subjects:
        owner, name = f"{owner}@{_number(owner)}", f"{name}@{_number(azure.options.github)}"
    if environment:
        context = f"environment:{environment}"
    elif run.event == "pull_request":
        context = "pull_request"
    else:
        context = f"ref:{run.ref}"
    return f"repo:{owner}/{name}:{context}"


def job_environment(azure: Azure, run: WorkflowRun, environment: str = "", seconds: float = REQUEST_LIFETIME_S) -> dict[str, str]:
    """What GitHub sets in a job with ``id-token: write``. ``seconds``: how long the request token lives."""
    claims = {"exp": time.time() + seconds, "run": dataclasses.asdict(run)}
    return {
        "ACTIONS_ID_TOKEN_REQUEST_URL": f"{REQUESTS}/idtoken/{run.run_id}?api-version=2.0&environment={environment}",
        "ACTIONS_ID_TOKEN_REQUEST_TOKEN": jwt.encode(claims, azure.identity.token_key, algorithm="HS256"),
    }


async def get_id_token(azure: Azure, request: Request) -> Answer:
    """A signed token for the job that asks."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    try:
        claims = jwt.decode(token, azure.identity.token_key, algorithms=["HS256"]) if scheme.lower() == "bearer" else {}
        run = WorkflowRun(**claims["run"])
    except (jwt.InvalidTokenError, KeyError, TypeError):
        raise AzureFault(
            401, "Unauthorized", "The request token is missing, wrong or has expired.", body={"message": "Unauthorized"}
        ) from None
    if request.query_params.get("api-version") != "2.0" or run.run_id != request.path_params["run"]:
        raise AzureFault(400, "BadRequest", "", body={"message": "The request does not fit its token."})
    owner = azure.options.github.partition("/")[0]
    audience = request.query_params.get("audience") or f"https://github.com/{owner}"
    return {"value": _token(azure, run, request.query_params.get("environment", ""), audience)}


async def get_configuration(azure: Azure, request: Request) -> Answer:
    """OpenID Connect discovery."""
    return {
        "issuer": ISSUER,
        "jwks_uri": f"{ISSUER}/.well-known/jwks",
        "subject_types_supported": ["public", "pairwise"],
        "response_types_supported": ["id_token"],
        "id_token_signing_alg_values_supported": ["RS256"],
        "scopes_supported": ["openid"],
    }


async def get_keys(azure: Azure, request: Request) -> Answer:
    """The issuer's public keys (RFC 7517)."""
    return _public(azure)


async def startup(azure: Azure) -> None:
    """Let the emulated application trust the configured subjects, as its federated credentials would."""
    for trusted in azure.options.federated_subjects:
        entra.federate(azure, ISSUER, trusted, _public(azure))


def _token(azure: Azure, run: WorkflowRun, environment: str, audience: str) -> str:
    repository = azure.options.github
    owner = repository.partition("/")[0]
    who = subject(azure, run, environment)
    now = int(time.time())
    # GitHub's tokens begin a little before they are made.
    begin, end = now - 60, now + LIFETIME_S
    if azure.faults.take("assertion-expired", who):
        begin, end = now - 1200, now - 900
    claims: dict[str, Any] = {
        "iss": ISSUER, "aud": audience, "sub": who, "jti": str(uuid.uuid4()), "iat": begin, "nbf": begin, "exp": end,
        "repository": repository, "repository_owner": owner, "repository_id": _number(repository), "repository_owner_id": _number(owner),
        "run_id": run.run_id, "run_number": "1", "run_attempt": "1", "event_name": run.event, "ref": run.ref, "ref_type": "branch",
        "sha": run.sha, "actor": run.actor, "actor_id": _number(run.actor), "workflow": run.workflow,
        "runner_environment": "github-hosted", "repository_visibility": "private",
    }  # fmt: skip
    if environment:
        claims["environment"] = environment
    return jwt.encode(claims, _key(azure), algorithm="RS256", headers={"kid": _public(azure)["keys"][0]["kid"]})


def _key(azure: Azure) -> rsa.RSAPrivateKey:
    """The issuer's key; made once and kept, since Entra remembers its public half."""
    known = azure.store.get("github", "key")
    if known is None:
        made = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        pem = made.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        known = azure.store.put("github", "key", {"pem": pem.decode()})
    key = serialization.load_pem_private_key(known["pem"].encode(), password=None)
    assert isinstance(key, rsa.RSAPrivateKey)
    return key


def _public(azure: Azure) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(_key(azure).public_key()))
    found.pop("key_ops", None)
    return {"keys": [found | {"use": "sig", "alg": "RS256", "kid": hashlib.sha256(found["n"].encode()).hexdigest()[:32]}]}


def _number(name: str) -> str:
    """GitHub's number for an owner or repository; here it follows from the name."""
    return str(int(hashlib.sha256(name.encode()).hexdigest()[:7], 16))


ROUTES = [
    Route("oidc", "GET", "/idtoken/{run}", get_id_token, public=True),
    Route("oidc", "GET", "/.well-known/openid-configuration", get_configuration, public=True),
    Route("oidc", "GET", "/.well-known/jwks", get_keys, public=True),
]
