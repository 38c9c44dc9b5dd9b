"""Prefect's server away when a training ends: nothing fails, and the end waits until it can be noted."""

from __future__ import annotations

import json
import logging
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from uuid import uuid4

import pytest
from ports import free_port
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows import artifacts
from flows.chain import devices, health, orders, slot
from flows.chain.guard import Children
from pipeline.distributed.device_table import DeviceTable, HeldDevice
from pipeline.monitor.record import Look, MonitorRecord
from pipeline.tracking import names

LIMIT = {"id": str(uuid4()), "name": slot.LIMIT, "limit": 1, "active": True, "active_slots": 0}

#: What else it answers, by a word of the address; Prefect's client asks for a token first, which old servers lack.
CODES = {"csrf": 404, "refuses": 401, "artifacts": 500}


class Answers(BaseHTTPRequestHandler):
    """A server with one limit, whose slot may be taken."""

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        code = next((code for word, code in CODES.items() if word in self.path), 200)
        text = json.dumps(self._body() if code == 200 else {}).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def _body(self) -> object:
        if self.path.endswith("increment-with-lease"):
            return {"lease_id": str(uuid4()), "limits": [LIMIT]}
        return {**LIMIT, "slot_decay_per_second": 0.0} if "concurrency_limits" in self.path else []

    do_GET = do_POST = answer

    def log_message(self, *_: object) -> None:
        return


@contextmanager
def served(port: int) -> Iterator[None]:
    server = ThreadingHTTPServer(("127.0.0.1", port), Answers)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Where Prefect's server is looked for; nobody answers there yet."""
    port = free_port()
    url = f"http://127.0.0.1:{port}/api"
    monkeypatch.setenv("PREFECT_API_URL", url)
    for module in (orders, slot):
        monkeypatch.setattr(module, "get_run_logger", lambda: logging.getLogger("run"))
    with temporary_settings({PREFECT_API_URL: url}):
        yield port


@pytest.mark.filterwarnings("ignore:Artifact creation outside:FutureWarning")
def test_what_cannot_be_put_on_the_page_is_left_out_with_a_word(port: int, caplog: pytest.LogCaptureFixture) -> None:
    look = Look(0, 0.0, {names.COPY_LOSS: 1.2}, long=True)
    with caplog.at_level(logging.WARNING, "run"):
        health.publish_health(MonitorRecord(100, checked=60, looks=(look,), alarms=()))
    with served(port), caplog.at_level(logging.WARNING, "run"):
        devices.publish_devices(DeviceTable((HeldDevice("GPU-1", None),), ()))
        artifacts.publish_results([{"benchmark": "motion", "top1": 50.0}], Path("report.html"))
        artifacts.publish_differences([{"a": "everest"}], Path("report.html"))
        artifacts.publish_sentences(["nothing follows"], Path("report.html"))
        artifacts.publish_sweep([{"top1": 50.0}])
    said = [record.getMessage() for record in caplog.records if record.name == "run"]
    assert len(said) == 6
    assert "the health of the pre-training did not get on Prefect's page: [Errno 111] Connection refused" in said[0]
    assert "500" in said[1]


def test_a_slot_whose_server_has_gone_is_left_without_an_error(
    port: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(slot, "_claim", lambda place: None)
    for name in ("acquisition", "release"):  # Prefect's events go by a thread that tries to connect at the end, too
        monkeypatch.setattr(f"prefect.concurrency._sync.emit_concurrency_{name}_events", lambda *_: {})

    def wait(what: object) -> None:
        raise AssertionError("the slot is free")

    with caplog.at_level(logging.WARNING, "run"):
        server = served(port)
        server.__enter__()
        with slot.slot("machine:lock", wait):
            assert not caplog.records, "it was taken"
            server.__exit__(None, None, None)
    (said,) = [record.getMessage() for record in caplog.records if record.name == "run"]
    assert said.endswith("the slot is free when its lease ends.")


def test_the_end_of_a_run_waits_for_the_server_and_hears_a_stop(
    port: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(orders, "LOOK_SECONDS", 0.1)
    children, done = Children(), threading.Event()

    def end() -> None:
        orders.until_answered(children)
        done.set()

    threading.Thread(target=end, daemon=True).start()
    assert not done.wait(0.5)
    with served(port):
        assert done.wait(10)
    assert capsys.readouterr().err.count("the end waits: Prefect's server at") == 1
    began = time.monotonic()
    children.stop(signal.SIGTERM)
    orders.until_answered(children)
    assert time.monotonic() - began < 0.5


def test_the_end_waits_neither_for_a_server_that_refuses_nor_for_the_embedded_one(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with served(port):
        monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{port}/refuses")
        orders.until_answered(Children())
    monkeypatch.setattr(orders.Server, "found", lambda: None)
    orders.until_answered(Children())
