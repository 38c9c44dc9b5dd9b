"""What of a checkout gets into an image, by a real build of the Dockerfile's first stage."""

from __future__ import annotations

import json
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

SECRET = "planted-4f1c9a"
#: Files that a checkout in use has beside its sources, and that hold or may hold secrets.
PLANTED = (
    ".env", "docker/.env", ".dvc/config.local", ".git/config", "mlflow.db", "data/raw/v.mp4", "flows/.env.local",
    "docker/secrets/password", "id_rsa", "pipeline/__pycache__/x.pyc", "notes.txt", "reports/report.html",
)  # fmt: skip


@pytest.fixture
def image(root: Path, tmp_path: Path) -> Iterator[Path]:
    """The stage `source` built from a checkout with planted secrets, as an OCI folder."""
    if shutil.which("buildah") is None:
        pytest.skip("needs Debian's buildah")
    checkout = tmp_path / "checkout"
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, check=True).stdout
    for name in filter(None, listed.decode().split("\0")):
        if (root / name).is_file():
            (checkout / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / name, checkout / name)
    for name in PLANTED:
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).write_text(SECRET)
    storage = ["--storage-driver=vfs", f"--root={tmp_path / 'storage'}", f"--runroot={tmp_path / 'run'}"]
    build = [
        "build",
        "--isolation=chroot",
        "--pull-never",
        "--target=source",
        "--file=docker/Dockerfile",
        "--tag=it",
        ".",
    ]
    for command in (build, ["push", "it", f"oci:{tmp_path / 'oci'}:it"]):
        done = subprocess.run(
            ["buildah", *storage, *command], cwd=checkout, capture_output=True, text=True, check=False
        )
        if done.returncode and "permitted" in done.stderr:
            pytest.skip(f"buildah may not build here: {done.stderr.strip()[-200:]}")
        assert done.returncode == 0, done.stderr
    yield tmp_path / "oci"
    subprocess.run(["buildah", *storage, "rmi", "--all", "--force"], capture_output=True, check=False)


@pytest.mark.slow
def test_planted_secrets_are_in_no_layer_and_every_source_is(image: Path, root: Path) -> None:
    blobs = image / "blobs" / "sha256"
    index = json.loads((image / "index.json").read_text())
    manifest = json.loads((blobs / index["manifests"][0]["digest"].partition(":")[2]).read_text())
    assert SECRET not in (blobs / manifest["config"]["digest"].partition(":")[2]).read_text()
    names = set()
    for layer in manifest["layers"]:
        with tarfile.open(blobs / layer["digest"].partition(":")[2]) as tar:
            for member in tar:
                names.add(member.name)
                if member.isfile():
                    file = tar.extractfile(member)
                    assert file is not None
                    assert SECRET.encode() not in file.read(), member.name
    listed = subprocess.run(
        ["git", "ls-files", "models", "pipeline", "flows", "recipes", "params.yaml", "dvc.yaml", ".dvc/config"],
        cwd=root, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert {f"everest/{name}" for name in listed.split()} <= names
    assert not [name for name in names if name.startswith(("everest/tests", "everest/.git", "everest/docs"))]
