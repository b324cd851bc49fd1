"""Entra ID for one tenant: sign-in of applications by client secret or federated assertion, and validation of access tokens.

There is one application from the start; :func:`add_application` creates others, e.g. the one of pull requests.

OAuth 2.0 client credentials (RFC 6749, 4.4), JWT bearer assertions (RFC 7523) and OpenID Connect discovery, in the form of Microsoft's
v2.0 endpoints; error bodies contain AADSTS codes. Access tokens are JWTs (RFC 7519) that the emulator signs and verifies itself.
"""

from __future__ import annotations

import hmac
import secrets
import time
import uuid
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl

import jwt
from starlette.requests import Request

from mlops.emulator.base.azure import Azure, object_id
from mlops.emulator.base.errors import AzureFault
from mlops.emulator.wire.app import Answer, Claims, Route

__all__ = ["MANAGEMENT", "ML", "ROUTES", "STORAGE", "add_application", "authenticate", "federate", "issue"]

LOGIN = "https://login.microsoftonline.com"
MANAGEMENT = "https://management.azure.com"
"""Audience of tokens for ARM and for the workspace's data plane."""
ML = "https://ml.azure.com"
"""Audience of the tokens in job submissions (``x-azureml-token``)."""
STORAGE = "https://storage.azure.com"
"""Audience of tokens for blobs."""
EXCHANGE = "api://AzureADTokenExchange"
"""The required audience of a federated assertion."""
ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

RESOURCES = {
    MANAGEMENT: MANAGEMENT,
    "https://management.core.windows.net": MANAGEMENT,
    ML: ML,
    STORAGE: STORAGE,
}
"""Resource in a scope → audience of the token."""
AUDIENCES = {"arm": (MANAGEMENT,), "blob": (STORAGE, f"{STORAGE}/")}
"""Host → audiences that it accepts; all others accept those of ARM and of job submissions."""
LIFETIME_MIN = 60
SKEW_S = 300
"""Allowed clock skew of a federated issuer; Entra allows five minutes."""


async def get_openid_configuration(azure: Azure, request: Request) -> Answer:
    """Return the tenant's endpoints."""
    tenant = _check_tenant(azure, request)
    return {
        "token_endpoint": f"{LOGIN}/{tenant}/oauth2/v2.0/token",
        "token_endpoint_auth_methods_supported": ["client_secret_post", "private_key_jwt"],
        "jwks_uri": f"{LOGIN}/{tenant}/discovery/v2.0/keys",
        "response_types_supported": ["code", "id_token", "code id_token", "id_token token"],
        "scopes_supported": ["openid", "profile", "email", "offline_access"],
        "subject_types_supported": ["pairwise"],
        "id_token_signing_alg_values_supported": ["RS256"],
        "issuer": f"{LOGIN}/{tenant}/v2.0",
        "authorization_endpoint": f"{LOGIN}/{tenant}/oauth2/v2.0/authorize",
        "device_authorization_endpoint": f"{LOGIN}/{tenant}/oauth2/v2.0/devicecode",
        "end_session_endpoint": f"{LOGIN}/{tenant}/oauth2/v2.0/logout",
        "tenant_region_scope": "NA",
        "cloud_instance_name": "microsoftonline.com",
    }


async def get_instance(azure: Azure, request: Request) -> Answer:
    """Return the host names of the same cloud."""
    return {
        "tenant_discovery_endpoint": f"{LOGIN}/{azure.identity.tenant}/v2.0/.well-known/openid-configuration",
        "api-version": "1.1",
        "metadata": [
            {
                "preferred_network": "login.microsoftonline.com",
                "preferred_cache": "login.windows.net",
                "aliases": ["login.microsoftonline.com", "login.windows.net", "login.microsoft.com", "sts.windows.net"],
            }
        ],
    }


async def post_token(azure: Azure, request: Request) -> Answer:
    """Return an access token for a client with valid credentials."""
    _check_tenant(azure, request)
    form = dict(parse_qsl((await request.body()).decode("utf-8", "replace")))
    for name in ("grant_type", "client_id", "scope"):
        if not form.get(name):
            raise _entra_error(400, "invalid_request", 900144, f"The request body must contain the following parameter: '{name}'.")
    if form["grant_type"] != "client_credentials":
        raise _entra_error(400, "unsupported_grant_type", 70003, f"The app requested an unsupported grant type '{form['grant_type']}'.")
    client = _check_client(azure, form)
    audience = _audience_of(azure, form["scope"])
    minutes: float = LIFETIME_MIN
    if azure.faults.take("token-short", audience):
        minutes = 1
    seconds = int(minutes * 60)
    # The response contains the usual lifetime, so the client notices only when it uses the token, as if its clock were wrong.
    lifetime = -1.0 if azure.faults.take("token-expired", audience) else minutes
    return {
        "token_type": "Bearer",
        "expires_in": seconds,
        "ext_expires_in": seconds,
        "access_token": issue(azure, audience, lifetime, client),
    }


