"""HTTP(S) with resume: what servers do wrong is noticed, and no byte of another version is ever joined.

Answered cases: dropped connections, Range ignored (200), a changed ETag, 416, 429 and 503 with Retry-After,
slow drips, bodies that are gzip-encoded against our wish, lengths that lie.
"""

from __future__ import annotations

import contextlib
import email.utils
import logging
import netrc
import os
import random
import re
import time
from collections.abc import Iterator
from pathlib import Path

import httpx

from pipeline.data.sources.part import Address, AddressFailed, NotThere, Part, Patience, Version, safe_url
from pipeline.errors import InputError

#: Statuses that pass by themselves.
PASSING = {408, 425, 429, 500, 502, 503, 504}
CURES = {
    401: "the server wants a login. Cure: fetch it by hand, or name a mirror in source.mirrors.",
    403: "access is refused. Cure: check that it has not expired, or name a mirror in source.mirrors.",
    404: "it is not there (any more). Cure: name a mirror in source.mirrors.",
    410: "it was withdrawn. Cure: name a mirror in source.mirrors.",
}
CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")
UNSATISFIED_RANGE = re.compile(r"bytes \*/(\d+)")

# httpx logs every address with its query at level INFO, where keys of signed addresses would show.
logging.getLogger("httpx").setLevel(logging.WARNING)
log = logging.getLogger(__name__)


def _logins() -> httpx.NetRCAuth | None:
    """Logins of private mirrors, from ~/.netrc (or the file that NETRC names)."""
    path = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    try:
        return httpx.NetRCAuth(str(path)) if path.is_file() else None
    except netrc.NetrcParseError as error:
        raise InputError(f"{path}: {error.msg} in line {error.lineno}. Cure: mend that line.") from None


class _TryAgain(Exception):
    """This attempt failed; `after` seconds the next one may not."""

    def __init__(self, why: str, after: float | None = None) -> None:
        super().__init__(why)
        self.after = after


