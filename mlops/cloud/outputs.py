"""Files that jobs leave in the workspace's storage.

The SDK's ``jobs.download`` does not work for named outputs (1.35.2: ``TypeError`` for MLflow models, nothing at all for folders; see
Azure/azure-sdk-for-python#48941), so the output's place is resolved here and its blobs are read with azure-storage-blob.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from mlops.cloud.errors import NotFound, translated
from mlops.cloud.jobs import JobView
from mlops.cloud.session import Session
from mlops.core import console
from mlops.core.errors import AzureError

__all__ = ["Outputs"]

_DATASTORE_URI = re.compile(r"azureml://(?:.*/)?datastores/(?P<datastore>[^/]+)/paths/(?P<path>.*)", re.IGNORECASE)


@dataclass(frozen=True)
class _Place:
    """A folder in a container."""

    datastore: Any
    path: str


class Outputs:
    """Downloads what jobs have written."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def download(self, job: JobView, output: str, into: Path) -> Path:
        """Download a job's named output into a folder, replacing the folder if it exists, and return the folder.

        Raises:
            NotFound: the output has no files.
        """
        place = self._place(job.outputs.get(output, ""), job.name, output)
        into.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=into.parent, prefix=f".{into.name}."))
        try:
            count = self._fetch(place, temporary)
            if count == 0:
                raise NotFound(
                    f"Output {output!r} of job {job.name} has no files (looked at {place.datastore.name}: {place.path}).",
                    "look at the job's Outputs tab in the studio",
                )
            if into.exists():
                shutil.rmtree(into)
            temporary.replace(into)
            into.chmod(0o755)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return into

    def has_files(self, uri: str) -> bool:
        """Whether there is a file at a URI. What does not lie in a datastore can't be looked at, and is taken to be there."""
        if not _DATASTORE_URI.fullmatch(uri):
            return True
        place = self._place(uri, "", "")
        with translated(f"looking for {place.path}"), self._container(place.datastore) as container:
            return next(_names(container, place.path), None) is not None

    def _place(self, uri: str, job: str, output: str) -> _Place:
        ml = self._session.ml
        if match := _DATASTORE_URI.fullmatch(uri or ""):
            with translated(f"reading datastore {match['datastore']}"):
                return _Place(ml.datastores.get(match["datastore"], include_secrets=True), match["path"].rstrip("/"))
        # Azure gives no URI for an output that was left to it; it puts those here.
        with translated("reading the default datastore"):
            default = ml.datastores.get_default(include_secrets=True)
        return _Place(default, f"azureml/{job}/{output}")

    def _fetch(self, place: _Place, into: Path) -> int:
        count = 0
        progress = console.Progress("files")
        with translated(f"downloading {place.path}"), self._container(place.datastore) as container:
            for name, relative in _names(container, place.path):
                target = _inside(into, relative)
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("wb") as file:
                    container.download_blob(name, max_concurrency=2).readinto(file)
                count += 1
                progress.advance()
        if count:
            progress.close()
        return count

    def _container(self, datastore: Any) -> Any:
        from azure.storage.blob import ContainerClient

        credentials = datastore.credentials
        secret = getattr(credentials, "sas_token", None) or getattr(credentials, "account_key", None) or self._session.credential
        # Data Lake Gen2 answers under the blob name too; its containers are called file systems.
        container = getattr(datastore, "container_name", None) or datastore.filesystem
        url = f"https://{datastore.account_name}.blob.{datastore.endpoint or 'core.windows.net'}"
        return ContainerClient(url, container, credential=secret)


def _names(container: Any, path: str) -> Iterator[tuple[str, str]]:
    """Blob names at or below a path, with the part below it."""
    for blob in container.list_blobs(name_starts_with=path):
        if blob.name == path and blob.size:
            yield blob.name, PurePosixPath(path).name
        # A prefix also matches siblings (out and out2), and Data Lake lists folders as blobs of no size.
        elif blob.name.startswith(f"{path}/") and not (blob.metadata or {}).get("hdi_isfolder"):
            yield blob.name, blob.name[len(path) + 1 :]


def _inside(folder: Path, relative: str) -> Path:
    """The place of a blob below a folder. A name that points out of it is refused: it comes from whoever could write to the storage."""
    target = (folder / relative).resolve()
    if not target.is_relative_to(folder.resolve()) or target == folder.resolve():
        raise AzureError(f"A file of the output is called {relative!r}, which leads out of the download folder.")
    return target
