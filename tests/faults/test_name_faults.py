"""Row 30: names that hold anything are shown and stored as they are, or refused; no output is lost."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.system.csv_files import guarded, unguarded
from pipeline.system.text import markdown, original, printable, storable

pytestmark = pytest.mark.slow
#: What a name is drawn from: markup, formulas, escapes, marks, and bytes that are no text.
PARTS = [b"a", b" ", b"[", b"]", b"[b]", b":car:", b"=", b"+", b"-", b"@", b"'", b"|", b"`", b"<i>", b"$", b"{", b"%s",
         b"\\", b"\\xff", b"\n", b"\r", b"\t", b"\x1b[2J", b"\x07", b"\xff", b"\xe9",
         "\u202e".encode(), "\xe9".encode(),
         "\u2028".encode(), "\x9b".encode()]  # fmt: skip


def test_no_drawn_name_loses_an_output(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record: Callable[..., None]
) -> None:
    rng = random.Random(30)
    drawn = sorted({os.fsdecode(b"".join(rng.choices(PARTS, k=rng.randint(1, 12)))) for _ in range(400)})
    folder = tmp_path / "videos"
    for name in drawn:
        (folder / name[:1] / f"_{name}.mp4").parent.mkdir(parents=True, exist_ok=True)
        (folder / name[:1] / f"_{name}.mp4").write_text("no video " * 30)
    paths = [f"{name[:1]}/_{name}.mp4" for name in drawn]
    (tmp_path / "params.yaml").write_text((root / "params.yaml").read_text())
    monkeypatch.chdir(tmp_path)
    as_json = CliRunner().invoke(app, ["ingest", str(folder), "--json"])
    table = CliRunner().invoke(app, ["ingest", str(folder)])
    named = {row["path"] for row in json.loads(as_json.stdout)["quarantined"]} if as_json.exit_code == 0 else set()
    lines = table.stdout.split("\n")
    bad = sum(
        storable(path) not in named
        or not any(line.lstrip().startswith(printable(path).lstrip()) for line in lines)
        or original(printable(path)) != path
        or unguarded(guarded(path)) != storable(path)
        or "\n" in markdown(path)
        for path in paths
    )
    bad += any(character in table.stdout for character in "\x1b\x07\r\u202e\x9b")
    record(30, "names of files: markup, formulas, escapes, not UTF-8", len(paths), bad)
