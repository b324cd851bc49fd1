"""Shared access signatures: who holds one may do what it says to one container or one blob, until it expires.

A service SAS as Azure Storage defines it for versions 2020-12-06 and later: an HMAC-SHA256 over the permissions, the time, the resource
and the rest of the query, with the account key.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from datetime import UTC, datetime, timedelta
from urllib.parse import quote, urlencode

from starlette.datastructures import QueryParams

from mlops.emulator.base.azure import BLOB_SUFFIX, Azure

__all__ = ["SasProblem", "check", "sas_token", "sas_url"]

VERSION = "2024-08-04"


class SasProblem(Exception):
    """Why a signature doesn't open the door.

    Args:
        code: storage error code.
        message: what the service says.
        detail: of an authentication error; empty for others.
    """

    def __init__(self, code: str, message: str, detail: str = "") -> None:
        super().__init__(f"{code}: {message} {detail}".rstrip())
        self.code = code
        self.message = message
        self.detail = detail


def sas_token(azure: Azure, container: str, blob: str = "", permissions: str = "r", hours: float = 24) -> str:
    """The query, without ``?``, that grants ``permissions`` (letters of ``racwdl``) to a blob, or to a whole container."""
    fields = {
        "sp": "".join(letter for letter in "racwdl" if letter in permissions),
        "st": _time(datetime.now(UTC) - timedelta(minutes=10)),
        "se": _time(datetime.now(UTC) + timedelta(hours=hours)),
        "spr": "https",
        "sv": VERSION,
        "sr": "b" if blob else "c",
    }
    return urlencode(fields | {"sig": _signature(azure, container, blob, fields)})


def sas_url(azure: Azure, container: str, blob: str, permissions: str = "r", hours: float = 24) -> str:
    """A URL that reads (or as ``permissions`` say) one blob without any other credential."""
    token = sas_token(azure, container, blob, permissions, hours)
    return f"https://{azure.identity.account}.{BLOB_SUFFIX}/{container}/{quote(blob)}?{token}"


def check(azure: Azure, container: str, blob: str, query: QueryParams, needed: str) -> None:
    """Whether the query holds a valid signature with one of the permissions ``needed``.

    Raises:
        SasProblem: it doesn't.
    """
    if "sig" not in query:
        raise SasProblem("PublicAccessNotPermitted", "Public access is not permitted on this storage account.")
    resource = query.get("sr", "")
    if resource not in ("b", "c"):
        raise _failed(f"sr={resource} is not a supported signed resource type here: b or c.")
    if not hmac.compare_digest(query["sig"], _signature(azure, container, blob if resource == "b" else "", query)):
        raise _failed("Signature did not match.")
    try:
        begin, end = (_moment(query.get(name) or fallback) for name, fallback in (("st", "2000-01-01"), ("se", "")))
    except ValueError:
        raise _failed("Signature fields not well formed.") from None
    now = datetime.now(UTC)
    if not begin <= now < end:
        frame = f"Start [{_time(begin)}] - Expiry [{_time(end)}] - Current [{_time(now)}]"
        raise _failed(f"Signature not valid in the specified time frame: {frame}")
    if not set(needed) & set(query.get("sp", "")):
        raise SasProblem(
            "AuthorizationPermissionMismatch", "This request is not authorized to perform this operation using this permission."
        )


def _signature(azure: Azure, container: str, blob: str, fields: QueryParams | dict[str, str]) -> str:
    resource = "/".join(part for part in ("/blob", azure.identity.account, container, blob) if part)
    head = [fields.get(name, "") for name in ("sp", "st", "se")]
    tail = [fields.get(name, "") for name in ("si", "sip", "spr", "sv", "sr", "snapshot", "ses", "rscc", "rscd", "rsce", "rscl", "rsct")]
    text = "\n".join([*head, resource, *tail])
    key = base64.b64decode(azure.identity.account_key)
    return base64.b64encode(hmac.new(key, text.encode(), hashlib.sha256).digest()).decode()


def _failed(detail: str) -> SasProblem:
    message = (
        "Server failed to authenticate the request. Make sure the value of Authorization header is formed correctly"
        " including the signature."
    )
    return SasProblem("AuthenticationFailed", message, detail)


def _moment(text: str) -> datetime:
    # A date alone, or a time without a zone, means UTC.
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _time(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
