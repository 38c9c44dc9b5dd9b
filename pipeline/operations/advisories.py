"""Locked versions against known vulnerabilities, from a file that was saved where there is a network.

The format is OSV's (https://ossf.github.io/osv-schema/), which the Python Packaging Advisory Database is published in:
one advisory, a list of them, a folder of JSON files, or the ZIP archive of all
(https://osv-vulnerabilities.storage.googleapis.com/PyPI/all.zip). Nothing is fetched here.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from pipeline.errors import InputError

_PIN = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)(?:\[[^\]]*\])?==([^\s;\\]+)", re.MULTILINE)


@dataclass(frozen=True)
class Finding:
    """A locked version that an advisory names."""

    package: str
    version: str
    advisory: str
    also: str
    fixed_in: str
    summary: str

    def row(self) -> dict[str, str]:
        return {name.replace("_", " "): value for name, value in asdict(self).items()}


def pins(lock: Path) -> dict[str, list[str]]:
    """{normalised name: versions} of a lock file: a package may have another one for each version of Python.

    Raises:
        InputError: no file, or none that pins anything.
    """
    try:
        text = lock.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{lock}: {error}. Cure: a file of requirements such as requirements.lock.") from None
    found: dict[str, list[str]] = {}
    for name, version in _PIN.findall(text):
        found.setdefault(canonicalize_name(name), []).append(version)
    if not found:
        raise InputError(f"{lock} pins no version (name==version). Cure: a file such as requirements.lock.")
    return found


def check(lock: Path, saved: Path) -> tuple[list[Finding], int]:
    """The findings, by package, and how many advisories were read.

    Raises:
        InputError: a file that is missing, holds something else, or has no advisory for PyPI.
    """
    locked = pins(lock)
    findings, count = [], 0
    for advisory in _advisories(saved):
        ours = [entry for entry in _entries(advisory, "affected") if _package(entry)[0] == "PyPI"]
        count += bool(ours)
        if "withdrawn" in advisory:
            continue
        for entry in ours:
            name = canonicalize_name(_package(entry)[1])
            for version in locked.get(name, []):
                if affected(version, entry):
                    also = ", ".join(map(str, _list(advisory, "aliases")))
                    summary = str(advisory.get("summary") or advisory.get("details") or "").split("\n")[0][:200]
                    fixed = ", ".join(sorted({str(event["fixed"]) for event in _events(entry) if "fixed" in event}))
                    findings.append(Finding(name, version, str(advisory.get("id")), also, fixed or "none yet", summary))
    if not count:
        raise InputError(
            f"{saved} holds no advisory for PyPI. Cure: one in OSV's format: see `everest ops advisories --help`."
        )
    return sorted(set(findings), key=lambda f: (f.package, f.advisory)), count


def affected(version: str, entry: Mapping[str, object]) -> bool:
    """Whether one `affected` entry of an advisory names the version, by its list or by one of its ranges."""
    if version in _list(entry, "versions"):
        return True
    at = _version(version)
    if at is None:
        return False
    if at.public in _list(entry, "versions"):  # 2.15.0+cu132 is 2.15.0
        return True
    for span in _entries(entry, "ranges"):
        if span.get("type") != "ECOSYSTEM":
            continue
        inside = False
        for kind, value in sorted(
            ((kind, str(value)) for event in _entries(span, "events") for kind, value in event.items()),
            key=lambda pair: (_version(pair[1]) or Version("0"), pair[0] != "introduced"),
        ):
            limit = Version("0.dev0") if value == "0" else _version(value)
            if limit is None:
                continue
            if kind == "introduced" and at >= limit:
                inside = True
            elif (kind == "fixed" and at >= limit) or (kind == "last_affected" and at > limit):
                inside = False
        if inside:
            return True
    return False


def _advisories(saved: Path) -> Iterator[Mapping[str, object]]:
    try:
        if saved.is_dir():
            texts = [path.read_bytes() for path in sorted(saved.rglob("*.json"))]
        elif zipfile.is_zipfile(saved):
            with zipfile.ZipFile(saved) as archive:
                texts = [archive.read(name) for name in archive.namelist() if name.endswith(".json")]
        else:
            texts = [saved.read_bytes()]
        documents = [json.loads(text) for text in texts]
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{saved}: {error}. Cure: advisories in OSV's format, as JSON, a folder or a ZIP of it."
        ) from None
    for document in documents:
        if isinstance(document, dict):
            document = document.get("vulns", [document])
        yield from (entry for entry in document if isinstance(entry, dict))


def _list(record: Mapping[str, object], key: str) -> list[object]:
    value = record.get(key)
    return value if isinstance(value, list) else []


def _entries(record: Mapping[str, object], key: str) -> list[dict[str, object]]:
    return [entry for entry in _list(record, key) if isinstance(entry, dict)]


def _events(entry: Mapping[str, object]) -> list[dict[str, object]]:
    return [event for span in _entries(entry, "ranges") for event in _entries(span, "events")]


def _package(entry: Mapping[str, object]) -> tuple[str, str]:
    package = entry.get("package")
    found = package if isinstance(package, dict) else {}
    return str(found.get("ecosystem", "")), str(found.get("name", ""))


def _version(text: str) -> Version | None:
    try:
        return Version(text)
    except InvalidVersion:
        return None
