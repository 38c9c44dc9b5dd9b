"""Rows 11 to 18 and 21 of the faults that the data path survives."""

from __future__ import annotations

import io
import itertools
import logging
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pytest
import sample_videos
from fault_server import Site, serve
from moto.server import ThreadedMotoServer
from rar_writer import entries_of, rar4, rar5

from pipeline.data.archives.rar import available_tools
from pipeline.data.archives.rules import Caps, HostileArchive
from pipeline.data.archives.unpack import unpack
from pipeline.data.ingest.ingest import ingest
from pipeline.data.ingest.rows import manifest_rows
from pipeline.data.ingest.verdicts import verdict
from pipeline.data.sources import ListedVideo, Listing, s3
from pipeline.data.sources.part import Address, Patience, RemoteFile
from pipeline.data.sources.transfer import Downloader
from pipeline.data.video import open_video
from pipeline.errors import EverestError, InputError
from pipeline.params import IngestParams
from tests.pipeline.data.archives import test_rar, test_unpack
from tests.pipeline.data.ingest import test_ingest
from tests.pipeline.data.sources import test_http

pytestmark = pytest.mark.slow
Record = Callable[..., None]
QUICK = Patience(timeout_seconds=2, attempts=5, backoff_seconds=0.01, min_rate=4000, window_seconds=0.3)


@pytest.fixture
def limits() -> IngestParams:
    return IngestParams(
        deadline_seconds=60.0,
        memory_gib=2.0,
        failure_budget=0.02,
        min_frames=16,
        max_repeated_run=64,
        workers=2,
    )


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    (tmp_path / "site").mkdir()
    (tmp_path / "site/a.bin").write_bytes(test_http.CONTENT)
    with serve(tmp_path / "site") as running:
        yield running


def test_bad_videos_get_reasons(tmp_path: Path, limits: IngestParams, record: Record) -> None:
    expected = sample_videos.corpus(tmp_path)
    measured = ingest(tmp_path, list(expected), limits)
    rows, _ = manifest_rows(test_ingest.listing(list(expected)), measured, 1, limits)
    wrong = sum(row["reason"] != expected[row["path"]] for row in rows)
    kinds = len(set(expected.values()) - {""})
    record(11, "a corpus of bad videos", len(rows), wrong, f"{kinds} reasons here (deadline, memory, ... apart)")


def test_mutated_videos_neither_crash_nor_hang(tmp_path: Path, limits: IngestParams, record: Record) -> None:
    rng = np.random.default_rng(0)
    sources = [
        sample_videos.write(tmp_path / "a.mp4", frames=30).read_bytes(),
        sample_videos.write(tmp_path / "b.mkv", frames=30, options={"bf": "0"}).read_bytes(),
        sample_videos.raw_codec(tmp_path / "c.avi", "mpeg4", 64, 30).read_bytes(),
    ]
    names = []
    for trial in range(150):
        content = bytearray(sources[trial % 3])
        first = int(rng.integers(0, len(content)))
        if trial % 2:
            for position in rng.integers(0, len(content), 20):
                content[position] = rng.integers(0, 256)
        else:
            content[first : first + 200] = rng.bytes(len(content[first : first + 200]))
        names.append(f"m{trial}{('.mp4', '.mkv', '.avi')[trial % 3]}")
        (tmp_path / names[-1]).write_bytes(content)
    measured = ingest(tmp_path, names, limits.model_copy(update={"deadline_seconds": 10.0}))
    reasons = [verdict(measured[name], limits) for name in names]
    lost = sum(reason in ("deadline", "crashed", "memory") for reason in reasons) + (len(measured) != 150)
    note = f"{sum(bool(reason) for reason in reasons)} refused, the others decode whole"
    record(11, "randomly damaged mp4, mkv and avi files", 150, lost, note)


def test_a_spinning_decoder_stalls_for_its_deadline_only(
    tmp_path: Path, limits: IngestParams, record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "before").mkdir()
    (tmp_path / "before/av.py").write_text(test_ingest.BAD_AV)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "before"))
    good = [f"good{number}.mp4" for number in range(20)]
    for number, name in enumerate([*good, "spin.mp4"]):
        sample_videos.write(tmp_path / name, seed=number)
    for name in ("greedy.mp4", "crash.mp4"):
        sample_videos.write(tmp_path / name, seed=len(name))
    # The file that spins comes last and alone: all time after its hand-over is stall.
    ingest(tmp_path, [*good, "greedy.mp4", "crash.mp4"], limits)
    started = time.monotonic()
    tight = limits.model_copy(update={"deadline_seconds": 3.0, "workers": 1})
    ready = ingest(tmp_path, ["none.mp4"], tight)  # the cost of starting a process, which is no stall
    starting = time.monotonic() - started
    started = time.monotonic()
    measured = ingest(tmp_path, [*good, "spin.mp4"], tight)
    stall = time.monotonic() - started - starting
    lost = sum(bool(measured[name].reason) for name in good) + (ready["none.mp4"].reason != "missing")
    wrong = lost + (measured["spin.mp4"].reason != "deadline") + (stall > 3.0 + 2.0)
    record(12, "a decoder that spins holding the GIL", 21, wrong, f"stall {stall:.1f} s at a deadline of 3 s")


