"""Blob storage through azure-storage-blob, and its refusals through plain HTTP."""

from __future__ import annotations

import base64
import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import requests
from azure.core import MatchConditions
from azure.core.exceptions import HttpResponseError, ResourceExistsError, ResourceModifiedError, ResourceNotFoundError
from azure.storage.blob import (
    BlobBlock,
    BlobClient,
    BlobSasPermissions,
    ContainerClient,
    ContainerSasPermissions,
    ContentSettings,
    ResourceTypes,
    Services,
    generate_account_sas,
    generate_blob_sas,
    generate_container_sas,
)

from mlops.emulator.server import Emulator
from mlops.emulator.storage import blobs, files

CONTAINER = "tests"
NAME = "folder/a file+ü?#%.bin"
ALL = "racwdl"


def account_url(emulator: Emulator) -> str:
    return f"https://{emulator.azure.identity.account}.blob.core.windows.net"


def client(emulator: Emulator, permissions: str = ALL, **options: Any) -> ContainerClient:
    token = blobs.sas_token(emulator.azure, CONTAINER, permissions=permissions)
    return ContainerClient(account_url(emulator), CONTAINER, credential=token, retry_total=0, **options)


@pytest.fixture
def container(emulator: Emulator, environment: Mapping[str, str]) -> Iterator[ContainerClient]:
    """An empty container. Small limits make the client transfer even short blobs in parts."""
    folder = blobs.path(emulator.azure, CONTAINER)
    with client(
        emulator,
        max_single_put_size=1000,
        max_block_size=400,
        max_single_get_size=700,
        max_chunk_get_size=300,
        min_large_block_upload_threshold=1,
    ) as empty:
        yield empty
        for blob in list(empty.list_blobs()):
            empty.delete_blob(blob.name)
    assert list(folder.iterdir()) == []


def url(emulator: Emulator, name: str = "", permissions: str = ALL, query: str = "") -> str:
    token = blobs.sas_token(emulator.azure, CONTAINER, permissions=permissions)
    return f"{account_url(emulator)}/{CONTAINER}{'/' if name else ''}{name}?{query}{'&' if query else ''}{token}"


def code(answer: requests.Response) -> str:
    assert answer.headers["content-type"] == "application/xml"
    match = re.search("<Code>(.*)</Code>", answer.text)
    assert match is not None
    assert answer.headers["x-ms-error-code"] == match[1]
    return match[1]


class TestContent:
    """Downloads return the uploaded bytes."""

    @pytest.mark.parametrize("size", [0, 1, 700, 999, 1000, 1001, 5000])
    def test_a_download_returns_the_upload(self, container: ContainerClient, emulator: Emulator, size: int) -> None:
        content = os.urandom(size)
        container.upload_blob(NAME, content)
        assert container.download_blob(NAME).readall() == content
        assert blobs.path(emulator.azure, CONTAINER, NAME).read_bytes() == content

    @pytest.mark.parametrize(("offset", "length"), [(0, 10), (10, 1), (700, 300), (990, 500), (0, None)])
    def test_a_range_is_downloaded(self, container: ContainerClient, offset: int, length: int | None) -> None:
        content = os.urandom(1000)
        container.upload_blob(NAME, content)
        end = None if length is None else offset + length
        assert container.download_blob(NAME, offset=offset, length=length).readall() == content[offset:end]

    def test_a_range_beyond_the_end_is_refused(self, container: ContainerClient) -> None:
        container.upload_blob(NAME, b"short")
        with pytest.raises(HttpResponseError) as raised:
            container.download_blob(NAME, offset=5, length=1)
        assert (raised.value.status_code, raised.value.error_code) == (416, "InvalidRange")

    def test_checksums_of_ranges_are_valid(self, container: ContainerClient) -> None:
        content = os.urandom(2000)
        container.upload_blob(NAME, content, validate_content=True)
        assert container.download_blob(NAME, validate_content=True).readall() == content

    def test_a_stream_of_unknown_length_is_uploaded(self, container: ContainerClient) -> None:
        container.upload_blob(NAME, (bytes([part]) * 333 for part in range(9)))
        assert len(container.download_blob(NAME).readall()) == 2997

    def test_a_blob_is_overwritten_only_on_request(self, container: ContainerClient) -> None:
        for content in (b"x" * 10, b"x" * 2000):
            container.upload_blob(NAME, content, overwrite=True)
            with pytest.raises(ResourceExistsError):
                container.upload_blob(NAME, b"y" * 10)
            with pytest.raises(ResourceExistsError):
                container.upload_blob(NAME, b"y" * 2000)
            assert container.download_blob(NAME).readall() == content

    def test_a_change_during_a_download_is_detected(self, container: ContainerClient) -> None:
        container.upload_blob(NAME, b"x" * 1000)
        download = container.download_blob(NAME)
        container.upload_blob(NAME, b"y" * 1000, overwrite=True)
        with pytest.raises(ResourceModifiedError):
            download.readall()

    def test_a_job_can_change_the_file_of_a_blob(self, container: ContainerClient, emulator: Emulator) -> None:
        container.upload_blob(
            "out/model.bin", b"old", metadata={"by": "client"}, content_settings=ContentSettings(content_type="text/plain")
        )
        blobs.path(emulator.azure, CONTAINER, "out/model.bin").write_bytes(b"newer")
        (blobs.path(emulator.azure, CONTAINER, "out/") / "log.txt").write_text("done")
        properties = container.get_blob_client("out/model.bin").get_blob_properties()
        assert (properties.size, properties.metadata, properties.content_settings.content_md5) == (5, {}, None)
        assert [blob.name for blob in container.list_blobs()] == ["out/log.txt", "out/model.bin"]


