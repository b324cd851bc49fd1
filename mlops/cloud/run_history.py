"""Run history: the details of a job's run, its outputs, its children and its log files.

Public surface: run-history.json of Azure/azure-sdk-for-python (``{api}/history/v1.0{workspace}/runs/{run}/details`` and ``/children``, and
``{api}/history/v1.0{workspace}/rundata``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any

from mlops.cloud.errors import translate_errors
from mlops.cloud.session import Session

__all__ = ["RunDetails", "RunHistory"]


@dataclass(frozen=True, kw_only=True)
class RunDetails:
    """A run as recorded by run history."""

    run: str
    name: str
    """The name of its step in a pipeline, or else its display name."""
    status: str
    error: str
    """The service's message with its codes; empty if there is none."""
    seconds: float | None = None
    """Seconds from start to end; None until it ends."""
    logs: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Log file → URL of its content (signed, so never print it)."""


class RunHistory:
    """The workspace's run history. Use it as ``workspace.history``."""

    def __init__(self, session: Session) -> None:
        self._session = session

    @cached_property
    def _url(self) -> str:
        return f"{self._session.data_plane}/history/v1.0{self._session.arm_id}"

    def get_details(self, run: str) -> RunDetails:
        """Read a run's details.

        Raises:
            NotFound: there is no such run.
        """
        with translate_errors(f"reading the run {run}"):
            return _details(self._session.rest.get(f"{self._url}/runs/{run}/details"))

    def get_outputs(self, run: str) -> dict[str, str]:
        """Return output → id of the asset that Azure has made of it; empty until the run is Completed.

        An output of a pipeline is the asset of the step that wrote it. Only the SDK's ``jobs.download`` has a method for this.

        Raises:
            NotFound: there is no such run.
        """
        with translate_errors(f"reading the outputs of run {run}"):
            metadata = self._session.rest.query(f"{self._url}/rundata", {"runId": run, "selectRunMetadata": True})["runMetadata"]
        return {name: str(asset["assetId"]) for name, asset in (metadata["outputs"] or {}).items()}

    def list_children(self, run: str) -> list[RunDetails]:
        """Return the direct children, e.g. a pipeline's steps, oldest first."""
        children: list[Any] = []
        with translate_errors(f"listing the children of {run}"):
            page = self._session.rest.get(f"{self._url}/runs/{run}/children")
            children += page.get("value") or ()
            while next_link := page.get("nextLink"):
                page = self._session.rest.get(next_link)
                children += page.get("value") or ()
        children.sort(key=lambda child: (str(child.get("createdUtc") or child.get("createdTimeUtc") or ""), child.get("runNumber") or 0))
        return [_details(child) for child in children]

    def list_descendants(self, run: str) -> list[RunDetails]:
        """Return all descendants, nearest first. A registry component is one child of the pipeline, and its steps are below it."""
        descendants, parents = [], [run]
        while parents:
            children = [child for parent in parents for child in self.list_children(parent)]
            descendants += children
            parents = [child.run for child in children]
        return descendants

    def read_log(self, url: str, start: int = 0) -> bytes:
        """Read a log file from byte ``start``; empty if nothing was added. ``url`` comes from :class:`RunDetails`."""
        from azure.core.exceptions import HttpResponseError
        from azure.storage.blob import BlobClient

        with translate_errors("reading a log file"), BlobClient.from_blob_url(url) as blob:
            try:
                return bytes(blob.download_blob(offset=start, max_concurrency=1).readall())
            except HttpResponseError as problem:
                # 416: the file ends at this offset.
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
    # .NET writes seven decimals of a second, and Python 3.11 parses six.
    times = [datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", str(text))) for text in (start, end)]
    return (times[1] - times[0]).total_seconds()


def _error(error: Any) -> str:
    """Return the message of ``{"error": {"code", "message", "innerError"}}`` with its codes, outermost first."""
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