def test_declared_frames_that_do_not_decode_are_never_scored(
    tmp_path: Path, limits: IngestParams, record: Record
) -> None:
    names = []
    for percent in range(30, 100, 5):
        names.append(f"{percent}.mp4")
        sample_videos.truncated(tmp_path / names[-1], percent / 100, fast_start=True)
    repeated = refused = 0
    for name, result in ingest(tmp_path, names, limits).items():
        if verdict(result, limits):
            refused += 1
            continue
        frames = list(open_video(tmp_path / name, result.reader).all_frames())
        equal = sum(np.array_equal(a, b) for a, b in itertools.pairwise(frames))
        repeated += equal + (len(frames) != result.frames_decoded)
    record(13, "headers that declare more frames than decode", len(names), repeated, f"{refused} refused")


def test_bad_test_videos_are_counted_and_never_replaced(tmp_path: Path, limits: IngestParams, record: Record) -> None:
    names = [sample_videos.write(tmp_path / f"{number}.mp4", seed=number).name for number in range(10)]
    for name in names[::3]:
        (tmp_path / name).write_bytes(b"")
    videos = [ListedVideo(name, name, ("test",), 0, "any", "test") for name in names]
    rows, _ = manifest_rows(Listing(["any"], videos), ingest(tmp_path, names, limits), 1, limits)
    replaced = sum(row["path"] != row["video_id"] for row in rows) + (len(rows) != 10)
    wrong = replaced + (sum(row["reason"] == "empty" for row in rows) != 4)
    record(14, "bad videos in a test split", 10, wrong, "6 ok of 10, substitutions 0")


def test_servers_that_misbehave_never_give_a_wrong_file(tmp_path: Path, site: Site, record: Record) -> None:
    rng = np.random.default_rng(0)
    wrong = 0
    for trial in range(100):
        current = rng.bytes(120_000)
        (site.folder / "a.bin").write_bytes(current)
        for _ in range(int(rng.integers(1, 4))):
            kind = rng.integers(0, 8)
            if kind == 4:
                current = rng.bytes(int(rng.integers(1000, 150_000)))
            fault: dict[str, Any] = [
                {"drop_after": int(rng.integers(0, 120_000))},
                {"drop_after": 60_000, "ignore_range": True},
                {"status": int(rng.choice([429, 503])), "headers": {"Retry-After": "0"}},
                {"gzip": True, "drop_after": 50_000},
                {"replace": current, "ignore_condition": bool(rng.integers(0, 2)), "drop_after": 500},
                {"shift": 100, "drop_after": 40_000},
                {"drip": 0.02},
                {"drop_after": 0},
            ][kind]
            site.faults["/a.bin"].append(fault)
        file = RemoteFile("a.bin", (Address(f"{site.url}/a.bin"),))
        got = Downloader(tmp_path / f"raw{trial}", patience=QUICK).fetch([file])[0].read_bytes()
        wrong += got != (site.folder / "a.bin").read_bytes()  # what the server held in the end
        site.faults.clear()
    record(15, "HTTP: drops, Range ignored, ETag, 416, 429, 503, drips", 100, wrong, "wrong files 0")


