"""The whole emulator: what the proxy allows, what is refused before any handler runs, and what survives a restart."""

from __future__ import annotations

import contextlib
import http.client
import os
import sqlite3
import ssl
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import requests

from mlops.emulator.base.azure import Options, arm_id
from mlops.emulator.identity.entra import MANAGEMENT, issue
from mlops.emulator.server import Emulator
from mlops.emulator.storage import blobs
from mlops.emulator.wire.app import host_role
from mlops.emulator.wire.tls import HOSTS
from tests.support.project import enter, open_sdk


def send(emulator: Emulator, url: str, method: str = "GET", **query: str) -> requests.Response:
    headers = {"Authorization": f"Bearer {issue(emulator.azure, MANAGEMENT)}"}
    return requests.request(method, url, params=query, headers=headers, timeout=30)


@pytest.mark.usefixtures("environment")
class TestProxy:
    """Which hosts the proxy allows, and how it handles connections."""

    @pytest.mark.parametrize(
        "host",
        [
            "pypi.org",
            "huggingface.co",
            "azure.com",
            "evil.management.azure.com",
            "a.b.blob.core.windows.net",
            "management.azure.com.evil.org",
            "westeurope.inference.ml.azure.com",
        ],
    )
    def test_every_other_host_is_refused(self, emulator: Emulator, host: str) -> None:
        with pytest.raises(requests.exceptions.ProxyError, match="403"):
            requests.get(f"https://{host}/", timeout=30)
        assert emulator.contacted_hosts[host] is False

    def test_plain_http_is_refused(self, emulator: Emulator) -> None:
        answer = requests.get("http://example.org/x", timeout=30)
        assert (answer.status_code, "is offline" in answer.text) == (403, True)

    def test_the_certificate_is_not_trusted_by_default(self, emulator: Emulator) -> None:
        with pytest.raises(requests.exceptions.SSLError):
            requests.get("https://management.azure.com/", verify=str(ssl.get_default_verify_paths().openssl_cafile), timeout=30)

    def test_azure_hosts_are_allowed(self, emulator: Emulator) -> None:
        assert requests.get("https://eastus.api.azureml.ms/discovery", timeout=30).status_code == 200
        assert emulator.contacted_hosts["eastus.api.azureml.ms"] is True

    def test_garbage_does_not_stop_the_proxy(self, emulator: Emulator) -> None:
        import socket

        port = int(emulator.environment()["HTTPS_PROXY"].rpartition(":")[2])
        for garbage in (b"\r\n\r\n", b"CONNECT\r\n\r\n", b"\x16\x03\x01\x00", b"GET / HTTP/1.1\r\n\r\n"):
            with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
                connection.sendall(garbage)
                connection.shutdown(socket.SHUT_WR)
                connection.recv(1000)
        assert requests.get("https://eastus.api.azureml.ms/discovery", timeout=30).status_code == 200

    def test_a_connection_stays_open_while_idle(self, emulator: Emulator) -> None:
        port = int(emulator.environment()["HTTPS_PROXY"].rpartition(":")[2])
        trust = ssl.create_default_context(cafile=emulator.environment()["REQUESTS_CA_BUNDLE"])
        connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=30, context=trust)
        connection.set_tunnel("eastus.api.azureml.ms", 443)
        with contextlib.closing(connection):
            # Longer than a web server's usual five seconds, after which a POST could be lost.
            for pause_s in (5.5, 0):
                connection.request("GET", "/discovery")
                assert connection.getresponse().read()
                connection.auto_open = 0
                time.sleep(pause_s)


@pytest.mark.parametrize("name", HOSTS)
def test_every_host_has_a_role(name: str) -> None:
    role = host_role(name.replace("*", "x"))
    assert role == {"management": "arm", "login": "login", "ml": "studio"}.get(name.split(".")[0], role)
    assert role in ("arm", "login", "studio", "api", "blob", "scoring")


@pytest.mark.usefixtures("environment")
class TestRefused:
    """Requests that are refused before a handler runs."""

    def test_an_unknown_route_is_not_implemented(self, emulator: Emulator) -> None:
        answer = send(emulator, MANAGEMENT + arm_id(emulator.azure, "schedules", "x"), **{"api-version": "2023-04-01"})
        assert answer.status_code == 501
        assert f"GET {MANAGEMENT}{arm_id(emulator.azure, 'schedules', 'x')}" in answer.json()["error"]["message"]

    def test_an_unknown_method_names_the_supported_ones(self, emulator: Emulator) -> None:
        answer = send(emulator, MANAGEMENT + arm_id(emulator.azure, "computes", "x"), "PATCH")
        assert (answer.status_code, "DELETE, GET, PUT" in answer.json()["error"]["message"]) == (501, True)

    @pytest.mark.parametrize("version", ["2025-01-01", ""])
    def test_an_unsupported_api_version_is_refused(self, emulator: Emulator, version: str) -> None:
        answer = send(emulator, MANAGEMENT + emulator.azure.workspace_id, **{"api-version": version})
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "InvalidApiVersionParameter")
        assert "2023-08-01-preview" in answer.json()["error"]["message"]

    def test_a_published_api_version_that_is_not_served_is_not_implemented(self, emulator: Emulator) -> None:
        answer = send(emulator, MANAGEMENT + emulator.azure.workspace_id, **{"api-version": "2019-05-01"})
        assert (answer.status_code, "api-version 2019-05-01" in answer.json()["error"]["message"]) == (501, True)

    def test_another_workspace_does_not_exist(self, emulator: Emulator) -> None:
        answer = send(emulator, MANAGEMENT + emulator.azure.workspace_id + "x", **{"api-version": "2023-08-01-preview"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "ResourceNotFound")
        assert answer.json()["error"].keys() == {"code", "message"}

    def test_a_request_without_a_token_is_refused(self, emulator: Emulator) -> None:
        answer = requests.get(MANAGEMENT + emulator.azure.workspace_id, params={"api-version": "2023-08-01-preview"}, timeout=30)
        assert answer.status_code == 401

    def test_fixed_parts_of_a_path_are_case_insensitive(self, emulator: Emulator) -> None:
        path = emulator.azure.workspace_id.replace("resourceGroups", "resourcegroups").replace("/workspaces/ws", "/Workspaces/WS")
        assert send(emulator, MANAGEMENT + path, **{"api-version": "2023-08-01-preview"}).status_code == 200

    @pytest.mark.parametrize("content", ["", "{", "[1]"])
    def test_a_body_that_is_not_an_object_is_refused(self, emulator: Emulator, content: str) -> None:
        answer = requests.put(
            MANAGEMENT + arm_id(emulator.azure, "computes", "gpu"),
            params={"api-version": "2023-08-01-preview"},
            headers={"Authorization": f"Bearer {issue(emulator.azure, MANAGEMENT)}"},
            data=content,
            timeout=30,
        )
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "InvalidRequestContent")

    def test_an_unknown_operation_does_not_exist(self, emulator: Emulator) -> None:
        path = f"/subscriptions/{emulator.azure.identity.subscription}/providers/Microsoft.MachineLearningServices/locations/eastus"
        assert send(emulator, f"{MANAGEMENT}{path}/mfeOperationsStatus/od:x").status_code == 404