def add_application(azure: Azure, client: str = "") -> dict[str, str]:
    """Create an application, and return the variables that sign a process in as it."""
    client, secret = client or str(uuid.uuid4()), secrets.token_urlsafe(30)
    azure.store.put("application", client.lower(), {"client_secret": secret})
    return {"AZURE_CLIENT_ID": client, "AZURE_CLIENT_SECRET": secret}


def issue(azure: Azure, audience: str, minutes: float = LIFETIME_MIN, client: str = "", **more: str) -> str:
    """Return a signed access token of an application.

    Args:
        azure: the emulated Azure.
        audience: the service that it is for.
        minutes: its lifetime; a negative one makes a token that has expired.
        client: the application's client id; by default the first one's.
        more: other claims, e.g. the ``run`` of a job's token.
    """
    i = azure.identity
    client = client or i.client
    now = time.time()
    # Even an expired token must begin before it ends.
    begin = int(now - 300 + min(minutes, 0) * 60)
    claims = {
        "aud": audience,
        "iss": f"https://sts.windows.net/{i.tenant}/",
        "iat": begin,
        "nbf": begin,
        "exp": int(now + minutes * 60),
        "appid": client,
        "appidacr": "1",
        "idtyp": "app",
        "oid": object_id(client),
        "sub": object_id(client),
        "tid": i.tenant,
        "uti": uuid.uuid4().hex,
        "ver": "1.0",
        **more,
    }
    return jwt.encode(claims, i.token_key, algorithm="HS256")


def federate(azure: Azure, issuer: str, subject: str, jwks: dict[str, Any], client: str = "") -> None:
    """Make an application (by default the first) trust assertions of ``issuer`` about ``subject``.

    They must be signed with a key of ``jwks`` (JSON Web Key Set, RFC 7517).
    """
    client = (client or azure.identity.client).lower()
    azure.store.put("federated", f"{client} {issuer} {subject}", {"client": client, "issuer": issuer, "subject": subject, "jwks": jwks})


def authenticate(azure: Azure, request: Request, host: str) -> Claims:
    """Validate the signature, expiry and audience of a request's bearer token, and return its claims.

    Raises:
        AzureFault: 401, with ARM's code for the failure.
    """
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise _unauthorized("AuthenticationFailed", "Authentication failed. The 'Authorization' header is missing.")
    try:
        claims: Claims = jwt.decode(
            token, azure.identity.token_key, algorithms=["HS256"], options={"verify_aud": False, "verify_exp": False}
        )
    except jwt.InvalidTokenError:
        raise _unauthorized("InvalidAuthenticationToken", "The access token is invalid.") from None
    if claims["exp"] <= time.time():
        expiry, now = _utc(claims["exp"]), _utc(time.time())
        raise _unauthorized(
            "ExpiredAuthenticationToken", f"The access token expiry UTC time '{expiry}' is earlier than current UTC time '{now}'."
        )
    allowed = AUDIENCES.get(host, (MANAGEMENT, ML))
    if claims["aud"] not in allowed:
        audiences = ",".join(f"'{name}'" for name in allowed)
        raise _unauthorized(
            "InvalidAuthenticationTokenAudience",
            f"The access token has been obtained for wrong audience or resource '{claims['aud']}'."
            f" It should exactly match with one of the allowed audiences {audiences}.",
        )
    return claims


def _check_client(azure: Azure, form: dict[str, str]) -> str:
    """Return the client id of the application that these credentials belong to."""
    i = azure.identity
    client = form["client_id"]
    application = {"client_secret": i.client_secret} if client.lower() == i.client else azure.store.get("application", client.lower())
    if application is None:
        raise _entra_error(
            400,
            "unauthorized_client",
            700016,
            f"Application with identifier '{client}' was not found in the directory '{i.tenant}'. This can happen if the application has"
            " not been installed by the administrator of the tenant or consented to by any user in the tenant. You may have sent your"
            " authentication request to the wrong tenant.",
        )
    if "client_assertion" in form:
        _check_assertion(azure, form)
    elif "client_secret" not in form:
        raise _entra_error(
            401,
            "invalid_client",
            7000216,
            "'client_assertion', 'client_secret' or 'request' is required for the 'client_credentials' grant type.",
        )
    elif not hmac.compare_digest(form["client_secret"].encode(), application["client_secret"].encode()):
        raise _entra_error(
            401,
            "invalid_client",
            7000215,
            "Invalid client secret provided. Ensure the secret being sent in the request is the client secret value, not the client"
            f" secret ID, for a secret added to app '{client}'.",
        )
    return client.lower()


