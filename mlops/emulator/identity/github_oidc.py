"""GitHub's OpenID Connect issuer: tokens that identify a workflow run, signed so that Entra can verify them.

Follows https://docs.github.com/en/actions/reference/security/oidc: a job with ``id-token: write`` calls ``ACTIONS_ID_TOKEN_REQUEST_URL``
with ``ACTIONS_ID_TOKEN_REQUEST_TOKEN`` and gets a JWT that is valid for five minutes. The subject depends on the job's environment,
otherwise on the event; immutable subjects also contain the ids of owner and repository.
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

__all__ = ["ISSUER", "ROUTES", "WorkflowRun", "job_environment", "public_keys", "startup", "subject"]

ISSUER = "https://token.actions.githubusercontent.com"
REQUESTS = "https://pipelines.actions.githubusercontent.com"
LIFETIME_S = 300
REQUEST_LIFETIME_S = 6 * 3600 + 600
"""The time for which a job can request tokens."""


@dataclasses.dataclass(frozen=True)
class WorkflowRun:
    """The workflow run that a token identifies.

    Args:
        run_id: the run's id.
        event: ``push``, ``pull_request``, ``workflow_dispatch`` or ``schedule``.
        ref: ``refs/heads/main``, ``refs/pull/12/merge``, …
        sha: the commit.
        actor: the user who started the run.
        workflow: the workflow's name.
    """

    run_id: str
    event: str = "push"
    ref: str = "refs/heads/main"
    sha: str = "0" * 40
    actor: str = "octocat"
    workflow: str = "Train"


def subject(azure: Azure, run: WorkflowRun, environment: str) -> str:
    """Return ``repo:O/R:environment:E``, ``repo:O/R:pull_request`` or ``repo:O/R:ref:REF``; subjects are case-sensitive."""
    owner, _, name = azure.options.github.partition("/")
    if azure.options.immutable_subjects:
        owner, name = f"{owner}@{_numeric_id(owner)}", f"{name}@{_numeric_id(azure.options.github)}"
    if environment:
        context = f"environment:{environment}"
    elif run.event == "pull_request":
        context = "pull_request"
    else:
        context = f"ref:{run.ref}"
    return f"repo:{owner}/{name}:{context}"


def job_environment(azure: Azure, run: WorkflowRun, environment: str = "", seconds: float = REQUEST_LIFETIME_S) -> dict[str, str]:
    """Return the variables that GitHub sets in a job with ``id-token: write``; the request token is valid for ``seconds``."""
    claims = {"exp": time.time() + seconds, "run": dataclasses.asdict(run)}
    return {
        "ACTIONS_ID_TOKEN_REQUEST_URL": f"{REQUESTS}/idtoken/{run.run_id}?api-version=2.0&environment={environment}",
        "ACTIONS_ID_TOKEN_REQUEST_TOKEN": jwt.encode(claims, azure.identity.token_key, algorithm="HS256"),
    }


async def get_id_token(azure: Azure, request: Request) -> Answer:
    """Return a signed token for the job that sends the request."""
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
    return {"value": _sign_token(azure, run, request.query_params.get("environment", ""), audience)}


async def get_configuration(azure: Azure, request: Request) -> Answer:
    """Return the issuer's metadata (OpenID Connect discovery)."""
    return {
        "issuer": ISSUER,
        "jwks_uri": f"{ISSUER}/.well-known/jwks",
        "subject_types_supported": ["public", "pairwise"],
        "response_types_supported": ["id_token"],
        "id_token_signing_alg_values_supported": ["RS256"],
        "scopes_supported": ["openid"],
    }


async def get_keys(azure: Azure, request: Request) -> Answer:
    """Return the issuer's public keys."""
    return public_keys(azure)


async def startup(azure: Azure) -> None:
    """Make the emulated application trust the configured subjects, as federated credentials do."""
    for trusted in azure.options.federated_subjects:
        entra.federate(azure, ISSUER, trusted, public_keys(azure))


def _sign_token(azure: Azure, run: WorkflowRun, environment: str, audience: str) -> str:
    repository = azure.options.github
    owner = repository.partition("/")[0]
    token_subject = subject(azure, run, environment)
    now = int(time.time())
    # GitHub's tokens are valid from a little before they are issued.
    begin, end = now - 60, now + LIFETIME_S
    if azure.faults.take("assertion-expired", token_subject):
        begin, end = now - 1200, now - 900
    claims: dict[str, Any] = {
        "iss": ISSUER, "aud": audience, "sub": token_subject, "jti": str(uuid.uuid4()), "iat": begin, "nbf": begin, "exp": end,
        "repository": repository, "repository_owner": owner,
        "repository_id": _numeric_id(repository), "repository_owner_id": _numeric_id(owner),
        "run_id": run.run_id, "run_number": "1", "run_attempt": "1", "event_name": run.event, "ref": run.ref, "ref_type": "branch",
        "sha": run.sha, "actor": run.actor, "actor_id": _numeric_id(run.actor), "workflow": run.workflow,
        "runner_environment": "github-hosted", "repository_visibility": "private",
    }  # fmt: skip
    if environment:
        claims["environment"] = environment
    return jwt.encode(claims, _private_key(azure), algorithm="RS256", headers={"kid": public_keys(azure)["keys"][0]["kid"]})


def _private_key(azure: Azure) -> rsa.RSAPrivateKey:
    """Return the issuer's key. It is stored at its first use because Entra stores its public half."""
    document = azure.store.get("github", "key")
    if document is None:
        new_key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        pem = new_key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        document = azure.store.put("github", "key", {"pem": pem.decode()})
    # To prove that a key is valid takes longer than to sign with it, and this one is our own.
    key = serialization.load_pem_private_key(document["pem"].encode(), password=None, unsafe_skip_rsa_key_validation=True)
    assert isinstance(key, rsa.RSAPrivateKey)
    return key


def public_keys(azure: Azure) -> dict[str, Any]:
    """Return the issuer's public keys as a JSON Web Key Set (RFC 7517)."""
    jwk: dict[str, Any] = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(_private_key(azure).public_key()))
    jwk.pop("key_ops", None)
    return {"keys": [jwk | {"use": "sig", "alg": "RS256", "kid": hashlib.sha256(jwk["n"].encode()).hexdigest()[:32]}]}


def _numeric_id(name: str) -> str:
    """Return the numeric id of an owner or repository, derived from its name."""
    return str(int(hashlib.sha256(name.encode()).hexdigest()[:7], 16))


ROUTES = [
    Route("oidc", "GET", "/idtoken/{run}", get_id_token, public=True),
    Route("oidc", "GET", "/.well-known/openid-configuration", get_configuration, public=True),
    Route("oidc", "GET", "/.well-known/jwks", get_keys, public=True),
]
