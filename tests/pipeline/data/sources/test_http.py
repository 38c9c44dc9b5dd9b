from __future__ import annotations

import logging
import multiprocessing
import re
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fault_server import Site, serve

from pipeline.data.sources.part import Address, Patience, RemoteFile
from pipeline.data.sources.transfer import Downloader
from pipeline.errors import EverestError, InputError
from pipeline.system.files import sha256_of

CONTENT = np.random.default_rng(0).bytes(300_000)
QUICK = Patience(timeout_seconds=2, attempts=4, backoff_seconds=0.02, min_rate=4000, window_seconds=0.3)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "a.bin").write_bytes(CONTENT)
    with serve(folder) as running:
        yield running


def fetch(site: Site, into: Path, **address: Any) -> bytes:
    file = RemoteFile("a.bin", (Address(f"{site.url}/a.bin", **address),))
    return Downloader(into, patience=QUICK).fetch([file])[0].read_bytes()


def fault(site: Site, *faults: dict[str, Any]) -> None:
    site.faults["/a.bin"].extend(faults)


def test_a_file_arrives_whole_with_its_hash_recorded(site: Site, tmp_path: Path) -> None:
    assert fetch(site, tmp_path / "raw") == CONTENT
    (record,) = (tmp_path / "raw/.everest/fetched").iterdir()
    assert sha256_of(tmp_path / "raw/a.bin") in record.read_text()


def test_nothing_is_fetched_twice(site: Site, tmp_path: Path) -> None:
    fetch(site, tmp_path / "raw")
    before = len(site.requests)
    fetch(site, tmp_path / "raw")
    assert len(site.requests) == before


def test_dropped_connections_are_resumed_where_they_broke(site: Site, tmp_path: Path) -> None:
    fault(site, {"drop_after": 100_000}, {"drop_after": 100_000})
    assert fetch(site, tmp_path / "raw") == CONTENT
    ranges = [headers.get("range") for headers in site.gets("/a.bin")]
    assert ranges[0] is None
    assert all(later and later != "bytes=0-" for later in ranges[1:])


def test_a_server_that_ignores_the_range_starts_the_file_over(site: Site, tmp_path: Path) -> None:
    fault(site, {"drop_after": 100_000}, {"ignore_range": True})
    assert fetch(site, tmp_path / "raw") == CONTENT


@pytest.mark.parametrize("honest", [True, False])
def test_a_file_that_changes_meanwhile_is_never_mixed(site: Site, tmp_path: Path, honest: bool) -> None:
    other = np.random.default_rng(1).bytes(300_000)
    fault(site, {"drop_after": 100_000}, {"replace": other, "ignore_condition": not honest})
    assert fetch(site, tmp_path / "raw") == other


def test_a_server_without_validators_is_never_resumed(site: Site, tmp_path: Path) -> None:
    site.etags = False
    fault(site, {"drop_after": 100_000})
    assert fetch(site, tmp_path / "raw") == CONTENT
    assert [headers.get("range") for headers in site.gets("/a.bin")] == [None, None]


def test_a_range_that_starts_elsewhere_is_dropped(site: Site, tmp_path: Path) -> None:
    fault(site, {"drop_after": 100_000}, {"shift": 500})
    assert fetch(site, tmp_path / "raw") == CONTENT


def test_an_unsatisfiable_range_starts_over(site: Site, tmp_path: Path) -> None:
    fault(site, {"drop_after": 200_000}, {"replace": CONTENT[:1000], "ignore_condition": True})
    assert fetch(site, tmp_path / "raw") == CONTENT[:1000]


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_server_is_asked_again_when_it_says(site: Site, tmp_path: Path, status: int) -> None:
    fault(site, {"status": status, "headers": {"Retry-After": "1"}})
    started = time.monotonic()
    assert fetch(site, tmp_path / "raw") == CONTENT
    assert 1.0 <= time.monotonic() - started < 10


def test_a_slow_drip_is_cut_off_and_tried_anew(site: Site, tmp_path: Path) -> None:
    fault(site, {"drip": 0.05})
    started = time.monotonic()
    assert fetch(site, tmp_path / "raw") == CONTENT
    assert time.monotonic() - started < 20  # the drip would have taken 1500 s


