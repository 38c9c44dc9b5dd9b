"""S3 with resume: the object's ETag is pinned for the whole transfer, and its bytes are verified afterwards.

boto3's own transfer checks nothing over the whole object. Here the length, and every hash that the server
gives (SHA-256, or the MD5 that an ETag is, also of objects that were uploaded in parts), are compared with
the bytes on disk.
"""

from __future__ import annotations

import base64
import hashlib
import os
import random
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict
from urllib.parse import unquote, urlsplit

from pipeline.data.sources.part import Address, AddressFailed, NotThere, Part, Patience, Version, safe_url
from pipeline.errors import EverestError
from pipeline.system.redact import redact

if TYPE_CHECKING:
    from botocore.client import BaseClient

EXPIRED = {
    "ExpiredToken",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "AccessDenied",
    "InvalidToken",
    "TokenRefreshRequired",
    "RequestExpired",
    "Forbidden",
    "403",
}
GONE = {"NoSuchKey", "NoSuchBucket", "404", "NotFound"}
CHANGED = {"PreconditionFailed", "412", "InvalidRange", "416"}
PLAIN_ETAG = re.compile(r"[0-9a-f]{32}")
PARTS_ETAG = re.compile(r"([0-9a-f]{32})-(\d+)")


class Head(TypedDict, total=False):
    """What the server says of an object; the first two entries always."""

    ContentLength: int
    ETag: str
    ChecksumSHA256: str
    ServerSideEncryption: str
    SSECustomerAlgorithm: str


class S3:
    """Transport for s3://bucket/key addresses, with a named profile, the usual chain, or no credentials."""

    def __init__(self, profile: str | None, patience: Patience) -> None:
        import boto3
        from botocore import UNSIGNED
        from botocore.config import Config
        from botocore.exceptions import ProfileNotFound

        self._patience = patience
        try:
            session = boto3.Session(profile_name=profile)
        except ProfileNotFound:
            raise AddressFailed(
                f"source.profile = {profile!r} is no profile in ~/.aws/credentials. Cure: `aws configure --profile "
                f"{profile}` with the keys that came with your licence."
            ) from None
        anonymous = session.get_credentials() is None
        config = Config(
            signature_version=UNSIGNED if anonymous else None,
            connect_timeout=patience.timeout_seconds,
            read_timeout=patience.timeout_seconds,
            retries={"max_attempts": 2, "mode": "standard"},
            # The server's checksums are asked for and compared over the whole file below.
            response_checksum_validation="when_required",
        )
        region = session.region_name or "us-east-1"
        self._client: BaseClient = session.client("s3", config=config, region_name=region)

    def size(self, url: str) -> int | None:
        return int(self._head(url)["ContentLength"])

    def fetch(self, address: Address, part: Part) -> None:
        from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, IncompleteReadError

        failed = 0
        while True:
            before = part.size
            why = ""
            try:
                head = self._ask(address.url)
                self._transfer(address.url, head, part)
                why = self._wrong_bytes(address.url, head, part.path)
                if not why:
                    return
                part.restart({})
                before = 0
            except ClientError as error:
                code = _code(error)
                if code in EXPIRED or code in GONE:
                    raise _refused(address.url, error) from None
                why = f"the server answers {code}"  # SlowDown and its like pass by themselves
                if code in CHANGED:
                    part.restart({})
                    why = "the object changed while it was fetched"
            except (BotoCoreError, HTTPClientError, IncompleteReadError, OSError) as error:
                why = f"{type(error).__name__}: the connection broke"
            failed = 1 if part.size > before else failed + 1
            if failed >= self._patience.attempts:
                raise AddressFailed(f"{safe_url(address.url)}: {why} ({failed} attempts)")
            part.stop.wait(self._patience.backoff_seconds * 2 ** (failed - 1) * random.uniform(0.5, 1.0))

    def _transfer(self, url: str, head: Head, part: Part) -> None:
        bucket, key = _split(url)
        version: Version = {"url": safe_url(url), "etag": head["ETag"], "bytes": head["ContentLength"]}
        if part.version != version or part.size > head["ContentLength"]:
            part.restart(version)
        part.total = head["ContentLength"]
        if part.size == part.total:
            part.path.touch()
            return
        answer = self._client.get_object(Bucket=bucket, Key=key, Range=f"bytes={part.size}-", IfMatch=head["ETag"])
        for block in answer["Body"].iter_chunks(1 << 20):
            part.append(block)
        if part.size < part.total:
            raise OSError("the body ended early")

    def _wrong_bytes(self, url: str, head: Head, path: Path) -> str:
        """What is wrong with the bytes on disk by the server's own hashes, or ""."""
        if path.stat().st_size != head["ContentLength"]:
            return f"{path.stat().st_size} bytes came, the object has {head['ContentLength']}"
        declared = head.get("ChecksumSHA256", "")
        if declared and "-" not in declared:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").digest()
            return "" if base64.b64encode(digest).decode() == declared else "its SHA-256 is not the server's"
        etag = head["ETag"].strip('"')
        encrypted = head.get("ServerSideEncryption") == "aws:kms" or "SSECustomerAlgorithm" in head
        if PLAIN_ETAG.fullmatch(etag) and not encrypted:
            with path.open("rb") as file:
                digest_md5 = hashlib.file_digest(file, "md5").hexdigest()
            return "" if digest_md5 == etag else "its MD5 is not the object's ETag"
        if (match := PARTS_ETAG.fullmatch(etag)) and not encrypted and (size := self._first_part(url)):
            count = int(match[2])
            if _parts_etag(path, [size] * count) == match[0]:
                return ""
            sizes = [self._part_size(url, number) for number in range(1, count + 1)]  # they may be unequal
            # Some servers do not know part numbers: then there is nothing to compare.
            if sum(sizes) == head["ContentLength"] and _parts_etag(path, sizes) != match[0]:
                return "the MD5 of its parts is not the object's ETag"
        return ""

    def _first_part(self, url: str) -> int | None:
        from botocore.exceptions import ClientError

        try:
            return self._part_size(url, 1)
        except ClientError:
            return None  # a server that does not know part numbers

    def _part_size(self, url: str, number: int) -> int:
        bucket, key = _split(url)
        return int(self._client.head_object(Bucket=bucket, Key=key, PartNumber=number)["ContentLength"])

    def _head(self, url: str) -> Head:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            return self._ask(url)
        except (ClientError, BotoCoreError) as error:
            raise _refused(url, error) from None

    def _ask(self, url: str) -> Head:
        bucket, key = _split(url)
        head: Head = self._client.head_object(Bucket=bucket, Key=key, ChecksumMode="ENABLED")
        return head


