"""The spool: records survive crashes, many writers, and carry no secrets."""

from __future__ import annotations

import math
import multiprocessing
import resource
import signal
from pathlib import Path

import pytest

from pipeline.system.disk import DiskFullError
from pipeline.system.redact import redact, redact_value
from pipeline.tracking.folder import RunFolder
from pipeline.tracking.spool import Spool, read_records


def test_what_is_written_is_read_back_in_order(tmp_path: Path) -> None:
    with Spool(tmp_path / "spool.jsonl") as spool:
        for step in range(5):
            spool.metrics({"train/loss": 1.0 / (step + 1)}, step)
    records, offset = read_records(spool.path)
    assert [r["s"] for r in records] == [0, 1, 2, 3, 4]
    assert records[3]["v"] == {"train/loss": 0.25}
    assert offset == spool.path.stat().st_size
    assert read_records(spool.path, offset) == ([], offset)


def test_nan_and_infinities_are_left_out(tmp_path: Path) -> None:
    with Spool(tmp_path / "spool.jsonl") as spool:
        spool.metrics({"a": math.nan, "b": math.inf, "c": 2.0}, 1)
        spool.metrics({"a": math.nan}, 2)
    records, _ = read_records(spool.path)
    assert [r["v"] for r in records] == [{"c": 2.0}]


def test_a_line_torn_by_a_crash_spoils_no_other(tmp_path: Path) -> None:
    path = tmp_path / "spool.jsonl"
    with Spool(path) as spool:
        spool.metrics({"a": 1.0}, 1)
    with path.open("a") as file:
        file.write('{"k": "m", "v"')
    records, offset = read_records(path)
    assert len(records) == 1, "an unfinished line may still be growing"
    with Spool(path) as spool:
        spool.metrics({"a": 2.0}, 2)
    later, _ = read_records(path, offset)
    assert [r["v"] for r in later if r] == [{"a": 2.0}]


def test_a_record_that_a_full_disk_cuts_is_an_error_and_spoils_no_other(tmp_path: Path) -> None:
    path, before = tmp_path / "spool.jsonl", resource.getrlimit(resource.RLIMIT_FSIZE)
    with Spool(path) as spool:
        spool.metrics({"a": 1.0}, 1)
        ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 20, before[1]))
        try:
            with pytest.raises(DiskFullError, match=r"spool\.jsonl"):
                spool.metrics({"a": 2.0}, 2)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            signal.signal(signal.SIGXFSZ, ignored)
        spool.metrics({"a": 3.0}, 3)
        spool.metrics({"a": 4.0}, 4)
    assert [record["s"] for record in read_records(path)[0]] == [1, 3, 4]


def test_processes_that_share_a_spool_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "spool.jsonl"
    writers = [multiprocessing.Process(target=_write_many, args=(path, f"m{i}")) for i in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    records, _ = read_records(path, limit=10_000)
    for i in range(3):
        assert [r["s"] for r in records if f"m{i}" in r["v"]] == list(range(200))


def _write_many(path: Path, name: str) -> None:
    with Spool(path) as spool:
        for step in range(200):
            spool.metrics({name: float(step)}, step)


def test_a_kept_file_survives_its_source(tmp_path: Path) -> None:
    picture = tmp_path / "a.png"
    picture.write_bytes(b"1234")
    with Spool(tmp_path / "run" / "spool.jsonl") as spool:
        spool.artifact(picture, "pictures")
    picture.unlink()
    record = read_records(spool.path)[0][0]
    assert (spool.path.parent / record["path"]).read_bytes() == b"1234"
    assert record["folder"] == "pictures"


def test_a_missing_file_is_refused_at_once(tmp_path: Path) -> None:
    with Spool(tmp_path / "spool.jsonl") as spool, pytest.raises(FileNotFoundError, match=r"no.png"):
        spool.artifact(tmp_path / "no.png")


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("get https://user:hunter22@host/x", "hunter22"),
        ("https://host/video.mp4?X-Amz-Signature=abcdef0123", "abcdef0123"),
        ("Authorization: Bearer eyJhbGciOi", "eyJhbGciOi"),
        ("key AKIAABCDEFGHIJKLMNOP", "AKIAABCDEFGHIJKLMNOP"),
        ("aws_secret_access_key=zzTopSecret", "zzTopSecret"),
    ],
)
def test_secrets_are_hidden_in_texts(text: str, secret: str) -> None:
    assert secret not in redact(text)


def test_secret_variables_are_hidden_by_value_and_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_API_TOKEN", "tok-998877")
    assert redact("failed with tok-998877 given") == "failed with [hidden] given"
    assert redact_value("source.password", "abc") == "[hidden]"
    assert redact_value("data.path", "/videos") == "/videos"
    with Spool(tmp_path / "spool.jsonl") as spool:
        spool.params({"source.token": "abc", "note": "tok-998877", "keep_ratio": 0.3, "none": None})
    assert read_records(spool.path)[0][0]["v"] == {
        "source.token": "[hidden]",
        "note": "[hidden]",
        "keep_ratio": "0.3",
        "none": "null",
    }


def test_a_run_that_another_process_has_sent_and_removed_is_passed_over(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "gone").upload_lock() as mine:
        assert not mine
