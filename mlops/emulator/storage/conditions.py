"""Conditions in the headers of a request: If-Match, If-None-Match, If-Modified-Since and If-Unmodified-Since.

Rules: "Specifying conditional headers for Blob service operations" in Azure Storage's REST documentation.
"""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from starlette.datastructures import Headers

from mlops.emulator.storage.files import Blob, BlobError

__all__ = ["HEADERS", "check_write", "is_modified"]

HEADERS = ("if-match", "if-none-match", "if-modified-since", "if-unmodified-since")


def is_modified(headers: Headers, blob: Blob) -> bool:
    """Return whether a read must return the blob; if not, the client has it already (304).

    Raises:
        BlobError: 412, it is not the blob that the client expects.
    """
    if headers.get("if-none-match") == "*":
        raise BlobError(400, "UnsatisfiableCondition", "The request includes an unsatisfiable condition for this operation.")
    since, until = (_parse(headers, name) for name in ("if-modified-since", "if-unmodified-since"))
    if headers.get("if-match", "*") not in ("*", blob.etag) or (until is not None and _modified(blob) > until):
        raise _condition_not_met()
    checks = [
        *([headers["if-none-match"] != blob.etag] if "if-none-match" in headers else []),
        *([_modified(blob) > since] if since is not None else []),
    ]
    return any(checks) or not checks


def check_write(headers: Headers, blob: Blob | None) -> None:
    """Check that a blob, or that there is none, is what the client expects before it writes. The entity tags count before the times.

    Raises:
        BlobError: 412, it isn't.
    """
    if blob is None:
        if "if-match" in headers:
            raise _condition_not_met()
        return
    since, until = (_parse(headers, name) for name in ("if-modified-since", "if-unmodified-since"))
    if "if-none-match" in headers:
        is_met = headers["if-none-match"] != blob.etag
    elif "if-match" in headers:
        is_met = headers["if-match"] in ("*", blob.etag)
    else:
        is_met = (since is None or _modified(blob) > since) and (until is None or _modified(blob) <= until)
    if not is_met:
        raise _condition_not_met()


def _condition_not_met() -> BlobError:
    """Return the error for a condition that isn't met."""
    return BlobError(412, "ConditionNotMet", "The condition specified using HTTP conditional header(s) is not met.")


def _modified(blob: Blob) -> datetime:
    """Return the time in Last-Modified, which has no fractions."""
    return datetime.fromtimestamp(blob.modified_ns // 10**9, UTC)


def _parse(headers: Headers, name: str) -> datetime | None:
    if name not in headers:
        return None
    try:
        moment = parsedate_to_datetime(headers[name])
    except ValueError:
        raise BlobError(400, "InvalidHeaderValue", "The value for one of the HTTP headers is not in the correct format.") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
