"""Run history: what a job's run says about itself, its children and its log files.

Public surface: run-history.json of Azure/azure-sdk-for-python (``{api}/history/v1.0{workspace}/runs/{run}/details`` and ``/children``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

from mlops.cloud.errors import translated
from mlops.cloud.rest import Rest
from mlops.cloud.session import Session

__all__ = ["RunDetails", "RunHistory"]


@dataclass(frozen=True, kw_only=True)
class RunDetails:
    """A run as run history has it."""

    run: str
    name: str
    """Its step's name in a pipeline, else its display name."""
    status: str
    error: str
    """The service's message, with its codes; empty where there is none."""
    seconds: float | None = None
    """From start to end; None while it is not over."""
    logs: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Log file → URL that reads it (with a signature: not for showing)."""


class RunHistory:
    """The workspace's run history. Use it as ``workspace.history``."""

    def __init__(self, session: Session) -> None:
        self._session = session

    @cached_property
    def _rest(self) -> Rest:
        return Rest(self._session.credential)

    @cached_property
    def _runs_url(self) -> str:
        # The tracking URI's host is the region's data plane, which also serves run history.
        host = urlsplit(self._session.tracking_uri).netloc
        return f"https://{host}/history/v1.0{self._session.arm_id}/runs"

    def details(self, run: str) -> RunDetails:
        """A run's details.

        Raises:
            NotFound: no such run.
        """
        with translated(f"reading the run {run}"):
            return _details(self._rest.get(f"{self._runs_url}/{run}/details"))

    def children(self, run: str) -> list[RunDetails]:
        """The runs right below, e.g. a pipeline's steps, in the order in which they were made."""
        found: list[Any] = []
        with translated(f"listing the children of {run}"):
            page = self._rest.get(f"{self._runs_url}/{run}/children")
            found += page.get("value") or ()
            while following := page.get("nextLink"):
                page = self._rest.get(following)
                found += page.get("value") or ()
        found.sort(key=lambda child: (str(child.get("createdUtc") or child.get("createdTimeUtc") or ""), child.get("runNumber") or 0))
        return [_details(child) for child in found]

    def descendants(self, run: str) -> list[RunDetails]:
        """All runs below, nearest first. A registry component sits as one child of the pipeline and has its steps below it."""
        found, level = [], [run]
        while level:
            children = [child for parent in level for child in self.children(parent)]
            found += children
            level = [child.run for child in children]
        return found

    def log(self, url: str, start: int = 0) -> bytes:
        """A log file from byte ``start`` on, by the URL that :class:`RunDetails` gives; empty where nothing has come since."""
        from azure.core.exceptions import HttpResponseError
        from azure.storage.blob import BlobClient

        with translated("reading a log file"), BlobClient.from_blob_url(url) as blob:
            try:
                return bytes(blob.download_blob(offset=start, max_concurrency=1).readall())
            except HttpResponseError as problem:
                # 416: the file ends where we stand.
                if problem.status_code == 416:
                    return b""
                raise


def _details(body: Mapping[str, Any]) -> RunDetails:
    properties = body.get("properties") or {}
    return RunDetails(
        run=str(body.get("runId") or ""),
        name=str(properties.get("azureml.moduleName") or body.get("displayName") or body.get("name") or body.get("runId") or ""),
        status=str(body.get("status") or "Unknown"),
        error=_error(body.get("error")),
        seconds=_seconds(body.get("startTimeUtc"), body.get("endTimeUtc")),
        logs=dict(body.get("logFiles") or {}),
    )


def _seconds(start: Any, end: Any) -> float | None:
    if not start or not end:
        return None
    # Seven decimals of a second, as .NET writes them; Python 3.11 reads six.
    times = [datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", str(text))) for text in (start, end)]
    return (times[1] - times[0]).total_seconds()


def _error(error: Any) -> str:
    """The message of ``{"error": {"code", "message", "innerError"}}`` with its codes, outermost first."""
    inner = error.get("error") if isinstance(error, Mapping) else None
    if not isinstance(inner, Mapping):
        return ""
    message, codes = str(inner.get("message") or "").strip(), []
    level: Any = inner
    while isinstance(level, Mapping):
        if level.get("code"):
            codes.append(str(level["code"]))
        level = level.get("innerError")
    return f"{'/'.join(codes)}: {message}" if codes else message
