"""Who may talk to Prefect's server: people of this machine, not pages of other sites."""

from __future__ import annotations

import pytest

from flows.server import LOOPBACK, SameSite, allowed_hosts


async def _nothing(*_: object) -> None:
    return


def admits(host: str | None, origin: str | None = None, more: tuple[str, ...] = ()) -> bool:
    headers = {b"host": host.encode()} if host is not None else {}
    if origin is not None:
        headers[b"origin"] = origin.encode()
    return SameSite(_nothing, frozenset([*LOOPBACK, *more])).admits(headers)


@pytest.mark.parametrize("host", ["127.0.0.1:4200", "localhost:4200", "localhost", "LOCALHOST:80", "[::1]:4200"])
def test_names_of_this_machine_are_served(host: str) -> None:
    assert admits(host)
    assert admits(host, "http://localhost:4200")


@pytest.mark.parametrize(
    "host",
    [None, "", "evil.example", "127.0.0.1.evil.example", "localhost.evil.example:4200", "evil.example@localhost.x",
     "192.168.0.1:4200", "0.0.0.0:4200", "localhost:4200.evil.example", "[::2]:4200"],
)  # fmt: skip
def test_other_names_are_refused(host: str | None) -> None:
    assert not admits(host)


@pytest.mark.parametrize("origin", ["http://evil.example", "https://localhost.evil.example", "null", "", "file://"])
def test_pages_of_other_sites_are_refused(origin: str) -> None:
    assert not admits("localhost:4200", origin)


def test_more_names_are_added_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVEREST_ALLOWED_HOSTS", "Prefect, gpu-box.lab")
    assert allowed_hosts() == {*LOOPBACK, "prefect", "gpu-box.lab"}
    monkeypatch.delenv("EVEREST_ALLOWED_HOSTS")
    assert allowed_hosts() == set(LOOPBACK)