class TestProperties:
    """Metadata, content settings, ETags."""

    def test_metadata_and_content_settings_are_stored(self, container: ContainerClient) -> None:
        content = b"x" * 10
        blob = container.upload_blob(
            NAME,
            content,
            metadata={"name": "n", "Version": "1"},
            content_settings=ContentSettings("text/plain", "gzip", cache_control="no-store"),
        )
        properties = blob.get_blob_properties()
        assert {name.lower(): value for name, value in properties.metadata.items()} == {"name": "n", "version": "1"}
        actual = properties.content_settings
        assert (actual.content_type, actual.content_encoding, actual.cache_control) == (
            "text/plain",
            "gzip",
            "no-store",
        )
        assert bytes(actual.content_md5) == hashlib.md5(content).digest()
        assert (properties.size, properties.blob_type, properties.lease.state) == (10, "BlockBlob", "available")

    def test_setting_metadata_changes_nothing_else_but_the_etag(self, container: ContainerClient) -> None:
        blob = container.upload_blob(NAME, b"x", metadata={"a": "1"})
        before = blob.get_blob_properties()
        blob.set_blob_metadata({"upload_status": "completed"})
        after = blob.get_blob_properties()
        assert after.metadata == {"upload_status": "completed"}
        assert after.etag != before.etag
        assert after.creation_time == before.creation_time
        assert after.content_settings.content_md5 == before.content_settings.content_md5

    def test_setting_the_content_type_keeps_the_metadata(self, container: ContainerClient) -> None:
        blob = container.upload_blob(NAME, b"x", metadata={"a": "1"})
        blob.set_http_headers(ContentSettings(content_type="text/html"))
        properties = blob.get_blob_properties()
        assert (properties.content_settings.content_type, properties.metadata) == ("text/html", {"a": "1"})

    def test_conditions_on_the_etag_are_checked(self, container: ContainerClient) -> None:
        blob = container.upload_blob(NAME, b"x")
        etag = blob.get_blob_properties().etag
        blob.upload_blob(b"y", overwrite=True, etag=etag, match_condition=MatchConditions.IfNotModified)
        with pytest.raises(ResourceModifiedError):
            blob.upload_blob(b"z", overwrite=True, etag=etag, match_condition=MatchConditions.IfNotModified)
        assert blob.download_blob().readall() == b"y"
        with pytest.raises(ResourceModifiedError):
            blob.delete_blob(etag=etag, match_condition=MatchConditions.IfNotModified)

    def test_a_missing_blob_does_not_exist(self, container: ContainerClient) -> None:
        blob = container.get_blob_client("nothing/here")
        assert not blob.exists()
        for call in (blob.get_blob_properties, blob.download_blob, blob.delete_blob, lambda: blob.set_blob_metadata({})):
            with pytest.raises(ResourceNotFoundError):
                call()

    def test_conditions_on_the_time_are_checked(self, container: ContainerClient) -> None:
        blob = container.upload_blob(NAME, b"x")
        modified = blob.get_blob_properties().last_modified
        before, after = modified - timedelta(hours=1), modified + timedelta(hours=1)
        assert blob.download_blob(if_modified_since=before, if_unmodified_since=modified).readall() == b"x"
        with pytest.raises(ResourceModifiedError):
            blob.download_blob(if_unmodified_since=before)
        with pytest.raises(ResourceModifiedError):
            blob.upload_blob(b"y", overwrite=True, if_unmodified_since=before)
        with pytest.raises(ResourceModifiedError):
            blob.delete_blob(if_modified_since=after)
        blob.set_blob_metadata({"a": "1"}, if_unmodified_since=after)

    def test_a_blob_that_the_client_has_already_is_not_sent_again(self, container: ContainerClient, emulator: Emulator) -> None:
        blob = container.upload_blob(NAME, b"x")
        properties = blob.get_blob_properties()
        for condition in (
            {"etag": properties.etag, "match_condition": MatchConditions.IfModified},
            {"if_modified_since": properties.last_modified},
        ):
            with pytest.raises(HttpResponseError) as raised:
                blob.get_blob_properties(**condition)
            assert (raised.value.status_code, raised.value.error_code) == (304, "ConditionNotMet")
        answer = requests.get(url(emulator, quote(NAME)), headers={"If-None-Match": "*"}, timeout=30)
        assert (answer.status_code, code(answer)) == (400, "UnsatisfiableCondition")

    @pytest.mark.parametrize("name", ["a//b", "/a", "a/", "//", "a/" + "x" * 300 + "/b", "ü" * 1024, "/".join("x" * 200)])
    def test_every_name_that_azure_allows_is_a_blob(self, container: ContainerClient, name: str) -> None:
        for content in (b"first", b"x" * 2000):
            container.upload_blob(name, content, overwrite=True, metadata={"k": "v"})
            assert container.download_blob(name).readall() == content
        assert [(blob.name, blob.size, blob.metadata) for blob in container.list_blobs(include=["metadata"])] == [(name, 2000, {"k": "v"})]
        assert [blob.name for blob in container.list_blobs(name_starts_with=name)] == [name]
        container.delete_blob(name)
        assert not container.get_blob_client(name).exists()

    def test_a_name_has_at_most_1024_characters(self, container: ContainerClient) -> None:
        with pytest.raises(HttpResponseError) as raised:
            container.upload_blob("x" * 1025, b"x")
        assert (raised.value.status_code, raised.value.error_code) == (400, "OutOfRangeInput")

    @pytest.mark.parametrize("names", [["a", "a/b/c", "a/"], ["a/b/c", "a/", "a"], ["a/b/c", "a", "a/b"]])
    def test_a_blob_can_have_the_name_of_a_folder(self, container: ContainerClient, emulator: Emulator, names: list[str]) -> None:
        for name in names:
            container.upload_blob(name, name.encode(), metadata={"name": "n"})
        for name in names:
            assert container.download_blob(name).readall() == name.encode()
            assert container.get_blob_client(name).get_blob_properties().metadata == {"name": "n"}
        assert [blob.name for blob in container.list_blobs()] == sorted(names)
        assert blobs.path(emulator.azure, CONTAINER, "a/b/c").read_bytes() == b"a/b/c"  # jobs see the folder
        container.delete_blob("a/b/c")
        assert [blob.name for blob in container.list_blobs()] == sorted(set(names) - {"a/b/c"})
        container.upload_blob(names[0], b"new", overwrite=True)
        assert container.download_blob(names[0]).readall() == b"new"

    def test_deleting_a_blob_also_deletes_empty_folders(self, container: ContainerClient, emulator: Emulator) -> None:
        container.upload_blob("a/b/c", b"x")
        container.upload_blob("a/d", b"x")
        container.delete_blob("a/b/c")
        assert sorted(path.name for path in blobs.path(emulator.azure, CONTAINER, "a/").iterdir()) == ["d"]

    @pytest.mark.usefixtures("container")
    def test_only_existing_containers_exist(self, emulator: Emulator) -> None:
        key = emulator.azure.identity.account_key
        with ContainerClient(account_url(emulator), CONTAINER, credential=key) as existing:
            assert existing.exists()
        with ContainerClient(account_url(emulator), "nowhere", credential=key) as other:
            assert not other.exists()
            with pytest.raises(ResourceNotFoundError):
                other.upload_blob("a", b"x")
            with pytest.raises(ResourceNotFoundError):
                list(other.list_blobs())


