"""DVC versions manifests; a small set of raw videos may be imported by DVC, all through a server that speaks S3."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pytest
from moto.server import ThreadedMotoServer

from pipeline.data import manifest
from pipeline.data.ingest.ingest import command
from pipeline.data.video import write_video
from pipeline.params import IngestParams

pytestmark = pytest.mark.slow


def dvc(folder: Path, *arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def video(folder: Path, seed: int) -> bytes:
    blocks = np.random.default_rng(seed).integers(0, 256, (16, 8, 8, 3), dtype=np.uint8)
    write_video(folder / "video.mp4", blocks.repeat(8, 1).repeat(8, 2))
    return (folder / "video.mp4").read_bytes()


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A client of the bucket `store`, which is also the DVC remote of the project in tmp_path/project."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    address = f"http://{host}:{port}"
    for name, value in (("AWS_ACCESS_KEY_ID", "testing"), ("AWS_SECRET_ACCESS_KEY", "testing")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    try:
        client = boto3.client("s3", endpoint_url=address, region_name="us-east-1")
        client.create_bucket(Bucket="store")
        project = tmp_path / "project"
        project.mkdir()
        dvc(project, "init", "--no-scm", "-q")
        dvc(project, "remote", "add", "-d", "store", "s3://store/dvc")
        dvc(project, "remote", "add", "videos", "s3://store/raw")
        for remote in ("store", "videos"):
            dvc(project, "remote", "modify", remote, "endpointurl", address)
        yield client
    finally:
        server.stop()


@pytest.mark.usefixtures("store")
def test_a_manifest_is_pushed_to_s3_and_pulled_again(tmp_path: Path) -> None:
    project = tmp_path / "project"
    folder = project / "data/manifests/own"
    manifest.save(manifest.from_rows([]), folder / "manifest.parquet")
    (folder / "quarantine.csv").write_text("path,video_id,split,reason,message\n")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    dvc(project, "add", "-q", "data/manifests/own")
    dvc(project, "push", "-q")
    shutil.rmtree(folder)
    shutil.rmtree(project / ".dvc/cache")
    dvc(project, "pull", "-q")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_raw_videos_are_imported_from_a_bucket_and_follow_it(tmp_path: Path, store: Any) -> None:
    project = tmp_path / "project"
    names = ["cat's [1]/clip #1.mp4", "dog/clip (2).mp4"]
    for number, name in enumerate(names):
        store.put_object(Bucket="store", Key=f"raw/{name}", Body=video(tmp_path, number))
    (project / "data").mkdir()
    dvc(project, "import-url", "-q", "remote://videos", "data/mine")
    limits = IngestParams(
        deadline_seconds=60.0, memory_gib=2.0, failure_budget=0.0, min_frames=16, max_repeated_run=64, workers=1
    )
    assert command(project / "data/mine", limits)["videos_ok"] == 2
    shutil.rmtree(project / "data/mine")
    dvc(project, "pull", "-q", "data/mine.dvc")  # the same bytes from the source, by the recorded version
    paths = [str(path.relative_to(project / "data/mine")) for path in (project / "data/mine").rglob("*.mp4")]
    assert sorted(paths) == sorted(names)
    new = video(tmp_path, 9)
    store.put_object(Bucket="store", Key=f"raw/{names[0]}", Body=new)
    dvc(project, "update", "-q", "data/mine.dvc")
    assert (project / "data/mine" / names[0]).read_bytes() == new
