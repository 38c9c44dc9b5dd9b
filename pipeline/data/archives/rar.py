"""Rar through the tools of the system: `unar` reads what `bsdtar` does not, and the other way round.

The archive's own headers are read first: what they list is refused by the rules for every archive, and what a tool
leaves must be that, by number, sizes and checksums, whatever its exit code says. Each tool works in an empty folder
of its own and is watched while it writes.
"""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import tempfile
import zlib
from collections import Counter
from pathlib import Path

from pipeline.data.archives.rar_headers import RarEntry, entries
from pipeline.data.archives.rules import SET_ID, HostileArchive, Meter, checked_path, kind_of
from pipeline.errors import InputError
from pipeline.system.processes import follow_parent

#: Tool -> Debian package, and its arguments; the archive and the folder are inserted as whole arguments.
TOOLS: dict[str, tuple[str, list[str]]] = {
    "unar": (
        "unar",
        ["-quiet", "-force-overwrite", "-no-directory", "-output-directory", "{folder}", "{archive}"],
    ),
    "bsdtar": (
        "libarchive-tools",
        ["--no-same-owner", "--no-same-permissions", "-x", "-f", "{archive}", "-C", "{folder}"],
    ),
}
WATCH_SECONDS = 0.5


def available_tools() -> list[str]:
    """The rar tools of this machine, in the order in which they are tried."""
    return [tool for tool in TOOLS if shutil.which(tool)]


def unrar(archive: Path, folder: Path, meter: Meter) -> None:
    """Unpack a rar into the empty `folder`, and the rars in it into the folders that hold them.

    Raises:
        InputError: no tool is installed, or none reads it wholly.
        HostileArchive: it holds links, devices or set-id files, leaves its folder, or exceeds the caps.
    """
    _unrar(archive, folder, meter)
    inner = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix.lower() == ".rar"]
    for path in inner:
        if kind_of(path) == "rar":
            # Beside its own name, which a folder in it may bear.
            target = Path(tempfile.mkdtemp(dir=path.parent, prefix=".inner."))
            _unrar(path, target, meter)
            path.unlink()
            for entry in target.iterdir():
                _merge(entry, path.parent / entry.name, path.name)
            target.rmdir()


def _unrar(archive: Path, folder: Path, meter: Meter) -> None:
    """Try one tool, then the other; the first that leaves exactly what the headers list has done it."""
    tools = available_tools()
    if not tools:
        packages = " ".join(package for package, _ in TOOLS.values())
        raise InputError(f"{archive.name} is a rar archive and no tool reads it. Cure: sudo apt-get install {packages}")
    listed = _checked_entries(archive, folder, meter)
    failures = []
    for tool in tools:
        attempt = Path(tempfile.mkdtemp(dir=folder, prefix=f".{tool}."))
        try:
            failed = _run(tool, archive, attempt, meter)
            _inspect(attempt, archive)
            problem = ", ".join(filter(None, (_difference(attempt, listed), failed)))
            if not problem:
                for entry in attempt.iterdir():
                    shutil.move(entry, folder / entry.name)
                return
            failures.append(f"{tool}: {problem}")
        finally:
            shutil.rmtree(attempt, ignore_errors=True)
    missing = [package for tool, (package, _) in TOOLS.items() if tool not in tools]
    more = f" Cure: sudo apt-get install {' '.join(missing)}" if missing else " Cure: fetch it again."
    raise InputError(f"{archive.name} cannot be unpacked: {'; '.join(failures)}.{more}")


def _checked_entries(archive: Path, folder: Path, meter: Meter) -> list[RarEntry]:
    """The files that the headers list, after the rules and caps."""
    listed = entries(archive)
    meter.entry(len(listed))
    for entry in listed:
        checked_path(folder, entry.name, archive.name, plain=entry.plain, mode=entry.mode)
        meter.grow(entry.bytes or 0)
    files = [entry for entry in listed if not entry.folder]
    if not files:
        raise InputError(f"{archive.name} holds no file. Cure: fetch it again.")
    return files