def _check_assertion(azure: Azure, form: dict[str, str]) -> None:
    if form.get("client_assertion_type") != ASSERTION_TYPE:
        raise _entra_error(
            400, "invalid_request", 900144, f"The request body must contain 'client_assertion_type' with '{ASSERTION_TYPE}'."
        )
    assertion = form["client_assertion"]
    try:
        header = jwt.get_unverified_header(assertion)
        claims = jwt.decode(assertion, options={"verify_signature": False})
        issuer, subject, begin, end = str(claims["iss"]), str(claims["sub"]), int(claims.get("nbf", claims["iat"])), int(claims["exp"])
    except (jwt.InvalidTokenError, KeyError, TypeError, ValueError):
        raise _entra_error(400, "invalid_request", 50027, "JWT token is invalid or malformed.") from None
    now = time.time()
    if not begin - SKEW_S <= now < end:
        raise _entra_error(
            401,
            "invalid_client",
            700024,
            f"Client assertion is not within its valid time range. Current time: {_utc(now)}, assertion valid from {_utc(begin)}, expiry"
            f" time of assertion {_utc(end)}. Review the documentation at"
            " https://learn.microsoft.com/entra/identity-platform/certificate-credentials",
        )
    trusted = [document for _, document in azure.store.list("federated", f"{form['client_id'].lower()} ") if document["issuer"] == issuer]
    if not trusted:
        raise _federation_error(700211, "issuer", issuer)
    audiences = claims.get("aud")
    if EXCHANGE not in (audiences if isinstance(audiences, list) else [audiences]):
        raise _federation_error(700212, "audience", str(audiences))
    matching = [document for document in trusted if document["subject"] == subject]
    if not matching:
        case_only = any(document["subject"].lower() == subject.lower() for document in trusted)
        raise _federation_error(7002138 if case_only else 700213, "subject", subject)
    _check_signature(assertion, header, matching[0]["jwks"])


def _check_signature(assertion: str, header: dict[str, Any], jwks: dict[str, Any]) -> None:
    try:
        key = jwt.PyJWKSet.from_dict(jwks)[header.get("kid", "")]
        # Only the algorithm of the issuer's key set: a token's header must not choose it.
        jwt.decode(assertion, key, algorithms=["RS256"], options={"verify_aud": False, "verify_exp": False, "verify_nbf": False})
    except (KeyError, jwt.InvalidTokenError, jwt.PyJWKSetError):
        raise _entra_error(
            401,
            "invalid_client",
            700027,
            "The certificate with identifier used to sign the client assertion is not registered on application. "
            f"[Reason - The key was not found., Key id = {header.get('kid')}]",
        ) from None


def _federation_error(code: int, what: str, value: str) -> AzureFault:
    return _entra_error(
        401,
        "invalid_client",
        code,
        f"No matching federated identity record found for presented assertion {what} '{value}'. Check your federated identity credential"
        " Subject, Audience and Issuer against the presented assertion.",
    )


def _audience_of(azure: Azure, scope: str) -> str:
    resource, dot, _ = scope.rpartition("/.default")
    if not dot or " " in scope:
        raise _entra_error(
            400, "invalid_scope", 70011, f"The provided value for the input parameter 'scope' is not valid. The scope {scope} is not valid."
        )
    audience = RESOURCES.get(resource.rstrip("/"))
    if audience is None:
        raise _entra_error(
            400,
            "invalid_resource",
            500011,
            f"The resource principal named {resource} was not found in the tenant named {azure.identity.tenant}. This can happen if the"
            " application has not been installed by the administrator of the tenant or consented to by any user in the tenant.",
        )
    return audience


def _check_tenant(azure: Azure, request: Request) -> str:
    tenant: str = request.path_params["tenant"]
    if tenant.lower() != azure.identity.tenant:
        raise _entra_error(
            400,
            "invalid_tenant",
            90002,
            f"Tenant '{tenant}' not found. Check to make sure you have the correct tenant ID and are signing into the correct cloud. Check"
            " with your subscription administrator, this may happen if there are no active subscriptions for the tenant.",
        )
    return tenant


def _entra_error(status: int, error: str, code: int, message: str) -> AzureFault:
    trace, correlation, now = str(uuid.uuid4()), str(uuid.uuid4()), _utc(time.time())
    description = f"AADSTS{code}: {message} Trace ID: {trace} Correlation ID: {correlation} Timestamp: {now}"
    return AzureFault(
        status,
        error,
        f"AADSTS{code}: {message}",
        body={
            "error": error,
            "error_description": description,
            "error_codes": [code],
            "timestamp": now,
            "trace_id": trace,
            "correlation_id": correlation,
            "error_uri": f"{LOGIN}/error?code={code}",
        },
    )


def _unauthorized(code: str, message: str) -> AzureFault:
    challenge = f'Bearer authorization_uri="{LOGIN}/", error="invalid_token", error_description="{message}"'
    return AzureFault(401, code, message, headers={"WWW-Authenticate": challenge})


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


ROUTES = [
    Route("login", "GET", "/{tenant}/v2.0/.well-known/openid-configuration", get_openid_configuration, public=True),
    Route("login", "GET", "/common/discovery/instance", get_instance, public=True),
    Route("login", "POST", "/{tenant}/oauth2/v2.0/token", post_token, public=True),
]
