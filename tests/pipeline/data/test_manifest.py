from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.data import manifest
from pipeline.errors import InputError


def row(number: int, **changes: Any) -> dict[str, Any]:
    values = {
        "video_id": f"v{number:06d}",
        "path": f"train/a class's [name]/v{number:06d}.mp4",
        "split": ("train", "val", "test")[number % 3],
        "splits": "train",
        "label": number % 400,
        "label_name": f"class {number % 400}",
        "source": "folder",
        "sha256": f"{number:064x}",
        "bytes": number,
        "frames_declared": 300,
        "frames_decoded": 300,
        "fps": 29.97,
        "width": 340,
        "height": 256,
        "rotation": 0,
        "reader": "pyav",
        "jumps": "",
        "repeated_run": 1,
        "status": "ok" if number % 10 else "quarantined",
        "reason": "" if number % 10 else "too_short",
    }
    return values | changes


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    rows = [row(number) for number in range(30)]
    manifest.save(manifest.from_rows(rows), tmp_path / "m.parquet")
    assert manifest.load(tmp_path / "m.parquet", status=None).to_pylist() == rows


def test_rows_are_filtered_by_split_and_status(tmp_path: Path) -> None:
    manifest.save(manifest.from_rows([row(number) for number in range(60)]), tmp_path / "m.parquet")
    train = manifest.load(tmp_path / "m.parquet", columns=["video_id", "label"], split="train")
    assert train.column_names == ["video_id", "label"]
    assert train.num_rows == 18
    assert manifest.load(tmp_path / "m.parquet", status="quarantined").num_rows == 6


def test_the_same_videos_give_the_same_bytes_in_any_order(tmp_path: Path) -> None:
    rows = [row(number) for number in range(50)]
    manifest.save(manifest.from_rows(rows), tmp_path / "a.parquet")
    manifest.save(manifest.from_rows(rows[::-1]), tmp_path / "b.parquet")
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_counts_are_by_split_and_status() -> None:
    counts = manifest.counts(manifest.from_rows([row(number) for number in range(60)]))
    assert counts["train"] == {"ok": 18, "quarantined": 2}


def test_unusable_files_and_columns_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="everest download"):
        manifest.load(tmp_path / "none.parquet")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(InputError, match="not a readable manifest"):
        manifest.load(tmp_path / "bad.parquet")
    with pytest.raises(InputError, match="no column title"):
        manifest.load(tmp_path / "bad.parquet", columns=["title"])
    with pytest.raises(InputError, match="reason"):
        manifest.save(manifest.from_rows([row(1)]).drop_columns(["reason"]), tmp_path / "m.parquet")


def test_every_flipped_byte_of_a_manifest_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.parquet"
    manifest.save(manifest.from_rows([row(number) for number in range(6)]), path)
    content = path.read_bytes()
    for place in range(0, len(content), 40):
        path.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        with pytest.raises(InputError, match=r"m\.parquet is (damaged|no table|not a readable).*everest download`"):
            manifest.load(path, ["video_id"], split="train")


def test_a_manifest_of_a_former_version_is_read_without_a_checksum_but_one_of_today_is_not(tmp_path: Path) -> None:
    path = tmp_path / "m.parquet"
    table = manifest.from_rows([row(number) for number in range(6)])
    pq.write_table(table.drop_columns(["jumps"]), path)
    assert set(manifest.load(path, status=None)["reader"].to_pylist()) == {"pyav"}
    pq.write_table(table, path)
    with pytest.raises(InputError, match=r"is no table with a checksum.*Cure: run `everest download`"):
        manifest.load(path)


def printed(code: str, table: Path) -> str:
    """What a process of its own prints that has imported what reads the table."""
    imports = (
        "import sys, pyarrow.parquet, pyarrow.dataset; from pathlib import Path; from pipeline.data import manifest"
    )
    command = [sys.executable, "-c", f"{imports}\n{code}", str(table)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_240_000_rows_load_within_a_second_and_300_mib(tmp_path: Path) -> None:
    small = manifest.from_rows([row(number) for number in range(24_000)])
    names = pa.array([f"v{number:06d}" for number in range(240_000)])
    large = pa.concat_tables([small] * 10)
    for column in ("video_id", "path", "sha256"):
        large = large.set_column(large.schema.get_field_index(column), column, names)
    manifest.save(large, tmp_path / "m.parquet")
    code = (
        "import re, time\n"
        "start = time.process_time(); table = manifest.load(Path(sys.argv[1]))\n"
        "seconds = time.process_time() - start\n"
        "peak = re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1]\n"
        "print(table.num_rows, seconds, int(peak) / 1024)"
    )
    rows, seconds, mib = printed(code, tmp_path / "m.parquet").split()
    assert int(rows) == 216_000
    assert float(seconds) <= 1.0
    assert float(mib) <= 300.0


def test_a_process_that_read_a_table_ends_well(tmp_path: Path) -> None:
    # Arrow's threads may hold the table's bytes while the interpreter ends: with bytes of Python's own, a quarter of
    # these processes aborted (SIGABRT) after all their work.
    manifest.save(manifest.from_rows([row(number) for number in range(50_000)]), tmp_path / "m.parquet")
    code = (
        "import os\n"
        "ended = []\n"
        "while len(ended) < 30:\n"
        "    child = os.fork()\n"
        "    if child == 0:\n"
        "        manifest.load(Path(sys.argv[1]))\n"
        "        break\n"
        "    ended.append(os.waitpid(child, 0)[1])\n"
        "else:\n"
        "    print(sum(status != 0 for status in ended))\n"
    )
    assert int(printed(code, tmp_path / "m.parquet")) == 0
