"""Notices: what is told to whom, that a dead webhook harms nothing, that its address stays secret."""

from __future__ import annotations

import http.server
import json
import logging
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.exceptions import Pause

from flows.chain.repro import StageStopped
from pipeline.errors import BudgetSpentError, EverestError, Interrupted
from pipeline.monitor.record import Alarm, MonitorRecord, write_record
from pipeline.notices import alarms, send
from pipeline.notices.told import told
from pipeline.system.redact import redact, redact_value
from pipeline.tracking.spool import Spool

TOKEN = "T0KEN-9f8e7d"


class Hook(http.server.BaseHTTPRequestHandler):
    """Keeps what it is sent."""

    def do_POST(self) -> None:
        self.server.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(self.server.answer)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Iterator[http.server.ThreadingHTTPServer]:
    served = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hook)
    served.bodies, served.answer = [], 200
    threading.Thread(target=served.serve_forever, daemon=True).start()
    monkeypatch.setenv("EVEREST_WEBHOOK", f"http://127.0.0.1:{served.server_port}/services/{TOKEN}")
    monkeypatch.delenv("EVEREST_NOTIFY_BLOCK", raising=False)
    yield served
    served.shutdown()
    served.server_close()


def test_the_end_a_failure_and_a_spent_budget_are_told_and_a_persons_stop_is_not(hook, tmp_path: Path) -> None:
    with told("everest run"):
        pass
    with pytest.raises(EverestError), told("everest run"):
        raise EverestError("no room on /data.\nmore")
    with pytest.raises(BudgetSpentError), told("everest run"):
        raise BudgetSpentError("budget spent: 2 h")
    # The last two are how a deployment's run leaves that was cancelled, or whose worker was stopped.
    for stop in (Interrupted("stopped"), KeyboardInterrupt(), StageStopped("saved"), Pause("saved, then ended")):
        with pytest.raises(type(stop)), told("everest run"):
            raise stop
    assert [body["event"] for body in hook.bodies] == ["end", "failure", "budget"]
    assert hook.bodies[0]["text"] == f"everest run in {Path.cwd()} ended well after 0:00."
    assert hook.bodies[0]["content"] == hook.bodies[0]["text"]
    assert hook.bodies[1]["text"].endswith("failed after 0:00: no room on /data.")
    assert hook.bodies[2]["text"].endswith("budget spent: 2 h")


def test_only_the_command_that_was_started_tells(hook) -> None:
    with told("everest run"), told("pretrain"):
        pass
    assert [body["text"].split(" in ")[0] for body in hook.bodies] == ["everest run"]


def test_a_new_alarm_is_told_once_and_one_of_before_is_not(hook, tmp_path: Path) -> None:
    old = Alarm("plateau", 40, "the loss stands still", "a cause", "a cure")
    new = Alarm("collapse", 80, "the rank of the features falls", "a cause", "a cure")
    write_record(tmp_path, MonitorRecord(100, 40, alarms=(old,)))
    with alarms.alarms_told(tmp_path, "pretrain", period=0.05):
        write_record(tmp_path, MonitorRecord(100, 80, alarms=(old, new)))
        time.sleep(0.5)
        write_record(tmp_path, MonitorRecord(100, 100, alarms=(old, new)))
    assert [body["event"] for body in hook.bodies] == ["health"]
    assert "the rank of the features falls (since step 80). Cause: a cause. Cure: a cure." in hook.bodies[0]["text"]


def test_an_alarm_in_the_last_moment_is_told_too(hook, tmp_path: Path) -> None:
    with alarms.alarms_told(tmp_path, "pretrain", period=60):
        write_record(tmp_path, MonitorRecord(10, 10, alarms=(Alarm("diverging", 9, "it grows", "x", "y"),)))
    assert len(hook.bodies) == 1


def test_a_dead_or_silent_or_angry_webhook_harms_nothing_and_is_named_without_its_token(
    hook, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(send, "WAIT_SECONDS", 0.5)
    hook.answer = 500
    with socket.create_server(("127.0.0.1", 0)) as silent:
        addresses = [
            f"http://127.0.0.1:{hook.server_port}/{TOKEN}",
            f"http://127.0.0.1:{silent.getsockname()[1]}/{TOKEN}",
            f"http://127.0.0.1:9/{TOKEN}",
            f"http://no-such-host.invalid/{TOKEN}",
            f"http://[broken/{TOKEN}",
            f"file:///etc/{TOKEN}",
        ]
        for address in addresses:
            monkeypatch.setenv("EVEREST_WEBHOOK", address)
            began = time.monotonic()
            with caplog.at_level(logging.WARNING), told("everest run"):
                pass
            assert time.monotonic() - began < 3
    assert len(caplog.records) >= len(addresses)
    assert TOKEN not in caplog.text


def test_a_block_of_a_prefect_that_is_not_there_harms_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    monkeypatch.setenv("EVEREST_NOTIFY_BLOCK", "slack-webhook/lab")
    monkeypatch.delenv("EVEREST_WEBHOOK", raising=False)
    monkeypatch.setattr(send, "WAIT_SECONDS", 1.0)
    before = set(threading.enumerate())
    began = time.monotonic()
    assert send.send("end", "done") is False
    assert time.monotonic() - began < 10
    # It may still import Prefect, and pytest goes through the modules next.
    for thread in set(threading.enumerate()) - before:
        thread.join(60)


def test_the_address_is_hidden_wherever_text_is_kept(hook, tmp_path: Path) -> None:
    address = f"http://127.0.0.1:{hook.server_port}/services/{TOKEN}"
    assert TOKEN not in redact(f"POST {address} failed")
    assert TOKEN not in str(redact_value("notify.webhook", address))
    with Spool(tmp_path / "spool.jsonl") as spool:
        spool.tags({"everest.error": f"cannot reach {address}"})
        spool.params({"EVEREST_WEBHOOK": address})
    assert TOKEN not in (tmp_path / "spool.jsonl").read_text()
    send.send("failure", f"cannot reach {address}")
    assert TOKEN not in json.dumps(hook.bodies)
