from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pytest
from botocore.client import BaseClient
from botocore.exceptions import ClientError, EndpointConnectionError
from moto.server import ThreadedMotoServer

from pipeline.data.sources import s3
from pipeline.data.sources.part import Address, Patience, RemoteFile
from pipeline.data.sources.transfer import Downloader
from pipeline.errors import EverestError

CONTENT = np.random.default_rng(0).bytes(3_000_000)
QUICK = Patience(timeout_seconds=5, attempts=3, backoff_seconds=0.02)
BUCKET = "videos"


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    running = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    running.start()
    host, port = running.get_host_and_port()
    yield f"http://{host}:{port}"
    running.stop()


@pytest.fixture
def client(server: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("AWS_ENDPOINT_URL", server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDTESTING")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "SECRETTESTING")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    made = boto3.client("s3", region_name="us-east-1")
    made.create_bucket(Bucket=BUCKET)
    made.put_object(Bucket=BUCKET, Key="a b/c+d.bin", Body=CONTENT)
    return made


def fetch(into: Path, key: str = "a%20b/c+d.bin") -> bytes:
    file = RemoteFile("a.bin", (Address(f"s3://{BUCKET}/{key}"),))
    return Downloader(into, patience=QUICK).fetch([file])[0].read_bytes()


@pytest.mark.usefixtures("client")
def test_an_object_arrives_whole(tmp_path: Path) -> None:
    assert fetch(tmp_path) == CONTENT
    assert len(list((tmp_path / ".everest/fetched").iterdir())) == 1


def broken(monkeypatch: pytest.MonkeyPatch, act: Any) -> list[int]:
    """Let `act(blocks)` change what the first transfer's body yields."""
    used: list[int] = []
    original = s3.S3._transfer

    def transfer(self: s3.S3, url: str, head: dict[str, Any], part: Any) -> None:
        if used:
            original(self, url, head, part)
            return
        used.append(1)
        append = part.append
        try:
            part.append = lambda block: act(append, block)
            original(self, url, head, part)
        finally:
            part.append = append

    monkeypatch.setattr(s3.S3, "_transfer", transfer)
    return used


@pytest.mark.usefixtures("client")
def test_a_dropped_connection_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def drop(append: Any, block: bytes) -> None:
        append(block[:500_000])
        raise ConnectionResetError

    assert broken(monkeypatch, drop) == []
    assert fetch(tmp_path) == CONTENT


@pytest.mark.usefixtures("client")
def test_a_flipped_byte_is_noticed_without_any_published_checksum(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken(monkeypatch, lambda append, block: append(bytes([block[0] ^ 1]) + block[1:]))
    assert fetch(tmp_path) == CONTENT


def test_an_object_that_changes_meanwhile_is_never_mixed(
    tmp_path: Path, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = np.random.default_rng(1).bytes(3_000_000)

    def change(append: Any, block: bytes) -> None:
        append(block[:500_000])
        client.put_object(Bucket=BUCKET, Key="a b/c+d.bin", Body=other)
        raise ConnectionResetError

    broken(monkeypatch, change)
    assert fetch(tmp_path) == other


BUSY = [
    EndpointConnectionError(endpoint_url="http://s3"),
    ClientError({"Error": {"Code": "SlowDown"}}, "HeadObject"),
    ClientError({"Error": {"Code": "503"}}, "HeadObject"),
]


@pytest.mark.parametrize("error", BUSY, ids=["no connection", "SlowDown", "503"])
@pytest.mark.usefixtures("client")
def test_a_store_that_is_busy_between_two_attempts_costs_one_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def drop(append: Any, block: bytes) -> None:
        append(block[:500_000])
        raise ConnectionResetError

    begun = broken(monkeypatch, drop)
    refused: list[str] = []
    call = BaseClient._make_api_call

    def busy(self: Any, name: str, arguments: Any) -> Any:
        if name == "HeadObject" and begun and not refused:
            refused.append(name)
            raise error
        return call(self, name, arguments)

    monkeypatch.setattr(BaseClient, "_make_api_call", busy)
    assert fetch(tmp_path) == CONTENT
    assert refused


def test_an_object_of_unequal_parts_is_verified_by_the_sizes_of_all(
    tmp_path: Path, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = [5 * 2**20, 7 * 2**20, 1000]
    content = np.random.default_rng(3).bytes(sum(sizes))
    upload = client.create_multipart_upload(Bucket=BUCKET, Key="unequal.bin")["UploadId"]
    parts, start = [], 0
    for number, size in enumerate(sizes, 1):
        body = content[start : start + size]
        done = client.upload_part(Bucket=BUCKET, Key="unequal.bin", UploadId=upload, PartNumber=number, Body=body)
        parts.append({"PartNumber": number, "ETag": done["ETag"]})
        start += size
    client.complete_multipart_upload(
        Bucket=BUCKET, Key="unequal.bin", UploadId=upload, MultipartUpload={"Parts": parts}
    )
    broken(monkeypatch, lambda append, block: append(block[:-1] + bytes([block[-1] ^ 1])))
    assert fetch(tmp_path, "unequal.bin") == content


def test_an_object_uploaded_in_parts_is_verified_by_its_parts(
    tmp_path: Path, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 5 * 2**20
    content = np.random.default_rng(2).bytes(2 * size + 1000)
    upload = client.create_multipart_upload(Bucket=BUCKET, Key="parts.bin")["UploadId"]
    parts = []
    for number in range(3):
        body = content[number * size : (number + 1) * size]
        done = client.upload_part(Bucket=BUCKET, Key="parts.bin", UploadId=upload, PartNumber=number + 1, Body=body)
        parts.append({"PartNumber": number + 1, "ETag": done["ETag"]})
    client.complete_multipart_upload(Bucket=BUCKET, Key="parts.bin", UploadId=upload, MultipartUpload={"Parts": parts})
    path = tmp_path / "content"
    path.write_bytes(content)
    assert s3._parts_etag(path, [size] * 3) == client.head_object(Bucket=BUCKET, Key="parts.bin")["ETag"].strip('"')
    broken(monkeypatch, lambda append, block: append(block[:-1] + bytes([block[-1] ^ 1])))
    assert fetch(tmp_path / "raw", "parts.bin") == content


@pytest.mark.parametrize("code", ["ExpiredToken", "InvalidAccessKeyId", "AccessDenied", "403"])
def test_refused_keys_are_explained(tmp_path: Path, client: Any, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    monkeypatch.setattr("botocore.client.BaseClient._make_api_call", refuse_call(code))
    with pytest.raises(EverestError, match="after 14 days") as caught:
        fetch(tmp_path)
    assert "TESTING" not in str(caught.value)


def refuse_call(code: str) -> Any:
    def call(*_: Any, **__: Any) -> None:
        raise ClientError({"Error": {"Code": code, "Message": "key AKIDTESTING SECRETTESTING"}}, "HeadObject")

    return call


@pytest.mark.usefixtures("client")
def test_an_object_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(EverestError, match=f"s3://{BUCKET}/none.bin"):
        fetch(tmp_path, "none.bin")


@pytest.mark.usefixtures("client")
def test_an_unknown_profile_is_named(tmp_path: Path) -> None:
    file = RemoteFile("a.bin", (Address(f"s3://{BUCKET}/x"),))
    with pytest.raises(EverestError, match=r"source\.profile = 'ego4d'"):
        Downloader(tmp_path, profile="ego4d", patience=QUICK).fetch([file])


def test_without_credentials_the_request_is_anonymous(
    tmp_path: Path, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.put_object_acl(Bucket=BUCKET, Key="a b/c+d.bin", ACL="public-read")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    assert fetch(tmp_path / "raw") == CONTENT