class TestBlocks:
    """Uploads in blocks."""

    def test_blocks_are_committed_in_the_order_of_the_list(self, container: ContainerClient) -> None:
        blob = container.get_blob_client("blocks1")
        for name, content in (("b", b"2"), ("a", b"1"), ("c", b"never")):
            blob.stage_block(name, content)
        assert not blob.exists()
        _, uncommitted = blob.get_block_list("all")
        assert {block.id: block.size for block in uncommitted} == {"a": 1, "b": 1, "c": 5}
        blob.commit_block_list([BlobBlock("a"), BlobBlock("b"), BlobBlock("a")], metadata={"k": "v"})
        assert blob.download_blob().readall() == b"121"
        assert blob.get_blob_properties().metadata == {"k": "v"}
        committed, uncommitted = blob.get_block_list("all")
        assert ([(block.id, block.size) for block in committed], uncommitted) == ([("a", 1), ("b", 1), ("a", 1)], [])

    def test_a_blob_is_changed_by_single_blocks(self, container: ContainerClient, emulator: Emulator) -> None:
        blob = container.get_blob_client("blocks2")
        for name, content in (("a", b"one "), ("b", b"two "), ("c", b"three")):
            blob.stage_block(name, content)
        blob.commit_block_list([BlobBlock("a"), BlobBlock("b"), BlobBlock("c")])
        blob.stage_block("b", b"new ")

        def commit(*blocks: tuple[str, str]) -> requests.Response:  # the SDK sends every block as Latest
            rows = "".join(f"<{kind}>{base64.b64encode(block.encode()).decode()}</{kind}>" for kind, block in blocks)
            return requests.put(url(emulator, "blocks2", query="comp=blocklist"), data=f"<BlockList>{rows}</BlockList>", timeout=30)

        for wrong in (("Uncommitted", "a"), ("Committed", "d"), ("Latest", "d")):
            assert code(commit(("Latest", "b"), wrong)) == "InvalidBlockList"
        assert commit(("Committed", "c"), ("Latest", "b"), ("Committed", "b"), ("Latest", "a")).status_code == 201
        assert blob.download_blob().readall() == b"threenew two one "

    def test_a_blob_that_was_uploaded_or_changed_as_a_whole_has_no_blocks(self, container: ContainerClient, emulator: Emulator) -> None:
        blob = container.get_blob_client("blocks3")
        blob.upload_blob(b"x" * 2000)
        assert len(blob.get_block_list("committed")[0]) == 5
        blobs.path(emulator.azure, CONTAINER, "blocks3").write_bytes(b"by a job")
        assert blob.get_block_list("committed") == ([], [])
        blob.upload_blob(b"x" * 2000, overwrite=True)
        blob.stage_block("a", b"1")
        blob.upload_blob(b"x", overwrite=True)
        assert blob.get_block_list("all") == ([], [])

    def test_the_list_that_the_client_wants_is_returned(self, container: ContainerClient, emulator: Emulator) -> None:
        blob = container.get_blob_client("blocks4")
        with pytest.raises(ResourceNotFoundError):
            blob.get_block_list("all")
        blob.stage_block("a", b"1")
        assert blob.get_block_list("committed") == ([], [])
        blob.commit_block_list([BlobBlock("a")])
        blob.stage_block("b", b"2")
        for kind, lengths in (("committed", (1, 0)), ("uncommitted", (0, 1)), ("all", (1, 1))):
            assert tuple(map(len, blob.get_block_list(kind))) == lengths
        answer = requests.get(url(emulator, "blocks4", query="comp=blocklist"), timeout=30)
        assert (answer.headers["x-ms-blob-content-length"], answer.headers["ETag"]) == ("1", blob.get_blob_properties().etag)
        answer = requests.get(url(emulator, "blocks4", query="comp=blocklist&blocklisttype=some"), timeout=30)
        assert (answer.status_code, code(answer)) == (400, "InvalidQueryParameterValue")

    def test_ids_of_another_length_are_refused(self, container: ContainerClient) -> None:
        blob = container.get_blob_client("blocks5")
        blob.stage_block("a", b"1")
        with pytest.raises(HttpResponseError) as raised:
            blob.stage_block("longer", b"2")
        assert (raised.value.status_code, raised.value.error_code) == (400, "InvalidBlobOrBlock")
        blob.commit_block_list([BlobBlock("a")])
        blob.stage_block("longer", b"2")

    @pytest.mark.usefixtures("container")
    def test_the_answer_has_the_checksum_of_a_block_only_if_the_client_has_sent_one(self, emulator: Emulator) -> None:
        checksum = base64.b64encode(hashlib.md5(b"x").digest()).decode()
        for headers in ({}, {"Content-MD5": checksum}):
            answer = requests.put(url(emulator, "blocks6", query="comp=block&blockid=YQ=="), data=b"x", headers=headers, timeout=30)
            assert (answer.status_code, answer.headers.get("Content-MD5")) == (201, headers.get("Content-MD5"))

    def test_a_block_list_that_is_not_xml_is_refused(self, container: ContainerClient, emulator: Emulator) -> None:
        for content, expected in (
            (b"<BlockList>", "InvalidXmlDocument"),
            (b"<BlockList><Other>YQ==</Other></BlockList>", "InvalidBlockList"),
        ):
            answer = requests.put(url(emulator, "b", query="comp=blocklist"), data=content, timeout=30)
            assert (answer.status_code, code(answer)) == (400, expected)

    def test_an_upload_drops_staged_blocks(self, container: ContainerClient) -> None:
        blob = container.get_blob_client(NAME)
        blob.stage_block("a", b"1")
        blob.upload_blob(b"x")
        assert blob.get_block_list("uncommitted") == ([], [])

    def test_a_block_that_is_not_staged_is_refused(self, container: ContainerClient) -> None:
        blob = container.get_blob_client(NAME)
        blob.stage_block("a", b"1")
        with pytest.raises(HttpResponseError) as raised:
            blob.commit_block_list([BlobBlock("a"), BlobBlock("b")])
        assert raised.value.error_code == "InvalidBlockList"
        assert not blob.exists()

    @pytest.mark.parametrize("block", ["", "not base64!", base64.b64encode(b"x" * 65).decode()])
    def test_invalid_block_ids_are_refused(self, container: ContainerClient, emulator: Emulator, block: str) -> None:
        answer = requests.put(url(emulator, "b", query=f"comp=block&blockid={block}"), data=b"x", timeout=30)
        assert (answer.status_code, code(answer)) == (400, "InvalidQueryParameterValue")


