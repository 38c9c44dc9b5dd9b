"""DVC versions manifests and keeps them on an S3 remote."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from pipeline import manifest


def dvc(folder: Path, *arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_manifest_is_pushed_to_s3_and_pulled_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    address = f"http://{host}:{port}"
    for name, value in (("AWS_ACCESS_KEY_ID", "testing"), ("AWS_SECRET_ACCESS_KEY", "testing")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    try:
        boto3.client("s3", endpoint_url=address, region_name="us-east-1").create_bucket(Bucket="store")
        dvc(tmp_path, "init", "--no-scm", "-q")
        dvc(tmp_path, "remote", "add", "-d", "store", "s3://store/dvc")
        dvc(tmp_path, "remote", "modify", "store", "endpointurl", address)
        folder = tmp_path / "data/manifests/own"
        manifest.save(manifest.from_rows([]), folder / "manifest.parquet")
        (folder / "quarantine.csv").write_text("path,video_id,split,reason,message\n")
        before = {path.name: path.read_bytes() for path in folder.iterdir()}
        dvc(tmp_path, "add", "-q", "data/manifests/own")
        dvc(tmp_path, "push", "-q")
        shutil.rmtree(folder)
        shutil.rmtree(tmp_path / ".dvc/cache")
        dvc(tmp_path, "pull", "-q")
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    finally:
        server.stop()
