"""A real HTTP server on loopback that serves a folder and misbehaves as told, request by request."""

from __future__ import annotations

import gzip
import hashlib
import threading
import time
from collections import defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit


@dataclass
class Site:
    """What the server does. `faults[path]` are used up, one for each GET of that path."""

    folder: Path
    url: str = ""
    faults: dict[str, deque[dict[str, Any]]] = field(default_factory=lambda: defaultdict(deque))
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    etags: bool = True

    def write_sums(self) -> None:
        """Put a SHA256SUMS of all files beside them, as a mirror has."""
        sums = [
            f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(self.folder)}"
            for path in sorted(self.folder.rglob("*"))
            if path.is_file() and path.name != "SHA256SUMS"
        ]
        (self.folder / "SHA256SUMS").write_text("\n".join(sums))

    def gets(self, path: str) -> list[dict[str, str]]:
        return [headers for method, asked, headers in self.requests if method == "GET" and asked == path]


@contextmanager
def serve(folder: Path) -> Iterator[Site]:
    site = Site(folder)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"site": site}))
    server.daemon_threads = True
    site.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    site: Site
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer("HEAD", {})

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        faults = self.site.faults[path]
        self._answer("GET", faults.popleft() if faults else {})

    def _answer(self, method: str, fault: dict[str, Any]) -> None:
        path = unquote(urlsplit(self.path).path)
        self.site.requests.append((method, path, {key.lower(): value for key, value in self.headers.items()}))
        if "status" in fault:
            self.send_response(fault["status"])
            for key, value in fault.get("headers", {}).items():
                self.send_header(key, value)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        file = self.site.folder / path.lstrip("/")
        if not file.is_file():
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        content = file.read_bytes()
        if "replace" in fault:  # the file changes on the server at this moment
            content = fault["replace"]
            file.write_bytes(content)
        etag = fault.get("etag", '"' + hashlib.md5(content).hexdigest() + '"')
        start = self._start(etag, len(content), fault)
        if start is not None and start >= len(content) and "ignore_range" not in fault:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.send_header("ETag", etag)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        body = content if start is None else content[start:]
        self.send_response(200 if start is None else 206)
        if start is not None:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if self.site.etags:
            self.send_header("ETag", etag)
        if fault.get("gzip"):
            body = gzip.compress(content)
            self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if method == "HEAD":
            return
        if "flip" in fault:
            body = body[: fault["flip"]] + bytes([body[fault["flip"]] ^ 1]) + body[fault["flip"] + 1 :]
        sent = body[: fault.get("drop_after", len(body))]
        try:
            if "drip" in fault:
                for position in range(0, len(sent), 10):
                    self.wfile.write(sent[position : position + 10])
                    time.sleep(fault["drip"])
            else:
                self.wfile.write(sent)
        except (BrokenPipeError, ConnectionResetError):
            pass
        if "drop_after" in fault:
            self.close_connection = True
            self.connection.close()

    def _start(self, etag: str, size: int, fault: dict[str, Any]) -> int | None:
        asked = self.headers.get("Range", "")
        if not asked.startswith("bytes=") or fault.get("ignore_range"):
            return None
        condition = self.headers.get("If-Range")
        if condition and condition != etag and not fault.get("ignore_condition"):
            return None
        return int(asked[6:].split("-")[0]) + int(fault.get("shift", 0))
