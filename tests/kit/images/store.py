"""A stand-in for `weed`: moto behind the keys of -s3.config, with /healthz, its objects kept in -dir over a restart."""

from __future__ import annotations

import json
import re
import signal
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any
from urllib.parse import quote, unquote

import boto3
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

OPTIONS = dict(word.lstrip("-").split("=", 1) for word in sys.argv[1:] if "=" in word)
PORT, FOLDER = int(OPTIONS["s3.port"]), Path(OPTIONS["dir"])
KEYS = {
    pair["accessKey"]: pair["secretKey"]
    for identity in json.loads(Path(OPTIONS["s3.config"]).read_text())["identities"]
    for pair in identity["credentials"]
}
MOTO = DomainDispatcherApplication(create_backend_app)


def answer(environ: dict[str, Any], start: Any) -> Any:
    """Health for everybody, the store for who names a key of ours."""
    if environ["PATH_INFO"] == "/healthz":
        start("200 OK", [("Content-Length", "0")])
        return [b""]
    named = re.search(r"Credential=(\w+)/", environ.get("HTTP_AUTHORIZATION", "") + environ.get("QUERY_STRING", ""))
    if named is None or named[1] not in KEYS:
        start("403 Forbidden", [("Content-Length", "0")])
        return [b""]
    return MOTO(environ, start)


def client() -> Any:
    key, secret = next(iter(KEYS.items()))
    return boto3.client(
        "s3", endpoint_url=f"http://127.0.0.1:{PORT}", aws_access_key_id=key, aws_secret_access_key=secret,
        region_name="us-east-1",
    )  # fmt: skip


def keep(_number: int, _frame: FrameType | None) -> None:
    def copy() -> None:
        s3 = client()
        for bucket in s3.list_buckets()["Buckets"]:
            folder = FOLDER / bucket["Name"]
            folder.mkdir(exist_ok=True)
            for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket["Name"]):
                for item in page.get("Contents", []):
                    body = s3.get_object(Bucket=bucket["Name"], Key=item["Key"])["Body"].read()
                    (folder / quote(item["Key"], safe="")).write_bytes(body)
        server.shutdown()

    threading.Thread(target=copy).start()


server = make_server("0.0.0.0", PORT, answer, threaded=True)
signal.signal(signal.SIGTERM, keep)
serving = threading.Thread(target=server.serve_forever)
serving.start()
for kept in (path for path in FOLDER.iterdir() if path.is_dir()):
    client().create_bucket(Bucket=kept.name)
    for file in kept.iterdir():
        client().put_object(Bucket=kept.name, Key=unquote(file.name), Body=file.read_bytes())
while serving.is_alive():
    serving.join(1)