class TestRestart:
    """A second emulator on the same folder."""

    def test_everything_survives(self, tmp_path: Path, options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
        from azure.ai.ml.entities import AmlCompute
        from azure.storage.blob import BlobClient

        def clients(emulator: Emulator) -> Any:
            return open_sdk(emulator, monkeypatch)

        container = ""
        with Emulator(tmp_path, options) as emulator:
            clients(emulator).compute.begin_create_or_update(AmlCompute(name="gpu", size="Standard_NC24ads_A100_v4")).result()
            container = blobs.datastore_container(emulator.azure)
            with BlobClient.from_blob_url(blobs.sas_url(emulator.azure, container, "a/b", "cw")) as blob:
                blob.upload_blob(b"kept", metadata={"k": "v"})
            before = emulator.environment()
            signed = blobs.sas_url(emulator.azure, container, "a/b")
        with Emulator(tmp_path, options) as emulator:
            assert clients(emulator).compute.get("gpu").provisioning_state == "Succeeded"
            with BlobClient.from_blob_url(signed) as blob:
                assert blob.download_blob().readall() == b"kept"
                assert blob.get_blob_properties().metadata == {"k": "v"}
            changed = {name for name, value in emulator.environment().items() if value != before[name]}
        assert {name.lower() for name in changed} <= {"https_proxy", "http_proxy"}

    def test_interrupted_operations_have_failed(self, tmp_path: Path, options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
        with Emulator(tmp_path, options) as emulator:
            emulator.azure.store.put("operation", "o1", {"status": "InProgress", "polls": 0, "start": "", "end": None, "error": None})
        with Emulator(tmp_path, options) as emulator:
            enter(emulator, monkeypatch)
            path = f"/subscriptions/{emulator.azure.identity.subscription}/providers/Microsoft.MachineLearningServices/locations/eastus"
            answer = send(emulator, f"{MANAGEMENT}{path}/computeOperationsStatus/o1").json()
        assert (answer["status"], answer["error"]["code"]) == ("Failed", "OperationCanceled")


def test_a_port_in_use_raises(emulator: Emulator, tmp_path: Path, options: Options) -> None:
    port = int(emulator.environment()["HTTPS_PROXY"].rpartition(":")[2])
    other = Emulator(tmp_path, options, port=port)
    with pytest.raises(OSError, match="Address already in use"):
        other.start()
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        other.azure.store.get("any", "key")
    other.stop()


CLIENT = """
import asyncio, sys, urllib.request
import pandas
from azure.storage.blob.aio import BlobClient

async def download(url):
    async with BlobClient.from_blob_url(url, retry_total=0) as blob:
        return await (await blob.download_blob()).readall()

assert asyncio.run(download(sys.argv[1])) == b"a,b\\n1,2\\n"
assert urllib.request.urlopen(sys.argv[1], timeout=30).read() == b"a,b\\n1,2\\n"
assert pandas.read_csv(sys.argv[1]).to_dict("records") == [{"a": 1, "b": 2}]
"""


def test_clients_that_do_not_use_requests_need_no_settings(emulator: Emulator, environment: Mapping[str, str]) -> None:
    """In a process of its own: aiohttp reads the certificates once, when it is imported."""
    from azure.storage.blob import BlobClient

    container = blobs.datastore_container(emulator.azure)
    with BlobClient.from_blob_url(blobs.sas_url(emulator.azure, container, "table.csv", "cw")) as blob:
        blob.upload_blob(b"a,b\n1,2\n")
    command = [sys.executable, "-c", CLIENT, blobs.sas_url(emulator.azure, container, "table.csv")]
    subprocess.run(command, env={**os.environ, **environment}, check=True, timeout=120)


def test_the_environment_contains_no_real_host_but_loopback(environment: Mapping[str, str]) -> None:
    assert environment["https_proxy"] == environment["HTTPS_PROXY"]
    assert environment["HTTPS_PROXY"].startswith("http://127.0.0.1:")
    assert environment["SSL_CERT_FILE"] == environment["REQUESTS_CA_BUNDLE"]
    assert Path(environment["SSL_CERT_FILE"]).read_text().count("BEGIN CERTIFICATE") == 1
