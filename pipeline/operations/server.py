"""Prefect's server, asked over HTTP: importing its own client takes seconds."""

from __future__ import annotations

import http.client
import json
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from datetime import datetime

from pipeline.errors import EverestError
from pipeline.preflight import orchestrator
from pipeline.system.redact import redact

#: [s] for one answer; a busy SQLite says 503, and is asked again so often.
ANSWER_SECONDS, ATTEMPTS = 15.0, 5
PAGE = 200
#: [s] between two sentences of whoever waits for it.
SAY_SECONDS = 60.0
#: [s] from now on, within which a scheduled run belongs to the queue.
SOON_SECONDS = 3600.0
ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class Unanswered(EverestError):
    """The server is away, or its database is."""


@dataclass(frozen=True)
class Run:
    """A flow run as its page shows it; times in seconds since 1970, None where it has none."""

    id: str
    name: str
    type: str
    state: str
    message: str
    flow: str
    submitted: float | None
    expected: float | None
    started: float | None
    ended: float | None
    tags: tuple[str, ...]
    turn: str
    pool: str

    @property
    def going(self) -> bool:
        """Whether it has not ended: it runs, waits or is to go on later."""
        return self.type not in ENDED

    def in_queue(self, now: float) -> bool:
        """Whether it is going and is not scheduled for a later time, as a nightly one is."""
        return self.going and (self.type != "SCHEDULED" or (self.expected or 0) < now + SOON_SECONDS)


class Server:
    """The server that PREFECT_API_URL names, as Prefect itself would find it."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")

    @classmethod
    def found(cls) -> Server | None:
        """The server of this project; None where flows use the embedded one."""
        address = orchestrator.address()
        return cls(address.value) if address else None

    def ask(self, path: str, query: object = None, method: str | None = None) -> object:
        """One answer, parsed; None where it has no body.

        Raises:
            Unanswered: the server does not answer, or cannot now.
            EverestError: it refuses.
        """
        question = orchestrator.request(self.url, path, query, method)
        for attempt in range(ATTEMPTS):
            try:
                with urllib.request.urlopen(question, timeout=ANSWER_SECONDS) as answer:
                    text = answer.read()
                return json.loads(text) if text else None
            except urllib.error.HTTPError as error:
                if error.code == 503 and attempt < ATTEMPTS - 1:
                    time.sleep(1)
                    continue
                kind = Unanswered if error.code >= 500 else EverestError
                why = f"answers {error.code} to {path}"
            except (OSError, ValueError, http.client.HTTPException) as error:  # the last one: killed while it answers
                kind, why = Unanswered, f"does not answer ({getattr(error, 'reason', None) or error})"
            raise kind(
                redact(f"Prefect's server at {self.url} {why}. Cure: start it (`make ui`), or mend PREFECT_API_URL.")
            )
        raise AssertionError("the last attempt raises")

    def runs(self, types: Collection[str]) -> list[Run]:
        """All flow runs whose state is of one of these types, the oldest first."""
        return list(self._runs({"state": {"type": {"any_": list(types)}}}))

    def last(self, tag: str, types: Collection[str]) -> Run | None:
        """The flow run with this tag that ended last, in one of these types of states."""
        which: dict[str, object] = {"tags": {"all_": [tag]}, "state": {"type": {"any_": list(types)}}}
        return next(self._runs(which, "END_TIME_DESC", limit=1), None)

    def wait(
        self,
        path: str,
        stopped: Callable[[], object],
        tell: Callable[[str], None],
        pause: Callable[[], object],
        query: object = None,
    ) -> None:
        """Ask until an answer comes or `stopped` says so; `tell` hears at first, and then each minute, why it waits.

        Raises:
            EverestError: it answers, and refuses us: no waiting helps.
        """
        said = -SAY_SECONDS
        while not stopped():
            try:
                self.ask(path, query)
                return
            except Unanswered as error:
                if time.monotonic() - said >= SAY_SECONDS:
                    said = time.monotonic()
                    tell(str(error))
            pause()

    def runs_of(self, identities: Collection[str]) -> list[Run]:
        """Those of these runs that the server knows; a name of another form, which it refuses, is of none."""
        known = [identity for identity in identities if _UUID.fullmatch(identity)]
        return list(self._runs({"id": {"any_": known}})) if known else []

    def _runs(
        self, which: dict[str, object], sort: str = "EXPECTED_START_TIME_ASC", limit: int = PAGE
    ) -> Iterator[Run]:
        names: dict[str, str] = {}
        offset = 0
        while True:
            query = {"flow_runs": which, "sort": sort, "limit": limit, "offset": offset}
            page = rows(self.ask("flow_runs/filter", query))
            for row in page:
                flow = str(row["flow_id"])
                if flow not in names:
                    names[flow] = str(record(self.ask(f"flows/{flow}"))["name"])
                yield _run(row, names[flow])
            if len(page) < limit:
                return
            offset += limit

    def delete_run(self, identity: str) -> None:
        """Take a flow run, with its task runs and logs, out of the history."""
        self.ask(f"flow_runs/{identity}", method="DELETE")

    def slots(self, limit: str) -> tuple[int, int] | None:
        """(taken, all) of a limit; None where the server has no such limit."""
        for row in rows(self.ask("v2/concurrency_limits/filter", {"limit": PAGE})):
            if row["name"] == limit:
                return int(str(row["active_slots"])), int(str(row["limit"]))
        return None

    def workers(self, pool: str) -> list[tuple[str, bool]]:
        """(name, whether it gives signs of life) of a pool's workers."""
        try:
            answer = self.ask(f"work_pools/{pool}/workers/filter", {"limit": PAGE})
        except EverestError as error:
            if "answers 404" in str(error):
                return []
            raise
        return [(str(row["name"]), row["status"] == "ONLINE") for row in rows(answer)]

    def version(self) -> str:
        return str(self.ask("admin/version"))

    def keeps_leases(self) -> bool:
        """Whether who has a slot outlives a restart of the server."""
        settings = record(self.ask("admin/settings"))
        storage = str(record(record(settings.get("server")).get("concurrency")).get("lease_storage"))
        return not storage.endswith(".memory")


def record(value: object) -> dict[str, object]:
    """An answer that is an object; empty for anything else."""
    return value if isinstance(value, dict) else {}


def rows(value: object) -> list[dict[str, object]]:
    """An answer that is a list of objects."""
    return [record(row) for row in value] if isinstance(value, list) else []


def _run(row: dict[str, object], flow: str) -> Run:
    state, labels = record(row.get("state")), record(row.get("labels"))
    tags = row.get("tags")
    return Run(
        id=str(row["id"]),
        name=str(row["name"]),
        type=str(row.get("state_type")),
        state=str(row.get("state_name")),
        message=str(state.get("message") or ""),
        flow=flow,
        submitted=moment(row.get("created")),
        expected=moment(row.get("expected_start_time")),
        started=moment(row.get("start_time")),
        ended=moment(row.get("end_time")),
        tags=tuple(map(str, tags)) if isinstance(tags, list) else (),
        turn=str(labels.get("everest.turn") or ""),
        pool=str(row.get("work_pool_name") or ""),
    )


def moment(text: object) -> float | None:
    """[s since 1970] A time as Prefect writes it; None where there is none."""
    return datetime.fromisoformat(str(text)).timestamp() if text else None