class TestList:
    """Lists of blobs."""

    NAMES = ("a.b", "a/b/c", "a/b/d", "a/e", "b&<>/x", "ä/ö")

    @pytest.fixture
    def filled(self, container: ContainerClient) -> ContainerClient:
        for name in self.NAMES:
            container.upload_blob(name, b"x", metadata={"m": "1"})
        return container

    def test_a_flat_list_has_all_blobs(self, filled: ContainerClient) -> None:
        listed = list(filled.list_blobs())
        assert [blob.name for blob in listed] == ["a.b", "a/b/c", "a/b/d", "a/e", "b&<>/x", "ä/ö"]
        assert {(blob.size, blob.blob_type, blob.content_settings.content_type) for blob in listed} == {
            (1, "BlockBlob", "application/octet-stream")
        }

    def test_a_prefix_selects_names(self, filled: ContainerClient) -> None:
        assert [blob.name for blob in filled.list_blobs(name_starts_with="a/b")] == ["a/b/c", "a/b/d"]
        assert [blob.name for blob in filled.list_blobs(name_starts_with="a/b/c/")] == []
        assert [blob.name for blob in filled.list_blobs(name_starts_with="../")] == []

    def test_metadata_is_listed_on_request(self, filled: ContainerClient) -> None:
        assert [blob.metadata for blob in filled.list_blobs(name_starts_with="a/e", include=["metadata"])] == [{"m": "1"}]

    def test_a_delimiter_groups_names(self, filled: ContainerClient) -> None:
        # The SDK returns the prefixes of a page first.
        assert [entry.name for entry in filled.walk_blobs()] == ["a/", "b&<>/", "ä/", "a.b"]
        assert [entry.name for entry in filled.walk_blobs(name_starts_with="a/")] == ["a/b/", "a/e"]

    @pytest.mark.parametrize("size", [1, 2, 3, 100])
    def test_pages_have_the_requested_size(self, filled: ContainerClient, size: int) -> None:
        pages = [[blob.name for blob in page] for page in filled.list_blobs(results_per_page=size).by_page()]
        assert [name for page in pages for name in page] == ["a.b", "a/b/c", "a/b/d", "a/e", "b&<>/x", "ä/ö"]
        assert all(len(page) <= size for page in pages)
        walked = [entry.name for page in filled.walk_blobs(results_per_page=size).by_page() for entry in page]
        assert sorted(walked) == ["a.b", "a/", "b&<>/", "ä/"]

    @pytest.mark.parametrize("query", ["maxresults=0", "maxresults=x"])
    def test_an_invalid_page_size_is_refused(self, filled: ContainerClient, emulator: Emulator, query: str) -> None:
        answer = requests.get(url(emulator, query=f"restype=container&comp=list&{query}"), timeout=30)
        assert (answer.status_code, code(answer)) == (400, "OutOfRangeQueryParameterValue")