class Http:
    """Transport over HTTP and HTTPS; certificates are always checked."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._client = httpx.Client(
            auth=_logins(),
            follow_redirects=True,
            timeout=httpx.Timeout(patience.timeout_seconds),
            headers={"Accept-Encoding": "identity", "User-Agent": "everest-pipeline"},
        )

    def size(self, url: str) -> int | None:
        try:
            answer = self._client.head(url)
        except httpx.HTTPError as error:
            raise AddressFailed(_explain(url, error)) from None
        if answer.status_code in CURES:
            raise _refused(url, answer.status_code)
        length = answer.headers.get("content-length", "")
        known = answer.is_success and length.isdigit() and "content-encoding" not in answer.headers
        return int(length) if known else None

    def fetch(self, address: Address, part: Part) -> None:
        failed = 0
        while True:
            before = part.size
            try:
                self._attempt(address, part)
                return
            except (_TryAgain, httpx.TransportError, httpx.DecodingError) as error:
                failed = 1 if part.size > before else failed + 1
                explained = isinstance(error, _TryAgain)
                why = f"{safe_url(address.url)}: {error}" if explained else _explain(address.url, error)
                if failed >= self._patience.attempts or "certificate" in why.lower():
                    raise AddressFailed(f"{why} ({failed} attempts)") from None
                after = error.after if isinstance(error, _TryAgain) else None
                log.info("%s; trying again", why)
                self._pause(failed, after, part)
            except (httpx.InvalidURL, httpx.TooManyRedirects, httpx.UnsupportedProtocol) as error:
                raise AddressFailed(_explain(address.url, error)) from None

    def _attempt(self, address: Address, part: Part) -> None:
        headers = self._resume_headers(address, part)
        with self._client.stream("GET", address.url, headers=headers) as answer:
            if answer.status_code == 416:
                if self._is_complete(answer, part):
                    return
                part.restart({})
                raise _TryAgain("the server holds fewer bytes than we do", after=0.0)
            if answer.status_code in PASSING:
                raise _TryAgain(f"status {answer.status_code}", _retry_after(answer))
            if not answer.is_success:
                raise _refused(address.url, answer.status_code)
            self._begin(answer, address, part)
            for block in self._watched(answer):
                part.append(block)
        if not part.path.exists():
            part.path.touch()
        if part.total is not None and part.size != part.total:
            if part.size > part.total:
                part.restart({})
            raise _TryAgain(f"{part.size} of {part.total} bytes came")

    def _resume_headers(self, address: Address, part: Part) -> dict[str, str]:
        have, version = part.size, part.version
        validator = version.get("etag") or version.get("modified")
        same = version.get("url") == safe_url(address.url)
        if not have:
            return {}
        if version.get("whole_only") or not (address.sha256 or (same and validator)):
            part.restart({})  # nothing could tell whether the rest belongs to these bytes
            return {}
        condition = {"If-Range": validator} if same and validator else {}
        return {"Range": f"bytes={have}-"} | condition

    def _begin(self, answer: httpx.Response, address: Address, part: Part) -> None:
        """Decide whether the body continues our bytes or replaces them."""
        etag = answer.headers.get("etag", "")
        encoded = answer.headers.get("content-encoding", "identity").lower() not in ("", "identity")
        version: Version = {
            "url": safe_url(address.url),
            "etag": "" if etag.startswith("W/") else etag,
            "modified": answer.headers.get("last-modified", ""),
            "whole_only": encoded,  # decoded bytes have no range on the server
        }
        length = answer.headers.get("content-length", "")
        if answer.status_code == 206 and not encoded:
            match = CONTENT_RANGE.fullmatch(answer.headers.get("content-range", ""))
            ours = part.version.get("etag")
            if not match or int(match[1]) != part.size or (ours and version["etag"] and ours != version["etag"]):
                part.restart({})
                raise _TryAgain("the file changed on the server while it was fetched", after=0.0)
            part.total = None if match[2] == "*" else int(match[2])
            return
        part.restart(version)
        part.total = int(length) if length.isdigit() and not encoded else None

    def _watched(self, answer: httpx.Response) -> Iterator[bytes]:
        """The body's blocks; a drip is cut off, because a new connection is often fast."""
        started, received = time.monotonic(), 0
        for block in answer.iter_bytes():
            received += len(block)
            yield block
            elapsed = time.monotonic() - started
            if elapsed > self._patience.window_seconds:
                if received / elapsed < self._patience.min_rate:
                    raise _TryAgain(f"only {received / elapsed:.0f} bytes a second came")
                started, received = time.monotonic(), 0

    @staticmethod
    def _is_complete(answer: httpx.Response, part: Part) -> bool:
        match = UNSATISFIED_RANGE.fullmatch(answer.headers.get("content-range", ""))
        etag = answer.headers.get("etag")
        unchanged = not etag or etag == part.version.get("etag")
        return bool(match) and int(match[1]) == part.size and unchanged  # type: ignore[index]

    def _pause(self, failed: int, after: float | None, part: Part) -> None:
        usual = self._patience.backoff_seconds * 2 ** (failed - 1) * random.uniform(0.5, 1.0)
        part.stop.wait(min(self._patience.max_wait_seconds, usual if after is None else after))


def _refused(url: str, status: int) -> AddressFailed:
    kind = NotThere if status in (404, 410) else AddressFailed
    return kind(f"{safe_url(url)}: {CURES.get(status, f'status {status}.')}")


def _retry_after(answer: httpx.Response) -> float | None:
    """Seconds that the server asks for, given as a number or a date."""
    text = answer.headers.get("retry-after", "")
    if text.isdigit():
        return float(text)
    with contextlib.suppress(ValueError):
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    return None


def _explain(url: str, error: Exception) -> str:
    text = str(error).replace(url, safe_url(url)) or type(error).__name__
    if "certificate" in text.lower():
        return (
            f"{safe_url(url)}: its certificate cannot be verified ({text}). Cure: fetch the file by hand, verify it "
            "and put it in the raw folder, or name a mirror; certificates are always verified."
        )
    return f"{safe_url(url)}: {text}"
