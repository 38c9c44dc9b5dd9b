"""Rar through the tools of the system: `unar` reads what `bsdtar` does not, and the other way round.

Each tool works in an empty folder of its own, is watched while it writes, and what it left is inspected
before use.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path

from pipeline.data.archives import SET_ID, Caps, HostileArchive, kind_of
from pipeline.errors import InputError

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


def unrar(archive: Path, folder: Path, caps: Caps, limit: int) -> int:
    """Unpack a rar, and the rars in it, into `folder`; returns the number of files.

    Raises:
        InputError: no tool is installed, or none reads it wholly.
        HostileArchive: it holds links, devices or set-id files, or more than the caps allow.
    """
    tools = available_tools()
    if not tools:
        packages = " ".join(package for package, _ in TOOLS.values())
        raise InputError(f"{archive.name} is a rar archive and no tool reads it. Cure: sudo apt-get install {packages}")
    failures = []
    for tool in tools:
        attempt = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{tool}."))
        try:
            problem = _run(tool, archive, attempt, limit)
            count = _inspect(attempt, archive.name, caps)
            if problem or not count:
                failures.append(f"{tool}: {problem or 'nothing came out'}")
                continue
            _unpack_inner(attempt, caps, limit)
            for entry in attempt.iterdir():
                entry.rename(folder / entry.name)
            return count
        finally:
            shutil.rmtree(attempt, ignore_errors=True)
    missing = [package for tool, (package, _) in TOOLS.items() if tool not in tools]
    more = f" Cure: sudo apt-get install {' '.join(missing)}" if missing else " Cure: fetch it again."
    raise InputError(f"{archive.name} cannot be unpacked: {'; '.join(failures)}.{more}")


def _unpack_inner(folder: Path, caps: Caps, limit: int) -> None:
    """Rars within: each into the folder that holds it, and removed."""
    inner = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix.lower() == ".rar"]
    for path in inner:
        if kind_of(path) == "rar":
            unrar(path, path.parent, caps, limit)
            path.unlink()


def _run(tool: str, archive: Path, folder: Path, limit: int) -> str:
    """Run one tool; returns what went wrong, or ""."""
    values = {"{archive}": os.fspath(archive.absolute()), "{folder}": os.fspath(folder.absolute())}
    command = [tool, *(values.get(argument, argument) for argument in TOOLS[tool][1])]
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        try:
            while True:
                try:
                    code = process.wait(WATCH_SECONDS)
                    break
                except subprocess.TimeoutExpired:
                    _watch(folder, archive.name, limit)
            _watch(folder, archive.name, limit)
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


def _inspect(folder: Path, name: str, caps: Caps) -> int:
    """Count files; refuse everything that is neither a plain file nor a folder."""
    count = 0
    for parent, folders, names in os.walk(folder):
        for entry in [*folders, *names]:
            mode = os.lstat(os.path.join(parent, entry)).st_mode  # noqa: PTH118
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                raise HostileArchive(f"{name}: {entry!r} is a link, device or pipe. Cure: do not use this archive.")
            if stat.S_ISREG(mode) and mode & SET_ID:
                raise HostileArchive(f"{name}: {entry!r} sets a user or group id. Cure: do not use this archive.")
        count += len(names)
        if count > caps.entries:
            raise HostileArchive(f"{name} holds more than {caps.entries} entries. Cure: do not use this archive.")
    return count
