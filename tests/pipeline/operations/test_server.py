"""What Prefect's server answers: whole, or an error of ours, wherever it was killed."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from pipeline.operations.server import Server, Unanswered
from pipeline.preflight import orchestrator

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n"


@contextmanager
def answering(text: bytes) -> Iterator[str]:
    """An address where each question gets these bytes, and then the end of the connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(65536)
                    connection.sendall(text)
                    # What of the question is still on its way is read, too: else its end is a reset, not a close.
                    connection.shutdown(socket.SHUT_WR)
                    while connection.recv(65536):
                        pass

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/api"


@pytest.mark.parametrize(
    ("text", "why"), [(HEAD + b'[{"id": 7', "IncompleteRead"), (b"SSH-2.0-OpenSSH_9.2\r\n", "SSH-2.0"), (b"", "closed")]
)
def test_a_server_that_was_killed_while_it_answered_and_one_of_another_kind_do_not_answer(
    text: bytes, why: str
) -> None:
    with answering(text) as address, pytest.raises(Unanswered, match=f"does not answer .*{why}"):
        Server(address).ask("flow_runs/filter", {})


def test_an_address_where_another_kind_of_server_answers_is_refused_with_its_words() -> None:
    with answering(b"SSH-2.0-OpenSSH_9.2\r\n") as address:
        assert "SSH-2.0" in str(orchestrator._ask(address))


def test_only_names_of_runs_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr(Server, "ask", lambda self, path, query=None: asked.append(query) or [])
    server, run = Server("http://127.0.0.1:9/api"), "609b5d86-0000-4000-8000-0123456789ab"
    assert server.runs_of([f".{run}.old", "manual"]) == []
    assert asked == [], "Prefect refuses a question with such a name, the runs beside it too"
    server.runs_of([f".{run}.old", run])
    assert [query["flow_runs"] for query in asked] == [{"id": {"any_": [run]}}]  # type: ignore[index]


def test_the_last_run_of_a_tag_is_one_question_however_long_the_history_is(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def ask(_: Server, path: str, query: object = None) -> object:
        asked.append(query or path)
        row = {"id": "1", "name": "canary", "flow_id": "f", "tags": ["canary"], "state_type": "COMPLETED"}
        return [row] if path == "flow_runs/filter" else {"name": "experiment"}

    monkeypatch.setattr(Server, "ask", ask)
    last = Server("http://127.0.0.1:9/api").last("canary", ["COMPLETED"])
    assert last is not None
    assert (last.flow, last.name) == ("experiment", "canary")
    which = {"tags": {"all_": ["canary"]}, "state": {"type": {"any_": ["COMPLETED"]}}}
    assert asked == [{"flow_runs": which, "sort": "END_TIME_DESC", "limit": 1, "offset": 0}, "flows/f"]
