"""`everest ops init` against a real server: once or more often, the same; failures are told to an address."""

from __future__ import annotations

import http.server
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect_site import until
from toy_deployment import Toy, make_toy

from pipeline.operations.server import Server

pytestmark = pytest.mark.slow


class Told(http.server.BaseHTTPRequestHandler):
    """An address that notes what it is told."""

    texts: list[str] = []  # noqa: RUF012 - one server, one list

    def do_POST(self) -> None:
        assert self.headers["Content-Type"] == "application/json"
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.texts.append(str(body["text"]))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture(scope="module")
def toy(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Toy]:
    toy = make_toy(root, tmp_path_factory.mktemp("init") / "project")
    try:
        toy.start_server()
        yield toy
    finally:
        toy.end()


def init(toy: Toy, *words: str) -> subprocess.CompletedProcess[str]:
    # In the real checkout, whose prefect.yaml is deployed.
    return subprocess.run(
        [sys.executable, "-m", "pipeline.cli", "ops", "init", *words],
        cwd=toy.code,
        env={**toy.environment, "PWD": str(toy.code)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_init_again_makes_everything_once_and_a_failure_is_told(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    listener = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Told)
    threading.Thread(target=listener.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{listener.server_port}/hook?key=sesame"
    told = ("--notify", address)
    assert "Nobody is told of failures. Cure: everest ops init --notify URL" in init(toy).stdout
    for words in (told, (*told, "--canary", "30 2 * * *"), told):
        done = init(toy, *words)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "sesame" not in done.stdout + done.stderr
    assert sorted(a["name"] for a in toy.ask("automations/filter", {})) == [
        "everest: crash runs without heartbeat",
        "everest: tell of failed runs",
        "everest: tell when no worker is there",
    ]
    zombies = next(a for a in toy.ask("automations/filter", {}) if "heartbeat" in a["name"])
    assert "prefect.flow-run.Resuming" in zombies["trigger"]["expect"], "a run that waits for a worker is no dead one"
    canary = toy.ask("deployments/name/experiment/canary")
    assert [row["schedule"]["cron"] for row in canary["schedules"]] == ["30 2 * * *"]
    assert toy.ask("v2/concurrency_limits/gpu")["limit"] == 1
    server = Server(toy.environment["PREFECT_API_URL"])
    assert server.keeps_leases()
    assert server.slots("gpu") == (0, 1)
    assert toy.ask("admin/settings")["server"]["services"]["db_vacuum"]["retention_period"] in (7776000.0, "P90D")
    run = toy.ask(f"deployments/{canary['id']}/create_flow_run", {"parameters": canary["parameters"]})["id"]
    done = init(toy)
    assert "Failures and missing workers are told to the address of before.\n" in done.stdout, done.stdout + done.stderr
    failed = {"type": "FAILED", "name": "Failed", "message": "the 'disk' is \"full\"\nIts log: pretrain.log"}
    toy.ask(f"flow_runs/{run}/set_state", {"state": failed, "force": True})
    until(lambda: [text for text in Told.texts if "Failed" in text], 60, "the address is told of a failed run")
    (text,) = [text for text in Told.texts if "Failed" in text]
    assert text.startswith("experiment: run ")
    assert text.endswith("is Failed: the 'disk' is \"full\"\nIts log: pretrain.log")

    monkeypatch.chdir(toy.root)
    seen = subprocess.run(
        [sys.executable, "-m", "pipeline.cli", "ops", "status"],
        cwd=toy.root,
        env=toy.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert seen.returncode == 0, seen.stderr
    until(
        lambda: [text for text in Told.texts if "No worker" in text], 90, "the address is told that no worker is there"
    )
    assert "No worker is there" in seen.stdout
    assert "The last canary ended as Failed" in seen.stdout
    assert "0 of 1" in seen.stdout