def _split(url: str) -> tuple[str, str]:
    parts = urlsplit(url, allow_fragments=False)
    return parts.netloc, unquote(parts.path.lstrip("/"))


def _code(error: Exception) -> str:
    return str(getattr(error, "response", {}).get("Error", {}).get("Code", ""))


def _refused(url: str, error: Exception) -> AddressFailed:
    code = _code(error)
    if code in EXPIRED:
        return AddressFailed(
            f"{safe_url(url)}: access is refused ({code}). Keys of licensed sets expire (Ego4D's after 14 days). Cure: "
            "renew the licence's keys, put them into ~/.aws/credentials and name their profile in source.profile."
        )
    if code in GONE:
        return NotThere(f"{safe_url(url)}: there is no such object ({code}).")
    return AddressFailed(f"{safe_url(url)}: {code or type(error).__name__}")


def _parts_etag(path: Path, sizes: Sequence[int]) -> str:
    with path.open("rb") as file:
        digests = [hashlib.md5(file.read(size), usedforsecurity=False).digest() for size in sizes]
    joined = hashlib.md5(b"".join(digests), usedforsecurity=False).hexdigest()
    return f"{joined}-{len(digests)}"


def make_buckets(names: Iterable[str]) -> None:
    """Make the buckets that are missing at AWS_ENDPOINT_URL, with the credentials that boto3 finds.

    Raises:
        EverestError: the store does not answer, or refuses.
    """
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    client = boto3.client("s3", region_name=os.environ.get("AWS_DEFAULT_REGION", "us-east-1"))
    for name in names:
        try:
            client.head_bucket(Bucket=name)
            continue
        except ClientError as error:
            if _code(error) not in GONE:
                raise EverestError(f"bucket {name}: {redact(str(error))}. Cure: mend the credentials.") from None
        except BotoCoreError as error:
            raise EverestError(f"bucket {name}: {redact(str(error))}. Cure: start the store.") from None
        client.create_bucket(Bucket=name)
