"""A PostgreSQL server of Debian's on loopback, with a password, for as long as a test needs it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from ports import free_port

PASSWORD = "sesame-4711"


@dataclass
class Cluster:
    """A database cluster in a folder, and its server."""

    folder: Path
    port: int
    programs: Path
    process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"postgresql://everest:{PASSWORD}@127.0.0.1:{self.port}"

    def make(self) -> None:
        (self.folder / "password").write_text(PASSWORD)
        if _user():
            shutil.chown(self.folder, "postgres")
            shutil.chown(self.folder / "password", "postgres")
        command = [str(self.programs / "initdb"), "-D", str(self.folder / "data"), "-U", "everest"]
        command += [
            "-A",
            "scram-sha-256",
            f"--pwfile={self.folder / 'password'}",
            "--no-sync",
            "-E",
            "UTF8",
            "--locale=C",
        ]
        subprocess.run(command, check=True, capture_output=True, cwd=self.folder, **_user())  # type: ignore[call-overload]

    def start(self) -> None:
        """Start the server and wait until it answers."""
        command = [str(self.programs / "postgres"), "-D", str(self.folder / "data"), "-p", str(self.port)]
        command += ["-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={self.folder}"]
        # Without it nothing is lost by a killed process, only by a power cut.
        command += ["-c", "fsync=off"]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(  # type: ignore[call-overload]
                command, stdout=log, stderr=log, cwd=self.folder, start_new_session=True, **_user()
            )
        ready = [str(self.programs / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port), "-t", "2"]
        until = time.monotonic() + 60
        while subprocess.run(ready, check=False).returncode != 0:
            assert time.monotonic() < until, (self.folder / "log").read_text()
            time.sleep(0.2)

    def kill(self) -> None:
        """End the server and all its connections' processes without a word."""
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(30)


@contextmanager
def cluster() -> Iterator[Cluster]:
    """A running cluster with a password; the test is skipped where there is no PostgreSQL."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not programs or not shutil.which("pg_dump"):
        pytest.skip("needs PostgreSQL (apt-get install postgresql)")
    folder = Path(tempfile.mkdtemp(prefix="everest-postgres-"))
    port = free_port()
    made = Cluster(folder, port, programs[-1])
    try:
        made.make()
        made.start()
        yield made
    finally:
        if made.process is not None and made.process.poll() is None:
            made.process.terminate()
            made.process.wait(60)
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def postgres() -> Iterator[str]:
    """`postgresql://everest:...@127.0.0.1:port` of a fresh server; the test is skipped where there is none."""
    with cluster() as running:
        yield running.address


def _user() -> dict[str, str]:
    """PostgreSQL refuses to run as root."""
    return {"user": "postgres"} if os.geteuid() == 0 else {}
