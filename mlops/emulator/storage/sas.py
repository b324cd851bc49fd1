"""Shared access signatures: each grants permissions until it expires, a service SAS on one container or blob, an account SAS on all.

As Azure Storage defines them for versions 2020-12-06 and later: an HMAC-SHA256 over the permissions, the time, the resource and the rest of
the query, with the account key.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from datetime import UTC, datetime, timedelta
from urllib.parse import quote, urlencode

from starlette.datastructures import QueryParams

from mlops.emulator.base.azure import BLOB_SUFFIX, Azure

__all__ = ["SasError", "authentication_error", "check", "is_account_sas", "response_headers", "sas_token", "sas_url"]

VERSION = "2024-08-04"
RESPONSE_HEADERS = {
    "rscc": "Cache-Control",
    "rscd": "Content-Disposition",
    "rsce": "Content-Encoding",
    "rscl": "Content-Language",
    "rsct": "Content-Type",
}
"""Parameter of a service SAS → the header that it sets in the response to a read."""


class SasError(Exception):
    """A request that a signature doesn't authorize.

    Args:
        code: storage error code.
        message: the service's message.
        detail: detail of an authentication error; empty for other errors.
    """

    def __init__(self, code: str, message: str, detail: str = "") -> None:
        super().__init__(f"{code}: {message} {detail}".rstrip())
        self.code = code
        self.message = message
        self.detail = detail


def sas_token(azure: Azure, container: str, blob: str = "", permissions: str = "r", hours: float = 24) -> str:
    """Return the query, without ``?``, that grants ``permissions`` (letters of ``racwdl``) on a blob or a whole container."""
    fields = {
        "sp": "".join(letter for letter in "racwdl" if letter in permissions),
        "st": _format_time(datetime.now(UTC) - timedelta(minutes=10)),
        "se": _format_time(datetime.now(UTC) + timedelta(hours=hours)),
        "spr": "https",
        "sv": VERSION,
        "sr": "b" if blob else "c",
    }
    return urlencode(fields | {"sig": _sign(azure, container, blob, fields)})


def sas_url(azure: Azure, container: str, blob: str, permissions: str = "r", hours: float = 24) -> str:
    """Return a URL that grants ``permissions`` on one blob without other credentials."""
    token = sas_token(azure, container, blob, permissions, hours)
    return f"https://{azure.identity.account}.{BLOB_SUFFIX}/{container}/{quote(blob)}?{token}"


def is_account_sas(query: QueryParams) -> bool:
    """Return whether the query has the signature of an account SAS."""
    return "sig" in query and "ss" in query


def response_headers(query: QueryParams) -> dict[str, str]:
    """Return the headers that a service SAS sets in the response to a read."""
    if "sr" not in query:
        return {}
    return {header: query[name] for name, header in RESPONSE_HEADERS.items() if name in query}


def check(azure: Azure, container: str, blob: str, query: QueryParams, needed: str) -> None:
    """Check that the query has a valid signature with at least one of the permissions in ``needed``.

    Args:
        azure: the emulated Azure.
        container: name of the container.
        blob: name of the blob; empty for operations on the container.
        query: the request's query.
        needed: letters of permissions; none for what no service SAS allows, only an account SAS that can read.

    Raises:
        SasError: it doesn't.
    """
    if "sig" not in query:
        raise SasError("PublicAccessNotPermitted", "Public access is not permitted on this storage account.")
    if is_account_sas(query):
        _check_signature(query, _sign_account(azure, query))
        _check_grant("b", query["ss"], "AuthorizationServiceMismatch", "service")
        _check_grant("o" if blob else "c", query.get("srt", ""), "AuthorizationResourceTypeMismatch", "resource type")
        _check_grant(needed or "r", query.get("sp", ""), "AuthorizationPermissionMismatch", "permission")
        return
    resource = query.get("sr", "")
    if resource not in ("b", "c"):
        raise authentication_error(f"sr={resource} is not a supported signed resource type here: b or c.")
    _check_signature(query, _sign(azure, container, blob if resource == "b" else "", query))
    if not needed:
        raise SasError("AuthorizationFailure", "This request is not authorized to perform this operation.")
    _check_grant(needed, query.get("sp", ""), "AuthorizationPermissionMismatch", "permission")


def _check_signature(query: QueryParams, expected: str) -> None:
    if not hmac.compare_digest(query["sig"], expected):
        raise authentication_error("Signature did not match.")
    try:
        begin, end = (_parse_time(query.get(name) or fallback) for name, fallback in (("st", "2000-01-01"), ("se", "")))
    except ValueError:
        raise authentication_error("Signature fields not well formed.") from None
    now = datetime.now(UTC)
    if not begin <= now < end:
        frame = f"Start [{_format_time(begin)}] - Expiry [{_format_time(end)}] - Current [{_format_time(now)}]"
        raise authentication_error(f"Signature not valid in the specified time frame: {frame}")


def _check_grant(needed: str, granted: str, code: str, what: str) -> None:
    if not set(needed) & set(granted):
        raise SasError(code, f"This request is not authorized to perform this operation using this {what}.")


def _sign(azure: Azure, container: str, blob: str, fields: QueryParams | dict[str, str]) -> str:
    resource = "/".join(part for part in ("/blob", azure.identity.account, container, blob) if part)
    head = [fields.get(name, "") for name in ("sp", "st", "se")]
    tail = [fields.get(name, "") for name in ("si", "sip", "spr", "sv", "sr", "snapshot", "ses", "rscc", "rscd", "rsce", "rscl", "rsct")]
    return _hash(azure, "\n".join([*head, resource, *tail]))


def _sign_account(azure: Azure, query: QueryParams) -> str:
    fields = [query.get(name, "") for name in ("sp", "ss", "srt", "st", "se", "sip", "spr", "sv", "ses")]
    return _hash(azure, "\n".join([azure.identity.account, *fields, ""]))


def _hash(azure: Azure, text: str) -> str:
    key = base64.b64decode(azure.identity.account_key)
    return base64.b64encode(hmac.new(key, text.encode(), hashlib.sha256).digest()).decode()


def authentication_error(detail: str) -> SasError:
    """Return the error for a signature that isn't valid."""
    message = (
        "Server failed to authenticate the request. Make sure the value of Authorization header is formed correctly"
        " including the signature."
    )
    return SasError("AuthenticationFailed", message, detail)


def _parse_time(text: str) -> datetime:
    # Dates, and times without a zone, are in UTC.
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _format_time(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
