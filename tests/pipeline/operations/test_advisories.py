"""Planted advisories against a lock file: what they name is found, what they do not is left alone."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.errors import InputError
from pipeline.operations.advisories import affected, check, pins

LOCK = "Jinja2==3.1.2 \\\n    --hash=sha256:00\n    # via x\ntorch==2.15.0+cu132 ; sys_platform == 'linux'\n"


def advisory(name: str, *events: dict[str, str], versions: tuple[str, ...] = (), **more: Any) -> dict[str, Any]:
    spans = [{"type": "ECOSYSTEM", "events": list(events)}] if events else []
    entry = {"package": {"ecosystem": "PyPI", "name": name}, "ranges": spans, "versions": list(versions)}
    return {"id": f"PYSEC-{name}", "summary": f"{name} is broken", "aliases": ["CVE-1"], "affected": [entry], **more}


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    path = tmp_path / "requirements.lock"
    path.write_text(LOCK)
    return path


def test_a_planted_advisory_is_found_with_its_cure(lock: Path, tmp_path: Path) -> None:
    saved = tmp_path / "saved.json"
    saved.write_text(json.dumps([advisory("JINJA2", {"introduced": "0"}, {"fixed": "3.1.3"}), advisory("other")]))
    findings, read = check(lock, saved)
    assert read == 2
    assert [finding.row() for finding in findings] == [
        {"package": "jinja2", "version": "3.1.2", "advisory": "PYSEC-JINJA2", "also": "CVE-1", "fixed in": "3.1.3",
         "summary": "JINJA2 is broken"}
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("events", "versions", "hit"),
    [
        ([{"introduced": "0"}], (), True),
        ([{"introduced": "0"}, {"fixed": "3.1.2"}], (), False),
        ([{"introduced": "3.1.2"}, {"last_affected": "3.1.2"}], (), True),
        ([{"introduced": "3.0"}, {"last_affected": "3.1.1"}], (), False),
        ([{"introduced": "0"}, {"fixed": "2.0"}, {"introduced": "3.1"}, {"fixed": "3.2"}], (), True),
        ([{"fixed": "3.2"}, {"introduced": "3.1.10"}], (), False),  # not by the alphabet, and in any order
        ([], ("3.1.2",), True),
        ([], ("3.1.1", "3.1.20"), False),
    ],
)
def test_ranges_and_lists_of_versions_are_read_as_osv_means_them(
    events: list[dict[str, str]], versions: tuple[str, ...], hit: bool
) -> None:
    assert affected("3.1.2", advisory("x", *events, versions=versions)["affected"][0]) is hit


def test_a_build_of_a_version_is_that_version() -> None:
    assert affected("2.15.0+cu132", advisory("torch", versions=("2.15.0",))["affected"][0])


def test_withdrawn_advisories_and_other_ecosystems_name_nothing_of_ours(lock: Path, tmp_path: Path) -> None:
    saved = tmp_path / "saved.json"
    other = advisory("jinja2", {"introduced": "0"})
    other["affected"][0]["package"]["ecosystem"] = "npm"
    saved.write_text(json.dumps({"vulns": [advisory("jinja2", {"introduced": "0"}, withdrawn="2024-01-01"), other]}))
    assert check(lock, saved) == ([], 1)


def test_a_folder_and_an_archive_of_advisories_are_read(lock: Path, tmp_path: Path) -> None:
    folder = tmp_path / "advisories"
    folder.mkdir()
    (folder / "a.json").write_text(json.dumps(advisory("jinja2", versions=("3.1.2",))))
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.write(folder / "a.json", "a.json")
    assert len(check(lock, folder)[0]) == len(check(lock, tmp_path / "all.zip")[0]) == 1


@pytest.mark.parametrize("text", ["", "[]", '{"a": 1}', "not json", "[1, [2]]"])
def test_what_is_no_advisory_is_refused_rather_than_found_harmless(lock: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "saved.json").write_text(text)
    with pytest.raises(InputError, match=r"saved\.json.*Cure"):
        check(lock, tmp_path / "saved.json")


def test_every_package_of_the_real_lock_is_compared(root: Path) -> None:
    lock = root / "requirements.lock"
    found = [version for versions in pins(lock).values() for version in versions]
    assert len(found) == len([line for line in lock.read_text().splitlines() if "==" in line and line[0].isalpha()])


def test_the_command_ends_with_1_where_something_is_named(root: Path, tmp_path: Path) -> None:
    version = pins(root / "requirements.lock")["torch"][0]
    (tmp_path / "hit.json").write_text(json.dumps(advisory("torch", versions=(version,))))
    (tmp_path / "miss.json").write_text(json.dumps(advisory("torch", versions=("0.1",))))
    lock = ["--lock", str(root / "requirements.lock")]
    hit = CliRunner().invoke(app, ["ops", "advisories", str(tmp_path / "hit.json"), *lock, "--json"])
    assert hit.exit_code == 1
    assert json.loads(hit.stdout)[0]["package"] == "torch"
    miss = CliRunner().invoke(app, ["ops", "advisories", str(tmp_path / "miss.json"), *lock])
    assert miss.exit_code == 0
    assert "of 1 advisory" in miss.stdout
