"""Both servers on PostgreSQL: many write and read at once, nothing is locked or lost, a backup comes back."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
from ports import free_ports
from postgres_cluster import PASSWORD, postgres

from pipeline.errors import EverestError
from pipeline.operations.addresses import MLFLOW, PREFECT, on_postgres
from pipeline.operations.backup import backup, restore
from pipeline.operations.postgres import prepare
from pipeline.tracking.store import Store

pytestmark = pytest.mark.slow
TRAININGS, POINTS, SWEEP, READERS, RUNS = 2, 1000, 12, 3, 1000


@dataclass
class Served:
    """`everest ui --database` in a folder of its own."""

    root: Path
    database: str
    mlflow: str
    prefect: str
    servers: subprocess.Popen[str]

    def stop(self) -> None:
        self.servers.send_signal(signal.SIGINT)
        self.servers.wait(60)

    def ask(self, address: str, query: dict[str, object]) -> Any:
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(address, json.dumps(query).encode(), headers)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    @property
    def logs(self) -> str:
        return "".join(path.read_text(errors="replace") for path in (self.root / ".work/logs").glob("*.log"))


@pytest.fixture(scope="module")
def served(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    place = tmp_path_factory.mktemp("served")
    with postgres() as database:
        ports = [str(port) for port in free_ports(2)]
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT", "MLFLOW"))}
        environment |= {"EVEREST_DATABASE": database, "PREFECT_HOME": str(place / "prefect"), "PYTHONPATH": str(root)}
        (place / "prefect").mkdir()
        command = [sys.executable, "-m", "pipeline.cli", "ui", "--mlflow-port", ports[0], "--prefect-port", ports[1]]
        servers = subprocess.Popen(command, cwd=place, env=environment, stderr=subprocess.PIPE, text=True)
        try:
            assert servers.stderr is not None
            lines = ""
            while "Ctrl-C stops both" not in lines:
                line = servers.stderr.readline()
                assert line, lines
                lines += line
            assert f"export MLFLOW_TRACKING_URI=http://127.0.0.1:{ports[0]}" in lines
            assert PASSWORD not in lines
            page, api = f"http://127.0.0.1:{ports[0]}", f"http://127.0.0.1:{ports[1]}/api"
            made = Served(place, database, page, api, servers)
            yield made
        finally:
            if servers.poll() is None:
                servers.send_signal(signal.SIGINT)
                servers.wait(60)


def test_no_list_of_processes_and_no_log_shows_the_password(served: Served) -> None:
    shown = []
    for process in psutil.process_iter():
        try:
            shown.append(" ".join(process.cmdline()))
        except psutil.Error:
            continue
    assert any("flows.server" in line for line in shown)
    assert not [line for line in shown if PASSWORD in line]
    assert PASSWORD not in served.logs


def test_two_trainings_a_sweep_of_twelve_and_three_readers_lose_nothing(served: Served) -> None:
    over = False

    def train(number: int, points: int) -> tuple[str, int]:
        store = Store(served.mlflow)
        run = store.create_run("demo", f"training-{number}", f"training {number}", 0, {})
        for step in range(0, points, 50):
            store.metrics(run, [("train/loss", 1 / (s + 1), s, s) for s in range(step, min(step + 50, points))])
        store.status(run, "FINISHED", points)
        return run, points

    def read() -> int:
        store, looks = Store(served.mlflow), 0
        while not over:
            store.search(limit=100)
            looks += 1
        return looks

    def flow(number: int) -> str:
        made = served.ask(f"{served.prefect}/flows/", {"name": "experiment"})
        run = served.ask(f"{served.prefect}/flow_runs/", {"flow_id": made["id"], "name": f"point {number}"})["id"]
        for kind in ("PENDING", "RUNNING", "COMPLETED"):
            served.ask(f"{served.prefect}/flow_runs/{run}/set_state", {"state": {"type": kind}})
        return str(run)

    Store(served.mlflow).experiment("demo")
    with ThreadPoolExecutor(40) as pool:
        readers = [pool.submit(read) for _ in range(READERS)]
        sizes = [POINTS] * TRAININGS + [50] * SWEEP
        trainings = [pool.submit(train, number, points) for number, points in enumerate(sizes)]
        flows = [pool.submit(flow, number) for number in range(SWEEP + TRAININGS)]
        runs = [training.result() for training in trainings]
        ids = {done.result() for done in flows}
        over = True
        looks = [reader.result() for reader in readers]
    store = Store(served.mlflow)
    for run, points in runs:
        assert [step for step, _ in store.history(run, "train/loss")] == list(range(points))
    ended = served.ask(
        f"{served.prefect}/flow_runs/filter", {"flow_runs": {"state": {"type": {"any_": ["COMPLETED"]}}}}
    )
    assert {row["id"] for row in ended} == ids
    assert min(looks) > 0
    assert "locked" not in served.logs


def test_the_page_of_a_thousand_runs_is_there_within_three_seconds(served: Served) -> None:
    store = Store(served.mlflow)
    experiment = store.experiment("thousand")
    first = store.create_run("thousand", "key", "run 1", 1, {"stage": "evaluate"})
    store.metrics(first, [("eval/top1", 0.5, 1, 1)])
    with psycopg.connect(on_postgres(served.database).mlflow) as connection:
        # 999 copies of it, by the database: through the server they take minutes on a busy machine.
        for table in ("runs", "tags", "latest_metrics"):
            row = connection.execute(f"select * from {table} where run_uuid = %s", (first,))
            names = [column.name for column in row.description or ()]
            own = {
                "run_uuid": "md5(i::text)",
                "name": "'run ' || i" if table == "runs" else "name",
                "start_time": "i",
                "artifact_uri": "'mlflow-artifacts:/' || i",
            }
            values = ", ".join(own.get(name, f'"{name}"') for name in names)
            columns = ", ".join(f'"{name}"' for name in names)
            connection.execute(
                f"insert into {table} ({columns}) select {values} from {table}, generate_series(2, %s) i "
                "where run_uuid = %s",
                (RUNS, first),
            )
    query: dict[str, object] = {
        "experiment_ids": [experiment],
        "max_results": 100,
        "order_by": ["attributes.start_time DESC"],
    }
    served.ask(f"{served.mlflow}/ajax-api/2.0/mlflow/runs/search", query)  # the first answer of a server takes longer
    began = time.monotonic()
    page = served.ask(f"{served.mlflow}/ajax-api/2.0/mlflow/runs/search", query)
    took = time.monotonic() - began
    sys.stderr.write(f"first page of {RUNS} runs: {took:.2f} s\n")
    assert [run["info"]["run_name"] for run in page["runs"]][:2] == ["run 1000", "run 999"]
    assert page["runs"][0]["data"]["metrics"][0]["value"] == 0.5
    assert took < 3 * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def test_preparing_twice_is_once_and_a_wrong_password_is_told_without_it(served: Served) -> None:
    variables = prepare(served.database)
    assert variables["MLFLOW_BACKEND_STORE_URI"].endswith(f"/{MLFLOW}")
    assert variables["PREFECT_API_DATABASE_CONNECTION_URL"].endswith(f"/{PREFECT}")
    with pytest.raises(EverestError, match="password authentication failed") as caught:
        prepare(served.database.replace(PASSWORD, "wrong-secret"))
    assert "wrong-secret" not in str(caught.value)


def test_a_backup_of_postgresql_comes_back(served: Served, tmp_path: Path) -> None:
    of = on_postgres(served.database)
    Store(served.mlflow).create_run("kept", "kept", "kept", 1, {})
    flow = served.ask(f"{served.prefect}/flows/", {"name": "experiment"})["id"]
    served.ask(f"{served.prefect}/flow_runs/", {"flow_id": flow, "name": "kept"})
    made = backup(served.root, tmp_path, of)
    assert sorted(path.name for path in made.iterdir() if path.is_file()) == [
        "manifest.json",
        "mlflow.dump",
        "prefect.dump",
    ]
    with pytest.raises(EverestError, match=r"everest_mlflow is in use: \d+ connection"):
        restore(made, served.root, of, force=True)
    served.stop()
    counts = {}
    for address, table in ((of.mlflow, "runs"), (of.prefect, "flow_run")):
        with psycopg.connect(address) as connection:
            (counts[table],) = connection.execute(f"select count(*) from {table}").fetchone() or (0,)
            assert counts[table] > 0
            connection.execute(f"truncate {table} cascade")
    restore(made, served.root, of, force=True)
    for address, table in ((of.mlflow, "runs"), (of.prefect, "flow_run")):
        with psycopg.connect(address) as connection:
            assert connection.execute(f"select count(*) from {table}").fetchone() == (counts[table],)