def _difference(folder: Path, listed: list[RarEntry]) -> str:
    """How what came out differs from what the headers list, or "". Names may be spelt differently by a tool."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    if len(paths) != len(listed):
        return f"{len(paths)} of {len(listed)} files came out"
    by_sum = all(entry.crc32 is not None for entry in listed)
    wanted = Counter((entry.bytes, entry.crc32 if by_sum else None) for entry in listed)
    present: Counter[tuple[int | None, int | None]] = Counter(
        (path.stat().st_size, _crc32(path) if by_sum else None) for path in paths
    )
    wrong = present - wanted
    return f"{wrong.total()} of {len(listed)} files came out damaged" if wrong else ""


def _crc32(path: Path) -> int:
    value = 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            value = zlib.crc32(block, value)
    return value


def _merge(source: Path, target: Path, archive: str) -> None:
    """Move a file or folder to its place; a folder that is there already takes up the other's entries."""
    if source.is_dir() and target.is_dir():
        for entry in source.iterdir():
            _merge(entry, target / entry.name, archive)
        source.rmdir()
    elif target.exists():
        raise HostileArchive(f"{archive}: {target.name!r} occurs twice. Cure: do not use this archive.")
    else:
        shutil.move(source, target)


def _run(tool: str, archive: Path, folder: Path, meter: Meter) -> str:
    """Run one tool; returns what went wrong, or ""."""
    with tempfile.TemporaryDirectory() as alone, tempfile.TemporaryFile() as output:
        # Under a name of its own: unar takes files with similar names (1.rar, 2.rar) for volumes of one archive.
        link = Path(alone) / "archive.rar"
        link.symlink_to(archive.absolute())
        values = {"{archive}": os.fspath(link), "{folder}": os.fspath(folder.absolute())}
        command = [tool, *(values.get(argument, argument) for argument in TOOLS[tool][1])]
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=os.environ | {"LC_ALL": "C.UTF-8"},  # or bsdtar writes no name beyond ASCII
            preexec_fn=follow_parent(signal.SIGKILL),
        )
        try:
            while True:
                try:
                    code = process.wait(WATCH_SECONDS)
                    break
                except subprocess.TimeoutExpired:
                    _watch(folder, archive.name, meter.limit)
            _watch(folder, archive.name, meter.limit)
        finally:
            process.kill()
            process.wait()
        output.seek(0)
        last = output.read()[-300:].decode(errors="replace").strip()
    return f"exit code {code}: {' '.join(last.split())}" if code else ""


def _watch(folder: Path, name: str, limit: int) -> None:
    total = 0
    for parent, _, names in os.walk(folder):
        for entry in names:
            total += os.lstat(os.path.join(parent, entry)).st_size  # noqa: PTH118 - many thousand files
    if total > limit:
        raise HostileArchive(f"{name} unpacks to more than {limit / 2**20:.0f} MiB. Cure: do not use this archive.")


def _inspect(folder: Path, archive: Path) -> None:
    """Refuse everything that is neither a plain file nor a folder, whatever the headers said.

    What comes out may be read by whoever may read the archive, not by whom a header names.
    """
    name = archive.name
    readable = (stat.S_IMODE(archive.stat().st_mode) & 0o666) | 0o600
    for parent, folders, names in os.walk(folder):
        for entry in [*folders, *names]:
            path = os.path.join(parent, entry)  # noqa: PTH118 - names may be undecodable
            mode = os.lstat(path).st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                raise HostileArchive(f"{name}: {entry!r} is a link, device or pipe. Cure: do not use this archive.")
            if stat.S_ISREG(mode) and mode & SET_ID:
                raise HostileArchive(f"{name}: {entry!r} sets a user or group id. Cure: do not use this archive.")
            os.chmod(path, readable | ((readable & 0o444) >> 2 if stat.S_ISDIR(mode) else 0))  # noqa: PTH101