def test_an_encoded_body_is_decoded(site: Site, tmp_path: Path) -> None:
    fault(site, {"gzip": True})
    assert fetch(site, tmp_path / "raw") == CONTENT


def test_an_encoded_body_that_breaks_is_fetched_from_its_start(site: Site, tmp_path: Path) -> None:
    fault(site, {"gzip": True, "drop_after": 100_000})
    assert fetch(site, tmp_path / "raw") == CONTENT
    assert [headers.get("range") for headers in site.gets("/a.bin")] == [None, None]


def test_a_flipped_byte_is_noticed_by_the_checksum(site: Site, tmp_path: Path) -> None:
    digest = sha256_of(site.folder / "a.bin")
    fault(site, {"flip": 1234})
    assert fetch(site, tmp_path / "raw", sha256=digest) == CONTENT
    fault(site, *[{"flip": 1}] * 9)
    with pytest.raises(EverestError, match="sha256 is"):
        fetch(site, tmp_path / "other", sha256=digest)
    assert not (tmp_path / "other/a.bin").exists()


def test_the_next_mirror_is_tried(site: Site, tmp_path: Path) -> None:
    addresses = (
        Address("http://127.0.0.1:9/a.bin"),
        Address(f"{site.url}/no.bin"),
        Address(f"{site.url}/a.bin"),
    )
    downloader = Downloader(tmp_path / "raw", patience=QUICK)
    assert downloader.fetch([RemoteFile("a.bin", addresses)])[0].read_bytes() == CONTENT


def test_a_file_that_is_nowhere_is_named_with_every_address(site: Site, tmp_path: Path) -> None:
    addresses = (Address(f"{site.url}/x.bin?key=SECRET"), Address("http://user:SECRET@127.0.0.1:9/y.bin"))
    with pytest.raises(EverestError, match="by hand") as caught:
        Downloader(tmp_path / "raw", patience=QUICK).fetch([RemoteFile("x.bin", addresses)])
    assert "/x.bin" in str(caught.value)
    assert "/y.bin" in str(caught.value)
    assert "SECRET" not in str(caught.value)