class TestSignature:
    """What shared access signatures allow."""

    def test_signatures_of_the_sdk_are_valid(self, container: ContainerClient, emulator: Emulator) -> None:
        i = emulator.azure.identity
        end = datetime.now(UTC) + timedelta(hours=1)
        rights = ContainerSasPermissions(read=True, write=True)
        whole = generate_container_sas(i.account, CONTAINER, account_key=i.account_key, permission=rights, expiry=end)
        with BlobClient(account_url(emulator), CONTAINER, NAME, credential=whole) as blob:
            blob.upload_blob(b"x")
        one = generate_blob_sas(i.account, CONTAINER, NAME, account_key=i.account_key, permission=BlobSasPermissions(read=True), expiry=end)
        with BlobClient(account_url(emulator), CONTAINER, NAME, credential=one) as blob:
            assert blob.download_blob().readall() == b"x"

    def test_the_url_of_a_blob_is_valid_for_no_other(self, container: ContainerClient, emulator: Emulator) -> None:
        for name in (NAME, "other"):
            container.upload_blob(name, name.encode())
        signed = blobs.sas_url(emulator.azure, CONTAINER, NAME)
        assert requests.get(signed, timeout=30).content == NAME.encode()
        place, _, query = signed.partition("?")
        answer = requests.get(place.rpartition("folder")[0] + "other?" + query, timeout=30)
        assert (answer.status_code, code(answer)) == (403, "AuthenticationFailed")

    @pytest.mark.parametrize(
        ("method", "query", "needed"),
        [
            ("GET", "", "r"),
            ("HEAD", "", "r"),
            ("PUT", "comp=metadata", "w"),
            ("DELETE", "", "d"),
            ("PUT", "comp=block&blockid=YQ==", "wc"),
            ("PUT", "comp=properties", "w"),
        ],
    )
    def test_each_operation_requires_its_permission(
        self, container: ContainerClient, emulator: Emulator, method: str, query: str, needed: str
    ) -> None:
        for letter in ALL:
            container.upload_blob("b", b"x", overwrite=True)
            answer = requests.request(method, url(emulator, "b", letter, query), timeout=30)
            if letter in needed:
                assert answer.status_code < 300
            else:
                assert (answer.status_code, answer.headers["x-ms-error-code"]) == (403, "AuthorizationPermissionMismatch")

    def test_a_service_signature_does_not_read_the_container(self, container: ContainerClient, emulator: Emulator) -> None:
        with pytest.raises(HttpResponseError) as raised:
            container.get_container_properties()
        assert (raised.value.status_code, raised.value.error_code) == (403, "AuthorizationFailure")
        assert requests.head(url(emulator, query="restype=container"), timeout=30).status_code == 403

    def test_a_signature_sets_headers_of_the_response(self, container: ContainerClient, emulator: Emulator) -> None:
        i = emulator.azure.identity
        container.upload_blob(NAME, b"x", content_settings=ContentSettings(content_type="text/html", cache_control="no-store"))
        token = generate_blob_sas(
            i.account, CONTAINER, NAME, account_key=i.account_key, permission="r", expiry=datetime.now(UTC) + timedelta(hours=1),
            content_type="text/plain", content_disposition="attachment; filename=x",
        )  # fmt: skip
        signed = f"{account_url(emulator)}/{CONTAINER}/{quote(NAME)}?{token}"
        for answer in (requests.get(signed, timeout=30), requests.head(signed, timeout=30)):
            actual = [answer.headers[name] for name in ("Content-Type", "Content-Disposition", "Cache-Control")]
            assert actual == ["text/plain", "attachment; filename=x", "no-store"]
        assert requests.get(signed.replace("rsct=text/plain", "rsct=text/csv"), timeout=30).status_code == 403

    def test_a_signature_of_the_account_covers_what_it_names(self, container: ContainerClient, emulator: Emulator) -> None:
        i = emulator.azure.identity

        def sign(permission: str, *, container: bool = False, object: bool = False, services: str = "b") -> str:  # noqa: A002
            kinds = ResourceTypes(container=container, object=object)
            end = datetime.now(UTC) + timedelta(hours=1)
            return str(generate_account_sas(i.account, i.account_key, kinds, permission, end, services=Services.from_string(services)))

        with ContainerClient(account_url(emulator), CONTAINER, credential=sign("rwl", container=True, object=True)) as all_rights:
            assert all_rights.exists()
            all_rights.upload_blob("b", b"x")
            all_rights.upload_blob("b", b"y", overwrite=True)
            assert [blob.name for blob in all_rights.list_blobs()] == ["b"]
        for token, expected in (
            (sign("rwl", container=True), "AuthorizationResourceTypeMismatch"),
            (sign("wl", container=True, object=True), "AuthorizationPermissionMismatch"),
            (sign("rwl", container=True, object=True, services="q"), "AuthorizationServiceMismatch"),
            (sign("rwl", container=True, object=True).replace("sp=rwl", "sp=rwld"), "AuthenticationFailed"),
        ):
            answer = requests.get(f"{account_url(emulator)}/{CONTAINER}/b?{token}", timeout=30)
            assert (answer.status_code, code(answer)) == (403, expected)

    def test_the_key_of_the_account_allows_everything(self, container: ContainerClient, emulator: Emulator) -> None:
        with BlobClient(account_url(emulator), CONTAINER, "a//b", credential=emulator.azure.identity.account_key) as blob:
            for content in (b"x", b"y"):
                blob.upload_blob(content, overwrite=True)
            assert blob.download_blob().readall() == b"y"
            assert blob.get_blob_properties().size == 1
        answer = requests.get(f"{account_url(emulator)}/{CONTAINER}/b", headers={"Authorization": "SharedKeyLite a:b"}, timeout=30)
        assert (answer.status_code, "SharedKeyLite" in answer.text) == (501, True)

    def test_create_does_not_allow_overwriting(self, container: ContainerClient, emulator: Emulator) -> None:
        headers = {"x-ms-blob-type": "BlockBlob"}
        answers = [requests.put(url(emulator, "b", "c"), data=b"x", headers=headers, timeout=30) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [201, 403]

    @pytest.mark.parametrize(
        ("hours", "change", "status", "expected"),
        [
            (-1, ("", ""), 403, "AuthenticationFailed"),
            (1, ("sp=r", "sp=rw"), 403, "AuthenticationFailed"),
            (1, ("&sig=", "&sig=A"), 403, "AuthenticationFailed"),
            (1, ("&sig=", "&other="), 409, "PublicAccessNotPermitted"),
            (1, ("sr=b", "sr=d"), 403, "AuthenticationFailed"),
        ],
    )
    def test_an_invalid_signature_is_refused(
        self, container: ContainerClient, emulator: Emulator, hours: int, change: tuple[str, str], status: int, expected: str
    ) -> None:
        container.upload_blob("b", b"x")
        signed = blobs.sas_url(emulator.azure, CONTAINER, "b", hours=hours)
        answer = requests.get(signed.replace(*change), timeout=30)
        assert (answer.status_code, code(answer)) == (status, expected)


@pytest.mark.usefixtures("container")
class TestRefused:
    """Invalid and unsupported requests."""

    def test_a_wrong_checksum_is_refused(self, emulator: Emulator) -> None:
        wrong = base64.b64encode(hashlib.md5(b"y").digest()).decode()
        headers = {"x-ms-blob-type": "BlockBlob", "Content-MD5": wrong}
        for query in ("", "comp=block&blockid=YQ=="):
            answer = requests.put(url(emulator, "b", query=query), data=b"x", headers=headers, timeout=30)
            assert (answer.status_code, code(answer)) == (400, "Md5Mismatch")
        assert requests.get(url(emulator, "b"), timeout=30).status_code == 404
        assert list(emulator.azure.folder("uploads").iterdir()) == []

    def test_invalid_metadata_names_are_refused(self, emulator: Emulator) -> None:
        headers = {"x-ms-blob-type": "BlockBlob", "x-ms-meta-no.name": "x"}
        answer = requests.put(url(emulator, "b"), data=b"x", headers=headers, timeout=30)
        assert (answer.status_code, code(answer)) == (400, "InvalidMetadata")

    @pytest.mark.parametrize(
        ("method", "query", "headers"),
        [
            ("PUT", "", {"x-ms-blob-type": "PageBlob"}),
            ("PUT", "", {"x-ms-blob-type": "BlockBlob", "x-ms-lease-id": "1"}),
            ("PUT", "comp=lease", {}),
            ("PUT", "comp=tags", {}),
            ("GET", "snapshot=2020-01-01T00:00:00Z", {}),
            ("PUT", "comp=block&blockid=YQ==", {"If-Match": "x"}),
            ("GET", "comp=blocklist", {"If-Modified-Since": "Mon, 27 Jul 2026 12:28:53 GMT"}),
            ("POST", "comp=query", {}),
        ],
    )
    def test_unsupported_requests_are_not_implemented(self, emulator: Emulator, method: str, query: str, headers: dict[str, str]) -> None:
        answer = requests.request(method, url(emulator, "b", query=query), headers=headers, timeout=30)
        assert answer.status_code == 501
        assert "The emulator does not implement" in answer.json()["error"]["message"]

    def test_another_account_is_not_implemented(self, emulator: Emulator) -> None:
        answer = requests.get(url(emulator, "b").replace(emulator.azure.identity.account, "someoneelse"), timeout=30)
        assert answer.status_code == 501

    @pytest.mark.parametrize(
        "name",
        [
            "..%2F..%2Femulator.db",
            "%2e%2e/%2e%2e/emulator.db",
            "a/..%2F..%2F..%2Femulator.db",
            "a//..%2Fb",
            "a%2F..%2Fb",
            "a%2F.%2Fb",
            "a%00b",
        ],
    )
    def test_no_name_leads_out_of_the_container(self, emulator: Emulator, name: str) -> None:
        session = requests.Session()
        request = requests.Request("GET", url(emulator)).prepare()
        # Set afterwards, because requests would normalize the dots.
        request.url = url(emulator, name)
        with session:
            answer = session.send(request, proxies={"https": emulator.environment()["HTTPS_PROXY"]}, verify=str(emulator.state / "ca.pem"))
        assert (answer.status_code, code(answer)) == (400, "InvalidUri")


def test_links_out_of_the_container_are_refused(emulator: Emulator, container: ContainerClient, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s")
    link = blobs.path(emulator.azure, CONTAINER, "link")
    link.symlink_to(tmp_path)
    with pytest.raises(files.BlobError):
        blobs.path(emulator.azure, CONTAINER, "link/secret")
    assert [blob.name for blob in container.list_blobs(name_starts_with="link/")] == []
    link.unlink()
