"""Requests signed with the storage account's key, which clients get from ``listSecrets``.

"Authorize with Shared Key" in Azure Storage's REST documentation: an HMAC-SHA256 over the method, headers, path and query.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

from starlette.requests import Request

from mlops.emulator.base.azure import Azure
from mlops.emulator.storage.sas import authentication_error

__all__ = ["check"]

HEADERS = (
    "content-encoding", "content-language", "content-length", "content-md5", "content-type", "date", "if-modified-since", "if-match",
    "if-none-match", "if-unmodified-since", "range",
)  # fmt: skip
"""Signed headers, in their order."""
MAX_AGE = timedelta(minutes=15)


def check(azure: Azure, request: Request) -> None:
    """Check the signature in the header Authorization.

    Raises:
        SasError: it is not valid, or the request is older than 15 minutes.
    """
    account, _, signature = request.headers["authorization"].removeprefix("SharedKey ").partition(":")
    if account != azure.identity.account or not hmac.compare_digest(signature, _sign(azure, request)):
        raise authentication_error("The MAC signature found in the HTTP request is not the same as any computed signature.")
    try:
        sent = parsedate_to_datetime(request.headers.get("x-ms-date") or request.headers.get("date", ""))
    except ValueError:
        raise authentication_error("The Date header in the request is incorrect.") from None
    if abs(datetime.now(UTC) - sent) > MAX_AGE:
        raise authentication_error(f"Request date header too old: '{request.headers.get('x-ms-date')}'")


def _sign(azure: Azure, request: Request) -> str:
    standard = [request.headers.get(name, "") for name in HEADERS]
    length = HEADERS.index("content-length")
    standard[length] = "" if standard[length] == "0" else standard[length]
    if "x-ms-date" in request.headers:
        standard[HEADERS.index("date")] = ""
    own = [f"{name}:{value}" for name, value in sorted(request.headers.items()) if name.startswith("x-ms-")]
    query: dict[str, list[str]] = {}
    for name, value in request.query_params.multi_items():
        query.setdefault(name.lower(), []).append(value)
    parameters = [f"{name}:{','.join(sorted(values))}" for name, values in sorted(query.items())]
    path = request.scope["raw_path"].decode().partition("?")[0]
    text = "\n".join([request.method, *standard, *own, f"/{azure.identity.account}{path}", *parameters])
    key = base64.b64decode(azure.identity.account_key)
    return base64.b64encode(hmac.new(key, text.encode(), hashlib.sha256).digest()).decode()
