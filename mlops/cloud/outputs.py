"""Files that jobs leave in the workspace's storage.

The SDK's ``jobs.download`` does not work for named outputs (1.35.2: ``TypeError`` for MLflow models, nothing at all for folders; see
Azure/azure-sdk-for-python#48941), so the output's location is resolved here and its blobs are read with azure-storage-blob.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from mlops.cloud.errors import NotFound, translate_errors
from mlops.cloud.jobs import JobView
from mlops.cloud.run_history import RunHistory
from mlops.cloud.session import Session
from mlops.core import console
from mlops.core.errors import AzureError

__all__ = ["Outputs"]

_JOB_OUTPUT = re.compile(r"azureml://jobs/(?P<job>[^/]+)/outputs/(?P<output>[^/]+)")
_DATASTORE_URI = re.compile(r"azureml://(?:.*/)?datastores/(?P<datastore>[^/]+)/paths/(?P<path>.*)", re.IGNORECASE)


@dataclass(frozen=True)
class _Location:
    """A folder in a datastore."""

    datastore: Any
    path: str


class Outputs:
    """The files that jobs have written. Use it as ``workspace.outputs``."""

    def __init__(self, session: Session, history: RunHistory) -> None:
        self._session = session
        self._history = history

    def resolve(self, uri: str) -> str:
        """Return the datastore URI of the files of ``azureml://jobs/{job}/outputs/{output}``, and any other URI unchanged.

        Azure documents that form only for registering models, so jobs that read an output need this one. A pipeline doesn't say where
        its outputs are; they are in the folder of the step that wrote them.

        Raises:
            NotFound: there is no such job, or it has no such output.
        """
        match = _JOB_OUTPUT.fullmatch(uri)
        if match is None:
            return uri
        job, output = match["job"], match["output"]
        asset = self._history.get_outputs(job).get(output)
        if asset is None:
            raise NotFound(f"Job {job} has no output {output!r}.", "look at the job's Outputs tab in the studio")
        service, field = ("modelregistry", "path") if "/models/" in asset else ("data", "uri")
        collection = "models" if service == "modelregistry" else "dataversion"
        url = f"{self._session.data_plane}/{service}/v1.0{self._session.arm_id}/{collection}/batchGetResolvedUris"
        with translate_errors(f"looking up where output {output!r} of job {job} is"):
            return str(self._session.rest.query(url, {"values": [asset]})["values"][asset][field])

    def download(self, job: JobView, output: str, into: Path) -> Path:
        """Download a job's named output into a folder, replacing the folder if it exists, and return the folder.

        Raises:
            NotFound: the output has no files.
        """
        location = self._locate(job.outputs.get(output, ""), job.name, output)
        into.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=into.parent, prefix=f".{into.name}."))
        try:
            count = self._fetch(location, temporary)
            if count == 0:
                raise NotFound(
                    f"Output {output!r} of job {job.name} has no files (searched {location.datastore.name}: {location.path}).",
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
        """Return whether there is a file at a URI. A URI outside a datastore can't be checked and counts as having files."""
        if not _DATASTORE_URI.fullmatch(uri):
            return True
        location = self._locate(uri, "", "")
        with translate_errors(f"looking for {location.path}"), self._container(location.datastore) as container:
            return next(_names(container, location.path), None) is not None

    def has_files_in_default_datastore(self, path: str) -> bool:
        """Return whether there is a file at a path of the default datastore."""
        datastore = self._default_datastore()
        with translate_errors(f"listing {path} of datastore {datastore.name}"), self._container(datastore) as container:
            return next(_names(container, path), None) is not None

    def read_newest(self, uri: str, limit: int) -> Iterator[bytes]:
        """Yield the content of the files below a folder of a datastore, in descending order of names; of a large file, only the end.

        Args:
            uri: of the folder.
            limit: maximum number of bytes per file.
        """
        location = self._locate(uri, "", "")
        with translate_errors(f"reading {location.path}"), self._container(location.datastore) as container:
            for name, _ in sorted(_names(container, location.path), reverse=True):
                size = int(container.get_blob_client(name).get_blob_properties().size)
                yield bytes(container.download_blob(name, offset=max(0, size - limit)).readall()) if size else b""

    def has_keys(self) -> bool:
        """Return whether the default datastore gives access by keys or signatures; otherwise only identities can read and write it."""
        from azure.ai.ml.entities import NoneCredentialConfiguration

        with translate_errors("reading the default datastore"):
            datastore = self._session.ml.datastores.get_default()
        return not isinstance(datastore.credentials, NoneCredentialConfiguration)

    def write_text(self, path: str, text: str) -> str:
        """Write a file to the default datastore, replacing it if it exists, and return its URI."""
        datastore = self._default_datastore()
        with translate_errors(f"writing {path} to datastore {datastore.name}"), self._container(datastore) as container:
            container.upload_blob(path, text.encode(), overwrite=True)
        return f"azureml://datastores/{datastore.name}/paths/{path}"

    def _locate(self, uri: str, job: str, output: str) -> _Location:
        ml = self._session.ml
        if match := _DATASTORE_URI.fullmatch(uri or ""):
            with translate_errors(f"reading datastore {match['datastore']}"):
                return _Location(ml.datastores.get(match["datastore"], include_secrets=True), match["path"].rstrip("/"))
        # Azure gives no URI for an output without a configured path; it stores those here.
        return _Location(self._default_datastore(), f"azureml/{job}/{output}")

    def _default_datastore(self) -> Any:
        with translate_errors("reading the default datastore"):
            return self._session.ml.datastores.get_default(include_secrets=True)

    def _fetch(self, location: _Location, into: Path) -> int:
        with (
            translate_errors(f"downloading {location.path}"),
            self._container(location.datastore) as container,
            console.Progress("files") as progress,
        ):
            for name, relative in _names(container, location.path):
                target = _safe_path(into, relative)
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("wb") as file:
                    container.download_blob(name, max_concurrency=2).readinto(file)
                progress.advance()
        return progress.done

    def _container(self, datastore: Any) -> Any:
        from azure.storage.blob import ContainerClient

        credentials = datastore.credentials
        secret = getattr(credentials, "sas_token", None) or getattr(credentials, "account_key", None) or self._session.credential
        # Data Lake Gen2 also answers at the blob host; it calls its containers file systems.
        container = getattr(datastore, "container_name", None) or datastore.filesystem
        url = f"https://{datastore.account_name}.blob.{datastore.endpoint or 'core.windows.net'}"
        return ContainerClient(url, container, credential=secret)


def _names(container: Any, path: str) -> Iterator[tuple[str, str]]:
    """List the blobs at or below a path: full name, name relative to the path."""
    for blob in container.list_blobs(name_starts_with=path):
        if blob.name == path and blob.size:
            yield blob.name, PurePosixPath(path).name
        # A prefix also matches siblings (out and out2), and Data Lake lists folders as empty blobs.
        elif blob.name.startswith(f"{path}/") and not (blob.metadata or {}).get("hdi_isfolder"):
            yield blob.name, blob.name[len(path) + 1 :]


def _safe_path(folder: Path, relative: str) -> Path:
    """Return the path of a blob below a folder. Refuse names that lead outside, as anybody with access to the storage can choose them."""
    target = (folder / relative).resolve()
    if not target.is_relative_to(folder.resolve()) or target == folder.resolve():
        raise AzureError(f"A file of the output is named {relative!r}, which is outside the download folder. It was not downloaded.")
    return target