def test_no_secret_of_an_address_is_logged_or_kept(
    site: Site, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    fault(site, {"drop_after": 1000}, {"status": 503})
    file = RemoteFile("a.bin", (Address(f"{site.url}/a.bin?X-Amz-Signature=SECRET"),))
    Downloader(tmp_path / "raw", patience=QUICK).fetch([file])
    assert "SECRET" not in caplog.text
    assert "a.bin" in caplog.text
    kept = "".join(path.read_text() for path in (tmp_path / "raw/.everest").rglob("*.json"))
    assert "SECRET" not in kept


def test_files_come_in_parallel_and_keep_their_order(site: Site, tmp_path: Path) -> None:
    names = [f"{number} [x] #%25 'q'.bin" for number in range(12)]
    for number, name in enumerate(names):
        (site.folder / name).write_bytes(CONTENT[: 1000 * number])
    from urllib.parse import quote

    files = [RemoteFile(f"sub/{name}", (Address(f"{site.url}/{quote(name)}"),)) for name in names]
    paths = Downloader(tmp_path / "raw", patience=QUICK).fetch(files)
    assert [path.stat().st_size for path in paths] == [1000 * number for number in range(12)]


def test_the_bandwidth_cap_is_kept(site: Site, tmp_path: Path) -> None:
    file = RemoteFile("a.bin", (Address(f"{site.url}/a.bin"),))
    started = time.monotonic()
    Downloader(tmp_path / "raw", patience=QUICK, max_rate=200_000).fetch([file])
    assert time.monotonic() - started >= 1.4


def test_a_person_sees_bytes_files_rate_and_time_left(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("pipeline.system.progress.wanted", lambda: True)
    files = [RemoteFile(f"{number}.bin", (Address(f"{site.url}/a.bin"),)) for number in range(2)]
    Downloader(tmp_path / "raw", patience=QUICK, max_rate=3_000_000).fetch(files)
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", capsys.readouterr().err)
    assert "fetching, 0 of 2 files" in shown
    assert re.search(r"\d\.\d\d of \d\.\d\d GB, \d+\.\d MB/s, \d:\d\d left", shown)


def test_a_wrong_cap_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVEREST_MAX_MIB_PER_SECOND", "fast")
    with pytest.raises(InputError, match="EVEREST_MAX_MIB_PER_SECOND = 'fast'"):
        Downloader(tmp_path)


def test_a_plan_tells_sizes_and_fetches_nothing(site: Site, tmp_path: Path) -> None:
    file = RemoteFile("a.bin", (Address(f"{site.url}/a.bin?key=SECRET"),))
    (planned,) = Downloader(tmp_path / "raw", patience=QUICK).plan([file])
    assert (planned.bytes, planned.present, planned.url) == (300_000, False, f"{site.url}/a.bin")
    assert not (tmp_path / "raw").exists()


def test_a_download_larger_than_the_disk_is_not_started(site: Site, tmp_path: Path) -> None:
    file = RemoteFile("a.bin", (Address(f"{site.url}/untold.bin"),), bytes=10**18)  # what the catalogue says
    with pytest.raises(EverestError, match="GiB are free"):
        Downloader(tmp_path / "raw", patience=QUICK).fetch([file])
    assert site.gets("/a.bin") == []


def _fetch_in_process(url: str, into: str) -> None:
    file = RemoteFile("a.bin", (Address(f"{url}/a.bin"),))
    Downloader(Path(into), patience=QUICK, max_rate=1_000_000).fetch([file])


def test_two_processes_fetch_a_file_once(site: Site, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    both = [context.Process(target=_fetch_in_process, args=(site.url, str(tmp_path / "raw"))) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(60)
    assert [process.exitcode for process in both] == [0, 0]
    assert (tmp_path / "raw/a.bin").read_bytes() == CONTENT
    assert len(site.gets("/a.bin")) == 1


def kill_while_fetching(site: Site, raw: Path, after: float) -> None:
    code = (
        "import sys; sys.path[:0] = sys.argv[3:]; from pathlib import Path\n"
        "from pipeline.data.sources.transfer import *\n"
        "file = RemoteFile('a.bin', (Address(sys.argv[1] + '/a.bin'),))\n"
        "print('go', flush=True)\n"
        "Downloader(Path(sys.argv[2]), max_rate=600_000).fetch([file])"
    )
    command = [sys.executable, "-c", code, site.url, str(raw), *sys.path]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(after)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()


def check_no_partial(site: Site, raw: Path, trials: int) -> None:
    rng = np.random.default_rng(0)
    for _ in range(trials):
        kill_while_fetching(site, raw, rng.uniform(0.0, 0.5))
        assert not (raw / "a.bin").exists() or (raw / "a.bin").read_bytes() == CONTENT
    assert fetch(site, raw) == CONTENT


def test_a_killed_download_leaves_nothing_partial_and_is_continued(site: Site, tmp_path: Path) -> None:
    check_no_partial(site, tmp_path / "raw", trials=3)


@pytest.mark.slow
def test_fifty_kills_leave_no_partial_file(site: Site, tmp_path: Path) -> None:
    for trial in range(10):
        check_no_partial(site, tmp_path / f"raw{trial}", trials=5)


def test_an_unverifiable_certificate_is_never_accepted(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    made = subprocess.run(
        [
            *(
                "openssl",
                "req",
                "-x509",
                "-newkey",
                "rsa:2048",
                "-nodes",
                "-days",
                "2",
                "-subj",
                "/CN=localhost",
            ),
            *("-keyout", str(key), "-out", str(certificate)),
        ],
        capture_output=True,
        check=False,
    )
    if made.returncode:
        pytest.skip("needs openssl to make a certificate")
    server = HTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        address = Address(f"https://localhost:{server.server_address[1]}/README.md")
        with pytest.raises(EverestError, match=r"certificate cannot be verified .* by hand, verify it and put it"):
            Downloader(tmp_path / "raw", patience=QUICK).fetch([RemoteFile("x", (address,))])
    finally:
        server.shutdown()
        server.server_close()