def test_s3_objects_with_bad_bytes_are_never_accepted(
    tmp_path: Path, record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    client = boto3.client("s3", region_name="us-east-1")
    client.create_bucket(Bucket="bucket")
    rng = np.random.default_rng(0)
    state: dict[str, Any] = {}
    original = s3.Part.append

    def append(part: s3.Part, block: bytes) -> None:
        kind = state.pop("fault", None)
        if kind == "drop":
            original(part, block[: len(block) // 2])
            raise ConnectionResetError
        if kind == "change":
            original(part, block[:1000])
            state["content"] = rng.bytes(400_000)
            client.put_object(Bucket="bucket", Key="k", Body=state["content"])
            raise ConnectionResetError
        original(part, bytes([block[0] ^ 1]) + block[1:] if kind == "flip" else block)

    monkeypatch.setattr(s3.Part, "append", append)
    wrong = 0
    try:
        for trial in range(30):
            state["content"] = rng.bytes(400_000)
            state["fault"] = ("drop", "change", "flip")[trial % 3]
            client.put_object(Bucket="bucket", Key="k", Body=state["content"])
            file = RemoteFile("k", (Address("s3://bucket/k"),))
            got = Downloader(tmp_path / f"raw{trial}", patience=QUICK).fetch([file])[0].read_bytes()
            wrong += got != state["content"]
    finally:
        server.stop()
    record(16, "S3: dropped parts, ETag changed, flipped bytes", 30, wrong, "accepted bad 0")


def test_kills_leave_nothing_partial_under_a_final_name(tmp_path: Path, site: Site, record: Record) -> None:
    rng = np.random.default_rng(0)
    partial = 0
    for trial in range(25):
        raw = tmp_path / f"raw{trial // 5}"
        test_http.kill_while_fetching(site, raw, rng.uniform(0.0, 0.5))
        partial += (raw / "a.bin").exists() and (raw / "a.bin").read_bytes() != test_http.CONTENT
    archive = tmp_path / "a.tar"
    with tarfile.open(archive, "w") as made:
        for number in range(400):
            member = tarfile.TarInfo(f"{number}.avi")
            member.size = 100_000
            made.addfile(member, io.BytesIO(rng.bytes(100_000)))
    code = (
        "import sys; from pathlib import Path; from pipeline.data.archives.unpack import unpack\n"
        "print('go', flush=True); unpack(Path(sys.argv[1]), Path(sys.argv[2]))"
    )
    for trial in range(25):
        target = tmp_path / f"out{trial}"
        command = [sys.executable, "-c", code, str(archive), str(target)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(rng.uniform(0.0, 0.3))
        process.kill()
        process.wait()
        process.stdout.close()
        partial += target.exists() and len(list(target.iterdir())) != 400
    record(17, "kill -9 in download and extraction", 50, partial, "partial files under a final name 0")


def test_hostile_archives_are_refused(tmp_path: Path, record: Record) -> None:
    accepted = 0
    tars = test_unpack.HOSTILE_TAR
    zips = test_unpack.HOSTILE_ZIP
    for number, change in enumerate([*tars.values(), *zips.values()]):
        folder = tmp_path / str(number)
        folder.mkdir()
        if number < len(tars):
            archive = test_unpack.make_tar(folder / "a.tar", "w", change)
        else:
            archive = test_unpack.make_zip(folder / "a.zip", change)
        try:
            unpack(archive, folder / "out")
            accepted += 1
        except HostileArchive:
            accepted += len(list(folder.rglob("*"))) != 1
    record(18, "hostile tars and zips", len(tars) + len(zips), accepted, "escapes 0")


@pytest.mark.skipif(len(available_tools()) < 2, reason="needs Debian's packages unar libarchive-tools")
def test_hostile_and_damaged_rars_are_refused(tmp_path: Path, record: Record) -> None:
    accepted, trials = 0, 0
    good = entries_of(test_rar.FILES)
    rng = np.random.default_rng(0)
    for write in (rar4, rar5):
        archives = [write([good[0], entry]) for entry in test_rar.HOSTILE.values()]
        damaged = bytearray(write(good))
        start = damaged.index(b"moving pictures")
        for position in rng.integers(start, start + 7500, 10):
            archives.append(bytes(damaged[:position]) + bytes([damaged[position] ^ 1]) + bytes(damaged[position + 1 :]))
            archives.append(bytes(damaged[:position]))
        for content in archives:
            folder = tmp_path / str(trials)
            folder.mkdir()
            (folder / "a.rar").write_bytes(content)
            trials += 1
            try:
                unpack(folder / "a.rar", folder / "out", Caps(bytes=1 << 20))
                accepted += 1
            except InputError:
                accepted += len(list(folder.iterdir())) != 1
    record(18, "hostile, cut and damaged rars, real unar and bsdtar", trials, accepted, "accepted 0")


def test_no_secret_reaches_logs_errors_or_files(
    tmp_path: Path, site: Site, record: Record, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="pipeline")
    leaks = 0
    host = site.url.removeprefix("http://")
    for trial, path in enumerate(("a.bin", "none.bin", "a.bin", "none.bin")):
        secret = f"SECRET{trial}VALUE"
        user = f"user:{secret}@" if trial >= 2 else ""
        address = Address(f"http://{user}{host}/{path}?X-Amz-Signature={secret}")
        site.faults[f"/{path}"].extend([{"drop_after": 1000}, {"status": 503}] if path == "a.bin" else [])
        text = ""
        try:
            Downloader(tmp_path / str(trial), patience=QUICK).fetch([RemoteFile(path, (address,))])
        except EverestError as error:
            text = f"{error!r} {error.__cause__!r}"
        kept = "".join(file.read_text() for file in (tmp_path / str(trial)).rglob("*.json"))
        leaks += secret in caplog.text + text + kept
    record(21, "secrets in addresses: logs, errors, notes", 4, leaks, "leaks 0")
